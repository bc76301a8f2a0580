//! The command line.

mod old_names;

use std::ffi::OsString;

use clap::{Arg, CommandFactory, Parser, Subcommand};

use crate::cli;
use crate::globals::Globals;
use crate::terminal::note;
use old_names::{OldCommand, Renamed};

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
struct CommandLine {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: AnyCommand,
}

#[derive(Debug, Subcommand)]
enum AnyCommand {
    #[command(flatten)]
    New(Command),
    #[command(flatten)]
    Old(OldCommand),
}

/// The parsed command line.
#[derive(Debug)]
pub struct Args {
    pub globals: Globals,
    pub command: Command,
}

/// The commands, in the order of `mmgem --help`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Open the window: search photos as you type, look at them, drag boxes
    App(cli::app::AppArgs),
    /// Find photos by text, by photo, or by a region of a photo
    Search(cli::search::SearchArgs),
    /// Fill the photo library from folders, for fast searches
    Index(cli::index::IndexArgs),
    /// Describe photos, or regions of them
    Caption(cli::caption::CaptionArgs),
    /// Draw where a text is in a photo
    Localize(cli::localize::LocalizeArgs),
    /// Embed photos, regions and texts as unit vectors
    Embed(cli::embed::EmbedArgs),
    /// Embed the photos of WebDataset shards into Parquet files
    EmbedShards(cli::embed_shards::EmbedShardsArgs),
    /// Measure values for `search --min-score` on captioned photos
    Calibrate(cli::calibrate::CalibrateArgs),
    /// Train a model from a TOML recipe
    Train(cli::train::TrainArgs),
    /// Predict the memory and the hours of a training run
    Plan(cli::plan::PlanArgs),
    /// Evaluate a model on benchmarks and held-out photos, or score captions
    Eval(cli::eval::EvalArgs),
    /// Copy a model into another number format and verify the copy
    Export(cli::export::ExportArgs),
    /// Make a model from a published image encoder and a Llama checkpoint
    Import(cli::import::ImportArgs),
    /// Show a model's sizes and history and check that it works, or list the devices
    Info(cli::info::InfoArgs),
    /// Serve the web page to a browser on this machine
    Web(cli::web::WebArgs),
    /// Write an HTML page that shows search, captions and localization
    Demo(cli::demo::DemoArgs),
    /// Draw captioned scenes with regions as training data
    Scenes(cli::scenes::ScenesArgs),
    /// Measure the speed of a model on this machine
    Bench(cli::bench::BenchArgs),
    /// Compare the program with its reference, and count its GPU operations
    #[command(hide = true)]
    Verify(cli::verify::VerifyArgs),
}

impl Args {
    /// Parses a command line. Prints the error and exits if it is invalid. Notes the new name of a
    /// command that was given by an old one.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Self {
        let arguments = with_resumed_checkpoint(arguments.into_iter().collect());
        let arguments = with_signed_words(arguments);
        let CommandLine { globals, command } = CommandLine::parse_from(arguments);
        let (command, renamed) = match command {
            AnyCommand::New(command) => command.by_new_name(),
            AnyCommand::Old(command) => command.by_new_name(),
        };
        if let Some(Renamed { old, new }) = renamed {
            note(globals.quiet, format!("`mmgem {old}` is now `mmgem {new}`"));
        }
        Self { globals, command }
    }
}

/// Joins `--resume` with the checkpoint after it. clap would otherwise take the file of the run for
/// the value of a `--resume` before it.
fn with_resumed_checkpoint(arguments: Vec<OsString>) -> Vec<OsString> {
    let mut joined: Vec<OsString> = Vec::with_capacity(arguments.len());
    for argument in arguments {
        match joined.last_mut() {
            Some(last) if last == "--resume" && cli::train::is_checkpoint(&argument) => {
                last.push("=");
                last.push(argument);
            }
            _ => joined.push(argument),
        }
    }
    joined
}

/// Moves the negated words of a search, such as `-cat`, behind a `--`, so that clap does not read
/// them as switches. Their position in the query has no meaning.
fn with_signed_words(arguments: Vec<OsString>) -> Vec<OsString> {
    let command = CommandLine::command();
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

    fn parse(line: &str) -> Args {
        Args::parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        CommandLine::command().debug_assert();
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
        assert!(matches!(parse("mmgem search -- -cat").command, Command::Search(_)));
    }

    #[test]
    fn resume_takes_the_checkpoint_after_it_but_not_the_run() {
        for (line, wanted) in [
            ("train --resume run.toml", Some("latest")),
            ("train run.toml --resume", Some("latest")),
            ("train run.toml --resume best", Some("best")),
            ("train --resume best run.toml -q", Some("best")),
            (
                "train --resume runs/a/checkpoints/step-00000004/ run.toml",
                Some("runs/a/checkpoints/step-00000004/"),
            ),
            ("train run.toml --resume=elsewhere", Some("elsewhere")),
            ("train run.toml", None),
        ] {
            let Command::Train(train) = parse(&format!("mmgem {line}")).command else {
                panic!("{line}");
            };
            assert_eq!(train.resume.as_deref(), wanted, "{line}");
        }
    }

    #[test]
    fn every_command_has_examples() {
        let command = CommandLine::command();
        let with_arguments =
            command.get_subcommands().filter(|command| command.get_arguments().next().is_some());
        for command in with_arguments {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("mmgem "), "{}", command.get_name());
        }
    }

    #[test]
    fn an_old_name_gives_the_arguments_of_the_new_one() {
        for (old, new) in [
            ("devices --json", "info --devices --json"),
            ("parity cases --case a -q", "verify parity cases --case a -q"),
            ("trace --image a --text b --out c", "verify trace --image a --text b --out c"),
            ("bench counts --kernels", "verify counts --kernels"),
            ("score --references a --candidates b", "eval score --references a --candidates b"),
            ("embed --shards a b --out c --shards d", "embed-shards a b d --out c"),
            ("search --calibrate a b --library c", "calibrate a b --library c"),
            (
                "train a.toml --plan --ranks 2 --set b=c --sizes d",
                "plan a.toml --ranks 2 --set b=c --sizes d",
            ),
        ] {
            let [found, wanted] =
                [old, new].map(|line| format!("{:?}", parse(&format!("mmgem {line}"))));
            assert_eq!(found, wanted, "{old}");
        }
    }
}
