//! Search in a library: exact scoring of every embedding, and the metadata of each hit.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mmgem_core::image::BoxPx;
use mmgem_core::index::{Hit, Query, Vectors, best};
use rayon::prelude::*;
use rusqlite::params;

use super::dates::{DateSource, PhotoDate};
use super::vector_file::{MappedVectors, lower_bound};
use super::{Library, PREPROCESSING, Result, count, paths};

/// Photos whose regions are scored: the best by their whole image. A search that wants more hits
/// scores more.
const REGION_CANDIDATES: usize = 3000;
/// Photos whose metadata a filtered search reads one by one. If too few of them pass, the search
/// reads the metadata of all photos.
const FILTER_CANDIDATES: usize = 1000;
/// Least number of embeddings that a thread scores at once.
const SCAN: usize = 4096;

/// Embeddings of whole photos, ordered by their row in `content`: mapped from the vector file, read
/// from the library, or both.
#[derive(Clone, Debug)]
pub struct VectorStore {
    /// See `vector_file.rs`.
    pub(super) mapped: Option<Arc<MappedVectors>>,
    /// Row of `content` of each of `vectors`, ascending.
    pub(super) contents: Vec<i64>,
    /// Embeddings read from the library.
    pub(super) vectors: Vectors,
    /// The place of each embedding: a row of `mapped`, or of `vectors` after those. `None` if all
    /// rows of one of them are the embeddings.
    pub(super) places: Option<Vec<usize>>,
    /// Why a large library was not mapped.
    pub(super) slow: Option<String>,
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
            let regions = self.regions(store.content(row))?;
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
        let mut scores = store.scores(query);
        scores.retain(|hit| hit.score >= options.min_score || options.by_region);
        if let Some(filter) = filter {
            if !options.by_region {
                let ranked = best(scores.iter().copied(), FILTER_CANDIDATES).into_iter();
                let ranked = ranked.map(|hit| (store.content(hit.row), Some(hit.score)));
                let hits =
                    self.list(ranked, options, Some(filter), |content| self.photo(content))?;
                if hits.len() >= options.skip.saturating_add(options.k) {
                    return self.completed(hits, query, options, Some(filter));
                }
            }
            let photos = self.photos()?;
            scores.retain(|hit| {
                photos
                    .get(&store.content(hit.row))
                    .is_some_and(|photo| !matching_paths(photo, Some(filter)).is_empty())
            });
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
            let ranked = ranked.map(|hit| (store.content(hit.row), Some(hit.score)));
            let hits = self.list(ranked, options, filter, |content| self.photo(content))?;
            if hits.len() >= n_wanted || is_all {
                return self.completed(hits, query, options, filter);
            }
            // Grouping removed some hits, or photos further down have a better region.
            n = n.saturating_mul(8);
        }
    }

    /// Drops the skipped hits, and reads duplicates and boxes of the others.
    fn completed(
        &self,
        mut hits: Vec<SearchHit>,
        query: &Query,
        options: &SearchOptions,
        filter: Option<&PhotoFilter>,
    ) -> Result<Vec<SearchHit>> {
        hits.drain(..options.skip.min(hits.len()));
        if options.group {
            self.list_duplicates(&mut hits, filter)?;
        }
        for hit in &mut hits {
            hit.box_px = self.best_box(hit.photo.content, query)?;
        }
        Ok(hits)
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
            let matching = matching_paths(&photo, filter);
            if matching.is_empty() || options.group && is_listed(&photo) {
                continue;
            }
            families.extend(photo.family);
            for path in matching {
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
        let families: HashSet<i64> = hits.iter().filter_map(|hit| hit.photo.family).collect();
        let families: Vec<String> = families.iter().map(i64::to_string).collect();
        let sql = format!(
            "SELECT id, family FROM content WHERE family IN ({}) ORDER BY id",
            families.join(", ")
        );
        let mut rows = self.db.prepare(&sql)?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            if let Some(photo) = self.photo(row.get(0)?)? {
                groups.entry(row.get(1)?).or_default().extend(matching_paths(&photo, filter));
            }
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
        hits.retain(|hit| photos.get(&store.content(hit.row)).is_some_and(&filter));
        hits.par_sort_unstable_by(|a, b| b.cmp(a));
        if by_region {
            let rest = hits.split_off(hits.len().min(REGION_CANDIDATES));
            hits = self.by_region(store, query, hits, REGION_CANDIDATES)?;
            let least = hits.last().map_or(f32::MAX, |hit| hit.score);
            hits.extend(rest.into_iter().map(|hit| Hit { score: hit.score.min(least), ..hit }));
        }
        Ok(hits
            .into_iter()
            .map(|hit| Ranked { content: store.content(hit.row), score: hit.score })
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
    /// Whether the store has a photo, by its row in `content`.
    pub fn has(&self, content: i64) -> bool {
        let row = lower_bound(0..self.len(), |row| self.content(row) < content);
        row < self.len() && self.content(row) == content
    }

    /// A store of embeddings in memory; rows of `content` count from 0.
    pub fn of_vectors(vectors: Vectors) -> Self {
        let contents = (0..vectors.len() as i64).collect();
        Self { mapped: None, contents, vectors, places: None, slow: None }
    }

    /// Number of photos.
    pub fn len(&self) -> usize {
        match (&self.places, &self.mapped) {
            (Some(places), _) => places.len(),
            (None, Some(mapped)) => mapped.len(),
            (None, None) => self.contents.len(),
        }
    }

    /// Whether there are no photos.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Why the embeddings of a large library were read one by one, which is slow. `None` if they
    /// are mapped, or few.
    pub fn is_slow_because(&self) -> Option<&str> {
        self.slow.as_deref()
    }

    /// Row of `content` of an embedding.
    pub(super) fn content(&self, row: usize) -> i64 {
        match self.place(row) {
            Place::Mapped(mapped, row) => mapped.content(row),
            Place::Read(row) => self.contents[row],
        }
    }

    /// The score of every photo, on all cores.
    pub fn scores(&self, query: &Query) -> Vec<Hit> {
        let scan = |row| {
            let score = match self.place(row) {
                Place::Mapped(mapped, row) => mapped.score(query, row),
                Place::Read(row) => self.vectors.score(query, row),
            };
            Hit { row, score }
        };
        (0..self.len()).into_par_iter().with_min_len(SCAN).map(scan).collect()
    }

    fn place(&self, row: usize) -> Place<'_> {
        let row = self.places.as_ref().map_or(row, |places| places[row]);
        match &self.mapped {
            Some(mapped) if row < mapped.len() => Place::Mapped(mapped, row),
            Some(mapped) => Place::Read(row - mapped.len()),
            None => Place::Read(row),
        }
    }
}

/// Where an embedding is.
enum Place<'a> {
    /// A row of the vector file.
    Mapped(&'a MappedVectors, usize),
    /// A row of [`VectorStore::vectors`].
    Read(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_keeps_the_best_that_pass_however_far_down_they_are() {
        const DIM: usize = 7;
        let mut library = Library::in_memory(1, DIM).expect("usable");
        library.add_examples(FILTER_CANDIDATES + 500).expect("writable");
        let store = library.vector_store().expect("readable");
        let query = Query::new(&[0.3, -0.2, 0.4, 0.1, -0.6, 0.2, 0.5]);
        let photos = library.photos().expect("readable");
        let all = best(store.scores(&query), store.len());
        for n_passing in [0, 1, 20, 1200] {
            let keep = |photo: &Photo, _: &Path| photo.taken.secs < 1000 * n_passing;
            for (skip, k) in [(0, 3), (2, 3), (0, 19), (15, 4), (900, 400)] {
                let options =
                    SearchOptions { skip, k, min_score: -0.5, by_region: false, group: false };
                let wanted = all.iter().filter(|hit| hit.score >= options.min_score);
                let wanted = wanted.map(|hit| (&photos[&store.content(hit.row)], hit.score));
                let wanted: Vec<(i64, f32)> = wanted
                    .filter(|(photo, _)| photo.taken.secs < 1000 * n_passing)
                    .map(|(photo, score)| (photo.content, score))
                    .skip(skip)
                    .take(k)
                    .collect();
                let hits = library.search(&store, &query, &options, Some(&keep));
                let hits: Vec<(i64, f32)> = hits
                    .expect("readable")
                    .into_iter()
                    .map(|hit| (hit.photo.content, hit.score.expect("a query")))
                    .collect();
                assert_eq!(hits, wanted, "{n_passing} pass, {skip}, {k}");
            }
        }
    }

    #[test]
    fn a_group_is_listed_by_a_file_that_passes() {
        let mut library = Library::in_memory(1, 3).expect("usable");
        library.add_examples(6).expect("writable");
        library.db.execute_batch("UPDATE content SET family = family % 2").expect("valid");
        let store = library.vector_store().expect("readable");
        let keep = |photo: &Photo, _: &Path| photo.taken.secs <= 3000;
        let options =
            SearchOptions { skip: 0, k: 9, min_score: -1.0, by_region: false, group: true };
        let seen = |hits: Vec<SearchHit>| {
            let mut seen: Vec<usize> = hits.iter().map(|hit| 1 + hit.duplicates.len()).collect();
            seen.sort_unstable();
            seen
        };
        let query = Query::new(&[0.1, 0.7, -0.3]);
        let found = library.search(&store, &query, &options, Some(&keep)).expect("readable");
        assert_eq!(seen(found), [2, 2]);
        assert_eq!(seen(library.filtered(&store, &options, &keep).expect("readable")), [2, 2]);
        let found = library.search(&store, &query, &options, None).expect("readable");
        assert_eq!(seen(found), [3, 3]);
    }
}
