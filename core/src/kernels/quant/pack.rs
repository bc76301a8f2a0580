//! Packs floats into blocks, with the scale of the smallest error.

use half::f16;

use super::{BLOCK, Bits, Packed};
use crate::vectors::vectorized;

impl Packed {
    /// Packs a matrix `[out, in]` in row-major order.
    ///
    /// Values too large for an f16 scale give an infinite scale, which every reader rejects.
    pub fn pack(values: &[f32], n_columns: usize, bits: Bits) -> Self {
        assert!(n_columns > 0 && values.len().is_multiple_of(n_columns), "a matrix has whole rows");
        let n_rows = values.len() / n_columns;
        let n_blocks = n_rows * n_columns.div_ceil(BLOCK);
        let mut packed = Self {
            bits,
            n_rows,
            n_columns,
            codes: Vec::with_capacity(n_blocks * bits.block_bytes()),
            scales: Vec::with_capacity(n_blocks),
        };
        add_rows(values, &mut packed);
        packed
    }
}

// Loops over arrays, because closures are not compiled for the vectors of their callers.
vectorized! {
    /// Adds the codes and scales of these rows.
    fn add_rows(values: &[f32], packed: &mut Packed) {
        let Packed { bits, n_columns, ref mut codes, ref mut scales, .. } = *packed;
        for part in values.chunks_exact(n_columns).flat_map(|row| row.chunks(BLOCK)) {
            let mut block = [0.0; BLOCK];
            block[..part.len()].copy_from_slice(part);
            match bits {
                Bits::Eight => {
                    let scale = f16::from_f32(largest(&block).abs() / 127.0);
                    let numbers = rounded(&block, scale, -127.0, 127.0);
                    let mut bytes = [0; BLOCK];
                    for (byte, number) in bytes.iter_mut().zip(numbers) {
                        *byte = number as i8 as u8;
                    }
                    scales.push(scale);
                    codes.extend(bytes);
                }
                Bits::Four => {
                    let scale = best_scale_of_4_bits(&block);
                    let numbers = rounded(&block, scale, -8.0, 7.0);
                    let mut bytes = [0; BLOCK / 2];
                    let (firsts, seconds) = numbers.split_at(BLOCK / 2);
                    for ((byte, first), second) in bytes.iter_mut().zip(firsts).zip(seconds) {
                        *byte = (first + 8.0) as u8 | ((second + 8.0) as u8) << 4;
                    }
                    scales.push(scale);
                    codes.extend(bytes);
                }
            }
        }
    }
}

/// The scale with the smallest squared error.
///
/// Tries several ranges around the largest value. Each range gives integers; their least-squares
/// scale is a candidate.
#[inline(always)]
fn best_scale_of_4_bits(block: &[f32; BLOCK]) -> f16 {
    /// Steps from zero to the largest value; negative if it is on the side with eight steps.
    const STEPS: [f32; 14] =
        [-9.5, -9.0, -8.6, -8.3, -8.0, -7.7, -7.4, -7.0, -6.6, -6.2, 7.6, 7.2, 6.8, 6.4];
    let largest = largest(block);
    let plain = f16::from_f32(largest / -8.0);
    let mut best = (error_of_4_bits(block, plain), plain);
    for steps in STEPS {
        let numbers = rounded(block, f16::from_f32(largest / steps), -8.0, 7.0);
        let (mut dot, mut norm) = (0.0, 0.0);
        for (n, x) in numbers.iter().zip(block) {
            dot += n * x;
            norm += n * n;
        }
        if norm == 0.0 {
            continue;
        }
        let scale = f16::from_f32(dot / norm);
        let error = error_of_4_bits(block, scale);
        if error < best.0 {
            best = (error, scale);
        }
    }
    best.1
}

/// The squared error of the block with this scale.
#[inline(always)]
fn error_of_4_bits(block: &[f32; BLOCK], scale: f16) -> f32 {
    let numbers = rounded(block, scale, -8.0, 7.0);
    let scale = scale.to_f32();
    let mut sum = 0.0;
    for (n, x) in numbers.iter().zip(block) {
        sum += (n * scale - x).powi(2);
    }
    sum
}

/// The value with the largest magnitude.
#[inline(always)]
fn largest(block: &[f32; BLOCK]) -> f32 {
    let mut largest = 0.0f32;
    for x in block {
        if x.abs() > largest.abs() {
            largest = *x;
        }
    }
    largest
}

