// The page: one model, two views.

import { $, notice } from "./dom.js";
import { Describe } from "./describe.js";
import { Find } from "./find.js";
import { Loader } from "./loader.js";

const loader = new Loader();
const describe = new Describe(loader);
const find = new Find(loader);

const tabs = [$("tab-describe"), $("tab-find")];

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
  tab.onclick = () => show(i);
  tab.onkeydown = (/** @type {KeyboardEvent} */ event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    show(1 - i);
    tabs[1 - i].focus();
  };
}

describe.addEventListener("similar", (event) => {
  show(1);
  find.searchRegion(/** @type {CustomEvent} */ (event).detail);
});
find.addEventListener("describe", (event) => {
  show(0);
  describe.open(/** @type {CustomEvent} */ (event).detail);
});

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
}
