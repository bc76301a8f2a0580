//! Imports files of OpenCLIP and Hugging Face, and compares the model with the reference's import.

use std::fs;

use burn::tensor::{Device, Tensor, TensorData};
use mmgem_core::checkpoint::import::{Import, ImportOptions, import};
use mmgem_core::checkpoint::towers::{TowerConfigs, TowerOptions};
use mmgem_core::checkpoint::{CheckpointError, Dtype as WrittenDtype, Shards, named_tensors};
use mmgem_core::config::{CaptionOrder, HiddenAct, MmGemConfig, VisionTokens};
use mmgem_core::image::ResizeMode;
use mmgem_core::model::MmGem;
use mmgem_data::files::{LANGUAGE_WEIGHTS, ModelFolder, Published, VISION_WEIGHTS, write_import};
use safetensors::Dtype;
use serde_json::Value;

use crate::fixture::{Case, RawFile, RawTensor, read, relative};

pub fn options() -> ImportOptions {
    ImportOptions {
        tower: TowerOptions {
            num_attention_heads: Some(2),
            hidden_act: Some(HiddenAct::Gelu),
            ..TowerOptions::default()
        },
        resize_mode: ResizeMode::Squash,
        embed_dim: Some(20),
        vision_tokens: VisionTokens::Mean,
        caption_order: CaptionOrder::ImageFirst,
        seed: 0,
    }
}

/// The two checkpoints of the case `imported`. Tests change them before the import.
pub struct Sources {
    pub vision: RawFile,
    pub configs: TowerConfigs,
    pub language: RawFile,
    pub language_config: Value,
}

impl Sources {
    pub fn read() -> Self {
        let folder = Case::read("imported").folder.clone();
        Self {
            vision: RawFile::read(&folder.join("open_clip.safetensors")),
            configs: TowerConfigs::default(),
            language: RawFile::read(&folder.join("llm/model.safetensors")),
            language_config: serde_json::from_slice(&read(&folder.join("llm/config.json")))
                .expect("JSON"),
        }
    }

    /// Calls `act` on the import, which borrows the bytes of the two files.
    fn with<R>(
        &self,
        options: &ImportOptions,
        act: impl FnOnce(Import) -> Result<R, CheckpointError>,
    ) -> Result<R, CheckpointError> {
        let (vision, language) = (self.vision.to_bytes(), self.language.to_bytes());
        let vision = Shards::new(&[("open_clip.safetensors", &vision)])?;
        let language = Shards::new(&[("model.safetensors", &language)])?;
        act(import(vision, &self.configs, language, &self.language_config.to_string(), options)?)
    }

    fn import(&self, options: &ImportOptions) -> Result<(MmGemConfig, MmGem), CheckpointError> {
        self.with(options, |import| Ok((import.config.clone(), import.model(&Device::flex())?)))
    }

    /// Error message of an import that must fail.
    pub fn refused(&self, options: &ImportOptions) -> String {
        self.import(options).expect_err("this cannot be imported").to_string()
    }
}

/// Checks that every tensor of both encoders equals `wanted` bit for bit.
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
    // An import creates 64 prompts of its own.
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
            *tensor = RawTensor::f32(
                &tensor.shape,
                &tensor.floats().iter().map(round).collect::<Vec<_>>(),
            );
        }
        check_same(&model, &wanted);
    }
}

#[test]
fn a_checkpoint_in_shards_is_the_same() {
    let sources = Sources::read();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [vision, language] = ["vision", "language"].map(|name| folder.path().join(name));
    for (folder, file, name) in [
        (&vision, &sources.vision, "open_clip_model.safetensors"),
        (&language, &sources.language, "model.safetensors"),
    ] {
        fs::create_dir(folder).expect("writable");
        file.write_sharded(folder, name);
    }
    let index = vision.join("open_clip_model.safetensors.index.json");
    for vision in [&vision, &index] {
        let vision = Published::open(vision, VISION_WEIGHTS).expect("the shards are there");
        let language = Published::open(&language, LANGUAGE_WEIGHTS).expect("the shards are there");
        let shards =
            |files: &Published| files.shards().expect("the shards are whole").names().count();
        assert_eq!(
            (shards(&vision), shards(&language)),
            (sources.vision.0.len(), sources.language.0.len())
        );
        let (vision, language) =
            (vision.shards().expect("whole"), language.shards().expect("whole"));
        let config = sources.language_config.to_string();
        let imported = import(vision, &TowerConfigs::default(), language, &config, &options());
        let model = imported
            .and_then(|imported| imported.model(&Device::flex()))
            .expect("it can be imported");
        check_same(&model, &reference_model());
    }
}

