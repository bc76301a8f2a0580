//! Reads the model of a checkpoint, for export.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use mmgem_core::checkpoint::{CheckpointError, Shards, load};
use mmgem_data::files::{FolderError, ModelFolder, read};

use super::average::load_averages;
use super::config::TrainConfig;
use super::lora::merge;
use super::run::TrainError;
use super::start::start_model;
use super::step::Trainee;
use super::store::{AVERAGES, WEIGHTS};

/// The model of the checkpoint in `folder`, as `runs/a/checkpoints/step-00000200`, with the records
/// of its run two folders above. With `optim.ema` it has the averaged weights, unless `raw`.
/// Adapters are merged.
///
/// Returns `None` if the folder is not a checkpoint.
///
/// # Errors
/// If a file of the checkpoint or its run cannot be read, or if there are no averaged weights to
/// leave out.
pub fn read_checkpoint(
    folder: &Path,
    raw: bool,
    device: &Device,
) -> Result<Option<ModelFolder>, TrainError> {
    if !folder.join(WEIGHTS).is_file() {
        return Ok(None);
    }
    let inside = folder.canonicalize().map_err(|cause| FolderError::Io {
        action: "find the run",
        cause,
        path: folder.into(),
    })?;
    let out = inside.ancestors().nth(2).unwrap_or(&inside).to_owned();
    let toml = read(&out.join("train.toml"))?;
    let config: TrainConfig = toml::from_str(&String::from_utf8_lossy(&toml))
        .map_err(|e| TrainError::OtherConfig(format!("train.toml cannot be read ({e})")))?;
    let config = TrainConfig { out, ..config };
    let device = &device.clone().autodiff();
    let start = start_model(&config, true, 0, device)?;
    let at = |cause: CheckpointError| FolderError::Checkpoint { cause, folder: folder.into() };
    let weights = read(&folder.join(WEIGHTS))?;
    let shards = Shards::new(&[(WEIGHTS, &weights)]).map_err(at)?;
    let trainee = Trainee::new(start.model, &start.config, &config, device);
    let mut trainee = load(trainee, &shards).map_err(at)?;
    match (config.optim.ema, raw) {
        (Some(_), false) => {
            let averages = read(&folder.join(AVERAGES))?;
            let averages = Shards::new(&[(AVERAGES, &averages)]).map_err(at)?;
            trainee = load_averages(trainee, &averages).map_err(at)?;
        }
        (None, true) => return Err(TrainError::NoAverage(folder.to_owned())),
        _ => {}
    }
    let model = merge(trainee.model.valid());
    Ok(Some(ModelFolder { model, ..start }))
}
