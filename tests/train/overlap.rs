//! Gradients are exchanged while the backward pass goes on, with the same bits as after it.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

use burn::tensor::{Device, Tensor};
use mmgem_collective::{Collective, CollectiveError, Single};
use mmgem_core::config::{EfficientNetLiteConfig, MmGemConfig, VisionConfig};
use mmgem_core::init::fresh;
use mmgem_core::model::MmGem;
use mmgem_core::params::visit;
use mmgem_train::{
    Batch, Batches, Overlap, StepContext, Totals, TrainConfig, Trainee, freeze, gradient_with,
};

use crate::lab::{Lab, PATIENCE, on_ranks};
use crate::tiny;

/// Values of a bucket: a few parameters of the tiny model.
const SMALL: usize = 1000;

/// Stage 2 must have a model to start from.
const START: &str = "model={ from = 'LAB/start' }";

/// A model with three blocks in each tower, and a run that trains it.
struct Bench {
    _lab: Lab,
    config: TrainConfig,
    sizes: MmGemConfig,
    trainee: Trainee,
    device: Device,
}

impl Bench {
    fn new(set: &[&str], change: impl Fn(&mut MmGemConfig)) -> Self {
        let lab = Lab::new();
        let config = lab.config("run", set);
        let device = Device::flex().autodiff();
        let three = tiny::CONFIG.replace("\"num_hidden_layers\": 1", "\"num_hidden_layers\": 3");
        let mut sizes = MmGemConfig::from_json(&three).expect("the tiny config is right");
        change(&mut sizes);
        let model = fresh(MmGem::new(&sizes, &device), &sizes, 1);
        let trainee = freeze(Trainee::new(model, &sizes, &config, &device), &config);
        Self { _lab: lab, config, sizes, trainee, device }
    }

    /// A rank's part of the first batch.
    fn batch(&self, rank: usize, n_ranks: usize) -> Batch {
        let tokenizer = tiny::model().tokenizer;
        let batches = Batches::open(&self.config, &self.sizes, &tokenizer, rank, n_ranks);
        batches.expect("a shard").batch(0)
    }

    /// The bits of each gradient of a batch.
    fn bits(
        &self,
        batch: &Batch,
        workers: usize,
        overlap: Overlap,
        group: &dyn Collective,
    ) -> BTreeMap<String, Vec<u32>> {
        let mut config = self.config.clone();
        config.optim.workers = workers;
        let totals = Totals::new(batch, &config, group).expect("the ranks are in sync");
        let (sizes, device) = (&self.sizes, &self.device);
        let context = StepContext { sizes, config: &config, device, totals: &totals };
        let step = gradient_with(&self.trainee, batch, &context, group, overlap);
        let bits = |values: Tensor<1>| -> Vec<u32> {
            let values: Vec<f32> = values.into_data().try_to_vec().expect("f32");
            values.into_iter().map(f32::to_bits).collect()
        };
        let gradients = step.unwrap_or_else(|error| panic!("{error}")).gradients;
        gradients.into_iter().map(|(path, values)| (path, bits(values))).collect()
    }
}

/// One of two ranks whose batches are equal, without the other one.
#[derive(Default)]
struct Mirror {
    events: Mutex<Vec<Event>>,
    changed: Condvar,
    /// The number of the sum in the backward pass that fails.
    fails_at: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    /// A worker is about to send the last gradients of a unit.
    Final,
    /// This rank exchanges so many values.
    Exchange(usize),
}

impl Mirror {
    fn push(&self, event: Event) -> Vec<Event> {
        let mut events = self.events.lock().expect("no thread has panicked");
        events.push(event);
        self.changed.notify_all();
        events.clone()
    }

    /// Waits until so many values were exchanged since the first final gradient.
    fn wait_for(&self, n: usize) {
        let events = self.events.lock().expect("no thread has panicked");
        let is_early = |events: &mut Vec<Event>| exchanged(events).iter().sum::<usize>() < n;
        let waited = self.changed.wait_timeout_while(events, PATIENCE, is_early);
        let (events, timeout) = waited.expect("no thread has panicked");
        let events = events.clone();
        assert!(!timeout.timed_out(), "no exchange during the backward pass: {events:?}");
    }
}

