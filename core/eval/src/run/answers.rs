//! The model's answers for the regions of photos, before scoring: vectors, points and captions.

use std::collections::HashMap;

use mmgem_core::generate::Decoding;
use mmgem_core::image::{BoxPx, Preprocessed, check_box};
use mmgem_core::model::Stage;
use mmgem_core::session::{EncodedImage, Session, SessionError};
use mmgem_data::benchmark::{BenchmarkPhoto, BenchmarkRegion, on_all_cores};
use serde::{Deserialize, Serialize};

use super::EvalError;
use super::encoder::Encoder;
use super::team::bits;
use crate::metrics::dense::Detection;

/// Boxes per captioning batch. With more of them, the keys and values read per token exceed the
/// CPU's caches.
const CAPTION_BATCH: usize = 32;

/// Boxes from another program and their scores, by photo id.
pub type Proposals = HashMap<String, Vec<(BoxPx, f64)>>;

/// The model to ask, and the settings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Questions<'a> {
    pub session: &'a Session,
    pub stages: &'a [Stage],
    /// Whether to look for all phrases of a region, or only its first.
    pub every_phrase: bool,
    pub proposals: Option<&'a Proposals>,
    pub decoding: Decoding,
}

/// A photo with regions, and the model's answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PhotoAnswers {
    pub photo: BenchmarkPhoto,
    /// The center of the photo, in pixels.
    pub center: [f32; 2],
    /// Regions with a phrase and a box on the photo; at least one.
    pub regions: Vec<BenchmarkRegion>,
    /// Vectors of the phrases to look for, concatenated.
    #[serde(with = "bits")]
    pub phrase_embeds: Vec<f32>,
    /// Region of each of these phrases, in order.
    pub phrase_region: Vec<usize>,
    /// Answers of each stage, in the order of the stages.
    pub by_stage: Vec<StageAnswers>,
}

/// The answers that depend on the stage.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StageAnswers {
    /// Vectors of the regions, concatenated.
    #[serde(with = "bits")]
    pub region_embeds: Vec<f32>,
    /// The point for each phrase, in pixels.
    pub points: Vec<[f32; 2]>,
    /// The caption of each region.
    pub captions: Vec<String>,
    /// The boxes that count for dense captioning.
    #[serde(with = "detections")]
    pub found: Vec<Detection>,
}

