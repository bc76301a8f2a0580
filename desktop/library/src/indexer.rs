//! Fills a library. Threads read and resize new photos while the calling thread encodes a batch and
//! another thread writes the batch before.

use std::collections::{HashMap, HashSet};
use std::fs::{self, Metadata};
use std::io;
use std::ops::ControlFlow;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::UNIX_EPOCH;

use mmgem_core::image::{ImagePreprocess, Preprocessed, Rgb, preprocess, resize, to_jpeg};
use mmgem_core::index::{Vectors, region_boxes};
use mmgem_core::model::Stage;
use mmgem_core::session::{EncodedImage, Part, Session};
use mmgem_data::files;
use pollster::block_on;
use rayon::prelude::*;
use rusqlite::{OptionalExtension, Transaction, params};

use super::dates::PhotoDate;
use super::photos::{FoundPhotos, decode_photo};
use super::sidecars::{self, SidecarMetadata};
use super::{
    ImportedIndex, Library, LibraryError, METADATA, PhotoMetadata, PhotoVectors, READERS, Result,
    bytes_of_codes, bytes_of_floats, paths, root_on_one_line,
};

/// Photos per batch, and per transaction. A kill loses a batch that is being written and one that is
/// being encoded.
const BATCH: usize = 16;
/// Longer side of a thumbnail, in pixels.
const THUMBNAIL: u32 = 256;
/// A photo is decoded with at least this many pixels per model input pixel and axis; fewer would be
/// visible.
const OVERSAMPLING: u32 = 2;

/// The result of an update over some folders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Photos that went through the image encoder.
    pub encoded: usize,
    /// New files whose embeddings existed: copies, moved or renamed files, or files of an imported
    /// index.
    pub recognised: usize,
    /// Files that were read again and hold the same photo as before.
    pub unchanged: usize,
    /// Missing or excluded files that were dropped from the library.
    pub forgotten: usize,
    /// Files that could not be read.
    pub unreadable: usize,
    /// Encoded and recognised photos that are truncated or damaged.
    pub in_part: usize,
}

/// Settings of an update.
#[derive(Clone, Copy)]
pub struct Indexing<'a> {
    /// The model that embeds the photos.
    pub session: &'a Session,
    /// Embeddings that were made elsewhere.
    pub imported: Option<&'a ImportedIndex>,
    /// Reads every file again, also unchanged ones.
    pub rescan: bool,
}

impl<'a> Indexing<'a> {
    /// Settings without imported embeddings and without a rescan.
    pub fn of(session: &'a Session) -> Self {
        Self { session, imported: None, rescan: false }
    }
}

/// Receives the progress of [`Library::update`] and may end it.
pub trait IndexObserver {
    /// Reports the number of new or changed files, once.
    fn begin(&mut self, n_files: usize);

    /// Reports that `n_files` more files are done and written; returns whether to continue.
    fn advance(&mut self, n_files: usize) -> ControlFlow<()>;

    /// Reports a file that cannot be read; returns whether to continue.
    fn refuse(&mut self, path: &Path, error: LibraryError) -> ControlFlow<()>;

    /// Reports that a part of a photo is missing. The rest is in the library.
    fn warn(&mut self, path: &Path, problem: &str);
}

/// Goes on to the end without a report. Counts of refused files are in the [`Summary`].
impl IndexObserver for () {
    fn begin(&mut self, _n_files: usize) {}

    fn advance(&mut self, _n_files: usize) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn refuse(&mut self, _path: &Path, _error: LibraryError) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn warn(&mut self, _path: &Path, _problem: &str) {}
}

/// File attributes that reveal a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub size_bytes: i64,
    /// Nanoseconds since 1970.
    pub modified_ns: i64,
    /// Time of any change, permissions and name included; `None` if the system does not report it.
    pub changed_ns: Option<i64>,
    /// Time of the last change to the file's sidecars.
    pub sidecar_ns: Option<i64>,
}

/// A file as the library knows it.
#[derive(Clone, Copy, Debug)]
struct Known {
    stamp: Stamp,
    /// The [`READERS`] version that could not read the file, 0 if it could not be opened; `None` if
    /// it was read.
    refused_by: Option<i64>,
    /// This program's [`METADATA`] may find more in the file.
    lacks_metadata: bool,
}

