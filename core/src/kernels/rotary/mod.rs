//! Rotary positions (arXiv:2104.09864).

use burn::tensor::Tensor;

use super::attention::heads;
use super::dispatch::dispatch;

/// Rotates the pairs `(x[i], x[i + head_dim / 2])` of every head by the angles of its position.
///
/// This is Hugging Face's order of the pairs, not the interleaved one of the RoPE paper.
///
/// # Shapes
/// - x: `[batch, seq, heads * head_dim]`
/// - cos, sin: `[1, 1, seq, head_dim / 2]`
/// - returns: `[batch, heads, seq, head_dim]`
pub(crate) fn rotate(x: Tensor<3>, cos: Tensor<4>, sin: Tensor<4>, n_heads: usize) -> Tensor<4> {
    dispatch! {
        cpu [x, cos, sin] => rotary::rotate(x, cos, sin, n_heads);
        gpu [x, cos, sin] => rotary::rotate(x, cos, sin, n_heads);
    }
    let x = heads(x, n_heads);
    let half = x.dims()[3] / 2;
    let [cos, sin] = [cos, sin].map(|table| table.cast(x.dtype()));
    let (first, second) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
    Tensor::cat(
        vec![
            first.clone() * cos.clone() - second.clone() * sin.clone(),
            second * cos + first * sin,
        ],
        3,
    )
}
