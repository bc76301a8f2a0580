//! Products with several rows of activations on x86-64, by panels of 16 rows of weights.
//!
//! A panel holds the weights of 16 rows so that four adjacent weights of each row lie side by side.
//! One instruction then adds four products for each row of a vector, and a block of 32 needs no
//! sum across a vector. Panels are made for one product, from a part of the matrix that fits the
//! first-level cache, and serve all rows of activations.

use std::arch::x86_64::*;

use super::activations::{LANES, Row};
use super::avx2::{eight_scales, load};
use super::product::{PANEL, WeightRow};
use super::{BLOCK, Bits};

/// Blocks of a panel. Its weights take 16 KiB.
const BLOCKS: usize = 32;
/// Groups of four weights in a block.
const FOURS: usize = BLOCK / 4;
/// Bytes of a block of all rows of a panel.
const BLOCK_BYTES: usize = PANEL * BLOCK;

/// Up to [`BLOCKS`] blocks of [`PANEL`] rows of weights.
struct Panel {
    n_blocks: usize,
    /// `[blocks, 8, 16 rows, 4]`: −127..=127 plus the kernel's offset, or 0..=15.
    numbers: Box<[u8; BLOCKS * BLOCK_BYTES]>,
    /// `[blocks, 16 rows]`
    scales: Box<[f32; BLOCKS * PANEL]>,
}

impl Panel {
    fn new() -> Self {
        let numbers = vec![0; BLOCKS * BLOCK_BYTES].try_into().expect("the length is the array's");
        let scales = vec![0.0; BLOCKS * PANEL].try_into().expect("the length is the array's");
        Self { n_blocks: 0, numbers, scales }
    }

    /// Copies the blocks from `first` on. `flip` is added to the integers of 8 bits, modulo 256.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn fill(&mut self, bits: Bits, weights: &[WeightRow], first: usize, flip: i8) {
        let n_blocks = weights[0].scales.len();
        self.n_blocks = BLOCKS.min(n_blocks - first);
        for half in 0..PANEL / LANES {
            let rows = weights.get(half * LANES..).unwrap_or_default();
            for b in (0..self.n_blocks).step_by(LANES) {
                let n_here = LANES.min(self.n_blocks - b);
                let mut scales = [_mm256_setzero_ps(); LANES];
                for (scales, row) in scales.iter_mut().zip(rows) {
                    *scales = eight_scales(&row.scales[first + b..first + b + n_here]);
                }
                let scales = transposed(scales.map(|x| _mm256_castps_si256(x)));
                for (nth, scales) in scales.into_iter().take(n_here).enumerate() {
                    let to = &mut self.scales[(b + nth) * PANEL + half * LANES..][..LANES];
                    // SAFETY: eight floats are there.
                    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), scales) };
                }
            }
            let flip = _mm256_set1_epi8(flip);
            for b in 0..self.n_blocks {
                let mut numbers = [_mm256_setzero_si256(); LANES];
                for (numbers, row) in numbers.iter_mut().zip(rows) {
                    let codes =
                        &row.codes[(first + b) * bits.block_bytes()..][..bits.block_bytes()];
                    // SAFETY: the slice has the bytes of a block.
                    *numbers = unsafe {
                        match bits {
                            Bits::Eight => _mm256_add_epi8(load::<false>(codes.as_ptr()), flip),
                            Bits::Four => load::<true>(codes.as_ptr()),
                        }
                    };
                }
                for (nth, numbers) in transposed(numbers).into_iter().enumerate() {
                    let at = b * BLOCK_BYTES + nth * (PANEL * 4) + half * (LANES * 4);
                    let to = &mut self.numbers[at..at + LANES * 4];
                    // SAFETY: 32 bytes are there.
                    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), numbers) };
                }
            }
        }
    }
}

/// Starts to load the blocks after those from `first` on, or the first ones of the next rows, which
/// follow in memory.
///
/// The processor does not detect the short accesses to so many rows in time.
fn prefetch_after(bits: Bits, weights: &[WeightRow], first: usize) {
    const LINE: usize = 64;
    let bytes = bits.block_bytes() * BLOCKS;
    for row in weights {
        let next = match first + BLOCKS < row.scales.len() {
            true => (first + BLOCKS) * bits.block_bytes(),
            false => PANEL * row.codes.len(),
        };
        for at in (next..next + bytes).step_by(LINE) {
            // SAFETY: a prefetch of any address is harmless.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(row.codes.as_ptr().wrapping_add(at).cast()) };
        }
    }
}

