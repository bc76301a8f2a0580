//! BLEU, ROUGE-L and CIDEr of captions, as in COCO's evaluation code (pycocoevalcap 1.2).

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::ptb;

const MAX_N: usize = 4;
const BLEU_TINY: f64 = 1e-15;
const BLEU_SMALL: f64 = 1e-9;
const ROUGE_BETA: f64 = 1.2;
const CIDER_SIGMA: f64 = 6.0;

/// Scores of a set of captions; BLEU and ROUGE-L are in 0..=1, CIDEr in 0..=10.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaptionScores {
    /// BLEU of single words.
    pub bleu_1: f64,
    /// BLEU of runs of up to 2 words.
    pub bleu_2: f64,
    /// BLEU of runs of up to 3 words.
    pub bleu_3: f64,
    /// BLEU of runs of up to 4 words; the form that papers report.
    pub bleu_4: f64,
    /// ROUGE-L: longest common subsequence, mean over images.
    pub rouge_l: f64,
    /// CIDEr-D: n-grams weighted by their rarity, mean over images.
    pub cider: f64,
}

/// [`CaptionScores`] with the contribution of each image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaptionReport {
    /// Scores of the whole set.
    pub scores: CaptionScores,
    /// ROUGE-L of each image, in input order.
    pub rouge_l: Vec<f64>,
    /// CIDEr of each image, in input order.
    pub cider: Vec<f64>,
    /// Contribution of each image to BLEU, in input order.
    pub bleu: Vec<BleuCounts>,
}

/// Errors of caption scoring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaptionError {
    /// There is nothing to score.
    #[error("found no candidate caption, want at least one: check that the file is not empty")]
    NoCandidates,
    /// The two lists differ in length.
    #[error(
        "found {candidates} candidate captions and {references} lists of references, want one list for each candidate: pair them by image first"
    )]
    CountMismatch {
        /// Number of candidate captions.
        candidates: usize,
        /// Number of lists of references.
        references: usize,
    },
    /// An image has no caption to compare with.
    #[error(
        "candidate {image_idx} has no reference captions, want at least one: add references or leave the image out"
    )]
    EmptyReferences {
        /// Position of the image in the input, from 0.
        image_idx: usize,
    },
}

/// Scores one candidate caption for each image against the reference captions of that image.
///
/// Captions are plain sentences, which [`ptb`] splits into words. A candidate without words scores
/// 0.
/// - BLEU: Papineni et al. 2002, corpus level, closest reference length.
/// - ROUGE-L: Lin 2004, `beta = 1.2`, mean over images.
/// - CIDEr: arXiv:1411.5726, the `D` variant with `n = 1..=4` and `sigma = 6`. Document frequencies
///   come from `references`, so with one image all weights and the score are 0.
///
/// # Errors
/// If there is nothing to score, the counts differ, or an image has no references.
pub fn score<C, R>(candidates: &[C], references: &[Vec<R>]) -> Result<CaptionReport, CaptionError>
where
    C: AsRef<str>,
    R: AsRef<str>,
{
    check_counts(candidates.len(), references)?;
    let flat: Vec<&str> = references.iter().flatten().map(AsRef::as_ref).collect();
    let mut lines = ptb::tokenize_lines(&flat).into_iter();
    let references: Vec<Vec<String>> =
        references.iter().map(|of_image| lines.by_ref().take(of_image.len()).collect()).collect();
    score_tokenized(&ptb::tokenize_lines(candidates), &references)
}

/// [`score`] for captions that are already words joined by single spaces.
///
/// # Errors
/// Same as [`score`].
pub fn score_tokenized<C, R>(
    candidates: &[C],
    references: &[Vec<R>],
) -> Result<CaptionReport, CaptionError>
where
    C: AsRef<str>,
    R: AsRef<str>,
{
    check_counts(candidates.len(), references)?;
    let rouge_l: Vec<f64> = candidates
        .iter()
        .zip(references)
        .map(|(candidate, references)| rouge_l(candidate.as_ref(), references))
        .collect();

    let mut words = Vocabulary::default();
    let candidates: Vec<Ngrams> = candidates.iter().map(|c| words.ngrams(c.as_ref())).collect();
    let references: Vec<Vec<Ngrams>> = references
        .iter()
        .map(|of_image| of_image.iter().map(|r| words.ngrams(r.as_ref())).collect())
        .collect();
    let bleu: Vec<BleuCounts> = candidates
        .iter()
        .zip(&references)
        .map(|(candidate, of_image)| bleu_counts(candidate, of_image))
        .collect();
    let [bleu_1, bleu_2, bleu_3, bleu_4] = bleu_of(&bleu);
    let cider = cider(&candidates, &references);
    let scores = CaptionScores {
        bleu_1,
        bleu_2,
        bleu_3,
        bleu_4,
        rouge_l: mean(&rouge_l),
        cider: mean(&cider),
    };
    Ok(CaptionReport { scores, rouge_l, cider, bleu })
}

