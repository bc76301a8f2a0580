//! `mmgem search`: finds photos by texts, photos, regions of photos, and filters.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};
use mmgem_core::generate::Decoding;
use mmgem_core::index;
use mmgem_core::session::Part;
use mmgem_data::files::write_atomic;
use pollster::block_on;
use serde_json::{Value, json};

use crate::cli::indexing;
use crate::context::{CAPTION_TOKENS, Context};
use crate::globals::{Globals, WrongArguments};
use crate::library::{
    Indexing, Library, Photo, PhotoFilter, SearchHit, SearchOptions, VectorStore, default_library,
    second_in_words, simplified_path,
};
use crate::model::model_files;
use crate::names::{json_path, listed, path_parser, printable_path, put_path};
use crate::outputs::{Target, check_ending, spare_inputs};
use crate::photos::{FoundPhotos, find_photos, read_decoded, warn_of_part};
use crate::query::{Query, Term, TermKind};
use crate::report::hits;
use crate::terminal::{
    box_text, json_box, json_f32, note, one_line, print, print_json, progress_bar, root_on_one_line,
};
use crate::values::{BoxArg, cosine};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mmgem search a red boat --photos ~/Pictures\n  \
    mmgem search beach -people after:2024-06 near:43.3,5.4,50 --why\n  \
    mmgem search '2:sunset + boat.jpg path:\"my holidays\" camera:canon type:jpeg' -k 20 --page 2\n  \
    mmgem search after:2024-05 before:2024-06 -path:drafts    (photos of a month, latest first)\n  \
    mmgem search boat.jpg --box 40,60,200,220                 (photos with a similar region)\n  \
    mmgem search dog -k 50 --html dogs.html\n  \
    mmgem search dog --min-score 0.45 -k 1000 --null | xargs -0 cp -t found/\n\n\
    A query adds and subtracts texts and photos. A `+` or `-` between spaces applies to all words \
    up to the next one; `-cat` subtracts one word. `N:` before a text is its weight. Text in \
    double quotes is literal. A path may be a `file:` URI: --json writes names that are not UTF-8 \
    as one.\n\n\
    Filters are after: and before: (a year, month or day), near:LAT,LON[,KM], path:, camera: and \
    type:. Quote values with spaces: path:\"my photos\". A `-` in front negates a filter. Filters \
    alone list photos, the latest first.\n\n\
    A hit has a score, a path and the best box in the photo. Every matching file is listed, also \
    copies; --group lists each picture once.\n\n\
    The date of a photo is the first of: EXIF, XMP, an XMP file beside it, IPTC, PNG's creation \
    time, the GPS clock, Google Takeout's JSON, the file's name, the file's date. --json writes \
    the source.")]
pub struct SearchArgs {
    /// Texts, paths of photos, and filters
    #[arg(value_name = "QUERY", required_unless_present = "calibrate")]
    query: Vec<OsString>,
    /// Region of the query photo to search for, in pixels of the upright photo
    ///
    /// It is compared with the regions of the other photos.
    #[arg(long = "box", value_name = "X0,Y0,X1,Y1", allow_hyphen_values = true)]
    box_px: Option<BoxArg>,
    /// Score a photo by its best region, to find small things in large photos
    #[arg(long)]
    regions: bool,
    /// Folders with photos to search [default: the whole library]
    #[arg(long, value_name = "DIR", num_args = 1.., value_parser = path_parser())]
    photos: Vec<PathBuf>,
    /// Library file [default: the one in the platform's data folder]
    ///
    /// With --photos and without --library, embeddings are not stored.
    #[arg(long, value_name = "FILE")]
    pub library: Option<PathBuf>,
    /// Number of hits
    #[arg(short, value_name = "N", default_value_t = 10, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    k: usize,
    /// Page of hits to list, of -k hits each
    #[arg(long, value_name = "P", default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    page: usize,
    /// Omit hits with a smaller cosine
    ///
    /// Good values differ between models; `mmgem calibrate` measures them.
    #[arg(long, value_name = "COSINE", default_value_t = -1.0, allow_hyphen_values = true, hide_default_value = true, value_parser = cosine)]
    min_score: f32,
    /// List a picture once, even if it is stored in several formats, sizes or qualities
    #[arg(long)]
    group: bool,
    /// Old name of `mmgem calibrate`
    #[arg(long, value_name = "SHARDS", num_args = 1.., conflicts_with = "query", hide = true)]
    pub calibrate: Vec<String>,
    /// Order of the hits within a page
    #[arg(long, value_name = "ORDER", default_value = "relevance")]
    sort: Sort,
    /// Describe the best box of each hit
    #[arg(long)]
    why: bool,
    /// Print only the paths, each followed by a zero byte
    #[arg(long, conflicts_with_all = ["why", "json"])]
    null: bool,
    /// HTML file to write, with the pictures and boxes of the hits
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Open the first hit in the system's default program
    #[arg(long)]
    open: bool,
    /// Print how long each part took
    ///
    /// With --json the document is {"hits", "warnings", "timing"} instead of the list of hits.
    #[arg(long)]
    timing: bool,
}

