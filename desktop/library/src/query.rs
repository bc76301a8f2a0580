//! Parses and embeds the queries that users type: texts and photos, added or subtracted, and
//! filters.
//!
//! `beach - people after:2024`, `beach -people`, `2:dog + ball.jpg`, `"a - b" camera:canon`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use mmgem_core::image::BoxPx;
use mmgem_core::session::{Part, Session};
use mmgem_core::tokenizer::{Tokenizer, TokenizerError, TokenizerReport};
use pollster::block_on;

use super::dates::{date_of, secs_of};
use super::names::{folded, path_of_uri, printable_path, resolve_path};
use super::photos::{looks_like_a_photo, read_decoded};
use super::{Cutoff, LibraryError, Photo, Result, TextCache};

/// Default radius of `near:`, in kilometres.
const NEAR_KM: f64 = 10.0;
const EARTH_RADIUS_KM: f64 = 6371.0;
/// All filters, named in the error for an unknown one.
const FILTERS: &str = "after: before: near: path: camera: type:";

/// A description of the value of `after:` and `before:`.
const DATE: &str = "a date, as in after:2024 or before:2024-05-17";

/// Why a query is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The query has no term and no filter.
    #[error(
        "the query looks for nothing; wanted a text, a photo or a filter, as in \
         `a red boat after:2024`"
    )]
    Empty,
    /// The value of a filter is invalid.
    #[error("{word:?} is not a valid filter; wanted {wanted}")]
    Filter {
        /// The filter, as the user wrote it.
        word: String,
        /// A description of a valid value, with an example.
        wanted: String,
    },
    /// The date of a filter is not in the calendar, such as 31 February.
    #[error("{word:?} is not a valid filter: {month} has {n_days} days; wanted {DATE}")]
    NoSuchDay {
        /// The filter, as the user wrote it.
        word: String,
        /// The year and month of the date.
        month: String,
        /// Number of days of the month.
        n_days: i8,
    },
    /// There is no filter of this name.
    #[error(
        "there is no filter {key}:{}; the filters are {FILTERS}\n  \
         hint: put a text with a colon in quotes: '\"{word}\"'",
        meant(key)
    )]
    UnknownFilter {
        /// The word, as the user wrote it.
        word: String,
        /// The part before the colon.
        key: String,
    },
    /// A term looks like a photo, but there is no such file.
    #[error(
        "there is no such photo\n  \
         hint: is the path right? A text must not end like a photo's name\n  file: {}",
        printable_path(.0)
    )]
    NoSuchPhoto(PathBuf),
    /// The weighted sum of the terms is not finite.
    #[error("a weight of the query is too large")]
    TooLarge,
    /// The weighted sum of the terms is zero.
    #[error("the terms of the query cancel each other")]
    Cancelling,
}

/// The hint for a filter in another case, such as `After:`.
fn meant(key: &str) -> String {
    let lower = format!("{}:", key.to_lowercase());
    match FILTERS.split(' ').find(|known| **known == lower) {
        Some(known) => format!("; write it as {known}"),
        None => String::new(),
    }
}

/// A parsed query.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query {
    /// Texts and photos to look for.
    pub terms: Vec<Term>,
    /// Conditions that a photo must meet.
    pub filters: Vec<Filter>,
}

/// A text or a photo with its weight, which is negative if the term is subtracted.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    /// The factor of its embedding in the query's.
    pub weight: f32,
    /// The text or the photo.
    pub what: TermKind,
}

/// The content of a term.
#[derive(Clone, Debug, PartialEq)]
pub enum TermKind {
    /// A text.
    Text(String),
    /// The path of a photo.
    Photo(PathBuf),
}

/// A condition on a photo.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// Taken at this time or later, in seconds since 1970.
    After(i64),
    /// Taken before this time, in seconds since 1970.
    Before(i64),
    /// Taken at most this many kilometres from a place.
    Near([f64; 2], f64),
    /// Its path contains this text, [`folded`].
    Path(String),
    /// Its camera's name contains this text, [`folded`].
    Camera(String),
    /// It has this format or this extension, in lower case.
    Type(String),
    /// It does not meet this condition.
    Not(Box<Filter>),
}

