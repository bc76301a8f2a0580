//! A block that never writes its widest activations to memory.
//!
//! It runs expansion and depth-wise convolution for a band of lines, 48 channels at a time. Then it
//! projects the band. So the wide activations stay in the core's cache.
//!
//! Cores share a batch by images and bands, and a single small image by parts of its bands. Each
//! sum has one order, so the split does not change a result.

use std::ops::Range;

use super::depthwise::Depthwise;
use super::images::{Axis, MIXED, Sizes, WIDE, clear_border, with_buffer, written};
use super::pointwise::{PixelLayout, Pointwise, Product, Source, write_in_parts};
use crate::kernels::cpu::rows::{self, SharedOutput, n_threads};

/// Floats in a part of a wide activation, so that it fits a core's own cache beside the weights.
const NUMBERS_PER_PART: usize = 72 * 1024;
/// Channels of a part: whole tiles of products for every vector width.
pub const CHANNELS_PER_PART: usize = 48;

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
    let run = |task: usize, out: SharedOutput| {
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
    /// Cores share a band for a single small image, if more bands would expand a fifth of its lines
    /// twice. That costs more than a transfer between cores.
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
        if 5 * again > lines.n_in && 2 * self.n_parts() >= n_threads {
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
    unsafe fn band(&self, x: &[f32], band: Range<usize>, out: SharedOutput, is_shared: bool) {
        let Self { block, wide, columns, out_channels, .. } = *self;
        let first = band.start * columns.n_out;
        let n_pixels = band.len() * columns.n_out;
        let out = out.from(first * out_channels);
        let n_parts = self.n_parts();
        let parts = |mixed: SharedOutput| {
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
            parts(SharedOutput(mixed.as_mut_ptr()));
            let product = Product {
                x: Source::rows(mixed, wide),
                n_rows: n_pixels,
                weight: project.weight,
                weight_stride: out_channels,
                bias: project.bias,
                residual: block.is_residual.then(|| &x[first * out_channels..]),
                is_clamped: false,
                place: PixelLayout::dense(out_channels),
            };
            // SAFETY: guaranteed by the caller.
            unsafe { write_in_parts(product, if is_shared { n_threads() } else { 1 }, out) };
        });
    }

    /// Computes some of the channels between the point-wise convolutions.
    ///
    /// # Safety
    /// `mixed` must have room for all channels of the band. No other task may write these channels.
    unsafe fn part(&self, x: &[f32], band: Range<usize>, part: Range<usize>, mixed: SharedOutput) {
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
            let place = PixelLayout { width: columns.n_in, pixel: n, line };
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
                    unsafe { product.write(SharedOutput(buffer.as_mut_ptr()).from(to)) };
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
                x_place: PixelLayout { width: padded, pixel: n, line },
                weight: &weight[part.start..],
                weight_stride: wide,
                bias: &bias[part.clone()],
                kernel,
                stride,
                is_clamped: true,
                n_lines: band.len(),
                place: PixelLayout {
                    width: columns.n_out,
                    pixel: wide,
                    line: columns.n_out * wide,
                },
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
