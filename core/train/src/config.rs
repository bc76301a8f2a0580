//! The config of a training run, as a TOML file.

use std::path::PathBuf;

use burn::tensor::{DType, Tensor};
use mmgem_core::loss::{PairBlock, contrastive_loss_of_rows, sigmoid_loss_of_rows};
use serde::{Deserialize, Serialize};

use super::best::scores_of;
use super::lora::PROJECTIONS;

/// All settings that decide what a run computes; saved beside the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// The recipe.
    pub recipe: Recipe,
    /// Folder of the run: checkpoints, `metrics.jsonl`, `loss.svg` and, at the end, `model/`.
    pub out: PathBuf,
    /// Seed of the initial values, the order of the samples and their augmentation.
    #[serde(default)]
    pub seed: u64,
    /// The losses that stage 1 adds up.
    #[serde(default)]
    pub objective: Objective,
    /// The contrastive loss.
    #[serde(default)]
    pub contrastive_loss: ContrastiveLoss,
    /// Leave pairs with the same text out of the contrastive loss: "a man" is not a negative of
    /// another man. InfoNCE only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ignore_same_texts: bool,
    /// Freeze the language model; the tokens, h1–h3 and the encoder learn.
    #[serde(default)]
    pub freeze_llm: bool,
    /// Freeze the image encoder in stage 1. Text learns to match photos (LiT, arXiv:2111.07991),
    /// and a step costs a third. With few captions, an encoder learns more about them than about
    /// photos.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub freeze_vision: bool,
    /// Freeze the image encoder up to and with this many blocks from the bottom, in the warm-up and
    /// stage 1. Nothing is computed below for the backward pass.
    #[serde(default, skip_serializing_if = "is_default")]
    pub freeze_vision_blocks: usize,
    /// Freeze the token embedding and this many blocks of the language model from the bottom, in the
    /// warm-up and stage 1. With tied weights this freezes the output head too. Gradients still pass
    /// to the tokens before the blocks.
    #[serde(default, skip_serializing_if = "is_default")]
    pub freeze_text_blocks: usize,
    /// The source of the initial weights.
    pub model: ModelSource,
    /// The training data.
    pub data: DataConfig,
    /// Steps and learning rates.
    pub optim: OptimConfig,
    /// Train low-rank adapters of the language model instead of its weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// Distillation from a teacher's feature maps, on samples with a `teacher.safetensors` member.
    #[serde(default)]
    pub distill: Option<DistillConfig>,
    /// Stage 1 also learns where its phrases are in a photo, on samples that have regions.
    #[serde(default)]
    pub grounding: Option<GroundingConfig>,
    /// Checkpoints.
    #[serde(default)]
    pub checkpoint: CheckpointConfig,
    /// Evaluation in the loop.
    #[serde(default)]
    pub eval: Option<EvalConfig>,
    /// Settings for several processes.
    #[serde(default)]
    pub cluster: ClusterConfig,
    /// The hardware that the run is measured against and planned for.
    #[serde(default)]
    pub hardware: HardwareConfig,
}

/// The paper's recipes, and a warm-up that replaces pretrained towers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recipe {
    /// The encoder imitates a teacher and the language model reads text. Replaces pretrained
    /// towers.
    Warmup,
    /// Contrastive and caption loss on whole images; all weights learn.
    Stage1,
    /// Captions of regions; h3 and `[CAP_i]` learn.
    Stage2Caption,
    /// Contrastive loss between regions and texts; h4 learns.
    Stage2Retrieval,
}

/// Losses of stage 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// `L_Emb + L_Gen` (equation 4).
    #[default]
    Joint,
    /// `L_Emb` alone.
    ClipOnly,
    /// `L_Gen` alone.
    CapOnly,
}

/// Contrastive losses, over all pairs of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContrastiveLoss {
    /// The paper's: each image among all texts and each text among all images (equation 2).
    #[default]
    InfoNce,
    /// SigLIP's: each pair by itself, with a learned bias that the finished model does not keep.
    /// The SigLIP paper starts at `logit_scale_init` = ln 10.
    Siglip,
}

impl ContrastiveLoss {
    /// The sum of the loss over the rows of a block.
    pub fn of_rows(self, block: &PairBlock) -> Tensor<1> {
        match self {
            Self::InfoNce => contrastive_loss_of_rows(block),
            Self::Siglip => sigmoid_loss_of_rows(block),
        }
    }

    /// The loss over `n` pairs of a model that cannot tell them apart, at the best bias.
    pub fn of_chance(self, n: usize) -> f64 {
        let n = n as f64;
        match self {
            Self::InfoNce => 2.0 * n.ln(),
            Self::Siglip => n.ln() - (n - 1.0) * (-1.0 / n).ln_1p(),
        }
    }
}

/// The source of a run's weights: `from` a folder, or `config` with `tokenizer_text` or
/// `tokenizer`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSource {
    /// A model folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// A `config.json`; the weights are initialized at random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<PathBuf>,
    /// Start the prompts `[CAP_1..n]` from the prompts of `from` instead of its `[CAP]`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_prompts: bool,
    /// Bins per side of a region's feature map, if not as in `from`. More bins show the language
    /// model finer detail, as more tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roi_output_size: Option<usize>,
    /// Weights for a fresh model's image encoder: a file that `mmgem import --vision` reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vision: Option<PathBuf>,
    /// A `tokenizer.json` for a fresh model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// Text files (`.txt` or `.txt.gz`) to train a fresh model's tokenizer on.
    #[serde(default)]
    pub tokenizer_text: Vec<PathBuf>,
}