/// How long the parts of a search took, in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Timing {
    /// Reading the model and the vectors.
    open: f64,
    /// Encoding the query.
    encode: f64,
    /// Whether every text of the query was cached from an earlier search.
    known: bool,
    /// Comparing the vectors with the query, and reading the hits' metadata.
    scan: f64,
}

/// Order of the hits of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// Best first
    Relevance,
    /// Latest first
    Date,
}

pub fn run(args: &SearchArgs, globals: &Globals) -> Result<()> {
    let query = read_query(args)?;
    let among =
        if args.photos.is_empty() { None } else { Some(find_photos(&args.photos, globals.quiet)?) };
    let file = match (&args.library, &among) {
        (Some(file), _) => Some(file.clone()),
        (None, None) => Some(default_library()?),
        (None, Some(_)) => None,
    };
    check_page(args, &query, among.as_ref(), file.as_deref(), globals)?;
    let start = Instant::now();
    let context = globals.open()?;
    let mut library = open_library(file.as_deref(), among.as_ref(), &context)?;
    spare_photos(args, &library)?;
    if args.group && among.is_none() {
        relate(&mut library, &context)?;
    }
    let asks = !query.filters.is_empty() || among.is_some();
    let store = read_store(&library)?;
    if let Some(why) = store.is_slow_because() {
        note(context.quiet, format!("the search is slower than it could be: {why}"));
    }
    let open = millis(start);
    let start = Instant::now();
    let mut warnings = query.warnings(context.session.tokenizer())?;
    warnings.iter().for_each(|warning| note(context.quiet, format!("warning: {warning}")));
    let known = query.is_cached(&library)?;
    let box_px = args.box_px.map(|BoxArg(box_px)| box_px);
    let embed = match query.terms.is_empty() {
        true => None,
        false => Some(query.embed(box_px, &context.session, &mut library, &mut warn_of_part)?),
    };
    let encode = millis(start);
    let options = SearchOptions {
        skip: (args.page - 1).saturating_mul(args.k),
        k: args.k,
        min_score: args.min_score,
        by_region: args.regions || args.box_px.is_some(),
        group: args.group,
    };
    let is_among = |path: &Path| among.as_ref().is_none_or(|among| among.covers(path));
    let keep = |photo: &Photo, path: &Path| is_among(path) && query.keeps(photo, path);
    let start = Instant::now();
    // Without an embedding, the filters alone select the hits.
    let mut found = match embed {
        Some(embed) => {
            let query = index::Query::new(&embed);
            library.search(&store, &query, &options, asks.then_some(&keep as &PhotoFilter))?
        }
        None => library.filtered(&store, &options, &keep)?,
    };
    let timing = Timing { open, encode, known, scan: millis(start) };
    if args.sort == Sort::Date {
        found.sort_by_key(|hit| std::cmp::Reverse(hit.photo.taken.secs));
    }
    if found.is_empty() {
        note(context.quiet, "found no photos");
    }
    let cutoffs = library.cutoffs_or(&context.session.config().search_cutoffs)?;
    let best = found.iter().filter_map(|hit| hit.score).reduce(f32::max);
    // The scores of regions, and of later pages, are not those that the cut-offs were measured on.
    if let Some(says) =
        query.nothing_found(best, &cutoffs).filter(|_| !options.by_region && args.page == 1)
    {
        note(context.quiet, &says);
        warnings.push(says);
    }
    let whys =
        found.iter().map(|hit| if args.why { why_if_there(hit, &context) } else { Ok(None) });
    let whys = whys.collect::<Result<Vec<_>>>()?;
    report(&found, &whys, &warnings, args, timing, &context)?;
    if let Some(out) = &args.html {
        write_atomic(out, hits::page(&title(args), &found, &whys, &library)?.as_bytes())?;
        note(context.quiet, format!("wrote {}", printable_path(out)));
    }
    match found.first().filter(|_| args.open) {
        Some(hit) => open::that_detached(simplified_path(&hit.path)).with_context(|| {
            format!("cannot open the photo\n  file: {}", printable_path(&hit.path))
        }),
        None => Ok(()),
    }
}

