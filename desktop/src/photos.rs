//! Photos on disk: finding, reading and encoding them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use mmgem_core::files;
use mmgem_core::image::{
    DecodeLimits, Decoded, ImagePreprocess, Preprocessed, Rgb, decode_scaled, embedded_jpeg,
};
use mmgem_core::session::{EncodedImage, Part};
use rayon::prelude::*;

use crate::context::Context;
use crate::excludes::Excludes;
use crate::library::Facts;
use crate::terminal::{PassedOver, note, progress_bar};

/// Photos that go through the image encoder at once.
const BATCH: usize = 16;

/// Extensions of photos; of the last few it is said why they cannot be read.
const EXTENSIONS: [&str; 12] =
    ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "jfif", "avif", "heic", "heif"];

/// Extensions of cameras' raw photos, whose preview is read.
const RAW_EXTENSIONS: [&str; 15] =
    ["dng", "cr2", "cr3", "nef", "nrw", "arw", "sr2", "raf", "rw2", "orf", "pef", "srw", "3fr", "erf", "kdc"];

/// Whether the name ends as a photo's does.
pub fn looks_like_a_photo(path: &Path) -> bool {
    ends_like(path, &EXTENSIONS) || ends_like(path, &RAW_EXTENSIONS)
}

fn ends_like(path: &Path, extensions: &[&str]) -> bool {
    let extension = path.extension().map(|ext| ext.to_string_lossy().to_lowercase());
    extension.is_some_and(|ext| extensions.contains(&ext.as_str()))
}

/// Folders of systems and programs, whose pictures nobody took.
const SYSTEM_FOLDERS: [&str; 6] =
    ["$RECYCLE.BIN", "System Volume Information", "lost+found", "@eaDir", "node_modules", "__MACOSX"];
/// A file of this name excludes what stands in it, as `.gitignore` does.
const IGNORE_FILE: &str = ".mmgemignore";

/// Photos below some folders.
#[derive(Clone, Debug, Default)]
pub struct FoundPhotos {
    /// The folders, as the system calls them.
    pub roots: Vec<PathBuf>,
    /// Sorted; with the folders as above.
    pub photos: Vec<PathBuf>,
    /// Every folder could be listed.
    pub complete: bool,
    /// Folders that could not be listed, and ignore files that could not be read, with the reason.
    pub passed_over: Vec<(PathBuf, String)>,
}

/// The photos in folders and below them, sorted by path; a file that is named is taken as it is.
///
/// Hidden files and folders, those of systems and programs, linked folders (they may lead back up), and
/// what `exclude` (as lines of a `.gitignore`) or a file `.mmgemignore` says are left out.
///
/// # Errors
/// When a path is not there or a pattern is none.
pub fn walk(roots: &[PathBuf], exclude: &[String], quiet: bool) -> Result<FoundPhotos> {
    let exclude = Excludes::new(exclude.iter().map(String::as_str))
        .context("--exclude wants patterns, as `*.png` or `drafts/`")?;
    let mut walk = Walk { found: FoundPhotos { complete: true, ..FoundPhotos::default() }, quiet };
    for root in roots {
        let root = root
            .canonicalize()
            .with_context(|| format!("cannot list the folder\n  folder: {}", root.display()))?;
        if root.is_file() {
            walk.found.photos.push(root.clone());
        } else {
            walk.folder(&root, &[(root.clone(), exclude.clone())]);
        }
        walk.found.roots.push(root);
    }
    walk.found.photos.sort();
    walk.found.photos.dedup();
    Ok(walk.found)
}

struct Walk {
    found: FoundPhotos,
    quiet: bool,
}

