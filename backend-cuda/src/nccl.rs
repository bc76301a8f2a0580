//! Transfers gradients and embeddings between GPUs through NCCL, on Burn's own buffers, with one
//! process per GPU.
//!
//! The queue that computes a tensor is drained first. NCCL then works on a stream of its own. While
//! a rank waits for it, the rank checks NCCL's asynchronous errors.

use std::ffi::{CStr, c_void};
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use burn::tensor::{DType, Tensor};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::{Cube, CubeBackend};
use cubecl::__private::Runtime;
use cubecl::cuda::CudaRuntime;
use cubecl::future::block_on;
use cudarc::driver::sys::{CUresult, cuStreamQuery};
use cudarc::driver::{CudaContext, CudaStream};
use cudarc::nccl::result::{NcclError, NcclStatus};
use cudarc::nccl::{result as nccl, sys};
use mmgem_collective::{Busy, Collective, CollectiveError, Watchdog, first_failure, from_rank_0};

const FLOAT: sys::ncclDataType_t = sys::ncclDataType_t::ncclFloat32;

/// Pause between two polls of a waiting rank.
///
/// It is short compared to the transfer of a bucket. It leaves the cores to the threads that decode
/// photos.
const PAUSE: Duration = Duration::from_micros(20);

/// Ranks that set up through another group and then send tensors from GPU to GPU.
pub struct Nccl<'a> {
    control: &'a dyn Collective,
    comm: sys::ncclComm_t,
    stream: Arc<CudaStream>,
    watchdog: Watchdog,
}

impl<'a> Nccl<'a> {
    /// Joins the ranks of `control`, each with its GPU `ordinal`.
    ///
    /// # Errors
    /// If NCCL is not installed or cannot reach the other GPUs. If one rank fails, all return an
    /// error.
    pub fn join(
        control: &'a dyn Collective,
        ordinal: usize,
        timeout: Duration,
    ) -> Result<Self, CollectiveError> {
        let (rank, size) = (control.rank(), control.size());
        // Exchange failures before any rank waits inside NCCL for one that cannot join.
        let own = prepare(rank == 0, ordinal);
        let failure = first_failure(control, own.as_ref().err().map(ToString::to_string))?;
        let (stream, own_id) = match (own, failure) {
            (Err(error), _) => return Err(error),
            (Ok(_), Some((rank, why))) => {
                return Err(failed("starting NCCL", format!("rank {rank} reports: {why}")));
            }
            (Ok(own), None) => own,
        };
        let bytes = from_rank_0(control, &own_id)?;
        let mut id = sys::ncclUniqueId { internal: [0; 128] };
        id.internal.iter_mut().zip(&bytes).for_each(|(to, from)| *to = *from as _);

        let watchdog = Watchdog::new(rank, timeout);
        let mut comm = MaybeUninit::uninit();
        // SAFETY: the GPU's context is current on this thread, and `comm` is read only after
        // success.
        let comm = watchdog.guard("ncclCommInitRank", || unsafe {
            nccl::comm_init_rank(comm.as_mut_ptr(), size as i32, id, rank as i32)
                .map(|_| comm.assume_init())
        });
        let comm = comm.map_err(|e| refused("ncclCommInitRank", e.0))?;
        Ok(Self { control, comm, stream, watchdog })
    }

    /// Runs one call on this rank's stream and waits for it.
    fn run(
        &self,
        what: &'static str,
        call: impl FnOnce(sys::cudaStream_t) -> Result<NcclStatus, NcclError>,
    ) -> Result<(), CollectiveError> {
        self.watchdog.guard(what, || {
            self.stream.context().bind_to_thread().map_err(|e| failed(what, format!("{e:?}")))?;
            call(self.stream.cu_stream().cast()).map_err(|e| refused(what, e.0))?;
            self.wait(what)
        })
    }

