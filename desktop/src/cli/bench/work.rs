//! The measured work. Each item reads its result back.

use anyhow::Result;
use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData, s};
use mmgem_core::config::MmGemConfig;
use mmgem_core::generate::greedy;
use mmgem_core::model::mmgem::TokenBatch;
use mmgem_core::model::pool_aggregator::Region;
use mmgem_core::model::{MmGem, Stage};
use mmgem_core::readback::read_floats;
use mmgem_train::trace::losses_of_patches;

use super::counts::Counts;
use super::median_secs;

/// Lengths of two captions; their difference gives the cost of a token. Both are multiples of the
/// number of tokens that are read back at once.
const SHORT: usize = 8;
const LONG: usize = 24;

/// Tokens of every measured text.
pub const TEXT_LEN: usize = 12;

/// A model and the settings of the measurement.
pub struct Bench<'a> {
    model: MmGem,
    config: &'a MmGemConfig,
    device: Device,
    repeat: usize,
}

impl<'a> Bench<'a> {
    /// Each rate is the median of `repeat` runs.
    pub fn new(model: MmGem, config: &'a MmGemConfig, repeat: usize) -> Self {
        let device = model.logit_scale.val().device();
        Self { model, config, device, repeat }
    }

    /// Images per second, from pixels to unit vectors.
    pub fn images_per_sec(&self, batch: usize) -> f64 {
        let pixels = self.pixels(batch);
        batch as f64 / median_secs(self.repeat, || self.embed_images(pixels.clone()))
    }

    /// Texts per second, from token ids to unit vectors.
    pub fn texts_per_sec(&self) -> f64 {
        let texts = TokenBatch::new(&self.texts(1), &self.device);
        1.0 / median_secs(self.repeat, || self.embed_texts(&texts))
    }

    /// Prefix tokens per second: the RoI tokens and prompts of a region, up to the logits of the
    /// first token.
    pub fn prefill_tokens_per_sec(&self) -> f64 {
        let prefix = self.region_prefix(&self.patches(), 0);
        let [_, n_prefix, _] = prefix.dims();
        n_prefix as f64 / median_secs(self.repeat, || self.prefill(prefix.clone()))
    }

    /// Tokens per second of a prompt of `n` tokens, up to the logits of the next token.
    pub fn prompt_tokens_per_sec(&self, n: usize) -> f64 {
        let ids: Vec<i32> =
            (0..n).map(|at| (at * 17 % self.config.llm.vocab_size) as i32).collect();
        let ids = Tensor::from_data(TensorData::new(ids, [1, n]), &self.device);
        let prefix = self.model.llm.embed(ids);
        n as f64 / median_secs(self.repeat, || self.prefill(prefix.clone()))
    }

    /// Tokens per second of a greedy caption of a whole photo.
    pub fn caption_tokens_per_sec(&self, tokens: usize) -> f64 {
        let prefix = self.image_prefix();
        let secs = median_secs(self.repeat, || self.decode(prefix.clone(), tokens));
        tokens as f64 / secs
    }

    /// Region captions per second. Each run uses another box and includes RoIAlign, prefix and
    /// tokens.
    pub fn region_captions_per_sec(&self, tokens: usize) -> f64 {
        let patches = self.patches();
        let mut n_done = 0;
        1.0 / median_secs(self.repeat, || {
            self.decode(self.region_prefix(&patches, n_done), tokens);
            n_done += 1;
        })
    }

    /// Samples per second of the forward and backward pass of both losses of stage 1. The model
    /// must be on an autodiff device.
    pub fn training_samples_per_sec(&self, batch: usize) -> f64 {
        let images = self.pixels(batch);
        self.steps_per_sec(batch, || self.model.visual.forward(images.clone()))
    }

    /// [`Self::training_samples_per_sec`] of images whose patch tokens are in the cache, because
    /// the encoder is frozen.
    pub fn cached_training_samples_per_sec(&self, batch: usize) -> f64 {
        let patches = self.model.visual.valid().forward(self.pixels(batch).inner());
        let patches = Tensor::from_inner(patches);
        self.steps_per_sec(batch, || patches.clone())
    }

