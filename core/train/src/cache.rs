//! An on-disk cache of a frozen encoder's patch tokens, shared between steps and runs
//! (`data.cache`).
//!
//! A frozen tower gives the same V for the same view of a photo, so a run computes each view once.
//! A view is a photo's bytes, the number of a crop, and a flag for mirroring. A batch is the same
//! with and without the cache, up to the rounding of f16.
//!
//! The folder's name is a hash of the tower and of the preprocessing. The user may delete the
//! folder at any time. Several processes may share it: each appends to its own file and reads all
//! files. A process locks an empty file beside its own file, because on Windows no other process
//! can read a locked one.
//!
//! A file is a sequence of records of one size: key, checksum, size of the photo, box map, V in
//! f16. A truncated record (from a killed process) or one with a wrong checksum counts as missing.
//! So a kill loses at most the last record.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, RwLock};

use burn::tensor::{Device, Tensor, TensorData};
use half::f16;
use half::slice::HalfFloatSliceExt;
use mmgem_core::checkpoint::{HASH_START, hash_bytes, named_tensors};
use mmgem_core::config::MmGemConfig;
use mmgem_core::image::{BoxMap, Preprocessed};
use mmgem_core::model::VisionTower;
use mmgem_core::readback::floats_now;
use mmgem_data::files::{FolderError, create_dir};

/// Photos per forward pass of the tower.
const BATCH: usize = 8;
/// Key, checksum, width, height and box map.
const HEADER_BYTES: usize = 16 + 8 + 8 + 16;

/// A view of a photo: a crop of it, mirrored or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ViewKey {
    /// Hash of the photo's bytes.
    pub photo: u64,
    /// Number of the crop and whether it is mirrored. For random crops, a hash of these with the
    /// crop settings and the seed.
    pub view: u64,
}

/// A cached view.
#[derive(Clone, Debug)]
pub struct CachedView {
    /// The model's input without its pixels.
    pub photo: Preprocessed,
    /// V in f16, `n_patches * hidden` values.
    pub patches: Vec<f16>,
}

/// The cache of one tower and one way to prepare photos.
pub struct PatchCache {
    tower: VisionTower,
    device: Device,
    image_size: usize,
    n_values: usize,
    files: Vec<File>,
    /// Keeps the last of `files` for this process.
    _lock: Option<File>,
    /// Length in records of this process's own file, the last of `files`.
    own: Mutex<u64>,
    places: RwLock<HashMap<ViewKey, (usize, u64)>>,
}

impl PatchCache {
    /// Opens the cache of a tower in `folder`; each tower has its own subfolder.
    pub fn open(
        folder: &Path,
        tower: VisionTower,
        sizes: &MmGemConfig,
    ) -> Result<Self, FolderError> {
        let folder = folder.join(format!("{:016x}", tower_hash(&tower, sizes)));
        create_dir(&folder)?;
        let n_values = sizes.grid().pow(2) * sizes.vision.hidden_size();
        let device = first_device(&tower);
        let mut cache = Self {
            tower,
            device,
            image_size: sizes.vision.image_size(),
            n_values,
            files: Vec::new(),
            _lock: None,
            own: Mutex::new(0),
            places: RwLock::default(),
        };
        cache.read_folder(&folder).map_err(|(cause, path)| FolderError::Io {
            action: "open the cache of patch tokens",
            cause,
            path,
        })?;
        Ok(cache)
    }

    fn record_bytes(&self) -> usize {
        HEADER_BYTES + 2 * self.n_values
    }

    /// Reads the keys of all files, and locks the first file that is not in use by another process.
    fn read_folder(&mut self, folder: &Path) -> Result<(), (io::Error, PathBuf)> {
        let mut own = None;
        for idx in 0.. {
            let path = folder.join(format!("patches-{idx:03}.bin"));
            let failed = |cause| (cause, path.clone());
            let is_there = path.exists();
            if !is_there && own.is_some() {
                break;
            }
            let options = OpenOptions::new().read(true).write(true).create(own.is_none()).clone();
            let file = options.open(&path).map_err(failed)?;
            if own.is_none() {
                let path = path.with_extension("lock");
                let options = OpenOptions::new().write(true).create(true).truncate(false).clone();
                let lock = options.open(&path).map_err(|cause| (cause, path.clone()))?;
                match lock.try_lock() {
                    Ok(()) => (own, self._lock) = (Some(self.files.len()), Some(lock)),
                    Err(TryLockError::WouldBlock) => {}
                    Err(TryLockError::Error(cause)) => return Err((cause, path)),
                }
            }
            self.read_keys(&file).map_err(failed)?;
            self.files.push(file);
        }
        let (own, last) = (own.expect("the loop ends with one"), self.files.len() - 1);
        self.files.swap(own, last);
        let places = self.places.get_mut().expect("no thread has it yet");
        for (file, _) in places.values_mut() {
            *file = if *file == own {
                last
            } else if *file == last {
                own
            } else {
                *file
            };
        }
        let file = &self.files[last];
        let bytes = file.metadata().map_err(|cause| (cause, folder.to_owned()))?.len();
        *self.own.get_mut().expect("no thread has it yet") = bytes / self.record_bytes() as u64;
        Ok(())
    }

    fn read_keys(&mut self, file: &File) -> io::Result<()> {
        let n_records = file.metadata()?.len() / self.record_bytes() as u64;
        let (file_idx, record_bytes) = (self.files.len(), self.record_bytes() as u64);
        let places = self.places.get_mut().expect("no thread has it yet");
        let mut key = [0; 16];
        for record in 0..n_records {
            read_at(file, &mut key, record * record_bytes)?;
            places.insert(ViewKey::from_bytes(&key), (file_idx, record));
        }
        Ok(())
    }

