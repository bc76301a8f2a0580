//! Packed products on a device that shares the host's memory: Burn's CPU backend passes its values
//! in and out without a copy.
//!
//! This is the one exception to the rule that the graph reads no tensor back.

use burn::tensor::{Tensor, TensorData};

use super::Packed;
use super::weight::PackedForm;

impl PackedForm for Packed {
    fn shape(&self) -> [usize; 2] {
        self.shape()
    }

    fn linear(&self, x: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
        let device = x.device();
        let ([n_rows, _], [n_out, _]) = (x.dims(), self.shape());
        let (x, bias) = (x.into_data(), bias.map(Tensor::into_data));
        let bias = bias.as_ref().map(|bias| bias.as_slice().expect("biases are f32"));
        let y = self.linear(x.as_slice().expect("activations are f32"), bias);
        Tensor::from_data(TensorData::new(y, [n_rows, n_out]), &device)
    }
}
