//! Dense captioning: mean average precision over a grid of minimum overlaps and METEOR scores
//! (DenseCap, arXiv:1511.07571).

/// Minimum overlaps of the grid.
pub const MIN_OVERLAPS: [f64; 5] = [0.3, 0.4, 0.5, 0.6, 0.7];
/// METEOR scores of the grid; a caption must score above the value.
pub const MIN_METEORS: [f64; 6] = [0.0, 0.05, 0.1, 0.15, 0.2, 0.25];
/// Overlap at which two true boxes are merged.
const MERGE_OVERLAP: f64 = 0.7;
/// DenseCap counts pixels: a box from 3 to 5 is 3 wide.
const PIXEL: f64 = 1.0;
/// Number of recalls at which precision is read: 0, 0.01, .., 0.99. The reference intends to
/// include 1, but rounding in its loop exceeds 1 and ends it early.
const N_RECALLS: usize = 100;

/// A box that the model found, with its caption.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    /// The box, in pixels.
    pub box_px: [f32; 4],
    /// The model's confidence.
    pub score: f64,
    /// The caption.
    pub caption: String,
}

/// The true boxes of a photo, with near-identical ones merged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrueBoxes {
    boxes: Vec<[f64; 4]>,
    captions: Vec<Vec<String>>,
}

/// A detection with the true box that it overlaps most.
#[derive(Clone, Debug, PartialEq)]
pub struct Matched {
    /// The model's confidence.
    pub score: f64,
    /// Overlap with that true box.
    pub overlap: f64,
    /// Whether no more confident detection was assigned to that box.
    pub is_first: bool,
    /// The model's caption.
    pub caption: String,
    /// The reference captions of that box; empty if no box overlaps.
    pub references: Vec<String>,
}

/// Mean average precisions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DenseScores {
    /// Mean over the whole grid; `None` without METEOR scores.
    pub dense_captioning_map: Option<f64>,
    /// Mean over the minimum overlaps, regardless of captions.
    pub detection_map: f64,
}

impl TrueBoxes {
    /// Merges boxes of one photo that overlap by 0.7 or more. Takes the largest group first, and
    /// replaces it by its mean box with all its captions.
    pub fn new(boxes: &[[f32; 4]], captions: &[String]) -> Self {
        let boxes: Vec<[f64; 4]> = boxes.iter().map(|b| b.map(f64::from)).collect();
        let mut left: Vec<bool> = vec![true; boxes.len()];
        let mut merged = Self::default();
        let group_of = |i: usize, left: &[bool]| -> Vec<usize> {
            let near =
                |&j: &usize| left[i] && left[j] && overlap(boxes[i], boxes[j]) >= MERGE_OVERLAP;
            (0..boxes.len()).filter(near).collect()
        };
        loop {
            let groups = (0..boxes.len()).map(|i| group_of(i, &left));
            // The first group in a tie.
            let largest =
                groups.reduce(|best, group| if group.len() > best.len() { group } else { best });
            let Some(group) = largest.filter(|group| !group.is_empty()) else { return merged };
            let mean = |corner: usize| {
                group.iter().map(|&i| boxes[i][corner]).sum::<f64>() / group.len() as f64
            };
            merged.boxes.push([0, 1, 2, 3].map(mean));
            merged.captions.push(group.iter().map(|&i| captions[i].clone()).collect());
            group.iter().for_each(|&i| left[i] = false);
        }
    }

    /// Number of boxes after merging.
    pub fn len(&self) -> usize {
        self.boxes.len()
    }

    /// Whether the photo has no true box.
    pub fn is_empty(&self) -> bool {
        self.boxes.is_empty()
    }

    /// Assigns each detection, the most confident first, to the true box that it overlaps most.
    pub fn assign(&self, detections: &[Detection]) -> Vec<Matched> {
        let mut order: Vec<usize> = (0..detections.len()).collect();
        order.sort_by(|a, b| detections[*b].score.total_cmp(&detections[*a].score));
        let mut used = vec![false; self.len()];
        let matched = |idx: usize| {
            let Detection { box_px, score, caption } = &detections[idx];
            let overlaps =
                self.boxes.iter().map(|truth| overlap(box_px.map(f64::from), *truth)).enumerate();
            let best = overlaps.reduce(|best, next| if next.1 > best.1 { next } else { best });
            let best = best.filter(|(_, overlap)| *overlap > 0.0);
            Matched {
                score: *score,
                overlap: best.map_or(0.0, |(_, overlap)| overlap),
                is_first: best.is_some_and(|(truth, _)| !std::mem::replace(&mut used[truth], true)),
                caption: caption.clone(),
                references: best.map_or_else(Vec::new, |(truth, _)| self.captions[truth].clone()),
            }
        };
        order.into_iter().map(matched).collect()
    }
}

