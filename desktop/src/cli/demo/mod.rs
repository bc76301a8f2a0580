//! `mmgem demo`: a tour of the model's abilities, as an HTML page.
//!
//! `album` has the pictures, `tour` runs the model, and `crate::report::tour` writes the page.

mod album;
mod tour;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::builder::RangedU64ValueParser;
use mmgem_data::files::write_atomic;
use serde_json::{Value, json};

use self::album::Album;
use self::tour::Tour;
use crate::context::Context;
use crate::names::{json_path, printable_path};
use crate::outputs::{check_ending, spare_inputs};
use crate::report::tour::{Hit, Page};
use crate::terminal::{json_box, json_f32, note, print, print_json};
use crate::values::not_empty;

/// Number of queries for the demo's own pictures.
const OWN_QUERIES: usize = 6;
/// Queries for the user's photos, whose contents are not known.
const ANY_QUERIES: [&str; 5] =
    ["a dog", "people", "a car on the street", "the sea", "a red flower"];
/// Number of pictures to describe.
const DESCRIBED: usize = 8;

/// Arguments of `mmgem demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    mmgem demo\n  \
    mmgem demo ~/Pictures --query \"my red bike\" --query \"snow\" --out bike.html")]
pub struct DemoArgs {
    /// Folder of photos [default: ten photos and some scenes that the program carries]
    dir: Option<PathBuf>,
    /// Page to write
    #[arg(long, default_value = "report.html", value_name = "FILE")]
    out: PathBuf,
    /// Text to search for; give it again for more
    #[arg(long, value_name = "TEXT", value_parser = not_empty)]
    query: Vec<String>,
    /// Maximum number of pictures to show
    #[arg(long, default_value_t = 24, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1000))]
    photos: usize,
    /// Seed of the drawn scenes
    #[arg(long, default_value_t = 7, value_name = "S")]
    seed: u64,
}

/// Encodes, searches and describes the pictures, and writes the page.
///
/// # Errors
/// When there are no pictures, the model fails or the page cannot be written.
pub fn run(args: &DemoArgs, context: &Context) -> Result<()> {
    let folder = args.out.parent().filter(|folder| !folder.as_os_str().is_empty());
    ensure!(
        folder.is_none_or(|folder| folder.is_dir()),
        "there is no folder for the page\n  hint: make it, or give another --out\n  file: {}",
        printable_path(&args.out)
    );
    check_ending("--out", &args.out, &["html", "htm"], "open that in a browser")?;
    let album = match &args.dir {
        Some(dir) => Album::of_folder(dir, context)?,
        None => Album::demo(args.seed, args.photos, context)?,
    };
    spare_inputs("--out", &args.out, album.files())?;
    let rate = two_digits(album.images_per_sec());
    note(context.quiet, format!("encoded {} pictures, {rate} a second", album.sources.len()));
    let page = take_tour(args, &album, context)?;
    write_atomic(&args.out, page.html().as_bytes())?;
    if context.json {
        print_json(&to_json(args, &album, &page))
    } else {
        print_summary(args, &page, context.quiet)
    }
}

fn take_tour(args: &DemoArgs, album: &Album, context: &Context) -> Result<Page> {
    let mut tour = Tour::new(context, album);
    let gallery = spaced(album.sources.len(), args.photos);
    let gallery =
        gallery.into_iter().map(|source| tour.show(source)).collect::<Result<Vec<_>>>()?;

    let texts = queries(args, album);
    note(context.quiet, format!("searching for {} texts", texts.len()));
    let queries = texts
        .iter()
        .map(|text| tour.search(text).with_context(|| format!("cannot search for {text:?}")))
        .collect::<Result<Vec<_>>>()?;

    // The photos come before the drawings.
    let described = match args.dir {
        Some(_) => spaced(album.sources.len(), DESCRIBED.min(args.photos)),
        None => (0..DESCRIBED.min(album.sources.len())).collect(),
    };
    note(context.quiet, format!("describing {} pictures", described.len()));
    let captioned =
        described.into_iter().map(|source| tour.describe(source)).collect::<Result<Vec<_>>>()?;

    let n_found = tour.captions_that_find_their_picture()?;
    let is_own = n_found.is_some();
    Ok(Page {
        album: album_name(album.sources.len(), is_own),
        facts: facts(context, album, &tour),
        measured: n_found.map(|n_found| measured(n_found, album.sources.len())).unwrap_or_default(),
        pictures: tour.pictures,
        gallery,
        queries,
        captioned,
        passed_over: album.passed_over.iter().map(|path| printable_path(path)).collect(),
        command: command_line(std::env::args()),
    })
}

/// The user's queries. Without any, texts of the demo's pictures, whose right answers are known;
/// for the user's photos, common subjects.
fn queries(args: &DemoArgs, album: &Album) -> Vec<String> {
    if !args.query.is_empty() {
        return args.query.clone();
    }
    let own: Option<Vec<&str>> = album.sources.iter().map(|source| source.own_text()).collect();
    match own {
        None => ANY_QUERIES.map(str::to_owned).to_vec(),
        Some(texts) => texts.into_iter().take(OWN_QUERIES).map(str::to_owned).collect(),
    }
}

