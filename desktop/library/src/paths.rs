//! Paths as bytes in the system's own encoding, and paths for other programs.

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
/// with `\\?\`, which few programs accept.
pub fn simplified_path(path: &Path) -> PathBuf {
    let plain = if cfg!(windows) { path.to_str().and_then(without_verbatim) } else { None };
    plain.map_or_else(|| path.to_owned(), PathBuf::from)
}

/// A path on a drive or a share without its verbatim prefix (`\\?\`).
fn without_verbatim(path: &str) -> Option<String> {
    let rest = path.strip_prefix(r"\\?\")?;
    match rest.strip_prefix(r"UNC\") {
        Some(share) => Some(format!(r"\\{share}")),
        None if rest.as_bytes().get(1) == Some(&b':') => Some(rest.to_owned()),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_programs_get_paths_as_people_write_them() {
        let check = |path, wanted: Option<&str>| {
            assert_eq!(without_verbatim(path).as_deref(), wanted, "{path}")
        };
        check(r"\\?\C:\a b\c.jpg", Some(r"C:\a b\c.jpg"));
        check(r"\\?\UNC\host\share\c.jpg", Some(r"\\host\share\c.jpg"));
        check(r"\\?\Volume{7}\c.jpg", None);
        check(r"C:\c.jpg", None);
        check("/a/c.jpg", None);
    }
}
