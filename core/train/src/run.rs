//! The training loop: takes batches, runs steps, writes metrics and checkpoints, and evaluates.
//!
//! Before every step the ranks exchange a few numbers. Among them are their counts, a request to
//! save or stop, and whether the newest checkpoint is written. A failure on one rank is sent to all
//! ranks before they continue. At the start and at every checkpoint the ranks check that they have
//! the same weights (`agreement.rs`).

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use burn::module::Module;
use burn::tensor::Device;
use mmgem_collective::{Collective, CollectiveError, exchange_numbers, first_failure, from_rank_0};
use mmgem_core::checkpoint::Dtype;
use mmgem_core::config::{ConfigError, MmGemConfig};
use mmgem_core::model::MmGem;
use mmgem_core::session::Session;
use mmgem_core::tokenizer::{Tokenizer, TokenizerError};
use mmgem_data::files::{FolderError, ModelFolder, create_dir, write_atomic};
use mmgem_data::patterns::expand;
use mmgem_data::source::SourceError;
use mmgem_eval::run::EvalError;
use serde_json::{Value, json};

use super::agreement::first_other;
use super::average::{Average, to_tensors, with_averages};
use super::best::Best;
use super::cache::PatchCache;
use super::config::{OptimConfig, TrainConfig, TrainConfigError};
use super::data::{Batch, Batches, index_for_ranks};
use super::evaluation::evaluate;
use super::groups::check_frozen_blocks;
use super::health::{Limits, Sign, Vitals, fatal, observe, trouble_since};
use super::lora::merge;
use super::metrics::Metrics;
use super::optimizer::{
    OptimizerGroups, describe_new_rate, freeze, is_trained, learning_rate, scale,
};
use super::plan::{contrasts, flops_per_sample};
use super::start::{
    check_same_run, earlier_runs, history, send_state, send_weights, start_model, write_records,
};
use super::step::{COUNTS, StepContext, StepGradient, Totals, Trainee, gradient};
use super::store::{LossAndNorm, Moments, RunState, Saved, Store};

/// Batches prepared ahead of the device.
pub(crate) const AHEAD: usize = 3;

/// Seconds without a batch after which a rank logs a warning.
const STARVING_SECS: u64 = 30;

/// Number of steps after which the share of time spent waiting for data is checked.
const WAIT_WINDOW: usize = 100;

/// Share of time spent waiting above which the user is warned.
const WAIT_SHARE: f64 = 0.2;

/// Errors that end a run.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A file or folder cannot be read or written.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The data cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The run's config does not fit its model.
    #[error(transparent)]
    TrainConfig(#[from] TrainConfigError),
    /// The sizes of a fresh model are invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The tokenizer cannot be read, trained or used with this model.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The evaluation in the loop failed.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// The output folder already holds a run.
    #[error("this folder holds a run of {steps} steps\n  hint: continue it with --resume, or choose another `out`\n  folder: {}", .folder.display())]
    OutNotEmpty {
        /// Steps of its newest checkpoint.
        steps: usize,
        /// The output folder.
        folder: PathBuf,
    },
    /// The resumed run was started with another config.
    #[error(
        "the run was started with another config: {0}\n  hint: only steps, workers, micro_batch, recompute, max_bad_steps, chance_steps, shard_moments, [checkpoint], [eval], [cluster] and [hardware] may change, the learning rates and clip_norm only down, warmup_steps only up, and paths to the same files; choose another `out` for a new run"
    )]
    OtherConfig(String),
    /// No checkpoint is known as the best one.
    #[error("no checkpoint is the best one yet\n  hint: checkpoint.keep_best names the score of the evaluations that decides; --resume alone goes on from the newest\n  folder: {}", .0.display())]
    NoBest(PathBuf),
    /// The folder to go on from is not a checkpoint of the run.
    #[error("this is not a checkpoint of the run\n  hint: its checkpoints are in {}\n  folder: {}", .1.display(), .0.display())]
    NoCheckpoint(PathBuf, PathBuf),
    /// The raw weights were asked for, but the run has no averaged ones.
    #[error("this checkpoint has no averaged weights, so that its weights are always the raw ones\n  hint: leave out --raw\n  folder: {}", .0.display())]
    NoAverage(PathBuf),
    /// Too many consecutive steps had a loss or gradient that is not finite.
    #[error("{steps} steps in a row had a loss or gradient that is not finite\n  hint: {advice}")]
    Diverged {
        /// Consecutive steps without an update.
        steps: usize,
        /// The checkpoint to go on from.
        advice: String,
    },
    /// The numbers are finite, but the run no longer learns.
    #[error("the run has collapsed: {} since step {since}\n  hint: {advice}", .sign.describe())]
    Collapsed {
        /// The sign of it.
        sign: Sign,
        /// Step at which the sign began.
        since: usize,
        /// The checkpoint to go on from.
        advice: String,
    },
    /// Every step of the run had a loss or gradient that is not finite.
    #[error(
        "nothing was learned: none of the {0} steps had a finite loss and gradient\n  hint: lower the learning rates, train in f32 (optim.compute_dtype), and check that the initial weights are finite (mmgem info)"
    )]
    NeverFinite(usize),
    /// No sample of a whole epoch, or of many consecutive steps, could be used.
    #[error("no sample could be used in {steps} step{} in a row; the first: {why}", if *.steps == 1 { "" } else { "s" })]
    NothingUsable {
        /// Consecutive steps without a usable sample.
        steps: usize,
        /// The first reason.
        why: String,
    },
    /// The device cannot compute in bf16.
    #[error(
        "this device does not compute in bf16, which optim.compute_dtype wants\n  hint: NVIDIA GPUs since Ampere (--device cuda) and the CPU do; elsewhere train with optim.compute_dtype=f32"
    )]
    NoBf16,
    /// The ranks lost contact, or are out of sync.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// Another rank failed.
    #[error("rank {rank} failed: {why}")]
    OtherRank {
        /// The rank that failed.
        rank: usize,
        /// Its error message.
        why: String,
    },
}

