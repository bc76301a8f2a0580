//! The photo library: an embedding for each photo, kept in one file.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context as _, Result};
use mmgem_core::files;
use mmgem_core::session::{EncodedImage, Part};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::photos::encode_each;
use crate::terminal::{PassedOver, note};

/// Photos after which the file is written, so that an interruption costs little.
const SAVE_EVERY: usize = 2000;

/// Photos and their embeddings by one model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Library {
    /// Of the model that made the embeddings.
    fingerprint: u64,
    photos: BTreeMap<PathBuf, (Stamp, Vec<f32>)>,
}

/// What tells a file from the one that was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    size_bytes: u64,
    /// Nanoseconds since 1970; as text, because JSON's numbers are too short for it.
    #[serde(with = "as_text")]
    modified_ns: u128,
}

#[derive(Serialize, Deserialize)]
struct Row {
    path: String,
    #[serde(flatten)]
    stamp: Stamp,
}

impl Library {
    /// An empty library for a model.
    pub fn new(fingerprint: u64) -> Self {
        Self { fingerprint, photos: BTreeMap::new() }
    }

    /// Reads a library; one of another model, or none, is an empty one.
    ///
    /// # Errors
    /// When the file cannot be read or is no library.
    pub fn open(file: &Path, context: &Context) -> Result<Self> {
        if !file.exists() {
            return Ok(Self::new(context.fingerprint));
        }
        let library = Self::from_bytes(&files::read(file)?).with_context(|| {
            format!(
                "not a photo library\n  hint: delete it, or name another with --library\n  file: {}",
                file.display()
            )
        })?;
        if library.fingerprint == context.fingerprint {
            return Ok(library);
        }
        note(
            context.quiet,
            format!("{} was made by another model: its photos are encoded again", file.display()),
        );
        Ok(Self::new(context.fingerprint))
    }

    /// Encodes the photos that are new or changed, writes them to `file` and returns how many they are.
    ///
    /// # Errors
    /// When no photo can be used, or with `--strict` one cannot; what was encoded is written all the same.
    pub fn update(&mut self, photos: &[PathBuf], context: &Context, file: Option<&Path>) -> Result<usize> {
        let is_stale = |path: &&PathBuf| {
            let known = self.photos.get(&key_of(path)).map(|(stamp, _)| *stamp);
            known.is_none() || known != Stamp::of(path).ok()
        };
        let stale: Vec<PathBuf> = photos.iter().filter(is_stale).cloned().collect();
        let mut passed_over = PassedOver::new(photos.len(), context.strict);
        let mut n_encoded = 0;
        let encoded = encode_each(context, &stale, &mut passed_over, |path, encoded| {
            let embed = whole_embed(context, encoded)?;
            self.photos.insert(key_of(path), (Stamp::of(path)?, embed));
            n_encoded += 1;
            match file {
                Some(file) if n_encoded % SAVE_EVERY == 0 => self.save(file),
                _ => Ok(()),
            }
        });
        if let Some(file) = file.filter(|_| n_encoded > 0) {
            self.save(file)?;
        }
        encoded?;
        passed_over.finish(context.quiet)?;
        Ok(n_encoded)
    }

    /// Forgets photos below `roots` that are no longer there; returns how many.
    pub fn forget_missing(&mut self, roots: &[PathBuf]) -> usize {
        let roots: Vec<PathBuf> = roots.iter().map(|root| key_of(root)).collect();
        let before = self.photos.len();
        self.photos.retain(|path, _| path.exists() || !roots.iter().any(|root| path.starts_with(root)));
        before - self.photos.len()
    }

    /// Number of photos.
    pub fn len(&self) -> usize {
        self.photos.len()
    }

    /// The `k` photos nearest to a unit vector, best first; only those of `among`, if given, under the
    /// names given there.
    pub fn nearest(&self, query: &[f32], among: Option<&[PathBuf]>, k: usize) -> Vec<(PathBuf, f32)> {
        let score = |embed: &[f32]| embed.iter().zip(query).map(|(a, b)| a * b).sum::<f32>();
        let mut hits: Vec<(PathBuf, f32)> = match among {
            None => self.photos.iter().map(|(path, (_, embed))| (path.clone(), score(embed))).collect(),
            Some(paths) => paths
                .iter()
                .filter_map(|path| Some((path.clone(), score(&self.photos.get(&key_of(path))?.1))))
                .collect(),
        };
        hits.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        hits.truncate(k);
        hits
    }

