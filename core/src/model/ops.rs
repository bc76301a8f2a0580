//! The operations of the graph, in Burn's terms; on the CPU a kernel of ours does each at once.

use burn::nn::RmsNorm;
use burn::tensor::{Int, Tensor, activation, module};

#[cfg(feature = "cpu")]
use crate::cpu;

/// `x @ weight + bias`: `[.., d_in]` → `[.., d_out]` by `[d_in, d_out]`.
pub(super) fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    #[cfg(feature = "cpu")]
    if cpu::is_here(&x) && cpu::is_here(&weight) && bias.as_ref().is_none_or(cpu::is_here) {
        return cpu::linear(x, weight, bias);
    }
    module::linear(x, weight, bias)
}

/// The largest of each row's scores: its place and the log of its softmax, each `[batch, 1]`.
pub(crate) fn most_probable(logits: Tensor<2>) -> (Tensor<2, Int>, Tensor<2>) {
    #[cfg(feature = "cpu")]
    if cpu::is_here(&logits) {
        return cpu::most_probable(logits);
    }
    let best = logits.clone().argmax(1);
    let largest = logits.clone().gather(1, best.clone());
    (best, -(logits - largest).exp().sum_dim(1).log())
}

/// `x * Phi(x)`, exact.
pub(super) fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "cpu")]
    if cpu::is_here(&x) {
        return cpu::gelu(x);
    }
    activation::gelu(x)
}

/// `x * sigmoid(1.702 x)`: OpenAI's approximation.
pub(super) fn quick_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "cpu")]
    if cpu::is_here(&x) {
        return cpu::quick_gelu(x);
    }
    x.clone() * activation::sigmoid(x * 1.702)
}

/// `gate * sigmoid(gate) * up`: SwiGLU.
pub(super) fn silu_times<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "cpu")]
    if cpu::is_here(&gate) && cpu::is_here(&up) {
        return cpu::silu_times(gate, up);
    }
    activation::silu(gate) * up
}

/// `x / sqrt(mean(x^2) + epsilon) * gamma`
pub(super) fn rms_norm<const D: usize>(norm: &RmsNorm, x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "cpu")]
    {
        let gamma = norm.gamma.val();
        if cpu::is_here(&x) && cpu::is_here(&gamma) {
            return cpu::rms_norm(x, gamma, norm.epsilon);
        }
    }
    norm.forward(x)
}

/// Turns the pairs `(x[i], x[i + head_dim / 2])` of every head by the angles of its position: Hugging
/// Face's order, not the paper's interleaved one.
///
/// # Shapes
/// - x: `[batch, seq, heads * head_dim]`
/// - cos, sin: `[1, 1, seq, head_dim / 2]`
/// - returns: `[batch, heads, seq, head_dim]`
pub(super) fn rotate(x: Tensor<3>, cos: Tensor<4>, sin: Tensor<4>, n_heads: usize) -> Tensor<4> {
    let [_, _, width] = x.dims();
    let head_dim = width / n_heads;
    #[cfg(feature = "cpu")]
    if cpu::is_here(&x) && cpu::is_here(&cos) && cpu::is_here(&sin) {
        return heads(cpu::rotate(x, cos, sin, head_dim), n_heads);
    }
    let half = head_dim / 2;
    let x = heads(x, n_heads);
    let (first, second) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
    Tensor::cat(
        vec![first.clone() * cos.clone() - second.clone() * sin.clone(), second * cos + first * sin],
        3,
    )
}

/// `[batch, seq, heads * head_dim]` → `[batch, heads, seq, head_dim]`
pub(super) fn heads(x: Tensor<3>, n_heads: usize) -> Tensor<4> {
    let [batch, seq, width] = x.dims();
    x.reshape([batch, seq, n_heads, width / n_heads]).swap_dims(1, 2)
}
