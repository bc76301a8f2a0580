//! A model's scores on held-out photos in WebDataset shards.

use serde::Serialize;

use super::caption::{CaptionError, CaptionScores, score};
use super::region::{Pointing, RegionScores, pointing_accuracy, region_text_to_region_scores};
use super::retrieval::{RetrievalError, RetrievalScores, ranks_from_embeds, recall_at};
use crate::data::source::{Samples, SourceError};
use crate::data::webdataset::{PhotoRecord, RegionRecord};
use crate::generate::Decoding;
use crate::image::{Preprocessed, decode, preprocess};
use crate::session::{EncodedImage, Part, Session, SessionError};

/// Photos that go through the model at once.
const BATCH: usize = 32;

/// Why an evaluation cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The data.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The model or its device.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The captions.
    #[error(transparent)]
    Caption(#[from] CaptionError),
    /// The rankings.
    #[error(transparent)]
    Retrieval(#[from] RetrievalError),
    /// Nothing to evaluate on.
    #[error(
        "the shards hold no {0}\n  hint: wanted are WebDataset samples with a photo and a .json of captions and regions"
    )]
    Nothing(&'static str),
}

/// Held-out photos, after the image encoder.
pub struct HeldOut {
    photos: Vec<(String, PhotoRecord, EncodedImage)>,
    /// Samples that could not be used, and why.
    pub skipped: Vec<String>,
}

/// Captions of whole photos and their scores.
#[derive(Clone, Debug, Serialize)]
pub struct CaptionEval {
    /// The scores against the photos' own captions.
    #[serde(flatten)]
    pub scores: CaptionScores,
    /// Photos.
    pub n_images: usize,
    /// Key and caption of each photo.
    #[serde(skip)]
    pub captions: Vec<(String, String)>,
}

/// How well phrases and boxes find each other.
#[derive(Clone, Debug, Serialize)]
pub struct RegionEval {
    /// Each region's first phrase against all regions of all photos.
    #[serde(flatten)]
    pub recall: RegionScores,
    /// Share of phrases whose own box ranks first among the boxes of its photo.
    pub in_photo_recall_at_1: f64,
    /// The same for a guess.
    pub in_photo_chance_at_1: f64,
    /// Share of phrases whose most similar patch lies in the box.
    pub pointing_accuracy: f64,
    /// The same for the photo's centre.
    pub pointing_accuracy_of_center: f64,
    /// CIDEr of the captions of the boxes against their phrases.
    pub region_cider: f64,
    /// BLEU-4 of the same.
    pub region_bleu_4: f64,
}

impl HeldOut {
    /// Reads and encodes at most `limit` photos; `tick` is called with the number done and all.
    pub fn encode(
        session: &Session,
        shards: &[String],
        limit: Option<usize>,
        mut tick: impl FnMut(usize, usize),
    ) -> Result<Self, EvalError> {
        let mut samples = Samples::open(shards, None)?;
        samples.truncate(limit.unwrap_or(usize::MAX));
        let mut held_out = Self { photos: Vec::new(), skipped: samples.warnings().collect() };
        for start in (0..samples.len()).step_by(BATCH) {
            let batch = start..(start + BATCH).min(samples.len());
            let mut ready = Vec::with_capacity(BATCH);
            for idx in batch.clone() {
                match read_photo(session, &samples, idx) {
                    Ok(photo) => ready.push(photo),
                    Err(why) => held_out.skipped.push(format!("{}: {why}", samples.name(idx))),
                }
            }
            let (records, pixels): (Vec<_>, Vec<Preprocessed>) = ready.into_iter().unzip();
            let encoded = if pixels.is_empty() { Vec::new() } else { session.encode_batch(&pixels) };
            held_out
                .photos
                .extend(records.into_iter().zip(encoded).map(|((key, record), image)| (key, record, image)));
            tick(batch.end, samples.len());
        }
        if held_out.photos.is_empty() {
            return Err(EvalError::Nothing("photo that can be used"));
        }
        Ok(held_out)
    }

    /// Photos that could be used.
    pub fn len(&self) -> usize {
        self.photos.len()
    }

