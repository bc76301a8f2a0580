//! `mmgem index`: fills the photo library.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use mmgem_core::files::write_atomic;
use serde_json::{Value, json};

use crate::args::WrongArguments;
use crate::context::Context;
use crate::library::{Changes, Donor, Library, Summary, default_library};
use crate::photos::walk;
#[cfg(feature = "ann")]
use crate::terminal::progress_bar;
use crate::terminal::{note, print, print_json};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mmgem index ~/Pictures\n  \
    mmgem index holidays family --library photos.sqlite --exclude drafts/ --exclude '*.png'\n  \
    mmgem index ~/Pictures --watch\n  \
    mmgem index --export photos.safetensors     (for the web page)\n  \
    mmgem index ~/Pictures --import photos.safetensors\n  \
    mmgem index --problems\n\n\
    Run it again after photos were added, changed or moved: only new content is encoded. It can be ended\n\
    at any moment, however that is, and goes on where it was.")]
pub struct IndexArgs {
    /// Folders with photos, searched to the bottom
    #[arg(value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// The library; in the platform's data folder without
    #[arg(long, value_name = "FILE")]
    library: Option<PathBuf>,
    /// Leave out what this line of a .gitignore would; a file .mmgemignore in a folder does the same
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Follow changes below the folders until Ctrl-C
    #[arg(long, requires = "dirs")]
    watch: bool,
    /// Write the vectors of the whole library to this file, which the web page reads
    #[arg(long, value_name = "FILE", conflicts_with = "watch")]
    export: Option<PathBuf>,
    /// Take vectors from this file where the name, size and date of a photo are the same, instead of encoding
    #[arg(long, value_name = "FILE", requires = "dirs")]
    import: Option<PathBuf>,
    /// List the files that could not be read, and why
    #[arg(long)]
    problems: bool,
    /// Drop photos that are not there any more, wherever they were, and their vectors
    #[arg(long)]
    compact: bool,
    /// Make an approximate index beside the library, or add what is new to it: from hundreds of thousands of photos on,
    /// searches from the shell read it instead of every vector. Its file may be deleted
    #[cfg(feature = "ann")]
    #[arg(long)]
    approximate: bool,
}

impl IndexArgs {
    #[cfg(feature = "ann")]
    fn update_nearby(&self, file: &Path, library: &mut Library, context: &Context) -> Result<()> {
        if self.approximate {
            let nearby = library.nearby_file(file);
            let bar = progress_bar(library.counts()?.photos, "photos", context.quiet);
            let n = library.update_nearby(&nearby, |n| bar.inc(n as u64))?;
            bar.finish_and_clear();
            note(context.quiet, format!("{n} photos are in {}", nearby.display()));
        }
        Ok(())
    }

    /// Whether something is asked for that needs no folder.
    fn asks_of_library(&self) -> bool {
        #[cfg(feature = "ann")]
        if self.approximate {
            return true;
        }
        self.problems || self.compact || self.export.is_some()
    }
}

pub fn run(args: &IndexArgs, context: &Context) -> Result<()> {
    if args.dirs.is_empty() && !args.asks_of_library() {
        let message = "nothing to do: give folders, or --export, --problems or --compact";
        return Err(WrongArguments(message.into()).into());
    }
    let file = args.library.clone().map_or_else(default_library, Ok)?;
    let mut library = Library::open(&file, context.fingerprint, context.session.config().embed_dim)?;
    let donor = args.import.as_deref().map(|file| Donor::read(file, context.fingerprint)).transpose()?;
    let update = |library: &mut Library| -> Result<Summary> {
        let found = walk(&args.dirs, &args.exclude, context.quiet)?;
        if found.photos.is_empty() {
            note(context.quiet, "no photo is there");
        }
        library.update(&found, donor.as_ref(), context)
    };
    // Before the first run, so that nothing that happens meanwhile is missed.
    let changes = args.watch.then(|| Changes::below(&args.dirs)).transpose()?;
    let summary = if args.dirs.is_empty() { Summary::default() } else { update(&mut library)? };
    if args.compact {
        library.compact()?;
    }
    #[cfg(feature = "ann")]
    args.update_nearby(&file, &mut library, context)?;
    if let Some(out) = &args.export {
        write_atomic(out, &library.to_index()?.to_bytes())?;
        note(context.quiet, format!("wrote {}", out.display()));
    }
    if args.problems {
        return list_problems(&library, context);
    }
    report(&file, &library, summary, context)?;
    let Some(changes) = changes else { return Ok(()) };
    note(context.quiet, "watching; Ctrl-C ends it");
    changes.follow(|| {
        match update(&mut library) {
            Ok(summary) if summary == Summary::default() => Ok(()),
            Ok(summary) => report(&file, &library, summary, context),
            Err(error) if context.strict => Err(error),
            // What is wrong now may be right after the next change.
            Err(error) => {
                note(context.quiet, format!("{error:#}"));
                Ok(())
            }
        }
    })
}

fn report(file: &Path, library: &Library, summary: Summary, context: &Context) -> Result<()> {
    let counts = library.counts()?;
    let Summary { encoded, recognised, forgotten, unreadable } = summary;
    if context.json {
        return print_json(&json!({
            "library": file.to_string_lossy(),
            "photos": counts.photos,
            "encoded": encoded,
            "recognised": recognised,
            "forgotten": forgotten,
            "unreadable": unreadable,
            "problems": counts.problems,
        }));
    }
    print(format!(
        "{}: {} photos; now {encoded} encoded, {recognised} recognised as copies or moved, {forgotten} forgotten, \
         {unreadable} unreadable",
        file.display(),
        counts.photos
    ))?;
    if counts.problems > 0 {
        note(context.quiet, format!("{} files cannot be read: see --problems", counts.problems));
    }
    Ok(())
}

fn list_problems(library: &Library, context: &Context) -> Result<()> {
    let problems = library.problems()?;
    if context.json {
        let entry = |(path, problem): &(PathBuf, String)| json!({ "path": path.to_string_lossy(), "problem": problem });
        return print_json(&problems.iter().map(entry).collect::<Value>());
    }
    problems.iter().try_for_each(|(path, problem)| print(format!("{}\t{problem}", path.display())))
}
