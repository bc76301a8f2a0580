//! Gradients and embeddings between GPUs, through NCCL on Burn's own buffers; one process per GPU.

use std::ffi::{CStr, c_void};
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use burn::tensor::{DType, Tensor};
use burn_cubecl::{Cube, CubeBackend};
use cubecl::__private::Runtime;
use cubecl::cuda::CudaRuntime;
use cubecl::future::block_on;
use cudarc::driver::sys::{CUresult, cuStreamQuery};
use cudarc::driver::{CudaContext, CudaStream};
use cudarc::nccl::result::{NcclError, NcclStatus};
use cudarc::nccl::{result as nccl, sys};
use mmgem_collective::{Collective, CollectiveError, Watchdog, first_failure, from_rank_0};

const FLOAT: sys::ncclDataType_t = sys::ncclDataType_t::ncclFloat32;

/// How long a waiting rank sleeps before it looks again: short beside a bucket's journey, long enough to leave the cores to
/// the threads that decode photos.
const PAUSE: Duration = Duration::from_micros(20);

/// Ranks that meet through another group and then send their tensors from GPU to GPU.
pub struct Nccl<'a> {
    control: &'a dyn Collective,
    comm: sys::ncclComm_t,
    stream: Arc<CudaStream>,
    watchdog: Watchdog,
}

impl<'a> Nccl<'a> {
    /// Joins the ranks of `control`, each with the GPU of the given number.
    ///
    /// # Errors
    /// When NCCL is not installed or cannot reach the other GPUs; what one rank lacks is told to all.
    pub fn join(
        control: &'a dyn Collective,
        ordinal: usize,
        timeout: Duration,
    ) -> Result<Self, CollectiveError> {
        let (rank, size) = (control.rank(), control.size());
        // Before any of them waits inside NCCL for one that cannot come.
        let own = prepare(rank == 0, ordinal);
        let failure = first_failure(control, own.as_ref().err().map(ToString::to_string))?;
        let (stream, own_id) = match (own, failure) {
            (Err(error), _) => return Err(error),
            (Ok(_), Some((rank, why))) => {
                return Err(failed("starting NCCL", format!("rank {rank} says: {why}")));
            }
            (Ok(own), None) => own,
        };
        let bytes = from_rank_0(control, &own_id)?;
        let mut id = sys::ncclUniqueId { internal: [0; 128] };
        id.internal.iter_mut().zip(&bytes).for_each(|(to, from)| *to = *from as _);

        let watchdog = Watchdog::new(rank, timeout);
        let mut comm = MaybeUninit::uninit();
        // SAFETY: the GPU's context is current on this thread, and `comm` is only read after success.
        let comm = watchdog.guard("ncclCommInitRank", || unsafe {
            nccl::comm_init_rank(comm.as_mut_ptr(), size as i32, id, rank as i32)
                .map(|_| comm.assume_init())
        });
        let comm = comm.map_err(|e| refused("ncclCommInitRank", e.0))?;
        Ok(Self { control, comm, stream, watchdog })
    }

    /// One call on this rank's stream, waited for.
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

    /// Waits until the stream has done its work. A rank that is lost meanwhile is an error at once and not only when the
    /// time is up.
    fn wait(&self, what: &'static str) -> Result<(), CollectiveError> {
        loop {
            // SAFETY: the stream lives as long as `self`.
            match unsafe { cuStreamQuery(self.stream.cu_stream()) } {
                CUresult::CUDA_SUCCESS => return Ok(()),
                CUresult::CUDA_ERROR_NOT_READY => {}
                error => return Err(failed(what, format!("{error:?}"))),
            }
            let mut state = sys::ncclResult_t::ncclSuccess;
            // SAFETY: made by `join`, and `state` outlives the call.
            let asked = unsafe { sys::ncclCommGetAsyncError(self.comm, &mut state) };
            for found in [asked, state] {
                found.result().map_err(|e| refused(what, e.0))?;
            }
            thread::sleep(PAUSE);
        }
    }
}

