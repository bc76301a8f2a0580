//! The photo library: files, their metadata, thumbnails and each model's embeddings, in one SQLite
//! file.
//!
//! A photo is its content, identified by the hash of its bytes: copies and moved files share one
//! row of `content`, so only new content is encoded. Embeddings belong to a model and a
//! `PREPROCESSING` version; embeddings of other models stay beside them. The embeddings of regions
//! are pooled from the same patch tokens as the whole photo's.
//!
//! Readers (hash, metadata, scaled decode, thumbnail, resize) run beside the encoder behind a
//! bounded channel, and so does the writer. Each transaction writes a few photos, so the library is
//! valid even if the program is killed.
//!
//! A large library has its embeddings also in a file that searches map into memory
//! (`vector_file.rs`).
//!
//! The library also stores embeddings of searched texts (`text_cache.rs`) and measured cut-offs
//! (`cutoffs.rs`), in tables that older versions of the program ignore.
//!
//! Start with the path of a photo and of a query:
//! - [`photos::walk`] finds the files below some folders, [`Library::open`] opens the library, and
//!   [`Library::update`] (`indexer.rs`) reads and embeds new content.
//! - [`query::Query`] parses and embeds a query, [`Library::vector_store`] reads all embeddings,
//!   and [`Library::search`] (`search.rs`) ranks them. A search scores every embedding.
//!
//! The crate prints nothing. Callers get progress through [`IndexObserver`], and problems as values
//! and as [`LibraryError`]. The tables are below, in `SCHEMA`, `COLUMNS` and `TABLES`.

#![warn(missing_docs)]
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

mod cutoffs;
mod dates;
mod duplicates;
mod error;
mod examples;
mod exchange;
mod excludes;
mod folders;
mod indexer;
mod marks;
mod metadata;
pub mod names;
mod open;
mod paths;
pub mod photos;
pub mod query;
mod search;
mod sidecars;
mod text_cache;
mod uris;
mod vector_file;
mod watch;

use std::path::PathBuf;

use mmgem_core::image::BoxPx;
use mmgem_core::index::Vectors;
use rusqlite::{Connection, OptionalExtension, params};

pub use cutoffs::Cutoff;
pub use dates::{DateSource, PhotoDate, date_in_words, second_in_words, start_of_day};
pub use error::{LibraryError, Result, root_on_one_line};
pub use exchange::ImportedIndex;
pub use indexer::{IndexObserver, Indexing, Summary};
#[doc(hidden)]
pub use indexer::{encode_alone, read_alone};
pub use marks::{Mark, MarkChange};
pub use metadata::PhotoMetadata;
pub use paths::simplified_path;
pub use search::{Photo, PhotoFilter, Ranked, SearchHit, SearchOptions, VectorStore};
pub use text_cache::{MemoryTextCache, TextCache};
pub use watch::Changes;

/// Version of decoding, scaling and choice of boxes. Raise it when the same photo and model give
/// other embeddings.
const PREPROCESSING: i64 = 2;
/// Version of the decoders. Raise it when more formats can be read: unreadable files are then tried
/// again.
const READERS: i64 = 3;
/// Version of [`PhotoMetadata`]. Raise it when more is found: files without a date of their own are
/// then read again.
const METADATA: i64 = 1;
/// `PRAGMA user_version` of a library with the tables below.
const SCHEMA_VERSION: i64 = 1;
/// `PRAGMA application_id` of every library: "MMGL".
const APPLICATION_ID: i64 = 0x4d4d_474c;

const SCHEMA: &str = "
CREATE TABLE model (
    id INTEGER PRIMARY KEY,
    fingerprint INTEGER NOT NULL,
    preprocessing INTEGER NOT NULL,
    dim INTEGER NOT NULL,
    UNIQUE (fingerprint, preprocessing)
);
CREATE TABLE content (
    id INTEGER PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,      -- BLAKE3 of the file's bytes
    format TEXT NOT NULL,
    width INTEGER NOT NULL,         -- as a person sees it, in pixels
    height INTEGER NOT NULL,
    taken_secs INTEGER,             -- the camera's clock, in seconds since 1970 there
    camera TEXT,
    latitude REAL,
    longitude REAL,
    look INTEGER NOT NULL           -- 64 bits that change little when the picture does
);
CREATE TABLE thumbnail (content INTEGER PRIMARY KEY REFERENCES content, jpeg BLOB NOT NULL);
CREATE TABLE file (
    id INTEGER PRIMARY KEY,
    path BLOB NOT NULL UNIQUE,      -- the bytes of the system, in whatever encoding
    size_bytes INTEGER NOT NULL,
    modified_ns INTEGER NOT NULL,
    content INTEGER REFERENCES content,
    problem TEXT                    -- why it has no content
);
CREATE INDEX file_content ON file (content);
CREATE TABLE image_vector (
    model INTEGER NOT NULL REFERENCES model,
    content INTEGER NOT NULL REFERENCES content,
    scale REAL NOT NULL,
    codes BLOB NOT NULL,
    PRIMARY KEY (model, content)
) WITHOUT ROWID;
CREATE TABLE region_vectors (
    model INTEGER NOT NULL REFERENCES model,
    content INTEGER NOT NULL REFERENCES content,
    boxes BLOB NOT NULL,            -- 4 little-endian f32 each
    scales BLOB NOT NULL,           -- a little-endian f32 each
    codes BLOB NOT NULL,
    PRIMARY KEY (model, content)
);
";

