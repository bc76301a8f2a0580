/** MM-GEM in a browser: one model that searches and describes photos, whole or by region. */

/** `[x0, y0, x1, y1]` in pixels of the upright photo. */
export type Box = readonly [number, number, number, number] | number[];

/** Backend of the model: `cpu` is WebAssembly, `webgpu` is the GPU. */
export type Backend = "cpu" | "webgpu";

/** Location of a model's files. */
export type ModelSource =
  /** A folder on the page's server, with or without a `manifest.json` (written by `cargo web`). */
  | string
  | URL
  /** `config.json`, `tokenizer.json` and the safetensors files, from a file input or a drop. */
  | readonly File[];

export interface Progress {
  /** The current step. */
  stage: "download" | "cache" | "open";
  /** Bytes so far and in total; `total` is 0 while it is unknown. */
  bytes: number;
  total: number;
}

export interface LoadOptions {
  /** `auto` (the default) uses WebGPU if it works. */
  backend?: Backend | "auto";
  /** `false`: do not compile WebGPU shaders in idle time; each first request compiles its own. */
  warmUp?: boolean;
  onProgress?: (progress: Progress) => void;
  /**
   * Called when the worker crashed and restarts; `message` is the reason. `restarted` resolves when the model is open
   * again. After the second loss of WebGPU the model runs on the CPU.
   */
  onRestart?: (message: string, restarted: Promise<ModelInfo>) => void;
  /** Called after another tab changed the library. */
  onLibraryChange?: () => void;
  signal?: AbortSignal;
}

export interface RequestOptions {
  signal?: AbortSignal;
}

export interface ModelInfo {
  name: string;
  /** Hash of the model's files: 16 hexadecimal digits, as in a library of `mmgem`. */
  fingerprint: string;
  embedDim: number;
  /** Nine in ten photos that a text describes score higher; null if the model was not calibrated. */
  weakBelow: number | null;
  backend: Backend;
  /** Reason for this backend, for the user. */
  reason: string;
  /** Size of the model's files in bytes. */
  bytes: number;
  /** Whether the files come from the browser's storage, not from the network. */
  fromCache: boolean;
  /** Whether the files were checked against the manifest's SHA-256. */
  checked: boolean;
  /** Reason why the files could not be stored for the next visit, or null. */
  notKept: string | null;
}

export interface Caption {
  text: string;
  /** Sum of the natural log probabilities of the tokens and of the end token. */
  logProb: number;
}

/** A caption in progress: iterate over the pieces of text, or await `result`. */
export interface CaptionStream extends AsyncIterable<string> {
  readonly result: Promise<Caption>;
  /** Speed since the first token; 0 before the second. */
  readonly tokensPerSecond: number;
}

export interface Place {
  /** Cosine with each of `grid` × `grid` patches, row by row. The patches cover the part `seen` of the photo. */
  similarity: Float32Array;
  grid: number;
  seen: Box;
  /** Centre of the best patch. */
  point: [number, number];
  /** The best box, and its cosine. */
  box: Box;
  score: number;
}

/** An encoded photo. Requests about it need no further run of the image encoder. */
export interface Photo {
  readonly width: number;
  readonly height: number;
  /** Why only a part of the file could be used; null if all of it was. */
  readonly problem: string | null;
  /** Frees the memory. */
  close(): void;
}

export interface SearchOptions extends RequestOptions {
  /** Maximum number of hits; the default is 100. */
  limit?: number;
}

/** A photo of the library that matches a query. */
export interface PhotoHit {
  path: string;
  /** Cosine of the query with the whole photo. */
  score: number;
  /** The best region. */
  box: Box;
  /** Cosine of the query with that region. */
  boxScore: number;
  /** Standard score for this query: standard deviations above the mean of all photos. */
  relevance: number;
}

export interface LibraryPhoto {
  path: string;
  sizeBytes: number;
  modifiedMs: number;
  width: number;
  height: number;
  /** Whether the photo came by `importFile` and this browser has not read its file. It then has no thumbnail. */
  imported: boolean;
}

