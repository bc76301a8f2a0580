//! The tiles with the byte products of AVX-512 VNNI, in 256 bits. One instruction replaces three or
//! four of [`super::avx2`].

use std::arch::x86_64::*;

use super::activations::{LANES, Row};
use super::avx2::{eight_scales, horizontal_sum, load, tiles};
use super::product::{TILE_ACTIVATIONS, TILE_WEIGHTS, Tile, WeightRow, check_rows, into_tile};
use super::{BLOCK, Bits};

/// Whether this processor supports the kernel.
pub(super) fn is_there() -> bool {
    super::avx2::is_there()
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("avx512vl")
}

tiles!("avx2,fma,f16c,avx512vnni,avx512vl");

/// Initial value of a block's sums.
///
/// The instruction multiplies unsigned with signed bytes. If the weights are signed, [`dot`] adds
/// 128 to the activations, and this subtracts it again.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512vnni,avx512vl")]
fn start<const FOUR: bool>(weights: __m256i) -> __m256i {
    let zero = _mm256_setzero_si256();
    match FOUR {
        true => zero,
        false => {
            _mm256_sub_epi32(zero, _mm256_dpbusd_epi32(zero, _mm256_set1_epi8(i8::MIN), weights))
        }
    }
}

/// Eight sums of four products each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512vnni,avx512vl")]
fn dot<const FOUR: bool>(start: __m256i, weights: __m256i, x: __m256i) -> __m256i {
    match FOUR {
        true => _mm256_dpbusd_epi32(start, weights, x),
        false => {
            _mm256_dpbusd_epi32(start, _mm256_xor_si256(x, _mm256_set1_epi8(i8::MIN)), weights)
        }
    }
}