// `write_import` writes one tensor at a time; the result must equal the model built in memory.
#[test]
fn the_written_model_is_the_imported_one() {
    let sources = Sources::read();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let tokenizer = read(&Case::read("imported").folder.join("tokenizer.json"));
    let written = |import: Import| {
        write_import(&import, &[], &tokenizer, folder.path(), WrittenDtype::F32).expect("writable");
        Ok((import.config.clone(), import.model(&Device::flex())?))
    };
    let (config, model) = sources.with(&options(), written).expect("it can be imported");
    let found = ModelFolder::read(folder.path(), &Device::flex()).expect("a model folder");
    assert_eq!(found.config, config);
    assert_eq!(named_tensors(&found.model), named_tensors(&model));
    check_same(&found.model, &reference_model());
}

#[test]
fn a_tensor_that_cannot_be_written_leaves_no_model() {
    let mut sources = Sources::read();
    let norm = sources.language.0.get_mut("model.norm.weight").expect("it is there");
    norm.bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let message = sources.with(&options(), |import| {
        Ok(write_import(&import, &[], b"{}", folder.path(), WrittenDtype::F16)
            .expect_err("NaN")
            .to_string())
    });
    let message = message.expect("names and sizes are right");
    assert!(
        message.contains("llm.model.norm.weight holds a value that is not finite"),
        "{message}"
    );
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
}

