//! The actions that an application can take with a model, in plain data: bytes, strings, boxes,
//! scores.
//!
//! Every method that reads a result from the device is `async`, because a browser cannot block on
//! its GPU. Native programs block on it.

use burn::tensor::{Device, Tensor, TensorData};

use crate::checkpoint::{self, CheckpointError, Shards};
use crate::config::{ConfigError, MmGemConfig};
use crate::generate::{Decoding, Generated, Greedy, generate};
use crate::image::{
    BoxMap, BoxPx, Decoded, ImageError, Preprocessed, Rgb, check_box, decode_scaled, preprocess,
};
use crate::model::mmgem::TokenBatch;
use crate::model::pool_aggregator::Region;
use crate::model::{MmGem, Stage};
use crate::propose::propose;
use crate::quant::stays_packed;
use crate::readback::{DeviceFailed, read_floats};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// An opened model, ready for requests.
#[derive(Debug)]
pub struct Session {
    config: MmGemConfig,
    model: MmGem,
    tokenizer: Tokenizer,
    device: Device,
}

/// Any failure of a session.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// `config.json` is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `model.safetensors` is invalid.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// `tokenizer.json` is invalid, or a text cannot be encoded or decoded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A photo, or a box on it, is invalid.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceFailed),
    /// A mask that does not fit its photo.
    #[error("the mask {0}\n  hint: use a mask of the photo's size that is white on the region")]
    Mask(String),
}

/// A photo after the image encoder. Each further region costs only its pooling and decoding.
#[derive(Clone, Debug)]
pub struct EncodedImage {
    /// `[1, n_patches, hidden]`
    patches: Tensor<3>,
    map: BoxMap,
    /// Width of the upright photo, in pixels.
    pub width: u32,
    /// Height of the upright photo, in pixels.
    pub height: u32,
}

/// The whole photo, or a region of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// The whole photo.
    Whole,
    /// A box, `[x0, y0, x1, y1]` in pixels of the photo.
    Box(BoxPx),
    /// A mask of the photo's size, white on the region.
    Mask {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// One value of 0..=255 per pixel, row by row.
        values: Vec<u8>,
    },
}

/// A caption with its log probability.
#[derive(Clone, Debug, PartialEq)]
pub struct Caption {
    /// The text.
    pub text: String,
    /// Sum of the natural log probabilities of its tokens and of the end token.
    pub log_prob: f32,
}

/// A greedy caption that is decoded token by token: see [`Session::start_caption`].
#[derive(Debug)]
pub struct CaptionStream {
    decoder: Greedy,
}

/// The place of a text in a photo.
#[derive(Clone, Debug, PartialEq)]
pub struct Localization {
    /// Cosine of the text with each patch, row by row.
    pub similarity: Vec<f32>,
    /// Patches per side.
    pub grid: usize,
    /// Centre of the best patch, in pixels of the photo.
    pub point_px: [f32; 2],
    /// The box that fits the text best, in pixels of the photo.
    pub box_px: BoxPx,
    /// Cosine of the text with that box.
    pub score: f32,
}

impl Session {
    /// Opens a model from the bytes of its files.
    ///
    /// `shards` are file names (for messages) with their bytes. Packed layers stay packed if the
    /// device supports it.
    pub fn open(
        config_json: &str,
        shards: &[(&str, &[u8])],
        tokenizer_json: &[u8],
        device: &Device,
    ) -> Result<Self, SessionError> {
        let config = MmGemConfig::from_json(config_json)?;
        let tokenizer = Tokenizer::from_json(tokenizer_json, &config)?;
        let (model, shards) = (MmGem::new(&config, device), Shards::new(shards)?);
        let model = match stays_packed(device) {
            true => checkpoint::load_to_run(model, &shards)?,
            false => checkpoint::load(model, &shards)?,
        };
        Ok(Self::new(config, model, tokenizer, device))
    }

    /// Wraps a model that is already in memory.
    pub fn new(config: MmGemConfig, model: MmGem, tokenizer: Tokenizer, device: &Device) -> Self {
        Self { config, model, tokenizer, device: device.clone() }
    }