    /// Waits until the stream is idle.
    ///
    /// Polls NCCL's asynchronous errors, so a lost rank fails at once and not only after the
    /// timeout.
    fn wait(&self, what: &'static str) -> Result<(), CollectiveError> {
        loop {
            // SAFETY: the stream lives as long as `self`.
            match unsafe { cuStreamQuery(self.stream.cu_stream()) } {
                CUresult::CUDA_SUCCESS => return Ok(()),
                CUresult::CUDA_ERROR_NOT_READY => {}
                error => return Err(failed(what, format!("{error:?}"))),
            }
            let mut state = sys::ncclResult_t::ncclSuccess;
            // SAFETY: `join` made the communicator, and `state` outlives the call.
            let asked = unsafe { sys::ncclCommGetAsyncError(self.comm, &mut state) };
            for found in [asked, state] {
                found.result().map_err(|e| refused(what, e.0))?;
            }
            thread::sleep(PAUSE);
        }
    }
}

/// Checks and opens what a rank needs for joining: NCCL, a stream on its GPU, and on rank 0 NCCL's
/// unique id.
fn prepare(is_first: bool, ordinal: usize) -> Result<(Arc<CudaStream>, Vec<u8>), CollectiveError> {
    // SAFETY: only looks for the library.
    if !unsafe { sys::is_culib_present() } {
        return Err(failed(
            "loading NCCL",
            "found no libnccl.so, wanted NCCL for transfers between GPUs\n  \
             hint: install libnccl2 and put its folder in LD_LIBRARY_PATH; if only libnccl.so.2 \
             exists (as with pip), link libnccl.so to it"
                .into(),
        ));
    }
    let opening = |e| failed("opening the GPU for NCCL", format!("{e:?}"));
    // Burn computes in the same context: CUDA has one primary context per GPU.
    let stream =
        CudaContext::new(ordinal).and_then(|context| context.new_stream()).map_err(opening)?;
    let id = if is_first {
        let id = nccl::get_uniqueid().map_err(|e| refused("ncclGetUniqueId", e.0))?;
        id.internal.iter().map(|byte| *byte as u8).collect()
    } else {
        Vec::new()
    };
    Ok((stream, id))
}

fn failed(what: &'static str, cause: String) -> CollectiveError {
    CollectiveError::Failed { what, cause }
}

/// An error with NCCL's messages: its kind, and the last message on this rank.
fn refused(what: &'static str, error: sys::ncclResult_t) -> CollectiveError {
    // SAFETY: both strings live as long as the library. NCCL does not use the null communicator.
    let texts =
        unsafe { [sys::ncclGetErrorString(error), sys::ncclGetLastError(std::ptr::null_mut())] };
    let texts = texts.into_iter().filter(|text| !text.is_null());
    // SAFETY: not null, and terminated by a zero.
    let texts =
        texts.map(|text| unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_owned());
    let texts: Vec<String> = texts.filter(|text| !text.is_empty()).collect();
    failed(
        what,
        format!("{}\n  hint: set NCCL_DEBUG=INFO in the environment for details", texts.join(": ")),
    )
}

impl Drop for Nccl<'_> {
    fn drop(&mut self) {
        // Abort, because other ranks may be gone. No data is lost: every call was waited for, and a
        // run ends with an exchange through `control`, which follows the rank's last call.
        // SAFETY: `join` made the communicator, and no other code uses it.
        let _ = unsafe { nccl::comm_abort(self.comm) };
    }
}

