//! Decodes HEIC, and reads the container of HEIC and AVIF files.

use image::metadata::Orientation;

#[cfg(feature = "heic")]
pub(super) use heic::decode;

/// A box of the ISO base media file format: its name and its contents.
struct Boxed<'a> {
    name: &'a [u8],
    body: &'a [u8],
}

/// Iterates over the boxes in some bytes, up to the first truncated one.
fn boxes(mut bytes: &[u8]) -> impl Iterator<Item = Boxed<'_>> {
    std::iter::from_fn(move || {
        let len = number(bytes, 0, 4)?;
        let (len, header) = match len {
            0 => (bytes.len(), 8),
            1 => (number(bytes, 8, 8)?, 16),
            len => (len, 8),
        };
        let name = bytes.get(4..8)?;
        let body = bytes.get(header..len)?;
        bytes = &bytes[len..];
        Some(Boxed { name, body })
    })
}

fn find<'a>(bytes: &'a [u8], name: &[u8; 4]) -> Option<&'a [u8]> {
    boxes(bytes).find(|found| found.name == name).map(|found| found.body)
}

fn number(bytes: &[u8], at: usize, len: usize) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(len)?)?;
    let number = bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    usize::try_from(number).ok()
}

/// Returns the orientation that the container (`irot`, `imir`) asks for its main picture. `None` if
/// it states none.
pub(super) fn orientation(bytes: &[u8]) -> Option<Orientation> {
    // A full box has four bytes of version and flags after its name.
    let meta = find(bytes, b"meta")?.get(4..)?;
    let main = find(meta, b"pitm")?;
    let main = if main.first()? == &0 { number(main, 4, 2)? } else { number(main, 4, 4)? };
    let properties = find(meta, b"iprp")?;
    let all: Vec<Boxed> = boxes(find(properties, b"ipco")?).collect();
    let of_main = boxes(properties)
        .filter(|found| found.name == b"ipma")
        .find_map(|found| properties_of(found.body, main))?;
    let mut orientation = None;
    for idx in of_main {
        let Some(property) = idx.checked_sub(1).and_then(|idx| all.get(idx)) else { continue };
        let value = property.body.first().copied().unwrap_or(0);
        let asked = match property.name {
            // The numbers count quarter turns to the left.
            b"irot" => match value & 3 {
                0 => Orientation::NoTransforms,
                1 => Orientation::Rotate270,
                2 => Orientation::Rotate180,
                _ => Orientation::Rotate90,
            },
            b"imir" if value & 1 == 0 => Orientation::FlipVertical,
            b"imir" => Orientation::FlipHorizontal,
            _ => continue,
        };
        orientation = Some(orientation.map_or(asked, |orientation| compose(orientation, asked)));
    }
    orientation
}

/// Reads the property indices of an item, in order, from an `ipma` box.
fn properties_of(ipma: &[u8], item: usize) -> Option<Vec<usize>> {
    let (id_len, idx_len) =
        (if ipma.first()? == &0 { 2 } else { 4 }, 1 + usize::from(ipma.get(3)? & 1));
    let mut at = 8;
    for _ in 0..number(ipma, 4, 4)? {
        let id = number(ipma, at, id_len)?;
        let count = number(ipma, at + id_len, 1)?;
        at += id_len + 1;
        if id == item {
            // The highest bit marks a property that readers must support.
            let mask = (1 << (8 * idx_len - 1)) - 1;
            return (0..count)
                .map(|n| Some(number(ipma, at + n * idx_len, idx_len)? & mask))
                .collect();
        }
        at += count * idx_len;
    }
    None
}

/// Combines two orientations.
fn compose(first: Orientation, second: Orientation) -> Orientation {
    // An orientation is identified by its effect on a picture with four different corners.
    let corners = |orientations: &[Orientation]| {
        let mut image = image::DynamicImage::ImageLuma8(
            image::GrayImage::from_raw(2, 2, vec![0, 1, 2, 3]).expect("four pixels"),
        );
        orientations.iter().for_each(|orientation| image.apply_orientation(*orientation));
        image.into_bytes()
    };
    let both = corners(&[first, second]);
    let all = (1..=8).filter_map(Orientation::from_exif);
    all.into_iter().find(|orientation| corners(&[*orientation]) == both).expect("turns are a group")
}

