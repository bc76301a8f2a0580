//! Chooses and opens the device that computes: the one place where the program names backends.

pub mod failure;
pub mod self_check;

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;
use mmgem_backend_cuda::CudaError;
use mmgem_backend_wgpu::{AdapterReport, AdapterType, WgpuError, best_gpu};

/// The value of `--device`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The best device that is present.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU through Vulkan, Metal or DX12; the best if no number is given.
    Wgpu {
        /// Its number in `mmgem info --devices`.
        ordinal: Option<usize>,
    },
    /// An NVIDIA GPU; the first if no number is given.
    Cuda {
        /// Its number in `mmgem info --devices`.
        ordinal: Option<usize>,
    },
}

/// Why a device cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// From wgpu.
    #[error(transparent)]
    Wgpu(#[from] WgpuError),
    /// From CUDA.
    #[error(transparent)]
    Cuda(#[from] CudaError),
}

/// An opened device, its name, and the reason for choosing it.
#[derive(Clone, Debug)]
pub struct OpenedDevice {
    /// The device that holds the tensors.
    pub device: Device,
    /// A readable name.
    pub name: String,
    /// Why this device was chosen.
    pub reason: String,
    /// Whether it computes in the program's own memory.
    pub is_cpu: bool,
    /// Largest size of a tensor, if known.
    pub largest_tensor_bytes: Option<u64>,
}

/// Opens the chosen device.
///
/// `auto` takes an NVIDIA GPU if CUDA is built in, else a GPU that wgpu reaches, else the CPU;
/// never a software emulation of a GPU. If a GPU cannot be opened, `auto` tries the next device,
/// and `reason` of the CPU says why.
///
/// # Errors
/// When the device that `--device` names is missing or its backend is not built in.
pub fn open_device(choice: DeviceChoice) -> Result<OpenedDevice, DeviceError> {
    let asked = "asked for with --device";
    match choice {
        DeviceChoice::Cpu => Ok(cpu(asked.into())),
        DeviceChoice::Cuda { ordinal } => cuda(ordinal, asked.into()),
        DeviceChoice::Wgpu { ordinal } => wgpu(ordinal, asked.into()),
        DeviceChoice::Auto => {
            let mut gpus: Vec<OpenGpu> = Vec::new();
            if mmgem_backend_cuda::gpu_count().is_ok_and(|n_gpus| n_gpus > 0) {
                gpus.push(Box::new(|| cuda(None, "the fastest that is there".into())));
            }
            let no_gpu = match mmgem_backend_wgpu::adapters() {
                Ok(adapters) => {
                    if let Some(ordinal) = best_gpu(&adapters) {
                        gpus.push(Box::new(move || {
                            wgpu(Some(ordinal), "the best GPU that is there".into())
                        }));
                    }
                    no_gpu_reason(&adapters)
                }
                Err(_) => "no GPU backend is built in".into(),
            };
            Ok(first_that_opens(gpus, no_gpu))
        }
    }
}

type OpenGpu = Box<dyn FnOnce() -> Result<OpenedDevice, DeviceError>>;

/// The first GPU that opens. Falls back to the CPU, with the errors of the GPUs as reason, or
/// `no_gpu` if there are none.
fn first_that_opens(gpus: Vec<OpenGpu>, no_gpu: String) -> OpenedDevice {
    let mut troubles = Vec::new();
    for open in gpus {
        match open() {
            Ok(opened) => return opened,
            Err(error) => troubles.extend(error.to_string().lines().next().map(str::to_owned)),
        }
    }
    cpu(if troubles.is_empty() { no_gpu } else { troubles.join("; ") })
}

fn cpu(reason: String) -> OpenedDevice {
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    OpenedDevice {
        device: Device::flex(),
        name: format!("cpu ({n_threads} threads)"),
        reason,
        is_cpu: true,
        largest_tensor_bytes: None,
    }
}

fn cuda(ordinal: Option<usize>, reason: String) -> Result<OpenedDevice, DeviceError> {
    let device = mmgem_backend_cuda::device(ordinal)?;
    let part = mmgem_backend_cuda::name(&device).unwrap_or_else(|| "NVIDIA GPU".into());
    Ok(OpenedDevice {
        device,
        name: format!("cuda:{} ({part})", ordinal.unwrap_or(0)),
        reason,
        is_cpu: false,
        largest_tensor_bytes: None,
    })
}

fn wgpu(ordinal: Option<usize>, reason: String) -> Result<OpenedDevice, DeviceError> {
    let adapters = mmgem_backend_wgpu::adapters()?;
    let ordinal = ordinal.or_else(|| best_gpu(&adapters)).unwrap_or(0);
    let device = mmgem_backend_wgpu::device(Some(ordinal))?;
    let adapter = &adapters[ordinal];
    let name = format!(
        "wgpu:{ordinal} ({}, {}, {})",
        adapter.name,
        adapter.backend,
        adapter.adapter_type.as_str()
    );
    let largest = adapter.max_storage_buffer_binding_size_bytes.min(adapter.max_buffer_size_bytes);
    Ok(OpenedDevice { device, name, reason, is_cpu: false, largest_tensor_bytes: Some(largest) })
}

fn no_gpu_reason(adapters: &[AdapterReport]) -> String {
    match adapters.iter().find(|adapter| adapter.adapter_type == AdapterType::Software) {
        Some(software) => format!("no GPU is there; {} only imitates one", software.name),
        None => "no GPU is there".into(),
    }
}

/// Stops Mesa's Vulkan layer from printing a warning on a computer without a desktop.
///
/// Must be called first: the environment must not change while another thread reads it.
pub fn silence_vulkan_layer() {
    if cfg!(target_os = "linux") && std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // The layer only puts the desktop's GPU first in the list.
        // SAFETY: `main` calls this first, before it starts other threads.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}

impl DeviceChoice {
    /// The device of one rank: NVIDIA GPUs without a number are assigned by the rank's place on its
    /// machine.
    pub fn on_rank(self, local_rank: usize) -> Self {
        match (self, mmgem_backend_cuda::gpu_count()) {
            (Self::Auto | Self::Cuda { ordinal: None }, Ok(n_gpus)) if n_gpus > 0 => {
                Self::Cuda { ordinal: Some(local_rank % n_gpus) }
            }
            _ => self,
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wanted =
            || format!("{text:?} is not a device; wanted auto, cpu, wgpu, wgpu:N, cuda or cuda:N");
        let (kind, ordinal) = match text.split_once(':') {
            Some((kind, ordinal)) => (kind, Some(ordinal.parse().map_err(|_| wanted())?)),
            None => (text, None),
        };
        match (kind, ordinal) {
            ("auto", None) => Ok(Self::Auto),
            ("cpu", None) => Ok(Self::Cpu),
            ("wgpu", ordinal) => Ok(Self::Wgpu { ordinal }),
            ("cuda", ordinal) => Ok(Self::Cuda { ordinal }),
            _ => Err(wanted()),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Wgpu { ordinal: None } => f.write_str("wgpu"),
            Self::Wgpu { ordinal: Some(ordinal) } => write!(f, "wgpu:{ordinal}"),
            Self::Cuda { ordinal: None } => f.write_str("cuda"),
            Self::Cuda { ordinal: Some(ordinal) } => write!(f, "cuda:{ordinal}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, wanted: Option<DeviceChoice>) {
        assert_eq!(text.parse().ok(), wanted, "{text}");
        if let Some(choice) = wanted {
            assert_eq!(choice.to_string(), text);
        }
    }

    #[test]
    fn devices_are_named_with_or_without_a_number() {
        check("auto", Some(DeviceChoice::Auto));
        check("cpu", Some(DeviceChoice::Cpu));
        check("wgpu", Some(DeviceChoice::Wgpu { ordinal: None }));
        check("wgpu:2", Some(DeviceChoice::Wgpu { ordinal: Some(2) }));
        check("cuda:0", Some(DeviceChoice::Cuda { ordinal: Some(0) }));
    }

    #[test]
    fn a_gpu_that_cannot_be_opened_leaves_the_cpu_and_says_why() {
        let refused = || -> OpenGpu {
            Box::new(|| {
                Err(WgpuError::Refused { name: "a card".into(), cause: "it is busy".into() }.into())
            })
        };
        let opened = first_that_opens(vec![refused()], "no GPU is there".into());
        assert!(opened.is_cpu);
        assert_eq!(opened.reason, "a card cannot be opened: it is busy");

        let works: OpenGpu = Box::new(|| Ok(cpu("stands for the next GPU".into())));
        assert_eq!(
            first_that_opens(vec![refused(), works], String::new()).reason,
            "stands for the next GPU"
        );
        assert_eq!(
            first_that_opens(Vec::new(), "no GPU is there".into()).reason,
            "no GPU is there"
        );
    }

    #[test]
    fn an_unknown_device_is_refused() {
        for text in ["", "gpu", "cpu:1", "auto:0", "wgpu:", "cuda:-1", "cuda:x", "CPU"] {
            check(text, None);
        }
    }
}
