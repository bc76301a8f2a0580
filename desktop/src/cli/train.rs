//! `mmgem train`: trains a model by a recipe in a TOML file.

mod log;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args as ClapArgs;
use mmgem_collective::{Collective, Launch, Single, Tcp, ranks_on_same_cores};
use mmgem_train::{Resume, Signals, TrainConfig, train};
use serde_json::json;

use self::log::TrainLog;
use crate::device::failure::{caught, is_the_devices};
use crate::device::{DeviceChoice, open_device};
use crate::globals::Globals;
use crate::terminal::{note, print, print_json};

/// Arguments of `mmgem train`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  \
    mmgem scenes --out data/scenes --n 2000 --seed 1\n  \
    mmgem train assets/recipes/scenes-stage1.toml\n  \
    mmgem train run.toml --set optim.steps=100 --set out=runs/short\n  \
    mmgem train run.toml --resume\n  \
    mmgem train run.toml --resume best\n\n\
    Ctrl-C or SIGTERM saves a checkpoint at the next step and exits; a second one exits at once. \
    SIGUSR1 saves a checkpoint and continues. --resume continues from the newest checkpoint, also \
    after the run folder and the data were moved, with the new paths in the file. \
    --resume best continues from the checkpoint that checkpoint.keep_best has kept, and --resume \
    DIR from the one in that folder; newer checkpoints are renamed. Under mpirun, \
    srun or torchrun --no-python, every process is a rank of one run.")]
pub struct TrainArgs {
    #[command(flatten)]
    pub run: RunFile,
    /// Continue from the newest checkpoint of the run, or start the run; or from `best`, or from
    /// the checkpoint in a folder
    #[arg(
        long,
        value_name = "CHECKPOINT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = LATEST
    )]
    pub resume: Option<String>,
    /// Seconds between two lines about the steps, if stderr is not a terminal
    #[arg(long, value_name = "SECS", default_value_t = 30)]
    log_secs: u64,
    /// Old name of `mmgem plan`
    #[arg(long, hide = true)]
    pub plan: bool,
    /// Old option of `--plan`
    #[arg(long, value_name = "N", requires = "plan", hide = true)]
    pub ranks: Option<usize>,
    /// Old option of `--plan`
    #[arg(long, value_name = "FILE", requires = "plan", hide = true)]
    pub sizes: Option<PathBuf>,
}

/// The file of a run.
#[derive(Debug, ClapArgs)]
pub struct RunFile {
    /// TOML file of the run: recipe, data, learning rates
    config: PathBuf,
    /// Override one value of the file, as in `optim.steps=100` (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl RunFile {
    pub fn read(&self) -> Result<TrainConfig> {
        let at = || format!("cannot read the run\n  file: {}", self.config.display());
        let text = fs::read_to_string(&self.config).with_context(at)?;
        TrainConfig::from_toml(&text, &self.set).with_context(at)
    }
}

/// Values of `--resume` beside folders.
const LATEST: &str = "latest";
const BEST: &str = "best";

/// Whether the argument after `--resume` is its value. A folder of a checkpoint is; another path is
/// the file of the run.
pub fn is_checkpoint(argument: &OsStr) -> bool {
    let name = Path::new(argument).file_name().and_then(OsStr::to_str).unwrap_or_default();
    argument == LATEST || argument == BEST || name.starts_with("step-")
}

impl TrainArgs {
    fn resume(&self) -> Resume {
        match self.resume.as_deref() {
            None => Resume::No,
            Some(LATEST) => Resume::Latest,
            Some(BEST) => Resume::Best,
            Some(folder) => Resume::From(folder.into()),
        }
    }

    fn log_every(&self) -> Duration {
        Duration::from_secs(self.log_secs)
    }
}

/// Set by Ctrl-C, SIGTERM and SIGUSR1.
static SIGNALS: Signals = Signals { stop: AtomicBool::new(false), save: AtomicBool::new(false) };

