//! Calls the CPU kernels, which work on slices, with tensors.

#[cfg(feature = "autodiff")]
use std::sync::atomic::{AtomicBool, Ordering};

use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::{DispatchDevice, Flex};
use burn::tensor::{Bytes, DType, Device, Int, Shape, Tensor, TensorData};

use super::attention::{self, Heads};
use super::linear::Weight;
use super::{elementwise, linear as product, rows};

/// Cost of an exponential, in multiplications.
pub(super) const EXP_STEPS: usize = 16;

/// Whether a tensor is on the CPU, f32, and without autodiff.
pub(crate) fn is_here<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && is_cpu(&x.device())
}

#[cfg(feature = "autodiff")]
static BURNS_OPERATIONS_ONLY: AtomicBool = AtomicBool::new(false);

/// Makes all later CPU graphs use Burn's operations, as on other devices. For comparisons with our
/// kernels.
#[cfg(feature = "autodiff")]
pub fn record_as_other_devices() {
    BURNS_OPERATIONS_ONLY.store(true, Ordering::Relaxed);
}

/// Whether a tensor is on the CPU, f32, and on an autodiff device.
#[cfg(feature = "autodiff")]
pub(crate) fn is_recorded<const D: usize>(x: &Tensor<D>) -> bool {
    let device = x.device();
    let is_recorded = matches!(device.as_dispatch(), DispatchDevice::Autodiff(_));
    let may_be_ours = is_recorded && !BURNS_OPERATIONS_ONLY.load(Ordering::Relaxed);
    x.dtype() == DType::F32 && may_be_ours && is_cpu(&device.inner())
}

/// Whether a device is the CPU without autodiff. There, reading a result back costs nothing.
pub fn is_cpu(device: &Device) -> bool {
    matches!(device.as_dispatch(), DispatchDevice::Flex(_))
}

/// `x * Phi(x)`
pub(crate) fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    wrap(in_place(primitive(x), |x| rows::for_each(x, 1, EXP_STEPS, |_, x| elementwise::gelu(x))))
}

/// `x * sigmoid(1.702 x)`
pub(crate) fn quick_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    wrap(in_place(primitive(x), |x| {
        rows::for_each(x, 1, EXP_STEPS, |_, x| elementwise::quick_gelu(x))
    }))
}

/// `gate * sigmoid(gate) * up`
pub(crate) fn silu_times<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    wrap(silu_times_of(primitive(gate), &whole(up)))
}

pub(super) fn silu_times_of(gate: FlexTensor, up: &FlexTensor) -> FlexTensor {
    let up: &[f32] = up.storage();
    in_place(gate, |gate| {
        rows::for_each(gate, 1, EXP_STEPS, |first, gate| {
            elementwise::silu_times(gate, &up[first..first + gate.len()]);
        });
    })
}

/// `x / sqrt(mean(x^2) + epsilon) * gamma`
pub(crate) fn rms_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, epsilon: f64) -> Tensor<D> {
    wrap(rms_norm_of(&whole(x), &whole(gamma), epsilon))
}

pub(super) fn rms_norm_of(x: &FlexTensor, gamma: &FlexTensor, epsilon: f64) -> FlexTensor {
    let (values, gamma): (&[f32], &[f32]) = (x.storage(), gamma.storage());
    let mut out = vec![0.0; values.len()];
    rows::for_each(&mut out, gamma.len(), 2, |first, out| {
        let start = first * gamma.len();
        elementwise::rms_norm(&values[start..start + out.len()], gamma, epsilon as f32, out);
    });
    contiguous(out, x.layout().shape().clone())
}

/// `(x - mean(x)) / sqrt(var(x) + epsilon) * gamma + beta`
pub(crate) fn layer_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    wrap(layer_norm_of(&whole(x), &whole(gamma), &whole(beta), epsilon))
}

pub(super) fn layer_norm_of(
    x: &FlexTensor,
    gamma: &FlexTensor,
    beta: &FlexTensor,
    epsilon: f64,
) -> FlexTensor {
    let (values, gamma, beta): (&[f32], &[f32], &[f32]) =
        (x.storage(), gamma.storage(), beta.storage());
    let mut out = vec![0.0; values.len()];
    rows::for_each(&mut out, gamma.len(), 4, |first, out| {
        let start = first * gamma.len();
        elementwise::layer_norm(
            &values[start..start + out.len()],
            gamma,
            beta,
            epsilon as f32,
            out,
        );
    });
    contiguous(out, x.layout().shape().clone())
}

