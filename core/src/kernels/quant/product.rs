//! Multiplies activations with a packed matrix without widening it.

use std::ops::Range;

use half::f16;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::BLOCK;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::activations::LANES;
use super::activations::{Row, Rows};
use super::{Bits, Packed, scalar};

#[cfg(target_arch = "aarch64")]
use super::neon;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
use super::simd128;
#[cfg(target_arch = "x86_64")]
use super::{avx2, panel};
#[cfg(target_arch = "x86_64")]
use crate::vectors::widest;

/// A row of a packed matrix.
#[derive(Clone, Copy, Debug)]
pub(super) struct WeightRow<'a> {
    pub codes: &'a [u8],
    pub scales: &'a [f16],
}

/// Adjacent weight rows whose products lie side by side until the end: as many as an AVX-512 vector
/// has floats.
pub(super) const PANEL: usize = 16;
/// Weight rows per call of a kernel without panels. Divides [`PANEL`].
pub(super) const TILE_WEIGHTS: usize = 2;
/// Activation rows per call of a kernel without panels.
pub(super) const TILE_ACTIVATIONS: usize = 4;
/// Products of each weight row with each activation row.
pub(super) type Tile = [[f32; TILE_ACTIVATIONS]; TILE_WEIGHTS];

/// Checks that the rows fit each other, for kernels that read without bounds checks.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) fn check_rows(bits: Bits, weights: &[WeightRow], activations: &[Row]) {
    let n_blocks = weights.first().map_or(0, |row| row.scales.len());
    let n_lanes = n_blocks.next_multiple_of(LANES);
    for row in weights {
        assert!(row.scales.len() == n_blocks && row.codes.len() == n_blocks * bits.block_bytes());
    }
    for row in activations {
        assert!(row.numbers.len() == n_lanes * BLOCK && row.scales.len() == n_lanes);
        assert!(row.starts.len() == n_lanes);
    }
}

/// An implementation of the products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Plain loops: the reference for the others, and the fallback on other processors.
    Scalar,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// As `Avx2`, with the byte products of AVX-VNNI.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// AVX-512 with its byte products.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// NEON, which every 64-bit ARM processor has.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// As `Neon`, with the byte products of Armv8.2.
    #[cfg(target_arch = "aarch64")]
    Dotprod,
    /// WebAssembly's 128-bit SIMD.
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    Simd128,
}

impl Kernel {
    /// All kernels that this processor supports, the fastest last.
    pub fn available() -> Vec<Self> {
        let kernels = [
            Some(Self::Scalar),
            #[cfg(target_arch = "x86_64")]
            avx2::is_there().then_some(Self::Avx2),
            #[cfg(target_arch = "x86_64")]
            panel::avx_vnni::is_there().then_some(Self::AvxVnni),
            #[cfg(target_arch = "x86_64")]
            panel::avx512_vnni::is_there().then_some(Self::Avx512Vnni),
            #[cfg(target_arch = "aarch64")]
            Some(Self::Neon),
            #[cfg(target_arch = "aarch64")]
            neon::has_dotprod().then_some(Self::Dotprod),
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Some(Self::Simd128),
        ];
        kernels.into_iter().flatten().collect()
    }

