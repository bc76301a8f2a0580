// Compares WebGPU with the CPU, and tests a lost device. Runs in software without a GPU.

import assert from "node:assert/strict";
import path from "node:path";
import { after, before, describe, it } from "node:test";

import {
  WEBGPU_FLAGS, base64, browse, chooseFiles, drawScenes, missing, missingWebGpu, mmgem, openPage, serve, settled,
} from "./harness.mjs";

const BOX = [20, 15, 120, 110];
const TEXTS = ["a brown dog on the grass", "a boat"];
/** Largest difference allowed in a component of a unit vector. */
const TOLERANCE = 1e-3;
/** Least share of the captions' tokens that precede the first difference. */
const LEAST_TOKENS_THE_SAME = 0.95;
const N_SCENES = 4;
/** Each shader is compiled at its first use, which takes seconds in software. */
const PATIENCE_MS = 180_000;

let server, skip = missing();
if (!skip) {
  server = await serve();
  skip = await missingWebGpu(server.address);
}
if (skip) console.log(skip);
after(() => server?.stop());

/** Runs in the worker. Makes the device's next command lose it. */
function loseTheDevice() {
  const { createCommandEncoder } = GPUDevice.prototype;
  GPUDevice.prototype.createCommandEncoder = function (...args) {
    this.destroy();
    return createCommandEncoder.apply(this, args);
  };
}

