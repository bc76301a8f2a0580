//! The processor's vector instructions that loops are compiled for.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Most floats of a vector, for the whole process.
static WIDEST: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Limits the vectors of our loops and kernels, to test and measure what other processors run: 8
/// floats are AVX2, fewer are plain loops.
///
/// It applies to the whole process, from the next kernel on. Products of many rows in f32 (the
/// crate `gemm`) do not read it.
pub fn limit_vectors(n_floats: usize) {
    WIDEST.store(n_floats, Ordering::Relaxed);
}

/// Most floats of a vector that may be used.
// A build for GPUs alone, as for WebAssembly, has loops without versions.
#[cfg(any(feature = "cpu", target_arch = "x86_64"))]
pub(crate) fn widest() -> usize {
    WIDEST.load(Ordering::Relaxed)
}

/// Whether AVX2 and FMA may be used.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx2() -> bool {
    widest() >= 8 && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Compiles functions also for AVX2 and FMA, and selects that version at run time if available.
macro_rules! vectorized {
    ($($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $out:ty)? $body:block)*) => {$(
        $(#[$doc])*
        $vis fn $name($($arg: $ty),*) $(-> $out)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $out)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn with_avx2($($arg: $ty),*) $(-> $out)? {
                    body($($arg),*)
                }
                if $crate::vectors::has_avx2() {
                    // SAFETY: the processor has AVX2 and FMA, as just checked.
                    return unsafe { with_avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    )*};
}
pub(crate) use vectorized;
