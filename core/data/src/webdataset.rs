//! Reads and writes WebDataset shards.
//!
//! A shard is a tar file. Consecutive members with the same key form a sample (`00000.jpg`,
//! `00000.json`). Shards may be compressed (`.tar.gz`, `.tar.zst`).

mod kept;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use mmgem_core::image::BoxPx;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::unpack::{Unpacked, UnpackedFile};
pub use kept::KeptIndex;

/// Size of a tar block. Headers and data start at multiples of it.
const BLOCK: u64 = 512;

/// Extensions of a sample's photo.
const IMAGE_EXTENSIONS: [&str; 12] =
    ["jpg", "jpeg", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "heic", "heif", "avif"];
/// Extensions of a text part with one caption per line.
const TEXT_EXTENSIONS: [&str; 4] = ["txt", "text", "caption", "captions"];
/// Keys of captions in a `.json`: ours and COCO's, img2dataset's, LAION's. The first existing key
/// counts.
const CAPTION_KEYS: [&str; 4] = ["captions", "caption", "TEXT", "text"];
/// Names before the extension that mark the main part, if a sample has several (`input.jpg` and
/// `target.jpg`).
const MAIN_NAMES: [&str; 4] = ["image", "img", "input", "photo"];

/// Why a shard or a sample cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// A file operation failed.
    #[error("cannot {action} the shard: {source}; check the path and its permissions\n  file: {}", path.display())]
    Io {
        /// The attempted action.
        action: &'static str,
        /// Path of the shard.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// The shard is compressed and cannot be decompressed.
    #[error("cannot decompress the shard into {}: {source}; decompress it yourself and give the .tar\n  file: {}", std::env::temp_dir().display(), path.display())]
    Unpack {
        /// Path of the shard.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// The file has no complete sample.
    #[error("found no whole sample ({reason}); wanted a tar file as WebDataset writes it: get the shard again\n  file: {}", path.display())]
    NotAShard {
        /// Reason why reading stopped.
        reason: String,
        /// Path of the shard.
        path: PathBuf,
    },
    /// Two parts of a sample have the same extension.
    #[error("sample {key} has two .{ext} parts; wanted one of each: give every sample its own key\n  file: {}", path.display())]
    Duplicate {
        /// Key of the sample.
        key: String,
        /// The repeated extension.
        ext: String,
        /// Path of the shard.
        path: PathBuf,
    },
    /// The index is past the last sample.
    #[error("no sample {found}: the shard has {n_samples}\n  file: {}", path.display())]
    NoSample {
        /// The requested index.
        found: usize,
        /// Number of samples in the shard.
        n_samples: usize,
        /// Path of the shard.
        path: PathBuf,
    },
    /// A reader would split this key and extension at another dot.
    #[error(
        "part {key:?} + {ext:?} cannot be named in a shard; wanted a key without dots or backslashes in its last part, and a lower-case extension"
    )]
    Name {
        /// The sample's key.
        key: String,
        /// The part's extension.
        ext: String,
    },
    /// Two consecutive samples have the same key. A reader would join them.
    #[error("two samples in a row have the key {0}; give each its own")]
    RepeatedKey(String),
    /// The annotations of a sample are invalid.
    #[error(
        "sample {key}: {reason}; wanted, side by side in the shard, a photo and a .json with \"captions\" or \"class\" (and \"regions\" with \"box\" and \"phrases\") or a .txt with one caption per line"
    )]
    Record {
        /// The sample's key.
        key: String,
        /// Reason.
        reason: String,
    },
}

/// A sample: consecutive members of a shard with the same key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Member name up to the first dot of its last part.
    pub key: String,
    /// For each part: the text after that dot, in lower case, and the bytes.
    pub parts: Vec<(String, Vec<u8>)>,
}

impl Sample {
    /// Returns the bytes of the part with this extension.
    pub fn get(&self, ext: &str) -> Option<&[u8]> {
        self.parts.iter().find(|part| part.0 == ext).map(|part| part.1.as_slice())
    }

    /// Returns the photo's bytes: the first part with an image extension.
    ///
    /// # Errors
    /// If the sample has no photo, or several without a main one.
    pub fn image(&self) -> Result<&[u8], ShardError> {
        self.image_part().map(|(_, bytes)| bytes)
    }

    /// Like [`Self::image`], with the extension.
    ///
    /// # Errors
    /// As [`Self::image`].
    pub fn image_part(&self) -> Result<(&str, &[u8]), ShardError> {
        let part = self.part_of("photos", &IMAGE_EXTENSIONS)?;
        part.ok_or_else(|| {
            self.error(format!("there is no image among its parts {:?}", self.extensions()))
        })
    }

    /// Finds the part with one of the extensions. `jpg` wins over `input.jpg`.
    ///
    /// WebDataset ends the key at the first dot of a member's file name. So `dog.1.jpg` and
    /// `dog.2.jpg` are parts of one sample, and neither is the main part.
    fn part_of(
        &self,
        what: &str,
        extensions: &[&str],
    ) -> Result<Option<(&str, &[u8])>, ShardError> {
        let parts = || self.parts.iter().map(|(ext, bytes)| (ext.as_str(), bytes.as_slice()));
        if let Some(part) = parts().find(|(ext, _)| extensions.contains(ext)) {
            return Ok(Some(part));
        }
        let dotted: Vec<_> = parts()
            .filter_map(|part| {
                let (name, ext) = part.0.rsplit_once('.')?;
                extensions.contains(&ext).then_some((name, part))
            })
            .collect();
        let mut main = dotted.iter().filter(|(name, _)| MAIN_NAMES.contains(name));
        match (dotted.as_slice(), main.next(), main.next()) {
            ([], ..) => Ok(None),
            ([(_, part)], ..) | (_, Some((_, part)), None) => Ok(Some(*part)),
            ([(_, first), (_, second), ..], ..) => Err(self.error(format!(
                "it has several {what}, {:?} and {:?}, because WebDataset ends the key at the first dot of the file's name: give \
                 every sample a name without a dot",
                first.0, second.0
            ))),
        }
    }

