//! Backward functions of the ops, on slices.
//!
//! `grad` is always the gradient of an op's output.

use rayon::prelude::*;

use super::elementwise::row_of;
use super::rows;
use super::vector::{erf, exp, sigmoid, vectorized};

/// Rows that one task sums. It is constant, so that the sums do not depend on the number of cores.
const ROWS_PER_SUM: usize = 256;

/// Sum of the rows of `[n, width]`: the gradient of a bias.
pub fn sum_rows(grad: &[f32], width: usize) -> Vec<f32> {
    let parts = grad.chunks(ROWS_PER_SUM * width).map(|rows| {
        let mut sum = vec![0.0; width];
        add_rows(rows, &mut sum);
        sum
    });
    add_up(parts, width)
}

/// Calls `work(first_row, rows, sum)` on parts of `grad`, each with its own `sum`, `[n_sums]`.
///
/// Returns the total of all sums.
pub fn for_each_part(
    grad: &mut [f32],
    width: usize,
    n_sums: usize,
    work: impl Fn(usize, &mut [f32], &mut [f32]) + Sync + Send,
) -> Vec<f32> {
    let on_part = |(part, rows): (usize, &mut [f32])| {
        let mut sum = vec![0.0; n_sums];
        work(part * ROWS_PER_SUM, rows, &mut sum);
        sum
    };
    let parts: Vec<Vec<f32>> = if rows::is_alone() {
        grad.chunks_mut(ROWS_PER_SUM * width).enumerate().map(on_part).collect()
    } else {
        grad.par_chunks_mut(ROWS_PER_SUM * width).enumerate().map(on_part).collect()
    };
    add_up(parts.into_iter(), n_sums)
}

fn add_up(parts: impl Iterator<Item = Vec<f32>>, n_sums: usize) -> Vec<f32> {
    let mut total = vec![0.0; n_sums];
    for part in parts {
        add_rows(&part, &mut total);
    }
    total
}

