//! The handles that JavaScript holds: model files, models, photos and captions.

use burn::tensor::Device;
use js_sys::Error as JsError;
use mmgem_core::checkpoint::fingerprint;
use mmgem_core::config::SearchCutoff;
use mmgem_core::image::{Rgb, decode_scaled};
use mmgem_core::model::Stage;
use mmgem_core::session::{CaptionStream, EncodedImage, Part, Session};
use wasm_bindgen::prelude::*;

/// The files of a model, added one by one.
#[wasm_bindgen]
#[derive(Debug)]
pub struct ModelFiles {
    config_json: String,
    tokenizer_json: Vec<u8>,
    /// Names and bytes.
    shards: Vec<(String, Vec<u8>)>,
}

/// An open model.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Model {
    pub(crate) session: Session,
    pub(crate) fingerprint: u64,
}

/// An encoded photo. Requests about it need no further run of the image encoder.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Image {
    pub(crate) encoded: EncodedImage,
    problem: Option<String>,
}

/// A caption in progress.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Writing {
    stream: CaptionStream,
}

/// A caption, possibly unfinished, with its log probability.
#[wasm_bindgen(getter_with_clone)]
#[derive(Clone, Debug)]
pub struct Caption {
    /// The text.
    pub text: String,
    /// Sum of the natural log probabilities of its tokens and of its end token.
    #[wasm_bindgen(js_name = logProb)]
    pub log_prob: f32,
}

/// The location of a text in a photo.
#[wasm_bindgen(getter_with_clone)]
#[derive(Clone, Debug)]
pub struct Place {
    /// Cosine of the text with each patch, row by row.
    pub similarity: Vec<f32>,
    /// Patches per side.
    pub grid: usize,
    /// The part of the photo that the patches cover, `[x0, y0, x1, y1]` in pixels of the photo.
    pub seen: Vec<f32>,
    /// Centre of the best patch, `[x, y]` in pixels of the photo.
    pub point: Vec<f32>,
    /// The best box, `[x0, y0, x1, y1]` in pixels of the photo.
    #[wasm_bindgen(js_name = box)]
    pub box_px: Vec<f32>,
    /// Cosine of the text with that box.
    pub score: f32,
}

#[wasm_bindgen]
impl ModelFiles {
    /// Takes the contents of `config.json` and `tokenizer.json`.
    #[wasm_bindgen(constructor)]
    pub fn new(config_json: String, tokenizer_json: Vec<u8>) -> Self {
        Self { config_json, tokenizer_json, shards: Vec::new() }
    }

    /// Adds a safetensors file. Add several files in the order of their names.
    #[wasm_bindgen(js_name = addShard)]
    pub fn add_shard(&mut self, name: String, bytes: Vec<u8>) {
        self.shards.push((name, bytes));
    }
}

#[wasm_bindgen]
impl Model {
    /// Opens a model on the device of this module, and frees the files.
    pub async fn open(files: ModelFiles) -> Result<Model, JsError> {
        let device = open_device().await?;
        let ModelFiles { config_json, tokenizer_json, shards } = &files;
        let shards: Vec<(&str, &[u8])> =
            shards.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        let fingerprint =
            fingerprint(config_json, tokenizer_json, shards.iter().map(|(_, bytes)| *bytes));
        let session =
            Session::open(config_json, &shards, tokenizer_json, &device).map_err(to_js)?;
        Ok(Self { session, fingerprint })
    }

    /// Length of a vector.
    #[wasm_bindgen(getter, js_name = embedDim)]
    pub fn embed_dim(&self) -> usize {
        self.session.config().embed_dim
    }

    /// The score below which a hit of a text is weak: nine in ten photos that a text describes score
    /// higher. `undefined` if the model was not calibrated.
    #[wasm_bindgen(getter, js_name = weakBelow)]
    pub fn weak_below(&self) -> Option<f32> {
        SearchCutoff::weak_below(&self.session.config().search_cutoffs)
    }

    /// Hash of the model's files, as 16 hexadecimal digits.
    #[wasm_bindgen(getter)]
    pub fn fingerprint(&self) -> String {
        format!("{:016x}", self.fingerprint)
    }

    /// Runs the image encoder on the bytes of an image file.
    #[wasm_bindgen(js_name = encodeImage)]
    pub fn encode_image(&self, bytes: &[u8]) -> Result<Image, JsError> {
        let photo = decode_scaled(bytes, Default::default(), u32::MAX).map_err(to_js)?;
        Ok(Image { encoded: self.session.encode_decoded(&photo), problem: photo.problem })
    }

