//! Threads that share the small steps of one image, text or token.
//!
//! A step takes microseconds. rayon's threads yield or sleep between two of them, and come back too
//! late, on a busy machine by milliseconds. A team's helpers watch for the next step instead. A
//! helper that is not running costs nothing, because the leader takes the tasks that nobody takes.
//!
//! The helpers are threads of their own. rayon's would have to leave now and then to serve others,
//! and the system often wakes the next one on the leader's core.

use std::any::Any;
use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::{Builder, Thread, park, yield_now};
use std::time::{Duration, Instant};

/// Most helpers of a team. Every step waits for the slowest of them.
pub const MOST_HELPERS: usize = 15;
/// Looks at an unchanged value before a thread lets others run: some microseconds. The system may
/// have put the leader and a helper on the same core.
const LOOKS: usize = 500;
/// Time without a task after which a helper sleeps.
const PATIENCE: Duration = Duration::from_millis(1);

type Task<'a> = dyn Fn(usize) + Sync + 'a;

/// Helpers that one thread at a time leads.
pub struct Team {
    /// Number of the step's tasks in the upper half, and the next one to take in the lower half.
    open: Line<AtomicU64>,
    n_done: Line<AtomicUsize>,
    task: Line<UnsafeCell<Option<*const Task<'static>>>>,
    /// What a task of the open step panicked with.
    failure: Mutex<Option<Box<dyn Any + Send>>>,
    is_led: AtomicBool,
    helpers: [OnceLock<Thread>; MOST_HELPERS],
    /// A bit for each helper that sleeps, or is about to.
    asleep: AtomicU32,
}

/// A value with cache lines of its own.
#[repr(align(128))]
struct Line<T>(T);

// SAFETY: the leader writes `task` only while no step is open. A thread reads it only after it has
// taken a task of the open step, and before that task is done.
unsafe impl Sync for Team {}

/// A thread's time as the leader.
pub struct Lead(&'static Team);

impl Drop for Lead {
    fn drop(&mut self) {
        self.0.is_led.store(false, Ordering::Release);
    }
}

impl Team {
    pub const fn new() -> Self {
        Self {
            open: Line(AtomicU64::new(0)),
            n_done: Line(AtomicUsize::new(0)),
            task: Line(UnsafeCell::new(None)),
            failure: Mutex::new(None),
            is_led: AtomicBool::new(false),
            helpers: [const { OnceLock::new() }; MOST_HELPERS],
            asleep: AtomicU32::new(0),
        }
    }

    /// Makes this thread the leader of `n_helpers` helpers, and of those that earlier leaders had
    /// more. `None` if another thread leads.
    pub fn lead(&'static self, n_helpers: usize) -> Option<Lead> {
        if self.is_led.swap(true, Ordering::Acquire) {
            return None;
        }
        for (nth, helper) in self.helpers[..n_helpers].iter().enumerate() {
            if helper.get().is_none() {
                let name = format!("mmgem-helper-{nth}");
                // Without a thread, the leader takes the tasks.
                if let Ok(handle) = Builder::new().name(name).spawn(move || self.help(nth)) {
                    let _ = helper.set(handle.thread().clone());
                }
            }
        }
        Some(Lead(self))
    }

    /// Runs `task` for each of `0..n` and returns when all are done. Panics if one panics.
    ///
    /// # Safety
    /// Only the thread that leads may call it, and not within a task.
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
        self.wake();
        self.take_tasks();
        let mut n_looks = 0;
        while self.n_done.0.load(Ordering::Acquire) < n {
            n_looks += 1;
            if n_looks < LOOKS { spin_loop() } else { yield_now() }
        }
        if let Some(cause) = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            resume_unwind(cause);
        }
    }

    /// Wakes helpers that sleep. One that is about to sleep may miss it, until the next step.
    fn wake(&self) {
        if self.asleep.load(Ordering::Relaxed) == 0 {
            return;
        }
        let asleep = self.asleep.swap(0, Ordering::Relaxed);
        for (nth, helper) in self.helpers.iter().enumerate() {
            if let Some(helper) = helper.get().filter(|_| asleep & 1 << nth != 0) {
                helper.unpark();
            }
        }
    }

    /// Takes tasks for as long as the process lives.
    fn help(&'static self, nth: usize) {
        let mut n_looks = 0;
        let mut idle_since = Instant::now();
        loop {
            if self.take_tasks() > 0 {
                n_looks = 0;
                continue;
            }
            n_looks += 1;
            if n_looks < LOOKS {
                spin_loop();
                continue;
            }
            if n_looks == LOOKS {
                idle_since = Instant::now();
            }
            if idle_since.elapsed() < PATIENCE {
                yield_now();
                continue;
            }
            self.asleep.fetch_or(1 << nth, Ordering::Relaxed);
            park();
            n_looks = 0;
        }
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

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread::sleep;

    use super::*;

    /// Runs `work` as the leader of a team with helpers of its own.
    fn with_team(n_helpers: usize, work: impl FnOnce(&'static Team)) {
        let team = Box::leak(Box::new(Team::new()));
        let lead = team.lead(n_helpers);
        assert!(lead.is_some(), "no other thread leads");
        work(team);
    }

    #[test]
    fn every_task_of_every_step_runs_once() {
        for n_helpers in [0, 1, 3] {
            with_team(n_helpers, |team| {
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
    fn helpers_sleep_without_tasks_and_wake_for_the_next() {
        with_team(1, |team| {
            for _ in 0..3 {
                while team.asleep.load(Ordering::Relaxed) == 0 {
                    sleep(PATIENCE);
                }
                let both = Barrier::new(2);
                // Each task waits for the other, so that one thread alone would never end.
                // SAFETY: this is the leader.
                unsafe {
                    team.run(2, &|_| {
                        both.wait();
                    });
                }
            }
        });
    }

    #[test]
    fn one_thread_at_a_time_leads() {
        let team: &'static Team = Box::leak(Box::new(Team::new()));
        let lead = team.lead(1);
        assert!(lead.is_some());
        std::thread::scope(|scope| {
            let other = scope.spawn(|| team.lead(1).is_some());
            assert!(!other.join().expect("it does not panic"));
        });
        drop(lead);
        assert!(team.lead(1).is_some());
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