/// The exchanges since the first final gradient. Those before are of the contrastive loss.
fn exchanged(events: &[Event]) -> Vec<usize> {
    let in_backward = events.iter().skip_while(|event| **event != Event::Final);
    let size = |event: &Event| if let Event::Exchange(n) = event { Some(*n) } else { None };
    in_backward.filter_map(size).collect()
}

impl Collective for Mirror {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        2
    }

    fn exchange(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError> {
        Ok(vec![own.to_vec(); 2])
    }

    fn all_reduce_sum(&self, values: Tensor<1>) -> Result<Tensor<1>, CollectiveError> {
        let [n] = values.dims();
        let events = self.push(Event::Exchange(n));
        if self.fails_at.is_some_and(|at| exchanged(&events).len() == at) {
            return Err(CollectiveError::Lost { who: "rank 1".into(), cause: "a test".into() });
        }
        Ok(values * 2)
    }

    fn all_gather(&self, values: Tensor<1>) -> Result<Tensor<1>, CollectiveError> {
        Ok(Tensor::cat(vec![values.clone(), values], 0))
    }

    fn broadcast(&self, values: Tensor<1>, _root: usize) -> Result<Tensor<1>, CollectiveError> {
        Ok(values)
    }
}

/// Checks that the gradients of all blocks are exchanged before the worker sends its last ones.
fn check_overlap(set: &[&str]) {
    let bench = Bench::new(&[&["optim.workers=1"], set].concat(), |_| ());
    let mut in_blocks = 0;
    visit(&bench.trainee, |param| {
        if param.is_trained()
            && ["llm.layers.", "visual.blocks."].iter().any(|of| param.path.starts_with(of))
        {
            in_blocks += param.n_values();
        }
    });
    let group = Mirror::default();
    let n_sent = AtomicUsize::new(0);
    let on_final = || {
        // Six blocks, and the rest.
        if n_sent.fetch_add(1, Ordering::Relaxed) == 6 {
            group.wait_for(in_blocks);
        }
        group.push(Event::Final);
    };
    // Each parameter is a bucket.
    let overlap = Overlap { bucket: 1, on_final: &on_final };
    bench.bits(&bench.batch(0, 2), 1, overlap, &group);
    assert_eq!(n_sent.into_inner(), 7);
    let events = group.events.into_inner().expect("no thread has panicked");
    let last = events.iter().rposition(|event| *event == Event::Final).expect("some");
    assert_eq!(exchanged(&events[..last]).iter().sum::<usize>(), in_blocks, "{set:?}");
    assert!(exchanged(&events[last..]).len() > 5, "{set:?}: the rest follows");
}

#[test]
fn blocks_are_exchanged_before_the_backward_pass_ends() {
    check_overlap(&[]);
    check_overlap(&["optim.recompute=true"]);
    check_overlap(&["optim.micro_batch=1", "grounding={ weight = 1.0, contrast = true }"]);
    check_overlap(&["optim.recompute=true", "lora={ rank = 2, alpha = 4 }"]);
}

/// Compares the bits of a step's gradients on one rank, which exchanges nothing, with those on two.
fn check_bits_of(set: &[&str], change: impl Fn(&mut MmGemConfig)) {
    let bench = Bench::new(&[&["optim.batch_size=8"], set].concat(), change);
    let one = bench.bits(&bench.batch(0, 1), 4, Overlap::default(), &Single);
    for bucket in [1, SMALL, usize::MAX] {
        let two = on_ranks(2, PATIENCE, |group| {
            let overlap = Overlap { bucket, ..Overlap::default() };
            bench.bits(&bench.batch(group.rank(), 2), 2, overlap, group)
        });
        for two in two {
            assert!(two.keys().eq(one.keys()), "{set:?}");
            for (path, bits) in &one {
                assert!(two[path] == *bits, "{path} with {set:?} in buckets of {bucket}");
            }
        }
    }
}

