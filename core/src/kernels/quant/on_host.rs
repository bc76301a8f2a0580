//! Packed products on a device that shares the host's memory: Burn's CPU backend passes its values
//! in and out without a copy.

use burn::tensor::{Tensor, TensorData};

use super::Packed;

/// `x Wᵀ` along the last axis.
pub fn multiply<const D: usize>(x: Tensor<D>, packed: &Packed) -> Tensor<D> {
    let device = x.device();
    let [n_out, _] = packed.shape();
    let mut shape = x.dims();
    shape[D - 1] = n_out;
    let x = x.into_data();
    let y = packed.multiply(x.as_slice().expect("activations are f32"));
    Tensor::from_data(TensorData::new(y, shape), &device)
}
