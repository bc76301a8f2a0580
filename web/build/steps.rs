//! The progress of a build: each step with the time that it took.

use std::time::{Duration, Instant};

use anyhow::Result;

/// Runs the steps of a build, and prints to stderr which one runs and how long it took.
pub struct Steps {
    total: usize,
    begun: usize,
    start: Instant,
}

impl Steps {
    /// `total` is the number of steps to come.
    pub fn new(total: usize) -> Steps {
        Steps { total, begun: 0, start: Instant::now() }
    }

    /// Runs one step. `what` says what it does.
    pub fn run<T>(&mut self, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.begun += 1;
        let label = format!("[{}/{}]", self.begun, self.total);
        eprintln!("{label} {what}");
        let start = Instant::now();
        let result = work()?;
        eprintln!("{label} took {}", human_time(start.elapsed()));
        Ok(result)
    }

    /// The time since the first step.
    pub fn elapsed(&self) -> String {
        human_time(self.start.elapsed())
    }
}

/// A duration in readable units.
fn human_time(time: Duration) -> String {
    let secs = time.as_secs_f64();
    if secs < 59.95 {
        return format!("{secs:.1} s");
    }
    let secs = secs.round() as u64;
    format!("{} min {} s", secs / 60, secs % 60)
}
