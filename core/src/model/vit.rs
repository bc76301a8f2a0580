//! The image encoder: open_clip's `VisionTransformer`, up to the patch tokens after `ln_post`.

use burn::module::{Module, Param};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData, s};

use super::layer_norm::LayerNorm;
use super::linear::Linear;
use super::segments::segment;
use crate::config::{HiddenAct, VitConfig};
use crate::kernels::{
    attend_masked, attend_packed, gelu, gelu_tanh, linear, quick_gelu, unpack, with_helpers,
};

/// Vision transformer with learned positions.
///
/// The config decides whether it has a class token, norms around the blocks, and OpenCLIP's
/// projection.
#[derive(Module, Debug)]
pub struct Vit {
    /// Patch embedding, a convolution with stride equal to its size, without bias:
    /// `[hidden, 3, patch, patch]`.
    pub conv1: Param<Tensor<4>>,
    /// Token before the patches: `[hidden]`.
    pub class_embedding: Option<Param<Tensor<1>>>,
    /// One vector for the class token and one per patch: `[(1 +) n_patches, hidden]`.
    pub positional_embedding: Param<Tensor<2>>,
    /// Norm before the blocks.
    pub ln_pre: Option<LayerNorm>,
    /// The transformer.
    pub blocks: Vec<VitBlock>,
    /// Norm after the blocks.
    pub ln_post: Option<LayerNorm>,
    /// OpenCLIP's own projection of the class token, `[hidden, proj_dim]`.
    pub proj: Option<Param<Tensor<2>>>,
}

/// Pre-norm transformer block.
#[derive(Module, Debug)]
pub struct VitBlock {
    ln_1: LayerNorm,
    attn: VitAttention,
    ln_2: LayerNorm,
    mlp: VitMlp,
}

#[derive(Module, Debug)]
struct VitAttention {
    in_proj: Linear,
    out_proj: Linear,
    #[module(skip)]
    n_heads: usize,
    #[module(skip)]
    is_causal: bool,
}

#[derive(Module, Debug)]
struct VitMlp {
    c_fc: Linear,
    c_proj: Linear,
    #[module(skip)]
    hidden_act: HiddenAct,
}

impl Vit {
    /// Builds the modules. A checkpoint or [`crate::init::fresh`] sets the values.
    pub fn new(config: &VitConfig, device: &Device) -> Self {
        let (width, patch) = (config.hidden_size, config.patch_size);
        let norm = || LayerNorm::new(width, config.layer_norm_eps, device);
        let block = |_| {
            let sizes = VitBlockConfig {
                hidden_size: width,
                num_attention_heads: config.num_attention_heads,
                mlp_ratio: config.mlp_ratio,
                hidden_act: config.hidden_act,
                layer_norm_eps: config.layer_norm_eps,
                is_causal: false,
            };
            VitBlock::new(&sizes, device)
        };
        Self {
            conv1: Param::from_tensor(Tensor::zeros([width, 3, patch, patch], device)),
            class_embedding: config
                .class_token
                .then(|| Param::from_tensor(Tensor::zeros([width], device))),
            positional_embedding: Param::from_tensor(Tensor::zeros(
                [config.n_positions(), width],
                device,
            )),
            ln_pre: config.ln_pre.then(norm),
            blocks: (0..config.num_hidden_layers).map(block).collect(),
            ln_post: config.ln_post.then(norm),
            proj: config.proj_dim.map(|d| Param::from_tensor(Tensor::zeros([width, d], device))),
        }
    }

    /// Patch tokens V after `ln_post`, without the class token.
    ///
    /// # Shapes
    /// - pixels: `[batch, 3, side, side]`, standardised
    /// - returns: `[batch, n_patches, hidden]`, patches row by row
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<3> {
        let forward = |pixels| self.patch_tokens(self.embed_patches(pixels, None));
        match pixels.dims() {
            [1, ..] => with_helpers(&pixels.device(), || forward(pixels)),
            _ => forward(pixels),
        }
    }

