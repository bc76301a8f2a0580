//! Draws heat maps and boxes on photos.

use anyhow::Result;
use image::{ExtendedColorType, ImageEncoder, Rgb as Pixel, codecs::png::PngEncoder};
use mmgem_core::image::{BoxMap, BoxPx, Rgb};

/// Opacity of the heat map at the warmest places; the coldest show the photo alone.
const MOST_HEAT: f32 = 0.65;

/// Colours from cold to warm. Lightness rises with the value, so the map is readable in grey.
const HEAT: [[f32; 3]; 5] = [
    [13.0, 8.0, 135.0],
    [126.0, 3.0, 168.0],
    [204.0, 71.0, 120.0],
    [248.0, 149.0, 64.0],
    [240.0, 249.0, 33.0],
];

/// Colour of a value in 0..=1.
pub fn heat_color(value: f32) -> [u8; 3] {
    let place = value.clamp(0.0, 1.0) * (HEAT.len() - 1) as f32;
    let from = (place as usize).min(HEAT.len() - 2);
    let share = place - from as f32;
    std::array::from_fn(|i| {
        (HEAT[from][i] + (HEAT[from + 1][i] - HEAT[from][i]) * share).round() as u8
    })
}

/// Blends a heat map over a photo.
///
/// `heat` has `grid` × `grid` values, row by row, over the model's input of `image_size` pixels;
/// `map` maps the photo to that input. The minimum and maximum of `heat` get the end colours.
pub fn overlay_heat(photo: &mut Rgb, heat: &[f32], grid: usize, image_size: usize, map: &BoxMap) {
    let (low, high) =
        heat.iter().fold((f32::MAX, f32::MIN), |(low, high), x| (low.min(*x), high.max(*x)));
    let range = (high - low).max(1e-12);
    let patches_per_px = grid as f32 / image_size as f32;
    for (x, y, pixel) in photo.enumerate_pixels_mut() {
        let [input_x, input_y] = map.input_from_image_point([x as f32 + 0.5, y as f32 + 0.5]);
        let value =
            bilinear(heat, grid, input_x * patches_per_px - 0.5, input_y * patches_per_px - 0.5);
        let warmth = (value - low) / range;
        let (color, share) = (heat_color(warmth), MOST_HEAT * warmth.sqrt());
        for (channel, heat) in pixel.0.iter_mut().zip(color) {
            *channel =
                (f32::from(*channel) * (1.0 - share) + f32::from(heat) * share).round() as u8;
        }
    }
}

/// Bilinear interpolation between patch centres; constant beyond the outer centres.
fn bilinear(values: &[f32], grid: usize, x: f32, y: f32) -> f32 {
    let last = (grid - 1) as f32;
    let (x, y) = (x.clamp(0.0, last), y.clamp(0.0, last));
    let (x0, y0) = (x as usize, y as usize);
    let (x1, y1) = ((x0 + 1).min(grid - 1), (y0 + 1).min(grid - 1));
    let (dx, dy) = (x - x0 as f32, y - y0 as f32);
    let at = |x: usize, y: usize| values[y * grid + x];
    (at(x0, y0) * (1.0 - dx) + at(x1, y0) * dx) * (1.0 - dy)
        + (at(x0, y1) * (1.0 - dx) + at(x1, y1) * dx) * dy
}

/// Draws the frame of a box, white with a dark rim, so that it is visible on any photo.
pub fn draw_box(photo: &mut Rgb, box_px: BoxPx) {
    let (width, height) = photo.dimensions();
    let thick = (width.min(height) / 150).max(2) as i64;
    let [x0, y0, x1, y1] = box_px.map(|x| x.round() as i64);
    let (x1, y1) = (x1.min(i64::from(width)), y1.min(i64::from(height)));
    let (x0, y0) = (x0.max(0), y0.max(0));
    for y in y0..y1 {
        for x in x0..x1 {
            let depth = (x - x0).min(y - y0).min(x1 - 1 - x).min(y1 - 1 - y);
            let rim = depth == 0 || depth == thick + 1;
            if depth <= thick + 1 {
                photo.put_pixel(x as u32, y as u32, Pixel(if rim { [0; 3] } else { [255; 3] }));
            }
        }
    }
}

/// The bytes of a PNG file.
pub fn png_bytes(photo: &Rgb) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let (width, height) = photo.dimensions();
    PngEncoder::new(&mut bytes).write_image(
        photo.as_raw(),
        width,
        height,
        ExtendedColorType::Rgb8,
    )?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_get_lighter_as_it_gets_warmer() {
        let lightness = |value: f32| {
            let [r, g, b] = heat_color(value).map(f32::from);
            0.2126 * r + 0.7152 * g + 0.0722 * b
        };
        let steps: Vec<f32> = (0..=20).map(|i| lightness(i as f32 / 20.0)).collect();
        assert!(steps.windows(2).all(|pair| pair[0] < pair[1]), "{steps:?}");
        assert_eq!(heat_color(-1.0), [13, 8, 135]);
        assert_eq!(heat_color(2.0), [240, 249, 33]);
    }

    #[test]
    fn heat_between_patches_is_their_mean_and_ends_at_the_outer_centres() {
        let values = [0.0, 1.0, 2.0, 3.0];
        assert_eq!(bilinear(&values, 2, 0.5, 0.5), 1.5);
        assert_eq!(bilinear(&values, 2, -3.0, 9.0), 2.0);
        assert_eq!(bilinear(&[7.0], 1, 0.3, 0.3), 7.0);
    }

    #[test]
    fn the_warmest_patch_changes_the_photo_most() {
        let mut photo = Rgb::from_pixel(8, 8, Pixel([0, 0, 0]));
        let map = BoxMap { scale_x: 1.0, scale_y: 1.0, offset_x: 0.0, offset_y: 0.0 };
        overlay_heat(&mut photo, &[0.0, 0.0, 0.0, 1.0], 2, 8, &map);
        assert_eq!(photo.get_pixel(0, 0).0, [0, 0, 0]);
        assert!(photo.get_pixel(7, 7).0[0] > 100);
    }

    #[test]
    fn a_box_over_the_edge_is_drawn_as_far_as_there_is_a_photo() {
        let mut photo = Rgb::new(20, 20);
        draw_box(&mut photo, [-5.0, 5.0, 100.0, 15.0]);
        assert_eq!(photo.get_pixel(10, 6).0, [255; 3]);
        assert_eq!(photo.get_pixel(10, 10).0, [0; 3]);
    }
}