vectorized! {
    /// Adds each row of `rows` to `sum`.
    pub fn add_rows(rows: &[f32], sum: &mut [f32]) {
        for row in rows.chunks_exact(sum.len()) {
            for (sum, x) in sum.iter_mut().zip(row) {
                *sum += x;
            }
        }
    }

    /// Backward function of `x * Phi(x)`: replaces `grad` by the gradient of `x`.
    pub fn gelu(x: &[f32], grad: &mut [f32]) {
        // 1 / sqrt(2 pi)
        const DENSITY_AT_0: f32 = 0.398_942_3;
        for (grad, x) in grad.iter_mut().zip(x) {
            let cumulative = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
            *grad *= cumulative + x * DENSITY_AT_0 * exp(-0.5 * x * x);
        }
    }

    /// Backward function of `x * sigmoid(1.702 x)`: replaces `grad` by the gradient of `x`.
    pub fn quick_gelu(x: &[f32], grad: &mut [f32]) {
        for (grad, x) in grad.iter_mut().zip(x) {
            let s = sigmoid(1.702 * x);
            *grad *= s + 1.702 * x * s * (1.0 - s);
        }
    }

    /// Backward function of `min(max(x, 0), 6)`: replaces `grad` by the gradient of `x`.
    ///
    /// `x` may also be the output.
    pub fn relu6(x: &[f32], grad: &mut [f32]) {
        for (grad, x) in grad.iter_mut().zip(x) {
            *grad = if *x > 0.0 && *x < 6.0 { *grad } else { 0.0 };
        }
    }

    /// Backward function of `gate * sigmoid(gate) * up`: replaces `grad` by the gradient of `up`.
    pub fn silu_times(gate: &[f32], up: &[f32], grad: &mut [f32], gate_grad: &mut [f32]) {
        for (((gate, up), grad), gate_grad) in gate.iter().zip(up).zip(grad).zip(gate_grad) {
            let s = sigmoid(*gate);
            *gate_grad = *grad * up * (s + gate * s * (1.0 - s));
            *grad *= gate * s;
        }
    }

    /// Backward function of `x / sqrt(mean(x^2) + epsilon) * gamma`.
    ///
    /// Replaces `grad` by the gradient of `x` and adds that of `gamma` to `gamma_grad`.
    pub fn rms_norm(x: &[f32], gamma: &[f32], epsilon: f32, grad: &mut [f32], gamma_grad: &mut [f32]) {
        let width = gamma.len();
        for (x, grad) in x.chunks_exact(width).zip(grad.chunks_exact_mut(width)) {
            let [square, dot, _] = row_of(width, |i| [x[i] * x[i], grad[i] * gamma[i] * x[i], 0.0]);
            let scale = 1.0 / (square / width as f32 + epsilon).sqrt();
            let along = dot / width as f32 * scale * scale * scale;
            for i in 0..width {
                gamma_grad[i] += grad[i] * x[i] * scale;
                grad[i] = grad[i] * gamma[i] * scale - x[i] * along;
            }
        }
    }

    /// Backward function of `(x - mean(x)) / sqrt(var(x) + epsilon) * gamma + beta`.
    ///
    /// Replaces `grad` by the gradient of `x`. Adds the gradients of `gamma` and `beta`,
    /// concatenated, to `affine_grad`.
    pub fn layer_norm(x: &[f32], gamma: &[f32], epsilon: f32, grad: &mut [f32], affine_grad: &mut [f32]) {
        let width = gamma.len();
        let (gamma_grad, beta_grad) = affine_grad.split_at_mut(width);
        for (x, grad) in x.chunks_exact(width).zip(grad.chunks_exact_mut(width)) {
            let n = width as f32;
            let mean = row_of(width, |i| [x[i], 0.0, 0.0])[0] / n;
            let [square, sum, dot] = row_of(width, |i| {
                let (x, g) = (x[i] - mean, grad[i] * gamma[i]);
                [x * x, g, g * x]
            });
            let scale = 1.0 / (square / n + epsilon).sqrt();
            let (sum, along) = (sum / n, dot / n * scale * scale);
            for i in 0..width {
                let centred = x[i] - mean;
                gamma_grad[i] += grad[i] * centred * scale;
                beta_grad[i] += grad[i];
                grad[i] = (grad[i] * gamma[i] - sum - centred * along) * scale;
            }
        }
    }

    /// Backward function of a softmax of `scale * x` with outputs `probs`: replaces `grad` by the
    /// gradient of `x`.
    pub fn softmax(probs: &[f32], scale: f32, grad: &mut [f32]) {
        let [dot, _, _] = row_of(probs.len(), |i| [probs[i] * grad[i], 0.0, 0.0]);
        for (grad, prob) in grad.iter_mut().zip(probs) {
            *grad = (*grad - dot) * prob * scale;
        }
    }

    /// `e^(x - log_sum)` in place.
    pub fn exponentials(x: &mut [f32], log_sum: f32) {
        for x in x {
            *x = exp(*x - log_sum);
        }
    }

    /// Multiplies `x` by `factor`.
    pub fn scale(x: &mut [f32], factor: f32) {
        for x in x {
            *x *= factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: usize) -> Vec<f64> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f64 / 800.0 - 1.25).collect()
    }

    fn narrow(x: &[f64]) -> Vec<f32> {
        x.iter().map(|x| *x as f32).collect()
    }

    /// Compares a gradient with finite differences of `Σ weight · f(x)` in f64.
    fn check(found: &[f32], x: &[f64], weight: &[f64], f: impl Fn(&[f64]) -> Vec<f64>, what: &str) {
        let value = |x: &[f64]| f(x).iter().zip(weight).map(|(y, w)| y * w).sum::<f64>();
        for i in 0..x.len() {
            let (mut more, mut less) = (x.to_vec(), x.to_vec());
            more[i] += 1e-5;
            less[i] -= 1e-5;
            let wanted = (value(&more) - value(&less)) / 2e-5;
            let off = (f64::from(found[i]) - wanted).abs();
            assert!(
                off < 1e-4 * wanted.abs().max(1.0),
                "{what} at {i}: {}, wanted {wanted}",
                found[i]
            );
        }
    }

    /// Lengths with and without a remainder after whole vectors.
    const WIDTHS: [usize; 5] = [1, 3, 16, 17, 50];

    #[test]
    fn gradients_of_activations_are_their_slopes() {
        for n in WIDTHS {
            let (x, up, weight) = (numbers(n, 1), numbers(n, 2), numbers(n, 3));
            let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());

            let mut grad = narrow(&weight);
            quick_gelu(&narrow(&x), &mut grad);
            check(
                &grad,
                &x,
                &weight,
                |x| x.iter().map(|x| x * sigmoid(1.702 * x)).collect(),
                "quick_gelu",
            );

            let wide: Vec<f64> = x.iter().map(|x| x * 8.0 + 1e-3).collect();
            let mut grad = narrow(&weight);
            relu6(&narrow(&wide), &mut grad);
            check(
                &grad,
                &wide,
                &weight,
                |x| x.iter().map(|x| x.clamp(0.0, 6.0)).collect(),
                "relu6",
            );

            let (mut up_grad, mut gate_grad) = (narrow(&weight), vec![0.0; n]);
            silu_times(&narrow(&x), &narrow(&up), &mut up_grad, &mut gate_grad);
            let f = |gate: &[f64], up: &[f64]| -> Vec<f64> {
                gate.iter().zip(up).map(|(g, u)| g * sigmoid(*g) * u).collect()
            };
            check(&gate_grad, &x, &weight, |x| f(x, &up), "gate");
            check(&up_grad, &up, &weight, |up| f(&x, up), "up");

            // Phi by Simpson's rule from 0.
            let phi = |x: f64| {
                let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
                let at =
                    |i: usize| density(x * i as f64 / 200.0) * if i % 2 == 1 { 4.0 } else { 2.0 };
                0.5 + (density(0.0) + density(x) + (1..200).map(at).sum::<f64>()) * x / 600.0
            };
            let mut grad = narrow(&weight);
            gelu(&narrow(&x), &mut grad);
            check(&grad, &x, &weight, |x| x.iter().map(|x| x * phi(*x)).collect(), "gelu");
        }
    }

    #[test]
    fn gradients_of_norms_are_their_slopes() {
        for width in WIDTHS {
            let n = 3 * width;
            let (x, gamma, beta) = (numbers(n, 1), numbers(width, 2), numbers(width, 4));
            let weight = numbers(n, 3);

            let rms = |x: &[f64], gamma: &[f64]| -> Vec<f64> {
                let row = |x: &[f64]| {
                    let scale = (x.iter().map(|x| x * x).sum::<f64>() / width as f64 + 1e-1).sqrt();
                    x.iter().zip(gamma).map(|(x, g)| x / scale * g).collect::<Vec<f64>>()
                };
                x.chunks(width).flat_map(row).collect()
            };
            let (mut grad, mut gamma_grad) = (narrow(&weight), vec![0.0; width]);
            rms_norm(&narrow(&x), &narrow(&gamma), 1e-1, &mut grad, &mut gamma_grad);
            check(&grad, &x, &weight, |x| rms(x, &gamma), "rms_norm");
            check(&gamma_grad, &gamma, &weight, |gamma| rms(&x, gamma), "gamma of rms_norm");

            let layer = |x: &[f64], gamma: &[f64], beta: &[f64]| -> Vec<f64> {
                let row = |x: &[f64]| {
                    let mean = x.iter().sum::<f64>() / width as f64;
                    let var = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
                    let scale = (var + 1e-1).sqrt();
                    let affine = gamma.iter().zip(beta);
                    x.iter()
                        .zip(affine)
                        .map(|(x, (g, b))| (x - mean) / scale * g + b)
                        .collect::<Vec<f64>>()
                };
                x.chunks(width).flat_map(row).collect()
            };
            let (mut grad, mut affine_grad) = (narrow(&weight), vec![0.0; 2 * width]);
            layer_norm(&narrow(&x), &narrow(&gamma), 1e-1, &mut grad, &mut affine_grad);
            check(&grad, &x, &weight, |x| layer(x, &gamma, &beta), "layer_norm");
            check(&affine_grad[..width], &gamma, &weight, |gamma| layer(&x, gamma, &beta), "gamma");
            check(&affine_grad[width..], &beta, &weight, |beta| layer(&x, &gamma, beta), "beta");
        }
    }

    #[test]
    fn the_gradient_of_a_softmax_is_its_slope() {
        for n in WIDTHS {
            let (x, weight) = (numbers(n, 1), numbers(n, 3));
            let f = |x: &[f64]| -> Vec<f64> {
                let sum: f64 = x.iter().map(|x| (x * 0.7).exp()).sum();
                x.iter().map(|x| (x * 0.7).exp() / sum).collect()
            };
            let mut grad = narrow(&weight);
            softmax(&narrow(&f(&x)), 0.7, &mut grad);
            check(&grad, &x, &weight, f, "softmax");
        }
    }

    #[test]
    fn a_sum_of_rows_of_any_number_is_the_sum() {
        for (n, width) in [(1, 3), (2, 17), (256, 5), (257, 5), (1000, 33)] {
            let x = numbers(n * width, 1);
            let found = sum_rows(&narrow(&x), width);
            for (column, found) in found.iter().enumerate() {
                let wanted: f64 = (0..n).map(|row| x[row * width + column]).sum();
                assert!((f64::from(*found) - wanted).abs() < 1e-5 * n as f64, "{n}×{width}");
            }
        }
    }
}
