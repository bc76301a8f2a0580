//! The photo index that desktop and browser exchange, with exact search over its vectors.
//!
//! A unit vector is stored as one byte per number and one scale. It needs a quarter of the memory,
//! and a scan of a large library is limited only by memory bandwidth. The API takes plain slices
//! and returns hits.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};

use crate::image::BoxPx;
use crate::vectors::vectorized;

/// Value of `format` in the header of an exchange file.
pub const FORMAT: &str = "mmgem-index-1";

/// Bytes that are not a usable index.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// Not a safetensors file, or truncated.
    #[error(
        "the index is damaged or incomplete: {0}\n  \
         hint: copy or download it again"
    )]
    Malformed(String),
    /// A safetensors file with other contents.
    #[error(
        "the format is {found:?}, wanted {FORMAT:?}\n  hint: `mmgem index --export FILE` writes one"
    )]
    Format {
        /// The format in its header.
        found: String,
    },
    /// Parts that do not fit each other.
    #[error(
        "the index contradicts itself: {0}\n  hint: export it again with the program that wrote it"
    )]
    Contradiction(String),
    /// Vectors of another model, which are not comparable.
    #[error(
        "the index was made by model {found:016x}, but this is model {wanted:016x}\n  \
         hint: open the model that made it, or index the photos again"
    )]
    OtherModel {
        /// Model fingerprint in the index.
        found: u64,
        /// Fingerprint of the open model.
        wanted: u64,
    },
}

/// Photos and their regions, with vectors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Index {
    /// Fingerprint of the model that made the vectors.
    pub model: u64,
    /// The photos. Row `i` of `images` is the vector of photo `i`.
    pub photos: Vec<IndexedPhoto>,
    /// Vectors of the whole photos.
    pub images: Vectors,
    /// Vectors of the regions, grouped by photo in the order of the photos.
    pub regions: Vectors,
    /// The box of each region, in pixels of its upright photo.
    pub boxes: Vec<BoxPx>,
    /// Rows of `regions` that belong to each photo.
    region_rows: Vec<Range<usize>>,
}

/// A photo in the index. Field names follow the file's header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexedPhoto {
    /// Path as the index's writer has it. File name, size and date identify the same photo
    /// elsewhere.
    pub path: String,
    /// Size of the file.
    pub size_bytes: u64,
    /// Modification time of the file, in milliseconds since 1970.
    pub modified_ms: i64,
    /// Width of the upright photo, in pixels.
    pub width: u32,
    /// Height of the upright photo, in pixels.
    pub height: u32,
}

impl Index {
    /// An empty index for a model whose vectors have `dim` numbers.
    pub fn new(model: u64, dim: usize) -> Self {
        Self { model, images: Vectors::new(dim), regions: Vectors::new(dim), ..Self::default() }
    }

    /// Adds a photo with its unit vector and the concatenated unit vectors of its regions.
    ///
    /// # Panics
    /// If the number of region vectors differs from the number of boxes.
    pub fn push(&mut self, photo: IndexedPhoto, image: &[f32], boxes: &[BoxPx], regions: &[f32]) {
        let mut vectors = Vectors::new(self.images.dim);
        regions.chunks(self.images.dim).for_each(|region| vectors.push(region));
        let mut whole = Vectors::new(self.images.dim);
        whole.push(image);
        self.push_vectors(photo, &whole, boxes, &vectors);
    }

    /// [`Self::push`] for vectors that are already quantised; `image` has one row.
    ///
    /// # Panics
    /// If the number of region vectors differs from the number of boxes.
    pub fn push_vectors(
        &mut self,
        photo: IndexedPhoto,
        image: &Vectors,
        boxes: &[BoxPx],
        regions: &Vectors,
    ) {
        assert_eq!((image.len(), regions.len()), (1, boxes.len()), "one vector per box");
        self.region_rows.push(self.regions.len()..self.regions.len() + regions.len());
        self.photos.push(photo);
        self.images.extend(image);
        self.boxes.extend_from_slice(boxes);
        self.regions.extend(regions);
    }

    /// Rows of [`Self::regions`] and of the boxes that belong to a photo.
    pub fn regions_of(&self, photo: usize) -> Range<usize> {
        self.region_rows[photo].clone()
    }

    /// The photo of a row of [`Self::regions`].
    pub fn photo_of(&self, region: usize) -> usize {
        self.region_rows.partition_point(|rows| rows.end <= region)
    }

