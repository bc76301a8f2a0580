//! Decodes image files to the pixels that Pillow gives and that people see.

use std::panic::catch_unwind;
use std::sync::{Mutex, MutexGuard, PoisonError};

use image::metadata::Orientation;
use image::{DynamicImage, ImageFormat, RgbImage};

use super::{ImageError, ImagePreprocess, Preprocessed, preprocess};

/// Limits for decoding untrusted files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Most pixels of the result. A larger image is reduced by 2, 4, 8, ...
    pub max_pixels: u64,
    /// Most pixels that a header may state. Checked before decoding.
    pub max_header_pixels: u64,
    /// Most bytes that decoding may hold at once.
    ///
    /// Images that need more than an eighth of it are decoded one at a time.
    pub max_bytes: u64,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self { max_pixels: 200_000_000, max_header_pixels: 1 << 31, max_bytes: 3 << 30 }
    }
}

/// Locked while a large image is decoded.
static LARGE_IMAGE_LOCK: Mutex<()> = Mutex::new(());

impl DecodeLimits {
    /// Rejects images without pixels, and images whose header states too many.
    pub(super) fn check(&self, width: u32, height: u32) -> Result<(), ImageError> {
        if width == 0 || height == 0 {
            return Err(ImageError::ZeroSize { width, height });
        }
        if u64::from(width) * u64::from(height) > self.max_header_pixels {
            return Err(self.too_large(width, height));
        }
        Ok(())
    }

    pub(super) fn too_large(&self, width: u32, height: u32) -> ImageError {
        ImageError::TooLarge { width, height, max_pixels: self.max_header_pixels }
    }

    /// Chooses the reduction factor, a power of 2.
    ///
    /// The factor is up to 8 while neither side falls below `least_side`, and more if the limits
    /// require it.
    pub(super) fn reduction(&self, width: u32, height: u32, least_side: u32) -> u32 {
        let wanted =
            [8, 4, 2].into_iter().find(|by| width.min(height) / by >= least_side).unwrap_or(1);
        let n_pixels = |by: u32| u64::from(width.div_ceil(by)) * u64::from(height.div_ceil(by));
        let mut by = wanted;
        while n_pixels(by) > self.max_pixels && by < 1 << 16 {
            by *= 2;
        }
        by
    }

    /// Rejects an image that needs too much memory.
    pub(super) fn check_bytes(
        &self,
        (width, height): (u32, u32),
        bytes: u64,
    ) -> Result<(), ImageError> {
        if bytes > self.max_bytes {
            return Err(ImageError::NeedsMemory {
                width,
                height,
                bytes,
                max_bytes: self.max_bytes,
            });
        }
        Ok(())
    }

