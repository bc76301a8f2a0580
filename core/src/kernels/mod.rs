//! The operations of the graph: in Burn's terms, and as our kernels for the CPU and for GPUs.

pub(crate) mod attention;
#[cfg(feature = "cpu")]
pub mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
pub(crate) mod ops;
pub mod quant;
pub mod readback;
