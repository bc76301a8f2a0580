//! The data of an evaluation, and its progress bar.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args as ClapArgs;
use indicatif::ProgressBar;
use mmgem_data::benchmark::{Benchmark, BenchmarkFiles, LongText, ReadSummary};
use mmgem_data::patterns::expand;

use crate::context::Context;
use crate::terminal::{note, progress_bar};

/// The photos to evaluate.
#[derive(Debug, ClapArgs)]
pub(super) struct Data {
    /// WebDataset shards (`*` matches any characters), an annotation file, or a benchmark's folder
    #[arg(long, required = true, value_name = "PATH")]
    data: Vec<String>,
    /// Folder of the photos (repeatable) [default: beside the annotations]
    #[arg(long, value_name = "DIR")]
    images: Vec<PathBuf>,
    /// Split of the benchmark [default: its usual one]
    #[arg(long, value_name = "NAME")]
    split: Option<String>,
    /// Use only the first N photos
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

/// Files and folders that match the patterns. Opening the data reports a pattern without a match.
pub(super) fn named(patterns: &[String]) -> Vec<PathBuf> {
    patterns
        .iter()
        .flat_map(|pattern| expand(std::slice::from_ref(pattern)).unwrap_or_default())
        .collect()
}

impl Data {
    /// Files and folders that the evaluation reads.
    pub(super) fn inputs(&self) -> Vec<PathBuf> {
        named(&self.data).into_iter().chain(self.images.iter().cloned()).collect()
    }

    pub(super) fn open(&self, long_text: LongText) -> Result<Benchmark> {
        let mut benchmark = Benchmark::open(&BenchmarkFiles {
            data: self.data.clone(),
            images: self.images.clone(),
            split: self.split.clone(),
            long_text,
        })?;
        benchmark.truncate(self.limit.unwrap_or(usize::MAX));
        Ok(benchmark)
    }
}

/// Reports the skipped photos on stderr.
///
/// # Errors
/// If there are any, with `--strict`.
pub(super) fn note_skipped(summary: &ReadSummary, context: &Context) -> Result<()> {
    for why in &summary.skipped {
        note(false, format!("skipped {why}"));
    }
    if context.strict && !summary.skipped.is_empty() {
        anyhow::bail!("{} photos cannot be used (--strict)", summary.skipped.len());
    }
    Ok(())
}

/// A progress bar that appears with the first tick.
pub(super) struct Progress {
    quiet: bool,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(super) fn new(quiet: bool) -> Self {
        Self { quiet, bar: None }
    }

    pub(super) fn tick(&mut self, what: &'static str, done: usize, all: usize) {
        let bar = self.bar.get_or_insert_with(|| progress_bar(all, what, self.quiet));
        bar.set_position(done as u64);
    }

    pub(super) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
