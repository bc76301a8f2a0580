//! Metrics: plain slices in, numbers out.

pub mod bootstrap;
pub mod caption;
pub mod classification;
pub mod coco;
pub mod dense;
pub mod ptb;
pub mod ranking;
pub mod region;
pub mod retrieval;
