//! Opens damaged model folders. The error must say what was found, what was wanted and how to fix
//! it.

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use mmgem_data::files::ModelFolder;
use safetensors::Dtype;
use serde_json::Value;

use crate::fixture::{Case, RawFile, RawTensor, change_config};

fn check(folder: &Path, parts: &[&str]) {
    let message =
        ModelFolder::read(folder, &Device::flex()).expect_err("this folder is spoilt").to_string();
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
    assert!(message.contains(&folder.display().to_string()), "{message:?} does not say where");
}

fn change_weights(folder: &Path, change: impl Fn(&mut RawFile)) {
    let path = folder.join("model.safetensors");
    let mut file = RawFile::read(&path);
    change(&mut file);
    fs::write(path, file.to_bytes()).expect("a temporary folder can be written");
}

fn check_weights(change: impl Fn(&mut RawFile), parts: &[&str]) {
    let copy = Case::read("quick_gelu").copy();
    change_weights(copy.path(), change);
    check(copy.path(), parts);
}

fn check_config(change: impl Fn(&mut Value), parts: &[&str]) {
    let copy = Case::read("quick_gelu").copy();
    change_config(copy.path(), change);
    check(copy.path(), parts);
}

#[test]
fn a_missing_tensor() {
    check_weights(|file| drop(file.0.remove("h2.weight")), &["missing", "h2.weight", "hint"]);
}

#[test]
fn a_tensor_that_nobody_asked_for() {
    let extra =
        |file: &mut RawFile| drop(file.0.insert("h5.weight".into(), RawTensor::f32(&[1], &[1.0])));
    check_weights(extra, &["not used", "h5.weight", "hint"]);
}

#[test]
fn a_tensor_of_another_shape() {
    let narrow = |file: &mut RawFile| {
        drop(file.0.insert("h1.weight".into(), RawTensor::f32(&[20, 2], &[0.5; 40])))
    };
    check_weights(
        narrow,
        &["h1.weight is [20, 2] in the checkpoint but the model wants [20, 24]", "hint"],
    );
}

// A transposed tensor has the same number of values, in Burn's order instead of PyTorch's.
#[test]
fn a_transposed_tensor() {
    let transpose =
        |file: &mut RawFile| file.0.get_mut("h1.weight").expect("it is there").shape.reverse();
    check_weights(transpose, &["h1.weight is [24, 20]", "wants [20, 24]"]);
}

#[test]
fn a_value_that_is_not_finite() {
    for value in [f32::NAN, f32::INFINITY] {
        let spoil = move |file: &mut RawFile| {
            let tensor = file.0.get_mut("h3.bias").expect("it is there");
            tensor.bytes[..4].copy_from_slice(&value.to_le_bytes());
        };
        check_weights(spoil, &["h3.bias holds a value that is not finite", "hint"]);
    }
}

#[test]
fn a_tensor_that_another_program_packed() {
    let quantise = |file: &mut RawFile| {
        let tensor = file.0.get_mut("emb_token").expect("it is there");
        *tensor = RawTensor {
            dtype: Dtype::I8,
            shape: tensor.shape.clone(),
            bytes: vec![1; tensor.bytes.len() / 4],
        };
    };
    check_weights(
        quantise,
        &["emb_token holds whole numbers in layout none, wanted layout mmgem-packed-1", "hint"],
    );
}

#[test]
fn a_file_that_was_cut_short() {
    let copy = Case::read("quick_gelu").copy();
    let path = copy.path().join("model.safetensors");
    let bytes = fs::read(&path).expect("it was copied");
    for len in [bytes.len() - 1, bytes.len() / 2, 100, 7, 0] {
        fs::write(&path, &bytes[..len]).expect("a temporary folder can be written");
        check(copy.path(), &["not a whole safetensors file", "cut short", "model.safetensors"]);
    }
}

#[test]
fn a_shard_that_holds_what_another_holds() {
    let copy = Case::read("quick_gelu").copy();
    let path = copy.path().join("model.safetensors");
    RawFile::read(&path).write_sharded(copy.path(), "model.safetensors");
    fs::rename(path, copy.path().join("model-00002-of-00002.safetensors")).expect("in one folder");
    check(copy.path(), &["is in two shards", "hint", "model-00002-of-00002.safetensors"]);
}

#[test]
fn shards_that_are_whole_are_not_refused() {
    let copy = Case::read("quick_gelu").copy();
    let path = copy.path().join("model.safetensors");
    RawFile::read(&path).write_sharded(copy.path(), "model.safetensors");
    fs::remove_file(path).expect("it was copied");
    let sharded = ModelFolder::read(copy.path(), &Device::flex()).expect("the shards are whole");
    let case = Case::read("quick_gelu");
    assert_eq!(case.forward(&sharded), case.forward(&case.open(&Device::flex())));
}

