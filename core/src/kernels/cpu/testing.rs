//! Inputs and comparisons of the unit tests.

/// Lengths with and without a remainder after whole vectors.
pub const LENGTHS: [usize; 6] = [1, 3, 16, 17, 50, 333];
/// As [`LENGTHS`], for comparisons with finite differences.
pub const WIDTHS: [usize; 5] = [1, 3, 16, 17, 50];

pub fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919) % 2003) as f32 / 250.0 - 4.0).collect()
}

#[track_caller]
pub fn check(found: &[f32], wanted: impl Fn(usize) -> f64, what: &str) {
    for (i, found) in found.iter().enumerate() {
        let wanted = wanted(i);
        let off = (f64::from(*found) - wanted).abs();
        assert!(off < 2e-6 * wanted.abs().max(1.0), "{what} at {i}: {found}, wanted {wanted}");
    }
}

pub fn slopes_inputs(n: usize, seed: usize) -> Vec<f64> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f64 / 800.0 - 1.25).collect()
}

pub fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|x| *x as f32).collect()
}

/// Compares a gradient with finite differences of `Σ weight · f(x)` in f64.
#[track_caller]
pub fn check_slopes(
    found: &[f32],
    x: &[f64],
    weight: &[f64],
    f: impl Fn(&[f64]) -> Vec<f64>,
    what: &str,
) {
    let value = |x: &[f64]| f(x).iter().zip(weight).map(|(y, w)| y * w).sum::<f64>();
    for i in 0..x.len() {
        let (mut more, mut less) = (x.to_vec(), x.to_vec());
        more[i] += 1e-5;
        less[i] -= 1e-5;
        let wanted = (value(&more) - value(&less)) / 2e-5;
        let off = (f64::from(found[i]) - wanted).abs();
        assert!(off < 1e-4 * wanted.abs().max(1.0), "{what} at {i}: {}, wanted {wanted}", found[i]);
    }
}
