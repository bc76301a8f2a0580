//! When, where and with which camera a photo was taken, from its EXIF, XMP, IPTC and PNG texts.

use std::io::{Cursor, Read};
use std::panic::catch_unwind;

use exif::{Exif, In, Rational, Tag, Value};
use flate2::read::ZlibDecoder;
use memchr::memmem;

use super::dates::{DateSource, PhotoDate, date_of, date_of_metadata, secs_of, time_of};

/// Limit on an unpacked PNG text, because a decompression bomb unpacks to gigabytes.
const TEXT_LIMIT: u64 = 1 << 20;

/// Metadata of a photo; many photos lack most of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PhotoMetadata {
    /// When the photo was taken, as the file itself says.
    pub taken: Option<PhotoDate>,
    /// Maker and model of the camera.
    pub camera: Option<String>,
    /// Latitude and longitude, in degrees.
    pub place: Option<[f64; 2]>,
    /// EXIF orientation, 1 to 8. Decoders apply it themselves, except for raw photos.
    pub orientation: Option<u8>,
}

impl PhotoMetadata {
    /// Reads the metadata from a file's bytes; fields that cannot be read stay empty.
    pub fn of(bytes: &[u8]) -> Self {
        let read = || exif::Reader::new().read_from_container(&mut Cursor::new(bytes)).ok();
        // The file may be malformed: a panic in the parser counts as no EXIF.
        let exif = catch_unwind(read).ok().flatten();
        let png = PngTexts::of(bytes);
        let xmp = png.xmp.as_deref().or_else(|| xmp_packet(bytes)).map(String::from_utf8_lossy);
        let of_exif = |read: fn(&Exif) -> Option<i64>| exif.as_ref().and_then(read);
        let dates = [
            (DateSource::Exif, of_exif(exif_secs)),
            (DateSource::Xmp, xmp.as_deref().and_then(xmp_secs)),
            (DateSource::Iptc, iptc_secs(bytes)),
            (DateSource::Png, png.created_secs),
            (DateSource::Gps, of_exif(gps_secs)),
            (DateSource::PngModified, png.modified_secs),
        ];
        let found =
            dates.into_iter().find_map(|(from, secs)| Some(PhotoDate { secs: secs?, from }));
        let orientation = exif.as_ref().and_then(|exif| value(exif, Tag::Orientation)?.get_uint(0));
        Self {
            taken: found,
            camera: exif.as_ref().and_then(camera),
            place: exif.as_ref().and_then(place).or_else(|| xmp.as_deref().and_then(xmp_place)),
            orientation: orientation.and_then(|turn| u8::try_from(turn).ok()),
        }
    }
}

fn value(exif: &Exif, tag: Tag) -> Option<&Value> {
    exif.get_field(tag, In::PRIMARY).map(|field| &field.value)
}

fn ascii(exif: &Exif, tag: Tag) -> Option<String> {
    match value(exif, tag)? {
        Value::Ascii(texts) => texts.first().map(|text| String::from_utf8_lossy(text).into_owned()),
        _ => None,
    }
}

fn exif_secs(exif: &Exif) -> Option<i64> {
    let tags = [Tag::DateTimeOriginal, Tag::DateTimeDigitized, Tag::DateTime];
    tags.into_iter().find_map(|tag| date_of_metadata(&ascii(exif, tag)?))
}

fn gps_secs(exif: &Exif) -> Option<i64> {
    let day = date_of_metadata(&ascii(exif, Tag::GPSDateStamp)?)?;
    let Some(Value::Rational(time)) = value(exif, Tag::GPSTimeStamp) else { return Some(day) };
    let part = |i: usize| time.get(i).map_or(0.0, Rational::to_f64);
    let secs = part(0) * 3600.0 + part(1) * 60.0 + part(2);
    Some(day + if (0.0..86_400.0).contains(&secs) { secs as i64 } else { 0 })
}

fn camera(exif: &Exif) -> Option<String> {
    let text = |tag| {
        let text = ascii(exif, tag)?.trim_matches(['\0', ' ']).to_owned();
        (!text.is_empty()).then_some(text)
    };
    match (text(Tag::Make), text(Tag::Model)) {
        // Many makers repeat their name in the model.
        (Some(make), Some(model)) if !model.to_lowercase().starts_with(&make.to_lowercase()) => {
            Some(format!("{make} {model}"))
        }
        (make, model) => model.or(make),
    }
}

