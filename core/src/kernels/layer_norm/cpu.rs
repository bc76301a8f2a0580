//! Layer normalisation on the CPU.

use burn::tensor::{Shape, Tensor};

use super::node::{Input, run};
use super::rows;
use super::sums::{for_each_part, row_of};
use super::tensors::{from_values, into_contiguous};
use crate::vectors::vectorized;

pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    let epsilon = epsilon as f32;
    run(
        [Input::contiguous(x), Input::contiguous(gamma), Input::contiguous(beta)],
        |[x, gamma, beta]| {
            let (values, gamma, beta): (&[f32], &[f32], &[f32]) =
                (x.storage(), gamma.storage(), beta.storage());
            let mut out = vec![0.0; values.len()];
            rows::for_each(&mut out, gamma.len(), 4, |first, out| {
                let start = first * gamma.len();
                forward(&values[start..start + out.len()], gamma, beta, epsilon, out);
            });
            from_values(out, x.layout().shape().clone())
        },
        move |[x, gamma, _], grad, _| {
            let (x, gamma): (&[f32], &[f32]) = (x.storage(), gamma.storage());
            let width = gamma.len();
            let mut grad = into_contiguous(grad);
            let mut affine =
                for_each_part(grad.storage_mut(), width, 2 * width, |first, grad, sum| {
                    let x = &x[first * width..first * width + grad.len()];
                    backward(x, gamma, epsilon, grad, sum);
                });
            let beta_grad = affine.split_off(width);
            let vector = |values| Some(from_values(values, Shape::from([width])));
            [Some(grad), vector(affine), vector(beta_grad)]
        },
    )
}

vectorized! {
    /// `(x - mean(x)) / sqrt(var(x) + epsilon) * gamma + beta` for each row as wide as `gamma`.
    pub fn forward(x: &[f32], gamma: &[f32], beta: &[f32], epsilon: f32, out: &mut [f32]) {
        let width = gamma.len();
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let mean = row_of(width, |i| [x[i], 0.0, 0.0])[0] / width as f32;
            let [square, _, _] = row_of(width, |i| [(x[i] - mean) * (x[i] - mean), 0.0, 0.0]);
            let scale = 1.0 / (square / width as f32 + epsilon).sqrt();
            for i in 0..width {
                out[i] = (x[i] - mean) * scale * gamma[i] + beta[i];
            }
        }
    }

    /// Backward function of `(x - mean(x)) / sqrt(var(x) + epsilon) * gamma + beta`.
    ///
    /// Replaces `grad` by the gradient of `x`. Adds the gradients of `gamma` and `beta`,
    /// concatenated, to `affine_grad`.
    pub fn backward(x: &[f32], gamma: &[f32], epsilon: f32, grad: &mut [f32], affine_grad: &mut [f32]) {
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
}

#[cfg(test)]
mod tests {
    use super::super::testing::{
        LENGTHS, WIDTHS, check, check_slopes, narrow, numbers, slopes_inputs,
    };
    use super::*;

    #[test]
    fn a_layer_norm_has_the_mean_and_variance_it_is_told() {
        for width in LENGTHS {
            let (x, gamma) = (numbers(2 * width), numbers(width));
            let beta: Vec<f32> = gamma.iter().rev().copied().collect();
            let mut out = vec![0.0; x.len()];
            forward(&x, &gamma, &beta, 1e-5, &mut out);
            let row = |i: usize| x[i / width * width..][..width].iter().map(|x| f64::from(*x));
            let mean = |i: usize| row(i).sum::<f64>() / width as f64;
            let var = |i: usize| row(i).map(|x| (x - mean(i)).powi(2)).sum::<f64>() / width as f64;
            let normal = |i: usize| (f64::from(x[i]) - mean(i)) / (var(i) + 1e-5).sqrt();
            let wanted =
                |i: usize| normal(i) * f64::from(gamma[i % width]) + f64::from(beta[i % width]);
            check(&out, wanted, "layer_norm");
        }
    }

    #[test]
    fn gradients_are_slopes() {
        for width in WIDTHS {
            let n = 3 * width;
            let (x, gamma, beta) =
                (slopes_inputs(n, 1), slopes_inputs(width, 2), slopes_inputs(width, 4));
            let weight = slopes_inputs(n, 3);

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
            backward(&narrow(&x), &narrow(&gamma), 1e-1, &mut grad, &mut affine_grad);
            check_slopes(&grad, &x, &weight, |x| layer(x, &gamma, &beta), "layer_norm");
            check_slopes(
                &affine_grad[..width],
                &gamma,
                &weight,
                |gamma| layer(&x, gamma, &beta),
                "gamma",
            );
            check_slopes(
                &affine_grad[width..],
                &beta,
                &weight,
                |beta| layer(&x, &gamma, beta),
                "beta",
            );
        }
    }
}