/// Runs the recipe until it is done or stopped by a signal.
pub fn run(args: &TrainArgs, globals: &Globals) -> Result<()> {
    let config = args.run.read()?;
    let launch = Launch::from_env()?;
    listen(globals.quiet || launch.as_ref().is_some_and(|launch| launch.rank > 0))?;
    let choice =
        launch.as_ref().map_or(globals.device, |launch| globals.device.on_rank(launch.local_rank));
    let timeout = Duration::from_secs(config.cluster.timeout_secs);
    let group = join(launch.as_ref(), timeout, choice, globals.quiet)?;
    // Caught here, so that a device failure is also reported to the other ranks.
    let done = caught(|| run_on(&config, choice, group.as_collective(), args, globals));
    let done = done.map_err(|error| match is_the_devices(&error) {
        true => error.context(
            "the training has stopped\n  hint: --resume continues from the newest checkpoint, if there is one",
        ),
        false => error,
    });
    match done {
        Err(error) => group.leave(error),
        done => done,
    }
}

/// Time after which a second Ctrl-C or SIGTERM ends the program without a checkpoint.
const AGAIN: Duration = Duration::from_secs(1);

/// Installs the signal handlers of the run.
fn listen(quiet: bool) -> Result<()> {
    let mut asked = None;
    ctrlc::set_handler(move || match asked {
        // A launcher may pass on the same key twice at once.
        Some(first) if Instant::elapsed(&first) > AGAIN => std::process::exit(130),
        Some(_) => {}
        None => {
            asked = Some(Instant::now());
            SIGNALS.stop.store(true, Ordering::Relaxed);
            note(quiet, "stopping after this step with a checkpoint; Ctrl-C again ends at once");
        }
    })?;
    #[cfg(unix)]
    // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
    unsafe {
        let save = || SIGNALS.save.store(true, Ordering::Relaxed);
        signal_hook::low_level::register(signal_hook::consts::SIGUSR1, save)?;
    }
    Ok(())
}

/// The connection of this process to the other ranks.
pub enum Group {
    Single(Single),
    Tcp(Tcp),
    #[cfg(feature = "mpi")]
    Mpi(mmgem_collective::Mpi),
}

/// Connects to the processes that the launcher started, and notes the transport on stderr.
pub fn join(
    launch: Option<&Launch>,
    timeout: Duration,
    choice: DeviceChoice,
    quiet: bool,
) -> Result<Group> {
    let Some(launch) = launch.filter(|launch| launch.size > 1) else {
        return Ok(Group::Single(Single));
    };
    #[cfg(feature = "mpi")]
    if launch.launcher != "torchrun"
        && let Some(mpi) = mmgem_collective::Mpi::connect(timeout)
        && mpi.size() == launch.size
    {
        note(quiet, format!("{launch}, through MPI"));
        return Ok(Group::Mpi(mpi));
    }
    ensure!(
        cfg!(feature = "cuda") && matches!(choice, DeviceChoice::Cuda { .. }),
        "{launch}, but this build cannot exchange gradients between ranks on this device\n  hint: build with --features mpi and start with mpirun or srun; without MPI only NVIDIA GPUs can train together (--features cuda, --device cuda)"
    );
    let master = launch.master()?;
    note(quiet, format!("{launch}, through NCCL, rendezvous at {master}"));
    Ok(Group::Tcp(Tcp::connect(launch.rank, launch.size, master, &launch.run_id, timeout)?))
}

/// NCCL between the GPUs of the ranks of `group`; `None` on other devices.
pub fn nccl<'a>(
    group: &'a dyn Collective,
    choice: DeviceChoice,
    timeout: Duration,
) -> Result<Option<Box<dyn Collective + 'a>>> {
    #[cfg(feature = "cuda")]
    if let DeviceChoice::Cuda { ordinal } = choice {
        let nccl = mmgem_backend_cuda::Nccl::join(group, ordinal.unwrap_or(0), timeout)?;
        return Ok(Some(Box::new(nccl)));
    }
    let _ = (group, choice, timeout);
    Ok(None)
}

