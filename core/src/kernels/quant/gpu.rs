//! Matrices that stay packed in GPU memory, and their products.

use std::fmt;

use burn::tensor::{DType, Device, Int, Shape, Tensor, TensorData};
use cubecl::prelude::*;

use super::cube::sum_of_cube;
use super::launch::{ElementLaunch, Grid, ROW_UNITS, cubes, launch};
use super::linear::linear;
use super::tensors::{contiguous, empty, int_primitive, wrap};
use crate::kernels::quant::weight::PackedForm;
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

impl PackedForm for OnGpu {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    fn linear(&self, x: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
        let [n_rows, _] = x.dims();
        match (n_rows, bias) {
            (..=FEW_ROWS, Some(bias)) => self.multiply_few(x) + bias.unsqueeze(),
            (..=FEW_ROWS, None) => self.multiply_few(x),
            (_, bias) => linear(x, self.widen().transpose(), bias, None),
        }
    }
}

impl OnGpu {
    /// Copies a matrix to a device for which [`super::supports`] holds.
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

    fn multiply_few(&self, x: Tensor<2>) -> Tensor<2> {
        let ([n_rows, width], [n_out, _]) = (x.dims(), self.shape);
        let x = contiguous(x);
        let out = empty(&x, Shape::from([n_rows, n_out]), DType::F32);
        let [across, down] = cubes(n_out);
        launch!(packed_product<f32> on Grid::new(&out, [across, down, n_rows], ROW_UNITS);
            x.into_buffer_arg(),
            int_primitive(self.codes.clone()).into_buffer_arg(),
            contiguous(self.scales.clone()).into_buffer_arg(),
            out.clone().into_buffer_arg(),
            n_out,
            width,
            width.div_ceil(BLOCK),
            self.bits,
            ROW_UNITS,
        );
        wrap(out)
    }

    /// The widened matrix, `[out, in]`.
    fn widen(&self) -> Tensor<2> {
        let [n_out, width] = self.shape;
        let scales = contiguous(self.scales.clone());
        let out = empty(&scales, Shape::from([n_out, width]), DType::F32);
        let [n_words] = self.codes.dims();
        launch!(unpack<f32> on ElementLaunch::new(&out, n_words).grid;
            int_primitive(self.codes.clone()).into_buffer_arg(),
            scales.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            n_words,
            width,
            width.div_ceil(BLOCK),
            self.bits,
        );
        wrap(out)
    }
}

/// A byte of a packed word as a signed integer.
#[cube]
fn signed_byte<F: Float>(word: u32, #[comptime] byte: u32) -> F {
    let number = (word >> comptime!(8 * byte)) & 255;
    F::cast_from(number) - F::cast_from(number >> 7) * F::new(256.0)
}

/// Four bits of a packed word as a signed integer.
#[cube]
fn signed_half_byte<F: Float>(word: u32, #[comptime] half_byte: u32) -> F {
    F::cast_from((word >> comptime!(4 * half_byte)) & 15) - F::new(8.0)
}

/// `x Wᵀ` for a packed W, one cube per output of each row. The cubes are `[outputs, .., rows]`.
///
/// `crate::kernels::quant` documents the layout. Here a word holds four of its bytes, so a block of
/// 32 weights is `bits` words.
#[cube(launch_unchecked)]
fn packed_product<F: Float>(
    x: &[F],
    codes: &[u32],
    scales: &[F],
    out: &mut [F],
    n_out: usize,
    #[comptime] width: usize,
    #[comptime] n_blocks: usize,
    #[comptime] bits: usize,
    #[comptime] units: usize,
) {
    let output = CUBE_POS_Y as usize * CUBE_COUNT_X as usize + CUBE_POS_X as usize;
    let row = CUBE_POS_Z as usize;
    if output < n_out {
        let words = comptime!(n_blocks * bits);
        let mut sum = F::new(0.0);
        let mut at = UNIT_POS as usize;
        while at < words {
            let block = at / bits;
            let first = block * 32 + at % bits * 4;
            let word = codes[output * words + at];
            let mut part = F::new(0.0);
            #[unroll]
            for i in 0..4u32 {
                let column = first + i as usize;
                if comptime!(bits == 8) {
                    if column < width {
                        part += signed_byte::<F>(word, i) * x[row * width + column];
                    }
                } else {
                    if column < width {
                        part +=
                            signed_half_byte::<F>(word, comptime!(2 * i)) * x[row * width + column];
                    }
                    if column + 16 < width {
                        let number = signed_half_byte::<F>(word, comptime!(2 * i + 1));
                        part += number * x[row * width + column + 16];
                    }
                }
            }
            sum += part * scales[output * n_blocks + block];
            at += units;
        }
        let total = sum_of_cube::<F>(sum, units);
        if UNIT_POS == 0 {
            out[row * n_out + output] = total;
        }
    }
}

/// Widens a packed matrix to `[out, in]`, one unit per word.
#[cube(launch_unchecked)]
fn unpack<F: Float>(
    codes: &[u32],
    scales: &[F],
    out: &mut [F],
    n_words: usize,
    #[comptime] width: usize,
    #[comptime] n_blocks: usize,
    #[comptime] bits: usize,
) {
    if ABSOLUTE_POS < n_words {
        let words = comptime!(n_blocks * bits);
        let row = ABSOLUTE_POS / words;
        let at = ABSOLUTE_POS % words;
        let block = at / bits;
        let first = block * 32 + at % bits * 4;
        let word = codes[ABSOLUTE_POS];
        let scale = scales[row * n_blocks + block];
        #[unroll]
        for i in 0..4u32 {
            let column = first + i as usize;
            if comptime!(bits == 8) {
                if column < width {
                    out[row * width + column] = signed_byte::<F>(word, i) * scale;
                }
            } else {
                if column < width {
                    out[row * width + column] =
                        signed_half_byte::<F>(word, comptime!(2 * i)) * scale;
                }
                if column + 16 < width {
                    let number = signed_half_byte::<F>(word, comptime!(2 * i + 1));
                    out[row * width + column + 16] = number * scale;
                }
            }
        }
    }
}
