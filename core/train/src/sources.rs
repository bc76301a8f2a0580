//! Numbers the samples of all sources of a run in one endless sequence.
//!
//! The sequence does not depend on the folders of the shards: shards are sorted by their file
//! names, then by the keys and positions of their samples. The start of an epoch avoids the samples
//! at the end of the epoch before that share its batch (`keep_apart`). Shards that come from
//! commands are numbered by lanes (`core/data/src/stream.rs`).

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mmgem_core::checkpoint::{HASH_START, hash_bytes};
use mmgem_data::mixture::{Mixture, keep_apart};
use mmgem_data::patterns::commands;
use mmgem_data::source::{Samples, SourceError};
use mmgem_data::stream::{Lane, Missing, Streams};
use mmgem_data::visual_genome::VisualGenome;
use mmgem_data::webdataset::{KeptIndex, PhotoRecord, Sample};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::config::{MixConfig, TrainConfig};
use super::duplicates;
use super::plan::contrasts;
use super::same_data::SourceRecord;

/// Name of the file in a run's folder with the positions of its samples.
pub const INDEX_FILE: &str = "shards.index";

/// All sources of a run. The seed alone decides the order of the samples.
pub struct Sources {
    list: Vec<Source>,
    mixture: Option<Mixture>,
    lanes: usize,
    /// Samples of a batch from one lane.
    of_lane: usize,
    seed: u64,
    index: KeptIndex,
    /// Warnings about batches that hold a photo several times.
    repeats: Vec<String>,
}

pub(super) enum Source {
    Shards { samples: Samples, order: Order },
    Genome { photos: VisualGenome, order: Order },
    Streams { streams: Arc<Streams>, lanes: Vec<Lane> },
}

/// Sample orders of the two newest epochs; around an epoch's end both are in use.
#[derive(Default)]
pub struct Order([Option<(usize, Vec<u32>)>; 2]);

/// The sample at a place, ready for any thread to read and decode.
pub enum SampleRef {
    /// A sample of a source that can be read in any order.
    At {
        /// Index of the source.
        source: usize,
        /// Index of the sample in the source.
        idx: usize,
    },
    /// A sample that a command has written.
    Read(Result<Sample, Missing>),
}

/// A sample before decoding.
pub struct RawSample {
    /// Its captions, class and regions.
    pub record: PhotoRecord,
    /// The photo's bytes.
    pub image: Vec<u8>,
    /// A teacher's map of the photo.
    pub teacher: Option<Vec<u8>>,
    /// Whether it has no text about the whole photo.
    pub regions_only: bool,
}

impl Sources {
    /// Opens the sources of a run's config.
    pub fn open(config: &TrainConfig) -> Result<Self, SourceError> {
        let sources = config.data.sources();
        let mut index = KeptIndex::read(&config.out.join(INDEX_FILE));
        let mut list = sources
            .iter()
            .map(|mix| Source::open(mix, config, &mut index))
            .collect::<Result<Vec<_>, SourceError>>()?;
        let weights: Vec<f64> = sources.iter().map(|mix| mix.weight).collect();
        let mixture = match weights.is_empty() {
            true => None,
            false => Some(Mixture::new(&weights, config.seed).ok_or_else(|| {
                SourceError::Mixture(format!(
                    "mix: one of the weights {weights:?} is below a thousandth"
                ))
            })?),
        };
        if list.len() > 1
            && let Some(source) = list.iter().position(|source| source.len() == Some(0))
        {
            return Err(SourceError::Mixture(format!("mix: source {source} has no sample")));
        }
        let (lanes, mut repeats) = (config.data.lanes, Vec::new());
        let of_lane = config.optim.batch_size / lanes;
        for (idx, source) in list.iter_mut().enumerate() {
            let mixture = mixture.as_ref().expect("there are sources");
            let most = mixture.most_of(idx, of_lane);
            source.set_window(most, mixture, of_lane);
            if contrasts(config) {
                repeats.extend(source.check_repeats(idx, most, lanes, config.data.repeat)?);
            }
        }
        Ok(Self { list, mixture, lanes, of_lane, seed: config.seed, index, repeats })
    }

    /// Writes the positions of the samples to the run's folder, if it exists, for the other ranks
    /// and for a resumed run. Returns a warning on failure: the file only saves time.
    pub fn keep_index(&self, out: &Path) -> Option<String> {
        if !out.is_dir() {
            return None;
        }
        let written = self.index.write(&out.join(INDEX_FILE));
        written.err().map(|error| format!("the index of the shards is not kept: {error}"))
    }

    /// Number of shards whose headers were read because their positions were not kept.
    pub fn n_indexed(&self) -> usize {
        self.index.n_new()
    }

