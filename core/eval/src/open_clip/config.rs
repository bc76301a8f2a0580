//! Reads a checkpoint's sizes from `open_clip_config.json` or from the weights.

use mmgem_core::checkpoint::Shards;
use mmgem_core::checkpoint::names::{checkpoint_name, text_block_of};
use mmgem_core::checkpoint::towers::settings::{
    OPEN_CLIP_EPS, OPEN_CLIP_VISION_KEYS, open_clip_vision,
};
use mmgem_core::checkpoint::towers::vit::{HiddenSettings, assemble, usual_heads};
use mmgem_core::checkpoint::towers::{Kind, OPENAI_MEAN_STD};
use mmgem_core::config::{HiddenAct, VitConfig};
use mmgem_core::image::{ImagePreprocess, ResizeMode};
use mmgem_core::model::open_clip::{ClipTextConfig, OpenClipConfig};
use serde_json::{Map, Value};

use super::OpenClipError;

/// Content of `open_clip_config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenClipFile {
    /// Sizes.
    pub config: OpenClipConfig,
    /// The preprocessing from a photo to the model's input.
    pub preprocess: ImagePreprocess,
}

/// Default width of a head.
const HEAD_WIDTH: u64 = 64;

/// Keys that are supported, or that do not change what is computed here.
const MODEL_KEYS: [&str; 6] =
    ["embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "multimodal_cfg", "custom_text"];
const TEXT_KEYS: [&str; 9] = [
    "context_length",
    "vocab_size",
    "width",
    "heads",
    "layers",
    "mlp_ratio",
    "embed_cls",
    "output_tokens",
    "pad_id",
];

/// The sizes of a checkpoint, and its tensors as the model needs them.
///
/// `shards` has names after `open_clip_name`. Values missing in `config_json` are open_clip's
/// defaults.
///
/// # Errors
/// If the model has unsupported parts, or the weights have other sizes.
pub fn read_config<'a>(
    shards: Shards<'a>,
    config_json: Option<&str>,
) -> Result<(OpenClipFile, Shards<'a>), OpenClipError> {
    let root: Value = match config_json {
        Some(text) => serde_json::from_str(text)
            .map_err(|e| OpenClipError::Config(format!("not JSON: {e}")))?,
        None => Value::Null,
    };
    let empty = Map::new();
    let object =
        |value: Option<&Value>| value.and_then(Value::as_object).cloned().unwrap_or_default();
    let model = root.get("model_cfg").and_then(Value::as_object).unwrap_or(&empty);
    let (vision, text) = (object(model.get("vision_cfg")), object(model.get("text_cfg")));
    for (part, found, known) in [
        ("model_cfg", model, &MODEL_KEYS[..]),
        ("vision_cfg", &vision, &[&OPEN_CLIP_VISION_KEYS[..], &["attentional_pool"]].concat()[..]),
        ("text_cfg", &text, &TEXT_KEYS[..]),
    ] {
        reject_unknown_keys(part, found, known)?;
    }
    let quick = model.get("quick_gelu").and_then(Value::as_bool).unwrap_or(false);
    let hidden_act = if quick { HiddenAct::QuickGelu } else { HiddenAct::Gelu };
    let number = |object: &Map<String, Value>, key: &str| object.get(key).and_then(Value::as_u64);
    let is_on = |object: &Map<String, Value>, key: &str| {
        object.get(key).is_some_and(|v| v == &Value::Bool(true))
    };

    let shape = |path: &str| shards.shape(&checkpoint_name(path));
    let size = |path: &str, axis: usize| {
        shape(path).and_then(|shape| shape.get(axis)).copied().ok_or_else(|| {
            let name = checkpoint_name(path);
            OpenClipError::Config(format!(
                "{name} is not in the checkpoint\n  hint: supported are OpenCLIP's CLIP or CoCa with a ViT and its own text \
                 transformer (no timm, no Hugging Face towers)"
            ))
        })
    };
    let hidden_size = size("text.token_embedding.weight", 1)?;
    let embed_cls = is_on(&text, "embed_cls") || shape("text.cls_emb").is_some();
    let queries = shape("attn_pool.query").map(|shape| shape[0]);
    let pool_heads = number(&vision, "attn_pooler_heads").unwrap_or(8) as usize;
    let visual_width = size("visual.conv1", 0)?;
    let embed_dim = size("text.text_projection", 1)?;
    let text = ClipTextConfig {
        context_length: size("text.positional_embedding", 0)? - usize::from(embed_cls),
        vocab_size: size("text.token_embedding.weight", 0)?,
        hidden_size,
        num_attention_heads: number(&text, "heads")
            .unwrap_or(hidden_size as u64 / HEAD_WIDTH)
            .max(1) as usize,
        num_hidden_layers: shards
            .names()
            .filter_map(text_block_of)
            .max()
            .map_or(0, |last| last + 1),
        mlp_ratio: text.get("mlp_ratio").and_then(Value::as_f64).unwrap_or(4.0),
        hidden_act,
        layer_norm_eps: OPEN_CLIP_EPS,
        embed_cls,
    };
    let (vision, shards) = image_tower(shards, model, &vision, visual_width)?;
    let preprocess = preprocess(root.get("preprocess_cfg"), vision.image_size)?;
    let attentional_pool = queries.map(|n_queries| (pool_heads, n_queries));
    let config = OpenClipConfig { embed_dim, vision, attentional_pool, text };
    Ok((OpenClipFile { config, preprocess }, shards))
}

