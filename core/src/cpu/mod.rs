//! Kernels for the CPU: what Burn's CPU backend does in several passes or on one core, in one pass on
//! all of them.
//!
//! `model::ops` says what each means, in Burn's operations; it comes here where the tensors are on the
//! CPU and need no gradient. Which of the two runs changes a result by rounding only.

mod attention;
mod elementwise;
mod linear;
mod rows;
mod tensors;
mod vector;

pub(crate) use tensors::{
    attend, gelu, is_cpu, is_here, linear, most_probable, quick_gelu, rms_norm, rotate, silu_times,
};
