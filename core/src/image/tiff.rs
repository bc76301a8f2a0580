//! Decodes TIFF as scanners, cameras and laboratories write it: strips or tiles, integers or
//! floats, palettes, CMYK and CIELab. Decodes only the first page.

use std::io::{Cursor, Read, Seek, SeekFrom};
use std::ops::Range;

use image::metadata::Orientation;
use tiff::decoder::{ChunkType, Decoder, DecodingResult, Limits};
use tiff::tags::Tag;
use tiff::{ColorType, TiffError};

use super::canvas::Canvas;
use super::colour::{
    Converter, FloatConverter, Samples, Space, rgb_from_lab, rgb_from_ycbcr, unmultiplied,
};
use super::decode::{DecodeFailure, DecodeLimits, DecodedRaw, cut_short};
use super::exif::{Directories, PHOTOMETRIC};

const WHITE_IS_ZERO: u16 = 0;
const BLACK_IS_ZERO: u16 = 1;
const RGB: u16 = 2;
const PALETTE: u64 = 3;
const CIE_LAB: u64 = 8;
const ICC_LAB: u64 = 9;

/// `ExtraSamples` of premultiplied alpha.
const ASSOCIATED_ALPHA: u16 = 1;
/// `ExtraSamples` of alpha that is not premultiplied.
const UNASSOCIATED_ALPHA: u16 = 2;
/// `PlanarConfiguration` of samples in separate planes.
const PLANAR: u16 = 2;

/// Floats up to this are fractions of 1, with highlights. Larger ones count to 255 or are
/// measurements.
const MOST_OF_ONE: f32 = 16.0;

impl From<TiffError> for DecodeFailure {
    fn from(error: TiffError) -> Self {
        match error {
            TiffError::UnsupportedError(_) | TiffError::LimitsExceeded => {
                Self::Unsupported(error.to_string())
            }
            _ => Self::Corrupt(error.to_string()),
        }
    }
}

/// Decodes the first page. The rows from a truncated or damaged chunk on become grey.
pub(super) fn decode(
    bytes: &[u8],
    limits: DecodeLimits,
    least_side: u32,
) -> Result<DecodedRaw, DecodeFailure> {
    let mut page = Page::open(bytes, limits)?;
    let size @ (width, height) = page.size;
    limits.check(width, height)?;
    let by = limits.reduction(width, height, least_side);
    let _memory = limits.acquire_memory(size, page.needed_bytes(by))?;
    let range = if page.is_measured { Some(page.range()?) } else { None };
    let mut canvas = Canvas::new(width, height, by)?;
    let mut row = Row::new(&mut page);
    let ended = page.for_each_row(|values| match values {
        Values::Bytes(values) => row.push(values, &mut canvas),
        Values::Floats(values) => row.push_floats(values, range.unwrap_or((0.0, 1.0)), &mut canvas),
    });
    let mut problem = None;
    if let Err(stopped) = ended {
        let Some(cut) = cut_short("TIFF", canvas.rows(), height) else { return Err(stopped) };
        problem = Some(cut);
        canvas.fill_up();
    }
    Ok(DecodedRaw { pixels: canvas.finish()?, size, orientation: page.orientation(), problem })
}

/// Meaning of a pixel's samples.
#[derive(Debug)]
enum Kind {
    Gray,
    Palette(Vec<[u8; 3]>),
    Rgb,
    Cmyk,
    YCbCr,
    /// Whether a and b are signed. Otherwise 128 means zero.
    Lab {
        is_signed: bool,
    },
}

/// Samples of a row, of a chunk or of a row of chunks.
enum Values<T, U> {
    Bytes(T),
    Floats(U),
}

/// The first page of a file.
struct Page<'a> {
    decoder: Decoder<Patched<'a>>,
    size: (u32, u32),
    /// `None` after [`Row`] has taken it.
    kind: Option<Kind>,
    is_palette: bool,
    /// Bits per sample.
    bits: u8,
    /// Number of samples per pixel that are read.
    n_samples: usize,
    /// Number of samples per pixel in the file.
    n_stored: usize,
    /// Whether each sample has its own plane.
    is_planar: bool,
    /// `ExtraSamples` of the sample after the colours, if that is alpha.
    alpha: Option<u16>,
    /// Whether the values are floats or signed. Their range is found by reading all of them.
    is_measured: bool,
    /// Byte ranges of the strips if their bytes are the samples: 8 bits, interleaved, and neither
    /// compressed nor inverted.
    plain: Option<Vec<Range<usize>>>,
}