fn place(exif: &Exif) -> Option<[f64; 2]> {
    let degrees = |tag, reference, negative| {
        let Value::Rational(parts) = value(exif, tag)? else { return None };
        let part = |i: usize| parts.get(i).map_or(0.0, Rational::to_f64);
        let degrees = part(0) + part(1) / 60.0 + part(2) / 3600.0;
        let sign = if ascii(exif, reference)?.starts_with(negative) { -1.0 } else { 1.0 };
        Some(sign * degrees)
    };
    let latitude = degrees(Tag::GPSLatitude, Tag::GPSLatitudeRef, 'S')?;
    real_place(latitude, degrees(Tag::GPSLongitude, Tag::GPSLongitudeRef, 'W')?)
}

/// The place, if it is on the globe. A camera without a fix often writes zeros, so (0, 0) is
/// `None`.
pub fn real_place(latitude: f64, longitude: f64) -> Option<[f64; 2]> {
    let real =
        latitude.abs() <= 90.0 && longitude.abs() <= 180.0 && (latitude, longitude) != (0.0, 0.0);
    real.then_some([latitude, longitude])
}

/// The XMP of a file that holds it as plain text, as JPEG, TIFF, WebP, HEIC and most PNGs do.
fn xmp_packet(bytes: &[u8]) -> Option<&[u8]> {
    let start = memmem::find(bytes, b"<x:xmpmeta")?;
    let length = memmem::find(&bytes[start..], b"</x:xmpmeta>")?;
    Some(&bytes[start..start + length])
}

/// When the photo was taken, according to XMP.
pub fn xmp_secs(xmp: &str) -> Option<i64> {
    let keys = [
        "exif:DateTimeOriginal",
        "exif:DateTimeDigitized",
        "photoshop:DateCreated",
        "xmp:CreateDate",
    ];
    keys.into_iter().find_map(|key| date_of_metadata(xmp_value(xmp, key)?))
}

/// Where the photo was taken, according to XMP: `48,12.5N` or `48,12,30N`.
pub fn xmp_place(xmp: &str) -> Option<[f64; 2]> {
    let degrees = |key, positive, negative| {
        let text = xmp_value(xmp, key)?.trim();
        let sign = match text.chars().last()? {
            c if c == positive => 1.0,
            c if c == negative => -1.0,
            _ => return None,
        };
        let parts: Option<Vec<f64>> =
            text[..text.len() - 1].split(',').map(|part| part.trim().parse().ok()).collect();
        let sum =
            parts?.iter().zip([1.0, 60.0, 3600.0]).map(|(part, unit)| part / unit).sum::<f64>();
        Some(sign * sum)
    };
    real_place(degrees("exif:GPSLatitude", 'N', 'S')?, degrees("exif:GPSLongitude", 'E', 'W')?)
}

/// The value of a property, as an attribute (`key="value"`) or as an element (`<key>value</key>`).
fn xmp_value<'a>(xmp: &'a str, key: &str) -> Option<&'a str> {
    xmp.match_indices(key).find_map(|(at, _)| {
        let rest = xmp[at + key.len()..].trim_start();
        if let Some(rest) = rest.strip_prefix('=') {
            let rest = rest.trim_start();
            let quote = rest.chars().next().filter(|c| ['"', '\''].contains(c))?;
            return rest[1..].split_once(quote).map(|(value, _)| value);
        }
        rest.strip_prefix('>')?
            .split_once('<')
            .map(|(value, _)| value)
            .filter(|value| !value.trim().is_empty())
    })
}