/// Signals from the user to a running training; the loop checks them between two steps.
#[derive(Debug, Default)]
pub struct Signals {
    /// Save a checkpoint and stop.
    pub stop: AtomicBool,
    /// Save a checkpoint and continue.
    pub save: AtomicBool,
}

/// The checkpoint that a run goes on from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// None: the run starts anew, and `out` must hold no run.
    #[default]
    No,
    /// The newest one that is intact. Without a checkpoint the run starts anew.
    Latest,
    /// The best one by `checkpoint.keep_best`.
    Best,
    /// The one in this folder.
    From(PathBuf),
}

impl From<bool> for Resume {
    /// [`Resume::Latest`] if true.
    fn from(resume: bool) -> Self {
        if resume { Self::Latest } else { Self::No }
    }
}

impl Resume {
    /// The step to go on from; read on rank 0.
    fn step(
        &self,
        store: &Store,
        mut warn: impl FnMut(String),
    ) -> Result<Option<usize>, TrainError> {
        let step = match self {
            Self::No => return Ok(store.steps().last().copied()),
            Self::Latest => return Ok(store.newest_intact(warn)?),
            Self::Best => {
                let newest = store.newest_intact(&mut warn)?;
                let best = newest.map(|step| store.state(step)).transpose()?;
                let best = best.and_then(|state| state.best).map(|best| best.step);
                best.ok_or_else(|| TrainError::NoBest(store.folder().to_owned()))?
            }
            Self::From(folder) => store
                .step_at(folder)
                .ok_or_else(|| TrainError::NoCheckpoint(folder.clone(), store.folder().into()))?,
        };
        store.check(step)?;
        Ok(Some(step))
    }
}

/// Progress that a shell shows during a run.
#[derive(Clone, Debug)]
pub enum Progress {
    /// Where the weights came from, how much data there is, or a warning.
    Note(String),
    /// The reason why a sample could not be used.
    Skipped(String),
    /// A step is done.
    Step {
        /// Steps done.
        step: usize,
        /// Steps of the run.
        steps: usize,
        /// The step's line in `metrics.jsonl`.
        record: Value,
    },
    /// A checkpoint is complete and on disk.
    Saved {
        /// Steps done.
        step: usize,
        /// Seconds that it took to write, beside the training.
        seconds: f64,
    },
    /// Scores on held-out photos.
    Eval(Value),
}

/// The outcome of a run.
#[derive(Clone, Debug)]
pub struct TrainSummary {
    /// Steps done.
    pub step: usize,
    /// Whether all steps are done. If not, the user asked the run to stop, and it can be resumed.
    pub finished: bool,
    /// The model folder, if finished.
    pub model: Option<PathBuf>,
}

