//! Builds batches: the samples of a step and their augmentation, as a pure function of seed and
//! step.
//!
//! The step determines the samples, the caption and crop of each, and the dropped patches. So the
//! step is a checkpoint's data position, and the number of ranks may change. `sources.rs` and
//! `core/data/src/stream.rs` explain how a place in the data is found again.

use burn::tensor::{Device, Tensor, TensorData};
use half::f16;
use half::slice::HalfFloatSliceExt;
use mmgem_core::checkpoint::{HASH_START, hash_bytes};
use mmgem_core::config::MmGemConfig;
use mmgem_core::image::{self, BoxMap, PixelRect, Preprocessed};
use mmgem_core::model::PoolAggregator;
use mmgem_core::model::pool_aggregator::Region;
use mmgem_core::tokenizer::Tokenizer;
use mmgem_data::files::create_dir;
use mmgem_data::source::{SourceError, read_lines};
use mmgem_data::webdataset::PhotoRecord;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};

use super::cache::{CachedView, PatchCache, ViewKey};
use super::config::{DistillConfig, Recipe, TrainConfig};
use super::run::TrainError;
use super::same_data::check_same_data;
use super::sources::{Order, RawSample, SampleRef, Sequence, Sources};

/// Smallest visible share of a region's area for its phrase to be used after a crop.
const VISIBLE_SHARE: f32 = 0.5;

/// The samples of one step, on the host.
#[derive(Debug, Default)]
pub struct Batch {
    /// The photos with their texts.
    pub samples: Vec<PreparedSample>,
    /// Token ids of lines of text (`warmup`).
    pub lines: Vec<Vec<u32>>,
    /// Samples that could not be used, with reasons. For a shard that ends early, only the first
    /// missing sample is listed; for a shard with too many samples, only the shard.
    pub skipped: Vec<String>,
    /// Number of samples that could not be used.
    pub n_skipped: usize,
}

/// A part of a batch, which one worker computes.
#[derive(Clone, Copy, Debug)]
pub struct BatchPart<'a> {
    /// The photos with their texts.
    pub samples: &'a [PreparedSample],
    /// Token ids of lines of text.
    pub lines: &'a [Vec<u32>],
}

/// One sample after decoding and augmentation.
#[derive(Debug)]
pub struct PreparedSample {
    /// The model's input; without pixels if `patches` is set.
    photo: Preprocessed,
    /// V of the photo, from the cache (`data.cache`): `n_patches * hidden` values.
    patches: Option<Vec<f16>>,
    /// Cache key, if the view is one that is shown again.
    view: Option<ViewKey>,
    /// Token ids of the text.
    pub text: Vec<u32>,
    /// The text as a user would type it in a search, if that differs from `text`
    /// (`data.sentences`).
    query: Option<Vec<u32>>,
    /// Whether the text describes the photo; false if it only lists objects in it.
    pub is_captioned: bool,
    /// The region that the text describes (stage 2).
    pub region: Option<Region>,
    /// Whether the text describes the whole photo.
    pub is_whole: bool,
    /// A phrase and its place (`[grounding]`).
    grounded: Option<Grounded>,
    /// The teacher's map and its pooling matrix for the crop.
    teacher: Option<TeacherMap>,
    /// The patches that the encoder sees, in ascending order; `None` if it sees all
    /// (`data.patch_dropout`).
    kept: Option<Vec<u32>>,
}

/// A photo as a step shows it to the model.
struct View {
    photo: Preprocessed,
    /// The crop, unless the view came from the cache.
    crop: Option<PixelRect>,
    mirror: bool,
    /// Cache key, if the view is one that is shown again.
    key: Option<ViewKey>,
    patches: Option<Vec<f16>>,
}

/// A phrase and the part of the photo that it describes.
#[derive(Debug)]
struct Grounded {
    /// Token ids.
    phrase: Vec<u32>,
    /// Like `query` of the photo.
    query: Option<Vec<u32>>,
    /// Its box.
    region: Region,
    /// Share of its box on each patch; sums to 1.
    shares: Vec<f32>,
}

/// A teacher's feature map of a whole photo.
#[derive(Debug)]
struct TeacherMap {
    /// Pooling matrix, `[patches that the student sees, cells of the map]`.
    pooling: Vec<f32>,
    /// The features, `[cells, hidden]`, up to a scale.
    map: Vec<f32>,
}

