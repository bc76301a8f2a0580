// The library in the worker: vectors in the model's index for searches, rows in IndexedDB for the next visit.
//
// A photo is recognised by name, size and date, else by SHA-256. Each change is broadcast to the workers of other
// tabs.

import {
  deleteAll, deleteRows, readPictured, readRow, readRows, readThumbnail, writeRows,
} from "./database.js";
import { factsOf, modifiedOf } from "./facts.js";
import { readFile, sha256, Trouble } from "./model-files.js";

/**
 * @typedef {typeof import("./cpu/mmgem_web.js")} Wasm
 * @typedef {import("./mmgem.js").LibraryPhoto} LibraryPhoto
 * @typedef {import("./database.js").Row} Row
 * @typedef {{ added?: string[], removed?: string[], cleared?: boolean }} Change
 * @typedef {{ paths: string[], rows: Row[], pictures: Map<string, Blob> }} Removed
 */

const THUMBNAIL_PX = 320;
const THUMBNAIL_TYPE = "image/webp";
/** Broadcasts each change to the workers of other tabs. */
const CHANNEL = "mmgem-library";

export class Store {
  #model;
  #photos;
  /** @type {import("./cpu/mmgem_web.js").Library} */
  #index;
  #fingerprint;
  /** The photos by path, without their vectors. @type {Map<string, LibraryPhoto>} */
  #rows = new Map();
  /** Paths by name, size and date. @type {Map<string, string>} */
  #byFacts = new Map();
  /** Paths by the hash of the file. @type {Map<string, string>} */
  #byHash = new Map();
  /** The rows of IndexedDB go into the index when it is first asked for. @type {Promise<void> | null} */
  #read = null;
  /** @type {BroadcastChannel | null} */
  #channel = null;

  /**
   * @param {Wasm} wasm @param {import("./cpu/mmgem_web.js").Model} model
   * @param {import("./photos.js").Photos} photos @param {() => void} onChange called after a change by another tab
   */
  constructor(wasm, model, photos, onChange) {
    this.#model = model;
    this.#photos = photos;
    this.#index = new wasm.Library(model);
    this.#fingerprint = model.fingerprint;
    this.#listen(onChange);
  }

  /** @param {() => void} onChange */
  #listen(onChange) {
    try {
      this.#channel = new BroadcastChannel(CHANNEL);
    } catch {
      return; // site data is blocked: tabs share nothing
    }
    this.#channel.onmessage = ({ data }) => {
      if (data.model !== this.#fingerprint) return;
      // A library that is read later includes the change.
      this.#read = this.#read && this.#read.then(() => this.#follow(data));
      (this.#read ?? Promise.resolve()).then(onChange, () => undefined);
    };
  }

