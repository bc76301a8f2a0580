//! Published image encoders: recognizes a checkpoint's layout, reads the config files beside it,
//! and renames its tensors.

mod layout;
mod lite;
mod positions;
pub mod settings;
pub mod vit;
pub(super) mod write;

use super::read::{CheckpointError, load_present, transpose};
use super::shards::Shards;
use super::stored::Stored;
use crate::config::{HiddenAct, MmGemConfig, VisionConfig};
use crate::image::ResizeMode;
use crate::model::MmGem;
pub use layout::Kind;
pub use settings::TowerConfigs;
use vit::HiddenSettings;

/// Mean and standard deviation of each colour, for pixels scaled to 0..1.
pub type MeanStd = ([f32; 3], [f32; 3]);

/// Pixel statistics of OpenAI's encoders and most of LAION's.
pub const OPENAI_MEAN_STD: MeanStd =
    ([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_55, 0.261_302_6, 0.275_777_1]);
/// Maps pixels to −1..1: LAION-2B's ViT-L/14, SigLIP, most of timm's ViTs.
pub const INCEPTION_MEAN_STD: MeanStd = ([0.5; 3], [0.5; 3]);
/// ImageNet's pixel statistics: DINOv2, DeiT.
pub const IMAGENET_MEAN_STD: MeanStd = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
/// EfficientNet-Lite: `(x - 127) / 128` of pixels in 0..=255.
pub const LITE_MEAN_STD: MeanStd = ([127.0 / 255.0; 3], [128.0 / 255.0; 3]);

/// Settings of a tower that the caller knows. It is an error if they contradict the tower's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct TowerOptions {
    /// Side of the input in pixels. Positions are interpolated to it.
    pub image_size: Option<usize>,
    /// Attention heads of a ViT.
    pub num_attention_heads: Option<usize>,
    /// Activation of a ViT.
    pub hidden_act: Option<HiddenAct>,
    /// Pixel statistics that it was trained with.
    pub mean_std: Option<MeanStd>,
}

/// An image encoder whose layout is known.
#[derive(Debug)]
pub struct Tower<'a> {
    /// Its sizes.
    pub config: VisionConfig,
    /// Mean and deviation of the pixels that it was trained with.
    pub mean_std: MeanStd,
    /// How its own preprocessing makes a photo square, if a file says so.
    pub resize_mode: Option<ResizeMode>,
    /// Assumptions, and deviations from its files.
    pub notes: Vec<String>,
    /// Its tensors under their names in `model.safetensors`.
    pub shards: Shards<'a>,
}

impl<'a> Tower<'a> {
    /// Finds the image encoder of a checkpoint.
    ///
    /// # Errors
    /// If the layout is unknown, if the files contradict each other or the options, or if the
    /// encoder has unsupported parts.
    pub fn read(
        checkpoint: Shards<'a>,
        configs: &TowerConfigs,
        options: &TowerOptions,
    ) -> Result<Self, CheckpointError> {
        let layout::FoundEncoder { layout, prefix, mut encoder, mut rest } =
            layout::find_encoder(checkpoint)?;
        let in_checkpoint = |error| match error {
            CheckpointError::Missing(names) => CheckpointError::Missing(
                names.iter().map(|name| format!("{prefix}{name}")).collect(),
            ),
            other => other,
        };
        let kind = layout.kind;
        let tower_settings = settings::read(kind, configs)?;
        let mut notes = tower_settings.notes.clone();
        let mean_std = agreed(
            tower_settings.mean_std,
            options.mean_std,
            "the mean and deviation of pixels",
            same_pixels,
        )?
        .unwrap_or_else(|| {
            let (assumed, words) = usual_pixels(kind);
            if kind != Kind::FoldedLite {
                notes.push(format!(
                    "no file states the mean and deviation of pixels: {words} are assumed"
                ));
            }
            assumed
        });
        let (mut config, mut shards) = match kind {
            Kind::TimmLite | Kind::FoldedLite => {
                let (mut lite, shards) = match kind {
                    Kind::TimmLite => lite::timm(&mut encoder),
                    _ => lite::folded(&mut encoder),
                }
                .map_err(in_checkpoint)?;
                if kind == Kind::TimmLite && configs.config.is_none() && configs.open_clip.is_none()
                {
                    notes.push(
                        "no config.json states the architecture: assuming tf_efficientnet_lite"
                            .into(),
                    );
                }
                lite.image_size = tower_settings.image_size.unwrap_or(lite.image_size);
                (VisionConfig::EfficientNetLite(lite), shards)
            }
            _ => {
                let hidden =
                    settings_not_in_weights(kind, &encoder, &tower_settings, options, &mut notes)?;
                let (mut vit, mut shards) =
                    vit::assemble(kind, &mut encoder, hidden).map_err(in_checkpoint)?;
                if let Some(projection) =
                    rest.take("visual_projection.weight").filter(|_| kind == Kind::Clip)
                {
                    let [proj_dim, hidden_size] = projection.dims()?;
                    vit.proj_dim = Some(proj_dim);
                    shards.put("visual.proj", transposed(projection, hidden_size));
                }
                (VisionConfig::Vit(vit), shards)
            }
        };
        check_all_used(&encoder, &prefix, layout.title)?;
        check_sizes(&config, &tower_settings.sizes)?;
        let image_size =
            options.image_size.or(tower_settings.image_size).unwrap_or(config.image_size());
        let grid = config.grid();
        set_image_size(&mut config, &mut shards, kind, image_size)?;
        if config.as_vit().is_some() && config.grid() != grid {
            let new = config.grid();
            notes.push(format!(
                "the positions of {grid}x{grid} patches are interpolated to {new}x{new}"
            ));
        }
        Ok(Self { config, mean_std, resize_mode: tower_settings.resize_mode, notes, shards })
    }
}

