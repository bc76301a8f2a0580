//! Coordinate frames: pixels of the original image, pixels of the model's input, and the map
//! between them.

use rand::Rng;

use super::ImageError;

/// A box `[x0, y0, x1, y1]` in pixels. The variable's name or the docs state the frame.
pub type BoxPx = [f32; 4];

/// Why a box cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BoxError {
    /// A coordinate is NaN or infinite.
    #[error("box {0:?} has a coordinate that is not a number; give x0,y0,x1,y1 in pixels")]
    NotFinite(BoxPx),
    /// A far edge lies before its near edge.
    #[error(
        "box {0:?} ends before it starts; wanted x0,y0,x1,y1 with x0 < x1 and y0 < y1: swap the corners"
    )]
    Inverted(BoxPx),
    /// Width or height is zero.
    #[error(
        "box {0:?} has no area; wanted x0,y0,x1,y1 with x0 < x1 and y0 < y1 (corners, not width and height)"
    )]
    Empty(BoxPx),
    /// The box does not overlap the image.
    #[error(
        "box {found:?} lies outside the image of {width}x{height} pixels; give x0,y0,x1,y1 in pixels of the image as seen (after EXIF rotation)"
    )]
    Outside {
        /// The given box.
        found: BoxPx,
        /// Width of the image, in pixels.
        width: u32,
        /// Height of the image, in pixels.
        height: u32,
    },
}

/// Returns the part of a box that lies in an image of `width` × `height` pixels.
///
/// Clips a box that crosses the edge: annotations often do by a pixel.
///
/// # Errors
/// If the box is not finite, inverted, empty or completely outside.
pub fn check_box(box_px: BoxPx, width: u32, height: u32) -> Result<BoxPx, ImageError> {
    let [x0, y0, x1, y1] = box_px;
    if !box_px.iter().all(|v| v.is_finite()) {
        return Err(BoxError::NotFinite(box_px).into());
    }
    if x1 < x0 || y1 < y0 {
        return Err(BoxError::Inverted(box_px).into());
    }
    if x1 == x0 || y1 == y0 {
        return Err(BoxError::Empty(box_px).into());
    }
    let (right, bottom) = (width as f32, height as f32);
    if x1 <= 0.0 || y1 <= 0.0 || x0 >= right || y0 >= bottom {
        return Err(BoxError::Outside { found: box_px, width, height }.into());
    }
    Ok([x0.max(0.0), y0.max(0.0), x1.min(right), y1.min(bottom)])
}

/// Maps boxes between the original image (after EXIF) and the model's input, both in pixels.
///
/// `input = image * scale - offset`, per axis. A flipped picture has a negative scale, but boxes
/// still come out with `x0 < x1`. Does not clip: see [`check_box`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoxMap {
    /// Input pixels per image pixel, along the width.
    pub scale_x: f32,
    /// Input pixels per image pixel, along the height.
    pub scale_y: f32,
    /// Pixels cut off at the left, after scaling.
    pub offset_x: f32,
    /// Pixels cut off at the top, after scaling.
    pub offset_y: f32,
}

impl BoxMap {
    /// Maps a box of the original image to the model's input.
    pub fn input_from_image(&self, box_px: BoxPx) -> BoxPx {
        let [x0, y0, x1, y1] = box_px;
        let ([x0, y0], [x1, y1]) =
            (self.input_from_image_point([x0, y0]), self.input_from_image_point([x1, y1]));
        ordered([x0, y0, x1, y1])
    }

    /// Maps a box of the model's input to the original image.
    pub fn image_from_input(&self, box_input: BoxPx) -> BoxPx {
        let [x0, y0, x1, y1] = box_input;
        let ([x0, y0], [x1, y1]) =
            (self.image_from_input_point([x0, y0]), self.image_from_input_point([x1, y1]));
        ordered([x0, y0, x1, y1])
    }

    /// Maps a point `[x, y]` of the original image to the model's input.
    pub fn input_from_image_point(&self, [x, y]: [f32; 2]) -> [f32; 2] {
        [x * self.scale_x - self.offset_x, y * self.scale_y - self.offset_y]
    }

    /// Maps a point `[x, y]` of the model's input to the original image.
    pub fn image_from_input_point(&self, [x, y]: [f32; 2]) -> [f32; 2] {
        [(x + self.offset_x) / self.scale_x, (y + self.offset_y) / self.scale_y]
    }