    /// V of some patches of each image. They attend only to the class token and to each other
    /// (FLIP, arXiv:2212.00794).
    ///
    /// # Shapes
    /// - pixels: `[batch, 3, side, side]`, standardised
    /// - kept: the patches of each image to use, the same number for each
    /// - returns: `[batch, n_kept, hidden]`, in the order of `kept`
    pub fn forward_kept(&self, pixels: Tensor<4>, kept: &[Vec<u32>]) -> Tensor<3> {
        self.patch_tokens(self.embed_patches(pixels, Some(kept)))
    }

    /// Runs the blocks and `ln_post` on embedded patches.
    ///
    /// `[batch, (1 +) n, hidden]` → `[batch, n, hidden]`
    pub fn patch_tokens(&self, embedded: Tensor<3>) -> Tensor<3> {
        let n_before = self.n_prefix_tokens();
        // Checkpointed as a block of its own, so that all users of the patches start at its output.
        segment(&self.ln_post, self.run_blocks(embedded), move |norm, x| {
            let patches = if n_before == 0 { x } else { x.slice(s![.., n_before..]) };
            match norm {
                Some(norm) => norm.forward(patches),
                None => patches,
            }
        })
    }

    fn n_prefix_tokens(&self) -> usize {
        usize::from(self.class_embedding.is_some())
    }

    /// OpenCLIP's own image embedding, not normalised: `proj` on the class token.
    ///
    /// `None` if the encoder has no class token or no projection.
    ///
    /// # Shapes
    /// - pixels: `[batch, 3, side, side]`
    /// - returns: `[batch, proj_dim]`
    pub fn class_features(&self, pixels: Tensor<4>) -> Option<Tensor<2>> {
        let (Some(_), Some(norm), Some(proj)) = (&self.class_embedding, &self.ln_post, &self.proj)
        else {
            return None;
        };
        let class = norm.forward(self.all_tokens(pixels).slice(s![.., 0..1]));
        Some(class.squeeze_dim::<2>(1).matmul(proj.val()))
    }

    /// All tokens after the blocks, before `ln_post`: `[batch, (1 +) n_patches, hidden]`.
    pub fn all_tokens(&self, pixels: Tensor<4>) -> Tensor<3> {
        self.run_blocks(self.embed_patches(pixels, None))
    }

    fn run_blocks(&self, embedded: Tensor<3>) -> Tensor<3> {
        let mut x = match &self.ln_pre {
            Some(norm) => norm.forward(embedded),
            None => embedded,
        };
        for block in &self.blocks {
            x = segment(block, x, VitBlock::forward);
        }
        x
    }

    /// Class token and patches with their positions: `[batch, (1 +) n_kept, hidden]`.
    ///
    /// `kept` limits the patches to those of each image that it lists.
    pub fn embed_patches(&self, pixels: Tensor<4>, kept: Option<&[Vec<u32>]>) -> Tensor<3> {
        let [width, channels, patch, _] = self.conv1.val().dims();
        let [batch, _, height, _] = pixels.dims();
        let (grid, device) = (height / patch, pixels.device());
        let (n_patches, n_before) = (grid * grid, self.n_prefix_tokens());

        // The stride equals the kernel's size, so the convolution is one matrix product.
        let weight = self.conv1.val().reshape([width, channels * patch * patch]).transpose();
        let pixels = pixels
            .cast(weight.dtype())
            .reshape([batch, channels, grid, patch, grid, patch])
            .permute([0, 2, 4, 1, 3, 5])
            .reshape([batch * n_patches, channels * patch * patch]);
        let positions = self.positional_embedding.val();
        let Some(kept) = kept else {
            let patches = linear(pixels, weight, None).reshape([batch, n_patches, width]);
            return self.behind_class(patches) + positions.unsqueeze::<3>();
        };
        let n_kept = kept.first().map_or(0, Vec::len);
        let rows = |first: &dyn Fn(usize) -> usize| {
            let all = kept.iter().enumerate();
            let idx =
                all.flat_map(|(image, kept)| kept.iter().map(move |at| (image, *at as usize)));
            let idx: Vec<i32> = idx.map(|(image, at)| (first(image) + at) as i32).collect();
            Tensor::<1, Int>::from_data(TensorData::new(idx, [batch * n_kept]), &device)
        };
        let pixels = pixels.select(0, rows(&|image| image * n_patches));
        let patches =
            linear(pixels, weight, None) + positions.clone().select(0, rows(&|_| n_before));
        let patches = patches.reshape([batch, n_kept, width]);
        let Some(class) = &self.class_embedding else { return patches };
        let class = class.val().reshape([1, 1, width]) + positions.slice(s![0..1]).unsqueeze::<3>();
        Tensor::cat(vec![class.expand([batch, 1, width]), patches], 1)
    }