    fn steps_per_sec(&self, batch: usize, patches: impl Fn() -> Tensor<3>) -> f64 {
        let texts = self.texts(batch);
        let secs = median_secs(self.repeat, || {
            let gradients =
                losses_of_patches(&self.model, self.config, patches(), &texts).total().backward();
            if let Some(gradient) = self.model.logit_scale.val().grad(&gradients) {
                wait_for(gradient);
            }
        });
        batch as f64 / secs
    }

    /// The wgpu operations of each part of the work.
    pub fn counts(&self) -> Result<Vec<(&'static str, Counts)>> {
        let (pixels, texts) = (self.pixels(1), TokenBatch::new(&self.texts(1), &self.device));
        let (whole, region) = (self.image_prefix(), self.region_prefix(&self.patches(), 0));
        let short = Counts::of(|| self.decode(whole.clone(), SHORT))?;
        let long = Counts::of(|| self.decode(whole.clone(), LONG))?;
        Ok(vec![
            ("image", Counts::of(|| self.embed_images(pixels.clone()))?),
            ("text", Counts::of(|| self.embed_texts(&texts))?),
            ("prompt", Counts::of(|| self.prefill(region.clone()))?),
            ("token", long.beyond(&short, (LONG - SHORT) as f64)),
        ])
    }

    fn embed_images(&self, pixels: Tensor<4>) {
        let patches = self.model.visual.forward(pixels);
        wait_for(self.model.image_embed(patches));
    }

    fn embed_texts(&self, texts: &TokenBatch) {
        wait_for(self.model.text_embed(texts));
    }

    /// Runs a prefix through the language model, up to the logits of the next token.
    fn prefill(&self, prefix: Tensor<3>) {
        let [_, n_prefix, hidden_size] = prefix.dims();
        let llm = &self.model.llm;
        let mut cache = llm.new_cache(1, n_prefix, &self.device);
        let hidden = llm.forward_cached(prefix, &mut cache);
        let last = hidden.slice(s![.., n_prefix - 1..]).reshape([1, hidden_size]);
        wait_for(llm.logits(last));
    }

    fn decode(&self, prefix: Tensor<3>, tokens: usize) {
        let _ = pollster::block_on(greedy(&self.model.llm, prefix, None, tokens));
    }

    fn patches(&self) -> Tensor<3> {
        self.model.visual.forward(self.pixels(1))
    }

    fn image_prefix(&self) -> Tensor<3> {
        self.model.caption_prefix(self.model.whole_tokens(self.patches()), Stage::One)
    }

    fn region_prefix(&self, patches: &Tensor<3>, n_done: usize) -> Tensor<3> {
        let side = self.config.vision.image_size() as f32;
        let shift = (n_done % 8) as f32 / 16.0;
        let region = Region {
            box_input: [shift, shift, shift + 0.5, shift + 0.5].map(|x| x * side),
            mask: None,
        };
        let roi = self.model.pool.roi_align(patches.clone(), &[(0, region)]);
        self.model.caption_prefix(roi, Stage::Two)
    }

    fn pixels(&self, batch: usize) -> Tensor<4> {
        let side = self.config.vision.image_size();
        let values: Vec<f32> = (0..batch * 3 * side * side)
            .map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0)
            .collect();
        Tensor::from_data(TensorData::new(values, [batch, 3, side, side]), &self.device)
    }

    fn texts(&self, n: usize) -> Vec<Vec<u32>> {
        let id = |text: usize, at: usize| {
            ((text * 131 + at * 17 + 3) % self.config.llm.vocab_size) as u32
        };
        (0..n).map(|text| (0..TEXT_LEN).map(|at| id(text, at)).collect()).collect()
    }
}

/// Reads a result back, so that the device has computed it. On GPUs `into_data` alone defers this.
fn wait_for<const D: usize>(result: Tensor<D>) {
    let _ = pollster::block_on(read_floats(result));
}