impl Collective for Nccl<'_> {
    fn rank(&self) -> usize {
        self.control.rank()
    }

    fn size(&self) -> usize {
        self.control.size()
    }

    fn exchange(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError> {
        self.control.exchange(own)
    }

    fn busy(&self) -> Busy<'_> {
        self.control.busy()
    }

    fn all_reduce_sum(&self, values: Tensor<1>) -> Result<Tensor<1>, CollectiveError> {
        let [n] = values.dims();
        let sum = Tensor::<1>::zeros([n], &values.device());
        with_pointer(&values, |from| {
            with_pointer(&sum, |to| {
                let op = sys::ncclRedOp_t::ncclSum;
                // SAFETY: `from` and `to` point to `n` floats each on this rank's GPU.
                self.run("the sum of the gradients", |stream| unsafe {
                    nccl::all_reduce(from.cast_const(), to, n, FLOAT, op, self.comm, stream)
                })
            })
        })?;
        Ok(sum)
    }

    fn all_gather(&self, values: Tensor<1>) -> Result<Tensor<1>, CollectiveError> {
        let [n] = values.dims();
        let all = Tensor::<1>::zeros([n * self.size()], &values.device());
        with_pointer(&values, |from| {
            with_pointer(&all, |to| {
                // SAFETY: `from` has `n` floats, and `to` has `n` for every rank.
                self.run("the gathering of the embeddings", |stream| unsafe {
                    nccl::all_gather(from.cast_const(), to, n, FLOAT, self.comm, stream)
                })
            })
        })?;
        Ok(all)
    }

    fn broadcast(&self, values: Tensor<1>, root: usize) -> Result<Tensor<1>, CollectiveError> {
        let [n] = values.dims();
        let received = Tensor::<1>::zeros([n], &values.device());
        with_pointer(&values, |from| {
            with_pointer(&received, |to| {
                // SAFETY: as in `all_reduce_sum`.
                self.run("a broadcast", |stream| unsafe {
                    nccl::broadcast(from.cast_const(), to, n, FLOAT, root as i32, self.comm, stream)
                })
            })
        })?;
        Ok(received)
    }
}

/// Runs the queued work that computes an f32 tensor, waits for it, and lends out its GPU address.
///
/// `act` must have finished with the buffer when it returns. It may write only to a tensor that was
/// made for the transfer.
fn with_pointer<R>(
    tensor: &Tensor<1>,
    act: impl FnOnce(*mut c_void) -> Result<R, CollectiveError>,
) -> Result<R, CollectiveError> {
    type Server = <CudaRuntime as Runtime>::Server;
    let broken = |cause: String| failed("reaching a GPU buffer", cause);
    if tensor.dtype() != DType::F32 {
        return Err(broken(format!("the tensor is {:?}, wanted F32", tensor.dtype())));
    }
    let [n] = tensor.dims();
    let fused =
        tensor.clone().try_into_primitive::<Cube>().map_err(|e| broken(format!("{e:?}")))?;
    let client = fused.client.clone();
    // This primitive shares its buffer with `tensor`, unless `tensor` is a view of another one.
    // Then it is a copy; nothing is written to it, because only the sources of a transfer may be
    // views.
    let cube = into_contiguous(client.resolve_tensor_float::<CubeBackend>(fused));
    // The order matters. `get_resource` makes this thread's stream wait for the stream that fills
    // the buffer; then the host waits for this thread's stream.
    let resource = cube.client.get_resource::<Server>(cube.handle.clone());
    let resource = resource.map_err(|e| broken(format!("{e:?}")))?;
    block_on(cube.client.sync_buffers([&cube.handle])).map_err(|e| broken(format!("{e:?}")))?;
    let place = resource.resource();
    if (place.size as usize) < n * size_of::<f32>() {
        return Err(broken(format!(
            "the buffer has {} bytes, wanted {}",
            place.size,
            n * size_of::<f32>()
        )));
    }
    act(place.ptr as *mut c_void)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mmgem_collective::Single;

    #[test]
    fn without_nccl_it_says_what_to_install() {
        // SAFETY: only looks for the library.
        if unsafe { sys::is_culib_present() } {
            eprintln!("SKIPPED: NCCL is installed");
            return;
        }
        let error =
            Nccl::join(&Single, 0, Duration::from_secs(5)).err().expect("no NCCL").to_string();
        assert!(
            error.contains("found no libnccl.so") && error.contains("hint: install libnccl2"),
            "{error}"
        );
    }
}
