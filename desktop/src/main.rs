//! The program `mmgem`. Arguments and paths stop here; `mmgem-core` does the computation.

mod allocator;
mod args;
mod boxes;
mod cli;
mod context;
mod demo;
mod device;
mod device_failure;
mod draw;
mod excludes;
// Without the window, some items of the library are unused.
#[cfg_attr(not(feature = "app"), allow(dead_code, unused_imports))]
mod library;
mod loss_of_copy;
mod model;
mod names;
mod outputs;
mod photos;
mod probe;
mod query;
mod terminal;
#[cfg(feature = "app")]
mod window;

use std::process::ExitCode;

use anyhow::{Error, Result};

use args::{Args, Command, WrongArguments};
use device::DeviceChoice;
use device_failure::{caught, is_the_devices};
use names::printable;
use terminal::note;

fn main() -> ExitCode {
    allocator::keep_freed_buffers();
    device::silence_vulkan_layer();
    device_failure::watch();
    let args = Args::of_program();
    start_log(args.globals.quiet);
    let may_move = may_move(&args);
    match caught(|| run(args)).or_else(|error| on_the_cpu_instead(error, may_move)) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of our output closed the pipe.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("{}", printable(&report(&error)));
            ExitCode::from(if error.is::<WrongArguments>() { 2 } else { 1 })
        }
    }
}

fn run(Args { globals, command }: Args) -> Result<()> {
    match command {
        Command::App(args) => cli::app::run(args, &globals),
        Command::Bench(args) => cli::bench::run(&args, &globals),
        Command::Caption(args) => cli::caption::run(&args, &globals.open()?),
        Command::Demo(args) => demo::run(args, &globals.open()?),
        Command::Devices => cli::devices::run(&globals),
        Command::Embed(args) => cli::embed::run(&args, &globals),
        Command::Eval(args) => cli::eval::run(&args, &globals),
        Command::Export(args) => cli::export::run(&args, &globals),
        Command::Import(args) => cli::import::run(&args, &globals),
        Command::Index(args) => cli::index::run(&args, &globals.open()?),
        Command::Info(args) => cli::info::run(&args, &globals),
        Command::Localize(args) => cli::localize::run(&args, &globals),
        Command::Parity(args) => cli::parity::run(&args, &globals),
        Command::Scenes(args) => cli::scenes::run(&args, &globals),
        Command::Score(args) => cli::score::run(&args, &globals),
        Command::Search(args) => cli::search::run(&args, &globals),
        Command::Trace(args) => cli::trace::run(&args, &globals),
        Command::Train(args) => cli::train::run(&args, &globals),
        Command::Web(args) => cli::web::run(&args, &globals),
    }
}

/// Whether the CPU may replace a failed GPU. Training stops instead: on a CPU it would take weeks.
fn may_move(args: &Args) -> bool {
    args.globals.device == DeviceChoice::Auto && !matches!(args.command, Command::Train(_))
}

/// Runs the command again on the CPU after a GPU failure. Returns the error if `may_move` is false
/// or if a result was already printed.
fn on_the_cpu_instead(error: Error, may_move: bool) -> Result<()> {
    if !may_move || terminal::has_printed() || !is_the_devices(&error) {
        return Err(error);
    }
    let mut args = Args::of_program();
    note(args.globals.quiet, format!("{}retrying on the CPU", report(&error)));
    args.globals.device = DeviceChoice::Cpu;
    run(args)
}

/// Starts logging to stderr. `MMGEM_LOG` sets the level, in `tracing`'s filter syntax.
fn start_log(quiet: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MMGEM_LOG").unwrap_or_else(|_| {
        tracing_subscriber::EnvFilter::new(if quiet {
            "error"
        } else {
            "warn,winit=error,mmgem=info,mmgem_core=info"
        })
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .init();
}

fn is_broken_pipe(error: &Error) -> bool {
    let pipe = |cause: &(dyn std::error::Error + 'static)| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    };
    error.chain().any(pipe)
}

/// Formats `error: ...` and one line for each cause that adds new text.
fn report(error: &Error) -> String {
    let mut text = format!("error: {error}\n");
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(&format!("  caused by: {cause}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use mmgem_core::readback::DeviceFailed;
    use mmgem_core::session::SessionError;

    use super::*;

    #[test]
    fn only_a_device_that_nobody_chose_is_replaced_and_not_while_training() {
        let lost = || DeviceFailed::Stopped("it was lost".into());
        let failed = || Error::from(SessionError::from(lost())).context("0.png");
        assert!(is_the_devices(&failed()));
        assert!(is_the_devices(&Error::from(lost())));
        assert!(!is_the_devices(&anyhow::anyhow!("no such file")));
        let error = on_the_cpu_instead(failed(), false).expect_err("it may not");
        assert!(report(&error).contains("the device stopped working: it was lost"), "{error:?}");
        let moves = |line: &str| may_move(&Args::parse_from(line.split(' ')));
        assert!(moves("mmgem devices") && moves("mmgem devices --device auto"));
        assert!(!moves("mmgem devices --device cpu") && !moves("mmgem devices --device wgpu"));
        assert!(!moves("mmgem train run.toml"));
    }

    #[test]
    fn every_cause_is_printed_once() {
        let error = anyhow::anyhow!("no such file")
            .context("cannot read: no such file")
            .context("no photo");
        assert_eq!(report(&error), "error: no photo\n  caused by: cannot read: no such file\n");
    }
}
