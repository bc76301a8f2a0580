//! EfficientNet-Lites: timm's, whose batch norms are folded here, and networks with folded batch
//! norms.

use super::super::read::CheckpointError;
use super::super::shards::Shards;
use super::super::stored::Stored;
use super::super::write::NamedTensor;
use crate::config::{EfficientNetLiteConfig, MbConvConfig};

/// Width coefficient, depth coefficient and input size of EfficientNet-Lite0 to Lite4.
const VARIANTS: [(f64, f64, usize); 5] =
    [(1.0, 1.0, 224), (1.0, 1.1, 240), (1.1, 1.2, 260), (1.2, 1.4, 280), (1.4, 1.8, 300)];

/// TensorFlow's epsilon of batch norms.
const BATCH_NORM_EPS: f64 = 1e-3;

/// Reads a network with folded batch norms. Its names are those of `model.safetensors`.
pub(super) fn folded<'a>(
    encoder: &mut Shards<'a>,
) -> Result<(EfficientNetLiteConfig, Shards<'a>), CheckpointError> {
    let mut ours = Shards::default();
    let names: Vec<String> = encoder.names().map(str::to_owned).collect();
    let is_ours = |name: &str| {
        let layer = name.strip_suffix(".weight").or_else(|| name.strip_suffix(".bias"));
        layer.is_some_and(|layer| match layer.strip_prefix("blocks.") {
            None => layer == "stem" || layer == "head",
            Some(block) => {
                let (idx, part) = block.split_once('.').unwrap_or_default();
                idx.parse::<usize>().is_ok() && ["expand", "dw", "project"].contains(&part)
            }
        })
    };
    for name in names.iter().filter(|name| is_ours(name)) {
        put(&mut ours, name, encoder.require(name)?)?;
    }
    Ok((sizes(&ours)?, ours))
}

/// Reads a network of timm.
pub(super) fn timm<'a>(
    encoder: &mut Shards<'a>,
) -> Result<(EfficientNetLiteConfig, Shards<'a>), CheckpointError> {
    let mut ours = Shards::default();
    fold(encoder, &mut ours, "conv_stem", "bn1", "stem")?;
    for (idx, block) in blocks(encoder).into_iter().enumerate() {
        // The first block does not expand, so it has other layer names than the rest.
        let has_expansion = encoder.shape(&format!("{block}conv_pwl.weight")).is_some();
        for (convolution, norm, layer) in timm_layers(has_expansion) {
            let [convolution, norm] = [convolution, norm].map(|part| format!("{block}{part}"));
            fold(encoder, &mut ours, &convolution, &norm, &format!("blocks.{idx}.{layer}"))?;
        }
    }
    fold(encoder, &mut ours, "conv_head", "bn2", "head")?;
    Ok((sizes(&ours)?, ours))
}

/// timm's names of a block's convolutions and their batch norms, with our names.
fn timm_layers(has_expansion: bool) -> &'static [(&'static str, &'static str, &'static str)] {
    match has_expansion {
        true => &[
            ("conv_pw", "bn1", "expand"),
            ("conv_dw", "bn2", "dw"),
            ("conv_pwl", "bn3", "project"),
        ],
        false => &[("conv_dw", "bn1", "dw"), ("conv_pw", "bn2", "project")],
    }
}

/// timm's name of a network with these sizes, if it was published.
pub(super) fn published_name(config: &EfficientNetLiteConfig) -> Option<&'static str> {
    const NAMES: [&str; 5] = [
        "tf_efficientnet_lite0",
        "tf_efficientnet_lite1",
        "tf_efficientnet_lite2",
        "tf_efficientnet_lite3",
        "tf_efficientnet_lite4",
    ];
    let EfficientNetLiteConfig { width_coefficient, depth_coefficient, hidden_size, .. } = *config;
    let is_it = |(width, depth, _): &(f64, f64, usize)| {
        *width == width_coefficient && *depth == depth_coefficient
    };
    let variant = VARIANTS.iter().position(is_it)?;
    (hidden_size == 1280).then_some(NAMES[variant])
}

