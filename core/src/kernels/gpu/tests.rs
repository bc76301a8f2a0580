//! Compares the GPU kernels, on odd shapes, with the CPU's (which are tested against formulas) and
//! with plain loops.

use std::sync::OnceLock;

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::kernels::convolution::same_padding;
use crate::kernels::quant::weight::PackedWeight;
use crate::kernels::quant::{Bits, Packed};
use crate::kernels::{cpu, gpu};

/// A GPU or a software adapter; `None` on a machine without one.
#[allow(clippy::print_stderr, reason = "a test prints what it skips")]
fn device() -> Option<&'static Device> {
    static DEVICE: OnceLock<Option<Device>> = OnceLock::new();
    let device = DEVICE.get_or_init(|| Device::wgpu_options().init().ok()).as_ref();
    if device.is_none() {
        eprintln!("SKIPPED: no adapter on this machine");
    }
    device
}

/// The same values on both devices.
fn numbers<const D: usize>(shape: [usize; D], gpu: &Device) -> [Tensor<D>; 2] {
    let n: usize = shape.iter().product();
    let values: Vec<f32> = (0..n).map(|i| ((i * 7919 + n) % 2003) as f32 / 250.0 - 4.0).collect();
    [gpu, &Device::flex()]
        .map(|device| Tensor::from_data(TensorData::new(values.clone(), shape), device))
}

fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().iter::<f32>().collect()
}

fn check<const D: usize>(found: Tensor<D>, wanted: Tensor<D>, what: &str) {
    assert_eq!(found.dims(), wanted.dims(), "{what}");
    for (i, (found, wanted)) in values(found).into_iter().zip(values(wanted)).enumerate() {
        let off = (found - wanted).abs();
        assert!(off < 2e-5 * wanted.abs().max(1.0), "{what} at {i}: {found}, wanted {wanted}");
    }
}

#[test]
fn norms_and_activations_are_the_cpus() {
    let Some(gpu) = device() else { return };
    for shape in [[1, 1, 1], [2, 3, 50], [1, 5, 333]] {
        let what = format!("{shape:?}");
        let ([x, host_x], [gamma, host_gamma]) = (numbers(shape, gpu), numbers([shape[2]], gpu));
        let (beta, host_beta) = (gamma.clone() * 0.5, host_gamma.clone() * 0.5);
        let (up, host_up) = (x.clone() * -0.3, host_x.clone() * -0.3);
        check(
            gpu::rms_norm::rms_norm(x.clone(), gamma.clone(), 1e-5),
            cpu::rms_norm::rms_norm(host_x.clone(), host_gamma.clone(), 1e-5),
            &format!("rms_norm {what}"),
        );
        check(
            gpu::layer_norm::layer_norm(x.clone(), gamma.clone(), beta, 1e-5),
            cpu::layer_norm::layer_norm(host_x.clone(), host_gamma.clone(), host_beta, 1e-5),
            &format!("layer_norm {what}"),
        );
        check(
            gpu::activations::gelu(x.clone()),
            cpu::activations::gelu(host_x.clone()),
            &format!("gelu {what}"),
        );
        check(
            gpu::activations::quick_gelu(x.clone()),
            cpu::activations::quick_gelu(host_x.clone()),
            &format!("quick_gelu {what}"),
        );
        check(
            gpu::activations::silu_times(x.clone(), up.clone()),
            cpu::activations::silu_times(host_x.clone(), host_up.clone()),
            &format!("silu_times {what}"),
        );
    }
}

#[test]
fn a_product_is_burns_for_odd_shapes_both_layouts_and_matrices_in_f16() {
    let Some(gpu) = device() else { return };
    // One row and few rows, which read the matrix separately; whole tiles and partial ones.
    for [rows, d_in, d_out] in
        [[1, 1, 1], [1, 70, 33], [4, 16, 64], [5, 3, 2], [64, 32, 64], [67, 37, 130]]
    {
        let what = format!("{rows}x{d_in}x{d_out}");
        let [x, host_x] = numbers([1, rows, d_in], gpu).map(|x| x * 0.1);
        let [bias, host_bias] = numbers([d_out], gpu);
        let [residual, host_residual] = numbers([1, rows, d_out], gpu);
        // Quarters, which f16 represents exactly.
        let [weight, host_weight] = numbers([d_in, d_out], gpu).map(|w| (w * 4.0).round() / 4.0);
        let columns = Tensor::<2>::from_data(host_weight.clone().transpose().into_data(), gpu);
        let product = host_x.matmul(host_weight.unsqueeze());
        let wanted = product.clone() + host_bias.unsqueeze() + host_residual;
        let mut layouts =
            vec![(weight.clone(), "whole rows"), (columns.clone().transpose(), "whole columns")];
        match gpu.supports_dtype(DType::F16) {
            true => layouts.extend([
                (weight.cast(DType::F16), "f16, whole rows"),
                (columns.cast(DType::F16).transpose(), "f16, whole columns"),
            ]),
            false => eprintln!("SKIPPED: products with f16: this adapter has no SHADER_F16"),
        }
        for (weight, layout) in layouts {
            let what = format!("{what}, {layout}");
            check(
                gpu::linear::linear(x.clone(), weight.clone(), None, None),
                product.clone(),
                &what,
            );
            let all =
                gpu::linear::linear(x.clone(), weight, Some(bias.clone()), Some(residual.clone()));
            check(all, wanted.clone(), &format!("{what}, added to"));
        }
    }
}