    /// Puts the class token, if the encoder has one, before the patches.
    fn behind_class(&self, patches: Tensor<3>) -> Tensor<3> {
        let [batch, _, width] = patches.dims();
        match &self.class_embedding {
            Some(class) => {
                let class = class.val().reshape([1, 1, width]).expand([batch, 1, width]);
                Tensor::cat(vec![class, patches], 1)
            }
            None => patches,
        }
    }
}

impl Vit {
    /// Calls `act` with every linear layer and its path from here.
    pub(super) fn for_each_linear(&mut self, act: &mut dyn FnMut(String, &mut Linear)) {
        for (idx, block) in self.blocks.iter_mut().enumerate() {
            act(format!("blocks.{idx}.attn.in_proj"), &mut block.attn.in_proj);
            act(format!("blocks.{idx}.attn.out_proj"), &mut block.attn.out_proj);
            act(format!("blocks.{idx}.mlp.c_fc"), &mut block.mlp.c_fc);
            act(format!("blocks.{idx}.mlp.c_proj"), &mut block.mlp.c_proj);
        }
    }
}

/// Sizes of a transformer block.
#[derive(Clone, Copy, Debug)]
pub(super) struct VitBlockConfig {
    pub hidden_size: usize,
    pub num_attention_heads: usize,
    pub mlp_ratio: f64,
    pub hidden_act: HiddenAct,
    pub layer_norm_eps: f64,
    /// Whether tokens attend only to earlier ones, as in open_clip's text tower.
    pub is_causal: bool,
}

impl VitBlock {
    /// A block of open_clip's image or text tower.
    pub(super) fn new(config: &VitBlockConfig, device: &Device) -> Self {
        let width = config.hidden_size;
        let mlp_width = (width as f64 * config.mlp_ratio) as usize;
        Self {
            ln_1: LayerNorm::new(width, config.layer_norm_eps, device),
            attn: VitAttention {
                in_proj: Linear::new(width, 3 * width, true, device),
                out_proj: Linear::new(width, width, true, device),
                n_heads: config.num_attention_heads,
                is_causal: config.is_causal,
            },
            ln_2: LayerNorm::new(width, config.layer_norm_eps, device),
            mlp: VitMlp {
                c_fc: Linear::new(width, mlp_width, true, device),
                c_proj: Linear::new(mlp_width, width, true, device),
                hidden_act: config.hidden_act,
            },
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.forward_masked(x, None)
    }

    /// The block with keys masked where `mask` (`[batch, heads, seq, seq]`) is true.
    pub fn forward_masked(&self, x: Tensor<3>, mask: Option<Tensor<4, Bool>>) -> Tensor<3> {
        let x = self.attn.forward_onto(x.clone(), self.ln_1.forward(x), mask);
        self.mlp.forward_onto(x.clone(), self.ln_2.forward(x))
    }
}

impl VitAttention {
    /// Adds the attention of `x` to `residual`.
    fn forward_onto(
        &self,
        residual: Tensor<3>,
        x: Tensor<3>,
        mask: Option<Tensor<4, Bool>>,
    ) -> Tensor<3> {
        let qkv = self.in_proj.forward(x);
        let found = match mask {
            None => attend_packed(qkv, self.n_heads, self.is_causal),
            Some(mask) => {
                let [q, k, v] = unpack(qkv, self.n_heads);
                attend_masked(q, k, v, self.is_causal, mask)
            }
        };
        self.out_proj.forward_onto(residual, found)
    }
}

impl VitMlp {
    /// Adds the MLP of `x` to `residual`.
    fn forward_onto(&self, residual: Tensor<3>, x: Tensor<3>) -> Tensor<3> {
        let x = self.c_fc.forward(x);
        let x = match self.hidden_act {
            HiddenAct::Gelu => gelu(x),
            HiddenAct::QuickGelu => quick_gelu(x),
            HiddenAct::GeluPytorchTanh => gelu_tanh(x),
        };
        self.c_proj.forward_onto(residual, x)
    }
}
