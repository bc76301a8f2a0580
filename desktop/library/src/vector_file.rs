//! A file beside the library with all image embeddings of a model, which searches map into memory.
//!
//! The library stays the only source. Triggers record the photos that changed since the file was
//! written (table `vector_change`). A search reads those photos from the library and all others
//! from the file. Earlier versions of the program fire the triggers too.
//!
//! A vector file never changes. Its name ends with a random stamp, and the library has the stamp of
//! the current file (table `vector_file`). So a copied or restored library cannot meet a file that
//! does not fit. [`Library::vector_store`] reads the library if the file is missing or truncated.
//! It writes a new file if the library has many photos, or many changes.
//!
//! Layout, little-endian: the header (magic, then stamp, dim and n as u64), `n * dim` codes, `n`
//! rows of `content` as i64 in ascending order, `n` scales as f32.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use memmap2::Mmap;
use mmgem_core::index::{Query, Vectors};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

use super::open::{BUSY, with_ending};
use super::search::VectorStore;
use super::{Library, Result, codes_from_bytes};

const MAGIC: [u8; 16] = *b"MMGEM-VECTORS-1\n";
const HEADER_BYTES: usize = 40;
/// Part of a vector file's name, between the library's name and the stamp.
const ENDING: &str = "-vectors-";
/// A library with fewer photos has no vector file: reading them takes a few milliseconds.
pub(super) const LEAST: usize = 10_000;

/// Number of changes after which a file of `n` photos is replaced.
fn most_changes(n: usize) -> usize {
    (n / 32).max(4096)
}

/// Triggers that record changes: name, event, condition, changed row of `content`, and the models
/// whose file it changes (`f` is a row of `vector_file`).
const TRIGGERS: [(&str, &str, &str, &str, &str); 7] = [
    ("vector_added", "INSERT ON image_vector", "TRUE", "new.content", "f.model = new.model"),
    ("vector_changed", "UPDATE ON image_vector", "TRUE", "new.content", "f.model = new.model"),
    ("vector_dropped", "DELETE ON image_vector", "TRUE", "old.content", "f.model = old.model"),
    ("file_added", "INSERT ON file", "new.content NOT NULL", "new.content", "TRUE"),
    ("file_dropped", "DELETE ON file", "old.content NOT NULL", "old.content", "TRUE"),
    (
        "file_left",
        "UPDATE ON file",
        "old.content NOT NULL AND old.content IS NOT new.content",
        "old.content",
        "TRUE",
    ),
    (
        "file_joined",
        "UPDATE ON file",
        "new.content NOT NULL AND old.content IS NOT new.content",
        "new.content",
        "TRUE",
    ),
];

/// Creates the triggers that are missing.
pub(super) fn make_triggers(db: &Connection) -> Result<()> {
    for (name, event, when, content, of_model) in TRIGGERS {
        // `INSERT OR IGNORE` would not do: the conflict clause of the statement that fires a
        // trigger overrides the trigger's own.
        db.execute_batch(&format!(
            "CREATE TRIGGER IF NOT EXISTS {name} AFTER {event} WHEN {when} BEGIN
                INSERT INTO vector_change (model, content)
                SELECT f.model, {content} FROM vector_file AS f WHERE {of_model} AND NOT EXISTS
                (SELECT 1 FROM vector_change AS c WHERE c.model = f.model
                AND c.content = {content});
            END"
        ))?;
    }
    Ok(())
}

/// Embeddings in a mapped file.
#[derive(Debug)]
pub(super) struct MappedVectors {
    bytes: Mmap,
    dim: usize,
    n: usize,
}

impl MappedVectors {
    /// Maps a vector file. `None` if it is missing, truncated, or not the one with this stamp.
    fn open(path: &Path, stamp: u64, dim: usize) -> Option<Self> {
        let file = File::open(path).ok()?;
        // SAFETY: the mapping is read-only, and this program never changes a vector file. If
        // another program truncates the file meanwhile, the system ends this process.
        let bytes = unsafe { Mmap::map(&file) }.ok()?;
        let n = word(bytes.get(32..HEADER_BYTES)?);
        let n = usize::try_from(n).ok()?;
        let is_whole = bytes.get(..32)? == header(stamp, dim, n).get(..32)?
            && Some(bytes.len()) == file_bytes(dim, n);
        is_whole.then_some(Self { bytes, dim, n })
    }