    /// The best region of a photo; `None` if the index has no region of it.
    pub fn best_region(&self, query: &Query, photo: usize) -> Option<Hit> {
        self.regions.nearest_in(query, self.regions_of(photo), 1).pop()
    }

    /// Checks that `model` made the vectors.
    ///
    /// # Errors
    /// If another model made them.
    pub fn check_model(&self, model: u64) -> Result<(), IndexError> {
        if self.model == model {
            return Ok(());
        }
        Err(IndexError::OtherModel { found: self.model, wanted: model })
    }

    /// Serialises the exchange file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let photos = serde_json::to_string(&self.photos).expect("plain data is JSON");
        let metadata = HashMap::from([
            ("format".to_owned(), FORMAT.to_owned()),
            ("model".to_owned(), format!("{:016x}", self.model)),
            ("photos".to_owned(), photos),
        ]);
        let owner = |(photo, rows): (usize, &Range<usize>)| vec![photo as i32; rows.len()];
        let owners = self.region_rows.iter().enumerate().flat_map(owner);
        let (image_embed, image_scale) = self.images.to_le_bytes();
        let (region_embed, region_scale) = self.regions.to_le_bytes();
        let region_box: Vec<u8> =
            self.boxes.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
        let region_photo: Vec<u8> = owners.flat_map(i32::to_le_bytes).collect();
        let (n, m, dim) = (self.images.len(), self.regions.len(), self.images.dim);
        let (n_boxes, n_owners) = (self.boxes.len(), region_photo.len() / size_of::<i32>());
        let view = |dtype, shape: &[usize], bytes| {
            TensorView::new(dtype, shape.to_vec(), bytes).expect("the bytes fill the shape")
        };
        let tensors = [
            ("image_embed", view(Dtype::I8, &[n, dim], &image_embed)),
            ("image_scale", view(Dtype::F32, &[n], &image_scale)),
            ("region_box", view(Dtype::F32, &[n_boxes, 4], &region_box)),
            ("region_embed", view(Dtype::I8, &[m, dim], &region_embed)),
            ("region_photo", view(Dtype::I32, &[n_owners], &region_photo)),
            ("region_scale", view(Dtype::F32, &[m], &region_scale)),
        ];
        safetensors::serialize(tensors, Some(metadata)).expect("complete tensors serialise")
    }

    /// Reads an exchange file.
    ///
    /// # Errors
    /// If the bytes are not an index, or its parts do not fit each other.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, IndexError> {
        let malformed =
            |cause: safetensors::SafeTensorError| IndexError::Malformed(cause.to_string());
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(malformed)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let value = |key: &str| metadata.get(key).map_or("", String::as_str);
        if value("format") != FORMAT {
            return Err(IndexError::Format { found: value("format").to_owned() });
        }
        let model = u64::from_str_radix(value("model"), 16)
            .map_err(|_| IndexError::Contradiction(format!("its model is {:?}", value("model"))))?;
        let photos: Vec<IndexedPhoto> = serde_json::from_str(value("photos"))
            .map_err(|e| IndexError::Contradiction(format!("its photos are unreadable ({e})")))?;

        let file = SafeTensors::deserialize(bytes).map_err(malformed)?;
        let read = |name: &str, dtype, rank| tensor(&file, name, dtype, rank);
        let images = Vectors::from_views(
            &read("image_embed", Dtype::I8, 2)?,
            &read("image_scale", Dtype::F32, 1)?,
        )?;
        let regions = Vectors::from_views(
            &read("region_embed", Dtype::I8, 2)?,
            &read("region_scale", Dtype::F32, 1)?,
        )?;
        let boxes = read("region_box", Dtype::F32, 2)?;
        let owners = read("region_photo", Dtype::I32, 1)?;
        let fits = images.len() == photos.len()
            && regions.dim == images.dim
            && boxes.shape() == [regions.len(), 4]
            && owners.shape() == [regions.len()];
        if !fits {
            return Err(IndexError::Contradiction(format!(
                "{} photos, {:?} vectors, {:?} regions, {:?} boxes, {:?} owners",
                photos.len(),
                [images.len(), images.dim],
                [regions.len(), regions.dim],
                boxes.shape(),
                owners.shape()
            )));
        }
        let owners =
            owners.data().chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let region_rows = rows_of_owners(&owners.collect::<Vec<_>>(), photos.len())?;
        let boxes =
            floats(boxes.data()).chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]).collect();
        Ok(Self { model, photos, images, regions, boxes, region_rows })
    }
}

