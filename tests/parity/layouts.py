"""Writes small models of other libraries as their published files, with an input and its output.

Each layout is a folder of `layouts/` that has only the published files. NAME.safetensors beside it
has the input, and the library's V (patch tokens) or logits.
"""
import json, os
import torch
from safetensors.torch import save_file
from towers import as_saved, off_their_defaults, timm_lite

SIZES = dict(hidden_size=16, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8)
CROP = dict(do_resize=True, size=dict(shortest_edge=32), do_center_crop=True, crop_size=dict(height=32, width=32),
            do_rescale=True, rescale_factor=1 / 255, do_normalize=True, image_mean=[0.48145466, 0.4578275, 0.40821073],
            image_std=[0.26862954, 0.26130258, 0.27577711], resample=3)


def write_json(folder, name, value):
    with open(f"{folder}/{name}", "w") as f:
        json.dump(value, f, indent=1)
        f.write("\n")


def golden(folder, pixels, patches):
    """Writes the pixels and V; `patches` is [1, patches, width]."""
    save_file(dict(pixels=pixels.contiguous(), v=patches.detach().contiguous()), f"{folder}.safetensors")


def a_picture(side=32):
    return torch.randn(1, 3, side, side)


# ---- open_clip --------------------------------------------------------------------------------------------------

def open_clip(folder, model_cfg, preprocess_cfg=None, save=None):
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
    model = CLIP(model_cfg["embed_dim"], CLIPVisionCfg(**model_cfg["vision_cfg"], output_tokens=True),
                 CLIPTextCfg(**model_cfg["text_cfg"]), quick_gelu=model_cfg.get("quick_gelu", False)).eval()
    off_their_defaults(model)
    root = dict(model_cfg=model_cfg)
    if preprocess_cfg:
        root["preprocess_cfg"] = preprocess_cfg
    write_json(folder, "open_clip_config.json", root)
    state = {k: x.contiguous() for k, x in model.state_dict().items() if k != "attn_mask"}
    (save or (lambda state, folder: save_file(state, f"{folder}/open_clip_model.safetensors")))(state, folder)
    pixels = a_picture()
    golden(folder, pixels, model.visual(pixels)[1])


TEXT_CFG = dict(context_length=8, vocab_size=20, width=8, heads=1, layers=1)


def open_clip_quick_gelu(folder):
    """Another head width, LayerScale, QuickGELU, its own pixel mean and deviation."""
    open_clip(folder, dict(embed_dim=12, quick_gelu=True, text_cfg=TEXT_CFG,
                           vision_cfg=dict(image_size=32, layers=2, width=16, head_width=4, patch_size=8, mlp_ratio=2.5,
                                           ls_init_value=0.1)),
              dict(size=32, mode="RGB", mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4], interpolation="bicubic",
                   resize_mode="squash"))


def open_clip_clipa(folder):
    """CLIPA's variant in a training checkpoint.

    It has no norm before the blocks and fixed positions. The norm after them applies to the mean,
    not to V.
    """
    def save(state, folder):
        torch.save(dict(epoch=3, name="run", state_dict={f"module.{k}": x for k, x in state.items()},
                        optimizer=dict(state={0: dict(exp_avg=torch.ones(3))})), f"{folder}/epoch_3.pt")
    open_clip(folder, dict(embed_dim=12, text_cfg=TEXT_CFG,
                           vision_cfg=dict(image_size=32, layers=2, width=16, head_width=8, patch_size=8, mlp_ratio=2.0,
                                           no_ln_pre=True,
                                           pos_embed_type="sin_cos_2d", pool_type="avg", final_ln_after_pool=True,
                                           act_kwargs=dict(approximate="tanh"), norm_kwargs=dict(eps=1e-3))), save=save)


# ---- transformers -----------------------------------------------------------------------------------------------

def text_sizes(kind):
    return kind(hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, vocab_size=20,
                max_position_embeddings=8, bos_token_id=0, eos_token_id=1, pad_token_id=1)


def clip_model(folder):
    """CLIPModel with another epsilon and activation, and the text tower in the same file."""
    import transformers as t
    vision = t.CLIPVisionConfig(**SIZES, projection_dim=12, hidden_act="gelu", layer_norm_eps=1e-3)
    model = off_their_defaults(t.CLIPModel(t.CLIPConfig(
        text_config=text_sizes(t.CLIPTextConfig).to_dict(), vision_config=vision.to_dict(), projection_dim=12)).eval())
    model.save_pretrained(folder)
    write_json(folder, "preprocessor_config.json", CROP)
    pixels = a_picture()
    tokens = model.vision_model(pixels).last_hidden_state[:, 1:]
    golden(folder, pixels, model.vision_model.post_layernorm(tokens))


