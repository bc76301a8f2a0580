//! Computes a training step: the gradient of each recipe's loss.
//!
//! The samples of a step are divided among ranks (processes), then among each rank's workers
//! (threads), then into micro-batches. The contrastive loss compares samples across all of these
//! parts. So each part embeds its own samples. The loss and its gradient with respect to the
//! embeddings are then computed over all parts at once (`contrast.rs`). Each part runs its backward
//! pass from `Σ <embed, gradient>`. This is exactly the gradient of the whole batch (GradCache,
//! arXiv:2101.06983), and a plain sum over the ranks. A worker with a single micro-batch runs only
//! one forward pass, which serves both. The gradients are summed over workers and ranks while the
//! backward passes go on (`overlap.rs`). Means over tokens are weighted by each part's share. The
//! losses, the norm of the gradient and the temperature are read from the device once a step.
//!
//! # Precision
//!
//! The weights are f32. Each worker of a step has its own leaves, cast to `optim.compute_dtype`;
//! norms and the temperature stay f32. The dtype of the graph follows from its weights; norms,
//! means, unit vectors and losses are f32 (`core/src/kernels`). Gradients are cast back before they
//! are summed.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, ScopedJoinHandle};

use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Int, StreamId, Tensor, TensorData, s};
use mmgem_collective::{Collective, CollectiveError, exchange_numbers};
use mmgem_core::checkpoint::{HASH_START, hash_bytes};
use mmgem_core::config::MmGemConfig;
use mmgem_core::loss::{PairBlock, caption_loss, grounding_loss};
use mmgem_core::model::mmgem::{TokenBatch, normalize};
use mmgem_core::model::segments::{Keep, Tape, record};
use mmgem_core::model::{MmGem, Stage};
use mmgem_core::params::{Mapped, Trained, map};
use mmgem_core::readback::floats_now;

use super::agreement::{agreed_norm, square_sum};
use super::config::{ComputeDtype, ContrastiveLoss, Objective, Recipe, TrainConfig};
use super::contrast::{Contrast, ContrastNumbers, Embeddings, contrast};
use super::data::{Batch, BatchPart};
use super::lora::with_adapters;
use super::optimizer::{GradientMap, collect, collect_gradients, text_learns};
use super::overlap::{Outbox, Overlap, Reduction, Units, add};
use super::plan::contrasts;
use super::streams::{stream_of_exchange, stream_of_worker};

/// The modules that a run trains: the model, and heads that the finished model does not keep.
#[derive(Module, Debug)]
pub struct Trainee {
    /// The model.
    pub model: MmGem,
    /// Maps patch tokens to the teacher's, at the same positions.
    pub teacher_head: Option<Linear>,
    /// SigLIP's bias, `[1]`.
    pub logit_bias: Option<Param<Tensor<1>>>,
}

/// Initial value of SigLIP's bias: nearly all pairs do not match.
const LOGIT_BIAS_INIT: f32 = -10.0;

/// Names of the losses in `metrics.jsonl`.
pub const LOSSES: [&str; 8] = [
    "loss_emb",
    "loss_gen",
    "loss_phrase",
    "loss_rehearsal",
    "loss_distill",
    "loss_distill_mean",
    "loss_grounding",
    "loss_text",
];

/// The gradient of a step, and its losses.
#[derive(Debug, Default)]
pub struct StepGradient {
    /// Each part of the loss under its name in `metrics.jsonl`.
    pub losses: Vec<(&'static str, f64)>,
    /// Weighted sum of the losses.
    pub total: f64,
    /// Variance of the embeddings of images and of texts, if the recipe has a contrastive loss.
    pub spread: Option<[f64; 2]>,
    /// Gradient of the sum.
    pub gradients: GradientMap,
    /// Its norm, the same on all ranks.
    pub norm: f64,
    /// The log of the inverse temperature.
    pub log_scale: f32,
}

/// The gradients of parts of a step, and their losses, which stay on the device until the whole
/// step is read at once.
#[derive(Default)]
struct Unread {
    means: Vec<PartMean>,
    contrast: Option<Contrast>,
    gradients: GradientMap,
}

/// A mean loss of a part.
struct PartMean {
    name: &'static str,
    /// `[1]`, without a graph.
    value: Tensor<1>,
    /// The part's share of the batch's mean.
    share: f64,
    weight: f32,
}

/// A mean loss over one part of the batch; `count` gives the part its weight in the batch's mean.
struct MeanLoss {
    name: &'static str,
    value: Tensor<1>,
    /// Tokens or photos that the mean is taken over.
    count: usize,
    weight: f32,
}

/// Embeddings that are contrasted with those of all other parts; rows of unit length.
#[derive(Clone)]
struct Pairs {
    /// Embeddings of images or regions, `[n, embed_dim]`.
    visual: Tensor<2>,
    /// Embeddings of their texts, `[n, embed_dim]`.
    text: Tensor<2>,
    /// A hash of each text.
    text_hashes: Vec<u32>,
}

impl Pairs {
    /// Drops the autodiff graph.
    fn detached(self) -> Self {
        Self { visual: self.visual.inner(), text: self.text.inner(), text_hashes: self.text_hashes }
    }

