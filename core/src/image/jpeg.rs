//! Decodes JPEG as libjpeg-turbo does for Pillow. The `image` crate's own decoder differs by up to
//! 8 in a pixel.

use image::RgbImage;
use image::metadata::Orientation;
use libjpeg_turbo_rs::{
    ColorSpace, DecodeLimits as JpegLimits, DecodeWarning, Decoder, JpegError, PixelFormat,
    ScalingFactor,
};

use super::canvas::Canvas;
use super::colour::{Converter, Samples, Space};
use super::decode::{DecodeFailure, DecodeLimits, DecodedRaw};
use super::exif::{self, Directories};

/// The end-of-image marker.
const END: [u8; 2] = [0xff, 0xd9];
/// Smallest usable part of a truncated JPEG. With less, nothing in the picture is recognizable.
const LEAST_ARRIVED: f64 = 1.0 / 16.0;

impl From<JpegError> for DecodeFailure {
    fn from(error: JpegError) -> Self {
        match error {
            JpegError::Unsupported(reason) => Self::Unsupported(reason),
            _ => Self::Corrupt(error.to_string()),
        }
    }
}

/// Decodes a JPEG, reduced by 2, 4 or 8 if `least_side` or the limits allow or require it.
///
/// A damaged or truncated file is decoded a second time, with the missing part in grey, as libjpeg
/// does.
pub(super) fn decode(
    bytes: &[u8],
    limits: DecodeLimits,
    least_side: u32,
) -> Result<DecodedRaw, DecodeFailure> {
    let ended;
    let mut decoder = match Decoder::new(bytes) {
        Ok(decoder) => decoder,
        // The file ends where a marker should be. Append an end marker, as libjpeg does.
        Err(JpegError::UnexpectedEof) => {
            ended = [bytes, &END].concat();
            Decoder::new(&ended)?
        }
        Err(error) => return Err(error.into()),
    };
    let size @ (width, height) =
        (u32::from(decoder.header().width), u32::from(decoder.header().height));
    limits.check(width, height)?;
    let by = limits.reduction(width, height, least_side);
    let scale = ScalingFactor::try_new(1, by).map_err(|_| limits.too_large(width, height))?;
    decoder.set_scale(scale);
    decoder
        .set_limits(JpegLimits { max_pixels: limits.max_header_pixels, ..JpegLimits::default() });

    let (orientation, space) = orientation_and_space(&decoder)?;
    let samples = match decoder.jpeg_color_space() {
        ColorSpace::Grayscale => Samples::Gray,
        ColorSpace::Cmyk | ColorSpace::Ycck => Samples::Cmyk,
        _ => Samples::Rgb,
    };
    let mut converter = Converter::new(samples, &space);
    let format = match samples {
        _ if !converter.converts() => PixelFormat::Rgb,
        Samples::Gray => PixelFormat::Grayscale,
        Samples::Cmyk => PixelFormat::Cmyk,
        _ => PixelFormat::Rgb,
    };
    decoder.set_output_format(format);
    let _memory = limits.acquire_memory(size, needed_bytes(&decoder, by, format))?;

    let (columns, rows) = (decoder.output_width() as u32, decoder.output_height() as u32);
    let (pixels, problem) = pixels(&mut decoder)?;
    let row_len = columns as usize * format.bytes_per_pixel();
    let pixels = if converter.converts() {
        let mut canvas = Canvas::new(columns, rows, 1)?;
        let mut inks = Vec::new();
        for row in pixels.chunks_exact(row_len).take(rows as usize) {
            if format == PixelFormat::Cmyk {
                // Adobe's programs store inks inverted, and all other programs follow.
                inks.clear();
                inks.extend(row.iter().map(|ink| 255 - ink));
            }
            canvas.push_rgb(converter.convert(if inks.is_empty() { row } else { &inks }));
        }
        canvas.finish()?
    } else {
        RgbImage::from_raw(columns, rows, pixels)
            .ok_or_else(|| DecodeFailure::Corrupt("fewer pixels than announced".into()))?
    };
    Ok(DecodedRaw { pixels, size, orientation, problem })
}

/// Returns the orientation and the colour space.
fn orientation_and_space(decoder: &Decoder) -> Result<(Orientation, Space), DecodeFailure> {
    let is_adobe_rgb =
        || decoder.exif_data().and_then(Directories::open).is_some_and(|exif| exif.is_adobe_rgb());
    let space = match Space::of_icc(decoder.icc_profile()?) {
        Space::Srgb if is_adobe_rgb() => Space::AdobeRgb,
        space => space,
    };
    Ok((exif::orientation(decoder.exif_data()), space))
}