/// Runs a recipe.
///
/// `device` is the training device, without autodiff. `commit` names the program's source version
/// in the run's records. Every process of `group` calls this function with the same config. Rank 0
/// writes the files, and all ranks must be able to read them.
pub fn train(
    config: &TrainConfig,
    device: &Device,
    commit: &str,
    resume: impl Into<Resume>,
    signals: &Signals,
    group: &dyn Collective,
    mut report: impl FnMut(Progress),
) -> Result<TrainSummary, TrainError> {
    let resume = resume.into();
    // Rank 0 may check checkpoints and index shards for longer than the time-out.
    let starting = group.busy();
    let store = Store::new(&config.out, config.checkpoint.keep);
    // Over a network file system, the folder may look older to one machine than to another: rank 0
    // decides.
    let newest = match group.rank() {
        0 => resume.step(&store, |line| report(Progress::Note(line))),
        _ => Ok(None),
    };
    let newest = agree(group, newest)?;
    let newest = newest.map_or(String::new(), |step| step.to_string());
    let newest = String::from_utf8_lossy(&from_rank_0(group, newest.as_bytes())?).parse().ok();
    let resume = resume != Resume::No;
    if group.size() > 1 && (newest.is_none() || resume) {
        let indexed = if group.rank() == 0 { index_for_ranks(config) } else { Ok(()) };
        agree(group, indexed)?;
    }
    let start = agree(
        group,
        Start::begin(config, device, commit, resume, newest, &store, group.rank(), &mut report),
    )?;
    let start = start.on_all_ranks(newest.is_some(), config, group)?;
    let mut run =
        agree(group, Run::begin(config, device, start, newest, store, group, &mut report))?;
    run.check_same_start()?;
    let is_clear = match group.rank() {
        0 => run.store.set_aside_after(run.state.step, |line| report(Progress::Note(line))),
        _ => Ok(()),
    };
    agree(group, is_clear.map_err(TrainError::from))?;
    drop(starting);

    let (sender, receiver) = sync_channel(AHEAD);
    let steps = run.state.step..config.optim.steps;
    let batches = run.batches.take().expect("just opened");
    // The thread is not joined, because a data source that hangs must not keep the run from ending.
    thread::spawn(move || send_batches(batches, steps, &sender));
    while run.state.step < config.optim.steps {
        if !run.advance(&receiver, signals, &mut report)? {
            return Ok(TrainSummary { step: run.state.step, finished: false, model: None });
        }
    }
    run.finish_saving(&mut report)?;
    if let Some(best) = run.state.best.as_ref().filter(|_| group.rank() == 0) {
        let Best { score, value, step } = best;
        let folder = run.store.path(*step);
        report(Progress::Note(format!(
            "the best {score} of the run, {value:.4}, is that of step {step}\n  folder: {}",
            folder.display()
        )));
    }
    run.finish(commit)
}

/// Sends one batch per step, until all are sent or the receiver is dropped.
fn send_batches(
    mut batches: Batches,
    steps: std::ops::Range<usize>,
    sender: &std::sync::mpsc::SyncSender<Batch>,
) {
    for step in steps {
        if sender.send(batches.batch(step)).is_err() {
            return;
        }
    }
}

