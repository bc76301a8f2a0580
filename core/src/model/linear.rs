//! A linear layer whose matrix is either a parameter or packed in memory.

use burn::module::{Module, Param};
use burn::nn::LinearConfig;
use burn::tensor::{Device, Tensor};

use crate::kernels::quant::Packed;
use crate::kernels::quant::weight::PackedWeight;
use crate::kernels::{linear, linear_onto, linear_relu6, relu6};

/// `x W + b`.
#[derive(Module, Debug)]
pub struct Linear {
    /// W, `[in, out]`; `None` if the matrix is packed.
    pub weight: Option<Param<Tensor<2>>>,
    /// b, `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// Wᵀ in 8 or 4 bits, for inference only.
    #[module(skip)]
    packed: Option<PackedWeight>,
}

impl Linear {
    /// Builds the module. A checkpoint or [`crate::init::fresh`] sets the values.
    pub fn new(d_input: usize, d_output: usize, has_bias: bool, device: &Device) -> Self {
        let inner = LinearConfig::new(d_input, d_output).with_bias(has_bias).init(device);
        Self { weight: Some(inner.weight), bias: inner.bias, packed: None }
    }

    /// Replaces the matrix by `packed`.
    ///
    /// Valid only for inference, on a device where matrices stay packed (`quant::stays_packed`).
    pub(crate) fn set_packed(&mut self, packed: Packed) {
        if let Some(weight) = self.weight.take() {
            self.packed = Some(PackedWeight::new(packed, &weight.lazy_device()));
        }
    }

    /// Numbers of outputs and inputs, in this order.
    pub(crate) fn shape(&self) -> [usize; 2] {
        match (&self.packed, &self.weight) {
            (Some(packed), _) => packed.shape(),
            (None, Some(weight)) => {
                let [d_input, d_output] = weight.lazy_shape().dims();
                [d_output, d_input]
            }
            (None, None) => unreachable!("a layer has either a plain or a packed matrix"),
        }
    }

    /// `[.., in]` → `[.., out]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let bias = self.bias.as_ref().map(Param::val);
        match (&self.packed, &self.weight) {
            (Some(packed), _) => packed.linear(x, bias),
            (None, Some(weight)) => linear(x, weight.val(), bias),
            (None, None) => unreachable!("a layer has either a plain or a packed matrix"),
        }
    }

    /// `relu6(forward(x))`
    pub fn forward_relu6<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match (&self.weight, &self.bias) {
            (Some(weight), Some(bias)) => linear_relu6(x, weight.val(), bias.val()),
            _ => relu6(self.forward(x)),
        }
    }

    /// `residual + forward(x)`
    pub fn forward_onto<const D: usize>(&self, residual: Tensor<D>, x: Tensor<D>) -> Tensor<D> {
        match &self.weight {
            Some(weight) => {
                linear_onto(residual, x, weight.val(), self.bias.as_ref().map(Param::val))
            }
            None => residual + self.forward(x),
        }
    }
}
