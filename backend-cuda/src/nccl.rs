//! Gradients and embeddings between GPUs, through NCCL on Burn's own buffers; one process per GPU.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::time::Duration;

use burn::tensor::{DType, Tensor};
use burn_cubecl::{Cube, CubeBackend};
use cubecl::__private::Runtime;
use cubecl::cuda::CudaRuntime;
use cubecl::future::block_on;
use cudarc::driver::{CudaContext, CudaStream};
use cudarc::nccl::result::{NcclError, NcclStatus};
use cudarc::nccl::{result as nccl, sys};
use mmgem_core::train::collective::{Collective, CollectiveError, Watchdog, from_rank_0};

/// What NCCL calls an element of a gathered tensor: it only carries its bytes.
const FLOAT: sys::ncclDataType_t = sys::ncclDataType_t::ncclFloat32;

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
    /// When NCCL is not installed or cannot reach the other GPUs.
    pub fn join(
        control: &'a dyn Collective,
        ordinal: usize,
        timeout: Duration,
    ) -> Result<Self, CollectiveError> {
        let failed =
            |what, cause: &dyn std::fmt::Debug| CollectiveError::Failed { what, cause: format!("{cause:?}") };
        // SAFETY: only looks for the library.
        if !unsafe { sys::is_culib_present() } {
            return Err(CollectiveError::Failed {
                what: "loading NCCL",
                cause: "found no libnccl.so\n  hint: install libnccl2; where only libnccl.so.2 is there, link libnccl.so to it".into(),
            });
        }
        let context = CudaContext::new(ordinal).map_err(|e| failed("opening the GPU", &e))?;
        context.bind_to_thread().map_err(|e| failed("opening the GPU", &e))?;
        let stream = context.new_stream().map_err(|e| failed("opening the GPU", &e))?;

        let own = if control.rank() == 0 {
            let id = nccl::get_uniqueid().map_err(|e| failed("ncclGetUniqueId", &e.0))?;
            id.internal.iter().map(|byte| *byte as u8).collect()
        } else {
            Vec::new()
        };
        let bytes = from_rank_0(control, &own)?;
        let mut id = sys::ncclUniqueId { internal: [0; 128] };
        id.internal.iter_mut().zip(&bytes).for_each(|(to, from)| *to = *from as _);

        let watchdog = Watchdog::new(control.rank(), timeout);
        let mut comm = MaybeUninit::uninit();
        // SAFETY: the context is current on this thread, and `comm` is only read after success.
        let comm = watchdog.guard("ncclCommInitRank", || unsafe {
            nccl::comm_init_rank(comm.as_mut_ptr(), control.size() as i32, id, control.rank() as i32)
                .map(|_| comm.assume_init())
        });
        let comm = comm.map_err(|e| failed("ncclCommInitRank", &e.0))?;
        Ok(Self { control, comm, stream, watchdog })
    }

    /// One call on this rank's stream, waited for.
    fn run(
        &self,
        what: &'static str,
        call: impl FnOnce(sys::cudaStream_t) -> Result<NcclStatus, NcclError>,
    ) -> Result<(), CollectiveError> {
        self.watchdog.guard(what, || {
            call(self.stream.cu_stream().cast())
                .map_err(|e| CollectiveError::Failed { what, cause: format!("{:?}", e.0) })?;
            self.stream.synchronize().map_err(|e| CollectiveError::Failed { what, cause: format!("{e:?}") })
        })
    }
}

impl Drop for Nccl<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `join` and used nowhere else. An abort, because others may be gone.
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
        with_pointer(&values, |from| {
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

/// Runs the queued work that makes a tensor, waits for it, and lends its place in the GPU's memory.
fn with_pointer<R>(
    tensor: &Tensor<1>,
    act: impl FnOnce(*mut c_void) -> Result<R, CollectiveError>,
) -> Result<R, CollectiveError> {
    type Server = <CudaRuntime as Runtime>::Server;
    let failed = |cause: &dyn std::fmt::Debug| CollectiveError::Failed {
        what: "reaching a GPU buffer",
        cause: format!("{cause:?}"),
    };
    if tensor.dtype() != DType::F32 {
        return Err(failed(&tensor.dtype()));
    }
    let fused = tensor.clone().try_into_primitive::<Cube>().map_err(|e| failed(&e))?;
    let client = fused.client.clone();
    // Shares its buffer with `tensor`.
    let cube = client.resolve_tensor_float::<CubeBackend>(fused);
    if !cube.is_contiguous() {
        return Err(failed(&"it is not contiguous"));
    }
    block_on(cube.client.sync()).map_err(|e| failed(&e))?;
    let resource = cube.client.get_resource::<Server>(cube.handle.clone()).map_err(|e| failed(&e))?;
    act(resource.resource().ptr as *mut c_void)
}
