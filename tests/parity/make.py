#!/usr/bin/env python3
"""Makes this folder's checkpoints, golden values and pictures with the reference program.

    tests/parity/make.py PATH/mmgem_reference.py [CASE or LAYOUT ..]

Each case is a folder with case.json (description, inputs, the command lines that made it), a model
folder of random weights (config.json, model.safetensors, tokenizer.json) and golden.safetensors
(every stage for the inputs). Each layout (layouts.py) is a folder of `layouts` with the files of
another library's model; a file beside it has an input and the library's output. Running this
program again writes the same bytes.
"""
import argparse, importlib.util, json, math, os, runpy, shlex, shutil, sys, tempfile
import safetensors.torch
from PIL import Image, ImageDraw

HERE = os.path.dirname(os.path.abspath(__file__))
VISION = dict(image_size=32, patch_size=8, hidden_size=24, num_hidden_layers=1, num_attention_heads=2,
              mlp_ratio=4.0, hidden_act="gelu", proj_dim=16)
LLM = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
           vocab_size=320, max_position_embeddings=256, rms_norm_eps=1e-5, rope_theta=10000.0,
           tie_word_embeddings=False)
SMALL = dict(embed_dim=20, num_caption_prompts=8)
SHARPER = 12


def small(vision=None, llm=None, **other):
    is_lite = (vision or {}).get("model_type") == "efficientnet_lite"
    vision = vision if is_lite else {**VISION, **(vision or {})}
    return {**SMALL, **other, "vision": vision, "llm": {**LLM, **(llm or {})}}


# Config version 2.
VIT = dict(model_type="vit", layer_norm_eps=1e-5, class_token=True, ln_pre=True, ln_post=True)
BARE = {**VIT, **dict(layer_norm_eps=1e-6, ln_pre=False, num_hidden_layers=2, proj_dim=None)}
PAIR = dict(images=["square", "wide"], texts=["a dog runs over the green grass", "a red car"],
            boxes=["4,6,40,50", "0,0,64,64"])
