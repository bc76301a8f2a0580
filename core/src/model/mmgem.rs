//! MM-GEM (arXiv:2405.19333): one image encoder, and one language model that embeds and captions.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData, s};

use super::{Linear, Llama, PoolAggregator, VisionTower};
use crate::config::{CaptionOrder, MmGemConfig, VisionTokens};
use crate::kernels::{mean_dim, unit_rows, with_helpers};

/// The whole model. Field names are those of `model.safetensors`.
#[derive(Module, Debug)]
pub struct MmGem {
    /// The image encoder.
    pub visual: VisionTower,
    /// The language model.
    pub llm: Llama,
    /// Maps pooled V to V_Emb.
    pub h1: Linear,
    /// Maps the last hidden state at `[EMB]` to W_Emb.
    pub h2: Linear,
    /// Maps V_Emb to V_in.
    pub h3: Linear,
    /// The region head: maps V_Emb to V_Emb of a region. The identity before stage 2.
    pub h4: Linear,
    /// `[EMB]`, `[hidden]`.
    pub emb_token: Param<Tensor<1>>,
    /// `[CAP]`, `[hidden]`.
    pub cap_token: Param<Tensor<1>>,
    /// `[CAP_1..n]`, `[n, hidden]`.
    pub cap_prompts: Param<Tensor<2>>,
    /// Natural log of the inverse temperature, `[1]`.
    pub logit_scale: Param<Tensor<1>>,
    /// Pools patch tokens into images and regions.
    #[module(skip)]
    pub pool: PoolAggregator,
    #[module(skip)]
    caption_order: CaptionOrder,
    #[module(skip)]
    vision_tokens: VisionTokens,
    #[module(skip)]
    logit_scale_max: f64,
}

/// The stage of the paper that decides the prefix of a caption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// V_in of the whole image, with `[CAP]`.
    One,
    /// V_in of a region's r×r tokens, with `[CAP_1..n]`.
    Two,
}

/// Texts as one padded tensor; their lengths stay on the host.
#[derive(Clone, Debug)]
pub struct TokenBatch {
    /// `[batch, seq]`, padded with 0 on the right.
    pub ids: Tensor<2, Int>,
    /// Number of tokens of each text.
    pub lens: Vec<usize>,
}

impl TokenBatch {
    /// Pads all texts to the length of the longest one.
    pub fn new(texts: &[Vec<u32>], device: &Device) -> Self {
        let seq = texts.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let ids: Vec<i32> = texts
            .iter()
            .flat_map(|text| text.iter().map(|id| *id as i32).chain(std::iter::repeat(0)).take(seq))
            .collect();
        Self {
            ids: Tensor::from_data(TensorData::new(ids, [texts.len(), seq]), device),
            lens: texts.iter().map(Vec::len).collect(),
        }
    }
}

impl MmGem {
    /// Builds the modules. A checkpoint or [`crate::init::fresh`] sets the values.
    pub fn new(config: &MmGemConfig, device: &Device) -> Self {
        let (c, l, d) = (config.vision.hidden_size(), &config.llm, config.embed_dim);
        let vector = |n: usize| Param::from_tensor(Tensor::zeros([n], device));
        Self {
            visual: VisionTower::new(&config.vision, device),
            llm: Llama::new(l, device),
            h1: Linear::new(c, d, true, device),
            h2: Linear::new(l.hidden_size, d, true, device),
            h3: Linear::new(d, l.hidden_size, true, device),
            h4: Linear::new(d, d, true, device),
            emb_token: vector(l.hidden_size),
            cap_token: vector(l.hidden_size),
            cap_prompts: Param::from_tensor(Tensor::zeros(
                [config.num_caption_prompts, l.hidden_size],
                device,
            )),
            logit_scale: vector(1),
            pool: PoolAggregator::new(config),
            caption_order: config.caption_order,
            vision_tokens: config.vision_tokens,
            logit_scale_max: config.logit_scale_max,
        }
    }

