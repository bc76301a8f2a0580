//! Referring expressions: RefCOCOg, RefCOCO+ and RefCOCO in their published forms.
//!
//! Every box is one region, and its phrases are all expressions for it. Captions of a box are
//! scored against all of them together, as in `refer`'s own evaluation.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use mmgem_core::checkpoint::{HASH_START, hash_bytes};
use mmgem_core::image::BoxPx;
use serde::Deserialize;
use serde_json::Value;

use super::{
    Benchmark, BenchmarkError, BenchmarkFiles, BenchmarkPhoto, BenchmarkRegion, UnlocatedPhotos,
    folder_of, from_json, parse_json, read_json, read_text, roots,
};

pub(super) const WANTED: &str = "RefCOCOg (or RefCOCO, RefCOCO+) as one of:\n    \
    - refer's folder refcocog/ with instances.json and refs(umd).json, which is refs(umd).p converted (below)\n    \
    - MDETR's file finetune_refcocog_val.json {\"images\": [{\"file_name\", \"caption\"}], \"annotations\": [{\"image_id\", \"bbox\"}]}\n    \
    - one JSON object per line, as datasets writes Hugging Face's sets: {\"file_name\" or \"image_path\", \"bbox\": [x, y, width, height] \
    (or \"raw_anns\"), \"captions\", \"answer\" or \"sentences\"}\n  \
    photos: COCO's train2014, beside it or below --images DIR";
const REFS: [&str; 5] = ["refs(umd)", "refs(google)", "refs(unc)", "refs(berkeley)", "refs"];
/// Number of digits of COCO's image numbers in file names.
const NUMBER_DIGITS: usize = 12;
/// The split that region captions are usually reported on.
const USUAL_SPLIT: &str = "val";

/// Expressions, grouped by photo and box.
#[derive(Default)]
struct Referred {
    /// Photos by file name.
    photos: BTreeMap<String, ReferredPhoto>,
}

struct ReferredPhoto {
    id: String,
    /// Boxes in the order of their first expressions.
    boxes: Vec<ReferredBox>,
}

struct ReferredBox {
    /// Identifies the box within its photo.
    object: u64,
    box_px: BoxPx,
    expressions: Vec<String>,
}

impl Referred {
    fn add(
        &mut self,
        file: &str,
        id: String,
        object: u64,
        box_px: BoxPx,
        expressions: Vec<String>,
    ) {
        let new = ReferredPhoto { id, boxes: Vec::new() };
        let photo = self.photos.entry(file.to_owned()).or_insert(new);
        match photo.boxes.iter_mut().find(|known| known.object == object) {
            Some(known) => known.expressions.extend(expressions),
            None => photo.boxes.push(ReferredBox { object, box_px, expressions }),
        }
    }

    fn open(
        self,
        name: String,
        path: &Path,
        files: &BenchmarkFiles,
    ) -> Result<Benchmark, BenchmarkError> {
        let region = |referred: ReferredBox| {
            BenchmarkRegion::new(vec![referred.box_px], referred.expressions)
        };
        let photo = |(file, ReferredPhoto { id, boxes }): (String, ReferredPhoto)| {
            let described = boxes.into_iter().filter(|referred| !referred.expressions.is_empty());
            let regions = described.filter_map(region).collect();
            (BenchmarkPhoto { id, regions, ..Default::default() }, names_of(&file))
        };
        let listed: UnlocatedPhotos = self.photos.into_iter().map(photo).collect();
        // refer stores COCO's photos beside its folders.
        let usual = ["images", "train2014", "../images/mscoco/images/train2014"];
        let roots = roots(files, &folder_of(path), &usual);
        Ok(Benchmark {
            every_phrase: true,
            ..Benchmark::from_files(name, listed, &roots, WANTED, path)?
        })
    }
}

/// Returns the name of a photo's file, and other names of the same photo.
fn names_of(file: &str) -> Vec<String> {
    let base = file.rsplit('/').next().unwrap_or(file);
    let mut names = vec![file.to_owned(), base.to_owned()];
    // COCO_train2014_000000380440.jpg. refer's own list appends the number of the box.
    let number = base.strip_prefix("COCO_train2014_").and_then(|rest| rest.get(..NUMBER_DIGITS));
    if let Some(number) = number.filter(|number| number.bytes().all(|b| b.is_ascii_digit())) {
        let plain = format!("COCO_train2014_{number}.jpg");
        names.extend([
            format!("train2014/{plain}"),
            plain,
            format!("train2017/{number}.jpg"),
            format!("{number}.jpg"),
        ]);
    }
    names.dedup();
    names
}

