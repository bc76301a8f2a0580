//! The photo library: files, what their EXIF says, thumbnails, and vectors of each model, in one SQLite file.
//!
//! A photo is its content: copies and moved files share one row of `content`, so only new content is
//! encoded. Vectors belong to a model and to a version of the way to it; another model's stand beside them.
//! Everything is written in transactions of a few photos, so that a library is whole whenever the program
//! ends, however that is.

mod cutoffs;
mod exchange;
mod facts;
mod fill;
#[cfg(feature = "ann")]
mod nearby;
mod paths;
mod search;
mod texts;
mod watch;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use mmgem_core::files;
use mmgem_core::image::BoxPx;
use mmgem_core::index::Vectors;
use rusqlite::{Connection, OptionalExtension, params};

pub use cutoffs::Cutoff;
pub use exchange::Donor;
pub use facts::{Facts, days_since_1970};
pub use fill::{Summary, Watcher};
#[cfg(feature = "ann")]
pub use nearby::gathered_vectors;
pub use paths::as_programs_take_it;
pub use search::{Found, Photo, Ranked, Shelf, Wanted};
pub use texts::{KnownTexts, TextsInMemory};
pub use watch::Changes;

/// Raised whenever the same photo and model give other vectors: decoding, scaling, choice of boxes.
const PREPROCESSING: i64 = 1;
/// What `PRAGMA user_version` says of a library with the tables below.
const SCHEMA_VERSION: i64 = 1;
/// What `PRAGMA application_id` says of every library: "MMGL".
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

/// What can be measured again; libraries of earlier programs lack it, and those programs pass over it.
const CACHES: &str = "
CREATE TABLE IF NOT EXISTS text_vector (
    model INTEGER NOT NULL REFERENCES model,
    hash BLOB NOT NULL,             -- BLAKE3 of the text
    embed BLOB NOT NULL,            -- little-endian f32
    PRIMARY KEY (model, hash)
);
CREATE TABLE IF NOT EXISTS cutoff (
    model INTEGER NOT NULL REFERENCES model,
    kept REAL NOT NULL,
    min_score REAL NOT NULL,
    passed REAL NOT NULL,
    PRIMARY KEY (model, kept)
);
CREATE TABLE IF NOT EXISTS nearby (
    model INTEGER PRIMARY KEY REFERENCES model,
    last_content INTEGER NOT NULL,  -- photos up to it are in the approximate index
    n INTEGER NOT NULL,
    n_bytes INTEGER NOT NULL        -- of its file
);
";

/// An open library, seen by one model.
#[derive(Debug)]
pub struct Library {
    db: Connection,
    /// Row of `model`.
    model: i64,
    fingerprint: u64,
    dim: usize,
}

/// Vectors of a photo and of its regions.
#[derive(Clone, Debug, PartialEq)]
pub struct PhotoVectors {
    /// One row.
    pub image: Vectors,
    /// In pixels of the photo as a person sees it.
    pub boxes: Vec<BoxPx>,
    /// A row for each box.
    pub regions: Vectors,
}

/// How much a library holds, of the model that sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Files that can be searched.
    pub photos: usize,
    /// Files that could not be read.
    pub problems: usize,
}

