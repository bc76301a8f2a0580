//! Region descriptions of Visual Genome with DenseCap's splits.

use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{
    Benchmark, BenchmarkError, BenchmarkFiles, BenchmarkPhoto, BenchmarkRegion, Listed, folder_of, from_json,
    read_json, roots,
};

pub(super) const WANTED: &str = "Visual Genome's region_descriptions.json [{\"id\", \"regions\": [{\"phrase\", \"x\", \
    \"y\", \"width\", \"height\"}]}], photos as VG_100K/ID.jpg and VG_100K_2/ID.jpg beside it or below --images DIR; \
    with --split also densecap_splits.json {\"train\": [ids], \"val\", \"test\"}";

#[derive(Deserialize)]
struct Image {
    id: u64,
    regions: Vec<Region>,
}

#[derive(Deserialize)]
struct Region {
    phrase: String,
    x: f32,
    y: f32,
    width: f32,
    height: f32,
}

pub(super) fn open(json: Value, path: &Path, files: &BenchmarkFiles) -> Result<Benchmark, BenchmarkError> {
    let images: Vec<Image> = from_json(json, path, WANTED)?;
    let folder = folder_of(path);
    let splits = folder.join("densecap_splits.json");
    let split = files.split.as_deref().or_else(|| splits.is_file().then_some("test"));
    let chosen: Option<HashSet<u64>> = match split {
        Some(split) => {
            let mut all: serde_json::Map<String, Value> = read_json(&splits, WANTED)?;
            let ids = all.remove(split).unwrap_or(Value::Null);
            Some(from_json(ids, &splits, &format!("a list of image ids under {split:?}"))?)
        }
        None => None,
    };
    let in_split = |image: &Image| chosen.as_ref().is_none_or(|chosen| chosen.contains(&image.id));
    let listed: Listed = images.into_iter().filter(in_split).map(listed).collect();
    let name = format!("Visual Genome regions, {}", split.map_or("all".into(), |s| format!("split {s}")));
    let roots = roots(files, &folder, &["VG_100K", "VG_100K_2"]);
    Benchmark::of_files(name, listed, &roots, WANTED, path)
}

fn listed(image: Image) -> (BenchmarkPhoto, Vec<String>) {
    let region = |region: Region| {
        let Region { phrase, x, y, width, height } = region;
        BenchmarkRegion::new(vec![[x, y, x + width, y + height]], vec![phrase.trim().to_owned()])
    };
    let file = format!("{}.jpg", image.id);
    let photo = BenchmarkPhoto {
        id: image.id.to_string(),
        regions: image.regions.into_iter().filter_map(region).collect(),
        ..Default::default()
    };
    (photo, vec![format!("VG_100K/{file}"), format!("VG_100K_2/{file}"), file])
}
