// The graphics device compiles each of its programs when it is first used, which makes first answers slow. So the
// model is asked a little of everything while nobody waits, in the order in which people ask.

/** @typedef {import("./cpu/mmgem_web.js").Model} WasmModel @typedef {import("./cpu/mmgem_web.js").Image} WasmImage */

/** Of the grey picture that is looked at; the model sees every picture in one size. */
const SIDE = 8;

/** Yields where other work may go first. @param {WasmModel} model @returns {AsyncGenerator<void>} */
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
 * The first token reads the picture, the second one goes on from it: they have programs of their own.
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
