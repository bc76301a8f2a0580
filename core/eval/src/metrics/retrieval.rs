//! Recall and rank of image-text retrieval.

use serde::{Deserialize, Serialize};

use super::ranking::{Ahead, RightScores, Ties, dot};

/// Retrieval scores in both directions, under the benchmarks' names; recalls are in 0..=1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetrievalScores {
    /// Share of images with one of their texts in the first place.
    pub image_to_text_recall_at_1: f64,
    /// Share of images with one of their texts among the first 5.
    pub image_to_text_recall_at_5: f64,
    /// Share of images with one of their texts among the first 10.
    pub image_to_text_recall_at_10: f64,
    /// Share of texts with their image in the first place.
    pub text_to_image_recall_at_1: f64,
    /// Share of texts with their image among the first 5.
    pub text_to_image_recall_at_5: f64,
    /// Share of texts with their image among the first 10.
    pub text_to_image_recall_at_10: f64,
    /// Mean of the six recalls.
    pub mean_recall: f64,
    /// Median over images of the rank of the image's best text; 1 is best.
    pub image_to_text_median_rank: f64,
    /// Median over texts of the rank of the text's image; 1 is best.
    pub text_to_image_median_rank: f64,
    /// Number of images that were ranked.
    pub n_images: usize,
    /// Number of texts that were ranked.
    pub n_texts: usize,
}

/// Errors of ranking scores or embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RetrievalError {
    /// One side has no entries.
    #[error(
        "found {n_images} images and {n_texts} texts, want at least one of each: check that the data is not empty"
    )]
    Empty {
        /// Number of images found.
        n_images: usize,
        /// Number of texts found.
        n_texts: usize,
    },
    /// The scores are not a whole matrix of queries × targets.
    #[error(
        "found {found} scores for {n_queries} queries over {n_targets} targets, want {n_queries} x {n_targets}: pass the whole row-major matrix"
    )]
    ScoreCount {
        /// Number of scores.
        found: usize,
        /// Rows of the matrix.
        n_queries: usize,
        /// Columns of the matrix.
        n_targets: usize,
    },
    /// Embeddings do not consist of whole vectors.
    #[error(
        "{what} hold {found} numbers, want a multiple of embed_dim {embed_dim}: check that both come from the same model"
    )]
    EmbedLength {
        /// Which embeddings: of images or of texts.
        what: &'static str,
        /// Number of values.
        found: usize,
        /// Number of values of one vector.
        embed_dim: usize,
    },
    /// A right answer is not a target.
    #[error("entry {entry_idx} names target {found} of {n_targets}: count targets from 0")]
    TargetOutOfRange {
        /// Position in the list of right answers.
        entry_idx: usize,
        /// Index of the target that the entry states.
        found: usize,
        /// Number of targets.
        n_targets: usize,
    },
    /// The list of right answers has another length than the queries.
    #[error(
        "found {found} right targets for {n_queries} queries, want one each: add the missing ones"
    )]
    TargetCount {
        /// Number of right answers.
        found: usize,
        /// Number of queries.
        n_queries: usize,
    },
}

/// Ranks of the right answers in both directions, counted from 1; `None` is a miss at every `k`.
///
/// The rank of a right answer is one more than the number of wrong answers above it; [`Ties`]
/// decides for equal scores. Other right answers do not count. A right answer with a NaN score is a
/// miss; a wrong one with a NaN score counts as above. An image without texts is a miss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetrievalRanks {
    /// Rank of the best text of each image.
    pub image_to_text: Vec<Option<usize>>,
    /// Rank of the image of each text.
    pub text_to_image: Vec<Option<usize>>,
}

impl RetrievalRanks {
    /// Recalls and median ranks of these ranks.
    pub fn scores(&self) -> RetrievalScores {
        let [image_to_text, text_to_image] = [&self.image_to_text, &self.text_to_image];
        let recalls =
            [image_to_text, text_to_image].map(|ranks| [1, 5, 10].map(|k| recall_at(ranks, k)));
        RetrievalScores {
            image_to_text_recall_at_1: recalls[0][0],
            image_to_text_recall_at_5: recalls[0][1],
            image_to_text_recall_at_10: recalls[0][2],
            text_to_image_recall_at_1: recalls[1][0],
            text_to_image_recall_at_5: recalls[1][1],
            text_to_image_recall_at_10: recalls[1][2],
            mean_recall: recalls.iter().flatten().sum::<f64>() / 6.0,
            image_to_text_median_rank: median_rank(image_to_text, self.text_to_image.len()),
            text_to_image_median_rank: median_rank(text_to_image, self.image_to_text.len()),
            n_images: self.image_to_text.len(),
            n_texts: self.text_to_image.len(),
        }
    }
}