/// Rejects an HTML file that would overwrite an input that is known before the library is opened.
fn check_page(
    args: &SearchArgs,
    query: &Query,
    among: Option<&FoundPhotos>,
    library: Option<&Path>,
    globals: &Globals,
) -> Result<()> {
    let Some(out) = &args.html else { return Ok(()) };
    check_ending("--html", out, &["html", "htm"], "open that in a browser")?;
    let of_query = query.terms.iter().filter_map(|term| match &term.what {
        TermKind::Photo(path) => Some(path.as_path()),
        TermKind::Text(_) => None,
    });
    let photos = among.into_iter().flat_map(|among| &among.photos).map(PathBuf::as_path);
    let model = model_files(globals.model.as_deref());
    let inputs = of_query.chain(photos).chain(library).chain(model.iter().map(PathBuf::as_path));
    Ok(spare_inputs("--html", out, inputs)?)
}

/// Rejects an HTML file that would overwrite a photo of the library.
fn spare_photos(args: &SearchArgs, library: &Library) -> Result<()> {
    match &args.html {
        Some(out) if Target::of(out).is_some() => {
            let photos = library.paths()?;
            Ok(spare_inputs("--html", out, photos.iter().map(PathBuf::as_path))?)
        }
        _ => Ok(()),
    }
}

/// Opens the library to search, and adds the photos of the folders of `--photos`.
fn open_library(
    file: Option<&Path>,
    among: Option<&FoundPhotos>,
    context: &Context,
) -> Result<Library> {
    let dim = context.session.config().embed_dim;
    let Some(among) = among else {
        let file = file.expect("without --photos there is a library file");
        let library = Library::open_to_search(file, context.fingerprint, dim)?;
        let earlier = library.photos_of_earlier_programs()?;
        if earlier > 0 && library.counts()?.photos > 0 {
            let why = "an earlier version of mmgem indexed them; `mmgem index` encodes them again";
            note(context.quiet, format!("{earlier} photos are not searched: {why}"));
        }
        return Ok(library);
    };
    let mut library = match file {
        None => Library::in_memory(context.fingerprint, dim)?,
        Some(file) if !file.exists() => Library::open(file, context.fingerprint, dim)?,
        Some(file) => Library::open_to_search(file, context.fingerprint, dim)?,
    };
    if library.is_read_only() {
        note(context.quiet, "the library is read-only: new photos in the folders are not searched");
        return Ok(library);
    }
    indexing::update(&mut library, among, Indexing::of(&context.session), context)?;
    Ok(library)
}

/// Compares the photos that were indexed without comparison, as by an earlier version.
fn relate(library: &mut Library, context: &Context) -> Result<()> {
    if library.is_read_only() {
        let n = library.n_not_compared()?;
        if n > 0 {
            let says = format!(
                "{n} photos are not compared yet and are listed separately; `mmgem index` compares them"
            );
            note(context.quiet, says);
        }
        return Ok(());
    }
    let bar = progress_bar(library.n_not_compared()?, "photos compared", context.quiet);
    library.find_duplicates(&mut |n| {
        bar.inc(n as u64);
        std::ops::ControlFlow::Continue(())
    })?;
    bar.finish_and_clear();
    Ok(())
}

fn read_store(library: &Library) -> Result<VectorStore> {
    let store = library.vector_store()?;
    if store.is_empty() {
        let earlier = library.photos_of_earlier_programs()?;
        anyhow::ensure!(
            earlier == 0,
            "an earlier version of mmgem indexed the {earlier} photos of the library\n  hint: \
             `mmgem index` encodes them again, once"
        );
        let others = match library.photos_of_other_models()? {
            0 => String::new(),
            n => format!(" (it has {n} photos of other models)"),
        };
        anyhow::bail!(
            "the photo library is empty for this model{others}\n  hint: fill it with `mmgem index DIR`"
        );
    }
    Ok(store)
}

fn millis(since: Instant) -> f64 {
    1e3 * since.elapsed().as_secs_f64()
}

/// The query as typed, for a title.
fn title(args: &SearchArgs) -> String {
    args.query.iter().map(|word| printable_path(Path::new(word))).collect::<Vec<_>>().join(" ")
}

