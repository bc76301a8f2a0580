// Scrolling, drawing and zooming by touch and by mouse.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";

import { browse, chooseFiles, drawScenes, missing, openPage, serve, settled } from "./harness.mjs";

const PHONE = { viewport: { width: 390, height: 700 }, isMobile: true, hasTouch: true };

const skip = missing();
if (skip) console.log(skip);

describe("a photo on a phone", { skip: skip || false }, () => {
  let server, browser, page, scenes, control;

  before(async () => {
    scenes = drawScenes(1);
    server = await serve();
    browser = await browse([], PHONE);
    ({ page } = await openPage(browser.context, server.address));
    control = await browser.context.newCDPSession(page);
    await chooseFiles(page, "#open", scenes.scenes[0].file);
    await settled(page, "#whole");
  });

  after(async () => {
    await browser?.close();
    await server?.stop();
    scenes?.remove();
  });

  const at = async (x, y) => {
    const frame = await page.locator("#boxes").boundingBox();
    return { x: frame.x + x * frame.width, y: frame.y + y * frame.height };
  };
  const touch = (type, ...touchPoints) => control.send("Input.dispatchTouchEvent", { type, touchPoints });
  const regions = () => page.locator(".region").count();

  it("draws a box when a finger rests and then moves", async () => {
    const [from, to] = [await at(0.3, 0.3), await at(0.6, 0.7)];
    await touch("touchStart", from);
    await page.waitForSelector(".box.drawing", { state: "attached" });
    await touch("touchMove", { x: (from.x + to.x) / 2, y: (from.y + to.y) / 2 });
    await touch("touchMove", to);
    await touch("touchEnd");
    await settled(page, ".region .caption");
    assert.equal(await page.evaluate(() => scrollY), 0);
    const box = await page.locator(".boxes .box").boundingBox();
    assert.ok(Math.abs(box.x - from.x) < 3 && Math.abs(box.width - (to.x - from.x)) < 3, JSON.stringify({ box, from, to }));
  });

  it("makes a box of a tap, also inside another one", async () => {
    await page.touchscreen.tap(...Object.values(await at(0.45, 0.5)));
    await page.waitForFunction(() => document.querySelectorAll(".region").length === 2);
  });

  it("resizes a box by its corner at once", async () => {
    const selected = page.locator(".boxes .box.selected");
    const before = await selected.boundingBox();
    const corner = { x: before.x + before.width, y: before.y + before.height };
    await touch("touchStart", corner);
    await touch("touchMove", { x: corner.x + 15, y: corner.y + 15 });
    await touch("touchMove", { x: corner.x + 20, y: corner.y + 20 });
    await touch("touchEnd");
    const after = await selected.boundingBox();
    assert.ok(after.width > before.width + 10 && after.height > before.height + 10, JSON.stringify({ before, after }));
  });

  it("scrolls when a finger swipes over it", async () => {
    const before = await regions();
    const { x, y } = await at(0.5, 0.8);
    await touch("touchStart", { x, y });
    for (let step = 1; step <= 10; step += 1) await touch("touchMove", { x, y: y - 15 * step });
    await touch("touchEnd");
    await page.waitForFunction(() => scrollY > 0);
    assert.equal(await regions(), before);
  });
});

describe("a photo under a mouse", { skip: skip || false }, () => {
  let server, browser, page, scenes;

  before(async () => {
    scenes = drawScenes(1);
    server = await serve();
    browser = await browse([], { permissions: ["clipboard-read", "clipboard-write"] });
    ({ page } = await openPage(browser.context, server.address));
    await chooseFiles(page, "#open", scenes.scenes[0].file);
    await settled(page, "#whole");
  });

  after(async () => {
    await browser?.close();
    await server?.stop();
    scenes?.remove();
  });

  const frame = () => page.locator("#boxes").boundingBox();

  it("grows around the pointer with Ctrl and the wheel, and keeps its boxes in place", async () => {
    await page.locator("#add-box").click();
    const before = await frame();
    const point = [before.x + 0.5 * before.width, before.y + 0.5 * before.height];
    await page.mouse.move(...point);
    await page.keyboard.down("Control");
    await page.mouse.wheel(0, -200);
    await page.keyboard.up("Control");
    await page.waitForFunction((width) => document.getElementById("boxes").clientWidth > 2 * width, before.width);
    const after = await frame();
    assert.ok(Math.hypot(after.x + 0.5 * after.width - point[0], after.y + 0.5 * after.height - point[1]) < 3, JSON.stringify({ before, after }));
    const box = await page.locator(".boxes .box").boundingBox();
    assert.ok(Math.abs((box.x - after.x) / after.width - 0.3) < 0.01);
    while (await page.evaluate((width) => document.getElementById("boxes").clientWidth > width, before.width)) {
      await page.locator("#zoom-out").click();
    }
    assert.ok(Math.abs((await frame()).width - before.width) < 2);
  });

  it("brings a removed box back with Ctrl+Z", async () => {
    await settled(page, ".region .caption");
    const [box, caption] = [await page.locator(".boxes .box").boundingBox(), await page.locator(".region .caption").innerText()];
    await page.locator(".boxes .box").focus();
    await page.keyboard.press("Delete");
    assert.equal(await page.locator(".region").count(), 0);
    await page.keyboard.press("Control+z");
    assert.deepEqual(await page.locator(".boxes .box").boundingBox(), box);
    assert.equal(await page.locator(".region .caption").innerText(), caption);
  });

  it("says how fast its captions come, and which models there are", async () => {
    await page.locator("#status").click();
    await page.waitForFunction(() => /Writes\d+ tokens a second/.test(document.getElementById("facts").textContent));
    const model = /the embedded model[\d.]+ MB · in this browser · \d+ tokens\/s on the processor\/model\/in use/;
    await page.waitForFunction((model) => new RegExp(model).test(document.getElementById("models").textContent), model.source);
    await page.keyboard.press("Escape");
  });

  it("has captions that can be copied", async () => {
    await page.locator("#whole-head button").click();
    const copied = await page.evaluate(() => navigator.clipboard.readText());
    assert.equal(copied, await page.locator("#whole").innerText());
  });
});
