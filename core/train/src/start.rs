//! How a run starts or resumes: its model, its records, and the check that it is still the same
//! run.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use mmgem_collective::{Collective, CollectiveError, from_rank_0};
use mmgem_core::checkpoint::towers::load_tower;
use mmgem_core::config::MmGemConfig;
use mmgem_core::init::{fresh, fresh_where};
use mmgem_core::model::{MmGem, PoolAggregator};
use mmgem_core::params::{Mapped, map, visit};
use mmgem_core::tokenizer::{Tokenizer, train_bpe};
use mmgem_data::files::{FolderError, ModelFolder, Published, VISION_WEIGHTS, read, write_atomic};
use mmgem_data::source::read_lines;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::config::{ModelSource, OptimConfig, Recipe, TrainConfig};
use super::optimizer::{GradientMap, OptimizerGroups};
use super::reduce::in_buckets;
use super::run::TrainError;
use super::same_data::{DATA_FILE, without_places};
use super::step::Trainee;
use super::store::RunState;

/// The model that a run starts from. A resumed run takes sizes and tokenizer from its own records,
/// and the weights come later. So do those of `model.from` on the ranks other than 0.
pub fn start_model(
    config: &TrainConfig,
    resumed: bool,
    rank: usize,
    device: &Device,
) -> Result<ModelFolder, TrainError> {
    let source: &ModelSource = &config.model;
    if resumed {
        return without_weights(&config.out, device);
    }
    if let Some(folder) = &source.from {
        let mut start = match rank {
            0 => ModelFolder::read(folder, device)?,
            _ => without_weights(folder, device)?,
        };
        // They were measured with the weights that now change.
        start.config.search_cutoffs.clear();
        if let Some(size) = source.roi_output_size {
            start.config.roi_output_size = size;
            start.model.pool = PoolAggregator::new(&start.config);
        }
        if rank > 0 {
            return Ok(start);
        }
        start.model = match config.recipe {
            // Stage 2's h4 belongs to the h1 that it was trained with, so stage 1 draws a fresh
            // one.
            Recipe::Stage1 => fresh_where(start.model, &start.config, config.seed, &|path| {
                path.starts_with("h4.")
            }),
            _ => start.model,
        };
        if config.trains_prompts() && !source.keep_prompts {
            start.model = prompts_from_cap_token(start.model);
        }
        return Ok(start);
    }
    let path = source.config.as_ref().expect("the config was checked");
    let sizes = MmGemConfig::from_json(&String::from_utf8_lossy(&read(path)?))?;
    let tokenizer_json = match &source.tokenizer {
        Some(path) => read(path)?,
        None => {
            let mut lines = Vec::new();
            for path in &source.tokenizer_text {
                lines.extend(read_lines(path)?);
            }
            train_bpe(&lines, sizes.llm.vocab_size)?.into_bytes()
        }
    };
    let tokenizer = Tokenizer::from_json(&tokenizer_json, &sizes)?;
    let mut model = fresh(MmGem::new(&sizes, device), &sizes, config.seed);
    if let Some(path) = &source.vision {
        let published = Published::open(path, VISION_WEIGHTS)?;
        let configs = published.tower_configs()?;
        model = published
            .shards()
            .and_then(|shards| load_tower(model, &sizes, shards, &configs))
            .map_err(|cause| FolderError::Checkpoint { cause, folder: path.clone() })?;
    }
    Ok(ModelFolder { config: sizes, model, tokenizer, tokenizer_json })
}

/// The model of a folder, whose weights are not read.
fn without_weights(folder: &Path, device: &Device) -> Result<ModelFolder, TrainError> {
    let config_json = read(&folder.join("config.json"))?;
    let config = MmGemConfig::from_json(&String::from_utf8_lossy(&config_json))?;
    let tokenizer_json = read(&folder.join("tokenizer.json"))?;
    let tokenizer = Tokenizer::from_json(&tokenizer_json, &config)?;
    Ok(ModelFolder { model: MmGem::new(&config, device), config, tokenizer, tokenizer_json })
}

/// A value that rank 0 has as JSON, on all ranks.
pub fn from_rank_0_json<T: DeserializeOwned>(
    group: &dyn Collective,
    own: &[u8],
) -> Result<T, CollectiveError> {
    serde_json::from_slice(&from_rank_0(group, own)?).map_err(|error| {
        CollectiveError::Disagree(format!("rank 0 sent a state that cannot be read ({error})"))
    })
}

