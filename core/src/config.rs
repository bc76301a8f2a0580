//! The model's config: the sizes and switches of `config.json`, under Hugging Face's field names.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::image::{ImagePreprocess, ResizeMode};

/// The content of a model folder's `config.json`.
///
/// Every key but `search_cutoffs` is required, and unknown keys are errors. Otherwise a typo in a
/// switch would silently train another model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MmGemConfig {
    /// Always `mm-gem`.
    pub format: String,
    /// Version of the format, [`VERSION`]; version 1 is also supported.
    pub version: u32,
    /// How a photo is resized to the square input.
    pub resize_mode: ResizeMode,
    /// Mean of each colour channel, for pixels scaled to 0..1.
    pub image_mean: [f32; 3],
    /// Standard deviation of each colour channel, for pixels scaled to 0..1.
    pub image_std: [f32; 3],
    /// How the language model sees a whole image.
    pub vision_tokens: VisionTokens,
    /// Position of `[CAP]` in a caption's prefix.
    pub caption_order: CaptionOrder,
    /// Number of soft prompts `[CAP_1..n]` that replace `[CAP]` in stage 2.
    pub num_caption_prompts: usize,
    /// Bins per side of a region's feature map.
    pub roi_output_size: usize,
    /// Bilinear samples per bin and axis of RoIAlign.
    pub roi_sampling_ratio: usize,
    /// Most tokens of a text, including its special token.
    pub max_text_len: usize,
    /// Natural log of the inverse temperature before training.
    pub logit_scale_init: f64,
    /// Upper bound of the log of the inverse temperature.
    pub logit_scale_max: f64,
    /// Kind and sizes of the image encoder.
    pub vision: VisionConfig,
    /// Sizes of the language model.
    pub llm: LlamaConfig,
    /// Width of the joint space of images and texts.
    pub embed_dim: usize,
    /// Token that starts a document, if the tokenizer has one.
    pub bos_token_id: Option<u32>,
    /// Token that ends a caption.
    pub eos_token_id: u32,
    /// Measured cut-offs of a search, the mildest first; empty if the model was not calibrated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search_cutoffs: Vec<SearchCutoff>,
}

/// A minimum cosine between a text and a photo, and its effect on a set of captioned photos.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchCutoff {
    /// Share of the photos that a text describes that pass `min_score`.
    pub kept: f32,
    /// The minimum cosine of a hit.
    pub min_score: f32,
    /// Share of the photos that the text does not describe that pass `min_score`.
    pub passed: f32,
}

impl SearchCutoff {
    /// Share of the described photos that a strong hit's cut-off keeps.
    const STRONG: f32 = 0.9;

    /// The score of `cutoffs` below which a hit of a text is weak: nine in ten of the photos that a
    /// text describes score higher. `None` without such a cut-off.
    pub fn weak_below(cutoffs: &[Self]) -> Option<f32> {
        cutoffs.iter().find(|cutoff| cutoff.kept == Self::STRONG).map(|cutoff| cutoff.min_score)
    }
}

/// Version of the format that this program writes; since version 2, `vision.model_type` names the
/// tower.
pub const VERSION: u32 = 2;

/// The image encoder; `model_type` in the file selects the variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "model_type", rename_all = "snake_case")]
pub enum VisionConfig {
    /// A vision transformer.
    Vit(VitConfig),
    /// EfficientNet-Lite, a convolutional network.
    #[serde(rename = "efficientnet_lite")]
    EfficientNetLite(EfficientNetLiteConfig),
}

impl VisionConfig {
    /// Side of the square input image, in pixels.
    pub fn image_size(&self) -> usize {
        match self {
            Self::Vit(vit) => vit.image_size,
            Self::EfficientNetLite(lite) => lite.image_size,
        }
    }

    /// Width of V.
    pub fn hidden_size(&self) -> usize {
        match self {
            Self::Vit(vit) => vit.hidden_size,
            Self::EfficientNetLite(lite) => lite.hidden_size,
        }
    }

    /// Patches per side of V.
    pub fn grid(&self) -> usize {
        match self {
            Self::Vit(vit) => vit.image_size / vit.patch_size,
            Self::EfficientNetLite(lite) => lite.grid(),
        }
    }

