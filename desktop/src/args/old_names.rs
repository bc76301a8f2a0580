//! The names that commands had in earlier versions. They are hidden from the help, and run the same
//! code as the new names.

use clap::Subcommand;

use super::Command;
use crate::cli::bench::{BenchArgs, Part};
use crate::cli::calibrate::CalibrateArgs;
use crate::cli::embed::EmbedArgs;
use crate::cli::embed_shards::EmbedShardsArgs;
use crate::cli::eval::EvalArgs;
use crate::cli::eval::score::ScoreArgs;
use crate::cli::info::InfoArgs;
use crate::cli::plan::PlanArgs;
use crate::cli::search::SearchArgs;
use crate::cli::train::TrainArgs;
use crate::cli::verify::{Check, ParityArgs, TraceArgs, VerifyArgs};

/// Commands that became part of another one.
#[derive(Debug, Subcommand)]
pub enum OldCommand {
    /// Old name of `mmgem info --devices`
    #[command(hide = true)]
    Devices,
    /// Old name of `mmgem verify parity`
    #[command(hide = true)]
    Parity(ParityArgs),
    /// Old name of `mmgem eval score`
    #[command(hide = true)]
    Score(ScoreArgs),
    /// Old name of `mmgem verify trace`
    #[command(hide = true)]
    Trace(TraceArgs),
}

/// The old name that the user typed, and the new one.
pub struct Renamed {
    pub old: &'static str,
    pub new: &'static str,
}

impl OldCommand {
    pub fn by_new_name(self) -> (Command, Option<Renamed>) {
        let verify = |check| Command::Verify(VerifyArgs { check });
        let (command, old, new) = match self {
            Self::Devices => (Command::Info(InfoArgs::devices()), "devices", "info --devices"),
            Self::Parity(args) => (verify(Check::Parity(args)), "parity", "verify parity"),
            Self::Score(args) => (Command::Eval(EvalArgs::score(args)), "score", "eval score"),
            Self::Trace(args) => (verify(Check::Trace(args)), "trace", "verify trace"),
        };
        (command, Some(Renamed { old, new }))
    }
}

impl Command {
    /// Replaces an option that became a command.
    pub fn by_new_name(self) -> (Self, Option<Renamed>) {
        let (command, old, new) = match self {
            Self::Bench(BenchArgs { part: Some(Part::Counts(args)), .. }) => {
                let verify = Self::Verify(VerifyArgs { check: Check::Counts(args) });
                (verify, "bench counts", "verify counts")
            }
            Self::Embed(EmbedArgs { shards, out: Some(out), .. }) if !shards.is_empty() => {
                let embed = Self::EmbedShards(EmbedShardsArgs { shards, out });
                (embed, "embed --shards", "embed-shards")
            }
            Self::Search(SearchArgs { calibrate: shards, library, .. }) if !shards.is_empty() => {
                let calibrate = Self::Calibrate(CalibrateArgs { shards, library });
                (calibrate, "search --calibrate", "calibrate")
            }
            Self::Train(TrainArgs { run, plan: true, ranks, sizes, .. }) => {
                (Self::Plan(PlanArgs { run, ranks, sizes }), "train --plan", "plan")
            }
            new => return (new, None),
        };
        (command, Some(Renamed { old, new }))
    }
}