impl<'a> Page<'a> {
    fn open(bytes: &'a [u8], limits: DecodeLimits) -> Result<Self, DecodeFailure> {
        let max_bytes = usize::try_from(limits.max_bytes).unwrap_or(usize::MAX);
        let mut tiff_limits = Limits::default();
        tiff_limits.decoding_buffer_size = max_bytes;
        tiff_limits.intermediate_buffer_size = max_bytes;
        let (reader, photometric) = Patched::new(bytes);
        let mut decoder = Decoder::new(reader)?.with_limits(tiff_limits);
        let size = decoder.dimensions()?;
        let color_type = decoder.colortype()?;
        let bits = color_type.bit_depth();
        let (kind, n_samples) = match (photometric, color_type) {
            (Some(PALETTE), _) => (Kind::Palette(palette(&mut decoder, bits)?), 1),
            (Some(lab @ (CIE_LAB | ICC_LAB)), _) => {
                (Kind::Lab { is_signed: lab == CIE_LAB }, color_type.num_samples())
            }
            (_, ColorType::Gray(_)) => (Kind::Gray, 1),
            (_, ColorType::Multiband { num_samples, .. }) => (Kind::Gray, num_samples),
            (_, ColorType::RGB(_) | ColorType::RGBA(_)) => (Kind::Rgb, color_type.num_samples()),
            (_, ColorType::CMYK(_) | ColorType::CMYKA(_)) => (Kind::Cmyk, color_type.num_samples()),
            (_, ColorType::YCbCr(_)) => (Kind::YCbCr, 3),
            (_, other) => {
                return Err(DecodeFailure::Unsupported(format!(
                    "TIFF pixels of the kind {other:?}"
                )));
            }
        };
        let extra = decoder.find_tag_unsigned_vec::<u16>(Tag::ExtraSamples)?.unwrap_or_default();
        let alpha = match (&kind, n_samples, extra.first()) {
            (Kind::Rgb, 4.., None) => Some(UNASSOCIATED_ALPHA),
            (Kind::Rgb, 4.., Some(&alpha)) | (Kind::Gray, 2.., Some(&alpha)) => Some(alpha),
            _ => None,
        };
        let alpha = alpha.filter(|alpha| [ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA].contains(alpha));
        let formats = decoder.find_tag_unsigned_vec::<u16>(Tag::SampleFormat)?.unwrap_or_default();
        let is_measured = formats.iter().any(|format| *format != 1 && *format != 4);
        if is_measured && !matches!(kind, Kind::Gray | Kind::Rgb) {
            return Err(DecodeFailure::Unsupported(format!(
                "floats or signed numbers in TIFF of the kind {color_type:?}"
            )));
        }
        let is_planar = decoder.find_tag_unsigned::<u16>(Tag::PlanarConfiguration)? == Some(PLANAR);
        let is_palette = matches!(kind, Kind::Palette(_));
        let n_stored = decoder.find_tag_unsigned::<u16>(Tag::SamplesPerPixel)?.unwrap_or(1).into();
        let is_set =
            |tag, to: u16, decoder: &mut Decoder<Patched>| -> Result<bool, DecodeFailure> {
                Ok(decoder.find_tag_unsigned::<u16>(tag)?.is_none_or(|value| value == to))
            };
        let is_inverted = decoder.find_tag_unsigned::<u16>(Tag::PhotometricInterpretation)?
            == Some(WHITE_IS_ZERO);
        let is_plain = is_set(Tag::Compression, 1, &mut decoder)?
            && is_set(Tag::Predictor, 1, &mut decoder)?
            && decoder.get_chunk_type() == ChunkType::Strip
            && bits == 8
            && n_stored == usize::from(n_samples)
            && !(is_inverted || is_planar || is_measured || matches!(kind, Kind::YCbCr));
        let plain = if is_plain { strips(&mut decoder) } else { None };
        let (kind, n_samples) = (Some(kind), usize::from(n_samples));
        Ok(Self {
            decoder,
            size,
            kind,
            is_palette,
            bits,
            n_samples,
            n_stored,
            is_planar,
            alpha,
            is_measured,
            plain,
        })
    }