    /// Runs the image encoder on pixels that the browser has decoded, four bytes each.
    #[wasm_bindgen(js_name = encodePixels)]
    pub fn encode_pixels(&self, rgba: &[u8], width: u32, height: u32) -> Result<Image, JsError> {
        let rgb = rgba.chunks_exact(4).flat_map(|pixel| &pixel[..3]).copied().collect();
        let wrong_size =
            || JsError::new(&format!("{} bytes are not {width}×{height} pixels", rgba.len()));
        let photo = Rgb::from_raw(width, height, rgb)
            .filter(|_| width * height > 0)
            .ok_or_else(wrong_size)?;
        Ok(Image { encoded: self.session.encode_rgb(&photo), problem: None })
    }

    /// Unit vector of a text.
    #[wasm_bindgen(js_name = embedText)]
    pub async fn embed_text(&self, text: String) -> Result<Vec<f32>, JsError> {
        self.session.embed_text(&text).await.map_err(to_js)
    }

    /// Unit vector of a photo, or of the region `[x0, y0, x1, y1]` of it.
    #[wasm_bindgen(js_name = embedImage)]
    pub async fn embed_image(
        &self,
        image: &Image,
        region: Option<Vec<f32>>,
    ) -> Result<Vec<f32>, JsError> {
        self.session.embed_image(&image.encoded, &part(region)?).await.map_err(to_js)
    }

    /// Starts a caption of a photo, or of the region `[x0, y0, x1, y1]` of it.
    #[wasm_bindgen(js_name = startCaption)]
    pub fn start_caption(
        &self,
        image: &Image,
        region: Option<Vec<f32>>,
        max_tokens: usize,
    ) -> Result<Writing, JsError> {
        let stream = self
            .session
            .start_caption(&image.encoded, &part(region)?, max_tokens)
            .map_err(to_js)?;
        Ok(Writing { stream })
    }

    /// Writes the next token and returns the caption so far. Returns `undefined` if the caption was
    /// finished before.
    #[wasm_bindgen(js_name = continueCaption)]
    pub async fn continue_caption(
        &self,
        writing: &mut Writing,
    ) -> Result<Option<Caption>, JsError> {
        let caption = self.session.continue_caption(&mut writing.stream).await.map_err(to_js)?;
        Ok(caption.map(|caption| Caption { text: caption.text, log_prob: caption.log_prob }))
    }

    /// Locates the unit vector of a text, a photo or a region in a photo.
    pub async fn localize(&self, image: &Image, embed: Vec<f32>) -> Result<Place, JsError> {
        let wanted = self.embed_dim();
        if embed.len() != wanted {
            return Err(JsError::new(&format!(
                "the vector has {} numbers, wanted {wanted}",
                embed.len()
            )));
        }
        let found =
            self.session.localize(Stage::Two, &image.encoded, &embed).await.map_err(to_js)?;
        Ok(Place {
            similarity: found.similarity,
            grid: found.grid,
            seen: self.session.visible_px(&image.encoded).into(),
            point: found.point_px.into(),
            box_px: found.box_px.into(),
            score: found.score,
        })
    }

    /// Proposes boxes around a point of the photo, four numbers each: the best box, then larger
    /// ones, then smaller ones.
    #[wasm_bindgen(js_name = boxesAt)]
    pub async fn boxes_at(&self, image: &Image, x: f32, y: f32) -> Result<Vec<f32>, JsError> {
        Ok(self.session.boxes_at(&image.encoded, [x, y]).await.map_err(to_js)?.concat())
    }
}

#[wasm_bindgen]
impl Image {
    /// Width of the upright photo in pixels.
    #[wasm_bindgen(getter)]
    pub fn width(&self) -> u32 {
        self.encoded.width
    }

    /// Height of the upright photo in pixels.
    #[wasm_bindgen(getter)]
    pub fn height(&self) -> u32 {
        self.encoded.height
    }

    /// Why the file is used only as far as it arrived.
    #[wasm_bindgen(getter)]
    pub fn problem(&self) -> Option<String> {
        self.problem.clone()
    }
}

#[cfg(all(feature = "cpu", feature = "webgpu"))]
compile_error!("a module has one backend: add --no-default-features to --features webgpu");

/// Opens WebGPU in a module with the feature `webgpu`, else the CPU.
async fn open_device() -> Result<Device, JsError> {
    #[cfg(feature = "webgpu")]
    return Device::wgpu_options().init_async().await.map_err(to_js);
    #[cfg(not(feature = "webgpu"))]
    Ok(Device::flex())
}

fn part(region: Option<Vec<f32>>) -> Result<Part, JsError> {
    let Some(region) = region else { return Ok(Part::Whole) };
    match region.try_into() {
        Ok(box_px) => Ok(Part::Box(box_px)),
        Err(found) => {
            let message =
                format!("a region has {} numbers, wanted [x0, y0, x1, y1] in pixels", found.len());
            Err(JsError::new(&message))
        }
    }
}

/// Converts an error to a JavaScript `Error` with the same message.
pub(crate) fn to_js(error: impl std::error::Error) -> JsError {
    JsError::new(&error.to_string())
}
