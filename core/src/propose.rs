//! Boxes around a clicked point, proposed from the model's own patch tokens.
//!
//! The affinity of a patch is the cosine of its token with the token at the click. Candidate boxes
//! have several sizes, shapes and positions around the click. They are ranked by
//! `inside − 4 outside − 3.9 offset² − 0.024 ln(area)² − 0.068 ln(width / height)`.
//! Boxes and points are shares of the model's input, in 0..=1.

/// `[x0, y0, x1, y1]` in shares of the model's input.
pub type BoxShare = [f32; 4];

/// Side lengths of the candidate boxes.
const SIZES: [f32; 9] = [0.11, 0.15, 0.2, 0.27, 0.36, 0.48, 0.64, 0.82, 1.0];
/// Distances from the click to the centres of the boxes, in sides of the box.
const OFFSETS: [f32; 5] = [-0.3, -0.15, 0.0, 0.15, 0.3];
/// Extra share of patches, with the photo's mean affinity, that count as outside. So a box of the
/// whole photo has an outside too.
const MORE_OUTSIDE: f32 = 0.03;
/// Weights of [`Candidate::features`], fitted on photos of `coco-train` by
/// `assets/model/recipes/fit_clicks.py`.
const WEIGHTS: [f32; 5] = [1.0, -4.0, -3.9, -0.024, -0.068];
/// The next larger box has at least this many times the area.
const GROWTH: f32 = 2.0;
/// The next larger box contains at least this share of the previous box.
const HELD: f32 = 0.9;

/// Proposes boxes for a clicked point: the best one, then larger ones, then smaller ones.
///
/// # Shapes
/// - patches: V of one photo, `[grid², hidden]` row by row
/// - point: `[x, y]`; a point outside of the input counts as the nearest one inside
pub fn propose(patches: &[f32], grid: usize, point: [f32; 2]) -> Vec<BoxShare> {
    let point = point.map(|at| at.clamp(0.0, 1.0));
    let affinity = affinity(patches, grid, point);
    let mut ranked: Vec<(f32, BoxShare)> = candidates(&affinity, grid, point)
        .iter()
        .map(|candidate| (candidate.score(), candidate.box_share))
        .collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    let ranked: Vec<BoxShare> = ranked.into_iter().map(|(_, box_share)| box_share).collect();

    let mut boxes = vec![ranked[0]];
    for is_next in [is_next_larger, is_next_smaller] {
        let mut last = ranked[0];
        while let Some(next) = ranked.iter().find(|next| is_next(**next, last)) {
            boxes.push(*next);
            last = *next;
        }
    }
    boxes
}

fn is_next_larger(next: BoxShare, last: BoxShare) -> bool {
    area(next) >= GROWTH * area(last) && area(common(next, last)) >= HELD * area(last)
}

fn is_next_smaller(next: BoxShare, last: BoxShare) -> bool {
    is_next_larger(last, next)
}

/// A box that may surround the clicked object.
struct Candidate {
    box_share: BoxShare,
    /// `inside` and `outside` (mean affinities), `offset²`, `ln(area)²`, `ln(width / height)`.
    ///
    /// The offset is the distance of the click from the box's centre, in sides of the box.
    features: [f32; 5],
}

impl Candidate {
    fn score(&self) -> f32 {
        self.features.iter().zip(WEIGHTS).map(|(feature, weight)| weight * feature).sum()
    }
}

/// Cosine of each patch with the token at a point, interpolated between the four nearest patches.
fn affinity(patches: &[f32], grid: usize, point: [f32; 2]) -> Vec<f32> {
    let hidden = patches.len() / grid.pow(2);
    let patch = |x: usize, y: usize| &patches[(y * grid + x) * hidden..][..hidden];
    let [x, y] = point.map(|at| (at * grid as f32 - 0.5).clamp(0.0, (grid - 1) as f32));
    let (left, top) = (x as usize, y as usize);
    let (right, bottom) = ((left + 1).min(grid - 1), (top + 1).min(grid - 1));
    let (to_right, to_bottom) = (x - left as f32, y - top as f32);

    let mut clicked = vec![0.0; hidden];
    for (patch, weight) in [
        (patch(left, top), (1.0 - to_right) * (1.0 - to_bottom)),
        (patch(right, top), to_right * (1.0 - to_bottom)),
        (patch(left, bottom), (1.0 - to_right) * to_bottom),
        (patch(right, bottom), to_right * to_bottom),
    ] {
        clicked.iter_mut().zip(patch).for_each(|(sum, value)| *sum += weight * value);
    }
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let norm = |a: &[f32]| dot(a, a).sqrt().max(1e-6);
    let clicked_norm = norm(&clicked);
    patches
        .chunks_exact(hidden)
        .map(|patch| dot(patch, &clicked) / (norm(patch) * clicked_norm))
        .collect()
}

