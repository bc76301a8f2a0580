//! Scaled dot-product attention on the CPU: on views, head by head.

mod gradient;
mod softmax;

use burn::backend::flex::FlexTensor;
use burn::tensor::{Shape, Tensor};

use super::node::{Input, run};
use super::rows::{self, SharedOutput};
use super::tensors::{from_first, from_values, sizes, strided};
use gradient::{gradients, packed_gradient};
use softmax::softmax;

/// Multiplications that make more than one core worthwhile.
const MULTIPLICATIONS_PER_TASK: usize = 128 * 1024;

pub fn attend(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, is_causal: bool) -> Tensor<3> {
    run(
        [q, k, v].map(|x| Input::view(x).with(with_contiguous_rows)),
        |inputs| {
            let [q, k, v] = inputs.each_ref().map(Heads::of);
            attended(&q, &k, &v, is_causal)
        },
        move |saved, grad, _| {
            let grad = grad.to_contiguous();
            let [q, k, v] = saved.each_ref().map(Heads::of);
            let mut grads = gradients(&q, &k, &v, is_causal, grad.storage()).into_iter();
            saved.each_ref().map(|x| {
                let [_, n_heads, seq, head_dim] = sizes(x);
                let strides =
                    [seq * n_heads * head_dim, head_dim, n_heads * head_dim, 1].map(|n| n as isize);
                let grad = grads.next().expect("one gradient per input");
                Some(strided(grad, x.layout().shape().clone(), strides.to_vec()))
            })
        },
    )
}

pub fn attend_packed(qkv: Tensor<3>, n_heads: usize, is_causal: bool) -> Tensor<3> {
    run(
        [Input::contiguous(qkv)],
        |[qkv]| {
            let [q, k, v] = parts(&qkv, n_heads);
            attended(&q, &k, &v, is_causal)
        },
        move |[qkv], grad, _| {
            let grad = grad.to_contiguous();
            let [q, k, v] = parts(qkv, n_heads);
            let packed = packed_gradient(&q, &k, &v, is_causal, grad.storage());
            [Some(from_values(packed, qkv.layout().shape().clone()))]
        },
    )
}

fn attended(q: &Heads, k: &Heads, v: &Heads, is_causal: bool) -> FlexTensor {
    let [batch, n_heads, seq_q, head_dim] = q.shape;
    from_values(forward(q, k, v, is_causal), Shape::from([batch, seq_q, n_heads * head_dim]))
}

/// Views of the queries, keys and values of a packed tensor.
fn parts(qkv: &FlexTensor, n_heads: usize) -> [Heads<'_>; 3] {
    let [batch, seq, three_widths] = [0, 1, 2].map(|axis| qkv.layout().shape()[axis]);
    let width = three_widths / 3;
    let head_dim = width / n_heads;
    let values: &[f32] = qkv.storage();
    [0, 1, 2].map(|part| Heads {
        values: &values[part * width..],
        shape: [batch, n_heads, seq, head_dim],
        strides: [seq * three_widths, head_dim, three_widths],
    })
}

/// A view whose last axis is contiguous; copies the tensor if it is not.
fn with_contiguous_rows(x: FlexTensor) -> FlexTensor {
    let strides = x.layout().strides();
    if strides[3] == 1 && strides.iter().all(|stride| *stride >= 0) { x } else { x.to_contiguous() }
}

/// A view of queries, keys or values in a buffer: `[batch, heads, seq, head_dim]`.
///
/// The elements of a head's vector are adjacent.
struct Heads<'a> {
    /// The buffer from the view's first element on.
    values: &'a [f32],
    /// `[batch, heads, seq, head_dim]`
    shape: [usize; 4],
    /// Strides along batch, heads and seq.
    strides: [usize; 3],
}

impl<'a> Heads<'a> {
    fn of(x: &'a FlexTensor) -> Self {
        let strides = x.layout().strides();
        Self {
            values: from_first(x),
            shape: sizes(x),
            strides: [0, 1, 2].map(|axis| strides[axis] as usize),
        }
    }

    /// The buffer of one head, checked against the buffer's bounds.
    fn head(&self, batch: usize, head: usize) -> &'a [f32] {
        let [_, _, seq, head_dim] = self.shape;
        let start = batch * self.strides[0] + head * self.strides[1];
        &self.values[start..start + (seq - 1) * self.strides[2] + head_dim]
    }
}

