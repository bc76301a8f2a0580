//! Vectors of floats, so that each kernel is written once for all vector widths.

use crate::vectors::widest;

/// Floats that the processor handles in one instruction.
///
/// Every method is inlined into a function that [`run`] compiles for the type's instructions.
pub trait Lanes: Copy {
    /// Number of floats.
    const N: usize;

    /// Whether the processor has 32 such vectors, instead of 16.
    const HAS_32: bool = false;

    /// # Safety
    /// `from` must be followed by `N` floats.
    unsafe fn load(from: *const f32) -> Self;

    /// # Safety
    /// `to` must have room for `N` floats.
    unsafe fn store(self, to: *mut f32);

    fn splat(x: f32) -> Self;

    fn plus(self, other: Self) -> Self;

    /// `self + a * b`
    fn plus_product(self, a: Self, b: Self) -> Self;

    /// `min(max(self, 0), 6)`; NaN stays NaN.
    fn relu6(self) -> Self;

    /// Asks for a cache line that will be read soon. The address may be anywhere.
    #[inline(always)]
    fn prefetch(_: *const f32) {}
}

/// A kernel for any [`Lanes`].
pub trait Kernel {
    /// Implementations and the functions that they call must be `#[inline(always)]`. Else vectors
    /// go through memory.
    fn run<V: Lanes>(self);
}

/// Runs a kernel on the processor's widest vectors that have at most `n` floats.
pub fn run(n: usize, kernel: impl Kernel) {
    let n = n.min(widest());
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f")]
        fn sixteen(kernel: impl Kernel) {
            kernel.run::<x86::Sixteen>();
        }
        #[target_feature(enable = "avx2,fma")]
        fn eight(kernel: impl Kernel) {
            kernel.run::<x86::Eight>();
        }
        if n >= 16 && is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the instructions, as just checked.
            return unsafe { sixteen(kernel) };
        }
        if n >= 8 && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has the instructions, as just checked.
            return unsafe { eight(kernel) };
        }
    }
    if n < 4 {
        return kernel.run::<[f32; 1]>();
    }
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    kernel.run::<simd128::Four>();
    #[cfg(target_arch = "aarch64")]
    kernel.run::<neon::Four>();
    #[cfg(not(any(
        all(target_arch = "wasm32", target_feature = "simd128"),
        target_arch = "aarch64"
    )))]
    kernel.run::<[f32; 4]>();
}

/// Plain loops, which compilers turn into vector instructions if available.
impl<const N: usize> Lanes for [f32; N] {
    const N: usize = N;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: guaranteed by the caller.
        unsafe { from.cast::<Self>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: guaranteed by the caller.
        unsafe { to.cast::<Self>().write_unaligned(self) }
    }

    #[inline(always)]
    fn splat(x: f32) -> Self {
        [x; N]
    }

    #[inline(always)]
    fn plus(mut self, other: Self) -> Self {
        for i in 0..N {
            self[i] += other[i];
        }
        self
    }

    #[inline(always)]
    fn plus_product(mut self, a: Self, b: Self) -> Self {
        for i in 0..N {
            self[i] += a[i] * b[i];
        }
        self
    }

    #[inline(always)]
    fn relu6(mut self) -> Self {
        for x in &mut self {
            *x = if *x < 0.0 { 0.0 } else { *x };
            *x = if *x > 6.0 { 6.0 } else { *x };
        }
        self
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Lanes;

    /// For processors with AVX-512.
    #[derive(Clone, Copy)]
    pub struct Sixteen(__m512);

    /// For processors with AVX2 and FMA.
    #[derive(Clone, Copy)]
    pub struct Eight(__m256);

    macro_rules! lanes {
        ($name:ident, $n:literal, $has_32:literal, $load:ident, $store:ident, $splat:ident, $add:ident, $product:ident, $max:ident, $min:ident) => {
            impl Lanes for $name {
                const N: usize = $n;
                const HAS_32: bool = $has_32;

                #[inline(always)]
                unsafe fn load(from: *const f32) -> Self {
                    // SAFETY: guaranteed by the caller. The type is only used on processors with
                    // the instructions.
                    Self(unsafe { $load(from) })
                }

                #[inline(always)]
                unsafe fn store(self, to: *mut f32) {
                    // SAFETY: as above.
                    unsafe { $store(to, self.0) }
                }

                #[inline(always)]
                fn splat(x: f32) -> Self {
                    // SAFETY: the type is only used on processors with the instructions.
                    Self(unsafe { $splat(x) })
                }

                #[inline(always)]
                fn plus(self, other: Self) -> Self {
                    // SAFETY: as above.
                    Self(unsafe { $add(self.0, other.0) })
                }

                #[inline(always)]
                fn plus_product(self, a: Self, b: Self) -> Self {
                    // SAFETY: as above.
                    Self(unsafe { $product(a.0, b.0, self.0) })
                }

                #[inline(always)]
                fn prefetch(from: *const f32) {
                    // SAFETY: this reads no value, so any address is valid.
                    unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
                }

                #[inline(always)]
                fn relu6(self) -> Self {
                    // If one operand is NaN, these instructions return the second one.
                    // SAFETY: as above.
                    Self(unsafe { $min($splat(6.0), $max($splat(0.0), self.0)) })
                }
            }
        };
    }

    lanes!(
        Sixteen,
        16,
        true,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_set1_ps,
        _mm512_add_ps,
        _mm512_fmadd_ps,
        _mm512_max_ps,
        _mm512_min_ps
    );
    lanes!(
        Eight,
        8,
        false,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_set1_ps,
        _mm256_add_ps,
        _mm256_fmadd_ps,
        _mm256_max_ps,
        _mm256_min_ps
    );
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::*;

    use super::Lanes;

    /// For ARM processors of 64 bits, which all have NEON.
    #[derive(Clone, Copy)]
    pub struct Four(float32x4_t);

    impl Lanes for Four {
        const N: usize = 4;
        const HAS_32: bool = true;

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: guaranteed by the caller.
            Self(unsafe { vld1q_f32(from) })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: guaranteed by the caller.
            unsafe { vst1q_f32(to, self.0) }
        }

        #[inline(always)]
        fn splat(x: f32) -> Self {
            // SAFETY: the processor has NEON.
            Self(unsafe { vdupq_n_f32(x) })
        }

        #[inline(always)]
        fn plus(self, other: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { vaddq_f32(self.0, other.0) })
        }

