//! A folder with a small model, inputs, and what the reference program computed from them.

use std::path::{Path, PathBuf};

use mmgem_core::config::MmGemConfig;
use mmgem_core::image::{BoxPx, DecodeLimits, ImageError, Preprocessed, decode, preprocess};
use mmgem_core::tokenizer::{Tokenizer, TokenizerError};
use mmgem_data::files::{self, FolderError};
use serde::Deserialize;

use super::{TraceFileError, TraceInput, TraceTensor, from_safetensors};

/// Why a case cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// A file of it, or the folder, cannot be read.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// There is no case.
    #[error("found no case, wanted folders with a case.json\n  hint: tests/parity of the source tree has them\n  folder: {}", .0.display())]
    None(PathBuf),
    /// `case.json` is not usable.
    #[error("{cause}; wanted \"images\", \"texts\", \"boxes\" and \"steps\"\n  file: {}", .path.display())]
    Malformed {
        /// What is wrong with it.
        cause: serde_json::Error,
        /// Where.
        path: PathBuf,
    },
    /// A picture of it cannot be decoded.
    #[error("{cause}\n  file: {}", .path.display())]
    Picture {
        /// What is wrong with it.
        cause: ImageError,
        /// Where.
        path: PathBuf,
    },
    /// A text of it cannot be encoded.
    #[error(transparent)]
    Text(#[from] TokenizerError),
    /// `golden.safetensors` is not usable.
    #[error("{cause}\n  file: {}", .path.display())]
    Golden {
        /// What is wrong with it.
        cause: TraceFileError,
        /// Where.
        path: PathBuf,
    },
}

/// What `case.json` says.
#[derive(Clone, Debug, Deserialize)]
struct CaseFile {
    images: Vec<String>,
    texts: Vec<String>,
    boxes: Vec<BoxPx>,
    steps: usize,
}

/// A model folder with `case.json` and `golden.safetensors`; its pictures lie in `../images`.
#[derive(Clone, Debug)]
pub struct Case {
    /// Name of the folder.
    pub name: String,
    /// The folder, which is a model folder too.
    pub folder: PathBuf,
    file: CaseFile,
}

impl Case {
    /// Reads `case.json` of a folder.
    ///
    /// # Errors
    /// When it is not there or malformed.
    pub fn read(folder: &Path) -> Result<Self, CaseError> {
        let path = folder.join("case.json");
        let file =
            serde_json::from_slice(&files::read(&path)?).and_then(|file: CaseFile| {
                match file.images.is_empty() || file.texts.is_empty() {
                    true => Err(serde::de::Error::custom("no image or no text")),
                    false => Ok(file),
                }
            });
        let file = file.map_err(|cause| CaseError::Malformed { cause, path })?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, folder: folder.into(), file })
    }

    /// Every case in a folder, by name.
    ///
    /// # Errors
    /// When the folder cannot be listed, holds no case, or one of them cannot be read.
    pub fn read_all(folder: &Path) -> Result<Vec<Self>, CaseError> {
        let mut folders: Vec<PathBuf> =
            files::names_in(folder)?.into_iter().map(|name| folder.join(name)).collect();
        folders.retain(|path| path.join("case.json").is_file());
        if folders.is_empty() {
            return Err(CaseError::None(folder.into()));
        }
        folders.iter().map(|folder| Self::read(folder)).collect()
    }

    /// The texts.
    pub fn texts(&self) -> &[String] {
        &self.file.texts
    }

    /// Number of pictures.
    pub fn n_images(&self) -> usize {
        self.file.images.len()
    }

    /// Whether losses and gradients are among the golden values: picture i goes with text i.
    pub fn has_losses(&self) -> bool {
        self.n_images() == self.texts().len()
    }

    /// The pictures as the model sees them.
    ///
    /// # Errors
    /// When one cannot be read or decoded.
    pub fn images(&self, config: &MmGemConfig) -> Result<Vec<Preprocessed>, CaseError> {
        let folder = self.folder.parent().unwrap_or(Path::new(".")).join("images");
        let picture = |name: &String| {
            let path = folder.join(format!("{name}.png"));
            let photo = decode(&files::read(&path)?, DecodeLimits::default())
                .map_err(|cause| CaseError::Picture { cause, path })?;
            Ok(preprocess(&photo, &config.preprocess()))
        };
        self.file.images.iter().map(picture).collect()
    }

    /// The ids of the texts.
    ///
    /// # Errors
    /// When a text cannot be encoded.
    pub fn token_ids(&self, tokenizer: &Tokenizer) -> Result<Vec<Vec<u32>>, CaseError> {
        self.texts().iter().map(|text| Ok(tokenizer.encode(text)?)).collect()
    }

    /// The inputs from pictures, strings and boxes of the first picture; these are mapped, not clipped, as
    /// the reference does.
    ///
    /// # Errors
    /// When a picture or text is not usable.
    pub fn input(
        &self,
        config: &MmGemConfig,
        tokenizer: &Tokenizer,
    ) -> Result<TraceInput, CaseError> {
        let images = self.images(config)?;
        let mapped = |box_px: &BoxPx| images[0].map.input_from_image(*box_px);
        Ok(TraceInput {
            boxes_input: self.file.boxes.iter().map(mapped).collect(),
            texts: self.token_ids(tokenizer)?,
            steps: self.file.steps,
            pixels: images.into_iter().map(|image| image.pixels).collect(),
        })
    }

    /// What the reference computed.
    ///
    /// # Errors
    /// When the file is missing or damaged.
    pub fn golden(&self) -> Result<Vec<TraceTensor>, CaseError> {
        let path = self.folder.join("golden.safetensors");
        let bytes = files::read(&path)?;
        from_safetensors(&bytes).map_err(|cause| CaseError::Golden { cause, path })
    }
}
