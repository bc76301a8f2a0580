//! Activations in 8 bits, in blocks of the same size as the weights'.

use super::{BLOCK, Bits};
use crate::vectors::vectorized;

/// Blocks whose scales a kernel loads at once; rows are padded to a multiple of it.
pub(super) const LANES: usize = 8;

/// Rows of activations: `value = scale * number`, with one scale per block of each row.
#[derive(Debug)]
pub(super) struct Rows {
    n_rows: usize,
    /// Blocks per row, a multiple of [`LANES`]; those past the end of the row are zero.
    n_blocks: usize,
    /// `[rows, blocks, 32]`, −127..=127
    numbers: Vec<i8>,
    /// `[rows, blocks]`
    scales: Vec<f32>,
    /// Start values of the blocks' sums of products. They correct kernels that read a 4-bit weight
    /// as 0..=15, or add 128 to an 8-bit one: −8 or −128 times the sum of the block's numbers.
    starts: Vec<i32>,
}

impl Rows {
    /// Quantises rows of `n_columns` values.
    pub fn round(values: &[f32], n_columns: usize, bits: Bits) -> Self {
        let n_rows = values.len() / n_columns;
        let n_blocks = n_columns.div_ceil(BLOCK).next_multiple_of(LANES);
        let mut rows = Self {
            n_rows,
            n_blocks,
            numbers: vec![0; n_rows * n_blocks * BLOCK],
            scales: vec![0.0; n_rows * n_blocks],
            starts: vec![0; n_rows * n_blocks],
        };
        round_rows(values, n_columns, bits, &mut rows);
        rows
    }

    /// All rows.
    pub fn all(&self) -> Vec<Row<'_>> {
        (0..self.n_rows).map(|row| self.row(row)).collect()
    }

    /// One row.
    pub fn row(&self, row: usize) -> Row<'_> {
        let blocks = row * self.n_blocks..(row + 1) * self.n_blocks;
        Row {
            numbers: &self.numbers[blocks.start * BLOCK..blocks.end * BLOCK],
            scales: &self.scales[blocks.clone()],
            starts: &self.starts[blocks],
        }
    }
}

/// A row of [`Rows`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    pub numbers: &'a [i8],
    pub scales: &'a [f32],
    #[cfg_attr(
        not(target_arch = "x86_64"),
        allow(dead_code, reason = "the other kernels take signed numbers")
    )]
    pub starts: &'a [i32],
}

vectorized! {
    /// Fills rows of zeros.
    fn round_rows(values: &[f32], n_columns: usize, bits: Bits, rows: &mut Rows) {
        let added = match bits {
            Bits::Eight => 128,
            Bits::Four => 8,
        };
        for (row, values) in values.chunks_exact(n_columns).enumerate() {
            let first = row * rows.n_blocks;
            let (numbers, _) = rows.numbers[first * BLOCK..].as_chunks_mut::<BLOCK>();
            let scales = rows.scales[first..].iter_mut().zip(&mut rows.starts[first..]);
            let (blocks, rest) = values.as_chunks::<BLOCK>();
            let mut last = [0.0; BLOCK];
            last[..rest.len()].copy_from_slice(rest);
            let last = (!rest.is_empty()).then_some(&last);
            for ((values, numbers), (scale, start)) in
                blocks.iter().chain(last).zip(numbers).zip(scales)
            {
                *scale = round_block(values, numbers);
                let sum: i32 = numbers.iter().map(|number| i32::from(*number)).sum();
                *start = -added * sum;
            }
        }
    }
}

/// Quantises the values of a block and returns their scale.
#[inline(always)]
fn round_block(values: &[f32; BLOCK], numbers: &mut [i8; BLOCK]) -> f32 {
    /// `1.5 * 2^23`: adding it rounds a small float to an integer, which is then in the lowest bits.
    const ROUNDING: f32 = 12_582_912.0;
    // Without the sign, the bits of floats have the order of the floats. NaN and infinity come last.
    let magnitude = |value: &f32| (value.to_bits() & (u32::MAX >> 1)) as i32;
    let largest = values.iter().fold(0, |max: i32, value| max.max(magnitude(value)));
    let largest = f32::from_bits(largest as u32);
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    for (number, value) in numbers.iter_mut().zip(values) {
        *number = (value * inverse + ROUNDING).to_bits() as i8;
    }
    // Preserve NaN and infinity: a product that hides them would be a silent error.
    if largest.is_finite() { largest / 127.0 } else { f32::NAN }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_within_half_a_step_of_the_largest() {
        let values: Vec<f32> = (0..70).map(|i| ((i * 37) % 71) as f32 - 35.0).collect();
        let rows = Rows::round(&values, 35, Bits::Eight);
        assert_eq!((rows.n_rows, rows.n_blocks), (2, LANES));
        for (row, values) in values.chunks(35).enumerate() {
            let row = rows.row(row);
            for (i, value) in values.iter().enumerate() {
                let scale = row.scales[i / BLOCK];
                assert!((f32::from(row.numbers[i]) * scale - value).abs() <= 0.5001 * scale);
            }
            assert!(row.numbers[35..].iter().all(|number| *number == 0));
        }
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = vec![1.0; 33];
            values[32] = bad;
            let rows = Rows::round(&values, 33, Bits::Eight);
            assert!(rows.row(0).scales[1].is_nan() && rows.row(0).scales[0].is_finite());
        }
    }
}
