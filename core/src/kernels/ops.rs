//! The ops of the graph: one of our kernels on the CPU and on GPUs where it applies, else Burn's
//! ops.
//!
//! Norms, means and losses are computed in f32 even if the weights are bf16.

use burn::nn::RmsNorm;
use burn::tensor::{DType, Device, Int, Tensor, TensorData, activation, module};

#[cfg(feature = "cpu")]
use crate::kernels::cpu;
#[cfg(feature = "gpu")]
use crate::kernels::gpu;

/// Returns the result of our CPU kernel if all these tensors are f32 on the CPU.
macro_rules! on_cpu {
    ([$($x:expr),+] => $op:ident($($arg:expr),*)) => {
        #[cfg(feature = "cpu")]
        if $(cpu::is_here(&$x))&&+ {
            return cpu::$op($($arg),*);
        }
        #[cfg(all(feature = "cpu", feature = "autodiff"))]
        if $(cpu::is_recorded(&$x))&&+ {
            return cpu::graph::$op($($arg),*);
        }
    };
}
pub(crate) use on_cpu;

/// Returns the result of our GPU kernel if all these tensors are on a GPU that it supports.
macro_rules! on_gpu {
    ([$($x:expr),+] => $op:ident($($arg:expr),*)) => {
        #[cfg(feature = "gpu")]
        if $(gpu::is_here(&$x))&&+ {
            return gpu::$op($($arg),*);
        }
    };
}
#[cfg(feature = "gpu")]
pub(super) use on_gpu;

/// On the CPU, runs `work` inside rayon's pool, so that consecutive small ops avoid a hand-over
/// each.
///
/// Do not use it for batches: a batch would keep the pool from urgent requests.
pub(crate) fn together<R: Send>(device: &Device, work: impl FnOnce() -> R + Send) -> R {
    #[cfg(feature = "cpu")]
    if cpu::is_cpu(device) {
        return cpu::in_pool(work);
    }
    let _ = device;
    work()
}

/// Runs a block of a tower, with gradient checkpointing if enabled: see [`crate::model::recompute`].
#[cfg(feature = "autodiff")]
pub(crate) use crate::model::recompute::through;

/// Runs a block of a tower.
#[cfg(not(feature = "autodiff"))]
pub(crate) fn through<M>(
    block: &M,
    x: Tensor<3>,
    forward: impl Fn(&M, Tensor<3>) -> Tensor<3>,
) -> Tensor<3> {
    forward(block, x)
}

/// `x @ weight + bias`: `[.., d_in]` → `[.., d_out]` by `[d_in, d_out]`.
pub(crate) fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    on_cpu!([x, weight] => linear(x, weight, bias));
    #[cfg(feature = "gpu")]
    if gpu::can_multiply(&x, &weight) {
        return gpu::linear(x, weight, bias, None);
    }
    module::linear(x, weight, bias)
}

/// `relu6(x @ weight + bias)`, with the shapes of [`linear`].
pub(crate) fn linear_relu6<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Tensor<1>,
) -> Tensor<D> {
    #[cfg(feature = "cpu")]
    if cpu::is_here(&x) && cpu::is_here(&weight) {
        return cpu::linear_relu6(x, weight, bias);
    }
    #[cfg(feature = "gpu")]
    if gpu::can_multiply(&x, &weight) {
        return gpu::linear_relu6(x, weight, bias);
    }
    relu6(linear(x, weight, Some(bias)))
}

/// `residual + x @ weight + bias`, with the shapes of [`linear`].
pub(crate) fn linear_onto<const D: usize>(
    residual: Tensor<D>,
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    #[cfg(feature = "gpu")]
    if gpu::can_multiply(&x, &weight) {
        return gpu::linear(x, weight, bias, Some(residual));
    }
    residual + linear(x, weight, bias)
}

/// The best token of each row of scores.
///
/// Returns its index on the device, `[batch, 1]`, and `[batch, 2]` for the host: the index and the
/// log of its softmax. The index is exact in f32, because a vocabulary is far below 2^24.
pub(crate) fn most_probable(logits: Tensor<2>) -> (Tensor<2, Int>, Tensor<2>) {
    #[cfg(feature = "cpu")]
    if cpu::is_here(&logits) {
        return cpu::most_probable(logits);
    }
    on_gpu!([logits] => most_probable(logits));
    let logits = logits.cast(DType::F32);
    let best = logits.clone().argmax(1);
    let largest = logits.clone().gather(1, best.clone());
    let log_prob = -(logits - largest).exp().sum_dim(1).log();
    (best.clone(), Tensor::cat(vec![best.float().cast(DType::F32), log_prob], 1))
}

/// Scales rows to unit length, in f32; a row of zeros stays zero.
pub(crate) fn unit_rows<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    const SMALLEST: f32 = 1e-12;
    on_gpu!([x] => unit_rows(x, SMALLEST));
    let x = x.cast(DType::F32);
    let norm = x.clone().square().sum_dim(D - 1).sqrt().clamp_min(SMALLEST);
    x / norm
}