impl Walk {
    /// `excludes` are those of the folders above, each with its folder; the innermost come last.
    fn folder(&mut self, folder: &Path, excludes: &[(PathBuf, Excludes)]) {
        let mut excludes = excludes.to_vec();
        match read_excludes(folder) {
            Ok(Some(own)) => excludes.push((folder.to_owned(), own)),
            Ok(None) => {}
            Err(error) => self.passed_over(&folder.join(IGNORE_FILE), &error),
        }
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => return self.passed_over(folder, &error.into()),
        };
        for entry in entries {
            let entry = entry.and_then(|entry| Ok((entry.path(), entry.file_name(), entry.file_type()?)));
            let (path, name, kind) = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    self.passed_over(folder, &error.into());
                    continue;
                }
            };
            let nobodys = SYSTEM_FOLDERS.iter().any(|system| name == *system);
            let left_out = |(root, excludes): &(PathBuf, Excludes)| {
                excludes.leaves_out(path.strip_prefix(root).ok()?, kind.is_dir())
            };
            let hidden = name.as_encoded_bytes().first() == Some(&b'.');
            if hidden || nobodys || excludes.iter().rev().find_map(left_out) == Some(true) {
                continue;
            }
            if kind.is_dir() {
                self.folder(&path, &excludes);
            } else if looks_like_a_photo(&path) && path.is_file() {
                self.found.photos.push(path);
            }
        }
    }

    fn passed_over(&mut self, path: &Path, error: &anyhow::Error) {
        self.found.complete = false;
        self.found.passed_over.push((path.to_owned(), error.to_string()));
        note(self.quiet, format!("passed over {}: {error}", path.display()));
    }
}

fn read_excludes(folder: &Path) -> Result<Option<Excludes>> {
    let file = folder.join(IGNORE_FILE);
    if !file.is_file() {
        return Ok(None);
    }
    let text = fs::read(&file)?;
    Ok(Some(Excludes::new(String::from_utf8_lossy(&text).lines())?))
}

/// [`walk`] where there must be a photo, for those who only look at them.
///
/// # Errors
/// When there is none.
pub fn find_photos(roots: &[PathBuf], quiet: bool) -> Result<FoundPhotos> {
    let found = walk(roots, &[], quiet)?;
    anyhow::ensure!(
        !found.photos.is_empty(),
        "found no photo (wanted .{})\n  folder: {}",
        EXTENSIONS.join(", ."),
        roots.iter().map(|root| root.display().to_string()).collect::<Vec<_>>().join(", ")
    );
    Ok(found)
}

/// Reads and decodes a photo. One of more than 200 megapixels comes out smaller: see [`read_decoded`].
pub fn read_photo(path: &Path) -> Result<Rgb> {
    Ok(read_decoded(path)?.pixels)
}

/// Reads and decodes a photo, and names on stderr one of which a part is missing.
pub fn read_decoded(path: &Path) -> Result<Decoded> {
    let bytes = files::read(path)?;
    let decoded = decode_photo(path, &bytes, u32::MAX)
        .with_context(|| format!("the photo cannot be used\n  file: {}", path.display()))?;
    if let Some(problem) = &decoded.problem {
        note(false, format!("{}: {problem}", path.display()));
    }
    Ok(decoded)
}

/// Decodes a photo, as small as `least_side` allows ([`decode_scaled`]); of a raw one its preview.
///
/// Of one that is cut short or damaged it takes what there is, and says so in [`Decoded::problem`].
pub fn decode_photo(path: &Path, bytes: &[u8], least_side: u32) -> Result<Decoded> {
    let limits = DecodeLimits::default();
    if !ends_like(path, &RAW_EXTENSIONS) {
        return Ok(decode_scaled(bytes, limits, least_side)?);
    }
    let preview = embedded_jpeg(bytes)
        .context("the raw photo has no preview; wanted a JPEG in it: export it as a JPEG")?;
    let decoded = Decoded { format: "RAW", ..decode_scaled(preview, limits, least_side)? };
    match (Facts::of(preview).orientation, Facts::of(bytes).orientation) {
        // The preview said it itself, and has been turned.
        (Some(_), _) | (None, None) => Ok(decoded),
        (None, Some(turn)) => Ok(decoded.turned(turn)),
    }
}

fn read_input(path: &Path, config: &ImagePreprocess) -> Result<Preprocessed> {
    Ok(read_decoded(path)?.preprocess(config))
}

/// Unit vector of a whole photo.
pub fn whole_embed(context: &Context, encoded: &EncodedImage) -> Result<Vec<f32>> {
    Ok(pollster::block_on(context.session.embed_image(encoded, &Part::Whole))?)
}

/// Reads photos in parallel, encodes them in batches and hands them over one by one, in order; a bad
/// one is passed over.
///
/// # Errors
/// When no photo can be used, or with `--strict` one cannot.
pub fn for_each_encoded(
    context: &Context,
    paths: &[PathBuf],
    take: impl FnMut(&Path, &EncodedImage) -> Result<()>,
) -> Result<()> {
    let mut passed_over = PassedOver::new(paths.len(), context.strict);
    encode_each(context, paths, &mut passed_over, take)?;
    passed_over.finish(context.quiet)
}

