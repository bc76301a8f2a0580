//! Keeps the positions of shards' samples on disk, so that a shard's headers are read only once.
//!
//! The file belongs to a run. A shard is identified by its file name, size and modification time,
//! so the data may move to another folder. A shard with another size or time is indexed again.
//!
//! Layout: [`MARK`]; for each shard its name, size, time, a hash of the positions and the
//! positions; a hash of all that. Numbers are in LEB128.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use mmgem_core::checkpoint::{HASH_START, hash_bytes};
use rayon::prelude::*;

use super::{PartPlace, SamplePlace, ShardError, ShardIndex, split_keys};
use crate::files::{FolderError, write_atomic};

/// First bytes of the file, with the version of its layout.
const MARK: &[u8] = b"mmgem shards 1\n";

/// Identity of a shard, whatever its folder.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ShardId {
    name: String,
    len_bytes: u64,
    modified_ns: u64,
}

/// The positions of one shard's samples, encoded.
#[derive(Clone, Debug)]
struct Entry {
    /// Hash of `positions`.
    content: u64,
    positions: Vec<u8>,
    /// Why the shard is truncated, if it is.
    truncated: Option<String>,
    duplicates: Vec<String>,
}

/// Positions of the samples of many shards.
#[derive(Debug, Default)]
pub struct KeptIndex {
    entries: HashMap<ShardId, Entry>,
    /// Number of shards that were indexed although the file has a shard of the same name.
    n_stale: usize,
    /// Number of shards that were indexed.
    n_new: usize,
    /// Why the file was not used, if it is damaged.
    damaged: Option<String>,
    /// Shards that were opened. Only these are written.
    used: HashSet<ShardId>,
    /// Whether `open` adds entries.
    keeps: bool,
}

impl KeptIndex {
    /// Reads the file if it exists. A damaged file counts as empty.
    pub fn read(path: &Path) -> Self {
        let read = || -> Result<HashMap<ShardId, Entry>, String> {
            match fs::read(path) {
                Ok(bytes) => decode_file(&bytes).ok_or_else(|| "it is damaged".into()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(HashMap::new()),
                Err(error) => Err(error.to_string()),
            }
        };
        let (entries, damaged) = match read() {
            Ok(entries) => (entries, None),
            Err(why) => {
                let warning = format!(
                    "the index of the shards is made again: {why}\n  file: {}",
                    path.display()
                );
                (HashMap::new(), Some(warning))
            }
        };
        Self { entries, damaged, keeps: true, ..Self::default() }
    }

    /// Writes the file, if it lacks a shard that was opened.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), FolderError> {
        if self.n_new == 0 {
            return Ok(());
        }
        let mut ids: Vec<&ShardId> = self.used.iter().collect();
        ids.sort_unstable_by_key(|id| (&id.name, id.len_bytes, id.modified_ns));
        let mut bytes = MARK.to_vec();
        for id in ids {
            let Some(entry) = self.entries.get(id) else { continue };
            let Entry { content, positions, truncated, duplicates } = entry;
            put_text(&mut bytes, &id.name);
            put_number(&mut bytes, id.len_bytes);
            put_number(&mut bytes, id.modified_ns);
            put_number(&mut bytes, *content);
            put_bytes(&mut bytes, positions);
            put_text(&mut bytes, truncated.as_deref().unwrap_or_default());
            put_number(&mut bytes, duplicates.len() as u64);
            duplicates.iter().for_each(|name| put_text(&mut bytes, name));
        }
        let hash = hash_bytes(HASH_START, &bytes);
        bytes.extend(hash.to_le_bytes());
        write_atomic(path, &bytes)
    }

    /// Number of shards that were indexed and not found in the file.
    pub fn n_new(&self) -> usize {
        self.n_new
    }

