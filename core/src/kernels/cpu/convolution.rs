//! Convolutions of channels-last images, `[batch, height, width, channels]`, with TensorFlow's SAME
//! padding: a stem, and blocks that never write their widest activations to memory.
//!
//! A block runs expansion and depth-wise convolution for a band of lines, some channels at a time.
//! Then it projects the band.

use std::cell::Cell;

use super::depthwise::Depthwise;
use super::pointwise::{Place, Product, Source};
use super::rows::{self, Out};
use crate::model::same_padding;

/// Floats in a part of a wide activation, so that it fits a core's own cache beside the weights.
const NUMBERS_PER_PART: usize = 72 * 1024;
/// Channels of a part: whole tiles of products for every vector width.
pub(super) const CHANNELS_PER_PART: usize = 48;

thread_local! {
    pub(super) static WIDE: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    pub(super) static MIXED: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Runs `work` on a buffer of this thread. The buffer keeps its old contents between calls.
pub(super) fn with_buffer(
    buffer: &'static std::thread::LocalKey<Cell<Vec<f32>>>,
    n: usize,
    work: impl FnOnce(&mut [f32]),
) {
    let mut values = buffer.take();
    if values.len() < n {
        values.resize(n, 0.0);
    }
    work(&mut values[..n]);
    buffer.set(values);
}

/// A vector of `n` floats that `write` fills, without clearing them first.
///
/// # Safety
/// `write` must write all `n` elements.
unsafe fn written(n: usize, write: impl FnOnce(Out)) -> Vec<f32> {
    let mut values = Vec::with_capacity(n);
    write(Out(values.as_mut_ptr()));
    // SAFETY: the caller guarantees that all elements are written.
    unsafe { values.set_len(n) };
    values
}

/// One axis of a convolution with TensorFlow's SAME padding.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    pub n_in: usize,
    pub n_out: usize,
    /// Padding before the first element; the rest of the padding follows the last.
    pub before: usize,
    pub kernel: usize,
    pub stride: usize,
}

impl Axis {
    pub fn same(n_in: usize, kernel: usize, stride: usize) -> Self {
        assert!(
            kernel >= stride && stride > 0,
            "a kernel of {kernel} that moves by {stride} leaves out pixels"
        );
        let [before, _] = same_padding(n_in, kernel, stride);
        Self { n_in, n_out: n_in.div_ceil(stride), before, kernel, stride }
    }

    /// Number of positions that `n` neighbouring outputs read, padding included.
    pub fn seen(&self, n: usize) -> usize {
        (n - 1) * self.stride + self.kernel
    }

    /// The positions that `n` outputs from `first` on read: the number of leading padding
    /// positions, and the range of input positions.
    fn split(&self, first: usize, n: usize) -> (usize, std::ops::Range<usize>) {
        let start = first * self.stride;
        let end = (start + self.seen(n)).saturating_sub(self.before).min(self.n_in);
        let begin = start.saturating_sub(self.before).min(end);
        (self.before.saturating_sub(start), begin..end)
    }
}

/// A point-wise convolution: `x @ weight + bias`.
#[derive(Clone, Copy)]
pub struct Pointwise<'a> {
    /// `[in, out]`
    pub weight: &'a [f32],
    /// `[out]`
    pub bias: &'a [f32],
}

/// A depth-wise convolution.
#[derive(Clone, Copy)]
pub struct Taps<'a> {
    /// `[kernel * kernel, channels]`
    pub weight: &'a [f32],
    /// `[channels]`
    pub bias: &'a [f32],
    pub kernel: usize,
    pub stride: usize,
}

/// A block of an EfficientNet-Lite: `project(relu6(depthwise(relu6(expand(x)))))`, plus `x` if
/// `is_residual`.
///
/// Without `expand` and `project` it is only the depth-wise convolution with its ReLU6.
#[derive(Clone, Copy)]
pub struct Block<'a> {
    pub expand: Option<Pointwise<'a>>,
    pub depthwise: Taps<'a>,
    pub project: Option<Pointwise<'a>>,
    pub is_residual: bool,
}

/// Sizes of a batch of images: `[batch, height, width, channels]`.
pub type Sizes = [usize; 4];