    fn extensions(&self) -> Vec<&str> {
        self.parts.iter().map(|part| part.0.as_str()).collect()
    }

    fn error(&self, reason: String) -> ShardError {
        ShardError::Record { key: self.key.clone(), reason }
    }
}

/// Position of one part in its shard.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PartPlace {
    ext: String,
    offset: u64,
    len_bytes: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct SamplePlace {
    key: String,
    parts: Vec<PartPlace>,
}

/// An index of a shard's samples, built by reading the headers once.
///
/// Any thread can read any sample at any time. A compressed shard occupies space in the system's
/// temporary folder while it is open.
#[derive(Debug, Clone)]
pub struct ShardIndex {
    path: PathBuf,
    unpacked: Option<UnpackedFile>,
    samples: Vec<SamplePlace>,
    /// Hash of the samples' keys and positions. Copies of a shard have the same.
    content: u64,
    /// Reason why the shard is truncated, if it is. Samples before the cut are complete; the sample
    /// at the cut is skipped.
    pub truncated: Option<String>,
    /// Members that are skipped because their sample already has a part with that extension.
    /// WebDataset skips them too when it continues after errors.
    pub duplicates: Vec<String>,
    /// Keys whose parts are not consecutive. WebDataset makes several samples of such a key.
    pub split_keys: Vec<String>,
}

/// Results of scanning a shard's headers.
#[derive(Default)]
struct Found {
    samples: Vec<SamplePlace>,
    duplicates: Vec<String>,
}

impl ShardIndex {
    /// Indexes the samples of a shard without reading their data.
    ///
    /// A truncated shard gives the samples before the cut, and sets `truncated`.
    ///
    /// # Errors
    /// If the file cannot be read or decompressed, or has no complete sample.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, ShardError> {
        let path = path.into();
        let io = |source| ShardError::Io { action: "open", path: path.clone(), source };
        let not_a_shard = |reason: String| ShardError::NotAShard { reason, path: path.clone() };
        let file = File::open(&path).map_err(io)?;
        let len_bytes = file.metadata().map_err(io)?.len();
        if len_bytes == 0 {
            return Err(not_a_shard("the file is empty".into()));
        }
        let unpacked = Unpacked::new(&file).map_err(|error| match error.kind() {
            io::ErrorKind::Other => not_a_shard(error.to_string()),
            _ => io(error),
        })?;
        let (unpacked, cut) = match unpacked.is_packed() {
            true => {
                let unpack = |source| ShardError::Unpack { path: path.clone(), source };
                let (unpacked, cut) = UnpackedFile::new(unpacked).map_err(unpack)?;
                (Some(unpacked), cut)
            }
            false => (None, None),
        };
        let mut found = Found::default();
        let scanned = match &unpacked {
            Some(unpacked) => {
                let (reader, len_bytes) = unpacked.reader().map_err(io)?;
                scan(BufReader::new(reader), len_bytes, &mut found)
            }
            None => {
                (&file).seek(SeekFrom::Start(0)).map_err(io)?;
                scan(BufReader::new(&file), len_bytes, &mut found)
            }
        };
        let mut truncated = match (scanned, cut) {
            (Some(reason), Some(cut)) => Some(format!("{reason} ({cut})")),
            (reason, cut) => reason.or(cut),
        };
        let Found { mut samples, duplicates } = found;
        if let Some(reason) = &mut truncated {
            // The cut may have removed parts of the last sample.
            let lost = samples.pop().map(|sample: SamplePlace| sample.key);
            if samples.is_empty() {
                return Err(not_a_shard(reason.clone()));
            }
            if let Some(key) = lost {
                *reason = format!("{reason}; sample {key} is left out");
            }
        }
        let split_keys = split_keys(&samples);
        let content = kept::content(&samples);
        Ok(Self { path, unpacked, samples, content, truncated, duplicates, split_keys })
    }

    /// Warnings for the user: truncation, and members that are skipped or not consecutive.
    pub fn warnings(&self) -> impl Iterator<Item = String> + '_ {
        let duplicates = self.duplicates.first().map(|first| {
            let n = self.duplicates.len();
            format!("{n} members repeat the key and extension of an earlier one and are skipped, the first: {first}; give every sample its own key")
        });
        let split = self.split_keys.first().map(|first| {
            let n = self.split_keys.len();
            format!("the parts of {n} samples do not stand side by side, the first: {first}; WebDataset reads each as a sample of its own: write the shard sorted, as with tar --sort=name")
        });
        let warnings = [self.truncated.clone(), duplicates, split].into_iter().flatten();
        warnings.map(|warning| format!("{warning}\n  file: {}", self.path.display()))
    }

    /// Number of complete samples.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there are no samples, as in a shard that was closed before anything was written.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// The shard's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Key of the sample at this index, if it exists.
    pub fn key(&self, sample_idx: usize) -> Option<&str> {
        self.samples.get(sample_idx).map(|sample| sample.key.as_str())
    }

    /// Hash of the samples' keys and positions. Copies of a shard have the same, whatever their
    /// path.
    pub fn content(&self) -> u64 {
        self.content
    }

    /// Size of a sample's photo, from the headers. `None` if the sample has no photo whose name is
    /// only an extension.
    pub fn image_bytes(&self, sample_idx: usize) -> Option<usize> {
        let is_image = |part: &&PartPlace| IMAGE_EXTENSIONS.contains(&part.ext.as_str());
        self.samples.get(sample_idx)?.parts.iter().find(is_image).map(|part| part.len_bytes)
    }

    /// Reads one sample.
    ///
    /// Opens the file each time (a compressed shard uses its decompressed copy). So threads share
    /// no lock, and the number of shards has no limit.
    ///
    /// # Errors
    /// If the index is out of range, or if the file has changed or vanished.
    pub fn read(&self, sample_idx: usize) -> Result<Sample, ShardError> {
        let place = self.samples.get(sample_idx).ok_or_else(|| ShardError::NoSample {
            found: sample_idx,
            n_samples: self.samples.len(),
            path: self.path.clone(),
        })?;
        let io = |source| ShardError::Io { action: "read", path: self.path.clone(), source };
        let mut parts = Vec::with_capacity(place.parts.len());
        match &self.unpacked {
            Some(unpacked) => {
                for part in &place.parts {
                    let mut bytes = vec![0; part.len_bytes];
                    unpacked.read_exact_at(part.offset, &mut bytes).map_err(io)?;
                    parts.push((part.ext.clone(), bytes));
                }
            }
            None => {
                let mut file = File::open(&self.path).map_err(io)?;
                for part in &place.parts {
                    let mut bytes = vec![0; part.len_bytes];
                    file.seek(SeekFrom::Start(part.offset)).map_err(io)?;
                    file.read_exact(&mut bytes).map_err(io)?;
                    parts.push((part.ext.clone(), bytes));
                }
            }
        }
        Ok(Sample { key: place.key.clone(), parts })
    }

    /// Reads all samples in order.
    pub fn samples(&self) -> impl Iterator<Item = Result<Sample, ShardError>> + '_ {
        (0..self.len()).map(|sample_idx| self.read(sample_idx))
    }
}

