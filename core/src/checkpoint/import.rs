//! A published image encoder and a Hugging Face Llama become an MM-GEM model.

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

/// What the checkpoints do not say.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// Of the image encoder.
    pub tower: TowerOptions,
    /// How a photo becomes square.
    pub resize_mode: ResizeMode,
    /// Width of the joint space; that of CLIP's own if absent, else 512.
    pub embed_dim: Option<usize>,
    /// What the language model sees of a whole image.
    pub vision_tokens: VisionTokens,
    /// Order of a caption's prefix.
    pub caption_order: CaptionOrder,
    /// Seed of h1–h4 and the tokens.
    pub seed: u64,
}

/// Width of the joint space of encoders that have none of their own: the paper's B models.
const EMBED_DIM: usize = 512;

/// A model whose tensors are still those of the checkpoints.
#[derive(Debug)]
pub struct Import<'a> {
    /// Its sizes.
    pub config: MmGemConfig,
    /// What was assumed, and where the checkpoints' files are not followed to the letter.
    pub notes: Vec<String>,
    towers: Shards<'a>,
    seed: u64,
}

/// Finds both towers; nothing is converted yet.
///
/// # Errors
/// If a checkpoint has a layout, a part or a switch that is not known, or its tensors do not fit together.
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
            "the image encoder's own program makes photos square by {theirs:?}, the model by {:?} (--resize-mode)",
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

    /// The parameters of the model, none of them in memory.
    pub fn parameters(&self) -> Vec<Parameter> {
        // Matrices are made when they are first used, and none is.
        parameters(&MmGem::new(&self.config, &Device::default()))
    }

    /// The values of one parameter in the layout of the file, made for this call.
    ///
    /// # Errors
    /// If the tensors that it is made of cannot be read.
    pub fn values(&self, parameter: &Parameter) -> Result<Vec<f32>, CheckpointError> {
        match self.towers.values(&parameter.name) {
            Some(values) => values,
            None => Ok(fresh_values(parameter, &self.config, self.seed)),
        }
    }

    /// Whether every tensor of the towers has its place and its sizes.
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