describe("on WebGPU", { skip: skip || false }, () => {
  let browser, page, errors, scenes;

  before(async () => {
    scenes = drawScenes(N_SCENES);
    browser = await browse(WEBGPU_FLAGS);
    ({ page, errors } = await openPage(browser.context, server.address));
    page.setDefaultTimeout(PATIENCE_MS);
  });

  after(async () => {
    await browser?.close();
    scenes?.remove();
  });

  const text = (selector) => page.locator(selector).innerText();

  /** The newest worker that computes on the device. A worker that is closing may still be listed. */
  const workerOnGpu = async () => {
    for (const worker of page.workers().reverse()) {
      if (await worker.evaluate(() => Boolean(self.mmgemOnGpu?.())).catch(() => false)) return worker;
    }
  };

  const runsOn = async () => {
    await page.locator("#status").click();
    await page.waitForFunction(() => document.getElementById("facts").textContent.includes("Runs on"));
    const facts = await text("#facts");
    await page.keyboard.press("Escape");
    return facts;
  };

  it("is passed over where it is a program, and taken where a person chooses it", async () => {
    if (/processor: WebGPU has only a graphics processor in software/.test(await runsOn())) {
      assert.equal(await text("#status-text"), "On the processor");
    } else {
      console.log("SKIPPED: that WebGPU in software is passed over: there is a graphics processor");
    }
    await page.locator("#status").click();
    await page.locator('input[name=backend][value="webgpu"]').check();
    await page.waitForFunction(() => document.getElementById("status-text").textContent === "On WebGPU");
    assert.match(await runsOn(), /WebGPU: .*chosen here/);
  });

  it("captions a photo and a box that is dragged on it", async () => {
    const { file } = scenes.scenes[0];
    await chooseFiles(page, "#open", file);
    await settled(page, "#whole");
    assert.equal(await text("#whole"), mmgem("caption", file)[0].caption);
    const frame = await page.locator("#boxes").boundingBox();
    await page.mouse.move(frame.x + 0.2 * frame.width, frame.y + 0.3 * frame.height);
    await page.mouse.down();
    await page.mouse.move(frame.x + 0.7 * frame.width, frame.y + 0.8 * frame.height, { steps: 3 });
    await page.mouse.up();
    await settled(page, ".region .caption");
    assert.ok((await text(".region .caption")).length > 3);
  });

  it("searches a library as the native program does", async () => {
    await page.locator("#tab-find").click();
    await chooseFiles(page, "#files", scenes.scenes.map((scene) => scene.file));
    await page.waitForFunction((n) => document.getElementById("indexing").hidden &&
      document.getElementById("count").textContent.startsWith(`${n} photos`), N_SCENES);
    const library = path.join(path.dirname(scenes.folder), "photos.library");
    const query = scenes.scenes[1].captions[0];
    await page.locator("#query").fill(query);
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => /match|nearest/.test(document.getElementById("count").textContent));
    await page.waitForTimeout(120);
    const [native] = mmgem("search", query, "--photos", scenes.folder, "--library", library, "-k", "1");
    assert.equal(await page.locator(".tile[data-at='0']").getAttribute("title"), path.basename(native.path));
    await page.locator("#tab-describe").click();
  });

  it("gives the native program's vectors", async () => {
    await page.evaluate(async () => {
      const { loadModel } = await import("./lib/mmgem.js");
      window.told = [];
      window.blob = (text) => new Blob([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))]);
      const onRestart = (message) => window.told.push(message);
      window.model = await loadModel("model", { backend: "webgpu", warmUp: false, onRestart });
      window.onCpu = await loadModel("model", { backend: "cpu" });
    });
    assert.equal(await page.evaluate(() => window.model.info.backend), "webgpu");
    const files = scenes.scenes.slice(0, 2).map((scene) => scene.file);
    const native = mmgem("embed", ...files, "--box", BOX.join(","), ...TEXTS.flatMap((text) => ["--text", text]));
    let worst = 0;
    const compare = (found, wanted) => {
      assert.equal(found.length, wanted.length);
      worst = Math.max(worst, ...found.map((x, i) => Math.abs(x - wanted[i])));
    };
    for (const [i, file] of files.entries()) {
      const found = await page.evaluate(async ([text, box]) => {
        const photo = await window.model.openPhoto(window.blob(text));
        return [[...(await window.model.embedImage(photo))], [...(await window.model.embedImage(photo, box))]];
      }, [base64(file), BOX]);
      compare(found[0], native.images[i].embed);
      compare(found[1], native.regions[i].embed);
    }
    for (const [i, text] of TEXTS.entries()) {
      compare(await page.evaluate(async (text) => [...(await window.model.embedText(text))], text), native.texts[i].embed);
    }
    console.log(`the largest difference of a number of a vector from the native program's: ${worst.toExponential(1)}`);
    assert.ok(worst < TOLERANCE, `differs by ${worst}`);
  });

  it("writes the CPU's captions, but for a few tokens", async () => {
    let [same, total] = [0, 0];
    for (const { file } of scenes.scenes) {
      const captions = await page.evaluate(async ([text, box]) => {
        const all = [];
        for (const model of [window.model, window.onCpu]) {
          const photo = await model.openPhoto(window.blob(text));
          for (const part of [null, box]) {
            const pieces = [];
            for await (const piece of model.captionRegion(photo, part)) pieces.push(piece);
            all.push(pieces);
          }
          photo.close();
        }
        return all;
      }, [base64(file), BOX]);
      for (const [found, wanted] of [[captions[0], captions[2]], [captions[1], captions[3]]]) {
        const first = wanted.findIndex((piece, i) => piece !== found[i]);
        same += first < 0 ? wanted.length : first;
        total += wanted.length;
      }
    }
    console.log(`tokens of captions the same on WebGPU and on the CPU: ${same} of ${total}`);
    assert.ok(total > 8 * N_SCENES && same >= LEAST_TOKENS_THE_SAME * total, `${same} of ${total}`);
  });

  it("goes on with a new device when it is lost, and on the processor when it is lost again", async () => {
    const ask = () => page.evaluate(async (text) => {
      window.photo ??= await window.model.openPhoto(window.blob(text));
      return { embed: [...(await window.model.embedImage(window.photo))], info: window.model.info };
    }, base64(scenes.scenes[0].file));
    const before = await ask();
    for (const [n, backend] of [[1, "webgpu"], [2, "cpu"]]) {
      await (await workerOnGpu()).evaluate(loseTheDevice);
      const { embed, info } = await ask();
      embed.forEach((x, i) => assert.ok(Math.abs(x - before.embed[i]) < TOLERANCE));
      assert.equal(info.backend, backend);
      const told = await page.evaluate(() => window.told);
      assert.equal(told.length, n);
      assert.match(told[n - 1], /the graphics device was lost/);
    }
    assert.match(await page.evaluate(() => window.model.info.reason), /WebGPU broke down twice in this visit/);
  });

  it("says on the page that the processor has taken over", async () => {
    await page.evaluate(() => {
      window.model.close();
      window.onCpu.close();
    });
    for (const words of [/WebGPU broke down; the model was started again on it/, /The processor has taken over/]) {
      await (await workerOnGpu()).evaluate(loseTheDevice);
      await page.locator("#add-box").click();
      await page.waitForSelector(".notice");
      assert.match(await text("#notices"), words);
      await page.locator(".notice button").click();
      await page.waitForFunction(() => document.querySelectorAll(".region .caption.writing").length === 0);
    }
    assert.equal(await text("#status-text"), "On the processor");
    assert.deepEqual(errors.filter((error) => !/device|mapAsync|lost/i.test(error)), []);
  });
});

describe("without WebGPU", { skip: (server ? "" : skip) || false }, () => {
  let browser, page;

  before(async () => {
    browser = await browse(["--disable-features=WebGPU", "--disable-gpu"]);
    ({ page } = await openPage(browser.context, server.address));
  });

  after(() => browser?.close());

  it("says why the processor computes, also to a person who chose WebGPU", async (t) => {
    if (await page.evaluate(async () => Boolean(await navigator.gpu?.requestAdapter()))) {
      console.log("SKIPPED: this browser has an adapter that cannot be switched off");
      return t.skip();
    }
    await page.locator("#status").click();
    await page.locator('input[name=backend][value="webgpu"]').check();
    await page.waitForSelector(".notice");
    const notice = await page.locator("#notices").innerText();
    assert.match(notice, /WebGPU was chosen, but the model runs on the processor: (this browser has no WebGPU|WebGPU found no)/);
    assert.equal(await page.locator("#status-text").innerText(), "On the processor");
  });
});
