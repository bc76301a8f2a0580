//! Estimates the cost of a run before it starts: parameters, memory, floating-point operations.
//!
//! Operations are those of the matrix products that the recipe needs, as in PaLM's appendix B; a
//! multiplication and an addition are two operations. GradCache and recomputation compute some of
//! them twice. These count once, so that the reported rate is of useful work.

mod cluster;

use std::path::Path;

use mmgem_core::config::{
    EfficientNetLiteConfig, LlamaConfig, MmGemConfig, VisionConfig, VitConfig,
};
use serde::Serialize;

use super::config::{ComputeDtype, Objective, Recipe, TrainConfig};
use super::groups::check_frozen_blocks;
use super::lora::counts;
use super::metrics::read_records;
use super::optimizer::{is_trained, text_learns};
use super::run::TrainError;
use super::start::read_sizes;

pub use cluster::{ClusterPlan, first_limit};

/// The needs of a run, for one rank unless stated otherwise.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// Parameters of the model.
    pub parameters: usize,
    /// Parameters that the recipe trains.
    pub trained_parameters: usize,
    /// Processes.
    pub ranks: usize,
    /// Steps of the run.
    pub steps: usize,
    /// Samples of a step, over all ranks.
    pub batch_size: usize,
    /// Samples of a step on a rank.
    pub samples_per_rank: usize,
    /// Samples of one forward and backward pass.
    pub micro_batch: usize,
    /// Weights, gradients, moments and averaged weights.
    pub static_bytes: f64,
    /// Bytes that the backward pass keeps per sample.
    pub activation_bytes_per_sample: f64,
    /// Embeddings of the whole batch, their gradients and a block of their similarities.
    pub embedding_bytes: f64,
    /// Sum of all of these with this micro-batch.
    pub total_bytes: f64,
    /// Memory of the device, if the config gives it.
    pub memory_bytes: Option<f64>,
    /// Largest micro-batch that fits. `None` if the memory is not given, or too small for one
    /// sample.
    pub largest_micro_batch: Option<usize>,
    /// Useful operations per sample.
    pub flops_per_sample: f64,
    /// All operations per sample. Includes the extra embedding pass for several micro-batches, and
    /// recomputed blocks.
    pub computed_flops_per_sample: f64,
    /// Bytes of gradients and embeddings that a rank sends in a step. It receives as many.
    pub sent_bytes: f64,
    /// Network, host and disk.
    pub cluster: ClusterPlan,
    /// The number of ranks, doubled from this run's, at which something else than the device limits
    /// it, and the limit.
    pub first_limit: Option<(usize, String)>,
    /// Operations per second that the times below assume, and the source of that number.
    pub flops_per_sec: Option<(f64, String)>,
    /// Seconds of a step.
    pub step_secs: Option<f64>,
    /// Hours of the run.
    pub hours: Option<f64>,
    /// The same, summed over all ranks.
    pub device_hours: Option<f64>,
}

/// Plans a run from its config. If the run has started, uses its measured rate. `sizes` is a
/// `config.json` for a run whose model does not exist yet.
///
/// # Errors
/// If the model's sizes cannot be read.
pub fn plan_run(
    config: &TrainConfig,
    ranks: usize,
    sizes: Option<&Path>,
) -> Result<Plan, TrainError> {
    let sizes = read_sizes(config, sizes)?;
    check_frozen_blocks(config, &sizes)?;
    let mut rates: Vec<f64> = read_records(&config.out)
        .iter()
        .filter_map(|record| record["flops_per_sec"].as_f64())
        .collect();
    rates.sort_by(f64::total_cmp);
    let rate = rates.get(rates.len() / 2).copied();
    let limit = first_limit(config, &sizes, ranks, rate);
    Ok(Plan { first_limit: Some(limit), ..plan(config, &sizes, ranks, rate) })
}

