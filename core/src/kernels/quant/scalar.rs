//! The products in plain loops, the reference for every other kernel.

use super::activations::Row;
use super::product::{Tile, WeightRow};
use super::{BLOCK, Bits};

/// See [`super::product::Kernel`].
pub(super) fn tile(bits: Bits, weights: &[WeightRow], activations: &[Row]) -> Tile {
    let mut tile = Tile::default();
    for (weights, products) in weights.iter().zip(&mut tile) {
        for (activations, product) in activations.iter().zip(products) {
            *product = dot(bits, weights, activations);
        }
    }
    tile
}

fn dot(bits: Bits, weights: &WeightRow, activations: &Row) -> f32 {
    let blocks =
        weights.codes.chunks_exact(bits.block_bytes()).zip(activations.numbers.chunks_exact(BLOCK));
    let scales = weights.scales.iter().zip(activations.scales);
    blocks
        .zip(scales)
        .map(|((codes, numbers), (weight_scale, activation_scale))| {
            let sum = match bits {
                Bits::Eight => dot_8(codes, numbers),
                Bits::Four => dot_4(codes, numbers),
            };
            sum as f32 * (weight_scale.to_f32() * activation_scale)
        })
        .sum()
}

fn dot_8(codes: &[u8], numbers: &[i8]) -> i32 {
    codes
        .iter()
        .zip(numbers)
        .map(|(code, number)| i32::from(*code as i8) * i32::from(*number))
        .sum()
}

fn dot_4(codes: &[u8], numbers: &[i8]) -> i32 {
    let (low, high) = numbers.split_at(BLOCK / 2);
    let pairs = codes.iter().zip(low.iter().zip(high));
    pairs
        .map(|(code, (low, high))| {
            (i32::from(code & 15) - 8) * i32::from(*low)
                + (i32::from(code >> 4) - 8) * i32::from(*high)
        })
        .sum()
}
