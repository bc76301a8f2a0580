//! An OpenCLIP checkpoint as a baseline for MM-GEM: both towers, its tokenizer and preprocessing.

mod config;
#[cfg(test)]
mod reference_tests;
mod tokenizer;

use burn::tensor::{Device, Tensor, TensorData};
use mmgem_core::checkpoint::{CheckpointError, Shards, load, names::open_clip_name};
use mmgem_core::image::{ImagePreprocess, Preprocessed};
use mmgem_core::model::mmgem::TokenBatch;
use mmgem_core::model::open_clip::OpenClip as Towers;
use mmgem_core::readback::{DeviceFailed, read_floats};

pub use config::{OpenClipFile, read_config};
pub use tokenizer::ClipTokenizer;

/// An opened checkpoint.
#[derive(Debug)]
pub struct OpenClip {
    towers: Towers,
    tokenizer: ClipTokenizer,
    preprocess: ImagePreprocess,
    embed_dim: usize,
    device: Device,
}

/// Errors of an OpenCLIP checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum OpenClipError {
    /// The weights cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The configuration is invalid or unsupported.
    #[error("open_clip_config.json: {0}")]
    Config(String),
    /// The tokenizer cannot be used.
    #[error("the tokenizer cannot be used: {0}")]
    Tokenizer(String),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceFailed),
}

impl OpenClip {
    /// Opens a checkpoint from the bytes of its files. Without `config_json`, takes the sizes from
    /// the weights.
    ///
    /// `tokenizer` is the text of Hugging Face's `tokenizer.json`, or of OpenAI's list of merges.
    ///
    /// # Errors
    /// If the model is not an OpenCLIP ViT with its own text tower, or the files do not belong
    /// together.
    pub fn open(
        shards: Shards,
        config_json: Option<&str>,
        tokenizer: &str,
        device: &Device,
    ) -> Result<Self, OpenClipError> {
        let (file, shards) = read_config(shards.rename(open_clip_name), config_json)?;
        let OpenClipFile { config, preprocess } = file;
        let tokenizer = ClipTokenizer::new(tokenizer, config.text.context_length)?;
        if tokenizer.n_tokens() > config.text.vocab_size {
            return Err(OpenClipError::Tokenizer(format!(
                "it has {} tokens but the model {}: is it another model's?",
                tokenizer.n_tokens(),
                config.text.vocab_size
            )));
        }
        let towers = load(Towers::new(&config, device), &shards)?;
        Ok(Self {
            towers,
            tokenizer,
            preprocess,
            embed_dim: config.embed_dim,
            device: device.clone(),
        })
    }

    /// The preprocessing from a photo to the model's input.
    pub fn preprocess(&self) -> &ImagePreprocess {
        &self.preprocess
    }

    /// Width of the joint space.
    pub fn embed_dim(&self) -> usize {
        self.embed_dim
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &ClipTokenizer {
        &self.tokenizer
    }

    /// Unit vectors of photos, concatenated.
    ///
    /// # Errors
    /// If the device fails.
    pub async fn embed_photos(&self, photos: &[Preprocessed]) -> Result<Vec<f32>, OpenClipError> {
        let side = self.preprocess.image_size;
        let pixels: Vec<f32> =
            photos.iter().flat_map(|photo| photo.pixels.iter().copied()).collect();
        let pixels = TensorData::new(pixels, [photos.len(), 3, side, side]);
        Ok(read_floats(self.towers.image_embed(Tensor::from_data(pixels, &self.device))).await?)
    }

    /// Unit vectors of texts, concatenated.
    ///
    /// # Errors
    /// If a text cannot be encoded, or the device fails.
    pub async fn embed_texts(&self, texts: &[&str]) -> Result<Vec<f32>, OpenClipError> {
        let ids =
            texts.iter().map(|text| self.tokenizer.tokens(text)).collect::<Result<Vec<_>, _>>()?;
        Ok(read_floats(self.towers.text_embed(&TokenBatch::new(&ids, &self.device))).await?)
    }
}
