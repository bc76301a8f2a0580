"""Small image encoders of other libraries with random weights: make.py's source of golden values.

Each library builds its own encoder and computes the patch tokens. No library code is copied here.
"""
import torch, torch.nn as nn


def off_their_defaults(module):
    """Randomises norms, biases, scales and learned tokens, which start as constants."""
    with torch.no_grad():
        for name, p in module.named_parameters():
            part = name.split(".")[-1]
            if "ln_" in name or "norm" in name or part in ("bias", "in_proj_bias"):
                p.add_(torch.randn_like(p) * 0.05)
            elif part in ("gamma", "lambda1"):
                p.copy_(0.5 + torch.rand_like(p))
            elif part in ("cls_token", "pos_embed", "position_embeddings", "probe"):
                p.copy_(torch.randn_like(p) * 0.2)
    return module


def as_map(tokens):
    """[b, g*g, c] -> [b, c, g, g]"""
    b, n, c = tokens.shape
    g = int(n ** 0.5)
    return tokens.transpose(1, 2).reshape(b, c, g, g)


# ---- transformers -----------------------------------------------------------------------------------------------

def hf_sizes(v):
    return dict(hidden_size=v["hidden_size"], num_hidden_layers=v["num_hidden_layers"],
                num_attention_heads=v["num_attention_heads"], image_size=v["image_size"], patch_size=v["patch_size"],
                hidden_act=v["hidden_act"], layer_norm_eps=v["layer_norm_eps"])


def as_saved(model):
    """The tensors under the names of published files, which may differ from the names in memory."""
    import tempfile
    from safetensors.torch import load_file
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(f"{folder}/model.safetensors")


