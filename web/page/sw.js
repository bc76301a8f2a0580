// The service worker: the page without a network. `VERSION` and `FILES` are written above by `cargo web`.
// The model's files are not here: the page keeps them itself once it has checked them.

const SHELL = `mmgem-shell-${VERSION}`;
const FOLDER = new URL("./", self.location.href);

self.addEventListener("install", (event) => {
  const requests = FILES.map((file) => new Request(new URL(file, FOLDER), { cache: "reload" }));
  event.waitUntil(caches.open(SHELL).then((cache) => cache.addAll(requests)).then(() => self.skipWaiting()));
});

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
  if (!ours || url.pathname.startsWith(`${FOLDER.pathname}model/`)) return;
  event.respondWith(answer(event.request, url));
});

/** From the network, so that a new build shows at once; from the cache without one. */
async function answer(request, url) {
  const kept = await caches.open(SHELL);
  const key = url.href === FOLDER.href ? new URL("index.html", FOLDER) : url.href.split("?")[0];
  try {
    return await fetch(request);
  } catch (cause) {
    const response = await kept.match(key);
    if (response) return response;
    throw cause;
  }
}
