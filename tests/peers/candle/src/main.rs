//! The work of `mmgem bench` in candle, with the vision tower of its CLIP and its Llama.
//!
//! Weights are zeros, or a quantised Llama from a GGUF file. Prints one JSON document with the same
//! keys as `mmgem bench`.

use std::collections::HashMap;
use std::time::Instant;

use candle_core::quantized::gguf_file;
use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::clip::text_model::Activation;
use candle_transformers::models::clip::vision_model::{ClipVisionConfig, ClipVisionTransformer};
use candle_transformers::models::llama::{Cache, Config, Llama};
use candle_transformers::models::quantized_llama::ModelWeights;
use serde_json::{Value, json};

const TEXT_LEN: usize = 12;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: HashMap<&str, &str> =
        args.chunks(2).map(|pair| (pair[0].trim_start_matches('-'), pair[1].as_str())).collect();
    let number = |name: &str| args[name].parse::<usize>().expect("a number");
    let (repeat, tokens) = (number("repeat"), number("tokens"));
    let config: Value =
        serde_json::from_str(&std::fs::read_to_string(args["config"])?).expect("a config is JSON");
    let wants = |work: &str| args["only"].split(',').any(|one| one == work);
    let mut rates = serde_json::Map::new();

    if wants("image") {
        let clip = clip(&config)?;
        let side = size(&config, "vision", "image_size");
        for batch in [1, 8] {
            let pixels = Tensor::zeros((batch, 3, side, side), DType::F32, &Device::Cpu)?;
            let secs = median_secs(repeat, || clip.forward(&pixels)?.flatten_all()?.to_vec1::<f32>().map(drop))?;
            rates.insert(format!("images_per_sec_batch_{batch}"), json!(batch as f64 / secs));
        }
    }
    if ["text", "prefill", "caption", "region"].into_iter().any(wants) {
        let mut llama = AnyLlama::open(&config, args.get("gguf").copied())?;
        let count = |name: &str| config[name].as_u64().expect("a size") as usize;
        let region = count("roi_output_size").pow(2) + count("num_caption_prompts");
        if wants("text") && args.get("gguf").is_none() {
            let secs = median_secs(repeat, || llama.decode(TEXT_LEN + 1, 1))?;
            rates.insert("texts_per_sec".into(), json!(1.0 / secs));
        }
        if wants("prefill") {
            let secs = median_secs(repeat, || llama.decode(region, 1))?;
            rates.insert("prefill_tokens_per_sec".into(), json!(region as f64 / secs));
        }
        if wants("caption") {
            let secs = median_secs(repeat, || llama.decode(2, tokens))?;
            rates.insert("caption_tokens_per_sec".into(), json!(tokens as f64 / secs));
        }
        if wants("region") {
            let secs = median_secs(repeat, || llama.decode(region, tokens))?;
            rates.insert("region_captions_per_sec".into(), json!(1.0 / secs));
        }
    }
    println!("{}", json!({ "device": "candle", "rates": rates }));
    Ok(())
}

fn size(config: &Value, part: &str, name: &str) -> usize {
    config[part][name].as_u64().expect("a size") as usize
}

fn clip(config: &Value) -> Result<ClipVisionTransformer> {
    let size = |name| size(config, "vision", name);
    let mlp_ratio = config["vision"]["mlp_ratio"].as_f64().expect("a number");
    let sizes = ClipVisionConfig {
        embed_dim: size("hidden_size"),
        // candle's CLIP supports no other activation.
        activation: Activation::QuickGelu,
        intermediate_size: (size("hidden_size") as f64 * mlp_ratio) as usize,
        num_hidden_layers: size("num_hidden_layers"),
        num_attention_heads: size("num_attention_heads"),
        projection_dim: size("proj_dim"),
        num_channels: 3,
        image_size: size("image_size"),
        patch_size: size("patch_size"),
    };
    ClipVisionTransformer::new(VarBuilder::zeros(DType::F32, &Device::Cpu), &sizes)
}

enum AnyLlama {
    Full(Box<Llama>, Config),
    Quantised(Box<ModelWeights>),
}

impl AnyLlama {
    fn open(config: &Value, gguf: Option<&str>) -> Result<Self> {
        if let Some(path) = gguf {
            let mut file = std::fs::File::open(path)?;
            let content = gguf_file::Content::read(&mut file)?;
            return Ok(Self::Quantised(Box::new(ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?)));
        }
        let size = |name| size(config, "llm", name);
        let number = |name: &str| config["llm"][name].as_f64().expect("a number");
        let sizes = Config {
            hidden_size: size("hidden_size"),
            intermediate_size: size("intermediate_size"),
            vocab_size: size("vocab_size"),
            num_hidden_layers: size("num_hidden_layers"),
            num_attention_heads: size("num_attention_heads"),
            num_key_value_heads: size("num_key_value_heads"),
            use_flash_attn: false,
            rms_norm_eps: number("rms_norm_eps"),
            rope_theta: number("rope_theta") as f32,
            bos_token_id: None,
            eos_token_id: None,
            rope_scaling: None,
            max_position_embeddings: 512,
            tie_word_embeddings: config["llm"]["tie_word_embeddings"].as_bool().unwrap_or(false),
        };
        let llama = Llama::load(VarBuilder::zeros(DType::F32, &Device::Cpu), &sizes)?;
        Ok(Self::Full(Box::new(llama), sizes))
    }

    /// Reads a prefix and writes greedy tokens; the prefix gives the first token.
    fn decode(&mut self, n_prefix: usize, tokens: usize) -> Result<()> {
        let mut ids: Vec<u32> = (0..n_prefix as u32).map(|at| at * 17 + 3).collect();
        let mut start = 0;
        let mut cache = match self {
            Self::Full(_, config) => Some(Cache::new(true, DType::F32, config, &Device::Cpu)?),
            Self::Quantised(_) => None,
        };
        for _ in 0..tokens {
            let n_new = ids.len();
            let x = Tensor::new(ids.as_slice(), &Device::Cpu)?.unsqueeze(0)?;
            let logits = match (&mut *self, &mut cache) {
                (Self::Full(llama, _), Some(cache)) => llama.forward(&x, start, cache)?,
                (Self::Quantised(llama), _) => llama.forward(&x, start)?,
                _ => unreachable!("a full Llama has a cache"),
            };
            ids = vec![logits.flatten_all()?.argmax(0)?.to_scalar::<u32>()?];
            start += n_new;
        }
        Ok(())
    }
}

fn median_secs(repeat: usize, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    work()?;
    let mut secs = Vec::new();
    for _ in 0..repeat {
        let start = Instant::now();
        work()?;
        secs.push(start.elapsed().as_secs_f64());
    }
    secs.sort_by(f64::total_cmp);
    Ok(secs[secs.len() / 2])
}
