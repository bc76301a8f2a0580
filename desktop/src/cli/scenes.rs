//! `mmgem scenes`: draws scenes with captions and regions into WebDataset shards.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use indicatif::ProgressBar;
use mmgem_data::files::create_dir;
use mmgem_data::webdataset::{Sample, ShardWriter};
use mmgem_scenes::{Scene, scene};
use rayon::prelude::*;
use serde_json::{Value, json};

use crate::globals::Globals;
use crate::terminal::{print, print_json, progress_bar};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mmgem scenes --out data/train --n 20000 --seed 1\n  \
    mmgem scenes --out data/val --n 500 --seed 2 --per-shard 500\n\n\
    The same seed draws the same scenes on every computer. A shard holds 000000.png, 000000.json \
    and so on.")]
pub struct ScenesArgs {
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Number of scenes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    n: u64,
    /// Random seed
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Scenes per shard
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    per_shard: u64,
}

/// Scenes drawn at once. Bounds the memory.
const CHUNK: u64 = 64;

pub fn run(args: &ScenesArgs, globals: &Globals) -> Result<()> {
    create_dir(&args.out)?;
    let bar = progress_bar(args.n as usize, "scenes", globals.quiet);
    let mut shards = Vec::new();
    let mut n_regions = 0;
    for (shard_idx, first) in (0..args.n).step_by(args.per_shard as usize).enumerate() {
        let path = args.out.join(format!("scenes-{shard_idx:06}.tar"));
        let end = (first + args.per_shard).min(args.n);
        n_regions += write_shard(&path, args.seed, first..end, &bar)?;
        shards.push(path);
    }
    bar.finish_and_clear();
    if globals.json {
        return print_json(
            &json!({ "shards": shards, "scenes": args.n, "regions": n_regions, "seed": args.seed }),
        );
    }
    print(format!(
        "{} scenes with {n_regions} regions in {} shard(s): {}",
        args.n,
        shards.len(),
        args.out.display()
    ))
}

/// Draws and writes the scenes of one shard. Returns the number of their regions.
fn write_shard(
    path: &Path,
    seed: u64,
    scenes: std::ops::Range<u64>,
    bar: &ProgressBar,
) -> Result<usize> {
    let mut writer = ShardWriter::create(path)?;
    let mut n_regions = 0;
    for first in scenes.clone().step_by(CHUNK as usize) {
        let chunk: Vec<u64> = (first..(first + CHUNK).min(scenes.end)).collect();
        let samples: Vec<Result<(Sample, usize)>> = chunk
            .into_par_iter()
            .map(|index| {
                let drawn = scene(seed, index);
                Ok((sample(index, &drawn)?, drawn.regions.len()))
            })
            .collect();
        for sample in samples {
            let (sample, regions) = sample?;
            writer.write(&sample)?;
            n_regions += regions;
            bar.inc(1);
        }
    }
    writer.finish()?;
    Ok(n_regions)
}

fn sample(index: u64, scene: &Scene) -> Result<Sample> {
    let mut png = Vec::new();
    PngEncoder::new(&mut png)
        .write_image(&scene.rgb, scene.width, scene.height, ExtendedColorType::Rgb8)
        .context("a scene cannot be written as PNG")?;
    let json = serde_json::to_vec(&record(scene))?;
    Ok(Sample {
        key: format!("{index:06}"),
        parts: vec![("png".into(), png), ("json".into(), json)],
    })
}

/// The captions and regions of a scene, in the JSON form that `core::data` reads.
fn record(scene: &Scene) -> Value {
    let regions = scene.regions.iter().map(|region| {
        json!({ "box": region.box_px, "phrases": region.phrases, "n_boxes": 1, "type": region.kind })
    });
    json!({
        "captions": scene.captions,
        "regions": regions.collect::<Value>(),
        "width": scene.width,
        "height": scene.height,
    })
}

#[cfg(test)]
mod tests {
    use mmgem_core::image::decode;
    use mmgem_data::webdataset::PhotoRecord;

    use super::*;

    #[test]
    fn a_sample_is_read_back_as_the_scene() {
        let drawn = scene(3, 7);
        let sample = sample(7, &drawn).expect("a sample");
        let record = PhotoRecord::from_sample(&sample).expect("a record");
        assert_eq!(sample.key, "000007");
        assert_eq!(record.captions, drawn.captions);
        assert_eq!(record.regions.len(), drawn.regions.len());
        let photo = decode(sample.image().expect("a photo"), Default::default()).expect("a PNG");
        assert_eq!(photo.into_raw(), drawn.rgb);
    }
}
