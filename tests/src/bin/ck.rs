//! `cargo ck`: format, lints, the check of `core` alone and the tests. Stops at the first failure.

#![allow(clippy::print_stderr, reason = "a command prints its progress")]

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

/// Name and cargo arguments of each step.
///
/// All steps use the release profile: the tests need its speed, clippy reuses its build scripts and
/// macros, and Burn is compiled once instead of twice. The steps build the whole workspace at once,
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

/// True if the compiler's sysroot has the standard library of wasm32.
fn has_wasm() -> bool {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output();
    let sysroot = sysroot.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    sysroot.is_ok_and(|root| Path::new(&root).join("lib/rustlib").join(WASM).is_dir())
}