    fn orientation(&mut self) -> Orientation {
        let number = self.decoder.find_tag_unsigned::<u8>(Tag::Orientation).ok().flatten();
        number.and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms)
    }

    fn space(&mut self) -> Space {
        Space::of_icc(self.decoder.get_tag_u8_vec(Tag::IccProfile).ok())
    }

    /// Columns and rows of a strip or tile, at most those of the image.
    fn chunk(&self) -> (u32, u32) {
        let (width, height) = self.decoder.chunk_dimensions();
        (width.clamp(1, self.size.0), height.clamp(1, self.size.1))
    }

    /// Returns the memory that decoding needs: the chunk that is read, its row of tiles or planes,
    /// and the result twice, because rotating makes a copy.
    fn needed_bytes(&self, by: u32) -> u64 {
        let (width, height) = (u64::from(self.size.0), u64::from(self.size.1));
        let bytes = u64::from(self.bits.div_ceil(8)) * self.n_samples as u64;
        let of_a_row = width
            * if self.is_measured { 4 * self.n_samples as u64 } else { self.n_samples as u64 };
        let (chunk_width, chunk_height) = self.chunk();
        let of_a_chunk = u64::from(chunk_width) * u64::from(chunk_height) * bytes;
        let of_a_chunk = if self.plain.is_some() { 0 } else { of_a_chunk };
        let of_a_row = if chunk_width == self.size.0 && !self.is_planar { 0 } else { of_a_row };
        of_a_row * u64::from(chunk_height) + of_a_chunk + 6 * width * height / u64::from(by * by)
    }

    /// Reads the samples of a strip or tile.
    fn read_chunk(
        &mut self,
        idx: u32,
        columns: usize,
    ) -> Result<Values<Vec<u8>, Vec<f32>>, DecodeFailure> {
        use DecodingResult::{F16, F32, F64, I8, I16, I32, I64, U8, U16, U32, U64};
        let samples = if self.is_planar { 1 } else { self.n_samples };
        let floats = |values: Vec<f32>| Ok(Values::Floats(values));
        let read = self.decoder.read_chunk(idx)?;
        if matches!(read, U8(_) | U16(_) | U32(_) | U64(_)) == self.is_measured {
            return Err(DecodeFailure::Unsupported("samples of several formats".into()));
        }
        match read {
            U8(values) if self.bits < 8 => {
                Ok(Values::Bytes(self.unpacked(&values, columns * samples)))
            }
            U8(values) => Ok(Values::Bytes(values)),
            _ if self.is_palette => {
                Err(DecodeFailure::Unsupported(format!("a palette of {} bits", self.bits)))
            }
            U16(values) => {
                Ok(Values::Bytes(values.into_iter().map(|value| (value >> 8) as u8).collect()))
            }
            U32(values) => {
                Ok(Values::Bytes(values.into_iter().map(|value| (value >> 24) as u8).collect()))
            }
            U64(values) => {
                Ok(Values::Bytes(values.into_iter().map(|value| (value >> 56) as u8).collect()))
            }
            F16(values) => floats(values.into_iter().map(f32::from).collect()),
            F32(values) => floats(values),
            F64(values) => floats(values.into_iter().map(|value| value as f32).collect()),
            I8(values) => floats(values.into_iter().map(f32::from).collect()),
            I16(values) => floats(values.into_iter().map(f32::from).collect()),
            I32(values) => floats(values.into_iter().map(|value| value as f32).collect()),
            I64(values) => floats(values.into_iter().map(|value| value as f32).collect()),
        }
    }

    /// Unpacks samples of 1, 2 or 4 bits. Rows end at whole bytes. Grey samples are scaled to
    /// 0..=255.
    fn unpacked(&self, packed: &[u8], row_len: usize) -> Vec<u8> {
        let bits = usize::from(self.bits);
        let most = (1_u16 << bits) - 1;
        let spread = if self.is_palette { 1 } else { 255 / most };
        let sample = |row: &[u8], at: usize| {
            let shift = 8 - bits - at * bits % 8;
            ((u16::from(row[at * bits / 8]) >> shift & most) * spread) as u8
        };
        let rows = packed.chunks_exact((row_len * bits).div_ceil(8).max(1));
        rows.flat_map(|row| (0..row_len).map(move |at| sample(row, at))).collect()
    }

    /// Passes the rows to `take` from top to bottom, with interleaved samples.
    ///
    /// # Errors
    /// If a strip or tile cannot be read. The rows above it were passed before.
    fn for_each_row(
        &mut self,
        mut take: impl FnMut(Values<&[u8], &[f32]>),
    ) -> Result<(), DecodeFailure> {
        let (width, height) = self.size;
        let chunk_height = self.chunk().1;
        let row_len = width as usize * self.n_samples;
        for chunk_y in 0..height.div_ceil(chunk_height) {
            let n_rows = chunk_height.min(height - chunk_y * chunk_height) as usize;
            let mut pass_rows = |rows: Values<Vec<u8>, Vec<f32>>, n_rows: usize| match rows {
                Values::Bytes(rows) => {
                    rows.chunks_exact(row_len).take(n_rows).for_each(|row| take(Values::Bytes(row)))
                }
                Values::Floats(rows) => rows
                    .chunks_exact(row_len)
                    .take(n_rows)
                    .for_each(|row| take(Values::Floats(row))),
            };
            if let Some(strips) = &self.plain {
                // Do not copy strips: one may hold a whole large scan.
                let file: &[u8] = self.decoder.inner().bytes.get_ref();
                let strip = strips.get(chunk_y as usize).cloned().unwrap_or_default();
                let strip = file.get(strip.start..strip.end.min(file.len())).unwrap_or_default();
                let rows = strip.chunks_exact(row_len).take(n_rows);
                let n_arrived = rows.len();
                rows.for_each(|row| take(Values::Bytes(row)));
                if n_arrived < n_rows {
                    return Err(DecodeFailure::Corrupt("the file ends within its pixels".into()));
                }
                continue;
            }
            match self.read_row_of_chunks(chunk_y, n_rows * row_len) {
                Ok(rows) => pass_rows(rows, n_rows),
                Err(DecodeFailure::Corrupt(why)) => {
                    if let Some(n_arrived) = self.rows_of_cut_strip(chunk_y) {
                        self.decoder.inner().is_endless = true;
                        let again = self.read_row_of_chunks(chunk_y, n_rows * row_len);
                        self.decoder.inner().is_endless = false;
                        again.into_iter().for_each(|rows| pass_rows(rows, n_arrived.min(n_rows)));
                    }
                    return Err(DecodeFailure::Corrupt(why));
                }
                Err(stopped) => return Err(stopped),
            }
        }
        Ok(())
    }

    /// Reads the `len` samples of row `chunk_y` of the grid of chunks: one strip, or tiles side by
    /// side.
    fn read_row_of_chunks(
        &mut self,
        chunk_y: u32,
        len: usize,
    ) -> Result<Values<Vec<u8>, Vec<f32>>, DecodeFailure> {
        let (width, height) = self.size;
        let (chunk_width, chunk_height) = self.chunk();
        let (across, down) = (width.div_ceil(chunk_width), height.div_ceil(chunk_height));
        if across == 1 && !self.is_planar {
            return self.read_chunk(chunk_y, width as usize);
        }
        let n_floats = if self.is_measured { len } else { 0 };
        let (mut bytes, mut floats) = (vec![0; len - n_floats], vec![0.0; n_floats]);
        for chunk_x in 0..across {
            let left = chunk_x * chunk_width;
            let columns = chunk_width.min(width - left) as usize;
            for plane in 0..if self.is_planar { self.n_samples } else { 1 } {
                let idx = (plane as u32 * down + chunk_y) * across + chunk_x;
                let place = Place {
                    left: left as usize,
                    columns,
                    row_len: width as usize * self.n_samples,
                    n_samples: self.n_samples,
                    plane: self.is_planar.then_some(plane),
                };
                match self.read_chunk(idx, columns)? {
                    Values::Bytes(values) => place.fill(&mut bytes, &values),
                    Values::Floats(values) => place.fill(&mut floats, &values),
                }
            }
        }
        Ok(if self.is_measured { Values::Floats(floats) } else { Values::Bytes(bytes) })
    }

    /// Returns the number of complete rows of a strip that the end of the file truncates; `None` if
    /// the chunk is compressed, a tile or a plane.
    fn rows_of_cut_strip(&mut self, strip: u32) -> Option<usize> {
        let is_plain =
            self.decoder.find_tag_unsigned::<u16>(Tag::Compression).ok()?.unwrap_or(1) == 1;
        if !is_plain || self.is_planar || self.decoder.get_chunk_type() != ChunkType::Strip {
            return None;
        }
        let offsets = self.decoder.find_tag_unsigned_vec::<u64>(Tag::StripOffsets).ok()??;
        let n_bytes = self.decoder.inner().bytes.get_ref().len() as u64;
        let row_bits = u64::from(self.size.0) * self.n_stored as u64 * u64::from(self.bits);
        let arrived = n_bytes.checked_sub(*offsets.get(strip as usize)?)?;
        usize::try_from(arrived / row_bits.div_ceil(8)).ok()
    }

    /// Returns the values of black and white for floats and signed numbers.
    ///
    /// Floats range over 0 and 1, or 0 and 255 if they go far beyond 1. Measurements range from
    /// their minimum to their maximum.
    fn range(&mut self) -> Result<(f32, f32), DecodeFailure> {
        let (mut least, mut most) = (f32::INFINITY, f32::NEG_INFINITY);
        let ended = self.for_each_row(|values| {
            if let Values::Floats(values) = values {
                for value in values.iter().filter(|value| value.is_finite()) {
                    (least, most) = (least.min(*value), most.max(*value));
                }
            }
        });
        match ended {
            // A truncated file has the range of the rows that arrived.
            Ok(()) | Err(DecodeFailure::Corrupt(_)) => {}
            Err(stopped) => return Err(stopped),
        }
        // Wide gamuts and sharpening give values a little below zero.
        let has_none_below = least >= -0.1 * most;
        Ok(match () {
            () if has_none_below && most <= MOST_OF_ONE => (0.0, 1.0),
            () if has_none_below && most <= 255.0 => (0.0, 255.0),
            () if least < most => (least, most),
            () => (0.0, 1.0),
        })
    }
}

