//! The products with one row of activations: the 32 integers of a block at a time, and the scales
//! of 8 blocks at a time.

use std::arch::x86_64::*;

use super::activations::{LANES, Row};
use super::product::{WeightRow, check_rows};
use super::{BLOCK, Bits};

/// Whether this processor supports the kernel.
pub(super) fn is_there() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

/// Products with one row of activations: see [`super::product::Kernel`]. Call it only if
/// [`is_there`].
///
/// It runs at the speed of memory. The processor prefetches the weights, because consecutive rows
/// are adjacent.
pub(super) fn vector(bits: Bits, weights: &[WeightRow], x: Row, out: &mut [f32]) {
    check_rows(bits, weights, &[x]);
    for (row, out) in weights.iter().zip(out) {
        // SAFETY: the processor has the features, and the sizes were checked.
        *out = unsafe {
            match bits {
                Bits::Eight => row_of_8(*row, x),
                Bits::Four => row_of_4(*row, x),
            }
        };
    }
}

/// Prefetch distance in bytes, to hide the latency of memory.
const AHEAD: usize = 8192;

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn row_of_8(weights: WeightRow, x: Row) -> f32 {
    let n_blocks = weights.scales.len();
    // Two sums, because each addition waits for the previous one.
    let mut sums = (_mm256_setzero_ps(), _mm256_setzero_ps());
    for first in (0..n_blocks).step_by(LANES) {
        let n_here = LANES.min(n_blocks - first);
        let mut scales = [0f32; LANES];
        // SAFETY: rows of activations are padded to whole lanes, and the array has eight floats.
        unsafe {
            let of_x = _mm256_loadu_ps(x.scales.as_ptr().add(first));
            let both = _mm256_mul_ps(eight_scales(&weights.scales[first..first + n_here]), of_x);
            _mm256_storeu_ps(scales.as_mut_ptr(), both);
        }
        let block = |b: usize| {
            // SAFETY: both rows have at least `n_blocks` blocks.
            let (numbers, x) = unsafe {
                let codes = weights.codes.as_ptr().add((first + b) * BLOCK);
                if b.is_multiple_of(2) {
                    _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(AHEAD).cast());
                }
                (
                    load::<false>(codes),
                    _mm256_loadu_si256(x.numbers.as_ptr().add((first + b) * BLOCK).cast()),
                )
            };
            (_mm256_cvtepi32_ps(dot::<false>(numbers, x)), _mm256_set1_ps(scales[b]))
        };
        if n_here == LANES {
            for b in (0..LANES).step_by(2) {
                let (dots, scale) = block(b);
                sums.0 = _mm256_fmadd_ps(dots, scale, sums.0);
                let (dots, scale) = block(b + 1);
                sums.1 = _mm256_fmadd_ps(dots, scale, sums.1);
            }
        } else {
            for b in 0..n_here {
                let (dots, scale) = block(b);
                sums.0 = _mm256_fmadd_ps(dots, scale, sums.0);
            }
        }
    }
    horizontal_sum(_mm256_add_ps(sums.0, sums.1))
}

