//! `cargo ck [STEP..]`: runs `.ci/run`, which decides whether a change lands, and installs nothing.

#![allow(clippy::print_stderr, reason = "a command prints its errors")]

use std::env::args_os;
use std::path::Path;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.ci/run");
    match Command::new("bash").arg(script).arg("--here").args(args_os().skip(1)).status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        // The script has printed the reason.
        Ok(_) => ExitCode::FAILURE,
        Err(cause) => {
            eprintln!(
                "error: bash cannot be started: {cause}\n  hint: run the commands of .ci/run"
            );
            ExitCode::FAILURE
        }
    }
}
