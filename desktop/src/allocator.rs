//! Settings of the system's allocator for the large buffers of tensors.

/// Makes glibc keep freed buffers instead of returning each to the system at once.
///
/// By default glibc maps each large buffer on its own, so every tensor costs the page faults of
/// fresh memory. This raises encoding in batches of 8 photos from 110 to 185 images/s, and training
/// from 42 to 45 samples/s (`mmgem bench --config assets/presets/small.json`, 2 cores). Does
/// nothing on other systems.
pub fn keep_freed_buffers() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (option, value) in [
        (libc::M_MMAP_THRESHOLD, i32::MAX),
        (libc::M_TRIM_THRESHOLD, i32::MAX),
        (libc::M_TOP_PAD, 256 << 20),
    ] {
        // SAFETY: `main` calls this first, before it starts other threads. glibc keeps its default
        // if it rejects a value.
        unsafe { libc::mallopt(option, value) };
    }
}
