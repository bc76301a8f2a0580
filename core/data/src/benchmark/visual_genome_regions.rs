//! Region descriptions of Visual Genome, with DenseCap's splits.

use std::collections::HashSet;
use std::path::Path;

use serde_json::Value;

use super::{
    Benchmark, BenchmarkError, BenchmarkFiles, BenchmarkPhoto, BenchmarkRegion, UnlocatedPhotos,
    folder_of, from_json, read_json, roots,
};
use crate::visual_genome::FileEntry;

pub(super) const WANTED: &str = "Visual Genome's region_descriptions.json [{\"id\", \"regions\": [{\"phrase\", \"x\", \
    \"y\", \"width\", \"height\"}]}], photos as VG_100K/ID.jpg and VG_100K_2/ID.jpg beside it or below --images DIR; \
    with --split also densecap_splits.json {\"train\": [ids], \"val\", \"test\"}";

pub(super) fn open(
    json: Value,
    path: &Path,
    files: &BenchmarkFiles,
) -> Result<Benchmark, BenchmarkError> {
    let images: Vec<FileEntry> = from_json(json, path, WANTED)?;
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
    let in_split =
        |image: &FileEntry| chosen.as_ref().is_none_or(|chosen| chosen.contains(&image.id));
    let listed: UnlocatedPhotos = images.into_iter().filter(in_split).map(listed).collect();
    let name =
        format!("Visual Genome regions, {}", split.map_or("all".into(), |s| format!("split {s}")));
    let roots = roots(files, &folder, &["VG_100K", "VG_100K_2"]);
    Benchmark::from_files(name, listed, &roots, WANTED, path)
}

fn listed(entry: FileEntry) -> (BenchmarkPhoto, Vec<String>) {
    let (id, file) = (entry.id.to_string(), format!("{}.jpg", entry.id));
    let described = entry.into_regions().filter(|(_, phrase)| !phrase.is_empty());
    let regions = described
        .filter_map(|(box_px, phrase)| BenchmarkRegion::new(vec![box_px], vec![phrase.into()]));
    let photo = BenchmarkPhoto { id, regions: regions.collect(), ..Default::default() };
    (photo, vec![format!("VG_100K/{file}"), format!("VG_100K_2/{file}"), file])
}
