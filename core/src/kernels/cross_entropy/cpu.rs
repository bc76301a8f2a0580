//! The caption loss on the CPU, with its gradient.

use std::sync::Arc;

use burn::backend::flex::FlexTensor;
use burn::tensor::{Shape, Tensor};

use super::elementary::exp;
use super::most_probable::best_of;
use super::node::{Input, run_with};
use super::rows::{self, EXP_STEPS};
use super::sums::scale;
use super::tape::is_autodiff_cpu_f32;
use super::tensors::{from_values, in_place, sizes};
use crate::vectors::vectorized;

/// On autodiff devices only: training is the only caller.
pub fn supports(logits: &Tensor<2>) -> bool {
    is_autodiff_cpu_f32(logits)
}

pub fn cross_entropy(logits: Tensor<2>, targets: Vec<usize>) -> Tensor<1> {
    let forward = |logits: &FlexTensor, targets: &[usize]| {
        let [n, classes] = sizes(logits);
        let (values, log_sums) = (logits.storage::<f32>(), log_sums(logits.storage(), classes));
        let losses = targets.iter().enumerate().map(|(row, target)| {
            f64::from(log_sums[row]) - f64::from(values[row * classes + target])
        });
        let mean = (losses.sum::<f64>() / n as f64) as f32;
        (from_values(vec![mean], Shape::from([1])), log_sums)
    };
    run_with(
        [Input::contiguous(logits)],
        |[logits]| forward(&logits, &targets).0,
        |[saved]| {
            let (output, log_sums) = forward(&saved, &targets);
            let [n, classes] = sizes(&saved);
            let targets = targets.clone();
            let backward = move |grad: FlexTensor, _: [bool; 1]| {
                let factor = grad.storage::<f32>()[grad.layout().start_offset()] / n as f32;
                let probs = in_place(saved.clone(), |probs| {
                    rows::for_each(probs, classes, EXP_STEPS, |first, rows| {
                        for (nth, row) in rows.chunks_exact_mut(classes).enumerate() {
                            exponentials(row, log_sums[first + nth]);
                            row[targets[first + nth]] -= 1.0;
                            scale(row, factor);
                        }
                    });
                });
                [Some(probs)]
            };
            (output, Arc::new(backward))
        },
    )
}

/// The log of the sum of exponentials of each row.
fn log_sums(x: &[f32], width: usize) -> Vec<f32> {
    let mut out = vec![0.0; x.len() / width];
    rows::for_each(&mut out, 1, width * 8, |first, out| {
        for (out, x) in out.iter_mut().zip(x[first * width..].chunks_exact(width)) {
            let (_, log_prob) = best_of(x);
            *out = x.iter().copied().fold(f32::NEG_INFINITY, f32::max) - log_prob;
        }
    });
    out
}

vectorized! {
    /// `e^(x - log_sum)` in place.
    pub fn exponentials(x: &mut [f32], log_sum: f32) {
        for x in x {
            *x = exp(*x - log_sum);
        }
    }
}