/// Position of a chunk's samples in its row of chunks.
struct Place {
    /// Columns before the chunk.
    left: usize,
    columns: usize,
    row_len: usize,
    n_samples: usize,
    /// Index of the sample of each pixel, or `None` without planes.
    plane: Option<usize>,
}

impl Place {
    fn fill<T: Copy>(&self, rows: &mut [T], values: &[T]) {
        let len = self.columns * if self.plane.is_some() { 1 } else { self.n_samples };
        for (row, values) in rows.chunks_exact_mut(self.row_len).zip(values.chunks_exact(len)) {
            let row = &mut row[self.left * self.n_samples..][..self.columns * self.n_samples];
            match self.plane {
                None => row.copy_from_slice(values),
                Some(plane) => {
                    let places = row.iter_mut().skip(plane).step_by(self.n_samples);
                    places.zip(values).for_each(|(place, value)| *place = *value);
                }
            }
        }
    }
}

/// Converts rows of a page and adds them to a canvas.
struct Row {
    kind: Kind,
    n_samples: usize,
    alpha: Option<u16>,
    converter: Converter,
    floats: Option<FloatConverter>,
    /// The samples that are used.
    picked: Vec<u8>,
}

impl Row {
    /// Prepares the conversion of a page's rows.
    fn new(page: &mut Page) -> Self {
        let space = page.space();
        let kind = page.kind.take().expect("taken only here");
        let samples = match (&kind, page.alpha) {
            (Kind::Gray, None) => Samples::Gray,
            (Kind::Gray, Some(_)) => Samples::GrayAlpha,
            (Kind::Cmyk, _) => Samples::Cmyk,
            (Kind::Rgb, Some(_)) => Samples::Rgba,
            _ => Samples::Rgb,
        };
        // Ignore the profile: it does not apply to values that are CIELab already.
        let space = if matches!(kind, Kind::Lab { .. }) { Space::Srgb } else { space };
        let floats = if page.is_measured { FloatConverter::new(&space) } else { None };
        let converter =
            Converter::new(samples, if floats.is_some() { &Space::Srgb } else { &space });
        Self {
            kind,
            n_samples: page.n_samples,
            alpha: page.alpha,
            converter,
            floats,
            picked: Vec::new(),
        }
    }

    fn push(&mut self, values: &[u8], canvas: &mut Canvas) {
        let pixels = values.chunks_exact(self.n_samples);
        self.picked.clear();
        match &self.kind {
            Kind::Palette(colours) => self.picked.extend(
                values
                    .iter()
                    .flat_map(|idx| colours.get(usize::from(*idx)).copied().unwrap_or_default()),
            ),
            Kind::YCbCr => {
                self.picked.extend(pixels.flat_map(|p| rgb_from_ycbcr([p[0], p[1], p[2]])))
            }
            Kind::Lab { is_signed } => {
                let zero = if *is_signed { 0 } else { 128 };
                let signed = |value: u8| value.wrapping_sub(zero) as i8;
                self.picked
                    .extend(pixels.flat_map(|p| rgb_from_lab(p[0], signed(p[1]), signed(p[2]))));
            }
            Kind::Gray | Kind::Rgb | Kind::Cmyk => {
                let n = self.converter.samples().len();
                self.picked.extend(pixels.flat_map(|pixel| &pixel[..n]));
            }
        }
        self.convert(canvas);
    }

    fn push_floats(&mut self, values: &[f32], (black, white): (f32, f32), canvas: &mut Canvas) {
        let n = self.converter.samples().len();
        let of_one = |value: f32| ((value - black) / (white - black)).clamp(0.0, 1.0);
        let mut picked: Vec<f32> = values
            .chunks_exact(self.n_samples)
            .flat_map(|pixel| &pixel[..n])
            .map(|value| of_one(*value))
            .collect();
        if let Some(floats) = &mut self.floats
            && self.converter.samples() == Samples::Rgb
        {
            floats.convert(&mut picked);
        }
        self.picked.clear();
        // `as` converts NaN to zero.
        self.picked.extend(picked.iter().map(|value| (255.0 * value).round() as u8));
        self.convert(canvas);
    }

    fn convert(&mut self, canvas: &mut Canvas) {
        let row = self.converter.convert(&self.picked);
        match self.alpha {
            None => canvas.push_rgb(row),
            Some(ASSOCIATED_ALPHA) => canvas.push_rgba(&unmultiplied(row)),
            Some(_) => canvas.push_rgba(row),
        }
    }
}

/// Returns the byte ranges of the strips as the directory states them.
fn strips(decoder: &mut Decoder<Patched>) -> Option<Vec<Range<usize>>> {
    let offsets = decoder.find_tag_unsigned_vec::<u64>(Tag::StripOffsets).ok()??;
    let lens = decoder.find_tag_unsigned_vec::<u64>(Tag::StripByteCounts).ok()??;
    let strip = |(start, len): (&u64, &u64)| {
        Some(usize::try_from(*start).ok()?..usize::try_from(start.checked_add(*len)?).ok()?)
    };
    offsets.iter().zip(&lens).map(strip).collect()
}

/// Reads a palette of 16-bit values: all reds, all greens, all blues.
fn palette(decoder: &mut Decoder<Patched>, bits: u8) -> Result<Vec<[u8; 3]>, DecodeFailure> {
    let map = decoder.get_tag_u16_vec(Tag::ColorMap)?;
    let n = 1_usize << bits.min(16);
    if map.len() < 3 * n {
        return Err(DecodeFailure::Corrupt(format!(
            "a palette of {} values for {n} colours",
            map.len()
        )));
    }
    // Some old programs wrote 8-bit values.
    let shift = if map.iter().all(|value| *value < 256) { 0 } else { 8 };
    Ok((0..n).map(|idx| [0, n, 2 * n].map(|from| (map[from + idx] >> shift) as u8)).collect())
}

/// A TIFF file with a replaced `PhotometricInterpretation`.
///
/// The replacement is one that the decoder supports. So the decoder returns the samples of palettes
/// and of CIELab unchanged.
struct Patched<'a> {
    bytes: Cursor<&'a [u8]>,
    patch: Option<(u64, [u8; 2])>,
    /// Whether reads after the last byte return zeros.
    is_endless: bool,
}

