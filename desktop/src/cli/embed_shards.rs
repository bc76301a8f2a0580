//! `mmgem embed --shards`: the photos of a WebDataset as vectors in Parquet, a file for each shard.
//!
//! Ranks share out the shards and never talk: each knows its number from its launcher, as `mmgem train` does.
//! A file appears when it is whole, so whoever was ended goes on with the shards that lack theirs.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::thread;

use anyhow::{Context as _, Result, bail};
use mmgem_core::data::parquet::{VectorTable, footer, has_note};
use mmgem_core::data::patterns::expand;
use mmgem_core::data::webdataset::{Sample, ShardIndex};
use mmgem_core::files;
use mmgem_core::image::{ImagePreprocess, Preprocessed, decode, preprocess};
use mmgem_core::train::collective::Launch;
use rayon::prelude::*;
use serde_json::json;

use crate::args::Globals;
use crate::context::Context;
use crate::photos::whole_embed;
use crate::terminal::{PassedOver, note, print, print_json, progress_bar};

/// Photos that go through the image encoder at once.
const BATCH: usize = 16;

/// What was done, over all shards of this rank.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    shards: usize,
    /// Shards whose files were there.
    there: usize,
    photos: usize,
    /// Samples without a photo that can be read.
    passed_over: usize,
}

/// Writes `OUT/SHARD.parquet` for the shards that are this rank's.
///
/// # Errors
/// When a shard cannot be read, a file cannot be written, or one is there that another model made.
pub fn run(shards: &[String], out: &Path, globals: &Globals) -> Result<()> {
    let launch = Launch::from_env()?;
    let device = launch.as_ref().map_or(globals.device, |launch| globals.device.on_rank(launch.local_rank));
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
        let (table, n_passed_over) = embed(shard, context)?;
        files::write_atomic(file, &table.to_parquet())?;
        done.shards += 1;
        done.photos += table.len();
        done.passed_over += n_passed_over;
        note(context.quiet, format!("wrote {}: {} vectors", file.display(), table.len()));
    }
    report(done, out, context)
}

/// Every shard with the file of its vectors.
fn jobs(shards: &[PathBuf], out: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let mut owners: HashMap<PathBuf, &Path> = HashMap::new();
    let mut jobs = Vec::new();
    for shard in shards {
        let file = out.join(name_of(shard)).with_added_extension("parquet");
        if let Some(other) = owners.insert(file.clone(), shard) {
            bail!(
                "two shards would write one file\n  hint: embed them into two folders\n  file: {}\n  shards: {} and {}",
                file.display(),
                other.display(),
                shard.display()
            );
        }
        jobs.push((shard.clone(), file));
    }
    Ok(jobs)
}

/// The name of a shard without its last extension.
fn name_of(shard: &Path) -> String {
    shard.file_stem().unwrap_or(shard.as_os_str()).to_string_lossy().into_owned()
}

fn share<T>(jobs: &[T], rank: usize, size: usize) -> impl Iterator<Item = &T> {
    jobs.iter().skip(rank).step_by(size)
}

/// What a file was made from.
fn notes(shard: &Path, context: &Context) -> Result<Vec<(String, String)>> {
    let len_bytes = std::fs::metadata(shard)
        .with_context(|| format!("cannot read the shard\n  file: {}", shard.display()))?
        .len();
    Ok(vec![
        ("mmgem.model".into(), format!("{:016x}", context.fingerprint)),
        ("mmgem.shard_bytes".into(), len_bytes.to_string()),
    ])
}

/// Whether the vectors of a shard are there already.
fn is_there(shard: &Path, file: &Path, context: &Context) -> Result<bool> {
    if !file.exists() {
        return Ok(false);
    }
    let footer = File::open(file)
        .and_then(|mut file| footer(&mut file))
        .with_context(|| format!("cannot read the vectors\n  file: {}", file.display()))?;
    let notes = notes(shard, context)?;
    let is_of_shard = |footer: Vec<u8>| notes.iter().all(|(key, value)| has_note(&footer, key, value));
    anyhow::ensure!(
        footer.is_some_and(is_of_shard),
        "the file is there, but not with the vectors of this shard by this model\n  hint: give another --out, or delete \
         it\n  file: {}\n  shard: {}",
        file.display(),
        shard.display()
    );
    Ok(true)
}

