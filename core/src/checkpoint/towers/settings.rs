//! Reads the config files beside an image encoder's weights: `open_clip_config.json`,
//! `config.json`, `preprocessor_config.json`.
//!
//! An unsupported key that changes the computation is an error.

use serde_json::{Map, Value};

use super::super::read::CheckpointError;
use super::layout::Kind;
use crate::config::HiddenAct;
use crate::image::ResizeMode;

/// Contents of the config files; `None` if a file is missing.
#[derive(Clone, Debug, Default)]
pub struct TowerConfigs {
    /// OpenCLIP's `open_clip_config.json`.
    pub open_clip: Option<String>,
    /// `config.json` of transformers or timm.
    pub config: Option<String>,
    /// transformers' `preprocessor_config.json`.
    pub preprocessor: Option<String>,
}

/// Settings found in the files; `None` if the files do not state one.
#[derive(Clone, Debug, Default)]
pub struct TowerSettings {
    /// Heads of an attention layer.
    pub num_attention_heads: Option<usize>,
    /// Activation inside the MLPs.
    pub hidden_act: Option<HiddenAct>,
    /// Epsilon of every LayerNorm.
    pub layer_norm_eps: Option<f64>,
    /// As [`HiddenSettings::norms_after_pooling`](super::vit::HiddenSettings::norms_after_pooling).
    pub norms_after_pooling: bool,
    /// Sizes that the weights must have, as (key, value).
    pub sizes: Vec<(&'static str, usize)>,
    /// Side of the preprocessed pictures, in pixels.
    pub image_size: Option<usize>,
    /// Mean and standard deviation of red, green and blue, for pixels scaled to 0..1.
    pub mean_std: Option<([f32; 3], [f32; 3])>,
    /// How a picture of another shape becomes square.
    pub resize_mode: Option<ResizeMode>,
    /// Deliberate deviations from the files.
    pub notes: Vec<String>,
}

/// transformers' name of an activation.
pub(super) fn hidden_act_name(act: HiddenAct) -> &'static str {
    match act {
        HiddenAct::Gelu => "gelu",
        HiddenAct::QuickGelu => "quick_gelu",
        HiddenAct::GeluPytorchTanh => "gelu_pytorch_tanh",
    }
}

/// Epsilon of OpenCLIP's LayerNorm.
pub const OPEN_CLIP_EPS: f64 = 1e-5;
/// Epsilon of timm's LayerNorm.
pub(super) const TIMM_EPS: f64 = 1e-6;

/// A JSON object, with its file's name for messages.
#[derive(Clone, Copy)]
struct Keys<'j> {
    file: &'static str,
    /// Path to the object in the file, with a trailing dot.
    place: &'static str,
    object: &'j Map<String, Value>,
}

