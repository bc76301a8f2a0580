//! `mmgem index`: fills the photo library.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use mmgem_data::files::write_atomic;
use serde_json::{Value, json};

use crate::cli::indexing::update as update_library;
use crate::context::Context;
use crate::globals::WrongArguments;
use crate::library::{Changes, ImportedIndex, Indexing, Library, Summary, default_library};
use crate::names::{json_path, listed, path_parser, printable, printable_path};
use crate::outputs::{Target, check_ending, spare_inputs};
use crate::photos::{FoundPhotos, Root, walk};
use crate::terminal::{json_problem, note, print, print_json};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mmgem index ~/Pictures\n  \
    mmgem index holidays family --library photos.sqlite --exclude drafts/ --exclude '*.png'\n  \
    mmgem index                                 (continues with the known folders)\n  \
    mmgem index ~/Pictures --watch\n  \
    mmgem index --export photos.safetensors     (for the web page)\n  \
    mmgem index ~/Pictures --import photos.safetensors\n  \
    mmgem index --problems\n\n\
    Run the command again after you add, change or move photos: it encodes only new content. You \
    can stop it at any moment, also by a kill; the next run continues. It reads a file again if \
    the size, the date, the permissions or a sidecar of the file changed; --rescan reads all files \
    again.\n\n\
    Formats: JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC, the previews in raw photos, and AVIF in builds \
    with the feature avif. A truncated image is indexed by its intact part, and --problems lists \
    it.")]
pub struct IndexArgs {
    /// Folders with photos, including subfolders [default: the known folders]
    ///
    /// The library remembers each folder with its --exclude patterns.
    #[arg(value_name = "DIR", value_parser = path_parser())]
    dirs: Vec<PathBuf>,
    /// Library file [default: the one in the platform's data folder]
    #[arg(long, value_name = "FILE")]
    library: Option<PathBuf>,
    /// Exclude the files of this .gitignore pattern (repeatable)
    ///
    /// A file .mmgemignore in a folder has the same effect.
    #[arg(long, value_name = "PATTERN", requires = "dirs")]
    exclude: Vec<String>,
    /// Include hidden files and ignored folders
    ///
    /// These are trash folders, folders of systems and programs, and folders with a file .nomedia.
    #[arg(long, requires = "dirs")]
    hidden: bool,
    /// Read every file again, also unchanged ones
    #[arg(long)]
    rescan: bool,
    /// Watch the folders for changes until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// Write all vectors of the library to this file, for the web page
    #[arg(long, value_name = "FILE", conflicts_with = "watch")]
    export: Option<PathBuf>,
    /// Take the vectors of known photos from this file instead of encoding
    ///
    /// A photo is known if its name, size and date are the same.
    #[arg(long, value_name = "FILE", requires = "dirs")]
    import: Option<PathBuf>,
    /// List the files that cannot be read, or only in part, with the reasons
    #[arg(long)]
    problems: bool,
    /// Remove photos that no longer exist, and shrink the library
    ///
    /// This includes photos of missing folders, such as those of a disconnected drive. It also
    /// clears the cached texts.
    #[arg(long)]
    compact: bool,
}

impl IndexArgs {
    /// Whether an option works on the library alone, without folders.
    fn asks_of_library(&self) -> bool {
        self.problems || self.export.is_some() || self.compact
    }

    /// The folders of the command line, or else the known folders that exist.
    fn roots(&self, file: &Path, context: &Context) -> Result<Vec<Root>> {
        if !self.dirs.is_empty() {
            let root = |path: &PathBuf| Root {
                path: path.clone(),
                exclude: self.exclude.clone(),
                hidden: self.hidden,
            };
            return Ok(self.dirs.iter().map(root).collect());
        }
        let known = if file.is_file() {
            known_folders(&open_to_search(file, context)?, file)?
        } else {
            Vec::new()
        };
        if known.is_empty() {
            let message = "no folder is known yet; give one, as in `mmgem index ~/Pictures`";
            return Err(WrongArguments(message.into()).into());
        }
        let (there, missing): (Vec<Root>, Vec<Root>) =
            known.into_iter().partition(|root| root.path.is_dir());
        for root in &missing {
            let why =
                "the folder is missing; is its drive connected? Its photos stay in the library";
            note(context.quiet, format!("skipped {}: {why}", printable_path(&root.path)));
        }
        anyhow::ensure!(
            !there.is_empty(),
            "all of the {} known folders are missing; is their drive connected?",
            missing.len()
        );
        Ok(there)
    }
}

/// Folders that `mmgem index` or the window read into this library.
fn known_folders(library: &Library, file: &Path) -> Result<Vec<Root>> {
    #[cfg(feature = "app")]
    let of_window = crate::window::folders_of(file);
    #[cfg(not(feature = "app"))]
    let (of_window, _): ([PathBuf; 0], _) = ([], file);
    let mut known = library.folders()?;
    for folder in of_window {
        if !known.iter().any(|root| folder.starts_with(&root.path)) {
            known.push(Root::from(folder));
        }
    }
    Ok(known)
}

fn open_to_search(file: &Path, context: &Context) -> Result<Library> {
    let dim = context.session.config().embed_dim;
    Ok(Library::open_to_search(file, context.fingerprint, dim)?)
}

