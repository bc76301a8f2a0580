//! Convolutions from tensors on the CPU to slices and back. Images are `[batch, height, width, channels]`.

use burn::backend::flex::FlexTensor;
use burn::tensor::{Shape, Tensor};

use super::convolution::{self, Block, Pointwise, Sizes, Stem, Taps};
use super::tensors::{contiguous, in_place, primitive, whole, wrap};
use super::{elementwise, rows};

/// `relu6(conv(x) + bias)` over all channels, with TensorFlow's SAME padding.
///
/// `weight` is `[out, in, kernel, kernel]`.
pub(crate) fn stem_relu6(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>, stride: usize) -> Tensor<4> {
    let [out, channels, kernel, _] = weight.dims();
    let weight = transposed(whole(weight).storage(), out, channels * kernel * kernel);
    // From `[in, kernel, kernel, out]` to `[kernel, kernel, in, out]`.
    let mut taps = vec![0.0; weight.len()];
    for (row, values) in weight.chunks_exact(out).enumerate() {
        let (channel, tap) = (row / (kernel * kernel), row % (kernel * kernel));
        taps[(tap * channels + channel) * out..][..out].copy_from_slice(values);
    }
    let (x, bias) = (whole(x), whole(bias));
    let stem = Stem { weight: &taps, bias: bias.storage(), kernel, stride };
    wrap(of(convolution::stem(x.storage(), sizes(&x), &stem)))
}

/// `relu6(conv(x) + bias)` of each channel by itself, with TensorFlow's SAME padding.
///
/// `weight` is `[channels, 1, kernel, kernel]`.
pub(crate) fn depthwise_relu6(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>, stride: usize) -> Tensor<4> {
    wrap(depthwise_relu6_of(&whole(x), &ByChannel::new(whole(weight), whole(bias), stride)))
}

pub(super) fn depthwise_relu6_of(x: &FlexTensor, weights: &ByChannel) -> FlexTensor {
    let block = Block { expand: None, depthwise: weights.taps(), project: None, is_residual: false };
    of(convolution::block(x.storage(), sizes(x), &block))
}

/// `min(max(x, 0), 6)`
pub(crate) fn relu6<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    wrap(in_place(primitive(x), |x| rows::for_each(x, 1, 1, |_, x| elementwise::relu6(x))))
}

/// `relu6(x @ weight + bias)`
pub(crate) fn linear_relu6(x: Tensor<4>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<4> {
    let (x, layer) = (whole(x), Layer::new(weight, bias));
    wrap(of(convolution::pointwise(x.storage(), sizes(&x), layer.view(), true)))
}

/// A whole block without a gradient: see [`Block`].
///
/// The layers come with their biases; `depthwise` is `[channels, 1, kernel, kernel]`.
pub(crate) fn inverted_residual(
    x: Tensor<4>,
    expand: Option<(Tensor<2>, Tensor<1>)>,
    (depthwise, stride): ((Tensor<4>, Tensor<1>), usize),
    project: (Tensor<2>, Tensor<1>),
    is_residual: bool,
) -> Tensor<4> {
    let x = whole(x);
    let expand = expand.map(|(weight, bias)| Layer::new(weight, bias));
    let depthwise = ByChannel::new(whole(depthwise.0), whole(depthwise.1), stride);
    let project = Layer::new(project.0, project.1);
    let block = Block {
        expand: expand.as_ref().map(Layer::view),
        depthwise: depthwise.taps(),
        project: Some(project.view()),
        is_residual,
    };
    wrap(of(convolution::block(x.storage(), sizes(&x), &block)))
}

pub(super) fn sizes(x: &FlexTensor) -> Sizes {
    [0, 1, 2, 3].map(|axis| x.layout().shape()[axis])
}

fn of((values, sizes): (Vec<f32>, Sizes)) -> FlexTensor {
    contiguous(values, Shape::from(sizes))
}

/// A pointwise convolution as tensors.
struct Layer {
    weight: FlexTensor,
    bias: FlexTensor,
}

impl Layer {
    fn new(weight: Tensor<2>, bias: Tensor<1>) -> Self {
        Self { weight: whole(weight), bias: whole(bias) }
    }

    fn view(&self) -> Pointwise<'_> {
        Pointwise { weight: self.weight.storage(), bias: self.bias.storage() }
    }
}

/// A convolution by channels, its weight as the kernels read it.
pub(super) struct ByChannel {
    /// `[kernel * kernel, channels]`
    weight: Vec<f32>,
    bias: FlexTensor,
    kernel: usize,
    stride: usize,
}

impl ByChannel {
    /// Of tensors row by row; `weight` is `[channels, 1, kernel, kernel]`.
    pub(super) fn new(weight: FlexTensor, bias: FlexTensor, stride: usize) -> Self {
        let [channels, _, kernel, _] = sizes(&weight);
        Self { weight: transposed(weight.storage(), channels, kernel * kernel), bias, kernel, stride }
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
