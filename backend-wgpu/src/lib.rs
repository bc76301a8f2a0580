//! Opens a GPU through wgpu: Vulkan, Metal or DX12.
//!
//! Without the feature `wgpu` the same functions are there and say that it is not built in.

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

/// What kind of part an adapter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterType {
    /// A card with its own memory.
    DiscreteGpu,
    /// A GPU that shares the computer's memory.
    IntegratedGpu,
    /// A GPU that a virtual machine lends.
    VirtualGpu,
    /// A program that does a GPU's work on the CPU (lavapipe, SwiftShader): right, but slow.
    Software,
    /// The driver does not say.
    Unknown,
}

impl AdapterType {
    /// The words for a person.
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

/// An adapter; its place in [`adapters`] is its ordinal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterReport {
    /// Name of the part.
    pub name: String,
    /// Graphics interface: `vulkan`, `metal` or `dx12`.
    pub backend: String,
    /// Kind of part.
    pub adapter_type: AdapterType,
    /// Driver and its version.
    pub driver: String,
    /// Whether shaders can compute in f16.
    pub shader_f16: bool,
    /// Whether shaders can use subgroups.
    pub subgroups: bool,
    /// Largest buffer.
    pub max_buffer_size_bytes: u64,
    /// Largest part of a buffer that a shader can see: the largest tensor.
    pub max_storage_buffer_binding_size_bytes: u64,
}

/// What was asked of wgpu by the whole program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Compute dispatches: each is one run of one kernel.
    pub dispatches: u64,
    /// Submissions to the queue.
    pub submissions: u64,
    /// Buffers that were mapped to be read: each waits for the GPU.
    pub read_backs: u64,
    /// Runs of each kernel, by its name.
    pub kernels: BTreeMap<String, u64>,
}

/// Why there is no wgpu device.
#[derive(Debug, thiserror::Error)]
pub enum WgpuError {
    /// Compiled without it.
    #[error(
        "this build has no wgpu; wanted a GPU through it\n  hint: build with --features wgpu, or use --device cpu"
    )]
    NotBuiltIn,
    /// Somebody else has the program's log.
    #[error(
        "wgpu's work is counted by its log, and another logger is there already\n  hint: count in a program without one"
    )]
    NotCountable,
    /// No adapter at all.
    #[error(
        "found no Vulkan, Metal or DX12 adapter; wanted one\n  hint: install the GPU's driver (on Linux its Vulkan part), or use --device cpu"
    )]
    NoAdapter,
    /// The ordinal is past the last adapter.
    #[error(
        "found {n_adapters} wgpu adapters, wanted number {ordinal}\n  hint: `mmgem devices` lists them, counted from 0"
    )]
    NoSuchAdapter {
        /// The number asked for.
        ordinal: usize,
        /// Adapters there.
        n_adapters: usize,
    },
    /// Burn selects adapters by kind, and has no word for a second software one.
    #[error(
        "adapter {ordinal} ({name}) is of a kind that cannot be selected\n  hint: use another of `mmgem devices`, or --device cpu"
    )]
    NotSelectable {
        /// Its number.
        ordinal: usize,
        /// Its name.
        name: String,
    },
    /// The adapter is there but cannot be used.
    #[error(
        "{name} cannot be opened: {cause}\n  hint: is another program holding it? Update its driver, or use --device cpu"
    )]
    Refused {
        /// Name of the adapter.
        name: String,
        /// The driver's words.
        cause: String,
    },
}

/// The ordinal of the best adapter that is really a GPU: discrete, else integrated, else virtual.
pub fn best_gpu(adapters: &[AdapterReport]) -> Option<usize> {
    [AdapterType::DiscreteGpu, AdapterType::IntegratedGpu, AdapterType::VirtualGpu]
        .into_iter()
        .find_map(|wanted| adapters.iter().position(|adapter| adapter.adapter_type == wanted))
}

/// The adapters that this build can reach, in the order of their ordinals.
#[cfg(not(feature = "wgpu"))]
pub fn adapters() -> Result<Vec<AdapterReport>, WgpuError> {
    Err(WgpuError::NotBuiltIn)
}

/// Opens an adapter by its place in [`adapters`]; without one the best GPU, else the first adapter.
///
/// # Errors
/// When there is no such adapter or its driver refuses.
#[cfg(not(feature = "wgpu"))]
pub fn device(_ordinal: Option<usize>) -> Result<Device, WgpuError> {
    Err(WgpuError::NotBuiltIn)
}

/// Runs `work` and counts what the program asks of wgpu meanwhile. What is to be counted must be over when `work`
/// returns, so it ends by reading a result back.
///
/// # Errors
/// When it cannot be counted.
#[cfg(not(feature = "wgpu"))]
pub fn count<R>(_work: impl FnOnce() -> R) -> Result<(R, Traffic), WgpuError> {
    Err(WgpuError::NotBuiltIn)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(adapter_type: AdapterType) -> AdapterReport {
        AdapterReport {
            name: "a part".into(),
            backend: "vulkan".into(),
            adapter_type,
            driver: String::new(),
            shader_f16: false,
            subgroups: false,
            max_buffer_size_bytes: 0,
            max_storage_buffer_binding_size_bytes: 0,
        }
    }

    fn check(adapter_types: &[AdapterType], wanted: Option<usize>) {
        let adapters: Vec<_> = adapter_types.iter().map(|kind| adapter(*kind)).collect();
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
    fn a_program_that_plays_a_gpu_is_none() {
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
