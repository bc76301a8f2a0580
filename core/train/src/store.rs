//! Checkpoints of a run, written atomically by a thread while the training continues.
//!
//! `Store::save` copies the weights to the host and starts the thread, once the previous
//! checkpoint is written. A checkpoint is a folder that is renamed into place once it is complete
//! and on disk. It has the BLAKE3 hashes of its files, so that a resumed run can skip a damaged
//! checkpoint.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use mmgem_core::checkpoint::{
    CheckpointError, Dtype, NamedTensor, Shards, load, named_tensors, to_safetensors,
};
use mmgem_data::files::{FolderError, create_dir, read, rename, sync_dir, write_atomic};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use super::average::Average;
use super::best::Best;
use super::health::Signs;
use super::optimizer::OptimizerGroups;
use super::step::Trainee;

/// The state that a resumed run needs, beside weights and moments.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunState {
    /// Steps done. This is also the data position, because a batch follows from its step.
    pub step: usize,
    /// Samples that could not be used so far.
    pub skipped_samples: usize,
    /// Steps so far without an update, because the loss or gradient was not finite.
    pub bad_steps: usize,
    /// Steps so far without a usable sample.
    #[serde(default)]
    pub empty_steps: usize,
    /// Seconds of training so far.
    pub seconds: f64,
    /// Loss and gradient norm of the newest step that updated the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<LossAndNorm>,
    /// Signs of a collapse, and the step at which each began.
    #[serde(default, skip_serializing_if = "Signs::is_empty")]
    pub signs: Signs,
    /// The best checkpoint by `checkpoint.keep_best`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Best>,
}

/// Loss and gradient norm of a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossAndNorm {
    /// Weighted sum of the losses.
    pub loss: f64,
    /// Norm of the whole gradient.
    pub grad_norm: f64,
}

/// Key in the header of `optimizer.safetensors`: the number of parameters with moments.
const N_PARAMETERS: &str = "n_parameters";

pub(super) const WEIGHTS: &str = "trainee.safetensors";
const MOMENTS: &str = "optimizer.safetensors";
/// The averaged weights of a run with `optim.ema`.
pub(super) const AVERAGES: &str = "average.safetensors";
const STATE: &str = "state.json";

/// BLAKE3 of the other files, by name. Checkpoints of older versions lack this file.
const HASHES: &str = "hashes.json";

/// The folder of a run's checkpoints. A thread writes them while the training continues.
pub struct Store {
    folder: PathBuf,
    keep: usize,
    writing: Option<JoinHandle<Result<Saved, FolderError>>>,
}

/// The optimizer's moments and the averaged weights, copied to the host.
pub struct Moments {
    /// As [`OptimizerGroups::to_tensors`] returns them.
    pub tensors: Vec<NamedTensor>,
    /// Number of parameters that have moments.
    pub n_parameters: usize,
    /// The averaged weights, as [`super::average::to_tensors`] returns them, with `optim.ema`.
    pub averages: Option<Vec<NamedTensor>>,
}

/// A checkpoint that is complete and on disk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Saved {
    /// Steps done.
    pub step: usize,
    /// Seconds that the thread has taken to write it.
    pub seconds: f64,
}

impl Store {
    /// Uses `checkpoints` in the run's folder, and keeps the newest `keep`.
    pub fn new(out: &Path, keep: usize) -> Self {
        Self { folder: out.join("checkpoints"), keep, writing: None }
    }

    /// Copies weights and state to the host, and starts a thread that writes them and the moments.
    /// Waits for the previous checkpoint first. The newest checkpoint from before step `trouble` and
    /// the best one stay, however many follow.
    ///
    /// # Errors
    /// If the previous checkpoint could not be written.
    pub fn save(
        &mut self,
        trainee: &Trainee,
        moments: Moments,
        state: &RunState,
        trouble: Option<usize>,
    ) -> Result<Option<Saved>, FolderError> {
        let previous = self.wait()?;
        let whole = self.path(state.step);
        if whole.exists() {
            return Ok(previous);
        }
        let snapshot = Snapshot {
            weights: named_tensors(trainee),
            moments,
            state: serde_json::to_vec_pretty(state).expect("a plain struct serializes"),
        };
        let (step, best) = (state.step, state.best.as_ref().map(|best| best.step));
        let store = Self { folder: self.folder.clone(), keep: self.keep, writing: None };
        self.writing = Some(thread::spawn(move || {
            let started = Instant::now();
            store.write(snapshot, &whole, trouble, best)?;
            Ok(Saved { step, seconds: started.elapsed().as_secs_f64() })
        }));
        Ok(previous)
    }

