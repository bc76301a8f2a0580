//! Caption benchmarks COCO, Flickr30k and NoCaps: Karpathy's JSON and COCO's own.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{
    Benchmark, BenchmarkError, BenchmarkFiles, BenchmarkPhoto, UnlocatedPhotos, folder_of,
    from_json, roots,
};

const KARPATHY: &str = "dataset_coco.json or dataset_flickr30k.json of Karpathy's caption_datasets: {\"dataset\", \
    \"images\": [{\"filename\", \"filepath\" (COCO: train2014 or val2014), \"split\", \"sentences\": [{\"raw\"}]}]}, \
    with the photos beside it or below --images DIR";
const CAPTIONS: &str = "COCO's annotations (also NoCaps'): {\"images\": [{\"id\", \"file_name\"}], \"annotations\": \
    [{\"image_id\", \"caption\"}]}, with the photos beside it or below --images DIR";

#[derive(Deserialize)]
struct Karpathy {
    #[serde(default)]
    dataset: String,
    images: Vec<KarpathyImage>,
}

#[derive(Deserialize)]
struct KarpathyImage {
    #[serde(default)]
    filepath: String,
    filename: String,
    split: String,
    cocoid: Option<u64>,
    sentences: Vec<KarpathySentence>,
}

#[derive(Deserialize)]
struct KarpathySentence {
    raw: String,
}

/// Opens Karpathy's split of COCO (test: 5,000 photos) or Flickr30k (test: 1,000).
pub(super) fn open_karpathy(
    json: Value,
    path: &Path,
    files: &BenchmarkFiles,
) -> Result<Benchmark, BenchmarkError> {
    let file: Karpathy = from_json(json, path, KARPATHY)?;
    let split = files.split.as_deref().unwrap_or("test");
    let mut splits: Vec<String> = file.images.iter().map(|image| image.split.clone()).collect();
    splits.sort_unstable();
    splits.dedup();
    if !splits.iter().any(|found| found == split) {
        return Err(BenchmarkError::Layout {
            found: format!("there is no photo in split {split:?}, but in {}", splits.join(", ")),
            wanted: KARPATHY.into(),
            path: path.into(),
        });
    }
    let of_split = file.images.into_iter().filter(|image| image.split == split);
    let listed: UnlocatedPhotos = of_split
        .map(|image| {
            let stem =
                image.filename.rsplit_once('.').map_or(image.filename.as_str(), |(stem, _)| stem);
            let photo = BenchmarkPhoto {
                id: image.cocoid.map_or_else(|| stem.to_owned(), |id| id.to_string()),
                captions: image.sentences.into_iter().map(|sentence| sentence.raw).collect(),
                ..Default::default()
            };
            (photo, vec![format!("{}/{}", image.filepath, image.filename), image.filename])
        })
        .collect();
    let dataset = match file.dataset.as_str() {
        "coco" => "COCO",
        "flickr30k" => "Flickr30k",
        "" => "captions",
        other => other,
    };
    let name = format!("{dataset}, Karpathy's split {split}");
    let usual = ["images", "flickr30k-images", "flickr30k_images"];
    Benchmark::from_files(name, listed, &roots(files, &folder_of(path), &usual), KARPATHY, path)
}

#[derive(Deserialize)]
struct Captions {
    images: Vec<CaptionsImage>,
    /// Empty for a test split whose captions only the evaluation server has.
    #[serde(default)]
    annotations: Vec<CaptionsAnnotation>,
}

#[derive(Deserialize)]
struct CaptionsImage {
    id: u64,
    file_name: String,
    domain: Option<String>,
}

#[derive(Deserialize)]
struct CaptionsAnnotation {
    image_id: u64,
    caption: String,
}

/// Opens COCO's captions_*.json, or NoCaps' nocaps_val_4500_captions.json, whose images have a
/// domain.
pub(super) fn open_captions(
    json: Value,
    path: &Path,
    files: &BenchmarkFiles,
) -> Result<Benchmark, BenchmarkError> {
    let file: Captions = from_json(json, path, CAPTIONS)?;
    let mut captions: HashMap<u64, Vec<String>> = HashMap::new();
    for annotation in file.annotations {
        captions.entry(annotation.image_id).or_default().push(annotation.caption);
    }
    let is_nocaps = file.images.iter().any(|image| image.domain.is_some());
    let listed: UnlocatedPhotos = file
        .images
        .into_iter()
        .map(|image| {
            let photo = BenchmarkPhoto {
                id: image.id.to_string(),
                captions: captions.remove(&image.id).unwrap_or_default(),
                domain: image.domain,
                ..Default::default()
            };
            (photo, vec![image.file_name])
        })
        .collect();
    let name = if is_nocaps { "NoCaps" } else { "COCO captions" };
    let usual = ["images", "val2014", "val2017", "train2014", "test2014", "validation", "test"];
    Benchmark::from_files(
        name.into(),
        listed,
        &roots(files, &folder_of(path), &usual),
        CAPTIONS,
        path,
    )
}
