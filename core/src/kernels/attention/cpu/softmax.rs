//! Softmax of a row of scores.

use crate::kernels::cpu::elementary::exp;
use crate::kernels::cpu::sums::row_of;
use crate::vectors::vectorized;

vectorized! {
    /// Softmax of `scale * x` in place.
    pub fn softmax(x: &mut [f32], scale: f32) {
        let mut largest = [f32::NEG_INFINITY; 16];
        let (lanes, rest) = x.as_chunks::<16>();
        for lane in lanes {
            for (largest, x) in largest.iter_mut().zip(lane) {
                *largest = if *x > *largest { *x } else { *largest };
            }
        }
        let largest = largest.iter().chain(rest).fold(f32::NEG_INFINITY, |a, b| a.max(*b));
        for x in x.iter_mut() {
            *x = exp((*x - largest) * scale);
        }
        let mut sums = [0f32; 16];
        let (lanes, rest) = x.as_chunks::<16>();
        for lane in lanes {
            for (sum, x) in sums.iter_mut().zip(lane) {
                *sum += x;
            }
        }
        let inverse = 1.0 / (sums.iter().sum::<f32>() + rest.iter().sum::<f32>());
        for x in x {
            *x *= inverse;
        }
    }

    /// Backward function of a softmax of `scale * x` with outputs `probs`: replaces `grad` by the
    /// gradient of `x`.
    pub fn softmax_backward(probs: &[f32], scale: f32, grad: &mut [f32]) {
        let [dot, _, _] = row_of(probs.len(), |i| [probs[i] * grad[i], 0.0, 0.0]);
        for (grad, prob) in grad.iter_mut().zip(probs) {
            *grad = (*grad - dot) * prob * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cpu::testing::{
        LENGTHS, WIDTHS, check, check_slopes, narrow, numbers, slopes_inputs,
    };

    #[test]
    fn a_softmax_is_its_formula() {
        for n in LENGTHS {
            let x = numbers(n);
            let sum: f64 = x.iter().map(|x| (f64::from(*x) * 0.5).exp()).sum();
            let mut found = x.clone();
            softmax(&mut found, 0.5);
            check(&found, |i| (f64::from(x[i]) * 0.5).exp() / sum, "softmax");
        }
    }

    #[test]
    fn the_gradient_of_a_softmax_is_its_slope() {
        for n in WIDTHS {
            let (x, weight) = (slopes_inputs(n, 1), slopes_inputs(n, 3));
            let f = |x: &[f64]| -> Vec<f64> {
                let sum: f64 = x.iter().map(|x| (x * 0.7).exp()).sum();
                x.iter().map(|x| (x * 0.7).exp() / sum).collect()
            };
            let mut grad = narrow(&weight);
            softmax_backward(&narrow(&f(&x)), 0.7, &mut grad);
            check_slopes(&grad, &x, &weight, f, "softmax");
        }
    }
}
