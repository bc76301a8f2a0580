//! The loop of a run: batches in, steps, metrics, checkpoints, evaluation.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde_json::{Value, json};

use super::config::{ModelSource, Recipe, TrainConfig};
use super::data::{Batch, Batches};
use super::optimizer::{LambGroups, freeze, global_norm, learning_rate, scale};
use super::plot::loss_plot;
use super::step::{StepGradient, Trainee, gradient};
use super::store::{RunState, Store};
use crate::checkpoint::Dtype;
use crate::config::{ConfigError, MmGemConfig};
use crate::data::source::{SourceError, read_lines};
use crate::eval::held_out::{EvalError, HeldOut};
use crate::files::{FolderError, ModelFolder, create_dir, read, write_atomic};
use crate::generate::Decoding;
use crate::init::{fresh, fresh_where};
use crate::model::MmGem;
use crate::session::Session;
use crate::tokenizer::{Tokenizer, TokenizerError, train_bpe};

/// Batches that are made ready ahead of the device.
const AHEAD: usize = 3;

/// Why a run stops.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A file or folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The data.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The sizes of a fresh model.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The evaluation in the loop.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// There is a run already.
    #[error("this folder holds a run of {steps} steps\n  hint: go on with --resume, or choose another `out`\n  folder: {}", .folder.display())]
    OutNotEmpty {
        /// Steps of its newest checkpoint.
        steps: usize,
        /// Where.
        folder: PathBuf,
    },
    /// The run that is to go on had another config.
    #[error(
        "the run was started with another config: {0}\n  hint: only `steps`, `workers`, [checkpoint] and [eval] may change; choose another `out` for a new run"
    )]
    OtherConfig(String),
    /// Too many steps in a row had no finite loss.
    #[error(
        "{0} steps in a row had a loss or gradient that is not finite\n  hint: lower the learning rates or raise warmup_steps; the newest checkpoint is from before"
    )]
    Diverged(usize),
    /// No sample of a batch could be used.
    #[error("no sample of step {step} could be used; the first: {why}")]
    EmptyBatch {
        /// Which step.
        step: usize,
        /// The first reason.
        why: String,
    },
}

