//! Classifies photos by the vectors of class names.

use mmgem_core::checkpoint::{HASH_START, hash_bytes};
use mmgem_core::image::{ImagePreprocess, Preprocessed};
use mmgem_data::benchmark::classes::{ClassMetric, ClassPhoto, ClassSet};
use mmgem_data::benchmark::{ReadSummary, on_all_cores};
use serde::Serialize;

use super::encoder::Encoder;
use super::{EvalError, Tick, nothing_to_score};
use crate::metrics::bootstrap::{Measure, Measures};
use crate::metrics::classification::{
    best_class, class_embed, class_probabilities, mean_average_precision_11, mean_per_class,
    prompt, roc_auc,
};
use crate::metrics::ranking::dot;

/// Photos per batch.
const BATCH: usize = 32;

/// The results for one set.
#[derive(Clone, Debug, Serialize)]
pub struct ClassRun {
    /// Name of the set.
    pub set: String,
    /// Key of the metric that the set is reported by.
    pub metric: &'static str,
    /// Its value.
    pub score: f64,
    /// Share of photos whose best class is one of theirs.
    pub top1: f64,
    /// The same, averaged over classes; `None` if photos have several classes.
    pub mean_per_class: Option<f64>,
    /// Expected `score` of a random choice.
    pub chance: f64,
    /// Number of classes.
    pub n_classes: usize,
    /// Number of usable photos.
    pub n_photos: usize,
    /// The parts of the scores, for bootstrap.
    #[serde(skip)]
    pub measures: Measures,
    /// The result for each photo.
    #[serde(skip)]
    pub predictions: Vec<Prediction>,
    /// The data that was read.
    #[serde(skip)]
    pub summary: ReadSummary,
}

/// The result for a photo.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// Its index in the set.
    pub photo_idx: usize,
    /// Its class, the first of several.
    pub label: usize,
    /// The class with the most similar vector.
    pub found: usize,
    /// Cosine with its class minus the largest cosine with another class.
    pub lead: f32,
}

/// Classifies the photos of a set by the prompts of its classes.
///
/// # Errors
/// If no photo can be used, or the model fails.
pub async fn zero_shot(
    encoder: &Encoder<'_>,
    set: &ClassSet,
    limit: Option<usize>,
    tick: Tick<'_>,
) -> Result<ClassRun, EvalError> {
    let class_embeds = class_embeds(encoder, set).await?;
    let (embed_dim, n) = (encoder.embed_dim(), set.len().min(limit.unwrap_or(usize::MAX)));
    let config = encoder.preprocess();
    let mut summary = ReadSummary { n_photos: 0, skipped: Vec::new(), data_hash: HASH_START };
    let (mut places, mut labels, mut cosines) = (Vec::new(), Vec::new(), Vec::new());
    for start in (0..n).step_by(BATCH) {
        let batch = start..(start + BATCH).min(n);
        let read = |idx: usize| read(set, idx, &config);
        let mut inputs = Vec::with_capacity(batch.len());
        for (idx, result) in batch.clone().zip(on_all_cores(batch.clone(), read)) {
            match result {
                Ok((photo, input)) => {
                    summary.data_hash = hash_bytes(summary.data_hash, &photo.hash.to_le_bytes());
                    inputs.push(input);
                    places.push(idx);
                    labels.push(photo.labels);
                }
                Err(why) => summary.skipped.push(format!("{}: {why}", set.name_of(idx))),
            }
        }
        for photo_embed in encoder.embed_photos(&inputs).await?.chunks_exact(embed_dim) {
            cosines
                .extend(class_embeds.chunks_exact(embed_dim).map(|class| dot(photo_embed, class)));
        }
        tick("photos", batch.end, n);
    }
    summary.n_photos = labels.len();
    if labels.is_empty() {
        return Err(nothing_to_score("photo that can be used", &summary));
    }
    Ok(scored(set, &places, &labels, &cosines, summary))
}