/// The best token of each row of scores: its index, `[batch, 1]`, and its index and log probability
/// as floats, `[batch, 2]`.
pub(crate) fn most_probable(logits: Tensor<2>) -> (Tensor<2, Int>, Tensor<2>) {
    let device = logits.device();
    let [batch, vocab_size] = logits.dims();
    let logits = whole(logits);
    let logits: &[f32] = logits.storage();
    let best: Vec<(usize, f32)> =
        logits.chunks_exact(vocab_size).map(elementwise::most_probable).collect();
    let ids: Vec<i64> = best.iter().map(|(id, _)| *id as i64).collect();
    let choices: Vec<f32> =
        best.iter().flat_map(|(id, log_prob)| [*id as f32, *log_prob]).collect();
    (Tensor::from_data(TensorData::new(ids, [batch, 1]), &device), tensor(choices, [batch, 2]))
}

/// `x @ weight + bias`
pub(crate) fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    wrap(linear_of(&whole(x), primitive(weight), bias.map(whole).as_ref()))
}

pub(super) fn linear_of(
    x: &FlexTensor,
    weight: FlexTensor,
    bias: Option<&FlexTensor>,
) -> FlexTensor {
    let mut shape = x.layout().shape().to_vec();
    let weight = Matrix::new(weight);
    *shape.last_mut().expect("rows have a width") = weight.d_out;
    let out = product::linear(x.storage(), &weight.view(), bias.map(|bias| bias.storage()));
    contiguous(out, Shape::from(shape))
}

/// A weight `[d_in, d_out]`, stored by rows or by columns.
pub(super) struct Matrix {
    tensor: FlexTensor,
    pub d_in: usize,
    pub d_out: usize,
    /// Whether the elements of a column are adjacent, instead of those of a row.
    pub is_transposed: bool,
}

impl Matrix {
    pub(super) fn new(tensor: FlexTensor) -> Self {
        let [d_in, d_out] = [0, 1].map(|axis| tensor.layout().shape()[axis]);
        let is_transposed = tensor.layout().strides() == [1, d_in as isize] && d_in > 1;
        let tensor = if is_transposed { tensor } else { tensor.to_contiguous() };
        Self { tensor, d_in, d_out, is_transposed }
    }

    fn view(&self) -> Weight<'_> {
        let Self { d_in, d_out, is_transposed, .. } = *self;
        Weight { values: from_first(&self.tensor), d_in, d_out, is_transposed }
    }

    /// The transpose, which maps gradients of outputs to gradients of inputs.
    #[cfg(feature = "autodiff")]
    pub(super) fn transposed(&self) -> Weight<'_> {
        let Self { d_in, d_out, is_transposed, .. } = *self;
        Weight {
            values: from_first(&self.tensor),
            d_in: d_out,
            d_out: d_in,
            is_transposed: !is_transposed,
        }
    }
}

/// Attention on views: `[batch, heads, seq, head_dim]` → `[batch, seq_q, heads * head_dim]`.
pub(crate) fn attend(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, is_causal: bool) -> Tensor<3> {
    wrap(attend_of(&[q, k, v].map(|x| with_whole_rows(primitive(x))), is_causal))
}

pub(super) fn attend_of(inputs: &[FlexTensor; 3], is_causal: bool) -> FlexTensor {
    let [q, k, v] = inputs.each_ref().map(heads);
    attended(&q, &k, &v, is_causal)
}

/// Attention on packed queries, keys and values: rows of `[batch, seq, 3 * heads * head_dim]`.
pub(crate) fn attend_packed(qkv: Tensor<3>, n_heads: usize, is_causal: bool) -> Tensor<3> {
    wrap(attend_packed_of(&whole(qkv), n_heads, is_causal))
}

pub(super) fn attend_packed_of(qkv: &FlexTensor, n_heads: usize, is_causal: bool) -> FlexTensor {
    let [q, k, v] = parts(qkv, n_heads);
    attended(&q, &k, &v, is_causal)
}

