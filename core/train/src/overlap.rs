//! Sums the gradients over workers and ranks while the backward pass goes on.
//!
//! A worker goes backward block by block (`core/src/model/segments.rs`). In its last micro-batch it
//! sends the gradients of a block once no further run of this block is left, and the others at the
//! end. The thread of the step adds up those of all workers. It exchanges a bucket once all of its
//! gradients are final on this rank.
//!
//! All ranks exchange the same buckets in the same order. So a gradient that a rank lacks is sent as
//! zeros. The ranks then exchange which gradients exist, and drop those that exist on no rank, so
//! that their parameters get no update.
//!
//! On a GPU a bucket waits for everything that its workers had queued when the thread of the step
//! took its gradients. So a host that is far ahead of the GPU hides less of the exchange.
//!
//! The sums have the same bits as those of a whole backward pass: workers and ranks are added in
//! pairs, for each parameter by itself.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender};

use burn::module::{Module, ParamId};
use burn::tensor::{Device, Tensor};
use mmgem_collective::{Collective, CollectiveError, sum_in_pairs};
use mmgem_core::model::segments::Tape;
use mmgem_core::params::visit;

use super::groups::{TOWERS, block_of};
use super::optimizer::GradientMap;
use super::reduce::{BUCKET, exchange_bucket};

/// How gradients pass from the workers to the other ranks.
#[derive(Clone, Copy)]
pub struct Overlap<'a> {
    /// Values of an exchange. Smaller parameters are combined, because each call waits for the
    /// network.
    pub bucket: usize,
    /// Called on a worker's thread before it sends the final gradients of a block, or of all other
    /// parameters.
    pub on_final: &'a (dyn Fn() + Sync),
}

impl Default for Overlap<'_> {
    fn default() -> Self {
        Self { bucket: BUCKET, on_final: &|| () }
    }
}

/// The trained parameters, in the order in which their gradients become final: the blocks of the
/// language model from the last one, those of the image encoder, then all others.
pub struct Units(Vec<Unit>);

/// The unit, path and number of values of a parameter.
type Parameter<'a> = (usize, &'a str, usize);

/// Parameters whose gradients become final together.
struct Unit {
    /// The first parameter of the block; `None` for those outside of blocks.
    block: Option<ParamId>,
    /// Number of values of each trained parameter, by module path.
    sizes: BTreeMap<String, usize>,
}

impl Units {
    /// The units of a module.
    pub fn new<M: Module>(module: &M) -> Self {
        let mut units: BTreeMap<(usize, Reverse<usize>), Unit> = BTreeMap::new();
        visit(module, |param| {
            let in_tower = |(at, tower): (usize, &&str)| Some((at, block_of(&param.path, tower)?));
            let block = TOWERS.iter().rev().enumerate().find_map(in_tower);
            let key = block.map_or((2, Reverse(0)), |(tower, block)| (tower, Reverse(block)));
            let unit = units
                .entry(key)
                .or_insert_with(|| Unit { block: block.map(|_| param.id), sizes: BTreeMap::new() });
            if param.is_trained() {
                unit.sizes.insert(param.path.clone(), param.n_values());
            }
        });
        Self(units.into_values().filter(|unit| !unit.sizes.is_empty()).collect())
    }

    /// The parameters in buckets of at most `size` values, or of one parameter.
    fn buckets(&self, size: usize) -> Vec<Vec<Parameter<'_>>> {
        let mut buckets: Vec<Vec<Parameter>> = vec![Vec::new()];
        let mut held = 0;
        for (unit, Unit { sizes, .. }) in self.0.iter().enumerate() {
            for (path, n) in sizes {
                if held > 0 && held + n > size {
                    buckets.push(Vec::new());
                    held = 0;
                }
                held += n;
                buckets.last_mut().expect("never empty").push((unit, path, *n));
            }
        }
        buckets
    }
}

/// The final gradients of a unit from one worker, without those that it lacks.
pub struct Final {
    worker: usize,
    unit: usize,
    gradients: GradientMap,
}

/// A worker's end of the way to the thread of the step.
pub struct Outbox<'a> {
    units: &'a Units,
    worker: usize,
    sender: Sender<Final>,
    on_final: &'a (dyn Fn() + Sync),
    /// The units whose gradients are not sent yet.
    left: Vec<usize>,
    /// Those of them that have runs of their block on the tape of the last micro-batch.
    on_tape: Vec<usize>,
}

impl<'a> Outbox<'a> {
    /// The outbox of a worker.
    pub fn new(
        units: &'a Units,
        worker: usize,
        sender: Sender<Final>,
        on_final: &'a (dyn Fn() + Sync),
    ) -> Self {
        let left = (0..units.0.len()).collect();
        Self { units, worker, sender, on_final, left, on_tape: Vec::new() }
    }

    /// Begins the backward pass of the last micro-batch.
    pub fn begin(&mut self, tape: &Tape) {
        self.on_tape = self.left.iter().copied().filter(|unit| self.holds(tape, *unit)).collect();
    }

    /// Sends the gradients of the blocks that have no run left on the tape. `take` removes and
    /// returns the gradient of a parameter.
    pub fn send_final(&mut self, tape: &Tape, mut take: impl FnMut(&str) -> Option<Tensor<1>>) {
        let on_tape = std::mem::take(&mut self.on_tape);
        let (on_tape, done): (Vec<usize>, Vec<usize>) =
            on_tape.into_iter().partition(|unit| self.holds(tape, *unit));
        self.on_tape = on_tape;
        self.left.retain(|unit| !done.contains(unit));
        done.into_iter().for_each(|unit| self.send(unit, &mut take));
    }

