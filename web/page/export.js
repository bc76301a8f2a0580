// Exports: the annotated picture, and JSON with the keys of `mmgem caption --json`.

/**
 * @typedef {{ box: readonly number[], label: string, text: string, hue: number }} Drawn
 * @typedef {import("./lib/mmgem.js").Caption} Caption
 */

const MOST_PX = 2400;

/**
 * Draws the photo with its boxes, and the captions below it.
 * @param {HTMLImageElement} picture @param {{ width: number, height: number }} photo
 * @param {readonly Drawn[]} regions @param {string} whole @param {HTMLCanvasElement | null} heat
 * @returns {Promise<Blob>}
 */
export async function annotated(picture, photo, regions, whole, heat) {
  // Enlarge small photos, so that the text is readable.
  const scale = Math.min(Math.max(1, 1000 / photo.width), MOST_PX / Math.max(photo.width, photo.height));
  const [width, height] = [Math.round(photo.width * scale), Math.round(photo.height * scale)];
  const size = Math.max(15, Math.round(width / 50));
  const lines = [whole, ...regions.map((region) => `${region.label}: ${region.text}`)].filter(Boolean);
  const canvas = document.createElement("canvas");
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const font = `${size}px Georgia, serif`;
  context.font = font;
  const wrapped = lines.flatMap((line) => wrap(context, line, width - 2 * size));
  [canvas.width, canvas.height] = [width, height + Math.round((wrapped.length * 1.4 + 1) * size)];

  context.fillStyle = "#fffdf9";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(picture, 0, 0, width, height);
  if (heat) context.drawImage(heat, 0, 0, width, height);
  for (const region of regions) frame(context, region, scale, size);
  context.fillStyle = "#1d2326";
  context.font = font;
  wrapped.forEach((line, i) => context.fillText(line, size, height + size * (1.4 * i + 1.6)));

  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  if (!blob) throw new Error("the picture is too large for this browser");
  return blob;
}

/** @param {CanvasRenderingContext2D} context @param {Drawn} region @param {number} scale @param {number} size */
function frame(context, { box, label, hue }, scale, size) {
  const [x0, y0, x1, y1] = box.map((edge) => edge * scale);
  context.lineWidth = size / 4;
  context.strokeStyle = "#000a";
  context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  context.lineWidth = size / 7;
  context.strokeStyle = context.fillStyle = `hsl(${hue} 95% 62%)`;
  context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  context.font = `600 ${Math.round(size * 0.75)}px system-ui, sans-serif`;
  const tag = context.measureText(label).width + size * 0.6;
  const top = y0 > size * 1.1 ? y0 - size * 1.1 : y0;
  context.fillRect(x0, top, tag, size * 1.1);
  context.fillStyle = "#17130a";
  context.fillText(label, x0 + size * 0.3, top + size * 0.82);
}

/** @param {CanvasRenderingContext2D} context @param {string} text @param {number} width */
function wrap(context, text, width) {
  const lines = [""];
  for (const word of text.split(" ")) {
    const longer = `${lines[lines.length - 1]} ${word}`.trim();
    if (context.measureText(longer).width <= width) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  return lines;
}

/**
 * @param {string} path @param {{ width: number, height: number }} photo
 * @param {import("./lib/mmgem.js").ModelInfo} model @param {Caption | null} whole
 * @param {readonly { name: string, box: readonly number[], caption: Caption | null }[]} regions
 */
export function asJson(path, photo, model, whole, regions) {
  const said = (/** @type {Caption | null} */ caption) => ({ caption: caption?.text ?? null, log_prob: caption?.logProb ?? null });
  const document = {
    path,
    width: photo.width,
    height: photo.height,
    model: { name: model.name, fingerprint: model.fingerprint },
    ...said(whole),
    regions: regions.map(({ name, box, caption }) => ({ name, box: box.map((edge) => Math.round(edge * 100) / 100), ...said(caption) })),
  };
  return new Blob([`${JSON.stringify(document, null, 2)}\n`], { type: "application/json" });
}
