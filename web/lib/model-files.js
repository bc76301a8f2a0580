// Fetches the files of a model once, checks them against the manifest's SHA-256, and stores them in the Cache API.

/**
 * @typedef {{ name: string, bytes: number, sha256: string }} ManifestFile
 * @typedef {{ format: string, name: string, files: ManifestFile[] }} Manifest
 * @typedef {{ name: string, bytes: Uint8Array<ArrayBuffer> }} NamedBytes
 * @typedef {(stage: "download" | "cache" | "open", bytes: number, total: number) => void} OnProgress
 * @typedef {{
 *   name: string, config: string, tokenizer: Uint8Array<ArrayBuffer>, shards: NamedBytes[], bytes: number,
 *   fromCache: boolean, checked: boolean, notKept: string | null,
 * }} ModelFiles
 */

export const CACHE = "mmgem-models";
const HASH_HEADER = "x-mmgem-sha256";

/** An expected error, not a bug. `kind` is as in mmgem.d.ts. */
export class Trouble extends Error {
  /** @param {string} kind @param {string} message */
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

/**
 * Reads a file that the user chose.
 * @param {Blob} file @returns {Promise<Uint8Array<ArrayBuffer>>}
 */
export async function readFile(file) {
  try {
    return new Uint8Array(await file.arrayBuffer());
  } catch (cause) {
    if (cause instanceof RangeError) throw cause;
    const name = file instanceof File ? ` ${file.name}` : "";
    throw new Trouble("input", `the file${name} cannot be read: it was changed, moved or removed after it was chosen, or ` +
      "this browser may not read it; choose it again");
  }
}

/**
 * SHA-256 in hexadecimal digits; `null` if the page is not over https or from localhost.
 * @param {Uint8Array<ArrayBuffer>} bytes @returns {Promise<string | null>}
 */
export async function sha256(bytes) {
  if (!("subtle" in crypto)) return null;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * @param {string | readonly File[]} source
 * @param {OnProgress} onProgress
 * @param {AbortSignal} signal
 * @returns {Promise<ModelFiles>}
 */
export async function fetchModel(source, onProgress, signal) {
  return typeof source === "string" ? fromFolder(source, onProgress, signal) : fromFiles(source);
}

/** @param {readonly File[]} files @returns {Promise<ModelFiles>} */
async function fromFiles(files) {
  /** @type {NamedBytes[]} */
  const read = [];
  for (const file of files) {
    read.push({ name: file.name, bytes: await readFile(file) });
  }
  const name = files[0]?.webkitRelativePath.split("/")[0] || "a model from this device";
  return sorted(name, read, { fromCache: false, checked: false, notKept: "it was opened from files" });
}

/** @param {string} folder @param {OnProgress} onProgress @param {AbortSignal} signal */
async function fromFolder(folder, onProgress, signal) {
  const base = new URL(folder.endsWith("/") ? folder : `${folder}/`, self.location.href);
  const kept = await openCache();
  const manifest = await readManifest(base, kept, signal);
  if (!manifest) return withoutManifest(base, onProgress, signal);

  const total = manifest.files.reduce((sum, file) => sum + file.bytes, 0);
  const state = { fromCache: true, checked: "subtle" in crypto, notKept: kept ? null : noStorage() };
  const read = [];
  let before = 0;
  for (const file of manifest.files) {
    const url = new URL(file.name, base);
    const report = (/** @type {"download" | "cache"} */ stage, /** @type {number} */ bytes) =>
      onProgress(stage, before + bytes, total);
    let bytes = await fromCache(kept, url, file, report);
    if (!bytes) {
      state.fromCache = false;
      bytes = await download(url, file.bytes, (n) => report("download", n), signal);
      await check(file, bytes);
      state.notKept ??= await keep(kept, url, file, bytes);
    }
    read.push({ name: file.name, bytes });
    before += file.bytes;
  }
  return sorted(manifest.name, read, state);
}

/**
 * Sorts the files by their role in the model. Throws an error that names a missing file.
 * @param {string} name @param {NamedBytes[]} read
 * @param {{ fromCache: boolean, checked: boolean, notKept: string | null }} state
 * @returns {ModelFiles}
 */
function sorted(name, read, state) {
  const find = (/** @type {string} */ wanted) => {
    const file = read.find((file) => file.name === wanted);
    if (file) return file.bytes;
    const found = read.map((file) => file.name).join(", ") || "nothing";
    throw new Trouble("input", `the model has no ${wanted} (found ${found}); choose config.json, tokenizer.json ` +
      "and the .safetensors files of one model folder");
  };
  const config = new TextDecoder().decode(find("config.json"));
  const tokenizer = find("tokenizer.json");
  const shards = read
    .filter((file) => file.name.endsWith(".safetensors"))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
  if (!shards.length) find("model.safetensors");
  const bytes = read.reduce((sum, file) => sum + file.bytes.length, 0);
  return { name, config, tokenizer, shards, bytes, ...state };
}

/** @returns {Promise<Cache | null>} */
async function openCache() {
  try {
    return await caches.open(CACHE);
  } catch {
    return null;
  }
}

function noStorage() {
  return self.isSecureContext
    ? "the browser gives this page no storage (a private window?)"
    : "the page was not opened over https or from localhost";
}

/**
 * Returns the manifest from the network, or the stored one if offline; null if the server has no manifest.
 * @param {URL} base @param {Cache | null} kept @param {AbortSignal} signal @returns {Promise<Manifest | null>}
 */
async function readManifest(base, kept, signal) {
  const url = new URL("manifest.json", base);
  let response;
  try {
    response = await fetch(url, { cache: "no-cache", signal });
  } catch (cause) {
    signal.throwIfAborted();
    response = await kept?.match(url);
    if (!response) throw offline(url, cause);
    return response.json();
  }
  if (response.status === 404) return null;
  if (!response.ok) throw refused(url, response);
  const copy = response.clone();
  const manifest = await response.json().catch(() => null);
  if (manifest?.format !== "mmgem-web-1") {
    throw new Trouble("input", `${url.pathname} is no manifest of a model (wanted format mmgem-web-1)`);
  }
  await kept?.put(url, copy).catch(() => undefined);
  return manifest;
}

/** @param {URL} base @param {OnProgress} onProgress @param {AbortSignal} signal */
async function withoutManifest(base, onProgress, signal) {
  const names = ["config.json", "tokenizer.json"];
  const index = await fetch(new URL("model.safetensors.index.json", base), { signal });
  /** @type {string[]} */
  const shards = index.ok
    ? [...new Set(/** @type {string[]} */ (Object.values((await index.json()).weight_map)))].sort()
    : ["model.safetensors"];
  const read = [];
  let before = 0;
  for (const name of [...names, ...shards]) {
    const bytes = await download(new URL(name, base), 0, (n) => onProgress("download", before + n, 0), signal);
    before += bytes.length;
    read.push({ name, bytes });
  }
  const state = { fromCache: false, checked: false, notKept: "its folder has no manifest.json" };
  return sorted(base.pathname, read, state);
}

/**
 * @param {URL} url @param {number} size expected size in bytes, or 0
 * @param {(bytes: number) => void} report @param {AbortSignal} signal
 * @returns {Promise<Uint8Array<ArrayBuffer>>}
 */
async function download(url, size, report, signal) {
  let response;
  try {
    response = await fetch(url, { signal });
  } catch (cause) {
    signal.throwIfAborted();
    throw offline(url, cause);
  }
  if (!response.ok || !response.body) throw refused(url, response);
  const chunks = [];
  let length = 0;
  try {
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      chunks.push(value);
      length += value.length;
      report(length);
    }
  } catch (cause) {
    signal.throwIfAborted();
    throw offline(url, cause);
  }
  if (size && length !== size) {
    throw new Trouble("network", `${url.pathname} has ${length} bytes, wanted ${size}; reload the page to try again`);
  }
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}

/**
 * @param {Cache | null} kept @param {URL} url @param {ManifestFile} file
 * @param {(stage: "cache", bytes: number) => void} report
 */
async function fromCache(kept, url, file, report) {
  const response = await kept?.match(url);
  if (response?.headers.get(HASH_HEADER) !== file.sha256) return null;
  const bytes = new Uint8Array(await response.arrayBuffer());
  try {
    await check(file, bytes);
  } catch {
    return null; // damaged in storage: fetch it again
  }
  report("cache", bytes.length);
  return bytes;
}

/** The models that this browser stores. @returns {Promise<{ url: string, name: string, bytes: number }[]>} */
export async function keptModels() {
  const kept = await openCache();
  const models = [];
  for (const { url } of (await kept?.keys()) ?? []) {
    if (!url.endsWith("/manifest.json")) continue;
    /** @type {Manifest} */
    const { name, files } = await (await kept?.match(url))?.json();
    const isThere = await Promise.all(files.map((file) => kept?.match(new URL(file.name, url))));
    if (!isThere.every(Boolean)) continue; // only its manifest is stored so far
    models.push({ url: new URL("./", url).href, name, bytes: files.reduce((sum, file) => sum + file.bytes, 0) });
  }
  return models;
}

/** @param {ManifestFile} file @param {Uint8Array<ArrayBuffer>} bytes */
async function check(file, bytes) {
  const found = await sha256(bytes);
  if (found !== null && found !== file.sha256) {
    throw new Trouble("network", `${file.name} is damaged (SHA-256 ${found.slice(0, 12)}…, wanted ` +
      `${file.sha256.slice(0, 12)}…); reload the page to fetch it again`);
  }
}

/**
 * Stores a file for the next visit. Returns null, or the reason for a failure.
 * @param {Cache | null} kept @param {URL} url @param {ManifestFile} file @param {Uint8Array<ArrayBuffer>} bytes
 */
async function keep(kept, url, file, bytes) {
  if (!kept) return noStorage();
  try {
    await kept.put(url, new Response(bytes, { headers: { [HASH_HEADER]: file.sha256 } }));
    return null;
  } catch (cause) {
    const full = cause instanceof DOMException && cause.name === "QuotaExceededError";
    return full ? "the browser's storage for this page is full" : String(cause);
  }
}

/** @param {URL} url @param {unknown} cause */
function offline(url, cause) {
  const why = cause instanceof Error ? cause.message : String(cause);
  return new Trouble("network", `${url.pathname} cannot be fetched (${why}); is the server running, is there a network?`);
}

/** @param {URL} url @param {Response} response */
function refused(url, response) {
  return new Trouble("network", `the server answers ${response.status} for ${url.pathname}; is the model there?`);
}