CASES = {
    "tiny": dict(what="the preset `tiny` as it is", set=None, **PAIR),
    "quick_gelu": dict(what="OpenAI's activation", set=small(vision=dict(hidden_act="quick_gelu")), **PAIR),
    "cap_first": dict(what="[CAP] before the image, in both stages", set=small(caption_order="cap_first"), **PAIR),
    "grid_tokens": dict(what="the language model sees every patch", set=small(vision_tokens="grid"), **PAIR),
    "grouped_heads": dict(what="four query heads to a key head, two layers each", sharpen=True,
                          set=small(vision=dict(num_hidden_layers=2),
                                    llm=dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=8)), **PAIR),
    "multi_query": dict(what="one key head for all queries", set=small(llm=dict(num_key_value_heads=1)), **PAIR),
    "patches_of_16": dict(what="64 pixels in patches of 16", set=small(vision=dict(image_size=64, patch_size=16, hidden_size=16)),
                          **PAIR),
    "odd_grid": dict(what="5 by 5 patches; RoI 3 by 3 with one sample a bin",
                     set=small(vision=dict(image_size=40), roi_output_size=3, roi_sampling_ratio=1), **PAIR),
    "roi_4_samples_3": dict(what="RoI 4 by 4 with 3 by 3 samples a bin; boxes of less than a patch",
                            set=small(roi_output_size=4, roi_sampling_ratio=3), images=["portrait"],
                            texts=["two people", "the sea"], boxes=["3,4,5,7", "10.5,20.25,40.75,70.5", "0,0,45,80"]),
    "crop_16_9": dict(what="shortest side and centre crop; boxes at the border, over it, in what is cut off",
                      set=small(resize_mode="crop"), images=["wide", "portrait"],
                      texts=["two people ride bikes on a street", "a dog"],
                      boxes=["0,0,96,54", "-20,-10,60,30", "70,20,130,90", "0,0,12,54", "21,0,75,54"]),
    "crop_line": dict(what="an image one pixel high and a grey one, cropped", set=small(resize_mode="crop"),
                      images=["line", "grey"], texts=["a line", "grey"], boxes=["10,0,30,1"]),
    "squash_line": dict(what="an image one pixel high and a portrait, squashed", set=small(),
                        images=["line", "portrait"], texts=["a line", "a tower"], boxes=["0,0,40,1", "-500,0,-400,1"]),
    "uneven_texts": dict(what="one token, none, and more than max_text_len", set=small(max_text_len=12),
                         images=["square", "wide", "portrait"],
                         texts=["a", "", "Über 47 dogs; they run, and the sea is near a street 🚲"],
                         boxes=["4,6,40,50"]),
    "embed_dim_56": dict(what="a joint space wider than both models", set=small(embed_dim=56), **PAIR),
    "rope_theta": dict(what="other rotary base and norm epsilon", sharpen=True,
                       set=small(llm=dict(rope_theta=500000.0, rms_norm_eps=1e-6, num_hidden_layers=2)), **PAIR),
    "tied": dict(what="the output head is the token embedding", set=small(llm=dict(tie_word_embeddings=True)), **PAIR),
    "mlp_ratio": dict(what="an MLP of 2.6667 times the width", set=small(vision=dict(mlp_ratio=2.6667)), **PAIR),
    "clamped_scale": dict(what="a temperature at its bound, where its gradient ends",
                          set=small(logit_scale_init=5.0), **PAIR),
    "imported": dict(what="with the files it was assembled from, and open_clip's own results",
                     set=small(vision=dict(num_hidden_layers=2), llm=dict(num_hidden_layers=2)), **PAIR),
    "roi_tokens": dict(what="config version 2; the language model sees RoIAlign of the whole image", tower="open_clip",
                       set=small(vision=VIT, vision_tokens="roi", roi_output_size=3), **PAIR),
    "siglip": dict(what="transformers' SiglipVisionModel: no class token, no norm before the blocks, GELU by tanh",
                   tower="siglip", set=small(vision={**BARE, **dict(class_token=False, hidden_act="gelu_pytorch_tanh",
                                                                    layer_norm_eps=1e-3)}), **PAIR),
    "dinov2": dict(what="transformers' Dinov2Model: LayerScale and the bias of the patches are folded", tower="dinov2",
                   set=small(vision=BARE, vision_tokens="grid"), **PAIR),
    "lite_45": dict(what="timm's EfficientNet-Lite at 45 px: sides of 23, 12, 6, 3, 2", tower="lite", sixteen_bits=True,
                    set=small(vision=dict(model_type="efficientnet_lite", image_size=45, width_coefficient=0.1,
                                          depth_coefficient=0.5, hidden_size=40)),
                    # One text only, so this case has no gradients; lite_33 has them. Here they
                    # depend on the order of summation, presumably because an input of a ReLU6
                    # lies within rounding of its bound.
                    **{**PAIR, "texts": PAIR["texts"][:1]}),
    "lite_33": dict(what="a wider and deeper EfficientNet-Lite at 33 px, odd at every stride; RoI tokens", tower="lite",
                    sixteen_bits=True,
                    set=small(vision=dict(model_type="efficientnet_lite", image_size=33, width_coefficient=0.15,
                                          depth_coefficient=0.7, hidden_size=24),
                              vision_tokens="roi", roi_output_size=2, resize_mode="crop"), **PAIR),
    "llama3": dict(what="rotary positions stretched as Llama 3.1's, heads wider than the model, biases everywhere",
                   tower="open_clip", sharpen=True,
                   set=small(vision=VIT, llm=dict(num_hidden_layers=2, head_dim=12, attention_bias=True, mlp_bias=True,
                                                  rope_scaling=dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0,
                                                                    high_freq_factor=4.0,
                                                                    original_max_position_embeddings=16))), **PAIR),
    "linear_rope": dict(what="rotary positions stretched linearly", tower="open_clip", sharpen=True,
                        set=small(vision=VIT, llm=dict(rope_scaling=dict(rope_type="linear", factor=4.0))), **PAIR),
}