/// Plans a run on `ranks` ranks. `rate` is one rank's measured operations per second, from an
/// earlier run.
pub fn plan(config: &TrainConfig, sizes: &MmGemConfig, ranks: usize, rate: Option<f64>) -> Plan {
    let (optim, hardware) = (&config.optim, &config.hardware);
    let mut groups = parameters(sizes);
    let (adapters, adapted) = config.lora.as_ref().map_or((0, 0), |lora| counts(lora, &sizes.llm));
    groups.push(("llm.layers.0.q_proj.weight.lora.a".to_owned(), adapters));
    let count = |wanted: &dyn Fn(&str) -> bool| {
        groups.iter().filter(|(path, _)| wanted(path)).map(|(_, n)| n).sum::<usize>()
    };
    let (all, trained) = (count(&|_| true), count(&|path| is_trained(path, config)));

    let samples_per_rank = optim.batch_size.div_ceil(ranks);
    let per_worker = samples_per_rank.div_ceil(optim.workers);
    let micro_batch = optim.micro_batch.unwrap_or(per_worker).min(per_worker);
    // All weights once, and once more if they are cast. For trained weights: two moments, the
    // gradient, a second gradient-sized buffer while it is summed or updated, and the average.
    let cast = match optim.compute_dtype {
        ComputeDtype::F32 => 0.0,
        ComputeDtype::Bf16 => BF16.input * optim.workers as f64,
    };
    let holders = if optim.shard_moments { ranks as f64 } else { 1.0 };
    let (moments, average) = (2.0 / holders, f64::from(u8::from(optim.ema.is_some())) / holders);
    // The sums of matrices and adapters, of each pass through the language model. Recomputed
    // blocks have them only one at a time.
    let n_passes = usize::from(contrasts(config))
        + usize::from(config.grounding.is_some())
        + usize::from(config.objective != Objective::ClipOnly);
    let n_sums = match optim.recompute {
        true => 1.0 / sizes.llm.num_hidden_layers as f64,
        false => n_passes as f64,
    };
    let sum_bytes = match optim.compute_dtype {
        ComputeDtype::F32 => F32.input,
        ComputeDtype::Bf16 => BF16.input,
    };
    let sums = adapted as f64 * n_sums * sum_bytes * optim.workers as f64;
    let static_bytes = sums
        + (F32.input + cast) * all as f64
        + (2.0 + moments + average) * F32.input * trained as f64;
    let activation_bytes = activation_bytes(sizes, config);
    let embedding_bytes = F32.input
        * if contrasts(config) {
            let block = (1 << 24).min(samples_per_rank * optim.batch_size);
            let side = optim.batch_size * sizes.embed_dim;
            ((2 + contrast_sides(config)) * side + BLOCK_COPIES * block) as f64
        } else {
            0.0
        };
    let passes = optim.workers as f64;
    let memory_bytes = hardware.memory_gb.map(|gb| gb * 1e9);
    let room = memory_bytes.map(|memory| memory - static_bytes - embedding_bytes);
    let largest = room.map(|room| (room / (passes * activation_bytes)).max(0.0) as usize);

    let flops_per_sample = flops_per_sample(sizes, config, hardware.text_tokens);
    let repeated = repeated_flops(sizes, config, hardware.text_tokens, micro_batch < per_worker);
    let computed_flops_per_sample = flops_per_sample + repeated;
    // A measured rate counts useful operations; an assumed rate counts all computed operations.
    let (flops_per_sec, timed) = match (rate, hardware.peak_tflops) {
        (Some(rate), _) => {
            (Some((rate, "measured in this run's metrics.jsonl".to_owned())), flops_per_sample)
        }
        (None, Some(peak)) => {
            let share = hardware.expected_share;
            let source =
                format!("assumed: {:.0} % of {peak} TFLOP/s, nothing measured yet", 100.0 * share);
            (Some((peak * 1e12 * share, source)), computed_flops_per_sample)
        }
        (None, None) => (None, flops_per_sample),
    };
    let step_secs = flops_per_sec.as_ref().map(|(rate, _)| timed * samples_per_rank as f64 / rate);
    let hours = step_secs.map(|secs| secs * optim.steps as f64 / 3600.0);
    let exchanged = Exchanged::new(config, sizes, ranks, trained);
    let mut plan = Plan {
        parameters: all,
        trained_parameters: trained,
        ranks,
        steps: optim.steps,
        batch_size: optim.batch_size,
        samples_per_rank,
        micro_batch,
        static_bytes,
        activation_bytes_per_sample: activation_bytes,
        embedding_bytes,
        total_bytes: static_bytes
            + embedding_bytes
            + passes * micro_batch as f64 * activation_bytes,
        memory_bytes,
        largest_micro_batch: largest.map(|n| n.min(per_worker)).filter(|n| *n > 0),
        flops_per_sample,
        computed_flops_per_sample,
        sent_bytes: exchanged.ring_bytes(ranks),
        flops_per_sec,
        step_secs,
        hours,
        device_hours: hours.map(|hours| hours * ranks as f64),
        cluster: ClusterPlan::default(),
        first_limit: None,
    };
    plan.cluster = ClusterPlan::new(&plan, &exchanged, config, sizes);
    plan
}

