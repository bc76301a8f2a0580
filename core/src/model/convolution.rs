//! Convolutions of images whose channels lie last, in Burn's terms; on the CPU and on GPUs a kernel of ours does each at once.

use burn::tensor::ops::ConvOptions;
use burn::tensor::{Tensor, module};

use super::linear::Linear;
use super::ops::{on_cpu, relu6};
#[cfg(feature = "cpu")]
use crate::cpu;
#[cfg(feature = "gpu")]
use crate::gpu;

/// Convolution with TensorFlow's SAME padding, then ReLU6; depth-wise if the weight has one input channel.
///
/// # Shapes
/// - x: `[batch, height, width, in]`
/// - weight: `[out, in, k, k]`, or `[in, 1, k, k]`
/// - returns: `[batch, ⌈height / stride⌉, ⌈width / stride⌉, out]`
pub(super) fn conv_same_relu6(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>, stride: usize) -> Tensor<4> {
    let [_, height, width, in_channels] = x.dims();
    let [_, in_per_group, kernel, _] = weight.dims();
    #[cfg(all(feature = "cpu", feature = "train"))]
    if cpu::is_recorded(&x) && !(x.is_tracked() || weight.is_tracked() || bias.is_tracked()) {
        return Tensor::from_inner(conv_same_relu6(x.inner(), weight.inner(), bias.inner(), stride));
    }
    if in_per_group == 1 {
        on_cpu!([x, weight, bias] => depthwise_relu6(x, weight, bias, stride));
    }
    #[cfg(feature = "cpu")]
    if cpu::is_here(&x) && cpu::is_here(&weight) {
        return cpu::stem_relu6(x, weight, bias, stride);
    }
    let [top, bottom] = same_padding(height, kernel, stride);
    let [left, right] = same_padding(width, kernel, stride);
    #[cfg(feature = "gpu")]
    if gpu::is_here(&x) && gpu::is_here(&weight) {
        return gpu::convolve_relu6(x, weight, bias, stride, [top, left]);
    }
    let x = x.permute([0, 3, 1, 2]).pad((left, right, top, bottom), 0.0); // channels first, as Burn has it
    let options = ConvOptions::new([stride; 2], [0; 2], [1; 2], in_channels / in_per_group);
    relu6(module::conv2d(x, weight, Some(bias), options)).permute([0, 2, 3, 1])
}

/// Zeros before and after an axis with which a convolution returns `⌈size / stride⌉` values; the odd one goes after.
pub(crate) fn same_padding(size: usize, kernel: usize, stride: usize) -> [usize; 2] {
    let needed = ((size.div_ceil(stride) - 1) * stride + kernel).saturating_sub(size);
    [needed / 2, needed - needed / 2]
}

/// The parts of an inverted residual block.
pub(super) struct InvertedResidual<'a> {
    pub expand: Option<&'a Linear>,
    /// Weight, bias and stride of the depth-wise convolution.
    pub depthwise: (Tensor<4>, Tensor<1>, usize),
    pub project: &'a Linear,
    pub has_skip: bool,
}

/// `project(conv_same_relu6(relu6(expand(x))))`, with `x` added if the block has a skip connection.
///
/// On the CPU without a gradient the expanded activations never leave a core's cache.
pub(super) fn inverted_residual(x: Tensor<4>, block: InvertedResidual) -> Tensor<4> {
    #[cfg(feature = "cpu")]
    if let Some(y) = on_cpu_at_once(&x, &block) {
        return y;
    }
    let InvertedResidual { expand, depthwise: (weight, bias, stride), project, has_skip } = block;
    let expanded = match expand {
        Some(expand) => expand.forward_relu6(x.clone()),
        None => x.clone(),
    };
    let filtered = conv_same_relu6(expanded, weight, bias, stride);
    match has_skip {
        true => project.forward_onto(x, filtered),
        false => project.forward(filtered),
    }
}

/// `None` if a tensor is elsewhere, in another type, packed or tracked.
#[cfg(feature = "cpu")]
fn on_cpu_at_once(x: &Tensor<4>, block: &InvertedResidual) -> Option<Tensor<4>> {
    let plain = |layer: &Linear| Some((layer.weight.as_ref()?.val(), layer.bias.as_ref()?.val()));
    let expand = match block.expand {
        Some(expand) => Some(plain(expand)?),
        None => None,
    };
    let parts = cpu::BlockParts {
        expand,
        depthwise: block.depthwise.clone(),
        project: plain(block.project)?,
        is_residual: block.has_skip,
    };
    if cpu::is_here(x) && parts.are_here() {
        return Some(cpu::inverted_residual(x.clone(), parts));
    }
    #[cfg(feature = "train")]
    if cpu::is_recorded(x) && !(x.is_tracked() || parts.are_tracked()) {
        return Some(Tensor::from_inner(cpu::inverted_residual(x.clone().inner(), parts.inner())));
    }
    None
}
