//! Rows of unit length.

use burn::tensor::{DType, Tensor};

use super::dispatch::dispatch;

/// Scales rows to unit length, in f32; a row of zeros stays zero.
pub(crate) fn unit_rows<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    const SMALLEST: f32 = 1e-12;
    dispatch! { gpu [x] => unit_rows::unit_rows(x, SMALLEST); }
    let x = x.cast(DType::F32);
    let norm = x.clone().square().sum_dim(D - 1).sqrt().clamp_min(SMALLEST);
    x / norm
}
