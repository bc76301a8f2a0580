// The library in IndexedDB: one row and one thumbnail for each photo of each model.

/**
 * @typedef {{
 *   model: string, path: string, sizeBytes: number, modifiedMs: number, width: number, height: number,
 *   vectors: Uint8Array, hash?: string,
 * }} Row `vectors` is the index file of this photo alone. `hash` is the SHA-256 of its file; missing until this browser
 * reads the file.
 */

const NAME = "mmgem-library";

/** @type {Promise<IDBDatabase | null> | null} */
let opened = null;

/** The library of this visit if the browser stores nothing. The keys are IndexedDB's as JSON. */
const memory = {
  /** @type {Map<string, Row>} */
  photos: new Map(),
  /** @type {Map<string, Blob>} */
  thumbnails: new Map(),
};

/** @param {string} model @param {string} path */
const memoryKey = (model, path) => JSON.stringify([model, path]);

/** Returns `null` if the browser stores nothing for this page. @returns {Promise<IDBDatabase | null>} */
function open() {
  opened ??= new Promise((resolve) => {
    let request;
    try {
      request = indexedDB.open(NAME, 1);
    } catch {
      return resolve(null); // site data is blocked
    }
    request.onupgradeneeded = () => {
      request.result.createObjectStore("photos", { keyPath: ["model", "path"] });
      request.result.createObjectStore("thumbnails");
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => resolve(null);
  });
  return opened;
}

/** Whether the browser stores the library for the next visit. @returns {Promise<boolean>} */
export async function isKept() {
  return (await open()) !== null;
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

/** @param {IDBDatabase} database @param {(photos: IDBObjectStore, thumbnails: IDBObjectStore) => void} change */
async function write(database, change) {
  const transaction = database.transaction(["photos", "thumbnails"], "readwrite");
  change(transaction.objectStore("photos"), transaction.objectStore("thumbnails"));
  await new Promise((resolve, reject) => {
    const failed = () =>
      reject(transaction.error ?? new DOMException("the browser could not write the library", "AbortError"));
    transaction.oncomplete = () => resolve(undefined);
    transaction.onerror = transaction.onabort = failed;
  });
}

/** All photos of a model, sorted by path. @param {string} model @returns {Promise<Row[]>} */
export async function readRows(model) {
  const database = await open();
  if (!database) return [...memory.photos.values()].filter((row) => row.model === model);
  return answer(database.transaction("photos").objectStore("photos").getAll(ofModel(model)));
}

/** @param {string} model @param {string} path @returns {Promise<Row | null>} */
export async function readRow(model, path) {
  const database = await open();
  if (!database) return memory.photos.get(memoryKey(model, path)) ?? null;
  return (await answer(database.transaction("photos").objectStore("photos").get([model, path]))) ?? null;
}

/** Paths of a model's photos with a thumbnail. @param {string} model @returns {Promise<Set<string>>} */
export async function readPictured(model) {
  const database = await open();
  const keys = database
    ? await answer(database.transaction("thumbnails").objectStore("thumbnails").getAllKeys(ofModel(model)))
    : [...memory.thumbnails.keys()].map((key) => JSON.parse(key)).filter((key) => key[0] === model);
  return new Set(keys.map((key) => /** @type {string[]} */ (key)[1]));
}

/** @param {string} model @param {string} path @returns {Promise<Blob | null>} */
export async function readThumbnail(model, path) {
  const database = await open();
  if (!database) return memory.thumbnails.get(memoryKey(model, path)) ?? null;
  return (await answer(database.transaction("thumbnails").objectStore("thumbnails").get([model, path]))) ?? null;
}

/** @param {readonly Row[]} rows @param {ReadonlyMap<string, Blob>} [pictures] by path */
export async function writeRows(rows, pictures) {
  const database = await open();
  if (!database) {
    for (const row of rows) {
      memory.photos.set(memoryKey(row.model, row.path), row);
      const picture = pictures?.get(row.path);
      if (picture) memory.thumbnails.set(memoryKey(row.model, row.path), picture);
    }
    return;
  }
  await write(database, (photos, thumbnails) => {
    for (const row of rows) {
      photos.put(row);
      const picture = pictures?.get(row.path);
      if (picture) thumbnails.put(picture, [row.model, row.path]);
    }
  });
}

/** @param {string} model @param {readonly string[]} paths */
export async function deleteRows(model, paths) {
  const database = await open();
  if (!database) {
    for (const path of paths) {
      memory.photos.delete(memoryKey(model, path));
      memory.thumbnails.delete(memoryKey(model, path));
    }
    return;
  }
  await write(database, (photos, thumbnails) => {
    for (const path of paths) {
      photos.delete([model, path]);
      thumbnails.delete([model, path]);
    }
  });
}

/** @param {string} model */
export async function deleteAll(model) {
  const database = await open();
  if (!database) return deleteRows(model, (await readRows(model)).map((row) => row.path));
  await write(database, (photos, thumbnails) => {
    photos.delete(ofModel(model));
    thumbnails.delete(ofModel(model));
  });
}
