//! The commands, one file or folder each. A command turns its arguments into plain values, calls
//! the core and prints the results.

pub mod app;
pub mod bench;
pub mod calibrate;
pub mod caption;
pub mod demo;
pub mod embed;
pub mod embed_shards;
pub mod eval;
pub mod export;
pub mod import;
pub mod index;
pub mod indexing;
pub mod info;
pub mod localize;
pub mod plan;
pub mod scenes;
pub mod search;
pub mod train;
pub mod verify;
pub mod web;
