//! Reads benchmarks in the layouts of their authors: photos, captions and boxes.
//!
//! Every layout becomes a list of [`BenchmarkPhoto`]. The rest of the program does not depend on
//! layouts.

pub mod classes;
mod coco;
mod elevater;
mod long_text;
mod phrases;
mod referring;
mod visual_genome_regions;

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use mmgem_core::checkpoint::{HASH_START, hash_bytes};
use mmgem_core::image::{BoxPx, Decoded, ImagePreprocess, Preprocessed, decode_whole};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use long_text::LongText;

use super::source::{Samples, SourceError};
use super::webdataset::PhotoRecord;

/// Supported annotation files.
const ANNOTATIONS: &str = "Karpathy's dataset_coco.json or dataset_flickr30k.json {\"images\": [{\"filename\", \"split\", \
    \"sentences\"}]}, COCO's or NoCaps' {\"images\": [{\"id\", \"file_name\"}], \"annotations\": [{\"image_id\", \"caption\"}]}, Visual Genome's \
    region_descriptions.json [{\"id\", \"regions\": [..]}], or RefCOCOg's refs(umd).json [{\"ref_id\", \"ann_id\", \
    \"sentences\"}] or finetune_refcocog_val.json {\"images\": [{\"caption\"}], \"annotations\": [{\"bbox\"}]}";

const FOLDERS: &str = "Flickr30k Entities (Sentences/, Annotations/), DCI (annotations/, photos/), DOCCI \
    (docci_descriptions.jsonlines), IIW (data.jsonl), Visual Genome (region_descriptions.json) or RefCOCOg (instances.json, \
    refs(umd).json); for shards name the files, as in 'DIR/*.tar', and for COCO's, Flickr30k's and NoCaps' captions their .json";

/// Why a benchmark cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BenchmarkError {
    /// The shards cannot be opened.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A file or folder does not have its benchmark's layout.
    #[error("{found}\n  wanted: {wanted}\n  path: {}", .path.display())]
    Layout {
        /// Description of the actual content.
        found: String,
        /// The layout that was expected.
        wanted: String,
        /// Path of the file or folder.
        path: PathBuf,
    },
}

/// A benchmark's annotations of a photo.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BenchmarkPhoto {
    /// Name in result files: the benchmark's image id, if it has one.
    pub id: String,
    /// Captions of the whole photo.
    pub captions: Vec<String>,
    /// Annotated regions.
    pub regions: Vec<BenchmarkRegion>,
    /// NoCaps: `in-domain`, `near-domain` or `out-domain`.
    pub domain: Option<String>,
    /// Index in the benchmark. Valid only after the photo was read.
    #[serde(skip)]
    pub idx: usize,
}

/// A region of a photo and its descriptions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchmarkRegion {
    /// Bounding box of all `boxes`, in pixels of the photo.
    pub box_px: BoxPx,
    /// Boxes of the region. Several only if the phrase names several things.
    pub boxes: Vec<BoxPx>,
    /// Phrases that refer to the region, or captions of its box.
    pub phrases: Vec<String>,
}

impl BenchmarkRegion {
    /// Builds a region from its boxes; `None` without a box.
    pub fn new(boxes: Vec<BoxPx>, phrases: Vec<String>) -> Option<Self> {
        let around =
            |a: BoxPx, b: BoxPx| [a[0].min(b[0]), a[1].min(b[1]), a[2].max(b[2]), a[3].max(b[3])];
        let box_px = boxes.iter().copied().reduce(around)?;
        Some(Self { box_px, boxes, phrases })
    }
}

/// Location of a benchmark, and the part to read.
#[derive(Clone, Debug, Default)]
pub struct BenchmarkFiles {
    /// Shards, an annotation file, or the benchmark's folder.
    pub data: Vec<String>,
    /// Folders with the photos, if they are not beside the annotations.
    pub images: Vec<PathBuf>,
    /// Name of the split (default: the benchmark's usual split).
    pub split: Option<String>,
    /// The text to use for a photo of DCI.
    pub long_text: LongText,
}

