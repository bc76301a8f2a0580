//! Ends the process if a library call hangs.

use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::{Busy, CollectiveError};

/// Watches calls that have no time-out of their own.
///
/// If a call takes too long, the process logs an error and exits. The launcher then ends the other
/// ranks.
pub struct Watchdog {
    shared: Arc<(Mutex<Watch>, Condvar)>,
    rank: usize,
    timeout: Duration,
}

#[derive(Default)]
struct Watch {
    call: Option<(&'static str, Instant)>,
    /// Whether calls may take as long as they like.
    is_paused: bool,
    is_over: bool,
}

impl Watchdog {
    /// Starts the watchdog thread.
    pub fn new(rank: usize, timeout: Duration) -> Self {
        let shared = Arc::new((Mutex::new(Watch::default()), Condvar::new()));
        let (watched, limit) = (shared.clone(), timeout);
        thread::spawn(move || watch(&watched, rank, limit));
        Self { shared, rank, timeout }
    }

    /// The rank of this process.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Runs one call under the time-out.
    pub fn guard<T>(&self, what: &'static str, call: impl FnOnce() -> T) -> T {
        self.set(Some((what, Instant::now() + self.timeout)));
        let done = call();
        self.set(None);
        done
    }

    /// Lets calls take as long as they like, until the result is dropped.
    pub fn pause(&self) -> Busy<'_> {
        self.set_paused(true);
        Busy::until(|| self.set_paused(false))
    }

    fn set_paused(&self, is_paused: bool) {
        self.shared.0.lock().expect("the watchdog thread never panics").is_paused = is_paused;
        self.shared.1.notify_one();
    }

    fn set(&self, call: Option<(&'static str, Instant)>) {
        let (watch, changed) = &*self.shared;
        watch.lock().expect("the watchdog thread never panics").call = call;
        changed.notify_one();
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.0.lock().expect("the watchdog thread never panics").is_over = true;
        self.shared.1.notify_one();
    }
}

fn watch(shared: &(Mutex<Watch>, Condvar), rank: usize, timeout: Duration) {
    let (watch, changed) = shared;
    let mut state = watch.lock().expect("no thread panics while it holds the lock");
    while !state.is_over {
        let call = state.call.filter(|_| !state.is_paused);
        let left = call.map(|(what, end)| (what, end.saturating_duration_since(Instant::now())));
        state = match left {
            None => changed.wait(state).expect("no thread panics while it holds the lock"),
            Some((what, left)) if left.is_zero() => {
                let missing = "the other ranks".to_owned();
                let error =
                    CollectiveError::TimedOut { rank, missing, secs: timeout.as_secs(), what };
                tracing::error!("{error}");
                std::process::exit(1);
            }
            Some((_, left)) => {
                changed
                    .wait_timeout(state, left)
                    .expect("no thread panics while it holds the lock")
                    .0
            }
        };
    }
}
