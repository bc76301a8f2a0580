//! A dense convolution of an image, the first of a tower.

use super::images::{Axis, Sizes, WIDE, with_buffer, written};
use super::pointwise::{PixelLayout, Product, Source};
use crate::kernels::cpu::rows::{self, SharedOutput};

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
    let line = |task: usize, out: SharedOutput| {
        let (nth, line) = (task / lines.n_out, task % lines.n_out);
        let (above, inside) = lines.split(line, 1);
        with_buffer(&WIDE, kernel * padded, |seen| {
            seen.fill(0.0);
            for (to, y) in inside.enumerate() {
                let to = &mut seen[(above + to) * padded + columns.before * channels..]
                    [..width * channels];
                let from =
                    |channel: usize| &x[nth * strides[0] + y * strides[1] + channel * strides[3]..];
                if channels == 3 && strides[2] == 1 {
                    // A photo whose channels lie one after the other.
                    let [red, green, blue] = [0, 1, 2].map(|channel| &from(channel)[..width]);
                    for (nth, pixel) in to.as_chunks_mut::<3>().0.iter_mut().enumerate() {
                        *pixel = [red[nth], green[nth], blue[nth]];
                    }
                    continue;
                }
                for channel in 0..channels {
                    let pixels = to[channel..].iter_mut().step_by(channels);
                    let from = from(channel).iter().step_by(strides[2]);
                    pixels.zip(from).for_each(|(to, from)| *to = *from);
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
                place: PixelLayout::dense(out_channels),
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