    /// The map for a model input, `image_size` pixels wide, that is mirrored left to right.
    ///
    /// This is `image_size - (image * scale - offset)` in the form of a map.
    pub fn flipped(self, image_size: usize) -> Self {
        Self { scale_x: -self.scale_x, offset_x: -(self.offset_x + image_size as f32), ..self }
    }
}

/// Swaps the left and right edges of a mirrored box.
fn ordered([x0, y0, x1, y1]: BoxPx) -> BoxPx {
    [x0.min(x1), y0, x0.max(x1), y1]
}

/// A rectangle of whole pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PixelRect {
    /// Left edge.
    pub x: u32,
    /// Top edge.
    pub y: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl PixelRect {
    /// The whole of an image.
    pub fn whole(width: u32, height: u32) -> Self {
        Self { x: 0, y: 0, width, height }
    }

    /// Whether the rectangle has pixels and lies within an image of `width` × `height`.
    pub fn lies_in(&self, width: u32, height: u32) -> bool {
        let inside =
            |start: u32, len: u32, size: u32| len > 0 && len <= size && start <= size - len;
        inside(self.x, self.width, width) && inside(self.y, self.height, height)
    }
}

/// Draws a crop for training as torchvision's `RandomResizedCrop.get_params` does (OpenCLIP:
/// `scale` (0.9, 1.0), `ratio` (3/4, 4/3)).
///
/// `scale` is the share of the area. `ratio` is width over height, drawn uniformly in its
/// logarithm. After ten draws that do not fit, returns the largest centred crop with an allowed
/// ratio.
///
/// # Panics
/// If a range is reversed, or if the image has no pixels.
pub fn random_resized_crop_params(
    width: u32,
    height: u32,
    scale: (f64, f64),
    ratio: (f64, f64),
    rng: &mut impl Rng,
) -> PixelRect {
    assert!(width > 0 && height > 0, "the image has pixels");
    let area = f64::from(width) * f64::from(height);
    for _ in 0..10 {
        let target_area = area * rng.random_range(scale.0..=scale.1);
        let aspect_ratio = rng.random_range(ratio.0.ln()..=ratio.1.ln()).exp();
        let crop_width = (target_area * aspect_ratio).sqrt().round_ties_even() as u32;
        let crop_height = (target_area / aspect_ratio).sqrt().round_ties_even() as u32;
        if (1..=width).contains(&crop_width) && (1..=height).contains(&crop_height) {
            return PixelRect {
                y: rng.random_range(0..=height - crop_height),
                x: rng.random_range(0..=width - crop_width),
                width: crop_width,
                height: crop_height,
            };
        }
    }
    centre_crop_params(width, height, ratio)
}

fn centre_crop_params(width: u32, height: u32, ratio: (f64, f64)) -> PixelRect {
    let in_ratio = f64::from(width) / f64::from(height);
    let pixels = |len: f64| (len.round_ties_even() as u32).max(1);
    let (crop_width, crop_height) = if in_ratio < ratio.0 {
        (width, pixels(f64::from(width) / ratio.0))
    } else if in_ratio > ratio.1 {
        (pixels(f64::from(height) * ratio.1), height)
    } else {
        (width, height)
    };
    PixelRect {
        x: (width - crop_width) / 2,
        y: (height - crop_height) / 2,
        width: crop_width,
        height: crop_height,
    }
}