/// `softmax(q k^T / sqrt(head_dim)) v` with concatenated heads: `[batch, seq_q, heads * head_dim]`.
///
/// Each head of `k` and `v` serves `heads / kv_heads` neighbouring heads of `q`. With `is_causal`,
/// a query sees the keys up to its own position, counted from the end.
fn forward(q: &Heads, k: &Heads, v: &Heads, is_causal: bool) -> Vec<f32> {
    let [batch, n_heads, seq_q, head_dim] = q.shape;
    let [_, n_kv_heads, seq_k, _] = k.shape;
    assert!(k.shape == v.shape && k.shape[0] == batch && k.shape[3] == head_dim && seq_k >= seq_q);
    let group = n_heads / n_kv_heads;
    let width = n_heads * head_dim;
    let mut out = vec![0.0; batch * seq_q * width];
    let target = SharedOutput(out.as_mut_ptr());

    let attend_head = |task: usize| {
        let (b, head) = (task / n_heads, task % n_heads);
        let (q_head, k_head, v_head) =
            (q.head(b, head), k.head(b, head / group), v.head(b, head / group));
        let mut scores = vec![0.0; seq_q * seq_k];
        weights_of_head(
            (q_head, q.strides[2]),
            (k_head, k.strides[2]),
            [seq_q, seq_k, head_dim],
            is_causal,
            &mut scores,
        );
        // SAFETY: only this task writes this head's columns in the rows of this batch element.
        unsafe {
            product(
                [seq_q, head_dim, seq_k],
                false,
                (target.at(b * seq_q * width + head * head_dim), width),
                (scores.as_ptr(), seq_k, 1),
                (v_head.as_ptr(), v.strides[2], 1),
            );
        }
    };

    let n_tasks = batch * n_heads;
    if n_tasks * seq_q * seq_k * head_dim * 2 < MULTIPLICATIONS_PER_TASK {
        (0..n_tasks).for_each(attend_head);
    } else {
        rows::for_each_of(n_tasks, attend_head);
    }
    out
}

/// `softmax(q k^T / sqrt(head_dim))` of one head, `[seq_q, seq_k]`. Masked keys get weight 0.
///
/// `q` and `k` come with their row strides.
fn weights_of_head(
    (q, q_stride): (&[f32], usize),
    (k, k_stride): (&[f32], usize),
    [seq_q, seq_k, head_dim]: [usize; 3],
    is_causal: bool,
    weights: &mut [f32],
) {
    assert!(
        q.len() >= (seq_q - 1) * q_stride + head_dim
            && k.len() >= (seq_k - 1) * k_stride + head_dim
    );
    assert!(weights.len() == seq_q * seq_k);
    // SAFETY: the sizes were just checked.
    unsafe {
        product(
            [seq_q, seq_k, head_dim],
            false,
            (weights.as_mut_ptr(), seq_k),
            (q.as_ptr(), q_stride, 1),
            (k.as_ptr(), 1, k_stride),
        );
    }
    let scale = 1.0 / (head_dim as f32).sqrt();
    for (i, row) in weights.chunks_exact_mut(seq_k).enumerate() {
        let n_seen = if is_causal { seq_k - seq_q + i + 1 } else { seq_k };
        softmax(&mut row[..n_seen], scale);
        row[n_seen..].fill(0.0);
    }
}