fn read_query(args: &SearchArgs) -> Result<Query> {
    let query = Query::of_arguments(&args.query)?;
    let one_photo = matches!(query.terms.as_slice(), [Term { what: TermKind::Photo(_), .. }]);
    if args.box_px.is_some() && !one_photo {
        let message = format!("--box needs a query of one photo, found {:?}", title(args));
        return Err(WrongArguments(message).into());
    }
    Ok(query)
}

fn report(
    found: &[SearchHit],
    whys: &[Option<String>],
    warnings: &[String],
    args: &SearchArgs,
    timing: Timing,
    context: &Context,
) -> Result<()> {
    let mut entries = Vec::new();
    for (hit, why) in found.iter().zip(whys) {
        if args.null {
            print_null(&hit.path)?;
        } else if context.json {
            entries.push(entry(hit, why, warnings));
        } else {
            let why = why.as_ref().map(|text| format!("\t{}", one_line(text))).unwrap_or_default();
            let score = hit.score.map_or("-".into(), |score| format!("{score:.4}"));
            print(format!("{score}\t{}\t{}{why}", listed(&hit.path), box_text(hit.box_px)))?;
            if args.group {
                hit.duplicates.iter().for_each(|path| {
                    note(context.quiet, format!("        same: {}", printable_path(path)))
                });
            }
        }
    }
    let Timing { open, encode, known, scan } = timing;
    match (context.json, args.timing) {
        (true, true) => print_json(&json!({
            "hits": entries,
            "warnings": warnings,
            "timing": {
                "open_ms": json_f32(open as f32),
                "encode_ms": json_f32(encode as f32),
                "encode_known": known,
                "scan_ms": json_f32(scan as f32),
            },
        })),
        (true, false) => print_json(&Value::Array(entries)),
        (false, true) => {
            let how = if known { "cached" } else { "encoded" };
            let times =
                format!("open {open:.1} ms, query {encode:.2} ms ({how}), scan {scan:.2} ms");
            note(false, times);
            Ok(())
        }
        (false, false) => Ok(()),
    }
}

/// A caption of the box of a hit. `None` if the photo was moved or damaged since it was indexed,
/// unless `--strict`.
fn why_if_there(hit: &SearchHit, context: &Context) -> Result<Option<String>> {
    match why(hit, context) {
        Err(error) if !context.strict => {
            note(
                false,
                format!(
                    "not described: {}: {}",
                    printable_path(&hit.path),
                    root_on_one_line(&error)
                ),
            );
            Ok(None)
        }
        why => why.map(Some),
    }
}

/// A caption of the box of a hit.
fn why(hit: &SearchHit, context: &Context) -> Result<String> {
    let encoded = context.session.encode_decoded(&read_decoded(&hit.path)?);
    let part = hit.box_px.map_or(Part::Whole, Part::Box);
    let decoding = Decoding { max_tokens: CAPTION_TOKENS, ..Decoding::default() };
    Ok(block_on(context.session.caption(&encoded, &part, decoding))?.text)
}

fn entry(hit: &SearchHit, why: &Option<String>, warnings: &[String]) -> Value {
    let Photo { format, size_bytes, size_px, taken, camera, place, problem, .. } = &hit.photo;
    let mut entry = json!({
        "path": null,
        "score": hit.score.map(json_f32),
        "box": json_box(hit.box_px),
        "date": second_in_words(taken.secs),
        "date_from": taken.from.as_str(),
        "size": size_px,
        "size_bytes": size_bytes,
        "format": format,
        "camera": camera,
        "place": place,
    });
    put_path(&mut entry, &hit.path);
    if let Some(problem) = problem {
        entry["problem"] = problem.as_str().into();
    }
    if !hit.duplicates.is_empty() {
        entry["same"] = hit.duplicates.iter().map(|path| json_path(path)).collect();
    }
    if let Some(why) = why {
        entry["caption"] = why.as_str().into();
    }
    if !warnings.is_empty() {
        entry["warnings"] = json!(warnings);
    }
    entry
}

/// Prints the raw bytes of a path and a zero byte, for `xargs -0`.
fn print_null(path: &Path) -> Result<()> {
    let mut out = std::io::stdout().lock();
    #[cfg(unix)]
    out.write_all(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()))?;
    #[cfg(not(unix))]
    out.write_all(simplified_path(path).to_string_lossy().as_bytes())?;
    Ok(out.write_all(&[0])?)
}