    /// Whether no photo could be used; [`Self::encode`] gives an error instead.
    pub fn is_empty(&self) -> bool {
        self.photos.is_empty()
    }

    /// Every photo against every caption of all photos, both ways.
    pub async fn retrieval(&self, session: &Session) -> Result<RetrievalScores, EvalError> {
        let mut image_embeds = Vec::new();
        let mut texts: Vec<&str> = Vec::new();
        let mut text_image_idx = Vec::new();
        for (image_idx, (_, record, image)) in self.photos.iter().enumerate() {
            image_embeds.extend(session.embed_image(image, &Part::Whole).await?);
            texts.extend(record.captions.iter().map(String::as_str));
            text_image_idx.extend(std::iter::repeat_n(image_idx, record.captions.len()));
        }
        if texts.is_empty() {
            return Err(EvalError::Nothing("caption"));
        }
        let text_embeds = embed_all(session, &texts).await?;
        let embed_dim = session.config().embed_dim;
        Ok(ranks_from_embeds(&image_embeds, &text_embeds, embed_dim, &text_image_idx)?.scores())
    }

    /// Captions of the whole photos against their own.
    pub async fn captions(
        &self,
        session: &Session,
        decoding: Decoding,
        mut tick: impl FnMut(usize, usize),
    ) -> Result<CaptionEval, EvalError> {
        let with_captions: Vec<_> =
            self.photos.iter().filter(|(_, record, _)| !record.captions.is_empty()).collect();
        if with_captions.is_empty() {
            return Err(EvalError::Nothing("caption"));
        }
        let mut captions = Vec::with_capacity(with_captions.len());
        for batch in with_captions.chunks(BATCH) {
            let images: Vec<EncodedImage> = batch.iter().map(|(_, _, image)| image.clone()).collect();
            let decoded = session.caption_images(&images, decoding).await?;
            captions
                .extend(batch.iter().zip(decoded).map(|((key, _, _), caption)| (key.clone(), caption.text)));
            tick(captions.len(), with_captions.len());
        }
        let candidates: Vec<&str> = captions.iter().map(|(_, caption)| caption.as_str()).collect();
        let references: Vec<Vec<String>> =
            with_captions.iter().map(|(_, record, _)| record.captions.clone()).collect();
        let scores = score(&candidates, &references)?.scores;
        Ok(CaptionEval { scores, n_images: captions.len(), captions })
    }

    /// Phrases of single boxes against boxes, both as vectors and as captions.
    pub async fn regions(
        &self,
        session: &Session,
        decoding: Decoding,
        mut tick: impl FnMut(usize, usize),
    ) -> Result<RegionEval, EvalError> {
        let embed_dim = session.config().embed_dim;
        let (mut boxes_embed, mut phrases, mut photo_of) = (Vec::new(), Vec::new(), Vec::new());
        let (mut captions, mut references) = (Vec::new(), Vec::new());
        for (photo_idx, (_, record, image)) in self.photos.iter().enumerate() {
            let regions = usable_regions(record, image);
            if regions.is_empty() {
                continue;
            }
            let boxes: Vec<[f32; 4]> = regions.iter().map(|region| region.box_px).collect();
            boxes_embed.extend(session.embed_boxes(image, &boxes).await?);
            let parts: Vec<Part> = boxes.into_iter().map(Part::Box).collect();
            let decoded = session.caption_regions(image, &parts, decoding).await?;
            captions.extend(decoded.into_iter().map(|caption| caption.text));
            for region in regions {
                phrases.push(region.phrases[0].as_str());
                references.push(region.phrases.clone());
                photo_of.push(photo_idx);
            }
            tick(photo_idx + 1, self.photos.len());
        }
        if phrases.is_empty() {
            return Err(EvalError::Nothing("region that one box and a phrase describe"));
        }
        let text_embeds = embed_all(session, &phrases).await?;
        let scores = dot_products(&text_embeds, &boxes_embed, embed_dim);
        let own: Vec<usize> = (0..phrases.len()).collect();
        let recall = region_text_to_region_scores(&scores, phrases.len(), &own)?;
        let (in_photo, chance) = in_photo_recall(&scores, &photo_of);
        let (points, centers) = self.point(session, &text_embeds, embed_dim).await?;
        let region_scores = score(&captions, &references)?.scores;
        Ok(RegionEval {
            recall,
            in_photo_recall_at_1: in_photo,
            in_photo_chance_at_1: chance,
            pointing_accuracy: pointing_accuracy(&points),
            pointing_accuracy_of_center: pointing_accuracy(&centers),
            region_cider: region_scores.cider,
            region_bleu_4: region_scores.bleu_4,
        })
    }

