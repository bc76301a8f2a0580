//! `mmgem embed-shards`: embeds the photos of a WebDataset into Parquet, one file per shard.
//!
//! Ranks split the shards without communication: each reads its rank from its launcher, as
//! `mmgem train` does. A file appears only when it is complete, so a restarted run continues with
//! the shards that have no file.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::thread;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use mmgem_collective::Launch;
use mmgem_core::image::{ImagePreprocess, Preprocessed, decode_whole};
use mmgem_data::files;
use mmgem_data::parquet::{VectorTable, footer, has_note};
use mmgem_data::patterns::expand;
use mmgem_data::webdataset::{Sample, ShardIndex};
use rayon::prelude::*;
use serde_json::json;

use crate::context::Context;
use crate::globals::Globals;
use crate::photos::whole_embed;
use crate::terminal::{SkippedFiles, note, print, print_json, progress_bar, root_on_one_line};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mmgem embed-shards 'cc12m-{0000..1242}.tar' --out vectors    (Parquet, for a vector database)\n  \
    srun mmgem embed-shards 'cc12m-*.tar' --out vectors          (each rank embeds its shards)\n\n\
    Each shard becomes a file SHARD.parquet with the id, the path and the vector of its photos. \
    Existing files are not written again, so run an interrupted command again.")]
