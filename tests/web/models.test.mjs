// The list of models that the server offers.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { after, before, describe, it } from "node:test";

import { MMGEM, ROOT, browse, missing, openPage, serve, settled } from "./harness.mjs";

const skip = missing();
if (skip) console.log(skip);

describe("the list of models", { skip: skip || false }, () => {
  let folder, small, browser;

  before(async () => {
    folder = fs.mkdtempSync(path.join(os.tmpdir(), "mmgem-models-"));
    small = path.join(folder, "small");
    const source = path.join(ROOT, "assets/model");
    execFileSync(MMGEM, ["export", source, "--dtype", "q8", "--out", small, "--device", "cpu", "-q"]);
    browser = await browse();
  });

  after(async () => {
    await browser?.close();
    fs.rmSync(folder, { recursive: true, force: true });
  });

  const lines = async (page) => {
    await page.locator("#status").click();
    await page.waitForSelector("#models li");
    const all = await page.locator("#models li").allInnerTexts();
    await page.keyboard.press("Escape");
    return all.map((line) => line.replaceAll("\n", " "));
  };

  it("has the server's models with their sizes, and the speed of those that wrote a caption", async () => {
    const server = await serve("--offer", small);
    try {
      const { page } = await openPage(browser.context, server.address);
      const before = await lines(page);
      assert.equal(before.length, 2);
      assert.match(before[0], /^small 11\.\d MB · to be fetched \/models\/here-0-small\/ Open$/);
      assert.match(before[1], /^the embedded model 19\.4 MB · in this browser \/model\/ in use$/);

      await page.locator("#status").click();
      // The status is "ready" until the page begins to open the other model.
      const begun = page.waitForSelector('#status:not([data-state="ready"])');
      await page.locator("#models li:has-text('small') button").click();
      await begun;
      await page.waitForSelector('#status[data-state="ready"]');
      await page.locator("#samples button").first().click();
      await settled(page, "#whole");
      const speed = /^small .* · \d+ tokens\/s on the processor .* in use$/;
      assert.match((await lines(page))[0], speed);

      await page.reload();
      await page.waitForSelector('#status[data-state="ready"]');
      const [later, own] = await lines(page);
      assert.match(later, /^small .* · \d+ tokens\/s on the processor .* Open$/);
      assert.match(own, /in use$/);
    } finally {
      await server.stop();
    }
  });

  it("begins with the model of --model, which the page opens first", async () => {
    const server = await serve("--model", small);
    try {
      assert.match(server.address, /\/\?model=models\/here-0-small\/$/);
      const { page } = await openPage(browser.context, server.address);
      assert.match((await lines(page))[0], /^small .* in use$/);
      await page.locator("#samples button").first().click();
      await settled(page, "#whole");
    } finally {
      await server.stop();
    }
  });
});