/// Looks up a required tensor and checks its data type and number of axes.
fn tensor<'a>(
    file: &SafeTensors<'a>,
    name: &str,
    dtype: Dtype,
    rank: usize,
) -> Result<TensorView<'a>, IndexError> {
    let view = file
        .tensor(name)
        .map_err(|_| IndexError::Contradiction(format!("it has no tensor {name}")))?;
    if view.dtype() != dtype || view.shape().len() != rank {
        let found = format!("{name} is {:?} {:?}, wanted {dtype:?}", view.dtype(), view.shape());
        return Err(IndexError::Contradiction(found));
    }
    Ok(view)
}

fn rows_of_owners(owners: &[i32], n_photos: usize) -> Result<Vec<Range<usize>>, IndexError> {
    let known = |owner: &i32| usize::try_from(*owner).is_ok_and(|photo| photo < n_photos);
    if !owners.is_sorted() || !owners.iter().all(known) {
        let found = "region_photo does not follow the order of the photos".to_owned();
        return Err(IndexError::Contradiction(found));
    }
    let start = |photo: usize| owners.partition_point(|owner| (*owner as usize) < photo);
    Ok((0..n_photos).map(|photo| start(photo)..start(photo + 1)).collect())
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Unit vectors with one byte per number and one scale per vector.
///
/// `x ≈ scale * code` with `|code| <= 127`. The scale minimises the squared error, which preserves
/// the length of the vector to second order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vectors {
    dim: usize,
    codes: Vec<i8>,
    scales: Vec<f32>,
}

impl Vectors {
    /// An empty collection of vectors with `dim` numbers each.
    pub fn new(dim: usize) -> Self {
        Self { dim, codes: Vec::new(), scales: Vec::new() }
    }

    /// Takes codes and scales as returned by [`Self::codes`] and [`Self::scales`].
    ///
    /// # Errors
    /// If there are not `dim` codes for each scale.
    pub fn from_parts(dim: usize, codes: Vec<i8>, scales: Vec<f32>) -> Result<Self, IndexError> {
        if codes.len() != dim * scales.len() {
            let found =
                format!("{} numbers and {} scales of vectors of {dim}", codes.len(), scales.len());
            return Err(IndexError::Contradiction(found));
        }
        Ok(Self { dim, codes, scales })
    }

    fn from_views(codes: &TensorView, scales: &TensorView) -> Result<Self, IndexError> {
        let dim = codes.shape()[1];
        Self::from_parts(
            dim,
            codes.data().iter().map(|code| *code as i8).collect(),
            floats(scales.data()),
        )
    }

    fn to_le_bytes(&self) -> (Vec<u8>, Vec<u8>) {
        let codes = self.codes.iter().map(|code| *code as u8).collect();
        (codes, self.scales.iter().flat_map(|scale| scale.to_le_bytes()).collect())
    }

    /// Quantises a vector and adds it.
    ///
    /// # Panics
    /// If the vector does not have [`Self::dim`] numbers.
    pub fn push(&mut self, vector: &[f32]) {
        assert_eq!(vector.len(), self.dim, "vectors have equal length");
        let most = vector.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let to_code = if most > 0.0 { 127.0 / most } else { 0.0 };
        let start = self.codes.len();
        self.codes.extend(vector.iter().map(|x| (x * to_code).round() as i8));
        let codes = &self.codes[start..];
        let along: f32 = codes.iter().zip(vector).map(|(code, x)| f32::from(*code) * x).sum();
        let square: f32 = codes.iter().map(|code| f32::from(*code).powi(2)).sum();
        self.scales.push(if square > 0.0 { along / square } else { 0.0 });
    }

    /// Adds all vectors of another collection.
    ///
    /// # Panics
    /// If its vectors have another length.
    pub fn extend(&mut self, others: &Self) {
        assert_eq!(others.dim, self.dim, "vectors have equal length");
        self.codes.extend_from_slice(&others.codes);
        self.scales.extend_from_slice(&others.scales);
    }

    /// Copies a range of the vectors.
    ///
    /// # Panics
    /// If the range exceeds the collection.
    pub fn rows(&self, rows: Range<usize>) -> Self {
        let codes = self.codes[rows.start * self.dim..rows.end * self.dim].to_vec();
        Self { dim: self.dim, codes, scales: self.scales[rows].to_vec() }
    }

    /// Number of vectors.
    pub fn len(&self) -> usize {
        self.scales.len()
    }

    /// Whether the collection is empty.
    pub fn is_empty(&self) -> bool {
        self.scales.is_empty()
    }

