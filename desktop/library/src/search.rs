//! Search in a library: exact scoring of every embedding, and the metadata of each hit.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use mmgem_core::image::BoxPx;
use mmgem_core::index::{Hit, Query, Vectors, best};
use rayon::prelude::*;
use rusqlite::params;

use super::dates::{DateSource, PhotoDate};
use super::{Library, PREPROCESSING, Result, count, paths};

/// Photos whose regions are scored: the best by their whole image. A search that wants more hits
/// scores more.
const REGION_CANDIDATES: usize = 3000;
/// Least number of embeddings that a thread scores at once.
const SCAN: usize = 4096;

/// Embeddings of whole photos, in memory.
#[derive(Clone, Debug)]
pub struct VectorStore {
    /// Row of `content` of each embedding, ascending.
    contents: Vec<i64>,
    vectors: Vectors,
}

/// A photo as the library knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Photo {
    /// Row of `content`.
    pub content: i64,
    /// Its files; all but the first are copies.
    pub paths: Vec<PathBuf>,
    /// Name of the format, such as "JPEG".
    pub format: String,
    /// Size of the file.
    pub size_bytes: u64,
    /// Width and height of the upright photo, in pixels.
    pub size_px: [u32; 2],
    /// When it was taken, from the most reliable source.
    pub taken: PhotoDate,
    /// Maker and model.
    pub camera: Option<String>,
    /// Latitude and longitude, in degrees.
    pub place: Option<[f64; 2]>,
    /// Photos of the same picture share this number; `None` until they are compared.
    pub family: Option<i64>,
    /// The missing part of the picture, in words.
    pub problem: Option<String>,
}

impl Photo {
    /// A number that only photos of the same picture share.
    pub fn group(&self) -> i64 {
        self.family.unwrap_or(-1 - self.content)
    }
}

#[doc(hidden)]
impl Photo {
    /// A photo of 400 × 300 pixels at a path, for tests.
    pub fn example(content: i64, path: PathBuf, taken_secs: i64) -> Self {
        Self {
            content,
            paths: vec![path],
            format: "JPEG".into(),
            size_bytes: 20_000,
            size_px: [400, 300],
            taken: PhotoDate { secs: taken_secs, from: DateSource::Exif },
            camera: None,
            place: None,
            family: None,
            problem: None,
        }
    }
}

/// A filter: whether a file of a photo counts.
pub type PhotoFilter<'a> = dyn Fn(&Photo, &Path) -> bool + 'a;

/// A file that is a hit.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchHit {
    /// The file.
    pub path: PathBuf,
    /// The photo that the file holds.
    pub photo: Photo,
    /// Cosine with the query: of the whole photo, or of its best region if regions are searched.
    /// `None` if the query has only filters.
    pub score: Option<f32>,
    /// The region that fits best, in pixels of the upright photo.
    pub box_px: Option<BoxPx>,
    /// Other files with the same picture. In a list of files, the files with the same bytes, which
    /// are hits themselves; in a list of groups, all other files of the group.
    pub duplicates: Vec<PathBuf>,
}

/// A photo's place in a ranking.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// Row of `content`.
    pub content: i64,
    /// As in [`SearchHit`]; 0 if the query has only filters.
    pub score: f32,
}

impl Library {
    /// Reads the embeddings of all photos that have a file.
    pub fn vector_store(&self) -> Result<VectorStore> {
        let sql = "SELECT content, scale, codes FROM image_vector AS v WHERE model = ?1
            AND EXISTS (SELECT 1 FROM file WHERE file.content = v.content) ORDER BY content";
        let mut rows = self.db.prepare(sql)?;
        let mut rows = rows.query([self.model])?;
        let (mut contents, mut codes, mut scales) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(row) = rows.next()? {
            contents.push(row.get(0)?);
            scales.push(row.get(1)?);
            codes.extend(row.get_ref(2)?.as_blob()?.iter().map(|code| code.cast_signed()));
        }
        Ok(VectorStore { contents, vectors: Vectors::from_parts(self.dim, codes, scales)? })
    }

    /// All photos, by their row in `content`.
    pub fn photos(&self) -> Result<HashMap<i64, Photo>> {
        self.read_photos(None)
    }

    /// One photo; `None` if its files are gone.
    pub fn photo(&self, content: i64) -> Result<Option<Photo>> {
        Ok(self.read_photos(Some(content))?.remove(&content))
    }