/// [`for_each_encoded`] where the photos are some of those that `passed_over` counts.
pub fn encode_each(
    context: &Context,
    paths: &[PathBuf],
    passed_over: &mut PassedOver,
    mut take: impl FnMut(&Path, &EncodedImage) -> Result<()>,
) -> Result<()> {
    let config = context.session.config().preprocess();
    let bar = progress_bar(paths.len(), "photos", context.quiet || paths.len() < BATCH);
    for batch in paths.chunks(BATCH) {
        let inputs: Vec<Result<Preprocessed>> =
            batch.par_iter().map(|path| read_input(path, &config)).collect();
        let (mut names, mut photos) = (Vec::new(), Vec::new());
        for (path, input) in batch.iter().zip(inputs) {
            if let Some(input) = passed_over.take(path, input, Some(&bar))? {
                names.push(path);
                photos.push(input);
            }
        }
        if !photos.is_empty() {
            for (path, encoded) in names.into_iter().zip(&context.session.encode_batch(&photos)) {
                take(path, encoded)?;
            }
        }
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(found: &FoundPhotos, root: &Path) -> Vec<String> {
        let name = |path: &PathBuf| {
            let root = root.canonicalize().expect("it is there");
            path.strip_prefix(root).expect("below").to_string_lossy().replace('\\', "/")
        };
        found.photos.iter().map(name).collect()
    }

    #[test]
    fn hidden_excluded_and_system_folders_are_left_out() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path();
        for path in [
            "a.jpg",
            "b.txt",
            ".hidden.jpg",
            ".thumbs/c.jpg",
            "@eaDir/d.jpg",
            "sub dir/é/e.PNG",
            "raw/f.jpg",
            "raw/keep/g.jpg",
            "h.gif",
        ] {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("below")).expect("writable");
            fs::write(path, b"").expect("writable");
        }
        let found = |exclude: &[&str]| {
            let exclude: Vec<String> = exclude.iter().map(ToString::to_string).collect();
            walk(&[root.to_owned()], &exclude, true).expect("it is there")
        };
        let all = ["a.jpg", "h.gif", "raw/f.jpg", "raw/keep/g.jpg", "sub dir/é/e.PNG"];
        assert_eq!(names(&found(&[]), root), all);
        assert_eq!(names(&found(&["raw/", "*.gif"]), root), ["a.jpg", "sub dir/é/e.PNG"]);
        fs::write(root.join(IGNORE_FILE), "raw/*\n!raw/keep\n").expect("writable");
        assert_eq!(names(&found(&[]), root), ["a.jpg", "h.gif", "raw/keep/g.jpg", "sub dir/é/e.PNG"]);
        assert!(walk(&[root.join("missing")], &[], true).is_err());
    }

    #[test]
    #[cfg(unix)]
    fn links_do_not_lead_in_circles() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("a.jpg"), b"").expect("writable");
        std::os::unix::fs::symlink(folder.path(), folder.path().join("up")).expect("links work");
        std::os::unix::fs::symlink(folder.path().join("a.jpg"), folder.path().join("b.jpg")).expect("links");
        std::os::unix::fs::symlink("nowhere", folder.path().join("c.jpg")).expect("links work");
        let found = walk(&[folder.path().to_owned()], &[], true).expect("it is there");
        assert_eq!(names(&found, folder.path()), ["a.jpg", "b.jpg"]);
    }

    #[test]
    fn the_preview_of_a_raw_photo_is_turned_as_its_container_says() {
        // Little-endian TIFF with one entry: tag 0x0112, type SHORT, one value, 6.
        let container = *b"II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let preview = mmgem_core::image::to_jpeg(&Rgb::new(40, 30), 80);
        let raw = [container.as_slice(), &preview].concat();
        let decoded = decode_photo(Path::new("a.NEF"), &raw, u32::MAX).expect("it has a preview");
        assert_eq!((decoded.width, decoded.height, decoded.format), (30, 40, "RAW"));
        let error = decode_photo(Path::new("a.dng"), &container, 1).expect_err("it has none").to_string();
        assert!(error.contains("no preview"), "{error}");
    }

    #[test]
    fn photos_are_known_by_their_extension() {
        for (name, wanted) in
            [("a.JPG", true), ("b/c.png", true), ("a.Cr2", true), ("a.txt", false), ("jpg", false)]
        {
            assert_eq!(looks_like_a_photo(Path::new(name)), wanted, "{name}");
        }
    }
}