/// Returns the memory that decoding needs at once.
///
/// This is the planes and the picture, both reduced by `by`. A file with several scans also needs
/// every coefficient, two bytes each.
fn needed_bytes(decoder: &Decoder, by: u32, format: PixelFormat) -> u64 {
    let frame = decoder.header();
    let pixels = u64::from(frame.width) * u64::from(frame.height);
    let sampling = frame
        .components
        .iter()
        .map(|c| u64::from(c.horizontal_sampling) * u64::from(c.vertical_sampling));
    let of_largest = sampling.clone().max().unwrap_or(1).max(1);
    let n_samples = pixels * sampling.sum::<u64>() / of_largest;
    let coefficients = if decoder.has_multiple_scans() { 2 * n_samples } else { 0 };
    let by = u64::from(by);
    // Count the picture twice, because rotating or converting it makes a copy.
    coefficients + (n_samples + 2 * pixels * format.bytes_per_pixel() as u64) / (by * by)
}

/// Returns the samples, and a description of any damage.
fn pixels(decoder: &mut Decoder) -> Result<(Vec<u8>, Option<String>), DecodeFailure> {
    use JpegError::{AllocationFailed, LimitExceeded, Unsupported};
    let strict = match decoder.decode_image() {
        Ok(image) => return Ok((image.into_vec(), None)),
        Err(error @ (Unsupported(_) | LimitExceeded { .. } | AllocationFailed { .. })) => {
            return Err(error.into());
        }
        Err(error) => error,
    };
    decoder.set_lenient(true);
    let Ok(image) = decoder.decode_image() else { return Err(strict.into()) };
    match problem(&image.warnings, decoder.has_multiple_scans()) {
        Some(problem) => Ok((image.into_vec(), Some(problem))),
        None => Err(strict.into()),
    }
}

