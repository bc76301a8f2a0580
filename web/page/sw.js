// The service worker: serves the page offline. `cargo web` writes `VERSION` and `FILES` above.
// It does not cache the model's files: the page checks and stores them itself. It caches the WebGPU module when a
// page reports that it uses it.

const SHELL = `mmgem-shell-${VERSION}`;
const FOLDER = new URL("./", self.location.href);
const WEBGPU = "lib/webgpu/";

self.addEventListener("install", (event) => {
  event.waitUntil(keep((file) => !file.startsWith(WEBGPU)).then(() => self.skipWaiting()));
});

self.addEventListener("message", (event) => {
  if (event.data === "keep webgpu") event.waitUntil(keep((file) => file.startsWith(WEBGPU)));
});

/** Caches the wanted files that are not cached yet. */
async function keep(wanted) {
  const shell = await caches.open(SHELL);
  const kept = new Set((await shell.keys()).map((request) => request.url));
  const files = Object.keys(FILES).filter(wanted).filter((file) => !kept.has(new URL(file, FOLDER).href));
  await Promise.all(files.map((file) => get(file).then((response) => shell.put(new URL(file, FOLDER), response))));
}

/** Fetches a file. Takes it from the browser's cache if its hash is that of this build. */
async function get(file) {
  const url = new URL(file, FOLDER);
  const cached = await fetch(url, { cache: "force-cache" });
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", await cached.clone().arrayBuffer()));
  const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (cached.ok && found === FILES[file]) return cached;
  const response = await fetch(url, { cache: "reload" });
  if (!response.ok) throw new Error(`the server answers ${response.status} for ${file}`);
  return response;
}

self.addEventListener("activate", (event) => {
  event.waitUntil(forgetOldShells().then(() => self.clients.claim()));
});

async function forgetOldShells() {
  const names = await caches.keys();
  const old = names.filter((name) => name.startsWith("mmgem-shell-") && name !== SHELL);
  await Promise.all(old.map((name) => caches.delete(name)));
}

self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  const ours = event.request.method === "GET" && url.href.startsWith(FOLDER.href);
  if (!ours || /^models?\//.test(url.pathname.slice(FOLDER.pathname.length))) return;
  event.respondWith(answer(event.request, url));
});

/** Answers from the network, so that a new build shows at once, or from the cache if offline. */
async function answer(request, url) {
  const kept = await caches.open(SHELL);
  url.search = url.hash = "";
  const key = url.href === FOLDER.href ? new URL("index.html", FOLDER) : url;
  try {
    return await fetch(request);
  } catch (cause) {
    const response = await kept.match(key);
    if (response) return response;
    throw cause;
  }
}
