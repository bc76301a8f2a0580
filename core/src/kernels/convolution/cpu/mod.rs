//! Convolutions on the CPU: channels-last images, `[batch, height, width, channels]`, with
//! TensorFlow's SAME padding.

mod block;
mod depthwise;
mod gradient;
mod images;
mod pointwise;
mod stem;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use burn::backend::flex::FlexTensor;
use burn::tensor::{Shape, Tensor};

use super::node::{Input, run_with};
use super::rows;
use super::tape::{from_inner, inner, is_autodiff_cpu_f32, needs_gradient};
use super::tensors::{
    contiguous, from_first, from_values, is_plain_cpu_f32, primitive, sizes, wrap,
};
use crate::kernels::convolution::{BlockParts, conv_same_relu6};
use block::{Block, Taps, block};
use images::Sizes;
pub use pointwise::{Pointwise, pointwise};
use stem::{Stem, stem};

/// Whether the tensors are on an autodiff device, but none of them needs a gradient.
pub fn needs_no_gradient(x: &Tensor<4>, weight: &Tensor<4>, bias: &Tensor<1>) -> bool {
    is_autodiff_cpu_f32(x) && !(needs_gradient(x) || needs_gradient(weight) || needs_gradient(bias))
}

/// Leaves the autodiff device for the convolution.
pub fn without_graph(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>, stride: usize) -> Tensor<4> {
    from_inner(conv_same_relu6(inner(x), inner(weight), inner(bias), stride))
}

/// Depth-wise `relu6(conv(x) + bias)`; `weight` is `[channels, 1, kernel, kernel]`.
pub fn depthwise_relu6(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Tensor<1>,
    stride: usize,
) -> Tensor<4> {
    let forward = |x: &FlexTensor, weights: &ByChannel| {
        let depthwise = weights.taps();
        let alone = Block { expand: None, depthwise, project: None, is_residual: false };
        to_tensor(block(x.storage(), sizes(x), &alone))
    };
    run_with(
        [Input::contiguous(x), Input::contiguous(weight), Input::contiguous(bias)],
        |[x, weight, bias]| forward(&x, &ByChannel::new(weight, bias, stride)),
        |[x, weight, bias]| {
            let weight_shape = weight.layout().shape().clone();
            let weights = ByChannel::new(weight, bias, stride);
            let output = forward(&x, &weights);
            let saved = output.clone();
            let backward = move |grad: FlexTensor, wanted: [bool; 3]| {
                let (taps, shape, grad) = (weights.taps(), sizes(&x), grad.to_contiguous());
                let [x_grad, weight_grad, bias_grad] = gradient::depthwise_relu6(
                    x.storage(),
                    shape,
                    &taps,
                    saved.storage(),
                    grad.storage(),
                    wanted,
                );
                let channels = shape[3];
                let by_channel = |values: Vec<f32>| {
                    from_values(
                        transposed(&values, values.len() / channels, channels),
                        weight_shape.clone(),
                    )
                };
                [
                    x_grad.map(|values| from_values(values, x.layout().shape().clone())),
                    weight_grad.map(by_channel),
                    bias_grad.map(|values| from_values(values, Shape::from([channels]))),
                ]
            };
            (output, Arc::new(backward))
        },
    )
}

/// Without autodiff only. Burn's operations train a stem.
pub fn supports_stem(x: &Tensor<4>, weight: &Tensor<4>) -> bool {
    is_plain_cpu_f32(x) && is_plain_cpu_f32(weight)
}

/// Dense `relu6(conv(x) + bias)`, with TensorFlow's SAME padding.
///
/// `weight` is `[out, in, kernel, kernel]`.
pub fn stem_relu6(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>, stride: usize) -> Tensor<4> {
    let [out, channels, kernel, _] = weight.dims();
    let weight = transposed(contiguous(weight).storage(), out, channels * kernel * kernel);
    // From `[in, kernel, kernel, out]` to `[kernel, kernel, in, out]`.
    let mut taps = vec![0.0; weight.len()];
    for (row, values) in weight.chunks_exact(out).enumerate() {
        let (channel, tap) = (row / (kernel * kernel), row % (kernel * kernel));
        taps[(tap * channels + channel) * out..][..out].copy_from_slice(values);
    }
    let (x, bias) = (primitive(x), contiguous(bias));
    let x =
        if x.layout().strides().iter().all(|stride| *stride > 0) { x } else { x.to_contiguous() };
    let strides = [0, 1, 2, 3].map(|axis| x.layout().strides()[axis] as usize);
    let layer = Stem { weight: &taps, bias: bias.storage(), kernel, stride };
    wrap(to_tensor(stem(from_first(&x), (sizes(&x), strides), &layer)))
}

/// Whether [`inverted_residual`] may support the other tensors.
pub fn supports_blocks(x: &Tensor<4>) -> bool {
    is_plain_cpu_f32(x) || is_autodiff_cpu_f32(x)
}

