//! Convolutions on a GPU: channels-last images, with TensorFlow's SAME padding, bias and ReLU6.

use burn::tensor::{DType, Shape, Tensor};
use cubecl::prelude::*;

use super::cube::relu6;
use super::launch::{ElementLaunch, launch};
use super::tensors::{contiguous, empty, is_plain_gpu_f32, wrap};

/// Adjacent pixels per unit, which reads their shared inputs once.
const PIXELS: usize = 4;

/// `relu6(conv(x) + bias)`.
///
/// # Shapes
/// - x: `[batch, height, width, in]`
/// - weight: `[out, in, kernel, kernel]`, or `[in, 1, kernel, kernel]` for a depth-wise convolution
/// - padding: above and left of the image
/// - returns: `[batch, ⌈height / stride⌉, ⌈width / stride⌉, out]`
pub fn convolve_relu6(
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
    let (x, weight, bias) = (contiguous(x), contiguous(weight), contiguous(bias));
    let out = empty(&x, Shape::from([batch, out_height, out_width, out_channels]), DType::F32);
    let n = batch * out_height * out_width.div_ceil(PIXELS) * out_channels;
    let each = ElementLaunch::new(&x, n);
    let form = Form {
        channels,
        out_channels,
        is_dense: in_channels == channels && channels > 1,
        kernel,
        stride,
    };
    launch!(convolve_kernel<f32> on each.grid;
        x.into_buffer_arg(),
        weight.into_buffer_arg(),
        bias.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        ImageLaunch::new(height, width, out_height, out_width, padding[0], padding[1]),
        each.n,
        form,
    );
    wrap(out)
}

/// Whether the kernel supports image and weight.
pub fn supports(x: &Tensor<4>, weight: &Tensor<4>) -> bool {
    is_plain_gpu_f32(x) && is_plain_gpu_f32(weight)
}

/// Sizes of a channels-last image and of its convolution, and its padding.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct Image {
    height: usize,
    width: usize,
    out_height: usize,
    out_width: usize,
    top: usize,
    left: usize,
}

/// Compile-time options of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Form {
    channels: usize,
    out_channels: usize,
    /// Whether each output channel reads all input channels, instead of its own.
    is_dense: bool,
    kernel: usize,
    stride: usize,
}

/// One unit per channel of [`PIXELS`] adjacent output pixels. Adjacent units have adjacent
/// channels.
#[cube(launch_unchecked)]
fn convolve_kernel<F: Float>(
    x: &[F],
    weight: &[F],
    bias: &[F],
    out: &mut [F],
    image: Image,
    n: usize,
    #[comptime] form: Form,
) {
    let channels = comptime!(form.channels);
    let out_channels = comptime!(form.out_channels);
    let is_dense = comptime!(form.is_dense);
    let kernel = comptime!(form.kernel);
    let stride = comptime!(form.stride);
    if ABSOLUTE_POS < n {
        let channel = ABSOLUTE_POS % out_channels;
        let rest = ABSOLUTE_POS / out_channels;
        let n_parts = (image.out_width + comptime!(PIXELS - 1)) / PIXELS;
        let first = rest % n_parts * PIXELS;
        let line = rest / n_parts;
        let batch = line / image.out_height;
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
            let y = line % image.out_height * stride + dy;
            if y >= image.top && y < image.top + image.height {
                let row = (batch * image.height + y - image.top) * image.width;
                for i in 0..in_channels {
                    let mut from = channel;
                    if comptime!(is_dense) {
                        from = i;
                    }
                    #[unroll]
                    for s in 0..n_seen {
                        let column = first * stride + s;
                        let mut value = F::new(0.0);
                        if column >= image.left && column < image.left + image.width {
                            value = x[(row + column - image.left) * channels + from];
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
            if pixel < image.out_width {
                out[(line * image.out_width + pixel) * out_channels + channel] =
                    relu6::<F>(sums[p]);
            }
        }
    }
}