/// The photos of a benchmark in their original order.
#[derive(Clone, Debug)]
pub struct Benchmark {
    /// Title for reports, such as "COCO captions, Karpathy's split test".
    pub name: String,
    /// Whether every phrase of a region is its own query. Otherwise only the first one is.
    pub every_phrase: bool,
    /// Photos and shards that could not be used so far, and the reasons.
    pub skipped: Vec<String>,
    photos: Photos,
    /// See [`Benchmark::with_long_texts`].
    joins_lines: bool,
}

#[derive(Clone, Debug)]
enum Photos {
    Shards(Samples),
    Files(Vec<(BenchmarkPhoto, PathBuf)>),
}

/// A photo of a benchmark, decoded.
#[derive(Clone, Debug)]
pub struct ReadPhoto {
    /// The benchmark's annotations.
    pub photo: BenchmarkPhoto,
    /// Decoded pixels.
    pub decoded: Decoded,
    /// Hash of the file and the annotations.
    pub hash: u64,
}

/// Reads a benchmark in batches. Photos are decoded and preprocessed on all cores.
#[derive(Debug)]
pub struct Batches<'a> {
    benchmark: &'a Benchmark,
    config: ImagePreprocess,
    next: usize,
    /// Photos from the start of a batch to the start of this process's next one.
    stride: usize,
    notes: Vec<BatchNotes>,
}

/// What was read in a batch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BatchNotes {
    /// Index of its first photo.
    first: usize,
    /// Hashes of its usable photos.
    hashes: Vec<u64>,
    /// Its unusable photos, and the reasons.
    skipped: Vec<String>,
}

/// A summary of the photos read so far.
#[derive(Clone, Debug)]
pub struct ReadSummary {
    /// Number of usable photos.
    pub n_photos: usize,
    /// Unusable photos, and the reasons.
    pub skipped: Vec<String>,
    /// Hash of these photos and their annotations.
    pub data_hash: u64,
}

/// Photos with candidate file names that are not located yet.
type UnlocatedPhotos = Vec<(BenchmarkPhoto, Vec<String>)>;

impl Benchmark {
    /// Opens shards (`*.tar`), or an annotation file or folder of a benchmark.
    ///
    /// # Errors
    /// If nothing is found, or if no known benchmark has this layout.
    pub fn open(files: &BenchmarkFiles) -> Result<Self, BenchmarkError> {
        let [data] = files.data.as_slice() else { return Self::from_shards(files) };
        let path = Path::new(data);
        let extension = path.extension().map(|ext| ext.to_string_lossy().to_lowercase());
        match extension.as_deref() {
            _ if path.is_dir() => Self::from_folder(path, files),
            _ if referring::is_pickle(path) => Err(referring::pickled(path)),
            Some("json") => Self::from_json(path, files),
            Some("jsonl" | "jsonlines") => Self::from_lines(path, files),
            _ => Self::from_shards(files),
        }
    }

    fn from_shards(files: &BenchmarkFiles) -> Result<Self, BenchmarkError> {
        let samples = open_shards(&files.data, FOLDERS)?;
        Ok(Self {
            name: "WebDataset shards".into(),
            every_phrase: false,
            skipped: samples.warnings().collect(),
            photos: Photos::Shards(samples),
            joins_lines: false,
        })
    }

    fn from_json(path: &Path, files: &BenchmarkFiles) -> Result<Self, BenchmarkError> {
        let json: Value = read_json(path, ANNOTATIONS)?;
        let has = |key: &str, inner: &str| {
            json.get(key).and_then(|list| list.get(0)).and_then(|first| first.get(inner)).is_some()
        };
        let is_list_of = |key: &str| json.get(0).is_some_and(|first| first.get(key).is_some());
        match &json {
            _ if has("images", "sentences") => coco::open_karpathy(json, path, files),
            _ if has("annotations", "caption") => coco::open_captions(json, path, files),
            _ if has("images", "file_name") && json.get("annotations").is_none() => {
                coco::open_captions(json, path, files)
            }
            _ if has("images", "caption") && has("annotations", "bbox") => {
                referring::open_mdetr(json, path, files)
            }
            _ if is_list_of("regions") => visual_genome_regions::open(json, path, files),
            _ if is_list_of("ref_id") => referring::open_refs(json, path, files),
            _ if has("annotations", "bbox") => Err(BenchmarkError::Layout {
                found: "the file has boxes, but nothing that people said of them".into(),
                wanted: referring::WANTED.into(),
                path: path.into(),
            }),
            _ => Err(BenchmarkError::Layout {
                found: "the JSON matches no known benchmark".into(),
                wanted: ANNOTATIONS.into(),
                path: path.into(),
            }),
        }
    }