/// Describes the damage. `None` if too little is left to show.
fn problem(warnings: &[DecodeWarning], has_scans: bool) -> Option<String> {
    let mut first_damage = None;
    for warning in warnings {
        match warning {
            DecodeWarning::UnsupportedRecovered { .. } => return None,
            DecodeWarning::TruncatedData { .. } if has_scans => {
                return Some(
                    "the JPEG is cut short: what did not arrive is blurred or grey".into(),
                );
            }
            DecodeWarning::TruncatedData { decoded_mcus, total_mcus } => {
                let arrived = *decoded_mcus as f64 / (*total_mcus).max(1) as f64;
                let percent = (100.0 * arrived).floor();
                return (arrived >= LEAST_ARRIVED).then(|| {
                    format!("the JPEG is cut short: {percent} % of it arrived, the rest is grey")
                });
            }
            DecodeWarning::HuffmanError { .. } => {
                first_damage
                    .get_or_insert("the JPEG is damaged: parts of the picture are grey or wrong");
            }
            _ => {}
        }
    }
    first_damage.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use libjpeg_turbo_rs::{Encoder, Subsampling, compress, compress_progressive};

    use super::*;
    use crate::image::ImageError;
    use crate::image::colour::tests::{INKS, OF_INKS, of_inks};
    use crate::image::decode::tests::{check_close, decoded, scaled};

    /// A picture with structure everywhere and without noise.
    fn slope() -> RgbImage {
        RgbImage::from_fn(320, 240, |x, y| {
            image::Rgb([(x * 3 / 4) as u8, y as u8, ((x ^ y) & 0xe0) as u8])
        })
    }

    fn shown(bytes: &[u8]) -> (RgbImage, Option<String>) {
        let decoded = scaled(bytes, DecodeLimits::default(), u32::MAX);
        (decoded.pixels, decoded.problem)
    }

    fn rows(image: &RgbImage, rows: std::ops::Range<u32>) -> RgbImage {
        image::imageops::crop_imm(image, 0, rows.start, image.width(), rows.len() as u32).to_image()
    }

    #[test]
    fn the_part_that_arrived_is_shown_and_the_file_is_named() {
        let whole =
            compress(&slope(), 320, 240, PixelFormat::Rgb, 80, Subsampling::S420).expect("encodes");
        let image = decoded(&whole);
        let (half, problem) = shown(&whole[..whole.len() / 2]);
        let problem = problem.expect("a half is missing");
        assert!(
            problem.contains("JPEG is cut short") && problem.contains(" % of it arrived"),
            "{problem}"
        );
        assert_eq!(half.dimensions(), image.dimensions());
        assert_eq!(rows(&half, 0..80), rows(&image, 0..80));
        assert!(rows(&half, 200..240).as_raw().iter().all(|value| value.abs_diff(128) <= 1));
        // The last two bytes are only the end marker.
        assert_eq!(shown(&whole[..whole.len() - 2]), (image, None));
        // `decode` gives an error, and so does `decode_scaled` if almost nothing arrived.
        let error = crate::image::decode(&whole[..whole.len() / 2], DecodeLimits::default())
            .expect_err("cut");
        assert!(matches!(error, ImageError::Corrupt { format: "JPEG", .. }), "{error}");
        let start =
            whole.windows(2).position(|marker| marker == [0xff, 0xda]).expect("a scan") + 40;
        assert!(
            crate::image::decode_scaled(&whole[..start], DecodeLimits::default(), u32::MAX)
                .is_err()
        );
    }

    #[test]
    fn a_half_of_many_scans_is_a_blurred_picture() {
        let whole =
            compress_progressive(&slope(), 320, 240, PixelFormat::Rgb, 80, Subsampling::S420)
                .expect("encodes");
        let (half, problem) = shown(&whole[..whole.len() / 2]);
        assert!(problem.expect("a half is missing").contains("blurred"));
        check_close(&half, &decoded(&whole), 12.0);
    }

    #[test]
    fn a_photo_damaged_in_the_middle_is_decoded_with_a_problem() {
        let whole =
            compress(&slope(), 320, 240, PixelFormat::Rgb, 80, Subsampling::S420).expect("encodes");
        let mut damaged = whole.clone();
        let at = whole.len() * 3 / 4;
        damaged[at..at + 40].iter_mut().for_each(|byte| *byte = 0xfe);
        let (image, problem) = shown(&damaged);
        assert!(problem.is_some());
        assert_eq!(rows(&image, 0..96), rows(&decoded(&whole), 0..96));
    }

    #[test]
    fn a_half_may_come_out_smaller() {
        let whole =
            compress(&slope(), 320, 240, PixelFormat::Rgb, 80, Subsampling::S420).expect("encodes");
        let half = scaled(&whole[..whole.len() * 2 / 3], DecodeLimits::default(), 100);
        assert_eq!(
            (half.width, half.pixels.dimensions(), half.problem.is_some()),
            (320, (160, 120), true)
        );
    }

    #[test]
    fn inks_with_a_profile_become_srgb() {
        // Adobe's programs store inks inverted.
        let pixels: Vec<u8> = (0..16)
            .flat_map(|_| INKS.iter().flat_map(|inks| [*inks; 16]))
            .flatten()
            .map(|ink| 255 - ink)
            .collect();
        let icc = of_inks(0x0240_0000);
        let encoder =
            Encoder::new(&pixels, 9 * 16, 16, PixelFormat::Cmyk).quality(100).icc_profile(&icc);
        let found = decoded(&encoder.subsampling(Subsampling::S444).encode().expect("encodes"));
        let wanted = RgbImage::from_fn(9 * 16, 16, |x, _| image::Rgb(OF_INKS[x as usize / 16]));
        check_close(&found, &wanted, 2.0);
    }

    #[test]
    fn grey_with_a_profile_becomes_srgb() {
        let icc =
            moxcms::ColorProfile::new_gray_with_gamma(1.8).encode().expect("it can be written");
        let bytes = Encoder::new(&[64; 256], 16, 16, PixelFormat::Grayscale)
            .quality(100)
            .icc_profile(&icc)
            .encode();
        // As in colour.rs.
        assert_eq!(decoded(&bytes.expect("encodes")).get_pixel(8, 8).0, [81; 3]);
    }

    /// A JPEG whose header states this size, but which has only the first row of blocks.
    fn announcing(width: u16, height: u16) -> Vec<u8> {
        let flat = vec![90; usize::from(width) * 16];
        let mut bytes =
            compress(&flat, width.into(), 16, PixelFormat::Grayscale, 50, Subsampling::S444)
                .expect("encodes");
        let frame = bytes.windows(2).position(|marker| marker == [0xff, 0xc0]).expect("a frame");
        bytes.splice(frame + 5..frame + 7, height.to_be_bytes());
        bytes
    }

    #[test]
    fn a_scan_comes_out_within_the_limits() {
        let bytes = announcing(16_400, 160);
        let limits = DecodeLimits { max_pixels: 700_000, ..DecodeLimits::default() };
        let scan = scaled(&bytes, limits, u32::MAX);
        assert_eq!((scan.width, scan.height, scan.pixels.dimensions()), (16_400, 160, (8200, 80)));
        let limits = DecodeLimits { max_header_pixels: 4_000_000_000, ..DecodeLimits::default() };
        let error = crate::image::decode_whole(&announcing(65_500, 65_500), limits)
            .expect_err("4.3 gigapixels")
            .to_string();
        assert!(error.contains("65500x65500, 4290250000 pixels"), "{error}");
        // An eighth is the smallest size that libjpeg makes.
        let limits = DecodeLimits { max_pixels: 40_000, ..DecodeLimits::default() };
        assert!(matches!(
            crate::image::decode_whole(&bytes, limits),
            Err(ImageError::TooLarge { width: 16_400, .. })
        ));
    }
}