/// IPTC's "Date Created" (2:55) and "Time Created" (2:60), found anywhere in the file.
fn iptc_secs(bytes: &[u8]) -> Option<i64> {
    let text = |after: usize, n: usize| std::str::from_utf8(bytes.get(after..after + n)?).ok();
    memmem::find_iter(bytes, b"\x1c\x02\x37\x00\x08").find_map(|at| {
        let date = text(at + 5, 8).filter(|date| date.bytes().all(|byte| byte.is_ascii_digit()))?;
        let days = date_of_metadata(date)?;
        // The time is within 4096 bytes of the date.
        let near = bytes.get(at..(at + 4096).min(bytes.len()))?;
        let time = memmem::find(near, b"\x1c\x02\x3c\x00\x0b").and_then(|offset| {
            let time = text(at + offset + 5, 6)
                .filter(|time| time.bytes().all(|byte| byte.is_ascii_digit()))?;
            let part = |i: usize| time[i..i + 2].parse::<i64>().ok();
            let (hours, minutes, seconds) = (part(0)?, part(2)?, part(4)?);
            (hours < 24 && minutes < 60 && seconds < 60)
                .then_some(hours * 3600 + minutes * 60 + seconds)
        });
        Some(days + time.unwrap_or(0))
    })
}

/// Metadata in the text chunks of a PNG.
#[derive(Default)]
struct PngTexts {
    created_secs: Option<i64>,
    modified_secs: Option<i64>,
    /// From a compressed or plain chunk.
    xmp: Option<Vec<u8>>,
}

impl PngTexts {
    fn of(bytes: &[u8]) -> Self {
        let mut texts = Self::default();
        let Some(mut rest) = bytes.strip_prefix(b"\x89PNG\r\n\x1a\n") else { return texts };
        while let Some((length, after)) = rest.split_first_chunk() {
            let length = u32::from_be_bytes(*length) as usize;
            let Some((kind, after)) = after.split_first_chunk::<4>() else { break };
            let Some((data, after)) = after.split_at_checked(length) else { break };
            texts.take(kind, data);
            // Skip the checksum.
            rest = after.get(4..).unwrap_or_default();
        }
        texts
    }

    fn take(&mut self, kind: &[u8; 4], data: &[u8]) {
        if kind == b"tIME" {
            self.modified_secs = png_time(data);
            return;
        }
        if ![b"tEXt", b"zTXt", b"iTXt"].contains(&kind) {
            return;
        }
        let mut parts = data.splitn(2, |byte| *byte == 0);
        let (Some(keyword), Some(data)) = (parts.next(), parts.next()) else { return };
        let wanted = [b"Creation Time".as_slice(), b"XML:com.adobe.xmp"];
        if !wanted.contains(&keyword) {
            return;
        }
        let Some(text) = png_text(kind, data) else { return };
        if keyword == wanted[1] {
            self.xmp = Some(text);
        } else {
            self.created_secs = date_of_metadata(&String::from_utf8_lossy(&text));
        }
    }
}

/// The text of a chunk; `data` starts after the keyword.
fn png_text(kind: &[u8; 4], data: &[u8]) -> Option<Vec<u8>> {
    let unpacked = |packed: &[u8]| {
        let mut text = Vec::new();
        ZlibDecoder::new(packed).take(TEXT_LIMIT).read_to_end(&mut text).ok().map(|_| text)
    };
    match kind {
        b"tEXt" => Some(data.to_vec()),
        b"zTXt" => unpacked(data.get(1..)?),
        _ => {
            // Compression flag and method, then language and translated keyword, each ended by a
            // zero.
            let mut parts = data.get(2..)?.splitn(3, |byte| *byte == 0);
            let text = parts.nth(2)?;
            if data[0] == 1 { unpacked(text) } else { Some(text.to_vec()) }
        }
    }
}

fn png_time(data: &[u8]) -> Option<i64> {
    let [high, low, month, day, hours, minutes, seconds] = data.try_into().ok()?;
    let year = i64::from(u16::from_be_bytes([high, low]));
    let time = time_of([hours, minutes, seconds].map(i64::from)).unwrap_or_default();
    Some(secs_of(date_of(year, i64::from(month), i64::from(day))?.to_datetime(time)))
}

#[cfg(test)]
mod tests {
    use exif::{Field, experimental::Writer};

    use super::super::dates::second_in_words;
    use super::*;

    fn text(tag: Tag, text: &str) -> Field {
        Field { tag, ifd_num: In::PRIMARY, value: Value::Ascii(vec![text.as_bytes().to_vec()]) }
    }

    fn rationals(tag: Tag, parts: [u32; 3]) -> Field {
        let value = Value::Rational(parts.map(|num| Rational { num, denom: 1 }).to_vec());
        Field { tag, ifd_num: In::PRIMARY, value }
    }

