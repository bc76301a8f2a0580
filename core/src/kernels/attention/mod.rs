//! Scaled dot-product attention.

use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Bool, Tensor};

use super::dispatch::dispatch;

/// `softmax(q k^T / sqrt(head_dim)) v` for every head, with the heads concatenated.
///
/// Grouped queries: each key and value head serves `heads / kv_heads` neighbouring query heads.
///
/// # Shapes
/// - q: `[batch, heads, seq_q, head_dim]`
/// - k, v: `[batch, kv_heads, seq_k, head_dim]`
/// - returns: `[batch, seq_q, heads * head_dim]`
pub(crate) fn attend(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, is_causal: bool) -> Tensor<3> {
    dispatch! {
        cpu [q, k, v] => attention::attend(q, k, v, is_causal);
        gpu if supports(&q, &k, &v) => attention::attend(q, k, v, is_causal);
    }
    let [batch, n_heads, seq_q, head_dim] = q.dims();
    let [_, n_kv_heads, seq_k, _] = k.dims();
    let group = n_heads / n_kv_heads;
    let side_by_side = |x: Tensor<4>| x.swap_dims(1, 2).reshape([batch, seq_q, n_heads * head_dim]);
    let options =
        AttentionModuleOptions { is_causal: is_causal && seq_q > 1, ..Default::default() };
    if group == 1 {
        return side_by_side(attention(q, k, v, None, None, options));
    }
    if seq_q == 1 {
        // One query sees all keys: its group takes the place of the query axis, without repeated
        // keys.
        let q = q.reshape([batch, n_kv_heads, group, head_dim]);
        return attention(q, k, v, None, None, options).reshape([batch, 1, n_heads * head_dim]);
    }
    let repeat = |x: Tensor<4>| {
        x.unsqueeze_dim::<5>(2)
            .expand([batch, n_kv_heads, group, seq_k, head_dim])
            .reshape([batch, n_heads, seq_k, head_dim])
    };
    side_by_side(attention(q, repeat(k), repeat(v), None, None, options))
}

/// [`attend`] on the rows of `[batch, seq, 3 * heads * head_dim]`: all heads of the queries first,
/// then the keys, then the values.
pub(crate) fn attend_packed(qkv: Tensor<3>, n_heads: usize, is_causal: bool) -> Tensor<3> {
    dispatch! {
        cpu [qkv] => attention::attend_packed(qkv, n_heads, is_causal);
        gpu if supports_packed(&qkv, n_heads) => attention::attend_packed(qkv, n_heads, is_causal);
    }
    let [q, k, v] = unpack(qkv, n_heads);
    attend(q, k, v, is_causal)
}

/// Splits a packed tensor into queries, keys and values, each `[batch, heads, seq, head_dim]`.
pub(crate) fn unpack(qkv: Tensor<3>, n_heads: usize) -> [Tensor<4>; 3] {
    let qkv = heads(qkv, 3 * n_heads);
    [0, 1, 2].map(|part| qkv.clone().narrow(1, part * n_heads, n_heads))
}

/// [`attend`] by Burn, with keys masked where `mask` (`[batch, heads, seq_q, seq_k]`) is true.
///
/// Every query head has its own key head.
pub(crate) fn attend_masked(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    is_causal: bool,
    mask: Tensor<4, Bool>,
) -> Tensor<3> {
    let [batch, n_heads, seq_q, head_dim] = q.dims();
    let options = AttentionModuleOptions { is_causal, ..Default::default() };
    let x = attention(q, k, v, Some(mask), None, options);
    x.swap_dims(1, 2).reshape([batch, seq_q, n_heads * head_dim])
}

/// `[batch, seq, heads * head_dim]` → `[batch, heads, seq, head_dim]`
pub(crate) fn heads(x: Tensor<3>, n_heads: usize) -> Tensor<4> {
    let [batch, seq, width] = x.dims();
    x.reshape([batch, seq, n_heads, width / n_heads]).swap_dims(1, 2)
}
