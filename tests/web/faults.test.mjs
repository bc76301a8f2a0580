// What people met in the page: photos lost, silence, and the person at fault for none of it.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { after, before, describe, it } from "node:test";

import {
  MMGEM, browse, chooseFiles, drawScenes, drop, missing, openPage, serve, serveStatic, settled,
} from "./harness.mjs";

const N_SCENES = 24;

const skip = missing();
if (skip) console.log(skip);

/** Answers everybody and remembers what arrived. */
async function listen() {
  const arrived = [];
  const server = http.createServer((request, response) => {
    arrived.push(`${request.method} ${request.url}`);
    response.writeHead(200, { "Access-Control-Allow-Origin": "*" }).end("thanks");
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(undefined)));
  return { address: `http://127.0.0.1:${server.address().port}/`, arrived, stop: () => server.close() };
}

describe("the page, when something goes wrong", { skip: skip || false }, () => {
  let server, scenes, files;
  /** The browser of the test that runs. */
  let browser;

  before(async () => {
    scenes = drawScenes(N_SCENES);
    files = scenes.scenes.map((scene) => scene.file);
    server = await serve();
  });

  after(async () => {
    await server?.stop();
    scenes?.remove();
  });

  /** Runs a test in a browser of its own. */
  const inBrowser = (act, how) => async () => {
    browser = await browse([], how);
    try {
      await act();
    } finally {
      await browser.close();
    }
  };
  const open = async (address = server.address) => (await openPage(browser.context, address)).page;
  const openFind = async (address) => {
    const page = await open(address);
    await page.locator("#tab-find").click();
    return page;
  };
  const text = (page, selector) => page.locator(selector).innerText();
  const counted = (page, wanted) => page.waitForFunction((wanted) =>
    document.getElementById("indexing").hidden && document.getElementById("count").textContent === wanted, wanted);
  const said = (page, says) => page.waitForFunction((says) =>
    new RegExp(says, "s").test(document.getElementById("notices").textContent), says.source);
  const titles = (page) => page.locator(".tile").evaluateAll((tiles) => tiles.map((tile) => tile.title).sort());
  const without = (page, name) => page.addInitScript((name) => delete window[name], name);

  /** Folders with a copy of a scene each, all under one name. */
  const copies = (name, ...which) => which.map((number) => {
    const folder = fs.mkdtempSync(path.join(path.dirname(scenes.folder), "mmgem-copy-"));
    const file = path.join(folder, name);
    fs.copyFileSync(files[number], file);
    return file;
  });

  it("sends no photo to another server, whatever server it came from", inBrowser(async () => {
    const [host, other] = [await serveStatic(), await listen()];
    try {
      const page = await open(host.address);
      const worker = page.workers()[0];
      const answer = await worker.evaluate((url) =>
        fetch(url, { method: "POST", mode: "no-cors", body: "a photo" }).then(() => "sent", (error) => error.name), other.address);
      assert.deepEqual(other.arrived, []);
      assert.equal(answer, "TypeError");
    } finally {
      other.stop();
      await host.stop();
    }
  }));

  it("starts the worker again when the browser ends it without a word", inBrowser(async () => {
    const page = await open();
    await chooseFiles(page, "#open", files[0]);
    await settled(page, "#whole");
    await page.workers()[0].evaluate(() => self.close()).catch(() => "it ended while it was asked");
    await said(page, /started again.*the browser ended the worker/);
    await page.locator("#add-box").click();
    await settled(page, ".region .caption");
  }));
});

describe("a browser without SIMD", { skip: skip || false }, () => {
  it("is told what it lacks", async () => {
    const [server, browser] = [await serve(), await browse(["--js-flags=--no-enable-sse4-1"])];
    try {
      const page = await browser.context.newPage();
      await page.goto(server.address);
      await page.waitForSelector(".notice");
      assert.match(await page.locator("#notices").innerText(), /no vector instructions \(SIMD\).*use Chrome/);
    } finally {
      await browser.close();
      await server.stop();
    }
  });
});
