// Chooses the backend: WebGPU if it works, else the CPU, with the reason as text. Each has a wasm module of its own.

/** @typedef {{ backend: "cpu" | "webgpu", reason: string }} Choice */

/** Software adapters: correct, but slower than the CPU module. */
const SOFTWARE = /swiftshader|llvmpipe|lavapipe|basic render/i;

/**
 * Reports the loss of every device opened later. Call it before the wasm module requests its device.
 * @param {(why: string) => void} lost
 */
export function watchDevice(lost) {
  const adapter = /** @type {any} */ (globalThis).GPUAdapter?.prototype;
  if (!adapter) return;
  const requestDevice = adapter.requestDevice;
  adapter.requestDevice = async function (/** @type {any[]} */ ...args) {
    const device = await requestDevice.apply(this, args);
    device.lost.then((/** @type {{ reason: string, message: string }} */ { reason, message }) => {
      lost(`the graphics device was lost: ${(message || reason).replace(/\.$/, "")}`);
    });
    return device;
  };
}

/**
 * @param {"auto" | "cpu" | "webgpu"} wish
 * @param {string | null} trouble why WebGPU failed earlier in this visit
 * @param {boolean} isBuilt whether this build has the module for WebGPU
 * @returns {Promise<Choice>}
 */
export async function chooseBackend(wish, trouble, isBuilt) {
  if (wish === "cpu") return { backend: "cpu", reason: "chosen here" };
  if (trouble) return { backend: "cpu", reason: trouble };
  if (!self.isSecureContext) return { backend: "cpu", reason: "WebGPU needs a page over https or from localhost" };
  const gpu = /** @type {any} */ (navigator).gpu;
  if (!gpu) return { backend: "cpu", reason: "this browser has no WebGPU, or it is switched off" };
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" }).catch(() => null);
  if (!adapter) return { backend: "cpu", reason: "WebGPU found no graphics processor that it may use" };
  const { name, isSoftware } = describe(adapter);
  if (wish === "auto" && isSoftware) {
    return { backend: "cpu", reason: `WebGPU has only a graphics processor in software here (${name}), which is slower` };
  }
  if (!isBuilt) {
    return { backend: "cpu", reason: "this page was built without WebGPU (`cargo web --webgpu` builds it in)" };
  }
  const why = isSoftware ? "in software, which is slow; chosen here" : wish === "auto" ? "faster" : "chosen here";
  return { backend: "webgpu", reason: `${name}: ${why}` };
}

/** @param {any} adapter */
function describe(adapter) {
  const info = adapter.info ?? {};
  const name = info.description || [info.vendor, info.architecture].filter(Boolean).join(" ") || "the graphics processor";
  const isSoftware = info.isFallbackAdapter || adapter.isFallbackAdapter ||
    SOFTWARE.test(`${info.architecture} ${info.device} ${info.description}`);
  return { name, isSoftware: Boolean(isSoftware) };
}
