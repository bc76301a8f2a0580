//! Training and evaluation data on disk.

pub mod benchmark;
mod command;
pub mod files;
pub mod mixture;
pub mod parquet;
pub mod patterns;
pub mod source;
pub mod stream;
mod unpack;
pub mod visual_genome;
pub mod webdataset;
mod zip;
