//! The choice of a token.

use burn::tensor::{DType, Int, Tensor};

use super::dispatch::dispatch;

/// The best token of each row of scores.
///
/// Returns its index on the device, `[batch, 1]`, and `[batch, 2]` for the host: the index and the
/// log of its softmax. The index is exact in f32, because a vocabulary is far below 2^24.
pub(crate) fn most_probable(logits: Tensor<2>) -> (Tensor<2, Int>, Tensor<2>) {
    dispatch! {
        cpu if supports(&logits) => most_probable::most_probable(logits);
        gpu [logits] => most_probable::most_probable(logits);
    }
    let logits = logits.cast(DType::F32);
    let best = logits.clone().argmax(1);
    let largest = logits.clone().gather(1, best.clone());
    let log_prob = -(logits - largest).exp().sum_dim(1).log();
    (best.clone(), Tensor::cat(vec![best.float().cast(DType::F32), log_prob], 1))
}
