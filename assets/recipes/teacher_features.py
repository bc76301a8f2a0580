#!/usr/bin/env python3
"""Adds a teacher's feature map to every photo of WebDataset shards, for the `warmup` recipe.

    pip install ai-edge-litert numpy pillow
    teacher_features.py --teacher mobilenet_v2_1.0_224_quant.tflite --out DIR SHARD.tar [SHARD.tar ...]

Each sample keeps its members and gains `KEY.teacher.safetensors` with one tensor, `feature_map`:
uint8 `[grid, grid, hidden_size]`, the teacher's last map before pooling on the photo squashed to its
input. Only its direction counts (the loss is a cosine), so the quantisation scale is left out. With `--crops N`
each photo is followed by N random crops of 35 to 100 % of it, half of them mirrored, each a sample of its own that the
teacher has seen as it is: finer than a part of the whole photo's map. They keep captions and class, not boxes.

    teacher_features.py --reduce 256 --out DIR SHARD.tar [SHARD.tar ...]

takes shards that have such maps and writes their unit patches less the mean of all, along the first 256
principal directions, as int8. A network whose outputs are never negative gives patches that are all
alike (for MobileNetV2 the mean alone has a cosine of 0.38 with them); without it, what differs counts.
"""
import argparse
import io
import json
import os
import struct
import sys
import tarfile

import numpy as np
from PIL import Image, ImageOps

MEMBER = ".teacher.safetensors"


def safetensors(name, array):
    dtype = {"uint8": "U8", "int8": "I8"}[array.dtype.name]
    header = json.dumps(
        {name: {"dtype": dtype, "shape": list(array.shape), "data_offsets": [0, array.nbytes]}}
    ).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + array.tobytes()


def read_map(data):
    (length,) = struct.unpack("<Q", data[:8])
    shape = json.loads(data[8 : 8 + length])["feature_map"]["shape"]
    values = np.frombuffer(data, np.uint8, offset=8 + length).reshape(shape).astype(np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1)


def principal(shards, n_components):
    """Mean and principal directions of every eighth map of the shards."""
    n, first, second = 0, 0.0, 0.0
    for path in shards:
        with tarfile.open(path) as source:
            names = [name for name in source.getnames() if name.endswith(MEMBER)]
            if not names:
                sys.exit(f"{path} has no maps; make it with --teacher first")
            patches = np.concatenate([np.concatenate(read_map(source.extractfile(name).read())) for name in names[::8]])
        n, first, second = n + len(patches), first + patches.sum(0), second + patches.T @ patches
    mean = first / n
    _, vectors = np.linalg.eigh(second / n - np.outer(mean, mean))
    return mean, vectors[:, ::-1][:, :n_components].astype(np.float32)


def reduce(shards, n_components, out):
    mean, directions = principal(shards, n_components)
    for path in shards:
        final = os.path.join(out, os.path.basename(path))
        with tarfile.open(path) as source, tarfile.open(final + ".tmp", "w", format=tarfile.USTAR_FORMAT) as target:
            for member in source:
                data = source.extractfile(member).read()
                if member.name.endswith(MEMBER):
                    # Half of a unit vector is the most that eight bits can say: few patches go further along one direction.
                    steps = np.rint((read_map(data) - mean) @ directions * 256)
                    data = safetensors("feature_map", np.clip(steps, -127, 127).astype(np.int8))
                    member.size = len(data)
                target.addfile(member, io.BytesIO(data))
        os.rename(final + ".tmp", final)
        print(final)


def crops(photo, n, rng):
    """Random parts as in training, as JPEG."""
    for _ in range(n):
        share, aspect = rng.uniform(0.35, 1.0), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        width = min(photo.width, round(np.sqrt(share * photo.width * photo.height * aspect)))
        height = min(photo.height, round(np.sqrt(share * photo.width * photo.height / aspect)))
        x, y = rng.integers(photo.width - width + 1), rng.integers(photo.height - height + 1)
        part = photo.crop((x, y, x + width, y + height))
        part = ImageOps.mirror(part) if rng.random() < 0.5 else part
        file = io.BytesIO()
        part.save(file, "JPEG", quality=95)
        yield part, file.getvalue()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--teacher", help="a .tflite file")
    ap.add_argument("--reduce", type=int, metavar="N", help="reduce maps that are there")
    ap.add_argument("--tensor", type=int, default=168, help="index of the feature map in the graph")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--crops", type=int, default=0, metavar="N", help="random crops of each photo beside it")
    ap.add_argument("--seed", type=int, default=0, help="of the crops")
    ap.add_argument("--out", required=True)
    ap.add_argument("shards", nargs="+")
    args = ap.parse_args()
    os.makedirs(args.out, exist_ok=True)
    if args.reduce:
        return reduce(args.shards, args.reduce, args.out)
    if not args.teacher:
        ap.error("--teacher or --reduce is needed")
    from ai_edge_litert.interpreter import Interpreter

    teacher = Interpreter(args.teacher, experimental_preserve_all_tensors=True, num_threads=args.threads)
    teacher.allocate_tensors()
    entry = teacher.get_input_details()[0]
    side = entry["shape"][1]

    def feature_map(photo):
        photo = photo.resize((side, side), Image.BICUBIC)
        teacher.set_tensor(entry["index"], np.asarray(photo, dtype=np.uint8)[None])
        teacher.invoke()
        return safetensors("feature_map", np.ascontiguousarray(teacher.get_tensor(args.tensor)[0]))

    for path in args.shards:
        final = os.path.join(args.out, os.path.basename(path))
        if os.path.exists(final):
            print(f"{final} is there already")
            continue
        rng = np.random.default_rng([args.seed, *os.path.basename(path).encode()])
        with tarfile.open(path) as source, tarfile.open(final + ".tmp", "w", format=tarfile.USTAR_FORMAT) as out:

            def add(name, data):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                out.addfile(info, io.BytesIO(data))

            samples = {}
            for member in source:
                samples.setdefault(member.name.split(".")[0], {})[member.name] = source.extractfile(member).read()
            for key, parts in samples.items():
                for name, data in parts.items():
                    add(name, data)
                file = next((data for name, data in parts.items() if name.endswith((".jpg", ".png"))), None)
                if file is None:
                    continue
                photo = ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGB")
                add(key + MEMBER, feature_map(photo))
                record = json.loads(parts.get(key + ".json", b"{}"))
                record = {name: record[name] for name in ("captions", "class") if name in record}
                for at, (part, data) in enumerate(crops(photo, args.crops, rng)):
                    add(f"{key}-crop{at}.jpg", data)
                    add(f"{key}-crop{at}.json", json.dumps(record).encode())
                    add(f"{key}-crop{at}{MEMBER}", feature_map(part))
        os.rename(final + ".tmp", final)
        print(f"{final}: {len(samples)} samples")


if __name__ == "__main__":
    main()
