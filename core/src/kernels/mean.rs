//! Means.

use burn::tensor::{DType, Tensor};

/// Mean over an axis, which stays as an axis of length 1.
pub(crate) fn mean_dim<const D: usize>(x: Tensor<D>, dim: usize) -> Tensor<D> {
    let dtype = x.dtype();
    x.cast(DType::F32).mean_dim(dim).cast(dtype)
}