impl Library {
    /// Opens a library, or makes it, for a model with vectors of `dim` numbers.
    ///
    /// # Errors
    /// When the file is something else, of a newer version, or cannot be written.
    pub fn open(file: &Path, fingerprint: u64, dim: usize) -> Result<Self> {
        if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            files::create_dir(folder)?;
        }
        let complaint = || {
            format!(
                "the photo library cannot be used\n  hint: name another with --library; if this was one, delete it to begin again\n  file: {}",
                file.display()
            )
        };
        Connection::open(file)
            .map_err(Into::into)
            .and_then(|db| Self::of_connection(db, fingerprint, dim))
            .with_context(complaint)
    }

    /// A library that is gone when the program ends.
    pub fn in_memory(fingerprint: u64, dim: usize) -> Result<Self> {
        Self::of_connection(Connection::open_in_memory()?, fingerprint, dim)
    }

    fn of_connection(mut db: Connection, fingerprint: u64, dim: usize) -> Result<Self> {
        // Another process may be writing; a batch takes it well under a second.
        db.busy_timeout(Duration::from_secs(30))?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "NORMAL")?;
        db.pragma_update(None, "foreign_keys", true)?;
        make_tables(&mut db)?;
        let model = model_row(&db, fingerprint, dim)?;
        Ok(Self { db, model, fingerprint, dim })
    }

    /// How much there is.
    pub fn counts(&self) -> Result<Counts> {
        let count = |sql: &str, model: &[&dyn rusqlite::ToSql]| -> Result<usize> {
            let n: i64 = self.db.query_row(sql, model, |row| row.get(0))?;
            Ok(usize::try_from(n)?)
        };
        let photos = "SELECT count(*) FROM file JOIN image_vector USING (content) WHERE model = ?1";
        let problems = "SELECT count(*) FROM file WHERE problem IS NOT NULL";
        Ok(Counts { photos: count(photos, &[&self.model])?, problems: count(problems, &[])? })
    }

    /// Files that could not be read, and why.
    pub fn problems(&self) -> Result<Vec<(PathBuf, String)>> {
        let mut rows =
            self.db.prepare("SELECT path, problem FROM file WHERE problem IS NOT NULL ORDER BY path")?;
        let rows = rows.query_map([], |row| Ok((paths::from_bytes(&row.get::<_, Vec<u8>>(0)?), row.get(1)?)));
        Ok(rows?.collect::<rusqlite::Result<_>>()?)
    }

    /// Vectors of the regions of a photo, by its row in `content`.
    pub fn regions(&self, content: i64) -> Result<Option<(Vec<BoxPx>, Vectors)>> {
        let mut row = self.db.prepare_cached(
            "SELECT boxes, scales, codes FROM region_vectors WHERE model = ?1 AND content = ?2",
        )?;
        let blobs = row
            .query_row(params![self.model, content], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
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

    /// Drops files that are not there, what belongs to no file any more, the texts that were looked for and what is known
    /// of approximate indexes, and gives the space back.
    pub fn compact(&mut self) -> Result<()> {
        self.forget(|path| matches!(path.try_exists(), Ok(false)))?;
        let gone = "content NOT IN (SELECT content FROM file WHERE content IS NOT NULL)";
        let transaction = self.db.transaction()?;
        for table in ["image_vector", "region_vectors", "thumbnail"] {
            transaction.execute(&format!("DELETE FROM {table} WHERE {gone}"), [])?;
        }
        let gone = "id NOT IN (SELECT content FROM file WHERE content IS NOT NULL)";
        transaction.execute(&format!("DELETE FROM content WHERE {gone}"), [])?;
        transaction.execute("DELETE FROM text_vector", [])?;
        transaction.execute("DELETE FROM nearby", [])?;
        transaction.commit()?;
        Ok(self.db.execute_batch("VACUUM")?)
    }
}

fn make_tables(db: &mut Connection) -> Result<()> {
    // Two programs may meet here: the second waits, and finds the tables made.
    let transaction = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let pragma = |name| transaction.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    let n_tables: i64 = transaction.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))?;
    if n_tables == 0 {
        transaction.execute_batch(SCHEMA)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    } else {
        anyhow::ensure!(application == APPLICATION_ID, "it is a database of another program");
        anyhow::ensure!(
            version == SCHEMA_VERSION,
            "it is of version {version}; this program reads version {SCHEMA_VERSION}"
        );
    }
    transaction.execute_batch(CACHES)?;
    Ok(transaction.commit()?)
}

fn model_row(db: &Connection, fingerprint: u64, dim: usize) -> Result<i64> {
    let key = params![fingerprint.cast_signed(), PREPROCESSING, i64::try_from(dim)?];
    db.execute("INSERT OR IGNORE INTO model (fingerprint, preprocessing, dim) VALUES (?1, ?2, ?3)", key)?;
    let sql = "SELECT id FROM model WHERE fingerprint = ?1 AND preprocessing = ?2";
    Ok(db.query_row(sql, params![fingerprint.cast_signed(), PREPROCESSING], |row| row.get(0))?)
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

/// The library that is used when none is named: in the platform's folder for a program's data.
pub fn default_library() -> Result<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let data = if cfg!(windows) {
        folder("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        folder("HOME").map(|home| home.join("Library/Application Support"))
    } else {
        folder("XDG_DATA_HOME").or_else(|| Some(folder("HOME")?.join(".local/share")))
    };
    let data =
        data.context("this system names no folder for a program's data\n  hint: give --library FILE")?;
    Ok(data.join("mmgem").join("library.sqlite"))
}

#[cfg(test)]
mod tests;
