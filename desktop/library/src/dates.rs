//! Dates of photos: parsing of metadata and file names, and the source of each date.

use std::path::Path;

use jiff::SignedDuration;
use jiff::civil::{Date, DateTime, Time, datetime};

const EPOCH: DateTime = datetime(1970, 1, 1, 0, 0, 0, 0);

/// The source of a photo's date, the most reliable first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DateSource {
    /// EXIF of the photo.
    Exif,
    /// XMP in the photo.
    Xmp,
    /// An XMP file beside the photo.
    Sidecar,
    /// IPTC of the photo.
    Iptc,
    /// "Creation Time" of a PNG.
    Png,
    /// The GPS clock in EXIF, in UTC.
    Gps,
    /// The JSON of a Google Takeout beside the photo, in UTC.
    Takeout,
    /// The name of the file.
    Name,
    /// Time of the last change, as the PNG itself says.
    PngModified,
    /// Time of the last change, as the file system says.
    File,
}

impl DateSource {
    const ALL: [Self; 10] = [
        Self::Exif,
        Self::Xmp,
        Self::Sidecar,
        Self::Iptc,
        Self::Png,
        Self::Gps,
        Self::Takeout,
        Self::Name,
        Self::PngModified,
        Self::File,
    ];

    /// The source's name in the library and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exif => "exif",
            Self::Xmp => "xmp",
            Self::Sidecar => "sidecar",
            Self::Iptc => "iptc",
            Self::Png => "png",
            Self::Gps => "gps",
            Self::Takeout => "takeout",
            Self::Name => "name",
            Self::PngModified => "png_modified",
            Self::File => "file",
        }
    }

    /// The inverse of [`DateSource::as_str`].
    pub fn of_str(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|from| from.as_str() == text)
    }

    /// Why a user may doubt the date; `None` if the photo's own metadata gives it.
    pub fn in_words(self) -> Option<&'static str> {
        match self {
            Self::Exif | Self::Xmp | Self::Iptc | Self::Png => None,
            Self::Sidecar => Some("from its sidecar"),
            Self::Gps => Some("by GPS, in UTC"),
            Self::Takeout => Some("from Google Takeout, in UTC"),
            Self::Name => Some("from its name"),
            Self::PngModified => Some("when it was changed"),
            Self::File => Some("the file's"),
        }
    }
}

/// A date and its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhotoDate {
    /// Seconds since 1970 on the clock that wrote the date.
    pub secs: i64,
    /// Where the date comes from.
    pub from: DateSource,
}

/// Seconds from 1970 to a moment, both on the same clock.
pub fn secs_of(moment: DateTime) -> i64 {
    moment.duration_since(EPOCH).as_secs()
}

/// A date; `None` if it is not in the calendar, such as 31 February.
pub fn date_of(year: i64, month: i64, day: i64) -> Option<Date> {
    Date::new(year.try_into().ok()?, month.try_into().ok()?, day.try_into().ok()?).ok()
}

/// The first second of a day, in seconds since 1970. `None` if the calendar lacks the day.
pub fn start_of_day(year: i64, month: i64, day: i64) -> Option<i64> {
    Some(secs_of(date_of(year, month, day)?.at(0, 0, 0, 0)))
}

/// A time of day; second 60 is a leap second and becomes 59.
pub fn time_of([hours, minutes, seconds]: [i64; 3]) -> Option<Time> {
    let seconds = if seconds == 60 { 59 } else { seconds };
    Time::new(hours.try_into().ok()?, minutes.try_into().ok()?, seconds.try_into().ok()?, 0).ok()
}

/// A moment within the calendar, which ends with the year 9999.
fn moment(secs: i64) -> DateTime {
    EPOCH.saturating_add(SignedDuration::from_secs(secs))
}

/// A day as `2024-05-17`, on the clock that counted the seconds.
pub fn date_in_words(secs: i64) -> String {
    moment(secs).date().to_string()
}

/// A second as `2024-05-17T12:00:05`, on the clock that counted the seconds.
pub fn second_in_words(secs: i64) -> String {
    moment(secs).to_string()
}

