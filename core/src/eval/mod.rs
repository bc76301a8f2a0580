//! Scores of captions, retrieval and localisation: plain slices in, numbers out.

pub mod caption;
pub mod coco;
#[cfg(test)]
mod gold_tests;
#[cfg(feature = "files")]
pub mod held_out;
pub mod ptb;
pub mod region;
pub mod retrieval;
