//! Finds photos that are the same picture stored again: in another format, size or quality, or
//! turned by EXIF.
//!
//! Indexing assigns each photo to a family once, from its pixels, for all models. Candidates have a
//! similar perceptual hash of 64 bits ([`super::indexer`]). Then the pictures themselves are
//! compared, at up to [`SIDE`] pixels: two invoices may share every bit of the hash and differ in
//! one digit. A photo joins a family only if it matches every compared member, so that a small copy
//! cannot join two different photos.
//!
//! Limits: this cannot see a change that is lost at [`SIDE`] pixels, such as a digit of 4 pixels in
//! a scan of 12 megapixels; a change in a copy that is too small to show it; or two photos of a
//! series between which nothing moved.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use mmgem_core::image::{Rgb, decode, resize};
use mmgem_data::files;
use rusqlite::params;

use super::photos::decode_photo;
use super::{Library, Result, count, paths};

/// Longer side at which pictures are compared; smaller pictures are compared at their own size.
pub const SIDE: u32 = 1024;
/// A copy of another size whose longer side is shorter shows too little to be compared.
const LEAST_SIDE: u32 = 192;
/// Candidates differ in at most this many bits of their hash.
const LOOK_BITS: u32 = 4;
/// Members of a family that a new photo is compared with: the largest, which show most. With more,
/// a folder with many copies of each photo takes several times as long.
const MEMBERS: usize = 3;
/// Families that a new photo is compared with: those with the nearest thumbnails.
const FAMILIES: usize = 8;
/// Photos whose families are written in one transaction.
const BATCH: usize = 64;
/// Cells of a thumbnail per side, for the cheap comparison before the pictures are read.
const CELLS: u32 = 32;
/// Largest difference of a cell, in levels of 255; the thumbnails' own JPEG stays within 4. The
/// limit is not measured: it was doubled from 12 to allow small copies. It only saves comparing
/// pictures that cannot be the same.
const CELL_LIMIT: i32 = 24;
/// Pictures cached in memory during the comparison, 3 MB each.
const KEPT: usize = 24;

/// Difference of two pictures of the same shape, in levels of 255.
///
/// Measured on the pairs of this file's tests: pages of text at the size of a screen, a scan and a
/// phone; a pendulum; drawn scenes. Measured by the same sums in Python on 34 photos (kodak,
/// scikit-image) and on pages in DejaVu Sans:
///
/// | | `spot` | `area` | `hue` |
/// |---|---|---|---|
/// | stored again: JPEG 90 to 30, twice, WebP 75 and 30, half and two thirds, by Lanczos, half in JPEG 30 | up to 38 | up to 8 | up to 15 |
/// | another digit: text of 14 pixels in 1100 to 30 pixels in 4000, also half in JPEG 50 | from 58 | | |
/// | another line | from 168 | from 38 | |
/// | another pose, of a contrast of 30 levels | from 30 | from 30 | |
/// | limit | 45, less for small or faithful copies | 11 | 20 |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Largest difference of lightness, in the mean of 2 × 2 pixels: a stroke of a letter.
    pub spot: f32,
    /// The same in the mean of 16 × 16 pixels: an object that moved, another exposure.
    pub area: f32,
    /// Largest difference of colour (Cb, Cr), in the mean of 8 × 8 pixels.
    pub hue: f32,
    /// Root mean square of the lightness difference at edges. Compression and scaling change all
    /// edges alike.
    pub noise: f32,
    /// The longer side of the comparison, in pixels.
    pub side: u32,
}

impl Difference {
    /// The difference of two pictures; `None` if their shapes differ, or if one is too small.
    pub fn of(a: &Rgb, b: &Rgb) -> Option<Self> {
        let (smaller, larger) = if a.width() <= b.width() { (a, b) } else { (b, a) };
        let (width, height) = smaller.dimensions();
        let side = width.max(height);
        if (width, height) != larger.dimensions()
            && (side < LEAST_SIDE || !same_shape(a.dimensions(), b.dimensions()))
        {
            return None;
        }
        let scaled;
        let larger = if (width, height) == larger.dimensions() {
            larger
        } else {
            scaled = resize(larger, width, height);
            &scaled
        };
        let (a, b) = (Planes::of(smaller), Planes::of(larger));
        let light: Vec<i32> = a.light.iter().zip(&b.light).map(|(a, b)| a - b).collect();
        let both: Vec<i32> = a.light.iter().zip(&b.light).map(|(a, b)| (a + b) / 2).collect();
        let minus =
            |a: &[i32], b: &[i32]| -> Vec<i32> { a.iter().zip(b).map(|(a, b)| a - b).collect() };
        let hue = |a: &[i32], b: &[i32]| largest_mean(&minus(a, b), width, height, 8);
        Some(Self {
            spot: largest_mean(&light, width, height, 2),
            area: largest_mean(&light, width, height, 16),
            hue: hue(&a.blue, &b.blue).max(hue(&a.red, &b.red)),
            noise: noise_of_edges(&both, &light, width as usize),
            side,
        })
    }