impl Known {
    /// Whether the file must be read again, given its stamp `now`.
    fn is_stale(&self, now: Stamp) -> bool {
        let Stamp { size_bytes, modified_ns, changed_ns, sidecar_ns } = self.stamp;
        let same = (size_bytes, modified_ns, sidecar_ns)
            == (now.size_bytes, now.modified_ns, now.sidecar_ns);
        let changed = changed_ns.is_some() && changed_ns != now.changed_ns;
        let may_be_read = self.refused_by.is_some_and(|readers| readers != READERS);
        !same || changed || may_be_read || self.lacks_metadata
    }
}

/// A new or changed file, as a reader thread returns it.
struct ReadFile {
    entry: FileEntry,
    content: Result<Content, Unreadable>,
}

/// What the library stores of a file, its content aside.
struct FileEntry {
    path: PathBuf,
    /// `None` if the system does not give the file's attributes.
    stamp: Option<Stamp>,
    beside: SidecarMetadata,
}

/// Why a file has no content.
struct Unreadable {
    error: LibraryError,
    /// The file could not be opened or read; its content may be valid.
    is_unopened: bool,
}

struct Content {
    hash: [u8; 32],
    metadata: PhotoMetadata,
    /// `None` if the library already has embeddings of this content.
    decoded: Option<DecodedPhoto>,
}

/// A batch of files, sorted by what must be written.
#[derive(Default)]
struct Batch {
    /// Files with new content.
    new: Vec<(FileEntry, [u8; 32], PhotoMetadata, DecodedPhoto)>,
    /// Files whose content has embeddings.
    known: Vec<(FileEntry, [u8; 32], PhotoMetadata)>,
    bad: Vec<(FileEntry, Unreadable)>,
}

/// A batch with the embeddings of its new photos.
struct EncodedBatch {
    batch: Batch,
    vectors: NewVectors,
}

/// Embeddings of a batch's new photos, in their order.
struct NewVectors {
    photos: Vec<PhotoVectors>,
    /// Photos that went through the image encoder; the embeddings of the others were imported.
    n_encoded: usize,
}

/// A batch that is in the library.
struct Written {
    n_files: usize,
    summary: Summary,
    /// Photos of which a part is missing, with the problem.
    in_part: Vec<(PathBuf, String)>,
    bad: Vec<(FileEntry, Unreadable)>,
}

impl Batch {
    /// Sorts files. `hashes` has the contents that earlier batches encoded, and gets those of this
    /// one.
    fn of(files: Vec<ReadFile>, hashes: &mut HashSet<[u8; 32]>) -> Self {
        let mut batch = Self::default();
        for ReadFile { entry, content } in files {
            match content {
                Err(unreadable) => batch.bad.push((entry, unreadable)),
                Ok(Content { hash, metadata, decoded: Some(decoded) }) if hashes.insert(hash) => {
                    batch.new.push((entry, hash, metadata, decoded));
                }
                Ok(Content { hash, metadata, .. }) => batch.known.push((entry, hash, metadata)),
            }
        }
        batch
    }
}

impl Written {
    /// Adds the batch to the summary and tells the observer. Breaks if the observer ends the
    /// update.
    fn report(self, summary: &mut Summary, observer: &mut dyn IndexObserver) -> ControlFlow<()> {
        let Summary { encoded, recognised, unchanged, forgotten, unreadable, in_part } =
            self.summary;
        summary.encoded += encoded;
        summary.recognised += recognised;
        summary.unchanged += unchanged;
        summary.forgotten += forgotten;
        summary.unreadable += unreadable;
        summary.in_part += in_part;
        for (path, problem) in &self.in_part {
            observer.warn(path, problem);
        }
        for (file, unreadable) in self.bad {
            observer.refuse(&file.path, unreadable.error)?;
        }
        observer.advance(self.n_files)
    }
}

struct DecodedPhoto {
    format: &'static str,
    width: u32,
    height: u32,
    thumbnail: Vec<u8>,
    look: u64,
    input: Preprocessed,
    /// See [`mmgem_core::image::Decoded::problem`].
    problem: Option<String>,
}

