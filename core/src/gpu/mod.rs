//! Kernels for GPUs: what Burn does there in several dispatches, in one.
//!
//! `model::ops` says what each means, in Burn's operations; it comes here where the tensors are on a GPU, in f32 (a
//! product's weights may be f16) and outside a gradient's graph. Which of the two runs changes a result by rounding only. Written in CubeCL, so they run
//! wherever Burn does: Vulkan, Metal, DX12, WebGPU.

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
