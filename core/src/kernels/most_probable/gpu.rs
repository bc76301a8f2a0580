//! The choice of a token on a GPU.

use burn::tensor::{DType, Int, Shape, Tensor};
use cubecl::prelude::*;

use super::cube::sum_of_cube;
use super::launch::{Grid, launch};
use super::tensors::{contiguous, empty, wrap, wrap_ints};

/// Units that share a row of scores over a vocabulary; every device supports this many.
const SCORE_UNITS: usize = 256;
/// The smallest finite number, because WGSL has no infinity.
const LOWEST: f32 = f32::MIN;

pub fn most_probable(logits: Tensor<2>) -> (Tensor<2, Int>, Tensor<2>) {
    let [batch, n_scores] = logits.dims();
    let logits = contiguous(logits);
    let ids = empty(&logits, Shape::from([batch, 1]), DType::I32);
    let choices = empty(&logits, Shape::from([batch, 2]), DType::F32);
    launch!(most_probable_kernel<f32> on Grid::new(&logits, [batch, 1, 1], SCORE_UNITS);
        logits.into_buffer_arg(),
        ids.clone().into_buffer_arg(),
        choices.clone().into_buffer_arg(),
        n_scores,
        SCORE_UNITS,
    );
    (wrap_ints(ids), wrap(choices))
}

/// Index and log probability of each row's largest score (the first of equal ones), one cube per
/// row.
///
/// Index 0 if no score is above [`LOWEST`], for example because all are NaN.
///
/// `choices` receives both as floats: `[rows, 2]`.
#[cube(launch_unchecked)]
fn most_probable_kernel<F: Float>(
    logits: &[F],
    ids: &mut [i32],
    choices: &mut [F],
    n_scores: usize,
    #[comptime] units: usize,
) {
    let unit = UNIT_POS as usize;
    let start = CUBE_POS * n_scores;
    let mut best = F::new(LOWEST);
    // Past the last score until one is found.
    let mut place = n_scores as u32;
    let mut i = unit;
    while i < n_scores {
        let score = logits[start + i];
        if score > best {
            best = score;
            place = i as u32;
        }
        i += units;
    }
    let mut scores = Shared::<[F]>::new_slice(units);
    let mut places = Shared::<[u32]>::new_slice(units);
    scores[unit] = best;
    places[unit] = place;
    sync_cube();
    let mut half = comptime!(units / 2).runtime();
    while half > 0 {
        if unit < half {
            let other = scores[unit + half];
            let other_place = places[unit + half];
            let mine = scores[unit];
            if other > mine || (other == mine && other_place < places[unit]) {
                scores[unit] = other;
                places[unit] = other_place;
            }
        }
        sync_cube();
        half /= 2;
    }
    let largest = scores[0];

    let mut sum = F::new(0.0);
    let mut i = unit;
    while i < n_scores {
        sum += (logits[start + i] - largest).exp();
        i += units;
    }
    let total = sum_of_cube::<F>(sum, units);
    if unit == 0 {
        let mut chosen = places[0];
        if chosen == n_scores as u32 {
            chosen = 0;
        }
        ids[CUBE_POS] = i32::cast_from(chosen);
        choices[CUBE_POS * 2] = F::cast_from(chosen);
        choices[CUBE_POS * 2 + 1] = F::new(0.0) - total.ln();
    }
}
