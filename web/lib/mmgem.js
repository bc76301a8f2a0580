// MM-GEM for pages: see mmgem.d.ts.

import { Engine, MmgemError } from "./engine.js";
import { CACHE, keptModels } from "./model-files.js";
import { isKept, readThumbnail } from "./database.js";

/** @import * as Api from "./mmgem.js" */

export { MmgemError };

/** @type {typeof Api.loadModel} */
export async function loadModel(source, options = {}) {
  const engine = new Engine(source, options);
  try {
    const { fingerprint } = await engine.ready;
    return new Model(engine, fingerprint);
  } catch (error) {
    engine.close();
    throw error;
  }
}

/** @type {typeof Api.forgetModels} */
export async function forgetModels() {
  await caches.delete(CACHE);
}

export { keptModels };

let lastKey = 0;

/** @implements {Api.Photo} */
class Photo {
  width = 0;
  height = 0;
  /** @type {string | null} */
  problem = null;
  #engine;
  #file;
  #key = ++lastKey;
  #generation = -1;
  /** @type {Promise<void>} */
  #opened = Promise.resolve();

  /** @param {Engine} engine @param {Blob} file */
  constructor(engine, file) {
    this.#engine = engine;
    this.#file = file;
  }

  /** Opens the photo in the worker if needed, and returns its key. @param {AbortSignal} [signal] */
  async key(signal) {
    if (this.#generation !== this.#engine.generation) {
      this.#generation = this.#engine.generation;
      this.#opened = this.#open(signal).catch((error) => {
        this.#generation = -1;
        throw error;
      });
    }
    await this.#opened;
    return this.#key;
  }

  /** @param {AbortSignal} [signal] */
  async #open(signal) {
    const args = { key: this.#key, file: this.#file };
    const { width, height, problem } = await this.#engine.request("openPhoto", args, { signal });
    this.width = width;
    this.height = height;
    this.problem = problem ?? null;
  }

  close() {
    this.#engine.request("closePhoto", { key: this.#key }).catch(() => undefined);
    this.#generation = -1;
  }
}

/** @implements {Api.Model} */
class Model {
  #engine;

  /** @param {Engine} engine @param {string} fingerprint */
  constructor(engine, fingerprint) {
    this.#engine = engine;
    this.library = new Library(engine, fingerprint);
  }

  get info() {
    return /** @type {Api.ModelInfo} */ (this.#engine.info); // not null: set before the model is made
  }

  /** @type {Api.Model["openPhoto"]} */
  async openPhoto(file, { signal } = {}) {
    const photo = new Photo(this.#engine, file);
    await this.#engine.repeat(() => photo.key(signal));
    return photo;
  }

  /** @type {Api.Model["embedText"]} */
  embedText(text, how = {}) {
    return this.#engine.repeat(() => this.#engine.request("embedText", { text }, how));
  }

  /** @type {Api.Model["embedImage"]} */
  embedImage(photo, box = null, how = {}) {
    return this.#about(photo, "embedImage", { box }, how);
  }

  /** @param {Api.Photo} photo @param {string} op @param {object} args @param {import("./engine.js").How} how */
  #about(photo, op, args, how) {
    return this.#engine.repeat(async () => {
      const key = await keyOf(photo);
      return this.#engine.request(op, { key, ...args }, how);
    });
  }

  /** @type {Api.Model["captionRegion"]} */
  captionRegion(photo, box = null, { signal, maxTokens = 32 } = {}) {
    return new CaptionStream((onEvent, stop) => {
      const either = signal ? AbortSignal.any([signal, stop]) : stop;
      return this.#about(photo, "caption", { box, maxTokens }, { signal: either, onEvent });
    });
  }

  /** @type {Api.Model["localize"]} */
  async localize(photo, query, how = {}) {
    const embed = typeof query === "string" ? await this.embedText(query, how) : query;
    return this.#about(photo, "localize", { embed }, how);
  }

  /** @type {Api.Model["boxesAt"]} */
  boxesAt(photo, x, y, how = {}) {
    return this.#about(photo, "boxesAt", { x, y }, how);
  }

  /** @type {Api.Model["searchPhotos"]} */
  async searchPhotos(query, { limit = 100, ...how } = {}) {
    const embed = await this.#embedQuery(query, how);
    return this.#engine.repeat(() => this.#engine.request("search", { embed, limit }, how));
  }

  /** @type {Api.Model["similarRegions"]} */
  async similarRegions(photo, box, { limit = 100, ...how } = {}) {
    const embed = await this.embedImage(photo, box, how);
    return this.#engine.repeat(() => this.#engine.request("search", { embed, limit }, how));
  }

  /** @param {string | Float32Array | Api.Photo} query @param {{ signal?: AbortSignal }} how */
  #embedQuery(query, how) {
    if (typeof query === "string") return this.embedText(query, how);
    return query instanceof Float32Array ? query : this.embedImage(query, null, how);
  }

  memory() {
    return this.#engine.request("memory", {});
  }

  close() {
    this.#engine.close();
  }
}

