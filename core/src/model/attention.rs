//! The one place that calls Burn's scaled dot-product attention.

use burn::tensor::{Tensor, module::attention, ops::AttentionModuleOptions};

/// `softmax(q k^T / sqrt(head_dim)) v` for every head.
///
/// # Shapes
/// - q: `[batch, heads, seq_q, head_dim]`
/// - k, v: `[batch, heads, seq_k, head_dim]`
/// - returns: `[batch, heads, seq_q, head_dim]`
pub(super) fn attend(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, is_causal: bool) -> Tensor<4> {
    let options = AttentionModuleOptions { is_causal, ..Default::default() };
    attention(q, k, v, None, None, options)
}