    /// Sizes and switches of the model.
    pub fn config(&self) -> &MmGemConfig {
        &self.config
    }

    /// The tokenizer of the model.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The device of the model.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Decodes a photo and runs the image encoder on it. A truncated file is used as far as it
    /// decodes.
    pub fn encode_image(&self, bytes: &[u8]) -> Result<EncodedImage, SessionError> {
        Ok(self.encode_decoded(&decode_scaled(bytes, Default::default(), u32::MAX)?))
    }

    /// Runs the image encoder on a decoded photo.
    ///
    /// Boxes on the result are in pixels of the original photo, even if it was decoded smaller.
    pub fn encode_decoded(&self, photo: &Decoded) -> EncodedImage {
        let mut encoded = self.encode_batch(&[photo.preprocess(&self.config.preprocess())]);
        encoded.pop().expect("one photo in, one out")
    }

    /// Runs the image encoder on decoded pixels.
    pub fn encode_rgb(&self, photo: &Rgb) -> EncodedImage {
        let mut encoded = self.encode_batch(&[preprocess(photo, &self.config.preprocess())]);
        encoded.pop().expect("one photo in, one out")
    }

    /// Runs the image encoder on several photos at once.
    pub fn encode_batch(&self, photos: &[Preprocessed]) -> Vec<EncodedImage> {
        let side = self.config.vision.image_size();
        let pixels: Vec<f32> =
            photos.iter().flat_map(|photo| photo.pixels.iter().copied()).collect();
        let pixels = TensorData::new(pixels, [photos.len(), 3, side, side]);
        let patches = self.model.visual.forward(Tensor::from_data(pixels, &self.device));
        let one = |(idx, photo): (usize, &Preprocessed)| EncodedImage {
            patches: patches.clone().slice(burn::tensor::s![idx..idx + 1]),
            map: photo.map,
            width: photo.width,
            height: photo.height,
        };
        photos.iter().enumerate().map(one).collect()
    }

    /// Unit vector of a text.
    pub async fn embed_text(&self, text: &str) -> Result<Vec<f32>, SessionError> {
        let ids = self.tokenizer.encode(text)?;
        Ok(read_floats(self.model.text_embed(&TokenBatch::new(&[ids], &self.device))).await?)
    }

    /// Unit vectors of texts, concatenated; runs them as one batch.
    pub async fn embed_texts(&self, texts: &[&str]) -> Result<Vec<f32>, SessionError> {
        let ids =
            texts.iter().map(|text| self.tokenizer.encode(text)).collect::<Result<Vec<_>, _>>()?;
        Ok(read_floats(self.model.text_embed(&TokenBatch::new(&ids, &self.device))).await?)
    }

    /// Unit vector of a whole photo (equation 5) or of a region (equation 7).
    pub async fn embed_image(
        &self,
        image: &EncodedImage,
        part: &Part,
    ) -> Result<Vec<f32>, SessionError> {
        let embed = match part {
            Part::Whole => self.model.image_embed(image.patches.clone()),
            _ => self.region_embed(image, &[self.region(image, part)?]),
        };
        Ok(read_floats(embed).await?)
    }

    /// Unit vectors of boxes on one encoded photo, concatenated. Stage 1 has no region head h4.
    pub async fn embed_boxes(
        &self,
        stage: Stage,
        image: &EncodedImage,
        boxes_px: &[BoxPx],
    ) -> Result<Vec<f32>, SessionError> {
        let regions = boxes_px
            .iter()
            .map(|box_px| self.region(image, &Part::Box(*box_px)))
            .collect::<Result<Vec<_>, _>>()?;
        let embed = match stage {
            Stage::One => self.model.image_embed(self.pool_regions(image, &regions)),
            Stage::Two => self.region_embed(image, &regions),
        };
        Ok(read_floats(embed).await?)
    }

    fn region_embed(&self, image: &EncodedImage, regions: &[Region]) -> Tensor<2> {
        self.model.region_mean_embed(self.model.pool.roi_mean(image.patches.clone(), regions))
    }

