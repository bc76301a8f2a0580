//! `file:` URIs. Uses the standard library only, so that `tests/windows/run` can also run its tests
//! as a Windows program.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::paths::simplified_path;

/// The `file:` URI of a path. Escapes every byte except ASCII letters, digits and `/-_.~`, so any
/// name can be read back.
///
/// It escapes commas too, because `dbus-send` ends a list's entry there.
pub fn file_uri(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let absolute = simplified_path(&absolute);
    let bytes = absolute.as_os_str().as_encoded_bytes();
    if cfg!(windows) { windows_uri(bytes) } else { format!("file://{}", escaped(bytes)) }
}

/// The `file:` URI of an absolute Windows path. A share's host becomes the URI's.
#[cfg_attr(unix, allow(dead_code, reason = "used on Windows and by the tests"))]
fn windows_uri(path: &[u8]) -> String {
    // A slash separates no names after the prefix `\\?\`.
    if path.starts_with(br"\\?\") {
        return format!("file:///{}", escaped(path));
    }
    let slash = |byte: &u8| if *byte == b'\\' { b'/' } else { *byte };
    let slashes: Vec<u8> = path.iter().map(slash).collect();
    match (slashes.strip_prefix(b"//"), &*slashes) {
        (Some(share), _) => format!("file://{}", escaped(share)),
        // The colon of a drive stays.
        (None, [drive, b':', rest @ ..]) => {
            format!("file:///{}:{}", escaped(&[*drive]), escaped(rest))
        }
        (None, other) => format!("file:///{}", escaped(other)),
    }
}

/// Escapes every byte except ASCII letters, digits and `/-_.~`, as URIs do.
pub(crate) fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        match byte {
            byte if byte.is_ascii_alphanumeric() || b"/-_.~".contains(byte) => {
                text.push(char::from(*byte))
            }
            byte => _ = write!(text, "%{byte:02X}"),
        }
    }
    text
}

/// The path of a `file:` URI; `None` if the text is not a valid URI of this machine. On Windows the
/// URI may name the host of a share.
pub fn path_of_uri(text: &str) -> Option<PathBuf> {
    let rest = text.strip_prefix("file:")?;
    let root = if cfg!(windows) { "" } else { "/" };
    let local = match rest.strip_prefix("//") {
        Some(with_host) => with_host.strip_prefix("localhost/").or(with_host.strip_prefix('/')),
        None => rest.strip_prefix('/'),
    };
    let (root, rest) = match local {
        Some(local) => (root, local),
        None if cfg!(windows) => (r"\\", rest.strip_prefix("//")?),
        None => return None,
    };
    let mut bytes = root.as_bytes().to_vec();
    let mut escaped = rest.bytes();
    while let Some(byte) = escaped.next() {
        if byte == b'%' {
            let digits = [escaped.next()?, escaped.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    path_of_bytes(bytes)
}

#[cfg(unix)]
fn path_of_bytes(bytes: Vec<u8>) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    (!bytes.contains(&0)).then(|| std::ffi::OsString::from_vec(bytes).into())
}

#[cfg(windows)]
fn path_of_bytes(bytes: Vec<u8>) -> Option<PathBuf> {
    use std::os::windows::ffi::OsStringExt;
    Some(std::ffi::OsString::from_wide(&wide_units(&bytes)?).into())
}

/// The UTF-16 units of a Windows name. Its bytes are UTF-8, in which half a surrogate pair has 3
/// bytes (WTF-8). `None` for other bytes, and for names with a zero.
#[cfg_attr(unix, allow(dead_code, reason = "used on Windows and by the tests"))]
fn wide_units(bytes: &[u8]) -> Option<Vec<u16>> {
    let mut units = Vec::new();
    let mut rest = bytes;
    while let Some(chunk) = rest.utf8_chunks().next() {
        let valid = chunk.valid();
        units.extend(valid.encode_utf16());
        rest = &rest[valid.len()..];
        match *rest {
            [] => {}
            [0xed, second @ 0xa0..=0xbf, third @ 0x80..=0xbf, ..] => {
                units.push(0xd000 | u16::from(second & 0x3f) << 6 | u16::from(third & 0x3f));
                rest = &rest[3..];
            }
            _ => return None,
        }
    }
    (!units.contains(&0)).then_some(units)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_paths_become_uris_as_browsers_write_them() {
        let check = |path: &str, wanted| assert_eq!(windows_uri(path.as_bytes()), wanted);
        check(r"C:\a b\c,d.jpg", "file:///C:/a%20b/c%2Cd.jpg");
        check(r"\\host\share\a.jpg", "file://host/share/a.jpg");
        check(r"\\?\C:\nul", "file:///%5C%5C%3F%5CC%3A%5Cnul");
    }

    #[test]
    fn windows_names_may_have_half_a_character() {
        let check = |bytes: &[u8], wanted: Option<&[u16]>| {
            assert_eq!(wide_units(bytes).as_deref(), wanted, "{bytes:x?}")
        };
        check("C:ü😀".as_bytes(), Some(&[0x43, 0x3a, 0xfc, 0xd83d, 0xde00]));
        check(b"a\xed\xa0\xbdb", Some(&[0x61, 0xd83d, 0x62]));
        check(b"\xed\xb8\x80", Some(&[0xde00]));
        check(b"", Some(&[]));
        check(b"\xe9", None);
        check(b"a\0", None);
    }

    #[test]
    fn only_uris_of_this_machine_are_paths() {
        for text in ["file:///a%2", "file:///a%zz", "file:a.jpg", "http://a/b.jpg", "a"] {
            assert_eq!(path_of_uri(text), None, "{text}");
        }
        if cfg!(unix) {
            assert_eq!(path_of_uri("file://other/a.jpg"), None);
            for text in ["file:///a%20b", "file://localhost/a%20b", "file:/a%20b"] {
                assert_eq!(path_of_uri(text).as_deref(), Some(Path::new("/a b")), "{text}");
            }
            assert_eq!(path_of_uri("file:///a%00b"), None);
        }
    }

    #[test]
    #[cfg(windows)]
    fn a_windows_path_comes_back_from_its_uri() {
        use std::os::windows::ffi::OsStringExt;
        let check = |path: &Path| {
            let uri = file_uri(path);
            let back = path_of_uri(&uri).expect("a URI of this machine");
            assert_eq!(back.components().as_path(), path.components().as_path(), "{uri}");
        };
        for path in [r"C:\a b\ü%,#.jpg", r"\\host\share\a.jpg", r"\\?\C:\nul", r"\\?\C:\a."] {
            check(Path::new(path));
        }
        let half = std::ffi::OsString::from_wide(&[0x43, 0x3a, 0x5c, 0xd83d, 0x61]);
        check(Path::new(&half));
    }
}
