//! The choice of a token on the CPU.

use burn::tensor::{Int, Shape, Tensor, TensorData};

use super::elementary::exp;
use super::tensors::{contiguous, from_values, is_plain_cpu_f32, wrap};
use crate::vectors::vectorized;

/// Without autodiff only, because a choice has no gradient.
pub fn supports(logits: &Tensor<2>) -> bool {
    is_plain_cpu_f32(logits)
}

pub fn most_probable(logits: Tensor<2>) -> (Tensor<2, Int>, Tensor<2>) {
    let device = logits.device();
    let [batch, vocab_size] = logits.dims();
    let logits = contiguous(logits);
    let logits: &[f32] = logits.storage();
    let best: Vec<(usize, f32)> = logits.chunks_exact(vocab_size).map(best_of).collect();
    let ids: Vec<i64> = best.iter().map(|(id, _)| *id as i64).collect();
    let choices: Vec<f32> =
        best.iter().flat_map(|(id, log_prob)| [*id as f32, *log_prob]).collect();
    (
        Tensor::from_data(TensorData::new(ids, [batch, 1]), &device),
        wrap(from_values(choices, Shape::from([batch, 2]))),
    )
}

/// Index of the largest score (the first of equal ones) and the log of its softmax.
pub fn best_of(scores: &[f32]) -> (usize, f32) {
    let mut best = 0;
    for (i, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = i;
        }
    }
    let mut sum = 0.0;
    sum_of_exponentials(scores, scores[best], &mut sum);
    (best, -sum.ln())
}

vectorized! {
    /// The sum of `e^(x - largest)`.
    pub fn sum_of_exponentials(x: &[f32], largest: f32, sum: &mut f32) {
        let mut sums = [0f32; 16];
        let (lanes, rest) = x.as_chunks::<16>();
        for lane in lanes {
            for (sum, x) in sums.iter_mut().zip(lane) {
                *sum += exp(x - largest);
            }
        }
        *sum = sums.iter().sum::<f32>() + rest.iter().map(|x| exp(x - largest)).sum::<f32>();
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{LENGTHS, check, numbers};
    use super::*;

    #[test]
    fn the_choice_is_the_largest_score_with_its_log_probability() {
        for n in LENGTHS {
            let x = numbers(n);
            let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let (best, log_prob) = best_of(&x);
            assert!(x[best] == largest && x[..best].iter().all(|x| *x < largest));
            let sum: f64 = x.iter().map(|x| f64::from(*x).exp()).sum();
            check(&[log_prob], |_| f64::from(largest) - sum.ln(), "log probability");
        }
    }

    #[test]
    fn the_first_is_chosen_if_all_scores_are_nan() {
        let (best, log_prob) = best_of(&[f32::NAN; 3]);
        assert!(best == 0 && log_prob.is_nan());
    }
}
