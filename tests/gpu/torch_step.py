#!/usr/bin/env python3
"""Stage 1's training step in PyTorch: transformers' CLIP and Llama, bf16 autocast over f32 weights.

    torch_step.py --config CONFIG.json --batch 64 [--compile] [--recompute] [--steps 40] [--device cuda|cpu]

Prints one JSON line: samples_per_sec (median of the later steps), secs of each step. Needs torch
and transformers. The optimizer is torch's fused AdamW, which does less work than LAMB. The photos
are random tensors on the device, so that nothing is decoded.
"""
import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--config", required=True)
ap.add_argument("--batch", type=int, default=64)
ap.add_argument("--steps", type=int, default=40)
ap.add_argument("--text-tokens", type=int, default=16)
ap.add_argument("--device", default="cuda")
ap.add_argument("--compile", action="store_true")
ap.add_argument("--recompute", action="store_true", help="gradient checkpointing in both towers")
args = ap.parse_args()
cfg = json.load(open(args.config))
v, l, d = cfg["vision"], cfg["llm"], cfg["embed_dim"]


class Step(nn.Module):
    """MM-GEM's stage 1: both losses of a batch; all texts have the same length."""

    def __init__(self):
        super().__init__()
        self.visual = CLIPVisionModel(CLIPVisionConfig(
            image_size=v["image_size"], patch_size=v["patch_size"], hidden_size=v["hidden_size"],
            num_hidden_layers=v["num_hidden_layers"], hidden_act=v["hidden_act"],
            num_attention_heads=v["num_attention_heads"],
            intermediate_size=int(v["hidden_size"] * v["mlp_ratio"])))
        self.norm = nn.LayerNorm(v["hidden_size"])
        self.llm = LlamaForCausalLM(LlamaConfig(**l, attention_bias=False, mlp_bias=False))
        self.h1, self.h2 = nn.Linear(v["hidden_size"], d), nn.Linear(l["hidden_size"], d)
        self.h3 = nn.Linear(d, l["hidden_size"])
        self.emb_token = nn.Parameter(torch.randn(l["hidden_size"]) * 0.02)
        self.cap_token = nn.Parameter(torch.randn(l["hidden_size"]) * 0.02)
        self.logit_scale = nn.Parameter(torch.tensor(cfg["logit_scale_init"]))

    def forward(self, pixels, ids):
        batch = len(ids)
        patches = self.norm(self.visual(pixels).last_hidden_state[:, 1:])
        pooled = self.h1(patches.mean(1))
        words = self.llm.get_input_embeddings()(ids)
        last = torch.cat([words, self.emb_token.expand(batch, 1, -1)], 1)
        hidden = self.llm.model(inputs_embeds=last, use_cache=False).last_hidden_state[:, -1]
        image, text = F.normalize(pooled.float(), dim=-1), F.normalize(self.h2(hidden).float(), dim=-1)
        with torch.autocast(args.device, enabled=False):
            logits = self.logit_scale.exp() * image @ text.T
        own = torch.arange(batch, device=ids.device)
        contrastive = F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)
        prefix = torch.cat([self.h3(pooled)[:, None], self.cap_token.expand(batch, 1, -1)], 1)
        scored = self.llm(inputs_embeds=torch.cat([prefix, words], 1), use_cache=False).logits[:, 1:]
        wanted = F.pad(ids, (0, 1), value=cfg["eos_token_id"])
        return contrastive + F.cross_entropy(scored.flatten(0, 1).float(), wanted.flatten())


torch.manual_seed(0)
torch.set_float32_matmul_precision("high")
with torch.device(args.device):
    model = Step().train()
    pixels = torch.randn(args.batch, 3, v["image_size"], v["image_size"])
    ids = torch.randint(3, l["vocab_size"], (args.batch, args.text_tokens))
if args.recompute:
    for tower in (model.visual, model.llm):
        tower.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
run = torch.compile(model) if args.compile else model
wait = torch.cuda.synchronize if args.device == "cuda" else lambda: None
secs = []
for _ in range(args.steps):
    wait()
    start = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(args.device, torch.bfloat16):
        loss = run(pixels, ids)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    wait()
    secs.append(time.perf_counter() - start)
assert torch.isfinite(loss), loss
print(json.dumps({"samples_per_sec": args.batch / statistics.median(secs[len(secs) // 4:]), "secs": secs}))
