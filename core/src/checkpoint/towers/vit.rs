//! Renames the tensors of other programs' vision transformers to our names, which are open_clip's.
//!
//! Folds linear steps: LayerScale into the layer before it, the bias of the patch embedding into
//! the positions.

use super::super::export::title;
use super::super::names::checkpoint_name;
use super::super::read::{CheckpointError, transpose};
use super::super::shards::Shards;
use super::super::stored::Stored;
use super::super::write::NamedTensor;
use super::layout::Kind;
use super::positions::{Resampling, resample};
use crate::config::{HiddenAct, VitConfig};

/// Tensor names of an encoder. The names of a block's parts follow `blocks` and the number of the
/// block.
struct Names {
    patches: &'static str,
    class: &'static str,
    positions: &'static str,
    ln_pre: &'static str,
    ln_post: &'static str,
    blocks: &'static str,
    ln_1: &'static str,
    qkv: Qkv,
    out: &'static str,
    scale_1: &'static str,
    ln_2: &'static str,
    fc_1: &'static str,
    fc_2: &'static str,
    scale_2: &'static str,
}

/// The projections of attention.
enum Qkv {
    /// One matrix and one bias for all three.
    Packed { weight: &'static str, bias: &'static str },
    /// One layer for each.
    Apart([&'static str; 3]),
}

const OPEN_CLIP: Names = Names {
    patches: "conv1",
    class: "class_embedding",
    positions: "positional_embedding",
    ln_pre: "ln_pre",
    ln_post: "ln_post",
    blocks: "transformer.resblocks.",
    ln_1: "ln_1",
    qkv: Qkv::Packed { weight: "attn.in_proj_weight", bias: "attn.in_proj_bias" },
    out: "attn.out_proj",
    scale_1: "ls_1.gamma",
    ln_2: "ln_2",
    fc_1: "mlp.c_fc",
    fc_2: "mlp.c_proj",
    scale_2: "ls_2.gamma",
};

const HUGGING_FACE: Names = Names {
    patches: "embeddings.patch_embedding",
    class: "embeddings.class_embedding",
    positions: "embeddings.position_embedding.weight",
    // The misspelling is Hugging Face's.
    ln_pre: "pre_layrnorm",
    ln_post: "post_layernorm",
    blocks: "encoder.layers.",
    ln_1: "layer_norm1",
    qkv: Qkv::Apart(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    out: "self_attn.out_proj",
    scale_1: "layer_scale1.lambda1",
    ln_2: "layer_norm2",
    fc_1: "mlp.fc1",
    fc_2: "mlp.fc2",
    scale_2: "layer_scale2.lambda1",
};

const DINOV2: Names = Names {
    patches: "embeddings.patch_embeddings.projection",
    class: "embeddings.cls_token",
    positions: "embeddings.position_embeddings",
    ln_pre: "pre_layrnorm",
    ln_post: "layernorm",
    blocks: "encoder.layer.",
    ln_1: "norm1",
    qkv: Qkv::Apart([
        "attention.attention.query",
        "attention.attention.key",
        "attention.attention.value",
    ]),
    out: "attention.output.dense",
    scale_1: "layer_scale1.lambda1",
    ln_2: "norm2",
    fc_1: "mlp.fc1",
    fc_2: "mlp.fc2",
    scale_2: "layer_scale2.lambda1",
};

const TIMM: Names = Names {
    patches: "patch_embed.proj",
    class: "cls_token",
    positions: "pos_embed",
    ln_pre: "norm_pre",
    ln_post: "norm",
    blocks: "blocks.",
    ln_1: "norm1",
    qkv: Qkv::Packed { weight: "attn.qkv.weight", bias: "attn.qkv.bias" },
    out: "attn.proj",
    scale_1: "ls1.gamma",
    ln_2: "norm2",
    fc_1: "mlp.fc1",
    fc_2: "mlp.fc2",
    scale_2: "ls2.gamma",
};

/// Settings that the weights of a vision transformer do not show.
#[derive(Clone, Copy, Debug)]
pub struct HiddenSettings {
    pub num_attention_heads: usize,
    pub hidden_act: HiddenAct,
    pub layer_norm_eps: f64,
    /// Whether `ln_post` applies to the pooled vector. V is then not normalized.
    pub norms_after_pooling: bool,
}

/// Default number of heads: 16 in the large published encoders, else one for every 64 channels.
pub fn usual_heads(hidden_size: usize) -> Result<usize, CheckpointError> {
    match hidden_size {
        1152 | 1280 | 1408 | 1536 | 1664 => Ok(16),
        width if width.is_multiple_of(64) => Ok(width / 64),
        width => Err(CheckpointError::Import(format!(
            "the encoder is {width} wide, not a multiple of the usual 64 per head\n  hint: give the number of heads with --vision-heads"
        ))),
    }
}

/// Width of the encoder, from its tensors.
pub fn hidden_size(kind: Kind, encoder: &Shards) -> Option<usize> {
    encoder.shape(&format!("{}.weight", names(kind).patches))?.first().copied()
}

fn names(kind: Kind) -> &'static Names {
    match kind {
        Kind::OpenClip => &OPEN_CLIP,
        Kind::Clip | Kind::Siglip => &HUGGING_FACE,
        Kind::Dinov2 => &DINOV2,
        Kind::TimmVit => &TIMM,
        Kind::TimmLite | Kind::FoldedLite => unreachable!("not a transformer"),
    }
}

/// Takes the tensors of a vision transformer out of `encoder` and gives them our names.
///
/// # Errors
/// If a tensor is missing or its sizes do not fit.
pub fn assemble<'a>(
    kind: Kind,
    encoder: &mut Shards<'a>,
    hidden: HiddenSettings,
) -> Result<(VitConfig, Shards<'a>), CheckpointError> {
    let names = names(kind);
    let mut ours = Shards::default();
    let mut put = |path: &str, stored: Stored<'a>| {
        ours.put(checkpoint_name(&format!("visual.{path}")), stored)
    };