/// Sends rank 0's weights to all ranks, so that one rank reads them.
///
/// # Errors
/// If the ranks lose contact.
pub fn send_weights(trainee: Trainee, group: &dyn Collective) -> Result<Trainee, CollectiveError> {
    let device = trainee.model.logit_scale.lazy_device().inner();
    let (mut sizes, mut own) = (BTreeMap::new(), GradientMap::new());
    visit(&trainee, |param| {
        sizes.insert(param.path.clone(), param.n_values());
        // The others' weights are not even drawn yet.
        if group.rank() == 0 {
            own.insert(param.path.clone(), param.values());
        }
    });
    let values = sizes.into_iter().map(|(path, n)| {
        let values = own.remove(&path).unwrap_or_else(|| Tensor::zeros([n], &device));
        (path, values)
    });
    let mut weights = GradientMap::new();
    in_buckets(
        values,
        |bucket| group.broadcast(bucket, 0),
        |path, values| {
            weights.insert(path, values);
        },
    )?;
    Ok(match group.rank() {
        0 => trainee,
        _ => map(trainee, |param| match weights.remove(&param.path) {
            Some(values) => Mapped::Initial(Tensor::from_inner(values)),
            None => Mapped::Same,
        }),
    })
}

/// Sends rank 0's moments and state to all ranks, so that one rank reads a checkpoint. If the ranks
/// share out the moments, the others keep only theirs, and rank 0 still has all.
///
/// # Errors
/// If the ranks lose contact.
pub fn send_state(
    trainee: &Trainee,
    state: &RunState,
    optimizer: &mut OptimizerGroups,
    shares_moments: bool,
    group: &dyn Collective,
) -> Result<RunState, CollectiveError> {
    let state = serde_json::to_vec(state).expect("a plain struct serializes");
    let state = from_rank_0_json(group, &state)?;
    // The others know before that they keep only a part.
    if shares_moments && group.rank() > 0 {
        optimizer.shard(trainee, group);
    }
    optimizer.send_moments(trainee, group)?;
    Ok(state)
}

/// Starts each prompt `[CAP_i]` as a copy of stage 1's `[CAP]`; only their positions distinguish
/// them.
fn prompts_from_cap_token(mut model: MmGem) -> MmGem {
    let [n, width] = model.cap_prompts.val().dims();
    let prompts = model.cap_token.val().inner().reshape([1, width]).repeat_dim(0, n);
    model.cap_prompts = model.cap_prompts.map(|_| Tensor::from_inner(prompts).require_grad());
    model
}

/// Sizes of the model that a run trains, without its weights. `file` overrides the config's source.
pub fn read_sizes(config: &TrainConfig, file: Option<&Path>) -> Result<MmGemConfig, TrainError> {
    let path = match (file, &config.model.from, &config.model.config) {
        (Some(path), _, _) => path.to_owned(),
        (None, Some(folder), _) => folder.join("config.json"),
        (None, None, Some(path)) => path.clone(),
        (None, None, None) => PathBuf::new(),
    };
    Ok(MmGemConfig::from_json(&String::from_utf8_lossy(&read(&path)?))?)
}

/// Writes the run's records (config, sizes, tokenizer) beside its checkpoints.
pub fn write_records(
    config: &TrainConfig,
    sizes: &MmGemConfig,
    tokenizer_json: &[u8],
    commit: &str,
) -> Result<(), FolderError> {
    let toml = toml::to_string_pretty(config).expect("the config was read from TOML");
    write_atomic(&config.out.join("train.toml"), format!("# commit {commit}\n{toml}").as_bytes())?;
    write_atomic(&config.out.join("config.json"), sizes.to_json().as_bytes())?;
    write_atomic(&config.out.join("tokenizer.json"), tokenizer_json)
}

/// The config of a resumed run before.
pub struct Before {
    /// The changes of its config since then.
    pub changes: Vec<String>,
    /// Its steps and learning rates.
    pub optim: OptimConfig,
}