    /// A TIFF with fields, as in a JPEG's EXIF.
    fn tiff(fields: &[Field]) -> Vec<u8> {
        let mut writer = Writer::new();
        fields.iter().for_each(|field| writer.push_field(field));
        let mut bytes = Cursor::new(Vec::new());
        writer.write(&mut bytes, false).expect("EXIF can be written to memory");
        bytes.into_inner()
    }

    fn exif_bytes() -> Vec<u8> {
        tiff(&[
            text(Tag::Make, "Canon"),
            text(Tag::Model, "Canon EOS 5D"),
            text(Tag::DateTimeOriginal, "2024:03:01 12:00:05"),
            rationals(Tag::GPSLatitude, [48, 12, 0]),
            text(Tag::GPSLatitudeRef, "N"),
            rationals(Tag::GPSLongitude, [16, 30, 0]),
            text(Tag::GPSLongitudeRef, "W"),
        ])
    }

    #[track_caller]
    fn check(bytes: &[u8], wanted: Option<(&str, DateSource)>) {
        let found =
            PhotoMetadata::of(bytes).taken.map(|taken| (second_in_words(taken.secs), taken.from));
        assert_eq!(found.as_ref().map(|(date, from)| (date.as_str(), *from)), wanted);
    }

    #[test]
    fn date_camera_and_place_are_read() {
        let metadata = PhotoMetadata::of(&exif_bytes());
        assert_eq!(
            metadata.taken,
            Some(PhotoDate { secs: 19_783 * 86_400 + 12 * 3600 + 5, from: DateSource::Exif })
        );
        assert_eq!(metadata.camera.as_deref(), Some("Canon EOS 5D"));
        assert_eq!(metadata.place, Some([48.2, -16.5]));
    }

    #[test]
    fn a_date_that_no_calendar_has_gives_way_to_the_next() {
        check(
            &tiff(&[text(Tag::DateTimeOriginal, "2021-05-06T12:00:05")]),
            Some(("2021-05-06T12:00:05", DateSource::Exif)),
        );
        let unset = text(Tag::DateTimeOriginal, "0000:00:00 00:00:00");
        check(&tiff(std::slice::from_ref(&unset)), None);
        let changed = text(Tag::DateTime, "2021:05:06 12:00:05");
        check(&tiff(&[unset.clone(), changed]), Some(("2021-05-06T12:00:05", DateSource::Exif)));
        let gps = [text(Tag::GPSDateStamp, "2021:05:06"), rationals(Tag::GPSTimeStamp, [10, 0, 5])];
        let [day, time] = gps;
        check(&tiff(&[unset, day, time]), Some(("2021-05-06T10:00:05", DateSource::Gps)));
    }

    /// An XMP packet with some properties, as photo programs write it.
    fn xmp(properties: &str) -> Vec<u8> {
        format!(
            "<?xpacket begin=''?><x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF><rdf:Description {properties}\
             </rdf:RDF></x:xmpmeta>"
        )
        .into_bytes()
    }

    #[test]
    fn xmp_tells_date_and_place() {
        let wanted = Some(("2021-05-06T12:00:05", DateSource::Xmp));
        let jpeg = |xmp: &[u8]| [b"\xff\xd8\xff\xe1".as_slice(), xmp, b"\xff\xd9"].concat();
        check(&jpeg(&xmp("exif:DateTimeOriginal=\"2021-05-06T12:00:05.10+02:00\"/>")), wanted);
        check(
            &jpeg(&xmp(
                "><photoshop:DateCreated>2021-05-06T12:00:05</photoshop:DateCreated></rdf:Description>",
            )),
            wanted,
        );
        check(
            &jpeg(&xmp("xmp:ModifyDate='2022-01-01' xmp:CreateDate = '2021-05-06T12:00:05'/>")),
            wanted,
        );
        check(&jpeg(&xmp("xmp:ModifyDate='2022-01-01'/>")), None);
        let place = "exif:GPSLatitude='48,12.0N' exif:GPSLongitude='16,30,0W'/>";
        assert_eq!(PhotoMetadata::of(&jpeg(&xmp(place))).place, Some([48.2, -16.5]));
    }

