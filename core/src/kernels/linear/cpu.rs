//! Products with a weight matrix on the CPU.

use std::ops::Range;

use burn::backend::flex::FlexTensor;
use burn::tensor::{Shape, Tensor};

use super::convolution::{Pointwise, pointwise};
use super::lanes::{self, Lanes};
use super::node::{Input, run};
use super::rows::{self, SharedOutput};
use super::sums::sum_rows;
use super::tensors::{contiguous, from_first, from_values, is_plain_cpu_f32, strided, wrap};
use crate::vectors::vectorized;

pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    let (x, weight) = (Input::contiguous(x), Input::view(weight));
    let forward = |x: &FlexTensor, weight, bias: Option<&FlexTensor>| {
        let mut shape = x.layout().shape().to_vec();
        let weight = Matrix::new(weight);
        *shape.last_mut().expect("rows have a width") = weight.d_out;
        let out = product(x.storage(), &weight.view(), bias.map(|bias| bias.storage()));
        from_values(out, Shape::from(shape))
    };
    let Some(bias) = bias else {
        return run(
            [x, weight],
            |[x, weight]| forward(&x, weight, None),
            |[x, weight], grad, wanted| backward(x, weight, &grad.to_contiguous(), wanted),
        );
    };
    run(
        [x, weight, Input::contiguous(bias)],
        |[x, weight, bias]| forward(&x, weight, Some(&bias)),
        |[x, weight, bias], grad, [is_x, is_weight, is_bias]| {
            let grad = grad.to_contiguous();
            let bias_grad = is_bias.then(|| {
                let shape = bias.layout().shape().clone();
                from_values(sum_rows(grad.storage(), shape[0]), shape)
            });
            let [x_grad, weight_grad] = backward(x, weight, &grad, [is_x, is_weight]);
            [x_grad, weight_grad, bias_grad]
        },
    )
}

/// Gradients of `x` and of the weight.
fn backward(
    x: &FlexTensor,
    weight: &FlexTensor,
    grad: &FlexTensor,
    [is_x, is_weight]: [bool; 2],
) -> [Option<FlexTensor>; 2] {
    let weight = Matrix::new(weight.clone());
    let Matrix { d_in, d_out, is_transposed, .. } = weight;
    let x_grad = is_x.then(|| {
        let values = product(grad.storage(), &weight.transposed(), None);
        from_values(values, x.layout().shape().clone())
    });
    let weight_grad = is_weight.then(|| {
        let (x, grad): (&[f32], &[f32]) = (x.storage(), grad.storage());
        let values = weight_gradient(x, grad, d_in, d_out, is_transposed);
        let strides = if is_transposed { vec![1, d_in as isize] } else { vec![d_out as isize, 1] };
        strided(values, Shape::from([d_in, d_out]), strides)
    });
    [x_grad, weight_grad]
}

/// Without autodiff only.
pub fn supports_relu6<const D: usize>(x: &Tensor<D>, weight: &Tensor<2>) -> bool {
    is_plain_cpu_f32(x) && is_plain_cpu_f32(weight)
}

pub fn linear_relu6<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<D> {
    let mut shape = x.dims();
    shape[D - 1] = bias.dims()[0];
    let (x, weight, bias) = (contiguous(x), contiguous(weight), contiguous(bias));
    let layer = Pointwise { weight: weight.storage(), bias: bias.storage() };
    wrap(from_values(pointwise(x.storage(), layer, true), Shape::from(shape)))
}

/// A weight `[d_in, d_out]`, stored by rows or by columns.
struct Matrix {
    tensor: FlexTensor,
    d_in: usize,
    d_out: usize,
    /// Whether the elements of a column are adjacent, instead of those of a row.
    is_transposed: bool,
}

impl Matrix {
    fn new(tensor: FlexTensor) -> Self {
        let [d_in, d_out] = [0, 1].map(|axis| tensor.layout().shape()[axis]);
        let is_transposed = tensor.layout().strides() == [1, d_in as isize] && d_in > 1;
        let tensor = if is_transposed { tensor } else { tensor.to_contiguous() };
        Self { tensor, d_in, d_out, is_transposed }
    }

