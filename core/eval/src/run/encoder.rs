//! The model that embeds photos and texts: MM-GEM, or a baseline.

use mmgem_core::image::{ImagePreprocess, Preprocessed};
use mmgem_core::session::{Part, Session};

use super::{EvalError, TEXT_BATCH};
use crate::open_clip::OpenClip;

/// A model that embeds images and texts in a joint space.
#[derive(Clone, Copy, Debug)]
pub enum Encoder<'a> {
    /// MM-GEM.
    MmGem(&'a Session),
    /// OpenCLIP's CLIP or CoCa.
    OpenClip(&'a OpenClip),
}

impl Encoder<'_> {
    /// The preprocessing from a photo to the model's input.
    pub fn preprocess(&self) -> ImagePreprocess {
        match self {
            Self::MmGem(session) => session.config().preprocess(),
            Self::OpenClip(model) => model.preprocess().clone(),
        }
    }

    /// Width of the joint space.
    pub fn embed_dim(&self) -> usize {
        match self {
            Self::MmGem(session) => session.config().embed_dim,
            Self::OpenClip(model) => model.embed_dim(),
        }
    }

    /// Unit vectors of photos, concatenated.
    ///
    /// # Errors
    /// If the device fails.
    pub async fn embed_photos(&self, photos: &[Preprocessed]) -> Result<Vec<f32>, EvalError> {
        if photos.is_empty() {
            return Ok(Vec::new());
        }
        match self {
            Self::MmGem(session) => {
                let mut embeds = Vec::with_capacity(photos.len() * self.embed_dim());
                for image in session.encode_batch(photos) {
                    embeds.extend(session.embed_image(&image, &Part::Whole).await?);
                }
                Ok(embeds)
            }
            Self::OpenClip(model) => Ok(model.embed_photos(photos).await?),
        }
    }

    /// Unit vectors of texts, concatenated.
    ///
    /// # Errors
    /// If a text cannot be encoded, or the device fails.
    pub async fn embed_texts(&self, texts: &[&str]) -> Result<Vec<f32>, EvalError> {
        let mut embeds = Vec::with_capacity(texts.len() * self.embed_dim());
        for batch in texts.chunks(TEXT_BATCH) {
            embeds.extend(match self {
                Self::MmGem(session) => session.embed_texts(batch).await?,
                Self::OpenClip(model) => model.embed_texts(batch).await?,
            });
        }
        Ok(embeds)
    }
}