/// Reads a run's data and builds its batches.
pub struct Batches {
    sources: Sources,
    lines: Vec<String>,
    tokenizer: Tokenizer,
    config: TrainConfig,
    model: MmGemConfig,
    line_order: Order,
    cache: Option<PatchCache>,
    /// Why the index of the shards could not be kept.
    index_warning: Option<String>,
    rank: usize,
    n_ranks: usize,
}

/// Indexes the shards of a run on rank 0, so that the other ranks read the index from the run's
/// folder.
pub fn index_for_ranks(config: &TrainConfig) -> Result<(), TrainError> {
    create_dir(&config.out)?;
    // A failure to keep the index is reported when the data is opened.
    let _ = Sources::open(config)?.keep_index(&config.out);
    Ok(())
}

impl Batches {
    /// Opens the run's data for process `rank` of `n_ranks`, which gets its own part of each batch.
    pub fn open(
        config: &TrainConfig,
        model: &MmGemConfig,
        tokenizer: &Tokenizer,
        rank: usize,
        n_ranks: usize,
    ) -> Result<Self, SourceError> {
        let mut lines = Vec::new();
        for path in &config.data.text {
            lines.extend(read_lines(path)?);
        }
        let sources = Sources::open(config)?;
        let index_warning = (rank == 0).then(|| sources.keep_index(&config.out)).flatten();
        Ok(Self {
            sources,
            index_warning,
            lines,
            tokenizer: tokenizer.clone(),
            config: config.clone(),
            model: model.clone(),
            line_order: Order::default(),
            cache: None,
            rank,
            n_ranks,
        })
    }

    /// Takes the photos' patch tokens from a cache, and adds missing ones to it.
    pub fn with_cache(self, cache: Option<PatchCache>) -> Self {
        Self { cache, ..self }
    }

    /// The amount of data, as a sentence.
    pub fn describe(&self) -> String {
        self.sources.describe()
    }

    /// Steps of an epoch, if the number of samples is known.
    pub fn epoch_steps(&self) -> Option<usize> {
        let samples = self.sources.epoch()?.max(self.lines.len());
        Some(samples.div_ceil(self.config.optim.batch_size))
    }

    /// Warnings about truncated shards, and about photos that a batch may hold several times. Reads
    /// photos that may be in several sources.
    pub fn warnings(&self) -> Vec<String> {
        self.index_warning.iter().cloned().chain(self.sources.warnings()).collect()
    }

    /// Number of shards whose headers were read, because the run's folder did not have their
    /// positions.
    pub fn n_indexed(&self) -> usize {
        self.sources.n_indexed()
    }

    /// Records the data of a new run, or checks that a resumed run has the same. Returns warnings.
    ///
    /// # Errors
    /// If the config names other files than before, and they hold other data.
    pub fn check_same_data(&self, is_resumed: bool) -> Result<Vec<String>, TrainError> {
        check_same_data(&self.config, self.sources.records(), &self.lines, is_resumed)
    }

    /// This rank's samples of a step's batch. Unusable samples are left out and listed in
    /// `skipped`. The batch over all ranks does not depend on the number of ranks.
    pub fn batch(&mut self, step: usize) -> Batch {
        let batch_size = self.config.optim.batch_size;
        let cut = |rank: usize| step * batch_size + batch_size * rank / self.n_ranks;
        let positions = cut(self.rank)..cut(self.rank + 1);
        let mut batch = Batch::default();
        if !self.sources.is_empty() {
            let sample_refs: Vec<(usize, SampleRef)> =
                positions.clone().map(|at| (at, self.sample_ref(at))).collect();
            let prepared: Vec<Result<PreparedSample, String>> = sample_refs
                .par_iter()
                .map(|(at, sample_ref)| {
                    let rng = ChaCha8Rng::seed_from_u64(
                        self.config.seed.wrapping_add((*at as u64) << 20),
                    );
                    self.sources.read(sample_ref).and_then(|raw| self.prepare(raw, rng))
                })
                .collect();
            batch.skipped.extend(self.sources.take_warnings());
            let prepared = self.with_patches(prepared);
            for (sample, (_, sample_ref)) in prepared.into_iter().zip(&sample_refs) {
                match sample {
                    Ok(sample) => batch.samples.push(sample),
                    Err(why) => batch.skip(sample_ref, &self.sources, &why),
                }
            }
        }
        if !self.lines.is_empty() {
            let (n, seed) = (self.lines.len(), self.config.seed);
            for at in positions {
                let line = self.line_order.at(at, Sequence { n, seed, kind: 1 }, None);
                match self.tokenizer.encode(&self.lines[line]) {
                    Ok(ids) => batch.lines.push(ids),
                    Err(why) => {
                        batch.skipped.push(format!("line {line}: {why}"));
                        batch.n_skipped += 1;
                    }
                }
            }
        }
        batch
    }