impl FromStr for Query {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::read(text)?.not_empty()
    }
}

impl Query {
    /// Parses a query that may be empty; an empty query matches every photo.
    ///
    /// # Errors
    /// When a filter is invalid, or a photo is missing.
    pub fn read(text: &str) -> Result<Self, QueryError> {
        Self::of_words(words_of(text))
    }

    /// Parses the arguments of a command: one argument with the whole query, or one per word. So
    /// the user needs quotes only where the shell or the query would split a text. An argument that
    /// is the path of a photo is that photo, whatever characters its name has.
    ///
    /// # Errors
    /// When the query is empty, a filter is invalid, or a photo is missing.
    pub fn of_arguments(arguments: &[OsString]) -> Result<Self, QueryError> {
        let mut words = Vec::new();
        for argument in arguments {
            let path = resolve_path(PathBuf::from(argument));
            // A file may have the name of a word by chance: `boat` in `red boat`.
            let is_meant =
                arguments.len() == 1 || looks_like_a_photo(&path) || path.components().count() > 1;
            match argument.to_str() {
                _ if is_meant && path.is_file() => words.push(Word::Photo(path)),
                Some(text) => words.extend(words_of(text)),
                None => return Err(QueryError::NoSuchPhoto(path)),
            }
        }
        Self::of_words(words)?.not_empty()
    }

    fn not_empty(self) -> Result<Self, QueryError> {
        if self.terms.is_empty() && self.filters.is_empty() {
            return Err(QueryError::Empty);
        }
        Ok(self)
    }

    fn of_words(words: Vec<Word>) -> Result<Self, QueryError> {
        let mut query = Self::default();
        let (mut sign, mut text): (f32, Vec<String>) = (1.0, Vec::new());
        for word in words {
            match word {
                Word::Sign(next) => {
                    query.take_term(sign, &mut text)?;
                    sign = next;
                }
                Word::Signed(sign, word) => query.take_word(sign, *word)?,
                Word::Photo(path) => {
                    query.take_term(sign, &mut text)?;
                    query.terms.push(Term { weight: sign, what: TermKind::Photo(path) });
                }
                Word::Quoted(word) => text.push(word),
                Word::Plain(word) => match filter_of(&word) {
                    Some(filter) => query.filters.push(filter?),
                    None => text.push(word),
                },
            }
        }
        query.take_term(sign, &mut text)?;
        Ok(query)
    }

    /// Adds one word with its own sign, apart from the words around it.
    fn take_word(&mut self, sign: f32, word: Word) -> Result<(), QueryError> {
        match word {
            Word::Plain(word) => match filter_of(&word) {
                Some(filter) if sign < 0.0 => self.filters.push(Filter::Not(filter?.into())),
                Some(filter) => self.filters.push(filter?),
                None => self.take_term(sign, &mut vec![word])?,
            },
            Word::Quoted(word) => self.take_term(sign, &mut vec![word])?,
            Word::Photo(path) => {
                self.terms.push(Term { weight: sign, what: TermKind::Photo(path) })
            }
            Word::Sign(_) | Word::Signed(..) => unreachable!("a sign has a plain or a quoted word"),
        }
        Ok(())
    }