/// Runs a block on `[batch, height, width, channels]`.
pub fn block(
    x: &[f32],
    [batch, height, width, channels]: Sizes,
    block: &Block,
) -> (Vec<f32>, Sizes) {
    let Block { depthwise, project, .. } = *block;
    let lines = Axis::same(height, depthwise.kernel, depthwise.stride);
    let columns = Axis::same(width, depthwise.kernel, depthwise.stride);
    let wide = depthwise.bias.len();
    let out_channels = project.map_or(wide, |project| project.bias.len());
    let sizes = [batch, lines.n_out, columns.n_out, out_channels];
    assert!(
        x.len() == batch * height * width * channels
            && (block.expand.is_some() || channels == wide)
    );
    assert!(depthwise.weight.len() == wide * depthwise.kernel * depthwise.kernel);
    assert!(!block.is_residual || (sizes == [batch, height, width, channels] && project.is_some()));

    if sizes.contains(&0) {
        return (Vec::new(), sizes);
    }
    let work = Work { block, channels, wide, lines, columns, out_channels };
    let (image, out_image) =
        (height * width * channels, lines.n_out * columns.n_out * out_channels);
    let (each, is_shared) = work.lines_at_once(batch);
    let n_bands = lines.n_out.div_ceil(each);
    let n_tasks = batch * n_bands;
    let run = |task: usize, out: Out| {
        let (nth, band) = (task / n_bands, task % n_bands);
        let band = band * each..((band + 1) * each).min(lines.n_out);
        // SAFETY: each task writes its own lines of its own image.
        unsafe {
            work.band(
                &x[nth * image..(nth + 1) * image],
                band,
                out.from(nth * out_image),
                is_shared,
            )
        };
    };
    // SAFETY: the bands of all images cover the whole output.
    let out = unsafe {
        written(batch * out_image, |out| match is_shared {
            true => (0..n_tasks).for_each(|task| run(task, out)),
            false => rows::for_each_of(n_tasks, |task| run(task, out)),
        })
    };
    (out, sizes)
}

/// A block with its sizes.
struct Work<'a> {
    block: &'a Block<'a>,
    channels: usize,
    /// Channels between the point-wise convolutions.
    wide: usize,
    lines: Axis,
    columns: Axis,
    out_channels: usize,
}