impl<'a> Patched<'a> {
    /// Returns the patched file, and its original `PhotometricInterpretation` if it was replaced.
    fn new(bytes: &'a [u8]) -> (Self, Option<u64>) {
        let found = Directories::open(bytes).and_then(|file| {
            let entry = file.entry(PHOTOMETRIC)?;
            Some((file, entry, file.value(entry)?))
        });
        let patch = found.and_then(|(file, entry, photometric)| {
            let stands_in = match photometric {
                PALETTE => BLACK_IS_ZERO,
                CIE_LAB | ICC_LAB => RGB,
                _ => return None,
            };
            let is_short = entry.kind == 3;
            let bytes = if file.is_little_endian() {
                stands_in.to_le_bytes()
            } else {
                stands_in.to_be_bytes()
            };
            is_short.then_some((entry.at as u64, bytes))
        });
        (
            Self { bytes: Cursor::new(bytes), patch, is_endless: false },
            patch.and(found).map(|(.., photometric)| photometric),
        )
    }
}

impl Read for Patched<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let from = self.bytes.position();
        let n = self.bytes.read(buf)?;
        if n == 0 && self.is_endless {
            buf.fill(0);
            self.bytes.set_position(from + buf.len() as u64);
            return Ok(buf.len());
        }
        if let Some((at, patch)) = self.patch {
            for (place, value) in
                (at..).zip(patch).filter(|(place, _)| (from..from + n as u64).contains(place))
            {
                buf[(place - from) as usize] = value;
            }
        }
        Ok(n)
    }
}

impl Seek for Patched<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.bytes.seek(to)
    }
}

#[cfg(test)]
mod tests {
    use image::RgbImage;

    use super::*;
    use crate::image::colour::tests::{INKS, OF_INKS, of_inks};
    use crate::image::decode::tests::{check_close, decoded, refused, scaled};
    use crate::image::resize::tests::picture;
    use crate::image::{Decoded, ImageError, decode_scaled};

    /// Builds a file from the entries of its first directory and the bytes of its strips or tiles.
    #[derive(Clone)]
    struct File {
        big: bool,
        little_endian: bool,
        /// Tag, type and values.
        entries: Vec<(u16, u16, Vec<u64>)>,
        chunks: Vec<Vec<u8>>,
        /// Whether to add a second page of one black pixel.
        second: bool,
    }

    const SHORT: u16 = 3;
    const LONG: u16 = 4;

    impl File {
        /// A file with one strip of `[rows, columns, samples]`.
        fn new(size: (u32, u32), photometric: u64, bits: &[u64], pixels: Vec<u8>) -> Self {
            let entries = vec![
                (256, LONG, vec![size.0.into()]),
                (257, LONG, vec![size.1.into()]),
                (258, SHORT, bits.to_vec()),
                (259, SHORT, vec![1]),
                (262, SHORT, vec![photometric]),
                (277, SHORT, vec![bits.len() as u64]),
                (278, LONG, vec![size.1.into()]),
            ];
            Self { big: false, little_endian: true, entries, chunks: vec![pixels], second: false }
        }

        fn with(mut self, tag: u16, kind: u16, values: &[u64]) -> Self {
            self.entries.retain(|entry| entry.0 != tag);
            self.entries.push((tag, kind, values.to_vec()));
            self
        }

        fn number(&self, value: u64, len: usize) -> Vec<u8> {
            match self.little_endian {
                true => value.to_le_bytes()[..len].to_vec(),
                false => value.to_be_bytes()[8 - len..].to_vec(),
            }
        }

        fn bytes(&self) -> Vec<u8> {
            let offset_len = if self.big { 8 } else { 4 };
            let mut bytes = if self.little_endian { b"II".to_vec() } else { b"MM".to_vec() };
            bytes.extend(self.number(if self.big { 43 } else { 42 }, 2));
            if self.big {
                bytes.extend([self.number(8, 2), self.number(0, 2)].concat());
            }
            let first = bytes.len();
            bytes.extend(vec![0; offset_len]);
            let mut offsets = Vec::new();
            for chunk in &self.chunks {
                offsets.push(bytes.len() as u64);
                bytes.extend(chunk);
            }
            let counts = self.chunks.iter().map(|chunk| chunk.len() as u64).collect();
            let is_tiled = self.entries.iter().any(|entry| entry.0 == 322);
            let kind = if self.big { 16 } else { LONG };
            let mut entries = self.entries.clone();
            entries.push((if is_tiled { 324 } else { 273 }, kind, offsets));
            entries.push((if is_tiled { 325 } else { 279 }, kind, counts));
            let directory = self.directory(&mut bytes, entries);
            bytes.splice(first..first + offset_len, self.number(directory as u64, offset_len));
            if self.second {
                let next = bytes.len() - offset_len;
                let page = File { second: false, ..File::new((1, 1), 1, &[8], vec![0]) };
                let at = bytes.len() as u64;
                bytes.push(0);
                let entries =
                    [page.entries, vec![(273, kind, vec![at]), (279, kind, vec![1])]].concat();
                let directory = self.directory(&mut bytes, entries);
                bytes.splice(next..next + offset_len, self.number(directory as u64, offset_len));
            }
            bytes
        }

        /// Builds a little-endian classic TIFF with the directory before the strips or tiles.
        fn directory_first(&self) -> Vec<u8> {
            let draw = |first: usize| {
                let mut bytes = b"II\x2a\0\0\0\0\0".to_vec();
                let mut at = first as u64;
                let offset = |chunk: &Vec<u8>| {
                    at += chunk.len() as u64;
                    at - chunk.len() as u64
                };
                let offsets = self.chunks.iter().map(offset).collect();
                let counts = self.chunks.iter().map(|chunk| chunk.len() as u64).collect();
                let is_tiled = self.entries.iter().any(|entry| entry.0 == 322);
                let mut entries = self.entries.clone();
                entries.push((if is_tiled { 324 } else { 273 }, LONG, offsets));
                entries.push((if is_tiled { 325 } else { 279 }, LONG, counts));
                let directory = self.directory(&mut bytes, entries);
                bytes.splice(4..8, (directory as u32).to_le_bytes());
                bytes
            };
            let first = draw(0).len();
            [draw(first), self.chunks.concat()].concat()
        }

