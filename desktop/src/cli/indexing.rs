//! Updates a library, with progress and skipped files on stderr.

use std::ops::ControlFlow;
use std::path::Path;

use anyhow::Result;
use indicatif::ProgressBar;

use crate::context::Context;
use crate::library::{IndexObserver, Indexing, Library, LibraryError, Summary};
use crate::photos::{FoundPhotos, warn_of_part};
use crate::terminal::{SkippedFiles, progress_bar};

/// Fewer files than this show no progress bar.
const FEW: usize = 16;

/// Updates the library to match the files found below some folders.
///
/// # Errors
/// When the library cannot be written or none of the found files can be read. With `--strict`, also
/// when one file cannot be read. Batches that were written stay.
pub fn update(
    library: &mut Library,
    found: &FoundPhotos,
    indexing: Indexing,
    context: &Context,
) -> Result<Summary> {
    let mut terminal = OnTerminal {
        bar: ProgressBar::hidden(),
        skipped: SkippedFiles::new(found.photos.len(), context.strict),
        quiet: context.quiet,
        failed: None,
    };
    let summary = library.update(found, indexing, &mut terminal)?;
    if let Some(error) = terminal.failed {
        return Err(error);
    }
    terminal.bar.finish_and_clear();
    terminal.skipped.finish(context.quiet)?;
    Ok(summary)
}

/// Shows a progress bar and the skipped files.
struct OnTerminal {
    bar: ProgressBar,
    skipped: SkippedFiles,
    quiet: bool,
    /// The problem that ended the update.
    failed: Option<anyhow::Error>,
}

impl IndexObserver for OnTerminal {
    fn begin(&mut self, n_files: usize) {
        self.bar = progress_bar(n_files, "photos", self.quiet || n_files < FEW);
    }

    fn advance(&mut self, n_files: usize) -> ControlFlow<()> {
        self.bar.inc(n_files as u64);
        ControlFlow::Continue(())
    }

    fn refuse(&mut self, path: &Path, error: LibraryError) -> ControlFlow<()> {
        match self.skipped.take(path, Err::<(), _>(error.into()), Some(&self.bar)) {
            Ok(_) => ControlFlow::Continue(()),
            Err(error) => {
                self.failed = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    fn warn(&mut self, path: &Path, problem: &str) {
        self.bar.suspend(|| warn_of_part(path, problem));
    }
}
