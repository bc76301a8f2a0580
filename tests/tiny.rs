//! A tiny model for training tests, and drawn scenes to train it on.

use std::path::Path;
use std::sync::OnceLock;

use burn::tensor::Device;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use mmgem_core::config::MmGemConfig;
use mmgem_core::init::fresh;
use mmgem_core::model::MmGem;
use mmgem_core::tokenizer::{Tokenizer, train_bpe};
use mmgem_data::files::ModelFolder;
use mmgem_data::webdataset::{Sample, ShardWriter};
use mmgem_scenes::{Scene, scene};
use serde_json::json;

/// The preset `tiny` of `mmgem_reference.py`, but with one layer in each tower, fewer prompts and a
/// larger vocabulary for a tokenizer that the tests train.
pub const CONFIG: &str = r#"{
  "format": "mm-gem", "version": 1, "resize_mode": "squash",
  "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
  "vision_tokens": "mean", "caption_order": "image_first", "num_caption_prompts": 4,
  "roi_output_size": 3, "roi_sampling_ratio": 2, "max_text_len": 24,
  "logit_scale_init": 2.659260036932778, "logit_scale_max": 4.605170185988092,
  "vision": {
    "image_size": 32, "patch_size": 8, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "mlp_ratio": 4.0, "hidden_act": "gelu", "proj_dim": 16
  },
  "llm": {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 512, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "tie_word_embeddings": false
  },
  "embed_dim": 20, "bos_token_id": 1, "eos_token_id": 2
}"#;

/// Number of scenes in the collection that every training test uses.
pub const N_SCENES: u64 = 8;

/// The scenes of the collection, drawn once per process.
pub fn scenes() -> &'static [Scene] {
    static SCENES: OnceLock<Vec<Scene>> = OnceLock::new();
    SCENES.get_or_init(|| (0..N_SCENES).map(|index| scene(5, index)).collect())
}

/// All captions of the collection, one a line.
pub fn captions() -> String {
    scenes()
        .iter()
        .flat_map(|scene| &scene.captions)
        .fold(String::new(), |all, line| all + line + "\n")
}

/// A scene as a PNG file.
pub fn png(scene: &Scene) -> Vec<u8> {
    png_of(&scene.rgb, scene.width, scene.height)
}

/// RGB pixels as a PNG file.
pub fn png_of(rgb: &[u8], width: u32, height: u32) -> Vec<u8> {
    let mut png = Vec::new();
    let encoder = PngEncoder::new(&mut png);
    encoder
        .write_image(rgb, width, height, ExtendedColorType::Rgb8)
        .expect("as many bytes as pixels");
    png
}

/// A scene as a training sample: its PNG, captions and regions.
pub fn sample(index: usize) -> Sample {
    let scene = &scenes()[index];
    let regions = scene.regions.iter().map(|r| json!({ "box": r.box_px, "phrases": r.phrases }));
    let record = json!({ "captions": scene.captions, "regions": regions.collect::<Vec<_>>() });
    let parts = vec![("png".into(), png(scene)), ("json".into(), record.to_string().into_bytes())];
    Sample { key: format!("scene{index:02}"), parts }
}

/// Writes samples as a WebDataset shard.
pub fn write_shard(path: &Path, samples: &[Sample]) {
    let mut writer = ShardWriter::create(path).expect("a temporary folder can be written");
    samples
        .iter()
        .for_each(|sample| writer.write(sample).expect("every sample has a key of its own"));
    writer.finish().expect("there is room for a small shard");
}

/// An untrained model with a tokenizer trained on the collection's captions.
pub fn model() -> ModelFolder {
    let config = MmGemConfig::from_json(CONFIG).expect("the tiny config is right");
    let lines: Vec<String> = captions().lines().map(str::to_owned).collect();
    let tokenizer_json =
        train_bpe(&lines, config.llm.vocab_size).expect("a tokenizer is trained").into_bytes();
    let tokenizer = Tokenizer::from_json(&tokenizer_json, &config).expect("it fits the config");
    let model = fresh(MmGem::new(&config, &Device::flex()), &config, 3);
    ModelFolder { config, model, tokenizer, tokenizer_json }
}
