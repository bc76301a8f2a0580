//! Parts of kernels.

use cubecl::prelude::*;

/// Sum of `value` over the cube's units; their number `units` must be a power of two.
#[cube]
pub fn sum_of_cube<F: Float>(value: F, #[comptime] units: usize) -> F {
    let mut parts = Shared::<[F]>::new_slice(units);
    let unit = UNIT_POS as usize;
    parts[unit] = value;
    sync_cube();
    let mut half = comptime!(units / 2).runtime();
    while half > 0 {
        if unit < half {
            let other = parts[unit + half];
            parts[unit] += other;
        }
        sync_cube();
        half /= 2;
    }
    parts[0]
}
