// Photos from folders, file inputs and drops.

import { modifiedOf } from "./lib/facts.js";

/**
 * @typedef {{
 *   path: string, sizeBytes: number, modifiedMs: number, file: File, replace?: boolean, move?: boolean,
 *   known?: string,
 * }} Found `replace` and `move` as in AddOptions. `known` is its path in the library.
 */

const PHOTO = /\.(jpe?g|jfif|png|webp|gif|bmp|tiff?|avif|heic|heif)$/i;

/** @param {string} name */
const isPhoto = (name) => PHOTO.test(name) && !name.startsWith(".");

/** @param {File} file @param {string} path @returns {Found} */
function found(file, path) {
  return { path, sizeBytes: file.size, modifiedMs: modifiedOf(file), file };
}

/** Files of an input; with `webkitdirectory` their paths start with the folder's name. @param {readonly File[]} files */
export function fromInput(files) {
  return files.filter((file) => isPhoto(file.name)).map((file) => found(file, file.webkitRelativePath || file.name));
}

/**
 * Yields all photos below a folder, without hidden ones, as `mmgem index` does.
 * @param {any} folder a FileSystemDirectoryHandle @param {AbortSignal} signal @param {string} [prefix]
 * @returns {AsyncGenerator<Found>}
 */
export async function* fromFolder(folder, signal, prefix = folder.name) {
  for await (const [name, handle] of folder.entries()) {
    signal.throwIfAborted();
    if (name.startsWith(".")) continue;
    const path = `${prefix}/${name}`;
    if (handle.kind === "directory") yield* fromFolder(handle, signal, path);
    else if (isPhoto(name)) yield found(await handle.getFile(), path);
  }
}

/**
 * The dropped folders and photos. Where the browser gives no handle of a folder, `photos` has the photos below it.
 * Call it within the event handler.
 * @param {DataTransfer} transfer
 * @returns {Promise<{ handles: any[], photos: Found[] }>} `handles` are FileSystemDirectoryHandles
 */
export async function fromDrop(transfer) {
  const items = [...transfer.items].map((item) => {
    const entry = item.webkitGetAsEntry?.();
    return { entry, handle: entry?.isDirectory ? handleOf(item) : null };
  });
  const [handles, photos] = [/** @type {any[]} */ ([]), /** @type {Found[]} */ ([])];
  const files = [...transfer.files];
  for (const { entry, handle } of items) {
    const folder = await handle;
    if (folder) handles.push(folder);
    else if (entry) photos.push(...(await fromEntry(entry)));
  }
  return { handles, photos: items.some(({ entry }) => entry) ? photos : fromInput(files) };
}

/** Handle of a dropped folder, which later visits can use; `null` if the browser has none. @param {any} item */
async function handleOf(item) {
  return (await item.getAsFileSystemHandle?.().catch(() => null)) ?? null;
}

/** @param {FileSystemEntry} entry @returns {Promise<Found[]>} */
async function fromEntry(entry) {
  if (entry.name.startsWith(".")) return [];
  if (entry.isFile) {
    if (!isPhoto(entry.name)) return [];
    const file = await new Promise((resolve, reject) => /** @type {FileSystemFileEntry} */ (entry).file(resolve, reject));
    return [found(file, entry.fullPath.replace(/^\//, ""))];
  }
  const reader = /** @type {FileSystemDirectoryEntry} */ (entry).createReader();
  const all = [];
  for (;;) {
    /** @type {FileSystemEntry[]} */
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return all;
    for (const below of some) all.push(...(await fromEntry(below)));
  }
}