    /// Writes the library; the old file stays until the new one is whole.
    pub fn save(&self, file: &Path) -> Result<()> {
        if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            files::create_dir(folder)?;
        }
        Ok(files::write_atomic(file, &self.to_bytes()?)?)
    }

    fn to_bytes(&self) -> Result<Vec<u8>> {
        let rows: Vec<Row> = self
            .photos
            .iter()
            .map(|(path, (stamp, _))| Row { path: path.to_string_lossy().into_owned(), stamp: *stamp })
            .collect();
        let metadata = HashMap::from([
            ("format".to_owned(), "mmgem-library-1".to_owned()),
            ("model".to_owned(), format!("{:016x}", self.fingerprint)),
            ("photos".to_owned(), serde_json::to_string(&rows)?),
        ]);
        let width = self.photos.values().next().map_or(0, |(_, embed)| embed.len());
        let embeds: Vec<u8> =
            self.photos.values().flat_map(|(_, embed)| embed).flat_map(|x| x.to_le_bytes()).collect();
        let view = TensorView::new(Dtype::F32, vec![self.photos.len(), width], &embeds)?;
        Ok(safetensors::serialize([("image_embed", view)], Some(metadata))?)
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let value = |key: &str| metadata.get(key).with_context(|| format!("its header has no {key:?}"));
        anyhow::ensure!(value("format")? == "mmgem-library-1", "its format is {:?}", value("format")?);
        let fingerprint = u64::from_str_radix(value("model")?, 16)?;
        let rows: Vec<Row> = serde_json::from_str(value("photos")?)?;

        let tensors = SafeTensors::deserialize(bytes)?;
        let embeds = tensors.tensor("image_embed")?;
        let &[n_photos, width] = embeds.shape() else { anyhow::bail!("image_embed is {:?}", embeds.shape()) };
        anyhow::ensure!(
            n_photos == rows.len() && embeds.dtype() == Dtype::F32,
            "{n_photos} embeddings of {} photos",
            rows.len()
        );
        let row_bytes = (4 * width).max(1);
        let photos = rows.into_iter().zip(embeds.data().chunks_exact(row_bytes)).map(|(row, embed)| {
            let embed = embed.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            (PathBuf::from(row.path), (row.stamp, embed))
        });
        Ok(Self { fingerprint, photos: photos.collect() })
    }
}

impl Stamp {
    fn of(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(path)?;
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self { size_bytes: metadata.len(), modified_ns: modified.as_nanos() })
    }
}

mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Unit vector of a whole photo.
pub fn whole_embed(context: &Context, encoded: &EncodedImage) -> Result<Vec<f32>> {
    Ok(pollster::block_on(context.session.embed_image(encoded, &Part::Whole))?)
}

/// Name of a photo in the library, the same from every folder.
fn key_of(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// The library that is used when none is named: in the platform's folder for a program's data.
pub fn default_library() -> Result<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let data = if cfg!(windows) {
        folder("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        folder("HOME").map(|home| home.join("Library/Application Support"))
    } else {
        folder("XDG_DATA_HOME").or_else(|| Some(folder("HOME")?.join(".local/share")))
    };
    let data =
        data.context("this system names no folder for a program's data\n  hint: give --library FILE")?;
    Ok(data.join("mmgem").join("library.safetensors"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library() -> Library {
        let stamp = |n: u64| Stamp { size_bytes: n, modified_ns: u128::from(u64::MAX) + 1 };
        let photos = [("/a.jpg", [1.0, 0.0]), ("/b.jpg", [0.6, 0.8]), ("/c.jpg", [0.0, 1.0])];
        let photos = photos.map(|(path, embed)| (PathBuf::from(path), (stamp(7), embed.to_vec())));
        Library { fingerprint: 0xdead_beef, photos: photos.into() }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for library in [library(), Library::new(1)] {
            let bytes = library.to_bytes().expect("writable");
            assert_eq!(Library::from_bytes(&bytes).expect("readable"), library);
        }
    }

    #[test]
    fn a_cut_or_foreign_file_is_an_error() {
        let bytes = library().to_bytes().expect("writable");
        for kept in [0, 4, 100, bytes.len() - 1] {
            assert!(Library::from_bytes(&bytes[..kept]).is_err(), "{kept}");
        }
        let foreign = safetensors::serialize(Vec::<(&str, TensorView)>::new(), None).expect("empty");
        assert!(Library::from_bytes(&foreign).is_err());
    }

    #[test]
    fn the_nearest_come_first_and_only_those_asked_for() {
        let paths = |hits: Vec<(PathBuf, f32)>| hits.into_iter().map(|hit| hit.0).collect::<Vec<_>>();
        let library = library();
        assert_eq!(paths(library.nearest(&[0.0, 1.0], None, 2)), [Path::new("/c.jpg"), Path::new("/b.jpg")]);
        let among = [PathBuf::from("/a.jpg"), PathBuf::from("/b.jpg"), PathBuf::from("/new.jpg")];
        assert_eq!(
            paths(library.nearest(&[0.0, 1.0], Some(&among), 9)),
            [Path::new("/b.jpg"), Path::new("/a.jpg")]
        );
    }
}
