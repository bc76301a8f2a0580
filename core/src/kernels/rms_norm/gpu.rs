//! RMSNorm on a GPU.

use burn::tensor::Tensor;
use cubecl::prelude::*;

use super::cube::square_sum_of_row;
use super::launch::{ROW_UNITS, RowView, launch};
use super::tensors::{contiguous, wrap};

pub fn rms_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let (x, gamma) = (RowView::of(x), contiguous(gamma));
    let out = x.like();
    launch!(rms_norm_kernel<f32> on x.grid();
        x.buffer(),
        gamma.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        epsilon as f32,
        x.rows,
        x.width,
        ROW_UNITS,
    );
    wrap(out)
}

/// `x / sqrt(mean(x^2) + epsilon) * gamma`, one cube per row.
#[cube(launch_unchecked)]
fn rms_norm_kernel<F: Float>(
    x: &[F],
    gamma: &[F],
    out: &mut [F],
    epsilon: f32,
    rows: usize,
    #[comptime] width: usize,
    #[comptime] units: usize,
) {
    if CUBE_POS < rows {
        let start = CUBE_POS * width;
        let square = square_sum_of_row::<F>(x, start, width, units);
        let mean = square / F::new(comptime!(width as f32));
        let scale = F::new(1.0) / (mean + F::cast_from(epsilon)).sqrt();
        let mut i = UNIT_POS as usize;
        while i < width {
            out[start + i] = x[start + i] * scale * gamma[i];
            i += units;
        }
    }
}
