//! `mmgem info`: the sizes of a model, its training history, and a self-check; or the devices.

mod devices;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use mmgem_core::session::{Part, Session};
use mmgem_data::files::read;
use safetensors::SafeTensors;
use serde_json::{Map, Value, json};

use crate::device::self_check;
use crate::globals::Globals;
use crate::model::ModelFiles;
use crate::terminal::{print, print_json};

#[derive(Debug, Default, Args)]
#[command(after_help = "Examples:\n  \
    mmgem info\n  \
    mmgem info runs/b16 --json\n  \
    mmgem info --config > config.json\n  \
    mmgem info --devices")]
pub struct InfoArgs {
    /// Model folder [default: --model, else the embedded model]
    #[arg(value_name = "MODEL")]
    folder: Option<PathBuf>,
    /// Print only config.json
    #[arg(long)]
    config: bool,
    /// List the devices of this machine, with their features and limits
    #[arg(long, conflicts_with_all = ["folder", "config"])]
    devices: bool,
}

impl InfoArgs {
    /// `mmgem info --devices`.
    pub fn devices() -> Self {
        Self { devices: true, ..Self::default() }
    }
}

/// Parts of a model, in printing order.
const PARTS: [&str; 4] = ["image_encoder", "language_model", "heads", "tokens"];

pub fn run(args: &InfoArgs, globals: &Globals) -> Result<()> {
    if args.devices {
        return devices::run(globals);
    }
    let files = ModelFiles::read(args.folder.as_deref().or(globals.model.as_deref()))?;
    if args.config {
        return print(files.config()?.to_json());
    }
    let (parameters, dtypes) = count_parameters(&files)?;
    let training = read_history(&files)?;
    let opened = globals.open_device()?;
    let check = self_check(&files.open(&opened)?);

    if globals.json {
        print_json(&json!({
            "model": files.name,
            "config": serde_json::to_value(files.config()?)?,
            "parameters": parameters,
            "dtype": dtypes,
            "bytes": files.weights.iter().map(|(_, bytes)| bytes.len()).sum::<usize>(),
            "fingerprint": format!("{:016x}", files.fingerprint()),
            "training": training,
            "self_check": check.as_ref().map_or_else(|error| format!("{error:#}"), |()| "passed".into()),
        }))?;
        return check;
    }
    print_text(&files, &parameters, &dtypes)?;
    print_history(&training)?;
    check?;
    print("self-check      passed: a drawn scene and its caption gave the same unit vectors twice")
}

fn print_text(
    files: &ModelFiles,
    parameters: &Map<String, Value>,
    dtypes: &[String],
) -> Result<()> {
    let config = files.config()?;
    let (vision, llm) = (&config.vision, &config.llm);
    print(format!("model           {}", files.name))?;
    print(format!("image encoder   {vision} ({} tokens)", config.grid().pow(2)))?;
    print(format!(
        "language model  {} layers x {}, {} heads ({} for keys and values), {} words",
        llm.num_hidden_layers,
        llm.hidden_size,
        llm.num_attention_heads,
        llm.num_key_value_heads,
        llm.vocab_size
    ))?;
    print(format!(
        "joint space     {} wide, texts of up to {} tokens",
        config.embed_dim, config.max_text_len
    ))?;
    let counts = parameters.iter().map(|(part, n)| {
        format!("{} {}", grouped(n.as_u64().unwrap_or(0)), part.replace('_', " "))
    });
    print(format!("parameters      {}", counts.collect::<Vec<_>>().join(", ")))?;
    print(format!("weights         {}, {}", dtypes.join(" and "), weights_text(files)))
}

fn weights_text(files: &ModelFiles) -> String {
    let bytes: usize = files.weights.iter().map(|(_, bytes)| bytes.len()).sum();
    format!("{:.1} MiB in {} file(s)", bytes as f64 / f64::from(1 << 20), files.weights.len())
}

