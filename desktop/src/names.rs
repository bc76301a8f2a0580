//! Paths on the command line and on the terminal.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::builder::{PathBufValueParser, TypedValueParser};

pub use crate::library::names::*;

/// A path on a line of a result.
///
/// On a terminal, names with right-to-left letters are [`isolated`]. A pipe gets the plain name.
pub fn listed(path: &Path) -> String {
    let name = printable_path(path);
    if std::io::stdout().is_terminal() { isolated(&name) } else { name }
}

/// Parses the path of an existing file on the command line; see [`resolve_path`].
pub fn path_parser() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().map(resolve_path)
}