    /// Captions a photo or a part of it.
    pub async fn caption(
        &self,
        image: &EncodedImage,
        part: &Part,
        decoding: Decoding,
    ) -> Result<Caption, SessionError> {
        let captions = match part {
            Part::Whole => self.caption_images(std::slice::from_ref(image), decoding).await?,
            _ => {
                let parts = std::slice::from_ref(part);
                self.caption_regions(Stage::Two, image, parts, decoding).await?
            }
        };
        Ok(captions.into_iter().next().expect("one part, one caption"))
    }

    /// Starts a greedy caption that [`Self::continue_caption`] decodes token by token.
    ///
    /// It ends after `max_tokens`, or earlier at the language model's maximum position.
    pub fn start_caption(
        &self,
        image: &EncodedImage,
        part: &Part,
        max_tokens: usize,
    ) -> Result<CaptionStream, SessionError> {
        let (tokens, stage) = match part {
            Part::Whole => (self.model.whole_tokens(image.patches.clone()), Stage::One),
            _ => (self.pool_regions(image, &[self.region(image, part)?]), Stage::Two),
        };
        let prefix = self.model.caption_prefix(tokens, stage);
        let [_, n_prefix, _] = prefix.dims();
        let room = self.config.llm.max_position_embeddings.saturating_sub(n_prefix);
        let (eos, max_tokens) = (Some(self.config.eos_token_id), max_tokens.min(room));
        Ok(CaptionStream { decoder: Greedy::new(&self.model.llm, prefix, eos, max_tokens) })
    }

    /// Decodes the next token and returns the caption so far. `None` if it was already finished.
    pub async fn continue_caption(
        &self,
        stream: &mut CaptionStream,
    ) -> Result<Option<Caption>, SessionError> {
        if !stream.decoder.step(&self.model.llm).await? {
            return Ok(None);
        }
        let [Generated { ids, log_prob }] = stream.decoder.captions() else {
            unreachable!("a stream has one caption")
        };
        Ok(Some(Caption { text: self.tokenizer.decode(ids)?, log_prob: *log_prob }))
    }

    /// Captions of whole photos, decoded as one batch.
    pub async fn caption_images(
        &self,
        images: &[EncodedImage],
        decoding: Decoding,
    ) -> Result<Vec<Caption>, SessionError> {
        let patches = Tensor::cat(images.iter().map(|image| image.patches.clone()).collect(), 0);
        self.decode(self.model.whole_tokens(patches), Stage::One, decoding).await
    }

    /// Captions of parts of one photo, decoded as one batch.
    ///
    /// Stage 1 uses `[CAP]`, and the mean of the part if the config's `vision_tokens` is `mean`.
    pub async fn caption_regions(
        &self,
        stage: Stage,
        image: &EncodedImage,
        parts: &[Part],
        decoding: Decoding,
    ) -> Result<Vec<Caption>, SessionError> {
        let regions =
            parts.iter().map(|part| self.region(image, part)).collect::<Result<Vec<_>, _>>()?;
        self.decode(self.pool_regions(image, &regions), stage, decoding).await
    }

    /// Captions of boxes on several photos, decoded as one batch. Each box has the index of its
    /// photo.
    pub async fn caption_boxes(
        &self,
        stage: Stage,
        images: &[EncodedImage],
        boxes: &[(usize, BoxPx)],
        decoding: Decoding,
    ) -> Result<Vec<Caption>, SessionError> {
        if boxes.is_empty() {
            return Ok(Vec::new());
        }
        let region = |(image, box_px): &(usize, BoxPx)| {
            Ok::<_, SessionError>((*image, self.region(&images[*image], &Part::Box(*box_px))?))
        };
        let regions = boxes.iter().map(region).collect::<Result<Vec<_>, _>>()?;
        let patches = Tensor::cat(images.iter().map(|image| image.patches.clone()).collect(), 0);
        self.decode(self.model.pool.roi_align(patches, &regions), stage, decoding).await
    }