/// Waits for the next batch. Returns `None` when the user asks the run to stop.
fn wait_for_batch(
    receiver: &Receiver<Batch>,
    signals: &Signals,
    step: usize,
    rank: usize,
) -> Option<Batch> {
    let started = Instant::now();
    let mut n_warnings = 0;
    while !signals.stop.load(Ordering::Relaxed) {
        match receiver.recv_timeout(Duration::from_millis(100)) {
            Ok(batch) => return Some(batch),
            Err(RecvTimeoutError::Disconnected) => {
                panic!("the feeding thread ended before the last step")
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        let waited = started.elapsed().as_secs();
        if waited / STARVING_SECS > n_warnings {
            n_warnings = waited / STARVING_SECS;
            tracing::warn!(
                "rank {rank} has waited {waited} s for the samples of step {}",
                step + 1
            );
        }
    }
    None
}

/// Makes a failure on one rank a failure on all ranks.
pub(super) fn agree<T>(
    group: &dyn Collective,
    own: Result<T, TrainError>,
) -> Result<T, TrainError> {
    let failure = first_failure(group, own.as_ref().err().map(ToString::to_string))?;
    match (own, failure) {
        (Ok(_), Some((rank, why))) => Err(TrainError::OtherRank { rank, why }),
        (own, _) => own,
    }
}

/// The state of a run between two steps.
struct Run<'a> {
    config: &'a TrainConfig,
    group: &'a dyn Collective,
    device: Device,
    store: Store,
    sizes: MmGemConfig,
    tokenizer: Tokenizer,
    tokenizer_json: Vec<u8>,
    /// `None` while the optimizer updates it.
    trainee: Option<Trainee>,
    optimizer: OptimizerGroups,
    /// Present with `optim.ema`.
    average: Option<Average>,
    state: RunState,
    /// Steps done when this process started.
    first: usize,
    /// `None` once the feeding thread has taken it.
    batches: Option<Batches>,
    /// Steps of an epoch, if known.
    epoch: Option<usize>,
    /// Present on rank 0 only.
    metrics: Option<Metrics>,
    bad_in_a_row: usize,
    empty_in_a_row: usize,
    /// Rank 0's norm of the newest gradient.
    norm: f64,
    /// Seconds, waiting seconds and the slowest rank, for each step since the last check.
    window: Vec<(f64, f64, usize)>,
}

/// The numbers that the ranks exchange before a step, combined over all ranks.
struct RankReports {
    totals: Totals,
    skipped: usize,
    waited: f64,
    slowest: usize,
    stop: bool,
    save: bool,
    /// Whether rank 0 has written the newest checkpoint, or failed to.
    is_saved: bool,
}

/// What a run starts from.
struct Start {
    sizes: MmGemConfig,
    tokenizer: Tokenizer,
    tokenizer_json: Vec<u8>,
    trainee: Trainee,
    optimizer: OptimizerGroups,
    /// Present if the run is resumed with `optim.ema`; until [`Self::on_all_ranks`] on rank 0 only.
    average: Option<Average>,
    state: RunState,
    /// The optimizer's settings before the run was resumed.
    before: Option<OptimConfig>,
}

impl Start {
    /// Rank 0 reads the weights of `model.from`, or the checkpoint of a resumed run; the others get
    /// the tensors in [`Self::on_all_ranks`].
    #[expect(
        clippy::too_many_arguments,
        reason = "the first third of `train`, called in one place"
    )]
    fn begin(
        config: &TrainConfig,
        device: &Device,
        commit: &str,
        resume: bool,
        newest: Option<usize>,
        store: &Store,
        rank: usize,
        report: &mut impl FnMut(Progress),
    ) -> Result<Self, TrainError> {
        if !device.supports_dtype(config.optim.compute_dtype.dtype()) {
            return Err(TrainError::NoBf16);
        }
        let is_writer = rank == 0;
        let mut before = None;
        match newest {
            Some(steps) if !resume => {
                return Err(TrainError::OutNotEmpty { steps, folder: config.out.clone() });
            }
            Some(_) if is_writer => {
                let found = check_same_run(config)?;
                found.changes.iter().for_each(|change| report(Progress::Note(change.clone())));
                before = Some(found.optim);
            }
            _ => {}
        }
        if let Some(eval) = &config.eval {
            expand(&eval.shards)?;
        }
        let device = device.clone().autodiff();
        let start = start_model(config, newest.is_some(), rank, &device)?;
        let sizes = start.config;
        check_frozen_blocks(config, &sizes)?;
        if is_writer {
            // The finished model's record needs them, so damage is reported before the first step.
            earlier_runs(config)?;
            create_dir(&config.out)?;
            write_records(config, &sizes, &start.tokenizer_json, commit)?;
        }
        let mut trainee = Trainee::new(start.model, &sizes, config, &device);
        let mut optimizer = OptimizerGroups::new(&trainee, &config.optim, &device.inner())?;
        let (mut state, mut average) = (RunState::default(), None);
        if let Some(step) = newest.filter(|_| is_writer) {
            (trainee, state) = store.load(step, trainee, &mut optimizer)?;
            average = new_average(&trainee, config);
            average.as_mut().map_or(Ok(()), |average| store.load_average(step, average))?;
            // Another score may choose the best one now, or its folder may have been removed.
            state.best = state.best.filter(|best| {
                config.checkpoint.keep_best.as_ref() == Some(&best.score)
                    && (best.step == step || store.path(best.step).is_dir())
            });
        }
        let (tokenizer, tokenizer_json) = (start.tokenizer, start.tokenizer_json);
        Ok(Self { sizes, tokenizer, tokenizer_json, trainee, optimizer, average, state, before })
    }

    /// Sends what rank 0 has read to all ranks, and shares out the moments.
    fn on_all_ranks(
        mut self,
        resumed: bool,
        config: &TrainConfig,
        group: &dyn Collective,
    ) -> Result<Self, TrainError> {
        let shares = config.optim.shard_moments && group.size() > 1;
        if group.size() > 1 && (resumed || config.model.from.is_some()) {
            self.trainee = send_weights(self.trainee, group)?;
        }
        if group.size() > 1 && resumed {
            self.state =
                send_state(&self.trainee, &self.state, &mut self.optimizer, shares, group)?;
            if group.rank() > 0 {
                self.average = new_average(&self.trainee, config);
                self.shard_average();
            }
            self.average.as_mut().map_or(Ok(()), |average| average.send(group))?;
        }
        // Rank 0 needed all moments and averages until it had sent them.
        if shares && (group.rank() == 0 || !resumed) {
            self.optimizer.shard(&self.trainee, group);
            self.shard_average();
        }
        Ok(self)
    }

    /// Keeps the averages of this rank's parameters, if the ranks share out the moments.
    fn shard_average(&mut self) {
        if let (Some(average), Some(ownership)) = (&mut self.average, self.optimizer.ownership()) {
            average.shard(ownership);
        }
    }
}

/// The average of a run with `optim.ema`, from these weights on.
fn new_average(trainee: &Trainee, config: &TrainConfig) -> Option<Average> {
    let device = trainee.model.logit_scale.lazy_device().inner();
    let decay = config.optim.ema?;
    Some(Average::new(&freeze(trainee.clone(), config), decay, &device))
}

