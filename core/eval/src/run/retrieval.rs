//! Ranks every photo against every caption, in both directions.

use mmgem_core::image::Preprocessed;
use mmgem_data::benchmark::{Batches, Benchmark, BenchmarkPhoto, ReadSummary};
use serde::{Deserialize, Serialize};

use super::encoder::Encoder;
use super::team::{Alone, Answer, Team, answer_batches, bits};
use super::{EvalError, Tick, nothing_to_score};
use crate::gallery::{Gallery, GalleryError, ranks};
use crate::metrics::bootstrap::{Measure, Measures};
use crate::metrics::ranking::Ties;
use crate::metrics::retrieval::{RetrievalRanks, RetrievalScores};

/// Options of the ranking.
#[derive(Clone, Copy, Debug)]
pub struct RetrievalOptions {
    /// The rule for equal scores.
    pub ties: Ties,
    /// Captions to use per photo, the first ones; all if `None`.
    pub captions_per_photo: Option<usize>,
    /// Memory for the embeddings of photos, and as much again for captions, in bytes; the rest goes
    /// to a scratch file.
    pub memory_bytes: usize,
}

/// The results of a retrieval run.
#[derive(Debug)]
pub struct RetrievalRun {
    /// The scores.
    pub scores: RetrievalScores,
    /// The parts of the scores, for bootstrap.
    pub measures: Measures,
    /// Ranks of the right answers.
    pub ranks: RetrievalRanks,
    /// The photos, in order.
    pub photos: Vec<BenchmarkPhoto>,
    /// Photo of each caption.
    pub text_image_idx: Vec<usize>,
    /// Vectors of the photos.
    pub images: Gallery,
    /// Vectors of the captions.
    pub texts: Gallery,
    /// The data that was read.
    pub summary: ReadSummary,
}

/// Embeds photos and captions, and ranks each among the others.
///
/// # Errors
/// If no photo or no caption is found, or the model fails.
pub async fn retrieval(
    encoder: &Encoder<'_>,
    benchmark: &Benchmark,
    options: RetrievalOptions,
    tick: Tick<'_>,
) -> Result<RetrievalRun, EvalError> {
    let run = retrieval_in_team(encoder, benchmark, options, &Alone, tick).await?;
    Ok(run.expect("process 0 has the scores"))
}

/// [`retrieval`] by several processes; `None` on all but process 0.
///
/// # Errors
/// If no photo or no caption is found, or the model or a process fails.
pub async fn retrieval_in_team(
    encoder: &Encoder<'_>,
    benchmark: &Benchmark,
    options: RetrievalOptions,
    team: &dyn Team,
    tick: Tick<'_>,
) -> Result<Option<RetrievalRun>, EvalError> {
    let embed_dim = encoder.embed_dim();
    let gallery = || Gallery::new(embed_dim, options.memory_bytes);
    let (mut images, mut texts) = (gallery(), gallery());
    let (mut photos, mut text_image_idx) = (Vec::new(), Vec::new());
    let answer = async |mut photos: Vec<BenchmarkPhoto>, inputs: Vec<Preprocessed>| {
        let images = encoder.embed_photos(&inputs).await?;
        for photo in &mut photos {
            photo.captions.truncate(options.captions_per_photo.unwrap_or(usize::MAX));
        }
        let captions: Vec<&str> =
            photos.iter().flat_map(|photo| &photo.captions).map(String::as_str).collect();
        let texts = encoder.embed_texts(&captions).await?;
        Ok(Embedded { photos, images, texts })
    };
    let take = |mut embedded: Embedded| {
        images.push(&embedded.images).map_err(GalleryError::from)?;
        texts.push(&embedded.texts).map_err(GalleryError::from)?;
        for (idx, photo) in (photos.len()..).zip(&embedded.photos) {
            text_image_idx.extend(std::iter::repeat_n(idx, photo.captions.len()));
        }
        photos.append(&mut embedded.photos);
        Ok(())
    };
    let batches = Batches::new(benchmark, encoder.preprocess());
    let summary = answer_batches(batches, team, (tick, "photos"), answer, take).await?;
    let Some(summary) = summary else { return Ok(None) };
    if photos.is_empty() {
        return Err(nothing_to_score("photo that can be used", &summary));
    }
    if text_image_idx.is_empty() {
        return Err(nothing_to_score("caption", &summary));
    }
    let ranks = ranks(&images, &texts, &text_image_idx, options.ties)?;
    let scores = ranks.scores();
    let measures = measures(&photos, &ranks, &text_image_idx);
    let run =
        RetrievalRun { scores, measures, ranks, photos, text_image_idx, images, texts, summary };
    Ok(Some(run))
}

/// The vectors of a batch.
#[derive(Serialize, Deserialize)]
struct Embedded {
    photos: Vec<BenchmarkPhoto>,
    #[serde(with = "bits")]
    images: Vec<f32>,
    /// Vectors of the photos' captions.
    #[serde(with = "bits")]
    texts: Vec<f32>,
}

impl Answer for Embedded {
    fn photos(&mut self) -> Vec<&mut BenchmarkPhoto> {
        self.photos.iter_mut().collect()
    }
}

fn measures(
    photos: &[BenchmarkPhoto],
    ranks: &RetrievalRanks,
    text_image_idx: &[usize],
) -> Measures {
    let mut measures = Measures {
        ids: photos.iter().map(|photo| photo.id.clone()).collect(),
        ..Default::default()
    };
    let hit = |k: usize| move |rank: &Option<usize>| f64::from(rank.is_some_and(|rank| rank <= k));
    for k in [1, 5, 10] {
        measures.add_mean(
            &format!("image_to_text_recall_at_{k}"),
            ranks.image_to_text.iter().map(hit(k)),
        );
    }
    for k in [1, 5, 10] {
        let hits = ranks.text_to_image.iter().map(hit(k));
        measures.add_mean_of_parts(&format!("text_to_image_recall_at_{k}"), text_image_idx, hits);
    }
    let of = measures.names().map(str::to_owned).collect();
    measures.measures.push(("mean_recall".into(), Measure::Mean { of }));
    measures
}
