//! Caption files in COCO's formats: parsing, and pairing of candidates with references.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::{Deserialize, Serialize};

/// Errors of reading or pairing caption files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CocoError {
    /// The results file is an empty list.
    #[error(
        "found no candidate caption, want one for each image: check that the file is not empty"
    )]
    NoCandidates,
    /// A captioned image has no references.
    #[error(
        "found a candidate for image {0} but no reference captions for it: add its references or remove the candidate"
    )]
    NoReferences(ImageId),
    /// An image has two candidates.
    #[error("found a second candidate for image {0}, want one for each image: remove all but one")]
    DuplicateCandidate(ImageId),
    /// Images with references have no candidate.
    #[error(
        "found references of image {image_id} and {n_more} more images but no candidates for them: caption these images or remove their references"
    )]
    NoCandidate {
        /// The first such image.
        image_id: ImageId,
        /// Number of further such images.
        n_more: usize,
    },
    /// The file is not JSON of the expected form.
    #[error("{what} cannot be read ({found}), want {form}: check that this is the right file")]
    Json {
        /// Contents of the file: `candidates` or `references`.
        what: &'static str,
        /// Example of the expected form.
        form: &'static str,
        /// Message of the JSON parser.
        found: String,
    },
}

/// Name of an image in a caption file; the number 7 and the string `"7"` are the same image.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ImageId(pub String);

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ImageId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "an image id that is a number or a string")]
        enum NumberOrString {
            Number(i64),
            String(String),
        }
        Ok(match NumberOrString::deserialize(deserializer)? {
            NumberOrString::Number(number) => Self(number.to_string()),
            NumberOrString::String(name) => Self(name),
        })
    }
}

/// One entry of a COCO results file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CandidateCaption {
    /// Image that the caption describes.
    pub image_id: ImageId,
    /// Caption that the model wrote.
    pub caption: String,
}

/// The reference captions of one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageReferences {
    /// Image that the captions describe.
    pub image_id: ImageId,
    /// Captions that people wrote, in the order of the file.
    pub captions: Vec<String>,
}

/// Candidates and references of the same images, ready for [`super::caption::score`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PairedCaptions {
    /// Images, in the order of their references.
    pub image_ids: Vec<ImageId>,
    /// Candidate of each image.
    pub candidates: Vec<String>,
    /// References of each image.
    pub references: Vec<Vec<String>>,
}

/// Reads a COCO results file: `[{"image_id": 7, "caption": ".."}, ..]`.
///
/// # Errors
/// If the bytes are not JSON of this form.
pub fn parse_candidates(json: &[u8]) -> Result<Vec<CandidateCaption>, CocoError> {
    serde_json::from_slice(json).map_err(|error| CocoError::Json {
        what: "candidates",
        form: r#"[{"image_id": 7, "caption": ".."}]"#,
        found: error.to_string(),
    })
}

/// Reads reference captions: COCO annotations
/// (`{"annotations": [{"image_id", "id", "caption"}, ..]}`) or `{"7": ["..", ".."], ..}`.
///
/// Images are in order of first mention; an image's captions are sorted by annotation id.
///
/// # Errors
/// If the bytes are not JSON of one of these forms.
pub fn parse_references(json: &[u8]) -> Result<Vec<ImageReferences>, CocoError> {
    #[derive(Deserialize)]
    struct Annotation {
        image_id: ImageId,
        #[serde(default)]
        id: i64,
        caption: String,
    }
    let wrong = |error: serde_json::Error| CocoError::Json {
        what: "references",
        form: r#"{"annotations": [{"image_id": 7, "id": 1, "caption": ".."}]} or {"7": ["..", ".."]}"#,
        found: error.to_string(),
    };
    let mut file: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(json).map_err(wrong)?;
    let is_object = |value: &serde_json::Value| {
        value.as_array().is_some_and(|v| v.iter().all(|a| a.is_object()))
    };
    let Some(annotations) = file.get_mut("annotations").filter(|v| is_object(v)) else {
        return file
            .into_iter()
            .map(|(image_id, captions)| {
                let captions = serde_json::from_value(captions).map_err(wrong)?;
                Ok(ImageReferences { image_id: ImageId(image_id), captions })
            })
            .collect();
    };
    let mut annotations: Vec<Annotation> =
        serde_json::from_value(annotations.take()).map_err(wrong)?;
    let mut images: Vec<ImageReferences> = Vec::new();
    let mut positions: HashMap<ImageId, usize> = HashMap::new();
    for annotation in &annotations {
        positions.entry(annotation.image_id.clone()).or_insert_with(|| {
            images.push(ImageReferences {
                image_id: annotation.image_id.clone(),
                captions: Vec::new(),
            });
            images.len() - 1
        });
    }
    annotations.sort_by_key(|annotation| annotation.id);
    for annotation in annotations {
        images[positions[&annotation.image_id]].captions.push(annotation.caption);
    }
    Ok(images)
}

