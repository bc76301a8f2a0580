//! Builds an MM-GEM model from a published image encoder and a Hugging Face Llama.
//!
//! An import builds no model before it writes the file:
//! - The files are mapped into memory (`core/data/src/files/published.rs`).
//! - `Tower::read` finds the one image encoder in them by its tensor names. It obeys the config
//!   files beside them. Training's `[model] vision` reads towers in the same way.
//! - It renames or combines tensors that are still bytes of a file (`stored.rs`): q, k and v become
//!   one matrix, LayerScale and batch norms are folded into the previous layer, positions are
//!   interpolated.
//! - A tensor is in memory only while it is written (`core/data/src/files/imported.rs`).
//!
//! An unknown key, tensor or size is an error. Values that no file has are assumed and reported in
//! [`Import::notes`].

use std::collections::BTreeSet;

use burn::tensor::Device;

use super::llama::llama;
use super::names::{OUTPUT_HEAD, TOKEN_EMBEDDING, checkpoint_name};
use super::read::{CheckpointError, load_present};
use super::shards::Shards;
use super::towers::{Tower, TowerConfigs, TowerOptions};
use super::write::{Parameter, parameters};
use crate::config::{CaptionOrder, MmGemConfig, VERSION, VisionTokens};
use crate::image::ResizeMode;
use crate::init::{fresh_values, fresh_where};
use crate::model::MmGem;

/// Settings that the checkpoints do not contain.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// Options for the image encoder.
    pub tower: TowerOptions,
    /// How a photo becomes square.
    pub resize_mode: ResizeMode,
    /// Width of the joint space (default: the width of CLIP's own projection, else 512).
    pub embed_dim: Option<usize>,
    /// Tokens of a whole image that the language model receives.
    pub vision_tokens: VisionTokens,
    /// Order of a caption's prefix.
    pub caption_order: CaptionOrder,
    /// Seed of the fresh parameters: h1–h4 and the tokens.
    pub seed: u64,
}

/// Default width of the joint space, as in the paper's B models.
const EMBED_DIM: usize = 512;

/// A planned model whose tensors are still in the checkpoints' files.
#[derive(Debug)]
pub struct Import<'a> {
    /// Sizes of the model.
    pub config: MmGemConfig,
    /// Assumptions, and deviations from the checkpoints' files.
    pub notes: Vec<String>,
    towers: Shards<'a>,
    seed: u64,
}

/// Finds both towers. Converts nothing yet.
///
/// # Errors
/// If a checkpoint has an unknown layout, part or switch, or if its tensors do not fit together.
pub fn import<'a>(
    vision: Shards<'a>,
    vision_configs: &TowerConfigs,
    language: Shards<'a>,
    language_config: &str,
    options: &ImportOptions,
) -> Result<Import<'a>, CheckpointError> {
    let tower = Tower::read(vision, vision_configs, &options.tower)?;
    let (llm, language) = llama(language, language_config)?;
    let mut notes = tower.notes;
    if let Some(theirs) = tower.resize_mode.filter(|theirs| *theirs != options.resize_mode) {
        notes.push(format!(
            "the image encoder's own preprocessing has resize mode {theirs:?}, this model has {:?} (--resize-mode)",
            options.resize_mode
        ));
    }
    let own_dim = tower.config.as_vit().and_then(|vit| vit.proj_dim);
    let config = MmGemConfig {
        format: "mm-gem".into(),
        version: VERSION,
        resize_mode: options.resize_mode,
        image_mean: tower.mean_std.0,
        image_std: tower.mean_std.1,
        vision_tokens: options.vision_tokens,
        caption_order: options.caption_order,
        num_caption_prompts: 64,
        roi_output_size: 7,
        roi_sampling_ratio: 2,
        max_text_len: 50,
        logit_scale_init: (1.0f64 / 0.07).ln(),
        logit_scale_max: 100.0f64.ln(),
        vision: tower.config,
        llm: llm.config,
        embed_dim: options.embed_dim.or(own_dim).unwrap_or(EMBED_DIM),
        bos_token_id: llm.bos_token_id,
        eos_token_id: llm.eos_token_id,
        search_cutoffs: Vec::new(),
    };
    config.check().map_err(|e| CheckpointError::Import(e.to_string()))?;
    let towers = tower.shards.join(language);
    let import = Import { config, notes, towers, seed: options.seed };
    import.check()?;
    Ok(import)
}

impl Import<'_> {
    /// The model: `visual.*` and `llm.*` from the checkpoints, everything else fresh.
    ///
    /// # Errors
    /// If a tensor cannot be read.
    pub fn model(&self, device: &Device) -> Result<MmGem, CheckpointError> {
        let (model, missing) = load_present(MmGem::new(&self.config, device), &self.towers)?;
        let is_fresh = |path: &str| missing.contains(&checkpoint_name(path));
        Ok(fresh_where(model, &self.config, self.seed, &is_fresh))
    }

    /// Lists the parameters of the model without loading any of them.
    pub fn parameters(&self) -> Vec<Parameter> {
        // The module is lazy: a matrix is allocated at its first use, and none is used here.
        parameters(&MmGem::new(&self.config, &Device::default()))
    }

    /// Computes the values of one parameter, in the layout of the file.
    ///
    /// # Errors
    /// If a tensor that it is made of cannot be read.
    pub fn values(&self, parameter: &Parameter) -> Result<Vec<f32>, CheckpointError> {
        match self.towers.values(&parameter.name) {
            Some(values) => values,
            None => Ok(fresh_values(parameter, &self.config, self.seed)),
        }
    }

    /// Checks that every tensor of the towers is used and has the right sizes.
    fn check(&self) -> Result<(), CheckpointError> {
        let parameters = self.parameters();
        let mut used: BTreeSet<String> =
            parameters.iter().map(|parameter| parameter.name.clone()).collect();
        if self.towers.same_bytes(OUTPUT_HEAD, TOKEN_EMBEDDING) {
            used.insert(OUTPUT_HEAD.to_owned());
        }
        let unused = self.towers.names_without(&used);
        if !unused.is_empty() {
            return Err(CheckpointError::Unused(unused));
        }
        let mut missing = Vec::new();
        for Parameter { name, shape, .. } in parameters {
            match self.towers.shape(&name) {
                Some(found) if found != shape => {
                    return Err(CheckpointError::Shape {
                        found: found.to_vec(),
                        name,
                        wanted: shape,
                    });
                }
                None if name.starts_with("visual.") || name.starts_with("llm.") => {
                    missing.push(name)
                }
                _ => {}
            }
        }
        if missing.is_empty() { Ok(()) } else { Err(CheckpointError::Missing(missing)) }
    }
}
