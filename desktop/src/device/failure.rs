//! Detects a device that fails without returning an error.
//!
//! wgpu and CubeCL compute on threads of their own, and some failures only panic there: some
//! results then never come, others are zeros. A panic hook recognises such a panic as a failure of
//! the device. The threads that wait for a result get the failure as an error
//! (`core/src/kernels/readback.rs`).
//!
//! With `--device auto` the CPU replaces a GPU in three cases:
//! - The GPU cannot be opened, and no other GPU can (`device/mod.rs`).
//! - The GPU cannot hold a tensor as large as the model's largest. This is checked before any
//!   upload (`model.rs`).
//! - A result cannot be read, and nothing was printed yet (`main.rs`). The window reopens its model
//!   on the CPU, answers the pending request and continues to index (`window/worker/`).
//!
//! Training stops in the last two cases instead: on a CPU it would take weeks.
//!
//! Tests use `tests/cli/failing_gpu.c`, a Vulkan driver that fails on command.

use std::panic::{
    AssertUnwindSafe, PanicHookInfo, catch_unwind, resume_unwind, set_hook, take_hook,
};
use std::path::{Component, Path};

use anyhow::{Error, Result};
use mmgem_core::readback::{DeviceFailed, report_failure, reported_failure};
use mmgem_core::session::SessionError;

use crate::library::LibraryError;

/// Crates that panic if the device fails.
const DRIVERS: [&str; 2] = ["wgpu", "cubecl-wgpu"];
/// Crates whose later panics only follow from that failure.
const FOLLOWERS: [&str; 3] = ["wgpu", "cubecl", "burn"];

/// Installs the panic hook: a panic in a device's driver is recorded instead of printed.
pub fn watch() {
    let usual = take_hook();
    set_hook(Box::new(move |panic| {
        if is_of(panic, &DRIVERS) {
            report_failure(DeviceFailed::new(
                panic.payload_as_str().unwrap_or("it does not say why"),
            ));
        } else if reported_failure().is_none() || !is_of(panic, &FOLLOWERS) {
            return usual(panic);
        }
        tracing::debug!("{panic}");
    }));
}

/// Whether the panic comes from one of these crates, or from one whose name continues theirs with a
/// `-`.
pub fn is_of(panic: &PanicHookInfo, crates: &[&str]) -> bool {
    panic.location().is_some_and(|location| is_below(Path::new(location.file()), crates))
}

fn is_below(file: &Path, crates: &[&str]) -> bool {
    file.components().any(|part| match part {
        Component::Normal(name) => {
            let name = name.to_string_lossy();
            let rest = crates.iter().find_map(|of| name.strip_prefix(of));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        }
        _ => false,
    })
}

/// Runs `work` and turns a device failure that unwinds into an error.
pub fn caught<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        match panic.downcast::<DeviceFailed>() {
            Ok(failed) => Err((*failed).into()),
            Err(panic) => match reported_failure() {
                Some(failed) => Err(failed.into()),
                None => resume_unwind(panic),
            },
        }
    })
}

/// Whether the device failed, as opposed to the request.
pub fn is_the_devices(error: &Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<DeviceFailed>()
            || matches!(cause.downcast_ref(), Some(SessionError::Device(_)))
            || cause.downcast_ref().is_some_and(LibraryError::is_of_device)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(file: &str, wanted: bool) {
        assert_eq!(is_below(Path::new(file), &DRIVERS), wanted, "{file}");
    }

    #[test]
    fn a_panic_is_the_devices_by_the_crate_it_comes_from() {
        check("/home/a/.cargo/registry/src/index/wgpu-30.0.1/src/backend/wgpu_core.rs", true);
        check("/home/a/.cargo/registry/src/index/wgpu-core-30.0.1/src/device.rs", true);
        check("vendor/cubecl-wgpu/src/compute/device_poison.rs", true);
        check("/home/a/.cargo/registry/src/index/cubecl-server-0.11.3/src/server.rs", false);
        check("/home/a/wgpux/desktop/src/main.rs", false);
        check("core/src/kernels/quant/on_cpu.rs", false);
    }

    #[test]
    fn a_failure_that_unwinds_is_an_error_and_another_panic_goes_on() {
        let failed = || -> Result<()> { resume_unwind(Box::new(DeviceFailed::OutOfMemory)) };
        assert!(is_the_devices(&caught(failed).expect_err("it failed")));
        let bug = || -> Result<()> { resume_unwind(Box::new("a bug")) };
        assert!(catch_unwind(|| caught(bug)).is_err());
    }
}
