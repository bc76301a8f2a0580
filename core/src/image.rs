//! Decodes, resizes and standardises images, and maps boxes accordingly.
//!
//! An ordinary photo gives the same tensor, bit for bit, as `reference/mmgem_reference.py` with
//! Pillow. This holds in training, evaluation and every app; [`decode()`] lists the exceptions.
//! Uses no file system.

mod canvas;
mod colour;
mod decode;
mod exif;
mod frame;
#[cfg(any(feature = "heic", feature = "avif"))]
mod heif;
mod jpeg;
mod other;
mod png;
mod resize;
mod tiff;

use serde::{Deserialize, Serialize};

pub use decode::{DecodeLimits, Decoded, decode, decode_scaled, decode_whole, embedded_jpeg};
pub use frame::{BoxError, BoxMap, BoxPx, PixelRect, check_box, iou, random_resized_crop_params};
pub use image::RgbImage as Rgb;
pub use resize::resize;

/// Supported formats, for messages.
pub const FORMATS: &str = match (cfg!(feature = "heic"), cfg!(feature = "avif")) {
    (false, false) => "JPEG, PNG, WebP, GIF, BMP or TIFF",
    (true, false) => "JPEG, PNG, WebP, GIF, BMP, TIFF or HEIC",
    (false, true) => "JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF",
    (true, true) => "JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC or AVIF",
};

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The input has no bytes.
    #[error("the image is empty (0 bytes); wanted {FORMATS}")]
    Empty,
    /// The first bytes match no supported format.
    #[error(
        "the image starts with {start:02x?}, which is {what}; wanted {FORMATS}: convert it first"
    )]
    Format {
        /// The first bytes.
        start: Vec<u8>,
        /// Name of the format, if known.
        what: String,
    },
    /// The header states more pixels than allowed.
    #[error("the image is {width}x{height}, {} pixels; at most {max_pixels} are allowed: shrink it", u64::from(*width) * u64::from(*height))]
    TooLarge {
        /// Width in the header.
        width: u32,
        /// Height in the header.
        height: u32,
        /// The current limit.
        max_pixels: u64,
    },
    /// Decoding would need too much memory, because of the image's size or layout.
    #[error(
        "the image is {width}x{height}, which needs {} MB to be decoded; at most {} are allowed: shrink it, or save it in strips or tiles",
        bytes / 1_000_000, max_bytes / 1_000_000
    )]
    NeedsMemory {
        /// Width in the header.
        width: u32,
        /// Height in the header.
        height: u32,
        /// Memory that decoding would need, in bytes.
        bytes: u64,
        /// The current limit.
        max_bytes: u64,
    },
    /// The system is out of memory.
    #[error("there is no memory for the image ({} MB); close other programs, or shrink it", bytes / 1_000_000)]
    NoMemory {
        /// Requested memory, in bytes.
        bytes: u64,
    },
    /// Width or height is zero.
    #[error("the image is {width}x{height} pixels; wanted at least 1x1")]
    ZeroSize {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// The decoder failed.
    #[error(
        "the {format} data cannot be decoded: {reason}; the file is damaged or cut short, get it again"
    )]
    Corrupt {
        /// Format according to the first bytes.
        format: &'static str,
        /// Message of the decoder.
        reason: String,
    },
    /// The file uses a part of its format that the decoder does not support.
    #[error(
        "the {format} data uses something that cannot be read here: {reason}; convert it to PNG or JPEG"
    )]
    Unsupported {
        /// Format according to the first bytes.
        format: &'static str,
        /// Message of the decoder.
        reason: String,
    },
    /// A box is invalid.
    #[error(transparent)]
    Box(#[from] BoxError),
}

/// How an image becomes square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResizeMode {
    /// Stretch to a square. Keeps every pixel but not the aspect ratio.
    Squash,
    /// Resize the shortest side to the input's size and crop the centre, as OpenCLIP does in
    /// evaluation.
    Crop,
}

/// Preprocessing from an image to the model's input. Field names follow the model's `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImagePreprocess {
    /// Side of the square input, in pixels.
    pub image_size: usize,
    /// How an image becomes square.
    pub resize_mode: ResizeMode,
    /// Mean of each channel, which is subtracted from values in 0..1.
    pub image_mean: [f32; 3],
    /// Divisor of each channel, applied after the mean.
    pub image_std: [f32; 3],
}

/// The model's input, and the mapping between it and the original image.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocessed {
    /// Standardised pixels `[3, image_size, image_size]`.
    pub pixels: Vec<f32>,
    /// Maps boxes between the image and this input.
    pub map: BoxMap,
    /// Width of the original image (after EXIF), in pixels.
    pub width: u32,
    /// Height of the original image (after EXIF), in pixels.
    pub height: u32,
}

