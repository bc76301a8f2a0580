//! Checks the Invariants of `ARCHITECTURE.md`: absent dependencies and absent words.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is a member of the workspace")
}

/// Names of the packages that `mmgem-core` links with these features, at most `depth` steps away.
///
/// `--package` makes cargo resolve features for this package alone, not for the whole workspace.
fn dependencies_of_core(features: &str, depth: usize) -> BTreeSet<String> {
    let depth = depth.to_string();
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--package", "mmgem-core", "--edges", "normal"])
        .args([
            "--prefix",
            "none",
            "--no-default-features",
            "--features",
            features,
            "--depth",
            &depth,
        ])
        .current_dir(workspace())
        .output()
        .expect("cargo can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).expect("package names are ASCII");
    names.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

fn check_absent(features: &str, depth: usize, unwanted: &[&str]) {
    let found = dependencies_of_core(features, depth);
    assert!(found.contains("burn"), "the tree was read: {found:?}");
    let unwanted: Vec<_> = unwanted.iter().filter(|name| found.contains(**name)).collect();
    assert!(unwanted.is_empty(), "mmgem-core with features {features:?} depends on {unwanted:?}");
}

const BACKENDS: [&str; 17] = [
    "burn-flex",
    "burn-wgpu",
    "burn-cuda",
    "burn-rocm",
    "burn-cpu",
    "burn-ndarray",
    "burn-tch",
    "burn-candle",
    "burn-remote",
    "burn-router",
    "burn-cubecl",
    "cubecl-wgpu",
    "cubecl-cuda",
    "cubecl-hip",
    "cubecl-cpu",
    "wgpu",
    "cudarc",
];
const SHELLS: [&str; 10] = [
    "clap",
    "eframe",
    "egui",
    "winit",
    "indicatif",
    "anyhow",
    "tokio",
    "ureq",
    "wasm-bindgen",
    "tracing-subscriber",
];

#[test]
fn core_knows_no_backend() {
    check_absent("", 99, &BACKENDS);
    check_absent("train,scenes,files", 99, &BACKENDS);
}

#[test]
fn core_knows_no_window_and_no_command_line() {
    check_absent("", 99, &SHELLS);
    check_absent("train,scenes,files", 99, &SHELLS);
}

// The first check stops one step away, because Burn itself depends on a `toml`.
#[test]
fn core_without_features_neither_packs_nor_plots_nor_draws() {
    check_absent("", 1, &["tar", "plotters", "toml", "flate2", "tiny-skia"]);
    check_absent("", 99, &["tar", "plotters", "tiny-skia", "burn-autodiff", "burn-optim"]);
}

/// Sources in a folder of `core/src`: the path below `core/src`, and the text before the unit tests.
fn sources(folder: &str) -> Vec<(String, String)> {
    let root = workspace().join("core/src");
    let mut folders = vec![root.join(folder)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the workspace") {
            let path: PathBuf = entry.expect("a folder can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let name = path
                    .strip_prefix(&root)
                    .expect("it is below `core/src`")
                    .to_string_lossy()
                    .replace('\\', "/");
                let text = fs::read_to_string(&path).expect("a source is text");
                let text = text.split("mod tests {").next().expect("a first part").to_owned();
                files.push((name, text));
            }
        }
    }
    files
}

fn check_only_in(words: &[&str], folder: &str, allowed: impl Fn(&str) -> bool) {
    let sources = sources(folder);
    assert!(!sources.is_empty());
    for (file, text) in sources.iter().filter(|(file, _)| !allowed(file)) {
        for (i, line) in text.lines().enumerate() {
            let found: Vec<_> = words.iter().filter(|word| line.contains(**word)).collect();
            assert!(found.is_empty(), "core/src/{file}:{} has {found:?}:\n{line}", i + 1);
        }
    }
}

/// True for files that are compiled only for unit tests.
fn is_test(file: &str) -> bool {
    file.ends_with("tests.rs")
}

#[test]
fn only_names_towers_and_llama_know_foreign_tensor_names() {
    let words = [
        "resblocks",
        "model.layers",
        "in_proj_weight",
        "embed_tokens.weight\"",
        "patch_embed.proj",
        "position_embedding.weight",
        "conv_stem",
        "running_var",
    ];
    check_only_in(&words, "", |file| {
        let is_one = ["checkpoint/names.rs", "checkpoint/llama.rs"].contains(&file);
        is_one || file.starts_with("checkpoint/towers/") || is_test(file)
    });
}

#[test]
fn the_graph_never_reads_a_tensor_back() {
    let words =
        ["into_data", "into_scalar", "to_data", "try_to_vec", "read_floats", "read_choices"];
    check_only_in(&words, "model", |_| false);
    check_only_in(&words, "", |file| file != "loss.rs");
}

#[test]
fn only_files_data_and_train_touch_disk_threads_and_clock() {
    let words = [
        "std::fs",
        "fs::",
        "std::thread",
        "std::time::Instant",
        "SystemTime",
        "std::env",
        "std::process",
        "rayon::",
    ];
    let native = |file: &str| {
        // The features `threads` and `cpu` enable quant/product.rs and cpu/.
        ["files.rs", "quant/product.rs"].contains(&file)
            || ["data/", "files/", "train/", "cpu/"].iter().any(|folder| file.starts_with(folder))
    };
    check_only_in(&words, "", |file| native(file) || is_test(file));
}
