//! The adapters as Burn counts them.

use burn::tensor::wgpu::wgpu;
use burn::tensor::{Device, DeviceKind};

use crate::{AdapterReport, AdapterType, WgpuError, best_gpu};

/// Interfaces in the order in which Burn tries them.
const INTERFACES: &[wgpu::Backend] = if cfg!(target_os = "macos") {
    &[wgpu::Backend::Metal]
} else {
    &[wgpu::Backend::Vulkan, wgpu::Backend::Dx12, wgpu::Backend::Gl]
};

/// The adapters that this build can reach, in the order of their ordinals.
///
/// Burn opens devices on the first interface that has a real GPU, or else on the first that has
/// anything, so only that interface's adapters are listed.
pub fn adapters() -> Result<Vec<AdapterReport>, WgpuError> {
    let mut first_software = Vec::new();
    for interface in INTERFACES {
        let found = adapters_of(*interface);
        if found.iter().any(|adapter| adapter.adapter_type != AdapterType::Software) {
            return Ok(found);
        }
        if first_software.is_empty() {
            first_software = found;
        }
    }
    Ok(first_software)
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

/// Opens an adapter by its place in [`adapters`]; without one the best GPU, else the first adapter.
///
/// # Errors
/// When there is no such adapter or its driver refuses.
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
    let kind = kind_of(&adapters, ordinal)
        .ok_or_else(|| WgpuError::NotSelectable { ordinal, name: adapter.name.clone() })?;
    // Asked here, because a tensor on a device that cannot be opened panics.
    match Device::wgpu_options().device_kind(kind.clone()).init() {
        Ok(device) => Ok(device),
        Err(burn::tensor::wgpu::WgpuInitError::Registration { .. }) => Ok(Device::wgpu(kind)),
        Err(error) => Err(WgpuError::Refused { name: adapter.name.clone(), cause: error.to_string() }),
    }
}

/// Burn's selector of an adapter: its kind, and its place among those of its kind.
fn kind_of(adapters: &[AdapterReport], ordinal: usize) -> Option<DeviceKind> {
    let wanted = adapters[ordinal].adapter_type;
    let place = adapters[..ordinal].iter().filter(|adapter| adapter.adapter_type == wanted).count();
    match wanted {
        AdapterType::DiscreteGpu => Some(DeviceKind::DiscreteGpu(place)),
        AdapterType::IntegratedGpu => Some(DeviceKind::IntegratedGpu(place)),
        AdapterType::VirtualGpu => Some(DeviceKind::VirtualGpu(place)),
        AdapterType::Software if place == 0 => Some(DeviceKind::Cpu),
        // What OpenGL calls a GPU; alone on its interface it is the default.
        AdapterType::Unknown if adapters.len() == 1 => Some(DeviceKind::DefaultDevice),
        AdapterType::Software | AdapterType::Unknown => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_past_the_last_is_named_as_missing() {
        match device(Some(1000)).expect_err("no computer has a thousand GPUs") {
            WgpuError::NoSuchAdapter { ordinal: 1000, .. } => {}
            WgpuError::NoAdapter => eprintln!("SKIPPED: no adapter on this machine"),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn every_kind_is_counted_on_its_own() {
        let Ok(found) = adapters() else { return };
        let Some(adapter) = found.first() else {
            eprintln!("SKIPPED: no adapter on this machine");
            return;
        };
        let of = |adapter_type| AdapterReport { adapter_type, ..adapter.clone() };
        let list =
            [AdapterType::DiscreteGpu, AdapterType::IntegratedGpu, AdapterType::Software, AdapterType::DiscreteGpu]
                .map(of);
        let kinds: Vec<_> = (0..4).map(|ordinal| kind_of(&list, ordinal)).collect();
        let wanted =
            [DeviceKind::DiscreteGpu(0), DeviceKind::IntegratedGpu(0), DeviceKind::Cpu, DeviceKind::DiscreteGpu(1)];
        assert_eq!(kinds, wanted.map(Some));
    }
}
