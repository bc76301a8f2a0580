//! Reads Hugging Face's Llama: its `config.json`, and its tensors under our names.

use serde_json::{Value, json};

use super::read::CheckpointError;
use super::shards::Shards;
use crate::config::{LlamaConfig, MmGemConfig, RopeScaling};

/// Contents of a Llama's `config.json`.
pub(super) struct LlamaFile {
    pub config: LlamaConfig,
    /// Token that starts a document.
    pub bos_token_id: Option<u32>,
    /// Token that ends a document.
    pub eos_token_id: u32,
}

/// Returns the sizes, and the tensors under `llm.`.
pub(super) fn llama<'a>(
    checkpoint: Shards<'a>,
    config_json: &str,
) -> Result<(LlamaFile, Shards<'a>), CheckpointError> {
    let file = read_config(config_json)?;
    let shards = rename(checkpoint)?;
    let head = "llm.lm_head.weight";
    if !file.config.tie_word_embeddings && shards.shape(head).is_none() {
        return Err(CheckpointError::Import(
            "the language model has no lm_head.weight, and its config.json says tie_word_embeddings = false\n  hint: a base model (LlamaModel) cannot generate text; use the checkpoint of LlamaForCausalLM".into(),
        ));
    }
    Ok((file, shards))
}

/// The `config.json` of transformers for a model's language model: the inverse of [`read_config`].
pub(super) fn config_json(config: &MmGemConfig, is_f16: bool) -> Value {
    let llm = &config.llm;
    let mut json = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": llm.hidden_size,
        "intermediate_size": llm.intermediate_size,
        "num_hidden_layers": llm.num_hidden_layers,
        "num_attention_heads": llm.num_attention_heads,
        "num_key_value_heads": llm.num_key_value_heads,
        "head_dim": llm.head_dim(),
        "vocab_size": llm.vocab_size,
        "max_position_embeddings": llm.max_position_embeddings,
        "rms_norm_eps": llm.rms_norm_eps,
        "rope_theta": llm.rope_theta,
        "attention_bias": llm.attention_bias,
        "mlp_bias": llm.mlp_bias,
        "tie_word_embeddings": llm.tie_word_embeddings,
        "eos_token_id": config.eos_token_id,
        // null, because transformers' own default would be a token.
        "bos_token_id": config.bos_token_id,
        "torch_dtype": if is_f16 { "float16" } else { "float32" },
    });
    json["rope_scaling"] = match llm.rope_scaling {
        None => Value::Null,
        Some(RopeScaling::Linear { factor }) => json!({ "rope_type": "linear", "factor": factor }),
        Some(RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        }) => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_max_position_embeddings,
        }),
    };
    json
}

/// Accepts the names of `LlamaForCausalLM` (`model.*`, `lm_head.weight`) and of the base model
/// `LlamaModel`, behind any prefix.
fn rename(checkpoint: Shards) -> Result<Shards, CheckpointError> {
    const MARK: &str = "embed_tokens.weight";
    let prefixes: Vec<&str> =
        checkpoint.names().filter_map(|name| name.strip_suffix(MARK)).collect();
    let [base] = prefixes[..] else {
        return Err(CheckpointError::Import(format!(
            "the language model has {} tensors named embed_tokens.weight, wanted 1\n  hint: only the tensor names of transformers' LlamaForCausalLM and LlamaModel are supported",
            prefixes.len()
        )));
    };
    let base = base.to_owned();
    let head = format!("{}lm_head.weight", base.strip_suffix("model.").unwrap_or(&base));
    let of_base = ["embed_tokens.", "layers.", "norm."];
    Ok(checkpoint.rename(|name| {
        // Older files also store this buffer, which follows from the config.
        if name.ends_with(".rotary_emb.inv_freq") {
            return None;
        }
        let inner = name
            .strip_prefix(&base)
            .filter(|inner| of_base.iter().any(|start| inner.starts_with(start)));
        Some(match inner {
            Some(inner) => format!("llm.model.{inner}"),
            None if name == head => "llm.lm_head.weight".to_owned(),
            None => format!("llm.{name}"),
        })
    }))
}

/// The root object of a `config.json`, with getters that report errors.
struct Keys(Value);

impl Keys {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn wants(&self, key: &str, wanted: &str) -> CheckpointError {
        CheckpointError::Import(format!(
            "the language model's config.json has {key} = {}, wanted {wanted}\n  hint: only plain Llama models can be imported",
            self.0.get(key).unwrap_or(&Value::Null)
        ))
    }