/// Handles two blocks at a time: 32 bytes hold the first halves of both in the low bits and the
/// second halves in the high bits.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn row_of_4(weights: WeightRow, x: Row) -> f32 {
    let n_blocks = weights.scales.len();
    let (low, ones) = (_mm256_set1_epi8(15), _mm256_set1_epi16(1));
    let mut sums = (_mm256_setzero_ps(), _mm256_setzero_ps());
    for first in (0..n_blocks).step_by(LANES) {
        let n_here = LANES.min(n_blocks - first);
        let of_weights = eight_scales(&weights.scales[first..first + n_here]);
        // SAFETY: rows of activations are padded to whole lanes.
        let (of_x, starts) = unsafe {
            (
                _mm256_loadu_ps(x.scales.as_ptr().add(first)),
                _mm256_loadu_si256(x.starts.as_ptr().add(first).cast()),
            )
        };
        let scales = _mm256_mul_ps(of_weights, of_x);
        // The kernel reads the weights as 0..=15; this subtracts the 8 of each. The lanes are
        // summed at the end.
        sums.0 = _mm256_fmadd_ps(scales, _mm256_cvtepi32_ps(starts), sums.0);
        let codes = weights.codes.as_ptr().wrapping_add(first * (BLOCK / 2));
        let numbers = x.numbers.as_ptr().wrapping_add(first * BLOCK);
        let two = |b: usize, of_two: __m256i| {
            // SAFETY: both rows have at least `first + b + 2` blocks.
            let (bytes, x, next_x) = unsafe {
                (
                    _mm256_loadu_si256(codes.add(b * (BLOCK / 2)).cast()),
                    _mm256_loadu_si256(numbers.add(b * BLOCK).cast()),
                    _mm256_loadu_si256(numbers.add((b + 1) * BLOCK).cast()),
                )
            };
            let (firsts, seconds) =
                (_mm256_and_si256(bytes, low), _mm256_and_si256(_mm256_srli_epi16(bytes, 4), low));
            // Four products fit 16 bits: 4 · 15 · 127 < 2^15.
            let fours = _mm256_add_epi16(
                _mm256_maddubs_epi16(firsts, _mm256_permute2x128_si256(x, next_x, 0x20)),
                _mm256_maddubs_epi16(seconds, _mm256_permute2x128_si256(x, next_x, 0x31)),
            );
            let dots = _mm256_cvtepi32_ps(_mm256_madd_epi16(fours, ones));
            (dots, _mm256_permutevar8x32_ps(scales, of_two))
        };
        if n_here == LANES {
            _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(AHEAD).cast());
            _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(AHEAD + 64).cast());
            let (dots, scale) = two(0, _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1));
            sums.0 = _mm256_fmadd_ps(dots, scale, sums.0);
            let (dots, scale) = two(2, _mm256_setr_epi32(2, 2, 2, 2, 3, 3, 3, 3));
            sums.1 = _mm256_fmadd_ps(dots, scale, sums.1);
            let (dots, scale) = two(4, _mm256_setr_epi32(4, 4, 4, 4, 5, 5, 5, 5));
            sums.0 = _mm256_fmadd_ps(dots, scale, sums.0);
            let (dots, scale) = two(6, _mm256_setr_epi32(6, 6, 6, 6, 7, 7, 7, 7));
            sums.1 = _mm256_fmadd_ps(dots, scale, sums.1);
        } else {
            for b in 0..n_here {
                // SAFETY: both rows have at least `n_blocks` blocks.
                let (numbers, x) = unsafe {
                    (
                        load::<true>(codes.add(b * (BLOCK / 2))),
                        _mm256_loadu_si256(numbers.add(b * BLOCK).cast()),
                    )
                };
                let scale = _mm256_permutevar8x32_ps(scales, _mm256_set1_epi32(b as i32));
                sums.0 =
                    _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot::<true>(numbers, x)), scale, sums.0);
            }
        }
    }
    horizontal_sum(_mm256_add_ps(sums.0, sums.1))
}

/// Loads up to eight scales; the rest are zero.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn eight_scales(scales: &[half::f16]) -> __m256 {
    let mut bits = [0u16; LANES];
    let bits = match scales.len() {
        LANES => scales.as_ptr().cast(),
        n => {
            for (bits, scale) in bits[..n].iter_mut().zip(scales) {
                *bits = scale.to_bits();
            }
            bits.as_ptr().cast()
        }
    };
    // SAFETY: eight f16 values are readable in both cases.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(bits) })
}

/// The integers of a block: −127..=127, or 0..=15.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn load<const FOUR: bool>(codes: *const u8) -> __m256i {
    if !FOUR {
        // SAFETY: a block of 8 bits has 32 bytes.
        return unsafe { _mm256_loadu_si256(codes.cast()) };
    }
    // SAFETY: a block of 4 bits has 16 bytes.
    let bytes = unsafe { _mm_loadu_si128(codes.cast()) };
    let both = _mm256_set_m128i(_mm_srli_epi16(bytes, 4), bytes);
    _mm256_and_si256(both, _mm256_set1_epi8(15))
}

/// Eight sums of four products each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot<const FOUR: bool>(weights: __m256i, x: __m256i) -> __m256i {
    // The instruction multiplies unsigned with signed bytes. Two products fit 16 bits: 2 · 127 ·
    // 127 < 2^15.
    let pairs = if FOUR {
        _mm256_maddubs_epi16(weights, x)
    } else {
        _mm256_maddubs_epi16(_mm256_sign_epi8(weights, weights), _mm256_sign_epi8(x, weights))
    };
    _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn horizontal_sum(x: __m256) -> f32 {
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
}
