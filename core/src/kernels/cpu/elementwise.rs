//! Activations, norms and softmax on slices.

#[cfg(feature = "autodiff")]
use super::rows;
use super::vector::{erf, exp, sigmoid, vectorized};

/// Index of the largest score (the first of equal ones) and the log of its softmax.
pub fn most_probable(scores: &[f32]) -> (usize, f32) {
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

/// Three sums over `n` positions of a row at once, in several lanes.
#[inline(always)]
pub fn row_of(n: usize, term: impl Fn(usize) -> [f32; 3]) -> [f32; 3] {
    const LANES: usize = 16;
    let mut lanes = [[0f32; LANES]; 3];
    let whole = n - n % LANES;
    for start in (0..whole).step_by(LANES) {
        for lane in 0..LANES {
            let terms = term(start + lane);
            for (sum, term) in lanes.iter_mut().zip(terms) {
                sum[lane] += term;
            }
        }
    }
    let mut sums = lanes.map(|lanes| lanes.iter().sum::<f32>());
    for i in whole..n {
        for (sum, term) in sums.iter_mut().zip(term(i)) {
            *sum += term;
        }
    }
    sums
}

/// The log of the sum of exponentials of each row.
#[cfg(feature = "autodiff")]
pub fn log_sums(x: &[f32], width: usize) -> Vec<f32> {
    let mut out = vec![0.0; x.len() / width];
    rows::for_each(&mut out, 1, width * 8, |first, out| {
        for (out, x) in out.iter_mut().zip(x[first * width..].chunks_exact(width)) {
            let (_, log_prob) = most_probable(x);
            *out = x.iter().copied().fold(f32::NEG_INFINITY, f32::max) - log_prob;
        }
    });
    out
}

vectorized! {
    /// `x * Phi(x)`
    pub fn gelu(x: &mut [f32]) {
        for x in x {
            *x = 0.5 * *x * (1.0 + erf(*x * std::f32::consts::FRAC_1_SQRT_2));
        }
    }

    /// `x * sigmoid(1.702 x)`
    pub fn quick_gelu(x: &mut [f32]) {
        for x in x {
            *x *= sigmoid(1.702 * *x);
        }
    }

    /// `min(max(x, 0), 6)`
    pub fn relu6(x: &mut [f32]) {
        for x in x {
            *x = x.clamp(0.0, 6.0);
        }
    }

    /// `gate * sigmoid(gate) * up`
    pub fn silu_times(gate: &mut [f32], up: &[f32]) {
        for (gate, up) in gate.iter_mut().zip(up) {
            *gate *= sigmoid(*gate) * up;
        }
    }

    /// `x / sqrt(mean(x^2) + epsilon) * gamma` for each row as wide as `gamma`.
    pub fn rms_norm(x: &[f32], gamma: &[f32], epsilon: f32, out: &mut [f32]) {
        let width = gamma.len();
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let [square, _, _] = row_of(width, |i| [x[i] * x[i], 0.0, 0.0]);
            let scale = 1.0 / (square / width as f32 + epsilon).sqrt();
            for ((out, x), gamma) in out.iter_mut().zip(x).zip(gamma) {
                *out = x * scale * gamma;
            }
        }
    }

    /// `(x - mean(x)) / sqrt(var(x) + epsilon) * gamma + beta` for each row as wide as `gamma`.
    pub fn layer_norm(x: &[f32], gamma: &[f32], beta: &[f32], epsilon: f32, out: &mut [f32]) {
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

    /// Rotates the pairs `(first[i], second[i])` by the angles with these cosines and sines.
    pub fn rotate(first: &mut [f32], second: &mut [f32], cos: &[f32], sin: &[f32]) {
        for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919) % 2003) as f32 / 250.0 - 4.0).collect()
    }

    /// Lengths with and without a remainder after whole vectors.
    const LENGTHS: [usize; 6] = [1, 3, 16, 17, 50, 333];

    fn check(found: &[f32], wanted: impl Fn(usize) -> f64, what: &str) {
        for (i, found) in found.iter().enumerate() {
            let wanted = wanted(i);
            let off = (f64::from(*found) - wanted).abs();
            assert!(off < 2e-6 * wanted.abs().max(1.0), "{what} at {i}: {found}, wanted {wanted}");
        }
    }

    #[test]
    fn activations_are_their_formulas() {
        let wide = |x: f32| f64::from(x);
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        for n in LENGTHS {
            let x = numbers(n);
            let up: Vec<f32> = x.iter().rev().copied().collect();
            let [mut by_gelu, mut by_quick_gelu, mut by_silu] = [x.clone(), x.clone(), x.clone()];
            gelu(&mut by_gelu);
            quick_gelu(&mut by_quick_gelu);
            silu_times(&mut by_silu, &up);
            check(&by_quick_gelu, |i| wide(x[i]) * sigmoid(1.702 * wide(x[i])), "quick_gelu");
            check(&by_silu, |i| wide(x[i]) * sigmoid(wide(x[i])) * wide(up[i]), "silu_times");
            let half = |x: f32| f64::from(erf(x * std::f32::consts::FRAC_1_SQRT_2)) / 2.0 + 0.5;
            check(&by_gelu, |i| wide(x[i]) * half(x[i]), "gelu");
        }
    }

    #[test]
    fn a_norm_divides_each_row_by_its_root_mean_square() {
        for width in LENGTHS {
            let (x, gamma) = (numbers(3 * width), numbers(width));
            let mut out = vec![0.0; x.len()];
            rms_norm(&x, &gamma, 1e-5, &mut out);
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
    fn a_layer_norm_has_the_mean_and_variance_it_is_told() {
        for width in LENGTHS {
            let (x, gamma) = (numbers(2 * width), numbers(width));
            let beta: Vec<f32> = gamma.iter().rev().copied().collect();
            let mut out = vec![0.0; x.len()];
            layer_norm(&x, &gamma, &beta, 1e-5, &mut out);
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
    fn a_softmax_sums_to_1_and_its_largest_is_the_choice() {
        for n in LENGTHS {
            let x = numbers(n);
            let sum: f64 = x.iter().map(|x| (f64::from(*x) * 0.5).exp()).sum();
            let mut found = x.clone();
            softmax(&mut found, 0.5);
            check(&found, |i| (f64::from(x[i]) * 0.5).exp() / sum, "softmax");

            let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let (best, log_prob) = most_probable(&x);
            assert!(x[best] == largest && x[..best].iter().all(|x| *x < largest));
            let sum: f64 = x.iter().map(|x| f64::from(*x).exp()).sum();
            check(&[log_prob], |_| f64::from(largest) - sum.ln(), "log probability");
        }
    }

    #[test]
    fn a_turn_by_a_right_angle_swaps_the_pair() {
        let (mut a, mut b) = (numbers(17), vec![1.0; 17]);
        let before = a.clone();
        rotate(&mut a, &mut b, &[0.0; 17], &[1.0; 17]);
        assert!(a.iter().all(|a| *a == -1.0) && b == before);
    }
}
