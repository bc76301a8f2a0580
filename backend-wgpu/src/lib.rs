//! Opens a GPU through wgpu: Vulkan, Metal or DX12.
//!
//! Without the feature `wgpu`, the same functions return [`WgpuError::NotBuiltIn`].
//!
//! Only the driver's own cache stores compiled kernels on disk. Burn's feature `persistence` would
//! add a database; without it CubeCL writes nothing.

use std::collections::BTreeMap;

#[cfg(not(feature = "wgpu"))]
use burn::tensor::Device;

#[cfg(feature = "wgpu")]
mod gpu;
#[cfg(feature = "wgpu")]
mod traffic;
#[cfg(feature = "wgpu")]
pub use gpu::{adapters, device};
#[cfg(feature = "wgpu")]
pub use traffic::count;

/// Kind of hardware behind an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterType {
    /// A card with its own memory.
    DiscreteGpu,
    /// A GPU that shares the computer's memory.
    IntegratedGpu,
    /// A GPU of a virtual machine.
    VirtualGpu,
    /// A software adapter that computes on the CPU (lavapipe, SwiftShader): correct but slow.
    Software,
    /// Not reported by the driver.
    Unknown,
}

impl AdapterType {
    /// Name for display.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DiscreteGpu => "discrete GPU",
            Self::IntegratedGpu => "integrated GPU",
            Self::VirtualGpu => "virtual GPU",
            Self::Software => "software",
            Self::Unknown => "unknown",
        }
    }
}

/// An adapter; its index in [`adapters`] is its ordinal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterReport {
    /// Name of the hardware.
    pub name: String,
    /// Graphics interface: `vulkan`, `metal` or `dx12`.
    pub backend: String,
    /// Kind of hardware.
    pub adapter_type: AdapterType,
    /// Driver and its version.
    pub driver: String,
    /// Whether shaders can compute in f16.
    pub shader_f16: bool,
    /// Whether shaders can use subgroups.
    pub subgroups: bool,
    /// Maximum size of a buffer.
    pub max_buffer_size_bytes: u64,
    /// Maximum size of a buffer binding, which limits the size of a tensor.
    pub max_storage_buffer_binding_size_bytes: u64,
}

/// Work that the whole program submitted to wgpu.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Compute dispatches, each one run of a kernel.
    pub dispatches: u64,
    /// Submissions to the queue.
    pub submissions: u64,
    /// Buffers mapped for reading. Each read waits for the GPU.
    pub read_backs: u64,
    /// Number of runs by kernel name.
    pub kernels: BTreeMap<String, u64>,
}

/// A wgpu device that cannot be opened or measured.
#[derive(Debug, thiserror::Error)]
pub enum WgpuError {
    /// Compiled without wgpu.
    #[error(
        "this build has no wgpu; wanted a GPU through it\n  \
         hint: build with --features wgpu, or use --device cpu"
    )]
    NotBuiltIn,
    /// The program already has a logger.
    #[error(
        "cannot count wgpu's work: it needs the log, but the program already has a logger\n  \
         hint: count in a program without a logger"
    )]
    NotCountable,
    /// No adapter was found.
    #[error(
        "found no Vulkan, Metal or DX12 adapter; wanted one\n  \
         hint: install the GPU's driver (on Linux with Vulkan), or use --device cpu"
    )]
    NoAdapter,
    /// The ordinal is past the last adapter.
    #[error(
        "found {n_adapters} wgpu adapters, wanted number {ordinal}\n  \
         hint: `mmgem info --devices` lists them, counted from 0"
    )]
    NoSuchAdapter {
        /// The requested ordinal.
        ordinal: usize,
        /// Number of adapters.
        n_adapters: usize,
    },
    /// Burn selects adapters by kind. It cannot select a second software adapter or an unknown
    /// kind.
    #[error(
        "adapter {ordinal} ({name}) is of a kind that Burn cannot select\n  \
         hint: use another adapter of `mmgem info --devices`, or --device cpu"
    )]
    NotSelectable {
        /// Ordinal of the adapter.
        ordinal: usize,
        /// Name of the adapter.
        name: String,
    },
    /// The adapter exists but cannot be opened.
    #[error(
        "{name} cannot be opened: {cause}\n  \
         hint: close other programs that use it, update its driver, or use --device cpu"
    )]
    Refused {
        /// Name of the adapter.
        name: String,
        /// Error message of the driver.
        cause: String,
    },
}

/// The ordinal of the best adapter that is not software: discrete, else integrated, else virtual.
pub fn best_gpu(adapters: &[AdapterReport]) -> Option<usize> {
    [AdapterType::DiscreteGpu, AdapterType::IntegratedGpu, AdapterType::VirtualGpu]
        .into_iter()
        .find_map(|wanted| adapters.iter().position(|adapter| adapter.adapter_type == wanted))
}

/// The adapters that this build supports, by ordinal.
#[cfg(not(feature = "wgpu"))]
pub fn adapters() -> Result<Vec<AdapterReport>, WgpuError> {
    Err(WgpuError::NotBuiltIn)
}

/// Opens an adapter by its ordinal [default: the best GPU, else the first adapter].
///
/// # Errors
/// If the adapter does not exist or its driver fails to open it.
#[cfg(not(feature = "wgpu"))]
pub fn device(_ordinal: Option<usize>) -> Result<Device, WgpuError> {
    Err(WgpuError::NotBuiltIn)
}

/// Runs `work` and counts the program's wgpu work meanwhile.
///
/// `work` must end by reading a result back, so that its work is complete when it returns.
///
/// # Errors
/// If another logger is set, or wgpu is not built in.
#[cfg(not(feature = "wgpu"))]
pub fn count<R>(_work: impl FnOnce() -> R) -> Result<(R, Traffic), WgpuError> {
    Err(WgpuError::NotBuiltIn)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An adapter of an interface and a kind.
    pub fn adapter(backend: &str, adapter_type: AdapterType) -> AdapterReport {
        AdapterReport {
            name: "a part".into(),
            backend: backend.into(),
            adapter_type,
            driver: String::new(),
            shader_f16: false,
            subgroups: false,
            max_buffer_size_bytes: 0,
            max_storage_buffer_binding_size_bytes: 0,
        }
    }

    fn check(adapter_types: &[AdapterType], wanted: Option<usize>) {
        let adapters: Vec<_> = adapter_types.iter().map(|kind| adapter("vulkan", *kind)).collect();
        assert_eq!(best_gpu(&adapters), wanted, "{adapter_types:?}");
    }

    #[test]
    fn a_discrete_gpu_is_better_than_an_integrated_one() {
        check(
            &[AdapterType::IntegratedGpu, AdapterType::Software, AdapterType::DiscreteGpu],
            Some(2),
        );
        check(&[AdapterType::Software, AdapterType::IntegratedGpu], Some(1));
    }

    #[test]
    fn a_software_adapter_is_not_a_gpu() {
        check(&[AdapterType::Software], None);
        check(&[], None);
    }

    #[test]
    #[cfg(not(feature = "wgpu"))]
    fn without_the_feature_it_says_so() {
        assert!(device(None).expect_err("not built in").to_string().contains("--features wgpu"));
        assert!(matches!(adapters(), Err(WgpuError::NotBuiltIn)));
    }
}
