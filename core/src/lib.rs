//! MM-GEM (arXiv:2405.19333): one vision encoder and one language model that search and describe
//! images.
//!
//! Start reading at [`model::mmgem`]; [`session`] is what an application sees.

pub mod checkpoint;
pub mod config;
#[cfg(feature = "cpu")]
pub mod cpu;
pub mod generate;
#[cfg(feature = "gpu")]
mod gpu;
pub mod image;
pub mod index;
pub mod init;
pub mod loss;
pub mod model;
pub mod propose;
pub mod quant;
pub mod readback;
pub mod session;
pub mod tokenizer;
