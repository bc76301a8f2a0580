//! Decodes the formats that the `image` crate reads: WebP, GIF, BMP and AVIF.

use std::borrow::Cow;
use std::io::Cursor;

use image::{ColorType, ImageDecoder, ImageFormat, ImageReader};

use super::canvas::{Canvas, with_capacity};
use super::colour::{Converter, Samples, Space};
use super::decode::{DecodeFailure, DecodeLimits, DecodedRaw, cut_short, high_bytes};

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

/// Two fill values for missing data. A row has arrived if both give the same pixels.
const FILLINGS: [u8; 2] = [0x00, 0xaa];
/// Most missing bytes per arrived byte. A file that lacks more is not filled up.
const MOST_MISSING: usize = 16;
/// The grey of missing rows.
const GREY: u8 = 128;

/// Decodes a picture, or the first frame of an animation. Unreadable rows become grey.
pub(super) fn decode(
    bytes: &[u8],
    (format, name): (ImageFormat, &str),
    limits: DecodeLimits,
    least_side: u32,
) -> Result<DecodedRaw, DecodeFailure> {
    #[cfg(feature = "avif")]
    if format == ImageFormat::Avif {
        check_announced(bytes, limits)?;
    }
    let file = filled_up(bytes, format, FILLINGS[0]);
    let mut decoder = open(&file, format, limits)?;
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
    let (pixels, ended) = read(decoder, FILLINGS[0])?;
    let row_bytes = pixels.len() / height as usize;
    let mut arrived = None;
    let mut problem = None;
    if matches!(file, Cow::Owned(_)) || ended.is_err() {
        // Both decoded copies are in memory at the same time.
        limits.check_bytes(size, needed + pixels.len() as u64)?;
        let file = filled_up(bytes, format, FILLINGS[1]);
        let (others, _) = read(open(&file, format, limits)?, FILLINGS[1])?;
        let rows = pixels.chunks_exact(row_bytes).zip(others.chunks_exact(row_bytes));
        let is_there: Vec<bool> = rows.map(|(row, other)| row == other).collect();
        let n_rows = is_there.iter().filter(|is_there| **is_there).count();
        problem = cut_short(name, n_rows, height);
        if problem.is_none() {
            ended?;
            return Err(DecodeFailure::Corrupt("the file is cut short".into()));
        }
        arrived = Some(is_there);
    }

    let mut converter = Converter::new(samples, &space);
    let mut canvas = Canvas::new(width, height, by)?;
    let is_alpha_unused = format == ImageFormat::Bmp
        && samples == Samples::Rgba
        && pixels.iter().skip(3).step_by(4).all(|alpha| *alpha == 0);
    let (mut high, mut opaque) = (Vec::new(), Vec::new());
    let grey = vec![GREY; 3 * width as usize];
    for (y, row) in pixels.chunks_exact(row_bytes).enumerate() {
        let row = match arrived.as_ref().map(|arrived| shown_row(arrived, y)) {
            None => row,
            Some(Some(y)) => &pixels[y * row_bytes..][..row_bytes],
            Some(None) => {
                canvas.push_rgb(&grey);
                continue;
            }
        };
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
    Ok(DecodedRaw { pixels: canvas.finish()?, size, orientation, problem })
}

/// Returns the row to show as row `y` of a truncated file; `None` after the last row that arrived.
///
/// A row that did not arrive shows the nearest one above it, as in an interlaced GIF.
fn shown_row(arrived: &[bool], y: usize) -> Option<usize> {
    let is_gap = arrived[y..].contains(&true);
    arrived[..=y].iter().rposition(|arrived| *arrived).filter(|above| *above == y || is_gap)
}

fn open<'a>(
    bytes: &'a [u8],
    format: ImageFormat,
    limits: DecodeLimits,
) -> Result<impl ImageDecoder + 'a, DecodeFailure> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut image_limits = image::Limits::no_limits();
    image_limits.max_alloc = Some(limits.max_bytes.max(1 << 20));
    reader.limits(image_limits);
    Ok(reader.into_decoder()?)
}