/// The training data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// WebDataset shards: files, or commands that write a shard to their output
    /// (`pipe:aws s3 cp s3://bucket/{000..123}.tar -`). `*` stands for any characters; `{000..123}`
    /// and `{a,b}` expand to each item.
    pub shards: Vec<String>,
    /// Lines of text for the language model (`warmup`).
    pub text: Vec<PathBuf>,
    /// Area of a random crop relative to the photo's, as in OpenCLIP's augmentation; `[1, 1]` keeps
    /// the photo whole.
    #[serde(default = "openclip_crop")]
    pub crop_scale: [f32; 2],
    /// Random crops of each photo, drawn once and reused; 0 draws a new one each time.
    pub crops: usize,
    /// Folder that caches a frozen encoder's patch tokens. Each view of a photo is encoded once,
    /// also across runs. Needs a frozen encoder, and whole photos or `crops`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// End captions with a full stop, and embed half of the texts without one, as people type.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub sentences: bool,
    /// Mirror half of the photos, except those with a caption or phrase that mentions left or
    /// right.
    pub mirror: bool,
    /// Share of a photo's patches that warm-up and stage 1 drop (FLIP, arXiv:2212.00794).
    ///
    /// The encoder sees the class token and the other patches. Embedding, caption and teacher loss
    /// use only these. The drop depends on seed, step and photo, and leaves the same number for
    /// every photo. Only training drops patches. To adapt to whole photos, continue for a while
    /// with 0 (`model.from`), as FLIP does.
    pub patch_dropout: f64,
    /// Share of the stage 2 samples that are the whole photo instead of a region.
    pub whole_image_share: f32,
    /// Whether stage 2 captioning also trains stage 1's captions, on its whole photos. h3 serves
    /// both, and without this it forgets stage 1.
    #[serde(default = "yes")]
    pub rehearse_stage_1: bool,
    /// Read at most this many samples of each shard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_per_shard: Option<usize>,
    /// Samples counted per shard from a command, which cannot be counted in advance. Further
    /// samples are never used (the first such shard is reported); a smaller shard leaves empty
    /// places.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples_per_shard: Option<usize>,
    /// Size of the shuffle buffer for shards from commands, in samples.
    #[serde(default = "thousand")]
    pub shuffle_buffer: usize,
    /// Seconds to wait before each retry of a failed command; `[]` for no retry.
    #[serde(default = "growing_pauses")]
    pub retry_secs: Vec<f64>,
    /// Allow a batch with more samples than a source has. Such a batch holds photos several times,
    /// each as a negative of itself.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub repeat: bool,
    /// Number of sequences that the data is split into, each with shards of its own; must divide
    /// the batch size.
    ///
    /// A multiple of the largest number of ranks lets each rank start commands for its own shards
    /// only. The number of ranks may change during a run; this may not.
    #[serde(default = "one")]
    pub lanes: usize,
    /// Several weighted sources, instead of `shards`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mix: Vec<MixConfig>,
}

/// One of several sources.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixConfig {
    /// Its share of the samples, relative to the sum of all weights, in steps of a thousandth.
    pub weight: f64,
    /// Like `shards` of `[data]`.
    #[serde(default)]
    pub shards: Vec<String>,
    /// Like `samples_per_shard` of `[data]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples_per_shard: Option<usize>,
    /// Visual Genome's `region_descriptions.json`, for stage 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visual_genome: Option<PathBuf>,
    /// The folders of its photos.
    #[serde(default)]
    pub images: Vec<PathBuf>,
}

impl DataConfig {
    /// Patches of a photo that `patch_dropout` keeps, rounded as open_clip does.
    pub fn n_kept_patches(&self, n_patches: usize) -> usize {
        ((n_patches as f64 * (1.0 - self.patch_dropout)) as usize).max(1)
    }

    /// All sources; `shards` counts as a single one.
    pub fn sources(&self) -> Vec<MixConfig> {
        if self.mix.is_empty() && !self.shards.is_empty() {
            let (shards, samples_per_shard) = (self.shards.clone(), self.samples_per_shard);
            return vec![MixConfig {
                weight: 1.0,
                shards,
                samples_per_shard,
                ..MixConfig::default()
            }];
        }
        self.mix.clone()
    }
}

fn thousand() -> usize {
    1000
}

fn growing_pauses() -> Vec<f64> {
    vec![1.0, 4.0, 16.0]
}

fn yes() -> bool {
    true
}

fn openclip_crop() -> [f32; 2] {
    [0.9, 1.0]
}

