//! Writes the towers of a model in the layouts of other libraries, from which they can be imported
//! again.
//!
//! A tower computes the same there. MM-GEM's own parts (h1 to h4, `[CAP]`, the prompts, the
//! temperature) have no place in those layouts.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::llama::{self, llama};
use super::read::CheckpointError;
use super::shards::Shards;
use super::towers::write::{self, WrittenTower};
use super::towers::{Kind, Tower, TowerConfigs, TowerOptions};
use super::write::{Dtype, NamedTensor, to_safetensors};
use crate::config::{LlamaConfig, MmGemConfig, VisionConfig};

/// The library whose layout is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignLayout {
    /// open_clip: a folder for `local-dir:`, with the image encoder alone.
    OpenClip,
    /// transformers: a folder for each tower. A convolutional encoder is written for timm.
    HuggingFace,
}

/// The files of a model in another library's layout.
#[derive(Debug)]
pub struct ForeignFiles {
    /// Path inside the output folder, and content.
    pub files: Vec<(String, Vec<u8>)>,
    /// For each tower: the folder inside the output folder, and the call that loads it.
    pub loads: Vec<(String, String)>,
    /// Parts that the files lack or hold in another form.
    pub notes: Vec<String>,
}

/// Largest difference between a weight and the same weight read back, relative to the largest
/// weight of its tensor. Splitting a folded batch norm rounds.
const TOLERANCE: f32 = 1e-6;

/// Converts a model and reads the result back.
///
/// `tensors` are those of the whole model ([`super::named_tensors`]).
///
/// # Errors
/// If the layout has no place for a tower, or if the tensors read back differ.
pub fn export(
    config: &MmGemConfig,
    tensors: Vec<NamedTensor>,
    tokenizer_json: &[u8],
    layout: ForeignLayout,
    dtype: Dtype,
) -> Result<ForeignFiles, CheckpointError> {
    if !matches!(dtype, Dtype::F32 | Dtype::F16) {
        return Err(CheckpointError::Export(
            "the weights are to be packed in 8 or 4 bits, which only this program reads; wanted 32 or 16 bits\n  hint: --dtype f32 or f16".into(),
        ));
    }
    let mut tensors: HashMap<String, (Vec<usize>, Vec<f32>)> =
        tensors.into_iter().map(|(name, shape, values)| (name, (shape, values))).collect();
    let mut taken = |prefix: &str| -> Vec<NamedTensor> {
        let names: Vec<String> =
            tensors.keys().filter(|name| name.starts_with(prefix)).cloned().collect();
        let mut taken: Vec<NamedTensor> = names
            .into_iter()
            .filter_map(|name| {
                let (shape, values) = tensors.remove(&name)?;
                Some((name[prefix.len()..].to_owned(), shape, values))
            })
            .collect();
        taken.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        taken
    };
    let (visual, llm) = (taken("visual."), taken("llm."));
    let mut files = ForeignFiles { files: Vec::new(), loads: Vec::new(), notes: Vec::new() };
    let tower = write::tower(config, &visual, layout)?;
    check_tower(config, &tower, &visual, dtype)?;
    let is_whole_folder = layout == ForeignLayout::OpenClip;
    let folder = if is_whole_folder { "" } else { "vision/" };
    let WrittenTower { tensors, weights_file, configs, loads, notes, .. } = tower;
    files.put(folder, weights_file, weights(&tensors, dtype));
    for (name, json) in configs {
        files.put(folder, name, text(&json));
    }
    files.loads.push((folder.trim_end_matches('/').to_owned(), loads));
    files.notes.extend(notes);
    match layout {
        ForeignLayout::OpenClip => files
            .notes
            .push("the language model is left out; --layout hf writes it for transformers".into()),
        ForeignLayout::HuggingFace => {
            write_language(config, llm, tokenizer_json, dtype, &mut files)?;
        }
    }
    files.notes.push(
        "h1 to h4, the tokens of MM-GEM and the temperature are left out: the towers alone give no embeddings of the joint space"
            .into(),
    );
    Ok(files)
}

impl ForeignFiles {
    fn put(&mut self, folder: &str, name: &str, bytes: Vec<u8>) {
        self.files.push((format!("{folder}{name}"), bytes));
    }
}

fn write_language(
    config: &MmGemConfig,
    llm: Vec<NamedTensor>,
    tokenizer_json: &[u8],
    dtype: Dtype,
    files: &mut ForeignFiles,
) -> Result<(), CheckpointError> {
    let json = llama::config_json(config, dtype == Dtype::F16);
    let bytes = weights(&llm, dtype);
    let shards = Shards::new(&[("model.safetensors", &bytes)])?;
    let (found, shards) = llama(shards, &json.to_string())?;
    // A head's width that follows from the other sizes may be absent.
    let head_dim = Some(config.llm.head_dim());
    let with_head_dim = |llm: &LlamaConfig| LlamaConfig { head_dim, ..llm.clone() };
    let is_same = found.config.head_dim() == config.llm.head_dim()
        && with_head_dim(&found.config) == with_head_dim(&config.llm)
        && found.bos_token_id == config.bos_token_id
        && found.eos_token_id == config.eos_token_id;
    if !is_same {
        return Err(differs("the language model's sizes", "llm of this model's config.json"));
    }
    check_values(&shards, "llm.", &llm, dtype)?;
    let folder = "language/";
    files.put(folder, "model.safetensors", bytes);
    files.put(folder, "config.json", text(&json));
    let mut generation = json!({ "_from_model_config": true });
    for key in ["bos_token_id", "eos_token_id"] {
        if let Some(id) = json.get(key) {
            generation[key] = id.clone();
        }
    }
    files.put(folder, "generation_config.json", text(&generation));
    files.put(folder, "tokenizer.json", tokenizer_json.to_vec());
    files.put(folder, "tokenizer_config.json", text(&tokenizer_config(config, tokenizer_json)));
    files.loads.push((
        "language".into(),
        "transformers.AutoModelForCausalLM.from_pretrained(\"FOLDER\")".into(),
    ));
    Ok(())
}