/// Derives the set, such as "RefCOCOg", from the name of a file or its folder.
fn set_of(path: &Path) -> &'static str {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let names = path.iter().rev().map(|part| part.to_string_lossy().to_lowercase());
    let of = |name: String| match name {
        name if name.contains("refcocog") => Some("RefCOCOg"),
        name if name.contains("refcoco+") || name.contains("refcocoplus") => Some("RefCOCO+"),
        name if name.contains("refcoco") => Some("RefCOCO"),
        _ => None,
    };
    names.take(2).find_map(of).unwrap_or("referring expressions")
}

fn edges([x, y, width, height]: [f32; 4]) -> BoxPx {
    [x, y, x + width, y + height]
}

#[derive(Deserialize)]
struct Reference {
    ann_id: u64,
    image_id: u64,
    split: String,
    sentences: Vec<Sentence>,
}

#[derive(Deserialize)]
struct Sentence {
    /// Lower case without punctuation. refer evaluates against this text.
    sent: Option<String>,
    raw: Option<String>,
}

impl Sentence {
    fn text(self) -> Option<String> {
        self.sent.or(self.raw)
    }
}

#[derive(Deserialize)]
struct Instances {
    images: Vec<InstancesImage>,
    annotations: Vec<Instance>,
}

#[derive(Deserialize)]
struct InstancesImage {
    id: u64,
    file_name: String,
}

#[derive(Deserialize)]
struct Instance {
    id: u64,
    bbox: [f32; 4],
}

/// Opens refer's folder: `instances.json` has the boxes, `refs(umd).json` the expressions.
pub(super) fn open_refer(
    folder: &Path,
    files: &BenchmarkFiles,
) -> Result<Benchmark, BenchmarkError> {
    let found = |ext: &str| {
        let paths = REFS.map(|name| folder.join(format!("{name}.{ext}")));
        paths.into_iter().find(|path| path.is_file())
    };
    match (found("json"), found("p")) {
        (Some(refs), _) => {
            let json: Value = read_json(&refs, WANTED)?;
            open_refs(json, &refs, files)
        }
        (None, Some(pickle)) => Err(pickled(&pickle)),
        (None, None) => Err(BenchmarkError::Layout {
            found: "there are boxes (instances.json), but no refs(umd).json with the expressions"
                .into(),
            wanted: WANTED.into(),
            path: folder.into(),
        }),
    }
}

/// An error that explains how to convert a Python pickle.
pub(super) fn pickled(path: &Path) -> BenchmarkError {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = file.trim_end_matches(".p").trim_end_matches(".pkl");
    BenchmarkError::Layout {
        found: format!("{file} is a Python pickle, which only Python can read"),
        wanted: format!(
            "the same as {stem}.json, beside it; in its folder:\n    \
             python3 -c \"import json, pickle; json.dump(pickle.load(open('{file}', 'rb'), encoding='latin1'), open('{stem}.json', 'w'))\""
        ),
        path: path.into(),
    }
}