    /// Number of photos.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Row of `content`.
    pub fn content(&self, row: usize) -> i64 {
        let start = HEADER_BYTES + self.n * self.dim + 8 * row;
        word(&self.bytes[start..start + 8]).cast_signed()
    }

    /// Cosine of a photo with the query.
    pub fn score(&self, query: &Query, row: usize) -> f32 {
        let codes = HEADER_BYTES + self.dim * row;
        let scale = HEADER_BYTES + self.n * (self.dim + 8) + 4 * row;
        let scale = self.bytes[scale..scale + 4].try_into().expect("four bytes");
        query.score_bytes(&self.bytes[codes..codes + self.dim], f32::from_le_bytes(scale))
    }
}

fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

fn header(stamp: u64, dim: usize, n: usize) -> Vec<u8> {
    let words = [stamp, dim as u64, n as u64].map(u64::to_le_bytes);
    [MAGIC.as_slice(), words.as_flattened()].concat()
}

fn file_bytes(dim: usize, n: usize) -> Option<usize> {
    dim.checked_add(12)?.checked_mul(n)?.checked_add(HEADER_BYTES)
}

/// The vector file that a search may use, or the reason for its absence.
enum Found {
    /// A usable file, with the changes since.
    Usable { store: VectorStore, is_outdated: bool },
    /// None; the library has few photos.
    Few,
    /// None; the library has many photos.
    Missing,
}

impl Library {
    /// Reads the embeddings of all photos that have a file. Those of a large library are mapped
    /// into memory.
    ///
    /// # Errors
    /// When the library cannot be read.
    pub fn vector_store(&self) -> Result<VectorStore> {
        self.vector_store_from(LEAST)
    }

    /// [`Self::vector_store`] with a vector file for at least `least` photos.
    fn vector_store_from(&self, least: usize) -> Result<VectorStore> {
        match self.mapped_store(least)? {
            Ok(store) => Ok(store),
            Err(why) => self.read_store(why),
        }
    }

    /// Writes a new vector file if the library lacks one, or if it misses many changes. Without one,
    /// searches are slower.
    ///
    /// # Errors
    /// When the library cannot be read.
    pub(super) fn refresh_vector_file(&self) -> Result<()> {
        if let Err(Some(why)) = self.mapped_store(LEAST)? {
            tracing::warn!("searches will be slower: {why}");
        }
        Ok(())
    }

    /// The embeddings in the vector file, or the reason for its absence; `Err(None)` if the
    /// library has few photos.
    fn mapped_store(&self, least: usize) -> Result<Result<VectorStore, Option<String>>> {
        let outdated = match self.find_vector_file(least)? {
            Found::Few => return Ok(Err(None)),
            Found::Usable { store, is_outdated: false } => return Ok(Ok(store)),
            Found::Usable { store, is_outdated: true } => Some(store),
            Found::Missing => None,
        };
        let why = match (&self.file, self.is_read_only()) {
            (None, _) => return Ok(Err(None)),
            (_, true) => "the library is read-only and has no vector file".to_owned(),
            (Some(file), false) => match self.write_vector_file(file, least) {
                Ok(()) => match self.find_vector_file(least)? {
                    Found::Usable { store, .. } => return Ok(Ok(store)),
                    _ => "another program replaced the vector file".to_owned(),
                },
                Err(error) => format!("the vector file cannot be written beside it: {error}"),
            },
        };
        Ok(outdated.ok_or(Some(why)))
    }

    /// Maps the vector file and reads the changes since, all as of one moment.
    fn find_vector_file(&self, least: usize) -> Result<Found> {
        let _moment = Transaction::new_unchecked(&self.db, TransactionBehavior::Deferred)?;
        self.vector_file_now(least)
    }