/// What a rank needs before it can meet the others: NCCL, a stream on its GPU, and of rank 0 the id of the meeting.
fn prepare(is_first: bool, ordinal: usize) -> Result<(Arc<CudaStream>, Vec<u8>), CollectiveError> {
    // SAFETY: only looks for the library.
    if !unsafe { sys::is_culib_present() } {
        return Err(failed(
            "loading NCCL",
            "found no libnccl.so, wanted it to carry gradients between GPUs\n  hint: install libnccl2 and put its folder in LD_LIBRARY_PATH; where only libnccl.so.2 is there (as pip installs it), link libnccl.so to it".into(),
        ));
    }
    let opening = |e| failed("opening the GPU for NCCL", format!("{e:?}"));
    // The one that Burn computes in: CUDA has a primary context per GPU.
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

/// An error in NCCL's words: the kind, and what it noted last on this rank.
fn refused(what: &'static str, error: sys::ncclResult_t) -> CollectiveError {
    // SAFETY: both are strings that live as long as the library; the communicator is not looked at.
    let texts =
        unsafe { [sys::ncclGetErrorString(error), sys::ncclGetLastError(std::ptr::null_mut())] };
    let texts = texts.into_iter().filter(|text| !text.is_null());
    // SAFETY: not null, and ended by a zero.
    let texts =
        texts.map(|text| unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_owned());
    let texts: Vec<String> = texts.filter(|text| !text.is_empty()).collect();
    failed(
        what,
        format!(
            "{}\n  hint: with NCCL_DEBUG=INFO in the environment NCCL says more",
            texts.join(": ")
        ),
    )
}

impl Drop for Nccl<'_> {
    fn drop(&mut self) {
        // An abort, because others may be gone. Nothing is lost by it: every call was waited for, and a run ends with an
        // exchange through `control`, which a rank reaches only after its last call.
        // SAFETY: made by `join` and used nowhere else.
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

    fn all_reduce_sum(&self, values: Tensor<1>) -> Result<Tensor<1>, CollectiveError> {
        let [n] = values.dims();
        // A buffer of its own, which nobody else reads while it changes.
        let sum = values * 1.0;
        with_pointer(&sum, |at| {
            let op = sys::ncclRedOp_t::ncclSum;
            // SAFETY: `at` is the start of `n` floats on this rank's GPU.
            self.run("the sum of the gradients", |stream| unsafe {
                nccl::all_reduce(at.cast_const(), at, n, FLOAT, op, self.comm, stream)
            })
        })?;
        Ok(sum)
    }

    fn all_gather(&self, values: Tensor<1>) -> Result<Tensor<1>, CollectiveError> {
        let [n] = values.dims();
        let all = Tensor::<1>::zeros([n * self.size()], &values.device());
        // A copy lies in one piece, whatever the values were cut out of.
        with_pointer(&(values * 1.0), |from| {
            with_pointer(&all, |to| {
                // SAFETY: `from` has `n` floats and `to` as many for every rank.
                self.run("the gathering of the embeddings", |stream| unsafe {
                    nccl::all_gather(from.cast_const(), to, n, FLOAT, self.comm, stream)
                })
            })
        })?;
        Ok(all)
    }

    fn broadcast(&self, values: Tensor<1>, root: usize) -> Result<Tensor<1>, CollectiveError> {
        let [n] = values.dims();
        let own = values * 1.0;
        with_pointer(&own, |at| {
            // SAFETY: as in `all_reduce_sum`.
            self.run("a broadcast", |stream| unsafe {
                nccl::broadcast(at.cast_const(), at, n, FLOAT, root as i32, self.comm, stream)
            })
        })?;
        Ok(own)
    }
}

/// Runs the queued work that makes a tensor of f32, waits for it, and lends its place in the GPU's memory.
///
/// Whoever `act`s must have done with the place when it returns.
fn with_pointer<R>(
    tensor: &Tensor<1>,
    act: impl FnOnce(*mut c_void) -> Result<R, CollectiveError>,
) -> Result<R, CollectiveError> {
    type Server = <CudaRuntime as Runtime>::Server;
    let broken = |cause: String| failed("reaching a GPU buffer", cause);
    if tensor.dtype() != DType::F32 {
        return Err(broken(format!("it holds {:?}, wanted F32", tensor.dtype())));
    }
    let [n] = tensor.dims();
    let fused =
        tensor.clone().try_into_primitive::<Cube>().map_err(|e| broken(format!("{e:?}")))?;
    let client = fused.client.clone();
    // Shares its buffer with `tensor`.
    let cube = client.resolve_tensor_float::<CubeBackend>(fused);
    if !cube.is_contiguous() {
        return Err(broken("it does not lie in one piece".into()));
    }
    // In this order: asking for the place makes this thread's stream wait for the one that fills it, and the host
    // then waits for this thread's.
    let resource = cube.client.get_resource::<Server>(cube.handle.clone());
    let resource = resource.map_err(|e| broken(format!("{e:?}")))?;
    block_on(cube.client.sync_buffers([&cube.handle])).map_err(|e| broken(format!("{e:?}")))?;
    let place = resource.resource();
    if (place.size as usize) < n * size_of::<f32>() {
        return Err(broken(format!(
            "it has {} bytes, wanted {}",
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