    fn len(&self) -> usize {
        self.text_hashes.len()
    }

    /// Concatenates the rows; `None` without any pairs.
    fn join(pairs: &[Self]) -> Option<Self> {
        let side =
            |of: fn(&Self) -> &Tensor<2>| Tensor::cat(pairs.iter().map(of).cloned().collect(), 0);
        (!pairs.is_empty()).then(|| Self {
            visual: side(|pair| &pair.visual),
            text: side(|pair| &pair.text),
            text_hashes: pairs.iter().flat_map(|pair| pair.text_hashes.iter().copied()).collect(),
        })
    }
}

/// The surroundings of a step: the same for all parts of its batch.
#[derive(Clone, Copy)]
pub struct StepContext<'a> {
    /// Sizes of the model.
    pub sizes: &'a MmGemConfig,
    /// The run.
    pub config: &'a TrainConfig,
    /// The training device; with autodiff, except for passes without a gradient.
    pub device: &'a Device,
    /// Counts over the batches of all ranks.
    pub totals: &'a Totals,
}

/// The forward pass of a part of the batch, before the contrastive loss combines all parts.
#[derive(Default)]
struct Forward {
    pairs: Option<Pairs>,
    means: Vec<MeanLoss>,
}

/// A forward pass, with the tape for its backward pass.
type ForwardPass = (Forward, Tape);

/// Gradients of the embeddings of a part: of its images or regions, and of its texts if they learn.
type EmbedGradients = Option<(Tensor<2>, Option<Tensor<2>>)>;

impl Trainee {
    /// The model with the additional modules and the adapters of a run.
    pub fn new(model: MmGem, sizes: &MmGemConfig, config: &TrainConfig, device: &Device) -> Self {
        let model = match &config.lora {
            Some(lora) => with_adapters(model, lora, sizes, config.seed),
            None => model,
        };
        let head = config.distill.as_ref().map(|distill| {
            let head =
                LinearConfig::new(sizes.vision.hidden_size(), distill.hidden_size).init(device);
            mmgem_core::init::fresh(head, sizes, config.seed)
        });
        let bias = || Param::from_tensor(Tensor::from_floats([LOGIT_BIAS_INIT], device));
        let logit_bias = (config.contrastive_loss == ContrastiveLoss::Siglip).then(bias);
        Self { model, teacher_head: head, logit_bias }
    }

    /// The forward pass of a part, by the run's recipe.
    fn forward(&self, part: BatchPart, context: &StepContext) -> Forward {
        let mut forward = Forward::default();
        if !part.samples.is_empty() {
            let patches = self.patches(part, context);
            forward = match context.config.recipe {
                Recipe::Warmup => Forward::default(),
                Recipe::Stage1 => self.stage_1(part, &patches, context),
                Recipe::Stage2Caption => self.stage_2_caption(part, &patches, context),
                Recipe::Stage2Retrieval => self.stage_2_retrieval(part, &patches, context),
            };
            forward.means.extend(self.distill_means(part, patches, context));
        }
        forward.means.extend(self.line_mean(part, context));
        forward
    }

    /// The embeddings alone, for the first of two passes.
    fn embed_only(&self, part: BatchPart, context: &StepContext) -> Option<Pairs> {
        if part.samples.is_empty() || !contrasts(context.config) {
            return None;
        }
        let patches = self.patches(part, context);
        match context.config.recipe {
            Recipe::Stage1 => {
                let phrase_embed = self.phrase_embed(part, context);
                self.stage_1_pairs(part, &patches, phrase_embed.as_ref(), context)
            }
            Recipe::Stage2Retrieval => Some(self.region_pairs(part, &patches, context)),
            Recipe::Warmup | Recipe::Stage2Caption => None,
        }
    }