    /// Calls `act` with every linear layer that may stay packed and its path in the module tree.
    pub(crate) fn for_each_linear(&mut self, act: &mut dyn FnMut(String, &mut Linear)) {
        self.visual.for_each_linear(&mut |path, linear| act(format!("visual.{path}"), linear));
        self.llm.for_each_linear(&mut |path, linear| act(format!("llm.{path}"), linear));
        for (path, linear) in
            [("h1", &mut self.h1), ("h2", &mut self.h2), ("h3", &mut self.h3), ("h4", &mut self.h4)]
        {
            act(path.into(), linear);
        }
    }

    /// V_Emb of whole images before normalisation, `h1(MeanPool(V))` (equation 5).
    ///
    /// # Shapes
    /// - patches: `[batch, n_patches, hidden]`
    /// - returns: `[batch, embed_dim]`
    pub fn image_features(&self, patches: Tensor<3>) -> Tensor<2> {
        self.h1.forward(self.pool.mean_pool(patches))
    }

    /// V_Emb of whole images, as rows of unit length.
    pub fn image_embed(&self, patches: Tensor<3>) -> Tensor<2> {
        normalize(self.image_features(patches))
    }

    /// V_Emb of regions: `h4(h1(RoIAlign(V, R)))` averaged over the bins (equation 7), unit length.
    ///
    /// # Shapes
    /// - roi: `[n_regions, bins, hidden]`
    /// - returns: `[n_regions, embed_dim]`
    pub fn region_embed(&self, roi: Tensor<3>) -> Tensor<2> {
        self.region_mean_embed(mean_dim(roi, 1).squeeze_dim(1))
    }

    /// [`Self::region_embed`] of regions whose bins are already averaged, `[n_regions, hidden]`.
    pub fn region_mean_embed(&self, pooled: Tensor<2>) -> Tensor<2> {
        normalize(self.h4.forward(self.h1.forward(pooled)))
    }

    /// V_Emb of every patch (the paper's figure 3), unit length; stage 2 adds the region head.
    ///
    /// # Shapes
    /// - patches: `[batch, n_patches, hidden]`
    /// - returns: `[batch, n_patches, embed_dim]`
    pub fn patch_embed(&self, patches: Tensor<3>, stage: Stage) -> Tensor<3> {
        let features = self.h1.forward(patches);
        normalize(match stage {
            Stage::One => features,
            Stage::Two => self.h4.forward(features),
        })
    }

    /// The tokens of whole images that stage 1 passes to [`Self::caption_prefix`]: the patches, or
    /// RoIAlign over the whole image.
    ///
    /// `[batch, n_patches, hidden]` → `[batch, n_tokens, hidden]`
    pub fn whole_tokens(&self, patches: Tensor<3>) -> Tensor<3> {
        match self.vision_tokens {
            VisionTokens::Mean | VisionTokens::Grid => patches,
            VisionTokens::Roi => self.pool.roi_whole(patches),
        }
    }

    /// V_in, the visual input of the language model: of whole images, or of regions in stage 2.
    ///
    /// # Shapes
    /// - tokens: [`Self::whole_tokens`], or a RoI map `[n_regions, bins, hidden]`
    /// - returns: `[batch, 1, llm_hidden]`, or one token for each of `tokens`
    pub fn visual_context(&self, tokens: Tensor<3>, stage: Stage) -> Tensor<3> {
        match (stage, self.vision_tokens) {
            (Stage::One, VisionTokens::Mean) => {
                self.h3.forward(self.image_features(tokens)).unsqueeze_dim(1)
            }
            _ => self.h3.forward(self.h1.forward(tokens)),
        }
    }

    /// W_Emb of texts: `text, [EMB]` → LLM → h2 → unit length.
    ///
    /// Returns `[batch, embed_dim]`.
    pub fn text_embed(&self, texts: &TokenBatch) -> Tensor<2> {
        match texts.lens.len() {
            1 => with_helpers(&texts.ids.device(), || self.text_embed_here(texts)),
            _ => self.text_embed_here(texts),
        }
    }

