// Where to compute: WebGPU where it works, else the processor, and why, in words.

/** @typedef {{ backend: "cpu" | "webgpu", reason: string }} Choice */

/** Set before the wasm module asks for its device. @param {(why: string) => void} lost */
export function watchDevice(lost) {
  const adapter = /** @type {any} */ (globalThis).GPUAdapter?.prototype;
  if (!adapter) return;
  const requestDevice = adapter.requestDevice;
  adapter.requestDevice = async function (/** @type {any[]} */ ...args) {
    const device = await requestDevice.apply(this, args);
    device.lost.then((/** @type {{ reason: string, message: string }} */ { reason, message }) => {
      lost(`the graphics device was lost (${[reason, message].filter(Boolean).join(": ")})`);
    });
    return device;
  };
}

/**
 * @param {"auto" | "cpu" | "webgpu"} wish
 * @param {string | null} trouble what happened to WebGPU earlier in this visit
 * @returns {Promise<Choice>}
 */
export async function chooseBackend(wish, trouble) {
  if (wish === "cpu") return { backend: "cpu", reason: "chosen here" };
  const why = trouble ?? (await whyNoGpu(wish === "auto"));
  if (why === null) return { backend: "webgpu", reason: wish === "auto" ? "the graphics processor is faster" : "chosen here" };
  return { backend: "cpu", reason: why };
}

/** @param {boolean} mustBeFast @returns {Promise<string | null>} */
async function whyNoGpu(mustBeFast) {
  if (!self.isSecureContext) return "WebGPU needs a page over https or from localhost";
  const gpu = /** @type {any} */ (navigator).gpu;
  if (!gpu) return "this browser has no WebGPU, or it is switched off";
  const adapter = await gpu.requestAdapter().catch(() => null);
  if (!adapter) return "WebGPU found no graphics processor that it may use";
  const software = adapter.info?.isFallbackAdapter || /swiftshader|llvmpipe/i.test(
    `${adapter.info?.architecture} ${adapter.info?.description}`);
  if (mustBeFast && software) return "WebGPU has only a graphics processor in software here, which is slower";
  const bundle = await fetch(new URL("./webgpu/mmgem_web.js", import.meta.url)).catch(() => null);
  return bundle?.ok ? null : "this page was built without WebGPU (`cargo web --webgpu` builds it)";
}
