// The worker: one model, one queue. Requests come in as { id, op, args, background }, answers go out as
// { id, result }, { id, event } or { id, error }; { fatal } means that this worker cannot continue.
//
// Requests are answered one after the other. A request that a user waits for goes before the indexing. A caption
// handles messages after each token, so that it can be cancelled. It then also answers the requests that follow the
// user's pointer.

import { chooseBackend, watchDevice } from "./backend.js";
import { fetchModel, Trouble } from "./model-files.js";
import { Photos } from "./photos.js";
import { Store } from "./store.js";
import { warmUp } from "./warm-up.js";
import { WASM_CODE } from "./wasm-code.js";

/**
 * @typedef {typeof import("./cpu/mmgem_web.js")} Wasm
 * @typedef {{ id: number, op: string, args: any, background: boolean, abort: AbortController }} Job
 */

/** @type {any} */
const scope = self;

/** @type {Wasm} */
let wasm;
/** @type {WebAssembly.Memory} */
let memory;
/** @type {import("./cpu/mmgem_web.js").Model} */
let model;
/** @type {Photos} */
let photos;
/** @type {Store} */
let store;
let dead = false;
/** Whether the loaded module uses WebGPU. */
let onGpu = false;
/** Resolves to the browser's message when the graphics device is lost. @type {Promise<string>} */
const deviceLost = new Promise((resolve) => {
  watchDevice((why) => {
    resolve(why);
    if (onGpu) die(why);
  });
});
/** Wait for that message after a failure on WebGPU, which often comes before it. */
const LOST_WAIT_MS = 500;
/** @type {AsyncGenerator<void> | null} */
let warming = null;

/** @type {Job[]} */
const queue = [];
/** @type {Job | null} */
let current = null;

/** For the console and for tests. */
scope.mmgemOnGpu = () => onGpu;
scope.mmgemPanicked = (/** @type {string} */ message) => die(message);
scope.onunhandledrejection = (/** @type {PromiseRejectionEvent} */ event) => die(String(event.reason));

scope.onmessage = (/** @type {MessageEvent} */ { data }) => {
  if (data.lock) return live(data.lock);
  if (data.cancel) return cancel(data.cancel);
  queue.push({ ...data, abort: new AbortController() });
  if (!current) work();
};

/**
 * Holds a lock while this worker runs. The lock is the only sign to the page that the browser ended the worker.
 * @param {string} lock
 */
function live(lock) {
  const held = () => {
    scope.postMessage({ alive: lock });
    return new Promise(() => {});
  };
  // Without locks (site data is blocked) the page learns only that the program is loaded.
  Promise.resolve(navigator.locks?.request(lock, held)).catch(() => scope.postMessage({ alive: null }));
}

async function work() {
  for (let job = next(); job && !dead; job = next()) {
    current = job;
    // Receive messages between jobs, so that a cancelled job never starts and an urgent one runs first.
    await breathe();
    await answer(job);
  }
  current = null;
}

/** @param {Job} job */
async function answer(job) {
  try {
    job.abort.signal.throwIfAborted();
    const { result, transfer } = await ops[job.op](job.args, job);
    scope.postMessage({ id: job.id, result }, transfer ?? []);
  } catch (error) {
    if (isFatal(error)) die(String(error));
    else if (!dead) scope.postMessage({ id: job.id, error: plain(error) });
  }
}

/** Answers the requests that follow the user's pointer, between the tokens of a caption. */
async function answerQuick() {
  const isQuick = (/** @type {Job} */ job) => job.op === "boxesAt";
  for (let at = queue.findIndex(isQuick); at >= 0 && !dead; at = queue.findIndex(isQuick)) {
    await answer(queue.splice(at, 1)[0]);
  }
}

/** Takes the oldest request that is not in the background, else the oldest. */
function next() {
  const urgent = queue.findIndex((job) => !job.background);
  return queue.splice(Math.max(urgent, 0), 1)[0];
}

/** Queues background work of the worker itself. @param {string} op */
function later(op) {
  queue.push({ id: 0, op, args: {}, background: true, abort: new AbortController() });
}

/** @param {number} id */
function cancel(id) {
  const at = queue.findIndex((job) => job.id === id);
  if (at >= 0) queue.splice(at, 1);
  if (current?.id === id) current.abort.abort();
}

/** @param {string} message */
async function die(message) {
  if (dead) return;
  dead = true;
  const waited = new Promise((resolve) => setTimeout(() => resolve(message), LOST_WAIT_MS));
  scope.postMessage({ fatal: onGpu ? await Promise.race([deviceLost, waited]) : message, onGpu });
}

/** Whether the worker cannot continue after the error. @param {any} error */
function isFatal(error) {
  return error instanceof WebAssembly.RuntimeError || (onGpu && /the device stopped working/.test(error?.message));
}

/** @param {any} error */
function plain(error) {
  const name = error?.name ?? "Error";
  const byName = name === "QuotaExceededError" ? "storage" : error instanceof RangeError ? "memory" : "input";
  return { kind: error?.kind ?? byName, name, message: String(error?.message || (error?.name ?? error)) };
}

/** Yields to the event loop, so that the worker receives messages. */
function breathe() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve(undefined);
    };
    port2.postMessage(null);
  });
}

/** @typedef {import("./model-files.js").ModelFiles} ModelFiles @typedef {import("./backend.js").Choice} Choice */
/** @typedef {Record<string, string>} Urls of the WebAssembly files, by backend */

