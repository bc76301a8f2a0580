//! Distributes work on the rows of a matrix over as many cores as pay off.

use std::cell::Cell;

use rayon::prelude::*;

thread_local! {
    static IS_SINGLE_THREADED: Cell<bool> = const { Cell::new(false) };
}

/// Keeps all later work of this thread on it, for callers that run one thread per core.
pub fn use_one_thread() {
    IS_SINGLE_THREADED.set(true);
}

/// Whether this thread must not share work with others.
pub fn is_single_threaded() -> bool {
    IS_SINGLE_THREADED.get()
}

/// Runs `work` inside rayon's pool.
///
/// From outside the pool, each product waits for a hand-over, which takes longer than many
/// products.
pub fn in_thread_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    if is_single_threaded() { work() } else { rayon::scope(|_| work()) }
}

/// Calls `work` with each of `0..n`, on all cores.
pub fn for_each_of(n: usize, work: impl Fn(usize) + Sync + Send) {
    if n == 1 || is_single_threaded() || rayon::current_num_threads() == 1 {
        (0..n).for_each(work);
    } else {
        (0..n).into_par_iter().for_each(work);
    }
}

/// Output pointer of parallel tasks, which write disjoint elements.
#[derive(Clone, Copy)]
pub struct SharedOutput(pub *mut f32);

// SAFETY: the code that creates one ensures that no two tasks write the same element.
unsafe impl Send for SharedOutput {}
// SAFETY: as above.
unsafe impl Sync for SharedOutput {}

impl SharedOutput {
    #[inline(always)]
    pub fn at(self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }

    #[inline(always)]
    pub fn from(self, offset: usize) -> Self {
        Self(self.at(offset))
    }
}

/// Parallelism for a product with this many multiplications.
pub fn parallelism(multiplications: usize) -> gemm::Parallelism {
    const PAY_FOR_ANOTHER_CORE: usize = 128 * 1024;
    if multiplications < PAY_FOR_ANOTHER_CORE || is_single_threaded() {
        gemm::Parallelism::None
    } else {
        gemm::Parallelism::Rayon(0)
    }
}

/// Number of cores that share the work of this thread.
pub fn n_threads() -> usize {
    if is_single_threaded() { 1 } else { rayon::current_num_threads() }
}

/// Cost of an exponential, in multiplications.
pub const EXP_STEPS: usize = 16;

/// Elementary steps that make waking another core worthwhile.
const STEPS_PER_TASK: usize = 32 * 1024;

/// Calls `work(first_row, rows)` on consecutive parts that cover `matrix`.
///
/// `steps` is the approximate cost of one element, in multiplications.
pub fn for_each(
    matrix: &mut [f32],
    width: usize,
    steps: usize,
    work: impl Fn(usize, &mut [f32]) + Sync + Send,
) {
    let n_rows = matrix.len() / width;
    let n_tasks =
        (matrix.len() * steps / STEPS_PER_TASK).clamp(1, rayon::current_num_threads() * 2);
    if n_tasks == 1 || is_single_threaded() {
        return work(0, matrix);
    }
    let rows_per_task = n_rows.div_ceil(n_tasks);
    matrix
        .par_chunks_mut(rows_per_task * width)
        .enumerate()
        .for_each(|(task, rows)| work(task * rows_per_task, rows));
}
