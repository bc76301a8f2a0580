//! Bicubic resize with antialiasing, bit for bit as Pillow 13 with
//! `Image.resize(size, Image.BICUBIC)`.
//!
//! Two passes with 8-bit pixels between them and fixed-point coefficients
//! (`libImaging/Resample.c`). The resize crates round differently or run the passes in the other
//! order. That is visible in a comparison of a model with its reference at 1e-4.

use std::ops::Range;

use image::RgbImage;

use super::frame::PixelRect;
use crate::vectors::vectorized;

/// Fraction bits of a coefficient: 32 minus 8 for the pixel and 2 for sign and overshoot.
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// Half the width of the bicubic kernel, in output pixels (input pixels when enlarging).
const BICUBIC_SUPPORT: f64 = 2.0;

/// Resizes the whole image, as `image.resize((width, height), Image.BICUBIC)`.
///
/// # Panics
/// If either image has no pixels.
pub fn resize(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    let whole = PixelRect::whole(image.width(), image.height());
    resize_window(image, whole, (width, height), PixelRect::whole(width, height))
}

/// Computes `image.crop(source).resize(size, Image.BICUBIC).crop(window)`, but only the pixels of
/// `window`.
///
/// # Panics
/// If `source` does not lie within the image, or `window` within `size`.
pub(super) fn resize_window(
    image: &RgbImage,
    source: PixelRect,
    size: (u32, u32),
    window: PixelRect,
) -> RgbImage {
    assert!(source.lies_in(image.width(), image.height()), "source lies in the image");
    assert!(window.lies_in(size.0, size.1), "window lies in the resized image");
    let columns = Taps::new(source.width, size.0, window.x, window.width);
    let rows = Taps::new(source.height, size.1, window.y, window.height);

    let stride = 3 * image.width() as usize;
    let pixels = &image.as_raw()[source.y as usize * stride + 3 * source.x as usize..];
    let pixels = if rows_first(source, size) {
        let needed = columns.span();
        let flat = resize_rows(&pixels[3 * needed.start..], stride, needed.len(), &rows);
        resize_columns(&flat, 3 * needed.len(), rows.len(), &columns.from(needed.start))
    } else {
        let needed = rows.span();
        let thin = resize_columns(&pixels[needed.start * stride..], stride, needed.len(), &columns);
        resize_rows(&thin, 3 * columns.len(), columns.len(), &rows.from(needed.start))
    };
    RgbImage::from_raw(window.width, window.height, pixels).expect("one pixel per tap")
}

/// Whether rows are resized first: Pillow 13's order of the passes (its pull request 9549). Before,
/// columns always came first.
fn rows_first(source: PixelRect, size: (u32, u32)) -> bool {
    let lost_columns = i64::from(source.width) - i64::from(size.0);
    let lost_rows = i64::from(source.height) - i64::from(size.1);
    lost_rows > 0 && lost_rows > 2 * lost_columns
}

/// For each output pixel of one axis: the input pixels that contribute, and their weights.
struct Taps {
    /// First input pixel of each output pixel.
    first: Vec<usize>,
    /// Start of each output pixel's weights in `weights`, with one extra entry at the end.
    start: Vec<usize>,
    /// Fixed-point weights with `PRECISION_BITS` of fraction.
    weights: Vec<i32>,
}

impl Taps {
    /// Computes the taps of output pixels `window_start..window_start + window_len` of `out_len`,
    /// like Pillow's `precompute_coeffs` and `normalize_coeffs_8bpc`.
    fn new(in_len: u32, out_len: u32, window_start: u32, window_len: u32) -> Self {
        let scale = f64::from(in_len) / f64::from(out_len);
        let filter_scale = scale.max(1.0);
        let support = BICUBIC_SUPPORT * filter_scale;
        let mut taps = Self { first: Vec::new(), start: vec![0], weights: Vec::new() };
        let mut weights = Vec::new();
        for out_idx in window_start..window_start + window_len {
            let center = (f64::from(out_idx) + 0.5) * scale;
            // Truncated towards zero, like C's cast.
            let first = ((center - support + 0.5) as i64).max(0);
            let end = ((center + support + 0.5) as i64).min(i64::from(in_len));
            weights.clear();
            weights.extend(
                (first..end).map(|x| bicubic((x as f64 - center + 0.5) * (1.0 / filter_scale))),
            );
            let sum: f64 = weights.iter().sum();
            taps.first.push(first as usize);
            taps.weights.extend(weights.iter().map(|weight| fixed_point(weight / sum)));
            taps.start.push(taps.weights.len());
        }
        taps
    }