fn check_counts<R>(n_candidates: usize, references: &[Vec<R>]) -> Result<(), CaptionError> {
    if n_candidates != references.len() {
        return Err(CaptionError::CountMismatch {
            candidates: n_candidates,
            references: references.len(),
        });
    }
    if n_candidates == 0 {
        return Err(CaptionError::NoCandidates);
    }
    match references.iter().position(Vec::is_empty) {
        Some(image_idx) => Err(CaptionError::EmptyReferences { image_idx }),
        None => Ok(()),
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Up to [`MAX_N`] word numbers, counted from 1; 0 fills the rest of a shorter n-gram.
type Ngram = [u32; MAX_N];

/// The n-grams of one sentence.
struct Ngrams {
    n_words: usize,
    /// Each n-gram and its count, in order of first occurrence, shorter ones first.
    counts: Vec<(Ngram, usize)>,
}

/// Order of an n-gram minus one: its index in arrays over `n`.
fn order(ngram: &Ngram) -> usize {
    ngram.iter().take_while(|&&word| word != 0).count() - 1
}

#[derive(Default)]
struct Vocabulary {
    words: HashMap<String, u32>,
}

impl Vocabulary {
    fn ngrams(&mut self, sentence: &str) -> Ngrams {
        let words: Vec<u32> = sentence.split_whitespace().map(|word| self.number(word)).collect();
        let mut counts: Vec<(Ngram, usize)> = Vec::with_capacity(MAX_N * words.len());
        for n in 1..=MAX_N {
            let shorter = counts.len();
            for window in words.windows(n) {
                let mut ngram = [0; MAX_N];
                ngram[..n].copy_from_slice(window);
                match counts[shorter..].iter_mut().find(|(seen, _)| *seen == ngram) {
                    Some((_, count)) => *count += 1,
                    None => counts.push((ngram, 1)),
                }
            }
        }
        Ngrams { n_words: words.len(), counts }
    }

    fn number(&mut self, word: &str) -> u32 {
        if let Some(&number) = self.words.get(word) {
            return number;
        }
        let number = u32::try_from(self.words.len() + 1).expect("fewer than 2^32 distinct words");
        self.words.insert(word.to_owned(), number);
        number
    }
}

/// Contribution of one image to BLEU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BleuCounts {
    /// n-grams of the candidate that a reference also has, clipped, for `n = 1..=4`.
    pub correct: [usize; MAX_N],
    /// n-grams of the candidate.
    pub guessed: [usize; MAX_N],
    /// Words of the candidate.
    pub candidate_len: usize,
    /// Words of the reference that is closest in length.
    pub reference_len: usize,
}

impl BleuCounts {
    /// Adds the counts of another image.
    pub fn add(&mut self, other: &Self) {
        for n in 0..MAX_N {
            self.correct[n] += other.correct[n];
            self.guessed[n] += other.guessed[n];
        }
        self.candidate_len += other.candidate_len;
        self.reference_len += other.reference_len;
    }
}

fn bleu_counts(candidate: &Ngrams, references: &[Ngrams]) -> BleuCounts {
    let reference_len = references
        .iter()
        .map(|reference| reference.n_words)
        .min_by_key(|&len| (len.abs_diff(candidate.n_words), len))
        .expect("check_counts refused an empty list");
    let mut most: HashMap<&Ngram, usize> = HashMap::new();
    for (ngram, count) in references.iter().flat_map(|reference| &reference.counts) {
        let most = most.entry(ngram).or_default();
        *most = (*most).max(*count);
    }
    let mut correct = [0; MAX_N];
    for (ngram, count) in &candidate.counts {
        correct[order(ngram)] += most.get(ngram).map_or(0, |most| *most.min(count));
    }
    let guessed = std::array::from_fn(|n| candidate.n_words.saturating_sub(n));
    BleuCounts { correct, guessed, candidate_len: candidate.n_words, reference_len }
}

/// BLEU-1 to BLEU-4 over all images.
///
/// `BLEU_n = exp(min(0, 1 - r/c)) * (prod_k p_k)^(1/n)`, with the reference's constants against
/// division by zero.
pub fn bleu_of<'a>(images: impl IntoIterator<Item = &'a BleuCounts>) -> [f64; MAX_N] {
    let mut sum = BleuCounts::default();
    images.into_iter().for_each(|image| sum.add(image));
    let ratio = (sum.candidate_len as f64 + BLEU_TINY) / (sum.reference_len as f64 + BLEU_SMALL);
    let brevity = if ratio < 1.0 { (1.0 - 1.0 / ratio).exp() } else { 1.0 };
    let mut product = 1.0;
    std::array::from_fn(|n| {
        product *= (sum.correct[n] as f64 + BLEU_TINY) / (sum.guessed[n] as f64 + BLEU_SMALL);
        brevity * product.powf(1.0 / (n + 1) as f64)
    })
}

