//! The baselines of MM-GEM: open_clip's CLIP and the contrastive part of its CoCa.

use burn::module::{Module, Param};
use burn::nn::{Embedding, EmbeddingConfig};
use burn::tensor::{Bool, Device, Tensor, TensorData, s};

use super::layer_norm::LayerNorm;
use super::linear::Linear;
use super::mmgem::{TokenBatch, normalize};
use super::vit::{Vit, VitBlock, VitBlockConfig};
use crate::config::{HiddenAct, VitConfig};
use crate::kernels::{attend, heads};

/// Sizes of an OpenCLIP checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenClipConfig {
    /// Width of the joint space.
    pub embed_dim: usize,
    /// The image tower.
    pub vision: VitConfig,
    /// CoCa's attentional pooling: its number of heads and of queries. `None` for CLIP.
    pub attentional_pool: Option<(usize, usize)>,
    /// The text tower.
    pub text: ClipTextConfig,
}

/// Sizes of the text tower.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipTextConfig {
    /// Maximum number of tokens, including start and end.
    pub context_length: usize,
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// Model width.
    pub hidden_size: usize,
    /// Heads of a block.
    pub num_attention_heads: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Width of the MLP, as a multiple of `hidden_size`.
    pub mlp_ratio: f64,
    /// Activation of the MLP.
    pub hidden_act: HiddenAct,
    /// Term that keeps LayerNorm from dividing by zero.
    pub layer_norm_eps: f64,
    /// CoCa embeds a text by a learned token after it. CLIP uses the end token.
    pub embed_cls: bool,
}

/// Epsilon of the norms in CoCa's pooling.
const POOLER_EPS: f64 = 1e-5;

/// Both towers. Field names follow the checkpoint, with its text tower moved under `text.`.
#[derive(Module, Debug)]
pub struct OpenClip {
    /// The image tower. In CoCa, `ln_post` and `proj` run after the pooling.
    pub visual: Vit,
    /// CoCa's pooling; `None` for CLIP.
    pub attn_pool: Option<AttentionalPooler>,
    /// The text tower.
    pub text: ClipText,
}

/// open_clip's `TextTransformer`.
#[derive(Module, Debug)]
pub struct ClipText {
    token_embedding: Embedding,
    /// One vector per position, and one for CoCa's token: `[context_length (+ 1), hidden]`.
    positional_embedding: Param<Tensor<2>>,
    /// CoCa's token, `[hidden]`.
    cls_emb: Option<Param<Tensor<1>>>,
    blocks: Vec<VitBlock>,
    ln_final: LayerNorm,
    /// `[hidden, embed_dim]`
    text_projection: Param<Tensor<2>>,
    #[module(skip)]
    n_heads: usize,
}

/// open_clip's `AttentionalPooler`: learned queries attend to all tokens.
#[derive(Module, Debug)]
pub struct AttentionalPooler {
    /// `[n_queries, d]`
    query: Param<Tensor<2>>,
    ln_q: LayerNorm,
    ln_k: LayerNorm,
    /// `[out, in]`, PyTorch's layout, like the other weights here except `out_proj`.
    q_proj_weight: Param<Tensor<2>>,
    k_proj_weight: Param<Tensor<2>>,
    v_proj_weight: Param<Tensor<2>>,
    in_proj_bias: Param<Tensor<1>>,
    out_proj: Linear,
    #[module(skip)]
    n_heads: usize,
}

impl OpenClip {
    /// Builds the modules. A checkpoint sets the values.
    pub fn new(config: &OpenClipConfig, device: &Device) -> Self {
        let (hidden_size, embed_dim) = (config.vision.hidden_size, config.embed_dim);
        let mut visual = Vit::new(&config.vision, device);
        if config.attentional_pool.is_some() {
            visual.ln_post = Some(LayerNorm::new(embed_dim, config.vision.layer_norm_eps, device));
            visual.proj = Some(Param::from_tensor(Tensor::zeros([embed_dim, embed_dim], device)));
        }
        let pooler = |(n_heads, n_queries): (usize, usize)| {
            AttentionalPooler::new(embed_dim, hidden_size, n_heads, n_queries, device)
        };
        Self {
            visual,
            attn_pool: config.attentional_pool.map(pooler),
            text: ClipText::new(&config.text, embed_dim, device),
        }
    }

