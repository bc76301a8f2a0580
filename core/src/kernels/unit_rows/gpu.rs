//! Rows of unit length on a GPU.

use burn::tensor::Tensor;
use cubecl::prelude::*;

use super::cube::square_sum_of_row;
use super::launch::{ROW_UNITS, RowView, launch};
use super::tensors::wrap;

/// Rows shorter than `smallest` are divided by it.
pub fn unit_rows<const D: usize>(x: Tensor<D>, smallest: f32) -> Tensor<D> {
    let x = RowView::of(x);
    let out = x.like();
    launch!(unit_rows_kernel<f32> on x.grid();
        x.buffer(),
        out.clone().into_buffer_arg(),
        smallest,
        x.rows,
        x.width,
        ROW_UNITS,
    );
    wrap(out)
}

/// `x / max(|x|, smallest)`, one cube per row.
#[cube(launch_unchecked)]
fn unit_rows_kernel<F: Float>(
    x: &[F],
    out: &mut [F],
    smallest: f32,
    rows: usize,
    #[comptime] width: usize,
    #[comptime] units: usize,
) {
    if CUBE_POS < rows {
        let start = CUBE_POS * width;
        let square = square_sum_of_row::<F>(x, start, width, units);
        let norm = max(square.sqrt(), F::cast_from(smallest));
        let mut i = UNIT_POS as usize;
        while i < width {
            out[start + i] = x[start + i] / norm;
            i += units;
        }
    }
}
