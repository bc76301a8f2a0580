// A graphics device compiles each shader at its first use, which makes first requests slow. So the worker runs one
// small request of each kind while it is idle, in the usual order of a user's requests.

/** @typedef {import("./cpu/mmgem_web.js").Model} WasmModel @typedef {import("./cpu/mmgem_web.js").Image} WasmImage */

/** Side of the grey picture in pixels. The model resizes every picture to one size. */
const SIDE = 8;

/** Yields where other requests may run first. @param {WasmModel} model @returns {AsyncGenerator<void>} */
export async function* warmUp(model) {
  const image = model.encodePixels(new Uint8Array(4 * SIDE * SIDE).fill(128), SIDE, SIDE);
  try {
    await model.embedImage(image, undefined);
    yield;
    yield* writeTwoTokens(model, image, undefined);
    yield* writeTwoTokens(model, image, Float32Array.of(0, 0, SIDE / 2, SIDE / 2));
    const embed = await model.embedText("a photo");
    yield;
    (await model.localize(image, embed)).free();
  } finally {
    image.free();
  }
}

/**
 * The first token processes the prefix, the second one continues from the cache. They use different shaders.
 * @param {WasmModel} model @param {WasmImage} image @param {Float32Array | undefined} box
 */
async function* writeTwoTokens(model, image, box) {
  const writing = model.startCaption(image, box, 2);
  try {
    for (let n = 0; n < 2; n += 1) {
      (await model.continueCaption(writing))?.free();
      yield;
    }
  } finally {
    writing.free();
  }
}