        #[inline(always)]
        fn plus_product(self, a: Self, b: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { vfmaq_f32(self.0, a.0, b.0) })
        }

        #[inline(always)]
        fn relu6(self) -> Self {
            // If one operand is NaN, these return it.
            // SAFETY: as above.
            Self(unsafe { vminq_f32(vmaxq_f32(self.0, vdupq_n_f32(0.0)), vdupq_n_f32(6.0)) })
        }
    }
}

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod simd128 {
    use std::arch::wasm32::*;

    use super::Lanes;

    /// For browsers.
    #[derive(Clone, Copy)]
    pub struct Four(v128);

    impl Lanes for Four {
        const N: usize = 4;

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: guaranteed by the caller.
            Self(unsafe { v128_load(from.cast()) })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: guaranteed by the caller.
            unsafe { v128_store(to.cast(), self.0) }
        }

        #[inline(always)]
        fn splat(x: f32) -> Self {
            Self(f32x4_splat(x))
        }

        #[inline(always)]
        fn plus(self, other: Self) -> Self {
            Self(f32x4_add(self.0, other.0))
        }

        #[inline(always)]
        fn plus_product(self, a: Self, b: Self) -> Self {
            Self(f32x4_add(self.0, f32x4_mul(a.0, b.0)))
        }

        #[inline(always)]
        fn relu6(self) -> Self {
            // If one operand is NaN, these return the first one.
            Self(f32x4_pmin(f32x4_pmax(self.0, f32x4_splat(0.0)), f32x4_splat(6.0)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes `relu6(a + b * c) + a` of whole vectors.
    struct Steps<'a> {
        inputs: [&'a [f32]; 3],
        out: &'a mut [f32],
        /// Floats of the vectors that were used.
        width: &'a mut usize,
    }

    impl Kernel for Steps<'_> {
        #[inline(always)]
        fn run<V: Lanes>(self) {
            *self.width = V::N;
            for at in (0..self.out.len()).step_by(V::N) {
                // SAFETY: all have as many floats, in whole vectors.
                unsafe {
                    let [a, b, c] = self.inputs.map(|x| V::load(x.as_ptr().add(at)));
                    let y = a.plus_product(b, c).relu6().plus(a).plus(V::splat(0.5));
                    y.store(self.out.as_mut_ptr().add(at));
                }
            }
        }
    }

    #[test]
    fn vectors_of_every_width_do_the_same_as_single_floats() {
        let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 6.0, 1e30, -1e30];
        let number = |i: usize| (i * 37 % 101) as f32 / 16.0 - 3.0;
        let a: Vec<f32> =
            (0..64).map(|i| if i % 8 == 3 { bad[i / 8] } else { number(i) }).collect();
        let (b, c): (Vec<f32>, Vec<f32>) = (0..64).map(|i| (number(i + 5), number(i + 9))).unzip();
        for n in [1, 4, 8, 16] {
            let (mut found, mut width) = (vec![0.0; 64], 0);
            run(n, Steps { inputs: [&a, &b, &c], out: &mut found, width: &mut width });
            assert!(width <= n);
            for (i, found) in found.into_iter().enumerate() {
                let sum = a[i] + b[i] * c[i];
                let wanted = if sum.is_nan() { sum } else { sum.clamp(0.0, 6.0) } + a[i] + 0.5;
                assert!(
                    found == wanted
                        || (found - wanted).abs() < 1e-5
                        || found.is_nan() && wanted.is_nan(),
                    "{n} wide at {i}: {found}, wanted {wanted}"
                );
            }
        }
    }

    /// On other processors, plain loops round twice.
    #[cfg(target_arch = "aarch64")]
    #[test]
    fn arm_multiplies_and_adds_four_floats_with_one_rounding() {
        let x = 1.0 + 1.0 / 4096.0;
        let (a, b, c) = ([-1.0; 16], [x; 16], [x; 16]);
        let (mut found, mut width) = ([0.0; 16], 0);
        run(16, Steps { inputs: [&a, &b, &c], out: &mut found, width: &mut width });
        assert_eq!(width, 4);
        let wanted = x.mul_add(x, -1.0) - 1.0 + 0.5;
        assert_ne!(wanted, x * x - 1.0 - 1.0 + 0.5);
        assert_eq!(found, [wanted; 16]);
    }
}