/// Pairs candidates with references, in the order of `references`.
///
/// # Errors
/// If an image has two candidates, a candidate without references, or references without a
/// candidate.
pub fn pair(
    candidates: Vec<CandidateCaption>,
    references: Vec<ImageReferences>,
) -> Result<PairedCaptions, CocoError> {
    if candidates.is_empty() {
        return Err(CocoError::NoCandidates);
    }
    let known: HashSet<&ImageId> = references.iter().map(|image| &image.image_id).collect();
    let mut by_image: HashMap<ImageId, String> = HashMap::with_capacity(candidates.len());
    for candidate in candidates {
        if !known.contains(&candidate.image_id) {
            return Err(CocoError::NoReferences(candidate.image_id));
        }
        if by_image.contains_key(&candidate.image_id) {
            return Err(CocoError::DuplicateCandidate(candidate.image_id));
        }
        by_image.insert(candidate.image_id, candidate.caption);
    }
    let n_missing =
        references.iter().filter(|image| !by_image.contains_key(&image.image_id)).count();
    let mut paired = PairedCaptions::default();
    for image in references {
        let Some(candidate) = by_image.remove(&image.image_id) else {
            return Err(CocoError::NoCandidate { image_id: image.image_id, n_more: n_missing - 1 });
        };
        if image.captions.is_empty() {
            return Err(CocoError::NoReferences(image.image_id));
        }
        paired.image_ids.push(image.image_id);
        paired.candidates.push(candidate);
        paired.references.push(image.captions);
    }
    Ok(paired)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_are_sorted_by_id_and_ids_may_be_numbers_or_strings() {
        let references = parse_references(
            br#"{"images": [], "annotations": [
                {"image_id": 7, "id": 5, "caption": "second"},
                {"image_id": "7", "id": 2, "caption": "first"},
                {"image_id": "a", "id": 3, "caption": "other"}]}"#,
        )
        .unwrap();
        assert_eq!(references[0].captions, ["first", "second"]);
        assert_eq!(references[1].image_id, ImageId("a".to_owned()));

        let candidates = br#"[{"image_id": "a", "caption": "x"}, {"image_id": 7, "caption": "y"}]"#;
        let paired = pair(parse_candidates(candidates).unwrap(), references).unwrap();
        assert_eq!(paired.candidates, ["y", "x"]);
    }

    #[test]
    fn a_plain_object_of_references_is_read() {
        let references = parse_references(br#"{"7": ["one", "two"], "x": ["three"]}"#).unwrap();
        assert_eq!(references.len(), 2);
        assert!(references.iter().any(|image| image.captions == ["one", "two"]));
    }

    #[test]
    fn files_that_do_not_pair_are_errors() {
        let id = |name: &str| ImageId(name.to_owned());
        let candidate =
            |name: &str| CandidateCaption { image_id: id(name), caption: "an owl".to_owned() };
        let image =
            |name: &str| ImageReferences { image_id: id(name), captions: vec!["an owl".into()] };
        let check = |candidates: &[&str], references: &[&str], wanted| {
            let candidates = candidates.iter().map(|name| candidate(name)).collect();
            let references = references.iter().map(|name| image(name)).collect();
            assert_eq!(pair(candidates, references), Err(wanted));
        };
        check(&["a"], &["b"], CocoError::NoReferences(id("a")));
        check(&["a", "a"], &["a"], CocoError::DuplicateCandidate(id("a")));
        check(&["a"], &["a", "b"], CocoError::NoCandidate { image_id: id("b"), n_more: 0 });
        check(&[], &["a"], CocoError::NoCandidates);
    }

    #[test]
    fn json_of_another_form_says_what_is_wanted() {
        for error in [
            parse_candidates(br#"{"image_id": 7}"#).unwrap_err(),
            parse_references(b"[1]").unwrap_err(),
            parse_references(br#"{"7": "one"}"#).unwrap_err(),
        ] {
            assert!(error.to_string().contains("want"), "{error}");
        }
    }
}
