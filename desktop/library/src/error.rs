//! Errors of the library.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use glob::PatternError;
use mmgem_core::image::ImageError;
use mmgem_core::index::IndexError;
use mmgem_core::session::SessionError;
use mmgem_data::files::FolderError;
use rusqlite::types::FromSqlError;

use super::names::printable_path;
use super::photos::{EXTENSIONS, RAW_EXTENSIONS};
use super::query::QueryError;

/// A result whose error is a [`LibraryError`].
pub type Result<T, E = LibraryError> = std::result::Result<T, E>;

/// Why a library, a photo or a query cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// The user's query is wrong.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// SQLite cannot read or write the library.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// A value in the library is of another type.
    #[error(transparent)]
    Value(#[from] FromSqlError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FolderError),
    /// The system refused an operation on a file.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A photo cannot be decoded.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The model cannot embed a photo or a text, or its device failed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Vectors are damaged or belong to another model.
    #[error(transparent)]
    Vectors(#[from] IndexError),
    /// The system cannot watch folders.
    #[error(transparent)]
    Watch(#[from] notify::Error),
    /// The system cannot watch a folder.
    #[error(
        "the folder cannot be watched\n  \
         hint: on Linux, is fs.inotify.max_user_watches large enough?\n  folder: {}",
        printable_path(folder)
    )]
    WatchFolder {
        /// The folder.
        folder: PathBuf,
        /// The reason.
        source: notify::Error,
    },
    /// There is no library file.
    #[error(
        "the photo library is not there\n  \
         hint: is the path right? `mmgem index DIR` fills a library; --photos DIR searches folders \
         without one\n  file: {}",
        printable_path(.0)
    )]
    NotThere(PathBuf),
    /// The library's path is empty.
    #[error("the photo library has no name\n  hint: give --library FILE")]
    NoName,
    /// The library's path is that of a photo.
    #[error(
        "the photo library cannot be a photo\n  hint: name another file with --library\n  file: {}",
        printable_path(.0)
    )]
    NamedLikePhoto(PathBuf),
    /// The library cannot be opened.
    #[error(
        "the photo library cannot be used\n  \
         hint: is the path right, and may this user write there? --library FILE names another\n  \
         file: {}",
        printable_path(file)
    )]
    Unusable {
        /// The library.
        file: PathBuf,
        /// The reason.
        source: Box<LibraryError>,
    },
    /// The file is a database of another program.
    #[error("it is a database of another program")]
    Foreign,
    /// The library has another version of the tables.
    #[error("it is of version {found}; this program reads version {wanted}")]
    Version {
        /// The library's version.
        found: i64,
        /// The version that this program reads.
        wanted: i64,
    },
    /// Another program changed the library at the same time.
    #[error("another program changed the library at the same time\n  hint: run the command again")]
    Raced,
    /// The library is read-only, and a copy of it cannot be made.
    #[error(
        "the end of the library is in its log, which can only be read in a copy, and none can be \
         made"
    )]
    NoCopy(#[source] io::Error),
    /// The exclusion patterns of a folder in the library are damaged.
    #[error("the patterns of a folder are no JSON list")]
    FolderPatterns(#[from] serde_json::Error),
    /// The library is read-only, so that marks cannot be saved.
    #[error(
        "the marks cannot be saved, because the photo library can only be read\n  \
         hint: give this user write access, or name another library with --library FILE"
    )]
    MarksReadOnly,
    /// The system has no folder for the library.
    #[error("this system names no folder for a program's data\n  hint: give --library FILE")]
    NoDataFolder,
    /// An exchange file cannot be used.
    #[error("the index cannot be used\n  file: {}", printable_path(file))]
    Exchange {
        /// The file.
        file: PathBuf,
        /// The reason.
        source: IndexError,
    },
    /// An exclusion pattern is invalid.
    #[error("--exclude wants patterns, as `*.png` or `drafts/`")]
    Exclude(#[from] PatternError),
    /// A folder to search is missing or cannot be opened.
    #[error("cannot list the folder\n  folder: {}", printable_path(folder))]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A command that only reads photos found none in these folders.
    #[error(
        "found no photo (wanted .{}, or a camera's raw .{})\n  folder: {}",
        EXTENSIONS.join(", ."),
        RAW_EXTENSIONS.join(", ."),
        .0.iter().map(|folder| printable_path(folder)).collect::<Vec<_>>().join(", ")
    )]
    NoPhoto(Vec<PathBuf>),
    /// A photo cannot be decoded.
    #[error("the photo cannot be used\n  file: {}", printable_path(file))]
    Photo {
        /// The photo.
        file: PathBuf,
        /// The reason.
        source: Box<LibraryError>,
    },
    /// A raw photo without a preview.
    #[error("the raw photo has no preview; wanted a JPEG in it: export it as a JPEG")]
    NoPreview,
    /// A decoder panicked.
    #[error("reading it ended in a panic; the file is damaged, or this program is wrong")]
    Panicked,
    /// The query's photo, or the box on it, cannot be embedded.
    #[error("the query cannot be used\n  file: {}", printable_path(file))]
    QueryPhoto {
        /// The photo.
        file: PathBuf,
        /// The reason.
        source: SessionError,
    },
}

impl LibraryError {
    /// Whether the device failed, as opposed to the request.
    pub fn is_of_device(&self) -> bool {
        matches!(self, Self::Session(SessionError::Device(_)))
    }
}

/// The root cause on one line, without its `file:` line: the caller names the file.
pub fn root_on_one_line(error: &(dyn Error + 'static)) -> String {
    let mut root = error;
    while let Some(cause) = root.source() {
        root = cause;
    }
    let root = root.to_string();
    let lines = root.lines().map(str::trim).filter(|line| !line.starts_with("file:"));
    lines.collect::<Vec<_>>().join("; ")
}
