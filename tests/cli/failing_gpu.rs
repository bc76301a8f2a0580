//! A GPU that fails in the middle of work: Mesa's software driver with a few functions replaced
//! (`failing_gpu.c`). A test chooses when it is lost or runs out of memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Desk, mmgem, text};

const DRIVERS: &str = "/usr/share/vulkan/icd.d";
/// Time limit of a run, in case the GPU hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A desk and a GPU that fails.
struct FailingGpu {
    desk: Desk,
    driver: PathBuf,
}

impl FailingGpu {
    /// Builds the driver. Prints the reason and returns `None` if that is impossible.
    fn new() -> Option<Self> {
        let skipped = |why: &str| eprintln!("SKIPPED: no GPU that fails: {why}");
        let Some(driver) = lavapipe() else {
            skipped("Mesa's software driver (lavapipe) is not installed");
            return None;
        };
        let desk = Desk::new();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("cli/failing_gpu.c");
        let mut compiler = Command::new("cc");
        compiler
            .args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"])
            .arg(desk.path("failing_gpu.so"));
        let Ok(status) = compiler.arg(source).args(["-ldl", "-lpthread"]).status() else {
            skipped("the C compiler `cc` is missing");
            return None;
        };
        assert!(status.success(), "failing_gpu.c does not compile");
        let library = desk.path("failing_gpu.so");
        let icd = serde_json::json!({
            "file_format_version": "1.0.0",
            "ICD": { "library_path": library, "api_version": "1.3.0" }
        });
        desk.write("failing_gpu.json", icd.to_string().as_bytes());
        let gpu = Self { desk, driver };
        let devices = gpu.run("info --devices --device cpu", "NAMED=1");
        if !text(&devices.stdout).contains("wgpu:0") {
            skipped("no Vulkan loader accepts the driver");
            return None;
        }
        Some(gpu)
    }

    /// Runs a line on the GPU with the failure settings `failure`. Kills the program and panics if
    /// it hangs.
    #[track_caller]
    fn run(&self, line: &str, failure: &str) -> Output {
        let mut command = Command::new(mmgem());
        command.current_dir(self.desk.folder.path()).args(line.split_whitespace());
        if !line.starts_with("train") {
            command.args(["--model", "model"]);
        }
        let icd = self.desk.path("failing_gpu.json");
        command.env("VK_DRIVER_FILES", &icd).env("VK_ICD_FILENAMES", &icd);
        command.env("FAILING_GPU_DRIVER", &self.driver).env("FAILING_GPU_NAMED", "1");
        for word in failure.split_whitespace() {
            let (name, value) = word.split_once('=').expect("NAME=VALUE");
            command.env(format!("FAILING_GPU_{name}"), value);
        }
        // Results are short, so no pipe fills up before the program ends.
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let start = Instant::now();
        while child.try_wait().expect("the child has a status").is_none() {
            if start.elapsed() > PATIENCE {
                child.kill().expect("it still runs");
                let output = child.wait_with_output().expect("it was killed");
                panic!("{line} hangs with {failure}: {}", text(&output.stderr));
            }
            sleep(Duration::from_millis(5));
        }
        child.wait_with_output().expect("it has ended")
    }

    /// Checks that the line fails because of the GPU and prints `words`, without a panic.
    #[track_caller]
    fn stops(&self, line: &str, failure: &str, words: &[&str]) {
        let output = self.run(line, failure);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line}, {failure}: {stderr}");
        for word in words.iter().chain(&["error: ", "hint: ", "--device cpu"]) {
            assert!(stderr.contains(word), "{line}, {failure}: {word:?} is not in {stderr}");
        }
        assert!(
            !stderr.contains("panicked") && !stderr.contains("Caused by"),
            "{line}, {failure}: {stderr}"
        );
        assert!(output.stdout.is_empty(), "{line}, {failure}: {}", text(&output.stdout));
    }

    /// Checks that the CPU takes over, with a note on stderr and the same result as on the CPU
    /// alone.
    #[track_caller]
    fn is_replaced(&self, line: &str, failure: &str) {
        let output = self.run(&format!("{line} --device auto"), failure);
        let stderr = text(&output.stderr);
        assert!(output.status.success(), "{line}, {failure}: {stderr}");
        assert!(stderr.contains("retrying on the CPU"), "{line}, {failure}: {stderr}");
        assert!(!stderr.contains("panicked"), "{line}, {failure}: {stderr}");
        assert_eq!(text(&output.stdout), text(&self.desk.run(line).stdout), "{line}, {failure}");
    }
}

