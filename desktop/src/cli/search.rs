//! `mmgem search`: photos by texts, photos, regions of photos, and what is known of them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};
use mmgem_core::files::write_atomic;
use mmgem_core::generate::Decoding;
use mmgem_core::index;
use mmgem_core::session::Part;
use pollster::block_on;
use serde_json::{Value, json};

use crate::args::{Globals, WrongArguments};
use crate::boxes::BoxArg;
use crate::cli::cutoff;
use crate::cli::hits_page::hits_page;
use crate::context::{CAPTION_TOKENS, Context};
use crate::library::{Found, Library, Photo, Shelf, Wanted, as_programs_take_it, default_library};
use crate::photos::{find_photos, read_decoded};
use crate::query::{Query, Term, What};
use crate::terminal::{box_text, json_box, json_f32, note, one_line, print, print_json, root_on_one_line};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mmgem search \"a red boat\" --photos ~/Pictures\n  \
    mmgem search \"beach - people after:2024-06 near:43.3,5.4,50\" --why\n  \
    mmgem search \"2:sunset + boat.jpg path:holidays camera:canon type:jpeg\" -k 20 --page 2\n  \
    mmgem search boat.jpg --box 40,60,200,220     (in the library that `mmgem index` filled)\n  \
    mmgem search dog -k 50 --html dogs.html\n  \
    mmgem search dog --min-score 0.45 -k 1000 --null | xargs -0 cp -t found/\n  \
    mmgem search --calibrate 'val-*.tar'     (what to give as --min-score)\n\n\
    A query adds (+) and takes away (-) texts and photos, with spaces around the sign; N: before one is its\n\
    weight. Words in double quotes are taken as they are. Filters: after: before: (a year, month or day)\n\
    near:LAT,LON[,KM] path: camera: type:, with quotes where there are spaces: path:\"my photos\"\n\
    A hit is: score, path, the box of the photo that fits best.")]
pub struct SearchArgs {
    /// Texts, paths of photos, and filters
    #[arg(value_name = "QUERY", allow_hyphen_values = true, required_unless_present = "calibrate")]
    query: Option<String>,
    /// Search for this region of the query photo, among the regions of the others
    #[arg(long = "box", value_name = "X0,Y0,X1,Y1", allow_hyphen_values = true)]
    box_px: Option<BoxArg>,
    /// Score a photo by its best region instead of the whole: small things in large photos
    #[arg(long)]
    regions: bool,
    /// Search the photos of these folders; the whole library without
    #[arg(long, value_name = "DIR", num_args = 1..)]
    photos: Vec<PathBuf>,
    /// Keep the embeddings in this file; without --photos in the platform's data folder
    #[arg(long, value_name = "FILE")]
    library: Option<PathBuf>,
    /// Number of hits
    #[arg(short, value_name = "N", default_value_t = 10, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    k: usize,
    /// Which N hits: 1 are the first
    #[arg(long, value_name = "P", default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    page: usize,
    /// Leave out hits with a smaller cosine; --calibrate tells which, every model has its own
    #[arg(long, value_name = "COSINE", default_value_t = -1.0, allow_hyphen_values = true, hide_default_value = true)]
    min_score: f32,
    /// Instead of searching, tell what --min-score does, from the captioned photos of these shards; the library
    /// remembers it for the window, if it is there
    #[arg(long, value_name = "SHARDS", num_args = 1.., conflicts_with = "query")]
    calibrate: Vec<String>,
    /// Order of the hits of a page
    #[arg(long, value_name = "ORDER", default_value = "relevance")]
    sort: Sort,
    /// Write what is in the best box of each hit
    #[arg(long)]
    why: bool,
    /// Print only the paths, with a zero byte after each
    #[arg(long, conflicts_with_all = ["why", "json"])]
    null: bool,
    /// Write the hits as a page of pictures with their boxes, which needs nothing else
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Open the first hit with the system's program for it
    #[arg(long)]
    open: bool,
    /// Tell how long each part took; with --json the document is {"hits", "timing"} instead of the hits alone
    #[arg(long)]
    timing: bool,
    /// Compare every vector, even where there is an approximate index
    #[cfg(feature = "ann")]
    #[arg(long)]
    exact: bool,
}

/// How long the parts of a search took, in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Timing {
    /// The model and the vectors were read.
    open: f64,
    /// The query became a vector.
    encode: f64,
    /// Every text of it was known from an earlier search.
    known: bool,
    /// The vectors were compared with it, and what is known of the hits was read.
    scan: f64,
}

