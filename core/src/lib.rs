//! MM-GEM (arXiv:2405.19333): one vision encoder and one language model that search and describe
//! images.
//!
//! Start reading at [`model::mmgem`]; [`session`] is what an application sees.

pub mod checkpoint;
pub mod config;
pub mod generate;
pub mod image;
pub mod index;
pub mod init;
pub mod kernels;
pub mod loss;
pub mod model;
pub mod params;
pub mod propose;
pub mod session;
pub mod tokenizer;
mod vectors;

pub use kernels::{quant, readback};
pub use vectors::limit_vectors;
