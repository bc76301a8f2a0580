// Rows of photos with one height. Only visible rows have elements.

import { $, make } from "./dom.js";

/**
 * @typedef {{ path: string, width: number, height: number, score?: number,
 *   box?: readonly number[], boxScore?: number }} Item
 * @typedef {{ item: Item, left: number, top: number, width: number, height: number }} Cell
 */

const GAP = 6;
/** Height of the rows kept beyond each edge, in screens. */
const BEYOND = 0.6;

/** Events: `open` (detail: Item). */
export class Grid extends EventTarget {
  /** @type {Cell[]} */
  #cells = [];
  /** @type {Map<string, any>} */
  #tiles = new Map();
  /** @type {readonly Item[]} */
  #items = [];
  /** Pictures by path. @type {Map<string, Promise<string | null>>} */
  #pictures = new Map();
  #thumbnail;
  #pending = 0;

  /** @param {(path: string) => Promise<Blob | null>} thumbnail */
  constructor(thumbnail) {
    super();
    this.#thumbnail = thumbnail;
    $("grid").addEventListener("scroll", () => this.#soon(), { passive: true });
    new ResizeObserver(() => this.#layOut()).observe($("grid"));
    $("tiles").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.#key(event));
  }

  /** @param {readonly Item[]} items @param {boolean} [fromTop] */
  show(items, fromTop = true) {
    this.#items = items;
    if (fromTop) $("grid").scrollTop = 0;
    this.#layOut();
  }

  /** Discards a changed picture. @param {string} path */
  changed(path) {
    this.#pictures.get(path)?.then((url) => url && URL.revokeObjectURL(url));
    this.#pictures.delete(path);
    this.#tiles.get(path)?.remove();
    this.#tiles.delete(path);
  }

  /** The photos before and after a photo, in the order shown. @param {string} path */
  near(path) {
    const at = this.#items.findIndex((item) => item.path === path);
    return { before: this.#items[at - 1], after: at < 0 ? undefined : this.#items[at + 1] };
  }

  /** Scrolls to a photo and focuses it. @param {string} path */
  focus(path) {
    const cell = this.#cells.find(({ item }) => item.path === path);
    if (cell) this.#focus(cell);
  }

  forget() {
    for (const path of [...this.#pictures.keys()]) this.changed(path);
  }

  #layOut() {
    const room = $("tiles").clientWidth;
    if (!room) return;
    const target = room < 560 ? 118 : 176;
    this.#cells = [];
    let [top, row, ratios] = [0, /** @type {Item[]} */ ([]), 0];
    const finish = (/** @type {boolean} */ last) => {
      const fit = (room - GAP * (row.length - 1)) / ratios;
      const height = Math.round(last ? Math.min(fit, target) : fit);
      let left = 0;
      for (const item of row) {
        const width = Math.floor(height * ratio(item));
        this.#cells.push({ item, left, top, width, height });
        left += width + GAP;
      }
      top += height + GAP;
      [row, ratios] = [[], 0];
    };
    for (const item of this.#items) {
      row.push(item);
      ratios += ratio(item);
      if (ratios * target + GAP * (row.length - 1) >= room) finish(false);
    }
    if (row.length) finish(true);
    $("tiles").style.height = `${top + 16}px`;
    this.#render();
  }

  #soon() {
    this.#pending ||= requestAnimationFrame(() => {
      this.#pending = 0;
      this.#render();
    });
  }

  #render() {
    const { scrollTop, clientHeight } = $("grid");
    const beyond = clientHeight * BEYOND;
    const from = this.#firstBelow(scrollTop - beyond);
    const wanted = new Map();
    for (let i = from; i < this.#cells.length && this.#cells[i].top < scrollTop + clientHeight + beyond; i += 1) {
      wanted.set(this.#cells[i].item.path, i);
    }
    const focused = document.activeElement;
    for (const [path, tile] of this.#tiles) {
      if (wanted.has(path) || tile === focused) continue;
      tile.remove();
      this.#tiles.delete(path);
    }
    /** @type {any} */
    let before = null;
    for (const [path, at] of wanted) {
      let tile = this.#tiles.get(path);
      if (!tile) {
        tile = this.#make(path);
        this.#tiles.set(path, tile);
      }
      this.#put(tile, this.#cells[at], at);
      // In reading order, for the Tab key.
      if (before ? tile.previousSibling !== before : tile.parentNode === null) {
        if (before) before.after(tile);
        else $("tiles").prepend(tile);
      }
      before = tile;
    }
  }

  /** Index of the first cell that ends below `y`: rows are in order. @param {number} y */
  #firstBelow(y) {
    let [low, high] = [0, this.#cells.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#cells[middle].top + this.#cells[middle].height < y) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** @param {string} path */
  #make(path) {
    const tile = make("button", { class: "tile", onclick: () => this.#open(path) });
    const picture = this.#picture(path);
    picture.then((url) => {
      if (url) tile.prepend(make("img", { src: url, alt: "", decoding: "async" }));
      else tile.prepend(make("span", { class: "no-picture" }, path.split("/").pop() ?? path));
    });
    return tile;
  }

  /** @param {any} tile @param {Cell} cell @param {number} at */
  #put(tile, { item, left, top, width, height }, at) {
    Object.assign(tile.style, { left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px` });
    tile.dataset.at = at;
    const score = item.score === undefined ? "" : `, similarity ${item.score.toFixed(2)}`;
    tile.setAttribute("aria-label", `${item.path}${score}`);
    tile.title = item.path;
    tile.querySelector(".hit-box")?.remove();
    tile.querySelector(".score")?.remove();
    if (item.score === undefined) return;
    if (item.box && isClearer(item)) tile.append(hitBox(item.box, item));
    tile.append(make("span", { class: "score" }, item.score.toFixed(2)));
  }

  /** @param {string} path */
  #open(path) {
    const item = this.#items.find((item) => item.path === path);
    if (item) this.dispatchEvent(new CustomEvent("open", { detail: item }));
  }

  /** @param {string} path @returns {Promise<string | null>} */
  #picture(path) {
    let picture = this.#pictures.get(path);
    if (!picture) {
      picture = this.#thumbnail(path).then((blob) => (blob ? URL.createObjectURL(blob) : null), () => null);
      this.#pictures.set(path, picture);
    }
    return picture;
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const at = Number(/** @type {HTMLElement} */ (event.target).dataset.at ?? -1);
    const cell = this.#cells[at];
    if (!cell) return;
    const to = this.#neighbour(at, cell, event.key);
    if (to === null) return;
    event.preventDefault();
    const next = this.#cells[to];
    if (next) this.#focus(next);
  }

  /** @param {Cell} cell */
  #focus({ item, top, height }) {
    const grid = $("grid");
    if (top < grid.scrollTop) grid.scrollTop = top;
    if (top + height > grid.scrollTop + grid.clientHeight) grid.scrollTop = top + height - grid.clientHeight;
    this.#render();
    this.#tiles.get(item.path)?.focus({ preventScroll: true });
  }

  /** @param {number} at @param {Cell} cell @param {string} key @returns {number | null} */
  #neighbour(at, cell, key) {
    if (key === "ArrowRight") return at + 1;
    if (key === "ArrowLeft") return at - 1;
    if (key === "Home") return 0;
    if (key === "End") return this.#cells.length - 1;
    if (key !== "ArrowDown" && key !== "ArrowUp") return null;
    const step = key === "ArrowDown" ? 1 : -1;
    let to = at;
    while (this.#cells[to]?.top === cell.top) to += step;
    const row = this.#cells[to]?.top;
    let best = to;
    for (; this.#cells[to]?.top === row && row !== undefined; to += step) {
      if (Math.abs(this.#cells[to].left - cell.left) < Math.abs(this.#cells[best].left - cell.left)) best = to;
    }
    return best;
  }
}

/** Width over height, clamped to a range that suits a row. @param {Item} item */
function ratio({ width, height }) {
  return Math.min(Math.max(width / height, 0.4), 3);
}

/** Whether the box fits the query better than the whole photo. @param {Item} item */
export function isClearer({ box, boxScore = 0, score = 0, width, height }) {
  const isWhole = !box || (box[2] - box[0] > width * 0.98 && box[3] - box[1] > height * 0.98);
  return !isWhole && boxScore > score;
}

/** The frame of a box, in percent of its photo. @param {readonly number[]} box @param {{ width: number, height: number }} photo */
export function hitBox([x0, y0, x1, y1], { width, height }) {
  const frame = make("span", { class: "hit-box" });
  const percent = (/** @type {number} */ part, /** @type {number} */ whole) => `${(100 * part) / whole}%`;
  Object.assign(frame.style, {
    left: percent(x0, width), top: percent(y0, height),
    width: percent(x1 - x0, width), height: percent(y1 - y0, height),
  });
  return frame;
}
