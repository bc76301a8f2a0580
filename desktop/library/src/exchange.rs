//! Import and export of the index file that the desktop and the browser exchange.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use mmgem_core::index::{Index, IndexedPhoto, Vectors};
use mmgem_data::files;

use super::indexer::Stamp;
use super::names::composed;
use super::{Library, LibraryError, PhotoVectors, Result, codes_from_bytes, paths};

/// Embeddings that the same model made elsewhere.
#[derive(Debug)]
pub struct ImportedIndex {
    index: Index,
    /// Row of a photo, by its file's name, size and modification time in milliseconds.
    rows: HashMap<(String, i64, i64), usize>,
}

impl ImportedIndex {
    /// Reads an exchange file.
    ///
    /// # Errors
    /// When the file is not an index or was made by another model.
    pub fn read(file: &Path, fingerprint: u64) -> Result<Self> {
        let complaint = |source| LibraryError::Exchange { file: file.into(), source };
        let index = Index::from_bytes(&files::read(file)?).map_err(complaint)?;
        index.check_model(fingerprint).map_err(complaint)?;
        let rows = index.photos.iter().enumerate().filter_map(|(row, photo)| {
            // A browser on Windows may have written either separator.
            let name = photo.path.rsplit(['/', '\\']).next()?;
            Some(((composed(name), i64::try_from(photo.size_bytes).ok()?, photo.modified_ms), row))
        });
        Ok(Self { rows: rows.collect(), index })
    }

    /// The embeddings of a file, if the index has them.
    pub fn vectors(&self, path: &Path, stamp: Stamp) -> Option<PhotoVectors> {
        let modified_ms = stamp.modified_ns.div_euclid(1_000_000);
        // A Mac and a PC compose accents differently; both write U+FFFD for bytes that are not
        // UTF-8.
        let name = composed(&path.file_name()?.to_string_lossy());
        let row = *self.rows.get(&(name, stamp.size_bytes, modified_ms))?;
        let regions = self.index.regions_of(row);
        Some(PhotoVectors {
            image: self.index.images.rows(row..row + 1),
            boxes: self.index.boxes[regions.clone()].to_vec(),
            regions: self.index.regions.rows(regions),
        })
    }
}

impl Library {
    /// Every file of this library that has an embedding; copies appear once each.
    pub fn to_index(&self) -> Result<Index> {
        let mut index = Index::new(self.fingerprint, self.dim);
        let sql = "SELECT path, size_bytes, modified_ns, width, height, content, scale, codes
            FROM file JOIN content ON content.id = file.content JOIN image_vector USING (content)
            WHERE model = ?1 ORDER BY path";
        let mut rows = self.db.prepare(sql)?;
        let mut rows = rows.query([self.model])?;
        while let Some(row) = rows.next()? {
            let path: PathBuf = paths::from_bytes(&row.get::<_, Vec<u8>>(0)?);
            let photo = IndexedPhoto {
                path: path.to_string_lossy().into_owned(),
                size_bytes: row.get::<_, i64>(1)?.cast_unsigned(),
                modified_ms: row.get::<_, i64>(2)?.div_euclid(1_000_000),
                width: row.get(3)?,
                height: row.get(4)?,
            };
            let image =
                Vectors::from_parts(self.dim, codes_from_bytes(row.get(7)?), vec![row.get(6)?])?;
            let (boxes, regions) =
                self.regions(row.get(5)?)?.unwrap_or_else(|| (Vec::new(), Vectors::new(self.dim)));
            index.push_vectors(photo, &image, &boxes, &regions);
        }
        Ok(index)
    }
}