#[cfg(feature = "heic")]
mod heic {
    use std::borrow::Cow;

    use heic_decoder::{DecodedImage, HeifError};
    use image::metadata::Orientation;

    use super::orientation;
    use crate::image::canvas::Canvas;
    use crate::image::colour::{Converter, Samples, Space, unmultiplied};
    use crate::image::decode::{DecodeFailure, DecodeLimits, DecodedRaw};
    use crate::image::exif;

    /// Bytes per pixel: four for each of 1.5 samples, for the tiles and for the assembled picture,
    /// plus RGB.
    const BYTES_A_PIXEL: u64 = 15;

    impl From<HeifError> for DecodeFailure {
        fn from(error: HeifError) -> Self {
            match error {
                HeifError::Unsupported(_) | HeifError::LimitExceeded(_) => {
                    Self::Unsupported(error.to_string())
                }
                _ => Self::Corrupt(error.to_string()),
            }
        }
    }

    /// Decodes a HEIC file.
    ///
    /// Applies the container's transforms (`irot`, `imir`) and then ignores EXIF's orientation:
    /// iPhones write both, with the same meaning. Applies EXIF's orientation if the container has
    /// no transforms.
    ///
    /// The standard (ISO/IEC 23008-12, A.2.1) would ignore EXIF even then, and libheif does. But
    /// some phones (such as some of Samsung's) write no `irot` and rely on EXIF. Their own
    /// galleries, Android's and Google Photos rotate the picture, so people know it upright.
    pub fn decode(
        bytes: &[u8],
        limits: DecodeLimits,
        least_side: u32,
    ) -> Result<DecodedRaw, DecodeFailure> {
        let info = heic_decoder::probe(bytes)?;
        let side = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let size @ (width, height) = (side(info.width), side(info.height));
        limits.check(width, height)?;
        // Do not take the lock for large images: the decoder waits for threads that may start to
        // read another photo.
        limits.check_bytes(size, BYTES_A_PIXEL * u64::from(width) * u64::from(height))?;
        let mut image = heic_decoder::decode(bytes)?;
        centre_chroma(&mut image);
        if (image.width, image.height) != (info.width, info.height) {
            return Err(DecodeFailure::Corrupt(
                "the picture is not of the size that is announced".into(),
            ));
        }
        let orientation = match orientation(bytes) {
            Some(_) => Orientation::NoTransforms,
            None => exif::orientation(image.metadata.exif.as_deref()),
        };
        let mut canvas = Canvas::new(width, height, limits.reduction(width, height, least_side))?;
        let space = space(&image);
        if image.alpha.is_some() {
            let rgba = image.to_rgba8()?;
            drop(image);
            let mut converter = Converter::new(Samples::Rgba, &space);
            for row in rgba.data.chunks_exact(4 * rgba.width.max(1)).take(rgba.height) {
                let row = if rgba.premultiplied { unmultiplied(row) } else { Cow::Borrowed(row) };
                canvas.push_rgba(converter.convert(&row));
            }
        } else {
            let rgb = image.to_rgb8()?;
            drop(image);
            let mut converter = Converter::new(Samples::Rgb, &space);
            for row in rgb.data.chunks_exact(3 * rgb.width.max(1)).take(rgb.height) {
                canvas.push_rgb(converter.convert(row));
            }
        }
        Ok(DecodedRaw { pixels: canvas.finish()?, size, orientation, problem: None })
    }

