//! The worker's answers about the photo that is open: pixels, captions, boxes and places of texts.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use mmgem_core::image::{BoxMap, BoxPx, ImagePreprocess, Preprocessed, Rgb, preprocess, resize};
use mmgem_core::model::Stage;
use mmgem_core::session::{EncodedImage, Part};
use mmgem_data::files;
use pollster::block_on;

use super::Worker;
use crate::context::CAPTION_TOKENS;
use crate::draw::overlay_heat;
use crate::library::photos::decode_photo;
use crate::names::printable_path;
use crate::query::embed_text;
use crate::window::messages::{Event, Request};

/// Minimum size of a shown photo on both sides, if the file has it.
const LEAST_SIDE: u32 = 1024;
/// Maximum of its longer side: every GPU supports a texture of that size.
const MOST_SIDE: u32 = 2048;

/// The photo that is open.
pub(super) struct DecodedPhoto {
    pixels: Arc<Rgb>,
    input: Preprocessed,
    /// From the shown pixels to the model's input.
    map: BoxMap,
    encoded: Option<EncodedImage>,
}

impl DecodedPhoto {
    /// The photo for another device, which encodes it again.
    pub(super) fn without_encoding(self) -> Self {
        Self { encoded: None, ..self }
    }
}

impl Worker {
    pub(super) fn look(&mut self, number: u64, path: &Path) -> Result<()> {
        self.photo = None;
        let config = self.opened()?.context.session.config().preprocess();
        let (decoded, size_px) = decode_open_photo(path, &config)?;
        self.events.send(Event::PhotoDecoded { number, pixels: decoded.pixels.clone(), size_px });
        self.photo = Some(decoded);
        Ok(())
    }

    /// The open photo after the image encoder, which runs at the first use.
    fn encoded(&mut self) -> Result<EncodedImage> {
        let photo = self.photo.as_mut().context("no photo is open")?;
        if photo.encoded.is_none() {
            let session = &self.opened.as_ref().context("no model is open")?.context.session;
            photo.encoded = session.encode_batch(std::slice::from_ref(&photo.input)).pop();
        }
        Ok(photo.encoded.clone().expect("one photo in, one out"))
    }

    /// Sends the caption token by token; stops once a newer request replaces it.
    pub(super) fn caption(&mut self, number: u64, box_px: Option<BoxPx>) -> Result<()> {
        let encoded = self.encoded()?;
        let context = self.opened()?.context.clone();
        let session = &context.session;
        let part = box_px.map_or(Part::Whole, Part::Box);
        let mut stream = session.start_caption(&encoded, &part, CAPTION_TOKENS)?;
        let mut last = String::new();
        while let Some(caption) = block_on(session.continue_caption(&mut stream))? {
            last = caption.text;
            self.pump();
            if self.waiting.iter().any(|request| makes_pointless(request, box_px)) {
                return Ok(());
            }
            self.answer_clicks()?;
            self.events.send(Event::Caption { number, box_px, text: last.clone(), done: false });
        }
        self.events.send(Event::Caption { number, box_px, text: last, done: true });
        Ok(())
    }

    /// Answers requests for boxes during a caption: the user expects boxes under the pointer at
    /// once.
    pub(super) fn answer_clicks(&mut self) -> Result<()> {
        while let Some(at) =
            self.waiting.iter().position(|request| matches!(request, Request::Boxes { .. }))
        {
            if let Some(Request::Boxes { number, point_px }) = self.waiting.remove(at) {
                self.boxes(number, point_px)?;
            }
        }
        Ok(())
    }

    pub(super) fn boxes(&mut self, number: u64, point_px: [f32; 2]) -> Result<()> {
        let encoded = self.encoded()?;
        let boxes = block_on(self.opened()?.context.session.boxes_at(&encoded, point_px))?;
        self.events.send(Event::Boxes { number, point_px, boxes });
        Ok(())
    }

    pub(super) fn locate(&mut self, number: u64, text: String) -> Result<()> {
        let encoded = self.encoded()?;
        let context = self.opened()?.context.clone();
        let session = &context.session;
        let text_embed = embed_text(&text, session, &mut self.texts)?;
        let photo = self.photo.as_ref().context("no photo is open")?;
        let found = block_on(session.localize(Stage::Two, &encoded, &text_embed))?;
        let mut heat = Rgb::clone(&photo.pixels);
        let side = session.config().vision.image_size();
        overlay_heat(&mut heat, &found.similarity, found.grid, side, &photo.map);
        self.events.send(Event::Located {
            number,
            text,
            heat,
            box_px: found.box_px,
            score: found.score,
        });
        Ok(())
    }
}

/// Whether this request makes a caption of `box_px` obsolete.
fn makes_pointless(request: &Request, box_px: Option<BoxPx>) -> bool {
    match request {
        Request::OpenPhoto { .. } | Request::OpenModel(_) => true,
        Request::Caption { box_px: other, .. } => other.is_some() == box_px.is_some(),
        _ => false,
    }
}

/// Decodes a photo to show and prepares it for the model; also returns its size in pixels.
fn decode_open_photo(path: &Path, config: &ImagePreprocess) -> Result<(DecodedPhoto, [u32; 2])> {
    let bytes = files::read(path)?;
    let decoded = decode_photo(path, &bytes, LEAST_SIDE)
        .with_context(|| format!("the photo cannot be shown\n  file: {}", printable_path(path)))?;
    let (width, height) = (decoded.width, decoded.height);
    let pixels = fitted(decoded.pixels);
    let input = preprocess(&pixels, config);
    let map = input.map;
    let input = input.of_original(width, height);
    Ok((DecodedPhoto { pixels: Arc::new(pixels), input, map, encoded: None }, [width, height]))
}

fn fitted(photo: Rgb) -> Rgb {
    let (width, height) = photo.dimensions();
    let longer = width.max(height);
    if longer <= MOST_SIDE {
        return photo;
    }
    let scaled =
        |side: u32| (u64::from(side) * u64::from(MOST_SIDE) / u64::from(longer)).max(1) as u32;
    resize(&photo, scaled(width), scaled(height))
}
