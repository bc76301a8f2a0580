//! Compares a model with its exported copy: cosines, captions and scores, before and after.

use anyhow::Result;
use mmgem_core::generate::Decoding;
use mmgem_core::session::Session;
use mmgem_core::tokenizer::Tokenizer;
use mmgem_data::benchmark::{Benchmark, BenchmarkFiles};
use mmgem_eval::metrics::ranking::Ties;
use mmgem_eval::run::{Encoder, RetrievalOptions, captions, retrieval};
use serde_json::{Value, json};

use crate::device::self_check::{Answers, cosine};
use crate::terminal::{json_f32, progress_bar};

/// Cosines between the embeddings of a model and those of its copy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cosines {
    /// Mean cosine.
    pub mean: f32,
    /// Smallest cosine; NaN if any is NaN.
    pub worst: f32,
    /// Number of cosines.
    pub n: usize,
}

/// Agreement of the captions of a model and its copy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreement {
    /// Number of captions.
    pub n: usize,
    /// Captions whose tokens are all the same.
    pub n_same: usize,
    /// Share of the model's tokens before the first difference of each caption.
    pub tokens: f64,
}

/// Scores of a model on held-out photos.
#[derive(Clone, Debug)]
pub struct Scores {
    /// Recall at 1 of photos retrieved by texts.
    pub text_to_image_recall_at_1: f64,
    /// Recall at 1 of texts retrieved by photos.
    pub image_to_text_recall_at_1: f64,
    /// CIDEr of greedy captions.
    pub cider: f64,
    /// Number of photos.
    pub n_photos: usize,
    captions: Vec<String>,
}

impl Cosines {
    /// Compares the embeddings pair by pair.
    pub fn of(before: &[Vec<f32>], after: &[Vec<f32>]) -> Self {
        let cosines: Vec<f32> = before.iter().zip(after).map(|(a, b)| cosine(a, b)).collect();
        // `f32::min` ignores NaN.
        let worst = cosines.iter().copied().reduce(|a, b| if a.is_nan() || a < b { a } else { b });
        let worst = worst.unwrap_or(f32::NAN);
        Self { mean: cosines.iter().sum::<f32>() / cosines.len() as f32, worst, n: cosines.len() }
    }

    /// As the value of a JSON document.
    pub fn to_json(self) -> Value {
        json!({ "mean": json_f32(self.mean), "worst": json_f32(self.worst), "n": self.n })
    }
}

impl Agreement {
    /// Compares the captions pair by pair.
    pub fn of(before: &[String], after: &[String], tokenizer: &Tokenizer) -> Result<Self> {
        let (mut n_same, mut n_tokens, mut n_agreed) = (0, 0, 0);
        for (before, after) in before.iter().zip(after) {
            let (before, after) = (tokenizer.encode(before)?, tokenizer.encode(after)?);
            n_same += usize::from(before == after);
            n_tokens += before.len();
            n_agreed += before.iter().zip(&after).take_while(|(a, b)| a == b).count();
        }
        Ok(Self { n: before.len(), n_same, tokens: n_agreed as f64 / n_tokens.max(1) as f64 })
    }

    /// As the value of a JSON document.
    pub fn to_json(self) -> Value {
        json!({ "n": self.n, "same": self.n_same, "tokens_before_the_first_difference": self.tokens })
    }
}

/// Cosines of a model's answers and its copy's, by kind: scenes, captions, regions.
pub fn cosines(before: &Answers, after: &Answers) -> [(&'static str, Cosines); 3] {
    [
        ("image", Cosines::of(&before.images, &after.images)),
        ("text", Cosines::of(&before.texts, &after.texts)),
        ("region", Cosines::of(&before.regions, &after.regions)),
    ]
}

impl Scores {
    /// Scores a model on shards.
    pub fn measure(
        session: &Session,
        shards: &[String],
        limit: Option<usize>,
        quiet: bool,
    ) -> Result<Self> {
        let mut held_out =
            Benchmark::open(&BenchmarkFiles { data: shards.to_vec(), ..Default::default() })?;
        held_out.truncate(limit.unwrap_or(usize::MAX));
        let bar = progress_bar(held_out.len(), "photos encoded", quiet);
        let tick = &mut |_: &'static str, n: usize, _| bar.set_position(n as u64);
        let options = RetrievalOptions {
            ties: Ties::Against,
            captions_per_photo: None,
            memory_bytes: usize::MAX,
        };
        let ranked =
            pollster::block_on(retrieval(&Encoder::MmGem(session), &held_out, options, tick))?
                .scores;
        bar.finish_and_clear();
        let bar = progress_bar(held_out.len(), "captions", quiet);
        let tick = &mut |_: &'static str, n: usize, _| bar.set_position(n as u64);
        let captioned =
            pollster::block_on(captions(session, &held_out, Decoding::default(), tick))?;
        bar.finish_and_clear();
        Ok(Self {
            text_to_image_recall_at_1: ranked.text_to_image_recall_at_1,
            image_to_text_recall_at_1: ranked.image_to_text_recall_at_1,
            cider: captioned.scores.cider,
            n_photos: ranked.n_images,
            captions: captioned.candidates,
        })
    }

    /// Agreement of these captions with those of the copy.
    pub fn agreement(&self, copy: &Self, tokenizer: &Tokenizer) -> Result<Agreement> {
        Agreement::of(&self.captions, &copy.captions, tokenizer)
    }

    /// Names and values, in the order of the report.
    pub fn named(&self) -> [(&'static str, f64); 3] {
        [
            ("text_to_image_recall_at_1", self.text_to_image_recall_at_1),
            ("image_to_text_recall_at_1", self.image_to_text_recall_at_1),
            ("cider", self.cider),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_cosine_is_kept_and_nan_is_the_worst() {
        let (a, b) = (vec![1.0, 0.0], vec![0.6, 0.8]);
        let found = Cosines::of(&[a.clone(), a.clone()], &[a.clone(), b.clone()]);
        assert!(
            (found.worst - 0.6).abs() < 1e-6 && (found.mean - 0.8).abs() < 1e-6 && found.n == 2
        );
        let broken = vec![f32::NAN, 0.0];
        assert!(
            Cosines::of(&[a.clone(), a.clone(), a.clone()], &[a.clone(), broken, b]).worst.is_nan()
        );
    }
}