    fn read_photos(&self, only: Option<i64>) -> Result<HashMap<i64, Photo>> {
        let which = if only.is_some() { "content = ?1" } else { "TRUE" };
        let sql = format!(
            "SELECT content, path, format, content.taken_secs, content.date_from, file.taken_secs,
            file.date_from, modified_ns, camera, content.latitude, content.longitude,
            file.latitude, file.longitude, width, height, size_bytes, family, content.problem
            FROM file JOIN content ON content.id = file.content WHERE {which} ORDER BY file.id"
        );
        let mut rows = self.db.prepare_cached(&sql)?;
        let mut rows = rows.query(rusqlite::params_from_iter(only))?;
        let mut photos: HashMap<i64, Photo> = HashMap::new();
        while let Some(row) = rows.next()? {
            let path = paths::from_bytes(row.get_ref(1)?.as_blob()?);
            let content = row.get(0)?;
            let dated = |secs: usize, from: usize, unsaid| -> Result<Option<PhotoDate>> {
                let name: Option<String> = row.get(from)?;
                let from = name.as_deref().and_then(DateSource::of_str).unwrap_or(unsaid);
                Ok(row.get::<_, Option<i64>>(secs)?.map(|secs| PhotoDate { secs, from }))
            };
            let place = |latitude: usize, longitude: usize| -> Result<Option<[f64; 2]>> {
                let (latitude, longitude): (Option<f64>, Option<f64>) =
                    (row.get(latitude)?, row.get(longitude)?);
                Ok(latitude.zip(longitude).map(|(latitude, longitude)| [latitude, longitude]))
            };
            let modified: i64 = row.get(7)?;
            let of_file =
                PhotoDate { secs: modified.div_euclid(1_000_000_000), from: DateSource::File };
            // Earlier versions saved no source: they read a photo's date only from EXIF.
            let dates =
                [dated(3, 4, DateSource::Exif)?, dated(5, 6, DateSource::Name)?, Some(of_file)];
            let taken =
                dates.into_iter().flatten().min_by_key(|taken| taken.from).unwrap_or(of_file);
            if let Some(photo) = photos.get_mut(&content) {
                // Among copies the best source counts, then the earliest date: copying makes a
                // file's date later.
                let order = |taken: &PhotoDate| (taken.from, taken.secs);
                photo.taken = std::cmp::min_by_key(photo.taken, taken, order);
                photo.place = photo.place.or(place(11, 12)?);
                photo.paths.push(path);
                continue;
            }
            let photo = Photo {
                content,
                paths: vec![path],
                format: row.get(2)?,
                size_bytes: row.get::<_, i64>(15)?.cast_unsigned(),
                size_px: [row.get(13)?, row.get(14)?],
                taken,
                camera: row.get(8)?,
                place: place(9, 10)?.or(place(11, 12)?),
                family: row.get(16)?,
                problem: row.get(17)?,
            };
            photos.insert(content, photo);
        }
        Ok(photos)
    }

    /// Scores the `n` photos whose whole image fits best by their best region.
    fn by_region(
        &self,
        store: &VectorStore,
        query: &Query,
        wholes: Vec<Hit>,
        n: usize,
    ) -> Result<Vec<Hit>> {
        let mut hits = Vec::new();
        for Hit { row, score } in best(wholes, n) {
            let regions = self.regions(store.contents[row])?;
            let of_region = regions.and_then(|(_, vectors)| vectors.nearest(query, 1).pop());
            hits.push(Hit { row, score: of_region.map_or(score, |hit| hit.score) });
        }
        hits.sort_unstable_by(|a, b| b.cmp(a));
        Ok(hits)
    }