impl Questions<'_> {
    /// Asks the model about photos; skips photos without a usable region.
    ///
    /// On the CPU each core works on its own photos, because parallel small products gain less.
    pub async fn answer(
        &self,
        photos: &[BenchmarkPhoto],
        inputs: &[Preprocessed],
    ) -> Result<Vec<PhotoAnswers>, EvalError> {
        let n_cores = self.cores();
        let share = photos.len().div_ceil(n_cores).max(1);
        if n_cores == 1 || share == photos.len() {
            return self.answer_batch(photos, inputs).await;
        }
        let parts: Vec<_> = photos.chunks(share).zip(inputs.chunks(share)).collect();
        let answers = on_all_cores(0..parts.len(), |part| {
            if parts.len() == n_cores {
                mmgem_core::kernels::use_one_thread();
            }
            let (photos, inputs) = parts[part];
            pollster::block_on(self.answer_batch(photos, inputs))
        });
        answers
            .into_iter()
            .collect::<Result<Vec<_>, _>>()
            .map(|parts| parts.into_iter().flatten().collect())
    }

    /// Number of CPU cores to compute with; 1 on a GPU.
    fn cores(&self) -> usize {
        if mmgem_core::kernels::is_on_cpu(self.session.device()) {
            return mmgem_data::benchmark::n_cores();
        }
        1
    }

    async fn answer_batch(
        &self,
        photos: &[BenchmarkPhoto],
        inputs: &[Preprocessed],
    ) -> Result<Vec<PhotoAnswers>, EvalError> {
        if inputs.is_empty() {
            return Ok(Vec::new());
        }
        let (mut answers, mut images) = (Vec::new(), Vec::new());
        for (photo, image) in photos.iter().zip(self.session.encode_batch(inputs)) {
            let regions = usable_regions(photo, &image);
            if !regions.is_empty() {
                answers.push(self.look_for_phrases(photo, &image, regions).await?);
                images.push(image);
            }
        }
        for stage in self.stages {
            self.answer_stage(*stage, &images, &mut answers).await?;
        }
        Ok(answers)
    }

    async fn look_for_phrases(
        &self,
        photo: &BenchmarkPhoto,
        image: &EncodedImage,
        regions: Vec<BenchmarkRegion>,
    ) -> Result<PhotoAnswers, EvalError> {
        let asked =
            |region: &BenchmarkRegion| if self.every_phrase { region.phrases.len() } else { 1 };
        let phrases: Vec<(usize, &str)> = regions
            .iter()
            .enumerate()
            .flat_map(|(idx, region)| {
                region.phrases[..asked(region)].iter().map(move |p| (idx, p.as_str()))
            })
            .collect();
        let (phrase_region, texts): (Vec<usize>, Vec<&str>) = phrases.into_iter().unzip();
        let phrase_embeds = Encoder::MmGem(self.session).embed_texts(&texts).await?;
        Ok(PhotoAnswers {
            photo: photo.clone(),
            center: [image.width as f32 / 2.0, image.height as f32 / 2.0],
            regions,
            phrase_embeds,
            phrase_region,
            by_stage: Vec::with_capacity(self.stages.len()),
        })
    }

    /// Adds a stage's answers for each photo.
    async fn answer_stage(
        &self,
        stage: Stage,
        images: &[EncodedImage],
        answers: &mut [PhotoAnswers],
    ) -> Result<(), EvalError> {
        let own: Vec<(usize, BoxPx)> = answers
            .iter()
            .enumerate()
            .flat_map(|(photo, answer)| {
                answer.boxes().into_iter().map(move |box_px| (photo, box_px))
            })
            .collect();
        let scored_captions = self.caption_boxes(stage, images, &own).await?;
        let mut found = self.caption_proposals(stage, images, answers).await?;
        for (&(photo, box_px), (caption, score)) in own.iter().zip(&scored_captions) {
            if self.proposals_of(&answers[photo]).is_none() {
                found[photo].push(Detection { box_px, score: *score, caption: caption.clone() });
            }
        }

        let mut captions = scored_captions.into_iter().map(|(caption, _)| caption);
        for ((answer, image), found) in answers.iter_mut().zip(images).zip(found) {
            let mut points = Vec::with_capacity(answer.phrase_region.len());
            for embed in answer.phrase_embeds.chunks_exact(self.session.config().embed_dim) {
                points.push(self.session.point(stage, image, embed).await?);
            }
            answer.by_stage.push(StageAnswers {
                region_embeds: self.session.embed_boxes(stage, image, &answer.boxes()).await?,
                points,
                captions: captions.by_ref().take(answer.regions.len()).collect(),
                found,
            });
        }
        Ok(())
    }

    /// Captions for the proposed boxes that are on each photo; the scores are those of the
    /// proposals.
    async fn caption_proposals(
        &self,
        stage: Stage,
        images: &[EncodedImage],
        answers: &[PhotoAnswers],
    ) -> Result<Vec<Vec<Detection>>, EvalError> {
        let mut proposed: Vec<(usize, BoxPx, f64)> = Vec::new();
        for (photo, (answer, image)) in answers.iter().zip(images).enumerate() {
            let on_photo = |(box_px, _): &&(BoxPx, f64)| is_on(image, *box_px);
            let usable = self.proposals_of(answer).unwrap_or_default().iter().filter(on_photo);
            proposed.extend(usable.map(|(box_px, score)| (photo, *box_px, *score)));
        }
        let boxes: Vec<(usize, BoxPx)> =
            proposed.iter().map(|(photo, box_px, _)| (*photo, *box_px)).collect();
        let captions = self.caption_boxes(stage, images, &boxes).await?;
        let mut found = vec![Vec::new(); images.len()];
        for ((photo, box_px, score), (caption, _)) in proposed.into_iter().zip(captions) {
            found[photo].push(Detection { box_px, score, caption });
        }
        Ok(found)
    }

    fn proposals_of(&self, answer: &PhotoAnswers) -> Option<&[(BoxPx, f64)]> {
        self.proposals?.get(&answer.photo.id).map(Vec::as_slice)
    }

    /// The caption of each box, and the mean log probability of its tokens.
    async fn caption_boxes(
        &self,
        stage: Stage,
        images: &[EncodedImage],
        boxes: &[(usize, BoxPx)],
    ) -> Result<Vec<(String, f64)>, EvalError> {
        let mut captions = Vec::with_capacity(boxes.len());
        for boxes in boxes.chunks(CAPTION_BATCH) {
            for caption in self.session.caption_boxes(stage, images, boxes, self.decoding).await? {
                let ids =
                    self.session.tokenizer().encode(&caption.text).map_err(SessionError::from)?;
                let mean = f64::from(caption.log_prob) / (ids.len() + 1) as f64;
                captions.push((caption.text, mean));
            }
        }
        Ok(captions)
    }
}

impl PhotoAnswers {
    /// The boxes of the photo's regions.
    pub fn boxes(&self) -> Vec<BoxPx> {
        self.regions.iter().map(|region| region.box_px).collect()
    }
}

/// Regions with a phrase and a box on the photo.
fn usable_regions(photo: &BenchmarkPhoto, image: &EncodedImage) -> Vec<BenchmarkRegion> {
    let fits =
        |region: &&BenchmarkRegion| !region.phrases.is_empty() && is_on(image, region.box_px);
    photo.regions.iter().filter(fits).cloned().collect()
}

fn is_on(image: &EncodedImage, box_px: BoxPx) -> bool {
    check_box(box_px, image.width, image.height).is_ok()
}

/// Detections as their box, the bits of their score, and their caption.
mod detections {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{BoxPx, Detection};

    pub fn serialize<S: Serializer>(found: &[Detection], to: S) -> Result<S::Ok, S::Error> {
        let parts =
            |found: &Detection| (found.box_px, found.score.to_bits(), found.caption.clone());
        found.iter().map(parts).collect::<Vec<_>>().serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Detection>, D::Error> {
        let found = Vec::<(BoxPx, u64, String)>::deserialize(from)?.into_iter();
        Ok(found
            .map(|(box_px, score, caption)| Detection {
                box_px,
                score: f64::from_bits(score),
                caption,
            })
            .collect())
    }
}