    let patches = encoder.require(&format!("{}.weight", names.patches))?;
    let [hidden_size, n_channels, patch_size, height] = patches.dims()?;
    if n_channels != 3 || height != patch_size {
        return Err(CheckpointError::Import(format!(
            "the patches are {height}x{patch_size} with {n_channels} channels, wanted square patches with 3 channels"
        )));
    }
    put("conv1", patches);
    let class =
        encoder.take(names.class).map(|class| class.reshape(vec![hidden_size])).transpose()?;
    let patch_bias = encoder.take(&format!("{}.bias", names.patches));
    let (positions, grid) =
        positions(encoder.require(names.positions)?, class.is_some(), hidden_size)?;
    let (class_token, n_before) = (class.is_some(), usize::from(class.is_some()));
    if let Some(class) = class {
        put("class_embedding", class);
    }
    put(
        "positional_embedding",
        match patch_bias {
            Some(bias) => add_to_rows(positions, bias.expect_shape(&[hidden_size])?, n_before),
            None => positions,
        },
    );

    let ln_pre = norm(encoder, names.ln_pre)?;
    let has_ln_pre = ln_pre.is_some();
    for (part, stored) in ln_pre.into_iter().flatten() {
        put(&format!("ln_pre.{part}"), stored);
    }
    let num_hidden_layers = n_blocks(encoder, names.blocks);
    let mut mlp_width = 0;
    for idx in 0..num_hidden_layers {
        let block = Block {
            encoder: &mut *encoder,
            names,
            prefix: format!("{}{idx}.", names.blocks),
            hidden_size,
        };
        for (path, stored) in block.tensors()? {
            if path == "mlp.c_fc.bias" {
                mlp_width = stored.shape()[0];
            }
            put(&format!("blocks.{idx}.{path}"), stored);
        }
    }
    let ln_post = norm(encoder, names.ln_post)?;
    let has_ln_post = ln_post.is_some() && !hidden.norms_after_pooling;
    for (part, stored) in ln_post.into_iter().flatten().filter(|_| has_ln_post) {
        put(&format!("ln_post.{part}"), stored);
    }
    let proj = encoder.take("proj").filter(|_| kind == Kind::OpenClip && has_ln_post);
    let proj_dim = proj.as_ref().map(Stored::dims).transpose()?.map(|[_, proj_dim]| proj_dim);
    if let Some(proj) = proj {
        put("proj", proj);
    }
    let config = VitConfig {
        image_size: grid * patch_size,
        patch_size,
        hidden_size,
        num_hidden_layers,
        num_attention_heads: hidden.num_attention_heads,
        mlp_ratio: ratio(mlp_width, hidden_size),
        hidden_act: hidden.hidden_act,
        layer_norm_eps: hidden.layer_norm_eps,
        class_token,
        ln_pre: has_ln_pre,
        ln_post: has_ln_post,
        proj_dim,
    };
    Ok((config, ours))
}