    /// The transformer's sizes, if the tower is a vision transformer.
    pub fn as_vit(&self) -> Option<&VitConfig> {
        match self {
            Self::Vit(vit) => Some(vit),
            Self::EfficientNetLite(_) => None,
        }
    }

    /// The transformer's sizes to change, if the tower is a vision transformer.
    pub fn as_vit_mut(&mut self) -> Option<&mut VitConfig> {
        match self {
            Self::Vit(vit) => Some(vit),
            Self::EfficientNetLite(_) => None,
        }
    }
}

/// A short description of the tower for the user.
impl fmt::Display for VisionConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vit(v) => write!(
                f,
                "ViT, {} layers x {}, {} heads, patches of {} px at {} px",
                v.num_hidden_layers,
                v.hidden_size,
                v.num_attention_heads,
                v.patch_size,
                v.image_size
            ),
            Self::EfficientNetLite(lite) => write!(
                f,
                "EfficientNet-Lite, {} blocks, {} channels at {} px",
                lite.blocks().len(),
                lite.hidden_size,
                lite.image_size
            ),
        }
    }
}

/// Sizes of an EfficientNet-Lite (timm's `tf_efficientnet_lite0..4`; EfficientNet,
/// arXiv:1905.11946).
///
/// Lite0 to Lite4 have widths 1.0, 1.0, 1.1, 1.2, 1.4 and depths 1.0, 1.1, 1.2, 1.4, 1.8. Their
/// inputs are 224, 240, 260, 280 and 300 pixels wide.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EfficientNetLiteConfig {
    /// Side of the square input image, in pixels.
    pub image_size: usize,
    /// Factor for the blocks' channels.
    pub width_coefficient: f64,
    /// Factor for the number of blocks in each stage except the first and the last.
    pub depth_coefficient: f64,
    /// Channels of the last map, V: 1280 in the published models.
    pub hidden_size: usize,
}

/// One inverted-residual block of an EfficientNet-Lite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MbConvConfig {
    /// Side of the depth-wise kernel.
    pub kernel_size: usize,
    /// Stride of the depth-wise kernel.
    pub stride: usize,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels between expansion and projection.
    pub expanded_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
}

/// Blocks, kernel, stride, expansion and channels of each stage of EfficientNet-B0.
const STAGES: [(usize, usize, usize, usize, usize); 7] = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
];

impl EfficientNetLiteConfig {
    /// Channels of the stem, which are not scaled.
    pub const STEM_CHANNELS: usize = 32;

    /// The blocks, first to last.
    pub fn blocks(&self) -> Vec<MbConvConfig> {
        let mut in_channels = Self::STEM_CHANNELS;
        let mut blocks = Vec::new();
        for ((_, kernel_size, stride, expansion, channels), n_blocks) in
            STAGES.into_iter().zip(self.blocks_per_stage())
        {
            let out_channels = round_channels(channels as f64 * self.width_coefficient);
            for idx in 0..n_blocks {
                let stride = if idx == 0 { stride } else { 1 };
                let expanded_channels = in_channels * expansion;
                blocks.push(MbConvConfig {
                    kernel_size,
                    stride,
                    in_channels,
                    expanded_channels,
                    out_channels,
                });
                in_channels = out_channels;
            }
        }
        blocks
    }

    /// Number of blocks in each stage.
    pub fn blocks_per_stage(&self) -> Vec<usize> {
        let scaled = |(stage, (n_blocks, ..)): (usize, (usize, usize, usize, usize, usize))| {
            let is_end = stage == 0 || stage + 1 == STAGES.len();
            let depth = if is_end { 1.0 } else { self.depth_coefficient };
            (n_blocks as f64 * depth).ceil() as usize
        };
        STAGES.into_iter().enumerate().map(scaled).collect()
    }

    /// Cells per side of the last map: the input side halved five times, rounded up.
    pub fn grid(&self) -> usize {
        (0..5).fold(self.image_size, |side, _| side.div_ceil(2))
    }
}

/// The nearest multiple of 8, but at most a tenth below `channels`.
fn round_channels(channels: f64) -> usize {
    let rounded = (((channels + 4.0) as usize) / 8 * 8).max(8);
    if (rounded as f64) < 0.9 * channels { rounded + 8 } else { rounded }
}