    fn from_lines(path: &Path, files: &BenchmarkFiles) -> Result<Self, BenchmarkError> {
        let text = read_text(path, long_text::LINES)?;
        let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        match serde_json::from_str(first).is_ok_and(|json| referring::is_line(&json)) {
            true => referring::open_lines(path, files),
            false => long_text::open_lines(path, files),
        }
    }

    fn from_folder(path: &Path, files: &BenchmarkFiles) -> Result<Self, BenchmarkError> {
        if path.join("Sentences").is_dir() && path.join("Annotations").is_dir() {
            return phrases::open_entities(path, files);
        }
        if path.join("docci_descriptions.jsonlines").is_file() {
            return long_text::open_lines(&path.join("docci_descriptions.jsonlines"), files);
        }
        if path.join("data.jsonl").is_file() {
            return long_text::open_lines(&path.join("data.jsonl"), files);
        }
        if path.join("annotations").is_dir() && path.join("photos").is_dir() {
            return long_text::open_dci(path, files);
        }
        if path.join("region_descriptions.json").is_file() {
            let json_path = path.join("region_descriptions.json");
            return visual_genome_regions::open(
                read_json(&json_path, visual_genome_regions::WANTED)?,
                &json_path,
                files,
            );
        }
        if path.join("instances.json").is_file() {
            return referring::open_refer(path, files);
        }
        Err(BenchmarkError::Layout {
            found: "the folder is laid out like no benchmark that is known".into(),
            wanted: FOLDERS.into(),
            path: path.into(),
        })
    }

    /// Locates the photos' files below `roots`.
    ///
    /// # Errors
    /// If the list is empty, or if no photo is found.
    fn from_files(
        name: String,
        listed: UnlocatedPhotos,
        roots: &[PathBuf],
        layout: &str,
        data: &Path,
    ) -> Result<Self, BenchmarkError> {
        let error = |found: String, wanted: String| BenchmarkError::Layout {
            found,
            wanted,
            path: data.into(),
        };
        let Some((_, first)) = listed.first() else {
            return Err(error(format!("{name} has no photos"), layout.into()));
        };
        let first = join_alternatives(first);
        let (mut photos, mut skipped) = (Vec::with_capacity(listed.len()), Vec::new());
        let n = listed.len();
        for (photo, names) in listed {
            let paths = names.iter().flat_map(|name| roots.iter().map(move |root| root.join(name)));
            match paths.into_iter().find(|path| path.is_file()) {
                Some(path) => photos.push((photo, path)),
                None => skipped.push(format!(
                    "{}: file not found: {}",
                    photo.id,
                    join_alternatives(&names)
                )),
            }
        }
        if photos.is_empty() {
            let roots: Vec<String> = roots.iter().map(|root| root.display().to_string()).collect();
            return Err(error(
                format!(
                    "found none of the {n} photos of {name}; the first is {first}, searched below {}",
                    roots.join(", ")
                ),
                format!("{layout}\n  hint: name the photos' folder with --images DIR"),
            ));
        }
        Ok(Self {
            name,
            every_phrase: false,
            skipped,
            photos: Photos::Files(photos),
            joins_lines: false,
        })
    }

    /// Treats the lines of a sample's `.txt` as one long text instead of one caption each.
    pub fn with_long_texts(self) -> Self {
        Self { joins_lines: true, ..self }
    }

    /// Number of photos.
    pub fn len(&self) -> usize {
        match &self.photos {
            Photos::Shards(samples) => samples.len(),
            Photos::Files(files) => files.len(),
        }
    }

    /// Whether the benchmark has no photos.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the photos may have captions. Test photos of an evaluation server have none; shards
    /// show it only when read.
    pub fn may_have_captions(&self) -> bool {
        match &self.photos {
            Photos::Shards(_) => true,
            Photos::Files(files) => files.iter().any(|(photo, _)| !photo.captions.is_empty()),
        }
    }

