// The "Describe" view: a photo, its caption, and a caption of each box.

import { $, announce, choose, copyButton, isUndo, make, notice, save, words } from "./dom.js";
import { takePhoto } from "./camera.js";
import { annotated, asJson } from "./export.js";
import { drawHeat } from "./heat.js";
import { RegionList } from "./region-list.js";
import { Stage } from "./stage.js";

/**
 * @typedef {import("./lib/mmgem.js").Caption} Caption
 * @typedef {{ id: number, box: [number, number, number, number], name: string, caption: Caption | null,
 *   text: string, writing: AbortController | null, hue: number }} Region
 * @typedef {[number, number, number, number]} Box
 * @typedef {{ id: number, boxes: Box[], shown: number }} Click
 */

const SAMPLES = 4;
/** Hues that are distinct in both themes, also side by side. */
const HUES = [42, 190, 330, 95, 265, 15, 160, 220];

/** Events: `similar` (detail: { photo, box, file, name }). */
export class Describe extends EventTarget {
  #loader;
  #stage = new Stage();
  #list = new RegionList();
  /** @type {import("./lib/mmgem.js").Photo | null} */
  #photo = null;
  /** @type {File | null} */
  #file = null;
  #url = "";
  /** @type {Caption | null} */
  #whole = null;
  /** @type {Region[]} */
  #regions = [];
  /** @type {number | null} */
  #selected = null;
  /** The boxes of the last click, and the region that shows one of them. @type {Click | null} */
  #click = null;
  /** The point of the wanted preview. @type {[number, number] | null} */
  #hovered = null;
  #previewing = false;
  #lastId = 0;
  /** Removed regions of this photo, with their positions in the list. @type {{ region: Region, at: number }[]} */
  #removed = [];
  /** Cancels the open requests about the previous photo. */
  #about = new AbortController();
  #locating = new AbortController();
  /** @type {import("./lib/mmgem.js").Place | null} */
  #place = null;

