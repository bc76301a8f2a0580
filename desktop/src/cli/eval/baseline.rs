//! `--baseline-open-clip`: evaluates an OpenCLIP checkpoint by the same protocol.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args as ClapArgs;
use mmgem_core::checkpoint::Shards;
use mmgem_core::checkpoint::{HASH_START, hash_bytes};
use mmgem_data::files::{as_slices, read, read_shards};
use mmgem_data::source::read_lines;
use mmgem_eval::open_clip::OpenClip;

use super::record::Record;
use crate::context::Context;

const WANTED: &str = "open_clip_model.safetensors, open_clip_config.json (optional: the weights give the sizes), and \
    bpe_simple_vocab_16e6.txt.gz, merges.txt or tokenizer.json";

/// The model to compare with.
#[derive(Debug, ClapArgs)]
pub(super) struct BaselineArgs {
    /// Folder of an OpenCLIP model (CLIP or CoCa) to evaluate too, and to compare with
    ///
    /// The folder has open_clip_model.safetensors, open_clip_config.json, and
    /// bpe_simple_vocab_16e6.txt.gz or tokenizer.json.
    #[arg(long = "baseline-open-clip", value_name = "DIR")]
    folder: Option<PathBuf>,
}

/// An OpenCLIP checkpoint, its name and the hash of its files.
#[derive(Debug)]
pub(super) struct Baseline {
    pub model: OpenClip,
    name: String,
    hash: u64,
}

impl BaselineArgs {
    /// Opens the checkpoint if the option is given.
    pub fn open(&self, context: &Context) -> Result<Option<Baseline>> {
        let open = |folder: &PathBuf| {
            Baseline::read(folder, context).with_context(|| {
                let folder = folder.display();
                format!("the baseline cannot be opened\n  wanted: {WANTED}\n  folder: {folder}")
            })
        };
        self.folder.as_ref().map(open).transpose()
    }
}

impl Baseline {
    fn read(folder: &Path, context: &Context) -> Result<Self> {
        let weights = read_shards(folder, "open_clip_model.safetensors")?;
        let config = folder.join("open_clip_config.json");
        let config = config.is_file().then(|| read_text(&config)).transpose()?;
        let names = [
            "bpe_simple_vocab_16e6.txt.gz",
            "bpe_simple_vocab_16e6.txt",
            "merges.txt",
            "tokenizer.json",
        ];
        let tokenizer = names.map(|name| folder.join(name)).into_iter().find(|path| path.is_file());
        let tokenizer = tokenizer.context("the folder has no tokenizer")?;
        let tokenizer = match tokenizer.extension().is_some_and(|ext| ext == "json") {
            true => read_text(&tokenizer)?,
            false => read_lines(&tokenizer)?.join("\n"),
        };
        let parts = weights.iter().map(|(_, bytes)| bytes.as_slice());
        let parts =
            parts.chain([config.as_deref().unwrap_or_default().as_bytes(), tokenizer.as_bytes()]);
        let hash = parts.fold(HASH_START, hash_bytes);
        let shards = Shards::new(&as_slices(&weights))?;
        let model =
            OpenClip::open(shards, config.as_deref(), &tokenizer, context.session.device())?;
        Ok(Self { model, name: folder.display().to_string(), hash })
    }

    /// Sets the record's model to this one.
    pub fn sign(&self, mut record: Record) -> Record {
        record.model = self.name.clone();
        record.model_hash = format!("{:016x}", self.hash);
        record
    }
}

fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(read(path)?).with_context(|| format!("not UTF-8\n  file: {}", path.display()))
}
