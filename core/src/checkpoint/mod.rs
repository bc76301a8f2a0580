//! Reading and writing `model.safetensors`. Reading is strict: any mismatch is an error.

pub mod export;
mod fingerprint;
pub mod import;
mod llama;
pub mod names;
mod read;
mod shards;
mod stored;
pub mod towers;
mod write;

pub use fingerprint::{HASH_START, fingerprint, hash_bytes};
pub(crate) use read::transpose;
pub use read::{CheckpointError, load, load_to_run};
pub use shards::Shards;
pub use write::{
    Dtype, NamedTensor, Parameter, SHARD_BYTES, named_tensors, to_safetensors, to_shards,
};
