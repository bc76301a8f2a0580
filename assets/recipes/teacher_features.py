#!/usr/bin/env python3
"""Adds a teacher's feature map to every photo of WebDataset shards, for the `warmup` recipe.

    pip install ai-edge-litert numpy pillow
    teacher_features.py --teacher mobilenet_v2_1.0_224_quant.tflite --out DIR SHARD.tar [SHARD.tar ...]

Each sample keeps its members and gains `KEY.teacher.safetensors` with one tensor, `feature_map`:
uint8 `[grid, grid, hidden_size]`, the teacher's last map before pooling on the photo squashed to its
input. Only its direction counts (the loss is a cosine), so the quantisation scale is left out. With `--crops N`
each photo is followed by N random crops of 35 to 100 % of it, half of them mirrored unless its captions say left or
right, each a sample of its own that the teacher has seen as it is: finer than a part of the whole photo's map. They keep
captions and class, not boxes.

    teacher_features.py --reduce 256 [--captions] --out DIR SHARD.tar [SHARD.tar ...]

takes shards that have such maps and writes their unit patches less the mean of all, along the first 256
principal directions, as int8. A network whose outputs are never negative gives patches that are all
alike (for MobileNetV2 the mean alone has a cosine of 0.38 with them); without it, what differs counts.
With `--captions` the directions are those in which a photo's mean says most of the words of its captions (canonical
correlation with their bag of words), as long as they correlate: a small student learns what texts ask for first.
"""
import argparse
import collections
import io
import json
import os
import re
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
    """A raw map's unit patches, or a reduced map as it is."""
    (length,) = struct.unpack("<Q", data[:8])
    entry = json.loads(data[8 : 8 + length])["feature_map"]
    if entry["dtype"] == "I8":
        return np.frombuffer(data, np.int8, offset=8 + length).reshape(entry["shape"]).astype(np.float32) / 256
    values = np.frombuffer(data, np.uint8, offset=8 + length).reshape(entry["shape"]).astype(np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1)


def members(path, suffix):
    """Contents of the members of a shard that end so, by key."""
    with tarfile.open(path) as source:
        return {member.name.split(".")[0]: source.extractfile(member).read() for member in source if member.name.endswith(suffix)}


def principal(shards, n_components):
    """Mean and principal directions of every eighth map of the shards."""
    n, first, second = 0, 0.0, 0.0
    for path in shards:
        maps = list(members(path, MEMBER).values())
        if not maps:
            sys.exit(f"{path} has no maps; make it with --teacher first")
        patches = np.concatenate([np.concatenate(read_map(data)) for data in maps[::8]])
        n, first, second = n + len(patches), first + patches.sum(0), second + patches.T @ patches
    mean = first / n
    _, vectors = np.linalg.eigh(second / n - np.outer(mean, mean))
    return mean, vectors[:, ::-1][:, :n_components].astype(np.float32)


def of_captions(shards, n_components):
    """Mean of the photos' means, and directions that correlate with the words of their captions."""
    means, texts = [], []
    for path in shards:
        maps = members(path, MEMBER)
        for key, data in members(path, ".json").items():
            captions = json.loads(data).get("captions")
            if captions and key in maps:
                means.append(read_map(maps[key]).mean((0, 1)))
                texts.append([set(re.findall("[a-z]+", caption.lower())) for caption in captions])
    if not texts:
        sys.exit("no sample has both captions and a map")
    counts = collections.Counter(word for captions in texts for words in captions for word in words)
    # A word has to come in a few photos, each of them with its crops.
    place = {word: at for at, (word, n) in enumerate(counts.most_common()) if n >= 40}
    rarity = np.log(sum(map(len, texts)) / np.array([counts[word] for word in place]))
    bags = np.zeros((len(texts), len(place)), np.float32)
    for bag, captions in zip(bags, texts):
        for words in captions:
            known = [place[word] for word in words if word in place]
            bag[known] += rarity[known] / max(np.linalg.norm(rarity[known]), 1e-6) / len(captions)
    means = np.stack(means)
    mean = means.mean(0)
    photos, bags = means - mean, bags - bags.mean(0)

    def whitening(rows, ridge):
        covariance = (rows.T @ rows / len(rows)).astype(np.float64)
        covariance += ridge * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        values, vectors = np.linalg.eigh(covariance)
        return vectors / np.sqrt(values) @ vectors.T

    # Ridges that ranked the photos of a validation set best.
    of_photos, of_bags = whitening(photos, 0.1), whitening(bags, 1.0)
    vectors, correlations, _ = np.linalg.svd(of_photos @ (photos.T @ bags / len(bags)) @ of_bags)
    directions = (of_photos @ vectors)[:, :n_components] * correlations[:n_components]
    print(f"{len(texts)} photos, {len(place)} words, correlations {correlations[0]:.2f} to {correlations[:n_components][-1]:.2f}")
    # As long as unit patches are, nearly: they are written with eight bits.
    return mean, (directions / np.linalg.norm(photos @ directions, axis=1).mean() / 8).astype(np.float32)


def reduce(shards, n_components, out, find_directions):
    mean, directions = find_directions(shards, n_components)
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


def crops(photo, n, rng, may_mirror):
    """Random parts as in training, as JPEG."""
    for _ in range(n):
        share, aspect = rng.uniform(0.35, 1.0), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        width = min(photo.width, round(np.sqrt(share * photo.width * photo.height * aspect)))
        height = min(photo.height, round(np.sqrt(share * photo.width * photo.height / aspect)))
        x, y = rng.integers(photo.width - width + 1), rng.integers(photo.height - height + 1)
        part = photo.crop((x, y, x + width, y + height))
        part = ImageOps.mirror(part) if rng.random() < 0.5 and may_mirror else part
        file = io.BytesIO()
        part.save(file, "JPEG", quality=95)
        yield part, file.getvalue()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--teacher", help="a .tflite file")
    ap.add_argument("--reduce", type=int, metavar="N", help="reduce maps that are there")
    ap.add_argument("--captions", action="store_true", help="reduce to what captions speak of")
    ap.add_argument("--tensor", type=int, default=168, help="index of the feature map in the graph")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--crops", type=int, default=0, metavar="N", help="random crops of each photo beside it")
    ap.add_argument("--seed", type=int, default=0, help="of the crops")
    ap.add_argument("--out", required=True)
    ap.add_argument("shards", nargs="+")
    args = ap.parse_args()
    os.makedirs(args.out, exist_ok=True)
    if args.reduce:
        return reduce(args.shards, args.reduce, args.out, of_captions if args.captions else principal)
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
                may_mirror = not re.search(r"\b(left|right)\b", " ".join(record.get("captions", [])).lower())
                for at, (part, data) in enumerate(crops(photo, args.crops, rng, may_mirror)):
                    add(f"{key}-crop{at}.jpg", data)
                    add(f"{key}-crop{at}.json", json.dumps(record).encode())
                    add(f"{key}-crop{at}{MEMBER}", feature_map(part))
        os.rename(final + ".tmp", final)
        print(f"{final}: {len(samples)} samples")


if __name__ == "__main__":
    main()