    /// The embedding of the query, of unit length: the weighted sum of its terms' embeddings.
    /// `box_px` selects a region of the query's photo. Texts are looked up and saved in the cache
    /// `texts`. `warn` gets each photo of which a part is missing, with the problem.
    ///
    /// # Errors
    /// When a photo or the box cannot be used, or the terms cancel each other.
    pub fn embed(
        &self,
        box_px: Option<BoxPx>,
        session: &Session,
        texts: &mut dyn TextCache,
        warn: &mut dyn FnMut(&Path, &str),
    ) -> Result<Vec<f32>> {
        let part = box_px.map_or(Part::Whole, Part::Box);
        let mut sum = vec![0.0; session.config().embed_dim];
        for Term { weight, what } in &self.terms {
            let embed = match what {
                TermKind::Text(text) => embed_text(text, session, texts)?,
                TermKind::Photo(path) => {
                    let decoded = read_decoded(path)?;
                    if let Some(problem) = &decoded.problem {
                        warn(path, problem);
                    }
                    let encoded = session.encode_decoded(&decoded);
                    block_on(session.embed_image(&encoded, &part))
                        .map_err(|source| LibraryError::QueryPhoto { file: path.clone(), source })?
                }
            };
            sum.iter_mut().zip(embed).for_each(|(sum, x)| *sum += weight * x);
        }
        let norm = sum.iter().map(|x| x * x).sum::<f32>().sqrt();
        if !norm.is_finite() {
            return Err(QueryError::TooLarge.into());
        }
        if norm <= 1e-6 {
            return Err(QueryError::Cancelling.into());
        }
        sum.iter_mut().for_each(|x| *x /= norm);
        Ok(sum)
    }

