//! Zero-shot classification: class vectors from prompts, and ELEVATER's metrics.

/// Fills a template with a class name.
pub fn prompt(template: &str, class: &str) -> String {
    template.replace("{}", class)
}

/// One vector for a class from the unit vectors of its prompts, as in OpenAI's code: their mean, at
/// unit length.
///
/// # Shapes
/// - prompt_embeds: row-major `[n_prompts, embed_dim]`, rows of unit length
/// - returns: `[embed_dim]`
pub fn class_embed(prompt_embeds: &[f32], embed_dim: usize) -> Vec<f32> {
    let n = (prompt_embeds.len() / embed_dim).max(1) as f32;
    let mut mean = vec![0.0; embed_dim];
    for row in prompt_embeds.chunks_exact(embed_dim) {
        mean.iter_mut().zip(row).for_each(|(sum, value)| *sum += value / n);
    }
    let norm = mean.iter().map(|value| value * value).sum::<f32>().sqrt().max(1e-12);
    mean.iter_mut().for_each(|value| *value /= norm);
    mean
}

/// Index of the largest score; the first one in a tie.
pub fn best_class(scores: &[f32]) -> usize {
    let better = |best: usize, i: usize| if scores[i] > scores[best] { i } else { best };
    (0..scores.len()).reduce(better).unwrap_or(0)
}

/// Share of each class's photos that were classified correctly, averaged over the classes that have
/// photos.
pub fn mean_per_class(labels: &[usize], predicted: &[usize]) -> f64 {
    let n_classes = labels.iter().max().map_or(0, |last| last + 1);
    let mut of_class = vec![(0usize, 0usize); n_classes];
    for (&label, &found) in labels.iter().zip(predicted) {
        of_class[label].0 += usize::from(label == found);
        of_class[label].1 += 1;
    }
    let seen = of_class.iter().filter(|(_, n)| *n > 0);
    seen.clone().map(|(hits, n)| *hits as f64 / *n as f64).sum::<f64>() / seen.count().max(1) as f64
}

/// Area under the ROC curve: the probability that a positive scores above a negative; a tie counts
/// half. NaN without positives or without negatives.
pub fn roc_auc(scored: &[(f64, bool)]) -> f64 {
    let mut sorted = scored.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let n_positive = sorted.iter().filter(|(_, positive)| *positive).count() as f64;
    let n_negative = sorted.len() as f64 - n_positive;
    let (mut below, mut area) = (0.0, 0.0);
    for equal in sorted.chunk_by(|a, b| a.0 == b.0) {
        let positive = equal.iter().filter(|(_, positive)| *positive).count() as f64;
        let negative = equal.len() as f64 - positive;
        area += positive * (below + negative / 2.0);
        below += negative;
    }
    area / (n_positive * n_negative)
}

/// Average precision at the recalls 0, 0.1, .., 1 (VOC 2007): the best precision at each recall or
/// above.
pub fn average_precision_11(scored: &[(f64, bool)]) -> f64 {
    let mut sorted = scored.to_vec();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
    let n_positive = sorted.iter().filter(|(_, positive)| *positive).count() as f64;
    // Recall and precision at each threshold, the strictest first.
    let (mut hits, mut n, mut curve) = (0.0, 0.0, Vec::new());
    for equal in sorted.chunk_by(|a, b| a.0 == b.0) {
        hits += equal.iter().filter(|(_, positive)| *positive).count() as f64;
        n += equal.len() as f64;
        curve.push((hits / n_positive, hits / n));
    }
    // The empty set of predictions has recall 0 and precision 1, as at the end of scikit-learn's
    // curve.
    curve.insert(0, (0.0, 1.0));
    let best_from = |recall: f64| {
        curve
            .iter()
            .filter(|(found, _)| *found >= recall)
            .map(|(_, precision)| *precision)
            .fold(0.0, f64::max)
    };
    // The values of numpy's linspace(1, 0, 11).
    (0..=10)
        .map(|i| if i == 10 { 0.0 } else { 1.0 + f64::from(i) * -0.1 })
        .map(best_from)
        .sum::<f64>()
        / 11.0
}

/// [`average_precision_11`] averaged over the classes that have photos.
///
/// # Shapes
/// - scores: row-major `[n_photos, n_classes]`
/// - labels: the classes of each photo
pub fn mean_average_precision_11(scores: &[f64], n_classes: usize, labels: &[Vec<usize>]) -> f64 {
    let of_class = |class: usize| -> Option<f64> {
        let rows = scores.chunks_exact(n_classes).zip(labels);
        let scored: Vec<(f64, bool)> =
            rows.map(|(row, labels)| (row[class], labels.contains(&class))).collect();
        scored.iter().any(|(_, positive)| *positive).then(|| average_precision_11(&scored))
    };
    let precisions: Vec<f64> = (0..n_classes).filter_map(of_class).collect();
    precisions.iter().sum::<f64>() / precisions.len().max(1) as f64
}

/// `softmax(100 · cosine)` over the classes, as in ELEVATER.
pub fn class_probabilities(cosines: &[f32]) -> Vec<f64> {
    let logits: Vec<f64> = cosines.iter().map(|cosine| 100.0 * f64::from(*cosine)).collect();
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exp: Vec<f64> = logits.iter().map(|logit| (logit - max).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.into_iter().map(|value| value / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_the_unit_mean_of_its_prompts() {
        let found = class_embed(&[1.0, 0.0, 0.0, 1.0], 2);
        assert!(found.iter().all(|value| (value - 0.5_f32.sqrt()).abs() < 1e-6), "{found:?}");
    }

    #[test]
    fn a_class_with_few_photos_weighs_as_much_as_one_with_many() {
        assert_eq!(mean_per_class(&[0, 0, 0, 2], &[0, 0, 1, 1]), 1.0 / 3.0);
    }

    #[test]
    fn a_tie_is_half_a_win_under_the_roc_curve() {
        assert_eq!(roc_auc(&[(0.1, false), (0.4, false), (0.4, true), (0.8, true)]), 0.875);
        assert!(roc_auc(&[(0.1, true)]).is_nan());
    }

    #[test]
    fn a_perfect_ranking_has_full_average_precision() {
        assert_eq!(average_precision_11(&[(0.9, true), (0.8, true), (0.1, false)]), 1.0);
        // Precision is 1/2 at all recalls above 0; at recall 0 the empty set counts.
        let late = average_precision_11(&[(0.9, false), (0.8, true)]);
        assert!((late - (10.0 * 0.5 + 1.0) / 11.0).abs() < 1e-12, "{late}");
    }

    #[test]
    fn the_first_of_equal_classes_is_taken() {
        assert_eq!(best_class(&[0.1, 0.7, 0.7]), 1);
        assert_eq!(
            prompt("a photo of {}, a type of food.", "pho"),
            "a photo of pho, a type of food."
        );
    }
}
