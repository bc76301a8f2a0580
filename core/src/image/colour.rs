//! Converts the colours of a file to those of a screen: rows of any samples become rows of sRGB.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use moxcms::{
    CicpColorPrimaries, CicpProfile, CmsError, ColorProfile, DataColorSpace, Layout,
    MatrixCoefficients, ProfileVersion, TransferCharacteristics, Transform8BitExecutor,
    Transform16BitExecutor, TransformExecutor, TransformOptions,
};

/// Size of the cache of transforms. The photos of a folder have the profiles of a few cameras.
const MAX_TRANSFORMS: usize = 8;
/// Number of colours per axis of the grid that detects sRGB.
const GRID: u8 = 9;
/// Programs round the numbers of sRGB differently. A profile that changes no value by more than
/// this counts as sRGB.
const LEAST_CHANGE: u8 = 2;

/// Number of sRGB's transfer function in H.273.
const SRGB_TRANSFER: u8 = 13;
/// Numbers of television cameras' transfer functions in H.273.
///
/// Encoders of photos write them although the values are sRGB. Browsers treat them as sRGB.
const VIDEO_TRANSFERS: [u8; 4] = [1, 6, 14, 15];

/// Meaning of the bytes of a pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Samples {
    Gray,
    GrayAlpha,
    Rgb,
    Rgba,
    /// 255 is full ink.
    Cmyk,
}

impl Samples {
    /// Number of bytes per pixel.
    pub fn len(self) -> usize {
        match self {
            Self::Gray => 1,
            Self::GrayAlpha => 2,
            Self::Rgb => 3,
            Self::Rgba | Self::Cmyk => 4,
        }
    }

    /// Whether the last sample is alpha.
    pub fn has_alpha(self) -> bool {
        matches!(self, Self::GrayAlpha | Self::Rgba)
    }
}

/// The colour space of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Space {
    /// sRGB, which is also the default.
    Srgb,
    /// Adobe RGB (1998), which cameras declare in EXIF without a profile.
    AdobeRgb,
    /// An ICC profile.
    Icc(Vec<u8>),
    /// Primaries and transfer function by their numbers in ITU-T H.273.
    Cicp { primaries: u8, transfer: u8 },
}

impl Space {
    /// The space of an optional ICC profile.
    pub fn of_icc(icc: Option<Vec<u8>>) -> Self {
        icc.filter(|icc| !icc.is_empty()).map_or(Self::Srgb, Self::Icc)
    }

    /// Returns the profile; `None` if no conversion is needed.
    ///
    /// Does not convert high dynamic range (PQ and HLG): that needs a choice of brightness, which a
    /// profile does not contain.
    fn profile(&self) -> Option<ColorProfile> {
        use TransferCharacteristics::{Hlg, Smpte2084};
        let profile = match self {
            Self::Srgb => return None,
            Self::AdobeRgb => ColorProfile::new_adobe_rgb(),
            Self::Icc(icc) => ColorProfile::new_from_slice(icc).ok()?,
            Self::Cicp { primaries, transfer } => {
                let transfer =
                    if VIDEO_TRANSFERS.contains(transfer) { SRGB_TRANSFER } else { *transfer };
                ColorProfile::new_from_cicp(CicpProfile {
                    color_primaries: CicpColorPrimaries::try_from(*primaries).ok()?,
                    transfer_characteristics: TransferCharacteristics::try_from(transfer).ok()?,
                    matrix_coefficients: MatrixCoefficients::Identity,
                    full_range: true,
                })
            }
        };
        let transfer = profile.cicp.map(|cicp| cicp.transfer_characteristics);
        (!matches!(transfer, Some(Smpte2084 | Hlg))).then_some(profile)
    }
}

/// Converts rows of a file to rows of sRGB.
pub(super) struct Converter {
    samples: Samples,
    transform: Option<Arc<Transform8BitExecutor>>,
    /// Whether `transform` takes single grey samples. Otherwise they are replicated first.
    takes_gray: bool,
    darken: Option<Arc<[[u8; 256]; 3]>>,
    gray: Vec<u8>,
    rgb: Vec<u8>,
    row: Vec<u8>,
}

