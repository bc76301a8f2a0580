// The "Find" view: the library of this browser, its index and its search.

import { $, announce, bytes, choose, count, icon, isUndo, make, notice, openDialog, save, words } from "./dom.js";
import * as folders from "./folders.js";
import { fromDrop, fromFolder, fromInput } from "./folder.js";
import { factsOf } from "./lib/facts.js";
import { Grid, hitBox, isClearer } from "./grid.js";
import { Indexer } from "./indexer.js";

/**
 * @typedef {import("./lib/mmgem.js").LibraryPhoto} LibraryPhoto
 * @typedef {import("./lib/mmgem.js").PhotoHit} PhotoHit
 * @typedef {import("./folder.js").Found} Found
 * @typedef {{ photo?: import("./lib/mmgem.js").Photo, box?: number[] | null, file: Blob, name: string }} PartQuery
 * @typedef {{ removed: import("./lib/mmgem.js").RemovedPhotos, files: Map<string, File>, text: string }} Removal
 */

/** Delay of a repeated search after new photos. */
const AGAIN_MS = 1500;
/** Delay before changes of another tab are shown, so that they are shown together. */
const FOLLOW_MS = 300;
/** Free photos to try. `assets/demo/README.md` lists them with their authors. */
const DEMO = ["astronaut", "cat", "coffee", "galaxies", "grass", "officer", "photographer", "raccoon", "rocket", "stairs"]
  .map((name) => `${name}.jpg`);
const FORMATS = "JPEG, PNG, WebP, GIF, BMP, TIFF; AVIF and HEIC where the browser reads them";

/** Events: `describe` (detail: File), `query` (detail: { text, isFinal }; `isFinal`: the user pressed Enter). */
export class Find extends EventTarget {
  #loader;
  #indexer;
  #grid;
  /** @type {Map<string, LibraryPhoto>} */
  #photos = new Map();
  /** Files that can be opened in this visit. @type {Map<string, File>} */
  #files = new Map();
  /** @type {PhotoHit[] | null} */
  #hits = null;
  #isWeak = false;
  /** @type {PartQuery | null} */
  #part = null;
  /** Path of the photo in the viewer. */
  #viewed = "";
  /** What "Undo" brings back, the last removal at the end. @type {Removal[]} */
  #removals = [];
  /** The line that offers to undo the last removal. @type {HTMLElement | undefined} */
  #offer;
  /** Fingerprint of the model of the removals. */
  #fingerprint = "";
  #searching = new AbortController();
  #scanning = new AbortController();
  /** @type {ReturnType<typeof setTimeout> | 0} */
  #later = 0;
  /** @type {ReturnType<typeof setTimeout> | 0} */
  #following = 0;

