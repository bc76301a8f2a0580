//! `mmgem verify`: checks for developers. `mmgem --help` does not list it.

mod collectives;
mod parity;
mod trace;

use anyhow::Result;
use clap::{Args, Subcommand};

pub use self::collectives::CollectivesArgs;
pub use self::parity::ParityArgs;
pub use self::trace::TraceArgs;
use crate::cli::bench::counts::{self, CountsArgs};
use crate::globals::Globals;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mmgem verify parity --device wgpu:0\n  \
    mmgem verify trace --model tiny --image a.jpg --text \"a dog\" --compare golden.safetensors\n  \
    mmgem verify counts --device wgpu\n  \
    mmgem verify collectives --device cuda")]
pub struct VerifyArgs {
    #[command(subcommand)]
    pub check: Check,
}

#[derive(Debug, Subcommand)]
pub enum Check {
    /// Compare every device with the reference program's values
    Parity(ParityArgs),
    /// Write every stage of the graph, or compare the stages with the reference program's
    Trace(TraceArgs),
    /// Count GPU dispatches, submissions and read-backs per image, text, prompt and token
    Counts(CountsArgs),
    /// Check every transfer between ranks with known numbers
    Collectives(CollectivesArgs),
}

pub fn run(args: &VerifyArgs, globals: &Globals) -> Result<()> {
    match &args.check {
        Check::Parity(args) => parity::run(args, globals),
        Check::Trace(args) => trace::run(args, globals),
        Check::Counts(args) => counts::run(args, globals),
        Check::Collectives(args) => collectives::run(args, globals),
    }
}
