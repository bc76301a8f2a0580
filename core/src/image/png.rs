//! Decodes PNG row by row, so that a large picture need not be whole in memory and a truncated one
//! can be shown. Only interlaced files are read whole.

use std::io::Cursor;

use image::RgbImage;
use png::{BitDepth, ColorType, Decoder, DecodingError, Info, Limits, Reader, Transformations};

use super::canvas::{Canvas, with_capacity};
use super::colour::{Converter, Samples, Space};
use super::decode::{DecodeFailure, DecodeLimits, DecodedRaw, cut_short, high_bytes};
use super::exif;

impl From<DecodingError> for DecodeFailure {
    fn from(error: DecodingError) -> Self {
        match error {
            DecodingError::LimitsExceeded => Self::Unsupported(error.to_string()),
            _ => Self::Corrupt(error.to_string()),
        }
    }
}

/// Decodes a PNG. In a truncated or damaged file, the rows after the damage are grey.
pub(super) fn decode(
    bytes: &[u8],
    limits: DecodeLimits,
    least_side: u32,
) -> Result<DecodedRaw, DecodeFailure> {
    let max_bytes = usize::try_from(limits.max_bytes).unwrap_or(usize::MAX);
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: max_bytes });
    let info = decoder.read_header_info()?;
    let size @ (width, height) = info.size();
    limits.check(width, height)?;
    decoder.set_transformations(Transformations::EXPAND);
    let mut reader = decoder.read_info()?;
    let (color_type, depth) = reader.output_color_type();
    let samples = match color_type {
        ColorType::Grayscale => Samples::Gray,
        ColorType::GrayscaleAlpha => Samples::GrayAlpha,
        ColorType::Rgb => Samples::Rgb,
        ColorType::Rgba => Samples::Rgba,
        ColorType::Indexed => {
            return Err(DecodeFailure::Unsupported("a palette that is not expanded".into()));
        }
    };
    let mut rows = Rows {
        converter: Converter::new(samples, &space(reader.info())),
        samples,
        depth,
        high: Vec::new(),
    };
    let by = limits.reduction(width, height, least_side);
    let n_pixels = u64::from(width) * u64::from(height);
    let is_interlaced = reader.info().interlaced;
    let frame_bytes =
        if is_interlaced { reader.output_buffer_size().unwrap_or(usize::MAX) } else { 0 };
    let _memory = limits.acquire_memory(
        size,
        (frame_bytes as u64).saturating_add(6 * n_pixels / u64::from(by * by)),
    )?;

    let mut canvas = Canvas::new(width, height, by)?;
    let mut problem = None;
    let ended = if is_interlaced {
        rows.interlaced(&mut reader, frame_bytes, &mut canvas)
    } else {
        rows.each(&mut reader, &mut canvas)
    };
    if let Err(stopped) = ended {
        let Some(cut) = cut_short("PNG", canvas.rows(), height) else { return Err(stopped) };
        problem = Some(cut);
        canvas.fill_up();
    } else {
        // EXIF data may follow the pixels. Damage there does not affect the picture.
        let _ = reader.finish();
    }
    let orientation = exif::orientation(reader.info().exif_metadata.as_deref());
    let pixels: RgbImage = canvas.finish()?;
    Ok(DecodedRaw { pixels, size, orientation, problem })
}

/// Returns the colour space, with the precedence of the standard (PNG, third edition, 4.3).
fn space(info: &Info) -> Space {
    match (&info.coding_independent_code_points, &info.icc_profile) {
        (Some(points), _) => {
            Space::Cicp { primaries: points.color_primaries, transfer: points.transfer_function }
        }
        (None, Some(_)) if info.srgb.is_some() => Space::Srgb,
        (None, icc) => Space::of_icc(icc.as_ref().map(|icc| icc.to_vec())),
    }
}

/// Converts rows of the file and adds them to a canvas.
struct Rows {
    converter: Converter,
    samples: Samples,
    depth: BitDepth,
    high: Vec<u8>,
}