impl<'j> Keys<'j> {
    fn get(&self, key: &str) -> Option<&'j Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    fn wrong(&self, key: &str, wanted: &str) -> CheckpointError {
        let Self { file, place, .. } = self;
        let found = self.object.get(key).unwrap_or(&Value::Null);
        CheckpointError::Import(format!("{file} has {place}{key} = {found}, wanted {wanted}"))
    }

    fn size(&self, key: &str) -> Result<Option<usize>, CheckpointError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_u64().map(|n| Some(n as usize)).ok_or_else(|| self.wrong(key, "a number"))
    }

    fn number(&self, key: &str) -> Result<Option<f64>, CheckpointError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.wrong(key, "a number"))
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, CheckpointError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(key, "true or false"))
    }

    fn text(&self, key: &str) -> Option<&'j str> {
        self.get(key).and_then(Value::as_str)
    }

    /// One number for each colour.
    fn colours(&self, key: &str) -> Result<Option<[f32; 3]>, CheckpointError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let three = match value {
            Value::Number(one) => one.as_f64().map(|one| [one as f32; 3]),
            value => serde_json::from_value(value.clone()).ok(),
        };
        three.map(Some).ok_or_else(|| self.wrong(key, "three numbers"))
    }

    /// A side in pixels, written as one number, `[side, side]` or `{"height", "width"}`.
    fn side(&self, key: &str) -> Result<Option<usize>, CheckpointError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let sides: Vec<u64> = match value {
            Value::Array(sides) => sides.iter().filter_map(Value::as_u64).collect(),
            Value::Object(sides) => {
                ["height", "width"].iter().filter_map(|key| sides.get(*key)?.as_u64()).collect()
            }
            value => value.as_u64().into_iter().flat_map(|side| [side, side]).collect(),
        };
        match sides[..] {
            [height, width] if height == width => Ok(Some(height as usize)),
            _ => Err(self.wrong(key, "a square")),
        }
    }

    fn within(&self, key: &str, place: &'static str) -> Result<Option<Self>, CheckpointError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let object = value.as_object().ok_or_else(|| self.wrong(key, "an object"))?;
        Ok(Some(Keys { file: self.file, place, object }))
    }

    /// Fails on an unknown key: it may change the graph.
    fn reject_unknown_keys(&self, known: &[&str]) -> Result<(), CheckpointError> {
        let is_neutral = |value: &Value| value.is_null() || value == &Value::Bool(false);
        match self
            .object
            .iter()
            .find(|(key, value)| !known.contains(&key.as_str()) && !is_neutral(value))
        {
            None => Ok(()),
            Some((key, value)) => Err(CheckpointError::Import(format!(
                "{} has {}{key} = {value}, which is unknown and may change the computation\n  hint: only plain encoders can be imported",
                self.file, self.place
            ))),
        }
    }
}

fn parse(file: &'static str, text: &str) -> Result<Map<String, Value>, CheckpointError> {
    let malformed =
        |cause: &str| CheckpointError::Import(format!("{file} is not a JSON object{cause}"));
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(malformed("")),
        Err(cause) => Err(malformed(&format!(": {cause}"))),
    }
}

/// Reads the settings of an encoder with this layout.
pub(super) fn read(kind: Kind, configs: &TowerConfigs) -> Result<TowerSettings, CheckpointError> {
    let mut settings = match (kind, &configs.open_clip, &configs.config) {
        (Kind::OpenClip, Some(text), _) => open_clip(text)?,
        (Kind::Clip | Kind::Siglip | Kind::Dinov2, _, Some(text)) => hugging_face(kind, text)?,
        (Kind::Clip | Kind::Siglip | Kind::Dinov2, _, None) => {
            return Err(CheckpointError::Import(
                "config.json is not beside the weights, but is needed for the activation and the number of heads\n  hint: download it into the same folder".into(),
            ));
        }
        (Kind::TimmVit | Kind::TimmLite, _, Some(text)) => timm(kind, text)?,
        (Kind::TimmVit | Kind::TimmLite, Some(text), None) => open_clip_with_timm(kind, text)?,
        _ => TowerSettings::default(),
    };
    if let (Kind::Clip | Kind::Siglip | Kind::Dinov2, Some(text)) = (kind, &configs.preprocessor) {
        preprocessor(text, &mut settings)?;
    }
    if kind == Kind::Dinov2 || settings.image_size.is_none() {
        return Ok(settings);
    }
    let model = settings.sizes.iter().find(|(key, _)| *key == "image_size").map(|(_, size)| *size);
    match (model, settings.image_size) {
        (Some(model), Some(pictures)) if model != pictures => {
            Err(CheckpointError::Import(format!(
                "preprocessing makes pictures {pictures} px wide but the encoder takes {model}\n  hint: do the config files belong to the weights?"
            )))
        }
        _ => Ok(settings),
    }
}

