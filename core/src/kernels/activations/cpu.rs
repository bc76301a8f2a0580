//! Activations on the CPU.

use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::elementary::{erf, exp, sigmoid};
use super::node::{Input, run, run_with};
use super::rows::{self, EXP_STEPS};
use super::tensors::{from_values, in_place};
use crate::vectors::vectorized;

pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    elementwise(x, gelu_forward, gelu_backward)
}

pub fn quick_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    elementwise(x, quick_gelu_forward, quick_gelu_backward)
}

fn elementwise<const D: usize>(
    x: Tensor<D>,
    forward: fn(&mut [f32]),
    backward: fn(&[f32], &mut [f32]),
) -> Tensor<D> {
    run(
        [Input::contiguous(x)],
        |[x]| in_place(x, |x| rows::for_each(x, 1, EXP_STEPS, |_, x| forward(x))),
        move |[x], grad, _| [Some(along(x, grad, EXP_STEPS, backward))],
    )
}

/// The graph stores only the output, which is enough for the backward function.
pub fn relu6<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let forward = |x| in_place(x, |x| rows::for_each(x, 1, 1, |_, x| relu6_forward(x)));
    run_with(
        [Input::view(x)],
        |[x]| forward(x),
        |[x]| {
            let output = forward(x);
            let saved = output.clone();
            let backward = move |grad, _: [bool; 1]| [Some(along(&saved, grad, 1, relu6_backward))];
            (output, std::sync::Arc::new(backward))
        },
    )
}

/// Replaces `grad` by `backward(saved, grad)`, element by element.
fn along(
    saved: &FlexTensor,
    grad: FlexTensor,
    steps: usize,
    backward: fn(&[f32], &mut [f32]),
) -> FlexTensor {
    let saved: &[f32] = saved.storage();
    in_place(grad, |grad| {
        rows::for_each(grad, 1, steps, |first, grad| {
            backward(&saved[first..first + grad.len()], grad);
        });
    })
}

pub fn silu_times<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    run(
        [Input::contiguous(gate), Input::contiguous(up)],
        |[gate, up]| {
            let up: &[f32] = up.storage();
            in_place(gate, |gate| {
                rows::for_each(gate, 1, EXP_STEPS, |first, gate| {
                    silu_times_forward(gate, &up[first..first + gate.len()]);
                });
            })
        },
        |[gate, up], grad, _| {
            let shape = gate.layout().shape().clone();
            let (gate, up): (&[f32], &[f32]) = (gate.storage(), up.storage());
            let mut gate_grad = vec![0.0; gate.len()];
            let up_grad = in_place(grad, |grad| {
                for_each_pair(grad, &mut gate_grad, |first, grad, gate_grad| {
                    let range = first..first + grad.len();
                    silu_times_backward(&gate[range.clone()], &up[range], grad, gate_grad);
                });
            });
            [Some(from_values(gate_grad, shape)), Some(up_grad)]
        },
    )
}

/// Calls `work(first, left, right)` on parts of two slices of equal length.
fn for_each_pair(
    left: &mut [f32],
    right: &mut [f32],
    work: impl Fn(usize, &mut [f32], &mut [f32]) + Sync + Send,
) {
    const PART: usize = 16 * 1024;
    let on_part = |(part, (left, right)): (usize, (&mut [f32], &mut [f32]))| {
        work(part * PART, left, right);
    };
    if rows::is_single_threaded() {
        left.chunks_mut(PART).zip(right.chunks_mut(PART)).enumerate().for_each(on_part);
    } else {
        left.par_chunks_mut(PART).zip(right.par_chunks_mut(PART)).enumerate().for_each(on_part);
    }
}