impl<'a> Run<'a> {
    fn begin(
        config: &'a TrainConfig,
        device: &Device,
        start: Start,
        newest: Option<usize>,
        store: Store,
        group: &'a dyn Collective,
        report: &mut impl FnMut(Progress),
    ) -> Result<Self, TrainError> {
        let Start {
            sizes,
            tokenizer,
            tokenizer_json,
            mut trainee,
            optimizer,
            mut average,
            state,
            before,
        } = start;
        let (device, is_writer) = (device.clone().autodiff(), group.rank() == 0);
        // As after each step: a model may come with a temperature beyond its bounds.
        trainee.model.clamp_logit_scale();
        let trainee = freeze(trainee, config);
        if average.is_none() {
            average = new_average(&trainee, config);
            let own = average.iter_mut().zip(optimizer.ownership());
            own.for_each(|(average, ownership)| average.shard(ownership));
        }
        let cache = match &config.data.cache {
            Some(folder) => Some(PatchCache::open(folder, trainee.model.visual.valid(), &sizes)?),
            None => None,
        };
        if let Some(cache) = cache.as_ref().filter(|_| is_writer) {
            report(Progress::Note(format!("the cache has {} views of photos", cache.len())));
        }
        let batches = Batches::open(config, &sizes, &tokenizer, group.rank(), group.size())?
            .with_cache(cache);
        if is_writer {
            newest
                .iter()
                .for_each(|step| report(Progress::Note(format!("going on after step {step}"))));
            let same_data = batches.check_same_data(newest.is_some())?;
            let warnings = same_data.into_iter().chain(batches.warnings());
            warnings.for_each(|warning| report(Progress::Note(warning)));
            report(Progress::Note(batches.describe()));
        }
        let mut metrics =
            if is_writer { Some(Metrics::open(&config.out, state.step)?) } else { None };
        let rate = before.and_then(|old| describe_new_rate(state.step, &old, &config.optim));
        if let (Some(metrics), Some(rate)) = (&mut metrics, rate) {
            metrics
                .write(&json!({ "step": state.step, "note": rate, "unix_time": unix_time() }))?;
            report(Progress::Note(rate));
        }
        Ok(Self {
            config,
            group,
            device,
            store,
            tokenizer_json,
            tokenizer,
            trainee: Some(trainee),
            optimizer,
            average,
            first: state.step,
            epoch: batches.epoch_steps(),
            batches: Some(batches),
            metrics,
            sizes,
            state,
            bad_in_a_row: 0,
            empty_in_a_row: 0,
            norm: 0.0,
            window: Vec::new(),
        })
    }

    fn trainee(&self) -> &Trainee {
        self.trainee.as_ref().expect("there between two steps")
    }

    /// Checks that all ranks start with the same weights at the same step.
    fn check_same_start(&self) -> Result<(), TrainError> {
        match first_other(self.group, self.state.step as u64, self.trainee())? {
            Some(rank) => Err(TrainError::Collective(CollectiveError::Disagree(format!(
                "rank {rank} starts with different weights than rank 0: is {} the same folder on both?",
                self.config.out.display()
            )))),
            None => Ok(()),
        }
    }

    /// Checks before a checkpoint that all ranks still have the same weights.
    fn check_same_weights(&self) -> Result<(), TrainError> {
        match first_other(self.group, self.state.step as u64, self.trainee())? {
            Some(rank) => Err(TrainError::Collective(CollectiveError::Disagree(format!(
                "rank {rank} has different weights than rank 0 after step {}: they have drifted apart since the newest checkpoint, so resume from it; GPUs of several kinds need optim.shard_moments, by which each weight has one owner",
                self.state.step
            )))),
            None => Ok(()),
        }
    }

    /// Runs one step. Returns false if the run was asked to stop and has saved a checkpoint.
    fn advance(
        &mut self,
        receiver: &Receiver<Batch>,
        signals: &Signals,
        report: &mut impl FnMut(Progress),
    ) -> Result<bool, TrainError> {
        let (step, steps) = (self.state.step, self.config.optim.steps);
        let started = Instant::now();
        let batch = wait_for_batch(receiver, signals, step, self.group.rank());
        let reports =
            self.exchange_reports(batch.as_ref(), signals, started.elapsed().as_secs_f64())?;
        if reports.is_saved {
            self.finish_saving(report)?;
        }
        let (Some(batch), false) = (batch, reports.stop) else {
            self.save(report)?;
            self.finish_saving(report)?;
            return Ok(false);
        };
        batch.skipped.iter().for_each(|why| report(Progress::Skipped(why.clone())));
        self.state.skipped_samples += reports.skipped;

        let mut done = self.step(&batch, &reports)?;
        self.state.step += 1;
        let seconds = started.elapsed().as_secs_f64();
        self.state.seconds += seconds;
        let samples_per_sec = reports.totals.n_samples() / seconds;
        if let Some(metrics) = &mut self.metrics {
            let record = &mut done.record;
            record["samples_per_sec"] = json!(samples_per_sec);
            record["data_wait_share"] = json!(reports.waited / seconds);
            let flops = flops_per_sample(&self.sizes, self.config, reports.totals.text_tokens());
            let flops_per_sec = flops * samples_per_sec / self.group.size() as f64;
            record["flops_per_sec"] = json!(flops_per_sec);
            if let Some(peak) = self.config.hardware.peak_tflops {
                record["share_of_peak"] = json!(flops_per_sec / (peak * 1e12));
            }
            record["skipped_samples"] = json!(self.state.skipped_samples);
            record["bad_steps"] = json!(self.state.bad_steps);
            record["unix_time"] = json!(unix_time());
            metrics.write(record)?;
            report(Progress::Step { step: step + 1, steps, record: done.record });
        }
        self.warn_of_waiting(seconds, &reports, report);
        if self.group.rank() == 0 {
            done.signs.iter().for_each(|sign| report(Progress::Note(self.warning_of(*sign))));
        }
        self.check_learning()?;
        let last = self.state.step == steps;
        self.check_usable(&batch, last)?;

        let mut is_best = false;
        if self
            .config
            .eval
            .as_ref()
            .is_some_and(|eval| last || self.state.step.is_multiple_of(eval.every))
        {
            let _evaluating = self.group.busy();
            let evaluated = self.evaluate(report);
            agree(self.group, evaluated)?;
            is_best = self.state.best.as_ref().is_some_and(|best| best.step == self.state.step);
            is_best = from_rank_0(self.group, &[u8::from(is_best)])? == [1];
        }
        // Weights that give a loss that is not finite must not replace earlier checkpoints.
        let due = done.updated && self.state.step.is_multiple_of(self.config.checkpoint.every);
        if last || due || is_best || reports.save {
            self.save(report)?;
        }
        Ok(true)
    }