  /** @param {import("./loader.js").Loader} loader */
  constructor(loader) {
    super();
    this.#loader = loader;
    this.#wireSources();
    this.#wireStage();
    this.#wireList();
    this.#wirePanel();
    loader.addEventListener("model", () => this.#file && this.open(this.#file));
    loader.addEventListener("restart", () => this.#again());
  }

  shown() {
    dispatchEvent(new Event("resize"));
  }

  // --- the photo ---

  /** @param {File} file */
  async open(file) {
    this.#about.abort();
    this.#about = new AbortController();
    const { signal } = this.#about;
    this.#forget();
    this.#file = file;
    await this.#showPicture(file, signal);
    if (!this.#loader.model) $("whole").textContent = "Waiting for the model…";
    try {
      const model = await this.#loader.ready();
      if (signal.aborted) return;
      this.#photo = await model.openPhoto(file, { signal });
      if (!this.#stage.width) {
        notice(`This browser cannot show ${file.name}, but the model can read it.`, { bad: false });
        this.#stage.show(this.#url, this.#photo.width, this.#photo.height, file.name);
      }
      if (this.#photo.problem) notice(`${file.name} is used only as far as it arrived: ${this.#photo.problem}.`);
      this.#enable(true);
      await this.#captionWhole(signal);
    } catch (error) {
      this.#problem(error, `${file.name} cannot be used.`, signal);
    }
  }

  /** Shows the photo before the model has encoded it. @param {File} file @param {AbortSignal} signal */
  async #showPicture(file, signal) {
    this.#url = URL.createObjectURL(file);
    const picture = new Image();
    picture.src = this.#url;
    const shows = await picture.decode().then(() => true, () => false);
    if (!signal.aborted && shows) {
      this.#stage.show(this.#url, picture.naturalWidth, picture.naturalHeight, file.name);
    }
  }

  #forget() {
    this.#photo?.close();
    URL.revokeObjectURL(this.#url);
    [this.#photo, this.#file, this.#whole, this.#place] = [null, null, null, null];
    for (const region of this.#regions) region.writing?.abort();
    [this.#regions, this.#removed] = [[], []];
    this.#selected = null;
    this.#setClick(null, null);
    this.#hoverAt(null);
    this.#stage.width = 0;
    this.#enable(false);
    $("copy-whole").disabled = true;
    this.#clearPlace();
    this.#draw();
    $("frame").hidden = true;
    $("empty").hidden = false;
    $("whole").className = "caption quiet";
    $("whole").textContent = "Looking…";
  }

  /** @param {boolean} enabled */
  #enable(enabled) {
    for (const id of ["add-box", "save-picture", "save-json", "zoom-in", "zoom-out"]) $(id).disabled = !enabled;
  }

  /** @param {unknown} error @param {string} prefix @param {AbortSignal} signal */
  #problem(error, prefix, signal) {
    if (signal.aborted) return;
    $("whole").className = "caption quiet";
    $("whole").textContent = "Nothing to say.";
    const text = words(error);
    if (text) notice(`${prefix} ${text}`);
  }

  /** @param {AbortSignal} signal */
  async #captionWhole(signal) {
    const { model } = this.#loader;
    if (!model || !this.#photo) return;
    const line = $("whole");
    const stream = model.captionRegion(this.#photo, null, { signal });
    this.#whole = await write(line, stream);
    this.#loader.wrote(stream.tokensPerSecond);
    $("copy-whole").disabled = false;
    announce(`The whole photo: ${this.#whole.text}`);
  }

  /** After a crash of the worker: restarts the unfinished captions. */
  #again() {
    const { signal } = this.#about;
    if (this.#photo && !this.#whole) {
      this.#captionWhole(signal).catch((error) => this.#problem(error, "The caption failed.", signal));
    }
    for (const region of this.#regions) if (!region.caption) this.#captionOne(region);
  }

  // --- regions ---

  /** @param {[number, number, number, number]} box */
  #add(box) {
    this.#lastId += 1;
    const hue = HUES[(this.#lastId - 1) % HUES.length];
    /** @type {Region} */
    const region = { id: this.#lastId, box, name: "", caption: null, text: "", writing: null, hue };
    this.#regions.push(region);
    this.#selected = region.id;
    this.#draw();
    this.#captionOne(region);
    return region;
  }

  /** @param {Region} region */
  async #captionOne(region) {
    region.writing?.abort();
    const stop = new AbortController();
    region.writing = stop;
    [region.caption, region.text] = [null, ""];
    this.#draw();
    try {
      const model = await this.#loader.ready();
      if (!this.#photo || stop.signal.aborted) return;
      const stream = model.captionRegion(this.#photo, region.box, { signal: stop.signal });
      for await (const piece of stream) {
        region.text += piece;
        this.#list.text(region);
      }
      region.caption = await stream.result;
      this.#loader.wrote(stream.tokensPerSecond);
      region.text = region.caption.text;
      announce(`${this.#label(region)}: ${region.text}`);
    } catch (error) {
      const text = words(error);
      if (text && !stop.signal.aborted) notice(`The region has no caption. ${text}`);
    } finally {
      if (region.writing === stop) region.writing = null;
      this.#draw();
    }
  }

  /** @param {number} id */
  #remove(id) {
    const at = this.#regions.findIndex((region) => region.id === id);
    if (at < 0) return;
    const [region] = this.#regions.splice(at, 1);
    region.writing?.abort();
    this.#removed.push({ region, at });
    if (this.#click?.id === id) this.#setClick(null, null);
    announce(`${this.#label(region)} removed`);
    const next = this.#regions[Math.min(at, this.#regions.length - 1)];
    this.#selected = next?.id ?? null;
    this.#draw();
    if (next) this.#stage.focus(next.id);
    else $("add-box").focus();
  }

  /** Restores the region that was removed last. */
  #undo() {
    const { region, at } = this.#removed.pop() ?? {};
    if (!region) return;
    this.#regions.splice(at ?? 0, 0, region);
    this.#selected = region.id;
    announce(`${this.#label(region)} is back`);
    this.#draw();
    this.#stage.focus(region.id);
    if (!region.caption) this.#captionOne(region);
  }

  /** @param {Region} region */
  #label(region) {
    return region.name || `Region ${this.#regions.indexOf(region) + 1 || region.id}`;
  }

  #draw() {
    const shown = this.#regions.map((region) => ({ ...region, label: this.#label(region) }));
    this.#stage.draw(shown, this.#selected);
    this.#list.draw(shown, this.#selected);
    $("regions-hint").hidden = this.#regions.length > 0;
  }

  #wireStage() {
    const on = (/** @type {string} */ type, /** @type {(detail: any) => void} */ act) =>
      this.#stage.addEventListener(type, (event) => act(/** @type {CustomEvent} */ (event).detail));
    on("draw", (box) => this.#add(box));
    on("click-at", (point) => this.#clickAt(point));
    on("step", (by) => this.#step(by));
    on("hover-at", (point) => this.#hoverAt(point));
    on("change", ({ id, box }) => {
      const region = this.#regions.find((region) => region.id === id);
      if (region) region.box = box;
      this.#draw();
    });
    on("changed", ({ id, box }) => {
      const region = this.#regions.find((region) => region.id === id);
      if (!region) return;
      region.box = box;
      if (this.#click?.id === id) this.#setClick(null, null);
      this.#captionOne(region);
    });
    on("select", (id) => {
      this.#selected = id;
      this.#draw();
    });
    on("remove", (id) => this.#remove(id));
    addEventListener("keydown", (event) => {
      if (!isUndo(event) || $("describe").hidden) return;
      event.preventDefault();
      this.#undo();
    });
  }

  /** Shows the best box at a point, or selects it if it exists. @param {[number, number]} point */
  async #clickAt(point) {
    const { signal } = this.#about;
    try {
      const boxes = await this.#boxesAt(point);
      if (!boxes || signal.aborted) return;
      const known = this.#regions.find((region) => isSame(region.box, boxes[0]));
      const { id } = known ?? this.#add(boxes[0]);
      this.#selected = id;
      this.#setClick(point, { id, boxes, shown: 0 });
      this.#draw();
    } catch (error) {
      this.#problem(error, "", signal);
    }
  }

  /** Shows the next or previous box of the same point. @param {number} by */
  #step(by) {
    const click = this.#click;
    const region = this.#regions.find((region) => region.id === click?.id);
    if (!click || !region) return;
    click.shown = this.#after(by);
    region.box = click.boxes[click.shown];
    this.#selected = region.id;
    this.#captionOne(region);
  }

  /** Index of the box `by` steps after the shown one; the first follows the last. @param {number} by */
  #after(by) {
    const { shown, boxes } = /** @type {Click} */ (this.#click);
    return (shown + by + boxes.length) % boxes.length;
  }

  /** @param {[number, number] | null} point @param {Click | null} click */
  #setClick(point, click) {
    this.#stage.clicked = point;
    this.#click = click;
  }

  /** Previews the box of a click. Requests only the latest point. @param {[number, number] | null} point */
  async #hoverAt(point) {
    this.#hovered = point;
    if (!point) this.#stage.preview(null);
    if (this.#previewing) return;
    this.#previewing = true;
    try {
      for (let at = null; this.#hovered && this.#hovered !== at; ) {
        at = this.#hovered;
        const boxes = await this.#boxesAt(at);
        const box = this.#stage.isClicked(at) && this.#click ? this.#click.boxes[this.#after(1)] : boxes?.[0];
        if (this.#hovered) this.#stage.preview(box ?? null);
      }
    } catch {
      this.#stage.preview(null); // a click reports the error
    } finally {
      this.#previewing = false;
    }
  }

  /** @param {[number, number]} point @returns {Promise<Box[] | null>} */
  async #boxesAt([x, y]) {
    const { model } = this.#loader;
    if (!model || !this.#photo) return null;
    const boxes = await model.boxesAt(this.#photo, x, y, { signal: this.#about.signal });
    return /** @type {Box[]} */ (boxes);
  }

  #wireList() {
    const on = (/** @type {string} */ type, /** @type {(region: Region, detail: any) => void} */ act) =>
      this.#list.addEventListener(type, (event) => {
        const { id, ...detail } = /** @type {CustomEvent} */ (event).detail;
        const region = this.#regions.find((region) => region.id === id);
        if (region) act(region, detail);
      });
    on("select", (region) => {
      if (this.#selected === region.id) return;
      this.#selected = region.id;
      this.#draw();
    });
    on("rename", (region, { name }) => {
      region.name = name;
      this.#draw();
    });
    on("remove", (region) => this.#remove(region.id));
    on("similar", (region) => {
      const detail = { photo: this.#photo, box: region.box, file: this.#file, name: this.#label(region) };
      this.dispatchEvent(new CustomEvent("similar", { detail }));
    });
    $("add-box").onclick = () => {
      const { width, height } = this.#stage;
      const region = this.#add([width * 0.3, height * 0.3, width * 0.7, height * 0.7]);
      this.#stage.focus(region.id);
    };
  }

  // --- a phrase ---

  async #locate() {
    const phrase = $("phrase").value.trim();
    this.#locating.abort();
    this.#locating = new AbortController();
    const { signal } = this.#locating;
    if (!phrase) return this.#clearPlace();
    try {
      const model = await this.#loader.ready();
      if (!this.#photo) return notice("Open a photo first.", { bad: false });
      const place = await model.localize(this.#photo, phrase, { signal });
      this.#place = place;
      drawHeat($("heat"), place, this.#photo);
      this.#showHeat();
      this.#stage.place({ box: place.box, label: phrase });
      $("located").hidden = false;
      $("located-text").textContent = `Best box: ${place.score.toFixed(2)} of 1`;
    } catch (error) {
      const text = words(error);
      if (text) notice(text);
    }
  }

  #showHeat() {
    $("heat").hidden = !this.#place || !$("show-heat").checked;
  }

  #clearPlace() {
    this.#locating.abort();
    this.#place = null;
    this.#stage.place(null);
    $("heat").hidden = true;
    $("located").hidden = true;
  }

  #keepPlace() {
    if (!this.#place) return;
    const region = this.#add(/** @type {[number, number, number, number]} */ ([...this.#place.box]));
    region.name = $("phrase").value.trim();
    $("phrase").value = "";
    this.#clearPlace();
    this.#draw();
  }

  // --- around it ---

  #wirePanel() {
    $("locate").onsubmit = (/** @type {Event} */ event) => {
      event.preventDefault();
      this.#locate();
    };
    $("phrase").oninput = () => !$("phrase").value && this.#clearPlace();
    $("show-heat").onchange = () => this.#showHeat();
    const copy = copyButton("Copy the caption of the whole photo", () => this.#whole?.text ?? "");
    copy.id = "copy-whole";
    copy.disabled = true;
    $("whole-head").append(copy);
    $("zoom-in").onclick = () => this.#stage.zoomBy(1.5);
    $("zoom-out").onclick = () => this.#stage.zoomBy(1 / 1.5);
    $("keep-place").onclick = () => this.#keepPlace();
    $("save-picture").onclick = () => this.#savePicture();
    $("save-json").onclick = () => this.#saveJson();
  }

  async #savePicture() {
    const shown = this.#regions.map((region) => ({ ...region, label: this.#label(region) }));
    const heat = $("heat").hidden ? null : $("heat");
    try {
      const picture = await annotated($("picture"), this.#stage, shown, this.#whole?.text ?? "", heat);
      save(picture, `${this.#stem()}-described.png`);
    } catch (error) {
      notice(error);
    }
  }

  #saveJson() {
    const { model } = this.#loader;
    if (!model || !this.#photo || !this.#file) return;
    const shown = this.#regions.map((region) => ({ ...region, name: this.#label(region) }));
    save(asJson(this.#file.name, this.#photo, model.info, this.#whole, shown), `${this.#stem()}-described.json`);
  }

  #stem() {
    return (this.#file?.name ?? "photo").replace(/\.[^.]*$/, "");
  }

  #wireSources() {
    const choosePhoto = async () => {
      const [file] = await choose("pick-photo");
      if (file) this.open(file);
    };
    $("open").onclick = $("open-2").onclick = choosePhoto;
    $("paste").onclick = () => this.#paste();
    $("camera").onclick = async () => {
      const file = await takePhoto();
      if (file) this.open(file);
    };
    addEventListener("paste", (event) => {
      const file = [...(event.clipboardData?.files ?? [])].find((file) => file.type.startsWith("image/"));
      if (file && !$("describe").hidden) this.open(file);
    });
    for (let n = 1; n <= SAMPLES; n += 1) $("samples").append(this.#sample(n));
  }

  /** @param {number} n */
  #sample(n) {
    const url = `samples/${n}.jpg`;
    const open = async () => {
      try {
        const response = await fetch(url);
        this.open(new File([await response.blob()], `sample-${n}.jpg`, { type: "image/jpeg" }));
      } catch {
        notice("The sample cannot be fetched; is the server running?");
      }
    };
    return make("button", { "aria-label": `Sample ${n}`, onclick: open }, make("img", { src: url, alt: "", loading: "lazy" }));
  }

  async #paste() {
    try {
      for (const item of await navigator.clipboard.read()) {
        const type = item.types.find((type) => type.startsWith("image/"));
        if (type) return this.open(new File([await item.getType(type)], "pasted.png", { type }));
      }
      notice("There is no picture in the clipboard. Copy one first, then press Paste or Ctrl+V.", { bad: false });
    } catch {
      notice("The browser does not let this button read the clipboard. Press Ctrl+V (⌘V) instead.", { bad: false });
    }
  }
}

/** Whether two boxes are nearly the same. @param {Box} a @param {Box} b */
function isSame(a, b) {
  const near = (/** @type {number} */ i) => Math.abs(a[i] - b[i]) < 0.05 * Math.max(b[2] - b[0], b[3] - b[1]);
  return [0, 1, 2, 3].every(near);
}

/**
 * Shows a caption in progress.
 * @param {HTMLElement} line @param {import("./lib/mmgem.js").CaptionStream} stream
 */
async function write(line, stream) {
  line.className = "caption writing";
  line.textContent = "";
  try {
    for await (const piece of stream) line.append(piece);
    const caption = await stream.result;
    line.textContent = caption.text || "(nothing)";
    return caption;
  } finally {
    line.classList.remove("writing");
  }
}
