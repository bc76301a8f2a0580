//! Averaged weights: exact, used by evaluation and in the finished model, and left out on request.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::Device;
use mmgem_core::checkpoint::Dtype;
use mmgem_train::{TrainConfig, read_checkpoint};
use serde_json::Value;

use crate::lab::{Lab, finish, metrics, weights};

const DECAY: f32 = 0.75;

fn run(lab: &Lab, out: &str, set: &[&str]) -> TrainConfig {
    let all = ["model={ from = 'LAB/start' }", "checkpoint={ every = 1, keep = 9 }"];
    let config = lab.config(out, &[&all[..], set].concat());
    finish(&config, false);
    config
}

/// The tensors of a checkpoint, written as a model folder.
fn exported(config: &TrainConfig, step: usize, raw: bool) -> BTreeMap<String, Vec<f32>> {
    let folder = config.out.join(format!("checkpoints/step-{step:08}"));
    let model = read_checkpoint(&folder, raw, &Device::flex()).expect("a checkpoint");
    let out = config.out.join("exported");
    model.expect("a checkpoint").write(&out, Dtype::F32).expect("writable");
    weights(&out)
}

fn largest_difference(a: &BTreeMap<String, Vec<f32>>, b: &BTreeMap<String, Vec<f32>>) -> f32 {
    assert!(a.keys().eq(b.keys()));
    let pairs = a.iter().flat_map(|(name, values)| values.iter().zip(&b[name]));
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn the_average_follows_the_weights_from_the_start() {
    let lab = Lab::new();
    let plain = run(&lab, "plain", &["optim.steps=4"]);
    let averaged = run(&lab, "averaged", &["optim.steps=4", "optim.ema=0.75"]);
    // Fresh values of h4, which stage 1 does not train.
    let mut wanted = weights(&lab.path("start"));
    wanted.insert("h4.weight".into(), weights(&plain.out.join("model"))["h4.weight"].clone());
    for step in 1..=4 {
        let raw = exported(&averaged, step, true);
        // The training itself is the same.
        let folder = plain.out.join(format!("checkpoints/step-{step:08}"));
        let same = read_checkpoint(&folder, false, &Device::flex()).expect("a checkpoint");
        let out = lab.path("same");
        same.expect("a checkpoint").write(&out, Dtype::F32).expect("writable");
        assert_eq!(raw, weights(&out));
        for (name, average) in &mut wanted {
            let add = |(average, weight): (&mut f32, &f32)| {
                *average = DECAY * *average + (1.0 - DECAY) * weight;
            };
            average.iter_mut().zip(&raw[name]).for_each(add);
        }
        let found = exported(&averaged, step, false);
        assert!(largest_difference(&found, &wanted) < 1e-6, "step {step}");
        assert!(largest_difference(&found, &raw) > 1e-4, "step {step}");
    }
    assert_eq!(weights(&averaged.out.join("model")), exported(&averaged, 4, false));
}

#[test]
fn the_evaluation_scores_the_averaged_weights() {
    let lab = Lab::new();
    let scores = |out: &str, set: &[&str]| {
        let all = ["eval={ shards = ['LAB/scenes.tar'], every = 6, limit = 8 }"];
        let config = run(&lab, out, &[&all[..], set].concat());
        let lines = metrics(&config);
        lines.iter().find_map(|line| line.get("eval").cloned()).expect("it was evaluated")
    };
    let ranks = |scores: &Value| [scores["mean_recall"].clone(), scores["cider"].clone()];
    let raw = scores("raw", &[]);
    // So slow an average is still the start model, which a rate of nearly 0 keeps.
    let slow = scores("slow", &["optim.ema=0.9999999"]);
    let still = scores("still", &["optim.lr_heads=1e-12", "optim.lr_towers=1e-12"]);
    assert_eq!(ranks(&slow), ranks(&still));
    assert_ne!(ranks(&slow), ranks(&raw));
}

#[test]
fn only_a_checkpoint_with_averages_has_raw_weights_beside() {
    let lab = Lab::new();
    let plain = run(&lab, "plain", &["optim.steps=1"]);
    let folder = plain.out.join("checkpoints/step-00000001");
    let read = |folder: &Path, raw| read_checkpoint(folder, raw, &Device::flex());
    let error = read(&folder, true).expect_err("no averages").to_string();
    assert!(error.contains("no averaged weights") && error.contains("--raw"), "{error}");
    assert!(read(&lab.path("start"), false).expect("readable").is_none());
    let averaged = run(&lab, "averaged", &["optim.steps=1", "optim.ema=0.5"]);
    let folder = averaged.out.join("checkpoints/step-00000001");
    fs::remove_file(folder.join("average.safetensors")).expect("there");
    let error = read(&folder, false).expect_err("missing").to_string();
    assert!(error.contains("average.safetensors"), "{error}");
}
