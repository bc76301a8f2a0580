//! Bootstrap intervals of scores, and of the difference of two runs on the same photos.
//!
//! A run stores the parts of each score photo by photo. So every score, and both runs of a
//! comparison, use the same draws. A draw takes as many photos as there are, with replacement. A
//! photo's captions and regions are drawn with it. With several sets, each set is drawn separately.

use std::ops::Range;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::caption::{BleuCounts, bleu_of};
use super::classification::{mean_average_precision_11, roc_auc};

/// Number of draws for an interval.
pub const N_DRAWS: usize = 1000;

/// The parts of a score, photo by photo, so that the score can be recomputed on any draw of the
/// photos.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Measure {
    /// Sum of `sum` over sum of `count`: any mean over photos, captions or regions.
    Ratio {
        /// Each photo's contribution to the numerator.
        sum: Vec<f64>,
        /// Each photo's contribution to the denominator.
        count: Vec<f64>,
    },
    /// Mean over classes of the ratio within each.
    MeanPerClass {
        /// Class of each photo.
        class: Vec<usize>,
        /// 1 for a hit, otherwise 0.
        hit: Vec<f64>,
    },
    /// Area under the ROC curve.
    RocAuc {
        /// Score of each photo.
        score: Vec<f64>,
        /// Whether the photo is a positive.
        positive: Vec<bool>,
    },
    /// Average precision at 11 recalls, averaged over classes.
    #[serde(rename = "map_11_points")]
    Map11Points {
        /// Number of classes.
        n_classes: usize,
        /// Row-major `[photos, n_classes]`.
        scores: Vec<f64>,
        /// Classes of each photo.
        labels: Vec<Vec<usize>>,
    },
    /// BLEU of up to `n` words, a score of the whole corpus.
    Bleu {
        /// Longest n-gram.
        n: usize,
        /// Counts of each photo.
        counts: Vec<BleuCounts>,
    },
    /// A measure over the photos of one of several sets.
    OfSet {
        /// Number of the set.
        set: usize,
        /// The measure over the set's own photos.
        measure: Box<Measure>,
    },
    /// Mean of other measures of the same run.
    Mean {
        /// Their names; these measures come before this one.
        of: Vec<String>,
    },
}

/// The measures of a run under the names of their scores, all over the same photos.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// Names of the photos.
    pub ids: Vec<String>,
    /// Number of photos in each of several sets, which follow one another; empty for a single set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<usize>,
    /// Name and measure.
    pub measures: Vec<(String, Measure)>,
}

/// The interval that contains 95 % of the draws.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// 2.5 % of the draws are below.
    pub low: f64,
    /// 2.5 % of the draws are above.
    pub high: f64,
}

/// The same score of two runs on the same photos.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Score of the first run.
    pub a: f64,
    /// Score of the second run.
    pub b: f64,
    /// `b − a`.
    pub difference: f64,
    /// Interval of the difference, with the same draws for both runs.
    #[serde(flatten)]
    pub interval: Interval,
}

impl Measures {
    /// Adds a mean with one value per photo.
    pub fn add_mean(&mut self, name: &str, values: impl IntoIterator<Item = f64>) {
        let sum: Vec<f64> = values.into_iter().collect();
        let count = vec![1.0; sum.len()];
        self.measures.push((name.into(), Measure::Ratio { sum, count }));
    }

    /// Adds a mean over parts, of which a photo may have any number; `photo_of` is the photo of
    /// each part.
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

    /// Combines the measures of several sets as `SET.NAME`, and adds the plain mean of each set's
    /// main score. An item is a set's name, the name of its main score, and its measures.
    pub fn of_sets<'a>(
        sets: impl IntoIterator<Item = (&'a str, &'a str, &'a Self)>,
        mean: &str,
    ) -> Self {
        let (mut all, mut reported) = (Self::default(), Vec::new());
        for (set, (name, metric, measures)) in sets.into_iter().enumerate() {
            all.ids.extend(measures.ids.iter().map(|id| format!("{name}: {id}")));
            all.sets.push(measures.ids.len());
            reported.push(format!("{name}.{metric}"));
            let of_set = measures.measures.iter().map(|(key, measure)| {
                let measure = Box::new(measure.clone());
                (format!("{name}.{key}"), Measure::OfSet { set, measure })
            });
            all.measures.extend(of_set);
        }
        all.measures.push((mean.into(), Measure::Mean { of: reported }));
        all
    }

