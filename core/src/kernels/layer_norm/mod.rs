//! Layer normalisation (arXiv:1607.06450).

use burn::tensor::{Tensor, module};

use super::dispatch::dispatch;

/// `(x - mean(x)) / sqrt(var(x) + epsilon) * gamma + beta`
pub(crate) fn layer_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    dispatch! {
        cpu [x, beta] => layer_norm::layer_norm(x, gamma, beta, epsilon);
        gpu [x, beta] => layer_norm::layer_norm(x, gamma, beta, epsilon);
    }
    let (dtype, own) = (x.dtype(), gamma.dtype());
    module::layer_norm(x.cast(own), gamma, Some(beta), epsilon).cast(dtype)
}