/// Up to `n` of `0..len`, evenly spaced.
fn spaced(len: usize, n: usize) -> Vec<usize> {
    let n = n.min(len);
    (0..n).map(|i| i * len / n).collect()
}

fn album_name(n: usize, is_own: bool) -> String {
    match (is_own, n) {
        (true, 1) => "1 picture of the demo".into(),
        (true, _) => format!("{n} pictures of the demo"),
        (false, 1) => "1 photo".into(),
        (false, _) => format!("{n} photos"),
    }
}

fn facts(context: &Context, album: &Album, tour: &Tour) -> Vec<(String, String)> {
    let config = context.session.config();
    let fact = |label: &str, value: String| (label.to_owned(), value);
    vec![
        fact("Model", context.model_name.clone()),
        fact("Image encoder", config.vision.to_string()),
        fact(
            "Language model",
            format!("{} × {}", config.llm.num_hidden_layers, config.llm.hidden_size),
        ),
        fact("Device", context.device_name.clone()),
        fact("Pictures encoded", format!("{} per second", two_digits(album.images_per_sec()))),
        fact("One search", format!("{} ms", two_digits(median_ms(&tour.search_times)))),
        fact("One caption", format!("{} ms", two_digits(median_ms(&tour.caption_times)))),
    ]
}

fn measured(n_found: usize, n: usize) -> Vec<String> {
    vec![format!(
        "Measured on these pictures, which training has not seen: {n_found} of {n} texts find their own picture \
             first; by chance it would be 1 of {n}."
    )]
}

fn median_ms(times: &[Duration]) -> f64 {
    let mut times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(0.0)
}

/// The number with as many digits as such a measurement supports.
fn two_digits(value: f64) -> String {
    if value < 10.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// The command, quoted so that the user can run it again.
fn command_line(args: impl Iterator<Item = String>) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=,+@%".contains(c);
    let quoted = |arg: String| match arg.chars().all(plain) && !arg.is_empty() {
        true => arg,
        false => format!("'{}'", arg.replace('\'', "'\\''")),
    };
    let args = args.skip(1).map(quoted);
    std::iter::once("mmgem".to_owned()).chain(args).collect::<Vec<_>>().join(" ")
}

fn print_summary(args: &DemoArgs, page: &Page, quiet: bool) -> Result<()> {
    if !quiet {
        for query in &page.queries {
            let best = &query.hits[0];
            let right = if best.is_right == Some(true) { " (right)" } else { "" };
            let name = &page.pictures[best.picture].name;
            print(format!("searched {:?} -> {name}, {:.3}{right}", query.text, best.score))?;
        }
        for card in page.captioned.iter().take(3) {
            print(format!("{}: {:?}", page.pictures[card.picture].name, card.whole.text))?;
            for (box_px, said) in &card.regions {
                print(format!("  {}: {:?}", crate::terminal::box_text(Some(*box_px)), said.text))?;
            }
        }
        page.measured.iter().try_for_each(print)?;
    }
    print(format!("report: {}", printable_path(&args.out)))
}

fn to_json(args: &DemoArgs, album: &Album, page: &Page) -> Value {
    let path = |picture: usize| &page.pictures[picture].path;
    let queries = page.queries.iter().map(|query| {
        let hit = |hit: &Hit| {
            json!({"path": path(hit.picture), "score": json_f32(hit.score), "box": json_box(Some(hit.box_px))})
        };
        json!({"query": query.text, "hits": query.hits.iter().map(hit).collect::<Vec<_>>()})
    });
    let captions = page.captioned.iter().flat_map(|card| {
        let parts = card.regions.iter().map(|(box_px, said)| (Some(*box_px), said));
        std::iter::once((None, &card.whole)).chain(parts).map(|(box_px, said)| {
            json!({
                "path": path(card.picture), "box": json_box(box_px),
                "caption": said.text, "log_prob": json_f32(said.log_prob),
            })
        })
    });
    json!({
        "report": json_path(&args.out),
        "images": album.sources.len(),
        "queries": queries.collect::<Vec<_>>(),
        "captions": captions.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_of_many_are_spread_over_all() {
        assert_eq!(spaced(10, 4), [0, 2, 5, 7]);
        assert_eq!(spaced(3, 8), [0, 1, 2]);
        assert!(spaced(0, 8).is_empty());
    }

    #[test]
    fn the_command_can_be_given_again() {
        let args =
            ["/bin/mmgem", "demo", "my photos", "--query", "it's", "-q", ""].map(str::to_owned);
        assert_eq!(
            command_line(args.into_iter()),
            r"mmgem demo 'my photos' --query 'it'\''s' -q ''"
        );
    }

    #[test]
    fn the_median_is_not_moved_by_a_slow_start() {
        assert_eq!(median_ms(&[900, 1, 20].map(Duration::from_millis)), 20.0);
        assert_eq!(median_ms(&[]), 0.0);
    }

    #[test]
    fn measurements_have_no_more_digits_than_they_bear() {
        assert_eq!([0.24, 9.94, 4626.1].map(two_digits), ["0.2", "9.9", "4626"]);
    }
}