    fn view(&self) -> Weight<'_> {
        let Self { d_in, d_out, is_transposed, .. } = *self;
        Weight { values: from_first(&self.tensor), d_in, d_out, is_transposed }
    }

    /// The transpose, which maps gradients of outputs to gradients of inputs.
    fn transposed(&self) -> Weight<'_> {
        let Self { d_in, d_out, is_transposed, .. } = *self;
        Weight {
            values: from_first(&self.tensor),
            d_in: d_out,
            d_out: d_in,
            is_transposed: !is_transposed,
        }
    }
}

/// A weight `[d_in, d_out]`, stored by rows or by columns.
struct Weight<'a> {
    /// The buffer from the weight's first element on.
    values: &'a [f32],
    /// Number of inputs.
    d_in: usize,
    /// Number of outputs.
    d_out: usize,
    /// Whether the elements of a column are adjacent, instead of those of a row.
    is_transposed: bool,
}

/// `x @ weight + bias`: `[n, d_in]` → `[n, d_out]`.
fn product(x: &[f32], weight: &Weight, bias: Option<&[f32]>) -> Vec<f32> {
    let n_rows = x.len() / weight.d_in;
    if n_rows == 1 && !weight.is_transposed {
        return vector_times_rows(x, weight, bias);
    }
    let mut out = match bias {
        Some(bias) => bias.repeat(n_rows),
        None => vec![0.0; n_rows * weight.d_out],
    };
    match n_rows {
        1 => add_vector_times_columns(x, weight.values, &mut out),
        _ => add_matrix_product(x, weight, &mut out),
    }
    out
}

fn add_matrix_product(x: &[f32], weight: &Weight, out: &mut [f32]) {
    let Weight { values, d_in, d_out, is_transposed } = *weight;
    let n_rows = x.len() / d_in;
    assert!(
        values.len() >= d_in * d_out && out.len() == n_rows * d_out && x.len() == n_rows * d_in
    );
    let (row_step, column_step) = if is_transposed { (1, d_in) } else { (d_out, 1) };
    let out = SharedOutput(out.as_mut_ptr());
    rows::for_each_product([n_rows, d_out], d_in, |rows, columns, parallelism| {
        // SAFETY: the sizes were just checked. `out` is borrowed exclusively, and parts do not
        // overlap.
        unsafe {
            gemm::gemm(
                rows.len(),
                columns.len(),
                d_in,
                out.at(rows.start * d_out + columns.start),
                1,
                d_out as isize,
                true,
                x.as_ptr().add(rows.start * d_in),
                1,
                d_in as isize,
                values.as_ptr().add(columns.start * column_step),
                column_step as isize,
                row_step as isize,
                1.0,
                1.0,
                false,
                false,
                false,
                parallelism,
            );
        }
    });
}

/// The gradient of a weight, in the weight's order: the sum over rows of `x[n]` times `grad[n]`.
fn weight_gradient(
    x: &[f32],
    grad: &[f32],
    d_in: usize,
    d_out: usize,
    is_transposed: bool,
) -> Vec<f32> {
    let n_rows = x.len() / d_in;
    assert!(x.len() == n_rows * d_in && grad.len() == n_rows * d_out);
    let mut out = vec![0.0; d_in * d_out];
    let ((left, height), (right, width)) = match is_transposed {
        false => ((x, d_in), (grad, d_out)),
        true => ((grad, d_out), (x, d_in)),
    };
    // SAFETY: the sizes were just checked, and `out` is borrowed exclusively.
    unsafe {
        gemm::gemm(
            height,
            width,
            n_rows,
            out.as_mut_ptr(),
            1,
            width as isize,
            false,
            left.as_ptr(),
            height as isize,
            1,
            right.as_ptr(),
            1,
            width as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            rows::parallelism(n_rows * d_in * d_out),
        );
    }
    out
}