    /// Identity of the samples of each source, without their folders.
    pub fn records(&self) -> Vec<SourceRecord> {
        self.list.iter().map(Source::record).collect()
    }

    /// Whether all sources are empty.
    pub fn is_empty(&self) -> bool {
        self.list.iter().all(|source| source.len() == Some(0))
    }

    /// Samples of an epoch of the source that ends last; `None` if shards cannot be counted.
    pub fn epoch(&self) -> Option<usize> {
        let of =
            |(source, share): (&Source, f64)| Some((source.len()? as f64 / share).ceil() as usize);
        let shares = (0..self.list.len()).map(|source| self.share(source));
        self.list.iter().zip(shares).map(of).try_fold(0, |most, epoch| Some(most.max(epoch?)))
    }

    fn share(&self, source: usize) -> f64 {
        self.mixture.as_ref().map_or(1.0, |mixture| mixture.share(source))
    }

    /// The amount of data, as a sentence.
    pub fn describe(&self) -> String {
        match &self.list[..] {
            [] => "0 photos an epoch".into(),
            [source] => format!("{} an epoch", source.describe()),
            list => {
                let of = |(idx, source): (usize, &Source)| {
                    format!("{} ({:.1} %)", source.describe(), 100.0 * self.share(idx))
                };
                list.iter().enumerate().map(of).collect::<Vec<_>>().join(" + ")
            }
        }
    }

    /// Warnings about truncated shards, and about photos that a batch may hold several times.
    pub fn warnings(&self) -> Vec<String> {
        let of = |source: &Source| match source {
            Source::Shards { samples, .. } => samples.warnings().collect(),
            _ => Vec::new(),
        };
        let shards = self.list.iter().flat_map(of);
        let duplicates = duplicates::across(&self.list).into_iter().map(|found| found.to_string());
        self.index.warnings().chain(shards).chain(self.repeats.clone()).chain(duplicates).collect()
    }

    /// The `at`-th sample of a lane. Reads commands here; callers must ask for their places in
    /// order.
    pub fn sample_ref(&mut self, lane: usize, at: usize) -> SampleRef {
        let Self { list, mixture, lanes: n_lanes, of_lane, seed, .. } = self;
        let mixture = mixture.as_ref().expect("there are sources");
        let (source, at) = mixture.at(at);
        let (order, n) = match &mut list[source] {
            Source::Streams { lanes, .. } => return SampleRef::Read(lanes[lane].read(at)),
            Source::Shards { samples, order } => (order, samples.len()),
            Source::Genome { photos, order } => (order, photos.len()),
        };
        let batches = BatchesOf { mixture, source, n_lanes: *n_lanes, of_lane: *of_lane };
        let sequence = Sequence { n, seed: *seed, kind: 2 * source as u64 };
        SampleRef::At { source, idx: order.at(at * *n_lanes + lane, sequence, Some(&batches)) }
    }

    /// Warnings about commands that write more samples than configured, once per lane.
    pub fn take_warnings(&mut self) -> Vec<String> {
        let of = |source: &mut Source| match source {
            Source::Streams { lanes, .. } => {
                lanes.iter_mut().filter_map(Lane::take_warning).collect()
            }
            _ => Vec::new(),
        };
        self.list.iter_mut().flat_map(of).collect()
    }

    /// Name of a picked sample, for messages.
    pub fn name(&self, sample_ref: &SampleRef) -> String {
        match sample_ref {
            SampleRef::At { source, idx } => match &self.list[*source] {
                Source::Shards { samples, .. } => samples.name(*idx),
                Source::Genome { photos, .. } => photos.path(*idx).display().to_string(),
                Source::Streams { .. } => String::new(),
            },
            SampleRef::Read(Ok(sample)) => sample.key.clone(),
            SampleRef::Read(Err(_)) => String::new(),
        }
    }

    /// Reads a picked sample.
    pub fn read(&self, sample_ref: &SampleRef) -> Result<RawSample, String> {
        match sample_ref {
            SampleRef::At { source, idx } => match &self.list[*source] {
                Source::Shards { samples, .. } => {
                    from_sample(samples.read(*idx).map_err(|e| e.to_string())?)
                }
                Source::Genome { photos, .. } => {
                    let (record, image) = photos.read(*idx).map_err(|e| e.to_string())?;
                    Ok(RawSample { record, image, teacher: None, regions_only: true })
                }
                Source::Streams { .. } => Err("a command cannot be read out of order".into()),
            },
            SampleRef::Read(Ok(sample)) => from_sample(sample.clone()),
            SampleRef::Read(Err(missing)) => Err(missing.why.clone()),
        }
    }
}

