//! What a model is: the sizes and switches that `config.json` holds, under Hugging Face's field names.

use serde::{Deserialize, Serialize};

use crate::image::{ImagePreprocess, ResizeMode};

/// The whole of a model folder's `config.json`.
///
/// Every key must be there and no other may be: a typo in a switch would otherwise train
/// another model than the one that was meant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MmGemConfig {
    /// Always `mm-gem`.
    pub format: String,
    /// Version of the format; this program reads version 1.
    pub version: u32,
    /// How a photo becomes the square input.
    pub resize_mode: ResizeMode,
    /// Mean of each colour channel of the pixels scaled to 0..1.
    pub image_mean: [f32; 3],
    /// Standard deviation of each colour channel of the pixels scaled to 0..1.
    pub image_std: [f32; 3],
    /// What the language model sees of a whole image.
    pub vision_tokens: VisionTokens,
    /// Where `[CAP]` stands in a caption's prefix.
    pub caption_order: CaptionOrder,
    /// Number of soft prompts `[CAP_1..n]` that replace `[CAP]` in stage 2.
    pub num_caption_prompts: usize,
    /// Bins per side of a region's feature map.
    pub roi_output_size: usize,
    /// Bilinear samples per bin and axis of RoIAlign.
    pub roi_sampling_ratio: usize,
    /// Most tokens of a text, its special token included.
    pub max_text_len: usize,
    /// Natural log of the inverse temperature before training.
    pub logit_scale_init: f64,
    /// Upper bound of the log of the inverse temperature.
    pub logit_scale_max: f64,
    /// Sizes of the image encoder.
    pub vision: VitConfig,
    /// Sizes of the language model.
    pub llm: LlamaConfig,
    /// Width of the space in which images and texts are compared.
    pub embed_dim: usize,
    /// Token that starts a document, if the tokenizer has one.
    pub bos_token_id: Option<u32>,
    /// Token that ends a caption.
    pub eos_token_id: u32,
}

/// Sizes of the image encoder (open_clip's `VisionTransformer`).
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
    /// Width of the MLP over `hidden_size`.
    pub mlp_ratio: f64,
    /// Activation of the MLP.
    pub hidden_act: HiddenAct,
    /// Width of OpenCLIP's own embedding (`visual.proj`), which MM-GEM does not use.
    pub proj_dim: usize,
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
    /// Query heads of a block; divides `hidden_size`.
    pub num_attention_heads: usize,
    /// Key and value heads of a block; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// Term that keeps RMSNorm from dividing by zero.
    pub rms_norm_eps: f64,
    /// Base of the rotary position frequencies.
    pub rope_theta: f64,
    /// Whether the output head is the transposed token embedding.
    pub tie_word_embeddings: bool,
}

/// Activation of the image encoder's MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HiddenAct {
    /// `x * Phi(x)`, exact.
    Gelu,
    /// `x * sigmoid(1.702 x)`: OpenAI's and DFN's checkpoints.
    QuickGelu,
}

/// What the language model sees of a whole image (`V_in`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VisionTokens {
    /// One token, `h3(h1(MeanPool(V)))`: the paper's stage 1.
    Mean,
    /// One token per patch, `h3(h1(V_ij))`.
    Grid,
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

/// Why a `config.json` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON, or a key is missing, unknown or of another type.
    #[error(
        "config.json does not describe an MM-GEM model: {0}\n  hint: compare its keys with those of the embedded model, `mmgem info --config`"
    )]
    Malformed(#[from] serde_json::Error),
    /// The values contradict each other.
    #[error("config.json: {found}, but {wanted}")]
    Inconsistent {
        /// What the file says.
        found: String,
        /// What would be right.
        wanted: String,
    },
}

impl MmGemConfig {
    /// Reads and checks the text of a `config.json`.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let config: Self = serde_json::from_str(text)?;
        config.check()?;
        Ok(config)
    }

    /// The text of a `config.json`, two spaces of indent, keys in the order of the reference.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a plain struct serialises")
    }

    /// Patches per side of the feature map V.
    pub fn grid(&self) -> usize {
        self.vision.image_size / self.vision.patch_size
    }

    /// How a photo becomes the model's input.
    pub fn preprocess(&self) -> ImagePreprocess {
        ImagePreprocess {
            image_size: self.vision.image_size,
            resize_mode: self.resize_mode,
            image_mean: self.image_mean,
            image_std: self.image_std,
        }
    }

    /// Checks that the sizes fit together.
    pub fn check(&self) -> Result<(), ConfigError> {
        let (v, l) = (&self.vision, &self.llm);
        let positive = [
            ("num_caption_prompts", self.num_caption_prompts),
            ("roi_output_size", self.roi_output_size),
            ("roi_sampling_ratio", self.roi_sampling_ratio),
            ("embed_dim", self.embed_dim),
            ("vision.image_size", v.image_size),
            ("vision.patch_size", v.patch_size),
            ("vision.hidden_size", v.hidden_size),
            ("vision.num_attention_heads", v.num_attention_heads),
            ("vision.proj_dim", v.proj_dim),
            ("llm.hidden_size", l.hidden_size),
            ("llm.intermediate_size", l.intermediate_size),
            ("llm.num_attention_heads", l.num_attention_heads),
            ("llm.num_key_value_heads", l.num_key_value_heads),
            ("llm.vocab_size", l.vocab_size),
        ];
        for (name, value) in positive {
            require(value > 0, || (format!("{name} is 0"), "it must be at least 1".into()))?;
        }
        require(self.format == "mm-gem" && self.version == 1, || {
            (
                format!("the format is {:?} version {}", self.format, self.version),
                "this program reads \"mm-gem\" version 1".into(),
            )
        })?;
        let divides = [
            ("vision.patch_size", v.patch_size, "vision.image_size", v.image_size),
            ("vision.num_attention_heads", v.num_attention_heads, "vision.hidden_size", v.hidden_size),
            ("llm.num_attention_heads", l.num_attention_heads, "llm.hidden_size", l.hidden_size),
            (
                "llm.num_key_value_heads",
                l.num_key_value_heads,
                "llm.num_attention_heads",
                l.num_attention_heads,
            ),
        ];
        for (part, part_size, whole, whole_size) in divides {
            require(whole_size.is_multiple_of(part_size), || {
                (format!("{part} is {part_size}"), format!("it must divide {whole}, {whole_size}"))
            })?;
        }
        require((l.hidden_size / l.num_attention_heads).is_multiple_of(2), || {
            (
                format!("the language model's heads are {} wide", l.hidden_size / l.num_attention_heads),
                "rotary positions need an even width".into(),
            )
        })?;
        require(self.max_text_len >= 2, || {
            (format!("max_text_len is {}", self.max_text_len), "it must hold a token and [EMB]".into())
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

fn require(holds: bool, say: impl FnOnce() -> (String, String)) -> Result<(), ConfigError> {
    if holds {
        return Ok(());
    }
    let (found, wanted) = say();
    Err(ConfigError::Inconsistent { found, wanted })
}
