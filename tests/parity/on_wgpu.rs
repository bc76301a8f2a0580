//! The same stages on a GPU, or on a program that plays one (lavapipe): slow there, because every
//! kernel is compiled for these few numbers, so only cases that differ in their kernels.

use crate::fixture::Case;

/// GPUs fuse and reorder more, and their `exp`, `tanh` and `sqrt` may be off by a few units in the
/// last place.
const TOLERANCE: f64 = 1e-3;

#[test]
fn a_gpu_agrees_with_the_reference() {
    let device = match mmgem_backend_wgpu::device(None) {
        Ok(device) => device,
        Err(reason) => {
            eprintln!("SKIPPED: no wgpu adapter ({reason})");
            return;
        }
    };
    for name in ["multi_query", "crop_16_9"] {
        let start = std::time::Instant::now();
        let case = Case::read(name);
        case.compare(&case.forward(&case.open(&device)), TOLERANCE, "wgpu");
        println!("wgpu {name}: {:.1} s", start.elapsed().as_secs_f64());
    }
}