const OPEN_CLIP_FILE: &str = "open_clip_config.json";
const MODEL_KEYS: [&str; 9] = [
    "embed_dim",
    "vision_cfg",
    "text_cfg",
    "quick_gelu",
    "multimodal_cfg",
    "custom_text",
    "init_logit_scale",
    "init_logit_bias",
    "nonscalar_logit_scale",
];
/// Keys of a `vision_cfg` that every reader of OpenCLIP's files supports. Some need no reading:
/// LayerScale shows in the weights, and dropout is for training.
pub const OPEN_CLIP_VISION_KEYS: [&str; 14] = [
    "image_size",
    "layers",
    "width",
    "head_width",
    "patch_size",
    "mlp_ratio",
    "ls_init_value",
    "patch_dropout",
    "no_ln_pre",
    "act_kwargs",
    "norm_kwargs",
    "attn_pooler_queries",
    "attn_pooler_heads",
    "output_tokens",
];
/// Further keys that an imported encoder may have. The kind of positions shows in the weights.
const TOWER_KEYS: [&str; 3] = ["pos_embed_type", "pool_type", "final_ln_after_pool"];
const TIMM_VISION_KEYS: [&str; 9] = [
    "image_size",
    "timm_model_name",
    "timm_model_pretrained",
    "timm_pool",
    "timm_proj",
    "timm_proj_bias",
    "timm_drop",
    "timm_drop_path",
    "patch_dropout",
];

/// The model part and the preprocessing part of an `open_clip_config.json`. The file may consist of
/// the model part alone.
fn open_clip_parts(
    root: &Map<String, Value>,
) -> Result<(Keys<'_>, Option<Keys<'_>>), CheckpointError> {
    let root = Keys { file: OPEN_CLIP_FILE, place: "", object: root };
    let model = root.within("model_cfg", "model_cfg.")?.unwrap_or(root);
    Ok((model, root.within("preprocess_cfg", "preprocess_cfg.")?))
}

fn open_clip(text: &str) -> Result<TowerSettings, CheckpointError> {
    let root = parse(OPEN_CLIP_FILE, text)?;
    let (model, preprocess) = open_clip_parts(&root)?;
    model.reject_unknown_keys(&MODEL_KEYS)?;
    let vision = model.within("vision_cfg", "vision_cfg.")?;
    let vision = vision.ok_or_else(|| model.wrong("vision_cfg", "an object"))?;
    vision.reject_unknown_keys(&[&OPEN_CLIP_VISION_KEYS[..], &TOWER_KEYS].concat())?;
    let mut settings = open_clip_vision(model.object, vision.object)?;
    settings.norms_after_pooling = vision.flag("final_ln_after_pool")?.unwrap_or(false);
    if let Some(preprocess) = preprocess {
        open_clip_preprocess(preprocess, &mut settings)?;
    }
    Ok(settings)
}

/// Reads the settings of the blocks from `model_cfg` and its `vision_cfg`.
pub fn open_clip_vision(
    model: &Map<String, Value>,
    vision: &Map<String, Value>,
) -> Result<TowerSettings, CheckpointError> {
    let model = Keys { file: OPEN_CLIP_FILE, place: "model_cfg.", object: model };
    let vision = Keys { file: OPEN_CLIP_FILE, place: "vision_cfg.", object: vision };
    let is_quick = model.flag("quick_gelu")?.unwrap_or(false);
    let act = match vision.within("act_kwargs", "vision_cfg.act_kwargs.")? {
        Some(act) if !is_quick && !act.object.is_empty() => {
            act.reject_unknown_keys(&["approximate"])?;
            match act.text("approximate") {
                Some("tanh") => HiddenAct::GeluPytorchTanh,
                Some("none") => HiddenAct::Gelu,
                _ => return Err(act.wrong("approximate", "\"tanh\" or \"none\"")),
            }
        }
        Some(act) if !act.object.is_empty() => {
            return Err(vision.wrong("act_kwargs", "no arguments with QuickGELU"));
        }
        _ if is_quick => HiddenAct::QuickGelu,
        _ => HiddenAct::Gelu,
    };
    let norm = vision.within("norm_kwargs", "vision_cfg.norm_kwargs.")?;
    let eps = match norm {
        Some(norm) => {
            norm.reject_unknown_keys(&["eps"])?;
            norm.number("eps")?
        }
        None => None,
    };
    let width = vision.size("width")?;
    let head_width = vision.size("head_width")?.unwrap_or(64);
    if head_width == 0 {
        return Err(vision.wrong("head_width", "a number above 0"));
    }
    let keys =
        [("width", "hidden_size"), ("layers", "num_hidden_layers"), ("patch_size", "patch_size")];
    let mut sizes = Vec::new();
    for (key, ours) in keys {
        sizes.extend(vision.size(key)?.map(|size| (ours, size)));
    }
    sizes.extend(vision.side("image_size")?.map(|side| ("image_size", side)));
    Ok(TowerSettings {
        num_attention_heads: width.map(|width| width / head_width),
        hidden_act: Some(act),
        layer_norm_eps: Some(eps.unwrap_or(OPEN_CLIP_EPS)),
        sizes,
        ..TowerSettings::default()
    })
}

