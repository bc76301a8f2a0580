// The library in the worker: vectors in the model's index for searches, rows in IndexedDB for the next visit.

import { deleteAll, deleteRows, readRows, writeRows } from "./database.js";
import { Trouble } from "./model-files.js";

/**
 * @typedef {typeof import("./cpu/mmgem_web.js")} Wasm
 * @typedef {import("./mmgem.js").LibraryPhoto} LibraryPhoto
 */

const THUMBNAIL_PX = 320;
const THUMBNAIL_TYPE = "image/webp";

export class Store {
  #model;
  #photos;
  /** @type {import("./cpu/mmgem_web.js").Library} */
  #index;
  #fingerprint;
  /** The rows of IndexedDB go into the index when it is first asked for. @type {Promise<void> | null} */
  #read = null;

  /** @param {Wasm} wasm @param {import("./cpu/mmgem_web.js").Model} model @param {import("./photos.js").Photos} photos */
  constructor(wasm, model, photos) {
    this.#model = model;
    this.#photos = photos;
    this.#index = new wasm.Library(model);
    this.#fingerprint = model.fingerprint;
  }

  #filled() {
    this.#read ??= readRows(this.#fingerprint).then((rows) => {
      for (const { vectors } of rows) this.#index.add(vectors);
    });
    return this.#read;
  }

  /** @returns {Promise<LibraryPhoto[]>} */
  async list() {
    await this.#filled();
    return JSON.parse(this.#index.list());
  }

  /** @param {string} path @param {Blob} file @returns {Promise<LibraryPhoto>} */
  async add(path, file) {
    await this.#filled();
    // Meanwhile the browser makes the thumbnail on another thread.
    const thumbnail = makeThumbnail(file);
    const image = await this.#photos.encode(file);
    const photo = {
      path,
      sizeBytes: file.size,
      modifiedMs: file instanceof File ? file.lastModified : 0,
      width: image.width,
      height: image.height,
    };
    try {
      const vectors = await this.#model.indexEntry(image, path, photo.sizeBytes, photo.modifiedMs);
      const picture = await thumbnail;
      await writeRows([{ ...photo, model: this.#fingerprint, vectors }], new Map(picture ? [[path, picture]] : []));
      this.#index.add(vectors);
    } finally {
      image.free();
    }
    return photo;
  }

  /** @param {readonly string[]} paths */
  async remove(paths) {
    await this.#filled();
    await deleteRows(this.#fingerprint, paths);
    this.#index.remove([...paths]);
  }

  async clear() {
    await deleteAll(this.#fingerprint);
    this.#index.clear();
    this.#read = Promise.resolve();
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
    const bytes = new Uint8Array(await file.arrayBuffer());
    const entries = this.#index.entries(bytes);
    /** @type {import("./database.js").Row[]} */
    const rows = JSON.parse(entries.list()).map((/** @type {LibraryPhoto} */ photo, /** @type {number} */ i) => ({
      ...photo,
      model: this.#fingerprint,
      vectors: entries.entry(i),
    }));
    entries.free();
    if (!rows.length) throw new Trouble("input", "the index file has no photos");
    await writeRows(rows);
    for (const { vectors } of rows) this.#index.add(vectors);
    return rows.length;
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