impl Library {
    /// Updates the library to match the files found below some folders. The observer may end it;
    /// batches that were written stay and count in the summary.
    ///
    /// # Errors
    /// When the library cannot be written, or the model's device fails.
    pub fn update(
        &mut self,
        found: &FoundPhotos,
        indexing: Indexing,
        observer: &mut dyn IndexObserver,
    ) -> Result<Summary> {
        let mut summary = Summary { forgotten: self.forget_missing(found)?, ..Summary::default() };
        let known = self.known_files()?;
        let mut stale = Vec::new();
        let mut as_before = Vec::new();
        for path in &found.photos {
            let now = Stamp::of(path, found.sidecars_of(path)).ok();
            match (known.get(path.as_path()), now) {
                (Some(known), Some(now)) if !indexing.rescan && !known.is_stale(now) => {
                    if known.stamp.changed_ns.is_none() && now.changed_ns.is_some() {
                        as_before.push((path.as_path(), now));
                    }
                }
                _ => stale.push(path.clone()),
            }
        }
        self.learn_changes(&as_before)?;
        let embedded = self.embedded_contents()?;
        let config = indexing.session.config().preprocess();
        observer.begin(stale.len());

        let next = AtomicUsize::new(0);
        let went_on = thread::scope(|scope| -> Result<bool> {
            // The channel is bounded: readers wait while the encoder is busy, so memory does not
            // grow. Dropping the receiver ends the readers.
            let (sender, receiver) = sync_channel(BATCH);
            for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
                let (sender, stale, next, embedded, config) =
                    (sender.clone(), &stale, &next, &embedded, &config);
                scope.spawn(move || {
                    while let Some(path) = stale.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if sender
                            .send(read_file(path, found.sidecars_of(path), embedded, config))
                            .is_err()
                        {
                            break;
                        }
                    }
                });
            }
            drop(sender);
            // One batch is written while the next is encoded.
            let (to_writer, batches) = sync_channel::<EncodedBatch>(1);
            let (written_sender, written) = sync_channel(1);
            let library = &mut *self;
            scope.spawn(move || {
                for batch in batches {
                    if written_sender.send(library.write(batch)).is_err() {
                        break;
                    }
                }
            });
            let mut hashes = HashSet::new();
            let mut is_writing = false;
            loop {
                let files: Vec<ReadFile> = receiver.iter().take(BATCH).collect();
                let is_last = files.is_empty();
                let batch = Batch::of(files, &mut hashes);
                let batch = EncodedBatch { vectors: embed_new(&batch.new, indexing)?, batch };
                if is_writing {
                    let written = written.recv().expect("the writer answers every batch")?;
                    if written.report(&mut summary, observer).is_break() {
                        return Ok(false);
                    }
                }
                if is_last {
                    return Ok(true);
                }
                to_writer.send(batch).expect("the writer waits for batches");
                is_writing = true;
            }
        })?;
        if went_on {
            self.find_duplicates(&mut |_| observer.advance(0))?;
            self.refresh_vector_file()?;
        }
        Ok(summary)
    }

    /// Writes a batch in one transaction.
    fn write(&mut self, EncodedBatch { batch, vectors }: EncodedBatch) -> Result<Written> {
        let transaction = self.db.transaction()?;
        let mut summary = Summary::default();
        for ((file, hash, metadata, decoded), vectors) in batch.new.iter().zip(&vectors.photos) {
            let content = content_row(&transaction, hash, metadata, decoded)?;
            vector_rows(&transaction, self.model, content, vectors)?;
            file_row(&transaction, file, Ok(hash))?;
        }
        for (file, hash, metadata) in &batch.known {
            metadata_row(&transaction, hash, metadata)?;
            let was_there = file_row(&transaction, file, Ok(hash))?;
            *if was_there { &mut summary.unchanged } else { &mut summary.recognised } += 1;
        }
        for (file, unreadable) in &batch.bad {
            file_row(&transaction, file, Err(unreadable))?;
        }
        transaction.commit()?;
        summary.encoded = vectors.n_encoded;
        summary.recognised += batch.new.len() - vectors.n_encoded;
        summary.unreadable = batch.bad.len();
        let problem = |(file, .., decoded): (FileEntry, _, _, DecodedPhoto)| {
            decoded.problem.map(|problem| (file.path, problem))
        };
        let n_files = batch.new.len() + batch.known.len() + batch.bad.len();
        let in_part: Vec<_> = batch.new.into_iter().filter_map(problem).collect();
        summary.in_part = in_part.len();
        Ok(Written { n_files, summary, in_part, bad: batch.bad })
    }

    /// Files that need not be read again unless they change.
    fn known_files(&self) -> Result<HashMap<PathBuf, Known>> {
        let sql = "SELECT path, size_bytes, modified_ns, changed_ns, sidecar_ns,
                file.problem IS NOT NULL, readers, content.id IS NOT NULL
                AND content.taken_secs IS NULL AND coalesce(content.facts, 0) < ?2
            FROM file LEFT JOIN content ON content.id = file.content
            WHERE file.problem IS NOT NULL
            OR content IN (SELECT content FROM image_vector WHERE model = ?1)";
        let mut rows = self.db.prepare(sql)?;
        let rows = rows.query_map([self.model, METADATA], |row| {
            let path: Vec<u8> = row.get(0)?;
            let stamp = Stamp {
                size_bytes: row.get(1)?,
                modified_ns: row.get(2)?,
                changed_ns: row.get(3)?,
                sidecar_ns: row.get(4)?,
            };
            let refused = row.get::<_, bool>(5)?;
            let readers: Option<i64> = row.get(6)?;
            let refused_by = refused.then(|| readers.unwrap_or(0));
            Ok((paths::from_bytes(&path), Known { stamp, refused_by, lacks_metadata: row.get(7)? }))
        });
        Ok(rows?.collect::<rusqlite::Result<_>>()?)
    }

    /// Saves `changed_ns` of unchanged files that an earlier version, which did not save it, had
    /// read.
    fn learn_changes(&mut self, files: &[(&Path, Stamp)]) -> Result<()> {
        if files.is_empty() {
            return Ok(());
        }
        let transaction = self.db.transaction()?;
        for (path, stamp) in files {
            transaction
                .prepare_cached("UPDATE file SET changed_ns = ?2 WHERE path = ?1")?
                .execute(params![paths::to_bytes(path), stamp.changed_ns])?;
        }
        Ok(transaction.commit()?)
    }

    /// Hashes of the contents that have embeddings of this model.
    fn embedded_contents(&self) -> Result<HashSet<[u8; 32]>> {
        let sql = "SELECT hash FROM content JOIN image_vector ON content = id WHERE model = ?1";
        let mut rows = self.db.prepare(sql)?;
        let hashes = rows.query_map([self.model], |row| row.get(0))?;
        Ok(hashes.collect::<rusqlite::Result<_>>()?)
    }

    /// Drops files below the searched folders that are missing or now excluded. Their embeddings
    /// stay until [`Library::compact`], in case the files return.
    fn forget_missing(&mut self, found: &FoundPhotos) -> Result<usize> {
        let there: HashSet<&Path> = found.photos.iter().map(PathBuf::as_path).collect();
        self.forget(|path| {
            let searched = found.covers(path);
            // A folder that could not be listed may still hold the file.
            let missing = || found.complete || matches!(path.try_exists(), Ok(false));
            searched && !there.contains(path) && missing()
        })
    }

    /// Drops the files for which `gone` is true; returns their number.
    pub(super) fn forget(&mut self, gone: impl Fn(&Path) -> bool) -> Result<usize> {
        let transaction = self.db.transaction()?;
        let mut ids = Vec::new();
        {
            let mut rows = transaction.prepare("SELECT id, path FROM file")?;
            let mut rows = rows.query([])?;
            while let Some(row) = rows.next()? {
                if gone(&paths::from_bytes(row.get_ref(1)?.as_blob()?)) {
                    ids.push(row.get::<_, i64>(0)?);
                }
            }
        }
        for id in &ids {
            transaction.execute("DELETE FROM file WHERE id = ?1", [id])?;
        }
        transaction.commit()?;
        Ok(ids.len())
    }
}