/// Sizes of the image tower, and the checkpoint with the tower's tensors as the model needs them.
fn image_tower<'a>(
    mut shards: Shards<'a>,
    model: &Map<String, Value>,
    vision: &Map<String, Value>,
    width: usize,
) -> Result<(VitConfig, Shards<'a>), OpenClipError> {
    let tower_settings = open_clip_vision(model, vision)?;
    let hidden = HiddenSettings {
        num_attention_heads: match tower_settings.num_attention_heads {
            Some(heads) => heads,
            None => usual_heads(width)?,
        },
        hidden_act: tower_settings.hidden_act.unwrap_or(HiddenAct::Gelu),
        layer_norm_eps: tower_settings.layer_norm_eps.unwrap_or(OPEN_CLIP_EPS),
        norms_after_pooling: false,
    };
    let is_visual = |name: &str| name.starts_with("visual.");
    let mut tower =
        shards.split_off(is_visual).rename(|name| Some(name["visual.".len()..].to_owned()));
    let (config, ours) = assemble(Kind::OpenClip, &mut tower, hidden)?;
    // The rest belongs to CoCa's pooling.
    let rest = tower.rename(|name| Some(format!("visual.{name}")));
    Ok((config, shards.join(ours).join(rest)))
}

/// Refuses a key that may change the graph and is not supported here.
fn reject_unknown_keys(
    part: &str,
    found: &Map<String, Value>,
    known: &[&str],
) -> Result<(), OpenClipError> {
    let is_neutral = |value: &Value| value.is_null() || value == &Value::Bool(false);
    match found.iter().find(|(key, value)| !known.contains(&key.as_str()) && !is_neutral(value)) {
        None => Ok(()),
        Some((key, value)) => Err(OpenClipError::Config(format!(
            "{part} has {key} = {value}, which changes the model in a way that is not built here; wanted a plain CLIP or CoCa"
        ))),
    }
}

/// Reads the preprocessing. Defaults are open_clip's: OpenAI's statistics, shortest side and centre
/// crop, bicubic.
fn preprocess(found: Option<&Value>, image_size: usize) -> Result<ImagePreprocess, OpenClipError> {
    let text = |key: &str| found.and_then(|found| found.get(key)).and_then(Value::as_str);
    let three = |key: &str, default: [f32; 3]| match found.and_then(|found| found.get(key)) {
        None | Some(Value::Null) => Ok(default),
        Some(values) => serde_json::from_value(values.clone()).map_err(|_| {
            OpenClipError::Config(format!("{key} is {values}, wanted one number per color channel"))
        }),
    };
    let resize_mode = match text("resize_mode") {
        None | Some("shortest") => ResizeMode::Crop,
        Some("squash") => ResizeMode::Squash,
        Some(other) => {
            return Err(OpenClipError::Config(format!(
                "resize_mode is {other:?}, wanted shortest or squash"
            )));
        }
    };
    if let Some(other) = text("interpolation").filter(|name| *name != "bicubic") {
        return Err(OpenClipError::Config(format!("interpolation is {other:?}, wanted bicubic")));
    }
    let (image_mean, image_std) =
        (three("mean", OPENAI_MEAN_STD.0)?, three("std", OPENAI_MEAN_STD.1)?);
    Ok(ImagePreprocess { image_size, resize_mode, image_mean, image_std })
}
#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn malformed_statistics_are_an_error_and_missing_ones_are_openais() {
        let of = |found: Value| preprocess(Some(&found), 224);
        let given = of(json!({ "mean": [0.5, 0.25, 0.5] })).expect("three numbers");
        assert_eq!((given.image_mean, given.image_std), ([0.5, 0.25, 0.5], OPENAI_MEAN_STD.1));
        for damaged in [json!([0.5, 0.5]), json!(0.5), json!([0.5, 0.5, "x"])] {
            let error = of(json!({ "std": damaged })).expect_err("malformed").to_string();
            assert!(error.contains("std is") && error.contains("wanted one number"), "{error}");
        }
    }
}