    /// Stage 1: contrastive and caption loss of whole photos, and grounding of phrases.
    fn stage_1(&self, part: BatchPart, patches: &Tensor<3>, context: &StepContext) -> Forward {
        let config = context.config;
        let phrase_embed = self.phrase_embed(part, context);
        let pairs = self.stage_1_pairs(part, patches, phrase_embed.as_ref(), context);
        let mut means = Vec::new();
        if let (Some(grounding), Some(phrase_embed)) = (&config.grounding, phrase_embed) {
            means.push(MeanLoss {
                name: "loss_grounding",
                value: self.grounding_mean(part, patches, phrase_embed, context.device),
                count: part.phrase_photos().len(),
                weight: grounding.weight,
            });
            if grounding.caption_weight > 0.0 {
                let roi = self.model.pool.roi_align(patches.clone(), &part.phrase_regions());
                let phrases = part.phrases();
                let mean = self.caption_mean("loss_phrase", roi, Stage::Two, &phrases, context);
                means.push(MeanLoss { weight: grounding.caption_weight, ..mean });
            }
        }
        if config.objective != Objective::ClipOnly {
            let photos = part.captioned_photos();
            means.extend(self.whole_caption_mean("loss_gen", part, patches, &photos, context));
        }
        Forward { pairs, means }
    }

    /// Stage 2 for captions: caption loss of regions, and of whole photos if they are rehearsed.
    fn stage_2_caption(
        &self,
        part: BatchPart,
        patches: &Tensor<3>,
        context: &StepContext,
    ) -> Forward {
        let roi = self.model.pool.roi_align(patches.clone(), &part.regions());
        let mut means =
            vec![self.caption_mean("loss_gen", roi, Stage::Two, &part.texts(), context)];
        if context.config.data.rehearse_stage_1 {
            let photos = part.whole_image_photos();
            means.extend(self.whole_caption_mean(
                "loss_rehearsal",
                part,
                patches,
                &photos,
                context,
            ));
        }
        Forward { pairs: None, means }
    }

    /// Stage 2 for retrieval: contrastive loss of regions.
    fn stage_2_retrieval(
        &self,
        part: BatchPart,
        patches: &Tensor<3>,
        context: &StepContext,
    ) -> Forward {
        Forward { pairs: Some(self.region_pairs(part, patches, context)), means: Vec::new() }
    }

    /// Patch tokens of the photos. With patch dropout, of the kept patches only.
    fn patches(&self, part: BatchPart, context: &StepContext) -> Tensor<3> {
        let StepContext { sizes, device, .. } = *context;
        if let Some(patches) = part.patches(sizes, device) {
            return patches;
        }
        let pixels = part.pixels(sizes, device);
        match (part.kept_patches(), self.model.visual.as_vit()) {
            (Some(kept), Some(vit)) => vit.forward_kept(pixels, &kept),
            _ => self.model.visual.forward(pixels),
        }
    }

    /// The photos and their texts, and the regions and their phrases if they are contrasted too;
    /// `None` without contrastive loss.
    fn stage_1_pairs(
        &self,
        part: BatchPart,
        patches: &Tensor<3>,
        phrase_embed: Option<&Tensor<2>>,
        context: &StepContext,
    ) -> Option<Pairs> {
        if !contrasts(context.config) {
            return None;
        }
        let photos = self.text_pairs(part, self.model.image_embed(patches.clone()), context);
        let contrasts_regions =
            context.config.grounding.as_ref().is_some_and(|grounding| grounding.contrast);
        let (Some(phrase_embed), true) = (phrase_embed, contrasts_regions) else {
            return Some(photos);
        };
        let roi = self.model.pool.roi_align(patches.clone(), &part.phrase_regions());
        let regions = Pairs {
            visual: self.model.image_embed(roi),
            text: phrase_embed.clone(),
            text_hashes: hash_texts(&part.phrase_queries()),
        };
        Pairs::join(&[photos, regions])
    }

    /// The regions of stage 2 and their texts.
    fn region_pairs(&self, part: BatchPart, patches: &Tensor<3>, context: &StepContext) -> Pairs {
        let roi = self.model.pool.roi_align(patches.clone(), &part.regions());
        self.text_pairs(part, self.model.region_embed(roi), context)
    }

    /// Pairs the embeddings of the samples' images or regions with those of their texts.
    fn text_pairs(&self, part: BatchPart, visual: Tensor<2>, context: &StepContext) -> Pairs {
        let queries = part.queries();
        let text = self.model.text_embed(&TokenBatch::new(&queries, context.device));
        Pairs { visual, text, text_hashes: hash_texts(&queries) }
    }

    /// Embeddings of the phrases with known places, if the run learns grounding.
    fn phrase_embed(&self, part: BatchPart, context: &StepContext) -> Option<Tensor<2>> {
        context.config.grounding.as_ref()?;
        let queries = part.phrase_queries();
        let embed = || self.model.text_embed(&TokenBatch::new(&queries, context.device));
        (!queries.is_empty()).then(embed)
    }