/// The tensors of a vision transformer under the names of another library: the inverse of
/// [`assemble`] without its folding.
///
/// `visual` are the tensors in our files, without their prefix.
///
/// # Errors
/// If a tensor has no place there.
pub(super) fn disassemble<'t>(
    kind: Kind,
    config: &VitConfig,
    visual: impl Iterator<Item = &'t NamedTensor>,
) -> Result<Vec<NamedTensor>, CheckpointError> {
    let (ours, theirs, width) = (&OPEN_CLIP, names(kind), config.hidden_size);
    let prefix = match kind {
        Kind::Clip | Kind::Siglip => "vision_model.",
        _ => "",
    };
    // transformers' Dinov2 keeps a first axis of length 1.
    let row = |shape: &[usize]| match kind {
        Kind::Dinov2 => [&vec![1; 3 - shape.len()], shape].concat(),
        _ => shape.to_vec(),
    };
    let mut written: Vec<NamedTensor> = Vec::new();
    for (name, shape, values) in visual {
        let mut put = |name: String, shape: Vec<usize>, values: Vec<f32>| {
            written.push((format!("{prefix}{name}"), shape, values));
        };
        if let Some((idx, part)) =
            name.strip_prefix(ours.blocks).and_then(|inner| inner.split_once('.'))
        {
            let block = format!("{}{idx}.", theirs.blocks);
            for (name, shape, values) in block_part(ours, theirs, part, shape, values)? {
                put(format!("{block}{name}"), shape, values);
            }
            continue;
        }
        let layers = [
            (ours.patches, theirs.patches),
            (ours.ln_pre, theirs.ln_pre),
            (ours.ln_post, theirs.ln_post),
        ];
        if let Some(name) = renamed(&layers, name) {
            put(name, shape.clone(), values.clone());
        } else if name == ours.class {
            put(theirs.class.into(), row(shape), values.clone());
        } else if name == ours.positions {
            put(theirs.positions.into(), row(shape), values.clone());
        } else if let ("proj", &[_, proj_dim], Kind::Clip) = (name.as_str(), &shape[..], kind) {
            let values = transpose(values, proj_dim);
            written.push(("visual_projection.weight".into(), vec![proj_dim, width], values));
        } else {
            return Err(CheckpointError::Export(format!(
                "{name} has no place in {}\n  hint: write the other layout",
                title(kind)
            )));
        }
    }
    // Parts that the library has and this encoder does not need.
    let mut neutral = |name: String, shape: Vec<usize>, value: f32| {
        let n = shape.iter().product();
        written.push((format!("{prefix}{name}"), shape, vec![value; n]));
    };
    if matches!(kind, Kind::Siglip | Kind::Dinov2) {
        neutral(format!("{}.bias", theirs.patches), vec![width], 0.0);
    }
    if kind == Kind::Dinov2 {
        neutral("embeddings.mask_token".into(), vec![1, width], 0.0);
        for idx in 0..config.num_hidden_layers {
            for scale in [theirs.scale_1, theirs.scale_2] {
                neutral(format!("{}{idx}.{scale}", theirs.blocks), vec![width], 1.0);
            }
        }
    }
    Ok(written)
}

