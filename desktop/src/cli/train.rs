//! `mmgem train`: one of the recipes, from a TOML file.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use clap::Args as ClapArgs;
use indicatif::ProgressBar;
use mmgem_core::train::{Progress, TrainConfig, train};
use serde_json::json;

use crate::args::Globals;
use crate::terminal::{note, print, print_json, progress_bar};

/// Arguments of `mmgem train`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  \
    mmgem scenes --out data/scenes --n 2000 --seed 1\n  \
    mmgem train assets/recipes/scenes-stage1.toml\n  \
    mmgem train run.toml --set optim.steps=100 --set out=runs/short\n  \
    mmgem train run.toml --resume\n\n\
    Ctrl-C or SIGTERM saves a checkpoint at the next step and ends; --resume goes on from the newest.")]
pub struct TrainArgs {
    /// The run: recipe, data, learning rates
    config: PathBuf,
    /// Change one value of the file, as `optim.steps=100`; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Go on from the newest checkpoint of the run, or start it
    #[arg(long)]
    resume: bool,
}

/// Set by Ctrl-C and SIGTERM.
static STOP: AtomicBool = AtomicBool::new(false);

/// Runs the recipe until it is done or asked to stop.
pub fn run(args: &TrainArgs, globals: &Globals) -> Result<()> {
    let at = || format!("cannot read the run\n  file: {}", args.config.display());
    let text = fs::read_to_string(&args.config).with_context(at)?;
    let config = TrainConfig::from_toml(&text, &args.set).with_context(at)?;
    let opened = globals.open_device()?;
    ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed))?;

    let quiet = globals.quiet;
    let bar = progress_bar(config.optim.steps, "steps", quiet);
    let summary = train(&config, &opened.device, &commit(), args.resume, &STOP, |progress| {
        show(&bar, quiet, progress);
    })?;
    bar.finish_and_clear();
    if !summary.finished {
        note(quiet, format!("stopped after step {} with a checkpoint; go on with --resume", summary.step));
    }
    let model = summary.model.as_ref().map(|folder| folder.display().to_string());
    if globals.json {
        return print_json(&json!({ "step": summary.step, "finished": summary.finished, "model": model }));
    }
    model.map_or(Ok(()), print)
}

fn show(bar: &ProgressBar, quiet: bool, progress: Progress) {
    let say = |line: String| if bar.is_hidden() { note(quiet, line) } else { bar.println(line) };
    match progress {
        Progress::Note(line) => say(line),
        Progress::Eval(scores) => say(format!("held out: {scores}")),
        Progress::Step { step, steps, loss, samples_per_sec } => {
            bar.set_position(step as u64);
            bar.set_message(format!("loss {loss:.3}"));
            // Where there is no bar, a log still tells that the run is alive.
            if bar.is_hidden() && (step.is_multiple_of(50) || step == steps) {
                note(quiet, format!("step {step}/{steps}  loss {loss:.4}  {samples_per_sec:.1} samples/s"));
            }
        }
    }
}

/// The commit of the working directory's checkout, for the run's records.
fn commit() -> String {
    let git = |args: &[&str]| {
        let output = std::process::Command::new("git").args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    match git(&["rev-parse", "HEAD"]) {
        Some(hash) if git(&["status", "--porcelain"]).is_some_and(|changes| !changes.is_empty()) => {
            hash + "+changes"
        }
        Some(hash) => hash,
        None => format!("none (version {})", env!("CARGO_PKG_VERSION")),
    }
}
