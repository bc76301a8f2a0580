//! Rotary positions on a GPU.

use burn::tensor::{DType, Shape, Tensor};
use cubecl::prelude::*;

use super::launch::{ElementLaunch, launch};
use super::tensors::{contiguous, empty, wrap};

pub fn rotate(x: Tensor<3>, cos: Tensor<4>, sin: Tensor<4>, n_heads: usize) -> Tensor<4> {
    let [batch, seq, width] = x.dims();
    let [_, _, angles, half] = cos.dims();
    assert_eq!((width, angles), (n_heads * half * 2, seq));
    assert_eq!(sin.dims(), cos.dims());
    let (x, cos, sin) = (contiguous(x), contiguous(cos), contiguous(sin));
    let out = empty(&x, Shape::from([batch, n_heads, seq, half * 2]), DType::F32);
    let each = ElementLaunch::new(&x, batch * seq * width / 2);
    launch!(rotate_kernel<f32> on each.grid;
        x.into_buffer_arg(),
        cos.into_buffer_arg(),
        sin.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        seq,
        each.n,
        n_heads,
        half,
    );
    wrap(out)
}

/// Rotates the pairs `(x[i], x[i + half])` of every head by the angles of its position, one unit
/// per pair.
///
/// `[batch, seq, heads * 2 * half]` → `[batch, heads, seq, 2 * half]`; `cos` and `sin` are
/// `[seq, half]`.
#[cube(launch_unchecked)]
fn rotate_kernel<F: Float>(
    x: &[F],
    cos: &[F],
    sin: &[F],
    out: &mut [F],
    seq: usize,
    n_pairs: usize,
    #[comptime] n_heads: usize,
    #[comptime] half: usize,
) {
    if ABSOLUTE_POS < n_pairs {
        let i = ABSOLUTE_POS % half;
        let rest = ABSOLUTE_POS / half;
        let head = rest % n_heads;
        let row = rest / n_heads;
        let position = row % seq;
        let batch = row / seq;
        let from = (row * n_heads + head) * half * 2 + i;
        let to = ((batch * n_heads + head) * seq + position) * half * 2 + i;
        let angle = position * half + i;
        let first = x[from];
        let second = x[from + half];
        out[to] = first * cos[angle] - second * sin[angle];
        out[to + half] = second * cos[angle] + first * sin[angle];
    }
}