/// Steps and learning rates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimConfig {
    /// Samples of a step, over all ranks.
    pub batch_size: usize,
    /// Worker threads of a rank, each of which computes a part of its samples. The gradient is the
    /// same up to rounding. Use the number of cores on a CPU, and 1 on a GPU.
    #[serde(default = "one")]
    pub workers: usize,
    /// Most samples of one forward and backward pass [default: a worker's whole part]. The gradient
    /// is always that of the whole batch, and only the embeddings' memory grows with the batch. A
    /// worker with several micro-batches needs an additional forward pass to embed its part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,
    /// Precision of towers and heads. Weights, moments, sums over samples, norms and losses are
    /// always f32.
    #[serde(default)]
    pub compute_dtype: ComputeDtype,
    /// Gradient checkpointing: keep only the inputs of transformer blocks and recompute the rest.
    /// The gradient is the same, for less memory and a third more work.
    #[serde(default)]
    pub recompute: bool,
    /// The optimizer.
    #[serde(default)]
    pub optimizer: OptimizerKind,
    /// Share out the optimizer's moments over the ranks (ZeRO stage 1). The weights are the same, for
    /// less memory a rank and one more exchange of the weights in each step.
    #[serde(default, skip_serializing_if = "is_default")]
    pub shard_moments: bool,
    /// Decay of an exponential moving average of the trained weights, as 0.9999. Evaluation and the
    /// finished model use the average; its memory is that of the trained weights once more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// Steps of the run.
    pub steps: usize,
    /// Steps over which the learning rate rises from 0.
    #[serde(default)]
    pub warmup_steps: usize,
    /// Learning rate of h1–h4, the tokens and the temperature.
    pub lr_heads: f64,
    /// Learning rate of the image encoder and the language model.
    pub lr_towers: f64,
    /// Course of the learning rate after the warm-up.
    #[serde(default, skip_serializing_if = "is_default")]
    pub schedule: Schedule,
    /// Steps at the end of the schedule `wsd` over which the learning rate falls.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cooldown_steps: usize,
    /// Share of the learning rate left at the last step of the schedules `cosine` and `wsd`.
    #[serde(default)]
    pub lr_floor: f64,
    /// Layer-wise decay: each block of a tower learns at this share of the rate of the block above
    /// it. 1 gives all blocks the same rate.
    #[serde(default = "unit_norm", skip_serializing_if = "is_one")]
    pub layer_decay: f64,
    /// Parameters with settings of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<ParamGroup>,
    /// Weight decay; not applied to norms, biases, tokens and the temperature.
    #[serde(default = "paper_weight_decay")]
    pub weight_decay: f32,
    /// Largest norm of the whole gradient; a larger gradient is scaled down to it.
    #[serde(default = "unit_norm")]
    pub clip_norm: f64,
    /// Adam's first decay rate.
    #[serde(default = "adam_beta_1", skip_serializing_if = "is_adam_beta_1")]
    pub beta_1: f32,
    /// Adam's second decay rate.
    #[serde(default = "lamb_beta_2")]
    pub beta_2: f32,
    /// Added to the denominator of Adam's update.
    #[serde(default = "lamb_epsilon", skip_serializing_if = "is_lamb_epsilon")]
    pub epsilon: f32,
    /// Consecutive steps that may be skipped because of a loss or gradient that is not finite. Also
    /// the steps that a collapse may last after its warning: equal embeddings of all images or all
    /// texts, a zero gradient, a temperature of 1, or `chance_steps`.
    #[serde(default = "ten")]
    pub max_bad_steps: usize,
    /// Consecutive steps after the warm-up whose contrastive loss is within 0.5 % of a model's that
    /// cannot tell pairs apart, before a warning. 0 turns this check off.
    #[serde(default = "thousand")]
    pub chance_steps: usize,
}

/// The course of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Half a cosine down to `lr_floor`.
    #[default]
    Cosine,
    /// The peak to the end.
    Constant,
    /// Warm-up, stable, decay: the peak until `cooldown_steps` before the end, then linearly down
    /// to `lr_floor`.
    Wsd,
}

/// Parameters with settings of their own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParamGroup {
    /// Names as in `model.safetensors`, such as `visual.*`; `*` and `?` fit any characters.
    pub params: Vec<String>,
    /// Factor on the learning rate. With 0 the parameters stay, but their gradients are computed.
    #[serde(default = "unit_norm")]
    pub lr_multiplier: f64,
    /// Weight decay instead of `optim.weight_decay`; not applied to norms, biases and tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f32>,
}

// The keys below are left out of saved configs unless they are set, so that runs of older versions
// can be resumed.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
fn is_one(value: &f64) -> bool {
    *value == 1.0
}
fn adam_beta_1() -> f32 {
    0.9
}
fn is_adam_beta_1(value: &f32) -> bool {
    *value == adam_beta_1()
}
fn lamb_epsilon() -> f32 {
    1e-6
}
fn is_lamb_epsilon(value: &f32) -> bool {
    *value == lamb_epsilon()
}

fn one() -> usize {
    1
}
fn paper_weight_decay() -> f32 {
    0.05
}
fn unit_norm() -> f64 {
    1.0
}
fn lamb_beta_2() -> f32 {
    0.98
}
fn ten() -> usize {
    10
}

/// Precision of towers and heads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComputeDtype {
    /// The same as the weights.
    #[default]
    F32,
    /// Half of the memory, and supported by the matrix units of data-center GPUs; slow on a CPU.
    Bf16,
}

impl ComputeDtype {
    /// The same type in Burn.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }
}

/// Low-rank adapters of the language model (LoRA, arXiv:2106.09685), in the warm-up and stage 1.
/// They learn at `optim.lr_towers`; the finished model has them merged into its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank of the adapters.
    pub rank: usize,
    /// An adapter counts by `alpha / rank`.
    pub alpha: f64,
    /// The matrices of each block that have an adapter: `q_proj`, `k_proj`, `v_proj`, `o_proj`,
    /// `gate_proj`, `up_proj`, `down_proj`.
    #[serde(default = "attention_projections")]
    pub projections: Vec<String>,
}

fn attention_projections() -> Vec<String> {
    vec!["q_proj".into(), "v_proj".into()]
}

