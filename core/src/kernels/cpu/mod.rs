//! The operations' CPU forms, and their common parts.
//!
//! Each form does in one pass on all cores what Burn's CPU backend does in several passes or on one
//! core: SIMD for `exp` and `erf` (`elementary.rs`), attention over views without copies, products
//! with one row on all cores. Burn's ops and these kernels differ only by rounding. The kernels
//! support f32 only, so training in bf16 uses Burn's ops.
//!
//! - `lanes.rs` compiles one source for AVX-512, AVX2, NEON, wasm's SIMD and plain arrays.
//!   `limit_vectors` (`vectors.rs` of the crate) selects a narrower one, for tests and measurements.
//! - `node.rs` adds a kernel to Burn's graph, with a backward pass of one kernel.
//! - `rows.rs` shares work among rayon's threads. One image, one text or one token has a team of
//!   helpers instead (`team.rs`, `with_helpers`), because a hand-over by rayon often takes longer
//!   than the product. Batches have no team, so that an urgent request can run between their
//!   products.

mod elementary;
mod lanes;
mod node;
mod peak;
mod rows;
mod sums;
#[cfg_attr(not(feature = "autodiff"), path = "no_tape.rs")]
mod tape;
mod team;
mod tensors;
#[cfg(test)]
mod testing;

#[path = "../activations/cpu.rs"]
pub mod activations;
#[path = "../attention/cpu/mod.rs"]
pub mod attention;
#[path = "../convolution/cpu/mod.rs"]
pub mod convolution;
#[path = "../cross_entropy/cpu.rs"]
pub mod cross_entropy;
#[path = "../layer_norm/cpu.rs"]
pub mod layer_norm;
#[path = "../linear/cpu.rs"]
pub mod linear;
#[path = "../most_probable/cpu.rs"]
pub mod most_probable;
#[path = "../rms_norm/cpu.rs"]
pub mod rms_norm;
#[path = "../rotary/cpu.rs"]
pub mod rotary;

pub use peak::multiply_in_registers;
pub use rows::{for_each_chunk, n_tasks, n_threads, use_one_thread, with_helpers};
pub use tape::is_autodiff_cpu_f32;
#[cfg(feature = "autodiff")]
pub use tape::use_burn_ops_on_cpu;
pub use tensors::{is_cpu, is_plain_cpu_f32};
