//! Finds, reads and encodes photos, with progress and problems on stderr.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use mmgem_core::image::{Decoded, ImagePreprocess, Preprocessed, Rgb};
use mmgem_core::session::{EncodedImage, Part};
use rayon::prelude::*;

use crate::context::Context;
pub use crate::library::photos::{FoundPhotos, Root};
use crate::library::{LibraryError, photos};
use crate::names::printable_path;
use crate::terminal::{SkippedFiles, note, progress_bar};

/// Photos per batch of the image encoder.
const BATCH: usize = 16;

/// The photos in and below some folders; notes folders and ignore files that cannot be read.
///
/// # Errors
/// When a path is missing or a pattern is invalid.
pub fn walk(roots: &[Root], quiet: bool) -> Result<FoundPhotos> {
    let found = photos::walk(roots)?;
    for (path, why) in &found.skipped {
        note(quiet, format!("passed over {}: {why}", printable_path(path)));
    }
    Ok(found)
}

/// [`walk`] for commands that only read the photos; notes which ones are left out.
///
/// # Errors
/// When there are no photos.
pub fn find_photos(folders: &[PathBuf], quiet: bool) -> Result<FoundPhotos> {
    let roots: Vec<Root> = folders.iter().cloned().map(Root::from).collect();
    let found = walk(&roots, quiet)?;
    if let Some(left_out) = found.left_out.in_words() {
        note(quiet, left_out);
    }
    if found.photos.is_empty() {
        return Err(LibraryError::NoPhoto(folders.to_vec()).into());
    }
    Ok(found)
}

/// The photos of a command line. Windows' shells pass on `*.jpg` as it is, so the program expands it
/// there.
pub fn named_photos(paths: &[PathBuf]) -> Vec<PathBuf> {
    if !cfg!(windows) {
        return paths.to_vec();
    }
    paths.iter().flat_map(|path| expanded(path)).collect()
}

/// The files that a path with `*` or `?` in its name stands for, sorted. The path itself if it
/// exists, or if there is no such file.
fn expanded(path: &Path) -> Vec<PathBuf> {
    let itself = || vec![path.to_owned()];
    let Some(pattern) = path.file_name().and_then(OsStr::to_str) else { return itself() };
    if !pattern.contains(['*', '?']) || path.exists() {
        return itself();
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let listed = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let pattern: Vec<char> = pattern.to_lowercase().chars().collect();
    let mut files: Vec<PathBuf> = fs::read_dir(listed)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name())
        .filter(|name| {
            let name: Vec<char> = name.to_string_lossy().to_lowercase().chars().collect();
            matches_wildcards(&name, &pattern)
        })
        .map(|name| folder.join(name))
        .collect();
    files.sort();
    if files.is_empty() { itself() } else { files }
}

/// Whether a name matches a pattern: `*` stands for any characters, `?` for one.
fn matches_wildcards(name: &[char], pattern: &[char]) -> bool {
    match (pattern, name) {
        ([], _) => name.is_empty(),
        (['*', rest @ ..], _) => (0..=name.len()).any(|at| matches_wildcards(&name[at..], rest)),
        (['?', rest @ ..], [_, others @ ..]) => matches_wildcards(others, rest),
        ([wanted, rest @ ..], [found, others @ ..]) => {
            wanted == found && matches_wildcards(others, rest)
        }
        (_, []) => false,
    }
}

/// Reads and decodes a photo. A photo of more than 200 megapixels is scaled down: see
/// [`read_decoded`].
pub fn read_photo(path: &Path) -> Result<Rgb> {
    Ok(read_decoded(path)?.pixels)
}

/// Reads and decodes a photo; warns on stderr if a part of it is missing.
pub fn read_decoded(path: &Path) -> Result<Decoded> {
    let decoded = photos::read_decoded(path)?;
    if let Some(problem) = &decoded.problem {
        warn_of_part(path, problem);
    }
    Ok(decoded)
}

/// Warns on stderr that a part of a photo is missing.
pub fn warn_of_part(path: &Path, problem: &str) {
    note(false, format!("{}: {problem}", printable_path(path)));
}

fn read_input(path: &Path, config: &ImagePreprocess) -> Result<Preprocessed> {
    Ok(read_decoded(path)?.preprocess(config))
}

/// Embedding of a whole photo, of unit length.
pub fn whole_embed(context: &Context, encoded: &EncodedImage) -> Result<Vec<f32>> {
    Ok(pollster::block_on(context.session.embed_image(encoded, &Part::Whole))?)
}

/// Reads photos in parallel, encodes them in batches and passes them to `take` one by one, in
/// order. Skips photos that cannot be read; returns them with the reason.
///
/// # Errors
/// When no photo can be read, or when `strict` is set and one cannot be read.
pub fn for_each_encoded(
    context: &Context,
    paths: &[PathBuf],
    take: impl FnMut(&Path, &EncodedImage) -> Result<()>,
) -> Result<Vec<(PathBuf, String)>> {
    let mut skipped = SkippedFiles::new(paths.len(), context.strict);
    encode_each(context, paths, &mut skipped, take)?;
    let failed = skipped.failed().to_vec();
    skipped.finish(context.quiet)?;
    Ok(failed)
}

/// [`for_each_encoded`] for a part of the photos that `skipped` counts.
pub fn encode_each(
    context: &Context,
    paths: &[PathBuf],
    skipped: &mut SkippedFiles,
    mut take: impl FnMut(&Path, &EncodedImage) -> Result<()>,
) -> Result<()> {
    let config = context.session.config().preprocess();
    let bar = progress_bar(paths.len(), "photos", context.quiet || paths.len() < BATCH);
    for batch in paths.chunks(BATCH) {
        let inputs: Vec<Result<Preprocessed>> =
            batch.par_iter().map(|path| read_input(path, &config)).collect();
        let (mut names, mut photos) = (Vec::new(), Vec::new());
        for (path, input) in batch.iter().zip(inputs) {
            if let Some(input) = skipped.take(path, input, Some(&bar))? {
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

    #[test]
    fn a_windows_shell_leaves_wildcards_to_the_program() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for name in ["b.JPG", "a ü.jpg", "c.png", "jpg"] {
            fs::write(folder.path().join(name), "").expect("writable");
        }
        let check = |pattern: &str, wanted: &[&str]| {
            let wanted: Vec<PathBuf> = wanted.iter().map(|name| folder.path().join(name)).collect();
            assert_eq!(expanded(&folder.path().join(pattern)), wanted, "{pattern}");
        };
        check("*.jpg", &["a ü.jpg", "b.JPG"]);
        check("?.*g", &["b.JPG", "c.png"]);
        check("a ?.jpg", &["a ü.jpg"]);
        check("*", &["a ü.jpg", "b.JPG", "c.png", "jpg"]);
        check("*.gif", &["*.gif"]);
        check("c.png", &["c.png"]);
    }
}
