//! Scenes that the program draws itself, to check that a model works and that a copy is the same.

use anyhow::Result;
use mmgem_core::image::Rgb;
use mmgem_core::scenes::{Scene, scene};
use mmgem_core::session::{Part, Session};

/// Scenes of the probe.
const N_SCENES: u64 = 4;
/// Any: only that it stays the same counts.
const SEED: u64 = 2405;

/// A scene of the probe: its pixels and a caption.
pub fn drawn(idx: u64) -> (Rgb, String) {
    let Scene { width, height, rgb, captions: [caption, ..], .. } = scene(SEED, idx);
    (Rgb::from_raw(width, height, rgb).expect("three bytes a pixel"), caption)
}

/// What a model makes of the probe: unit vectors of each scene and of its caption.
pub fn answers(session: &Session) -> Result<Vec<Vec<f32>>> {
    let mut answers = Vec::new();
    for (photo, caption) in (0..N_SCENES).map(drawn) {
        let encoded = session.encode_rgb(&photo);
        answers.push(pollster::block_on(session.embed_image(&encoded, &Part::Whole))?);
        answers.push(pollster::block_on(session.embed_text(&caption))?);
    }
    Ok(answers)
}

/// Cosine of two vectors.
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()) as f32
}

/// What is wrong with a vector that should have unit length, if anything.
pub fn unit_length_problem(embed: &[f32]) -> Option<String> {
    let length = embed.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let right = (length - 1.0).abs() < 1e-3;
    (!right).then(|| format!("has length {length}, wanted 1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scenes_differ() {
        assert_ne!(drawn(0), drawn(1));
    }

    #[test]
    fn vectors_that_are_not_of_unit_length_are_found() {
        assert_eq!(unit_length_problem(&[0.6, 0.8]), None);
        assert!(unit_length_problem(&[0.6, 0.9]).is_some());
        assert!(unit_length_problem(&[f32::NAN]).is_some());
        assert!((cosine(&[1.0, 0.0], &[1.0, 1.0]) - 0.5f32.sqrt()).abs() < 1e-6);
    }
}
