//! From tensors on the CPU to slices and back.

use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::{DispatchDevice, Flex};
use burn::tensor::{Bytes, DType, Device, Int, Shape, Tensor, TensorData};

use super::attention::{self, Heads};
use super::linear::Weight;
use super::{elementwise, linear as product, rows};

/// What an exponential costs, in multiplications.
const EXP_STEPS: usize = 16;

/// Whether a tensor is on the CPU, in f32, and outside a gradient's graph.
pub(crate) fn is_here<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && is_cpu(&x.device())
}

/// Whether a device is the CPU, where reading a result back costs nothing; not where it records a graph.
pub(crate) fn is_cpu(device: &Device) -> bool {
    matches!(device.as_dispatch(), DispatchDevice::Flex(_))
}

/// `x * Phi(x)`
pub(crate) fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    in_place(x, |x| rows::for_each(x, 1, EXP_STEPS, |_, x| elementwise::gelu(x)))
}

/// `x * sigmoid(1.702 x)`
pub(crate) fn quick_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    in_place(x, |x| rows::for_each(x, 1, EXP_STEPS, |_, x| elementwise::quick_gelu(x)))
}

/// `gate * sigmoid(gate) * up`
pub(crate) fn silu_times<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    let up = whole(up);
    let up: &[f32] = up.storage();
    in_place(gate, |gate| {
        rows::for_each(gate, 1, EXP_STEPS, |first, gate| {
            elementwise::silu_times(gate, &up[first..first + gate.len()]);
        });
    })
}

/// `x / sqrt(mean(x^2) + epsilon) * gamma`
pub(crate) fn rms_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let shape = x.dims();
    let (x, gamma) = (whole(x), whole(gamma));
    let (x, gamma): (&[f32], &[f32]) = (x.storage(), gamma.storage());
    let mut out = vec![0.0; x.len()];
    rows::for_each(&mut out, gamma.len(), 2, |first, out| {
        let start = first * gamma.len();
        elementwise::rms_norm(&x[start..start + out.len()], gamma, epsilon as f32, out);
    });
    tensor(out, shape)
}

/// The largest of each row's scores: its place and the log of its softmax, each `[batch, 1]`.
pub(crate) fn most_probable(logits: Tensor<2>) -> (Tensor<2, Int>, Tensor<2>) {
    let device = logits.device();
    let [batch, vocab_size] = logits.dims();
    let logits = whole(logits);
    let logits: &[f32] = logits.storage();
    let (ids, log_probs): (Vec<i64>, Vec<f32>) = logits
        .chunks_exact(vocab_size)
        .map(|scores| {
            let (best, log_prob) = elementwise::most_probable(scores);
            (best as i64, log_prob)
        })
        .unzip();
    (Tensor::from_data(TensorData::new(ids, [batch, 1]), &device), tensor(log_probs, [batch, 1]))
}

/// `x @ weight + bias`
pub(crate) fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    let mut shape = x.dims();
    let [d_in, d_out] = weight.dims();
    let (x, weight, bias) = (whole(x), primitive(weight), bias.map(whole));
    let is_transposed = weight.layout().strides() == [1, d_in as isize] && d_in > 1;
    let weight = if is_transposed { weight } else { weight.to_contiguous() };
    let weight = Weight { values: from_first(&weight), d_in, d_out, is_transposed };
    shape[D - 1] = d_out;
    tensor(product::linear(x.storage(), &weight, bias.as_ref().map(|bias| bias.storage())), shape)
}

/// Attention over views: `[batch, seq_q, heads * head_dim]` from `[batch, heads, seq, head_dim]`.
pub(crate) fn attend(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, is_causal: bool) -> Tensor<3> {
    let [batch, n_heads, seq_q, head_dim] = q.dims();
    let [q, k, v] = [q, k, v].map(with_whole_rows);
    let out = attention::attend(&heads(&q), &heads(&k), &heads(&v), is_causal);
    tensor(out, [batch, seq_q, n_heads * head_dim])
}

/// Turns the pairs `(x[i], x[i + head_dim / 2])` of every head of `[batch, seq, heads * head_dim]`.
///
/// `cos` and `sin` hold `[seq, head_dim / 2]` values.
pub(crate) fn rotate(x: Tensor<3>, cos: Tensor<4>, sin: Tensor<4>, head_dim: usize) -> Tensor<3> {
    let [_, seq, width] = x.dims();
    let half = head_dim / 2;
    let (cos, sin) = (whole(cos), whole(sin));
    let (cos, sin): (&[f32], &[f32]) = (cos.storage(), sin.storage());
    in_place(x, |x| {
        rows::for_each(x, width, 4, |first, rows| {
            for (row, values) in rows.chunks_exact_mut(width).enumerate() {
                let at = (first + row) % seq * half;
                for head in values.chunks_exact_mut(head_dim) {
                    let (a, b) = head.split_at_mut(half);
                    elementwise::rotate(a, b, &cos[at..at + half], &sin[at..at + half]);
                }
            }
        });
    })
}

fn heads(x: &FlexTensor) -> Heads<'_> {
    let (shape, strides) = (x.layout().shape(), x.layout().strides());
    Heads {
        values: from_first(x),
        shape: [shape[0], shape[1], shape[2], shape[3]],
        strides: [0, 1, 2].map(|axis| strides[axis] as usize),
    }
}

/// A view whose rows can be read as slices; a copy where they cannot.
fn with_whole_rows(x: Tensor<4>) -> FlexTensor {
    let x = primitive(x);
    let strides = x.layout().strides();
    if strides[3] == 1 && strides.iter().all(|stride| *stride >= 0) { x } else { x.to_contiguous() }
}

fn from_first(x: &FlexTensor) -> &[f32] {
    &x.storage::<f32>()[x.layout().start_offset()..]
}

/// The tensor alone in its buffer, row by row.
fn whole<const D: usize>(x: Tensor<D>) -> FlexTensor {
    primitive(x).to_contiguous()
}

/// Works on the values where they are; on a copy if someone else holds them too.
fn in_place<const D: usize>(x: Tensor<D>, work: impl FnOnce(&mut [f32])) -> Tensor<D> {
    let mut x = whole(x);
    work(x.storage_mut());
    Tensor::from_primitive::<Flex>(x)
}

fn primitive<const D: usize>(x: Tensor<D>) -> FlexTensor {
    x.try_into_primitive::<Flex>().expect("asked with `is_here`")
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
    let layout = Layout::contiguous(Shape::from(shape));
    Tensor::from_primitive::<Flex>(FlexTensor::new(Bytes::from_elems(values), layout, DType::F32))
}