/// Sizes and switches of a vision transformer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VitConfig {
    /// Side of the square input image, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels; divides `image_size`.
    pub patch_size: usize,
    /// Width of the encoder.
    pub hidden_size: usize,
    /// Number of transformer blocks.
    pub num_hidden_layers: usize,
    /// Attention heads of a block; divides `hidden_size`.
    pub num_attention_heads: usize,
    /// Width of the MLP relative to `hidden_size`.
    pub mlp_ratio: f64,
    /// Activation of the MLP.
    pub hidden_act: HiddenAct,
    /// Term that keeps LayerNorm from dividing by zero: 1e-5 in OpenCLIP, 1e-6 in DINOv2 and
    /// SigLIP.
    pub layer_norm_eps: f64,
    /// Whether a learned token precedes the patches.
    pub class_token: bool,
    /// Whether there is a norm before the blocks, as in CLIP.
    pub ln_pre: bool,
    /// Whether V is normed after the blocks. False for encoders that pool first and norm the pooled
    /// vector.
    pub ln_post: bool,
    /// Width of OpenCLIP's own embedding (`visual.proj`), which MM-GEM does not use.
    pub proj_dim: Option<usize>,
}

impl VitConfig {
    /// Number of learned positions: of the class token, if any, and of the patches.
    pub fn n_positions(&self) -> usize {
        usize::from(self.class_token) + (self.image_size / self.patch_size).pow(2)
    }
}

/// Sizes of the language model (Hugging Face's `LlamaForCausalLM`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlamaConfig {
    /// Width of the model.
    pub hidden_size: usize,
    /// Width of the SwiGLU feed-forward network.
    pub intermediate_size: usize,
    /// Number of transformer blocks.
    pub num_hidden_layers: usize,
    /// Query heads of a block.
    pub num_attention_heads: usize,
    /// Key and value heads of a block; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of a head; `hidden_size / num_attention_heads` if absent.
    #[serde(default)]
    pub head_dim: Option<usize>,
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// Term that keeps RMSNorm from dividing by zero.
    pub rms_norm_eps: f64,
    /// Base of the rotary position frequencies.
    pub rope_theta: f64,
    /// How the rotary frequencies are scaled for longer sequences.
    #[serde(default)]
    pub rope_scaling: Option<RopeScaling>,
    /// Whether the projections of attention have a bias.
    #[serde(default)]
    pub attention_bias: bool,
    /// Whether the projections of the feed-forward network have a bias.
    #[serde(default)]
    pub mlp_bias: bool,
    /// Whether the output head is the transposed token embedding.
    pub tie_word_embeddings: bool,
}

impl LlamaConfig {
    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads)
    }
}

/// Scaling of the rotary frequencies, after training on short sequences.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rope_type", rename_all = "snake_case", deny_unknown_fields)]
pub enum RopeScaling {
    /// Divides every frequency by `factor` (arXiv:2306.15595).
    Linear {
        /// Ratio of the new to the old sequence length.
        factor: f64,
    },
    /// As in Llama 3.1: divides slow frequencies by `factor`, keeps fast ones, and blends between.
    #[serde(rename = "llama3")]
    Llama3 {
        /// Ratio of the new to the old sequence length.
        factor: f64,
        /// Frequencies are slow if their wave is longer than the original length divided by this.
        low_freq_factor: f64,
        /// Frequencies are fast if their wave is shorter than the original length divided by this.
        high_freq_factor: f64,
        /// Longest sequence of the original model.
        original_max_position_embeddings: usize,
    },
}

/// Activation of the image encoder's MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HiddenAct {
    /// `x * Phi(x)`, exact.
    Gelu,
    /// `x * sigmoid(1.702 x)`, in OpenAI's and DFN's checkpoints.
    QuickGelu,
    /// GELU with `tanh` instead of the error function, in SigLIP's checkpoints.
    GeluPytorchTanh,
}

/// How the language model sees a whole image (`V_in`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VisionTokens {
    /// One token, `h3(h1(MeanPool(V)))`: the paper's stage 1.
    Mean,
    /// One token per patch, `h3(h1(V_ij))`.
    Grid,
    /// r×r tokens, RoIAlign over the whole image, as in stage 2.
    Roi,
}

/// Order of a caption's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaptionOrder {
    /// `V_in, [CAP], text`.
    ImageFirst,
    /// `[CAP], V_in, text`.
    CapFirst,
}

