//! The CPU kernels as nodes of Burn's autodiff graph, each with one backward function.

use std::fmt;
use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::{Autodiff, BackendTypes, Flex, TensorMetadata};
use burn::tensor::{Shape, Tensor};

use super::images::{self, ByChannel};
use super::tensors::{Matrix, contiguous, heads, in_place, linear_of, strided, with_whole_rows};
use super::{
    attention, convolution_gradient, elementwise, gradient, linear as product, rows, tensors,
};

type Recorded = <Autodiff<Flex> as BackendTypes>::FloatTensorPrimitive;

/// The backward function of an op: maps its output's gradient to the needed gradients of its
/// inputs.
type GoBack<const N: usize> =
    Arc<dyn Fn(FlexTensor, [bool; N]) -> [Option<FlexTensor>; N] + Send + Sync>;

/// An op with `N` inputs.
#[derive(Debug)]
struct Node;

#[derive(Clone)]
struct State<const N: usize>(GoBack<N>);

impl<const N: usize> fmt::Debug for State<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("State")
    }
}

impl<const N: usize> Backward<Flex, N> for Node {
    type State = State<N>;

    fn backward(self, ops: Ops<State<N>, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node);
        let is_wanted = ops.parents.each_ref().map(Option::is_some);
        let found = (ops.state.0)(grad, is_wanted);
        for (parent, found) in ops.parents.into_iter().zip(found) {
            if let (Some(parent), Some(found)) = (parent, found) {
                grads.register::<Flex>(parent.id, found);
            }
        }
    }
}

/// Adds an op to the graph.
fn record<const N: usize>(
    inputs: [&Recorded; N],
    output: FlexTensor,
    go_back: GoBack<N>,
) -> Recorded {
    record_at(inputs.map(|input| input.node()), output, go_back)
}

/// [`record`] for inputs whose values were already taken from them.
fn record_at<const N: usize>(
    nodes: [NodeGuard; N],
    output: FlexTensor,
    go_back: GoBack<N>,
) -> Recorded {
    match Node.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(State(go_back), output),
        OpsKind::UnTracked(prep) => prep.finish(output),
    }
}

fn recorded<const D: usize>(x: Tensor<D>) -> Recorded {
    x.try_into_primitive::<Autodiff<Flex>>().expect("the caller checked `is_recorded`")
}

fn tensor<const D: usize>(x: Recorded) -> Tensor<D> {
    Tensor::from_primitive::<Autodiff<Flex>>(x)
}

/// An elementwise op.
fn elementwise_op<const D: usize>(
    x: Tensor<D>,
    forward: fn(&mut [f32]),
    backward: fn(&[f32], &mut [f32]),
) -> Tensor<D> {
    let x = recorded(x);
    let saved = x.primitive().to_contiguous();
    let output =
        in_place(saved.clone(), |x| rows::for_each(x, 1, tensors::EXP_STEPS, |_, x| forward(x)));
    let go_back = move |grad, _: [bool; 1]| {
        let x: &[f32] = saved.storage();
        [Some(in_place(grad, |grad| {
            rows::for_each(grad, 1, tensors::EXP_STEPS, |first, grad| {
                backward(&x[first..first + grad.len()], grad);
            });
        }))]
    };
    tensor(record([&x], output, Arc::new(go_back)))
}

/// `x * Phi(x)`
pub(crate) fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    elementwise_op(x, elementwise::gelu, gradient::gelu)
}

/// `x * sigmoid(1.702 x)`
pub(crate) fn quick_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    elementwise_op(x, elementwise::quick_gelu, gradient::quick_gelu)
}

/// `min(max(x, 0), 6)`, in place if no other tensor shares the buffer of `x`. The backward function
/// needs only the output.
pub(crate) fn relu6<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let (x, node) = recorded(x).into_parts();
    let output = images::relu6_of(x);
    let saved = output.clone();
    let go_back = move |grad, _: [bool; 1]| {
        let output: &[f32] = saved.storage();
        [Some(in_place(grad, |grad| {
            rows::for_each(grad, 1, 1, |first, grad| {
                gradient::relu6(&output[first..first + grad.len()], grad);
            });
        }))]
    };
    tensor(record_at([node], output, Arc::new(go_back)))
}