    /// The hits `skip..skip + k`, best first: every matching file, or one per group with
    /// `options.group`.
    ///
    /// `filter` says which files count; without it, the photos' metadata is not read. Hits below
    /// `min_score` are left out.
    pub fn search(
        &self,
        store: &VectorStore,
        query: &Query,
        options: &SearchOptions,
        filter: Option<&PhotoFilter>,
    ) -> Result<Vec<SearchHit>> {
        let matches = match filter {
            Some(filter) => {
                let photos = self.photos()?;
                let is_match = |content: &i64| {
                    photos
                        .get(content)
                        .is_some_and(|photo| !matching_paths(photo, Some(filter)).is_empty())
                };
                Some(store.contents.iter().map(is_match).collect::<Vec<bool>>())
            }
            None => None,
        };
        let mut scores = store.scores(query);
        scores.retain(|hit| hit.score >= options.min_score || options.by_region);
        if let Some(matches) = matches {
            scores.retain(|hit| matches[hit.row]);
        }
        let n_wanted = options.skip.saturating_add(options.k);
        let mut n = if options.by_region { REGION_CANDIDATES.max(n_wanted) } else { n_wanted };
        loop {
            let ranked = if options.by_region {
                self.by_region(store, query, scores.clone(), n)?
            } else {
                best(scores.iter().copied(), n)
            };
            let is_all = ranked.len() >= scores.len();
            let ranked = ranked.into_iter().filter(|hit| hit.score >= options.min_score);
            let ranked = ranked.map(|hit| (store.contents[hit.row], Some(hit.score)));
            let mut hits = self.list(ranked, options, filter, |content| self.photo(content))?;
            if hits.len() >= n_wanted || is_all {
                hits.drain(..options.skip.min(hits.len()));
                if options.group {
                    self.list_duplicates(&mut hits, filter)?;
                }
                for hit in &mut hits {
                    hit.box_px = self.best_box(hit.photo.content, query)?;
                }
                return Ok(hits);
            }
            // Grouping removed some hits, or photos further down have a better region.
            n = n.saturating_mul(8);
        }
    }

    /// The photos that pass a query of filters alone, the latest first.
    ///
    /// # Errors
    /// When the library cannot be read.
    pub fn filtered(
        &self,
        store: &VectorStore,
        options: &SearchOptions,
        filter: &PhotoFilter,
    ) -> Result<Vec<SearchHit>> {
        let photos = self.photos()?;
        let mut latest: Vec<&Photo> =
            photos.values().filter(|photo| store.has(photo.content)).collect();
        latest.sort_unstable_by_key(|photo| std::cmp::Reverse((photo.taken.secs, photo.content)));
        let ranked = latest.into_iter().map(|photo| (photo.content, None));
        let mut hits =
            self.list(ranked, options, Some(filter), |content| Ok(photos.get(&content).cloned()))?;
        hits.drain(..options.skip.min(hits.len()));
        if options.group {
            self.list_duplicates(&mut hits, Some(filter))?;
        }
        Ok(hits)
    }

    /// The files of ranked photos, or the first file of each group; `photo` reads a photo's
    /// metadata.
    fn list(
        &self,
        ranked: impl Iterator<Item = (i64, Option<f32>)>,
        options: &SearchOptions,
        filter: Option<&PhotoFilter>,
        photo: impl Fn(i64) -> Result<Option<Photo>>,
    ) -> Result<Vec<SearchHit>> {
        let n_wanted = options.skip.saturating_add(options.k);
        let mut hits: Vec<SearchHit> = Vec::new();
        let mut families = HashSet::new();
        for (content, score) in ranked {
            let Some(photo) = photo(content)? else { continue };
            let is_listed =
                |photo: &Photo| photo.family.is_some_and(|family| families.contains(&family));
            if options.group && is_listed(&photo) {
                continue;
            }
            families.extend(photo.family);
            for path in matching_paths(&photo, filter) {
                if hits.len() == n_wanted {
                    return Ok(hits);
                }
                let duplicates =
                    photo.paths.iter().filter(|other| **other != path).cloned().collect();
                hits.push(SearchHit {
                    path,
                    photo: photo.clone(),
                    score,
                    box_px: None,
                    duplicates,
                });
                if options.group {
                    break;
                }
            }
        }
        Ok(hits)
    }

    /// Fills `duplicates` of each hit with all other files of its group.
    fn list_duplicates(&self, hits: &mut [SearchHit], filter: Option<&PhotoFilter>) -> Result<()> {
        let mut groups: HashMap<i64, Vec<PathBuf>> = HashMap::new();
        let photos = self.photos()?;
        let mut members: Vec<&Photo> =
            photos.values().filter(|photo| photo.family.is_some()).collect();
        members.sort_unstable_by_key(|photo| photo.content);
        for photo in members {
            groups
                .entry(photo.family.expect("filtered"))
                .or_default()
                .extend(matching_paths(photo, filter));
        }
        for hit in hits {
            let own = || matching_paths(&hit.photo, filter);
            let mut group =
                hit.photo.family.and_then(|family| groups.remove(&family)).unwrap_or_else(own);
            group.retain(|path| *path != hit.path);
            hit.duplicates = group;
        }
        Ok(())
    }