/// What a shell shows while a run goes on.
#[derive(Clone, Debug)]
pub enum Progress {
    /// Where the weights came from, how much data there is, or something odd about it.
    Note(String),
    /// A step is done.
    Step {
        /// Steps done.
        step: usize,
        /// Steps of the run.
        steps: usize,
        /// Weighted sum of the losses; NaN when the step was skipped.
        loss: f64,
        /// Rate of this step.
        samples_per_sec: f64,
    },
    /// Scores on held-out photos.
    Eval(Value),
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct TrainSummary {
    /// Steps done.
    pub step: usize,
    /// Whether all steps are done; otherwise the run was asked to stop and can go on.
    pub finished: bool,
    /// The model folder, if finished.
    pub model: Option<PathBuf>,
}

/// Runs a recipe.
///
/// `device` is where to train, without autodiff; `commit` names the program's source in the run's
/// records; `stop` ends the run at the next step, with a checkpoint.
pub fn train(
    config: &TrainConfig,
    device: &Device,
    commit: &str,
    resume: bool,
    stop: &AtomicBool,
    mut report: impl FnMut(Progress),
) -> Result<TrainSummary, TrainError> {
    let store = Store::new(&config.out, config.checkpoint.keep);
    let newest = store.steps().last().copied();
    match newest {
        Some(steps) if !resume => {
            return Err(TrainError::OutNotEmpty { steps, folder: config.out.clone() });
        }
        Some(_) => check_same_run(config)?,
        None => {}
    }
    create_dir(&config.out)?;
    let device = device.clone().autodiff();
    let start = start_model(config, newest.is_some(), &device)?;
    let (sizes, tokenizer) = (start.config, start.tokenizer);
    write_records(config, &sizes, &start.tokenizer_json, commit)?;

    let mut optimizer = LambGroups::new(&config.optim);
    let mut trainee = Trainee::new(start.model, &sizes, config, &device);
    let mut state = RunState { step: 0, skipped_samples: 0, bad_steps: 0, seconds: 0.0 };
    if let Some(step) = newest {
        (trainee, state) = store.load(step, trainee, &mut optimizer, &device.clone().inner())?;
        report(Progress::Note(format!("going on after step {step}")));
    }
    let mut trainee = freeze(trainee, config);

    let batches = Batches::open(config, &sizes, &tokenizer)?;
    batches.warnings().into_iter().for_each(|warning| report(Progress::Note(warning)));
    report(Progress::Note(format!("{} photos an epoch", batches.n_samples())));
    let mut metrics = Metrics::open(&config.out, state.step)?;
    let held_out = config.eval.clone();

    let steps = config.optim.steps;
    let (sender, receiver) = sync_channel(AHEAD);
    let first = state.step;
    let mut bad_in_a_row = 0;
    thread::scope(|scope| {
        scope.spawn(move || feed(batches, first..steps, &sender));
        let receiver: Receiver<Batch> = receiver;
        while state.step < steps {
            if stop.load(Ordering::Relaxed) {
                store.save(&trainee, &optimizer, &state)?;
                metrics.plot(config)?;
                return Ok(TrainSummary { step: state.step, finished: false, model: None });
            }
            let started = Instant::now();
            let batch = receiver.recv().expect("the feeding thread makes every batch up to the last step");
            let waited = started.elapsed().as_secs_f64();
            state.skipped_samples += batch.skipped.len();
            batch.skipped.iter().for_each(|why| report(Progress::Note(format!("skipped: {why}"))));

            let done;
            (trainee, done) = step(trainee, &batch, &mut optimizer, state.step, &sizes, config, &device)?;
            let Done { mut record, loss, updated } = done;
            bad_in_a_row = if updated { 0 } else { bad_in_a_row + 1 };
            state.bad_steps += usize::from(!updated);
            state.step += 1;
            let seconds = started.elapsed().as_secs_f64();
            state.seconds += seconds;
            let samples_per_sec = batch.samples.len().max(batch.lines.len()) as f64 / seconds;
            record["samples_per_sec"] = json!(samples_per_sec);
            record["data_wait_share"] = json!(waited / seconds);
            record["skipped_samples"] = json!(state.skipped_samples);
            record["bad_steps"] = json!(state.bad_steps);
            metrics.write(&record)?;
            report(Progress::Step { step: state.step, steps, loss, samples_per_sec });
            if bad_in_a_row > config.optim.max_bad_steps {
                return Err(TrainError::Diverged(bad_in_a_row));
            }

            let last = state.step == steps;
            if let Some(eval) = held_out.as_ref().filter(|eval| last || state.step.is_multiple_of(eval.every))
            {
                let model = trainee.model.valid();
                let session = Session::new(sizes.clone(), model, tokenizer.clone(), &device.clone().inner());
                let mut scores = evaluate(&session, config.recipe, &eval.shards, eval.limit)?;
                scores["step"] = json!(state.step);
                metrics.write(&json!({ "eval": scores, "step": state.step }))?;
                report(Progress::Eval(scores));
            }
            // Weights whose loss is not finite must not push out those from before.
            if last || (updated && state.step.is_multiple_of(config.checkpoint.every)) {
                metrics.flush()?;
                store.save(&trainee, &optimizer, &state)?;
                metrics.plot(config)?;
            }
        }
        let folder = config.out.join("model");
        let model = trainee.model.valid();
        ModelFolder { config: sizes, model, tokenizer, tokenizer_json: start.tokenizer_json }
            .write(&folder, Dtype::F32)?;
        let history = history(config, commit, &state, first)?;
        write_atomic(&folder.join("training.json"), history.as_bytes())?;
        Ok(TrainSummary { step: state.step, finished: true, model: Some(folder) })
    })
}

/// Makes batches until the run is over or nobody listens any more.
fn feed(mut batches: Batches, steps: std::ops::Range<usize>, sender: &std::sync::mpsc::SyncSender<Batch>) {
    for step in steps {
        if sender.send(batches.batch(step)).is_err() {
            return;
        }
    }
}

/// What a step leaves behind.
struct Done {
    record: Value,
    loss: f64,
    updated: bool,
}

/// Forward, backward, clipping and update; a loss or gradient that is not finite changes nothing.
fn step(
    trainee: Trainee,
    batch: &Batch,
    optimizer: &mut LambGroups,
    step: usize,
    sizes: &MmGemConfig,
    config: &TrainConfig,
    device: &Device,
) -> Result<(Trainee, Done), TrainError> {
    let Some(StepGradient { losses, total: loss, gradients }) =
        gradient(&trainee, batch, sizes, config, device)
    else {
        let why = batch.skipped.first().cloned().unwrap_or_else(|| "there is no data".into());
        return Err(TrainError::EmptyBatch { step, why });
    };
    let norm = global_norm(&gradients);
    let mut record = json!({
        "step": step + 1,
        "loss": loss,
        "grad_norm": norm,
        "tau": (-f64::from(trainee.model.clamped_logit_scale().inner().into_scalar::<f32>())).exp(),
        "lr_heads": learning_rate("h1.weight", step, &config.optim),
        "lr_towers": learning_rate("llm.", step, &config.optim),
    });
    for (name, value) in losses {
        record[name] = json!(value);
    }
    if !(loss.is_finite() && norm.is_finite()) {
        return Ok((trainee, Done { record, loss: f64::NAN, updated: false }));
    }
    let gradients = if norm > config.optim.clip_norm {
        scale(gradients, config.optim.clip_norm / norm)
    } else {
        gradients
    };
    let trainee = optimizer.step(trainee, gradients, step, &config.optim);
    Ok((trainee, Done { record, loss, updated: true }))
}

/// The scores that a recipe is after, on held-out photos.
fn evaluate(session: &Session, recipe: Recipe, shards: &[String], limit: usize) -> Result<Value, EvalError> {
    let held_out = HeldOut::encode(session, shards, Some(limit), |_, _| {})?;
    let decoding = Decoding::default();
    let to_value = |scores: serde_json::Result<Value>| scores.expect("plain structs serialise");
    pollster::block_on(async {
        match recipe {
            Recipe::Warmup => Ok(json!({})),
            Recipe::Stage1 => {
                let mut scores = to_value(serde_json::to_value(held_out.retrieval(session).await?));
                let captions = held_out.captions(session, decoding, |_, _| {}).await?;
                scores["cider"] = json!(captions.scores.cider);
                scores["example"] = json!(captions.captions.first().map(|(_, caption)| caption));
                Ok(scores)
            }
            Recipe::Stage2Caption | Recipe::Stage2Retrieval => {
                Ok(to_value(serde_json::to_value(held_out.regions(session, decoding, |_, _| {}).await?)))
            }
        }
    })
}

/// The model a run starts from; a run that goes on takes sizes and tokenizer from its own records.
fn start_model(config: &TrainConfig, resumed: bool, device: &Device) -> Result<ModelFolder, TrainError> {
    let source: &ModelSource = &config.model;
    if resumed {
        let sizes =
            MmGemConfig::from_json(&String::from_utf8_lossy(&read(&config.out.join("config.json"))?))?;
        let tokenizer_json = read(&config.out.join("tokenizer.json"))?;
        let tokenizer = Tokenizer::from_json(&tokenizer_json, &sizes)?;
        // The values follow from the checkpoint.
        return Ok(ModelFolder {
            model: MmGem::new(&sizes, device),
            config: sizes,
            tokenizer,
            tokenizer_json,
        });
    }
    if let Some(folder) = &source.from {
        let mut start = ModelFolder::read(folder, device)?;
        start.model = match config.recipe {
            // Stage 2's h4 belongs to the h1 that it was trained on.
            Recipe::Stage1 => {
                fresh_where(start.model, &start.config, config.seed, &|path| path.starts_with("h4."))
            }
            Recipe::Stage2Caption => prompts_from_cap_token(start.model),
            _ => start.model,
        };
        return Ok(start);
    }
    let path = source.config.as_ref().expect("the config was checked");
    let sizes = MmGemConfig::from_json(&String::from_utf8_lossy(&read(path)?))?;
    let tokenizer_json = match &source.tokenizer {
        Some(path) => read(path)?,
        None => {
            let mut lines = Vec::new();
            for path in &source.tokenizer_text {
                lines.extend(read_lines(path)?);
            }
            train_bpe(&lines, sizes.llm.vocab_size)?.into_bytes()
        }
    };
    let tokenizer = Tokenizer::from_json(&tokenizer_json, &sizes)?;
    let model = fresh(MmGem::new(&sizes, device), &sizes, config.seed);
    Ok(ModelFolder { config: sizes, model, tokenizer, tokenizer_json })
}

/// Stage 2 starts where stage 1 ended: every `[CAP_i]` is `[CAP]`, and their places tell them apart.
fn prompts_from_cap_token(mut model: MmGem) -> MmGem {
    let [n, width] = model.cap_prompts.val().dims();
    let prompts = model.cap_token.val().inner().reshape([1, width]).repeat_dim(0, n);
    model.cap_prompts = model.cap_prompts.map(|_| Tensor::from_inner(prompts).require_grad());
    model
}

/// What a run was, beside its checkpoints.
fn write_records(
    config: &TrainConfig,
    sizes: &MmGemConfig,
    tokenizer_json: &[u8],
    commit: &str,
) -> Result<(), FolderError> {
    let toml = toml::to_string_pretty(config).expect("the config was read from TOML");
    write_atomic(&config.out.join("train.toml"), format!("# commit {commit}\n{toml}").as_bytes())?;
    write_atomic(&config.out.join("config.json"), sizes.to_json().as_bytes())?;
    write_atomic(&config.out.join("tokenizer.json"), tokenizer_json)
}

/// A run may only go on with the config it was started with, apart from its length and its care.
fn check_same_run(config: &TrainConfig) -> Result<(), TrainError> {
    let old = read(&config.out.join("train.toml"))?;
    let old: TrainConfig = toml::from_str(&String::from_utf8_lossy(&old))
        .map_err(|e| TrainError::OtherConfig(format!("train.toml cannot be read ({e})")))?;
    let essence = |config: &TrainConfig| {
        let mut value = toml::Value::try_from(config).expect("a config is TOML");
        let table = value.as_table_mut().expect("a config is a table");
        table.remove("checkpoint");
        table.remove("eval");
        if let Some(optim) = table.get_mut("optim").and_then(toml::Value::as_table_mut) {
            optim.remove("steps");
            optim.remove("workers");
        }
        value
    };
    let (old, new) = (essence(&old), essence(config));
    let empty = toml::Table::new();
    let (old, new) = (old.as_table().unwrap_or(&empty), new.as_table().unwrap_or(&empty));
    match old.keys().chain(new.keys()).find(|key| old.get(*key) != new.get(*key)) {
        Some(key) => Err(TrainError::OtherConfig(format!(
            "{key} was {}, is {}",
            old.get(key).map_or("absent".into(), toml::Value::to_string),
            new.get(key).map_or("absent".into(), toml::Value::to_string)
        ))),
        None => Ok(()),
    }
}

/// `training.json`: how the weights beside it were made, and before them those they started from.
fn history(
    config: &TrainConfig,
    commit: &str,
    state: &RunState,
    first: usize,
) -> Result<String, FolderError> {
    let mut runs: Vec<Value> = match config.model.from.as_ref().map(|from| from.join("training.json")) {
        Some(path) if path.is_file() => serde_json::from_slice(&read(&path)?).unwrap_or_default(),
        _ => Vec::new(),
    };
    runs.push(json!({
        "recipe": config.recipe,
        "config": config,
        "commit": commit,
        "state": state,
        "resumed_at": first,
    }));
    Ok(serde_json::to_string_pretty(&runs).expect("plain values serialise"))
}

/// `metrics.jsonl` and the plot of its losses.
struct Metrics {
    file: File,
    path: PathBuf,
}

impl Metrics {
    /// Opens the file and drops what steps after `step` had written before the run was cut off.
    fn open(out: &Path, step: usize) -> Result<Self, FolderError> {
        let path = out.join("metrics.jsonl");
        let kept: String = match File::open(&path) {
            Ok(file) => BufReader::new(file)
                .lines()
                .map_while(Result::ok)
                .filter(|line| step_of(line).is_some_and(|at| at <= step))
                .fold(String::new(), |all, line| all + &line + "\n"),
            Err(_) => String::new(),
        };
        write_atomic(&path, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path).map_err(|cause| FolderError::Io {
            action: "append to the file",
            cause,
            path: path.clone(),
        })?;
        Ok(Self { file, path })
    }

