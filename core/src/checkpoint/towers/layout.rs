//! The tensor names under which image encoders are published.

use std::collections::BTreeSet;

use super::super::read::CheckpointError;
use super::super::shards::Shards;

/// The program whose tensor names an encoder uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// open_clip's `VisionTransformer`.
    OpenClip,
    /// transformers' `CLIPVisionModel`.
    Clip,
    /// transformers' `SiglipVisionModel`.
    Siglip,
    /// transformers' `Dinov2Model`.
    Dinov2,
    /// timm's `VisionTransformer`, and Meta's own files of DINOv2.
    TimmVit,
    /// timm's `tf_efficientnet_lite*`.
    TimmLite,
    /// An EfficientNet-Lite whose batch norms are folded.
    FoldedLite,
}

/// How to recognize the encoders of a program, and the parts of the larger model around them.
#[derive(Debug)]
pub(super) struct Layout {
    pub kind: Kind,
    /// Title for messages.
    pub title: &'static str,
    /// Tensors that every such encoder has. Names are relative to the encoder.
    marks: &'static [&'static str],
    /// Tensors that such an encoder never has.
    excluded: &'static [&'static str],
    /// Prefixes of the encoder inside a larger model.
    prefixes: &'static [&'static str],
    /// Name prefixes of the larger model's other parts.
    sibling_prefixes: &'static [&'static str],
    /// Name prefixes of tensors in the encoder that V does not depend on.
    ignored: &'static [&'static str],
}

const LAYOUTS: [Layout; 7] = [
    Layout {
        kind: Kind::OpenClip,
        title: "OpenCLIP (visual.transformer.resblocks.*)",
        marks: &["conv1.weight", "class_embedding", "transformer.resblocks.0.ln_1.weight"],
        excluded: &[],
        prefixes: &["visual."],
        sibling_prefixes: &[
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
            // Keys of OpenAI's own files.
            "input_resolution",
            "context_length",
            "vocab_size",
        ],
        ignored: &[],
    },
    Layout {
        kind: Kind::Clip,
        title: "transformers' CLIPModel and CLIPVisionModel (vision_model.*)",
        marks: &["embeddings.patch_embedding.weight", "embeddings.class_embedding"],
        excluded: &[],
        prefixes: &["vision_model."],
        sibling_prefixes: &["text_model.", "text_projection.", "visual_projection.", "logit_scale"],
        ignored: &["embeddings.position_ids"],
    },
    Layout {
        kind: Kind::Siglip,
        title: "transformers' SiglipModel and SiglipVisionModel (vision_model.*)",
        marks: &["embeddings.patch_embedding.weight", "post_layernorm.weight"],
        excluded: &["embeddings.class_embedding"],
        prefixes: &["vision_model."],
        sibling_prefixes: &["text_model.", "logit_scale", "logit_bias"],
        ignored: &["embeddings.position_ids", "head."],
    },
    Layout {
        kind: Kind::Dinov2,
        title: "transformers' Dinov2Model (encoder.layer.*)",
        marks: &["embeddings.patch_embeddings.projection.weight", "encoder.layer.0.norm1.weight"],
        excluded: &[],
        prefixes: &["dinov2."],
        sibling_prefixes: &["classifier."],
        ignored: &["embeddings.mask_token"],
    },
    Layout {
        kind: Kind::TimmVit,
        title: "timm's ViTs (blocks.*.attn.qkv)",
        marks: &["patch_embed.proj.weight", "blocks.0.attn.qkv.weight"],
        excluded: &[],
        prefixes: &["visual.trunk.", "trunk."],
        sibling_prefixes: &["text.", "logit_scale", "logit_bias", "visual.head.", "head."],
        ignored: &["head.", "fc_norm.", "attn_pool.", "mask_token"],
    },
    Layout {
        kind: Kind::TimmLite,
        title: "timm's tf_efficientnet_lite* (conv_stem, blocks.*.*.conv_dw)",
        marks: &["conv_stem.weight", "blocks.0.0.conv_dw.weight", "conv_head.weight"],
        excluded: &[],
        prefixes: &["visual.trunk."],
        sibling_prefixes: &["text.", "logit_scale", "logit_bias"],
        ignored: &["classifier."],
    },
    Layout {
        kind: Kind::FoldedLite,
        title: "an EfficientNet-Lite with folded batch norms (stem, blocks.N.{expand,dw,project}, head)",
        marks: &["stem.weight", "blocks.0.dw.weight", "head.weight"],
        excluded: &[],
        prefixes: &[],
        sibling_prefixes: &[],
        ignored: &["fc."],
    },
];

