//! What a photo's EXIF says of when, with what and where it was taken.

use std::io::Cursor;
use std::panic::catch_unwind;

use exif::{DateTime, Exif, In, Rational, Tag, Value};

/// What is known of a photo beside its pixels; much of it is often missing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// The camera's clock, in seconds since 1970 there.
    pub taken_secs: Option<i64>,
    /// Maker and model.
    pub camera: Option<String>,
    /// Latitude and longitude, in degrees.
    pub place: Option<[f64; 2]>,
    /// How to turn the pixels, 1 to 8; what decodes photos does so by itself, but for raw ones.
    pub orientation: Option<u8>,
}

impl Facts {
    /// Reads them from the bytes of a file; what cannot be read is missing.
    pub fn of(bytes: &[u8]) -> Self {
        let read = || exif::Reader::new().read_from_container(&mut Cursor::new(bytes)).ok();
        // Strangers' files: a reader that panics has read nothing.
        let Ok(Some(exif)) = catch_unwind(read) else { return Self::default() };
        let orientation = value(&exif, Tag::Orientation).and_then(|value| value.get_uint(0));
        Self {
            taken_secs: taken_secs(&exif),
            camera: camera(&exif),
            place: place(&exif),
            orientation: orientation.and_then(|turn| u8::try_from(turn).ok()),
        }
    }
}

fn value(exif: &Exif, tag: Tag) -> Option<&Value> {
    exif.get_field(tag, In::PRIMARY).map(|field| &field.value)
}

fn ascii(exif: &Exif, tag: Tag) -> Option<&[u8]> {
    match value(exif, tag)? {
        Value::Ascii(texts) => texts.first().map(Vec::as_slice),
        _ => None,
    }
}

fn taken_secs(exif: &Exif) -> Option<i64> {
    let tags = [Tag::DateTimeOriginal, Tag::DateTimeDigitized, Tag::DateTime];
    let date = tags.into_iter().find_map(|tag| DateTime::from_ascii(ascii(exif, tag)?).ok())?;
    let sensible = (1..=12).contains(&date.month) && (1..=31).contains(&date.day) && date.year > 1800;
    let days = days_since_1970(i64::from(date.year), i64::from(date.month), i64::from(date.day));
    let secs = i64::from(date.hour) * 3600 + i64::from(date.minute) * 60 + i64::from(date.second);
    sensible.then_some(days * 86_400 + secs)
}

/// Days of the Gregorian calendar from 1970-01-01 (Hinnant, `days_from_civil`).
pub fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let year_of_era = year - era * 400;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn camera(exif: &Exif) -> Option<String> {
    let text = |tag| {
        let text = String::from_utf8_lossy(ascii(exif, tag)?).trim_matches(['\0', ' ']).to_owned();
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
        let sign = if ascii(exif, reference)?.first() == Some(&negative) { -1.0 } else { 1.0 };
        degrees.is_finite().then_some(sign * degrees)
    };
    let latitude = degrees(Tag::GPSLatitude, Tag::GPSLatitudeRef, b'S')?;
    let longitude = degrees(Tag::GPSLongitude, Tag::GPSLongitudeRef, b'W')?;
    // A camera without a fix often writes zeros.
    let real = latitude.abs() <= 90.0 && longitude.abs() <= 180.0 && (latitude, longitude) != (0.0, 0.0);
    real.then_some([latitude, longitude])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        let dates = [(1970, 1, 1), (1969, 12, 31), (2000, 2, 29), (2024, 3, 1), (1900, 3, 1)];
        let days = dates.map(|(year, month, day)| days_since_1970(year, month, day));
        assert_eq!(days, [0, -1, 11_016, 19_783, -25_508]);
    }

    /// A TIFF with text fields and a place, as it stands in a JPEG's EXIF.
    fn exif_bytes() -> Vec<u8> {
        use exif::{Field, experimental::Writer};
        let text = |tag, text: &str| Field {
            tag,
            ifd_num: In::PRIMARY,
            value: Value::Ascii(vec![text.as_bytes().to_vec()]),
        };
        let angle = |tag, parts: [u32; 3]| Field {
            tag,
            ifd_num: In::PRIMARY,
            value: Value::Rational(parts.map(|num| Rational { num, denom: 1 }).to_vec()),
        };
        let fields = [
            text(Tag::Make, "Canon"),
            text(Tag::Model, "Canon EOS 5D"),
            text(Tag::DateTimeOriginal, "2024:03:01 12:00:05"),
            angle(Tag::GPSLatitude, [48, 12, 0]),
            text(Tag::GPSLatitudeRef, "N"),
            angle(Tag::GPSLongitude, [16, 30, 0]),
            text(Tag::GPSLongitudeRef, "W"),
        ];
        let mut writer = Writer::new();
        fields.iter().for_each(|field| writer.push_field(field));
        let mut bytes = Cursor::new(Vec::new());
        writer.write(&mut bytes, false).expect("EXIF can be written to memory");
        bytes.into_inner()
    }

    #[test]
    fn date_camera_and_place_are_read() {
        let facts = Facts::of(&exif_bytes());
        assert_eq!(facts.taken_secs, Some(19_783 * 86_400 + 12 * 3600 + 5));
        assert_eq!(facts.camera.as_deref(), Some("Canon EOS 5D"));
        assert_eq!(facts.place, Some([48.2, -16.5]));
    }

    #[test]
    fn what_is_no_exif_says_nothing() {
        assert_eq!(Facts::of(b"no photo"), Facts::default());
        let bytes = exif_bytes();
        for kept in 0..bytes.len() {
            let _whatever_could_be_read = Facts::of(&bytes[..kept]);
        }
    }
}
