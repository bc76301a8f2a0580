//! Communication between the processes of one run.
//!
//! A rank is a process with its own share of every batch. All ranks make the same calls in the same
//! order. A fact that only one rank knows is first exchanged, and then all ranks act on it.
//!
//! Messages between the hosts go through MPI, or through sockets at the launcher's `MASTER_ADDR`.
//! With `--device cuda` tensors go through NCCL (`backend-cuda/src/nccl.rs`), else through MPI.

mod cores;
mod launch;
#[cfg(feature = "mpi")]
mod mpi;
mod tcp;
mod watchdog;

use burn::tensor::Tensor;
use mmgem_core::readback::floats_now;

pub use cores::ranks_on_same_cores;
pub use launch::{Launch, LaunchError};
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
pub use tcp::Tcp;
pub use watchdog::Watchdog;

/// The processes of a run, as seen from one of them.
///
/// Tensors are f32 on this rank's device, without a graph. `exchange` carries the few bytes that
/// the host's decisions depend on.
pub trait Collective {
    /// Number of this process, from 0; rank 0 writes the run's files.
    fn rank(&self) -> usize;

    /// Number of processes.
    fn size(&self) -> usize;

    /// The bytes of every rank, in order of rank; lengths may differ.
    fn exchange(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError>;

    /// Sum over the ranks, bit-identical on each.
    fn all_reduce_sum(&self, values: Tensor<1>) -> Result<Tensor<1>, CollectiveError>;

    /// The values of all ranks, concatenated in order of rank; the length must be the same on each.
    fn all_gather(&self, values: Tensor<1>) -> Result<Tensor<1>, CollectiveError>;

    /// The values of rank `root`.
    fn broadcast(&self, values: Tensor<1>, root: usize) -> Result<Tensor<1>, CollectiveError>;

    /// Begins work that may take longer than the time-out, for example an evaluation.
    ///
    /// All ranks call it, even those without work. Until the result is dropped, a rank that waits
    /// does not time out while the ranks that it waits for are alive.
    fn busy(&self) -> Busy<'_> {
        Busy::default()
    }

    /// Waits for every rank.
    fn barrier(&self) -> Result<(), CollectiveError> {
        self.exchange(&[]).map(drop)
    }
}

/// The time of long work on some rank; see [`Collective::busy`].
#[derive(Default)]
pub struct Busy<'a> {
    end: Option<Box<dyn FnOnce() + 'a>>,
}

impl<'a> Busy<'a> {
    /// Calls `end` when the work is done.
    pub fn until(end: impl FnOnce() + 'a) -> Self {
        Self { end: Some(Box::new(end)) }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            end();
        }
    }
}

/// Errors after which the ranks cannot continue together.
#[derive(Debug, thiserror::Error)]
pub enum CollectiveError {
    /// A rank did not answer in time.
    #[error(
        "rank {rank} has waited {secs} s for {missing} in {what}\n  hint: is that process alive, and can it reach its data? Raise `cluster.timeout_secs` if it is only slow"
    )]
    TimedOut {
        /// The waiting rank.
        rank: usize,
        /// The missing ranks.
        missing: String,
        /// Seconds waited.
        secs: u64,
        /// The call.
        what: &'static str,
    },
    /// A rank has exited or its connection is closed.
    #[error(
        "{who} is gone ({cause})\n  hint: see its own output for the reason; restart the run with --resume"
    )]
    Lost {
        /// The lost rank.
        who: String,
        /// How the loss was detected.
        cause: String,
    },
    /// The ranks are out of sync.
    #[error("{0}\n  hint: do all ranks run the same program with the same config?")]
    Disagree(String),
    /// The library underneath reported an error.
    #[error("{what} failed: {cause}")]
    Failed {
        /// The call.
        what: &'static str,
        /// The library's message.
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

/// The numbers of every rank, in order of rank; each rank must send as many.
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

/// The bytes of rank 0, on every rank.
pub fn from_rank_0(group: &dyn Collective, own: &[u8]) -> Result<Vec<u8>, CollectiveError> {
    Ok(group.exchange(if group.rank() == 0 { own } else { &[] })?.swap_remove(0))
}

/// The first rank that failed and its error, the same on all ranks; `None` if none failed.
pub fn first_failure(
    group: &dyn Collective,
    own: Option<String>,
) -> Result<Option<(usize, String)>, CollectiveError> {
    let all = group.exchange(own.unwrap_or_default().as_bytes())?;
    let failed = all.iter().enumerate().find(|(_, text)| !text.is_empty());
    Ok(failed.map(|(rank, text)| (rank, String::from_utf8_lossy(text).into_owned())))
}

/// Adds neighbours, then neighbouring sums, and so on: `(a + b) + (c + d)`. So the four parts of a
/// batch have the same sum in floating point on one rank, on two and on four.
pub fn sum_in_pairs<T>(mut values: Vec<T>, add: impl Fn(T, T) -> T) -> Option<T> {
    while values.len() > 1 {
        let mut rest = values.into_iter();
        values = std::iter::from_fn(|| {
            let first = rest.next()?;
            Some(match rest.next() {
                Some(second) => add(first, second),
                None => first,
            })
        })
        .collect();
    }
    values.pop()
}

/// Copies a tensor's floats to the host.
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

    #[test]
    fn neighbours_are_added_first() {
        let sum = |n: u8| {
            let values = (0..n).map(|value| value.to_string()).collect();
            sum_in_pairs(values, |a, b| format!("({a}{b})"))
        };
        let wanted = [None, Some("0"), Some("(01)"), Some("((01)2)"), Some("((01)(23))")];
        for (n, wanted) in (0..).zip(wanted) {
            assert_eq!(sum(n).as_deref(), wanted);
        }
        assert_eq!(sum(6).as_deref(), Some("(((01)(23))(45))"));
    }
}
