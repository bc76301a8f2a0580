//! Resizes learned positions to another number of patches.

/// Interpolation method of a library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resampling {
    /// `torch.nn.functional.interpolate(.., mode="bicubic", antialias=True)`: open_clip, timm.
    Antialiased,
    /// Bicubic without `antialias`: transformers.
    Plain,
}

/// Resizes a grid `[from², width]` to `[to², width]`.
pub(super) fn resample(
    grid: &[f32],
    width: usize,
    from: usize,
    to: usize,
    resampling: Resampling,
) -> Vec<f32> {
    let weights = weights(from, to, resampling);
    let mut resized = Vec::with_capacity(to * to * width);
    for row_weights in &weights {
        for column_weights in &weights {
            let mut vector = vec![0f64; width];
            for (y, wy) in row_weights {
                for (x, wx) in column_weights {
                    let patch = &grid[(y * from + x) * width..][..width];
                    vector
                        .iter_mut()
                        .zip(patch)
                        .for_each(|(sum, value)| *sum += wy * wx * f64::from(*value));
                }
            }
            resized.extend(vector.iter().map(|value| *value as f32));
        }
    }
    resized
}

/// For each new position: the old positions that contribute and their weights, which sum to 1.
fn weights(from: usize, to: usize, resampling: Resampling) -> Vec<Vec<(usize, f64)>> {
    match resampling {
        Resampling::Antialiased => antialiased(from, to),
        Resampling::Plain => plain(from, to),
    }
}

fn antialiased(from: usize, to: usize) -> Vec<Vec<(usize, f64)>> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let support = 2.0 * stretch;
    (0..to)
        .map(|i| {
            let center = scale * (i as f64 + 0.5);
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            let raw: Vec<f64> =
                (first..end).map(|j| cubic((j as f64 - center + 0.5) / stretch, -0.5)).collect();
            let sum: f64 = raw.iter().sum();
            (first..end).zip(raw).map(|(j, weight)| (j, weight / sum)).collect()
        })
        .collect()
}

/// Four neighbours. A neighbour beyond the border is the border itself.
fn plain(from: usize, to: usize) -> Vec<Vec<(usize, f64)>> {
    let scale = from as f64 / to as f64;
    (0..to)
        .map(|i| {
            let center = scale * (i as f64 + 0.5) - 0.5;
            let left = center.floor();
            (-1..=2)
                .map(|step| {
                    let at = left + f64::from(step);
                    (at.clamp(0.0, from as f64 - 1.0) as usize, cubic(at - center, -0.75))
                })
                .collect()
        })
        .collect()
}

/// Keys' cubic convolution kernel.
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Resampling; 2] = [Resampling::Antialiased, Resampling::Plain];

    #[test]
    fn the_same_grid_is_left_as_it_is() {
        for resampling in BOTH {
            let grid: Vec<f32> = (0..50).map(|i| (i * i % 17) as f32).collect();
            assert_eq!(resample(&grid, 2, 5, 5, resampling), grid);
        }
    }

    // Checked with torch.nn.functional.interpolate(torch.eye(2)[None], size=3, mode="bicubic" on
    // [1,1,2,2] ...): the middle of two positions is their mean.
    #[test]
    fn a_position_between_two_is_their_mean() {
        for resampling in BOTH {
            let mut of_each = [0.0; 2];
            weights(2, 3, resampling)[1].iter().for_each(|(at, weight)| of_each[*at] += weight);
            assert!(
                of_each.iter().all(|weight| (weight - 0.5).abs() < 1e-12),
                "{resampling:?} {of_each:?}"
            );
        }
    }
}