    /// The fastest kernel that this processor supports, and that `limit_vectors` allows.
    pub fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        match widest() {
            16.. => (),
            8.. if avx2::is_there() => return Self::Avx2,
            _ => return Self::Scalar,
        }
        *Self::available().last().expect("the scalar kernel is always available")
    }

    /// Writes the products of up to [`PANEL`] weight rows with all rows of activations into `out`,
    /// `[n, PANEL]`.
    fn panel(self, bits: Bits, weights: &[WeightRow], activations: &[Row], out: &mut [f32]) {
        match self {
            Self::Scalar => by_tiles(scalar::tile, bits, weights, activations, out),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => panel::avx2::multiply(bits, weights, activations, out),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => panel::avx_vnni::multiply(bits, weights, activations, out),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => panel::avx512_vnni::multiply(bits, weights, activations, out),
            #[cfg(target_arch = "aarch64")]
            Self::Neon | Self::Dotprod => {
                let tile = |bits, weights: &[WeightRow], activations: &[Row]| {
                    neon::tile(self == Self::Dotprod, bits, weights, activations)
                };
                by_tiles(tile, bits, weights, activations, out);
            }
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Self::Simd128 => by_tiles(simd128::tile, bits, weights, activations, out),
        }
    }

    /// Writes the products of up to [`PANEL`] weight rows with one row of activations into `out`.
    fn vector(self, bits: Bits, weights: &[WeightRow], x: Row, out: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if self != Self::Scalar {
            // One row is bound by memory, not by arithmetic, so AVX2 suffices.
            return avx2::vector(bits, weights, x, out);
        }
        #[cfg(target_arch = "aarch64")]
        if self != Self::Scalar {
            return neon::vector(self == Self::Dotprod, bits, weights, x, out);
        }
        let mut panel = [0.0; PANEL];
        self.panel(bits, weights, &[x], &mut panel);
        out.copy_from_slice(&panel[..out.len()]);
    }
}

/// [`Kernel::panel`] for kernels that compute up to [`TILE_WEIGHTS`] × [`TILE_ACTIVATIONS`] products
/// per call.
fn by_tiles(
    tile: impl Fn(Bits, &[WeightRow], &[Row]) -> Tile,
    bits: Bits,
    weights: &[WeightRow],
    activations: &[Row],
    out: &mut [f32],
) {
    let activations = activations.chunks(TILE_ACTIVATIONS);
    for (activations, out) in activations.zip(out.chunks_mut(TILE_ACTIVATIONS * PANEL)) {
        for (pair, weights) in weights.chunks(TILE_WEIGHTS).enumerate() {
            let tile = tile(bits, weights, activations);
            for (row, products) in tile.iter().take(weights.len()).enumerate() {
                for (out, product) in out.chunks_exact_mut(PANEL).zip(products) {
                    out[pair * TILE_WEIGHTS + row] = *product;
                }
            }
        }
    }
}

/// Weights per task of few rows: enough to make a hand-over to another core worthwhile, and few
/// enough for its cache.
const SHARE_WEIGHTS: usize = 1 << 17;
/// Activation rows per task, if each thread gets at least as many: they stay in a core's cache, and
/// enough to make rearranging the weights for each task worthwhile.
const SHARE_ROWS: usize = 128;

impl Packed {
    /// `x Wᵀ + b`, for rows of `x` as long as the matrix has columns.
    ///
    /// Rounds the activations to 8 bits in blocks of 32, like llama.cpp's `Q8_0`.
    ///
    /// # Shapes
    /// - x: `[n, in]`
    /// - bias: `[out]`
    /// - returns: `[n, out]`
    pub fn linear(&self, x: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        self.linear_with(Kernel::best(), x, bias)
    }

    /// [`Self::linear`] with a given kernel.
    pub fn linear_with(&self, kernel: Kernel, x: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        assert!(x.len().is_multiple_of(self.n_columns), "activations have the width of the matrix");
        assert!(bias.is_none_or(|bias| bias.len() == self.n_rows));
        let n = x.len() / self.n_columns;
        match n / SHARE_ROWS {
            _ if n == 1 => self.multiply_vector(kernel, x, bias),
            n_tasks if n_tasks >= n_threads() => self.share_rows(kernel, x, bias, n_tasks),
            _ => self.share_weights(kernel, x, bias),
        }
    }

