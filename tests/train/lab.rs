//! A folder with scenes and a tiny model, and helpers to run training in it.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use burn::tensor::Device;
use mmgem_collective::{Collective, Single, Tcp};
use mmgem_core::checkpoint::Dtype;
use mmgem_data::webdataset::Sample;
use mmgem_train::{Progress, Resume, Signals, TrainConfig, TrainError, TrainSummary, train};
use safetensors::tensor::TensorView;
use safetensors::{Dtype as FileDtype, SafeTensors};
use serde_json::Value;
use tempfile::TempDir;

use crate::tiny;

/// The program's source version for the run's records.
pub const COMMIT: &str = "0123abc";

/// Sides and width of the teacher's maps.
const TEACHER: [usize; 3] = [2, 2, 6];

/// A run of six steps, with a checkpoint every two steps.
const RUN: &str = "
    recipe = 'stage1'
    out = 'OUT'
    seed = 11
    model = { config = 'LAB/config.json', tokenizer_text = ['LAB/captions.txt'] }
    data = { shards = ['LAB/scenes*.tar'] }
    optim = { batch_size = 4, steps = 6, warmup_steps = 2, lr_heads = 1e-2, lr_towers = 1e-2 }
    checkpoint = { every = 2, keep = 2 }
";

/// A temporary folder with `config.json`, `captions.txt`, `scenes.tar` and a fresh model in
/// `start`.
pub struct Lab {
    folder: TempDir,
}

/// A finished run and its notes.
pub struct Outcome {
    pub summary: TrainSummary,
    pub notes: Vec<String>,
}

impl Lab {
    /// A lab with all scenes, each with a teacher's map.
    pub fn new() -> Self {
        Self::with(&(0..tiny::N_SCENES as usize).map(taught).collect::<Vec<_>>())
    }

    /// A lab with other samples.
    pub fn with(samples: &[Sample]) -> Self {
        let lab = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        fs::write(lab.path("config.json"), tiny::CONFIG).expect("writable");
        fs::write(lab.path("captions.txt"), tiny::captions()).expect("writable");
        tiny::write_shard(&lab.path("scenes.tar"), samples);
        tiny::model().write(&lab.path("start"), Dtype::F32).expect("writable");
        lab
    }

    /// A path in this folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The run of [`RUN`] with some changed values; `LAB` in them stands for this folder.
    pub fn config(&self, out: &str, set: &[&str]) -> TrainConfig {
        self.config_at(&self.path(out), set)
    }

    /// The same with another output folder.
    pub fn config_at(&self, out: &Path, set: &[&str]) -> TrainConfig {
        let here = |text: &str| text.replace("LAB", &self.folder.path().display().to_string());
        let set: Vec<String> = set.iter().map(|change| here(change)).collect();
        let toml = here(RUN).replace("OUT", &out.display().to_string());
        TrainConfig::from_toml(&toml, &set).expect("the run is described rightly")
    }
}

/// A scene with a teacher's map.
fn taught(index: usize) -> Sample {
    let mut sample = tiny::sample(index);
    let map: Vec<u8> =
        (0..TEACHER.iter().product::<usize>()).map(|i| (i * 37 + index * 11) as u8).collect();
    let view =
        TensorView::new(FileDtype::U8, TEACHER.to_vec(), &map).expect("as many bytes as places");
    let file = safetensors::serialize([("feature_map", view)], None).expect("one tensor");
    sample.parts.push(("teacher.safetensors".into(), file));
    sample
}

/// Runs to the end.
pub fn run(config: &TrainConfig, resume: impl Into<Resume>) -> Result<Outcome, TrainError> {
    run_until(config, resume, usize::MAX)
}

/// Runs until step `last`, then asks the run to stop.
pub fn run_until(
    config: &TrainConfig,
    resume: impl Into<Resume>,
    last: usize,
) -> Result<Outcome, TrainError> {
    run_as(config, resume, last, &Single)
}

/// The same as one rank of several.
pub fn run_as(
    config: &TrainConfig,
    resume: impl Into<Resume>,
    last: usize,
    group: &dyn Collective,
) -> Result<Outcome, TrainError> {
    let (signals, mut notes) = (Signals::default(), Vec::new());
    let summary =
        train(
            config,
            &Device::flex(),
            COMMIT,
            resume,
            &signals,
            group,
            |progress| match progress {
                Progress::Note(note) => notes.push(note),
                Progress::Skipped(why) => notes.push(format!("skipped: {why}")),
                Progress::Step { step, .. } if step >= last => {
                    signals.stop.store(true, Ordering::Relaxed)
                }
                _ => {}
            },
        )?;
    Ok(Outcome { summary, notes })
}

/// Runs to the end, and panics on failure.
pub fn finish(config: &TrainConfig, resume: impl Into<Resume>) -> Outcome {
    let outcome = run(config, resume).unwrap_or_else(|error| panic!("{error}"));
    assert!(outcome.summary.finished);
    outcome
}

/// Crashes in a step, without any cleanup.
pub fn crash_in(config: &TrainConfig, resume: bool, at: usize) {
    let crashed = catch_unwind(AssertUnwindSafe(|| {
        train(config, &Device::flex(), COMMIT, resume, &Signals::default(), &Single, |progress| {
            assert!(
                !matches!(progress, Progress::Step { step, .. } if step == at),
                "the wanted crash"
            );
        })
    }));
    assert!(crashed.is_err(), "step {at} comes before the end");
}