    /// Length of each vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// All codes, concatenated.
    pub fn codes(&self) -> &[i8] {
        &self.codes
    }

    /// The scale of each vector.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// A vector as floats, with the quantisation error.
    pub fn vector(&self, row: usize) -> Vec<f32> {
        let scale = self.scales[row];
        self.codes_of(row).iter().map(|code| f32::from(*code) * scale).collect()
    }

    /// Cosine of a vector with the query.
    pub fn score(&self, query: &Query, row: usize) -> f32 {
        query.score_bytes(bytes_of(self.codes_of(row)), self.scales[row])
    }

    /// The `k` vectors nearest to the query, best first; equal scores by row.
    pub fn nearest(&self, query: &Query, k: usize) -> Vec<Hit> {
        self.nearest_in(query, 0..self.len(), k)
    }

    /// [`Self::nearest`] among the given rows.
    ///
    /// # Panics
    /// If the query has another length.
    pub fn nearest_in(
        &self,
        query: &Query,
        rows: impl IntoIterator<Item = usize>,
        k: usize,
    ) -> Vec<Hit> {
        assert_eq!(query.codes.len(), self.dim, "vectors have equal length");
        best(rows.into_iter().map(|row| Hit { row, score: self.score(query, row) }), k)
    }

    fn codes_of(&self, row: usize) -> &[i8] {
        &self.codes[row * self.dim..(row + 1) * self.dim]
    }
}

/// Maximum size in bytes of the vectors and boxes of one photo.
const MOST_BYTES: usize = 16 << 10;

/// The boxes of a photo for which an index has vectors.
///
/// They have the photo's shape at two thirds, a half and a third of its sides, with half overlaps.
/// The smaller ones are dropped if vectors of `dim` numbers would exceed 16 KiB.
pub fn region_boxes(width: f32, height: f32, dim: usize) -> Vec<BoxPx> {
    const LEVELS: [(f32, usize); 3] = [(2.0 / 3.0, 2), (1.0 / 2.0, 3), (1.0 / 3.0, 4)];
    let mut boxes: Vec<BoxPx> = Vec::new();
    for (share, n) in LEVELS {
        let region_bytes = dim + size_of::<f32>() + size_of::<BoxPx>();
        if (boxes.len() + n * n) * region_bytes + dim + size_of::<f32>() > MOST_BYTES {
            break;
        }
        let start = |step: usize| (1.0 - share) * step as f32 / (n - 1) as f32;
        let at =
            |x: f32, y: f32| [x * width, y * height, (x + share) * width, (y + share) * height];
        boxes.extend((0..n * n).map(|i| at(start(i % n), start(i / n))));
    }
    boxes
}

/// A row and its cosine with the query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Row of the searched vectors.
    pub row: usize,
    /// Cosine with the query.
    pub score: f32,
}

impl Eq for Hit {}

impl PartialOrd for Hit {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The greater hit is the better one; of equal scores, the one with the smaller row.
impl Ord for Hit {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.row.cmp(&self.row))
    }
}

/// The `k` best hits, best first.
pub fn best(hits: impl IntoIterator<Item = Hit>, k: usize) -> Vec<Hit> {
    let mut kept: BinaryHeap<Reverse<Hit>> = BinaryHeap::new();
    for hit in hits {
        if kept.len() < k {
            kept.push(Reverse(hit));
        } else if kept.peek().is_some_and(|worst| hit > worst.0) {
            kept.pop();
            kept.push(Reverse(hit));
        }
    }
    kept.into_sorted_vec().into_iter().map(|hit| hit.0).collect()
}

/// A query vector as 16-bit integers, whose rounding error is negligible beside that of the
/// vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    codes: Vec<i16>,
    scale: f32,
}

impl Query {
    /// Quantises a query vector.
    pub fn new(vector: &[f32]) -> Self {
        let most = vector.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        // |sum| <= |query codes| * |vector codes|, so no partial sum overflows an i32.
        let longest = i32::MAX as f32 / (128.0 * (vector.len() as f32).sqrt());
        let to_code =
            if most > 0.0 { (f32::from(i16::MAX) / most).min(0.99 * longest / norm) } else { 0.0 };
        let codes = vector.iter().map(|x| (x * to_code).round() as i16).collect();
        Self { codes, scale: if to_code > 0.0 { 1.0 / to_code } else { 0.0 } }
    }