#[test]
fn gradients_have_the_bits_of_an_exchange_after_the_backward_pass() {
    let none = |_: &mut MmGemConfig| ();
    check_bits_of(&[], none);
    check_bits_of(&["optim.micro_batch=1"], none);
    check_bits_of(&["optim.recompute=true", "optim.micro_batch=1"], none);
    check_bits_of(&["optim.compute_dtype=bf16"], none);
    // The language model runs four times.
    let grounding = "grounding={ weight = 1.0, contrast = true, caption_weight = 0.5 }";
    check_bits_of(&[grounding], none);
    check_bits_of(&["lora={ rank = 2, alpha = 4 }"], none);
    check_bits_of(&["freeze_vision_blocks=1", "freeze_text_blocks=2"], none);
    check_bits_of(&["freeze_llm=true"], none);
    check_bits_of(&["freeze_vision=true", "objective=clip_only"], none);
    check_bits_of(&["recipe=stage2_caption", START], none);
    check_bits_of(&["recipe=stage2_retrieval", "contrastive_loss=siglip", START], none);
    // The token embedding is also the output head.
    check_bits_of(&[grounding], |sizes| sizes.llm.tie_word_embeddings = true);
}

#[test]
fn recomputed_blocks_give_the_same_bits_as_kept_ones() {
    let grounding = "grounding={ weight = 1.0, contrast = true, caption_weight = 0.5 }";
    let bits = |recompute: &str| {
        let bench = Bench::new(&[recompute, grounding], |_| ());
        bench.bits(&bench.batch(0, 1), 2, Overlap::default(), &Single)
    };
    assert!(bits("optim.recompute=true") == bits("optim.recompute=false"));
}

#[test]
fn a_convolutional_tower_is_one_piece() {
    let lite = |sizes: &mut MmGemConfig| {
        sizes.vision = VisionConfig::EfficientNetLite(EfficientNetLiteConfig {
            image_size: 64,
            width_coefficient: 0.15,
            depth_coefficient: 0.7,
            hidden_size: 24,
        });
    };
    check_bits_of(&[], lite);
    check_bits_of(&["optim.recompute=true"], lite);
}

#[test]
fn a_rank_without_samples_adds_nothing() {
    let bench = Bench::new(&["optim.batch_size=4"], |_| ());
    let one = bench.bits(&bench.batch(0, 1), 2, Overlap::default(), &Single);
    let found = on_ranks(2, PATIENCE, |group| {
        let batch = if group.rank() == 0 { bench.batch(0, 1) } else { Batch::default() };
        bench.bits(&batch, 2, Overlap { bucket: SMALL, ..Overlap::default() }, group)
    });
    assert!(found.iter().all(|two| *two == one));
}

#[test]
fn parameters_without_a_gradient_on_any_rank_get_none() {
    let set = ["recipe=warmup", "data={ text = ['LAB/captions.txt'] }", "optim.batch_size=4"];
    let bench = Bench::new(&set, |_| ());
    let one = bench.bits(&bench.batch(0, 1), 2, Overlap::default(), &Single);
    assert!(!one.is_empty() && !one.keys().any(|path| path.starts_with("visual.")));
    let found = on_ranks(2, PATIENCE, |group| {
        bench.bits(&bench.batch(group.rank(), 2), 1, Overlap::default(), group)
    });
    assert!(found.iter().all(|two| *two == one));
}

#[test]
fn a_rank_that_is_lost_during_the_backward_pass_ends_the_step() {
    let bench = Bench::new(&["optim.workers=2"], |_| ());
    let batch = bench.batch(0, 2);
    let group = Mirror { fails_at: Some(3), ..Mirror::default() };
    let on_final = || drop(group.push(Event::Final));
    let overlap = Overlap { bucket: SMALL, on_final: &on_final };
    let totals = Totals::new(&batch, &bench.config, &group).expect("in sync");
    let context = StepContext {
        sizes: &bench.sizes,
        config: &bench.config,
        device: &bench.device,
        totals: &totals,
    };
    let error = gradient_with(&bench.trainee, &batch, &context, &group, overlap).err();
    let error = error.expect("a rank is lost").to_string();
    assert!(error.contains("rank 1 is gone (a test)"), "{error}");
    let events = group.events.into_inner().expect("no thread has panicked");
    assert_eq!(exchanged(&events).len(), 3, "nothing follows the loss");
    // Both workers have ended.
    assert_eq!(events.iter().filter(|event| **event == Event::Final).count(), 14);
}

#[test]
fn a_worker_that_panics_is_reported() {
    let bench = Bench::new(&["optim.workers=2"], |_| ());
    let overlap = Overlap { bucket: SMALL, on_final: &|| panic!("the worker's words") };
    let act = || bench.bits(&bench.batch(0, 2), 2, overlap, &Mirror::default());
    let panic = catch_unwind(AssertUnwindSafe(act)).expect_err("a worker has panicked");
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"the worker's words"));
}
