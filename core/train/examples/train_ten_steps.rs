//! Trains a small model for ten steps on drawn scenes.
//!
//! `cargo build --release --workspace --example train_ten_steps`, then
//! `target/release/examples/train_ten_steps`

#![allow(clippy::print_stdout, reason = "an example prints its results")]

use std::error::Error;
use std::path::Path;

use burn::tensor::Device;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use mmgem_collective::Single;
use mmgem_data::webdataset::{Sample, ShardWriter};
use mmgem_train::{Progress, Signals, TrainConfig, train};
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let mut shard = ShardWriter::create(folder.path().join("scenes.tar"))?;
    for index in 0..32 {
        let scene = mmgem_scenes::scene(1, index);
        let mut png = Vec::new();
        PngEncoder::new(&mut png).write_image(
            &scene.rgb,
            scene.width,
            scene.height,
            ExtendedColorType::Rgb8,
        )?;
        let record = json!({ "captions": scene.captions }).to_string().into_bytes();
        let parts = vec![("png".into(), png), ("json".into(), record)];
        shard.write(&Sample { key: format!("{index:06}"), parts })?;
    }
    shard.finish()?;

    let recipe = format!(
        "recipe = 'stage1'
         out = '{folder}/run'
         seed = 1
         model = {{ config = '{assets}/presets/small.json', tokenizer = '{assets}/model/tokenizer.json' }}
         data = {{ shards = ['{folder}/scenes.tar'] }}
         optim = {{ batch_size = 8, steps = 10, warmup_steps = 2, lr_heads = 1e-2, lr_towers = 1e-2 }}",
        folder = folder.path().display(),
        assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets").display(),
    );
    let config = TrainConfig::from_toml(&recipe, &[])?;
    let report = |progress| {
        if let Progress::Step { step, steps, record } = progress {
            println!("step {step} of {steps}: loss {}", record["loss"]);
        }
    };
    let device = Device::flex();
    train(&config, &device, "an example", false, &Signals::default(), &Single, report)?;
    Ok(())
}
