//! Our CPU kernels. Each does in one pass on all cores what Burn's CPU backend does in several
//! passes or on one core.
//!
//! `model::ops` defines each op in Burn's operations. It calls this module if the tensors are f32
//! on the CPU, and `graph` if a gradient is needed. Burn's ops and these kernels differ only by
//! rounding.

mod attention;
mod convolution;
#[cfg(feature = "autodiff")]
mod convolution_gradient;
mod depthwise;
mod elementwise;
#[cfg(feature = "autodiff")]
mod gradient;
#[cfg(feature = "autodiff")]
pub(crate) mod graph;
mod images;
mod lanes;
mod linear;
mod pointwise;
mod rows;
mod tensors;
mod vector;

pub(crate) use images::{
    BlockParts, depthwise_relu6, inverted_residual, linear_relu6, relu6, stem_relu6,
};
pub(crate) use rows::in_pool;
pub use rows::stay_on_this_thread;
pub use tensors::is_cpu;
#[cfg(feature = "autodiff")]
pub(crate) use tensors::is_recorded;
#[cfg(feature = "autodiff")]
pub use tensors::record_as_other_devices;
pub(crate) use tensors::{
    attend, attend_packed, gelu, is_here, layer_norm, linear, most_probable, quick_gelu, rms_norm,
    rotate, silu_times,
};
