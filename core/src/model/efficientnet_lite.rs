//! EfficientNet-Lite (timm's `tf_efficientnet_lite*`): the convolutional image encoder, up to its
//! last feature map.
//!
//! It consists of inverted residual blocks (MobileNetV2, arXiv:1801.04381) without
//! squeeze-and-excite. ReLU6 is the only activation; padding is TensorFlow's SAME. Batch norms are
//! folded into the convolutions at import. Activations are channels-last,
//! `[batch, height, width, channels]`, so that a point-wise convolution is a [`Linear`] layer.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use super::Linear;
use super::inverted_residual::{InvertedResidual, inverted_residual};
use crate::config::{EfficientNetLiteConfig, MbConvConfig};
use crate::kernels::convolution::conv_same_relu6;
use crate::kernels::with_helpers;

/// The network without its classifier.
#[derive(Module, Debug)]
pub struct EfficientNetLite {
    /// 3×3 convolution of stride 2.
    pub stem: Conv,
    /// Inverted residual blocks.
    pub mb_blocks: Vec<MbConv>,
    /// Point-wise convolution to `hidden_size`, the width of V.
    pub head: Linear,
}

/// A convolution with a kernel larger than one pixel: dense (the stem) or depth-wise.
#[derive(Module, Debug)]
pub struct Conv {
    /// `[out, in / groups, kernel, kernel]`, PyTorch's layout.
    pub weight: Param<Tensor<4>>,
    /// `[out]`
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    stride: usize,
}

/// Inverted residual block: expand, filter each channel, project.
#[derive(Module, Debug)]
pub struct MbConv {
    /// Point-wise expansion to several times the channels; `None` in the first block.
    pub expand: Option<Linear>,
    /// Depth-wise convolution.
    pub dw: Conv,
    /// Point-wise projection, without activation.
    pub project: Linear,
    #[module(skip)]
    has_skip: bool,
}

impl EfficientNetLite {
    /// Builds the modules. A checkpoint or [`crate::init::fresh`] sets the values.
    pub fn new(config: &EfficientNetLiteConfig, device: &Device) -> Self {
        let blocks = config.blocks();
        let last = blocks.last().expect("every variant has seven stages").out_channels;
        Self {
            stem: Conv::new(EfficientNetLiteConfig::STEM_CHANNELS, 3, 3, 2, device),
            mb_blocks: blocks.iter().map(|block| MbConv::new(block, device)).collect(),
            head: Linear::new(last, config.hidden_size, true, device),
        }
    }

    /// V, the last feature map, row by row.
    ///
    /// # Shapes
    /// - pixels: `[batch, 3, side, side]`, standardised
    /// - returns: `[batch, grid², hidden]`
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<3> {
        match pixels.dims() {
            [1, ..] => with_helpers(&pixels.device(), || self.last_map(pixels)),
            _ => self.last_map(pixels),
        }
    }

    fn last_map(&self, pixels: Tensor<4>) -> Tensor<3> {
        let x = self.forward_stem(pixels);
        let x = self.mb_blocks.iter().fold(x, |x, block| block.forward(x));
        // x: [batch, grid, grid, channels]
        let x = self.head.forward_relu6(x);
        let [batch, height, width, channels] = x.dims();
        x.reshape([batch, height * width, channels])
    }

    /// `[batch, 3, side, side]` → `[batch, side / 2, side / 2, 32]`
    pub fn forward_stem(&self, pixels: Tensor<4>) -> Tensor<4> {
        // Channels last.
        let pixels = pixels.cast(self.stem.weight.val().dtype()).permute([0, 2, 3, 1]);
        self.stem.forward(pixels)
    }
}

impl Conv {
    fn new(out: usize, in_per_group: usize, kernel: usize, stride: usize, device: &Device) -> Self {
        Self {
            weight: Param::from_tensor(Tensor::zeros([out, in_per_group, kernel, kernel], device)),
            bias: Param::from_tensor(Tensor::zeros([out], device)),
            stride,
        }
    }

    /// Convolution and ReLU6.
    ///
    /// `[batch, height, width, in]` → `[batch, ⌈height / stride⌉, ⌈width / stride⌉, out]`
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        conv_same_relu6(x, self.weight.val(), self.bias.val(), self.stride)
    }
}

impl MbConv {
    fn new(config: &MbConvConfig, device: &Device) -> Self {
        let &MbConvConfig { kernel_size, stride, in_channels, expanded_channels, out_channels } =
            config;
        let expands = expanded_channels != in_channels;
        Self {
            expand: expands.then(|| Linear::new(in_channels, expanded_channels, true, device)),
            dw: Conv::new(expanded_channels, 1, kernel_size, stride, device),
            project: Linear::new(expanded_channels, out_channels, true, device),
            has_skip: stride == 1 && in_channels == out_channels,
        }
    }

    /// `[batch, height, width, in]` → `[batch, ⌈height / stride⌉, ⌈width / stride⌉, out]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let block = InvertedResidual {
            expand: self.expand.as_ref(),
            depthwise: (self.dw.weight.val(), self.dw.bias.val(), self.dw.stride),
            project: &self.project,
            has_skip: self.has_skip,
        };
        inverted_residual(x, block)
    }
}
