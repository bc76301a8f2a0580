//! MM-GEM in a browser: a handle for JavaScript over [`mmgem_core::session`].
//!
//! Nothing to see on other targets; the desktop program has the session itself.

#[cfg(target_arch = "wasm32")]
mod handle;
#[cfg(target_arch = "wasm32")]
mod library;
#[cfg(target_arch = "wasm32")]
mod start;
#[cfg(target_arch = "wasm32")]
pub use handle::{Caption, Image, Model, ModelFiles, Place, Writing};
#[cfg(target_arch = "wasm32")]
pub use library::Library;
