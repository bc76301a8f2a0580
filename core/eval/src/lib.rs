//! Metrics for captions, retrieval, classification and localization, and runs of a model on a
//! benchmark.

pub mod gallery;
#[cfg(test)]
mod gold_tests;
pub mod metrics;
pub mod open_clip;
#[cfg(test)]
mod reference_tests;
pub mod run;
