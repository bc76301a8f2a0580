//! Model folders on disk: `config.json`, `model.safetensors` (or its shards) and `tokenizer.json`.

mod imported;
mod pickle;
mod published;
mod pytorch;
mod replace;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use mmgem_core::checkpoint::{
    self, CheckpointError, Dtype, SHARD_BYTES, Shards, named_tensors, to_safetensors, to_shards,
};
use mmgem_core::config::{ConfigError, MmGemConfig};
use mmgem_core::model::MmGem;
use mmgem_core::tokenizer::{Tokenizer, TokenizerError};

pub use imported::write_import;
pub use published::{LANGUAGE_WEIGHTS, Published, VISION_WEIGHTS};
use replace::{keep, temporary_name};
pub use replace::{rename, sync_dir};

/// Why a model folder cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A file operation failed.
    #[error("cannot {action}: {cause}{}\n  file: {}", hint(.cause), .path.display())]
    Io {
        /// The attempted action.
        action: &'static str,
        /// Error of the system.
        cause: io::Error,
        /// Path of the file or folder.
        path: PathBuf,
    },
    /// The folder does not contain a model.
    #[error("{found}, wanted config.json, model.safetensors and tokenizer.json\n  folder: {}", .folder.display())]
    NotAModel {
        /// Problem that was found.
        found: String,
        /// Path of the folder.
        folder: PathBuf,
    },
    /// The weights of another program's model are missing or cannot be read.
    #[error("{found}\n  hint: {hint}\n  file: {}", .path.display())]
    NoWeights {
        /// Problem that was found.
        found: String,
        /// Suggestion for the user.
        hint: &'static str,
        /// Path of the file or folder.
        path: PathBuf,
    },
    /// A file that this program wrote is damaged.
    #[error("{found}\n  hint: {hint}\n  file: {}", .path.display())]
    Damaged {
        /// Problem that was found.
        found: String,
        /// Suggestion for the user.
        hint: &'static str,
        /// Path of the file.
        path: PathBuf,
    },
    /// `config.json` is invalid.
    #[error("{cause}\n  folder: {}", .folder.display())]
    Config {
        /// Reason.
        cause: ConfigError,
        /// Path of the folder.
        folder: PathBuf,
    },
    /// The weights are invalid.
    #[error("{cause}\n  folder: {}", .folder.display())]
    Checkpoint {
        /// Reason.
        cause: CheckpointError,
        /// Path of the folder.
        folder: PathBuf,
    },
    /// The tokenizer is invalid.
    #[error("{cause}\n  folder: {}", .folder.display())]
    Tokenizer {
        /// Reason.
        cause: TokenizerError,
        /// Path of the folder.
        folder: PathBuf,
    },
}

fn hint(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "\n  hint: free some space and run the same command again; nothing was half-written"
        }
        io::ErrorKind::NotFound => "\n  hint: is the path right?",
        io::ErrorKind::PermissionDenied => {
            "\n  hint: check that this user may read and write there"
        }
        _ => "",
    }
}

/// A model in memory, with the contents of its files.
#[derive(Debug)]
pub struct ModelFolder {
    /// Sizes and switches.
    pub config: MmGemConfig,
    /// The weights.
    pub model: MmGem,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The bytes of `tokenizer.json`.
    pub tokenizer_json: Vec<u8>,
}

impl ModelFolder {
    /// Reads a model folder onto a device.
    pub fn read(folder: &Path, device: &Device) -> Result<Self, FolderError> {
        if !folder.is_dir() {
            let found = if folder.exists() { "this is a file" } else { "there is no such folder" };
            return Err(FolderError::NotAModel { found: found.into(), folder: folder.into() });
        }
        for name in ["config.json", "tokenizer.json"] {
            if !folder.join(name).is_file() {
                return Err(FolderError::NotAModel {
                    found: format!("{name} is missing"),
                    folder: folder.into(),
                });
            }
        }
        let config_json = read(&folder.join("config.json"))?;
        let config = MmGemConfig::from_json(&String::from_utf8_lossy(&config_json))
            .map_err(|e| FolderError::Config { cause: e, folder: folder.into() })?;
        let tokenizer_json = read(&folder.join("tokenizer.json"))?;
        let tokenizer = Tokenizer::from_json(&tokenizer_json, &config)
            .map_err(|e| FolderError::Tokenizer { cause: e, folder: folder.into() })?;
        let files = read_shards(folder, "model.safetensors")?;
        let model = Shards::new(&as_slices(&files))
            .and_then(|shards| checkpoint::load(MmGem::new(&config, device), &shards))
            .map_err(|e| FolderError::Checkpoint { cause: e, folder: folder.into() })?;
        Ok(Self { config, model, tokenizer, tokenizer_json })
    }

    /// Writes the three files. Each file is written completely or not at all.
    pub fn write(&self, folder: &Path, dtype: Dtype) -> Result<(), FolderError> {
        let weights = to_safetensors(&named_tensors(&self.model), dtype, None);
        self.write_with(folder, vec![("model.safetensors".into(), weights)])
    }

    /// Like [`Self::write`], but splits the weights into files that a web page can fetch one by
    /// one.
    pub fn write_shards(&self, folder: &Path, dtype: Dtype) -> Result<(), FolderError> {
        self.write_with(folder, to_shards(&named_tensors(&self.model), dtype, SHARD_BYTES))
    }

    fn write_with(
        &self,
        folder: &Path,
        weights: Vec<(String, Vec<u8>)>,
    ) -> Result<(), FolderError> {
        create_dir(folder)?;
        remove_weights(folder, |name| weights.iter().any(|(new, _)| new == name))?;
        for (name, bytes) in &weights {
            write_atomic(&folder.join(name), bytes)?;
        }
        write_atomic(&folder.join("tokenizer.json"), &self.tokenizer_json)?;
        // Write this last: the file marks the folder as a model.
        write_atomic(&folder.join("config.json"), self.config.to_json().as_bytes())
    }
}