    /// Warnings about the file, for the user.
    pub fn warnings(&self) -> impl Iterator<Item = String> + '_ {
        let stale = (self.n_stale > 0).then(|| {
            format!("{} shards changed since they were indexed and are indexed again", self.n_stale)
        });
        self.damaged.clone().into_iter().chain(stale)
    }

    /// Opens shards in parallel, in the order of `paths`. Reads only the headers of shards whose
    /// positions are not known.
    pub fn open(&mut self, paths: &[PathBuf]) -> Vec<Result<ShardIndex, ShardError>> {
        let ids: Vec<Option<ShardId>> = paths.par_iter().map(|path| ShardId::of(path)).collect();
        // Shards of several folders may share name, size and time. Their positions may differ.
        let mut counts: HashMap<&ShardId, usize> = HashMap::new();
        ids.iter().flatten().for_each(|id| *counts.entry(id).or_default() += 1);
        let known = |id: &Option<ShardId>| match id {
            Some(id) if counts[id] == 1 => self.entries.get(id),
            _ => None,
        };
        let opened: Vec<Opened> = paths
            .par_iter()
            .zip(&ids)
            .map(|(path, id)| match known(id).and_then(|entry| entry.index(path)) {
                Some(shard) => (Ok(shard), true),
                None => (ShardIndex::open(path), false),
            })
            .collect();
        if self.keeps {
            self.add(&ids, &opened, &counts);
        }
        opened.into_iter().map(|(shard, _)| shard).collect()
    }
}

/// A shard, and whether its positions were known.
type Opened = (Result<ShardIndex, ShardError>, bool);

impl KeptIndex {
    /// Adds the shards that were not known. Leaves out compressed shards, whose positions are those
    /// of a temporary file, and shards that others look like.
    fn add(
        &mut self,
        ids: &[Option<ShardId>],
        opened: &[Opened],
        counts: &HashMap<&ShardId, usize>,
    ) {
        let names: HashSet<String> = self.entries.keys().map(|id| id.name.clone()).collect();
        for (id, (shard, was_known)) in ids.iter().zip(opened) {
            let (Some(id), Ok(shard)) = (id, shard) else { continue };
            if counts[id] > 1 || shard.unpacked.is_some() {
                continue;
            }
            self.used.insert(id.clone());
            if !was_known {
                self.n_new += 1;
                self.n_stale += usize::from(names.contains(&id.name));
                self.entries.insert(id.clone(), Entry::of(shard));
            }
        }
    }
}

impl ShardId {
    /// `None` if the file cannot be read.
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        let modified = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(Self {
            name: path.file_name()?.to_str()?.to_owned(),
            len_bytes: metadata.len(),
            modified_ns: u64::try_from(modified.as_nanos()).ok()?,
        })
    }
}

impl Entry {
    fn of(shard: &ShardIndex) -> Self {
        let positions = encode(&shard.samples);
        Self {
            content: shard.content,
            positions,
            truncated: shard.truncated.clone(),
            duplicates: shard.duplicates.clone(),
        }
    }

    /// The index of the shard at `path`. `None` if the file cannot be read.
    fn index(&self, path: &Path) -> Option<ShardIndex> {
        // An unreadable shard must fail here as it does without the file.
        File::open(path).ok()?.read_exact(&mut [0]).ok()?;
        let samples = decode(&self.positions)?;
        Some(ShardIndex {
            path: path.to_owned(),
            unpacked: None,
            split_keys: split_keys(&samples),
            content: self.content,
            truncated: self.truncated.clone(),
            duplicates: self.duplicates.clone(),
            samples,
        })
    }
}

/// Hash of the samples' keys and positions: the same for copies of a shard.
pub(super) fn content(samples: &[SamplePlace]) -> u64 {
    hash_bytes(HASH_START, &encode(samples))
}