    /// Waits until an image that needs `bytes` may be decoded, and rejects it if it needs too much.
    ///
    /// The caller may decode the image while it holds the result.
    pub(super) fn acquire_memory(
        &self,
        size: (u32, u32),
        bytes: u64,
    ) -> Result<Option<MutexGuard<'static, ()>>, ImageError> {
        self.check_bytes(size, bytes)?;
        let is_large = bytes > self.max_bytes / 8;
        Ok(is_large.then(|| LARGE_IMAGE_LOCK.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// The pixels of an image file, and its size before reduction.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// Pixels as a person sees them, possibly reduced.
    pub pixels: RgbImage,
    /// Width of the unreduced image as a person sees it, in pixels.
    pub width: u32,
    /// Height of the unreduced image as a person sees it, in pixels.
    pub height: u32,
    /// Name of the format.
    pub format: &'static str,
    /// Reason why a part of the picture is missing: the file is truncated or damaged. The missing
    /// part is grey.
    pub problem: Option<String>,
}

/// Decodes an image file to the pixels that a person sees: EXIF orientation applied, sRGB, 8 bits,
/// on white.
///
/// The result equals Pillow's `ImageOps.exif_transpose(image).convert("RGB")` with these
/// exceptions:
///
/// - Colours with a profile are converted to sRGB, as Pillow's `ImageCms` does.
/// - Transparent pixels are composed onto white, or onto grey if most visible pixels are white.
/// - 16-bit samples give their high byte. (Pillow clips 16-bit gray, which makes nearly all of it
///   white.)
///
/// Gray is replicated and palettes are resolved. An animation gives its first frame, a TIFF its
/// first page.
///
/// # Errors
/// If the data is empty, unknown, damaged or truncated, or if the image exceeds the limits. A
/// decoder that panics gives an error too, except on wasm32, where a panic ends the program.
pub fn decode(bytes: &[u8], limits: DecodeLimits) -> Result<RgbImage, ImageError> {
    // Boxes are in pixels of the whole image, so its size must not change silently.
    let max_header_pixels = limits.max_header_pixels.min(limits.max_pixels);
    Ok(decode_whole(bytes, DecodeLimits { max_header_pixels, ..limits })?.pixels)
}

/// Like [`decode`], but reduces an image of more than `max_pixels` and reports its original size.
///
/// # Errors
/// Like [`decode`], except that an image above `max_pixels` is not an error.
pub fn decode_whole(bytes: &[u8], limits: DecodeLimits) -> Result<Decoded, ImageError> {
    let decoded = decode_scaled(bytes, limits, u32::MAX)?;
    match decoded.problem {
        Some(reason) => Err(ImageError::Corrupt { format: decoded.format, reason }),
        None => Ok(decoded),
    }
}

/// Like [`decode`], but may reduce a large image to a half, a quarter or an eighth of its size.
///
/// Neither side falls below `least_side`, unless the limits require it.
///
/// libjpeg's scaled transform decodes a large photo several times as fast. A resize to half of
/// `least_side` or less hides the difference: see [`super::Preprocessed::of_original`].
///
/// A truncated or damaged image gives its intact part, and sets [`Decoded::problem`]. HEIC and AVIF
/// give an error instead.
///
/// # Errors
/// Like [`decode_whole`], except that partial damage is not an error.
pub fn decode_scaled(
    bytes: &[u8],
    limits: DecodeLimits,
    least_side: u32,
) -> Result<Decoded, ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::Empty);
    }
    let (format, name) = known_format(bytes)?;
    let drawn = catch_unwind(|| match format {
        #[cfg(feature = "heic")]
        Format::Heic => super::heif::decode(bytes, limits, least_side),
        Format::Known(ImageFormat::Jpeg) => super::jpeg::decode(bytes, limits, least_side),
        Format::Known(ImageFormat::Png) => super::png::decode(bytes, limits, least_side),
        Format::Known(ImageFormat::Tiff) => super::tiff::decode(bytes, limits, least_side),
        Format::Known(format) => super::other::decode(bytes, (format, name), limits, least_side),
    });
    let stopped = match drawn {
        Ok(Ok(DecodedRaw { pixels, size: (width, height), orientation, problem })) => {
            return Ok(
                Decoded { pixels, width, height, format: name, problem }.oriented(orientation)
            );
        }
        Ok(Err(stopped)) => stopped,
        Err(_panic) => DecodeFailure::Corrupt("the decoder panicked".into()),
    };
    Err(match stopped {
        DecodeFailure::Refused(error) => error,
        DecodeFailure::Corrupt(reason) => ImageError::Corrupt { format: name, reason },
        DecodeFailure::Unsupported(reason) => ImageError::Unsupported { format: name, reason },
    })
}

/// The decoder of a file.
enum Format {
    Known(ImageFormat),
    #[cfg(feature = "heic")]
    Heic,
}

impl Decoded {
    /// Rotates or mirrors the image by an EXIF orientation (1 to 8). Any other number changes
    /// nothing.
    pub fn turned(self, exif_orientation: u8) -> Self {
        self.oriented(Orientation::from_exif(exif_orientation).unwrap_or(Orientation::NoTransforms))
    }

