//! Agreement with open_clip on random weights; `tests/eval/make.py` has the calls.

use std::fs;
use std::io::Read;
use std::path::PathBuf;

use burn::tensor::{Device, Tensor, TensorData};
use mmgem_core::checkpoint::Shards;
use mmgem_core::readback::read_floats;
use pollster::block_on;
use serde_json::Value;

use super::OpenClip;
use crate::metrics::classification::{class_embed, prompt};

/// Allows for single precision after two blocks, whose weights are far larger than trained ones.
const TOLERANCE: f32 = 2e-5;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/eval").join(name)
}

fn read(name: &str) -> Vec<u8> {
    fs::read(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn merges() -> String {
    let mut text = String::new();
    let bytes = read("bpe_small.txt.gz");
    flate2::read::GzDecoder::new(bytes.as_slice()).read_to_string(&mut text).expect("UTF-8");
    text
}

fn golden(name: &str) -> Value {
    serde_json::from_slice(&read(&format!("{name}/golden.json"))).expect("JSON")
}

fn open(name: &str) -> OpenClip {
    let weights = read(&format!("{name}/open_clip_model.safetensors"));
    let config = String::from_utf8(read(&format!("{name}/open_clip_config.json"))).expect("UTF-8");
    let shards = Shards::new(&[("open_clip_model.safetensors", &weights)]).expect("safetensors");
    OpenClip::open(shards, Some(&config), &merges(), &Device::flex())
        .expect("a checkpoint of open_clip")
}

fn list<T: serde::de::DeserializeOwned>(value: &Value) -> Vec<T> {
    serde_json::from_value(value.clone()).expect("a list of one kind")
}

#[track_caller]
fn check(what: &str, found: &[f32], wanted: &Value) {
    let wanted: Vec<f32> = list(wanted);
    assert_eq!(found.len(), wanted.len(), "{what}");
    let worst = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    eprintln!("{what}: {worst:e}");
    assert!(worst < TOLERANCE, "{what} differs by {worst:e}");
}

fn check_model(name: &str) {
    let (model, golden) = (open(name), golden(name));
    let texts: Vec<String> = list(&golden["texts"]);
    for (idx, text) in texts.iter().enumerate() {
        let wanted: Vec<u32> = list(&golden["token_ids"][idx]);
        assert_eq!(model.tokenizer().encode(text).expect("a text"), wanted, "{text:?}");
        // The reference pads with 0.
        let wanted: Vec<u32> = list(&golden["tokens"][idx]);
        let mut found = model.tokenizer().tokens(text).expect("a text");
        found.resize(wanted.len(), 0);
        assert_eq!(found, wanted, "{text:?}");
    }
    let refs: Vec<&str> = texts.iter().map(String::as_str).collect();
    let embeds = block_on(model.embed_texts(&refs)).expect("the CPU works");
    check(&format!("{name}: texts"), &embeds, &golden["text_embed"]);
    // Batch mates of any length change nothing.
    let alone: Vec<f32> =
        refs.iter().flat_map(|text| block_on(model.embed_texts(&[text])).expect("one")).collect();
    check(&format!("{name}: texts one by one"), &alone, &golden["text_embed"]);

    let side = model.preprocess().image_size;
    let pixels: Vec<f32> = list(&golden["pixels"]);
    let n = pixels.len() / (3 * side * side);
    let pixels = Tensor::from_data(TensorData::new(pixels, [n, 3, side, side]), &Device::flex());
    let found = block_on(read_floats(model.towers.image_embed(pixels))).expect("the CPU works");
    check(&format!("{name}: images"), &found, &golden["image_embed"]);

    let templates: Vec<String> = list(&golden["templates"]);
    let mut found = Vec::new();
    for class in list::<String>(&golden["classes"]) {
        let prompts: Vec<String> =
            templates.iter().map(|template| prompt(template, &class)).collect();
        let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
        let embeds = block_on(model.embed_texts(&prompts)).expect("the CPU works");
        found.extend(class_embed(&embeds, model.embed_dim()));
    }
    check(&format!("{name}: classes"), &found, &golden["class_embed"]);
}

#[test]
fn both_towers_of_clip_and_its_tokenizer_are_open_clips() {
    check_model("clip");
}

#[test]
fn the_contrastive_part_of_coca_is_open_clips() {
    check_model("coca");
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let weights = read("clip/open_clip_model.safetensors");
    let shards = Shards::new(&[("open_clip_model.safetensors", &weights)]).expect("safetensors");
    let other = merges().lines().chain(["z q", "q z"]).collect::<Vec<_>>().join("\n");
    let config = String::from_utf8(read("clip/open_clip_config.json")).expect("UTF-8");
    let error = OpenClip::open(shards, Some(&config), &other, &Device::flex())
        .expect_err("two tokens too many");
    assert!(error.to_string().contains("is it another model's?"), "{error}");
}