impl Converter {
    /// A converter for samples in a colour space.
    ///
    /// Ignores a profile that is invalid or does not fit the samples, as browsers do.
    pub fn new(samples: Samples, space: &Space) -> Self {
        let found = transform(samples, space);
        let takes_gray = found.as_ref().is_some_and(|found| found.takes_gray);
        let darken = found.as_ref().and_then(|found| found.darken.clone());
        let transform = found.map(|found| found.transform);
        Self {
            samples,
            transform,
            takes_gray,
            darken,
            gray: Vec::new(),
            rgb: Vec::new(),
            row: Vec::new(),
        }
    }

    /// Meaning of the bytes of a pixel of the file.
    pub fn samples(&self) -> Samples {
        self.samples
    }

    /// Whether the converter has a profile that changes colours.
    pub fn converts(&self) -> bool {
        self.transform.is_some()
    }

    /// Converts a row of the file to sRGB: three bytes per pixel, four if the samples have alpha.
    ///
    /// # Panics
    /// If the row is not a whole number of pixels.
    pub fn convert<'a>(&'a mut self, row: &'a [u8]) -> &'a [u8] {
        assert!(row.len().is_multiple_of(self.samples.len()), "whole pixels");
        let n = row.len() / self.samples.len();
        match (self.samples, &self.transform) {
            (Samples::Rgb | Samples::Rgba, None) => return row,
            (Samples::Rgb | Samples::Rgba, Some(transform)) => {
                apply(&**transform, row, &mut self.row, row.len())
            }
            (Samples::Cmyk, Some(transform)) => apply(&**transform, row, &mut self.row, 3 * n),
            (Samples::Cmyk, None) => {
                self.row.clear();
                self.row
                    .extend(row.as_chunks::<4>().0.iter().flat_map(|cmyk| rgb_from_cmyk(*cmyk)));
            }
            (Samples::Gray, _) => {
                gray_to_rgb(&self.transform, self.takes_gray, row, &mut self.rgb, &mut self.row);
            }
            (Samples::GrayAlpha, _) => {
                self.gray.clear();
                self.gray.extend(row.as_chunks::<2>().0.iter().map(|[gray, _]| gray));
                let mut replicated = std::mem::take(&mut self.row);
                gray_to_rgb(
                    &self.transform,
                    self.takes_gray,
                    &self.gray,
                    &mut replicated,
                    &mut self.rgb,
                );
                self.row = replicated;
                self.row.clear();
                let pixels = self.rgb.as_chunks::<3>().0.iter().zip(row.as_chunks::<2>().0);
                self.row.extend(pixels.flat_map(|([r, g, b], [_, alpha])| [*r, *g, *b, *alpha]));
            }
        }
        if let Some(darken) = &self.darken {
            let len = if self.samples.has_alpha() { 4 } else { 3 };
            for pixel in self.row.chunks_exact_mut(len) {
                for (value, table) in pixel.iter_mut().zip(&**darken) {
                    *value = table[usize::from(*value)];
                }
            }
        }
        &self.row
    }
}

fn gray_to_rgb(
    transform: &Option<Arc<Transform8BitExecutor>>,
    takes_gray: bool,
    gray: &[u8],
    replicated: &mut Vec<u8>,
    rgb: &mut Vec<u8>,
) {
    match transform {
        Some(transform) if takes_gray => apply(&**transform, gray, rgb, 3 * gray.len()),
        Some(transform) => {
            replicated.clear();
            replicated.extend(gray.iter().flat_map(|&gray| [gray; 3]));
            apply(&**transform, replicated, rgb, 3 * gray.len());
        }
        None => {
            rgb.clear();
            rgb.extend(gray.iter().flat_map(|&gray| [gray; 3]));
        }
    }
}

fn apply(transform: &Transform8BitExecutor, from: &[u8], to: &mut Vec<u8>, len: usize) {
    to.clear();
    to.resize(len, 0);
    transform.transform(from, to).expect("as many pixels on both sides");
}

/// Converts RGBA with premultiplied colours to RGBA without.
pub(super) fn unmultiplied(row: &[u8]) -> Cow<'_, [u8]> {
    let ink =
        |value: u8, alpha: u8| (u32::from(value) * 255 / u32::from(alpha).max(1)).min(255) as u8;
    let pixels = row.as_chunks::<4>().0.iter();
    pixels
        .flat_map(|&[r, g, b, a]| [ink(r, a), ink(g, a), ink(b, a), a])
        .collect::<Vec<u8>>()
        .into()
}