/// A photo of a shard, ready for the encoder: where it is, and what it shows.
struct Read {
    id: String,
    path: String,
    input: Result<Preprocessed>,
}

/// The vectors of a shard, and how many samples have none.
fn embed(shard: &Path, context: &Context) -> Result<(VectorTable, usize)> {
    let index = ShardIndex::open(shard)?;
    if let Some(reason) = &index.truncated {
        note(context.quiet, format!("the shard is cut short: {reason}\n  file: {}", shard.display()));
    }
    let config = context.session.config().preprocess();
    let bar = progress_bar(index.len(), "photos", context.quiet);
    let mut passed_over = PassedOver::new(index.len(), context.strict);
    let mut table = VectorTable::new(context.session.config().embed_dim);
    table.notes = notes(shard, context)?;
    thread::scope(|scope| {
        // The next batch is read while this one is encoded, and no more: memory does not grow. When this ends
        // early the receiver is dropped, which ends the reader.
        let (sender, receiver) = sync_channel::<Vec<Read>>(1);
        let (index, config) = (&index, &config);
        scope.spawn(move || {
            let places: Vec<usize> = (0..index.len()).collect();
            for batch in places.chunks(BATCH) {
                if sender.send(batch.par_iter().map(|place| read(index, *place, config)).collect()).is_err() {
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
            for ((id, path), encoded) in names.into_iter().zip(&context.session.encode_batch(&inputs)) {
                table.push(id, path, &whole_embed(context, encoded)?);
            }
        }
        anyhow::Ok(())
    })?;
    bar.finish_and_clear();
    passed_over.finish(context.quiet)?;
    let n_passed_over = index.len() - table.len();
    Ok((table, n_passed_over))
}

fn read(index: &ShardIndex, place: usize, config: &ImagePreprocess) -> Read {
    let key = index.key(place).unwrap_or("?");
    let id = format!("{}/{key}", name_of(index.path()));
    let member = |sample: &Sample| {
        let ext = sample.image_part().map_or("", |(ext, _)| ext);
        format!("{}/{key}.{ext}", index.path().display())
    };
    let nameless = || format!("{}/{key}", index.path().display());
    match index.read(place) {
        Err(error) => Read { id, path: nameless(), input: Err(error.into()) },
        Ok(sample) => match sample.image() {
            None => Read {
                id,
                path: nameless(),
                input: Err(anyhow::anyhow!("there is no image among its parts")),
            },
            Some(bytes) => {
                let input = decode(bytes, Default::default()).map(|photo| preprocess(&photo, config));
                Read { id, path: member(&sample), input: input.map_err(Into::into) }
            }
        },
    }
}

fn report(done: Done, out: &Path, context: &Context) -> Result<()> {
    let Done { shards, there, photos, passed_over } = done;
    if context.json {
        return print_json(&json!({
            "out": out.to_string_lossy(),
            "shards": shards,
            "shards_there": there,
            "vectors": photos,
            "passed_over": passed_over,
        }));
    }
    print(format!(
        "{}: {photos} vectors of {shards} shards, {there} shards were there, {passed_over} samples passed over",
        out.display()
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
        let of =
            |shards: &[&str]| jobs(&shards.iter().map(PathBuf::from).collect::<Vec<_>>(), Path::new("o"));
        let names: Vec<PathBuf> =
            of(&["a/s-0.tar", "b/s-1.x.tar"]).expect("two names").into_iter().map(|(_, file)| file).collect();
        assert_eq!(names, [Path::new("o/s-0.parquet"), Path::new("o/s-1.x.parquet")]);
        let error = of(&["a/s.tar", "b/s.tar"]).expect_err("one name").to_string();
        assert!(error.contains("a/s.tar and b/s.tar"), "{error}");
    }
}