export interface AddOptions extends RequestOptions {
  /** The file replaces the photo with this path. Without `replace`, a file with other content gets a free path. */
  replace?: boolean;
  /** A photo that the library has under another path gets this path. */
  move?: boolean;
}

/** The result of `Library.remove`: what `Library.restore` needs. */
export interface RemovedPhotos {
  readonly paths: readonly string[];
}

/** The photos that this model has encoded, in the browser's storage if it has any. */
export interface Library {
  /** All photos, sorted by path. */
  list(): Promise<LibraryPhoto[]>;
  /**
   * Encodes a photo and stores its vectors and a thumbnail. Does not encode a known photo again: one with the same
   * name, size and date, or with the same content. The result has the path in the library.
   */
  add(path: string, file: Blob, options?: AddOptions): Promise<LibraryPhoto>;
  /** Removes photos. `restore` brings them back. */
  remove(paths: readonly string[]): Promise<RemovedPhotos>;
  /**
   * Brings removed photos back without encoding them again. Skips those that the library has again. Rejects photos
   * that another model encoded.
   */
  restore(removed: RemovedPhotos): Promise<void>;
  clear(): Promise<void>;
  /** The thumbnail of a photo. Null for a photo of `importFile`. */
  thumbnail(path: string): Promise<Blob | null>;
  /** Whether the browser stores the library for the next visit; `false` if site data is blocked. */
  isKept(): Promise<boolean>;
  /** The library as an index file, which `mmgem` reads and writes too. */
  exportFile(): Promise<Blob>;
  /** Adds the photos of an index file. Returns their number. */
  importFile(file: Blob): Promise<number>;
}

export interface Model {
  /** Changes when the CPU takes over from a lost graphics device. */
  readonly info: ModelInfo;
  readonly library: Library;
  openPhoto(file: Blob, options?: RequestOptions): Promise<Photo>;
  /** Unit vector of a text. */
  embedText(text: string, options?: RequestOptions): Promise<Float32Array>;
  /** Unit vector of a photo, or of a region of it. */
  embedImage(photo: Photo, box?: Box | null, options?: RequestOptions): Promise<Float32Array>;
  /** Describes a box, or the whole photo, token by token. */
  captionRegion(
    photo: Photo,
    box?: Box | null,
    options?: RequestOptions & { maxTokens?: number },
  ): CaptionStream;
  /** Locates a text (or a vector) in a photo. */
  localize(photo: Photo, query: string | Float32Array, options?: RequestOptions): Promise<Place>;
  /**
   * Proposes boxes around a point, in pixels of the photo: the best box, then larger ones, then smaller ones. Does not
   * wait for a caption in progress.
   */
  boxesAt(photo: Photo, x: number, y: number, options?: RequestOptions): Promise<Box[]>;
  /** Photos of the library that match a text, a vector or a photo, best first. */
  searchPhotos(query: string | Float32Array | Photo, options?: SearchOptions): Promise<PhotoHit[]>;
  /** Photos of the library with a region like this one, best first. */
  similarRegions(photo: Photo, box: Box, options?: SearchOptions): Promise<PhotoHit[]>;
  /** Size of the worker's wasm memory in bytes. */
  memory(): Promise<number>;
  /** Ends the worker, and rejects every open request. */
  close(): void;
}

/**
 * `crashed`: the worker crashed and was restarted. `device`: the graphics device was lost; requests are repeated, so
 * this is rare. `input`: the photo, text or file cannot be used. `storage`: the browser's storage for this page is
 * full. `browser`: the browser lacks a feature that the model needs.
 */
export type ErrorKind = "crashed" | "device" | "input" | "network" | "memory" | "storage" | "browser";

/** An error with a message for the user: found, wanted, what to do. */
export class MmgemError extends Error {
  readonly kind: ErrorKind;
}

/** Loads a model in its own worker. */
export function loadModel(source: ModelSource, options?: LoadOptions): Promise<Model>;

/** The models whose files the browser stores, for `loadModel`. */
export function keptModels(): Promise<{ url: string; name: string; bytes: number }[]>;

/** Removes the stored files of all models. */
export function forgetModels(): Promise<void>;