impl Stamp {
    pub fn of(path: &Path, sidecars: &[PathBuf]) -> io::Result<Self> {
        let attributes = fs::metadata(path)?;
        let modified = attributes.modified()?;
        let modified_ns = match modified.duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_nanos()).unwrap_or(i64::MAX),
        };
        Ok(Self {
            size_bytes: i64::try_from(attributes.len()).unwrap_or(i64::MAX),
            modified_ns,
            changed_ns: changed_ns(&attributes),
            sidecar_ns: sidecars::changed_ns(sidecars),
        })
    }
}

#[cfg(unix)]
fn changed_ns(metadata: &Metadata) -> Option<i64> {
    use std::os::unix::fs::MetadataExt;
    metadata.ctime().checked_mul(1_000_000_000)?.checked_add(metadata.ctime_nsec())
}

/// Windows has this time, but Rust's standard library does not give it.
#[cfg(not(unix))]
fn changed_ns(_metadata: &Metadata) -> Option<i64> {
    None
}

/// Reads one file. Runs on a reader thread and needs neither the model nor the library.
fn read_file(
    path: &Path,
    sidecars: &[PathBuf],
    embedded: &HashSet<[u8; 32]>,
    config: &ImagePreprocess,
) -> ReadFile {
    let unopened = |error| Unreadable { error, is_unopened: true };
    // Taken before the bytes, so that a file that changes meanwhile is read again next time.
    let (stamp, bytes) = match Stamp::of(path, sidecars) {
        Ok(stamp) => (Some(stamp), files::read(path).map_err(|error| unopened(error.into()))),
        Err(error) => (None, Err(unopened(error.into()))),
    };
    let content = bytes.and_then(|bytes| {
        let hash = *blake3::hash(&bytes).as_bytes();
        let metadata = PhotoMetadata::of(&bytes);
        if embedded.contains(&hash) {
            return Ok(Content { hash, metadata, decoded: None });
        }
        // The file may be malformed: a panic in a decoder counts as unreadable.
        let decoded = catch_unwind(|| decode_new(path, &bytes, config))
            .unwrap_or(Err(LibraryError::Panicked));
        let decoded = decoded.map_err(|error| Unreadable { error, is_unopened: false })?;
        Ok(Content { hash, metadata, decoded: Some(decoded) })
    });
    let beside = SidecarMetadata::of(path, sidecars);
    ReadFile { entry: FileEntry { path: path.to_owned(), stamp, beside }, content }
}