/// Matrices of the size of a block that the contrastive loss has at once: for each of two
/// directions, the similarities, the logits and their gradient.
const BLOCK_COPIES: usize = 6;

/// The numbers that the ranks exchange in a step.
struct Exchanged {
    /// Numbers that are summed over the ranks, and the sums: gradients of the weights, and of the
    /// embeddings.
    summed: usize,
    n_sums: usize,
    /// Numbers that are gathered from the ranks, over all ranks: embeddings, and updated weights if
    /// the ranks share out the moments.
    gathered: usize,
    n_gathers: usize,
}

impl Exchanged {
    fn new(config: &TrainConfig, sizes: &MmGemConfig, ranks: usize, trained: usize) -> Self {
        let side = config.optim.batch_size * sizes.embed_dim;
        let (sums, gathers) = if contrasts(config) { (contrast_sides(config), 2) } else { (0, 0) };
        // Owners send the weights that they have updated, which costs as much as gathering them.
        let (weights, sends) = if config.optim.shard_moments { (trained, ranks) } else { (0, 0) };
        Self {
            summed: trained + sums * side,
            n_sums: 1 + sums,
            gathered: gathers * side + weights,
            n_gathers: gathers + sends,
        }
    }

    /// Bytes that a rank sends in a ring, as NCCL does: sums pass it twice, gathered values once.
    fn ring_bytes(&self, ranks: usize) -> f64 {
        F32.input * (2 * self.summed + self.gathered) as f64 * (ranks - 1) as f64 / ranks as f64
    }
}

/// Sides of the contrastive loss whose embeddings have a gradient: images, and texts if they learn.
fn contrast_sides(config: &TrainConfig) -> usize {
    1 + usize::from(text_learns(config))
}

/// Whether the recipe has a contrastive loss.
pub fn contrasts(config: &TrainConfig) -> bool {
    match config.recipe {
        Recipe::Stage1 => config.objective != Objective::CapOnly,
        Recipe::Stage2Retrieval => true,
        Recipe::Warmup | Recipe::Stage2Caption => false,
    }
}

/// Parameter counts by group. A group is trained or frozen as a whole; the path is that of one
/// parameter in it.
fn parameters(sizes: &MmGemConfig) -> Vec<(String, usize)> {
    let (l, d) = (&sizes.llm, sizes.embed_dim);
    let linear = |from: usize, to: usize| from * to + to;
    let (c, h) = (sizes.vision.hidden_size(), l.hidden_size);
    let mut groups = Vec::new();
    let mut add = |path: &str, n: usize| groups.push((path.to_owned(), n));
    match &sizes.vision {
        VisionConfig::Vit(v) => {
            let mlp = mlp_width(v);
            let block = 4 * c + linear(c, 3 * c) + linear(c, c) + linear(c, mlp) + linear(mlp, c);
            let class = usize::from(v.class_token) * c;
            let norm = |is_there: bool| usize::from(is_there) * 2 * c;
            let patches = 3 * v.patch_size * v.patch_size * c;
            add("visual.conv1", patches + class + v.n_positions() * c + norm(v.ln_pre));
            (0..v.num_hidden_layers).for_each(|i| add(&format!("visual.blocks.{i}.mlp"), block));
            add("visual.ln_post.gamma", norm(v.ln_post));
            add("visual.proj", c * v.proj_dim.unwrap_or(0));
        }
        VisionConfig::EfficientNetLite(lite) => {
            let parts = lite_parts(lite);
            let last = parts.len() - 1;
            for (idx, part) in parts.iter().enumerate() {
                let block = format!("visual.mb_blocks.{}.project", idx.saturating_sub(1));
                let path = match idx {
                    0 => "visual.stem.weight",
                    _ if idx == last => "visual.head.weight",
                    _ => &block,
                };
                add(path, part.parameters);
            }
        }
    }
    let block = llama_matrices(l) + llama_biases(l) + 2 * h;
    add("llm.embed_tokens.weight", l.vocab_size * h);
    (0..l.num_hidden_layers).for_each(|i| add(&format!("llm.layers.{i}.mlp"), block));
    add("llm.norm.gamma", h);
    add("llm.lm_head.weight", if l.tie_word_embeddings { 0 } else { l.vocab_size * h });
    add("h1.weight", linear(c, d));
    add("h2.weight", linear(h, d));
    add("h3.weight", linear(d, h));
    add("h4.weight", linear(d, d));
    add("cap_prompts", sizes.num_caption_prompts * h);
    add("emb_token", 2 * h + 1);
    groups
}

