//! An OpenCLIP image encoder and a Hugging Face Llama become an MM-GEM model.

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use serde_json::Value;

use super::names::{checkpoint_name, is_llama_buffer, is_openclip_text_tower, param_id, vision_block_of};
use super::read::{CheckpointError, load_present};
use super::shards::Shards;
use crate::config::{
    CaptionOrder, HiddenAct, LlamaConfig, MmGemConfig, VERSION, VisionConfig, VisionTokens, VitConfig,
};
use crate::image::ResizeMode;
use crate::model::MmGem;

/// What the checkpoints do not say.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// Side of the input; the positions are interpolated when the checkpoint has another.
    pub image_size: Option<usize>,
    /// Attention heads of the image encoder; OpenCLIP's for this width when absent.
    pub vision_heads: Option<usize>,
    /// Activation of the image encoder: QuickGELU for OpenAI's and DFN's checkpoints.
    pub hidden_act: HiddenAct,
    /// Mean of the pixels that the encoder was trained with.
    pub image_mean: [f32; 3],
    /// Standard deviation of the same.
    pub image_std: [f32; 3],
    /// Width of the joint space.
    pub embed_dim: usize,
    /// What the language model sees of a whole image.
    pub vision_tokens: VisionTokens,
    /// Order of a caption's prefix.
    pub caption_order: CaptionOrder,
    /// Seed of h1–h4 and the tokens.
    pub seed: u64,
}

/// OpenAI's and most of LAION's pixel statistics.
pub const OPENAI_MEAN_STD: ([f32; 3], [f32; 3]) =
    ([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_55, 0.261_302_6, 0.275_777_1]);
/// Pixel statistics of LAION-2B's ViT-L/14 and of SigLIP: −1..1.
pub const INCEPTION_MEAN_STD: ([f32; 3], [f32; 3]) = ([0.5; 3], [0.5; 3]);

/// Builds the model: `visual.*` and `llm.*` from the checkpoints, everything else fresh.
pub fn import(
    vision: Shards,
    language: Shards,
    language_config: &str,
    options: &ImportOptions,
    device: &Device,
) -> Result<(MmGemConfig, MmGem), CheckpointError> {
    let vision = vision.rename(|name| (!is_openclip_text_tower(name)).then(|| name.to_owned()));
    let language = language.rename(|name| (!is_llama_buffer(name)).then(|| format!("llm.{name}")));
    let vit = vit_config(&vision, options.vision_heads, options.hidden_act)?;
    let (llm, bos_token_id, eos_token_id) = llama_config(language_config)?;
    let mut config = MmGemConfig {
        format: "mm-gem".into(),
        version: VERSION,
        resize_mode: ResizeMode::Squash,
        image_mean: options.image_mean,
        image_std: options.image_std,
        vision_tokens: options.vision_tokens,
        caption_order: options.caption_order,
        num_caption_prompts: 64,
        roi_output_size: 7,
        roi_sampling_ratio: 2,
        max_text_len: 50,
        logit_scale_init: (1.0f64 / 0.07).ln(),
        logit_scale_max: 100.0f64.ln(),
        vision: VisionConfig::Vit(vit),
        llm,
        embed_dim: options.embed_dim,
        bos_token_id,
        eos_token_id,
    };
    config.check().map_err(|e| CheckpointError::Import(e.to_string()))?;

    let (model, missing) = load_present(MmGem::new(&config, device), &vision.join(language))?;
    let of_towers: Vec<String> = missing
        .iter()
        .filter(|name| name.starts_with("visual.") || name.starts_with("llm."))
        .cloned()
        .collect();
    if !of_towers.is_empty() {
        return Err(CheckpointError::Missing(of_towers));
    }
    // What no checkpoint has: h1 to h4, the tokens, the temperature.
    let is_fresh = |path: &str| missing.contains(&checkpoint_name(path));
    let mut model = crate::init::fresh_where(model, &config, options.seed, &is_fresh);
    let grid = config.grid();
    if let (Some(image_size), Some(vit)) = (options.image_size, config.vision.as_vit_mut())
        && image_size != vit.image_size
    {
        if !image_size.is_multiple_of(vit.patch_size) {
            return Err(CheckpointError::Import(format!(
                "an image size of {image_size} is asked for, but patches are {} wide\n  hint: take a multiple of it",
                vit.patch_size
            )));
        }
        vit.image_size = image_size;
        model = resize_positions(model, grid, image_size / vit.patch_size);
    }
    Ok((config, model))
}

