//! `model.safetensors`: which tensor is which, reading with every doubt an error, writing.

mod fingerprint;
pub mod import;
pub mod names;
mod read;
mod write;

pub use fingerprint::fingerprint;
pub use read::{CheckpointError, Shards, load};
pub use write::{Dtype, named_tensors, to_safetensors};
