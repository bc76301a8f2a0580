//! Reads files from a zip archive, one at a time, from several threads. Supports only what
//! benchmarks and PyTorch's checkpoints need.
//!
//! The crate `zip` (9.8, without default features) would add five crates to a cold build. It ignores
//! the directory's size, so it opens an archive whose size lies beyond the end of the file; here
//! that is an error.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use flate2::Crc;
use flate2::read::DeflateDecoder;

/// Record signatures of the format (APPNOTE.TXT 6.3.10, section 4.3).
const LOCAL: u32 = 0x0403_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END_64_LOCATOR: u32 = 0x0706_4b50;
const END_64: u32 = 0x0606_4b50;
/// Size of the end record without its comment, and with the longest comment.
const END_BYTES: usize = 22;
const LONGEST_END_BYTES: u64 = END_BYTES as u64 + 0xffff;
/// Sizes of the 64-bit locator, and of the fixed parts of a central entry and of a local header.
const LOCATOR_BYTES: usize = 20;
const CENTRAL_BYTES: usize = 46;
const LOCAL_BYTES: usize = 30;
/// Kind of the extra field with 64-bit numbers.
const EXTRA_64: u16 = 1;
/// Placeholder for a number that is in the extra field.
const IN_EXTRA: u64 = 0xffff_ffff;
/// Flag bit of an encrypted file.
const IS_ENCRYPTED: u16 = 1;

/// An archive whose directory has been read.
#[derive(Debug)]
pub struct ZipArchive {
    path: PathBuf,
    entries: HashMap<String, Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    method: u16,
    is_encrypted: bool,
    crc: u32,
    packed_bytes: u64,
    plain_bytes: u64,
    local_offset: u64,
}

impl ZipArchive {
    /// Opens an archive and reads its directory.
    ///
    /// # Errors
    /// If the file cannot be read or is not a complete zip archive. The text states the reason.
    pub fn open(path: &Path) -> Result<Self, String> {
        let damaged =
            || "it is not a whole zip archive (the list at its end cannot be read)".to_owned();
        let mut file = File::open(path).map_err(|e| e.to_string())?;
        let n_bytes = file.seek(SeekFrom::End(0)).map_err(|e| e.to_string())?;
        let tail_bytes = n_bytes.min(LONGEST_END_BYTES + LOCATOR_BYTES as u64);
        let tail = read_at(&mut file, n_bytes - tail_bytes, tail_bytes)?;
        let (offset, list_bytes) = find_directory(&mut file, &tail).ok_or_else(damaged)?;
        if offset.checked_add(list_bytes).is_none_or(|end| end > n_bytes) {
            return Err(damaged());
        }
        let list = read_at(&mut file, offset, list_bytes)?;
        let (mut entries, mut rest) = (HashMap::new(), list.as_slice());
        while u32_at(rest, 0) == Some(CENTRAL) {
            let (name, entry, n_bytes) = parse_directory_entry(rest).ok_or_else(damaged)?;
            entries.insert(name, entry);
            rest = &rest[n_bytes..];
        }
        Ok(Self { path: path.into(), entries })
    }

    /// Path of the archive.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the files inside, in arbitrary order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Returns the byte range, within the archive, of a file that is stored uncompressed.
    ///
    /// # Errors
    /// If the file is missing or compressed. The text states the reason.
    pub fn stored_range(&self, name: &str) -> Result<Range<u64>, String> {
        let entry = self
            .entries
            .get(name)
            .ok_or_else(|| format!("{name} is not in {}", self.path.display()))?;
        if entry.is_encrypted || entry.method != 0 || entry.packed_bytes != entry.plain_bytes {
            return Err(format!(
                "{name} is compressed, wanted stored (unpack the archive and zip it with zip -0)"
            ));
        }
        let start = start_of(&mut File::open(&self.path).map_err(|e| e.to_string())?, entry)?;
        let end = start.checked_add(entry.plain_bytes);
        end.map(|end| start..end)
            .ok_or_else(|| "the archive is damaged: it points beyond its own end".into())
    }

