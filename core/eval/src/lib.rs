//! Metrics for captions, retrieval, classification and localization. They take plain slices and
//! return numbers.

pub mod bootstrap;
pub mod caption;
pub mod classification;
pub mod coco;
pub mod dense;
pub mod gallery;
#[cfg(test)]
mod gold_tests;
pub mod open_clip;
pub mod ptb;
pub mod ranking;
#[cfg(test)]
mod reference_tests;
pub mod region;
pub mod retrieval;
pub mod run;
