//! `mmgem train`, started and stopped as by a user or a scheduler.

use serde_json::json;

use super::{Desk, text, toy_config};

/// A desk with drawn scenes and `run.toml`, a run of `steps` short steps.
fn desk(steps: usize) -> Desk {
    let desk = Desk::new();
    assert!(desk.run("scenes --out drawn --n 8 --seed 5 -q").status.success());
    desk.write("config.json", toy_config().to_string().as_bytes());
    let toml = format!(
        "recipe = 'stage1'\nout = 'run'\n[model]\nconfig = 'config.json'\ntokenizer = 'model/tokenizer.json'\n\
         [data]\nshards = ['drawn/*.tar']\n[optim]\nbatch_size = 4\nsteps = {steps}\nlr_heads = \
         1e-3\n\
         lr_towers = 1e-3\n"
    );
    desk.write("run.toml", toml.as_bytes());
    desk
}

#[test]
#[cfg(unix)]
fn an_interrupt_or_a_term_saves_a_checkpoint_and_succeeds() {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    let desk = desk(200_000);
    let steps = || {
        std::fs::read_to_string(desk.path("run/metrics.jsonl"))
            .map_or(0, |text| text.lines().count())
    };
    for (signal, resume) in [("-INT", ""), ("-TERM", "--resume")] {
        let before = steps();
        let mut command = desk.command(&format!("train run.toml {resume} --json"));
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let deadline = Instant::now() + Duration::from_secs(60);
        while steps() < before + 3 {
            assert!(Instant::now() < deadline, "the run makes no steps");
            std::thread::sleep(Duration::from_millis(2));
        }
        let killed = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(killed.expect("there is a kill").success());
        let output = child.wait_with_output().expect("the program ends");
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{signal}: {stderr}");
        let summary: serde_json::Value =
            serde_json::from_slice(&output.stdout).expect("one JSON document");
        let step = summary["step"].as_u64().expect("a step");
        assert_eq!(summary, json!({ "step": step, "finished": false, "model": null }));
        assert!(
            stderr.contains(&format!("stopped after step {step} with a checkpoint")),
            "{stderr}"
        );
        assert!(desk.path(&format!("run/checkpoints/step-{step:08}/state.json")).is_file());
        assert_eq!(stderr.contains("going on after step"), !resume.is_empty(), "{stderr}");
    }
}

#[test]
#[cfg(unix)]
fn a_usr1_saves_a_checkpoint_at_the_next_step_and_the_run_goes_on() {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    let desk = desk(200_000);
    let mut command =
        desk.command("train run.toml --json --set checkpoint.every=200000 --set checkpoint.keep=9");
    let child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let steps = || {
        std::fs::read_to_string(desk.path("run/metrics.jsonl"))
            .map_or(0, |text| text.lines().count())
    };
    let saved = || -> Vec<usize> {
        let entries =
            std::fs::read_dir(desk.path("run/checkpoints")).into_iter().flatten().flatten();
        entries
            .filter_map(|e| e.file_name().to_str()?.strip_prefix("step-")?.parse().ok())
            .collect()
    };
    let wait_until = |what: &str, is_so: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    let signal = |signal: &str| {
        let killed = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(killed.expect("there is a kill").success());
    };
    wait_until("the run makes no steps", &|| steps() >= 3);
    assert!(saved().is_empty());
    let before = steps();
    signal("-USR1");
    wait_until("nothing is saved", &|| !saved().is_empty());
    let first = saved()[0];
    assert!(first >= before, "saved step {first} after {before} were done");
    wait_until("the run does not go on", &|| steps() >= first + 3);
    assert_eq!(saved(), [first]);
    // SIGTERM then saves again and ends the run.
    signal("-TERM");
    let output = child.wait_with_output().expect("the program ends");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let last =
        serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("JSON")["step"].as_u64();
    let (last, mut all) = (last.expect("a step") as usize, saved());
    all.sort_unstable();
    assert_eq!(all, [first, last]);
    assert!(last >= first + 3);
}

#[test]
#[cfg(unix)]
fn a_second_interrupt_ends_the_run_at_once() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    use std::time::Duration;

    let desk = desk(3);
    // A start that hangs, in which nothing checks for the first interrupt.
    let made = Command::new("mkfifo").arg(desk.path("pipe")).status();
    assert!(made.expect("there is a mkfifo").success());
    let mut command = desk.command("train run.toml --set model.tokenizer=pipe");
    let mut child = command.stderr(Stdio::piped()).spawn().expect("the program starts");
    let mut stderr = BufReader::new(child.stderr.take().expect("it is piped")).lines();
    let mut wait_for = |words: &str| {
        let is_found = stderr.by_ref().any(|line| line.expect("a text").contains(words));
        assert!(is_found, "{words}");
    };
    let interrupt = || {
        let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(killed.expect("there is a kill").success());
    };
    wait_for("device: ");
    interrupt();
    wait_for("Ctrl-C again ends at once");
    std::thread::sleep(Duration::from_millis(1500));
    interrupt();
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
}

