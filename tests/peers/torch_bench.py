#!/usr/bin/env python3
"""The work of `mmgem bench` in PyTorch, with the modules of the reference program.

    torch_bench.py --reference mmgem_reference.py --config CONFIG.json [--threads 2]

Prints one JSON document with the same keys. Needs torch, torchvision, open_clip_torch, transformers.
"""
import common
from common import TEXT_LEN, median_secs, pixels, texts

args = common.arguments(__doc__)
try:
    import torch
    model = common.reference_model(args)
except ImportError as missing:
    common.absent(f"{missing.name} is not installed")
cfg, rates = args.cfg, {}


def greedy(prefix):
    """Decodes as the reference does, but with Hugging Face's cache of keys and values."""
    x, cache = prefix, None
    for _ in range(args.tokens):
        out = model.llm(inputs_embeds=x, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = out.past_key_values
        x = model.llm.get_input_embeddings()(out.logits[:, -1:].argmax(-1))


def region_prefix(fmap, n_done):
    shift = n_done % 8 / 16
    box = torch.tensor([[0.0, shift, shift, shift + 0.5, shift + 0.5]])
    box[:, 1:] *= cfg["vision"]["image_size"]
    return model.caption_prefix(model.visual_context(model.roi(fmap, box), stage2=True), stage2=True)


def train():
    ids = texts(cfg, args.train_batch)
    lens = torch.full((len(ids),), TEXT_LEN)
    model.zero_grad(set_to_none=True)
    model.losses(pixels(cfg, args.train_batch), ids, lens, cfg["eos_token_id"])[2].backward()


def rate(name, n, work):
    rates[name] = n / median_secs(work, args.repeat)


with torch.no_grad():
    fmap = model.feature_map(pixels(cfg, 1))
    if "image" in args.only:
        for n in (1, 8):
            x = pixels(cfg, n)
            rate(f"images_per_sec_batch_{n}", n, lambda: model.image_embed(model.feature_map(x)))
    if "text" in args.only:
        ids, lens = texts(cfg, 1), torch.tensor([TEXT_LEN])
        rate("texts_per_sec", 1, lambda: model.text_embed(ids, lens))
    if "prefill" in args.only:
        prefix = region_prefix(fmap, 0)
        rate("prefill_tokens_per_sec", prefix.shape[1],
             lambda: model.llm(inputs_embeds=prefix, use_cache=True, logits_to_keep=1))
    if "caption" in args.only:
        prefix = model.caption_prefix(model.visual_context(fmap))
        rate("caption_tokens_per_sec", args.tokens, lambda: greedy(prefix))
    if "region" in args.only:
        boxes = iter(range(1000))
        rate("region_captions_per_sec", 1, lambda: greedy(region_prefix(fmap, next(boxes))))
if "train" in args.only:
    rate("training_samples_per_sec", args.train_batch, train)
if "train-cached" in args.only:
    with torch.no_grad():
        cached = model.feature_map(pixels(cfg, args.train_batch))
    model.feature_map = lambda _: cached
    rate("cached_training_samples_per_sec", args.train_batch, train)
common.print_rates(f"torch {torch.__version__}, {args.threads} threads", rates)