impl Group {
    /// The group, to call.
    pub fn as_collective(&self) -> &dyn Collective {
        match self {
            Self::Single(single) => single,
            Self::Tcp(tcp) => tcp,
            #[cfg(feature = "mpi")]
            Self::Mpi(mpi) => mpi,
        }
    }

    /// Exits after an error. Aborts MPI, which would otherwise wait for the other ranks forever.
    pub fn leave(self, error: anyhow::Error) -> Result<()> {
        #[cfg(feature = "mpi")]
        if let Self::Mpi(mpi) = self {
            crate::terminal::print_error(&crate::error_text(&error));
            mpi.abort();
        }
        Err(error)
    }
}

fn run_on(
    config: &TrainConfig,
    choice: DeviceChoice,
    group: &dyn Collective,
    args: &TrainArgs,
    globals: &Globals,
) -> Result<()> {
    let opened = open_device(choice)?;
    let is_first = group.rank() == 0;
    let quiet = globals.quiet;
    note(quiet || !is_first, format!("device: {}: {}", opened.name, opened.reason));
    let timeout = Duration::from_secs(config.cluster.timeout_secs);
    let nccl = if group.size() > 1 { nccl(group, choice, timeout)? } else { None };
    let group = nccl.as_deref().unwrap_or(group);
    share_cores(group, quiet || !is_first)?;
    let mut log = TrainLog::new(config.optim.steps, args.log_every(), quiet || !is_first);
    let (commit, resume) = (commit(), args.resume());
    let summary = train(config, &opened.device, &commit, resume, &SIGNALS, group, |progress| {
        log.show(progress);
    })?;
    log.finish();
    if !is_first {
        return Ok(());
    }
    if !summary.finished {
        note(
            quiet,
            format!("stopped after step {} with a checkpoint; go on with --resume", summary.step),
        );
    }
    let model = summary.model.as_ref().map(|folder| folder.display().to_string());
    if globals.json {
        return print_json(
            &json!({ "step": summary.step, "finished": summary.finished, "model": model }),
        );
    }
    model.map_or(Ok(()), print)
}

/// Gives this rank its share of the threads, if ranks share cores. RAYON_NUM_THREADS goes first.
fn share_cores(group: &dyn Collective, quiet: bool) -> Result<()> {
    let sharing = ranks_on_same_cores(group)?;
    if sharing == 1 || std::env::var_os("RAYON_NUM_THREADS").is_some() {
        return Ok(());
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let n_threads = (cores / sharing).max(1);
    // It fails only if the pool already runs; then its size stays.
    if rayon::ThreadPoolBuilder::new().num_threads(n_threads).build_global().is_ok() {
        let threads = format!("{sharing} ranks share {cores} cores: {n_threads} threads each");
        note(quiet, threads + " (RAYON_NUM_THREADS sets another number)");
    }
    Ok(())
}

/// Formats a number with three decimals and a metric prefix.
pub fn with_prefix(value: f64) -> String {
    let prefixes = [(1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")];
    let (unit, prefix) = prefixes.into_iter().find(|(unit, _)| value >= *unit).unwrap_or((1.0, ""));
    format!("{:.3} {prefix}", value / unit)
}

/// The commit of the checkout in the working directory, for the run's records.
fn commit() -> String {
    let git = |args: &[&str]| {
        let output = std::process::Command::new("git").args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    match git(&["rev-parse", "HEAD"]) {
        Some(hash)
            if git(&["status", "--porcelain"]).is_some_and(|changes| !changes.is_empty()) =>
        {
            hash + "+changes"
        }
        Some(hash) => hash,
        None => format!("none (version {})", env!("CARGO_PKG_VERSION")),
    }
}
