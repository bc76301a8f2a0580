//! RMSNorm on the CPU.

use burn::tensor::{Shape, Tensor};

use super::node::{Input, run};
use super::rows;
use super::sums::{for_each_part, row_of};
use super::tensors::{from_values, into_contiguous};
use crate::vectors::vectorized;

pub fn rms_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let epsilon = epsilon as f32;
    run(
        [Input::contiguous(x), Input::contiguous(gamma)],
        |[x, gamma]| {
            let (values, gamma): (&[f32], &[f32]) = (x.storage(), gamma.storage());
            let mut out = vec![0.0; values.len()];
            rows::for_each(&mut out, gamma.len(), 2, |first, out| {
                let start = first * gamma.len();
                forward(&values[start..start + out.len()], gamma, epsilon, out);
            });
            from_values(out, x.layout().shape().clone())
        },
        move |[x, gamma], grad, _| {
            let (x, gamma): (&[f32], &[f32]) = (x.storage(), gamma.storage());
            let width = gamma.len();
            let mut grad = into_contiguous(grad);
            let gamma_grad = for_each_part(grad.storage_mut(), width, width, |first, grad, sum| {
                let x = &x[first * width..first * width + grad.len()];
                backward(x, gamma, epsilon, grad, sum);
            });
            [Some(grad), Some(from_values(gamma_grad, Shape::from([width])))]
        },
    )
}

vectorized! {
    /// `x / sqrt(mean(x^2) + epsilon) * gamma` for each row as wide as `gamma`.
    pub fn forward(x: &[f32], gamma: &[f32], epsilon: f32, out: &mut [f32]) {
        let width = gamma.len();
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let [square, _, _] = row_of(width, |i| [x[i] * x[i], 0.0, 0.0]);
            let scale = 1.0 / (square / width as f32 + epsilon).sqrt();
            for ((out, x), gamma) in out.iter_mut().zip(x).zip(gamma) {
                *out = x * scale * gamma;
            }
        }
    }

    /// Backward function of `x / sqrt(mean(x^2) + epsilon) * gamma`.
    ///
    /// Replaces `grad` by the gradient of `x` and adds that of `gamma` to `gamma_grad`.
    pub fn backward(x: &[f32], gamma: &[f32], epsilon: f32, grad: &mut [f32], gamma_grad: &mut [f32]) {
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
}

#[cfg(test)]
mod tests {
    use super::super::testing::{
        LENGTHS, WIDTHS, check, check_slopes, narrow, numbers, slopes_inputs,
    };
    use super::*;

    #[test]
    fn a_norm_divides_each_row_by_its_root_mean_square() {
        for width in LENGTHS {
            let (x, gamma) = (numbers(3 * width), numbers(width));
            let mut out = vec![0.0; x.len()];
            forward(&x, &gamma, 1e-5, &mut out);
            let square = |row: usize| {
                x[row * width..(row + 1) * width].iter().map(|x| f64::from(*x).powi(2)).sum::<f64>()
            };
            let scale = |row: usize| 1.0 / (square(row) / width as f64 + 1e-5).sqrt();
            check(
                &out,
                |i| f64::from(x[i]) * scale(i / width) * f64::from(gamma[i % width]),
                "rms_norm",
            );
        }
    }

    #[test]
    fn gradients_are_slopes() {
        for width in WIDTHS {
            let n = 3 * width;
            let (x, gamma) = (slopes_inputs(n, 1), slopes_inputs(width, 2));
            let weight = slopes_inputs(n, 3);

            let rms = |x: &[f64], gamma: &[f64]| -> Vec<f64> {
                let row = |x: &[f64]| {
                    let scale = (x.iter().map(|x| x * x).sum::<f64>() / width as f64 + 1e-1).sqrt();
                    x.iter().zip(gamma).map(|(x, g)| x / scale * g).collect::<Vec<f64>>()
                };
                x.chunks(width).flat_map(row).collect()
            };
            let (mut grad, mut gamma_grad) = (narrow(&weight), vec![0.0; width]);
            backward(&narrow(&x), &narrow(&gamma), 1e-1, &mut grad, &mut gamma_grad);
            check_slopes(&grad, &x, &weight, |x| rms(x, &gamma), "rms_norm");
            check_slopes(&gamma_grad, &gamma, &weight, |gamma| rms(&x, gamma), "gamma of rms_norm");
        }
    }
}