/// Sums over layers of an EfficientNet-Lite.
#[derive(Default)]
struct LiteLayers {
    parameters: usize,
    /// Multiplications and additions of a forward pass.
    flops: f64,
    /// Activations of its layers, which a backward pass keeps.
    activations: f64,
}

/// The stem, the blocks and the head.
fn lite_parts(lite: &EfficientNetLiteConfig) -> Vec<LiteLayers> {
    let mut side = lite.image_size.div_ceil(2);
    let add = |sum: &mut LiteLayers, inputs: usize, outputs: usize, side: usize| {
        sum.parameters += inputs * outputs + outputs;
        sum.flops += 2.0 * (inputs * outputs * side * side) as f64;
        sum.activations += (outputs * side * side) as f64;
    };
    let mut stem = LiteLayers::default();
    add(&mut stem, 27, EfficientNetLiteConfig::STEM_CHANNELS, side);
    let mut parts = vec![stem];
    let blocks = lite.blocks();
    for block in &blocks {
        let mut part = LiteLayers::default();
        if block.expanded_channels != block.in_channels {
            add(&mut part, block.in_channels, block.expanded_channels, side);
        }
        side = side.div_ceil(block.stride);
        add(&mut part, block.kernel_size * block.kernel_size, block.expanded_channels, side);
        add(&mut part, block.expanded_channels, block.out_channels, side);
        parts.push(part);
    }
    let mut head = LiteLayers::default();
    let channels = blocks.last().map_or(0, |block| block.out_channels);
    add(&mut head, channels, lite.hidden_size, side);
    parts.push(head);
    parts
}

/// The layers above the `n_frozen` first blocks; all of them if it is 0.
fn lite_layers(lite: &EfficientNetLiteConfig, n_frozen: usize) -> LiteLayers {
    let n_below = if n_frozen == 0 { 0 } else { n_frozen + 1 };
    lite_parts(lite).iter().skip(n_below).fold(LiteLayers::default(), |sum, part| LiteLayers {
        parameters: sum.parameters + part.parameters,
        flops: sum.flops + part.flops,
        activations: sum.activations + part.activations,
    })
}

fn mlp_width(v: &VitConfig) -> usize {
    (v.hidden_size as f64 * v.mlp_ratio) as usize
}

/// Weights of a Llama block's matrices.
fn llama_matrices(l: &LlamaConfig) -> usize {
    let (h, q, kv) =
        (l.hidden_size, l.head_dim() * l.num_attention_heads, l.head_dim() * l.num_key_value_heads);
    2 * h * q + 2 * h * kv + 3 * h * l.intermediate_size
}

/// Biases of the same matrices.
fn llama_biases(l: &LlamaConfig) -> usize {
    let (q, kv) = (l.head_dim() * l.num_attention_heads, l.head_dim() * l.num_key_value_heads);
    let attention = q + 2 * kv + l.hidden_size;
    let mlp = 2 * l.intermediate_size + l.hidden_size;
    usize::from(l.attention_bias) * attention + usize::from(l.mlp_bias) * mlp
}

/// Operations of the forward passes for one sample.
struct Passes {
    vision: f64,
    /// Text embeddings for the contrastive loss.
    embed: f64,
    /// Embeddings of phrases for grounding.
    phrase: f64,
    /// Captions and lines of text.
    caption: f64,
}

impl Passes {
    /// Those of the language model.
    fn text(&self) -> f64 {
        self.embed + self.phrase + self.caption
    }
}

/// The operations of [`passes`] whose weights may learn: those above the frozen blocks.
fn passes_above(sizes: &MmGemConfig, config: &TrainConfig, text_tokens: f64) -> Passes {
    let mut above = sizes.clone();
    above.llm.num_hidden_layers -= config.freeze_text_blocks.min(sizes.llm.num_hidden_layers);
    let all = passes(&above, config, text_tokens);
    let n_patches = n_seen_patches(sizes, config);
    let vision = match config.freeze_vision_blocks {
        0 => all.vision,
        n_frozen => all.vision.min(vision_flops_above(sizes, n_patches, n_frozen)),
    };
    Passes { vision, ..all }
}