/// The fused block of [`BlockParts`]. `None` if a tensor is on another device, not f32, or needs a
/// gradient.
pub fn inverted_residual(x: &Tensor<4>, parts: BlockParts) -> Option<Tensor<4>> {
    if is_plain_cpu_f32(x) && parts.are_plain_cpu_f32() {
        return Some(fused(x.clone(), parts));
    }
    if is_autodiff_cpu_f32(x) && !(needs_gradient(x) || parts.need_gradients()) {
        return Some(from_inner(fused(inner(x.clone()), parts.inner())));
    }
    None
}

impl BlockParts {
    fn are_plain_cpu_f32(&self) -> bool {
        let is_layer = |(weight, bias): &(Tensor<2>, Tensor<1>)| {
            is_plain_cpu_f32(weight) && is_plain_cpu_f32(bias)
        };
        let (weight, bias, _) = &self.depthwise;
        self.expand.as_ref().is_none_or(is_layer)
            && is_layer(&self.project)
            && is_plain_cpu_f32(weight)
            && is_plain_cpu_f32(bias)
    }

    fn need_gradients(&self) -> bool {
        let is_layer = |(weight, bias): &(Tensor<2>, Tensor<1>)| {
            needs_gradient(weight) || needs_gradient(bias)
        };
        let (weight, bias, _) = &self.depthwise;
        self.expand.as_ref().is_some_and(is_layer)
            || is_layer(&self.project)
            || needs_gradient(weight)
            || needs_gradient(bias)
    }

    /// The same tensors without autodiff.
    fn inner(self) -> Self {
        let layer = |(weight, bias): (Tensor<2>, Tensor<1>)| (inner(weight), inner(bias));
        let (weight, bias, stride) = self.depthwise;
        Self {
            expand: self.expand.map(layer),
            depthwise: (inner(weight), inner(bias), stride),
            project: layer(self.project),
            is_residual: self.is_residual,
        }
    }
}

fn fused(x: Tensor<4>, parts: BlockParts) -> Tensor<4> {
    let x = contiguous(x);
    let expand = parts.expand.map(Layer::new);
    let (weight, bias, stride) = parts.depthwise;
    let depthwise = ByChannel::new(contiguous(weight), contiguous(bias), stride);
    let project = Layer::new(parts.project);
    let parts = Block {
        expand: expand.as_ref().map(Layer::view),
        depthwise: depthwise.taps(),
        project: Some(project.view()),
        is_residual: parts.is_residual,
    };
    wrap(to_tensor(block(x.storage(), sizes(&x), &parts)))
}

fn to_tensor((values, sizes): (Vec<f32>, Sizes)) -> FlexTensor {
    from_values(values, Shape::from(sizes))
}

/// The tensors of a point-wise convolution.
struct Layer {
    weight: FlexTensor,
    bias: FlexTensor,
}

impl Layer {
    fn new((weight, bias): (Tensor<2>, Tensor<1>)) -> Self {
        Self { weight: contiguous(weight), bias: contiguous(bias) }
    }

    fn view(&self) -> Pointwise<'_> {
        Pointwise { weight: self.weight.storage(), bias: self.bias.storage() }
    }
}

/// A depth-wise convolution, with its weight in the kernels' layout.
struct ByChannel {
    /// `[kernel * kernel, channels]`
    weight: Vec<f32>,
    bias: FlexTensor,
    kernel: usize,
    stride: usize,
}

impl ByChannel {
    /// Takes contiguous tensors; `weight` is `[channels, 1, kernel, kernel]`.
    fn new(weight: FlexTensor, bias: FlexTensor, stride: usize) -> Self {
        let [channels, _, kernel, _] = sizes(&weight);
        Self {
            weight: transposed(weight.storage(), channels, kernel * kernel),
            bias,
            kernel,
            stride,
        }
    }

    fn taps(&self) -> Taps<'_> {
        let Self { kernel, stride, .. } = *self;
        Taps { weight: &self.weight, bias: self.bias.storage(), kernel, stride }
    }
}

/// `[n, width]` → `[width, n]`
fn transposed(values: &[f32], n: usize, width: usize) -> Vec<f32> {
    // Rows whose columns are written together: a cache line.
    const ROWS: usize = 16;
    let mut out = vec![0.0; values.len()];
    let columns_per_task = width.div_ceil(rows::n_tasks(4 * values.len()));
    rows::for_each_chunk(&mut out, (columns_per_task * n).max(1), |task, out| {
        for (nth, out) in out.chunks_exact_mut(n).enumerate() {
            let column = task * columns_per_task + nth;
            for (out, rows) in out.chunks_mut(ROWS).zip(values.chunks(ROWS * width)) {
                for (out, row) in out.iter_mut().zip(rows.chunks_exact(width)) {
                    *out = row[column];
                }
            }
        }
    });
    out
}