class Siglip(nn.Module):
    """No class token, no norm before the blocks, a bias in the patch embedding, tanh GELU."""

    def __init__(self, v):
        super().__init__()
        import transformers
        width = int(v["hidden_size"] * v["mlp_ratio"])
        self.model = off_their_defaults(transformers.SiglipVisionModel(
            transformers.SiglipVisionConfig(intermediate_size=width, **hf_sizes(v))).eval())

    def forward(self, pixels):
        return as_map(self.model(pixels).last_hidden_state)

    def first_weight(self):
        return self.model.embeddings.patch_embedding.weight

    def ours(self):
        state = as_saved(self.model)
        positions = state["embeddings.position_embedding.weight"] + state["embeddings.patch_embedding.bias"]
        out = {"conv1.weight": state["embeddings.patch_embedding.weight"], "positional_embedding": positions}
        for i in range(self.model.config.num_hidden_layers):
            theirs, block = f"encoder.layers.{i}.", f"transformer.resblocks.{i}."
            for kind in ("weight", "bias"):
                out[f"{block}attn.in_proj_{kind}"] = torch.cat(
                    [state[f"{theirs}self_attn.{p}_proj.{kind}"] for p in "qkv"])
                for new, old in (("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"), ("attn.out_proj", "self_attn.out_proj"),
                                 ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2")):
                    out[f"{block}{new}.{kind}"] = state[f"{theirs}{old}.{kind}"]
        for kind in ("weight", "bias"):
            out[f"ln_post.{kind}"] = state[f"post_layernorm.{kind}"]
        return out


class Dinov2(nn.Module):
    """A class token, no norm before the blocks, LayerScale."""

    def __init__(self, v):
        super().__init__()
        import transformers
        self.model = off_their_defaults(transformers.Dinov2Model(
            transformers.Dinov2Config(mlp_ratio=int(v["mlp_ratio"]), **hf_sizes(v))).eval())

    def forward(self, pixels):
        return as_map(self.model(pixels).last_hidden_state[:, 1:])

    def first_weight(self):
        return self.model.embeddings.patch_embeddings.projection.weight

    def ours(self):
        state = as_saved(self.model)
        positions = state["embeddings.position_embeddings"][0].clone()
        positions[1:] += state["embeddings.patch_embeddings.projection.bias"]
        out = {"conv1.weight": state["embeddings.patch_embeddings.projection.weight"],
               "class_embedding": state["embeddings.cls_token"].flatten(), "positional_embedding": positions}
        for i in range(self.model.config.num_hidden_layers):
            theirs, block = f"encoder.layer.{i}.", f"transformer.resblocks.{i}."
            for kind in ("weight", "bias"):
                scale = [state[f"{theirs}layer_scale{n}.lambda1"] for n in (1, 2)]
                scale = [s[:, None] for s in scale] if kind == "weight" else scale
                out[f"{block}attn.in_proj_{kind}"] = torch.cat(
                    [state[f"{theirs}attention.attention.{p}.{kind}"] for p in ("query", "key", "value")])
                out[f"{block}attn.out_proj.{kind}"] = scale[0] * state[f"{theirs}attention.output.dense.{kind}"]
                out[f"{block}mlp.c_proj.{kind}"] = scale[1] * state[f"{theirs}mlp.fc2.{kind}"]
                for new, old in (("ln_1", "norm1"), ("ln_2", "norm2"), ("mlp.c_fc", "mlp.fc1")):
                    out[f"{block}{new}.{kind}"] = state[f"{theirs}{old}.{kind}"]
        for kind in ("weight", "bias"):
            out[f"ln_post.{kind}"] = state[f"layernorm.{kind}"]
        return out


# ---- open_clip --------------------------------------------------------------------------------------------------

class OpenClip(nn.Module):
    """The reference's own encoder, under the keys of config version 2."""

    def __init__(self, v):
        super().__init__()
        from open_clip.transformer import VisionTransformer
        self.model = off_their_defaults(VisionTransformer(
            image_size=v["image_size"], patch_size=v["patch_size"], width=v["hidden_size"],
            layers=v["num_hidden_layers"], heads=v["num_attention_heads"], mlp_ratio=v["mlp_ratio"],
            output_dim=v["proj_dim"], output_tokens=True).eval())

    def forward(self, pixels):
        return as_map(self.model(pixels)[1])

    def first_weight(self):
        return self.model.conv1.weight

    def ours(self):
        return dict(self.model.state_dict())


# ---- timm -------------------------------------------------------------------------------------------------------

def timm_lite(width, depth, features, image_size):
    """timm's EfficientNet-Lite of any width and depth.

    The batch norms take their statistics from noise, then small random changes.
    """
    import timm.models.efficientnet as E
    create = E._create_effnet
    E._create_effnet = lambda variant, pretrained=False, **kw: create(
        variant, pretrained, **{**kw, "num_features": features})
    try:
        # timm makes tf_efficientnet_lite0 to 4 by this call.
        model = E._gen_efficientnet_lite("tf_efficientnet_lite0", width, depth, num_classes=3, bn_eps=E.BN_EPS_TF_DEFAULT,
                                         pad_type="same")
    finally:
        E._create_effnet = create
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
            norm.weight.copy_(0.8 + torch.rand_like(norm.weight))
            norm.bias.copy_(torch.randn_like(norm.bias) * 0.5)
        model.train()
        model.forward_features(torch.randn(8, 3, image_size, image_size))
        for norm in norms:
            norm.running_mean.add_(torch.randn_like(norm.running_mean) * 0.1)
            norm.running_var.mul_(0.5 + torch.rand_like(norm.running_var)).add_(1e-3)
    return model.eval()


class Lite(nn.Module):
    """timm's EfficientNet-Lite, with its batch norms folded into the convolutions, in 16 bits.

    `v["hidden_size"]` is the width of the head: 1280 in the published models.
    """

    def __init__(self, v):
        super().__init__()
        side = v["image_size"]
        model = timm_lite(v["width_coefficient"], v["depth_coefficient"], v["hidden_size"], side)
        pixels = torch.randn(2, 3, side, side)
        with torch.no_grad():
            before = model.forward_features(pixels)
        self.fold(model, "conv_stem", "bn1")
        for stage in model.blocks:
            for block in stage:
                pairs = [("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")]
                if not hasattr(block, "conv_pwl"):
                    pairs = [("conv_dw", "bn1"), ("conv_pw", "bn2")]
                for convolution, norm in pairs:
                    self.fold(block, convolution, norm)
        self.fold(model, "conv_head", "bn2")
        with torch.no_grad():
            after = model.forward_features(pixels)
        assert (before - after).abs().max() < 1e-4 * before.abs().max(), "folding changed the network"
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(p.half().float())
        self.model = model

    @staticmethod
    def fold(module, convolution, norm):
        from torch.nn.utils.fusion import fuse_conv_bn_weights
        conv, bn = getattr(module, convolution), getattr(module, norm)
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, None, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias)
        setattr(module, norm, bn.act)

    def forward(self, pixels):
        return self.model.forward_features(pixels)

    def first_weight(self):
        return self.model.conv_stem.weight

    def layers(self):
        yield "stem", self.model.conv_stem
        blocks = [block for stage in self.model.blocks for block in stage]
        for i, block in enumerate(blocks):
            names = dict(expand="conv_pw", dw="conv_dw", project="conv_pwl")
            if not hasattr(block, "conv_pwl"):
                names = dict(dw="conv_dw", project="conv_pw")
            for ours, theirs in names.items():
                yield f"blocks.{i}.{ours}", getattr(block, theirs)
        yield "head", self.model.conv_head

    def ours(self):
        out = {}
        for name, conv in self.layers():
            is_matrix = conv.kernel_size == (1, 1)
            out[f"{name}.weight"] = conv.weight[:, :, 0, 0] if is_matrix else conv.weight
            out[f"{name}.bias"] = conv.bias
        return {k: x.detach() for k, x in out.items()}

    def gradients(self):
        """Gradients of the first layer, of one in the middle and of the last."""
        for name, conv in self.layers():
            if name in ("stem", "blocks.2.dw", "head"):
                grad = conv.weight.grad
                yield f"{name}.weight", grad[:, :, 0, 0] if conv.kernel_size == (1, 1) else grad


TOWERS = dict(siglip=Siglip, dinov2=Dinov2, open_clip=OpenClip, lite=Lite)
