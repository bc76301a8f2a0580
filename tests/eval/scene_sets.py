"""Makes two small benchmarks from drawn scenes, to evaluate long texts and classes without a download.

    mmgem scenes --out scenes --n 200 --seed 9
    pip install pillow
    python tests/eval/scene_sets.py scenes OUT
    mmgem eval long-text --data OUT/docci --text-len 200
    mmgem eval zero-shot --data OUT/kinds

OUT/docci has DOCCI's layout. A scene's description is all of its captions, joined.
OUT/kinds has a folder for each kind of object, with crops of the boxes of that kind.
"""

import argparse
import io
import json
import pathlib
import tarfile

from PIL import Image


def samples(folder):
    """Yields the key, picture and record of each scene."""
    for shard in sorted(pathlib.Path(folder).glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    key = member.name.removesuffix(".json")
                    picture = Image.open(io.BytesIO(tar.extractfile(f"{key}.png").read())).convert("RGB")
                    yield key, picture, json.load(tar.extractfile(member))


def main(scenes, out):
    images = out / "docci" / "images"
    images.mkdir(parents=True)
    lines = []
    for key, picture, record in samples(scenes):
        picture.save(images / f"{key}.png")
        description = " ".join(record["captions"])
        lines.append(json.dumps({"image_file": f"{key}.png", "split": "test", "description": description}))
        for i, region in enumerate(record["regions"]):
            kind = out / "kinds" / region["type"].replace(" ", "_")
            kind.mkdir(parents=True, exist_ok=True)
            x0, y0, x1, y1 = (round(edge) for edge in region["box"])
            picture.crop((x0, y0, max(x1, x0 + 1), max(y1, y0 + 1))).save(kind / f"{key}-{i}.png")
    (out / "docci" / "docci_descriptions.jsonlines").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes")
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    main(args.scenes, args.out)
