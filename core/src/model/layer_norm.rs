//! Layer normalisation with the epsilon of the config.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use crate::kernels::layer_norm;

/// `(x - mean(x)) / sqrt(var(x) + epsilon) * gamma + beta` over the last axis.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// Scale, `[width]`.
    pub gamma: Param<Tensor<1>>,
    /// Shift, `[width]`.
    pub beta: Param<Tensor<1>>,
    #[module(skip)]
    epsilon: f64,
}

impl LayerNorm {
    /// Builds the module. A checkpoint or [`crate::init::fresh`] sets the values.
    pub fn new(width: usize, epsilon: f64, device: &Device) -> Self {
        Self {
            gamma: Param::from_tensor(Tensor::ones([width], device)),
            beta: Param::from_tensor(Tensor::zeros([width], device)),
            epsilon,
        }
    }

    /// `[.., width]` → `[.., width]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        layer_norm(x, self.gamma.val(), self.beta.val(), self.epsilon)
    }
}