    /// Grounding loss over the photos that have a phrase with its place.
    fn grounding_mean(
        &self,
        part: BatchPart,
        patches: &Tensor<3>,
        text_embed: Tensor<2>,
        device: &Device,
    ) -> Tensor<1> {
        let patches = rows(patches.clone(), &part.phrase_photos());
        let shares = part.phrase_shares(device);
        // Detached, because only the contrastive loss sets the temperature.
        let logit_scale = self.model.logit_scale.val().detach();
        grounding_loss(self.model.patch_embed(patches, Stage::Two), text_embed, shares, logit_scale)
    }

    /// Caption loss of some whole photos with stage 1's prompt; `None` without any.
    fn whole_caption_mean(
        &self,
        name: &'static str,
        part: BatchPart,
        patches: &Tensor<3>,
        photos: &[usize],
        context: &StepContext,
    ) -> Option<MeanLoss> {
        if photos.is_empty() {
            return None;
        }
        let texts = part.texts();
        let texts: Vec<Vec<u32>> = photos.iter().map(|photo| texts[*photo].clone()).collect();
        let tokens = self.model.whole_tokens(rows(patches.clone(), photos));
        Some(self.caption_mean(name, tokens, Stage::One, &texts, context))
    }

    /// Caption loss of whole images or regions; the stage's V_in is computed from `tokens`.
    fn caption_mean(
        &self,
        name: &'static str,
        tokens: Tensor<3>,
        stage: Stage,
        texts: &[Vec<u32>],
        context: &StepContext,
    ) -> MeanLoss {
        self.text_mean(name, self.model.caption_prefix(tokens, stage), texts, context)
    }

    /// Caption loss of texts after a prefix.
    fn text_mean(
        &self,
        name: &'static str,
        prefix: Tensor<3>,
        texts: &[Vec<u32>],
        context: &StepContext,
    ) -> MeanLoss {
        let tokens = TokenBatch::new(texts, &prefix.device());
        let hidden = self.model.caption_hidden(prefix, &tokens);
        let value = caption_loss(&self.model.llm, hidden, texts, context.sizes.eos_token_id);
        MeanLoss { name, value, count: texts.iter().map(|text| text.len() + 1).sum(), weight: 1.0 }
    }

    /// Loss of the lines of text after `[CAP]` alone; `None` without lines.
    fn line_mean(&self, part: BatchPart, context: &StepContext) -> Option<MeanLoss> {
        if part.lines.is_empty() {
            return None;
        }
        let width = context.sizes.llm.hidden_size;
        let prefix = self.model.cap_token.val().reshape([1, 1, width]);
        let prefix = prefix.expand([part.lines.len(), 1, width]);
        Some(self.text_mean("loss_text", prefix, part.lines, context))
    }

    /// Distillation from the teacher's maps, for the photos that have one.
    fn distill_means(
        &self,
        part: BatchPart,
        patches: Tensor<3>,
        context: &StepContext,
    ) -> Vec<MeanLoss> {
        let photos = part.teacher_photos();
        let (Some(distill), Some(head), false) =
            (&context.config.distill, &self.teacher_head, photos.is_empty())
        else {
            return Vec::new();
        };
        let wanted = part.teacher_maps(distill, context.device);
        let found = head.forward(rows(patches, &photos));
        let mean = |name, value, weight| MeanLoss { name, value, count: photos.len(), weight };
        let mut means = Vec::new();
        if distill.mean_weight > 0.0 {
            let value = cosine_distance(found.clone().mean_dim(1), wanted.clone().mean_dim(1));
            means.push(mean("loss_distill_mean", value, distill.mean_weight));
        }
        means.push(mean("loss_distill", cosine_distance(found, wanted), distill.weight));
        means
    }
}

/// A hash of each text, short enough (24 bits) that f32 holds it exactly.
fn hash_texts(texts: &[Vec<u32>]) -> Vec<u32> {
    let bytes = |text: &Vec<u32>| text.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>();
    texts.iter().map(|text| (hash_bytes(HASH_START, &bytes(text)) >> 40) as u32).collect()
}

/// Selects rows of a batch.
fn rows(patches: Tensor<3>, which: &[usize]) -> Tensor<3> {
    if which.len() == patches.dims()[0] {
        return patches;
    }
    let idx: Vec<i32> = which.iter().map(|row| *row as i32).collect();
    let idx = Tensor::<1, Int>::from_data(TensorData::new(idx, [which.len()]), &patches.device());
    patches.select(0, idx)
}

