//! Tensor names in our files and in the baselines' files.
//!
//! [`super::towers`] has the names of other image encoders, `llama.rs` those of Llama.

use burn::module::ParamId;

/// Path of a parameter in the module tree.
///
/// Omits a leading `model`, so that a model has the same paths inside a larger module. Also omits
/// the variant of an enum, so that a tower has the same paths inside [`crate::model::VisionTower`].
pub fn module_path(modules: &[String]) -> String {
    let inner =
        if modules.first().is_some_and(|first| first == "model") { &modules[1..] } else { modules };
    let is_variant = |name: &&String| name.starts_with(|first: char| first.is_ascii_uppercase());
    inner.iter().filter(|name| !is_variant(name)).cloned().collect::<Vec<_>>().join(".")
}

/// Name in `model.safetensors` of the parameter at this path of the module tree.
///
/// Follows open_clip under `visual.` and Hugging Face under `llm.`.
pub fn checkpoint_name(path: &str) -> String {
    let name = match path {
        "visual.conv1" => "visual.conv1.weight".to_owned(),
        "llm.embed_tokens.weight" | "llm.norm.gamma" => path.replacen("llm.", "llm.model.", 1),
        "text.token_embedding.weight" => path.to_owned(),
        _ if path.starts_with("attn_pool.ln_") || path == "attn_pool.query" => {
            format!("visual.{path}")
        }
        _ if path.starts_with("attn_pool.") => {
            path.replacen("attn_pool.", "visual.attn_pool.attn.", 1)
        }
        _ => path
            .replacen("text.blocks.", "text.transformer.resblocks.", 1)
            .replacen("visual.blocks.", "visual.transformer.resblocks.", 1)
            .replacen("visual.mb_blocks.", "visual.blocks.", 1)
            .replacen("llm.layers.", "llm.model.layers.", 1)
            .replace(".in_proj.", ".in_proj_"),
    };
    name.replace(".gamma", ".weight").replace(".beta", ".bias")
}

/// Whether the file stores the transposed matrix.
///
/// PyTorch's `Linear` is `[out, in]`, Burn's is `[in, out]`.
pub fn is_transposed(path: &str, rank: usize) -> bool {
    let is_table = ["llm.embed_tokens.weight", "text.token_embedding.weight"].contains(&path);
    rank == 2 && path.ends_with(".weight") && !is_table
}

/// Whether the tensor of this name in the file is the matrix of a linear layer. Such matrices may
/// be packed.
pub fn is_linear(name: &str, rank: usize) -> bool {
    rank == 2 && name.ends_with("weight") && name != TOKEN_EMBEDDING
}

/// Whether the tensor is the matrix of a point-wise convolution.
///
/// Its sums have few terms, so they tolerate coarse quantization less well than long sums.
pub fn is_pointwise(name: &str) -> bool {
    name.starts_with("visual.blocks.") || name == "visual.head.weight"
}

/// Whether the tensor is the matrix of a head, h1 to h4.
///
/// Every vector passes through a head, and the heads are small.
pub fn is_head(name: &str) -> bool {
    matches!(name, "h1.weight" | "h2.weight" | "h3.weight" | "h4.weight")
}

/// Name of the tensor with the scales of a packed matrix.
pub fn scale_name(name: &str) -> String {
    format!("{name}.scale")
}

/// Name of one part of a large tensor that is split along its first axis. Parts count from 1.
pub fn part_name(name: &str, part: usize, n_parts: usize) -> String {
    format!("{name}.part-{part:05}-of-{n_parts:05}")
}

/// Parses a name made by [`part_name`]: base name, part, number of parts.
pub fn part_of(name: &str) -> Option<(&str, usize, usize)> {
    let (base, place) = name.rsplit_once(".part-")?;
    let (part, n_parts) = place.split_once("-of-")?;
    Some((base, part.parse().ok()?, n_parts.parse().ok()?))
}

/// Name of the token embedding.
pub const TOKEN_EMBEDDING: &str = "llm.model.embed_tokens.weight";
/// Name of the output head. A checkpoint with tied weights may repeat [`TOKEN_EMBEDDING`] here.
pub const OUTPUT_HEAD: &str = "llm.lm_head.weight";

/// Identity of a parameter in optimizer states. It is the same in every run, because it is a hash
/// of the path.
pub fn param_id(path: &str) -> ParamId {
    ParamId::from(stable_hash(path))
}

/// FNV-1a: a hash that is the same across platforms and versions.
pub fn stable_hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Index of the block of open_clip's text tower that contains a tensor. Takes a name made by
/// [`open_clip_name`].
pub fn text_block_of(name: &str) -> Option<usize> {
    name.strip_prefix("text.transformer.resblocks.")?.split('.').next()?.parse().ok()
}

