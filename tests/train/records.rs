//! Files that a run writes beside its weights.

use std::fs;
use std::process::Command;

use burn::tensor::Device;
use mmgem_data::files::ModelFolder;
use mmgem_train::TrainConfig;
use serde_json::Value;

use crate::lab::{COMMIT, Lab, crash_in, failure, finish, metrics};

#[test]
fn a_run_says_what_it_was() {
    let lab = Lab::new();
    let config = lab.config("run", &["optim.steps=2"]);
    let outcome = finish(&config, false);
    let text = |name: &str| {
        fs::read_to_string(config.out.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    };

    let toml = text("train.toml");
    assert!(
        toml.starts_with(&format!("# commit {COMMIT}\n")) && toml.contains("seed = 11"),
        "{toml}"
    );
    let svg = text("loss.svg");
    assert!(svg.starts_with("<svg") && svg.contains("loss_emb") && svg.contains("loss_gen"));

    let folder = outcome.summary.model.expect("a finished run has a model");
    assert_eq!(folder, config.out.join("model"));
    let model = ModelFolder::read(&folder, &Device::flex()).expect("the model can be read");
    assert_eq!(model.config.llm.vocab_size, 512);
    let history: Value = serde_json::from_str(&text("model/training.json")).expect("JSON");
    assert_eq!(history[0]["commit"], COMMIT);
    assert_eq!(history[0]["recipe"], "stage1");
    assert_eq!(history[0]["state"]["step"], 2);
}

#[test]
fn a_model_remembers_what_its_start_had_learned() {
    let lab = Lab::new();
    finish(&lab.config("first", &["optim.steps=2"]), false);
    let from = "model={ from = 'LAB/first/model' }";
    let second = lab.config("second", &["recipe=stage2_caption", from, "optim.steps=1"]);
    finish(&second, false);
    let history = fs::read(second.out.join("model/training.json")).expect("a history");
    let history: Vec<Value> = serde_json::from_slice(&history).expect("JSON");
    let recipes: Vec<&str> = history.iter().filter_map(|run| run["recipe"].as_str()).collect();
    assert_eq!(recipes, ["stage1", "stage2_caption"]);
}

#[test]
fn a_damaged_record_of_the_start_is_an_error_before_the_first_step() {
    let lab = Lab::new();
    let first = lab.config("first", &["optim.steps=1"]);
    finish(&first, false);
    fs::write(first.out.join("model/training.json"), "[{").expect("writable");
    let from = "model={ from = 'LAB/first/model' }";
    let second = lab.config("second", &["recipe=stage2_caption", from, "optim.steps=1"]);
    let error = failure(&second, false);
    for part in ["training.json cannot be read", "wanted a list of runs", "restore the file"] {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
    assert!(!second.out.join("metrics.jsonl").exists());
}

#[test]
fn a_line_of_metrics_has_the_losses_and_what_drives_them() {
    let lab = Lab::new();
    let config = lab.config("run", &["optim.steps=3"]);
    finish(&config, false);
    let lines = metrics(&config);
    assert_eq!(lines.len(), 3);
    for (idx, line) in lines.iter().enumerate() {
        assert_eq!(line["step"], idx + 1);
        let value = |key: &str| line[key].as_f64().unwrap_or_else(|| panic!("{key} in {line}"));
        assert!((value("loss") - value("loss_emb") - value("loss_gen")).abs() < 1e-5, "{line}");
        assert!(value("grad_norm") > 0.0 && value("samples_per_sec") > 0.0, "{line}");
        assert!((0.0..=1.0).contains(&value("data_wait_share")), "{line}");
        assert!((value("tau") - 0.07).abs() < 0.01, "{line}");
    }
    let rate = |key: &str| {
        lines.iter().map(|line| line[key].as_f64().expect("a rate")).collect::<Vec<_>>()
    };
    assert!(
        (rate("lr_heads")[0] - 5e-3).abs() < 1e-9 && (rate("lr_towers")[1] - 1e-2).abs() < 1e-9
    );
}

#[test]
fn held_out_photos_are_looked_at_once_however_often_the_run_breaks_off() {
    let lab = Lab::new();
    let eval = "eval={ shards = ['LAB/scenes.tar'], every = 2, limit = 4 }";
    let config = lab.config("run", &[eval, "checkpoint.every=4"]);
    crash_in(&config, false, 3);
    crash_in(&config, true, 5);
    finish(&config, true);
    let lines = metrics(&config);
    let evals: Vec<&Value> = lines.iter().filter(|line| line.get("eval").is_some()).collect();
    assert_eq!(
        evals.iter().filter_map(|line| line["step"].as_u64()).collect::<Vec<_>>(),
        [2, 4, 6]
    );
    for scores in evals.iter().map(|line| &line["eval"]) {
        let recall = scores["text_to_image_recall_at_5"].as_f64();
        assert_eq!(recall.map(|share| share > 0.999), Some(true), "4 photos, 5 places: {scores}");
        assert!(scores["cider"].is_number() && scores["example"].is_string(), "{scores}");
    }
    assert_eq!(lines.iter().filter(|line| line.get("loss").is_some()).count(), 6);
}

#[test]
fn every_recipe_that_is_shipped_can_be_read() {
    let assets = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets");
    let mut folders = vec![format!("{assets}/recipes"), format!("{assets}/model/recipes")];
    let mut n = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the recipes are there") {
            let path = entry.expect("listed").path();
            if path.is_dir() {
                folders.push(path.display().to_string());
            } else if path.extension().is_some_and(|ext| ext == "toml") {
                let text = fs::read_to_string(&path).expect("a text");
                TrainConfig::from_toml(&text, &[])
                    .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                n += 1;
            }
        }
    }
    assert!(n >= 10, "{n} recipes");
}

#[test]
fn tensorboard_finds_every_number_under_its_name() {
    let lab = Lab::new();
    let eval = "eval={ shards = ['LAB/scenes.tar'], every = 3, limit = 4 }";
    let config = lab.config("run", &["optim.steps=3", eval]);
    crash_in(&config, false, 2);
    finish(&config, true);
    let read = "import sys, json
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
for event in EventFileLoader(sys.argv[1]).Load():
    for value in event.summary.value:
        number = value.tensor.float_val[0] if value.HasField('tensor') else value.simple_value
        print(json.dumps([value.tag, event.step, number]))";
    let events = config.out.join("events.out.tfevents.0.mmgem");
    let output = Command::new("python3").args(["-c", read]).arg(&events).output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else {
        eprintln!("SKIPPED: no tensorboard to read the events with; pip install tensorboard");
        return;
    };
    let text = String::from_utf8(output.stdout).expect("JSON");
    let found: Vec<(String, u64, f64)> =
        text.lines().map(|line| serde_json::from_str(line).expect("three values")).collect();
    for line in metrics(&config) {
        let (prefix, numbers) =
            line.get("eval").map_or(("train/", &line), |scores| ("eval/", scores));
        for (name, value) in numbers.as_object().expect("an object") {
            let (Some(value), false) =
                (value.as_f64(), matches!(name.as_str(), "step" | "unix_time"))
            else {
                continue;
            };
            let tag = format!("{prefix}{name}");
            let step = line["step"].as_u64();
            let at: Vec<f32> = found
                .iter()
                .filter(|f| f.0 == tag && Some(f.1) == step)
                .map(|f| f.2 as f32)
                .collect();
            assert_eq!(at, [value as f32], "{tag} at {step:?}");
        }
    }
}