/// Parses a text from the front; `rest` is the part not yet read.
struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    /// A number of exactly `n_digits` digits.
    fn number(&mut self, n_digits: usize) -> Option<i64> {
        let digits =
            self.rest.get(..n_digits).filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
        let number = digits.iter().fold(0, |number, digit| 10 * number + i64::from(digit - b'0'));
        self.rest = &self.rest[n_digits..];
        Some(number)
    }

    /// One of these bytes.
    fn one_of(&mut self, bytes: &[u8]) -> Option<u8> {
        let (first, rest) = self.rest.split_first().filter(|(first, _)| bytes.contains(first))?;
        self.rest = rest;
        Some(*first)
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        let (start, rest) = self.rest.split_at_checked(word.len())?;
        start.eq_ignore_ascii_case(word).then(|| self.rest = rest)
    }

    /// The result of `read`; if it fails, goes back to where it began.
    fn attempt<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let before = self.rest;
        let found = read(self);
        if found.is_none() {
            self.rest = before;
        }
        found
    }

    fn ends_number(&self) -> bool {
        !self.rest.first().is_some_and(u8::is_ascii_digit)
    }
}

/// A date in metadata, in seconds since 1970 on the clock that wrote it; ignores a time zone.
///
/// Accepts EXIF's `2021:05:06 12:00:05`, ISO's `2021-05-06T12:00:05+02:00`, IPTC's `20210506`, a
/// year or month alone, and the `Thu, 06 May 2021 12:00:05 GMT` of mails. `None` if the date is not
/// in the calendar, such as the `0000:00:00` of cameras whose clock was never set.
pub fn date_of_metadata(text: &str) -> Option<i64> {
    let text = text.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    let mut reader = Reader { rest: text.as_bytes() };
    let Some(year) = reader.number(4).filter(|year| *year > 1800) else {
        return date_of_mail(text);
    };
    let separator = reader.one_of(b":-/.");
    let with_separator = |reader: &mut Reader| {
        separator.is_none_or(|separator| reader.one_of(&[separator]).is_some())
    };
    let month = reader.number(2);
    let day = month.and_then(|_| {
        reader.attempt(|reader| if with_separator(reader) { reader.number(2) } else { None })
    });
    if !reader.ends_number() {
        return None;
    }
    let date = date_of(year, month.unwrap_or(1), day.unwrap_or(1))?;
    let time = reader.attempt(|reader| {
        reader.one_of(b" T_")?;
        let hours = reader.number(2)?;
        reader.one_of(b":.")?;
        let minutes = reader.number(2)?;
        let seconds = reader.attempt(|reader| reader.one_of(b":.").and_then(|_| reader.number(2)));
        time_of([hours, minutes, seconds.unwrap_or(0)])
    });
    Some(secs_of(date.to_datetime(time.unwrap_or_default())))
}

/// `Thu, 06 May 2021 12:00:05 GMT`, with or without the day of the week.
fn date_of_mail(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] =
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let text = text.split_once(',').map_or(text, |(_, rest)| rest);
    let mut words = text.split_whitespace();
    let day: i64 = words.next()?.parse().ok()?;
    let name = words.next()?.to_lowercase();
    let month = MONTHS.iter().position(|month| name.starts_with(month))? as i64 + 1;
    let year: i64 = words.next()?.parse().ok().filter(|year| (1801..=9999).contains(year))?;
    let time = words.next().and_then(|time| {
        let parts: Option<Vec<i64>> = time.split(':').map(|part| part.parse().ok()).collect();
        match parts?.as_slice() {
            [hours, minutes] => time_of([*hours, *minutes, 0]),
            [hours, minutes, seconds] => time_of([*hours, *minutes, *seconds]),
            _ => None,
        }
    });
    Some(secs_of(date_of(year, month, day)?.to_datetime(time.unwrap_or_default())))
}