    /// Whether storing the picture again explains the difference.
    pub fn is_stored_again(&self) -> bool {
        // In a small copy strokes are fainter, and scaling changes them less.
        let spot = (11.0 + 17.0 * self.side as f32 / 256.0).clamp(28.0, 45.0);
        // If edges are unchanged in general, a single changed edge is a real difference.
        self.spot <= spot.min(12.0 + 8.0 * self.noise) && self.area <= 11.0 && self.hue <= 20.0
    }
}

/// Whether two sizes have the same aspect ratio, up to rounding to whole pixels.
fn same_shape(a: (u32, u32), b: (u32, u32)) -> bool {
    let (a, b) = ((f64::from(a.0), f64::from(a.1)), (f64::from(b.0), f64::from(b.1)));
    let off_by_one = 1.5 * (1.0 / a.0.min(b.0) + 1.0 / a.1.min(b.1));
    ((a.0 * b.1) / (a.1 * b.0)).ln().abs() <= off_by_one
}

/// Lightness and colour (JPEG's YCbCr), in levels of 255.
struct Planes {
    light: Vec<i32>,
    blue: Vec<i32>,
    red: Vec<i32>,
}

impl Planes {
    fn of(picture: &Rgb) -> Self {
        let n = (picture.width() * picture.height()) as usize;
        let mut planes = Self {
            light: Vec::with_capacity(n),
            blue: Vec::with_capacity(n),
            red: Vec::with_capacity(n),
        };
        for pixel in picture.pixels() {
            let [r, g, b] = pixel.0.map(i32::from);
            let light = (299 * r + 587 * g + 114 * b + 500) / 1000;
            planes.light.push(light);
            planes.blue.push((b - light) * 564 / 1000);
            planes.red.push((r - light) * 713 / 1000);
        }
        planes
    }
}

/// Largest absolute mean over squares of `k` pixels, cropped to the picture if it is smaller.
fn largest_mean(values: &[i32], width: u32, height: u32, k: usize) -> f32 {
    let (width, height) = (width as usize, height as usize);
    let (across, down) = (k.min(width), k.min(height));
    // Column sums over `down` rows, moved down row by row.
    let mut columns = vec![0i32; width];
    for row in values.chunks_exact(width).take(down) {
        columns.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    let mut most = 0i32;
    for top in 0..=height - down {
        let mut sum: i32 = columns[..across].iter().sum();
        most = most.max(sum.abs());
        for left in 1..=width - across {
            sum += columns[left + across - 1] - columns[left - 1];
            most = most.max(sum.abs());
        }
        if top + down < height {
            let (gone, come) =
                (&values[top * width..][..width], &values[(top + down) * width..][..width]);
            for ((sum, come), gone) in columns.iter_mut().zip(come).zip(gone) {
                *sum += come - gone;
            }
        }
    }
    most as f32 / (across * down) as f32
}

/// Root mean square of `difference` at the edges of `light`; over all pixels if there are few
/// edges.
fn noise_of_edges(light: &[i32], difference: &[i32], width: usize) -> f32 {
    /// Least difference between neighbours at an edge, in levels.
    const EDGE: i32 = 16;
    let (mut of_edges, mut n_edges, mut of_all) = (0i64, 0i64, 0i64);
    for (at, (value, off)) in light.iter().zip(difference).enumerate() {
        let square = i64::from(off * off);
        of_all += square;
        let right = if (at + 1) % width == 0 { *value } else { light[at + 1] };
        let below = light.get(at + width).unwrap_or(value);
        if (right - value).abs() > EDGE || (below - value).abs() > EDGE {
            of_edges += square;
            n_edges += 1;
        }
    }
    let mean = if n_edges > 50 {
        of_edges as f64 / n_edges as f64
    } else {
        of_all as f64 / light.len() as f64
    };
    mean.sqrt() as f32
}

/// The picture scaled down so that its longer side is at most [`SIDE`].
fn fitted(photo: Rgb) -> Rgb {
    let (width, height) = photo.dimensions();
    let longer = width.max(height);
    if longer <= SIDE {
        return photo;
    }
    let scaled =
        |side: u32| (f64::from(side) * f64::from(SIDE) / f64::from(longer)).round().max(1.0) as u32;
    resize(&photo, scaled(width), scaled(height))
}

/// A photo in the comparison.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    content: i64,
    look: u64,
    size_px: (u32, u32),
    family: Option<i64>,
}