    /// Reads a file from the archive and verifies its checksum.
    ///
    /// # Errors
    /// If the file is missing, encrypted or damaged, or has an unsupported compression. The text
    /// states the reason.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, String> {
        let entry = self
            .entries
            .get(name)
            .ok_or_else(|| format!("it is not in {}", self.path.display()))?;
        if entry.is_encrypted {
            return Err("it is encrypted".into());
        }
        let mut file = File::open(&self.path).map_err(|e| e.to_string())?;
        let start = start_of(&mut file, entry)?;
        file.seek(SeekFrom::Start(start)).map_err(|e| e.to_string())?;
        let packed = file.take(entry.packed_bytes);
        let mut bytes = Vec::new();
        // Read at most one byte too many: this detects a file that is too long, without filling the
        // memory.
        let most = entry.plain_bytes.saturating_add(1);
        match entry.method {
            0 => packed.take(most).read_to_end(&mut bytes),
            8 => DeflateDecoder::new(packed).take(most).read_to_end(&mut bytes),
            other => {
                return Err(format!(
                    "it is compressed by method {other}, wanted stored or deflated (unpack the archive with unzip)"
                ));
            }
        }
        .map_err(|e| format!("it cannot be unpacked: {e}"))?;
        let mut crc = Crc::new();
        crc.update(&bytes);
        match bytes.len() as u64 == entry.plain_bytes && crc.sum() == entry.crc {
            true => Ok(bytes),
            false => Err("it is damaged: its checksum differs".into()),
        }
    }
}

/// Returns the offset of a file's data, which follows its local header.
fn start_of(file: &mut File, entry: &Entry) -> Result<u64, String> {
    let header = read_at(file, entry.local_offset, LOCAL_BYTES as u64)?;
    let lengths = (u32_at(&header, 0), u16_at(&header, 26), u16_at(&header, 28));
    let (Some(LOCAL), Some(name_bytes), Some(extra_bytes)) = lengths else {
        return Err("the archive is damaged: the header of the file is invalid".into());
    };
    Ok(entry.local_offset + LOCAL_BYTES as u64 + u64::from(name_bytes) + u64::from(extra_bytes))
}

/// Returns offset and size of the directory. `tail` is the end of the archive.
fn find_directory(file: &mut File, tail: &[u8]) -> Option<(u64, u64)> {
    // A comment may follow the record, so search from the end.
    let last = tail.len().checked_sub(END_BYTES)?;
    let end = (0..=last).rev().find(|at| {
        let comment = u16_at(tail, at + 20).map(usize::from);
        u32_at(tail, *at) == Some(END) && comment == Some(tail.len() - at - END_BYTES)
    })?;
    let locator =
        end.checked_sub(LOCATOR_BYTES).filter(|at| u32_at(tail, *at) == Some(END_64_LOCATOR));
    match locator {
        None => Some((u64::from(u32_at(tail, end + 16)?), u64::from(u32_at(tail, end + 12)?))),
        Some(at) => {
            let record = read_at(file, u64_at(tail, at + 8)?, 56).ok()?;
            (u32_at(&record, 0)? == END_64).then_some((u64_at(&record, 48)?, u64_at(&record, 40)?))
        }
    }
}

/// Parses an entry of the directory: file name, entry, and size of the entry in bytes.
fn parse_directory_entry(list: &[u8]) -> Option<(String, Entry, usize)> {
    let lengths = [28, 30, 32].map(|at| u16_at(list, at).map(usize::from));
    let [Some(name_bytes), Some(extra_bytes), Some(comment_bytes)] = lengths else { return None };
    let name = list.get(CENTRAL_BYTES..CENTRAL_BYTES + name_bytes)?;
    let extra = list.get(CENTRAL_BYTES + name_bytes..CENTRAL_BYTES + name_bytes + extra_bytes)?;
    let n_bytes = CENTRAL_BYTES + name_bytes + extra_bytes + comment_bytes;
    // Numbers that do not fit into 32 bits are in the extra field, in this order.
    let mut large = extra_64(extra).chunks_exact(8).map(|bytes| u64_at(bytes, 0));
    let mut number = |at: usize| match u64::from(u32_at(list, at)?) {
        IN_EXTRA => large.next()?,
        number => Some(number),
    };
    let (plain_bytes, packed_bytes, local_offset) = (number(24)?, number(20)?, number(42)?);
    let entry = Entry {
        method: u16_at(list, 10)?,
        is_encrypted: u16_at(list, 8)? & IS_ENCRYPTED != 0,
        crc: u32_at(list, 16)?,
        packed_bytes,
        plain_bytes,
        local_offset,
    };
    (list.len() >= n_bytes).then(|| (String::from_utf8_lossy(name).into_owned(), entry, n_bytes))
}

/// Returns the extra field with 64-bit numbers; empty if missing.
fn extra_64(mut extra: &[u8]) -> &[u8] {
    while let (Some(kind), Some(n_bytes)) = (u16_at(extra, 0), u16_at(extra, 2)) {
        let end = 4 + usize::from(n_bytes);
        match extra.get(4..end) {
            Some(field) if kind == EXTRA_64 => return field,
            Some(_) => extra = &extra[end..],
            None => break,
        }
    }
    &[]
}

