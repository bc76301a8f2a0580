//! Drawn scenes that check whether a model works and whether a copy of it gives the same answers.

use anyhow::Result;
use mmgem_core::generate::Decoding;
use mmgem_core::image::{BoxPx, Rgb};
use mmgem_core::model::Stage;
use mmgem_core::session::{Part, Session};
use mmgem_scenes::{Scene, scene};

/// Number of scenes.
const N_SCENES: u64 = 8;
/// Any seed works, but it must stay the same.
const SEED: u64 = 2405;

/// A scene: its pixels and a caption.
pub fn drawn(idx: u64) -> (Rgb, String) {
    let (photo, caption, _) = drawn_with_boxes(idx);
    (photo, caption)
}

fn drawn_with_boxes(idx: u64) -> (Rgb, String, Vec<BoxPx>) {
    let Scene { width, height, rgb, captions: [caption, ..], regions } = scene(SEED, idx);
    let photo = Rgb::from_raw(width, height, rgb).expect("three bytes a pixel");
    (photo, caption, regions.into_iter().map(|region| region.box_px).collect())
}

/// A model's answers about the scenes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answers {
    /// Embeddings of the scenes, of unit length.
    pub images: Vec<Vec<f32>>,
    /// Embeddings of their captions, of unit length.
    pub texts: Vec<Vec<f32>>,
    /// Embeddings of their regions, of unit length.
    pub regions: Vec<Vec<f32>>,
    /// Greedy captions of the regions of each scene, then of the scenes.
    pub captions: Vec<String>,
}

/// Runs a model on the scenes.
pub fn answers(session: &Session) -> Result<Answers> {
    let decoding = Decoding::default();
    let mut answers = Answers::default();
    let mut scenes = Vec::new();
    for (photo, caption, boxes) in (0..N_SCENES).map(drawn_with_boxes) {
        let encoded = session.encode_rgb(&photo);
        answers.images.push(pollster::block_on(session.embed_image(&encoded, &Part::Whole))?);
        answers.texts.push(pollster::block_on(session.embed_text(&caption))?);
        let embeds = pollster::block_on(session.embed_boxes(Stage::Two, &encoded, &boxes))?;
        answers.regions.extend(embeds.chunks(session.config().embed_dim).map(<[f32]>::to_vec));
        let parts: Vec<Part> = boxes.into_iter().map(Part::Box).collect();
        let captions =
            pollster::block_on(session.caption_regions(Stage::Two, &encoded, &parts, decoding))?;
        answers.captions.extend(captions.into_iter().map(|caption| caption.text));
        scenes.push(encoded);
    }
    let captions = pollster::block_on(session.caption_images(&scenes, decoding))?;
    answers.captions.extend(captions.into_iter().map(|caption| caption.text));
    Ok(answers)
}

/// Cosine of two vectors.
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
    };
    (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()) as f32
}

/// Describes a vector whose length is not 1; `None` if it is 1.
pub fn unit_length_problem(embed: &[f32]) -> Option<String> {
    let length = embed.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let right = (length - 1.0).abs() < 1e-3;
    (!right).then(|| format!("has length {length}, wanted 1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scenes_differ_and_have_regions() {
        assert_ne!(drawn(0), drawn(1));
        assert!((0..N_SCENES).all(|idx| !drawn_with_boxes(idx).2.is_empty()));
    }

    #[test]
    fn vectors_that_are_not_of_unit_length_are_found() {
        assert_eq!(unit_length_problem(&[0.6, 0.8]), None);
        assert!(unit_length_problem(&[0.6, 0.9]).is_some());
        assert!(unit_length_problem(&[f32::NAN]).is_some());
        assert!((cosine(&[1.0, 0.0], &[1.0, 1.0]) - 0.5f32.sqrt()).abs() < 1e-6);
    }
}
