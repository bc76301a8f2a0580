//! Communication through MPI (feature `mpi`).

use std::time::Duration;

use burn::tensor::{Tensor, TensorData};
use mpi::Threading;
use mpi::collective::SystemOperation;
use mpi::datatype::PartitionMut;
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Root};

use super::{Busy, Collective, CollectiveError, Watchdog, to_host};

/// Values per call: MPI counts in 32 bits, and larger messages need larger buffers.
const CHUNK: usize = 16 << 20;

/// All processes that `mpirun` started.
pub struct Mpi {
    world: SimpleCommunicator,
    watchdog: Watchdog,
    /// Finalizes MPI when dropped.
    _universe: Universe,
}

impl Mpi {
    /// Connects to the other ranks. Returns `None` if MPI cannot be started or was started before.
    pub fn connect(timeout: Duration) -> Option<Self> {
        // Only the training loop's thread makes calls.
        let (universe, _) = mpi::initialize_with_threading(Threading::Funneled)?;
        let world = universe.world();
        let watchdog = Watchdog::new(world.rank() as usize, timeout);
        Some(Self { world, watchdog, _universe: universe })
    }

    /// Aborts all ranks, after an error that the others do not know of.
    pub fn abort(&self) -> ! {
        self.world.abort(1)
    }
}

impl Collective for Mpi {
    fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    fn size(&self) -> usize {
        self.world.size() as usize
    }

    fn exchange(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError> {
        let mut lens = vec![0u64; self.size()];
        self.watchdog
            .guard("exchange", || self.world.all_gather_into(&(own.len() as u64), &mut lens[..]));
        let total: u64 = lens.iter().sum();
        let total = i32::try_from(total).map_err(|_| CollectiveError::Failed {
            what: "exchange",
            cause: format!("{total} bytes are more than MPI counts"),
        })?;
        let counts: Vec<i32> = lens.iter().map(|len| *len as i32).collect();
        let starts: Vec<i32> = counts
            .iter()
            .scan(0, |start, count| {
                let at = *start;
                *start += count;
                Some(at)
            })
            .collect();
        // An empty vector's pointer is 1, which Open MPI takes for MPI_IN_PLACE, so empty input
        // needs a real address.
        static NOTHING: [u8; 1] = [0];
        let own = if own.is_empty() { &NOTHING[..0] } else { own };
        let mut all = vec![0u8; (total as usize).max(1)];
        let mut partition = PartitionMut::new(&mut all[..], &counts[..], &starts[..]);
        self.watchdog
            .guard("exchange", || self.world.all_gather_varcount_into(own, &mut partition));
        let range = |(start, count): (&i32, &i32)| *start as usize..(*start + *count) as usize;
        Ok(starts.iter().zip(&counts).map(range).map(|range| all[range].to_vec()).collect())
    }

    fn all_reduce_sum(&self, values: Tensor<1>) -> Result<Tensor<1>, CollectiveError> {
        let device = values.device();
        let own = to_host(values);
        let mut sum = vec![0f32; own.len()];
        for (own, sum) in own.chunks(CHUNK).zip(sum.chunks_mut(CHUNK)) {
            self.watchdog.guard("the sum of the gradients", || {
                self.world.all_reduce_into(own, sum, SystemOperation::sum());
            });
        }
        let n = sum.len();
        Ok(Tensor::from_data(TensorData::new(sum, [n]), &device))
    }

    fn all_gather(&self, values: Tensor<1>) -> Result<Tensor<1>, CollectiveError> {
        let device = values.device();
        let own = to_host(values);
        let (n, size) = (own.len(), self.size());
        let mut all = vec![0f32; n * size];
        let mut buffer = vec![0f32; n.min(CHUNK) * size];
        for (chunk_idx, own) in own.chunks(CHUNK).enumerate() {
            let buffer = &mut buffer[..own.len() * size];
            self.watchdog.guard("the gathering of the embeddings", || {
                self.world.all_gather_into(own, buffer)
            });
            for (rank, part) in buffer.chunks_exact(own.len()).enumerate() {
                let start = rank * n + chunk_idx * CHUNK;
                all[start..start + own.len()].copy_from_slice(part);
            }
        }
        Ok(Tensor::from_data(TensorData::new(all, [n * size]), &device))
    }

    fn broadcast(&self, values: Tensor<1>, root: usize) -> Result<Tensor<1>, CollectiveError> {
        let device = values.device();
        let mut values = to_host(values);
        let root = self.world.process_at_rank(root as i32);
        for chunk in values.chunks_mut(CHUNK) {
            self.watchdog.guard("a broadcast", || root.broadcast_into(chunk));
        }
        let n = values.len();
        Ok(Tensor::from_data(TensorData::new(values, [n]), &device))
    }

    /// No rank has a time limit meanwhile. `mpirun` ends all ranks if one dies.
    fn busy(&self) -> Busy<'_> {
        self.watchdog.pause()
    }
}
