//! The program under `mpirun`: ranks compute the same as one process, save together and survive a
//! kill.
//!
//! Skips with a message if Open MPI is missing
//! (`libopenmpi-dev openmpi-bin clang libclang-dev pkg-config`).

#![allow(clippy::print_stderr, reason = "a test prints what it skips")]

#[path = "../train/lab.rs"]
#[allow(dead_code, reason = "the training tests use the rest")]
mod lab;
#[path = "../tiny.rs"]
#[allow(dead_code, reason = "the training tests use the rest")]
mod tiny;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use lab::{Lab, check_same};
use serde_json::Value;

/// The program with the feature `mpi`, built once; `None` if it cannot be built.
fn mmgem() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    PROGRAM.get_or_init(build).as_deref()
}

fn build() -> Option<PathBuf> {
    let is_there = |program: &str| {
        let asked = Command::new(program)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        asked.is_ok_and(|status| status.success())
    };
    if !is_there("mpicc") || !is_there("mpirun") {
        eprintln!(
            "SKIPPED: no Open MPI; install libopenmpi-dev openmpi-bin clang libclang-dev pkg-config"
        );
        return None;
    }
    let test = std::env::current_exe().expect("a test has a path");
    let profile = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
    // Keeps the default features, so that the existing build of Burn is reused.
    let build = |features: &[&str]| {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--locked", "-p", "mmgem"]).args(features);
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        if profile.ends_with("release") {
            build.arg("--release");
        }
        build.env("CARGO_TARGET_DIR", profile.parent().expect("target"));
        assert!(build.status().expect("cargo can be started").success());
    };
    build(&["--features", "mpi"]);
    let program = profile.join("mmgem-mpi");
    fs::copy(profile.join("mmgem"), &program).expect("it was just built");
    // Rebuilds the normal program at its usual path, where other tests expect it.
    build(&[]);
    Some(program)
}

/// A lab with `run.toml`: 20 steps of the tiny model, a checkpoint every five steps.
fn desk() -> Lab {
    let lab = Lab::new();
    let run = "recipe = 'stage1'\nout = 'run'\nseed = 11\n[model]\nfrom = 'start'\n[data]\nshards = ['scenes.tar']\n\
        [optim]\nbatch_size = 8\nsteps = 20\nwarmup_steps = 2\nlr_heads = 1e-3\nlr_towers = 1e-3\n\
        [checkpoint]\nevery = 5\n[cluster]\ntimeout_secs = 60\n";
    fs::write(lab.path("run.toml"), run).expect("writable");
    lab
}

