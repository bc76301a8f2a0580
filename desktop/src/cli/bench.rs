//! `mmgem bench`: what this machine does with a model, as rates.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use burn::tensor::{Device, Tensor, TensorData};
use clap::{Args as ClapArgs, Subcommand};
use mmgem_core::config::MmGemConfig;
use mmgem_core::generate::greedy;
use mmgem_core::init::fresh;
use mmgem_core::model::mmgem::TokenBatch;
use mmgem_core::model::{MmGem, PoolAggregator, Stage};
use mmgem_core::trace::stage_1_losses;
use serde_json::{Map, json};

use crate::args::Globals;
use crate::cli::bench_search::{self, BenchSearchArgs};
use crate::model::ModelFiles;
use crate::terminal::{json_f32, print, print_json};

/// Arguments of `mmgem bench`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  \
    mmgem bench\n  \
    mmgem bench --config assets/presets/small.json --json --device cpu\n\n\
    tests/peers/compare.py runs the same work in PyTorch, in turn, and prints the ratios.")]
pub struct BenchArgs {
    #[command(subcommand)]
    part: Option<Part>,
    /// Measure a model of these sizes with random weights instead
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Repetitions of each measurement; the median counts
    #[arg(long, default_value_t = 5)]
    repeat: usize,
    /// Tokens of a caption
    #[arg(long, default_value_t = 32)]
    tokens: usize,
    /// Samples of a training step (forward and backward of both losses of stage 1)
    #[arg(long, default_value_t = 16)]
    train_batch: usize,
}

/// What is measured alone.
#[derive(Debug, Subcommand)]
enum Part {
    /// How long a query of a photo library takes
    Search(BenchSearchArgs),
}

/// Tokens of every text that is measured.
const TEXT_LEN: usize = 12;

/// Measures and prints the rates.
pub fn run(args: &BenchArgs, globals: &Globals) -> Result<()> {
    if let Some(Part::Search(args)) = &args.part {
        return bench_search::run(args, &globals.open()?);
    }
    let config = match &args.config {
        Some(path) => MmGemConfig::from_json(&String::from_utf8_lossy(&mmgem_core::files::read(path)?))?,
        None => ModelFiles::read(globals.model.as_deref())?.config()?,
    };
    let opened = globals.open_device()?;
    let model = fresh(MmGem::new(&config, &opened.device), &config, 0);
    let pool = PoolAggregator::new(&config);
    let device = &opened.device;
    let mut rates = Map::new();
    let mut record = |name: &str, rate: f64| rates.insert(name.to_owned(), json_f32(rate as f32));

    for batch in [1, 8] {
        let pixels = pixels(&config, batch, device);
        let secs = median_secs(args.repeat, || {
            let _ = model.image_embed(&pool, model.visual.forward(pixels.clone())).into_data();
        });
        record(&format!("images_per_sec_batch_{batch}"), batch as f64 / secs);
    }
    let texts = TokenBatch::new(&texts(&config, 1), device);
    let secs = median_secs(args.repeat, || {
        let _ = model.text_embed(&texts).into_data();
    });
    record("texts_per_sec", 1.0 / secs);

    let patches = model.visual.forward(pixels(&config, 1, device));
    let prefix = model.caption_prefix(model.visual_context(&pool, patches, Stage::One), Stage::One);
    let secs = median_secs(args.repeat, || {
        let _ = pollster::block_on(greedy(&model.llm, prefix.clone(), None, args.tokens));
    });
    record("caption_tokens_per_sec", args.tokens as f64 / secs);

    let device = device.clone().autodiff();
    let model = fresh(MmGem::new(&config, &device), &config, 0);
    let (images, texts) =
        (pixels(&config, args.train_batch, &device), self::texts(&config, args.train_batch));
    let secs = median_secs(args.repeat, || {
        let total = stage_1_losses(&model, &config, images.clone(), &texts).total();
        let gradients = total.backward();
        let _ = model.logit_scale.val().grad(&gradients).map(Tensor::into_data);
    });
    record("training_samples_per_sec", args.train_batch as f64 / secs);

    if globals.json {
        return print_json(&json!({ "device": opened.name, "rates": rates }));
    }
    print(format!("device: {}", opened.name))?;
    rates
        .iter()
        .try_for_each(|(name, rate)| print(format!("{name:28} {:10.2}", rate.as_f64().unwrap_or(f64::NAN))))
}

/// Median of the runs after one that is not counted, in seconds.
pub fn median_secs(repeat: usize, mut work: impl FnMut()) -> f64 {
    work();
    let mut secs: Vec<f64> = (0..repeat.max(1))
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64()
        })
        .collect();
    secs.sort_by(f64::total_cmp);
    secs[secs.len() / 2]
}

fn pixels(config: &MmGemConfig, batch: usize, device: &Device) -> Tensor<4> {
    let side = config.vision.image_size;
    let values: Vec<f32> =
        (0..batch * 3 * side * side).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
    Tensor::from_data(TensorData::new(values, [batch, 3, side, side]), device)
}

fn texts(config: &MmGemConfig, n: usize) -> Vec<Vec<u32>> {
    let id = |text: usize, at: usize| ((text * 131 + at * 17 + 3) % config.llm.vocab_size) as u32;
    (0..n).map(|text| (0..TEXT_LEN).map(|at| id(text, at)).collect()).collect()
}
