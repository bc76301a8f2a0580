//! `mmgem bench index`: how fast photos are indexed, and each part alone.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;
use serde_json::json;

use super::median;
use crate::context::Context;
use crate::library::photos::{Root, walk};
use crate::library::{Indexing, Library, Summary, encode_alone, read_alone};
use crate::terminal::{json_f32, print, print_json};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mmgem bench index photos\n  \
    mmgem bench index photos --device cpu --repeat 9 --json\n\n\
    Each rate is the median of runs in turn. The readers alone use all cores, and so does the \
    encoder on the CPU. So on the CPU no program can be faster than both after one another; on a \
    GPU it can be as fast as the slower of the two.")]
pub struct BenchIndexArgs {
    /// Folders with photos
    #[arg(value_name = "DIR", required = true, num_args = 1..)]
    dirs: Vec<PathBuf>,
    /// Runs of each measurement; the median is reported
    #[arg(long, value_name = "N", default_value_t = 5)]
    repeat: usize,
}

pub fn run(args: &BenchIndexArgs, context: &Context) -> Result<()> {
    let roots: Vec<Root> = args.dirs.iter().map(|dir| Root::from(dir.clone())).collect();
    let found = walk(&roots)?;
    let session = &context.session;
    let folder = super::search::scratch_folder();
    let secs = |work: &mut dyn FnMut() -> Result<()>| -> Result<f64> {
        let start = Instant::now();
        work()?;
        Ok(start.elapsed().as_secs_f64())
    };
    // The first run warms up the device and the disk.
    let inputs = read_alone(&found, session);
    ensure!(!inputs.is_empty(), "found no photos that can be read");
    encode_alone(session, &inputs)?;
    let mut parts: [Vec<f64>; 3] = Default::default();
    for run in 0..args.repeat.max(1) {
        parts[0].push(secs(&mut || {
            drop(read_alone(&found, session));
            Ok(())
        })?);
        parts[1].push(secs(&mut || Ok(encode_alone(session, &inputs)?))?);
        let file = folder.join(format!("{run}.sqlite"));
        let mut library = Library::open(&file, context.fingerprint, session.config().embed_dim)?;
        let mut summary = Summary::default();
        parts[2].push(secs(&mut || {
            summary = library.update(&found, Indexing::of(session), &mut ())?;
            Ok(())
        })?);
        // Photos with the same bytes are encoded once.
        ensure!(summary.encoded > 0, "the photos were not encoded");
    }
    std::fs::remove_dir_all(&folder)?;
    let n = inputs.len() as f64;
    let [read, encode, index] = parts.map(|mut secs| n / median(&mut secs));
    let after_one_another = 1.0 / (1.0 / read + 1.0 / encode);
    if context.json {
        return print_json(&json!({
            "device": context.device_name,
            "photos": inputs.len(),
            "read_per_sec": json_f32(read as f32),
            "encode_per_sec": json_f32(encode as f32),
            "after_one_another_per_sec": json_f32(after_one_another as f32),
            "index_per_sec": json_f32(index as f32),
        }));
    }
    print(format!("readers alone        {read:9.1} photos/s   ({} photos)", inputs.len()))?;
    print(format!("encoder alone        {encode:9.1} photos/s   ({})", context.device_name))?;
    print(format!("one after the other  {after_one_another:9.1} photos/s"))?;
    print(format!(
        "index                {index:9.1} photos/s   {:.0} % of the encoder's rate",
        100.0 * index / encode
    ))
}
