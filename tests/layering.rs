//! What must not be where: the Invariants of `ARCHITECTURE.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is a member of the workspace")
}

/// Names of the packages that a package links with these features, at most `depth` steps away.
///
/// With `-p`, cargo resolves features for this package alone, not for the whole workspace.
fn dependencies(package: &str, features: &str, depth: usize) -> BTreeSet<String> {
    let depth = depth.to_string();
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--package", package, "--edges", "normal"])
        .args(["--prefix", "none", "--no-default-features", "--features", features])
        .args(["--depth", &depth])
        .current_dir(workspace())
        .output()
        .expect("cargo can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).expect("package names are ASCII");
    names.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[track_caller]
fn check_absent(package: &str, features: &str, depth: usize, unwanted: &[&str]) {
    let found = dependencies(package, features, depth);
    assert!(found.contains(package), "the tree was read: {found:?}");
    let unwanted: Vec<_> = unwanted.iter().filter(|name| found.contains(**name)).collect();
    assert!(unwanted.is_empty(), "{package} with features {features:?} depends on {unwanted:?}");
}

/// The arrows of ARCHITECTURE.md: its lines `package -> packages` below "Dependencies".
fn arrows_of_the_map() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(workspace().join("ARCHITECTURE.md")).expect("it is there");
    let arrow = |line: &str| {
        let (package, targets) = line.split_once(" ->")?;
        let is_ours = package.trim().starts_with("mmgem");
        let targets = targets.split_whitespace().filter(|name| name.starts_with("mmgem"));
        is_ours.then(|| (package.trim().to_owned(), targets.map(str::to_owned).collect()))
    };
    text.lines().filter_map(arrow).collect()
}

/// The arrows of the workspace: each package's own dependencies, optional ones included.
fn arrows_of_the_workspace() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--locked", "--no-deps", "--format-version", "1"])
        .current_dir(workspace())
        .output()
        .expect("cargo can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let packages = metadata["packages"].as_array().expect("a list");
    let name = |value: &Value| value["name"].as_str().expect("a name").to_owned();
    let arrows = packages.iter().map(|package| {
        let dependencies = package["dependencies"].as_array().expect("a list").iter();
        let is_built_in = |dependency: &&Value| dependency["kind"].is_null();
        let ours = dependencies.filter(is_built_in).map(name);
        (name(package), ours.filter(|name| name.starts_with("mmgem")).collect())
    });
    arrows.collect()
}

#[test]
fn the_arrows_are_those_of_the_map() {
    let mut found = arrows_of_the_workspace();
    // The tests may see all.
    found.remove("mmgem-tests");
    assert_eq!(found, arrows_of_the_map(), "the left is what the manifests say");
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

/// What the native program and the page build core with, `cpu` and `gpu` aside.
const OPTIONS: &str = "autodiff,heic";

#[test]
fn core_knows_no_backend() {
    check_absent("mmgem-core", "", 99, &BACKENDS);
    check_absent("mmgem-core", OPTIONS, 99, &BACKENDS);
}

#[test]
fn the_cpu_brings_one_backend_and_the_gpu_no_vendors() {
    let others = |own: &[&str]| -> Vec<&str> {
        BACKENDS.into_iter().filter(|name| !own.contains(name)).collect()
    };
    check_absent("mmgem-core", "cpu,autodiff,heic", 99, &others(&["burn-flex"]));
    let vendors = ["burn-cuda", "burn-rocm", "burn-cpu", "burn-flex", "cubecl-cuda", "cubecl-hip"];
    check_absent("mmgem-core", "gpu,autodiff,heic", 99, &vendors);
}

#[test]
fn no_library_knows_a_window_or_a_command_line() {
    check_absent("mmgem-core", "", 99, &SHELLS);
    check_absent("mmgem-core", "cpu,gpu,autodiff,heic", 99, &SHELLS);
    for package in [
        "mmgem-collective",
        "mmgem-data",
        "mmgem-eval",
        "mmgem-library",
        "mmgem-scenes",
        "mmgem-train",
    ] {
        check_absent(package, "", 99, &SHELLS);
    }
}

// One step away, because Burn itself brings a `toml`.
#[test]
fn core_neither_packs_nor_plots_nor_draws() {
    let unwanted =
        ["tar", "plotters", "toml", "flate2", "tiny-skia", "glob", "memmap2", "tempfile"];
    check_absent("mmgem-core", "cpu,gpu,autodiff,heic", 1, &unwanted);
    check_absent("mmgem-core", "", 99, &["tar", "plotters", "burn-autodiff", "burn-optim"]);
}

/// Files of a folder below `core/src`, as paths from there, with their text up to the unit tests.
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
                    .expect("it is below")
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

/// Files that are compiled only for unit tests.
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
    // Packed layers on the CPU, whose memory is the host's.
    let may_read = |file: &str| {
        ["kernels/quant/on_cpu.rs", "kernels/readback.rs"].contains(&file) || is_test(file)
    };
    check_only_in(&words, "kernels", may_read);
    check_only_in(&words, "", |file| file != "loss.rs");
}

#[test]
fn core_touches_no_disk_thread_and_clock() {
    check_only_in(&["std::fs", "fs::", "SystemTime", "std::env", "std::process"], "", is_test);
    let words = [
        "std::thread::{",
        "thread::spawn",
        "thread::scope",
        "thread::Builder",
        "thread::sleep",
        "std::time",
    ];
    // The helpers of the CPU's kernels are threads, and go to sleep after a while.
    check_only_in(&words, "", |file| file == "kernels/cpu/team.rs" || is_test(file));
    // The kernels of the CPU share their work among rayon's threads.
    let is_kernel = |file: &str| {
        file.starts_with("kernels/") && (file.contains("cpu") || file == "kernels/quant/product.rs")
    };
    check_only_in(&["rayon::"], "", is_kernel);
}
