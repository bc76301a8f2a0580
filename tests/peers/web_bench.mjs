// Compares MM-GEM's page modules with onnxruntime-web in the same Chromium, in turn.
// Measures one image, one region's prompt and one token.
//
//     python3 tests/peers/onnx_bench.py --reference mmgem_reference.py --config assets/model/config.json --export /tmp/onnx
//     npm install --prefix /tmp/ort onnxruntime-web@1.30.0
//     cargo web --optimize && npm ci --prefix web
//     node tests/peers/web_bench.mjs --onnx /tmp/onnx --ort /tmp/ort/node_modules/onnxruntime-web/dist
//         [--rounds 5] [--images 3] [--tokens 8] [--gpu-rounds 3] [--only cpu|webgpu] [--json]
//
// Each engine has a browser of its own, so that memory is measured per engine: the peak resident
// set of the renderer and of the GPU process. Sizes are after brotli at quality 9. Without a GPU
// Chromium runs WebGPU in software (SwiftShader).

import { execFileSync } from "node:child_process";
import fs from "node:fs";
import http from "node:http";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import zlib from "node:zlib";

const HERE = path.dirname(fileURLToPath(import.meta.url));
const ROOT = path.join(HERE, "../..");
const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const FLAGS = ["--no-sandbox", "--enable-unsafe-webgpu", "--disable-background-networking", "--no-first-run"];
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm" };

const options = { onnx: "", ort: "", rounds: 5, images: 3, tokens: 8, "gpu-rounds": 3, only: "", json: false };
for (let i = 2; i < process.argv.length; i += 1) {
  const name = process.argv[i].slice(2);
  if (!(name in options)) throw new Error(`no option ${process.argv[i]}; the head of this file has them`);
  options[name] = name === "json" ? true : process.argv[(i += 1)];
}

const config = JSON.parse(fs.readFileSync(path.join(ROOT, "assets/model/config.json")).toString());
const prefix = config.roi_output_size ** 2 + config.num_caption_prompts;

const ENGINES = [
  { name: "mmgem, CPU", on: "cpu", worker: "ours.js", settings: { backend: "cpu" }, files: ours("cpu") },
  { name: "onnxruntime-web wasm, 1 thread", on: "cpu", worker: "onnx.js", settings: { provider: "wasm", threads: 1 },
    files: theirs("wasm") },
  { name: "onnxruntime-web wasm, 2 threads", on: "cpu", worker: "onnx.js", settings: { provider: "wasm", threads: 2 },
    files: theirs("wasm") },
  { name: "mmgem, WebGPU", on: "webgpu", worker: "ours.js", settings: { backend: "webgpu" }, files: ours("webgpu") },
  { name: "onnxruntime-web WebGPU", on: "webgpu", worker: "onnx.js", settings: { provider: "webgpu", threads: 1 },
    files: theirs("webgpu") },
].filter(({ on }) => !options.only || on === options.only);

/** Files that the page fetches before its first answer, without the model's weights. */
function ours(backend) {
  const lib = path.join(ROOT, "web/dist/lib", backend);
  return [path.join(lib, "mmgem_web.js"), path.join(lib, "mmgem_web_bg.wasm"), path.join(ROOT, "web/dist/model/tokenizer.json")];
}

function theirs(provider) {
  const names = provider === "webgpu"
    ? ["ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"]
    : ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"];
  return names.map((name) => path.join(options.ort, name));
}

function serve() {
  const roots = { dist: path.join(ROOT, "web/dist"), ort: options.ort, onnx: options.onnx, bench: path.join(HERE, "web") };
  const server = http.createServer((request, response) => {
    const [, root, ...rest] = new URL(request.url, "http://localhost").pathname.split("/");
    const file = roots[root] && path.join(roots[root], ...rest);
    if (!file || !fs.existsSync(file)) return response.writeHead(404).end();
    response.writeHead(200, {
      "Content-Type": TYPES[path.extname(file)] ?? "application/octet-stream",
      "Cross-Origin-Opener-Policy": "same-origin",
      "Cross-Origin-Embedder-Policy": "require-corp",
    });
    fs.createReadStream(file).pipe(response);
  });
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server)));
}

/** Peak resident set in MiB of each kind of the browser's processes. */
function memory(pid) {
  const parents = new Map();
  for (const id of fs.readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    const status = readOr(`/proc/${id}/status`, "");
    parents.set(id, { parent: status.match(/^PPid:\s+(\d+)/m)?.[1], peak: Number(status.match(/^VmHWM:\s+(\d+)/m)?.[1] ?? 0) });
  }
  const isOurs = (id) => id === String(pid) || (parents.has(id) && isOurs(parents.get(id).parent));
  const found = { renderer: 0, "gpu-process": 0 };
  for (const [id, { peak }] of parents) {
    const kind = readOr(`/proc/${id}/cmdline`, "").match(/--type=([a-z-]+)/)?.[1];
    if (kind in found && isOurs(id)) found[kind] = Math.max(found[kind], peak / 1024);
  }
  return found;
}