    /// One row: each task reads a large part of the matrix, because the processor then knows early
    /// what to fetch from memory.
    fn multiply_vector(&self, kernel: Kernel, x: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let [n_out, width] = self.shape();
        let x = Rows::round(x, width, self.bits);
        let x = x.row(0);
        let share = n_out.div_ceil(n_tasks(n_out * width)).next_multiple_of(PANEL);
        let mut out = vec![0.0; n_out];
        for_each_share(&mut out, share, |first, out| {
            self.for_each_panel(first..first + out.len(), |panel, weights| {
                let out = &mut out[panel * PANEL..][..weights.len()];
                kernel.vector(self.bits, weights, x, out);
            });
        });
        for (out, bias) in out.iter_mut().zip(bias.unwrap_or_default()) {
            *out += bias;
        }
        out
    }

    /// Many rows: each task rounds its own rows and multiplies them with the whole matrix.
    fn share_rows(
        &self,
        kernel: Kernel,
        x: &[f32],
        bias: Option<&[f32]>,
        n_tasks: usize,
    ) -> Vec<f32> {
        let [n_out, width] = self.shape();
        let n = x.len() / width;
        let each = n.div_ceil(n_tasks.next_multiple_of(n_threads()));
        let mut out = vec![0.0; n * n_out];
        for_each_share(&mut out, each * n_out, |first, out| {
            let n = out.len() / n_out;
            let x = Rows::round(&x[first / n_out * width..][..n * width], width, self.bits);
            let activations = x.all();
            let mut products = vec![0.0; n * PANEL];
            self.for_each_panel(0..n_out, |panel, weights| {
                kernel.panel(self.bits, weights, &activations, &mut products);
                place(&products, panel, bias, out, n_out);
            });
        });
        out
    }

    /// Few rows: each task multiplies all of them with its part of the matrix.
    fn share_weights(&self, kernel: Kernel, x: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let [n_out, width] = self.shape();
        let x = Rows::round(x, width, self.bits);
        let activations = x.all();
        let n = activations.len();
        if n == 0 {
            return Vec::new();
        }
        let share = (SHARE_WEIGHTS / width).clamp(PANEL, 256).next_multiple_of(PANEL) * n;
        // [panels, n, PANEL]
        let mut panels = vec![0.0; n_out.next_multiple_of(PANEL) * n];
        for_each_share(&mut panels, share, |first, out| {
            let rows = first / n..n_out.min((first + out.len()) / n);
            self.for_each_panel(rows, |panel, weights| {
                let out = &mut out[panel * n * PANEL..][..n * PANEL];
                kernel.panel(self.bits, weights, &activations, out);
            });
        });
        let mut out = vec![0.0; n * n_out];
        for (panel, products) in panels.chunks_exact(n * PANEL).enumerate() {
            place(products, panel, bias, &mut out, n_out);
        }
        out
    }

    /// Calls `work` with the number of each panel of these rows, from 0 on, and with its rows.
    fn for_each_panel(&self, rows: Range<usize>, mut work: impl FnMut(usize, &[WeightRow])) {
        for (panel, first) in rows.clone().step_by(PANEL).enumerate() {
            let n = PANEL.min(rows.end - first);
            let weights: [_; PANEL] = std::array::from_fn(|nth| self.row(first + nth.min(n - 1)));
            work(panel, &weights[..n]);
        }
    }

    fn row(&self, row: usize) -> WeightRow<'_> {
        let (n_blocks, block_bytes) = (self.blocks_per_row(), self.bits.block_bytes());
        WeightRow {
            codes: &self.codes[row * n_blocks * block_bytes..][..n_blocks * block_bytes],
            scales: &self.scales[row * n_blocks..][..n_blocks],
        }
    }
}

/// Calls `work` with the offset and the values of each share of `out`, with the feature `cpu` on all
/// threads that share this one's work.
fn for_each_share(out: &mut [f32], share: usize, work: impl Fn(usize, &mut [f32]) + Sync + Send) {
    #[cfg(feature = "cpu")]
    return crate::kernels::cpu::for_each_chunk(out, share, |idx, out| work(idx * share, out));
    #[cfg(not(feature = "cpu"))]
    out.chunks_mut(share).enumerate().for_each(|(idx, out)| work(idx * share, out));
}

