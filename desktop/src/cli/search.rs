//! `mmgem search`: photos by a text, a photo, or a region of a photo.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use mmgem_core::session::Part;
use serde_json::{Value, json};

use crate::args::{Globals, WrongArguments};
use crate::boxes::BoxArg;
use crate::context::Context;
use crate::library::{Library, default_library};
use crate::photos::{find_photos, looks_like_a_photo, read_photo};
use crate::terminal::{PassedOver, box_text, json_box, json_f32, print, print_json};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mmgem search \"a red boat\" --photos ~/Pictures\n  \
    mmgem search boat.jpg --photos ~/Pictures -k 3\n  \
    mmgem search boat.jpg --box 40,60,200,220     (in the library that `mmgem index` filled)\n\n\
    A hit is: score, path, the box of the photo that fits best.")]
pub struct SearchArgs {
    /// A text, or the path of a photo
    #[arg(value_name = "QUERY")]
    query: String,
    /// Search for this region of the query photo
    #[arg(long = "box", value_name = "X0,Y0,X1,Y1", allow_hyphen_values = true)]
    box_px: Option<BoxArg>,
    /// Search the photos of these folders; the whole library without
    #[arg(long, value_name = "DIR", num_args = 1..)]
    photos: Vec<PathBuf>,
    /// Keep the embeddings in this file; without --photos in the platform's data folder
    #[arg(long, value_name = "FILE")]
    library: Option<PathBuf>,
    /// Number of hits
    #[arg(short, value_name = "N", default_value_t = 10, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    k: usize,
}

/// What is looked for.
#[derive(Debug, PartialEq)]
enum Query {
    Text(String),
    Photo(PathBuf, Part),
}

pub fn run(args: &SearchArgs, globals: &Globals) -> Result<()> {
    let query = read_query(args)?;
    let among = if args.photos.is_empty() { None } else { Some(find_photos(&args.photos)?) };
    let file = match (&args.library, &among) {
        (Some(file), _) => Some(file.clone()),
        (None, None) => Some(default_library()?),
        (None, Some(_)) => None,
    };
    if let (Some(file), None) = (&file, &among) {
        anyhow::ensure!(
            file.is_file(),
            "the photo library is not there\n  hint: fill it with `mmgem index DIR`, or name folders with --photos\n  file: {}",
            file.display()
        );
    }
    let context = globals.open()?;
    let mut library = match &file {
        Some(file) => Library::open(file, &context)?,
        None => Library::new(context.fingerprint),
    };
    if let Some(photos) = &among {
        library.update(photos, &context, file.as_deref())?;
    }
    anyhow::ensure!(
        library.len() > 0,
        "the photo library is empty for this model\n  hint: fill it with `mmgem index DIR`"
    );
    let embed = embed_query(&query, &context)?;
    let hits = library.nearest(&embed, among.as_deref(), args.k);
    report(&hits, &embed, &context)
}

/// A query is a photo if a file of that name is there.
fn read_query(args: &SearchArgs) -> Result<Query> {
    let path = Path::new(&args.query);
    let part = args.box_px.map_or(Part::Whole, |BoxArg(box_px)| Part::Box(box_px));
    if path.is_file() {
        return Ok(Query::Photo(path.into(), part));
    }
    if looks_like_a_photo(path) {
        anyhow::bail!(
            "there is no such photo\n  hint: is the path right? A text must not end like a photo's name\n  file: {}",
            args.query
        );
    }
    match part {
        Part::Whole => Ok(Query::Text(args.query.clone())),
        _ => Err(WrongArguments(format!("--box goes with a photo; {:?} is none", args.query)).into()),
    }
}

fn embed_query(query: &Query, context: &Context) -> Result<Vec<f32>> {
    let session = &context.session;
    match query {
        Query::Text(text) => Ok(pollster::block_on(session.embed_text(text))?),
        Query::Photo(path, part) => {
            let encoded = session.encode_rgb(&read_photo(path)?);
            pollster::block_on(session.embed_image(&encoded, part))
                .with_context(|| format!("the query cannot be used\n  file: {}", path.display()))
        }
    }
}

/// Looks at the hits once more for the boxes that fit best, and prints them.
fn report(hits: &[(PathBuf, f32)], embed: &[f32], context: &Context) -> Result<()> {
    let mut passed_over = PassedOver::new(hits.len(), context.strict);
    let mut found = Vec::new();
    for (path, score) in hits {
        let photo = passed_over.take(path, read_photo(path), None)?;
        let Some(photo) = photo else { continue };
        let encoded = context.session.encode_rgb(&photo);
        let place = pollster::block_on(context.session.localize(&encoded, embed))?;
        if context.json {
            found.push(
                json!({ "path": path, "score": json_f32(*score), "box": json_box(Some(place.box_px)) }),
            );
        } else {
            print(format!("{score:.4}\t{}\t{}", path.display(), box_text(Some(place.box_px))))?;
        }
    }
    passed_over.finish(context.quiet)?;
    if context.json { print_json(&Value::Array(found)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(query: &str, box_px: Option<&str>) -> SearchArgs {
        SearchArgs {
            query: query.into(),
            box_px: box_px.map(|text| text.parse().expect("a box")),
            photos: Vec::new(),
            library: None,
            k: 1,
        }
    }

    #[test]
    fn what_is_no_file_is_a_text() {
        assert_eq!(read_query(&args("a red boat", None)).expect("a text"), Query::Text("a red boat".into()));
        assert!(
            read_query(&args("a red boat", Some("0,0,1,1")))
                .expect_err("a box of a text")
                .is::<WrongArguments>()
        );
    }

    #[test]
    fn a_photo_that_is_not_there_is_no_text() {
        let error = read_query(&args("missing.jpg", None)).expect_err("missing").to_string();
        assert!(error.contains("no such photo"), "{error}");
    }
}