fn open_clip_preprocess(keys: Keys, settings: &mut TowerSettings) -> Result<(), CheckpointError> {
    if let (Some(mean), Some(std)) = (keys.colours("mean")?, keys.colours("std")?) {
        settings.mean_std = Some((mean, std));
    }
    settings.image_size = keys.side("size")?;
    settings.resize_mode = match keys.text("resize_mode") {
        None | Some("shortest") => Some(ResizeMode::Crop),
        Some("squash") => Some(ResizeMode::Squash),
        Some(_) => return Err(keys.wrong("resize_mode", "\"shortest\" or \"squash\"")),
    };
    interpolation(keys, "interpolation", settings);
    Ok(())
}

/// Notes an interpolation other than bicubic. This program always uses bicubic, so results differ
/// slightly.
fn interpolation(keys: Keys, key: &str, settings: &mut TowerSettings) {
    if let Some(other) = keys.text(key).filter(|name| *name != "bicubic") {
        settings
            .notes
            .push(format!("{} asks for {other} resizing; bicubic is used instead", keys.file));
    }
}

/// Reads the settings of a timm encoder inside an OpenCLIP model.
fn open_clip_with_timm(kind: Kind, text: &str) -> Result<TowerSettings, CheckpointError> {
    let root = parse(OPEN_CLIP_FILE, text)?;
    let (model, preprocess) = open_clip_parts(&root)?;
    let vision = model.within("vision_cfg", "vision_cfg.")?;
    let vision = vision.ok_or_else(|| model.wrong("vision_cfg", "an object"))?;
    vision.reject_unknown_keys(&TIMM_VISION_KEYS)?;
    let name = vision.text("timm_model_name");
    let name = name.ok_or_else(|| vision.wrong("timm_model_name", "a name"))?;
    let mut settings = match kind {
        Kind::TimmLite => timm_lite(name, || vision.wrong("timm_model_name", LITE_NAMES))?,
        _ => timm_vit(name)?,
    };
    settings.sizes.extend(vision.side("image_size")?.map(|side| ("image_size", side)));
    if let Some(preprocess) = preprocess {
        open_clip_preprocess(preprocess, &mut settings)?;
    }
    Ok(settings)
}

const CONFIG_FILE: &str = "config.json";

