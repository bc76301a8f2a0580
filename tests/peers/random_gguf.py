#!/usr/bin/env python3
"""Writes a GGUF file for the peers that read one: a config's Llama, random weights, quantised.

    random_gguf.py --config assets/presets/vit_l_14_tinyllama.json --type Q4_0 --out tinyllama-q4_0.gguf

Needs gguf and numpy. Norms stay in f32. The embedding and the head are quantised, as llama.cpp's
own tool does.
"""
import argparse
import json

import gguf
import numpy as np

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--config", required=True)
ap.add_argument("--type", choices=("Q8_0", "Q4_0"), required=True)
ap.add_argument("--out", required=True)
args = ap.parse_args()
llm = json.load(open(args.config))["llm"]
kind = gguf.GGMLQuantizationType[args.type]
width, ffn, vocab = llm["hidden_size"], llm["intermediate_size"], llm["vocab_size"]
kv = width // llm["num_attention_heads"] * llm["num_key_value_heads"]
random = np.random.default_rng(0)
out = gguf.GGUFWriter(args.out, "llama")
out.add_vocab_size(vocab)
out.add_context_length(512)
out.add_embedding_length(width)
out.add_block_count(llm["num_hidden_layers"])
out.add_feed_forward_length(ffn)
out.add_head_count(llm["num_attention_heads"])
out.add_head_count_kv(llm["num_key_value_heads"])
out.add_rope_dimension_count(width // llm["num_attention_heads"])
out.add_rope_freq_base(llm["rope_theta"])
out.add_layer_norm_rms_eps(llm["rms_norm_eps"])
out.add_file_type(gguf.LlamaFileType[f"MOSTLY_{args.type}"])
out.add_tokenizer_model("no_vocab")


def matrix(name, rows, columns):
    values = random.standard_normal((rows, columns), dtype=np.float32) * columns ** -0.5
    out.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


def norm(name):
    out.add_tensor(name, np.ones(width, np.float32))


matrix("token_embd.weight", vocab, width)
for i in range(llm["num_hidden_layers"]):
    at = f"blk.{i}."
    norm(at + "attn_norm.weight")
    norm(at + "ffn_norm.weight")
    for name, rows, columns in (("attn_q", width, width), ("attn_k", kv, width), ("attn_v", kv, width),
                                ("attn_output", width, width), ("ffn_gate", ffn, width), ("ffn_up", ffn, width),
                                ("ffn_down", width, ffn)):
        matrix(f"{at}{name}.weight", rows, columns)
norm("output_norm.weight")
matrix("output.weight", vocab, width)
out.write_header_to_file()
out.write_kv_data_to_file()
out.write_tensors_to_file()
out.close()
