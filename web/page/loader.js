// The open model: loading with progress, switching, the status line and its dialog.

import { forgetModels, keptModels, loadModel } from "./lib/mmgem.js";
import { $, bytes, choose, make, notice, openDialog, recall, remember, words } from "./dom.js";

/**
 * @typedef {import("./lib/mmgem.js").Model} Model @typedef {import("./lib/mmgem.js").ModelSource} ModelSource
 * @typedef {import("./lib/mmgem.js").ModelInfo} Info
 * @typedef {{ url: string, name: string, bytes: number, isKept: boolean }} Offer a model that this page can open
 */

const OWN_MODEL = "model";
/** The server's list of its models, which `cargo web` or `mmgem web` wrote. */
const LIST = "models.json";
/** Delay before the progress bar appears. */
const PATIENCE_MS = 250;

export class Loader extends EventTarget {
  /** @type {Model | null} */
  model = null;
  /** Speed of the last caption. */
  #tokensPerSecond = 0;
  /** @type {ModelSource} */
  #source = new URLSearchParams(location.search).get("model") ?? OWN_MODEL;
  /** The chosen backend of this visit. @type {"auto" | "cpu" | "webgpu"} */
  #backend = chosenBackend();
  #abort = new AbortController();
  /** @type {Promise<Model>} */
  #loading = new Promise(() => {});

  constructor() {
    super();
    this.#wire();
  }

  /** Stores the speed of a caption for the list of models. @param {number} tokensPerSecond 0 if it is unknown */
  wrote(tokensPerSecond) {
    if (!tokensPerSecond || !this.model) return;
    this.#tokensPerSecond = tokensPerSecond;
    if (typeof this.#source !== "string") return;
    const speeds = recallSpeeds();
    const url = folderOf(this.#source);
    speeds[url] = { ...speeds[url], [this.model.info.backend]: Math.round(tokensPerSecond) };
    remember("speeds", JSON.stringify(speeds));
  }

  /** Resolves to the model when it is open. @returns {Promise<Model>} */
  ready() {
    return this.#loading;
  }

  /** Opens a model. The current model stays open until then, and if that fails. @param {ModelSource} [source] */
  load(source = this.#source) {
    this.#abort.abort();
    this.#abort = new AbortController();
    const { model } = this;
    const loading = this.#run(source, this.#abort.signal);
    this.#loading = model ? loading.catch(() => this.model ?? model) : loading;
    this.#loading.catch(() => undefined); // shown by #run
  }

  /** @param {ModelSource} source @param {AbortSignal} signal */
  async #run(source, signal) {
    status("busy", "Loading");
    const backend = this.#backend;
    const started = performance.now();
    try {
      const model = await loadModel(source, {
        backend,
        signal,
        onProgress: (progress) => showProgress(progress, started),
        onRestart: (message, restarted) => this.#restart(message, restarted),
        onLibraryChange: () => this.dispatchEvent(new Event("library")),
      });
      if (signal.aborted) {
        model.close();
        signal.throwIfAborted();
      }
      this.model?.close();
      this.model = model;
      this.#source = source;
      this.#tokensPerSecond = 0;
      this.#announceModel(model.info);
      if (model.info.backend === "webgpu") keepWebGpu();
      else if (backend === "webgpu") {
        notice(`WebGPU was chosen, but the model runs on the processor: ${model.info.reason}.`, { bad: false });
      }
      this.dispatchEvent(new Event("model"));
      return model;
    } catch (error) {
      if (this.#abort.signal === signal) this.#failed(error);
      throw error;
    } finally {
      if (this.#abort.signal === signal) $("loading").hidden = true;
    }
  }

  /** @param {unknown} error */
  #failed(error) {
    if (this.model) {
      const { name, backend } = this.model.info;
      status("ready", backend === "cpu" ? "On the processor" : "On WebGPU");
      if (words(error)) notice(`${words(error)} (The model stays ${name}.)`);
    } else {
      status("failed", "No model");
      notice(words(error) || "Loading was cancelled. Press the status button to load the model.");
    }
  }

  /** Shows that the library restarts the model. @param {string} message @param {Promise<Info>} restarted */
  async #restart(message, restarted) {
    const before = this.model?.info.backend;
    status("busy", "Starting again");
    if (before === "cpu") this.dispatchEvent(new Event("restart")); // on WebGPU the library repeats what was lost
    try {
      const info = await restarted;
      this.#announceModel(info);
      if (before === "cpu") notice(`The model broke down and was started again. (${message})`);
      else if (info.backend === "webgpu") notice(`WebGPU broke down; the model was started again on it. (${message})`);
      else notice(`The processor has taken over: ${info.reason}. Reload the page to try WebGPU again.`);
    } catch (error) {
      status("failed", "No model");
      notice(error);
    } finally {
      $("loading").hidden = true;
    }
  }

  /** @param {Info} info */
  #announceModel(info) {
    status("ready", info.backend === "cpu" ? "On the processor" : "On WebGPU");
    $("status").title = info.reason;
    if (info.notKept && typeof this.#source === "string") {
      notice(`The model will be fetched again next time: ${info.notKept}.`, { bad: false });
    }
  }

