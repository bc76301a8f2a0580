//! WebDataset shards: tar files whose consecutive members with one key make a sample (`00000.jpg`,
//! `00000.json`).

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::image::BoxPx;

/// Size of a tar block; headers and data begin at multiples of it.
const BLOCK: u64 = 512;

/// Extensions under which a sample's photo is looked for.
const IMAGE_EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"];

/// Why a shard or a sample cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// The file system refused.
    #[error("cannot {action} the shard: {source}; check the path and its permissions\n  file: {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The shard.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Not a single whole sample in the file.
    #[error("found no whole sample ({reason}); wanted a tar file as WebDataset writes it: get the shard again\n  file: {}", path.display())]
    NotAShard {
        /// What stopped the reading.
        reason: String,
        /// The shard.
        path: PathBuf,
    },
    /// Two parts of one sample with the same extension.
    #[error("sample {key} has two .{ext} parts; wanted one of each: give every sample its own key\n  file: {}", path.display())]
    Duplicate {
        /// The sample.
        key: String,
        /// The extension met twice.
        ext: String,
        /// The shard.
        path: PathBuf,
    },
    /// An index past the last sample.
    #[error("sample {found} was asked for but the shard has {n_samples}\n  file: {}", path.display())]
    NoSample {
        /// Index asked for.
        found: usize,
        /// Samples in the shard.
        n_samples: usize,
        /// The shard.
        path: PathBuf,
    },
    /// A key or extension that a reader would split otherwise.
    #[error(
        "part {key:?} + {ext:?} cannot be named in a shard; wanted a key without dots or backslashes in its last part, and a lower-case extension"
    )]
    Name {
        /// The sample's key.
        key: String,
        /// The part's extension.
        ext: String,
    },
    /// Two samples in a row with one key, which a reader would join.
    #[error("two samples in a row have the key {0}; give each its own")]
    RepeatedKey(String),
    /// Captions that cannot be understood.
    #[error(
        "sample {key}: {reason}; wanted .json with \"captions\" or \"class\" (and \"regions\" with \"box\" and \"phrases\"), or .txt"
    )]
    Record {
        /// The sample's key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Consecutive members of a shard with one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Member name up to the first dot of its last part.
    pub key: String,
    /// What follows that dot, in lower case, and the bytes.
    pub parts: Vec<(String, Vec<u8>)>,
}

impl Sample {
    /// The bytes under an extension.
    pub fn get(&self, ext: &str) -> Option<&[u8]> {
        self.parts.iter().find(|part| part.0 == ext).map(|part| part.1.as_slice())
    }

    /// The photo's bytes, under whichever image extension comes first.
    pub fn image(&self) -> Option<&[u8]> {
        self.image_part().map(|(_, bytes)| bytes)
    }

    /// [`Self::image`] with its extension.
    pub fn image_part(&self) -> Option<(&str, &[u8])> {
        let part = self.parts.iter().find(|part| IMAGE_EXTENSIONS.contains(&part.0.as_str()))?;
        Some((&part.0, &part.1))
    }
}

/// Where one part of a sample lies in its shard.
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

/// The samples of a shard, found by reading its headers once; any of them can be read at any time, from any
/// thread.
#[derive(Debug, Clone)]
pub struct ShardIndex {
    path: PathBuf,
    samples: Vec<SamplePlace>,
    /// Why the shard ends early, when it does: the samples before the cut are whole, the one it hits is left
    /// out.
    pub truncated: Option<String>,
}

impl ShardIndex {
    /// Finds the samples of a shard without reading their data.
    ///
    /// A shard that was cut short gives the samples before the cut and says so in `truncated`.
    ///
    /// # Errors
    /// When the file cannot be read, holds no whole sample, or has two parts of one name.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, ShardError> {
        let path = path.into();
        let io = |source| ShardError::Io { action: "open", path: path.clone(), source };
        let file = File::open(&path).map_err(io)?;
        let len_bytes = file.metadata().map_err(io)?.len();

