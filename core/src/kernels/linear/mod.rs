//! Products with a weight matrix. [`super::quant`] has those with packed matrices.

use burn::tensor::{Tensor, module};

use super::activations::relu6;
use super::dispatch::dispatch;

/// `x @ weight + bias`: `[.., d_in]` → `[.., d_out]` by `[d_in, d_out]`.
pub(crate) fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    dispatch! {
        cpu [x, weight] => linear::linear(x, weight, bias);
        gpu if supports_product(&x, &weight) => linear::linear(x, weight, bias, None);
    }
    module::linear(x, weight, bias)
}

/// `relu6(x @ weight + bias)`, with the shapes of [`linear`].
pub(crate) fn linear_relu6<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Tensor<1>,
) -> Tensor<D> {
    dispatch! {
        cpu if supports_relu6(&x, &weight) => linear::linear_relu6(x, weight, bias);
        gpu if supports_product(&x, &weight) => linear::linear_relu6(x, weight, bias);
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
    dispatch! {
        gpu if supports_product(&x, &weight) => linear::linear(x, weight, bias, Some(residual));
    }
    residual + linear(x, weight, bias)
}