pub struct EmbedShardsArgs {
    /// WebDataset shards; `*` matches any characters, {0..9} counts
    #[arg(value_name = "SHARDS", required = true)]
    pub shards: Vec<String>,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// Photos per encoder batch.
const BATCH: usize = 16;

/// Counts over all shards of this rank.
#[derive(Clone, Debug, Default)]
struct Done {
    shards: usize,
    /// Shards whose files existed already.
    there: usize,
    photos: usize,
    /// Samples without a readable photo, and duplicate members.
    passed_over: usize,
    /// Unusable shards, with the reason.
    failed: Vec<(PathBuf, String)>,
}

/// Writes `OUT/SHARD.parquet` for each shard of this rank. Reports an unusable shard and continues
/// with the next one.
///
/// # Errors
/// If a file cannot be written, or if an existing file is of another model. If a shard was
/// unusable, after all other shards are done.
pub fn run(args: &EmbedShardsArgs, globals: &Globals) -> Result<()> {
    let EmbedShardsArgs { shards, out } = args;
    let launch = Launch::from_env()?;
    let device =
        launch.as_ref().map_or(globals.device, |launch| globals.device.on_rank(launch.local_rank));
    let context = &Globals { device, ..globals.clone() }.open()?;
    let (rank, size) = launch.as_ref().map_or((0, 1), |launch| (launch.rank, launch.size));
    let jobs = jobs(&expand(shards)?, out)?;
    files::create_dir(out)?;
    if let Some(launch) = &launch {
        note(
            context.quiet,
            format!("{launch}: {} of {} shards", share(&jobs, rank, size).count(), jobs.len()),
        );
    }
    let mut done = Done::default();
    for (shard, file) in share(&jobs, rank, size) {
        if is_there(shard, file, context)? {
            done.there += 1;
            continue;
        }
        let (table, n_passed_over) = match ShardIndex::open(shard) {
            Ok(index) => embed(&index, context)?,
            Err(error) if context.strict => return Err(error.into()),
            Err(error) => {
                done.fail(shard, root_on_one_line(&error.into()));
                continue;
            }
        };
        done.passed_over += n_passed_over;
        if table.is_empty() && n_passed_over > 0 {
            done.fail(shard, format!("none of its {n_passed_over} samples has a usable photo"));
            continue;
        }
        files::write_atomic(file, &table.to_parquet())?;
        done.shards += 1;
        done.photos += table.len();
        note(context.quiet, format!("wrote {}: {} vectors", file.display(), table.len()));
    }
    report(&done, out, context)?;
    match done.failed.first() {
        None => Ok(()),
        Some((shard, why)) => bail!(
            "{} of {} shards could not be used; the first: {why}\n  file: {}",
            done.failed.len(),
            done.failed.len() + done.shards + done.there,
            shard.display()
        ),
    }
}

impl Done {
    fn fail(&mut self, shard: &Path, why: String) {
        note(false, format!("skipped {}: {why}", shard.display()));
        self.failed.push((shard.to_owned(), why));
    }
}

/// Every shard with its output file.
fn jobs(shards: &[PathBuf], out: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let mut owners: HashMap<PathBuf, &Path> = HashMap::new();
    let mut jobs = Vec::new();
    for shard in shards {
        let file = out.join(name_of(shard)).with_added_extension("parquet");
        if let Some(other) = owners.insert(file.clone(), shard) {
            bail!(
                "two shards have the same output file\n  hint: embed them into two folders\n  file: {}\n  shards: {} and {}",
                file.display(),
                other.display(),
                shard.display()
            );
        }
        jobs.push((shard.clone(), file));
    }
    Ok(jobs)
}

/// The name of a shard without its last extension, and without a remaining `.tar`.
fn name_of(shard: &Path) -> String {
    let stem = shard.file_stem().unwrap_or(shard.as_os_str()).to_string_lossy();
    stem.strip_suffix(".tar").unwrap_or(&stem).to_owned()
}

fn share<T>(jobs: &[T], rank: usize, size: usize) -> impl Iterator<Item = &T> {
    jobs.iter().skip(rank).step_by(size)
}

/// The model and the shard size that an output file records, to recognize it on a later run.
fn notes(shard: &Path, context: &Context) -> Result<Vec<(String, String)>> {
    let len_bytes = std::fs::metadata(shard)
        .with_context(|| format!("cannot read the shard\n  file: {}", shard.display()))?
        .len();
    Ok(vec![
        ("mmgem.model".into(), format!("{:016x}", context.fingerprint)),
        ("mmgem.shard_bytes".into(), len_bytes.to_string()),
    ])
}

/// Whether the output file of a shard exists.
///
/// # Errors
/// If it exists but was made from another shard or model.
fn is_there(shard: &Path, file: &Path, context: &Context) -> Result<bool> {
    if !file.exists() {
        return Ok(false);
    }
    let footer = File::open(file)
        .and_then(|mut file| footer(&mut file))
        .with_context(|| format!("cannot read the vectors\n  file: {}", file.display()))?;
    let notes = notes(shard, context)?;
    let is_of_shard =
        |footer: Vec<u8>| notes.iter().all(|(key, value)| has_note(&footer, key, value));
    anyhow::ensure!(
        footer.is_some_and(is_of_shard),
        "the file exists, but its vectors are not of this shard and this model\n  hint: choose \
         another --out, or delete the file\n  file: {}\n  shard: {}",
        file.display(),
        shard.display()
    );
    Ok(true)
}

/// A photo of a shard: its id, its path and the input of the encoder.
struct Read {
    id: String,
    path: String,
    input: Result<Preprocessed>,
}

/// Returns the vectors of a shard, and the number of samples without one.
fn embed(index: &ShardIndex, context: &Context) -> Result<(VectorTable, usize)> {
    index.warnings().for_each(|warning| note(false, warning));
    let config = context.session.config().preprocess();
    let bar = progress_bar(index.len(), "photos", context.quiet);
    // At least 2: one bad photo in a shard of one must not be an error, since more shards may
    // follow.
    let mut passed_over = SkippedFiles::new(index.len().max(2), context.strict);
    let mut table = VectorTable::new(context.session.config().embed_dim);
    table.notes = notes(index.path(), context)?;
    thread::scope(|scope| {
        // The reader is at most one batch ahead of the encoder, so memory stays bounded. An early
        // return drops the receiver, which ends the reader.
        let (sender, receiver) = sync_channel::<Vec<Read>>(1);
        let config = &config;
        scope.spawn(move || {
            let places: Vec<usize> = (0..index.len()).collect();
            for batch in places.chunks(BATCH) {
                if sender
                    .send(batch.par_iter().map(|place| read(index, *place, config)).collect())
                    .is_err()
                {
                    break;
                }
            }
        });
        for batch in receiver {
            bar.inc(batch.len() as u64);
            let (mut names, mut inputs) = (Vec::new(), Vec::new());
            for Read { id, path, input } in batch {
                if let Some(input) = passed_over.take(path.as_ref(), input, Some(&bar))? {
                    names.push((id, path));
                    inputs.push(input);
                }
            }
            if inputs.is_empty() {
                continue;
            }
            for ((id, path), encoded) in
                names.into_iter().zip(&context.session.encode_batch(&inputs))
            {
                table.push(id, path, &whole_embed(context, encoded)?);
            }
        }
        anyhow::Ok(())
    })?;
    bar.finish_and_clear();
    let n_passed_over = index.len() - table.len() + index.duplicates.len();
    if n_passed_over > 0 {
        note(
            context.quiet,
            format!("skipped {n_passed_over} samples\n  file: {}", index.path().display()),
        );
    }
    Ok((table, n_passed_over))
}

fn read(index: &ShardIndex, place: usize, config: &ImagePreprocess) -> Read {
    let key = index.key(place).unwrap_or("?");
    let id = format!("{}/{key}", name_of(index.path()));
    let nameless = || format!("{}/{key}", index.path().display());
    let read = || -> Result<(String, Preprocessed)> {
        let sample: Sample = index.read(place)?;
        let (ext, bytes) = sample.image_part()?;
        let photo = decode_whole(bytes, Default::default())?;
        Ok((format!("{}.{ext}", nameless()), photo.preprocess(config)))
    };
    match read() {
        Ok((path, input)) => Read { id, path, input: Ok(input) },
        Err(error) => Read { id, path: nameless(), input: Err(error) },
    }
}

fn report(done: &Done, out: &Path, context: &Context) -> Result<()> {
    let Done { shards, there, photos, passed_over, failed } = done;
    if context.json {
        let failed: Vec<_> = failed
            .iter()
            .map(|(shard, why)| json!({ "shard": shard.to_string_lossy(), "problem": why }))
            .collect();
        return print_json(&json!({
            "out": out.to_string_lossy(),
            "shards": shards,
            "shards_there": there,
            "vectors": photos,
            "passed_over": passed_over,
            "shards_failed": failed,
        }));
    }
    print(format!(
        "{}: {photos} vectors of {shards} shards; {there} shards already done, {} unusable, {passed_over} \
         samples skipped",
        out.display(),
        failed.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_is_the_share_of_one_rank() {
        let jobs: Vec<usize> = (0..7).collect();
        for size in 1..9 {
            let mut shared: Vec<usize> =
                (0..size).flat_map(|rank| share(&jobs, rank, size).copied()).collect();
            shared.sort_unstable();
            assert_eq!(shared, jobs, "{size} ranks");
        }
        assert_eq!(share(&jobs, 1, 3).collect::<Vec<_>>(), [&1, &4]);
    }

    #[test]
    fn files_are_named_after_their_shards_and_never_twice() {
        let of = |shards: &[&str]| {
            jobs(&shards.iter().map(PathBuf::from).collect::<Vec<_>>(), Path::new("o"))
        };
        let names: Vec<PathBuf> = of(&["a/s-0.tar", "b/s-1.x.tar", "s-2.tar.gz", "s-3.tgz"])
            .expect("four names")
            .into_iter()
            .map(|(_, file)| file)
            .collect();
        let wanted =
            ["o/s-0.parquet", "o/s-1.x.parquet", "o/s-2.parquet", "o/s-3.parquet"].map(Path::new);
        assert_eq!(names, wanted);
        let error = of(&["a/s.tar", "b/s.tar"]).expect_err("one name").to_string();
        assert!(error.contains("a/s.tar and b/s.tar"), "{error}");
    }
}