    /// Number of cached views.
    pub fn len(&self) -> usize {
        self.places.read().expect("no thread panics with it").len()
    }

    /// Whether the cache is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The cached view; `None` if it is missing or damaged.
    pub fn get(&self, key: ViewKey) -> Option<CachedView> {
        let (file, record) = *self.places.read().expect("no thread panics with it").get(&key)?;
        let start = record * self.record_bytes() as u64;
        let mut bytes = vec![0; self.record_bytes()];
        read_at(&self.files[file], &mut bytes, start).ok()?;
        self.parse(key, &bytes)
    }

    fn parse(&self, key: ViewKey, bytes: &[u8]) -> Option<CachedView> {
        let word =
            |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let checksum = u64::from_le_bytes(bytes[16..24].try_into().expect("eight bytes"));
        if bytes[..16] != key.to_bytes() || checksum != hash_bytes(HASH_START, &bytes[24..]) {
            return None;
        }
        let float = |at: usize| f32::from_bits(word(at));
        let map = BoxMap {
            scale_x: float(32),
            scale_y: float(36),
            offset_x: float(40),
            offset_y: float(44),
        };
        let photo = Preprocessed { pixels: Vec::new(), map, width: word(24), height: word(28) };
        let values = bytes[HEADER_BYTES..].chunks_exact(2);
        let patches = values.map(|value| f16::from_le_bytes([value[0], value[1]])).collect();
        Some(CachedView { photo, patches })
    }

    /// Runs the tower on views and caches the results. Views that cannot be written (full disk) are
    /// computed again next time.
    pub fn compute(&self, views: Vec<(ViewKey, Preprocessed)>) -> Vec<CachedView> {
        let mut done = Vec::with_capacity(views.len());
        for batch in views.chunks(BATCH) {
            let side = self.image_size;
            let pixels: Vec<f32> =
                batch.iter().flat_map(|(_, photo)| photo.pixels.iter().copied()).collect();
            let pixels = TensorData::new(pixels, [batch.len(), 3, side, side]);
            let patches = floats_now(self.tower.forward(Tensor::from_data(pixels, &self.device)));
            let records = batch.iter().zip(patches.chunks_exact(self.n_values)).map(
                |((key, photo), values)| {
                    let mut patches = vec![f16::ZERO; values.len()];
                    patches.convert_from_f32_slice(values);
                    let photo = Preprocessed { pixels: Vec::new(), ..photo.clone() };
                    (*key, CachedView { photo, patches })
                },
            );
            let records: Vec<(ViewKey, CachedView)> = records.collect();
            if let Err(why) = self.append(&records) {
                tracing::warn!(
                    "the patch tokens of {} photos could not be cached: {why}",
                    records.len()
                );
            }
            done.extend(records.into_iter().map(|(_, view)| view));
        }
        done
    }

    fn append(&self, views: &[(ViewKey, CachedView)]) -> io::Result<()> {
        let mut own = self.own.lock().expect("no thread panics with it");
        let (file_idx, start) = (self.files.len() - 1, *own * self.record_bytes() as u64);
        let mut bytes = Vec::with_capacity(views.len() * self.record_bytes());
        for (key, view) in views {
            let mut body = Vec::with_capacity(self.record_bytes());
            body.extend(view.photo.width.to_le_bytes());
            body.extend(view.photo.height.to_le_bytes());
            let BoxMap { scale_x, scale_y, offset_x, offset_y } = view.photo.map;
            [scale_x, scale_y, offset_x, offset_y]
                .iter()
                .for_each(|v| body.extend(v.to_le_bytes()));
            view.patches.iter().for_each(|v| body.extend(v.to_le_bytes()));
            bytes.extend(key.to_bytes());
            bytes.extend(hash_bytes(HASH_START, &body).to_le_bytes());
            bytes.extend(body);
        }
        write_at(&self.files[file_idx], &bytes, start)?;
        let mut places = self.places.write().expect("no thread panics with it");
        for (key, _) in views {
            places.insert(*key, (file_idx, *own));
            *own += 1;
        }
        Ok(())
    }
}

impl ViewKey {
    fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.photo.to_le_bytes());
        bytes[8..].copy_from_slice(&self.view.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; 16]) -> Self {
        let (photo, view) = bytes.split_at(8);
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        Self { photo: word(photo), view: word(view) }
    }
}

/// Hash of a tower, its weights and the image preprocessing.
fn tower_hash(tower: &VisionTower, sizes: &MmGemConfig) -> u64 {
    let config =
        serde_json::to_vec(&(&sizes.vision, sizes.preprocess())).expect("plain structs are JSON");
    named_tensors(tower).iter().fold(hash_bytes(HASH_START, &config), |hash, (_, _, values)| {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        hash_bytes(hash, &bytes)
    })
}

fn first_device(tower: &VisionTower) -> Device {
    match tower {
        VisionTower::Vit(vit) => vit.conv1.val().device(),
        VisionTower::EfficientNetLite(lite) => lite.stem.bias.val().device(),
    }
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], start: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, start)
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], start: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, start)
}

#[cfg(windows)]
fn read_at(file: &File, mut bytes: &mut [u8], mut start: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, start)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => (bytes, start) = (&mut bytes[n..], start + n as u64),
        }
    }
    Ok(())
}

#[cfg(windows)]
fn write_at(file: &File, mut bytes: &[u8], mut start: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_write(file, bytes, start)?;
        (bytes, start) = (&bytes[n..], start + n as u64);
    }
    Ok(())
}
