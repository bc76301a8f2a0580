#!/usr/bin/env python3
"""The work of `mmgem bench` in PyTorch, with the modules of the reference program.

    torch_bench.py --reference mmgem_reference.py --config CONFIG.json [--threads 2]

Prints one JSON document with the same keys. Needs torch, torchvision, open_clip_torch, transformers.
"""
import argparse
import importlib.util
import json
import statistics
import time

import torch

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--reference", required=True)
ap.add_argument("--config", required=True)
ap.add_argument("--threads", type=int, default=2)
ap.add_argument("--repeat", type=int, default=5)
ap.add_argument("--tokens", type=int, default=32)
ap.add_argument("--train-batch", type=int, default=16)
args = ap.parse_args()
torch.set_num_threads(args.threads)
spec = importlib.util.spec_from_file_location("reference", args.reference)
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)
cfg = json.load(open(args.config))
torch.manual_seed(0)
model = reference.MmGem(cfg).eval()
side, vocab = cfg["vision"]["image_size"], cfg["llm"]["vocab_size"]
TEXT_LEN = 12


def pixels(n):
    return (torch.arange(n * 3 * side * side) * 7919 % 1000).float().div(500).sub(1).reshape(n, 3, side, side)


def texts(n):
    return torch.tensor([[(t * 131 + at * 17 + 3) % vocab for at in range(TEXT_LEN)] for t in range(n)])


def median_secs(work):
    work()
    secs = []
    for _ in range(args.repeat):
        start = time.perf_counter()
        work()
        secs.append(time.perf_counter() - start)
    return statistics.median(secs)


def greedy(prefix):
    """As the reference decodes, but with Hugging Face's cache instead of the whole sequence each time."""
    x, cache = prefix, None
    for _ in range(args.tokens):
        out = model.llm(inputs_embeds=x, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        x = model.llm.get_input_embeddings()(out.logits[:, -1:].argmax(-1))


def train():
    ids = texts(args.train_batch)
    lens = torch.full((len(ids),), TEXT_LEN)
    model.zero_grad(set_to_none=True)
    model.losses(pixels(args.train_batch), ids, lens, cfg["eos_token_id"])[2].backward()


rates = {}
with torch.no_grad():
    for n in (1, 8):
        x = pixels(n)
        rates[f"images_per_sec_batch_{n}"] = n / median_secs(lambda: model.image_embed(model.feature_map(x)))
    ids, lens = texts(1), torch.tensor([TEXT_LEN])
    rates["texts_per_sec"] = 1 / median_secs(lambda: model.text_embed(ids, lens))
    prefix = model.caption_prefix(model.visual_context(model.feature_map(pixels(1))))
    rates["caption_tokens_per_sec"] = args.tokens / median_secs(lambda: greedy(prefix))
rates["training_samples_per_sec"] = args.train_batch / median_secs(train)
print(json.dumps({"device": f"torch {torch.__version__}, {args.threads} threads", "rates": rates}))
