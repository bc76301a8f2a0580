//! Scores phrases and boxes: by vectors, by pointing, and by captions.

use mmgem_core::generate::Decoding;
use mmgem_core::image::{BoxPx, Preprocessed};
use mmgem_core::model::Stage;
use mmgem_core::session::Session;
use mmgem_data::benchmark::{Batches, Benchmark, BenchmarkPhoto, BenchmarkRegion, ReadSummary};
use serde::Serialize;

use super::answers::{PhotoAnswers, Proposals, Questions, StageAnswers};
use super::team::{Alone, Answer, Team, answer_batches};
use super::{EvalError, Tick, nothing_to_score};
use crate::gallery::{Gallery, GalleryError, ranks};
use crate::metrics::bootstrap::{Measure, Measures};
use crate::metrics::caption::{BleuCounts, CaptionReport, score};
use crate::metrics::dense::{Detection, Matched, TrueBoxes};
use crate::metrics::ranking::{Ties, dot};
use crate::metrics::region::{Pointing, names};
use crate::metrics::retrieval::recall_at;

/// Largest number of regions that are ranked against each other.
const MOST_RANKED: usize = 50_000;

/// The results for one stage.
#[derive(Debug)]
pub struct RegionRun {
    /// The scores.
    pub scores: RegionEval,
    /// The parts of the scores, for bootstrap.
    pub measures: Measures,
    /// Each region with its caption and its phrase's point.
    pub cases: Vec<RegionCase>,
    /// Detections matched with true boxes, and the number of true boxes.
    pub dense: (Vec<Matched>, usize),
    /// The photos, in order.
    pub photos: Vec<BenchmarkPhoto>,
    /// The data that was read.
    pub summary: ReadSummary,
}

/// Scores of phrases and boxes that look for each other, and of the boxes' captions.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RegionEval {
    /// Recall of phrases against all regions of all photos; `None` if there are too many.
    pub region_text_to_region_recall_at_1: Option<f64>,
    /// The same at 5.
    pub region_text_to_region_recall_at_5: Option<f64>,
    /// The same at 10.
    pub region_text_to_region_recall_at_10: Option<f64>,
    /// Number of phrases.
    pub n_phrases: usize,
    /// Number of regions.
    pub n_regions: usize,
    /// Share of phrases whose own box ranks first among the boxes of its photo.
    pub in_photo_recall_at_1: f64,
    /// The same, for a random choice.
    pub in_photo_chance_at_1: f64,
    /// Share of phrases whose most similar patch is in one of their boxes.
    pub pointing_accuracy: f64,
    /// The same, for the photo's center.
    pub pointing_accuracy_of_center: f64,
    /// Share of boxes whose caption has all words of one of the box's phrases ([`names`]).
    pub named: f64,
    /// CIDEr of the boxes' captions against their phrases.
    pub region_cider: f64,
    /// BLEU-4 of the same captions.
    pub region_bleu_4: f64,
    /// ROUGE-L of the same captions.
    pub region_rouge_l: f64,
}

/// One region and the model's answers.
#[derive(Clone, Debug)]
pub struct RegionCase {
    /// Index of its photo.
    pub photo_idx: usize,
    /// Its box.
    pub box_px: BoxPx,
    /// Its phrases.
    pub phrases: Vec<String>,
    /// The model's caption of the box.
    pub caption: String,
    /// CIDEr of the caption.
    pub cider: f64,
    /// The point for its first phrase.
    pub point: [f32; 2],
    /// Whether that point is in a box of the phrase.
    pub is_hit: bool,
}

/// The answers of one stage, collected photo by photo.
struct Collected {
    photos: Vec<BenchmarkPhoto>,
    cases: Vec<RegionCase>,
    regions: Gallery,
    phrases: Gallery,
    phrase_region_idx: Vec<usize>,
    phrase_photo: Vec<usize>,
    is_first_in_photo: Vec<f64>,
    chance_in_photo: Vec<f64>,
    is_hit: Vec<f64>,
    is_center_hit: Vec<f64>,
    dense: Vec<Matched>,
    n_true: usize,
}

/// Scores every region of the photos that have regions, for each of the stages. Returns a run for
/// each stage, in order.
///
/// Stage 2 embeds a box with the region head h4 and captions it after `[CAP_1..n]`. Stage 1 has
/// neither: it uses the mean of the box, and `[CAP]`. For dense captioning, `proposals` replace the
/// true boxes.
///
/// # Errors
/// If no region is found, or the model fails.
pub async fn regions(
    session: &Session,
    benchmark: &Benchmark,
    stages: &[Stage],
    proposals: Option<&Proposals>,
    decoding: Decoding,
    tick: Tick<'_>,
) -> Result<Vec<RegionRun>, EvalError> {
    let runs =
        regions_in_team(session, benchmark, stages, proposals, decoding, &Alone, tick).await?;
    Ok(runs.expect("process 0 has the scores"))
}