    /// The sample at a position of the endless sequence of batches; a batch is its lanes one after
    /// the other.
    fn sample_ref(&mut self, position: usize) -> SampleRef {
        let (batch_size, lanes) = (self.config.optim.batch_size, self.config.data.lanes);
        let (step, in_batch, of_lane) =
            (position / batch_size, position % batch_size, batch_size / lanes);
        self.sources.sample_ref(in_batch / of_lane, step * of_lane + in_batch % of_lane)
    }

    /// Computes the patch tokens that the cache lacks, and stores them in the samples and the
    /// cache.
    fn with_patches(
        &self,
        mut prepared: Vec<Result<PreparedSample, String>>,
    ) -> Vec<Result<PreparedSample, String>> {
        let Some(cache) = &self.cache else { return prepared };
        let missing = |sample: &&mut PreparedSample| sample.patches.is_none();
        let mut missing: Vec<&mut PreparedSample> =
            prepared.iter_mut().flatten().filter(missing).collect();
        let views = missing.iter_mut().map(|sample| {
            let key = sample.view.expect("a cache wants views that come again");
            let photo = Preprocessed {
                pixels: std::mem::take(&mut sample.photo.pixels),
                ..sample.photo.clone()
            };
            (key, photo)
        });
        let computed = cache.compute(views.collect());
        for (sample, view) in missing.into_iter().zip(computed) {
            sample.patches = Some(view.patches);
        }
        prepared
    }

    /// The photo as the model sees it: from the cache if it has the view, otherwise with pixels.
    fn view(&self, raw: &RawSample, rng: &mut ChaCha8Rng) -> Result<View, String> {
        let data = &self.config.data;
        let [low, high] = data.crop_scale.map(f64::from);
        let is_whole = low >= 1.0;
        let decode = || image::decode(&raw.image, Default::default()).map_err(|e| e.to_string());
        let crop_of = |photo: &image::Rgb, rng: &mut ChaCha8Rng| {
            let (width, height) = photo.dimensions();
            match is_whole {
                true => PixelRect::whole(width, height),
                false => {
                    let (area, ratio) = ((low, high), (3.0 / 4.0, 4.0 / 3.0));
                    image::random_resized_crop_params(width, height, area, ratio, rng)
                }
            }
        };
        if !is_whole && data.crops == 0 {
            let photo = decode()?;
            let crop = crop_of(&photo, rng);
            let mirror = data.mirror && rng.random() && !mentions_left_or_right(&raw.record);
            let pixels = image::preprocess_crop(&photo, &self.model.preprocess(), crop, mirror);
            return Ok(View { photo: pixels, crop: Some(crop), mirror, key: None, patches: None });
        }
        // From here on, the view is one of a few that are shown again.
        let crop_idx = if is_whole { 0 } else { rng.random_range(0..data.crops as u64) };
        let mirror = data.mirror && rng.random() && !mentions_left_or_right(&raw.record);
        let photo_hash = hash_bytes(HASH_START, &raw.image);
        let view = if is_whole { 0 } else { 1 + crop_idx } * 2 + u64::from(mirror);
        // Another crop size or another run's seed makes other views.
        let view = if is_whole { view } else { hash_bytes(self.crop_hash(), &view.to_le_bytes()) };
        let key = ViewKey { photo: photo_hash, view };
        if let Some(known) = self.cache.as_ref().and_then(|cache| cache.get(key)) {
            let CachedView { photo, patches } = known;
            return Ok(View { photo, crop: None, mirror, key: Some(key), patches: Some(patches) });
        }
        let photo = decode()?;
        let crop_seed =
            photo_hash ^ self.crop_hash() ^ crop_idx.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let crop = crop_of(&photo, &mut ChaCha8Rng::seed_from_u64(crop_seed));
        let pixels = image::preprocess_crop(&photo, &self.model.preprocess(), crop, mirror);
        Ok(View { photo: pixels, crop: Some(crop), mirror, key: Some(key), patches: None })
    }

    /// Hash of the settings that decide a run's crops, besides the photo.
    fn crop_hash(&self) -> u64 {
        let [low, high] = self.config.data.crop_scale.map(f32::to_le_bytes);
        let seed = self.config.seed.to_le_bytes();
        [&low[..], &high, &seed].iter().fold(HASH_START, |hash, bytes| hash_bytes(hash, bytes))
    }

