//! What a person types to find photos: texts and photos, added and taken away, and filters.
//!
//! `beach - people after:2024`, `2:dog + ball.jpg`, `"a - b" camera:canon`.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result};
use mmgem_core::image::BoxPx;
use mmgem_core::session::{Part, Session};
use pollster::block_on;

use crate::args::WrongArguments;
use crate::library::{KnownTexts, Photo};
use crate::photos::{looks_like_a_photo, read_decoded};

/// Radius of `near:` where none is given, in kilometres.
const NEAR_KM: f64 = 10.0;
const EARTH_RADIUS_KM: f64 = 6371.0;

/// A query in parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query {
    /// What is looked for.
    pub terms: Vec<Term>,
    /// What a photo must have besides.
    pub filters: Vec<Filter>,
}

/// A text or a photo, and how much it counts; less than nothing where it is taken away.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    pub weight: f32,
    pub what: What,
}

/// What a term looks for.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    Text(String),
    Photo(PathBuf),
}

/// What a photo must have.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// Taken at this second or later.
    After(i64),
    /// Taken before this second.
    Before(i64),
    /// Taken at most so many kilometres from a place.
    Near([f64; 2], f64),
    /// With this in its path, in small letters.
    Path(String),
    /// By a camera with this in its name, in small letters.
    Camera(String),
    /// Of this format, or with this extension, in small letters.
    Type(String),
}

impl FromStr for Query {
    type Err = WrongArguments;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let query = Self::read(text)?;
        if query.terms.is_empty() {
            let message =
                "the query looks for nothing; wanted a text or a photo, as in `a red boat after:2024`";
            return Err(WrongArguments(message.into()));
        }
        Ok(query)
    }
}

impl Query {
    /// Reads a query that may look for nothing: then its filters say all.
    ///
    /// # Errors
    /// When a filter is none, or a photo is not there.
    pub fn read(text: &str) -> Result<Self, WrongArguments> {
        let mut query = Self::default();
        let (mut sign, mut words): (f32, Vec<String>) = (1.0, Vec::new());
        for Word { text, quoted } in words_of(text) {
            match text.as_str() {
                "+" | "-" if !quoted => {
                    query.take_term(sign, &mut words)?;
                    sign = if text == "+" { 1.0 } else { -1.0 };
                }
                _ => match filter_of(&text).filter(|_| !quoted) {
                    Some(filter) => query.filters.push(filter?),
                    None => words.push(text),
                },
            }
        }
        query.take_term(sign, &mut words)?;
        Ok(query)
    }

    /// The unit vector of the query: the weighted sum of its terms'. With a box, of that region of the photo
    /// that the query is. Texts are looked up in `texts` first, and remembered there.
    ///
    /// # Errors
    /// When a photo or the box cannot be used, or the terms cancel each other.
    pub fn embed(
        &self,
        box_px: Option<BoxPx>,
        session: &Session,
        texts: &mut dyn KnownTexts,
    ) -> Result<Vec<f32>> {
        let part = box_px.map_or(Part::Whole, Part::Box);
        let mut sum = vec![0.0; session.config().embed_dim];
        for Term { weight, what } in &self.terms {
            let embed = match what {
                What::Text(text) => embed_text(text, session, texts)?,
                What::Photo(path) => {
                    let encoded = session.encode_decoded(&read_decoded(path)?);
                    block_on(session.embed_image(&encoded, &part))
                        .with_context(|| format!("the query cannot be used\n  file: {}", path.display()))?
                }
            };
            sum.iter_mut().zip(embed).for_each(|(sum, x)| *sum += weight * x);
        }
        let norm = sum.iter().map(|x| x * x).sum::<f32>().sqrt();
        if norm <= 1e-6 {
            return Err(WrongArguments("the terms of the query cancel each other".into()).into());
        }
        sum.iter_mut().for_each(|x| *x /= norm);
        Ok(sum)
    }