/// The gradient of the loss over all ranks' batches, the same on each rank.
///
/// # Errors
/// If the ranks lose contact.
pub fn gradient(
    trainee: &Trainee,
    batch: &Batch,
    context: &StepContext,
    group: &dyn Collective,
) -> Result<StepGradient, CollectiveError> {
    gradient_with(trainee, batch, context, group, Overlap::default())
}

/// [`gradient`] with other settings of the exchange between the ranks.
///
/// # Errors
/// If the ranks lose contact.
pub fn gradient_with(
    trainee: &Trainee,
    batch: &Batch,
    context: &StepContext,
    group: &dyn Collective,
    overlap: Overlap,
) -> Result<StepGradient, CollectiveError> {
    let config = context.config;
    let parts = batch.split(config.optim.workers);
    let mut step = Unread::default();
    let caller = StreamId::current();
    let units = Units::new(trainee);
    let (finals, final_receiver) = channel();
    thread::scope(|scope| {
        let work = |(worker, part)| {
            let (pairs_sender, pairs_receiver) = channel();
            let (gradient_sender, gradient_receiver) = channel();
            let outbox = Outbox::new(&units, worker, finals.clone(), overlap.on_final);
            // Each thread has leaves of its own, so that the graphs stay separate.
            let trainee = own_leaves(trainee.clone(), config.optim.compute_dtype);
            let run = move || {
                if config.optim.workers >= rayon::current_num_threads() {
                    mmgem_core::kernels::use_one_thread();
                }
                // Everything of this thread is on its stream, also the end of its values.
                stream_of_worker(worker, caller).executes(move || {
                    let params = Trained::new(&trainee);
                    let worker = Worker { trainee: &trainee, params, context };
                    worker.work_on(part, &pairs_sender, &gradient_receiver, outbox)
                })
            };
            (scope.spawn(run), pairs_receiver, gradient_sender)
        };
        let workers: Vec<_> = parts.into_iter().enumerate().map(work).collect();
        drop(finals);
        let pairs: Vec<Option<Pairs>> =
            workers.iter().map(|(_, pairs, _)| pairs.recv().unwrap_or_default()).collect();
        let embed_gradients = if contrasts(config) && context.totals.n_photos > 0.0 {
            global_contrast(trainee, pairs, context, &mut step, group)
        } else {
            Ok(pairs.iter().map(|_| None).collect())
        };
        // Workers stop if they get no answer.
        let (answers, lost) = match embed_gradients {
            Ok(answers) => (answers, None),
            Err(lost) => (Vec::new(), Some(lost)),
        };
        for ((_, _, gradient_sender), gradient) in workers.iter().zip(answers) {
            // The send fails only if the worker has panicked; joining it below reports the panic.
            let _ = gradient_sender.send(gradient);
        }
        let workers: Vec<_> = workers.into_iter().map(|(worker, _, _)| worker).collect();
        let device = trainee.model.logit_scale.val().inner().device();
        let first = std::mem::take(&mut step.gradients);
        let reduction = Reduction::new(&units, workers.len(), first, overlap.bucket, device, group);
        let reduce = || reduction.run(&final_receiver);
        let (means, gradients) = match lost {
            Some(lost) => (join(workers), Err(lost)),
            None if group.size() > 1 => {
                let gradients = stream_of_exchange().executes(reduce);
                (join(workers), gradients)
            }
            // There is nothing to wait for, and the first worker computes on this thread's stream.
            None => (join(workers), reduce()),
        };
        step.means = means;
        step.gradients = gradients?;
        Ok(())
    })?;
    step.read(trainee).over_all_ranks(group)
}

/// Waits for all workers, and returns the mean losses of their parts.
fn join(workers: Vec<ScopedJoinHandle<Vec<PartMean>>>) -> Vec<PartMean> {
    let means = |worker: ScopedJoinHandle<Vec<PartMean>>| {
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    };
    workers.into_iter().flat_map(means).collect()
}

/// Counts over the samples and lines of all ranks, which the means divide by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// Contrasted pairs of each rank, if the recipe has a contrastive loss.
    pub rows: Vec<usize>,
    n_photos: f64,
    n_lines: f64,
    n_teacher_photos: f64,
    n_phrases: f64,
    text_tokens: f64,
    whole_tokens: f64,
    line_tokens: f64,
    phrase_tokens: f64,
}

/// Length of the array of counts of a batch.
pub const COUNTS: usize = 9;

impl Totals {
    /// Counts the batches of all ranks.
    pub fn new(
        batch: &Batch,
        config: &TrainConfig,
        group: &dyn Collective,
    ) -> Result<Self, CollectiveError> {
        Ok(Self::add_up(&exchange_numbers(group, &Self::count(batch, config))?))
    }

