//! The products with NEON's 128-bit integers: half of a block's integers at a time, and the scales
//! of 4 blocks at a time.
//!
//! It is compiled twice: for the byte products of Armv8.2 (`dotprod`), which most processors since
//! 2018 have, and for processors without them.

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use super::activations::Row;
use super::product::{TILE_WEIGHTS, Tile, WeightRow, check_rows};
use super::{BLOCK, Bits};

/// Whether this processor has byte products.
pub(super) fn has_dotprod() -> bool {
    is_aarch64_feature_detected!("dotprod")
}

/// See [`super::product::Kernel`]. `dotprod` needs [`has_dotprod`].
pub(super) fn tile(dotprod: bool, bits: Bits, weights: &[WeightRow], activations: &[Row]) -> Tile {
    #[target_feature(enable = "dotprod")]
    fn with_dotprod(bits: Bits, weights: &[WeightRow], activations: &[Row]) -> Tile {
        tile_of::<ByteProducts>(bits, weights, activations)
    }
    check_rows(bits, weights, activations);
    if dotprod {
        // SAFETY: the processor has the instructions, as the caller checked.
        return unsafe { with_dotprod(bits, weights, activations) };
    }
    tile_of::<WideProducts>(bits, weights, activations)
}

/// Products with one row of activations: see [`super::product::Kernel`]. `dotprod` needs
/// [`has_dotprod`].
pub(super) fn vector(dotprod: bool, bits: Bits, weights: &[WeightRow], x: Row, out: &mut [f32]) {
    #[target_feature(enable = "dotprod")]
    fn with_dotprod(bits: Bits, weights: &[WeightRow], x: Row, out: &mut [f32]) {
        vector_of::<ByteProducts>(bits, weights, x, out);
    }
    check_rows(bits, weights, &[x]);
    if dotprod {
        // SAFETY: the processor has the instructions, as the caller checked.
        return unsafe { with_dotprod(bits, weights, x, out) };
    }
    vector_of::<WideProducts>(bits, weights, x, out);
}

/// Products of a block's signed integers, in two halves.
trait Products {
    /// Four sums of eight products each. Activations are in −127..=127.
    fn dot(weights: [int8x16_t; 2], x: [int8x16_t; 2]) -> int32x4_t;
}

/// Without `dotprod`.
struct WideProducts;

impl Products for WideProducts {
    #[inline(always)]
    fn dot([w, v]: [int8x16_t; 2], [x, y]: [int8x16_t; 2]) -> int32x4_t {
        // SAFETY: all processors of this architecture have NEON.
        unsafe {
            // Two products fit 16 bits: 2 · 128 · 127 < 2^15.
            let first = vmlal_high_s8(vmull_s8(vget_low_s8(w), vget_low_s8(x)), w, x);
            let second = vmlal_high_s8(vmull_s8(vget_low_s8(v), vget_low_s8(y)), v, y);
            vpadalq_s16(vpaddlq_s16(first), second)
        }
    }
}

/// With `dotprod`. Only for functions that are compiled for it.
struct ByteProducts;

