//! The language model: Hugging Face's `LlamaForCausalLM`, with embeddings as its input.

use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, RmsNorm, RmsNormConfig};
use burn::tensor::{Device, Int, Tensor, TensorData, s};

use super::linear::Linear;
use super::segments::segment;
use crate::config::{LlamaConfig, RopeScaling};
use crate::kernels::{attend, heads, linear, rms_norm, rotate, silu_times, with_helpers};

/// Decoder-only transformer with RMSNorm, rotary positions, grouped-query attention and SwiGLU.
#[derive(Module, Debug)]
pub struct Llama {
    embed_tokens: Embedding,
    layers: Vec<LlamaBlock>,
    norm: RmsNorm,
    /// `None` if the head is the transposed token embedding.
    lm_head: Option<Linear>,
    #[module(skip)]
    head_dim: usize,
    #[module(skip)]
    rope_theta: f64,
    #[module(skip)]
    rope_scaling: Option<RopeScaling>,
}

#[derive(Module, Debug)]
struct LlamaBlock {
    input_layernorm: RmsNorm,
    self_attn: LlamaAttention,
    post_attention_layernorm: RmsNorm,
    mlp: LlamaMlp,
}

#[derive(Module, Debug)]
struct LlamaAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    #[module(skip)]
    n_heads: usize,
    #[module(skip)]
    n_kv_heads: usize,
}

#[derive(Module, Debug)]
struct LlamaMlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

/// Keys and values of the tokens so far. The buffers are allocated once for the longest sequence.
#[derive(Debug, Clone)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    rope: Rope,
    len: usize,
}

#[derive(Debug, Clone)]
struct LayerCache {
    /// `[batch, kv_heads, max_len, head_dim]`
    keys: Tensor<4>,
    values: Tensor<4>,
}

