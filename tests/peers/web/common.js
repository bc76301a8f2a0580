// Shared by both engines' workers: messages from the page, the clock, and counts of WebGPU calls.

/** Compute dispatches and pipelines since `timed` last reset the counts. */
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

/** Milliseconds, dispatches, pipelines and the result of `work`. */
export async function timed(work) {
  Object.assign(counts, { dispatches: 0, pipelines: 0 });
  const start = performance.now();
  const value = await work();
  return { ms: performance.now() - start, ...counts, value };
}

export const bytesOf = async (url) => new Uint8Array(await (await fetch(url)).arrayBuffer());

/** Answers the page's messages by calling these functions by name. */
export function serve(functions) {
  globalThis.onmessage = async ({ data: { id, name, args } }) => {
    try {
      postMessage({ id, result: await functions[name](...args) });
    } catch (error) {
      postMessage({ id, error: String(error?.stack ?? error) });
    }
  };
}
