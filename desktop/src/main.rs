//! The program `mmgem`. Arguments and paths stop here; `mmgem-core` does the computation.

#![allow(rustdoc::broken_intra_doc_links, reason = "clap prints comments on arguments as they are")]

mod allocator;
mod args;
mod cli;
mod context;
mod device;
mod draw;
mod globals;
mod model;
mod names;
mod outputs;
mod photos;
mod report;
mod terminal;
mod values;
#[cfg(feature = "app")]
mod window;

use std::process::ExitCode;

use anyhow::{Error, Result};

use args::{Args, Command};
use device::DeviceChoice;
use device::failure::{caught, is_the_devices};
use globals::{Globals, WrongArguments};
use mmgem_library::query::{self, QueryError};
use mmgem_library::{self as library, LibraryError};
use terminal::{note, print_error};

fn main() -> ExitCode {
    allocator::keep_freed_buffers();
    device::silence_vulkan_layer();
    device::failure::watch();
    let args = Args::parse(std::env::args_os());
    start_log(args.globals.quiet);
    let done = caught(|| run(&args.command, &args.globals));
    match done.or_else(|error| on_the_cpu_instead(error, &args)) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of our output closed the pipe.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&error_text(&error));
            ExitCode::from(if is_wrong_arguments(&error) { 2 } else { 1 })
        }
    }
}

fn run(command: &Command, globals: &Globals) -> Result<()> {
    match command {
        Command::App(args) => cli::app::run(args, globals),
        Command::Search(args) => cli::search::run(args, globals),
        Command::Index(args) => cli::index::run(args, &globals.open()?),
        Command::Caption(args) => cli::caption::run(args, &globals.open()?),
        Command::Localize(args) => cli::localize::run(args, globals),
        Command::Embed(args) => cli::embed::run(args, globals),
        Command::EmbedShards(args) => cli::embed_shards::run(args, globals),
        Command::Calibrate(args) => cli::calibrate::run(args, &globals.open()?),
        Command::Train(args) => cli::train::run(args, globals),
        Command::Plan(args) => cli::plan::run(args, globals),
        Command::Eval(args) => cli::eval::run(args, globals),
        Command::Export(args) => cli::export::run(args, globals),
        Command::Import(args) => cli::import::run(args, globals),
        Command::Info(args) => cli::info::run(args, globals),
        Command::Web(args) => cli::web::run(args, globals),
        Command::Demo(args) => cli::demo::run(args, &globals.open()?),
        Command::Scenes(args) => cli::scenes::run(args, globals),
        Command::Bench(args) => cli::bench::run(args, globals),
        Command::Verify(args) => cli::verify::run(args, globals),
    }
}

/// Whether the arguments are wrong, the words of a query included.
fn is_wrong_arguments(error: &Error) -> bool {
    error.is::<WrongArguments>()
        || error.is::<QueryError>()
        || matches!(error.downcast_ref(), Some(LibraryError::Query(_)))
}

/// Whether the CPU may replace a failed GPU. Training stops instead: on a CPU it would take weeks.
fn may_move(args: &Args) -> bool {
    args.globals.device == DeviceChoice::Auto && !matches!(args.command, Command::Train(_))
}

/// Runs the command again on the CPU after a GPU failure. Returns the error if the command may not
/// move, or if a result was already printed.
fn on_the_cpu_instead(error: Error, args: &Args) -> Result<()> {
    if !may_move(args) || terminal::has_printed() || !is_the_devices(&error) {
        return Err(error);
    }
    note(args.globals.quiet, format!("{}retrying on the CPU", error_text(&error)));
    run(&args.command, &Globals { device: DeviceChoice::Cpu, ..args.globals.clone() })
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
fn error_text(error: &Error) -> String {
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
    use mmgem_core::readback::DeviceFailed;
    use mmgem_core::session::SessionError;

    use super::*;

    #[test]
    fn only_a_device_that_nobody_chose_is_replaced_and_not_while_training() {
        let lost = || DeviceFailed::Stopped("it was lost".into());
        let failed = || Error::from(SessionError::from(lost())).context("0.png");
        assert!(is_the_devices(&failed()));
        assert!(is_the_devices(&Error::from(lost())));
        assert!(is_the_devices(&LibraryError::from(SessionError::from(lost())).into()));
        assert!(!is_the_devices(&anyhow::anyhow!("no such file")));
        let parse = |line: &str| Args::parse(line.split(' ').map(Into::into));
        let error =
            on_the_cpu_instead(failed(), &parse("mmgem train run.toml")).expect_err("it may not");
        assert!(
            error_text(&error).contains("the device stopped working: it was lost"),
            "{error:?}"
        );
        let moves = |line: &str| may_move(&parse(line));
        assert!(moves("mmgem demo") && moves("mmgem demo --device auto"));
        assert!(!moves("mmgem demo --device cpu") && !moves("mmgem demo --device wgpu"));
        assert!(!moves("mmgem train run.toml"));
    }

    #[test]
    fn a_wrong_query_is_a_wrong_argument() {
        assert!(is_wrong_arguments(&QueryError::Empty.into()));
        assert!(is_wrong_arguments(&LibraryError::from(QueryError::Cancelling).into()));
        assert!(!is_wrong_arguments(&LibraryError::NoName.into()));
    }

    #[test]
    fn every_cause_is_printed_once() {
        let error = anyhow::anyhow!("no such file")
            .context("cannot read: no such file")
            .context("no photo");
        assert_eq!(error_text(&error), "error: no photo\n  caused by: cannot read: no such file\n");
    }
}
