//! What one step computes: the gradient of each recipe's loss.
//!
//! The samples are split into parts, one thread each. The contrastive loss compares samples across
//! parts, so each part embeds its own, the loss and its gradient with respect to the embeddings are
//! taken over all of them at once, and each part goes back from `Σ <embed, gradient>`: exactly the
//! gradient of the whole batch (GradCache, arXiv:2101.06983).

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use burn::module::{Module, ModuleMapper, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData, s};

use super::config::{Objective, Recipe, TrainConfig};
use super::data::{Batch, BatchPart};
use super::optimizer::{GradientMap, collect_gradients};
use crate::config::MmGemConfig;
use crate::loss::{caption_loss, contrastive_logits, contrastive_loss, grounding_loss};
use crate::model::mmgem::{TokenBatch, normalize};
use crate::model::pool_aggregator::Region;
use crate::model::{MmGem, PoolAggregator, Stage};

/// What a run trains: the model, and the layer through which it imitates a teacher.
#[derive(Module, Debug)]
pub struct Trainee {
    /// The model.
    pub model: MmGem,
    /// Patch tokens → the teacher's map; left behind at the end.
    pub teacher_head: Option<Linear>,
}

/// The gradient of a step, and the losses on the way.
#[derive(Debug)]
pub struct StepGradient {
    /// Each part of the loss under its name in `metrics.jsonl`.
    pub losses: Vec<(&'static str, f64)>,
    /// Their weighted sum.
    pub total: f64,
    /// Gradient of the sum.
    pub gradients: GradientMap,
}

/// A mean over things of which a part of the batch has only some.
struct MeanLoss {
    name: &'static str,
    value: Tensor<1>,
    /// Tokens or photos that the mean is over.
    count: usize,
    weight: f32,
}

/// What a part of the batch computes before the parts meet.
struct Forward {
    /// Image or region embeddings and text embeddings, rows of unit length.
    embeds: Option<[Tensor<2>; 2]>,
    means: Vec<MeanLoss>,
}

/// Embeddings on their way to the place where all parts meet, without their graph.
type Embeds = Option<[Tensor<2>; 2]>;

impl Trainee {
    /// The modules of a run around a model.
    pub fn new(model: MmGem, sizes: &MmGemConfig, config: &TrainConfig, device: &Device) -> Self {
        let head = config.distill.as_ref().map(|distill| {
            let head = LinearConfig::new(sizes.vision.hidden_size, distill.hidden_size).init(device);
            crate::init::fresh(head, sizes, config.seed)
        });
        Self { model, teacher_head: head }
    }