/// Collects the positions of all samples. Returns the reason if the shard is truncated.
fn scan(file: impl Read + Seek, len_bytes: u64, found: &mut Found) -> Option<String> {
    let mut end_bytes = 0;
    let mut archive = tar::Archive::new(file);
    let entries = match archive.entries_with_seek() {
        Ok(entries) => entries,
        Err(error) => return Some(error.to_string()),
    };
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return Some(format!("after byte {end_bytes}: {error}")),
        };
        let (offset, size) = (entry.raw_file_position(), entry.size());
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        end_bytes = offset.saturating_add(size);
        if end_bytes > len_bytes {
            if let Some((key, ext)) = split_name(&name) {
                // Register the part, so that the truncated sample is the last one.
                found.add(&name, &key, PartPlace { ext, offset, len_bytes: 0 });
            }
            return Some(format!("{name} ends at byte {end_bytes} but the file at {len_bytes}"));
        }
        let part = if entry.header().entry_type().is_file() { split_name(&name) } else { None };
        if let Some((key, ext)) = part {
            found.add(&name, &key, PartPlace { ext, offset, len_bytes: size as usize });
        }
    }
    // A complete tar ends with empty blocks.
    let has_end = end_bytes.next_multiple_of(BLOCK) < len_bytes;
    (!has_end).then(|| format!("no end-of-archive mark after byte {end_bytes}"))
}

impl Found {
    fn add(&mut self, name: &str, key: &str, part: PartPlace) {
        match self.samples.last_mut() {
            Some(sample) if sample.key == key => {
                if sample.parts.iter().any(|other| other.ext == part.ext) {
                    self.duplicates.push(name.to_owned());
                } else {
                    sample.parts.push(part);
                }
            }
            _ => self.samples.push(SamplePlace { key: key.to_owned(), parts: vec![part] }),
        }
    }
}

/// Finds keys that return later with new extensions only. These are parts of the same sample, not
/// another sample with the same name.
fn split_keys(samples: &[SamplePlace]) -> Vec<String> {
    let mut counts: HashMap<&str, usize> = HashMap::with_capacity(samples.len());
    samples.iter().for_each(|sample| *counts.entry(&sample.key).or_default() += 1);
    let mut extensions_of_key: HashMap<&str, HashSet<&str>> = HashMap::new();
    let mut split = Vec::new();
    for sample in samples.iter().filter(|sample| counts[sample.key.as_str()] > 1) {
        let before = extensions_of_key.entry(&sample.key).or_default();
        let extensions = || sample.parts.iter().map(|part| part.ext.as_str());
        if !before.is_empty() && !extensions().any(|ext| before.contains(ext)) {
            split.push(sample.key.clone());
        }
        before.extend(extensions());
    }
    split
}

/// Splits a member's name into key and extension as WebDataset does: at the first dot of the last
/// path component.
///
/// Returns `None` for hidden files, files without extension and metadata folders (`__info__/`).
pub(super) fn split_name(name: &str) -> Option<(String, String)> {
    let name = name.strip_prefix("./").unwrap_or(name);
    if name
        .split_once('/')
        .is_some_and(|(first, _)| first.starts_with("__") && first.ends_with("__"))
    {
        return None;
    }
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = base + name[base..].find('.')?;
    let ext = name[dot + 1..].to_lowercase();
    (dot > base && !ext.is_empty()).then(|| (name[..dot].to_owned(), ext))
}

