//! Distributes work on the rows of a matrix over as many cores as pay off.

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

use super::team::{MOST_HELPERS, Team};

/// The threads that share the work of a thread.
#[derive(Clone, Copy)]
enum Sharing {
    /// All of rayon's threads.
    Pool,
    /// The helpers of [`with_helpers`].
    Team {
        n_threads: usize,
        /// Whether this thread leads. If another thread does, this one works alone, but splits its
        /// work in the same way, so that the result is the same.
        is_leader: bool,
    },
    /// This thread alone.
    Alone,
}

/// Multiplications that make a helper's task worthwhile.
const PAY_FOR_A_HELPER: usize = 32 * 1024;

static TEAM: Team = Team::new();

thread_local! {
    static SHARING: Cell<Sharing> = const { Cell::new(Sharing::Pool) };
}

/// Keeps all later work of this thread on it, for callers that run one thread per core.
pub fn use_one_thread() {
    SHARING.set(Sharing::Alone);
}

/// Whether this thread must not share work with rayon's threads.
pub fn is_single_threaded() -> bool {
    !matches!(SHARING.get(), Sharing::Pool)
}

/// Runs `work` while other threads stand by to share its steps.
///
/// Without them, each small step would wait for a hand-over that takes longer than the step.
pub fn with_helpers<R>(work: impl FnOnce() -> R) -> R {
    let n_threads = n_threads().min(1 + MOST_HELPERS);
    if n_threads == 1 || is_single_threaded() {
        return work();
    }
    let lead = TEAM.lead(n_threads - 1);
    sharing(Sharing::Team { n_threads, is_leader: lead.is_some() }, work)
}

/// Runs `work` with this way of sharing it.
fn sharing<R>(how: Sharing, work: impl FnOnce() -> R) -> R {
    struct Before(Sharing);
    impl Drop for Before {
        fn drop(&mut self) {
            SHARING.set(self.0);
        }
    }
    let _before = Before(SHARING.replace(how));
    work()
}

/// Calls `work` with each of `0..n`, on all threads that share this one's work.
pub fn for_each_of(n: usize, work: impl Fn(usize) + Sync + Send) {
    match SHARING.get() {
        // A task shares no work itself.
        Sharing::Team { is_leader, .. } if n > 1 => sharing(Sharing::Alone, || match is_leader {
            // SAFETY: this thread leads, and is in no task, because it would be alone there.
            true => unsafe { TEAM.run(n, &work) },
            false => (0..n).for_each(work),
        }),
        Sharing::Pool if n > 1 && rayon::current_num_threads() > 1 => {
            (0..n).into_par_iter().for_each(work);
        }
        _ => (0..n).for_each(work),
    }
}

/// Calls `work(index, chunk)` on chunks of `len` values, as [`for_each_of`] does.
pub fn for_each_chunk(
    values: &mut [f32],
    len: usize,
    work: impl Fn(usize, &mut [f32]) + Sync + Send,
) {
    let (n, values) = (values.len(), SharedOutput(values.as_mut_ptr()));
    for_each_of(n.div_ceil(len), |chunk| {
        let start = chunk * len;
        // SAFETY: chunks do not overlap, and `values` is borrowed exclusively.
        let chunk_values =
            unsafe { std::slice::from_raw_parts_mut(values.at(start), len.min(n - start)) };
        work(chunk, chunk_values);
    });
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

/// Number of tasks that a product with this many multiplications pays for.
pub fn n_tasks(multiplications: usize) -> usize {
    let (per_task, most) = match SHARING.get() {
        Sharing::Pool => (128 * 1024, n_threads()),
        // Two for each thread, because one may come late.
        Sharing::Team { .. } => (PAY_FOR_A_HELPER, 2 * n_threads()),
        Sharing::Alone => return 1,
    };
    (multiplications / per_task).clamp(1, most)
}

/// rayon's parallelism for a product with this many multiplications.
pub fn parallelism(multiplications: usize) -> gemm::Parallelism {
    const PAY_FOR_ANOTHER_CORE: usize = 128 * 1024;
    if multiplications < PAY_FOR_ANOTHER_CORE || is_single_threaded() {
        gemm::Parallelism::None
    } else {
        gemm::Parallelism::Rayon(0)
    }
}

/// Calls `work(rows, columns, parallelism)` on parts that cover a product of `n` rows and `m` columns,
/// whose elements are sums of `depth` products.
pub fn for_each_product(
    [n, m]: [usize; 2],
    depth: usize,
    work: impl Fn(Range<usize>, Range<usize>, gemm::Parallelism) + Sync + Send,
) {
    if !matches!(SHARING.get(), Sharing::Team { .. }) {
        return work(0..n, 0..m, parallelism(n * m * depth));
    }
    let n_parts = (n * m * depth / PAY_FOR_A_HELPER).clamp(1, n_threads());
    let (len, unit) = if m >= n { (m, 16) } else { (n, 8) };
    let each = len.div_ceil(n_parts).next_multiple_of(unit);
    for_each_of(len.div_ceil(each), |part| {
        let range = part * each..((part + 1) * each).min(len);
        let (rows, columns) = if m >= n { (0..n, range) } else { (range, 0..m) };
        work(rows, columns, gemm::Parallelism::None);
    });
}

/// Number of threads that share the work of this one.
pub fn n_threads() -> usize {
    match SHARING.get() {
        Sharing::Pool => rayon::current_num_threads(),
        Sharing::Team { n_threads, .. } => n_threads,
        Sharing::Alone => 1,
    }
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
    let n_tasks = (matrix.len() * steps / STEPS_PER_TASK).clamp(1, n_threads() * 2);
    let rows_per_task = n_rows.div_ceil(n_tasks).max(1);
    for_each_chunk(matrix, rows_per_task * width, |task, rows| work(task * rows_per_task, rows));
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread::{current, yield_now};

    use super::*;

    #[test]
    fn while_another_thread_leads_work_is_split_as_with_helpers() {
        // Other tests lead for a moment.
        let _lead = loop {
            match TEAM.lead(1) {
                Some(lead) => break lead,
                None => yield_now(),
            }
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build();
        pool.expect("threads can be started").install(|| {
            with_helpers(|| {
                assert_eq!((n_threads(), n_tasks(usize::MAX)), (3, 6));
                let (this, n_run) = (current().id(), AtomicUsize::new(0));
                for_each_of(5, |_| {
                    assert_eq!(current().id(), this);
                    n_run.fetch_add(1, Ordering::Relaxed);
                });
                assert_eq!(n_run.into_inner(), 5);
            });
        });
    }
}