    async fn decode(
        &self,
        tokens: Tensor<3>,
        stage: Stage,
        decoding: Decoding,
    ) -> Result<Vec<Caption>, SessionError> {
        let prefix = self.model.caption_prefix(tokens, stage);
        let decoded = generate(&self.model.llm, prefix, self.config.eos_token_id, decoding).await?;
        let caption = |Generated { ids, log_prob }| {
            Ok(Caption { text: self.tokenizer.decode(&ids)?, log_prob })
        };
        decoded.into_iter().map(caption).collect()
    }

    /// Finds the place of a text in a photo: the patch similarities of the paper's figure 3, and
    /// the best of [`candidate_boxes`].
    ///
    /// `text_embed` is a unit vector from [`Self::embed_text`]. Stage 1 has no region head.
    pub async fn localize(
        &self,
        stage: Stage,
        image: &EncodedImage,
        text_embed: &[f32],
    ) -> Result<Localization, SessionError> {
        let similarity = self.patch_similarity(stage, image, text_embed).await?;
        let boxes = candidate_boxes(image.width as f32, image.height as f32);
        let embeds = self.embed_boxes(stage, image, &boxes).await?;
        let score = |embed: &[f32]| embed.iter().zip(text_embed).map(|(a, b)| a * b).sum::<f32>();
        let scores: Vec<f32> = embeds.chunks(text_embed.len()).map(score).collect();
        let best = argmax(&scores);

        Ok(Localization {
            point_px: self.best_point(image, &similarity),
            similarity,
            grid: self.config.grid(),
            box_px: boxes[best],
            score: scores[best],
        })
    }

    /// Centre of the patch that is most similar to a text, in pixels of the photo, for one stage.
    pub async fn point(
        &self,
        stage: Stage,
        image: &EncodedImage,
        text_embed: &[f32],
    ) -> Result<[f32; 2], SessionError> {
        let similarity = self.patch_similarity(stage, image, text_embed).await?;
        Ok(self.best_point(image, &similarity))
    }

    /// The part of a photo that the model sees and that the patches cover, in pixels of the photo.
    pub fn visible_px(&self, image: &EncodedImage) -> BoxPx {
        let side = self.config.vision.image_size() as f32;
        image.map.image_from_input([0.0, 0.0, side, side])
    }

    /// Proposes boxes around the object at a point of the photo: the best one first, then larger
    /// ones, then smaller ones ([`crate::propose`]).
    ///
    /// `point_px` is `[x, y]` in pixels of the photo.
    pub async fn boxes_at(
        &self,
        image: &EncodedImage,
        point_px: [f32; 2],
    ) -> Result<Vec<BoxPx>, SessionError> {
        let patches = read_floats(image.patches.clone()).await?;
        let side = self.config.vision.image_size() as f32;
        let point = image.map.input_from_image_point(point_px).map(|at| at / side);
        propose(&patches, self.config.grid(), point)
            .into_iter()
            .map(|found| image.map.image_from_input(found.map(|edge| edge * side)))
            .map(|box_px| Ok(check_box(box_px, image.width, image.height)?))
            .collect()
    }

    /// Cosine of a text with each patch, row by row.
    async fn patch_similarity(
        &self,
        stage: Stage,
        image: &EncodedImage,
        text_embed: &[f32],
    ) -> Result<Vec<f32>, SessionError> {
        let text = TensorData::new(text_embed.to_vec(), [1, text_embed.len(), 1]);
        let patch_embed = self.model.patch_embed(image.patches.clone(), stage);
        Ok(read_floats(patch_embed.matmul(Tensor::from_data(text, &self.device))).await?)
    }

    fn best_point(&self, image: &EncodedImage, similarity: &[f32]) -> [f32; 2] {
        let (grid, patch_px) = (self.config.grid(), self.config.patch_px());
        let patch = argmax(similarity);
        let center =
            [((patch % grid) as f32 + 0.5) * patch_px, ((patch / grid) as f32 + 0.5) * patch_px];
        image.map.image_from_input_point(center)
    }

