//! Boxes, pointing and region-text retrieval.

use serde::{Deserialize, Serialize};

use super::retrieval::{RetrievalError, ranks_of_targets, recall_at};

/// Intersection over union of two boxes, in 0..=1; 0 when either is empty or not a number.
///
/// Boxes are `[x0, y0, x1, y1]` in one frame, whichever it is.
pub fn iou(a: [f32; 4], b: [f32; 4]) -> f32 {
    let area = |[x0, y0, x1, y1]: [f32; 4]| {
        if x1 > x0 && y1 > y0 { (x1 - x0) * (y1 - y0) } else { 0.0 }
    };
    let common = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    let union = area(a) + area(b) - common;
    if area(a) > 0.0 && area(b) > 0.0 { common / union } else { 0.0 }
}

/// Where the heat map of a phrase is hottest, and the boxes that the phrase names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pointing {
    /// `[x, y]` of the maximum, in the frame of the boxes.
    pub point: [f32; 2],
    /// `[x0, y0, x1, y1]`; a point in any of them is a hit.
    pub boxes: Vec<[f32; 4]>,
}

impl Pointing {
    /// Whether the point lies in one of the boxes, edges included.
    pub fn is_hit(&self) -> bool {
        let [x, y] = self.point;
        self.boxes.iter().any(|&[x0, y0, x1, y1]| x0 <= x && x <= x1 && y0 <= y && y <= y1)
    }
}

/// Part of the phrases whose heat map is hottest inside the right box (the pointing game, Zhang et al. 2016,
/// arXiv:1608.00507), in 0..=1; 0 without phrases.
pub fn pointing_accuracy(phrases: &[Pointing]) -> f64 {
    let hits = phrases.iter().filter(|phrase| phrase.is_hit()).count();
    hits as f64 / phrases.len().max(1) as f64
}

/// How well phrases find their region in a gallery of regions; recalls in 0..=1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegionScores {
    pub region_text_to_region_recall_at_1: f64,
    pub region_text_to_region_recall_at_5: f64,
    pub region_text_to_region_recall_at_10: f64,
    pub n_phrases: usize,
    pub n_regions: usize,
}

/// Recall of each phrase's region; ties and NaN count against, as in [`super::retrieval::RetrievalRanks`].
///
/// # Shapes
/// - scores: row-major `[n_phrases, n_regions]`
/// - phrase_region_idx: `[n_phrases]`, the region that each phrase names
///
/// # Errors
/// When there are no phrases or the sizes contradict each other.
pub fn region_text_to_region_scores(
    scores: &[f32],
    n_regions: usize,
    phrase_region_idx: &[usize],
) -> Result<RegionScores, RetrievalError> {
    let n_phrases = phrase_region_idx.len();
    if n_phrases == 0 {
        return Err(RetrievalError::Empty { n_images: n_regions, n_texts: n_phrases });
    }
    let ranks = ranks_of_targets(scores, n_regions, phrase_region_idx)?;
    Ok(RegionScores {
        region_text_to_region_recall_at_1: recall_at(&ranks, 1),
        region_text_to_region_recall_at_5: recall_at(&ranks, 5),
        region_text_to_region_recall_at_10: recall_at(&ranks, 10),
        n_phrases,
        n_regions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_that_share_a_third_of_their_union_have_iou_one_third() {
        assert_eq!(iou([0.0, 0.0, 2.0, 1.0], [1.0, 0.0, 3.0, 1.0]), 1.0 / 3.0);
    }

    #[test]
    fn boxes_apart_or_empty_have_iou_zero() {
        assert_eq!(iou([0.0, 0.0, 1.0, 1.0], [2.0, 2.0, 3.0, 3.0]), 0.0);
        assert_eq!(iou([1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]), 0.0);
        assert_eq!(iou([3.0, 3.0, 1.0, 1.0], [0.0, 0.0, 4.0, 4.0]), 0.0);
        assert_eq!(iou([f32::NAN, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]), 0.0);
    }

    #[test]
    fn a_point_in_any_of_the_boxes_is_a_hit() {
        let boxes = vec![[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]];
        let phrase = |x, y| Pointing { point: [x, y], boxes: boxes.clone() };
        let phrases = [phrase(10.0, 3.0), phrase(55.0, 51.0), phrase(20.0, 20.0), phrase(f32::NAN, 1.0)];
        assert_eq!(pointing_accuracy(&phrases), 0.5);
        assert_eq!(pointing_accuracy(&[]), 0.0);
    }

    #[test]
    fn a_phrase_that_prefers_another_region_is_a_miss_at_1() {
        let scores = [0.9, 0.1, 0.2, 0.8, 0.3, 0.8];
        let found = region_text_to_region_scores(&scores, 3, &[0, 1]).unwrap();
        assert_eq!(found.region_text_to_region_recall_at_1, 0.5);
        assert_eq!(found.region_text_to_region_recall_at_5, 1.0);
        assert!(region_text_to_region_scores(&[], 3, &[]).is_err());
    }
}