/// Cosines and sines of the rotary positions, each `[1, 1, seq, head_dim / 2]`.
#[derive(Debug, Clone)]
struct Rope {
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl Llama {
    /// Builds the modules. A checkpoint or [`crate::init::fresh`] sets the values.
    pub fn new(config: &LlamaConfig, device: &Device) -> Self {
        let linear = |d_in, d_out, has_bias| Linear::new(d_in, d_out, has_bias, device);
        let norm = || {
            RmsNormConfig::new(config.hidden_size).with_epsilon(config.rms_norm_eps).init(device)
        };
        let (width, ffn) = (config.hidden_size, config.intermediate_size);
        let q_width = config.head_dim() * config.num_attention_heads;
        let kv_width = config.head_dim() * config.num_key_value_heads;
        let block = |_| LlamaBlock {
            input_layernorm: norm(),
            self_attn: LlamaAttention {
                q_proj: linear(width, q_width, config.attention_bias),
                k_proj: linear(width, kv_width, config.attention_bias),
                v_proj: linear(width, kv_width, config.attention_bias),
                o_proj: linear(q_width, width, config.attention_bias),
                n_heads: config.num_attention_heads,
                n_kv_heads: config.num_key_value_heads,
            },
            post_attention_layernorm: norm(),
            mlp: LlamaMlp {
                gate_proj: linear(width, ffn, config.mlp_bias),
                up_proj: linear(width, ffn, config.mlp_bias),
                down_proj: linear(ffn, width, config.mlp_bias),
            },
        };
        Self {
            embed_tokens: EmbeddingConfig::new(config.vocab_size, width).init(device),
            layers: (0..config.num_hidden_layers).map(block).collect(),
            norm: norm(),
            lm_head: (!config.tie_word_embeddings).then(|| linear(width, config.vocab_size, false)),
            head_dim: config.head_dim(),
            rope_theta: config.rope_theta,
            rope_scaling: config.rope_scaling,
        }
    }

    /// Embeddings of the tokens: `[batch, seq]` → `[batch, seq, hidden]`.
    pub fn embed(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        self.embed_tokens.forward(ids)
    }

    /// Hidden states of a sequence given as embeddings, after the final norm.
    ///
    /// Each position attends to itself and to earlier ones, so padding on the right changes
    /// nothing.
    ///
    /// # Shapes
    /// - embeds: `[batch, seq, hidden]`
    /// - returns: `[batch, seq, hidden]`
    pub fn forward_embeds(&self, embeds: Tensor<3>) -> Tensor<3> {
        let [_, seq, _] = embeds.dims();
        let rope = self.rope(seq, &embeds.device());
        let mut x = embeds;
        for layer in &self.layers {
            let rope = rope.clone();
            x = segment(layer, x, move |layer, x| {
                let rope = rope.beside(&x);
                layer.forward(x, &rope, None, seq)
            });
        }
        rms_norm(&self.norm, x)
    }

    /// [`Self::forward_embeds`] for tokens that follow those in `cache`; adds them to the cache.
    ///
    /// `embeds` is either the start of the sequence or one token.
    pub fn forward_cached(&self, embeds: Tensor<3>, cache: &mut KvCache) -> Tensor<3> {
        let [_, seq, _] = embeds.dims();
        with_helpers(&embeds.device(), || self.forward_cached_tail(embeds, cache, seq))
    }

    /// The last position of [`Self::forward_cached`], which alone determines the next token.
    ///
    /// The last layer reads keys and values of every position but computes only the last query.
    ///
    /// Returns `[batch, hidden]`.
    pub fn last_cached(&self, embeds: Tensor<3>, cache: &mut KvCache) -> Tensor<2> {
        with_helpers(&embeds.device(), || self.forward_cached_tail(embeds, cache, 1)).squeeze_dim(1)
    }

    /// The last `n_wanted` positions of [`Self::forward_cached`].
    fn forward_cached_tail(
        &self,
        embeds: Tensor<3>,
        cache: &mut KvCache,
        n_wanted: usize,
    ) -> Tensor<3> {
        let [_, seq, _] = embeds.dims();
        assert!(cache.len == 0 || seq == 1, "a cached sequence grows by one token at a time");
        let rope = cache.rope.slice(cache.len, seq);
        let mut x = embeds;
        for (idx, (layer, layer_cache)) in self.layers.iter().zip(&mut cache.layers).enumerate() {
            let n_out = if idx + 1 == self.layers.len() { n_wanted } else { seq };
            x = layer.forward(x, &rope, Some((layer_cache, cache.len)), n_out);
        }
        cache.len += seq;
        rms_norm(&self.norm, tail(x, n_wanted))
    }

    /// Logits of the next token: `[n, hidden]` → `[n, vocab]`.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        match &self.lm_head {
            Some(head) => head.forward(hidden),
            None => linear(hidden, self.embed_tokens.weight.val().transpose(), None),
        }
    }

    /// An empty cache for `batch` sequences of at most `max_len` tokens.
    pub fn new_cache(&self, batch: usize, max_len: usize, device: &Device) -> KvCache {
        let layers = self
            .layers
            .iter()
            .map(|layer| {
                let shape = [batch, layer.self_attn.n_kv_heads, max_len, self.head_dim];
                LayerCache {
                    keys: Tensor::empty(shape, device),
                    values: Tensor::empty(shape, device),
                }
            })
            .collect();
        KvCache { layers, rope: self.rope(max_len, device), len: 0 }
    }

    /// Whether the output head is the transposed token embedding.
    pub fn has_tied_head(&self) -> bool {
        self.lm_head.is_none()
    }

    /// Calls `act` with every linear layer and its path from here.
    pub(super) fn for_each_linear(&mut self, act: &mut dyn FnMut(String, &mut Linear)) {
        for (idx, layer) in self.layers.iter_mut().enumerate() {
            let (attn, mlp) = (&mut layer.self_attn, &mut layer.mlp);
            act(format!("layers.{idx}.self_attn.q_proj"), &mut attn.q_proj);
            act(format!("layers.{idx}.self_attn.k_proj"), &mut attn.k_proj);
            act(format!("layers.{idx}.self_attn.v_proj"), &mut attn.v_proj);
            act(format!("layers.{idx}.self_attn.o_proj"), &mut attn.o_proj);
            act(format!("layers.{idx}.mlp.gate_proj"), &mut mlp.gate_proj);
            act(format!("layers.{idx}.mlp.up_proj"), &mut mlp.up_proj);
            act(format!("layers.{idx}.mlp.down_proj"), &mut mlp.down_proj);
        }
        if let Some(head) = &mut self.lm_head {
            act("lm_head".into(), head);
        }
    }

    fn rope(&self, seq: usize, device: &Device) -> Rope {
        Rope::new(&frequencies(self.head_dim, self.rope_theta, self.rope_scaling), seq, device)
    }
}

/// Angle in radians by which each pair of a head turns per position: `theta^(-2 i / head_dim)`,
/// scaled as the config says.
fn frequencies(head_dim: usize, theta: f64, scaling: Option<RopeScaling>) -> Vec<f64> {
    let plain = (0..head_dim / 2).map(|i| theta.powf(-2.0 * i as f64 / head_dim as f64));
    plain.map(|frequency| scaling.map_or(frequency, |scaling| scaled(frequency, scaling))).collect()
}

fn scaled(frequency: f64, scaling: RopeScaling) -> f64 {
    match scaling {
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let n_waves =
                original_max_position_embeddings as f64 * frequency / std::f64::consts::TAU;
            // 0 for slow waves, 1 for fast ones.
            let kept = (n_waves - low_freq_factor) / (high_freq_factor - low_freq_factor);
            let kept = kept.clamp(0.0, 1.0);
            frequency * (kept + (1.0 - kept) / factor)
        }
    }
}