fn decode_new(path: &Path, bytes: &[u8], config: &ImagePreprocess) -> Result<DecodedPhoto> {
    let side = u32::try_from(config.image_size).expect("a model's input is small");
    let decoded = decode_photo(path, bytes, (OVERSAMPLING * side).max(THUMBNAIL))?;
    let (width, height) = (decoded.width, decoded.height);
    Ok(DecodedPhoto {
        format: decoded.format,
        width,
        height,
        thumbnail: to_jpeg(&thumbnail(&decoded.pixels), 80),
        look: difference_hash(&decoded.pixels),
        input: preprocess(&decoded.pixels, config).of_original(width, height),
        problem: decoded.problem,
    })
}

/// The photo scaled down so that its longer side is at most [`THUMBNAIL`].
fn thumbnail(photo: &Rgb) -> Rgb {
    let (width, height) = photo.dimensions();
    let longer = width.max(height);
    if longer <= THUMBNAIL {
        return photo.clone();
    }
    let scaled =
        |side: u32| (u64::from(side) * u64::from(THUMBNAIL) / u64::from(longer)).max(1) as u32;
    resize(photo, scaled(width), scaled(height))
}

/// Perceptual hash of 64 bits: a bit is set if the picture gets lighter to the right there. Copies
/// at another size or quality differ in few bits.
fn difference_hash(photo: &Rgb) -> u64 {
    let small = resize(photo, 9, 8);
    let light =
        |x: u32, y: u32| small.get_pixel(x, y).0.iter().map(|value| u32::from(*value)).sum::<u32>();
    (0..64).fold(0, |bits, i| bits << 1 | u64::from(light(i % 8, i / 8) < light(i % 8 + 1, i / 8)))
}

/// Embeddings of new photos: imported ones, or else the model's.
fn embed_new(
    new: &[(FileEntry, [u8; 32], PhotoMetadata, DecodedPhoto)],
    Indexing { session, imported, .. }: Indexing,
) -> Result<NewVectors> {
    let of_import = |file: &FileEntry| imported?.vectors(&file.path, file.stamp?);
    let vectors: Vec<Option<PhotoVectors>> = new.iter().map(|(file, ..)| of_import(file)).collect();
    let inputs: Vec<Preprocessed> = new
        .iter()
        .zip(&vectors)
        .filter(|(_, vectors)| vectors.is_none())
        .map(|((.., decoded), _)| decoded.input.clone())
        .collect();
    let encoded = if inputs.is_empty() { Vec::new() } else { session.encode_batch(&inputs) };
    let mut encoded = encoded.iter();
    let mut embed_next = || embed(session, encoded.next().expect("one for each photo without"));
    let photos = vectors
        .into_iter()
        .map(|vectors| vectors.map_or_else(&mut embed_next, Ok))
        .collect::<Result<_>>()?;
    Ok(NewVectors { photos, n_encoded: inputs.len() })
}