        let mut samples = Vec::new();
        let mut truncated = scan(BufReader::new(file), len_bytes, &path, &mut samples)?;
        if let Some(reason) = &mut truncated {
            // The cut may have taken parts of the last sample seen.
            let lost = samples.pop().map(|sample: SamplePlace| sample.key);
            if samples.is_empty() {
                return Err(ShardError::NotAShard { reason: reason.clone(), path });
            }
            if let Some(key) = lost {
                *reason = format!("{reason}; sample {key} is left out");
            }
        }
        Ok(Self { path, samples, truncated })
    }

    /// Number of whole samples.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there is no sample (a shard that was closed before anything was written).
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// The shard's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The key of a sample, if there is one at this index.
    pub fn key(&self, sample_idx: usize) -> Option<&str> {
        self.samples.get(sample_idx).map(|sample| sample.key.as_str())
    }

    /// Reads one sample.
    ///
    /// The file is opened anew each time: no lock between threads, no limit on the number of shards.
    ///
    /// # Errors
    /// When there is no such sample or the file changed or vanished.
    pub fn read(&self, sample_idx: usize) -> Result<Sample, ShardError> {
        let place = self.samples.get(sample_idx).ok_or_else(|| ShardError::NoSample {
            found: sample_idx,
            n_samples: self.samples.len(),
            path: self.path.clone(),
        })?;
        let io = |source| ShardError::Io { action: "read", path: self.path.clone(), source };
        let mut file = File::open(&self.path).map_err(io)?;
        let parts = place.parts.iter().map(|part| {
            let mut bytes = vec![0; part.len_bytes];
            file.seek(SeekFrom::Start(part.offset))?;
            file.read_exact(&mut bytes)?;
            Ok((part.ext.clone(), bytes))
        });
        let parts = parts.collect::<io::Result<_>>().map_err(io)?;
        Ok(Sample { key: place.key.clone(), parts })
    }

    /// All samples in order.
    pub fn samples(&self) -> impl Iterator<Item = Result<Sample, ShardError>> + '_ {
        (0..self.len()).map(|sample_idx| self.read(sample_idx))
    }
}

/// Collects the places of all samples; returns what cut the shard short, if anything did.
fn scan(
    file: BufReader<File>,
    len_bytes: u64,
    path: &Path,
    samples: &mut Vec<SamplePlace>,
) -> Result<Option<String>, ShardError> {
    let mut end_bytes = 0;
    let mut archive = tar::Archive::new(file);
    let entries = match archive.entries_with_seek() {
        Ok(entries) => entries,
        Err(error) => return Ok(Some(error.to_string())),
    };
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return Ok(Some(format!("after byte {end_bytes}: {error}"))),
        };
        let (offset, size) = (entry.raw_file_position(), entry.size());
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let part = if entry.header().entry_type().is_file() { split_name(&name) } else { None };
        if let Some((key, ext)) = part {
            add_part(samples, &key, PartPlace { ext, offset, len_bytes: size as usize }, path)?;
        }
        end_bytes = offset.saturating_add(size);
        if end_bytes > len_bytes {
            return Ok(Some(format!("{name} ends at byte {end_bytes} but the file at {len_bytes}")));
        }
    }
    // A whole tar ends with empty blocks.
    if end_bytes.next_multiple_of(BLOCK) >= len_bytes {
        return Ok(Some(format!("no end-of-archive mark after byte {end_bytes}")));
    }
    Ok(None)
}

fn add_part(
    samples: &mut Vec<SamplePlace>,
    key: &str,
    part: PartPlace,
    path: &Path,
) -> Result<(), ShardError> {
    match samples.last_mut() {
        Some(sample) if sample.key == key => {
            if sample.parts.iter().any(|other| other.ext == part.ext) {
                let (key, path) = (key.to_owned(), path.to_owned());
                return Err(ShardError::Duplicate { key, ext: part.ext, path });
            }
            sample.parts.push(part);
        }
        _ => samples.push(SamplePlace { key: key.to_owned(), parts: vec![part] }),
    }
    Ok(())
}

/// Key and extension of a member, as WebDataset splits them: at the first dot of the last part of the path.
/// Hidden files and files without extension belong to no sample.
pub(super) fn split_name(name: &str) -> Option<(String, String)> {
    let name = name.strip_prefix("./").unwrap_or(name);
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = base + name[base..].find('.')?;
    let ext = name[dot + 1..].to_lowercase();
    (dot > base && !ext.is_empty()).then(|| (name[..dot].to_owned(), ext))
}

/// Writes a shard under a temporary name; only [`ShardWriter::finish`] gives it its own, so that no half shard
/// is ever seen. The same samples make the same bytes.
pub struct ShardWriter {
    path: PathBuf,
    temporary: PathBuf,
    /// Taken by `finish`.
    builder: Option<tar::Builder<BufWriter<File>>>,
    last_key: Option<String>,
}

impl ShardWriter {
    /// Begins a shard that will be called `path`.
    ///
    /// # Errors
    /// When its folder cannot be written to.
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
    /// When the sample could not be read back as it is, or the disk is full.
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
            builder.append_data(&mut header, name, bytes.as_slice()).map_err(|source| ShardError::Io {
                action: "write",
                path: self.path.clone(),
                source,
            })?;
        }
        self.last_key = Some(sample.key.clone());
        Ok(())
    }

    /// Writes everything to the disk and gives the shard its name.
    ///
    /// # Errors
    /// When the disk is full or the name cannot be given.
    pub fn finish(mut self) -> Result<PathBuf, ShardError> {
        let builder = self.builder.take().expect("taken only here");
        let to_disk = || {
            let mut file = builder.into_inner()?;
            file.flush()?;
            file.get_ref().sync_all()?;
            drop(file);
            std::fs::rename(&self.temporary, &self.path)
        };
        let finished = to_disk();
        finished.map_err(|source| {
            // Left behind it would only be in the way; the first error is the one to tell.
            let _ = std::fs::remove_file(&self.temporary);
            ShardError::Io { action: "finish", path: self.path.clone(), source }
        })?;
        Ok(self.path.clone())
    }
}

