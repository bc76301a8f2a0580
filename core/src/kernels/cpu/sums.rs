//! Sums over rows and over matrices, in an order that does not depend on the number of cores.

use rayon::prelude::*;

use super::rows;
use crate::vectors::vectorized;

/// Three sums over `n` positions of a row at once, in several lanes.
#[inline(always)]
pub fn row_of(n: usize, term: impl Fn(usize) -> [f32; 3]) -> [f32; 3] {
    const LANES: usize = 16;
    let mut lanes = [[0f32; LANES]; 3];
    let whole = n - n % LANES;
    for start in (0..whole).step_by(LANES) {
        for lane in 0..LANES {
            let terms = term(start + lane);
            for (sum, term) in lanes.iter_mut().zip(terms) {
                sum[lane] += term;
            }
        }
    }
    let mut sums = lanes.map(|lanes| lanes.iter().sum::<f32>());
    for i in whole..n {
        for (sum, term) in sums.iter_mut().zip(term(i)) {
            *sum += term;
        }
    }
    sums
}

/// Rows that one task sums. It is constant, so that the sums do not depend on the number of cores.
const ROWS_PER_SUM: usize = 256;

/// Sum of the rows of `[n, width]`: the gradient of a bias.
pub fn sum_rows(grad: &[f32], width: usize) -> Vec<f32> {
    let parts = grad.chunks(ROWS_PER_SUM * width).map(|rows| {
        let mut sum = vec![0.0; width];
        add_rows(rows, &mut sum);
        sum
    });
    add_up(parts, width)
}

/// Calls `work(first_row, rows, sum)` on parts of `grad`, each with its own `sum`, `[n_sums]`.
///
/// Returns the total of all sums.
pub fn for_each_part(
    grad: &mut [f32],
    width: usize,
    n_sums: usize,
    work: impl Fn(usize, &mut [f32], &mut [f32]) + Sync + Send,
) -> Vec<f32> {
    let on_part = |(part, rows): (usize, &mut [f32])| {
        let mut sum = vec![0.0; n_sums];
        work(part * ROWS_PER_SUM, rows, &mut sum);
        sum
    };
    let parts: Vec<Vec<f32>> = if rows::is_single_threaded() {
        grad.chunks_mut(ROWS_PER_SUM * width).enumerate().map(on_part).collect()
    } else {
        grad.par_chunks_mut(ROWS_PER_SUM * width).enumerate().map(on_part).collect()
    };
    add_up(parts.into_iter(), n_sums)
}

fn add_up(parts: impl Iterator<Item = Vec<f32>>, n_sums: usize) -> Vec<f32> {
    let mut total = vec![0.0; n_sums];
    for part in parts {
        add_rows(&part, &mut total);
    }
    total
}

vectorized! {
    /// Adds each row of `rows` to `sum`.
    pub fn add_rows(rows: &[f32], sum: &mut [f32]) {
        for row in rows.chunks_exact(sum.len()) {
            for (sum, x) in sum.iter_mut().zip(row) {
                *sum += x;
            }
        }
    }

    /// Multiplies `x` by `factor`.
    pub fn scale(x: &mut [f32], factor: f32) {
        for x in x {
            *x *= factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{narrow, slopes_inputs};
    use super::*;

    #[test]
    fn a_sum_of_rows_of_any_number_is_the_sum() {
        for (n, width) in [(1, 3), (2, 17), (256, 5), (257, 5), (1000, 33)] {
            let x = slopes_inputs(n * width, 1);
            let found = sum_rows(&narrow(&x), width);
            for (column, found) in found.iter().enumerate() {
                let wanted: f64 = (0..n).map(|row| x[row * width + column]).sum();
                assert!((f64::from(*found) - wanted).abs() < 1e-5 * n as f64, "{n}×{width}");
            }
        }
    }
}
