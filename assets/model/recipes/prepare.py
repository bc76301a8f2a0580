#!/usr/bin/env python3
"""Splits the photos of the embedded model into training shards and held-out shards.

    python3 assets/model/recipes/prepare.py ../shared/data data

Writes WebDataset shards into the second folder. Needs only Python's standard library.

    flickr-train-N.tar     training split of Flickr8k with Flickr30k Entities' boxes, unchanged
    flickr-val.tar         its 1,000 validation photos, unchanged
    coco-train-N.tar       photos of everyday things with the boxes that a detector found
    coco-clicks.tar        held out, a tenth of these photos: scores clicks and names of things
    coco-things.tar        held out, the same photos: boxes without people, at least 4 % of the photo
    coco-captions.tar      held out, photos with captions by people: a kind of caption never trained on
    objects-train-N.tar    photos of one object with its name
    objects-held-out.tar   held out, 20 photos of each of 100 classes
"""
import collections
import hashlib
import io
import json
import pathlib
import sys
import tarfile

CLASSES, PER_CLASS = 100, 20


def samples(shards):
    """(key, image bytes, record) of each sample, in the shards' order. Keys are unique."""
    for shard in sorted(shards):
        image = None
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, kind = member.name.partition(".")
                data = tar.extractfile(member).read()
                if kind == "json":
                    yield f"{shard.stem[-3:]}{key}", image, json.loads(data)
                else:
                    image = data


def number(key):
    """A hash of a sample's key."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16)


def is_thing(region, record):
    """True for a thing that a user would click: not a person, and at least 4 % of the photo."""
    x0, y0, x1, y1 = region["box"]
    return region["label"] != "person" and (x1 - x0) * (y1 - y0) >= 0.04 * record["width"] * record["height"]


class Writer:
    """Writes shards of at most `size` samples. Only names with "train" are split and numbered."""

    def __init__(self, folder, name, size=2000):
        self.folder, self.name, self.size, self.count, self.tar = folder, name, size, 0, None

    def add(self, key, image, record):
        if self.count % self.size == 0:
            self.close()
            shard = f"-{self.count // self.size}" if "train" in self.name else ""
            self.tar = tarfile.open(self.folder / f"{self.name}{shard}.tar", "w")
        self.count += 1
        for kind, data in (("jpg", image), ("json", json.dumps(record).encode())):
            info = tarfile.TarInfo(f"{key}.{kind}")
            info.size = len(data)
            self.tar.addfile(info, io.BytesIO(data))

    def close(self):
        if self.tar:
            self.tar.close()


def main():
    source, target = map(pathlib.Path, sys.argv[1:3])
    target.mkdir(parents=True, exist_ok=True)
    for shard in sorted((source / "flickr8k-entities").glob("*.tar")):
        name = shard.name.replace("flickr8k-entities", "flickr").replace("val-000", "val")
        (target / name).write_bytes(shard.read_bytes())

    names = ["coco-train", "coco-clicks", "coco-things", "coco-captions", "objects-train", "objects-held-out"]
    out = {name: Writer(target, name) for name in names}
    for key, image, record in samples((source / "coco-photos").glob("*.tar")):
        if not record["regions"] and not record.get("captions"):
            continue
        part = "captions" if record.get("captions") else "clicks" if number(key[3:]) % 10 == 0 else "train"
        out[f"coco-{part}"].add(key, image, record)
        things = [region for region in record["regions"] if is_thing(region, record)]
        if part == "clicks" and things:
            out["coco-things"].add(key, image, record | {"regions": things})

    objects = list(samples((source / "objects").glob("*.tar")))
    photos_of = collections.Counter(record["class"] for _, _, record in objects if record["class"])
    # These classes are all from Caltech-101: ImageNet has one or two photos of each of its classes.
    kept_classes = {name for name, _ in photos_of.most_common(CLASSES)}
    kept = collections.Counter()
    for key, image, record in sorted(objects, key=lambda sample: number(sample[0])):
        name = record["class"]
        # At most half of a class is held out.
        if name in kept_classes and kept[name] < min(PER_CLASS, photos_of[name] // 2):
            kept[name] += 1
            out["objects-held-out"].add(key, image, record)
        elif name:
            out["objects-train"].add(key, image, record)
    for name, writer in out.items():
        writer.close()
        print(f"{name}: {writer.count} photos")


if __name__ == "__main__":
    main()