/// Distillation from a teacher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistillConfig {
    /// Weight of the mean cosine distance to the teacher's map.
    pub weight: f32,
    /// Weight of an additional cosine distance between the means of both maps.
    #[serde(default)]
    pub mean_weight: f32,
    /// Patches per side of the teacher's map.
    pub grid: usize,
    /// Width of the teacher's map.
    pub hidden_size: usize,
}

/// Optimizers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// The paper's, for large batches: each matrix moves by a share of its own norm.
    #[default]
    Lamb,
    /// LAMB without the trust ratio; learning rates are about a fifth of LAMB's. Better for small
    /// batches (EXPERIMENTS.md).
    AdamW,
}

/// Learning where a phrase is in a photo, for encoders without pretrained towers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroundingConfig {
    /// Weight of [`mmgem_core::loss::grounding_loss`].
    pub weight: f32,
    /// Weight of the caption loss of phrases, after their regions' RoIAlign tokens and
    /// `[CAP_1..n]`.
    ///
    /// The prompts then learn beside `[CAP]`. A whole photo and a box of all of it look the same.
    /// Only the prompts tell the model whether to write a sentence or a name.
    #[serde(default)]
    pub caption_weight: f32,
    /// Whether regions and their phrases join the contrastive loss, among the photos and their
    /// captions.
    #[serde(default)]
    pub contrast: bool,
}

/// Checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// Steps between two checkpoints.
    pub every: usize,
    /// Number of checkpoints to keep, newest first.
    pub keep: usize,
    /// Score of the evaluation, as `cider`, whose best checkpoint is kept beside the newest ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_best: Option<String>,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { every: 200, keep: 2, keep_best: None }
    }
}

/// The hardware that a run is measured against and planned for; does not change what is computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HardwareConfig {
    /// Peak rate of one rank's device at the precision used, in 10^12 operations per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_tflops: Option<f64>,
    /// Share of the peak that the plan assumes until a rate is measured.
    pub expected_share: f64,
    /// Memory of one rank's device, in 10^9 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_gb: Option<f64>,
    /// Mean tokens of a text, for the plan.
    pub text_tokens: f64,
    /// Bandwidth of one rank's link in each direction, in 10^9 bytes per second, for the plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_gb_per_sec: Option<f64>,
    /// Latency of one message between two ranks, in microseconds, for the plan.
    pub network_latency_us: f64,
    /// Rate at which rank 0 writes checkpoints, in 10^9 bytes per second, for the plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_gb_per_sec: Option<f64>,
    /// Ranks that share a host's memory, for the plan.
    pub ranks_per_host: usize,
}

impl Default for HardwareConfig {
    fn default() -> Self {
        Self {
            peak_tflops: None,
            expected_share: 0.4,
            memory_gb: None,
            text_tokens: 16.0,
            network_gb_per_sec: None,
            network_latency_us: 10.0,
            disk_gb_per_sec: None,
            ranks_per_host: 8,
        }
    }
}

/// Settings for several processes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterConfig {
    /// Seconds that a rank waits for the others before the run ends with an error. While a rank
    /// starts, evaluates or saves, the others wait longer, as long as it is alive.
    pub timeout_secs: u64,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self { timeout_secs: 900 }
    }
}

/// Evaluation in the loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalConfig {
    /// Shards of held-out photos.
    pub shards: Vec<String>,
    /// Steps between two evaluations.
    pub every: usize,
    /// Number of photos to evaluate on.
    #[serde(default = "hundred")]
    pub limit: usize,
}

fn hundred() -> usize {
    100
}