/// The command that starts a run on `n_ranks` ranks, with `key=value` changes.
fn command(program: &Path, lab: &Lab, n_ranks: usize, out: &str, set: &[&str]) -> Command {
    let n = n_ranks.to_string();
    let mut command = Command::new("mpirun");
    command
        .args(["--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", &n])
        .arg(program);
    command.args([
        "train",
        "run.toml",
        "--device",
        "cpu",
        "--resume",
        "--set",
        &format!("out={out}"),
    ]);
    for change in set {
        command.args(["--set", change]);
    }
    // One thread per rank, because more would compete for the cores.
    command.env("RAYON_NUM_THREADS", "1").current_dir(lab.path(""));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(program: &Path, lab: &Lab, n_ranks: usize, out: &str, set: &[&str]) -> Output {
    command(program, lab, n_ranks, out, set).output().expect("mpirun starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn finish(program: &Path, lab: &Lab, n_ranks: usize, out: &str, set: &[&str]) -> String {
    let output = run(program, lab, n_ranks, out, set);
    assert!(output.status.success(), "{}", stderr(&output));
    stderr(&output)
}

fn lines(lab: &Lab, out: &str) -> Vec<Value> {
    let text = fs::read_to_string(lab.path(out).join("metrics.jsonl")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Checks losses and weights of twenty steps within 1e-5.
fn check_twenty(lab: &Lab, one: &str, many: &str) {
    assert_eq!(lines(lab, one).len(), 20);
    check_same(&lab.path(one), &lab.path(many));
}

/// Compares twenty steps on 2 and 4 ranks with one rank.
fn check_ranks(set: &[&str]) {
    let Some(program) = mmgem() else { return };
    let lab = desk();
    finish(program, &lab, 1, "one", set);
    for n_ranks in [2, 4] {
        let out = format!("{n_ranks}-ranks");
        let said = finish(program, &lab, n_ranks, &out, set);
        for rank in 0..n_ranks {
            let line = format!("rank {rank} of {n_ranks} by Open MPI, through MPI");
            assert!(said.contains(&line), "{line:?} is not in {said}");
        }
        check_twenty(&lab, "one", &out);
    }
}

#[test]
fn ranks_of_stage_1_compute_what_one_process_does() {
    check_ranks(&["optim.micro_batch=2"]);
}

#[test]
fn ranks_of_stage_2_for_captions_compute_what_one_process_does() {
    check_ranks(&["recipe=stage2_caption", "data.whole_image_share=0.3"]);
}

#[test]
fn ranks_of_stage_2_for_retrieval_compute_what_one_process_does() {
    check_ranks(&["recipe=stage2_retrieval"]);
}

/// Process ids and ranks of the run in this lab.
fn ranks_of(lab: &Lab) -> Vec<(u32, usize)> {
    let folder = fs::canonicalize(lab.path("")).expect("it is there");
    let processes = fs::read_dir("/proc").expect("Linux").flatten();
    let rank = |entry: fs::DirEntry| {
        let id: u32 = entry.file_name().to_str()?.parse().ok()?;
        if fs::read_link(entry.path().join("cwd")).ok()? != folder {
            return None;
        }
        let environment = fs::read(entry.path().join("environ")).ok()?;
        let mut variables = environment.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        let found =
            variables.find_map(|v| v.strip_prefix("OMPI_COMM_WORLD_RANK=")?.parse().ok())?;
        Some((id, found))
    };
    processes.filter_map(rank).collect()
}

fn kill(signal: &str, id: u32) {
    let killed = Command::new("kill").args([signal, &id.to_string()]).status();
    assert!(killed.expect("there is a kill").success());
}

/// Waits until the run has done `n` steps.
fn wait_for_steps(lab: &Lab, out: &str, child: &mut Child, n: usize) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while lines(lab, out).len() < n {
        assert!(Instant::now() < deadline, "the run makes no steps");
        assert!(child.try_wait().expect("it can be asked").is_none(), "the run ended early");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_rank_that_is_killed_ends_the_job_and_the_run_goes_on_from_its_checkpoint() {
    let Some(program) = mmgem() else { return };
    let lab = desk();
    finish(program, &lab, 2, "whole", &[]);
    let mut ends = 0;
    for (attempt, after) in [3, 8, 12, 17].into_iter().enumerate() {
        let mut child = command(program, &lab, 2, "killed", &[]).spawn().expect("mpirun starts");
        wait_for_steps(&lab, "killed", &mut child, after);
        let wanted = attempt % 2;
        if let Some((id, _)) = ranks_of(&lab).into_iter().find(|(_, rank)| *rank == wanted) {
            kill("-KILL", id);
        }
        let output = child.wait_with_output().expect("mpirun ends");
        ends += usize::from(!output.status.success());
    }
    assert!(ends > 0, "no kill came before the end");
    finish(program, &lab, 2, "killed", &[]);
    check_twenty(&lab, "whole", "killed");
}

#[test]
fn a_signal_to_one_rank_saves_the_same_step_on_all() {
    let Some(program) = mmgem() else { return };
    let lab = desk();
    let long = ["optim.steps=20000", "checkpoint.every=20000", "checkpoint.keep=9"];
    let mut child = command(program, &lab, 2, "run", &long).spawn().expect("mpirun starts");
    wait_for_steps(&lab, "run", &mut child, 3);
    let second =
        ranks_of(&lab).into_iter().find(|(_, rank)| *rank == 1).expect("rank 1 is alive").0;
    let checkpoints =
        || fs::read_dir(lab.path("run/checkpoints")).map_or(0, |entries| entries.flatten().count());
    // Saves and continues.
    kill("-USR1", second);
    let deadline = Instant::now() + Duration::from_secs(60);
    while checkpoints() == 0 {
        assert!(Instant::now() < deadline, "no checkpoint is saved");
        thread::sleep(Duration::from_millis(5));
    }
    let before = lines(&lab, "run").len();
    wait_for_steps(&lab, "run", &mut child, before + 3);
    // Saves and stops.
    kill("-TERM", second);
    let output = child.wait_with_output().expect("mpirun ends");
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("with a checkpoint; go on with --resume"), "{said}");
    assert_eq!(checkpoints(), 2);
}

#[test]
fn a_rank_whose_data_is_missing_ends_all_with_its_reason() {
    let Some(program) = mmgem() else { return };
    let lab = desk();
    let output = run(program, &lab, 2, "run", &["data.shards=['missing-*.tar']"]);
    let said = stderr(&output);
    assert!(!output.status.success() && said.contains("no file fits \"missing-*.tar\""), "{said}");
    assert!(!lab.path("run/checkpoints").exists());
}

#[test]
fn a_run_that_is_disturbed_all_the_time_has_the_bytes_of_one_left_alone() {
    let Some(program) = mmgem() else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("mpi/chaos.py");
    let mut python = Command::new("python3");
    python.arg(script).arg(program).args(["--minutes", "0.1", "--in-turn"]);
    let output = match python.output() {
        Ok(output) => output,
        Err(error) => return eprintln!("SKIPPED: no Python to disturb a run ({error})"),
    };
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}{}", stderr(&output));
    for event in ["is flipped", "is cut to", "is moved", "2 ranks become 4", "4 ranks become 1"] {
        assert!(told.contains(event), "{event:?} is not in {told}");
    }
}
