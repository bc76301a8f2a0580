//! Reads Visual Genome in its published form: `region_descriptions.json` and folders of photos.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::source::SourceError;
use super::webdataset::{PhotoRecord, RegionRecord};

/// Photos with region descriptions.
#[derive(Clone, Debug)]
pub struct VisualGenome {
    photos: Vec<Photo>,
}

/// One photo. Kept small, because there are five million regions.
#[derive(Clone, Debug)]
struct Photo {
    path: PathBuf,
    regions: Vec<([f32; 4], Box<str>)>,
}

/// A photo's entry in `region_descriptions.json`.
#[derive(Deserialize)]
pub(super) struct FileEntry {
    pub(super) id: u64,
    regions: Vec<FileRegion>,
}

#[derive(Deserialize)]
struct FileRegion {
    phrase: String,
    x: f32,
    y: f32,
    width: f32,
    height: f32,
}

impl FileEntry {
    /// Converts to boxes `[x0, y0, x1, y1]` and trimmed phrases.
    pub(super) fn into_regions(self) -> impl Iterator<Item = ([f32; 4], Box<str>)> {
        let region =
            |r: FileRegion| ([r.x, r.y, r.x + r.width, r.y + r.height], r.phrase.trim().into());
        self.regions.into_iter().map(region)
    }
}

impl VisualGenome {
    /// Reads the descriptions and finds each photo in the folders by its number.
    ///
    /// # Errors
    /// If the file does not have the published form, or if no photo is found.
    pub fn open(descriptions: &Path, folders: &[PathBuf]) -> Result<Self, SourceError> {
        let failed = |cause| SourceError::Text { cause, path: descriptions.to_owned() };
        let file = BufReader::new(File::open(descriptions).map_err(failed)?);
        let entries: Vec<FileEntry> =
            serde_json::from_reader(file).map_err(|e| failed(e.into()))?;
        let files = numbered_files(folders)?;
        let with_photo = |entry: FileEntry| {
            let path = files.get(&entry.id)?.clone();
            Some(Photo { path, regions: entry.into_regions().collect() })
        };
        let photos: Vec<Photo> = entries.into_iter().filter_map(with_photo).collect();
        if photos.is_empty() {
            return Err(SourceError::NoPhotos {
                found: files.len(),
                folders: folders.to_vec(),
                path: descriptions.to_owned(),
            });
        }
        Ok(Self { photos })
    }

    /// Number of photos that were found.
    pub fn len(&self) -> usize {
        self.photos.len()
    }

    /// Whether there are no photos.
    pub fn is_empty(&self) -> bool {
        self.photos.is_empty()
    }

    /// Path of a photo.
    pub fn path(&self, idx: usize) -> &Path {
        &self.photos[idx].path
    }

    /// Reads a photo's bytes and its regions. Phrases with the same box share a region.
    pub fn read(&self, idx: usize) -> std::io::Result<(PhotoRecord, Vec<u8>)> {
        let photo = &self.photos[idx];
        let mut regions: Vec<RegionRecord> = Vec::new();
        for (box_px, phrase) in photo.regions.iter().filter(|(_, phrase)| !phrase.is_empty()) {
            match regions.iter_mut().find(|region| region.box_px == *box_px) {
                Some(region) => region.phrases.push(phrase.to_string()),
                None => regions.push(RegionRecord {
                    box_px: *box_px,
                    phrases: vec![phrase.to_string()],
                    n_boxes: 1,
                }),
            }
        }
        Ok((PhotoRecord { regions, ..PhotoRecord::default() }, fs::read(&photo.path)?))
    }
}

/// Maps numbers to the files that are named by them.
fn numbered_files(folders: &[PathBuf]) -> Result<BTreeMap<u64, PathBuf>, SourceError> {
    let mut files = BTreeMap::new();
    for folder in folders {
        let failed = |cause| SourceError::Text { cause, path: folder.clone() };
        for entry in fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if let Some(number) = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok()) {
                files.insert(number, path);
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESCRIPTIONS: &str = r#"[
        {"id": 7, "regions": [
            {"region_id": 1, "image_id": 7, "phrase": "a red kite ", "x": 4, "y": 5, "width": 10, "height": 20},
            {"region_id": 2, "image_id": 7, "phrase": "the sky", "x": 0, "y": 0, "width": 64, "height": 30},
            {"region_id": 3, "image_id": 7, "phrase": "kite in the air", "x": 4, "y": 5, "width": 10, "height": 20}]},
        {"id": 8, "regions": []}]"#;

    #[test]
    fn regions_of_one_box_are_one_region_of_several_phrases() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        fs::write(path("regions.json"), DESCRIPTIONS).expect("writable");
        for name in ["VG_100K", "VG_100K_2"] {
            fs::create_dir(path(name)).expect("writable");
        }
        fs::write(path("VG_100K_2/7.jpg"), "pixels").expect("writable");
        let folders = [path("VG_100K"), path("VG_100K_2")];
        let photos =
            VisualGenome::open(&path("regions.json"), &folders).expect("one photo is there");
        assert_eq!(photos.len(), 1);
        let (record, bytes) = photos.read(0).expect("a photo");
        assert_eq!(bytes, b"pixels");
        assert_eq!(record.regions.len(), 2);
        assert_eq!(record.regions[0].box_px, [4.0, 5.0, 14.0, 25.0]);
        assert_eq!(record.regions[0].phrases, ["a red kite", "kite in the air"]);

        let error = VisualGenome::open(&path("regions.json"), &folders[..1])
            .expect_err("no photo")
            .to_string();
        assert!(error.contains("VG_100K") && error.contains("hint"), "{error}");
    }
}