vectorized! {
    /// `x * Phi(x)`
    pub fn gelu_forward(x: &mut [f32]) {
        for x in x {
            *x = 0.5 * *x * (1.0 + erf(*x * std::f32::consts::FRAC_1_SQRT_2));
        }
    }

    /// Backward function of `x * Phi(x)`: replaces `grad` by the gradient of `x`.
    pub fn gelu_backward(x: &[f32], grad: &mut [f32]) {
        // 1 / sqrt(2 pi)
        const DENSITY_AT_0: f32 = 0.398_942_3;
        for (grad, x) in grad.iter_mut().zip(x) {
            let cumulative = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
            *grad *= cumulative + x * DENSITY_AT_0 * exp(-0.5 * x * x);
        }
    }

    /// `x * sigmoid(1.702 x)`
    pub fn quick_gelu_forward(x: &mut [f32]) {
        for x in x {
            *x *= sigmoid(1.702 * *x);
        }
    }

    /// Backward function of `x * sigmoid(1.702 x)`: replaces `grad` by the gradient of `x`.
    pub fn quick_gelu_backward(x: &[f32], grad: &mut [f32]) {
        for (grad, x) in grad.iter_mut().zip(x) {
            let s = sigmoid(1.702 * x);
            *grad *= s + 1.702 * x * s * (1.0 - s);
        }
    }

    /// `min(max(x, 0), 6)`
    pub fn relu6_forward(x: &mut [f32]) {
        for x in x {
            *x = x.clamp(0.0, 6.0);
        }
    }

    /// Backward function of `min(max(x, 0), 6)`: replaces `grad` by the gradient of `x`.
    ///
    /// `x` may also be the output.
    pub fn relu6_backward(x: &[f32], grad: &mut [f32]) {
        for (grad, x) in grad.iter_mut().zip(x) {
            *grad = if *x > 0.0 && *x < 6.0 { *grad } else { 0.0 };
        }
    }

    /// `gate * sigmoid(gate) * up`
    pub fn silu_times_forward(gate: &mut [f32], up: &[f32]) {
        for (gate, up) in gate.iter_mut().zip(up) {
            *gate *= sigmoid(*gate) * up;
        }
    }

    /// Backward function of `gate * sigmoid(gate) * up`: replaces `grad` by the gradient of `up`.
    pub fn silu_times_backward(gate: &[f32], up: &[f32], grad: &mut [f32], gate_grad: &mut [f32]) {
        for (((gate, up), grad), gate_grad) in gate.iter().zip(up).zip(grad).zip(gate_grad) {
            let s = sigmoid(*gate);
            *gate_grad = *grad * up * (s + gate * s * (1.0 - s));
            *grad *= gate * s;
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
    fn activations_are_their_formulas() {
        let wide = |x: f32| f64::from(x);
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        for n in LENGTHS {
            let x = numbers(n);
            let up: Vec<f32> = x.iter().rev().copied().collect();
            let [mut by_gelu, mut by_quick_gelu, mut by_silu] = [x.clone(), x.clone(), x.clone()];
            gelu_forward(&mut by_gelu);
            quick_gelu_forward(&mut by_quick_gelu);
            silu_times_forward(&mut by_silu, &up);
            check(&by_quick_gelu, |i| wide(x[i]) * sigmoid(1.702 * wide(x[i])), "quick_gelu");
            check(&by_silu, |i| wide(x[i]) * sigmoid(wide(x[i])) * wide(up[i]), "silu_times");
            let half = |x: f32| f64::from(erf(x * std::f32::consts::FRAC_1_SQRT_2)) / 2.0 + 0.5;
            check(&by_gelu, |i| wide(x[i]) * half(x[i]), "gelu");
        }
    }

    #[test]
    fn gradients_of_activations_are_their_slopes() {
        for n in WIDTHS {
            let (x, up, weight) = (slopes_inputs(n, 1), slopes_inputs(n, 2), slopes_inputs(n, 3));
            let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());

            let mut grad = narrow(&weight);
            quick_gelu_backward(&narrow(&x), &mut grad);
            check_slopes(
                &grad,
                &x,
                &weight,
                |x| x.iter().map(|x| x * sigmoid(1.702 * x)).collect(),
                "quick_gelu",
            );

            let wide: Vec<f64> = x.iter().map(|x| x * 8.0 + 1e-3).collect();
            let mut grad = narrow(&weight);
            relu6_backward(&narrow(&wide), &mut grad);
            check_slopes(
                &grad,
                &wide,
                &weight,
                |x| x.iter().map(|x| x.clamp(0.0, 6.0)).collect(),
                "relu6",
            );

            let (mut up_grad, mut gate_grad) = (narrow(&weight), vec![0.0; n]);
            silu_times_backward(&narrow(&x), &narrow(&up), &mut up_grad, &mut gate_grad);
            let f = |gate: &[f64], up: &[f64]| -> Vec<f64> {
                gate.iter().zip(up).map(|(g, u)| g * sigmoid(*g) * u).collect()
            };
            check_slopes(&gate_grad, &x, &weight, |x| f(x, &up), "gate");
            check_slopes(&up_grad, &up, &weight, |up| f(&x, up), "up");

            // Phi by Simpson's rule from 0.
            let phi = |x: f64| {
                let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
                let at =
                    |i: usize| density(x * i as f64 / 200.0) * if i % 2 == 1 { 4.0 } else { 2.0 };
                0.5 + (density(0.0) + density(x) + (1..200).map(at).sum::<f64>()) * x / 600.0
            };
            let mut grad = narrow(&weight);
            gelu_backward(&narrow(&x), &mut grad);
            check_slopes(&grad, &x, &weight, |x| x.iter().map(|x| x * phi(*x)).collect(), "gelu");
        }
    }
}