fn passes(sizes: &MmGemConfig, config: &TrainConfig, text_tokens: f64) -> Passes {
    let n_patches = n_seen_patches(sizes, config);
    let embed = llama_flops(&sizes.llm, text_tokens + 1.0, 0.0);
    let caption =
        |prefix: usize| llama_flops(&sizes.llm, prefix as f64 + text_tokens, text_tokens + 1.0);
    let whole = sizes.n_whole_tokens(n_patches) + 1;
    let when = |is_done: bool, flops: f64| if is_done { flops } else { 0.0 };
    Passes {
        vision: when(
            (config.recipe != Recipe::Warmup || config.distill.is_some())
                && config.data.cache.is_none(),
            vision_flops(sizes, n_patches),
        ),
        embed: when(contrasts(config), embed),
        phrase: when(config.grounding.is_some(), embed),
        caption: match config.recipe {
            Recipe::Warmup => when(!config.data.text.is_empty(), caption(1)),
            Recipe::Stage1 => when(config.objective != Objective::ClipOnly, caption(whole)),
            Recipe::Stage2Caption => {
                let region =
                    sizes.roi_output_size * sizes.roi_output_size + sizes.num_caption_prompts;
                let rehearsed =
                    when(config.data.rehearse_stage_1, config.data.whole_image_share.into());
                caption(region) + rehearsed * caption(whole)
            }
            Recipe::Stage2Retrieval => 0.0,
        },
    }
}

/// Useful operations of a training step for one sample with a text of `text_tokens` tokens.
pub fn flops_per_sample(sizes: &MmGemConfig, config: &TrainConfig, text_tokens: f64) -> f64 {
    let all = passes(sizes, config, text_tokens);
    let above = passes_above(sizes, config, text_tokens);
    // The backward pass of the language model costs the forward pass once for its inputs, since
    // modules before it learn, and once for its weights. That of the encoder costs it twice.
    let weights = if config.freeze_llm || config.lora.is_some() { 0.0 } else { above.text() };
    let text = 2.0 * all.text() + weights;
    match config.recipe {
        Recipe::Stage1 if config.freeze_vision => all.vision + text,
        Recipe::Warmup | Recipe::Stage1 => all.vision + 2.0 * above.vision + text,
        Recipe::Stage2Caption => all.vision + 2.0 * all.caption,
        Recipe::Stage2Retrieval => all.vision + all.embed,
    }
}

/// Operations of the image encoder for one image.
pub fn image_flops(sizes: &MmGemConfig) -> f64 {
    vision_flops(sizes, sizes.grid() * sizes.grid())
}

/// Operations of the language model for a prefix, up to the logits of the next token.
pub fn prefill_flops(sizes: &MmGemConfig, n_tokens: usize) -> f64 {
    llama_flops(&sizes.llm, n_tokens as f64, 1.0)
}

/// Operations of the forward and backward pass of both losses of stage 1, for one sample with a
/// text of `text_tokens` tokens. Every module learns.
pub fn stage_1_flops(sizes: &MmGemConfig, text_tokens: usize) -> f64 {
    let text_tokens = text_tokens as f64;
    let prefix = sizes.n_whole_tokens(sizes.grid() * sizes.grid()) + 1;
    let embed = llama_flops(&sizes.llm, text_tokens + 1.0, 0.0);
    let caption = llama_flops(&sizes.llm, prefix as f64 + text_tokens, text_tokens + 1.0);
    3.0 * (image_flops(sizes) + embed + caption)
}

/// Operations of a sample that are computed a second time: its embeddings if the contrastive loss
/// spans several micro-batches (`is_cut`), and recomputed blocks.
fn repeated_flops(
    sizes: &MmGemConfig,
    config: &TrainConfig,
    text_tokens: f64,
    is_cut: bool,
) -> f64 {
    let Passes { vision, embed, phrase, caption } = passes(sizes, config, text_tokens);
    let embedded = if is_cut && contrasts(config) { vision + embed } else { 0.0 };
    let recomputed = match config.recipe {
        _ if !config.optim.recompute => 0.0,
        Recipe::Stage1 if config.freeze_vision => embed + phrase + caption,
        Recipe::Warmup | Recipe::Stage1 => {
            passes_above(sizes, config, text_tokens).vision + embed + phrase + caption
        }
        Recipe::Stage2Caption => caption,
        Recipe::Stage2Retrieval => 0.0,
    };
    embedded + recomputed
}

