//! Finds, reads and encodes photos, with progress and problems on stderr.

use std::path::{Path, PathBuf};

use anyhow::Result;
use mmgem_core::image::{Decoded, ImagePreprocess, Preprocessed, Rgb};
use mmgem_core::session::{EncodedImage, Part};
use rayon::prelude::*;

use crate::context::Context;
pub use crate::library::photos::{FoundPhotos, Root, decode_photo};
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