    /// For each phrase, its most similar patch and, for comparison, the photo's centre.
    async fn point(
        &self,
        session: &Session,
        text_embeds: &[f32],
        embed_dim: usize,
    ) -> Result<(Vec<Pointing>, Vec<Pointing>), EvalError> {
        let mut texts = text_embeds.chunks(embed_dim);
        let (mut points, mut centers) = (Vec::new(), Vec::new());
        for (_, record, image) in &self.photos {
            for region in usable_regions(record, image) {
                let text = texts.next().expect("as many vectors as phrases");
                let point = session.point(image, text).await?;
                points.push(Pointing { point, boxes: vec![region.box_px] });
                let center = [image.width as f32 / 2.0, image.height as f32 / 2.0];
                centers.push(Pointing { point: center, boxes: vec![region.box_px] });
            }
        }
        Ok((points, centers))
    }
}

/// Regions that one box describes and that have a phrase, on photos that have their recorded size.
fn usable_regions<'a>(record: &'a PhotoRecord, image: &EncodedImage) -> Vec<&'a RegionRecord> {
    let fits = |region: &&RegionRecord| {
        region.n_boxes == 1
            && !region.phrases.is_empty()
            && crate::image::check_box(region.box_px, image.width, image.height).is_ok()
    };
    record.regions.iter().filter(fits).collect()
}

fn read_photo(
    session: &Session,
    samples: &Samples,
    idx: usize,
) -> Result<((String, PhotoRecord), Preprocessed), String> {
    let sample = samples.read(idx).map_err(|e| e.to_string())?;
    let record = PhotoRecord::from_sample(&sample).map_err(|e| e.to_string())?;
    let bytes = sample.image().ok_or("there is no image among its parts")?;
    let photo = decode(bytes, Default::default()).map_err(|e| e.to_string())?;
    Ok(((sample.key.clone(), record), preprocess(&photo, &session.config().preprocess())))
}

async fn embed_all(session: &Session, texts: &[&str]) -> Result<Vec<f32>, SessionError> {
    let mut embeds = Vec::new();
    for batch in texts.chunks(4 * BATCH) {
        embeds.extend(session.embed_texts(batch).await?);
    }
    Ok(embeds)
}

fn dot_products(a: &[f32], b: &[f32], embed_dim: usize) -> Vec<f32> {
    let row = |a: &[f32]| -> Vec<f32> {
        b.chunks(embed_dim).map(|b| a.iter().zip(b).map(|(x, y)| x * y).sum()).collect()
    };
    a.chunks(embed_dim).flat_map(row).collect()
}

/// Share of phrases whose own box is the most similar of its photo, and the share that a guess would
/// find; a tie counts against.
fn in_photo_recall(scores: &[f32], photo_of: &[usize]) -> (f64, f64) {
    let n = photo_of.len();
    let (mut ranks, mut chance) = (Vec::with_capacity(n), 0.0);
    for phrase in 0..n {
        let row = &scores[phrase * n..(phrase + 1) * n];
        let rivals = (0..n).filter(|other| photo_of[*other] == photo_of[phrase]);
        let ahead = rivals.clone().filter(|other| *other != phrase && row[*other] >= row[phrase]).count();
        ranks.push(Some(ahead + 1));
        chance += 1.0 / rivals.count() as f64;
    }
    (recall_at(&ranks, 1), chance / n.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_boxes_of_the_same_photo_compete_within_it() {
        let scores = [0.5, 0.4, 0.9, 0.8, 0.7, 0.9, 0.1, 0.2, 0.3];
        let (found, chance) = in_photo_recall(&scores, &[0, 0, 1]);
        assert!((found - 2.0 / 3.0).abs() < 1e-12);
        assert!((chance - 2.0 / 3.0).abs() < 1e-12);
    }
}
