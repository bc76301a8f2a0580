//! Checks of output paths: a command must not overwrite its inputs, and a file's extension must
//! match its format.

use std::path::{Path, PathBuf};

use crate::globals::WrongArguments;
use crate::names::printable_path;

/// Extensions that imply a format. Others, such as `.index`, do not.
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

/// Rejects an output that is one of the inputs, also through symbolic links, hard links and other
/// spellings of the path.
///
/// # Errors
/// If `out` is one of `inputs`.
pub fn spare_inputs<'a>(
    option: &str,
    out: &Path,
    inputs: impl IntoIterator<Item = &'a Path>,
) -> Result<(), WrongArguments> {
    let Some(target) = Target::of(out) else { return Ok(()) };
    match inputs.into_iter().find(|input| target.is(input)) {
        None => Ok(()),
        Some(input) => Err(WrongArguments(format!(
            "{option} would overwrite {}, which this command reads; choose another {}",
            printable_path(input),
            if out.is_dir() { "folder" } else { "file" }
        ))),
    }
}

/// Rejects an extension that implies another format than the written one. `written` are the
/// extensions of the written format; `cure` tells the user what to do.
///
/// # Errors
/// If the extension implies another format.
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
        "{option} ends in .{ending}, but this command writes .{}; {cure}\n  file: {}",
        written.join(" or ."),
        printable_path(out)
    )))
}

/// An existing file or folder, for comparison with other paths.
pub struct Target {
    path: PathBuf,
    handle: Option<same_file::Handle>,
}

impl Target {
    /// `None` if the path does not exist: then it cannot be an input.
    pub fn of(path: &Path) -> Option<Self> {
        // The canonical path resolves links, and `A.JPG` to `a.jpg` on a case-insensitive disk.
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
        // The handles find hard links, and folders that are mounted twice.
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
            assert!(error.contains("--out would overwrite") && error.contains("a.jpg"), "{error}");
        }
        for out in ["new.png", "sub/a.jpg", "sub"] {
            check(out).expect(out);
        }
        // A copy with the same bytes is not an input.
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
            assert!(error.contains("writes .safetensors; use --json"), "{error}");
        }
    }
}