/// Checks that a resumed run has the config that it was started with, and returns the changes.
///
/// Allowed are changes of the run's length, its execution and its surroundings (checkpoints,
/// evaluation, cluster, hardware), and other paths to the same files. The hints for a diverged run are allowed too: lower learning
/// rates and clip_norm, longer warm-up.
pub fn check_same_run(config: &TrainConfig) -> Result<Before, TrainError> {
    let old = read(&config.out.join("train.toml"))?;
    let old: TrainConfig = toml::from_str(&String::from_utf8_lossy(&old))
        .map_err(|e| TrainError::OtherConfig(format!("train.toml cannot be read ({e})")))?;
    // Without a record of its data, the run's files must lie where they were.
    let moves_data = config.out.join(DATA_FILE).is_file();
    let [old_settings, settings] = [&old, config].map(|config| without_places(config, moves_data));
    let is_setting = |change: &Change| !change.is_allowed();
    match changes(&old_settings, &settings).into_iter().find(is_setting) {
        Some(change) => Err(TrainError::OtherConfig(change.to_string())),
        None => {
            let changes = changes(&old, config).iter().map(Change::to_string).collect();
            Ok(Before { changes, optim: old.optim })
        }
    }
}

fn changes(old: &TrainConfig, new: &TrainConfig) -> Vec<Change> {
    let value = |config: &TrainConfig| toml::Value::try_from(config).expect("a config is TOML");
    let mut changes = Vec::new();
    differences("", Some(&value(old)), Some(&value(new)), &mut changes);
    changes
}

/// A config key whose value changed.
struct Change {
    key: String,
    old: Option<toml::Value>,
    new: Option<toml::Value>,
}

impl Change {
    fn is_allowed(&self) -> bool {
        const FREE_TABLES: [&str; 4] = ["checkpoint", "eval", "cluster", "hardware"];
        const FREE_KEYS: [&str; 9] = [
            "data.repeat",
            "data.retry_secs",
            "optim.shard_moments",
            "optim.steps",
            "optim.workers",
            "optim.micro_batch",
            "optim.recompute",
            "optim.max_bad_steps",
            "optim.chance_steps",
        ];
        let float = |value: &Option<toml::Value>| {
            value
                .as_ref()
                .and_then(|value| value.as_float().or(value.as_integer().map(|n| n as f64)))
        };
        let (old, new) = (float(&self.old), float(&self.new));
        let key = self.key.as_str();
        FREE_TABLES.iter().any(|table| key.split('.').next() == Some(table))
            || FREE_KEYS.contains(&key)
            || match key {
                "optim.lr_heads" | "optim.lr_towers" | "optim.clip_norm" => new <= old,
                "optim.warmup_steps" => new >= old,
                _ => false,
            }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Option<toml::Value>| {
            value.as_ref().map_or("absent".into(), toml::Value::to_string)
        };
        write!(f, "{} was {}, is {}", self.key, text(&self.old), text(&self.new))
    }
}

/// Collects the innermost keys whose values differ, as `table.key`.
fn differences(
    key: &str,
    old: Option<&toml::Value>,
    new: Option<&toml::Value>,
    found: &mut Vec<Change>,
) {
    if let (Some(toml::Value::Table(old)), Some(toml::Value::Table(new))) = (old, new) {
        let added = new.keys().filter(|name| !old.contains_key(*name));
        for name in old.keys().chain(added) {
            let inner = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
            differences(&inner, old.get(name), new.get(name), found);
        }
    } else if old != new {
        found.push(Change { key: key.to_owned(), old: old.cloned(), new: new.cloned() });
    }
}

/// The content of `training.json`: one entry for this run, after those of the model that it started
/// from.
pub fn history(
    config: &TrainConfig,
    commit: &str,
    state: &RunState,
    first: usize,
) -> Result<String, FolderError> {
    let mut runs = earlier_runs(config)?;
    runs.push(json!({
        "recipe": config.recipe,
        "config": config,
        "commit": commit,
        "state": state,
        "resumed_at": first,
    }));
    Ok(serde_json::to_string_pretty(&runs).expect("plain values serialise"))
}

/// The entries in `training.json` of the model that the run starts from; empty if the file is
/// missing.
///
/// # Errors
/// If the file is not a list of runs.
pub fn earlier_runs(config: &TrainConfig) -> Result<Vec<Value>, FolderError> {
    let path = config.model.from.as_ref().map(|from| from.join("training.json"));
    let Some(path) = path.filter(|path| path.is_file()) else { return Ok(Vec::new()) };
    serde_json::from_slice(&read(&path)?).map_err(|e| FolderError::Damaged {
        found: format!("training.json cannot be read ({e}), wanted a list of runs"),
        hint: "restore the file, or remove it to leave the earlier runs out of the record",
        path,
    })
}
