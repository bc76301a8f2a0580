//! Training and evaluation data on disk.

pub mod source;
pub mod webdataset;