    fn forward(
        &self,
        part: BatchPart,
        sizes: &MmGemConfig,
        config: &TrainConfig,
        device: &Device,
    ) -> Forward {
        let mut forward = Forward { embeds: None, means: Vec::new() };
        if !part.samples.is_empty() {
            let pool = PoolAggregator::new(sizes);
            let patches = self.model.visual.forward(part.pixels(sizes, device));
            let texts = part.texts();
            let tokens = TokenBatch::new(&texts, device);
            match config.recipe {
                Recipe::Warmup => {}
                Recipe::Stage1 => {
                    if config.objective != Objective::CapOnly {
                        let image_embed = self.model.image_embed(&pool, patches.clone());
                        forward.embeds = Some([image_embed, self.model.text_embed(&tokens)]);
                    }
                    let grounded = part.with_phrase();
                    if let (Some(grounding), false) = (&config.grounding, grounded.is_empty()) {
                        let value = self.grounding_mean(part, rows(patches.clone(), &grounded), device);
                        let (count, weight) = (grounded.len(), grounding.weight);
                        forward.means.push(MeanLoss { name: "loss_grounding", value, count, weight });
                    }
                    if config.objective != Objective::ClipOnly {
                        let v_in = self.model.visual_context(&pool, patches.clone(), Stage::One);
                        let prefix = self.model.caption_prefix(v_in, Stage::One);
                        forward.means.push(self.caption_mean("loss_gen", prefix, &tokens, &texts, sizes));
                    }
                }
                Recipe::Stage2Caption => {
                    let roi = pool.roi_align(patches.clone(), &part.regions());
                    let v_in = self.model.visual_context(&pool, roi, Stage::Two);
                    let prefix = self.model.caption_prefix(v_in, Stage::Two);
                    forward.means.push(self.caption_mean("loss_gen", prefix, &tokens, &texts, sizes));
                    let whole = part.whole();
                    if config.data.rehearse_stage_1 && !whole.is_empty() {
                        let texts: Vec<Vec<u32>> = whole.iter().map(|photo| texts[*photo].clone()).collect();
                        let patches = rows(patches.clone(), &whole);
                        let v_in = self.model.visual_context(&pool, patches, Stage::One);
                        let prefix = self.model.caption_prefix(v_in, Stage::One);
                        let tokens = TokenBatch::new(&texts, device);
                        forward.means.push(self.caption_mean(
                            "loss_rehearsal",
                            prefix,
                            &tokens,
                            &texts,
                            sizes,
                        ));
                    }
                }
                Recipe::Stage2Retrieval => {
                    let roi = pool.roi_align(patches.clone(), &part.regions());
                    forward.embeds = Some([self.model.region_embed(roi), self.model.text_embed(&tokens)]);
                }
            }
            let taught = part.with_teacher();
            if let (Some(distill), Some(head), false) =
                (&config.distill, &self.teacher_head, taught.is_empty())
            {
                let wanted = part.teacher_maps(distill, device);
                let value = distill_loss(head, patches, &taught, wanted, sizes, distill.grid);
                let count = taught.len();
                forward.means.push(MeanLoss { name: "loss_distill", value, count, weight: distill.weight });
            }
        }
        if !part.lines.is_empty() {
            // Text behind `[CAP]` alone.
            let prefix = self.model.cap_token.val().reshape([1, 1, sizes.llm.hidden_size]);
            let prefix = prefix.expand([part.lines.len(), 1, sizes.llm.hidden_size]);
            let tokens = TokenBatch::new(part.lines, device);
            forward.means.push(self.caption_mean("loss_text", prefix, &tokens, part.lines, sizes));
        }
        forward
    }

    /// `patches` are those of the photos that have a phrase with its place.
    fn grounding_mean(&self, part: BatchPart, patches: Tensor<3>, device: &Device) -> Tensor<1> {
        let (phrases, shares) = part.phrases(device);
        let text_embed = self.model.text_embed(&TokenBatch::new(&phrases, device));
        // The temperature is the contrastive loss's to set.
        let logit_scale = self.model.clamped_logit_scale().detach();
        grounding_loss(self.model.patch_embed(patches), text_embed, shares, logit_scale)
    }