impl Rows {
    /// Reads the rows one by one.
    fn each(
        &mut self,
        reader: &mut Reader<Cursor<&[u8]>>,
        canvas: &mut Canvas,
    ) -> Result<(), DecodeFailure> {
        while let Some(row) = reader.next_row()? {
            self.push(row.data(), canvas);
        }
        Ok(())
    }

    /// Reads an interlaced file, whose rows are complete only at its end.
    fn interlaced(
        &mut self,
        reader: &mut Reader<Cursor<&[u8]>>,
        len: usize,
        canvas: &mut Canvas,
    ) -> Result<(), DecodeFailure> {
        let mut pixels = with_capacity(len)?;
        pixels.resize(len, 0);
        let line_size = reader.next_frame(&mut pixels)?.line_size;
        pixels.chunks_exact(line_size.max(1)).for_each(|row| self.push(row, canvas));
        Ok(())
    }

    fn push(&mut self, row: &[u8], canvas: &mut Canvas) {
        let row = match self.depth {
            BitDepth::Sixteen => {
                // The high byte comes first.
                high_bytes(row, 0, &mut self.high);
                &self.high
            }
            _ => row,
        };
        let row = self.converter.convert(row);
        if self.samples.has_alpha() { canvas.push_rgba(row) } else { canvas.push_rgb(row) }
    }
}

#[cfg(test)]
mod tests {
    use png::{Encoder, PixelDimensions, Unit};

    use super::*;
    use crate::image::ImageError;
    use crate::image::decode::tests::{decoded, encoded, exif_of, scaled};
    use crate::image::resize::tests::picture;

    fn rgb(image: &RgbImage) -> Vec<u8> {
        encoded(image.clone(), image::ImageFormat::Png)
    }

