//! Adapters of the language model: they alone learn, and merge into the same model.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use mmgem_core::checkpoint::{Shards, load};
use mmgem_core::model::MmGem;
use mmgem_core::model::mmgem::TokenBatch;
use mmgem_data::files::ModelFolder;
use mmgem_train::{TrainConfig, Trainee, read_checkpoint};
use safetensors::SafeTensors;

use crate::lab::{Lab, finish, metrics, moment_bytes, weights};

const LORA: &str = "lora={ rank = 4, alpha = 8, projections = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'down_proj'] }";

fn run(lab: &Lab, out: &str, set: &[&str]) -> TrainConfig {
    let config = lab.config(out, &[&["model={ from = 'LAB/start' }"][..], set].concat());
    finish(&config, false);
    config
}

/// Names and bytes of the tensors of the last checkpoint.
fn trained(config: &TrainConfig) -> BTreeMap<String, Vec<u8>> {
    let path = config.out.join("checkpoints/step-00000006/trainee.safetensors");
    let bytes = fs::read(path).expect("a checkpoint");
    let tensors = SafeTensors::deserialize(&bytes).expect("a whole file").tensors();
    tensors.into_iter().map(|(name, view)| (name, view.data().to_vec())).collect()
}

#[test]
fn only_adapters_of_the_language_model_learn() {
    let lab = Lab::new();
    let config = run(&lab, "run", &[LORA]);
    let after = trained(&config);
    let (adapters, others): (Vec<&String>, Vec<&String>) =
        after.keys().partition(|name| name.contains(".lora."));
    // Five matrices in one block, each with two factors.
    assert_eq!(adapters.len(), 10, "{adapters:?}");
    assert!(adapters.contains(&&"llm.model.layers.0.self_attn.q_proj.weight.lora.a".to_owned()));
    let start = weights(&lab.path("start"));
    for name in others.iter().filter(|name| name.starts_with("llm.")) {
        let bytes: Vec<u8> = start[*name].iter().flat_map(|value| value.to_le_bytes()).collect();
        assert!(after[*name] == bytes, "{name} has moved");
    }
    // B begins as 0.
    for name in adapters.iter().filter(|name| name.ends_with(".b")) {
        assert!(after[*name].iter().any(|byte| *byte != 0), "{name} has not moved");
    }
    let bytes = moment_bytes(&config, 6);
    let moments = SafeTensors::deserialize(&bytes).expect("a whole file");
    let of_llm = moments.names().into_iter().filter(|name| name.starts_with("moment_1.llm."));
    assert_eq!(of_llm.filter(|name| name.contains(".lora.")).count(), 10);
    assert!(!moments.names().iter().any(|name| name.contains("llm.") && !name.contains(".lora.")));
    // Adapters that are 0 change nothing, so the first loss is that of a frozen language model.
    let frozen = run(&lab, "frozen", &["freeze_llm=true"]);
    let first = |config: &TrainConfig| metrics(config)[0]["loss"].as_f64().expect("a loss");
    assert!((first(&config) - first(&frozen)).abs() < 1e-5 * first(&frozen));
}

/// Logits of each token of some texts after `[CAP]`.
fn logits(model: &MmGem, texts: &[Vec<u32>]) -> Vec<f32> {
    let tokens = TokenBatch::new(texts, &Device::flex());
    let [width] = model.cap_token.val().dims();
    let prefix = model.cap_token.val().reshape([1, 1, width]).expand([texts.len(), 1, width]);
    let hidden = model.caption_hidden(prefix, &tokens);
    let [batch, seq, width] = hidden.dims();
    let logits: Tensor<2> = model.llm.logits(hidden.reshape([batch * seq, width]));
    logits.into_data().try_to_vec().expect("f32")
}

#[test]
fn merged_adapters_give_the_same_logits() {
    let lab = Lab::new();
    for (out, set) in [("plain", vec![LORA]), ("averaged", vec![LORA, "optim.ema=0.5"])] {
        let config = run(&lab, out, &set);
        let folder = config.out.join("checkpoints/step-00000006");
        let device = Device::flex();
        let read = |folder: &Path| ModelFolder::read(folder, &device).expect("a model");
        let start = read(&lab.path("start"));
        let bytes = fs::read(folder.join("trainee.safetensors")).expect("a checkpoint");
        let shards = Shards::new(&[("trainee.safetensors", &bytes)]).expect("whole");
        let with = device.clone().autodiff();
        let model = ModelFolder::read(&lab.path("start"), &with).expect("a model").model;
        let trainee = Trainee::new(model, &start.config, &config, &with);
        let adapted = load(trainee, &shards).expect("it fits").model.valid();
        let raw = out == "averaged";
        let merged = read_checkpoint(&folder, raw, &device).expect("readable").expect("one");
        let finished = read(&config.out.join("model"));

        let texts = [vec![5, 9, 300, 41], vec![7, 7, 12]];
        let [adapted, merged, finished, start] =
            [&adapted, &merged.model, &finished.model, &start.model]
                .map(|model| logits(model, &texts));
        let far =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far(&adapted, &merged) < 1e-5, "{}", far(&adapted, &merged));
        assert!(far(&adapted, &start) > 1e-3, "the adapters do something");
        // The finished model has the averages merged.
        match raw {
            false => assert!(far(&finished, &merged) == 0.0),
            true => assert!(far(&finished, &merged) > 1e-4),
        }
    }
}