/// The tensors under timm's names: the inverse of [`timm`], with neutral batch norms.
///
/// - batch norm: weight 1, bias of the convolution, mean 0, variance `1 - eps`
///
/// # Errors
/// If a tensor is missing.
pub(super) fn to_timm(
    config: &EfficientNetLiteConfig,
    visual: &[NamedTensor],
) -> Result<Vec<NamedTensor>, CheckpointError> {
    let mut written = Vec::new();
    let mut unfold = |convolution: String, norm: String, layer: String| {
        let find = |part: &str| {
            let name = format!("{layer}.{part}");
            let found = visual.iter().find(|(of, ..)| *of == name);
            found.ok_or_else(|| CheckpointError::Missing(vec![format!("visual.{name}")]))
        };
        let ((_, shape, weight), (_, _, bias)) = (find("weight")?, find("bias")?);
        let shape = match shape[..] {
            [n_outputs, n_inputs] => vec![n_outputs, n_inputs, 1, 1],
            _ => shape.clone(),
        };
        let n = bias.len();
        written.push((format!("{convolution}.weight"), shape, weight.clone()));
        written.push((format!("{norm}.weight"), vec![n], vec![1.0; n]));
        written.push((format!("{norm}.bias"), vec![n], bias.clone()));
        written.push((format!("{norm}.running_mean"), vec![n], vec![0.0; n]));
        let var = (1.0 - BATCH_NORM_EPS) as f32;
        written.push((format!("{norm}.running_var"), vec![n], vec![var; n]));
        Ok(())
    };
    unfold("conv_stem".into(), "bn1".into(), "stem".into())?;
    let stages = config.blocks_per_stage().into_iter().enumerate();
    let places = stages.flat_map(|(stage, n)| (0..n).map(move |block| (stage, block)));
    for (idx, ((stage, block), sizes)) in places.zip(config.blocks()).enumerate() {
        for (convolution, norm, layer) in timm_layers(sizes.expanded_channels != sizes.in_channels)
        {
            let at = format!("blocks.{stage}.{block}");
            let layer = format!("blocks.{idx}.{layer}");
            unfold(format!("{at}.{convolution}"), format!("{at}.{norm}"), layer)?;
        }
    }
    unfold("conv_head".into(), "bn2".into(), "head".into())?;
    Ok(written)
}

/// Prefix `blocks.STAGE.BLOCK.` of each block, in order.
fn blocks(encoder: &Shards) -> Vec<String> {
    let place = |name: &str| {
        let mut parts = name.strip_prefix("blocks.")?.split('.');
        Some((parts.next()?.parse::<usize>().ok()?, parts.next()?.parse::<usize>().ok()?))
    };
    let places: std::collections::BTreeSet<(usize, usize)> =
        encoder.names().filter_map(place).collect();
    places.into_iter().map(|(stage, block)| format!("blocks.{stage}.{block}.")).collect()
}

/// Folds a batch norm into the convolution without bias before it.
///
/// - new weight: `weight * gamma / sqrt(var + eps)`
/// - new bias: `beta - mean * gamma / sqrt(var + eps)`
fn fold<'a>(
    encoder: &mut Shards<'a>,
    ours: &mut Shards<'a>,
    convolution: &str,
    norm: &str,
    layer: &str,
) -> Result<(), CheckpointError> {
    let weight = encoder.require(&format!("{convolution}.weight"))?;
    let [n_outputs, ..] = weight.dims::<4>()?;
    let mut statistic =
        |part: &str| encoder.require(&format!("{norm}.{part}"))?.expect_shape(&[n_outputs]);
    let [gamma, beta, mean, var] = [
        statistic("weight")?,
        statistic("bias")?,
        statistic("running_mean")?,
        statistic("running_var")?,
    ];
    encoder.take(&format!("{norm}.num_batches_tracked"));
    let factors = |gamma: &[f32], var: &[f32]| -> Vec<f64> {
        let factor = |(gamma, var): (&f32, &f32)| {
            f64::from(*gamma) / (f64::from(*var) + BATCH_NORM_EPS).sqrt()
        };
        gamma.iter().zip(var).map(factor).collect()
    };
    let shape = weight.shape().to_vec();
    let folded = Stored::computed(vec![weight, gamma.clone(), var.clone()], shape, move |of| {
        let factors = factors(&of[1], &of[2]);
        let width = of[0].len() / factors.len();
        let rows = of[0].chunks_exact(width).zip(&factors);
        rows.flat_map(|(row, factor)| row.iter().map(move |w| (f64::from(*w) * factor) as f32))
            .collect()
    });
    let bias = Stored::computed(vec![beta, mean, gamma, var], vec![n_outputs], move |of| {
        let shifts = of[0].iter().zip(&of[1]).zip(factors(&of[2], &of[3]));
        shifts
            .map(|((beta, mean), factor)| (f64::from(*beta) - f64::from(*mean) * factor) as f32)
            .collect()
    });
    put(ours, &format!("{layer}.weight"), folded)?;
    put(ours, &format!("{layer}.bias"), bias)
}

