//! Memory that a training step takes against what `mmgem train --plan` says. Alone in its program, because it counts
//! every allocation.

#[path = "train/lab.rs"]
#[allow(dead_code, reason = "the training tests use the rest")]
mod lab;
#[path = "tiny.rs"]
#[allow(dead_code, reason = "the training tests use the rest")]
mod tiny;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::Device;
use lab::Lab;
use mmgem_core::config::MmGemConfig;
use mmgem_core::init::fresh;
use mmgem_core::model::MmGem;
use mmgem_core::train::collective::Single;
use mmgem_core::train::{
    Batches, ComputeDtype, Totals, Trainee, freeze, gradient, plan, record_as_other_devices,
};

/// Bytes in use, and the most there were since the counter was set back.
static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(now, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Sizes of the towers: patch, width and layers of the encoder, width, feed-forward width and layers of the decoder.
struct Shape(usize, usize, usize, usize, usize, usize);

/// Measured and planned bytes of the activations of eight samples.
fn measure(lab: &Lab, shape: &Shape, set: &[&str]) -> (f64, f64) {
    let mut sizes = MmGemConfig::from_json(tiny::CONFIG).expect("the tiny config is right");
    let Shape(patch, width, n_layers, hidden_size, ffn, n_llm_layers) = *shape;
    (sizes.vision.image_size, sizes.vision.patch_size) = (64, patch);
    (sizes.vision.hidden_size, sizes.vision.num_hidden_layers) = (width, n_layers);
    (sizes.llm.hidden_size, sizes.llm.intermediate_size, sizes.llm.num_hidden_layers) =
        (hidden_size, ffn, n_llm_layers);
    let device = Device::flex().autodiff();
    let mut config = lab.config("run", &[&["optim.batch_size=8"], set].concat());
    let tokenizer = tiny::model().tokenizer;
    let batch = Batches::open(&config, &sizes, &tokenizer, 0, 1).expect("a shard").batch(0);
    // Texts are padded to the longest.
    config.hardware.text_tokens = batch.samples.iter().map(|s| s.text.len()).max().expect("some") as f64;
    let model = fresh(MmGem::new(&sizes, &device), &sizes, 1);
    let trainee = freeze(Trainee::new(model, &sizes, &config, &device), &config);
    let totals = Totals::new(&batch, &config, &Single).expect("one rank");
    let step = || gradient(&trainee, &batch, &totals, &sizes, &config, &device, &Single).expect("one rank");
    drop(step());
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    drop(step());
    let planned = plan(&config, &sizes, 1, None);
    let cast = if config.optim.compute_dtype == ComputeDtype::Bf16 { 2 * planned.parameters } else { 0 };
    let gradients = 4 * planned.trained_parameters;
    let measured = (MOST.load(Ordering::Relaxed) - before - cast - gradients) as f64;
    (measured, 8.0 * planned.activation_bytes_per_sample)
}

/// Bytes that the CPU's products pack their matrices into, which the plan leaves out: they follow from its vectors and
/// caches, so that the same step takes more on one machine than on another.
const PACKED: f64 = 5e5;

#[test]
fn a_step_takes_the_memory_that_was_planned() {
    // The plan is for GPUs, whose graph is Burn's.
    record_as_other_devices();
    let lab = Lab::new();
    let mut wrong = Vec::new();
    // What Burn's operations hold in bf16 was only measured on the CPU, so fewer shapes will do.
    let (recompute, bf16) = ("optim.recompute=true", "optim.compute_dtype=bf16");
    let sets: [(&[&str], usize, f64); 4] =
        [(&[], 1, 0.15), (&[recompute], 1, 0.2), (&[bf16], 2, 0.2), (&[bf16, recompute], 2, 0.2)];
    let cases = sets.into_iter().flat_map(|(set, nth, tolerance)| {
        shapes().into_iter().step_by(nth).map(move |shape| (set, shape, tolerance))
    });
    for (set, shape, tolerance) in cases {
        let (measured, planned) = measure(&lab, &shape, set);
        let Shape(patch, width, n_layers, hidden_size, ffn, n_llm_layers) = shape;
        let what = format!("{patch} {width} {n_layers} {hidden_size} {ffn} {n_llm_layers} {set:?}");
        println!("{what}: {measured} measured, {planned} planned, ratio {:.2}", planned / measured);
        if (planned - measured).abs() > tolerance * measured + PACKED {
            wrong.push(what);
        }
    }
    assert!(wrong.is_empty(), "too far off: {wrong:?}");
}

fn shapes() -> [Shape; 8] {
    [
        Shape(8, 96, 4, 64, 128, 2),
        Shape(8, 96, 8, 64, 128, 2),
        Shape(4, 96, 4, 64, 128, 2),
        Shape(8, 192, 4, 64, 128, 2),
        Shape(8, 48, 1, 128, 256, 6),
        Shape(8, 48, 1, 128, 768, 6),
        Shape(8, 48, 1, 256, 512, 6),
        Shape(16, 48, 2, 64, 128, 8),
    ]
}