def draw_images(folder):
    """Draws colour gradients and shapes: smooth parts, hard edges and single pixels."""
    os.makedirs(folder, exist_ok=True)
    for name, (w, h) in dict(square=(64, 64), wide=(96, 54), portrait=(45, 80), line=(40, 1), grey=(50, 40)).items():
        im = Image.new("RGB", (w, h))
        im.putdata([(255 * x // max(w - 1, 1), 255 * y // max(h - 1, 1), (x * 7 + y * 13) % 256)
                    for y in range(h) for x in range(w)])
        d = ImageDraw.Draw(im)
        if h > 1:
            d.ellipse((w // 6, h // 5, w // 2, h // 2), fill=(240, 40, 30))
            d.rectangle((w // 2, h // 2, w - 6, h - 4), fill=(20, 60, 220), outline=(255, 255, 255))
            d.line((0, h - 1, w - 1, 0), fill=(0, 0, 0))
            d.point((w - 2, 1), fill=(255, 255, 0))
        (im.convert("L") if name == "grey" else im).save(f"{folder}/{name}.png", optimize=True)


def reference(program, args):
    """Runs the reference's command line in this process, because torch takes seconds to load."""
    argv, sys.argv = sys.argv, [program, *args]
    try:
        runpy.run_path(program, run_name="__main__")
    finally:
        sys.argv = argv


def let_heads_be_tied():
    """Patches safetensors so that the reference can save and load a tied head.

    The reference saves every tensor of the state dict, and safetensors rejects two names of one
    tensor. As Hugging Face does, the file leaves the head out; loading puts it back.
    """
    save, load = safetensors.torch.save_file, safetensors.torch.load_file
    head, embed = "llm.lm_head.weight", "llm.model.embed_tokens.weight"

    def save_file(tensors, path, **options):
        if head in tensors and tensors[head].data_ptr() == tensors[embed].data_ptr():
            tensors = {k: v for k, v in tensors.items() if k != head}
        save(tensors, path, **options)

    def load_file(path):
        tensors = load(path)
        if embed in tensors and head not in tensors:
            tensors[head] = tensors[embed]
        return tensors

    safetensors.torch.save_file, safetensors.torch.load_file = save_file, load_file


def sharpen(path):
    """Scales the query and key weights, so that a wrong rotary base changes the result.

    Fresh Llama weights attend almost evenly at every position.
    """
    tensors = safetensors.torch.load_file(path)
    for name in tensors:
        if "q_proj" in name or "k_proj" in name:
            tensors[name] *= SHARPER
    safetensors.torch.save_file(tensors, path)


def open_clips_own(program, case, folder, scratch):
    """Writes the extra files of the case `imported`.

    These are the files of OpenCLIP and Hugging Face, open_clip's embedding of the golden pixels,
    and its interpolation of the positions to other grids.
    """
    import torch
    from types import SimpleNamespace
    from open_clip.model import resize_pos_embed
    for name in ("open_clip.safetensors", "llm/config.json", "llm/model.safetensors", "llm/tokenizer.json"):
        os.makedirs(os.path.dirname(f"{folder}/{name}"), exist_ok=True)
        shutil.copy(f"{scratch}/{name}", f"{folder}/{name}")
    model, _ = runpy.run_path(program)["load"](folder)
    with torch.no_grad():
        class_features, _ = model.visual(safetensors.torch.load_file(f"{folder}/golden.safetensors")["pixels"])
    out = dict(class_features=class_features)
    for grid in (3, 4, 7, 14):
        state = {"visual.positional_embedding": model.visual.positional_embedding.detach().clone()}
        resize_pos_embed(state, SimpleNamespace(visual=SimpleNamespace(grid_size=(grid, grid))))
        out[f"positions_{grid}"] = state["visual.positional_embedding"].contiguous()
    safetensors.torch.save_file(out, f"{folder}/open_clip_golden.safetensors")


def extended(program):
    """The reference with config version 2's additions: encoders, RoI tokens, Llama's switches."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from towers import TOWERS
    spec = importlib.util.spec_from_file_location("mmgem_reference", program)
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)

    class Extended(reference.MmGem):
        def __init__(self, cfg, tower):
            v, l = cfg["vision"], dict(cfg["llm"])
            # The lines below replace this encoder and this language model.
            stand_in = dict(image_size=8, patch_size=8, hidden_size=v["hidden_size"], num_hidden_layers=1,
                            num_attention_heads=1, mlp_ratio=1.0, hidden_act="gelu", proj_dim=8)
            super().__init__({**cfg, "vision": stand_in, "llm": {k: l[k] for k in LLM}})
            self.cfg, self.visual = cfg, TOWERS[tower](v)
            rope = dict(rope_type="default") if l["rope_scaling"] is None else l["rope_scaling"]
            l = {k: x for k, x in l.items() if k not in ("rope_scaling", "rope_theta") and x is not None}
            self.llm = LlamaForCausalLM(LlamaConfig(
                **l, rope_parameters={**rope, "rope_theta": cfg["llm"]["rope_theta"]}))

        def feature_map(self, pixels):
            return self.visual(pixels)

        def visual_context(self, fmap, stage2=False):
            if not stage2 and self.cfg["vision_tokens"] == "roi":
                side = float(self.cfg["vision"]["image_size"])
                fmap, stage2 = self.roi(fmap, torch.tensor([[i, 0, 0, side, side] for i in range(len(fmap))])), True
            return super().visual_context(fmap, stage2)

        def named_parameters(self, *args, **options):
            """Adds open_clip's name of the first layer, under which `run` asks for its gradient."""
            yield from super().named_parameters(*args, **options)
            yield "visual.conv1.weight", self.visual.first_weight()

    return reference, Extended


def make_extended(program, name, case):
    """Makes a case with config version 2: this file builds the model, the reference runs it."""
    import torch
    reference, Extended = extended(program)
    folder = f"{HERE}/{name}"
    torch.manual_seed(1 + list(CASES).index(name))
    cfg = {**reference.COMMON, **json.loads(json.dumps(case["set"])), "version": 2}
    cfg["llm"] = {**cfg["llm"], **{k: cfg["llm"].get(k, x) for k, x in dict(
        head_dim=None, rope_scaling=None, attention_bias=False, mlp_bias=False).items()}}
    model = Extended(cfg, case["tower"]).eval()
    with torch.no_grad():
        for part, p in model.named_parameters():
            if not part.startswith("visual.") and ("norm" in part or part.endswith("bias")):
                p.add_(torch.randn_like(p) * 0.05)
            if case.get("sharpen") and ("q_proj" in part or "k_proj" in part) and part.endswith("weight"):
                p.mul_(SHARPER)
            if case.get("sixteen_bits"):
                p.copy_(p.half().float())
    tensors = {k: x for k, x in model.state_dict().items() if not (k.startswith("visual.") or "rotary_emb" in k)}
    tensors |= {f"visual.{k}": x for k, x in model.visual.ours().items()}
    tensors = {k: (x.half() if case.get("sixteen_bits") else x).contiguous() for k, x in tensors.items()}
    safetensors.torch.save_file(tensors, f"{folder}/model.safetensors")
    tok = reference.byte_tokenizer(cfg["llm"]["vocab_size"])
    tok.save(f"{folder}/tokenizer.json")
    cfg["bos_token_id"], cfg["eos_token_id"] = tok.token_to_id("<s>"), tok.token_to_id("</s>")
    with open(f"{folder}/config.json", "w") as f:
        json.dump(cfg, f, indent=2)
    reference.load = lambda path: (model, cfg)
    golden = f"{folder}/golden.safetensors"
    reference.run(argparse.Namespace(model=folder, image=[f"{HERE}/images/{i}.png" for i in case["images"]],
                                     text=case["texts"], box=case["boxes"], steps=12, out=golden))
    if case["tower"] == "lite":
        out = safetensors.torch.load_file(golden)
        if out.pop("grad.visual.conv1.weight", None) is not None:
            out |= {f"grad.visual.{k}": x.contiguous() for k, x in model.visual.gradients()}
        safetensors.torch.save_file(out, golden)
    return [f"tests/parity/make.py PATH/mmgem_reference.py {name}"]


def make(program, name, case):
    folder = f"{HERE}/{name}"
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    lines = (make_extended if "tower" in case else make_plain)(program, name, case)
    doc = dict(what=case["what"], made_by=lines, images=case["images"], texts=case["texts"],
               boxes=[[float(c) for c in b.split(",")] for b in case["boxes"]], steps=12)
    with open(f"{folder}/case.json", "w") as f:
        json.dump(doc, f, indent=2, ensure_ascii=False)
        f.write("\n")
    readable(folder)


def make_layout(name, write, seed):
    import torch
    folder = f"{HERE}/layouts/{name}"
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    torch.manual_seed(seed)
    write(folder)
    readable(os.path.dirname(folder))
    print(name, sum(os.path.getsize(f"{folder}/{file}") for file in os.listdir(folder)))


def readable(folder):
    """Makes the files readable for all; safetensors writes them with mode 600."""
    for path, _, files in os.walk(folder):
        for file in files:
            os.chmod(f"{path}/{file}", 0o644)


def make_plain(program, name, case):
    folder = f"{HERE}/{name}"
    with tempfile.TemporaryDirectory() as scratch:
        first = ["make", "--preset", "tiny", "--seed", str(1 + list(CASES).index(name))]
        first += ["--set", json.dumps(case["set"])] if case["set"] else []
        reference(program, first + ["--out", scratch])
        for file in ("config.json", "model.safetensors", "tokenizer.json"):
            shutil.copy(f"{scratch}/{file}", f"{folder}/{file}")
        if case.get("sharpen"):
            sharpen(f"{folder}/model.safetensors")
        then = ["run", "--model", folder]
        for flag, values in (("image", [f"{HERE}/images/{i}.png" for i in case["images"]]),
                             ("text", case["texts"]), ("box", case["boxes"])):
            then += [f"--{flag}={v}" for v in values]
        reference(program, then + ["--out", f"{folder}/golden.safetensors"])
        if name == "imported":
            open_clips_own(program, case, folder, scratch)
    relative = [a.replace(f"{HERE}/", "tests/parity/") for a in then]
    lines = [shlex.join(["mmgem_reference.py", *first, "--out", f"tests/parity/{name}"]),
             shlex.join(["mmgem_reference.py", *relative, "--out", f"tests/parity/{name}/golden.safetensors"])]
    if case.get("sharpen"):
        lines.insert(1, f"make.py: every q_proj and k_proj times {SHARPER}")
    return lines


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    let_heads_be_tied()
    draw_images(f"{HERE}/images")
    from layouts import LAYOUTS
    for name in sys.argv[2:] or [*CASES, *LAYOUTS]:
        if name in CASES:
            make(os.path.abspath(sys.argv[1]), name, CASES[name])
        else:
            make_layout(name, LAYOUTS[name], list(LAYOUTS).index(name))