impl Preprocessed {
    /// Relates the input to the original if the image was a smaller copy of it ([`decode_scaled`]).
    ///
    /// Afterwards boxes are in pixels of the original of `width` × `height`.
    pub fn of_original(self, width: u32, height: u32) -> Self {
        let map = BoxMap {
            scale_x: self.map.scale_x * ratio(self.width, width),
            scale_y: self.map.scale_y * ratio(self.height, height),
            ..self.map
        };
        Self { map, width, height, ..self }
    }
}

/// Encodes a JPEG file, for thumbnails.
///
/// # Panics
/// If the image has no pixels, or if a side is longer than a JPEG allows (65,535).
pub fn to_jpeg(image: &Rgb, quality: u8) -> Vec<u8> {
    use libjpeg_turbo_rs::{PixelFormat, Subsampling, compress};
    let (width, height) = (image.width() as usize, image.height() as usize);
    compress(image.as_raw(), width, height, PixelFormat::Rgb, quality, Subsampling::S420)
        .expect("an image of a JPEG's size")
}

/// Preprocesses an image as in evaluation and the apps: `preprocess` of the reference.
///
/// # Panics
/// If the image or the input has no pixels. [`decode`] never returns such an image.
pub fn preprocess(image: &Rgb, config: &ImagePreprocess) -> Preprocessed {
    let (width, height) = image.dimensions();
    let whole = PixelRect::whole(width, height);
    if config.resize_mode == ResizeMode::Squash {
        return preprocess_crop(image, config, whole, false);
    }
    let side = config.side();
    let size = shortest_side_to(side, width, height);
    let margin = |len: u32| (f64::from(len - side) / 2.0).round_ties_even() as u32;
    let window = PixelRect { x: margin(size.0), y: margin(size.1), width: side, height: side };
    let input = resize::resize_window(image, whole, size, window);
    let map = BoxMap {
        scale_x: ratio(size.0, width),
        scale_y: ratio(size.1, height),
        offset_x: window.x as f32,
        offset_y: window.y as f32,
    };
    Preprocessed { pixels: config.standardise(&input, false), map, width, height }
}

/// Preprocesses a crop for training: squashes it to the input's size and mirrors it if `flip` is
/// set.
///
/// [`random_resized_crop_params`] chooses the crop. Boxes outside the crop map to outside the
/// input.
///
/// # Panics
/// If the crop does not lie within the image, or if the input has no pixels.
pub fn preprocess_crop(
    image: &Rgb,
    config: &ImagePreprocess,
    crop: PixelRect,
    flip: bool,
) -> Preprocessed {
    let side = config.side();
    let input = resize::resize_window(image, crop, (side, side), PixelRect::whole(side, side));
    let (scale_x, scale_y) = (ratio(side, crop.width), ratio(side, crop.height));
    let (offset_x, offset_y) = (crop.x as f32 * scale_x, crop.y as f32 * scale_y);
    let map = BoxMap { scale_x, scale_y, offset_x, offset_y };
    let map = if flip { map.flipped(config.image_size) } else { map };
    let (width, height) = image.dimensions();
    Preprocessed { pixels: config.standardise(&input, flip), map, width, height }
}

impl ImagePreprocess {
    fn side(&self) -> u32 {
        u32::try_from(self.image_size).expect("a checked config has a sensible image_size")
    }

    /// Computes `(value / 255 - mean) / std` in the reference's order of f32 operations, channel by
    /// channel.
    fn standardise(&self, input: &Rgb, flip: bool) -> Vec<f32> {
        let n_pixels = input.as_raw().len() / 3;
        let mut pixels = Vec::with_capacity(3 * n_pixels);
        for channel in 0..3 {
            let (mean, std) = (self.image_mean[channel], self.image_std[channel]);
            let table: [f32; 256] =
                std::array::from_fn(|value| (value as f32 / 255.0 - mean) / std);
            for row in input.as_raw().chunks_exact(3 * self.image_size) {
                let values =
                    row.as_chunks::<3>().0.iter().map(|pixel| table[usize::from(pixel[channel])]);
                if flip {
                    pixels.extend(values.rev());
                } else {
                    pixels.extend(values);
                }
            }
        }
        pixels
    }
}

/// The size with the shortest side at `side`. The other side is truncated like Python's `int`.
fn shortest_side_to(side: u32, width: u32, height: u32) -> (u32, u32) {
    let scaled =
        |long: u32, short: u32| (f64::from(side) * f64::from(long) / f64::from(short)) as u32;
    if width <= height { (side, scaled(height, width)) } else { (scaled(width, height), side) }
}

/// Computed in f64 and rounded once, as in the reference.
fn ratio(to: u32, from: u32) -> f32 {
    (f64::from(to) / f64::from(from)) as f32
}