/// Opens `refs(umd).json`, with `instances.json` beside it.
pub(super) fn open_refs(
    json: Value,
    path: &Path,
    files: &BenchmarkFiles,
) -> Result<Benchmark, BenchmarkError> {
    let references: Vec<Reference> = from_json(json, path, WANTED)?;
    let layout =
        |found: String| BenchmarkError::Layout { found, wanted: WANTED.into(), path: path.into() };
    let split = files.split.as_deref().unwrap_or(USUAL_SPLIT);
    let mut splits: Vec<&str> =
        references.iter().map(|reference| reference.split.as_str()).collect();
    splits.sort_unstable();
    splits.dedup();
    if !splits.contains(&split) {
        return Err(layout(format!("it has no split {split:?}, but {}", splits.join(", "))));
    }
    let instances: Instances = read_json(&folder_of(path).join("instances.json"), WANTED)?;
    let names: HashMap<u64, String> =
        instances.images.into_iter().map(|image| (image.id, image.file_name)).collect();
    let boxes: HashMap<u64, [f32; 4]> = instances
        .annotations
        .into_iter()
        .map(|annotation| (annotation.id, annotation.bbox))
        .collect();
    let name = format!("{} {}, split {split}", set_of(path), by_of(path));
    let mut referred = Referred::default();
    for reference in references.into_iter().filter(|reference| reference.split == split) {
        let (Some(file), Some(bbox)) =
            (names.get(&reference.image_id), boxes.get(&reference.ann_id))
        else {
            return Err(layout(format!(
                "the image {} or the box {} is not in instances.json",
                reference.image_id, reference.ann_id
            )));
        };
        let expressions = reference.sentences.into_iter().filter_map(Sentence::text).collect();
        referred.add(
            file,
            reference.image_id.to_string(),
            reference.ann_id,
            edges(*bbox),
            expressions,
        );
    }
    referred.open(name, path, files)
}

/// Author of the split, such as `(umd)`.
fn by_of(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    stem.trim_start_matches("refs").to_owned()
}

#[derive(Deserialize)]
struct Mdetr {
    images: Vec<MdetrImage>,
    annotations: Vec<MdetrAnnotation>,
}

#[derive(Deserialize)]
struct MdetrImage {
    id: u64,
    file_name: String,
    caption: String,
    original_id: Option<u64>,
}

#[derive(Deserialize)]
struct MdetrAnnotation {
    image_id: u64,
    bbox: [f32; 4],
}

/// Opens MDETR's `finetune_refcocog_val.json`, in which each expression is its own image with one
/// box.
pub(super) fn open_mdetr(
    json: Value,
    path: &Path,
    files: &BenchmarkFiles,
) -> Result<Benchmark, BenchmarkError> {
    if let Some(split) = &files.split {
        return Err(BenchmarkError::Layout {
            found: format!("--split {split} was given, but this file is one split by itself"),
            wanted: format!(
                "the file of that split, as in finetune_refcocog_{split}.json, and no --split"
            ),
            path: path.into(),
        });
    }
    let file: Mdetr = from_json(json, path, WANTED)?;
    let boxes: HashMap<u64, [f32; 4]> = file
        .annotations
        .into_iter()
        .map(|annotation| (annotation.image_id, annotation.bbox))
        .collect();
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut referred = Referred::default();
    for image in file.images {
        let Some(bbox) = boxes.get(&image.id) else { continue };
        let id = image.original_id.unwrap_or(image.id).to_string();
        referred.add(&image.file_name, id, object_of(*bbox), edges(*bbox), vec![image.caption]);
    }
    referred.open(format!("{} ({stem})", set_of(path)), path, files)
}

/// An identifier for a box without a number.
fn object_of(bbox: [f32; 4]) -> u64 {
    bbox.iter().fold(HASH_START, |hash, edge| hash_bytes(hash, &edge.to_le_bytes()))
}

/// Whether a line of JSON has a referring expression.
pub(super) fn is_line(json: &Value) -> bool {
    json.get("bbox").is_some() || json.get("raw_anns").is_some()
}

/// Opens JSON lines as written by Hugging Face's `datasets`.
pub(super) fn open_lines(path: &Path, files: &BenchmarkFiles) -> Result<Benchmark, BenchmarkError> {
    let layout =
        |found: String| BenchmarkError::Layout { found, wanted: WANTED.into(), path: path.into() };
    let split = files.split.as_deref().unwrap_or(USUAL_SPLIT);
    let text = read_text(path, WANTED)?;
    let (mut referred, mut has_splits) = (Referred::default(), false);
    for (n, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let json: Value = parse_json(line, path, WANTED)?;
        let of_split = json.get("split").and_then(Value::as_str);
        has_splits |= of_split.is_some();
        if of_split.is_some_and(|found| found != split) {
            continue;
        }
        let file = ["image_path", "file_name"].iter().find_map(|key| json.get(*key)?.as_str());
        let (Some(file), Some(bbox)) = (file, box_of(&json)) else {
            return Err(layout(format!(
                "line {n} has no file_name or image_path, or no bbox of four numbers"
            )));
        };
        let expressions = expressions_of(&json);
        if expressions.is_empty() {
            return Err(layout(format!("line {n} has no captions, answer or sentences")));
        }
        let id = json
            .get("image_id")
            .and_then(Value::as_u64)
            .map_or_else(|| file.to_owned(), |id| id.to_string());
        let object = json.get("ann_id").and_then(Value::as_u64).unwrap_or_else(|| object_of(bbox));
        referred.add(file, id, object, edges(bbox), expressions);
    }
    let of_split = if has_splits { format!(", split {split}") } else { String::new() };
    referred.open(format!("{}{of_split}", set_of(path)), path, files)
}