/// Embeddings of an encoded photo and of its regions, all from one feature map.
pub fn embed(session: &Session, encoded: &EncodedImage) -> Result<PhotoVectors> {
    let dim = session.config().embed_dim;
    let (mut image, mut regions) = (Vectors::new(dim), Vectors::new(dim));
    image.push(&block_on(session.embed_image(encoded, &Part::Whole))?);
    let boxes = region_boxes(encoded.width as f32, encoded.height as f32, dim);
    if !boxes.is_empty() {
        block_on(session.embed_boxes(Stage::Two, encoded, &boxes))?
            .chunks(dim)
            .for_each(|region| regions.push(region));
    }
    Ok(PhotoVectors { image, boxes, regions })
}

/// Reads all photos on all cores as an update does, for measurements. Leaves out unreadable ones.
#[doc(hidden)]
pub fn read_alone(found: &FoundPhotos, session: &Session) -> Vec<Preprocessed> {
    let config = session.config().preprocess();
    let read = |path: &PathBuf| {
        let file = read_file(path, found.sidecars_of(path), &HashSet::new(), &config);
        file.content.ok()?.decoded.map(|decoded| decoded.input)
    };
    found.photos.par_iter().filter_map(read).collect()
}

/// Embeds photos and their regions in batches as an update does, for measurements.
#[doc(hidden)]
pub fn encode_alone(session: &Session, photos: &[Preprocessed]) -> Result<()> {
    for batch in photos.chunks(BATCH) {
        for encoded in session.encode_batch(batch) {
            embed(session, &encoded)?;
        }
    }
    Ok(())
}

/// Inserts a content, or updates one that is decoded differently now; returns its row.
fn content_row(
    transaction: &Transaction,
    hash: &[u8; 32],
    metadata: &PhotoMetadata,
    decoded: &DecodedPhoto,
) -> Result<i64> {
    let DecodedPhoto { format, width, height, look, problem, .. } = decoded;
    transaction
        .prepare_cached(
            "INSERT INTO content (hash, format, width, height, look, problem)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6)
            ON CONFLICT (hash) DO UPDATE SET format = excluded.format, width = excluded.width,
            height = excluded.height, look = excluded.look, problem = excluded.problem,
            family = NULL",
        )?
        .execute(params![hash, format, width, height, look.cast_signed(), problem])?;
    metadata_row(transaction, hash, metadata)?;
    let content = content_of(transaction, hash)?.ok_or(LibraryError::Raced)?;
    transaction
        .prepare_cached("INSERT OR REPLACE INTO thumbnail (content, jpeg) VALUES (?1, ?2)")?
        .execute(params![content, decoded.thumbnail])?;
    Ok(content)
}

/// Saves a content's metadata, unless the same or a newer [`METADATA`] version already saved it.
fn metadata_row(
    transaction: &Transaction,
    hash: &[u8; 32],
    metadata: &PhotoMetadata,
) -> Result<()> {
    let [latitude, longitude] = metadata.place.map_or([None; 2], |place| place.map(Some));
    let (secs, from) = metadata.taken.map(|PhotoDate { secs, from }| (secs, from.as_str())).unzip();
    let sql = "UPDATE content SET taken_secs = ?3, date_from = ?4, camera = ?5, latitude = ?6,
        longitude = ?7, facts = ?2 WHERE hash = ?1 AND coalesce(facts, 0) < ?2";
    let row = params![hash, METADATA, secs, from, metadata.camera, latitude, longitude];
    transaction.prepare_cached(sql)?.execute(row)?;
    Ok(())
}

fn content_of(transaction: &Transaction, hash: &[u8; 32]) -> Result<Option<i64>> {
    let mut row = transaction.prepare_cached("SELECT id FROM content WHERE hash = ?1")?;
    Ok(row.query_row([hash], |row| row.get(0)).optional()?)
}

