// The list of regions beside the photo.

import { $, copyButton, icon, make } from "./dom.js";

/**
 * @typedef {{ id: number, label: string, name: string, text: string, writing: AbortController | null, hue: number }} Shown
 * @typedef {{ item: any, name: any, text: any }} Row
 */

/** Events, each with detail { id }: `select`, `rename` (with `name`), `remove`, `similar`. */
export class RegionList extends EventTarget {
  /** @type {Map<number, Row>} */
  #rows = new Map();

  /** @param {readonly Shown[]} regions @param {number | null} selected */
  draw(regions, selected) {
    const wanted = new Set(regions.map((region) => region.id));
    for (const [id, { item }] of this.#rows) {
      if (wanted.has(id)) continue;
      item.remove();
      this.#rows.delete(id);
    }
    for (const region of regions) {
      const { item, name } = this.#rows.get(region.id) ?? this.#add(region);
      item.classList.toggle("selected", region.id === selected);
      name.placeholder = region.label;
      if (document.activeElement !== name) name.value = region.name;
      this.text(region);
    }
  }

  /** @param {{ id: number, text: string, writing: AbortController | null }} region */
  text({ id, text, writing }) {
    const line = this.#rows.get(id)?.text;
    if (!line) return;
    line.textContent = text || (writing ? "" : "…");
    line.classList.toggle("writing", writing !== null);
  }

  /** @param {Shown} region */
  #add({ id, label, hue }) {
    const emit = (/** @type {string} */ type, detail = {}) =>
      this.dispatchEvent(new CustomEvent(type, { detail: { id, ...detail } }));
    const name = make("input", { class: "name", "aria-label": `Name of ${label}`, autocomplete: "off",
      oninput: () => emit("rename", { name: name.value.trim() }) });
    const similar = make("button", { class: "icon", title: "Find photos with something like this",
      "aria-label": `Find photos with something like ${label}`, onclick: () => emit("similar") });
    similar.append(icon("search"));
    const remove = make("button", { class: "icon", title: "Remove", "aria-label": `Remove ${label}`, onclick: () => emit("remove") });
    remove.append(icon("trash"));
    const text = make("p", { class: "caption" });
    const copy = copyButton(`Copy the caption of ${label}`, () => text.textContent);
    const item = make("li", { class: "region", "data-region": id, onfocusin: () => emit("select"),
      onclick: () => emit("select") }, name, similar, copy, remove, text);
    item.style.setProperty("--hue", String(hue));
    $("regions").append(item);
    const row = { item, name, text };
    this.#rows.set(id, row);
    return row;
  }
}