    fn oriented(self, orientation: Orientation) -> Self {
        use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
        if orientation == Orientation::NoTransforms {
            return self;
        }
        let mut image = DynamicImage::ImageRgb8(self.pixels);
        image.apply_orientation(orientation);
        let lies = matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH);
        let (width, height) =
            if lies { (self.height, self.width) } else { (self.width, self.height) };
        Self { pixels: image.into_rgb8(), width, height, ..self }
    }

    /// Preprocesses the image as in evaluation and the apps. Boxes are in pixels of the whole
    /// image.
    pub fn preprocess(&self, config: &ImagePreprocess) -> Preprocessed {
        preprocess(&self.pixels, config).of_original(self.width, self.height)
    }
}

/// Finds the largest JPEG picture inside a file: the preview that a camera puts into its raw
/// photos.
///
/// Canon and DNG also store the sensor's values as a JPEG, which is often the largest. It is
/// lossless and has more than 8 bits, so this function skips it.
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

/// Returns the format according to the first bytes, and its common name.
fn known_format(bytes: &[u8]) -> Result<(Format, &'static str), ImageError> {
    let guess = match bytes.get(..4) {
        // BigTIFF.
        Some(b"II\x2b\0" | b"MM\0\x2b") => Ok(ImageFormat::Tiff),
        _ => image::guess_format(bytes),
    };
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
                Ok(ImageFormat::Avif) => {
                    "AVIF (mmgem reads it when it is built with --features avif)".into()
                }
                guess => guess.map_or(unknown.into(), |format| format!("{format:?}")),
            };
            return Err(ImageError::Format { start: bytes[..bytes.len().min(8)].to_vec(), what });
        }
    };
    Ok((Format::Known(guess.expect("named above")), name))
}

