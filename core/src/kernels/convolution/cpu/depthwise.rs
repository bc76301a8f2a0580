//! Depth-wise convolutions.

#![expect(
    clippy::needless_range_loop,
    reason = "several arrays of one constant length go side by side"
)]

use super::pointwise::PixelLayout;
use crate::kernels::cpu::lanes::{Kernel, Lanes, run};
use crate::kernels::cpu::rows::SharedOutput;

/// `sum of taps + bias` of a padded channels-last image, with a ReLU6 if `is_clamped`.
#[derive(Clone, Copy)]
pub struct Depthwise<'a> {
    /// The image with its border: lines of pixels with these channels.
    pub x: &'a [f32],
    pub x_place: PixelLayout,
    /// `[kernel * kernel, ..]`, from the first channel on.
    pub weight: &'a [f32],
    /// Row stride of the weight.
    pub weight_stride: usize,
    /// One value per channel.
    pub bias: &'a [f32],
    pub kernel: usize,
    pub stride: usize,
    pub is_clamped: bool,
    /// Lines of the output.
    pub n_lines: usize,
    pub place: PixelLayout,
}

impl Depthwise<'_> {
    /// # Safety
    /// `out` must have room for `n_lines` lines of `place`. No other code may read or write them
    /// meanwhile.
    pub unsafe fn write(self, out: SharedOutput) {
        let Self {
            x, x_place, weight, weight_stride, bias, kernel, stride, n_lines, place, ..
        } = self;
        if n_lines == 0 || place.width == 0 || bias.is_empty() {
            return;
        }
        let channels = bias.len();
        let last_line = (n_lines - 1) * stride + kernel - 1;
        let last_pixel = (place.width - 1) * stride + kernel - 1;
        assert!(channels <= weight_stride && channels <= place.pixel && channels <= x_place.pixel);
        assert!(x.len() >= last_line * x_place.line + last_pixel * x_place.pixel + channels);
        assert!(weight.len() >= (kernel * kernel - 1) * weight_stride + channels);
        run(channels, Write { taps: self, out });
    }
}

/// A convolution whose sizes were checked.
struct Write<'a> {
    taps: Depthwise<'a>,
    out: SharedOutput,
}

impl Kernel for Write<'_> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        // SAFETY: `Depthwise::write` checked the sizes.
        unsafe {
            // As many pixels at once as registers can hold, with their accumulators and inputs.
            match (self.taps.kernel, self.taps.stride) {
                (3, 1) if V::HAS_32 => self.channels::<V, 3, 1, 8, 10>(),
                (5, 1) if V::HAS_32 => self.channels::<V, 5, 1, 8, 12>(),
                (3, 1) => self.channels::<V, 3, 1, 4, 6>(),
                (3, 2) => self.channels::<V, 3, 2, 3, 7>(),
                (5, 1) => self.channels::<V, 5, 1, 4, 8>(),
                (5, 2) => self.channels::<V, 5, 2, 3, 9>(),
                _ => self.any_channels::<V>(),
            }
        }
    }
}

impl Write<'_> {
    /// Runs kernels of side `K` and stride `S` on `P` pixels at once, which read `W` pixels of a
    /// line.
    ///
    /// # Safety
    /// The sizes must have been checked.
    #[inline(always)]
    unsafe fn channels<V: Lanes, const K: usize, const S: usize, const P: usize, const W: usize>(
        &self,
    ) {
        let Depthwise { bias, n_lines, place, .. } = self.taps;
        let n_vectors = bias.len().div_ceil(V::N);
        for vector in 0..n_vectors {
            // The last vector overlaps the previous one.
            let channel = (vector * V::N).min(bias.len() - V::N);
            for line in 0..n_lines {
                let mut pixel = 0;
                // SAFETY: lines, pixels and channels are within the image.
                unsafe {
                    while place.width - pixel >= P {
                        self.pixels::<V, K, S, P, W>(line, pixel, channel);
                        pixel += P;
                    }
                    while place.width > pixel {
                        self.pixels::<V, K, S, 1, K>(line, pixel, channel);
                        pixel += 1;
                    }
                }
            }
        }
    }

    /// # Safety
    /// At least `P` pixels must exist from `pixel` on.
    #[inline(always)]
    unsafe fn pixels<V: Lanes, const K: usize, const S: usize, const P: usize, const W: usize>(
        &self,
        line: usize,
        pixel: usize,
        channel: usize,
    ) {
        const { assert!(W == (P - 1) * S + K) };
        let Depthwise { x, x_place, weight, weight_stride, bias, place, is_clamped, .. } =
            self.taps;
        // SAFETY: guaranteed by the caller.
        unsafe {
            let mut sums = [V::load(bias.as_ptr().add(channel)); P];
            for dy in 0..K {
                let first = (line * S + dy) * x_place.line + pixel * S * x_place.pixel + channel;
                let seen = x.as_ptr().add(first);
                let mut window = [V::splat(0.0); W];
                for w in 0..W {
                    window[w] = V::load(seen.add(w * x_place.pixel));
                }
                for dx in 0..K {
                    let tap = V::load(weight.as_ptr().add((dy * K + dx) * weight_stride + channel));
                    for p in 0..P {
                        sums[p] = sums[p].plus_product(window[p * S + dx], tap);
                    }
                }
            }
            for p in 0..P {
                let to = line * place.line + (pixel + p) * place.pixel + channel;
                let sum = if is_clamped { sums[p].relu6() } else { sums[p] };
                sum.store(self.out.at(to));
            }
        }
    }

    /// Runs kernels of other sizes.
    ///
    /// # Safety
    /// The sizes must have been checked.
    #[inline(always)]
    unsafe fn any_channels<V: Lanes>(&self) {
        let Depthwise {
            x,
            x_place,
            weight,
            weight_stride,
            bias,
            kernel,
            stride,
            n_lines,
            place,
            is_clamped,
        } = self.taps;
        for vector in 0..bias.len().div_ceil(V::N) {
            let channel = (vector * V::N).min(bias.len() - V::N);
            for (line, pixel) in
                (0..n_lines).flat_map(|line| (0..place.width).map(move |pixel| (line, pixel)))
            {
                // SAFETY: lines, pixels and channels are within the image.
                unsafe {
                    let mut sum = V::load(bias.as_ptr().add(channel));
                    for dy in 0..kernel {
                        for dx in 0..kernel {
                            let at = (line * stride + dy) * x_place.line
                                + (pixel * stride + dx) * x_place.pixel;
                            let tap =
                                weight.as_ptr().add((dy * kernel + dx) * weight_stride + channel);
                            sum = sum
                                .plus_product(V::load(x.as_ptr().add(at + channel)), V::load(tap));
                        }
                    }
                    let sum = if is_clamped { sum.relu6() } else { sum };
                    sum.store(self.out.at(line * place.line + pixel * place.pixel + channel));
                }
            }
        }
    }
}