    /// Whether [`Self::embed`] needs the model for nothing: it looks for texts, all of which are known.
    ///
    /// # Errors
    /// When what is known cannot be read.
    pub fn is_known(&self, texts: &dyn KnownTexts) -> Result<bool> {
        for Term { what, .. } in &self.terms {
            match what {
                What::Text(text) if texts.known(text)?.is_some() => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    fn take_term(&mut self, sign: f32, words: &mut Vec<String>) -> Result<(), WrongArguments> {
        let text = std::mem::take(words).join(" ");
        if text.is_empty() {
            // Nothing stands before the first sign; between two signs something must.
            return Ok(());
        }
        let weighted = text.split_once(':').and_then(|(weight, rest)| Some((weight.parse().ok()?, rest)));
        let (weight, what): (f32, &str) = weighted.unwrap_or((1.0, &text));
        let path = Path::new(what);
        if path.is_file() {
            self.terms.push(Term { weight: sign * weight, what: What::Photo(path.into()) });
        } else if looks_like_a_photo(path) {
            return Err(WrongArguments(format!(
                "there is no such photo\n  hint: is the path right? A text must not end like a photo's name\n  file: {what}"
            )));
        } else {
            self.terms.push(Term { weight: sign * weight, what: What::Text(what.to_owned()) });
        }
        Ok(())
    }

    /// Whether a photo has all that the filters ask for.
    pub fn keeps(&self, photo: &Photo) -> bool {
        self.filters.iter().all(|filter| filter.keeps(photo))
    }
}

/// The unit vector of a text that may have been looked for before.
pub fn embed_text(text: &str, session: &Session, texts: &mut dyn KnownTexts) -> Result<Vec<f32>> {
    if let Some(embed) = texts.known(text)? {
        return Ok(embed);
    }
    let embed = block_on(session.embed_text(text))?;
    // The next search pays for it; this one has what it needs.
    if let Err(error) = texts.remember(text, &embed) {
        tracing::warn!("the vector of the text cannot be kept: {error:#}");
    }
    Ok(embed)
}

impl Filter {
    fn keeps(&self, photo: &Photo) -> bool {
        match self {
            Self::After(secs) => photo.taken_secs >= *secs,
            Self::Before(secs) => photo.taken_secs < *secs,
            Self::Near(place, km) => photo.place.is_some_and(|there| distance_km(*place, there) <= *km),
            Self::Path(part) => {
                photo.paths.iter().any(|path| path.to_string_lossy().to_lowercase().contains(part))
            }
            Self::Camera(part) => {
                photo.camera.as_ref().is_some_and(|camera| camera.to_lowercase().contains(part))
            }
            Self::Type(format) => {
                // Which camera wrote a raw photo only its extension tells.
                let ends_so =
                    |path: &PathBuf| path.extension().is_some_and(|end| end.eq_ignore_ascii_case(format));
                photo.format.to_lowercase() == *format || photo.paths.iter().any(ends_so)
            }
        }
    }
}

struct Word {
    text: String,
    /// It was in quotes, so that it is no sign and no filter.
    quoted: bool,
}

/// Words at spaces; what is in double quotes is one word, or after a colon the rest of one, as in `path:"a b"`.
fn words_of(text: &str) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    let mut before = "";
    for (i, part) in text.split('"').enumerate() {
        if i % 2 == 0 {
            words.extend(part.split_whitespace().map(|text| Word { text: text.to_owned(), quoted: false }));
        } else if let Some(key) = words.last_mut().filter(|_| before.ends_with(':')) {
            key.text.push_str(part);
        } else {
            words.push(Word { text: part.to_owned(), quoted: true });
        }
        before = part;
    }
    words
}

/// The filter that a word is, if it begins like one.
fn filter_of(word: &str) -> Option<Result<Filter, WrongArguments>> {
    let (key, value) = word.split_once(':')?;
    let lower = value.to_lowercase();
    let wrong = |wanted: &str| WrongArguments(format!("{word:?} is no filter; wanted {wanted}"));
    let date = |value| date_secs(value).ok_or_else(|| wrong("a date, as in after:2024 or before:2024-05-17"));
    Some(match key {
        "after" => date(value).map(Filter::After),
        "before" => date(value).map(Filter::Before),
        "near" => near(value)
            .ok_or_else(|| wrong("degrees and kilometres, as in near:48.2,16.4 or near:48.2,16.4,25")),
        _ if value.is_empty() => return None,
        "path" => Ok(Filter::Path(lower)),
        "camera" => Ok(Filter::Camera(lower)),
        "type" => Ok(Filter::Type(match lower.as_str() {
            "jpg" => "jpeg".into(),
            "tif" => "tiff".into(),
            "heif" => "heic".into(),
            _ => lower,
        })),
        _ => return None,
    })
}

/// The first second of a year, a month or a day.
fn date_secs(text: &str) -> Option<i64> {
    let mut parts = text.split('-').map(|part| part.parse::<i64>().ok());
    let year = parts.next()??;
    let (month, day) = (parts.next().unwrap_or(Some(1))?, parts.next().unwrap_or(Some(1))?);
    let sensible = parts.next().is_none()
        && (1..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day);
    sensible.then(|| 86_400 * crate::library::days_since_1970(year, month, day))
}

fn near(text: &str) -> Option<Filter> {
    let numbers: Option<Vec<f64>> =
        text.split(',').map(|part| part.trim_end_matches("km").parse().ok()).collect();
    let (place, km) = match numbers?.as_slice() {
        [latitude, longitude] => ([*latitude, *longitude], NEAR_KM),
        [latitude, longitude, km] => ([*latitude, *longitude], *km),
        _ => return None,
    };
    (place[0].abs() <= 90.0 && place[1].abs() <= 180.0 && km >= 0.0).then_some(Filter::Near(place, km))
}

/// Along a great circle (haversine).
fn distance_km(a: [f64; 2], b: [f64; 2]) -> f64 {
    let half = |i: usize| ((b[i] - a[i]).to_radians() / 2.0).sin().powi(2);
    let chord = half(0) + a[0].to_radians().cos() * b[0].to_radians().cos() * half(1);
    2.0 * EARTH_RADIUS_KM * chord.sqrt().min(1.0).asin()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(weight: f32, text: &str) -> Term {
        Term { weight, what: What::Text(text.into()) }
    }

    #[track_caller]
    fn check(query: &str, terms: &[Term], filters: &[Filter]) {
        let found: Query = query.parse().expect(query);
        assert_eq!((found.terms.as_slice(), found.filters.as_slice()), (terms, filters), "{query}");
    }

    #[test]
    fn texts_are_added_and_taken_away() {
        check("a red boat", &[text(1.0, "a red boat")], &[]);
        check("beach - people", &[text(1.0, "beach"), text(-1.0, "people")], &[]);
        check(
            "2:cat + 0.5:dog -  t-shirt",
            &[text(2.0, "cat"), text(0.5, "dog"), text(-1.0, "t-shirt")],
            &[],
        );
        check("\"a - b\" c", &[text(1.0, "a - b c")], &[]);
        check("at 10:30 today", &[text(1.0, "at 10:30 today")], &[]);
        check("2:\"a - b\" -cat", &[text(2.0, "a - b -cat")], &[]);
    }

    #[test]
    fn filters_stand_anywhere() {
        check(
            "boat after:1970-01-02 on a lake type:JPG",
            &[text(1.0, "boat on a lake")],
            &[Filter::After(86_400), Filter::Type("jpeg".into())],
        );
        check(
            "x before:1971 path:2019/Ü",
            &[text(1.0, "x")],
            &[Filter::Before(365 * 86_400), Filter::Path("2019/ü".into())],
        );
        check("x near:48.2,16.4", &[text(1.0, "x")], &[Filter::Near([48.2, 16.4], NEAR_KM)]);
        check("x near:48.2,-16.4,25km", &[text(1.0, "x")], &[Filter::Near([48.2, -16.4], 25.0)]);
        check("\"after:2024\"", &[text(1.0, "after:2024")], &[]);
        check(
            "x path:\"My Pictures\" camera:\"EOS R5\" \"y z\"",
            &[text(1.0, "x y z")],
            &[Filter::Path("my pictures".into()), Filter::Camera("eos r5".into())],
        );
    }

    #[test]
    fn what_is_no_query_says_so() {
        for (query, says) in [
            ("", "looks for nothing"),
            ("after:2024", "looks for nothing"),
            ("x after:soon", "wanted a date"),
            ("x before:2024-13", "wanted a date"),
            ("x near:vienna", "wanted degrees"),
            ("x near:91,0", "wanted degrees"),
            ("missing.jpg", "no such photo"),
        ] {
            let error = query.parse::<Query>().expect_err(query).to_string();
            assert!(error.contains(says), "{query}: {error}");
        }
    }

    #[test]
    fn a_type_is_a_format_or_an_extension() {
        let of = |format: &str, path: &str| {
            let mut photo = Photo::example(1, path.into(), 0);
            photo.format = format.into();
            photo
        };
        let (raw, misnamed) = (of("RAW", "a.NEF"), of("PNG", "b.jpg"));
        let kept = |kind: &str| {
            let query = Query::read(&format!("type:{kind}")).expect("a filter");
            (query.keeps(&raw), query.keeps(&misnamed))
        };
        assert_eq!((kept("raw"), kept("nef"), kept("cr2")), ((true, false), (true, false), (false, false)));
        assert_eq!((kept("png"), kept("jpg")), ((false, true), (false, false)));
    }

    #[test]
    fn distances_are_those_of_a_globe() {
        let (vienna, bratislava) = ([48.2082, 16.3738], [48.1486, 17.1077]);
        assert!((distance_km(vienna, bratislava) - 54.8).abs() < 1.0);
        assert!((distance_km([0.0, 179.5], [0.0, -179.5]) - 111.2).abs() < 0.1);
    }
}
