//! Decides which form of an operation runs, and answers what a device supports.

use burn::tensor::Device;

/// Returns the result of the first form that supports the tensors; else the code after it runs,
/// which is the operation in Burn's terms.
///
/// - `cpu [x, ..] => MODULE::OP(..)`: all tensors are f32 on the CPU, with or without autodiff
/// - `gpu [x, ..] => MODULE::OP(..)`: all tensors are f32 on a GPU that our kernels support, without
///   autodiff
/// - `cpu if SUPPORTS(..) => MODULE::OP(..)`: the form's own condition, a function of its module
macro_rules! dispatch {
    () => {};
    (cpu [$($x:expr),+] => $module:ident::$op:ident $args:tt; $($rest:tt)*) => {
        $crate::kernels::dispatch::dispatch! { @cpu (
            $($crate::kernels::cpu::is_plain_cpu_f32(&$x))&&+
                || $($crate::kernels::cpu::is_autodiff_cpu_f32(&$x))&&+
        ) => $module::$op $args; $($rest)* }
    };
    (cpu if $supports:ident $given:tt => $module:ident::$op:ident $args:tt; $($rest:tt)*) => {
        $crate::kernels::dispatch::dispatch! { @cpu (
            $crate::kernels::cpu::$module::$supports $given
        ) => $module::$op $args; $($rest)* }
    };
    (gpu [$($x:expr),+] => $module:ident::$op:ident $args:tt; $($rest:tt)*) => {
        $crate::kernels::dispatch::dispatch! { @gpu (
            $($crate::kernels::gpu::is_plain_gpu_f32(&$x))&&+
        ) => $module::$op $args; $($rest)* }
    };
    (gpu if $supports:ident $given:tt => $module:ident::$op:ident $args:tt; $($rest:tt)*) => {
        $crate::kernels::dispatch::dispatch! { @gpu (
            $crate::kernels::gpu::$module::$supports $given
        ) => $module::$op $args; $($rest)* }
    };
    (@cpu ($($when:tt)+) => $module:ident::$op:ident $args:tt; $($rest:tt)*) => {
        #[cfg(feature = "cpu")]
        if $($when)+ {
            return $crate::kernels::cpu::$module::$op $args;
        }
        $crate::kernels::dispatch::dispatch! { $($rest)* }
    };
    (@gpu ($($when:tt)+) => $module:ident::$op:ident $args:tt; $($rest:tt)*) => {
        #[cfg(feature = "gpu")]
        if $($when)+ {
            return $crate::kernels::gpu::$module::$op $args;
        }
        $crate::kernels::dispatch::dispatch! { $($rest)* }
    };
}
pub(super) use dispatch;

/// Whether a device is the CPU without autodiff. There, reading a result back costs nothing.
pub fn is_on_cpu(device: &Device) -> bool {
    #[cfg(feature = "cpu")]
    if super::cpu::is_cpu(device) {
        return true;
    }
    let _ = device;
    false
}

/// Whether a device is a GPU that our kernels support, without autodiff.
pub(crate) fn is_on_gpu(device: &Device) -> bool {
    #[cfg(feature = "gpu")]
    if super::gpu::supports(device) {
        return true;
    }
    let _ = device;
    false
}

/// Number of decoding steps between two reads of the result.
///
/// On a GPU, a few steps past the end cost less than waiting for each token. On the CPU every step
/// is read.
pub(crate) fn steps_per_read(device: &Device) -> usize {
    if cfg!(feature = "cpu") && !is_on_cpu(device) { 8 } else { 1 }
}

/// Whether an operation on another shape costs nothing extra. A GPU may compile other kernels for
/// it.
pub(crate) fn is_new_shape_free(device: &Device) -> bool {
    is_on_cpu(device)
}

/// On the CPU, runs `work` while helper threads stand by to share its steps, so that consecutive
/// small ops avoid a hand-over each.
///
/// Do not use it for batches: a batch would keep the helpers from urgent requests.
pub(crate) fn with_helpers<R>(device: &Device, work: impl FnOnce() -> R) -> R {
    #[cfg(feature = "cpu")]
    if super::cpu::is_cpu(device) {
        return super::cpu::with_helpers(work);
    }
    let _ = device;
    work()
}