fn attended(q: &Heads, k: &Heads, v: &Heads, is_causal: bool) -> FlexTensor {
    let [batch, n_heads, seq_q, head_dim] = q.shape;
    contiguous(
        attention::attend(q, k, v, is_causal),
        Shape::from([batch, seq_q, n_heads * head_dim]),
    )
}

/// Views of the queries, keys and values of a packed tensor.
pub(super) fn parts(qkv: &FlexTensor, n_heads: usize) -> [Heads<'_>; 3] {
    let [batch, seq, three_widths] = [0, 1, 2].map(|axis| qkv.layout().shape()[axis]);
    let width = three_widths / 3;
    let head_dim = width / n_heads;
    let values: &[f32] = qkv.storage();
    [0, 1, 2].map(|part| Heads {
        values: &values[part * width..],
        shape: [batch, n_heads, seq, head_dim],
        strides: [seq * three_widths, head_dim, three_widths],
    })
}

/// Rotates the pairs `(x[i], x[i + head_dim / 2])` of every head.
///
/// `x` is `[batch, seq, heads * head_dim]`.
///
/// `cos` and `sin` hold `[seq, head_dim / 2]` values.
///
/// Returns `[batch, heads, seq, head_dim]`.
pub(crate) fn rotate(x: Tensor<3>, cos: Tensor<4>, sin: Tensor<4>, n_heads: usize) -> Tensor<4> {
    let head_dim = x.dims()[2] / n_heads;
    split_heads(wrap(rotate_of(primitive(x), &whole(cos), &whole(sin), head_dim)), head_dim)
}

/// `[batch, seq, heads * head_dim]` → `[batch, heads, seq, head_dim]`
pub(super) fn split_heads(x: Tensor<3>, head_dim: usize) -> Tensor<4> {
    let [batch, seq, width] = x.dims();
    x.reshape([batch, seq, width / head_dim, head_dim]).swap_dims(1, 2)
}

pub(super) fn rotate_of(
    x: FlexTensor,
    cos: &FlexTensor,
    sin: &FlexTensor,
    head_dim: usize,
) -> FlexTensor {
    let [seq, width] = [1, 2].map(|axis| x.layout().shape()[axis]);
    let half = head_dim / 2;
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

pub(super) fn heads(x: &FlexTensor) -> Heads<'_> {
    let (shape, strides) = (x.layout().shape(), x.layout().strides());
    Heads {
        values: from_first(x),
        shape: [shape[0], shape[1], shape[2], shape[3]],
        strides: [0, 1, 2].map(|axis| strides[axis] as usize),
    }
}

/// A view whose last axis is contiguous; copies the tensor if it is not.
pub(super) fn with_whole_rows(x: FlexTensor) -> FlexTensor {
    let strides = x.layout().strides();
    if strides[3] == 1 && strides.iter().all(|stride| *stride >= 0) { x } else { x.to_contiguous() }
}

pub(super) fn from_first(x: &FlexTensor) -> &[f32] {
    &x.storage::<f32>()[x.layout().start_offset()..]
}

/// The tensor in contiguous memory, row by row.
pub(super) fn whole<const D: usize>(x: Tensor<D>) -> FlexTensor {
    primitive(x).to_contiguous()
}

/// Runs `work` on the values in place, or on a copy if their buffer is shared.
pub(super) fn in_place(x: FlexTensor, work: impl FnOnce(&mut [f32])) -> FlexTensor {
    let mut x = x.to_contiguous();
    work(x.storage_mut());
    x
}

pub(super) fn primitive<const D: usize>(x: Tensor<D>) -> FlexTensor {
    x.try_into_primitive::<Flex>().expect("the caller checked `is_here`")
}

pub(super) fn wrap<const D: usize>(x: FlexTensor) -> Tensor<D> {
    Tensor::from_primitive::<Flex>(x)
}

pub(super) fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
    wrap(contiguous(values, Shape::from(shape)))
}

/// A tensor from values in row-major order.
pub(super) fn contiguous(values: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(shape), DType::F32)
}

/// A tensor from values with the given strides.
#[cfg(feature = "autodiff")]
pub(super) fn strided(values: Vec<f32>, shape: Shape, strides: Vec<isize>) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::new(shape, strides, 0), DType::F32)
}
