//! Scaled dot-product attention, one head after the other, on views.

use rayon::prelude::*;

use super::elementwise::softmax;

/// Multiplications that pay for more than one core.
const MULTIPLICATIONS_PER_TASK: usize = 128 * 1024;

/// Queries, keys or values: `[batch, heads, seq, head_dim]` somewhere in a buffer. The elements of a
/// head's vector are neighbours.
pub struct Heads<'a> {
    /// From the first element on.
    pub values: &'a [f32],
    /// `[batch, heads, seq, head_dim]`
    pub shape: [usize; 4],
    /// Distances of neighbours along batch, heads and seq.
    pub strides: [usize; 3],
}

impl<'a> Heads<'a> {
    /// A view that stays inside its buffer.
    fn head(&self, batch: usize, head: usize) -> &'a [f32] {
        let [_, _, seq, head_dim] = self.shape;
        let start = batch * self.strides[0] + head * self.strides[1];
        &self.values[start..start + (seq - 1) * self.strides[2] + head_dim]
    }
}

/// Where a task writes; tasks write apart.
#[derive(Clone, Copy)]
struct Out(*mut f32);

// SAFETY: see `attend`: no two tasks write the same element.
unsafe impl Send for Out {}
// SAFETY: the same.
unsafe impl Sync for Out {}

impl Out {
    fn at(self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}

/// `softmax(q k^T / sqrt(head_dim)) v`, the heads side by side: `[batch, seq_q, heads * head_dim]`.
///
/// Each head of `k` and `v` serves `heads / kv_heads` neighbouring ones of `q`. With `is_causal` a query
/// sees the keys up to its own place, counted from the end.
pub fn attend(q: &Heads, k: &Heads, v: &Heads, is_causal: bool) -> Vec<f32> {
    let [batch, n_heads, seq_q, head_dim] = q.shape;
    let [_, n_kv_heads, seq_k, _] = k.shape;
    assert!(k.shape == v.shape && k.shape[0] == batch && k.shape[3] == head_dim && seq_k >= seq_q);
    let group = n_heads / n_kv_heads;
    let width = n_heads * head_dim;
    let mut out = vec![0.0; batch * seq_q * width];
    let target = Out(out.as_mut_ptr());

    let attend_head = |scores: &mut Vec<f32>, task: usize| {
        let (b, head) = (task / n_heads, task % n_heads);
        let (q_head, k_head, v_head) = (q.head(b, head), k.head(b, head / group), v.head(b, head / group));
        scores.resize(seq_q * seq_k, 0.0);
        // SAFETY: `head` took slices that hold seq rows of head_dim; scores hold seq_q × seq_k.
        unsafe {
            product(
                [seq_q, seq_k, head_dim],
                (scores.as_mut_ptr(), seq_k),
                (q_head.as_ptr(), q.strides[2]),
                (k_head.as_ptr(), 1, k.strides[2]),
            );
        }
        let scale = 1.0 / (head_dim as f32).sqrt();
        for (i, row) in scores.chunks_exact_mut(seq_k).enumerate() {
            let n_seen = if is_causal { seq_k - seq_q + i + 1 } else { seq_k };
            softmax(&mut row[..n_seen], scale);
            row[n_seen..].fill(0.0);
        }
        // SAFETY: this head's columns of this batch's rows, which no other task writes.
        unsafe {
            product(
                [seq_q, head_dim, seq_k],
                (target.at(b * seq_q * width + head * head_dim), width),
                (scores.as_ptr(), seq_k),
                (v_head.as_ptr(), v.strides[2], 1),
            );
        }
    };

    let n_tasks = batch * n_heads;
    if n_tasks * seq_q * seq_k * head_dim * 2 < MULTIPLICATIONS_PER_TASK {
        let mut scores = Vec::new();
        (0..n_tasks).for_each(|task| attend_head(&mut scores, task));
    } else {
        (0..n_tasks).into_par_iter().for_each_init(Vec::new, attend_head);
    }
    out
}

/// `out = a @ b` for sizes `[n, m, depth]`; rows of `out` and `a` lie so far apart, and `b` has a distance
/// along its depth and along its columns.
///
/// # Safety
/// Each pointer must reach as many elements as the sizes say, and `out` be written by no one else.
unsafe fn product(
    [n, m, depth]: [usize; 3],
    (out, out_stride): (*mut f32, usize),
    (a, a_stride): (*const f32, usize),
    (b, b_depth_stride, b_column_stride): (*const f32, usize, usize),
) {
    // SAFETY: the caller's.
    unsafe {
        gemm::gemm(
            n,
            m,
            depth,
            out,
            1,
            out_stride as isize,
            false,
            a,
            1,
            a_stride as isize,
            b,
            b_column_stride as isize,
            b_depth_stride as isize,
            0.0,
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

    /// `[batch, seq, heads, head_dim]` in memory, seen as heads.
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
        let found = attend(&heads(&q, q_shape), &heads(&k, k_shape), &heads(&v, k_shape), is_causal);
        for (place, found) in found.iter().enumerate() {
            let (d, h) = (place % head_dim, place / head_dim % n_heads);
            let (i, b) = (place / head_dim / n_heads % seq_q, place / head_dim / n_heads / seq_q);
            let kv = h / (n_heads / n_kv_heads);
            let key = |j: usize, d: usize| ((b * seq_k + j) * n_kv_heads + kv) * head_dim + d;
            let query = |d: usize| f64::from(q[((b * seq_q + i) * n_heads + h) * head_dim + d]);
            let seen = if is_causal { seq_k - seq_q + i + 1 } else { seq_k };
            let dot = |j: usize| (0..head_dim).map(|d| query(d) * f64::from(k[key(j, d)])).sum::<f64>();
            let weights: Vec<f64> = (0..seen).map(|j| (dot(j) / (head_dim as f64).sqrt()).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let wanted = (0..seen).map(|j| weights[j] / sum * f64::from(v[key(j, d)])).sum::<f64>();
            assert!((f64::from(*found) - wanted).abs() < 1e-5, "{q_shape:?}: {found}, wanted {wanted}");
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
