//! Thumbnails and heat maps for the page.

use std::io::Cursor;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::codecs::webp::WebPEncoder;
use mmgem_core::image::{BoxMap, Rgb, resize};
use mmgem_core::session::Localization;

use crate::draw::{heat_color, overlay_heat};

/// Maximum of a picture's longer side in the page, in pixels.
const THUMBNAIL_PX: u32 = 320;

/// The photo scaled down to the size that the page shows.
pub fn thumbnail(photo: &Rgb) -> Rgb {
    let (width, height) = thumbnail_size(photo.width(), photo.height());
    if (width, height) == photo.dimensions() { photo.clone() } else { resize(photo, width, height) }
}

/// Patch similarities as colours over the photo, which turns grey.
///
/// `map` maps the photo to the model's input, which is `image_size` pixels wide.
pub fn heat_map(photo: &Rgb, found: &Localization, map: &BoxMap, image_size: usize) -> Rgb {
    let mut small = thumbnail(photo);
    for pixel in small.pixels_mut() {
        let [r, g, b] = pixel.0.map(f32::from);
        pixel.0 = [(0.2126 * r + 0.7152 * g + 0.0722 * b) as u8; 3];
    }
    let map = BoxMap {
        scale_x: map.scale_x * photo.width() as f32 / small.width() as f32,
        scale_y: map.scale_y * photo.height() as f32 / small.height() as f32,
        ..*map
    };
    overlay_heat(&mut small, &found.similarity, found.grid, image_size, &map);
    small
}

/// The colours of [`heat_map`], from cold to warm, as CSS.
pub fn heat_gradient() -> String {
    let stop = |i: u8| {
        let [r, g, b] = heat_color(f32::from(i) / 8.0);
        format!("rgb({r} {g} {b})")
    };
    format!("linear-gradient(90deg,{})", (0..=8).map(stop).collect::<Vec<_>>().join(","))
}

/// The picture as a `data:` URI: PNG or lossless WebP, whichever is smaller.
pub fn picture_uri(picture: &Rgb) -> Result<String> {
    let cannot = "cannot encode a picture of the page";
    let mut png = Vec::new();
    let encoder =
        PngEncoder::new_with_quality(&mut png, CompressionType::Default, FilterType::Adaptive);
    picture.write_with_encoder(encoder).context(cannot)?;
    let mut webp = Vec::new();
    picture
        .write_with_encoder(WebPEncoder::new_lossless(Cursor::new(&mut webp)))
        .context(cannot)?;
    let (kind, bytes) = if webp.len() < png.len() { ("webp", webp) } else { ("png", png) };
    Ok(format!("data:image/{kind};base64,{}", STANDARD.encode(bytes)))
}

fn thumbnail_size(width: u32, height: u32) -> (u32, u32) {
    let scale = f64::from(THUMBNAIL_PX) / f64::from(width.max(height));
    let shrink = |len: u32| ((f64::from(len) * scale).round() as u32).max(1);
    if scale < 1.0 { (shrink(width), shrink(height)) } else { (width, height) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thumbnail_keeps_the_shape_and_never_grows() {
        assert_eq!(thumbnail_size(640, 480), (320, 240));
        assert_eq!(thumbnail_size(100, 6400), (5, 320));
        assert_eq!(thumbnail_size(128, 128), (128, 128));
        assert_eq!(thumbnail_size(100_000, 1), (320, 1));
    }

    #[test]
    fn the_warm_corner_is_warm_in_the_thumbnail_too() {
        let photo = Rgb::from_pixel(640, 640, image::Rgb([10, 200, 10]));
        let found = Localization {
            similarity: vec![1.0, 0.0, 0.0, 0.0],
            grid: 2,
            point_px: [160.0, 160.0],
            box_px: [0.0, 0.0, 320.0, 320.0],
            score: 1.0,
        };
        let map = BoxMap { scale_x: 0.1, scale_y: 0.1, offset_x: 0.0, offset_y: 0.0 };
        let heat = heat_map(&photo, &found, &map, 64);
        assert_eq!(heat.dimensions(), (320, 320));
        let [r, g, b] = heat.get_pixel(319, 319).0;
        assert!(r == g && g == b, "cold stays grey");
        let [r, _, b] = heat.get_pixel(0, 0).0;
        assert!(r > b + 50, "warm is yellow");
    }

    #[test]
    fn a_drawing_is_written_small() {
        let uri = picture_uri(&Rgb::new(64, 64)).expect("a picture in memory");
        assert!(uri.starts_with("data:image/") && uri.len() < 500, "{uri}");
    }
}
