"""Writes the golden numbers of this folder: the reference implementations' results on shared inputs.

    pip install torch torchvision open_clip_torch clip-benchmark scikit-learn vision-evaluation safetensors pycocoevalcap
    python tests/eval/make.py --densecap EVALUATOR.py

References:
- open_clip_train's `get_clip_metrics` and clip_benchmark's `recall_at_k`
- vision_evaluation and scikit-learn (which ELEVATER calls)
- densecap-pytorch's `DenseCapEvaluator`: model/evaluator.py of soloist97/densecap-pytorch, a port of
  DenseCap's eval_utils.lua. Given numbers replace its METEOR call.
- pycocoevalcap's METEOR (Java)
- Python's zipfile
- open_clip's CLIP, CoCa, tokenizer and zero-shot classifier on random weights
"""

import argparse
import gzip
import importlib.util
import json
import pathlib
import zipfile

import numpy as np
import torch

HERE = pathlib.Path(__file__).parent


def write(name, document):
    (HERE / name).write_text(json.dumps(document, separators=(",", ":")) + "\n")


def retrieval():
    from clip_benchmark.metrics.zeroshot_retrieval import recall_at_k
    from open_clip_train.train import get_clip_metrics

    rng = np.random.default_rng(7)
    cases = []
    # Few distinct integers, so that most scores occur in several pairs.
    for name, n, dim, low, high in [("ties", 60, 3, -1, 2), ("rough", 80, 4, -3, 4), ("random", 64, 8, -999, 1000)]:
        images, texts = (rng.integers(low, high, (n, dim)) for _ in range(2))
        as_floats = [torch.tensor(x, dtype=torch.float32) for x in (images, texts)]
        case = {"name": name, "dim": dim, "images": images.ravel().tolist(), "texts": texts.ravel().tolist()}
        # open_clip's argsort is not stable, so the order of equal scores depends on the CPU.
        # `stable` is the same metric with a stable sort.
        unstable = torch.argsort
        for key, argsort in [("metrics", unstable), ("stable", lambda x, **k: unstable(x, stable=True, **k))]:
            torch.argsort = argsort
            metrics = get_clip_metrics(*as_floats, torch.tensor(1.0))
            case[key] = {name: float(value) for name, value in metrics.items()}
        torch.argsort = unstable
        cases.append(case)
    # Several captions per photo, and no equal scores.
    n, per_image, dim = 30, 3, 8
    while True:
        images, texts = rng.integers(-999, 1000, (n, dim)), rng.integers(-999, 1000, (n * per_image, dim))
        scores = torch.tensor(texts @ images.T, dtype=torch.float64)
        if len(scores.unique()) == scores.numel():
            break
    own = np.arange(n).repeat(per_image)
    positive = torch.zeros_like(scores, dtype=bool)
    positive[torch.arange(len(scores)), torch.tensor(own)] = True
    recalls = {f"text_to_image_recall_at_{k}": (recall_at_k(scores, positive, k) > 0).double().mean().item()
               for k in (1, 5, 10)}
    recalls |= {f"image_to_text_recall_at_{k}": (recall_at_k(scores.T, positive.T, k) > 0).double().mean().item()
                for k in (1, 5, 10)}
    several = {"dim": dim, "images": images.ravel().tolist(), "texts": texts.ravel().tolist(), "own": own.tolist(),
               "recalls": recalls}
    write("retrieval.json", {"one_caption": cases, "several_captions": several})


