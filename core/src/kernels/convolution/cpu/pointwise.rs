//! Products of pixels with a matrix, fused with bias, residual and ReLU6.

#![expect(
    clippy::needless_range_loop,
    reason = "several arrays of one constant length go side by side"
)]

use std::ops::Range;

use super::images::written;
use crate::kernels::cpu::lanes::{Kernel, Lanes, run};
use crate::kernels::cpu::rows::{self, SharedOutput, n_threads};

/// A point-wise convolution: `x @ weight + bias`.
#[derive(Clone, Copy)]
pub struct Pointwise<'a> {
    /// `[in, out]`
    pub weight: &'a [f32],
    /// `[out]`
    pub bias: &'a [f32],
}

/// Runs a point-wise convolution, with a ReLU6 if `is_clamped`: `[n, in]` → `[n, out]`.
pub fn pointwise(x: &[f32], Pointwise { weight, bias }: Pointwise, is_clamped: bool) -> Vec<f32> {
    const PIXELS_PER_TASK: usize = 128;
    let n_out = bias.len();
    let channels = weight.len() / n_out;
    let n_pixels = x.len() / channels;
    assert!(x.len() == n_pixels * channels && weight.len() == channels * n_out);
    let product = Product {
        x: Source::rows(x, channels),
        n_rows: n_pixels,
        weight,
        weight_stride: n_out,
        bias,
        residual: None,
        is_clamped,
        place: PixelLayout::dense(n_out),
    };
    let n_tasks = n_threads().max(n_pixels / PIXELS_PER_TASK);
    // SAFETY: a product writes its whole output, and no other code has access to it yet.
    unsafe { written(n_pixels * n_out, |out| write_in_parts(product, n_tasks, out)) }
}

/// Runs a product with dense output in about `n_tasks` tasks.
///
/// Few rows are split by columns, so that each core reads its own weights.
///
/// # Safety
/// As for [`Product::write`].
pub unsafe fn write_in_parts(product: Product, n_tasks: usize, out: SharedOutput) {
    const FEW_ROWS: usize = 128;
    let (n_rows, n_columns) = (product.n_rows, product.bias.len());
    let (n, unit) = if n_rows > FEW_ROWS { (n_rows, 8) } else { (n_columns, 16) };
    let each = n.div_ceil(n_tasks.max(1)).next_multiple_of(unit);
    // Columns that fill less than any processor's vector stay with the previous ones, because
    // narrow vectors round differently.
    let n_tasks = n.saturating_sub(unit).div_ceil(each).max(1);
    rows::for_each_of(n_tasks, |task| {
        let range = task * each..if task + 1 == n_tasks { n } else { (task + 1) * each };
        let (part, offset) = match n_rows > FEW_ROWS {
            true => product.part(range, 0..n_columns),
            false => product.part(0..n_rows, range),
        };
        // SAFETY: each task has its own rows or columns.
        unsafe { part.write(out.from(offset)) };
    });
}

/// Rows of floats in a buffer. Each row may consist of several parts of equal length.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The buffer from the first row on.
    pub values: &'a [f32],
    /// Distance of adjacent rows.
    pub stride: usize,
    pub n_parts: usize,
    pub part_len: usize,
    /// Distance of adjacent parts of a row.
    pub part_stride: usize,
}

impl<'a> Source<'a> {
    /// Contiguous rows of `width` floats.
    pub fn rows(values: &'a [f32], width: usize) -> Self {
        Self { values, stride: width, n_parts: 1, part_len: width, part_stride: width }
    }

    fn depth(&self) -> usize {
        self.n_parts * self.part_len
    }

    /// Number of floats from the start of the first row to the end of the last.
    fn reach(&self, n_rows: usize) -> usize {
        (n_rows - 1) * self.stride + (self.n_parts - 1) * self.part_stride + self.part_len
    }
}

/// Layout of an image's pixels in memory, in lines of `width`.
#[derive(Clone, Copy)]
pub struct PixelLayout {
    pub width: usize,
    /// Distance of adjacent pixels.
    pub pixel: usize,
    /// Distance of adjacent lines.
    pub line: usize,
}

impl PixelLayout {
    /// Contiguous pixels.
    pub fn dense(pixel: usize) -> Self {
        Self { width: usize::MAX, pixel, line: 0 }
    }

    #[inline(always)]
    fn offset(&self, row: usize) -> usize {
        row / self.width * self.line + row % self.width * self.pixel
    }
}

/// `relu6(x @ weight + bias) + residual`; the clamp and the residual are optional.
///
/// The order of each element's sum does not depend on how the work is split.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    pub x: Source<'a>,
    pub n_rows: usize,
    /// `[depth, ..]`, from the first column on.
    pub weight: &'a [f32],
    /// Row stride of the weight.
    pub weight_stride: usize,
    /// One value per column.
    pub bias: &'a [f32],
    /// In the output's layout.
    pub residual: Option<&'a [f32]>,
    pub is_clamped: bool,
    pub place: PixelLayout,
}