    fn iptc(date: &str, time: &str) -> Vec<u8> {
        let set = |number: u8, text: &str| {
            [&[0x1c, 2, number, 0, text.len() as u8], text.as_bytes()].concat()
        };
        [b"Photoshop 3.0\08BIM\x04\x04\0\0\0\0\0\x20".to_vec(), set(55, date), set(60, time)]
            .concat()
    }

    #[test]
    fn iptc_tells_the_date() {
        check(&iptc("20210506", "120005+0200"), Some(("2021-05-06T12:00:05", DateSource::Iptc)));
        check(&iptc("20210506", "soon"), Some(("2021-05-06T00:00:00", DateSource::Iptc)));
        check(&iptc("00000000", "120005+0200"), None);
    }

    fn png(chunks: &[(&[u8; 4], Vec<u8>)]) -> Vec<u8> {
        let chunk = |(kind, data): &(&[u8; 4], Vec<u8>)| {
            [(data.len() as u32).to_be_bytes().as_slice(), *kind, data, &[0; 4]].concat()
        };
        [b"\x89PNG\r\n\x1a\n".to_vec(), chunks.iter().flat_map(chunk).collect()].concat()
    }

    fn packed(text: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        flate2::read::ZlibEncoder::new(text, flate2::Compression::fast())
            .read_to_end(&mut packed)
            .expect("packs");
        packed
    }

    #[test]
    fn a_png_tells_when_it_was_made_or_changed() {
        let created = b"Creation Time\x002021-05-06T12:00:05".to_vec();
        let changed = vec![0x07, 0xe5, 5, 7, 12, 0, 5];
        let made = Some(("2021-05-06T12:00:05", DateSource::Png));
        check(&png(&[(b"tIME", changed.clone()), (b"tEXt", created)]), made);
        check(&png(&[(b"tIME", changed)]), Some(("2021-05-07T12:00:05", DateSource::PngModified)));
        let zipped =
            [b"Creation Time\0\0".to_vec(), packed(b"Thu, 06 May 2021 12:00:05 +0200")].concat();
        check(&png(&[(b"zTXt", zipped)]), made);
        let property = xmp("exif:DateTimeOriginal='2021-05-06T12:00:05'/>");
        let head =
            |is_packed: u8| [b"XML:com.adobe.xmp\0".as_slice(), &[is_packed, 0, 0, 0]].concat();
        let of_xmp = Some(("2021-05-06T12:00:05", DateSource::Xmp));
        check(&png(&[(b"iTXt", [head(0), property.clone()].concat())]), of_xmp);
        check(&png(&[(b"iTXt", [head(1), packed(&property)].concat())]), of_xmp);
        check(&png(&[(b"eXIf", exif_bytes())]), Some(("2024-03-01T12:00:05", DateSource::Exif)));
    }

    #[test]
    fn a_webp_tells_what_its_exif_and_xmp_say() {
        let webp = |kind: &[u8; 4], data: &[u8]| {
            let mut data = data.to_vec();
            data.resize(data.len().next_multiple_of(2), 0);
            let chunk = [kind.as_slice(), &(data.len() as u32).to_le_bytes(), &data].concat();
            let body = [b"WEBP".to_vec(), chunk].concat();
            [b"RIFF".as_slice(), &(body.len() as u32).to_le_bytes(), &body].concat()
        };
        check(&webp(b"EXIF", &exif_bytes()), Some(("2024-03-01T12:00:05", DateSource::Exif)));
        let property = xmp("xmp:CreateDate='2021-05-06T12:00:05'/>");
        check(&webp(b"XMP ", &property), Some(("2021-05-06T12:00:05", DateSource::Xmp)));
    }

    #[test]
    fn what_is_no_exif_says_nothing() {
        assert_eq!(PhotoMetadata::of(b"no photo"), PhotoMetadata::default());
        let whole = png(&[(b"eXIf", exif_bytes()), (b"iTXt", b"XML:com.adobe.xmp\0\x01".to_vec())]);
        for bytes in [exif_bytes(), iptc("20210506", "120005+0200"), whole] {
            for kept in 0..bytes.len() {
                let _whatever_could_be_read = PhotoMetadata::of(&bytes[..kept]);
            }
        }
    }
}