fn read(
    set: &ClassSet,
    idx: usize,
    config: &ImagePreprocess,
) -> Result<(ClassPhoto, Preprocessed), String> {
    let photo = set.read(idx)?;
    if photo.labels.is_empty() {
        return Err("it has no class".into());
    }
    let input = photo.decoded.preprocess(config);
    Ok((photo, input))
}

async fn class_embeds(encoder: &Encoder<'_>, set: &ClassSet) -> Result<Vec<f32>, EvalError> {
    let mut embeds = Vec::with_capacity(set.classes.len() * encoder.embed_dim());
    for class in &set.classes {
        let fill = |template: &String| -> Vec<String> {
            class.all().iter().map(|name| prompt(template, name)).collect()
        };
        let prompts: Vec<String> = set.templates.iter().flat_map(fill).collect();
        let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
        embeds.extend(class_embed(&encoder.embed_texts(&prompts).await?, encoder.embed_dim()));
    }
    Ok(embeds)
}

fn scored(
    set: &ClassSet,
    places: &[usize],
    labels: &[Vec<usize>],
    cosines: &[f32],
    summary: ReadSummary,
) -> ClassRun {
    let n_classes = set.classes.len();
    let rows = || cosines.chunks_exact(n_classes);
    let predicted: Vec<usize> = rows().map(best_class).collect();
    let hit = |(labels, found): (&Vec<usize>, &usize)| f64::from(labels.contains(found));
    let hits: Vec<f64> = labels.iter().zip(&predicted).map(hit).collect();
    let first: Vec<usize> = labels.iter().map(|labels| labels[0]).collect();
    let is_single = labels.iter().all(|labels| labels.len() == 1);

    let ids = places.iter().map(|idx| set.name_of(*idx)).collect();
    let mut measures = Measures { ids, ..Default::default() };
    measures.add_mean("top1", hits.iter().copied());
    let top1 = hits.iter().sum::<f64>() / hits.len() as f64;
    let per_class = is_single.then(|| mean_per_class(&first, &predicted));
    if is_single {
        let measure = Measure::MeanPerClass { class: first.clone(), hit: hits };
        measures.measures.push(("mean_per_class".into(), measure));
    }
    let guess = 1.0 / n_classes as f64;
    let (metric, score, chance) = match set.metric {
        ClassMetric::Accuracy => ("top1", top1, guess),
        ClassMetric::MeanPerClass => ("mean_per_class", per_class.unwrap_or(f64::NAN), guess),
        ClassMetric::RocAuc => {
            let score: Vec<f64> = rows().map(|row| class_probabilities(row)[1]).collect();
            let positive: Vec<bool> = first.iter().map(|label| *label == 1).collect();
            let scored: Vec<(f64, bool)> =
                score.iter().copied().zip(positive.iter().copied()).collect();
            measures.measures.push(("roc_auc".into(), Measure::RocAuc { score, positive }));
            ("roc_auc", roc_auc(&scored), 0.5)
        }
        ClassMetric::Map11Points => {
            let scores: Vec<f64> = rows().flat_map(class_probabilities).collect();
            let share = labels.iter().map(Vec::len).sum::<usize>() as f64
                / (labels.len() * n_classes) as f64;
            let score = mean_average_precision_11(&scores, n_classes, labels);
            let measure = Measure::Map11Points { n_classes, scores, labels: labels.to_vec() };
            measures.measures.push(("map_11_points".into(), measure));
            ("map_11_points", score, share)
        }
    };
    let predictions = places.iter().zip(rows()).zip(first.iter().zip(&predicted));
    let predictions = predictions
        .map(|((&photo_idx, row), (&label, &found))| {
            let others = (0..n_classes).filter(|class| *class != label).map(|class| row[class]);
            Prediction {
                photo_idx,
                label,
                found,
                lead: row[label] - others.fold(f32::NEG_INFINITY, f32::max),
            }
        })
        .collect();
    ClassRun {
        set: set.name.clone(),
        metric,
        score,
        top1,
        mean_per_class: per_class,
        chance,
        n_classes,
        n_photos: labels.len(),
        measures,
        predictions,
        summary,
    }
}
