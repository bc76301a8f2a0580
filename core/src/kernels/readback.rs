//! Reads results back from a device. Failures of the device are detected here.
//!
//! All results are read here, because Burn's `into_data` delays the read to a place where it can
//! only panic. If a driver reports a failure elsewhere ([`report_failure`]), every thread that
//! waits for a GPU's result gets [`DeviceFailed`]. Training reads results deep inside code that
//! returns no error: there the failure unwinds ([`floats_now`]) and is caught where the run began.

use std::future::Future as _;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Poll, Waker};

use burn::tensor::{DType, Tensor, TensorData, Transaction};

use super::dispatch::is_on_cpu;

/// The device failed while a result was computed or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceFailed {
    /// Its memory is full.
    #[error(
        "the device stopped working: the GPU ran out of memory\n  \
         hint: use smaller batches, a model exported with `mmgem export --dtype q4`, \
         or --device cpu"
    )]
    OutOfMemory,
    /// A tensor of the model is larger than the device allows.
    #[error(
        "{name} takes {size_bytes} bytes of GPU memory, but this GPU allows at most \
         {limit_bytes} per tensor\n  \
         hint: use a model exported with `mmgem export --dtype q4`, whose linear layers are \
         smaller, or --device cpu"
    )]
    TooLarge {
        /// Name in the checkpoint.
        name: String,
        /// Its size on the device.
        size_bytes: u64,
        /// The device's limit for one tensor.
        limit_bytes: u64,
    },
    /// Any other failure, as a message.
    #[error("the device stopped working: {0}\n  hint: try again with --device cpu")]
    Stopped(String),
}

impl DeviceFailed {
    /// Classifies the error message of a driver and the layers above it, which may be long.
    pub fn new(words: &str) -> Self {
        let lower = words.to_lowercase();
        let says = |any: &[&str]| any.iter().any(|part| lower.contains(part));
        // A device that is lost because it ran out of memory reports both.
        if says(&[
            "out of memory",
            "out of device memory",
            "not enough memory",
            "no staging buffer",
        ]) {
            Self::OutOfMemory
        } else if says(&["device is lost", "device lost", "device was lost", "is poisoned"]) {
            Self::Stopped("the GPU was lost, for example because its driver restarted".into())
        } else if says(&["can't allocate buffer of size", "buffer_binding_size` limit"]) {
            Self::Stopped("a computation needs a larger tensor than the GPU allows".into())
        } else {
            let lines = words
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty() && *line != "Caused by:");
            Self::Stopped(lines.collect::<Vec<_>>().join(": "))
        }
    }
}

/// A failure that no call returned, and the tasks that wait for results meanwhile.
struct Reports {
    failure: Option<DeviceFailed>,
    waiting: Vec<Waker>,
}

static REPORTS: Mutex<Reports> = Mutex::new(Reports { failure: None, waiting: Vec::new() });

/// Reports a failure that no call returns, for example one on a driver's own thread.
///
/// All current and later reads from a device other than the CPU return it. Only the first reported
/// failure counts.
pub fn report_failure(failure: DeviceFailed) {
    let mut reports = REPORTS.lock().unwrap_or_else(PoisonError::into_inner);
    reports.failure.get_or_insert(failure);
    reports.waiting.drain(..).for_each(Waker::wake);
}

/// The failure reported by [`report_failure`], if any.
pub fn reported_failure() -> Option<DeviceFailed> {
    REPORTS.lock().unwrap_or_else(PoisonError::into_inner).failure.clone()
}

/// Values of a float tensor, row by row.
pub async fn read_floats<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, DeviceFailed> {
    let is_watched = !is_on_cpu(&tensor.device());
    // `into_data` would defer the read until the values are used, where a failure is a panic.
    let mut read = pin!(Transaction::default().register(tensor).execute_async());
    let mut data = std::future::poll_fn(|context| {
        let polled = read.as_mut().poll(context);
        // Check after the read: a failing device may return zeros as if nothing had happened.
        let mut reports = REPORTS.lock().unwrap_or_else(PoisonError::into_inner);
        reports.waiting.retain(|waker| !waker.will_wake(context.waker()));
        if let (true, Some(failure)) = (is_watched, &reports.failure) {
            return Poll::Ready(Err(failure.clone()));
        }
        if polled.is_pending() {
            reports.waiting.push(context.waker().clone());
        }
        polled.map_err(|error| DeviceFailed::new(&format!("{error:?}")))
    })
    .await?;
    Ok(to_floats(data.pop().expect("one tensor was registered")))
}

/// [`read_floats`] for code that cannot return an error: a failure unwinds with the
/// [`DeviceFailed`] as its payload.
///
/// The caller that started the work must catch it.
pub fn floats_now<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    pollster::block_on(read_floats(tensor))
        .unwrap_or_else(|failed| std::panic::resume_unwind(Box::new(failed)))
}

fn to_floats(data: TensorData) -> Vec<f32> {
    if data.dtype() == DType::F32 {
        return data.try_into_vec().expect("the data type was checked");
    }
    data.iter::<f32>().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(words: &str, wanted: &str) {
        let failed = DeviceFailed::new(words).to_string();
        assert!(failed.contains(wanted) && failed.lines().count() == 2, "{failed}");
    }

    #[test]
    fn what_a_device_says_becomes_one_line_and_a_hint() {
        check("wgpu error: Out of Memory", "ran out of memory");
        check(
            "The device is poisoned\nCaused by:\n  Unknown: Not enough memory left.",
            "ran out of memory",
        );
        check(
            "An IO error happened\nCaused by:\n  can't allocate buffer of size: 81920\n",
            "a larger tensor",
        );
        check(
            "The device is poisoned\nCaused by:\n  Unknown: Device is lost\nBacktrace:\n",
            "was lost",
        );
        check(
            "wgpu error: Validation Error\n\nCaused by:\n  a bug\n\n",
            "wgpu error: Validation Error: a bug\n",
        );
    }
}