    /// Unit vectors of images: `[batch, 3, side, side]` → `[batch, embed_dim]`.
    pub fn image_embed(&self, pixels: Tensor<4>) -> Tensor<2> {
        let Some(attn_pool) = &self.attn_pool else {
            return normalize(self.visual.class_features(pixels).expect("a CLIP tower has both"));
        };
        // CoCa uses only the output of the first query as the image embedding.
        let pooled = attn_pool.first(self.visual.all_tokens(pixels)); // [batch, 1, embed_dim]
        let (Some(ln_post), Some(proj)) = (&self.visual.ln_post, &self.visual.proj) else {
            unreachable!("`new` sets both for CoCa")
        };
        normalize(ln_post.forward(pooled).squeeze_dim::<2>(1).matmul(proj.val()))
    }

    /// Unit vectors of texts, whose ids include the start and end tokens: `[batch, embed_dim]`.
    pub fn text_embed(&self, texts: &TokenBatch) -> Tensor<2> {
        normalize(self.text.features(texts))
    }
}

impl ClipText {
    fn new(config: &ClipTextConfig, embed_dim: usize, device: &Device) -> Self {
        let &ClipTextConfig { context_length, vocab_size, hidden_size, .. } = config;
        let block = |_| {
            let sizes = VitBlockConfig {
                hidden_size,
                num_attention_heads: config.num_attention_heads,
                mlp_ratio: config.mlp_ratio,
                hidden_act: config.hidden_act,
                layer_norm_eps: config.layer_norm_eps,
                is_causal: true,
            };
            VitBlock::new(&sizes, device)
        };
        let n_places = context_length + usize::from(config.embed_cls);
        let zeros = |shape: [usize; 2]| Param::from_tensor(Tensor::zeros(shape, device));
        Self {
            token_embedding: EmbeddingConfig::new(vocab_size, hidden_size).init(device),
            positional_embedding: zeros([n_places, hidden_size]),
            cls_emb: config
                .embed_cls
                .then(|| Param::from_tensor(Tensor::zeros([hidden_size], device))),
            blocks: (0..config.num_hidden_layers).map(block).collect(),
            ln_final: LayerNorm::new(hidden_size, config.layer_norm_eps, device),
            text_projection: zeros([hidden_size, embed_dim]),
            n_heads: config.num_attention_heads,
        }
    }

    fn features(&self, texts: &TokenBatch) -> Tensor<2> {
        let pooled = match &self.cls_emb {
            None => self.at_end(texts),
            Some(cls_emb) => self.at_cls(texts, cls_emb.val()),
        };
        self.ln_final.forward(pooled).matmul(self.text_projection.val())
    }

    /// CLIP: the state at the last token of each text. Causality masks all that follows.
    fn at_end(&self, texts: &TokenBatch) -> Tensor<2> {
        let embeds = self.token_embedding.forward(texts.ids.clone());
        let [batch, seq, width] = embeds.dims();
        let mut x = embeds + self.places(0, seq);
        for block in &self.blocks {
            x = block.forward_masked(x, None);
        }
        let mut at_end = vec![0f32; batch * seq];
        for (row, len) in texts.lens.iter().enumerate() {
            at_end[row * seq + len - 1] = 1.0;
        }
        let at_end = Tensor::<3>::from_data(TensorData::new(at_end, [batch, 1, seq]), &x.device());
        at_end.matmul(x).reshape([batch, width])
    }

