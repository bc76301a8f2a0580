//! The graph of MM-GEM, one idea per file. Nothing here reads a tensor back to the host, except
//! layers that stay packed on the CPU.

pub mod efficientnet_lite;
mod inverted_residual;
mod layer_norm;
mod linear;
pub mod llama;
pub mod mmgem;
pub mod open_clip;
pub mod pool_aggregator;
#[cfg_attr(not(feature = "autodiff"), path = "no_segments.rs")]
pub mod segments;
pub mod vision;
pub mod vit;

pub use efficientnet_lite::EfficientNetLite;
pub use linear::Linear;
pub use llama::{KvCache, Llama};
pub use mmgem::{MmGem, Stage};
pub use pool_aggregator::PoolAggregator;
pub use vision::VisionTower;
pub use vit::Vit;
