//! Work over the rows of a matrix, on as many cores as it is worth.

use rayon::prelude::*;

/// Elementary steps that pay for waking another core.
const STEPS_PER_TASK: usize = 32 * 1024;

/// Calls `work(first_row, rows)` on parts of `matrix` that together are all of it.
///
/// `steps` is what one element costs, in multiplications or so.
pub fn for_each(
    matrix: &mut [f32],
    width: usize,
    steps: usize,
    work: impl Fn(usize, &mut [f32]) + Sync + Send,
) {
    let n_rows = matrix.len() / width;
    let n_tasks = (matrix.len() * steps / STEPS_PER_TASK).clamp(1, rayon::current_num_threads() * 2);
    if n_tasks == 1 {
        return work(0, matrix);
    }
    let rows_per_task = n_rows.div_ceil(n_tasks);
    matrix
        .par_chunks_mut(rows_per_task * width)
        .enumerate()
        .for_each(|(task, rows)| work(task * rows_per_task, rows));
}