/// The date in a file's name, in seconds since 1970 on the clock that wrote it; midnight if the
/// name has only a day.
///
/// Accepts the names of phones, messengers and screenshots: `IMG-20210506-WA0001`,
/// `PXL_20210506_120005123`, `Screenshot_2021-05-06-12-00-05`, `WhatsApp Image 2021-05-06 at
/// 12.00.05`, `FB_IMG_1620302405000`. Eight digits are a date if the calendar has it, between 1900
/// and 2099: one number in 1,400 is.
pub fn date_of_name(path: &Path) -> Option<i64> {
    let stem = path.file_stem()?.to_string_lossy();
    let bytes = stem.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let starts = (0..bytes.len()).filter(|at| is_digit(*at) && (*at == 0 || !is_digit(at - 1)));
    starts.into_iter().find_map(|at| {
        let n_digits = (at..).take_while(|at| is_digit(*at)).count();
        match n_digits {
            4 | 8 | 14 | 17 => day_and_time(Reader { rest: &bytes[at..] }),
            13 => epoch_ms(&stem[..at], &bytes[at..at + 13]),
            _ => None,
        }
    })
}

/// Seconds since 1970, from milliseconds that follow a prefix of a known app.
fn epoch_ms(before: &str, digits: &[u8]) -> Option<i64> {
    let is_theirs =
        ["fb_img_", "mmexport", "received_"].iter().any(|app| before.to_lowercase().ends_with(app));
    let secs = Reader { rest: digits }.number(13)? / 1000;
    // From 2004 to 2099.
    (is_theirs && (1_072_915_200..4_102_444_800).contains(&secs)).then_some(secs)
}

fn day_and_time(mut reader: Reader) -> Option<i64> {
    let year = reader.number(4).filter(|year| (1900..2100).contains(year))?;
    let separator = reader.one_of(b"-_. ");
    let month = reader.number(2)?;
    if let Some(separator) = separator {
        reader.one_of(&[separator])?;
    }
    let day = reader.number(2)?;
    // With separators the number must end after the day; without, the time may follow at once.
    if separator.is_some() && !reader.ends_number() {
        return None;
    }
    let date = date_of(year, month, day)?;
    Some(secs_of(date.to_datetime(reader.attempt(time_of_name).unwrap_or_default())))
}

