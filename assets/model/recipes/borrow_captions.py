#!/usr/bin/env python3
"""Gives photos without captions the captions of other photos, chosen by the model's own search.

    python3 assets/model/recipes/borrow_captions.py target/release/mmgem runs/embedded-2-stage1/model \\
        ../shared/data/captions-lm-train.txt.gz data

Reads coco-train-N.tar in the last folder and writes coco-borrowed-train-N.tar beside it: the same
samples with `captions`, the three lines of the text file that fit the photo best. A line fits if
every kind of thing that it names was detected on the photo. Lines are ranked by the cosine of the
model's embeddings, plus a bonus for the share of the detected kinds that they name. Photos with
fewer than three such lines get no captions.

Needs numpy and safetensors (pip).
"""
import gzip
import hashlib
import json
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile

import numpy as np
from safetensors.numpy import load_file

from prepare import Writer, samples

# Largest number of lines to compare; their hash chooses them.
LINES = 48_000
PER_PHOTO = 3
# Bonus for a line that names all of the detected kinds, added to the cosine.
COVERAGE = 0.15
PEOPLE = "person people man men woman women boy boys girl girls child children kid kids player players guy lady".split()


def kinds_of(labels):
    """Maps each word that names a kind of thing to its kind."""
    words = {word: "person" for word in PEOPLE}
    for label in labels - {"person"}:
        words |= {label: label, f"{label}s": label, f"{label}es": label}
    words |= {"sofa": "couch", "motorbike": "motorcycle", "bike": "bicycle", "bikes": "bicycle", "plane": "airplane",
              "phone": "cell phone", "television": "tv", "table": "dining table", "plant": "potted plant",
              "plants": "potted plant", "buses": "bus", "knives": "knife", "mice": "mouse", "sheep": "sheep"}
    return {word: kind for word, kind in words.items() if kind in labels}


def named(text, words):
    """The kinds of things that a text names. Parts of a longer name do not count."""
    found, text = set(), f" {re.sub('[^a-z ]', ' ', text.lower())} "
    for word in sorted(words, key=len, reverse=True):
        if f" {word} " in text:
            found.add(words[word])
            text = text.replace(f" {word} ", "  ")
    return frozenset(found)


def embed(program, model, arguments, name):
    """Unit vectors of photos or texts. Each call of `mmgem embed` takes a thousand of them."""
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/vectors.safetensors"
        for start in range(0, len(arguments), 1000):
            part = arguments[start:start + 1000]
            texts = [word for text in part for word in ("--text", text)] if name == "text_embed" else part
            command = [program, "embed", *texts, "--model", model, "--device", "cpu", "-q", "--out", out]
            subprocess.run(command, check=True)
            parts.append(load_file(out)[name])
            print(f"{start + len(part)} of {len(arguments)}", file=sys.stderr)
    return np.concatenate(parts)


def main():
    program, model, lines_file, folder = sys.argv[1:5]
    folder = pathlib.Path(folder)
    photos = list(samples(folder.glob("coco-train-*.tar")))
    detected = [{r["label"]: r["score"] for r in sorted(p[2]["regions"], key=lambda r: r["score"])} for p in photos]
    words = kinds_of({label for labels in detected for label in labels})

    lines = {line.strip() for line in gzip.open(lines_file, "rt", encoding="utf-8")}
    lines = [line for line in lines if 20 <= len(line) <= 110]
    lines.sort(key=lambda line: hashlib.sha256(line.encode()).digest())
    kinds = [named(line, words) for line in lines]
    chosen = [idx for idx, found in enumerate(kinds) if found][:LINES]
    lines, kinds = [lines[idx] for idx in chosen], [kinds[idx] for idx in chosen]
    text_embed = embed(program, model, lines, "text_embed")
    with tempfile.TemporaryDirectory() as files:
        paths = [f"{files}/{key}.jpg" for key, _, _ in photos]
        for path, (_, image, _) in zip(paths, photos):
            pathlib.Path(path).write_bytes(image)
        image_embed = embed(program, model, paths, "image_embed")

    by_kinds = {}
    for idx, found in enumerate(kinds):
        by_kinds.setdefault(found, []).append(idx)
    out, n_given = Writer(folder, "coco-borrowed-train"), 0
    for (key, image, record), labels, embedding in zip(photos, detected, image_embed):
        sure = {label for label, score in labels.items() if score >= 0.5} or set(labels)
        fitting = [(found, idx) for found, idxs in by_kinds.items() if found <= labels.keys() for idx in idxs]
        if len(fitting) >= PER_PHOTO:
            idx = np.array([idx for _, idx in fitting])
            coverage = np.array([len(found & sure) / len(sure) for found, _ in fitting])
            best = np.argsort(-(text_embed[idx] @ embedding + COVERAGE * coverage))[:PER_PHOTO]
            record = record | {"captions": [lines[i] for i in idx[best]], "captions_from": "other photos"}
            n_given += 1
        out.add(key, image, record)
    out.close()
    print(f"{n_given} of {len(photos)} photos were given captions")


if __name__ == "__main__":
    main()