    /// Moves chroma samples to the centre of their pixels, as libheif does and encoders intend.
    ///
    /// The standard's rule for files without a location (the left edge) shifts colours by half a
    /// pixel.
    fn centre_chroma(image: &mut DecodedImage) {
        let sampling = &mut image.chroma_sampling;
        // Only this location is in the centre of one axis and at the edge of the other. A rotation
        // may have moved that edge to any side.
        let is_at_left = (sampling.origin_x.fract() == 0.0) != (sampling.origin_y.fract() == 0.0);
        if (sampling.sub_x, sampling.sub_y) == (2, 2) && is_at_left {
            for origin in [&mut sampling.origin_x, &mut sampling.origin_y] {
                *origin = match *origin {
                    1.0 => 0.5,
                    whole if whole.fract() == 0.0 => whole + 0.5,
                    half => half,
                };
            }
        }
    }

    /// Returns the colour space. A profile wins over the H.273 numbers, which then only define the
    /// conversion from luma and chroma to RGB.
    fn space(image: &DecodedImage) -> Space {
        match (Space::of_icc(image.metadata.icc_profile.clone()), image.metadata.color_info) {
            (Space::Srgb, Some(info)) => {
                let number = |number: u16| u8::try_from(number).unwrap_or(0);
                let (primaries, transfer) = (info.color_primaries, info.transfer_characteristics);
                Space::Cicp { primaries: number(primaries), transfer: number(transfer) }
            }
            (space, _) => space,
        }
    }
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, RgbImage};

    use super::*;
    use crate::image::decode::tests::{check_close, decoded, refused};
    use crate::image::{DecodeLimits, decode};

    fn gradient() -> RgbImage {
        RgbImage::from_fn(64, 48, |x, y| image::Rgb([4 * x as u8, 5 * y as u8, 128]))
    }

    fn check_gradient(bytes: &[u8], most: f64) {
        check_close(&decoded(bytes), &gradient(), most);
        for kept in (0..bytes.len()).step_by(9) {
            refused(&bytes[..kept]);
        }
        let limits = DecodeLimits { max_header_pixels: 64 * 48 - 1, ..DecodeLimits::default() };
        let message = decode(bytes, limits).expect_err("too large").to_string();
        assert!(message.contains("64x48"), "{message}");
    }

    /// The gradient, written by pillow-heif 1.8 at quality 90.
    #[cfg(feature = "heic")]
    const HEIC: &[u8] = include_bytes!("gradient.heic");

    #[test]
    #[cfg(feature = "heic")]
    fn a_photo_of_a_phone_is_read() {
        check_gradient(HEIC, 0.6);
    }

    #[test]
    #[cfg(feature = "avif")]
    fn an_avif_is_read_unless_it_announces_too_much() {
        // The gradient, written by Pillow 13.0 at quality 90 without subsampling.
        check_gradient(include_bytes!("gradient.avif"), 2.0);
    }

    /// The gradient, written by pillow-heif 1.8 at quality 60 with EXIF's orientation 6. Its `irot`
    /// box is renamed.
    #[cfg(feature = "heic")]
    const TURNED: &[u8] = include_bytes!("turned.heic");

    #[test]
    #[cfg(feature = "heic")]
    fn exif_turns_a_photo_whose_container_says_nothing() {
        // With chroma at the edge of its pixels the difference would be 1.17.
        check_close(&decoded(TURNED), &image::imageops::rotate90(&gradient()), 0.9);
        // If the container rotates the picture, EXIF's orientation does not rotate it again.
        let at = TURNED.windows(4).position(|name| name == b"xrot").expect("renamed");
        let mut by_container = TURNED.to_vec();
        by_container[at..at + 4].copy_from_slice(b"irot");
        assert_eq!(decoded(&by_container), decoded(TURNED));
        // The container's transform wins, even if it is the identity.
        by_container[at + 4] = 0;
        check_close(&decoded(&by_container), &gradient(), 3.0);
    }

    #[test]
    #[cfg(feature = "heic")]
    fn transparent_pixels_lie_on_white() {
        // The gradient, written by pillow-heif 1.8 at quality 60 with an alpha of 4 x.
        let found = decoded(include_bytes!("transparent.heic"));
        let wanted = RgbImage::from_fn(64, 48, |x, y| {
            let over = |value: u32| (value * 4 * x + 255 * (255 - 4 * x)) / 255;
            image::Rgb([4 * x, 5 * y, 128].map(|value| over(value) as u8))
        });
        check_close(&found, &wanted, 3.0);
    }

    #[test]
    #[cfg(feature = "heic")]
    fn colours_are_those_of_the_containers_numbers() {
        // After the name: primaries, transfer function, matrix.
        let at = HEIC.windows(8).position(|name| name == b"colrnclx").expect("there is one") + 8;
        assert_eq!(HEIC[at..at + 4], [0, 1, 0, 13]);
        let mut of_p3 = HEIC.to_vec();
        of_p3[at + 1] = 12;
        let plain = decoded(HEIC);
        let mut converter = crate::image::colour::Converter::new(
            crate::image::colour::Samples::Rgb,
            &crate::image::colour::Space::Cicp { primaries: 12, transfer: 13 },
        );
        let wanted = converter.convert(plain.as_raw()).to_vec();
        assert_ne!(&wanted, plain.as_raw());
        assert_eq!(decoded(&of_p3).as_raw(), &wanted);
    }

    fn named(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
        [&(8 + body.len() as u32).to_be_bytes()[..], name, body].concat()
    }

    /// A container whose item 2 has the properties, after another property and another item.
    fn container(properties: &[Vec<u8>]) -> Vec<u8> {
        let ipco = named(
            b"ipco",
            &[vec![named(b"ispe", &[0; 12])], properties.to_vec()].concat().concat(),
        );
        // Item 1 has property 1. Item 2 has that one and all others, marked as essential (128).
        let of_main: Vec<u8> = (0..properties.len() as u8).map(|idx| 128 | (2 + idx)).collect();
        let ipma =
            [&[0, 0, 0, 0, 0, 0, 0, 2, 0, 1, 1, 1, 0, 2, 1 + of_main.len() as u8, 1][..], &of_main]
                .concat();
        let iprp = named(b"iprp", &[ipco, named(b"ipma", &ipma)].concat());
        let pitm = named(b"pitm", &[0, 0, 0, 0, 0, 2]);
        [named(b"ftyp", b"avif"), named(b"meta", &[&[0; 4][..], &pitm, &iprp].concat())].concat()
    }

    #[test]
    fn the_containers_turn_is_that_of_its_main_picture() {
        let (irot, imir) = (|turns| named(b"irot", &[turns]), |axis| named(b"imir", &[axis]));
        let corners = |turn: Orientation| {
            let mut image: image::DynamicImage =
                GrayImage::from_raw(2, 2, vec![0, 1, 2, 3]).expect("four").into();
            image.apply_orientation(turn);
            image.into_bytes()
        };
        let of = |properties: &[Vec<u8>]| orientation(&container(properties)).map(corners);
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[irot(0)]), Some(vec![0, 1, 2, 3]));
        // To the left.
        assert_eq!(of(&[irot(1)]), Some(vec![1, 3, 0, 2]));
        assert_eq!(of(&[irot(2)]), Some(vec![3, 2, 1, 0]));
        assert_eq!(of(&[irot(3)]), Some(vec![2, 0, 3, 1]));
        // Top and bottom swap, or left and right.
        assert_eq!(of(&[imir(0)]), Some(vec![2, 3, 0, 1]));
        assert_eq!(of(&[imir(1)]), Some(vec![1, 0, 3, 2]));
        // Both in order: the mirror swaps left and right of the rotated picture.
        assert_eq!(of(&[irot(1), imir(1)]), Some(vec![3, 1, 2, 0]));
        let whole = container(&[irot(1)]);
        for kept in 0..whole.len() {
            assert_eq!(orientation(&whole[..kept]), None, "{kept} bytes");
        }
    }
}