fn vector_rows(
    transaction: &Transaction,
    model: i64,
    content: i64,
    vectors: &PhotoVectors,
) -> Result<()> {
    let PhotoVectors { image, boxes, regions } = vectors;
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO image_vector (model, content, scale, codes)
            VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![model, content, image.scales()[0], bytes_of_codes(image.codes())])?;
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO region_vectors (model, content, boxes, scales, codes)
            VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            model,
            content,
            bytes_of_floats(boxes.iter().flatten()),
            bytes_of_floats(regions.scales()),
            bytes_of_codes(regions.codes())
        ])?;
    Ok(())
}

/// Inserts or updates a file with its content or its problem; returns whether it had this content
/// before.
///
/// A photo that cannot be opened now stays a hit: it keeps the content of the last read.
fn file_row(
    transaction: &Transaction,
    file: &FileEntry,
    content: Result<&[u8; 32], &Unreadable>,
) -> Result<bool> {
    let FileEntry { path, stamp, beside } = file;
    let path = paths::to_bytes(path);
    let mut before = transaction.prepare_cached("SELECT content FROM file WHERE path = ?1")?;
    let before: Option<i64> = before.query_row([&path], |row| row.get(0)).optional()?.flatten();
    let content_id = match content {
        Ok(hash) => Some(content_of(transaction, hash)?.ok_or(LibraryError::Raced)?),
        Err(unreadable) => before.filter(|_| unreadable.is_unopened),
    };
    let problem = content.err().map(|unreadable| root_on_one_line(&unreadable.error));
    let is_unopened = content.is_err_and(|unreadable| unreadable.is_unopened);
    let [latitude, longitude] = beside.place.map_or([None; 2], |place| place.map(Some));
    let (taken_secs, date_from) =
        beside.taken.map(|PhotoDate { secs, from }| (secs, from.as_str())).unzip();
    transaction
        .prepare_cached(
            "INSERT INTO file (path, size_bytes, modified_ns, changed_ns, sidecar_ns, content,
                problem, readers, taken_secs, date_from, latitude, longitude)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
            ON CONFLICT (path) DO UPDATE SET size_bytes = excluded.size_bytes,
            modified_ns = excluded.modified_ns, changed_ns = excluded.changed_ns,
            sidecar_ns = excluded.sidecar_ns, content = excluded.content, problem = excluded.problem, readers = excluded.readers,
            taken_secs = excluded.taken_secs, date_from = excluded.date_from,
            latitude = excluded.latitude, longitude = excluded.longitude",
        )?
        .execute(params![
            path,
            stamp.map_or(0, |stamp| stamp.size_bytes),
            stamp.map_or(0, |stamp| stamp.modified_ns),
            stamp.and_then(|stamp| stamp.changed_ns),
            stamp.and_then(|stamp| stamp.sidecar_ns),
            content_id,
            problem,
            // The cause may be gone next time, so a file that cannot be opened is always tried
            // again.
            (!is_unopened).then_some(READERS),
            taken_secs,
            date_from,
            latitude,
            longitude
        ])?;
    Ok(content.is_ok() && before.is_some() && before == content_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slope(width: u32, height: u32) -> Rgb {
        Rgb::from_fn(width, height, |x, y| {
            let wave = |at: u32, of: u32| ((at * 40 / of) % 7 * 30) as u8;
            [wave(x, width), wave(y, height), wave(x + y, width + height)].into()
        })
    }

    #[test]
    fn a_thumbnail_has_the_shape_of_its_photo() {
        assert_eq!(thumbnail(&slope(1024, 512)).dimensions(), (256, 128));
        assert_eq!(thumbnail(&slope(100, 50)).dimensions(), (100, 50));
        assert_eq!(thumbnail(&slope(1, 3000)).dimensions(), (1, 256));
    }

    #[test]
    fn a_copy_at_another_size_looks_the_same_and_another_photo_does_not() {
        let apart = |a: &Rgb, b: &Rgb| (difference_hash(a) ^ difference_hash(b)).count_ones();
        assert!(apart(&slope(400, 300), &slope(200, 150)) <= 4);
        assert!(apart(&slope(400, 300), &image::imageops::flip_horizontal(&slope(400, 300))) > 12);
    }
}