    /// Exchanges this rank's numbers with all ranks and combines them.
    ///
    /// # Errors
    /// If contact is lost.
    fn exchange_reports(
        &self,
        batch: Option<&Batch>,
        signals: &Signals,
        waited: f64,
    ) -> Result<RankReports, TrainError> {
        let mut own =
            batch.map_or([0.0; COUNTS], |batch| Totals::count(batch, self.config)).to_vec();
        let flag = |is_set: bool| f64::from(u8::from(is_set));
        own.extend([
            batch.map_or(0, |batch| batch.n_skipped) as f64,
            waited,
            flag(batch.is_none()),
            flag(signals.save.swap(false, Ordering::Relaxed)),
            flag(self.store.is_done()),
        ]);
        let ranks = exchange_numbers(self.group, &own)?;
        let column = |at: usize| ranks.iter().map(move |numbers| numbers[COUNTS + at]);
        let waited: Vec<f64> = column(1).collect();
        let slowest =
            (0..waited.len()).max_by(|a, b| waited[*a].total_cmp(&waited[*b])).unwrap_or(0);
        Ok(RankReports {
            totals: Totals::add_up(&ranks),
            skipped: column(0).sum::<f64>() as usize,
            waited: waited[slowest],
            slowest,
            stop: column(2).any(|stop| stop > 0.0),
            save: column(3).any(|save| save > 0.0),
            is_saved: column(4).any(|is_saved| is_saved > 0.0),
        })
    }

    /// Forward, backward, clipping and update. A loss or gradient that is not finite leaves the
    /// weights unchanged.
    fn step(&mut self, batch: &Batch, reports: &RankReports) -> Result<Done, TrainError> {
        let (config, step) = (self.config, self.state.step);
        if reports.totals.n_samples() == 0.0 {
            self.empty_in_a_row += 1;
            self.state.empty_steps += 1;
            let record = json!({ "step": step + 1, "empty_steps": self.state.empty_steps });
            return Ok(Done::without_update(record));
        }
        self.empty_in_a_row = 0;
        let context = StepContext {
            sizes: &self.sizes,
            config,
            device: &self.device,
            totals: &reports.totals,
        };
        let StepGradient { losses, total: loss, gradients, norm, spread, log_scale } =
            gradient(self.trainee(), batch, &context, self.group)?;
        self.norm = norm;
        let mut record = json!({
            "step": step + 1,
            "loss": loss,
            "grad_norm": self.norm,
            "tau": (-f64::from(log_scale)).exp(),
            "lr_heads": learning_rate("h1.weight", step, &config.optim),
            "lr_towers": learning_rate("llm.", step, &config.optim),
        });
        for (name, value) in &losses {
            record[*name] = json!(value);
        }
        if let Some([image, text]) = spread {
            record["image_spread"] = json!(image);
            record["text_spread"] = json!(text);
        }
        if !(loss.is_finite() && self.norm.is_finite()) {
            self.bad_in_a_row += 1;
            self.state.bad_steps += 1;
            return Ok(Done::without_update(record));
        }
        self.bad_in_a_row = 0;
        self.state.newest = Some(LossAndNorm { loss, grad_norm: self.norm });
        let n_pairs = reports.totals.rows.iter().sum();
        let signs = self.observe(n_pairs, &losses, spread, log_scale);
        let gradients = if self.norm > config.optim.clip_norm {
            scale(gradients, config.optim.clip_norm / self.norm)
        } else {
            gradients
        };
        let trainee = self.trainee.take().expect("there between two steps");
        let trainee = self.optimizer.step(trainee, gradients, step, &config.optim, self.group)?;
        let mut trainee = self.optimizer.share_weights(trainee, self.group)?;
        trainee.model.clamp_logit_scale();
        self.average.iter_mut().for_each(|average| average.update(&trainee));
        self.trainee = Some(trainee);
        Ok(Done { record, updated: true, signs })
    }