def classification():
    import vision_evaluation.evaluators as ve
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score

    rng = np.random.default_rng(8)
    n, n_classes = 90, 6
    cosines = np.round(rng.uniform(-0.3, 0.4, (n, n_classes)), 3)
    probabilities = torch.tensor(100.0 * cosines, dtype=torch.float64).softmax(dim=-1).numpy()
    labels = rng.integers(0, n_classes - 1, n)  # the last class has no photo
    labels[:40] = cosines[:40].argmax(1) % (n_classes - 1)
    top1 = ve.TopKAccuracyEvaluator(1)
    top1.add_predictions(probabilities, labels)
    several = [sorted({int(a), int(b)}) for a, b in zip(labels, rng.integers(0, n_classes - 1, n))]
    targets = np.zeros((n, n_classes), dtype=int)
    for row, classes in enumerate(several):
        targets[row, classes] = 1
    average = ve.MeanAveragePrecisionNPointsEvaluator(11)
    average.add_predictions(probabilities, targets)
    # Two decimals give many equal scores.
    scores, positive = np.round(rng.uniform(0, 1, n), 2), rng.integers(0, 2, n)
    write("classification.json", {
        "n_classes": n_classes, "cosines": cosines.ravel().tolist(), "labels": labels.tolist(),
        "top1": top1.get_report()["accuracy_top1"],
        "mean_per_class": balanced_accuracy_score(labels, probabilities.argmax(1)),
        "several": several, "map_11_points": average.get_report()["mAP_11_points"],
        "scores": scores.tolist(), "positive": positive.tolist(), "roc_auc": roc_auc_score(positive, scores),
    })