/// Loads the weights of a published tower into an otherwise fresh model.
///
/// # Errors
/// If `config` does not match the tower, or if the tower cannot be read.
pub fn load_tower(
    model: MmGem,
    config: &MmGemConfig,
    checkpoint: Shards,
    configs: &TowerConfigs,
) -> Result<MmGem, CheckpointError> {
    let wanted = &config.vision;
    let options = TowerOptions {
        image_size: Some(wanted.image_size()),
        num_attention_heads: wanted.as_vit().map(|vit| vit.num_attention_heads),
        hidden_act: wanted.as_vit().map(|vit| vit.hidden_act),
        mean_std: Some((config.image_mean, config.image_std)),
    };
    let tower = Tower::read(checkpoint, configs, &options)?;
    if tower.config != *wanted {
        return Err(CheckpointError::Import(format!(
            "the tower is {}, but config.json wants {wanted}\n  hint: give the config the tower's sizes: {}",
            tower.config,
            serde_json::to_string(&tower.config).expect("plain values serialise")
        )));
    }
    let (model, missing) = load_present(model, &tower.shards)?;
    let missing: Vec<String> =
        missing.into_iter().filter(|name| name.starts_with("visual.")).collect();
    if missing.is_empty() { Ok(model) } else { Err(CheckpointError::Missing(missing)) }
}

/// Collects the settings that the weights of a ViT do not show: from the files, the options, or the
/// usual value.
fn settings_not_in_weights(
    kind: Kind,
    encoder: &Shards,
    tower_settings: &settings::TowerSettings,
    options: &TowerOptions,
    notes: &mut Vec<String>,
) -> Result<HiddenSettings, CheckpointError> {
    let heads = agreed(
        tower_settings.num_attention_heads,
        options.num_attention_heads,
        "the number of heads",
        |a, b| a == b,
    )?;
    let act =
        agreed(tower_settings.hidden_act, options.hidden_act, "the activation", |a, b| a == b)?;
    let hidden_size = vit::hidden_size(kind, encoder).unwrap_or(0);
    let num_attention_heads = match heads {
        Some(heads) => heads,
        None => vit::usual_heads(hidden_size)?,
    };
    if tower_settings.hidden_act.is_none() && (act.is_none() || heads.is_none()) {
        let file = if kind == Kind::OpenClip { "open_clip_config.json" } else { "config.json" };
        let act = act.unwrap_or(HiddenAct::Gelu);
        notes.push(format!(
            "no {file} beside the weights: {num_attention_heads} heads and the activation {act:?} are assumed"
        ));
    }
    let is_clip = encoder.shape("norm_pre.weight").is_some() || kind == Kind::OpenClip;
    let usual_eps = if is_clip { settings::OPEN_CLIP_EPS } else { settings::TIMM_EPS };
    Ok(HiddenSettings {
        num_attention_heads,
        hidden_act: act.unwrap_or(HiddenAct::Gelu),
        layer_norm_eps: tower_settings.layer_norm_eps.unwrap_or(usual_eps),
        norms_after_pooling: tower_settings.norms_after_pooling,
    })
}

