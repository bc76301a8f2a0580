//! The command line.

use std::ffi::OsString;

use clap::{Arg, CommandFactory, Parser, Subcommand};

use crate::cli;
use crate::globals::Globals;
// For `query.rs`, until it moves into the library's crate.

/// Search and describe images, whole or by region, with one model (MM-GEM, arXiv:2405.19333)
#[derive(Debug, Parser)]
#[command(
    name = "mmgem",
    version,
    after_help = "Examples:\n  \
        mmgem caption photo.jpg --box 40,60,200,220\n  \
        mmgem search \"a red boat\" --photos ~/Pictures -k 5\n  \
        mmgem localize photo.jpg --text \"the dog\" --out dog.png\n\n\
        Results go to stdout, everything else to stderr.\n\
        Exit codes: 0 done, 1 failed, 2 wrong arguments."
)]
pub struct Args {
    #[command(flatten)]
    pub globals: Globals,
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommand.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Open the window: search photos as you type, look at them, drag boxes
    App(cli::app::AppArgs),
    /// Measure the speed of a model on this machine
    Bench(cli::bench::BenchArgs),
    /// Describe photos, or regions of them
    Caption(cli::caption::CaptionArgs),
    /// Write an HTML page that shows search, captions and localization
    Demo(cli::demo::DemoArgs),
    /// List the devices with their features and limits
    Devices,
    /// Embed photos, regions and texts as unit vectors
    Embed(cli::embed::EmbedArgs),
    /// Evaluate a model on benchmarks and held-out photos
    Eval(cli::eval::EvalArgs),
    /// Copy a model into another number format and verify the copy
    Export(cli::export::ExportArgs),
    /// Make a model from a published image encoder and a Llama checkpoint
    Import(cli::import::ImportArgs),
    /// Fill the photo library from folders, for fast searches
    Index(cli::index::IndexArgs),
    /// Show a model's sizes and training history, and check that it works
    Info(cli::info::InfoArgs),
    /// Draw where a text is in a photo
    Localize(cli::localize::LocalizeArgs),
    /// Compare every device with the reference program's values
    Parity(cli::verify::parity::ParityArgs),
    /// Draw captioned scenes with regions as training data
    Scenes(cli::scenes::ScenesArgs),
    /// Score captions: BLEU, ROUGE-L, CIDEr
    Score(cli::eval::score::ScoreArgs),
    /// Find photos by text, by photo, or by a region of a photo
    Search(cli::search::SearchArgs),
    /// Write every stage of the graph, or compare the stages with the reference program's
    Trace(cli::verify::trace::TraceArgs),
    /// Train a model from a TOML recipe
    Train(cli::train::TrainArgs),
    /// Serve the web page to a browser on this machine
    Web(cli::web::WebArgs),
}

impl Args {
    /// Reads the command line. Prints the error and exits if it is invalid.
    pub fn of_program() -> Self {
        Self::parse_from(with_signed_words(std::env::args_os().collect()))
    }
}

/// Moves the negated words of a search, such as `-cat`, behind a `--`, so that clap does not read
/// them as switches. Their position in the query has no meaning.
fn with_signed_words(arguments: Vec<OsString>) -> Vec<OsString> {
    let command = Args::command();
    let search = command.find_subcommand("search").expect("there is such a command");
    let takes_one_value = |name: &str| {
        let arg = search
            .get_arguments()
            .chain(command.get_arguments())
            .find(|arg| arg.get_long() == Some(name));
        let most = |arg: &Arg| arg.get_num_args().map_or(1, |n| n.max_values());
        arg.is_some_and(|arg| arg.get_action().takes_values() && most(arg) == 1)
    };
    let (mut kept, mut signed) = (Vec::new(), Vec::new());
    let mut is_search = false;
    let mut arguments = arguments.into_iter();
    kept.extend(arguments.next());
    while let Some(argument) = arguments.next() {
        let text = argument.to_str().unwrap_or_default().to_owned();
        let is_option = text.starts_with('-') && text.len() > 1;
        if !is_search {
            is_search = text == "search";
            if !is_search && !is_option {
                // A command other than `search`.
                kept.push(argument);
                break;
            }
        } else if is_option && !text.starts_with("--") && !is_switches(&text) {
            signed.push(argument);
            continue;
        }
        if text == "--" {
            signed.extend(arguments.by_ref());
            break;
        }
        kept.push(argument);
        let has_value = text == "-k" || text.strip_prefix("--").is_some_and(takes_one_value);
        if has_value {
            kept.extend(arguments.next());
        }
    }
    kept.extend(arguments);
    if !signed.is_empty() {
        kept.push("--".into());
        kept.extend(signed);
    }
    kept
}

/// Whether a word consists of short switches of a search, such as `-q` or `-qk5`.
fn is_switches(word: &str) -> bool {
    let rest = word[1..].trim_start_matches(['q', 'h', 'V']);
    rest.is_empty()
        || rest.strip_prefix('k').is_some_and(|n| n.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn words_that_a_search_takes_away_are_no_switches() {
        let check = |line: &str, wanted: &str| {
            let arguments = line.split(' ').map(OsString::from).collect();
            let found: Vec<String> = with_signed_words(arguments)
                .into_iter()
                .map(|a| a.into_string().expect("text"))
                .collect();
            assert_eq!(found.join(" "), wanted);
        };
        check("mmgem search red -cat boat -k 5", "mmgem search red boat -k 5 -- -cat");
        check("mmgem --device cpu search -cat", "mmgem --device cpu search -- -cat");
        check("mmgem search - cat --min-score -0.5 -q", "mmgem search - cat --min-score -0.5 -q");
        check(
            "mmgem search a --box -5,0,9,9 -qk5 -queen",
            "mmgem search a --box -5,0,9,9 -qk5 -- -queen",
        );
        check("mmgem search --photos a b -5 -- -x", "mmgem search --photos a b -- -5 -x");
        check("mmgem search dog --sort=date -h", "mmgem search dog --sort=date -h");
        check("mmgem caption -x.jpg search -y", "mmgem caption -x.jpg search -y");
        check("mmgem", "mmgem");
        let Command::Search(_) = Args::parse_from(["mmgem", "search", "--", "-cat"]).command else {
            panic!("it is a search");
        };
    }

    #[test]
    fn every_command_has_examples() {
        for command in
            Args::command().get_subcommands().filter(|command| command.get_name() != "devices")
        {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("mmgem "), "{}", command.get_name());
        }
    }
}
