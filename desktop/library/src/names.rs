//! File names: as shown to users, as written to JSON, and as users type them.
//!
//! A file system accepts nearly any bytes as a name. A user must be able to read each name on one
//! line, and a program must be able to name each file exactly.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::path::{Component, MAIN_SEPARATOR, MAIN_SEPARATOR_STR, Path, PathBuf};

use serde_json::Value;
use unicode_normalization_alignments::UnicodeNormalization;

use super::paths::simplified_path;
pub use super::uris::{file_uri, path_of_uri};

/// A path on one line, without characters that move the cursor, colour the terminal or change the
/// direction of text.
///
/// Writes control characters as `\n`, `\t` and `\u{1b}`, and bytes outside UTF-8 as `\xe9`. A
/// backslash stays as it is, so the text is not exact; `--null` and `--json` are.
///
/// On Windows, leaves out the prefix `\\?\` of canonical paths ([`simplified_path`]).
pub fn printable_path(path: &Path) -> String {
    let mut line = String::new();
    for chunk in simplified_path(path).as_os_str().as_encoded_bytes().utf8_chunks() {
        push_printable(&mut line, chunk.valid());
        chunk.invalid().iter().for_each(|byte| _ = write!(line, "\\x{byte:02x}"));
    }
    line
}

/// The marks around an [`isolated`] name: left-to-right isolate, pop directional isolate.
const ISOLATE: [char; 2] = ['\u{2066}', '\u{2069}'];

/// A printable path in which invisible marks (U+2066, U+2069) surround each name with right-to-left
/// letters: other text stays in order, and `.jpg` stays at the end of the name.
pub fn isolated(path: &str) -> String {
    let part = |name: &str| match name.chars().any(is_right_to_left) {
        true => format!("{}{name}{}", ISOLATE[0], ISOLATE[1]),
        false => name.to_owned(),
    };
    path.split(MAIN_SEPARATOR).map(part).collect::<Vec<_>>().join(MAIN_SEPARATOR_STR)
}

/// Whether `c` is a letter of Hebrew, Arabic, Syriac, Thaana, NKo or a related script.
fn is_right_to_left(c: char) -> bool {
    matches!(
        c,
        '\u{590}'..='\u{8ff}'
            | '\u{fb1d}'..='\u{fdff}'
            | '\u{fe70}'..='\u{fefc}'
            | '\u{10800}'..='\u{10fff}'
            | '\u{1e800}'..='\u{1efff}'
    )
}

/// A text in which only line feeds act on a terminal.
pub fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for (at, line) in text.split('\n').enumerate() {
        if at > 0 {
            clean.push('\n');
        }
        push_printable(&mut clean, line);
    }
    clean
}

fn push_printable(line: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            c if acts(c) => _ = write!(line, "\\u{{{:x}}}", u32::from(c)),
            c => line.push(c),
        }
    }
}