/// Adds a tensor. A point-wise convolution `[out, in, 1, 1]` becomes a matrix `[out, in]`.
fn put<'a>(ours: &mut Shards<'a>, name: &str, stored: Stored<'a>) -> Result<(), CheckpointError> {
    let stored = match *stored.shape() {
        [n_outputs, n_inputs, 1, 1] if !name.contains(".dw.") => {
            stored.reshape(vec![n_outputs, n_inputs])?
        }
        _ => stored,
    };
    ours.put(format!("visual.{name}"), stored);
    Ok(())
}

/// Finds the width and depth coefficients whose network has these shapes.
fn sizes(ours: &Shards) -> Result<EfficientNetLiteConfig, CheckpointError> {
    let shape = |name: String| ours.shape(&format!("visual.{name}")).unwrap_or_default();
    let found: Vec<Option<MbConvConfig>> = (0..)
        .take_while(|idx| !shape(format!("blocks.{idx}.dw.weight")).is_empty())
        .map(|idx| {
            let &[expanded_channels, _, kernel_size, _] = shape(format!("blocks.{idx}.dw.weight"))
            else {
                return None;
            };
            let &[out_channels, _] = shape(format!("blocks.{idx}.project.weight")) else {
                return None;
            };
            let in_channels = match shape(format!("blocks.{idx}.expand.weight")) {
                &[_, in_channels] => in_channels,
                _ => expanded_channels,
            };
            // The shapes do not show the stride.
            Some(MbConvConfig {
                kernel_size,
                stride: 0,
                in_channels,
                expanded_channels,
                out_channels,
            })
        })
        .collect();
    let hidden_size = shape("head.weight".into()).first().copied().unwrap_or(0);
    let fits = |config: &EfficientNetLiteConfig| {
        let blocks = config.blocks();
        blocks.len() == found.len()
            && blocks
                .iter()
                .zip(&found)
                .all(|(block, found)| Some(MbConvConfig { stride: 0, ..*block }) == *found)
    };
    let published = VARIANTS.into_iter();
    // Other networks of the family, in steps of 0.05. They take an input of 224 pixels.
    let others = (1..=60).flat_map(|width| (1..=60).map(move |depth| (width, depth)));
    let others =
        others.map(|(width, depth)| (f64::from(width) / 20.0, f64::from(depth) / 20.0, 224));
    let configs =
        published.chain(others).map(|(width_coefficient, depth_coefficient, image_size)| {
            EfficientNetLiteConfig { image_size, width_coefficient, depth_coefficient, hidden_size }
        });
    configs.into_iter().find(fits).ok_or_else(|| {
        let channels: Vec<String> = found
            .iter()
            .map(|block| block.map_or_else(|| "?".into(), |block| block.out_channels.to_string()))
            .collect();
        CheckpointError::Import(format!(
            "blocks with {} channels match no EfficientNet-Lite\n  hint: tf_efficientnet_lite0 to 4 are supported",
            channels.join(", ")
        ))
    })
}
