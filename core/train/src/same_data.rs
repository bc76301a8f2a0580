//! Checks that a resumed run has the data that it was started with, wherever it lies now.

use std::path::{Path, PathBuf};

use mmgem_core::checkpoint::{HASH_START, hash_bytes};
use mmgem_data::files::{read, write_atomic};
use serde::{Deserialize, Serialize};

use super::config::TrainConfig;
use super::run::TrainError;

/// Name of the record in a run's folder.
pub const DATA_FILE: &str = "data.json";

/// Identity of a run's data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct DataRecord {
    /// Hash of the paths in the config.
    paths: String,
    sources: Vec<SourceRecord>,
    /// Hash of the lines of text.
    text: String,
}

/// Identity of a source, without its folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// Kind of the source.
    pub kind: String,
    /// Number of shards.
    pub shards: usize,
    /// Number of photos; of each shard for commands.
    pub photos: usize,
    /// Hash of the samples' names and positions, in their order; `None` for commands.
    pub hash: Option<String>,
}

/// Records the data of a new run, or compares the data of a resumed run with the record. Returns
/// warnings.
///
/// # Errors
/// If the config names other files than before, and they hold other data.
pub fn check_same_data(
    config: &TrainConfig,
    sources: Vec<SourceRecord>,
    lines: &[String],
    is_resumed: bool,
) -> Result<Vec<String>, TrainError> {
    let path = config.out.join(DATA_FILE);
    let hash = |hash: u64| format!("{hash:016x}");
    let text = lines
        .iter()
        .fold(HASH_START, |hash, line| hash_bytes(hash_bytes(hash, line.as_bytes()), b"\n"));
    let new = DataRecord { paths: hash(paths_hash(config)), sources, text: hash(text) };
    let mut warnings = Vec::new();
    if is_resumed && path.is_file() {
        let old: DataRecord = serde_json::from_slice(&read(&path)?).map_err(|error| {
            TrainError::OtherConfig(format!(
                "{DATA_FILE} cannot be read ({error}); remove it if the data is still the same"
            ))
        })?;
        let is_moved = old.paths != new.paths;
        match difference(&old, &new) {
            Some(found) if is_moved => {
                return Err(TrainError::OtherConfig(format!(
                    "[data] names other files than before, and {found}"
                )));
            }
            Some(found) => warnings.push(format!(
                "the data changed since the run started, so samples of this epoch may repeat or be left out: {found}"
            )),
            None => {}
        }
        if is_moved && new.sources.iter().any(|source| source.hash.is_none()) {
            warnings.push(
                "the commands of [data] changed: the run is the same only if they write the same shards in the same order"
                    .into(),
            );
        }
    }
    let json = serde_json::to_vec_pretty(&new).expect("plain values serialise");
    write_atomic(&path, &json)?;
    Ok(warnings)
}

/// The first difference of the data, as a clause.
fn difference(old: &DataRecord, new: &DataRecord) -> Option<String> {
    if old.sources.len() != new.sources.len() {
        return Some(format!(
            "there were {} sources, now {}",
            old.sources.len(),
            new.sources.len()
        ));
    }
    let describe = |source: &SourceRecord| {
        let SourceRecord { kind, shards, photos, hash } = source;
        let hash = hash.as_deref().unwrap_or("not known");
        format!("{photos} photos in {shards} {kind} (hash {hash})")
    };
    let mut pairs = old.sources.iter().zip(&new.sources).enumerate();
    match pairs.find(|(_, (old, new))| old != new) {
        Some((idx, (old, new))) => {
            Some(format!("source {idx} was {}, is {}", describe(old), describe(new)))
        }
        None if old.text != new.text => Some("the lines of data.text are others".into()),
        None => None,
    }
}

/// Hash of the paths in `[data]`.
fn paths_hash(config: &TrainConfig) -> u64 {
    let data = &config.data;
    let of_mix = data.mix.iter().map(|mix| (&mix.shards, &mix.visual_genome, &mix.images));
    let paths = (&data.shards, &data.text, of_mix.collect::<Vec<_>>());
    let json = serde_json::to_vec(&paths).expect("paths serialise");
    hash_bytes(HASH_START, &json)
}

/// The config without the places of files, which a moved run may change. `moves_data` also leaves
/// out the places of the data, which [`check_same_data`] compares.
pub fn without_places(config: &TrainConfig, moves_data: bool) -> TrainConfig {
    let mut config = config.clone();
    let name = |path: &mut PathBuf| {
        *path = Path::new(path.file_name().unwrap_or_default()).to_owned();
    };
    config.out.clear();
    config.data.cache.iter_mut().for_each(PathBuf::clear);
    let model = &mut config.model;
    for path in [&mut model.from, &mut model.config, &mut model.vision, &mut model.tokenizer] {
        path.iter_mut().for_each(name);
    }
    model.tokenizer_text.iter_mut().for_each(name);
    if moves_data {
        let data = &mut config.data;
        data.text.iter_mut().for_each(name);
        data.shards.truncate(1);
        data.shards.iter_mut().for_each(String::clear);
        for mix in &mut data.mix {
            mix.shards.truncate(1);
            mix.shards.iter_mut().for_each(String::clear);
            mix.visual_genome.iter_mut().for_each(name);
            mix.images.clear();
        }
    }
    config
}
