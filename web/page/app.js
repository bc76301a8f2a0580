// The page: one model, two views.

import { $, notice } from "./dom.js";
import { Describe } from "./describe.js";
import { Find } from "./find.js";
import { Loader } from "./loader.js";

const loader = new Loader();
const describe = new Describe(loader);
const find = new Find(loader);

const tabs = [$("tab-describe"), $("tab-find")];

/** Shows the view and the query of the page's address, so that Back, Forward and a reload work. */
function follow() {
  const asked = new URLSearchParams(location.hash.slice(1));
  show(asked.has("find") ? 1 : 0);
  find.ask(asked.get("find") ?? "");
}

/** @param {number} index @param {string} [query] */
function go(index, query = "") {
  show(index);
  const address = index ? `#${new URLSearchParams({ find: query })}` : "#describe";
  if (address !== location.hash) history.pushState(null, "", address);
}

/** @param {number} index */
function show(index) {
  for (const [i, tab] of tabs.entries()) {
    tab.setAttribute("aria-selected", String(i === index));
    tab.tabIndex = i === index ? 0 : -1;
    $(tab.getAttribute("aria-controls")).hidden = i !== index;
  }
  if (index === 1) find.shown();
  else describe.shown();
}

for (const [i, tab] of tabs.entries()) {
  tab.onclick = () => go(i, find.text);
  tab.onkeydown = (/** @type {KeyboardEvent} */ event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    go(1 - i, find.text);
    tabs[1 - i].focus();
  };
}

describe.addEventListener("similar", (event) => {
  go(1);
  find.searchRegion(/** @type {CustomEvent} */ (event).detail);
});
find.addEventListener("describe", (event) => {
  go(0);
  describe.open(/** @type {CustomEvent} */ (event).detail);
});

find.addEventListener("query", (event) => {
  const { text, isFinal } = /** @type {CustomEvent} */ (event).detail;
  const address = `#${new URLSearchParams({ find: text })}`;
  // A query has one history entry while the user types, not one per letter.
  if (history.state === "typing") history.replaceState(isFinal ? null : "typing", "", address);
  else if (address !== location.hash) history.pushState(isFinal ? null : "typing", "", address);
});
addEventListener("popstate", follow);
if (location.hash) follow();

/** Accepts files anywhere on the page. Otherwise the browser leaves the page and opens the file. */
function wireDrops() {
  const hasFiles = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes("Files");
  const mark = (/** @type {boolean} */ over) => document.body.classList.toggle("over", over);
  addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    mark(true);
  });
  addEventListener("dragleave", (event) => event.relatedTarget === null && mark(false));
  addEventListener("drop", (event) => {
    if (!event.dataTransfer || !hasFiles(event)) return;
    event.preventDefault();
    mark(false);
    drop(event.dataTransfer);
  });
}

/**
 * Describes a single photo in the view "Describe". Adds several photos, and folders, to the library.
 * @param {DataTransfer} transfer
 */
function drop(transfer) {
  const [file, ...more] = transfer.files;
  const isFolder = transfer.items[0]?.webkitGetAsEntry?.()?.isDirectory;
  if (file && !more.length && !isFolder && !$("describe").hidden) return describe.open(file);
  go(1);
  find.takeDrop(transfer).catch(notice);
}

async function keepOffline() {
  if (!("serviceWorker" in navigator)) return;
  try {
    await navigator.serviceWorker.register("sw.js");
  } catch (cause) {
    console.warn("no offline use:", cause);
  }
}

if (!("WebAssembly" in window)) {
  notice("This browser has no WebAssembly, or it is switched off; the model cannot run here.");
} else {
  loader.load();
  keepOffline();
  wireDrops();
}
