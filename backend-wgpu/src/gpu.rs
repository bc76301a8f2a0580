//! Lists the adapters and opens one of them through Burn.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use burn::tensor::wgpu::{WgpuBackend, wgpu};
use burn::tensor::{Device, DeviceKind};

use crate::{AdapterReport, AdapterType, WgpuError, best_gpu};

/// Supported interfaces, best first.
///
/// OpenGL is left out. Any fast GPU has one of these, and probing for OpenGL makes some drivers
/// print messages.
const INTERFACES: [(wgpu::Backend, WgpuBackend); 3] = [
    (wgpu::Backend::Metal, WgpuBackend::Metal),
    (wgpu::Backend::Vulkan, WgpuBackend::Vulkan),
    (wgpu::Backend::Dx12, WgpuBackend::Dx12),
];

/// The adapters that this build supports, by ordinal. They are enumerated once.
pub fn adapters() -> Result<Vec<AdapterReport>, WgpuError> {
    static ADAPTERS: OnceLock<Vec<AdapterReport>> = OnceLock::new();
    let find =
        || INTERFACES.into_iter().flat_map(|(interface, _)| adapters_of(interface)).collect();
    Ok(ADAPTERS.get_or_init(find).clone())
}

fn adapters_of(interface: wgpu::Backend) -> Vec<AdapterReport> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: interface.into(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    pollster::block_on(instance.enumerate_adapters(interface.into())).iter().map(report).collect()
}

fn report(adapter: &wgpu::Adapter) -> AdapterReport {
    let (info, features, limits) = (adapter.get_info(), adapter.features(), adapter.limits());
    AdapterReport {
        name: info.name,
        backend: info.backend.to_str().to_owned(),
        adapter_type: match info.device_type {
            wgpu::DeviceType::DiscreteGpu => AdapterType::DiscreteGpu,
            wgpu::DeviceType::IntegratedGpu => AdapterType::IntegratedGpu,
            wgpu::DeviceType::VirtualGpu => AdapterType::VirtualGpu,
            wgpu::DeviceType::Cpu => AdapterType::Software,
            wgpu::DeviceType::Other => AdapterType::Unknown,
        },
        driver: [info.driver, info.driver_info].join(" ").trim().to_owned(),
        shader_f16: features.contains(wgpu::Features::SHADER_F16),
        subgroups: features.contains(wgpu::Features::SUBGROUP),
        max_buffer_size_bytes: limits.max_buffer_size,
        max_storage_buffer_binding_size_bytes: limits.max_storage_buffer_binding_size,
    }
}

/// Opens an adapter by its ordinal [default: the best GPU, else the first adapter].
///
/// # Errors
/// If the adapter does not exist or its driver fails to open it.
pub fn device(ordinal: Option<usize>) -> Result<Device, WgpuError> {
    let adapters = adapters()?;
    let ordinal = match ordinal {
        Some(ordinal) => ordinal,
        None if adapters.is_empty() => return Err(WgpuError::NoAdapter),
        None => best_gpu(&adapters).unwrap_or(0),
    };
    let Some(adapter) = adapters.get(ordinal) else {
        return Err(match adapters.len() {
            0 => WgpuError::NoAdapter,
            n_adapters => WgpuError::NoSuchAdapter { ordinal, n_adapters },
        });
    };
    // Burn can open each adapter only once per process.
    static OPENED: OnceLock<Mutex<HashMap<usize, Device>>> = OnceLock::new();
    let mut opened =
        OPENED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(device) = opened.get(&ordinal) {
        return Ok(device.clone());
    }
    let (interface, kind) = selector(&adapters, ordinal)
        .ok_or_else(|| WgpuError::NotSelectable { ordinal, name: adapter.name.clone() })?;
    // Open it explicitly: creating a tensor on a device that cannot be opened panics.
    let device = Device::wgpu_options().graphics_api(interface).device_kind(kind).init().map_err(
        |error| WgpuError::Refused { name: adapter.name.clone(), cause: error.to_string() },
    )?;
    opened.insert(ordinal, device.clone());
    Ok(device)
}

/// Burn's selector of an adapter: its interface, and its kind with its index among adapters of the
/// same interface and kind.
fn selector(adapters: &[AdapterReport], ordinal: usize) -> Option<(WgpuBackend, DeviceKind)> {
    let wanted = &adapters[ordinal];
    let alike = |other: &&AdapterReport| {
        other.backend == wanted.backend && other.adapter_type == wanted.adapter_type
    };
    let place = adapters[..ordinal].iter().filter(alike).count();
    let kind = match wanted.adapter_type {
        AdapterType::DiscreteGpu => DeviceKind::DiscreteGpu(place),
        AdapterType::IntegratedGpu => DeviceKind::IntegratedGpu(place),
        AdapterType::VirtualGpu => DeviceKind::VirtualGpu(place),
        AdapterType::Software if place == 0 => DeviceKind::Cpu,
        AdapterType::Software | AdapterType::Unknown => return None,
    };
    let (_, interface) =
        INTERFACES.into_iter().find(|(interface, _)| interface.to_str() == wanted.backend)?;
    Some((interface, kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::adapter;

    #[test]
    fn an_adapter_past_the_last_is_named_as_missing() {
        match device(Some(1000)).expect_err("no computer has a thousand GPUs") {
            WgpuError::NoSuchAdapter { ordinal: 1000, .. } => {}
            WgpuError::NoAdapter => eprintln!("SKIPPED: no adapter on this machine"),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn an_adapter_is_counted_among_those_of_its_interface_and_kind() {
        use AdapterType::{DiscreteGpu, IntegratedGpu, Software};
        let list = [
            ("vulkan", DiscreteGpu),
            ("vulkan", IntegratedGpu),
            ("vulkan", Software),
            ("vulkan", DiscreteGpu),
            ("dx12", DiscreteGpu),
            ("vulkan", Software),
        ]
        .map(|(backend, adapter_type)| adapter(backend, adapter_type));
        let selectors: Vec<_> = (0..list.len()).map(|ordinal| selector(&list, ordinal)).collect();
        let vulkan = |kind| Some((WgpuBackend::Vulkan, kind));
        let wanted = [
            vulkan(DeviceKind::DiscreteGpu(0)),
            vulkan(DeviceKind::IntegratedGpu(0)),
            vulkan(DeviceKind::Cpu),
            vulkan(DeviceKind::DiscreteGpu(1)),
            Some((WgpuBackend::Dx12, DeviceKind::DiscreteGpu(0))),
            None,
        ];
        assert_eq!(selectors, wanted);
    }

    #[test]
    fn the_first_adapter_computes() {
        let Ok(device) = device(None) else {
            eprintln!("SKIPPED: no adapter on this machine");
            return;
        };
        let sum = burn::tensor::Tensor::<1>::from_floats([1.0, 2.5], &device).sum();
        assert_eq!(sum.into_scalar::<f32>(), 3.5);
    }
}