    /// Whether [`Self::embed`] can run without the model: all terms are texts in the cache.
    ///
    /// # Errors
    /// When the cache cannot be read.
    pub fn is_cached(&self, texts: &dyn TextCache) -> Result<bool> {
        for Term { what, .. } in &self.terms {
            match what {
                TermKind::Text(text) if texts.text_embed(text)?.is_some() => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    fn take_term(&mut self, sign: f32, words: &mut Vec<String>) -> Result<(), QueryError> {
        let text = std::mem::take(words).join(" ");
        if text.is_empty() {
            // The first sign has nothing before it. Two signs in a row are accepted as well.
            return Ok(());
        }
        let weighted =
            text.split_once(':').and_then(|(weight, rest)| Some((weight_of(weight)?, rest)));
        let (weight, what) = weighted.unwrap_or((1.0, &text));
        let path = resolve_path(PathBuf::from(what));
        let what = if path.is_file() {
            TermKind::Photo(path)
        } else if looks_like_a_photo(&path) || path_of_uri(what).is_some() {
            return Err(QueryError::NoSuchPhoto(path));
        } else {
            TermKind::Text(what.to_owned())
        };
        self.terms.push(Term { weight: sign * weight, what });
        Ok(())
    }

    /// Warnings about the texts, for the user: parts that the model cannot read.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn warnings(&self, tokenizer: &Tokenizer) -> Result<Vec<String>, TokenizerError> {
        let mut warnings = Vec::new();
        for term in &self.terms {
            if let TermKind::Text(text) = &term.what {
                warnings.extend(text_warnings(text, tokenizer)?);
            }
        }
        Ok(warnings)
    }

    /// A warning for a query of one text whose best hit is weak: nine in ten photos that a text
    /// describes score higher. `None` for other queries, and if `cutoffs` has no such measurement.
    pub fn nothing_found(&self, best: Option<f32>, cutoffs: &[Cutoff]) -> Option<String> {
        let [Term { weight, what: TermKind::Text(_) }] = self.terms.as_slice() else { return None };
        let least = Cutoff::weak_below(cutoffs).filter(|_| *weight > 0.0)?;
        best.filter(|best| *best < least).map(|best| {
            format!(
                "nothing found: the best score is {best:.3}, and 9 in 10 photos that a text \
                 describes score above {least:.3}; these are the nearest photos"
            )
        })
    }

    /// Whether a file of a photo has all that the filters ask for.
    pub fn keeps(&self, photo: &Photo, path: &Path) -> bool {
        self.filters.iter().all(|filter| filter.keeps(photo, path))
    }
}

/// Warnings about a text, for the user: unknown words, and a text that is longer than the model
/// reads.
///
/// A word is unknown if the tokenizer never saw its script or its letters together. A word made of
/// known parts gives no warning, even if the model never saw it: `Hundeschule` is read as `H und es
/// ch ule`.
///
/// # Errors
/// When the tokenizer fails.
pub fn text_warnings(text: &str, tokenizer: &Tokenizer) -> Result<Vec<String>, TokenizerError> {
    let TokenizerReport { n_tokens, n_read, unknown_words } = tokenizer.report(text)?;
    let mut warnings = Vec::new();
    if !unknown_words.is_empty() {
        let words: Vec<String> =
            unknown_words.iter().take(5).map(|word| format!("{word:?}")).collect();
        let more = if unknown_words.len() > 5 { ", .." } else { "" };
        warnings.push(format!(
            "the model does not know {}{more}: hits for unknown words mean little",
            words.join(", ")
        ));
    }
    if n_read < n_tokens {
        warnings.push(format!(
            "the text has {n_tokens} tokens and the model reads {n_read}: its end counts for \
             nothing"
        ));
    }
    Ok(warnings)
}

/// A weight, such as `2` or `0.5`; `nan` and `inf` are words.
fn weight_of(text: &str) -> Option<f32> {
    text.parse()
        .ok()
        .filter(|weight: &f32| weight.is_finite() && !text.contains(char::is_alphabetic))
}

/// The embedding of a text, of unit length, from the cache if possible.
pub fn embed_text(text: &str, session: &Session, texts: &mut dyn TextCache) -> Result<Vec<f32>> {
    if let Some(embed) = texts.text_embed(text)? {
        return Ok(embed);
    }
    let embed = block_on(session.embed_text(text))?;
    // Without the cache the next search embeds the text again; this search is not affected.
    if let Err(error) = texts.store_text_embed(text, &embed) {
        tracing::warn!("the vector of the text cannot be kept: {error}");
    }
    Ok(embed)
}

impl Filter {
    fn keeps(&self, photo: &Photo, path: &Path) -> bool {
        match self {
            Self::After(secs) => photo.taken.secs >= *secs,
            Self::Before(secs) => photo.taken.secs < *secs,
            Self::Near(place, km) => {
                photo.place.is_some_and(|there| distance_km(*place, there) <= *km)
            }
            Self::Path(part) => folded(&path.to_string_lossy()).contains(part),
            Self::Camera(part) => {
                photo.camera.as_ref().is_some_and(|camera| folded(camera).contains(part))
            }
            Self::Type(format) => {
                // The format does not name the camera of a raw photo; the extension does.
                photo.format.to_lowercase() == *format
                    || path.extension().is_some_and(|end| end.eq_ignore_ascii_case(format))
            }
            Self::Not(filter) => !filter.keeps(photo, path),
        }
    }
}

/// A token of the query's grammar.
#[derive(Debug, PartialEq)]
enum Word {
    Plain(String),
    /// In quotes, so it is neither a sign nor a filter.
    Quoted(String),
    /// `+` or `-` by itself: applies to all words up to the next sign.
    Sign(f32),
    /// `-cat`, `-"a cat"`: applies to this word.
    Signed(f32, Box<Word>),
    Photo(PathBuf),
}

/// Splits a text at spaces. Text in double quotes is one word; after a colon it continues the word,
/// as in `path:"a b"`.
fn words_of(text: &str) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    let mut before = "";
    for (i, part) in text.split('"').enumerate() {
        if i % 2 == 0 {
            words.extend(part.split_whitespace().map(plain_word));
            before = part;
            continue;
        }
        let quoted = Word::Quoted(part.to_owned());
        match words.last_mut() {
            // The quote follows without a space.
            Some(Word::Plain(key)) if before.ends_with(':') => key.push_str(part),
            Some(Word::Signed(_, word)) if before.ends_with(':') => match word.as_mut() {
                Word::Plain(key) => key.push_str(part),
                _ => words.push(quoted),
            },
            Some(Word::Sign(sign)) if before.ends_with(['+', '-']) => {
                let signed = Word::Signed(*sign, quoted.into());
                *words.last_mut().expect("matched above") = signed;
            }
            _ => words.push(quoted),
        }
        before = part;
    }
    words
}

fn plain_word(text: &str) -> Word {
    let sign = match text.as_bytes()[0] {
        b'+' => 1.0,
        b'-' => -1.0,
        _ => return Word::Plain(text.to_owned()),
    };
    let rest = &text[1..];
    if rest.is_empty() {
        return Word::Sign(sign);
    }
    // `-5` is a number, `-2:cat` is not.
    let is_word = rest.chars().next().is_some_and(char::is_alphabetic);
    let is_weighted = rest.split_once(':').is_some_and(|(weight, _)| weight_of(weight).is_some());
    if is_word || is_weighted {
        Word::Signed(sign, Word::Plain(rest.to_owned()).into())
    } else {
        Word::Plain(text.to_owned())
    }
}

/// Parses a word as a filter; `None` if it does not look like one, an error if its name or value is
/// invalid.
fn filter_of(word: &str) -> Option<Result<Filter, QueryError>> {
    let (key, value) = word.split_once(':')?;
    // `C:` is a disk, `2:` a weight, `10:30` a time; a colon at the end of a word ends a clause.
    let is_name = key.chars().count() > 1 && key.chars().all(|c| c.is_alphabetic() || c == '_');
    if !is_name || path_of_uri(word).is_some() {
        return None;
    }
    let wrong = |wanted: &str| QueryError::Filter { word: word.into(), wanted: wanted.into() };
    let date = |value| {
        let [year, month, day] = date_parts(value).ok_or_else(|| wrong(DATE))?;
        if let Some(date) = date_of(year, month, day) {
            return Ok(secs_of(date.into()));
        }
        Err(match date_of(year, month, 1).filter(|_| day > 0) {
            Some(first) => QueryError::NoSuchDay {
                word: word.into(),
                month: format!("{year:04}-{month:02}"),
                n_days: first.days_in_month(),
            },
            None => wrong(DATE),
        })
    };
    let text = |value: &str| match value {
        "" => Err(wrong(&format!("something after it without a space, as in {key}:holiday"))),
        value => Ok(folded(value)),
    };
    Some(match key {
        "after" => date(value).map(Filter::After),
        "before" => date(value).map(Filter::Before),
        "near" => near(value).ok_or_else(|| {
            wrong("degrees and kilometres, as in near:48.2,16.4 or near:48.2,16.4,25")
        }),
        "path" => text(value).map(Filter::Path),
        "camera" => text(value).map(Filter::Camera),
        "type" => text(value).map(|lower| {
            Filter::Type(match lower.as_str() {
                "jpg" => "jpeg".into(),
                "tif" => "tiff".into(),
                "heif" => "heic".into(),
                _ => lower,
            })
        }),
        _ if value.is_empty() => return None,
        _ => Err(QueryError::UnknownFilter { word: word.into(), key: key.into() }),
    })
}

/// Year, month and day of `2024-05-17`, `2024-05` or `2024`; a missing part is 1.
fn date_parts(text: &str) -> Option<[i64; 3]> {
    let number = |part: &str| {
        part.parse::<i64>().ok().filter(|_| part.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let mut parts = text.split('-').map(number);
    let year = parts.next()??;
    let (month, day) = (parts.next().unwrap_or(Some(1))?, parts.next().unwrap_or(Some(1))?);
    (parts.next().is_none() && (1..=9999).contains(&year)).then_some([year, month, day])
}

fn near(text: &str) -> Option<Filter> {
    let numbers: Option<Vec<f64>> =
        text.split(',').map(|part| part.trim_end_matches("km").parse().ok()).collect();
    let (place, km) = match numbers?.as_slice() {
        [latitude, longitude] => ([*latitude, *longitude], NEAR_KM),
        [latitude, longitude, km] => ([*latitude, *longitude], *km),
        _ => return None,
    };
    (place[0].abs() <= 90.0 && place[1].abs() <= 180.0 && km >= 0.0)
        .then_some(Filter::Near(place, km))
}

/// Distance along a great circle (haversine).
fn distance_km(a: [f64; 2], b: [f64; 2]) -> f64 {
    let half = |i: usize| ((b[i] - a[i]).to_radians() / 2.0).sin().powi(2);
    let chord = half(0) + a[0].to_radians().cos() * b[0].to_radians().cos() * half(1);
    2.0 * EARTH_RADIUS_KM * chord.sqrt().min(1.0).asin()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(weight: f32, text: &str) -> Term {
        Term { weight, what: TermKind::Text(text.into()) }
    }

    #[track_caller]
    fn check(query: &str, terms: &[Term], filters: &[Filter]) {
        let found: Query = query.parse().expect(query);
        assert_eq!((found.terms.as_slice(), found.filters.as_slice()), (terms, filters), "{query}");
        // The shell may split a query at its spaces.
        if !query.contains('"') {
            let arguments: Vec<OsString> = query.split_whitespace().map(OsString::from).collect();
            assert_eq!(Query::of_arguments(&arguments).expect(query), found, "{query}");
        }
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
        check("note: a C:\\dog", &[text(1.0, "note: a C:\\dog")], &[]);
        check("nan:", &[text(1.0, "nan:")], &[]);
    }

    #[test]
    fn nothing_is_found_when_the_best_hit_of_one_text_is_weak() {
        let cutoff = |kept, min_score| Cutoff { kept, min_score, passed: 0.2 };
        let measured = [cutoff(0.95, 0.1), cutoff(0.9, 0.2), cutoff(0.5, 0.4)];
        let warns = |query: &str, best, cutoffs: &[Cutoff]| {
            query.parse::<Query>().expect(query).nothing_found(best, cutoffs).is_some()
        };
        assert!(warns("a red boat", Some(0.19), &measured));
        assert!(warns("a red boat after:2020", Some(0.19), &measured));
        for (query, best, cutoffs) in [
            ("a red boat", Some(0.21), &measured[..]),
            ("a red boat", None, &measured[..]),
            ("a red boat", Some(0.19), &measured[2..]),
            ("beach - people", Some(0.19), &measured[..]),
            ("-cat", Some(0.19), &measured[..]),
            ("after:2020", Some(0.19), &measured[..]),
        ] {
            assert!(!warns(query, best, cutoffs), "{query} {best:?}");
        }
    }

    #[test]
    fn a_sign_at_a_word_is_for_that_word() {
        check("beach -people", &[text(-1.0, "people"), text(1.0, "beach")], &[]);
        check("red -cat boat", &[text(-1.0, "cat"), text(1.0, "red boat")], &[]);
        check("-cat", &[text(-1.0, "cat")], &[]);
        check("+cat -0.5:dog", &[text(1.0, "cat"), text(-0.5, "dog")], &[]);
        check("2:\"a - b\" -cat", &[text(-1.0, "cat"), text(2.0, "a - b")], &[]);
        check("sea -\"a red boat\"", &[text(-1.0, "a red boat"), text(1.0, "sea")], &[]);
        check("at -5 degrees", &[text(1.0, "at -5 degrees")], &[]);
        check("a well-known - -- place", &[text(1.0, "a well-known"), text(-1.0, "-- place")], &[]);
        let not = |filter: Filter| Filter::Not(filter.into());
        check(
            "sea -path:old -camera:\"EOS R5\"",
            &[text(1.0, "sea")],
            &[not(Filter::Path("old".into())), not(Filter::Camera("eos r5".into()))],
        );
    }

    #[test]
    fn filters_stand_anywhere_and_alone() {
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
        check("after:1970-01-02 path:x", &[], &[Filter::After(86_400), Filter::Path("x".into())]);
    }

    #[test]
    fn an_invalid_query_is_an_error() {
        for (query, says) in [
            ("", "looks for nothing"),
            ("-", "looks for nothing"),
            ("x after:soon", "wanted a date"),
            ("x after:", "wanted a date"),
            ("x before:2024-13", "wanted a date"),
            ("x after:2024-02-31", "2024-02 has 29 days; wanted a date"),
            ("x -before:2023-02-29", "2023-02 has 28 days; wanted a date"),
            ("x after:2024-05-00", "wanted a date"),
            ("x before:+2024", "wanted a date"),
            ("x near:vienna", "wanted degrees"),
            ("x near:91,0", "wanted degrees"),
            ("x path: y", "without a space"),
            ("date:2024", "no filter date:; the filters are after:"),
            ("x foo:bar", "in quotes: '\"foo:bar\"'"),
            ("x After:2024", "write it as after:"),
            ("x -größe:5", "no filter größe:"),
            ("nan:dog", "no filter nan:"),
            ("missing.jpg", "no such photo"),
            ("file:///missing.jpg", "no such photo"),
        ] {
            let error = query.parse::<Query>().expect_err(query).to_string();
            assert!(error.contains(says), "{query}: {error}");
        }
    }

    #[test]
    fn a_photo_may_have_any_name() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let photo = |name: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, b"").expect("writable");
            path
        };
        let of = |paths: &[&OsString]| {
            let arguments: Vec<OsString> = paths.iter().map(|path| (*path).clone()).collect();
            Query::of_arguments(&arguments).expect("photos that are there").terms
        };
        let term = |weight, path: &Path| Term { weight, what: TermKind::Photo(path.into()) };
        for name in [
            "a  b.jpg",
            "a - b.jpg",
            "path:x.jpg",
            "\"q\".jpg",
            "-x.jpg",
            "a\tb\n.jpg",
            "no ending",
            "2:c.jpg",
        ] {
            let path = photo(name);
            assert_eq!(of(&[&path.clone().into_os_string()]), [term(1.0, &path)], "{name}");
        }
        let (a, minus, b) = (photo("a.jpg"), OsString::from("-"), photo("b b.jpg"));
        let both = of(&[&a.clone().into(), &minus, &b.clone().into()]);
        assert_eq!(both, [term(1.0, &a), term(-1.0, &b)]);
        let uri = OsString::from(crate::names::file_uri(&b));
        assert_eq!(of(&[&uri]), [term(1.0, &b)]);
        let typed = Query::read(&format!("-2:\"{}\"", b.display())).expect("quoted").terms;
        assert_eq!(typed, [term(-2.0, &b)]);
    }

