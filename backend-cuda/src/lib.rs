//! Opens an NVIDIA GPU through CUDA.
//!
//! Without the feature `cuda` the same functions are there and say that it is not built in.

#[cfg(feature = "cuda")]
mod nccl;

use burn::tensor::Device;

#[cfg(feature = "cuda")]
pub use nccl::Nccl;

/// Why there is no CUDA device.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// Compiled without it.
    #[error(
        "this build has no CUDA; wanted an NVIDIA GPU through it\n  hint: build with --features cuda, or use --device cpu"
    )]
    NotBuiltIn,
    /// No driver, or no GPU that it knows.
    #[error(
        "found no NVIDIA GPU, wanted one\n  hint: does `nvidia-smi` list it? CUDA needs NVIDIA's driver; otherwise use --device wgpu or cpu"
    )]
    NoGpu,
    /// The ordinal is past the last GPU.
    #[error(
        "found {n_gpus} NVIDIA GPUs, wanted number {ordinal}\n  hint: `mmgem devices` lists them, counted from 0"
    )]
    NoSuchGpu {
        /// The number asked for.
        ordinal: usize,
        /// GPUs there.
        n_gpus: usize,
    },
}

/// Number of NVIDIA GPUs that the driver offers; 0 without a driver.
#[cfg(feature = "cuda")]
pub fn gpu_count() -> Result<usize, CudaError> {
    Ok(Device::enumerate(burn::tensor::DeviceType::Cuda).len())
}

/// Opens a GPU by its number, the first without one.
///
/// # Errors
/// When there is no such GPU.
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

/// Number of NVIDIA GPUs that the driver offers; 0 without a driver.
#[cfg(not(feature = "cuda"))]
pub fn gpu_count() -> Result<usize, CudaError> {
    Err(CudaError::NotBuiltIn)
}

/// Opens a GPU by its number, the first without one.
///
/// # Errors
/// When there is no such GPU.
#[cfg(not(feature = "cuda"))]
pub fn device(_ordinal: Option<usize>) -> Result<Device, CudaError> {
    Err(CudaError::NotBuiltIn)
}

/// Name of an opened GPU.
#[cfg(not(feature = "cuda"))]
pub fn name(_device: &Device) -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(not(feature = "cuda"))]
    fn without_the_feature_it_says_so() {
        let error = super::device(None).expect_err("not built in").to_string();
        assert!(error.contains("--features cuda"), "{error}");
    }
}