/// Writes a shard under a temporary name. [`ShardWriter::finish`] renames it, so that readers never
/// see a partial shard.
///
/// The same samples give the same bytes.
pub struct ShardWriter {
    path: PathBuf,
    temporary: PathBuf,
    /// `None` after `finish`.
    builder: Option<tar::Builder<BufWriter<File>>>,
    last_key: Option<String>,
}

impl ShardWriter {
    /// Starts a shard that will be named `path`.
    ///
    /// # Errors
    /// If its folder cannot be written to.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self, ShardError> {
        let path = path.into();
        let mut temporary = path.clone().into_os_string();
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let file = File::create(&temporary).map_err(|source| ShardError::Io {
            action: "create",
            path: path.clone(),
            source,
        })?;
        let builder = Some(tar::Builder::new(BufWriter::new(file)));
        Ok(Self { path, temporary, builder, last_key: None })
    }

    /// Appends a sample.
    ///
    /// # Errors
    /// If the sample could not be read back unchanged, or if the disk is full.
    pub fn write(&mut self, sample: &Sample) -> Result<(), ShardError> {
        if self.last_key.as_ref() == Some(&sample.key) {
            return Err(ShardError::RepeatedKey(sample.key.clone()));
        }
        for (part_idx, (ext, _)) in sample.parts.iter().enumerate() {
            let (key, ext) = (sample.key.clone(), ext.clone());
            if split_name(&format!("{key}.{ext}")) != Some((key.clone(), ext.clone())) {
                return Err(ShardError::Name { key, ext });
            }
            if sample.parts[..part_idx].iter().any(|other| other.0 == ext) {
                return Err(ShardError::Duplicate { key, ext, path: self.path.clone() });
            }
        }
        let builder = self.builder.as_mut().expect("only `finish` takes it");
        for (ext, bytes) in &sample.parts {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Regular);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(bytes.len() as u64);
            let name = format!("{}.{ext}", sample.key);
            builder.append_data(&mut header, name, bytes.as_slice()).map_err(|source| {
                ShardError::Io { action: "write", path: self.path.clone(), source }
            })?;
        }
        self.last_key = Some(sample.key.clone());
        Ok(())
    }

    /// Flushes the shard to the disk and renames it.
    ///
    /// # Errors
    /// If the disk is full, or if the rename fails.
    pub fn finish(mut self) -> Result<PathBuf, ShardError> {
        let builder = self.builder.take().expect("taken only here");
        let to_disk = || {
            let mut file = builder.into_inner()?;
            file.flush()?;
            file.get_ref().sync_all()?;
            drop(file);
            crate::files::rename(&self.temporary, &self.path)
        };
        let finished = to_disk();
        finished.map_err(|source| {
            // Remove the useless temporary file. Report only the first error.
            let _ = std::fs::remove_file(&self.temporary);
            ShardError::Io { action: "finish", path: self.path.clone(), source }
        })?;
        Ok(self.path.clone())
    }
}

impl Drop for ShardWriter {
    /// Removes the temporary file of an unfinished shard.
    fn drop(&mut self) {
        if self.builder.take().is_some() {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// A region of a photo and the phrases for it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct RegionRecord {
    /// Box in pixels of the sample's image, not validated: see [`mmgem_core::image::check_box`].
    #[serde(rename = "box")]
    pub box_px: BoxPx,
    /// Phrases that refer to the region.
    pub phrases: Vec<String>,
    /// Number of boxes that the phrase spans. If it is more than 1, the phrase describes more than
    /// this box.
    #[serde(default = "one_box")]
    pub n_boxes: u32,
}

fn one_box() -> u32 {
    1
}

/// The annotations of a photo in a sample.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct PhotoRecord {
    /// Captions of the whole photo. May be empty if the photo has a class or regions.
    #[serde(skip)]
    pub captions: Vec<String>,
    /// Whether the captions are the lines of a text part.
    #[serde(skip)]
    pub captions_are_lines: bool,
    /// Regions with phrases.
    #[serde(default)]
    pub regions: Vec<RegionRecord>,
    /// Name of the only object. `null` means background clutter, which needs no caption either.
    pub class: Option<String>,
    /// Width of the image that the boxes refer to, if given.
    pub width: Option<u32>,
    /// Height of the image that the boxes refer to, if given.
    pub height: Option<u32>,
}

/// Distinguishes a null `class` from a missing one.
#[derive(Deserialize)]
struct HasClass {
    #[serde(rename = "class")]
    _class: IgnoredAny,
}

impl PhotoRecord {
    /// Reads the annotations of a sample: its `.json`, and its `.txt` if the `.json` has no
    /// captions.
    ///
    /// Unknown keys of the `.json` are ignored. Its captions are a list or one text, under the
    /// first of `captions`, `caption`, `TEXT` and `text`. A `.txt` has one caption per line, as
    /// CLIP_benchmark writes and reads it.
    ///
    /// # Errors
    /// If the JSON is invalid, or if the sample has no caption, class or region phrase.
    pub fn from_sample(sample: &Sample) -> Result<Self, ShardError> {
        let json = sample.part_of("records", &["json"])?;
        let mut record = match json {
            Some((_, json)) => Self::from_json(json)
                .map_err(|cause| sample.error(format!("the .json cannot be read: {cause}")))?,
            None => Self::default(),
        };
        if record.captions.is_empty()
            && let Some((ext, text)) = sample.part_of("texts", &TEXT_EXTENSIONS)?
        {
            let text = std::str::from_utf8(text)
                .map_err(|cause| sample.error(format!("the .{ext} is not UTF-8: {cause}")))?;
            let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
            record.captions = lines.filter(|line| !line.is_empty()).map(str::to_owned).collect();
            record.captions_are_lines = true;
        }
        let has_class = |json| serde_json::from_slice::<HasClass>(json).is_ok();
        let names_region = record.regions.iter().any(|region| !region.phrases.is_empty());
        if record.captions.is_empty()
            && !names_region
            && !json.is_some_and(|(_, json)| has_class(json))
        {
            let found = sample.extensions();
            return Err(
                sample.error(format!("no caption, class or region phrase in its parts {found:?}"))
            );
        }
        Ok(record)
    }

