//! What a training step costs a GPU beside its computation: streams, memory and read-backs.
//!
//! The GPU is the machine's first adapter, for example lavapipe. The tests have a program of their
//! own, because memory and read-backs are counted for the whole process.

#![allow(clippy::print_stderr, reason = "a test prints what it skips")]

#[path = "train/lab.rs"]
#[allow(dead_code, reason = "the training tests use the rest")]
mod lab;
#[path = "tiny.rs"]
#[allow(dead_code, reason = "the training tests use the rest")]
mod tiny;

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::tensor::{Device, StreamId};
use lab::{COMMIT, Lab, PATIENCE, on_ranks};
use mmgem_collective::{Collective, Single};
use mmgem_core::config::MmGemConfig;
use mmgem_core::init::fresh;
use mmgem_core::model::MmGem;
use mmgem_train::{
    Batches, Progress, Signals, StepContext, Totals, Trainee, freeze, gradient, train,
};

/// The GPU, for one test at a time.
fn gpu() -> Option<(Device, MutexGuard<'static, ()>)> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    match mmgem_backend_wgpu::device(None) {
        Ok(device) => Some((device, alone)),
        Err(reason) => {
            eprintln!("SKIPPED: no wgpu adapter ({reason})");
            None
        }
    }
}

/// Streams that were given out so far in this process.
fn n_streams() -> u64 {
    StreamId::allocate().value
}

#[test]
fn fifty_steps_take_no_more_streams_and_memory_than_ten() {
    let Some((device, _alone)) = gpu() else { return };
    let lab = Lab::new();
    let set = ["optim.steps=50", "optim.workers=2", "checkpoint.every=5"];
    let config = lab.config("run", &set);
    let mut counts = Vec::new();
    train(&config, &device, COMMIT, false, &Signals::default(), &Single, |progress| {
        if let Progress::Step { .. } = progress {
            let usage = device.memory_pool_usage().expect("wgpu reports its memory");
            counts.push((n_streams(), usage.bytes_reserved));
        }
    })
    .unwrap_or_else(|error| panic!("{error}"));
    let (early, late) = (counts[9], counts[49]);
    // Each count takes a number of its own.
    assert_eq!(late.0 - early.0, 40, "a step took streams: {counts:?}");
    // Small buffers come and go; a pool of one more stream is larger than this.
    assert!(late.1 <= early.1 + (64 << 10), "the memory has grown: {counts:?}");
}

/// The steps of two ranks whose gradients are exchanged while the workers compute.
#[test]
fn twenty_steps_of_two_ranks_take_no_more_streams_and_memory_than_ten() {
    let Some((device, _alone)) = gpu() else { return };
    let lab = Lab::new();
    let set = ["optim.steps=20", "optim.workers=2", "checkpoint.every=5"];
    let config = lab.config("run", &set);
    let counts = on_ranks(2, PATIENCE, |group| {
        let mut counts = Vec::new();
        train(&config, &device, COMMIT, false, &Signals::default(), group, |progress| {
            if let Progress::Step { .. } = progress {
                let usage = device.memory_pool_usage().expect("wgpu reports its memory");
                // Only one thread may take numbers, because each shifts those of the others.
                let n = if group.rank() == 0 { n_streams() } else { 0 };
                counts.push((n, usage.bytes_reserved));
            }
        })
        .unwrap_or_else(|error| panic!("{error}"));
        counts
    });
    let (early, late) = (counts[0][9], counts[0][19]);
    assert_eq!(late.0 - early.0, 10, "a step took streams: {counts:?}");
    // The buffers of two ranks meet by chance; the pools of one more stream are larger than this.
    assert!(late.1 <= early.1 + (1 << 20), "the memory has grown: {counts:?}");
}

#[test]
fn a_step_reads_the_device_once() {
    let Some((device, _alone)) = gpu() else { return };
    let device = device.autodiff();
    let lab = Lab::new();
    let sizes = MmGemConfig::from_json(tiny::CONFIG).expect("the tiny config is right");
    let model = fresh(MmGem::new(&sizes, &device), &sizes, 1);
    for set in
        [["optim.workers=1", "optim.micro_batch=1"], ["optim.workers=2", "optim.micro_batch=2"]]
    {
        let config = lab.config("run", &set);
        let tokenizer = tiny::model().tokenizer;
        let batch = Batches::open(&config, &sizes, &tokenizer, 0, 1).expect("a shard").batch(0);
        let trainee = freeze(Trainee::new(model.clone(), &sizes, &config, &device), &config);
        let totals = Totals::new(&batch, &config, &Single).expect("one rank");
        let context =
            StepContext { sizes: &sizes, config: &config, device: &device, totals: &totals };
        let step = || gradient(&trainee, &batch, &context, &Single).expect("one rank");
        // The first step compiles the kernels.
        let first = step();
        assert!(first.norm > 0.0 && first.losses.len() == 2, "{:?}", first.losses);
        let (again, traffic) = mmgem_backend_wgpu::count(step).expect("no other logger");
        assert!((again.total - first.total).abs() < 1e-5, "{} and {}", again.total, first.total);
        assert_eq!(traffic.read_backs, 1, "{set:?}");
    }
}