/// Sizes of an OpenCLIP image tower; heads by OpenCLIP's rule for its width unless they are given.
pub fn vit_config(
    vision: &Shards,
    vision_heads: Option<usize>,
    hidden_act: HiddenAct,
) -> Result<VitConfig, CheckpointError> {
    let shape = |name: &str, rank: usize| match vision.shape(name) {
        Some(shape) if shape.len() == rank => Ok(shape.to_vec()),
        Some(shape) => {
            Err(CheckpointError::Import(format!("{name} has {} axes, wanted {rank}", shape.len())))
        }
        None => Err(CheckpointError::Import(format!(
            "{name} is not in the image checkpoint\n  hint: wanted are OpenCLIP's names for a ViT (`visual.*`); ResNets and timm towers do not fit"
        ))),
    };
    let conv1 = shape(&checkpoint_name("visual.conv1"), 4)?;
    let (hidden_size, patch_size) = (conv1[0], conv1[2]);
    let n_patches = shape(&checkpoint_name("visual.positional_embedding"), 2)?[0].saturating_sub(1);
    let grid = n_patches.isqrt();
    if grid * grid != n_patches {
        return Err(CheckpointError::Import(format!("the encoder has {n_patches} patches, wanted a square")));
    }
    let mlp_width = shape(&checkpoint_name("visual.blocks.0.mlp.c_fc.weight"), 2)?[0];
    let num_hidden_layers =
        vision.shapes().filter_map(|(name, _)| vision_block_of(name)).max().map_or(0, |last| last + 1);
    let num_attention_heads = match (vision_heads, hidden_size) {
        (Some(heads), _) => heads,
        // OpenCLIP's H, g and G encoders have 16 heads, the others heads of 64.
        (None, 1280 | 1408 | 1664) => 16,
        (None, width) if width.is_multiple_of(64) => width / 64,
        (None, width) => {
            return Err(CheckpointError::Import(format!(
                "the encoder is {width} wide, no multiple of OpenCLIP's 64 per head\n  hint: give the number of heads with --vision-heads"
            )));
        }
    };
    Ok(VitConfig {
        image_size: grid * patch_size,
        patch_size,
        hidden_size,
        num_hidden_layers,
        num_attention_heads,
        mlp_ratio: mlp_width as f64 / hidden_size as f64,
        hidden_act,
        proj_dim: shape(&checkpoint_name("visual.proj"), 2)?[1],
    })
}

/// Sizes from a Hugging Face `config.json`, and the tokens that start and end a document.
fn llama_config(json: &str) -> Result<(LlamaConfig, Option<u32>, u32), CheckpointError> {
    let root: Value = serde_json::from_str(json)
        .map_err(|e| CheckpointError::Import(format!("the language model's config.json is not JSON: {e}")))?;
    let wants = |key: &str, wanted: &str| {
        CheckpointError::Import(format!(
            "the language model's config.json has {key} = {}, wanted {wanted}\n  hint: only plain Llama models can be imported",
            root.get(key).unwrap_or(&Value::Null)
        ))
    };
    let size = |key: &str| {
        root.get(key).and_then(Value::as_u64).map(|n| n as usize).ok_or_else(|| wants(key, "a number"))
    };
    let number = |key: &str, default: f64| root.get(key).and_then(Value::as_f64).unwrap_or(default);
    let absent_or =
        |key: &str, value: Value| root.get(key).is_none_or(|found| *found == value || found.is_null());

    if root.get("model_type").and_then(Value::as_str) != Some("llama") {
        return Err(wants("model_type", "\"llama\""));
    }
    if !absent_or("hidden_act", "silu".into()) {
        return Err(wants("hidden_act", "\"silu\""));
    }
    for key in ["attention_bias", "mlp_bias"] {
        if !absent_or(key, false.into()) {
            return Err(wants(key, "false"));
        }
    }
    if !absent_or("rope_scaling", Value::Null) {
        return Err(wants("rope_scaling", "null"));
    }
    // Newer files nest the base of the rotary positions.
    let rope = root.get("rope_parameters").filter(|rope| rope.is_object());
    if rope.and_then(|r| r.get("rope_type")).and_then(Value::as_str).is_some_and(|kind| kind != "default") {
        return Err(wants("rope_parameters", "rope_type = default"));
    }
    let rope_theta = rope.and_then(|r| r.get("rope_theta")).and_then(Value::as_f64);

    let (hidden_size, heads) = (size("hidden_size")?, size("num_attention_heads")?);
    if root.get("head_dim").and_then(Value::as_u64).is_some_and(|dim| dim as usize * heads != hidden_size) {
        return Err(wants("head_dim", "hidden_size / num_attention_heads"));
    }
    let token = |key: &str| match root.get(key) {
        Some(Value::Array(ids)) => ids.first().and_then(Value::as_u64),
        other => other.and_then(Value::as_u64),
    };
    let config = LlamaConfig {
        hidden_size,
        intermediate_size: size("intermediate_size")?,
        num_hidden_layers: size("num_hidden_layers")?,
        num_attention_heads: heads,
        num_key_value_heads: size("num_key_value_heads").unwrap_or(heads),
        vocab_size: size("vocab_size")?,
        max_position_embeddings: size("max_position_embeddings")?,
        rms_norm_eps: number("rms_norm_eps", 1e-6),
        rope_theta: rope_theta.unwrap_or_else(|| number("rope_theta", 10_000.0)),
        tie_word_embeddings: root.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false),
    };
    let eos = token("eos_token_id").ok_or_else(|| wants("eos_token_id", "a token id"))?;
    Ok((config, token("bos_token_id").map(|id| id as u32), eos as u32))
}