/// Reads the samples and returns them with the decoder's result. Samples that the decoder did not
/// write have the value `filling`.
fn read(
    decoder: impl ImageDecoder,
    filling: u8,
) -> Result<(Vec<u8>, Result<(), DecodeFailure>), super::ImageError> {
    let len = usize::try_from(decoder.total_bytes()).unwrap_or(usize::MAX);
    let mut pixels = with_capacity(len)?;
    pixels.resize(len, filling);
    let ended = decoder.read_image(&mut pixels).map_err(DecodeFailure::from);
    Ok((pixels, ended))
}

/// Extends a WebP that is truncated within its picture to the end of the picture. Returns every
/// other file unchanged.
///
/// WebP's decoder writes rows only after the whole picture, so it must reach the end. The decoder
/// of lossy pictures accepts any bytes; that of lossless pictures mostly rejects them.
fn filled_up(bytes: &[u8], format: ImageFormat, filling: u8) -> Cow<'_, [u8]> {
    /// Offset of the first chunk.
    const FIRST_CHUNK: usize = 12;
    /// Offset of the flags in the chunk `VP8X`. They list the other chunks of the file.
    const FLAGS: usize = 20;
    /// Flags of EXIF data and XMP.
    const HAS_EXIF_OR_XMP: u8 = 0x0c;
    let mut at = FIRST_CHUNK;
    let end = loop {
        let Some(header) = bytes.get(at..at + 8) else { return bytes.into() };
        let len = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let next = at.saturating_add(8).saturating_add(len).saturating_add(len % 2);
        if next > bytes.len() {
            break next;
        }
        at = next;
    };
    // A header may announce gigabytes although almost nothing follows.
    if format != ImageFormat::WebP || end - at > MOST_MISSING * (bytes.len() - at) {
        return bytes.into();
    }
    let mut file = bytes.to_vec();
    file.resize(end, filling);
    if file[FIRST_CHUNK..].starts_with(b"VP8X") {
        // The chunks after the picture are missing.
        file[FLAGS] &= !HAS_EXIF_OR_XMP;
    }
    file.into()
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

#[cfg(test)]
mod tests {
    use image::RgbImage;

    use super::*;
    use crate::image::decode::tests::{decoded, encoded, refused, scaled};
    use crate::image::resize::tests::picture;
    use crate::image::{ImageError, decode_scaled};

    /// 96 x 128, drawn with Pillow 13.0:
    /// im.putdata([((7 * x * y + 3 * x) % 256, (5 * x + 2 * y) % 256, (x * x // 9 + 11 * y) % 256)
    ///     for y in range(128) for x in range(96)])
    /// exif[0x112] = 1; im.save("stripes.webp", quality=30, exif=exif)
    const LOSSY: &[u8] = include_bytes!("stripes.webp");

    /// Truncates a file to a share of its bytes and decodes it. Returns the image, whether each row
    /// arrived, and the problem.
    fn cut(whole: &[u8], share: f64) -> (RgbImage, Vec<bool>, String) {
        let cut = &whole[..(share * whole.len() as f64) as usize];
        let found = scaled(cut, DecodeLimits::default(), u32::MAX);
        let arrived = found.pixels.rows().map(|mut row| row.any(|pixel| pixel.0 != [GREY; 3]));
        let arrived = arrived.collect();
        assert!(refused(cut).contains("get it again"));
        (found.pixels, arrived, found.problem.expect("a part is missing"))
    }

    /// Asserts that the rows that arrived equal those of the whole file.
    fn check_rows(found: &RgbImage, arrived: &[bool], whole: &RgbImage) {
        for (y, _) in arrived.iter().enumerate().filter(|(_, arrived)| **arrived) {
            let row = |image: &RgbImage| {
                image.rows().nth(y).expect("a row").map(|pixel| pixel.0).collect::<Vec<_>>()
            };
            assert_eq!(row(found), row(whole), "row {y}");
        }
    }

