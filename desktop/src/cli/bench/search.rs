//! `mmgem bench search`: the time of each part of a query of a photo library.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;
use mmgem_core::index::{Query, Vectors, best};
use pollster::block_on;
use serde_json::{Value, json};

use super::{median, median_secs, this_program};
use crate::context::Context;
use crate::globals::Globals;
use crate::library::{Library, VectorStore};
use crate::query::embed_text;
use crate::terminal::{json_f32, print, print_json};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mmgem bench search\n  \
    mmgem bench search --photos 1000 --photos 100000 --dim 768 --json\n  \
    mmgem bench search --programs --device cpu\n\n\
    The vectors are random. The scan is exact, so its time does not depend on their values.")]
pub struct BenchSearchArgs {
    /// Number of photos in the library (repeatable)
    #[arg(long, value_name = "N", default_values_t = [1_000, 100_000, 1_000_000])]
    photos: Vec<usize>,
    /// Length of a vector [default: the model's]
    #[arg(long, value_name = "N")]
    dim: Option<usize>,
    /// Number of hits
    #[arg(short, value_name = "N", default_value_t = 100)]
    k: usize,
    /// Runs of each measurement; the median is reported
    #[arg(long, value_name = "N", default_value_t = 9)]
    repeat: usize,
    /// Also time `mmgem search` from its start to its end, on libraries with this many photos
    ///
    /// The libraries are temporary files of about 1.2 KB a photo. The first search writes the
    /// vector file; the others are warm.
    #[arg(long)]
    programs: bool,
}

/// Photos that are added to a library in one transaction.
const ADDED: usize = 50_000;

/// Times of `mmgem search` as a whole, in milliseconds.
struct ProgramMs {
    photos: usize,
    first: f64,
    warm: f64,
}

pub fn run(args: &BenchSearchArgs, globals: &Globals) -> Result<()> {
    let context = &globals.open()?;
    let text = "a brown dog runs through the snow with a stick";
    let text_ms =
        1e3 * median_secs(args.repeat, || drop(block_on(context.session.embed_text(text))));
    let known_ms = known_ms(text, args, context)?;
    let dim = args.dim.unwrap_or(context.session.config().embed_dim);
    let scans: Vec<(usize, f64)> =
        args.photos.iter().map(|n| (*n, scan_ms(*n, dim, args.k, args.repeat))).collect();
    let photos = args.photos.iter().filter(|_| args.programs);
    let programs = photos.map(|n| program_ms(*n, args, context, globals));
    let programs = programs.collect::<Result<Vec<_>>>()?;
    if context.json {
        let programs = programs.iter().map(|program| {
            json!({
                "photos": program.photos,
                "first_ms": json_f32(program.first as f32),
                "warm_ms": json_f32(program.warm as f32),
            })
        });
        let scans =
            scans.iter().map(|(n, ms)| json!({ "photos": n, "scan_ms": json_f32(*ms as f32) }));
        return print_json(&json!({
            "device": context.device_name,
            "dim": dim,
            "text_ms": json_f32(text_ms as f32),
            "known_text_ms": json_f32(known_ms as f32),
            "scans": scans.collect::<Value>(),
            "programs": programs.collect::<Value>(),
        }));
    }
    print(format!("text encoding {text_ms:9.2} ms   ({})", context.device_name))?;
    print(format!("cached text   {known_ms:9.2} ms   from the library"))?;
    scans.iter().try_for_each(|(n, ms)| {
        print(format!(
            "scan          {ms:9.2} ms   {n} photos of {dim} numbers, the best {}",
            args.k
        ))
    })?;
    programs.iter().try_for_each(|ProgramMs { photos, first, warm }| {
        print(format!(
            "mmgem search  {warm:9.2} ms   {photos} photos, the whole program (first: {first:.2} ms)"
        ))
    })
}

/// Fills a temporary library and times new processes that search it.
fn program_ms(
    n: usize,
    args: &BenchSearchArgs,
    context: &Context,
    globals: &Globals,
) -> Result<ProgramMs> {
    let folder = scratch_folder();
    let file = folder.join("photos.sqlite");
    let mut library =
        Library::open(&file, context.fingerprint, context.session.config().embed_dim)?;
    for start in (0..n).step_by(ADDED) {
        library.add_examples(ADDED.min(n - start))?;
    }
    drop(library);
    let mut command = this_program(globals)?;
    command.args(["search", "a dog", "-k", &args.k.to_string(), "--library"]).arg(&file);
    let mut failed = false;
    let mut ms = || {
        let start = Instant::now();
        failed |= !command.output().is_ok_and(|output| output.status.success());
        1e3 * start.elapsed().as_secs_f64()
    };
    let first = ms();
    let mut warm: Vec<f64> = (0..args.repeat.max(1)).map(|_| ms()).collect();
    std::fs::remove_dir_all(&folder)?;
    ensure!(!failed, "`mmgem search` failed, so its time cannot be measured");
    Ok(ProgramMs { photos: n, first, warm: median(&mut warm) })
}

/// Milliseconds to read the cached vector of a text from a library.
fn known_ms(text: &str, args: &BenchSearchArgs, context: &Context) -> Result<f64> {
    let folder = scratch_folder();
    let file = folder.join("library.sqlite");
    let mut library =
        Library::open(&file, context.fingerprint, context.session.config().embed_dim)?;
    embed_text(text, &context.session, &mut library)?;
    let secs = median_secs(args.repeat, || drop(embed_text(text, &context.session, &mut library)));
    drop(library);
    std::fs::remove_dir_all(&folder)?;
    Ok(1e3 * secs)
}

pub fn scratch_folder() -> PathBuf {
    std::env::temp_dir().join(format!("mmgem-bench-{}", std::process::id()))
}

/// Milliseconds to score `n` random vectors and to find the best.
pub fn scan_ms(n: usize, dim: usize, k: usize, repeat: usize) -> f64 {
    let mut state = 1u64;
    let mut code = || {
        // Xorshift: the values do not matter.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 56) as i8 / 2
    };
    let codes: Vec<i8> = (0..n * dim).map(|_| code()).collect();
    let query: Vec<f32> = (0..dim).map(|_| f32::from(code()) / 127.0).collect();
    let scale = 1.0 / (64.0 * (dim as f32).sqrt());
    let vectors = Vectors::from_parts(dim, codes, vec![scale; n]).expect("n * dim codes");
    let (shelf, query) = (VectorStore::of_vectors(vectors), Query::new(&query));
    1e3 * median_secs(repeat, || drop(best(shelf.scores(&query), k)))
}