fn encode(samples: &[SamplePlace]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_number(&mut bytes, samples.len() as u64);
    let mut end = 0;
    for SamplePlace { key, parts } in samples {
        put_text(&mut bytes, key);
        put_number(&mut bytes, parts.len() as u64);
        for PartPlace { ext, offset, len_bytes } in parts {
            put_text(&mut bytes, ext);
            put_number(&mut bytes, offset.wrapping_sub(end));
            put_number(&mut bytes, *len_bytes as u64);
            end = offset + *len_bytes as u64;
        }
    }
    bytes
}

fn decode(bytes: &[u8]) -> Option<Vec<SamplePlace>> {
    let mut reader = Bytes(bytes);
    let n_samples = reader.count()?;
    let mut end = 0_u64;
    let mut samples = Vec::with_capacity(n_samples);
    for _ in 0..n_samples {
        let key = reader.text()?;
        let n_parts = reader.count()?;
        let mut parts = Vec::with_capacity(n_parts);
        for _ in 0..n_parts {
            let ext = reader.text()?;
            let offset = end.wrapping_add(reader.number()?);
            let len_bytes = usize::try_from(reader.number()?).ok()?;
            end = offset.checked_add(len_bytes as u64)?;
            parts.push(PartPlace { ext, offset, len_bytes });
        }
        samples.push(SamplePlace { key, parts });
    }
    reader.0.is_empty().then_some(samples)
}

fn decode_file(bytes: &[u8]) -> Option<HashMap<ShardId, Entry>> {
    let (rest, hash) = bytes.split_last_chunk::<8>()?;
    if hash_bytes(HASH_START, rest) != u64::from_le_bytes(*hash) {
        return None;
    }
    let mut reader = Bytes(rest.strip_prefix(MARK)?);
    let mut entries = HashMap::new();
    while !reader.0.is_empty() {
        let name = reader.text()?;
        let id = ShardId { name, len_bytes: reader.number()?, modified_ns: reader.number()? };
        let content = reader.number()?;
        let positions = reader.bytes()?.to_vec();
        let truncated = Some(reader.text()?).filter(|why| !why.is_empty());
        let duplicates = (0..reader.count()?).map(|_| reader.text()).collect::<Option<_>>()?;
        entries.insert(id, Entry { content, positions, truncated, duplicates });
    }
    Some(entries)
}

fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn put_bytes(bytes: &mut Vec<u8>, part: &[u8]) {
    put_number(bytes, part.len() as u64);
    bytes.extend_from_slice(part);
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_bytes(bytes, text.as_bytes());
}

/// Bytes that are not decoded yet.
struct Bytes<'b>(&'b [u8]);

impl<'b> Bytes<'b> {
    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    /// A number of items, each of which takes at least one byte.
    fn count(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok().filter(|n| *n <= self.0.len())
    }

    fn bytes(&mut self) -> Option<&'b [u8]> {
        let n = self.count()?;
        let (part, rest) = self.0.split_at(n);
        self.0 = rest;
        Some(part)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webdataset::{Sample, ShardWriter};

    fn write(path: &Path, keys: &[&str], text: &str) {
        let mut writer = ShardWriter::create(path).expect("writable");
        for key in keys {
            let parts = vec![("jpg".into(), vec![7; 700]), ("txt".into(), text.into())];
            writer.write(&Sample { key: (*key).into(), parts }).expect("a valid sample");
        }
        writer.finish().expect("writable");
    }

    fn open(index: &mut KeptIndex, paths: &[PathBuf]) -> Vec<ShardIndex> {
        index.open(paths).into_iter().map(|shard| shard.expect("a shard")).collect()
    }

    #[test]
    fn a_kept_index_reads_the_same_samples_without_the_headers() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        write(&path("a.tar"), &["0", "1"], "a dog");
        write(&path("b.tar"), &["2"], "a cat");
        let whole = fs::read(path("a.tar")).expect("written");
        // Within the second sample.
        fs::write(path("c.tar"), &whole[..4000]).expect("writable");
        let paths = ["a.tar", "b.tar", "c.tar"].map(path);
        let mut index = KeptIndex::read(&path("index"));
        let first = open(&mut index, &paths);
        assert_eq!(index.n_new(), 3);
        index.write(&path("index")).expect("writable");