    fn text_embed_here(&self, texts: &TokenBatch) -> Tensor<2> {
        let embeds = self.llm.embed(texts.ids.clone());
        let [batch, seq, width] = embeds.dims();
        let device = embeds.device();

        // 1 at the place of each text's [EMB], right after its last token.
        let mut at_emb = vec![0f32; batch * (seq + 1)];
        for (row, len) in texts.lens.iter().enumerate() {
            at_emb[row * (seq + 1) + len] = 1.0;
        }
        let at_emb = Tensor::<3>::from_data(TensorData::new(at_emb, [batch, seq + 1, 1]), &device)
            .cast(embeds.dtype());
        let tail = Tensor::<3>::zeros([batch, 1, width], &device).cast(embeds.dtype());
        let emb_token = self.emb_token.val().reshape([1, 1, width]);
        let embeds = Tensor::cat(vec![embeds, tail], 1) * (-at_emb.clone() + 1.0)
            + emb_token * at_emb.clone();

        let hidden = self.llm.forward_embeds(embeds); // [batch, seq + 1, hidden]
        let at_last = at_emb.swap_dims(1, 2).matmul(hidden); // [batch, 1, hidden]
        normalize(self.h2.forward(at_last.squeeze_dim::<2>(1)))
    }

    /// The embeddings that the language model reads before a caption: [`Self::visual_context`] of
    /// images or regions, and the stage's prompts.
    ///
    /// # Shapes
    /// - tokens: [`Self::whole_tokens`], or a RoI map `[n_regions, bins, hidden]`
    /// - returns: `[batch, k + prompts, llm_hidden]`
    pub fn caption_prefix(&self, tokens: Tensor<3>, stage: Stage) -> Tensor<3> {
        self.with_prompts(self.visual_context(tokens, stage), stage)
    }

    /// V_in and `[CAP]`, or V_in and `[CAP_1..n]`, in the configured order.
    fn with_prompts(&self, v_in: Tensor<3>, stage: Stage) -> Tensor<3> {
        let [batch, _, width] = v_in.dims();
        let cap = match stage {
            Stage::One => self.cap_token.val().reshape([1, 1, width]),
            Stage::Two => self.cap_prompts.val().unsqueeze::<3>(),
        };
        let [_, n_prompts, _] = cap.dims();
        let cap = cap.expand([batch, n_prompts, width]);
        Tensor::cat(
            match self.caption_order {
                CaptionOrder::ImageFirst => vec![v_in, cap],
                CaptionOrder::CapFirst => vec![cap, v_in],
            },
            1,
        )
    }

    /// Hidden states that predict each token of the texts and the token after the last one.
    ///
    /// # Shapes
    /// - prefix: `[batch, n_prefix, hidden]`
    /// - texts: `[batch, seq]`
    /// - returns: `[batch, seq + 1, hidden]`
    pub fn caption_hidden(&self, prefix: Tensor<3>, texts: &TokenBatch) -> Tensor<3> {
        let [_, n_prefix, _] = prefix.dims();
        let embeds = Tensor::cat(vec![prefix, self.llm.embed(texts.ids.clone())], 1);
        self.llm.forward_embeds(embeds).slice(s![.., n_prefix - 1..])
    }

    /// The log of the inverse temperature that a stored model has, at most `logit_scale_max`
    /// (τ ≥ 0.01 in the presets). A file may hold a larger value.
    ///
    /// Training uses the parameter itself, which [`Self::clamp_logit_scale`] bounds.
    pub fn clamped_logit_scale(&self) -> Tensor<1> {
        self.logit_scale.val().clamp_max(self.logit_scale_max)
    }

    /// Clamps the parameter `logit_scale` to 0..=`logit_scale_max`, as open_clip does after each
    /// step. A clamp in the forward pass would stop its gradient beyond the bound.
    ///
    /// The model must be on an autodiff device.
    pub fn clamp_logit_scale(&mut self) {
        let is_trained = self.logit_scale.is_require_grad();
        let (id, value, mapper) = self.logit_scale.clone().consume();
        let value = Tensor::from_inner(value.inner().clamp(0.0, self.logit_scale_max));
        let value = if is_trained { value.require_grad() } else { value };
        self.logit_scale = Param::from_mapped_value(id, value, mapper);
    }

    /// Upper bound of `logit_scale`.
    pub fn logit_scale_max(&self) -> f64 {
        self.logit_scale_max
    }
}

/// Scales rows to unit length, in f32; a row of zeros stays zero.
pub fn normalize<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    unit_rows(x)
}