/// `gate * sigmoid(gate) * up`
pub(crate) fn silu_times<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    let (gate, up) = (recorded(gate), recorded(up));
    let [saved_gate, saved_up] = [&gate, &up].map(|x| x.primitive().to_contiguous());
    let output = tensors::silu_times_of(saved_gate.clone(), &saved_up);
    let go_back = move |grad: FlexTensor, _: [bool; 2]| {
        let shape = grad.shape();
        let (gate, up): (&[f32], &[f32]) = (saved_gate.storage(), saved_up.storage());
        let mut gate_grad = vec![0.0; gate.len()];
        let up_grad = in_place(grad, |grad| {
            let both = Both { left: grad, right: &mut gate_grad };
            both.for_each(|first, grad, gate_grad| {
                let range = first..first + grad.len();
                gradient::silu_times(&gate[range.clone()], &up[range], grad, gate_grad);
            });
        });
        [Some(contiguous(gate_grad, shape)), Some(up_grad)]
    };
    tensor(record([&gate, &up], output, Arc::new(go_back)))
}

/// Two slices of equal length that are written together.
struct Both<'a> {
    left: &'a mut [f32],
    right: &'a mut [f32],
}

impl Both<'_> {
    fn for_each(self, work: impl Fn(usize, &mut [f32], &mut [f32]) + Sync + Send) {
        use rayon::prelude::*;
        const PART: usize = 16 * 1024;
        let parts = |(part, (left, right)): (usize, (&mut [f32], &mut [f32]))| {
            work(part * PART, left, right)
        };
        if rows::is_alone() {
            self.left.chunks_mut(PART).zip(self.right.chunks_mut(PART)).enumerate().for_each(parts);
        } else {
            self.left
                .par_chunks_mut(PART)
                .zip(self.right.par_chunks_mut(PART))
                .enumerate()
                .for_each(parts);
        }
    }
}

/// `x / sqrt(mean(x^2) + epsilon) * gamma`
pub(crate) fn rms_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let (x, gamma) = (recorded(x), recorded(gamma));
    let [saved_x, saved_gamma] = [&x, &gamma].map(|x| x.primitive().to_contiguous());
    let output = tensors::rms_norm_of(&saved_x, &saved_gamma, epsilon);
    let go_back = move |grad: FlexTensor, _: [bool; 2]| {
        let (x, gamma): (&[f32], &[f32]) = (saved_x.storage(), saved_gamma.storage());
        let width = gamma.len();
        let mut grad = grad.to_contiguous();
        let gamma_grad =
            gradient::for_each_part(grad.storage_mut(), width, width, |first, grad, sum| {
                let x = &x[first * width..first * width + grad.len()];
                gradient::rms_norm(x, gamma, epsilon as f32, grad, sum);
            });
        [Some(grad), Some(contiguous(gamma_grad, Shape::from([width])))]
    };
    tensor(record([&x, &gamma], output, Arc::new(go_back)))
}

/// `(x - mean(x)) / sqrt(var(x) + epsilon) * gamma + beta`
pub(crate) fn layer_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    let (x, gamma, beta) = (recorded(x), recorded(gamma), recorded(beta));
    let [saved_x, saved_gamma, saved_beta] =
        [&x, &gamma, &beta].map(|x| x.primitive().to_contiguous());
    let output = tensors::layer_norm_of(&saved_x, &saved_gamma, &saved_beta, epsilon);
    let go_back = move |grad: FlexTensor, _: [bool; 3]| {
        let (x, gamma): (&[f32], &[f32]) = (saved_x.storage(), saved_gamma.storage());
        let width = gamma.len();
        let mut grad = grad.to_contiguous();
        let mut affine =
            gradient::for_each_part(grad.storage_mut(), width, 2 * width, |first, grad, sum| {
                let x = &x[first * width..first * width + grad.len()];
                gradient::layer_norm(x, gamma, epsilon as f32, grad, sum);
            });
        let beta_grad = affine.split_off(width);
        let vector = |values| Some(contiguous(values, Shape::from([width])));
        [Some(grad), vector(affine), vector(beta_grad)]
    };
    tensor(record([&x, &gamma, &beta], output, Arc::new(go_back)))
}

