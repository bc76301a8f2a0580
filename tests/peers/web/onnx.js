// onnxruntime-web on graphs of the same sizes with random weights (onnx_bench.py --export).

import { bytesOf, serve, timed } from "./common.js";

let ort, image, step, config, prefix;

async function start({ provider, threads, config: sizes, prefix: length }) {
  [config, prefix] = [sizes, length];
  const gpu = provider === "webgpu";
  ort = await import(gpu ? "/ort/ort.webgpu.min.mjs" : "/ort/ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = "/ort/";
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
  const files = [await bytesOf("/onnx/image_1.onnx"), await bytesOf("/onnx/step.onnx")];
  const executionProviders = [provider];
  const open = await timed(async () => {
    image = await ort.InferenceSession.create(files[0], { executionProviders });
    // The cache and the next embedding stay on the device; only the token is read back.
    const preferredOutputLocation = gpu ? "gpu-buffer" : "cpu";
    step = await ort.InferenceSession.create(files[1], { executionProviders, preferredOutputLocation });
  });
  return { open, firstImage: await encode(), firstCaption: await caption(1) };
}

function encode() {
  const side = config.vision.image_size;
  const x = Float32Array.from({ length: 3 * side * side }, (_, i) => ((i * 7919) % 1000) / 500 - 1);
  return timed(async () => {
    const out = await image.run({ [image.inputNames[0]]: new ort.Tensor("float32", x, [1, 3, side, side]) });
    await out[image.outputNames[0]].getData();
  });
}

const angles = (head, start, n, of) => {
  const out = new Float32Array(n * head);
  for (let i = 0; i < n; i += 1) {
    for (let j = 0; j < head; j += 1) {
      out[i * head + j] = of((start + i) / config.llm.rope_theta ** ((2 * (j % (head / 2))) / head));
    }
  }
  return new ort.Tensor("float32", out, [n, head]);
};

/**
 * One decoding step on the embeddings `x` at position `start` with the cache `past`.
 * Returns the next token's embedding and the new cache.
 */
async function advance(x, start, past) {
  const { llm } = config;
  const [n, head] = [x.dims[1], llm.hidden_size / llm.num_attention_heads];
  const mask = new Float32Array(n * (start + n));
  for (let i = 0; i < n; i += 1) mask.fill(-1e9, i * (start + n) + start + i + 1, (i + 1) * (start + n));
  const given = [x, angles(head, start, n, Math.cos), angles(head, start, n, Math.sin),
    new ort.Tensor("float32", mask, [n, start + n]), ...past];
  const out = await step.run(Object.fromEntries(step.inputNames.map((name, i) => [name, given[i]])));
  const [hidden, token, embedding, ...cache] = step.outputNames.map((name) => out[name]);
  await token.getData();
  for (const old of [hidden, token, x, ...past]) old.dispose();
  return { embedding, cache };
}

async function caption(n) {
  const { llm } = config;
  const [width, kv] = [llm.hidden_size, llm.num_key_value_heads];
  const prompt = Float32Array.from({ length: prefix * width }, (_, i) => Math.sin(i));
  const empty = () => new ort.Tensor("float32", new Float32Array(0), [1, kv, 0, width / llm.num_attention_heads]);
  let [at, next] = [0, {
    embedding: new ort.Tensor("float32", prompt, [1, prefix, width]),
    cache: Array.from({ length: 2 * llm.num_hidden_layers }, empty),
  }];
  const once = () => timed(async () => {
    const length = next.embedding.dims[1];
    next = await advance(next.embedding, at, next.cache);
    at += length;
  });
  const prefill = await once();
  const tokens = [];
  for (let i = 0; i < n; i += 1) tokens.push(await once());
  for (const left of [next.embedding, ...next.cache]) left.dispose();
  return { prefill: plain(prefill), tokens: tokens.map(plain) };
}

const plain = ({ ms, dispatches, pipelines }) => ({ ms, dispatches, pipelines });

serve({ start, encode, caption, wasmBytes: () => null });
