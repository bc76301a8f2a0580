// MM-GEM's wasm module, called as the page's own worker calls it.

import { bytesOf, serve, timed } from "./common.js";

let model, memory, image, side;

globalThis.mmgemPanicked = (message) => setTimeout(() => { throw new Error(message); });

async function start({ backend, config }) {
  side = config.vision.image_size;
  const texts = await (await fetch("/dist/model/config.json")).text();
  const [tokenizer, weights] = [await bytesOf("/dist/model/tokenizer.json"), await bytesOf("/dist/model/model.safetensors")];
  const open = await timed(async () => {
    const wasm = await import(`/dist/lib/${backend}/mmgem_web.js`);
    ({ memory } = await wasm.default({ module_or_path: `/dist/lib/${backend}/mmgem_web_bg.wasm` }));
    const files = new wasm.ModelFiles(texts, tokenizer);
    files.addShard("model.safetensors", weights);
    model = await wasm.Model.open(files);
  });
  return { open, firstImage: await encode(), firstCaption: await caption(1) };
}

const pixels = () => Uint8Array.from({ length: 4 * side * side }, (_, i) => (i * 7919) % 251);

/** Encodes pixels of the model's input size to the image's unit vector. */
function encode() {
  const rgba = pixels();
  return timed(async () => {
    image?.free();
    image = model.encodePixels(rgba, side, side);
    await model.embedImage(image, undefined);
  });
}

/** Times a region's prompt and then up to `n` further tokens. */
async function caption(n) {
  const writing = model.startCaption(image, Float32Array.of(8, 8, side / 2, side / 2), n + 1);
  const step = () => timed(async () => {
    const caption = await model.continueCaption(writing);
    caption?.free();
    return Boolean(caption);
  });
  const prefill = await step();
  const tokens = [];
  for (let i = 0; i < n; i += 1) {
    const token = await step();
    if (token.value) tokens.push(token);
  }
  writing.free();
  return { prefill, tokens };
}

serve({ start, encode, caption, wasmBytes: () => memory.buffer.byteLength });