/// `x @ weight + bias`
pub(crate) fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    let (x, weight, bias) = (recorded(x), recorded(weight), bias.map(recorded));
    let saved_x = x.primitive().to_contiguous();
    let saved_weight = weight.primitive().clone();
    let bias_values = bias.as_ref().map(|bias| bias.primitive().to_contiguous());
    let output = linear_of(&saved_x, saved_weight.clone(), bias_values.as_ref());
    let go_back = move |grad: FlexTensor, [is_x, is_weight]: [bool; 2]| {
        let grad = grad.to_contiguous();
        let weight = Matrix::new(saved_weight.clone());
        let Matrix { d_in, d_out, is_transposed, .. } = weight;
        let x_grad = is_x.then(|| {
            contiguous(product::linear(grad.storage(), &weight.transposed(), None), saved_x.shape())
        });
        let weight_grad = is_weight.then(|| {
            let (x, grad): (&[f32], &[f32]) = (saved_x.storage(), grad.storage());
            let values = product::weight_gradient(x, grad, d_in, d_out, is_transposed);
            let strides =
                if is_transposed { vec![1, d_in as isize] } else { vec![d_out as isize, 1] };
            strided(values, Shape::from([d_in, d_out]), strides)
        });
        [x_grad, weight_grad]
    };
    let Some(bias) = bias else {
        return tensor(record([&x, &weight], output, Arc::new(go_back)));
    };
    let with_bias = move |grad: FlexTensor, [is_x, is_weight, is_bias]: [bool; 3]| {
        let grad = grad.to_contiguous();
        let bias_grad = is_bias.then(|| {
            let width = *grad.shape().last().expect("a matrix has columns");
            contiguous(gradient::sum_rows(grad.storage(), width), Shape::from([width]))
        });
        let [x_grad, weight_grad] = go_back(grad, [is_x, is_weight]);
        [x_grad, weight_grad, bias_grad]
    };
    tensor(record([&x, &weight, &bias], output, Arc::new(with_bias)))
}

/// Depth-wise `relu6(conv(x) + bias)`; `weight` is `[channels, 1, kernel, kernel]`.
pub(crate) fn depthwise_relu6(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Tensor<1>,
    stride: usize,
) -> Tensor<4> {
    let (x, weight, bias) = (recorded(x), recorded(weight), recorded(bias));
    let [saved_x, by_channel, bias_values] =
        [x.primitive(), weight.primitive(), bias.primitive()].map(|x| x.to_contiguous());
    let weight_shape = by_channel.shape();
    let by_channel = ByChannel::new(by_channel, bias_values, stride);
    let output = images::depthwise_relu6_of(&saved_x, &by_channel);
    let saved_output = output.clone();
    let go_back = move |grad: FlexTensor, wanted: [bool; 3]| {
        let (taps, sizes) = (by_channel.taps(), images::sizes(&saved_x));
        let (x, output, grad) = (saved_x.storage(), saved_output.storage(), grad.to_contiguous());
        let grads =
            convolution_gradient::depthwise_relu6(x, sizes, &taps, output, grad.storage(), wanted);
        let [x_grad, weight_grad, bias_grad] = grads;
        let channels = sizes[3];
        let by_channel =
            |values: Vec<f32>| images::transposed(&values, values.len() / channels, channels);
        [
            x_grad.map(|values| contiguous(values, saved_x.shape())),
            weight_grad.map(|values| contiguous(by_channel(values), weight_shape.clone())),
            bias_grad.map(|values| contiguous(values, Shape::from([channels]))),
        ]
    };
    tensor(record([&x, &weight, &bias], output, Arc::new(go_back)))
}