    /// The counts of one rank's batch.
    pub fn count(batch: &Batch, config: &TrainConfig) -> [f64; COUNTS] {
        let all = BatchPart { samples: &batch.samples, lines: &batch.lines };
        let tokens = |texts: &mut dyn Iterator<Item = &Vec<u32>>| -> usize {
            texts.map(|ids| ids.len() + 1).sum()
        };
        let phrases = all.phrases();
        let contrasts_regions =
            config.grounding.as_ref().is_some_and(|grounding| grounding.contrast);
        [
            batch.samples.len(),
            batch.lines.len(),
            all.teacher_photos().len(),
            phrases.len(),
            tokens(&mut all.captioned_photos().iter().map(|photo| &batch.samples[*photo].text)),
            tokens(&mut all.whole_image_photos().iter().map(|photo| &batch.samples[*photo].text)),
            tokens(&mut batch.lines.iter()),
            tokens(&mut phrases.iter()),
            batch.samples.len() + if contrasts_regions { phrases.len() } else { 0 },
        ]
        .map(|n| n as f64)
    }

    /// Adds up the counts of all ranks; each rank's list may have further numbers after them.
    pub fn add_up(ranks: &[Vec<f64>]) -> Self {
        let sum = |at: usize| ranks.iter().map(|numbers| numbers[at]).sum::<f64>();
        Self {
            rows: ranks.iter().map(|numbers| numbers[8] as usize).collect(),
            n_photos: sum(0),
            n_lines: sum(1),
            n_teacher_photos: sum(2),
            n_phrases: sum(3),
            text_tokens: sum(4),
            whole_tokens: sum(5),
            line_tokens: sum(6),
            phrase_tokens: sum(7),
        }
    }

    /// Mean tokens of a text, without the special one.
    pub fn text_tokens(&self) -> f64 {
        (self.text_tokens / self.n_photos.max(1.0)).max(self.line_tokens / self.n_lines.max(1.0))
            - 1.0
    }

    /// Samples of the step: photos, or lines if there are more of them.
    pub fn n_samples(&self) -> f64 {
        self.n_photos.max(self.n_lines)
    }

    /// Number of tokens, photos or phrases that the mean loss `name` is taken over.
    fn of(&self, name: &str) -> f64 {
        match name {
            "loss_gen" => self.text_tokens,
            "loss_rehearsal" => self.whole_tokens,
            "loss_text" => self.line_tokens,
            "loss_grounding" => self.n_phrases,
            "loss_phrase" => self.phrase_tokens,
            "loss_distill" | "loss_distill_mean" => self.n_teacher_photos,
            _ => unreachable!("{name} has no count"),
        }
    }
}

/// The inputs of a worker thread for one step.
struct Worker<'a> {
    trainee: &'a Trainee,
    /// Its trained parameters.
    params: Trained,
    context: &'a StepContext<'a>,
}