        /// Appends a directory and returns its offset. The directory ends with the offset of the
        /// next.
        fn directory(&self, bytes: &mut Vec<u8>, mut entries: Vec<(u16, u16, Vec<u64>)>) -> usize {
            let (offset_len, count_len) = if self.big { (8, 8) } else { (4, 2) };
            entries.sort();
            let mut table = self.number(entries.len() as u64, count_len);
            for (tag, kind, values) in entries {
                let len = match kind {
                    1 | 7 => 1,
                    SHORT => 2,
                    16 => 8,
                    _ => 4,
                };
                let mut value: Vec<u8> =
                    values.iter().flat_map(|value| self.number(*value, len)).collect();
                if value.len() > offset_len {
                    let at = bytes.len() as u64;
                    bytes.extend(&value);
                    value = self.number(at, offset_len);
                }
                value.resize(offset_len, 0);
                table.extend([self.number(tag.into(), 2), self.number(kind.into(), 2)].concat());
                table.extend(self.number(values.len() as u64, offset_len));
                table.extend(value);
            }
            let start = bytes.len();
            bytes.extend(table);
            bytes.extend(vec![0; offset_len]);
            start
        }
    }

    fn rgb(image: &RgbImage) -> File {
        File::new(image.dimensions(), 2, &[8; 3], image.as_raw().clone())
    }

    fn floats(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
        values.into_iter().flat_map(f32::to_le_bytes).collect()
    }

    fn gray(image: &RgbImage) -> RgbImage {
        RgbImage::from_fn(image.width(), image.height(), |x, y| {
            image::Rgb([image.get_pixel(x, y).0[0]; 3])
        })
    }

    /// Removes the last bytes. Asserts that the first `n_rows` rows equal those of the image and
    /// that the others are grey.
    fn check_cut(file: &File, image: &RgbImage, n_bytes_less: usize, n_rows: u32) {
        let whole = file.directory_first();
        assert_eq!(&decoded(&whole), image);
        let cut = &whole[..whole.len() - n_bytes_less];
        let Decoded { pixels, problem, .. } = scaled(cut, DecodeLimits::default(), u32::MAX);
        let percent = 100 * n_rows / image.height();
        let problem = problem.expect("a part is missing");
        assert!(
            problem.contains("TIFF is cut short")
                && problem.contains(&format!(" {percent} % of it")),
            "{problem}"
        );
        for (y, (row, wanted)) in pixels.rows().zip(image.rows()).enumerate() {
            let wanted: Vec<[u8; 3]> = match (y as u32) < n_rows {
                true => wanted.map(|pixel| pixel.0).collect(),
                false => vec![[128; 3]; image.width() as usize],
            };
            assert_eq!(row.map(|pixel| pixel.0).collect::<Vec<_>>(), wanted, "row {y}");
        }
        assert!(refused(cut).contains("get it again"));
    }

    #[test]
    fn the_rows_that_arrived_are_shown_and_the_file_is_named() {
        let image = picture(20, 30);
        // One strip of 30 rows, 60 bytes each.
        check_cut(&rgb(&image), &image, 9 * 60 + 7, 20);
        // Strips of ten rows, the second cut.
        let mut strips = rgb(&image).with(278, LONG, &[10]);
        strips.chunks = image.as_raw().chunks(600).map(<[u8]>::to_vec).collect();
        check_cut(&strips, &image, 600 + 9 * 60 + 7, 10);
        check_cut(&strips, &image, 600 + 7, 19);
        // A truncated compressed strip is skipped.
        let mut packed = strips.with(259, SHORT, &[8]);
        packed.chunks = packed.chunks.iter().map(|strip| deflated(strip)).collect();
        check_cut(&packed, &image, 50, 20);
        // Grey floats. The rows that arrived set their range.
        let shades = gray(&image);
        let values = shades.as_raw().chunks(3).map(|pixel| f32::from(pixel[0]) / 255.0);
        let file = File::new((20, 30), 1, &[32], floats(values)).with(339, SHORT, &[3]);
        check_cut(&file, &shades, 10 * 80, 20);
    }

    #[test]
    fn a_file_whose_directory_did_not_arrive_is_refused() {
        let whole = rgb(&picture(20, 30)).bytes();
        let error = refused(&whole[..whole.len() - 20]);
        assert!(error.contains("TIFF") && error.contains("cut short"), "{error}");
        // A file with almost no pixels is refused too.
        let whole = rgb(&picture(20, 30)).directory_first();
        let error = decode_scaled(&whole[..whole.len() - 1790], DecodeLimits::default(), u32::MAX)
            .expect_err("ten bytes of pixels");
        assert!(matches!(error, ImageError::Corrupt { format: "TIFF", .. }), "{error}");
    }

    /// A zlib stream of one stored block.
    fn deflated(bytes: &[u8]) -> Vec<u8> {
        let adler = bytes.iter().fold((1_u32, 0_u32), |(a, b), byte| {
            let a = (a + u32::from(*byte)) % 65521;
            (a, (b + a) % 65521)
        });
        let len = bytes.len() as u16;
        [
            &[0x78, 0x01, 0x01][..],
            &len.to_le_bytes(),
            &(!len).to_le_bytes(),
            bytes,
            &(adler.1 << 16 | adler.0).to_be_bytes(),
        ]
        .concat()
    }

    #[test]
    fn samples_after_the_colours_are_skipped() {
        let pixels = vec![10, 20, 30, 1, 2, 40, 50, 60, 3, 4];
        let file = File::new((2, 1), 2, &[8; 5], pixels).with(338, SHORT, &[0, 0]);
        assert_eq!(decoded(&file.bytes()).as_raw(), &[10, 20, 30, 40, 50, 60]);
    }

    #[test]
    fn every_kind_of_file_and_byte_order_is_read() {
        let image = picture(5, 4);
        for (big, little_endian) in [(false, true), (false, false), (true, true), (true, false)] {
            let file = File { big, little_endian, ..rgb(&image) };
            assert_eq!(decoded(&file.bytes()), image, "big {big}, little-endian {little_endian}");
            let turned = file.with(274, SHORT, &[6]).bytes();
            assert_eq!(decoded(&turned), image::imageops::rotate90(&image));
        }
    }

