#!/usr/bin/env python3
"""Stage 1's training step in PyTorch on one GPU, with the modules of the reference program, in bf16 autocast.

    torch_step.py --reference mmgem_reference.py --config CONFIG.json --batch 64 [--compile] [--steps 30]

Prints one JSON line: samples_per_sec (median), peak_gb. Needs torch, torchvision, open_clip_torch, transformers.
The optimiser is torch's fused AdamW, which does less than LAMB.
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
ap.add_argument("--batch", type=int, default=64)
ap.add_argument("--steps", type=int, default=30)
ap.add_argument("--text-tokens", type=int, default=16)
ap.add_argument("--compile", action="store_true")
args = ap.parse_args()
spec = importlib.util.spec_from_file_location("reference", args.reference)
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)
torch.set_float32_matmul_precision("high")
torch.set_default_device("cuda")
torch.manual_seed(0)
cfg = json.load(open(args.config))
model = reference.MmGem(cfg).train()
side, vocab = cfg["vision"]["image_size"], cfg["llm"]["vocab_size"]
pixels = torch.randn(args.batch, 3, side, side)
ids = torch.randint(3, vocab, (args.batch, args.text_tokens))
lens = torch.full((args.batch,), args.text_tokens)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)


def loss():
    with torch.autocast("cuda", torch.bfloat16):
        return model.losses(pixels, ids, lens, cfg["eos_token_id"])[2]


step_loss = torch.compile(loss) if args.compile else loss
secs = []
for _ in range(args.steps + 5):
    torch.cuda.synchronize()
    start = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    step_loss().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    torch.cuda.synchronize()
    secs.append(time.perf_counter() - start)
print(json.dumps({"samples_per_sec": args.batch / statistics.median(secs[5:]),
                  "peak_gb": torch.cuda.max_memory_allocated() / 1e9}))