impl Work<'_> {
    /// Output lines per band, and whether cores share the work within a band.
    ///
    /// Cores share a band for a single small image. More bands would expand the lines at their
    /// borders twice, which costs more there than a transfer between cores.
    fn lines_at_once(&self, batch: usize) -> (usize, bool) {
        let Self { lines, columns, wide, .. } = *self;
        let line = columns.seen(columns.n_out) * wide.min(CHANNELS_PER_PART);
        let n_lines = (NUMBERS_PER_PART / line).saturating_sub(lines.kernel) / lines.stride + 1;
        let n_lines = n_lines.min(6 * NUMBERS_PER_PART / (columns.n_out * wide)).max(1);
        let n_bands = lines.n_out.div_ceil(n_lines);
        let n_threads = n_threads();
        if batch * n_bands >= 8 * n_threads {
            return (lines.n_out.div_ceil(n_bands), false);
        }
        // Round up, so that every core gets the same number of bands.
        let even = (batch * n_bands).next_multiple_of(n_threads).div_ceil(batch);
        let again = (even - n_bands) * (lines.kernel - lines.stride);
        if 4 * again > lines.n_in && 2 * self.n_parts() >= n_threads {
            return (lines.n_out.div_ceil(n_bands), true);
        }
        (lines.n_out.div_ceil(even), false)
    }

    fn n_parts(&self) -> usize {
        self.wide.div_ceil(CHANNELS_PER_PART)
    }

    /// Computes a band of lines of an image.
    ///
    /// # Safety
    /// `out` must have room for an image. No other task may write these lines.
    unsafe fn band(&self, x: &[f32], band: std::ops::Range<usize>, out: Out, is_shared: bool) {
        let Self { block, wide, columns, out_channels, .. } = *self;
        let first = band.start * columns.n_out;
        let n_pixels = band.len() * columns.n_out;
        let out = out.from(first * out_channels);
        let n_parts = self.n_parts();
        let parts = |mixed: Out| {
            let part = |part: usize| {
                let start = part * CHANNELS_PER_PART;
                let part = start..(start + CHANNELS_PER_PART).min(wide);
                // SAFETY: each part writes its own channels.
                unsafe { self.part(x, band.clone(), part, mixed) };
            };
            if is_shared { rows::for_each_of(n_parts, part) } else { (0..n_parts).for_each(part) }
        };
        let Some(project) = block.project else { return parts(out) };
        with_buffer(&MIXED, n_pixels * wide, |mixed| {
            parts(Out(mixed.as_mut_ptr()));
            let product = Product {
                x: Source::rows(mixed, wide),
                n_rows: n_pixels,
                weight: project.weight,
                weight_stride: out_channels,
                bias: project.bias,
                residual: block.is_residual.then(|| &x[first * out_channels..]),
                is_clamped: false,
                place: Place::dense(out_channels),
            };
            // SAFETY: guaranteed by the caller.
            unsafe { write_in_parts(product, if is_shared { n_threads() } else { 1 }, out) };
        });
    }

    /// Computes some of the channels between the point-wise convolutions.
    ///
    /// # Safety
    /// `mixed` must have room for all channels of the band. No other task may write these channels.
    unsafe fn part(
        &self,
        x: &[f32],
        band: std::ops::Range<usize>,
        part: std::ops::Range<usize>,
        mixed: Out,
    ) {
        let Self { block, channels, wide, lines, columns, .. } = *self;
        let Taps { weight, bias, kernel, stride } = block.depthwise;
        let n = part.len();
        let padded = columns.seen(columns.n_out);
        let seen = lines.seen(band.len());
        let (above, inside) = lines.split(band.start, band.len());
        with_buffer(&WIDE, seen * padded * n, |buffer| {
            let line = padded * n;
            clear_border(
                buffer,
                line,
                above..above + inside.len(),
                columns.before * n,
                columns.n_in * n,
            );
            let x =
                &x[inside.start * columns.n_in * channels..inside.end * columns.n_in * channels];
            let place = Place { width: columns.n_in, pixel: n, line };
            let to = above * line + columns.before * n;
            match block.expand {
                Some(expand) => {
                    let product = Product {
                        x: Source::rows(x, channels),
                        n_rows: inside.len() * columns.n_in,
                        weight: &expand.weight[part.start..],
                        weight_stride: wide,
                        bias: &expand.bias[part.clone()],
                        residual: None,
                        is_clamped: true,
                        place,
                    };
                    // SAFETY: the buffer has room for every line, including the border.
                    unsafe { product.write(Out(buffer.as_mut_ptr()).from(to)) };
                }
                None => {
                    for (y, pixels) in x.chunks_exact(columns.n_in * channels).enumerate() {
                        let to = &mut buffer[to + y * line..][..columns.n_in * n];
                        match n == channels {
                            true => to.copy_from_slice(pixels),
                            false => copy_part(pixels, channels, part.start, n, to),
                        }
                    }
                }
            }
            let taps = Depthwise {
                x: buffer,
                x_place: Place { width: padded, pixel: n, line },
                weight: &weight[part.start..],
                weight_stride: wide,
                bias: &bias[part.clone()],
                kernel,
                stride,
                is_clamped: true,
                n_lines: band.len(),
                place: Place { width: columns.n_out, pixel: wide, line: columns.n_out * wide },
            };
            // SAFETY: guaranteed by the caller.
            unsafe { taps.write(mixed.from(part.start)) };
        });
    }
}

/// Copies `n` channels of each pixel, from channel `first` on.
fn copy_part(pixels: &[f32], channels: usize, first: usize, n: usize, to: &mut [f32]) {
    for (pixel, to) in pixels.chunks_exact(channels).zip(to.chunks_exact_mut(n)) {
        to.copy_from_slice(&pixel[first..first + n]);
    }
}

/// Clears the border of an image in a buffer: the lines outside of `inside`, and in the other lines
/// all but the `width` floats after `left`.
pub(super) fn clear_border(
    buffer: &mut [f32],
    line: usize,
    inside: std::ops::Range<usize>,
    left: usize,
    width: usize,
) {
    buffer[..inside.start * line].fill(0.0);
    buffer[inside.end * line..].fill(0.0);
    for line in buffer[inside.start * line..inside.end * line].chunks_exact_mut(line) {
        line[..left].fill(0.0);
        line[left + width..].fill(0.0);
    }
}

