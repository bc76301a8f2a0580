// The page's side of the worker: numbered requests, cancellation, and a restart after a crash.
//
// wasm cannot catch a panic: the worker reports it, and the page starts a new worker that opens the same model again.
// A lost graphics device ends a worker in the same way. Its requests are then repeated: once more on WebGPU, then on
// the CPU. The worker holds a Web Lock while it runs. The page waits for the same lock, so it notices when the
// browser ends the worker. The page resolves the URLs of the wasm modules, because a worker from a blob cannot do so
// in a bundle.

import { WASM_URLS } from "./wasm-urls.js";

export class MmgemError extends Error {
  /** @param {import("./mmgem.js").ErrorKind} kind @param {string} message */
  constructor(kind, message) {
    super(message);
    this.name = "MmgemError";
    this.kind = kind;
  }
}

/** @typedef {{ signal?: AbortSignal, onEvent?: (event: any) => void, background?: boolean }} How */
/** @typedef {{ resolve: (value: any) => void, reject: (error: any) => void, onEvent?: (event: any) => void, message: object }} Pending */

/** Whether the page's policy blocks workers from blobs. */
let blobsAreBlocked = false;
globalThis.document?.addEventListener("securitypolicyviolation", ({ blockedURI, effectiveDirective }) => {
  if (blockedURI.startsWith("blob") && /worker|child|script|default/.test(effectiveDirective)) blobsAreBlocked = true;
});

/**
 * A worker under the page's own Content-Security-Policy. A worker from a blob inherits the policy of the page's
 * `<meta>`. A worker from a URL does not, and most static servers send no policy. Bundlers look for
 * `new Worker(new URL(…))`, so this class has that name.
 */
class Worker extends (globalThis.Worker ?? Object) {
  /** URL of its program while the browser loads it. */
  blob = "";

  /** @param {URL} url @param {WorkerOptions} options */
  constructor(url, options) {
    const program = new Blob([`import ${JSON.stringify(url.href)};`], { type: "text/javascript" });
    const blob = blobsAreBlocked ? "" : URL.createObjectURL(program);
    super(blob || url, options);
    this.blob = blob;
  }
}

export class Engine {
  /** Number of restarts. A photo of an earlier worker has to be opened again. */
  generation = 0;
  /** @type {Promise<import("./mmgem.js").ModelInfo>} */
  ready;
  #source;
  #options;
  /** @type {Worker} */
  #worker;
  /** @type {Map<number, Pending>} */
  #pending = new Map();
  #lastId = 0;
  /** Model info of the last worker that loaded a model. @type {import("./mmgem.js").ModelInfo | null} */
  info = null;
  #loaded = false;
  #closed = false;
  /** Number of crashes on WebGPU. */
  #gpuFailures = 0;
  /** Why WebGPU is not tried again in this visit. @type {string | null} */
  #gpuTrouble = null;

  /** @param {import("./mmgem.js").ModelSource} source @param {import("./mmgem.js").LoadOptions} options */
  constructor(source, options) {
    const isFolder = typeof source === "string" || source instanceof URL;
    this.#source = isFolder ? new URL(source, location.href).href : source;
    this.#options = options;
    this.#worker = this.#start();
    this.ready = this.#load(options.signal);
  }