/// `out = a @ b` for sizes `[n, m, depth]`, or `out += a @ b`.
///
/// `out` has a row stride; `a` and `b` have a row stride and a column stride.
///
/// # Safety
/// Each pointer must be valid for the elements that the sizes imply. No other code may write `out`
/// meanwhile.
unsafe fn product(
    [n, m, depth]: [usize; 3],
    is_added: bool,
    (out, out_stride): (*mut f32, usize),
    (a, a_row_stride, a_column_stride): (*const f32, usize, usize),
    (b, b_row_stride, b_column_stride): (*const f32, usize, usize),
) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        gemm::gemm(
            n,
            m,
            depth,
            out,
            1,
            out_stride as isize,
            is_added,
            a,
            a_column_stride as isize,
            a_row_stride as isize,
            b,
            b_column_stride as isize,
            b_row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 500.0 - 2.0).collect()
    }

    /// A view as heads of `[batch, seq, heads, head_dim]` in memory.
    fn heads(values: &[f32], [batch, n, seq, head_dim]: [usize; 4]) -> Heads<'_> {
        let strides = [seq * n * head_dim, head_dim, n * head_dim];
        Heads { values, shape: [batch, n, seq, head_dim], strides }
    }

    fn check(
        [batch, n_heads, n_kv_heads]: [usize; 3],
        [seq_q, seq_k, head_dim]: [usize; 3],
        is_causal: bool,
    ) {
        let q_shape = [batch, n_heads, seq_q, head_dim];
        let k_shape = [batch, n_kv_heads, seq_k, head_dim];
        let (q, k, v) = (
            numbers(q_shape.iter().product(), 1),
            numbers(k_shape.iter().product(), 2),
            numbers(k_shape.iter().product(), 3),
        );
        let found =
            forward(&heads(&q, q_shape), &heads(&k, k_shape), &heads(&v, k_shape), is_causal);
        for (place, found) in found.iter().enumerate() {
            let (d, h) = (place % head_dim, place / head_dim % n_heads);
            let (i, b) = (place / head_dim / n_heads % seq_q, place / head_dim / n_heads / seq_q);
            let kv = h / (n_heads / n_kv_heads);
            let key = |j: usize, d: usize| ((b * seq_k + j) * n_kv_heads + kv) * head_dim + d;
            let query = |d: usize| f64::from(q[((b * seq_q + i) * n_heads + h) * head_dim + d]);
            let seen = if is_causal { seq_k - seq_q + i + 1 } else { seq_k };
            let dot =
                |j: usize| (0..head_dim).map(|d| query(d) * f64::from(k[key(j, d)])).sum::<f64>();
            let weights: Vec<f64> =
                (0..seen).map(|j| (dot(j) / (head_dim as f64).sqrt()).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let wanted = (0..seen).map(|j| weights[j] / sum * f64::from(v[key(j, d)])).sum::<f64>();
            assert!(
                (f64::from(*found) - wanted).abs() < 1e-5,
                "{q_shape:?}: {found}, wanted {wanted}"
            );
        }
    }

    /// Compares gradients with finite differences of `Σ weight · attend(q, k, v)`.
    fn check_gradients(
        [batch, n_heads, n_kv_heads]: [usize; 3],
        [seq_q, seq_k, head_dim]: [usize; 3],
    ) {
        let kv_shape = [batch, n_kv_heads, seq_k, head_dim];
        let shapes = [[batch, n_heads, seq_q, head_dim], kv_shape, kv_shape];
        let mut inputs = [0, 1, 2].map(|i: usize| numbers(shapes[i].iter().product(), i + 1));
        let weight = numbers(shapes[0].iter().product(), 4);
        for is_causal in [false, true] {
            let value = |x: &[Vec<f32>; 3]| {
                let [q, k, v] = [0, 1, 2].map(|i: usize| heads(&x[i], shapes[i]));
                let out = forward(&q, &k, &v, is_causal);
                out.iter().zip(&weight).map(|(y, w)| f64::from(*y) * f64::from(*w)).sum::<f64>()
            };
            let [q, k, v] = [0, 1, 2].map(|i: usize| heads(&inputs[i], shapes[i]));
            let found = gradients(&q, &k, &v, is_causal, &weight);
            for input in 0..3 {
                for at in 0..inputs[input].len() {
                    let here = inputs[input][at];
                    let mut at_step = |step: f32| {
                        inputs[input][at] = here + step;
                        value(&inputs)
                    };
                    let wanted = (at_step(0.01) - at_step(-0.01)) / 0.02;
                    inputs[input][at] = here;
                    let off = (f64::from(found[input][at]) - wanted).abs();
                    assert!(
                        off < 5e-3 * wanted.abs().max(1.0),
                        "{input} at {at}: {off} off {wanted}"
                    );
                }
            }
        }
    }

    #[test]
    fn gradients_of_attention_are_its_slopes() {
        check_gradients([1, 1, 1], [1, 1, 2]);
        check_gradients([2, 3, 3], [5, 5, 7]);
        check_gradients([2, 4, 2], [3, 3, 4]);
        check_gradients([1, 2, 1], [2, 5, 3]);
    }

    #[test]
    fn a_packed_gradient_is_the_three_side_by_side() {
        let (batch, n, seq, head_dim) = (2, 3, 5, 4);
        let width = n * head_dim;
        let packed = numbers(batch * seq * 3 * width, 1);
        let part = |at: usize| Heads {
            values: &packed[at * width..],
            shape: [batch, n, seq, head_dim],
            strides: [seq * 3 * width, head_dim, 3 * width],
        };
        let [q, k, v] = [part(0), part(1), part(2)];
        let grad = numbers(batch * seq * width, 2);
        let apart = gradients(&q, &k, &v, false, &grad);
        let together = packed_gradient(&q, &k, &v, false, &grad);
        for (row, together) in together.chunks(3 * width).enumerate() {
            let wanted: Vec<f32> = apart
                .iter()
                .flat_map(|part| part[row * width..(row + 1) * width].to_vec())
                .collect();
            assert_eq!(together, wanted);
        }
    }

    #[test]
    fn attention_of_any_shape_is_the_weighted_mean() {
        check([1, 1, 1], [1, 1, 2], false);
        check([2, 3, 3], [5, 5, 7], false);
        check([1, 4, 2], [1, 9, 16], false);
        check([2, 4, 1], [6, 6, 8], true);
        check([1, 2, 2], [3, 7, 5], true);
        check([3, 8, 8], [33, 33, 32], true);
        check([2, 12, 12], [50, 50, 64], false);
    }
}
