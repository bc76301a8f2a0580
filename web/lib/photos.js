// The open photos of the worker, and the decoding of files.

import { readFile, Trouble } from "./model-files.js";

/** @typedef {import("./cpu/mmgem_web.js").Model} WasmModel @typedef {import("./cpu/mmgem_web.js").Image} WasmImage */

export class Photos {
  /** @type {Map<number, WasmImage>} */
  #open = new Map();
  #model;

  /** @param {WasmModel} model */
  constructor(model) {
    this.#model = model;
  }

  /** @param {number} key @param {Blob} file */
  async open(key, file) {
    const image = await this.encodeBytes(await readFile(file), file);
    this.#open.set(key, image);
    return { width: image.width, height: image.height, problem: image.problem };
  }

  /** @param {number} key */
  get(key) {
    const image = this.#open.get(key);
    if (!image) throw new Trouble("input", "this photo was closed");
    return image;
  }

  /** @param {number} key */
  close(key) {
    this.#open.get(key)?.free();
    this.#open.delete(key);
  }

  /**
   * Decodes with the model's decoder, so that a file gives the same vectors everywhere. Falls back to the browser's
   * decoder for formats that only the browser supports (AVIF; HEIC on Apple's systems).
   * @param {Uint8Array} bytes @param {Blob} file the same bytes
   */
  async encodeBytes(bytes, file) {
    try {
      return this.#model.encodeImage(bytes);
    } catch (error) {
      const message = String(/** @type {Error} */ (error).message ?? error);
      if (error instanceof WebAssembly.RuntimeError || !/which is|cannot be read here/.test(message)) throw error;
      const bitmap = await createImageBitmap(file).catch(() => null);
      // Users do not need the first bytes in hexadecimal digits.
      if (!bitmap) throw new Trouble("input", message.replace(/starts with \[[^\]]*\], which is/, "is"));
      return this.#encodeBitmap(bitmap);
    }
  }

  /** @param {ImageBitmap} bitmap */
  #encodeBitmap(bitmap) {
    const { width, height } = bitmap;
    const context = new OffscreenCanvas(width, height).getContext("2d");
    if (!context) throw new Trouble("memory", `a photo of ${width}×${height} pixels is too large for this browser`);
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    const { data } = context.getImageData(0, 0, width, height);
    return this.#model.encodePixels(new Uint8Array(data.buffer), width, height);
  }
}
