// How a file is known again without reading it.

/**
 * Name, size and date of a file; the date in seconds, because some disks have no finer one.
 * @param {{ path: string, sizeBytes: number, modifiedMs: number }} file
 */
export function factsOf({ path, sizeBytes, modifiedMs }) {
  return `${path.split(/[\\/]/).pop()}\n${sizeBytes}\n${Math.floor(modifiedMs / 1000)}`;
}

/** When a file was changed, in milliseconds; Chromium says 1601 of a file of 1970. @param {Blob} file */
export function modifiedOf(file) {
  return file instanceof File ? Math.max(file.lastModified, 0) : 0;
}
