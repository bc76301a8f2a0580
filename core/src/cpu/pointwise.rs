//! Products of pixels with a matrix, which take bias, residual and ReLU6 along.

#![expect(
    clippy::needless_range_loop,
    reason = "several arrays of one constant length go side by side"
)]

use std::ops::Range;

use super::lanes::{Kernel, Lanes, run};
use super::rows::Out;

/// Rows of numbers somewhere in a buffer; each row may be in several parts of one length.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// From the first row on.
    pub values: &'a [f32],
    /// Distance of neighbouring rows.
    pub stride: usize,
    pub n_parts: usize,
    pub part_len: usize,
    /// Distance of a row's neighbouring parts.
    pub part_stride: usize,
}

impl<'a> Source<'a> {
    /// Rows of `width` numbers, one after the other.
    pub fn rows(values: &'a [f32], width: usize) -> Self {
        Self { values, stride: width, n_parts: 1, part_len: width, part_stride: width }
    }

    fn depth(&self) -> usize {
        self.n_parts * self.part_len
    }

    /// Numbers from the first of the first row to the last of the last.
    fn reach(&self, n_rows: usize) -> usize {
        (n_rows - 1) * self.stride + (self.n_parts - 1) * self.part_stride + self.part_len
    }
}

/// Where the pixels of an image are: in lines of `width`.
#[derive(Clone, Copy)]
pub struct Place {
    pub width: usize,
    /// Distance of neighbouring pixels.
    pub pixel: usize,
    /// Distance of neighbouring lines.
    pub line: usize,
}

impl Place {
    /// Pixels one after the other.
    pub fn dense(pixel: usize) -> Self {
        Self { width: usize::MAX, pixel, line: 0 }
    }

    #[inline(always)]
    fn offset(&self, row: usize) -> usize {
        row / self.width * self.line + row % self.width * self.pixel
    }
}

/// `relu6(x @ weight + bias) + residual`, the clamp and the residual each if it is wanted.
///
/// Each element is summed up in the same order, however the work is split.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    pub x: Source<'a>,
    pub n_rows: usize,
    /// `[depth, ..]`, from the first column on.
    pub weight: &'a [f32],
    /// Distance of the weight's rows.
    pub weight_stride: usize,
    /// As many as columns.
    pub bias: &'a [f32],
    /// Placed as the output.
    pub residual: Option<&'a [f32]>,
    pub is_clamped: bool,
    pub place: Place,
}

impl Product<'_> {
    /// Some rows and columns of a product whose output is dense, and where they are in it.
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
    /// `out` must have room for `n_rows` rows of this place, which nobody else reads or writes meanwhile.
    pub unsafe fn write(self, out: Out) {
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

/// A product whose sizes were checked.
struct Write<'a> {
    product: Product<'a>,
    out: Out,
}

impl Kernel for Write<'_> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let n = self.product.bias.len();
        let n_vectors = n.div_ceil(V::N);
        // The last vector goes back into the one before: its columns are computed twice, and no memory is
        // touched behind a row.
        let at = |vector: usize| (vector * V::N).min(n - V::N);
        let mut vector = 0;
        // SAFETY: `Product::write` checked the sizes; every vector is within its row.
        unsafe {
            // As many sums as there are registers, but for those of the weights and of a pixel. A browser has sixteen
            // too, and yet it is a third quicker with 4 x 3 of them than with 6 x 2.
            while V::N != 8 && n_vectors - vector >= 3 {
                let columns = [at(vector), at(vector + 1), at(vector + 2)];
                match V::N {
                    16 => self.columns::<V, 8, 3>(columns),
                    _ => self.columns::<V, 4, 3>(columns),
                }
                vector += 3;
            }
            while n_vectors - vector >= 2 {
                let columns = [at(vector), at(vector + 1)];
                match V::N {
                    16 => self.columns::<V, 12, 2>(columns),
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
    /// The columns are those of whole vectors.
    #[inline(always)]
    unsafe fn columns<V: Lanes, const R: usize, const C: usize>(&self, columns: [usize; C]) {
        let n_rows = self.product.n_rows;
        let mut row = 0;
        // SAFETY: rows and columns are within the product's.
        unsafe {
            while n_rows - row >= R {
                self.tile::<V, R, C>(row, columns);
                row += R;
            }
            while n_rows - row >= 4 {
                self.tile::<V, 4, C>(row, columns);
                row += 4;
            }
            while n_rows > row {
                self.tile::<V, 1, C>(row, columns);
                row += 1;
            }
        }
    }

    /// # Safety
    /// There are `R` rows from `row` on, and the columns are those of whole vectors.
    #[inline(always)]
    unsafe fn tile<V: Lanes, const R: usize, const C: usize>(
        &self,
        row: usize,
        columns: [usize; C],
    ) {
        let Product { x, weight, weight_stride, bias, residual, is_clamped, place, .. } =
            self.product;
        // SAFETY: the caller's, and `Product::write` checked the sizes.
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
            // Loops as small as these are unrolled, or the sums would lie in memory all along.
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
