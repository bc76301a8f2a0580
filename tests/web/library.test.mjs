// Compares the JavaScript library with the native program, in vectors and captions, and tests its
// errors, cancellation and recovery.

import assert from "node:assert/strict";
import fs from "node:fs";
import { after, before, describe, it } from "node:test";

import { base64, browse, drawScenes, missing, mmgem, openPage, serve } from "./harness.mjs";

const BOX = [20, 15, 120, 110];
const TEXTS = ["a brown dog on the grass", "two children beside a red house", "a boat"];
/** Largest difference allowed in a component of a unit vector. */
const TOLERANCE = 1e-3;

/** Runs in the worker. Asks an empty library for an entry, so that Rust panics. */
async function panic(page) {
  const at = (name) => new URL(`lib/${name}`, page);
  const read = async (name) => new Uint8Array(await (await fetch(at(`../model/${name}`))).arrayBuffer());
  const wasm = await import(at("./cpu/mmgem_web.js").href);
  const files = new wasm.ModelFiles(new TextDecoder().decode(await read("config.json")), await read("tokenizer.json"));
  files.addShard("model.safetensors", await read("model.safetensors"));
  new wasm.Library(await wasm.Model.open(files)).entry(0);
}

const skip = missing();
if (skip) console.log(skip);

describe("the library in a browser", { skip: skip || false }, () => {
  let server, browser, page, scenes;

  before(async () => {
    scenes = drawScenes(6);
    server = await serve();
    browser = await browse();
    ({ page } = await openPage(browser.context, server.address));
    await page.evaluate(async () => {
      const { loadModel } = await import("./lib/mmgem.js");
      window.restarts = [];
      window.model = await loadModel("model", { onRestart: (message) => window.restarts.push(message) });
      window.blob = (text) => new Blob([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))]);
      window.abortName = async (act) => act().then(() => "done", (error) => error.name);
    });
  });

  after(async () => {
    await browser?.close();
    await server?.stop();
    scenes?.remove();
  });

  const close = (found, wanted) => {
    assert.equal(found.length, wanted.length);
    const worst = Math.max(...found.map((x, i) => Math.abs(x - wanted[i])));
    assert.ok(worst < TOLERANCE, `differs by ${worst}`);
  };

  it("gives the native program's vectors of photos, regions and texts", async () => {
    const files = scenes.scenes.slice(0, 3).map((scene) => scene.file);
    const native = mmgem("embed", ...files, "--box", BOX.join(","), ...TEXTS.flatMap((text) => ["--text", text]));
    for (const [i, file] of files.entries()) {
      const [whole, region] = await page.evaluate(async ([text, box]) => {
        const photo = await window.model.openPhoto(window.blob(text));
        const embeds = [await window.model.embedImage(photo), await window.model.embedImage(photo, box)];
        photo.close();
        return embeds.map((embed) => [...embed]);
      }, [base64(file), BOX]);
      close(whole, native.images[i].embed);
      close(region, native.regions[i].embed);
    }
    for (const [i, text] of TEXTS.entries()) {
      close(await page.evaluate(async (text) => [...(await window.model.embedText(text))], text), native.texts[i].embed);
    }
  });

  it("writes the native program's captions, token by token", async () => {
    for (const { file } of scenes.scenes) {
      const whole = mmgem("caption", file)[0];
      const region = mmgem("caption", file, "--box", BOX.join(","))[0];
      const found = await page.evaluate(async ([text, box]) => {
        const photo = await window.model.openPhoto(window.blob(text));
        const captions = [];
        for (const part of [null, box]) {
          const stream = window.model.captionRegion(photo, part);
          const pieces = [];
          for await (const piece of stream) pieces.push(piece);
          captions.push({ pieces, ...(await stream.result) });
        }
        return captions;
      }, [base64(file), BOX]);
      for (const [caption, native] of [[found[0], whole], [found[1], region]]) {
        assert.equal(caption.text, native.caption);
        assert.equal(caption.pieces.join(""), caption.text);
        const words = caption.text.split(" ").length;
        assert.ok(caption.pieces.length >= words, `${words} words in ${caption.pieces.length} pieces`);
        assert.ok(Math.abs(caption.logProb - native.log_prob) < 0.01);
      }
    }
  });

  it("stops a caption between two tokens and answers what comes next", async () => {
    const found = await page.evaluate(async (text) => {
      const photo = await window.model.openPhoto(window.blob(text));
      const abort = new AbortController();
      const stream = window.model.captionRegion(photo, null, { signal: abort.signal });
      const pieces = [];
      const name = await window.abortName(async () => {
        for await (const piece of stream) {
          pieces.push(piece);
          abort.abort();
        }
      });
      const waiting = new AbortController();
      const queued = window.abortName(() => window.model.embedText("a", { signal: waiting.signal }));
      waiting.abort();
      return { name, pieces: pieces.length, queued: await queued, next: (await window.model.embedText("b")).length };
    }, base64(scenes.scenes[0].file));
    assert.equal(found.name, "AbortError");
    assert.ok(found.pieces >= 1 && found.pieces < 4, `${found.pieces} pieces`);
    assert.equal(found.queued, "AbortError");
    assert.equal(found.next, 256);
  });

  it("finds a text in a photo, and boxes around a point", async () => {
    const { file, regions } = scenes.scenes[0];
    const phrase = regions[0].phrases[0];
    const out = `${scenes.folder}/heat.png`;
    const native = mmgem("localize", file, "--text", phrase, "--out", out);
    const found = await page.evaluate(async ([text, phrase]) => {
      const photo = await window.model.openPhoto(window.blob(text));
      const place = await window.model.localize(photo, phrase);
      const around = await window.model.boxesAt(photo, 40, 50);
      return { ...place, similarity: [...place.similarity], around, size: [photo.width, photo.height] };
    }, [base64(file), phrase]);
    found.box.forEach((edge, i) => assert.ok(Math.abs(edge - native.box[i]) < 0.01, `${found.box}`));
    close(found.similarity, native.similarity);
    for (const [x0, y0, x1, y1] of found.around) {
      assert.ok(x0 <= 40 && 40 <= x1 && y0 <= 50 && 50 <= y1, `${found.around} are around the point`);
      assert.ok(x0 >= 0 && y0 >= 0 && x1 <= found.size[0] && y1 <= found.size[1]);
    }
    const area = ([x0, y0, x1, y1]) => (x1 - x0) * (y1 - y0);
    assert.ok(found.around.length > 1 && area(found.around[1]) > area(found.around[0]), "then the next larger one");
  });

  it("proposes boxes while a caption is being written", async () => {
    const order = await page.evaluate(async (text) => {
      const photo = await window.model.openPhoto(window.blob(text));
      const order = [];
      const stream = window.model.captionRegion(photo);
      let boxes;
      for await (const piece of stream) {
        if (piece) boxes ??= window.model.boxesAt(photo, 40, 50).then(() => order.push("boxes"));
      }
      order.push("caption");
      await boxes;
      return order;
    }, base64(scenes.scenes[0].file));
    assert.deepEqual(order, ["boxes", "caption"]);
  });

  it("says what is wrong with a file that is no photo, and goes on", async () => {
    const whole = base64(scenes.scenes[0].file);
    for (const [text, says] of [[btoa("no photo"), /wanted JPEG/], [whole.slice(0, 400), /damaged or cut short/], ["", /0 bytes/]]) {
      const message = await page.evaluate(async (text) =>
        window.model.openPhoto(window.blob(text)).then(() => "opened", (error) => `${error.kind}: ${error.message}`), text);
      assert.match(message, says);
      assert.match(message, /^input/);
    }
  });

  it("opens a photo that is cut short as far as it arrived, and says so", async () => {
    const bytes = fs.readFileSync(scenes.scenes[0].file);
    const problems = await page.evaluate(async (texts) => {
      const found = [];
      for (const text of texts) {
        const photo = await window.model.openPhoto(window.blob(text));
        found.push(photo.problem);
        photo.close();
      }
      return found;
    }, [bytes, bytes.subarray(0, bytes.length / 2)].map((part) => part.toString("base64")));
    assert.equal(problems[0], null);
    assert.match(problems[1], /cut short/);
  });

  it("starts the worker again when it breaks down, with the photos that were open", async () => {
    const before = await page.evaluate(async (text) => {
      window.photo = await window.model.openPhoto(window.blob(text));
      return [...(await window.model.embedImage(window.photo))];
    }, base64(scenes.scenes[0].file));
    await page.workers().at(-1).evaluate(panic, server.address).catch(() => "it ended while it was asked");
    await page.waitForFunction(() => window.restarts.length === 1);
    assert.match(await page.evaluate(() => window.restarts[0]), /panicked at/);
    const again = await page.evaluate(async () => [...(await window.model.embedImage(window.photo))]);
    assert.deepEqual(again, before);
  });

  it("talks to no other server", () => {
    const foreign = browser.requests.filter((url) => !url.startsWith(server.address) && !url.startsWith("blob:"));
    assert.deepEqual(foreign, []);
  });
});
