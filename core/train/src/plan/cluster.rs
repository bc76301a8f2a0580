//! Estimates the costs of a run that depend on its number of ranks: network, host and disk.
//!
//! Of `n` ranks, each with a link of bandwidth `B` and latency `a`, a rank needs for the sum of `S`
//! bytes and for gathering `G` bytes, after Thakur, Rabenseifner and Gropp (2005):
//!
//! - in a ring: `2 S (n-1)/n / B + 2 (n-1) a` and `G (n-1)/n / B + (n-1) a`
//! - in a tree: `2 S / B + 2 ceil(log2 n) a` and `G (n-1)/n / B + ceil(log2 n) a`
//!
//! NCCL chooses between such algorithms by itself. The gradients of transformer blocks are sent
//! during the backward pass (`overlap.rs`). So these seconds are an upper bound of what the network
//! adds to a step. How much of them the computation hides depends on the device.

use mmgem_core::config::MmGemConfig;
use serde::Serialize;

use super::{Exchanged, F32, Plan, plan};
use crate::config::TrainConfig;
use crate::run::AHEAD;

/// The costs of a run outside its devices.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ClusterPlan {
    /// Seconds of a step's transfers in a ring, if the config gives the bandwidth.
    pub ring_secs: Option<f64>,
    /// The same in a tree.
    pub tree_secs: Option<f64>,
    /// Photos that a rank must read and decode in a second so that its device never waits.
    pub photos_per_sec: Option<f64>,
    /// Bytes of a host's memory: the batches that its ranks prepare ahead, and one copy of a
    /// checkpoint.
    pub host_bytes: f64,
    /// Bytes of a checkpoint: weights, and of each trained parameter two moments and the average.
    pub checkpoint_bytes: f64,
    /// Seconds to write a checkpoint, if the config gives the disk's rate.
    pub checkpoint_secs: Option<f64>,
}

impl ClusterPlan {
    pub(super) fn new(
        plan: &Plan,
        exchanged: &Exchanged,
        config: &TrainConfig,
        sizes: &MmGemConfig,
    ) -> Self {
        let hardware = &config.hardware;
        let n = plan.ranks as f64;
        let secs = |bytes: f64, hops: f64| {
            let bandwidth = hardware.network_gb_per_sec? * 1e9;
            Some(bytes / bandwidth + hops * hardware.network_latency_us * 1e-6)
        };
        let tree_bytes =
            F32.input * (2.0 * exchanged.summed as f64 + exchanged.gathered as f64 * (n - 1.0) / n);
        let stages = (2 * exchanged.n_sums + exchanged.n_gathers) as f64;
        let pixels = F32.input * 3.0 * sizes.vision.image_size().pow(2) as f64;
        let ahead = (AHEAD + 1) as f64 * plan.samples_per_rank as f64 * pixels;
        let copies = if config.optim.ema.is_some() { 3 } else { 2 };
        let checkpoint_bytes =
            F32.input * (plan.parameters + copies * plan.trained_parameters) as f64;
        Self {
            ring_secs: secs(exchanged.ring_bytes(plan.ranks), stages * (n - 1.0)),
            tree_secs: secs(tree_bytes, stages * n.log2().ceil()),
            photos_per_sec: plan.step_secs.map(|secs| plan.samples_per_rank as f64 / secs),
            host_bytes: hardware.ranks_per_host.min(plan.ranks) as f64 * ahead + checkpoint_bytes,
            checkpoint_bytes,
            checkpoint_secs: hardware.disk_gb_per_sec.map(|rate| checkpoint_bytes / (rate * 1e9)),
        }
    }

    /// Seconds of a step's transfers with the better algorithm.
    pub fn network_secs(&self) -> Option<f64> {
        Some(self.ring_secs?.min(self.tree_secs?))
    }
}

/// Doubles the ranks of a run until something else than the device limits it. Returns the number
/// of ranks and the limit.
///
/// `rate` is one rank's measured operations per second, as in [`plan`].
pub fn first_limit(
    config: &TrainConfig,
    sizes: &MmGemConfig,
    ranks: usize,
    rate: Option<f64>,
) -> (usize, String) {
    let micro_batch = config.optim.micro_batch.unwrap_or(1);
    let mut ranks = ranks;
    loop {
        ranks *= 2;
        if ranks > config.optim.batch_size {
            return (ranks, format!("the batch has only {} samples", config.optim.batch_size));
        }
        let planned = plan(config, sizes, ranks, rate);
        if let (Some(network), Some(step)) = (planned.cluster.network_secs(), planned.step_secs)
            && network > step
        {
            let text = format!("transfers take {network:.3} s of a step, computing {step:.3} s");
            return (ranks, text);
        }
        if planned.samples_per_rank < micro_batch {
            let text = format!(
                "a rank has {} samples of a step, fewer than optim.micro_batch = {micro_batch}",
                planned.samples_per_rank
            );
            return (ranks, text);
        }
    }
}