/// Columns that libraries of earlier versions lack and those versions ignore: table, name, type.
const COLUMNS: [(&str, &str, &str); 11] = [
    // Photos of the same picture share this number. NULL: not compared yet.
    ("content", "family", "INTEGER"),
    // The source of `taken_secs`.
    ("content", "date_from", "TEXT"),
    // `METADATA` of the program that read the metadata.
    ("content", "facts", "INTEGER"),
    // The missing part of the picture, in words, if the file is truncated or damaged.
    ("content", "problem", "TEXT"),
    // Time of the file's last change, its permissions and name included, if the system reports it.
    ("file", "changed_ns", "INTEGER"),
    // Time of the last change to the file's sidecars.
    ("file", "sidecar_ns", "INTEGER"),
    // `READERS` of the program that tried to read the file.
    ("file", "readers", "INTEGER"),
    // Metadata from the file's name and its sidecars.
    ("file", "taken_secs", "INTEGER"),
    ("file", "date_from", "TEXT"),
    ("file", "latitude", "REAL"),
    ("file", "longitude", "REAL"),
];

/// Tables that libraries of earlier versions lack and those versions ignore: name, columns.
const TABLES: [(&str, &str); 6] = [
    (
        "text_vector",
        "model INTEGER NOT NULL REFERENCES model,
        hash BLOB NOT NULL,             -- BLAKE3 of the text
        embed BLOB NOT NULL,            -- little-endian f32
        PRIMARY KEY (model, hash)",
    ),
    (
        "cutoff",
        "model INTEGER NOT NULL REFERENCES model,
        kept REAL NOT NULL,
        min_score REAL NOT NULL,
        passed REAL NOT NULL,
        PRIMARY KEY (model, kept)",
    ),
    (
        "folder",
        "path BLOB PRIMARY KEY,         -- as in `file`
        exclude TEXT NOT NULL,          -- a JSON list of patterns
        hidden INTEGER NOT NULL         -- what is left out by default is taken",
    ),
    (
        "mark",
        "hash BLOB PRIMARY KEY,          -- as in `content`
        favourite INTEGER NOT NULL,
        hidden INTEGER NOT NULL",
    ),
    // See `vector_file.rs`. Neither refers to `model`: programs of earlier versions drop models.
    ("vector_file", "model INTEGER PRIMARY KEY, stamp INTEGER NOT NULL"),
    (
        "vector_change",
        "model INTEGER NOT NULL,
        content INTEGER NOT NULL,
        PRIMARY KEY (model, content)",
    ),
];

/// An open library, as one model sees it.
#[derive(Debug)]
pub struct Library {
    db: Connection,
    /// `None` if it is in memory.
    file: Option<PathBuf>,
    /// Row of `model`.
    model: i64,
    fingerprint: u64,
    dim: usize,
    /// Why the library cannot be written; `None` if it can.
    read_only: Option<open::ReadOnly>,
}

/// Embeddings of a photo and of its regions.
#[derive(Clone, Debug, PartialEq)]
pub struct PhotoVectors {
    /// One row: the whole photo.
    pub image: Vectors,
    /// In pixels of the upright photo (EXIF orientation applied).
    pub boxes: Vec<BoxPx>,
    /// A row for each box.
    pub regions: Vectors,
}

/// Number of files in a library, for the model that opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Files with an embedding.
    pub photos: usize,
    /// Files that could not be read.
    pub problems: usize,
    /// Truncated or damaged files that can be searched.
    pub in_part: usize,
}

impl Library {
    /// Counts the files.
    pub fn counts(&self) -> Result<Counts> {
        let count = |sql: &str, model: &[&dyn rusqlite::ToSql]| -> Result<usize> {
            Ok(count(self.db.query_row(sql, model, |row| row.get(0))?))
        };
        let photos = "SELECT count(*) FROM file JOIN image_vector USING (content) WHERE model = ?1";
        let problems = "SELECT count(*) FROM file WHERE problem IS NOT NULL";
        let in_part = "SELECT count(*) FROM file JOIN content ON content.id = file.content
            WHERE file.problem IS NULL AND content.problem IS NOT NULL";
        Ok(Counts {
            photos: count(photos, &[&self.model])?,
            problems: count(problems, &[])?,
            in_part: count(in_part, &[])?,
        })
    }

