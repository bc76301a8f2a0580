//! Writes the metrics of each step. A resumed run first removes the lines after its checkpoint's
//! step.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use mmgem_data::files::{FolderError, write_atomic};
use serde_json::Value;

use super::config::TrainConfig;
use super::plot::loss_plot;
use super::step::LOSSES;
use super::tensorboard::EventFile;

/// One JSON document per step.
const LINES: &str = "metrics.jsonl";

/// The same for TensorBoard, which recognizes its files by the middle of their names.
const EVENTS: &str = "events.out.tfevents.0.mmgem";

/// `metrics.jsonl` and the files drawn from it.
pub struct Metrics {
    file: File,
    path: PathBuf,
    events: EventFile,
}

impl Metrics {
    /// Opens the file and removes lines of steps after `step`, which an interrupted run wrote.
    pub fn open(out: &Path, step: usize) -> Result<Self, FolderError> {
        let path = out.join(LINES);
        let kept: String = match File::open(&path) {
            Ok(file) => BufReader::new(file)
                .lines()
                .map_while(Result::ok)
                .filter(|line| step_of(line).is_some_and(|at| at <= step))
                .fold(String::new(), |all, line| all + &line + "\n"),
            Err(_) => String::new(),
        };
        write_atomic(&path, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path).map_err(|cause| {
            FolderError::Io { action: "append to the file", cause, path: path.clone() }
        })?;
        let kept: Vec<Value> =
            kept.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let events_path = out.join(EVENTS);
        let events = EventFile::create(&events_path, kept.iter()).map_err(|cause| {
            FolderError::Io { action: "write the file", cause, path: events_path }
        })?;
        Ok(Self { file, path, events })
    }

    /// Appends a line.
    pub fn write(&mut self, record: &Value) -> Result<(), FolderError> {
        self.io(|file| file.write_all(format!("{record}\n").as_bytes()))?;
        // A failure here does not end the run, because the file can be rebuilt from the lines.
        if let Err(why) = self.events.write(record) {
            tracing::debug!("{EVENTS} was not written: {why}");
        }
        Ok(())
    }

    /// Flushes written lines to the disk.
    pub fn flush(&mut self) -> Result<(), FolderError> {
        self.io(|file| file.sync_data())
    }

    fn io(
        &mut self,
        act: impl FnOnce(&mut File) -> std::io::Result<()>,
    ) -> Result<(), FolderError> {
        act(&mut self.file).map_err(|cause| FolderError::Io {
            action: "append to the file",
            cause,
            path: self.path.clone(),
        })
    }

    /// Redraws `loss.svg` from the whole file.
    pub fn plot(&self, config: &TrainConfig) -> Result<(), FolderError> {
        let records = read_records(&config.out);
        let curve = |name: &str| -> Vec<(f64, f64)> {
            records
                .iter()
                .filter_map(|r| Some((r["step"].as_f64()?, r.get(name)?.as_f64()?)))
                .collect()
        };
        let curves: Vec<_> = LOSSES
            .iter()
            .map(|name| ((*name).to_owned(), curve(name)))
            .filter(|(_, points)| !points.is_empty())
            .collect();
        let title = config.out.file_name().unwrap_or_default().to_string_lossy();
        match loss_plot(&title, &curves) {
            Ok(svg) => write_atomic(&config.out.join("loss.svg"), svg.as_bytes()),
            // A failed plot does not end the run.
            Err(why) => {
                tracing::debug!("loss.svg was not drawn: {why}");
                Ok(())
            }
        }
    }
}

/// The lines of a run; empty if it has not started.
pub fn read_records(out: &Path) -> Vec<Value> {
    let text = fs::read_to_string(out.join(LINES)).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn step_of(line: &str) -> Option<usize> {
    serde_json::from_str::<Value>(line).ok()?["step"].as_u64().map(|step| step as usize)
}