/// One tensor of a block under the names of another library. The packed projections of attention
/// may become three.
fn block_part(
    ours: &Names,
    theirs: &Names,
    part: &str,
    shape: &[usize],
    values: &[f32],
) -> Result<Vec<NamedTensor>, CheckpointError> {
    let layers = [
        (ours.ln_1, theirs.ln_1),
        (ours.ln_2, theirs.ln_2),
        (ours.out, theirs.out),
        (ours.fc_1, theirs.fc_1),
        (ours.fc_2, theirs.fc_2),
    ];
    if let Some(name) = renamed(&layers, part) {
        return Ok(vec![(name, shape.to_vec(), values.to_vec())]);
    }
    let Qkv::Packed { weight, bias } = ours.qkv else { unreachable!("open_clip packs them") };
    let (is_weight, is_bias) = (part == weight, part == bias);
    if !is_weight && !is_bias {
        return Err(CheckpointError::Export(format!(
            "{part} of a block is unknown, wanted a tensor of a vision transformer\n  hint: this is a mistake of this program; please report it"
        )));
    }
    Ok(match &theirs.qkv {
        Qkv::Packed { weight, bias } => {
            let name = if is_weight { weight } else { bias };
            vec![((*name).to_owned(), shape.to_vec(), values.to_vec())]
        }
        Qkv::Apart(layers) => {
            let third = [&[shape[0] / 3], &shape[1..]].concat();
            let ending = if is_weight { "weight" } else { "bias" };
            let parts = layers.iter().zip(values.chunks_exact(values.len() / 3));
            parts
                .map(|(layer, values)| {
                    (format!("{layer}.{ending}"), third.clone(), values.to_vec())
                })
                .collect()
        }
    })
}

/// The other library's name of a weight or bias, if its layer is listed.
fn renamed(layers: &[(&str, &str)], name: &str) -> Option<String> {
    layers.iter().find_map(|(ours, theirs)| {
        let part = name.strip_prefix(ours)?;
        [".weight", ".bias"].contains(&part).then(|| format!("{theirs}{part}"))
    })
}

/// Names and sizes of the tensors in the first block of an open_clip transformer.
pub(super) fn open_clip_block(width: usize) -> Vec<(String, Vec<usize>)> {
    let names = &OPEN_CLIP;
    let Qkv::Packed { weight, bias } = names.qkv else { unreachable!("open_clip packs them") };
    let mut shapes = vec![(weight.to_owned(), vec![3 * width, width])];
    shapes.push((bias.to_owned(), vec![3 * width]));
    for norm in [names.ln_1, names.ln_2] {
        shapes.extend([".weight", ".bias"].map(|part| (format!("{norm}{part}"), vec![width])));
    }
    for (layer, n_outputs, n_inputs) in
        [(names.out, width, width), (names.fc_1, 4 * width, width), (names.fc_2, width, 4 * width)]
    {
        shapes.push((format!("{layer}.weight"), vec![n_outputs, n_inputs]));
        shapes.push((format!("{layer}.bias"), vec![n_outputs]));
    }
    let in_block = |(name, shape)| (format!("{}0.{name}", names.blocks), shape);
    shapes.into_iter().map(in_block).collect()
}