    /// A chunk as stored in a file.
    fn chunk(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
        let crc = |bytes: &[u8]| {
            !bytes.iter().fold(!0_u32, |crc, byte| {
                (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                    crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
                })
            })
        };
        let named = [name, data].concat();
        [&(data.len() as u32).to_be_bytes()[..], &named, &crc(&named).to_be_bytes()].concat()
    }

    /// Inserts a chunk before the first chunk named `before`.
    fn with_chunk(png: &[u8], before: &[u8; 4], chunk: &[u8]) -> Vec<u8> {
        let at = png.windows(4).position(|window| window == before).expect("there is one") - 4;
        [&png[..at], chunk, &png[at..]].concat()
    }

    #[test]
    fn the_rows_that_arrived_are_shown_and_the_file_is_named() {
        let image = picture(200, 100);
        let whole = rgb(&image);
        let cut = &whole[..whole.len() * 6 / 10];
        let decoded = scaled(cut, DecodeLimits::default(), u32::MAX);
        let problem = decoded.problem.expect("a part is missing");
        assert!(problem.contains("PNG is cut short") && problem.contains(" % of it"), "{problem}");
        let last = decoded
            .pixels
            .rows()
            .rposition(|mut row| row.any(|pixel| pixel.0 != [128; 3]))
            .expect("some arrived");
        assert!((30..80).contains(&last), "{last}");
        assert_eq!(decoded.pixels.as_raw()[..600 * last], image.as_raw()[..600 * last]);
        // `decode` gives an error for a truncated file.
        let error =
            crate::image::decode(cut, DecodeLimits::default()).expect_err("a part is missing");
        assert!(matches!(error, ImageError::Corrupt { format: "PNG", .. }), "{error}");
    }

    #[test]
    fn an_interlaced_file_is_read() {
        // Adam7 written by hand: seven small pictures, with unfiltered rows.
        let image = picture(9, 7);
        let passes = [
            (0, 0, 8, 8),
            (4, 0, 8, 8),
            (0, 4, 4, 8),
            (2, 0, 4, 4),
            (0, 2, 2, 4),
            (1, 0, 2, 2),
            (0, 1, 1, 2),
        ];
        let mut rows = Vec::new();
        for (left, top, dx, dy) in passes {
            for y in (top..7).step_by(dy) {
                if left < 9 {
                    rows.push(0);
                    rows.extend((left..9).step_by(dx).flat_map(|x| image.get_pixel(x, y).0));
                }
            }
        }
        // Stored deflate blocks in a zlib stream.
        let adler = rows.iter().fold((1_u32, 0_u32), |(a, b), byte| {
            let a = (a + u32::from(*byte)) % 65521;
            (a, (b + a) % 65521)
        });
        let len = rows.len() as u16;
        let stream = [
            &[0x78, 0x01, 0x01][..],
            &len.to_le_bytes(),
            &(!len).to_le_bytes(),
            &rows,
            &(adler.1 << 16 | adler.0).to_be_bytes(),
        ]
        .concat();
        let header = [&9_u32.to_be_bytes()[..], &7_u32.to_be_bytes(), &[8, 2, 0, 0, 1]].concat();
        let file = [
            b"\x89PNG\r\n\x1a\n".to_vec(),
            chunk(b"IHDR", &header),
            chunk(b"IDAT", &stream),
            chunk(b"IEND", &[]),
        ]
        .concat();
        assert_eq!(decoded(&file), image);
        let half =
            scaled(&file, DecodeLimits { max_pixels: 40, ..DecodeLimits::default() }, u32::MAX);
        assert_eq!((half.width, half.height, half.pixels.dimensions()), (9, 7, (5, 4)));
    }

    #[test]
    fn palettes_and_single_colours_may_be_transparent() {
        let write = |color_type, depth, palette: Option<&[u8]>, trns: &[u8], data: &[u8], width| {
            let mut bytes = Vec::new();
            let mut encoder = Encoder::new(&mut bytes, width, 1);
            encoder.set_color(color_type);
            encoder.set_depth(depth);
            encoder.set_pixel_dims(Some(PixelDimensions {
                xppu: 1,
                yppu: 1,
                unit: Unit::Unspecified,
            }));
            if let Some(palette) = palette {
                encoder.set_palette(palette.to_vec());
            }
            encoder.set_trns(trns.to_vec());
            encoder.write_header().expect("a header").write_image_data(data).expect("encodes");
            bytes
        };
        let palette = [10, 20, 30, 40, 50, 60, 70, 80, 90];
        let bytes =
            write(ColorType::Indexed, BitDepth::Two, Some(&palette), &[255, 0], &[0b0001_1000], 3);
        assert_eq!(decoded(&bytes).as_raw(), &[10, 20, 30, 255, 255, 255, 70, 80, 90]);
        let bytes = write(
            ColorType::Rgb,
            BitDepth::Eight,
            None,
            &[0, 1, 0, 2, 0, 3],
            &[1, 2, 3, 4, 5, 6],
            2,
        );
        assert_eq!(decoded(&bytes).as_raw(), &[255, 255, 255, 4, 5, 6]);
        let bytes = write(ColorType::Grayscale, BitDepth::Eight, None, &[0, 9], &[9, 8], 2);
        assert_eq!(decoded(&bytes).as_raw(), &[255, 255, 255, 8, 8, 8]);
    }

    #[test]
    fn exif_data_behind_the_pixels_turn_the_picture() {
        let image = picture(5, 3);
        let bytes = with_chunk(&rgb(&image), b"IEND", &chunk(b"eXIf", &exif_of(8)));
        assert_eq!(decoded(&bytes), image::imageops::rotate270(&image));
    }

    #[test]
    fn data_after_the_pixels_does_not_affect_them() {
        let image = picture(5, 3);
        let bytes = with_chunk(&rgb(&image), b"IEND", b"\0\0\0\x08teXtbroken");
        assert_eq!(decoded(&bytes), image);
    }

    #[test]
    fn colours_by_numbers_win_over_a_profile_and_srgb() {
        let image = RgbImage::from_pixel(2, 2, image::Rgb([200, 60, 40]));
        // Display P3.
        let p3 = with_chunk(&rgb(&image), b"IDAT", &chunk(b"cICP", &[12, 13, 0, 1]));
        let found = decoded(&p3).get_pixel(0, 0).0;
        assert!(found[0].abs_diff(217) <= 1 && found[1..] == [42, 23], "{found:?}");
        let srgb = with_chunk(&rgb(&image), b"IDAT", &chunk(b"sRGB", &[0]));
        assert_eq!(decoded(&srgb), image);
    }
}