function readOr(file, other) {
  try {
    return fs.readFileSync(file).toString();
  } catch {
    return other;
  }
}

async function open(engine, address) {
  const { chromium } = createRequire(path.join(ROOT, "web/package.json"))("playwright-core");
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), "web-bench-"));
  const context = await chromium.launchPersistentContext(profile, { executablePath: CHROMIUM, args: FLAGS, headless: true });
  const page = await context.newPage();
  page.setDefaultTimeout(0);
  await page.goto(`${address}/bench/index.html?engine=/bench/${engine.worker}`);
  const ask = (name, ...args) => page.evaluate(([name, args]) => window.ask(name, ...args), [name, args]);
  const adapter = engine.on === "webgpu" ? await page.evaluate(adapterName) : "";
  const first = await ask("start", { ...engine.settings, config, prefix });
  const close = async () => {
    await context.close();
    fs.rmSync(profile, { recursive: true, force: true });
  };
  const pid = execFileSync("pgrep", ["-f", `user-data-dir=${profile}`]).toString().split("\n")[0];
  return { engine, ask, first, adapter, close, pid, images: [], prefills: [], tokens: [], counts: {} };
}

async function adapterName() {
  const info = (await navigator.gpu?.requestAdapter())?.info;
  return info ? [info.vendor, info.architecture, info.description].filter(Boolean).join(" ") : "none";
}

async function round(run) {
  for (let i = 0; i < (run.engine.on === "webgpu" ? 1 : options.images); i += 1) {
    const image = await run.ask("encode");
    run.images.push(image.ms);
    run.counts.image = image.dispatches;
  }
  const { prefill, tokens } = await run.ask("caption", Number(options.tokens));
  run.prefills.push(prefill.ms);
  run.tokens.push(...tokens.map((token) => token.ms));
  run.counts.prefill = prefill.dispatches;
  run.counts.token = tokens.at(-1)?.dispatches ?? 0;
}

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
const brotli = (file) =>
  zlib.brotliCompressSync(fs.readFileSync(file), { params: { [zlib.constants.BROTLI_PARAM_QUALITY]: 9 } }).length;

async function report(run) {
  const { open, firstImage, firstCaption } = run.first;
  const peak = memory(run.pid);
  return {
    engine: run.engine.name,
    adapter: run.adapter,
    image_ms: median(run.images),
    prefill_ms: median(run.prefills),
    token_ms: median(run.tokens),
    open_ms: open.ms,
    first_image_ms: firstImage.ms,
    first_caption_ms: firstCaption.prefill.ms + (firstCaption.tokens[0]?.ms ?? 0),
    renderer_mb: peak.renderer,
    gpu_process_mb: peak["gpu-process"],
    download_bytes: run.engine.files.reduce((sum, file) => sum + brotli(file), 0),
    dispatches: run.engine.on === "webgpu" ? run.counts : null,
    wasm_mb: ((await run.ask("wasmBytes")) ?? 0) / 2 ** 20,
  };
}

const server = await serve();
const address = `http://127.0.0.1:${server.address().port}`;
const runs = [];
try {
  for (const engine of ENGINES) {
    process.stderr.write(`opening ${engine.name}\n`);
    runs.push(await open(engine, address));
  }
  for (let n = 0; n < Math.max(options.rounds, options["gpu-rounds"]); n += 1) {
    for (const run of runs) {
      if (n < (run.engine.on === "webgpu" ? options["gpu-rounds"] : options.rounds)) await round(run);
    }
    process.stderr.write(`round ${n + 1}\n`);
  }
  const reports = [];
  for (const run of runs) reports.push(await report(run));
  if (options.json) console.log(JSON.stringify(reports, null, 1));
  else print(reports);
} finally {
  for (const run of runs) await run.close();
  server.close();
}

function print(reports) {
  const columns = [
    ["ms/image", (r) => r.image_ms.toFixed(1)], [`ms/prompt of ${prefix}`, (r) => r.prefill_ms.toFixed(1)],
    ["ms/token", (r) => r.token_ms.toFixed(1)], ["open ms", (r) => r.open_ms.toFixed(0)],
    ["first image ms", (r) => r.first_image_ms.toFixed(0)], ["first 2 tokens ms", (r) => r.first_caption_ms.toFixed(0)],
    ["renderer MB", (r) => r.renderer_mb.toFixed(0)], ["GPU process MB", (r) => r.gpu_process_mb.toFixed(0)],
    ["MB to fetch", (r) => (r.download_bytes / 1e6).toFixed(2)],
    ["dispatches: image, prompt, token", (r) => (r.dispatches ? Object.values(r.dispatches).join(", ") : "")],
  ];
  console.log(["engine", ...columns.map(([name]) => name)].join(" | "));
  for (const r of reports) console.log([r.engine, ...columns.map(([, of]) => of(r))].join(" | "));
  for (const adapter of new Set(reports.map((r) => r.adapter).filter(Boolean))) console.log(`WebGPU adapter: ${adapter}`);
}