    fn caption_mean(
        &self,
        name: &'static str,
        prefix: Tensor<3>,
        tokens: &TokenBatch,
        texts: &[Vec<u32>],
        sizes: &MmGemConfig,
    ) -> MeanLoss {
        let hidden = self.model.caption_hidden(prefix, tokens);
        let value = caption_loss(&self.model.llm, hidden, texts, sizes.eos_token_id);
        MeanLoss { name, value, count: texts.iter().map(|text| text.len() + 1).sum(), weight: 1.0 }
    }
}

/// Some rows of a batch.
fn rows(patches: Tensor<3>, which: &[usize]) -> Tensor<3> {
    let idx: Vec<i32> = which.iter().map(|row| *row as i32).collect();
    let idx = Tensor::<1, Int>::from_data(TensorData::new(idx, [which.len()]), &patches.device());
    patches.select(0, idx)
}

/// The gradient of a batch's loss; none where the batch is empty.
pub fn gradient(
    trainee: &Trainee,
    batch: &Batch,
    sizes: &MmGemConfig,
    config: &TrainConfig,
    device: &Device,
) -> Option<StepGradient> {
    let parts = batch.split(config.optim.workers);
    if parts.is_empty() {
        return None;
    }
    let totals = Totals::new(batch);
    let mut step = StepGradient { losses: Vec::new(), total: 0.0, gradients: GradientMap::new() };
    thread::scope(|scope| {
        let work = |part| {
            let (to_meeting, embeds) = channel();
            let (to_part, from_meeting) = channel();
            // Leaves of its own keep the graph of each thread apart.
            let trainee = trainee.clone().map(&mut OwnLeaves);
            let run =
                move || work_on(&trainee, part, sizes, config, device, totals, &to_meeting, &from_meeting);
            (scope.spawn(run), embeds, to_part)
        };
        let workers: Vec<_> = parts.into_iter().map(work).collect();
        let embeds: Vec<Embeds> =
            workers.iter().map(|(_, embeds, _)| embeds.recv().unwrap_or_default()).collect();
        for ((_, _, to_part), gradient) in workers.iter().zip(meet(trainee, embeds, &mut step)) {
            // A worker that is gone has panicked; joining it below says so.
            let _ = to_part.send(gradient);
        }
        for (worker, _, _) in workers {
            let done = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            step.add(done);
        }
    });
    Some(step)
}

/// Tokens and photos of the whole batch, over which the means go.
#[derive(Clone, Copy)]
struct Totals {
    taught: usize,
    grounded: usize,
    text_tokens: usize,
    whole_tokens: usize,
    line_tokens: usize,
}

impl Totals {
    fn new(batch: &Batch) -> Self {
        let whole = BatchPart { samples: &batch.samples, lines: &batch.lines };
        Self {
            taught: whole.with_teacher().len(),
            grounded: whole.with_phrase().len(),
            text_tokens: batch.samples.iter().map(|sample| sample.text.len() + 1).sum(),
            whole_tokens: whole.whole().iter().map(|photo| batch.samples[*photo].text.len() + 1).sum(),
            line_tokens: batch.lines.iter().map(|line| line.len() + 1).sum(),
        }
    }

