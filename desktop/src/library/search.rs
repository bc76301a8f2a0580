//! Searching a library: every vector is looked at, the hits are told with all that is known of them.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::Result;
use mmgem_core::image::BoxPx;
use mmgem_core::index::{Hit, Query, Vectors, best};
use rayon::prelude::*;
use rusqlite::params;

use super::{Library, paths};

/// Photos whose regions are looked at when regions count: those that fit best as a whole.
pub(super) const REGION_CANDIDATES: usize = 3000;
/// Vectors that a thread scans before it asks for more.
const SCAN: usize = 4096;
/// Photos whose [`Photo::look`] differs in no more bits, and whose vectors are as near as
/// [`SAME_COSINE`], show the same thing.
const SAME_BITS: u32 = 4;
/// See [`SAME_BITS`].
const SAME_COSINE: f32 = 0.97;
/// Hits of a whole ranking among which near-duplicates are looked for.
const GATHERED: usize = 1000;

/// The vectors of whole photos, in memory.
#[derive(Clone, Debug)]
pub struct Shelf {
    /// Row of `content` of each vector.
    pub(super) contents: Vec<i64>,
    pub(super) vectors: Vectors,
}

/// What a library knows of a photo.
#[derive(Clone, Debug, PartialEq)]
pub struct Photo {
    /// Row of `content`.
    pub content: i64,
    /// Where it is; the other places have copies.
    pub paths: Vec<PathBuf>,
    /// The format's name, as "JPEG".
    pub format: String,
    /// Width and height as a person sees it, in pixels.
    pub size_px: [u32; 2],
    /// The camera's clock; where it is not known, the file's date.
    pub taken_secs: i64,
    /// Maker and model.
    pub camera: Option<String>,
    /// Latitude and longitude, in degrees.
    pub place: Option<[f64; 2]>,
    look: u64,
}

#[cfg(test)]
impl Photo {
    /// A photo of 400 × 300 pixels at a path, for tests of what shows photos.
    pub fn example(content: i64, path: PathBuf, taken_secs: i64) -> Self {
        Self {
            content,
            paths: vec![path],
            format: "JPEG".into(),
            size_px: [400, 300],
            taken_secs,
            camera: None,
            place: None,
            look: 0,
        }
    }
}

/// A hit with its best box.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The photo.
    pub photo: Photo,
    /// Cosine with the query: of the whole photo, or of its best region if regions are searched.
    pub score: f32,
    /// The region that fits best, in pixels of the photo as a person sees it.
    pub box_px: Option<BoxPx>,
    /// Files of photos that show the same and would have been hits too.
    pub similar: Vec<PathBuf>,
    row: usize,
}

/// A photo's place in the order of all.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// Row of `content`.
    pub content: i64,
    /// As in [`Found`].
    pub score: f32,
    /// Files of photos that show the same.
    pub similar: Vec<PathBuf>,
}

impl Library {
    /// Reads the vectors of all photos that have a file.
    pub fn shelf(&self) -> Result<Shelf> {
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
        Ok(Shelf { contents, vectors: Vectors::from_parts(self.dim, codes, scales)? })
    }

    /// Everything that is known of the photos, by their row in `content`.
    pub fn photos(&self) -> Result<HashMap<i64, Photo>> {
        self.read_photos(None)
    }

    /// What is known of one photo; `None` when its files are gone meanwhile.
    pub fn photo(&self, content: i64) -> Result<Option<Photo>> {
        Ok(self.read_photos(Some(content))?.remove(&content))
    }