/// `x * Phi(x)`: the exact GELU.
pub(crate) fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    on_cpu!([x] => gelu(x));
    on_gpu!([x] => gelu(x));
    activation::gelu(x)
}

/// `x * sigmoid(1.702 x)`: OpenAI's approximation.
pub(crate) fn quick_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    on_cpu!([x] => quick_gelu(x));
    on_gpu!([x] => quick_gelu(x));
    x.clone() * activation::sigmoid(x * 1.702)
}

/// `x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2`: SigLIP's approximation of GELU.
pub(crate) fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    // (1 + tanh(u)) / 2 is the logistic function of 2 u.
    const TWICE: f64 = 1.595_769_121_605_730_7;
    let inner = (x.clone().square() * 0.044715 + 1.0) * x.clone() * TWICE;
    x * activation::sigmoid(inner)
}

/// `min(max(x, 0), 6)`
pub(crate) fn relu6<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    on_cpu!([x] => relu6(x));
    x.clamp(0.0, 6.0)
}

/// `gate * sigmoid(gate) * up`: SwiGLU.
pub(crate) fn silu_times<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    on_cpu!([gate, up] => silu_times(gate, up));
    on_gpu!([gate, up] => silu_times(gate, up));
    activation::silu(gate) * up
}

/// `x / sqrt(mean(x^2) + epsilon) * gamma`
pub(crate) fn rms_norm<const D: usize>(norm: &RmsNorm, x: Tensor<D>) -> Tensor<D> {
    on_cpu!([x, norm.gamma.val()] => rms_norm(x, norm.gamma.val(), norm.epsilon));
    on_gpu!([x, norm.gamma.val()] => rms_norm(x, norm.gamma.val(), norm.epsilon));
    let (dtype, own) = (x.dtype(), norm.gamma.val().dtype());
    if dtype != own {
        return rms_norm(norm, x.cast(own)).cast(dtype);
    }
    norm.forward(x)
}

/// `(x - mean(x)) / sqrt(var(x) + epsilon) * gamma + beta`
pub(crate) fn layer_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    on_cpu!([x, beta] => layer_norm(x, gamma, beta, epsilon));
    on_gpu!([x, beta] => layer_norm(x, gamma, beta, epsilon));
    let (dtype, own) = (x.dtype(), gamma.dtype());
    module::layer_norm(x.cast(own), gamma, Some(beta), epsilon).cast(dtype)
}

/// Mean over an axis, which stays as an axis of length 1.
pub(crate) fn mean_dim<const D: usize>(x: Tensor<D>, dim: usize) -> Tensor<D> {
    let dtype = x.dtype();
    x.cast(DType::F32).mean_dim(dim).cast(dtype)
}

/// Mean of `-log softmax(logits)[target]` over the rows, in f32: `[n, classes]` → `[1]`.
pub(crate) fn cross_entropy(logits: Tensor<2>, targets: Vec<usize>) -> Tensor<1> {
    let logits = logits.cast(DType::F32);
    #[cfg(all(feature = "cpu", feature = "autodiff"))]
    if cpu::is_recorded(&logits) {
        return cpu::graph::cross_entropy(logits, targets);
    }
    let n = targets.len();
    let targets: Vec<i32> = targets.into_iter().map(|target| target as i32).collect();
    let targets = Tensor::<2, Int>::from_data(TensorData::new(targets, [n, 1]), &logits.device());
    -activation::log_softmax(logits, 1).gather(1, targets).mean()
}

/// Rotates the pairs `(x[i], x[i + head_dim / 2])` of every head by the angles of its position.
///
/// This is Hugging Face's order of the pairs, not the interleaved one of the RoPE paper.
///
/// # Shapes
/// - x: `[batch, seq, heads * head_dim]`
/// - cos, sin: `[1, 1, seq, head_dim / 2]`
/// - returns: `[batch, heads, seq, head_dim]`
pub(crate) fn rotate(x: Tensor<3>, cos: Tensor<4>, sin: Tensor<4>, n_heads: usize) -> Tensor<4> {
    on_cpu!([x, cos, sin] => rotate(x, cos, sin, n_heads));
    on_gpu!([x, cos, sin] => rotate(x, cos, sin, n_heads));
    let x = heads(x, n_heads);
    let half = x.dims()[3] / 2;
    let [cos, sin] = [cos, sin].map(|table| table.cast(x.dtype()));
    let (first, second) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
    Tensor::cat(
        vec![
            first.clone() * cos.clone() - second.clone() * sin.clone(),
            second * cos + first * sin,
        ],
        3,
    )
}

/// `[batch, seq, heads * head_dim]` → `[batch, heads, seq, head_dim]`
pub(crate) fn heads(x: Tensor<3>, n_heads: usize) -> Tensor<4> {
    let [batch, seq, width] = x.dims();
    x.reshape([batch, seq, n_heads, width / n_heads]).swap_dims(1, 2)
}
