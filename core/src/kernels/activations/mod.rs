//! Activations.

use burn::tensor::{Tensor, activation};

use super::dispatch::dispatch;

/// `x * Phi(x)`: the exact GELU.
pub(crate) fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    dispatch! {
        cpu [x] => activations::gelu(x);
        gpu [x] => activations::gelu(x);
    }
    activation::gelu(x)
}

/// `x * sigmoid(1.702 x)`: OpenAI's approximation.
pub(crate) fn quick_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    dispatch! {
        cpu [x] => activations::quick_gelu(x);
        gpu [x] => activations::quick_gelu(x);
    }
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
    dispatch! {
        cpu [x] => activations::relu6(x);
    }
    x.clamp(0.0, 6.0)
}

/// `gate * sigmoid(gate) * up`: SwiGLU.
pub(crate) fn silu_times<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    dispatch! {
        cpu [gate, up] => activations::silu_times(gate, up);
        gpu [gate, up] => activations::silu_times(gate, up);
    }
    activation::silu(gate) * up
}
