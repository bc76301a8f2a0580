//! Approximate index of whole photos, for large libraries: a nearest-neighbour graph (HNSW, by
//! usearch) in a file beside the library. A search maps the file into memory instead of reading
//! every embedding.
//!
//! The graph only proposes photos. The search reads their embeddings from the library and scores
//! them exactly. It also scores photos that are newer than the graph, so it finds photos that were
//! just added. The file may be deleted at any time.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use mmgem_core::index::{Query, Vectors};
use mmgem_data::files;
use rayon::prelude::*;
use rusqlite::{OptionalExtension, params};
use usearch::{Index, IndexOptions, MetricKind, ScalarKind};

use super::fill::vector_rows;
use super::search::{Found, REGION_CANDIDATES, Shelf, Wanted};
use super::{Library, PhotoVectors, codes_from_bytes};

/// Embeddings read per batch, before all cores add them to the graph.
const BATCH: usize = 8192;

/// The library's record of the graph.
struct Graph {
    /// The graph has the photos up to this row of `content`.
    last_content: i64,
    n: usize,
    n_bytes: u64,
}

impl Library {
    /// The graph's file beside a library, one per model.
    pub fn nearby_file(&self, library: &Path) -> PathBuf {
        let mut name = library.as_os_str().to_owned();
        name.push(format!(".{:016x}.usearch", self.fingerprint));
        name.into()
    }

    /// Creates the graph or adds new photos to it; returns the number of photos in it. Calls
    /// `advance` with the size of each batch.
    ///
    /// # Errors
    /// When the library cannot be read or the file cannot be written. The graph then stays as it
    /// was.
    pub fn update_nearby(&mut self, file: &Path, mut advance: impl FnMut(usize)) -> Result<usize> {
        let place = as_text(file)?;
        let old = self.graph(file)?;
        let index = open(self.dim)?;
        let after = match &old {
            Some(graph) => {
                index.load(place).with_context(|| complaint(file))?;
                graph.last_content
            }
            None => i64::MIN,
        };
        let mut last_content = after;
        loop {
            let new = self.vectors_after(last_content, BATCH)?;
            let Some((last, ..)) = new.last() else { break };
            last_content = *last;
            index.reserve_capacity_and_threads(
                index.size() + new.len(),
                rayon::current_num_threads(),
            )?;
            new.par_iter()
                .try_for_each(|(content, codes)| index.add(content.cast_unsigned(), codes))?;
            advance(new.len());
        }
        let n = index.size();
        if old.is_some_and(|graph| graph.n == n) {
            return Ok(n);
        }
        let new = file.with_extension("usearch.new");
        let written = index.save(as_text(&new)?).map_err(Into::into).and_then(|()| {
            let written = File::open(&new)?;
            written.sync_all()?;
            fs::rename(&new, file)?;
            files::sync_dir(file.parent())?;
            Ok(written.metadata()?.len())
        });
        let n_bytes = written.inspect_err(|_: &anyhow::Error| drop(fs::remove_file(&new)));
        let n_bytes = n_bytes.with_context(|| complaint(file))?;
        let row = params![self.model, last_content, i64::try_from(n)?, i64::try_from(n_bytes)?];
        self.db.execute("INSERT OR REPLACE INTO nearby VALUES (?1, ?2, ?3, ?4)", row)?;
        Ok(n)
    }

    /// The hits of [`Library::search`], found through the graph; `None` if the graph is missing or
    /// outdated, or if photos that it did not propose might be hits too.
    pub fn search_near(
        &self,
        file: &Path,
        vector: &[f32],
        wanted: &Wanted,
    ) -> Result<Option<Vec<Found>>> {
        let n_wanted = wanted.skip.saturating_add(wanted.k);
        // Members of a group give one hit together, so ask for more photos.
        let n = if wanted.by_region {
            REGION_CANDIDATES
        } else {
            n_wanted.saturating_mul(4).saturating_add(256)
        };
        let Some(shelf) = self.shelf_near(file, vector, n)? else { return Ok(None) };
        let query = Query::new(vector);
        let found = self.search(&shelf, &query, wanted, None)?;
        let is_cut = || {
            !wanted.by_region && shelf.scores(&query).iter().any(|hit| hit.score < wanted.min_score)
        };
        Ok((found.len() == wanted.k || is_cut()).then_some(found))
    }

