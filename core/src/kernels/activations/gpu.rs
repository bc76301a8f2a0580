//! Activations on a GPU, one unit per value.

use burn::tensor::Tensor;
use cubecl::prelude::*;

use super::launch::{ElementLaunch, launch};
use super::tensors::{contiguous, like, wrap};

pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let x = contiguous(x);
    let (out, each) = (like(&x), ElementLaunch::of(&x));
    let (x, y) = (x.into_buffer_arg(), out.clone().into_buffer_arg());
    launch!(gelu_kernel<f32> on each.grid; x, y, each.n);
    wrap(out)
}

pub fn quick_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let x = contiguous(x);
    let (out, each) = (like(&x), ElementLaunch::of(&x));
    let (x, y) = (x.into_buffer_arg(), out.clone().into_buffer_arg());
    launch!(quick_gelu_kernel<f32> on each.grid; x, y, each.n);
    wrap(out)
}

pub fn silu_times<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    assert_eq!(gate.dims(), up.dims());
    let (gate, up) = (contiguous(gate), contiguous(up));
    let (out, each) = (like(&gate), ElementLaunch::of(&gate));
    let (gate, up) = (gate.into_buffer_arg(), up.into_buffer_arg());
    launch!(silu_times_kernel<f32> on each.grid; gate, up, out.clone().into_buffer_arg(), each.n);
    wrap(out)
}

/// `x * Phi(x)`
#[cube(launch_unchecked)]
fn gelu_kernel<F: Float>(x: &[F], out: &mut [F], n: usize) {
    if ABSOLUTE_POS < n {
        let value = x[ABSOLUTE_POS];
        let erf = (value * F::new(core::f32::consts::FRAC_1_SQRT_2)).erf();
        out[ABSOLUTE_POS] = F::new(0.5) * value * (F::new(1.0) + erf);
    }
}

/// `x * sigmoid(1.702 x)`
#[cube(launch_unchecked)]
fn quick_gelu_kernel<F: Float>(x: &[F], out: &mut [F], n: usize) {
    if ABSOLUTE_POS < n {
        let value = x[ABSOLUTE_POS];
        out[ABSOLUTE_POS] = value / (F::new(1.0) + (F::new(-1.702) * value).exp());
    }
}

/// `gate * sigmoid(gate) * up`
#[cube(launch_unchecked)]
fn silu_times_kernel<F: Float>(gate: &[F], up: &[F], out: &mut [F], n: usize) {
    if ABSOLUTE_POS < n {
        let value = gate[ABSOLUTE_POS];
        out[ABSOLUTE_POS] = value / (F::new(1.0) + (F::new(0.0) - value).exp()) * up[ABSOLUTE_POS];
    }
}
