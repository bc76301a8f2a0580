#!/usr/bin/env python3
"""Runs `mmgem bench` and the same work in PyTorch in turn and prints medians and ratios.

    compare.py --mmgem target/release/mmgem --reference mmgem_reference.py --config assets/presets/small.json
"""
import argparse
import json
import os
import statistics
import subprocess
import sys

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--mmgem", required=True)
ap.add_argument("--reference", required=True)
ap.add_argument("--config", required=True)
ap.add_argument("--rounds", type=int, default=3)
ap.add_argument("--threads", type=int, default=2)
args = ap.parse_args()
here = os.path.dirname(os.path.abspath(__file__))
env = {**os.environ, "RAYON_NUM_THREADS": str(args.threads)}
ours = [args.mmgem, "bench", "--config", args.config, "--device", "cpu", "--json", "-q"]
theirs = [sys.executable, f"{here}/torch_bench.py", "--reference", args.reference, "--config", args.config,
          "--threads", str(args.threads)]
found = {"mmgem": [], "torch": []}
for _ in range(args.rounds):
    for name, command in (("mmgem", ours), ("torch", theirs)):
        run = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True)
        found[name].append(json.loads(run.stdout)["rates"])
print(f"{'rate':30}{'mmgem':>12}{'torch':>12}{'ratio':>8}   (median of {args.rounds} rounds in turn, {args.threads} threads)")
for key in found["torch"][0]:
    mine, other = (statistics.median(r[key] for r in found[name]) for name in ("mmgem", "torch"))
    print(f"{key:30}{mine:12.2f}{other:12.2f}{mine / other:8.2f}")
