//! Scores of captions, retrieval, classification and localisation: plain slices in, numbers out.

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
