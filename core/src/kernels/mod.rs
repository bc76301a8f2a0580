//! The operations of the graph. Each is defined once in Burn's terms, which is correct on every
//! device. Most also have our kernels for the CPU and for GPUs, which are faster.
//!
//! # Add an operation
//!
//! An operation is a folder here. `rms_norm/` is a short example.
//!
//! 1. `NAME/mod.rs`: a function over tensors in Burn's terms, with its equation and its shapes. A
//!    `mod` line below. This alone is complete: it runs and trains everywhere.
//! 2. `NAME/cpu.rs`, if a CPU kernel pays: a function of the same name. It calls `run` of
//!    `cpu/node.rs` with a forward and a backward function, over slices; `vectorized!` compiles such
//!    functions for the processor's vectors. `run` serves tensors with and without autodiff. Its
//!    unit tests compare with the formula, and the gradient with finite differences. A `mod` line
//!    in `cpu/mod.rs`, and a `cpu` line in the operation's `dispatch!`.
//! 3. `NAME/gpu.rs`, if a GPU kernel pays: a CubeCL kernel, and a function of the operation's name
//!    that calls `launch!`. A `mod` line in `gpu/mod.rs`, a `gpu` line in `dispatch!`, and a
//!    comparison with the CPU in `gpu/tests.rs`.
//!
//! `dispatch.rs` decides which form runs. The features `cpu` and `gpu` compile the folders of those
//! names, with the forms that they list and the common parts of these forms.
//!
//! Norms, means and losses are computed in f32 even if the weights are bf16.

pub(crate) mod activations;
pub(crate) mod attention;
pub(crate) mod convolution;
#[cfg(feature = "cpu")]
mod cpu;
pub(crate) mod cross_entropy;
pub(crate) mod dispatch;
#[cfg(feature = "gpu")]
mod gpu;
pub(crate) mod layer_norm;
pub(crate) mod linear;
pub(crate) mod mean;
pub(crate) mod most_probable;
pub mod quant;
pub mod readback;
pub(crate) mod rms_norm;
pub(crate) mod rotary;
pub(crate) mod unit_rows;

#[cfg(all(feature = "cpu", feature = "autodiff"))]
pub use cpu::use_burn_ops_on_cpu;
#[cfg(feature = "cpu")]
pub use cpu::{multiply_in_registers, use_one_thread};
pub use dispatch::is_on_cpu;

pub(crate) use activations::{gelu, gelu_tanh, quick_gelu, relu6, silu_times};
pub(crate) use attention::{attend, attend_masked, attend_packed, heads, unpack};
pub(crate) use cross_entropy::cross_entropy;
pub(crate) use dispatch::with_helpers;
pub(crate) use layer_norm::layer_norm;
pub(crate) use linear::{linear, linear_onto, linear_relu6};
pub(crate) use mean::mean_dim;
pub(crate) use most_probable::most_probable;
pub(crate) use rms_norm::rms_norm;
pub(crate) use rotary::rotate;
pub(crate) use unit_rows::unit_rows;