/// A product with one row is bound by reading the weight. Each task reads its own columns.
fn vector_times_rows(x: &[f32], weight: &Weight, bias: Option<&[f32]>) -> Vec<f32> {
    let Weight { values, d_in, d_out, .. } = *weight;
    assert!(x.len() == d_in && values.len() >= d_in * d_out);
    assert!(bias.is_none_or(|bias| bias.len() == d_out));
    let each = d_out.div_ceil(rows::n_tasks(d_in * d_out)).next_multiple_of(LEAST_COLUMNS);
    // Columns that fill less than any processor's vector stay with the previous ones, because
    // narrow vectors round differently.
    let n_tasks = d_out.saturating_sub(LEAST_COLUMNS).div_ceil(each).max(1);
    let mut out = Vec::with_capacity(d_out);
    let target = SharedOutput(out.as_mut_ptr());
    rows::for_each_of(n_tasks, |task| {
        let columns = task * each..if task + 1 == n_tasks { d_out } else { (task + 1) * each };
        lanes::run(
            columns.len(),
            VectorTimesRows { x, values, stride: d_out, bias, columns, target },
        );
    });
    // SAFETY: the tasks have written all columns.
    unsafe { out.set_len(d_out) };
    out
}

/// Columns of a task: the floats of the widest vector.
const LEAST_COLUMNS: usize = 16;

/// Some columns of [`vector_times_rows`]. The sizes were checked, and no other task writes them.
struct VectorTimesRows<'a> {
    x: &'a [f32],
    values: &'a [f32],
    stride: usize,
    bias: Option<&'a [f32]>,
    columns: Range<usize>,
    target: SharedOutput,
}

impl lanes::Kernel for VectorTimesRows<'_> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let Range { start, end } = self.columns;
        let n_vectors = (end - start).div_ceil(V::N);
        let mut vector = 0;
        // SAFETY: every vector is within the columns, as the last one overlaps the previous one.
        unsafe {
            while V::HAS_32 && n_vectors - vector >= 16 {
                self.sum::<V, 16>(vector);
                vector += 16;
            }
            while n_vectors - vector >= 8 {
                self.sum::<V, 8>(vector);
                vector += 8;
            }
            while n_vectors - vector >= 4 {
                self.sum::<V, 4>(vector);
                vector += 4;
            }
            while n_vectors > vector {
                self.sum::<V, 1>(vector);
                vector += 1;
            }
        }
    }
}

impl VectorTimesRows<'_> {
    /// Writes `C` vectors of columns, from vector `first` on. Their sums stay in registers.
    ///
    /// # Safety
    /// The vectors must exist.
    #[inline(always)]
    unsafe fn sum<V: Lanes, const C: usize>(&self, first: usize) {
        // Rows that are asked for ahead; the processor does not foresee jumps between rows.
        const AHEAD: usize = 8;
        let columns: [usize; C] = std::array::from_fn(|c| {
            (self.columns.start + (first + c) * V::N).min(self.columns.end - V::N)
        });
        // SAFETY: guaranteed by the caller; `vector_times_rows` checked the sizes.
        unsafe {
            let mut sums = [V::splat(0.0); C];
            if let Some(bias) = self.bias {
                for c in 0..C {
                    sums[c] = V::load(bias.as_ptr().add(columns[c]));
                }
            }
            let mut row = self.values.as_ptr();
            for x in self.x {
                let x = V::splat(*x);
                for c in 0..C {
                    V::prefetch(row.wrapping_add(AHEAD * self.stride + columns[c]));
                    sums[c] = sums[c].plus_product(x, V::load(row.add(columns[c])));
                }
                row = row.wrapping_add(self.stride);
            }
            for c in 0..C {
                sums[c].store(self.target.at(columns[c]));
            }
        }
    }
}

fn add_vector_times_columns(x: &[f32], weight: &[f32], out: &mut [f32]) {
    rows::for_each(out, 1, x.len(), |first, out| {
        let columns = &weight[first * x.len()..(first + out.len()) * x.len()];
        add_dot_products(x, columns, out);
    });
}

