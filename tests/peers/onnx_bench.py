#!/usr/bin/env python3
"""The work of `mmgem bench` in ONNX Runtime.

PyTorch exports the graphs from the reference's modules. tower.py writes the graph of a
convolutional tower node by node.

    onnx_bench.py --reference mmgem_reference.py --config CONFIG.json [--threads 2]
    onnx_bench.py --reference mmgem_reference.py --config CONFIG.json --export DIR

Prints one JSON document with the same keys. With --export it measures nothing: it writes the graphs
of one image and of a decoding step, with their weights, for web_bench.mjs. Needs onnxruntime,
onnxscript and the packages of torch_bench.py.
"""
import os
import tempfile

import common
import tower
from common import TEXT_LEN, median_secs, pixels, texts

args = common.arguments(__doc__, {"--export": "write the graphs into this folder"})
cfg, rates = args.cfg, {}
try:
    import numpy as np
    import onnxruntime as ort
    import torch
    if tower.is_tower(cfg) and args.only == ["image"]:
        import onnx  # noqa: F401 (tower.py writes the tower's graph with it)
    else:
        import onnxscript  # noqa: F401 (the exporter needs it)
    model = common.reference_model(args)
except ImportError as missing:
    common.absent(f"{missing.name} is not installed")
llm = cfg["llm"]
head_dim = llm["hidden_size"] // llm["num_attention_heads"]


class Image(torch.nn.Module):
    def forward(self, x):
        return model.image_embed(model.feature_map(x))


class Step(torch.nn.Module):
    """One decoding step. In: embeddings and cache. Out: next token, its embedding and the cache."""

    def forward(self, x, cos, sin, mask, *past):
        m, new = model.llm.model, []
        for layer, k0, v0 in zip(m.layers, past[::2], past[1::2]):
            a = layer.self_attn
            y = layer.input_layernorm(x)
            b, n, _ = y.shape
            q, k, v = (p(y).view(b, n, -1, head_dim).transpose(1, 2) for p in (a.q_proj, a.k_proj, a.v_proj))
            q, k = (t * cos + torch.cat((-t[..., head_dim // 2:], t[..., : head_dim // 2]), -1) * sin for t in (q, k))
            k, v = torch.cat((k0, k), 2), torch.cat((v0, v), 2)
            new += [k, v]
            group = q.shape[1] // k.shape[1]
            k, v = (t.repeat_interleave(group, 1) if group > 1 else t for t in (k, v))
            s = (q @ k.transpose(2, 3)) * head_dim ** -0.5 + mask
            y = (s.softmax(-1) @ v).transpose(1, 2).reshape(b, n, -1)
            x = x + a.o_proj(y)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        hidden = m.norm(x)[:, -1:]
        token = model.llm.lm_head(hidden).argmax(-1)
        return hidden, token, m.embed_tokens(token), *new


def export(folder, name, module, inputs, names, dynamic=None, external_data=True):
    path = os.path.join(folder, name + ".onnx")
    torch.onnx.export(module.eval(), inputs, path, input_names=names, dynamic_shapes=dynamic, dynamo=True,
                      external_data=external_data, verbose=False)
    return path


def export_image(folder, n, **how):
    if not tower.is_tower(cfg):
        return export(folder, f"image_{n}", Image(), (pixels(cfg, n),), ["x"], **how)
    h1 = [x.detach().numpy() for x in (model.h1.weight, model.h1.bias)]
    return tower.onnx_graph(args.tower, n, h1, os.path.join(folder, f"image_{n}.onnx"))


def session(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads = args.threads
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def rate(name, n, work):
    rates[name] = n / median_secs(work, args.repeat)


class Decoder:
    """The exported decoding step, with its tables of rotary positions."""

    @staticmethod
    def export(folder, **how):
        n_layers, kv = llm["num_hidden_layers"], llm["num_key_value_heads"]
        past = torch.zeros(1, kv, 3, head_dim)
        names = ["x", "cos", "sin", "mask"] + [f"past_{i}" for i in range(2 * n_layers)]
        inputs = (torch.zeros(1, 2, llm["hidden_size"]), torch.zeros(2, head_dim), torch.zeros(2, head_dim),
                  torch.zeros(2, 5), *[past] * (2 * n_layers))
        auto = torch.export.Dim.AUTO
        dynamic = ({1: auto}, {0: auto}, {0: auto}, {0: auto, 1: auto}, ({2: auto},) * (2 * n_layers))
        return export(folder, "step", Step(), inputs, names, dynamic, **how)

    def __init__(self, folder):
        n_layers, kv = llm["num_hidden_layers"], llm["num_key_value_heads"]
        self.session = session(self.export(folder))
        self.names = [i.name for i in self.session.get_inputs()]
        self.empty = [np.zeros((1, kv, 0, head_dim), np.float32)] * (2 * n_layers)
        angle = np.outer(np.arange(512), llm["rope_theta"] ** (-np.arange(0, head_dim, 2) / head_dim))
        self.cos, self.sin = (np.tile(f(angle), 2).astype(np.float32) for f in (np.cos, np.sin))

    def step(self, x, start, past):
        n = x.shape[1]
        mask = np.triu(np.full((n, start + n), -1e9, np.float32), start + 1)
        feed = dict(zip(self.names, (x, self.cos[start:start + n], self.sin[start:start + n], mask, *past)))
        return self.session.run(None, feed)

    def greedy(self, prefix):
        x, start, past = prefix, 0, self.empty
        for _ in range(args.tokens):
            _, _, after, *past = self.step(x, start, past)
            start += x.shape[1]
            x = after


if args.export:
    os.makedirs(args.export, exist_ok=True)
    with torch.no_grad():
        export_image(args.export, 1, external_data=False)
        Decoder.export(args.export, external_data=False)
    raise SystemExit(0)

with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
    if "image" in args.only:
        for n in (1, 8):
            x = pixels(cfg, n)
            image = session(export_image(folder, n))
            feed = {"x": x.numpy()}
            rate(f"images_per_sec_batch_{n}", n, lambda: image.run(None, feed))
            del image
    if {"text", "prefill", "caption", "region"} & set(args.only):
        decoder = Decoder(folder)
        fmap = model.feature_map(pixels(cfg, 1))
        whole = model.caption_prefix(model.visual_context(fmap)).numpy()
        half = cfg["vision"]["image_size"] / 2
        roi = model.roi(fmap, torch.tensor([[0.0, 0.0, 0.0, half, half]]))
        region = model.caption_prefix(model.visual_context(roi, stage2=True), stage2=True).numpy()
        if "text" in args.only:
            text = torch.cat([model.llm.get_input_embeddings()(texts(cfg, 1)), model.emb_token[None, None]], 1).numpy()
            rate("texts_per_sec", 1, lambda: decoder.step(text, 0, decoder.empty))
        if "prefill" in args.only:
            rate("prefill_tokens_per_sec", region.shape[1], lambda: decoder.step(region, 0, decoder.empty))
        if "caption" in args.only:
            rate("caption_tokens_per_sec", args.tokens, lambda: decoder.greedy(whole))
        if "region" in args.only:
            rate("region_captions_per_sec", 1, lambda: decoder.greedy(region))
common.print_rates(f"onnxruntime {ort.__version__}, {args.threads} threads", rates)
