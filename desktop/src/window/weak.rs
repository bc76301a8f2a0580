//! The line between good and weak matches of a search.

use crate::library::Ranked;

/// Without a measured line, a good match stands out from the scores of all photos by this many
/// standard deviations.
const STANDS_OUT: f32 = 2.0;
/// Fewer photos than this have no scores to stand out from.
const LEAST_PHOTOS: usize = 20;

/// Hits with lower scores are weak matches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WeakBelow {
    pub score: f32,
    /// Whether a calibration measured the score, of this library or of the model.
    pub measured: bool,
}

impl WeakBelow {
    /// The measured line, else a line estimated from the scores; `None` for few or equal scores.
    pub fn of(measured: Option<f32>, hits: &[Ranked]) -> Option<Self> {
        if let Some(score) = measured {
            return Some(Self { score, measured: true });
        }
        if hits.len() < LEAST_PHOTOS {
            return None;
        }
        let mean_of = |value: &dyn Fn(f32) -> f64| {
            hits.iter().map(|hit| value(hit.score)).sum::<f64>() / hits.len() as f64
        };
        let mean = mean_of(&|score| f64::from(score));
        let deviation = mean_of(&|score| (f64::from(score) - mean).powi(2)).sqrt() as f32;
        (deviation > 0.0)
            .then_some(Self { score: mean as f32 + STANDS_OUT * deviation, measured: false })
    }

    /// The heading above the weak matches.
    pub fn in_words(self) -> String {
        let score = self.score;
        match self.measured {
            true => {
                format!("Weak matches: 9 in 10 described photos exceed {score:.3}")
            }
            false => format!("Weak matches: below {score:.3}, like most photos"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(measured: Option<f32>, scores: &[f32]) -> Option<WeakBelow> {
        let hits: Vec<Ranked> =
            scores.iter().map(|score| Ranked { content: 0, score: *score }).collect();
        WeakBelow::of(measured, &hits)
    }

    #[test]
    fn a_measured_line_is_taken() {
        assert_eq!(line(Some(0.3), &[]), Some(WeakBelow { score: 0.3, measured: true }));
    }

    #[test]
    fn otherwise_a_good_match_stands_out() {
        // 24 photos around 0 and one far above.
        let scores: Vec<f32> = [0.5]
            .into_iter()
            .chain((0..24).map(|i| if i % 2 == 0 { 0.01 } else { -0.01 }))
            .collect();
        let line = line(None, &scores).expect("many scores");
        assert!(!line.measured && line.score > 0.1 && line.score < 0.5, "{line:?}");
    }

    #[test]
    fn few_or_equal_scores_have_no_line() {
        assert_eq!(line(None, &[0.5; 30]), None);
        assert_eq!(line(None, &[0.5, 0.1, 0.0]), None);
    }
}
