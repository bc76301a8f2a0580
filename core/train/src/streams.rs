//! Fixed streams of a GPU for the threads of a step.
//!
//! CubeCL gives every thread that uses a GPU a stream. A stream has memory pools of its own, which
//! stay until the process ends, and a full GPU cleans only the pools of the current stream. The
//! threads of a step end with it. With a stream for each, the memory of a run would grow with every
//! step, up to CubeCL's 128 streams. So a step's threads have the same streams in every step.
//!
//! The other threads of a run need no fixed stream. The loop's thread also evaluates. The feeding
//! thread, which computes the cache's patch tokens, lives as long as the run. The threads that read
//! shards and write checkpoints use no device.

use std::sync::{Mutex, OnceLock, PoisonError};

use burn::tensor::StreamId;

/// The streams of all workers but the first, which takes its caller's.
static STREAMS: Mutex<Vec<StreamId>> = Mutex::new(Vec::new());

/// The stream on which a step's gradients are exchanged.
static EXCHANGE: OnceLock<StreamId> = OnceLock::new();

/// The stream of the thread that exchanges gradients while the workers compute. It has one of its
/// own, because a transfer waits for all that its stream has to do, and the first worker computes on
/// the caller's.
pub fn stream_of_exchange() -> StreamId {
    *EXCHANGE.get_or_init(StreamId::allocate)
}

/// The stream of a worker of a step that `caller` runs. The caller waits while its first worker
/// computes, so these two share a stream and its memory.
pub fn stream_of_worker(worker: usize, caller: StreamId) -> StreamId {
    if worker == 0 {
        return caller;
    }
    let mut streams = STREAMS.lock().unwrap_or_else(PoisonError::into_inner);
    while streams.len() < worker {
        streams.push(StreamId::allocate());
    }
    streams[worker - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_worker_has_the_same_stream_in_every_step() {
        let caller = StreamId::current();
        let of_step = || [0, 1, 2].map(|worker| stream_of_worker(worker, caller));
        let streams = of_step();
        assert_eq!(streams[0], caller);
        assert!(streams[1] != caller && streams[2] != caller && streams[1] != streams[2]);
        assert_eq!(of_step(), streams);
        let exchange = stream_of_exchange();
        assert!(!streams.contains(&exchange) && stream_of_exchange() == exchange);
    }
}
