//! The commands, one file each: arguments to plain values, a call into the core, results printed.

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
