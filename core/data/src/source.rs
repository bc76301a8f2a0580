//! Reads samples from many shards, and lines of text.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use mmgem_core::checkpoint::{HASH_START, hash_bytes};

use super::patterns::expand;
use super::webdataset::{KeptIndex, Sample, ShardError, ShardIndex};

/// Why training or evaluation data cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A pattern matches no file.
    #[error("no file fits {0:?}\n  hint: the pattern is relative to the working directory")]
    NoFile(String),
    /// A pattern is invalid.
    #[error("{pattern:?} is not a file pattern: {cause}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// Reason.
        cause: String,
    },
    /// Photos of Visual Genome were not found.
    #[error(
        "none of its photos is among the {found} numbered files of {folders:?}\n  hint: give the folders VG_100K and VG_100K_2, with photos named by their number\n  file: {}",
        .path.display()
    )]
    NoPhotos {
        /// Number of files whose names are numbers.
        found: usize,
        /// Folders that were searched.
        folders: Vec<PathBuf>,
        /// Path of the descriptions.
        path: PathBuf,
    },
    /// The sources do not fit together.
    #[error("[data] {0}")]
    Mixture(String),
    /// A shard cannot be read.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// None of several shards can be used.
    #[error("none of the {n} shards can be used; the first: {first}")]
    NoShard {
        /// Number of shards that match the patterns.
        n: usize,
        /// Error of the first shard.
        first: ShardError,
    },
    /// A text file cannot be read.
    #[error("cannot read the text: {cause}\n  file: {}", .path.display())]
    Text {
        /// Error of the system.
        cause: std::io::Error,
        /// Path of the file.
        path: PathBuf,
    },
}

/// The samples of many shards under one numbering.
#[derive(Debug, Clone, Default)]
pub struct Samples {
    shards: Vec<ShardIndex>,
    /// Shard, and index in the shard, of each sample.
    places: Vec<(u32, u32)>,
    /// Error messages of unusable shards.
    failed: Vec<String>,
}

impl Samples {
    /// Opens the shards that match the patterns, in the order of the patterns and the names.
    ///
    /// Uses at most `limit_per_shard` samples of each shard. Skips unusable shards and reports them
    /// by [`Self::warnings`].
    ///
    /// # Errors
    /// If a pattern matches no file, or no shard can be used.
    pub fn open(patterns: &[String], limit_per_shard: Option<usize>) -> Result<Self, SourceError> {
        let paths = expand(patterns)?;
        let shards = KeptIndex::default().open(&paths);
        Self::of(shards, limit_per_shard)
    }

