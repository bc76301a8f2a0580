//! Runs a model on a benchmark: reads photos in batches, and keeps only the data that the scores
//! need.
//!
//! Every benchmark is read as the same list of photos, captions and regions
//! (`core/data/src/benchmark/`).

mod answers;
mod captions;
mod clicks;
mod encoder;
mod regions;
mod retrieval;
mod team;
mod zero_shot;

use mmgem_core::session::SessionError;
use mmgem_data::benchmark::{BenchmarkError, ReadSummary};

pub use answers::Proposals;
pub use captions::{CaptionRun, captions, captions_in_team, unscored_captions};
pub use clicks::{ClickCase, ClickEval, ClickRun, clicks};
pub use encoder::Encoder;
pub use regions::{RegionCase, RegionEval, RegionRun, regions, regions_in_team};
pub use retrieval::{RetrievalOptions, RetrievalRun, retrieval, retrieval_in_team};
pub use team::{Alone, Team};
pub use zero_shot::{ClassRun, Prediction, zero_shot};

use crate::gallery::GalleryError;
use crate::metrics::caption::CaptionError;
use crate::metrics::retrieval::RetrievalError;
use crate::open_clip::OpenClipError;

/// Texts per forward pass.
const TEXT_BATCH: usize = 128;

/// Errors of an evaluation.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The benchmark cannot be read.
    #[error(transparent)]
    Benchmark(#[from] BenchmarkError),
    /// The model or its device failed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The OpenCLIP baseline failed.
    #[error(transparent)]
    OpenClip(#[from] OpenClipError),
    /// The captions cannot be scored.
    #[error(transparent)]
    Caption(#[from] CaptionError),
    /// The embeddings cannot be ranked.
    #[error(transparent)]
    Retrieval(#[from] RetrievalError),
    /// The embeddings cannot be stored or ranked.
    #[error(transparent)]
    Gallery(#[from] GalleryError),
    /// The processes of the evaluation lost contact.
    #[error("the processes of the evaluation lost contact: {0}")]
    Team(Box<dyn std::error::Error + Send + Sync>),
    /// Another process of the evaluation failed.
    #[error("process {rank} of the evaluation failed: {why}")]
    OtherProcess {
        /// The process.
        rank: usize,
        /// Its error message.
        why: String,
    },
    /// The data has nothing to evaluate.
    #[error(
        "the data hold no {0}\n  hint: pass a benchmark's files, or WebDataset samples with a photo and a .json of captions and regions"
    )]
    Nothing(&'static str),
    /// The data has photos, but none can be used.
    #[error("none of the photos can be used: {n} were passed over, the first: {first}")]
    Unusable {
        /// Number of photos skipped.
        n: usize,
        /// The first skipped photo and the reason.
        first: String,
    },
}

/// The error if there is nothing to score: no photo could be used, or none has a `what`.
fn nothing_to_score(what: &'static str, summary: &ReadSummary) -> EvalError {
    match summary.skipped.first() {
        Some(first) if summary.n_photos == 0 => {
            EvalError::Unusable { n: summary.skipped.len(), first: first.clone() }
        }
        _ => EvalError::Nothing(what),
    }
}

/// Progress callback: the unit that is counted, the number done, and the total.
pub type Tick<'a> = &'a mut dyn FnMut(&'static str, usize, usize);
