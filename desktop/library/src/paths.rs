//! Paths as bytes in the system's own encoding, and paths for other programs. Uses the standard
//! library only, so that `tests/windows/run` can also run its tests as a Windows program.

use std::ffi::CStr;
use std::path::{Path, PathBuf};

#[cfg(unix)]
pub fn to_bytes(path: &Path) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    path.as_os_str().as_bytes().to_vec()
}

#[cfg(unix)]
pub fn from_bytes(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

#[cfg(windows)]
pub fn to_bytes(path: &Path) -> Vec<u8> {
    use std::os::windows::ffi::OsStrExt;
    path.as_os_str().encode_wide().flat_map(u16::to_le_bytes).collect()
}

#[cfg(windows)]
pub fn from_bytes(bytes: &[u8]) -> PathBuf {
    use std::os::windows::ffi::OsStringExt;
    let wide: Vec<u16> = bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
    PathBuf::from(std::ffi::OsString::from_wide(&wide))
}

/// A path that other programs accept. On Windows a canonical path, as the library stores it, begins
/// with `\\?\`, which few programs accept. Keeps the prefix if the path means something else without
/// it.
pub fn simplified_path(path: &Path) -> PathBuf {
    let plain = if cfg!(windows) { path.to_str().and_then(without_verbatim) } else { None };
    plain.map_or_else(|| path.to_owned(), PathBuf::from)
}

/// Most UTF-16 units of a Windows path without the prefix `\\?\`.
const LONGEST_PLAIN: usize = 259;

/// A path on a drive or a share without its verbatim prefix (`\\?\`). `None` if it has no such
/// prefix or needs it: it is too long, or has a name that Windows changes or reads as a device.
fn without_verbatim(path: &str) -> Option<String> {
    let rest = path.strip_prefix(r"\\?\")?;
    let plain = match rest.strip_prefix(r"UNC\") {
        Some(share) => format!(r"\\{share}"),
        None if rest.as_bytes().get(1) == Some(&b':') => rest.to_owned(),
        None => return None,
    };
    let is_plain = rest.split('\\').all(is_plain_name);
    (is_plain && plain.encode_utf16().count() <= LONGEST_PLAIN).then_some(plain)
}

/// Whether Windows takes a name as it is, without the prefix `\\?\`.
fn is_plain_name(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().trim_end().to_lowercase();
    let is_port = ["com", "lpt"].iter().any(|port| {
        let number = stem.strip_prefix(port).unwrap_or_default();
        number.chars().count() == 1 && number.chars().all(char::is_numeric)
    });
    let is_device = matches!(stem.as_str(), "con" | "prn" | "aux" | "nul" | "conin$" | "conout$");
    !(is_device || is_port || name.ends_with(['.', ' ']) || name.contains('/'))
}

/// A path for SQLite, and the name of the SQLite layer (VFS) that can open it [`None`: the default].
/// On Windows a path of more than 260 characters needs the prefix `\\?\` and the layer for long
/// paths.
pub fn for_sqlite(path: &Path) -> (PathBuf, Option<&'static CStr>) {
    let long = if cfg!(windows) {
        let absolute = std::path::absolute(path).ok();
        absolute.as_deref().and_then(Path::to_str).and_then(verbatim_if_long)
    } else {
        None
    };
    match long {
        Some(long) => (long.into(), Some(c"win32-longpath")),
        None => (path.to_owned(), None),
    }
}

/// An absolute Windows path with the prefix `\\?\`, if it leaves too little space for the endings of
/// the files that SQLite writes beside a library.
fn verbatim_if_long(absolute: &str) -> Option<String> {
    const ENDINGS: usize = 19;
    if absolute.encode_utf16().count() + ENDINGS <= LONGEST_PLAIN {
        return None;
    }
    Some(match absolute.strip_prefix(r"\\") {
        Some(rest) if rest.starts_with(['?', '.']) => absolute.to_owned(),
        Some(share) => format!(r"\\?\UNC\{share}"),
        None => format!(r"\\?\{absolute}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_programs_get_paths_as_people_write_them() {
        let check = |path: &str, wanted: Option<&str>| {
            assert_eq!(without_verbatim(path).as_deref(), wanted, "{path}")
        };
        check(r"\\?\C:\a b\c.jpg", Some(r"C:\a b\c.jpg"));
        check(r"\\?\UNC\host\share\c.jpg", Some(r"\\host\share\c.jpg"));
        check(r"\\?\Volume{7}\c.jpg", None);
        check(r"C:\c.jpg", None);
        check("/a/c.jpg", None);
        // Without the prefix Windows would open another file, or a device.
        for name in ["nul", "NUL .txt", "com1.jpg", "Lpt9", "con.tar.gz", "a.", "a ", "a/b"] {
            check(&format!(r"\\?\C:\{name}"), None);
            check(&format!(r"\\?\C:\{name}\c.jpg"), None);
        }
        check(r"\\?\C:\null\com\com10\lpta\.a", Some(r"C:\null\com\com10\lpta\.a"));
        let long = |n: usize| format!(r"C:\{}", "ü".repeat(n - 3));
        check(&format!(r"\\?\{}", long(259)), Some(&long(259)));
        check(&format!(r"\\?\{}", long(260)), None);
    }

    #[test]
    fn only_long_windows_paths_get_the_prefix_for_sqlite() {
        let check = |path: &str, wanted: Option<&str>| {
            assert_eq!(verbatim_if_long(path).as_deref(), wanted, "{path}")
        };
        let long = "x".repeat(250);
        check(r"C:\a\library.sqlite", None);
        check(r"\\host\share\library.sqlite", None);
        check(&format!(r"C:\{long}"), Some(&format!(r"\\?\C:\{long}")));
        check(&format!(r"\\host\{long}"), Some(&format!(r"\\?\UNC\host\{long}")));
        check(&format!(r"\\?\C:\{long}"), Some(&format!(r"\\?\C:\{long}")));
    }
}
