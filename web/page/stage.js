// The photo and the boxes on it: drawing, moving and resizing by pointer and keyboard.

import { $, make } from "./dom.js";

/** @typedef {[number, number, number, number]} Box */
/** @typedef {{ id: number, box: Box, label: string, hue: number }} Shown */

const CLICK_PX = 6;
const LEAST = 8;

/** A finger that rests this long draws or moves a box. A finger that moves earlier scrolls. */
const HOLD_MS = 350;

/** Wheel distance of a step. */
const STEP_PX = 60;
const MOST_ZOOM = 8;

/**
 * Events: `draw` (detail: box), `click-at` (detail: [x, y]), `step` (detail: 1 or -1, at the place of the last click),
 * `hover-at` (detail: [x, y], or null off the photo), `change` (detail: { id, box }, while it moves), `changed` (the
 * same, when it is let go), `select` (detail: id), `remove` (detail: id).
 */
export class Stage extends EventTarget {
  width = 0;
  height = 0;
  /** Size of the photo relative to the size that fits. */
  #zoom = 1;
  #frame = $("frame");
  #layer = $("boxes");
  /** Point of the last click, while another click there is a `step`. @type {[number, number] | null} */
  clicked = null;
  /** @type {HTMLElement | null} */
  #place = null;
  /** Preview of the box of a click. */
  #preview = make("div", { class: "preview", hidden: true });
  #turned = 0;
  /** A finger that is down and has not moved or rested yet. @type {{ event: PointerEvent, timer: number } | null} */
  #held = null;
  /** @type {{ id: number, box: Box, edge: string, from: [number, number], element: any, moved: boolean } | null} */
  #drag = null;
  /** @type {Map<number, { element: any, box: Box }>} */
  #shown = new Map();

  constructor() {
    super();
    new ResizeObserver(() => this.#fit()).observe($("stage"));
    this.#layer.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => this.#down(event));
    this.#layer.addEventListener("pointermove", (/** @type {PointerEvent} */ event) => this.#move(event));
    this.#layer.addEventListener("pointerup", () => (this.#held ? this.#tap() : this.#up(true)));
    this.#layer.addEventListener("pointercancel", () => (this.#held ? this.#letGo() : this.#up(false)));
    const whileDrawing = (/** @type {Event} */ event) => this.#drag && event.preventDefault();
    this.#layer.addEventListener("touchmove", whileDrawing, { passive: false });
    this.#layer.addEventListener("contextmenu", (/** @type {Event} */ event) => {
      if (this.#held || this.#drag) event.preventDefault(); // a long press draws
    });
    this.#layer.addEventListener("pointerleave", () => this.#emit("hover-at", null));
    this.#layer.addEventListener("wheel", (/** @type {WheelEvent} */ event) => this.#wheel(event), { passive: false });
    this.#layer.append(this.#preview);
    this.#layer.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.#key(event));
  }

  /** @param {string} url @param {number} width @param {number} height @param {string} name */
  show(url, width, height, name) {
    [this.width, this.height] = [width, height];
    this.#zoom = 1;
    $("picture").src = url;
    $("picture").alt = name;
    $("empty").hidden = true;
    this.#frame.hidden = false;
    $("heat").hidden = true;
    this.place(null);
    this.#fit();
  }

