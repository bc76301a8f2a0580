//! The processor's most products per second, as a bound for the speed of kernels.

use std::hint::black_box;

use super::lanes::{self, Lanes};

/// Sums at a time. A product takes about four cycles, and a core begins up to two in each.
const N_SUMS: usize = 12;

/// Does `n` rounds of products and sums in the registers of every core, in f32 and on the widest
/// vectors, and returns the number of operations: two for each product with its sum.
///
/// Divided by its time this is the rate that no product of matrices in f32 can exceed.
pub fn multiply_in_registers(n: usize) -> f64 {
    let of_thread = |_: rayon::BroadcastContext| {
        let mut n_operations = 0;
        lanes::run(usize::MAX, Products { n, n_operations: &mut n_operations });
        n_operations as f64
    };
    rayon::broadcast(of_thread).iter().sum()
}

struct Products<'a> {
    n: usize,
    n_operations: &'a mut usize,
}

impl lanes::Kernel for Products<'_> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let (a, b) = (V::splat(black_box(1.0)), V::splat(black_box(1e-3)));
        // Each sum starts elsewhere, so that the compiler does not merge them.
        let mut sums: [V; N_SUMS] = std::array::from_fn(|i| V::splat(i as f32));
        for _ in 0..self.n {
            for sum in &mut sums {
                *sum = sum.plus_product(a, b);
            }
        }
        let total = sums.into_iter().reduce(V::plus).unwrap_or(a);
        let mut numbers = [0.0; 16];
        // SAFETY: no vector has more than 16 floats.
        unsafe { total.store(numbers.as_mut_ptr()) };
        black_box(numbers);
        *self.n_operations = 2 * self.n * N_SUMS * V::N;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_every_thread_and_round() {
        let of_round = multiply_in_registers(1);
        assert_eq!(multiply_in_registers(10), 10.0 * of_round);
        let of_core = of_round / rayon::current_num_threads() as f64;
        assert_eq!(of_core % (2 * N_SUMS) as f64, 0.0);
    }
}