/** @implements {Api.Library} */
class Library {
  #engine;
  #fingerprint;

  /** @param {Engine} engine @param {string} fingerprint */
  constructor(engine, fingerprint) {
    this.#engine = engine;
    this.#fingerprint = fingerprint;
  }

  list() {
    return this.#engine.repeat(() => this.#engine.request("list", {}));
  }

  /** @type {Api.Library["add"]} */
  add(path, file, { signal, ...how } = {}) {
    const request = () => this.#engine.request("add", { path, file, how }, { signal, background: true });
    return this.#engine.repeat(request);
  }

  /** @type {Api.Library["remove"]} */
  remove(paths) {
    return this.#engine.repeat(() => this.#engine.request("remove", { paths }));
  }

  /** @type {Api.Library["restore"]} */
  restore(removed) {
    return this.#engine.repeat(() => this.#engine.request("restore", { removed }));
  }

  clear() {
    return this.#engine.repeat(() => this.#engine.request("clear", {}));
  }

  /** Reads the browser's storage directly, so that pictures appear while the worker is busy. @param {string} path */
  async thumbnail(path) {
    if (await isKept()) return readThumbnail(this.#fingerprint, path);
    return this.#engine.request("thumbnail", { path });
  }

  isKept() {
    return isKept();
  }

  exportFile() {
    return this.#engine.repeat(() => this.#engine.request("exportFile", {}));
  }

  /** @param {Blob} file */
  importFile(file) {
    return this.#engine.repeat(() => this.#engine.request("importFile", { file }));
  }
}

/** @implements {Api.CaptionStream} */
class CaptionStream {
  /** @type {string[]} */
  #pieces = [];
  #text = "";
  #over = false;
  #tokens = 0;
  /** Times of the first and the last token. */
  #times = [0, 0];
  #wake = () => {};
  #stop = new AbortController();

  /** @param {(onEvent: (caption: { text: string }) => void, stop: AbortSignal) => Promise<Api.Caption>} run */
  constructor(run) {
    this.result = run(({ text }) => this.#take(text), this.#stop.signal).finally(() => {
      this.#over = true;
      this.#wake();
    });
    this.result.catch(() => undefined); // the iterator throws the error, and so does awaiting `result`
  }

  /** @param {string} text so far; a character of several bytes may still change at its end */
  #take(text) {
    this.#times = [this.#tokens ? this.#times[0] : performance.now(), performance.now()];
    this.#tokens += 1;
    const whole = text.replace(/\ufffd+$/, "");
    if (whole.length <= this.#text.length) return;
    this.#pieces.push(whole.slice(this.#text.length));
    this.#text = whole;
    this.#wake();
  }

  get tokensPerSecond() {
    const [first, last] = this.#times;
    return last > first ? ((this.#tokens - 1) / (last - first)) * 1000 : 0;
  }

  async *[Symbol.asyncIterator]() {
    try {
      for (;;) {
        while (this.#pieces.length) yield /** @type {string} */ (this.#pieces.shift());
        if (this.#over) break;
        await new Promise((resolve) => (this.#wake = () => resolve(undefined)));
      }
      await this.result;
    } finally {
      this.#stop.abort(new DOMException("nobody reads the caption", "AbortError"));
    }
  }
}

/** @param {Api.Photo} photo */
function keyOf(photo) {
  if (photo instanceof Photo) return photo.key();
  throw new MmgemError("input", "this is no photo of the model; get one by openPhoto");
}