/// Resizes the positions to another number of patches, as the library of this layout does.
pub(super) fn resize_positions(
    ours: &mut Shards,
    config: &mut VitConfig,
    kind: Kind,
    image_size: usize,
) {
    let name = checkpoint_name("visual.positional_embedding");
    let Some(positions) = ours.take(&name) else { return };
    let (from, to) = (config.image_size / config.patch_size, image_size / config.patch_size);
    let (n_before, width) = (usize::from(config.class_token), config.hidden_size);
    let resampling = match kind {
        Kind::OpenClip | Kind::TimmVit => Resampling::Antialiased,
        _ => Resampling::Plain,
    };
    let shape = vec![n_before + to * to, width];
    let resized = Stored::computed(vec![positions], shape, move |of| {
        let (class, grid) = of[0].split_at(n_before * width);
        [class, &resample(grid, width, from, to, resampling)].concat()
    });
    ours.put(name, resized);
    config.image_size = image_size;
}

/// Returns the positions as `[n_before + grid², hidden]`, and the grid.
///
/// If the class token has no position, its position is zeros.
fn positions(
    stored: Stored,
    has_class: bool,
    hidden_size: usize,
) -> Result<(Stored, usize), CheckpointError> {
    let n = match *stored.shape() {
        [n, width] | [1, n, width] if width == hidden_size => n,
        _ => {
            let (name, found) = (stored.name().to_owned(), stored.shape().to_vec());
            return Err(CheckpointError::Import(format!(
                "{name} is {found:?}, wanted one vector of {hidden_size} for each patch"
            )));
        }
    };
    let stored = stored.reshape(vec![n, hidden_size])?;
    let square = |n: usize| Some(n.isqrt()).filter(|grid| grid * grid == n && n > 0);
    match (has_class, square(n), n.checked_sub(1).and_then(square)) {
        (true, _, Some(grid)) | (false, Some(grid), _) => Ok((stored, grid)),
        (true, Some(grid), None) => {
            Ok((Stored::rows(vec![Stored::zeros(vec![1, hidden_size]), stored])?, grid))
        }
        _ => Err(CheckpointError::Import(format!(
            "{} has {n} positions, wanted those of a square grid of patches",
            stored.name()
        ))),
    }
}

/// Adds `added` to every row except the first `n_before`.
fn add_to_rows<'a>(table: Stored<'a>, added: Stored<'a>, n_before: usize) -> Stored<'a> {
    let shape = table.shape().to_vec();
    Stored::computed(vec![table, added], shape, move |of| {
        let (mut table, added) = (of[0].clone(), &of[1]);
        for row in table.chunks_exact_mut(added.len()).skip(n_before) {
            row.iter_mut().zip(added).for_each(|(value, added)| *value += added);
        }
        table
    })
}

/// Scales the output of a layer: `scale * (W x + b)`.
fn scaled<'a>(tensor: Stored<'a>, scale: &Stored<'a>) -> Stored<'a> {
    let shape = tensor.shape().to_vec();
    Stored::computed(vec![tensor, scale.clone()], shape, |of| {
        let (mut rows, scale) = (of[0].clone(), &of[1]);
        let width = rows.len() / scale.len();
        for (row, scale) in rows.chunks_exact_mut(width).zip(scale) {
            row.iter_mut().for_each(|value| *value *= scale);
        }
        rows
    })
}

/// Weight and bias of a norm, if it exists.
fn norm<'a>(
    encoder: &mut Shards<'a>,
    name: &str,
) -> Result<Option<[(&'static str, Stored<'a>); 2]>, CheckpointError> {
    let Some(weight) = encoder.take(&format!("{name}.weight")) else { return Ok(None) };
    let bias = encoder.require(&format!("{name}.bias"))?;
    Ok(Some([("gamma", weight), ("beta", bias)]))
}

fn n_blocks(encoder: &Shards, blocks: &str) -> usize {
    let block_of = |name: &str| name.strip_prefix(blocks)?.split('.').next()?.parse::<usize>().ok();
    encoder.names().filter_map(block_of).max().map_or(0, |last| last + 1)
}

/// A block whose tensors are being renamed.
struct Block<'s, 'a> {
    encoder: &'s mut Shards<'a>,
    names: &'static Names,
    prefix: String,
    hidden_size: usize,
}