/// Patches of a photo that the encoder sees in training.
fn n_seen_patches(sizes: &MmGemConfig, config: &TrainConfig) -> usize {
    config.data.n_kept_patches(sizes.grid() * sizes.grid())
}

/// Operations of the image encoder's forward pass over `n_patches` patches.
fn vision_flops(sizes: &MmGemConfig, n_patches: usize) -> f64 {
    let v = match &sizes.vision {
        VisionConfig::Vit(v) => v,
        VisionConfig::EfficientNetLite(lite) => return lite_layers(lite, 0).flops,
    };
    let (c, n_patches) = (v.hidden_size as f64, n_patches as f64);
    2.0 * n_patches * 3.0 * (v.patch_size * v.patch_size) as f64 * c
        + v.num_hidden_layers as f64 * vit_block_flops(v, n_patches)
}

/// The same above the `n_frozen` first blocks.
fn vision_flops_above(sizes: &MmGemConfig, n_patches: usize, n_frozen: usize) -> f64 {
    match &sizes.vision {
        VisionConfig::Vit(v) => {
            let n_blocks = v.num_hidden_layers.saturating_sub(n_frozen);
            n_blocks as f64 * vit_block_flops(v, n_patches as f64)
        }
        VisionConfig::EfficientNetLite(lite) => lite_layers(lite, n_frozen).flops,
    }
}

fn vit_block_flops(v: &VitConfig, n_patches: f64) -> f64 {
    let (c, seq) = (v.hidden_size as f64, n_patches + f64::from(v.class_token));
    2.0 * seq * (4.0 * c * c + 2.0 * c * mlp_width(v) as f64) + 4.0 * seq * seq * c
}

/// Operations of the language model's forward pass over a sequence with `scored` scored positions.
fn llama_flops(l: &LlamaConfig, seq: f64, scored: f64) -> f64 {
    let h = l.hidden_size as f64;
    let attention = 4.0 * seq * seq * (l.head_dim() * l.num_attention_heads) as f64;
    let block = 2.0 * seq * llama_matrices(l) as f64 + attention;
    l.num_hidden_layers as f64 * block + 2.0 * scored * h * l.vocab_size as f64
}

/// Bytes that the backward pass keeps per sample.
fn activation_bytes(sizes: &MmGemConfig, config: &TrainConfig) -> f64 {
    let l = &sizes.llm;
    let tokens = config.hardware.text_tokens;
    let n_patches = n_seen_patches(sizes, config);
    let whole = sizes.n_whole_tokens(n_patches) as f64 + 1.0;
    let region = (sizes.roi_output_size * sizes.roi_output_size + sizes.num_caption_prompts) as f64;
    let pixels = 3.0 * sizes.vision.image_size().pow(2) as f64;
    let head = HEAD * (tokens + 1.0) * l.vocab_size as f64;
    let vision = vision_activations(sizes, n_patches, config.freeze_vision_blocks);
    let caption = |prefix: f64| llama_activations(l, prefix + tokens);
    // Towers that learn or pass on a gradient; the scored positions; the frozen tower, which holds
    // one block at a time.
    let (towers, head, passing) = match config.recipe {
        Recipe::Warmup => (vec![vision, caption(1.0)], head, None),
        Recipe::Stage1 => {
            let mut towers = Vec::new();
            towers.extend((!config.freeze_vision).then_some(vision));
            towers.extend(contrasts(config).then(|| llama_activations(l, tokens + 1.0)));
            let captions = config.objective != Objective::ClipOnly;
            towers.extend(captions.then(|| caption(whole)));
            (towers, if captions { head } else { 0.0 }, config.freeze_vision.then_some(vision))
        }
        Recipe::Stage2Caption => (vec![caption(region)], head, Some(vision)),
        Recipe::Stage2Retrieval => (Vec::new(), 0.0, Some(vision)),
    };
    let bytes = match config.optim.compute_dtype {
        ComputeDtype::F32 => F32,
        ComputeDtype::Bf16 => BF16,
    };
    let tower_bytes = if config.optim.recompute {
        // The inputs of all blocks, and the largest single block during its backward pass.
        let inputs = towers.iter().map(|tower| tower.n_blocks * tower.input).sum::<f64>();
        let largest =
            towers.iter().map(|tower| tower.block(bytes.recomputed())).fold(0.0, f64::max);
        let passing = passing.map_or(0.0, |tower| tower.block(bytes));
        bytes.input * inputs + largest.max(passing).max(2.0 * F32.input * head)
    } else {
        let blocks = towers.iter().map(|tower| tower.n_blocks * tower.block(bytes)).sum::<f64>();
        blocks + passing.map_or(0.0, |tower| tower.block(bytes)) + F32.input * head
    };
    F32.input * pixels + tower_bytes
}

