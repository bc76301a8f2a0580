//! Numbers that must be equal on all ranks, bit by bit.
//!
//! A GPU may add up a tensor in another order than the GPU of another rank, because autotuning
//! selects its kernels by time. So two ranks get sums of the same values that differ in their last
//! bits. A factor made of such a sum would let the weights of the ranks drift apart. Therefore:
//!
//! - The norms that scale an update, for clipping and in LAMB, are those of rank 0.
//! - Weights are compared by their bytes. No sum is compared bit by bit.

use std::cell::Cell;

use burn::module::Module;
use burn::tensor::Tensor;
use mmgem_collective::{Collective, CollectiveError};
use mmgem_core::params::visit;
use mmgem_core::readback::floats_now;

/// Relative difference between two ranks' norms of the same gradient that rounding can explain.
const ROUNDING: f64 = 1e-3;

thread_local! {
    static IS_NUDGED: Cell<bool> = const { Cell::new(false) };
}

/// Makes the sums of this thread differ in their last bit, as those of a GPU that adds in another
/// order. For tests.
pub fn nudge_sums() {
    IS_NUDGED.set(true);
}

/// Sum of the squares of all values, `[1]`; in the device's order, which may differ by rank.
pub fn square_sum(values: Tensor<1>) -> Tensor<1> {
    let sum = values.square().sum();
    match IS_NUDGED.get() {
        true => sum * (1.0 + f64::from(f32::EPSILON)),
        false => sum,
    }
}

/// Rank 0's norm of a gradient, from those of all ranks.
///
/// # Errors
/// If a rank's norm differs by more than rounding.
pub fn agreed_norm(ranks: &[f64]) -> Result<f64, CollectiveError> {
    let first = ranks[0];
    let is_near = |norm: f64| match first.is_finite() {
        true => (norm - first).abs() <= ROUNDING * first.max(norm),
        false => !norm.is_finite(),
    };
    match ranks.iter().position(|norm| !is_near(*norm)) {
        None => Ok(first),
        Some(rank) => Err(CollectiveError::Disagree(format!(
            "rank {rank} computed a gradient with the norm {}, rank 0 with {first}",
            ranks[rank]
        ))),
    }
}

/// The values of rank 0, concatenated: a small tensor that stays on the device.
pub fn of_rank_0(
    group: &dyn Collective,
    own: Vec<Tensor<1>>,
) -> Result<Tensor<1>, CollectiveError> {
    let own = Tensor::cat(own, 0);
    if group.size() == 1 { Ok(own) } else { group.broadcast(own, 0) }
}

/// The first rank whose `state` or weights differ from rank 0's; `None` if all are equal. Reads all
/// weights to the host, one parameter at a time.
pub fn first_other<M: Module>(
    group: &dyn Collective,
    state: u64,
    module: &M,
) -> Result<Option<usize>, CollectiveError> {
    if group.size() == 1 {
        return Ok(None);
    }
    let mut hash = blake3::Hasher::new();
    hash.update(&state.to_le_bytes());
    let mut bytes = Vec::new();
    visit(module, |param| {
        hash.update(param.path.as_bytes());
        let values = floats_now(param.values());
        bytes.resize(4 * values.len(), 0);
        bytes.chunks_exact_mut(4).zip(&values).for_each(|(to, value)| {
            to.copy_from_slice(&value.to_le_bytes());
        });
        hash.update(&bytes);
    });
    let ranks = group.exchange(hash.finalize().as_bytes())?;
    Ok(ranks.iter().position(|hash| *hash != ranks[0]))
}