/// Name under which a tensor of an OpenCLIP checkpoint is evaluated.
///
/// The text tower of CLIP moves under `text.`, as in CoCa. Returns `None` for tensors that only
/// training and captioning use.
pub fn open_clip_name(name: &str) -> Option<String> {
    let unused = ["logit_scale", "logit_bias", "text_decoder.", "attn_mask", "text.attn_mask"];
    if unused.iter().any(|root| name.starts_with(root)) {
        return None;
    }
    Some(match is_openclip_text_tower(name) && !name.starts_with("text.") {
        true => format!("text.{name}"),
        false => name.to_owned(),
    })
}

/// Whether a tensor of an OpenCLIP checkpoint is outside its image tower: the text tower or the
/// temperature.
pub(super) fn is_openclip_text_tower(name: &str) -> bool {
    let roots = [
        "transformer.",
        "token_embedding.",
        "ln_final.",
        "text_projection",
        "positional_embedding",
        "logit_scale",
        "logit_bias",
        "attn_mask",
        "text.",
        "text_decoder.",
    ];
    roots.iter().any(|root| name.starts_with(root))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, name: &str) {
        assert_eq!(checkpoint_name(path), name);
    }

    #[test]
    fn image_encoder_names_are_open_clips() {
        check("visual.conv1", "visual.conv1.weight");
        check("visual.class_embedding", "visual.class_embedding");
        check("visual.ln_pre.gamma", "visual.ln_pre.weight");
        check(
            "visual.blocks.11.attn.in_proj.weight",
            "visual.transformer.resblocks.11.attn.in_proj_weight",
        );
        check(
            "visual.blocks.0.attn.in_proj.bias",
            "visual.transformer.resblocks.0.attn.in_proj_bias",
        );
        check(
            "visual.blocks.0.attn.out_proj.bias",
            "visual.transformer.resblocks.0.attn.out_proj.bias",
        );
        check("visual.blocks.0.mlp.c_fc.weight", "visual.transformer.resblocks.0.mlp.c_fc.weight");
    }

    #[test]
    fn language_model_names_are_hugging_faces() {
        check("llm.embed_tokens.weight", "llm.model.embed_tokens.weight");
        check("llm.layers.3.input_layernorm.gamma", "llm.model.layers.3.input_layernorm.weight");
        check("llm.layers.3.mlp.down_proj.weight", "llm.model.layers.3.mlp.down_proj.weight");
        check("llm.norm.gamma", "llm.model.norm.weight");
        check("llm.lm_head.weight", "llm.lm_head.weight");
    }

    #[test]
    fn layers_of_a_vit_are_not_pointwise_convolutions() {
        for path in [
            "visual.mb_blocks.3.expand.weight",
            "visual.mb_blocks.0.project.weight",
            "visual.head.weight",
        ] {
            assert!(is_pointwise(&checkpoint_name(path)), "{path}");
        }
        for path in
            ["visual.blocks.3.attn.out_proj.weight", "h1.weight", "llm.layers.0.mlp.up_proj.weight"]
        {
            assert!(!is_pointwise(&checkpoint_name(path)), "{path}");
        }
    }

    #[test]
    fn the_four_heads_are_heads() {
        for path in ["h1.weight", "h2.weight", "h3.weight", "h4.weight"] {
            assert!(is_head(&checkpoint_name(path)), "{path}");
        }
        for path in ["h1.bias", "llm.lm_head.weight", "visual.head.weight"] {
            assert!(!is_head(&checkpoint_name(path)), "{path}");
        }
    }

    #[test]
    fn only_linear_layers_are_transposed() {
        assert!(is_transposed("h1.weight", 2));
        assert!(!is_transposed("llm.embed_tokens.weight", 2));
        assert!(!is_transposed("visual.proj", 2));
        assert!(!is_transposed("cap_prompts", 2));
        assert!(!is_transposed("visual.conv1", 4));
    }

    #[test]
    fn only_linear_layers_are_packed() {
        assert!(is_linear("h1.weight", 2));
        assert!(is_linear("visual.transformer.resblocks.11.attn.in_proj_weight", 2));
        assert!(is_linear(OUTPUT_HEAD, 2));
        for (name, rank) in
            [(TOKEN_EMBEDDING, 2), ("visual.proj", 2), ("h1.bias", 1), ("visual.conv1.weight", 4)]
        {
            assert!(!is_linear(name, rank), "{name}");
        }
    }

    #[test]
    fn the_parts_of_a_tensor_are_counted_in_their_names() {
        assert_eq!(part_of(&part_name("h1.weight", 2, 12)), Some(("h1.weight", 2, 12)));
        assert_eq!(part_of("h1.weight"), None);
        assert_eq!(part_of("h1.part-x-of-2"), None);
    }
}