    fn read_photos(&self, only: Option<i64>) -> Result<HashMap<i64, Photo>> {
        let which = if only.is_some() { "content = ?1" } else { "TRUE" };
        let sql = format!(
            "SELECT content, path, format, taken_secs, modified_ns, camera, latitude, longitude, look,
            width, height FROM file JOIN content ON content.id = file.content WHERE {which} ORDER BY file.id"
        );
        let mut rows = self.db.prepare_cached(&sql)?;
        let mut rows = rows.query(rusqlite::params_from_iter(only))?;
        let mut photos: HashMap<i64, Photo> = HashMap::new();
        while let Some(row) = rows.next()? {
            let path = paths::from_bytes(row.get_ref(1)?.as_blob()?);
            let content = row.get(0)?;
            if let Some(photo) = photos.get_mut(&content) {
                photo.paths.push(path);
                continue;
            }
            let taken: Option<i64> = row.get(3)?;
            let modified: i64 = row.get(4)?;
            let place: (Option<f64>, Option<f64>) = (row.get(6)?, row.get(7)?);
            let photo = Photo {
                content,
                paths: vec![path],
                format: row.get(2)?,
                size_px: [row.get(9)?, row.get(10)?],
                taken_secs: taken.unwrap_or_else(|| modified.div_euclid(1_000_000_000)),
                camera: row.get(5)?,
                place: place.0.zip(place.1).map(|(latitude, longitude)| [latitude, longitude]),
                look: row.get::<_, i64>(8)?.cast_unsigned(),
            };
            photos.insert(content, photo);
        }
        Ok(photos)
    }

    /// Scores photos by their best region, of those whose whole fits well.
    fn by_region(&self, shelf: &Shelf, query: &Query, wholes: Vec<Hit>) -> Result<Vec<Hit>> {
        let mut hits = Vec::new();
        for Hit { row, score } in best(wholes, REGION_CANDIDATES) {
            let regions = self.regions(shelf.contents[row])?;
            let of_region = regions.and_then(|(_, vectors)| vectors.nearest(query, 1).pop());
            hits.push(Hit { row, score: of_region.map_or(score, |hit| hit.score) });
        }
        hits.sort_unstable_by(|a, b| b.cmp(a));
        Ok(hits)
    }

    /// The hits `skip..skip + k`, best first, near-duplicates gathered under the best of them.
    ///
    /// `keep` says which photos count; without it no photo is asked. Hits below `min_score` are left out.
    pub fn search(
        &self,
        shelf: &Shelf,
        query: &Query,
        wanted: &Wanted,
        keep: Option<&dyn Fn(&Photo) -> bool>,
    ) -> Result<Vec<Found>> {
        let n_wanted = wanted.skip.saturating_add(wanted.k);
        let kept = match keep {
            Some(keep) => {
                let photos = self.photos()?;
                let is_kept = |content: &i64| photos.get(content).is_some_and(keep);
                Some(shelf.contents.iter().map(is_kept).collect::<Vec<bool>>())
            }
            None => None,
        };
        let mut scores = shelf.scores(query);
        if let Some(kept) = kept {
            scores.retain(|hit| kept[hit.row]);
        }
        let found = if wanted.by_region {
            let ranked = self.by_region(shelf, query, scores)?;
            gather(shelf, &ranked, wanted.min_score, n_wanted, |content| self.photo(content))?
        } else {
            // More than asked for, because near-duplicates take no place of their own.
            let mut n = n_wanted.saturating_mul(2).saturating_add(64);
            loop {
                let ranked = best(scores.iter().copied(), n);
                let found =
                    gather(shelf, &ranked, wanted.min_score, n_wanted, |content| self.photo(content))?;
                if found.len() >= n_wanted || ranked.len() < n {
                    break found;
                }
                n = n.saturating_mul(8);
            }
        };
        let mut found: Vec<Found> = found.into_iter().skip(wanted.skip).collect();
        for hit in &mut found {
            hit.box_px = self.best_box(hit.photo.content, query)?;
        }
        Ok(found)
    }

    /// The region of a photo that fits best, in pixels of the photo, by its row in `content`; `None` where
    /// this model has none of it.
    pub fn best_box(&self, content: i64, query: &Query) -> Result<Option<BoxPx>> {
        let Some((boxes, regions)) = self.regions(content)? else { return Ok(None) };
        Ok(regions.nearest(query, 1).first().map(|best| boxes[best.row]))
    }

