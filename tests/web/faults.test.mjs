// Faults that users met in the page: lost photos, and failures without a message.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { after, before, describe, it } from "node:test";

import {
  MMGEM, ROOT, base64, browse, chooseFiles, drawScenes, drop, missing, openPage, serve, serveStatic, settled,
} from "./harness.mjs";

const N_SCENES = 24;

const skip = missing();
if (skip) console.log(skip);

/** A server that answers every request and records it. */
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
  /** The browser of the running test. */
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

  /** Runs a test in its own browser. */
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

  /** Copies scenes into a folder each, all under one name. */
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

  it("fetches each file once on the first visit, and works without the server afterwards", inBrowser(async () => {
    const host = await serveStatic();
    try {
      const page = await open(host.address);
      await page.evaluate(() => navigator.serviceWorker.ready);
      const again = [...host.requests.entries()].filter(([, times]) => times > 1);
      assert.deepEqual(again, []);
      await page.locator("#tab-find").click();
      await host.stop();
      await page.reload();
      await page.waitForSelector('#status[data-state="ready"]');
      assert.ok(await page.locator("#find").isVisible());
    } finally {
      await host.stop();
    }
  }));

  it("keeps photos of one name apart, and one photo from two places together", inBrowser(async () => {
    const page = await openFind();
    const [first, second] = copies("IMG_1.jpg", 0, 1);
    await chooseFiles(page, "#files", first);
    await counted(page, "1 photo");
    await chooseFiles(page, "#files", second);
    await counted(page, "2 photos");
    assert.deepEqual(await titles(page), ["IMG_1 (2).jpg", "IMG_1.jpg"]);

    const [renamed] = copies("another name.jpg", 0);
    await chooseFiles(page, "#files", renamed);
    await page.waitForFunction(() => document.getElementById("indexing").hidden);
    await counted(page, "2 photos");
  }));

  it("knows the photos of a folder when they are added as files, and the other way round", inBrowser(async () => {
    const page = await browser.context.newPage();
    await without(page, "showDirectoryPicker");
    await page.goto(server.address);
    await page.locator("#tab-find").click();
    await chooseFiles(page, "#files", files.slice(0, 2));
    await counted(page, "2 photos");
    await chooseFiles(page, "#folder", scenes.folder);
    await counted(page, `${N_SCENES} photos`);
    assert.ok((await titles(page)).every((title) => title.startsWith(`${path.basename(scenes.folder)}/`)));
    await chooseFiles(page, "#files", files);
    await said(page, /in the library already/);
    await counted(page, `${N_SCENES} photos`);
  }));

  it("knows the photos of an imported index, and shows them once they are added", inBrowser(async () => {
    const index = path.join(path.dirname(scenes.folder), "exported.library");
    const library = path.join(path.dirname(scenes.folder), "for-export.library");
    execFileSync(MMGEM, ["index", scenes.folder, "--library", library, "--export", index, "--device", "cpu", "-q"]);
    const page = await openFind();
    await page.locator("#more").click();
    await chooseFiles(page, "#import", index);
    await counted(page, `${N_SCENES} photos`);
    await page.waitForSelector(".tile .no-picture");
    await chooseFiles(page, "#files", files);
    await page.waitForFunction(() => document.getElementById("indexing").hidden && document.querySelector(".tile img"));
    await counted(page, `${N_SCENES} photos`);
    assert.equal(await page.locator(".tile .no-picture").count(), 0);
  }));

  it("pauses when the browser's storage is full, says so, and goes on from there", inBrowser(async () => {
    const page = await openFind();
    const control = await browser.context.newCDPSession(page);
    const origin = new URL(server.address).origin;
    await control.send("Storage.overrideQuotaForOrigin", { origin, quotaSize: 1000 });
    await chooseFiles(page, "#files", files.slice(0, 3));
    await said(page, /Indexing is paused.*storage for this page is full/);
    assert.equal(await text(page, "#pause"), "Resume");
    assert.equal(await page.locator("#failed").isVisible(), false);
    await control.send("Storage.overrideQuotaForOrigin", { origin });
    await page.locator("#pause").click();
    await counted(page, "3 photos");
  }));

  it("takes no more photos of a folder when the user stops while it is read", inBrowser(async () => {
    const page = await openFind();
    await page.evaluate((photo) => {
      const bytes = Uint8Array.from(atob(photo), (c) => c.charCodeAt(0));
      const file = (name) => ({ kind: "file", getFile: async () => new File([bytes, name], name, { type: "image/jpeg" }) });
      async function* entries() {
        for (let n = 0; n < 250; n += 1) yield [`${n}.jpg`, file(`${n}.jpg`)];
        await new Promise((resolve) => (window.goOn = resolve));
        yield ["last.jpg", file("last.jpg")];
      }
      window.showDirectoryPicker = async () => ({ name: "slow", isSameEntry: async () => false, entries });
    }, base64(files[0]));
    await page.locator("#folder").click();
    await page.locator("#stop").click();
    await page.waitForFunction(() => document.getElementById("indexing").hidden);
    await page.evaluate(() => window.goOn());
    await page.waitForFunction(() => /^\d+ photos?$/.test(document.getElementById("count").textContent));
    assert.equal(await page.locator("#indexing").isVisible(), false);
    assert.equal(await page.locator(".notice.bad").count(), 0);
  }));

  it("works for this visit where the browser stores nothing", inBrowser(async () => {
    const page = await openFind();
    assert.equal(await page.evaluate(() => {
      try {
        return localStorage.length;
      } catch ({ name }) {
        return name;
      }
    }), "SecurityError");
    await chooseFiles(page, "#files", files.slice(0, 3));
    await counted(page, "3 photos");
    await said(page, /stores nothing.*lasts until the page is closed/);
    await page.waitForFunction(() => document.querySelectorAll(".tile img").length === 3);
    await page.locator("#query").fill("a house");
    await page.waitForFunction(() => /match|nearest/.test(document.getElementById("count").textContent));
  }, { siteData: false }));

  it("leaves no bar behind when the library is cleared while it is paused", inBrowser(async () => {
    const page = await openFind();
    await chooseFiles(page, "#files", files);
    await page.locator("#pause").click();
    await page.waitForFunction(() => document.getElementById("index-text").textContent.includes("paused"));
    page.on("dialog", (dialog) => dialog.accept());
    await page.locator("#more").click();
    await page.locator("#clear").click();
    await counted(page, "No photos yet");
    await chooseFiles(page, "#files", files.slice(0, 2));
    await counted(page, "2 photos");
  }));

  it("shows in one tab what another one adds and clears", inBrowser(async () => {
    const [first, second] = [await openFind(), await openFind()];
    await chooseFiles(first, "#files", files.slice(0, 3));
    await counted(first, "3 photos");
    await counted(second, "3 photos");
    await second.locator("#query").fill("a house");
    await second.waitForFunction(() => /(in|nearest of) 3 photos$/.test(document.getElementById("count").textContent));
    await second.locator("#query").fill("");
    first.on("dialog", (dialog) => dialog.accept());
    await first.locator("#more").click();
    await first.locator("#clear").click();
    await counted(second, "No photos yet");
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

  it("asks the browser to keep the library when photos are added", inBrowser(async () => {
    const page = await browser.context.newPage();
    await page.addInitScript(() => {
      window.asked = 0;
      StorageManager.prototype.persist = async () => {
        window.asked += 1;
        return true;
      };
    });
    await page.goto(server.address);
    await page.waitForSelector('#status[data-state="ready"]');
    assert.equal(await page.evaluate(() => window.asked), 0, "before there is anything to keep");
    await page.locator("#tab-find").click();
    await chooseFiles(page, "#files", files.slice(0, 2));
    await counted(page, "2 photos");
    assert.equal(await page.evaluate(() => window.asked), 1);
  }));

  it("goes on with its model when another one cannot be opened", inBrowser(async () => {
    const page = await open();
    const wrong = fs.mkdtempSync(path.join(path.dirname(scenes.folder), "mmgem-wrong-"));
    const names = ["config.json", "tokenizer.json", "model.safetensors"].map((name) => path.join(wrong, name));
    for (const name of names) fs.writeFileSync(name, "{}");
    await page.locator("#status").click();
    await chooseFiles(page, "#model-files", names);
    await said(page, /The model stays the embedded model/);
    assert.equal(await text(page, "#status-text"), "On the processor");
    await chooseFiles(page, "#open", files[0]);
    await settled(page, "#whole");
  }));

  it("opens another model that the browser keeps", inBrowser(async () => {
    const host = await serveStatic();
    const second = path.join(ROOT, "web/dist/second-model");
    fs.cpSync(path.join(ROOT, "web/dist/model"), second, { recursive: true });
    try {
      const page = await open(`${host.address}?model=second-model`);
      await page.goto(host.address);
      await page.waitForSelector('#status[data-state="ready"]');
      await page.locator("#status").click();
      await page.locator("#models li:has-text('second-model') button").click();
      await page.waitForSelector('#status[data-state="ready"]');
      await page.locator("#status").click();
      await page.waitForFunction(() => /second-model\/in use/.test(document.getElementById("models").textContent));
    } finally {
      fs.rmSync(second, { recursive: true });
      await host.stop();
    }
  }));

  it("says in plain words that a file is no photo, or is gone", inBrowser(async () => {
    const page = await open();
    const notes = path.join(path.dirname(scenes.folder), "notes.jpg");
    fs.writeFileSync(notes, "no photo");
    await chooseFiles(page, "#open", notes);
    await said(page, /notes.jpg cannot be used/);
    assert.match(await text(page, "#notices"), /no known image format; wanted JPEG/);
    assert.doesNotMatch(await text(page, "#notices"), /\[|6e/);
    await page.locator(".notice button").click();

    const [gone] = copies("gone.jpg", 2);
    await page.locator("#tab-find").click();
    await chooseFiles(page, "#files", gone);
    await counted(page, "1 photo");
    fs.rmSync(gone);
    await page.locator(".tile").click();
    await page.locator("#viewer-describe").click();
    await said(page, /gone.jpg cannot be read: it was changed, moved or removed/);
  }));

  it("says that nothing chosen is a photo", inBrowser(async () => {
    const page = await openFind();
    const notes = path.join(path.dirname(scenes.folder), "notes.txt");
    fs.writeFileSync(notes, "no photo");
    await chooseFiles(page, "#files", notes);
    await said(page, /There is no photo in what you chose.*JPEG/);
    await page.locator(".notice button").click();
    await chooseFiles(page, "#files", [notes, files[0]]);
    await said(page, /1 file is not .* left out/);
    await counted(page, "1 photo");
  }));

  it("takes what is dropped anywhere on it: a photo to describe, several to search", inBrowser(async () => {
    const page = await open();
    await drop(page, ".bar", [files[0]]);
    await settled(page, "#whole");
    assert.equal(page.url(), server.address, "the browser stays on the page");
    await drop(page, ".panel", files.slice(0, 3));
    await counted(page, "3 photos");
    await drop(page, ".find-top", [files[3]]);
    await counted(page, "4 photos");
    assert.ok(page.url().startsWith(server.address), "the browser stays on the page");
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
