//! Traces every stage of the graph for given inputs, under the reference program's names.

mod case;
mod file;

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use mmgem_core::checkpoint::names::{checkpoint_name, is_transposed};
use mmgem_core::config::MmGemConfig;
use mmgem_core::generate::greedy;
use mmgem_core::loss::{Losses, caption_loss, contrastive_logits, contrastive_loss};
use mmgem_core::model::mmgem::TokenBatch;
use mmgem_core::model::pool_aggregator::Region;
use mmgem_core::model::{MmGem, Stage};
use mmgem_core::params::visit;
use mmgem_core::readback::{DeviceFailed, read_floats};

pub use case::{Case, CaseError};
pub use file::{TraceFileError, from_safetensors, to_safetensors};

/// The inputs of a trace.
#[derive(Clone, Debug)]
pub struct TraceInput {
    /// Standardized pixels of each image, `[3, side, side]`.
    pub pixels: Vec<Vec<f32>>,
    /// Token ids of each text.
    pub texts: Vec<Vec<u32>>,
    /// Boxes of image 0, `[x0, y0, x1, y1]` in pixels of the model's input.
    pub boxes_input: Vec<[f32; 4]>,
    /// Tokens of each greedy caption.
    pub steps: usize,
}

/// Values of one stage.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Activations, losses, gradients.
    Floats(Vec<f32>),
    /// Token ids and lengths.
    Ints(Vec<i64>),
}

/// One named tensor of a trace.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceTensor {
    /// Name in the reference program's output.
    pub name: String,
    /// Sizes.
    pub shape: Vec<usize>,
    /// Values, row by row.
    pub values: Values,
}

/// Gradients to trace, by their paths in the module tree. The reference program writes them; those
/// of convolutional encoders come from `tests/parity/make.py`.
const TRACED_GRADIENTS: [&str; 11] = [
    "h1.weight",
    "h2.weight",
    "h3.weight",
    "emb_token",
    "cap_token",
    "logit_scale",
    "visual.conv1",
    "visual.stem.weight",
    "visual.mb_blocks.2.dw.weight",
    "visual.head.weight",
    "llm.layers.0.self_attn.q_proj.weight",
];

/// Runs the forward stages on the model's device.
pub async fn trace_forward(
    model: &MmGem,
    config: &MmGemConfig,
    input: &TraceInput,
) -> Result<Vec<TraceTensor>, DeviceFailed> {
    let device = model.logit_scale.val().device();
    let pixels = pixel_batch(input, config, &device);
    let texts = TokenBatch::new(&input.texts, &device);
    let mut out = Recorder::default();

    let patches = model.visual.forward(pixels.clone());
    let [batch, n_patches, width] = patches.dims();
    let grid = config.grid();
    let text_embed = model.text_embed(&texts);
    let tokens = model.whole_tokens(patches.clone());
    let v_in = model.visual_context(tokens.clone(), Stage::One);
    let prefix = model.caption_prefix(tokens, Stage::One);
    let similarity = model
        .patch_embed(patches.clone(), Stage::Two)
        .matmul(text_embed.clone().transpose().unsqueeze());

    out.floats("pixels", pixels).await?;
    out.floats("feature_map", patches.clone().swap_dims(1, 2).reshape([batch, width, grid, grid]))
        .await?;
    out.floats("image_embed", model.image_embed(patches.clone())).await?;
    out.floats("v_in", v_in).await?;
    out.text_ids(input);
    out.floats("text_embed", text_embed).await?;
    out.floats("caption_first_logits", first_logits(model, prefix.clone())).await?;
    out.captions("caption_ids", model, prefix, input.steps).await?;
    out.floats("patch_similarity", similarity).await?;
    debug_assert_eq!(n_patches, grid * grid);

    if !input.boxes_input.is_empty() {
        let regions: Vec<(usize, Region)> =
            input.boxes_input.iter().map(|b| (0, Region { box_input: *b, mask: None })).collect();
        let roi = model.pool.roi_align(patches, &regions);
        let [n_regions, _, width] = roi.dims();
        let r = config.roi_output_size;
        out.push("boxes", &[regions.len(), 4], Values::Floats(input.boxes_input.concat()));
        out.floats("roi", roi.clone().swap_dims(1, 2).reshape([n_regions, width, r, r])).await?;
        out.floats("region_embed", model.region_embed(roi.clone())).await?;
        let prefix = model.caption_prefix(roi, Stage::Two);
        out.captions("region_caption_ids", model, prefix, input.steps).await?;
    }
    Ok(out.tensors)
}