/// The error of a run that must fail.
pub fn failure(config: &TrainConfig, resume: impl Into<Resume>) -> String {
    match run(config, resume) {
        Ok(outcome) => panic!("this run cannot succeed: {:?}", outcome.summary),
        Err(error) => error.to_string(),
    }
}

/// The lines of `metrics.jsonl`.
pub fn metrics(config: &TrainConfig) -> Vec<Value> {
    metrics_of(&config.out)
}

fn metrics_of(out: &Path) -> Vec<Value> {
    let text = fs::read_to_string(out.join("metrics.jsonl")).expect("a run writes metrics");
    text.lines().map(|line| serde_json::from_str(line).expect("every line is JSON")).collect()
}

/// Metrics that depend on the clock.
const CLOCKED: [&str; 4] = ["samples_per_sec", "data_wait_share", "flops_per_sec", "unix_time"];

/// The lines of `metrics.jsonl` without the metrics that depend on the clock.
pub fn timeless_metrics(config: &TrainConfig) -> Vec<Value> {
    let mut lines = metrics(config);
    for line in lines.iter_mut().filter_map(Value::as_object_mut) {
        line.retain(|key, _| !CLOCKED.contains(&key.as_str()));
    }
    lines
}

/// Steps of the checkpoints, oldest first. Panics on any other file among them.
pub fn checkpoints(config: &TrainConfig) -> Vec<usize> {
    let entries = fs::read_dir(config.out.join("checkpoints")).expect("a run has checkpoints");
    let names =
        entries.map(|entry| entry.expect("listed").file_name().into_string().expect("ASCII"));
    let step =
        |name: String| name.strip_prefix("step-").expect("a step").parse().expect("a number");
    let mut steps: Vec<usize> = names.map(step).collect();
    steps.sort_unstable();
    steps
}

/// The bytes of the finished model's weights.
pub fn model_bytes(config: &TrainConfig) -> Vec<u8> {
    fs::read(config.out.join("model/model.safetensors")).expect("a finished run has a model")
}

/// The bytes of a checkpoint's moments.
pub fn moment_bytes(config: &TrainConfig, step: usize) -> Vec<u8> {
    let path = config.out.join(format!("checkpoints/step-{step:08}/optimizer.safetensors"));
    fs::read(path).expect("a checkpoint has moments")
}

/// The tensors of a model folder.
pub fn weights(folder: &Path) -> BTreeMap<String, Vec<f32>> {
    let bytes = fs::read(folder.join("model.safetensors")).expect("a model folder");
    let floats = |view: &TensorView| {
        view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    let tensors = SafeTensors::deserialize(&bytes).expect("a whole file").tensors();
    tensors.into_iter().map(|(name, view)| (name, floats(&view))).collect()
}

/// Checks that losses and weights of two runs agree within 1e-5.
///
/// Leaves out the key third of `in_proj_bias`: it does not change the softmax, so its gradient is
/// only rounding error, which LAMB divides by its own size.
pub fn check_same(one: &Path, many: &Path) {
    const KEYS: [&str; 6] = ["loss", "loss_emb", "loss_gen", "loss_rehearsal", "grad_norm", "tau"];
    let (first, second) = (metrics_of(one), metrics_of(many));
    assert_eq!(first.len(), second.len());
    for (one, many) in first.iter().zip(&second) {
        for key in KEYS {
            let value = |line: &Value| line[key].as_f64().unwrap_or(0.0);
            let difference = (value(one) - value(many)).abs();
            assert!(
                difference <= 1e-5 * value(one).abs(),
                "{key}: {} and {}",
                value(one),
                value(many)
            );
        }
        assert_eq!(one["skipped_samples"], many["skipped_samples"]);
    }
    let after = weights(&many.join("model"));
    for (name, one) in weights(&one.join("model")) {
        let third = one.len() / 3;
        let is_key =
            |idx: usize| name.ends_with("in_proj_bias") && (third..2 * third).contains(&idx);
        let pairs = one.iter().zip(&after[&name]).enumerate().filter(|(idx, _)| !is_key(*idx));
        let (difference, whole) = pairs.fold((0.0, 0.0), |(difference, whole), (_, (a, b))| {
            (difference + f64::from(a - b).powi(2), whole + f64::from(*a).powi(2))
        });
        let (difference, whole) = (f64::sqrt(difference), f64::sqrt(whole));
        assert!(difference <= 1e-5 * whole, "{name} differs by {difference} of {whole}");
    }
}

/// Seconds that a rank waits for the others.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `act` on `n_ranks` threads, one per rank, connected through sockets.
pub fn on_ranks<T: Send>(
    n_ranks: usize,
    timeout: Duration,
    act: impl Fn(&Tcp) -> T + Sync,
) -> Vec<T> {
    on_ranks_at("127.0.0.1", n_ranks, timeout, act)
}

/// [`on_ranks`] with another name of this machine.
pub fn on_ranks_at<T: Send>(
    host: &str,
    n_ranks: usize,
    timeout: Duration,
    act: impl Fn(&Tcp) -> T + Sync,
) -> Vec<T> {
    // A port that was free a moment ago.
    let port =
        TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let (master, act) = (format!("{host}:{port}"), &act);
    thread::scope(|scope| {
        let ranks: Vec<_> = (0..n_ranks)
            .map(|rank| {
                let master = &master;
                scope.spawn(move || {
                    act(&Tcp::connect(rank, n_ranks, master, "run", timeout).expect("they meet"))
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().expect("no rank panics")).collect()
    })
}