#[test]
fn a_tokenizer_of_another_vocabulary() {
    let copy = Case::read("quick_gelu").copy();
    let other = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":null,"post_processor":null,"decoder":null,
        "model":{"type":"WordLevel","vocab":{"a":0,"b":1,"c":2},"unk_token":"a"}}"#;
    fs::write(copy.path().join("tokenizer.json"), other)
        .expect("a temporary folder can be written");
    check(
        copy.path(),
        &["tokenizer.json has the ordinary \"c\" as token 2", "special token", "another model"],
    );
    let larger = fs::read_to_string(copy.path().join("tokenizer.json")).expect("it was written");
    let words: String = (3..400).map(|id| format!(",\"w{id}\":{id}")).collect();
    fs::write(
        copy.path().join("tokenizer.json"),
        larger.replace(",\"c\":2", &format!(",\"c\":2{words}")),
    )
    .expect("a temporary folder can be written");
    check(copy.path(), &["tokenizer.json has 400 tokens", "wants 320", "another model"]);
    fs::write(copy.path().join("tokenizer.json"), "{}").expect("a temporary folder can be written");
    check(copy.path(), &["tokenizer.json cannot be read", "hint"]);
}

#[test]
fn an_unknown_or_missing_config_key() {
    check_config(|c| c["vision_token"] = "grid".into(), &["unknown field `vision_token`", "hint"]);
    check_config(|c| c["vision"]["heads"] = 2.into(), &["unknown field `heads`", "hint"]);
    let remove = |c: &mut Value| drop(c.as_object_mut().expect("an object").remove("resize_mode"));
    check_config(remove, &["missing field `resize_mode`", "hint"]);
}

#[test]
fn a_config_that_contradicts_itself_or_the_weights() {
    check_config(|c| c["version"] = 3.into(), &["version 3", "versions 1 and 2"]);
    // Version 2 names the tower and requires all of its switches.
    check_config(|c| c["version"] = 2.into(), &["missing field `model_type`", "hint"]);
    let without_switches = |c: &mut Value| {
        c["version"] = 2.into();
        c["vision"]["model_type"] = "vit".into();
    };
    check_config(without_switches, &["missing field `layer_norm_eps`", "hint"]);
    let resnet = |c: &mut Value| {
        c["version"] = 2.into();
        c["vision"]["model_type"] = "resnet".into();
    };
    check_config(resnet, &["`resnet`", "`vit`", "`efficientnet_lite`"]);
    let scaling = |c: &mut Value| {
        c["llm"]["rope_scaling"] = serde_json::json!({ "rope_type": "linear", "factor": 0.0 })
    };
    check_config(scaling, &["llm.rope_scaling.factor is 0", "above 0"]);
    let yarn = |c: &mut Value| {
        c["llm"]["rope_scaling"] = serde_json::json!({ "rope_type": "yarn", "factor": 2.0 })
    };
    check_config(yarn, &["`yarn`", "`linear`", "`llama3`"]);
    check_config(|c| c["llm"]["head_dim"] = 7.into(), &["heads are 7 wide", "even"]);
    check_config(
        |c| c["vision"]["patch_size"] = 7.into(),
        &["vision.patch_size is 7", "divide", "32"],
    );
    check_config(
        |c| c["vision"]["image_size"] = 48.into(),
        &["positional_embedding", "[17, 24]", "[37, 24]"],
    );
    check_config(|c| c["vision_tokens"] = "all".into(), &["`all`", "`mean`", "`grid`"]);
    check_config(|c| c["llm"]["num_hidden_layers"] = 2.into(), &["missing", "llm.model.layers.1"]);
    check_config(|c| c["llm"]["num_hidden_layers"] = 0.into(), &["not used", "llm.model.layers.0"]);
}

#[test]
fn a_tied_head_that_is_not_the_embedding() {
    let tie = |tied: bool| move |c: &mut Value| c["llm"]["tie_word_embeddings"] = tied.into();
    check_config(tie(true), &["not used", "llm.lm_head.weight"]);
    let copy = Case::read("tied").copy();
    change_config(copy.path(), tie(false));
    check(copy.path(), &["missing", "llm.lm_head.weight"]);
}

#[test]
fn a_tied_head_that_is_the_embedding_is_not_refused() {
    let copy = Case::read("tied").copy();
    change_weights(copy.path(), |file| {
        let embed = file.0["llm.model.embed_tokens.weight"].clone();
        file.0.insert("llm.lm_head.weight".into(), embed);
    });
    ModelFolder::read(copy.path(), &Device::flex()).expect("the same tensor twice is fine");
}

#[test]
fn a_folder_that_holds_no_model() {
    let empty = tempfile::tempdir().expect("a temporary folder");
    check(
        empty.path(),
        &["config.json is missing", "wanted config.json, model.safetensors and tokenizer.json"],
    );
    check(&empty.path().join("nowhere"), &["there is no such folder", "wanted"]);
    let copy = Case::read("quick_gelu").copy();
    fs::remove_file(copy.path().join("model.safetensors")).expect("it was copied");
    check(copy.path(), &["model.safetensors", "wanted"]);
    check(&copy.path().join("config.json"), &["this is a file"]);
}