    fn prepare(&self, raw: RawSample, mut rng: ChaCha8Rng) -> Result<PreparedSample, String> {
        let View { photo: pixels, crop, mirror, key, patches } = self.view(&raw, &mut rng)?;
        let kept = (self.config.data.patch_dropout > 0.0).then(|| self.kept(&mut rng));
        let teacher = match (&self.config.distill, &raw.teacher) {
            (Some(distill), Some(bytes)) => {
                let map = teacher_map(bytes, distill.grid, distill.hidden_size)?;
                // A run with a teacher has no cache, so the photo was decoded.
                let crop = crop.expect("decoded");
                let bins = teacher_bins(
                    self.model.grid(),
                    distill.grid,
                    crop,
                    [pixels.width, pixels.height],
                );
                let pooling = rows_of_patches(&bins, self.model.grid(), kept.as_deref(), mirror);
                Some(TeacherMap { pooling, map })
            }
            _ => None,
        };
        let stage_2 = matches!(self.config.recipe, Recipe::Stage2Caption | Recipe::Stage2Retrieval);
        let (text, region, is_whole) = if stage_2 {
            self.region_text(&raw, &pixels, &mut rng)?
        } else {
            (caption(&raw, &mut rng)?, None, true)
        };
        // With [grounding], a class is learned as the name of a region.
        let names_class = raw.record.class.is_some() && self.config.grounding.is_none();
        let is_captioned = stage_2 || names_class || !raw.record.captions.is_empty();
        let (text, query) = self.encode(&text, &mut rng)?;
        let grounded = match &self.config.grounding {
            Some(_) => self.grounded(&raw.record, &pixels, &mut rng)?,
            None => None,
        };
        let photo = pixels;
        Ok(PreparedSample {
            photo,
            patches,
            view: key,
            text,
            query,
            is_captioned,
            region,
            is_whole,
            grounded,
            teacher,
            kept,
        })
    }

    /// Token ids of a text to write, and of the text to embed if that differs.
    fn encode(
        &self,
        text: &str,
        rng: &mut ChaCha8Rng,
    ) -> Result<(Vec<u32>, Option<Vec<u32>>), String> {
        let ids = |text: &str| self.tokenizer.encode(text).map_err(|e| e.to_string());
        if !self.config.data.sentences {
            return Ok((ids(text)?, None));
        }
        let phrase = text.trim_end_matches(|c: char| c == '.' || c.is_whitespace());
        let sentence =
            if phrase.ends_with(['!', '?']) { phrase.to_owned() } else { format!("{phrase}.") };
        // People search with and without a full stop.
        Ok((ids(&sentence)?, if rng.random() { Some(ids(phrase)?) } else { None }))
    }

    /// A random choice of patches; the same number for every photo of the run.
    fn kept(&self, rng: &mut ChaCha8Rng) -> Vec<u32> {
        let n_patches = self.model.grid() * self.model.grid();
        let mut patches: Vec<u32> = (0..n_patches as u32).collect();
        let n_kept = self.config.data.n_kept_patches(n_patches);
        // The first steps of a Fisher-Yates shuffle.
        for at in 0..n_kept {
            patches.swap(at, rng.random_range(at..n_patches));
        }
        patches.truncate(n_kept);
        // The language model may read the patches in order (`vision_tokens = "grid"`).
        patches.sort_unstable();
        patches
    }

    /// A random phrase with the patches that its box covers; `None` if no box is visible.
    fn grounded(
        &self,
        record: &PhotoRecord,
        photo: &Preprocessed,
        rng: &mut ChaCha8Rng,
    ) -> Result<Option<Grounded>, String> {
        let candidates = self.visible_phrases(record, photo, rng);
        if candidates.is_empty() {
            return Ok(None);
        }
        let (phrase, box_input) = candidates[rng.random_range(0..candidates.len())].clone();
        let (phrase, query) = self.encode(&phrase, rng)?;
        let pool = PoolAggregator::new(&self.model);
        let region = Region { box_input, mask: None };
        let bins = pool.pooling_matrix(&region);
        let mut shares = vec![0.0; pool.grid * pool.grid];
        for bin in bins.chunks(shares.len()) {
            shares.iter_mut().zip(bin).for_each(|(share, weight)| *share += weight);
        }
        let sum: f32 = shares.iter().sum();
        shares.iter_mut().for_each(|share| *share /= sum);
        Ok(Some(Grounded { phrase, query, region, shares }))
    }