  #wire() {
    $("loading-cancel").onclick = () => this.#abort.abort();
    $("status").onclick = () => this.#showFacts();
    for (const input of document.querySelectorAll("input[name=backend]")) {
      const radio = /** @type {HTMLInputElement} */ (input);
      radio.checked = radio.value === chosenBackend();
      radio.onchange = () => {
        this.#backend = /** @type {"auto" | "cpu" | "webgpu"} */ (radio.value);
        remember("backend", radio.value);
        this.#open(this.#source);
      };
    }
    $("model-files").onclick = async () => {
      const files = await choose("pick-model");
      if (files.length) this.#open(files);
    };
    $("model-load").onclick = () => this.#openUrl($("model-url").value.trim() || OWN_MODEL);
    $("forget").onclick = async () => {
      await forgetModels();
      notice("The kept model files are gone; the next visit fetches them again.", { bad: false });
      $("about").close();
    };
  }

  /** @param {string} folder */
  #openUrl(folder) {
    const url = new URL(folder, location.href);
    if (url.origin !== location.origin) {
      notice(`This page talks to its own server only, not to ${url.host}. Download that model and choose its files, ` +
        "or put its folder beside this page.");
      return;
    }
    this.#open(url.href);
  }

  /** @param {ModelSource} source */
  #open(source) {
    $("about").close();
    this.load(source);
  }

  async #showFacts() {
    if ($("status").dataset.state === "failed") this.load();
    openDialog($("about"));
    // The state may have changed since the dialog was last open.
    $("facts").replaceChildren();
    $("models").replaceChildren();
    const facts = await this.#facts();
    $("facts").replaceChildren(...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
    $("models").replaceChildren(...(await offers()).map((offer) => this.#choice(offer)));
  }

  /** @param {Offer} offer */
  #choice({ url, name, bytes: size, isKept }) {
    const isOpen = typeof this.#source === "string" && folderOf(this.#source) === url;
    const open = make("button", { type: "button", class: "tool", disabled: isOpen, onclick: () => this.#open(url) },
      isOpen ? "in use" : "Open");
    const { cpu, webgpu } = recallSpeeds()[url] ?? {};
    const facts = [
      bytes(size),
      isKept ? "in this browser" : "to be fetched",
      ...(cpu ? [`${cpu} tokens/s on the processor`] : []),
      ...(webgpu ? [`${webgpu} tokens/s on WebGPU`] : []),
    ];
    const lines = [facts.join(" · "), new URL(url).pathname].map((line) => make("small", {}, line));
    return make("li", {}, make("span", {}, name, ...lines), open);
  }

  /** @returns {Promise<[string, string][]>} */
  async #facts() {
    if (!this.model) return [["State", "not loaded"]];
    const { info } = this.model;
    /** @type {[string, string][]} */
    const facts = [
      ["Name", info.name],
      ["Runs on", `${info.backend === "cpu" ? "the processor" : "WebGPU"}: ${info.reason}`],
      ["Files", `${bytes(info.bytes)}, ${info.fromCache ? "from this browser's storage" : "fetched"}` +
        `${info.checked ? ", checked (SHA-256)" : ", not checked"}`],
      ["Memory", bytes(await this.model.memory())],
    ];
    if (this.#tokensPerSecond) facts.push(["Writes", `${this.#tokensPerSecond.toFixed(0)} tokens a second`]);
    const storage = await navigator.storage?.estimate?.().catch(() => null);
    if (storage?.quota) facts.push(["Storage", `${bytes(storage.usage ?? 0)} of ${bytes(storage.quota)}`]);
    facts.push(["Fingerprint", info.fingerprint]);
    return facts;
  }
}

/** The models of the server's list, then others that the browser stores. @returns {Promise<Offer[]>} */
async function offers() {
  const kept = await keptModels().catch(() => []);
  const isKept = (/** @type {string} */ url) => kept.some((model) => model.url === url);
  const listed = (await listedModels()).map((model) => ({ ...model, isKept: isKept(model.url) }));
  const others = kept.filter(({ url }) => listed.every((model) => model.url !== url));
  return [...listed, ...others.map((model) => ({ ...model, isKept: true }))];
}

/** The server's list; empty if it has none. @returns {Promise<{ url: string, name: string, bytes: number }[]>} */
async function listedModels() {
  try {
    const list = await (await fetch(LIST, { cache: "no-cache" })).json();
    if (list.format !== "mmgem-models-1") return [];
    return list.models.map((/** @type {{ folder: string, name: string, bytes: number }} */ { folder, name, bytes }) =>
      ({ url: folderOf(folder), name, bytes }));
  } catch {
    return []; // offline, or an older build
  }
}

/** The whole address of a model's folder, with a slash at its end. @param {string} folder */
function folderOf(folder) {
  return new URL(`${folder.replace(/\/+$/, "")}/`, location.href).href;
}

/**
 * Tokens per second of the last caption of each model, by its address.
 * @returns {Record<string, { cpu?: number, webgpu?: number }>}
 */
function recallSpeeds() {
  try {
    return JSON.parse(recall("speeds") ?? "{}");
  } catch {
    return {};
  }
}

/** @returns {"auto" | "cpu" | "webgpu"} */
function chosenBackend() {
  const chosen = recall("backend");
  return chosen === "cpu" || chosen === "webgpu" ? chosen : "auto";
}

/** Asks the service worker to cache the WebGPU module too, which is too large to cache for every browser. */
async function keepWebGpu() {
  const worker = (await navigator.serviceWorker?.ready)?.active;
  worker?.postMessage("keep webgpu");
}

/** @param {"busy" | "ready" | "failed"} state @param {string} text */
function status(state, text) {
  $("status").dataset.state = state;
  $("status-text").textContent = text;
}

/** @param {import("./lib/mmgem.js").Progress} progress @param {number} started */
function showProgress({ stage, bytes: done, total }, started) {
  const elapsed = performance.now() - started;
  if (stage === "download" && elapsed < PATIENCE_MS) return;
  const of = total ? ` of ${bytes(total)}` : "";
  const rate = `, ${bytes((done / elapsed) * 1000)}/s`;
  const text = { download: `Fetching the model, once: ${bytes(done)}${of}${rate}`, cache: "Reading the model",
    open: "Opening the model" }[stage];
  $("loading").hidden = false;
  $("loading-text").textContent = text;
  if (total) $("loading-bar").value = done / total;
  else $("loading-bar").removeAttribute("value");
}