  #filled() {
    this.#read ??= this.#fill().catch((error) => {
      this.#read = null; // the next request tries again
      throw error;
    });
    return this.#read;
  }

  async #fill() {
    const pictured = await readPictured(this.#fingerprint);
    for (const row of await readRows(this.#fingerprint)) this.#remember(row, pictured.has(row.path));
  }

  /** @param {Row} row @param {boolean} hasPicture */
  #remember(row, hasPicture) {
    const { model: _, vectors, hash, ...photo } = row;
    this.#forget(row.path);
    this.#index.add(vectors);
    const imported = hash === undefined && !hasPicture;
    this.#rows.set(row.path, { ...photo, imported });
    this.#byFacts.set(factsOf(row), row.path);
    if (hash) this.#byHash.set(hash, row.path);
  }

  /** @param {string} path */
  #forget(path) {
    if (!this.#rows.delete(path)) return;
    for (const map of [this.#byFacts, this.#byHash]) {
      for (const [key, known] of map) if (known === path) map.delete(key);
    }
  }

  #forgetAll() {
    this.#index.clear();
    for (const map of [this.#rows, this.#byFacts, this.#byHash]) map.clear();
  }

  /** Tells other tabs. @param {Change} change */
  #tell(change) {
    this.#channel?.postMessage({ model: this.#fingerprint, ...change });
  }

  /** Applies a change of another tab. @param {Change} change */
  async #follow({ added = [], removed = [], cleared = false }) {
    if (cleared) this.#forgetAll();
    for (const path of removed) this.#forget(path);
    if (removed.length) this.#index.remove(removed);
    const pictured = added.length ? await readPictured(this.#fingerprint) : new Set();
    for (const path of added) {
      const row = await readRow(this.#fingerprint, path);
      if (row) this.#remember(row, pictured.has(path));
    }
  }

  /** @returns {Promise<LibraryPhoto[]>} */
  async list() {
    await this.#filled();
    return [...this.#rows.values()].sort((a, b) => (a.path < b.path ? -1 : 1));
  }

  /** @param {string} path */
  thumbnail(path) {
    return readThumbnail(this.#fingerprint, path);
  }

  /**
   * @param {string} path @param {Blob} file @param {{ replace?: boolean, move?: boolean }} how
   * @returns {Promise<LibraryPhoto>}
   */
  async add(path, file, { replace = false, move = false }) {
    await this.#filled();
    const modifiedMs = modifiedOf(file);
    const bytes = await readFile(file);
    const same = factsOf({ path, sizeBytes: file.size, modifiedMs });
    const hash = (await sha256(bytes)) ?? same;
    const known = this.#byFacts.get(same) ?? this.#byHash.get(hash);
    if (known !== undefined) return this.#recognise(known, path, file, hash, move);
    if (!replace) path = this.#freePath(path);

    // Meanwhile the browser makes the thumbnail on another thread.
    const thumbnail = makeThumbnail(file);
    const image = await this.#photos.encodeBytes(bytes, file);
    const photo = { path, sizeBytes: file.size, modifiedMs, width: image.width, height: image.height };
    try {
      const vectors = await this.#model.indexEntry(image, path, photo.sizeBytes, photo.modifiedMs);
      await this.#keep({ ...photo, model: this.#fingerprint, vectors, hash }, await thumbnail);
    } finally {
      image.free();
    }
    return /** @type {LibraryPhoto} */ (this.#rows.get(path));
  }

  /** @param {Row} row @param {Blob | null} picture */
  async #keep(row, picture) {
    await writeRows([row], new Map(picture ? [[row.path, picture]] : []));
    this.#remember(row, picture !== null);
    this.#tell({ added: [row.path] });
  }

  /**
   * Handles the file of a photo that the library has: adds the thumbnail and hash that an index file lacks.
   * @param {string} known @param {string} path @param {Blob} file @param {string} hash @param {boolean} move
   * @returns {Promise<LibraryPhoto>}
   */
  async #recognise(known, path, file, hash, move) {
    const photo = /** @type {LibraryPhoto} */ (this.#rows.get(known));
    const isMoved = known !== path && !this.#rows.has(path) && (move || (photo.imported && path.includes("/")));
    if (!photo.imported && !isMoved) return photo;
    const row = await readRow(this.#fingerprint, known);
    if (!row) return photo;
    const picture = await makeThumbnail(file);
    if (!isMoved) {
      await this.#keep({ ...row, hash }, picture);
    } else {
      const vectors = this.#index.rename(known, path);
      this.#forget(known);
      await this.#keep({ ...row, path, vectors, hash }, picture);
      await deleteRows(this.#fingerprint, [known]);
      this.#tell({ removed: [known] });
    }
    return /** @type {LibraryPhoto} */ (this.#rows.get(isMoved ? path : known));
  }

  /** Returns the path, or `name (2).jpg` if another photo has it. @param {string} path */
  #freePath(path) {
    const [, stem, ending] = /** @type {string[]} */ (/^(.*?)(\.[^./]*)?$/s.exec(path));
    let free = path;
    for (let n = 2; this.#rows.has(free); n += 1) free = `${stem} (${n})${ending ?? ""}`;
    return free;
  }

  /** @param {readonly string[]} paths @returns {Promise<Removed>} */
  async remove(paths) {
    await this.#filled();
    /** @type {Removed} */
    const removed = { paths: [], rows: [], pictures: new Map() };
    for (const path of paths) {
      const row = await readRow(this.#fingerprint, path);
      if (!row) continue;
      removed.paths.push(path);
      removed.rows.push(row);
      const picture = await this.thumbnail(path);
      if (picture) removed.pictures.set(path, picture);
    }
    await deleteRows(this.#fingerprint, paths);
    this.#index.remove([...paths]);
    for (const path of paths) this.#forget(path);
    this.#tell({ removed: [...paths] });
    return removed;
  }

  /** @param {Removed} removed */
  async restore({ rows, pictures }) {
    await this.#filled();
    if (rows.some((row) => row.model !== this.#fingerprint)) {
      throw new Trouble("input", "these photos were encoded by another model; open that model to bring them back");
    }
    const isHere = (/** @type {Row} */ row) =>
      this.#rows.has(row.path) || this.#byFacts.has(factsOf(row)) || this.#byHash.has(row.hash ?? "");
    const missing = rows.filter((row) => !isHere(row));
    await writeRows(missing, pictures);
    for (const row of missing) this.#remember(row, pictures.has(row.path));
    this.#tell({ added: missing.map((row) => row.path) });
  }

  async clear() {
    await deleteAll(this.#fingerprint);
    this.#forgetAll();
    this.#read = Promise.resolve();
    this.#tell({ cleared: true });
  }

  /** @param {Float32Array} embed @param {number} limit @returns {Promise<import("./mmgem.js").PhotoHit[]>} */
  async search(embed, limit) {
    await this.#filled();
    return JSON.parse(this.#index.search(embed, limit));
  }

  /** @returns {Promise<Blob>} */
  async exportFile() {
    await this.#filled();
    return new Blob([/** @type {Uint8Array<ArrayBuffer>} */ (this.#index.file())]);
  }

  /** @param {Blob} file */
  async importFile(file) {
    await this.#filled();
    const bytes = await readFile(file);
    const entries = this.#index.entries(bytes);
    const listed = /** @type {LibraryPhoto[]} */ (JSON.parse(entries.list()));
    /** @type {Row[]} */
    const rows = [];
    for (const [i, photo] of listed.entries()) {
      // A known photo keeps its thumbnail, even if its path differs in the index file.
      const isKnown = this.#byFacts.has(factsOf(photo));
      if (isKnown || this.#rows.get(photo.path)?.imported === false) continue;
      rows.push({ ...photo, model: this.#fingerprint, vectors: entries.entry(i) });
    }
    entries.free();
    if (!listed.length) throw new Trouble("input", "the index file has no photos");
    await writeRows(rows);
    for (const row of rows) this.#remember(row, false);
    this.#tell({ added: rows.map((row) => row.path) });
    return listed.length;
  }
}

/** A thumbnail for the grid, or null if the browser cannot decode the photo. @param {Blob} file */
async function makeThumbnail(file) {
  try {
    const bitmap = await createImageBitmap(file, { resizeWidth: THUMBNAIL_PX, resizeQuality: "medium" });
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
    canvas.getContext("bitmaprenderer")?.transferFromImageBitmap(bitmap);
    return await canvas.convertToBlob({ type: THUMBNAIL_TYPE, quality: 0.8 });
  } catch {
    return null;
  }
}