/// Whether a character acts instead of being visible: controls, line separators, and marks that
/// change the direction of text, which can make `gpj.exe` read as `exe.jpg`.
fn acts(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether JSON can hold the path exactly.
fn is_text(path: &Path) -> bool {
    path.to_str().is_some()
}

/// A path as exact text: itself, or its `file:` URI if it is not UTF-8. The program accepts both.
pub fn as_text(path: &Path) -> String {
    path.to_str().map_or_else(|| file_uri(path), str::to_owned)
}

/// [`as_text`] of the [`simplified_path`], as a JSON value.
pub fn json_path(path: &Path) -> Value {
    as_text(&simplified_path(path)).into()
}

/// Adds `"path"` to a JSON object. If the path is not UTF-8, `"path"` is approximate and `"uri"` is
/// added.
pub fn put_path(entry: &mut Value, path: &Path) {
    entry["path"] = simplified_path(path).to_string_lossy().into();
    if !is_text(path) {
        entry["uri"] = file_uri(path).into();
    }
}

/// The path of an existing file, as users write it. Accepts a plain path, a `file:` URI from
/// `--json`, a path whose accents are composed differently than on disk, and a path copied from a
/// terminal ([`isolated`]).
pub fn resolve_path(path: PathBuf) -> PathBuf {
    let path = match path.to_str() {
        Some(text) if text.contains(ISOLATE) && !path.exists() => text.replace(ISOLATE, "").into(),
        _ => path,
    };
    match path.to_str().and_then(path_of_uri) {
        Some(of_uri) if !path.exists() => of_uri,
        _ => as_on_disk(&path),
    }
}

/// The path as it is on disk, if only the composition of its accents differs: a keyboard writes `é`
/// as one code point, a Mac as two. Returns the path unchanged if it exists, or if none or several
/// files match.
fn as_on_disk(path: &Path) -> PathBuf {
    // Most paths exist, and ASCII has only one form.
    if path.as_os_str().is_ascii() || fs::symlink_metadata(path).is_ok() {
        return path.to_owned();
    }
    let mut found = PathBuf::new();
    for component in path.components() {
        let next = found.join(component);
        let Component::Normal(name) = component else {
            found = next;
            continue;
        };
        if fs::symlink_metadata(&next).is_ok() {
            found = next;
            continue;
        }
        let folder = if found.as_os_str().is_empty() { Path::new(".") } else { &found };
        let Ok(entries) = fs::read_dir(folder) else { return path.to_owned() };
        let Some(wanted) = name.to_str().map(composed) else { return path.to_owned() };
        let is_meant = |name: &OsStr| name.to_str().is_some_and(|name| composed(name) == wanted);
        let mut meant =
            entries.flatten().map(|entry| entry.file_name()).filter(|name| is_meant(name));
        match (meant.next(), meant.next()) {
            (Some(name), None) => found.push(name),
            _ => return path.to_owned(),
        }
    }
    found
}

/// Text with accents composed (NFC), so that equal names are equal texts.
pub fn composed(text: &str) -> String {
    text.nfc().map(|(c, _)| c).collect()
}

/// Normalises text to compare a user's input with a name: NFKC (composed, wide and narrow forms
/// alike) in lower case.
pub fn folded(text: &str) -> String {
    text.nfkc().map(|(c, _)| c).collect::<String>().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_to_left_name_reorders_no_other_text_on_a_terminal() {
        let check = |name: &str, wanted: &str| assert_eq!(isolated(name), wanted, "{name}");
        check("a/ü 写真.jpg", "a/ü 写真.jpg");
        let path = format!("a{0}עברית{0}b{0}صورة.jpg", MAIN_SEPARATOR);
        let wanted = path
            .replace("עברית", "\u{2066}עברית\u{2069}")
            .replace("صورة.jpg", "\u{2066}صورة.jpg\u{2069}");
        check(&path, &wanted);
        // A name that is copied from the terminal names the file.
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("עברית.jpg");
        fs::write(&file, "").expect("writable");
        assert_eq!(resolve_path(isolated(&file.display().to_string()).into()), file);
    }

    #[test]
    fn a_name_is_shown_on_one_line_and_moves_no_cursor() {
        let check = |name: &str, wanted: &str| assert_eq!(printable_path(Path::new(name)), wanted);
        check("a b/ü 写真.jpg", "a b/ü 写真.jpg");
        check("a\tb\nc\r\u{1b}[31m", "a\\tb\\nc\\r\\u{1b}[31m");
        check("\u{9b}31m", "\\u{9b}31m");
        check("photo\u{202e}gpj.exe", "photo\\u{202e}gpj.exe");
        check("עברית.jpg", "עברית.jpg");
        check(r"C:\a\n.jpg", r"C:\a\n.jpg");
        assert_eq!(printable("a\n  b\u{1b}[2J\r"), "a\n  b\\u{1b}[2J\\r");
    }

    #[test]
    #[cfg(unix)]
    fn any_name_goes_into_json_and_back() {
        use std::os::unix::ffi::OsStrExt;
        for name in [
            b"/a/caf\xe9 \n.jpg".as_slice(),
            b"/%41/\xff\xfe,+&?#.jpg",
            "/é/\u{202e}😀.jpg".as_bytes(),
        ] {
            let path = Path::new(OsStr::from_bytes(name));
            let uri = file_uri(path);
            assert!(uri.is_ascii() && !uri.contains(','), "{uri}");
            assert_eq!(path_of_uri(&uri).as_deref(), Some(path), "{uri}");
            let told = json_path(path);
            assert_eq!(resolve_path(told.as_str().expect("a text").into()), path, "{told}");
        }
        assert_eq!(printable_path(Path::new(OsStr::from_bytes(b"caf\xe9.jpg"))), "caf\\xe9.jpg");
        let mut entry = serde_json::json!({});
        put_path(&mut entry, Path::new("/é.jpg"));
        assert_eq!(entry, serde_json::json!({ "path": "/é.jpg" }));
        put_path(&mut entry, Path::new(OsStr::from_bytes(b"/\xe9.jpg")));
        assert_eq!(entry, serde_json::json!({ "path": "/\u{fffd}.jpg", "uri": "file:///%E9.jpg" }));
    }

    #[test]
    fn accents_may_be_composed_another_way() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (typed, on_disk) = ("caf\u{e9}/\u{fc}.jpg", "cafe\u{301}/u\u{308}.jpg");
        fs::create_dir(folder.path().join("cafe\u{301}")).expect("writable");
        fs::write(folder.path().join(on_disk), b"").expect("writable");
        let there = resolve_path(folder.path().join(typed));
        assert!(there.is_file(), "{}", printable_path(&there));
        let missing = folder.path().join("caf\u{e9}/\u{f6}.jpg");
        assert_eq!(resolve_path(missing.clone()), missing);
        assert_eq!(
            (composed(on_disk).as_str(), folded("CAFE\u{301} ＡＢ")),
            (typed, "caf\u{e9} ab".into())
        );
    }
}