/** @param {ModelFiles} files @param {Urls} urls @param {Choice} choice @returns {Promise<Choice>} the backend in use */
async function openSomewhere(files, urls, choice) {
  try {
    model = await open(files, urls, choice.backend);
    return choice;
  } catch (error) {
    if (choice.backend === "cpu" || isFatal(error)) throw error;
    model = await open(files, urls, "cpu");
    return { backend: "cpu", reason: `WebGPU does not work here (${/** @type {Error} */ (error).message})` };
  }
}

/** A wasm module with one function that makes a SIMD vector. */
const WITH_SIMD = Uint8Array.of(
  0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 1, 5, 1, 0x60, 0, 1, 0x7b, 3, 2, 1, 0, 10, 8, 1, 6, 0, 0x41, 0, 0xfd, 0x0f, 0x0b,
);

/** @param {ModelFiles} files @param {Urls} urls @param {"cpu" | "webgpu"} backend */
async function open(files, urls, backend) {
  if (!WebAssembly.validate(WITH_SIMD)) {
    throw new Trouble("browser", "this browser's WebAssembly has no vector instructions (SIMD), which the model needs; " +
      "use Chrome or Edge 91, Firefox 89, Safari 16.4 or a newer one, on a processor with SSE4.1 or NEON");
  }
  onGpu = backend === "webgpu";
  wasm = await WASM_CODE[backend]();
  ({ memory } = await wasm.default({ module_or_path: urls[backend] }));
  const gathered = new wasm.ModelFiles(files.config, files.tokenizer);
  for (const shard of files.shards) gathered.addShard(shard.name, shard.bytes);
  return wasm.Model.open(gathered);
}

/** @param {number[] | null | undefined} box */
const region = (box) => (box ? Float32Array.from(box) : undefined);

/** @type {Record<string, (args: any, job: Job) => Promise<{ result?: any, transfer?: Transferable[] }>>} */
const ops = {
  async load({ source, backend: wish, trouble, warm, urls }, job) {
    const event = (/** @type {string} */ stage, /** @type {number} */ bytes, /** @type {number} */ total) =>
      scope.postMessage({ id: job.id, event: { stage, bytes, total } });
    const files = await fetchModel(source, event, job.abort.signal);
    event("open", files.bytes, files.bytes);
    await breathe();
    const { backend, reason } = await openSomewhere(files, urls, await chooseBackend(wish, trouble, "webgpu" in urls));
    photos = new Photos(model);
    store = new Store(wasm, model, photos, () => scope.postMessage({ libraryChanged: true }));
    if (onGpu && warm) {
      warming = warmUp(model);
      later("warmUp");
    }
    const { name, bytes, fromCache, checked, notKept } = files;
    const { fingerprint, embedDim, weakBelow = null } = model;
    return { result: { name, fingerprint, embedDim, weakBelow, backend, reason, bytes, fromCache, checked, notKept } };
  },

  /** Runs one step of the warm-up, and queues the next one behind other requests. */
  async warmUp() {
    const { done } = await /** @type {AsyncGenerator<void>} */ (warming).next();
    if (!done) later("warmUp");
    return {};
  },

  async openPhoto({ key, file }) {
    return { result: await photos.open(key, file) };
  },

  async closePhoto({ key }) {
    photos.close(key);
    return {};
  },

  async embedText({ text }) {
    const result = await model.embedText(text);
    return { result, transfer: [result.buffer] };
  },

  async embedImage({ key, box }) {
    const result = await model.embedImage(photos.get(key), region(box));
    return { result, transfer: [result.buffer] };
  },

  async caption({ key, box, maxTokens }, job) {
    const writing = model.startCaption(photos.get(key), region(box), maxTokens);
    try {
      let last = { text: "", logProb: 0 };
      for (;;) {
        const caption = await model.continueCaption(writing);
        if (!caption) return { result: last };
        last = { text: caption.text, logProb: caption.logProb };
        caption.free();
        scope.postMessage({ id: job.id, event: last });
        await breathe();
        await answerQuick();
        job.abort.signal.throwIfAborted();
      }
    } finally {
      writing.free();
    }
  },

  async localize({ key, embed }) {
    const place = await model.localize(photos.get(key), embed);
    const { similarity, grid, score } = place;
    const result = {
      similarity, grid, score, seen: [...place.seen], point: [...place.point], box: [...place.box],
    };
    place.free();
    return { result, transfer: [similarity.buffer] };
  },

  async boxesAt({ key, x, y }) {
    const edges = await model.boxesAt(photos.get(key), x, y);
    const boxes = Array.from({ length: edges.length / 4 }, (_, n) => [...edges.subarray(4 * n, 4 * n + 4)]);
    return { result: boxes };
  },

  async memory() {
    return { result: memory.buffer.byteLength };
  },

  async list() {
    return { result: await store.list() };
  },

  async add({ path, file, how }) {
    return { result: await store.add(path, file, how) };
  },

  async thumbnail({ path }) {
    return { result: await store.thumbnail(path) };
  },

  async remove({ paths }) {
    return { result: await store.remove(paths) };
  },

  async restore({ removed }) {
    return { result: await store.restore(removed) };
  },

  async clear() {
    return { result: await store.clear() };
  },

  async search({ embed, limit }) {
    return { result: await store.search(embed, limit) };
  },

  async exportFile() {
    return { result: await store.exportFile() };
  },

  async importFile({ file }) {
    return { result: await store.importFile(file) };
  },
};

