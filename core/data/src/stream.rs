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
//! the commands of that place and skipping the samples that were used before.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::unpack::Unpacked;
use super::webdataset::{Sample, split_name};

/// Number of samples that are read ahead of the consumer.
const AHEAD: usize = 32;

/// Seconds without output after which a command is reported.
const SILENT_SECS: u64 = 30;

/// Seconds to wait for one more sample when checking whether a shard is too long.
const LAST_SECS: u64 = 5;

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
    fn epoch(&self, lane: usize) -> usize {
        self.shards(lane) * self.samples_per_shard
    }

    /// The command for a shard of a lane's sequence.
    fn command(&self, lane: usize, shard: usize) -> &str {
        let n = self.shards(lane);
        let (epoch, place) = (shard / n, shard % n);
        let mut order: Vec<usize> = (0..n).collect();
        order.shuffle(&mut self.rng(0, lane, epoch));
        &self.commands[lane + self.lanes * order[place]]
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
            self.open = Some((shard, idx, Reader::start(command, idx)));
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

/// A running command.
struct Reader {
    command: String,
    /// The lock only makes the type `Sync`, so that several threads can share a source.
    samples: Mutex<Receiver<Result<Sample, String>>>,
    /// Reason why the output ended, once it has.
    ended: Option<String>,
}

impl Reader {
    fn start(command: String, skip: usize) -> Self {
        let (sender, samples) = sync_channel(AHEAD);
        let running = command.clone();
        thread::spawn(move || run(&running, skip, &sender));
        Self { command, samples: Mutex::new(samples), ended: None }
    }

    fn next(&mut self) -> Result<Sample, Missing> {
        let samples = self.samples.get_mut().expect("no thread panics while it holds the lock");
        let why = match &self.ended {
            Some(why) => return Err(Missing { why: why.clone(), is_first: false }),
            None => loop {
                match samples.recv_timeout(Duration::from_secs(SILENT_SECS)) {
                    Ok(Ok(sample)) => return Ok(sample),
                    Ok(Err(why)) => break why,
                    Err(RecvTimeoutError::Disconnected) => break "it ended".to_owned(),
                    Err(RecvTimeoutError::Timeout) => {
                        tracing::warn!("no output for {SILENT_SECS} s from pipe:{}", self.command);
                    }
                }
            },
        };
        let why = format!("pipe:{}: {why}; the missing samples are skipped", self.command);
        self.ended = Some(why.clone());
        Err(Missing { why, is_first: true })
    }

    /// Whether another sample arrives within a few seconds.
    fn has_more(&mut self) -> bool {
        let samples = self.samples.get_mut().expect("no thread panics while it holds the lock");
        matches!(samples.recv_timeout(Duration::from_secs(LAST_SECS)), Ok(Ok(_)))
    }
}

/// Runs a command and sends the samples of its output, then the reason why it ended.
fn run(command: &str, skip: usize, sender: &SyncSender<Result<Sample, String>>) {
    let child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            let _ = sender.send(Err(format!("cannot be started: {error}")));
            return;
        }
    };
    let output = child.stdout.take().expect("the command was given a pipe");
    let Some(end) = send_samples(output, skip, sender) else {
        // The receiver is gone.
        let _ = child.kill();
        let _ = child.wait();
        return;
    };
    let _ = sender.send(Err(why_ended(&mut child, end)));
}

fn why_ended(child: &mut Child, end: Result<(), String>) -> String {
    if end.is_err() {
        // The command may block on a pipe that is not read any more.
        let _ = child.kill();
    }
    match (child.wait(), end) {
        (Ok(status), Ok(())) if status.success() => {
            "the shard has no more samples than that".into()
        }
        (Ok(status), Ok(())) => format!("the command failed ({status})"),
        (_, Err(why)) => why,
        (Err(error), _) => error.to_string(),
    }
}

/// Groups the members of a tar into samples and sends them. Returns how the tar ended, or `None`
/// once the receiver is gone.
fn send_samples(
    output: impl Read,
    skip: usize,
    sender: &SyncSender<Result<Sample, String>>,
) -> Option<Result<(), String>> {
    let unpacked = match Unpacked::new(output) {
        Ok(unpacked) => unpacked,
        Err(error) => return Some(Err(error.to_string())),
    };
    let mut archive = tar::Archive::new(unpacked);
    let entries = match archive.entries() {
        Ok(entries) => entries,
        Err(error) => return Some(Err(error.to_string())),
    };
    let (mut held, mut seen): (Option<Sample>, usize) = (None, 0);
    let mut finish = |sample: Option<Sample>| match sample {
        Some(sample) => {
            seen += 1;
            seen <= skip || sender.send(Ok(sample)).is_ok()
        }
        None => true,
    };
    for entry in entries {
        let read = entry.and_then(|mut entry| {
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let part = if entry.header().entry_type().is_file() { split_name(&name) } else { None };
            let mut bytes = Vec::new();
            if part.is_some() {
                let size = entry.size();
                if entry.read_to_end(&mut bytes)? < size as usize {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
            }
            Ok(part.map(|(key, ext)| (key, ext, bytes)))
        });
        match read {
            // The held sample may lack parts because of the truncation.
            Err(error) => return Some(Err(format!("the output is cut short ({error})"))),
            Ok(None) => {}
            Ok(Some((key, ext, bytes))) => match &mut held {
                // If two parts have the same name, the first one counts, as in a file.
                Some(sample) if sample.key == key => {
                    if sample.get(&ext).is_none() {
                        sample.parts.push((ext, bytes));
                    }
                }
                _ => {
                    if !finish(held.replace(Sample { key, parts: vec![(ext, bytes)] })) {
                        return None;
                    }
                }
            },
        }
    }
    finish(held).then_some(Ok(()))
}