    /// The embeddings of about `n` photos near a unit vector, and of all photos that are newer than
    /// the graph; `None` if the graph is missing or outdated.
    fn shelf_near(&self, file: &Path, vector: &[f32], n: usize) -> Result<Option<Shelf>> {
        let Some(graph) = self.graph(file)? else { return Ok(None) };
        let index = open(self.dim)?;
        // As many steps as hits; with fewer the search could end in the wrong neighbourhood.
        index.change_expansion_search(n.max(256));
        index.view(as_text(file)?).with_context(|| complaint(file))?;
        let mut query = Vectors::new(self.dim);
        query.push(vector);
        let mut near: Vec<i64> =
            index.search(query.codes(), n)?.keys.into_iter().map(u64::cast_signed).collect();
        near.sort_unstable();
        let (mut contents, mut codes, mut scales) = (Vec::new(), Vec::new(), Vec::new());
        let there = "EXISTS (SELECT 1 FROM file WHERE file.content = v.content)";
        let sql = |which| {
            format!(
                "SELECT content, scale, codes FROM image_vector AS v WHERE model = ?1 AND {which} AND {there}
                ORDER BY content"
            )
        };
        let mut one = self.db.prepare(&sql("content = ?2"))?;
        let mut newer = self.db.prepare(&sql("content > ?2"))?;
        let mut take = |rows: &mut rusqlite::Rows| -> Result<()> {
            while let Some(row) = rows.next()? {
                contents.push(row.get(0)?);
                scales.push(row.get(1)?);
                codes.extend(codes_from_bytes(row.get(2)?));
            }
            Ok(())
        };
        for content in near {
            take(&mut one.query(params![self.model, content])?)?;
        }
        take(&mut newer.query(params![self.model, graph.last_content])?)?;
        Ok(Some(Shelf { contents, vectors: Vectors::from_parts(self.dim, codes, scales)? }))
    }

    /// Whether the graph exists and is up to date with its record.
    ///
    /// # Errors
    /// When the library cannot be read.
    pub fn has_nearby(&self, file: &Path) -> Result<bool> {
        Ok(self.graph(file)?.is_some())
    }

    /// The graph's record, if the file matches it.
    fn graph(&self, file: &Path) -> Result<Option<Graph>> {
        let sql = "SELECT last_content, n, n_bytes FROM nearby WHERE model = ?1";
        let graph = self.db.query_row(sql, [self.model], |row| {
            Ok(Graph {
                last_content: row.get(0)?,
                n: row.get::<_, i64>(1)?.cast_unsigned() as usize,
                n_bytes: row.get::<_, i64>(2)?.cast_unsigned(),
            })
        });
        let n_bytes = fs::metadata(file).map(|metadata| metadata.len()).ok();
        Ok(graph.optional()?.filter(|graph| Some(graph.n_bytes) == n_bytes))
    }

    /// Adds photos that have only embeddings, for benchmarks.
    ///
    /// # Errors
    /// When the library cannot be written.
    pub fn pretend(&mut self, vectors: &Vectors) -> Result<()> {
        let transaction = self.db.transaction()?;
        let n: i64 = transaction.query_row("SELECT count(*) FROM content", [], |row| row.get(0))?;
        for row in 0..vectors.len() {
            let path = format!("/nowhere/{}.jpg", n + row as i64);
            let hash = blake3::hash(path.as_bytes());
            let look = i64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("eight bytes"));
            transaction
                .prepare_cached(
                    "INSERT INTO content (hash, format, width, height, look) VALUES (?1, 'JPEG', 4, 3, ?2)",
                )?
                .execute(params![hash.as_bytes(), look])?;
            let content = transaction.last_insert_rowid();
            transaction
                .prepare_cached(
                    "INSERT INTO file (path, size_bytes, modified_ns, content) VALUES (?1, 0, 0, ?2)",
                )?
                .execute(params![path.as_bytes(), content])?;
            let image = vectors.rows(row..row + 1);
            let vectors =
                PhotoVectors { image, boxes: Vec::new(), regions: Vectors::new(self.dim) };
            vector_rows(&transaction, self.model, content, &vectors)?;
        }
        Ok(transaction.commit()?)
    }

    /// Up to `n` photos after a row in `content`, with their codes. Includes photos whose files are
    /// missing, because the files may return.
    fn vectors_after(&self, content: i64, n: usize) -> Result<Vec<(i64, Vec<i8>)>> {
        let sql = "SELECT content, codes FROM image_vector WHERE model = ?1 AND content > ?2
            ORDER BY content LIMIT ?3";
        let mut rows = self.db.prepare_cached(sql)?;
        let row = params![self.model, content, i64::try_from(n)?];
        let rows = rows.query_map(row, |row| Ok((row.get(0)?, codes_from_bytes(row.get(1)?))))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}