    fn size(&self, key: &str) -> Result<usize, CheckpointError> {
        self.get(key)
            .and_then(Value::as_u64)
            .map(|n| n as usize)
            .ok_or_else(|| self.wants(key, "a number"))
    }

    fn flag(&self, key: &str) -> Result<bool, CheckpointError> {
        match self.get(key) {
            None => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| self.wants(key, "true or false")),
        }
    }

    fn number(&self, key: &str, default: f64) -> Result<f64, CheckpointError> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| self.wants(key, "a number")),
        }
    }

    fn token(&self, key: &str) -> Option<u32> {
        let id = match self.get(key) {
            Some(Value::Array(ids)) => ids.first(),
            other => other,
        };
        id.and_then(Value::as_u64).map(|id| id as u32)
    }
}

fn read_config(json: &str) -> Result<LlamaFile, CheckpointError> {
    let root: Value = serde_json::from_str(json).map_err(|e| {
        CheckpointError::Import(format!("the language model's config.json is not JSON: {e}"))
    })?;
    let keys = Keys(root);
    if keys.get("model_type").and_then(Value::as_str) != Some("llama") {
        return Err(keys.wants("model_type", "\"llama\""));
    }
    if keys.get("hidden_act").is_some_and(|found| found != "silu") {
        return Err(keys.wants("hidden_act", "\"silu\""));
    }
    // Newer files nest `rope_theta` in `rope_parameters`.
    let nested = keys.get("rope_parameters").and_then(Value::as_object);
    let rope_theta = nested.and_then(|rope| rope.get("rope_theta")).and_then(Value::as_f64);
    let hidden_size = keys.size("hidden_size")?;
    let num_attention_heads = keys.size("num_attention_heads")?;
    let head_dim = match keys.get("head_dim") {
        None => None,
        Some(_) => {
            Some(keys.size("head_dim")?).filter(|dim| dim * num_attention_heads != hidden_size)
        }
    };
    let config = LlamaConfig {
        hidden_size,
        intermediate_size: keys.size("intermediate_size")?,
        num_hidden_layers: keys.size("num_hidden_layers")?,
        num_attention_heads,
        num_key_value_heads: match keys.get("num_key_value_heads") {
            None => num_attention_heads,
            Some(_) => keys.size("num_key_value_heads")?,
        },
        head_dim,
        vocab_size: keys.size("vocab_size")?,
        max_position_embeddings: keys.size("max_position_embeddings")?,
        rms_norm_eps: keys.number("rms_norm_eps", 1e-6)?,
        rope_theta: match rope_theta {
            Some(theta) => theta,
            None => keys.number("rope_theta", 10_000.0)?,
        },
        rope_scaling: rope_scaling(&keys)?,
        attention_bias: keys.flag("attention_bias")?,
        mlp_bias: keys.flag("mlp_bias")?,
        tie_word_embeddings: keys.flag("tie_word_embeddings")?,
    };
    let eos_token_id =
        keys.token("eos_token_id").ok_or_else(|| keys.wants("eos_token_id", "a token id"))?;
    Ok(LlamaFile { config, bos_token_id: keys.token("bos_token_id"), eos_token_id })
}

/// Reads `rope_scaling`, or `rope_parameters` in newer files.
fn rope_scaling(keys: &Keys) -> Result<Option<RopeScaling>, CheckpointError> {
    let key = if keys.get("rope_scaling").is_some() { "rope_scaling" } else { "rope_parameters" };
    let Some(rope) = keys.get(key) else { return Ok(None) };
    let wrong = || keys.wants(key, "rope_type = default, linear or llama3 with their numbers");
    let kind = rope.get("rope_type").or_else(|| rope.get("type"));
    let number = |name: &str| rope.get(name).and_then(Value::as_f64).ok_or_else(wrong);
    if rope.get("partial_rotary_factor").and_then(Value::as_f64).is_some_and(|share| share != 1.0) {
        return Err(keys.wants(key, "partial_rotary_factor = 1"));
    }
    match kind.and_then(Value::as_str) {
        Some("default") => Ok(None),
        Some("linear") => Ok(Some(RopeScaling::Linear { factor: number("factor")? })),
        Some("llama3") => Ok(Some(RopeScaling::Llama3 {
            factor: number("factor")?,
            low_freq_factor: number("low_freq_factor")?,
            high_freq_factor: number("high_freq_factor")?,
            original_max_position_embeddings: number("original_max_position_embeddings")? as usize,
        })),
        None if kind.is_none() && key == "rope_parameters" => Ok(None),
        _ => Err(wrong()),
    }
}