    fn of(&self, name: &str) -> usize {
        match name {
            "loss_gen" => self.text_tokens,
            "loss_rehearsal" => self.whole_tokens,
            "loss_text" => self.line_tokens,
            "loss_grounding" => self.grounded,
            _ => self.taught,
        }
    }
}

/// One part of the batch, there and back.
#[expect(clippy::too_many_arguments, reason = "the body of a thread, called in one place")]
fn work_on(
    trainee: &Trainee,
    part: BatchPart,
    sizes: &MmGemConfig,
    config: &TrainConfig,
    device: &Device,
    totals: Totals,
    to_meeting: &Sender<Embeds>,
    from_meeting: &Receiver<Embeds>,
) -> StepGradient {
    let Forward { embeds, means } = trainee.forward(part, sizes, config, device);
    let detached = embeds.clone().map(|pair| pair.map(Tensor::inner));
    to_meeting.send(detached).expect("the meeting outlives the workers");
    let embed_gradients = from_meeting.recv().expect("the meeting outlives the workers");

    let mut losses = Vec::new();
    let mut terms: Vec<Tensor<1>> = Vec::new();
    let mut total = 0.0;
    for mean in means {
        let share = mean.count as f32 / totals.of(mean.name) as f32;
        let value = f64::from(mean.value.clone().inner().into_scalar::<f32>()) * f64::from(share);
        losses.push((mean.name, value));
        total += value * f64::from(mean.weight);
        terms.push(mean.value * (share * mean.weight));
    }
    if let (Some(embeds), Some(gradients)) = (embeds, embed_gradients) {
        for (embed, gradient) in embeds.into_iter().zip(gradients) {
            terms.push((embed * Tensor::from_inner(gradient)).sum());
        }
    }
    let gradients = terms.into_iter().reduce(|a, b| a + b).map(|surrogate| {
        let mut gradients = surrogate.backward();
        collect_gradients(trainee, &mut gradients)
    });
    StepGradient { losses, total, gradients: gradients.unwrap_or_default() }
}

/// The contrastive loss over the embeddings of all parts; returns its gradient for each part that has some.
fn meet(trainee: &Trainee, embeds: Vec<Embeds>, step: &mut StepGradient) -> Vec<Embeds> {
    // A part that holds lines of text alone has none.
    let present: Vec<&[Tensor<2>; 2]> = embeds.iter().flatten().collect();
    if present.is_empty() {
        return embeds;
    }
    let all = |side: usize| {
        Tensor::<2>::from_inner(Tensor::cat(present.iter().map(|pair| pair[side].clone()).collect(), 0))
            .require_grad()
    };
    let (visual, text) = (all(0), all(1));
    let loss = contrastive_loss(contrastive_logits(
        visual.clone(),
        text.clone(),
        trainee.model.clamped_logit_scale(),
    ));
    let value = f64::from(loss.clone().inner().into_scalar::<f32>());
    step.losses.push(("loss_emb", value));
    step.total += value;

    let mut gradients = loss.backward();
    let gradient_of = |gradients: &mut Gradients, embed: &Tensor<2>| {
        embed.grad_remove(gradients).expect("the loss depends on every embedding")
    };
    let (visual, text) = (gradient_of(&mut gradients, &visual), gradient_of(&mut gradients, &text));
    // What is left is the temperature's.
    step.gradients = collect_gradients(trainee, &mut gradients);
    let mut start = 0;
    let mut part = |[embed, _]: &[Tensor<2>; 2]| {
        let [n, _] = embed.dims();
        let range = start..start + n;
        start += n;
        [visual.clone().slice(s![range.clone()]), text.clone().slice(s![range])]
    };
    embeds.iter().map(|pair| pair.as_ref().map(&mut part)).collect()
}

impl StepGradient {
    fn add(&mut self, other: Self) {
        for (name, value) in other.losses {
            match self.losses.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += value,
                None => self.losses.push((name, value)),
            }
        }
        self.total += other.total;
        for (path, gradient) in other.gradients {
            let sum = match self.gradients.remove(&path) {
                Some(sum) => sum + gradient,
                None => gradient,
            };
            self.gradients.insert(path, sum);
        }
    }
}

/// The same values as leaves of another graph.
struct OwnLeaves;

impl ModuleMapper for OwnLeaves {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let trained = param.is_require_grad();
        let (id, tensor, mapper) = param.consume();
        let tensor = Tensor::from_inner(tensor.inner());
        Param::from_mapped_value(id, if trained { tensor.require_grad() } else { tensor }, mapper)
    }
}

/// Mean cosine distance between the student's patch tokens, mapped to the teacher's width and pooled
/// to its grid, and the teacher's map of the same crop.
///
/// # Shapes
/// - patches: `[batch, n_patches, hidden]`
/// - taught: which of the batch have a teacher's map
/// - wanted: `[taught, grid * grid, teacher_hidden]`
fn distill_loss(
    head: &Linear,
    patches: Tensor<3>,
    taught: &[usize],
    wanted: Tensor<3>,
    sizes: &MmGemConfig,
    grid: usize,
) -> Tensor<1> {
    let side = sizes.vision.image_size;
    let pool =
        PoolAggregator { grid: sizes.grid(), image_size: side, roi_output_size: grid, roi_sampling_ratio: 2 };
    let whole = Region { box_input: [0.0, 0.0, side as f32, side as f32], mask: None };
    let regions: Vec<(usize, Region)> = taught.iter().map(|image| (*image, whole.clone())).collect();
    let found = head.forward(pool.roi_align(patches, &regions));
    -(normalize(found) * normalize(wanted)).sum_dim(2).mean() + 1.0
}