impl KvCache {
    /// Tokens in the cache.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the cache holds no tokens.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reorders the cache for beam search: new row `i` is the old row `rows[i]`.
    pub fn select(self, rows: Tensor<1, Int>) -> Self {
        let layers = self
            .layers
            .into_iter()
            .map(|layer| LayerCache {
                keys: layer.keys.select(0, rows.clone()),
                values: layer.values.select(0, rows.clone()),
            })
            .collect();
        Self { layers, ..self }
    }
}

impl LayerCache {
    /// Writes keys and values at `start` and returns all of them up to the new end.
    fn append(
        &mut self,
        keys: Tensor<4>,
        values: Tensor<4>,
        start: usize,
    ) -> (Tensor<4>, Tensor<4>) {
        let [_, _, seq, _] = keys.dims();
        let end = start + seq;
        let put = |buffer: &mut Tensor<4>, new: Tensor<4>| {
            // Taken out so that the buffer has one owner and is written in place.
            let taken = std::mem::replace(buffer, Tensor::empty([1, 1, 1, 1], &new.device()));
            *buffer = taken.slice_assign(s![.., .., start..end, ..], new);
            buffer.clone().slice(s![.., .., 0..end, ..])
        };
        (put(&mut self.keys, keys), put(&mut self.values, values))
    }
}

/// The last `n` positions of a sequence.
fn tail(x: Tensor<3>, n: usize) -> Tensor<3> {
    let [_, seq, _] = x.dims();
    if n == seq { x } else { x.slice(s![.., seq - n..seq]) }
}

impl LlamaBlock {
    /// The block's output at the last `n_out` positions of `x`; attention reads all of `x`.
    fn forward(
        &self,
        x: Tensor<3>,
        rope: &Rope,
        cache: Option<(&mut LayerCache, usize)>,
        n_out: usize,
    ) -> Tensor<3> {
        let residual = tail(x.clone(), n_out);
        let x =
            self.self_attn.forward_onto(residual, rms_norm(&self.input_layernorm, x), rope, cache);
        self.mlp.forward_onto(x.clone(), rms_norm(&self.post_attention_layernorm, x))
    }
}

impl LlamaAttention {
    /// Adds the attention of the last positions of `x` to `residual`, which sets their number.
    fn forward_onto(
        &self,
        residual: Tensor<3>,
        x: Tensor<3>,
        rope: &Rope,
        cache: Option<(&mut LayerCache, usize)>,
    ) -> Tensor<3> {
        let ([_, seq, _], [_, n_out, _]) = (x.dims(), residual.dims());
        let q = self.q_proj.forward(tail(x.clone(), n_out));
        let q = rope.slice(seq - n_out, n_out).rotate(q, self.n_heads);
        let k = rope.rotate(self.k_proj.forward(x.clone()), self.n_kv_heads);
        let v = heads(self.v_proj.forward(x), self.n_kv_heads);
        let (k, v) = match cache {
            Some((cache, start)) => cache.append(k, v, start),
            None => (k, v),
        };
        self.o_proj.forward_onto(residual, attend(q, k, v, true))
    }
}

impl LlamaMlp {
    /// Adds the MLP of `x` to `residual`.
    fn forward_onto(&self, residual: Tensor<3>, x: Tensor<3>) -> Tensor<3> {
        let x = silu_times(self.gate_proj.forward(x.clone()), self.up_proj.forward(x));
        self.down_proj.forward_onto(residual, x)
    }
}

impl Rope {
    fn new(frequencies: &[f64], seq: usize, device: &Device) -> Self {
        let angles =
            (0..seq).flat_map(|position| frequencies.iter().map(move |f| position as f64 * f));
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f32> = angles.clone().map(|angle| f(angle) as f32).collect();
            Tensor::from_data(TensorData::new(values, [1, 1, seq, frequencies.len()]), device)
        };
        Self { cos: table(f64::cos), sin: table(f64::sin) }
    }

    fn slice(&self, start: usize, len: usize) -> Self {
        let part = |table: &Tensor<4>| table.clone().slice(s![.., .., start..start + len]);
        Self { cos: part(&self.cos), sin: part(&self.sin) }
    }

    /// The tables on the device of `x`: without autodiff if `x` has none.
    fn beside(&self, x: &Tensor<3>) -> Self {
        if x.device().is_autodiff() {
            return self.clone();
        }
        Self { cos: self.cos.clone().inner(), sin: self.sin.clone().inner() }
    }

    fn rotate(&self, x: Tensor<3>, n_heads: usize) -> Tensor<4> {
        rotate(x, self.cos.clone(), self.sin.clone(), n_heads)
    }
}
