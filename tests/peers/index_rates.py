#!/usr/bin/env python3
"""Indexes the same photos with `mmgem index` and with rclip in turn. Prints photos/s and the ratio.

    index_rates.py --mmgem target/release/mmgem --photos DIR [--threads 2] [--rounds 3]

Runs rclip's own program on an empty database each time: its threads that read and scale, its batches
through ONNX Runtime, and its SQLite. Its weights are not needed: the image encoder is the same
architecture (open_clip's ViT-B-32-256) with random weights, exported here. Both rates count from the
opened model to the end; starting the programs does not count. DIR may also be a WebDataset shard.
Needs open_clip_torch, onnxruntime, onnxscript, pi-heif and rclip (`pip install --no-deps rclip`).
"""
import argparse
import contextlib
import io
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time

ENCODER = "ViT-B-32-256"

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--mmgem", required=True)
ap.add_argument("--photos", required=True, help="a folder, or a shard with .jpg entries")
ap.add_argument("--threads", type=int, default=2)
ap.add_argument("--rounds", type=int, default=3)
ap.add_argument("--limit", type=int, default=300, help="index this many photos")
args = ap.parse_args()
if hasattr(os, "sched_setaffinity"):
    # rclip takes as many threads as it may use cores.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
env = {**os.environ, "RAYON_NUM_THREADS": str(args.threads)}

try:
    import onnxruntime as ort
    import open_clip
    import torch
    from rclip import db, main, model, model_download
except ImportError as missing:
    sys.exit(f"{missing.name} is not installed")
folder = tempfile.mkdtemp(prefix="mmgem-index-rates-")


def photos():
    """A folder with copies of the first photos."""
    out = os.path.join(folder, "photos")
    os.mkdir(out)
    if os.path.isdir(args.photos):
        names = sorted(n for n in os.listdir(args.photos) if n.lower().endswith((".jpg", ".jpeg", ".png")))
        for name in names[: args.limit]:
            shutil.copy(os.path.join(args.photos, name), out)
    else:
        with tarfile.open(args.photos) as shard:
            for member in [m for m in shard if m.name.endswith(".jpg")][: args.limit]:
                with open(os.path.join(out, os.path.basename(member.name)), "wb") as file:
                    file.write(shard.extractfile(member).read())
    return out, len(os.listdir(out))


def export():
    torch.manual_seed(0)
    clip = open_clip.create_model(ENCODER, pretrained=None).eval()
    path, side = os.path.join(folder, "visual.onnx"), clip.visual.image_size
    side = side if isinstance(side, int) else side[0]
    batch = torch.export.Dim("batch")
    torch.onnx.export(clip.visual, (torch.zeros(2, 3, side, side),), path, input_names=["input"], output_names=["output"],
                      dynamic_shapes=({0: batch},), dynamo=True, verbose=False)
    return path


def rclip_secs(path):
    session = model_download._load_onnx_session(visual)
    clip = model.Model()
    clip._session_visual_var = session
    database = os.path.join(folder, "rclip.sqlite")
    for old in (database, database + "-wal", database + "-shm"):
        if os.path.exists(old):
            os.remove(old)
    program = main.RClip(clip, db.DB(database), 8, None)
    # One batch first: ONNX Runtime prepares its memory on the first run.
    program._model.compute_preprocessed_image_features([first] * 8)
    start = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):
        program.ensure_index(path)
    secs = time.perf_counter() - start
    assert len(program._get_features(path)[0]) == n, "rclip did not index every photo"
    program.close()
    return secs


def mmgem_secs(path):
    def run(what):
        library = os.path.join(folder, "mmgem.sqlite")
        for old in os.listdir(folder):
            if old.startswith("mmgem.sqlite"):
                os.remove(os.path.join(folder, old))
        start = time.perf_counter()
        subprocess.run([args.mmgem, "index", what, "--library", library, "--device", "cpu", "-q"], env=env, check=True,
                       stdout=subprocess.DEVNULL)
        return time.perf_counter() - start

    # A run on an empty folder is the start of the program and the opening of the model.
    return run(path) - statistics.median(run(empty) for _ in range(3))


try:
    path, n = photos()
    empty = os.path.join(folder, "empty")
    os.mkdir(empty)
    import numpy as np
    with contextlib.redirect_stdout(io.StringIO()):
        visual = export()
    first = np.zeros((3, 256, 256), np.float32)
    rates = {"mmgem": [], "rclip": []}
    for _ in range(args.rounds):
        rates["mmgem"].append(n / mmgem_secs(path))
        rates["rclip"].append(n / rclip_secs(path))
    ours, theirs = (statistics.median(rates[name]) for name in ("mmgem", "rclip"))
    print(f"{'photos_per_sec':20}{'mmgem':>9}{'rclip':>9}{'ratio':>7}")
    print(f"{'index':20}{ours:9.1f}{theirs:9.1f}{ours / theirs:7.2f}")
    print(f"({n} photos, medians of {args.rounds} rounds in turn, {args.threads} threads; onnxruntime {ort.__version__}, "
          f"{ENCODER} with random weights)")
finally:
    shutil.rmtree(folder)
