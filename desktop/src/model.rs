//! Reads a model's files from a folder or from the program itself.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use burn::tensor::{Device, Tensor};
use mmgem_core::checkpoint::{self, Dtype, Shards, named_tensors, to_safetensors};
use mmgem_core::config::MmGemConfig;
use mmgem_core::model::MmGem;
use mmgem_core::quant::stays_packed;
use mmgem_core::readback::{DeviceFailed, read_floats};
use mmgem_core::session::Session;
use mmgem_core::tokenizer::Tokenizer;
use mmgem_data::files::{self, ModelFolder};

use crate::device::OpenedDevice;

/// The files of a model, in memory.
#[derive(Debug)]
pub struct ModelFiles {
    /// The folder, or "the embedded model".
    pub name: String,
    /// The folder of the files; `None` for the embedded model.
    pub folder: Option<PathBuf>,
    /// The text of `config.json`.
    pub config_json: String,
    /// The bytes of `tokenizer.json`.
    pub tokenizer_json: Cow<'static, [u8]>,
    /// Names and bytes of the safetensors files.
    pub weights: Vec<(String, Cow<'static, [u8]>)>,
}

/// Paths of a model's files: a command reads them and must not overwrite them.
pub fn model_files(folder: Option<&Path>) -> Vec<PathBuf> {
    let entries = folder.and_then(|folder| std::fs::read_dir(folder).ok());
    let paths = entries.into_iter().flatten().flatten().map(|entry| entry.path());
    paths.filter(|path| path.is_file()).collect()
}

impl ModelFiles {
    /// Reads the files of `folder`; without one, uses the embedded files.
    pub fn read(folder: Option<&Path>) -> Result<Self> {
        match folder {
            None => Ok(Self::embedded()),
            Some(folder) => Self::of_folder(folder).context("the model cannot be opened"),
        }
    }

    /// The files that a model would have, which was made from another `folder`.
    pub fn of_model(model: &ModelFolder, folder: &Path) -> Self {
        let weights = to_safetensors(&named_tensors(&model.model), Dtype::F32, None);
        Self {
            name: folder.display().to_string(),
            folder: Some(folder.into()),
            config_json: model.config.to_json(),
            tokenizer_json: model.tokenizer_json.clone().into(),
            weights: vec![("model.safetensors".into(), weights.into())],
        }
    }

    fn embedded() -> Self {
        let weights: &'static [u8] = include_bytes!("../../assets/model/model.safetensors");
        Self {
            name: "the embedded model".into(),
            folder: None,
            config_json: include_str!("../../assets/model/config.json").into(),
            tokenizer_json: include_bytes!("../../assets/model/tokenizer.json").into(),
            weights: vec![("model.safetensors".into(), weights.into())],
        }
    }

    fn of_folder(folder: &Path) -> Result<Self, files::FolderError> {
        let not_a_model =
            |found: String| files::FolderError::NotAModel { found, folder: folder.into() };
        if !folder.is_dir() {
            let found = if folder.exists() { "this is a file" } else { "there is no such folder" };
            return Err(not_a_model(found.into()));
        }
        for name in ["config.json", "tokenizer.json"] {
            if !folder.join(name).is_file() {
                return Err(not_a_model(format!("{name} is missing")));
            }
        }
        let weights = files::read_shards(folder, "model.safetensors")?;
        Ok(Self {
            name: folder.display().to_string(),
            folder: Some(folder.into()),
            config_json: String::from_utf8_lossy(&files::read(&folder.join("config.json"))?)
                .into_owned(),
            tokenizer_json: files::read(&folder.join("tokenizer.json"))?.into(),
            weights: weights.into_iter().map(|(name, bytes)| (name, bytes.into())).collect(),
        })
    }

    /// The config: sizes and switches.
    pub fn config(&self) -> Result<MmGemConfig> {
        MmGemConfig::from_json(&self.config_json).with_context(|| self.complaint())
    }

    /// Overrides `max_text_len` of `config.json`.
    pub fn set_max_text_len(&mut self, max_text_len: usize) -> Result<()> {
        let mut config = self.config()?;
        let positions = config.llm.max_position_embeddings;
        ensure!(
            (2..=positions).contains(&max_text_len),
            "texts of {max_text_len} tokens are asked for, but this language model has {positions} positions\n  hint: \
             give at most that with --text-len\n  folder: {}",
            self.name
        );
        config.max_text_len = max_text_len;
        self.config_json = config.to_json();
        Ok(())
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        Tokenizer::from_json(&self.tokenizer_json, &self.config()?)
            .with_context(|| self.complaint())
    }

    /// Loads the weights unpacked, to train or to write another format.
    pub fn load(&self, device: &Device) -> Result<MmGem> {
        let model = MmGem::new(&self.config()?, device);
        Shards::new(&self.slices())
            .and_then(|shards| checkpoint::load(model, &shards))
            .with_context(|| self.complaint())
    }

    /// Loads the weights to run the model. Packed weights stay packed on devices that support it.
    pub fn load_to_run(&self, opened: &OpenedDevice) -> Result<MmGem> {
        let shards = Shards::new(&self.slices()).with_context(|| self.complaint())?;
        if let (Some(limit_bytes), Some((name, size_bytes))) =
            (opened.largest_tensor_bytes, shards.largest(&opened.device))
            && size_bytes > limit_bytes
        {
            let failed = DeviceFailed::TooLarge { name: name.to_owned(), size_bytes, limit_bytes };
            return Err(failed).with_context(|| self.complaint());
        }
        let model = MmGem::new(&self.config()?, &opened.device);
        let load =
            if stays_packed(&opened.device) { checkpoint::load_to_run } else { checkpoint::load };
        let model = load(model, &shards).with_context(|| self.complaint())?;
        // A failed upload only shows when something is read back.
        pollster::block_on(read_floats(Tensor::<1>::from_floats([0.0], &opened.device)))
            .with_context(|| self.complaint())?;
        Ok(model)
    }

    /// A session on a device.
    pub fn open(&self, opened: &OpenedDevice) -> Result<Session> {
        // The small files come first: their errors usually explain a problem with the weights.
        let (config, tokenizer) = (self.config()?, self.tokenizer()?);
        Ok(Session::new(config, self.load_to_run(opened)?, tokenizer, &opened.device))
    }

    /// Names and bytes, as `Shards::new` takes them.
    pub fn slices(&self) -> Vec<(&str, &[u8])> {
        self.weights.iter().map(|(name, bytes)| (name.as_str(), bytes.as_ref())).collect()
    }

    /// A hash that identifies these files.
    pub fn fingerprint(&self) -> u64 {
        let weights = self.weights.iter().map(|(_, bytes)| bytes.as_ref());
        checkpoint::fingerprint(&self.config_json, &self.tokenizer_json, weights)
    }

    fn complaint(&self) -> String {
        format!("the model cannot be opened\n  folder: {}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{DeviceChoice, open_device};

    #[test]
    fn the_embedded_model_opens() {
        let files = ModelFiles::read(None).expect("embedded");
        let cpu = open_device(DeviceChoice::Cpu).expect("there is always a CPU");
        let session = files.open(&cpu).expect("the embedded files belong together");
        let embed = pollster::block_on(session.embed_text("a red circle")).expect("a text");
        assert_eq!(embed.len(), session.config().embed_dim);
    }
}
