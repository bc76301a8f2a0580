//! The products with WebAssembly's 128-bit integers. A browser without them rejects the module.

use std::arch::wasm32::*;

use super::activations::Row;
use super::product::{Tile, WeightRow};
use super::{BLOCK, Bits};

/// See [`super::product::Kernel`].
pub(super) fn tile(bits: Bits, weights: &[WeightRow], activations: &[Row]) -> Tile {
    let mut tile = Tile::default();
    for (weights, products) in weights.iter().zip(&mut tile) {
        for (activations, product) in activations.iter().zip(products) {
            *product = match bits {
                Bits::Eight => dot::<false>(weights, activations),
                Bits::Four => dot::<true>(weights, activations),
            };
        }
    }
    tile
}

fn dot<const FOUR: bool>(weights: &WeightRow, activations: &Row) -> f32 {
    let block_bytes = if FOUR { BLOCK / 2 } else { BLOCK };
    let blocks =
        weights.codes.chunks_exact(block_bytes).zip(activations.numbers.chunks_exact(BLOCK));
    let scales = weights.scales.iter().zip(activations.scales);
    let mut sum = f32x4_splat(0.0);
    for ((codes, numbers), (weight_scale, activation_scale)) in blocks.zip(scales) {
        // SAFETY: both slices hold the bytes of a whole block.
        let dot = unsafe {
            let codes = codes.as_ptr().cast::<v128>();
            let numbers = numbers.as_ptr().cast::<v128>();
            let [low, high] = if FOUR {
                let bytes = v128_load(codes);
                let eight = i8x16_splat(8);
                [
                    i8x16_sub(v128_and(bytes, u8x16_splat(15)), eight),
                    i8x16_sub(u8x16_shr(bytes, 4), eight),
                ]
            } else {
                [v128_load(codes), v128_load(codes.add(1))]
            };
            i32x4_add(dot_16(low, v128_load(numbers)), dot_16(high, v128_load(numbers.add(1))))
        };
        let scale = f32x4_splat(weight_scale.to_f32() * activation_scale);
        sum = f32x4_add(sum, f32x4_mul(f32x4_convert_i32x4(dot), scale));
    }
    f32x4_extract_lane::<0>(sum)
        + f32x4_extract_lane::<1>(sum)
        + f32x4_extract_lane::<2>(sum)
        + f32x4_extract_lane::<3>(sum)
}

/// Four sums of four products each.
fn dot_16(a: v128, b: v128) -> v128 {
    // Two products fit 16 bits: 2 · 127 · 127 < 2^15. Their pairs are widened before they are
    // added.
    let low = i32x4_extadd_pairwise_i16x8(i16x8_extmul_low_i8x16(a, b));
    i32x4_add(low, i32x4_extadd_pairwise_i16x8(i16x8_extmul_high_i8x16(a, b)))
}