/// Converts CMYK without a profile as Pillow does.
pub(super) fn rgb_from_cmyk([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let light = u32::from(255 - k);
    [c, m, y].map(|ink| {
        let product = u32::from(ink) * light + 128;
        (light - ((product + (product >> 8)) >> 8)) as u8
    })
}

/// Converts JFIF's luma and chroma, 0..=255, to RGB.
pub(super) fn rgb_from_ycbcr([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    let (y, cb, cr) = (f32::from(y), f32::from(cb) - 128.0, f32::from(cr) - 128.0);
    [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb]
        .map(|value| value.round() as u8)
}

/// Converts 8-bit CIELab under D50 to sRGB. L of 0..=255 means 0..=100.
pub(super) fn rgb_from_lab(l: u8, a: i8, b: i8) -> [u8; 3] {
    /// XYZ of D50's white.
    const WHITE: [f32; 3] = [0.9642, 1.0, 0.8249];
    /// Matrix from XYZ under D50 to linear sRGB, with Bradford adaptation.
    const TO_SRGB: [[f32; 3]; 3] = [
        [3.133_856, -1.616_867, -0.490_615],
        [-0.978_768, 1.916_142, 0.033_454],
        [0.071_945, -0.228_991, 1.405_243],
    ];
    const EPSILON: f32 = 6.0 / 29.0;
    let fy = (f32::from(l) / 255.0 * 100.0 + 16.0) / 116.0;
    let f = [fy + f32::from(a) / 500.0, fy, fy - f32::from(b) / 200.0];
    let linear =
        |f: f32| if f > EPSILON { f * f * f } else { 3.0 * EPSILON * EPSILON * (f - 4.0 / 29.0) };
    let xyz: [f32; 3] = std::array::from_fn(|i| WHITE[i] * linear(f[i]));
    TO_SRGB.map(|row| {
        let linear = row.iter().zip(xyz).map(|(weight, value)| weight * value).sum::<f32>();
        (255.0 * srgb_from_linear(linear.clamp(0.0, 1.0))).round() as u8
    })
}

/// Converts rows of RGB floats in 0..=1 to sRGB.
///
/// Profiles of floats are often linear. 8 bits would lose their shadows.
pub(super) struct FloatConverter {
    transform: Arc<moxcms::TransformF32Executor>,
    row: Vec<f32>,
}

impl FloatConverter {
    /// Returns `None` if no conversion is needed, or if the profile is not for RGB.
    pub fn new(space: &Space) -> Option<Self> {
        let profile =
            space.profile().filter(|profile| profile.color_space == DataColorSpace::Rgb)?;
        let (srgb, options) = (ColorProfile::new_srgb(), TransformOptions::default());
        let transform =
            profile.create_transform_f32(Layout::Rgb, &srgb, Layout::Rgb, options).ok()?;
        Some(Self { transform, row: Vec::new() })
    }

    /// Converts a row in place.
    pub fn convert(&mut self, row: &mut [f32]) {
        self.row.clear();
        self.row.extend_from_slice(row);
        self.transform.transform(&self.row, row).expect("as many pixels on both sides");
    }
}

/// A transform to sRGB.
#[derive(Clone)]
struct SrgbTransform {
    transform: Arc<Transform8BitExecutor>,
    takes_gray: bool,
    /// For each channel, maps its values so that the darkest colour becomes black (black point
    /// compensation).
    darken: Option<Arc<[[u8; 256]; 3]>>,
}

/// Converts inks to sRGB.
///
/// Computes in 16 bits: rounding to 8 bits must come after the black point compensation.
struct Inks {
    transform: Arc<Transform16BitExecutor>,
    /// For each channel, maps each 16-bit value to 8 bits.
    darken: [Vec<u8>; 3],
}

impl TransformExecutor<u8> for Inks {
    fn transform(&self, inks: &[u8], rgb: &mut [u8]) -> Result<(), CmsError> {
        let inks: Vec<u16> = inks.iter().map(|ink| u16::from(*ink) * 257).collect();
        let mut wide = vec![0; rgb.len()];
        self.transform.transform(&inks, &mut wide)?;
        for (to, from) in rgb.as_chunks_mut::<3>().0.iter_mut().zip(wide.as_chunks::<3>().0) {
            *to = std::array::from_fn(|c| self.darken[c][usize::from(from[c])]);
        }
        Ok(())
    }
}

impl Inks {
    fn new(profile: &ColorProfile, srgb: &ColorProfile) -> Option<Self> {
        let options = TransformOptions::default();
        let transform =
            profile.create_transform_16bit(Layout::Rgba, srgb, Layout::Rgb, options).ok()?;
        let mut darkest = [0; 3];
        transform.transform(&[u16::MAX; 4], &mut darkest).ok()?;
        let darkest = darkest.map(|value| f32::from(value) / f32::from(u16::MAX));
        let black = black_point(profile, darkest, true).unwrap_or_default();
        Some(Self { transform, darken: black.map(|black| darkened(black, u16::MAX.into())) })
    }
}

/// A cache entry: a colour space and its transform.
struct CachedTransform {
    samples: Samples,
    space: Space,
    transform: Option<SrgbTransform>,
}

/// Cache of the latest transforms, the newest last.
static TRANSFORMS: Mutex<Vec<CachedTransform>> = Mutex::new(Vec::new());

/// Returns the transform of a colour space; `None` if it changes nothing or cannot be built.
///
/// Building one takes as long as decoding a small photo, so the latest are cached.
fn transform(samples: Samples, space: &Space) -> Option<SrgbTransform> {
    if *space == Space::Srgb {
        return None;
    }
    let cache = || TRANSFORMS.lock().unwrap_or_else(PoisonError::into_inner);
    let is_it = |cached: &CachedTransform| cached.samples == samples && cached.space == *space;
    if let Some(cached) = cache().iter().find(|cached| is_it(cached)) {
        return cached.transform.clone();
    }
    // Build without the lock: a CMYK profile takes long, and an invalid profile may panic.
    let transform = build(samples, space);
    let mut cache = cache();
    if !cache.iter().any(is_it) {
        if cache.len() == MAX_TRANSFORMS {
            cache.remove(0);
        }
        let transform = transform.clone();
        cache.push(CachedTransform { samples, space: space.clone(), transform });
    }
    transform
}

fn build(samples: Samples, space: &Space) -> Option<SrgbTransform> {
    let profile = space.profile()?;
    let (from, to) = match (profile.color_space, samples) {
        (DataColorSpace::Gray, Samples::Gray | Samples::GrayAlpha) => (Layout::Gray, Layout::Rgb),
        (DataColorSpace::Rgb, Samples::Rgba) => (Layout::Rgba, Layout::Rgba),
        (DataColorSpace::Rgb, Samples::Rgb | Samples::Gray | Samples::GrayAlpha) => {
            (Layout::Rgb, Layout::Rgb)
        }
        (DataColorSpace::Cmyk, Samples::Cmyk) => (Layout::Rgba, Layout::Rgb),
        _ => return None,
    };
    let srgb = ColorProfile::new_srgb();
    if samples == Samples::Cmyk {
        let transform = Arc::new(Inks::new(&profile, &srgb)?);
        return Some(SrgbTransform { transform, takes_gray: false, darken: None });
    }
    let transform =
        profile.create_transform_8bit(from, &srgb, to, TransformOptions::default()).ok()?;
    if is_srgb(&*transform, from) {
        return None;
    }
    let darken = darkest(&*transform, samples)
        .and_then(|darkest| black_point(&profile, darkest, false))
        .map(|black| Arc::new(black.map(|black| table_of(&darkened(black, 255)))));
    Some(SrgbTransform { transform, takes_gray: from == Layout::Gray, darken })
}

/// Returns the sRGB values of a profile's darkest colour; `None` for grey, whose curve starts at
/// zero.
fn darkest(transform: &Transform8BitExecutor, samples: Samples) -> Option<[f32; 3]> {
    let (darkest, len): (&[u8], usize) = match samples {
        Samples::Rgba => (&[0, 0, 0, 255], 4),
        Samples::Rgb => (&[0; 3], 3),
        Samples::Cmyk | Samples::Gray | Samples::GrayAlpha => return None,
    };
    let mut rgb = vec![0; len];
    transform.transform(darkest, &mut rgb).ok()?;
    Some(std::array::from_fn(|channel| f32::from(rgb[channel]) / 255.0))
}

/// Returns the linear values of a profile's darkest colour, given in sRGB; `None` if it is black.
///
/// The black of paper is lighter than that of a screen, and tinted. Little CMS, and so Pillow and
/// most viewers, stretches each channel to black (black point compensation, ISO 18619). A version 4
/// profile has the same black point for all papers.
fn black_point(profile: &ColorProfile, darkest: [f32; 3], is_inks: bool) -> Option<[f32; 3]> {
    const OF_VERSION_4: f32 = 0.003_473_1;
    let light = darkest.map(linear_from_srgb);
    let luminance = 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2];
    let is_table = is_inks || luminance > 0.0;
    if is_table && profile.version() >= ProfileVersion::V4_0 {
        return Some([OF_VERSION_4; 3]);
    }
    (luminance > 0.0 && luminance < 0.5).then_some(light)
}

/// A table of the sRGB values 0 to `most` that maps the linear value `black` to black and keeps
/// white. The results have 8 bits.
fn darkened(black: f32, most: u32) -> Vec<u8> {
    let value = |value: u32| {
        let linear = (linear_from_srgb(value as f32 / most as f32) - black) / (1.0 - black);
        (255.0 * srgb_from_linear(linear.max(0.0))).round() as u8
    };
    (0..=most).map(value).collect()
}

fn table_of(values: &[u8]) -> [u8; 256] {
    std::array::from_fn(|value| values[value])
}

fn linear_from_srgb(value: f32) -> f32 {
    if value <= 0.040_45 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
}

fn srgb_from_linear(value: f32) -> f32 {
    if value <= 0.003_130_8 { 12.92 * value } else { 1.055 * value.powf(1.0 / 2.4) - 0.055 }
}

/// Whether a transform changes a grid of colours by at most [`LEAST_CHANGE`].
fn is_srgb(transform: &Transform8BitExecutor, from: Layout) -> bool {
    let axis = || (0..GRID).map(|step| (255 * u16::from(step) / u16::from(GRID - 1)) as u8);
    let colours = axis().flat_map(|r| axis().flat_map(move |g| axis().map(move |b| [r, g, b])));
    let (grid, wanted): (Vec<u8>, Vec<u8>) = match from {
        Layout::Gray => ((0..=255).collect(), (0..=255).flat_map(|gray| [gray; 3]).collect()),
        Layout::Rgb => (colours.clone().flatten().collect(), colours.flatten().collect()),
        _ => {
            let opaque: Vec<u8> = colours.flat_map(|[r, g, b]| [r, g, b, 255]).collect();
            (opaque.clone(), opaque)
        }
    };
    let mut found = vec![0; wanted.len()];
    transform.transform(&grid, &mut found).is_ok()
        && found.iter().zip(&wanted).all(|(found, wanted)| found.abs_diff(*wanted) <= LEAST_CHANGE)
}

#[cfg(test)]
pub(super) mod tests {
    use image::codecs::png::PngEncoder;
    use image::codecs::webp::WebPEncoder;
    use image::{ExtendedColorType, ImageEncoder, RgbImage};
    use libjpeg_turbo_rs::{Encoder, PixelFormat};

    use super::*;
    use crate::image::decode::tests::decoded;

    // Expected colours come from Pillow 13.0 (Little CMS 2.19), with `icc` as the tests build it:
    // t = ImageCms.buildTransform(ImageCms.ImageCmsProfile(io.BytesIO(icc)),
    //     ImageCms.createProfile("sRGB"), mode, "RGB")
    // out = Image.new("RGB", image.size); t.transform.apply(image.getim(), out.getim());
    // out.get_flattened_data()

    const COLOURS: [[u8; 3]; 7] = [
        [0, 0, 0],
        [255, 255, 255],
        [200, 60, 40],
        [60, 180, 90],
        [30, 60, 200],
        [240, 220, 100],
        [128, 128, 128],
    ];
    const OF_P3: [[u8; 3]; 7] = [
        [0, 0, 0],
        [255, 255, 255],
        [217, 42, 23],
        [0, 183, 78],
        [17, 61, 208],
        [244, 219, 73],
        [128, 128, 128],
    ];
    const OF_ADOBE_RGB: [[u8; 3]; 7] = [
        [0, 0, 0],
        [255, 255, 255],
        [231, 57, 34],
        [0, 181, 83],
        [0, 57, 205],
        [248, 221, 90],
        [129, 129, 129],
    ];

    fn icc(profile: &ColorProfile) -> Vec<u8> {
        profile.encode().expect("it can be written")
    }

    fn check_near<const N: usize>(found: &[u8], wanted: &[[u8; N]], most: u8) {
        let wanted = wanted.concat();
        let apart = found.iter().zip(&wanted).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(found.len() == wanted.len() && apart <= Some(most), "{found:?}, wanted {wanted:?}");
    }

    fn check_rgb(profile: &ColorProfile, wanted: &[[u8; 3]]) {
        let mut converter = Converter::new(Samples::Rgb, &Space::Icc(icc(profile)));
        check_near(converter.convert(&COLOURS.concat()), wanted, 1);
    }

    #[test]
    fn wide_gamuts_become_srgb_as_in_pillow() {
        check_rgb(&ColorProfile::new_display_p3(), &OF_P3);
        check_rgb(&ColorProfile::new_adobe_rgb(), &OF_ADOBE_RGB);
        let of_pro_photo =
            [[0; 3], [255; 3], [255, 0, 43], [0, 209, 87], [0, 82, 223], [255, 223, 85], [146; 3]];
        check_rgb(&ColorProfile::new_pro_photo_rgb(), &of_pro_photo);
        let of_bt2020 =
            [[0; 3], [255; 3], [252, 12, 44], [0, 197, 91], [0, 76, 215], [255, 222, 87], [140; 3]];
        check_rgb(&ColorProfile::new_bt2020(), &of_bt2020);
    }

    #[test]
    fn srgb_is_left_as_it_is() {
        for space in [
            Space::Srgb,
            Space::Icc(icc(&ColorProfile::new_srgb())),
            Space::Icc(b"no profile".to_vec()),
        ] {
            for samples in [Samples::Gray, Samples::Rgb, Samples::Rgba, Samples::Cmyk] {
                assert!(!Converter::new(samples, &space).converts(), "{samples:?} {space:?}");
            }
        }
    }

    #[test]
    fn grey_has_a_curve_of_its_own_as_in_pillow() {
        let space = Space::Icc(icc(&ColorProfile::new_gray_with_gamma(1.8)));
        let gray = [0, 10, 64, 128, 200, 255];
        let wanted = [0, 10, 81, 146, 210, 255].map(|gray| [gray; 3]);
        check_near(Converter::new(Samples::Gray, &space).convert(&gray), &wanted, 1);
        let with_alpha: Vec<u8> = gray.iter().flat_map(|gray| [*gray, 9]).collect();
        let wanted = wanted.map(|[r, g, b]| [r, g, b, 9]);
        check_near(Converter::new(Samples::GrayAlpha, &space).convert(&with_alpha), &wanted, 1);
        // Grey samples with an RGB profile are grey RGB colours.
        let space = Space::Icc(icc(&ColorProfile::new_pro_photo_rgb()));
        check_near(Converter::new(Samples::Gray, &space).convert(&[128]), &[[146; 3]], 1);
    }

    #[test]
    fn alpha_is_kept() {
        let rgba = COLOURS.map(|[r, g, b]| [r, g, b, r]).concat();
        let wanted: Vec<[u8; 4]> =
            OF_P3.iter().zip(COLOURS).map(|([r, g, b], of)| [*r, *g, *b, of[0]]).collect();
        let space = Space::Icc(icc(&ColorProfile::new_display_p3()));
        check_near(Converter::new(Samples::Rgba, &space).convert(&rgba), &wanted, 1);
    }

    #[test]
    fn numbers_of_h_273_are_a_profile_too() {
        let convert = |primaries, transfer| {
            let mut converter = Converter::new(Samples::Rgb, &Space::Cicp { primaries, transfer });
            converter.convert(&COLOURS.concat()).to_vec()
        };
        check_near(&convert(12, 13), &OF_P3, 1);
        // Television's transfer function counts as sRGB's. Unknown functions and high dynamic range
        // change nothing.
        check_near(&convert(12, 1), &OF_P3, 1);
        for (primaries, transfer) in [(1, 13), (1, 1), (2, 2), (9, 16), (9, 18), (0, 0), (255, 255)]
        {
            assert_eq!(convert(primaries, transfer), COLOURS.concat(), "{primaries} {transfer}");
        }
    }

    /// A CMYK profile: an 8-bit table to CIELab with nine points per axis. Its black index varies
    /// fastest.
    pub fn of_inks(version: u32) -> Vec<u8> {
        let nodes = (0..9_i64.pow(4)).flat_map(|node| {
            let [c, m, y, k] = [node / 729, node / 81 % 9, node / 9 % 9, node % 9];
            let lab = [
                255 * (80 - 4 * c) * (80 - 5 * m) * (80 - y) * (80 - 6 * k) / 80_i64.pow(4),
                ((-37 * c + 74 * m - 5 * y) * (8 - k)).div_euclid(64) + 128,
                ((-50 * c - 3 * m + 93 * y) * (8 - k)).div_euclid(64) + 128,
            ];
            lab.map(|value| value.clamp(0, 255) as u8)
        });
        let ramp: Vec<u8> = (0..=255).collect();
        let unit =
            [1_i32, 0, 0, 0, 1, 0, 0, 0, 1].map(|value| (value << 16).to_be_bytes()).concat();
        let nodes: Vec<u8> = nodes.collect();
        let table = [
            b"mft1\0\0\0\0\x04\x03\x09\0".as_slice(),
            &unit,
            &ramp.repeat(4),
            &nodes,
            &ramp.repeat(3),
        ]
        .concat();
        let start = 128 + 4 + 12;
        let mut profile = vec![0; 128];
        let mut put =
            |at: usize, bytes: &[u8]| profile[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &((start + table.len()) as u32).to_be_bytes());
        put(8, &version.to_be_bytes());
        put(12, b"prtrCMYKLab ");
        put(36, b"acsp");
        put(68, &[0xf6d6_u32, 0x10000, 0xd32d].map(u32::to_be_bytes).concat());
        profile.extend(1_u32.to_be_bytes());
        profile.extend(b"A2B0");
        profile.extend([start as u32, table.len() as u32].map(u32::to_be_bytes).concat());
        profile.extend(table);
        profile
    }

    pub const INKS: [[u8; 4]; 9] = [
        [0, 0, 0, 0],
        [255, 255, 255, 255],
        [255, 0, 0, 0],
        [0, 255, 0, 0],
        [0, 0, 255, 0],
        [0, 0, 0, 255],
        [60, 20, 180, 10],
        [128, 128, 128, 0],
        [20, 200, 120, 40],
    ];
    pub const OF_INKS: [[u8; 3]; 9] = [
        [255, 255, 255],
        [0, 0, 0],
        [0, 163, 232],
        [222, 0, 124],
        [250, 226, 0],
        [90, 90, 90],
        [205, 197, 93],
        [170, 123, 98],
        [194, 80, 64],
    ];

    #[test]
    fn inks_become_srgb_with_black_as_black_as_in_pillow() {
        let mut converter = Converter::new(Samples::Cmyk, &Space::Icc(of_inks(0x0240_0000)));
        check_near(converter.convert(&INKS.concat()), &OF_INKS, 3);
        let mut converter = Converter::new(Samples::Cmyk, &Space::Icc(of_inks(0x0430_0000)));
        let of_version_4 = [[255; 3], [23; 3], [0, 164, 232]];
        check_near(converter.convert(&INKS[..3].concat()), &of_version_4, 3);
        // Without a profile: as `Image.convert("RGB")`.
        let mut converter = Converter::new(Samples::Cmyk, &Space::Srgb);
        check_near(converter.convert(&[60, 20, 180, 10]), &[[187, 226, 72]], 0);
    }

    #[test]
    fn cielab_is_as_in_pillow() {
        // With ImageCms.createProfile("LAB", 5000).
        let colours = [(0, 0, 0), (255, 0, 0), (128, 0, 0), (120, -50, 40), (200, -10, 60)];
        let found: Vec<u8> =
            colours.iter().flat_map(|(l, a, b)| rgb_from_lab(*l, *a, *b)).collect();
        let wanted = [[1, 0, 1], [254, 255, 254], [119; 3], [1, 131, 34], [201, 198, 74]];
        check_near(&found, &wanted, 1);
    }

    /// Stripes of [`COLOURS`]. In a JPEG each colour fills its own blocks.
    fn stripes() -> RgbImage {
        RgbImage::from_fn(7 * 16, 16, |x, _| image::Rgb(COLOURS[x as usize / 16]))
    }

    fn check_file(bytes: &[u8], wanted: &[[u8; 3]; 7], most: u8) {
        let found = decoded(bytes);
        let found: Vec<u8> = (0..7).flat_map(|at| found.get_pixel(16 * at + 8, 8).0).collect();
        check_near(&found, wanted, most);
    }

    #[test]
    fn the_profile_is_found_in_every_format() {
        let (image, p3) = (stripes(), icc(&ColorProfile::new_display_p3()));
        let (width, height) = image.dimensions();
        let mut png = Vec::new();
        let mut encoder = PngEncoder::new(&mut png);
        encoder.set_icc_profile(p3.clone()).expect("PNG has profiles");
        encoder.write_image(&image, width, height, ExtendedColorType::Rgb8).expect("encodes");
        check_file(&png, &OF_P3, 1);
        let mut webp = Vec::new();
        let mut encoder = WebPEncoder::new_lossless(&mut webp);
        encoder.set_icc_profile(p3.clone()).expect("WebP has profiles");
        encoder.write_image(&image, width, height, ExtendedColorType::Rgb8).expect("encodes");
        check_file(&webp, &OF_P3, 1);
        let jpeg = |image: &RgbImage, exif: Option<&[u8]>, icc: Option<&[u8]>| {
            let encoder =
                Encoder::new(image, width as usize, height as usize, PixelFormat::Rgb).quality(100);
            let encoder = match (exif, icc) {
                (_, Some(icc)) => encoder.icc_profile(icc),
                (Some(exif), None) => encoder.exif_data(exif),
                (None, None) => encoder,
            };
            encoder.encode().expect("encodes")
        };
        check_file(&jpeg(&image, None, Some(&p3)), &OF_P3, 4);
        check_file(&jpeg(&image, Some(&adobe_rgb_exif(*b"R03\0")), None), &OF_ADOBE_RGB, 4);
        check_file(&jpeg(&image, Some(&adobe_rgb_exif(*b"R98\0")), None), &COLOURS, 4);
    }

    /// EXIF data of a camera that is set to Adobe RGB: "uncalibrated", and `index` in the
    /// interoperability directory.
    fn adobe_rgb_exif(index: [u8; 4]) -> Vec<u8> {
        let entry = |tag: u16, kind: u16, value: [u8; 4]| {
            [&tag.to_be_bytes()[..], &kind.to_be_bytes(), &[0, 0, 0, 1], &value].concat()
        };
        let directory = |entries: &[Vec<u8>]| {
            [&(entries.len() as u16).to_be_bytes()[..], &entries.concat(), &[0; 4]].concat()
        };
        let first = directory(&[entry(0x8769, 4, 26_u32.to_be_bytes())]);
        let exif = directory(&[
            entry(0xa001, 3, [0xff, 0xff, 0, 0]),
            entry(0xa005, 4, 56_u32.to_be_bytes()),
        ]);
        [b"MM\0\x2a\0\0\0\x08".as_slice(), &first, &exif, &directory(&[entry(1, 2, index)])]
            .concat()
    }

    #[test]
    fn an_unsuitable_profile_is_ignored() {
        let inks = Space::Icc(of_inks(0x0240_0000));
        let gray = Space::Icc(icc(&ColorProfile::new_gray_with_gamma(1.8)));
        for space in [inks, gray, Space::Icc(icc(&ColorProfile::new_display_p3())[..200].to_vec())]
        {
            assert_eq!(
                Converter::new(Samples::Rgb, &space).convert(&COLOURS.concat()),
                COLOURS.concat()
            );
        }
    }
}