def clip_vision(folder):
    """CLIPVisionModel: tensor names without a prefix, and QuickGELU, transformers' default."""
    import transformers as t
    model = off_their_defaults(t.CLIPVisionModel(t.CLIPVisionConfig(**SIZES)).eval())
    model.save_pretrained(folder)
    write_json(folder, "preprocessor_config.json", {**CROP, "image_mean": [0.5] * 3, "image_std": [0.25] * 3})
    pixels = a_picture()
    golden(folder, pixels, model.post_layernorm(model(pixels).last_hidden_state[:, 1:]))


def clip_vision_with_projection(folder):
    """CLIPVisionModelWithProjection in shards."""
    import transformers as t
    model = off_their_defaults(t.CLIPVisionModelWithProjection(t.CLIPVisionConfig(**SIZES, projection_dim=12)).eval())
    model.save_pretrained(folder, max_shard_size="12KB")
    pixels = a_picture()
    golden(folder, pixels, model.vision_model.post_layernorm(model(pixels).last_hidden_state[:, 1:]))


def siglip_vision(folder):
    """SiglipVisionModel with its pooling head, in the file format of PyTorch before 1.6."""
    import transformers as t
    model = off_their_defaults(t.SiglipVisionModel(t.SiglipVisionConfig(**SIZES)).eval())
    model.config.save_pretrained(folder)
    state = {f"vision_model.{k}": x for k, x in as_saved(model).items()}
    torch.save(state, f"{folder}/pytorch_model.bin", _use_new_zipfile_serialization=False)
    write_json(folder, "preprocessor_config.json", dict(
        do_resize=True, size=dict(height=32, width=32), do_rescale=True, rescale_factor=1 / 255, do_normalize=True,
        image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=3))
    pixels = a_picture()
    golden(folder, pixels, model(pixels).last_hidden_state)


def dinov2_model(folder):
    """Dinov2Model in 16 bits, in PyTorch's present file format.

    Its preprocessor's images are larger than the image size of its positions.
    """
    import transformers as t
    sizes = {**SIZES, "image_size": 40}
    del sizes["intermediate_size"]
    model = off_their_defaults(t.Dinov2Model(t.Dinov2Config(**sizes, mlp_ratio=2)).eval())
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.half().float())
    model.config.save_pretrained(folder)
    torch.save({k: x.half() for k, x in as_saved(model).items()}, f"{folder}/pytorch_model.bin")
    write_json(folder, "preprocessor_config.json", {
        **CROP, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
        "size": dict(shortest_edge=64), "crop_size": dict(height=56, width=56)})
    pixels = a_picture(56)
    golden(folder, pixels, model(pixels).last_hidden_state[:, 1:])


# ---- timm -------------------------------------------------------------------------------------------------------

def timm_config(folder, architecture, mean, std, side=32, **model_args):
    write_json(folder, "config.json", dict(
        architecture=architecture, num_classes=3, model_args=model_args,
        pretrained_cfg=dict(input_size=[3, side, side], mean=mean, std=std, interpolation="bicubic", crop_pct=0.9,
                            crop_mode="center", num_classes=3)))


def timm_vit(folder, architecture, save, **model_args):
    import timm
    args = dict(img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, **model_args)
    model = off_their_defaults(timm.create_model(architecture, num_classes=3, **args).eval())
    timm_config(folder, architecture, [0.5] * 3, [0.5] * 3, **args)
    save({k: x.contiguous() for k, x in model.state_dict().items()}, folder)
    pixels = a_picture()
    golden(folder, pixels, model.forward_features(pixels)[:, model.num_prefix_tokens:])


def timm_plain(folder):
    """A ViT with LayerScale, in a training checkpoint whose tensor names have a prefix."""
    timm_vit(folder, "vit_tiny_patch16_224", init_values=0.1, save=lambda state, folder: torch.save(
        dict(epoch=1, arch="vit", state_dict={f"module.{k}": x for k, x in state.items()}), f"{folder}/checkpoint.pth"))