#[test]
fn the_text_tower_of_openclip_and_old_buffers_are_left_out() {
    let mut sources = Sources::read();
    let one = RawTensor::f32(&[1], &[4.6]);
    for name in
        ["logit_scale", "text_projection", "ln_final.weight", "transformer.resblocks.0.ln_1.weight"]
    {
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

/// Class features and interpolated positions, computed by open_clip.
fn open_clips_own() -> RawFile {
    RawFile::read(&Case::read("imported").folder.join("open_clip_golden.safetensors"))
}

#[test]
fn class_features_are_openclips_own_embedding() {
    let case = Case::read("imported");
    let folder = case.open(&Device::flex());
    let pixels = case.input(&folder).pixels;
    let pixels = TensorData::new(pixels.concat(), [pixels.len(), 3, 32, 32]);
    let features = folder
        .model
        .visual
        .as_vit()
        .expect("a ViT")
        .class_features(Tensor::from_data(pixels, &Device::flex()))
        .expect("a class token");
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
        let mut options = options();
        options.tower.image_size = Some(grid * 8);
        let (config, model) = Sources::read().import(&options).expect("it can be imported");
        assert_eq!(config.vision.image_size(), grid * 8);
        let wanted = &open_clips_own().0[&format!("positions_{grid}")];
        let found = model.visual.as_vit().expect("a ViT").positional_embedding.val();
        assert_eq!(found.dims().to_vec(), wanted.shape);
        let found: Vec<f32> = found.into_data().try_to_vec().expect("f32");
        let difference = relative(&found, &wanted.floats());
        println!("flex imported positions_{grid} {difference:.1e}");
        assert!(difference < 1e-5, "{grid}: {difference:e}");
        // The imported model accepts images of that size.
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
fn a_mismatch_is_refused_with_a_hint() {
    check_refused(
        |_, o| o.tower.num_attention_heads = None,
        &["24 wide", "64 per head", "--vision-heads"],
    );
    check_refused(|_, o| o.tower.image_size = Some(44), &["44", "patches are 8 wide", "hint"]);
    check_refused(
        |_, o| o.tower.num_attention_heads = Some(5),
        &["vision.num_attention_heads is 5", "24"],
    );
    let remove_conv = |s: &mut Sources, _: &mut _| drop(s.vision.0.remove("visual.conv1.weight"));
    check_refused(remove_conv, &["not those of an image encoder", "hint", "OpenCLIP", "timm"]);
    let remove_norm = |s: &mut Sources, _: &mut _| drop(s.vision.0.remove("visual.ln_post.bias"));
    check_refused(remove_norm, &["missing", "visual.ln_post.bias", "hint"]);
    let remove_head = |s: &mut Sources, _: &mut _| drop(s.language.0.remove("lm_head.weight"));
    check_refused(
        remove_head,
        &["no lm_head.weight", "tie_word_embeddings = false", "LlamaForCausalLM"],
    );
    let extra = |s: &mut Sources, _: &mut _| {
        s.language
            .0
            .insert("model.layers.0.self_attn.q_proj.bias".into(), RawTensor::f32(&[1], &[0.0]));
    };
    check_refused(extra, &["not used", "q_proj.bias", "hint"]);
}

fn check_language_config(key: &str, value: Value, parts: &[&str]) {
    check_refused(|s, _| s.language_config[key] = value.clone(), parts);
}

#[test]
fn a_language_model_that_is_not_a_plain_llama_is_refused() {
    check_language_config(
        "model_type",
        "mistral".into(),
        &["model_type = \"mistral\"", "\"llama\"", "hint"],
    );
    check_language_config(
        "attention_bias",
        "yes".into(),
        &["attention_bias = \"yes\"", "true or false"],
    );
    check_language_config("hidden_act", "gelu".into(), &["hidden_act = \"gelu\"", "silu"]);
    check_language_config("vocab_size", Value::Null, &["vocab_size = null", "a number"]);
    check_language_config("rms_norm_eps", "1e-5".into(), &["rms_norm_eps = \"1e-5\"", "a number"]);
    for kind in ["yarn", "dynamic", "longrope"] {
        let rope = serde_json::json!({ "rope_type": kind, "rope_theta": 10000.0, "factor": 8.0 });
        check_language_config("rope_parameters", rope, &["rope_parameters", kind, "llama3"]);
    }
    let rope = serde_json::json!({ "rope_type": "llama3", "factor": 8.0 });
    check_language_config("rope_scaling", rope, &["rope_scaling", "llama3 with their numbers"]);
    check_language_config(
        "rope_scaling",
        serde_json::json!({ "factor": 8.0 }),
        &["rope_scaling", "linear"],
    );
    let partial = serde_json::json!({ "rope_type": "default", "partial_rotary_factor": 0.5 });
    check_language_config("rope_parameters", partial, &["partial_rotary_factor = 1"]);
    check_language_config("intermediate_size", 44.into(), &["[40, 24]", "[44, 24]", "hint"]);
    // Settings of the config that contradict the weights.
    check_language_config("head_dim", 16.into(), &["q_proj", "[24, 24]", "[64, 24]", "hint"]);
    check_language_config(
        "attention_bias",
        true.into(),
        &["missing", "self_attn.q_proj.bias", "hint"],
    );
    check_language_config("mlp_bias", true.into(), &["missing", "mlp.gate_proj.bias", "hint"]);
    let no_embedding =
        |s: &mut Sources, _: &mut _| drop(s.language.0.remove("model.embed_tokens.weight"));
    check_refused(no_embedding, &["0 tensors named embed_tokens.weight", "LlamaModel"]);
}

#[test]
fn an_index_without_its_shard_names_the_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    Sources::read().vision.write_sharded(folder.path(), "model.safetensors");
    fs::remove_file(folder.path().join("model-00002-of-00002.safetensors"))
        .expect("it was written");
    let message =
        Published::open(folder.path(), VISION_WEIGHTS).expect_err("a shard is gone").to_string();
    assert!(
        message.contains("model-00002-of-00002.safetensors") && message.contains("hint"),
        "{message}"
    );
}