/// Transposes a square of eight by eight numbers of 32 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn transposed(x: [__m256i; LANES]) -> [__m256i; LANES] {
    let [a, b, c, d, e, f, g, h] = x;
    let pairs = [
        [_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b)],
        [_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d)],
        [_mm256_unpacklo_epi32(e, f), _mm256_unpackhi_epi32(e, f)],
        [_mm256_unpacklo_epi32(g, h), _mm256_unpackhi_epi32(g, h)],
    ];
    let [ab, cd, ef, gh] = pairs;
    let mut out = [_mm256_setzero_si256(); LANES];
    for i in 0..2 {
        let (low, high) =
            (_mm256_unpacklo_epi64(ab[i], cd[i]), _mm256_unpackhi_epi64(ab[i], cd[i]));
        let (next_low, next_high) =
            (_mm256_unpacklo_epi64(ef[i], gh[i]), _mm256_unpackhi_epi64(ef[i], gh[i]));
        out[2 * i] = _mm256_permute2x128_si256(low, next_low, 0x20);
        out[2 * i + 1] = _mm256_permute2x128_si256(high, next_high, 0x20);
        out[2 * i + 4] = _mm256_permute2x128_si256(low, next_low, 0x31);
        out[2 * i + 5] = _mm256_permute2x128_si256(high, next_high, 0x31);
    }
    out
}

