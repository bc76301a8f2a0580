//! Convolutions from tensors on the CPU to slices and back. Images are `[batch, height, width, channels]`.

use burn::backend::flex::FlexTensor;
use burn::tensor::{Shape, Tensor};

use super::convolution::{self, Block, Pointwise, Sizes, Stem, Taps};
use super::tensors::{contiguous, whole, wrap};

/// `relu6(conv(x) + bias)` over all channels, with TensorFlow's SAME padding.
///
/// `weight` is `[out, in, kernel, kernel]`.
pub(crate) fn stem_relu6(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>, stride: usize) -> Tensor<4> {
    let [out, channels, kernel, _] = weight.dims();
    let sizes = x.dims();
    let weight = transposed(whole(weight).storage(), out, channels * kernel * kernel);
    // From `[in, kernel, kernel, out]` to `[kernel, kernel, in, out]`.
    let mut taps = vec![0.0; weight.len()];
    for (row, values) in weight.chunks_exact(out).enumerate() {
        let (channel, tap) = (row / (kernel * kernel), row % (kernel * kernel));
        taps[(tap * channels + channel) * out..][..out].copy_from_slice(values);
    }
    let (x, bias) = (whole(x), whole(bias));
    let stem = Stem { weight: &taps, bias: bias.storage(), kernel, stride };
    image(convolution::stem(x.storage(), sizes, &stem))
}

/// `relu6(conv(x) + bias)` of each channel by itself, with TensorFlow's SAME padding.
///
/// `weight` is `[channels, 1, kernel, kernel]`.
pub(crate) fn depthwise_relu6(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>, stride: usize) -> Tensor<4> {
    let sizes = x.dims();
    let (x, depthwise) = (whole(x), ByChannel::new(weight, bias));
    let block = Block { expand: None, depthwise: depthwise.taps(stride), project: None, is_residual: false };
    image(convolution::block(x.storage(), sizes, &block))
}

/// `relu6(x @ weight + bias)`
pub(crate) fn linear_relu6(x: Tensor<4>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<4> {
    let sizes = x.dims();
    let (x, layer) = (whole(x), Layer::new(weight, bias));
    image(convolution::pointwise(x.storage(), sizes, layer.view(), true))
}

/// A whole block: see [`Block`].
///
/// The layers come with their biases; `depthwise` is `[channels, 1, kernel, kernel]`.
pub(crate) fn inverted_residual(
    x: Tensor<4>,
    expand: Option<(Tensor<2>, Tensor<1>)>,
    (depthwise, stride): ((Tensor<4>, Tensor<1>), usize),
    project: (Tensor<2>, Tensor<1>),
    is_residual: bool,
) -> Tensor<4> {
    let sizes = x.dims();
    let x = whole(x);
    let expand = expand.map(|(weight, bias)| Layer::new(weight, bias));
    let depthwise = ByChannel::new(depthwise.0, depthwise.1);
    let project = Layer::new(project.0, project.1);
    let block = Block {
        expand: expand.as_ref().map(Layer::view),
        depthwise: depthwise.taps(stride),
        project: Some(project.view()),
        is_residual,
    };
    image(convolution::block(x.storage(), sizes, &block))
}

fn image((values, sizes): (Vec<f32>, Sizes)) -> Tensor<4> {
    wrap(contiguous(values, Shape::from(sizes)))
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
struct ByChannel {
    /// `[kernel * kernel, channels]`
    weight: Vec<f32>,
    bias: FlexTensor,
    kernel: usize,
}

impl ByChannel {
    fn new(weight: Tensor<4>, bias: Tensor<1>) -> Self {
        let [channels, _, kernel, _] = weight.dims();
        let weight = transposed(whole(weight).storage(), channels, kernel * kernel);
        Self { weight, bias: whole(bias), kernel }
    }

    fn taps(&self, stride: usize) -> Taps<'_> {
        Taps { weight: &self.weight, bias: self.bias.storage(), kernel: self.kernel, stride }
    }
}

/// `[n, width]` → `[width, n]`
fn transposed(values: &[f32], n: usize, width: usize) -> Vec<f32> {
    let mut out = vec![0.0; values.len()];
    for (at, row) in values.chunks_exact(width).enumerate() {
        for (column, value) in row.iter().enumerate() {
            out[column * n + at] = *value;
        }
    }
    out
}
