//! `mmgem eval score`: BLEU, ROUGE-L and CIDEr of captions in COCO's format, and METEOR and SPICE
//! by pycocoevalcap.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use flate2::read::GzDecoder;
use mmgem_data::files;
use mmgem_eval::metrics::{caption, coco};

use super::scorers::Scorers;
use crate::globals::Globals;
use crate::terminal::{print, print_json};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mmgem eval score --references captions_val2017.json --candidates results.json\n  \
    mmgem eval score --references refs.json.gz --candidates results.json --json\n  \
    mmgem eval score --references refs.json --candidates results.json --meteor --python venv/bin/python\n\n\
    References: COCO annotations, or {\"7\": [\"..\", \"..\"]}.\n\
    Candidates: [{\"image_id\": 7, \"caption\": \"..\"}].\n\
    Files may be compressed with gzip.")]
pub struct ScoreArgs {
    /// Reference captions, written by people
    #[arg(long, value_name = "F")]
    references: PathBuf,
    /// Candidate captions, one for each image
    #[arg(long, value_name = "F")]
    candidates: PathBuf,
    #[command(flatten)]
    scorers: Scorers,
}

pub fn run(args: &ScoreArgs, globals: &Globals) -> Result<()> {
    args.scorers.check()?;
    let context = |path: &Path| format!("the captions cannot be used\n  file: {}", path.display());
    let references = coco::parse_references(&read_plain(&args.references)?)
        .with_context(|| context(&args.references))?;
    let candidates = coco::parse_candidates(&read_plain(&args.candidates)?)
        .with_context(|| context(&args.candidates))?;
    let paired = coco::pair(candidates, references)?;
    let scores = caption::score(&paired.candidates, &paired.references)?.scores;
    let mut document = serde_json::to_value(scores)?;
    for (name, scored) in args.scorers.score(&paired.candidates, &paired.references)? {
        document[name] = scored.mean.into();
    }
    if globals.json {
        return print_json(&document);
    }
    print(format!("images   {}", paired.image_ids.len()))?;
    for (name, value) in document.as_object().expect("a struct of scores") {
        print(format!("{name:<8} {:.4}", value.as_f64().unwrap_or(f64::NAN)))?;
    }
    Ok(())
}

/// Reads a file, and decompresses it if it starts with gzip's magic bytes.
fn read_plain(path: &Path) -> Result<Vec<u8>> {
    let bytes = files::read(path)?;
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    let mut plain = Vec::new();
    GzDecoder::new(bytes.as_slice())
        .read_to_end(&mut plain)
        .with_context(|| format!("cannot decompress the file\n  file: {}", path.display()))?;
    Ok(plain)
}
