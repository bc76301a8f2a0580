//! `mmgem bench`: the rates at which this machine runs a model.

pub mod counts;
mod index;
mod random;
mod scale;
mod search;
mod work;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use burn::tensor::Device;
use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use mmgem_core::checkpoint::Dtype;
use mmgem_core::config::MmGemConfig;
use mmgem_core::limit_vectors;
use mmgem_core::model::MmGem;
use serde_json::{Map, json};

use self::index::BenchIndexArgs;
use self::search::BenchSearchArgs;
use crate::device::OpenedDevice;
use crate::globals::Globals;
use crate::model::ModelFiles;
use crate::terminal::{json_f32, note, print, print_json};
use counts::CountsArgs;
use work::Bench;

/// Arguments of `mmgem bench`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  \
    mmgem bench\n  \
    mmgem bench --config assets/presets/vit_b_32.json --only image,caption --device cpu --json\n  \
    mmgem bench --scale\n\n\
    Rates are medians. A caption always has `--tokens` tokens. A region caption describes one more \
    box of a photo that is already encoded. tests/peers/compare.py runs the same work in other \
    programs, in turn, and prints the ratios.")]
pub struct BenchArgs {
    #[command(subcommand)]
    pub part: Option<Part>,
    /// Measure random weights of the sizes in this config.json, instead of a model
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Number format of the random weights
    #[arg(long, requires = "config", default_value = "f32")]
    weights: RandomWeights,
    /// Measure only these, separated by commas
    #[arg(long, value_name = "WORK", value_delimiter = ',')]
    only: Vec<Work>,
    /// Runs of each measurement; the median is reported
    #[arg(long, default_value_t = 5)]
    repeat: usize,
    /// Tokens of each caption
    #[arg(long, default_value_t = 32)]
    tokens: usize,
    /// Samples of a training step
    ///
    /// A step is the forward and backward pass of both losses of stage 1.
    #[arg(long, default_value_t = 16)]
    train_batch: usize,
    /// Limit the CPU's vectors, to measure other processors: 8 floats are AVX2, 4 plain loops
    ///
    /// Products of many rows in f32 ignore it.
    #[arg(long, value_name = "FLOATS")]
    vectors: Option<usize>,
    /// Draw how the rates grow with batch, tokens and photos, beside this machine's bounds
    ///
    /// Measures images and training steps over the batch, prompts over their tokens, and searches
    /// over the photos. A bound is the time to multiply, or to read the weights or vectors from
    /// memory, at the measured rates of this machine.
    #[arg(long)]
    scale: bool,
    /// Folder for the pictures of --scale
    #[arg(long, value_name = "DIR", default_value = "target/bench", requires = "scale")]
    out: PathBuf,
}

/// Separate measurements.
#[derive(Debug, Subcommand)]
pub enum Part {
    /// Measure how long a query of a photo library takes
    Search(BenchSearchArgs),
    /// Measure how fast photos are indexed, and how fast each part is alone
    Index(BenchIndexArgs),
    /// Old name of `mmgem verify counts`
    #[command(hide = true)]
    Counts(CountsArgs),
}

/// Work to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Work {
    /// Images through the encoder, in batches of one and eight
    Image,
    /// Texts through the language model, one at a time
    Text,
    /// Tokens of a region's prefix through the language model
    Prefill,
    /// Tokens of a caption, one after the other
    Caption,
    /// Captions of more boxes of an encoded photo
    Region,
    /// Samples of a training step
    Train,
    /// Samples of a training step whose frozen image encoder's output is cached
    TrainCached,
    /// Time from the start of this program to its first embedding of a text
    ColdStart,
}

/// Number formats of random weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RandomWeights {
    F32,
    F16,
    Q8,
    Q4,
}

