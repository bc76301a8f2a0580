//! Writes an imported model tensor by tensor, so that the whole model is never in memory.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io;
use std::path::Path;

use half::f16;
use mmgem_core::checkpoint::import::Import;
use mmgem_core::checkpoint::{CheckpointError, Dtype, Parameter};
use safetensors::{Dtype as FileDtype, View, serialize_to_file};

use super::{FolderError, Published, create_dir, remove_weights, write_atomic, write_atomic_with};

/// Writes the three files of a model folder. Each file is written completely or not at all.
///
/// `dtype` is [`Dtype::F32`] or [`Dtype::F16`]. `sources` are the files that the import reads.
/// Their pages are released from memory after each tensor.
///
/// # Errors
/// If a tensor cannot be read, or a file cannot be written.
pub fn write_import(
    import: &Import,
    sources: &[&Published],
    tokenizer_json: &[u8],
    folder: &Path,
    dtype: Dtype,
) -> Result<(), FolderError> {
    create_dir(folder)?;
    remove_weights(folder, |name| name == WEIGHTS)?;
    let dtype = match dtype {
        Dtype::F32 => FileDtype::F32,
        Dtype::F16 | Dtype::Q8 | Dtype::Q4 => FileDtype::F16,
    };
    let path = folder.join(WEIGHTS);
    write_atomic_with(&path, |temporary| {
        let failed = RefCell::new(None);
        let views = import.parameters().into_iter().map(|parameter| {
            (parameter.name.clone(), Pending { import, sources, parameter, dtype, failed: &failed })
        });
        let written = serialize_to_file(views, None, temporary);
        if let Some(cause) = failed.take() {
            return Err(FolderError::Checkpoint { cause, folder: folder.to_owned() });
        }
        let io = |cause: safetensors::SafeTensorError| FolderError::Io {
            action: "write the file",
            cause: match cause {
                safetensors::SafeTensorError::IoError(cause) => cause,
                other => io::Error::other(other.to_string()),
            },
            path: path.clone(),
        };
        written.map_err(io)
    })?;
    write_atomic(&folder.join("tokenizer.json"), tokenizer_json)?;
    // Write this last: the file marks the folder as a model.
    write_atomic(&folder.join("config.json"), import.config.to_json().as_bytes())
}

const WEIGHTS: &str = "model.safetensors";

/// A tensor that is computed when it is written and then dropped.
struct Pending<'i> {
    import: &'i Import<'i>,
    sources: &'i [&'i Published],
    parameter: Parameter,
    dtype: FileDtype,
    /// The first error. The writer's interface cannot return it.
    failed: &'i RefCell<Option<CheckpointError>>,
}

impl View for Pending<'_> {
    fn dtype(&self) -> FileDtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.parameter.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let has_failed = self.failed.borrow().is_some();
        let values = if has_failed { Ok(Vec::new()) } else { self.import.values(&self.parameter) };
        let values = values.unwrap_or_else(|error| {
            self.failed.replace(Some(error));
            Vec::new()
        });
        self.sources.iter().for_each(|source| source.release());
        let mut bytes = Vec::with_capacity(self.data_len());
        for value in values {
            match self.dtype {
                FileDtype::F32 => bytes.extend(value.to_le_bytes()),
                _ => bytes.extend(f16::from_f32(value).to_le_bytes()),
            }
        }
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        self.parameter.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}
