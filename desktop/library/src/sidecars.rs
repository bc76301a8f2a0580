//! Files that other programs put beside photos: XMP sidecars and the JSON of a Google Takeout.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde_json::Value;

use super::dates::{DateSource, PhotoDate, date_of_name};
use super::metadata::{real_place, xmp_place, xmp_secs};

/// Larger sidecars are ignored; a usual one has a few kilobytes.
const SIZE_LIMIT: u64 = 1 << 20;
/// Takeout truncates a file's name to at most this many characters before `.json`.
const TAKEOUT_LETTERS: usize = 46;
/// The suffix that Takeout adds to the photo's name, whole or truncated.
const TAKEOUT_WORDS: &str = ".supplemental-metadata";

/// Metadata from a photo's name and its sidecars.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SidecarMetadata {
    pub taken: Option<PhotoDate>,
    /// Latitude and longitude, in degrees.
    pub place: Option<[f64; 2]>,
}

impl SidecarMetadata {
    /// Reads the name and the sidecars; ignores a sidecar that it cannot read.
    pub fn of(photo: &Path, sidecars: &[PathBuf]) -> Self {
        let mut found = Self::default();
        for sidecar in sidecars {
            let is_small = fs::metadata(sidecar).is_ok_and(|metadata| metadata.len() <= SIZE_LIMIT);
            let Some(bytes) = is_small.then(|| fs::read(sidecar).ok()).flatten() else { continue };
            let of_sidecar = if ends_with(sidecar.as_os_str(), ".json") {
                of_takeout(&bytes)
            } else {
                of_xmp(&String::from_utf8_lossy(&bytes))
            };
            let dates = [found.taken, of_sidecar.taken];
            found.taken = dates.into_iter().flatten().min_by_key(|taken| taken.from);
            found.place = found.place.or(of_sidecar.place);
        }
        let of_name = || date_of_name(photo).map(|secs| PhotoDate { secs, from: DateSource::Name });
        Self { taken: found.taken.or_else(of_name), ..found }
    }
}

fn of_xmp(xmp: &str) -> SidecarMetadata {
    let taken = xmp_secs(xmp).map(|secs| PhotoDate { secs, from: DateSource::Sidecar });
    SidecarMetadata { taken, place: xmp_place(xmp) }
}

fn of_takeout(json: &[u8]) -> SidecarMetadata {
    let Ok(json) = serde_json::from_slice::<Value>(json) else { return SidecarMetadata::default() };
    let stamp = &json["photoTakenTime"]["timestamp"];
    let secs = stamp.as_i64().or_else(|| stamp.as_str()?.trim().parse().ok());
    let place = ["geoData", "geoDataExif"].into_iter().find_map(|key| {
        real_place(json[key]["latitude"].as_f64()?, json[key]["longitude"].as_f64()?)
    });
    SidecarMetadata { taken: secs.map(|secs| PhotoDate { secs, from: DateSource::Takeout }), place }
}

/// Time of the last change to a photo's sidecars, in nanoseconds since 1970; `None` without
/// sidecars.
pub fn changed_ns(sidecars: &[PathBuf]) -> Option<i64> {
    let changed = |sidecar: &PathBuf| {
        let since = fs::metadata(sidecar).ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        i64::try_from(since.as_nanos()).ok()
    };
    sidecars.iter().filter_map(changed).max()
}

/// Whether a file of this name may be a sidecar.
pub fn is_sidecar(name: &OsStr) -> bool {
    ends_with(name, ".xmp") || ends_with(name, ".json")
}

fn ends_with(name: &OsStr, ending: &str) -> bool {
    let name = name.as_encoded_bytes();
    name.len() > ending.len()
        && name[name.len() - ending.len()..].eq_ignore_ascii_case(ending.as_bytes())
}

/// The sidecars of a folder, by name in lower case.
#[derive(Debug, Default)]
pub struct FolderSidecars {
    names: HashMap<String, OsString>,
}

impl FolderSidecars {
    /// Adds a file that [`is_sidecar`].
    pub fn add(&mut self, name: OsString) {
        // A name that is not UTF-8 cannot match a photo's name that is.
        if let Some(text) = name.to_str() {
            self.names.insert(text.to_lowercase(), name);
        }
    }

    /// The sidecars of a photo: `a.jpg.xmp`, `a.xmp`, `a.jpg.json`,
    /// `a.jpg.supplemental-metadata.json`. Also Takeout's names for long names, copies (`a(1).jpg`
    /// has `a.jpg(1).json`) and edited photos (`a-edited.jpg` has `a.jpg.json`).
    pub fn of(&self, photo: &Path) -> Vec<PathBuf> {
        let (Some(name), Some(stem)) =
            (photo.file_name().and_then(OsStr::to_str), photo.file_stem().and_then(OsStr::to_str))
        else {
            return Vec::new();
        };
        if self.names.is_empty() {
            return Vec::new();
        }
        let (name, stem) = (name.to_lowercase(), stem.to_lowercase());
        let mut candidates = vec![format!("{name}.xmp"), format!("{stem}.xmp")];
        candidates.extend(takeout_names(&name, &stem));
        let found = candidates.iter().filter_map(|candidate| self.names.get(candidate));
        found.map(|name| photo.with_file_name(name)).collect()
    }
}

