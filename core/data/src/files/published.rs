//! Opens models of other programs: weights as safetensors or PyTorch files, and the files beside
//! them.

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice;

use super::pytorch::{self, Placed};
use super::{FolderError, names_in, read};
use mmgem_core::checkpoint::towers::TowerConfigs;
use mmgem_core::checkpoint::{CheckpointError, Shards};

/// File names of an image encoder's weights. The first existing file counts.
pub const VISION_WEIGHTS: &[&str] = &[
    "open_clip_model.safetensors",
    "model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
];
/// File names of a language model's weights. The first existing file counts.
pub const LANGUAGE_WEIGHTS: &[&str] = &["model.safetensors", "pytorch_model.bin"];
/// Endings of weight files.
const ENDINGS: [&str; 4] = [".safetensors", ".bin", ".pt", ".pth"];

/// A model of another program. Its weights stay on disk until they are needed.
#[derive(Debug)]
pub struct Published {
    folder: PathBuf,
    files: Vec<WeightsFile>,
}

#[derive(Debug)]
struct WeightsFile {
    name: String,
    bytes: Mmap,
    /// Positions of its tensors, if it is a PyTorch file.
    pytorch: Option<Vec<Placed>>,
}

impl Published {
    /// Opens a file of weights, an index of several files, or a folder with one of `names`.
    ///
    /// Reads a PyTorch pickle without executing any of its code.
    ///
    /// # Errors
    /// If the weights are missing, or if a file cannot be read.
    pub fn open(path: &Path, names: &[&str]) -> Result<Self, FolderError> {
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
        let files = match path.is_dir() {
            true => files_of_folder(path, names)?,
            false if path.to_string_lossy().ends_with(INDEX) => indexed(path)?,
            false => vec![path.to_owned()],
        };
        let files = files.iter().map(|file| WeightsFile::open(file)).collect::<Result<_, _>>()?;
        Ok(Self { files, folder: folder.to_owned() })
    }

    /// Returns the tensors.
    ///
    /// # Errors
    /// If a file is damaged, or if two files have the same tensor.
    pub fn shards(&self) -> Result<Shards<'_>, CheckpointError> {
        let safetensors = self.files.iter().filter(|file| file.pytorch.is_none());
        let safetensors: Vec<(&str, &[u8])> =
            safetensors.map(|file| (file.name.as_str(), file.bytes.as_ref())).collect();
        let mut shards = Shards::new(&safetensors)?;
        for file in &self.files {
            for placed in file.pytorch.iter().flatten() {
                let Placed { name, dtype, shape, strides, bytes } = placed;
                shards.add_strided(
                    name,
                    *dtype,
                    shape,
                    strides,
                    &file.bytes[bytes.clone()],
                    &file.name,
                )?;
            }
        }
        Ok(shards)
    }

    /// Returns the pages of the weights to the system. The system reads them again on the next
    /// access.
    pub fn release(&self) {
        #[cfg(unix)]
        for file in &self.files {
            // SAFETY: no code writes to the mapping, so dropped pages are read again with the same
            // contents.
            let released = unsafe { file.bytes.unchecked_advise(UncheckedAdvice::DontNeed) };
            // Ignore a failure: the pages then stay in memory, which is harmless.
            drop(released);
        }
    }

    /// Reads a text file beside the weights. `None` if it is missing.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn text(&self, name: &str) -> Result<Option<String>, FolderError> {
        let path = self.folder.join(name);
        match path.is_file() {
            true => Ok(Some(String::from_utf8_lossy(&read(&path)?).into_owned())),
            false => Ok(None),
        }
    }

    /// Reads the config files beside an image encoder.
    ///
    /// # Errors
    /// If a file exists but cannot be read.
    pub fn tower_configs(&self) -> Result<TowerConfigs, FolderError> {
        Ok(TowerConfigs {
            open_clip: self.text("open_clip_config.json")?,
            config: self.text("config.json")?,
            preprocessor: self.text("preprocessor_config.json")?,
        })
    }
}

impl WeightsFile {
    fn open(path: &Path) -> Result<Self, FolderError> {
        let io = |cause| FolderError::Io { action: "read the file", cause, path: path.to_owned() };
        let wrong = |found, hint| FolderError::NoWeights { found, hint, path: path.to_owned() };
        let file = File::open(path).map_err(io)?;
        // SAFETY: the mapping is read-only. If another program truncates the file meanwhile, the
        // system ends this process.
        let bytes = unsafe { Mmap::map(&file) }.map_err(io)?;
        if bytes.starts_with(b"version https://git-lfs") {
            let found = "the file is a Git LFS pointer".to_owned();
            return Err(wrong(found, "run `git lfs pull` in the repository that was cloned"));
        }
        let pytorch =
            pytorch::is_pytorch(&bytes).then(|| pytorch::tensors(path, &bytes)).transpose();
        let pytorch = pytorch.map_err(|cause| {
            let hint =
                "save the weights alone with torch.save(model.state_dict(), ..), or as safetensors";
            wrong(format!("PyTorch's file cannot be read: {cause}"), hint)
        })?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, bytes, pytorch })
    }
}

const INDEX: &str = ".index.json";

fn files_of_folder(folder: &Path, names: &[&str]) -> Result<Vec<PathBuf>, FolderError> {
    for name in names {
        if folder.join(name).is_file() {
            return Ok(vec![folder.join(name)]);
        }
        let index = folder.join(format!("{name}{INDEX}"));
        if index.is_file() {
            return indexed(&index);
        }
    }
    let mut others = names_in(folder)?;
    others.retain(|name| ENDINGS.iter().any(|ending| name.ends_with(ending)));
    match others.as_slice() {
        [only] => Ok(vec![folder.join(only)]),
        others => Err(FolderError::NoWeights {
            found: match others {
                [] => format!("found neither {} nor an index file", names.join(" nor ")),
                others => {
                    format!("the folder has several files of weights ({})", others.join(", "))
                }
            },
            hint: "name the file itself",
            path: folder.to_owned(),
        }),
    }
}

/// Returns the files listed in an index.
fn indexed(index: &Path) -> Result<Vec<PathBuf>, FolderError> {
    let wrong = |found: String| {
        let hint = "wanted the weight_map that transformers writes";
        FolderError::NoWeights { found, hint, path: index.to_owned() }
    };
    let json: serde_json::Value = serde_json::from_slice(&read(index)?)
        .map_err(|e| wrong(format!("the index is not JSON ({e})")))?;
    let map = json.get("weight_map").and_then(|map| map.as_object());
    let map = map.ok_or_else(|| wrong("the index has no weight_map".into()))?;
    let mut names: Vec<&str> = map.values().filter_map(|file| file.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    Ok(names.into_iter().map(|name| index.with_file_name(name)).collect())
}
