#!/usr/bin/env python3
"""The language model's share of `mmgem bench` in llama.cpp, on a GGUF file of random_gguf.py.

    llama_cpp_bench.py --config CONFIG.json --gguf tinyllama-q4_0.gguf [--threads 2]

Prints one JSON document with the same keys. Needs llama-cpp-python.
"""
import sys

import common

gguf = None
if "--gguf" in sys.argv:
    at = sys.argv.index("--gguf")
    gguf = sys.argv[at + 1]
    del sys.argv[at:at + 2]
args = common.arguments(__doc__)
if gguf is None:
    common.absent("it needs --gguf, a file of random_gguf.py")
try:
    import llama_cpp as lc
except ImportError as missing:
    common.absent(f"{missing.name} is not installed")
import ctypes

lc.llama_backend_init()
quiet = lc.llama_log_callback(lambda *_: None)
lc.llama_log_set(quiet, ctypes.c_void_p(0))
model = lc.llama_model_load_from_file(gguf.encode(), lc.llama_model_default_params())
if not model:
    sys.exit(f"{gguf} cannot be opened")
params = lc.llama_context_default_params()
params.n_ctx, params.n_batch, params.n_threads, params.n_threads_batch = 512, 512, args.threads, args.threads
context = lc.llama_init_from_model(model, params)
vocab_size, cfg = args.cfg["llm"]["vocab_size"], args.cfg
region = cfg["roi_output_size"] ** 2 + cfg["num_caption_prompts"]


def decode(n_prefix, tokens):
    """Reads a prefix and writes greedy tokens; the prefix gives the first token."""
    lc.llama_memory_clear(lc.llama_get_memory(context), True)
    ids = [at * 17 + 3 for at in range(n_prefix)]
    for _ in range(tokens):
        # `held` keeps the ids alive; the batch only points at them.
        held = (lc.llama_token * len(ids))(*ids)
        if lc.llama_decode(context, lc.llama_batch_get_one(held, len(ids))) != 0:
            sys.exit("llama_decode failed")
        logits = lc.llama_get_logits_ith(context, -1)
        best = ctypes.cast(logits, ctypes.POINTER(ctypes.c_float * vocab_size)).contents
        import numpy
        ids = [int(numpy.frombuffer(best, numpy.float32).argmax())]


rates = {}
for work, name, n, line in (("prefill", "prefill_tokens_per_sec", region, lambda: decode(region, 1)),
                            ("caption", "caption_tokens_per_sec", args.tokens, lambda: decode(2, args.tokens)),
                            ("region", "region_captions_per_sec", 1, lambda: decode(region, args.tokens))):
    if work in args.only:
        rates[name] = n / common.median_secs(line, args.repeat)
common.print_rates(f"llama.cpp, {args.threads} threads", rates)
