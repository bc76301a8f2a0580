//! A model on a benchmark: photos are read in batches, and only what the scores need is kept.

mod answers;
mod captions;
mod clicks;
mod encoder;
mod regions;
mod retrieval;
mod zero_shot;

use mmgem_core::session::SessionError;
use mmgem_data::benchmark::{BenchmarkError, Seen};

pub use answers::Proposals;
pub use captions::{CaptionRun, captions, unscored_captions};
pub use clicks::{ClickCase, ClickEval, ClickRun, clicks};
pub use encoder::Encoder;
pub use regions::{RegionCase, RegionEval, RegionRun, regions};
pub use retrieval::{RetrievalOptions, RetrievalRun, retrieval};
pub use zero_shot::{ClassRun, Prediction, zero_shot};

use super::caption::CaptionError;
use super::retrieval::RetrievalError;
use crate::gallery::GalleryError;
use crate::open_clip::OpenClipError;

/// Texts that go through the model at once.
const TEXT_BATCH: usize = 128;

/// Why an evaluation cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The benchmark.
    #[error(transparent)]
    Benchmark(#[from] BenchmarkError),
    /// The model or its device.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A model that MM-GEM is compared with.
    #[error(transparent)]
    OpenClip(#[from] OpenClipError),
    /// The captions.
    #[error(transparent)]
    Caption(#[from] CaptionError),
    /// The rankings.
    #[error(transparent)]
    Retrieval(#[from] RetrievalError),
    /// The galleries.
    #[error(transparent)]
    Gallery(#[from] GalleryError),
    /// Nothing to evaluate on.
    #[error(
        "the data hold no {0}\n  hint: wanted are a benchmark's files, or WebDataset samples with a photo and a .json of captions and regions"
    )]
    Nothing(&'static str),
    /// Photos are there, but none can be used.
    #[error("none of the photos can be used: {n} were passed over, the first: {first}")]
    Unusable {
        /// Photos passed over.
        n: usize,
        /// The first and why.
        first: String,
    },
}

/// Why there is nothing to score: no photo could be used, or none has what is asked for.
fn nothing(what: &'static str, seen: &Seen) -> EvalError {
    match seen.skipped.first() {
        Some(first) if seen.n_photos == 0 => {
            EvalError::Unusable { n: seen.skipped.len(), first: first.clone() }
        }
        _ => EvalError::Nothing(what),
    }
}

/// Told how far a run is: what is counted, how many are done, and of how many.
pub type Tick<'a> = &'a mut dyn FnMut(&'static str, usize, usize);
