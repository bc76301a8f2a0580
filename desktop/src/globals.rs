//! The options of every command, and the error for invalid arguments.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::context::Context;
use crate::device::{DeviceChoice, OpenedDevice, open_device};
use crate::model::ModelFiles;
use crate::terminal::note;

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct Globals {
    /// Device: auto, cpu, wgpu[:N] or cuda[:N]; `mmgem info --devices` lists them
    #[arg(
        long,
        global = true,
        value_name = "DEVICE",
        default_value_t,
        help_heading = "Global options"
    )]
    pub device: DeviceChoice,
    /// Model folder [default: the embedded model]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    pub model: Option<PathBuf>,
    /// Print one JSON document instead of text
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Suppress notes and progress bars
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub quiet: bool,
    /// Fail on the first unusable file, instead of skipping it
    #[arg(long, global = true, help_heading = "Global options")]
    pub strict: bool,
}

impl Globals {
    /// Opens the device and the model, and notes the device on stderr.
    pub fn open(&self) -> Result<Context> {
        self.open_files(ModelFiles::read(self.model.as_deref())?)
    }

    /// Opens the device and these files, and notes the device on stderr.
    pub fn open_files(&self, files: ModelFiles) -> Result<Context> {
        let opened = self.open_device()?;
        Ok(Context {
            session: files.open(&opened)?,
            fingerprint: files.fingerprint(),
            model_name: files.name,
            device_name: opened.name,
            quiet: self.quiet,
            json: self.json,
            strict: self.strict,
        })
    }

    /// Opens the device, and notes its name and the reason for the choice on stderr.
    pub fn open_device(&self) -> Result<OpenedDevice> {
        let opened = open_device(self.device)?;
        note(self.quiet, format!("device: {}: {}", opened.name, opened.reason));
        Ok(opened)
    }
}

/// Invalid arguments that only the command itself can detect; exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WrongArguments(pub String);