/// The path of Mesa's software driver.
fn lavapipe() -> Option<PathBuf> {
    let files = fs::read_dir(DRIVERS).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let file = files.into_iter().find(|path| path.to_string_lossy().contains("lvp_icd"))?;
    let icd: Value = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    Some(icd["ICD"]["library_path"].as_str()?.into())
}

/// Lost while the model is uploaded, an image encoded, or a caption written; and lost in a wait.
const LOSSES: [&str; 4] = ["SUBMITS=0", "SUBMITS=3", "SUBMITS=6", "WAITS=1"];

#[test]
fn a_gpu_that_is_lost_is_an_error_where_it_was_asked_for_and_replaced_where_it_was_not() {
    let Some(gpu) = FailingGpu::new() else { return };
    // Without a failure setting it works.
    let whole = gpu.run("caption 0.png --max-tokens 12 --device wgpu", "NAMED=1");
    assert!(whole.status.success(), "{}", text(&whole.stderr));
    for loss in LOSSES {
        gpu.stops("caption 0.png --max-tokens 12 --device wgpu", loss, &["the GPU was lost"]);
        gpu.is_replaced("caption 0.png --max-tokens 12", loss);
    }
    gpu.is_replaced("embed 0.png 1.png --text dog --box 10,10,90,90 --json", "SUBMITS=3");
    gpu.is_replaced("search dog --photos . -k 2", "SUBMITS=4");
}

#[test]
fn a_full_gpu_is_distinguished_from_a_lost_one() {
    let Some(gpu) = FailingGpu::new() else { return };
    let full = "the GPU ran out of memory";
    // Enough for wgpu's own buffers, but not for the model.
    gpu.stops("caption 0.png --device wgpu", "MEMORY=5000000", &[full, "--dtype q4"]);
    gpu.is_replaced("caption 0.png", "MEMORY=5000000");
    gpu.stops(
        "caption 0.png --device wgpu",
        "MEMORY=0",
        &["cannot be opened", "Not enough memory"],
    );
}

#[test]
fn a_model_whose_tensors_the_gpu_does_not_take_is_refused_before_it_is_loaded() {
    let Some(gpu) = FailingGpu::new() else { return };
    let words =
        ["llm.model.embed_tokens.weight takes 40960 bytes", "at most 40000", "folder: model"];
    gpu.stops("caption 0.png --device wgpu", "BINDING=40000", &words);
    gpu.is_replaced("caption 0.png", "BINDING=40000");
}

#[test]
fn a_library_that_is_filled_by_a_gpu_that_fails_is_whole() {
    let Some(gpu) = FailingGpu::new() else { return };
    let index = "index . --library l.sqlite";
    gpu.stops(&format!("{index} --device wgpu"), "SUBMITS=4", &["the GPU was lost"]);
    let again = gpu.run(&format!("{index} --device auto --json"), "SUBMITS=4");
    let stderr = text(&again.stderr);
    assert!(again.status.success() && stderr.contains("retrying on the CPU"), "{stderr}");
    let counts: Value = serde_json::from_slice(&again.stdout).expect("one JSON document");
    assert_eq!((&counts["photos"], &counts["problems"]), (&3.into(), &0.into()), "{counts}");
    let hits = gpu.desk.json("search dog --library l.sqlite");
    assert_eq!(hits, gpu.desk.json("search dog --photos ."));
}

#[test]
fn a_training_whose_gpu_fails_stops_and_can_be_gone_on_with() {
    let Some(gpu) = FailingGpu::new() else { return };
    assert!(gpu.desk.run("scenes --out drawn --n 4 --seed 5").status.success());
    let toml = "recipe = \"stage1\"\nout = \"run\"\nmodel = { from = \"model\" }\ndata = { shards = [\"drawn/*.tar\"] }\n\
                optim = { batch_size = 2, steps = 3, lr_heads = 1e-3, lr_towers = 1e-3 }\ncheckpoint = { every = 1, keep = 1 }\n";
    gpu.desk.write("run.toml", toml.as_bytes());
    for (device, failure) in
        [("wgpu", "SUBMITS=0"), ("auto", "WAITS=5"), ("auto", "MEMORY=5000000")]
    {
        let words = ["the training has stopped", "--resume", "the device stopped working"];
        gpu.stops(&format!("train run.toml --resume --device {device}"), failure, &words);
    }
    let resumed = gpu.desk.run("train run.toml --resume");
    assert!(resumed.status.success(), "{}", text(&resumed.stderr));
}