    /// [`Vectors::score`] of a vector given by the bytes of its codes, and its scale.
    pub fn score_bytes(&self, codes: &[u8], scale: f32) -> f32 {
        dot(codes, &self.codes) as f32 * scale * self.scale
    }
}

fn bytes_of(codes: &[i8]) -> &[u8] {
    // SAFETY: both types have one byte, and any value of it is valid.
    unsafe { std::slice::from_raw_parts(codes.as_ptr().cast(), codes.len()) }
}

vectorized! {
    /// Sum of the products with the signed numbers that the bytes are.
    fn dot(vector: &[u8], query: &[i16]) -> i32 {
        vector.iter().zip(query).map(|(a, b)| i32::from(a.cast_signed()) * i32::from(*b)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn photo(path: &str) -> IndexedPhoto {
        IndexedPhoto {
            path: path.into(),
            size_bytes: 7,
            modified_ms: 1_700_000_000_123,
            width: 40,
            height: 30,
        }
    }

    fn index() -> Index {
        let mut index = Index::new(0xdead_beef, 2);
        let (left, right) = ([0.0, 0.0, 20.0, 30.0], [20.0, 0.0, 40.0, 30.0]);
        index.push(photo("a.jpg"), &[1.0, 0.0], &[left, right], &[0.0, 1.0, 1.0, 0.0]);
        index.push(photo("b.jpg"), &[0.6, 0.8], &[], &[]);
        index.push(photo("ü/c.jpg"), &[0.0, 1.0], &[right], &[0.8, 0.6]);
        index
    }

    fn rows(hits: &[Hit]) -> Vec<usize> {
        hits.iter().map(|hit| hit.row).collect()
    }

    #[test]
    fn a_vector_is_codes_up_to_127_times_a_scale() {
        let mut vectors = Vectors::new(2);
        vectors.push(&[0.6, -0.8]);
        assert_eq!(vectors.codes(), &[95, -127]);
        // <codes, vector> / <codes, codes> = (57 + 101.6) / (9025 + 16129)
        assert!((vectors.scales()[0] - 158.6 / 25154.0).abs() < 1e-9);
        vectors.push(&[0.0, 0.0]);
        assert_eq!(vectors.vector(1), [0.0, 0.0]);
        assert_eq!(vectors.rows(0..1).codes(), &[95, -127]);
    }

    #[test]
    fn the_score_is_the_cosine_up_to_the_rounding_of_a_byte() {
        let unit = |seed: usize| {
            let values: Vec<f32> = (0..512)
                .map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0)
                .collect();
            let norm = values.iter().map(|x| x * x).sum::<f32>().sqrt();
            values.into_iter().map(|x| x / norm).collect::<Vec<f32>>()
        };
        let mut vectors = Vectors::new(512);
        (0..20).for_each(|seed| vectors.push(&unit(seed)));
        for seed in 0..20 {
            let query = Query::new(&unit(seed));
            assert!((vectors.score(&query, seed) - 1.0).abs() < 1e-4, "itself");
            for row in 0..20 {
                let exact: f32 = unit(seed).iter().zip(unit(row)).map(|(a, b)| a * b).sum();
                assert!((vectors.score(&query, row) - exact).abs() < 1e-3);
            }
        }
    }

    #[test]
    fn no_sum_overflows_even_of_long_vectors_that_are_equal_everywhere() {
        for dim in [1, 512, 8192, 65_536] {
            let same = vec![1.0 / (dim as f32).sqrt(); dim];
            let mut vectors = Vectors::new(dim);
            vectors.push(&same);
            assert!((vectors.score(&Query::new(&same), 0) - 1.0).abs() < 1e-2, "{dim}");
        }
    }

    #[test]
    fn the_nearest_come_first_and_of_equals_the_first() {
        let mut vectors = Vectors::new(2);
        for vector in [[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.0, 1.0]] {
            vectors.push(&vector);
        }
        let query = Query::new(&[0.0, 1.0]);
        assert_eq!(rows(&vectors.nearest(&query, 3)), [1, 3, 2]);
        assert_eq!(rows(&vectors.nearest(&query, 9)), [1, 3, 2, 0]);
        assert!(vectors.nearest(&query, 0).is_empty());
        assert_eq!(rows(&vectors.nearest_in(&query, [0, 2], 9)), [2, 0]);
        assert!((vectors.nearest(&query, 3)[2].score - 0.8).abs() < 0.01);
    }

    #[test]
    fn boxes_cover_the_photo_and_fit_into_sixteen_kibibytes() {
        for (dim, n) in [(256, 29), (512, 29), (768, 13), (1024, 13), (2048, 4), (8192, 0)] {
            let boxes = region_boxes(600.0, 300.0, dim);
            assert_eq!(boxes.len(), n, "{dim}");
            assert!(n * (dim + 20) + dim + 4 <= 16 << 10 || n == 0);
        }
        let boxes = region_boxes(600.0, 300.0, 512);
        assert_eq!(
            (boxes[0], boxes[4 + 4]),
            ([0.0, 0.0, 400.0, 200.0], [150.0, 75.0, 450.0, 225.0])
        );
        let last = boxes[28];
        assert!((last[2] - 600.0).abs() < 1e-3 && (last[3] - 300.0).abs() < 1e-3, "{last:?}");
    }

    #[test]
    fn regions_are_found_within_a_photo_and_know_their_photo() {
        let index = index();
        let query = Query::new(&[0.0, 1.0]);
        assert_eq!(index.best_region(&query, 0).map(|hit| hit.row), Some(0));
        assert_eq!(index.best_region(&query, 1), None);
        assert_eq!(index.best_region(&query, 2).map(|hit| index.boxes[hit.row][0]), Some(20.0));
        assert_eq!([0, 1, 2].map(|region| index.photo_of(region)), [0, 0, 2]);
        assert_eq!(rows(&index.regions.nearest(&query, 2)), [0, 2]);
    }

    #[test]
    fn a_written_index_is_read_back() {
        for index in [index(), Index::new(1, 512)] {
            assert_eq!(Index::from_bytes(&index.to_bytes()).expect("readable"), index);
        }
    }

    #[test]
    fn the_file_is_laid_out_as_agreed() {
        let bytes = index().to_bytes();
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("safetensors");
        let metadata = header.metadata().clone().expect("a header");
        assert_eq!(
            (metadata["format"].as_str(), metadata["model"].as_str()),
            (FORMAT, "00000000deadbeef")
        );
        let file = SafeTensors::deserialize(&bytes).expect("whole");
        let laid_out = [
            ("image_embed", Dtype::I8, vec![3, 2]),
            ("image_scale", Dtype::F32, vec![3]),
            ("region_box", Dtype::F32, vec![3, 4]),
            ("region_embed", Dtype::I8, vec![3, 2]),
            ("region_photo", Dtype::I32, vec![3]),
            ("region_scale", Dtype::F32, vec![3]),
        ];
        for (name, dtype, shape) in laid_out {
            let view = file.tensor(name).expect(name);
            assert_eq!((view.dtype(), view.shape()), (dtype, shape.as_slice()), "{name}");
        }
        assert_eq!(
            file.tensor("region_photo").expect("there").data(),
            [0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]
        );
    }

    #[test]
    fn a_cut_or_foreign_file_is_an_error() {
        let bytes = index().to_bytes();
        for kept in [0, 4, 100, bytes.len() - 1] {
            let error = Index::from_bytes(&bytes[..kept]).expect_err("cut");
            assert!(matches!(error, IndexError::Malformed(_)), "{kept}: {error}");
        }
        let foreign =
            safetensors::serialize(Vec::<(&str, TensorView)>::new(), None).expect("empty");
        assert!(matches!(Index::from_bytes(&foreign), Err(IndexError::Format { .. })));
    }

    /// Changes the index such that its parts no longer fit, and expects an error.
    fn check_contradiction(change: impl FnOnce(&mut Index)) {
        let mut index = index();
        change(&mut index);
        let error = Index::from_bytes(&index.to_bytes()).expect_err("contradicts itself");
        assert!(matches!(error, IndexError::Contradiction(_)), "{error}");
    }

    #[test]
    fn parts_that_do_not_fit_are_an_error() {
        check_contradiction(|index| index.photos.push(photo("d.jpg")));
        check_contradiction(|index| index.boxes.truncate(2));
        check_contradiction(|index| index.region_rows.truncate(2));
        for owners in [[1, 0], [0, 2], [-1, 0]] {
            assert!(rows_of_owners(&owners, 2).is_err(), "{owners:?}");
        }
        assert_eq!(rows_of_owners(&[1, 1], 3).expect("in order"), [0..0, 0..2, 2..2]);
    }

    #[test]
    fn another_models_vectors_are_refused() {
        assert!(index().check_model(0xdead_beef).is_ok());
        let error = index().check_model(1).expect_err("another model").to_string();
        assert!(
            error.contains("00000000deadbeef") && error.contains("0000000000000001"),
            "{error}"
        );
    }
}