    /// A region and one of its phrases, or the whole photo and a caption.
    fn region_text(
        &self,
        raw: &RawSample,
        photo: &Preprocessed,
        rng: &mut ChaCha8Rng,
    ) -> Result<(String, Option<Region>, bool), String> {
        let side = self.model.vision.image_size() as f32;
        let candidates = self.visible_phrases(&raw.record, photo, rng);
        let share = self.config.data.whole_image_share;
        if candidates.is_empty() || (!raw.regions_only && rng.random::<f32>() < share) {
            let whole = Region { box_input: [0.0, 0.0, side, side], mask: None };
            return Ok((caption(raw, rng)?, Some(whole), true));
        }
        let (phrase, box_input) = candidates[rng.random_range(0..candidates.len())].clone();
        Ok((phrase, Some(Region { box_input, mask: None }), false))
    }

    /// One phrase for each region that is visible in the crop, with its box in the model's input. A
    /// photo with only a class counts as one region.
    fn visible_phrases(
        &self,
        record: &PhotoRecord,
        photo: &Preprocessed,
        rng: &mut ChaCha8Rng,
    ) -> Vec<(String, [f32; 4])> {
        let side = self.model.vision.image_size() as f32;
        let visible = |map: &BoxMap, box_px| {
            let [x0, y0, x1, y1] = map.input_from_image(box_px);
            let clipped = [x0.max(0.0), y0.max(0.0), x1.min(side), y1.min(side)];
            let area = |[x0, y0, x1, y1]: [f32; 4]| (x1 - x0).max(0.0) * (y1 - y0).max(0.0);
            let whole = area([x0, y0, x1, y1]);
            (whole > 0.0 && area(clipped) >= VISIBLE_SHARE * whole).then_some(clipped)
        };
        if let (Some(class), true) = (&record.class, record.regions.is_empty()) {
            return vec![(with_article(class), [0.0, 0.0, side, side])];
        }
        record
            .regions
            .iter()
            .filter(|region| region.n_boxes == 1 && !region.phrases.is_empty())
            .filter_map(|region| {
                let box_input = visible(&photo.map, region.box_px)?;
                Some((region.phrases[rng.random_range(0..region.phrases.len())].clone(), box_input))
            })
            .collect()
    }
}

impl Batch {
    fn skip(&mut self, sample_ref: &SampleRef, sources: &Sources, why: &str) {
        self.n_skipped += 1;
        match sample_ref {
            SampleRef::Read(Err(missing)) if !missing.is_first => {}
            SampleRef::Read(Err(_)) => self.skipped.push(why.to_owned()),
            sample_ref => self.skipped.push(format!("{}: {why}", sources.name(sample_ref))),
        }
    }

    /// At most `n` parts of nearly equal size, in order. No part is empty.
    pub fn split(&self, n: usize) -> Vec<BatchPart<'_>> {
        let size = self.samples.len().max(self.lines.len());
        let n = n.clamp(1, size.max(1));
        let cut = |len: usize, part: usize| len * part / n;
        (0..n)
            .map(|part| BatchPart {
                samples: &self.samples
                    [cut(self.samples.len(), part)..cut(self.samples.len(), part + 1)],
                lines: &self.lines[cut(self.lines.len(), part)..cut(self.lines.len(), part + 1)],
            })
            .filter(|part| !part.samples.is_empty() || !part.lines.is_empty())
            .collect()
    }
}