/// The gradient of the weight: sums over each tap's inputs times the gradients of their outputs.
#[derive(Clone, Copy)]
pub struct TapGradients<'a> {
    /// The image with its border.
    pub x: &'a [f32],
    pub x_place: PixelLayout,
    /// Gradient of the sums: lines of pixels with the same channels.
    pub grad: &'a [f32],
    pub grad_place: PixelLayout,
    pub n_lines: usize,
    pub kernel: usize,
    pub stride: usize,
    pub channels: usize,
}

impl TapGradients<'_> {
    /// Adds the gradient to `sums`, `[kernel * kernel, channels]`.
    pub fn add_to(self, sums: &mut [f32]) {
        let Self { x, x_place, grad, grad_place, n_lines, kernel, stride, channels } = self;
        if n_lines == 0 || grad_place.width == 0 || channels == 0 {
            return;
        }
        let last_line = (n_lines - 1) * stride + kernel - 1;
        let last_pixel = (grad_place.width - 1) * stride + kernel - 1;
        assert!(channels <= x_place.pixel && channels <= grad_place.pixel);
        assert!(x.len() >= last_line * x_place.line + last_pixel * x_place.pixel + channels);
        let last = (n_lines - 1) * grad_place.line + (grad_place.width - 1) * grad_place.pixel;
        assert!(grad.len() >= last + channels && sums.len() == kernel * kernel * channels);
        run(channels, AddTapGradients { taps: self, sums: SharedOutput(sums.as_mut_ptr()) });
    }
}

struct AddTapGradients<'a> {
    taps: TapGradients<'a>,
    /// Borrowed exclusively.
    sums: SharedOutput,
}

impl Kernel for AddTapGradients<'_> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let n = self.taps.channels;
        let n_whole = n / V::N;
        // SAFETY: `TapGradients::add_to` checked the sizes.
        unsafe {
            for vector in 0..n_whole {
                self.channels::<V>(vector * V::N);
            }
            // Vectors must not overlap here, because no sum may be added twice.
            for channel in n_whole * V::N..n {
                self.channels::<[f32; 1]>(channel);
            }
        }
    }
}

impl AddTapGradients<'_> {
    /// # Safety
    /// The sizes must have been checked, and a whole vector of channels must exist from `channel`
    /// on.
    #[inline(always)]
    unsafe fn channels<V: Lanes>(&self, channel: usize) {
        for dy in 0..self.taps.kernel {
            // SAFETY: guaranteed by the caller.
            unsafe {
                match self.taps.kernel {
                    3 => self.taps_of::<V, 3>(dy, 0, channel),
                    5 => self.taps_of::<V, 5>(dy, 0, channel),
                    kernel => (0..kernel).for_each(|dx| self.taps_of::<V, 1>(dy, dx, channel)),
                }
            }
        }
    }

    /// Adds the gradient of `K` neighbouring taps.
    ///
    /// # Safety
    /// As for `channels`. The taps must exist.
    #[inline(always)]
    unsafe fn taps_of<V: Lanes, const K: usize>(&self, dy: usize, dx: usize, channel: usize) {
        let TapGradients { x, x_place, grad, grad_place, n_lines, kernel, stride, channels } =
            self.taps;
        // SAFETY: guaranteed by the caller.
        unsafe {
            let mut sums = [V::splat(0.0); K];
            for line in 0..n_lines {
                let mut seen = x
                    .as_ptr()
                    .add((line * stride + dy) * x_place.line + dx * x_place.pixel + channel);
                let mut slope = grad.as_ptr().add(line * grad_place.line + channel);
                for _ in 0..grad_place.width {
                    let by = V::load(slope);
                    for k in 0..K {
                        sums[k] = sums[k].plus_product(V::load(seen.add(k * x_place.pixel)), by);
                    }
                    seen = seen.wrapping_add(stride * x_place.pixel);
                    slope = slope.wrapping_add(grad_place.pixel);
                }
            }
            for k in 0..K {
                let to = self.sums.at((dy * kernel + dx + k) * channels + channel);
                sums[k].plus(V::load(to)).store(to);
            }
        }
    }
}