    /// Drops all but the first `limit` photos.
    pub fn truncate(&mut self, limit: usize) {
        match &mut self.photos {
            Photos::Shards(samples) => samples.truncate(limit),
            Photos::Files(files) => files.truncate(limit),
        }
    }

    /// Name of a photo for messages.
    pub fn name_of(&self, idx: usize) -> String {
        match &self.photos {
            Photos::Shards(samples) => samples.name(idx),
            Photos::Files(files) => files[idx].1.display().to_string(),
        }
    }

    /// Reads and decodes a photo.
    ///
    /// # Errors
    /// If the file or its record cannot be used. The text states the reason.
    pub fn read(&self, idx: usize) -> Result<ReadPhoto, String> {
        let (photo, bytes) = match &self.photos {
            Photos::Shards(samples) => {
                let sample = samples.read(idx).map_err(|e| e.to_string())?;
                let mut record = PhotoRecord::from_sample(&sample).map_err(|e| e.to_string())?;
                if self.joins_lines && record.captions_are_lines {
                    record.captions = vec![record.captions.join(" ")];
                }
                let bytes = sample.image().map_err(|e| e.to_string())?.to_vec();
                (photo_of_record(sample.key.clone(), record), bytes)
            }
            Photos::Files(files) => {
                let (photo, path) = &files[idx];
                (photo.clone(), fs::read(path).map_err(|e| e.to_string())?)
            }
        };
        let decoded = decode_whole(&bytes, Default::default()).map_err(|e| e.to_string())?;
        let annotations = serde_json::to_vec(&photo).expect("plain data serialises");
        let hash = hash_bytes(hash_bytes(HASH_START, &annotations), &bytes);
        let photo = BenchmarkPhoto { idx, ..photo };
        Ok(ReadPhoto { photo, decoded, hash })
    }
}

impl<'a> Batches<'a> {
    /// Number of photos that are read at once.
    pub const SIZE: usize = 32;

    /// Starts at the first photo.
    pub fn new(benchmark: &'a Benchmark, config: ImagePreprocess) -> Self {
        Self { benchmark, config, next: 0, stride: Self::SIZE, notes: Vec::new() }
    }

    /// Reads only every `size`th batch, from number `rank` on.
    pub fn of_process(mut self, rank: usize, size: usize) -> Self {
        self.next = rank * Self::SIZE;
        self.stride = size * Self::SIZE;
        self
    }

    /// Reads the next batch and returns its usable photos, possibly none. Returns `None` after the
    /// last batch.
    pub fn next_batch(&mut self) -> Option<Vec<(BenchmarkPhoto, Preprocessed)>> {
        let (first, n_photos) = (self.next, self.benchmark.len());
        let batch = first..(first + Self::SIZE).min(n_photos);
        if batch.is_empty() {
            return None;
        }
        self.next = first + self.stride;
        let read = |idx: usize| {
            let ReadPhoto { photo, decoded, hash } = self.benchmark.read(idx)?;
            Ok::<_, String>((photo, decoded.preprocess(&self.config), hash))
        };
        let mut usable = Vec::with_capacity(batch.len());
        let mut notes = BatchNotes { first, hashes: Vec::new(), skipped: Vec::new() };
        for (idx, result) in batch.clone().zip(on_all_cores(batch, read)) {
            match result {
                Ok((photo, input, hash)) => {
                    notes.hashes.push(hash);
                    usable.push((photo, input));
                }
                Err(why) => notes.skipped.push(format!("{}: {}", self.benchmark.name_of(idx), why)),
            }
        }
        self.notes.push(notes);
        Some(usable)
    }

    /// Index of the first photo of the newest batch, usable or not.
    pub fn first(&self) -> usize {
        self.notes.last().map_or(0, |notes| notes.first)
    }

    /// Number of photos up to the next batch, usable or not.
    pub fn position(&self) -> usize {
        self.next.min(self.benchmark.len())
    }

    /// Number of photos of the benchmark.
    pub fn total(&self) -> usize {
        self.benchmark.len()
    }

    /// The notes so far; the summary is then without them.
    pub fn take_notes(&mut self) -> Vec<BatchNotes> {
        std::mem::take(&mut self.notes)
    }

