//! Training runs of a tiny model: what learns, what survives a kill, and what damaged data does.

mod damage;
mod disk;
mod lab;
mod learning;
mod records;
mod resume;
#[path = "../tiny.rs"]
mod tiny;