/// The `tokenizer_config.json` with which transformers loads `tokenizer.json` as it is.
fn tokenizer_config(config: &MmGemConfig, tokenizer_json: &[u8]) -> Value {
    let tokenizer: Value = serde_json::from_slice(tokenizer_json).unwrap_or_default();
    let added = tokenizer.get("added_tokens").and_then(Value::as_array);
    let token = |id: u32| {
        let token = added?.iter().find(|token| token["id"] == id)?;
        token.get("content").cloned()
    };
    let mut json = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.llm.max_position_embeddings,
    });
    let ids = [("bos_token", config.bos_token_id), ("eos_token", Some(config.eos_token_id))];
    for (key, id) in ids {
        if let Some(content) = id.and_then(token) {
            json[key] = content;
        }
    }
    json
}

/// Reads a written tower as an import does, and compares it with the model's.
fn check_tower(
    config: &MmGemConfig,
    tower: &WrittenTower,
    visual: &[NamedTensor],
    dtype: Dtype,
) -> Result<(), CheckpointError> {
    let bytes = weights(&tower.tensors, dtype);
    let shards = Shards::new(&[(tower.weights_file, &bytes)])?;
    let text_of = |name: &str| {
        tower.configs.iter().find(|(file, _)| *file == name).map(|(_, json)| json.to_string())
    };
    let configs = TowerConfigs {
        open_clip: text_of("open_clip_config.json"),
        config: text_of("config.json"),
        preprocessor: text_of("preprocessor_config.json"),
    };
    let options = TowerOptions {
        mean_std: Some((config.image_mean, config.image_std)),
        ..TowerOptions::default()
    };
    let read = Tower::read(shards, &configs, &options)?;
    if !is_same_tower(&read.config, &tower.vision) {
        return Err(differs(&read.config.to_string(), &tower.vision.to_string()));
    }
    // Compares what the model has. The written tower may have neutral parts besides.
    check_values(&read.shards, "visual.", visual, dtype)
}

/// Compares the sizes of two towers. Ratios of sizes may differ by their rounding.
fn is_same_tower(found: &VisionConfig, wanted: &VisionConfig) -> bool {
    match (found, wanted) {
        (VisionConfig::Vit(found), VisionConfig::Vit(wanted)) => {
            let mut found = found.clone();
            let mlp = |ratio: f64| (wanted.hidden_size as f64 * ratio) as usize;
            if mlp(found.mlp_ratio) == mlp(wanted.mlp_ratio) {
                found.mlp_ratio = wanted.mlp_ratio;
            }
            found == *wanted
        }
        (VisionConfig::EfficientNetLite(found), VisionConfig::EfficientNetLite(wanted)) => {
            found.blocks() == wanted.blocks()
                && found.hidden_size == wanted.hidden_size
                && found.image_size == wanted.image_size
        }
        _ => false,
    }
}

/// Compares tensors with those that an import gives. In 16 bits only their sizes.
fn check_values(
    read: &Shards,
    prefix: &str,
    tensors: &[NamedTensor],
    dtype: Dtype,
) -> Result<(), CheckpointError> {
    for (name, shape, values) in tensors {
        let name = format!("{prefix}{name}");
        if read.shape(&name) != Some(shape) {
            return Err(differs(
                &format!("{name} is {:?}", read.shape(&name)),
                &format!("{shape:?}"),
            ));
        }
        if dtype != Dtype::F32 {
            continue;
        }
        let found = read.values(&name).expect("its shape was found")?;
        let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let difference = found
            .iter()
            .zip(values)
            .fold(0.0_f32, |worst, (found, wanted)| worst.max((found - wanted).abs()));
        if difference > TOLERANCE * largest {
            return Err(differs(
                &format!("{name} differs by {difference:e}"),
                &format!("at most {TOLERANCE:e} of {largest:e}"),
            ));
        }
    }
    Ok(())
}

fn differs(found: &str, wanted: &str) -> CheckpointError {
    CheckpointError::Export(format!(
        "the written tower is read back as another: {found}, wanted {wanted}\n  hint: this is a mistake of this program; please report it"
    ))
}

fn weights(tensors: &[NamedTensor], dtype: Dtype) -> Vec<u8> {
    // transformers refuses files without this.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    to_safetensors(tensors, dtype, Some(metadata))
}

fn text(json: &Value) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(json).expect("plain values are JSON");
    bytes.push(b'\n');
    bytes
}

/// The layouts of image encoders that this module writes, for messages.
pub(super) fn title(kind: Kind) -> &'static str {
    match kind {
        Kind::OpenClip => "open_clip's VisionTransformer",
        Kind::Clip => "transformers' CLIPVisionModel",
        Kind::Siglip => "transformers' SiglipVisionModel",
        Kind::Dinov2 => "transformers' Dinov2Model",
        Kind::TimmVit => "timm's VisionTransformer",
        Kind::TimmLite | Kind::FoldedLite => "timm's tf_efficientnet_lite",
    }
}