/// Each value in steps of the scale, rounded to integers; zeros if the scale is zero.
#[inline(always)]
fn rounded(block: &[f32; BLOCK], scale: f16, min: f32, max: f32) -> [f32; BLOCK] {
    let scale = scale.to_f32();
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let mut numbers = [0.0; BLOCK];
    for (number, x) in numbers.iter_mut().zip(block) {
        *number = (x * inverse).round_ties_even().clamp(min, max);
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::quant::PackedError;

    /// Distinct values of both signs, like weights.
    fn weights(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + 13) % 1009) as f32 / 504.0 - 1.0).collect()
    }

    fn largest_error(found: &[f32], wanted: &[f32]) -> f32 {
        found.iter().zip(wanted).map(|(f, w)| (f - w).abs()).fold(0.0, f32::max)
    }

    fn check(n_rows: usize, n_columns: usize, bits: Bits, bound: f32) {
        let values = weights(n_rows * n_columns);
        let packed = Packed::pack(&values, n_columns, bits);
        assert_eq!(packed.widen().len(), values.len());
        let error = largest_error(&packed.widen(), &values);
        assert!(error <= bound, "{n_rows}x{n_columns} {bits:?}: {error}");
        let again = Packed::new(bits, packed.shape(), packed.codes.clone(), packed.scales.clone());
        assert_eq!(again.as_ref(), Ok(&packed));
    }

    #[test]
    fn rows_of_any_length_come_back_within_half_a_step() {
        for n_columns in [1, 31, 32, 33, 64, 100] {
            for n_rows in [1, 3] {
                check(n_rows, n_columns, Bits::Eight, 0.5 / 127.0 + 1e-3);
                check(n_rows, n_columns, Bits::Four, 0.5 / 7.0 + 0.08);
            }
        }
    }

    #[test]
    fn whole_steps_come_back_exactly() {
        let values: Vec<f32> = (0..64).map(|i| (i % 16) as f32 * 0.25 - 2.0).collect();
        assert_eq!(Packed::pack(&values, 64, Bits::Four).widen(), values);
        let values: Vec<f32> =
            (0..32).map(|i| if i == 5 { 63.5 } else { (i - 16) as f32 * 0.5 }).collect();
        assert_eq!(Packed::pack(&values, 32, Bits::Eight).widen(), values);
    }

    #[test]
    fn the_chosen_scale_loses_less_than_the_largest_value_over_eight() {
        let squared = |found: &[f32], wanted: &[f32]| -> f32 {
            found.iter().zip(wanted).map(|(f, w)| (f - w).powi(2)).sum()
        };
        let mut better = 0;
        for seed in 0..50 {
            let block: [f32; BLOCK] = std::array::from_fn(|i| weights(64 + seed)[seed + i].powi(3));
            let naive = f16::from_f32(largest(&block) / -8.0);
            let naive = rounded(&block, naive, -8.0, 7.0).map(|n| n * naive.to_f32());
            let (naive, best) = (
                squared(&naive, &block),
                squared(&Packed::pack(&block, BLOCK, Bits::Four).widen(), &block),
            );
            assert!(best <= naive, "{best} > {naive}");
            better += usize::from(best < 0.95 * naive);
        }
        assert!(better > 10, "only {better} of 50");
    }

    #[test]
    fn a_block_of_zeros_stays_zero() {
        for bits in [Bits::Eight, Bits::Four] {
            assert_eq!(Packed::pack(&[0.0; 40], 40, bits).widen(), [0.0; 40]);
        }
    }

    #[test]
    fn what_no_packed_matrix_can_be_is_refused() {
        let packed = Packed::pack(&weights(33), 33, Bits::Four);
        let make =
            |codes: Vec<u8>, scales: Vec<f16>| Packed::new(Bits::Four, [1, 33], codes, scales);
        let mut infinite = packed.scales.clone();
        infinite[1] = f16::INFINITY;
        assert_eq!(make(packed.codes.clone(), infinite), Err(PackedError::NotFinite));
        let mut beyond = packed.codes.clone();
        beyond[17] = 0;
        assert_eq!(make(beyond, packed.scales.clone()), Err(PackedError::Padding(33)));
        let short = packed.codes[1..].to_vec();
        assert_eq!(
            make(short, packed.scales.clone()),
            Err(PackedError::Length { found: 31, wanted: 32 })
        );
        let huge = Packed::pack(&[3e38; 32], 32, Bits::Four);
        assert!(huge.scales[0].is_infinite());
    }
}
