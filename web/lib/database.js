// The library in IndexedDB: one row and one thumbnail for each photo of each model.

/**
 * @typedef {{
 *   model: string, path: string, sizeBytes: number, modifiedMs: number, width: number, height: number,
 *   vectors: Uint8Array,
 * }} Row `vectors` is the index file of this photo alone.
 */

const NAME = "mmgem-library";

/** @type {Promise<IDBDatabase> | null} */
let opened = null;

/** @returns {Promise<IDBDatabase>} */
function open() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("photos", { keyPath: ["model", "path"] });
      request.result.createObjectStore("thumbnails");
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

/** Keys of one model. @param {string} model */
const ofModel = (model) => IDBKeyRange.bound([model], [model, []]);

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
function answer(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** @param {(photos: IDBObjectStore, thumbnails: IDBObjectStore) => void} change */
async function write(change) {
  const transaction = (await open()).transaction(["photos", "thumbnails"], "readwrite");
  change(transaction.objectStore("photos"), transaction.objectStore("thumbnails"));
  await new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(undefined);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

/** All photos of a model, sorted by path. @param {string} model @returns {Promise<Row[]>} */
export async function readRows(model) {
  const photos = (await open()).transaction("photos").objectStore("photos");
  return answer(photos.getAll(ofModel(model)));
}

/** @param {string} model @param {string} path @returns {Promise<Blob | null>} */
export async function readThumbnail(model, path) {
  const thumbnails = (await open()).transaction("thumbnails").objectStore("thumbnails");
  return (await answer(thumbnails.get([model, path]))) ?? null;
}

/** @param {readonly Row[]} rows @param {ReadonlyMap<string, Blob>} [pictures] by path */
export function writeRows(rows, pictures) {
  return write((photos, thumbnails) => {
    for (const row of rows) {
      photos.put(row);
      const picture = pictures?.get(row.path);
      if (picture) thumbnails.put(picture, [row.model, row.path]);
    }
  });
}

/** @param {string} model @param {readonly string[]} paths */
export function deleteRows(model, paths) {
  return write((photos, thumbnails) => {
    for (const path of paths) {
      photos.delete([model, path]);
      thumbnails.delete([model, path]);
    }
  });
}

/** @param {string} model */
export function deleteAll(model) {
  return write((photos, thumbnails) => {
    photos.delete(ofModel(model));
    thumbnails.delete(ofModel(model));
  });
}
