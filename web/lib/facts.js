// Recognises files without reading them.

/**
 * Name, size and date of a file. The date is in seconds, because some disks store no finer one.
 * @param {{ path: string, sizeBytes: number, modifiedMs: number }} file
 */
export function factsOf({ path, sizeBytes, modifiedMs }) {
  return `${path.split(/[\\/]/).pop()}\n${sizeBytes}\n${Math.floor(modifiedMs / 1000)}`;
}

/** Time of the last change of a file, in milliseconds. Chromium dates files of 1970 to 1601. @param {Blob} file */
export function modifiedOf(file) {
  return file instanceof File ? Math.max(file.lastModified, 0) : 0;
}
