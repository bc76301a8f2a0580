//! OpenCLIP's and Hugging Face's own files become the model that the reference made of them.

use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use mmgem_core::checkpoint::import::{ImportOptions, OPENAI_MEAN_STD, import};
use mmgem_core::checkpoint::{CheckpointError, Shards, named_tensors};
use mmgem_core::config::{CaptionOrder, HiddenAct, MmGemConfig, VisionTokens};
use mmgem_core::files::{as_slices, read_shards};
use mmgem_core::model::MmGem;
use safetensors::Dtype;
use serde_json::Value;

use crate::fixture::{Case, RawFile, RawTensor, read, relative};

fn options() -> ImportOptions {
    ImportOptions {
        image_size: None,
        vision_heads: Some(2),
        hidden_act: HiddenAct::Gelu,
        image_mean: OPENAI_MEAN_STD.0,
        image_std: OPENAI_MEAN_STD.1,
        embed_dim: 20,
        vision_tokens: VisionTokens::Mean,
        caption_order: CaptionOrder::ImageFirst,
        seed: 0,
    }
}

/// The two checkpoints, to be changed before they are imported.
struct Sources {
    vision: RawFile,
    language: RawFile,
    language_config: Value,
}

impl Sources {
    fn read() -> Self {
        let folder = Case::read("imported").folder.clone();
        Self {
            vision: RawFile::read(&folder.join("open_clip.safetensors")),
            language: RawFile::read(&folder.join("llm/model.safetensors")),
            language_config: serde_json::from_slice(&read(&folder.join("llm/config.json"))).expect("JSON"),
        }
    }

    fn import(&self, options: &ImportOptions) -> Result<(MmGemConfig, MmGem), CheckpointError> {
        let (vision, language) = (self.vision.to_bytes(), self.language.to_bytes());
        let vision = Shards::new(&[("open_clip.safetensors", &vision)])?;
        let language = Shards::new(&[("model.safetensors", &language)])?;
        import(vision, language, &self.language_config.to_string(), options, &Device::flex())
    }

    /// The message when it cannot be imported.
    fn refused(&self, options: &ImportOptions) -> String {
        self.import(options).expect_err("this cannot be imported").to_string()
    }
}

/// Every tensor of both encoders is that of `wanted`, bit for bit.
fn check_same(model: &MmGem, wanted: &RawFile) {
    let mut n_checked = 0;
    for (name, shape, values) in named_tensors(model) {
        if !name.starts_with("visual.") && !name.starts_with("llm.") {
            continue;
        }
        let wanted = &wanted.0[&name];
        assert_eq!(shape, wanted.shape, "{name}");
        assert_eq!(values, wanted.floats(), "{name}");
        n_checked += 1;
    }
    assert_eq!(
        n_checked,
        wanted.0.keys().filter(|k| k.starts_with("visual.") || k.starts_with("llm.")).count()
    );
}

fn reference_model() -> RawFile {
    RawFile::read(&Case::read("imported").folder.join("model.safetensors"))
}

#[test]
fn an_imported_model_is_the_references() {
    let (config, model) = Sources::read().import(&options()).expect("it can be imported");
    check_same(&model, &reference_model());
    let wanted = Case::read("imported").open(&Device::flex()).config;
    // The prompts are the import's own 64.
    assert_eq!(config, MmGemConfig { num_caption_prompts: 64, ..wanted });
}

#[test]
fn sixteen_bits_are_read_as_they_are_rounded() {
    for dtype in [Dtype::F16, Dtype::BF16] {
        let mut sources = Sources::read();
        sources.vision = sources.vision.in_16_bits(dtype);
        sources.language = sources.language.in_16_bits(dtype);
        let (_, model) = sources.import(&options()).expect("it can be imported");
        let mut wanted = reference_model();
        for tensor in wanted.0.values_mut() {
            let round = |v: &f32| match dtype {
                Dtype::BF16 => half::bf16::from_f32(*v).to_f32(),
                _ => half::f16::from_f32(*v).to_f32(),
            };
            *tensor = RawTensor::f32(&tensor.shape, &tensor.floats().iter().map(round).collect::<Vec<_>>());
        }
        check_same(&model, &wanted);
    }
}

#[test]
fn a_checkpoint_in_shards_is_the_same() {
    let sources = Sources::read();
    let folder = tempfile::tempdir().expect("a temporary folder");
    sources.vision.write_sharded(folder.path(), "open_clip.safetensors");
    sources.language.write_sharded(folder.path(), "model.safetensors");
    let files = |name| read_shards(folder.path(), name).expect("the shards are there");
    let (vision, language) = (files("open_clip.safetensors"), files("model.safetensors"));
    assert_eq!((vision.len(), language.len()), (2, 2));
    let shards = |files| Shards::new(&as_slices(files)).expect("the shards are whole");
    let config = sources.language_config.to_string();
    let imported = import(shards(&vision), shards(&language), &config, &options(), &Device::flex());
    check_same(&imported.expect("it can be imported").1, &reference_model());
}

#[test]
fn the_text_tower_of_openclip_and_old_buffers_are_left_out() {
    let mut sources = Sources::read();
    let one = RawTensor::f32(&[1], &[4.6]);
    for name in ["logit_scale", "text_projection", "ln_final.weight", "transformer.resblocks.0.ln_1.weight"] {
        sources.vision.0.insert(name.into(), one.clone());
    }
    sources.language.0.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), one);
    let (_, model) = sources.import(&options()).expect("it can be imported");
    check_same(&model, &reference_model());
}

