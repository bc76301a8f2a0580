//! Padding of images, and the buffers of a core.

use std::cell::Cell;
use std::ops::Range;

use crate::kernels::convolution::same_padding;
use crate::kernels::cpu::rows::SharedOutput;

thread_local! {
    pub static WIDE: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    pub static MIXED: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Runs `work` on a buffer of this thread. The buffer keeps its old contents between calls.
pub fn with_buffer(
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
pub unsafe fn written(n: usize, write: impl FnOnce(SharedOutput)) -> Vec<f32> {
    let mut values = Vec::with_capacity(n);
    write(SharedOutput(values.as_mut_ptr()));
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
    pub fn split(&self, first: usize, n: usize) -> (usize, Range<usize>) {
        let start = first * self.stride;
        let end = (start + self.seen(n)).saturating_sub(self.before).min(self.n_in);
        let begin = start.saturating_sub(self.before).min(end);
        (self.before.saturating_sub(start), begin..end)
    }
}

/// Clears the border of an image in a buffer: the lines outside of `inside`, and in the other lines
/// all but the `width` floats after `left`.
pub fn clear_border(
    buffer: &mut [f32],
    line: usize,
    inside: Range<usize>,
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

/// Sizes of a batch of images: `[batch, height, width, channels]`.
pub type Sizes = [usize; 4];

#[cfg(test)]
mod tests {
    use super::*;

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