    /// Whether the thread has ended; [`Self::wait`] then returns its result at once.
    pub fn is_done(&self) -> bool {
        self.writing.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Waits for the checkpoint that is being written, and returns it.
    ///
    /// # Errors
    /// If it could not be written.
    pub fn wait(&mut self) -> Result<Option<Saved>, FolderError> {
        match self.writing.take().map(JoinHandle::join) {
            None => Ok(None),
            Some(Ok(saved)) => saved.map(Some),
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }

    /// Writes a checkpoint to a temporary folder, then renames it. Then removes old ones, but not
    /// the newest one from before `trouble` and not the best one.
    fn write(
        &self,
        snapshot: Snapshot,
        whole: &Path,
        trouble: Option<usize>,
        best: Option<usize>,
    ) -> Result<(), FolderError> {
        create_dir(&self.folder)?;
        let temporary = whole.with_extension("tmp");
        let _ = fs::remove_dir_all(&temporary);
        create_dir(&temporary)?;
        let written = (|| {
            let mut hashes = BTreeMap::new();
            snapshot.write(|name, bytes| {
                hashes.insert(name, blake3::hash(&bytes).to_hex().to_string());
                write_atomic(&temporary.join(name), &bytes)
            })?;
            let hashes = serde_json::to_vec_pretty(&hashes).expect("a map of texts serializes");
            write_atomic(&temporary.join(HASHES), &hashes)?;
            let io = |cause| FolderError::Io {
                action: "finish the checkpoint",
                cause,
                path: whole.to_owned(),
            };
            rename(&temporary, whole).map_err(io)?;
            sync_dir(Some(&self.folder)).map_err(io)
        })();
        if written.is_err() {
            let _ = fs::remove_dir_all(&temporary);
        }
        written?;
        let steps = self.steps();
        let before = trouble.and_then(|since| steps.iter().rfind(|step| **step < since));
        let old = &steps[..steps.len().saturating_sub(self.keep)];
        for step in old.iter().filter(|step| before != Some(*step) && best != Some(**step)) {
            let _ = fs::remove_dir_all(self.path(*step));
        }
        Ok(())
    }

    /// The newest checkpoint whose files are as they were written. Renames damaged ones, so that
    /// the run can write them again, and passes a warning for each to `warn`.
    ///
    /// # Errors
    /// If there are checkpoints, but all are damaged.
    pub fn newest_intact(
        &self,
        mut warn: impl FnMut(String),
    ) -> Result<Option<usize>, FolderError> {
        let mut damaged = Vec::new();
        let mut intact = None;
        for step in self.steps().into_iter().rev() {
            match self.check(step) {
                Ok(()) => {
                    intact = Some(step);
                    break;
                }
                Err(error) => damaged.push((step, error)),
            }
        }
        if intact.is_none() && !damaged.is_empty() {
            return Err(damaged.swap_remove(0).1);
        }
        for (step, error) in damaged {
            let to = self.rename(step, "damaged")?;
            warn(format!(
                "the checkpoint of step {step} is damaged; it is now {}: {error}",
                to.display()
            ));
        }
        Ok(intact)
    }

    /// Renames the checkpoints after `step`, so that a run that goes on from there can write its own,
    /// and passes a note for each to `say`.
    ///
    /// # Errors
    /// If one cannot be renamed.
    pub fn set_aside_after(
        &self,
        step: usize,
        mut say: impl FnMut(String),
    ) -> Result<(), FolderError> {
        for newer in self.steps().into_iter().rev().filter(|newer| *newer > step) {
            let to = self.rename(newer, "newer")?;
            say(format!("the checkpoint of step {newer} is set aside; it is now {}", to.display()));
        }
        Ok(())
    }

    /// Renames a checkpoint, in place of one that had the name before.
    fn rename(&self, step: usize, extension: &str) -> Result<PathBuf, FolderError> {
        let (from, to) = (self.path(step), self.path(step).with_extension(extension));
        let _ = fs::remove_dir_all(&to);
        let io = |cause| FolderError::Io { action: "rename", cause, path: from.clone() };
        rename(&from, &to).map_err(io)?;
        Ok(to)
    }

    /// The step of a checkpoint of this run; `None` if the folder is not one.
    pub fn step_at(&self, folder: &Path) -> Option<usize> {
        let folder = folder.canonicalize().ok()?;
        let is_it = |step: &usize| self.path(*step).canonicalize().is_ok_and(|own| own == folder);
        self.steps().into_iter().find(is_it)
    }

    /// Reads the state of a checkpoint.
    pub fn state(&self, step: usize) -> Result<RunState, FolderError> {
        let path = self.path(step).join(STATE);
        serde_json::from_slice(&read(&path)?)
            .map_err(|e| damaged(format!("{STATE} cannot be read ({e})"), path))
    }

    /// Checks that all files of a checkpoint are there and as they were written.
    ///
    /// # Errors
    /// If they are not.
    pub fn check(&self, step: usize) -> Result<(), FolderError> {
        let folder = self.path(step);
        let hashes: BTreeMap<String, String> = match fs::read(folder.join(HASHES)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
                damaged(format!("{HASHES} cannot be read ({e})"), folder.join(HASHES))
            })?,
            Err(_) => BTreeMap::new(),
        };
        let averages = hashes.contains_key(AVERAGES).then_some(AVERAGES);
        for name in [WEIGHTS, MOMENTS, STATE].into_iter().chain(averages) {
            let path = folder.join(name);
            let bytes = read(&path)?;
            let is_intact = match hashes.get(name) {
                Some(hash) => blake3::hash(&bytes).to_hex().as_str() == hash,
                None if name == STATE => serde_json::from_slice::<RunState>(&bytes).is_ok(),
                None => SafeTensors::deserialize(&bytes).is_ok(),
            };
            if !is_intact {
                return Err(damaged(format!("{name} is not as it was written"), path));
            }
        }
        Ok(())
    }

