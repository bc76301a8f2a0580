//! Photos on disk: finding, reading and encoding them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use mmgem_core::files;
use mmgem_core::image::{ImagePreprocess, Preprocessed, Rgb, decode, preprocess};
use mmgem_core::session::EncodedImage;
use rayon::prelude::*;

use crate::context::Context;
use crate::terminal::{PassedOver, progress_bar};

/// Photos that go through the image encoder at once.
const BATCH: usize = 16;

/// Extensions of the formats that can be read.
const EXTENSIONS: [&str; 9] = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "jfif"];

/// Whether the name ends as a photo's does.
pub fn looks_like_a_photo(path: &Path) -> bool {
    let extension = path.extension().map(|ext| ext.to_string_lossy().to_lowercase());
    extension.is_some_and(|ext| EXTENSIONS.contains(&ext.as_str()))
}

/// The photos in folders and below them, sorted by path; a file that is named is taken as it is.
///
/// # Errors
/// When a path is not there or a folder cannot be listed.
pub fn find_photos(roots: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut photos = Vec::new();
    for root in roots {
        if root.is_file() {
            photos.push(root.clone());
        } else {
            collect(root, &mut photos)
                .with_context(|| format!("cannot list the folder\n  folder: {}", root.display()))?;
        }
    }
    photos.sort();
    photos.dedup();
    anyhow::ensure!(
        !photos.is_empty(),
        "found no photo (wanted .{})\n  folder: {}",
        EXTENSIONS.join(", ."),
        roots.iter().map(|root| root.display().to_string()).collect::<Vec<_>>().join(", ")
    );
    Ok(photos)
}

/// Linked folders are left alone: they may lead back up.
fn collect(folder: &Path, photos: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if hidden {
            continue;
        }
        if entry.file_type()?.is_dir() {
            collect(&path, photos)?;
        } else if looks_like_a_photo(&path) && path.is_file() {
            photos.push(path);
        }
    }
    Ok(())
}

/// Reads and decodes a photo.
pub fn read_photo(path: &Path) -> Result<Rgb> {
    let bytes = files::read(path)?;
    decode(&bytes, Default::default())
        .with_context(|| format!("the photo cannot be used\n  file: {}", path.display()))
}

fn read_input(path: &Path, config: &ImagePreprocess) -> Result<Preprocessed> {
    Ok(preprocess(&read_photo(path)?, config))
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

    #[test]
    fn photos_are_known_by_their_extension() {
        for (name, wanted) in [("a.JPG", true), ("b/c.png", true), ("a.txt", false), ("jpg", false)] {
            assert_eq!(looks_like_a_photo(Path::new(name)), wanted, "{name}");
        }
    }
}
