//! Counts the program's wgpu work by reading the logs of wgpu and CubeCL.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cubecl::config::{TypeNameFormatLevel, type_name_format};
use cubecl::logging::{LaunchObservation, LaunchObserver};
use log::{LevelFilter, Log, Metadata, Record};

use crate::{Traffic, WgpuError};

/// Runs `work` and counts the program's wgpu work meanwhile.
///
/// `work` must end by reading a result back, so that its work is complete when it returns.
///
/// # Errors
/// If the program already has another logger.
pub fn count<R>(work: impl FnOnce() -> R) -> Result<(R, Traffic), WgpuError> {
    static IS_OURS: OnceLock<bool> = OnceLock::new();
    if !*IS_OURS.get_or_init(|| log::set_logger(&CALLS).is_ok()) {
        return Err(WgpuError::NotCountable);
    }
    // There is one log, so two counts at once would include each other's work.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);

    let launches = Arc::new(Launches::default());
    let before = CALLS.read();
    log::set_max_level(LevelFilter::Trace);
    let observation = LaunchObservation::new(launches.clone());
    let result = work();
    drop(observation);
    log::set_max_level(LevelFilter::Off);
    let [dispatches, submissions, read_backs] =
        std::array::from_fn(|i| CALLS.read()[i] - before[i]);

    let kernels = launches.0.lock().unwrap_or_else(PoisonError::into_inner);
    let name = |(name, n): (&&str, &u64)| (type_name_format(name, TypeNameFormatLevel::Short), *n);
    let mut by_name = BTreeMap::new();
    for (name, n) in kernels.iter().map(name) {
        *by_name.entry(name).or_default() += n;
    }
    Ok((result, Traffic { dispatches, submissions, read_backs, kernels: by_name }))
}

/// Calls recorded in wgpu's log.
#[derive(Debug)]
struct Calls {
    dispatches: AtomicU64,
    submissions: AtomicU64,
    read_backs: AtomicU64,
}

static CALLS: Calls = Calls {
    dispatches: AtomicU64::new(0),
    submissions: AtomicU64::new(0),
    read_backs: AtomicU64::new(0),
};

impl Calls {
    fn read(&self) -> [u64; 3] {
        [&self.dispatches, &self.submissions, &self.read_backs].map(|n| n.load(Ordering::SeqCst))
    }

    /// The counter for a line of wgpu's log, if any.
    fn of(&self, line: &str) -> Option<&AtomicU64> {
        if line.starts_with("ComputePass::dispatch") {
            Some(&self.dispatches)
        } else if line.starts_with("Queue::submit returned") {
            Some(&self.submissions)
        } else if line.starts_with("Buffer::map_async") && line.contains("Read") {
            Some(&self.read_backs)
        } else {
            None
        }
    }
}

impl Log for Calls {
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.target().starts_with("wgpu_core")
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        if let Some(n) = self.of(&record.args().to_string()) {
            n.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn flush(&self) {}
}

/// Number of runs by full kernel name.
#[derive(Default)]
struct Launches(Mutex<BTreeMap<&'static str, u64>>);

impl LaunchObserver for Launches {
    fn launched(&self, kernel: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(kernel).or_default() += 1;
    }
}