/// Returns the value in the files, or else the option. It is an error if they contradict each
/// other.
fn agreed<T: std::fmt::Debug>(
    in_files: Option<T>,
    asked_for: Option<T>,
    what: &str,
    is_same: impl Fn(&T, &T) -> bool,
) -> Result<Option<T>, CheckpointError> {
    match (in_files, asked_for) {
        (Some(found), Some(wanted)) if !is_same(&found, &wanted) => {
            Err(CheckpointError::Import(format!(
                "{what} is {found:?} in the files beside the weights but {wanted:?} is asked for\n  hint: ask for the files' value, or correct the files"
            )))
        }
        (found, wanted) => Ok(found.or(wanted)),
    }
}

/// Compares pixel statistics. Half a step of 1/255 is negligible.
fn same_pixels(a: &MeanStd, b: &MeanStd) -> bool {
    let (a, b) = ([a.0, a.1].concat(), [b.0, b.1].concat());
    a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 0.5 / 255.0)
}

fn usual_pixels(kind: Kind) -> (MeanStd, &'static str) {
    match kind {
        Kind::OpenClip | Kind::Clip => (OPENAI_MEAN_STD, "OpenAI's"),
        Kind::Siglip | Kind::TimmVit => (INCEPTION_MEAN_STD, "0.5 and 0.5"),
        Kind::Dinov2 => (IMAGENET_MEAN_STD, "ImageNet's"),
        Kind::TimmLite | Kind::FoldedLite => (LITE_MEAN_STD, "127/255 and 128/255"),
    }
}

fn transposed<'a>(matrix: Stored<'a>, n_columns: usize) -> Stored<'a> {
    let n_rows = matrix.shape()[0];
    Stored::computed(vec![matrix], vec![n_columns, n_rows], move |of| transpose(&of[0], n_columns))
}

fn check_all_used(encoder: &Shards, prefix: &str, title: &str) -> Result<(), CheckpointError> {
    let rest: Vec<&str> = encoder.names().collect();
    match rest.first() {
        None => Ok(()),
        Some(first) => Err(CheckpointError::Import(format!(
            "{} tensors of the image encoder have no place here, the first is {prefix}{first}\n  hint: the layout is that of {title}, but the encoder has extra parts",
            rest.len()
        ))),
    }
}

fn check_sizes(
    config: &VisionConfig,
    wanted: &[(&'static str, usize)],
) -> Result<(), CheckpointError> {
    let found = serde_json::to_value(config).expect("plain values serialise");
    for (key, wanted) in wanted {
        let found = found.get(key).and_then(serde_json::Value::as_u64);
        if found.is_some_and(|found| found != *wanted as u64) {
            return Err(CheckpointError::Import(format!(
                "{key} is {} in the weights but {wanted} in the config beside them\n  hint: do they belong to the same model?",
                found.unwrap_or_default()
            )));
        }
    }
    Ok(())
}

fn set_image_size(
    config: &mut VisionConfig,
    shards: &mut Shards,
    kind: Kind,
    image_size: usize,
) -> Result<(), CheckpointError> {
    match config {
        VisionConfig::EfficientNetLite(lite) => lite.image_size = image_size,
        VisionConfig::Vit(vit) if vit.image_size == image_size => {}
        VisionConfig::Vit(vit) if !image_size.is_multiple_of(vit.patch_size) || image_size == 0 => {
            return Err(CheckpointError::Import(format!(
                "an image size of {image_size} is asked for, but patches are {} wide\n  hint: ask for a multiple of the patch size",
                vit.patch_size
            )));
        }
        VisionConfig::Vit(vit) => vit::resize_positions(shards, vit, kind, image_size),
    }
    Ok(())
}
