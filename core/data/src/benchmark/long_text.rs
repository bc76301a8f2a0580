//! Benchmarks with long descriptions: DCI, IIW and DOCCI.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{
    Benchmark, BenchmarkError, BenchmarkFiles, BenchmarkPhoto, UnlocatedPhotos, folder_of,
    malformed, parse_json, read_json, read_text, roots,
};

const DCI: &str = "DCI's folder: annotations/*.json {\"image\", \"short_caption\", \"extra_caption\"}, photos/, and \
    for --split also splits.json {\"train\": [..], \"valid\", \"test\"}";
pub(super) const LINES: &str = "one JSON object per line: DOCCI's docci_descriptions.jsonlines {\"image_file\", \"split\", \
    \"description\"} with images/, or IIW's data.jsonl {\"image/key\", \"IIW\"} with the photos KEY.jpg beside it or \
    below --images DIR";

/// The text that describes a photo of DCI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LongText {
    /// The short and the long caption, their lines joined by ". " (LoTLIP's long-text retrieval).
    #[default]
    ShortAndExtra,
    /// Only the long caption (FG-CLIP's).
    Extra,
    /// Only the short caption.
    Short,
}

#[derive(Deserialize)]
struct Annotation {
    image: String,
    #[serde(default)]
    short_caption: String,
    #[serde(default)]
    extra_caption: String,
}

/// Opens all photos of DCI's folder (7,805 in the original), or one split.
pub(super) fn open_dci(folder: &Path, files: &BenchmarkFiles) -> Result<Benchmark, BenchmarkError> {
    let annotations = folder.join("annotations");
    let layout =
        |found: String| BenchmarkError::Layout { found, wanted: DCI.into(), path: folder.into() };
    let entries = std::fs::read_dir(&annotations)
        .map_err(|e| layout(format!("cannot list annotations/: {e}")))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".json"))
        .collect();
    names.sort();
    if let Some(split) = &files.split {
        let splits = folder.join("splits.json");
        let all: serde_json::Map<String, Value> = read_json(&splits, DCI)?;
        let of_split = all.get(split).and_then(Value::as_array);
        let of_split =
            of_split.ok_or_else(|| layout(format!("splits.json has no list {split:?}")))?;
        let chosen: Vec<&str> = of_split.iter().filter_map(Value::as_str).collect();
        let stem = |name: &str| name.split('.').next().unwrap_or(name).to_owned();
        names.retain(|name| chosen.iter().any(|chosen| stem(chosen) == stem(name)));
    }
    let mut listed: UnlocatedPhotos = Vec::with_capacity(names.len());
    for name in &names {
        let annotation: Annotation = read_json(&annotations.join(name), DCI)?;
        let text = annotation.text(files.long_text);
        let photo = BenchmarkPhoto {
            id: annotation.image.clone(),
            captions: if text.is_empty() { Vec::new() } else { vec![text] },
            ..Default::default()
        };
        listed.push((photo, vec![annotation.image]));
    }
    let split =
        files.split.as_deref().map_or("all photos".into(), |split| format!("split {split}"));
    let name = format!("DCI, {split}, text: {}", files.long_text.words());
    Benchmark::from_files(name, listed, &roots(files, folder, &["photos"]), DCI, folder)
}

impl Annotation {
    fn text(&self, which: LongText) -> String {
        let lines = match which {
            LongText::ShortAndExtra => format!("{}\n{}", self.short_caption, self.extra_caption),
            LongText::Extra => self.extra_caption.clone(),
            LongText::Short => self.short_caption.clone(),
        };
        lines
            .split('\n')
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>()
            .join(". ")
    }
}

impl LongText {
    fn words(self) -> &'static str {
        match self {
            Self::ShortAndExtra => "short and extra caption",
            Self::Extra => "extra caption",
            Self::Short => "short caption",
        }
    }
}

/// Opens DOCCI's or IIW's JSON lines.
pub(super) fn open_lines(path: &Path, files: &BenchmarkFiles) -> Result<Benchmark, BenchmarkError> {
    let text = read_text(path, LINES)?;
    let mut listed: UnlocatedPhotos = Vec::new();
    let (mut is_docci, mut n_lines) = (false, 0);
    let split = files.split.as_deref().unwrap_or("test");
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        n_lines += 1;
        let json: Value = parse_json(line, path, LINES)?;
        let field = |key: &str| json.get(key).and_then(Value::as_str);
        let (file, text) = match (field("image_file"), field("image/key")) {
            (Some(file), _) => {
                is_docci = true;
                if field("split").is_some_and(|found| found != split) {
                    continue;
                }
                (file.to_owned(), field("description"))
            }
            (None, Some(key)) => (format!("{}.jpg", key.trim_end_matches(".jpg")), field("IIW")),
            (None, None) => {
                let error = <serde_json::Error as serde::de::Error>::custom(format!(
                    "line {n_lines} has neither image_file nor image/key"
                ));
                return Err(malformed(error, path, LINES));
            }
        };
        let photo = BenchmarkPhoto {
            id: file.clone(),
            captions: text
                .map(str::trim)
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
                .into_iter()
                .collect(),
            ..Default::default()
        };
        listed.push((photo, vec![file.clone(), file.replace(".jpg", ".png")]));
    }
    let name = if is_docci { format!("DOCCI, split {split}") } else { "IIW".into() };
    Benchmark::from_files(name, listed, &roots(files, &folder_of(path), &["images"]), LINES, path)
}
