//! Numbers the samples of all sources of a run in one endless sequence.

use std::sync::Arc;

use mmgem_data::mixture::Mixture;
use mmgem_data::patterns::commands;
use mmgem_data::source::{Samples, SourceError};
use mmgem_data::stream::{Lane, Missing, Streams};
use mmgem_data::visual_genome::VisualGenome;
use mmgem_data::webdataset::{PhotoRecord, Sample};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::config::{MixConfig, TrainConfig};

/// All sources of a run. The seed alone decides the order of the samples.
pub struct Sources {
    list: Vec<Source>,
    mixture: Option<Mixture>,
    lanes: usize,
    seed: u64,
}

enum Source {
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
        let list = sources
            .iter()
            .map(|mix| Source::open(mix, config))
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
        Ok(Self { list, mixture, lanes: config.data.lanes, seed: config.seed })
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

    /// Warnings about truncated shards.
    pub fn warnings(&self) -> Vec<String> {
        let of = |source: &Source| match source {
            Source::Shards { samples, .. } => samples.warnings().collect(),
            _ => Vec::new(),
        };
        self.list.iter().flat_map(of).collect()
    }

    /// The `at`-th sample of a lane. Reads commands here; callers must ask for their places in
    /// order.
    pub fn sample_ref(&mut self, lane: usize, at: usize) -> SampleRef {
        let mixture = self.mixture.as_ref().expect("there are sources");
        let (source, at) = mixture.at(at);
        let seed = self.seed;
        let (order, n) = match &mut self.list[source] {
            Source::Streams { lanes, .. } => return SampleRef::Read(lanes[lane].read(at)),
            Source::Shards { samples, order } => (order, samples.len()),
            Source::Genome { photos, order } => (order, photos.len()),
        };
        SampleRef::At { source, idx: order.at(at * self.lanes + lane, n, seed, 2 * source as u64) }
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
    fn open(mix: &MixConfig, config: &TrainConfig) -> Result<Self, SourceError> {
        let (data, order) = (&config.data, Order::default());
        if let Some(descriptions) = &mix.visual_genome {
            let photos = VisualGenome::open(descriptions, &mix.images)?;
            return Ok(Self::Genome { photos, order });
        }
        let Some(commands) = commands(&mix.shards)? else {
            let samples = Samples::open(&mix.shards, data.limit_per_shard)?;
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
        });
        let lanes = (0..data.lanes).map(|lane| Lane::new(streams.clone(), lane)).collect();
        Ok(Self::Streams { streams, lanes })
    }

    /// Samples of an epoch, if they can be counted.
    fn len(&self) -> Option<usize> {
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

impl Order {
    /// The sample at a place of the endless, shuffled sequence over `n` samples. Each epoch has
    /// each sample once, in an order of its own.
    pub fn at(&mut self, place: usize, n: usize, seed: u64, kind: u64) -> usize {
        let epoch = place / n;
        let slot = &mut self.0[epoch % 2];
        if slot.as_ref().is_none_or(|(of, _)| *of != epoch) {
            let seed = seed ^ (epoch as u64 * 2 + kind + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut order: Vec<u32> = (0..n as u32).collect();
            order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
            *slot = Some((epoch, order));
        }
        slot.as_ref().expect("just filled").1[place % n] as usize
    }
}
