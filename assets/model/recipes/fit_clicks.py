#!/usr/bin/env python3
"""Fits the weights with which `core/src/propose.rs` ranks the boxes around a clicked point.

    python3 assets/model/recipes/fit_clicks.py runs/embedded-2-stage1/model data/coco-train-*.tar

Needs `mmgem` (path in MMGEM [default: target/release/mmgem]), numpy, and torch for its optimizer.
Gets the patch maps of every third photo from `mmgem verify trace`. Clicks each box that covers 4 % of
its photo or more, except persons: once on the centre, and once anywhere in its inner 60 % x 60 %.
Prints the weights, and the share of boxes with IoU >= 0.5 on the quarter of the photos that the fit
leaves out.

`--golden core/src/propose/golden.json` writes the features that `propose.rs` must compute on a
random map.
"""
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile

import numpy as np

MMGEM = os.environ.get("MMGEM", "target/release/mmgem")
SIZES = np.array([0.11, 0.15, 0.2, 0.27, 0.36, 0.48, 0.64, 0.82, 1.0], np.float32)
OFFSETS = np.array([-0.3, -0.15, 0.0, 0.15, 0.3], np.float32)
MORE_OUTSIDE = 0.03
EVERY, CLICKS = 3, 3600


def spans(at):
    """Intervals around each of `at`, clipped to the photo: [n, 45, 2]."""
    center = at[:, None, None] + OFFSETS * SIZES[:, None]
    half = SIZES[:, None] / 2
    return np.stack([np.clip(center - half, 0, 1), np.clip(center + half, 0, 1)], -1).reshape(len(at), -1, 2)


def overlap(intervals, grid):
    """Share of each patch that lies in an interval: [n, 45, grid]."""
    start = np.arange(grid, dtype=np.float32) / grid
    covered = np.minimum(intervals[..., 1:], start + 1 / grid) - np.maximum(intervals[..., :1], start)
    return np.clip(covered, 0, None) * grid


def affinity(patches, points):
    """Cosine of each patch [n, grid, grid, c] with the map interpolated at a point.

    Returns [n, grid, grid].
    """
    n, grid = patches.shape[:2]
    at = np.clip(points * grid - 0.5, 0, grid - 1)
    low = np.floor(at).astype(int)
    high, share = np.minimum(low + 1, grid - 1), at - low
    row = np.arange(n)
    clicked = 0
    for y, wy in ((low[:, 1], 1 - share[:, 1]), (high[:, 1], share[:, 1])):
        for x, wx in ((low[:, 0], 1 - share[:, 0]), (high[:, 0], share[:, 0])):
            clicked = clicked + patches[row, y, x] * (wy * wx)[:, None]
    unit = lambda v: v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-6)
    return np.einsum("nijc,nc->nij", unit(patches), unit(clicked)).astype(np.float32)


def candidates(alike, points):
    """Boxes around each point [n, 2025, 4], as shares of the photo, and features [n, 2025, 5]."""
    n, grid = alike.shape[:2]
    x, y = spans(points[:, 0]), spans(points[:, 1])
    boxes = np.stack(np.broadcast_arrays(x[:, None, :, 0], y[:, :, None, 0], x[:, None, :, 1], y[:, :, None, 1]), -1)
    wx, wy = overlap(x, grid), overlap(y, grid)
    total = wy @ alike @ wx.transpose(0, 2, 1)
    area = wy.sum(-1)[:, :, None] * wx.sum(-1)[:, None]
    # A few more patches with the photo's mean are added outside, so that a box of the whole photo
    # has an outside too.
    mean, more = alike.mean((1, 2))[:, None, None], MORE_OUTSIDE * grid**2
    outside = (alike.sum((1, 2))[:, None, None] - total + more * mean) / (grid**2 - area + more)
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    offset_x = (points[:, None, None, 0] - (boxes[..., 0] + boxes[..., 2]) / 2) / width
    offset_y = (points[:, None, None, 1] - (boxes[..., 1] + boxes[..., 3]) / 2) / height
    features = [total / area, outside, offset_x**2 + offset_y**2,
                np.log(width * height) ** 2, np.log(width / height)]
    return boxes.reshape(n, -1, 4), np.stack(features, -1).reshape(n, -1, 5).astype(np.float32)


def iou(a, b):
    area = lambda box: (box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1])
    sides = [np.clip(np.minimum(a[..., i + 2], b[..., i + 2]) - np.maximum(a[..., i], b[..., i]), 0, None)
             for i in (0, 1)]
    common = sides[0] * sides[1]
    return common / (area(a) + area(b) - common)


