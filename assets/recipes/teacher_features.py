#!/usr/bin/env python3
"""Adds a teacher's feature map to every photo of WebDataset shards, for the `warmup` recipe.

    pip install ai-edge-litert numpy pillow
    teacher_features.py --teacher mobilenet_v2_1.0_224_quant.tflite --out DIR SHARD.tar [SHARD.tar ...]

Each sample keeps its members and gains `KEY.teacher.safetensors` with one tensor, `feature_map`:
uint8 `[grid, grid, hidden_size]`, the teacher's last map before pooling on the photo squashed to its
input. Only its direction counts (the loss is a cosine), so the quantisation scale is left out.
"""
import argparse
import io
import json
import os
import struct
import tarfile

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps


def safetensors(name, array):
    header = json.dumps(
        {name: {"dtype": "U8", "shape": list(array.shape), "data_offsets": [0, array.nbytes]}}
    ).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + array.tobytes()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--teacher", required=True)
    ap.add_argument("--tensor", type=int, default=168, help="index of the feature map in the graph")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--out", required=True)
    ap.add_argument("shards", nargs="+")
    args = ap.parse_args()
    os.makedirs(args.out, exist_ok=True)
    teacher = Interpreter(args.teacher, experimental_preserve_all_tensors=True, num_threads=args.threads)
    teacher.allocate_tensors()
    entry = teacher.get_input_details()[0]
    side = entry["shape"][1]
    for path in args.shards:
        final = os.path.join(args.out, os.path.basename(path))
        if os.path.exists(final):
            print(f"{final} is there already")
            continue
        with tarfile.open(path) as source, tarfile.open(final + ".tmp", "w", format=tarfile.USTAR_FORMAT) as out:
            n = 0
            for member in source:
                data = source.extractfile(member).read()
                member.mtime = 0
                out.addfile(member, io.BytesIO(data))
                if not member.name.endswith((".jpg", ".png")):
                    continue
                photo = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
                photo = photo.resize((side, side), Image.BICUBIC)
                teacher.set_tensor(entry["index"], np.asarray(photo, dtype=np.uint8)[None])
                teacher.invoke()
                data = safetensors("feature_map", np.ascontiguousarray(teacher.get_tensor(args.tensor)[0]))
                info = tarfile.TarInfo(member.name.split(".")[0] + ".teacher.safetensors")
                info.size = len(data)
                out.addfile(info, io.BytesIO(data))
                n += 1
        os.rename(final + ".tmp", final)
        print(f"{final}: {n} photos")


if __name__ == "__main__":
    main()