/// Defines `multiply` for a kernel with the given processor features and vectors of `lanes` floats.
///
/// `I` and `F` are its vectors of integers and floats. In scope must be `FLIP`, which is added to
/// weights of 8 bits; `GROUP`, the activation rows of the innermost loop (2, 4 or 8); `load_ints`,
/// `load_floats`, `store_floats`; `block`, the sums of a block's products plus a start value for
/// each row of weights; and `add_scaled`.
macro_rules! panels {
    ($features:literal, $lanes:literal) => {
        /// Writes the products of up to [`PANEL`] rows of weights into `out`, `[n, PANEL]`.
        pub fn multiply(bits: Bits, weights: &[WeightRow], activations: &[Row], out: &mut [f32]) {
            check_rows(bits, weights, activations);
            assert!(weights.len() <= PANEL && out.len() == activations.len() * PANEL);
            // SAFETY: the processor has the features, and the sizes were checked.
            unsafe {
                match bits {
                    Bits::Eight => multiply_of::<false>(bits, weights, activations, out),
                    Bits::Four => multiply_of::<true>(bits, weights, activations, out),
                }
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn multiply_of<const FOUR: bool>(
            bits: Bits,
            weights: &[WeightRow],
            activations: &[Row],
            out: &mut [f32],
        ) {
            out.fill(0.0);
            let mut panel = Panel::new();
            for first in (0..weights[0].scales.len()).step_by(BLOCKS) {
                panel.fill(bits, weights, first, FLIP);
                prefetch_after(bits, weights, first);
                for half in 0..PANEL / $lanes {
                    let mut n = 0;
                    while n < activations.len() {
                        let (rows, out) = (&activations[n..], &mut out[n * PANEL..]);
                        // SAFETY: guaranteed by the caller.
                        n += unsafe {
                            match rows.len() {
                                len if len >= GROUP => {
                                    group::<FOUR, GROUP>(&panel, half, first, rows, out)
                                }
                                4.. => group::<FOUR, 4>(&panel, half, first, rows, out),
                                2.. => group::<FOUR, 2>(&panel, half, first, rows, out),
                                _ => group::<FOUR, 1>(&panel, half, first, rows, out),
                            }
                        };
                    }
                }
            }
        }

        /// Adds the panel's products with the first `N` rows of activations. Returns `N`.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn group<const FOUR: bool, const N: usize>(
            panel: &Panel,
            half: usize,
            first: usize,
            rows: &[Row],
            out: &mut [f32],
        ) -> usize {
            assert!(rows.len() >= N && out.len() >= N * PANEL);
            // SAFETY: `out` and the panel have these elements, and a row of activations has all
            // blocks of the weights.
            unsafe {
                let out = out.as_mut_ptr().add(half * $lanes);
                let numbers = panel.numbers.as_ptr().add(half * $lanes * 4);
                let scales = panel.scales.as_ptr().add(half * $lanes);
                let mut sums = [load_floats(out); N];
                for n in 1..N {
                    sums[n] = load_floats(out.add(n * PANEL));
                }
                for b in 0..panel.n_blocks {
                    let mut weights = [load_ints(numbers.add(b * BLOCK_BYTES)); FOURS];
                    for i in 1..FOURS {
                        weights[i] = load_ints(numbers.add(b * BLOCK_BYTES + i * PANEL * 4));
                    }
                    let weight_scales = load_floats(scales.add(b * PANEL));
                    for n in 0..N {
                        let x = rows.get_unchecked(n);
                        let start = *x.starts.get_unchecked(first + b);
                        let x_numbers = x.numbers.as_ptr().add((first + b) * BLOCK);
                        let dots = block::<FOUR>(&weights, x_numbers, start);
                        let x_scale = *x.scales.get_unchecked(first + b);
                        sums[n] = add_scaled(sums[n], dots, weight_scales, x_scale);
                    }
                }
                for n in 0..N {
                    store_floats(out.add(n * PANEL), sums[n]);
                }
            }
            N
        }
    };
}

/// Four adjacent integers as one.
///
/// # Safety
/// Four bytes are readable.
#[inline(always)]
unsafe fn four(x: *const i8) -> i32 {
    // SAFETY: guaranteed by the caller.
    unsafe { x.cast::<i32>().read_unaligned() }
}

/// AVX2: `maddubs`, which multiplies unsigned with signed bytes and adds pairs in 16 bits.
pub(super) mod avx2 {
    use super::super::product::check_rows;
    use super::*;

    const FLIP: i8 = 0;
    const GROUP: usize = 4;

    panels!("avx2,fma,f16c", 8);

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load_ints(at: *const u8) -> __m256i {
        // SAFETY: guaranteed by the caller.
        unsafe { _mm256_loadu_si256(at.cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn load_floats(at: *const f32) -> __m256 {
        // SAFETY: guaranteed by the caller.
        unsafe { _mm256_loadu_ps(at) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn store_floats(at: *mut f32, x: __m256) {
        // SAFETY: guaranteed by the caller.
        unsafe { _mm256_storeu_ps(at, x) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn add_scaled(sums: __m256, dots: __m256i, scales: __m256, scale: f32) -> __m256 {
        let scales = _mm256_mul_ps(scales, _mm256_set1_ps(scale));
        _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), scales, sums)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn block<const FOUR: bool>(
        weights: &[__m256i; FOURS],
        x: *const i8,
        start: i32,
    ) -> __m256i {
        let ones = _mm256_set1_epi16(1);
        let mut pairs = _mm256_setzero_si256();
        let mut sums = if FOUR { _mm256_set1_epi32(start) } else { _mm256_setzero_si256() };
        for (i, weights) in weights.iter().enumerate() {
            // SAFETY: the block has 32 bytes.
            let x = _mm256_set1_epi32(unsafe { four(x.add(4 * i)) });
            if FOUR {
                // All pairs of a block fit 16 bits: 8 · 2 · 15 · 127 < 2^15.
                pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(*weights, x));
            } else {
                // Two products fit 16 bits: 2 · 127 · 127 < 2^15.
                let pairs =
                    _mm256_maddubs_epi16(_mm256_abs_epi8(*weights), _mm256_sign_epi8(x, *weights));
                sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, ones));
            }
        }
        if FOUR { _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, ones)) } else { sums }
    }
}

/// AVX-VNNI: AVX2 with byte products that add four in 32 bits.
pub(super) mod avx_vnni {
    use super::super::product::check_rows;
    use super::avx2::{add_scaled, load_floats, store_floats};
    use super::*;

    const FLIP: i8 = i8::MIN;
    const GROUP: usize = 4;

    /// Whether this processor supports the kernel.
    pub fn is_there() -> bool {
        super::super::avx2::is_there() && is_x86_feature_detected!("avxvnni")
    }

    panels!("avx2,fma,f16c,avxvnni", 8);

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
    unsafe fn load_ints(at: *const u8) -> __m256i {
        // SAFETY: guaranteed by the caller.
        unsafe { _mm256_loadu_si256(at.cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
    unsafe fn block<const FOUR: bool>(
        weights: &[__m256i; FOURS],
        x: *const i8,
        start: i32,
    ) -> __m256i {
        let mut sums = _mm256_set1_epi32(start);
        for (i, weights) in weights.iter().enumerate() {
            // SAFETY: the block has 32 bytes.
            let x = _mm256_set1_epi32(unsafe { four(x.add(4 * i)) });
            sums = _mm256_dpbusd_avx_epi32(sums, *weights, x);
        }
        sums
    }
}

/// AVX-512 VNNI: the same products for 16 rows at a time.
pub(super) mod avx512_vnni {
    use super::super::product::check_rows;
    use super::*;

    const FLIP: i8 = i8::MIN;
    const GROUP: usize = 8;

    /// Whether this processor supports the kernel.
    pub fn is_there() -> bool {
        super::super::avx2::is_there()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vnni")
    }

    panels!("avx2,fma,f16c,avx512f,avx512vnni", 16);

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load_ints(at: *const u8) -> __m512i {
        // SAFETY: guaranteed by the caller.
        unsafe { _mm512_loadu_si512(at.cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load_floats(at: *const f32) -> __m512 {
        // SAFETY: guaranteed by the caller.
        unsafe { _mm512_loadu_ps(at) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn store_floats(at: *mut f32, x: __m512) {
        // SAFETY: guaranteed by the caller.
        unsafe { _mm512_storeu_ps(at, x) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn add_scaled(sums: __m512, dots: __m512i, scales: __m512, scale: f32) -> __m512 {
        let scales = _mm512_mul_ps(scales, _mm512_set1_ps(scale));
        _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), scales, sums)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn block<const FOUR: bool>(
        weights: &[__m512i; FOURS],
        x: *const i8,
        start: i32,
    ) -> __m512i {
        let mut sums = _mm512_set1_epi32(start);
        for (i, weights) in weights.iter().enumerate() {
            // SAFETY: the block has 32 bytes.
            let x = _mm512_set1_epi32(unsafe { four(x.add(4 * i)) });
            sums = _mm512_dpbusd_epi32(sums, *weights, x);
        }
        sums
    }
}
