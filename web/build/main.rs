//! `cargo web`: builds the page into `web/dist`, which any static server can serve.
//!
//! The output is a wasm module for the CPU, on request another for WebGPU, their JavaScript, the page,
//! the embedded model with a manifest, and a service worker that knows every file. wasm-bindgen
//! writes the JavaScript. It is linked as a library, so it fits the version in use and needs no
//! installation.

#![allow(clippy::print_stderr, reason = "a command prints its progress")]

mod files;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use files::{copy_folder, file_list, human_bytes, model_manifest};
use wasm_bindgen_cli_support::Bindgen;

const WASM: &str = "wasm32-unknown-unknown";
/// The oldest version that is known to write modules that browsers open. Debian 12's 108 does not.
const WASM_OPT: u32 = 132;

const USAGE: &str = "Builds the page into web/dist.

Usage: cargo web [--webgpu] [--optimize] [--model DIR]

  --webgpu     also the module that computes on WebGPU, which takes longer to compile
  --optimize   shrink the wasm with wasm-opt (slow; from npm's binaryen)
  --model DIR  the model that the page opens first; assets/model without

Then: mmgem web, or any static server on web/dist.";

/// The options of the command line.
struct Order {
    webgpu: bool,
    optimize: bool,
    model: PathBuf,
}

fn main() -> ExitCode {
    let workspace =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("web is a member of the workspace");
    let Some(order) = read_arguments(env::args().skip(1), workspace) else {
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

fn read_arguments(mut args: impl Iterator<Item = String>, workspace: &Path) -> Option<Order> {
    let mut order = Order { webgpu: false, optimize: false, model: workspace.join("assets/model") };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--webgpu" => order.webgpu = true,
            "--optimize" => order.optimize = true,
            "--model" => order.model = args.next()?.into(),
            _ => return None,
        }
    }
    Some(order)
}

fn build(workspace: &Path, order: &Order) -> Result<()> {
    if order.optimize {
        check_wasm_opt()?;
    }
    let dist = workspace.join("web/dist");
    if dist.exists() {
        fs::remove_dir_all(&dist).with_context(|| format!("cannot empty {}", dist.display()))?;
    }
    let backends: &[&str] = if order.webgpu { &["cpu", "webgpu"] } else { &["cpu"] };
    for backend in backends {
        bind(&compile(workspace, backend)?, &dist.join("lib").join(backend), order.optimize)?;
    }
    copy_folder(&workspace.join("web/lib"), &dist.join("lib"))?;
    copy_folder(&workspace.join("web/page"), &dist)?;
    copy_folder(&workspace.join("assets/demo"), &dist.join("demo"))?;
    model_manifest(&order.model, &dist.join("model"))?;
    finish_service_worker(&dist)?;

    eprintln!("wrote {}", dist.display());
    for backend in backends {
        let module = fs::metadata(dist.join("lib").join(backend).join("mmgem_web_bg.wasm"))?;
        eprintln!("  wasm, {backend}: {}", human_bytes(module.len()));
    }
    eprintln!("look at it: cargo run --release -- web");
    Ok(())
}

/// Compiles the handle for a backend and returns the path of the raw module.
fn compile(workspace: &Path, backend: &str) -> Result<PathBuf> {
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    let status = Command::new(env!("CARGO"))
        .args(["build", "--release", "--locked", "-p", "mmgem-web", "--lib", "--target", WASM])
        .args(["--no-default-features", "--features", backend])
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

/// Lists the files that the service worker stores for offline use: all but the model, which the page
/// checks and stores itself.
fn finish_service_worker(dist: &Path) -> Result<()> {
    let path = dist.join("sw.js");
    let code =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let kept =
        |name: &str| !name.starts_with("model/") && name != "sw.js" && !name.ends_with(".d.ts");
    let list: Vec<_> = file_list(dist)?.into_iter().filter(|(name, _)| kept(name)).collect();
    let version = files::hex_digest(format!("{list:?}{code}").as_bytes());
    let hashes: serde_json::Map<_, _> =
        list.into_iter().map(|(name, hash)| (name, hash.into())).collect();
    let head = format!(
        "const VERSION = {:?};\nconst FILES = {};\n",
        &version[..16],
        serde_json::Value::from(hashes)
    );
    fs::write(&path, head + &code).with_context(|| format!("cannot write {}", path.display()))
}
