//! Writes an image encoder as another library's, with its config files.

use serde_json::{Value, json};

use super::super::export::ForeignLayout;
use super::super::read::CheckpointError;
use super::super::write::NamedTensor;
use super::layout::Kind;
use super::settings::{OPEN_CLIP_EPS, hidden_act_name};
use super::{lite, vit};
use crate::config::{EfficientNetLiteConfig, HiddenAct, MmGemConfig, VisionConfig, VitConfig};
use crate::image::ResizeMode;

/// An image encoder in another library's form.
#[derive(Debug)]
pub struct WrittenTower {
    pub tensors: Vec<NamedTensor>,
    /// Name of the file with the tensors.
    pub weights_file: &'static str,
    /// Name and content of each config file.
    pub configs: Vec<(&'static str, Value)>,
    /// The encoder as an import reads it.
    pub vision: VisionConfig,
    /// The call that loads it; FOLDER stands for the folder.
    pub loads: String,
    pub notes: Vec<String>,
}

/// Sizes of the text tower that open_clip's files must have. All its weights are zero.
const TEXT_WIDTH: usize = 8;
const TEXT_VOCABULARY: usize = 2;
const TEXT_LENGTH: usize = 2;

/// Converts the image encoder. `visual` are its tensors without their prefix.
///
/// # Errors
/// If the layout has no place for it.
pub fn tower(
    config: &MmGemConfig,
    visual: &[NamedTensor],
    layout: ForeignLayout,
) -> Result<WrittenTower, CheckpointError> {
    match (&config.vision, layout) {
        (VisionConfig::Vit(vit), ForeignLayout::OpenClip) => open_clip(config, vit, visual),
        (VisionConfig::Vit(vit), ForeignLayout::HuggingFace) => hugging_face(config, vit, visual),
        (VisionConfig::EfficientNetLite(lite), _) => timm_lite(config, lite, visual, layout),
    }
}

fn no_place(found: &str, wanted: &str, hint: &str) -> CheckpointError {
    CheckpointError::Export(format!(
        "the image encoder has {found}, wanted {wanted}\n  hint: {hint}"
    ))
}

fn open_clip(
    config: &MmGemConfig,
    vit: &VitConfig,
    visual: &[NamedTensor],
) -> Result<WrittenTower, CheckpointError> {
    if !vit.class_token {
        return Err(no_place(
            "no class token",
            "one, as open_clip's VisionTransformer has it",
            "--layout hf writes such an encoder as transformers' SiglipVisionModel",
        ));
    }
    let mut notes = folded_notes();
    let (mut visual, mut written) = (visual.to_vec(), vit.clone());
    let width = vit.hidden_size;
    if !vit.ln_post {
        visual.push(("ln_post.weight".into(), vec![width], vec![1.0; width]));
        visual.push(("ln_post.bias".into(), vec![width], vec![0.0; width]));
        notes.push("V has no norm: ln_post is written as the identity, behind the pooling".into());
    }
    // Without ln_post, open_clip's projection belongs to the pooled vector.
    let embed_dim = vit.proj_dim.unwrap_or(width);
    if vit.proj_dim.is_none() {
        let identity = (0..width * width).map(|at| f32::from(u8::from(at % (width + 1) == 0)));
        visual.push(("proj".into(), vec![width, width], identity.collect()));
        written.proj_dim = vit.ln_post.then_some(width);
        notes.push(
            "the encoder has no projection: proj is written as the identity, so encode_image gives the class token"
                .into(),
        );
    }
    let mut tensors: Vec<NamedTensor> = visual
        .into_iter()
        .map(|(name, shape, values)| (format!("visual.{name}"), shape, values))
        .collect();
    tensors.extend(text_tower("", embed_dim));
    let mut vision = json!({
        "image_size": vit.image_size,
        "patch_size": vit.patch_size,
        "width": width,
        "layers": vit.num_hidden_layers,
        "head_width": width / vit.num_attention_heads,
        "mlp_ratio": vit.mlp_ratio,
    });
    if !vit.ln_pre {
        vision["no_ln_pre"] = true.into();
    }
    if !vit.ln_post {
        vision["final_ln_after_pool"] = true.into();
    }
    if vit.layer_norm_eps != OPEN_CLIP_EPS {
        vision["norm_kwargs"] = json!({ "eps": vit.layer_norm_eps });
    }
    if vit.hidden_act == HiddenAct::GeluPytorchTanh {
        vision["act_kwargs"] = json!({ "approximate": "tanh" });
    }
    let quick_gelu = vit.hidden_act == HiddenAct::QuickGelu;
    let config = json!({
        "model_cfg": {
            "embed_dim": embed_dim,
            "quick_gelu": quick_gelu,
            "vision_cfg": vision,
            "text_cfg": text_cfg(),
        },
        "preprocess_cfg": open_clip_preprocess(config),
    });
    notes.push(text_note());
    Ok(WrittenTower {
        tensors,
        weights_file: "open_clip_model.safetensors",
        configs: vec![("open_clip_config.json", config)],
        vision: VisionConfig::Vit(written),
        loads: OPEN_CLIP_LOADS.into(),
        notes,
    })
}

const OPEN_CLIP_LOADS: &str = "open_clip.create_model_and_transforms(\"local-dir:FOLDER\")";

fn text_note() -> String {
    "open_clip loads no model without a text tower: the file has one of zeros, so use `visual` and encode_image only".into()
}

fn folded_notes() -> Vec<String> {
    vec![
        "an import merged LayerScale into its layers and a patch bias into the positions, if the encoder had them; they are not split again"
            .into(),
    ]
}

fn text_cfg() -> Value {
    json!({
        "context_length": TEXT_LENGTH,
        "vocab_size": TEXT_VOCABULARY,
        "width": TEXT_WIDTH,
        "heads": 1,
        "layers": 1,
    })
}

/// The tensors of the text tower and the temperature, all zero.
fn text_tower(prefix: &str, embed_dim: usize) -> Vec<NamedTensor> {
    let width = TEXT_WIDTH;
    let mut shapes: Vec<(String, Vec<usize>)> = vec![
        ("positional_embedding".into(), vec![TEXT_LENGTH, width]),
        ("token_embedding.weight".into(), vec![TEXT_VOCABULARY, width]),
        ("ln_final.weight".into(), vec![width]),
        ("ln_final.bias".into(), vec![width]),
        ("text_projection".into(), vec![width, embed_dim]),
    ];
    shapes.extend(vit::open_clip_block(width));
    let zeros = |(name, shape): (String, Vec<usize>)| {
        let n = shape.iter().product();
        (format!("{prefix}{name}"), shape, vec![0.0; n])
    };
    let mut tensors: Vec<NamedTensor> = shapes.into_iter().map(zeros).collect();
    tensors.push(("logit_scale".into(), Vec::new(), vec![0.0]));
    tensors
}

/// f32 values with as few digits as give them back.
fn numbers(values: [f32; 3]) -> Vec<f64> {
    values.map(|value| value.to_string().parse().expect("a number in decimals")).to_vec()
}

fn open_clip_preprocess(config: &MmGemConfig) -> Value {
    json!({
        "size": config.vision.image_size(),
        "mode": "RGB",
        "mean": numbers(config.image_mean),
        "std": numbers(config.image_std),
        "interpolation": "bicubic",
        "resize_mode": match config.resize_mode {
            ResizeMode::Squash => "squash",
            ResizeMode::Crop => "shortest",
        },
    })
}

fn hugging_face(
    config: &MmGemConfig,
    vit: &VitConfig,
    visual: &[NamedTensor],
) -> Result<WrittenTower, CheckpointError> {
    if !vit.ln_post {
        let hint = match vit.class_token {
            true => "--layout open-clip writes it",
            false => "keep the folder that it was imported from",
        };
        return Err(no_place(
            "no norm behind its blocks",
            "one, as all ViTs of transformers have it",
            hint,
        ));
    }
    let mut notes = folded_notes();
    let (kind, class, model_type) = match (vit.class_token, vit.ln_pre, vit.proj_dim) {
        (true, true, Some(_)) => (Kind::Clip, "CLIPVisionModelWithProjection", "clip_vision_model"),
        (true, true, None) => (Kind::Clip, "CLIPVisionModel", "clip_vision_model"),
        (true, false, _) => (Kind::Dinov2, "Dinov2Model", "dinov2"),
        (false, false, _) => (Kind::Siglip, "SiglipVisionModel", "siglip_vision_model"),
        (false, true, _) => {
            return Err(no_place(
                "a norm before its blocks but no class token",
                "both, as CLIPVisionModel, or none of them, as SiglipVisionModel",
                "keep the folder that it was imported from",
            ));
        }
    };
    let mut written = vit.clone();
    if kind != Kind::Clip && written.proj_dim.take().is_some() {
        notes.push(format!("{class} has no place for open_clip's projection; it is left out"));
    }
    let visual = visual.iter().filter(|(name, ..)| kind == Kind::Clip || name != "proj");
    let tensors = vit::disassemble(kind, vit, visual)?;
    let width = vit.hidden_size;
    let mut json = json!({
        "architectures": [class],
        "model_type": model_type,
        "hidden_size": width,
        "num_hidden_layers": vit.num_hidden_layers,
        "num_attention_heads": vit.num_attention_heads,
        "num_channels": 3,
        "image_size": vit.image_size,
        "patch_size": vit.patch_size,
        "hidden_act": hidden_act_name(vit.hidden_act),
        "layer_norm_eps": vit.layer_norm_eps,
    });
    match kind {
        Kind::Dinov2 => {
            if vit.mlp_ratio.fract() != 0.0 {
                return Err(no_place(
                    &format!("an MLP of {} times its width", vit.mlp_ratio),
                    "a whole number of times, as Dinov2Model",
                    "--layout open-clip writes it",
                ));
            }
            json["mlp_ratio"] = json!(vit.mlp_ratio as usize);
            json["layerscale_value"] = json!(1.0);
            json["use_swiglu_ffn"] = false.into();
        }
        _ => json["intermediate_size"] = json!((width as f64 * vit.mlp_ratio) as usize),
    }
    if let Some(proj_dim) = written.proj_dim {
        json["projection_dim"] = proj_dim.into();
    }
    if kind == Kind::Siglip {
        json["vision_use_head"] = false.into();
    }
    if kind == Kind::Clip {
        notes.push(
            "V is post_layernorm of last_hidden_state without its first token; CLIPVisionModel norms only its pooled vector".into(),
        );
    }
    Ok(WrittenTower {
        tensors,
        weights_file: "model.safetensors",
        configs: vec![
            ("config.json", json),
            ("preprocessor_config.json", preprocessor(config, kind)),
        ],
        vision: VisionConfig::Vit(written),
        loads: format!("transformers.{class}.from_pretrained(\"FOLDER\")"),
        notes,
    })
}

fn preprocessor(config: &MmGemConfig, kind: Kind) -> Value {
    let side = config.vision.image_size();
    let square = json!({ "height": side, "width": side });
    let is_cropped = config.resize_mode == ResizeMode::Crop;
    let mut json = json!({
        "image_processor_type": match kind {
            Kind::Siglip => "SiglipImageProcessor",
            Kind::Dinov2 => "BitImageProcessor",
            _ => "CLIPImageProcessor",
        },
        "do_resize": true,
        "size": if is_cropped { json!({ "shortest_edge": side }) } else { square.clone() },
        "resample": 3,
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": numbers(config.image_mean),
        "image_std": numbers(config.image_std),
        "do_center_crop": is_cropped,
    });
    if is_cropped {
        json["crop_size"] = square;
    }
    json
}

fn timm_lite(
    config: &MmGemConfig,
    lite: &EfficientNetLiteConfig,
    visual: &[NamedTensor],
    layout: ForeignLayout,
) -> Result<WrittenTower, CheckpointError> {
    let mut notes = vec![
        "an import folded the batch norms into the convolutions: they are written as neutral norms that keep the bias, which compute the same; their statistics are gone, so freeze them in training".into(),
    ];
    let published = lite::published_name(lite);
    let tensors = lite::to_timm(lite, visual)?;
    let (mean, std) = (numbers(config.image_mean), numbers(config.image_std));
    if layout == ForeignLayout::OpenClip {
        let Some(name) = published else {
            return Err(no_place(
                &format!("the sizes {lite:?}"),
                "those of tf_efficientnet_lite0 to 4, which open_clip builds by their name",
                "--layout hf writes timm's tensors without a name",
            ));
        };
        let mut tensors: Vec<NamedTensor> = tensors
            .into_iter()
            .map(|(name, shape, values)| (format!("visual.trunk.{name}"), shape, values))
            .collect();
        tensors.extend(text_tower("text.", lite.hidden_size));
        notes.push(text_note());
        let config = json!({
            "model_cfg": {
                "embed_dim": lite.hidden_size,
                "custom_text": true,
                "vision_cfg": {
                    "image_size": lite.image_size,
                    "timm_model_name": name,
                    "timm_model_pretrained": false,
                    "timm_pool": "avg",
                    "timm_proj": "none",
                },
                "text_cfg": text_cfg(),
            },
            "preprocess_cfg": open_clip_preprocess(config),
        });
        return Ok(WrittenTower {
            tensors,
            weights_file: "open_clip_model.safetensors",
            configs: vec![("open_clip_config.json", config)],
            vision: VisionConfig::EfficientNetLite(lite.clone()),
            loads: OPEN_CLIP_LOADS.into(),
            notes,
        });
    }
    if published.is_none() {
        notes.push(format!(
            "timm has no name for these sizes: build the network with channel_multiplier = {}, depth_multiplier = {} and {} features",
            lite.width_coefficient, lite.depth_coefficient, lite.hidden_size
        ));
    }
    let name = published.unwrap_or("tf_efficientnet_lite0");
    let json = json!({
        "architecture": name,
        "num_classes": 0,
        "num_features": lite.hidden_size,
        "pretrained_cfg": {
            "input_size": [3, lite.image_size, lite.image_size],
            "mean": mean,
            "std": std,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": match config.resize_mode {
                ResizeMode::Squash => "squash",
                ResizeMode::Crop => "center",
            },
            "num_classes": 0,
            "first_conv": "conv_stem",
            "classifier": "classifier",
        },
    });
    Ok(WrittenTower {
        tensors,
        weights_file: "model.safetensors",
        configs: vec![("config.json", json)],
        vision: VisionConfig::EfficientNetLite(lite.clone()),
        loads: "timm.create_model(\"local-dir:FOLDER\", pretrained=True)".into(),
        notes,
    })
}
