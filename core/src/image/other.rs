//! Decodes the formats that the `image` crate reads: WebP, GIF, BMP and AVIF.

use std::io::Cursor;

use image::{ColorType, ImageDecoder, ImageFormat, ImageReader};

use super::canvas::{Canvas, with_capacity};
use super::colour::{Converter, Samples, Space};
use super::decode::{DecodeFailure, DecodeLimits, DecodedRaw, high_bytes};

/// Memory of the decoders besides the picture, in bytes per pixel.
const BYTES_A_PIXEL: u64 = 4;

impl From<image::ImageError> for DecodeFailure {
    fn from(error: image::ImageError) -> Self {
        let reason = error.to_string();
        match error {
            image::ImageError::Unsupported(_) => Self::Unsupported(reason),
            _ => Self::Corrupt(reason),
        }
    }
}

/// Decodes a picture, or the first frame of an animation.
pub(super) fn decode(
    bytes: &[u8],
    format: ImageFormat,
    limits: DecodeLimits,
    least_side: u32,
) -> Result<DecodedRaw, DecodeFailure> {
    #[cfg(feature = "avif")]
    if format == ImageFormat::Avif {
        check_announced(bytes, limits)?;
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut image_limits = image::Limits::no_limits();
    image_limits.max_alloc = Some(limits.max_bytes.max(1 << 20));
    reader.limits(image_limits);
    let mut decoder = reader.into_decoder()?;
    let size @ (width, height) = decoder.dimensions();
    limits.check(width, height)?;
    let (samples, is_wide) = match decoder.color_type() {
        ColorType::L8 => (Samples::Gray, false),
        ColorType::L16 => (Samples::Gray, true),
        ColorType::La8 => (Samples::GrayAlpha, false),
        ColorType::La16 => (Samples::GrayAlpha, true),
        ColorType::Rgb8 => (Samples::Rgb, false),
        ColorType::Rgb16 => (Samples::Rgb, true),
        ColorType::Rgba8 => (Samples::Rgba, false),
        ColorType::Rgba16 => (Samples::Rgba, true),
        other => return Err(DecodeFailure::Unsupported(format!("pixels of the kind {other:?}"))),
    };
    let by = limits.reduction(width, height, least_side);
    let n_pixels = u64::from(width) * u64::from(height);
    let needed =
        decoder.total_bytes() + BYTES_A_PIXEL * n_pixels + 6 * n_pixels / u64::from(by * by);
    let _memory = limits.acquire_memory(size, needed)?;

    let orientation = match format {
        // AVIF's decoder does not read orientations.
        #[cfg(feature = "avif")]
        ImageFormat::Avif => {
            super::heif::orientation(bytes).unwrap_or(image::metadata::Orientation::NoTransforms)
        }
        _ => decoder.orientation()?,
    };
    let space = Space::of_icc(decoder.icc_profile()?);
    let len = usize::try_from(decoder.total_bytes()).unwrap_or(usize::MAX);
    let mut pixels = with_capacity(len)?;
    pixels.resize(len, 0);
    decoder.read_image(&mut pixels)?;

    let mut converter = Converter::new(samples, &space);
    let mut canvas = Canvas::new(width, height, by)?;
    let bytes_a_sample = if is_wide { 2 } else { 1 };
    let is_alpha_unused = format == ImageFormat::Bmp
        && samples == Samples::Rgba
        && pixels.iter().skip(3).step_by(4).all(|alpha| *alpha == 0);
    let (mut high, mut opaque) = (Vec::new(), Vec::new());
    for row in pixels.chunks_exact(width as usize * samples.len() * bytes_a_sample) {
        let row = match is_wide {
            true => {
                high_bytes(row, usize::from(cfg!(target_endian = "little")), &mut high);
                &high
            }
            false => row,
        };
        let row = converter.convert(row);
        if is_alpha_unused {
            // Many programs write zeros in BMP's alpha channel and mean opaque.
            opaque.clear();
            opaque.extend(row.as_chunks::<4>().0.iter().flat_map(|[r, g, b, _]| [*r, *g, *b]));
            canvas.push_rgb(&opaque);
        } else if samples.has_alpha() {
            canvas.push_rgba(row);
        } else {
            canvas.push_rgb(row);
        }
    }
    Ok(DecodedRaw { pixels: canvas.finish()?, size, orientation, problem: None })
}

/// Checks the sizes that a file of the HEIF family states in its `ispe` boxes.
///
/// AVIF's decoder does not check them before it decodes.
#[cfg(feature = "avif")]
fn check_announced(bytes: &[u8], limits: DecodeLimits) -> Result<(), super::ImageError> {
    for (at, _) in bytes.windows(4).enumerate().filter(|(_, name)| **name == *b"ispe") {
        // After the name: four bytes of version and flags, then width and height.
        let side =
            |from: usize| Some(u32::from_be_bytes(bytes.get(from..from + 4)?.try_into().ok()?));
        if let (Some(width), Some(height)) = (side(at + 8), side(at + 12)) {
            limits.check(width, height)?;
        }
    }
    Ok(())
}