/// An empty graph. A code's scale does not change a cosine, so codes are added without it.
fn open(dim: usize) -> Result<Index> {
    Ok(Index::new(&IndexOptions {
        dimensions: dim,
        metric: MetricKind::Cos,
        quantization: ScalarKind::I8,
        ..IndexOptions::default()
    })?)
}

fn as_text(file: &Path) -> Result<&str> {
    file.to_str().with_context(|| {
        format!(
            "an approximate index wants a path in Unicode\n  hint: give --library FILE\n  file: {}",
            file.display()
        )
    })
}

fn complaint(file: &Path) -> String {
    format!(
        "the approximate index cannot be used\n  hint: make it again with `mmgem index --approximate`, or search with --exact\n  file: {}",
        file.display()
    )
}

/// Unit vectors in clusters of 100, like photos of the same things.
pub fn gathered_vectors(n: usize, dim: usize, seed: u64) -> Vectors {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut number = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // The sum of four terms is nearly normal.
        state.to_le_bytes().chunks(2).map(|b| f32::from(b[0]) - f32::from(b[1])).sum::<f32>()
    };
    let centres: Vec<f32> = (0..n.div_ceil(100) * dim).map(|_| number()).collect();
    let mut vectors = Vectors::new(dim);
    for row in 0..n {
        let centre = &centres[row % n.div_ceil(100) * dim..][..dim];
        let mut vector: Vec<f32> = centre.iter().map(|x| x + number()).collect();
        let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        vector.iter_mut().for_each(|x| *x /= norm);
        vectors.push(&vector);
    }
    vectors
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const DIM: usize = 64;

    struct Desk {
        _folder: TempDir,
        library: Library,
        graph: PathBuf,
    }

    fn desk(vectors: &Vectors) -> Desk {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("l.sqlite");
        let mut library = Library::open(&file, 7, DIM).expect("usable");
        library.pretend(vectors).expect("writable");
        let graph = library.nearby_file(&file);
        Desk { _folder: folder, library, graph }
    }

    fn wanted(k: usize) -> Wanted {
        Wanted { skip: 0, k, min_score: -1.0, by_region: false, group: false }
    }

    impl Desk {
        fn exact(&self, query: &[f32], k: usize) -> Vec<Found> {
            let shelf = self.library.shelf().expect("readable");
            self.library.search(&shelf, &Query::new(query), &wanted(k), None).expect("readable")
        }

        fn near(&self, query: &[f32], k: usize) -> Option<Vec<Found>> {
            self.library.search_near(&self.graph, query, &wanted(k)).expect("readable")
        }
    }

    fn contents(found: &[Found]) -> Vec<i64> {
        found.iter().map(|hit| hit.photo.content).collect()
    }

    #[test]
    fn hits_are_those_of_comparing_every_vector() {
        let mut desk = desk(&gathered_vectors(3000, DIM, 1));
        assert!(!desk.library.has_nearby(&desk.graph).expect("readable"));
        assert_eq!(desk.library.update_nearby(&desk.graph, |_| ()).expect("writable"), 3000);
        let queries = gathered_vectors(3000, DIM, 2);
        let (mut n_same, mut n) = (0, 0);
        for row in 0..100 {
            let query = queries.vector(row);
            let (near, exact) =
                (desk.near(&query, 10).expect("there is a graph"), desk.exact(&query, 10));
            let near: Vec<_> = near.iter().map(|hit| (hit.photo.content, hit.score)).collect();
            n += exact.len();
            n_same +=
                exact.iter().filter(|hit| near.contains(&(hit.photo.content, hit.score))).count();
        }
        assert!(n_same * 100 >= n * 98, "{n_same} of {n}");
    }

    #[test]
    fn what_came_later_is_found_without_the_graph_and_then_by_it() {
        let mut desk = desk(&gathered_vectors(500, DIM, 1));
        desk.library.update_nearby(&desk.graph, |_| ()).expect("writable");
        let later = gathered_vectors(50, DIM, 3);
        desk.library.pretend(&later).expect("writable");
        let query = later.vector(49);
        let exact = desk.exact(&query, 5);
        assert_eq!(exact[0].photo.content, 550);
        assert_eq!(contents(&desk.near(&query, 5).expect("there is a graph")), contents(&exact));
        let mut told = 0;
        assert_eq!(desk.library.update_nearby(&desk.graph, |n| told += n).expect("writable"), 550);
        assert_eq!(told, 50, "what is in the graph is not put in again");
        assert_eq!(contents(&desk.near(&query, 5).expect("there is a graph")), contents(&exact));
    }

    #[test]
    fn photos_that_are_gone_are_no_hits() {
        let vectors = gathered_vectors(500, DIM, 1);
        let mut desk = desk(&vectors);
        desk.library.update_nearby(&desk.graph, |_| ()).expect("writable");
        let query = vectors.vector(20);
        let first = desk.near(&query, 1).expect("there is a graph").remove(0).photo;
        desk.library.forget(|path| path == first.paths[0]).expect("writable");
        let near = desk.near(&query, 5).expect("there is a graph");
        assert!(!contents(&near).contains(&first.content));
        assert_eq!(contents(&near), contents(&desk.exact(&query, 5)));
    }

    #[test]
    fn a_graph_that_lacks_something_is_not_used() {
        let vectors = gathered_vectors(300, DIM, 1);
        let query = vectors.vector(3);
        let mut desk = desk(&vectors);
        let update =
            |desk: &mut Desk| desk.library.update_nearby(&desk.graph, |_| ()).expect("writable");
        update(&mut desk);
        assert!(desk.near(&query, 5).is_some());
        // Another embedding for a photo in the graph.
        let again = PhotoVectors {
            image: vectors.rows(9..10),
            boxes: Vec::new(),
            regions: Vectors::new(DIM),
        };
        let transaction = desk.library.db.transaction().expect("begins");
        vector_rows(&transaction, desk.library.model, 4, &again).expect("writable");
        transaction.commit().expect("writable");
        assert!(desk.near(&query, 5).is_none());
        update(&mut desk);
        assert_eq!(
            contents(&desk.near(&query, 5).expect("made again")),
            contents(&desk.exact(&query, 5))
        );
        // The graph's file truncated, then deleted.
        let bytes = fs::read(&desk.graph).expect("written");
        fs::write(&desk.graph, &bytes[..bytes.len() / 2]).expect("writable");
        assert!(desk.near(&query, 5).is_none());
        assert_eq!(update(&mut desk), 300);
        assert!(desk.near(&query, 5).is_some());
        fs::remove_file(&desk.graph).expect("it is there");
        assert!(desk.near(&query, 5).is_none());
    }

    #[test]
    fn too_few_hits_are_looked_for_among_all() {
        let vectors = gathered_vectors(300, DIM, 1);
        let mut desk = desk(&vectors);
        desk.library.update_nearby(&desk.graph, |_| ()).expect("writable");
        assert!(desk.near(&vectors.vector(0), 301).is_none());
        let strict = Wanted { min_score: 0.9, ..wanted(50) };
        let found =
            desk.library.search_near(&desk.graph, &vectors.vector(0), &strict).expect("readable");
        assert_eq!(found.expect("all that are so near").len(), 1);
    }
}
