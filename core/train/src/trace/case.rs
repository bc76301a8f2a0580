//! A test case: a folder with a small model, inputs and the reference program's results.

use std::path::{Path, PathBuf};

use mmgem_core::config::MmGemConfig;
use mmgem_core::image::{BoxPx, DecodeLimits, ImageError, Preprocessed, decode, preprocess};
use mmgem_core::tokenizer::{Tokenizer, TokenizerError};
use mmgem_data::files::{self, FolderError};
use serde::Deserialize;

use super::{TraceFileError, TraceInput, TraceTensor, from_safetensors};

/// Errors of a test case.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// The folder or one of its files cannot be read.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The folder holds no case.
    #[error("found no case, wanted folders with a case.json\n  hint: tests/parity of the source tree has them\n  folder: {}", .0.display())]
    None(PathBuf),
    /// `case.json` is malformed.
    #[error("{cause}; wanted \"images\", \"texts\", \"boxes\" and \"steps\"\n  file: {}", .path.display())]
    Malformed {
        /// The parse error.
        cause: serde_json::Error,
        /// The file.
        path: PathBuf,
    },
    /// A picture cannot be decoded.
    #[error("{cause}\n  file: {}", .path.display())]
    Picture {
        /// The decode error.
        cause: ImageError,
        /// The file.
        path: PathBuf,
    },
    /// A text cannot be encoded.
    #[error(transparent)]
    Text(#[from] TokenizerError),
    /// `golden.safetensors` is malformed.
    #[error("{cause}\n  file: {}", .path.display())]
    Golden {
        /// The parse error.
        cause: TraceFileError,
        /// The file.
        path: PathBuf,
    },
}

/// Content of `case.json`.
#[derive(Clone, Debug, Deserialize)]
struct CaseFile {
    images: Vec<String>,
    texts: Vec<String>,
    boxes: Vec<BoxPx>,
    steps: usize,
}

/// A model folder with `case.json` and `golden.safetensors`; its pictures are in `../images`.
#[derive(Clone, Debug)]
pub struct Case {
    /// Name of the folder.
    pub name: String,
    /// The folder, which is also a model folder.
    pub folder: PathBuf,
    file: CaseFile,
}

impl Case {
    /// Reads `case.json` of a folder.
    ///
    /// # Errors
    /// If it is missing or malformed.
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

    /// Reads every case in a folder, sorted by name.
    ///
    /// # Errors
    /// If the folder cannot be listed, holds no case, or a case cannot be read.
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

    /// Whether losses and gradients are among the golden values. Then picture i belongs to text i.
    pub fn has_losses(&self) -> bool {
        self.n_images() == self.texts().len()
    }

    /// The preprocessed pictures.
    ///
    /// # Errors
    /// If a picture cannot be read or decoded.
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

    /// The token ids of the texts.
    ///
    /// # Errors
    /// If a text cannot be encoded.
    pub fn token_ids(&self, tokenizer: &Tokenizer) -> Result<Vec<Vec<u32>>, CaseError> {
        self.texts().iter().map(|text| Ok(tokenizer.encode(text)?)).collect()
    }

    /// The trace's inputs: pictures, texts and boxes of the first picture. Boxes are mapped but not
    /// clipped, as in the reference.
    ///
    /// # Errors
    /// If a picture or text is unusable.
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

    /// The reference's results.
    ///
    /// # Errors
    /// If the file is missing or damaged.
    pub fn golden(&self) -> Result<Vec<TraceTensor>, CaseError> {
        let path = self.folder.join("golden.safetensors");
        let bytes = files::read(&path)?;
        from_safetensors(&bytes).map_err(|cause| CaseError::Golden { cause, path })
    }
}