/// Errors of a run's TOML file.
#[derive(Debug, thiserror::Error)]
pub enum TrainConfigError {
    /// The file is not TOML, or a key is missing, unknown or of another type.
    #[error("{0}")]
    Malformed(#[from] toml::de::Error),
    /// An override is not `key=value`.
    #[error("--set {0:?} is not of the form key=value\n  hint: for example --set optim.steps=100")]
    Override(String),
    /// The values contradict each other.
    #[error("{0}")]
    Inconsistent(String),
}

impl TrainConfig {
    /// Reads a TOML file. `overrides` are `key.inner=value` with TOML values.
    pub fn from_toml(text: &str, overrides: &[String]) -> Result<Self, TrainConfigError> {
        let mut root: toml::Table = toml::from_str(text)?;
        for change in overrides {
            set(&mut root, change)?;
        }
        let config: Self = toml::Value::Table(root).try_into()?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), TrainConfigError> {
        let fail = |text: &str| Err(TrainConfigError::Inconsistent(text.into()));
        let optim = &self.optim;
        if self.model.vision.is_some() && self.model.config.is_none() {
            return fail(
                "[model] `vision` gives a fresh model its encoder: it wants `config`, not `from`",
            );
        }
        if self.model.roi_output_size.is_some_and(|size| size == 0 || self.model.from.is_none()) {
            return fail("[model] `roi_output_size` wants `from`, and at least 1");
        }
        if self.model.from.is_some() == self.model.config.is_some() {
            return fail(
                "[model] wants either `from` (a model folder) or `config` (a fresh model), not both",
            );
        }
        if self.model.config.is_some()
            && self.model.tokenizer.is_some() != self.model.tokenizer_text.is_empty()
        {
            return fail("[model] a fresh model wants either `tokenizer` or `tokenizer_text`");
        }
        if optim.batch_size == 0 || optim.steps == 0 || optim.workers == 0 {
            return fail("[optim] batch_size, steps and workers must be at least 1");
        }
        if optim.micro_batch == Some(0) {
            return fail("[optim] micro_batch must be at least 1; leave it out for one pass");
        }
        if self.cluster.timeout_secs == 0 {
            return fail("[cluster] timeout_secs must be at least 1");
        }
        if optim.batch_size < 2 && matches!(self.recipe, Recipe::Stage1 | Recipe::Stage2Retrieval) {
            return fail(
                "[optim] batch_size must be at least 2: a contrastive loss compares samples",
            );
        }
        if !(optim.lr_heads.is_finite() && optim.lr_towers.is_finite() && optim.clip_norm > 0.0) {
            return fail("[optim] the learning rates must be finite and clip_norm above 0");
        }
        let rest = optim.steps.saturating_sub(optim.warmup_steps);
        if (optim.schedule == Schedule::Wsd) != (1..=rest).contains(&optim.cooldown_steps) {
            return fail(
                "[optim] schedule = \"wsd\" wants cooldown_steps from 1 to the steps after the warm-up; other schedules want none",
            );
        }
        if !(optim.layer_decay.is_finite() && optim.layer_decay > 0.0) {
            return fail("[optim] layer_decay must be finite and above 0");
        }
        let is_factor = |group: &ParamGroup| (0.0..f64::INFINITY).contains(&group.lr_multiplier);
        if !optim.groups.iter().all(is_factor) {
            return fail("[[optim.groups]] lr_multiplier must be finite and not negative");
        }
        if optim.epsilon <= 0.0 || !optim.epsilon.is_finite() {
            return fail("[optim] epsilon must be finite and above 0");
        }
        self.check_numbers()?;
        if self.recipe == Recipe::Warmup && self.distill.is_none() && self.data.text.is_empty() {
            return fail("recipe = \"warmup\" wants [distill], data.text or both");
        }
        if self.freeze_vision && (self.recipe != Recipe::Stage1 || self.distill.is_some()) {
            return fail(
                "freeze_vision wants recipe = \"stage1\" without [distill]: a frozen encoder cannot imitate a teacher, and stage 2 freezes it anyway",
            );
        }
        self.check_frozen_blocks()?;
        self.check_lora()?;
        let data = &self.data;
        if !data.shards.is_empty() && !data.mix.is_empty() {
            return fail("[data] wants either `shards` or [[data.mix]], not both");
        }
        if data.mix.iter().any(|mix| mix.shards.is_empty() == mix.visual_genome.is_none()) {
            return fail("[[data.mix]] wants either `shards` or `visual_genome` with `images`");
        }
        if data.mix.iter().any(|mix| !(mix.weight > 0.0 && mix.weight.is_finite())) {
            return fail("[[data.mix]] weight must be above 0");
        }
        if data.lanes == 0 || data.shuffle_buffer == 0 || data.samples_per_shard == Some(0) {
            return fail("[data] lanes, shuffle_buffer and samples_per_shard must be at least 1");
        }
        if data.retry_secs.iter().any(|secs| !(0.0..=3600.0).contains(secs)) {
            return fail("[data] retry_secs wants seconds from 0 to 3600, as [1, 4, 16]");
        }
        if !optim.batch_size.is_multiple_of(data.lanes) {
            return fail("[data] lanes must divide the batch_size of [optim]");
        }
        if data.sources().is_empty() && !(self.recipe == Recipe::Warmup && self.distill.is_none()) {
            return fail("[data] shards is empty");
        }
        let grounds = self.recipe == Recipe::Stage1 && self.objective != Objective::CapOnly;
        if self.grounding.is_some() && !grounds {
            return fail(
                "[grounding] wants recipe = \"stage1\" with an objective that embeds text",
            );
        }
        if self.contrastive_loss == ContrastiveLoss::Siglip && !super::plan::contrasts(self) {
            return fail(
                "contrastive_loss = \"siglip\" wants a recipe and objective that compare embeddings",
            );
        }
        if self.ignore_same_texts && self.contrastive_loss != ContrastiveLoss::InfoNce {
            return fail("ignore_same_texts wants contrastive_loss = \"info_nce\"");
        }
        if self.data.cache.is_some() {
            let is_frozen = match self.recipe {
                Recipe::Warmup => false,
                Recipe::Stage1 => self.freeze_vision,
                Recipe::Stage2Caption | Recipe::Stage2Retrieval => true,
            };
            let comes_again = self.data.crop_scale[0] >= 1.0 || self.data.crops > 0;
            if !(is_frozen && comes_again && self.data.patch_dropout == 0.0) {
                return fail(
                    "[data] cache stores a frozen encoder's patch tokens of repeated views: it wants freeze_vision or stage 2, crop_scale = [1.0, 1.0] or crops above 0, and no patch_dropout",
                );
            }
        }
        self.check_patch_dropout()?;
        let [low, high] = self.data.crop_scale;
        if !(0.0 < low && low <= high && high <= 1.0) {
            return fail("[data] crop_scale wants 0 < smallest <= largest <= 1");
        }
        if self.checkpoint.every == 0 || self.checkpoint.keep == 0 {
            return fail("[checkpoint] every and keep must be at least 1");
        }
        if self.eval.as_ref().is_some_and(|eval| eval.every == 0) {
            return fail("[eval] every must be at least 1");
        }
        self.check_keep_best()
    }
}

impl TrainConfig {
    /// Whether the run trains the prompts `[CAP_1..n]`.
    pub fn trains_prompts(&self) -> bool {
        let describes_regions =
            self.grounding.as_ref().is_some_and(|grounding| grounding.caption_weight > 0.0);
        match self.recipe {
            Recipe::Warmup | Recipe::Stage2Retrieval => false,
            Recipe::Stage1 => describes_regions,
            Recipe::Stage2Caption => true,
        }
    }

