//! The command line.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args as ClapArgs, Parser, Subcommand};

use crate::cli;
use crate::context::Context;
use crate::device::{DeviceChoice, OpenedDevice, open_device};
use crate::model::ModelFiles;
use crate::terminal::note;

/// Search and describe images, whole or by region, with one model (MM-GEM, arXiv:2405.19333)
#[derive(Debug, Parser)]
#[command(
    name = "mmgem",
    version,
    after_help = "Examples:\n  \
        mmgem caption photo.jpg --box 40,60,200,220\n  \
        mmgem search \"a red boat\" --photos ~/Pictures -k 5\n  \
        mmgem localize photo.jpg --text \"the dog\" --out dog.png\n\n\
        Results go to stdout, everything else to stderr.\n\
        Exit codes: 0 done, 1 failed, 2 wrong arguments."
)]
pub struct Args {
    #[command(flatten)]
    pub globals: Globals,
    #[command(subcommand)]
    pub command: Command,
}

/// Switches that every command has.
#[derive(Clone, Debug, ClapArgs)]
pub struct Globals {
    /// Where to compute: auto, cpu, wgpu[:N] or cuda[:N] (`mmgem devices` lists them)
    #[arg(long, global = true, value_name = "DEVICE", default_value_t, help_heading = "Everywhere")]
    pub device: DeviceChoice,
    /// Folder of the model; the embedded one without
    #[arg(long, global = true, value_name = "DIR", help_heading = "Everywhere")]
    pub model: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub json: bool,
    /// Say only what was asked for
    #[arg(short, long, global = true, help_heading = "Everywhere")]
    pub quiet: bool,
    /// A file that cannot be read among many is an error
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub strict: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Open the window: search photos as you type, look into them, drag boxes
    App(cli::app::AppArgs),
    /// Measure what this machine does with a model
    Bench(cli::bench::BenchArgs),
    /// Write what is on photos, or in regions of them
    Caption(cli::caption::CaptionArgs),
    /// Take a tour: search, describe and locate, written as a page to look at
    Demo(crate::demo::DemoArgs),
    /// List the devices, their features and limits
    Devices,
    /// Turn photos, regions and texts into unit vectors
    Embed(cli::embed::EmbedArgs),
    /// Score a model on held-out photos
    Eval(cli::eval::EvalArgs),
    /// Write a verified copy of a model in another number format
    Export(cli::export::ExportArgs),
    /// Make a model from an OpenCLIP and a Llama checkpoint
    Import(cli::import::ImportArgs),
    /// Remember the photos of folders, so that searching them is quick
    Index(cli::index::IndexArgs),
    /// Show a model's sizes and history, and check that it works
    Info(cli::info::InfoArgs),
    /// Draw where in a photo a text is
    Localize(cli::localize::LocalizeArgs),
    /// Compare every device with the reference program's values
    Parity(cli::parity::ParityArgs),
    /// Draw captioned scenes with regions as training data
    Scenes(cli::scenes::ScenesArgs),
    /// Score captions: BLEU, ROUGE-L, CIDEr
    Score(cli::score::ScoreArgs),
    /// Find photos by a text, a photo, or a region of a photo
    Search(cli::search::SearchArgs),
    /// Write every stage of the graph, or compare it with the reference program's
    Trace(cli::trace::TraceArgs),
    /// Train a model by one of the recipes
    Train(cli::train::TrainArgs),
    /// Serve the page that does this in a browser, on this machine
    Web(cli::web::WebArgs),
}

/// Arguments that contradict each other in a way only the command sees; exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WrongArguments(pub String);

impl Globals {
    /// Opens the device and the model and says both aloud.
    pub fn open(&self) -> Result<Context> {
        let files = ModelFiles::read(self.model.as_deref())?;
        let opened = self.open_device()?;
        Ok(Context {
            session: files.open(&opened)?,
            fingerprint: files.fingerprint(),
            model_name: files.name,
            device_name: opened.name,
            is_cpu: opened.is_cpu,
            quiet: self.quiet,
            json: self.json,
            strict: self.strict,
        })
    }

    /// Opens the device and says which and why.
    pub fn open_device(&self) -> Result<OpenedDevice> {
        let opened = open_device(self.device)?;
        note(self.quiet, format!("device: {}: {}", opened.name, opened.reason));
        Ok(opened)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        for command in Args::command().get_subcommands().filter(|command| command.get_name() != "devices") {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("mmgem "), "{}", command.get_name());
        }
    }
}