fn from_sample(mut sample: Sample) -> Result<RawSample, String> {
    let record = PhotoRecord::from_sample(&sample).map_err(|e| e.to_string())?;
    let image = sample.image().map_err(|e| e.to_string())?.to_vec();
    let teacher = sample.parts.iter_mut().find(|part| part.0 == "teacher.safetensors");
    let teacher = teacher.map(|part| std::mem::take(&mut part.1));
    Ok(RawSample { record, image, teacher, regions_only: false })
}

impl Source {
    fn open(
        mix: &MixConfig,
        config: &TrainConfig,
        index: &mut KeptIndex,
    ) -> Result<Self, SourceError> {
        let (data, order) = (&config.data, Order::default());
        if let Some(descriptions) = &mix.visual_genome {
            let photos = VisualGenome::open(descriptions, &mix.images)?;
            return Ok(Self::Genome { photos, order });
        }
        let Some(commands) = commands(&mix.shards)? else {
            let samples = Samples::open_for_training(&mix.shards, data.limit_per_shard, index)?;
            return Ok(Self::Shards { samples, order });
        };
        let samples_per_shard =
            mix.samples_per_shard.or(data.samples_per_shard).ok_or_else(|| {
                SourceError::Mixture(
                    "shards from commands need `samples_per_shard`, because they cannot be counted"
                        .into(),
                )
            })?;
        if commands.len() < data.lanes {
            return Err(SourceError::Mixture(format!(
                "{} commands for {} lanes; wanted at least one for each",
                commands.len(),
                data.lanes
            )));
        }
        let streams = Arc::new(Streams {
            commands,
            samples_per_shard,
            lanes: data.lanes,
            shuffle_buffer: data.shuffle_buffer,
            seed: config.seed,
            window: 0,
            retry_pauses: data
                .retry_secs
                .iter()
                .map(|secs| Duration::from_secs_f64(*secs))
                .collect(),
        });
        let lanes = (0..data.lanes).map(|lane| Lane::new(streams.clone(), lane)).collect();
        Ok(Self::Streams { streams, lanes })
    }

    /// Tells commands how many samples of a lane one batch takes, if batches hold samples of two
    /// epochs.
    fn set_window(&mut self, most: usize, mixture: &Mixture, of_lane: usize) {
        let Self::Streams { streams, lanes } = self else { return };
        let is_alone = mixture.is_alone();
        let splits = (0..lanes.len()).any(|lane| !streams.epoch(lane).is_multiple_of(of_lane));
        if splits || !is_alone {
            let windowed = Streams { window: most, ..streams.as_ref().clone() };
            *streams = Arc::new(windowed);
            *lanes = (0..lanes.len()).map(|lane| Lane::new(streams.clone(), lane)).collect();
        }
    }

    /// Checks that a batch has room for at most one of each photo. `most` is the largest number of
    /// this source's samples that a batch takes from a lane.
    ///
    /// # Errors
    /// If a batch takes more samples than there are, unless `repeat` allows it.
    fn check_repeats(
        &self,
        idx: usize,
        most: usize,
        n_lanes: usize,
        repeat: bool,
    ) -> Result<Vec<String>, SourceError> {
        let (n, taken) = match self {
            Self::Shards { .. } | Self::Genome { .. } => (self.len().unwrap_or(0), most * n_lanes),
            Self::Streams { streams, lanes } => {
                let epochs = (0..lanes.len()).map(|lane| streams.epoch(lane));
                (epochs.min().unwrap_or(0), most)
            }
        };
        let unit = if matches!(self, Self::Streams { .. }) { " of a lane" } else { "" };
        if n > 0 && taken > n {
            let found = format!(
                "source {idx} has {n} photos{unit}, but a batch takes up to {taken}: a photo would be a negative of itself"
            );
            if repeat {
                return Ok(vec![found]);
            }
            return Err(SourceError::Mixture(format!(
                "{found}\n  hint: lower optim.batch_size or add photos; data.repeat = true allows repeated photos"
            )));
        }
        Ok(match self {
            Self::Streams { streams, lanes }
                if (0..lanes.len()).any(|lane| !streams.keeps_epochs_apart(lane)) =>
            {
                vec![format!(
                    "source {idx} has few shards in a lane: a batch across two epochs may hold a photo twice, as a negative of itself; fewer lanes or a smaller shuffle_buffer prevent this"
                )]
            }
            _ => Vec::new(),
        })
    }

    fn record(&self) -> SourceRecord {
        let hash = |hash: u64| Some(format!("{hash:016x}"));
        match self {
            Self::Shards { samples, .. } => SourceRecord {
                kind: "shards".into(),
                shards: samples.n_shards(),
                photos: samples.len(),
                hash: hash(samples.fingerprint()),
            },
            Self::Genome { photos, .. } => SourceRecord {
                kind: "visual_genome".into(),
                shards: 0,
                photos: photos.len(),
                hash: hash((0..photos.len()).fold(HASH_START, |hash, idx| {
                    let name = photos.path(idx).file_name().unwrap_or_default();
                    hash_bytes(hash, name.to_string_lossy().as_bytes())
                })),
            },
            // A command cannot be read in advance.
            Self::Streams { streams, .. } => SourceRecord {
                kind: "commands".into(),
                shards: streams.commands.len(),
                photos: streams.samples_per_shard,
                hash: None,
            },
        }
    }

