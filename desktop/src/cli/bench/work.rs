//! The work that is measured, each with a result that is read back.

use burn::tensor::{Device, Tensor, TensorData, s};
use mmgem_core::config::MmGemConfig;
use mmgem_core::generate::greedy;
use mmgem_core::model::mmgem::TokenBatch;
use mmgem_core::model::pool_aggregator::Region;
use mmgem_core::model::{MmGem, PoolAggregator, Stage};
use mmgem_core::trace::stage_1_losses;

use super::median_secs;

/// Tokens of every text that is measured.
const TEXT_LEN: usize = 12;

/// A model and what is asked of it.
pub struct Bench<'a> {
    model: MmGem,
    config: &'a MmGemConfig,
    pool: PoolAggregator,
    device: Device,
    repeat: usize,
}

impl<'a> Bench<'a> {
    /// Takes the median of `repeat` runs of each work.
    pub fn new(model: MmGem, config: &'a MmGemConfig, repeat: usize) -> Self {
        let device = model.logit_scale.val().device();
        Self { model, config, pool: PoolAggregator::new(config), device, repeat }
    }

    /// Pixels to unit vectors.
    pub fn images_per_sec(&self, batch: usize) -> f64 {
        let pixels = self.pixels(batch);
        let secs = median_secs(self.repeat, || {
            let patches = self.model.visual.forward(pixels.clone());
            let _ = self.model.image_embed(&self.pool, patches).into_data();
        });
        batch as f64 / secs
    }

    /// Token ids to unit vectors.
    pub fn texts_per_sec(&self) -> f64 {
        let texts = TokenBatch::new(&self.texts(1), &self.device);
        1.0 / median_secs(self.repeat, || {
            let _ = self.model.text_embed(&texts).into_data();
        })
    }

    /// The prefix of a region, RoI tokens and prompts, up to the scores of the first token.
    pub fn prefill_tokens_per_sec(&self) -> f64 {
        let prefix = self.region_prefix(&self.patches(), 0);
        let [_, n_prefix, hidden_size] = prefix.dims();
        let llm = &self.model.llm;
        let secs = median_secs(self.repeat, || {
            let mut cache = llm.new_cache(1, n_prefix, &self.device);
            let hidden = llm.forward_cached(prefix.clone(), &mut cache);
            let last = hidden.slice(s![.., n_prefix - 1..]).reshape([1, hidden_size]);
            let _ = llm.logits(last).into_data();
        });
        n_prefix as f64 / secs
    }

    /// Greedy tokens of one caption of a whole photo.
    pub fn caption_tokens_per_sec(&self, tokens: usize) -> f64 {
        let v_in = self.model.visual_context(&self.pool, self.patches(), Stage::One);
        let prefix = self.model.caption_prefix(v_in, Stage::One);
        let secs = median_secs(self.repeat, || self.decode(prefix.clone(), tokens));
        tokens as f64 / secs
    }

    /// Another box each time: its RoI, its prefix, its tokens.
    pub fn region_captions_per_sec(&self, tokens: usize) -> f64 {
        let patches = self.patches();
        let mut n_done = 0;
        1.0 / median_secs(self.repeat, || {
            self.decode(self.region_prefix(&patches, n_done), tokens);
            n_done += 1;
        })
    }

    /// Forward and backward of both losses of stage 1; the model must be on an autodiff device.
    pub fn training_samples_per_sec(&self, batch: usize) -> f64 {
        let (images, texts) = (self.pixels(batch), self.texts(batch));
        let secs = median_secs(self.repeat, || {
            let total = stage_1_losses(&self.model, self.config, images.clone(), &texts).total();
            let gradients = total.backward();
            let _ = self.model.logit_scale.val().grad(&gradients).map(Tensor::into_data);
        });
        batch as f64 / secs
    }

    fn decode(&self, prefix: Tensor<3>, tokens: usize) {
        let _ = pollster::block_on(greedy(&self.model.llm, prefix, None, tokens));
    }

    fn patches(&self) -> Tensor<3> {
        self.model.visual.forward(self.pixels(1))
    }

    fn region_prefix(&self, patches: &Tensor<3>, n_done: usize) -> Tensor<3> {
        let side = self.config.vision.image_size as f32;
        let shift = (n_done % 8) as f32 / 16.0;
        let region =
            Region { box_input: [shift, shift, shift + 0.5, shift + 0.5].map(|x| x * side), mask: None };
        let roi = self.pool.roi_align(patches.clone(), &[(0, region)]);
        let v_in = self.model.visual_context(&self.pool, roi, Stage::Two);
        self.model.caption_prefix(v_in, Stage::Two)
    }

    fn pixels(&self, batch: usize) -> Tensor<4> {
        let side = self.config.vision.image_size;
        let values: Vec<f32> =
            (0..batch * 3 * side * side).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
        Tensor::from_data(TensorData::new(values, [batch, 3, side, side]), &self.device)
    }

    fn texts(&self, n: usize) -> Vec<Vec<u32>> {
        let id = |text: usize, at: usize| ((text * 131 + at * 17 + 3) % self.config.llm.vocab_size) as u32;
        (0..n).map(|text| (0..TEXT_LEN).map(|at| id(text, at)).collect()).collect()
    }
}