    /// Files that could not be read, or only in part, with the reason.
    pub fn problems(&self) -> Result<Vec<(PathBuf, String)>> {
        let sql = "SELECT path, coalesce(file.problem, content.problem) AS why
            FROM file LEFT JOIN content ON content.id = file.content
            WHERE why IS NOT NULL ORDER BY path";
        let mut rows = self.db.prepare(sql)?;
        let rows = rows
            .query_map([], |row| Ok((paths::from_bytes(&row.get::<_, Vec<u8>>(0)?), row.get(1)?)));
        Ok(rows?.collect::<rusqlite::Result<_>>()?)
    }

    /// All known files, readable or not.
    pub fn paths(&self) -> Result<Vec<PathBuf>> {
        let mut rows = self.db.prepare("SELECT path FROM file")?;
        let rows = rows.query_map([], |row| Ok(paths::from_bytes(&row.get::<_, Vec<u8>>(0)?)));
        Ok(rows?.collect::<rusqlite::Result<_>>()?)
    }

    /// Boxes and embeddings of a photo's regions, by its row in `content`.
    pub fn regions(&self, content: i64) -> Result<Option<(Vec<BoxPx>, Vectors)>> {
        let mut row = self.db.prepare_cached(
            "SELECT boxes, scales, codes FROM region_vectors WHERE model = ?1 AND content = ?2",
        )?;
        let blobs = row
            .query_row(params![self.model, content], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .optional()?;
        let Some((boxes, scales, codes)) = blobs else { return Ok(None) };
        let (boxes, scales): (Vec<u8>, Vec<u8>) = (boxes, scales);
        let boxes = floats(&boxes).chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]).collect();
        Ok(Some((boxes, Vectors::from_parts(self.dim, codes_from_bytes(codes), floats(&scales))?)))
    }

    /// The thumbnail of a photo, a JPEG.
    pub fn thumbnail(&self, content: i64) -> Result<Vec<u8>> {
        let sql = "SELECT jpeg FROM thumbnail WHERE content = ?1";
        Ok(self.db.prepare_cached(sql)?.query_row([content], |row| row.get(0))?)
    }

    /// Drops missing files, content without a file, embeddings of earlier versions and cached text
    /// embeddings, then shrinks the library's file.
    pub fn compact(&mut self) -> Result<()> {
        self.forget(|path| matches!(path.try_exists(), Ok(false)))?;
        let gone = "content NOT IN (SELECT content FROM file WHERE content IS NOT NULL)";
        let transaction = self.db.transaction()?;
        for table in ["image_vector", "region_vectors", "thumbnail"] {
            transaction.execute(&format!("DELETE FROM {table} WHERE {gone}"), [])?;
        }
        let gone = "id NOT IN (SELECT content FROM file WHERE content IS NOT NULL)";
        transaction.execute(&format!("DELETE FROM content WHERE {gone}"), [])?;
        // Embeddings of this model from earlier versions. Those of other models stay.
        let outdated =
            "model IN (SELECT id FROM model WHERE fingerprint = ?1 AND preprocessing < ?2)";
        let key = params![self.fingerprint.cast_signed(), PREPROCESSING];
        for table in ["image_vector", "region_vectors", "cutoff"] {
            transaction.execute(&format!("DELETE FROM {table} WHERE {outdated}"), key)?;
        }
        transaction.execute("DELETE FROM text_vector", [])?;
        transaction
            .execute("DELETE FROM model WHERE fingerprint = ?1 AND preprocessing < ?2", key)?;
        transaction.commit()?;
        self.drop_vector_files()?;
        self.db.execute_batch("VACUUM")?;
        self.refresh_vector_file()
    }
}

/// A number that SQLite counted.
fn count(n: i64) -> usize {
    usize::try_from(n).expect("counts are not negative")
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn bytes_of_floats<'a>(values: impl IntoIterator<Item = &'a f32>) -> Vec<u8> {
    values.into_iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn codes_from_bytes(bytes: Vec<u8>) -> Vec<i8> {
    bytes.into_iter().map(u8::cast_signed).collect()
}

fn bytes_of_codes(codes: &[i8]) -> Vec<u8> {
    codes.iter().map(|code| code.cast_unsigned()).collect()
}

/// The default library: `mmgem/library.sqlite` in the platform's folder for application data.
pub fn default_library() -> Result<PathBuf> {
    let folder =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let data = if cfg!(windows) {
        folder("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        folder("HOME").map(|home| home.join("Library/Application Support"))
    } else {
        folder("XDG_DATA_HOME").or_else(|| Some(folder("HOME")?.join(".local/share")))
    };
    Ok(data.ok_or(LibraryError::NoDataFolder)?.join("mmgem").join("library.sqlite"))
}

#[cfg(test)]
mod tests;
