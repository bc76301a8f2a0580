#!/usr/bin/env python3
"""Runs `mmgem bench` and the same work in other programs in turn. Prints medians and ratios.

    compare.py --mmgem target/release/mmgem --reference mmgem_reference.py --config assets/presets/small.json

Peers:
    torch      PyTorch with the reference's modules
    onnx       ONNX Runtime with the same modules, exported
    candle     candle's CLIP and Llama; build it once by `cargo build --release` in tests/peers/candle
    llama_cpp  llama-cpp-python; the language model only
A peer that cannot run here is listed with the reason.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
PEERS = ("torch", "onnx", "candle", "llama_cpp")


def command(peer, args):
    common = ["--config", args.config, "--threads", str(args.threads), "--repeat", str(args.repeat),
              "--tokens", str(args.tokens)] + (["--only", args.only] if args.only else [])
    if peer == "candle":
        return [os.path.join(HERE, "candle/target/release/candle-bench"), *common, *(["--gguf", args.gguf] if args.gguf else [])]
    if peer == "llama_cpp":
        return [sys.executable, f"{HERE}/llama_cpp_bench.py", *common, *(["--gguf", args.gguf] if args.gguf else [])]
    tower = ["--tower", args.tower] if args.tower else []
    return [sys.executable, f"{HERE}/{peer}_bench.py", "--reference", args.reference, *tower, *common, "--train-batch", str(args.train_batch)]


def rates_of(name, line, env):
    """The rates that a command prints and None, or None and the reason for their absence."""
    try:
        run = subprocess.run(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except FileNotFoundError as error:
        return None, f"{error.filename} is not there"
    if run.returncode != 0:
        return None, (run.stderr.decode(errors="replace").strip().splitlines() or ["it failed silently"])[-1]
    document = json.loads(run.stdout)
    rates, memory = document.get("rates"), document.get("peak_memory_bytes")
    if rates and memory:
        rates["peak_memory_mib"] = memory / 2**20
    return rates, document.get("absent")


ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--mmgem", required=True)
ap.add_argument("--reference", required=True)
ap.add_argument("--config", required=True)
ap.add_argument("--tower", help="files of an EfficientNet-Lite for the peers: towers/NAME, without the ending")
ap.add_argument("--model", help="a model folder for mmgem instead of random weights of the config: quantised ones")
ap.add_argument("--weights", help="number format of mmgem's random weights: f32, f16, q8 or q4")
ap.add_argument("--gguf", help="quantised Llama of the same sizes for candle and llama_cpp: random_gguf.py makes one")
ap.add_argument("--peers", default=",".join(PEERS))
ap.add_argument("--only", help="works, as of `mmgem bench --only`; all but cold-start without")
ap.add_argument("--rounds", type=int, default=3)
ap.add_argument("--repeat", type=int, default=5)
ap.add_argument("--tokens", type=int, default=32)
ap.add_argument("--train-batch", type=int, default=16)
ap.add_argument("--threads", type=int, default=2)
ap.add_argument("--vectors", help="limit mmgem's vectors, as of `mmgem bench --vectors`: 8 is AVX2; the peers keep theirs, but see avx2.py")
args = ap.parse_args()
env = {**os.environ, "RAYON_NUM_THREADS": str(args.threads)}
works = args.only or "image,text,prefill,caption,region,train"
args.only = works
ours = [args.mmgem, "bench", "--device", "cpu", "--json", "-q", "--repeat", str(args.repeat), "--tokens", str(args.tokens),
        "--only", works, "--train-batch", str(args.train_batch), *(["--model", args.model] if args.model else ["--config", args.config]),
        *(["--weights", args.weights] if args.weights else []), *(["--vectors", args.vectors] if args.vectors else [])]
commands = {"mmgem": ours, **{peer: command(peer, args) for peer in args.peers.split(",")}}
found, gone = {name: [] for name in commands}, {}
for _ in range(args.rounds):
    for name, line in commands.items():
        if name in gone:
            continue
        rates, reason = rates_of(name, line, env)
        if rates is None:
            gone[name] = reason
        else:
            found[name].append(rates)
if "mmgem" in gone:
    sys.exit(f"mmgem: {gone['mmgem']}")
peers = [peer for peer in commands if peer not in gone and peer != "mmgem"]
print(f"{'rate':32}{'mmgem':>11}" + "".join(f"{peer:>11}{'ratio':>7}" for peer in peers))
for key in found["mmgem"][0]:
    middle = {name: statistics.median(r[key] for r in found[name]) for name in ["mmgem", *peers] if key in found[name][0]}
    row = f"{key:32}{middle['mmgem']:11.2f}"
    for peer in peers:
        row += f"{middle[peer]:11.2f}{middle['mmgem'] / middle[peer]:7.2f}" if peer in middle else f"{'':18}"
    print(row)
print(f"(medians of {args.rounds} rounds in turn, {args.threads} threads; ratio = mmgem over the peer; memory of the whole process)")
for peer, reason in gone.items():
    print(f"absent: {peer}: {reason}")