    /// Samples of an epoch, if they can be counted.
    pub(super) fn len(&self) -> Option<usize> {
        match self {
            Self::Shards { samples, .. } => Some(samples.len()),
            Self::Genome { photos, .. } => Some(photos.len()),
            Self::Streams { .. } => None,
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Shards { samples, .. } => format!("{} photos", samples.len()),
            Self::Genome { photos, .. } => format!("{} photos of Visual Genome", photos.len()),
            Self::Streams { streams, .. } => {
                format!(
                    "{} commands of {} photos",
                    streams.commands.len(),
                    streams.samples_per_shard
                )
            }
        }
    }
}

/// The batches of a run, as seen from one source.
#[derive(Clone, Copy)]
pub struct BatchesOf<'a> {
    mixture: &'a Mixture,
    source: usize,
    n_lanes: usize,
    of_lane: usize,
}

impl BatchesOf<'_> {
    /// First place of the source's sequence that belongs to a step.
    fn start(&self, step: usize) -> usize {
        self.n_lanes * self.mixture.count_before(self.source, step * self.of_lane)
    }

    /// Places of the batch that has this place.
    fn around(&self, place: usize) -> Range<usize> {
        let (mut low, mut high) = (0, 1);
        while self.start(high) <= place {
            (low, high) = (high, 2 * high);
        }
        // start(low) <= place < start(high)
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.start(middle) <= place { low = middle } else { high = middle }
        }
        self.start(low)..self.start(low + 1)
    }

    fn most(&self) -> usize {
        self.n_lanes * self.mixture.most_of(self.source, self.of_lane)
    }
}

/// An endless, shuffled sequence over `n` samples.
#[derive(Clone, Copy)]
pub struct Sequence {
    /// Number of samples.
    pub n: usize,
    /// Seed of the run.
    pub seed: u64,
    /// Distinguishes the sequences of a run.
    pub kind: u64,
}

impl Sequence {
    fn shuffled(&self, epoch: usize) -> Vec<u32> {
        let mix = (epoch as u64 * 2 + self.kind + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut order: Vec<u32> = (0..self.n as u32).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(self.seed ^ mix));
        order
    }
}

impl Order {
    /// The sample at a place of the sequence. Each epoch has each sample once, in an order of its
    /// own.
    ///
    /// With `batches`, a batch that holds the end of an epoch and the start of the next has no
    /// sample twice, unless it takes more samples than there are.
    pub fn at(&mut self, place: usize, sequence: Sequence, batches: Option<&BatchesOf>) -> usize {
        let epoch = place / sequence.n;
        if self.epoch(epoch).is_none() {
            self.fill(epoch, sequence, batches);
        }
        self.epoch(epoch).expect("just filled")[place % sequence.n] as usize
    }

    fn epoch(&self, epoch: usize) -> Option<&Vec<u32>> {
        self.0[epoch % 2].as_ref().filter(|(of, _)| *of == epoch).map(|(_, order)| order)
    }

    fn fill(&mut self, epoch: usize, sequence: Sequence, batches: Option<&BatchesOf>) {
        let Sequence { n, .. } = sequence;
        // A change at an epoch's start leaves its end as it was shuffled. With less than two
        // batches of samples it does not: then all epochs since the first are needed.
        let is_independent = batches.is_none_or(|batches| n >= 2 * batches.most());
        let known = (0..epoch).rev().take(1).find(|before| self.epoch(*before).is_some());
        let first = match (is_independent, known) {
            (true, _) => epoch,
            (false, Some(before)) => before + 1,
            (false, None) => 0,
        };
        for epoch in first..=epoch {
            let mut order = sequence.shuffled(epoch);
            let batch = batches.filter(|_| epoch > 0).map(|batches| batches.around(epoch * n));
            if let Some(batch) = batch {
                let (tail, head) = (epoch * n - batch.start, batch.end - epoch * n);
                if tail > 0 && head > 0 && tail + head <= n {
                    let before = match self.epoch(epoch - 1) {
                        Some(before) => before[n - tail..].to_vec(),
                        None => sequence.shuffled(epoch - 1)[n - tail..].to_vec(),
                    };
                    keep_apart(&mut order, &before, head);
                }
            }
            self.0[epoch % 2] = Some((epoch, order));
        }
    }
}
