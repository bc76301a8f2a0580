//! Image files to pixels, the same pixels that Pillow gives.

use std::io::Cursor;
use std::panic::catch_unwind;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};
use libjpeg_turbo_rs::{JpegError, ScalingFactor};

use super::ImageError;

/// What a stranger's file may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Most pixels, checked against the header before anything is decoded.
    pub max_pixels: u64,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self { max_pixels: 200_000_000 }
    }
}

impl DecodeLimits {
    fn check(&self, width: u32, height: u32) -> Result<(), ImageError> {
        if width == 0 || height == 0 {
            return Err(ImageError::ZeroSize { width, height });
        }
        if u64::from(width) * u64::from(height) > self.max_pixels {
            return Err(ImageError::TooLarge { width, height, max_pixels: self.max_pixels });
        }
        Ok(())
    }
}

/// The pixels of an image file, and what they were before they were scaled.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// As a person sees them, possibly fewer than the file has.
    pub pixels: RgbImage,
    /// Width of the whole image as a person sees it, in pixels.
    pub width: u32,
    /// Height of the whole image as a person sees it, in pixels.
    pub height: u32,
    /// The format's name.
    pub format: &'static str,
}

/// An image file as the pixels that a person sees: EXIF orientation applied, RGB, 8 bits.
///
/// As Pillow's `ImageOps.exif_transpose(image).convert("RGB")`: alpha is dropped, not blended; gray is
/// replicated; palettes are looked up; an animation gives its first frame. Of 16-bit samples the high byte is
/// taken (Pillow clips 16-bit gray instead, which leaves nearly all of it white).
///
/// # Errors
/// For empty, unknown, damaged and truncated data and for images over the limits. A decoder that panics is an
/// error too (not on wasm32, where a panic ends the program).
pub fn decode(bytes: &[u8], limits: DecodeLimits) -> Result<RgbImage, ImageError> {
    Ok(decode_scaled(bytes, limits, u32::MAX)?.pixels)
}

/// [`decode`], where a JPEG may come out smaller: a half, a quarter or an eighth of its size, as long as
/// neither side falls below `least_side`.
///
/// libjpeg's scaled transform reads a large photo several times as fast, and a resize to half of
/// `least_side` or less hides the difference: see [`super::Preprocessed::of_original`].
///
/// # Errors
/// As [`decode`].
pub fn decode_scaled(bytes: &[u8], limits: DecodeLimits, least_side: u32) -> Result<Decoded, ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::Empty);
    }
    let (format, name) = known_format(bytes)?;
    let decoded = catch_unwind(|| match format {
        #[cfg(feature = "heic")]
        Format::Heic => decode_heic(bytes, limits),
        Format::Known(ImageFormat::Jpeg) => decode_jpeg(bytes, limits, least_side),
        Format::Known(format) => decode_other(bytes, format, limits),
    });
    let stopped = match decoded {
        Ok(Ok((pixels, width, height))) => return Ok(Decoded { pixels, width, height, format: name }),
        Ok(Err(stopped)) => stopped,
        Err(_panic) => Stopped::Corrupt("the decoder panicked".into()),
    };
    Err(match stopped {
        Stopped::Refused(error) => error,
        Stopped::Corrupt(reason) => ImageError::Corrupt { format: name, reason },
        Stopped::Unsupported(reason) => ImageError::Unsupported { format: name, reason },
    })
}

/// What reads a file.
enum Format {
    Known(ImageFormat),
    #[cfg(feature = "heic")]
    Heic,
}

impl Decoded {
    /// The image turned as EXIF's orientation (1 to 8) asks; another number turns nothing.
    pub fn turned(self, exif_orientation: u8) -> Self {
        let orientation = Orientation::from_exif(exif_orientation).unwrap_or(Orientation::NoTransforms);
        let (pixels, width, height) = oriented(self.pixels, (self.width, self.height), orientation);
        Self { pixels, width, height, format: self.format }
    }
}