impl<'a> BatchPart<'a> {
    /// Parts of at most `size` photos and lines each, in order; the whole part if `size` is `None`.
    pub fn micro_batches(self, size: Option<usize>) -> Vec<BatchPart<'a>> {
        let len = self.samples.len().max(self.lines.len());
        let size = size.unwrap_or(len).max(1);
        let cut = |n: usize, start: usize| start.min(n)..(start + size).min(n);
        (0..len.max(1))
            .step_by(size)
            .map(|start| BatchPart {
                samples: &self.samples[cut(self.samples.len(), start)],
                lines: &self.lines[cut(self.lines.len(), start)],
            })
            .collect()
    }

    /// V of the photos on a device, `[n, n_patches, hidden]`; `None` unless all photos have it from
    /// the cache.
    pub fn patches(&self, config: &MmGemConfig, device: &Device) -> Option<Tensor<3>> {
        let shape = [self.samples.len(), config.grid().pow(2), config.vision.hidden_size()];
        let mut values = vec![0.0; shape.iter().product()];
        let rows = values.chunks_exact_mut(shape[1] * shape[2]);
        for (row, sample) in rows.zip(self.samples) {
            sample.patches.as_ref()?.convert_to_f32_slice(row);
        }
        Some(Tensor::from_data(TensorData::new(values, shape), device))
    }

    /// The photos on a device, `[n, 3, side, side]`.
    pub fn pixels(&self, config: &MmGemConfig, device: &Device) -> Tensor<4> {
        let side = config.vision.image_size();
        let pixels =
            self.samples.iter().flat_map(|sample| sample.photo.pixels.iter().copied()).collect();
        Tensor::from_data(
            TensorData::new::<f32, _>(pixels, [self.samples.len(), 3, side, side]),
            device,
        )
    }

    /// The patches of each photo that the encoder sees; `None` if it sees all.
    pub fn kept_patches(&self) -> Option<Vec<Vec<u32>>> {
        self.samples.iter().map(|sample| sample.kept.clone()).collect()
    }

    /// Token ids of the photos' texts, to write.
    pub fn texts(&self) -> Vec<Vec<u32>> {
        self.samples.iter().map(|sample| sample.text.clone()).collect()
    }

    /// Token ids of the photos' texts, to embed.
    pub fn queries(&self) -> Vec<Vec<u32>> {
        self.samples
            .iter()
            .map(|sample| sample.query.as_ref().unwrap_or(&sample.text).clone())
            .collect()
    }

    /// Indices of the photos with a text that describes them.
    pub fn captioned_photos(&self) -> Vec<usize> {
        (0..self.samples.len()).filter(|photo| self.samples[*photo].is_captioned).collect()
    }

    /// Indices of the photos with a text about the whole photo.
    pub fn whole_image_photos(&self) -> Vec<usize> {
        (0..self.samples.len()).filter(|photo| self.samples[*photo].is_whole).collect()
    }

    /// The regions that the texts describe, each with the index of its photo.
    pub fn regions(&self) -> Vec<(usize, Region)> {
        let regions = self.samples.iter().enumerate();
        regions.filter_map(|(photo, sample)| Some((photo, sample.region.clone()?))).collect()
    }

    /// Indices of the photos that have a phrase with its place.
    pub fn phrase_photos(&self) -> Vec<usize> {
        (0..self.samples.len()).filter(|photo| self.samples[*photo].grounded.is_some()).collect()
    }

    fn grounded(&self) -> impl Iterator<Item = (usize, &Grounded)> {
        self.samples.iter().enumerate().filter_map(|(photo, s)| Some((photo, s.grounded.as_ref()?)))
    }

    /// Token ids of those phrases, to write.
    pub fn phrases(&self) -> Vec<Vec<u32>> {
        self.grounded().map(|(_, grounded)| grounded.phrase.clone()).collect()
    }

    /// Token ids of those phrases, to embed.
    pub fn phrase_queries(&self) -> Vec<Vec<u32>> {
        self.grounded().map(|(_, g)| g.query.as_ref().unwrap_or(&g.phrase).clone()).collect()
    }

    /// The boxes of those phrases, each with the index of its photo.
    pub fn phrase_regions(&self) -> Vec<(usize, Region)> {
        self.grounded().map(|(photo, grounded)| (photo, grounded.region.clone())).collect()
    }

    /// Share of each of those phrases' boxes on each patch, `[n, n_patches]`.
    pub fn phrase_shares(&self, device: &Device) -> Tensor<2> {
        let shares: Vec<f32> =
            self.grounded().flat_map(|(_, g)| g.shares.iter().copied()).collect();
        let n = self.grounded().count();
        let shape = [n, shares.len() / n.max(1)];
        Tensor::from_data(TensorData::new(shares, shape), device)
    }

    /// Indices of the photos that have a teacher's map.
    pub fn teacher_photos(&self) -> Vec<usize> {
        (0..self.samples.len()).filter(|photo| self.samples[*photo].teacher.is_some()).collect()
    }

    /// The maps of those photos at the patches that the student sees, `[n, n_kept, hidden]`, up to
    /// a scale.
    pub fn teacher_maps(&self, distill: &DistillConfig, device: &Device) -> Tensor<3> {
        let teachers: Vec<&TeacherMap> =
            self.samples.iter().filter_map(|sample| sample.teacher.as_ref()).collect();
        let (n, n_cells) = (teachers.len(), distill.grid * distill.grid);
        let pooling: Vec<f32> =
            teachers.iter().flat_map(|teacher| teacher.pooling.iter().copied()).collect();
        let maps: Vec<f32> =
            teachers.iter().flat_map(|teacher| teacher.map.iter().copied()).collect();
        let n_kept = pooling.len() / (n * n_cells);
        let pooling =
            Tensor::<3>::from_data(TensorData::new(pooling, [n, n_kept, n_cells]), device);
        pooling.matmul(Tensor::from_data(
            TensorData::new(maps, [n, n_cells, distill.hidden_size]),
            device,
        ))
    }
}