    /// The scores on a draw of photos, in the order of the measures.
    pub fn scores(&self, draw: &[usize]) -> Vec<f64> {
        let mut scores: Vec<f64> = Vec::with_capacity(self.measures.len());
        for (_, measure) in &self.measures {
            let score = match measure {
                Measure::OfSet { set, measure } => {
                    let places = self.places_of(*set);
                    let own: Vec<usize> =
                        draw[places.clone()].iter().map(|i| i - places.start).collect();
                    measure.on(&own)
                }
                Measure::Mean { of } => {
                    let place = |name: &String| self.names().position(|found| found == name);
                    let of: Vec<f64> = of
                        .iter()
                        .map(|name| {
                            place(name).and_then(|i| scores.get(i).copied()).unwrap_or(f64::NAN)
                        })
                        .collect();
                    of.iter().sum::<f64>() / of.len() as f64
                }
                plain => plain.on(draw),
            };
            scores.push(score);
        }
        scores
    }

    /// The score `name` on a draw of photos; `None` if the name is unknown.
    pub fn score(&self, name: &str, draw: &[usize]) -> Option<f64> {
        let place = self.names().position(|found| found == name)?;
        Some(self.scores(draw)[place])
    }

    /// The positions of a set's photos.
    fn places_of(&self, set: usize) -> Range<usize> {
        let start = self.sets[..set].iter().sum();
        start..start + self.sets[set]
    }

    /// Draws as many photos from each set as it has, with replacement.
    fn draw(&self, rng: &mut ChaCha8Rng) -> Vec<usize> {
        let single = [self.ids.len()];
        let sizes = if self.sets.is_empty() { &single[..] } else { &self.sets };
        let (mut draw, mut start) = (Vec::with_capacity(self.ids.len()), 0);
        for n in sizes {
            draw.extend((0..*n).map(|_| start + rng.random_range(0..*n)));
            start += n;
        }
        draw
    }

    /// The scores on all photos, in the order of the measures.
    fn scores_on_all(&self) -> Vec<f64> {
        self.scores(&(0..self.ids.len()).collect::<Vec<_>>())
    }

    /// The score `name` on all photos; `None` if the name is unknown.
    pub fn score_on_all(&self, name: &str) -> Option<f64> {
        self.score(name, &(0..self.ids.len()).collect::<Vec<_>>())
    }

    /// Names of the scores.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.measures.iter().map(|(name, _)| name.as_str())
    }

    /// The interval of each score, by name.
    pub fn intervals(&self, n_draws: usize, seed: u64) -> Vec<(String, Interval)> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut drawn = vec![Vec::with_capacity(n_draws); self.measures.len()];
        for _ in 0..n_draws {
            let draw = self.draw(&mut rng);
            drawn.iter_mut().zip(self.scores(&draw)).for_each(|(scores, score)| scores.push(score));
        }
        let interval =
            |(name, scores): (&str, Vec<f64>)| Some((name.to_owned(), interval_of(scores)?));
        self.names().zip(drawn).filter_map(interval).collect()
    }

    /// Compares the scores that both runs have.
    ///
    /// # Errors
    /// If the runs are not on the same photos.
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
        let shared: Vec<(usize, usize)> = self
            .names()
            .enumerate()
            .filter_map(|(i, name)| Some((i, other.names().position(|found| found == name)?)))
            .collect();
        let (a, b) = (self.scores_on_all(), other.scores_on_all());
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut drawn = vec![Vec::with_capacity(n_draws); shared.len()];
        for _ in 0..n_draws {
            let draw = self.draw(&mut rng);
            let (a, b) = (self.scores(&draw), other.scores(&draw));
            drawn
                .iter_mut()
                .zip(&shared)
                .for_each(|(differences, &(i, j))| differences.push(b[j] - a[i]));
        }
        let difference = |(&(i, j), differences): (&(usize, usize), Vec<f64>)| {
            let interval = interval_of(differences)?;
            let difference = Difference { a: a[i], b: b[j], difference: b[j] - a[i], interval };
            Some((self.measures[i].0.clone(), difference))
        };
        Ok(shared.iter().zip(drawn).filter_map(difference).collect())
    }
}

impl Measure {
    /// The score on a draw of photos. NaN for `OfSet` and `Mean`, which [`Measures::scores`]
    /// computes.
    fn on(&self, draw: &[usize]) -> f64 {
        let over_draw = |values: &[f64]| draw.iter().map(|&i| values[i]).sum::<f64>();
        match self {
            Self::Ratio { sum, count } => over_draw(sum) / over_draw(count),
            Self::MeanPerClass { class, hit } => {
                let n_classes = class.iter().max().map_or(0, |last| last + 1);
                let mut of_class = vec![(0.0, 0.0); n_classes];
                for &i in draw {
                    of_class[class[i]].0 += hit[i];
                    of_class[class[i]].1 += 1.0;
                }
                let seen = of_class.iter().filter(|(_, n)| *n > 0.0);
                seen.clone().map(|(hits, n)| hits / n).sum::<f64>() / seen.count() as f64
            }
            Self::RocAuc { score, positive } => {
                let drawn: Vec<(f64, bool)> =
                    draw.iter().map(|&i| (score[i], positive[i])).collect();
                roc_auc(&drawn)
            }
            Self::Map11Points { n_classes, scores, labels } => {
                let row = |&i: &usize| scores[i * n_classes..(i + 1) * n_classes].iter().copied();
                let drawn: Vec<f64> = draw.iter().flat_map(row).collect();
                let labels: Vec<Vec<usize>> = draw.iter().map(|&i| labels[i].clone()).collect();
                mean_average_precision_11(&drawn, *n_classes, &labels)
            }
            Self::Bleu { n, counts } => bleu_of(draw.iter().map(|&i| &counts[i]))[n - 1],
            Self::OfSet { .. } | Self::Mean { .. } => f64::NAN,
        }
    }
}