/// Bytes per number, by kind: a block's input, and its activations in the model width, in the MLP
/// and in attention.
#[derive(Clone, Copy)]
struct Bytes {
    input: f64,
    width: f64,
    mlp: f64,
    attention: f64,
    /// Factor on these bytes during the backward pass of a recomputed block; 1 for f32.
    backward_factor: f64,
}

const F32: Bytes = Bytes { input: 4.0, width: 4.0, mlp: 4.0, attention: 4.0, backward_factor: 1.0 };
/// Norms and softmax keep their activations in f32.
const BF16: Bytes =
    Bytes { input: 2.0, width: 2.63, mlp: 1.31, attention: 3.05, backward_factor: 1.79 };

impl Bytes {
    /// For the one block in its backward pass, gradients included; attention is finished by then.
    fn recomputed(self) -> Self {
        let (linear, attention) = (1.84 * self.backward_factor, 0.45 * self.backward_factor);
        Self {
            width: linear * self.width,
            mlp: linear * self.mlp,
            attention: attention * self.attention,
            ..self
        }
    }
}

/// The blocks of a tower, in numbers per sample.
#[derive(Clone, Copy)]
struct TowerActivations {
    n_blocks: f64,
    /// Numbers in a block's input.
    input: f64,
    /// Activations that a block keeps for the backward pass.
    width: f64,
    mlp: f64,
    attention: f64,
}

impl TowerActivations {
    /// Bytes that a block keeps.
    fn block(&self, bytes: Bytes) -> f64 {
        self.width * bytes.width + self.mlp * bytes.mlp + self.attention * bytes.attention
    }
}

// How many copies of each kind of activation are held at the peak. These and the bytes above are
// fitted to measured steps on the CPU, and `tests/memory.rs` checks them. A device whose attention
// does not store its weights needs less.
const VIT_WIDTH: f64 = 7.0;
const VIT_MLP: f64 = 2.0;
const LLAMA_WIDTH: f64 = 7.5;
const LLAMA_FFN: f64 = 4.5;
const ATTENTION: f64 = 4.2;
const HEAD: f64 = 3.0;

/// The encoder above the `n_frozen` first blocks, on `n_patches` patches of an image.
fn vision_activations(sizes: &MmGemConfig, n_patches: usize, n_frozen: usize) -> TowerActivations {
    let v = match &sizes.vision {
        VisionConfig::Vit(v) => v,
        VisionConfig::EfficientNetLite(lite) => {
            // A single block, because convolutions are not recomputed.
            let pixels = 3.0 * lite.image_size.pow(2) as f64;
            let width = lite_layers(lite, n_frozen).activations;
            return TowerActivations {
                n_blocks: 1.0,
                input: pixels,
                width,
                mlp: 0.0,
                attention: 0.0,
            };
        }
    };
    let seq = (n_patches + usize::from(v.class_token)) as f64;
    TowerActivations {
        n_blocks: v.num_hidden_layers.saturating_sub(n_frozen) as f64,
        input: seq * v.hidden_size as f64,
        width: seq * VIT_WIDTH * v.hidden_size as f64,
        mlp: seq * VIT_MLP * mlp_width(v) as f64,
        attention: ATTENTION * v.num_attention_heads as f64 * seq * seq,
    }
}

/// The language model on a sequence.
fn llama_activations(l: &LlamaConfig, seq: f64) -> TowerActivations {
    TowerActivations {
        n_blocks: l.num_hidden_layers as f64,
        input: seq * l.hidden_size as f64,
        width: seq * LLAMA_WIDTH * l.hidden_size as f64,
        mlp: seq * LLAMA_FFN * l.intermediate_size as f64,
        attention: ATTENTION * l.num_attention_heads as f64 * seq * seq,
    }
}