  #start() {
    const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "mmgem" });
    let isAlive = false;
    worker.onmessage = ({ data }) => {
      if (!("alive" in data)) return this.#receive(data);
      isAlive = true;
      URL.revokeObjectURL(worker.blob);
      if (data.alive) this.#awaitEnd(worker, data.alive);
    };
    worker.onerror = (event) => {
      event.preventDefault();
      URL.revokeObjectURL(worker.blob);
      if (!isAlive && worker.blob && blobsAreBlocked) return this.#startFromUrl(worker);
      this.#crash(event.message || "the worker's program cannot be loaded");
    };
    worker.postMessage({ lock: `mmgem-worker-${performance.timeOrigin}-${Math.random()}` });
    return worker;
  }

  /** Starts the worker from its URL: the site has its own policy, which blocks blobs. @param {Worker} blocked */
  #startFromUrl(blocked) {
    if (this.#worker !== blocked || this.#closed) return;
    this.#worker = this.#start();
    for (const { message } of this.#pending.values()) this.#worker.postMessage(message);
  }

  /** Waits for the lock that the browser releases when the worker ends. @param {Worker} worker @param {string} lock */
  #awaitEnd(worker, lock) {
    const ended = () => {
      if (this.#worker === worker) this.#crash("the browser ended the worker, perhaps for want of memory");
    };
    navigator.locks.request(lock, ended).catch(() => undefined);
  }

  /** @param {AbortSignal} [signal] @returns {Promise<import("./mmgem.js").ModelInfo>} */
  async #load(signal) {
    const trouble = this.#gpuTrouble;
    const { backend = "auto", warmUp = true } = this.#options;
    const args = { source: this.#source, backend, trouble, warm: warmUp, urls: WASM_URLS };
    try {
      const info = await this.#post("load", args, { signal, onEvent: this.#options.onProgress });
      this.#loaded = true;
      this.info = info;
      return info;
    } catch (error) {
      // WebGPU failed before the model was open: open it on the CPU.
      if (this.#gpuTrouble === trouble || this.#closed) throw error;
      return this.#load(signal);
    }
  }

  /**
   * Sends a request to the worker when the model is open.
   * @param {string} op @param {object} args @param {How} [how] @returns {Promise<any>}
   */
  async request(op, args, how = {}) {
    how.signal?.throwIfAborted();
    await this.ready;
    return this.#post(op, args, how);
  }

  /**
   * Repeats `act` after a loss of the graphics device. The loop ends, because the CPU takes over after the second
   * loss.
   * @template T @param {() => Promise<T>} act @returns {Promise<T>}
   */
  async repeat(act) {
    for (;;) {
      try {
        return await act();
      } catch (error) {
        if (/** @type {any} */ (error).kind !== "device" || this.#closed) throw error;
      }
    }
  }

  /** @param {string} op @param {object} args @param {How} how @returns {Promise<any>} */
  #post(op, args, { signal, onEvent, background = false }) {
    if (this.#closed) return Promise.reject(new DOMException("the model was closed", "AbortError"));
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      const cancelled = () => {
        this.#pending.delete(id);
        this.#worker.postMessage({ cancel: id });
        reject(signal?.reason);
      };
      const settle = (/** @type {(value: any) => void} */ how) => (/** @type {any} */ value) => {
        signal?.removeEventListener("abort", cancelled);
        how(value);
      };
      if (signal?.aborted) return reject(signal.reason);
      signal?.addEventListener("abort", cancelled, { once: true });
      const message = { id, op, args, background };
      this.#pending.set(id, { resolve: settle(resolve), reject: settle(reject), onEvent, message });
      this.#worker.postMessage(message);
    });
  }

  /** @param {any} data */
  #receive(data) {
    if (data.fatal) return this.#crash(data.fatal, data.onGpu);
    if (data.libraryChanged) return this.#options.onLibraryChange?.();
    const pending = this.#pending.get(data.id);
    if (!pending) return;
    if ("event" in data) return pending.onEvent?.(data.event);
    this.#pending.delete(data.id);
    if (data.error) pending.reject(fromWorker(data.error));
    else pending.resolve(data.result);
  }

  /** @param {string} message @param {boolean} [onGpu] whether the worker used WebGPU */
  #crash(message, onGpu = false) {
    if (this.#closed) return;
    this.#worker.terminate();
    const wasLoaded = this.#loaded;
    this.#loaded = false;
    if (onGpu) this.#countGpuFailure(message, wasLoaded);
    const kind = onGpu ? "device" : /memory/i.test(message) ? "memory" : "crashed";
    const lost = [...this.#pending.values()];
    this.#pending.clear();
    if (wasLoaded || onGpu) this.#worker = this.#start();
    if (wasLoaded) {
      this.generation += 1;
      this.ready = this.#load();
      this.ready.catch(() => undefined); // the next request reports the error
      this.#options.onRestart?.(message, this.ready);
    }
    for (const pending of lost) pending.reject(new MmgemError(kind, message));
  }

  /** WebGPU gets a second chance if it had worked. @param {string} message @param {boolean} hadWorked */
  #countGpuFailure(message, hadWorked) {
    this.#gpuFailures += 1;
    if (!hadWorked) this.#gpuTrouble = `WebGPU does not work here (${message})`;
    else if (this.#gpuFailures > 1) this.#gpuTrouble = `WebGPU broke down twice in this visit (${message})`;
  }

  close() {
    this.#closed = true;
    this.#worker.terminate();
    for (const pending of this.#pending.values()) pending.reject(new DOMException("the model was closed", "AbortError"));
    this.#pending.clear();
  }
}

/** @param {{ kind: any, name: string, message: string }} error */
function fromWorker({ kind, name, message }) {
  return name === "AbortError" ? new DOMException(message, name) : new MmgemError(kind, message);
}
