//! Training runs of a tiny model: which weights learn, resuming, and damaged data.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test prints what it skips and measures"
)]

mod average;
mod best;
mod cache;
mod collapse;
mod contrast;
mod damage;
mod disk;
mod evaluation;
mod exact;
mod lab;
mod learning;
mod lora;
mod many_ranks;
mod overlap;
mod plan;
mod precision;
mod ranks;
mod records;
mod resume;
mod shards;
#[path = "../tiny.rs"]
mod tiny;
