//! The scripts of the GPU checks, with a program that prints, fails or hangs in the place of
//! `mmgem`.

#![cfg(target_os = "linux")]
#![allow(clippy::print_stderr, reason = "a test prints what it skips")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("gpu").join(name)
}

/// Whether Python is installed; says so if not.
fn has_python() -> bool {
    let found = Command::new("python3").arg("--version").output().is_ok();
    if !found {
        eprintln!("SKIPPED: no python3");
    }
    found
}

/// A run of `first` with the fake program. PyTorch's side is the program `false`, so that it is
/// skipped.
struct Run {
    folder: TempDir,
    words: Vec<String>,
    fails: &'static str,
    hangs: &'static str,
}

impl Run {
    fn new(words: &[&str]) -> Self {
        let words = words.iter().map(|&word| word.to_owned()).collect();
        Self { folder: TempDir::new().expect("a folder"), words, fails: "", hangs: "" }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self) -> Child {
        Command::new(script("first"))
            .args(["--tiny", "--python", "false", "--mmgem"])
            .arg(script("fake.py"))
            .arg("--out")
            .arg(self.path("out"))
            .args(&self.words)
            .env("FAKE_FAIL", self.fails)
            .env("FAKE_HANG", self.hangs)
            .env("FAKE_PID", self.path("pid"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the script starts")
    }

    fn finish(&self) -> Output {
        self.start().wait_with_output().expect("it ends")
    }

    fn table(&self) -> Value {
        let text = fs::read(self.path("out/table.json")).expect("the table");
        serde_json::from_slice(&text).expect("JSON")
    }

    fn markdown(&self) -> String {
        fs::read_to_string(self.path("out/table.md")).expect("the table")
    }

    /// Whether the process that the hanging program started still runs.
    fn left_a_process(&self) -> bool {
        let pid = fs::read_to_string(self.path("pid")).expect("it hung");
        let status = fs::read_to_string(format!("/proc/{}/status", pid.trim()));
        status.is_ok_and(|status| !status.contains("State:\tZ"))
    }
}

fn status(table: &Value, part: &str) -> String {
    table["states"][part].as_str().unwrap_or_else(|| panic!("{part}: {table}")).to_owned()
}

#[test]
fn all_parts_end_and_their_limits_are_eight_minutes() {
    if !has_python() {
        return;
    }
    let run = Run::new(&["--device", "cpu"]);
    let output = run.finish();
    let table = run.table();
    assert!(output.status.success(), "{table:#}");
    let states = table["states"].as_object().expect("an object");
    assert_eq!(states.len(), 10);
    for (part, state) in states {
        let skipped = ["tf32", "kernels"].contains(&part.as_str());
        assert_eq!(state, if skipped { "skipped" } else { "done" }, "{part}");
    }
    let limits = table["parts"].as_array().expect("a list").iter();
    let secs: f64 = limits.map(|part| part["limit_secs"].as_f64().expect("a number")).sum();
    assert!(secs > 400.0 && secs <= 480.0, "{secs}");
    let text = run.markdown();
    for wanted in [
        "| cpu | f32 | 2 of 2 | text_embed of tiny | 2.0e-06 | 22 of 24 | ok |",
        "gradient norms equal bit for bit",
        "SKIPPED: PyTorch's side",
        "| b16-4 | mmgem bf16 | 8.0 |",
        "| TinyLlama q4 | 2.00 | 64.0 | 1.00 |",
        "SKIPPED after 0 s: TF32 is for NVIDIA GPUs",
        "| CUDA | no CUDA hint |",
    ] {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
}

#[test]
fn a_part_that_fails_or_hangs_does_not_stop_the_others() {
    if !has_python() {
        return;
    }
    let only = "devices,parity,nccl,captions";
    let mut run = Run::new(&["--device", "cpu", "--only", only, "--minutes", "0.4"]);
    run.words.extend(["--limit", "parity=1"].map(str::to_owned));
    (run.hangs, run.fails) = ("verify parity", "verify collectives");
    let output = run.finish();
    let table = run.table();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        ["devices", "parity", "nccl", "captions"].map(|part| status(&table, part)),
        ["done", "out of time", "failed", "done"]
    );
    assert!(run.markdown().contains("collectives: error: it broke"), "{}", run.markdown());
    assert!(!run.left_a_process());
    // The part that ran out of time had what was left.
    let parity = table["parts"].as_array().expect("a list").iter();
    assert_eq!(parity.filter(|part| part["part"] == "parity").count(), 2);
}

#[test]
fn a_run_that_is_cut_off_leaves_what_it_had() {
    if !has_python() {
        return;
    }
    let mut run = Run::new(&["--device", "cpu", "--only", "devices,nccl,captions"]);
    run.hangs = "verify collectives";
    let mut child = run.start();
    while !fs::read_to_string(run.path("pid")).is_ok_and(|pid| pid.ends_with('\n')) {
        assert!(child.try_wait().expect("it runs").is_none(), "{}", run.markdown());
        sleep(Duration::from_millis(20));
    }
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    let table = run.table();
    let parts = table["parts"].as_array().expect("a list");
    assert_eq!(parts.len(), 2);
    assert_eq!((&parts[0]["status"], &parts[1]["status"]), (&"done".into(), &"running".into()));
    assert!(parts[0]["rows"].as_array().expect("a list").len() > 3);
    assert!(run.markdown().contains("## nccl"), "{}", run.markdown());
    let pid = fs::read_to_string(run.path("pid")).expect("it hung");
    let _ = Command::new("kill").arg(pid.trim()).status();
}

#[test]
fn the_slowest_kernels_are_those_of_cubecls_log() {
    if !has_python() {
        return;
    }
    let run = Run::new(&["--device", "wgpu", "--only", "kernels"]);
    let output = run.finish();
    assert!(output.status.success(), "{}", run.markdown());
    let table = run.table();
    let rows = table["parts"][0]["rows"].as_array().expect("a list");
    let names: Vec<&Value> = rows.iter().map(|row| &row["kernel"]).collect();
    assert_eq!(names, ["conv", "exp", "matmul", "sum", "cast"]);
    assert_eq!(rows[0]["launches"], "20");
}

#[test]
fn a_pack_is_one_file_that_runs_in_an_empty_folder() {
    if !has_python() {
        return;
    }
    if Command::new("strip").arg("--version").output().is_err() {
        eprintln!("SKIPPED: no strip (binutils)");
        return;
    }
    let folder = TempDir::new().expect("a folder");
    // Any program with shared libraries: its answers do not matter here.
    let pack = |most: &str| {
        Command::new(script("pack"))
            .args(["--mmgem", "/bin/true", "--most", most, "--out"])
            .arg(folder.path().join("pack.tar.xz"))
            .output()
            .expect("the script starts")
    };
    let output = pack("0.01");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("wanted at most 0.01") && stderr.contains("hint: "), "{stderr}");
    let output = pack("45");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let python = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output();
    let python = python.expect("it starts").stdout;
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).expect("a folder");
    fs::copy(script("first"), empty.join("first")).expect("a copy");
    let output = Command::new(String::from_utf8_lossy(&python).trim())
        .args(["first", "../pack.tar.xz", "--device", "cpu", "--tiny", "--only", "devices"])
        .current_dir(&empty)
        .env_clear()
        .output()
        .expect("it starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let table = fs::read_to_string(empty.join("gpu/table.md"));
    let table = table.unwrap_or_else(|_| panic!("no table: {stderr}"));
    assert!(table.contains("| pack | commit ") && table.contains("wants glibc 2."), "{table}");
    assert!(empty.join("gpu/pack/tests/parity/tiny/case.json").is_file());
}
