// What both engines' workers share: how they are asked, the clock, and WebGPU's dispatches.

/** Dispatches and programs since the last look. */
export const counts = { dispatches: 0, pipelines: 0 };
if (globalThis.GPUComputePassEncoder) {
  const count = (/** @type {any} */ of, name, key) => {
    const original = of.prototype[name];
    of.prototype[name] = function (...args) {
      counts[key] += 1;
      return original.apply(this, args);
    };
  };
  count(GPUComputePassEncoder, "dispatchWorkgroups", "dispatches");
  count(GPUComputePassEncoder, "dispatchWorkgroupsIndirect", "dispatches");
  count(GPUDevice, "createComputePipeline", "pipelines");
  count(GPUDevice, "createComputePipelineAsync", "pipelines");
}

/** Milliseconds that some work takes, with what it dispatched. */
export async function timed(work) {
  Object.assign(counts, { dispatches: 0, pipelines: 0 });
  const start = performance.now();
  const value = await work();
  return { ms: performance.now() - start, ...counts, value };
}

export const bytesOf = async (url) => new Uint8Array(await (await fetch(url)).arrayBuffer());

/** Answers the page by these functions. */
export function serve(functions) {
  globalThis.onmessage = async ({ data: { id, name, args } }) => {
    try {
      postMessage({ id, result: await functions[name](...args) });
    } catch (error) {
      postMessage({ id, error: String(error?.stack ?? error) });
    }
  };
}
