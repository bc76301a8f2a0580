//! MM-GEM (arXiv:2405.19333): one vision encoder and one language model that search and describe
//! images.
//!
//! Start reading at [`model::mmgem`]; [`session`] is what an application sees.

pub mod checkpoint;
pub mod config;
#[cfg(feature = "cpu")]
mod cpu;
#[cfg(feature = "files")]
pub mod data;
pub mod eval;
#[cfg(feature = "files")]
pub mod files;
pub mod generate;
#[cfg(feature = "gpu")]
mod gpu;
pub mod image;
pub mod index;
pub mod init;
pub mod loss;
pub mod model;
pub mod open_clip;
pub mod propose;
pub mod quant;
pub mod readback;
#[cfg(feature = "scenes")]
pub mod scenes;
pub mod session;
pub mod tokenizer;
#[cfg(feature = "train")]
pub mod trace;
#[cfg(feature = "train")]
pub mod train;
