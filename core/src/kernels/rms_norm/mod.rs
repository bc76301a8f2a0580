//! RMSNorm (arXiv:1910.07467).

use burn::nn::RmsNorm;
use burn::tensor::Tensor;

use super::dispatch::dispatch;

/// `x / sqrt(mean(x^2) + epsilon) * gamma`
pub(crate) fn rms_norm<const D: usize>(norm: &RmsNorm, x: Tensor<D>) -> Tensor<D> {
    let gamma = norm.gamma.val();
    dispatch! {
        cpu [x, gamma] => rms_norm::rms_norm(x, gamma, norm.epsilon);
        gpu [x, gamma] => rms_norm::rms_norm(x, gamma, norm.epsilon);
    }
    let (dtype, own) = (x.dtype(), gamma.dtype());
    if dtype != own {
        return rms_norm(norm, x.cast(own)).cast(dtype);
    }
    norm.forward(x)
}
