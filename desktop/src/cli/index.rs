//! `mmgem index`: fills the photo library.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::context::Context;
use crate::library::{Library, default_library};
use crate::photos::find_photos;
use crate::terminal::{print, print_json};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mmgem index ~/Pictures\n  \
    mmgem index holidays family --library photos.safetensors\n\n\
    Run it again after photos were added or changed: only those are encoded.")]
pub struct IndexArgs {
    /// Folders with photos, searched to the bottom
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// The library; in the platform's data folder without
    #[arg(long, value_name = "FILE")]
    library: Option<PathBuf>,
}

pub fn run(args: &IndexArgs, context: &Context) -> Result<()> {
    let file = args.library.clone().map_or_else(default_library, Ok)?;
    let photos = find_photos(&args.dirs)?;
    let mut library = Library::open(&file, context)?;
    let n_forgotten = library.forget_missing(&args.dirs);
    if n_forgotten > 0 {
        library.save(&file)?;
    }
    let n_encoded = library.update(&photos, context, Some(&file))?;
    if context.json {
        return print_json(&json!({
            "library": file,
            "photos": library.len(),
            "encoded": n_encoded,
            "forgotten": n_forgotten,
        }));
    }
    print(format!(
        "{}: {} photos, {n_encoded} encoded now, {n_forgotten} forgotten because they are gone",
        file.display(),
        library.len()
    ))
}
