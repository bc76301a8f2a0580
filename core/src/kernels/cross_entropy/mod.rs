//! The loss of captions.

use burn::tensor::{DType, Int, Tensor, TensorData, activation};

use super::dispatch::dispatch;

/// Mean of `-log softmax(logits)[target]` over the rows, in f32: `[n, classes]` → `[1]`.
pub(crate) fn cross_entropy(logits: Tensor<2>, targets: Vec<usize>) -> Tensor<1> {
    let logits = logits.cast(DType::F32);
    dispatch! { cpu if supports(&logits) => cross_entropy::cross_entropy(logits, targets); }
    let n = targets.len();
    let targets: Vec<i32> = targets.into_iter().map(|target| target as i32).collect();
    let targets = Tensor::<2, Int>::from_data(TensorData::new(targets, [n, 1]), &logits.device());
    -activation::log_softmax(logits, 1).gather(1, targets).mean()
}