    #[test]
    fn strips_and_tiles_are_put_together() {
        let image = picture(21, 19);
        let strips = image.as_raw().chunks(21 * 3 * 4).map(<[u8]>::to_vec).collect();
        let file = File { chunks: strips, ..rgb(&image) }.with(278, LONG, &[4]);
        assert_eq!(decoded(&file.bytes()), image);
        // Tiles extend beyond the edges.
        let tile = |left: u32, top: u32| -> Vec<u8> {
            let pixel =
                |x: u32, y: u32| if x < 21 && y < 19 { image.get_pixel(x, y).0 } else { [99; 3] };
            (0..256).flat_map(|at| pixel(left + at % 16, top + at / 16)).collect()
        };
        let tiles = vec![tile(0, 0), tile(16, 0), tile(0, 16), tile(16, 16)];
        let file = File { chunks: tiles.clone(), ..rgb(&image) }.with(322, LONG, &[16]).with(
            323,
            LONG,
            &[16],
        );
        assert_eq!(decoded(&file.bytes()), image);
        let of_tiles = scaled(
            &file.bytes(),
            DecodeLimits { max_pixels: 150, ..DecodeLimits::default() },
            u32::MAX,
        );
        let whole = scaled(
            &rgb(&image).bytes(),
            DecodeLimits { max_pixels: 150, ..DecodeLimits::default() },
            u32::MAX,
        );
        assert_eq!((of_tiles.pixels.dimensions(), of_tiles.pixels), ((11, 10), whole.pixels));
        // Each sample in its own plane.
        let plane = |pixels: &[u8], c: usize| {
            pixels.iter().skip(c).step_by(3).copied().collect::<Vec<u8>>()
        };
        let planes = (0..3).map(|c| plane(image.as_raw(), c)).collect();
        let file = File { chunks: planes, ..rgb(&image) }.with(284, SHORT, &[2]);
        assert_eq!(decoded(&file.bytes()), image);
        let planes = (0..3).flat_map(|c| tiles.iter().map(move |tile| plane(tile, c))).collect();
        let file = File { chunks: planes, ..rgb(&image) }.with(284, SHORT, &[2]);
        assert_eq!(decoded(&file.with(322, LONG, &[16]).with(323, LONG, &[16]).bytes()), image);
    }

    #[test]
    fn the_first_of_several_pages_is_shown() {
        let image = picture(5, 4);
        let file = File { second: true, ..rgb(&image) };
        let bytes = file.bytes();
        assert!(Decoder::new(Cursor::new(&bytes)).expect("a TIFF").more_images());
        assert_eq!(decoded(&bytes), image);
    }

    #[test]
    fn palettes_are_looked_up() {
        // Colour i is (250 - i, 3 i, i).
        let map = |n: u64, unit: u64| -> Vec<u64> {
            let of = |colour: fn(u64) -> u64| {
                (0..n).map(move |i| unit * (colour(i) & 255)).collect::<Vec<_>>()
            };
            [of(|i| 250 - i), of(|i| 3 * i), of(|i| i)].concat()
        };
        let colour = |i: u8| [250 - i, 3 * i, i];
        let wanted: Vec<u8> = [0, 1, 77, 15, 2, 3].into_iter().flat_map(colour).collect();
        let file = File::new((3, 2), 3, &[8], vec![0, 1, 77, 15, 2, 3]);
        assert_eq!(
            decoded(&file.clone().with(320, SHORT, &map(256, 257)).bytes()).as_raw(),
            &wanted
        );
        // 8-bit values, as some old programs wrote.
        assert_eq!(decoded(&file.clone().with(320, SHORT, &map(256, 1)).bytes()).as_raw(), &wanted);
        // Sixteen colours, two per byte. Rows end at whole bytes.
        let file = File::new((3, 2), 3, &[4], vec![0x01, 0x70, 0xf2, 0x30]).with(
            320,
            SHORT,
            &map(16, 257),
        );
        let wanted: Vec<u8> = [0, 1, 7, 15, 2, 3].into_iter().flat_map(colour).collect();
        assert_eq!(decoded(&file.bytes()).as_raw(), &wanted);
        let short = File::new((1, 1), 3, &[8], vec![0]).with(320, SHORT, &map(16, 257)).bytes();
        assert!(refused(&short).contains("48 values for 256 colours"), "{}", refused(&short));
    }

    #[test]
    fn few_bits_are_spread() {
        let file = File::new((3, 1), 1, &[1], vec![0b0100_0000]);
        assert_eq!(decoded(&file.bytes()).as_raw()[..], [0, 0, 0, 255, 255, 255, 0, 0, 0]);
        let white_is_zero = File::new((3, 1), 0, &[1], vec![0b0100_0000]);
        assert_eq!(
            decoded(&white_is_zero.bytes()).as_raw()[..],
            [255, 255, 255, 0, 0, 0, 255, 255, 255]
        );
        let file = File::new((2, 1), 1, &[4], vec![0x3c]);
        assert_eq!(decoded(&file.bytes()).as_raw()[..], [51, 51, 51, 204, 204, 204]);
    }

    #[test]
    fn cielab_becomes_srgb() {
        // As in colour.rs. a and b are signed, or 128 means zero.
        let wanted = [[0; 3], [255; 3], [0, 131, 34], [201, 198, 74]].concat();
        let of_cie = [[0, 0, 0], [255, 0, 0], [120, 206, 40], [200, 246, 60]];
        let of_icc = of_cie.map(|[l, a, b]| [l, a ^ 128, b ^ 128]);
        for (photometric, pixels) in [(8, of_cie), (9, of_icc)] {
            let file = File::new((4, 1), photometric, &[8; 3], pixels.concat());
            assert_eq!(decoded(&file.bytes()).as_raw(), &wanted, "{photometric}");
            let wide = pixels.concat().iter().flat_map(|value| [0, *value]).collect();
            let file = File::new((4, 1), photometric, &[16; 3], wide);
            assert_eq!(decoded(&file.bytes()).as_raw(), &wanted, "{photometric} of 16 bits");
        }
    }

