"""Shared by all peers: arguments, inputs and timing. Sizes and inputs are as in `mmgem bench`."""
import argparse
import json
import resource
import statistics
import sys
import time

import tower

TEXT_LEN = 12
WORKS = ("image", "text", "prefill", "caption", "region", "train", "train-cached")


def arguments(doc, others={}):
    ap = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--config", required=True)
    ap.add_argument("--reference", help="mmgem_reference.py, for the peers that run or export its modules")
    ap.add_argument("--tower", default=tower.DEFAULT, help="an EfficientNet-Lite's files, without .json and .safetensors")
    ap.add_argument("--only", default=",".join(WORKS[:-2]))
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--repeat", type=int, default=5)
    ap.add_argument("--tokens", type=int, default=32)
    ap.add_argument("--train-batch", type=int, default=16)
    for name, meaning in others.items():
        ap.add_argument(name, help=meaning)
    args = ap.parse_args()
    args.only = args.only.split(",")
    args.cfg = json.load(open(args.config))
    # The reference program has no biases in the language model, and no keys for them.
    for key in ("attention_bias", "mlp_bias"):
        if args.cfg["llm"].pop(key, False):
            sys.exit(f"{args.config}: {key} is true; the peers have a language model without biases only")
    return args


def absent(reason):
    """Prints the reason why this peer cannot run here, for compare.py to report, and exits."""
    print(json.dumps({"absent": reason}))
    sys.exit(0)


def median_secs(work, repeat):
    work()
    secs = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        secs.append(time.perf_counter() - start)
    return statistics.median(secs)


def print_rates(device, rates):
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"device": device, "rates": rates, "peak_memory_bytes": memory}))


def reference_model(args):
    """The reference program's model with random weights."""
    import importlib.util
    import torch
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    spec = importlib.util.spec_from_file_location("reference", args.reference)
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    if not tower.is_tower(args.cfg):
        return reference.MmGem(args.cfg).eval()
    # The reference can build only a ViT, so a small ViT is built and then replaced by the tower.
    small = dict(image_size=32, patch_size=32, hidden_size=args.cfg["vision"]["hidden_size"], num_hidden_layers=1,
                 num_attention_heads=1, mlp_ratio=0.1, hidden_act="gelu", proj_dim=1)
    model = reference.MmGem({**args.cfg, "vision": small}).eval()
    model.cfg, model.visual = args.cfg, tower.torch_tower(args.tower)
    object.__setattr__(model, "feature_map", lambda x: model.visual(x))
    return model


def pixels(cfg, n):
    import torch
    side = cfg["vision"]["image_size"]
    return (torch.arange(n * 3 * side * side) * 7919 % 1000).float().div(500).sub(1).reshape(n, 3, side, side)


def texts(cfg, n):
    import torch
    vocab = cfg["llm"]["vocab_size"]
    return torch.tensor([[(t * 131 + at * 17 + 3) % vocab for at in range(TEXT_LEN)] for t in range(n)])
