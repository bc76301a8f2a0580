//! The operations' GPU forms, and their common parts.
//!
//! Each form does in one dispatch what Burn does in up to a dozen. Burn's ops and these kernels
//! differ only by rounding. The kernels are written in CubeCL, so they run on all of Burn's GPU
//! interfaces: Vulkan, Metal, DX12, WebGPU.
//!
//! Weights may be f16; activations and sums are f32. Burn's ops run instead for gradients, in bf16,
//! and with Burn's fusion (CUDA). `backend-wgpu/src/traffic.rs` counts the dispatches.
//!
//! A cube is a group of units that share memory and can synchronise (WebGPU's workgroup). Sizes
//! that are the same at every call are compile-time constants.

mod cube;
mod launch;
mod tensors;
#[cfg(all(test, feature = "cpu"))]
mod tests;

#[path = "../activations/gpu.rs"]
pub mod activations;
#[path = "../attention/gpu.rs"]
pub mod attention;
#[path = "../convolution/gpu.rs"]
pub mod convolution;
#[path = "../layer_norm/gpu.rs"]
pub mod layer_norm;
#[path = "../linear/gpu.rs"]
pub mod linear;
#[path = "../most_probable/gpu.rs"]
pub mod most_probable;
#[path = "../quant/gpu.rs"]
pub mod quant;
#[path = "../rms_norm/gpu.rs"]
pub mod rms_norm;
#[path = "../rotary/gpu.rs"]
pub mod rotary;
#[path = "../unit_rows/gpu.rs"]
pub mod unit_rows;

pub use tensors::{is_plain_gpu_f32, supports};