/// [`regions`] by several processes; `None` on all but process 0.
///
/// # Errors
/// If no region is found, or the model or a process fails.
pub async fn regions_in_team(
    session: &Session,
    benchmark: &Benchmark,
    stages: &[Stage],
    proposals: Option<&Proposals>,
    decoding: Decoding,
    team: &dyn Team,
    tick: Tick<'_>,
) -> Result<Option<Vec<RegionRun>>, EvalError> {
    let questions =
        Questions { session, stages, every_phrase: benchmark.every_phrase, proposals, decoding };
    let mut collected: Vec<Collected> =
        stages.iter().map(|_| Collected::new(session.config().embed_dim)).collect();
    let answer = async |photos: Vec<BenchmarkPhoto>, inputs: Vec<Preprocessed>| {
        questions.answer(&photos, &inputs).await
    };
    let take = |answers: Vec<PhotoAnswers>| {
        for answers in answers {
            for (collected, of_stage) in collected.iter_mut().zip(&answers.by_stage) {
                collected.add(&answers, of_stage)?;
            }
        }
        Ok(())
    };
    let batches = Batches::new(benchmark, session.config().preprocess());
    let summary = answer_batches(batches, team, (tick, "photos"), answer, take).await?;
    let Some(summary) = summary else { return Ok(None) };
    let finish = |collected: Collected| collected.finish(summary.clone());
    collected.into_iter().map(finish).collect::<Result<_, _>>().map(Some)
}

impl Answer for Vec<PhotoAnswers> {
    fn photos(&mut self) -> Vec<&mut BenchmarkPhoto> {
        self.iter_mut().map(|answers| &mut answers.photo).collect()
    }
}

impl Collected {
    fn new(embed_dim: usize) -> Self {
        let gallery = || Gallery::new(embed_dim, usize::MAX);
        Self {
            photos: Vec::new(),
            cases: Vec::new(),
            regions: gallery(),
            phrases: gallery(),
            phrase_region_idx: Vec::new(),
            phrase_photo: Vec::new(),
            is_first_in_photo: Vec::new(),
            chance_in_photo: Vec::new(),
            is_hit: Vec::new(),
            is_center_hit: Vec::new(),
            dense: Vec::new(),
            n_true: 0,
        }
    }

    fn add(&mut self, answers: &PhotoAnswers, of_stage: &StageAnswers) -> Result<(), EvalError> {
        let (photo_idx, first_region) = (self.photos.len(), self.cases.len());
        let mut first_points: Vec<Option<([f32; 2], bool)>> = vec![None; answers.regions.len()];
        let embeds = answers.phrase_embeds.chunks_exact(self.regions.embed_dim());
        for ((&own, embed), &point) in
            answers.phrase_region.iter().zip(embeds).zip(&of_stage.points)
        {
            let is_hit = self.add_phrase(embed, own, point, answers, of_stage);
            first_points[own].get_or_insert((point, is_hit));
            self.phrase_region_idx.push(first_region + own);
            self.phrase_photo.push(photo_idx);
        }
        self.phrases.push(&answers.phrase_embeds).map_err(GalleryError::from)?;
        self.regions.push(&of_stage.region_embeds).map_err(GalleryError::from)?;
        let cases = answers.regions.iter().zip(&of_stage.captions).zip(first_points);
        self.cases.extend(cases.map(|((region, caption), point)| {
            let (point, is_hit) = point.expect("usable regions have a phrase");
            let (box_px, phrases, caption) =
                (region.box_px, region.phrases.clone(), caption.clone());
            RegionCase { photo_idx, box_px, phrases, caption, cider: 0.0, point, is_hit }
        }));
        self.add_dense(&answers.regions, &of_stage.found);
        self.photos.push(answers.photo.clone());
        Ok(())
    }

    /// Ranks the phrase's own region among those of its photo, and returns whether its point is a
    /// hit.
    fn add_phrase(
        &mut self,
        embed: &[f32],
        own: usize,
        point: [f32; 2],
        answers: &PhotoAnswers,
        of_stage: &StageAnswers,
    ) -> bool {
        let scores: Vec<f32> = of_stage
            .region_embeds
            .chunks_exact(embed.len())
            .map(|region| dot(embed, region))
            .collect();
        let n_ahead = (0..scores.len())
            .filter(|other| *other != own && scores[*other] >= scores[own])
            .count();
        self.is_first_in_photo.push(f64::from(n_ahead == 0 && !scores[own].is_nan()));
        self.chance_in_photo.push(1.0 / scores.len() as f64);
        let boxes = &answers.regions[own].boxes;
        let is_in = |point| Pointing { point, boxes: boxes.clone() }.is_hit();
        self.is_hit.push(f64::from(is_in(point)));
        self.is_center_hit.push(f64::from(is_in(answers.center)));
        is_in(point)
    }