    /// Checks the ranges of shares, decay rates and loss weights.
    fn check_numbers(&self) -> Result<(), TrainConfigError> {
        let optim = &self.optim;
        let distill = self.distill.as_ref().map_or([0.0; 2], |d| [d.weight, d.mean_weight]);
        let grounding = self.grounding.as_ref().map_or([0.0; 2], |g| [g.weight, g.caption_weight]);
        let weight = (0.0..f64::INFINITY, "a finite number that is not negative");
        let share = (0.0..1.0f64.next_up(), "a share from 0 to 1");
        let decay = (0.0..1.0, "a rate from 0 to below 1");
        let checks = [
            ("[optim] lr_floor", optim.lr_floor, &share),
            ("[optim] weight_decay", optim.weight_decay.into(), &weight),
            ("[optim] beta_1", optim.beta_1.into(), &decay),
            ("[optim] beta_2", optim.beta_2.into(), &decay),
            ("[optim] ema", optim.ema.unwrap_or(0.0), &decay),
            ("[data] whole_image_share", self.data.whole_image_share.into(), &share),
            ("[distill] weight", distill[0].into(), &weight),
            ("[distill] mean_weight", distill[1].into(), &weight),
            ("[grounding] weight", grounding[0].into(), &weight),
            ("[grounding] caption_weight", grounding[1].into(), &weight),
        ];
        // NaN is in no range.
        match checks.iter().find(|(_, value, (range, _))| !range.contains(value)) {
            None => Ok(()),
            Some((key, value, (_, wanted))) => {
                Err(TrainConfigError::Inconsistent(format!("{key} is {value}, wanted {wanted}")))
            }
        }
    }

    /// Checks the adapters, and that nothing else decides what of the language model learns.
    fn check_lora(&self) -> Result<(), TrainConfigError> {
        let Some(lora) = &self.lora else { return Ok(()) };
        let fail = |text: String| Err(TrainConfigError::Inconsistent(text));
        if !matches!(self.recipe, Recipe::Warmup | Recipe::Stage1) {
            return fail(
                "[lora] wants a warm-up or stage 1: stage 2 freezes the language model".into(),
            );
        }
        if self.freeze_llm || self.freeze_text_blocks > 0 {
            return fail(
                "[lora] freezes the language model's own weights: leave out freeze_llm and freeze_text_blocks"
                    .into(),
            );
        }
        if lora.rank == 0 || !(lora.alpha.is_finite() && lora.alpha > 0.0) {
            return fail("[lora] rank must be at least 1, and alpha finite and above 0".into());
        }
        let is_known = |name: &String| PROJECTIONS.contains(&name.as_str());
        let is_repeated = (1..lora.projections.len())
            .any(|idx| lora.projections[..idx].contains(&lora.projections[idx]));
        if lora.projections.is_empty() || is_repeated || !lora.projections.iter().all(is_known) {
            return fail(format!(
                "[lora] projections is {:?}, wanted some of {}, each once",
                lora.projections,
                PROJECTIONS.join(", ")
            ));
        }
        Ok(())
    }

    /// Checks that frozen blocks are in towers that learn.
    fn check_frozen_blocks(&self) -> Result<(), TrainConfigError> {
        let towers_learn = matches!(self.recipe, Recipe::Warmup | Recipe::Stage1);
        for (key, n_blocks, whole, is_frozen) in [
            (
                "freeze_vision_blocks",
                self.freeze_vision_blocks,
                "freeze_vision",
                self.freeze_vision,
            ),
            ("freeze_text_blocks", self.freeze_text_blocks, "freeze_llm", self.freeze_llm),
        ] {
            if n_blocks > 0 && (is_frozen || !towers_learn) {
                return Err(TrainConfigError::Inconsistent(format!(
                    "{key} wants a warm-up or stage 1 without {whole}, which freezes all blocks; stage 2 freezes them anyway"
                )));
            }
        }
        Ok(())
    }

    /// Checks that the evaluation has the score that chooses the best checkpoint.
    fn check_keep_best(&self) -> Result<(), TrainConfigError> {
        let Some(score) = &self.checkpoint.keep_best else { return Ok(()) };
        let fail = |text: String| Err(TrainConfigError::Inconsistent(text));
        let known = scores_of(self.recipe);
        if known.is_empty() {
            return fail("[checkpoint] keep_best wants a recipe whose evaluation has scores; a warm-up has none".into());
        }
        if !known.contains(&score.as_str()) {
            return fail(format!(
                "[checkpoint] keep_best is {score:?}, wanted a score of this recipe: {}",
                known.join(", ")
            ));
        }
        if self.eval.is_none() {
            return fail("[checkpoint] keep_best wants [eval], which computes the score".into());
        }
        Ok(())
    }

