//! `model.safetensors`: which tensor is which, reading with every doubt an error, writing.

mod fingerprint;
pub mod import;
pub mod names;
mod read;
mod shards;
pub mod towers;
mod write;

pub use fingerprint::{HASH_START, fingerprint, hash_bytes};
pub use read::{CheckpointError, load, load_to_run};
pub use shards::Shards;
pub use write::{Dtype, SHARD_BYTES, named_tensors, to_safetensors, to_shards};
