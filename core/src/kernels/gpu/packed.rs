//! Matrices that stay packed in GPU memory.

use std::fmt;

use burn::tensor::{DType, Device, Int, Shape, Tensor, TensorData};
use cubecl::prelude::*;

use super::kernels;
use super::product::linear;
use super::tensors::{Each, MAX_CUBES, ROW_UNITS, empty, held_ints, units, whole, wrap};
use crate::kernels::quant::{BLOCK, Packed};

/// Largest number of activation rows that are multiplied with the packed weights directly.
///
/// For more rows the matrix is widened once and dropped after the product.
const FEW_ROWS: usize = 8;

/// A [`Packed`] matrix on a GPU.
#[derive(Clone)]
pub struct OnGpu {
    /// The codes, four bytes per word.
    codes: Tensor<1, Int>,
    /// One f32 scale per block.
    scales: Tensor<1>,
    bits: usize,
    shape: [usize; 2],
}

impl fmt::Debug for OnGpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OnGpu({} bits, {:?})", self.bits, self.shape)
    }
}

impl OnGpu {
    /// Copies a matrix to a device for which [`super::takes`] holds.
    pub fn new(packed: &Packed, device: &Device) -> Self {
        let words: Vec<i32> =
            packed.codes().as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).collect();
        let scales: Vec<f32> = packed.scales().iter().map(|scale| scale.to_f32()).collect();
        let (n_words, n_scales) = (words.len(), scales.len());
        Self {
            codes: Tensor::from_data(TensorData::new(words, [n_words]), (device, DType::I32)),
            scales: Tensor::from_data(TensorData::new(scales, [n_scales]), device),
            bits: packed.bits().block_bytes() / 4,
            shape: packed.shape(),
        }
    }

    /// Numbers of outputs and inputs, in this order.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// `x Wᵀ` along the last axis.
    pub fn multiply<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let [n_out, width] = self.shape;
        let mut shape = x.dims();
        let n_rows = shape.iter().product::<usize>() / width;
        shape[D - 1] = n_out;
        let x = x.reshape([n_rows, width]);
        let y = match n_rows {
            ..=FEW_ROWS => self.multiply_few(x),
            _ => linear(x, self.widen().transpose(), None, None),
        };
        y.reshape(shape)
    }

    fn multiply_few(&self, x: Tensor<2>) -> Tensor<2> {
        let ([n_rows, width], [n_out, _]) = (x.dims(), self.shape);
        let x = whole(x);
        let out = empty(&x, Shape::from([n_rows, n_out]), DType::F32);
        let along = n_out.clamp(1, MAX_CUBES);
        let cubes = CubeCount::Static(along as u32, n_out.div_ceil(along) as u32, n_rows as u32);
        // SAFETY: codes and scales are those of a matrix of this shape, and `x` has its width.
        unsafe {
            kernels::packed_product::launch_unchecked::<f32>(
                &out.client,
                cubes,
                units(ROW_UNITS),
                x.into_buffer_arg(),
                held_ints(self.codes.clone()).into_buffer_arg(),
                whole(self.scales.clone()).into_buffer_arg(),
                out.clone().into_buffer_arg(),
                n_out,
                width,
                width.div_ceil(BLOCK),
                self.bits,
                ROW_UNITS,
            );
        }
        wrap(out)
    }

    /// The widened matrix, `[out, in]`.
    fn widen(&self) -> Tensor<2> {
        let [n_out, width] = self.shape;
        let scales = whole(self.scales.clone());
        let out = empty(&scales, Shape::from([n_out, width]), DType::F32);
        let [n_words] = self.codes.dims();
        let each = Each::new(&out.client, n_words);
        // SAFETY: a unit past the last word does nothing, and each word has its own elements in the
        // matrix.
        unsafe {
            kernels::unpack::launch_unchecked::<f32>(
                &out.client,
                each.cubes,
                each.units,
                held_ints(self.codes.clone()).into_buffer_arg(),
                scales.into_buffer_arg(),
                out.clone().into_buffer_arg(),
                n_words,
                width,
                width.div_ceil(BLOCK),
                self.bits,
            );
        }
        wrap(out)
    }
}
