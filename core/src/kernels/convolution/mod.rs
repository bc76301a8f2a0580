//! Convolutions of channels-last images, so that a point-wise convolution is a linear layer.
//!
//! On the CPU a whole inverted residual block is one kernel (`cpu/block.rs`). On GPUs each
//! convolution is one kernel (`gpu.rs`), and a product with a weight applies ReLU6 itself. Training
//! on the CPU uses the depth-wise kernel and its backward function (`cpu/gradient.rs`).

use burn::tensor::ops::ConvOptions;
use burn::tensor::{Tensor, module};

use super::dispatch::dispatch;

/// Convolution with TensorFlow's SAME padding, then ReLU6.
///
/// It is depth-wise if the weight has one input channel.
///
/// # Shapes
/// - x: `[batch, height, width, in]`
/// - weight: `[out, in, k, k]`, or `[in, 1, k, k]`
/// - returns: `[batch, ⌈height / stride⌉, ⌈width / stride⌉, out]`
pub(crate) fn conv_same_relu6(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Tensor<1>,
    stride: usize,
) -> Tensor<4> {
    let [_, height, width, _] = x.dims();
    let [_, in_per_group, kernel, _] = weight.dims();
    dispatch! {
        cpu if needs_no_gradient(&x, &weight, &bias)
            => convolution::without_graph(x, weight, bias, stride);
    }
    if in_per_group == 1 {
        dispatch! {
            cpu [x, weight, bias] => convolution::depthwise_relu6(x, weight, bias, stride);
        }
    }
    dispatch! { cpu if supports_stem(&x, &weight) => convolution::stem_relu6(x, weight, bias, stride); }
    let [top, bottom] = same_padding(height, kernel, stride);
    let [left, right] = same_padding(width, kernel, stride);
    dispatch! {
        gpu if supports(&x, &weight)
            => convolution::convolve_relu6(x, weight, bias, stride, [top, left]);
    }
    conv_by_burn(x, weight, bias, stride, (left, right, top, bottom))
}

pub(crate) fn conv_by_burn(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Tensor<1>,
    stride: usize,
    padding: (usize, usize, usize, usize),
) -> Tensor<4> {
    let groups = x.dims()[3] / weight.dims()[1];
    let x = x.permute([0, 3, 1, 2]).pad(padding, 0.0); // channels first, as Burn has it
    let options = ConvOptions::new([stride; 2], [0; 2], [1; 2], groups);
    module::conv2d(x, weight, Some(bias), options).clamp(0.0, 6.0).permute([0, 2, 3, 1])
}

/// Zeros before and after an axis so that a convolution returns `⌈size / stride⌉` values.
///
/// If their number is odd, the extra zero goes after the axis.
pub(crate) fn same_padding(size: usize, kernel: usize, stride: usize) -> [usize; 2] {
    let needed = ((size.div_ceil(stride) - 1) * stride + kernel).saturating_sub(size);
    [needed / 2, needed - needed / 2]
}

/// The tensors of an inverted residual block. Layers come with their biases.
#[cfg_attr(not(feature = "cpu"), allow(dead_code, reason = "only the CPU has a kernel"))]
pub(crate) struct BlockParts {
    pub expand: Option<(Tensor<2>, Tensor<1>)>,
    /// Weight `[channels, 1, kernel, kernel]`, bias and stride.
    pub depthwise: (Tensor<4>, Tensor<1>, usize),
    pub project: (Tensor<2>, Tensor<1>),
    pub is_residual: bool,
}

/// A whole block in one kernel, so that the expanded activations never leave a core's cache.
///
/// `None` if no form supports the tensors: if one is not on the CPU, not f32, or needs a gradient.
pub(crate) fn inverted_residual(x: &Tensor<4>, parts: BlockParts) -> Option<Tensor<4>> {
    dispatch! { cpu if supports_blocks(x) => convolution::inverted_residual(x, parts); }
    let _ = (x, parts);
    None
}