impl<'a> Block<'_, 'a> {
    /// The tensors with their paths in our block.
    fn tensors(mut self) -> Result<Vec<(String, Stored<'a>)>, CheckpointError> {
        let names = self.names;
        let mut ours = Vec::new();
        for (norm, name) in [("ln_1", names.ln_1), ("ln_2", names.ln_2)] {
            ours.push((format!("{norm}.gamma"), self.require(&format!("{name}.weight"))?));
            ours.push((format!("{norm}.beta"), self.require(&format!("{name}.bias"))?));
        }
        let [weight, bias] = self.qkv()?;
        ours.push(("attn.in_proj.weight".into(), weight));
        ours.push(("attn.in_proj.bias".into(), bias));
        let layers = [
            ("attn.out_proj", names.out, Some(names.scale_1)),
            ("mlp.c_fc", names.fc_1, None),
            ("mlp.c_proj", names.fc_2, Some(names.scale_2)),
        ];
        for (path, name, scale) in layers {
            let scale = scale.and_then(|scale| self.take(scale));
            let weight = self.require(&format!("{name}.weight"))?;
            let [n_outputs, _] = weight.dims()?;
            let bias = match self.take(&format!("{name}.bias")) {
                Some(bias) => bias.expect_shape(&[n_outputs])?,
                None => Stored::zeros(vec![n_outputs]),
            };
            let fold = |tensor: Stored<'a>| match &scale {
                Some(scale) => Ok(scaled(tensor, &scale.clone().expect_shape(&[n_outputs])?)),
                None => Ok(tensor),
            };
            ours.push((format!("{path}.weight"), fold(weight)?));
            ours.push((format!("{path}.bias"), fold(bias)?));
        }
        Ok(ours)
    }

    /// Joins the three projections into one weight and one bias. A missing bias is zero.
    fn qkv(&mut self) -> Result<[Stored<'a>; 2], CheckpointError> {
        let width = self.hidden_size;
        let bias_of = |bias: Option<Stored<'a>>, n: usize| match bias {
            Some(bias) => bias.expect_shape(&[n]),
            None => Ok(Stored::zeros(vec![n])),
        };
        match &self.names.qkv {
            Qkv::Packed { weight, bias } => {
                let weight = self.require(weight)?.expect_shape(&[3 * width, width])?;
                Ok([weight, bias_of(self.take(bias), 3 * width)?])
            }
            Qkv::Apart(layers) => {
                let (mut weights, mut biases) = (Vec::new(), Vec::new());
                for layer in layers {
                    weights.push(
                        self.require(&format!("{layer}.weight"))?.expect_shape(&[width, width])?,
                    );
                    biases.push(bias_of(self.take(&format!("{layer}.bias")), width)?);
                }
                Ok([Stored::rows(weights)?, Stored::rows(biases)?])
            }
        }
    }

    fn take(&mut self, name: &str) -> Option<Stored<'a>> {
        self.encoder.take(&format!("{}{name}", self.prefix))
    }

    fn require(&mut self, name: &str) -> Result<Stored<'a>, CheckpointError> {
        self.encoder.require(&format!("{}{name}", self.prefix))
    }
}

/// A ratio for which `whole * ratio`, rounded down as in the model, is `part`.
fn ratio(part: usize, whole: usize) -> f64 {
    let ratio = part as f64 / whole as f64;
    if (whole as f64 * ratio) as usize == part { ratio } else { ratio.next_up() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_gives_the_width_of_the_mlp_back() {
        for whole in 1..1800 {
            for part in [whole, 4 * whole, 4304, 8 * whole / 3] {
                assert_eq!((whole as f64 * ratio(part, whole)) as usize, part, "{part} of {whole}");
            }
        }
    }

    #[test]
    fn large_encoders_have_16_heads() {
        assert_eq!(usual_heads(1152).expect("SigLIP"), 16);
        assert_eq!(usual_heads(768).expect("a base"), 12);
        assert!(usual_heads(100).expect_err("no multiple").to_string().contains("--vision-heads"));
    }
}