impl Library {
    /// Assigns every photo that was not compared yet to a family; returns how many it assigned. If
    /// a file of the comparison cannot be read now, the photo stays without a family until the next
    /// call.
    ///
    /// Calls `advance` with the number of photos after each batch; `advance` returns whether to
    /// continue.
    ///
    /// # Errors
    /// When the library cannot be read or written.
    pub fn find_duplicates(
        &mut self,
        advance: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<usize> {
        if self.n_not_compared()? == 0 {
            return Ok(0);
        }
        let mut candidates = self.candidates()?;
        let mut next_family =
            1 + candidates.iter().filter_map(|candidate| candidate.family).max().unwrap_or(0);
        let mut families = Families::default();
        for (at, member) in candidates.iter().enumerate() {
            if let Some(family) = member.family {
                families.add(at, family, member.look);
            }
        }
        let new: Vec<usize> =
            (0..candidates.len()).filter(|at| candidates[*at].family.is_none()).collect();
        let mut pictures = Pictures::default();
        let mut n_compared = 0;
        for batch in new.chunks(BATCH) {
            let mut decided = Vec::new();
            for at in batch.iter().copied() {
                let family =
                    match self.family_of(candidates[at], &candidates, &families, &mut pictures)? {
                        Verdict::Unknown => continue,
                        Verdict::Member(family) => family,
                        Verdict::Alone => {
                            next_family += 1;
                            next_family - 1
                        }
                    };
                candidates[at].family = Some(family);
                families.add(at, family, candidates[at].look);
                decided.push((candidates[at].content, family));
            }
            let transaction = self.db.transaction()?;
            for (content, family) in &decided {
                transaction
                    .prepare_cached("UPDATE content SET family = ?2 WHERE id = ?1")?
                    .execute(params![content, family])?;
            }
            transaction.commit()?;
            n_compared += decided.len();
            if advance(batch.len()).is_break() {
                break;
            }
        }
        Ok(n_compared)
    }

    /// Number of photos that were not compared yet.
    ///
    /// # Errors
    /// When the library cannot be read.
    pub fn n_not_compared(&self) -> Result<usize> {
        let sql = "SELECT count(*) FROM content
            WHERE family IS NULL AND EXISTS (SELECT 1 FROM file WHERE file.content = content.id)";
        Ok(count(self.db.query_row(sql, [], |row| row.get(0))?))
    }

    /// Photos that have a file, the compared ones first.
    fn candidates(&self) -> Result<Vec<Candidate>> {
        let sql = "SELECT id, look, width, height, family FROM content
            WHERE EXISTS (SELECT 1 FROM file WHERE file.content = content.id) 
            ORDER BY family IS NULL, id";
        let mut rows = self.db.prepare(sql)?;
        let rows = rows.query_map([], |row| {
            Ok(Candidate {
                content: row.get(0)?,
                look: row.get::<_, i64>(1)?.cast_unsigned(),
                size_px: (row.get(2)?, row.get(3)?),
                family: row.get(4)?,
            })
        });
        Ok(rows?.collect::<rusqlite::Result<_>>()?)
    }

    fn family_of(
        &self,
        new: Candidate,
        candidates: &[Candidate],
        families: &Families,
        pictures: &mut Pictures,
    ) -> Result<Verdict> {
        let mut near: HashMap<i64, u32> = HashMap::new();
        for at in families.near(new.look) {
            let member = candidates[at];
            let apart = (member.look ^ new.look).count_ones();
            if apart <= LOOK_BITS && same_shape(member.size_px, new.size_px) {
                let family = member.family.expect("members have one");
                near.entry(family).and_modify(|least| *least = apart.min(*least)).or_insert(apart);
            }
        }
        if near.is_empty() {
            return Ok(Verdict::Alone);
        }
        let mut ranked = Vec::new();
        for family in near.into_keys() {
            let mut members: Vec<Candidate> =
                families.members[&family].iter().map(|at| candidates[*at]).collect();
            members.sort_by_key(|member| {
                (
                    std::cmp::Reverse(u64::from(member.size_px.0) * u64::from(member.size_px.1)),
                    member.content,
                )
            });
            members.truncate(MEMBERS);
            let Some(apart) = pictures.cells_apart(self, new, members[0])? else { continue };
            if apart <= CELL_LIMIT {
                ranked.push((apart, family, members));
            }
        }
        ranked.sort_by_key(|(apart, family, _)| (*apart, *family));
        let mut verdict = Verdict::Alone;
        for (_, family, members) in ranked.into_iter().take(FAMILIES) {
            match pictures.same_as_all(self, new, &members)? {
                Some(true) => return Ok(Verdict::Member(family)),
                Some(false) => {}
                None => verdict = Verdict::Unknown,
            }
        }
        Ok(verdict)
    }
}

/// The result of comparing one photo.
enum Verdict {
    Member(i64),
    Alone,
    /// A file cannot be read now.
    Unknown,
}

/// Members of families, found by their hashes.
///
/// If two hashes differ in at most four bits, at least one of their five parts is equal.
#[derive(Default)]
struct Families {
    members: HashMap<i64, Vec<usize>>,
    by_part: [HashMap<u64, Vec<usize>>; LOOK_BITS as usize + 1],
}

impl Families {
    fn add(&mut self, at: usize, family: i64, look: u64) {
        self.members.entry(family).or_default().push(at);
        for (part, by_part) in parts(look).into_iter().zip(&mut self.by_part) {
            by_part.entry(part).or_default().push(at);
        }
    }