    /// The box of a photo's best region, in pixels of the photo, by its row in `content`; `None` if
    /// this model has no regions of it.
    pub fn best_box(&self, content: i64, query: &Query) -> Result<Option<BoxPx>> {
        let Some((boxes, regions)) = self.regions(content)? else { return Ok(None) };
        Ok(regions.nearest(query, 1).first().map(|best| boxes[best.row]))
    }

    /// A ranking of all photos, without boxes, for a window that scrolls through them;
    /// [`Self::photos`] has their metadata. With `by_region`, the photos whose whole image fits
    /// best come first, ordered by their best region; the others follow and score no higher.
    pub fn rank(
        &self,
        store: &VectorStore,
        photos: &HashMap<i64, Photo>,
        query: &Query,
        by_region: bool,
        filter: impl Fn(&Photo) -> bool,
    ) -> Result<Vec<Ranked>> {
        let mut hits = store.scores(query);
        hits.retain(|hit| photos.get(&store.contents[hit.row]).is_some_and(&filter));
        hits.par_sort_unstable_by(|a, b| b.cmp(a));
        if by_region {
            let rest = hits.split_off(hits.len().min(REGION_CANDIDATES));
            hits = self.by_region(store, query, hits, REGION_CANDIDATES)?;
            let least = hits.last().map_or(f32::MAX, |hit| hit.score);
            hits.extend(rest.into_iter().map(|hit| Hit { score: hit.score.min(least), ..hit }));
        }
        Ok(hits
            .into_iter()
            .map(|hit| Ranked { content: store.contents[hit.row], score: hit.score })
            .collect())
    }

    /// Number of photos that this model has embeddings of only from an earlier version of mmgem.
    pub fn photos_of_earlier_programs(&self) -> Result<usize> {
        let sql = "SELECT count(DISTINCT content) FROM image_vector AS v
            JOIN model ON model.id = v.model AND fingerprint = ?2 AND preprocessing < ?3
            WHERE content NOT IN (SELECT content FROM image_vector WHERE model = ?1)
            AND EXISTS (SELECT 1 FROM file WHERE file.content = v.content)";
        let key = params![self.model, self.fingerprint.cast_signed(), PREPROCESSING];
        Ok(count(self.db.query_row(sql, key, |row| row.get(0))?))
    }

    /// Number of photos that other models have embeddings of, for a hint if this model has none.
    pub fn photos_of_other_models(&self) -> Result<usize> {
        let sql = "SELECT count(DISTINCT content) FROM image_vector WHERE model != ?1";
        Ok(count(self.db.query_row(sql, params![self.model], |row| row.get(0))?))
    }
}

/// The files of a photo that pass the filter.
fn matching_paths(photo: &Photo, filter: Option<&PhotoFilter>) -> Vec<PathBuf> {
    photo
        .paths
        .iter()
        .filter(|path| filter.is_none_or(|filter| filter(photo, path)))
        .cloned()
        .collect()
}

/// Range, threshold and mode of a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SearchOptions {
    /// Hits to skip.
    pub skip: usize,
    /// Maximum number of hits.
    pub k: usize,
    /// Minimum cosine.
    pub min_score: f32,
    /// Score by the best region instead of the whole photo.
    pub by_region: bool,
    /// One hit per picture, even if it is stored several times.
    pub group: bool,
}

impl VectorStore {
    /// Whether the store has a photo, by its row in `content`; relies on ascending rows.
    pub fn has(&self, content: i64) -> bool {
        self.contents.binary_search(&content).is_ok()
    }

    /// A store of embeddings in memory; rows of `content` count from 0.
    pub fn of_vectors(vectors: Vectors) -> Self {
        Self { contents: (0..vectors.len() as i64).collect(), vectors }
    }

    /// Number of photos.
    pub fn len(&self) -> usize {
        self.contents.len()
    }

    /// Whether there are no photos.
    pub fn is_empty(&self) -> bool {
        self.contents.is_empty()
    }

    /// The score of every photo, on all cores.
    pub fn scores(&self, query: &Query) -> Vec<Hit> {
        let scan = |row| Hit { row, score: self.vectors.score(query, row) };
        (0..self.len()).into_par_iter().with_min_len(SCAN).map(scan).collect()
    }
}
