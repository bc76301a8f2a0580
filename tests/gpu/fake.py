#!/usr/bin/env python3
"""Stands for `mmgem` in the test of the scripts. FAKE_HANG and FAKE_FAIL name commands."""
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

words = [word for word in sys.argv[1:] if not word.startswith("-")]
name = " ".join(words[:2] if words[:1] == ["verify"] else words[:1])
if name and name == os.environ.get("FAKE_FAIL"):
    sys.exit("error: it broke\n  hint: none")
if name and name == os.environ.get("FAKE_HANG"):
    child = subprocess.Popen(["sleep", "1000"])
    Path(os.environ["FAKE_PID"]).write_text(f"{child.pid}\n")
    time.sleep(1000)


def option(flag):
    return sys.argv[sys.argv.index(flag) + 1]


if "--version" in sys.argv:
    print("mmgem fake")
elif name == "info":
    adapter = {"name": "a card", "device_type": "software", "driver": "none", "shader_f16": True}
    print(json.dumps({"cuda": {"problem": "no CUDA\n  hint"}, "wgpu": [adapter]}))
elif name == "verify parity":
    stages = [{"name": "text_embed", "relative": 2e-6, "worst_case": "tiny"},
              {"name": "caption_ids", "tokens_same": 11, "tokens": 12, "worst_case": "tiny"}]
    print(json.dumps({"cases": [], "columns": [{"stages": stages}]}))
elif name == "verify collectives":
    print(json.dumps({"nccl": False, "ranks": 1,
                      "transfers": [{"transfer": "all_gather", "floats": 9, "secs": 0.002}]}))
elif name == "scenes":
    os.makedirs(option("--out"))
elif name == "plan":
    print(json.dumps({"parameters": 1, "flops_per_sample": 1e9, "total_bytes": 1}))
elif name == "bench":
    print(json.dumps({"rates": {"caption_tokens_per_sec": 64.0, "region_captions_per_sec": 1.0}}))
elif name == "train":
    if Path("cubecl.toml").exists():
        log = re.search('file = "(.*)"', Path("cubecl.toml").read_text())[1]
        kernels = [("1.5ms", "matmul"), ("900µs", "sum"), ("12ns", "fill"), ("2s", "conv"),
                   ("3.25ms", "exp"), ("5µs", "cast")]
        launches = "".join(f"| {took:<10} | {of}\n" for took, of in kernels)
        Path(log).write_text((launches + "| conv | 2s | 1 | 99 % |\n") * 40)
    out = Path(re.search('^out = "(.*)"', Path(words[1]).read_text(), re.MULTILINE)[1])
    out.mkdir(parents=True)
    for step in range(1, 10**6):
        record = {"step": step, "loss": 2.0 / step, "grad_norm": 1.0, "samples_per_sec": 8.0,
                  "data_wait_share": 0.0}
        with (out / "metrics.jsonl").open("a") as lines:
            lines.write(json.dumps(record) + "\n")
        time.sleep(0.001)
