//! Metrics for captions, retrieval, classification and localization. They take plain slices and
//! return numbers.

pub mod bootstrap;
pub mod caption;
pub mod classification;
pub mod coco;
pub mod dense;
#[cfg(test)]
mod gold_tests;
pub mod ptb;
pub mod ranking;
#[cfg(test)]
mod reference_tests;
pub mod region;
pub mod retrieval;
#[cfg(feature = "files")]
pub mod run;