/// One of the captions, or a sentence about the class, or a list of objects.
fn caption(raw: &RawSample, rng: &mut ChaCha8Rng) -> Result<String, String> {
    if raw.regions_only {
        return Err("it has no caption, and no described region is visible".into());
    }
    let record = &raw.record;
    const TEMPLATES: [&str; 4] = ["a photo of {}.", "a picture of {}.", "this is {}.", "{}."];
    match (&record.class, record.captions.len()) {
        (_, n) if n > 0 => Ok(record.captions[rng.random_range(0..n)].clone()),
        (Some(class), _) => {
            Ok(TEMPLATES[rng.random_range(0..TEMPLATES.len())].replace("{}", &with_article(class)))
        }
        (None, _) => Ok(object_list(record)),
    }
}

/// Most objects listed for a photo without a caption.
const MAX_OBJECTS: usize = 3;

/// The largest objects in a photo without a caption: "a cup, a fork and a cake."
fn object_list(record: &PhotoRecord) -> String {
    let mut regions: Vec<_> =
        record.regions.iter().filter(|region| !region.phrases.is_empty()).collect();
    let area = |[x0, y0, x1, y1]: [f32; 4]| (x1 - x0) * (y1 - y0);
    regions.sort_by(|a, b| area(b.box_px).total_cmp(&area(a.box_px)));
    let mut objects: Vec<&str> = Vec::new();
    for region in regions {
        let object = region.phrases[0].as_str();
        if !objects.contains(&object) && objects.len() < MAX_OBJECTS {
            objects.push(object);
        }
    }
    match objects.split_last() {
        None => "a photo.".to_owned(),
        Some((last, [])) => format!("{last}."),
        Some((last, first)) => format!("{} and {last}.", first.join(", ")),
    }
}

/// Puts an article before a name: "an anchor", "a bass".
fn with_article(name: &str) -> String {
    let is_vowel = name.starts_with(|c: char| "aeiouAEIOU".contains(c));
    format!("{} {name}", if is_vowel { "an" } else { "a" })
}

/// Whether captions or phrases mention left or right, which mirroring would make wrong.
fn mentions_left_or_right(record: &PhotoRecord) -> bool {
    let phrases = record.regions.iter().flat_map(|region| &region.phrases);
    record.captions.iter().chain(phrases).any(|text| {
        text.split(|c: char| !c.is_alphabetic())
            .any(|word| word.eq_ignore_ascii_case("left") || word.eq_ignore_ascii_case("right"))
    })
}

/// Matrix that pools a teacher's map of the whole photo at the student's patches of the crop,
/// `[student * student, grid * grid]`. Both grids are square.
fn teacher_bins(
    student: usize,
    grid: usize,
    crop: PixelRect,
    [width, height]: [u32; 2],
) -> Vec<f32> {
    // The map's own frame: one pixel per patch.
    let pool =
        PoolAggregator { grid, image_size: grid, roi_output_size: student, roi_sampling_ratio: 2 };
    let (sx, sy) = (grid as f32 / width as f32, grid as f32 / height as f32);
    let box_input = [
        crop.x as f32 * sx,
        crop.y as f32 * sy,
        (crop.x + crop.width) as f32 * sx,
        (crop.y + crop.height) as f32 * sy,
    ];
    pool.pooling_matrix(&Region { box_input, mask: None })
}

/// The rows of a pooling matrix for the patches that the student sees: all of them, or those in
/// `kept`. A row is a bin. In a mirrored photo, a patch on the left takes the bin on the right.
fn rows_of_patches(bins: &[f32], grid: usize, kept: Option<&[u32]>, mirror: bool) -> Vec<f32> {
    let n_cells = bins.len() / (grid * grid);
    let all: Vec<u32> = (0..(grid * grid) as u32).collect();
    let row = |patch: &u32| {
        let (y, x) = (*patch as usize / grid, *patch as usize % grid);
        let x = if mirror { grid - 1 - x } else { x };
        &bins[(y * grid + x) * n_cells..][..n_cells]
    };
    kept.unwrap_or(&all).iter().flat_map(row).copied().collect()
}

