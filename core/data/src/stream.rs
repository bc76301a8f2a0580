//! Shards from a command (`pipe:aws s3 cp s3://bucket/00000.tar -`), which can be read only from
//! the front.
//!
//! The source is split into lanes. Each lane has its own shards, in a new order in every epoch. The
//! sequence of a lane's samples depends only on the seed:
//!
//! - Each shard counts as `samples_per_shard` samples. Further samples of a longer shard are
//!   skipped, and a shorter shard leaves gaps. Both are reported.
//! - Samples are shuffled within blocks of `shuffle_buffer`, never across epochs.
//!
//! So any process can find any place of the sequence again. A run resumes in mid-epoch by starting
//! the commands of that place and skipping the samples that were used before. A failed command is
//! run again (`command.rs`).

use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::command::Reader;
use super::mixture::keep_apart;
use super::webdataset::Sample;

/// A source that consists of commands.
#[derive(Clone, Debug)]
pub struct Streams {
    /// Commands, each of which writes one shard to its standard output.
    pub commands: Vec<String>,
    /// Number of samples that each shard counts as.
    pub samples_per_shard: usize,
    /// Number of independent sequences.
    pub lanes: usize,
    /// Size of the blocks within which samples are shuffled.
    pub shuffle_buffer: usize,
    /// Seed of all shuffles.
    pub seed: u64,
    /// Most places of a lane that one batch takes, if a batch may hold the end of an epoch and the
    /// start of the next; else 0.
    pub window: usize,
    /// Waiting times before the retries of a failed command.
    pub retry_pauses: Vec<Duration>,
}

/// One of a source's sequences, read from front to back.
pub struct Lane {
    streams: Arc<Streams>,
    lane: usize,
    /// The current block: its start, and its samples in shuffled order.
    block: Option<(usize, Vec<Result<Sample, Missing>>)>,
    /// The open shard: its number in the lane's sequence, and the samples taken from it.
    open: Option<(usize, usize, Reader)>,
    /// A pending warning about the first shard that is too long.
    pending_warning: Option<String>,
    has_warned: bool,
}

/// The reason why a place has no sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Problem of the shard.
    pub why: String,
    /// Whether it is the shard's first gap. Report the reason only for that one.
    pub is_first: bool,
}

impl Streams {
    /// Number of shards in a lane.
    fn shards(&self, lane: usize) -> usize {
        (self.commands.len() - lane).div_ceil(self.lanes)
    }

    /// Number of samples in a lane's epoch.
    pub fn epoch(&self, lane: usize) -> usize {
        self.shards(lane) * self.samples_per_shard
    }

    /// The command for a shard of a lane's sequence.
    fn command(&self, lane: usize, shard: usize) -> &str {
        let n = self.shards(lane);
        let (epoch, place) = (shard / n, shard % n);
        let shuffled = |epoch| {
            let mut order: Vec<u32> = (0..n as u32).collect();
            order.shuffle(&mut self.rng(0, lane, epoch));
            order
        };
        let mut order = shuffled(epoch);
        if epoch > 0 && self.window > 0 && self.keeps_epochs_apart(lane) {
            // The start of an epoch does not change its end, so the end of the epoch before is known.
            let n_apart = self.shards_of_window();
            keep_apart(&mut order, &shuffled(epoch - 1)[n - n_apart..], n_apart);
        }
        &self.commands[lane + self.lanes * order[place] as usize]
    }

    /// Whether a lane has enough shards for the first ones of an epoch to differ from the last ones
    /// of the epoch before, as far as one batch may hold samples of both.
    pub fn keeps_epochs_apart(&self, lane: usize) -> bool {
        self.window == 0 || self.shards(lane) >= 3 * self.shards_of_window()
    }

    /// Most shards at one end of an epoch that a batch across two epochs may hold samples of.
    fn shards_of_window(&self) -> usize {
        (self.window + self.shuffle_buffer).div_ceil(self.samples_per_shard)
    }

    fn rng(&self, kind: u64, lane: usize, at: usize) -> ChaCha8Rng {
        let mix = (at as u64 * 2 + kind + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ChaCha8Rng::seed_from_u64(self.seed ^ mix ^ ((lane as u64 + 1) << 48))
    }
}

impl Lane {
    /// A lane at its start.
    pub fn new(streams: Arc<Streams>, lane: usize) -> Self {
        Self { streams, lane, block: None, open: None, pending_warning: None, has_warned: false }
    }

    /// Reads the sample at a place of the sequence.
    ///
    /// Call it with growing places. A place before the current block starts its command again.
    pub fn read(&mut self, at: usize) -> Result<Sample, Missing> {
        let (size, epoch) = (self.streams.shuffle_buffer, self.streams.epoch(self.lane));
        let (begin, in_epoch) = (at - at % epoch, at % epoch);
        let start = begin + in_epoch - in_epoch % size;
        let block = start..(start + size).min(begin + epoch);
        if self.block.as_ref().is_none_or(|(held, _)| *held != start) {
            let mut order: Vec<usize> = (0..block.len()).collect();
            order.shuffle(&mut self.streams.rng(1, self.lane, start));
            let mut slots: Vec<Option<_>> = block.map(|at| Some(self.next(at))).collect();
            let shuffled =
                order.into_iter().map(|from| slots[from].take().expect("each once")).collect();
            self.block = Some((start, shuffled));
        }
        let (start, block) = self.block.as_ref().expect("just read");
        block[at - start].clone()
    }

    /// Reads the sample at a place of the unshuffled sequence.
    fn next(&mut self, at: usize) -> Result<Sample, Missing> {
        let per_shard = self.streams.samples_per_shard;
        let (shard, idx) = (at / per_shard, at % per_shard);
        let is_open =
            self.open.as_ref().is_some_and(|(open, taken, _)| (*open, *taken) == (shard, idx));
        if !is_open {
            // Not positioned here: start the shard's command, and skip the samples before this one.
            let command = self.streams.command(self.lane, shard).to_owned();
            let pauses = self.streams.retry_pauses.clone();
            self.open = Some((shard, idx, Reader::start(command, idx, pauses)));
        }
        let (_, taken, reader) = self.open.as_mut().expect("just opened");
        *taken += 1;
        let sample = reader.next();
        if *taken == per_shard && sample.is_ok() && !self.has_warned && reader.has_more() {
            self.has_warned = true;
            self.pending_warning = Some(format!(
                "pipe:{}: the shard has more samples than `samples_per_shard`, which is {per_shard}; the rest of such shards is skipped",
                reader.command
            ));
        }
        sample
    }

    /// Takes the pending warning about a shard that is too long, if any. It comes only once.
    pub fn take_warning(&mut self) -> Option<String> {
        self.pending_warning.take()
    }
}