/// How the hits of a page are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// The best first.
    Relevance,
    /// The latest first.
    Date,
}

pub fn run(args: &SearchArgs, globals: &Globals) -> Result<()> {
    let Some(text) = &args.query else { return calibrate(args, globals) };
    let query = read_query(text, args.box_px)?;
    let among = if args.photos.is_empty() { None } else { Some(find_photos(&args.photos, globals.quiet)?) };
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
    let start = Instant::now();
    let context = globals.open()?;
    let dim = context.session.config().embed_dim;
    let mut library = match &file {
        Some(file) => Library::open(file, context.fingerprint, dim)?,
        None => Library::in_memory(context.fingerprint, dim)?,
    };
    if let Some(photos) = &among {
        library.update(photos, None, &context)?;
    }
    let roots = among.map(|among| among.roots);
    let asks = !query.filters.is_empty() || roots.is_some();
    let source = Source::of(&library, file.as_deref(), asks, args)?;
    let open = millis(start);
    let start = Instant::now();
    let known = query.is_known(&library)?;
    let box_px = args.box_px.map(|BoxArg(box_px)| box_px);
    let embed = query.embed(box_px, &context.session, &mut library)?;
    let encode = millis(start);
    let wanted = Wanted {
        skip: (args.page - 1).saturating_mul(args.k),
        k: args.k,
        min_score: args.min_score,
        by_region: args.regions || args.box_px.is_some(),
    };
    let is_among = |path: &PathBuf| roots.iter().flatten().any(|root| path.starts_with(root));
    let keep = |photo: &Photo| query.keeps(photo) && (roots.is_none() || photo.paths.iter().any(is_among));
    let start = Instant::now();
    let mut found =
        source.search(&library, &embed, &wanted, asks.then_some(&keep as &dyn Fn(&Photo) -> bool))?;
    let timing = Timing { open, encode, known, scan: millis(start) };
    if args.sort == Sort::Date {
        found.sort_by_key(|hit| std::cmp::Reverse(hit.photo.taken_secs));
    }
    if found.is_empty() {
        note(context.quiet, "no photo is a hit");
    }
    let whys = found.iter().map(|hit| if args.why { why_if_there(hit, &context) } else { Ok(None) });
    let whys = whys.collect::<Result<Vec<_>>>()?;
    report(&found, &whys, args, timing, &context)?;
    if let Some(out) = &args.html {
        write_atomic(out, hits_page(text, &found, &whys, &library)?.as_bytes())?;
        note(context.quiet, format!("wrote {}", out.display()));
    }
    match found.first().filter(|_| args.open) {
        Some(hit) => open::that_detached(as_programs_take_it(&hit.photo.paths[0]))
            .with_context(|| format!("cannot open the photo\n  file: {}", hit.photo.paths[0].display())),
        None => Ok(()),
    }
}

/// The vectors that a search compares.
enum Source {
    /// All.
    Every(Shelf),
    /// Those that an approximate index proposes.
    #[cfg(feature = "ann")]
    Near(PathBuf),
}

impl Source {
    #[cfg_attr(not(feature = "ann"), allow(unused_variables))]
    fn of(library: &Library, file: Option<&Path>, is_filtered: bool, args: &SearchArgs) -> Result<Self> {
        // A filter may keep few photos, and those far from the query.
        #[cfg(feature = "ann")]
        if let (Some(file), false) = (file, is_filtered || args.exact) {
            let nearby = library.nearby_file(file);
            if library.has_nearby(&nearby)? {
                return Ok(Self::Near(nearby));
            }
        }
        read_shelf(library).map(Self::Every)
    }

    fn search(
        self,
        library: &Library,
        embed: &[f32],
        wanted: &Wanted,
        keep: Option<&dyn Fn(&Photo) -> bool>,
    ) -> Result<Vec<Found>> {
        let shelf = match self {
            Self::Every(shelf) => shelf,
            #[cfg(feature = "ann")]
            Self::Near(nearby) => match library.search_near(&nearby, embed, wanted)? {
                Some(found) => return Ok(found),
                None => read_shelf(library)?,
            },
        };
        library.search(&shelf, &index::Query::new(embed), wanted, keep)
    }
}

fn read_shelf(library: &Library) -> Result<Shelf> {
    let shelf = library.shelf()?;
    if shelf.len() == 0 {
        let others = match library.photos_of_other_models()? {
            0 => String::new(),
            n => format!(" ({n} photos of other models are in it)"),
        };
        anyhow::bail!(
            "the photo library is empty for this model{others}\n  hint: fill it with `mmgem index DIR`"
        );
    }
    Ok(shelf)
}

