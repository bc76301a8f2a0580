//! The window, `mmgem app`.
//!
//! - `messages.rs`: messages between the window and its threads
//! - `state/`: the window's state and its requests; no drawing
//! - `clicks.rs`: boxes proposed for clicks on a photo
//! - `worker/`, `indexing.rs`, `thumbnails.rs`, `export.rs`, `dialogs.rs`: the threads
//! - `warm_up.rs`: compiles a GPU's kernels ahead of the first request
//! - `weak.rs`: the line between good and weak matches
//! - `renderer.rs`: the choice of wgpu or OpenGL for drawing
//! - `main_window.rs` and its parts: `search_bar.rs`, `filters.rs`, `grid.rs`,
//!   `selection_bar.rs`, `photo_view.rs`, `library_panel.rs`, `problems.rs`, `overview.rs`
//! - `grid_layout.rs`, `geometry.rs`: places on the screen
//!
//! The window never blocks: only the threads use the model and read the library and photos. One
//! thread has the model, answers requests in order and skips those that a newer request replaces.
//! One fills the library. One reads thumbnails and best boxes of the visible cells. They share only
//! messages and the library's file. Hits are a complete ranking, so cut-off and order change
//! without a new search.

mod clicks;
mod dialogs;
mod event_log;
mod export;
mod filters;
mod geometry;
mod grid;
mod grid_layout;
mod indexing;
mod library_panel;
mod main_window;
mod messages;
mod months;
mod overview;
mod photo_view;
mod problems;
mod renderer;
mod search_bar;
mod selection_bar;
mod settings;
mod sidecar;
mod state;
mod style;
mod system;
mod thumbnails;
mod warm_up;
mod weak;
mod worker;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::channel;

use anyhow::Result;
use eframe::egui;

use crate::globals::Globals;
use event_log::EventLog;
use main_window::Window;
use messages::EventSender;
pub use renderer::Renderer;
use settings::Settings;
pub use settings::Theme;
use state::{Start, State};

/// The folders that the window watches for a library.
pub fn folders_of(library: &std::path::Path) -> Vec<PathBuf> {
    Settings::of(library).folders
}

/// Opens the window; returns when the user closes it.
///
/// # Errors
/// When the system has no desktop, or neither a GPU nor OpenGL to draw with.
pub fn run(
    folders: Vec<PathBuf>,
    library: PathBuf,
    theme: Option<Theme>,
    renderer: Renderer,
    globals: &Globals,
) -> Result<()> {
    let make = |creation: &eframe::CreationContext| -> Result<Box<dyn eframe::App>, _> {
        style::set(&creation.egui_ctx);
        let log = EventLog::new(globals.json);
        renderer::report(creation, log);
        let start = |requests| Start {
            requests,
            log,
            library: library.clone(),
            model: globals.model.clone(),
            theme,
            settings: Settings::of(&library),
            folders: folders.clone(),
        };
        let (requests, queue) = channel();
        let (sender, events) = channel();
        let state = State::new(start(requests.clone()));
        let ctx = creation.egui_ctx.clone();
        let sender = EventSender::new(sender, move || ctx.request_repaint());
        thumbnails::start(state.cell_requests.clone(), sender.clone());
        // The window shows these notes, so stderr need not repeat them.
        let quiet = Globals { quiet: true, json: false, ..globals.clone() };
        worker::start(quiet, library.clone(), queue, requests, sender, state.control.clone());
        Ok(Box::new(Window::new(state, events)))
    };
    #[cfg(feature = "wgpu")]
    renderer::end_when_lost();
    let mut failed = Vec::new();
    for attempt in renderer.attempts() {
        let mut options = eframe::NativeOptions {
            viewport: egui::ViewportBuilder::default()
                .with_title("MM-GEM")
                .with_app_id("mmgem")
                .with_icon(Arc::new(egui::IconData::default()))
                .with_inner_size([1180.0, 780.0])
                .with_min_inner_size([360.0, 420.0]),
            renderer: *attempt,
            ..Default::default()
        };
        renderer.set(&mut options);
        match eframe::run_native("mmgem", options, Box::new(make)) {
            Ok(()) => return Ok(()),
            Err(error) => failed.push(error),
        }
    }
    Err(cannot_open(&failed))
}

fn cannot_open(attempts: &[eframe::Error]) -> anyhow::Error {
    let (mut wanted, mut causes, mut cures) = (Vec::new(), Vec::new(), Vec::new());
    for error in attempts {
        const OPENGL: &str = "on Linux, Mesa's software OpenGL (libgl1-mesa-dri) is enough";
        let (what, cause, cure) = match error {
            // Its own text begins with a path inside the source of winit.
            eframe::Error::Winit(_) | eframe::Error::WinitEventLoop(_) => {
                let found = no_desktop(|name| std::env::var_os(name));
                let cure = "start it from a desktop, or over SSH with `ssh -X`";
                ("a desktop (X11 or Wayland on Linux)", found, cure)
            }
            // Its full text lists every attempt in ten lines and does not help.
            eframe::Error::NoGlutinConfigs(_, cause) => {
                ("OpenGL", format!("there is none ({cause})"), OPENGL)
            }
            #[cfg(feature = "wgpu")]
            eframe::Error::Wgpu(cause) => ("a GPU", renderer::why(cause), OPENGL),
            _ => ("OpenGL", error.to_string(), OPENGL),
        };
        if !cures.contains(&cure) {
            cures.push(cure);
        }
        if !wanted.contains(&what) {
            wanted.push(what);
            causes.push(cause);
        }
    }
    anyhow::anyhow!(
        "mmgem app needs {}: {}\n  hint: {}; `mmgem index` and `mmgem search` do the same in a \
         terminal",
        wanted.join(" or "),
        causes.join("; "),
        cures.join("; ")
    )
}

/// The reason why there is no desktop, from the variables that name one.
fn no_desktop(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> String {
    let named = ["WAYLAND_DISPLAY", "WAYLAND_SOCKET", "DISPLAY"].into_iter().find_map(|name| {
        let value = variable(name).filter(|value| !value.is_empty())?;
        Some(format!("the display {} ({name}) does not answer", value.display()))
    });
    match named {
        Some(named) => named,
        None if cfg!(target_os = "linux") => "neither DISPLAY nor WAYLAND_DISPLAY is set".into(),
        None => "the system's desktop does not answer".into(),
    }
}
