// Shared by the browser tests: the server, the browser, drawn scenes, and the native program.

import { execFileSync, spawn } from "node:child_process";
import fs from "node:fs";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

export const ROOT = fileURLToPath(new URL("../..", import.meta.url));
export const MMGEM = path.join(ROOT, "target/release/mmgem");
const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const FLAGS = [
  "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
  "--disable-sync",
];

/** The reason why the tests cannot run here; empty if they can. */
export function missing() {
  const wanted = [
    [CHROMIUM, "apt-get install chromium"],
    [path.join(ROOT, "web/dist/index.html"), "cargo web"],
    [path.join(ROOT, "web/node_modules/playwright-core"), "npm ci --prefix web"],
    [MMGEM, "cargo build --release"],
  ];
  for (const [file, cure] of wanted) {
    if (!fs.existsSync(file)) return `SKIPPED: the browser tests want ${file}; get it by \`${cure}\``;
  }
  return "";
}

/** Lets Chromium run WebGPU in software on a machine without a GPU. */
export const WEBGPU_FLAGS = ["--enable-unsafe-webgpu"];

/** The reason why WebGPU cannot be tested here; empty if it can. */
export async function missingWebGpu(address) {
  if (!fs.existsSync(path.join(ROOT, "web/dist/lib/webgpu"))) {
    return "SKIPPED: the tests on WebGPU want its module; get it by `cargo web --webgpu`";
  }
  const browser = await browse(WEBGPU_FLAGS);
  try {
    const page = await browser.context.newPage();
    await page.goto(`${address}icon.svg`);
    const adapter = await page.evaluate(async () => Boolean(await navigator.gpu?.requestAdapter()));
    return adapter ? "" : "SKIPPED: the tests on WebGPU: this browser has no adapter, not even in software";
  } finally {
    await browser.close();
  }
}

/** Runs `mmgem` with these arguments on the CPU and returns its JSON document. */
export function mmgem(...args) {
  const output = execFileSync(MMGEM, [...args, "--json", "-q", "--device", "cpu"], { maxBuffer: 1 << 28 });
  return JSON.parse(output.toString());
}

/** Draws `n` scenes and returns their folder, photos, captions and regions. */
export function drawScenes(n) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "mmgem-web-"));
  execFileSync(MMGEM, ["scenes", "--out", path.join(folder, "shards"), "--n", String(n), "--seed", "9", "-q"]);
  const photos = path.join(folder, "photos");
  fs.mkdirSync(photos);
  for (const shard of fs.readdirSync(path.join(folder, "shards")).filter((name) => name.endsWith(".tar"))) {
    execFileSync("tar", ["-xf", path.join(folder, "shards", shard), "-C", photos]);
  }
  const read = (file) => JSON.parse(fs.readFileSync(path.join(photos, file)).toString());
  const scenes = fs.readdirSync(photos).filter((name) => name.endsWith(".json")).sort().map((name) => {
    const image = fs.readdirSync(photos).find((other) => other !== name && other.startsWith(name.slice(0, -4)));
    return { file: path.join(photos, image), name: image, ...read(name) };
  });
  return { folder: photos, scenes, remove: () => fs.rmSync(folder, { recursive: true }) };
}

export const DIST = path.join(ROOT, "web/dist");

/** Serves the page with `mmgem web`. `address` is its URL; `stop` ends the server. */
export async function serve(...more) {
  const args = ["web", "--dir", DIST, "--no-open", "--port", "0", "-q", ...more];
  const server = spawn(MMGEM, args, { stdio: ["ignore", "pipe", "inherit"] });
  const address = await new Promise((resolve, reject) => {
    server.stdout.once("data", (data) => resolve(data.toString().trim()));
    server.once("exit", (code) => reject(new Error(`mmgem web ended with ${code}`)));
  });
  const ended = new Promise((resolve) => server.once("exit", resolve));
  const stop = () => {
    server.kill();
    return ended;
  };
  return { address, stop };
}

/** Serves a folder with a plain static server. `requests` maps each path to the number of bodies sent. */
export async function serveStatic(folder = DIST) {
  const args = ["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", folder];
  const server = spawn("python3", args, { stdio: ["ignore", "pipe", "pipe"] });
  const requests = new Map();
  server.stderr.on("data", (data) => {
    for (const [, url] of data.toString().matchAll(/"GET (\S+) HTTP[^"]*" 200/g)) requests.set(url, (requests.get(url) ?? 0) + 1);
  });
  const port = await new Promise((resolve, reject) => {
    server.stdout.on("data", (data) => resolve(/port (\d+)/.exec(data.toString())?.[1]));
    server.once("exit", (code) => reject(new Error(`python3 -m http.server ended with ${code}`)));
  });
  const ended = new Promise((resolve) => server.once("exit", resolve));
  const stop = () => {
    server.kill();
    return ended;
  };
  return { address: `http://127.0.0.1:${port}/`, requests, stop };
}

/**
 * Starts a browser with an empty profile. `requests` collects the URL of every request. `siteData` false blocks site
 * data; `how` goes to Playwright.
 */
export async function browse(flags = [], { siteData = true, ...how } = {}) {
  const { chromium } = createRequire(path.join(ROOT, "web/package.json"))("playwright-core");
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), "mmgem-profile-"));
  if (!siteData) {
    const preferences = { profile: { default_content_setting_values: { cookies: 2 } } };
    fs.mkdirSync(path.join(profile, "Default"));
    fs.writeFileSync(path.join(profile, "Default/Preferences"), JSON.stringify(preferences));
  }
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: CHROMIUM, headless: true, args: [...FLAGS, ...flags], ...how,
  });
  const requests = [];
  context.on("request", (request) => requests.push(request.url()));
  const close = async () => {
    await context.close();
    fs.rmSync(profile, { recursive: true, force: true });
  };
  return { context, requests, close };
}

/** Opens the page and waits for its model. `errors` collects its errors and console errors. */
export async function openPage(context, address) {
  const page = await context.newPage();
  page.setDefaultTimeout(Number(process.env.PATIENCE_MS ?? 90_000));
  const errors = [];
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  await page.goto(address);
  await page.waitForSelector('#status[data-state="ready"]', { timeout: 60_000 });
  return { page, errors };
}

/** Waits until an element holds a finished caption. */
export const settled = (page, selector) => page.waitForFunction((selector) => {
  const line = document.querySelector(selector);
  return line && !line.classList.contains("writing") && !line.classList.contains("quiet") && line.textContent;
}, selector);

/** Clicks a button that opens a file chooser, and chooses `files`. */
export async function chooseFiles(page, button, files) {
  const [chooser] = await Promise.all([page.waitForEvent("filechooser"), page.locator(button).click()]);
  await chooser.setFiles(files);
}

/** Drops files on an element, as from a file manager. */
export async function drop(page, selector, files) {
  const { x, y, width, height } = await page.locator(selector).boundingBox();
  const control = await page.context().newCDPSession(page);
  const data = { items: [], files, dragOperationsMask: 1 };
  for (const type of ["dragEnter", "dragOver", "drop"]) {
    await control.send("Input.dispatchDragEvent", { type, x: x + width / 2, y: y + height / 2, data });
  }
}

/** A file's bytes in base64, as an argument for code in the page. */
export const base64 = (file) => fs.readFileSync(file).toString("base64");