    fn vector_file_now(&self, least: usize) -> Result<Found> {
        let sql = "SELECT stamp FROM vector_file WHERE model = ?1";
        let stamp: Option<i64> =
            self.db.prepare_cached(sql)?.query_row([self.model], |row| row.get(0)).optional()?;
        let mapped = stamp.zip(self.file.as_deref()).and_then(|(stamp, library)| {
            let stamp = stamp.cast_unsigned();
            MappedVectors::open(&vector_file(library, stamp), stamp, self.dim)
        });
        if let Some(mapped) = mapped {
            let changes = self.changes()?;
            let is_outdated = changes.contents.len() > most_changes(mapped.len());
            let store = changes.merged(Arc::new(mapped), self.dim)?;
            return Ok(Found::Usable { store, is_outdated });
        }
        let sql = "SELECT count(*) FROM (SELECT 1 FROM image_vector WHERE model = ?1 LIMIT ?2)";
        let n: i64 = self.db.query_row(sql, (self.model, least as i64), |row| row.get(0))?;
        Ok(if super::count(n) < least.max(1) { Found::Few } else { Found::Missing })
    }

    /// Photos that changed since the vector file was written.
    fn changes(&self) -> Result<Changes> {
        let sql = "SELECT c.content, v.scale, v.codes FROM vector_change AS c
            LEFT JOIN image_vector AS v ON v.model = c.model AND v.content = c.content
            AND EXISTS (SELECT 1 FROM file WHERE file.content = c.content)
            WHERE c.model = ?1 ORDER BY c.content";
        let mut rows = self.db.prepare_cached(sql)?;
        let mut rows = rows.query([self.model])?;
        let mut changes = Changes::default();
        while let Some(row) = rows.next()? {
            let scale: Option<f32> = row.get(1)?;
            changes.contents.push((row.get(0)?, scale.is_some()));
            if let Some(scale) = scale {
                changes.scales.push(scale);
                changes.codes.extend_from_slice(row.get_ref(2)?.as_blob()?);
            }
        }
        Ok(changes)
    }

    /// Reads all embeddings from the library itself; `slow` is the reason.
    fn read_store(&self, slow: Option<String>) -> Result<VectorStore> {
        let (mut contents, mut codes, mut scales) = (Vec::new(), Vec::new(), Vec::new());
        self.for_each_vector(|content, scale, row| {
            contents.push(content);
            scales.push(scale);
            codes.extend(row.iter().map(|code| code.cast_signed()));
            Ok(())
        })?;
        let vectors = Vectors::from_parts(self.dim, codes, scales)?;
        Ok(VectorStore { mapped: None, contents, vectors, places: None, slow })
    }

    /// Visits the embedding of each photo that has a file: row of `content`, scale, codes.
    fn for_each_vector(&self, mut visit: impl FnMut(i64, f32, &[u8]) -> Result<()>) -> Result<()> {
        let sql = "SELECT content, scale, codes FROM image_vector AS v WHERE model = ?1
            AND EXISTS (SELECT 1 FROM file WHERE file.content = v.content) ORDER BY content";
        let mut rows = self.db.prepare(sql)?;
        let mut rows = rows.query([self.model])?;
        while let Some(row) = rows.next()? {
            visit(row.get(0)?, row.get(1)?, row.get_ref(2)?.as_blob()?)?;
        }
        Ok(())
    }

    /// Writes a vector file, unless another process just did. Fails at once if another process is
    /// writing to the library.
    fn write_vector_file(&self, library: &Path, least: usize) -> Result<()> {
        self.db.busy_timeout(Duration::ZERO)?;
        let transaction = Transaction::new_unchecked(&self.db, TransactionBehavior::Immediate);
        self.db.busy_timeout(BUSY)?;
        let transaction = transaction?;
        if !matches!(
            self.vector_file_now(least)?,
            Found::Missing | Found::Usable { is_outdated: true, .. }
        ) {
            return Ok(());
        }
        let stamp: i64 = self.db.query_row("SELECT random()", [], |row| row.get(0))?;
        let path = vector_file(library, stamp.cast_unsigned());
        if let Err(error) = self.write_vectors(&path, stamp.cast_unsigned()) {
            // Half a file is useless. If it cannot be removed now, the next write removes it.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        self.db.execute(
            "INSERT OR REPLACE INTO vector_file (model, stamp) VALUES (?1, ?2)",
            (self.model, stamp),
        )?;
        self.db.execute("DELETE FROM vector_change WHERE model = ?1", [self.model])?;
        self.remove_vector_files(library)?;
        Ok(transaction.commit()?)
    }