/// A time: `_120005`, `-12-00-05`, ` at 12.00.05`, ` at 1.00.05 PM`.
fn time_of_name(reader: &mut Reader) -> Option<Time> {
    if reader.attempt(|reader| reader.word(b" at ")).is_none() {
        _ = reader.one_of(b"-_ T.");
    }
    let mut parts = [0; 3];
    for (at, part) in parts.iter_mut().enumerate() {
        if at > 0 {
            _ = reader.one_of(b"-_.:");
        }
        // `1.00.05 PM` has one digit.
        let two = reader.attempt(|reader| reader.number(2));
        *part = match (at, two) {
            (_, Some(number)) => number,
            (0, None) => reader.number(1)?,
            _ => return None,
        };
    }
    // macOS puts a narrow space before PM.
    _ = reader.attempt(|reader| reader.word("\u{202f}".as_bytes())).or_else(|| reader.word(b" "));
    if parts[0] < 12 && reader.word(b"pm").is_some() {
        parts[0] += 12;
    } else if parts[0] == 12 && reader.word(b"am").is_some() {
        parts[0] = 0;
    }
    time_of(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        let dates = [(1970, 1, 1), (1969, 12, 31), (2000, 2, 29), (2024, 3, 1), (1900, 3, 1)];
        let secs = dates.map(|(year, month, day)| {
            secs_of(date_of(year, month, day).expect("a date").to_datetime(Time::midnight()))
        });
        assert_eq!(secs, [0, -1, 11_016, 19_783, -25_508].map(|days| days * 86_400));
        for (year, month, day) in [
            (2023, 2, 29),
            (1900, 2, 29),
            (2024, 2, 30),
            (2024, 4, 31),
            (2024, 13, 1),
            (2024, 1, 0),
            (70_000, 1, 1),
        ] {
            assert_eq!(date_of(year, month, day), None, "{year}-{month}-{day}");
        }
    }

    #[test]
    fn days_are_told_as_they_are_counted() {
        for (year, month, day) in
            [(1970, 1, 1), (1969, 12, 31), (2000, 2, 29), (2024, 3, 1), (2026, 11, 25)]
        {
            let date = date_of(year, month, day).expect("a date");
            let secs = secs_of(date.to_datetime(Time::midnight())) + 86_399;
            assert_eq!(second_in_words(secs), format!("{year:04}-{month:02}-{day:02}T23:59:59"));
            assert_eq!(date_in_words(secs), format!("{year:04}-{month:02}-{day:02}"));
        }
        // A sidecar can hold any number.
        assert_eq!(date_in_words(i64::MAX), "9999-12-31");
    }

    #[track_caller]
    fn check(read: impl Fn(&str) -> Option<i64>, text: &str, wanted: Option<&str>) {
        assert_eq!(read(text).map(second_in_words).as_deref(), wanted, "{text:?}");
    }

    #[test]
    fn dates_of_metadata_are_read_however_they_are_written() {
        let is = |text, wanted| check(date_of_metadata, text, Some(wanted));
        is("2021:05:06 12:00:05", "2021-05-06T12:00:05");
        is("2021:05:06 12:00:05\0", "2021-05-06T12:00:05");
        is("2021-05-06T12:00:05", "2021-05-06T12:00:05");
        is("2021-05-06T12:00:05.123+02:00", "2021-05-06T12:00:05");
        is("2021-05-06T12:00Z", "2021-05-06T12:00:00");
        is("2021-05-06 12:00:60", "2021-05-06T12:00:59");
        is("2021/05/06", "2021-05-06T00:00:00");
        is("20210506", "2021-05-06T00:00:00");
        is("2021-05", "2021-05-01T00:00:00");
        is("1943", "1943-01-01T00:00:00");
        is("2021:05:06 25:00:00", "2021-05-06T00:00:00");
        is("Thu, 06 May 2021 12:00:05 GMT", "2021-05-06T12:00:05");
        is("6 May 2021", "2021-05-06T00:00:00");
        for text in [
            "0000:00:00 00:00:00",
            "    :  :     :  :  ",
            "2021:02:31 12:00:05",
            "2021:13:06",
            "",
            "soon",
            "202105061",
        ] {
            check(date_of_metadata, text, None);
        }
    }

    #[test]
    fn dates_in_names_are_read() {
        let read = |name: &str| date_of_name(Path::new(name));
        let is = |name, wanted| check(read, name, Some(wanted));
        is("IMG-20130809-WA0001.jpg", "2013-08-09T00:00:00");
        is("PXL_20180304_050607000.jpg", "2018-03-04T05:06:07");
        is("20210506_120005.jpg", "2021-05-06T12:00:05");
        is("IMG_20210506_120005_1.heic", "2021-05-06T12:00:05");
        is("IMG20210506120005.jpg", "2021-05-06T12:00:05");
        is("MVIMG_20210506_120005.MP.jpg", "2021-05-06T12:00:05");
        is("Screenshot_2021-05-06-12-00-05-123_com.app.png", "2021-05-06T12:00:05");
        is("Screenshot 2021-05-06 at 1.00.05\u{202f}PM.png", "2021-05-06T13:00:05");
        is("Screen Shot 2021-05-06 at 12.00.05 AM.png", "2021-05-06T00:00:05");
        is("WhatsApp Image 2021-05-06 at 12.00.05.jpeg", "2021-05-06T12:00:05");
        is("photo_2021-05-06_12-00-05 (2).jpg", "2021-05-06T12:00:05");
        is("signal-2021-05-06-120005.jpg", "2021-05-06T12:00:05");
        is("2021-05-06 12.00.05.jpg", "2021-05-06T12:00:05");
        is("1952_07_14 wedding.tif", "1952-07-14T00:00:00");
        is("FB_IMG_1620302405000.jpg", "2021-05-06T12:00:05");
        is("mmexport1620302405000.jpg", "2021-05-06T12:00:05");
        is("12345 20210506.jpg", "2021-05-06T00:00:00");
        for name in [
            "IMG_0001.jpg",
            "DSC01234.jpg",
            "20210231_120005.jpg",
            "99999999.jpg",
            "20481536.jpg",
            "1620302405000.jpg",
            "1920x1080.jpg",
            "a 2021.jpg",
            "2021-05.jpg",
            "123420210506.jpg",
            "2021-05-061.jpg",
            "20210506/IMG_0001.jpg",
            "",
        ] {
            check(read, name, None);
        }
    }

    #[test]
    fn sources_are_kept_under_their_names() {
        for from in DateSource::ALL {
            assert_eq!(DateSource::of_str(from.as_str()), Some(from));
        }
        assert!(DateSource::ALL.is_sorted() && DateSource::of_str("else").is_none());
    }
}