    /// Sends all gradients that are left.
    pub fn finish(mut self, mut gradients: GradientMap) {
        let left = std::mem::take(&mut self.left);
        left.into_iter().for_each(|unit| self.send(unit, &mut |path| gradients.remove(path)));
        let late = gradients.keys().next();
        assert!(late.is_none(), "{late:?} has a gradient after its block was final");
    }

    fn holds(&self, tape: &Tape, unit: usize) -> bool {
        self.units.0[unit].block.is_some_and(|block| tape.holds(block))
    }

    fn send(&self, unit: usize, take: &mut dyn FnMut(&str) -> Option<Tensor<1>>) {
        (self.on_final)();
        let paths = self.units.0[unit].sizes.keys();
        let gradients = paths.filter_map(|path| Some((path.clone(), take(path)?))).collect();
        self.sender
            .send(Final { worker: self.worker, unit, gradients })
            .expect("the thread of the step outlives the workers");
    }
}

/// The sums of a step's gradients over the workers of this rank and over all ranks.
pub struct Reduction<'a> {
    units: &'a Units,
    group: &'a dyn Collective,
    device: Device,
    /// The buckets that are not exchanged yet, the next one last.
    buckets: Vec<Vec<Parameter<'a>>>,
    /// Of each unit, the gradients of each worker, as far as they are final.
    arrived: Vec<Vec<Option<GradientMap>>>,
    /// Of each unit, the number of workers whose gradients are not final.
    n_missing: Vec<usize>,
    /// Sums over the workers that are not exchanged yet.
    sums: GradientMap,
    /// Each exchanged parameter, and whether it has a gradient on this rank.
    exists: Vec<(&'a str, bool)>,
    reduced: GradientMap,
}

impl<'a> Reduction<'a> {
    /// Begins with gradients of this rank that no worker computes. `device` has no autodiff.
    pub fn new(
        units: &'a Units,
        n_workers: usize,
        first: GradientMap,
        bucket: usize,
        device: Device,
        group: &'a dyn Collective,
    ) -> Self {
        let mut buckets = units.buckets(bucket);
        buckets.reverse();
        Self {
            units,
            group,
            device,
            buckets,
            arrived: units.0.iter().map(|_| (0..n_workers).map(|_| None).collect()).collect(),
            n_missing: vec![n_workers; units.0.len()],
            sums: first,
            exists: Vec::new(),
            reduced: GradientMap::new(),
        }
    }

    /// Takes the gradients of the workers as they become final, until all workers have ended, and
    /// exchanges them. Returns the sums. They are incomplete if a worker has panicked.
    ///
    /// # Errors
    /// If the ranks lose contact.
    pub fn run(mut self, finals: &Receiver<Final>) -> Result<GradientMap, CollectiveError> {
        self.exchange_final()?;
        for Final { worker, unit, gradients } in finals {
            self.arrived[unit][worker] = Some(gradients);
            self.n_missing[unit] -= 1;
            if self.n_missing[unit] == 0 {
                self.add_workers(unit);
                self.exchange_final()?;
            }
        }
        if self.buckets.is_empty() {
            self.drop_absent()?;
        }
        Ok(self.reduced)
    }

    /// Adds up the gradients of a unit over all workers.
    fn add_workers(&mut self, unit: usize) {
        let workers = std::mem::take(&mut self.arrived[unit]);
        let mut workers: Vec<GradientMap> = workers.into_iter().flatten().collect();
        for path in self.units.0[unit].sizes.keys() {
            let parts = workers.iter_mut().map(|gradients| gradients.remove(path)).collect();
            let sum = add(self.sums.remove(path), sum_in_pairs(parts, add).flatten());
            self.sums.extend(sum.map(|sum| (path.clone(), sum)));
        }
    }

    /// Exchanges the next buckets, as far as all of their gradients are final on this rank.
    fn exchange_final(&mut self) -> Result<(), CollectiveError> {
        let is_final = |(unit, _, _): &Parameter| self.n_missing[*unit] == 0;
        while let Some(bucket) = self.buckets.pop_if(|bucket| bucket.iter().all(is_final)) {
            let mut values = Vec::new();
            for (_, path, n) in bucket {
                let own = self.sums.remove(path);
                self.exists.push((path, own.is_some()));
                let is_alone = self.group.size() == 1;
                let zeros = || (!is_alone).then(|| Tensor::zeros([n], &self.device));
                values.extend(own.or_else(zeros).map(|own| (path.to_owned(), own)));
            }
            if self.group.size() == 1 {
                self.reduced.extend(values);
                continue;
            }
            let take = |path, sum| drop(self.reduced.insert(path, sum));
            exchange_bucket(values, &|bucket| self.group.all_reduce_sum(bucket), take)?;
        }
        Ok(())
    }

    /// Drops the gradients that exist on no rank.
    fn drop_absent(&mut self) -> Result<(), CollectiveError> {
        if self.group.size() == 1 {
            return Ok(());
        }
        let own: Vec<u8> = self.exists.iter().map(|(_, exists)| u8::from(*exists)).collect();
        let ranks = self.group.exchange(&own)?;
        for (idx, (path, _)) in self.exists.iter().enumerate() {
            if ranks.iter().all(|flags| flags.get(idx) != Some(&1)) {
                self.reduced.remove(*path);
            }
        }
        Ok(())
    }
}

/// The sum of two gradients, each of which may be absent.
pub fn add(a: Option<Tensor<1>>, b: Option<Tensor<1>>) -> Option<Tensor<1>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a + b),
        (a, b) => a.or(b),
    }
}