/// Losses and gradients if image `i` belongs to text `i`. The model must be on an autodiff device.
pub async fn trace_backward(
    model: &MmGem,
    config: &MmGemConfig,
    input: &TraceInput,
) -> Result<Vec<TraceTensor>, DeviceFailed> {
    let device = model.logit_scale.val().device();
    let losses = stage_1_losses(model, config, pixel_batch(input, config, &device), &input.texts);
    let total = losses.total();
    let mut out = Recorder::default();
    out.floats("loss_emb", losses.emb).await?;
    out.floats("loss_gen", losses.gen_).await?;
    out.floats("loss", total.clone()).await?;

    let mut gradients = total.backward();
    let mut found = BTreeMap::new();
    visit(model, |param| {
        if TRACED_GRADIENTS.contains(&param.path.as_str())
            && let Some(gradient) = param.take_gradient(&mut gradients)
        {
            found.insert(param.path, (param.shape, gradient));
        }
    });
    for path in TRACED_GRADIENTS {
        let Some((shape, gradient)) = found.remove(path) else { continue };
        let (shape, gradient) = match shape[..] {
            [rows, columns] if is_transposed(path, 2) => {
                let gradient = gradient.reshape([rows, columns]).swap_dims(0, 1);
                (vec![columns, rows], gradient.reshape([rows * columns]))
            }
            _ => (shape, gradient),
        };
        let values = Values::Floats(read_floats(gradient).await?);
        out.push(&format!("grad.{}", checkpoint_name(path)), &shape, values);
    }
    Ok(out.tensors)
}

/// Both losses of stage 1 on a batch (equations 2 and 3).
pub fn stage_1_losses(
    model: &MmGem,
    config: &MmGemConfig,
    pixels: Tensor<4>,
    texts: &[Vec<u32>],
) -> Losses {
    losses_of_patches(model, config, model.visual.forward(pixels), texts)
}

/// [`stage_1_losses`] of images whose patch tokens are known, as with the cache of a frozen encoder.
pub fn losses_of_patches(
    model: &MmGem,
    config: &MmGemConfig,
    patches: Tensor<3>,
    texts: &[Vec<u32>],
) -> Losses {
    let batch = TokenBatch::new(texts, &patches.device());
    let logits = contrastive_logits(
        model.image_embed(patches.clone()),
        model.text_embed(&batch),
        model.clamped_logit_scale(),
    );
    let prefix = model.caption_prefix(model.whole_tokens(patches), Stage::One);
    let hidden = model.caption_hidden(prefix, &batch);
    Losses {
        emb: contrastive_loss(logits),
        gen_: caption_loss(&model.llm, hidden, texts, config.eos_token_id),
    }
}

/// Largest difference of a stage between two traces.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Name of the stage.
    pub name: String,
    /// Largest absolute difference divided by the largest absolute value of the reference. For
    /// token ids, the share of ids that differ. Infinite if the shapes differ or the stage is
    /// missing.
    pub relative: f64,
    /// The reason if `relative` is infinite because the stages cannot be compared.
    pub problem: Option<String>,
}

/// Compares a trace with a reference, stage by stage in the order of the reference.
pub fn compare(found: &[TraceTensor], wanted: &[TraceTensor]) -> Vec<Difference> {
    wanted
        .iter()
        .map(|wanted| difference(found.iter().find(|f| f.name == wanted.name), wanted))
        .collect()
}

