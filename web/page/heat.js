// Draws the heat map of a phrase over the photo, in the colours of `mmgem localize`.

/** From cold to warm. The lightness rises with the value, so that the map also works in grey. */
const COLORS = [[13, 8, 135], [126, 3, 168], [204, 71, 120], [248, 149, 64], [240, 249, 33]];
const MOST = 0.65;
const SIDE = 256;

/**
 * @param {HTMLCanvasElement} canvas
 * @param {import("./lib/mmgem.js").Place} place
 * @param {{ width: number, height: number }} photo
 */
export function drawHeat(canvas, { similarity, grid, seen }, photo) {
  canvas.width = canvas.height = SIDE;
  const context = canvas.getContext("2d");
  if (!context) return;
  const image = context.createImageData(SIDE, SIDE);
  const low = Math.min(...similarity);
  const range = Math.max(Math.max(...similarity) - low, 1e-12);
  for (let y = 0; y < SIDE; y += 1) {
    for (let x = 0; x < SIDE; x += 1) {
      const px = ((x + 0.5) / SIDE) * photo.width;
      const py = ((y + 0.5) / SIDE) * photo.height;
      const gx = ((px - seen[0]) / (seen[2] - seen[0])) * grid - 0.5;
      const gy = ((py - seen[1]) / (seen[3] - seen[1])) * grid - 0.5;
      const warmth = (between(similarity, grid, gx, gy) - low) / range;
      image.data.set([...color(warmth), 255 * MOST * Math.sqrt(warmth)], 4 * (y * SIDE + x));
    }
  }
  context.putImageData(image, 0, 0);
}

/** @param {number} value */
function color(value) {
  const place = Math.min(Math.max(value, 0), 1) * (COLORS.length - 1);
  const from = Math.min(Math.floor(place), COLORS.length - 2);
  return COLORS[from].map((cold, i) => Math.round(cold + (COLORS[from + 1][i] - cold) * (place - from)));
}

/** Bilinear between patch centres, clamped outside. @param {Float32Array} values @param {number} grid @param {number} x @param {number} y */
function between(values, grid, x, y) {
  const clamp = (/** @type {number} */ v) => Math.min(Math.max(v, 0), grid - 1);
  [x, y] = [clamp(x), clamp(y)];
  const [x0, y0] = [Math.floor(x), Math.floor(y)];
  const [x1, y1] = [clamp(x0 + 1), clamp(y0 + 1)];
  const [dx, dy] = [x - x0, y - y0];
  const at = (/** @type {number} */ i, /** @type {number} */ j) => values[j * grid + i];
  return (at(x0, y0) * (1 - dx) + at(x1, y0) * dx) * (1 - dy) + (at(x0, y1) * (1 - dx) + at(x1, y1) * dx) * dy;
}