/// The largest JPEG inside a file that shows a picture: the preview that a camera puts into its raw photos.
///
/// Canon and DNG keep the sensor's values as a JPEG too, a lossless one of more than 8 bits and often the
/// largest of all; it is no preview.
pub fn embedded_jpeg(bytes: &[u8]) -> Option<&[u8]> {
    let starts = bytes.windows(3).enumerate().filter(|(_, window)| *window == [0xff, 0xd8, 0xff]);
    let area = |jpeg: &[u8]| {
        let header = catch_unwind(|| {
            let decoder = libjpeg_turbo_rs::Decoder::new(jpeg).ok()?;
            let header = decoder.header();
            let is_picture = !header.is_lossless && header.precision == 8;
            is_picture.then(|| u64::from(header.width) * u64::from(header.height))
        });
        header.ok().flatten()
    };
    let jpegs = starts.filter_map(|(start, _)| Some((area(&bytes[start..])?, start)));
    jpegs.max().map(|(_, start)| &bytes[start..])
}

/// The format by the first bytes, with the name people use.
fn known_format(bytes: &[u8]) -> Result<(Format, &'static str), ImageError> {
    let guess = image::guess_format(bytes);
    let name = match guess {
        Ok(ImageFormat::Jpeg) => "JPEG",
        Ok(ImageFormat::Png) => "PNG",
        Ok(ImageFormat::WebP) => "WebP",
        Ok(ImageFormat::Gif) => "GIF",
        Ok(ImageFormat::Bmp) => "BMP",
        Ok(ImageFormat::Tiff) => "TIFF",
        #[cfg(feature = "avif")]
        Ok(ImageFormat::Avif) => "AVIF",
        #[cfg(feature = "heic")]
        _ if is_heic(bytes) => return Ok((Format::Heic, "HEIC")),
        _ => {
            let unknown = if is_heic(bytes) { "HEIC" } else { "no known image format" };
            let what = match guess {
                Ok(ImageFormat::Avif) => "AVIF (mmgem reads it when it is built with --features avif)".into(),
                guess => guess.map_or(unknown.into(), |format| format!("{format:?}")),
            };
            return Err(ImageError::Format { start: bytes[..bytes.len().min(8)].to_vec(), what });
        }
    };
    Ok((Format::Known(guess.expect("named above")), name))
}

