//! How far a score would move on other photos: bootstrap intervals, and the difference of two runs on the same
//! photos.
//!
//! A draw takes as many photos as there are, with replacement; all that belongs to a photo (its captions, its
//! regions) is drawn with it.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::caption::{BleuCounts, bleu_of};
use super::classification::roc_auc;

/// Draws of an interval.
pub const N_DRAWS: usize = 1000;

/// What a score is made of, photo by photo, so that it can be computed again on any draw of the photos.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Measure {
    /// Sum of `sum` over sum of `count`: any mean over photos, captions or regions.
    Ratio {
        /// What each photo adds.
        sum: Vec<f64>,
        /// Out of how much.
        count: Vec<f64>,
    },
    /// Mean over classes of the ratio within each.
    MeanPerClass {
        /// Class of each photo.
        class: Vec<usize>,
        /// 1 for a hit.
        hit: Vec<f64>,
    },
    /// Area under the ROC curve.
    RocAuc {
        /// Score of each photo.
        score: Vec<f64>,
        /// Whether it should be high.
        positive: Vec<bool>,
    },
    /// BLEU of up to `n` words, a score of the whole corpus.
    Bleu {
        /// Longest n-gram.
        n: usize,
        /// Counts of each photo.
        counts: Vec<BleuCounts>,
    },
    /// Mean of other measures of the same run.
    Mean {
        /// Their names.
        of: Vec<String>,
    },
}

/// The measures of a run by the names of their scores, all over the same photos.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// Names of the photos.
    pub ids: Vec<String>,
    /// Name and measure.
    pub measures: Vec<(String, Measure)>,
}

/// 95 % of the draws lie between the two.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// 2.5 % of the draws are below.
    pub low: f64,
    /// 2.5 % are above.
    pub high: f64,
}

/// The same score of two runs on the same photos.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Of the first run.
    pub a: f64,
    /// Of the second.
    pub b: f64,
    /// `b − a`.
    pub difference: f64,
    /// Interval of the difference, photos drawn alike for both.
    #[serde(flatten)]
    pub interval: Interval,
}

impl Measures {
    /// A mean where each photo has one value.
    pub fn add_mean(&mut self, name: &str, values: impl IntoIterator<Item = f64>) {
        let sum: Vec<f64> = values.into_iter().collect();
        let count = vec![1.0; sum.len()];
        self.measures.push((name.into(), Measure::Ratio { sum, count }));
    }

    /// A mean over things of which a photo may have any number; `photo_of` names the photo of each.
    pub fn add_mean_of_parts(
        &mut self,
        name: &str,
        photo_of: &[usize],
        values: impl IntoIterator<Item = f64>,
    ) {
        let (mut sum, mut count) = (vec![0.0; self.ids.len()], vec![0.0; self.ids.len()]);
        for (&photo, value) in photo_of.iter().zip(values) {
            sum[photo] += value;
            count[photo] += 1.0;
        }
        self.measures.push((name.into(), Measure::Ratio { sum, count }));
    }

    /// The score of a name on a draw of photos; `None` when there is no such name.
    pub fn score(&self, name: &str, draw: &[usize]) -> Option<f64> {
        let (_, measure) = self.measures.iter().find(|(found, _)| found == name)?;
        let over_draw = |values: &[f64]| draw.iter().map(|&i| values[i]).sum::<f64>();
        Some(match measure {
            Measure::Ratio { sum, count } => over_draw(sum) / over_draw(count),
            Measure::MeanPerClass { class, hit } => {
                let n_classes = class.iter().max().map_or(0, |last| last + 1);
                let mut of_class = vec![(0.0, 0.0); n_classes];
                for &i in draw {
                    of_class[class[i]].0 += hit[i];
                    of_class[class[i]].1 += 1.0;
                }
                let seen = of_class.iter().filter(|(_, n)| *n > 0.0);
                seen.clone().map(|(hits, n)| hits / n).sum::<f64>() / seen.count() as f64
            }
            Measure::RocAuc { score, positive } => {
                let drawn: Vec<(f64, bool)> = draw.iter().map(|&i| (score[i], positive[i])).collect();
                roc_auc(&drawn)
            }
            Measure::Bleu { n, counts } => bleu_of(draw.iter().map(|&i| &counts[i]))[n - 1],
            Measure::Mean { of } => {
                let scores: Vec<f64> = of.iter().map(|name| self.score(name, draw)).collect::<Option<_>>()?;
                scores.iter().sum::<f64>() / scores.len() as f64
            }
        })
    }

    /// The score on all photos.
    pub fn whole(&self, name: &str) -> Option<f64> {
        self.score(name, &(0..self.ids.len()).collect::<Vec<_>>())
    }

