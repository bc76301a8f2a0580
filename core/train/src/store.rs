//! Checkpoints of a run, written atomically.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use mmgem_core::checkpoint::{CheckpointError, Dtype, Shards, load, named_tensors, to_safetensors};
use mmgem_data::files::{FolderError, create_dir, read, sync_dir, write_atomic};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

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

/// The folder of a run's checkpoints.
pub struct Store {
    folder: PathBuf,
    keep: usize,
}

impl Store {
    /// Uses `checkpoints` in the run's folder, and keeps the newest `keep`.
    pub fn new(out: &Path, keep: usize) -> Self {
        Self { folder: out.join("checkpoints"), keep }
    }

    /// Writes a checkpoint to a temporary folder, then renames it. Then removes old ones, but not
    /// the newest one from before `trouble`.
    pub fn save(
        &self,
        trainee: &Trainee,
        optimizer: &OptimizerGroups,
        state: &RunState,
        trouble: Option<usize>,
    ) -> Result<(), FolderError> {
        create_dir(&self.folder)?;
        let name = format!("step-{:08}", state.step);
        let (temporary, whole) = (self.folder.join(format!("{name}.tmp")), self.folder.join(&name));
        if whole.exists() {
            return Ok(());
        }
        let _ = fs::remove_dir_all(&temporary);
        create_dir(&temporary)?;
        let written = (|| {
            let weights = to_safetensors(&named_tensors(trainee), Dtype::F32, None);
            write_atomic(&temporary.join("trainee.safetensors"), &weights)?;
            let count = (N_PARAMETERS.to_owned(), optimizer.n_parameters().to_string());
            let moments = to_safetensors(&optimizer.to_tensors(), Dtype::F32, Some([count].into()));
            write_atomic(&temporary.join("optimizer.safetensors"), &moments)?;
            let state = serde_json::to_vec_pretty(state).expect("a plain struct serialises");
            write_atomic(&temporary.join("state.json"), &state)?;
            let io = |cause| FolderError::Io {
                action: "finish the checkpoint",
                cause,
                path: whole.clone(),
            };
            fs::rename(&temporary, &whole).map_err(io)?;
            sync_dir(Some(&self.folder)).map_err(io)
        })();
        if written.is_err() {
            let _ = fs::remove_dir_all(&temporary);
        }
        written?;
        let steps = self.steps();
        let before = trouble.and_then(|since| steps.iter().rfind(|step| **step < since));
        let old = &steps[..steps.len().saturating_sub(self.keep)];
        for step in old.iter().filter(|step| before != Some(*step)) {
            let _ = fs::remove_dir_all(self.path(*step));
        }
        Ok(())
    }

    /// The newest checkpoint from before step `since` whose loss and gradient were sound, with its
    /// state.
    pub fn before(&self, since: usize) -> Option<(PathBuf, RunState)> {
        let state = |step: &usize| {
            let folder = self.path(*step);
            let state: RunState =
                serde_json::from_slice(&read(&folder.join("state.json")).ok()?).ok()?;
            let is_sound = state.newest.is_none_or(|newest| newest.grad_norm > 0.0);
            is_sound.then_some((folder, state))
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

    /// Folder of the checkpoint at a step.
    pub fn path(&self, step: usize) -> PathBuf {
        self.folder.join(format!("step-{step:08}"))
    }

    /// Loads a checkpoint.
    pub fn load(
        &self,
        step: usize,
        trainee: Trainee,
        optimizer: &mut OptimizerGroups,
        device: &Device,
    ) -> Result<(Trainee, RunState), FolderError> {
        let folder = self.path(step);
        let at = |cause: CheckpointError| FolderError::Checkpoint { cause, folder: folder.clone() };
        let weights = read(&folder.join("trainee.safetensors"))?;
        let shards = Shards::new(&[("trainee.safetensors", &weights)]).map_err(at)?;
        let trainee = load(trainee, &shards).map_err(at)?;

        let path = folder.join("optimizer.safetensors");
        let bytes = read(&path)?;
        let damaged = |found: String, path: PathBuf| {
            let hint = "remove this checkpoint to resume from the one before";
            FolderError::Damaged { found, hint, path }
        };
        let moments = Shards::new(&[("optimizer.safetensors", &bytes)]).map_err(at)?;
        if let Err(cause) = optimizer.load(&trainee, &moments, device) {
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

        let path = folder.join("state.json");
        let state = serde_json::from_slice(&read(&path)?)
            .map_err(|e| damaged(format!("state.json cannot be read ({e})"), path))?;
        Ok((trainee, state))
    }
}

/// The number of parameters with moments, after the header of `optimizer.safetensors`; `None` in
/// checkpoints of older versions.
fn n_parameters(bytes: &[u8]) -> Option<usize> {
    let (_, header) = SafeTensors::read_metadata(bytes).ok()?;
    header.metadata().as_ref()?.get(N_PARAMETERS)?.parse().ok()
}