    fn write_vectors(&self, path: &Path, stamp: u64) -> Result<()> {
        let mut file = BufWriter::with_capacity(1 << 20, File::create_new(path)?);
        file.write_all(&header(stamp, self.dim, 0))?;
        let (mut contents, mut scales) = (Vec::new(), Vec::new());
        self.for_each_vector(|content, scale, codes| {
            if codes.len() != self.dim {
                // Reports the lengths as the search without a file does.
                Vectors::from_parts(self.dim, codes_from_bytes(codes.to_vec()), vec![scale])?;
            }
            contents.extend_from_slice(&content.to_le_bytes());
            scales.extend_from_slice(&scale.to_le_bytes());
            Ok(file.write_all(codes)?)
        })?;
        file.write_all(&contents)?;
        file.write_all(&scales)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&header(stamp, self.dim, contents.len() / 8))?;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        // On disk before the library names it.
        Ok(file.sync_data()?)
    }

    /// Removes the vector files that the library does not name. Only for the process that holds the
    /// library's write lock, because another process may be writing one otherwise.
    fn remove_vector_files(&self, library: &Path) -> Result<()> {
        let mut rows = self.db.prepare("SELECT stamp FROM vector_file")?;
        let named: Vec<PathBuf> = rows
            .query_map([], |row| Ok(vector_file(library, row.get::<_, i64>(0)?.cast_unsigned())))?
            .collect::<rusqlite::Result<_>>()?;
        let start = with_ending(library, ENDING);
        let (Some(folder), Some(start)) = (start.parent(), start.file_name()) else {
            return Ok(());
        };
        let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
        for path in entries.flatten().map(|entry| entry.path()) {
            let stamp = path
                .file_name()
                .and_then(|name| name.as_encoded_bytes().strip_prefix(start.as_encoded_bytes()));
            let is_ours = stamp
                .is_some_and(|stamp| stamp.len() == 16 && stamp.iter().all(u8::is_ascii_hexdigit));
            if is_ours && !named.contains(&path) {
                // Windows refuses while another process searches; a later call removes it.
                let _ = fs::remove_file(&path);
            }
        }
        Ok(())
    }

    /// Removes all vector files of the library, for [`Library::compact`].
    pub(super) fn drop_vector_files(&self) -> Result<()> {
        let transaction = Transaction::new_unchecked(&self.db, TransactionBehavior::Immediate)?;
        self.db.execute_batch("DELETE FROM vector_file; DELETE FROM vector_change")?;
        if let Some(library) = &self.file {
            self.remove_vector_files(library)?;
        }
        Ok(transaction.commit()?)
    }
}

fn vector_file(library: &Path, stamp: u64) -> PathBuf {
    with_ending(library, &format!("{ENDING}{stamp:016x}"))
}

/// Photos that changed since a vector file was written.
#[derive(Default)]
struct Changes {
    /// Rows of `content`, ascending, and whether each still has an embedding and a file.
    contents: Vec<(i64, bool)>,
    /// Of those that have.
    codes: Vec<u8>,
    scales: Vec<f32>,
}

impl Changes {
    fn merged(self, mapped: Arc<MappedVectors>, dim: usize) -> Result<VectorStore> {
        let vectors = Vectors::from_parts(dim, codes_from_bytes(self.codes), self.scales)?;
        let n = mapped.len();
        let places = (!self.contents.is_empty()).then(|| {
            let mut places = Vec::with_capacity(n + vectors.len());
            let (mut row, mut n_read) = (0, 0);
            for (content, is_there) in &self.contents {
                let next = lower_bound(row..n, |row| mapped.content(row) < *content);
                places.extend(row..next);
                row = next;
                if row < n && mapped.content(row) == *content {
                    row += 1;
                }
                if *is_there {
                    places.push(n + n_read);
                    n_read += 1;
                }
            }
            places.extend(row..n);
            places
        });
        let contents =
            self.contents.iter().filter(|(_, is_there)| *is_there).map(|(content, _)| *content);
        Ok(VectorStore {
            contents: contents.collect(),
            mapped: Some(mapped),
            vectors,
            places,
            slow: None,
        })
    }
}

/// The first of `rows` for which `is_before` is false; the rows before it must come first.
pub(super) fn lower_bound(rows: Range<usize>, is_before: impl Fn(usize) -> bool) -> usize {
    let Range { mut start, mut end } = rows;
    while start < end {
        let middle = start + (end - start) / 2;
        if is_before(middle) {
            start = middle + 1;
        } else {
            end = middle;
        }
    }
    start
}

#[cfg(test)]
mod tests;
