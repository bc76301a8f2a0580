//! The backward function of attention.

use rayon::prelude::*;

use super::softmax::softmax_backward;
use super::{Heads, MULTIPLICATIONS_PER_TASK, product, weights_of_head};
use crate::kernels::cpu::rows::{self, SharedOutput};

/// Destination of the gradient of queries, keys or values.
#[derive(Clone, Copy)]
struct Target {
    out: SharedOutput,
    /// Strides along batch, heads and seq.
    strides: [usize; 3],
}

impl Target {
    fn head(self, batch: usize, head: usize) -> (*mut f32, usize) {
        (self.out.at(batch * self.strides[0] + head * self.strides[1]), self.strides[2])
    }
}

/// Gradients of the queries, keys and values, each `[batch, seq, heads, head_dim]`.
///
/// `grad` is the gradient of the output of [`super::forward`].
pub fn gradients(q: &Heads, k: &Heads, v: &Heads, is_causal: bool, grad: &[f32]) -> [Vec<f32>; 3] {
    let mut grads = [q, k, v].map(|x| vec![0.0; x.shape.iter().product()]);
    let target = |grad: &mut Vec<f32>, [_, n_heads, seq, head_dim]: [usize; 4]| {
        let strides = [seq * n_heads * head_dim, head_dim, n_heads * head_dim];
        Target { out: SharedOutput(grad.as_mut_ptr()), strides }
    };
    let [q_grad, k_grad, v_grad] = &mut grads;
    let targets = [target(q_grad, q.shape), target(k_grad, k.shape), target(v_grad, v.shape)];
    // SAFETY: the buffers have these shapes, and each is borrowed exclusively.
    unsafe { write_gradients([q, k, v], is_causal, grad, targets) };
    grads
}

/// [`gradients`] for packed inputs with equal shapes, as one `[batch, seq, 3 * heads * head_dim]`.
pub fn packed_gradient(q: &Heads, k: &Heads, v: &Heads, is_causal: bool, grad: &[f32]) -> Vec<f32> {
    let [batch, n_heads, seq, head_dim] = q.shape;
    assert!(k.shape == q.shape && v.shape == q.shape);
    let width = n_heads * head_dim;
    let mut packed = vec![0.0; batch * seq * 3 * width];
    let out = SharedOutput(packed.as_mut_ptr());
    let targets = [0, 1, 2].map(|part| Target {
        out: SharedOutput(out.at(part * width)),
        strides: [seq * 3 * width, head_dim, 3 * width],
    });
    // SAFETY: three disjoint parts of one buffer of this shape, which is borrowed exclusively.
    unsafe { write_gradients([q, k, v], is_causal, grad, targets) };
    packed
}

/// Computes the attention weights again, which is cheaper than to store them.
///
/// # Safety
/// The targets must have room for the shapes of queries, keys and values. No other code may write
/// them meanwhile.
unsafe fn write_gradients(
    [q, k, v]: [&Heads; 3],
    is_causal: bool,
    grad: &[f32],
    [q_target, k_target, v_target]: [Target; 3],
) {
    let [batch, n_heads, seq_q, head_dim] = q.shape;
    let [_, n_kv_heads, seq_k, _] = k.shape;
    assert!(k.shape == v.shape && k.shape[0] == batch && k.shape[3] == head_dim && seq_k >= seq_q);
    let group = n_heads / n_kv_heads;
    let width = n_heads * head_dim;
    assert!(grad.len() == batch * seq_q * width);
    let scale = 1.0 / (head_dim as f32).sqrt();

    // Neighbouring heads share keys and values, so one task handles the whole group.
    let backward = |(weights, slopes): &mut (Vec<f32>, Vec<f32>), task: usize| {
        let (b, kv_head) = (task / n_kv_heads, task % n_kv_heads);
        let (k_head, v_head) = (k.head(b, kv_head), v.head(b, kv_head));
        weights.resize(seq_q * seq_k, 0.0);
        slopes.resize(seq_q * seq_k, 0.0);
        for (nth, head) in (kv_head * group..(kv_head + 1) * group).enumerate() {
            let q_head = q.head(b, head);
            let sizes = [seq_q, seq_k, head_dim];
            weights_of_head(
                (q_head, q.strides[2]),
                (k_head, k.strides[2]),
                sizes,
                is_causal,
                weights,
            );
            let grad_head = &grad[b * seq_q * width + head * head_dim..];
            let (weights, slopes, is_added) = (&weights[..], &mut slopes[..], nth > 0);
            // SAFETY: `head` checked slices of seq rows of head_dim, and the buffers hold seq_q ×
            // seq_k. The rows of `grad` are `width` apart. Only this task writes its heads of the
            // targets.
            unsafe {
                product(
                    [seq_k, head_dim, seq_q],
                    is_added,
                    v_target.head(b, kv_head),
                    (weights.as_ptr(), 1, seq_k),
                    (grad_head.as_ptr(), width, 1),
                );
                product(
                    [seq_q, seq_k, head_dim],
                    false,
                    (slopes.as_mut_ptr(), seq_k),
                    (grad_head.as_ptr(), width, 1),
                    (v_head.as_ptr(), 1, v.strides[2]),
                );
            }
            for (weights, slopes) in weights.chunks_exact(seq_k).zip(slopes.chunks_exact_mut(seq_k))
            {
                softmax_backward(weights, scale, slopes);
            }
            // SAFETY: as above.
            unsafe {
                product(
                    [seq_q, head_dim, seq_k],
                    false,
                    q_target.head(b, head),
                    (slopes.as_ptr(), seq_k, 1),
                    (k_head.as_ptr(), k.strides[2], 1),
                );
                product(
                    [seq_k, head_dim, seq_q],
                    is_added,
                    k_target.head(b, kv_head),
                    (slopes.as_ptr(), 1, seq_k),
                    (q_head.as_ptr(), q.strides[2], 1),
                );
            }
        }
    };
    let n_tasks = batch * n_kv_heads;
    if n_tasks * group * seq_q * seq_k * head_dim * 5 < MULTIPLICATIONS_PER_TASK
        || rows::is_single_threaded()
    {
        let mut buffers = (Vec::new(), Vec::new());
        (0..n_tasks).for_each(|task| backward(&mut buffers, task));
    } else {
        (0..n_tasks).into_par_iter().for_each_init(Default::default, backward);
    }
}