    #[test]
    fn the_upper_rows_of_a_gif_arrive_first() {
        let whole = encoded(picture(64, 50), ImageFormat::Gif);
        let (found, arrived, problem) = cut(&whole, 0.7);
        let n = arrived.iter().filter(|arrived| **arrived).count();
        assert!((15..48).contains(&n) && arrived[..n].iter().all(|arrived| *arrived), "{n}");
        check_rows(&found, &arrived, &decoded(&whole));
        assert!(
            problem.contains(&format!("GIF is cut short or damaged: {} % of it", 2 * n)),
            "{problem}"
        );
    }

    #[test]
    fn gaps_between_rows_that_arrived_show_the_row_above() {
        let shown = |arrived: &[u8]| -> Vec<Option<usize>> {
            let arrived: Vec<bool> = arrived.iter().map(|arrived| *arrived == 1).collect();
            (0..arrived.len()).map(|y| shown_row(&arrived, y)).collect()
        };
        assert_eq!(shown(&[1, 0, 0, 1, 0]), [Some(0), Some(0), Some(0), Some(3), None]);
        assert_eq!(shown(&[0, 0, 1, 1]), [None, None, Some(2), Some(3)]);
    }

    #[test]
    fn the_lower_rows_of_a_bmp_arrive_first() {
        let image = picture(64, 50);
        let whole = encoded(image.clone(), ImageFormat::Bmp);
        let (found, arrived, problem) = cut(&whole, 0.5);
        let n = arrived.iter().filter(|arrived| **arrived).count();
        assert!((20..=25).contains(&n) && arrived[50 - n..].iter().all(|arrived| *arrived), "{n}");
        check_rows(&found, &arrived, &image);
        assert!(problem.contains("BMP is cut short"), "{problem}");
    }

    #[test]
    fn a_truncated_lossy_webp_shows_the_rows_that_arrived() {
        let image = decoded(LOSSY);
        for share in [0.4, 0.6, 0.85] {
            let (found, arrived, problem) = cut(LOSSY, share);
            let n = arrived.iter().filter(|arrived| **arrived).count();
            assert!((10..120).contains(&n) && arrived[..n].iter().all(|arrived| *arrived), "{n}");
            check_rows(&found, &arrived, &image);
            assert!(problem.contains("WebP is cut short"), "{problem}");
            let half = scaled(
                &LOSSY[..(share * LOSSY.len() as f64) as usize],
                DecodeLimits::default(),
                40,
            );
            assert_eq!((half.width, half.pixels.dimensions()), (96, (48, 64)));
        }
        // A header without picture data is an error.
        let error =
            decode_scaled(&LOSSY[..90], DecodeLimits::default(), u32::MAX).expect_err("a header");
        assert!(matches!(error, ImageError::Corrupt { format: "WebP", .. }), "{error}");
    }

    #[test]
    fn a_webp_that_wants_gigabytes_more_is_refused() {
        let mut bytes = LOSSY[..200].to_vec();
        let picture = bytes.windows(4).position(|name| name == b"VP8 ").expect("a picture");
        bytes[picture + 4..picture + 8].copy_from_slice(&0xfff0_0000_u32.to_le_bytes());
        assert!(matches!(filled_up(&bytes, ImageFormat::WebP, 0), Cow::Borrowed(_)));
        assert!(refused(&bytes).contains("WebP"));
    }

    #[test]
    fn a_whole_file_is_not_read_twice() {
        for format in [ImageFormat::WebP, ImageFormat::Gif, ImageFormat::Bmp] {
            let whole = encoded(picture(20, 30), format);
            assert!(matches!(filled_up(&whole, format, 0), Cow::Borrowed(_)));
            assert_eq!(scaled(&whole, DecodeLimits::default(), u32::MAX).problem, None);
        }
        assert!(matches!(filled_up(LOSSY, ImageFormat::WebP, 0), Cow::Borrowed(_)));
    }
}