/// Returns `[x, y, width, height]`: from COCO's own annotation if present (the `bbox` beside it
/// then has corners), else from `bbox`.
fn box_of(json: &Value) -> Option<[f32; 4]> {
    let own = json.get("raw_anns").map(|raw| match raw.as_str() {
        Some(text) => serde_json::from_str(text).unwrap_or(Value::Null),
        None => raw.clone(),
    });
    let bbox = match &own {
        Some(annotation) => annotation.get("bbox")?,
        None => json.get("bbox")?,
    };
    serde_json::from_value(bbox.clone()).ok()
}

/// The expressions for a box: refer's sentences, else a list of texts, else one text.
fn expressions_of(json: &Value) -> Vec<String> {
    let sentences = json
        .get("sentences")
        .and_then(|list| serde_json::from_value::<Vec<Sentence>>(list.clone()).ok());
    let from_sentences: Vec<String> =
        sentences.into_iter().flatten().filter_map(Sentence::text).collect();
    if !from_sentences.is_empty() {
        return from_sentences;
    }
    let texts = ["captions", "answer", "caption"].iter().find_map(|key| json.get(*key));
    match texts {
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(list)) => {
            list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}

/// Whether the path is an existing Python pickle.
pub(super) fn is_pickle(path: &Path) -> bool {
    let extension = path.extension().map(|ext| ext.to_string_lossy().to_lowercase());
    extension.is_some_and(|ext| ["p", "pkl", "pickle"].contains(&ext.as_str())) && path.is_file()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_photo_is_found_under_all_of_its_names() {
        let names = names_of("COCO_train2014_000000380440_491042.jpg");
        for wanted in
            ["COCO_train2014_000000380440.jpg", "train2017/000000380440.jpg", "000000380440.jpg"]
        {
            assert!(names.iter().any(|name| name == wanted), "{wanted} in {names:?}");
        }
        assert_eq!(names_of("a/b.jpg"), ["a/b.jpg", "b.jpg"]);
    }

    #[test]
    fn lines_of_both_hugging_face_sets_are_understood() {
        let lmms = json!({ "bbox": [10.0, 20.0, 30.0, 40.0], "answer": ["a dog", "the dog"] });
        assert_eq!(box_of(&lmms).map(edges), Some([10.0, 20.0, 40.0, 60.0]));
        assert_eq!(expressions_of(&lmms), ["a dog", "the dog"]);
        // jxu124's bbox has corners. The annotation beside it is COCO's.
        let raw = json!({ "bbox": [10.0, 20.0, 30.0, 40.0], "image_id": 5 }).to_string();
        let jxu = json!({ "bbox": [10.0, 20.0, 40.0, 60.0], "raw_anns": raw,
            "sentences": [{ "raw": "A dog.", "sent": "a dog", "sent_id": 1 }], "captions": ["A dog."] });
        assert_eq!(box_of(&jxu).map(edges), Some([10.0, 20.0, 40.0, 60.0]));
        assert_eq!(expressions_of(&jxu), ["a dog"]);
        assert!(is_line(&jxu) && !is_line(&json!({ "image_file": "a.jpg" })));
    }

    #[test]
    fn a_set_is_recognized_by_its_file_or_folder() {
        assert_eq!(set_of(Path::new("x/refcoco+/refs(unc).json")), "RefCOCO+");
        assert_eq!(set_of(Path::new("x/finetune_refcocog_val.json")), "RefCOCOg");
        assert_eq!(by_of(Path::new("x/refs(umd).json")), "(umd)");
    }
}
