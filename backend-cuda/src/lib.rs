//! Opens an NVIDIA GPU through CUDA.
//!
//! Without the feature `cuda`, the same functions return [`CudaError::NotBuiltIn`] or `None`.

#[cfg(feature = "cuda")]
mod nccl;

use burn::tensor::Device;

#[cfg(feature = "cuda")]
pub use nccl::Nccl;

/// A CUDA device that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// Compiled without CUDA.
    #[error(
        "this build has no CUDA; wanted an NVIDIA GPU through it\n  \
         hint: build with --features cuda, or use --device cpu"
    )]
    NotBuiltIn,
    /// The driver's library is missing.
    #[error(
        "found no libcuda.so, wanted NVIDIA's driver\n  \
         hint: install the driver so that `nvidia-smi` lists the GPU (start a container with \
         --gpus all), or use --device wgpu or cpu"
    )]
    NoDriver,
    /// The driver fails to start, for example without a GPU.
    #[error(
        "NVIDIA's driver reports {0:?}, wanted a GPU\n  \
         hint: check that `nvidia-smi` lists it and that CUDA_VISIBLE_DEVICES does not hide it, or \
         use --device wgpu or cpu"
    )]
    Driver(String),
    /// The driver lists no GPU.
    #[error(
        "found no NVIDIA GPU, wanted one\n  \
         hint: check that `nvidia-smi` lists it and that CUDA_VISIBLE_DEVICES does not hide it, or \
         use --device wgpu or cpu"
    )]
    NoGpu,
    /// The ordinal is past the last GPU.
    #[error(
        "found {n_gpus} NVIDIA GPUs, wanted number {ordinal}\n  \
         hint: `mmgem info --devices` lists them, counted from 0"
    )]
    NoSuchGpu {
        /// The requested ordinal.
        ordinal: usize,
        /// Number of GPUs.
        n_gpus: usize,
    },
}

/// Number of NVIDIA GPUs that the driver lists.
///
/// # Errors
/// If CUDA is not built in, or its driver is missing or fails to start.
#[cfg(feature = "cuda")]
pub fn gpu_count() -> Result<usize, CudaError> {
    // Check first, because other driver calls panic if the library is missing.
    // SAFETY: only looks for the library.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        return Err(CudaError::NoDriver);
    }
    let count = cudarc::driver::CudaContext::device_count();
    let words = |error: cudarc::driver::DriverError| match error.error_string() {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(_) => format!("{error:?}"),
    };
    count.map(|n| n as usize).map_err(|error| CudaError::Driver(words(error)))
}

/// Opens a GPU by its ordinal [default: 0].
///
/// # Errors
/// If the GPU or the driver is missing.
#[cfg(feature = "cuda")]
pub fn device(ordinal: Option<usize>) -> Result<Device, CudaError> {
    let ordinal = ordinal.unwrap_or(0);
    match gpu_count()? {
        0 => Err(CudaError::NoGpu),
        n_gpus if ordinal >= n_gpus => Err(CudaError::NoSuchGpu { ordinal, n_gpus }),
        _ => Ok(Device::cuda(ordinal)),
    }
}

/// Name of an opened GPU.
#[cfg(feature = "cuda")]
pub fn name(device: &Device) -> Option<String> {
    device.identity().map(|identity| identity.name)
}

/// Number of NVIDIA GPUs that the driver lists.
///
/// # Errors
/// Always, because CUDA is not built in.
#[cfg(not(feature = "cuda"))]
pub fn gpu_count() -> Result<usize, CudaError> {
    Err(CudaError::NotBuiltIn)
}

/// Opens a GPU by its ordinal.
///
/// # Errors
/// Always, because CUDA is not built in.
#[cfg(not(feature = "cuda"))]
pub fn device(_ordinal: Option<usize>) -> Result<Device, CudaError> {
    Err(CudaError::NotBuiltIn)
}

/// Name of an opened GPU. Always `None`, because CUDA is not built in.
#[cfg(not(feature = "cuda"))]
pub fn name(_device: &Device) -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(feature = "cuda")]
    fn a_gpu_that_is_not_there_is_an_error_and_no_panic() {
        let error =
            super::device(Some(1000)).expect_err("no machine has a thousand GPUs").to_string();
        assert!(error.contains("wanted") && error.contains("hint: "), "{error}");
    }

    #[test]
    #[cfg(not(feature = "cuda"))]
    fn without_the_feature_it_says_so() {
        let error = super::device(None).expect_err("not built in").to_string();
        assert!(error.contains("--features cuda"), "{error}");
    }
}
