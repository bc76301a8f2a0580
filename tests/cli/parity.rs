//! `mmgem verify parity`: the table, and the report of a wrong value.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::{Desk, text};

fn parity_folder() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("parity").display().to_string()
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("writable");
    for entry in fs::read_dir(from).expect("it is there") {
        let path = entry.expect("listed").path();
        fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("writable");
    }
}

fn stage<'a>(column: &'a Value, name: &str) -> &'a Value {
    let stages = column["stages"].as_array().expect("a list");
    stages.iter().find(|stage| stage["name"] == name).unwrap_or_else(|| panic!("{name} is missing"))
}

#[test]
fn every_golden_value_is_held_against_every_kind_of_weights() {
    let desk = Desk::new();
    let table = desk.json(&format!("verify parity {} --device cpu", parity_folder()));
    let n_cases = fs::read_dir(parity_folder())
        .expect("the folder is there")
        .filter(|entry| entry.as_ref().expect("listed").path().join("case.json").is_file())
        .count();
    assert_eq!(table["cases"].as_array().map(Vec::len), Some(n_cases));
    let columns = table["columns"].as_array().expect("a list");
    let weights: Vec<&Value> = columns.iter().map(|column| &column["weights"]).collect();
    assert_eq!(weights, ["f32", "f16", "q8", "q4"]);
    let of = |column: usize, name: &str| {
        stage(&columns[column], name)["relative"].as_f64().expect("a number")
    };
    assert!(of(0, "image_embed") <= 1e-5 && of(0, "grad.h1.weight") <= 1e-4);
    // Fewer bits give larger differences, so the columns are of different weights.
    let errors: Vec<f64> = (0..4).map(|column| of(column, "text_embed")).collect();
    assert!(errors.is_sorted() && errors[1] > 10.0 * errors[0], "{errors:?}");
    let captions = stage(&columns[0], "region_caption_ids");
    assert_eq!(captions["tokens_same"], captions["tokens"]);
}

#[test]
fn a_gpu_gives_every_golden_value_and_errs_with_narrow_weights_as_the_cpu_does() {
    let desk = Desk::new();
    let adapters = desk.json("info --devices")["wgpu"].clone();
    let Some(adapter) = adapters.get(0) else {
        eprintln!("SKIPPED: no wgpu adapter");
        return;
    };
    if adapter["shader_f16"] != true {
        eprintln!(
            "SKIPPED: f16 weights on a GPU: this one has no shader-f16 and converts them to f32"
        );
    }
    // The command fails if an f32 value differs from its golden value.
    let table =
        |device: &str| desk.json(&format!("verify parity {} --device {device}", parity_folder()));
    let (on_cpu, on_gpu) = (table("cpu"), table("wgpu:0"));
    assert_eq!(on_gpu["cases"], on_cpu["cases"]);
    for (column, weights) in ["f32", "f16", "q8", "q4"].into_iter().enumerate().skip(1) {
        for name in ["image_embed", "text_embed", "region_embed", "caption_first_logits"] {
            let [cpu, gpu] = [&on_cpu, &on_gpu].map(|table| {
                stage(&table["columns"][column], name)["relative"].as_f64().expect("a number")
            });
            // The same weights have the same error. With packed weights, only the CPU rounds
            // activations.
            let allowed = if weights == "f16" { 1e-5 } else { cpu };
            assert!(
                (gpu - cpu).abs() <= allowed,
                "{weights} {name}: {gpu:.1e}, on the CPU {cpu:.1e}"
            );
        }
    }
}

#[test]
fn a_value_that_is_not_the_references_is_named() {
    let desk = Desk::new();
    let cases = Path::new(&parity_folder()).to_owned();
    copy_folder(&cases.join("images"), &desk.path("cases/images"));
    copy_folder(&cases.join("tiny"), &desk.path("cases/tiny"));
    let config = fs::read_to_string(desk.path("cases/tiny/config.json")).expect("it was copied");
    let mut config: Value = serde_json::from_str(&config).expect("JSON");
    config["llm"]["rms_norm_eps"] = json!(1e-3);
    desk.write("cases/tiny/config.json", config.to_string().as_bytes());
    let output = desk.run("verify parity cases --device cpu --weights f32 -q");
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("f32: text_embed of tiny: ") && !stderr.contains("feature_map"),
        "{stderr}"
    );
    assert!(stdout.starts_with("| 1 case(s) against the reference | cpu ("), "{stdout}");
}

#[test]
fn bf16_is_what_training_computes_and_is_coarser_than_f32() {
    let desk = Desk::new();
    let command = "--case tiny --weights f32,bf16 --device cpu";
    let table = desk.json(&format!("verify parity {} {command}", parity_folder()));
    let [exact, coarse] = [0, 1].map(|idx| &table["columns"][idx]);
    assert!(coarse["stages"].as_array().expect("a list").iter().all(|stage| {
        let name = stage["name"].as_str().expect("a name");
        name.starts_with("loss") || name.starts_with("grad.")
    }));
    for name in ["loss", "grad.h1.weight"] {
        let [exact, coarse] = [exact, coarse]
            .map(|column| stage(column, name)["relative"].as_f64().expect("a number"));
        assert!(exact < 1e-4 && coarse > 10.0 * exact && coarse < 0.1, "{name}: {exact} {coarse}");
    }
}

#[test]
fn a_folder_that_is_not_a_case_is_an_error() {
    let desk = Desk::new();
    desk.fails("verify parity nowhere --device cpu", 1, &["nowhere", "is the path right?"]);
    desk.fails("verify parity . --device cpu", 1, &["wanted folders with a case.json"]);
    let folder = parity_folder();
    desk.fails(
        &format!("verify parity {folder} --case nothing --device cpu"),
        1,
        &["found no case \"nothing\"", "tiny"],
    );
    desk.fails(
        &format!("verify parity {folder} --weights q2"),
        2,
        &["q2", "f32, bf16, f16, q8, q4"],
    );
}
