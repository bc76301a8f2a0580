//! Scores captions of whole photos against human references.

use mmgem_core::generate::Decoding;
use mmgem_core::image::Preprocessed;
use mmgem_core::session::Session;
use mmgem_data::benchmark::{Batches, Benchmark, BenchmarkPhoto, ReadSummary};

use super::{EvalError, Tick, nothing_to_score};
use crate::metrics::bootstrap::{Measure, Measures};
use crate::metrics::caption::{CaptionReport, CaptionScores, score};

/// The results of a captioning run.
#[derive(Debug)]
pub struct CaptionRun {
    /// The scores.
    pub scores: CaptionScores,
    /// The scores of NoCaps' domains, each scored separately.
    pub domains: Vec<(String, CaptionScores)>,
    /// The parts of the scores, for bootstrap.
    pub measures: Measures,
    /// The scores with each photo's contribution.
    pub report: CaptionReport,
    /// The photos, in order.
    pub photos: Vec<BenchmarkPhoto>,
    /// The model's captions.
    pub candidates: Vec<String>,
    /// The reference captions.
    pub references: Vec<Vec<String>>,
    /// The data that was read.
    pub summary: ReadSummary,
}

/// Captions the photos that have references, and scores the captions.
///
/// # Errors
/// If no photo has references, or the model fails.
pub async fn captions(
    session: &Session,
    benchmark: &Benchmark,
    decoding: Decoding,
    tick: Tick<'_>,
) -> Result<CaptionRun, EvalError> {
    let has_captions = |photo: &BenchmarkPhoto| !photo.captions.is_empty();
    let (photos, candidates, summary) =
        write(session, benchmark, decoding, has_captions, tick).await?;
    if candidates.is_empty() {
        return Err(nothing_to_score("photo with captions", &summary));
    }
    let references: Vec<Vec<String>> = photos.iter().map(|photo| photo.captions.clone()).collect();
    let report = score(&candidates, &references)?;
    let domains: Vec<Option<String>> = photos.iter().map(|photo| photo.domain.clone()).collect();
    let ids = photos.iter().map(|photo| photo.id.clone()).collect();
    let domains = scores_of_domains(&domains, &candidates, &references)?;
    let measures = measures(ids, &report);
    Ok(CaptionRun {
        scores: report.scores,
        domains,
        measures,
        report,
        photos,
        candidates,
        references,
        summary,
    })
}

/// Captions all photos, for a server with hidden references. Returns the name and caption of each
/// photo.
///
/// # Errors
/// If no photo can be used, or the model fails.
pub async fn unscored_captions(
    session: &Session,
    benchmark: &Benchmark,
    decoding: Decoding,
    tick: Tick<'_>,
) -> Result<(Vec<(String, String)>, ReadSummary), EvalError> {
    let (photos, candidates, summary) = write(session, benchmark, decoding, |_| true, tick).await?;
    if candidates.is_empty() {
        return Err(nothing_to_score("photo that can be used", &summary));
    }
    Ok((photos.into_iter().map(|photo| photo.id).zip(candidates).collect(), summary))
}

/// The wanted photos, in order, and the model's captions.
async fn write(
    session: &Session,
    benchmark: &Benchmark,
    decoding: Decoding,
    is_wanted: impl Fn(&BenchmarkPhoto) -> bool,
    tick: Tick<'_>,
) -> Result<(Vec<BenchmarkPhoto>, Vec<String>, ReadSummary), EvalError> {
    let (mut captioned, mut candidates) = (Vec::new(), Vec::new());
    let mut batches = Batches::new(benchmark, session.config().preprocess());
    while let Some(batch) = batches.next_batch() {
        let wanted = batch.into_iter().filter(|(photo, _)| is_wanted(photo));
        let (photos, inputs): (Vec<_>, Vec<Preprocessed>) = wanted.unzip();
        if !inputs.is_empty() {
            let images = session.encode_batch(&inputs);
            candidates.extend(
                session
                    .caption_images(&images, decoding)
                    .await?
                    .into_iter()
                    .map(|caption| caption.text),
            );
        }
        captioned.extend(photos);
        tick("captions", batches.position(), benchmark.len());
    }
    Ok((captioned, candidates, batches.into_summary()))
}

fn measures(ids: Vec<String>, report: &CaptionReport) -> Measures {
    let mut measures = Measures { ids, ..Default::default() };
    for n in 1..=4 {
        measures
            .measures
            .push((format!("bleu_{n}"), Measure::Bleu { n, counts: report.bleu.clone() }));
    }
    measures.add_mean("rouge_l", report.rouge_l.iter().copied());
    measures.add_mean("cider", report.cider.iter().copied());
    measures
}

/// Scores each domain as a separate corpus, including CIDEr's document frequencies.
fn scores_of_domains(
    domains: &[Option<String>],
    candidates: &[String],
    references: &[Vec<String>],
) -> Result<Vec<(String, CaptionScores)>, EvalError> {
    let mut names: Vec<&str> = domains.iter().flatten().map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    let of_domain = |name: &str| {
        let chosen: Vec<usize> =
            (0..domains.len()).filter(|i| domains[*i].as_deref() == Some(name)).collect();
        let candidates: Vec<&str> = chosen.iter().map(|i| candidates[*i].as_str()).collect();
        let references: Vec<Vec<String>> = chosen.iter().map(|i| references[*i].clone()).collect();
        Ok((name.to_owned(), score(&candidates, &references)?.scores))
    };
    names.into_iter().map(of_domain).collect()
}