/// Attention: `[batch, heads, seq, head_dim]` → `[batch, seq_q, heads * head_dim]`.
pub(crate) fn attend(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, is_causal: bool) -> Tensor<3> {
    let inputs = [q, k, v].map(recorded);
    let saved = inputs.each_ref().map(|x| with_whole_rows(x.primitive().clone()));
    let output = tensors::attend_of(&saved, is_causal);
    let go_back = move |grad: FlexTensor, _: [bool; 3]| {
        let grad = grad.to_contiguous();
        let [q, k, v] = saved.each_ref().map(heads);
        let shapes = saved.each_ref().map(|x| x.shape());
        let mut grads = attention::gradients(&q, &k, &v, is_causal, grad.storage()).into_iter();
        shapes.map(|shape| {
            let (n_heads, seq, head_dim) = (shape[1], shape[2], shape[3]);
            let strides =
                [seq * n_heads * head_dim, head_dim, n_heads * head_dim, 1].map(|n| n as isize);
            Some(strided(grads.next().expect("one gradient per input"), shape, strides.to_vec()))
        })
    };
    tensor(record(inputs.each_ref(), output, Arc::new(go_back)))
}

/// Attention on packed queries, keys and values: rows of `[batch, seq, 3 * heads * head_dim]`.
pub(crate) fn attend_packed(qkv: Tensor<3>, n_heads: usize, is_causal: bool) -> Tensor<3> {
    let qkv = recorded(qkv);
    let saved = qkv.primitive().to_contiguous();
    let output = tensors::attend_packed_of(&saved, n_heads, is_causal);
    let go_back = move |grad: FlexTensor, _: [bool; 1]| {
        let grad = grad.to_contiguous();
        let [q, k, v] = tensors::parts(&saved, n_heads);
        let packed = attention::packed_gradient(&q, &k, &v, is_causal, grad.storage());
        [Some(contiguous(packed, saved.shape()))]
    };
    tensor(record([&qkv], output, Arc::new(go_back)))
}

/// Rotates the pairs of every head; `cos` and `sin` are constants.
pub(crate) fn rotate(x: Tensor<3>, cos: Tensor<4>, sin: Tensor<4>, n_heads: usize) -> Tensor<4> {
    let head_dim = x.dims()[2] / n_heads;
    let x = recorded(x);
    let [cos, sin] = [cos, sin].map(|table| recorded(table).into_primitive().to_contiguous());
    let output = tensors::rotate_of(x.primitive().clone(), &cos, &sin, head_dim);
    let go_back = move |grad: FlexTensor, _: [bool; 1]| {
        let back = in_place(sin.clone(), |sin| gradient::scale(sin, -1.0));
        [Some(tensors::rotate_of(grad, &cos, &back, head_dim))]
    };
    tensors::split_heads(tensor(record([&x], output, Arc::new(go_back))), head_dim)
}

/// Mean of `-log softmax(logits)[target]` over the rows.
pub(crate) fn cross_entropy(logits: Tensor<2>, targets: Vec<usize>) -> Tensor<1> {
    let logits = recorded(logits);
    let saved = logits.primitive().to_contiguous();
    let [n, classes] = [saved.shape()[0], saved.shape()[1]];
    let (values, log_sums) =
        (saved.storage::<f32>(), elementwise::log_sums(saved.storage(), classes));
    let losses = targets
        .iter()
        .enumerate()
        .map(|(row, target)| f64::from(log_sums[row]) - f64::from(values[row * classes + target]));
    let mean = (losses.sum::<f64>() / n as f64) as f32;
    let output = contiguous(vec![mean], Shape::from([1]));
    let go_back = move |grad: FlexTensor, _: [bool; 1]| {
        let factor = grad.storage::<f32>()[grad.layout().start_offset()] / n as f32;
        let probs = in_place(saved.clone(), |probs| {
            rows::for_each(probs, classes, tensors::EXP_STEPS, |first, rows| {
                for (nth, row) in rows.chunks_exact_mut(classes).enumerate() {
                    gradient::exponentials(row, log_sums[first + nth]);
                    row[targets[first + nth]] -= 1.0;
                    gradient::scale(row, factor);
                }
            });
        });
        [Some(probs)]
    };
    tensor(record([&logits], output, Arc::new(go_back)))
}
