//! The backward function of a depth-wise convolution with ReLU6.

use super::block::{CHANNELS_PER_PART, Taps};
use super::depthwise::{Depthwise, TapGradients};
use super::images::{Axis, MIXED, Sizes, WIDE, clear_border, with_buffer};
use super::pointwise::PixelLayout;
use crate::kernels::cpu::activations::relu6_backward;
use crate::kernels::cpu::rows::{self, SharedOutput};
use crate::kernels::cpu::sums::add_rows;

/// Gradients of the input, `[batch, height, width, channels]`, of the weight,
/// `[kernel * kernel, channels]`, and of the bias. `None` for those that are not needed.
pub type Gradients = [Option<Vec<f32>>; 3];

/// Gradients of [`super::block::block`] without `expand` and `project`.
///
/// Takes its input `x`, its output `out` and the output's gradient `grad`.
pub fn depthwise_relu6(
    x: &[f32],
    sizes: Sizes,
    taps: &Taps,
    out: &[f32],
    grad: &[f32],
    wanted: [bool; 3],
) -> Gradients {
    let [batch, height, width, channels] = sizes;
    let Taps { weight, kernel, stride, .. } = *taps;
    let lines = Axis::same(height, kernel, stride);
    let columns = Axis::same(width, kernel, stride);
    assert!(
        x.len() == batch * height * width * channels && weight.len() == kernel * kernel * channels
    );
    assert!(out.len() == batch * lines.n_out * columns.n_out * channels && grad.len() == out.len());

    let lengths = [x.len(), weight.len(), channels];
    let mut grads: Gradients = std::array::from_fn(|i| wanted[i].then(|| vec![0.0; lengths[i]]));
    let targets =
        grads.each_mut().map(|grad| grad.as_mut().map(|grad| SharedOutput(grad.as_mut_ptr())));
    let work = Work { x, taps, out, grad, lines, columns, channels, batch };
    rows::for_each_of(channels.div_ceil(CHANNELS_PER_PART), |part| {
        let start = part * CHANNELS_PER_PART;
        // SAFETY: each task writes its own channels, in buffers of these lengths.
        unsafe { work.part(start..(start + CHANNELS_PER_PART).min(channels), targets) };
    });
    grads
}

/// A convolution with its sizes.
struct Work<'a> {
    x: &'a [f32],
    taps: &'a Taps<'a>,
    out: &'a [f32],
    grad: &'a [f32],
    lines: Axis,
    columns: Axis,
    channels: usize,
    batch: usize,
}

