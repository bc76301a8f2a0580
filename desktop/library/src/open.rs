//! Opens a library, to fill it or to search it; a search also accepts one that cannot be written.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mmgem_data::files;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior, params};

use super::paths::for_sqlite;
use super::photos::looks_like_a_photo;
use super::uris::escaped;
use super::vector_file::make_triggers;
use super::{
    APPLICATION_ID, COLUMNS, Library, LibraryError, PREPROCESSING, Result, SCHEMA, SCHEMA_VERSION,
    TABLES,
};

/// Longest wait for another process that writes. A batch takes well under a second.
pub(super) const BUSY: Duration = Duration::from_secs(30);

/// Marks a library as read-only.
#[derive(Debug)]
pub struct ReadOnly {
    /// The copy that is read instead. A killed program leaves its last batches in the log, and
    /// merging the log needs write access.
    _copy: Option<Copy>,
}

impl Library {
    /// Opens a library to fill it, for a model with embeddings of `dim` numbers; creates it if
    /// missing.
    ///
    /// # Errors
    /// When the file is not a library, has a newer version, or cannot be written.
    pub fn open(file: &Path, fingerprint: u64, dim: usize) -> Result<Self> {
        check_name(file)?;
        if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            files::create_dir(folder)?;
        }
        Self::of_file(file, fingerprint, dim).map_err(|error| unusable(file, error))
    }

    /// Opens an existing library to search it. The library may be read-only: on a read-only disk,
    /// in a backup, or owned by another user.
    ///
    /// # Errors
    /// When the file is missing, or is not a library that this program can read.
    pub fn open_to_search(file: &Path, fingerprint: u64, dim: usize) -> Result<Self> {
        if !file.is_file() {
            return Err(LibraryError::NotThere(file.into()));
        }
        match Self::of_file(file, fingerprint, dim) {
            Err(error) if is_unwritable(&error) => Self::for_reading(file, fingerprint, dim),
            opened => opened,
        }
        .map_err(|error| unusable(file, error))
    }

    /// A library in memory, dropped when the program ends.
    pub fn in_memory(fingerprint: u64, dim: usize) -> Result<Self> {
        Self::of_connection(Connection::open_in_memory()?, None, fingerprint, dim)
    }

    /// Whether the library can only be read.
    pub fn is_read_only(&self) -> bool {
        self.read_only.is_some()
    }

    fn of_file(file: &Path, fingerprint: u64, dim: usize) -> Result<Self> {
        Self::of_connection(connect(file, OpenFlags::default())?, Some(file), fingerprint, dim)
    }

    fn of_connection(
        mut db: Connection,
        file: Option<&Path>,
        fingerprint: u64,
        dim: usize,
    ) -> Result<Self> {
        db.busy_timeout(BUSY)?;
        // All of them write. One that first reads would fail at once if another process writes.
        db.set_transaction_behavior(TransactionBehavior::Immediate);
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "NORMAL")?;
        db.pragma_update(None, "foreign_keys", true)?;
        make_tables(&mut db)?;
        let key = params![fingerprint.cast_signed(), PREPROCESSING, dim as i64];
        db.execute(
            "INSERT OR IGNORE INTO model (fingerprint, preprocessing, dim) VALUES (?1, ?2, ?3)",
            key,
        )?;
        let model = model_row(&db, fingerprint)?.ok_or(LibraryError::Raced)?;
        let file = file.map(real_path);
        Ok(Self { db, file, model, fingerprint, dim, read_only: None })
    }

    /// Opens a library without writing to it or beside it.
    pub(super) fn for_reading(file: &Path, fingerprint: u64, dim: usize) -> Result<Self> {
        let (db, copy) = connect_for_reading(file)?;
        check_version(&db)?;
        complete_in_memory(&db)?;
        // Without a row this model has no embeddings in the library.
        let model = model_row(&db, fingerprint)?.unwrap_or(i64::MIN);
        let (file, read_only) = (Some(real_path(file)), Some(ReadOnly { _copy: copy }));
        Ok(Self { db, file, model, fingerprint, dim, read_only })
    }
}

/// Rejects names that SQLite accepts but a user cannot mean.
fn check_name(file: &Path) -> Result<()> {
    if file.as_os_str().is_empty() {
        return Err(LibraryError::NoName);
    }
    if looks_like_a_photo(file) {
        return Err(LibraryError::NamedLikePhoto(file.into()));
    }
    Ok(())
}