/// Number of threads that share this one's work.
fn n_threads() -> usize {
    #[cfg(feature = "cpu")]
    return crate::kernels::cpu::n_threads();
    #[cfg(not(feature = "cpu"))]
    1
}

/// Number of tasks that this many multiplications pay for.
fn n_tasks(multiplications: usize) -> usize {
    #[cfg(feature = "cpu")]
    return crate::kernels::cpu::n_tasks(multiplications);
    #[cfg(not(feature = "cpu"))]
    {
        let _ = multiplications;
        1
    }
}

/// Copies a panel's products, `[n, PANEL]`, to its columns of `out`, `[n, n_out]`, and adds the bias.
fn place(products: &[f32], panel: usize, bias: Option<&[f32]>, out: &mut [f32], n_out: usize) {
    let columns = panel * PANEL..n_out.min((panel + 1) * PANEL);
    let bias = bias.map(|bias| &bias[columns.clone()]);
    for (products, out) in products.chunks_exact(PANEL).zip(out.chunks_exact_mut(n_out)) {
        let out = &mut out[columns.clone()];
        out.copy_from_slice(&products[..out.len()]);
        for (out, bias) in out.iter_mut().zip(bias.unwrap_or_default()) {
            *out += bias;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::quant::BLOCK;

    /// Distinct values of both signs.
    fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| (((i + seed) * 7919 + 13) % 1009) as f32 / 504.0 - 1.0).collect()
    }

    /// The product with the widened matrix, in f64.
    fn wide_product(packed: &Packed, x: &[f32]) -> Vec<f32> {
        let (weights, [_, n_columns]) = (packed.widen(), packed.shape());
        let dot = |a: &[f32], b: &[f32]| {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
        };
        x.chunks(n_columns)
            .flat_map(|x| weights.chunks(n_columns).map(|w| dot(w, x) as f32).collect::<Vec<_>>())
            .collect()
    }

    fn largest(values: impl Iterator<Item = f32>) -> f32 {
        values.fold(
            0.0,
            |max: f32, value| if value.is_nan() { f32::INFINITY } else { max.max(value.abs()) },
        )
    }

    #[track_caller]
    fn check(bits: Bits, n: usize, n_rows: usize, n_columns: usize) {
        let packed = Packed::pack(&values(n_rows * n_columns, 1), n_columns, bits);
        let x = values(n * n_columns, 5);
        let reference = packed.linear_with(Kernel::Scalar, &x, None);
        let wide = wide_product(&packed, &x);
        assert_eq!(reference.len(), n * n_rows);
        // 8-bit rounding is off by at most half of 1/127 of the block's largest activation, here 1.
        let bound = 0.5 / 127.0 * (n_columns as f32).sqrt() * 3.0 + 1e-4;
        let off = largest(reference.iter().zip(&wide).map(|(a, b)| a - b));
        assert!(
            off <= bound,
            "{bits:?} {n}x{n_rows}x{n_columns}: {off} from the wide product, at most {bound}"
        );
        for kernel in Kernel::available() {
            let found = packed.linear_with(kernel, &x, None);
            let scale = largest(reference.iter().copied()).max(1e-6);
            // The integer sums are equal; only the order of the float sums differs.
            let off = largest(found.iter().zip(&reference).map(|(a, b)| a - b)) / scale;
            assert!(off < 2e-6, "{kernel:?} {bits:?} {n}x{n_rows}x{n_columns}: {off}");
        }
    }

    #[test]
    fn every_kernel_gives_the_reference_product_for_any_sizes() {
        println!("kernels: {:?}", Kernel::available());
        for bits in [Bits::Eight, Bits::Four] {
            for n_columns in [1, 2, 31, 32, 33, 48, 255, 256, 257, 300, 704] {
                for n_rows in [1, 2, 3, 17] {
                    for n in [1, 2, 3, 4, 5, 8, 9, 15] {
                        check(bits, n, n_rows, n_columns);
                    }
                }
            }
        }
    }

    #[cfg(target_arch = "aarch64")]
    #[test]
    fn arm_multiplies_bytes_with_the_best_that_it_has() {
        let best = match std::arch::is_aarch64_feature_detected!("dotprod") {
            true => Kernel::Dotprod,
            false => Kernel::Neon,
        };
        assert_eq!(Kernel::best(), best);
    }

    #[test]
    fn no_activations_give_no_products() {
        let packed = Packed::pack(&values(3 * 40, 1), 40, Bits::Four);
        assert!(packed.linear(&[], None).is_empty());
    }

    #[cfg(feature = "cpu")]
    #[test]
    fn a_single_thread_shares_no_products() {
        let alone = std::thread::spawn(|| {
            crate::kernels::cpu::use_one_thread();
            let this = std::thread::current().id();
            for_each_share(&mut [0.0; 64], 8, |_, _| {
                assert_eq!(std::thread::current().id(), this);
            });
        });
        alone.join().expect("no share is on another thread");
    }

    #[test]
    fn shares_and_caches_change_nothing() {
        for bits in [Bits::Eight, Bits::Four] {
            check(bits, 1, 700, 1000);
            check(bits, 23, 300, 1000);
        }
    }

    #[test]
    fn many_rows_give_what_few_of_them_give_and_the_bias_is_added() {
        for (bits, n_rows, n_columns) in [(Bits::Eight, 33, 70), (Bits::Four, 16, 300)] {
            let packed = Packed::pack(&values(n_rows * n_columns, 1), n_columns, bits);
            let (n, bias) = (n_threads() * SHARE_ROWS + 32, values(n_rows, 3));
            let x = values(n * n_columns, 5);
            for kernel in Kernel::available() {
                let found = packed.linear_with(kernel, &x, Some(&bias));
                let mut wanted = Vec::new();
                for x in x.chunks(SHARE_ROWS / 2 * n_columns) {
                    wanted.extend(packed.linear_with(kernel, x, None));
                }
                for wanted in wanted.chunks_exact_mut(n_rows) {
                    wanted.iter_mut().zip(&bias).for_each(|(y, bias)| *y += bias);
                }
                assert_eq!(found, wanted, "{kernel:?} {bits:?}");
            }
        }
    }

    #[test]
    fn whole_numbers_give_the_exact_product() {
        // 127 in every block gives the activations a step of 1, and −8 gives the weights one.
        let weights: Vec<f32> = (0..3 * 64).map(|i| (i % 16) as f32 - 8.0).collect();
        let x: Vec<f32> =
            (0..2 * 64).map(|i| if i % 32 == 0 { 127.0 } else { (i % 7) as f32 - 3.0 }).collect();
        let packed = Packed::pack(&weights, 64, Bits::Four);
        assert_eq!(packed.widen(), weights);
        for kernel in Kernel::available() {
            assert_eq!(
                packed.linear_with(kernel, &x, None),
                wide_product(&packed, &x),
                "{kernel:?}"
            );
        }
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        for bits in [Bits::Eight, Bits::Four] {
            for sign in [1.0, -1.0] {
                let packed = Packed::pack(&vec![sign; 2 * 8 * BLOCK], 8 * BLOCK, bits);
                for kernel in Kernel::available() {
                    let found = packed.linear_with(kernel, &vec![1.0; 8 * BLOCK], None);
                    let off = largest(found.iter().map(|y| y - sign * 256.0));
                    assert!(off < 0.3, "{kernel:?} {bits:?} {sign}: {found:?}");
                }
            }
        }
    }

    #[test]
    fn an_activation_that_is_not_finite_is_not_hidden() {
        let packed = Packed::pack(&values(2 * 64, 1), 64, Bits::Four);
        let mut x = vec![1.0; 64];
        x[40] = f32::NAN;
        for kernel in Kernel::available() {
            assert!(packed.linear_with(kernel, &x, None).iter().all(|y| y.is_nan()), "{kernel:?}");
        }
    }
}
