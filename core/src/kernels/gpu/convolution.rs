//! Convolutions of channels-last images, with TensorFlow's SAME padding, bias and ReLU6.

use burn::tensor::{DType, Shape, Tensor};
use cubecl::prelude::*;

use super::tensors::{Each, empty, whole, wrap};

/// Adjacent pixels per unit, which reads their shared inputs once.
const PIXELS: usize = 4;

/// `relu6(conv(x) + bias)`.
///
/// # Shapes
/// - x: `[batch, height, width, in]`
/// - weight: `[out, in, kernel, kernel]`, or `[in, 1, kernel, kernel]` for a depth-wise convolution
/// - padding: above and left of the image
/// - returns: `[batch, ⌈height / stride⌉, ⌈width / stride⌉, out]`
pub(crate) fn convolve_relu6(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Tensor<1>,
    stride: usize,
    padding: [usize; 2],
) -> Tensor<4> {
    let [batch, height, width, channels] = x.dims();
    let [out_channels, in_channels, kernel, _] = weight.dims();
    assert!(in_channels == channels || (in_channels == 1 && out_channels == channels));
    assert_eq!(bias.dims(), [out_channels]);
    let (out_height, out_width) = (height.div_ceil(stride), width.div_ceil(stride));
    let (x, weight, bias) = (whole(x), whole(weight), whole(bias));
    let out = empty(&x, Shape::from([batch, out_height, out_width, out_channels]), DType::F32);
    let each = Each::new(&x.client, batch * out_height * out_width.div_ceil(PIXELS) * out_channels);
    // SAFETY: a unit past the last of the `n` does nothing. Pixels outside of the image are not
    // read, and pixels past the end of a line are not written.
    unsafe {
        convolve::launch_unchecked::<f32>(
            &out.client,
            each.cubes,
            each.units,
            x.into_buffer_arg(),
            weight.into_buffer_arg(),
            bias.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            height,
            width,
            out_height,
            out_width,
            padding[0],
            padding[1],
            each.n,
            channels,
            out_channels,
            in_channels == channels && channels > 1,
            kernel,
            stride,
        );
    }
    wrap(out)
}

/// One unit per channel of [`PIXELS`] adjacent output pixels. Adjacent units have adjacent
/// channels.
#[cube(launch_unchecked)]
fn convolve<F: Float>(
    x: &[F],
    weight: &[F],
    bias: &[F],
    out: &mut [F],
    height: usize,
    width: usize,
    out_height: usize,
    out_width: usize,
    top: usize,
    left: usize,
    n: usize,
    #[comptime] channels: usize,
    #[comptime] out_channels: usize,
    #[comptime] is_dense: bool,
    #[comptime] kernel: usize,
    #[comptime] stride: usize,
) {
    if ABSOLUTE_POS < n {
        let channel = ABSOLUTE_POS % out_channels;
        let rest = ABSOLUTE_POS / out_channels;
        let n_parts = (out_width + comptime!(PIXELS - 1)) / PIXELS;
        let first = rest % n_parts * PIXELS;
        let line = rest / n_parts;
        let batch = line / out_height;
        let n_seen = comptime!((PIXELS - 1) * stride + kernel);
        let in_channels = comptime!(if is_dense { channels } else { 1 });

        let mut sums = Array::<F>::new(PIXELS);
        let mut seen = Array::<F>::new(n_seen);
        #[unroll]
        for p in 0..PIXELS {
            sums[p] = bias[channel];
        }
        for dy in 0..kernel {
            // Counted from the start of the padding.
            let y = line % out_height * stride + dy;
            if y >= top && y < top + height {
                let row = (batch * height + y - top) * width;
                for i in 0..in_channels {
                    let mut from = channel;
                    if comptime!(is_dense) {
                        from = i;
                    }
                    #[unroll]
                    for s in 0..n_seen {
                        let column = first * stride + s;
                        let mut value = F::new(0.0);
                        if column >= left && column < left + width {
                            value = x[(row + column - left) * channels + from];
                        }
                        seen[s] = value;
                    }
                    let taps = ((channel * in_channels + i) * kernel + dy) * kernel;
                    #[unroll]
                    for dx in 0..kernel {
                        let tap = weight[taps + dx];
                        #[unroll]
                        for p in 0..PIXELS {
                            sums[p] += seen[comptime!(p * stride + dx)] * tap;
                        }
                    }
                }
            }
        }
        #[unroll]
        for p in 0..PIXELS {
            let pixel = first + p;
            if pixel < out_width {
                let value = min(max(sums[p], F::new(0.0)), F::new(6.0));
                out[(line * out_width + pixel) * out_channels + channel] = value;
            }
        }
    }
}