    /// The newest checkpoint from before step `since` whose loss and gradient were sound, with its
    /// state.
    pub fn before(&self, since: usize) -> Option<(PathBuf, RunState)> {
        let state = |step: &usize| {
            let state = self.state(*step).ok()?;
            let is_sound = state.newest.is_none_or(|newest| newest.grad_norm > 0.0);
            is_sound.then(|| (self.path(*step), state))
        };
        self.steps().iter().rev().filter(|step| **step < since).find_map(state)
    }

    /// Steps of the complete checkpoints, oldest first.
    pub fn steps(&self) -> Vec<usize> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut steps: Vec<usize> = entries
            .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("step-")?.parse().ok())
            .collect();
        steps.sort_unstable();
        steps
    }

    /// Folder of the checkpoints.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Folder of the checkpoint at a step.
    pub fn path(&self, step: usize) -> PathBuf {
        self.folder.join(format!("step-{step:08}"))
    }

    /// Loads a checkpoint; on rank 0 only.
    pub fn load(
        &self,
        step: usize,
        trainee: Trainee,
        optimizer: &mut OptimizerGroups,
    ) -> Result<(Trainee, RunState), FolderError> {
        let folder = self.path(step);
        let at = |cause: CheckpointError| FolderError::Checkpoint { cause, folder: folder.clone() };
        let weights = read(&folder.join(WEIGHTS))?;
        let shards = Shards::new(&[(WEIGHTS, &weights)]).map_err(at)?;
        let trainee = load(trainee, &shards).map_err(at)?;

        let path = folder.join(MOMENTS);
        let bytes = read(&path)?;
        let moments = Shards::new(&[(MOMENTS, &bytes)]).map_err(at)?;
        if let Err(cause) = optimizer.load(&trainee, &moments) {
            // Without the hint, which is about a model.
            let cause = cause.to_string();
            let cause = cause.split("\n").next().unwrap_or_default();
            return Err(damaged(format!("the optimizer's moments do not fit: {cause}"), path));
        }
        let (found, wanted) = (optimizer.n_parameters(), n_parameters(&bytes));
        if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
            let found = format!("found moments of {found} parameters, wanted {wanted}");
            return Err(damaged(found, path));
        }

        Ok((trainee, self.state(step)?))
    }
}

impl Store {
    /// Loads the averaged weights of a checkpoint.
    ///
    /// # Errors
    /// If they are missing or do not fit.
    pub fn load_average(&self, step: usize, average: &mut Average) -> Result<(), FolderError> {
        let path = self.path(step).join(AVERAGES);
        let bytes = read(&path)?;
        let loaded = Shards::new(&[(AVERAGES, &bytes)]).and_then(|shards| average.load(&shards));
        loaded.map_err(|cause| FolderError::Checkpoint { cause, folder: self.path(step) })
    }
}

/// A checkpoint in the host's memory.
struct Snapshot {
    weights: Vec<NamedTensor>,
    moments: Moments,
    state: Vec<u8>,
}

impl Snapshot {
    /// Passes the names and bytes of its files to `write`, one after the other.
    fn write(
        self,
        mut write: impl FnMut(&'static str, Vec<u8>) -> Result<(), FolderError>,
    ) -> Result<(), FolderError> {
        let Self { weights, moments: Moments { tensors, n_parameters, averages }, state } = self;
        write(WEIGHTS, to_safetensors(&weights, Dtype::F32, None))?;
        drop(weights);
        let count = (N_PARAMETERS.to_owned(), n_parameters.to_string());
        write(MOMENTS, to_safetensors(&tensors, Dtype::F32, Some([count].into())))?;
        if let Some(averages) = averages {
            write(AVERAGES, to_safetensors(&averages, Dtype::F32, None))?;
        }
        write(STATE, state)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // A run that ends with an error keeps the checkpoint that it was writing. A second error
        // has no place to go.
        let _ = self.wait();
    }
}

fn damaged(found: String, path: PathBuf) -> FolderError {
    let hint = "remove this checkpoint to resume from the one before";
    FolderError::Damaged { found, hint, path }
}

/// The number of parameters with moments, after the header of `optimizer.safetensors`; `None` in
/// checkpoints of older versions.
fn n_parameters(bytes: &[u8]) -> Option<usize> {
    let (_, header) = SafeTensors::read_metadata(bytes).ok()?;
    header.metadata().as_ref()?.get(N_PARAMETERS)?.parse().ok()
}
