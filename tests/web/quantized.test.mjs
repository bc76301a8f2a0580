// Opens models in 8 and 4 bits from this device's files in the page, and compares their captions
// with the native program.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { after, before, describe, it } from "node:test";

import { MMGEM, ROOT, browse, chooseFiles, drawScenes, missing, mmgem, openPage, serve, settled } from "./harness.mjs";

const N_SCENES = 6;
/** The browser has no fused multiply-add, so an activation may round to the next of its 8 bits and turn a near tie. */
const LEAST_EQUAL = 9;

const skip = missing();
if (skip) console.log(skip);

describe("a packed model in the page", { skip: skip || false }, () => {
  let server, browser, page, scenes, folder;

  before(async () => {
    folder = fs.mkdtempSync(path.join(os.tmpdir(), "mmgem-packed-"));
    scenes = drawScenes(N_SCENES);
    server = await serve();
    browser = await browse();
    ({ page } = await openPage(browser.context, server.address));
  });

  after(async () => {
    await browser?.close();
    await server?.stop();
    scenes?.remove();
    fs.rmSync(folder, { recursive: true, force: true });
  });

  for (const dtype of ["q8", "q4"]) {
    it(`captions photos and boxes with ${dtype} weights as the native program does, but for near ties`, async () => {
      const model = path.join(folder, dtype);
      const source = path.join(ROOT, "assets/model");
      execFileSync(MMGEM, ["export", source, "--dtype", dtype, "--out", model, "--device", "cpu", "-q"]);
      const files = fs.readdirSync(model).filter((name) => /\.(json|safetensors)$/.test(name));

      await page.locator("#status").click();
      await chooseFiles(page, "#model-files", files.map((name) => path.join(model, name)));
      await page.waitForSelector('#status[data-state="ready"]');
      await page.locator("#status").click();
      await page.waitForFunction(() => document.getElementById("facts").textContent.includes("from this device"));
      await page.keyboard.press("Escape");

      let n_equal = 0;
      for (const { file } of scenes.scenes) {
        await chooseFiles(page, "#open", file);
        await settled(page, "#whole");
        const [whole] = mmgem("caption", file, "--model", model);
        n_equal += (await page.locator("#whole").innerText()) === whole.caption;

        await page.locator("#add-box").click();
        await settled(page, ".region .caption");
        const download = page.waitForEvent("download");
        await page.locator("#save-json").click();
        const [region] = JSON.parse(fs.readFileSync(await (await download).path()).toString()).regions;
        const [native] = mmgem("caption", file, "--box", region.box.join(","), "--model", model);
        n_equal += region.caption === native.caption;
      }
      console.log(`${dtype}: captions the same in the page and in the program: ${n_equal} of ${2 * N_SCENES}`);
      assert.ok(n_equal >= LEAST_EQUAL, `only ${n_equal} of ${2 * N_SCENES} captions are the same`);
    });
  }
});
