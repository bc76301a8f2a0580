"""Loads folders of `mmgem export --layout` in the libraries they are for, and runs the towers.

FOLDER has one folder for each model, with `input.safetensors` (pixels, ids), and `open-clip/` or
`hf/` or both. `output.safetensors` gets V and, if the model has them, features and logits of each.
"""
import json, os, sys
import torch
from safetensors.torch import load_file, save_file


def open_clip(folder, pixels):
    import open_clip
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    visual = model.eval().visual
    out = {"open_clip.features": model.encode_image(pixels)}
    if hasattr(visual, "trunk"):
        out["open_clip.v"] = visual.trunk.forward_features(pixels).flatten(2).transpose(1, 2)
    else:
        visual.output_tokens = True
        out["open_clip.v"] = visual(pixels)[1]
    return out


def pretrained(kind, folder):
    """A model of transformers all of whose weights are in the files, and no others."""
    model, info = kind.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    problems = {key: sorted(map(str, value)) for key, value in info.items() if value}
    assert not problems, f"{folder}: {problems}"
    return model.eval()


def timm_lite(folder, config):
    import timm
    if config["architecture"] and config["num_features"] == 1280:
        return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    import timm.models.efficientnet as E
    width, depth = json.load(open(f"{folder}/../../sizes.json"))
    create = E._create_effnet
    E._create_effnet = lambda variant, pretrained=False, **kw: create(
        variant, pretrained, **{**kw, "num_features": config["num_features"]})
    try:
        model = E._gen_efficientnet_lite("tf_efficientnet_lite0", width, depth, num_classes=0,
                                         bn_eps=E.BN_EPS_TF_DEFAULT, pad_type="same")
    finally:
        E._create_effnet = create
    model.load_state_dict(load_file(f"{folder}/model.safetensors"))
    return model.eval()


def vision(folder, pixels):
    import transformers
    config = json.load(open(f"{folder}/config.json"))
    if "architecture" in config:
        return {"hf.v": timm_lite(folder, config).forward_features(pixels).flatten(2).transpose(1, 2)}
    name = config["architectures"][0]
    model = pretrained(getattr(transformers, name), folder)
    hidden = model(pixels)
    if name == "CLIPVisionModelWithProjection":
        return {"hf.v": model.vision_model.post_layernorm(hidden.last_hidden_state[:, 1:]),
                "hf.features": hidden.image_embeds}
    if name == "CLIPVisionModel":
        inner = getattr(model, "vision_model", model)
        return {"hf.v": inner.post_layernorm(hidden.last_hidden_state[:, 1:])}
    before = 1 if name == "Dinov2Model" else 0
    return {"hf.v": hidden.last_hidden_state[:, before:]}


def language(folder, ids, text):
    import transformers
    model = pretrained(transformers.AutoModelForCausalLM, folder)
    assert type(model).__name__ == "LlamaForCausalLM", type(model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    return {"hf.logits": model(ids).logits, "hf.tokens": torch.tensor(tokens, dtype=torch.float32)}


@torch.no_grad()
def main(root):
    for name in sorted(os.listdir(root)):
        folder = f"{root}/{name}"
        given = load_file(f"{folder}/input.safetensors")
        pixels, ids = given["pixels"], given["ids"].long()
        out = {}
        if os.path.exists(f"{folder}/open-clip"):
            out |= open_clip(f"{folder}/open-clip", pixels)
        if os.path.exists(f"{folder}/hf"):
            out |= vision(f"{folder}/hf/vision", pixels)
            out |= language(f"{folder}/hf/language", ids, open(f"{folder}/text.txt").read())
        save_file({key: x.float().contiguous() for key, x in out.items()}, f"{folder}/output.safetensors")


main(sys.argv[1])