/// Errors of a `config.json`.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not JSON, or a key is missing, unknown or of another type.
    #[error(
        "config.json does not describe an MM-GEM model: {0}\n  hint: compare its keys with those of the embedded model, `mmgem info --config`"
    )]
    Malformed(#[from] serde_json::Error),
    /// The values contradict each other.
    #[error("config.json: {found}, but {wanted}")]
    Inconsistent {
        /// The value in the file.
        found: String,
        /// The condition that it breaks.
        wanted: String,
    },
}

impl MmGemConfig {
    /// Reads and checks the text of a `config.json`.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let mut file: serde_json::Value = serde_json::from_str(text)?;
        upgrade(&mut file);
        // Checked first, because the allowed keys depend on the version.
        if let (Some(format), Some(version)) = (file["format"].as_str(), file["version"].as_u64()) {
            check_version(format, version)?;
        }
        let config: Self = serde_json::from_value(file)?;
        config.check()?;
        Ok(config)
    }

    /// The text of a `config.json`: two spaces of indent, keys in the reference's order.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a plain struct serialises")
    }

    /// Patches per side of the feature map V.
    pub fn grid(&self) -> usize {
        self.vision.grid()
    }

    /// Side of a patch in pixels of the model's input; a fraction if a convolution rounds its map
    /// up.
    pub fn patch_px(&self) -> f32 {
        self.vision.image_size() as f32 / self.vision.grid() as f32
    }

    /// Tokens of a whole image for the language model in stage 1, if the encoder sees `n_patches`
    /// patches.
    pub fn n_whole_tokens(&self, n_patches: usize) -> usize {
        match self.vision_tokens {
            VisionTokens::Mean => 1,
            VisionTokens::Grid => n_patches,
            VisionTokens::Roi => self.roi_output_size.pow(2),
        }
    }

    /// The preprocessing from a photo to the model's input.
    pub fn preprocess(&self) -> ImagePreprocess {
        ImagePreprocess {
            image_size: self.vision.image_size(),
            resize_mode: self.resize_mode,
            image_mean: self.image_mean,
            image_std: self.image_std,
        }
    }

    /// Checks that the sizes fit together.
    pub fn check(&self) -> Result<(), ConfigError> {
        let l = &self.llm;
        for SearchCutoff { kept, min_score, passed } in &self.search_cutoffs {
            let is_share = |share: &f32| (0.0..=1.0).contains(share);
            require(is_share(kept) && is_share(passed) && min_score.abs() <= 1.0, || {
                (
                    format!("search_cutoffs has {kept}, {min_score}, {passed}"),
                    "kept and passed must be in 0..=1, min_score in -1..=1".into(),
                )
            })?;
        }
        let positive = [
            ("num_caption_prompts", self.num_caption_prompts),
            ("roi_output_size", self.roi_output_size),
            ("roi_sampling_ratio", self.roi_sampling_ratio),
            ("embed_dim", self.embed_dim),
            ("vision.image_size", self.vision.image_size()),
            ("vision.hidden_size", self.vision.hidden_size()),
            ("llm.hidden_size", l.hidden_size),
            ("llm.intermediate_size", l.intermediate_size),
            ("llm.num_attention_heads", l.num_attention_heads),
            ("llm.num_key_value_heads", l.num_key_value_heads),
            ("llm.vocab_size", l.vocab_size),
        ];
        for (name, value) in positive {
            require(value > 0, || (format!("{name} is 0"), "it must be at least 1".into()))?;
        }
        check_version(&self.format, self.version.into())?;
        self.vision.check()?;
        if l.head_dim.is_none() {
            let (heads, width) = (l.num_attention_heads, l.hidden_size);
            require_divides("llm.num_attention_heads", heads, "llm.hidden_size", width)?;
        }
        let (kv_heads, heads) = (l.num_key_value_heads, l.num_attention_heads);
        require_divides("llm.num_key_value_heads", kv_heads, "llm.num_attention_heads", heads)?;
        require(l.head_dim() > 0 && l.head_dim().is_multiple_of(2), || {
            (
                format!("the language model's heads are {} wide", l.head_dim()),
                "rotary positions need an even width".into(),
            )
        })?;
        if let Some(scaling) = &l.rope_scaling {
            scaling.check()?;
        }
        require(self.max_text_len >= 2, || {
            (
                format!("max_text_len is {}", self.max_text_len),
                "it must hold a token and [EMB]".into(),
            )
        })?;
        require((self.eos_token_id as usize) < l.vocab_size, || {
            (
                format!("eos_token_id is {}", self.eos_token_id),
                format!("the vocabulary has {} tokens", l.vocab_size),
            )
        })?;
        require(self.image_std.iter().all(|s| *s > 0.0), || {
            (format!("image_std is {:?}", self.image_std), "each must be above 0".into())
        })
    }
}