    #[test]
    fn a_type_is_a_format_or_an_extension_and_a_path_has_any_accents() {
        let of = |format: &str, path: &str| {
            let mut photo = Photo::example(1, path.into(), 0);
            photo.format = format.into();
            photo
        };
        let (raw, misnamed) = (of("RAW", "a.NEF"), of("PNG", "b.jpg"));
        let keeps = |query: &str, photo: &Photo| {
            Query::read(query).expect("a filter").keeps(photo, &photo.paths[0])
        };
        let kept = |kind: &str| {
            let query = format!("type:{kind}");
            (keeps(&query, &raw), keeps(&query, &misnamed))
        };
        assert_eq!(
            (kept("raw"), kept("nef"), kept("cr2")),
            ((true, false), (true, false), (false, false))
        );
        assert_eq!((kept("png"), kept("jpg")), ((false, true), (false, false)));
        let of_mac = of("JPEG", "/cafe\u{301}/A.jpg");
        assert!(keeps("path:caf\u{e9}/a", &of_mac) && keeps("path:CAFE\u{301}", &of_mac));
        assert!(!keeps("path:cafe/", &of_mac) && keeps("-path:cafe/", &of_mac));
    }

    #[test]
    fn distances_are_those_of_a_globe() {
        let (vienna, bratislava) = ([48.2082, 16.3738], [48.1486, 17.1077]);
        assert!((distance_km(vienna, bratislava) - 54.8).abs() < 1.0);
        assert!((distance_km([0.0, 179.5], [0.0, -179.5]) - 111.2).abs() < 0.1);
    }
}
