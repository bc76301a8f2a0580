//! The photo library of the browser: vectors in the core's index.

use std::collections::HashSet;

use js_sys::Error as JsError;
use mmgem_core::index::{Hit, Index, IndexedPhoto, Query, Vectors, region_boxes};
use mmgem_core::model::Stage;
use mmgem_core::session::Part;
use serde_json::json;
use wasm_bindgen::prelude::*;

use crate::handle::{Image, Model, to_js};

/// Vectors of photos and of their regions, with the photos' paths.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Library {
    index: Index,
    paths: HashSet<String>,
}

#[wasm_bindgen]
impl Model {
    /// The index file of one photo, with the vectors of the photo and of its regions.
    #[wasm_bindgen(js_name = indexEntry)]
    pub async fn index_entry(
        &self,
        image: &Image,
        path: String,
        size_bytes: f64,
        modified_ms: f64,
    ) -> Result<Vec<u8>, JsError> {
        let (width, height) = (image.width(), image.height());
        let boxes = region_boxes(width as f32, height as f32, self.embed_dim());
        let whole = self.session.embed_image(&image.encoded, &Part::Whole).await.map_err(to_js)?;
        let regions =
            self.session.embed_boxes(Stage::Two, &image.encoded, &boxes).await.map_err(to_js)?;
        let (size_bytes, modified_ms) = (size_bytes as u64, modified_ms as i64);
        let mut index = Index::new(self.fingerprint, whole.len());
        index.push(
            IndexedPhoto { path, size_bytes, modified_ms, width, height },
            &whole,
            &boxes,
            &regions,
        );
        Ok(index.to_bytes())
    }
}

#[wasm_bindgen]
impl Library {
    /// An empty library of a model.
    #[wasm_bindgen(constructor)]
    pub fn new(model: &Model) -> Self {
        Self::of(Index::new(model.fingerprint, model.embed_dim()))
    }

    /// Adds the photos of an index file. Replaces photos with the same path.
    pub fn add(&mut self, file: &[u8]) -> Result<(), JsError> {
        let added = self.read(file)?;
        let again = added.photos.iter().map(|photo| &photo.path);
        let again: HashSet<String> =
            again.filter(|path| self.paths.contains(*path)).cloned().collect();
        if !again.is_empty() {
            self.keep(|photo| !again.contains(&photo.path));
        }
        for (row, photo) in added.photos.iter().enumerate() {
            copy_photo(&added, row, &mut self.index);
            self.paths.insert(photo.path.clone());
        }
        Ok(())
    }

    /// Removes the photos with these paths.
    pub fn remove(&mut self, paths: Vec<String>) {
        let paths: HashSet<String> = paths.into_iter().collect();
        self.keep(|photo| !paths.contains(&photo.path));
    }

    /// Renames a photo and returns its index file.
    pub fn rename(&mut self, from: &str, to: String) -> Result<Vec<u8>, JsError> {
        let number = self.index.photos.iter().position(|photo| photo.path == from);
        let number = number
            .ok_or_else(|| JsError::new(&format!("the library has no {from}; reload the page")))?;
        self.paths.remove(from);
        self.paths.insert(to.clone());
        self.index.photos[number].path = to;
        Ok(self.entry(number))
    }

    /// Removes all photos.
    pub fn clear(&mut self) {
        self.keep(|_| false);
    }

    /// The photos as JSON: `[{path, sizeBytes, modifiedMs, width, height}]`.
    pub fn list(&self) -> String {
        let photo = |photo: &IndexedPhoto| {
            json!({ "path": photo.path, "sizeBytes": photo.size_bytes, "modifiedMs": photo.modified_ms,
                "width": photo.width, "height": photo.height })
        };
        self.index.photos.iter().map(photo).collect::<serde_json::Value>().to_string()
    }

    /// The index file of all photos.
    pub fn file(&self) -> Vec<u8> {
        self.index.to_bytes()
    }

    /// Makes a library from an index file of the same model.
    pub fn entries(&self, file: &[u8]) -> Result<Library, JsError> {
        Ok(Self::of(self.read(file)?))
    }

    /// The index file of one photo, number `number`.
    pub fn entry(&self, number: usize) -> Vec<u8> {
        let mut alone = Index::new(self.index.model, self.index.images.dim());
        copy_photo(&self.index, number, &mut alone);
        alone.to_bytes()
    }

    /// The photos nearest to a unit vector, best first, as JSON:
    /// `[{path, score, box, boxScore, relevance}]`.
    pub fn search(&self, embed: &[f32], limit: usize) -> Result<String, JsError> {
        let (found, wanted) = (embed.len(), self.index.images.dim());
        if found != wanted {
            return Err(JsError::new(&format!("the vector has {found} numbers, wanted {wanted}")));
        }
        let query = Query::new(embed);
        let hits = self.index.images.nearest(&query, self.index.photos.len());
        let scores: Vec<f32> = hits.iter().map(|hit| hit.score).collect();
        let hit = |(hit, relevance): (&Hit, f32)| {
            let photo = &self.index.photos[hit.row];
            let whole = [0.0, 0.0, photo.width as f32, photo.height as f32];
            let region = self.index.best_region(&query, hit.row);
            let box_px = region.map_or(whole, |region| self.index.boxes[region.row]);
            let box_score = region.map_or(hit.score, |region| region.score);
            json!({ "path": photo.path, "score": hit.score, "box": box_px, "boxScore": box_score,
                "relevance": relevance })
        };
        let found = hits.iter().zip(standard_scores(&scores)).take(limit).map(hit);
        Ok(found.collect::<serde_json::Value>().to_string())
    }
}

impl Library {
    fn of(index: Index) -> Self {
        let paths = index.photos.iter().map(|photo| photo.path.clone()).collect();
        Self { index, paths }
    }

    fn read(&self, file: &[u8]) -> Result<Index, JsError> {
        let index = Index::from_bytes(file).map_err(to_js)?;
        index.check_model(self.index.model).map_err(to_js)?;
        Ok(index)
    }

    fn keep(&mut self, wanted: impl Fn(&IndexedPhoto) -> bool) {
        let empty = Index::new(self.index.model, self.index.images.dim());
        let old = std::mem::replace(&mut self.index, empty);
        for photo in (0..old.photos.len()).filter(|photo| wanted(&old.photos[*photo])) {
            copy_photo(&old, photo, &mut self.index);
        }
        self.paths = self.index.photos.iter().map(|photo| photo.path.clone()).collect();
    }
}

fn copy_photo(from: &Index, photo: usize, to: &mut Index) {
    let rows = from.regions_of(photo);
    let image = rows_of(&from.images, photo..photo + 1);
    let regions = rows_of(&from.regions, rows.clone());
    to.push_vectors(from.photos[photo].clone(), &image, &from.boxes[rows], &regions);
}

fn rows_of(vectors: &Vectors, rows: std::ops::Range<usize>) -> Vectors {
    let dim = vectors.dim();
    let codes = vectors.codes()[rows.start * dim..rows.end * dim].to_vec();
    let scales = vectors.scales()[rows].to_vec();
    Vectors::from_parts(dim, codes, scales).expect("as many codes as scales")
}

/// Standard score of each value: standard deviations above the mean.
fn standard_scores(scores: &[f32]) -> Vec<f32> {
    let n = scores.len().max(1) as f32;
    let mean = scores.iter().sum::<f32>() / n;
    let variance = scores.iter().map(|score| (score - mean).powi(2)).sum::<f32>() / n;
    scores.iter().map(|score| (score - mean) / variance.sqrt().max(1e-6)).collect()
}