/// Names that Takeout may give the JSON of a photo.
fn takeout_names(name: &str, stem: &str) -> Vec<String> {
    let ending = &name[stem.len()..];
    // For `a(1).jpg` Takeout puts the number behind the photo's extension.
    let numbered = stem.strip_suffix(')').and_then(|stem| stem.rsplit_once('('));
    let numbered = numbered
        .filter(|(_, number)| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()));
    let mut titles = vec![(name.to_owned(), String::new())];
    if let Some((title, number)) = numbered {
        titles.push((format!("{title}{ending}"), format!("({number})")));
    }
    if let Some(original) = stem.strip_suffix("-edited") {
        titles.push((format!("{original}{ending}"), String::new()));
    }
    let mut names = Vec::new();
    for (title, number) in titles {
        let n_letters = title.chars().count();
        let whole: Vec<char> = title.chars().chain(TAKEOUT_WORDS.chars()).collect();
        let first = n_letters.min(TAKEOUT_LETTERS);
        for kept in first..=whole.len() {
            let cut: String = whole[..kept].iter().collect();
            names.push(format!("{cut}{number}.json"));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::super::dates::second_in_words;
    use super::*;

    fn of(photo: &str, files: &[&str]) -> Vec<String> {
        let mut folder = FolderSidecars::default();
        files.iter().for_each(|name| folder.add((*name).into()));
        let found = folder.of(&Path::new("/a").join(photo));
        found
            .iter()
            .map(|path| path.file_name().expect("a name").to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn sidecars_are_found_by_the_photos_name() {
        assert_eq!(
            of("a.JPG", &["a.JPG.xmp", "a.XMP", "b.xmp", "a.jpg.txt"]),
            ["a.JPG.xmp", "a.XMP"]
        );
        for json in [
            "a.jpg.json",
            "a.jpg.supplemental-metadata.json",
            "a.jpg.supplemental-meta.json",
            "a.jpg.s.json",
        ] {
            assert_eq!(of("a.jpg", &[json, "ab.jpg.json"]), [json]);
        }
        assert_eq!(of("a(2).jpg", &["a.jpg.json", "a.jpg(2).json"]), ["a.jpg(2).json"]);
        assert_eq!(
            of("a(2).jpg", &["a.jpg.supplemental-metadata(2).json"]),
            ["a.jpg.supplemental-metadata(2).json"]
        );
        assert_eq!(of("a-edited.jpg", &["a.jpg.json"]), ["a.jpg.json"]);
        let long = format!("{}.jpg", "x".repeat(60));
        let cut = format!("{}.json", "x".repeat(46));
        assert_eq!(of(&long, &[&cut]), [cut]);
        assert_eq!(of("a.jpg", &["a.json", "package.json"]), [""; 0]);
        assert!(
            is_sidecar(OsStr::new("a.Xmp"))
                && !is_sidecar(OsStr::new(".xmp"))
                && !is_sidecar(OsStr::new("a.jpg"))
        );
    }

    #[test]
    fn the_best_of_what_stands_beside_a_photo_counts() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).expect("writable");
            path
        };
        let xmp = write(
            "a.xmp",
            "<x:xmpmeta><a exif:DateTimeOriginal='2021-05-06T12:00:05'/></x:xmpmeta>",
        );
        let takeout = write(
            "a.jpg.json",
            r#"{"photoTakenTime": {"timestamp": "1620302406"}, "geoData": {"latitude": 48.5, "longitude": -16.25}}"#,
        );
        let other = write("b.json", r#"{"name": "another program's"}"#);
        let broken = write("c.json", "{");
        let photo = Path::new("IMG-20130809-WA0001.jpg");
        let told = |sidecars: &[&PathBuf]| {
            let sidecars: Vec<PathBuf> = sidecars.iter().map(|path| (*path).clone()).collect();
            let found = SidecarMetadata::of(photo, &sidecars);
            let taken = found.taken.expect("the name has a date");
            (second_in_words(taken.secs), taken.from, found.place)
        };
        let place = Some([48.5, -16.25]);
        assert_eq!(
            told(&[&takeout, &xmp]),
            ("2021-05-06T12:00:05".into(), DateSource::Sidecar, place)
        );
        assert_eq!(
            told(&[&takeout, &other]),
            ("2021-05-06T12:00:06".into(), DateSource::Takeout, place)
        );
        assert_eq!(
            told(&[&broken, &other]),
            ("2013-08-09T00:00:00".into(), DateSource::Name, None)
        );
        assert_eq!(SidecarMetadata::of(Path::new("a.jpg"), &[]), SidecarMetadata::default());
        assert!(changed_ns(&[xmp]).is_some_and(|ns| ns > 0) && changed_ns(&[]).is_none());
    }
}