#[test]
fn a_tied_head_is_imported_whether_it_is_written_out_or_not() {
    let mut sources = Sources::read();
    sources.language_config["tie_word_embeddings"] = true.into();
    let embed = sources.language.0["model.embed_tokens.weight"].clone();
    sources.language.0.insert("lm_head.weight".into(), embed);
    let (config, _) = sources.import(&options()).expect("a copy of the embedding is fine");
    assert!(config.llm.tie_word_embeddings);
    sources.language.0.remove("lm_head.weight");
    sources.import(&options()).expect("and so is none");
}

/// Class features and interpolated positions that open_clip computed.
fn open_clips_own() -> RawFile {
    RawFile::read(&Case::read("imported").folder.join("open_clip_golden.safetensors"))
}

#[test]
fn class_features_are_openclips_own_embedding() {
    let case = Case::read("imported");
    let folder = case.open(&Device::flex());
    let pixels = case.input(&folder).pixels;
    let pixels = TensorData::new(pixels.concat(), [pixels.len(), 3, 32, 32]);
    let features = folder.model.visual.class_features(Tensor::from_data(pixels, &Device::flex()));
    let wanted = &open_clips_own().0["class_features"];
    assert_eq!(features.dims().to_vec(), wanted.shape);
    let found: Vec<f32> = features.into_data().try_to_vec().expect("f32");
    let difference = relative(&found, &wanted.floats());
    println!("flex imported class_features {difference:.1e}");
    assert!(difference < 1e-5, "{difference:e}");
}

#[test]
fn positions_are_interpolated_as_openclip_does() {
    for grid in [3, 4, 7, 14] {
        let options = ImportOptions { image_size: Some(grid * 8), ..options() };
        let (config, model) = Sources::read().import(&options).expect("it can be imported");
        assert_eq!(config.vision.image_size(), grid * 8);
        let wanted = &open_clips_own().0[&format!("positions_{grid}")];
        let found = model.visual.positional_embedding.val();
        assert_eq!(found.dims().to_vec(), wanted.shape);
        let found: Vec<f32> = found.into_data().try_to_vec().expect("f32");
        let difference = relative(&found, &wanted.floats());
        println!("flex imported positions_{grid} {difference:.1e}");
        assert!(difference < 1e-5, "{grid}: {difference:e}");
        // And the model takes pictures of that size.
        let pixels = Tensor::zeros([1, 3, grid * 8, grid * 8], &Device::flex());
        assert_eq!(model.visual.forward(pixels).dims(), [1, grid * grid, 24]);
    }
}

fn check_refused(change: impl Fn(&mut Sources, &mut ImportOptions), parts: &[&str]) {
    let (mut sources, mut options) = (Sources::read(), options());
    change(&mut sources, &mut options);
    let message = sources.refused(&options);
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

#[test]
fn what_does_not_fit_is_refused_with_its_cure() {
    check_refused(|_, o| o.vision_heads = None, &["24 wide", "64 per head", "--vision-heads"]);
    check_refused(|_, o| o.image_size = Some(44), &["44", "patches are 8 wide", "hint"]);
    check_refused(|_, o| o.vision_heads = Some(5), &["vision.num_attention_heads is 5", "24"]);
    let remove_conv = |s: &mut Sources, _: &mut _| drop(s.vision.0.remove("visual.conv1.weight"));
    check_refused(remove_conv, &["visual.conv1.weight is not in the image checkpoint", "hint"]);
    let remove_norm = |s: &mut Sources, _: &mut _| drop(s.vision.0.remove("visual.ln_post.bias"));
    check_refused(remove_norm, &["missing", "visual.ln_post.bias", "hint"]);
    let remove_head = |s: &mut Sources, _: &mut _| drop(s.language.0.remove("lm_head.weight"));
    check_refused(remove_head, &["missing", "llm.lm_head.weight", "hint"]);
    let extra = |s: &mut Sources, _: &mut _| {
        s.language.0.insert("model.layers.0.self_attn.q_proj.bias".into(), RawTensor::f32(&[1], &[0.0]));
    };
    check_refused(extra, &["not used", "q_proj.bias", "hint"]);
}

fn check_language_config(key: &str, value: Value, parts: &[&str]) {
    check_refused(|s, _| s.language_config[key] = value.clone(), parts);
}

#[test]
fn a_language_model_that_is_no_plain_llama_is_refused() {
    check_language_config("model_type", "mistral".into(), &["model_type = \"mistral\"", "\"llama\"", "hint"]);
    check_language_config("attention_bias", true.into(), &["attention_bias = true", "wanted false"]);
    check_language_config("hidden_act", "gelu".into(), &["hidden_act = \"gelu\"", "silu"]);
    check_language_config("head_dim", 16.into(), &["head_dim = 16", "hidden_size / num_attention_heads"]);
    check_language_config("vocab_size", Value::Null, &["vocab_size = null", "a number"]);
    let rope = serde_json::json!({ "rope_type": "llama3", "rope_theta": 10000.0 });
    check_language_config("rope_parameters", rope, &["rope_parameters", "rope_type = default"]);
    check_language_config("rope_scaling", serde_json::json!({ "factor": 8.0 }), &["rope_scaling", "null"]);
    check_language_config("intermediate_size", 44.into(), &["[40, 24]", "[44, 24]", "hint"]);
}

#[test]
fn an_index_without_its_shard_names_the_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    Sources::read().vision.write_sharded(folder.path(), "v.safetensors");
    fs::remove_file(folder.path().join("v-00002-of-00002.safetensors")).expect("it was written");
    let message =
        read_shards(Path::new(folder.path()), "v.safetensors").expect_err("a shard is gone").to_string();
    assert!(message.contains("v-00002-of-00002.safetensors") && message.contains("hint"), "{message}");
}