    /// Adds the notes of another process to the summary.
    pub fn add_notes(&mut self, notes: Vec<BatchNotes>) {
        self.notes.extend(notes);
    }

    /// Returns the summary.
    pub fn into_summary(mut self) -> ReadSummary {
        self.notes.sort_by_key(|notes| notes.first);
        let (mut n_photos, mut data_hash) = (0, HASH_START);
        let mut skipped = self.benchmark.skipped.clone();
        for notes in self.notes {
            n_photos += notes.hashes.len();
            data_hash = notes
                .hashes
                .iter()
                .fold(data_hash, |hash, photo| hash_bytes(hash, &photo.to_le_bytes()));
            skipped.extend(notes.skipped);
        }
        ReadSummary { n_photos, skipped, data_hash }
    }
}

/// Number of threads that can run in parallel.
pub fn n_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Calls `work` for every number of a range on all cores. Results are in order.
pub fn on_all_cores<T: Send>(range: Range<usize>, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let n_threads = n_cores().min(range.len().max(1));
    let share = range.len().div_ceil(n_threads).max(1);
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = range
            .clone()
            .step_by(share)
            .map(|start| start..(start + share).min(range.end))
            .map(|part| scope.spawn(move || part.map(work).collect::<Vec<T>>()))
            .collect();
        threads.into_iter().flat_map(|t| t.join().expect("the work returns its errors")).collect()
    })
}

fn photo_of_record(id: String, record: PhotoRecord) -> BenchmarkPhoto {
    let regions = record.regions.into_iter().filter(|region| region.n_boxes == 1);
    BenchmarkPhoto {
        id,
        captions: record.captions,
        regions: regions
            .filter_map(|region| BenchmarkRegion::new(vec![region.box_px], region.phrases))
            .collect(),
        ..Default::default()
    }
}

/// Folders in which photos are looked for: the user's, else the annotations' folder and its usual
/// subfolders.
fn roots(files: &BenchmarkFiles, beside: &Path, usual: &[&str]) -> Vec<PathBuf> {
    if !files.images.is_empty() {
        return files.images.clone();
    }
    std::iter::once(beside.to_path_buf())
        .chain(usual.iter().map(|name| beside.join(name)))
        .collect()
}

/// Joins alternative names for a message, without repeats.
fn join_alternatives(names: &[String]) -> String {
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.dedup();
    names.join(" or ")
}

/// Opens shards. If no file matches, the error lists the supported layouts.
fn open_shards(patterns: &[String], wanted: &str) -> Result<Samples, BenchmarkError> {
    Samples::open(patterns, None).map_err(|e| match e {
        SourceError::NoFile(pattern) => BenchmarkError::Layout {
            found: format!("no file fits {pattern:?}, relative to the working directory"),
            wanted: wanted.into(),
            path: pattern.into(),
        },
        other => other.into(),
    })
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.into(),
        _ => PathBuf::from("."),
    }
}

fn read_text(path: &Path, wanted: &str) -> Result<String, BenchmarkError> {
    fs::read_to_string(path).map_err(|e| BenchmarkError::Layout {
        found: format!("the file cannot be read: {e}"),
        wanted: wanted.into(),
        path: path.into(),
    })
}

fn read_json<T: DeserializeOwned>(path: &Path, wanted: &str) -> Result<T, BenchmarkError> {
    parse_json(&read_text(path, wanted)?, path, wanted)
}

fn parse_json<T: DeserializeOwned>(
    text: &str,
    path: &Path,
    wanted: &str,
) -> Result<T, BenchmarkError> {
    serde_json::from_str(text).map_err(|e| malformed(e, path, wanted))
}

fn from_json<T: DeserializeOwned>(
    json: Value,
    path: &Path,
    wanted: &str,
) -> Result<T, BenchmarkError> {
    serde_json::from_value(json).map_err(|e| malformed(e, path, wanted))
}

fn malformed(error: serde_json::Error, path: &Path, wanted: &str) -> BenchmarkError {
    BenchmarkError::Layout {
        found: format!("the JSON is not as it should be: {error}"),
        wanted: wanted.into(),
        path: path.into(),
    }
}