impl Worker<'_> {
    /// Computes the forward and backward pass of one part of the batch. Returns its mean losses.
    fn work_on(
        &self,
        part: BatchPart,
        pairs_sender: &Sender<Option<Pairs>>,
        gradient_receiver: &Receiver<EmbedGradients>,
        mut outbox: Outbox,
    ) -> Vec<PartMean> {
        let Self { trainee, context, .. } = *self;
        let mut done = Unread::default();
        let micros = part.micro_batches(context.config.optim.micro_batch);
        if let [whole] = micros[..] {
            let forward = self.forward(whole);
            pairs_sender
                .send(forward.0.pairs.clone().map(Pairs::detached))
                .expect("the thread of the contrastive loss outlives the workers");
            let Ok(gradient) = gradient_receiver.recv() else { return Vec::new() };
            self.backward(forward, gradient, &mut done, Some(&mut outbox));
            outbox.finish(done.gradients);
            return done.means;
        }
        let (plain, device) = (trainee.valid(), context.device.clone().inner());
        let plain_context = StepContext { device: &device, ..*context };
        let pairs: Vec<Option<Pairs>> =
            micros.iter().map(|micro| plain.embed_only(*micro, &plain_context)).collect();
        let n_pairs: Vec<usize> =
            pairs.iter().map(|pairs| pairs.as_ref().map_or(0, Pairs::len)).collect();
        let pairs: Vec<Pairs> = pairs.into_iter().flatten().collect();
        pairs_sender
            .send(Pairs::join(&pairs))
            .expect("the thread of the contrastive loss outlives the workers");
        let Ok(gradient) = gradient_receiver.recv() else { return Vec::new() };

        let (n_micros, mut start) = (micros.len(), 0);
        for (idx, (micro, n)) in micros.into_iter().zip(n_pairs).enumerate() {
            let range = start..start + n;
            start += n;
            let gradient = gradient.as_ref().filter(|_| n > 0);
            let of_micro = |side: &Tensor<2>| side.clone().slice(s![range.clone()]);
            let gradient =
                gradient.map(|(visual, text)| (of_micro(visual), text.as_ref().map(of_micro)));
            let forward = self.forward(micro);
            let is_last = idx + 1 == n_micros;
            self.backward(forward, gradient, &mut done, is_last.then_some(&mut outbox));
        }
        outbox.finish(done.gradients);
        done.means
    }

    fn forward(&self, part: BatchPart) -> ForwardPass {
        let keep = if self.context.config.optim.recompute { Keep::Inputs } else { Keep::Graphs };
        record(keep, || self.trainee.forward(part, self.context))
    }

    /// Runs the backward pass of a micro-batch, from the means and the gradients of the embeddings,
    /// and adds its results to `done`. In the last micro-batch, gradients go to `outbox` as they
    /// become final.
    fn backward(
        &self,
        (forward, tape): ForwardPass,
        embed_gradients: EmbedGradients,
        done: &mut Unread,
        mut outbox: Option<&mut Outbox>,
    ) {
        let Forward { pairs, means } = forward;
        let mut terms = Vec::<Tensor<1>>::new();
        for MeanLoss { name, value, count, weight } in means {
            let share = count as f64 / self.context.totals.of(name);
            done.means.push(PartMean { name, value: value.clone().inner(), share, weight });
            terms.push(value * (share * f64::from(weight)));
        }
        if let (Some(pairs), Some((visual, text))) = (pairs, embed_gradients) {
            terms.push((pairs.visual * Tensor::from_inner(visual)).sum());
            terms.extend(text.map(|text| (pairs.text * Tensor::from_inner(text)).sum()));
        }
        let Some(surrogate) = terms.into_iter().reduce(|a, b| a + b) else { return };
        let mut gradients = GradientMap::new();
        outbox.iter_mut().for_each(|outbox| outbox.begin(&tape));
        tape.backward(&surrogate, |found, rest| {
            add_up(&mut gradients, collect(&self.params, found));
            let mut take = |path: &str| add(done.gradients.remove(path), gradients.remove(path));
            outbox.iter_mut().for_each(|outbox| outbox.send_final(rest, &mut take));
        });
        add_up(&mut done.gradients, gradients);
    }
}

/// The contrastive loss over the embeddings of all parts of all ranks. Returns the gradient for
/// each part of this rank that has embeddings.
fn global_contrast(
    trainee: &Trainee,
    pairs: Vec<Option<Pairs>>,
    context: &StepContext,
    step: &mut Unread,
    group: &dyn Collective,
) -> Result<Vec<EmbedGradients>, CollectiveError> {
    let StepContext { sizes, config, device, totals } = *context;
    // A part that holds only lines of text has no pairs.
    let present: Vec<Pairs> = pairs.iter().flatten().cloned().collect();
    let parts: Vec<usize> = present.iter().map(Pairs::len).collect();
    let none = || Tensor::zeros([0, sizes.embed_dim], &device.clone().inner());
    let Pairs { visual, text, text_hashes } = Pairs::join(&present).unwrap_or_else(|| Pairs {
        visual: none(),
        text: none(),
        text_hashes: Vec::new(),
    });
    let text_hashes = config.ignore_same_texts.then_some(&text_hashes[..]);
    let log_scale = trainee.model.logit_scale.val();
    let bias = trainee.logit_bias.as_ref().map(Param::val);
    let plain_bias = bias.clone().map(Tensor::inner);
    let own =
        Embeddings { visual, text, text_hashes, text_learns: text_learns(config), parts: &parts };
    let loss = |block: &PairBlock| config.contrastive_loss.of_rows(block);
    let contrast =
        contrast(loss, &own, log_scale.clone().inner(), plain_bias, &totals.rows, group)?;
    let mut backward = |value: Tensor<1>, gradient: Tensor<1>| {
        if value.is_tracked() {
            let mut gradients = (value * Tensor::from_inner(gradient)).backward();
            add_up(&mut step.gradients, collect_gradients(trainee, &mut gradients));
        }
    };
    let [of_log_scale, of_bias] = contrast.scalar_gradients();
    backward(log_scale, of_log_scale);
    bias.into_iter().for_each(|bias| backward(bias, of_bias.clone()));

    let mut start = 0;
    let mut part = |pairs: &Pairs| {
        let n = pairs.len();
        let range = start..start + n;
        start += n;
        let of_part = |side: &Tensor<2>| side.clone().slice(s![range.clone()]);
        (of_part(&contrast.visual_gradient), contrast.text_gradient.as_ref().map(of_part))
    };
    let parts = pairs.iter().map(|pairs| pairs.as_ref().map(&mut part)).collect();
    step.contrast = Some(contrast);
    Ok(parts)
}