    /// Updates the signs of a collapse, and returns those to report.
    fn observe(
        &mut self,
        n_pairs: usize,
        losses: &[(&str, f64)],
        spread: Option<[f64; 2]>,
        log_scale: f32,
    ) -> Vec<Sign> {
        let (config, step) = (self.config, self.state.step + 1);
        let loss_emb = losses.iter().find(|(name, _)| *name == "loss_emb").map(|(_, value)| *value);
        let has_pairs = n_pairs > 1;
        let max = self.trainee().model.logit_scale_max() as f32;
        let vitals = Vitals {
            grad_norm: self.norm,
            spread: spread.filter(|_| has_pairs),
            contrast: loss_emb
                .filter(|_| has_pairs && step > config.optim.warmup_steps)
                // Pairs that are left out lower the loss of chance.
                .filter(|_| !config.ignore_same_texts)
                .map(|loss| [loss, config.contrastive_loss.of_chance(n_pairs)]),
            log_scale: (contrasts(config) && is_trained("logit_scale", config))
                .then_some([log_scale.into(), max.into()]),
        };
        let limits = self.limits();
        observe(&mut self.state.signs, step, &vitals, &limits)
    }

    fn limits(&self) -> Limits {
        let optim = &self.config.optim;
        Limits { chance_steps: optim.chance_steps, max_bad_steps: optim.max_bad_steps }
    }

    /// The warning of a sign that has begun.
    fn warning_of(&self, sign: Sign) -> String {
        let since = self.state.signs.get(&sign).copied().unwrap_or(self.state.step);
        let consequence = match sign.ends_run() {
            true => format!(
                "the run ends after {} further such steps in a row (optim.max_bad_steps)",
                self.config.optim.max_bad_steps
            ),
            false => "large runs often stay there".to_owned(),
        };
        format!("warning: {} since step {since}; {consequence}", sign.describe())
    }

    /// Fails after too many consecutive steps that were not finite, or that show a collapse.
    fn check_learning(&mut self) -> Result<(), TrainError> {
        let (steps, step) = (self.bad_in_a_row, self.state.step);
        let is_over = steps > self.config.optim.max_bad_steps
            || fatal(&self.state.signs, step, &self.limits()).is_some();
        if is_over {
            // The checkpoint that is being written may be the one to advise. A failure to write it
            // matters less than the error below.
            let _ = self.store.wait();
        }
        if steps > self.config.optim.max_bad_steps {
            let advice = self.advice(step + 1 - steps);
            return Err(TrainError::Diverged { steps, advice });
        }
        match fatal(&self.state.signs, step, &self.limits()) {
            Some((sign, since)) => {
                Err(TrainError::Collapsed { sign, since, advice: self.advice(since) })
            }
            None => Ok(()),
        }
    }

    /// Advises how to go on after trouble that began in step `since`.
    fn advice(&self, since: usize) -> String {
        let milder = "lower the learning rates or raise warmup_steps";
        let Some((folder, state)) = self.store.before(since) else {
            return format!(
                "no checkpoint is from before; {milder} and start again in another `out`"
            );
        };
        let numbers = state.newest.map_or(String::new(), |newest| {
            format!(" (loss {:.3}, gradient norm {:.3})", newest.loss, newest.grad_norm)
        });
        let newer = match self.store.steps().last() {
            Some(last) if *last > state.step => " and this folder",
            _ => "",
        };
        format!(
            "the checkpoint of step {}{numbers} is from before; {milder} and go on with --resume{newer}\n  folder: {}",
            state.step,
            folder.display()
        )
    }

    /// Fails if no sample was usable for a whole epoch or for too many consecutive steps. After the
    /// last step, also fails if the weights were never updated.
    fn check_usable(&self, batch: &Batch, is_last: bool) -> Result<(), TrainError> {
        let RunState { step, empty_steps, bad_steps, .. } = self.state;
        let empty = self.empty_in_a_row;
        let is_too_long = self.epoch.is_some_and(|epoch| empty >= epoch)
            || empty > self.config.optim.max_bad_steps;
        let has_learned = empty_steps + bad_steps < step;
        if empty > 0 && (is_too_long || (is_last && !has_learned)) {
            let why = batch.skipped.first().cloned().unwrap_or_else(|| "there is no data".into());
            return Err(TrainError::NothingUsable { steps: empty, why });
        }
        if is_last && !has_learned {
            return Err(TrainError::NeverFinite(step));
        }
        Ok(())
    }