/// Prefixes under which a training program stores its weights beside other tensors.
const WRAPPERS: [&str; 6] =
    ["state_dict.", "model_state_dict.", "model.", "module.", "net.", "teacher."];

/// An encoder found in a checkpoint.
#[derive(Debug)]
pub(super) struct FoundEncoder<'a> {
    pub layout: &'static Layout,
    /// Prefix of the encoder's names in the checkpoint.
    pub prefix: String,
    /// The encoder's tensors. Names are relative to the encoder.
    pub encoder: Shards<'a>,
    /// The rest of the model around the encoder. Names are relative to that model.
    pub rest: Shards<'a>,
}

/// Finds the only encoder of a checkpoint. Drops tensors that V does not depend on.
///
/// # Errors
/// If the checkpoint has no encoder or several, or if it has unknown parts.
pub(super) fn find_encoder(mut checkpoint: Shards) -> Result<FoundEncoder, CheckpointError> {
    let (layout, prefix) = recognize_layout(&checkpoint)?;
    let outer =
        layout.prefixes.iter().find_map(|place| prefix.strip_suffix(place)).unwrap_or(&prefix);
    let wrapper =
        WRAPPERS.into_iter().find(|wrapper| prefix.starts_with(wrapper)).unwrap_or_default();
    let encoder = checkpoint.split_off(|name| name.starts_with(&prefix));
    let encoder = encoder.rename(|name| {
        let inner = &name[prefix.len()..];
        let is_ignored = layout.ignored.iter().any(|start| inner.starts_with(start));
        // Without a prefix of its own, the encoder's names mix with those of its siblings.
        let is_sibling =
            prefix == outer && layout.sibling_prefixes.iter().any(|start| inner.starts_with(start));
        (!(is_ignored || is_sibling && layout.kind != Kind::OpenClip)).then(|| inner.to_owned())
    });
    let rest = checkpoint.rename(|name| name.starts_with(wrapper).then(|| name.to_owned()));
    let unknown: Vec<&str> = rest
        .names()
        .filter(|name| match name.strip_prefix(outer) {
            Some(inner) => !layout.sibling_prefixes.iter().any(|start| inner.starts_with(start)),
            None => true,
        })
        .collect();
    if let Some(first) = unknown.first() {
        return Err(CheckpointError::Import(format!(
            "{} tensors beside the image encoder are unknown, the first is {first}\n  hint: the encoder has the layout of {}; save only the encoder",
            unknown.len(),
            layout.title
        )));
    }
    let rest = rest.rename(|name| Some(name[outer.len()..].to_owned()));
    Ok(FoundEncoder { layout, prefix, encoder, rest })
}

/// Returns the layout of a checkpoint, and the prefix of its encoder's names.
fn recognize_layout(checkpoint: &Shards) -> Result<(&'static Layout, String), CheckpointError> {
    let mut found: Vec<(&'static Layout, String)> = Vec::new();
    for layout in &LAYOUTS {
        let prefixes: BTreeSet<&str> = checkpoint
            .names()
            .filter_map(|name| name.strip_suffix(layout.marks[0]))
            .filter(|prefix| prefix.is_empty() || prefix.ends_with('.'))
            .collect();
        let is_there =
            |prefix: &str, mark: &str| checkpoint.shape(&format!("{prefix}{mark}")).is_some();
        let is_such = |prefix: &&str| {
            layout.marks.iter().all(|mark| is_there(prefix, mark))
                && !layout.excluded.iter().any(|mark| is_there(prefix, mark))
        };
        found
            .extend(prefixes.into_iter().filter(is_such).map(|prefix| (layout, prefix.to_owned())));
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(unknown(checkpoint)),
        n => {
            let prefixes: Vec<String> = found
                .iter()
                .map(|(_, prefix)| match prefix.as_str() {
                    "" => "the file itself".to_owned(),
                    prefix => format!("{prefix}*"),
                })
                .collect();
            Err(CheckpointError::Import(format!(
                "the checkpoint has {n} image encoders: {}\n  hint: save only the encoder that you want",
                prefixes.join(", ")
            )))
        }
    }
}

fn unknown(checkpoint: &Shards) -> CheckpointError {
    let names: Vec<&str> = checkpoint.names().take(3).collect();
    let found = match names.as_slice() {
        [] => "the checkpoint has no tensors".to_owned(),
        names => {
            format!(
                "the tensor names are not those of an image encoder that is known ({}, ..)",
                names.join(", ")
            )
        }
    };
    let titles: Vec<String> =
        LAYOUTS.iter().map(|layout| format!("\n    {}", layout.title)).collect();
    CheckpointError::Import(format!("{found}\n  hint: known layouts:{}", titles.concat()))
}
