//! Where a command may write: never over what it read, and only under an ending that tells what is in the file.

use std::path::{Path, PathBuf};

use crate::args::WrongArguments;
use crate::names::shown;

/// Endings that promise a format; others, as `.index`, promise none.
const PROMISES: [&str; 63] = [
    "npy",
    "npz",
    "parquet",
    "arrow",
    "feather",
    "csv",
    "tsv",
    "json",
    "jsonl",
    "ndjson",
    "txt",
    "md",
    "xml",
    "yaml",
    "yml",
    "toml",
    "html",
    "htm",
    "pdf",
    "svg",
    "safetensors",
    "pt",
    "pth",
    "ckpt",
    "bin",
    "onnx",
    "gguf",
    "pkl",
    "pickle",
    "h5",
    "hdf5",
    "mat",
    "sqlite",
    "db",
    "tar",
    "gz",
    "tgz",
    "zst",
    "zip",
    "7z",
    "jpg",
    "jpeg",
    "jfif",
    "png",
    "webp",
    "gif",
    "bmp",
    "tif",
    "tiff",
    "heic",
    "heif",
    "avif",
    "jxl",
    "jp2",
    "dng",
    "cr2",
    "cr3",
    "nef",
    "arw",
    "mp4",
    "mov",
    "xmp",
    "py",
];

/// Refuses an output that is one of the inputs, by whatever name: through links, hard links, other spellings.
///
/// # Errors
/// When it is.
pub fn spare_inputs<'a>(
    option: &str,
    out: &Path,
    inputs: impl IntoIterator<Item = &'a Path>,
) -> Result<(), WrongArguments> {
    let Some(target) = Target::of(out) else { return Ok(()) };
    match inputs.into_iter().find(|input| target.is(input)) {
        None => Ok(()),
        Some(input) => Err(WrongArguments(format!(
            "{option} would write over {}, which this command reads; choose another {}",
            shown(input),
            if out.is_dir() { "folder" } else { "file" }
        ))),
    }
}

/// Refuses an ending that promises another format than the one that is written. `written` are the endings of that
/// format; `cure` says how to get another.
///
/// # Errors
/// When the ending promises something else.
pub fn check_ending(
    option: &str,
    out: &Path,
    written: &[&str],
    cure: &str,
) -> Result<(), WrongArguments> {
    let Some(ending) = out.extension().map(|ending| ending.to_string_lossy().to_lowercase()) else {
        return Ok(());
    };
    let fits = written.contains(&ending.as_str()) || !PROMISES.contains(&ending.as_str());
    if fits {
        return Ok(());
    }
    Err(WrongArguments(format!(
        "{option} ends in .{ending}, but .{} is written; {cure}\n  file: {}",
        written.join(" or ."),
        shown(out)
    )))
}

/// A place that exists, to be compared with others.
pub struct Target {
    path: PathBuf,
    handle: Option<same_file::Handle>,
}

impl Target {
    /// `None` if nothing is there: then it is none of the inputs.
    pub fn of(path: &Path) -> Option<Self> {
        // The system's own spelling: of a link the file, of `A.JPG` the `a.jpg` on a disk that knows no capitals.
        let found = path.canonicalize().ok()?;
        let handle = same_file::Handle::from_path(&found).ok();
        Some(Self { path: found, handle })
    }

    /// Whether another path leads to the same file or folder.
    pub fn is(&self, other: &Path) -> bool {
        let Ok(other) = other.canonicalize() else { return false };
        if other == self.path {
            return true;
        }
        // Hard links: another name of the same bytes. A folder has one name, but may be mounted twice.
        let handle = same_file::Handle::from_path(&other).ok();
        handle.is_some() && handle == self.handle
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_input_is_spared_by_whatever_name() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("sub")).expect("writable");
        for name in ["a.jpg", "b.jpg"] {
            fs::write(path(name), name).expect("writable");
        }
        fs::hard_link(path("a.jpg"), path("hard.png")).expect("the disk has hard links");
        #[cfg(unix)]
        std::os::unix::fs::symlink(path("a.jpg"), path("soft.png")).expect("links work");
        let (a, b) = (path("a.jpg"), path("b.jpg"));
        let check = |out: &str| spare_inputs("--out", &path(out), [b.as_path(), a.as_path()]);
        let mut names = vec!["a.jpg", "sub/../a.jpg", "./a.jpg", "hard.png"];
        if cfg!(unix) {
            names.push("soft.png");
        }
        for out in names {
            let error = check(out).expect_err(out).to_string();
            assert!(error.contains("--out would write over") && error.contains("a.jpg"), "{error}");
        }
        for out in ["new.png", "sub/a.jpg", "sub"] {
            check(out).expect(out);
        }
        // Another file with the same bytes is another file.
        fs::write(path("copy.png"), "a.jpg").expect("writable");
        check("copy.png").expect("another file");
    }

    #[test]
    fn an_ending_that_promises_another_format_is_refused() {
        let check =
            |name: &str| check_ending("--out", Path::new(name), &["safetensors"], "use --json");
        for name in ["v.safetensors", "v.SAFETENSORS", "v", "v.index", "v.2024-05", "a.b/v"] {
            check(name).expect(name);
        }
        for name in ["v.npy", "v.parquet", "v.JPG", "v.json"] {
            let error = check(name).expect_err(name).to_string();
            assert!(error.contains(".safetensors is written; use --json"), "{error}");
        }
    }
}
