//! The tiles with AVX-512's products of bytes, in 256 bits: one instruction where [`super::avx2`] takes three or four.

use std::arch::x86_64::*;

use super::activations::{LANES, Row};
use super::avx2::{eight_scales, horizontal_sum, load};
use super::product::{TILE_ACTIVATIONS, TILE_WEIGHTS, Tile, WeightRow, check_rows, into_tile};
use super::{BLOCK, Bits};

/// Whether this processor has what the kernel needs.
pub(super) fn is_there() -> bool {
    super::avx2::is_there() && is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512vl")
}

/// See [`super::product::Kernel`]; only where [`is_there`].
pub(super) fn tile(bits: Bits, weights: &[WeightRow], activations: &[Row]) -> Tile {
    check_rows(bits, weights, activations);
    // SAFETY: the processor has the features, and the sizes were checked.
    unsafe {
        match bits {
            Bits::Eight => tile_of::<false>(weights, activations),
            Bits::Four => tile_of::<true>(weights, activations),
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512vnni,avx512vl")]
unsafe fn tile_of<const FOUR: bool>(weights: &[WeightRow], activations: &[Row]) -> Tile {
    // SAFETY: as of the caller.
    unsafe {
        match (weights, activations) {
            (&[w], &[a]) => into_tile(dots::<FOUR, 1, 1>([w], [a])),
            (&[w], &[a, b]) => into_tile(dots::<FOUR, 1, 2>([w], [a, b])),
            (&[w], &[a, b, c]) => into_tile(dots::<FOUR, 1, 3>([w], [a, b, c])),
            (&[w], &[a, b, c, d]) => into_tile(dots::<FOUR, 1, 4>([w], [a, b, c, d])),
            (&[v, w], &[a]) => into_tile(dots::<FOUR, 2, 1>([v, w], [a])),
            (&[v, w], &[a, b]) => into_tile(dots::<FOUR, 2, 2>([v, w], [a, b])),
            (&[v, w], &[a, b, c]) => into_tile(dots::<FOUR, 2, 3>([v, w], [a, b, c])),
            (&[v, w], &[a, b, c, d]) => into_tile(dots::<FOUR, 2, 4>([v, w], [a, b, c, d])),
            _ => unreachable!("a tile is at most {TILE_WEIGHTS} by {TILE_ACTIVATIONS}"),
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512vnni,avx512vl")]
#[expect(clippy::needless_range_loop, reason = "the tile's axes are indices of several arrays")]
unsafe fn dots<const FOUR: bool, const R: usize, const N: usize>(
    weights: [WeightRow; R],
    activations: [Row; N],
) -> [[f32; N]; R] {
    let n_blocks = weights[0].scales.len();
    let block_bytes = if FOUR { BLOCK / 2 } else { BLOCK };
    let zero = _mm256_setzero_si256();
    // The products are of unsigned with signed bytes. Where the weights are signed, 128 is added to the activations and
    // taken off again.
    let sign = _mm256_set1_epi8(i8::MIN);
    let mut sums = [[_mm256_setzero_ps(); N]; R];
    for first in (0..n_blocks).step_by(LANES) {
        let n_here = LANES.min(n_blocks - first);
        let mut scales = [[[0f32; LANES]; N]; R];
        for r in 0..R {
            let weight_scales = eight_scales(&weights[r].scales[first..first + n_here]);
            for n in 0..N {
                // SAFETY: rows of activations are padded to whole lanes.
                let (scale, offset) = unsafe {
                    (
                        _mm256_loadu_ps(activations[n].scales.as_ptr().add(first)),
                        _mm256_loadu_ps(activations[n].offsets.as_ptr().add(first)),
                    )
                };
                if FOUR {
                    // The numbers are taken as 0..=15; this is −8 of each. The lanes are summed in the end.
                    sums[r][n] = _mm256_fmadd_ps(weight_scales, offset, sums[r][n]);
                }
                // SAFETY: eight floats are there.
                unsafe { _mm256_storeu_ps(scales[r][n].as_mut_ptr(), _mm256_mul_ps(weight_scales, scale)) };
            }
        }
        for b in 0..n_here {
            let (mut numbers, mut start) = ([zero; R], [zero; R]);
            for r in 0..R {
                // SAFETY: the row has `n_blocks` blocks.
                numbers[r] =
                    unsafe { load::<FOUR>(weights[r].codes.as_ptr().add((first + b) * block_bytes)) };
                if !FOUR {
                    start[r] = _mm256_sub_epi32(zero, _mm256_dpbusd_epi32(zero, sign, numbers[r]));
                }
            }
            for n in 0..N {
                // SAFETY: the row has at least `n_blocks` blocks.
                let x = unsafe {
                    _mm256_loadu_si256(activations[n].numbers.as_ptr().add((first + b) * BLOCK).cast())
                };
                for r in 0..R {
                    let dot = match FOUR {
                        true => _mm256_dpbusd_epi32(zero, numbers[r], x),
                        false => _mm256_dpbusd_epi32(start[r], _mm256_xor_si256(x, sign), numbers[r]),
                    };
                    let scale = _mm256_set1_ps(scales[r][n][b]);
                    sums[r][n] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, sums[r][n]);
                }
            }
        }
    }
    sums.map(|sums| sums.map(|sum| horizontal_sum(sum)))
}
