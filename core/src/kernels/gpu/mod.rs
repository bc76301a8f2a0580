//! Our GPU kernels. Each does in one dispatch what Burn does in several.
//!
//! `model::ops` defines each op in Burn's operations. It calls this module if the tensors are f32,
//! on a GPU, and without autodiff; a product's weights may be f16. Burn's ops and these kernels
//! differ only by rounding. The kernels are written in CubeCL, so they run on all of Burn's GPU
//! interfaces: Vulkan, Metal, DX12, WebGPU.

mod convolution;
mod kernels;
mod packed;
mod product;
mod tensors;
#[cfg(all(test, feature = "cpu"))]
mod tests;

pub(crate) use convolution::convolve_relu6;
pub(crate) use packed::OnGpu;
pub(crate) use product::{can_multiply, linear, linear_relu6};
pub(crate) use tensors::{
    attend, attend_packed, can_attend, gelu, is_here, layer_norm, most_probable, quick_gelu,
    rms_norm, rotate, silu_times, takes, unit_rows,
};