pub fn run(args: &IndexArgs, context: &Context) -> Result<()> {
    let file = args.library.clone().map_or_else(default_library, Ok)?;
    let only_asks = args.dirs.is_empty() && args.asks_of_library() && !args.watch && !args.rescan;
    // Before the library file is made, so that a wrong folder does not leave an empty one.
    let roots = if only_asks { Vec::new() } else { args.roots(&file, context)? };
    let found = if only_asks { None } else { Some(walk(&roots, context.quiet)?) };
    let imported = args
        .import
        .as_deref()
        .map(|file| ImportedIndex::read(file, context.fingerprint))
        .transpose()?;
    let mut library = match only_asks && !args.compact {
        true => open_to_search(&file, context)?,
        false if only_asks && !file.is_file() => return open_to_search(&file, context).map(drop),
        false => Library::open(&file, context.fingerprint, context.session.config().embed_dim)?,
    };
    if let Some(out) = &args.export {
        spare_library(out, args, &file, &library)?;
    }
    let indexing = Indexing {
        imported: imported.as_ref(),
        rescan: args.rescan,
        ..Indexing::of(&context.session)
    };
    let update = |library: &mut Library, found: &FoundPhotos, indexing| -> Result<Summary> {
        if found.photos.is_empty() {
            note(context.quiet, "found no photos");
        }
        update_library(library, found, indexing, context)
    };
    // Before the first update, so that changes during it are not missed.
    let folders: Vec<PathBuf> = roots.iter().map(|root| root.path.clone()).collect();
    let changes = args.watch.then(|| Changes::below(&folders)).transpose()?;
    let summary = match &found {
        Some(found) => {
            library.remember_folders(&found.roots)?;
            report_outdated_photos(&library, context)?;
            if let Some(left_out) = found.left_out.in_words() {
                note(context.quiet, left_out);
            }
            update(&mut library, found, indexing)?
        }
        None => Summary::default(),
    };
    if args.compact {
        library.compact()?;
    }
    if let Some(out) = &args.export {
        write_atomic(out, &library.to_index()?.to_bytes())?;
        note(context.quiet, format!("wrote {}", printable_path(out)));
    }
    if args.problems {
        return list_problems(&library, context);
    }
    report(&file, &library, summary, context)?;
    let Some(changes) = changes else { return Ok(()) };
    note(context.quiet, "watching for changes; press Ctrl-C to stop");
    let indexing = Indexing { rescan: false, ..indexing };
    changes.follow(|| {
        let updated =
            walk(&roots, context.quiet).and_then(|found| update(&mut library, &found, indexing));
        match updated {
            Ok(summary) if summary == Summary::default() => Ok(()),
            Ok(summary) => report(&file, &library, summary, context),
            Err(error) if context.strict => Err(error),
            // The next change may resolve the problem.
            Err(error) => {
                note(context.quiet, format!("{error:#}"));
                Ok(())
            }
        }
    })
}

/// Reports why unchanged photos are encoded again.
fn report_outdated_photos(library: &Library, context: &Context) -> Result<()> {
    let n = library.photos_of_earlier_programs()?;
    if n > 0 {
        let why =
            "this version decodes colours, transparency or rotation of some photos differently";
        let line =
            format!("{n} photos from an earlier version of mmgem are encoded again, once: {why}");
        note(context.quiet, line);
    } else if library.counts()?.photos == 0 {
        let n = library.photos_of_other_models()?;
        if n > 0 {
            let what = "photos were indexed with another model; its vectors stay, and this model \
                        encodes the photos too";
            note(context.quiet, format!("{n} {what}"));
        }
    }
    Ok(())
}

/// Rejects an export that would overwrite the library, one of its photos, or the imported file.
fn spare_library(out: &Path, args: &IndexArgs, file: &Path, library: &Library) -> Result<()> {
    check_ending("--export", out, &["safetensors"], "no other format is supported")?;
    spare_inputs("--export", out, args.import.iter().map(PathBuf::as_path).chain([file]))?;
    // Compare with the thousands of photos only if the output exists.
    if Target::of(out).is_some() {
        let photos = library.paths()?;
        spare_inputs("--export", out, photos.iter().map(PathBuf::as_path))?;
    }
    Ok(())
}

fn report(file: &Path, library: &Library, summary: Summary, context: &Context) -> Result<()> {
    let counts = library.counts()?;
    let Summary { encoded, recognised, unchanged, forgotten, unreadable, in_part: _ } = summary;
    if context.json {
        return print_json(&json!({
            "library": json_path(file),
            "photos": counts.photos,
            "encoded": encoded,
            "recognised": recognised,
            "unchanged": unchanged,
            "forgotten": forgotten,
            "unreadable": unreadable,
            "problems": counts.problems,
            "in_part": counts.in_part,
        }));
    }
    let read_again = if unchanged > 0 {
        format!(", {unchanged} read again without a change")
    } else {
        String::new()
    };
    print(format!(
        "{}: {} photos; now {encoded} encoded, {recognised} recognised as copies or moved{read_again}, {forgotten} \
         forgotten, {unreadable} unreadable",
        printable_path(file),
        counts.photos
    ))?;
    if counts.problems > 0 {
        note(
            context.quiet,
            format!("{} files are unreadable; --problems lists them", counts.problems),
        );
    }
    if counts.in_part > 0 {
        let what = "are truncated or damaged and searched by their intact part: see --problems";
        note(context.quiet, format!("{} photos {what}", counts.in_part));
    }
    Ok(())
}

fn list_problems(library: &Library, context: &Context) -> Result<()> {
    let problems = library.problems()?;
    if context.json {
        return print_json(&problems.iter().map(json_problem).collect::<Value>());
    }
    let line = |(path, problem): &(PathBuf, String)| {
        print(format!("{}\t{}", listed(path), printable(problem)))
    };
    problems.iter().try_for_each(line)
}