    /// Members whose hashes may differ in few bits; some appear several times.
    fn near(&self, look: u64) -> impl Iterator<Item = usize> {
        let of_part = |(part, by_part): (u64, &'_ HashMap<u64, Vec<usize>>)| {
            by_part.get(&part).cloned().unwrap_or_default()
        };
        let near: Vec<usize> =
            parts(look).into_iter().zip(&self.by_part).flat_map(of_part).collect();
        near.into_iter()
    }
}

fn parts(look: u64) -> [u64; LOOK_BITS as usize + 1] {
    [0, 13, 26, 39, 52].map(|start| look >> start & 0x1fff)
}

/// Cache of thumbnails' cells and of the pictures that were used last.
#[derive(Default)]
struct Pictures {
    cells: HashMap<i64, Option<Vec<i32>>>,
    kept: Vec<(i64, Rgb)>,
}

impl Pictures {
    /// Largest difference between the cells of two thumbnails; `None` if one is missing.
    fn cells_apart(
        &mut self,
        library: &Library,
        a: Candidate,
        b: Candidate,
    ) -> Result<Option<i32>> {
        for candidate in [a, b] {
            if let Entry::Vacant(entry) = self.cells.entry(candidate.content) {
                entry.insert(
                    library.thumbnail(candidate.content).ok().and_then(|jpeg| cells(&jpeg)),
                );
            }
        }
        let (Some(a), Some(b)) = (&self.cells[&a.content], &self.cells[&b.content]) else {
            return Ok(None);
        };
        Ok(a.iter().zip(b).map(|(a, b)| (a - b).abs()).max())
    }

    /// Whether a photo is the same as each of some members; `None` if a file cannot be read.
    fn same_as_all(
        &mut self,
        library: &Library,
        new: Candidate,
        members: &[Candidate],
    ) -> Result<Option<bool>> {
        for member in members {
            let (Some(a), Some(b)) = (self.picture(library, new)?, self.picture(library, *member)?)
            else {
                return Ok(None);
            };
            if !Difference::of(&a, &b).is_some_and(|difference| difference.is_stored_again()) {
                return Ok(Some(false));
            }
        }
        Ok(Some(true))
    }

    fn picture(&mut self, library: &Library, candidate: Candidate) -> Result<Option<Rgb>> {
        if let Some(at) = self.kept.iter().position(|(content, _)| *content == candidate.content) {
            // The last used picture is at the end.
            let kept = self.kept.remove(at);
            self.kept.push(kept);
        } else {
            let Some(picture) =
                library.paths_of(candidate.content)?.iter().find_map(|path| read(path))
            else {
                return Ok(None);
            };
            if self.kept.len() >= KEPT {
                self.kept.remove(0);
            }
            self.kept.push((candidate.content, picture));
        }
        Ok(self.kept.last().map(|(_, picture)| picture.clone()))
    }
}

fn read(path: &Path) -> Option<Rgb> {
    let bytes = files::read(path).ok()?;
    // The file may be malformed: a panic in a decoder counts as unreadable.
    let decoded = std::panic::catch_unwind(|| decode_photo(path, &bytes, SIDE).ok()).ok()??;
    Some(fitted(decoded.pixels))
}

/// Mean lightness of the cells of a thumbnail.
fn cells(jpeg: &[u8]) -> Option<Vec<i32>> {
    let thumbnail = decode(jpeg, Default::default()).ok()?;
    Some(Planes::of(&resize(&thumbnail, CELLS, CELLS)).light)
}

impl Library {
    fn paths_of(&self, content: i64) -> Result<Vec<PathBuf>> {
        let mut rows =
            self.db.prepare_cached("SELECT path FROM file WHERE content = ?1 ORDER BY id")?;
        let rows = rows.query_map([content], |row| row.get::<_, Vec<u8>>(0))?;
        Ok(rows.map(|bytes| Ok(paths::from_bytes(&bytes?))).collect::<rusqlite::Result<_>>()?)
    }
}

#[cfg(test)]
mod tests;
