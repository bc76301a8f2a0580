//! Batches: which samples a step sees and what is done to them, as a pure function of seed and step.

use burn::tensor::{Device, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};

use super::config::{DistillConfig, Recipe, TrainConfig};
use super::sources::{Order, Pick, Raw, Sources};
use crate::config::MmGemConfig;
use crate::data::source::{SourceError, read_lines};
use crate::data::webdataset::PhotoRecord;
use crate::image::{self, BoxMap, PixelRect, Preprocessed};
use crate::model::PoolAggregator;
use crate::model::pool_aggregator::Region;
use crate::tokenizer::Tokenizer;

/// Least share of a region's area that a crop must leave for its phrase to be used.
const VISIBLE_SHARE: f32 = 0.5;

/// One step's samples on the host.
#[derive(Debug, Default)]
pub struct Batch {
    /// The photos with their texts.
    pub samples: Vec<Prepared>,
    /// Token ids of lines of text (`warmup`).
    pub lines: Vec<Vec<u32>>,
    /// What could not be used, and why; of a shard that ends early only the first sample is named, of one that is longer
    /// than it counts only the shard.
    pub skipped: Vec<String>,
    /// How many could not be used.
    pub n_skipped: usize,
}

/// A part of a batch, which one worker computes.
#[derive(Clone, Copy, Debug)]
pub struct BatchPart<'a> {
    /// The photos with their texts.
    pub samples: &'a [Prepared],
    /// Token ids of lines of text.
    pub lines: &'a [Vec<u32>],
}

/// One sample after decoding and augmentation.
#[derive(Debug)]
pub struct Prepared {
    /// The model's input.
    photo: Preprocessed,
    /// Token ids of the text.
    pub text: Vec<u32>,
    /// The region that the text names (stage 2).
    pub region: Option<Region>,
    /// Whether the text is about the whole photo.
    pub is_whole: bool,
    /// A phrase and where it is (`[grounding]`).
    grounded: Option<Grounded>,
    /// The teacher's map and how it is pooled at the crop.
    teacher: Option<TeacherMap>,
    /// The patches that the encoder sees, in order, where it does not see all (`data.patch_dropout`).
    kept: Option<Vec<u32>>,
}

/// A phrase and the part of the photo that it names.
#[derive(Debug)]
struct Grounded {
    /// Token ids.
    phrase: Vec<u32>,
    /// How its box spreads over the patches; sums to 1.
    shares: Vec<f32>,
}

/// A teacher's feature map of a whole photo.
#[derive(Debug)]
struct TeacherMap {
    /// `[patches that the student sees, cells of the map]`
    pooling: Vec<f32>,
    /// `[cells, hidden]`, up to a scale.
    map: Vec<f32>,
}

/// Where batches come from.
pub struct Batches {
    sources: Sources,
    lines: Vec<String>,
    tokenizer: Tokenizer,
    config: TrainConfig,
    model: MmGemConfig,
    line_order: Order,
    rank: usize,
    n_ranks: usize,
}