#[cfg(test)]
mod tests {
    use super::resize::tests::picture;
    use super::*;

    fn config(image_size: usize, resize_mode: ResizeMode) -> ImagePreprocess {
        ImagePreprocess {
            image_size,
            resize_mode,
            image_mean: [0.5, 0.25, 0.0],
            image_std: [0.5, 0.25, 1.0],
        }
    }

    #[test]
    fn pixels_are_standardised_channel_by_channel() {
        let image = Rgb::from_pixel(3, 5, image::Rgb([255, 0, 51]));
        let input = preprocess(&image, &config(2, ResizeMode::Squash));
        assert_eq!(input.pixels, [[1.0; 4], [-1.0; 4], [0.2; 4]].concat());
    }

    #[test]
    fn squash_keeps_the_whole_image_and_scales_boxes() {
        let input = preprocess(&picture(64, 16), &config(32, ResizeMode::Squash));
        assert_eq!(input.map, BoxMap { scale_x: 0.5, scale_y: 2.0, offset_x: 0.0, offset_y: 0.0 });
        assert_eq!(input.map.input_from_image([0.0, 0.0, 64.0, 16.0]), [0.0, 0.0, 32.0, 32.0]);
        assert_eq!((input.width, input.height), (64, 16));
    }

    // Like `preprocess` of the reference: int() truncates the long side, round() picks the even
    // margin.
    fn check_crop(size: (u32, u32), map: BoxMap) {
        let input = preprocess(&picture(size.0, size.1), &config(32, ResizeMode::Crop));
        assert_eq!(input.map, map, "{size:?}");
    }

    #[test]
    fn crop_cuts_the_long_side_as_python_rounds() {
        // 32 * 49 / 32 = 49, margin 8.5 -> 8
        check_crop((49, 32), BoxMap { scale_x: 1.0, scale_y: 1.0, offset_x: 8.0, offset_y: 0.0 });
        // 51, margin 9.5 -> 10
        check_crop((32, 51), BoxMap { scale_x: 1.0, scale_y: 1.0, offset_x: 0.0, offset_y: 10.0 });
        // int(32 * 100 / 60) = 53, margin 10.5 -> 10
        let (scale_x, scale_y) = ((53.0 / 100.0) as f32, (32.0 / 60.0) as f32);
        check_crop((100, 60), BoxMap { scale_x, scale_y, offset_x: 10.0, offset_y: 0.0 });
    }

    #[test]
    fn crop_of_a_very_long_image_needs_little_memory() {
        let input = preprocess(&Rgb::new(200_000, 1), &config(224, ResizeMode::Crop));
        assert_eq!(input.pixels.len(), 3 * 224 * 224);
    }

    #[test]
    fn a_training_crop_is_the_crop_squashed_and_boxes_follow() {
        let image = picture(50, 40);
        let crop = PixelRect { x: 10, y: 4, width: 32, height: 16 };
        let config = config(32, ResizeMode::Crop);
        let input = preprocess_crop(&image, &config, crop, false);
        assert_eq!(input.map.input_from_image([10.0, 4.0, 42.0, 20.0]), [0.0, 0.0, 32.0, 32.0]);
        assert_eq!(input.map.image_from_input([0.0, 0.0, 32.0, 32.0]), [10.0, 4.0, 42.0, 20.0]);

        let cropped = image::imageops::crop_imm(&image, 10, 4, 32, 16).to_image();
        let squash = ImagePreprocess { resize_mode: ResizeMode::Squash, ..config };
        assert_eq!(input.pixels, preprocess(&cropped, &squash).pixels);
    }

    #[test]
    fn boxes_of_a_smaller_copy_are_those_of_the_original() {
        for mode in [ResizeMode::Squash, ResizeMode::Crop] {
            let whole = preprocess(&picture(80, 60), &config(20, mode)).map;
            let copy = preprocess(&picture(40, 30), &config(20, mode)).of_original(80, 60);
            assert_eq!((copy.map, copy.width, copy.height), (whole, 80, 60));
        }
    }

    #[test]
    fn a_mirrored_crop_mirrors_pixels_and_boxes() {
        let image = picture(32, 32);
        let config = config(32, ResizeMode::Squash);
        let whole = PixelRect::whole(32, 32);
        let input = preprocess_crop(&image, &config, whole, true);
        let mirrored = image::imageops::flip_horizontal(&image);
        assert_eq!(input.pixels, preprocess(&mirrored, &config).pixels);
        assert_eq!(input.map.input_from_image([1.0, 2.0, 5.0, 6.0]), [27.0, 2.0, 31.0, 6.0]);
        assert_eq!(input.map.image_from_input([27.0, 2.0, 31.0, 6.0]), [1.0, 2.0, 5.0, 6.0]);
    }
}