    /// Checks that patches are dropped only if no loss depends on a position in the photo.
    fn check_patch_dropout(&self) -> Result<(), TrainConfigError> {
        let share = self.data.patch_dropout;
        if share == 0.0 {
            return Ok(());
        }
        let fail = |text: String| Err(TrainConfigError::Inconsistent(text));
        if !(0.0..1.0).contains(&share) {
            return fail(format!(
                "[data] patch_dropout is {share}; wanted a share from 0 to below 1, as 0.5"
            ));
        }
        let needs_all = match self.recipe {
            _ if self.grounding.is_some() => "[grounding] looks for a phrase among all patches",
            Recipe::Warmup | Recipe::Stage1 => return Ok(()),
            Recipe::Stage2Caption | Recipe::Stage2Retrieval => {
                "stage 2 cuts its regions out of the whole map"
            }
        };
        fail(format!(
            "[data] patch_dropout is {share}, but {needs_all}\n  hint: leave patch_dropout out, or use it in a warm-up, or in a stage 1 without [grounding]"
        ))
    }
}

fn set(root: &mut toml::Table, change: &str) -> Result<(), TrainConfigError> {
    let wrong = || TrainConfigError::Override(change.to_owned());
    let (path, value) = change.split_once('=').ok_or_else(wrong)?;
    // A bare word is a string, so that the user need not quote paths twice.
    let value = toml::from_str::<toml::Table>(&format!("x = {value}"))
        .ok()
        .and_then(|mut table| table.remove("x"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let mut keys: Vec<&str> = path.trim().split('.').collect();
    let last = keys.pop().filter(|key| !key.is_empty()).ok_or_else(wrong)?;
    let mut table = root;
    for key in keys {
        let inner = table.entry(key).or_insert_with(|| toml::Value::Table(Default::default()));
        table = inner.as_table_mut().ok_or_else(wrong)?;
    }
    table.insert(last.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = r#"
        recipe = "stage1"
        out = "runs/a"
        model = { from = "models/a" }
        data = { shards = ["a.tar"] }
        optim = { batch_size = 4, steps = 10, lr_heads = 1e-3, lr_towers = 1e-4 }
    "#;

    #[test]
    fn an_override_changes_one_value() {
        let set = ["optim.steps=20".to_owned(), "out=runs/b".to_owned()];
        let config = TrainConfig::from_toml(RUN, &set).unwrap();
        assert_eq!((config.optim.steps, config.out), (20, PathBuf::from("runs/b")));
    }

    #[test]
    fn a_misspelt_key_is_an_error() {
        assert!(TrainConfig::from_toml(RUN, &["optim.step=20".into()]).is_err());
    }

    #[test]
    fn a_number_out_of_its_range_is_an_error() {
        let distill = |set: &str| format!("distill={{ grid = 2, hidden_size = 6, {set} }}");
        for (change, says) in [
            ("optim.lr_floor=1.5".to_owned(), "[optim] lr_floor is 1.5, wanted a share"),
            ("optim.weight_decay=-0.5".to_owned(), "[optim] weight_decay is -0.5, wanted"),
            ("optim.weight_decay=inf".to_owned(), "[optim] weight_decay is inf, wanted"),
            ("optim.beta_1=-1.0".to_owned(), "[optim] beta_1 is -1, wanted a rate"),
            ("optim.beta_2=1.0".to_owned(), "[optim] beta_2 is 1, wanted a rate"),
            ("optim.ema=1.0".to_owned(), "[optim] ema is 1, wanted a rate"),
            ("optim.epsilon=0.0".to_owned(), "[optim] epsilon must be finite and above 0"),
            ("optim.layer_decay=0.0".to_owned(), "[optim] layer_decay must be"),
            ("optim.schedule=wsd".to_owned(), "[optim] schedule = \"wsd\" wants cooldown_steps"),
            (
                "optim.cooldown_steps=2".to_owned(),
                "[optim] schedule = \"wsd\" wants cooldown_steps",
            ),
            ("data.whole_image_share=nan".to_owned(), "[data] whole_image_share is NaN, wanted"),
            (distill("weight = nan"), "[distill] weight is NaN, wanted"),
            (distill("weight = 1.0, mean_weight = -1.0"), "[distill] mean_weight is -1, wanted"),
            ("grounding={ weight = -1.0 }".to_owned(), "[grounding] weight is -1, wanted"),
            (
                "grounding={ weight = 1.0, caption_weight = inf }".to_owned(),
                "[grounding] caption_weight is inf, wanted",
            ),
        ] {
            let set = std::slice::from_ref(&change);
            let error = TrainConfig::from_toml(RUN, set).expect_err(&change).to_string();
            assert!(error.starts_with(says), "{change}: {error}");
        }
        for bound in ["optim.lr_floor=1.0", "optim.beta_2=0.0", "data.whole_image_share=1.0"] {
            assert!(TrainConfig::from_toml(RUN, &[bound.into()]).is_ok(), "{bound}");
        }
    }

    #[test]
    fn the_best_checkpoint_is_chosen_by_a_score_that_the_evaluation_has() {
        let eval = "eval={ shards = ['b.tar'], every = 2 }";
        let config = |set: &[&str]| {
            let set: Vec<String> = set.iter().map(|change| change.to_string()).collect();
            TrainConfig::from_toml(RUN, &set)
        };
        assert!(config(&[eval, "checkpoint.keep_best=cider"]).is_ok());
        let region = "checkpoint.keep_best=region_cider";
        assert!(config(&[eval, region, "recipe=stage2_caption"]).is_ok());
        for (set, says) in [
            (&[eval, "checkpoint.keep_best=cidr"][..], "wanted a score of this recipe: image_to_"),
            (
                &[eval, region],
                "mean_recall, image_to_text_median_rank, text_to_image_median_rank, cider",
            ),
            (&["checkpoint.keep_best=cider"], "wants [eval]"),
            (&[eval, "recipe=warmup", "data.text=['a.txt']", region], "a warm-up has none"),
        ] {
            let error = config(set).expect_err(says).to_string();
            assert!(error.starts_with("[checkpoint] keep_best") && error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_batch_of_one_cannot_be_contrasted() {
        assert!(TrainConfig::from_toml(RUN, &["optim.batch_size=1".into()]).is_err());
    }

    #[test]
    fn the_encoder_is_frozen_only_where_it_would_learn_from_text() {
        let config = |change: &str| {
            TrainConfig::from_toml(RUN, &["freeze_vision=true".into(), change.into()])
        };
        assert!(config("seed=1").is_ok());
        for change in
            ["recipe=stage2_caption", "distill={ weight = 1.0, grid = 2, hidden_size = 6 }"]
        {
            let error = config(change).expect_err(change).to_string();
            assert!(error.contains("freeze_vision wants"), "{error}");
        }
    }

    #[test]
    fn adapters_are_for_known_matrices_of_a_language_model_that_would_learn() {
        let config = |lora: &str, change: &str| {
            let set = [format!("lora={{ rank = 4, alpha = 8{lora} }}"), change.to_owned()];
            TrainConfig::from_toml(RUN, &set)
        };
        let found = config("", "seed=1").expect("it is right").lora.expect("there");
        assert_eq!(found.projections, ["q_proj", "v_proj"]);
        for (lora, change, says) in [
            (", projections = ['q_prj']", "seed=1", "wanted some of q_proj, k_proj"),
            (", projections = []", "seed=1", "wanted some of q_proj, k_proj"),
            (", projections = ['q_proj', 'q_proj']", "seed=1", "each once"),
            ("", "freeze_llm=true", "leave out freeze_llm"),
            ("", "freeze_text_blocks=1", "leave out freeze_llm"),
            ("", "recipe=stage2_caption", "stage 2 freezes"),
            ("", "lora.rank=0", "rank must be at least 1"),
        ] {
            let error = config(lora, change).expect_err(says).to_string();
            assert!(error.starts_with("[lora]") && error.contains(says), "{error}");
        }
    }

    #[test]
    fn blocks_are_frozen_only_in_towers_that_learn() {
        let config = |change: &str| {
            let blocks = ["freeze_vision_blocks=1".into(), "freeze_text_blocks=2".into()];
            TrainConfig::from_toml(RUN, &[&blocks[..], &[change.to_owned()]].concat())
        };
        assert!(config("seed=1").is_ok());
        for (change, says) in [
            ("freeze_vision=true", "freeze_vision_blocks wants"),
            ("freeze_llm=true", "freeze_text_blocks wants"),
            ("recipe=stage2_caption", "freeze_vision_blocks wants"),
        ] {
            let error = config(change).expect_err(change).to_string();
            assert!(error.starts_with(says), "{error}");
        }
    }

    #[test]
    fn a_cache_wants_an_encoder_that_does_not_learn_and_views_that_come_again() {
        let config = |set: &[&str]| {
            let all: Vec<String> =
                ["data.cache=cache"].iter().chain(set).map(|change| change.to_string()).collect();
            TrainConfig::from_toml(RUN, &all)
        };
        let whole = "data.crop_scale=[1.0, 1.0]";
        for set in [&["freeze_vision=true", whole][..], &["freeze_vision=true", "data.crops=2"]] {
            assert!(config(set).is_ok(), "{set:?}");
        }
        assert!(config(&["recipe=stage2_caption", whole]).is_ok());
        for set in [
            &["freeze_vision=true"][..],
            &[whole],
            &["freeze_vision=true", whole, "data.patch_dropout=0.5"],
        ] {
            let error = config(set).expect_err("nothing to keep").to_string();
            assert!(error.contains("[data] cache"), "{set:?}: {error}");
        }
    }

    #[test]
    fn as_many_patches_are_kept_as_open_clip_keeps() {
        for (share, n_patches, kept) in
            [(0.5, 196, 98), (0.75, 49, 12), (0.99, 49, 1), (0.1, 256, 230)]
        {
            let data = DataConfig { patch_dropout: share, ..DataConfig::default() };
            assert_eq!(data.n_kept_patches(n_patches), kept);
        }
    }

    #[test]
    fn patches_are_dropped_only_where_no_place_in_the_photo_is_asked_for() {
        let half = "data.patch_dropout=0.5";
        let distill = "distill={ weight = 1.0, grid = 2, hidden_size = 6 }";
        for others in [&[][..], &[distill], &[distill, "recipe=warmup", "data.text=['a.txt']"]] {
            let set: Vec<String> =
                [half].iter().chain(others).map(|change| change.to_string()).collect();
            assert!(TrainConfig::from_toml(RUN, &set).is_ok(), "{set:?}");
        }
        for (others, says) in [
            (&["recipe=stage2_retrieval"][..], "stage 2 cuts its regions"),
            (&["recipe=stage2_caption"], "stage 2 cuts its regions"),
            (&["grounding={ weight = 1.0 }"], "[grounding] looks for a phrase"),
            (&["data.patch_dropout=1"], "wanted a share from 0 to below 1"),
            (&["data.patch_dropout=-0.5"], "wanted a share from 0 to below 1"),
            (&["data.patch_dropout=nan"], "wanted a share from 0 to below 1"),
        ] {
            let set: Vec<String> =
                [half].iter().chain(others).map(|change| change.to_string()).collect();
            let error = TrainConfig::from_toml(RUN, &set).expect_err(says).to_string();
            assert!(error.contains("patch_dropout") && error.contains(says), "{error}");
        }
    }
}
