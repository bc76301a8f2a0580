//! Scores captions of whole photos against human references.

use mmgem_core::generate::Decoding;
use mmgem_core::image::Preprocessed;
use mmgem_core::session::Session;
use mmgem_data::benchmark::{Batches, Benchmark, BenchmarkPhoto, ReadSummary};
use serde::{Deserialize, Serialize};

use super::team::{Alone, Answer, Team, answer_batches};
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
    let run = captions_in_team(session, benchmark, decoding, &Alone, tick).await?;
    Ok(run.expect("process 0 has the scores"))
}

/// [`captions`] by several processes; `None` on all but process 0.
///
/// # Errors
/// If no photo has references, or the model or a process fails.
pub async fn captions_in_team(
    session: &Session,
    benchmark: &Benchmark,
    decoding: Decoding,
    team: &dyn Team,
    tick: Tick<'_>,
) -> Result<Option<CaptionRun>, EvalError> {
    let has_captions = |photo: &BenchmarkPhoto| !photo.captions.is_empty();
    let written = write(session, benchmark, decoding, has_captions, team, tick).await?;
    let Some((photos, candidates, summary)) = written else { return Ok(None) };
    if candidates.is_empty() {
        return Err(nothing_to_score("photo with captions", &summary));
    }
    let references: Vec<Vec<String>> = photos.iter().map(|photo| photo.captions.clone()).collect();
    let report = score(&candidates, &references)?;
    let domains: Vec<Option<String>> = photos.iter().map(|photo| photo.domain.clone()).collect();
    let ids = photos.iter().map(|photo| photo.id.clone()).collect();
    let domains = scores_of_domains(&domains, &candidates, &references)?;
    let measures = measures(ids, &report);
    Ok(Some(CaptionRun {
        scores: report.scores,
        domains,
        measures,
        report,
        photos,
        candidates,
        references,
        summary,
    }))
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
    let written = write(session, benchmark, decoding, |_| true, &Alone, tick).await?;
    let (photos, candidates, summary) = written.expect("process 0 has the captions");
    if candidates.is_empty() {
        return Err(nothing_to_score("photo that can be used", &summary));
    }
    Ok((photos.into_iter().map(|photo| photo.id).zip(candidates).collect(), summary))
}

/// Wanted photos and the model's captions.
#[derive(Serialize, Deserialize)]
struct Captioned {
    photos: Vec<BenchmarkPhoto>,
    captions: Vec<String>,
}

impl Answer for Captioned {
    fn photos(&mut self) -> Vec<&mut BenchmarkPhoto> {
        self.photos.iter_mut().collect()
    }
}

/// The wanted photos, in order, and the model's captions; `None` on all but process 0.
async fn write(
    session: &Session,
    benchmark: &Benchmark,
    decoding: Decoding,
    is_wanted: impl Fn(&BenchmarkPhoto) -> bool,
    team: &dyn Team,
    tick: Tick<'_>,
) -> Result<Option<(Vec<BenchmarkPhoto>, Vec<String>, ReadSummary)>, EvalError> {
    let (mut captioned, mut candidates) = (Vec::new(), Vec::new());
    let answer = async |photos: Vec<BenchmarkPhoto>, inputs: Vec<Preprocessed>| {
        let wanted = photos.into_iter().zip(inputs).filter(|(photo, _)| is_wanted(photo));
        let (photos, inputs): (Vec<_>, Vec<Preprocessed>) = wanted.unzip();
        if inputs.is_empty() {
            return Ok(Captioned { photos, captions: Vec::new() });
        }
        let images = session.encode_batch(&inputs);
        let captions = session.caption_images(&images, decoding).await?;
        let captions = captions.into_iter().map(|caption| caption.text).collect();
        Ok(Captioned { photos, captions })
    };
    let take = |batch: Captioned| {
        captioned.extend(batch.photos);
        candidates.extend(batch.captions);
        Ok(())
    };
    let batches = Batches::new(benchmark, session.config().preprocess());
    let summary = answer_batches(batches, team, (tick, "captions"), answer, take).await?;
    Ok(summary.map(|summary| (captioned, candidates, summary)))
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