/// `(1 + beta^2) P R / (R + beta^2 P)` from the longest common subsequence, with the best `P` and
/// best `R` over references.
fn rouge_l<R: AsRef<str>>(candidate: &str, references: &[R]) -> f64 {
    if candidate.is_empty() {
        return 0.0;
    }
    // Splits at ' ' only, as the reference does: the no-break space inside `3 1/4` does not split.
    let candidate: Vec<&str> = candidate.split(' ').collect();
    let (mut precision, mut recall) = (0.0_f64, 0.0_f64);
    for reference in references {
        let reference: Vec<&str> = reference.as_ref().split(' ').collect();
        let common = common_subsequence_len(&candidate, &reference) as f64;
        precision = precision.max(common / candidate.len() as f64);
        recall = recall.max(common / reference.len() as f64);
    }
    if precision == 0.0 || recall == 0.0 {
        return 0.0;
    }
    let beta_2 = ROUGE_BETA * ROUGE_BETA;
    (1.0 + beta_2) * precision * recall / (recall + beta_2 * precision)
}

fn common_subsequence_len(a: &[&str], b: &[&str]) -> usize {
    let mut lens = vec![0; b.len() + 1];
    for word in a {
        let mut diagonal = 0;
        for (j, other) in b.iter().enumerate() {
            let above = lens[j + 1];
            lens[j + 1] = if word == other { diagonal + 1 } else { above.max(lens[j]) };
            diagonal = above;
        }
    }
    lens[b.len()]
}

/// tf-idf weights of one sentence.
struct Weights {
    weights: HashMap<Ngram, f64>,
    norm: [f64; MAX_N],
    /// Number of word pairs, which the reference calls length.
    n_pairs: usize,
}

impl Weights {
    fn new(sentence: &Ngrams, idf: impl Fn(&Ngram) -> f64) -> Self {
        let mut weights = HashMap::with_capacity(sentence.counts.len());
        let mut norm = [0.0; MAX_N];
        for (ngram, count) in &sentence.counts {
            let weight = *count as f64 * idf(ngram);
            norm[order(ngram)] += weight * weight;
            weights.insert(*ngram, weight);
        }
        Self { weights, norm: norm.map(f64::sqrt), n_pairs: sentence.n_words.saturating_sub(1) }
    }
}

/// CIDEr-D of each image: clipped cosine of tf-idf vectors with a Gaussian penalty on the length
/// difference, averaged over `n` and references, times 10.
fn cider(candidates: &[Ngrams], references: &[Vec<Ngrams>]) -> Vec<f64> {
    let mut n_images_with: HashMap<Ngram, usize> = HashMap::new();
    for of_image in references {
        let distinct: HashSet<&Ngram> =
            of_image.iter().flat_map(|reference| &reference.counts).map(|(n, _)| n).collect();
        for ngram in distinct {
            *n_images_with.entry(*ngram).or_default() += 1;
        }
    }
    let log_n_images = (references.len() as f64).ln();
    let idf = |ngram: &Ngram| {
        let n_images = n_images_with.get(ngram).copied().unwrap_or(0).max(1);
        log_n_images - (n_images as f64).ln()
    };
    candidates
        .iter()
        .zip(references)
        .map(|(candidate, references)| {
            let weights = Weights::new(candidate, idf);
            let sum: f64 = references
                .iter()
                .map(|reference| similarity(candidate, &weights, &Weights::new(reference, idf)))
                .sum();
            10.0 * sum / references.len() as f64
        })
        .collect()
}