/// The scores over all photos. `meteors` has a score for each of `matched`; `n_true` counts merged
/// boxes.
pub fn dense_scores(matched: &[Matched], meteors: Option<&[f64]>, n_true: usize) -> DenseScores {
    let mut order: Vec<usize> = (0..matched.len()).collect();
    order.sort_by(|a, b| matched[*b].score.total_cmp(&matched[*a].score));
    let precision = |min_overlap: f64, is_said: &dyn Fn(usize) -> bool| {
        let is_right = |&idx: &usize| {
            let Matched { overlap, is_first, references, .. } = &matched[idx];
            !references.is_empty() && *overlap >= min_overlap && *is_first && is_said(idx)
        };
        average_precision(order.iter().map(is_right), n_true)
    };
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    let cell = |meteors: &[f64], min_overlap: f64, min_meteor: f64| {
        precision(min_overlap, &|idx| meteors[idx] > min_meteor)
    };
    let grid = |meteors: &[f64]| {
        let row = |min_overlap: &f64| {
            MIN_METEORS.map(|min_meteor| cell(meteors, *min_overlap, min_meteor))
        };
        mean(MIN_OVERLAPS.iter().flat_map(row).collect())
    };
    DenseScores {
        dense_captioning_map: meteors.map(grid),
        detection_map: mean(MIN_OVERLAPS.iter().map(|min| precision(*min, &|_| true)).collect()),
    }
}

/// Mean over recalls of the best precision at that recall or above.
fn average_precision(is_right: impl Iterator<Item = bool>, n_true: usize) -> f64 {
    let mut hits = 0;
    let mut curve: Vec<(f64, f64)> = is_right
        .enumerate()
        .map(|(idx, is_right)| {
            hits += usize::from(is_right);
            (hits as f64 / n_true as f64, hits as f64 / (idx + 1) as f64)
        })
        .collect();
    // Backwards, the best precision from each point on.
    let mut best = 0.0_f64;
    for (_, precision) in curve.iter_mut().rev() {
        best = best.max(*precision);
        *precision = best;
    }
    let at = |recall: f64| {
        let first = curve.partition_point(|(found, _)| *found < recall);
        curve.get(first).map_or(0.0, |(_, precision)| *precision)
    };
    (0..N_RECALLS).map(|i| at(i as f64 / N_RECALLS as f64)).sum::<f64>() / N_RECALLS as f64
}

fn overlap(a: [f64; 4], b: [f64; 4]) -> f64 {
    let area = |[x0, y0, x1, y1]: [f64; 4]| (x1 - x0 + PIXEL).max(0.0) * (y1 - y0 + PIXEL).max(0.0);
    let common = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    common / (area(a) + area(b) - common)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(box_px: [f32; 4], score: f64) -> Detection {
        Detection { box_px, score, caption: "a dog".into() }
    }

    fn truth(boxes: &[[f32; 4]]) -> TrueBoxes {
        let captions: Vec<String> = (0..boxes.len()).map(|i| format!("thing {i}")).collect();
        TrueBoxes::new(boxes, &captions)
    }

    const A: [f32; 4] = [0.0, 0.0, 99.0, 99.0];
    const B: [f32; 4] = [200.0, 0.0, 299.0, 99.0];

    #[test]
    fn boxes_on_top_of_each_other_are_one_with_all_captions() {
        let merged = truth(&[B, A, [1.0, 0.0, 100.0, 99.0]]);
        assert_eq!(merged.boxes, [[0.5, 0.0, 99.5, 99.0], [200.0, 0.0, 299.0, 99.0]]);
        assert_eq!(merged.captions[0], ["thing 1", "thing 2"]);
    }

    #[test]
    fn a_box_is_found_once() {
        let matched = truth(&[A, B]).assign(&[
            said(A, 0.1),
            said(A, 0.9),
            said([400.0, 0.0, 450.0, 9.0], 0.5),
        ]);
        assert_eq!(matched.iter().map(|m| m.is_first).collect::<Vec<_>>(), [true, false, false]);
        assert_eq!(matched.iter().map(|m| m.overlap).collect::<Vec<_>>(), [1.0, 0.0, 1.0]);
        assert!(matched[1].references.is_empty());
    }

    #[test]
    fn half_of_the_boxes_found_is_half_of_the_precision() {
        let matched = truth(&[A, B]).assign(&[said(A, 0.9)]);
        let scores = dense_scores(&matched, Some(&[0.12]), 2);
        // Full precision at recalls 0 to 0.5.
        assert!((scores.detection_map - 0.51).abs() < 1e-12, "{scores:?}");
        // The caption passes three of six thresholds.
        assert!((scores.dense_captioning_map.expect("METEOR was given") - 0.255).abs() < 1e-12);
        assert_eq!(dense_scores(&matched, None, 2).dense_captioning_map, None);
    }
}
