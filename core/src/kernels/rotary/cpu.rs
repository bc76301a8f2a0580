//! Rotary positions on the CPU.

use std::sync::Arc;

use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;

use super::node::{Input, constant, run_with};
use super::rows;
use super::sums::scale;
use super::tensors::{in_place, sizes};
use crate::kernels::attention::heads;
use crate::vectors::vectorized;

/// The tables are constants. The graph stores only them.
pub fn rotate(x: Tensor<3>, cos: Tensor<4>, sin: Tensor<4>, n_heads: usize) -> Tensor<4> {
    let head_dim = x.dims()[2] / n_heads;
    let (cos, sin) = (constant(cos), constant(sin));
    let rotated: Tensor<3> = run_with(
        [Input::view(x)],
        |[x]| rotate_rows(x, &cos, &sin, head_dim),
        |[x]| {
            let output = rotate_rows(x, &cos, &sin, head_dim);
            let (cos, sin) = (cos.clone(), sin.clone());
            let backward = move |grad, _: [bool; 1]| {
                let back = in_place(sin.clone(), |sin| scale(sin, -1.0));
                [Some(rotate_rows(grad, &cos, &back, head_dim))]
            };
            (output, Arc::new(backward))
        },
    );
    heads(rotated, n_heads)
}

fn rotate_rows(x: FlexTensor, cos: &FlexTensor, sin: &FlexTensor, head_dim: usize) -> FlexTensor {
    let [_, seq, width] = sizes(&x);
    let half = head_dim / 2;
    let (cos, sin): (&[f32], &[f32]) = (cos.storage(), sin.storage());
    in_place(x, |x| {
        rows::for_each(x, width, 4, |first, rows| {
            for (row, values) in rows.chunks_exact_mut(width).enumerate() {
                let at = (first + row) % seq * half;
                for head in values.chunks_exact_mut(head_dim) {
                    let (a, b) = head.split_at_mut(half);
                    rotate_pairs(a, b, &cos[at..at + half], &sin[at..at + half]);
                }
            }
        });
    })
}

vectorized! {
    /// Rotates the pairs `(first[i], second[i])` by the angles with these cosines and sines.
    pub fn rotate_pairs(first: &mut [f32], second: &mut [f32], cos: &[f32], sin: &[f32]) {
        for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::numbers;
    use super::*;

    #[test]
    fn a_turn_by_a_right_angle_swaps_the_pair() {
        let (mut a, mut b) = (numbers(17), vec![1.0; 17]);
        let before = a.clone();
        rotate_pairs(&mut a, &mut b, &[0.0; 17], &[1.0; 17]);
        assert!(a.iter().all(|a| *a == -1.0) && b == before);
    }
}