#[test]
fn a_product_with_relu6_is_the_cpus() {
    let Some(gpu) = device() else { return };
    for [rows, d_in, d_out] in [[1, 7, 3], [4, 16, 64], [67, 37, 130]] {
        let [x, host_x] = numbers([1, 1, rows, d_in], gpu).map(|x| x * 0.1);
        let ([weight, host_weight], [bias, host_bias]) =
            (numbers([d_in, d_out], gpu), numbers([d_out], gpu));
        let found = gpu::linear::linear_relu6(x, weight, bias);
        check(
            found,
            cpu::linear::linear_relu6(host_x, host_weight, host_bias),
            &format!("{rows}x{d_in}x{d_out}"),
        );
    }
}

#[test]
fn convolutions_are_the_cpus_for_odd_sizes_and_either_order() {
    let Some(gpu) = device() else { return };
    for (shape, kernel, stride, out) in [
        ([1, 1, 1, 1], 3, 1, 1),
        ([2, 7, 5, 8], 3, 1, 8),
        ([1, 9, 12, 5], 3, 2, 5),
        ([1, 9, 13, 17], 5, 1, 17),
        ([2, 12, 9, 6], 5, 2, 6),
        ([2, 20, 13, 3], 3, 2, 32),
    ] {
        let what = format!("{shape:?}, kernel {kernel} by {stride}, {out}");
        let [x, host_x] = numbers(shape, gpu).map(|x| x * 0.5);
        let [bias, host_bias] = numbers([out], gpu);
        let padding = [shape[1], shape[2]].map(|n| same_padding(n, kernel, stride)[0]);
        let [weight, host_weight] = match out == shape[3] {
            true => numbers([out, 1, kernel, kernel], gpu),
            false => numbers([out, shape[3], kernel, kernel], gpu),
        };
        let wanted = match out == shape[3] {
            true => cpu::convolution::depthwise_relu6(host_x, host_weight, host_bias, stride),
            false => cpu::convolution::stem_relu6(host_x, host_weight, host_bias, stride),
        };
        // In the memory order of a photo's pixels: channels first.
        let turned = x.clone().permute([0, 3, 1, 2]).mul_scalar(1.0).permute([0, 2, 3, 1]);
        for (x, order) in [(x, "channels last"), (turned, "channels first")] {
            let found =
                gpu::convolution::convolve_relu6(x, weight.clone(), bias.clone(), stride, padding);
            check(found, wanted.clone(), &format!("{what}, {order}"));
        }
    }
}

#[test]
fn a_row_has_length_1_and_a_row_of_zeros_stays_zero() {
    let Some(gpu) = device() else { return };
    let x = Tensor::<2>::from_floats([[3.0, 0.0, -4.0], [0.0, 0.0, 0.0], [1e-20, 0.0, 0.0]], gpu);
    let found = values(gpu::unit_rows::unit_rows(x, 1e-12));
    let wanted = [0.6, 0.0, -0.8, 0.0, 0.0, 0.0, 1e-8, 0.0, 0.0];
    assert!(
        found.iter().zip(wanted).all(|(found, wanted)| (found - wanted).abs() < 1e-6),
        "{found:?}"
    );
}

#[test]
fn pairs_are_turned_as_on_the_cpu() {
    let Some(gpu) = device() else { return };
    for (batch, seq, n_heads, head_dim) in [(1, 1, 1, 2), (2, 5, 3, 6), (1, 7, 2, 64)] {
        let [x, host_x] = numbers([batch, seq, n_heads * head_dim], gpu);
        let [cos, host_cos] = numbers([1, 1, seq, head_dim / 2], gpu);
        let (sin, host_sin) = (cos.clone() * 0.7, host_cos.clone() * 0.7);
        check(
            gpu::rotary::rotate(x, cos, sin, n_heads),
            cpu::rotary::rotate(host_x, host_cos, host_sin, n_heads),
            &format!("rotate {batch} {seq} {n_heads} {head_dim}"),
        );
    }
}