fn unusable(file: &Path, error: LibraryError) -> LibraryError {
    LibraryError::Unusable { file: file.into(), source: Box::new(error) }
}

/// Whether opening failed only because the library cannot be written.
fn is_unwritable(error: &LibraryError) -> bool {
    use ErrorCode::{CannotOpen, DatabaseBusy, PermissionDenied, ReadOnly as IsReadOnly};
    let LibraryError::Sqlite(error) = error else { return false };
    let code = error.sqlite_error_code();
    matches!(code, Some(IsReadOnly | CannotOpen | PermissionDenied | DatabaseBusy))
}

fn connect_for_reading(file: &Path) -> Result<(Connection, Option<Copy>)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let reads =
        |db: &Connection| db.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()));
    let log = with_ending(file, "-wal");
    let log_bytes = fs::metadata(&log).map(|metadata| metadata.len()).ok();
    // While another program has the library open, SQLite needs that program's log and shared
    // memory.
    if log_bytes.is_some()
        && let Ok(db) = connect(file, flags)
        && reads(&db).is_ok()
    {
        return Ok((db, None));
    }
    if log_bytes.unwrap_or(0) == 0 {
        // The database file is complete. A plain open would leave files beside it, so open it as
        // immutable.
        let db = connect_immutable(file, flags)?;
        reads(&db)?;
        return Ok((db, None));
    }
    let copy = Copy::of(file, &log)?;
    let db = connect(&copy.file, OpenFlags::default())?;
    reads(&db)?;
    Ok((db, Some(copy)))
}

/// Opens a file in SQLite; its path may be long.
fn connect(file: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    match for_sqlite(file) {
        (file, None) => Connection::open_with_flags(file, flags),
        (file, Some(layer)) => Connection::open_with_flags_and_vfs(file, flags, layer),
    }
}

/// Opens a file that no program writes meanwhile. SQLite then leaves no files beside it.
fn connect_immutable(file: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let (file, layer) = for_sqlite(&std::path::absolute(file).unwrap_or_else(|_| file.to_owned()));
    // Not `file://`: SQLite accepts no host there, and a share has one.
    let uri = format!("file:{}?immutable=1", escaped(file.as_os_str().as_encoded_bytes()));
    let flags = flags | OpenFlags::SQLITE_OPEN_URI;
    match layer {
        None => Connection::open_with_flags(uri, flags),
        Some(layer) => Connection::open_with_flags_and_vfs(uri, flags, layer),
    }
}

/// The path without symbolic links: the library has its other files beside itself, as SQLite does.
fn real_path(file: &Path) -> PathBuf {
    file.canonicalize().unwrap_or_else(|_| file.into())
}

pub(super) fn with_ending(file: &Path, ending: &str) -> PathBuf {
    let mut name: OsString = file.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// A copy of a library in the folder for temporary files, deleted on drop.
#[derive(Debug)]
struct Copy {
    folder: PathBuf,
    file: PathBuf,
}

impl Copy {
    fn of(file: &Path, log: &Path) -> Result<Self> {
        static COPIES: AtomicUsize = AtomicUsize::new(0);
        let number = COPIES.fetch_add(1, Ordering::Relaxed);
        let folder =
            std::env::temp_dir().join(format!("mmgem-library-{}-{number}", std::process::id()));
        let copy = Self { file: folder.join("library.sqlite"), folder };
        let made = fs::create_dir(&copy.folder)
            .and_then(|()| fs::copy(file, &copy.file))
            .and_then(|_| fs::copy(log, with_ending(&copy.file, "-wal")));
        made.map_err(LibraryError::NoCopy)?;
        for copied in [copy.file.clone(), with_ending(&copy.file, "-wal")] {
            let mut permissions = fs::metadata(&copied)?.permissions();
            #[expect(
                clippy::permissions_set_readonly_false,
                reason = "our own copy, in a folder of our own"
            )]
            permissions.set_readonly(false);
            fs::set_permissions(&copied, permissions)?;
        }
        Ok(copy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // The system cleans that folder anyway.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn make_tables(db: &mut Connection) -> Result<()> {
    // Two programs may get here at once: the second waits, and finds the tables made.
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let n_tables: i64 =
        transaction.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))?;
    if n_tables == 0 {
        transaction.execute_batch(SCHEMA)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    } else {
        check_version(&transaction)?;
    }
    // The record of an approximate index that earlier versions kept. Its reference to `model` would
    // keep outdated models.
    transaction.execute_batch("DROP TABLE IF EXISTS nearby")?;
    for (name, columns) in TABLES {
        transaction.execute_batch(&format!("CREATE TABLE IF NOT EXISTS {name} ({columns}\n)"))?;
    }
    for (table, column, kind) in missing_columns(&transaction)? {
        transaction.execute_batch(&format!("ALTER TABLE {table} ADD COLUMN {column} {kind}"))?;
    }
    make_triggers(&transaction)?;
    Ok(transaction.commit()?)
}