/// Whether the file has a HEIC brand, as from Apple's phones.
fn is_heic(bytes: &[u8]) -> bool {
    let brands: [&[u8]; 8] =
        [b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"];
    bytes.get(4..8) == Some(b"ftyp")
        && bytes.get(8..12).is_some_and(|brand| brands.contains(&brand))
}

/// Output of a format's decoder, not rotated yet.
pub(super) struct DecodedRaw {
    pub pixels: RgbImage,
    /// Size of the whole image.
    pub size: (u32, u32),
    /// The orientation that the caller must apply.
    pub orientation: Orientation,
    /// See [`Decoded::problem`].
    pub problem: Option<String>,
}

/// Why a decoder stopped: a limit of ours, or an error of the decoder.
pub(super) enum DecodeFailure {
    Refused(ImageError),
    Corrupt(String),
    Unsupported(String),
}

impl From<ImageError> for DecodeFailure {
    fn from(error: ImageError) -> Self {
        Self::Refused(error)
    }
}

/// Smallest readable share of a damaged image. With less, no content can be recognised.
const LEAST_ARRIVED: f64 = 1.0 / 16.0;

/// Describes a truncated or damaged image; `None` if too few rows are readable to show the image.
pub(super) fn cut_short(format: &str, n_rows: usize, height: u32) -> Option<String> {
    let share = n_rows as f64 / f64::from(height.max(1));
    let percent = (100.0 * share).floor();
    (share >= LEAST_ARRIVED).then(|| {
        format!(
            "the {format} is cut short or damaged: {percent} % of it can be read, the rest is grey"
        )
    })
}

/// Takes the high bytes of 16-bit samples. `first` is their offset in a sample: 0 or 1.
pub(super) fn high_bytes(samples: &[u8], first: usize, high: &mut Vec<u8>) {
    high.clear();
    high.extend(samples.as_chunks::<2>().0.iter().map(|sample| sample[first]));
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Cursor;
    use std::path::PathBuf;

    use image::codecs::png::PngEncoder;
    use image::{ExtendedColorType, ImageEncoder, Luma, LumaA, Rgb, Rgba};
    use libjpeg_turbo_rs::{Encoder, PixelFormat, Subsampling, compress};

    use super::*;
    use crate::image::resize::tests::{fnv_1a, picture};

    pub fn decoded(bytes: &[u8]) -> RgbImage {
        decode(bytes, DecodeLimits::default()).expect("a whole image")
    }

    pub fn refused(bytes: &[u8]) -> String {
        decode(bytes, DecodeLimits::default()).expect_err("not an image").to_string()
    }

    pub fn scaled(bytes: &[u8], limits: DecodeLimits, least_side: u32) -> Decoded {
        decode_scaled(bytes, limits, least_side).expect("an image")
    }

    pub fn png(width: u32, height: u32, color: ExtendedColorType, samples: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        PngEncoder::new(&mut bytes).write_image(samples, width, height, color).expect("encodes");
        bytes
    }

    pub fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.into().write_to(&mut bytes, format).expect("encodes");
        bytes.into_inner()
    }

    pub fn jpeg(width: u32, height: u32, subsampling: Subsampling) -> Vec<u8> {
        let (pixels, [w, h]) = (picture(width, height), [width, height].map(|v| v as usize));
        compress(&pixels, w, h, PixelFormat::Rgb, 75, subsampling).expect("encodes")
    }

    /// EXIF data with one entry: tag 0x0112, type SHORT, one value.
    pub fn exif_of(orientation: u8) -> Vec<u8> {
        [b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".as_slice(), &[orientation], &[0; 6]]
            .concat()
    }

    /// Asserts that the mean difference of all values is at most `most`.
    pub fn check_close(found: &RgbImage, wanted: &RgbImage, most: f64) {
        assert_eq!(found.dimensions(), wanted.dimensions());
        let apart =
            found.as_raw().iter().zip(wanted.as_raw()).map(|(a, b)| f64::from(a.abs_diff(*b)));
        let mean = apart.sum::<f64>() / found.as_raw().len() as f64;
        assert!(mean <= most, "{mean} apart");
    }

    // Expected hashes come from Pillow 13.0 (libjpeg-turbo 3.2), with `im` and `fnv` as in
    // resize.rs:
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
    fn transparent_pixels_lie_on_white() {
        let ink = |x: u32, y: u32| [x as u8, 40 * y as u8, 200];
        let rgba = image::RgbaImage::from_fn(6, 2, |x, y| {
            let [r, g, b] = ink(x, y);
            Rgba([r, g, b, [255, 0, 128, 1, 254, 0][x as usize]])
        });
        // As `Image.new("RGB", size, "white").paste(image, mask=image.getchannel("A"))`.
        let blended = |value: u8, alpha: u8| {
            let [value, alpha] = [value, alpha].map(f64::from);
            ((value * alpha + 255.0 * (255.0 - alpha)) / 255.0).round() as u8
        };
        let expected = RgbImage::from_fn(6, 2, |x, y| {
            let alpha = rgba.get_pixel(x, y).0[3];
            Rgb(ink(x, y).map(|value| blended(value, alpha)))
        });
        for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Tiff] {
            let found = decoded(&encoded(rgba.clone(), format));
            let apart = found.as_raw().iter().zip(expected.as_raw()).map(|(a, b)| a.abs_diff(*b));
            assert!(apart.max() <= Some(1), "{format:?}: {found:?}");
        }
        let gray = image::GrayAlphaImage::from_fn(2, 1, |x, _| LumaA([77, 255 * x as u8]));
        assert_eq!(
            decoded(&encoded(gray, ImageFormat::Png)).as_raw(),
            &[255, 255, 255, 77, 77, 77]
        );
        let hole = image::RgbaImage::from_fn(2, 1, |x, _| Rgba([10, 20, 30, 255 * x as u8]));
        assert_eq!(
            decoded(&encoded(hole, ImageFormat::Gif)).as_raw(),
            &[255, 255, 255, 10, 20, 30]
        );
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
        let wide = image::ImageBuffer::<Rgb<u16>, _>::from_raw(1, 1, vec![0x12ff, 0xab80, 0])
            .expect("a pixel");
        assert_eq!(decoded(&encoded(wide, ImageFormat::Tiff)).as_raw(), &[0x12, 0xab, 0]);
    }

    #[test]
    fn exif_orientation_is_applied() {
        // The image must be rotated clockwise.
        let exif = exif_of(6);
        let image = picture(5, 3);
        let upright = image::imageops::rotate90(&image);
        let mut bytes = Vec::new();
        let mut encoder = PngEncoder::new(&mut bytes);
        encoder.set_exif_metadata(exif.clone()).expect("PNG has EXIF");
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
    fn a_large_image_may_come_out_smaller_and_knows_its_size() {
        let slope = RgbImage::from_fn(400, 300, |x, y| {
            Rgb([(x / 2) as u8, (y / 2) as u8, ((x + y) / 3) as u8])
        });
        let jpeg =
            compress(&slope, 400, 300, PixelFormat::Rgb, 90, Subsampling::S420).expect("encodes");
        let others = [ImageFormat::Png, ImageFormat::Tiff, ImageFormat::WebP, ImageFormat::Bmp];
        let others = others.map(|format| encoded(slope.clone(), format));
        for bytes in [&[jpeg][..], &others].concat() {
            let size = |least_side| {
                let decoded = scaled(&bytes, DecodeLimits::default(), least_side);
                assert_eq!((decoded.width, decoded.height, decoded.problem), (400, 300, None));
                decoded.pixels.dimensions()
            };
            assert_eq!([301, 300, 151].map(size), [(400, 300); 3]);
            assert_eq!([150, 75, 37, 1].map(size), [(200, 150), (100, 75), (50, 38), (50, 38)]);
            // Each pixel is about the mean of the pixels that it replaces.
            let half = scaled(&bytes, DecodeLimits::default(), 150).pixels;
            check_close(&half, &crate::image::resize(&decoded(&bytes), 200, 150), 2.0);
        }
    }

    #[test]
    fn a_scaled_photo_that_lies_on_its_side_is_turned_with_its_size() {
        let turned = Encoder::new(&picture(80, 48), 80, 48, PixelFormat::Rgb)
            .exif_data(&exif_of(6))
            .encode();
        let decoded = scaled(&turned.expect("encodes"), DecodeLimits::default(), 24);
        assert_eq!(
            (decoded.width, decoded.height, decoded.pixels.dimensions()),
            (48, 80, (24, 40))
        );
    }

    #[test]
    fn an_image_above_the_limits_is_reduced() {
        let image = picture(90, 60);
        let jpeg =
            compress(&image, 90, 60, PixelFormat::Rgb, 90, Subsampling::S420).expect("encodes");
        let formats = [
            ImageFormat::Png,
            ImageFormat::Tiff,
            ImageFormat::WebP,
            ImageFormat::Bmp,
            ImageFormat::Gif,
        ];
        for bytes in [jpeg].into_iter().chain(formats.map(|format| encoded(image.clone(), format)))
        {
            let size = |max_pixels| {
                let limits = DecodeLimits { max_pixels, ..DecodeLimits::default() };
                let decoded = scaled(&bytes, limits, u32::MAX);
                assert_eq!((decoded.width, decoded.height), (90, 60));
                decoded.pixels.dimensions()
            };
            assert_eq!([5400, 5399, 1349, 200].map(size), [(90, 60), (45, 30), (23, 15), (12, 8)]);
            let limits = DecodeLimits { max_pixels: 5399, ..DecodeLimits::default() };
            assert_eq!(decode_whole(&bytes, limits).expect("whole").pixels.dimensions(), (45, 30));
            let error = decode(&bytes, limits).expect_err("boxes would be elsewhere").to_string();
            assert!(error.contains("90x60, 5400 pixels; at most 5399"), "{error}");
            // Boxes are still in pixels of the whole image.
            let config = ImagePreprocess {
                image_size: 30,
                resize_mode: crate::image::ResizeMode::Squash,
                image_mean: [0.0; 3],
                image_std: [1.0; 3],
            };
            let input = scaled(&bytes, limits, u32::MAX).preprocess(&config);
            assert_eq!(input.map.input_from_image([0.0, 0.0, 90.0, 60.0]), [0.0, 0.0, 30.0, 30.0]);
        }
    }

    #[test]
    fn bytes_that_are_not_an_image_are_an_error() {
        assert!(refused(b"").contains("empty (0 bytes)"));
        assert!(refused(b"hello, world").contains("no known image format"));
        assert!(refused(b"hello, world").contains(crate::image::FORMATS));
    }

    #[test]
    #[cfg(not(feature = "heic"))]
    fn a_photo_of_a_phone_is_named() {
        assert!(refused(include_bytes!("gradient.heic")).contains("HEIC"));
    }

    #[test]
    #[cfg(not(feature = "avif"))]
    fn an_avif_is_named_with_the_cure() {
        let message = refused(include_bytes!("gradient.avif"));
        assert!(message.contains("AVIF") && message.contains("--features avif"), "{message}");
    }

    #[test]
    fn the_largest_jpeg_in_a_file_is_found() {
        let (small, large) = (jpeg(40, 30, Subsampling::S420), jpeg(80, 60, Subsampling::S420));
        let junk = [0xff, 0xd8, 0xff, 0, 7, 0xff];
        let raw = [b"II*\0".as_slice(), &junk, &small, &junk, &large, &junk, &small[..20]].concat();
        let found = decoded(embedded_jpeg(&raw).expect("there are two"));
        assert_eq!(found, decoded(&large));
        assert_eq!(embedded_jpeg(&junk), None);
        let turned = scaled(&small, DecodeLimits::default(), u32::MAX).turned(6);
        assert_eq!((turned.width, turned.height, turned.pixels.dimensions()), (30, 40, (30, 40)));
    }

    #[test]
    fn the_sensors_values_are_no_preview() {
        let preview = jpeg(40, 30, Subsampling::S420);
        let sensor =
            libjpeg_turbo_rs::compress_lossless(&[7; 100 * 90], 100, 90, PixelFormat::Grayscale);
        let sensor = sensor.expect("encodes");
        assert!(libjpeg_turbo_rs::Decoder::new(&sensor).expect("a JPEG").header().is_lossless);
        let raw = [b"II*\0".as_slice(), &preview, &sensor].concat();
        assert_eq!(decoded(embedded_jpeg(&raw).expect("the preview")), decoded(&preview));
        assert_eq!(embedded_jpeg(&sensor), None);
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
                let small = DecodeLimits {
                    max_pixels: 1 << 16,
                    max_header_pixels: 1 << 16,
                    ..DecodeLimits::default()
                };
                let _may_still_be_an_image = decode_scaled(&damaged, small, u32::MAX);
            }
        }
    }

    #[test]
    fn the_limits_are_checked_before_decoding() {
        let limits = DecodeLimits { max_header_pixels: 1199, ..DecodeLimits::default() };
        let memory = DecodeLimits { max_bytes: 3000, ..DecodeLimits::default() };
        for bytes in [jpeg(40, 30, Subsampling::S420), encoded(picture(40, 30), ImageFormat::Png)] {
            // Truncated: only the header can have been read.
            let header = &bytes[..bytes.len() * 3 / 4];
            let message = decode(header, limits).expect_err("too large").to_string();
            assert!(message.contains("40x30, 1200 pixels; at most 1199"), "{message}");
            let error = decode(header, memory).expect_err("too much memory");
            assert!(
                matches!(
                    error,
                    ImageError::NeedsMemory { width: 40, height: 30, max_bytes: 3000, .. }
                ),
                "{error}"
            );
        }
    }
}