    fn pool_regions(&self, image: &EncodedImage, regions: &[Region]) -> Tensor<3> {
        let regions: Vec<(usize, Region)> =
            regions.iter().map(|region| (0, region.clone())).collect();
        self.model.pool.roi_align(image.patches.clone(), &regions)
    }

    /// A part of the photo in the frame of the model's input.
    fn region(&self, image: &EncodedImage, part: &Part) -> Result<Region, SessionError> {
        let (width, height) = (image.width, image.height);
        match part {
            Part::Whole => {
                let whole = [0.0, 0.0, width as f32, height as f32];
                Ok(Region { box_input: image.map.input_from_image(whole), mask: None })
            }
            Part::Box(box_px) => {
                let box_px = check_box(*box_px, width, height)?;
                Ok(Region { box_input: image.map.input_from_image(box_px), mask: None })
            }
            Part::Mask { width: mask_width, height: mask_height, values } => {
                if (*mask_width, *mask_height) != (width, height) {
                    return Err(SessionError::Mask(format!(
                        "is {mask_width}×{mask_height}, but the photo is {width}×{height}"
                    )));
                }
                let wanted = width as usize * height as usize;
                if values.len() != wanted {
                    return Err(SessionError::Mask(format!(
                        "has {} values, but {width}×{height} pixels need {wanted}",
                        values.len()
                    )));
                }
                self.mask_region(image, values)
            }
        }
    }

    /// Samples the mask at the pixel centres of the model's input. Its box surrounds all white
    /// pixels.
    fn mask_region(&self, image: &EncodedImage, values: &[u8]) -> Result<Region, SessionError> {
        let side = self.config.vision.image_size();
        let width = image.width as usize;
        let lit = || {
            values
                .iter()
                .enumerate()
                .filter(|(_, value)| **value >= 128)
                .map(|(i, _)| (i % width, i / width))
        };
        let (Some(x0), Some(y0)) = (lit().map(|p| p.0).min(), lit().map(|p| p.1).min()) else {
            return Err(SessionError::Mask("is black everywhere".into()));
        };
        let (x1, y1) = lit().fold((0, 0), |(x, y), p| (x.max(p.0), y.max(p.1)));
        let box_px = [x0 as f32, y0 as f32, x1 as f32 + 1.0, y1 as f32 + 1.0];
        let mask = (0..side * side)
            .map(|i| {
                let center = [(i % side) as f32 + 0.5, (i / side) as f32 + 0.5];
                let [x, y] = image.map.image_from_input_point(center);
                let inside =
                    x >= 0.0 && y >= 0.0 && x < image.width as f32 && y < image.height as f32;
                if inside {
                    f32::from(values[y as usize * width + x as usize]) / 255.0
                } else {
                    0.0
                }
            })
            .collect();
        Ok(Region { box_input: image.map.input_from_image(box_px), mask: Some(mask) })
    }
}

/// Boxes of several sizes and shapes that cover a photo with half overlaps.
///
/// [`Session::localize`] and the photo search score each of them.
pub fn candidate_boxes(width: f32, height: f32) -> Vec<BoxPx> {
    const SHAPES: [(f32, f32); 9] = [
        (1.0, 1.0),
        (0.75, 0.75),
        (0.5, 0.5),
        (0.33, 0.33),
        (0.75, 0.4),
        (0.4, 0.75),
        (0.5, 1.0),
        (1.0, 0.5),
        (0.25, 0.5),
    ];
    let steps = |share: f32| ((1.0 - share) / (share * 0.5)).ceil() as usize;
    let at = |step: usize, n: usize, share: f32| {
        if n == 0 { (1.0 - share) / 2.0 } else { (1.0 - share) * step as f32 / n as f32 }
    };
    let mut boxes = Vec::new();
    for (w, h) in SHAPES {
        let (nx, ny) = (steps(w), steps(h));
        for y in (0..=ny).map(|step| at(step, ny, h)) {
            for x in (0..=nx).map(|step| at(step, nx, w)) {
                boxes.push([x * width, y * height, (x + w) * width, (y + h) * height]);
            }
        }
    }
    boxes
}

fn argmax(values: &[f32]) -> usize {
    values.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(i, _)| i)
}
