//! The commands, one file each. A command turns its arguments into plain values, calls the core and
//! prints the results.

pub mod app;
pub mod bench;
pub mod bench_search;
pub mod caption;
mod cutoff;
pub mod devices;
pub mod embed;
mod embed_shards;
pub mod eval;
pub mod export;
mod hits_page;
pub mod import;
pub mod index;
pub mod indexing;
pub mod info;
pub mod localize;
pub mod parity;
pub mod scenes;
pub mod score;
mod scorers;
pub mod search;
pub mod trace;
pub mod train;
pub mod web;