/// Positions for another number of patches, by bicubic interpolation with antialias as
/// open_clip's `resize_pos_embed` does it; the class token keeps its own.
pub fn resize_positions(mut model: MmGem, from: usize, to: usize) -> MmGem {
    let Some(vit) = model.visual.as_vit_mut() else { return model };
    let old = vit.positional_embedding.val();
    let [_, width] = old.dims();
    let device = old.device();
    let values: Vec<f32> = old.into_data().try_to_vec().expect("parameters are f32");
    let (class, grid) = values.split_at(width);
    let weights = interpolation_weights(from, to);

    let mut resized = class.to_vec();
    resized.reserve(to * to * width);
    for row_weights in &weights {
        for column_weights in &weights {
            let mut vector = vec![0f64; width];
            for (y, wy) in row_weights {
                for (x, wx) in column_weights {
                    let patch = &grid[(y * from + x) * width..][..width];
                    vector.iter_mut().zip(patch).for_each(|(sum, value)| *sum += wy * wx * f64::from(*value));
                }
            }
            resized.extend(vector.iter().map(|value| *value as f32));
        }
    }
    let tensor = Tensor::from_data(TensorData::new(resized, [1 + to * to, width]), &device);
    vit.positional_embedding =
        Param::initialized(param_id("visual.positional_embedding"), tensor).set_require_grad(true);
    model
}

/// For each new position, the old ones it is made of and their weights, which sum to 1.
fn interpolation_weights(from: usize, to: usize) -> Vec<Vec<(usize, f64)>> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let support = 2.0 * stretch;
    (0..to)
        .map(|i| {
            let center = scale * (i as f64 + 0.5);
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            let raw: Vec<f64> = (first..end).map(|j| cubic((j as f64 - center + 0.5) / stretch)).collect();
            let sum: f64 = raw.iter().sum();
            (first..end).zip(raw).map(|(j, weight)| (j, weight / sum)).collect()
        })
        .collect()
}

/// Keys' cubic convolution with a = −0.5.
fn cubic(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        (1.5 * x - 2.5) * x * x + 1.0
    } else if x < 2.0 {
        ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_grid_is_left_as_it_is() {
        for (i, weights) in interpolation_weights(5, 5).iter().enumerate() {
            for (j, weight) in weights {
                assert!((weight - f64::from(*j == i)).abs() < 1e-12);
            }
        }
    }

    // torch.nn.functional.interpolate(torch.eye(2)[None], size=3, mode="bicubic" on [1,1,2,2] ...) row by row:
    // the middle of two is their mean.
    #[test]
    fn a_position_between_two_is_their_mean() {
        let middle = &interpolation_weights(2, 3)[1];
        assert_eq!(middle.len(), 2);
        assert!(middle.iter().all(|(_, weight)| (weight - 0.5).abs() < 1e-12));
    }
}