impl Products for ByteProducts {
    #[inline(always)]
    fn dot([w, v]: [int8x16_t; 2], [x, y]: [int8x16_t; 2]) -> int32x4_t {
        /// Adds four products to each sum. Rust's `vdotq_s32` is unstable.
        #[inline(always)]
        fn add(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
            // SAFETY: the instruction reads and writes registers only, and the processor has it.
            unsafe {
                asm!(
                    "sdot {sums:v}.4s, {a:v}.16b, {b:v}.16b",
                    sums = inout(vreg) sums,
                    a = in(vreg) a,
                    b = in(vreg) b,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            sums
        }
        // SAFETY: all processors of this architecture have NEON.
        add(add(unsafe { vdupq_n_s32(0) }, w, x), v, y)
    }
}

#[inline(always)]
fn tile_of<P: Products>(bits: Bits, weights: &[WeightRow], activations: &[Row]) -> Tile {
    match (bits, weights) {
        (Bits::Eight, &[w]) => products::<P, false, 1>([w], activations),
        (Bits::Eight, &[v, w]) => products::<P, false, 2>([v, w], activations),
        (Bits::Four, &[w]) => products::<P, true, 1>([w], activations),
        (Bits::Four, &[v, w]) => products::<P, true, 2>([v, w], activations),
        _ => unreachable!("a tile has at most {TILE_WEIGHTS} rows"),
    }
}

/// Two rows of activations at a time: with four, some sums would be in memory instead of registers.
#[inline(always)]
fn products<P: Products, const FOUR: bool, const R: usize>(
    weights: [WeightRow; R],
    activations: &[Row],
) -> Tile {
    let mut tile = Tile::default();
    let (pairs, rest) = activations.as_chunks::<2>();
    // SAFETY: `tile` checked the sizes.
    unsafe {
        for (i, pair) in pairs.iter().enumerate() {
            for (row, products) in tile.iter_mut().zip(dots::<P, FOUR, R, 2>(weights, *pair)) {
                row[2 * i..][..2].copy_from_slice(&products);
            }
        }
        if let &[last] = rest {
            for (row, [product]) in tile.iter_mut().zip(dots::<P, FOUR, R, 1>(weights, [last])) {
                row[2 * pairs.len()] = product;
            }
        }
    }
    tile
}

#[inline(always)]
fn vector_of<P: Products>(bits: Bits, weights: &[WeightRow], x: Row, out: &mut [f32]) {
    match bits {
        Bits::Eight => vector_of_bits::<P, false>(weights, x, out),
        Bits::Four => vector_of_bits::<P, true>(weights, x, out),
    }
}

/// Four rows of weights at a time, so that the additions of one need not wait for the previous one.
#[inline(always)]
fn vector_of_bits<P: Products, const FOUR: bool>(weights: &[WeightRow], x: Row, out: &mut [f32]) {
    let (out, last) = out[..weights.len()].as_chunks_mut::<4>();
    let (weights, rest) = weights.as_chunks::<4>();
    // SAFETY: `vector` checked the sizes.
    unsafe {
        for (weights, out) in weights.iter().zip(out) {
            *out = dots::<P, FOUR, 4, 1>(*weights, [x]).map(|[product]| product);
        }
        for (weights, out) in rest.iter().zip(last) {
            [[*out]] = dots::<P, FOUR, 1, 1>([*weights], [x]);
        }
    }
}

/// # Safety
/// The sizes must have been checked.
#[inline(always)]
unsafe fn dots<P: Products, const FOUR: bool, const R: usize, const N: usize>(
    weights: [WeightRow; R],
    activations: [Row; N],
) -> [[f32; N]; R] {
    let n_blocks = weights[0].scales.len();
    let whole = n_blocks - n_blocks % SCALES;
    // SAFETY: guaranteed by the caller, and the blocks exist.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); N]; R];
        for first in (0..whole).step_by(SCALES) {
            add_blocks::<P, FOUR, R, N>(&weights, &activations, first, SCALES, &mut sums);
        }
        if whole < n_blocks {
            let rest = n_blocks - whole;
            add_blocks::<P, FOUR, R, N>(&weights, &activations, whole, rest, &mut sums);
        }
        sums.map(|sums| sums.map(|sum| vaddvq_f32(sum)))
    }
}

/// Blocks whose scales are loaded at once.
const SCALES: usize = 4;

/// Adds the products of `n` blocks, at most [`SCALES`].
///
/// # Safety
/// The rows must have these blocks.
#[inline(always)]
unsafe fn add_blocks<P: Products, const FOUR: bool, const R: usize, const N: usize>(
    weights: &[WeightRow; R],
    activations: &[Row; N],
    first: usize,
    n: usize,
    sums: &mut [[float32x4_t; N]; R],
) {
    // SAFETY: guaranteed by the caller. Rows of activations are padded to whole vectors of scales.
    unsafe {
        let mut scales = [[vdupq_n_f32(0.0); N]; R];
        for r in 0..R {
            let of_weights = four_scales(&weights[r].scales[first..first + n]);
            for k in 0..N {
                let of_x = vld1q_f32(activations[k].scales.as_ptr().add(first));
                scales[r][k] = vmulq_f32(of_weights, of_x);
            }
        }
        add_block::<P, FOUR, R, N, 0>(weights, activations, first, &scales, sums);
        if n > 1 {
            add_block::<P, FOUR, R, N, 1>(weights, activations, first, &scales, sums);
        }
        if n > 2 {
            add_block::<P, FOUR, R, N, 2>(weights, activations, first, &scales, sums);
        }
        if n > 3 {
            add_block::<P, FOUR, R, N, 3>(weights, activations, first, &scales, sums);
        }
    }
}

/// Adds the products of block `first + B`, whose scale is number `B`.
///
/// # Safety
/// The rows must have this block.
#[inline(always)]
unsafe fn add_block<P: Products, const FOUR: bool, const R: usize, const N: usize, const B: i32>(
    weights: &[WeightRow; R],
    activations: &[Row; N],
    first: usize,
    scales: &[[float32x4_t; N]; R],
    sums: &mut [[float32x4_t; N]; R],
) {
    let block = first + B as usize;
    // SAFETY: guaranteed by the caller.
    unsafe {
        let numbers = weights.map(|row| load::<FOUR>(row.codes, block));
        for k in 0..N {
            let x = activations[k].numbers.as_ptr().add(block * BLOCK);
            let x = [vld1q_s8(x), vld1q_s8(x.add(BLOCK / 2))];
            for r in 0..R {
                let dot = P::dot(numbers[r], x);
                // 4-bit weights are 16 times too large.
                let dot = if FOUR { vcvtq_n_f32_s32::<4>(dot) } else { vcvtq_f32_s32(dot) };
                sums[r][k] = vfmaq_laneq_f32::<B>(sums[r][k], dot, scales[r][k]);
            }
        }
    }
}

/// The integers of a block: −127..=127, or 16 times −8..=7.
///
/// # Safety
/// The row must have this block.
#[inline(always)]
unsafe fn load<const FOUR: bool>(codes: &[u8], block: usize) -> [int8x16_t; 2] {
    // SAFETY: a block of 4 bits has 16 bytes, and one of 8 bits 32.
    unsafe {
        if !FOUR {
            let codes = codes.as_ptr().add(block * BLOCK).cast();
            return [vld1q_s8(codes), vld1q_s8(codes.add(BLOCK / 2))];
        }
        let bytes = vld1q_u8(codes.as_ptr().add(block * (BLOCK / 2)));
        // With its highest bit flipped, a half byte 0..=15 is −8..=7 in the complement of two.
        let both = veorq_u8(bytes, vdupq_n_u8(0x88));
        let (low, high) = (vshlq_n_u8::<4>(both), vandq_u8(both, vdupq_n_u8(0xF0)));
        [vreinterpretq_s8_u8(low), vreinterpretq_s8_u8(high)]
    }
}

/// Loads up to four scales; the rest are zero.
#[inline(always)]
fn four_scales(scales: &[half::f16]) -> float32x4_t {
    let mut bits = [0u16; SCALES];
    let bits = match scales.len() {
        SCALES => scales.as_ptr().cast(),
        n => {
            for (bits, scale) in bits[..n].iter_mut().zip(scales) {
                *bits = scale.to_bits();
            }
            bits.as_ptr()
        }
    };
    // SAFETY: four f16 values are readable in both cases.
    unsafe { vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(bits))) }
}
