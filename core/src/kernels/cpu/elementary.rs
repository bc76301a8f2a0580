//! Elementary functions without branches or calls, which compilers turn into vector instructions.

/// `1.5 * 2^23`: adding it rounds to an integer, which is then in the lowest bits.
const ROUND: f32 = 12_582_912.0;

/// `e^x` with a relative error of 1e-7. Clamps `x` to -87..=88; NaN stays NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, so that the remainder is exact (Cephes' expf).
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + coefficient;
    }
    let two_to_n = (shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127)) << 23;
    (p * (r * r) + r + 1.0) * f32::from_bits(two_to_n)
}

/// The error function with an error of at most 5e-7 (the rational function of Eigen's `erf`).
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    let mut p = -2.726_142_3e-10;
    for coefficient in [
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_4e-5,
        -7.349_906_3e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ] {
        p = p * square + coefficient;
    }
    let mut q = -1.456_607_2e-5;
    for coefficient in [-2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2] {
        q = q * square + coefficient;
    }
    x * p / q
}

/// `1 / (1 + e^-x)`
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        from: f32,
        to: f32,
        found: fn(f32) -> f32,
        wanted: fn(f64) -> f64,
        relative_to: fn(f64) -> f64,
    ) {
        let n = 20_000;
        for i in 0..=n {
            let x = from + (to - from) * i as f32 / n as f32;
            let wanted = wanted(f64::from(x));
            let off = (f64::from(found(x)) - wanted).abs() / relative_to(wanted);
            assert!(off < 5e-7, "at {x}: {} for {wanted}", found(x));
        }
    }

    #[test]
    fn the_exponential_is_right_to_the_last_places() {
        check(-87.0, 88.0, exp, f64::exp, f64::abs);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1000.0) < 1e-37 && exp(f32::NAN).is_nan());
    }

    #[test]
    fn the_error_function_is_the_integral_of_the_bell() {
        // Simpson's rule from 0.
        let integral = |x: f64| {
            let (n, f) = (400, |t: f64| (-t * t).exp());
            let at = |i: usize| f(x * i as f64 / n as f64) * if i % 2 == 1 { 4.0 } else { 2.0 };
            let sum = f(0.0) + f(x) + (1..n).map(at).sum::<f64>();
            sum * x / (3.0 * n as f64) * std::f64::consts::FRAC_2_SQRT_PI
        };
        for i in -600..=600 {
            let x = i as f32 / 100.0;
            let off = (f64::from(erf(x)) - integral(f64::from(x))).abs();
            assert!(off < 5e-7, "at {x}: {}", erf(x));
        }
        assert!(erf(f32::NAN).is_nan());
    }

    #[test]
    fn the_sigmoid_is_between_0_and_1() {
        check(-80.0, 80.0, sigmoid, |x| 1.0 / (1.0 + (-x).exp()), |_| 1.0);
    }
}