    #[test]
    fn floats_are_parts_of_one_or_count_to_255_or_are_measured() {
        let image = picture(7, 5);
        let file = |values: Vec<f32>| {
            File::new((7, 5), 2, &[32; 3], floats(values)).with(339, SHORT, &[3; 3]).bytes()
        };
        let of = |unit: f32| {
            image.as_raw().iter().map(move |value| f32::from(*value) * unit).collect::<Vec<_>>()
        };
        assert_eq!(decoded(&file(of(1.0 / 255.0))), image);
        assert_eq!(decoded(&file(of(1.0))), image);
        // A highlight and a value a little below zero do not change the rest. NaN becomes black.
        let mut odd = of(1.0 / 255.0);
        (odd[0], odd[1], odd[2]) = (4.0, -0.05, f32::NAN);
        let found = decoded(&file(odd));
        assert_eq!(
            (&found.as_raw()[..3], &found.as_raw()[3..]),
            (&[255, 0, 0][..], &image.as_raw()[3..])
        );

        // Heights above the sea: the minimum is black and the maximum white.
        let heights = [-100.0, 0.0, 100.0, 300.0];
        let wanted = [0, 64, 128, 255].map(|gray| [gray; 3]).concat();
        let file = File::new((4, 1), 1, &[32], floats(heights)).with(339, SHORT, &[3]);
        assert_eq!(decoded(&file.bytes()).as_raw(), &wanted);
        let signed = heights.into_iter().flat_map(|height| (height as i16).to_le_bytes()).collect();
        let file = File::new((4, 1), 1, &[16], signed).with(339, SHORT, &[2]);
        assert_eq!(decoded(&file.bytes()).as_raw(), &wanted);
    }

    #[test]
    fn linear_floats_keep_their_shadows() {
        let mut linear = moxcms::ColorProfile::new_srgb();
        let line = moxcms::ToneReprCurve::Lut(Vec::new());
        linear.cicp = None;
        [linear.red_trc, linear.green_trc, linear.blue_trc] = [(); 3].map(|()| Some(line.clone()));
        let icc: Vec<u64> =
            linear.encode().expect("it can be written").into_iter().map(u64::from).collect();
        // In 8 bits, 0.0010 and 0.0025 would both be 0.
        let values = [0.0010, 0.0025, 0.2140, 1.0].map(|value| [value; 3]).concat();
        let file = File::new((4, 1), 2, &[32; 3], floats(values))
            .with(339, SHORT, &[3; 3])
            .with(34675, 7, &icc);
        let found = decoded(&file.bytes());
        let wanted = [3_u8, 8, 127, 255].map(|gray| [gray; 3]).concat();
        let apart = found.as_raw().iter().zip(&wanted).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(apart <= Some(1), "{found:?}");
    }

    #[test]
    fn inks_become_srgb_with_and_without_a_profile() {
        let file = File::new((9, 1), 5, &[8; 4], INKS.concat());
        let plain: Vec<u8> =
            INKS.into_iter().flat_map(crate::image::colour::rgb_from_cmyk).collect();
        assert_eq!(decoded(&file.bytes()).as_raw(), &plain);
        let icc: Vec<u64> = of_inks(0x0240_0000).into_iter().map(u64::from).collect();
        let found = decoded(&file.with(34675, 7, &icc).bytes());
        let wanted = RgbImage::from_raw(9, 1, OF_INKS.concat()).expect("nine pixels");
        check_close(&found, &wanted, 1.0);
    }

    #[test]
    fn alpha_is_distinguished_from_other_samples() {
        let pixels = |colour: [u8; 3], alpha: u8| [colour.as_slice(), &[alpha]].concat();
        let file = |pixel: Vec<u8>, extra: u64| {
            File::new((1, 1), 2, &[8; 4], pixel).with(338, SHORT, &[extra]).bytes()
        };
        // Half-transparent red: premultiplied, not premultiplied, and a fourth sample that is not
        // alpha.
        assert_eq!(decoded(&file(pixels([100, 0, 0], 128), 1)).as_raw(), &[227, 127, 127]);
        assert_eq!(decoded(&file(pixels([200, 0, 0], 128), 2)).as_raw(), &[227, 127, 127]);
        assert_eq!(decoded(&file(pixels([200, 0, 0], 128), 0)).as_raw(), &[200, 0, 0]);
        let gray = |extra: u64| {
            File::new((1, 1), 1, &[8; 2], vec![100, 0]).with(338, SHORT, &[extra]).bytes()
        };
        assert_eq!(decoded(&gray(2)).as_raw(), &[255; 3]);
        assert_eq!(decoded(&gray(0)).as_raw(), &[100; 3]);
    }

    #[test]
    fn luma_and_chroma_become_rgb() {
        // As `Image.frombytes("YCbCr", size, pixels).convert("RGB")`.
        let file = File::new((3, 1), 6, &[8; 3], vec![100, 128, 128, 76, 85, 255, 29, 255, 107]);
        assert_eq!(
            decoded(&file.with(530, SHORT, &[1, 1]).bytes()).as_raw(),
            &[100, 100, 100, 254, 0, 0, 0, 0, 254]
        );
    }

    #[test]
    fn wide_samples_give_their_high_bytes() {
        let image = gray(&picture(3, 2));
        let wide = |len: usize| -> Vec<u8> {
            let of = |value: &u8| [vec![7; len - 1], vec![*value]].concat();
            image.as_raw().iter().step_by(3).flat_map(of).collect()
        };
        for len in [2, 4, 8] {
            assert_eq!(
                decoded(&File::new((3, 2), 1, &[8 * len as u64], wide(len)).bytes()),
                image,
                "{len} bytes"
            );
        }
    }

    #[test]
    fn memory_is_that_of_a_strip_and_the_result() {
        // 4,000 x 4,000 pixels without data in one strip, or in identical rows.
        let limits =
            DecodeLimits { max_bytes: 4_000_000, max_pixels: 100_000, ..DecodeLimits::default() };
        let strip = File::new((4000, 4000), 1, &[16], vec![]);
        let error =
            crate::image::decode_whole(&strip.bytes(), limits).expect_err("16 MB").to_string();
        assert!(
            error.contains("4000x4000, which needs") && error.contains("strips or tiles"),
            "{error}"
        );
        let rows = File { chunks: vec![vec![200; 8000]; 4000], ..strip }.with(278, LONG, &[1]);
        // A strip of 8-bit samples is not copied, so its length does not matter.
        let plain = File::new((4000, 4000), 1, &[8], vec![200; 16_000_000]);
        for file in [rows, plain] {
            let decoded = scaled(&file.bytes(), limits, u32::MAX);
            assert_eq!((decoded.width, decoded.pixels.dimensions()), (4000, (250, 250)));
            assert!(decoded.pixels.as_raw().iter().all(|value| *value == 200));
        }
    }
}