  #fit() {
    if (!this.width) return;
    const room = $("stage").getBoundingClientRect();
    const side = matchMedia("(max-width: 860px)").matches;
    const height = side ? innerHeight * 0.66 : room.height - 48;
    const scale = this.#zoom * Math.min((room.width - (side ? 0 : 48)) / this.width, height / this.height);
    this.#frame.style.width = `${Math.max(1, Math.floor(this.width * scale))}px`;
    this.#frame.style.height = `${Math.max(1, Math.floor(this.height * scale))}px`;
  }

  /**
   * Zooms around a point of the window [default: the middle of the stage].
   * @param {number} factor @param {[number, number]} [around]
   */
  zoomBy(factor, around) {
    const stage = $("stage");
    const room = stage.getBoundingClientRect();
    const [x, y] = around ?? [room.left + room.width / 2, room.top + room.height / 2];
    const before = this.#layer.getBoundingClientRect();
    const [fx, fy] = [(x - before.left) / before.width, (y - before.top) / before.height];
    this.#zoom = Math.min(Math.max(this.#zoom * factor, 1), MOST_ZOOM);
    this.#fit();
    const after = this.#layer.getBoundingClientRect();
    stage.scrollLeft += after.left + fx * after.width - x;
    stage.scrollTop += after.top + fy * after.height - y;
  }

  /** Draws these boxes, and no others. @param {readonly Shown[]} boxes @param {number | null} selected */
  draw(boxes, selected) {
    const wanted = new Set(boxes.map((shown) => shown.id));
    for (const [id, { element }] of this.#shown) {
      if (wanted.has(id)) continue;
      element.remove();
      this.#shown.delete(id);
    }
    for (const { id, box, label, hue } of boxes) {
      const shown = this.#shown.get(id) ?? this.#add(id);
      shown.box = box;
      const { element } = shown;
      element.style.setProperty("--hue", String(hue));
      element.classList.toggle("selected", id === selected);
      element.firstChild.textContent = label;
      element.setAttribute("aria-label", `${label}. Arrow keys move it, with Shift they resize it, Delete removes it.`);
      element.setAttribute("aria-pressed", String(id === selected));
      this.#put(element, box);
    }
    // Small boxes on top, so that each one can be clicked.
    const bySize = [...boxes].sort((a, b) => area(b.box) - area(a.box));
    for (const [at, { id }] of bySize.entries()) this.#shown.get(id)?.element.style.setProperty("z-index", String(at + 1));
  }

  /** @param {number} id */
  #add(id) {
    const edges = ["nw", "ne", "sw", "se"].map((edge) => make("i", { "data-edge": edge }));
    const element = make("div", { class: "box", role: "button", tabindex: 0, "data-id": id,
      onfocus: () => this.#emit("select", id) }, make("span", { class: "tag" }), ...edges);
    this.#layer.append(element);
    const shown = { element, box: /** @type {Box} */ ([0, 0, 0, 0]) };
    this.#shown.set(id, shown);
    return shown;
  }

  /** Shows the box of a phrase, or hides it. @param {{ box: readonly number[], label: string } | null} found */
  place(found) {
    this.#place?.remove();
    this.#place = null;
    if (!found) return;
    this.#place = make("div", { class: "box place" }, make("span", { class: "tag" }, found.label));
    this.#layer.append(this.#place);
    this.#put(this.#place, /** @type {Box} */ (found.box));
  }

  /** Shows the box of a click, or hides it. @param {Box | null} box */
  preview(box) {
    this.#preview.hidden = !box;
    if (box) this.#put(this.#preview, box);
  }

  /** Whether a click there would be a `step`. @param {[number, number]} point */
  isClicked(point) {
    if (!this.clicked) return false;
    const scale = this.#layer.clientWidth / this.width;
    return Math.hypot(point[0] - this.clicked[0], point[1] - this.clicked[1]) * scale < CLICK_PX;
  }

  /** @param {number} id */
  focus(id) {
    this.#shown.get(id)?.element.focus({ preventScroll: true });
  }

  /** @param {any} element @param {Box} box */
  #put(element, [x0, y0, x1, y1]) {
    const percent = (/** @type {number} */ part, /** @type {number} */ whole) => `${(100 * part) / whole}%`;
    element.style.left = percent(x0, this.width);
    element.style.top = percent(y0, this.height);
    element.style.width = percent(x1 - x0, this.width);
    element.style.height = percent(y1 - y0, this.height);
    element.classList.toggle("high", y0 < this.height * 0.06);
  }

  /** @param {MouseEvent} event @returns {[number, number]} */
  #point(event) {
    const { left, top, width, height } = this.#layer.getBoundingClientRect();
    const clamp = (/** @type {number} */ x) => Math.min(Math.max(x, 0), 1);
    return [clamp((event.clientX - left) / width) * this.width, clamp((event.clientY - top) / height) * this.height];
  }

  /** @param {PointerEvent} event */
  #down(event) {
    if (event.button !== 0 || this.#drag) return;
    if (this.#held) return this.#letGo(); // a second finger zooms
    this.#emit("hover-at", null);
    const onHandle = /** @type {HTMLElement} */ (event.target).dataset?.edge;
    if (event.pointerType !== "touch" || onHandle) {
      event.preventDefault();
      return this.#begin(event);
    }
    const rested = () => {
      this.#held = null;
      navigator.vibrate?.(10);
      this.#begin(event);
    };
    this.#held = { event, timer: setTimeout(rested, HOLD_MS) };
  }

  #letGo() {
    clearTimeout(this.#held?.timer);
    this.#held = null;
  }

  #tap() {
    const { event } = /** @type {{ event: PointerEvent }} */ (this.#held);
    this.#letGo();
    this.#click(this.#point(event));
  }

  /** Begins to draw a box, or to move or resize the box under the pointer. @param {PointerEvent} event */
  #begin(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    const from = this.#point(event);
    const id = Number(target.closest?.("[data-id]")?.getAttribute("data-id") ?? 0);
    const shown = this.#shown.get(id);
    this.#layer.setPointerCapture(event.pointerId);
    if (shown) {
      shown.element.focus({ preventScroll: true });
      this.#drag = { id, box: shown.box, edge: target.dataset.edge ?? "all", from, element: shown.element, moved: false };
    } else {
      const element = make("div", { class: "box drawing" }, make("span", { class: "tag", hidden: true }));
      this.#layer.append(element);
      this.#drag = { id: 0, box: [...from, ...from], edge: "se", from, element, moved: false };
      this.#put(element, this.#drag.box);
    }
  }

  /** @param {PointerEvent} event */
  #move(event) {
    const drag = this.#drag;
    if (this.#held) {
      const { clientX, clientY } = this.#held.event;
      if (Math.hypot(event.clientX - clientX, event.clientY - clientY) > CLICK_PX) this.#letGo();
      return;
    }
    if (!drag) return this.#hover(event);
    const at = this.#point(event);
    const scale = this.#layer.clientWidth / this.width;
    const [dx, dy] = [at[0] - drag.from[0], at[1] - drag.from[1]];
    if (!drag.moved && Math.hypot(dx, dy) * scale < CLICK_PX) return;
    drag.moved = true;
    const box = this.#dragged(drag.box, drag.edge, dx, dy);
    this.#put(drag.element, box);
    if (drag.id) this.#emit("change", { id: drag.id, box });
    drag.element.current = box;
  }

  /** @param {boolean} finish */
  #up(finish) {
    const drag = this.#drag;
    this.#drag = null;
    if (!drag) return;
    const box = drag.element.current;
    if (!drag.id) drag.element.remove();
    if (!drag.moved) {
      const onHandle = drag.id && drag.edge !== "all";
      if (finish && !onHandle) this.#click(drag.from);
    } else if (drag.id) {
      this.#emit("changed", { id: drag.id, box: finish ? box : drag.box });
    } else if (finish) {
      this.#emit("draw", box);
    }
  }

  /** @param {[number, number]} point */
  #click(point) {
    if (this.isClicked(point)) this.#emit("step", 1);
    else this.#emit("click-at", point);
  }

  /** @param {PointerEvent} event */
  #hover(event) {
    const onHandle = /** @type {HTMLElement} */ (event.target).dataset?.edge;
    if (event.pointerType === "mouse") this.#emit("hover-at", onHandle ? null : this.#point(event));
  }

  /**
   * With Ctrl: zooms. Else steps through the boxes over the point of the last click, and scrolls elsewhere.
   * @param {WheelEvent} event
   */
  #wheel(event) {
    if (event.ctrlKey) {
      event.preventDefault();
      return this.zoomBy(Math.exp(-event.deltaY / 200), [event.clientX, event.clientY]);
    }
    if (!this.isClicked(this.#point(event))) return;
    event.preventDefault();
    this.#turned += event.deltaY;
    if (Math.abs(this.#turned) < STEP_PX) return;
    this.#emit("step", Math.sign(this.#turned));
    this.#turned = 0;
  }

  /** @param {Box} box @param {string} edge @param {number} dx @param {number} dy @returns {Box} */
  #dragged([x0, y0, x1, y1], edge, dx, dy) {
    if (edge === "all") {
      const x = Math.min(Math.max(dx, -x0), this.width - x1);
      const y = Math.min(Math.max(dy, -y0), this.height - y1);
      return [x0 + x, y0 + y, x1 + x, y1 + y];
    }
    if (edge.includes("w")) x0 += dx;
    if (edge.includes("e")) x1 += dx;
    if (edge.includes("n")) y0 += dy;
    if (edge.includes("s")) y1 += dy;
    return this.#tidy([Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)]);
  }

  /** Clamps a box to the photo and to the minimum size. @param {Box} box @returns {Box} */
  #tidy([x0, y0, x1, y1]) {
    const least = Math.min(LEAST, this.width, this.height);
    x0 = Math.min(Math.max(x0, 0), this.width - least);
    y0 = Math.min(Math.max(y0, 0), this.height - least);
    return [x0, y0, Math.min(Math.max(x1, x0 + least), this.width), Math.min(Math.max(y1, y0 + least), this.height)];
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const id = Number(/** @type {HTMLElement} */ (event.target).dataset.id ?? 0);
    const shown = this.#shown.get(id);
    if (!shown) return;
    if (event.key === "Delete" || event.key === "Backspace") {
      event.preventDefault();
      return this.#emit("remove", id);
    }
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const step = steps[/** @type {keyof typeof steps} */ (event.key)];
    if (!step) return;
    event.preventDefault();
    const by = Math.max(1, Math.round(Math.max(this.width, this.height) / 64));
    const box = this.#dragged(shown.box, event.shiftKey ? "se" : "all", step[0] * by, step[1] * by);
    this.#emit("change", { id, box });
    this.#emit("changed", { id, box });
  }

  /** @param {string} type @param {any} detail */
  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** @param {Box} box */
function area([x0, y0, x1, y1]) {
  return (x1 - x0) * (y1 - y0);
}