/// Writes files of another library's layout; names may have folders. Each file is written
/// completely or not at all. Other files stay.
pub fn write_foreign(files: &[(String, Vec<u8>)], folder: &Path) -> Result<(), FolderError> {
    for (name, bytes) in files {
        let path = folder.join(name);
        create_dir(path.parent().unwrap_or(folder))?;
        write_atomic(&path, bytes)?;
    }
    Ok(())
}

/// Moves the model's files from `from` into `to` and removes `from`. Other files in `to` stay.
///
/// Both must be on the same disk. While the move is incomplete, `to` has no `config.json` and so is
/// not a model.
pub fn move_model(from: &Path, to: &Path) -> Result<(), FolderError> {
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |cause| FolderError::Io { action, cause, path }
    };
    let config = to.join("config.json");
    if config.exists() {
        fs::remove_file(&config).map_err(io("replace the file", &config))?;
    }
    let mut names = names_in(from)?;
    // Move this last: the file marks the folder as a model.
    names.sort_by_key(|name| name == "config.json");
    remove_weights(to, |name| names.iter().any(|new| new == name))?;
    for name in &names {
        let (old, new) = (from.join(name), to.join(name));
        rename(&old, &new).map_err(io("write the file", &new))?;
    }
    sync_dir(Some(to)).map_err(io("write to the folder", to))?;
    fs::remove_dir(from).map_err(io("remove the folder", from))
}

/// Removes weights of another model, some of which could be mistaken for this model's.
fn remove_weights(folder: &Path, is_kept: impl Fn(&str) -> bool) -> Result<(), FolderError> {
    let is_weights = |name: &str| {
        let is_shard =
            name.starts_with("model-") && name.contains("-of-") && name.ends_with(".safetensors");
        is_shard || name == "model.safetensors" || name == "model.safetensors.index.json"
    };
    for name in names_in(folder)?.iter().filter(|name| is_weights(name) && !is_kept(name)) {
        let path = folder.join(name);
        fs::remove_file(&path).map_err(|cause| FolderError::Io {
            action: "remove the file",
            cause,
            path,
        })?;
    }
    Ok(())
}

/// Lists the entries of a folder, sorted. Skips names that are not Unicode: they cannot be ours.
pub fn names_in(folder: &Path) -> Result<Vec<String>, FolderError> {
    let list = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort_unstable();
        Ok(names)
    };
    list().map_err(|cause| FolderError::Io {
        action: "list the folder",
        cause,
        path: folder.into(),
    })
}

/// Reads the safetensors of a folder: one file, or the files listed in `NAME.index.json`.
pub fn read_shards(folder: &Path, name: &str) -> Result<Vec<(String, Vec<u8>)>, FolderError> {
    let single = folder.join(name);
    if single.is_file() {
        return Ok(vec![(name.to_owned(), read(&single)?)]);
    }
    let index = folder.join(format!("{name}.index.json"));
    let not_a_model = |found: String| FolderError::NotAModel { found, folder: folder.into() };
    if !index.is_file() {
        return Err(not_a_model(format!("found neither {name} nor {name}.index.json")));
    }
    let json: serde_json::Value = serde_json::from_slice(&read(&index)?)
        .map_err(|e| not_a_model(format!("{name}.index.json is not JSON ({e})")))?;
    let map = json.get("weight_map").and_then(|map| map.as_object());
    let map = map.ok_or_else(|| not_a_model(format!("{name}.index.json has no weight_map")))?;
    let mut names: Vec<&str> = map.values().filter_map(|file| file.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(|file| Ok((file.to_owned(), read(&folder.join(file))?))).collect()
}

/// Borrows files in the form that [`Shards::new`] takes.
pub fn as_slices(files: &[(String, Vec<u8>)]) -> Vec<(&str, &[u8])> {
    files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect()
}

/// Reads a file.
pub fn read(path: &Path) -> Result<Vec<u8>, FolderError> {
    fs::read(path).map_err(|cause| FolderError::Io {
        action: "read the file",
        cause,
        path: path.into(),
    })
}

/// Creates a folder and its missing parents.
pub fn create_dir(folder: &Path) -> Result<(), FolderError> {
    fs::create_dir_all(folder).map_err(|cause| FolderError::Io {
        action: "make the folder",
        cause,
        path: folder.into(),
    })
}

/// Writes a file under a temporary name, flushes it to the disk and renames it.
///
/// Readers see either the old file or the new one, even after a power cut.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), FolderError> {
    write_atomic_with(path, |temporary| {
        File::create(temporary)
            .and_then(|mut file| file.write_all(bytes))
            .map_err(|cause| FolderError::Io { action: "write the file", cause, path: path.into() })
    })
}

/// Like [`write_atomic`], but `write` creates the file under the given temporary name.
pub(crate) fn write_atomic_with(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), FolderError>,
) -> Result<(), FolderError> {
    let temporary = path.with_file_name(temporary_name(path));
    let io = |cause| FolderError::Io { action: "write the file", cause, path: path.into() };
    let written = write(&temporary).and_then(|()| keep(&temporary, path).map_err(io));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_have_the_longest_name_there_is() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for name in
            ["a".to_owned(), format!("{}.json", "x".repeat(250)), format!("{}x", "é".repeat(127))]
        {
            let path = folder.path().join(&name);
            write_atomic(&path, b"whole").expect(&name);
            assert_eq!(fs::read(&path).expect("it was written"), b"whole");
        }
        assert_eq!(
            fs::read_dir(folder.path()).expect("readable").count(),
            3,
            "no temporary file is left"
        );
    }
}