  /** @param {import("./loader.js").Loader} loader */
  constructor(loader) {
    super();
    this.#loader = loader;
    this.#indexer = new Indexer(loader);
    this.#grid = new Grid(async (path) => (await loader.ready()).library.thumbnail(path));
    this.#grid.addEventListener("open", (event) => this.#view(/** @type {CustomEvent} */ (event).detail));
    loader.addEventListener("model", () => {
      const fingerprint = loader.model?.info.fingerprint ?? "";
      if (fingerprint !== this.#fingerprint) this.#forgetRemovals();
      this.#fingerprint = fingerprint;
      this.#readLibrary();
    });
    loader.addEventListener("library", () => this.#follow());
    this.#wireIndexer();
    this.#wireSearch();
    this.#wireLibrary();
    this.#draw();
  }

  shown() {
    this.#draw();
  }

  // --- the library ---

  /** Shows the changes of another tab. */
  #follow() {
    this.#following ||= setTimeout(() => {
      this.#following = 0;
      this.#readLibrary({ fromTop: false });
    }, FOLLOW_MS);
  }

  /** @param {{ fromTop?: boolean }} [how] */
  async #readLibrary({ fromTop = true } = {}) {
    try {
      const model = await this.#loader.ready();
      const photos = await model.library.list();
      this.#photos = new Map(photos.map((photo) => [photo.path, photo]));
      if (fromTop) this.#grid.forget();
      this.#draw(fromTop);
      if (this.#hasQuery()) await this.#search(fromTop);
    } catch (error) {
      const text = words(error);
      if (text) notice(`The library of this browser cannot be read. ${text}`);
    }
  }

  /** Asks the browser to keep the library, or warns that it stores nothing. Call before photos are added. */
  async #askToKeep() {
    const model = await this.#loader.ready();
    if (!(await model.library.isKept())) {
      notice("This browser stores nothing for this page (its site data is blocked, or the window is private), so the " +
        "library lasts until the page is closed.", { bad: false });
    } else {
      await navigator.storage?.persist?.().catch(() => false);
    }
  }

  /** Gives the indexer what is new or changed. @param {readonly Found[]} found */
  #take(found) {
    const known = new Map([...this.#photos.values()].map((photo) => [factsOf(photo), photo]));
    const stale = [];
    for (const one of found) {
      const photo = known.get(factsOf(one));
      if (photo) this.#files.set(photo.path, one.file);
      // A path with its folder says more than one without.
      const move = photo && one.path.includes("/") && !photo.path.includes("/");
      if (!photo || photo.imported || move) stale.push({ ...one, move, known: photo?.path });
    }
    if (stale.length && !this.#indexer.running) this.#askToKeep().catch(() => undefined);
    this.#indexer.add(stale);
    return stale.length;
  }

  async #pickFolder() {
    const picker = /** @type {any} */ (window).showDirectoryPicker;
    if (!picker) return this.#takeInput(await choose("pick-folder"));
    let folder;
    try {
      folder = await picker({ id: "photos", mode: "read" });
    } catch (error) {
      if (/** @type {Error} */ (error).name !== "AbortError") notice(error);
      return;
    }
    this.#scanning = new AbortController();
    await this.#scan(folder, this.#scanning.signal);
  }

  /** @param {any} folder a FileSystemDirectoryHandle @param {AbortSignal} signal */
  async #scan(folder, signal) {
    /** @type {Set<string>} */
    const seen = new Set();
    const facts = new Set();
    /** @type {Found[]} */
    let some = [];
    let stale = 0;
    $("count").textContent = `Reading ${folder.name}…`;
    const label = await folders.labelOf(folder);
    try {
      for await (const photo of fromFolder(folder, signal, label)) {
        seen.add(photo.path);
        facts.add(factsOf(photo));
        some.push({ ...photo, replace: true });
        if (some.length >= 200) {
          stale += this.#take(some);
          some = [];
        }
      }
    } catch (error) {
      if (signal.aborted) return this.#draw();
      notice(`The folder ${folder.name} cannot be read to its end. ${words(error)}`);
      this.#take(some);
      return this.#draw();
    }
    stale += this.#take(some);
    await this.#forgetMissing(label, seen, facts);
    this.#said(seen.size, stale, folder.name);
  }

  /**
   * Removes photos that are no longer in their folder. A photo that moved inside the folder stays.
   * @param {string} folder @param {ReadonlySet<string>} seen @param {ReadonlySet<string>} facts
   */
  async #forgetMissing(folder, seen, facts) {
    const isGone = (/** @type {LibraryPhoto} */ photo) =>
      photo.path.startsWith(`${folder}/`) && !seen.has(photo.path) && !facts.has(factsOf(photo));
    const gone = [...this.#photos.values()].filter(isGone).map((photo) => photo.path);
    if (!gone.length) return;
    const text = `${count(gone.length, "photo is", "photos are")} no longer in ${folder} and left the library.`;
    await this.#forget(gone, text);
  }

  /** Removes photos from the library, and offers to undo it. @param {readonly string[]} paths @param {string} text */
  async #forget(paths, text) {
    const { library } = await this.#loader.ready();
    const removed = await library.remove(paths);
    const files = new Map();
    for (const path of paths) {
      const file = this.#files.get(path);
      if (file) files.set(path, file);
      this.#photos.delete(path);
      this.#files.delete(path);
      this.#grid.changed(path);
    }
    this.#removals.push({ removed, files, text });
    this.#offerUndo();
  }

  #offerUndo() {
    this.#offer?.remove();
    const last = this.#removals[this.#removals.length - 1];
    $("viewer-undo").hidden = !last;
    $("viewer-undo").title = last?.text ?? "";
    this.#offer = last && notice(last.text, { bad: false, undo: () => this.#undo() });
  }

  #forgetRemovals() {
    this.#removals = [];
    this.#offerUndo();
  }

  /** Brings the photos of the last removal back. */
  async #undo() {
    const last = this.#removals.pop();
    if (!last) return;
    this.#offerUndo();
    try {
      await (await this.#loader.ready()).library.restore(last.removed);
    } catch (error) {
      return notice(error);
    }
    for (const [path, file] of last.files) this.#files.set(path, file);
    await this.#readLibrary({ fromTop: false });
    const { paths } = last.removed;
    announce(`${paths.length === 1 ? paths[0] : count(paths.length, "photo", "photos")} back in the library`);
    const photo = this.#photos.get(paths[0]);
    if ($("viewer").open && photo) this.#view(photo);
    else this.#grid.focus(paths[0]);
  }

  /** @param {readonly File[]} files as the user chose them, of any kind */
  #takeInput(files) {
    if (files.length) this.#takeAll(fromInput(files), files.length);
  }

  /** @param {Found[]} found @param {number} [chosen] number of chosen files, of any kind */
  #takeAll(found, chosen = found.length) {
    const stale = this.#take(found);
    const others = chosen - found.length;
    if (found.length && others > 0) {
      notice(`${count(others, "file is", "files are")} not photos that can be read here and were left out. (${FORMATS}.)`, { bad: false });
    }
    this.#said(found.length, stale, "what you chose");
  }

  /** Adds the photos of a drop. Call within its event. @param {DataTransfer} transfer */
  async takeDrop(transfer) {
    const { handles, photos } = await fromDrop(transfer);
    this.#scanning = new AbortController();
    const { signal } = this.#scanning;
    for (const handle of handles) {
      if (!signal.aborted) await this.#scan(handle, signal);
    }
    if (photos.length || !handles.length) this.#takeAll(photos);
  }

  /** @param {number} seen @param {number} stale @param {string} where */
  #said(seen, stale, where) {
    if (!seen) notice(`There is no photo in ${where}. (${FORMATS}.)`);
    else if (!stale) notice(`All ${count(seen, "photo", "photos")} of ${where} are in the library already.`, { bad: false });
    this.#draw();
  }

  #wireIndexer() {
    const on = (/** @type {string} */ type, /** @type {(detail: any) => void} */ act) =>
      this.#indexer.addEventListener(type, (event) => act(/** @type {CustomEvent} */ (event).detail));
    on("added", ({ photo, file, known }) => {
      if (known && known !== photo.path) {
        this.#photos.delete(known);
        this.#grid.changed(known);
      }
      this.#photos.set(photo.path, photo);
      this.#files.set(photo.path, file);
      this.#grid.changed(photo.path);
      this.#soon();
    });
    on("progress", (progress) => this.#showProgress(progress));
    on("stopped", (why) => {
      if (why) return notice(`Indexing is paused. ${why}`);
      $("indexing").hidden = true;
      announce(`${count(this.#photos.size, "photo", "photos")} in the library`);
      this.#draw();
      if (this.#hasQuery()) this.#search();
    });
    $("pause").onclick = () => (this.#indexer.paused ? this.#indexer.resume() : this.#indexer.pause());
    $("stop").onclick = () => {
      this.#scanning.abort();
      this.#indexer.stop();
    };
  }

  /** @param {import("./indexer.js").Progress} progress */
  #showProgress({ done, total, perSecond, paused, failed }) {
    $("indexing").hidden = done >= total;
    $("index-bar").value = total ? done / total : 0;
    const left = perSecond && !paused ? `, ${duration((total - done) / perSecond)} left` : "";
    const rate = perSecond && !paused ? ` · ${perSecond.toFixed(1)} photos/s${left}` : paused ? " · paused" : "";
    $("index-text").textContent = `${done.toLocaleString("en")} of ${total.toLocaleString("en")}${rate}`;
    $("pause").textContent = paused ? "Resume" : "Pause";
    $("failed").hidden = !failed.length;
    if (!failed.length) return;
    $("failed-count").textContent = `${count(failed.length, "file", "files")} passed over`;
    const list = $("failed-list");
    for (const { path, why } of failed.slice(list.children.length)) list.append(make("li", {}, `${path}: ${why}`));
    while (list.children.length > failed.length) list.firstChild.remove();
  }

  /** While the index grows the page shows it, but not at every photo. */
  #soon() {
    this.#later ||= setTimeout(() => {
      this.#later = 0;
      if (this.#hasQuery()) this.#search(false);
      else this.#draw(false);
    }, this.#photos.size < 40 ? 120 : AGAIN_MS);
  }

  // --- search ---

  #wireSearch() {
    $("search").onsubmit = (/** @type {Event} */ event) => {
      event.preventDefault();
      this.#setPart(null);
      this.#search();
      this.#tell(true);
    };
    $("query").oninput = () => {
      if ($("query").value.trim()) this.#setPart(null);
      if (!this.#part) this.#search();
      this.#tell(false);
    };
    $("by-photo").onclick = async () => {
      const [file] = await choose("pick-photo");
      if (file) this.searchRegion({ file, name: file.name });
    };
    $("cut").oninput = () => this.#draw();
  }

  /** @param {boolean} isFinal */
  #tell(isFinal) {
    const detail = { text: $("query").value.trim(), isFinal };
    this.dispatchEvent(new CustomEvent("query", { detail }));
  }

  /** The text of the query. */
  get text() {
    return $("query").value.trim();
  }

  /** Searches for a text, or shows all photos. @param {string} text */
  ask(text) {
    if ($("query").value.trim() === text) return;
    $("query").value = text;
    this.#setPart(null);
    this.#search();
  }

  /** Searches by a photo, or by a region of it. @param {PartQuery} part */
  searchRegion(part) {
    $("query").value = "";
    this.#setPart(part);
    this.#search();
  }

  /** @param {PartQuery | null} part */
  #setPart(part) {
    this.#part = part;
    const chip = $("query-part");
    chip.hidden = !part;
    chip.replaceChildren();
    if (!part) return;
    const picture = make("img", { alt: "" });
    crop(part).then((url) => (picture.src = url), () => picture.remove());
    const close = make("button", { type: "button", class: "icon", "aria-label": "Search for something else",
      onclick: () => {
        this.#setPart(null);
        this.#show(null);
      } }, icon("close"));
    chip.append(picture, part.name, close);
  }

  #hasQuery() {
    return this.#part !== null || $("query").value.trim() !== "";
  }

  async #search(fromTop = true) {
    this.#searching.abort();
    this.#searching = new AbortController();
    const { signal } = this.#searching;
    const text = $("query").value.trim();
    if (!this.#part && !text) return this.#show(null);
    try {
      const model = await this.#loader.ready();
      const how = { signal, limit: this.#photos.size };
      const part = this.#part;
      if (part && !part.photo) part.photo = await model.openPhoto(part.file, { signal });
      const hits = !part?.photo ? await model.searchPhotos(text, how)
        : part.box ? await model.similarRegions(part.photo, part.box, how)
        : await model.searchPhotos(part.photo, how);
      const { weakBelow } = model.info;
      const isWeak = !part?.photo && hits.length > 0 && weakBelow !== null && hits[0].score < weakBelow;
      this.#show(hits, fromTop, isWeak);
    } catch (error) {
      const why = words(error);
      if (why && !signal.aborted) notice(`The search failed. ${why}`);
    }
  }

  /** @param {PhotoHit[] | null} hits @param {boolean} isWeak whether even the best hit of a text scores low */
  #show(hits, fromTop = true, isWeak = false) {
    this.#hits = hits;
    this.#isWeak = isWeak;
    this.#draw(fromTop);
    if (hits) announce($("count").textContent);
  }

  #draw(fromTop = true) {
    const empty = this.#photos.size === 0;
    $("grid-empty").hidden = !empty || this.#indexer.running;
    $("tiles").hidden = empty;
    document.querySelector(".cut")?.toggleAttribute("hidden", !this.#hits);
    if (!this.#hits) {
      $("count").textContent = empty ? "No photos yet" : count(this.#photos.size, "photo", "photos");
      return this.#grid.show([...this.#photos.values()].sort((a, b) => b.modifiedMs - a.modifiedMs), fromTop);
    }
    const least = Number($("cut").value);
    const items = [];
    for (const [i, hit] of this.#hits.entries()) {
      const photo = this.#photos.get(hit.path);
      if (photo && (i === 0 || hit.relevance >= least)) items.push({ ...photo, score: hit.score, box: hit.box, boxScore: hit.boxScore });
    }
    $("count").textContent = this.#isWeak ? `Nothing found; the nearest of ${count(this.#photos.size, "photo", "photos")}`
      : `${count(items.length, "match", "matches")} in ${count(this.#photos.size, "photo", "photos")}`;
    this.#grid.show(items, fromTop);
  }

  // --- one photo ---

  /** @param {import("./grid.js").Item} item */
  async #view(item) {
    const near = this.#grid.near(item.path);
    const go = (/** @type {import("./grid.js").Item | undefined} */ to) => to && this.#view(to);
    [$("viewer-before").disabled, $("viewer-after").disabled] = [!near.before, !near.after];
    $("viewer-before").onclick = () => go(near.before);
    $("viewer-after").onclick = () => go(near.after);
    this.#viewed = item.path;
    openDialog($("viewer"));

    const file = await this.#fileOf(item.path, false);
    const model = await this.#loader.ready();
    const picture = file ?? (await model.library.thumbnail(item.path).catch(() => null));
    const canOpen = file !== null || (await folders.isKept(item.path).catch(() => false));
    if (this.#viewed !== item.path) return; // the user went on
    URL.revokeObjectURL($("viewer-picture").src);
    const url = picture ? URL.createObjectURL(picture) : "";
    $("viewer-title").textContent = item.path;
    $("viewer-picture").src = url;
    $("viewer-picture").alt = item.path;
    $("viewer-picture").hidden = !url;
    $("viewer-note").textContent = file ? `${item.width} × ${item.height} pixels`
      : canOpen ? "This is the index's small picture. “Describe it” opens the photo itself; the browser asks you first."
      : "Only what the index keeps of it is here. Add its folder again to open the photo itself; nothing is encoded twice.";
    const frame = isClearer(item) ? hitBox(item.box ?? [], item) : make("span", { class: "hit-box", hidden: true });
    frame.id = "viewer-box";
    $("viewer-box").replaceWith(frame);
    $("viewer-describe").disabled = !canOpen;
    $("viewer-describe").onclick = () => this.#describe(item.path);
    $("viewer-similar").disabled = !picture;
    $("viewer-similar").onclick = () => {
      $("viewer").close();
      if (picture) this.searchRegion({ file: picture, name: item.path.split("/").pop() ?? item.path });
    };
    $("viewer-remove").onclick = () => this.#remove(item.path, near.after ?? near.before);
  }

  /** @param {string} path @param {boolean} mayAsk whether to ask the user for permission */
  async #fileOf(path, mayAsk) {
    const file = this.#files.get(path) ?? (await folders.fileOf(path, mayAsk).catch(() => null));
    if (file) this.#files.set(path, file);
    return file;
  }

  /** @param {string} path */
  async #describe(path) {
    const file = await this.#fileOf(path, true);
    if (!file) return notice(`${path} cannot be opened: the browser was not allowed to, or it is no longer in its folder.`);
    $("viewer").close();
    this.dispatchEvent(new CustomEvent("describe", { detail: file }));
  }

  /**
   * Removes a photo from the library and shows another.
   * @param {string} path @param {import("./grid.js").Item} [next]
   */
  async #remove(path, next) {
    const text = `${path} left the library. Its file stays where it is.`;
    try {
      await this.#forget([path], text);
    } catch (error) {
      return notice(error);
    }
    this.#hits &&= this.#hits.filter((hit) => hit.path !== path);
    this.#draw(false);
    if (this.#hasQuery()) this.#search(false); // the best of the rest may be a weak match
    announce(text);
    if (next && $("viewer").open) this.#view(next);
    else $("viewer").close();
  }

  // --- around it ---

  #wireLibrary() {
    $("folder").onclick = () => this.#pickFolder();
    $("files").onclick = async () => this.#takeInput(await choose("pick-photos"));
    $("viewer").onclose = () => URL.revokeObjectURL($("viewer-picture").src);
    $("viewer").onkeydown = (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "ArrowLeft") $("viewer-before").click();
      if (event.key === "ArrowRight") $("viewer-after").click();
    };
    $("viewer-undo").onclick = () => this.#undo();
    addEventListener("keydown", (event) => {
      if (!isUndo(event) || $("find").hidden || !this.#removals.length) return;
      event.preventDefault();
      this.#undo();
    });
    for (const name of DEMO) $("demo").append(this.#demo(name));
    $("demo-all").onclick = () => this.#takeDemo(DEMO);
    $("more").onclick = () => this.#showMenu();
    $("export").onclick = () => this.#attempt(async (library) => {
      save(await library.exportFile(), "photos.library");
    });
    $("import").onclick = () => this.#attempt(async (library) => {
      const [file] = await choose("pick-index");
      if (!file) return;
      const taken = await library.importFile(file);
      notice(`${count(taken, "photo was", "photos were")} taken over from ${file.name}.`, { bad: false });
      await this.#readLibrary();
    });
    $("clear").onclick = () => this.#attempt(async (library) => {
      if (!confirm(`Forget all ${count(this.#photos.size, "photo", "photos")} of the library? The photos themselves stay where they are.`)) return;
      this.#indexer.stop();
      await library.clear();
      this.#forgetRemovals();
      this.#hits = null;
      await this.#readLibrary();
    });
  }

  /** A photo to try. @param {string} name */
  #demo(name) {
    const picture = make("img", { src: `demo/${name}`, alt: "", loading: "lazy" });
    return make("button", { "aria-label": `Try the photo ${name}`, onclick: () => this.#takeDemo([name]) }, picture);
  }

  /** @param {readonly string[]} names */
  async #takeDemo(names) {
    try {
      const files = await Promise.all(names.map(async (name) => {
        const response = await fetch(`demo/${name}`);
        return new File([await response.blob()], name, { type: "image/jpeg", lastModified: 0 });
      }));
      this.#takeAll(fromInput(files));
    } catch {
      notice("The photos cannot be fetched; is the server running?");
    }
  }

  async #showMenu() {
    openDialog($("library-menu"));
    const estimate = await navigator.storage?.estimate?.().catch(() => null);
    const storage = estimate?.quota ? ` This page uses ${bytes(estimate.usage ?? 0)} of ${bytes(estimate.quota)} of storage.` : "";
    const kept = await navigator.storage?.persisted?.().catch(() => false);
    const safe = kept ? "" : " The browser may clear it when the disk is nearly full.";
    $("library-facts").textContent = `${count(this.#photos.size, "photo", "photos")} in this browser.${storage}${safe}`;
  }

  /** @param {(library: import("./lib/mmgem.js").Library) => Promise<void>} act */
  async #attempt(act) {
    try {
      await act((await this.#loader.ready()).library);
    } catch (error) {
      notice(error);
    }
    $("library-menu").close();
  }
}

/** A thumbnail of the query photo or region. @param {PartQuery} part @returns {Promise<string>} */
async function crop({ file, box }) {
  const bitmap = await createImageBitmap(file);
  const [x0, y0, x1, y1] = box ?? [0, 0, bitmap.width, bitmap.height];
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 60;
  const side = Math.max(x1 - x0, y1 - y0);
  const [w, h] = [((x1 - x0) / side) * 60, ((y1 - y0) / side) * 60];
  canvas.getContext("2d")?.drawImage(bitmap, x0, y0, x1 - x0, y1 - y0, (60 - w) / 2, (60 - h) / 2, w, h);
  bitmap.close();
  return canvas.toDataURL();
}

/** @param {number} seconds */
function duration(seconds) {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}
