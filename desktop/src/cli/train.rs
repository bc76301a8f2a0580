//! `mmgem train`: trains a model by a recipe in a TOML file.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args as ClapArgs;
use indicatif::ProgressBar;
use mmgem_collective::{Collective, Launch, Single, Tcp};
use mmgem_train::{Plan, Progress, Signals, TrainConfig, plan_run, train};
use serde_json::json;

use crate::args::Globals;
use crate::device::{DeviceChoice, open_device};
use crate::device_failure::{caught, is_the_devices};
use crate::terminal::{note, print, print_json, progress_bar};

/// Arguments of `mmgem train`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  \
    mmgem scenes --out data/scenes --n 2000 --seed 1\n  \
    mmgem train assets/recipes/scenes-stage1.toml\n  \
    mmgem train run.toml --set optim.steps=100 --set out=runs/short\n  \
    mmgem train run.toml --resume\n  \
    mmgem train run.toml --plan --ranks 64\n  \
    mmgem train assets/recipes/paper/stage1.toml --plan --ranks 64 --sizes assets/presets/vit_l_14_tinyllama.json\n\n\
    Ctrl-C or SIGTERM saves a checkpoint at the next step and exits. SIGUSR1 saves a checkpoint \
    and continues. --resume continues from the newest checkpoint, also after the run folder and \
    the data were moved, with the new paths in the file. Under mpirun, srun or torchrun \
    --no-python, every process is a rank of one run.")]
pub struct TrainArgs {
    /// TOML file of the run: recipe, data, learning rates
    config: PathBuf,
    /// Override one value of the file, as in `optim.steps=100` (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Continue from the newest checkpoint of the run, or start the run
    #[arg(long)]
    resume: bool,
    /// Print parameters, memory and hours of the run instead of training
    #[arg(long)]
    plan: bool,
    /// Number of ranks to plan for [default: the launcher's, else 1]
    #[arg(long, value_name = "N", requires = "plan")]
    ranks: Option<usize>,
    /// config.json with the sizes to plan with, such as assets/presets/*.json
    ///
    /// Needed if the run's model does not exist yet.
    #[arg(long, value_name = "FILE", requires = "plan")]
    sizes: Option<PathBuf>,
}

/// Set by Ctrl-C, SIGTERM and SIGUSR1.
static SIGNALS: Signals = Signals { stop: AtomicBool::new(false), save: AtomicBool::new(false) };

