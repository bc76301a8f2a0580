//! MM-GEM in a browser: JavaScript bindings of `mmgem_core::session`.
//!
//! The crate is empty on other targets. The desktop program uses the session directly.

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