impl Product<'_> {
    /// Some rows and columns of a product with dense output, and their offset in the output.
    pub fn part(self, rows: Range<usize>, columns: Range<usize>) -> (Self, usize) {
        let offset = rows.start * self.place.pixel + columns.start;
        let part = Self {
            x: Source { values: &self.x.values[rows.start * self.x.stride..], ..self.x },
            n_rows: rows.len(),
            weight: &self.weight[columns.start..],
            bias: &self.bias[columns],
            residual: self.residual.map(|residual| &residual[offset..]),
            ..self
        };
        (part, offset)
    }

    /// # Safety
    /// `out` must have room for `n_rows` rows of `place`. No other code may read or write them
    /// meanwhile.
    pub unsafe fn write(self, out: SharedOutput) {
        let Self { x, n_rows, weight, weight_stride, bias, residual, place, .. } = self;
        let n_columns = bias.len();
        if n_rows == 0 || n_columns == 0 {
            return;
        }
        assert!(n_columns <= weight_stride && n_columns <= place.pixel && x.depth() > 0);
        assert!(x.values.len() >= x.reach(n_rows));
        assert!(weight.len() >= (x.depth() - 1) * weight_stride + n_columns);
        if let Some(residual) = residual {
            assert!(residual.len() >= place.offset(n_rows - 1) + n_columns);
        }
        run(n_columns, Write { product: self, out });
    }
}

/// A product with checked sizes.
struct Write<'a> {
    product: Product<'a>,
    out: SharedOutput,
}

impl Kernel for Write<'_> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let n = self.product.bias.len();
        let n_vectors = n.div_ceil(V::N);
        // The last vector overlaps the previous one: some columns are computed twice, but no memory
        // after a row is touched.
        let at = |vector: usize| (vector * V::N).min(n - V::N);
        let mut vector = 0;
        // SAFETY: `Product::write` checked the sizes; every vector is within its row.
        unsafe {
            // As many sums as registers, except those for the weights and a pixel. A browser has
            // sixteen registers too, but 4 x 3 sums are a third faster there than 6 x 2.
            while V::N != 8 && n_vectors - vector >= 3 {
                let columns = [at(vector), at(vector + 1), at(vector + 2)];
                match V::HAS_32 {
                    true => self.columns::<V, 8, 3>(columns),
                    false => self.columns::<V, 4, 3>(columns),
                }
                vector += 3;
            }
            while n_vectors - vector >= 2 {
                let columns = [at(vector), at(vector + 1)];
                match V::N {
                    _ if V::HAS_32 => self.columns::<V, 12, 2>(columns),
                    8 => self.columns::<V, 6, 2>(columns),
                    _ => self.columns::<V, 4, 2>(columns),
                }
                vector += 2;
            }
            if n_vectors > vector {
                self.columns::<V, 8, 1>([at(vector)]);
            }
        }
    }
}

impl Write<'_> {
    /// # Safety
    /// The columns must be the starts of whole vectors.
    #[inline(always)]
    unsafe fn columns<V: Lanes, const R: usize, const C: usize>(&self, columns: [usize; C]) {
        let n_rows = self.product.n_rows;
        let mut row = 0;
        // SAFETY: rows and columns are within the product.
        unsafe {
            while n_rows - row >= R {
                self.tile::<V, R, C>(row, columns);
                row += R;
            }
            while n_rows - row >= 4 {
                self.tile::<V, 4, C>(row, columns);
                row += 4;
            }
            // One row at a time would have too few sums to hide the latency of an addition.
            match n_rows - row {
                3 => self.tile::<V, 3, C>(row, columns),
                2 => self.tile::<V, 2, C>(row, columns),
                1 => self.tile::<V, 1, C>(row, columns),
                _ => (),
            }
        }
    }

    /// # Safety
    /// At least `R` rows must exist from `row` on. The columns must be the starts of whole vectors.
    #[inline(always)]
    unsafe fn tile<V: Lanes, const R: usize, const C: usize>(
        &self,
        row: usize,
        columns: [usize; C],
    ) {
        let Product { x, weight, weight_stride, bias, residual, is_clamped, place, .. } =
            self.product;
        // SAFETY: guaranteed by the caller, and `Product::write` checked the sizes.
        unsafe {
            let mut sums = [[V::splat(0.0); C]; R];
            for c in 0..C {
                let bias = V::load(bias.as_ptr().add(columns[c]));
                for sums in &mut sums {
                    sums[c] = bias;
                }
            }
            let mut weights = weight.as_ptr();
            for part in 0..x.n_parts {
                let x_part = x.values.as_ptr().add(row * x.stride + part * x.part_stride);
                for k in 0..x.part_len {
                    let mut w = [V::splat(0.0); C];
                    for c in 0..C {
                        w[c] = V::load(weights.add(columns[c]));
                    }
                    for r in 0..R {
                        let x = V::splat(*x_part.add(r * x.stride + k));
                        for c in 0..C {
                            sums[r][c] = sums[r][c].plus_product(x, w[c]);
                        }
                    }
                    weights = weights.add(weight_stride);
                }
            }
            // Only loops as small as these are unrolled. Larger ones would keep the sums in memory.
            if is_clamped {
                for r in 0..R {
                    for c in 0..C {
                        sums[r][c] = sums[r][c].relu6();
                    }
                }
            }
            let mut offsets = [0; R];
            for r in 0..R {
                offsets[r] = place.offset(row + r);
            }
            if let Some(residual) = residual {
                for r in 0..R {
                    for c in 0..C {
                        let residual = V::load(residual.as_ptr().add(offsets[r] + columns[c]));
                        sums[r][c] = sums[r][c].plus(residual);
                    }
                }
            }
            for r in 0..R {
                for c in 0..C {
                    sums[r][c].store(self.out.at(offsets[r] + columns[c]));
                }
            }
        }
    }
}
