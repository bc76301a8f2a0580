//! Initialization of the wasm module.

use wasm_bindgen::prelude::*;

// Dependencies only for their features.
use {getrandom_03 as _, getrandom_04 as _, tokenizers as _};

unsafe extern "C" {
    fn __wasm_call_ctors();
}

#[wasm_bindgen]
unsafe extern "C" {
    /// Reports a panic, which leaves every promise pending. The worker defines this function.
    #[wasm_bindgen(js_name = mmgemPanicked)]
    fn panicked(message: &str);
}

/// Runs once when the module is loaded.
#[wasm_bindgen(start)]
fn start() {
    // Without this call the linker runs every constructor at each exported call: 100 times slower.
    // SAFETY: the linker defines this function, and no code has used the state that it initializes.
    unsafe { __wasm_call_ctors() };
    std::panic::set_hook(Box::new(|panic| panicked(&panic.to_string())));
}