/// A dense convolution with its ReLU6: `relu6(conv(x) + bias)`.
#[derive(Clone, Copy)]
pub struct Stem<'a> {
    /// `[kernel * kernel * in, out]`: the input channels of a tap are adjacent.
    pub weight: &'a [f32],
    /// `[out]`
    pub bias: &'a [f32],
    pub kernel: usize,
    pub stride: usize,
}

/// Runs a stem on `[batch, height, width, channels]` in any memory order, given by the strides.
pub fn stem(x: &[f32], (sizes, strides): (Sizes, [usize; 4]), stem: &Stem) -> (Vec<f32>, Sizes) {
    let [batch, height, width, channels] = sizes;
    let Stem { weight, bias, kernel, stride } = *stem;
    let lines = Axis::same(height, kernel, stride);
    let columns = Axis::same(width, kernel, stride);
    let out_channels = bias.len();
    let sizes = [batch, lines.n_out, columns.n_out, out_channels];
    assert!(weight.len() == kernel * kernel * channels * out_channels);
    if sizes.contains(&0) {
        return (Vec::new(), sizes);
    }
    let padded = columns.seen(columns.n_out) * channels;
    let line = |task: usize, out: Out| {
        let (nth, line) = (task / lines.n_out, task % lines.n_out);
        let (above, inside) = lines.split(line, 1);
        with_buffer(&WIDE, kernel * padded, |seen| {
            seen.fill(0.0);
            for (to, y) in inside.enumerate() {
                let to = &mut seen[(above + to) * padded + columns.before * channels..]
                    [..width * channels];
                for channel in 0..channels {
                    let from = &x[nth * strides[0] + y * strides[1] + channel * strides[3]..];
                    let pixels = to[channel..].iter_mut().step_by(channels);
                    pixels.zip(from.iter().step_by(strides[2])).for_each(|(to, from)| *to = *from);
                }
            }
            let product = Product {
                x: Source {
                    values: seen,
                    stride: stride * channels,
                    n_parts: kernel,
                    part_len: kernel * channels,
                    part_stride: padded,
                },
                n_rows: columns.n_out,
                weight,
                weight_stride: out_channels,
                bias,
                residual: None,
                is_clamped: true,
                place: Place::dense(out_channels),
            };
            // SAFETY: each task writes its own line.
            unsafe { product.write(out.from(task * columns.n_out * out_channels)) };
        });
    };
    let n_lines = batch * lines.n_out;
    // SAFETY: the lines of all images cover the whole output.
    let out = unsafe {
        written(sizes.iter().product(), |out| rows::for_each_of(n_lines, |task| line(task, out)))
    };
    (out, sizes)
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
        place: Place::dense(n_out),
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
unsafe fn write_in_parts(product: Product, n_tasks: usize, out: Out) {
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

/// Number of cores that share the work of this thread.
fn n_threads() -> usize {
    if rows::is_alone() { 1 } else { rayon::current_num_threads() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.5 - 1.0).collect()
    }

    fn relu6(x: f64) -> f64 {
        x.clamp(0.0, 6.0)
    }

    /// A plain convolution that skips pixels outside of the image instead of padding it.
    ///
    /// `taps(dy, dx, out)` returns input channels with weights.
    fn convolve(
        x: &[f64],
        [batch, height, width, channels]: Sizes,
        (kernel, stride): (usize, usize),
        bias: &[f32],
        taps: impl Fn(usize, usize, usize) -> Vec<(usize, f64)>,
    ) -> (Vec<f64>, Sizes) {
        let n_out = |n: usize| n.div_ceil(stride);
        let before = |n: usize| ((n_out(n) - 1) * stride + kernel).saturating_sub(n) / 2;
        let sizes = [batch, n_out(height), n_out(width), bias.len()];
        let mut out = Vec::new();
        for (b, y, x_out) in (0..batch)
            .flat_map(|b| (0..sizes[1]).flat_map(move |y| (0..sizes[2]).map(move |x| (b, y, x))))
        {
            for (o, bias) in bias.iter().enumerate() {
                let mut sum = f64::from(*bias);
                for dy in 0..kernel {
                    for dx in 0..kernel {
                        let y = (y * stride + dy) as isize - before(height) as isize;
                        let at = (x_out * stride + dx) as isize - before(width) as isize;
                        if y < 0 || at < 0 || y >= height as isize || at >= width as isize {
                            continue;
                        }
                        let pixel = ((b * height + y as usize) * width + at as usize) * channels;
                        sum += taps(dy, dx, o).iter().map(|(i, w)| x[pixel + i] * w).sum::<f64>();
                    }
                }
                out.push(sum);
            }
        }
        (out, sizes)
    }

    fn check(found: &[f32], wanted: &[f64], what: &str) {
        assert_eq!(found.len(), wanted.len(), "{what}");
        for (at, (found, wanted)) in found.iter().zip(wanted).enumerate() {
            let off = (f64::from(*found) - wanted).abs();
            assert!(off < 2e-5 * wanted.abs().max(1.0), "{what} at {at}: {found}, wanted {wanted}");
        }
    }

    /// Odd and even sides, sides smaller than the kernel, and channels that are not vector
    /// multiples.
    const SHAPES: [(Sizes, usize, usize); 11] = [
        ([1, 1, 1, 1], 3, 1),
        ([1, 2, 3, 3], 5, 1),
        ([2, 7, 5, 8], 3, 1),
        ([1, 8, 10, 24], 3, 2),
        ([1, 9, 13, 17], 3, 2),
        ([2, 12, 9, 16], 5, 2),
        ([1, 3, 4, 50], 5, 2),
        ([3, 11, 11, 5], 5, 1),
        ([1, 6, 7, 30], 7, 2),
        ([1, 5, 5, 33], 4, 3),
        ([1, 70, 66, 20], 5, 1),
    ];

    #[test]
    fn a_block_is_its_three_convolutions() {
        for (sizes, kernel, stride) in SHAPES {
            for (wide, out) in [(1, 1), (6, 4), (49, 24), (144, sizes[3])] {
                check_block(sizes, (kernel, stride), wide, out);
            }
        }
    }

    fn check_block(sizes: Sizes, (kernel, stride): (usize, usize), wide: usize, out: usize) {
        let [batch, height, width, channels] = sizes;
        let x = numbers(sizes.iter().product(), 1);
        let x64: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        let is_residual = stride == 1 && out == channels;
        let (w1, b1) = (numbers(channels * wide, 2), numbers(wide, 3));
        let (w2, b2) = (numbers(kernel * kernel * wide, 4), numbers(wide, 5));
        let (w3, b3) = (numbers(wide * out, 6), numbers(out, 7));
        let found = block(
            &x,
            sizes,
            &Block {
                expand: Some(Pointwise { weight: &w1, bias: &b1 }),
                depthwise: Taps { weight: &w2, bias: &b2, kernel, stride },
                project: Some(Pointwise { weight: &w3, bias: &b3 }),
                is_residual,
            },
        );

        let dense = |w: &[f32], n: usize, m: usize, o: usize| -> Vec<(usize, f64)> {
            (0..n).map(|i| (i, f64::from(w[i * m + o]))).collect()
        };
        let (mut y, _) =
            convolve(&x64, sizes, (1, 1), &b1, |_, _, o| dense(&w1, channels, wide, o));
        y.iter_mut().for_each(|y| *y = relu6(*y));
        let (mut y, middle) =
            convolve(&y, [batch, height, width, wide], (kernel, stride), &b2, |dy, dx, o| {
                vec![(o, f64::from(w2[(dy * kernel + dx) * wide + o]))]
            });
        y.iter_mut().for_each(|y| *y = relu6(*y));
        let (mut y, wanted) = convolve(&y, middle, (1, 1), &b3, |_, _, o| dense(&w3, wide, out, o));
        if is_residual {
            y.iter_mut().zip(&x64).for_each(|(y, x)| *y += x);
        }
        assert_eq!(found.1, wanted);
        check(&found.0, &y, &format!("{sizes:?}, kernel {kernel} by {stride}, {wide} to {out}"));
    }

    #[test]
    fn a_convolution_by_channels_alone_is_one_with_a_clamp() {
        for (sizes, kernel, stride) in SHAPES {
            let wide = sizes[3];
            let x = numbers(sizes.iter().product(), 1);
            let x64: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
            let (weight, bias) = (numbers(kernel * kernel * wide, 4), numbers(wide, 5));
            let depthwise = Taps { weight: &weight, bias: &bias, kernel, stride };
            let found = block(
                &x,
                sizes,
                &Block { expand: None, depthwise, project: None, is_residual: false },
            );
            let (mut y, wanted) = convolve(&x64, sizes, (kernel, stride), &bias, |dy, dx, o| {
                vec![(o, f64::from(weight[(dy * kernel + dx) * wide + o]))]
            });
            y.iter_mut().for_each(|y| *y = relu6(*y));
            assert_eq!(found.1, wanted);
            check(&found.0, &y, &format!("{sizes:?}, kernel {kernel} by {stride}"));
        }
    }

    #[test]
    fn a_stem_sees_all_channels() {
        for (sizes, kernel, stride) in SHAPES {
            for out in [1, 7, 32, 40] {
                let n = sizes[3];
                let x = numbers(sizes.iter().product(), 1);
                let x64: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
                let (weight, bias) = (numbers(kernel * kernel * n * out, 4), numbers(out, 5));
                let spec = Stem { weight: &weight, bias: &bias, kernel, stride };
                let [batch, height, width, _] = sizes;
                let found = stem(&x, (sizes, [height * width * n, width * n, n, 1]), &spec);
                let mut first = vec![0.0; x.len()];
                for (at, x) in x.iter().enumerate() {
                    let (pixel, channel) = (at % (height * width * n) / n, at % n);
                    first[(at / (height * width * n) * n + channel) * height * width + pixel] = *x;
                }
                let strides = [height * width * n, width, 1, height * width];
                assert!(
                    stem(&first, (sizes, strides), &spec) == found,
                    "channels first, {batch} images"
                );
                let (mut y, wanted) =
                    convolve(&x64, sizes, (kernel, stride), &bias, |dy, dx, o| {
                        let row = (dy * kernel + dx) * n;
                        (0..n).map(|i| (i, f64::from(weight[(row + i) * out + o]))).collect()
                    });
                y.iter_mut().for_each(|y| *y = relu6(*y));
                assert_eq!(found.1, wanted);
                check(&found.0, &y, &format!("{sizes:?}, kernel {kernel} by {stride}"));
            }
        }
    }

    #[test]
    fn neither_cores_nor_batch_mates_change_a_number() {
        for ([height, width, channels], kernel, stride, out) in
            [([33, 33, 8], 5, 1, 8), ([9, 9, 40], 3, 1, 100), ([70, 65, 24], 3, 2, 16)]
        {
            let (batch, wide) = (3, 6 * channels);
            let x = numbers(batch * height * width * channels, 1);
            let (w1, b1) = (numbers(channels * wide, 2), numbers(wide, 3));
            let (w2, b2) = (numbers(kernel * kernel * wide, 4), numbers(wide, 5));
            let (w3, b3) = (numbers(wide * out, 6), numbers(out, 7));
            let parts = Block {
                expand: Some(Pointwise { weight: &w1, bias: &b1 }),
                depthwise: Taps { weight: &w2, bias: &b2, kernel, stride },
                project: Some(Pointwise { weight: &w3, bias: &b3 }),
                is_residual: stride == 1 && out == channels,
            };
            let on = |n_cores: usize, x: &[f32], batch: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(n_cores).build();
                let pool = pool.expect("threads can be started");
                pool.install(|| {
                    let (y, sizes) = block(x, [batch, height, width, channels], &parts);
                    let head =
                        pointwise(&y, Pointwise { weight: &w3[..out * wide], bias: &b1 }, true);
                    (y, sizes, head)
                })
            };
            let (together, _, _) = on(1, &x, batch);
            for (x, wanted) in
                x.chunks(x.len() / batch).zip(together.chunks(together.len() / batch))
            {
                let (_, _, head) = on(1, x, 1);
                for n_cores in [1, 2, 3, 16] {
                    let found = on(n_cores, x, 1);
                    assert!(
                        found.0 == wanted && found.2 == head,
                        "{height}×{width}, {n_cores} cores"
                    );
                }
            }
        }
    }

    #[test]
    fn padding_is_tensorflows() {
        let axis = Axis::same(260, 3, 2);
        assert_eq!((axis.n_out, axis.before, axis.seen(130)), (130, 0, 261));
        let axis = Axis::same(65, 5, 2);
        assert_eq!((axis.n_out, axis.before, axis.seen(33)), (33, 2, 69));
        let axis = Axis::same(2, 5, 1);
        assert_eq!((axis.n_out, axis.before, axis.seen(2)), (2, 2, 6));
    }
}