vectorized! {
    /// `out[i] += <x, weight[i]>`, `[out.len(), x.len()]` row by row.
    pub fn add_dot_products(x: &[f32], weight: &[f32], out: &mut [f32]) {
        let (x_lanes, x_rest) = x.as_chunks::<32>();
        for (out, w) in out.iter_mut().zip(weight.chunks_exact(x.len())) {
            let (w_lanes, w_rest) = w.as_chunks::<32>();
            let mut sums = [0f32; 32];
            for (x, w) in x_lanes.iter().zip(w_lanes) {
                for ((sum, x), w) in sums.iter_mut().zip(x).zip(w) {
                    *sum += x * w;
                }
            }
            *out += sums.iter().sum::<f32>() + x_rest.iter().zip(w_rest).map(|(x, w)| x * w).sum::<f32>();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.5 - 1.0).collect()
    }

    fn check(n_rows: usize, d_in: usize, d_out: usize, is_transposed: bool, has_bias: bool) {
        let (x, values, bias) = (
            numbers(n_rows * d_in, 1),
            numbers(d_in * d_out, 2),
            has_bias.then(|| numbers(d_out, 3)),
        );
        let at =
            |i: usize, o: usize| values[if is_transposed { o * d_in + i } else { i * d_out + o }];
        let found =
            product(&x, &Weight { values: &values, d_in, d_out, is_transposed }, bias.as_deref());
        for (row, found) in found.chunks(d_out).enumerate() {
            for (o, found) in found.iter().enumerate() {
                let products =
                    (0..d_in).map(|i| f64::from(x[row * d_in + i]) * f64::from(at(i, o)));
                let wanted =
                    products.sum::<f64>() + bias.as_ref().map_or(0.0, |bias| f64::from(bias[o]));
                let off = (f64::from(*found) - wanted).abs();
                assert!(
                    off < 2e-6 * d_in as f64,
                    "{n_rows}×{d_in}×{d_out}: {found}, wanted {wanted}"
                );
            }
        }
    }

    #[test]
    fn the_gradient_of_a_weight_is_a_sum_over_rows() {
        for (n, d_in, d_out) in [(1, 1, 1), (5, 3, 7), (67, 33, 70)] {
            let (x, grad) = (numbers(n * d_in, 1), numbers(n * d_out, 2));
            for is_transposed in [false, true] {
                let found = weight_gradient(&x, &grad, d_in, d_out, is_transposed);
                for (at, found) in found.iter().enumerate() {
                    let (i, o) = if is_transposed {
                        (at % d_in, at / d_in)
                    } else {
                        (at / d_out, at % d_out)
                    };
                    let product = |row: usize| {
                        f64::from(x[row * d_in + i]) * f64::from(grad[row * d_out + o])
                    };
                    let wanted: f64 = (0..n).map(product).sum();
                    assert!(
                        (f64::from(*found) - wanted).abs() < 1e-5 * n as f64,
                        "{n}×{d_in}×{d_out}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_product_of_any_shape_is_the_sum_of_products() {
        for (n_rows, d_in, d_out) in [
            (1, 1, 1),
            (1, 7, 3),
            (1, 8, 16),
            (1, 33, 65),
            (1, 700, 901),
            (2, 9, 5),
            (5, 64, 33),
            (67, 130, 70),
        ] {
            for is_transposed in [false, true] {
                check(n_rows, d_in, d_out, is_transposed, true);
                check(n_rows, d_in, d_out, is_transposed, false);
            }
        }
    }

    #[test]
    fn no_number_of_threads_changes_a_product_of_one_row() {
        let (n_in, n_out) = (703, 901);
        let (x, weight) = (numbers(n_in, 1), numbers(n_in * n_out, 2));
        for is_transposed in [false, true] {
            let run = || {
                let weight = Weight { values: &weight, d_in: n_in, d_out: n_out, is_transposed };
                product(&x, &weight, None)
            };
            let alone = std::thread::scope(|scope| {
                let alone = scope.spawn(|| {
                    rows::use_one_thread();
                    run()
                });
                alone.join().expect("it does not panic")
            });
            for n_threads in [1, 2, 3, 16] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build();
                pool.expect("threads can be started").install(|| {
                    assert_eq!(run(), alone);
                    assert_eq!(rows::with_helpers(run), alone);
                });
            }
        }
    }
}
