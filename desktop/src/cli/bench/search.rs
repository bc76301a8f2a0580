//! `mmgem bench search`: the time of each part of a query of a photo library.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use mmgem_core::index::{Query, Vectors, best};
use pollster::block_on;
use serde_json::{Value, json};

use super::median_secs;
use crate::context::Context;
use crate::library::{Library, Shelf};
use crate::query::embed_text;
use crate::terminal::{json_f32, print, print_json};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mmgem bench search\n  \
    mmgem bench search --photos 1000 --photos 100000 --dim 768 --json\n\n\
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
    /// Compare the exact search with the approximate index
    ///
    /// Makes a library of each size, and measures how long it takes to read and search it with the
    /// approximate index and without.
    #[cfg(feature = "ann")]
    #[arg(long)]
    approximate: bool,
}

pub fn run(args: &BenchSearchArgs, context: &Context) -> Result<()> {
    #[cfg(feature = "ann")]
    if args.approximate {
        return nearby::run(args, context);
    }
    let text = "a brown dog runs through the snow with a stick";
    let text_ms =
        1e3 * median_secs(args.repeat, || drop(block_on(context.session.embed_text(text))));
    let known_ms = known_ms(text, args, context)?;
    let dim = args.dim.unwrap_or(context.session.config().embed_dim);
    let scans: Vec<(usize, f64)> =
        args.photos.iter().map(|n| (*n, scan_ms(*n, dim, args))).collect();
    if context.json {
        let scans =
            scans.iter().map(|(n, ms)| json!({ "photos": n, "scan_ms": json_f32(*ms as f32) }));
        return print_json(&json!({
            "device": context.device_name,
            "dim": dim,
            "text_ms": json_f32(text_ms as f32),
            "known_text_ms": json_f32(known_ms as f32),
            "scans": scans.collect::<Value>(),
        }));
    }
    print(format!("text encoding {text_ms:9.2} ms   ({})", context.device_name))?;
    print(format!("cached text   {known_ms:9.2} ms   from the library"))?;
    scans.iter().try_for_each(|(n, ms)| {
        print(format!(
            "scan          {ms:9.2} ms   {n} photos of {dim} numbers, the best {}",
            args.k
        ))
    })
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

fn scratch_folder() -> PathBuf {
    std::env::temp_dir().join(format!("mmgem-bench-{}", std::process::id()))
}

fn scan_ms(n: usize, dim: usize, args: &BenchSearchArgs) -> f64 {
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
    let (shelf, query) = (Shelf::of_vectors(vectors), Query::new(&query));
    1e3 * median_secs(args.repeat, || drop(best(shelf.scores(&query), args.k)))
}

/// Searches as `mmgem search` runs them: open the library, read the vectors or the index, find the
/// best photos.
#[cfg(feature = "ann")]
mod nearby {
    use std::time::Instant;

    use super::*;
    use crate::library::{Found, Wanted, gathered_vectors};

    pub fn run(args: &BenchSearchArgs, context: &Context) -> Result<()> {
        let dim = args.dim.unwrap_or(context.session.config().embed_dim);
        let mut entries = Vec::new();
        for n in &args.photos {
            let folder = scratch_folder();
            let entry = measure(*n, dim, args, &folder.join("library.sqlite"));
            std::fs::remove_dir_all(&folder)?;
            entries.push(entry?);
        }
        if context.json {
            return print_json(&Value::Array(entries));
        }
        entries.iter().try_for_each(|entry| {
            print(format!(
                "{} photos of {dim} numbers: exact {} ms, approximate {} ms with {:.1} % of the best {}; index built in {} s, \
                 {} MiB",
                entry["photos"],
                entry["exact_ms"],
                entry["near_ms"],
                100.0 * entry["share_of_best"].as_f64().unwrap_or(0.0),
                args.k,
                entry["made_secs"],
                entry["file_mib"],
            ))
        })
    }

    fn measure(
        n: usize,
        dim: usize,
        args: &BenchSearchArgs,
        file: &std::path::Path,
    ) -> Result<Value> {
        let vectors = gathered_vectors(n, dim, 1);
        let open = || Library::open(file, 1, dim);
        let mut library = open()?;
        library.pretend(&vectors)?;
        let graph = library.nearby_file(file);
        let start = Instant::now();
        library.update_nearby(&graph, |_| ())?;
        let made_secs = start.elapsed().as_secs_f64();
        drop(library);
        let wanted = Wanted { skip: 0, k: args.k, min_score: -1.0, by_region: false };
        let queries = gathered_vectors(args.repeat * 100, dim, 1);
        let (mut exact_ms, mut near_ms, mut n_best, mut n_found) = (Vec::new(), Vec::new(), 0, 0);
        let timed =
            |times: &mut Vec<f64>, search: &dyn Fn() -> Result<Vec<Found>>| -> Result<Vec<i64>> {
                let start = Instant::now();
                let found = search()?;
                times.push(1e3 * start.elapsed().as_secs_f64());
                Ok(found.iter().map(|hit| hit.photo.content).collect())
            };
        for row in 0..args.repeat {
            let query = queries.vector(row);
            let every = timed(&mut exact_ms, &|| {
                let library = open()?;
                library.search(&library.shelf()?, &Query::new(&query), &wanted, None)
            })?;
            let near = timed(&mut near_ms, &|| {
                Ok(open()?.search_near(&graph, &query, &wanted)?.unwrap_or_default())
            })?;
            n_best += every.len();
            n_found += every.iter().filter(|content| near.contains(content)).count();
        }
        let median = |mut times: Vec<f64>| {
            times.sort_by(f64::total_cmp);
            json_f32(times[times.len() / 2] as f32)
        };
        Ok(json!({
            "photos": n,
            "dim": dim,
            "exact_ms": median(exact_ms),
            "near_ms": median(near_ms),
            "share_of_best": n_found as f64 / n_best.max(1) as f64,
            "made_secs": json_f32(made_secs as f32),
            "file_mib": std::fs::metadata(&graph)?.len() >> 20,
        }))
    }
}