/// Every pair of a row span and a column span, row by row.
fn candidates(affinity: &[f32], grid: usize, [x, y]: [f32; 2]) -> Vec<Candidate> {
    let total: f32 = affinity.iter().sum();
    let n_patches = affinity.len() as f32;
    let n_more = MORE_OUTSIDE * n_patches;
    let more = MORE_OUTSIDE * total;
    let columns = spans(x, grid);
    let mut candidates = Vec::with_capacity(columns.len().pow(2));
    for row in spans(y, grid) {
        let mut by_column = vec![0.0; grid]; // affinity inside the row
        for (line, covered) in affinity.chunks_exact(grid).zip(&row.covered) {
            by_column.iter_mut().zip(line).for_each(|(sum, affinity)| *sum += covered * affinity);
        }
        for column in &columns {
            let inside: f32 =
                by_column.iter().zip(&column.covered).map(|(sum, covered)| sum * covered).sum();
            let n_inside = row.n_patches() * column.n_patches();
            let offset = ((x - column.center()) / column.len()).powi(2)
                + ((y - row.center()) / row.len()).powi(2);
            candidates.push(Candidate {
                box_share: [column.start, row.start, column.end, row.end],
                features: [
                    inside / n_inside,
                    (total - inside + more) / (n_patches - n_inside + n_more),
                    offset,
                    (column.len() * row.len()).ln().powi(2),
                    (column.len() / row.len()).ln(),
                ],
            });
        }
    }
    candidates
}

/// An interval on one axis.
struct Span {
    start: f32,
    end: f32,
    /// Covered share of each patch along the axis.
    covered: Vec<f32>,
}

impl Span {
    fn len(&self) -> f32 {
        self.end - self.start
    }

    fn center(&self) -> f32 {
        (self.start + self.end) / 2.0
    }

    fn n_patches(&self) -> f32 {
        self.covered.iter().sum()
    }
}

/// Spans around a point, clipped to the input.
fn spans(at: f32, grid: usize) -> Vec<Span> {
    let span = |size: f32, offset: f32| {
        let center = at + offset * size;
        let (start, end) = ((center - size / 2.0).max(0.0), (center + size / 2.0).min(1.0));
        let patch = 1.0 / grid as f32;
        let share = |idx: usize| {
            let from = idx as f32 / grid as f32;
            (end.min(from + patch) - start.max(from)).max(0.0) * grid as f32
        };
        Span { start, end, covered: (0..grid).map(share).collect() }
    };
    SIZES.iter().flat_map(|size| OFFSETS.iter().map(move |offset| span(*size, *offset))).collect()
}

fn area([x0, y0, x1, y1]: BoxShare) -> f32 {
    (x1 - x0).max(0.0) * (y1 - y0).max(0.0)
}