#[test]
fn without_a_terminal_the_log_has_a_line_for_each_step_that_is_due() {
    let desk = desk(3);
    let log = |flags: &str| {
        let output = desk.run(&format!("train run.toml {flags}"));
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stderr)
    };
    let every = log("--log-secs 0 --set out=every");
    let steps: Vec<&str> = every.lines().filter(|line| line.contains("Z  step ")).collect();
    assert_eq!(steps.len(), 3, "{every}");
    for (line, step) in steps.iter().zip(1..) {
        let wanted = [&format!("step {step}/3"), "loss ", "(emb ", "gen ", "lr ", " samples/s"];
        assert!(wanted.iter().all(|part| line.contains(*part)), "{line}");
    }
    assert!(every.contains("saved the checkpoint of step 3 in "), "{every}");
    // The first and the last step are always there.
    assert_eq!(log("--log-secs 3600 --set out=first").matches("Z  step ").count(), 2);
}

#[test]
fn a_short_run_ends_with_a_model_that_can_be_asked() {
    let desk = desk(3);
    let output = desk.run("train run.toml -q");
    let found = (output.status.code(), text(&output.stdout), text(&output.stderr));
    assert_eq!(found, (Some(0), "run/model\n".to_owned(), String::new()));
    let embeds = desk.json("embed 0.png --model run/model");
    assert!((super::norm(&embeds["images"][0]["embed"]) - 1.0).abs() < 1e-5);
    let info = desk.json("info run/model");
    assert_eq!(info["training"][0]["recipe"], "stage1");

    desk.fails("train run.toml", 1, &["holds a run of 3 steps", "--resume", "folder: run"]);
    desk.fails("train run.toml --resume --set seed=5", 1, &["seed was 0, is 5"]);
    let longer = desk.json("train run.toml --resume --set optim.steps=5");
    assert_eq!((&longer["step"], &longer["finished"]), (&json!(5), &json!(true)));
}

#[test]
fn a_checkpoint_is_exported_with_its_averaged_weights_or_without() {
    let desk = desk(3);
    let set = "--set optim.ema=0.5";
    assert!(desk.run(&format!("train run.toml -q {set}")).status.success());
    let weights = |folder: &str| {
        std::fs::read(desk.path(folder).join("model.safetensors")).expect("a model folder")
    };
    let export = |more: &str, out: &str| {
        let line = format!("export run/checkpoints/step-00000003 {more} --dtype f32 --out {out}");
        assert!(desk.run(&line).status.success(), "{line}");
        weights(out)
    };
    assert!(export("", "averaged") == weights("run/model"));
    assert!(export("--raw", "raw") != weights("run/model"));
    let says = ["--raw wants a checkpoint of a run with optim.ema"];
    desk.fails("export run/model --raw --dtype f32 --out other", 2, &says);
    desk.fails(
        &format!("train run.toml --resume best {set}"),
        1,
        &["no checkpoint is the best one yet", "checkpoint.keep_best"],
    );
}

#[test]
fn a_run_that_is_described_wrongly_says_where() {
    let desk = desk(3);
    desk.fails("train missing.toml", 1, &["cannot read the run\n  file: missing.toml"]);
    desk.fails("train run.toml --set optim.step=5", 1, &["unknown field `step`", "file: run.toml"]);
    desk.fails("train run.toml --set optim.batch_size=1", 1, &["batch_size must be at least 2"]);
    desk.fails("train run.toml --set steps", 1, &["--set \"steps\" is not of the form key=value"]);
    desk.fails("train run.toml --set recipe=stage3", 1, &["unknown variant `stage3`"]);
    desk.fails(
        "train run.toml --set data.shards=['none*.tar']",
        1,
        &["no file fits \"none*.tar\"", "hint"],
    );
    assert!(!desk.path("run/checkpoints").exists());
}

#[test]
fn several_ranks_without_mpi_on_a_cpu_are_refused_before_anything_is_written() {
    let desk = desk(3);
    let mut command = desk.command("train run.toml --device cpu");
    let launcher =
        [("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1"), ("MASTER_ADDR", "localhost")];
    let output = command.envs(launcher).output().expect("the program starts");
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("rank 1 of 2 by torchrun") && stderr.contains("--features mpi"),
        "{stderr}"
    );
    assert!(!desk.path("run").exists());
}
