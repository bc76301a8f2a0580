// What `cargo web` writes for others: the npm package in a page of its own, and the page as one archive.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { after, before, describe, it } from "node:test";
import { promisify } from "node:util";

import { DIST, ROOT, browse, missing, mmgem, openPage, serveStatic, settled } from "./harness.mjs";

const run = promisify(execFile);
const PHOTO = path.join(ROOT, "assets/demo/raccoon.jpg");
const BIN = path.join(ROOT, "web/node_modules/.bin");
const ARCHIVE = path.join(ROOT, "web/mmgem-web.tar.gz");

let skip = missing();
if (!skip && !fs.existsSync(path.join(DIST, "package.json"))) {
  skip = "SKIPPED: the tests of the package want web/dist/package.json; get it by `cargo web`";
}
if (skip) console.log(skip);

let skipVite = "";
if (!fs.existsSync(path.join(BIN, "vite"))) {
  skipVite = "SKIPPED: the tests of the package in Vite want web/node_modules/vite; get it by `npm ci --prefix web`";
  if (!skip) console.log(skipVite);
}

describe("the package, in a page of its own", { skip: skip || false }, () => {
  /** A folder with the example and the installed package, and what npm packed. */
  let app, packed;

  before(async () => {
    app = fs.mkdtempSync(path.join(os.tmpdir(), "mmgem-app-"));
    const { stdout } = await run("npm", ["pack", DIST, "--json", "--pack-destination", app]);
    const said = JSON.parse(stdout);
    [packed] = Array.isArray(said) ? said : Object.values(said);
    fs.cpSync(path.join(ROOT, "web/examples/caption"), app, { recursive: true });
    const flags = ["--offline", "--no-audit", "--no-fund", "--ignore-scripts"];
    await run("npm", ["install", `./${packed.filename}`, ...flags], { cwd: app });
    const shown = path.join(app, "public");
    fs.cpSync(path.join(app, "node_modules/mmgem/model"), path.join(shown, "model"), { recursive: true });
    fs.copyFileSync(PHOTO, path.join(shown, "photo.jpg"));
  });

  after(() => fs.rmSync(app, { recursive: true, force: true }));

  /** Serves a folder, opens a page of it, and checks that the page shows the native program's caption. */
  const captions = async (folder, url = "") => {
    const [server, browser] = [await serveStatic(folder), await browse()];
    try {
      const page = await browser.context.newPage();
      const problems = [];
      page.on("pageerror", (error) => problems.push(String(error)));
      page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
      await page.goto(server.address + url);
      const [x, y] = await page.locator("img").evaluate(async (photo) => {
        await photo.decode();
        return [photo.naturalWidth / 2, photo.naturalHeight];
      });
      const [{ caption }] = mmgem("caption", PHOTO, "--box", `0,0,${x},${y}`);
      const shows = (caption) => document.getElementById("caption").textContent === caption;
      await page.waitForFunction(shows, caption, { timeout: 60_000 }).catch(async (error) => {
        const found = await page.locator("#caption").innerText();
        throw new Error(`the page shows ${JSON.stringify(found)}, wanted ${JSON.stringify(caption)} (${problems})`, { cause: error });
      });
      assert.deepEqual(problems, []);
      const foreign = browser.requests.filter((url) => !url.startsWith(server.address) && !/^(blob|data):/.test(url));
      assert.deepEqual(foreign, []);
    } finally {
      await browser.close();
      await server.stop();
    }
  };

  it("has what a package needs, and nothing of the page", () => {
    const names = packed.files.map((file) => file.path);
    for (const name of ["README.md", "LICENSE-MIT", "LICENSE-APACHE", "lib/mmgem.d.ts", "lib/worker.js",
      "lib/wasm-urls.js", "lib/cpu/mmgem_web_bg.wasm", "model/manifest.json", "model/NOTICE"]) {
      assert.ok(names.includes(name), `${name} is missing`);
    }
    const others = names.filter((name) => !/^(lib|model)\/|^(package\.json|README\.md|LICENSE-(MIT|APACHE))$/.test(name));
    assert.deepEqual(others, []);
    const { version } = JSON.parse(fs.readFileSync(path.join(app, "node_modules/mmgem/package.json")).toString());
    const workspace = fs.readFileSync(path.join(ROOT, "Cargo.toml")).toString();
    assert.equal(version, /^version = "(.+)"$/m.exec(workspace)?.[1]);
  });

  it("has a type for every export, in both ways to resolve modules", async () => {
    const lib = path.join(app, "node_modules/mmgem/lib");
    const exported = Object.keys(await import(path.join(lib, "mmgem.js"))).sort();
    const uses = exported.map((name) => `export const ${name}Is: typeof mmgem.${name} = mmgem.${name};`).join("\n");
    fs.writeFileSync(path.join(app, "types.mts"), `import * as mmgem from "mmgem";\n${uses}\n
      // The declared values and no others.
      const names: Record<keyof typeof mmgem, true> = { ${exported.map((name) => `${name}: true`).join(", ")} };
      void names;\n`);
    for (const [module, resolution] of [["es2022", "bundler"], ["nodenext", "nodenext"]]) {
      const flags = ["--noEmit", "--strict", "--lib", "es2022,dom", "--module", module,
        "--moduleResolution", resolution, "types.mts"];
      await run(path.join(BIN, "tsc"), flags, { cwd: app }).catch((error) => assert.fail(error.stdout));
    }
  });

  it("works without a bundler, under the page's Content-Security-Policy", async () => {
    const plain = path.join(app, "plain");
    fs.cpSync(path.join(app, "public"), plain, { recursive: true });
    fs.cpSync(path.join(app, "node_modules/mmgem"), path.join(plain, "mmgem"), { recursive: true });
    fs.copyFileSync(path.join(app, "index.html"), path.join(plain, "index.html"));
    const code = fs.readFileSync(path.join(app, "caption.js")).toString();
    fs.writeFileSync(path.join(plain, "caption.js"), code.replace('"mmgem"', '"./mmgem/lib/mmgem.js"'));
    await captions(plain);
  });

  for (const [where, base, folder] of [["at a server's root", "/", "."], ["in a folder of any name", "./", "my page"]]) {
    it(`is built by Vite without a warning, and works ${where}`, { skip: skipVite || false }, async () => {
      const out = path.join(app, `built for ${where}`);
      const built = await run(path.join(BIN, "vite"), ["build", "--base", base, "--outDir", path.join(out, folder)], { cwd: app });
      assert.doesNotMatch(built.stdout + built.stderr, /warn|doesn't exist|didn't resolve/i);
      await captions(out, folder === "." ? "" : `${encodeURI(folder)}/`);
    });
  }
});

let skipArchive = skip;
if (!skip && !fs.existsSync(ARCHIVE)) {
  skipArchive = `SKIPPED: the test of the archive wants ${ARCHIVE}; get it by \`cargo web --archive\``;
  console.log(skipArchive);
}

describe("the archive of the page", { skip: skipArchive || false }, () => {
  it("has every file of the page, and works where it is unpacked on a plain static server", async () => {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), "mmgem-host-"));
    await run("tar", ["-xzf", ARCHIVE, "-C", folder]);
    assert.deepEqual(fs.readdirSync(folder), ["mmgem-web"]);
    await run("diff", ["-r", path.join(folder, "mmgem-web"), DIST]).catch((error) => assert.fail(error.stdout));
    const [server, browser] = [await serveStatic(folder), await browse()];
    try {
      const { page, errors } = await openPage(browser.context, `${server.address}mmgem-web/`);
      await page.locator("#samples button").first().click();
      await settled(page, "#whole");
      assert.deepEqual(errors, []);
    } finally {
      await browser.close();
      await server.stop();
      fs.rmSync(folder, { recursive: true });
    }
  });
});