/// Share of the queries whose right answer is among the first `k`, in 0..=1; 0 without queries.
pub fn recall_at(ranks: &[Option<usize>], k: usize) -> f64 {
    let hits = ranks.iter().flatten().filter(|&&rank| rank <= k).count();
    hits as f64 / ranks.len().max(1) as f64
}

/// Median rank over queries, the mean of the middle two for an even number. A miss ranks after all
/// `n_targets`.
pub fn median_rank(ranks: &[Option<usize>], n_targets: usize) -> f64 {
    let mut ranks: Vec<usize> = ranks.iter().map(|rank| rank.unwrap_or(n_targets + 1)).collect();
    ranks.sort_unstable();
    match (ranks.len(), ranks.len() / 2) {
        (0, _) => (n_targets + 1) as f64,
        (n, middle) if n % 2 == 1 => ranks[middle] as f64,
        (_, middle) => (ranks[middle - 1] + ranks[middle]) as f64 / 2.0,
    }
}

/// Ranks from a matrix of scores; higher is more similar.
///
/// # Shapes
/// - scores: row-major `[n_images, n_texts]`
/// - text_image_idx: `[n_texts]`, the image that each text belongs to
///
/// # Errors
/// If there is nothing to rank, or the sizes do not match.
pub fn ranks_from_scores(
    scores: &[f32],
    text_image_idx: &[usize],
) -> Result<RetrievalRanks, RetrievalError> {
    let n_texts = text_image_idx.len();
    let n_images = scores.len().checked_div(n_texts).unwrap_or(0);
    if n_images * n_texts != scores.len() {
        return Err(RetrievalError::ScoreCount {
            found: scores.len(),
            n_queries: n_images,
            n_targets: n_texts,
        });
    }
    let mut right = RightScores::new(n_images, text_image_idx, Ties::Against)?;
    for (image_idx, row) in scores.chunks_exact(n_texts).enumerate() {
        right.add_row(image_idx, row);
    }
    let mut ahead = Ahead::new(&right);
    for (image_idx, row) in scores.chunks_exact(n_texts).enumerate() {
        ahead.count(&right, image_idx, 0, row);
    }
    Ok(ahead.ranks(&right))
}

/// Ranks from embeddings, a row of scores at a time: memory grows with `n_images + n_texts`, not
/// with their product.
///
/// # Shapes
/// - image_embeds: row-major `[n_images, embed_dim]`, rows of unit length
/// - text_embeds:  row-major `[n_texts, embed_dim]`, rows of unit length
/// - text_image_idx: `[n_texts]`, the image that each text belongs to
///
/// # Errors
/// Same as [`ranks_from_scores`].
pub fn ranks_from_embeds(
    image_embeds: &[f32],
    text_embeds: &[f32],
    embed_dim: usize,
    text_image_idx: &[usize],
    ties: Ties,
) -> Result<RetrievalRanks, RetrievalError> {
    let n_images = n_rows("image embeddings", image_embeds, embed_dim)?;
    let n_texts = n_rows("text embeddings", text_embeds, embed_dim)?;
    if n_texts != text_image_idx.len() {
        return Err(RetrievalError::TargetCount {
            found: text_image_idx.len(),
            n_queries: n_texts,
        });
    }
    let mut right = RightScores::new(n_images, text_image_idx, ties)?;
    for (text_idx, &image_idx) in text_image_idx.iter().enumerate() {
        let image_embed = &image_embeds[image_idx * embed_dim..][..embed_dim];
        right.add(text_idx, dot(image_embed, &text_embeds[text_idx * embed_dim..][..embed_dim]));
    }
    let mut ahead = Ahead::new(&right);
    ahead.count_block(&right, (0, image_embeds), (0, text_embeds), embed_dim);
    Ok(ahead.ranks(&right))
}

pub(super) fn check_targets(
    right_target_idx: &[usize],
    n_targets: usize,
) -> Result<(), RetrievalError> {
    match right_target_idx.iter().position(|&target_idx| target_idx >= n_targets) {
        None => Ok(()),
        Some(entry_idx) => Err(RetrievalError::TargetOutOfRange {
            entry_idx,
            found: right_target_idx[entry_idx],
            n_targets,
        }),
    }
}