        let mut index = KeptIndex::read(&path("index"));
        let second = open(&mut index, &paths);
        assert_eq!((index.n_new(), index.warnings().count()), (0, 0));
        for (first, second) in first.iter().zip(&second) {
            assert_eq!(first.samples, second.samples);
            assert_eq!(first.content, second.content);
            assert_eq!(first.warnings().collect::<Vec<_>>(), second.warnings().collect::<Vec<_>>());
        }
        assert_eq!(second[1].read(0).expect("a sample").get("txt"), Some(&b"a cat"[..]));
        assert!(first[2].truncated.is_some());

        // The headers are not read again: a shard with other bytes but the same identity is not
        // noticed.
        let modified = fs::metadata(path("b.tar")).and_then(|m| m.modified()).expect("it is there");
        let len = fs::metadata(path("b.tar")).expect("it is there").len();
        fs::write(path("b.tar"), vec![0; len as usize]).expect("writable");
        File::options()
            .write(true)
            .open(path("b.tar"))
            .and_then(|file| file.set_modified(modified))
            .expect("a time");
        assert_eq!(open(&mut index, &[path("b.tar")])[0].len(), 1);
    }

    #[test]
    fn a_moved_shard_is_known_and_a_changed_one_is_indexed_again() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("old")).expect("writable");
        write(&path("old/a.tar"), &["0", "1"], "a dog");
        write(&path("old/b.tar"), &["2"], "a cat");
        let mut index = KeptIndex::read(&path("index"));
        open(&mut index, &[path("old/a.tar"), path("old/b.tar")]);
        index.write(&path("index")).expect("writable");
        fs::rename(path("old"), path("new")).expect("writable");
        write(&path("new/b.tar"), &["3", "4"], "a bird");
        let mut index = KeptIndex::read(&path("index"));
        let shards = open(&mut index, &[path("new/a.tar"), path("new/b.tar")]);
        assert_eq!((shards[0].len(), shards[1].len(), index.n_new()), (2, 2, 1));
        let warnings: Vec<String> = index.warnings().collect();
        assert!(warnings[0].contains("1 shards changed"), "{warnings:?}");
    }

    #[test]
    fn shards_that_look_alike_are_each_indexed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        for (name, key) in [("x", "0"), ("y", "1")] {
            fs::create_dir(path(name)).expect("writable");
            write(&path(name).join("a.tar"), &[key], "a dog");
            File::options()
                .write(true)
                .open(path(name).join("a.tar"))
                .and_then(|file| file.set_modified(UNIX_EPOCH))
                .expect("a time");
        }
        let mut index = KeptIndex::read(&path("index"));
        for _ in 0..2 {
            let shards = open(&mut index, &[path("x/a.tar"), path("y/a.tar")]);
            assert_eq!((shards[0].key(0), shards[1].key(0)), (Some("0"), Some("1")));
        }
    }

    #[test]
    fn a_damaged_index_is_reported_and_made_again() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        write(&path("a.tar"), &["0"], "a dog");
        let mut index = KeptIndex::read(&path("index"));
        open(&mut index, &[path("a.tar")]);
        index.write(&path("index")).expect("writable");
        let whole = fs::read(path("index")).expect("written");
        let mut flipped = whole.clone();
        flipped[20] ^= 1;
        for damaged in [&whole[..whole.len() - 3], &flipped, b""] {
            fs::write(path("index"), damaged).expect("writable");
            let mut index = KeptIndex::read(&path("index"));
            assert_eq!(open(&mut index, &[path("a.tar")])[0].len(), 1);
            let warnings: Vec<String> = index.warnings().collect();
            assert!(warnings[0].contains("made again") && index.n_new() == 1, "{warnings:?}");
        }
    }
}