    fn add_dense(&mut self, regions: &[BenchmarkRegion], found: &[Detection]) {
        let boxes: Vec<BoxPx> = regions.iter().map(|region| region.box_px).collect();
        let captions: Vec<String> =
            regions.iter().map(|region| region.phrases[0].clone()).collect();
        let truth = TrueBoxes::new(&boxes, &captions);
        self.n_true += truth.len();
        self.dense.extend(truth.assign(found));
    }

    fn finish(mut self, summary: ReadSummary) -> Result<RegionRun, EvalError> {
        if self.cases.is_empty() {
            return Err(nothing_to_score("region that one box and a phrase describe", &summary));
        }
        let captions: Vec<&str> = self.cases.iter().map(|case| case.caption.as_str()).collect();
        let references: Vec<Vec<String>> =
            self.cases.iter().map(|case| case.phrases.clone()).collect();
        let report = score(&captions, &references)?;
        self.cases.iter_mut().zip(&report.cider).for_each(|(case, cider)| case.cider = *cider);
        let ranks = match self.cases.len() {
            ..=MOST_RANKED => Some(
                ranks(&self.regions, &self.phrases, &self.phrase_region_idx, Ties::Against)?
                    .text_to_image,
            ),
            _ => None,
        };
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let recall = |k| ranks.as_ref().map(|ranks| recall_at(ranks, k));
        let scores = RegionEval {
            region_text_to_region_recall_at_1: recall(1),
            region_text_to_region_recall_at_5: recall(5),
            region_text_to_region_recall_at_10: recall(10),
            n_phrases: self.phrase_photo.len(),
            n_regions: self.cases.len(),
            in_photo_recall_at_1: mean(&self.is_first_in_photo),
            in_photo_chance_at_1: mean(&self.chance_in_photo),
            pointing_accuracy: mean(&self.is_hit),
            pointing_accuracy_of_center: mean(&self.is_center_hit),
            named: mean(&self.named()),
            region_cider: report.scores.cider,
            region_bleu_4: report.scores.bleu_4,
            region_rouge_l: report.scores.rouge_l,
        };
        let measures = self.measures(ranks.as_deref(), &report);
        let dense = (self.dense, self.n_true);
        Ok(RegionRun { scores, measures, cases: self.cases, dense, photos: self.photos, summary })
    }

    /// 1 for each box whose caption names its object, otherwise 0.
    fn named(&self) -> Vec<f64> {
        let is_named =
            |case: &RegionCase| case.phrases.iter().any(|phrase| names(&case.caption, phrase));
        self.cases.iter().map(|case| f64::from(is_named(case))).collect()
    }

    fn measures(&self, ranks: Option<&[Option<usize>]>, report: &CaptionReport) -> Measures {
        let ids = self.photos.iter().map(|photo| photo.id.clone()).collect();
        let mut measures = Measures { ids, ..Default::default() };
        for k in [1, 5, 10] {
            if let Some(ranks) = ranks {
                let hits = ranks.iter().map(|rank| f64::from(rank.is_some_and(|rank| rank <= k)));
                let name = format!("region_text_to_region_recall_at_{k}");
                measures.add_mean_of_parts(&name, &self.phrase_photo, hits);
            }
        }
        let of_phrases = [
            ("in_photo_recall_at_1", &self.is_first_in_photo),
            ("pointing_accuracy", &self.is_hit),
            ("pointing_accuracy_of_center", &self.is_center_hit),
        ];
        for (name, values) in of_phrases {
            measures.add_mean_of_parts(name, &self.phrase_photo, values.iter().copied());
        }
        let region_photo: Vec<usize> = self.cases.iter().map(|case| case.photo_idx).collect();
        measures.add_mean_of_parts("named", &region_photo, self.named());
        measures.add_mean_of_parts("region_cider", &region_photo, report.cider.iter().copied());
        measures.add_mean_of_parts("region_rouge_l", &region_photo, report.rouge_l.iter().copied());
        let mut counts = vec![BleuCounts::default(); self.photos.len()];
        region_photo
            .iter()
            .zip(&report.bleu)
            .for_each(|(&photo, of_region)| counts[photo].add(of_region));
        measures.measures.push(("region_bleu_4".into(), Measure::Bleu { n: 4, counts }));
        measures
    }
}
