// The library as users expect it: search while typing, step through photos, Back and Forward.

import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { after, before, describe, it } from "node:test";

import {
  ROOT, base64, browse, chooseFiles, drawScenes, drop, missing, openPage, serve, settled,
} from "./harness.mjs";

const N_SCENES = 8;

const skip = missing();
if (skip) console.log(skip);

describe("the library", { skip: skip || false }, () => {
  let server, browser, page, scenes;

  before(async () => {
    scenes = drawScenes(N_SCENES);
    server = await serve();
    browser = await browse();
    ({ page } = await openPage(browser.context, server.address));
    await page.locator("#tab-find").click();
  });

  after(async () => {
    await browser?.close();
    await server?.stop();
    scenes?.remove();
  });

  const text = (selector) => page.locator(selector).innerText();
  const counted = (wanted) => page.waitForFunction((wanted) =>
    document.getElementById("indexing").hidden && document.getElementById("count").textContent === wanted, wanted);
  const matched = () => page.waitForFunction(() => /match|nearest/.test(document.getElementById("count").textContent));

  it("has photos to try on the first visit", async () => {
    await page.locator("#demo button").first().click();
    await counted("1 photo");
    await page.locator(".tile").click();
    await page.locator("#viewer-remove").click();
    await counted("No photos yet");
    assert.equal(await page.locator("#viewer").isVisible(), false);
    await page.locator(".notice .undo").click();
    await counted("1 photo");
    assert.equal(await page.locator(".notice").count(), 0);
    await page.locator(".tile img").waitFor();
    await page.locator(".tile").click();
    await page.locator("#viewer-remove").click();
    await counted("No photos yet");
    await page.locator("#demo-all").click();
    await counted("10 photos");
  });

  it("searches while a person types, and shows the box of a hit on hover only", async () => {
    await page.locator("#query").pressSequentially("a cat");
    await matched();
    assert.equal(new URL(page.url()).hash, "#find=a+cat");
    await page.locator("#query").fill("");
    await counted("10 photos");
    await page.locator("#query").fill("a cup of coffee");
    await matched();
    const tile = page.locator(".tile:has(.hit-box)").first();
    const shown = () => tile.locator(".hit-box").evaluate((box) => getComputedStyle(box).opacity);
    await page.mouse.move(5, 5);
    assert.equal(await shown(), "0");
    await tile.hover();
    await page.waitForFunction((box) => getComputedStyle(box).opacity === "1", await tile.locator(".hit-box").elementHandle());
    await page.locator("#query").fill("");
    await counted("10 photos");
  });

  it("says that nothing was found when even the best photo scores low, and shows the nearest", async () => {
    const says = async (query) => {
      // The count of the query before could be taken for this one's.
      await page.locator("#query").fill("");
      await counted("10 photos");
      await page.locator("#query").fill(query);
      await matched();
      return text("#count");
    };
    assert.match(await says("an invoice from the dentist"), /^Nothing found; the nearest of 10 photos$/);
    assert.ok((await page.locator(".tile").count()) > 0);
    assert.match(await says("a cup of coffee"), /match/);
    await page.locator("#query").fill("");
    await counted("10 photos");
  });

  it("goes from photo to photo in the viewer, and removes one", async () => {
    const paths = await page.locator(".tile").evaluateAll((tiles) =>
      tiles.sort((a, b) => a.dataset.at - b.dataset.at).map((tile) => tile.title));
    await page.locator(".tile[data-at='0']").click();
    const shows = (title) => page.waitForFunction((title) => document.getElementById("viewer-title").textContent === title, title);
    await shows(paths[0]);
    assert.ok(await page.locator("#viewer-before").isDisabled());
    await page.locator("#viewer-after").click();
    await shows(paths[1]);
    await page.keyboard.press("ArrowRight");
    await shows(paths[2]);
    await page.keyboard.press("ArrowLeft");
    await shows(paths[1]);
    await page.locator("#viewer-remove").click();
    await shows(paths[2]);
    await page.keyboard.press("Escape");
    await counted("9 photos");
    await page.reload();
    await counted("9 photos");
    assert.equal(await page.locator(`.tile[title='${paths[1]}']`).count(), 0);
  });

  it("brings removed photos back, the last one first, and finds them again without encoding them", async () => {
    const titles = () => page.locator(".tile").evaluateAll((tiles) => tiles.map((tile) => tile.title).sort());
    const all = await titles();
    const remove = async (title) => {
      await page.locator(`.tile[title='${title}']`).click();
      await page.locator("#viewer-remove").click();
    };
    await remove(all[0]);
    await page.waitForFunction((gone) => document.getElementById("viewer-title").textContent !== gone, all[0]);
    await page.locator("#viewer-undo").click();
    await page.waitForFunction((back) => document.getElementById("viewer-title").textContent === back, all[0]);
    assert.equal(await page.locator("#viewer-undo").isVisible(), false);
    await page.keyboard.press("Escape");
    await counted("9 photos");

    for (const title of all.slice(0, 2)) {
      await remove(title);
      await page.waitForFunction((gone) => document.getElementById("viewer-title").textContent !== gone, title);
      await page.keyboard.press("Escape");
    }
    await counted("7 photos");
    assert.equal(await page.locator(".notice").count(), 1);
    assert.match(await text(".notice"), new RegExp(`^${all[1]} left the library`));
    await page.locator("#grid").focus();
    await page.keyboard.press("Control+z");
    await counted("8 photos");
    assert.match(await text(".notice"), new RegExp(`^${all[0]} left the library`));
    await page.keyboard.press("Control+z");
    await counted("9 photos");
    assert.equal(await page.locator(".notice").count(), 0);

    assert.deepEqual(await titles(), all);
    await page.waitForFunction(() => document.querySelectorAll(".tile img").length === 9);
    await page.locator("#query").fill("a cup of coffee");
    await page.waitForFunction(() => document.querySelector(".tile[data-at='0']")?.title === "coffee.jpg");
    // Without it the best of the rest is a weak match.
    await remove("coffee.jpg");
    await page.keyboard.press("Escape");
    await page.waitForFunction(() => /^Nothing found; the nearest of 8/.test(document.getElementById("count").textContent));
    await page.locator("#grid").focus();
    await page.keyboard.press("Control+z");
    await page.waitForFunction(() => document.querySelector(".tile[data-at='0']")?.title === "coffee.jpg");
    await page.locator("#query").fill("");
    await page.reload();
    await counted("9 photos");
  });

  it("follows Back and Forward between the views and the queries", async () => {
    await page.locator("#query").fill("a rocket");
    await page.keyboard.press("Enter");
    await matched();
    await page.locator("#query").fill("stairs");
    await page.keyboard.press("Enter");
    await page.locator("#tab-describe").click();
    assert.ok(await page.locator("#describe").isVisible());
    await page.goBack();
    assert.ok(await page.locator("#find").isVisible());
    assert.equal(await page.locator("#query").inputValue(), "stairs");
    await page.goBack();
    assert.equal(await page.locator("#query").inputValue(), "a rocket");
    await page.goForward();
    assert.equal(await page.locator("#query").inputValue(), "stairs");
    await page.locator("#query").fill("");
  });

  it("opens a photo of a folder in a later visit", async () => {
    const files = scenes.scenes.map(({ file, name }) => ({ name, text: base64(file) }));
    const givesFolder = () => {
      window.showDirectoryPicker = async () => (await navigator.storage.getDirectory()).getDirectoryHandle("trip");
    };
    await page.evaluate(async (files) => {
      const root = await navigator.storage.getDirectory();
      for (const folder of ["trip", "other"]) await root.getDirectoryHandle(folder, { create: true });
      for (const { name, text } of files) {
        const handle = await (await root.getDirectoryHandle("trip")).getFileHandle(name, { create: true });
        const writer = await handle.createWritable();
        await writer.write(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)));
        await writer.close();
      }
    }, files);
    await page.evaluate(givesFolder);
    await page.locator("#folder").click();
    await counted(`${9 + N_SCENES} photos`);
    await page.reload();
    await counted(`${9 + N_SCENES} photos`);
    await page.locator(`.tile[title^='trip/']`).first().click();
    await page.locator("#viewer-describe:not([disabled])").click();
    await settled(page, "#whole");
    assert.ok(await page.locator("#describe").isVisible());
  });

  it("keeps a second folder of the same name apart, and forgets what left the first", async () => {
    await page.locator("#tab-find").click();
    const name = scenes.scenes[0].name;
    await page.evaluate(async (name) => {
      const root = await navigator.storage.getDirectory();
      const other = await (await root.getDirectoryHandle("other")).getDirectoryHandle("trip", { create: true });
      const writer = await (await other.getFileHandle(name, { create: true })).createWritable();
      await writer.write(await (await fetch("demo/grass.jpg")).blob());
      await writer.close();
      window.showDirectoryPicker = async () => other;
    }, name);
    // Remove the demo's own copy: the library would recognise its content.
    await page.locator(".tile[title='grass.jpg']").click();
    await page.locator("#viewer-remove").click();
    await page.keyboard.press("Escape");
    await page.locator("#folder").click();
    await counted(`${9 + N_SCENES} photos`);
    assert.equal(await page.locator(`.tile[title='trip (2)/${name}']`).count(), 1);
    assert.equal(await page.locator(`.tile[title='trip/${name}']`).count(), 1);

    await page.evaluate(async (name) => {
      const trip = await (await navigator.storage.getDirectory()).getDirectoryHandle("trip");
      await trip.removeEntry(name);
      window.showDirectoryPicker = async () => trip;
    }, name);
    await page.locator("#folder").click();
    await counted(`${8 + N_SCENES} photos`);
    assert.equal(await page.locator(`.tile[title='trip (2)/${name}']`).count(), 1);
  });

  it("knows a dropped folder in a later visit, and asks for permission again", async () => {
    const folder = fs.mkdtempSync(path.join(path.dirname(scenes.folder), "mmgem-dropped-"));
    fs.mkdirSync(path.join(folder, "below"));
    const inner = path.join(folder, "below", scenes.scenes[0].name);
    fs.copyFileSync(path.join(ROOT, "assets/demo/grass.jpg"), inner);
    await page.locator("#more").click();
    page.once("dialog", (dialog) => dialog.accept());
    await page.locator("#clear").click();
    await counted("No photos yet");
    await drop(page, "#grid", [folder]);
    await counted("1 photo");
    const title = `${path.basename(folder)}/below/${scenes.scenes[0].name}`;
    assert.equal(await page.locator(".tile").getAttribute("title"), title);

    // Headless Chromium never answers its question after a reload. So the test answers it, and lends a file of the
    // same path.
    await page.evaluate(async (name) => {
      const below = await (await navigator.storage.getDirectory()).getDirectoryHandle("below", { create: true });
      const writer = await (await below.getFileHandle(name, { create: true })).createWritable();
      await writer.write(await (await fetch("demo/grass.jpg")).blob());
      await writer.close();
    }, scenes.scenes[0].name);
    await page.addInitScript((dropped) => {
      window.asked = 0;
      window.answer = "denied";
      const { getDirectoryHandle, queryPermission } = FileSystemDirectoryHandle.prototype;
      FileSystemDirectoryHandle.prototype.queryPermission = async function (how) {
        window.found = await queryPermission.call(this, how);
        return window.found;
      };
      FileSystemDirectoryHandle.prototype.requestPermission = async () => {
        window.asked += 1;
        return window.answer;
      };
      FileSystemDirectoryHandle.prototype.getDirectoryHandle = async function (name, how) {
        const folder = this.name === dropped ? await navigator.storage.getDirectory() : this;
        return getDirectoryHandle.call(folder, name, how);
      };
    }, path.basename(folder));
    await page.reload();
    await counted("1 photo");
    await page.locator(".tile").click();
    await page.locator("#viewer-describe:not([disabled])").click();
    await page.waitForFunction(() => /cannot be opened: the browser was not allowed/.test(document.getElementById("notices").textContent));
    assert.deepEqual(await page.evaluate(() => [window.found, window.asked]), ["prompt", 1]);
    await page.evaluate(() => (window.answer = "granted"));
    await page.locator("#viewer-describe").click();
    await settled(page, "#whole");
    assert.equal(await page.evaluate(() => window.asked), 2);
    assert.ok(await page.locator("#describe").isVisible());
  });
});
