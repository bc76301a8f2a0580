//! `mmgem eval`: a model's scores on held-out photos.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args as ClapArgs, Subcommand};
use mmgem_core::eval::held_out::HeldOut;
use mmgem_core::generate::Decoding;
use serde_json::{Value, json};

use crate::context::Context;
use crate::terminal::{note, print, print_json, progress_bar};

/// Arguments of `mmgem eval`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  \
    mmgem eval retrieval --data 'data/scenes/*.tar'\n  \
    mmgem eval caption --data val.tar --out captions.json\n  \
    mmgem eval region --data val.tar --limit 200 --json")]
pub struct EvalArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Every photo against every caption, both ways: recall at 1, 5, 10
    Retrieval(Data),
    /// Captions of whole photos against their own: CIDEr, BLEU, ROUGE-L
    Caption {
        #[command(flatten)]
        data: Data,
        /// Hypotheses kept while decoding; 1 is greedy
        #[arg(long, default_value_t = 1)]
        beam: usize,
        /// Write the captions in COCO's result format
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Phrases and boxes: recall, pointing, and the captions of the boxes
    Region(Data),
}

#[derive(Debug, ClapArgs)]
struct Data {
    /// WebDataset shards with photos, captions and regions; `*` stands for any characters
    #[arg(long, required = true, value_name = "SHARDS")]
    data: Vec<String>,
    /// Look at the first N photos only
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

/// Computes and prints the scores.
pub fn run(args: &EvalArgs, context: &Context) -> Result<()> {
    let session = &context.session;
    let scores = match &args.what {
        What::Retrieval(data) => {
            let held_out = encode(data, context)?;
            let protocol = "every photo against every caption of all photos; a tie counts against";
            document(protocol, &held_out, pollster::block_on(held_out.retrieval(session))?)?
        }
        What::Caption { data, beam, out } => {
            let held_out = encode(data, context)?;
            let decoding = Decoding { beam: *beam, ..Decoding::default() };
            let bar = progress_bar(held_out.len(), "captions", context.quiet);
            let eval =
                pollster::block_on(held_out.captions(session, decoding, |n, _| bar.set_position(n as u64)))?;
            bar.finish_and_clear();
            if let Some(path) = out {
                let results: Vec<Value> = eval
                    .captions
                    .iter()
                    .map(|(id, text)| json!({ "image_id": id, "caption": text }))
                    .collect();
                mmgem_core::files::write_atomic(path, &serde_json::to_vec_pretty(&results)?)?;
            }
            let protocol = "one caption a photo against all of its own, PTB tokens, as pycocoevalcap scores";
            document(protocol, &held_out, eval)?
        }
        What::Region(data) => {
            let held_out = encode(data, context)?;
            let bar = progress_bar(held_out.len(), "photos", context.quiet);
            let tick = |n: usize, _| bar.set_position(n as u64);
            let eval = pollster::block_on(held_out.regions(session, Decoding::default(), tick))?;
            bar.finish_and_clear();
            let protocol = "regions that one box describes; the first phrase against the boxes of all photos \
                (region_text_to_region) or of its own (in_photo); pointing: the most similar patch lies in the box";
            document(protocol, &held_out, eval)?
        }
    };
    if context.json {
        return print_json(&scores);
    }
    for (key, value) in scores.as_object().into_iter().flatten() {
        match value.as_f64().filter(|_| !value.is_u64()) {
            Some(number) => print(format!("{key:42} {number:.4}"))?,
            None => print(format!(
                "{key:42} {}",
                value.as_str().map_or_else(|| value.to_string(), str::to_owned)
            ))?,
        }
    }
    Ok(())
}

fn encode(data: &Data, context: &Context) -> Result<HeldOut> {
    let bar = progress_bar(0, "photos encoded", context.quiet);
    let held_out = HeldOut::encode(&context.session, &data.data, data.limit, |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    for why in &held_out.skipped {
        note(false, format!("passed over {why}"));
    }
    if context.strict && !held_out.skipped.is_empty() {
        anyhow::bail!("{} samples cannot be used (--strict)", held_out.skipped.len());
    }
    Ok(held_out)
}

/// The scores with what they were measured on and how.
fn document(protocol: &str, held_out: &HeldOut, scores: impl serde::Serialize) -> Result<Value> {
    let mut document = json!({
        "protocol": protocol,
        "n_photos": held_out.len(),
        "n_skipped": held_out.skipped.len(),
    });
    if let (Some(all), Value::Object(scores)) = (document.as_object_mut(), serde_json::to_value(scores)?) {
        all.extend(scores);
    }
    Ok(document)
}