/// The teacher's map, `[grid * grid, hidden]` row by row, up to a scale. U8 for a network with
/// rectified outputs, I8 if the mean was subtracted.
fn teacher_map(bytes: &[u8], grid: usize, hidden_size: usize) -> Result<Vec<f32>, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| format!("teacher.safetensors: {e}"))?;
    let map = file.tensor("feature_map").map_err(|e| format!("teacher.safetensors: {e}"))?;
    let wanted = [grid, grid, hidden_size];
    match map.dtype() {
        Dtype::U8 if map.shape() == wanted => {
            Ok(map.data().iter().map(|v| f32::from(*v)).collect())
        }
        Dtype::I8 if map.shape() == wanted => {
            Ok(map.data().iter().map(|v| f32::from(*v as i8)).collect())
        }
        dtype => Err(format!(
            "the teacher's map is {:?} of {dtype:?}, wanted {wanted:?} of U8 or I8 ([distill] grid and hidden_size)",
            map.shape(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mmgem_data::webdataset::Sample;
    use safetensors::tensor::TensorView;

    fn record(captions: &[&str], phrase: &str) -> PhotoRecord {
        let json = serde_json::json!({
            "captions": captions,
            "regions": [{ "box": [0, 0, 4, 4], "phrases": [phrase], "n_boxes": 1 }],
        });
        let parts = vec![("json".into(), json.to_string().into_bytes())];
        PhotoRecord::from_sample(&Sample { key: "7".into(), parts }).expect("a record")
    }

    #[test]
    fn only_the_words_left_and_right_prevent_mirroring() {
        assert!(mentions_left_or_right(&record(&["A dog.", "Left of it, a cat."], "a dog")));
        assert!(mentions_left_or_right(&record(&["A dog."], "the dog on the right")));
        assert!(!mentions_left_or_right(&record(&["A bright, cleft rock."], "leftovers")));
    }

    #[test]
    fn each_patch_gets_the_teacher_features_of_its_own_area() {
        // The map's cells contain their column; a student of 4 by 4 patches sees the middle of the
        // photo.
        let (student, grid, size) = (4, 8, [64, 32]);
        let bins =
            teacher_bins(student, grid, PixelRect { x: 16, y: 0, width: 32, height: 32 }, size);
        let seen = |kept: Option<&[u32]>, mirror| -> Vec<f32> {
            let rows = rows_of_patches(&bins, student, kept, mirror);
            let column = |row: &[f32]| {
                row.iter().enumerate().map(|(cell, share)| share * (cell % grid) as f32).sum()
            };
            rows.chunks(grid * grid).map(column).collect()
        };
        assert_eq!(seen(None, false), [2.0, 3.0, 4.0, 5.0].repeat(4));
        assert_eq!(seen(None, true), [5.0, 4.0, 3.0, 2.0].repeat(4));
        assert_eq!(seen(Some(&[1, 6, 15]), false), [3.0, 4.0, 5.0]);
        assert_eq!(seen(Some(&[1, 6, 15]), true), [4.0, 3.0, 2.0]);
    }

    #[test]
    fn a_map_is_read_with_and_without_signs_and_nothing_else() {
        let file = |dtype, shape: [usize; 3], bytes: &[u8]| {
            let view =
                TensorView::new(dtype, shape.to_vec(), bytes).expect("as many bytes as places");
            safetensors::serialize([("feature_map", view)], None).expect("one tensor")
        };
        let bytes = [0, 1, 127, 128, 255, 7, 8, 9];
        let plain = teacher_map(&file(Dtype::U8, [2, 2, 2], &bytes), 2, 2).expect("a map");
        assert_eq!(plain, [0.0, 1.0, 127.0, 128.0, 255.0, 7.0, 8.0, 9.0]);
        let centred = teacher_map(&file(Dtype::I8, [2, 2, 2], &bytes), 2, 2).expect("a map");
        assert_eq!(centred, [0.0, 1.0, 127.0, -128.0, -1.0, 7.0, 8.0, 9.0]);
        let wrong =
            teacher_map(&file(Dtype::I8, [2, 2, 2], &bytes), 2, 3).expect_err("another width");
        assert!(wrong.contains("[2, 2, 2]") && wrong.contains("[2, 2, 3]"), "{wrong}");
        let wrong =
            teacher_map(&file(Dtype::F16, [2, 2, 1], &bytes), 2, 1).expect_err("another type");
        assert!(wrong.contains("F16"), "{wrong}");
    }
}
