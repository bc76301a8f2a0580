//! Calls the convolution kernels, which work on slices, with tensors on the CPU.
//!
//! Images are `[batch, height, width, channels]`.

use burn::backend::flex::FlexTensor;
use burn::tensor::{Shape, Tensor};

use super::convolution::{self, Block, Pointwise, Sizes, Stem, Taps};
use super::tensors::{contiguous, from_first, in_place, is_here, primitive, whole, wrap};
use super::{elementwise, rows};

/// Dense `relu6(conv(x) + bias)`, with TensorFlow's SAME padding.
///
/// `weight` is `[out, in, kernel, kernel]`.
pub(crate) fn stem_relu6(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Tensor<1>,
    stride: usize,
) -> Tensor<4> {
    let [out, channels, kernel, _] = weight.dims();
    let weight = transposed(whole(weight).storage(), out, channels * kernel * kernel);
    // From `[in, kernel, kernel, out]` to `[kernel, kernel, in, out]`.
    let mut taps = vec![0.0; weight.len()];
    for (row, values) in weight.chunks_exact(out).enumerate() {
        let (channel, tap) = (row / (kernel * kernel), row % (kernel * kernel));
        taps[(tap * channels + channel) * out..][..out].copy_from_slice(values);
    }
    let (x, bias) = (primitive(x), whole(bias));
    let x =
        if x.layout().strides().iter().all(|stride| *stride > 0) { x } else { x.to_contiguous() };
    let strides = [0, 1, 2, 3].map(|axis| x.layout().strides()[axis] as usize);
    let stem = Stem { weight: &taps, bias: bias.storage(), kernel, stride };
    wrap(of(convolution::stem(from_first(&x), (sizes(&x), strides), &stem)))
}

/// Depth-wise `relu6(conv(x) + bias)`, with TensorFlow's SAME padding.
///
/// `weight` is `[channels, 1, kernel, kernel]`.
pub(crate) fn depthwise_relu6(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Tensor<1>,
    stride: usize,
) -> Tensor<4> {
    wrap(depthwise_relu6_of(&whole(x), &ByChannel::new(whole(weight), whole(bias), stride)))
}

pub(super) fn depthwise_relu6_of(x: &FlexTensor, weights: &ByChannel) -> FlexTensor {
    let block =
        Block { expand: None, depthwise: weights.taps(), project: None, is_residual: false };
    of(convolution::block(x.storage(), sizes(x), &block))
}

/// `min(max(x, 0), 6)`
pub(crate) fn relu6<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    wrap(relu6_of(primitive(x)))
}

pub(super) fn relu6_of(x: FlexTensor) -> FlexTensor {
    in_place(x, |x| rows::for_each(x, 1, 1, |_, x| elementwise::relu6(x)))
}

/// `relu6(x @ weight + bias)`
pub(crate) fn linear_relu6<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Tensor<1>,
) -> Tensor<D> {
    let mut shape = x.dims();
    shape[D - 1] = bias.dims()[0];
    let (x, layer) = (whole(x), Layer::new((weight, bias)));
    wrap(contiguous(convolution::pointwise(x.storage(), layer.view(), true), Shape::from(shape)))
}

/// The tensors of a block. Layers come with their biases.
pub(crate) struct BlockParts {
    pub expand: Option<(Tensor<2>, Tensor<1>)>,
    /// Weight `[channels, 1, kernel, kernel]`, bias and stride.
    pub depthwise: (Tensor<4>, Tensor<1>, usize),
    pub project: (Tensor<2>, Tensor<1>),
    pub is_residual: bool,
}

impl BlockParts {
    /// Whether all tensors are on the CPU, f32, and without autodiff.
    pub(crate) fn are_here(&self) -> bool {
        let is_layer = |(weight, bias): &(Tensor<2>, Tensor<1>)| is_here(weight) && is_here(bias);
        let (weight, bias, _) = &self.depthwise;
        self.expand.as_ref().is_none_or(is_layer)
            && is_layer(&self.project)
            && is_here(weight)
            && is_here(bias)
    }

    /// Whether one of the tensors needs a gradient.
    #[cfg(feature = "autodiff")]
    pub(crate) fn are_tracked(&self) -> bool {
        let is_layer =
            |(weight, bias): &(Tensor<2>, Tensor<1>)| weight.is_tracked() || bias.is_tracked();
        let (weight, bias, _) = &self.depthwise;
        self.expand.as_ref().is_some_and(is_layer)
            || is_layer(&self.project)
            || weight.is_tracked()
            || bias.is_tracked()
    }

    /// The same tensors without autodiff.
    #[cfg(feature = "autodiff")]
    pub(crate) fn inner(self) -> Self {
        let layer = |(weight, bias): (Tensor<2>, Tensor<1>)| (weight.inner(), bias.inner());
        let (weight, bias, stride) = self.depthwise;
        Self {
            expand: self.expand.map(layer),
            depthwise: (weight.inner(), bias.inner(), stride),
            project: layer(self.project),
            is_residual: self.is_residual,
        }
    }
}

/// Runs a whole block: see [`Block`].
pub(crate) fn inverted_residual(x: Tensor<4>, parts: BlockParts) -> Tensor<4> {
    let x = whole(x);
    let expand = parts.expand.map(Layer::new);
    let (weight, bias, stride) = parts.depthwise;
    let depthwise = ByChannel::new(whole(weight), whole(bias), stride);
    let project = Layer::new(parts.project);
    let block = Block {
        expand: expand.as_ref().map(Layer::view),
        depthwise: depthwise.taps(),
        project: Some(project.view()),
        is_residual: parts.is_residual,
    };
    wrap(of(convolution::block(x.storage(), sizes(&x), &block)))
}

pub(super) fn sizes(x: &FlexTensor) -> Sizes {
    [0, 1, 2, 3].map(|axis| x.layout().shape()[axis])
}

fn of((values, sizes): (Vec<f32>, Sizes)) -> FlexTensor {
    contiguous(values, Shape::from(sizes))
}

/// The tensors of a point-wise convolution.
struct Layer {
    weight: FlexTensor,
    bias: FlexTensor,
}

impl Layer {
    fn new((weight, bias): (Tensor<2>, Tensor<1>)) -> Self {
        Self { weight: whole(weight), bias: whole(bias) }
    }

    fn view(&self) -> Pointwise<'_> {
        Pointwise { weight: self.weight.storage(), bias: self.bias.storage() }
    }
}

/// A depth-wise convolution, with its weight in the kernels' layout.
pub(super) struct ByChannel {
    /// `[kernel * kernel, channels]`
    weight: Vec<f32>,
    bias: FlexTensor,
    kernel: usize,
    stride: usize,
}

impl ByChannel {
    /// Takes contiguous tensors; `weight` is `[channels, 1, kernel, kernel]`.
    pub(super) fn new(weight: FlexTensor, bias: FlexTensor, stride: usize) -> Self {
        let [channels, _, kernel, _] = sizes(&weight);
        Self {
            weight: transposed(weight.storage(), channels, kernel * kernel),
            bias,
            kernel,
            stride,
        }
    }

    pub(super) fn taps(&self) -> Taps<'_> {
        let Self { kernel, stride, .. } = *self;
        Taps { weight: &self.weight, bias: self.bias.storage(), kernel, stride }
    }
}

/// `[n, width]` → `[width, n]`
pub(super) fn transposed(values: &[f32], n: usize, width: usize) -> Vec<f32> {
    let mut out = vec![0.0; values.len()];
    for (at, row) in values.chunks_exact(width).enumerate() {
        for (column, value) in row.iter().enumerate() {
            out[column * n + at] = *value;
        }
    }
    out
}