fn check_version(db: &Connection) -> Result<()> {
    let pragma = |name| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    if application != APPLICATION_ID {
        return Err(LibraryError::Foreign);
    }
    if version != SCHEMA_VERSION {
        return Err(LibraryError::Version { found: version, wanted: SCHEMA_VERSION });
    }
    Ok(())
}

fn missing_columns(db: &Connection) -> Result<Vec<(&'static str, &'static str, &'static str)>> {
    let mut there = db.prepare("SELECT 1 FROM pragma_table_info(?1) WHERE name = ?2")?;
    let mut missing = Vec::new();
    for (table, column, kind) in COLUMNS {
        if !there.exists([table, column])? {
            missing.push((table, column, kind));
        }
    }
    Ok(missing)
}

/// Adds what a library of an earlier version lacks, in memory: missing tables are empty, missing
/// columns NULL.
fn complete_in_memory(db: &Connection) -> Result<()> {
    db.pragma_update(None, "temp_store", "MEMORY")?;
    db.pragma_update(None, "foreign_keys", false)?;
    let mut there = db.prepare("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?1")?;
    for (name, columns) in TABLES {
        if !there.exists([name])? {
            db.execute_batch(&format!("CREATE TEMP TABLE {name} ({columns}\n)"))?;
        }
    }
    let missing = missing_columns(db)?;
    for table in ["content", "file"] {
        let unknown: Vec<String> = missing
            .iter()
            .filter(|(of, ..)| *of == table)
            .map(|(_, column, _)| format!(", NULL AS {column}"))
            .collect();
        if !unknown.is_empty() {
            db.execute_batch(&format!(
                "CREATE TEMP VIEW {table} AS SELECT *{} FROM main.{table}",
                unknown.concat()
            ))?;
        }
    }
    Ok(())
}

fn model_row(db: &Connection, fingerprint: u64) -> Result<Option<i64>> {
    let sql = "SELECT id FROM model WHERE fingerprint = ?1 AND preprocessing = ?2";
    let key = params![fingerprint.cast_signed(), PREPROCESSING];
    Ok(db.query_row(sql, key, |row| row.get(0)).optional()?)
}

