// How long a person waits for the page: from the address to a ready model, from a photo to its
// caption, from a click on it to the region's caption. Once with an empty browser, once with
// everything in its cache.
//
//     cargo web --optimize && npm ci --prefix web
//     node tests/peers/web_first.mjs [--rounds 5]
//
// Prints medians. The server is `mmgem web` on this machine, so no network's time is in them.

import path from "node:path";
import { browse, chooseFiles, missing, ROOT, serve, settled } from "../web/harness.mjs";

const reason = missing();
if (reason) throw new Error(reason);
const rounds = Number(process.argv[2] === "--rounds" ? process.argv[3] : 5);
const photo = path.join(ROOT, "assets/demo/cat.jpg");
const STEPS = ["address to ready", "photo to its caption", "click to the region's caption"];

/** Milliseconds of each step in a new tab. */
async function visit(context, address) {
  const page = await context.newPage();
  const times = [];
  let last = performance.now();
  const lap = () => {
    const now = performance.now();
    times.push(now - last);
    last = now;
  };
  await page.goto(address);
  await page.waitForSelector('#status[data-state="ready"]');
  lap();
  await chooseFiles(page, "#open", photo);
  await settled(page, "#whole");
  lap();
  const { x, y, width, height } = await page.locator("#boxes").boundingBox();
  await page.mouse.move(x + width * 0.4, y + height * 0.6);
  last = performance.now();
  await page.mouse.click(x + width * 0.4, y + height * 0.6);
  await settled(page, ".region .caption");
  lap();
  // The next visit finds everything in the cache.
  await page.waitForFunction(() => navigator.serviceWorker.controller ?? navigator.serviceWorker.ready);
  await page.close();
  return times;
}

const server = await serve();
const found = { "nothing cached": [], "everything cached": [] };
try {
  for (let round = 0; round < rounds; round += 1) {
    const browser = await browse();
    try {
      for (const times of Object.values(found)) times.push(await visit(browser.context, server.address));
    } finally {
      await browser.close();
    }
  }
} finally {
  await server.stop();
}
const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
console.log(`| milliseconds, medians of ${rounds} | ${STEPS.join(" | ")} |`);
console.log(`|---|${"---:|".repeat(STEPS.length)}`);
for (const [name, visits] of Object.entries(found)) {
  console.log(`| ${name} | ${STEPS.map((_, step) => median(visits.map((times) => times[step])).toFixed(0)).join(" | ")} |`);
}
