//! Chooses what draws the window: a GPU through wgpu, else OpenGL.
//!
//! egui's wgpu device is separate from Burn's.

use super::event_log::EventLog;

/// The renderer of the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Renderer {
    /// A GPU through Vulkan, Metal or DX12; OpenGL if there is none.
    #[default]
    Auto,
    /// Vulkan, Metal or DX12, also in software.
    #[cfg(feature = "wgpu")]
    Wgpu,
    /// OpenGL, also in software.
    Gl,
}

impl Renderer {
    /// The renderers to try, best first.
    pub fn attempts(self) -> &'static [eframe::Renderer] {
        match self {
            #[cfg(feature = "wgpu")]
            Self::Auto => &[eframe::Renderer::Wgpu, eframe::Renderer::Glow],
            #[cfg(feature = "wgpu")]
            Self::Wgpu => &[eframe::Renderer::Wgpu],
            #[cfg(not(feature = "wgpu"))]
            Self::Auto => &[eframe::Renderer::Glow],
            Self::Gl => &[eframe::Renderer::Glow],
        }
    }

    /// Restricts wgpu to the adapters that this choice allows.
    pub fn set(self, options: &mut eframe::NativeOptions) {
        #[cfg(feature = "wgpu")]
        gpu::set(self == Self::Wgpu, options);
        #[cfg(not(feature = "wgpu"))]
        let _ = options;
    }
}

/// Prints an event that names the renderer.
pub fn report(creation: &eframe::CreationContext, log: EventLog) {
    #[cfg(feature = "wgpu")]
    if let Some(wgpu) = &creation.wgpu_render_state {
        let info = wgpu.adapter.get_info();
        let facts = [("renderer", info.backend.to_str().into()), ("adapter", info.name.into())];
        return log.print("opened", &facts);
    }
    log.print("opened", &[("renderer", if creation.gl.is_some() { "gl" } else { "none" }.into())]);
}

#[cfg(feature = "wgpu")]
pub use gpu::{end_when_lost, why};

#[cfg(feature = "wgpu")]
mod gpu {
    use std::panic::{set_hook, take_hook};
    use std::sync::Arc;
    use std::thread;

    use eframe::egui_wgpu::{WgpuError, WgpuSetup};
    use eframe::wgpu::{Adapter, Backends, DeviceType, Surface};

    use crate::device::failure::is_of;
    use crate::terminal::print_error;

    const NO_DRIVER: &str = "there is no driver of Vulkan, Metal or DX12";

    pub fn set(is_software_right: bool, options: &mut eframe::NativeOptions) {
        let WgpuSetup::CreateNew(setup) = &mut options.wgpu_options.wgpu_setup else { return };
        // A device that only has OpenGL is left to the OpenGL renderer.
        setup.instance_descriptor.backends = Backends::from_env().unwrap_or(Backends::PRIMARY);
        setup.native_adapter_selector = Some(Arc::new(move |adapters, surface| {
            let best = adapters
                .iter()
                .filter(|adapter| {
                    surface.is_none_or(|surface: &Surface| adapter.is_surface_supported(surface))
                })
                .filter_map(|adapter| Some((rank(adapter, is_software_right)?, adapter)))
                .min_by_key(|(rank, _)| *rank);
            best.map(|(_, adapter)| adapter.clone()).ok_or_else(|| describe(adapters))
        }));
    }

    /// Preference for drawing, lowest first; `None` if the adapter must not draw. The integrated
    /// GPU comes first: it drives the screen of most laptops, thumbnails are little work, and the
    /// other GPU stays free for the model.
    fn rank(adapter: &Adapter, is_software_right: bool) -> Option<u32> {
        match adapter.get_info().device_type {
            DeviceType::IntegratedGpu => Some(0),
            DeviceType::DiscreteGpu => Some(1),
            DeviceType::VirtualGpu => Some(2),
            DeviceType::Other => Some(3),
            DeviceType::Cpu => is_software_right.then_some(4),
        }
    }

    fn describe(adapters: &[Adapter]) -> String {
        let names: Vec<String> = adapters.iter().map(|adapter| adapter.get_info().name).collect();
        if names.is_empty() {
            NO_DRIVER.to_owned()
        } else {
            format!("there is only {}", names.join(", "))
        }
    }

    /// Ends the program with a clear error when the GPU that draws is lost: egui panics then, and a
    /// second panic while that unwinds aborts. Must be called by the thread that draws.
    pub fn end_when_lost() {
        let (drawing, usual) = (thread::current().id(), take_hook());
        set_hook(Box::new(move |panic| {
            if thread::current().id() == drawing && is_of(panic, &["egui-wgpu", "wgpu"]) {
                print_error(
                    "error: the GPU that draws the window was lost\n  hint: start again; if that does not help, add \
                     --renderer gl; indexed photos are in the library\n",
                );
                std::process::exit(1);
            }
            usual(panic);
        }));
    }

    /// Why wgpu cannot draw, for the user.
    pub fn why(error: &WgpuError) -> String {
        match error {
            // Its text lists the answer of each API; without any API it is empty.
            WgpuError::CreateSurfaceError(_) => NO_DRIVER.to_owned(),
            WgpuError::CustomNativeAdapterSelectionError(why) => why.clone(),
            other => other.to_string(),
        }
    }
}