#[cfg(test)]
mod tests {
    use super::super::{Cutoff, TextCache};
    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("l?%# é.sqlite");
        (folder, file)
    }

    /// Names of the files in a library's folder.
    fn beside(file: &Path) -> Vec<OsString> {
        let entries = fs::read_dir(file.parent().expect("a folder")).expect("readable");
        let mut names: Vec<OsString> =
            entries.map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_library_is_read_without_writing_to_it() {
        let (_folder, file) = folder();
        let mut library = Library::open(&file, 1, 2).expect("usable");
        library.store_text_embed("dog", &[0.6, 0.8]).expect("writable");
        drop(library);
        let bytes = || fs::read(&file).expect("readable");
        let (before, names) = (bytes(), beside(&file));
        let mut library = Library::for_reading(&file, 1, 2).expect("readable");
        assert!(library.is_read_only());
        assert_eq!(library.text_embed("dog").expect("readable"), Some(vec![0.6, 0.8]));
        library.store_text_embed("cat", &[1.0, 0.0]).expect("nothing is asked of the file");
        assert_eq!(library.text_embed("cat").expect("readable"), None);
        assert!(library.set_cutoffs(&[]).is_err());
        let other = Library::for_reading(&file, 9, 2).expect("readable");
        assert_eq!(other.vector_store().expect("readable").len(), 0);
        drop((library, other));
        let first = bytes().iter().zip(&before).position(|(a, b)| a != b);
        assert_eq!((first, bytes().len(), beside(&file)), (None, before.len(), names));
    }

    #[test]
    fn an_earlier_programs_library_is_read_without_its_tables_and_columns() {
        let (_folder, file) = folder();
        let db = Connection::open(&file).expect("writable");
        db.execute_batch(SCHEMA).expect("the first version");
        db.pragma_update(None, "application_id", APPLICATION_ID).expect("taken");
        db.pragma_update(None, "user_version", SCHEMA_VERSION).expect("taken");
        let photo = format!(
            "INSERT INTO model VALUES (1, 1, {PREPROCESSING}, 2);
            INSERT INTO content VALUES (7, x'00', 'JPEG', 4, 3, 5, NULL, NULL, NULL, 0);
            INSERT INTO file VALUES (1, x'2f61', 9, 9, 7, NULL);
            INSERT INTO image_vector VALUES (1, 7, 1.0, x'0101');"
        );
        db.execute_batch(&photo).expect("writable");
        drop(db);
        let seen = |library: &Library| {
            let photos = library.photos().expect("readable");
            (
                library.vector_store().expect("readable").len(),
                photos[&7].taken.secs,
                library.text_embed("dog").expect("readable"),
            )
        };
        let library = Library::for_reading(&file, 1, 2).expect("readable");
        assert_eq!(seen(&library), (1, 5, None));
        assert_eq!(library.cutoffs().expect("readable"), vec![]);
        drop(library);
        let mut library = Library::open(&file, 1, 2).expect("it gains what it lacks");
        assert_eq!(seen(&library), (1, 5, None));
        let cutoff = Cutoff { kept: 0.9, min_score: 0.1, passed: 0.2 };
        library.set_cutoffs(&[cutoff]).expect("writable");
        drop(library);
        assert_eq!(
            Library::open(&file, 1, 2).expect("usable").cutoffs().expect("readable"),
            [cutoff]
        );
    }

    #[test]
    fn a_library_with_an_approximate_index_is_opened_and_compacted() {
        let (_folder, file) = folder();
        drop(Library::open(&file, 1, 2).expect("usable"));
        let db = Connection::open(&file).expect("writable");
        let earlier = format!(
            "CREATE TABLE nearby (model INTEGER PRIMARY KEY REFERENCES model,
                last_content INTEGER NOT NULL, n INTEGER NOT NULL, n_bytes INTEGER NOT NULL);
            UPDATE model SET preprocessing = {};
            INSERT INTO nearby SELECT id, 7, 1, 1 FROM model;",
            PREPROCESSING - 1
        );
        db.execute_batch(&earlier).expect("writable");
        drop(db);
        drop(Library::for_reading(&file, 1, 2).expect("readable"));
        let mut library = Library::open(&file, 1, 2).expect("usable");
        library.compact().expect("the outdated model is dropped");
        let n_models = library.db.query_row("SELECT count(*) FROM model", [], |row| row.get(0));
        assert_eq!(n_models, Ok(1));
    }

    #[test]
    fn what_a_killed_program_left_in_the_log_is_read_too() {
        let (_folder, file) = folder();
        let mut library = Library::open(&file, 1, 2).expect("usable");
        library.store_text_embed("dog", &[0.6, 0.8]).expect("writable");
        let log = with_ending(&file, "-wal");
        assert!(fs::metadata(&log).is_ok_and(|log| log.len() > 0), "the library is still open");
        let copy = Copy::of(&file, &log).expect("there is a folder for temporary files");
        let of_copy = Library::open(&copy.file, 1, 2).expect("usable");
        assert_eq!(of_copy.text_embed("dog").expect("readable"), Some(vec![0.6, 0.8]));
        let place = copy.folder.clone();
        drop((of_copy, copy));
        assert!(!place.exists());
    }

    #[test]
    fn a_library_that_is_not_there_is_not_made_by_searching() {
        let (_folder, file) = folder();
        let error = Library::open_to_search(&file, 1, 2).expect_err("nothing is there").to_string();
        assert!(error.contains("not there") && error.contains("mmgem index"), "{error}");
        assert!(!file.exists());
        for name in ["", "a.jpg"] {
            let error = Library::open(Path::new(name), 1, 2).expect_err(name).to_string();
            assert!(error.contains("--library"), "{error}");
        }
    }
}
