//! Layer normalisation on a GPU.

use burn::tensor::Tensor;
use cubecl::prelude::*;

use super::cube::sum_of_cube;
use super::launch::{ROW_UNITS, RowView, launch};
use super::tensors::{contiguous, wrap};

pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    let (x, gamma, beta) = (RowView::of(x), contiguous(gamma), contiguous(beta));
    let out = x.like();
    launch!(layer_norm_kernel<f32> on x.grid();
        x.buffer(),
        gamma.into_buffer_arg(),
        beta.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        epsilon as f32,
        x.rows,
        x.width,
        ROW_UNITS,
    );
    wrap(out)
}

/// `(x - mean(x)) / sqrt(var(x) + epsilon) * gamma + beta`, one cube per row.
#[cube(launch_unchecked)]
fn layer_norm_kernel<F: Float>(
    x: &[F],
    gamma: &[F],
    beta: &[F],
    out: &mut [F],
    epsilon: f32,
    rows: usize,
    #[comptime] width: usize,
    #[comptime] units: usize,
) {
    if CUBE_POS < rows {
        let start = CUBE_POS * width;
        let mut sum = F::new(0.0);
        let mut i = UNIT_POS as usize;
        while i < width {
            sum += x[start + i];
            i += units;
        }
        let mean = sum_of_cube::<F>(sum, units) / F::new(comptime!(width as f32));
        let mut square = F::new(0.0);
        let mut i = UNIT_POS as usize;
        while i < width {
            let centred = x[start + i] - mean;
            square += centred * centred;
            i += units;
        }
        let variance = sum_of_cube::<F>(square, units) / F::new(comptime!(width as f32));
        let scale = F::new(1.0) / (variance + F::cast_from(epsilon)).sqrt();
        let mut i = UNIT_POS as usize;
        while i < width {
            out[start + i] = (x[start + i] - mean) * scale * gamma[i] + beta[i];
            i += units;
        }
    }
}
