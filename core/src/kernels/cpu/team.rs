//! Threads that share the small steps of one image, text or token.
//!
//! A step takes microseconds. rayon's threads yield or sleep between two of them, and come back too
//! late, on a busy machine by milliseconds. A team's helpers watch for the next step instead. A
//! helper that is not running costs nothing, because the leader takes the tasks that nobody takes.

use std::any::Any;
use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::yield_now;

/// Looks at an unchanged value before a thread lets others run: some microseconds. The system may
/// have put the leader and a helper on the same core.
const LOOKS: usize = 500;
/// Looks before a helper leaves: about a millisecond, if no other thread wants the core.
const LOOKS_OF_A_HELPER: usize = 4_000;
/// Tasks after which a helper leaves, and the leader asks rayon for another: several tokens.
const TASKS: usize = 1024;

type Task<'a> = dyn Fn(usize) + Sync + 'a;

/// A leader's current step, for its helpers.
#[derive(Default)]
pub struct Team {
    /// Number of the step's tasks in the upper half, and the next one to take in the lower half.
    open: Line<AtomicU64>,
    n_done: Line<AtomicUsize>,
    task: Line<UnsafeCell<Option<*const Task<'static>>>>,
    /// Threads that help, or will when rayon runs them.
    n_helpers: AtomicUsize,
    /// What a task of the open step panicked with.
    failure: Mutex<Option<Box<dyn Any + Send>>>,
}

/// A value with cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Line<T>(T);

// SAFETY: the leader writes `task` only while no step is open. A thread reads it only after it has
// taken a task of the open step, and before that task is done.
unsafe impl Sync for Team {}
// SAFETY: as above.
unsafe impl Send for Team {}

impl Team {
    /// Runs `task` for each of `0..n` and returns when all are done. Panics if one panics.
    ///
    /// # Safety
    /// Only the leader may call it, and not within a task.
    pub unsafe fn run(&self, n: usize, task: &Task) {
        let n_tasks = u32::try_from(n).expect("a step has fewer than 2^32 tasks");
        // SAFETY: this only extends the lifetime. No step is open, so nobody reads `task`, and this
        // call returns after the last task of its own step.
        unsafe {
            *self.task.0.get() =
                Some(std::mem::transmute::<*const Task<'_>, *const Task<'static>>(task));
        }
        self.n_done.0.store(0, Ordering::Relaxed);
        self.open.0.store(u64::from(n_tasks) << 32, Ordering::Release);
        self.take_tasks();
        let mut n_looks = 0;
        while self.n_done.0.load(Ordering::Acquire) < n {
            look_again(&mut n_looks);
        }
        if let Some(cause) = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            resume_unwind(cause);
        }
    }

    /// Calls `ask` for each helper that is missing to `n_helpers`. It must make a thread call
    /// [`Self::help`]. Only the leader may call this.
    pub fn recruit(&self, n_helpers: usize, ask: impl Fn()) {
        while self.n_helpers.load(Ordering::Relaxed) < n_helpers {
            self.n_helpers.fetch_add(1, Ordering::Relaxed);
            ask();
        }
    }

    /// Takes tasks until about a millisecond passes without one. It also ends after some tasks, so
    /// that rayon's threads serve others too.
    pub fn help(&self) {
        let (mut n_looks, mut n_tasks) = (0, 0);
        while n_looks < LOOKS_OF_A_HELPER && n_tasks < TASKS {
            match self.take_tasks() {
                0 => look_again(&mut n_looks),
                n => {
                    n_looks = 0;
                    n_tasks += n;
                }
            }
        }
        self.n_helpers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Runs tasks of the open step until all are taken. Returns how many it ran.
    fn take_tasks(&self) -> usize {
        let mut n_run = 0;
        let mut open = self.open.0.load(Ordering::Acquire);
        loop {
            let (n, next) = (open >> 32, open & u64::from(u32::MAX));
            if next >= n {
                return n_run;
            }
            // If another step with the same numbers has opened meanwhile, this takes a task of it.
            let taken = self.open.0.compare_exchange_weak(
                open,
                open + 1,
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            open = match taken {
                Ok(_) => {
                    self.run_task(next as usize);
                    n_run += 1;
                    self.open.0.load(Ordering::Acquire)
                }
                Err(now) => now,
            };
        }
    }

    fn run_task(&self, nth: usize) {
        // SAFETY: the step is open until this task is done, so the pointer is valid and not written.
        let task = unsafe { (*self.task.0.get()).map(|task| &*task) };
        let task = task.expect("an open step has a task");
        if let Err(cause) = catch_unwind(AssertUnwindSafe(|| task(nth))) {
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(cause);
        }
        self.n_done.0.fetch_add(1, Ordering::Release);
    }
}

/// Waits a moment for a value to change.
fn look_again(n_looks: &mut usize) {
    *n_looks += 1;
    if *n_looks < LOOKS { spin_loop() } else { yield_now() }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    /// Runs `lead` on a team with helpers on their own threads.
    fn with_team(n_helpers: usize, lead: impl FnOnce(&Team)) {
        let team = Team::default();
        std::thread::scope(|scope| {
            team.recruit(n_helpers, || {
                scope.spawn(|| team.help());
            });
            lead(&team);
        });
        assert_eq!(team.n_helpers.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn every_task_of_every_step_runs_once() {
        for n_helpers in [0, 1, 3] {
            with_team(n_helpers, |team| {
                // More tasks than a helper takes before it leaves.
                for step in 0..2000 {
                    let n = step % 7;
                    let counts: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
                    // SAFETY: this is the leader.
                    unsafe {
                        team.run(n, &|task| {
                            counts[task].fetch_add(step, Ordering::Relaxed);
                        });
                    }
                    assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == step));
                }
            });
        }
    }

    #[test]
    fn helpers_take_tasks_and_leave_if_there_are_none() {
        let team = Team::default();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                team.recruit(1, || {
                    scope.spawn(|| team.help());
                });
                let both = Barrier::new(2);
                // Each task waits for the other, so that one thread alone would never end.
                // SAFETY: this is the leader.
                unsafe {
                    team.run(2, &|_| {
                        both.wait();
                    });
                }
                while team.n_helpers.load(Ordering::Relaxed) > 0 {
                    yield_now();
                }
            }
        });
    }

    #[test]
    fn a_panic_of_a_task_reaches_the_leader_after_the_other_tasks() {
        for n_helpers in [0, 1, 3] {
            let n_run = AtomicUsize::new(0);
            let result = catch_unwind(AssertUnwindSafe(|| {
                with_team(n_helpers, |team| {
                    let task = |task| {
                        n_run.fetch_add(1, Ordering::Relaxed);
                        assert!(task != 2, "the third task");
                    };
                    // SAFETY: this is the leader.
                    unsafe { team.run(9, &task) };
                });
            }));
            let cause = result.expect_err("a task panics");
            assert_eq!(cause.downcast_ref(), Some(&"the third task"));
            assert_eq!(n_run.load(Ordering::Relaxed), 9);
        }
    }
}