fn similarity(candidate: &Ngrams, weights: &Weights, reference: &Weights) -> f64 {
    let mut cosine = [0.0; MAX_N];
    for (ngram, _) in &candidate.counts {
        if let Some(&wanted) = reference.weights.get(ngram) {
            cosine[order(ngram)] += weights.weights[ngram].min(wanted) * wanted;
        }
    }
    for (n, cosine) in cosine.iter_mut().enumerate() {
        let norms = weights.norm[n] * reference.norm[n];
        if norms != 0.0 {
            *cosine /= norms;
        }
    }
    let delta = weights.n_pairs as f64 - reference.n_pairs as f64;
    let penalty = (-delta * delta / (2.0 * CIDER_SIGMA * CIDER_SIGMA)).exp();
    penalty * mean(&cosine)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(candidates: &[&str], references: &[&[&str]]) -> CaptionReport {
        let references: Vec<Vec<&str>> = references.iter().map(|r| r.to_vec()).collect();
        score(candidates, &references).unwrap()
    }

    fn close(found: f64, wanted: f64) {
        assert!((found - wanted).abs() < 1e-8, "found {found}, want {wanted}");
    }

    #[test]
    fn a_perfect_candidate_scores_full_marks() {
        let report = report(
            &["An owl sits on a wall.", "Two boats cross the wide bay."],
            &[&["an owl sits on a wall"], &["two boats cross the wide bay", "boats at sea"]],
        );
        close(report.scores.bleu_4, 1.0);
        close(report.scores.rouge_l, 1.0);
        close(report.cider[0], 10.0);
    }

    #[test]
    fn bleu_counts_a_repeated_word_once_and_punishes_brevity() {
        let long = report(&["owl owl owl owl"], &[&["one owl sits here"]]);
        close(long.scores.bleu_1, 0.25);
        let short = report(&["owl sits"], &[&["one owl sits here"]]);
        close(short.scores.bleu_1, (-1.0_f64).exp());
    }

    #[test]
    fn bleu_takes_the_shorter_of_two_equally_close_references() {
        let report = report(&["red owl"], &[&["owl", "red owl here"]]);
        close(report.scores.bleu_1, 1.0);
    }

    #[test]
    fn rouge_l_weighs_recall_by_beta() {
        let report = report(&["an owl sleeps"], &[&["an old owl sits there now"]]);
        let (p, r) = (2.0 / 3.0, 2.0 / 6.0);
        close(report.rouge_l[0], 2.44 * p * r / (r + 1.44 * p));
    }

    #[test]
    fn a_word_that_all_images_share_has_no_weight_in_cider() {
        let report = report(&["owl", "owl"], &[&["owl"], &["owl"]]);
        assert_eq!(report.cider, [0.0, 0.0]);
    }

    #[test]
    fn cider_of_one_matching_word_is_a_quarter_of_full_marks() {
        let report = report(&["owl", "cat"], &[&["owl"], &["dog"]]);
        close(report.cider[0], 2.5);
        close(report.scores.cider, 1.25);
    }

    #[test]
    fn one_image_alone_has_cider_zero() {
        assert_eq!(report(&["an owl"], &[&["an owl"]]).scores.cider, 0.0);
    }

    #[test]
    fn an_empty_candidate_scores_zero_and_never_nan() {
        for references in [&["an owl"][..], &[""], &["...", "an owl"]] {
            let report = report(&["", "?"], &[references, references]);
            let scores = report.scores;
            for value in [scores.bleu_1, scores.bleu_4, scores.rouge_l, scores.cider] {
                assert!((0.0..1e-3).contains(&value), "{scores:?} for {references:?}");
            }
        }
    }

    #[test]
    fn sets_that_cannot_be_scored_are_errors() {
        let none: [Vec<&str>; 0] = [];
        assert_eq!(score::<&str, &str>(&[], &none), Err(CaptionError::NoCandidates));
        assert_eq!(
            score(&["an owl"], &[Vec::<&str>::new()]),
            Err(CaptionError::EmptyReferences { image_idx: 0 })
        );
        assert_eq!(
            score::<_, &str>(&["an owl"], &none),
            Err(CaptionError::CountMismatch { candidates: 1, references: 0 })
        );
    }
}