fn difference(found: Option<&TraceTensor>, wanted: &TraceTensor) -> Difference {
    let broken = |problem: String| Difference {
        name: wanted.name.clone(),
        relative: f64::INFINITY,
        problem: Some(problem),
    };
    let Some(found) = found else {
        return broken("not traced".into());
    };
    if found.shape != wanted.shape {
        return broken(format!("shape {:?}, wanted {:?}", found.shape, wanted.shape));
    }
    let relative = match (&found.values, &wanted.values) {
        (Values::Floats(found), Values::Floats(wanted)) => {
            let scale = wanted.iter().fold(0f64, |max, w| max.max(f64::from(w.abs())));
            let largest = found.iter().zip(wanted).fold(0f64, |max, (f, w)| {
                let difference = f64::from((f - w).abs());
                if difference.is_nan() { f64::INFINITY } else { max.max(difference) }
            });
            largest / scale.max(1e-12)
        }
        (Values::Ints(found), Values::Ints(wanted)) => {
            let differing = found.iter().zip(wanted).filter(|(f, w)| f != w).count();
            differing as f64 / wanted.len().max(1) as f64
        }
        _ => return broken("another number format".into()),
    };
    Difference { name: wanted.name.clone(), relative, problem: None }
}

fn pixel_batch(
    input: &TraceInput,
    config: &MmGemConfig,
    device: &burn::tensor::Device,
) -> Tensor<4> {
    let side = config.vision.image_size();
    let data =
        burn::tensor::TensorData::new(input.pixels.concat(), [input.pixels.len(), 3, side, side]);
    Tensor::from_data(data, device)
}

fn first_logits(model: &MmGem, prefix: Tensor<3>) -> Tensor<2> {
    let [batch, n_prefix, _] = prefix.dims();
    let hidden = model.llm.forward_embeds(prefix);
    let [_, _, width] = hidden.dims();
    model.llm.logits(hidden.slice(burn::tensor::s![.., n_prefix - 1..]).reshape([batch, width]))
}

#[derive(Default)]
struct Recorder {
    tensors: Vec<TraceTensor>,
}

impl Recorder {
    fn push(&mut self, name: &str, shape: &[usize], values: Values) {
        self.tensors.push(TraceTensor { name: name.to_owned(), shape: shape.to_vec(), values });
    }

    async fn floats<const D: usize>(
        &mut self,
        name: &str,
        tensor: Tensor<D>,
    ) -> Result<(), DeviceFailed> {
        let shape = tensor.dims();
        let values = read_floats(tensor).await?;
        self.push(name, &shape, Values::Floats(values));
        Ok(())
    }

    fn text_ids(&mut self, input: &TraceInput) {
        let seq = input.texts.iter().map(Vec::len).max().unwrap_or(0);
        let padded = input.texts.iter().flat_map(|text| {
            text.iter().map(|id| i64::from(*id)).chain(std::iter::repeat(0)).take(seq)
        });
        self.push("text_ids", &[input.texts.len(), seq], Values::Ints(padded.collect()));
        let lens = input.texts.iter().map(|text| text.len() as i64).collect();
        self.push("text_lens", &[input.texts.len()], Values::Ints(lens));
    }

    async fn captions(
        &mut self,
        name: &str,
        model: &MmGem,
        prefix: Tensor<3>,
        steps: usize,
    ) -> Result<(), DeviceFailed> {
        let captions = greedy(&model.llm, prefix, None, steps).await?;
        let ids = captions
            .iter()
            .flat_map(|caption| caption.ids.iter().map(|id| i64::from(*id)))
            .collect();
        self.push(name, &[captions.len(), steps], Values::Ints(ids));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(name: &str, values: &[f32]) -> TraceTensor {
        TraceTensor {
            name: name.into(),
            shape: vec![values.len()],
            values: Values::Floats(values.to_vec()),
        }
    }

    #[test]
    fn a_difference_is_measured_against_the_largest_value() {
        let found = compare(&[floats("x", &[1.0, 2.5])], &[floats("x", &[1.0, 2.0])]);
        assert_eq!(found[0].relative, 0.25);
    }

    #[test]
    fn a_stage_that_was_not_traced_or_is_nan_never_passes() {
        assert_eq!(compare(&[], &[floats("x", &[1.0])])[0].relative, f64::INFINITY);
        assert_eq!(
            compare(&[floats("x", &[f32::NAN])], &[floats("x", &[1.0])])[0].relative,
            f64::INFINITY
        );
    }
}