fn hugging_face(kind: Kind, text: &str) -> Result<TowerSettings, CheckpointError> {
    let root = parse(CONFIG_FILE, text)?;
    let root = Keys { file: CONFIG_FILE, place: "", object: &root };
    let whole = root.within("vision_config", "vision_config.")?;
    let (types, eps, act): (&[&str], f64, &str) = match kind {
        Kind::Clip => (&["clip", "clip_vision_model"], 1e-5, "quick_gelu"),
        Kind::Siglip => (&["siglip", "siglip_vision_model"], 1e-6, "gelu_pytorch_tanh"),
        _ => (&["dinov2"], 1e-6, "gelu"),
    };
    if !root.text("model_type").is_some_and(|found| types.contains(&found)) {
        return Err(root.wrong("model_type", &types.join(" or ")));
    }
    let keys = whole.unwrap_or(root);
    // Switches that must be off: this program does not implement them.
    for key in ["use_swiglu_ffn"] {
        if keys.flag(key)? == Some(true) {
            return Err(keys.wrong(key, "false"));
        }
    }
    let hidden_act = match keys.text("hidden_act").unwrap_or(act) {
        "gelu" => HiddenAct::Gelu,
        "quick_gelu" => HiddenAct::QuickGelu,
        "gelu_pytorch_tanh" | "gelu_new" => HiddenAct::GeluPytorchTanh,
        _ => return Err(keys.wrong("hidden_act", "gelu, quick_gelu or gelu_pytorch_tanh")),
    };
    // transformers omits keys with default values. The defaults are those of a base model.
    let size = |key: &'static str, default: usize| Ok((key, keys.size(key)?.unwrap_or(default)));
    let default_patch_size = match kind {
        Kind::Clip => 32,
        Kind::Siglip => 16,
        _ => 14,
    };
    let sizes = vec![
        size("hidden_size", 768)?,
        size("num_hidden_layers", 12)?,
        size("patch_size", default_patch_size)?,
        ("image_size", keys.side("image_size")?.unwrap_or(224)),
    ];
    Ok(TowerSettings {
        num_attention_heads: Some(keys.size("num_attention_heads")?.unwrap_or(12)),
        hidden_act: Some(hidden_act),
        layer_norm_eps: Some(keys.number("layer_norm_eps")?.unwrap_or(eps)),
        sizes,
        ..TowerSettings::default()
    })
}

/// Reads the settings of transformers' image processors.
fn preprocessor(text: &str, settings: &mut TowerSettings) -> Result<(), CheckpointError> {
    let root = parse("preprocessor_config.json", text)?;
    let keys = Keys { file: "preprocessor_config.json", place: "", object: &root };
    if keys.flag("do_rescale")? == Some(false) {
        return Err(keys.wrong("do_rescale", "true"));
    }
    let factor = keys.number("rescale_factor")?;
    if factor.is_some_and(|factor| (factor * 255.0 - 1.0).abs() > 1e-4) {
        return Err(keys.wrong("rescale_factor", "1/255"));
    }
    settings.mean_std =
        match (keys.flag("do_normalize")?, keys.colours("image_mean")?, keys.colours("image_std")?)
        {
            (Some(false), ..) => Some(([0.0; 3], [1.0; 3])),
            (_, Some(mean), Some(std)) => Some((mean, std)),
            _ => settings.mean_std,
        };
    let is_square = keys.get("size").is_some_and(|size| size.get("height").is_some());
    settings.image_size = match keys.flag("do_center_crop")? {
        Some(true) => keys.side("crop_size")?,
        _ if is_square => keys.side("size")?,
        _ => None,
    };
    settings.resize_mode = match (keys.flag("do_center_crop")?, is_square) {
        (Some(true), _) => Some(ResizeMode::Crop),
        (_, true) => Some(ResizeMode::Squash),
        _ => None,
    };
    // 3 is Pillow's number for bicubic.
    if let Some(other) = keys.size("resample")?.filter(|number| *number != 3) {
        settings.notes.push(format!(
            "{} asks for resample = {other}; bicubic (3) is used instead",
            keys.file
        ));
    }
    let shortest =
        keys.get("size").and_then(|size| size.get("shortest_edge")).and_then(Value::as_u64);
    if let (Some(shortest), Some(side), Some(ResizeMode::Crop)) =
        (shortest, settings.image_size, settings.resize_mode)
        && shortest as usize != side
    {
        settings.notes.push(format!(
            "{} makes the shortest side {shortest} px before it cuts {side} out; here nothing is cut off that side",
            keys.file
        ));
    }
    Ok(())
}

/// Arguments of a timm ViT that show in its weights, or that V does not depend on.
const TIMM_ARGS: [&str; 17] = [
    "img_size",
    "patch_size",
    "embed_dim",
    "depth",
    "num_heads",
    "mlp_ratio",
    "init_values",
    "class_token",
    "no_embed_class",
    "pre_norm",
    "fc_norm",
    "qkv_bias",
    "global_pool",
    "num_classes",
    "dynamic_img_size",
    "drop_rate",
    "drop_path_rate",
];

