//! Parameter groups: the learning rate and weight decay of each parameter, by its name.

use std::collections::BTreeMap;

use burn::module::Module;
use glob::Pattern;
use mmgem_core::checkpoint::names::checkpoint_name;
use mmgem_core::config::{MmGemConfig, VisionConfig};
use mmgem_core::params::visit;

use super::config::{OptimConfig, TrainConfig, TrainConfigError};

/// The settings of one parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ParamSettings {
    /// Factor on the learning rate of its tower or of the heads.
    pub lr_multiplier: f64,
    /// Weight decay; 0 for biases, norms and tokens, also in a group.
    pub weight_decay: f32,
    /// Whether the parameter has weight decay, and with LAMB a trust ratio.
    pub decays: bool,
}

/// The settings of every parameter of a module, by module path.
///
/// Layer-wise decay counts as BEiT does (arXiv:2106.08254): of a tower with `n` blocks, block `i`
/// from 0 has the factor `layer_decay^(n - i)`, the embeddings before the blocks have
/// `layer_decay^(n + 1)`, and everything after the blocks has 1. Then the multipliers of all groups
/// that a parameter's name fits are applied. The weight decay of the last such group counts, except
/// for biases, norms and tokens, which have none.
///
/// # Errors
/// If a pattern is invalid or fits no parameter.
pub fn param_settings<M: Module>(
    module: &M,
    optim: &OptimConfig,
) -> Result<BTreeMap<String, ParamSettings>, TrainConfigError> {
    let mut params = Vec::new();
    visit(module, |param| params.push((param.path.clone(), param.shape.len())));
    let blocks = |tower: &str| {
        let ids = params.iter().filter_map(|(path, _)| block_of(path, tower));
        ids.max().map_or(0, |last| last + 1)
    };
    let n_blocks = TOWERS.map(blocks);
    let mut settings: BTreeMap<String, ParamSettings> = params
        .into_iter()
        .map(|(path, rank)| {
            let decays = decays(&path, rank);
            let weight_decay = if decays { optim.weight_decay } else { 0.0 };
            let n_layers = layers_above(&path, n_blocks);
            let lr_multiplier = optim.layer_decay.powi(n_layers as i32);
            (path, ParamSettings { lr_multiplier, weight_decay, decays })
        })
        .collect();
    for group in &optim.groups {
        for text in &group.params {
            let pattern = Pattern::new(text).map_err(|cause| {
                TrainConfigError::Inconsistent(format!(
                    "[[optim.groups]] params has {text:?}, wanted a name with * and ? ({cause})"
                ))
            })?;
            let mut fits = false;
            for (path, settings) in &mut settings {
                if pattern.matches(&checkpoint_name(path)) {
                    fits = true;
                    settings.lr_multiplier *= group.lr_multiplier;
                    if let Some(weight_decay) = group.weight_decay.filter(|_| settings.decays) {
                        settings.weight_decay = weight_decay;
                    }
                }
            }
            if !fits {
                return Err(TrainConfigError::Inconsistent(format!(
                    "[[optim.groups]] params has {text:?}, which fits no parameter; wanted names as in model.safetensors, such as visual.*"
                )));
            }
        }
    }
    Ok(settings)
}

/// Module paths of the towers, and of their parts before the first block.
pub const TOWERS: [&str; 2] = ["visual.", "llm."];
const BEFORE_BLOCKS: [&str; 6] =
    ["conv1", "class_embedding", "positional_embedding", "ln_pre.", "stem.", "embed_tokens."];

/// The number of the block that has this parameter, if it is in a block of the tower.
pub fn block_of(path: &str, tower: &str) -> Option<usize> {
    let rest = path.strip_prefix(tower)?;
    let rest = ["blocks.", "mb_blocks.", "layers."].iter().find_map(|of| rest.strip_prefix(of))?;
    rest.split('.').next()?.parse().ok()
}

/// Layers of the tower from this parameter's on.
fn layers_above(path: &str, n_blocks: [usize; 2]) -> usize {
    let Some((tower, n)) = TOWERS.iter().zip(n_blocks).find(|(tower, _)| path.starts_with(**tower))
    else {
        return 0;
    };
    match block_of(path, tower) {
        Some(block) => n - block,
        None if BEFORE_BLOCKS.iter().any(|part| path[tower.len()..].starts_with(part)) => n + 1,
        None => 0,
    }
}

/// Whether a parameter is in one of the frozen blocks from the bottom of its tower, or before them.
pub fn is_below(path: &str, config: &TrainConfig) -> bool {
    let n_frozen = [config.freeze_vision_blocks, config.freeze_text_blocks];
    TOWERS.iter().zip(n_frozen).any(|(tower, n)| {
        let Some(rest) = path.strip_prefix(tower).filter(|_| n > 0) else { return false };
        block_of(path, tower).map_or_else(
            || BEFORE_BLOCKS.iter().any(|part| rest.starts_with(part)),
            |block| block < n,
        )
    })
}

/// Checks that the towers have as many blocks as are frozen.
///
/// # Errors
/// If one has fewer.
pub fn check_frozen_blocks(
    config: &TrainConfig,
    sizes: &MmGemConfig,
) -> Result<(), TrainConfigError> {
    let n_vision = match &sizes.vision {
        VisionConfig::Vit(vit) => vit.num_hidden_layers,
        VisionConfig::EfficientNetLite(lite) => lite.blocks().len(),
    };
    for (key, frozen, tower, n_blocks) in [
        ("freeze_vision_blocks", config.freeze_vision_blocks, "image encoder", n_vision),
        (
            "freeze_text_blocks",
            config.freeze_text_blocks,
            "language model",
            sizes.llm.num_hidden_layers,
        ),
    ] {
        if frozen > n_blocks {
            return Err(TrainConfigError::Inconsistent(format!(
                "{key} is {frozen}, wanted at most {n_blocks}: the {tower} has no more blocks"
            )));
        }
    }
    Ok(())
}

/// Whether a parameter has weight decay: not a bias, a norm or a token.
fn decays(path: &str, rank: usize) -> bool {
    rank >= 2 && path != "cap_prompts"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_counted_from_the_top() {
        let at = |path| layers_above(path, [12, 4]);
        assert_eq!(["h1.weight", "visual.ln_post.gamma", "llm.norm.gamma"].map(at), [0; 3]);
        let blocks =
            ["visual.blocks.11.norm_1.gamma", "visual.mb_blocks.0.dw.weight", "llm.layers.3.x"];
        assert_eq!(blocks.map(at), [1, 12, 1]);
        assert_eq!(["visual.conv1", "llm.embed_tokens.weight"].map(at), [13, 5]);
    }

    #[test]
    fn only_matrices_decay() {
        assert!(decays("h1.weight", 2) && decays("visual.conv1", 4));
        assert!(!decays("h1.bias", 1) && !decays("cap_prompts", 2));
    }
}