fn read_at(file: &mut File, offset: u64, n_bytes: u64) -> Result<Vec<u8>, String> {
    let len_bytes = file.metadata().map_err(|e| e.to_string())?.len();
    // Check before allocating: a damaged archive may state any size.
    if offset.checked_add(n_bytes).is_none_or(|end| end > len_bytes) {
        return Err("the archive is damaged: it points beyond its own end".into());
    }
    let mut bytes = vec![0; usize::try_from(n_bytes).map_err(|e| e.to_string())?];
    file.seek(SeekFrom::Start(offset)).map_err(|e| e.to_string())?;
    file.read_exact(&mut bytes).map_err(|e| e.to_string())?;
    Ok(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/eval").join(name)
    }

    /// Archives from Python's zipfile (`tests/eval/make.py`): a stored file, a deflated file in a
    /// folder, and a comment at the end.
    #[test]
    fn archives_of_pythons_zipfile_are_read() {
        for name in ["files.zip", "files_64.zip"] {
            let archive = ZipArchive::open(&golden(name)).expect(name);
            assert_eq!(archive.read("a.txt").as_deref(), Ok(b"stored".as_slice()), "{name}");
            let long: Vec<u8> = (0..2000).flat_map(|i| format!("{i} ").into_bytes()).collect();
            assert_eq!(archive.read("in/b \u{e9}.txt"), Ok(long), "{name}");
            assert!(archive.read("b.txt").expect_err("it is not there").contains(name));
        }
    }

    #[test]
    fn damage_is_an_error() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.zip");
        let whole = std::fs::read(golden("files.zip")).expect("goldens");
        std::fs::write(&path, &whole[..whole.len() - 60]).expect("writable");
        assert!(
            ZipArchive::open(&path)
                .expect_err("its end is missing")
                .contains("not a whole zip archive")
        );
        let mut bytes = whole;
        let at = bytes.windows(6).position(|part| part == b"stored").expect("a file as it is");
        bytes[at] = b'S';
        std::fs::write(&path, bytes).expect("writable");
        let archive = ZipArchive::open(&path).expect("the list is whole");
        assert!(archive.read("a.txt").expect_err("a byte differs").contains("checksum"));
    }

    /// A golden archive with other bytes at offset `at` after the last `mark`.
    fn altered(name: &str, mark: u32, at: usize, number: &[u8]) -> Vec<u8> {
        let mut bytes = std::fs::read(golden(name)).expect("goldens");
        let mark = mark.to_le_bytes();
        let start =
            bytes.windows(4).rposition(|part| part == mark).expect("the archive has such a record");
        bytes[start + at..start + at + number.len()].copy_from_slice(number);
        bytes
    }

    /// The error from opening an archive and reading its files.
    fn error_of(bytes: &[u8]) -> String {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.zip");
        std::fs::write(&path, bytes).expect("writable");
        let read = |archive: ZipArchive| -> Result<(), String> {
            ["a.txt", "in/b \u{e9}.txt"].iter().try_for_each(|name| archive.read(name).map(drop))
        };
        ZipArchive::open(&path).and_then(read).expect_err("the archive was altered")
    }

    #[test]
    fn a_directory_beyond_the_end_is_an_error() {
        let far = 0xfff0_0000_u32.to_le_bytes();
        for at in [12, 16] {
            assert!(
                error_of(&altered("files.zip", END, at, &far)).contains("not a whole zip archive"),
                "{at}"
            );
        }
        for number in [u64::MAX, 1 << 62, 1 << 40] {
            let of = |mark, at| error_of(&altered("files_64.zip", mark, at, &number.to_le_bytes()));
            for error in [of(END_64, 40), of(END_64, 48), of(END_64_LOCATOR, 8)] {
                assert!(error.contains("not a whole zip archive"), "{number}: {error}");
            }
        }
    }

    #[test]
    fn a_file_beyond_the_end_is_refused_before_it_takes_memory() {
        // One byte past the last offset with room for a header, and the largest 32-bit offset
        // without an extra field.
        let len = std::fs::metadata(golden("files.zip")).expect("goldens").len() as u32;
        for offset in [len - LOCAL_BYTES as u32 + 1, 0xffff_fffe] {
            let error = error_of(&altered("files.zip", CENTRAL, 42, &offset.to_le_bytes()));
            assert!(error.contains("points beyond its own end"), "{offset}: {error}");
        }
        let packed = altered("files.zip", CENTRAL, 20, &0xffff_fff0_u32.to_le_bytes());
        let plain = altered("files.zip", CENTRAL, 24, &0xffff_fff0_u32.to_le_bytes());
        assert!(error_of(&plain).contains("damaged"));
        // Deflated data marks its own end, so a wrong size is harmless.
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.zip");
        std::fs::write(&path, packed).expect("writable");
        assert!(
            ZipArchive::open(&path).and_then(|archive| archive.read("in/b \u{e9}.txt")).is_ok()
        );
    }
}