/// Reads the `config.json` of a model on timm's hub.
fn timm(kind: Kind, text: &str) -> Result<TowerSettings, CheckpointError> {
    let root = parse(CONFIG_FILE, text)?;
    let root = Keys { file: CONFIG_FILE, place: "", object: &root };
    let name = root
        .text("architecture")
        .ok_or_else(|| root.wrong("architecture", "timm's name of the model"))?;
    let mut settings = match kind {
        Kind::TimmLite => timm_lite(name, || root.wrong("architecture", LITE_NAMES))?,
        _ => timm_vit(name)?,
    };
    if let Some(args) = root.within("model_args", "model_args.")? {
        args.reject_unknown_keys(&TIMM_ARGS)?;
        settings.num_attention_heads = args.size("num_heads")?.or(settings.num_attention_heads);
        settings.sizes.extend(args.side("img_size")?.map(|side| ("image_size", side)));
    }
    let Some(pretrained) = root.within("pretrained_cfg", "pretrained_cfg.")? else {
        return Ok(settings);
    };
    if let (Some(mean), Some(std)) = (pretrained.colours("mean")?, pretrained.colours("std")?) {
        settings.mean_std = Some((mean, std));
    }
    settings.image_size =
        match pretrained.get("input_size").and_then(Value::as_array).map(Vec::as_slice) {
            None => None,
            Some([channels, height, width]) if channels == &Value::from(3) && height == width => {
                height.as_u64().map(|side| side as usize)
            }
            Some(_) => return Err(pretrained.wrong("input_size", "[3, side, side]")),
        };
    settings.resize_mode = match pretrained.text("crop_mode") {
        Some("squash") => Some(ResizeMode::Squash),
        _ => Some(ResizeMode::Crop),
    };
    interpolation(pretrained, "interpolation", &mut settings);
    Ok(settings)
}

const LITE_NAMES: &str =
    "tf_efficientnet_lite0 to 4 (others pad otherwise and have another epsilon)";

/// Checks timm's name of an EfficientNet-Lite, whose weights show its sizes.
fn timm_lite(
    name: &str,
    wrong: impl Fn() -> CheckpointError,
) -> Result<TowerSettings, CheckpointError> {
    let is_lite = name.starts_with("tf_efficientnet_lite");
    if is_lite { Ok(TowerSettings::default()) } else { Err(wrong()) }
}

/// Derives settings from timm's name of a ViT.
fn timm_vit(name: &str) -> Result<TowerSettings, CheckpointError> {
    let name = name.split('.').next().unwrap_or_default();
    let is_plain = ["vit_", "deit_", "deit3_", "flexivit_", "test_vit"]
        .iter()
        .any(|start| name.starts_with(start));
    // `_rpn_` models have norms after the layers, under the names of the norms before them.
    if !is_plain || name.contains("_rpn_") {
        return Err(CheckpointError::Import(format!(
            "{name} is not one of timm's plain ViTs\n  hint: vit_*, deit_*, deit3_* and flexivit_* are supported"
        )));
    }
    let tanh = [
        "vit_base_patch32_siglip_",
        "vit_large_patch16_siglip_512",
        "vit_so400m_patch16_siglip_",
        "vit_giantopt_",
    ];
    let without_gap = name.replace("_gap", "");
    let hidden_act = if name.contains("quickgelu") {
        HiddenAct::QuickGelu
    } else if tanh.iter().any(|start| without_gap.starts_with(start)) {
        HiddenAct::GeluPytorchTanh
    } else {
        HiddenAct::Gelu
    };
    let num_attention_heads = match name {
        "vit_base_patch16_gap_224" => Some(16),
        _ if name.starts_with("test_vit3") || name.starts_with("test_vit4") => Some(3),
        _ if name.starts_with("test_vit") => Some(2),
        _ => None,
    };
    Ok(TowerSettings {
        num_attention_heads,
        hidden_act: Some(hidden_act),
        layer_norm_eps: Some(if name.contains("clip") { OPEN_CLIP_EPS } else { TIMM_EPS }),
        ..TowerSettings::default()
    })
}
