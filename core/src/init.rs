//! Initial values of a fresh model.
//!
//! They are drawn on the host from the seed and the parameter's name. So they are the same on every
//! device and do not depend on the other parameters.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::checkpoint::names::stable_hash;
use crate::checkpoint::{Parameter, transpose};
use crate::config::{MmGemConfig, VisionConfig};
use crate::params::{Mapped, map};

/// Initialises every parameter.
///
/// Weights follow open_clip and Llama; h1–h3 follow PyTorch's `Linear`. h4 is the identity, norms
/// are 1 and biases 0. The special tokens follow the rest of the language model.
pub fn fresh<M: Module>(module: M, config: &MmGemConfig, seed: u64) -> M {
    fresh_where(module, config, seed, &|_| true)
}

/// [`fresh`] only for parameters whose path satisfies `is_fresh`; the others stay unchanged.
pub fn fresh_where<M: Module>(
    module: M,
    config: &MmGemConfig,
    seed: u64,
    is_fresh: &dyn Fn(&str) -> bool,
) -> M {
    map(module, |param| {
        if !is_fresh(&param.path) {
            return Mapped::Same;
        }
        let init = init_of(&param.path, &param.shape, config);
        let values = draw(&init, &param.shape, seed ^ stable_hash(&param.path));
        let n = values.len();
        Mapped::Initial(Tensor::from_data(TensorData::new(values, [n]), &param.device()))
    })
}

/// Initial values of one parameter, in the layout of the file.
pub(crate) fn fresh_values(parameter: &Parameter, config: &MmGemConfig, seed: u64) -> Vec<f32> {
    let Parameter { path, shape, is_transposed, .. } = parameter;
    let mut shape = shape.clone();
    if *is_transposed {
        shape.reverse();
    }
    let values = draw(&init_of(path, &shape, config), &shape, seed ^ stable_hash(path));
    if *is_transposed { transpose(&values, shape[1]) } else { values }
}

/// Distribution of one parameter's values.
#[derive(Debug, PartialEq)]
enum Init {
    Constant(f32),
    Identity,
    Normal(f64),
    Uniform(f64),
}

fn init_of(path: &str, shape: &[usize], config: &MmGemConfig) -> Init {
    // Residual branches get a smaller scale in deeper models, so that their sum does not grow.
    let (vit_width, vit_depth, patch_size) = match &config.vision {
        VisionConfig::Vit(v) => {
            (v.hidden_size as f64, (2.0 * v.num_hidden_layers as f64).sqrt(), v.patch_size)
        }
        VisionConfig::EfficientNetLite(_) => (1.0, 1.0, 1),
    };
    let llm_depth = (2.0 * config.llm.num_hidden_layers as f64).sqrt();
    let ends = |suffix: &str| path.ends_with(suffix);
    match path {
        "logit_scale" => Init::Constant(config.logit_scale_init as f32),
        "h4.weight" => Init::Identity,
        "h1.weight" | "h2.weight" | "h3.weight" => Init::Uniform((shape[0] as f64).powf(-0.5)),
        // Low-rank adapters begin as 0.
        _ if ends(".lora.a") => Init::Normal(1.0 / shape[1] as f64),
        _ if ends(".lora.b") => Init::Constant(0.0),
        _ if ends(".gamma") => Init::Constant(1.0),
        _ if ends(".beta") || ends(".bias") => Init::Constant(0.0),
        "visual.conv1" => Init::Normal((3.0 * (patch_size as f64).powi(2)).powf(-0.5)),
        // He initialisation (arXiv:1502.01852) before ReLU6; no activation follows the projections.
        "visual.stem.weight" | "visual.head.weight" => Init::Normal((2.0 / fan_in(shape)).sqrt()),
        _ if path.starts_with("visual.mb_blocks.") => {
            let gain: f64 = if ends("project.weight") { 1.0 } else { 2.0 };
            Init::Normal((gain / fan_in(shape)).sqrt())
        }
        _ if path.starts_with("visual.") && (ends("out_proj.weight") || ends("c_proj.weight")) => {
            Init::Normal(vit_width.powf(-0.5) / vit_depth)
        }
        _ if path.starts_with("visual.") && ends("c_fc.weight") => {
            Init::Normal((2.0 * vit_width).powf(-0.5))
        }
        _ if path.starts_with("visual.") => Init::Normal(vit_width.powf(-0.5)),
        _ if ends("o_proj.weight") || ends("down_proj.weight") => Init::Normal(0.02 / llm_depth),
        _ => Init::Normal(0.02),
    }
}

/// Number of inputs of one output.
///
/// `shape` is `[in, out]` of a linear layer, or `[out, in / groups, k, k]` of a convolution.
fn fan_in(shape: &[usize]) -> f64 {
    match shape {
        [n_inputs, _] => *n_inputs as f64,
        _ => shape[1..].iter().product::<usize>() as f64,
    }
}

fn draw(init: &Init, shape: &[usize], seed: u64) -> Vec<f32> {
    let n = shape.iter().product();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    match *init {
        Init::Constant(value) => vec![value; n],
        Init::Identity => {
            (0..n).map(|i| if i / shape[1] == i % shape[1] { 1.0 } else { 0.0 }).collect()
        }
        Init::Uniform(bound) => (0..n).map(|_| rng.random_range(-bound..bound) as f32).collect(),
        Init::Normal(std) => (0..n).map(|_| (std * standard_normal(&mut rng)) as f32).collect(),
    }
}

/// A standard normal value by Box–Muller; the second one of the pair is discarded.
fn standard_normal(rng: &mut ChaCha8Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}