impl Drop for ShardWriter {
    /// A shard that was not finished leaves nothing behind.
    fn drop(&mut self) {
        if self.builder.take().is_some() {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// A region of a photo and the phrases that name it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct RegionRecord {
    /// In pixels of the sample's image. Not checked here: see [`crate::image::check_box`].
    #[serde(rename = "box")]
    pub box_px: BoxPx,
    /// What people called it.
    pub phrases: Vec<String>,
    /// How many boxes the phrase spans; more than 1 means that this box alone is not what it says.
    #[serde(default = "one_box")]
    pub n_boxes: u32,
}

fn one_box() -> u32 {
    1
}

/// What a sample says about its photo.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct PhotoRecord {
    /// Sentences about the whole photo; may be empty when the photo has a class.
    #[serde(default)]
    pub captions: Vec<String>,
    /// Regions with phrases.
    #[serde(default)]
    pub regions: Vec<RegionRecord>,
    /// Name of the one thing shown. `null` stands for background clutter, which needs no caption either.
    pub class: Option<String>,
    /// Width the boxes refer to, if told.
    pub width: Option<u32>,
    /// Height the boxes refer to, if told.
    pub height: Option<u32>,
}

/// Tells a `class` that is null from one that is not there.
#[derive(Deserialize)]
struct HasClass {
    #[serde(rename = "class")]
    _class: IgnoredAny,
}

impl PhotoRecord {
    /// The record of a sample: its `.json` (unknown keys are passed over), its `.txt` as the caption if that
    /// has none.
    ///
    /// # Errors
    /// When the JSON is not as wanted, or nothing says what the photo shows.
    pub fn from_sample(sample: &Sample) -> Result<Self, ShardError> {
        let error = |reason| ShardError::Record { key: sample.key.clone(), reason };
        let mut record = match sample.get("json") {
            Some(json) => serde_json::from_slice::<Self>(json)
                .map_err(|cause| error(format!("the .json cannot be read: {cause}")))?,
            None => Self::default(),
        };
        if record.captions.is_empty()
            && let Some(text) = sample.get("txt")
        {
            let text = std::str::from_utf8(text)
                .map_err(|cause| error(format!("the .txt is not UTF-8: {cause}")))?;
            record.captions.push(text.trim().to_owned());
        }
        let has_class = |json| serde_json::from_slice::<HasClass>(json).is_ok();
        let names_region = record.regions.iter().any(|region| !region.phrases.is_empty());
        if record.captions.is_empty() && !names_region && !sample.get("json").is_some_and(has_class) {
            let found: Vec<_> = sample.parts.iter().map(|part| part.0.as_str()).collect();
            return Err(error(format!("no caption, class or region phrase in its parts {found:?}")));
        }
        Ok(record)
    }
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
            sample("a/00001", &[("jpg", &"x".repeat(1000)), ("json", "{\"a\":1}"), ("seg.png", "")]),
            sample("00002", &[("jpg", "more"), ("json", "")]),
        ]
    }

    fn write(path: &Path, samples: &[Sample]) {
        let mut writer = ShardWriter::create(path).expect("a writable folder");
        samples.iter().for_each(|sample| writer.write(sample).expect("a valid sample"));
        assert_eq!(writer.finish().expect("a writable folder"), path);
    }

    #[test]
    fn what_is_written_is_read_back_in_any_order() {
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
    fn what_is_no_shard_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("s.tar");
        let missing = ShardIndex::open(&path).expect_err("missing").to_string();
        assert!(missing.contains("cannot open the shard") && missing.contains("s.tar"), "{missing}");
        std::fs::write(&path, "hello, world ".repeat(100)).expect("writable");
        let text = ShardIndex::open(&path).expect_err("no tar").to_string();
        assert!(text.contains("found no whole sample"), "{text}");
    }

    #[test]
    fn what_could_not_be_read_back_is_not_written() {
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
        assert_eq!(split_name("a/._7.jpg"), None);
        assert_eq!(split_name("README"), None);
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
        assert_eq!((record.captions, record.width, record.height), (vec!["A dog .".into()], Some(9), None));
        assert_eq!(record.regions[0].box_px, [1.0, 2.5, 3.0, 4.0]);
        assert_eq!(record.regions.iter().map(|region| region.n_boxes).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn captions_may_be_absent_when_there_is_a_class() {
        assert_eq!(record(r#"{"class": "cup"}"#).expect("a record").class, Some("cup".into()));
        assert_eq!(record(r#"{"class": null}"#).expect("a record").class, None);
        assert!(record("{}").expect_err("nothing said").to_string().contains("no caption, class or region"));
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
        assert_eq!(sample.image(), Some(&[][..]));
    }

    #[test]
    fn the_shared_shards_are_read_whole() {
        let shared = std::env::var_os("MMGEM_SHARED").map_or_else(
            || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")),
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
                assert!(sample.image().is_some());
            }
        }
    }
}