impl VisionConfig {
    fn check(&self) -> Result<(), ConfigError> {
        match self {
            Self::Vit(v) => {
                let positive = [
                    ("vision.patch_size", v.patch_size),
                    ("vision.num_attention_heads", v.num_attention_heads),
                    ("vision.proj_dim", v.proj_dim.unwrap_or(1)),
                ];
                for (name, value) in positive {
                    require(value > 0, || {
                        (format!("{name} is 0"), "it must be at least 1".into())
                    })?;
                }
                require_divides(
                    "vision.patch_size",
                    v.patch_size,
                    "vision.image_size",
                    v.image_size,
                )?;
                let (heads, width) = (v.num_attention_heads, v.hidden_size);
                require_divides("vision.num_attention_heads", heads, "vision.hidden_size", width)
            }
            Self::EfficientNetLite(lite) => {
                let factors = [
                    ("vision.width_coefficient", lite.width_coefficient),
                    ("vision.depth_coefficient", lite.depth_coefficient),
                ];
                for (name, value) in factors {
                    require(value > 0.0 && value <= 16.0, || {
                        (format!("{name} is {value}"), "it must be above 0 and at most 16".into())
                    })?;
                }
                Ok(())
            }
        }
    }
}

impl RopeScaling {
    fn check(&self) -> Result<(), ConfigError> {
        let positive = |name: &str, value: f64| {
            require(value > 0.0 && value.is_finite(), || {
                (format!("llm.rope_scaling.{name} is {value}"), "it must be above 0".into())
            })
        };
        match *self {
            Self::Linear { factor } => positive("factor", factor),
            Self::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                positive("factor", factor)?;
                positive("low_freq_factor", low_freq_factor)?;
                positive(
                    "original_max_position_embeddings",
                    original_max_position_embeddings as f64,
                )?;
                require(high_freq_factor > low_freq_factor, || {
                    (
                        format!("llm.rope_scaling.high_freq_factor is {high_freq_factor}"),
                        format!("it must be above low_freq_factor, {low_freq_factor}"),
                    )
                })
            }
        }
    }
}

/// Upgrades a file of version 1, whose only tower was open_clip's ViT, to version 2.
fn upgrade(file: &mut serde_json::Value) {
    if file.get("version").and_then(serde_json::Value::as_u64) != Some(1) {
        return;
    }
    if let Some(vision) = file.get_mut("vision").and_then(serde_json::Value::as_object_mut) {
        let open_clips = [
            ("model_type", "vit".into()),
            ("layer_norm_eps", 1e-5.into()),
            ("class_token", true.into()),
            ("ln_pre", true.into()),
            ("ln_post", true.into()),
        ];
        for (key, value) in open_clips {
            vision.entry(key).or_insert(value);
        }
        file["version"] = VERSION.into();
    }
}

fn check_version(format: &str, version: u64) -> Result<(), ConfigError> {
    require(format == "mm-gem" && version == u64::from(VERSION), || {
        (
            format!("the format is {format:?} version {version}"),
            format!("this program reads \"mm-gem\" versions 1 and {VERSION}"),
        )
    })
}

fn require_divides(
    part: &str,
    part_size: usize,
    whole: &str,
    whole_size: usize,
) -> Result<(), ConfigError> {
    require(whole_size.is_multiple_of(part_size), || {
        (format!("{part} is {part_size}"), format!("it must divide {whole}, {whole_size}"))
    })
}

fn require(holds: bool, say: impl FnOnce() -> (String, String)) -> Result<(), ConfigError> {
    if holds {
        return Ok(());
    }
    let (found, wanted) = say();
    Err(ConfigError::Inconsistent { found, wanted })
}