#[test]
fn attention_is_the_cpus_for_odd_lengths_groups_and_views() {
    let Some(gpu) = device() else { return };
    // More keys than a cube has units, as many, and one more; and a head wider than that.
    for (shape, n_kv_heads, seq_k, is_causal) in [
        ([1, 1, 1, 2], 1, 1, true),
        ([2, 4, 3, 10], 2, 131, true),
        ([1, 2, 65, 8], 1, 65, true),
        ([1, 2, 5, 8], 2, 64, false),
        ([1, 3, 2, 96], 3, 65, false),
    ] {
        let what = format!("attend {shape:?} {n_kv_heads} {seq_k} {is_causal}");
        let [batch, _, _, head_dim] = shape;
        let [q, host_q] = numbers(shape, gpu);
        // Keys as in a cache: the first rows of a longer buffer. Values as a projection leaves
        // them.
        let [k, host_k] =
            numbers([batch, n_kv_heads, seq_k + 3, head_dim], gpu).map(|k| k.narrow(2, 0, seq_k));
        let [v, host_v] =
            numbers([batch, seq_k, n_kv_heads, head_dim], gpu).map(|v| v.swap_dims(1, 2));
        let found = gpu::attention::attend(q * 0.2, k, v, is_causal);
        check(found, cpu::attention::attend(host_q * 0.2, host_k, host_v, is_causal), &what);
    }
    let [qkv, host_qkv] = numbers([2, 67, 3 * 4 * 6], gpu).map(|qkv| qkv * 0.3);
    for is_causal in [false, true] {
        let found = gpu::attention::attend_packed(qkv.clone(), 4, is_causal);
        check(
            found,
            cpu::attention::attend_packed(host_qkv.clone(), 4, is_causal),
            "attend_packed",
        );
    }
}

#[test]
fn the_choice_is_the_first_of_the_largest_scores() {
    let Some(gpu) = device() else { return };
    for n_scores in [1, 7, 256, 1000] {
        let [logits, host_logits] = numbers([3, n_scores], gpu);
        let ((ids, choices), (host_ids, host_choices)) = (
            gpu::most_probable::most_probable(logits),
            cpu::most_probable::most_probable(host_logits),
        );
        let ids: Vec<i64> = ids.into_data().iter().collect();
        let wanted: Vec<i64> = host_ids.into_data().iter().collect();
        assert_eq!(ids, wanted, "{n_scores} scores");
        check(choices, host_choices, &format!("{n_scores} scores"));
    }
}

#[test]
fn a_packed_product_is_that_of_the_widened_matrix() {
    let Some(gpu) = device() else { return };
    // Few rows, which use the packed weights, and many rows, for which the matrix is widened.
    for (n_rows, n_out, width) in [(1, 1, 1), (3, 5, 33), (1, 7, 256), (11, 5, 100)] {
        let weights: Vec<f32> =
            (0..n_out * width).map(|i| ((i * 7919 + 13) % 1009) as f32 / 504.0 - 1.0).collect();
        let [x, host_x] = numbers([1, n_rows, width], gpu);
        for bits in [Bits::Eight, Bits::Four] {
            let packed = Packed::pack(&weights, width, bits);
            let wide = Tensor::<2>::from_data(
                TensorData::new(packed.widen(), [n_out, width]),
                &Device::flex(),
            );
            let [bias, host_bias] = numbers([n_out], gpu);
            let found = PackedWeight::new(packed.clone(), gpu).linear(x.clone(), Some(bias));
            let wanted =
                host_x.clone().matmul(wide.transpose().unsqueeze()) + host_bias.unsqueeze();
            let wanted_values = values(wanted.clone());
            let largest = wanted_values.iter().fold(1f32, |max, y| max.max(y.abs()));
            check(found / largest, wanted / largest, &format!("{n_rows}x{width}x{n_out} {bits:?}"));
        }
    }
}

#[test]
fn a_choice_among_nan_is_the_first_and_among_very_low_scores_the_largest() {
    let Some(gpu) = device() else { return };
    let nan = [f32::NAN; 3];
    for (scores, wanted) in [(nan, 0), ([-3e38, -2e30, -1e31], 1)] {
        let logits = Tensor::<2>::from_floats([scores], gpu);
        let (ids, choices) = gpu::most_probable::most_probable(logits);
        assert_eq!(ids.into_data().iter::<i64>().collect::<Vec<_>>(), [wanted], "{scores:?}");
        let [id, log_prob] = values(choices)[..] else { panic!("an index and a log probability") };
        assert_eq!(id, wanted as f32, "{scores:?}");
        assert!(log_prob.is_nan() || log_prob == 0.0, "{scores:?}: {log_prob}");
    }
}
