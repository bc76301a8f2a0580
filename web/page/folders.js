// Stores the added folders, so that their photos can be opened in a later visit.

/** @typedef {{ label: string, handle: any }} Kept `handle` is a FileSystemDirectoryHandle */

const NAME = "mmgem-folders";
const STORE = "folders";

/** The folders of this visit if the browser stores nothing. @type {Kept[]} */
const memory = [];

/** @returns {Promise<IDBDatabase | null>} */
function open() {
  return new Promise((resolve) => {
    let request;
    try {
      request = indexedDB.open(NAME, 1);
    } catch {
      return resolve(null); // site data is blocked
    }
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "label" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => resolve(null);
  });
}

/** @template T @param {IDBTransactionMode} mode @param {(store: IDBObjectStore) => IDBRequest<T>} act @returns {Promise<T | null>} */
async function ask(mode, act) {
  const database = await open();
  if (!database) return null;
  try {
    const request = act(database.transaction(STORE, mode).objectStore(STORE));
    return await new Promise((resolve, reject) => {
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
  } finally {
    database.close();
  }
}

/** @returns {Promise<Kept[]>} */
async function all() {
  return (await ask("readonly", (store) => store.getAll())) ?? memory;
}

/**
 * Returns the first part of the paths of a folder's photos: its name, with a number if another folder has that name.
 * @param {any} handle @returns {Promise<string>}
 */
export async function labelOf(handle) {
  const folders = await all();
  for (const folder of folders) if (await folder.handle.isSameEntry(handle)) return folder.label;
  const labels = new Set(folders.map((folder) => folder.label));
  let label = handle.name;
  for (let n = 2; labels.has(label); n += 1) label = `${handle.name} (${n})`;
  memory.push({ label, handle });
  await ask("readwrite", (store) => store.put({ label, handle })).catch(() => null); // needed in later visits only
  return label;
}

/** Whether a photo's folder is stored. @param {string} path */
export async function isKept(path) {
  return (await all()).some(({ label }) => path.startsWith(`${label}/`));
}

/**
 * Returns the photo's file, or `null` if it is missing. Asks for permission if `mayAsk`, which needs a click.
 * @param {string} path @param {boolean} mayAsk @returns {Promise<File | null>}
 */
export async function fileOf(path, mayAsk) {
  const folder = (await all()).find(({ label }) => path.startsWith(`${label}/`));
  if (!folder) return null;
  const how = { mode: "read" };
  let allowed = (await folder.handle.queryPermission?.(how)) ?? "granted"; // Safari does not ask
  if (allowed === "prompt" && mayAsk) allowed = await folder.handle.requestPermission(how);
  if (allowed !== "granted") return null;
  try {
    const parts = path.slice(folder.label.length + 1).split("/");
    const name = parts.pop();
    let { handle } = folder;
    for (const part of parts) handle = await handle.getDirectoryHandle(part);
    return await (await handle.getFileHandle(name)).getFile();
  } catch {
    return null; // moved or removed
  }
}