/// The error for two runs on different photos.
#[derive(Debug, thiserror::Error)]
#[error(
    "photo {idx} is {a} in the first run and {b} in the second\n  hint: compare runs on the same data and --limit"
)]
pub struct ComparisonError {
    /// The first position that differs.
    pub idx: usize,
    /// The photo there in the first run.
    pub a: String,
    /// The photo there in the second run.
    pub b: String,
}

/// Percentiles 2.5 and 97.5 with linear interpolation, as in numpy. Leaves out NaN draws (in which
/// a class is missing).
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
        let mut measures = Measures {
            ids: (0..values.len()).map(|i| i.to_string()).collect(),
            ..Default::default()
        };
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
    fn a_difference_on_the_same_photos_is_significant_only_beyond_noise() {
        let a: Vec<f64> = (0..400).map(|i| f64::from(i % 4 == 0)).collect();
        let b: Vec<f64> = (0..400).map(|i| f64::from(i % 4 == 0 || i % 20 == 1)).collect();
        let (_, found) = run(&a).compare(&run(&b), N_DRAWS, 0).expect("the same photos").remove(0);
        assert!((found.difference - 0.05).abs() < 1e-12 && found.interval.low > 0.02, "{found:?}");
    }

    #[test]
    fn parts_are_drawn_with_their_photo() {
        let mut measures = Measures { ids: vec!["a".into(), "b".into()], ..Default::default() };
        measures.add_mean_of_parts("recall", &[0, 0, 1], [1.0, 0.0, 1.0]);
        assert_eq!(measures.score_on_all("recall"), Some(2.0 / 3.0));
        assert_eq!(measures.score("recall", &[0, 0]), Some(0.5));
    }

    #[test]
    fn the_mean_over_sets_draws_each_set_by_itself() {
        let small: Vec<f64> = (0..100).map(|i| f64::from(i % 2 == 0)).collect();
        let (a, b) = (run(&small), run(&[1.0; 300]));
        let all = Measures::of_sets([("a", "hits", &a), ("b", "hits", &b)], "mean");
        assert_eq!(all.names().collect::<Vec<_>>(), ["a.hits", "b.hits", "mean"]);
        assert_eq!((all.score_on_all("b.hits"), all.score_on_all("mean")), (Some(1.0), Some(0.75)));
        let intervals = all.intervals(N_DRAWS, 0);
        let of =
            |name: &str| intervals.iter().find(|(found, _)| found == name).expect("it is there").1;
        assert_eq!(of("b.hits"), Interval { low: 1.0, high: 1.0 });
        // The first set's interval is the same as alone, because its photos are drawn first. The
        // mean's deviation is half of it.
        assert!((of("mean").low - (of("a.hits").low + 1.0) / 2.0).abs() < 1e-12);
        // 0.5 ± 1.96 sqrt(0.5 · 0.5 / 100)
        assert!(
            (of("a.hits").low - 0.402).abs() < 0.02 && (of("a.hits").high - 0.598).abs() < 0.02
        );
        let (_, found) = all.compare(&all, 10, 0).expect("the same photos").remove(2);
        assert_eq!((found.difference, found.interval.high), (0.0, 0.0));
    }

    #[test]
    fn average_precision_is_computed_again_on_a_draw() {
        let mut measures =
            Measures { ids: vec!["a".into(), "b".into(), "c".into()], ..Default::default() };
        let (scores, labels) =
            (vec![0.9, 0.1, 0.8, 0.2, 0.3, 0.7], vec![vec![0], vec![0], vec![1]]);
        measures
            .measures
            .push(("map".into(), Measure::Map11Points { n_classes: 2, scores, labels }));
        assert_eq!(measures.score_on_all("map"), Some(1.0));
        // Class 1 is not drawn; class 0 keeps its perfect ranking.
        assert_eq!(measures.score("map", &[0, 1, 1]), Some(1.0));
        assert!(measures.intervals(20, 3)[0].1.low > 0.99);
    }

    #[test]
    fn runs_of_other_photos_cannot_be_compared() {
        let error =
            run(&[1.0]).compare(&run(&[1.0, 0.0]), 10, 0).expect_err("one has another photo");
        assert!(error.to_string().contains("photo 1 is none in the first run"), "{error}");
    }
}