/// Measures and prints the rates.
pub fn run(args: &BenchArgs, globals: &Globals) -> Result<()> {
    match &args.part {
        Some(Part::Search(args)) => return search::run(args, globals),
        Some(Part::Index(args)) => return index::run(args, &globals.open()?),
        Some(Part::Counts(args)) => return counts::run(args, globals),
        None => {}
    }
    ensure!(
        args.repeat > 0 && args.tokens > 0 && args.train_batch > 0,
        "--repeat, --tokens and --train-batch must be at least 1"
    );
    if let Some(n_floats) = args.vectors {
        limit_vectors(n_floats);
    }
    if args.scale {
        return scale::run(args, globals);
    }
    let is_wanted = |work: Work| args.only.is_empty() || args.only.contains(&work);
    // First, while this program still uses little memory.
    let cold_start = (is_wanted(Work::ColdStart) && args.config.is_none())
        .then(|| cold_start_secs(args.repeat, globals))
        .transpose()?;

    let Measured { name, config, files } =
        Measured::new(args.config.as_deref(), args.weights, globals)?;
    let opened = globals.open_device()?;

    let mut rates = Map::new();
    let mut record = |name: &str, rate: f64| {
        note(globals.quiet, format!("{name:31} {rate:10.2}"));
        rates.insert(name.to_owned(), json_f32(rate as f32));
    };
    let forward = [Work::Image, Work::Text, Work::Prefill, Work::Caption, Work::Region];
    if forward.into_iter().any(is_wanted) {
        let bench = Bench::new(files.load_to_run(&config, &opened)?, &config, args.repeat);
        if is_wanted(Work::Image) {
            record("images_per_sec_batch_1", bench.images_per_sec(1));
            record("images_per_sec_batch_8", bench.images_per_sec(8));
        }
        if is_wanted(Work::Text) {
            record("texts_per_sec", bench.texts_per_sec());
        }
        if is_wanted(Work::Prefill) {
            record("prefill_tokens_per_sec", bench.prefill_tokens_per_sec());
        }
        if is_wanted(Work::Caption) {
            record("caption_tokens_per_sec", bench.caption_tokens_per_sec(args.tokens));
        }
        if is_wanted(Work::Region) {
            record("region_captions_per_sec", bench.region_captions_per_sec(args.tokens));
        }
    }
    if [Work::Train, Work::TrainCached].into_iter().any(is_wanted) {
        let device = opened.device.clone().autodiff();
        let bench = Bench::new(files.load(&config, &device)?, &config, args.repeat);
        let n = args.train_batch;
        if is_wanted(Work::Train) {
            record("training_samples_per_sec", bench.training_samples_per_sec(n));
        }
        if is_wanted(Work::TrainCached) {
            record("cached_training_samples_per_sec", bench.cached_training_samples_per_sec(n));
        }
    }

    let memory = peak_memory_bytes();
    if globals.json {
        return print_json(&json!({
            "device": opened.name,
            "model": name,
            "rates": rates,
            "cold_start_secs": cold_start.map(|secs| json_f32(secs as f32)),
            "peak_memory_bytes": memory,
        }));
    }
    print(format!("device: {}\nmodel: {name}", opened.name))?;
    rates.iter().try_for_each(|(name, rate)| {
        print(format!("{name:31} {:10.2}", rate.as_f64().unwrap_or(f64::NAN)))
    })?;
    if let Some(secs) = cold_start {
        print(format!("{:31} {secs:10.3}", "cold_start_secs"))?;
    }
    memory.map_or(Ok(()), |bytes| {
        print(format!("{:31} {:10.2}", "peak_memory_mib", bytes as f64 / f64::from(1 << 20)))
    })
}

/// The measured model.
struct Measured {
    name: String,
    config: MmGemConfig,
    files: Weights,
}

/// Source of its weights.
enum Weights {
    Random,
    Files(ModelFiles),
}

impl Measured {
    /// Random weights of the sizes in the file `config`, or else the model of `--model`.
    fn new(config: Option<&Path>, weights: RandomWeights, globals: &Globals) -> Result<Self> {
        if let Some(path) = config {
            let text = String::from_utf8_lossy(&mmgem_data::files::read(path)?).into_owned();
            let config = MmGemConfig::from_json(&text)?;
            let name = |format| format!("{} with random {format}weights", path.display());
            let (name, dtype) = match weights {
                RandomWeights::F32 => {
                    return Ok(Self { name: name(""), config, files: Weights::Random });
                }
                RandomWeights::F16 => (name("f16 "), Dtype::F16),
                RandomWeights::Q8 => (name("q8 "), Dtype::Q8),
                RandomWeights::Q4 => (name("q4 "), Dtype::Q4),
            };
            let files = random::files(name.clone(), &config, dtype);
            return Ok(Self { name, config, files: Weights::Files(files) });
        }
        let files = ModelFiles::read(globals.model.as_deref())?;
        Ok(Self { name: files.name.clone(), config: files.config()?, files: Weights::Files(files) })
    }
}

impl Weights {
    /// Loads the weights for inference: packed layers stay packed where the device supports it.
    fn load_to_run(&self, config: &MmGemConfig, opened: &OpenedDevice) -> Result<MmGem> {
        match self {
            Self::Random => Ok(random::model(config, &opened.device)),
            Self::Files(files) => files.load_to_run(opened),
        }
    }

    /// Loads the weights unpacked.
    fn load(&self, config: &MmGemConfig, device: &Device) -> Result<MmGem> {
        match self {
            Self::Random => Ok(random::model(config, device)),
            Self::Files(files) => files.load(device),
        }
    }
}

/// Seconds from the start of a new process of this program to the end of its first embedding.
fn cold_start_secs(repeat: usize, globals: &Globals) -> Result<f64> {
    let mut command = this_program(globals)?;
    command.args(["embed", "--text", "a dog"]);
    let mut failed = false;
    let secs = median_secs(repeat, || match command.output() {
        Ok(output) => failed |= !output.status.success(),
        Err(_) => failed = true,
    });
    ensure!(!failed, "`mmgem embed --text` failed, so the cold start cannot be measured");
    Ok(secs)
}

/// A new process of this program, on the same device and model.
fn this_program(globals: &Globals) -> Result<Command> {
    let program = std::env::current_exe().context("cannot find the path of this program")?;
    let mut command = Command::new(program);
    command.args(["--json", "-q", "--device", &globals.device.to_string()]);
    if let Some(folder) = &globals.model {
        command.arg("--model").arg(folder);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    Ok(command)
}

/// Median time of `repeat` runs in seconds, after one warm-up run.
pub fn median_secs(repeat: usize, mut work: impl FnMut()) -> f64 {
    work();
    let mut secs: Vec<f64> = (0..repeat)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64()
        })
        .collect();
    median(&mut secs)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Peak resident memory of this process; `None` if the system does not report it.
fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_not_moved_by_one_slow_run() {
        assert_eq!(median(&mut [3.0, 900.0, 1.0, 4.0, 2.0]), 3.0);
        let mut n_runs = 0;
        median_secs(5, || n_runs += 1);
        assert_eq!(n_runs, 6, "one warm-up run");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_held_some_memory() {
        assert!(peak_memory_bytes().expect("Linux reports it") > 1 << 20);
    }
}