fn millis(since: Instant) -> f64 {
    1e3 * since.elapsed().as_secs_f64()
}

/// Tells cut-offs, and leaves them in the library: the one that is named, or the usual one where it is there.
fn calibrate(args: &SearchArgs, globals: &Globals) -> Result<()> {
    let context = globals.open()?;
    let cutoffs = cutoff::run(&args.calibrate, &context)?;
    let usual = || default_library().ok().filter(|file| file.is_file());
    if let Some(file) = args.library.clone().or_else(usual) {
        Library::open(&file, context.fingerprint, context.session.config().embed_dim)?
            .set_cutoffs(&cutoffs)?;
        note(context.quiet, format!("the window offers them over {}", file.display()));
    }
    Ok(())
}

fn read_query(text: &str, box_px: Option<BoxArg>) -> Result<Query> {
    let query: Query = text.parse()?;
    let one_photo = matches!(query.terms.as_slice(), [Term { what: What::Photo(_), .. }]);
    if box_px.is_some() && !one_photo {
        let message = format!("--box goes with a photo alone; {text:?} is none");
        return Err(WrongArguments(message).into());
    }
    Ok(query)
}

fn report(
    found: &[Found],
    whys: &[Option<String>],
    args: &SearchArgs,
    timing: Timing,
    context: &Context,
) -> Result<()> {
    let mut entries = Vec::new();
    for (hit, why) in found.iter().zip(whys) {
        let path = &hit.photo.paths[0];
        if args.null {
            print_null(path)?;
        } else if context.json {
            entries.push(entry(hit, path, why));
        } else {
            let why = why.as_ref().map(|text| format!("\t{}", one_line(text))).unwrap_or_default();
            print(format!("{:.4}\t{}\t{}{why}", hit.score, path.display(), box_text(hit.box_px)))?;
            let others = hit.photo.paths[1..].iter().chain(&hit.similar);
            others.take(4).for_each(|path| note(context.quiet, format!("        same: {}", path.display())));
        }
    }
    let Timing { open, encode, known, scan } = timing;
    match (context.json, args.timing) {
        (true, true) => print_json(&json!({
            "hits": entries,
            "timing": {
                "open_ms": json_f32(open as f32),
                "encode_ms": json_f32(encode as f32),
                "encode_known": known,
                "scan_ms": json_f32(scan as f32),
            },
        })),
        (true, false) => print_json(&Value::Array(entries)),
        (false, true) => {
            let how = if known { "known from before" } else { "by the model" };
            eprintln!("open {open:.1} ms, query {encode:.2} ms ({how}), scan {scan:.2} ms");
            Ok(())
        }
        (false, false) => Ok(()),
    }
}

/// What is in the box of a hit; nothing where its photo was moved or damaged since it was indexed: the other hits
/// are as good.
fn why_if_there(hit: &Found, context: &Context) -> Result<Option<String>> {
    match why(hit, context) {
        Err(error) if !context.strict => {
            eprintln!("not described: {}: {}", hit.photo.paths[0].display(), root_on_one_line(&error));
            Ok(None)
        }
        why => why.map(Some),
    }
}

/// What is in the box of a hit.
fn why(hit: &Found, context: &Context) -> Result<String> {
    let encoded = context.session.encode_decoded(&read_decoded(&hit.photo.paths[0])?);
    let part = hit.box_px.map_or(Part::Whole, Part::Box);
    let decoding = Decoding { max_tokens: CAPTION_TOKENS, ..Decoding::default() };
    Ok(block_on(context.session.caption(&encoded, &part, decoding))?.text)
}

fn entry(hit: &Found, path: &Path, why: &Option<String>) -> Value {
    let mut entry = json!({
        "path": path.to_string_lossy(),
        "score": json_f32(hit.score),
        "box": json_box(hit.box_px),
    });
    let others: Vec<_> =
        hit.photo.paths[1..].iter().chain(&hit.similar).map(|path| path.to_string_lossy()).collect();
    if !others.is_empty() {
        entry["same"] = json!(others);
    }
    if let Some(why) = why {
        entry["caption"] = why.as_str().into();
    }
    entry
}

/// The bytes of a path as the system has them, for `xargs -0`.
fn print_null(path: &Path) -> Result<()> {
    let mut out = std::io::stdout().lock();
    #[cfg(unix)]
    out.write_all(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()))?;
    #[cfg(not(unix))]
    out.write_all(path.to_string_lossy().as_bytes())?;
    Ok(out.write_all(&[0])?)
}
