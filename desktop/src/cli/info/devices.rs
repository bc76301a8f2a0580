//! `mmgem info --devices`: the devices of this machine.

use anyhow::Result;
use mmgem_backend_wgpu::AdapterReport;
use serde_json::{Value, json};

use crate::device::{DeviceChoice, open_device};
use crate::globals::Globals;
use crate::terminal::{print, print_json};

pub fn run(globals: &Globals) -> Result<()> {
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    let adapters = mmgem_backend_wgpu::adapters();
    let n_cuda = mmgem_backend_cuda::gpu_count();
    let best = open_device(DeviceChoice::Auto)?;

    if globals.json {
        let wgpu =
            adapters.as_ref().map_or_else(missing, |list| list.iter().map(json_adapter).collect());
        return print_json(&json!({
            "auto": { "device": best.name, "reason": best.reason },
            "cpu": { "threads": n_threads, "features": cpu_features() },
            "wgpu": wgpu,
            "cuda": n_cuda.as_ref().map_or_else(missing, |n| json!({ "gpus": n })),
        }));
    }
    print(format!("cpu      {n_threads} threads, {}", cpu_features().join(" ")))?;
    match adapters {
        Err(error) => print(format!("wgpu     {}", first_line(&error)))?,
        Ok(adapters) if adapters.is_empty() => print("wgpu     found no adapter")?,
        Ok(adapters) => {
            for (ordinal, adapter) in adapters.iter().enumerate() {
                print(adapter_text(ordinal, adapter))?;
            }
        }
    }
    match n_cuda {
        Err(error) => print(format!("cuda     {}", first_line(&error)))?,
        Ok(0) => print("cuda     found no NVIDIA GPU")?,
        Ok(n_gpus) => (0..n_gpus).try_for_each(|ordinal| print(format!("cuda:{ordinal}")))?,
    }
    print(format!("\nauto selects {}: {}", best.name, best.reason))
}

fn adapter_text(ordinal: usize, adapter: &AdapterReport) -> String {
    let mib = |bytes: u64| bytes >> 20;
    let has = |has: bool| if has { "yes" } else { "no" };
    format!(
        "wgpu:{ordinal}   {} ({}, {})\n         driver {}\n         shader-f16 {}, subgroups {}, buffers up to {} MiB, tensors up to {} MiB",
        adapter.name,
        adapter.backend,
        adapter.adapter_type.as_str(),
        adapter.driver,
        has(adapter.shader_f16),
        has(adapter.subgroups),
        mib(adapter.max_buffer_size_bytes),
        mib(adapter.max_storage_buffer_binding_size_bytes),
    )
}

fn json_adapter(adapter: &AdapterReport) -> Value {
    json!({
        "name": adapter.name,
        "backend": adapter.backend,
        "device_type": adapter.adapter_type.as_str(),
        "driver": adapter.driver,
        "shader_f16": adapter.shader_f16,
        "subgroups": adapter.subgroups,
        "max_buffer_size": adapter.max_buffer_size_bytes,
        "max_storage_buffer_binding_size": adapter.max_storage_buffer_binding_size_bytes,
    })
}

fn missing(error: &impl std::fmt::Display) -> Value {
    json!({ "problem": error.to_string() })
}

fn first_line(error: &impl std::fmt::Display) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Vector instructions of this CPU that our kernels or Burn's CPU backend can use.
fn cpu_features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let features = [
        ("sse4.2", std::is_x86_feature_detected!("sse4.2")),
        ("avx2", std::is_x86_feature_detected!("avx2")),
        ("fma", std::is_x86_feature_detected!("fma")),
        ("avx512f", std::is_x86_feature_detected!("avx512f")),
    ];
    #[cfg(target_arch = "aarch64")]
    let features = [
        ("neon", std::arch::is_aarch64_feature_detected!("neon")),
        ("dotprod", std::arch::is_aarch64_feature_detected!("dotprod")),
    ];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let features: [(&'static str, bool); 0] = [];
    features.into_iter().filter_map(|(name, there)| there.then_some(name)).collect()
}
