//! `cargo web`: builds the page into `web/dist`, which any static server can serve.
//!
//! The output is a wasm module for the CPU, on request another for WebGPU, their JavaScript, the
//! page, its models with manifests, a service worker that knows every file, and the files of an npm
//! package. wasm-bindgen writes the JavaScript. It is linked as a library, so it fits the version
//! in use and needs no installation.

#![allow(clippy::print_stderr, reason = "a command prints its progress")]

mod files;
mod package;
mod steps;

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use files::{copy_folder, copy_model, file_names, human_bytes};
use package::{add_package, list_modules, write_archive};
use serde_json::json;
use steps::Steps;
use wasm_bindgen_cli_support::Bindgen;

const WASM: &str = "wasm32-unknown-unknown";
/// The oldest version that is known to write modules that browsers open. Debian 12's 108 does not.
const WASM_OPT: u32 = 132;

const USAGE: &str = "Builds the page into web/dist.

Usage: cargo web [--webgpu] [--optimize] [--model DIR]... [--archive]

  --webgpu     also the module that computes on WebGPU, which takes longer to compile
  --optimize   shrink the wasm with wasm-opt (slow; from npm's binaryen)
  --model DIR  the model that the page opens first [default: assets/model]; repeat it for more,
               which the page lists
  --archive    also web/mmgem-web.tar.gz, the page in one file

Then: mmgem web, or any static server on web/dist. npm pack ./web/dist writes the npm package.";

/// The options of the command line.
struct Order {
    webgpu: bool,
    optimize: bool,
    archive: bool,
    models: Vec<PathBuf>,
}

fn main() -> ExitCode {
    let workspace =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("web is a member of the workspace");
    let Some(order) = read_arguments(env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match build(workspace, &order) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn read_arguments(mut args: impl Iterator<Item = String>) -> Option<Order> {
    let mut order = Order { webgpu: false, optimize: false, archive: false, models: Vec::new() };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--webgpu" => order.webgpu = true,
            "--optimize" => order.optimize = true,
            "--archive" => order.archive = true,
            "--model" => order.models.push(args.next()?.into()),
            _ => return None,
        }
    }
    Some(order)
}

fn build(workspace: &Path, order: &Order) -> Result<()> {
    if order.optimize {
        check_wasm_opt()?;
    }
    for model in &order.models {
        let is_model = model.join("config.json").is_file();
        ensure!(
            is_model,
            "this is not a model folder: config.json is missing\n  hint: give a folder that \
             `mmgem export` wrote\n  folder: {}",
            model.display()
        );
    }
    let backends: &[&str] = if order.webgpu { &["cpu", "webgpu"] } else { &["cpu"] };
    let mut steps = Steps::new(2 * backends.len() + 1 + usize::from(order.archive));
    // The present page stays until the new one is whole.
    let dist = workspace.join("web/dist");
    let new = workspace.join("web/dist.new");
    remove_folder(&new)?;
    let lib = new.join("lib");
    for backend in backends {
        let what =
            format!("compile the module for {backend} (minutes after a change of Rust code)");
        let module = steps.run(&what, || compile(workspace, backend))?;
        // The next module has the same path.
        let what = format!("write its JavaScript for {backend}");
        steps.run(&what, || bind(&module, &lib.join(backend), order.optimize))?;
    }
    steps.run("copy the page and its models", || {
        copy_folder(&workspace.join("web/lib"), &lib)?;
        list_modules(&lib, backends)?;
        copy_folder(&workspace.join("web/page"), &new)?;
        copy_folder(&workspace.join("assets/demo"), &new.join("demo"))?;
        copy_models(workspace, &order.models, &new)?;
        add_package(workspace, &new)?;
        finish_service_worker(&new)?;
        remove_folder(&dist)?;
        fs::rename(&new, &dist).with_context(|| format!("cannot write {}", dist.display()))
    })?;
    let archive = workspace.join("web/mmgem-web.tar.gz");
    if archive.exists() {
        fs::remove_file(&archive).context("cannot remove the archive of an earlier page")?;
    }
    if order.archive {
        let size = steps.run("pack the archive", || write_archive(&dist, &archive))?;
        eprintln!("wrote {}, {}", archive.display(), human_bytes(size));
    }

    eprintln!("wrote {} in {}", dist.display(), steps.elapsed());
    for backend in backends {
        let module = fs::metadata(dist.join("lib").join(backend).join("mmgem_web_bg.wasm"))?;
        eprintln!("  wasm, {backend}: {}", human_bytes(module.len()));
    }
    eprintln!("look at it: cargo run --release -- web");
    Ok(())
}

/// Removes a folder if it exists.
fn remove_folder(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    Ok(())
}

/// Copies the models and writes `models.json`, which lists them for the page. The first model is
/// `model`, which the page opens; the others are `models/NAME`.
fn copy_models(workspace: &Path, models: &[PathBuf], dist: &Path) -> Result<()> {
    let embedded = [workspace.join("assets/model")];
    let models = if models.is_empty() { &embedded[..] } else { models };
    let mut list = Vec::new();
    for (at, model) in models.iter().enumerate() {
        let model = model
            .canonicalize()
            .with_context(|| format!("there is no model folder {}", model.display()))?;
        let own_name = model.file_name().unwrap_or(OsStr::new("model")).to_string_lossy();
        let is_embedded = Some(&model) == embedded[0].canonicalize().ok().as_ref();
        let name = if is_embedded { "the embedded model" } else { &own_name };
        let folder = if at == 0 {
            "model/".to_owned()
        } else {
            format!("models/{at}-{}/", plain(&own_name))
        };
        let bytes = copy_model(&model, name, &dist.join(&folder))?;
        list.push(json!({ "folder": folder, "name": name, "bytes": bytes }));
    }
    let list = json!({ "format": "mmgem-models-1", "models": list });
    fs::write(dist.join("models.json"), format!("{list:#}\n")).context("cannot write models.json")
}

/// A name without characters that a URL escapes.
fn plain(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    name.chars().map(|c| if is_plain(c) { c } else { '-' }).collect()
}

/// Dependencies that are compiled for size, because nobody waits for them on the page. The module for
/// the CPU has 6.4 MB with them, and 8.2 without.
const SMALL: [&str; 14] = [
    "aho-corasick",
    "burn-flex",
    "burn-std",
    "fancy-regex",
    "gemm-c32",
    "gemm-c64",
    "gemm-f16",
    "gemm-f64",
    "image",
    "regex-automata",
    "regex-syntax",
    "tiff",
    "tokenizers",
    "zune-jpeg",
];

/// Compiles the handle for a backend and returns the path of the raw module.
fn compile(workspace: &Path, backend: &str) -> Result<PathBuf> {
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    let status = Command::new(env!("CARGO"))
        .args(["build", "--release", "--locked", "-p", "mmgem-web", "--lib", "--target", WASM])
        .args(["--no-default-features", "--features", backend])
        .args(SMALL.map(|name| format!("--config=profile.release.package.{name}.opt-level=\"z\"")))
        // Every browser with WebGPU, and every one since 2023, has it.
        .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", "-C target-feature=+simd128")
        .current_dir(workspace)
        .status()
        .context("cargo cannot be started")?;
    ensure!(
        status.success(),
        "the wasm module cannot be compiled\n  hint: rustup target add {WASM}"
    );
    Ok(target.join(WASM).join("release/mmgem_web.wasm"))
}

/// Runs before anything is compiled or removed.
fn check_wasm_opt() -> Result<()> {
    let hint = "hint: npm install --prefix DIR binaryen, and DIR/node_modules/.bin first in PATH";
    let asked = Command::new("wasm-opt").arg("--version").output();
    let asked = asked.with_context(|| format!("wasm-opt cannot be started\n  {hint}"))?;
    let said = String::from_utf8_lossy(&asked.stdout);
    let version = said.split_whitespace().find_map(|word| word.parse::<u32>().ok()).unwrap_or(0);
    ensure!(
        version >= WASM_OPT,
        "this is {:?}, wanted version {WASM_OPT} or newer\n  {hint}",
        said.trim()
    );
    Ok(())
}

/// Writes the module and its JavaScript into `out`.
fn bind(wasm: &Path, out: &Path, optimize: bool) -> Result<()> {
    let mut bindgen = Bindgen::new();
    // A panic says its file and line anyway.
    bindgen
        .input_path(wasm)
        .typescript(true)
        .remove_name_section(true)
        .remove_producers_section(true);
    bindgen.web(true)?.generate(out)?;
    if !optimize {
        return Ok(());
    }
    let module = out.join("mmgem_web_bg.wasm");
    let status = Command::new("wasm-opt")
        .args(["-O3", "--enable-simd", "--enable-bulk-memory", "--enable-nontrapping-float-to-int"])
        .args(["--enable-sign-ext", "--enable-mutable-globals", "--enable-reference-types"])
        .args(["--enable-multivalue", "-o"])
        .args([&module, &module])
        .status()
        .context("wasm-opt cannot be started")?;
    ensure!(status.success(), "wasm-opt failed");
    Ok(())
}

/// Lists the files that the service worker stores for offline use: those that the page loads, but
/// the models, which the page checks and stores itself.
fn finish_service_worker(dist: &Path) -> Result<()> {
    let path = dist.join("sw.js");
    let code =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let kept = |name: &str| {
        let is_model = name.starts_with("model/") || name.starts_with("models/");
        let is_for_npm =
            name == "package.json" || name == "README.md" || name.starts_with("LICENSE");
        !is_model && !is_for_npm && name != "sw.js" && !name.ends_with(".d.ts")
    };
    let mut hashes = serde_json::Map::new();
    for name in file_names(dist)?.into_iter().filter(|name| kept(name)) {
        let bytes = fs::read(dist.join(&name)).with_context(|| format!("cannot read {name}"))?;
        hashes.insert(name, files::hex_digest(&bytes).into());
    }
    let list = serde_json::Value::from(hashes);
    let version = files::hex_digest(format!("{list}{code}").as_bytes());
    let head = format!("const VERSION = {:?};\nconst FILES = {list};\n", &version[..16]);
    fs::write(&path, head + &code).with_context(|| format!("cannot write {}", path.display()))
}