    /// Reports it if the device spends too much of its time waiting for data.
    fn warn_of_waiting(
        &mut self,
        seconds: f64,
        reports: &RankReports,
        report: &mut impl FnMut(Progress),
    ) {
        self.window.push((seconds, reports.waited, reports.slowest));
        if self.window.len() < WAIT_WINDOW {
            return;
        }
        let window = std::mem::take(&mut self.window);
        let (all, waited) =
            window.iter().fold((0.0, 0.0), |(all, waited), step| (all + step.0, waited + step.1));
        if self.group.rank() == 0 && waited > WAIT_SHARE * all {
            let slowest = window.iter().max_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |step| step.2);
            report(Progress::Note(format!(
                "waited for data {:.0} % of the last {WAIT_WINDOW} steps, longest on rank {slowest}: more cores, nearer or smaller photos would help",
                100.0 * waited / all
            )));
        }
    }

    /// Starts to write a checkpoint, on rank 0.
    fn save(&mut self, report: &mut impl FnMut(Progress)) -> Result<(), TrainError> {
        let _saving = self.group.busy();
        self.check_same_weights()?;
        let n_parameters = self.optimizer.n_parameters();
        let is_sharded = self.config.optim.shard_moments;
        let tensors = match self.metrics.is_some() || is_sharded {
            true => self.optimizer.to_tensors(self.group)?,
            false => Vec::new(),
        };
        let averages = match &self.average {
            Some(average) if self.metrics.is_some() || is_sharded => {
                Some(to_tensors(&average.gather(self.group)?))
            }
            _ => None,
        };
        let limits = self.limits();
        let saved = (|| {
            let Some(metrics) = &mut self.metrics else { return Ok(None) };
            metrics.flush()?;
            let trainee = self.trainee.as_ref().expect("there between two steps");
            let trouble = trouble_since(&self.state.signs, self.state.step, &limits);
            let moments = Moments { tensors, n_parameters, averages };
            let previous = self.store.save(trainee, moments, &self.state, trouble)?;
            metrics.plot(self.config)?;
            Ok(previous)
        })();
        self.report_saved(saved, report)
    }

    /// Waits for the checkpoint that rank 0 is writing.
    fn finish_saving(&mut self, report: &mut impl FnMut(Progress)) -> Result<(), TrainError> {
        let _saving = self.group.busy();
        let saved = self.store.wait().map_err(TrainError::from);
        self.report_saved(saved, report)
    }

    fn report_saved(
        &self,
        saved: Result<Option<Saved>, TrainError>,
        report: &mut impl FnMut(Progress),
    ) -> Result<(), TrainError> {
        if let Some(Saved { step, seconds }) = agree(self.group, saved)? {
            report(Progress::Saved { step, seconds });
        }
        Ok(())
    }

    /// The model to evaluate and to write: with `optim.ema` its averaged weights, and with merged
    /// adapters. All ranks call it.
    fn averaged_model(&self) -> Result<MmGem, TrainError> {
        let trainee = self.trainee().clone();
        let trainee = match &self.average {
            Some(average) => with_averages(trainee, average.gather(self.group)?),
            None => trainee,
        };
        Ok(merge(trainee.model.valid()))
    }

    /// Scores the model on held-out photos, together with the other ranks.
    fn evaluate(&mut self, report: &mut impl FnMut(Progress)) -> Result<(), TrainError> {
        let Some(eval) = &self.config.eval else { return Ok(()) };
        let model = self.averaged_model()?;
        let device = self.device.clone().inner();
        let session = Session::new(self.sizes.clone(), model, self.tokenizer.clone(), &device);
        let scores = evaluate(&session, self.config.recipe, eval, self.group)?;
        let (Some(metrics), Some(mut scores)) = (&mut self.metrics, scores) else { return Ok(()) };
        scores["step"] = json!(self.state.step);
        metrics
            .write(&json!({ "eval": scores, "step": self.state.step, "unix_time": unix_time() }))?;
        // Weights whose loss is not finite are never the best.
        let keep_best =
            self.config.checkpoint.keep_best.as_ref().filter(|_| self.bad_in_a_row == 0);
        let best = keep_best.and_then(|score| {
            Best::better(self.state.best.as_ref(), score, &scores, self.state.step)
        });
        report(Progress::Eval(scores));
        if let Some(best) = best {
            let Best { score, value, .. } = &best;
            report(Progress::Note(format!("the best {score} so far: {value:.4}")));
            self.state.best = Some(best);
        }
        Ok(())
    }

    /// Writes the finished model, on rank 0.
    fn finish(self, commit: &str) -> Result<TrainSummary, TrainError> {
        let (step, group) = (self.state.step, self.group);
        let _writing = group.busy();
        let folder = self.config.out.join("model");
        let model = self.averaged_model()?;
        let written = (|| {
            if self.group.rank() > 0 {
                return Ok(());
            }
            let history = history(self.config, commit, &self.state, self.first)?;
            ModelFolder {
                config: self.sizes,
                model,
                tokenizer: self.tokenizer,
                tokenizer_json: self.tokenizer_json,
            }
            .write(&folder, Dtype::F32)?;
            write_atomic(&folder.join("training.json"), history.as_bytes())?;
            Ok(())
        })();
        agree(group, written)?;
        Ok(TrainSummary { step, finished: true, model: Some(folder) })
    }
}

/// The result of a step.
struct Done {
    record: Value,
    updated: bool,
    /// Signs of a collapse to report.
    signs: Vec<Sign>,
}

impl Done {
    fn without_update(record: Value) -> Self {
        Self { record, updated: false, signs: Vec::new() }
    }
}

/// Seconds since 1970, for plots over time.
fn unix_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}