impl Unread {
    /// Reads all numbers of the step from the device at once. Losses and norm are still this
    /// rank's.
    fn read(self, trainee: &Trainee) -> StepGradient {
        let Self { means, contrast, gradients } = self;
        let squares: Vec<Tensor<1>> =
            gradients.values().map(|gradient| square_sum(gradient.clone())).collect();
        let mut values = vec![trainee.model.logit_scale.val().inner()];
        values.extend(means.iter().map(|mean| mean.value.clone()));
        values.extend(contrast.as_ref().map(|contrast| contrast.means.clone()));
        values.extend(squares);
        let numbers = floats_now(Tensor::cat(values, 0));

        let (log_scale, rest) = numbers.split_first().expect("the temperature is there");
        let (of_means, rest) = rest.split_at(means.len());
        let n_contrast = if contrast.is_some() { ContrastNumbers::N_MEANS } else { 0 };
        let (of_contrast, squares) = rest.split_at(n_contrast);
        let mut step = StepGradient {
            norm: squares.iter().map(|square| f64::from(*square)).sum::<f64>().sqrt(),
            log_scale: *log_scale,
            gradients,
            ..StepGradient::default()
        };
        if contrast.is_some() {
            let numbers = ContrastNumbers::new(of_contrast);
            step.add_loss("loss_emb", numbers.loss, 1.0);
            step.spread = Some(numbers.spread);
        }
        for (mean, value) in means.iter().zip(of_means) {
            step.add_loss(mean.name, f64::from(*value) * mean.share, mean.weight);
        }
        step
    }
}

impl StepGradient {
    fn add_loss(&mut self, name: &'static str, value: f64, weight: f32) {
        match self.losses.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += value,
            None => self.losses.push((name, value)),
        }
        self.total += value * f64::from(weight);
    }

    /// Sums the losses over all ranks. The other numbers become rank 0's, so that all ranks act on
    /// the same ones.
    fn over_all_ranks(mut self, group: &dyn Collective) -> Result<Self, CollectiveError> {
        if group.size() == 1 {
            return Ok(self);
        }
        let [visual, text] = self.spread.unwrap_or_default();
        let mut own = vec![self.total, self.norm, visual, text];
        let first = own.len();
        for name in LOSSES {
            // A rank without samples lacks some losses.
            let found = self.losses.iter().find(|(known, _)| *known == name);
            own.extend([
                f64::from(u8::from(found.is_some())),
                found.map_or(0.0, |(_, value)| *value),
            ]);
        }
        let ranks = exchange_numbers(group, &own)?;
        let sum = |at: usize| ranks.iter().map(|numbers| numbers[at]).sum::<f64>();
        self.total = sum(0);
        self.norm = agreed_norm(&ranks.iter().map(|numbers| numbers[1]).collect::<Vec<_>>())?;
        self.spread = self.spread.map(|_| [ranks[0][2], ranks[0][3]]);
        let losses = LOSSES.iter().enumerate().filter(|(idx, _)| sum(first + 2 * idx) > 0.0);
        self.losses = losses.map(|(idx, name)| (*name, sum(first + 1 + 2 * idx))).collect();
        Ok(self)
    }
}

fn add_up(sums: &mut GradientMap, gradients: GradientMap) {
    for (path, gradient) in gradients {
        let sum = match sums.remove(&path) {
            Some(sum) => sum + gradient,
            None => gradient,
        };
        sums.insert(path, sum);
    }
}

/// Copies the parameters to leaves of another graph, in the precision that a step computes in. Norms
/// and the temperature keep theirs.
pub fn own_leaves<M: Module>(module: M, dtype: ComputeDtype) -> M {
    const EXACT: [&str; 4] = ["gamma", "beta", "logit_scale", "logit_bias"];
    map(module, |param| {
        let values = param.values();
        let is_exact = param.path.rsplit('.').next().is_some_and(|name| EXACT.contains(&name));
        Mapped::Leaf(if is_exact { values } else { values.cast(dtype.dtype()) })
    })
}

/// One minus the mean cosine of the rows.
fn cosine_distance(found: Tensor<3>, wanted: Tensor<3>) -> Tensor<1> {
    -(normalize(found) * normalize(wanted)).sum_dim(2).mean() + 1.0
}