    /// Parses a record.
    ///
    /// # Errors
    /// If it is not JSON, or if a value has the wrong type. The text states which.
    fn from_json(json: &[u8]) -> Result<Self, String> {
        let mut json: Value = serde_json::from_slice(json).map_err(|cause| cause.to_string())?;
        let Some(record) = json.as_object_mut() else {
            // The JSON is a list of captions, or one caption.
            return Ok(Self { captions: captions_of("the record", &json)?, ..Self::default() });
        };
        let key = CAPTION_KEYS
            .into_iter()
            .find(|key| record.get(*key).is_some_and(|value| !value.is_null()));
        let captions = key.map_or(Ok(Vec::new()), |key| captions_of(key, &record[key]))?;
        if !captions.is_empty() {
            // Tables of other programs (img2dataset) give these keys other types.
            record.retain(|key, value| match key.as_str() {
                "regions" => !value.is_null(),
                "class" => value.is_string(),
                "width" | "height" => value.is_u64(),
                _ => true,
            });
        }
        let record: Self = serde_json::from_value(json).map_err(|cause| cause.to_string())?;
        Ok(Self { captions, ..record })
    }
}

/// Parses one caption, or a list of captions.
fn captions_of(key: &str, value: &Value) -> Result<Vec<String>, String> {
    let texts = match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(list) => {
            let texts: Option<Vec<String>> =
                list.iter().map(|text| text.as_str().map(str::to_owned)).collect();
            texts.ok_or_else(|| {
                format!("{key:?} has values other than texts; wanted a text or a list of texts")
            })?
        }
        other => return Err(format!("{key:?} is {other}; wanted a text or a list of texts")),
    };
    Ok(texts.into_iter().filter(|text| !text.trim().is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(key: &str, parts: &[(&str, &str)]) -> Sample {
        let parts = parts.iter().map(|(ext, text)| ((*ext).into(), text.as_bytes().to_vec()));
        Sample { key: key.into(), parts: parts.collect() }
    }

    fn three_samples() -> Vec<Sample> {
        vec![
            sample("00000", &[("jpg", "pixels"), ("json", "{}")]),
            sample(
                "a/00001",
                &[("jpg", &"x".repeat(1000)), ("json", "{\"a\":1}"), ("seg.png", "")],
            ),
            sample("00002", &[("jpg", "more"), ("json", "")]),
        ]
    }

    fn write(path: &Path, samples: &[Sample]) {
        let mut writer = ShardWriter::create(path).expect("a writable folder");
        samples.iter().for_each(|sample| writer.write(sample).expect("a valid sample"));
        assert_eq!(writer.finish().expect("a writable folder"), path);
    }

    #[test]
    fn written_samples_are_read_back_in_any_order() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("s.tar");
        write(&path, &three_samples());
        let shard = ShardIndex::open(&path).expect("a shard");
        assert_eq!((shard.len(), shard.truncated.as_deref()), (3, None));
        assert_eq!(shard.read(2).expect("third"), three_samples()[2]);
        assert_eq!(shard.key(1), Some("a/00001"));
        assert_eq!(shard.samples().collect::<Result<Vec<_>, _>>().expect("all"), three_samples());
        assert!(shard.read(3).expect_err("no fourth").to_string().contains("has 3"));
    }

    #[test]
    fn the_same_samples_make_the_same_bytes() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let [one, two] = ["1.tar", "2.tar"].map(|name| folder.path().join(name));
        write(&one, &three_samples());
        write(&two, &three_samples());
        assert_eq!(std::fs::read(&one).expect("one"), std::fs::read(&two).expect("two"));
    }