/// Runs the recipe until it is done or stopped by a signal.
pub fn run(args: &TrainArgs, globals: &Globals) -> Result<()> {
    let at = || format!("cannot read the run\n  file: {}", args.config.display());
    let text = fs::read_to_string(&args.config).with_context(at)?;
    let config = TrainConfig::from_toml(&text, &args.set).with_context(at)?;
    let launch = Launch::from_env()?;
    if args.plan {
        let ranks = args.ranks.or(launch.map(|launch| launch.size)).unwrap_or(1).max(1);
        let plan = plan_run(&config, ranks, args.sizes.as_deref());
        let plan = plan.context(
            "cannot read the sizes to plan with\n  hint: if the run's model does not exist yet, give --sizes, as in --sizes assets/presets/vit_l_14_tinyllama.json",
        )?;
        return if globals.json {
            print_json(&serde_json::to_value(&plan)?)
        } else {
            print(plan_text(&plan))
        };
    }
    listen()?;
    let choice =
        launch.as_ref().map_or(globals.device, |launch| globals.device.on_rank(launch.local_rank));
    let group = join(launch.as_ref(), &config, choice, globals.quiet)?;
    // Caught here, so that a device failure is also reported to the other ranks.
    let done = caught(|| run_on(&config, choice, group.as_collective(), args.resume, globals));
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

/// Installs the signal handlers of the run.
fn listen() -> Result<()> {
    ctrlc::set_handler(|| SIGNALS.stop.store(true, Ordering::Relaxed))?;
    #[cfg(unix)]
    // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
    unsafe {
        let save = || SIGNALS.save.store(true, Ordering::Relaxed);
        signal_hook::low_level::register(signal_hook::consts::SIGUSR1, save)?;
    }
    Ok(())
}

/// The connection of this process to the other ranks.
enum Group {
    Single(Single),
    Tcp(Tcp),
    #[cfg(feature = "mpi")]
    Mpi(mmgem_collective::Mpi),
}

/// Connects to the processes that the launcher started, and notes the transport on stderr.
fn join(
    launch: Option<&Launch>,
    config: &TrainConfig,
    choice: DeviceChoice,
    quiet: bool,
) -> Result<Group> {
    let timeout = Duration::from_secs(config.cluster.timeout_secs);
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
    Ok(Group::Tcp(Tcp::connect(launch.rank, launch.size, master, timeout)?))
}

impl Group {
    fn as_collective(&self) -> &dyn Collective {
        match self {
            Self::Single(single) => single,
            Self::Tcp(tcp) => tcp,
            #[cfg(feature = "mpi")]
            Self::Mpi(mpi) => mpi,
        }
    }

    /// Exits after an error. Aborts MPI, which would otherwise wait for the other ranks forever.
    fn leave(self, error: anyhow::Error) -> Result<()> {
        #[cfg(feature = "mpi")]
        if let Self::Mpi(mpi) = self {
            eprint!("{}", crate::report(&error));
            mpi.abort();
        }
        Err(error)
    }
}

fn run_on(
    config: &TrainConfig,
    choice: DeviceChoice,
    group: &dyn Collective,
    resume: bool,
    globals: &Globals,
) -> Result<()> {
    let opened = open_device(choice)?;
    let is_first = group.rank() == 0;
    let quiet = globals.quiet;
    note(quiet || !is_first, format!("device: {}: {}", opened.name, opened.reason));
    #[cfg(feature = "cuda")]
    let nccl = match choice {
        DeviceChoice::Cuda { ordinal } if group.size() > 1 => {
            let timeout = Duration::from_secs(config.cluster.timeout_secs);
            Some(mmgem_backend_cuda::Nccl::join(group, ordinal.unwrap_or(0), timeout)?)
        }
        _ => None,
    };
    #[cfg(feature = "cuda")]
    let group = nccl.as_ref().map_or(group, |nccl| nccl as &dyn Collective);
    let bar = progress_bar(config.optim.steps, "steps", quiet || !is_first);
    let summary = train(config, &opened.device, &commit(), resume, &SIGNALS, group, |progress| {
        show(&bar, quiet, progress);
    })?;
    bar.finish_and_clear();
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

fn show(bar: &ProgressBar, quiet: bool, progress: Progress) {
    let say = |line: String| if bar.is_hidden() { note(quiet, line) } else { bar.println(line) };
    match progress {
        Progress::Note(line) => say(line),
        Progress::Eval(scores) => say(format!("held-out scores: {scores}")),
        Progress::Step { step, steps, loss, samples_per_sec, flops_per_sec } => {
            let rate =
                format!("{samples_per_sec:.1} samples/s  {} FLOP/s", with_prefix(flops_per_sec));
            bar.set_position(step as u64);
            bar.set_message(format!("loss {loss:.3}  {rate}"));
            // Without a bar, log lines still show progress.
            if bar.is_hidden() && (step.is_multiple_of(50) || step == steps) {
                note(quiet, format!("step {step}/{steps}  loss {loss:.4}  {rate}"));
            }
        }
    }
}

/// Formats a plan as text.
fn plan_text(plan: &Plan) -> String {
    let gb = |bytes: f64| format!("{:.2} GB", bytes / 1e9);
    let mut lines = vec![
        format!(
            "model       {:.1} M parameters, {:.1} M of them trained",
            plan.parameters as f64 / 1e6,
            plan.trained_parameters as f64 / 1e6
        ),
        format!(
            "run         {} steps of {} samples: {:.3} M samples",
            plan.steps,
            plan.batch_size,
            (plan.steps * plan.batch_size) as f64 / 1e6
        ),
        format!(
            "ranks       {}, each {} samples a step, {} at a time",
            plan.ranks, plan.samples_per_rank, plan.micro_batch
        ),
        format!(
            "memory      {} a rank = {} weights, gradients and moments + {} embeddings + {} activations ({} a sample)",
            gb(plan.total_bytes),
            gb(plan.static_bytes),
            gb(plan.embedding_bytes),
            gb(plan.total_bytes - plan.static_bytes - plan.embedding_bytes),
            gb(plan.activation_bytes_per_sample)
        ),
    ];
    if let Some(memory) = plan.memory_bytes {
        let fits = if plan.total_bytes <= memory { "fits" } else { "DOES NOT FIT" };
        lines.push(match plan.largest_micro_batch {
            Some(n) => format!(
                "            {fits} into {}; optim.micro_batch may be up to {n}",
                gb(memory)
            ),
            None => {
                format!("            {fits} into {}, not even one sample at a time", gb(memory))
            }
        });
    }
    let (useful, computed) = (plan.flops_per_sample, plan.computed_flops_per_sample);
    let repeated = if computed > useful {
        format!("; {}FLOP with recomputation", with_prefix(computed))
    } else {
        String::new()
    };
    lines.push(format!("work        {}FLOP a sample{repeated}", with_prefix(useful)));
    match (&plan.flops_per_sec, plan.step_secs, plan.hours, plan.device_hours) {
        (Some((rate, source)), Some(secs), Some(hours), Some(device_hours)) => lines.push(format!(
            "time        {secs:.3} s a step, {hours:.1} h, {device_hours:.1} device hours at {}FLOP/s a rank ({source})",
            with_prefix(*rate)
        )),
        _ => lines.push("time        unknown: set hardware.peak_tflops, or plan after some steps of the run".into()),
    }
    if plan.ranks > 1 {
        let sent = gb(plan.sent_bytes);
        lines.push(format!(
            "network     {sent} sent by each rank in a step; an assumed time does not include this"
        ));
    }
    lines.join("\n")
}

/// Formats a number with three decimals and a metric prefix.
fn with_prefix(value: f64) -> String {
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