    /// Opens shards for training: in an order that does not depend on their folders. They are
    /// sorted by their file names, then by the keys and positions of their samples.
    ///
    /// Reads the headers of those shards only that are not in `kept`, and adds them.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_for_training(
        patterns: &[String],
        limit_per_shard: Option<usize>,
        kept: &mut KeptIndex,
    ) -> Result<Self, SourceError> {
        let mut shards = kept.open(&expand(patterns)?);
        let place = |shard: &Result<ShardIndex, ShardError>| {
            let shard = shard.as_ref().ok()?;
            Some((shard.path().file_name()?.to_owned(), shard.content()))
        };
        shards.sort_by_cached_key(place);
        Self::of(shards, limit_per_shard)
    }

    fn of(
        opened: Vec<Result<ShardIndex, ShardError>>,
        limit_per_shard: Option<usize>,
    ) -> Result<Self, SourceError> {
        let mut samples = Self::default();
        let n_paths = opened.len();
        let mut first = None;
        for shard in opened {
            let shard = match shard {
                Ok(shard) => shard,
                Err(error) => {
                    samples.failed.push(error.to_string());
                    first.get_or_insert(error);
                    continue;
                }
            };
            let n = shard.len().min(limit_per_shard.unwrap_or(usize::MAX));
            samples.places.extend((0..n as u32).map(|idx| (samples.shards.len() as u32, idx)));
            samples.shards.push(shard);
        }
        match first {
            Some(first) if samples.shards.is_empty() && n_paths == 1 => Err(first.into()),
            Some(first) if samples.shards.is_empty() => {
                Err(SourceError::NoShard { n: n_paths, first })
            }
            _ => Ok(samples),
        }
    }

    /// Hash of the names and contents of all samples in their order, without the folders.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = hash_bytes(HASH_START, &(self.len() as u64).to_le_bytes());
        for shard in &self.shards {
            let name = shard.path().file_name().unwrap_or_default().to_string_lossy();
            hash = hash_bytes(hash, name.as_bytes());
            hash = hash_bytes(hash, &shard.content().to_le_bytes());
        }
        hash
    }

    /// Number of usable shards.
    pub fn n_shards(&self) -> usize {
        self.shards.len()
    }

    /// Size of a sample's photo in bytes, if the headers show it.
    pub fn image_bytes(&self, idx: usize) -> Option<usize> {
        let (shard, sample) = self.places[idx];
        self.shards[shard as usize].image_bytes(sample as usize)
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Drops all but the first `limit` samples.
    pub fn truncate(&mut self, limit: usize) {
        self.places.truncate(limit);
    }

    /// Reads one sample.
    pub fn read(&self, idx: usize) -> Result<Sample, ShardError> {
        let (shard, sample) = self.places[idx];
        self.shards[shard as usize].read(sample as usize)
    }

    /// Name of a sample for messages: key and shard.
    pub fn name(&self, idx: usize) -> String {
        let (shard, sample) = self.places[idx];
        let shard = &self.shards[shard as usize];
        format!("{} in {}", shard.key(sample as usize).unwrap_or("?"), shard.path().display())
    }

    /// Finds a file beside the first shard, or one folder up.
    pub fn beside(&self, name: &str) -> Option<PathBuf> {
        let folder = self.shards.first()?.path().parent()?;
        [Some(folder), folder.parent()]
            .into_iter()
            .flatten()
            .map(|f| f.join(name))
            .find(|path| path.is_file())
    }

    /// Warnings about shards that are unusable or truncated, or have unexpected members.
    pub fn warnings(&self) -> impl Iterator<Item = String> + '_ {
        self.failed.iter().cloned().chain(self.shards.iter().flat_map(ShardIndex::warnings))
    }
}

/// Reads the non-empty lines of a text file, gzipped (`.gz`) or plain.
pub fn read_lines(path: &Path) -> Result<Vec<String>, SourceError> {
    let failed = |cause| SourceError::Text { cause, path: path.to_owned() };
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    if path.extension().is_some_and(|ext| ext == "gz") {
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).map_err(failed)?;
    } else {
        std::io::BufReader::new(file).read_to_string(&mut text).map_err(failed)?;
    }
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webdataset::ShardWriter;

    #[test]
    fn a_bad_shard_is_skipped_and_reported() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        for name in ["a.tar", "c.tar"] {
            let mut writer = ShardWriter::create(path(name)).expect("writable");
            let parts = vec![("txt".to_owned(), b"a dog".to_vec())];
            writer.write(&Sample { key: name.replace('.', "-"), parts }).expect("a valid sample");
            writer.finish().expect("writable");
        }
        std::fs::write(path("b.tar"), "").expect("writable");
        std::fs::write(path("d.tar"), "no tar at all").expect("writable");
        let open = |pattern: &str| Samples::open(&[path(pattern).display().to_string()], None);
        let samples = open("*.tar").expect("two shards are left");
        assert_eq!(
            (samples.len(), samples.read(1).expect("a sample").key),
            (2, "c-tar".to_owned())
        );
        let warnings: Vec<String> = samples.warnings().collect();
        assert!(
            warnings.len() == 2 && warnings[0].contains("empty") && warnings[0].contains("b.tar"),
            "{warnings:?}"
        );

        let kept = &mut KeptIndex::default();
        let training =
            Samples::open_for_training(&[path("*.tar").display().to_string()], None, kept);
        let training = training.expect("two shards are left");
        assert_eq!((training.len(), training.warnings().count()), (2, 2));

        let error = open("{b,d}.tar").expect_err("none is left").to_string();
        assert!(error.starts_with("none of the 2 shards") && error.contains("b.tar"), "{error}");
        let error = open("b.tar").expect_err("the only one").to_string();
        assert!(error.starts_with("found no whole sample (the file is empty)"), "{error}");
    }
}
