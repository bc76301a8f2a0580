//! The best checkpoint of a run by a score of its evaluations (`checkpoint.keep_best`).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::Recipe;

/// The best checkpoint so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// Name of the score.
    pub score: String,
    /// Its value.
    pub value: f64,
    /// Steps done.
    pub step: usize,
}

impl Best {
    /// This evaluation as the new best, if it is better than `old`. Of equal ones the first stays.
    pub fn better(old: Option<&Self>, score: &str, scores: &Value, step: usize) -> Option<Self> {
        let value = scores[score].as_f64().filter(|value| value.is_finite())?;
        let is_better = old.is_none_or(|old| match is_rank(score) {
            true => value < old.value,
            false => value > old.value,
        });
        is_better.then(|| Self { score: score.to_owned(), value, step })
    }
}

/// Whether lower values of a score are better.
fn is_rank(score: &str) -> bool {
    score.ends_with("_median_rank")
}

/// Scores of a recipe's evaluation that tell better checkpoints from worse ones.
pub fn scores_of(recipe: Recipe) -> &'static [&'static str] {
    match recipe {
        Recipe::Warmup => &[],
        Recipe::Stage1 => &[
            "image_to_text_recall_at_1",
            "image_to_text_recall_at_5",
            "image_to_text_recall_at_10",
            "text_to_image_recall_at_1",
            "text_to_image_recall_at_5",
            "text_to_image_recall_at_10",
            "mean_recall",
            "image_to_text_median_rank",
            "text_to_image_median_rank",
            "cider",
        ],
        Recipe::Stage2Caption | Recipe::Stage2Retrieval => &[
            "region_text_to_region_recall_at_1",
            "region_text_to_region_recall_at_5",
            "region_text_to_region_recall_at_10",
            "in_photo_recall_at_1",
            "pointing_accuracy",
            "named",
            "region_cider",
            "region_bleu_4",
            "region_rouge_l",
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(score: &str, old: f64, new: Value, is_better: bool) {
        let old = Best { score: score.into(), value: old, step: 2 };
        let found = Best::better(Some(&old), score, &json!({ score: new }), 4);
        assert_eq!(found.map(|best| best.step), is_better.then_some(4), "{score}: {new}");
    }

    #[test]
    fn a_higher_score_or_a_lower_rank_is_better() {
        check("cider", 0.5, json!(0.6), true);
        check("cider", 0.5, json!(0.4), false);
        check("text_to_image_median_rank", 5.0, json!(3.0), true);
        check("text_to_image_median_rank", 5.0, json!(6.0), false);
    }

    #[test]
    fn equal_or_missing_scores_are_not_better() {
        check("cider", 0.5, json!(0.5), false);
        check("cider", 0.5, Value::Null, false);
        assert_eq!(Best::better(None, "cider", &json!({ "cider": null }), 4), None);
        assert!(Best::better(None, "cider", &json!({ "cider": 0.0 }), 4).is_some());
    }
}