impl Work<'_> {
    /// # Safety
    /// The targets must have room for all channels. No other task may write these channels.
    unsafe fn part(
        &self,
        part: std::ops::Range<usize>,
        [to_x, to_weight, to_bias]: [Option<SharedOutput>; 3],
    ) {
        let Self { taps, lines, columns, channels, batch, .. } = *self;
        let n = part.len();
        let taps_len = taps.kernel * taps.kernel;
        let (mut weight_sums, mut bias_sums) = (vec![0.0; taps_len * n], vec![0.0; n]);
        let mut slopes = vec![0.0; lines.n_out * columns.n_out * n];
        for image in 0..batch {
            self.slopes(image, part.clone(), &mut slopes);
            if to_bias.is_some() {
                add_rows(&slopes, &mut bias_sums);
            }
            if to_weight.is_some() {
                self.add_weight_gradient(image, part.clone(), &slopes, &mut weight_sums);
            }
            if let Some(to_x) = to_x {
                let to_x = to_x.from(image * lines.n_in * columns.n_in * channels + part.start);
                // SAFETY: guaranteed by the caller.
                unsafe { self.write_x_gradient(part.clone(), &slopes, to_x) };
            }
        }
        let copy = |sums: &[f32], to: SharedOutput| {
            for (row, sums) in sums.chunks_exact(n).enumerate() {
                for (i, sum) in sums.iter().enumerate() {
                    // SAFETY: guaranteed by the caller.
                    unsafe { *to.at(row * channels + part.start + i) = *sum };
                }
            }
        };
        to_weight.into_iter().for_each(|to| copy(&weight_sums, to));
        to_bias.into_iter().for_each(|to| copy(&bias_sums, to));
    }

    /// The gradient before the ReLU6, pixel by pixel.
    fn slopes(&self, image: usize, part: std::ops::Range<usize>, slopes: &mut [f32]) {
        let first = image * self.lines.n_out * self.columns.n_out;
        for (nth, slopes) in slopes.chunks_exact_mut(part.len()).enumerate() {
            let at = (first + nth) * self.channels;
            slopes.copy_from_slice(&self.grad[at + part.start..at + part.end]);
            relu6_backward(&self.out[at + part.start..at + part.end], slopes);
        }
    }

    fn add_weight_gradient(
        &self,
        image: usize,
        part: std::ops::Range<usize>,
        slopes: &[f32],
        sums: &mut [f32],
    ) {
        let Self { taps, lines, columns, channels, .. } = *self;
        let n = part.len();
        let line = columns.seen(columns.n_out) * n;
        let x = &self.x[image * lines.n_in * columns.n_in * channels..];
        with_buffer(&WIDE, lines.seen(lines.n_out) * line, |buffer| {
            let inside = lines.before..lines.before + lines.n_in;
            clear_border(buffer, line, inside, columns.before * n, columns.n_in * n);
            for (nth, pixel) in x.chunks_exact(channels).take(lines.n_in * columns.n_in).enumerate()
            {
                let (y, x) =
                    (lines.before + nth / columns.n_in, columns.before + nth % columns.n_in);
                buffer[y * line + x * n..][..n].copy_from_slice(&pixel[part.clone()]);
            }
            let gradients = TapGradients {
                x: buffer,
                x_place: PixelLayout { width: line / n, pixel: n, line },
                grad: slopes,
                grad_place: PixelLayout { width: columns.n_out, pixel: n, line: columns.n_out * n },
                n_lines: lines.n_out,
                kernel: taps.kernel,
                stride: taps.stride,
                channels: n,
            };
            gradients.add_to(sums);
        });
    }

    /// Convolves the slopes, spread by `stride - 1` zeros between them, with the flipped kernel.
    ///
    /// # Safety
    /// `to` must have room for an image. No other task may write these channels.
    unsafe fn write_x_gradient(
        &self,
        part: std::ops::Range<usize>,
        slopes: &[f32],
        to: SharedOutput,
    ) {
        let Self { taps, lines, columns, channels, .. } = *self;
        let Taps { weight, kernel, stride, .. } = *taps;
        let n = part.len();
        let line = (columns.n_in + kernel - 1) * n;
        let mut turned = Vec::with_capacity(kernel * kernel * n);
        for tap in (0..kernel * kernel).rev() {
            turned.extend_from_slice(&weight[tap * channels..][part.clone()]);
        }
        with_buffer(&MIXED, (lines.n_in + kernel - 1) * line, |buffer| {
            buffer.fill(0.0);
            let [top, left] = [lines, columns].map(|axis| kernel - 1 - axis.before);
            for (nth, slopes) in slopes.chunks_exact(n).enumerate() {
                let y = top + nth / columns.n_out * stride;
                let x = left + nth % columns.n_out * stride;
                buffer[y * line + x * n..][..n].copy_from_slice(slopes);
            }
            let back = Depthwise {
                x: buffer,
                x_place: PixelLayout { width: line / n, pixel: n, line },
                weight: &turned,
                weight_stride: n,
                bias: &vec![0.0; n],
                kernel,
                stride: 1,
                is_clamped: false,
                n_lines: lines.n_in,
                place: PixelLayout {
                    width: columns.n_in,
                    pixel: channels,
                    line: columns.n_in * channels,
                },
            };
            // SAFETY: guaranteed by the caller.
            unsafe { back.write(to) };
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::block::{Block, block};
    use super::*;

    fn numbers(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.5 - 1.0).collect()
    }

    fn check(found: &[f32], wanted: &[f64], what: &str) {
        assert_eq!(found.len(), wanted.len(), "{what}");
        for (at, (found, wanted)) in found.iter().zip(wanted).enumerate() {
            let off = (f64::from(*found) - wanted).abs();
            assert!(off < 2e-5 * wanted.abs().max(1.0), "{what} at {at}: {found}, wanted {wanted}");
        }
    }

    /// Compares with plain loops that add each product's share to the gradients of both factors.
    fn check_sizes(sizes: Sizes, kernel: usize, stride: usize) {
        let [batch, height, width, channels] = sizes;
        let x = numbers(sizes.iter().product(), 1);
        // Scaled such that some sums are clamped on each side.
        let weight: Vec<f32> =
            numbers(kernel * kernel * channels, 2).iter().map(|w| w * 4.0).collect();
        let bias: Vec<f32> = numbers(channels, 3).iter().map(|b| b * 4.0 + 2.0).collect();
        let taps = Taps { weight: &weight, bias: &bias, kernel, stride };
        let forward = Block { expand: None, depthwise: taps, project: None, is_residual: false };
        let (out, [_, out_height, out_width, _]) = block(&x, sizes, &forward);
        let grad = numbers(out.len(), 4);

        let mut wanted = [vec![0.0; x.len()], vec![0.0; weight.len()], vec![0.0; channels]];
        let before = |n: usize, n_out: usize| ((n_out - 1) * stride + kernel).saturating_sub(n) / 2;
        let (top, left) = (before(height, out_height), before(width, out_width));
        for at in 0..out.len() {
            let (c, pixel) = (at % channels, at / channels);
            let (x_out, line) = (pixel % out_width, pixel / out_width);
            let (y_out, b) = (line % out_height, line / out_height);
            if out[at] <= 0.0 || out[at] >= 6.0 {
                continue;
            }
            let slope = f64::from(grad[at]);
            wanted[2][c] += slope;
            for (dy, dx) in (0..kernel).flat_map(|dy| (0..kernel).map(move |dx| (dy, dx))) {
                let (y, x_in) = (
                    (y_out * stride + dy).wrapping_sub(top),
                    (x_out * stride + dx).wrapping_sub(left),
                );
                if y < height && x_in < width {
                    let from = ((b * height + y) * width + x_in) * channels + c;
                    let tap = (dy * kernel + dx) * channels + c;
                    wanted[0][from] += slope * f64::from(weight[tap]);
                    wanted[1][tap] += slope * f64::from(x[from]);
                }
            }
        }
        let found = depthwise_relu6(&x, sizes, &taps, &out, &grad, [true; 3]);
        for ((found, wanted), name) in found.iter().zip(&wanted).zip(["input", "weight", "bias"]) {
            let what = format!("{name} of {sizes:?}, kernel {kernel} by {stride}, {batch}");
            check(found.as_ref().expect("all are wanted"), wanted, &what);
        }
        let found = depthwise_relu6(&x, sizes, &taps, &out, &grad, [false, true, false]);
        assert!(found[0].is_none() && found[1].is_some() && found[2].is_none());
    }

    #[test]
    fn gradients_are_the_shares_of_all_products() {
        for (sizes, kernel, stride) in [
            ([1, 1, 1, 1], 3, 1),
            ([1, 2, 3, 3], 5, 1),
            ([2, 7, 5, 8], 3, 1),
            ([2, 8, 10, 50], 3, 2),
            ([1, 9, 13, 17], 3, 2),
            ([2, 12, 9, 16], 5, 2),
            ([1, 6, 7, 30], 7, 2),
            ([1, 5, 5, 33], 4, 3),
            ([1, 9, 9, 100], 5, 1),
        ] {
            check_sizes(sizes, kernel, stride);
        }
    }
}