impl Batches {
    /// Opens the run's data for one of `n_ranks` processes, which gets every batch's samples of its own.
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
        Ok(Self {
            sources: Sources::open(config)?,
            lines,
            tokenizer: tokenizer.clone(),
            config: config.clone(),
            model: model.clone(),
            line_order: Order::default(),
            rank,
            n_ranks,
        })
    }

    /// How much there is, in words.
    pub fn describe(&self) -> String {
        self.sources.describe()
    }

    /// Steps after which every sample has come once, where that is known.
    pub fn epoch_steps(&self) -> Option<usize> {
        let samples = self.sources.epoch()?.max(self.lines.len());
        Some(samples.div_ceil(self.config.optim.batch_size))
    }

    /// What is said of shards that were cut short.
    pub fn warnings(&self) -> Vec<String> {
        self.sources.warnings()
    }

    /// This rank's samples of a step's batch; one that cannot be used is left out and named. Those of all ranks
    /// together are the same however many ranks there are.
    pub fn batch(&mut self, step: usize) -> Batch {
        let batch_size = self.config.optim.batch_size;
        let cut = |rank: usize| step * batch_size + batch_size * rank / self.n_ranks;
        let positions = cut(self.rank)..cut(self.rank + 1);
        let mut batch = Batch::default();
        if !self.sources.is_empty() {
            let picks: Vec<(usize, Pick)> = positions.clone().map(|at| (at, self.pick(at))).collect();
            let prepared: Vec<Result<Prepared, String>> = picks
                .par_iter()
                .map(|(at, pick)| {
                    let rng = ChaCha8Rng::seed_from_u64(self.config.seed.wrapping_add((*at as u64) << 20));
                    self.sources.read(pick).and_then(|raw| self.prepare(raw, rng))
                })
                .collect();
            batch.skipped.extend(self.sources.take_warnings());
            for (sample, (_, pick)) in prepared.into_iter().zip(&picks) {
                match sample {
                    Ok(sample) => batch.samples.push(sample),
                    Err(why) => batch.skip(pick, &self.sources, &why),
                }
            }
        }
        if !self.lines.is_empty() {
            let (n, seed) = (self.lines.len(), self.config.seed);
            for at in positions {
                let line = self.line_order.at(at, n, seed, 1);
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

    /// What stands at a position of the endless sequence of batches: a batch is its lanes one after the other.
    fn pick(&mut self, position: usize) -> Pick {
        let (batch_size, lanes) = (self.config.optim.batch_size, self.config.data.lanes);
        let (step, in_batch, of_lane) = (position / batch_size, position % batch_size, batch_size / lanes);
        self.sources.pick(in_batch / of_lane, step * of_lane + in_batch % of_lane)
    }

    fn prepare(&self, raw: Raw, mut rng: ChaCha8Rng) -> Result<Prepared, String> {
        let photo = image::decode(&raw.image, Default::default()).map_err(|e| e.to_string())?;
        let (width, height) = photo.dimensions();

        let [low, high] = self.config.data.crop_scale.map(f64::from);
        let crop = if low >= 1.0 {
            PixelRect::whole(width, height)
        } else {
            image::random_resized_crop_params(width, height, (low, high), (3.0 / 4.0, 4.0 / 3.0), &mut rng)
        };
        let mirror = self.config.data.mirror && rng.random() && !speaks_of_sides(&raw.record);
        let pixels = image::preprocess_crop(&photo, &self.model.preprocess(), crop, mirror);
        let kept = (self.config.data.patch_dropout > 0.0).then(|| self.kept(&mut rng));
        let teacher = match (&self.config.distill, &raw.teacher) {
            (Some(distill), Some(bytes)) => {
                let map = teacher_map(bytes, distill.grid, distill.hidden_size)?;
                let bins = teacher_bins(self.model.grid(), distill.grid, crop, [width, height]);
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
        let text = self.tokenizer.encode(&text).map_err(|e| e.to_string())?;
        let grounded = match &self.config.grounding {
            Some(_) => self.grounded(&raw.record, &pixels, &mut rng)?,
            None => None,
        };
        Ok(Prepared { photo: pixels, text, region, is_whole, grounded, teacher, kept })
    }

    /// A random choice of as many patches as every photo of the run keeps.
    fn kept(&self, rng: &mut ChaCha8Rng) -> Vec<u32> {
        let n_patches = self.model.grid() * self.model.grid();
        let mut patches: Vec<u32> = (0..n_patches as u32).collect();
        let n_kept = self.config.data.n_kept_patches(n_patches);
        // The first places of a shuffle.
        for at in 0..n_kept {
            patches.swap(at, rng.random_range(at..n_patches));
        }
        patches.truncate(n_kept);
        // The language model may read them one after the other (`vision_tokens = "grid"`).
        patches.sort_unstable();
        patches
    }

    /// One of the phrases with the patches that its box covers; none where no box is to be seen.
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
        let (phrase, box_input) = candidates[rng.random_range(0..candidates.len())];
        let phrase = self.tokenizer.encode(phrase).map_err(|e| e.to_string())?;
        let pool = PoolAggregator::new(&self.model);
        let bins = pool.pooling_matrix(&Region { box_input, mask: None });
        let mut shares = vec![0.0; pool.grid * pool.grid];
        for bin in bins.chunks(shares.len()) {
            shares.iter_mut().zip(bin).for_each(|(share, weight)| *share += weight);
        }
        let sum: f32 = shares.iter().sum();
        shares.iter_mut().for_each(|share| *share /= sum);
        Ok(Some(Grounded { phrase, shares }))
    }

    /// A region and one of its phrases, or the whole photo and a caption.
    fn region_text(
        &self,
        raw: &Raw,
        photo: &Preprocessed,
        rng: &mut ChaCha8Rng,
    ) -> Result<(String, Option<Region>, bool), String> {
        let side = self.model.vision.image_size as f32;
        let candidates = self.visible_phrases(&raw.record, photo, rng);
        let share = self.config.data.whole_image_share;
        if candidates.is_empty() || (!raw.regions_only && rng.random::<f32>() < share) {
            let whole = Region { box_input: [0.0, 0.0, side, side], mask: None };
            return Ok((caption(raw, rng)?, Some(whole), true));
        }
        let (phrase, box_input) = candidates[rng.random_range(0..candidates.len())];
        Ok((phrase.to_owned(), Some(Region { box_input, mask: None }), false))
    }

    /// One phrase of each region that the crop leaves to be seen, with its box in the model's input.
    fn visible_phrases<'a>(
        &self,
        record: &'a PhotoRecord,
        photo: &Preprocessed,
        rng: &mut ChaCha8Rng,
    ) -> Vec<(&'a str, [f32; 4])> {
        let side = self.model.vision.image_size as f32;
        let visible = |map: &BoxMap, box_px| {
            let [x0, y0, x1, y1] = map.input_from_image(box_px);
            let clipped = [x0.max(0.0), y0.max(0.0), x1.min(side), y1.min(side)];
            let area = |[x0, y0, x1, y1]: [f32; 4]| (x1 - x0).max(0.0) * (y1 - y0).max(0.0);
            let whole = area([x0, y0, x1, y1]);
            (whole > 0.0 && area(clipped) >= VISIBLE_SHARE * whole).then_some(clipped)
        };
        record
            .regions
            .iter()
            .filter(|region| region.n_boxes == 1 && !region.phrases.is_empty())
            .filter_map(|region| {
                let box_input = visible(&photo.map, region.box_px)?;
                Some((region.phrases[rng.random_range(0..region.phrases.len())].as_str(), box_input))
            })
            .collect()
    }
}

impl Batch {
    fn skip(&mut self, pick: &Pick, sources: &Sources, why: &str) {
        self.n_skipped += 1;
        match pick {
            Pick::Read(Err(missing)) if !missing.is_first => {}
            Pick::Read(Err(_)) => self.skipped.push(why.to_owned()),
            pick => self.skipped.push(format!("{}: {why}", sources.name(pick))),
        }
    }

    /// At most `n` parts of nearly equal size, in order; none is empty.
    pub fn split(&self, n: usize) -> Vec<BatchPart<'_>> {
        let size = self.samples.len().max(self.lines.len());
        let n = n.clamp(1, size.max(1));
        let cut = |len: usize, part: usize| len * part / n;
        (0..n)
            .map(|part| BatchPart {
                samples: &self.samples[cut(self.samples.len(), part)..cut(self.samples.len(), part + 1)],
                lines: &self.lines[cut(self.lines.len(), part)..cut(self.lines.len(), part + 1)],
            })
            .filter(|part| !part.samples.is_empty() || !part.lines.is_empty())
            .collect()
    }
}

impl<'a> BatchPart<'a> {
    /// Parts of at most `size` photos and lines each, in order; the whole where no size is wanted.
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

    /// The photos on a device, `[n, 3, side, side]`.
    pub fn pixels(&self, config: &MmGemConfig, device: &Device) -> Tensor<4> {
        let side = config.vision.image_size;
        let pixels = self.samples.iter().flat_map(|sample| sample.photo.pixels.iter().copied()).collect();
        Tensor::from_data(TensorData::new::<f32, _>(pixels, [self.samples.len(), 3, side, side]), device)
    }

    /// The patches of each photo that the encoder sees; none where it sees all of them.
    pub fn kept_patches(&self) -> Option<Vec<Vec<u32>>> {
        self.samples.iter().map(|sample| sample.kept.clone()).collect()
    }

    /// Token ids of the photos' texts.
    pub fn texts(&self) -> Vec<Vec<u32>> {
        self.samples.iter().map(|sample| sample.text.clone()).collect()
    }

    /// Which photos are described as a whole.
    pub fn whole(&self) -> Vec<usize> {
        (0..self.samples.len()).filter(|photo| self.samples[*photo].is_whole).collect()
    }

    /// The regions that the texts name, each with the index of its photo.
    pub fn regions(&self) -> Vec<(usize, Region)> {
        let regions = self.samples.iter().enumerate();
        regions.filter_map(|(photo, sample)| Some((photo, sample.region.clone()?))).collect()
    }

    /// Which photos have a phrase with its place.
    pub fn with_phrase(&self) -> Vec<usize> {
        (0..self.samples.len()).filter(|photo| self.samples[*photo].grounded.is_some()).collect()
    }

    /// Token ids of those phrases, and how each spreads over the patches, `[n, n_patches]`.
    pub fn phrases(&self, device: &Device) -> (Vec<Vec<u32>>, Tensor<2>) {
        let grounded: Vec<&Grounded> = self.samples.iter().filter_map(|s| s.grounded.as_ref()).collect();
        let shares: Vec<f32> = grounded.iter().flat_map(|g| g.shares.iter().copied()).collect();
        let shape = [grounded.len(), shares.len() / grounded.len().max(1)];
        let phrases = grounded.iter().map(|g| g.phrase.clone()).collect();
        (phrases, Tensor::from_data(TensorData::new(shares, shape), device))
    }

    /// Which photos have a teacher's map.
    pub fn with_teacher(&self) -> Vec<usize> {
        (0..self.samples.len()).filter(|photo| self.samples[*photo].teacher.is_some()).collect()
    }

    /// The maps of those photos at the patches that the student sees, `[n, n_kept, hidden]`, up to a scale.
    pub fn teacher_maps(&self, distill: &DistillConfig, device: &Device) -> Tensor<3> {
        let teachers: Vec<&TeacherMap> =
            self.samples.iter().filter_map(|sample| sample.teacher.as_ref()).collect();
        let (n, n_cells) = (teachers.len(), distill.grid * distill.grid);
        let pooling: Vec<f32> = teachers.iter().flat_map(|teacher| teacher.pooling.iter().copied()).collect();
        let maps: Vec<f32> = teachers.iter().flat_map(|teacher| teacher.map.iter().copied()).collect();
        let n_kept = pooling.len() / (n * n_cells);
        let pooling = Tensor::<3>::from_data(TensorData::new(pooling, [n, n_kept, n_cells]), device);
        pooling.matmul(Tensor::from_data(TensorData::new(maps, [n, n_cells, distill.hidden_size]), device))
    }
}

/// One of the captions, or a sentence about the class.
fn caption(raw: &Raw, rng: &mut ChaCha8Rng) -> Result<String, String> {
    if raw.regions_only {
        return Err("it has no caption, and no described region is to be seen".into());
    }
    let record = &raw.record;
    const TEMPLATES: [&str; 4] = ["a photo of a {}.", "a picture of a {}.", "this is a {}.", "a {}."];
    match (&record.class, record.captions.len()) {
        (_, n) if n > 0 => Ok(record.captions[rng.random_range(0..n)].clone()),
        (Some(class), _) => Ok(TEMPLATES[rng.random_range(0..TEMPLATES.len())].replace("{}", class)),
        (None, _) => Ok("a photo.".to_owned()),
    }
}

/// Whether a mirrored photo would belie what people say of it.
fn speaks_of_sides(record: &PhotoRecord) -> bool {
    let phrases = record.regions.iter().flat_map(|region| &region.phrases);
    record.captions.iter().chain(phrases).any(|text| {
        text.split(|c: char| !c.is_alphabetic())
            .any(|word| word.eq_ignore_ascii_case("left") || word.eq_ignore_ascii_case("right"))
    })
}

/// How a teacher's map of the whole photo is pooled at the student's patches of the crop,
/// `[student * student, grid * grid]`, where both are as wide as high.
fn teacher_bins(student: usize, grid: usize, crop: PixelRect, [width, height]: [u32; 2]) -> Vec<f32> {
    // The map's own frame: one pixel a patch.
    let pool = PoolAggregator { grid, image_size: grid, roi_output_size: student, roi_sampling_ratio: 2 };
    let (sx, sy) = (grid as f32 / width as f32, grid as f32 / height as f32);
    let box_input = [
        crop.x as f32 * sx,
        crop.y as f32 * sy,
        (crop.x + crop.width) as f32 * sx,
        (crop.y + crop.height) as f32 * sy,
    ];
    pool.pooling_matrix(&Region { box_input, mask: None })
}

/// The rows of a pooling matrix, a bin each, that belong to the patches the student sees, all of them or those `kept`.
/// Of a mirrored photo a patch at the left is the bin at the right.
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

/// The teacher's map, `[grid * grid, hidden]` row by row, up to a scale. U8 as a network with rectified outputs
/// gives it, I8 where the mean was taken off.
fn teacher_map(bytes: &[u8], grid: usize, hidden_size: usize) -> Result<Vec<f32>, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| format!("teacher.safetensors: {e}"))?;
    let map = file.tensor("feature_map").map_err(|e| format!("teacher.safetensors: {e}"))?;
    let wanted = [grid, grid, hidden_size];
    match map.dtype() {
        Dtype::U8 if map.shape() == wanted => Ok(map.data().iter().map(|v| f32::from(*v)).collect()),
        Dtype::I8 if map.shape() == wanted => Ok(map.data().iter().map(|v| f32::from(*v as i8)).collect()),
        dtype => Err(format!(
            "the teacher's map is {:?} of {dtype:?}, wanted {wanted:?} of U8 or I8 ([distill] grid and hidden_size)",
            map.shape(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::TensorView;

    fn record(captions: &[&str], phrase: &str) -> PhotoRecord {
        let json = serde_json::json!({
            "captions": captions,
            "regions": [{ "box": [0, 0, 4, 4], "phrases": [phrase], "n_boxes": 1 }],
        });
        serde_json::from_value(json).expect("a record")
    }

    #[test]
    fn only_the_words_left_and_right_speak_of_sides() {
        assert!(speaks_of_sides(&record(&["A dog.", "Left of it, a cat."], "a dog")));
        assert!(speaks_of_sides(&record(&["A dog."], "the dog on the right")));
        assert!(!speaks_of_sides(&record(&["A bright, cleft rock."], "leftovers")));
    }

    #[test]
    fn each_patch_is_taught_by_the_part_of_the_photo_that_it_shows() {
        // A map whose cells say their column; a student of 4 by 4 patches sees the middle of the photo.
        let (student, grid, size) = (4, 8, [64, 32]);
        let bins = teacher_bins(student, grid, PixelRect { x: 16, y: 0, width: 32, height: 32 }, size);
        let seen = |kept: Option<&[u32]>, mirror| -> Vec<f32> {
            let rows = rows_of_patches(&bins, student, kept, mirror);
            let column =
                |row: &[f32]| row.iter().enumerate().map(|(cell, share)| share * (cell % grid) as f32).sum();
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
            let view = TensorView::new(dtype, shape.to_vec(), bytes).expect("as many bytes as places");
            safetensors::serialize([("feature_map", view)], None).expect("one tensor")
        };
        let bytes = [0, 1, 127, 128, 255, 7, 8, 9];
        let plain = teacher_map(&file(Dtype::U8, [2, 2, 2], &bytes), 2, 2).expect("a map");
        assert_eq!(plain, [0.0, 1.0, 127.0, 128.0, 255.0, 7.0, 8.0, 9.0]);
        let centred = teacher_map(&file(Dtype::I8, [2, 2, 2], &bytes), 2, 2).expect("a map");
        assert_eq!(centred, [0.0, 1.0, 127.0, -128.0, -1.0, 7.0, 8.0, 9.0]);
        let wrong = teacher_map(&file(Dtype::I8, [2, 2, 2], &bytes), 2, 3).expect_err("another width");
        assert!(wrong.contains("[2, 2, 2]") && wrong.contains("[2, 2, 3]"), "{wrong}");
        let wrong = teacher_map(&file(Dtype::F16, [2, 2, 1], &bytes), 2, 1).expect_err("another type");
        assert!(wrong.contains("F16"), "{wrong}");
    }
}
