//! Published image encoders: which layout a checkpoint has, its sizes, and its tensors under our names.

use super::read::{CheckpointError, load_present};
use super::shards::Shards;
use crate::config::{EfficientNetLiteConfig, VisionConfig};
use crate::model::MmGem;

/// A tower whose layout is known.
#[derive(Debug)]
pub struct Tower<'a> {
    /// Its sizes.
    pub config: VisionConfig,
    /// Its tensors under their names in `model.safetensors`.
    pub shards: Shards<'a>,
}

/// Mean and standard deviation of an EfficientNet-Lite's pixels: `(x - 127) / 128` of 0..=255.
pub const LITE_MEAN_STD: ([f32; 3], [f32; 3]) = ([127.0 / 255.0; 3], [128.0 / 255.0; 3]);

/// Width, depth and input of EfficientNet-Lite0 to Lite4.
const LITE_VARIANTS: [(f64, f64, usize); 5] =
    [(1.0, 1.0, 224), (1.0, 1.1, 240), (1.1, 1.2, 260), (1.2, 1.4, 280), (1.4, 1.8, 300)];

impl<'a> Tower<'a> {
    /// An EfficientNet-Lite with folded batch norms: `stem`, `blocks.N.{expand,dw,project}`, `head`.
    ///
    /// Returns the shards unchanged if the names are not those.
    pub fn efficientnet_lite(shards: Shards<'a>) -> Result<Self, Shards<'a>> {
        let shape = |name: &str| shards.shape(name).unwrap_or_default().to_vec();
        let fits = |config: &EfficientNetLiteConfig| {
            let blocks = config.blocks();
            let block_fits = |(idx, block): (usize, &crate::config::MbConvConfig)| {
                let wanted = [block.out_channels, block.expanded_channels, 1, 1];
                shape(&format!("blocks.{idx}.project.weight")) == wanted
            };
            blocks.iter().enumerate().all(block_fits)
                && shape(&format!("blocks.{}.project.weight", blocks.len())).is_empty()
        };
        let head = shape("head.weight");
        let variant = LITE_VARIANTS.into_iter().map(|(width_coefficient, depth_coefficient, image_size)| {
            let hidden_size = head.first().copied().unwrap_or(0);
            EfficientNetLiteConfig { image_size, width_coefficient, depth_coefficient, hidden_size }
        });
        let Some(config) = variant.into_iter().find(fits) else { return Err(shards) };
        let shards = shards
            .rename(|name| (!name.starts_with("fc.")).then(|| format!("visual.{name}")))
            .flatten_pointwise();
        Ok(Self { config: VisionConfig::EfficientNetLite(config), shards })
    }
}

/// Gives a model that is otherwise fresh the weights of a published tower.
pub fn load_tower(model: MmGem, config: &VisionConfig, shards: Shards) -> Result<MmGem, CheckpointError> {
    let unknown = || {
        CheckpointError::Import(
            "the tensors are not those of an EfficientNet-Lite (stem, blocks.N.{expand,dw,project}, head)"
                .into(),
        )
    };
    let tower = Tower::efficientnet_lite(shards).map_err(|_| unknown())?;
    let same_network = match (config, &tower.config) {
        (VisionConfig::EfficientNetLite(wanted), VisionConfig::EfficientNetLite(found)) => {
            let image_size = wanted.image_size;
            *wanted == EfficientNetLiteConfig { image_size, ..found.clone() }
        }
        (wanted, found) => wanted == found,
    };
    if !same_network {
        return Err(CheckpointError::Import(format!(
            "the tower is {}, but config.json wants {config}\n  hint: give the config the tower's sizes",
            tower.config
        )));
    }
    let (model, missing) = load_present(model, &tower.shards)?;
    let missing: Vec<String> = missing.into_iter().filter(|name| name.starts_with("visual.")).collect();
    if missing.is_empty() { Ok(model) } else { Err(CheckpointError::Missing(missing)) }
}
