//! `cargo ck`: what CI runs, in order, stopping at the first thing that is wrong.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

/// Everything is built with the release profile: the tests need its speed, clippy then shares its
/// build scripts and macros, and there is one cache of Burn instead of two. Several packages at once,
/// so that shared dependencies keep one set of features.
const STEPS: [(&str, &[&str]); 5] = [
    ("formatted", &["fmt", "--all", "--check"]),
    (
        "clippy, native",
        &[
            "clippy",
            "--release",
            "--locked",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
    ),
    (
        "clippy, wasm32",
        &[
            "clippy",
            "--release",
            "--locked",
            "-p",
            "mmgem-web",
            "--target",
            WASM,
            "--",
            "-D",
            "warnings",
        ],
    ),
    (
        "core alone, without features",
        &["check", "--release", "--locked", "-p", "mmgem-core", "--no-default-features"],
    ),
    ("tests", &["test", "--release", "--locked", "--workspace"]),
];
const WASM: &str = "wasm32-unknown-unknown";

fn main() -> ExitCode {
    for (what, args) in STEPS {
        if args.contains(&WASM) && !has_wasm() {
            eprintln!(
                "SKIPPED: {what}: the target is not installed\n  hint: rustup target add {WASM}"
            );
            continue;
        }
        eprintln!("== {what}: cargo {}", args.join(" "));
        let start = Instant::now();
        let workspace = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        match Command::new(env!("CARGO")).args(args).current_dir(workspace).status() {
            Ok(status) if status.success() => {
                eprintln!("   {:.1} s", start.elapsed().as_secs_f64())
            }
            Ok(_) => {
                eprintln!("error: {what} failed\n  hint: run `cargo {}`", args.join(" "));
                return ExitCode::FAILURE;
            }
            Err(cause) => {
                eprintln!("error: cargo cannot be started: {cause}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// Whether the standard library of wasm32 lies beside the compiler's own.
fn has_wasm() -> bool {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output();
    let sysroot = sysroot.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    sysroot.is_ok_and(|root| Path::new(&root).join("lib/rustlib").join(WASM).is_dir())
}