/// Intersection over union of two boxes, in 0..=1; 0 if either is empty or has a NaN.
///
/// Boxes are `[x0, y0, x1, y1]`, both in the same frame.
pub fn iou(a: [f32; 4], b: [f32; 4]) -> f32 {
    let area = |[x0, y0, x1, y1]: [f32; 4]| {
        if x1 > x0 && y1 > y0 { (x1 - x0) * (y1 - y0) } else { 0.0 }
    };
    let common = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    let union = area(a) + area(b) - common;
    if area(a) > 0.0 && area(b) > 0.0 { common / union } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const SCALE: (f64, f64) = (0.9, 1.0);
    const RATIO: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);

    #[test]
    fn a_box_over_the_edge_is_clipped_to_it() {
        let clipped = check_box([-5.0, 2.0, 700.0, 20.0], 640, 480).expect("overlaps");
        assert_eq!(clipped, [0.0, 2.0, 640.0, 20.0]);
    }

    #[test]
    fn a_box_inside_is_left_as_it_is() {
        let box_px = [0.5, 2.0, 3.25, 20.0];
        assert_eq!(check_box(box_px, 640, 480).expect("inside"), box_px);
    }

    #[test]
    fn a_box_that_cannot_be_used_says_why() {
        let refused = |box_px| check_box(box_px, 64, 48).expect_err("unusable").to_string();
        assert!(refused([f32::NAN, 0.0, 1.0, 1.0]).contains("not a number"));
        assert!(refused([0.0, 0.0, f32::INFINITY, 1.0]).contains("not a number"));
        assert!(refused([9.0, 0.0, 1.0, 1.0]).contains("swap the corners"));
        assert!(refused([1.0, 5.0, 9.0, 5.0]).contains("no area"));
        assert!(refused([64.0, 0.0, 70.0, 9.0]).contains("outside the image of 64x48"));
        assert!(refused([-9.0, 0.0, 0.0, 9.0]).contains("outside"));
    }

    #[test]
    fn a_box_goes_to_the_input_and_comes_back() {
        let map = BoxMap { scale_x: 0.5, scale_y: 2.0, offset_x: 3.0, offset_y: 0.0 };
        let box_px = [10.0, 20.0, 30.0, 25.0];
        assert_eq!(map.input_from_image(box_px), [2.0, 40.0, 12.0, 50.0]);
        assert_eq!(map.image_from_input([2.0, 40.0, 12.0, 50.0]), box_px);
    }

    #[test]
    fn a_mirrored_box_keeps_its_corners_in_order_both_ways() {
        let map = BoxMap { scale_x: 0.5, scale_y: 2.0, offset_x: 3.0, offset_y: 0.0 }.flipped(32);
        let box_px = [10.0, 20.0, 30.0, 25.0];
        assert_eq!(map.input_from_image(box_px), [20.0, 40.0, 30.0, 50.0]);
        assert_eq!(map.image_from_input([20.0, 40.0, 30.0, 50.0]), box_px);
    }

    #[test]
    fn a_random_crop_lies_in_the_image_and_keeps_to_its_ranges() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..1000 {
            let crop = random_resized_crop_params(192, 144, SCALE, RATIO, &mut rng);
            assert!(crop.lies_in(192, 144), "{crop:?}");
            let (crop_width, crop_height) = (f64::from(crop.width), f64::from(crop.height));
            let share = crop_width * crop_height / (192.0 * 144.0);
            assert!((0.89..=1.0).contains(&share), "{crop:?}");
            assert!((0.74..=1.35).contains(&(crop_width / crop_height)), "{crop:?}");
        }
    }

    #[test]
    fn an_image_too_thin_for_any_draw_is_cropped_at_its_centre() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let crop = random_resized_crop_params(10, 1000, SCALE, RATIO, &mut rng);
        assert_eq!(crop, PixelRect { x: 0, y: 493, width: 10, height: 13 });
        let crop = random_resized_crop_params(1000, 10, SCALE, RATIO, &mut rng);
        assert_eq!(crop, PixelRect { x: 493, y: 0, width: 13, height: 10 });
        let crop = random_resized_crop_params(1, 1, (0.1, 0.1), RATIO, &mut rng);
        assert_eq!(crop, PixelRect::whole(1, 1));
    }

    #[test]
    fn boxes_that_share_a_third_of_their_union_have_iou_one_third() {
        assert_eq!(iou([0.0, 0.0, 2.0, 1.0], [1.0, 0.0, 3.0, 1.0]), 1.0 / 3.0);
    }

    #[test]
    fn boxes_apart_or_empty_have_iou_zero() {
        assert_eq!(iou([0.0, 0.0, 1.0, 1.0], [2.0, 2.0, 3.0, 3.0]), 0.0);
        assert_eq!(iou([1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]), 0.0);
        assert_eq!(iou([3.0, 3.0, 1.0, 1.0], [0.0, 0.0, 4.0, 4.0]), 0.0);
        assert_eq!(iou([f32::NAN, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]), 0.0);
    }
}