def timm_clip(folder):
    """CLIP under timm's names: a norm before the blocks, QuickGELU, another epsilon."""
    timm_vit(folder, "vit_base_patch32_clip_quickgelu_224",
             save=lambda state, folder: save_file(state, f"{folder}/model.safetensors"))


def timm_deit3(folder):
    """DeiT III: the class token has no position; the last norm applies to the mean, not to V."""
    timm_vit(folder, "deit3_small_patch16_224", global_pool="avg",
             save=lambda state, folder: save_file(state, f"{folder}/model.safetensors"))


def open_clip_trunk(folder):
    """SigLIP in OpenCLIP's files: timm's encoder under `visual.trunk`, GELU in its tanh form."""
    def save(state, folder):
        state = {f"visual.trunk.{k}": x for k, x in state.items()}
        state |= {"logit_scale": torch.ones([]), "logit_bias": torch.zeros([]), "text.ln_final.weight": torch.ones(4)}
        save_file(state, f"{folder}/open_clip_model.safetensors")
    timm_vit(folder, "vit_so400m_patch16_siglip_256", save=save)
    os.remove(f"{folder}/config.json")
    write_json(folder, "open_clip_config.json", dict(
        model_cfg=dict(embed_dim=16, text_cfg=TEXT_CFG, custom_text=True, init_logit_bias=-10,
                       vision_cfg=dict(image_size=32, timm_model_name="vit_so400m_patch16_siglip_256",
                                       timm_model_pretrained=False, timm_pool="map", timm_proj="none")),
        preprocess_cfg=dict(mean=[0.5] * 3, std=[0.5] * 3, interpolation="bicubic", resize_mode="squash")))


def timm_efficientnet_lite(folder):
    """tf_efficientnet_lite in 16 bits, with its batch norms and its classifier."""
    model = timm_lite(0.1, 0.5, 40, 45).half().float()
    timm_config(folder, "tf_efficientnet_lite0", [0.5] * 3, [0.5] * 3, side=45)
    save_file({k: x.half().contiguous() if x.is_floating_point() else x for k, x in model.state_dict().items()},
              f"{folder}/model.safetensors")
    pixels = a_picture(45)
    golden(folder, pixels, model.forward_features(pixels).flatten(2).transpose(1, 2))


# ---- Llama ------------------------------------------------------------------------------------------------------

LLAMA = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             vocab_size=40, max_position_embeddings=128, bos_token_id=1, eos_token_id=2)


def llama(folder, save, **config):
    from transformers import LlamaConfig, LlamaForCausalLM
    model = off_their_defaults(LlamaForCausalLM(LlamaConfig(**LLAMA, **config)).eval())
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ("q_proj" in name or "k_proj" in name) and name.endswith("weight"):
                p.mul_(12)  # fresh weights attend almost evenly at every position
    save(model, folder)
    ids = torch.randint(3, 40, (1, 60))
    save_file(dict(ids=ids, logits=model(ids).logits.detach().contiguous()), f"{folder}.safetensors")


def llama_3(folder):
    """LlamaForCausalLM with Llama 3.1's rotary scaling, biases and wide heads, in shards."""
    llama(folder, lambda model, folder: model.save_pretrained(folder, max_shard_size="12KB"),
          head_dim=6, attention_bias=True, mlp_bias=True,
          rope_parameters=dict(rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                               original_max_position_embeddings=16))


def llama_base(folder):
    """LlamaModel with the keys of older config files.

    Tensor names lack `model.`, the tied head is absent from the file, and rotary positions are
    scaled linearly.
    """
    def save(model, folder):
        model.config.save_pretrained(folder)
        config = json.load(open(f"{folder}/config.json"))
        rope = config.pop("rope_parameters")
        config |= dict(rope_theta=rope["rope_theta"], rope_scaling=dict(type="linear", factor=rope["factor"]))
        write_json(folder, "config.json", config)
        state = {k.removeprefix("model."): x for k, x in model.state_dict().items() if k != "lm_head.weight"}
        torch.save(state, f"{folder}/pytorch_model.bin")
    llama(folder, save, tie_word_embeddings=True,
          rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=4.0))


LAYOUTS = {f.__name__: f for f in (
    open_clip_quick_gelu, open_clip_clipa, open_clip_trunk, clip_model, clip_vision, clip_vision_with_projection, siglip_vision,
    dinov2_model, timm_plain, timm_clip, timm_deit3, timm_efficientnet_lite, llama_3, llama_base)}