fn common(a: BoxShare, b: BoxShare) -> BoxShare {
    [a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::image::iou;

    /// A map with two kinds of patches: an object and its surroundings.
    fn scene(grid: usize, thing: BoxShare) -> Vec<f32> {
        let is_in = |at: usize, low: f32, high: f32| {
            let center = (at as f32 + 0.5) / grid as f32;
            low < center && center < high
        };
        let patch = |idx: usize| {
            let is_thing =
                is_in(idx % grid, thing[0], thing[2]) && is_in(idx / grid, thing[1], thing[3]);
            if is_thing { [2.0, 0.1, 0.0] } else { [0.2, 1.0, 1.0] }
        };
        (0..grid * grid).flat_map(patch).collect()
    }

    fn check(grid: usize, thing: BoxShare, point: [f32; 2]) {
        let found = propose(&scene(grid, thing), grid, point)[0];
        assert!(iou(found, thing) > 0.6, "{thing:?} at {point:?} on {grid}: found {found:?}");
    }

    #[test]
    fn a_click_finds_the_thing_under_it_wherever_it_is() {
        check(9, [3.0 / 9.0, 2.0 / 9.0, 6.0 / 9.0, 7.0 / 9.0], [0.5, 0.5]);
        check(9, [0.0, 0.0, 4.0 / 9.0, 3.0 / 9.0], [0.22, 0.17]);
        check(9, [5.0 / 9.0, 6.0 / 9.0, 1.0, 1.0], [0.8, 0.85]);
        check(16, [0.25, 0.125, 0.875, 0.5], [0.5, 0.3]);
    }

    #[test]
    fn a_click_beside_the_centre_of_a_thing_finds_it() {
        let thing = [2.0 / 9.0, 2.0 / 9.0, 7.0 / 9.0, 6.0 / 9.0];
        check(9, thing, [0.42, 0.38]);
        check(9, thing, [0.58, 0.5]);
    }

    #[test]
    fn the_first_box_is_followed_by_larger_ones_and_then_by_smaller_ones() {
        let thing = [3.0 / 9.0, 3.0 / 9.0, 6.0 / 9.0, 6.0 / 9.0];
        let boxes = propose(&scene(9, thing), 9, [0.5, 0.5]);
        let n_larger = boxes.windows(2).take_while(|pair| area(pair[1]) > area(pair[0])).count();
        assert!(n_larger >= 2 && n_larger + 1 < boxes.len(), "{boxes:?}");
        for pair in boxes[..=n_larger].windows(2) {
            assert!(is_next_larger(pair[1], pair[0]), "{pair:?}");
        }
        let smaller: Vec<f32> = boxes[n_larger + 1..].iter().map(|found| area(*found)).collect();
        assert!(smaller[0] < area(boxes[0]) && smaller.is_sorted_by(|a, b| a > b), "{smaller:?}");
    }

    #[test]
    fn boxes_stay_inside_whatever_is_clicked() {
        for point in [[0.0, 0.0], [1.0, 0.5], [-3.0, 9.0]] {
            for [x0, y0, x1, y1] in propose(&scene(9, [0.0, 0.0, 0.5, 0.5]), 9, point) {
                assert!(0.0 <= x0 && x0 < x1 && x1 <= 1.0 && 0.0 <= y0 && y0 < y1 && y1 <= 1.0);
            }
        }
        assert!(!propose(&[1.0, 2.0], 1, [0.5, 0.5]).is_empty(), "one patch");
        assert!(!propose(&[0.0; 8], 2, [0.5, 0.5]).is_empty(), "no direction");
    }

    /// The output of `assets/model/recipes/fit_clicks.py --golden`.
    #[derive(Deserialize)]
    struct Golden {
        grid: usize,
        patches: Vec<f32>,
        clicks: Vec<GoldenClick>,
    }

    #[derive(Deserialize)]
    struct GoldenClick {
        point: [f32; 2],
        n_candidates: usize,
        /// Index of a candidate, its box, and its features.
        candidates: Vec<(usize, BoxShare, [f32; 5])>,
    }

    #[test]
    fn features_are_those_that_the_weights_were_fitted_on() {
        let golden: Golden =
            serde_json::from_str(include_str!("propose/golden.json")).expect("as written");
        for GoldenClick { point, n_candidates, candidates: wanted } in golden.clicks {
            let affinity = affinity(&golden.patches, golden.grid, point);
            let found = candidates(&affinity, golden.grid, point);
            assert_eq!(found.len(), n_candidates);
            for (idx, box_share, features) in wanted {
                let pairs = found[idx].box_share.iter().chain(&found[idx].features);
                for (found, wanted) in pairs.zip(box_share.iter().chain(&features)) {
                    // The order of f32 sums differs.
                    assert!(
                        (found - wanted).abs() < 1e-4,
                        "candidate {idx} at {point:?}: {found} {wanted}"
                    );
                }
            }
        }
    }
}