    /// All photos in order of their scores, without boxes: for those who scroll through them, with what
    /// [`Self::photos`] knows. Near-duplicates among the first [`GATHERED`] are gathered under the best of
    /// them; by region only the photos are ranked whose whole fits well.
    pub fn rank(
        &self,
        shelf: &Shelf,
        photos: &HashMap<i64, Photo>,
        query: &Query,
        by_region: bool,
        keep: impl Fn(&Photo) -> bool,
    ) -> Result<Vec<Ranked>> {
        let mut hits = shelf.scores(query);
        hits.retain(|hit| photos.get(&shelf.contents[hit.row]).is_some_and(&keep));
        if by_region {
            hits = self.by_region(shelf, query, hits)?;
        } else {
            hits.par_sort_unstable_by(|a, b| b.cmp(a));
        }
        let rest = hits.split_off(hits.len().min(GATHERED));
        let photo = |content| Ok(photos.get(&content).cloned());
        let first = gather(shelf, &hits, f32::MIN, usize::MAX, photo)?;
        let first = first.into_iter().map(|found| Ranked {
            content: found.photo.content,
            score: found.score,
            similar: found.similar,
        });
        let rest = rest.into_iter().map(|hit| Ranked {
            content: shelf.contents[hit.row],
            score: hit.score,
            similar: Vec::new(),
        });
        Ok(first.chain(rest).collect())
    }

    /// How many photos another model has vectors of, to say so where this one has none.
    pub fn photos_of_other_models(&self) -> Result<usize> {
        let sql = "SELECT count(DISTINCT content) FROM image_vector WHERE model != ?1";
        let n: i64 = self.db.query_row(sql, params![self.model], |row| row.get(0))?;
        Ok(usize::try_from(n)?)
    }
}

/// The first `n_wanted` of ranked hits that show something of their own; `photo` tells what is known of one.
fn gather(
    shelf: &Shelf,
    ranked: &[Hit],
    min_score: f32,
    n_wanted: usize,
    photo: impl Fn(i64) -> Result<Option<Photo>>,
) -> Result<Vec<Found>> {
    let mut found: Vec<Found> = Vec::new();
    for hit in ranked.iter().take_while(|hit| hit.score >= min_score) {
        let Some(photo) = photo(shelf.contents[hit.row])? else { continue };
        let same = |other: &&mut Found| shelf.shows_the_same(other, &photo, hit.row);
        if let Some(first) = found.iter_mut().find(same) {
            first.similar.extend(photo.paths);
        } else if found.len() == n_wanted {
            break;
        } else {
            found.push(Found { photo, score: hit.score, box_px: None, similar: Vec::new(), row: hit.row });
        }
    }
    Ok(found)
}

/// Which hits are wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wanted {
    /// Hits before the first that is wanted.
    pub skip: usize,
    /// Most hits.
    pub k: usize,
    /// Least cosine.
    pub min_score: f32,
    /// Score by the best region instead of the whole photo.
    pub by_region: bool,
}

impl Shelf {
    /// Whether a photo is on it, by its row in `content`; rows are read in their order.
    pub fn has(&self, content: i64) -> bool {
        self.contents.binary_search(&content).is_ok()
    }

    /// Takes vectors that are in memory already; rows of `content` count from 0.
    pub fn of_vectors(vectors: Vectors) -> Self {
        Self { contents: (0..vectors.len() as i64).collect(), vectors }
    }

    /// Number of photos.
    pub fn len(&self) -> usize {
        self.contents.len()
    }

    /// The score of every photo, on all cores.
    pub fn scores(&self, query: &Query) -> Vec<Hit> {
        let scan = |row| Hit { row, score: self.vectors.score(query, row) };
        (0..self.len()).into_par_iter().with_min_len(SCAN).map(scan).collect()
    }

    fn shows_the_same(&self, found: &Found, photo: &Photo, row: usize) -> bool {
        (found.photo.look ^ photo.look).count_ones() <= SAME_BITS
            && self.vectors.score(&Query::new(&self.vectors.vector(found.row)), row) >= SAME_COSINE
    }
}