/// Whether the file's brand is that of Apple's phones and the like.
fn is_heic(bytes: &[u8]) -> bool {
    let brands: [&[u8]; 8] = [b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"];
    bytes.get(4..8) == Some(b"ftyp") && bytes.get(8..12).is_some_and(|brand| brands.contains(&brand))
}

/// What stops a decoder: our own refusal, or a reason of its own.
enum Stopped {
    Refused(ImageError),
    Corrupt(String),
    Unsupported(String),
}

impl From<ImageError> for Stopped {
    fn from(error: ImageError) -> Self {
        Self::Refused(error)
    }
}

impl From<image::ImageError> for Stopped {
    fn from(error: image::ImageError) -> Self {
        let reason = error.to_string();
        match error {
            image::ImageError::Unsupported(_) => Self::Unsupported(reason),
            _ => Self::Corrupt(reason),
        }
    }
}

impl From<JpegError> for Stopped {
    fn from(error: JpegError) -> Self {
        match error {
            JpegError::Unsupported(reason) => Self::Unsupported(reason),
            _ => Self::Corrupt(error.to_string()),
        }
    }
}

/// JPEG as libjpeg-turbo decodes it for Pillow; the `image` crate's own decoder is off by up to 8 in a pixel.
fn decode_jpeg(bytes: &[u8], limits: DecodeLimits, least_side: u32) -> Result<Seen, Stopped> {
    let mut decoder = libjpeg_turbo_rs::Decoder::new(bytes)?;
    let size = (u32::from(decoder.header().width), u32::from(decoder.header().height));
    limits.check(size.0, size.1)?;
    let orientation = decoder.exif_orientation().and_then(Orientation::from_exif);
    decoder.set_output_format(libjpeg_turbo_rs::PixelFormat::Rgb);
    let smallest = [8, 4, 2].into_iter().find(|by| size.0.min(size.1) / by >= least_side);
    if let Some(by) = smallest {
        decoder.set_scale(ScalingFactor::try_new(1, by)?);
    }
    let (width, height) = (decoder.output_width() as u32, decoder.output_height() as u32);
    let pixels = decoder.decode_image()?.into_vec();
    let image = RgbImage::from_raw(width, height, pixels)
        .ok_or_else(|| Stopped::Corrupt("fewer pixels than announced".into()))?;
    Ok(oriented(image, size, orientation.unwrap_or(Orientation::NoTransforms)))
}

/// The container's own turns are applied; EXIF's orientation repeats them and is left alone.
#[cfg(feature = "heic")]
fn decode_heic(bytes: &[u8], limits: DecodeLimits) -> Result<Seen, Stopped> {
    use heic_decoder::HeifError;
    let stopped = |error: HeifError| match error {
        HeifError::Unsupported(_) | HeifError::LimitExceeded(_) => Stopped::Unsupported(error.to_string()),
        _ => Stopped::Corrupt(error.to_string()),
    };
    let info = heic_decoder::probe(bytes).map_err(stopped)?;
    let side = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
    limits.check(side(info.width), side(info.height))?;
    let rgb = heic_decoder::decode(bytes).and_then(|image| image.to_rgb8()).map_err(stopped)?;
    let (width, height) = (side(rgb.width), side(rgb.height));
    let image = RgbImage::from_raw(width, height, rgb.data)
        .ok_or_else(|| Stopped::Corrupt("fewer pixels than announced".into()))?;
    Ok((image, width, height))
}

/// The sizes that a file of the HEIF family announces (its boxes `ispe`); AVIF's decoder looks at none of them
/// before it decodes.
#[cfg(feature = "avif")]
fn check_announced(bytes: &[u8], limits: DecodeLimits) -> Result<(), ImageError> {
    for (at, _) in bytes.windows(4).enumerate().filter(|(_, name)| **name == *b"ispe") {
        // After the name: four bytes of version and flags, then width and height.
        let side = |from: usize| Some(u32::from_be_bytes(bytes.get(from..from + 4)?.try_into().ok()?));
        if let (Some(width), Some(height)) = (side(at + 8), side(at + 12)) {
            limits.check(width, height)?;
        }
    }
    Ok(())
}

fn decode_other(bytes: &[u8], format: ImageFormat, limits: DecodeLimits) -> Result<Seen, Stopped> {
    #[cfg(feature = "avif")]
    if format == ImageFormat::Avif {
        check_announced(bytes, limits)?;
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    // Pixels are counted below; 16 bytes a pixel is the widest sample format there is.
    let mut image_limits = image::Limits::no_limits();
    image_limits.max_alloc = Some(limits.max_pixels.saturating_mul(16).max(1 << 20));
    reader.limits(image_limits);
    let mut decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    limits.check(width, height)?;
    let orientation = decoder.orientation()?;
    let image = rgb_from_any(DynamicImage::from_decoder(decoder)?);
    Ok(oriented(image, (width, height), orientation))
}

/// Pixels, and the size of the whole image, as a person sees both.
type Seen = (RgbImage, u32, u32);

fn oriented(image: RgbImage, (width, height): (u32, u32), orientation: Orientation) -> Seen {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    let mut image = DynamicImage::ImageRgb8(image);
    image.apply_orientation(orientation);
    let lies = matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH);
    let (width, height) = if lies { (height, width) } else { (width, height) };
    (image.into_rgb8(), width, height)
}

/// Alpha dropped, gray replicated, the high byte of 16-bit samples.
fn rgb_from_any(image: DynamicImage) -> RgbImage {
    match image {
        DynamicImage::ImageLuma16(_)
        | DynamicImage::ImageLumaA16(_)
        | DynamicImage::ImageRgb16(_)
        | DynamicImage::ImageRgba16(_) => {
            let wide = image.into_rgb16();
            let high_bytes = wide.as_raw().iter().map(|sample| (sample >> 8) as u8).collect();
            RgbImage::from_raw(wide.width(), wide.height(), high_bytes).expect("the same size")
        }
        _ => image.into_rgb8(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use image::codecs::png::PngEncoder;
    use image::{ExtendedColorType, ImageEncoder, Luma, LumaA, Rgb, Rgba};
    use libjpeg_turbo_rs::{Encoder, PixelFormat, Subsampling, compress};

    use super::*;
    use crate::image::resize::tests::{fnv_1a, picture};

    fn decoded(bytes: &[u8]) -> RgbImage {
        decode(bytes, DecodeLimits::default()).expect("a whole image")
    }

    fn refused(bytes: &[u8]) -> String {
        decode(bytes, DecodeLimits::default()).expect_err("not an image").to_string()
    }

    fn png(width: u32, height: u32, color: ExtendedColorType, samples: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        PngEncoder::new(&mut bytes).write_image(samples, width, height, color).expect("encodes");
        bytes
    }

    fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.into().write_to(&mut bytes, format).expect("encodes");
        bytes.into_inner()
    }

    fn jpeg(width: u32, height: u32, subsampling: Subsampling) -> Vec<u8> {
        let (pixels, [w, h]) = (picture(width, height), [width, height].map(|v| v as usize));
        compress(&pixels, w, h, PixelFormat::Rgb, 75, subsampling).expect("encodes")
    }

    // Expected hashes, with Pillow 13.0 (libjpeg-turbo 3.2), `im` and `fnv` as in resize.rs:
    // im.save(b, "JPEG", quality=75, subsampling=s); fnv(Image.open(b).convert("RGB").tobytes())
    fn check_jpeg(size: (u32, u32), subsampling: Subsampling, pillow: u64) {
        let image = decoded(&jpeg(size.0, size.1, subsampling));
        assert_eq!(image.dimensions(), size);
        assert_eq!(fnv_1a(&image), pillow, "{size:?} {subsampling:?}");
    }

    #[test]
    fn a_jpeg_is_as_in_pillow() {
        check_jpeg((67, 45), Subsampling::S420, 0xa3d3_baa1_6a5a_c0ce);
        check_jpeg((67, 45), Subsampling::S422, 0x6d9d_7fd1_0976_2fe8);
        check_jpeg((67, 45), Subsampling::S444, 0x1488_1455_a95b_b256);
        check_jpeg((1, 1), Subsampling::S420, 0xd968_b118_6c27_059c);
    }

    #[test]
    fn a_photo_is_as_in_pillow() {
        let shared = std::env::var_os("MMGEM_SHARED").map_or_else(
            || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")),
            PathBuf::from,
        );
        // fnv(Image.open(f).tobytes())
        for (name, pillow) in
            [("kodim04.jpg", 0x5767_b3be_f32b_731a), ("skimage_chelsea.jpg", 0xd4c9_99ec_7bde_de9a)]
        {
            let Ok(bytes) = std::fs::read(shared.join("data/photos").join(name)) else {
                eprintln!("SKIPPED: no data/photos/{name}; set MMGEM_SHARED to the shared folder");
                return;
            };
            assert_eq!(fnv_1a(&decoded(&bytes)), pillow, "{name}");
        }
    }

    #[test]
    fn alpha_is_dropped_and_not_blended() {
        let rgba = image::RgbaImage::from_fn(3, 2, |x, y| Rgba([x as u8, y as u8, 200, x as u8]));
        let expected = RgbImage::from_fn(3, 2, |x, y| Rgb([x as u8, y as u8, 200]));
        assert_eq!(decoded(&encoded(rgba.clone(), ImageFormat::Png)), expected);
        assert_eq!(decoded(&encoded(rgba, ImageFormat::WebP)), expected);
        let gray = image::GrayAlphaImage::from_pixel(2, 2, LumaA([77, 0]));
        assert_eq!(decoded(&encoded(gray, ImageFormat::Png)).get_pixel(1, 1), &Rgb([77; 3]));
    }

    #[test]
    fn gray_is_replicated() {
        let gray = image::GrayImage::from_pixel(2, 2, Luma([77]));
        for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Tiff] {
            assert_eq!(decoded(&encoded(gray.clone(), format)).get_pixel(0, 1), &Rgb([77; 3]));
        }
    }

    #[test]
    fn sixteen_bits_give_their_high_byte() {
        let samples = [0x12ff_u16, 0xab80, 0x0000].map(u16::to_ne_bytes).concat();
        let rgb = decoded(&png(1, 1, ExtendedColorType::Rgb16, &samples));
        assert_eq!(rgb.get_pixel(0, 0), &Rgb([0x12, 0xab, 0x00]));
        let gray = decoded(&png(3, 1, ExtendedColorType::L16, &samples));
        assert_eq!(gray.as_raw(), &[0x12, 0x12, 0x12, 0xab, 0xab, 0xab, 0, 0, 0]);
    }

    #[test]
    fn exif_orientation_is_applied() {
        // Big-endian TIFF with one entry: tag 0x0112, type SHORT, one value, 6 (turn right to see it upright).
        let exif = *b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let image = picture(5, 3);
        let upright = image::imageops::rotate90(&image);
        let mut bytes = Vec::new();
        let mut encoder = PngEncoder::new(&mut bytes);
        encoder.set_exif_metadata(exif.to_vec()).expect("PNG has EXIF");
        encoder.write_image(&image, 5, 3, ExtendedColorType::Rgb8).expect("encodes");
        assert_eq!(decoded(&bytes), upright);

        let plain = jpeg(5, 3, Subsampling::S444);
        let turned = Encoder::new(&image, 5, 3, PixelFormat::Rgb)
            .subsampling(Subsampling::S444)
            .exif_data(&exif)
            .encode()
            .expect("encodes");
        assert_eq!(decoded(&turned), image::imageops::rotate90(&decoded(&plain)));
    }

    #[test]
    fn a_large_jpeg_may_come_out_smaller_and_knows_its_size() {
        let slope =
            RgbImage::from_fn(400, 300, |x, y| Rgb([(x / 2) as u8, (y / 2) as u8, ((x + y) / 3) as u8]));
        let bytes = compress(&slope, 400, 300, PixelFormat::Rgb, 90, Subsampling::S420).expect("encodes");
        let size = |least_side| {
            let decoded = decode_scaled(&bytes, DecodeLimits::default(), least_side).expect("a whole image");
            assert_eq!((decoded.width, decoded.height, decoded.format), (400, 300, "JPEG"));
            decoded.pixels.dimensions()
        };
        assert_eq!([301, 300, 151].map(size), [(400, 300); 3]);
        assert_eq!([150, 75, 37, 1].map(size), [(200, 150), (100, 75), (50, 38), (50, 38)]);
        // Each pixel is about the mean of those it stands for.
        let half = decode_scaled(&bytes, DecodeLimits::default(), 150).expect("a whole image").pixels;
        let wanted = crate::image::resize(&decoded(&bytes), 200, 150);
        let apart = half.as_raw().iter().zip(wanted.as_raw()).map(|(a, b)| u64::from(a.abs_diff(*b)));
        assert!(apart.sum::<u64>() < 2 * half.as_raw().len() as u64);
    }

    #[test]
    fn a_scaled_photo_that_lies_on_its_side_is_turned_with_its_size() {
        let exif = *b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let turned = Encoder::new(&picture(80, 48), 80, 48, PixelFormat::Rgb).exif_data(&exif).encode();
        let decoded = decode_scaled(&turned.expect("encodes"), DecodeLimits::default(), 24).expect("whole");
        assert_eq!((decoded.width, decoded.height, decoded.pixels.dimensions()), (48, 80, (24, 40)));
    }

    #[test]
    fn what_is_no_image_is_named() {
        assert!(refused(b"").contains("empty (0 bytes)"));
        assert!(refused(b"hello, world").contains("no known image format"));
        #[cfg(not(feature = "avif"))]
        assert!(refused(AVIF).contains("AVIF") && refused(AVIF).contains("--features avif"));
    }

    #[test]
    fn the_largest_jpeg_in_a_file_is_found() {
        let (small, large) = (jpeg(40, 30, Subsampling::S420), jpeg(80, 60, Subsampling::S420));
        let junk = [0xff, 0xd8, 0xff, 0, 7, 0xff];
        let raw = [b"II*\0".as_slice(), &junk, &small, &junk, &large, &junk, &small[..20]].concat();
        let found = decoded(embedded_jpeg(&raw).expect("there are two"));
        assert_eq!(found, decoded(&large));
        assert_eq!(embedded_jpeg(&junk), None);
        let turned = decode_scaled(&small, DecodeLimits::default(), u32::MAX).expect("whole").turned(6);
        assert_eq!((turned.width, turned.height, turned.pixels.dimensions()), (30, 40, (30, 40)));
    }

    #[test]
    fn the_sensors_values_are_no_preview() {
        let preview = jpeg(40, 30, Subsampling::S420);
        let sensor = libjpeg_turbo_rs::compress_lossless(&[7; 100 * 90], 100, 90, PixelFormat::Grayscale);
        let sensor = sensor.expect("encodes");
        assert!(libjpeg_turbo_rs::Decoder::new(&sensor).expect("a JPEG").header().is_lossless);
        let raw = [b"II*\0".as_slice(), &preview, &sensor].concat();
        assert_eq!(decoded(embedded_jpeg(&raw).expect("the preview")), decoded(&preview));
        assert_eq!(embedded_jpeg(&sensor), None);
    }

    /// `[4 x, 5 y, 128]` by pillow-heif 1.8 at quality 90.
    const HEIC: &[u8] = include_bytes!("gradient.heic");

    /// The same by Pillow 13.0 at quality 90, without subsampling.
    const AVIF: &[u8] = include_bytes!("gradient.avif");

    #[cfg(any(feature = "heic", feature = "avif"))]
    fn check_gradient(bytes: &[u8]) {
        let image = decoded(bytes);
        assert_eq!(image.dimensions(), (64, 48));
        let apart = image.enumerate_pixels().flat_map(|(x, y, pixel)| {
            let wanted = [4 * x as u8, 5 * y as u8, 128];
            pixel.0.into_iter().zip(wanted).map(|(found, wanted)| u32::from(found.abs_diff(wanted)))
        });
        // Of the HEIC one pillow-heif's own pixels are 1.4 off in the mean.
        assert!(apart.sum::<u32>() < 2 * 3 * 64 * 48);
        for kept in (0..bytes.len()).step_by(9) {
            refused(&bytes[..kept]);
        }
    }

    #[test]
    #[cfg(feature = "heic")]
    fn a_photo_of_a_phone_is_read() {
        check_gradient(HEIC);
    }

    #[test]
    #[cfg(feature = "avif")]
    fn an_avif_is_read_unless_it_announces_too_much() {
        check_gradient(AVIF);
        let limits = DecodeLimits { max_pixels: 64 * 48 - 1 };
        let message = decode(AVIF, limits).expect_err("too large").to_string();
        assert!(message.contains("64x48"), "{message}");
    }

    #[test]
    #[cfg(not(feature = "heic"))]
    fn a_photo_of_a_phone_is_named() {
        assert!(refused(HEIC).contains("HEIC"));
    }

    #[test]
    fn a_damaged_image_is_an_error_and_no_panic() {
        let whole = [
            jpeg(40, 30, Subsampling::S420),
            encoded(picture(40, 30), ImageFormat::Png),
            encoded(picture(40, 30), ImageFormat::WebP),
            encoded(picture(40, 30), ImageFormat::Gif),
            encoded(picture(40, 30), ImageFormat::Bmp),
            encoded(picture(40, 30), ImageFormat::Tiff),
        ];
        for bytes in &whole {
            assert_eq!(decoded(bytes).dimensions(), (40, 30));
            for kept in [12, 40, bytes.len() / 4, bytes.len() / 2] {
                refused(&bytes[..kept]);
            }
            for at in (0..bytes.len()).step_by(7) {
                let mut damaged = bytes.clone();
                damaged[at] ^= 0x55;
                let small = DecodeLimits { max_pixels: 1 << 16 };
                let _may_still_be_an_image = decode(&damaged, small);
            }
        }
    }

    #[test]
    fn the_pixel_limit_is_checked_before_decoding() {
        let limits = DecodeLimits { max_pixels: 1199 };
        for bytes in [jpeg(40, 30, Subsampling::S420), encoded(picture(40, 30), ImageFormat::Png)] {
            // Cut short: only the header can have been read.
            let header = &bytes[..bytes.len() * 3 / 4];
            let message = decode(header, limits).expect_err("too large").to_string();
            assert!(message.contains("40x30, 1200 pixels; at most 1199"), "{message}");
        }
    }
}
