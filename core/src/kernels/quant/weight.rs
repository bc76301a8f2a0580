//! A packed matrix in the memory of its device.

use std::fmt::Debug;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};

use super::Packed;

/// A packed matrix on a device, and its product there.
pub(crate) trait PackedForm: Debug + Send + Sync {
    /// Numbers of outputs and inputs, in this order.
    fn shape(&self) -> [usize; 2];

    /// `x Wᵀ + b`: `[n, in]` → `[n, out]`, `n > 0`.
    fn linear(&self, x: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2>;
}

/// The matrix of a packed layer. Clones share the memory.
#[derive(Clone, Debug)]
pub(crate) struct PackedWeight(Arc<dyn PackedForm>);

impl PackedWeight {
    /// Copies the matrix to a GPU that our kernels support. On other devices it stays in the host's
    /// memory.
    pub fn new(packed: Packed, device: &Device) -> Self {
        #[cfg(feature = "gpu")]
        if crate::kernels::gpu::supports(device) {
            return Self(Arc::new(crate::kernels::gpu::quant::OnGpu::new(&packed, device)));
        }
        let _ = device;
        Self(Arc::new(packed))
    }

    /// Numbers of outputs and inputs, in this order.
    pub fn shape(&self) -> [usize; 2] {
        self.0.shape()
    }

    /// `x Wᵀ + b` along the last axis.
    pub fn linear<const D: usize>(&self, x: Tensor<D>, bias: Option<Tensor<1>>) -> Tensor<D> {
        let [n_out, width] = self.shape();
        let mut shape = x.dims();
        let n_rows = shape.iter().product::<usize>() / width;
        shape[D - 1] = n_out;
        if n_rows == 0 {
            return Tensor::zeros(shape, &x.device());
        }
        self.0.linear(x.reshape([n_rows, width]), bias).reshape(shape)
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::super::Bits;
    use super::*;

    #[test]
    fn no_rows_of_activations_give_no_rows_of_outputs() {
        let packed = Packed::pack(&[1.0; 3 * 40], 40, Bits::Eight);
        let weight = PackedWeight::new(packed, &Device::flex());
        let y = weight.linear(Tensor::<3>::zeros([0, 2, 40], &Device::flex()), None);
        assert_eq!(y.dims(), [0, 2, 3]);
    }
}