    #[test]
    fn an_unfinished_shard_leaves_nothing_behind() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut writer = ShardWriter::create(folder.path().join("s.tar")).expect("writable");
        writer.write(&three_samples()[0]).expect("a valid sample");
        drop(writer);
        assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 0);
    }

    #[test]
    fn a_shard_cut_anywhere_gives_whole_samples_or_an_error() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("s.tar");
        write(&path, &three_samples());
        let bytes = std::fs::read(&path).expect("just written");
        for kept in (0..bytes.len()).step_by(64) {
            std::fs::write(&path, &bytes[..kept]).expect("writable");
            match ShardIndex::open(&path) {
                Ok(shard) => {
                    let samples: Vec<_> = shard.samples().map(|s| s.expect("whole")).collect();
                    assert_eq!(samples, three_samples()[..samples.len()], "{kept} bytes kept");
                    assert_eq!(shard.truncated.is_none(), samples.len() == 3, "{kept} bytes kept");
                }
                Err(error) => assert!(error.to_string().contains("no whole sample"), "{error}"),
            }
        }
    }

    #[test]
    fn a_file_that_is_not_a_shard_is_an_error() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("s.tar");
        let missing = ShardIndex::open(&path).expect_err("missing").to_string();
        assert!(
            missing.contains("cannot open the shard") && missing.contains("s.tar"),
            "{missing}"
        );
        std::fs::write(&path, "hello, world ".repeat(100)).expect("writable");
        let text = ShardIndex::open(&path).expect_err("no tar").to_string();
        assert!(text.contains("found no whole sample"), "{text}");
        std::fs::write(&path, "").expect("writable");
        let empty = ShardIndex::open(&path).expect_err("nothing").to_string();
        assert!(empty.contains("the file is empty"), "{empty}");
        std::fs::write(&path, b"BZh91AY&SY........").expect("writable");
        let packed = ShardIndex::open(&path).expect_err("bzip2").to_string();
        assert!(packed.contains("bunzip2") && packed.contains("s.tar"), "{packed}");
    }

    /// Encodes a shard with these members in this order, as `tar` does.
    fn tar_of(members: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, text) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            builder.append_data(&mut header, name, text.as_bytes()).expect("to memory");
        }
        builder.into_inner().expect("to memory")
    }

    fn opened(bytes: &[u8]) -> (ShardIndex, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("s.tar");
        std::fs::write(&path, bytes).expect("writable");
        (ShardIndex::open(path).expect("a shard"), folder)
    }

    #[test]
    fn a_compressed_shard_is_read_as_it_is() {
        use std::io::Write;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("s.tar");
        write(&path, &three_samples());
        let bytes = std::fs::read(&path).expect("just written");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&bytes).expect("to memory");
        let gzip = gzip.finish().expect("to memory");
        let zstd = ruzstd::encoding::compress_to_vec(
            &bytes[..],
            ruzstd::encoding::CompressionLevel::Fastest,
        );
        for packed in [&gzip, &zstd] {
            let (shard, _folder) = opened(packed);
            assert_eq!((shard.len(), shard.truncated.as_deref()), (3, None));
            assert_eq!(shard.read(2).expect("third"), three_samples()[2]);
            let both = [&shard, &shard.clone()]
                .map(|shard| shard.samples().collect::<Result<Vec<_>, _>>());
            both.into_iter().for_each(|samples| assert_eq!(samples.expect("all"), three_samples()));
        }
        // If truncated, it gives the samples before the cut.
        let noise = |n: u32| {
            (0..2000_u32)
                .map(|i| char::from(33 + (i.wrapping_mul(n) >> 7) as u8 % 90))
                .collect::<String>()
        };
        let bytes = tar_of(&[
            ("a.txt", &noise(0x9e37_79b9)),
            ("b.txt", &noise(0x85eb_ca6b)),
            ("c.txt", "end"),
        ]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&bytes).expect("to memory");
        let gzip = gzip.finish().expect("to memory");
        let (shard, _folder) = opened(&gzip[..gzip.len() * 7 / 10]);
        assert_eq!((shard.len(), shard.key(0)), (1, Some("a")));
        assert!(
            shard.truncated.as_ref().is_some_and(|why| why.contains("sample b is left out")),
            "{shard:?}"
        );
    }

    #[test]
    fn the_first_of_two_parts_with_one_name_counts_and_the_other_is_reported() {
        let members = [
            ("a.jpg", "1"),
            ("a.txt", "one"),
            ("a.jpg", "2"),
            ("a.txt", "two"),
            ("b.jpg", "3"),
            ("b.txt", "b"),
        ];
        let (shard, _folder) = opened(&tar_of(&members));
        let samples: Vec<Sample> = shard.samples().map(|sample| sample.expect("whole")).collect();
        assert_eq!(
            samples,
            [
                sample("a", &[("jpg", "1"), ("txt", "one")]),
                sample("b", &[("jpg", "3"), ("txt", "b")])
            ]
        );
        assert_eq!(shard.duplicates, ["a.jpg", "a.txt"]);
        let warnings: Vec<String> = shard.warnings().collect();
        assert!(
            warnings.len() == 1
                && warnings[0].contains("2 members")
                && warnings[0].contains("s.tar"),
            "{warnings:?}"
        );
    }

    #[test]
    fn separated_parts_are_samples_of_their_own_and_reported() {
        let (shard, _folder) =
            opened(&tar_of(&[("a.jpg", "1"), ("b.jpg", "2"), ("a.txt", "a"), ("b.txt", "b")]));
        assert_eq!(
            (shard.len(), &shard.split_keys[..]),
            (4, &["a".to_owned(), "b".to_owned()][..])
        );
        let warnings: Vec<String> = shard.warnings().collect();
        assert!(
            warnings[0].contains("2 samples") && warnings[0].contains("--sort=name"),
            "{warnings:?}"
        );
        // A complete second sample with the same name is not a split sample.
        let again = [
            ("a.jpg", "1"),
            ("a.txt", "a"),
            ("b.jpg", "2"),
            ("b.txt", "b"),
            ("a.jpg", "3"),
            ("a.txt", "c"),
        ];
        let (shard, _folder) = opened(&tar_of(&again));
        assert_eq!((shard.len(), shard.warnings().count()), (3, 0));
    }

    // Results of webdataset 1.0.2 on the same shards: wds.WebDataset(path, shardshuffle=False,
    // handler=wds.warn_and_continue), with `len(s["txt"].splitlines())` of each sample.
    #[test]
    fn samples_and_texts_are_counted_as_by_webdataset() {
        let check = |members: &[(&str, &str)], keys: &[&str], n_texts: usize| {
            let (shard, _folder) = opened(&tar_of(members));
            let found: Vec<&str> = (0..shard.len()).filter_map(|idx| shard.key(idx)).collect();
            assert_eq!(found, keys);
            let captions = shard
                .samples()
                .filter_map(|sample| PhotoRecord::from_sample(&sample.expect("whole")).ok());
            assert_eq!(captions.map(|record| record.captions.len()).sum::<usize>(), n_texts);
        };
        check(
            &[("a.jpg", ""), ("a.txt", "1\n2\n3\n"), ("b.txt", "1"), ("b.JPG", "")],
            &["a", "b"],
            4,
        );
        check(
            &[("a.jpg", ""), ("b.jpg", ""), ("a.txt", "1"), ("b.txt", "2")],
            &["a", "b", "a", "b"],
            2,
        );
        check(&[("a.jpg", ""), ("a.txt", "1"), ("a.txt", "2\n3")], &["a"], 1);
        check(&[("x.1.jpg", ""), ("x.1.txt", "1"), ("x.2.jpg", ""), ("x.2.txt", "2")], &["x"], 0);
        check(
            &[("v1.0/a.txt", "1"), ("v1.0/a.jpg", ""), ("v1.1/a.txt", "2")],
            &["v1.0/a", "v1.1/a"],
            2,
        );
        check(&[("__info__/a.txt", "1"), ("README", "1"), ("a.txt", "2")], &["a"], 1);
    }

    #[test]
    fn an_unreadable_sample_is_not_written() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut writer = ShardWriter::create(folder.path().join("s.tar")).expect("writable");
        for (key, ext) in [("a.b", "jpg"), ("", "jpg"), ("a", ""), ("a", "JPG"), ("a/", "jpg")] {
            assert!(writer.write(&sample(key, &[(ext, "")])).is_err(), "{key:?} {ext:?}");
        }
        assert!(writer.write(&sample("a", &[("jpg", ""), ("jpg", "")])).is_err());
        writer.write(&sample("a", &[("jpg", "")])).expect("a valid sample");
        assert!(writer.write(&sample("a", &[("txt", "")])).is_err());
    }

    #[test]
    fn names_are_split_at_the_first_dot_of_the_last_part() {
        let split = |name| split_name(name).unwrap_or_default();
        assert_eq!(split("00000.jpg"), ("00000".into(), "jpg".into()));
        assert_eq!(split("./v1.0/7.seg.PNG"), ("v1.0/7".into(), "seg.png".into()));
        for other in ["a/._7.jpg", "README", "__info__/0.json"] {
            assert_eq!(split_name(other), None, "{other}");
        }
    }

    fn record(json: &str) -> Result<PhotoRecord, ShardError> {
        PhotoRecord::from_sample(&sample("7", &[("json", json)]))
    }

    #[test]
    fn a_record_has_captions_regions_and_ignores_the_rest() {
        let json = r#"{"captions": ["A dog ."], "width": 9, "split": "val",
            "regions": [{"box": [1, 2.5, 3, 4], "phrases": ["A dog"], "type": "animals", "n_boxes": 2},
                        {"box": [0, 0, 1, 1], "phrases": []}]}"#;
        let record = record(json).expect("a record");
        assert_eq!(
            (record.captions, record.width, record.height),
            (vec!["A dog .".into()], Some(9), None)
        );
        assert_eq!(record.regions[0].box_px, [1.0, 2.5, 3.0, 4.0]);
        assert_eq!(record.regions.iter().map(|region| region.n_boxes).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn captions_may_be_absent_when_there_is_a_class() {
        assert_eq!(record(r#"{"class": "cup"}"#).expect("a record").class, Some("cup".into()));
        assert_eq!(record(r#"{"class": null}"#).expect("a record").class, None);
        assert!(
            record("{}")
                .expect_err("nothing said")
                .to_string()
                .contains("no caption, class or region")
        );
        let regions = |phrases: &str| {
            record(&format!(r#"{{"regions": [{{"box": [0, 0, 1, 1], "phrases": {phrases}}}]}}"#))
        };
        assert_eq!(regions(r#"["a cup"]"#).expect("a named region").captions, Vec::<String>::new());
        assert!(regions("[]").is_err());
        assert!(record("{").expect_err("no JSON").to_string().contains("sample 7"));
    }

    #[test]
    fn a_text_part_is_the_caption() {
        let sample = sample("7", &[("jpg", ""), ("txt", "a dog\n")]);
        assert_eq!(PhotoRecord::from_sample(&sample).expect("a record").captions, ["a dog"]);
        assert!(sample.image().expect("a photo").is_empty());
    }

    fn captions(parts: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let record =
            PhotoRecord::from_sample(&sample("7", parts)).map_err(|error| error.to_string())?;
        Ok(record.captions)
    }

    #[test]
    fn a_text_has_a_caption_a_line() {
        let of_text = |text| captions(&[("jpg", ""), ("txt", text)]).expect("captions");
        assert_eq!(of_text("a dog\r\n\n  two dogs \nthree"), ["a dog", "two dogs", "three"]);
        assert_eq!(of_text("\u{feff}a dog"), ["a dog"]);
        for text in ["", " \n\n"] {
            assert!(captions(&[("txt", text)]).expect_err("nothing said").contains("no caption"));
        }
    }

    #[test]
    fn captions_of_a_record_are_a_list_or_a_text_under_any_of_their_names() {
        for (json, wanted) in [
            (r#"{"captions": ["a", "b"]}"#, vec!["a", "b"]),
            (r#"{"captions": "a"}"#, vec!["a"]),
            (r#"{"caption": "a", "url": "x", "key": "7", "sha256": null}"#, vec!["a"]),
            (r#"{"caption": ["a", "b"]}"#, vec!["a", "b"]),
            (r#"{"TEXT": "a", "URL": "x"}"#, vec!["a"]),
            (r#"{"text": "a"}"#, vec!["a"]),
            (r#"{"captions": null, "caption": "a"}"#, vec!["a"]),
            (r#"{"captions": ["a"], "caption": "b", "TEXT": "c"}"#, vec!["a"]),
            (r#"["a", "b"]"#, vec!["a", "b"]),
        ] {
            assert_eq!(captions(&[("json", json)]).expect(json), wanted, "{json}");
            // The .txt counts only if the record has no captions.
            assert_eq!(
                captions(&[("json", json), ("txt", "other")]).expect(json),
                wanted,
                "{json}"
            );
        }
        assert_eq!(
            captions(&[("json", r#"{"caption": null}"#), ("txt", "a\nb")]).expect("a text"),
            ["a", "b"]
        );
        for (json, wanted) in [
            (r#"{"captions": 7}"#, "\"captions\" is 7"),
            (r#"{"TEXT": ["a", 7]}"#, "list of texts"),
        ] {
            let error = captions(&[("json", json)]).expect_err("no texts");
            assert!(error.contains(wanted) && error.contains("sample 7"), "{error}");
        }
    }

    #[test]
    fn other_columns_of_a_captioned_record_are_ignored() {
        let json = r#"{"caption": "a dog", "width": 64.0, "height": null, "class": 7,
            "regions": null, "status": "success", "exif": "{}"}"#;
        let record = record(json).expect("a record");
        assert_eq!((record.captions, record.class), (vec!["a dog".into()], None));
        assert_eq!((record.width, record.height, record.regions.len()), (None, None, 0));
        // Without a caption, the class is all there is.
        let error = self::record(r#"{"class": 7}"#).expect_err("no name").to_string();
        assert!(error.contains("expected a string"), "{error}");
    }

    #[test]
    fn parts_may_have_names_before_their_extensions() {
        let nested = sample("7", &[("input.jpg", "pixels"), ("outputs.txt", "a dog")]);
        assert_eq!(nested.image_part().expect("a photo"), ("input.jpg", &b"pixels"[..]));
        assert_eq!(PhotoRecord::from_sample(&nested).expect("a record").captions, ["a dog"]);
        // The plain extension wins, then a main name.
        let masked = sample("7", &[("mask.png", "mask"), ("jpg", "pixels")]);
        assert_eq!(masked.image_part().expect("a photo").0, "jpg");
        let edited = sample("7", &[("target.jpg", "after"), ("input.jpg", "before")]);
        assert_eq!(edited.image_part().expect("a photo").0, "input.jpg");
        for ext in ["heic", "heif", "avif", "jfif", "webp"] {
            assert_eq!(
                sample("7", &[("json", ""), (ext, "")]).image_part().expect("a photo").0,
                ext
            );
        }
    }

    #[test]
    fn keys_with_dots_are_reported_with_the_rule() {
        // dog.1.jpg, dog.1.json, dog.2.jpg, dog.2.json
        let dogs =
            sample("dog", &[("1.jpg", ""), ("1.json", "{}"), ("2.jpg", ""), ("2.json", "{}")]);
        for error in [
            dogs.image().expect_err("two").to_string(),
            PhotoRecord::from_sample(&dogs).expect_err("two").to_string(),
        ] {
            assert!(
                error.contains("sample dog")
                    && error.contains("first dot")
                    && error.contains("1.j"),
                "{error}"
            );
        }
        let nothing =
            sample("7", &[("json", "{}"), ("mp3", "")]).image().expect_err("no photo").to_string();
        assert!(
            nothing.contains("sample 7") && nothing.contains(r#"["json", "mp3"]"#),
            "{nothing}"
        );
        assert!(nothing.contains("side by side"), "{nothing}");
    }

    #[test]
    fn the_shared_shards_are_read_whole() {
        let shared = std::env::var_os("MMGEM_SHARED").map_or_else(
            || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")),
            PathBuf::from,
        );
        for (name, n_samples) in [
            ("flickr8k-entities/flickr8k-entities-val-000.tar", 1000),
            ("objects/objects-train-000.tar", 2100),
        ] {
            let path = shared.join("data").join(name);
            if !path.exists() {
                eprintln!("SKIPPED: no data/{name}; set MMGEM_SHARED to the shared folder");
                return;
            }
            let shard = ShardIndex::open(path).expect("a whole shard");
            assert_eq!((shard.len(), shard.truncated.as_deref()), (n_samples, None));
            for sample in shard.samples() {
                let sample = sample.expect("a whole sample");
                PhotoRecord::from_sample(&sample).expect("a record");
                sample.image().expect("a photo");
            }
        }
    }
}