def dense(evaluator_path):
    spec = importlib.util.spec_from_file_location("evaluator", evaluator_path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # Two-decimal scores repeat. torch's sort is not stable, so the order of equal scores would
    # depend on the CPU.
    unstable = torch.sort
    module.torch.sort = lambda x, dim, descending: unstable(x, dim=dim, descending=descending, stable=True)
    rng = np.random.default_rng(9)
    evaluator, photos = module.DenseCapEvaluator([]), []
    for _ in range(6):
        def boxes(n):
            corner, size = rng.integers(0, 200, (n, 2)), rng.integers(30, 150, (n, 2))
            return np.concatenate([corner, corner + size], 1)

        truth = boxes(8)
        truth = np.concatenate([truth, truth[:3] + rng.integers(-4, 5, (3, 4))])
        found = np.concatenate([truth[:9] + rng.integers(-25, 26, (9, 4)), boxes(4)])
        scores = np.round(rng.uniform(-3, 0, len(found)), 2)
        captions = [f"thing {i}" for i in range(len(truth))]
        # The evaluator's boxes are edges. DenseCap counts pixels, so the edge is one past the last
        # pixel.
        edges = lambda b: torch.tensor(b + np.array([0, 0, 1, 1]))
        evaluator.add_result(torch.tensor(scores), edges(found), [str(i) for i in range(len(found))], edges(truth),
                             captions)
        photos.append({"truth": truth.tolist(), "found": found.tolist(), "scores": scores.tolist()})
    meteors = np.round(rng.uniform(0, 0.4, len(evaluator.records)), 3).tolist()
    evaluator.score_captions = lambda: (0.0, meteors)
    result = evaluator.evaluate()
    torch.sort = unstable
    write("dense.json", {"photos": photos, "meteors": meteors, "map": result["map"], "detection_map": result["detmap"]})


CAPTIONS = [
    ("A man riding a wave on top of a surfboard.", ["A surfer rides a large wave.", "The man is surfing in the ocean!"]),
    ("Two dogs (brown and white) run across the grass", ["Two dogs are running on grass.", "dogs running", "Brown dogs play"]),
    ("a red bus at platform b", ["A double-decker bus, red, drives down the street.", "It's a bus at Platform B."]),
    # The next caption's start decides whether the full stop above belongs to the B.
    ("nothing in common", ["A herd of zebras grazes near tall trees."]),
    ("A woman's hand holds 2 slices of pizza", ["A woman is holding two pizza slices in her hand."]),
]


def meteor():
    """METEOR from pycocoevalcap's own tokenizer and scorer."""
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()
    wanted = {str(i): [{"caption": text} for text in texts] for i, (_, texts) in enumerate(CAPTIONS)}
    found = {str(i): [{"caption": text}] for i, (text, _) in enumerate(CAPTIONS)}
    mean, each = Meteor().compute_score(tokenizer.tokenize(wanted), tokenizer.tokenize(found))
    write("meteor.json", {
        "references": {str(i): texts for i, (_, texts) in enumerate(CAPTIONS)},
        "candidates": [{"image_id": i, "caption": text} for i, (text, _) in enumerate(CAPTIONS)],
        "meteor": float(mean), "each": [float(score) for score in each],
    })


def archives():
    """Zip archives like ELEVATER's; the second has the 64-bit fields of large archives."""
    for name, limit in [("files.zip", zipfile.ZIP64_LIMIT), ("files_64.zip", 3)]:
        zipfile.ZIP64_LIMIT = limit
        with zipfile.ZipFile(HERE / name, "w") as archive:
            for path, method, text in [("a.txt", zipfile.ZIP_STORED, "stored"),
                                       ("in/b \u00e9.txt", zipfile.ZIP_DEFLATED, "".join(f"{i} " for i in range(2000)))]:
                archive.writestr(zipfile.ZipInfo(path), text, method)
            archive.comment = b"a comment"


TEXTS = [
    "a photo of a dog.", "Two men, holding 12 bats &amp; balls!", "it's the cat's toy; they're here", "",
    "  MANY   spaces\tand\nlines ", "naïve café – Zürich", "a very long text " * 12, "日本語 and emoji 🐕", "don't 'quote' 3/4",
]


def open_clip_models():
    import open_clip
    from open_clip.tokenizer import SimpleTokenizer, default_bpe
    from safetensors.torch import save_file

    merges = gzip.open(default_bpe()).read().decode("utf-8").split("\n")
    bpe = HERE / "bpe_small.txt.gz"
    with open(bpe, "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as file:
        file.write("\n".join(merges[:401]).encode("utf-8"))
    for name, context_length in [("clip", 16), ("coca", 15)]:
        tokenizer = SimpleTokenizer(bpe_path=str(bpe), context_length=context_length)
        text = dict(context_length=context_length, vocab_size=tokenizer.vocab_size, width=32, heads=2, layers=2)
        vision = dict(image_size=32, layers=2, width=32, head_width=16, patch_size=8)
        config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
        torch.manual_seed(3)
        if name == "clip":
            model = open_clip.model.CLIP(**config, quick_gelu=True)
            config["quick_gelu"] = True
        else:
            text |= {"embed_cls": True, "output_tokens": True}
            vision |= {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
            decoder = dict(context_length=context_length, vocab_size=tokenizer.vocab_size, width=32, heads=2, layers=1)
            model = open_clip.coca_model.CoCa(**config, multimodal_cfg=decoder)
            config["multimodal_cfg"] = decoder
        model.eval()
        for parameter in model.parameters():
            # Larger than fresh weights, so that every layer affects the result.
            torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim > 1 else 0.2)
        folder = HERE / name
        folder.mkdir(exist_ok=True)
        save_file({k: v.contiguous() for k, v in model.state_dict().items() if k != "attn_mask"},
                  folder / "open_clip_model.safetensors")
        preprocess = {"mean": [0.48, 0.45, 0.4], "std": [0.26, 0.26, 0.27], "resize_mode": "squash"}
        (folder / "open_clip_config.json").write_text(
            json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}, indent=1) + "\n")
        tokens = tokenizer(TEXTS)
        pixels = torch.randint(-16, 17, (2, 3, 32, 32), generator=torch.Generator().manual_seed(1)) / 8
        classes, templates = ["dog", "red boat"], ["a photo of a {}.", "art of the {}.", "{}"]
        with torch.no_grad():
            classifier = open_clip.build_zero_shot_classifier(
                model, tokenizer, classes, [lambda c, t=t: t.replace("{}", c) for t in templates], device="cpu")
            golden = {
                "texts": TEXTS, "token_ids": [tokenizer.encode(text) for text in TEXTS], "tokens": tokens.tolist(),
                "text_embed": model.encode_text(tokens, normalize=True).ravel().tolist(),
                "pixels": pixels.ravel().tolist(),
                "image_embed": model.encode_image(pixels, normalize=True).ravel().tolist(),
                "classes": classes, "templates": templates, "class_embed": classifier.T.ravel().tolist(),
            }
        write(f"{name}/golden.json", golden)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--densecap", required=True)
    args = parser.parse_args()
    retrieval()
    classification()
    dense(args.densecap)
    archives()
    meteor()
    open_clip_models()