/// Parameters of each part and in total, and the number formats, from the files' headers.
fn count_parameters(files: &ModelFiles) -> Result<(Map<String, Value>, Vec<String>)> {
    let mut counts = BTreeMap::new();
    let mut dtypes = Vec::new();
    for (name, bytes) in &files.weights {
        let tensors = SafeTensors::deserialize(bytes)
            .with_context(|| format!("{name} is not a valid safetensors file"))?;
        for (tensor, view) in tensors.iter() {
            *counts.entry(part_of(tensor)).or_insert(0) += view.shape().iter().product::<usize>();
            let dtype = format!("{:?}", view.dtype()).to_lowercase();
            if !dtypes.contains(&dtype) {
                dtypes.push(dtype);
            }
        }
    }
    dtypes.sort();
    let mut parameters: Map<String, Value> = PARTS
        .iter()
        .map(|part| ((*part).to_owned(), counts.get(part).copied().unwrap_or(0).into()))
        .collect();
    parameters.insert("total".into(), counts.values().sum::<usize>().into());
    Ok((parameters, dtypes))
}

fn part_of(tensor: &str) -> &'static str {
    match tensor {
        _ if tensor.starts_with("visual.") => PARTS[0],
        _ if tensor.starts_with("llm.") => PARTS[1],
        _ if tensor.starts_with('h') => PARTS[2],
        _ => PARTS[3],
    }
}

/// Reads `training.json` beside the weights: one entry per run; `null` if the file is missing.
fn read_history(files: &ModelFiles) -> Result<Value> {
    let Some(path) = files.folder.as_ref().map(|folder| folder.join("training.json")) else {
        return Ok(Value::Null);
    };
    if !path.is_file() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&read(&path)?)
        .with_context(|| format!("training.json is not JSON\n  file: {}", path.display()))
}

fn print_history(training: &Value) -> Result<()> {
    let runs: &[Value] = match training {
        Value::Null => return Ok(()),
        Value::Array(runs) => runs,
        one => std::slice::from_ref(one),
    };
    for (idx, run) in runs.iter().enumerate() {
        let simple = |(key, value): (&String, &Value)| match value {
            Value::Object(_) | Value::Array(_) | Value::Null => None,
            Value::String(text) => Some(format!("{key} {text}")),
            other => Some(format!("{key} {other}")),
        };
        let facts: Vec<String> = run.as_object().into_iter().flatten().filter_map(simple).collect();
        print(format!("training run {:<3}{}", idx + 1, facts.join(", ")))?;
    }
    Ok(())
}

/// Embeds one drawn scene and its caption twice.
///
/// # Errors
/// If a vector is invalid, or if the two vectors differ.
fn self_check(session: &Session) -> Result<()> {
    let (photo, caption) = self_check::drawn(0);
    let embed = || -> Result<[Vec<f32>; 2]> {
        let encoded = session.encode_rgb(&photo);
        Ok([
            pollster::block_on(session.embed_image(&encoded, &Part::Whole))?,
            pollster::block_on(session.embed_text(&caption))?,
        ])
    };
    let (first, second) = (embed()?, embed()?);
    for ((first, second), what) in first.iter().zip(&second).zip(["a scene", "its caption"]) {
        if let Some(problem) = self_check::unit_length_problem(first) {
            anyhow::bail!("self-check failed: the vector of {what} {problem}");
        }
        let cosine = self_check::cosine(first, second);
        ensure!(
            cosine > 0.9999,
            "self-check failed: {what} embedded twice gave vectors with cosine {cosine}, wanted 1"
        );
    }
    Ok(())
}

/// Formats 1234567 as 1,234,567.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_grouped() {
        for (n, wanted) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(n), wanted);
        }
    }

    #[test]
    fn every_tensor_belongs_to_a_part() {
        assert_eq!(part_of("visual.conv1.weight"), "image_encoder");
        assert_eq!(part_of("llm.lm_head.weight"), "language_model");
        assert_eq!(part_of("h4.bias"), "heads");
        assert_eq!(part_of("cap_prompts"), "tokens");
    }
}