    fn write(&mut self, record: &Value) -> Result<(), FolderError> {
        self.io(|file| file.write_all(format!("{record}\n").as_bytes()))
    }

    fn flush(&mut self) -> Result<(), FolderError> {
        self.io(|file| file.sync_data())
    }

    fn io(&mut self, act: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<(), FolderError> {
        act(&mut self.file).map_err(|cause| FolderError::Io {
            action: "append to the file",
            cause,
            path: self.path.clone(),
        })
    }

    /// Draws `loss.svg` anew from the whole file.
    fn plot(&self, config: &TrainConfig) -> Result<(), FolderError> {
        const NAMES: [&str; 6] =
            ["loss_emb", "loss_gen", "loss_rehearsal", "loss_distill", "loss_grounding", "loss_text"];
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let records: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let curve = |name: &str| -> Vec<(f64, f64)> {
            records.iter().filter_map(|r| Some((r["step"].as_f64()?, r.get(name)?.as_f64()?))).collect()
        };
        let curves: Vec<_> = NAMES
            .iter()
            .map(|name| ((*name).to_owned(), curve(name)))
            .filter(|(_, points)| !points.is_empty())
            .collect();
        let title = config.out.file_name().unwrap_or_default().to_string_lossy();
        match loss_plot(&title, &curves) {
            Ok(svg) => write_atomic(&config.out.join("loss.svg"), svg.as_bytes()),
            // A picture is no reason to lose a run.
            Err(why) => {
                tracing::debug!("loss.svg was not drawn: {why}");
                Ok(())
            }
        }
    }
}

fn step_of(line: &str) -> Option<usize> {
    serde_json::from_str::<Value>(line).ok()?["step"].as_u64().map(|step| step as usize)
}
