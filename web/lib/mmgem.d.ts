/** MM-GEM in a browser: one model that searches and describes photos, whole or by region. */

/** `[x0, y0, x1, y1]` in pixels of the photo as a person sees it. */
export type Box = readonly [number, number, number, number] | number[];

/** How the model computes: `cpu` is WebAssembly, `webgpu` the graphics processor. */
export type Backend = "cpu" | "webgpu";

/** Where a model's files are. */
export type ModelSource =
  /** A folder on this page's own server, with a `manifest.json` (written by `cargo web`) or without. */
  | string
  | URL
  /** `config.json`, `tokenizer.json` and the safetensors files, from a file input or a drop. */
  | readonly File[];

export interface Progress {
  /** What is being done. */
  stage: "download" | "cache" | "open";
  /** Bytes so far and in all; `total` is 0 while it is not known. */
  bytes: number;
  total: number;
}

export interface LoadOptions {
  /** `auto` (the default) takes WebGPU where it works. */
  backend?: Backend | "auto";
  /** `false`: on WebGPU the first requests make the device's programs, not the time before them. */
  warmUp?: boolean;
  onProgress?: (progress: Progress) => void;
  /**
   * Called when the worker broke down and is started anew; `message` says why. `restarted` is there when the model
   * is open again: on the processor, when WebGPU was lost for the second time.
   */
  onRestart?: (message: string, restarted: Promise<ModelInfo>) => void;
  /** Called when another tab has changed the library. */
  onLibraryChange?: () => void;
  signal?: AbortSignal;
}

export interface RequestOptions {
  signal?: AbortSignal;
}

export interface ModelInfo {
  name: string;
  /** Tells these files from any others: 16 hexadecimal digits, as `mmgem` writes them into a library. */
  fingerprint: string;
  embedDim: number;
  backend: Backend;
  /** Why this backend, for people. */
  reason: string;
  /** Bytes of the model's files. */
  bytes: number;
  /** The files come from the browser's storage, not from the network. */
  fromCache: boolean;
  /** The files were compared with the manifest's SHA-256. */
  checked: boolean;
  /** Why the files could not be kept for the next visit, if so. */
  notKept: string | null;
}

export interface Caption {
  text: string;
  /** Sum of the natural log probabilities of the tokens and the end. */
  logProb: number;
}

/** A caption while it is written: iterate for the pieces of text, or await `result`. */
export interface CaptionStream extends AsyncIterable<string> {
  readonly result: Promise<Caption>;
  /** Of the tokens so far, after the first; 0 before the second. */
  readonly tokensPerSecond: number;
}

export interface Place {
  /** Cosine with each of `grid` × `grid` patches, row by row, of the part `seen` of the photo. */
  similarity: Float32Array;
  grid: number;
  seen: Box;
  /** Centre of the best patch. */
  point: [number, number];
  /** The box that fits best, and its cosine. */
  box: Box;
  score: number;
}

/** A photo that the model has seen: each question about it is cheap. */
export interface Photo {
  readonly width: number;
  readonly height: number;
  /** Gives the memory back. */
  close(): void;
}

export interface SearchOptions extends RequestOptions {
  /** Most hits; 100 without. */
  limit?: number;
}

/** A photo of the library that fits a query. */
export interface PhotoHit {
  path: string;
  /** Cosine of the query with the whole photo. */
  score: number;
  /** The region that fits best. */
  box: Box;
  /** Cosine of the query with that region. */
  boxScore: number;
  /** Standard deviations above the mean of all photos for this query: how much it stands out. */
  relevance: number;
}

export interface LibraryPhoto {
  path: string;
  sizeBytes: number;
  modifiedMs: number;
  width: number;
  height: number;
  /** It came by `importFile`, and this browser has not seen the photo itself: there is no thumbnail. */
  imported: boolean;
}

export interface AddOptions extends RequestOptions {
  /** The file takes the place of the photo with this path. Without it other content gets a free path. */
  replace?: boolean;
  /** A photo that is in the library under another path takes this one. */
  move?: boolean;
}

/** The photos that were encoded by this model; they stay in the browser's storage where it has some. */
export interface Library {
  /** All photos, sorted by path. */
  list(): Promise<LibraryPhoto[]>;
  /**
   * Encodes a photo and keeps its vectors and a thumbnail. A photo that is in the library already (the same name,
   * size and date, or the same content) is not encoded again. The result has the path that the library uses.
   */
  add(path: string, file: Blob, options?: AddOptions): Promise<LibraryPhoto>;
  remove(paths: readonly string[]): Promise<void>;
  clear(): Promise<void>;
  /** A small picture of it, or null if there is none (of a photo that came by `importFile`). */
  thumbnail(path: string): Promise<Blob | null>;
  /** Whether the browser keeps the library for the next visit; `false` if site data is blocked. */
  isKept(): Promise<boolean>;
  /** The file that `mmgem` reads and writes too. */
  exportFile(): Promise<Blob>;
  /** Takes over the photos of such a file; returns how many. */
  importFile(file: Blob): Promise<number>;
}

export interface Model {
  /** Changes when a lost graphics device makes the processor take over. */
  readonly info: ModelInfo;
  readonly library: Library;
  openPhoto(file: Blob, options?: RequestOptions): Promise<Photo>;
  /** Unit vector of a text. */
  embedText(text: string, options?: RequestOptions): Promise<Float32Array>;
  /** Unit vector of a photo, or of a region of it. */
  embedImage(photo: Photo, box?: Box | null, options?: RequestOptions): Promise<Float32Array>;
  /** Says what is in a box, or on the whole photo, token by token. */
  captionRegion(
    photo: Photo,
    box?: Box | null,
    options?: RequestOptions & { maxTokens?: number },
  ): CaptionStream;
  /** Finds a text (or a vector) in a photo. */
  localize(photo: Photo, query: string | Float32Array, options?: RequestOptions): Promise<Place>;
  /**
   * Proposes boxes around what is at a point, all in pixels of the photo: the best one, then the next larger things,
   * then smaller ones. Does not wait for a caption that is being written.
   */
  boxesAt(photo: Photo, x: number, y: number, options?: RequestOptions): Promise<Box[]>;
  /** Photos of the library that fit a text, a vector or a photo, best first. */
  searchPhotos(query: string | Float32Array | Photo, options?: SearchOptions): Promise<PhotoHit[]>;
  /** Photos of the library with a region like this one, best first. */
  similarRegions(photo: Photo, box: Box, options?: SearchOptions): Promise<PhotoHit[]>;
  /** Bytes that the model and its work hold in memory. */
  memory(): Promise<number>;
  /** Ends the worker; every open request is rejected. */
  close(): void;
}

/**
 * `crashed`: the worker broke down (and was restarted); `device`: the graphics device was lost (requests are then
 * repeated, so this is seldom seen); `input`: the photo, text or file cannot be used; `storage`: the browser's
 * storage for this page is full; `browser`: the browser lacks something that the model needs.
 */
export type ErrorKind = "crashed" | "device" | "input" | "network" | "memory" | "storage" | "browser";

/** A problem with words for people: what was found, what was wanted, what to do. */
export class MmgemError extends Error {
  readonly kind: ErrorKind;
}

/** Loads a model in a worker of its own. */
export function loadModel(source: ModelSource, options?: LoadOptions): Promise<Model>;

/** The models whose files the browser keeps, for `loadModel`. */
export function keptModels(): Promise<{ url: string; name: string; bytes: number }[]>;

/** Forgets the kept files of every model. */
export function forgetModels(): Promise<void>;
