//! What JavaScript holds.

use burn::tensor::Device;
use js_sys::Error as JsError;
use mmgem_core::generate::Decoding;
use mmgem_core::session::{EncodedImage, Part, Session};
use wasm_bindgen::prelude::*;

// Named for their features only.
use {getrandom_03 as _, getrandom_04 as _, tokenizers as _};

unsafe extern "C" {
    fn __wasm_call_ctors();
}

/// Runs once when the module is loaded.
#[wasm_bindgen(start)]
fn start() {
    // Without an own call the linker runs every constructor again at every export: 100 times slower.
    // SAFETY: the linker makes this function; nothing that it sets up has been used yet.
    unsafe { __wasm_call_ctors() };
}

/// A model that is ready to be asked.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Model {
    session: Session,
}

/// A photo after the image encoder: each question about it is cheap.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Image {
    encoded: EncodedImage,
}

/// A caption and how sure the model is of it.
#[wasm_bindgen(getter_with_clone)]
#[derive(Clone, Debug)]
pub struct Caption {
    /// The text.
    pub text: String,
    /// Sum of the natural log probabilities of its tokens and its end.
    #[wasm_bindgen(js_name = logProb)]
    pub log_prob: f32,
}

#[wasm_bindgen]
impl Model {
    /// Opens a model on the CPU from the contents of `config.json`, `model.safetensors` and
    /// `tokenizer.json`.
    #[wasm_bindgen(constructor)]
    pub fn new(config_json: &str, weights: &[u8], tokenizer_json: &[u8]) -> Result<Model, JsError> {
        let shards = [("model.safetensors", weights)];
        let session = Session::open(config_json, &shards, tokenizer_json, &Device::flex()).map_err(to_js)?;
        Ok(Self { session })
    }

    /// Numbers in a vector.
    #[wasm_bindgen(getter, js_name = embedDim)]
    pub fn embed_dim(&self) -> usize {
        self.session.config().embed_dim
    }

    /// Runs the image encoder on the bytes of an image file.
    #[wasm_bindgen(js_name = encodeImage)]
    pub fn encode_image(&self, bytes: &[u8]) -> Result<Image, JsError> {
        Ok(Image { encoded: self.session.encode_image(bytes).map_err(to_js)? })
    }

    /// Unit vector of a text.
    #[wasm_bindgen(js_name = embedText)]
    pub async fn embed_text(&self, text: String) -> Result<Vec<f32>, JsError> {
        self.session.embed_text(&text).await.map_err(to_js)
    }

    /// Unit vector of a photo, or of the region `[x0, y0, x1, y1]` of it.
    #[wasm_bindgen(js_name = embedImage)]
    pub async fn embed_image(&self, image: &Image, region: Option<Vec<f32>>) -> Result<Vec<f32>, JsError> {
        self.session.embed_image(&image.encoded, &part(region)?).await.map_err(to_js)
    }

    /// Says what is on a photo, or in the region `[x0, y0, x1, y1]` of it; greedy unless `beam` is
    /// more than 1.
    #[wasm_bindgen(js_name = captionRegion)]
    pub async fn caption_region(
        &self,
        image: &Image,
        region: Option<Vec<f32>>,
        beam: Option<usize>,
    ) -> Result<Caption, JsError> {
        let decoding = Decoding { beam: beam.unwrap_or(1), ..Decoding::default() };
        let caption = self.session.caption(&image.encoded, &part(region)?, decoding).await.map_err(to_js)?;
        Ok(Caption { text: caption.text, log_prob: caption.log_prob })
    }
}

#[wasm_bindgen]
impl Image {
    /// Width as a person sees it, in pixels.
    #[wasm_bindgen(getter)]
    pub fn width(&self) -> u32 {
        self.encoded.width
    }

    /// Height as a person sees it, in pixels.
    #[wasm_bindgen(getter)]
    pub fn height(&self) -> u32 {
        self.encoded.height
    }
}

fn part(region: Option<Vec<f32>>) -> Result<Part, JsError> {
    let Some(region) = region else { return Ok(Part::Whole) };
    match region.try_into() {
        Ok(box_px) => Ok(Part::Box(box_px)),
        Err(found) => {
            let message = format!("a region has {} numbers, wanted [x0, y0, x1, y1] in pixels", found.len());
            Err(JsError::new(&message))
        }
    }
}

/// The error and its causes as one JavaScript `Error`.
fn to_js(error: impl std::error::Error) -> JsError {
    JsError::new(&error.to_string())
}
