//! What happens before JavaScript can call anything.

use wasm_bindgen::prelude::*;

// Named for their features only.
use {getrandom_03 as _, getrandom_04 as _, tokenizers as _};

unsafe extern "C" {
    fn __wasm_call_ctors();
}

#[wasm_bindgen]
unsafe extern "C" {
    /// Defined by the worker: a panic leaves every promise pending, so it has to be told another way.
    #[wasm_bindgen(js_name = mmgemPanicked)]
    fn panicked(message: &str);
}

/// Runs once when the module is loaded.
#[wasm_bindgen(start)]
fn start() {
    // Without an own call the linker runs every constructor again at every export: 100 times slower.
    // SAFETY: the linker makes this function; nothing that it sets up has been used yet.
    unsafe { __wasm_call_ctors() };
    std::panic::set_hook(Box::new(|panic| panicked(&panic.to_string())));
}