    /// First input pixel and weights of an output pixel.
    fn of(&self, out_idx: usize) -> (usize, &[i32]) {
        let weights = &self.weights[self.start[out_idx]..self.start[out_idx + 1]];
        (self.first[out_idx], weights)
    }

    fn len(&self) -> usize {
        self.first.len()
    }

    /// Range of input pixels that the output pixels need.
    fn span(&self) -> Range<usize> {
        let (first, weights) = self.of(self.len() - 1);
        self.first[0]..first + weights.len()
    }

    /// Adapts the taps to an input that starts at pixel `start`.
    fn from(mut self, start: usize) -> Self {
        self.first.iter_mut().for_each(|first| *first -= start);
        self
    }
}

/// Keys' kernel with a = -0.5, in Pillow's order of operations.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn fixed_point(weight: f64) -> i32 {
    let scaled = weight * f64::from(1 << PRECISION_BITS);
    (if weight < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
}

#[inline(always)]
fn pixel_from_sum(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// Resizes the first `n_rows` rows of `pixels`, which are `stride` bytes apart, to the length of
/// the taps.
///
/// Transposes bands of rows, so that a sum over columns is one over rows, whose values are adjacent.
fn resize_columns(pixels: &[u8], stride: usize, n_rows: usize, columns: &Taps) -> Vec<u8> {
    /// Rows of a band: few enough for a core's cache.
    const BAND: usize = 32;
    let (n_in, n_out) = (columns.span().end, columns.len());
    let mut out = vec![0; 3 * n_rows * n_out];
    let (mut from, mut to) = (vec![0; 3 * BAND * n_in], vec![0; 3 * BAND * n_out]);
    for (out, pixels) in out.chunks_mut(3 * BAND * n_out).zip(pixels.chunks(BAND * stride)) {
        let column_bytes = out.len() / n_out;
        let (from, to) = (&mut from[..column_bytes * n_in], &mut to[..column_bytes * n_out]);
        transpose(pixels, stride, n_in, from);
        sum_rows(from, column_bytes, columns, to);
        transpose(to, column_bytes, column_bytes / 3, out);
    }
    out
}

/// Writes each of the `n_columns` first columns of `pixels`, whose rows are `stride` bytes apart, as
/// a row.
fn transpose(pixels: &[u8], stride: usize, n_columns: usize, out: &mut [u8]) {
    /// Rows that are read together, so that whole cache lines are written.
    const ROWS: usize = 16;
    let (out, _) = out.as_chunks_mut::<3>();
    let n_rows = out.len() / n_columns;
    for first in (0..n_rows).step_by(ROWS) {
        let n_here = ROWS.min(n_rows - first);
        let rows: [_; ROWS] = std::array::from_fn(|row| {
            let row = &pixels[(first + row.min(n_here - 1)) * stride..][..3 * n_columns];
            row.as_chunks::<3>().0
        });
        for (column, out) in out.chunks_exact_mut(n_rows).enumerate() {
            for (out, row) in out[first..first + n_here].iter_mut().zip(&rows) {
                *out = row[column];
            }
        }
    }
}

/// Computes each output row as a weighted sum of rows of `pixels`.
///
/// Rows are `stride` bytes apart. Only their first `n_columns` pixels count.
fn resize_rows(pixels: &[u8], stride: usize, n_columns: usize, rows: &Taps) -> Vec<u8> {
    let mut out = vec![0; rows.len() * 3 * n_columns];
    sum_rows(pixels, stride, rows, &mut out);
    out
}

vectorized! {
    /// Fills `out` with the sums of whole rows.
    fn sum_rows(pixels: &[u8], stride: usize, rows: &Taps, out: &mut [u8]) {
        /// Values whose sums stay in registers.
        const VALUES: usize = 32;
        let width = out.len() / rows.len();
        for (out_idx, out) in out.chunks_exact_mut(width).enumerate() {
            let (first, weights) = rows.of(out_idx);
            let (whole, rest) = out.as_chunks_mut::<VALUES>();
            for (nth, out) in whole.iter_mut().enumerate() {
                let mut sums = [HALF; VALUES];
                for (at, &weight) in weights.iter().enumerate() {
                    let start = (first + at) * stride + nth * VALUES;
                    for (sum, &value) in sums.iter_mut().zip(&pixels[start..start + VALUES]) {
                        *sum += i32::from(value) * weight;
                    }
                }
                for (out, &sum) in out.iter_mut().zip(&sums) {
                    *out = pixel_from_sum(sum);
                }
            }
            for (column, out) in (width - rest.len()..).zip(rest) {
                let values = pixels[first * stride + column..].iter().step_by(stride);
                let products = values.zip(weights).map(|(value, weight)| i32::from(*value) * weight);
                *out = pixel_from_sum(HALF + products.sum::<i32>());
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A picture with every frequency and full contrast, from a formula that Python can repeat.
    pub fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            image::Rgb(
                [0, 1, 2].map(|c| ((x * 37 + y * 91 + c * 57) ^ ((x * y) >> 3) ^ (x * x)) as u8),
            )
        })
    }

    pub fn fnv_1a(bytes: &[u8]) -> u64 {
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }

    // Expected hashes come from Pillow 13.0, with `fnv` as above over the bytes:
    // im = Image.fromarray(np.fromfunction(
    //     lambda y, x, c: ((x*37 + y*91 + c*57) ^ ((x*y) >> 3) ^ (x*x)) & 255,
    //     (h, w, 3), dtype=np.int64).astype(np.uint8))
    // fnv(im.resize((out_w, out_h), Image.BICUBIC).tobytes())
    fn check(from: (u32, u32), to: (u32, u32), pillow: u64) {
        let resized = resize(&picture(from.0, from.1), to.0, to.1);
        assert_eq!(resized.dimensions(), to);
        assert_eq!(fnv_1a(&resized), pillow, "{from:?} -> {to:?}");
    }

    #[test]
    fn a_single_pixel_fills_the_picture() {
        check((1, 1), (32, 32), 0xd6e7_3958_0890_0f25);
        check((2, 1), (32, 32), 0xa714_c110_8d76_17e5);
    }

    #[test]
    fn thin_pictures_are_as_in_pillow() {
        check((3, 1000), (32, 32), 0x7728_6828_90d9_9bd1);
        check((1000, 3), (32, 32), 0x299f_9914_3004_f49d);
        check((1, 77), (32, 5), 0xe6b6_53d4_e03d_20c5);
    }

    #[test]
    fn enlarging_is_as_in_pillow() {
        check((17, 23), (224, 224), 0xb54d_6aad_535e_2757);
        check((31, 9), (128, 128), 0x8f72_f1af_df92_34e5);
    }

    #[test]
    fn shrinking_is_as_in_pillow() {
        check((201, 133), (32, 32), 0x5b09_2069_71ce_20c0);
        check((640, 480), (224, 224), 0x9e6a_29f3_1ece_1fd5);
        check((640, 480), (299, 224), 0x7034_64b6_ce9e_962f);
        check((5, 7), (1, 1), 0x828c_8e19_5d26_7130);
    }

    #[test]
    fn one_axis_alone_is_as_in_pillow() {
        check((64, 64), (64, 32), 0xba0a_597f_e239_f0a7);
        check((64, 64), (20, 64), 0x0ea5_0d87_87bc_7a52);
        check((50, 90), (70, 40), 0x61c1_d4a7_b862_1106);
    }

    #[test]
    fn the_same_size_changes_nothing() {
        assert_eq!(resize(&picture(31, 9), 31, 9), picture(31, 9));
    }

    // One case grows in height, so columns come first. The other shrinks, so rows do.
    #[test]
    fn a_window_is_a_crop_of_the_resized_crop() {
        let image = picture(50, 40);
        let source = PixelRect { x: 7, y: 3, width: 41, height: 30 };
        let cropped = image::imageops::crop_imm(&image, 7, 3, 41, 30).to_image();
        for size in [(33, 64), (40, 12)] {
            assert_eq!(rows_first(source, size), size.1 == 12);
            let resized = resize(&cropped, size.0, size.1);
            let expected = image::imageops::crop_imm(&resized, 5, 4, 20, 7).to_image();
            let window = PixelRect { x: 5, y: 4, width: 20, height: 7 };
            assert_eq!(resize_window(&image, source, size, window), expected, "{size:?}");
        }
    }
}
