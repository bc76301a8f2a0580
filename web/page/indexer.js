// Encodes new and changed photos in the background, with pause, resume and stop.

import { words } from "./dom.js";

/**
 * @typedef {import("./folder.js").Found} Found
 * @typedef {import("./lib/mmgem.js").LibraryPhoto} LibraryPhoto
 * @typedef {{ done: number, total: number, perSecond: number, paused: boolean,
 *   failed: { path: string, why: string }[] }} Progress
 */

/** Number of recent photos for the rate. */
const WINDOW = 30;

/** Events: `progress` (detail: Progress), `added` (detail: LibraryPhoto), `stopped` (detail: words or ""). */
export class Indexer extends EventTarget {
  #loader;
  /** @type {Found[]} */
  #queue = [];
  /** @type {{ path: string, why: string }[]} */
  failed = [];
  #done = 0;
  #total = 0;
  #running = false;
  #paused = false;
  #abort = new AbortController();
  /** Times of the last photos. @type {number[]} */
  #times = [];

  /** @param {import("./loader.js").Loader} loader */
  constructor(loader) {
    super();
    this.#loader = loader;
  }

  get running() {
    return this.#running;
  }

  /** @param {readonly Found[]} photos those that are not in the library yet */
  add(photos) {
    if (!this.#running) {
      [this.#done, this.#total, this.failed] = [0, 0, []];
      this.#abort = new AbortController();
    }
    const waiting = new Set(this.#queue.map((photo) => photo.path));
    const fresh = photos.filter((photo) => !waiting.has(photo.path));
    this.#queue.push(...fresh);
    this.#total += fresh.length;
    if (!this.#running && this.#queue.length) this.#run();
  }

  pause() {
    this.#paused = true;
    this.#tell();
  }

  resume() {
    this.#paused = false;
    this.#times = [];
    this.#tell();
    if (!this.#running && this.#queue.length) this.#run();
  }

  get paused() {
    return this.#paused;
  }

  stop() {
    this.#queue = [];
    this.#abort.abort();
    this.#paused = false;
  }

  async #run() {
    this.#running = true;
    this.#times = [performance.now()];
    let why = "";
    while (this.#queue.length && !this.#paused) {
      const photo = this.#queue[0];
      try {
        const model = await this.#loader.ready();
        const added = await model.library.add(photo.path, photo.file, { signal: this.#abort.signal });
        this.dispatchEvent(new CustomEvent("added", { detail: added }));
      } catch (error) {
        const kind = /** @type {any} */ (error).kind;
        if (this.#abort.signal.aborted) break;
        if (/** @type {Error} */ (error).name === "AbortError") continue; // another model was opened
        if (/** @type {Error} */ (error).name === "QuotaExceededError" || !this.#loader.model) {
          why = words(error);
          this.#paused = true;
          break;
        }
        this.failed.push({ path: photo.path, why: kind === "crashed" ? "the model broke down on it" : words(error) });
      }
      this.#queue.shift();
      this.#done += 1;
      this.#times.push(performance.now());
      if (this.#times.length > WINDOW) this.#times.shift();
      this.#tell();
    }
    this.#running = false;
    this.#tell();
    if (!this.#queue.length || why) this.dispatchEvent(new CustomEvent("stopped", { detail: why }));
  }

  #tell() {
    const span = this.#times.length > 1 ? this.#times[this.#times.length - 1] - this.#times[0] : 0;
    /** @type {Progress} */
    const detail = {
      done: this.#done,
      total: this.#total,
      perSecond: span ? ((this.#times.length - 1) / span) * 1000 : 0,
      paused: this.#paused,
      failed: this.failed,
    };
    this.dispatchEvent(new CustomEvent("progress", { detail }));
  }
}