    /// CoCa: the state of the learned token at the last position.
    ///
    /// The published weights were trained with a mask that is off by one position. In a text with
    /// padding, the learned token sees the first padding token and does not see itself.
    fn at_cls(&self, texts: &TokenBatch, cls_emb: Tensor<1>) -> Tensor<2> {
        let [n_places, width] = self.positional_embedding.val().dims();
        let context_length = n_places - 1;
        let [batch, given] = texts.ids.dims();
        let device = texts.ids.device();
        // The learned token sees at most one padding token.
        let seq = (given + 1).min(context_length);
        let ids = match given < seq {
            true => Tensor::cat(vec![texts.ids.clone(), Tensor::zeros([batch, 1], &device)], 1),
            false => texts.ids.clone(),
        };
        let embeds = self.token_embedding.forward(ids) + self.places(0, seq);
        let cls = cls_emb.reshape([1, 1, width]) + self.places(context_length, n_places);
        // [batch, seq + 1, width]
        let mut x = Tensor::cat(vec![embeds, cls.expand([batch, 1, width])], 1);

        let mut hidden_keys = vec![false; batch * (seq + 1)];
        for (row, &len) in texts.lens.iter().enumerate() {
            let keys = &mut hidden_keys[row * (seq + 1)..][..seq + 1];
            keys.iter_mut().enumerate().for_each(|(key, hidden)| *hidden = key > len);
            keys[seq] = len < context_length;
        }
        let mask = TensorData::new(hidden_keys, [batch, 1, 1, seq + 1]);
        let mask = Tensor::<4, Bool>::from_data(mask, &device).expand([
            batch,
            self.n_heads,
            seq + 1,
            seq + 1,
        ]);
        for block in &self.blocks {
            x = block.forward_masked(x, Some(mask.clone()));
        }
        x.slice(s![.., seq..seq + 1]).reshape([batch, width])
    }

    fn places(&self, start: usize, end: usize) -> Tensor<3> {
        self.positional_embedding.val().slice(s![start..end]).unsqueeze()
    }
}

impl AttentionalPooler {
    fn new(
        d: usize,
        context_dim: usize,
        n_heads: usize,
        n_queries: usize,
        device: &Device,
    ) -> Self {
        let zeros = |shape: [usize; 2]| Param::from_tensor(Tensor::zeros(shape, device));
        Self {
            query: zeros([n_queries, d]),
            ln_q: LayerNorm::new(d, POOLER_EPS, device),
            ln_k: LayerNorm::new(context_dim, POOLER_EPS, device),
            q_proj_weight: zeros([d, d]),
            k_proj_weight: zeros([d, context_dim]),
            v_proj_weight: zeros([d, context_dim]),
            in_proj_bias: Param::from_tensor(Tensor::zeros([3 * d], device)),
            out_proj: Linear::new(d, d, true, device),
            n_heads,
        }
    }

    /// The output of the first query: `[batch, seq, context_dim]` → `[batch, 1, d]`.
    fn first(&self, tokens: Tensor<3>) -> Tensor<3> {
        let [batch, _, _] = tokens.dims();
        let [_, d] = self.query.val().dims();
        let bias = |part: usize| -> Tensor<3> {
            self.in_proj_bias.val().slice(s![part * d..(part + 1) * d]).unsqueeze()
        };
        let project = |x: Tensor<3>, weight: &Param<Tensor<2>>, part| {
            x.matmul(weight.val().transpose().unsqueeze()) + bias(part)
        };
        let tokens = self.ln_k.forward(tokens);
        let query: Tensor<3> = self.ln_q.forward(self.query.val().slice(s![0..1])).unsqueeze();
        let q = heads(project(query, &self.q_proj_weight, 0).expand([batch, 1, d]), self.n_heads);
        let k = heads(project(tokens.clone(), &self.k_proj_weight, 1), self.n_heads);
        let v = heads(project(tokens, &self.v_proj_weight, 2), self.n_heads);
        self.out_proj.forward(attend(q, k, v, false))
    }
}
