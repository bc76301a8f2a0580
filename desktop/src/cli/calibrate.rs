//! `mmgem calibrate`: the cosine that separates right hits from wrong ones.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use mmgem_core::image::decode_whole;
use mmgem_core::index::{Query, Vectors};
use mmgem_data::source::Samples;
use mmgem_data::webdataset::PhotoRecord;
use pollster::block_on;
use serde_json::{Value, json};

use crate::context::Context;
use crate::library::{Cutoff, Library, default_library};
use crate::names::printable_path;
use crate::photos::whole_embed;
use crate::terminal::{SkippedFiles, json_f32, note, print, print_json, progress_bar};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mmgem calibrate 'val-*.tar'\n  \
    mmgem calibrate 'val-*.tar' --json > cutoffs.json         (for `mmgem export --cutoffs`)\n\n\
    The command compares every caption with every photo of the shards. It prints cosines for \
    `mmgem search --min-score`: the shares of the right and of the wrong photos that each keeps. \
    If the library file exists, it stores them for the window.")]
pub struct CalibrateArgs {
    /// WebDataset shards with captioned photos; `*` matches any characters
    #[arg(value_name = "SHARDS", required = true)]
    pub shards: Vec<String>,
    /// Library file [default: the one in the platform's data folder]
    #[arg(long, value_name = "FILE")]
    pub library: Option<PathBuf>,
}

/// Shares of the right photos to compute cut-offs for.
const KEPT: [f32; 5] = [0.95, 0.9, 0.75, 0.5, 0.25];
/// Photos per encoder batch.
const BATCH: usize = 16;

/// Measures cut-offs, prints them, and stores them in the library of `--library` or the default one
/// if that file exists.
pub fn run(args: &CalibrateArgs, context: &Context) -> Result<()> {
    let cutoffs = measure(&args.shards, context)?;
    let Some(file) =
        args.library.clone().or_else(|| default_library().ok()).filter(|file| file.is_file())
    else {
        return Ok(());
    };
    let mut library =
        Library::open_to_search(&file, context.fingerprint, context.session.config().embed_dim)?;
    if library.is_read_only() {
        note(
            context.quiet,
            format!(
                "the library is read-only; the cut-offs are not stored: {}",
                printable_path(&file)
            ),
        );
        return Ok(());
    }
    library.set_cutoffs(&cutoffs)?;
    note(context.quiet, format!("stored the cut-offs for the window in {}", printable_path(&file)));
    Ok(())
}

/// Compares every caption with every photo of the shards. For some shares of the right pairs,
/// prints the cosine that keeps them and the share of the wrong pairs that it also keeps.
fn measure(shards: &[String], context: &Context) -> Result<Vec<Cutoff>> {
    let (images, texts) = embed(shards, context)?;
    let (mut right, mut wrong) = (Vec::new(), Vec::new());
    for (owner, text) in &texts {
        for photo in 0..images.len() {
            if photo == *owner { &mut right } else { &mut wrong }.push(images.score(text, photo));
        }
    }
    anyhow::ensure!(
        !right.is_empty() && !wrong.is_empty(),
        "calibration needs at least two photos with captions"
    );
    let cutoffs = cutoffs(right, &wrong);
    if context.json {
        let entry = |cutoff: &Cutoff| {
            json!({
                "kept": json_f32(cutoff.kept),
                "min_score": json_f32(cutoff.min_score),
                "passed": json_f32(cutoff.passed),
            })
        };
        let entries: Value = cutoffs.iter().map(entry).collect();
        print_json(&json!({ "photos": images.len(), "texts": texts.len(), "cutoffs": entries }))?;
        return Ok(cutoffs);
    }
    print(format!(
        "{} photos, {} texts; the shares do not depend on the number of photos",
        images.len(),
        texts.len()
    ))?;
    for Cutoff { kept, min_score, passed } in &cutoffs {
        let (kept, passed) = (100.0 * kept, 100.0 * passed);
        print(format!(
            "--min-score {min_score:.3}  keeps {kept:2.0} % of the right photos and {passed:5.2} % of the wrong"
        ))?;
    }
    Ok(cutoffs)
}

/// Vectors of the photos, and of their captions with the index of each caption's photo.
fn embed(shards: &[String], context: &Context) -> Result<(Vectors, Vec<(usize, Query)>)> {
    let session = &context.session;
    let dim = session.config().embed_dim;
    let samples = Samples::open(shards, None)?;
    let bar = progress_bar(samples.len(), "photos", context.quiet);
    let mut skipped = SkippedFiles::new(samples.len(), context.strict);
    let (mut images, mut texts) = (Vectors::new(dim), Vec::new());
    for start in (0..samples.len()).step_by(BATCH) {
        let (mut records, mut inputs) = (Vec::new(), Vec::new());
        for idx in start..(start + BATCH).min(samples.len()) {
            let read = || -> Result<_> {
                let sample = samples.read(idx)?;
                let photo = decode_whole(sample.image()?, Default::default())?;
                Ok((
                    PhotoRecord::from_sample(&sample)?,
                    photo.preprocess(&session.config().preprocess()),
                ))
            };
            if let Some((record, input)) =
                skipped.take(samples.name(idx).as_ref(), read(), Some(&bar))?
            {
                records.push(record);
                inputs.push(input);
            }
            bar.inc(1);
        }
        if inputs.is_empty() {
            continue;
        }
        for (record, encoded) in records.iter().zip(&session.encode_batch(&inputs)) {
            let captions: Vec<&str> = record.captions.iter().map(String::as_str).collect();
            if !captions.is_empty() {
                let embeds = block_on(session.embed_texts(&captions))?;
                texts.extend(embeds.chunks(dim).map(|embed| (images.len(), Query::new(embed))));
            }
            images.push(&whole_embed(context, encoded)?);
        }
    }
    bar.finish_and_clear();
    skipped.finish(context.quiet)?;
    Ok((images, texts))
}

fn cutoffs(mut right: Vec<f32>, wrong: &[f32]) -> Vec<Cutoff> {
    right.sort_by(|a, b| b.total_cmp(a));
    let cutoff = |kept: f32| {
        let n_kept = ((kept * right.len() as f32).round() as usize).clamp(1, right.len());
        let min_score = right[n_kept - 1];
        let n_passed = wrong.iter().filter(|score| **score >= min_score).count();
        Cutoff { kept, min_score, passed: n_passed as f32 / wrong.len() as f32 }
    };
    KEPT.map(cutoff).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cutoff_keeps_its_share_of_the_right_and_counts_the_wrong() {
        let right: Vec<f32> = (0..20).map(|i| i as f32 / 20.0).collect();
        let wrong = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7];
        let found = cutoffs(right, &wrong);
        let told: Vec<_> = found.iter().map(|cutoff| (cutoff.min_score, cutoff.passed)).collect();
        assert_eq!(told, [(0.05, 0.875), (0.1, 0.875), (0.25, 0.625), (0.5, 0.375), (0.75, 0.0)]);
    }
}