def read_photos(model, shards):
    """Patch map [grid, grid, c] and boxes of every third photo that has boxes to click on."""
    taken = []
    for shard in shards:
        with tarfile.open(shard) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar}
        for name in sorted(files)[1::2 * EVERY]:
            record = json.loads(files[name])
            size = np.array([record["width"], record["height"]] * 2, np.float32)
            boxes = [np.array(region["box"], np.float32) / size for region in record["regions"]
                     if region["label"] != "person" and region["n_boxes"] == 1]
            boxes = [box for box in boxes if (box[2] - box[0]) * (box[3] - box[1]) >= 0.04]
            if boxes:
                taken.append((files[name.replace(".json", ".jpg")], boxes))
    for start in range(0, len(taken), 32):
        part = taken[start:start + 32]
        for patches, (_, boxes) in zip(trace(model, [image for image, _ in part]), part):
            yield patches, boxes


def trace(model, images):
    """V of photos, computed by `mmgem verify trace`: [n, grid, grid, c]."""
    from safetensors.numpy import load_file

    with tempfile.TemporaryDirectory() as folder:
        paths = [pathlib.Path(folder, f"{i}.jpg") for i in range(len(images))]
        for path, image in zip(paths, images):
            path.write_bytes(image)
        out = pathlib.Path(folder, "out.safetensors")
        command = [MMGEM, "verify", "trace", "-q", "--device", "cpu", "--model", model, "--text", "a", "--steps", "1",
                   "--out", out]
        photos = [argument for path in paths for argument in ("--image", path)]
        subprocess.run(command + photos, check=True, stdout=subprocess.DEVNULL)
        return load_file(out)["feature_map"].transpose(0, 2, 3, 1)


def fit(features, reward):
    """Weights that maximise the expected reward of a box drawn by the softmax of the scores.

    They are scaled so that the first feature's weight is 1.
    """
    import torch

    mean, deviation = features.mean((0, 1)), features.std((0, 1))
    x, reward = torch.from_numpy((features - mean) / deviation), torch.from_numpy(reward)
    weights = torch.zeros(x.shape[-1], requires_grad=True)
    # The first fit uses a softmax of the reward as target, because the expected reward is flat
    # where no box is likely.
    for target in (torch.softmax(12 * reward, -1), None):
        optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

        def loss():
            optimizer.zero_grad()
            scores = x @ weights
            earned = scores.softmax(-1) * reward if target is None else scores.log_softmax(-1) * target
            value = 1e-4 * weights.square().sum() - earned.sum(-1).mean()
            value.backward()
            return value

        optimizer.step(loss)
    weights = weights.detach().numpy() / deviation
    return weights / weights[0]


def write_golden(path):
    """Writes a map, points, and some of the candidates at each point with their features."""
    rng = np.random.default_rng(0)
    grid, hidden = 5, 4
    patches = np.round(rng.normal(size=(1, grid, grid, hidden)), 3).astype(np.float32)
    clicks = []
    for point in ([0.5, 0.5], [0.07, 0.66], [0.95, 0.3]):
        points = np.array([point], np.float32)
        boxes, features = candidates(affinity(patches, points), points)
        some = [[i, boxes[0, i].tolist(), features[0, i].tolist()] for i in range(0, boxes.shape[1], 211)]
        clicks.append({"point": point, "n_candidates": boxes.shape[1], "candidates": some})
    golden = {"grid": grid, "patches": patches.ravel().tolist(), "clicks": clicks}
    shorter = json.loads(json.dumps(golden), parse_float=lambda number: round(float(number), 6))
    pathlib.Path(path).write_text(json.dumps(shorter) + "\n")


def main():
    if sys.argv[1] == "--golden":
        return write_golden(sys.argv[2])
    model, *shards = sys.argv[1:]
    rng = np.random.default_rng(0)
    alike, points, truth, photo, centered = [], [], [], [], []
    for number, (patches, boxes) in enumerate(read_photos(model, shards)):
        for box in boxes:
            for spread in (0, 0.3):
                at = (box[:2] + box[2:]) / 2 + rng.uniform(-spread, spread, 2) * (box[2:] - box[:2])
                points.append(at.astype(np.float32))
                alike.append(affinity(patches[None], points[-1][None])[0])
                truth.append(box)
                photo.append(number)
                centered.append(spread == 0)
    alike, points, truth, photo, centered = map(np.array, (alike, points, truth, photo, centered))
    left_out = photo % 4 == 3
    print(f"{photo[-1] + 1} photos, {len(photo)} clicks, {left_out.sum()} of them left out")

    use = rng.permutation(np.flatnonzero(~left_out))[:CLICKS]
    boxes, features = candidates(alike[use], points[use])
    found = iou(boxes, truth[use, None])
    weights = fit(features, 0.7 / (1 + np.exp((0.5 - found) / 0.05)) + 0.5 * found)
    print("outside, offset, size, shape:", *(f"{weight:.4f}" for weight in weights[1:]))

    boxes, features = candidates(alike[left_out], points[left_out])
    best = (features @ weights).argmax(-1)
    found = iou(boxes[np.arange(len(best)), best], truth[left_out])
    for name, chosen in (("centre", centered[left_out]), ("inner 60 %", ~centered[left_out])):
        print(f"{name}: IoU >= 0.5 in {np.mean(found[chosen] >= 0.5):.3f}, mean IoU {found[chosen].mean():.3f}")


if __name__ == "__main__":
    main()