    /// Names of the scores.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.measures.iter().map(|(name, _)| name.as_str())
    }

    /// The interval of each score, by its name.
    pub fn intervals(&self, n_draws: usize, seed: u64) -> Vec<(String, Interval)> {
        let draws = draws(self.ids.len(), n_draws, seed);
        let interval = |name: &str| {
            let scores = draws.iter().filter_map(|draw| self.score(name, draw)).collect();
            Some((name.to_owned(), interval_of(scores)?))
        };
        self.names().filter_map(interval).collect()
    }

    /// The scores that both runs have, photo for photo.
    ///
    /// # Errors
    /// When the runs are not of the same photos.
    pub fn compare(
        &self,
        other: &Self,
        n_draws: usize,
        seed: u64,
    ) -> Result<Vec<(String, Difference)>, ComparisonError> {
        if let Some(idx) =
            (0..self.ids.len().max(other.ids.len())).find(|&i| self.ids.get(i) != other.ids.get(i))
        {
            let name = |ids: &[String]| ids.get(idx).cloned().unwrap_or_else(|| "none".into());
            return Err(ComparisonError { idx, a: name(&self.ids), b: name(&other.ids) });
        }
        let draws = draws(self.ids.len(), n_draws, seed);
        let difference = |name: &str| {
            let (a, b) = (self.whole(name)?, other.whole(name)?);
            let differences = draws
                .iter()
                .filter_map(|draw| Some(other.score(name, draw)? - self.score(name, draw)?))
                .collect();
            let interval = interval_of(differences)?;
            Some((name.to_owned(), Difference { a, b, difference: b - a, interval }))
        };
        Ok(self.names().filter_map(difference).collect())
    }
}

/// Two runs that are not of the same photos.
#[derive(Debug, thiserror::Error)]
#[error(
    "photo {idx} is {a} in the first run and {b} in the second\n  hint: compare runs on the same data and --limit"
)]
pub struct ComparisonError {
    /// The first place that differs.
    pub idx: usize,
    /// Photo there in the first run.
    pub a: String,
    /// And in the second.
    pub b: String,
}

fn draws(n: usize, n_draws: usize, seed: u64) -> Vec<Vec<usize>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n_draws).map(|_| (0..n).map(|_| rng.random_range(0..n)).collect()).collect()
}

/// Percentiles 2.5 and 97.5 with linear interpolation, as numpy takes them; NaN draws (a class that was not
/// drawn) are left out.
fn interval_of(mut scores: Vec<f64>) -> Option<Interval> {
    scores.retain(|score| score.is_finite());
    scores.sort_by(f64::total_cmp);
    let last = scores.len().checked_sub(1)?;
    let at = |share: f64| {
        let place = share * last as f64;
        let (below, part) = (place.floor() as usize, place.fract());
        scores[below] + part * (scores[(below + 1).min(last)] - scores[below])
    };
    Some(Interval { low: at(0.025), high: at(0.975) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(values: &[f64]) -> Measures {
        let mut measures =
            Measures { ids: (0..values.len()).map(|i| i.to_string()).collect(), measures: Vec::new() };
        measures.add_mean("hits", values.iter().copied());
        measures
    }

    #[test]
    fn the_interval_of_a_share_is_the_binomial_one() {
        let values: Vec<f64> = (0..1000).map(|i| f64::from(i % 5 == 0)).collect();
        let (_, Interval { low, high }) = run(&values).intervals(N_DRAWS, 0).remove(0);
        // 0.2 ± 1.96 sqrt(0.2 · 0.8 / 1000)
        assert!((low - 0.1752).abs() < 0.004 && (high - 0.2248).abs() < 0.004, "{low} {high}");
    }

    #[test]
    fn a_constant_has_no_interval_and_equal_runs_no_difference() {
        let same = run(&[0.5; 20]);
        assert_eq!(same.intervals(50, 1)[0].1, Interval { low: 0.5, high: 0.5 });
        let (_, difference) = same.compare(&same, 50, 1).expect("the same photos").remove(0);
        assert_eq!(
            (difference.difference, difference.interval.low, difference.interval.high),
            (0.0, 0.0, 0.0)
        );
    }

    #[test]
    fn a_difference_on_the_same_photos_is_told_from_noise() {
        let a: Vec<f64> = (0..400).map(|i| f64::from(i % 4 == 0)).collect();
        let b: Vec<f64> = (0..400).map(|i| f64::from(i % 4 == 0 || i % 20 == 1)).collect();
        let (_, found) = run(&a).compare(&run(&b), N_DRAWS, 0).expect("the same photos").remove(0);
        assert!((found.difference - 0.05).abs() < 1e-12 && found.interval.low > 0.02, "{found:?}");
    }

    #[test]
    fn parts_are_drawn_with_their_photo() {
        let mut measures = Measures { ids: vec!["a".into(), "b".into()], measures: Vec::new() };
        measures.add_mean_of_parts("recall", &[0, 0, 1], [1.0, 0.0, 1.0]);
        assert_eq!(measures.whole("recall"), Some(2.0 / 3.0));
        assert_eq!(measures.score("recall", &[0, 0]), Some(0.5));
    }

    #[test]
    fn runs_of_other_photos_cannot_be_compared() {
        let error = run(&[1.0]).compare(&run(&[1.0, 0.0]), 10, 0).expect_err("one has another photo");
        assert!(error.to_string().contains("photo 1 is none in the first run"), "{error}");
    }
}