pub(crate) fn n_rows(
    what: &'static str,
    embeds: &[f32],
    embed_dim: usize,
) -> Result<usize, RetrievalError> {
    if embed_dim == 0 || !embeds.len().is_multiple_of(embed_dim) {
        return Err(RetrievalError::EmbedLength { what, found: embeds.len(), embed_dim });
    }
    Ok(embeds.len() / embed_dim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(scores: &[f32], text_image_idx: &[usize], k: usize, wanted: (f64, f64)) {
        let ranks = ranks_from_scores(scores, text_image_idx).unwrap();
        let found = (recall_at(&ranks.image_to_text, k), recall_at(&ranks.text_to_image, k));
        assert_eq!(found, wanted, "at {k}");
    }

    #[test]
    fn a_text_that_prefers_the_wrong_image_is_a_miss() {
        let scores = [0.9, 0.3, 0.2, 0.1];
        check(&scores, &[0, 1], 1, (0.5, 0.5));
        check(&scores, &[0, 1], 2, (1.0, 1.0));
    }

    #[test]
    fn any_of_an_images_texts_is_a_hit() {
        let scores = [0.1, 0.8, 0.5, 0.4, 0.3, 0.2];
        check(&scores, &[0, 0, 1], 1, (0.5, 1.0 / 3.0));
    }

    #[test]
    fn another_text_of_the_same_image_does_not_stand_in_the_way() {
        let ranks = ranks_from_scores(&[0.9, 0.8, 0.1, 0.2, 0.3, 0.7], &[0, 0, 1]).unwrap();
        assert_eq!(ranks.image_to_text, [Some(1), Some(1)]);
        assert_eq!(ranks.text_to_image, [Some(1), Some(1), Some(1)]);
    }

    #[test]
    fn a_tie_with_a_wrong_answer_counts_against() {
        check(&[0.5; 4], &[0, 1], 1, (0.0, 0.0));
        check(&[0.5; 4], &[0, 1], 2, (1.0, 1.0));
    }

    #[test]
    fn a_score_that_is_not_a_number_is_a_miss() {
        check(&[f32::NAN, 0.3, 0.2, 0.9], &[0, 1], 2, (0.5, 0.5));
        check(&[f32::NAN; 4], &[0, 1], 10, (0.0, 0.0));
    }

    #[test]
    fn an_image_without_texts_is_a_miss() {
        check(&[0.9, 0.1], &[0], 10, (0.5, 1.0));
    }

    #[test]
    fn the_median_of_an_even_number_of_ranks_is_between_the_middle_two() {
        assert_eq!(median_rank(&[Some(4), Some(1), Some(2), None], 9), 3.0);
        assert_eq!(median_rank(&[Some(4), Some(1), Some(2)], 9), 2.0);
    }

    #[test]
    fn embeddings_rank_as_their_score_matrix_does() {
        let (n_images, n_texts, embed_dim) = (7, 21, 11);
        let noise = |i: usize| ((i * 7919 + 13) % 1009) as f32 / 1009.0 - 0.5;
        let image_embeds: Vec<f32> = (0..n_images * embed_dim).map(noise).collect();
        let text_embeds: Vec<f32> = (0..n_texts * embed_dim).map(|i| noise(i + 5000)).collect();
        let text_image_idx: Vec<usize> = (0..n_texts).map(|t| t % n_images).collect();
        let scores: Vec<f32> = image_embeds
            .chunks(embed_dim)
            .flat_map(|image| text_embeds.chunks(embed_dim).map(move |text| dot(image, text)))
            .collect();
        let wanted = ranks_from_scores(&scores, &text_image_idx).unwrap();
        let found = ranks_from_embeds(
            &image_embeds,
            &text_embeds,
            embed_dim,
            &text_image_idx,
            Ties::Against,
        );
        assert_eq!(found.unwrap(), wanted);
    }

    #[test]
    fn the_keys_are_those_of_the_benchmarks() {
        let scores = ranks_from_scores(&[0.9, 0.3, 0.2, 0.1], &[0, 1]).unwrap().scores();
        let json = serde_json::to_value(scores).unwrap();
        assert_eq!(json["image_to_text_recall_at_1"], 0.5);
        assert_eq!(json["text_to_image_recall_at_10"], 1.0);
        assert_eq!(json["image_to_text_median_rank"], 1.5);
        assert_eq!(json["n_texts"], 2);
    }

    #[test]
    fn sizes_that_contradict_each_other_are_errors() {
        assert!(ranks_from_scores(&[], &[]).is_err());
        assert!(ranks_from_scores(&[0.1, 0.2, 0.3], &[0, 0]).is_err());
        assert!(ranks_from_scores(&[0.1, 0.2], &[0, 1]).is_err());
        assert!(ranks_from_embeds(&[0.1; 4], &[0.1; 3], 2, &[0], Ties::Against).is_err());
        assert!(ranks_from_embeds(&[0.1; 4], &[0.1; 4], 2, &[0], Ties::Against).is_err());
    }
}
