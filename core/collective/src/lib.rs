//! How the processes of one run talk to each other.
//!
//! A rank is a process with its own share of every batch. All ranks make the same calls in the same
//! order; whatever only one of them knows is told to all before anyone acts on it.

mod launch;
#[cfg(feature = "mpi")]
mod mpi;
mod tcp;
mod watchdog;

use burn::tensor::Tensor;
use mmgem_core::readback::floats_now;

pub use launch::{Launch, LaunchError};
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
pub use tcp::Tcp;
pub use watchdog::Watchdog;

/// The processes of a run, seen from one of them.
///
/// Tensors are plain ones (without a graph) of f32 on this rank's device; `exchange` carries the few bytes
/// that the host decides by.
pub trait Collective {
    /// Number of this process, from 0; rank 0 writes the run's files.
    fn rank(&self) -> usize;

    /// Number of processes.
    fn size(&self) -> usize;

    /// The bytes of every rank, in order of rank; they need not be equally many.
    fn exchange(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError>;

    /// Sum over the ranks, the same to the last bit on each.
    fn all_reduce_sum(&self, values: Tensor<1>) -> Result<Tensor<1>, CollectiveError>;

    /// The values of every rank one after the other; equally many on each.
    fn all_gather(&self, values: Tensor<1>) -> Result<Tensor<1>, CollectiveError>;

    /// The values of one rank.
    fn broadcast(&self, values: Tensor<1>, root: usize) -> Result<Tensor<1>, CollectiveError>;

    /// Waits until every rank is here.
    fn barrier(&self) -> Result<(), CollectiveError> {
        self.exchange(&[]).map(drop)
    }
}

/// Why the ranks cannot go on together.
#[derive(Debug, thiserror::Error)]
pub enum CollectiveError {
    /// A rank did not come in time.
    #[error(
        "rank {rank} has waited {secs} s for {missing} in {what}\n  hint: is that process alive, and its data within reach? Raise `cluster.timeout_secs` if it is only slow"
    )]
    TimedOut {
        /// Who waits.
        rank: usize,
        /// For whom.
        missing: String,
        /// For how long.
        secs: u64,
        /// In which call.
        what: &'static str,
    },
    /// A rank is gone.
    #[error(
        "{who} is gone ({cause})\n  hint: its own output says why; start the run again with --resume"
    )]
    Lost {
        /// Which.
        who: String,
        /// How that was noticed.
        cause: String,
    },
    /// The ranks are not in step.
    #[error("{0}\n  hint: do all ranks run the same program with the same config?")]
    Disagree(String),
    /// The library below said no.
    #[error("{what} failed: {cause}")]
    Failed {
        /// Which call.
        what: &'static str,
        /// The library's words.
        cause: String,
    },
}

/// A run of one process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Single;

impl Collective for Single {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn exchange(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError> {
        Ok(vec![own.to_vec()])
    }

    fn all_reduce_sum(&self, values: Tensor<1>) -> Result<Tensor<1>, CollectiveError> {
        Ok(values)
    }

    fn all_gather(&self, values: Tensor<1>) -> Result<Tensor<1>, CollectiveError> {
        Ok(values)
    }

    fn broadcast(&self, values: Tensor<1>, _root: usize) -> Result<Tensor<1>, CollectiveError> {
        Ok(values)
    }
}

/// The numbers of every rank, in order of rank; equally many on each.
pub fn exchange_numbers(
    group: &dyn Collective,
    own: &[f64],
) -> Result<Vec<Vec<f64>>, CollectiveError> {
    let bytes: Vec<u8> = own.iter().flat_map(|value| value.to_le_bytes()).collect();
    let all = group.exchange(&bytes)?;
    let number = |bytes: &[u8]| f64::from_le_bytes(bytes.try_into().expect("chunks of eight"));
    let all: Vec<Vec<f64>> =
        all.iter().map(|bytes| bytes.chunks_exact(8).map(number).collect()).collect();
    match all.iter().position(|numbers| numbers.len() != own.len()) {
        Some(rank) => Err(CollectiveError::Disagree(format!(
            "rank {rank} sent {} numbers, rank {} {}",
            all[rank].len(),
            group.rank(),
            own.len()
        ))),
        None => Ok(all),
    }
}

/// What rank 0 says.
pub fn from_rank_0(group: &dyn Collective, own: &[u8]) -> Result<Vec<u8>, CollectiveError> {
    Ok(group.exchange(if group.rank() == 0 { own } else { &[] })?.swap_remove(0))
}

/// The first rank that failed and why, told to all; none where every rank is well.
pub fn first_failure(
    group: &dyn Collective,
    own: Option<String>,
) -> Result<Option<(usize, String)>, CollectiveError> {
    let all = group.exchange(own.unwrap_or_default().as_bytes())?;
    let failed = all.iter().enumerate().find(|(_, text)| !text.is_empty());
    Ok(failed.map(|(rank, text)| (rank, String::from_utf8_lossy(text).into_owned())))
}

/// Floats of a tensor on the host.
fn to_host(values: Tensor<1>) -> Vec<f32> {
    floats_now(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_one_is_known_to_all() {
        assert_eq!(first_failure(&Single, None).unwrap(), None);
        assert_eq!(
            first_failure(&Single, Some("no disk".into())).unwrap(),
            Some((0, "no disk".into()))
        );
    }

    #[test]
    fn numbers_survive_the_journey() {
        let numbers = [f64::NAN, -0.0, 1.5e300];
        let all = exchange_numbers(&Single, &numbers).unwrap();
        assert!(all[0].iter().zip(numbers).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}
