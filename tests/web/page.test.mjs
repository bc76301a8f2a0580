// Uses the page as a user does: describes a photo, searches a library, returns, loses the network.

import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { after, before, describe, it } from "node:test";

import { base64, browse, chooseFiles, drawScenes, missing, mmgem, openPage, serve, settled } from "./harness.mjs";

const N_SCENES = 60;
/** Least share of the scenes' first captions that must find their own scene first. */
const LEAST_RECALL = 0.4;

const skip = missing();
if (skip) console.log(skip);

describe("the page", { skip: skip || false }, () => {
  let server, browser, page, errors, scenes;

  before(async () => {
    scenes = drawScenes(N_SCENES);
    server = await serve();
    browser = await browse();
    ({ page, errors } = await openPage(browser.context, server.address));
  });

  after(async () => {
    await browser?.close();
    await server?.stop();
    scenes?.remove();
  });

  const text = (selector) => page.locator(selector).innerText();
  const openPhoto = async (file) => {
    await chooseFiles(page, "#open", file);
    await settled(page, "#whole");
  };

  it("describes a photo and a box that is dragged on it", async () => {
    const { file } = scenes.scenes[0];
    await openPhoto(file);
    assert.equal(await text("#whole"), mmgem("caption", file)[0].caption);

    const frame = await page.locator("#boxes").boundingBox();
    const at = (x, y) => [frame.x + x * frame.width, frame.y + y * frame.height];
    await page.mouse.move(...at(0.2, 0.3));
    await page.mouse.down();
    await page.mouse.move(...at(0.5, 0.6));
    await page.mouse.move(...at(0.7, 0.8));
    await page.mouse.up();
    await settled(page, ".region .caption");
    assert.equal(await page.locator(".region").count(), 1);

    const download = page.waitForEvent("download");
    await page.locator("#save-json").click();
    const saved = JSON.parse(fs.readFileSync(await (await download).path()).toString());
    const [region] = saved.regions;
    const native = mmgem("caption", file, "--box", region.box.join(","))[0];
    assert.equal(region.caption, native.caption);
    const { width, height } = saved;
    const wanted = [0.2 * width, 0.3 * height, 0.7 * width, 0.8 * height];
    region.box.forEach((edge, i) => assert.ok(Math.abs(edge - wanted[i]) < 2, `${region.box}, wanted ${wanted}`));
  });

  it("moves, resizes, renames and removes a box by keyboard", async () => {
    const box = page.locator(".boxes .box").first();
    const place = async () => (await box.boundingBox());
    await box.focus();
    const before = await place();
    await page.keyboard.press("ArrowRight");
    const moved = await place();
    assert.ok(moved.x > before.x && Math.abs(moved.width - before.width) < 1);
    await page.keyboard.press("Shift+ArrowDown");
    assert.ok((await place()).height > moved.height);
    await page.locator(".region .name").fill("the barn");
    assert.match(await box.innerText(), /the barn/);
    await box.focus();
    await page.keyboard.press("Delete");
    assert.equal(await page.locator(".region").count(), 0);
  });

  const rect = (selector) => page.locator(selector).evaluate(({ style }) =>
    [style.left, style.top, style.width, style.height].map((share) => Number.parseFloat(share)));
  const area = ([, , width, height]) => width * height;
  /** Intersection over union of two boxes, given by `rect`. */
  const iou = (a, b) => {
    const shared = [0, 1].map((axis) =>
      Math.min(a[axis] + a[axis + 2], b[axis] + b[axis + 2]) - Math.max(a[axis], b[axis]));
    const both = Math.max(0, shared[0]) * Math.max(0, shared[1]);
    return both / (area(a) + area(b) - both);
  };
  const contains = ([left, top, width, height], [x, y]) =>
    left <= x && x <= left + width && top <= y && y <= top + height;

  it("previews the box that a click gives, and offers the next one at the same place", async () => {
    const frame = await page.locator("#boxes").boundingBox();
    const at = [frame.x + frame.width * 0.4, frame.y + frame.height * 0.6];
    await page.mouse.move(...at);
    await page.waitForSelector(".preview:not([hidden])");
    const preview = await rect(".preview");
    await page.mouse.click(...at);
    await settled(page, ".region .caption");
    const first = await rect(".boxes .box");
    assert.deepEqual(first, preview);
    assert.equal(await page.locator(".preview:not([hidden])").count(), 0, "it is there now");

    await page.mouse.click(...at);
    const isFirst = ([first, wanted]) => {
      const { left, top, width, height } = document.querySelector(".boxes .box").style;
      return [left, top, width, height].every((share, i) => Number.parseFloat(share) === first[i]) === wanted;
    };
    await page.waitForFunction(isFirst, [first, false]);
    const next = await rect(".boxes .box");
    assert.ok(iou(first, next) < 0.9, `another box: ${first}, then ${next}`);
    assert.ok(contains(next, [40, 60]), `${next} contains the clicked point`);
    await settled(page, ".region .caption");
    await page.mouse.wheel(0, -100);
    await page.waitForFunction(isFirst, [first, true]);
    assert.equal(await page.locator(".region").count(), 1);
    await page.locator(".region button[aria-label^='Remove']").click();
  });

  it("makes a box of a click inside another box, which a drag moves", async () => {
    const frame = await page.locator("#boxes").boundingBox();
    const at = (x, y) => [frame.x + x * frame.width, frame.y + y * frame.height];
    const drag = async (from, to) => {
      await page.mouse.move(...from);
      await page.mouse.down();
      await page.mouse.move(...to, { steps: 3 });
      await page.mouse.up();
    };
    await drag(at(0.02, 0.02), at(0.9, 0.9));
    const dragged = await rect(".boxes .box");
    await page.mouse.click(...at(0.2, 0.25));
    await page.waitForFunction(() => document.querySelectorAll(".region").length === 2);
    await page.locator(".region button[aria-label^='Remove']").last().click();
    await drag(at(0.5, 0.5), at(0.55, 0.55));
    const moved = await rect(".boxes .box");
    assert.ok(moved[0] > dragged[0] && moved[1] > dragged[1], `${dragged} moved to ${moved}`);
    await page.locator(".region button[aria-label^='Remove']").click();
    assert.equal(await page.locator(".region").count(), 0);
  });

  it("shows where a phrase is", async () => {
    const { regions, file } = scenes.scenes[0];
    await page.locator("#phrase").fill(regions[0].phrases[0]);
    await page.keyboard.press("Enter");
    await page.waitForSelector("#located:not([hidden])");
    assert.ok(await page.locator("#heat").isVisible());
    const native = mmgem("localize", file, "--text", regions[0].phrases[0], "--out", `${scenes.folder}/heat.png`);
    assert.match(await text("#located-text"), new RegExp(native.score.toFixed(2)));
    fs.rmSync(`${scenes.folder}/heat.png`);
  });

  it("describes the part of a photo that arrived, and says so", async () => {
    const half = path.join(path.dirname(scenes.folder), "half.jpg");
    const bytes = fs.readFileSync(scenes.scenes[0].file);
    fs.writeFileSync(half, bytes.subarray(0, bytes.length / 2));
    await openPhoto(half);
    assert.match(await text("#notices"), /half\.jpg is used only as far as it arrived.*cut short/s);
    await page.locator(".notice button").click();
  });

  it("says that a damaged photo is damaged", async () => {
    const damaged = path.join(path.dirname(scenes.folder), "damaged.jpg");
    fs.writeFileSync(damaged, fs.readFileSync(scenes.scenes[0].file).subarray(0, 300));
    await chooseFiles(page, "#open", damaged);
    await page.waitForSelector(".notice");
    assert.match(await text("#notices"), /damaged\.jpg cannot be used.*damaged or cut short/s);
    await page.locator(".notice button").click();
    await openPhoto(scenes.scenes[1].file);
  });

  const indexed = (n) => page.waitForFunction((n) =>
    document.getElementById("indexing").hidden && document.getElementById("count").textContent.startsWith(`${n} photo`), n, { timeout: 120_000 });

  it("indexes the scenes, passes over what is no photo, and can be stopped and resumed", async () => {
    await page.locator("#tab-find").click();
    const broken = path.join(path.dirname(scenes.folder), "broken.jpg");
    fs.writeFileSync(broken, "no photo");
    await chooseFiles(page, "#files", [broken, ...scenes.scenes.map((scene) => scene.file)]);
    await page.waitForSelector("#indexing:not([hidden])");
    await page.locator("#pause").click();
    await page.waitForFunction(() => document.getElementById("index-text").textContent.includes("paused"));
    await page.locator("#pause").click();
    await indexed(N_SCENES);
    assert.match(await text("#failed"), /1 file passed over/);
  });

  const sizeOf = (file) => page.evaluate(async (text) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const { width, height } = await createImageBitmap(new Blob([bytes]));
    return { width, height };
  }, base64(file));

  const search = async (query) => {
    await page.locator("#query").fill(query);
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => /match|nearest/.test(document.getElementById("count").textContent));
    await page.waitForTimeout(120);
    const first = page.locator(".tile[data-at='0']");
    return (await first.getAttribute("title")) ?? "";
  };

  it("finds the right scene first, as often as the native program, and its box", async () => {
    const library = path.join(path.dirname(scenes.folder), "photos.library");
    let [right, nBoxes] = [0, 0];
    for (const [i, scene] of scenes.scenes.entries()) {
      const first = await search(scene.captions[0]);
      if (first === scene.name) right += 1;
      if (i % 4) continue;
      const [native] = mmgem("search", scene.captions[0], "--photos", scenes.folder, "--library", library, "-k", "1");
      assert.equal(first, path.basename(native.path));
      // A box is drawn only if it fits the text better than the whole photo does.
      const drawn = page.locator(".tile[data-at='0'] .hit-box");
      if (!(await drawn.count())) continue;
      nBoxes += 1;
      const style = await drawn.evaluate((box) =>
        ["left", "top", "width", "height"].map((side) => parseFloat(box.style[side]) / 100));
      const { width, height } = await sizeOf(native.path);
      const [x0, y0, x1, y1] = native.box;
      const wanted = [x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height];
      style.forEach((part, i) => assert.ok(Math.abs(part - wanted[i]) < 0.01, `${style}, wanted ${wanted}`));
    }
    assert.ok(nBoxes > 0, "no hit had a box");
    assert.ok(right >= LEAST_RECALL * N_SCENES, `${right} of ${N_SCENES}`);
    console.log(`text to scene R@1 in the browser: ${right} of ${N_SCENES}`);
  });

  it("finds the library again after a reload, and encodes only what is new", async () => {
    await page.reload();
    await page.waitForSelector('#status[data-state="ready"]');
    assert.ok(await page.locator("#find").isVisible(), "the view and the query are there again");
    await page.locator("#query").fill("");
    await indexed(N_SCENES);
    assert.ok((await search(scenes.scenes[3].captions[0])).length > 0);
    await chooseFiles(page, "#files", scenes.scenes.map((scene) => scene.file));
    await page.waitForSelector(".notice");
    assert.match(await text("#notices"), /All 60 photos .* in the library already/);
    await page.locator(".notice button").click();
  });

  it("works without a network once it was here", async () => {
    await page.evaluate(() => navigator.serviceWorker.ready);
    await page.waitForFunction(async () => (await caches.keys()).some((name) => name.startsWith("mmgem-shell")));
    await server.stop();
    await page.reload();
    await page.waitForSelector('#status[data-state="ready"]', { timeout: 60_000 });
    await page.locator("#tab-describe").click();
    await openPhoto(scenes.scenes[2].file);
    assert.ok((await text("#whole")).length > 3);
    await page.locator("#tab-find").click();
    await page.locator("#query").fill("");
    await indexed(N_SCENES);
  });

  it("says on the page that it computes on the processor, and why", async () => {
    await page.locator("#status").click();
    await page.waitForFunction(() => document.getElementById("facts").textContent.includes("Runs on"));
    assert.match(await text("#facts"), /processor/);
    assert.match(await text("#facts"), /checked \(SHA-256\)/);
    await page.keyboard.press("Escape");
  });

  it("asks no other server for anything, sets no cookie and reports no error", async () => {
    const foreign = browser.requests.filter((url) => !/^(http:\/\/127\.0\.0\.1|blob:|data:)/.test(url));
    assert.deepEqual(foreign, []);
    assert.deepEqual(await browser.context.cookies(), []);
    assert.deepEqual(errors.filter((error) => !/ERR_CONNECTION_REFUSED|fetch/.test(error)), []);
  });
});
