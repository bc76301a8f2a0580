// Small helpers for the page.

/** The element with this id. @param {string} id @returns {any} */
export function $(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no #${id}`);
  return element;
}

/**
 * A new element; `on…` are listeners, the rest attributes (`class`, `aria-label`, …).
 * @param {string} tag @param {Record<string, any>} [attributes] @param {...(Node | string)} children
 * @returns {any}
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) element.setAttribute(name, String(value));
  }
  element.append(...children);
  return element;
}

/** One of the icons of index.html. @param {string} name */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** Announces a text to screen readers. @param {string} text */
export function announce(text) {
  $("announce").textContent = text;
}

/** Whether the keys mean "undo" here. In a text field they undo its text. @param {KeyboardEvent} event */
export function isUndo(event) {
  const inText = /** @type {HTMLElement} */ (event.target).tagName === "INPUT";
  return (event.ctrlKey || event.metaKey) && !event.shiftKey && event.key.toLowerCase() === "z" && !inText;
}

/**
 * Shows a line under the header until the user closes it. With `undo` it has a button for that. Returns the line, or
 * `undefined` if the user sees it already or cancelled.
 * @param {unknown} problem @param {{ bad?: boolean, undo?: () => void }} [how] @returns {HTMLElement | undefined}
 */
export function notice(problem, { bad = true, undo } = {}) {
  const text = words(problem);
  if (!text) return;
  const same = [...$("notices").children].find((line) => line.firstChild?.textContent === text);
  if (same) return;
  const line = make("div", { class: bad ? "notice bad" : "notice" }, make("span", {}, text));
  if (undo) line.append(make("button", { class: "tool undo", onclick: undo }, "Undo"));
  const close = make("button", { class: "icon", "aria-label": "Close this message", onclick: () => line.remove() });
  close.append(icon("close"));
  line.append(close);
  $("notices").append(line);
  return line;
}

/** Message for the user; empty if the user cancelled. @param {unknown} problem @returns {string} */
export function words(problem) {
  if (typeof problem === "string") return problem;
  if (!(problem instanceof Error)) return String(problem);
  if (problem.name === "AbortError") return "";
  const kind = /** @type {any} */ (problem).kind;
  if (kind === "storage" || problem.name === "QuotaExceededError") {
    return "The browser's storage for this page is full. Free some space on the disk, or remove photos from the library.";
  }
  if (kind === "memory") return `There is not enough memory for this. (${problem.message})`;
  if (kind === "crashed") return `The model broke down and was started again; please repeat. (${problem.message})`;
  const text = problem.message;
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** @param {number} n */
export function bytes(n) {
  if (n < 1e6) return `${Math.round(n / 1e3)} kB`;
  return n < 1e9 ? `${(n / 1e6).toFixed(1)} MB` : `${(n / 1e9).toFixed(2)} GB`;
}

/** @param {number} n @param {string} one @param {string} many */
export function count(n, one, many) {
  return `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
}

/** Downloads a file to the user's disk. @param {Blob} file @param {string} name */
export function save(file, name) {
  const url = URL.createObjectURL(file);
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** A button that copies a text. @param {string} label @param {() => string} text */
export function copyButton(label, text) {
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text());
      announce("copied");
      button.replaceChildren(icon("done"));
      setTimeout(() => button.replaceChildren(icon("copy")), 1500);
    } catch {
      notice("The browser does not let this page write to the clipboard. Select the text and press Ctrl+C (⌘C).", { bad: false });
    }
  };
  const button = make("button", { type: "button", class: "icon", title: "Copy", "aria-label": label, onclick: copy });
  button.append(icon("copy"));
  return button;
}

/** Lets the user choose files. @param {string} id of a file input @returns {Promise<File[]>} */
export function choose(id) {
  const input = $(id);
  return new Promise((resolve) => {
    const done = () => {
      resolve([...input.files]);
      input.value = "";
    };
    input.onchange = done;
    input.oncancel = () => resolve([]);
    input.click();
  });
}

/** Reads a stored choice; `null` if missing, or if site data is blocked. @param {string} name @returns {string | null} */
export function recall(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

/** Stores a choice for the next visit, if the browser allows it. @param {string} name @param {string} value */
export function remember(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // site data is blocked: the choice holds for this visit
  }
}

/** @param {any} dialog */
export function openDialog(dialog) {
  if (!dialog.open) dialog.showModal();
}
