//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Arg, Args as ClapArgs, CommandFactory, Parser, Subcommand};

use crate::cli;
use crate::context::Context;
use crate::device::{DeviceChoice, OpenedDevice, open_device};
use crate::model::ModelFiles;
use crate::terminal::note;

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

/// Switches that every command has.
#[derive(Clone, Debug, ClapArgs)]
pub struct Globals {
    /// Where to compute: auto, cpu, wgpu[:N] or cuda[:N] (`mmgem devices` lists them)
    #[arg(
        long,
        global = true,
        value_name = "DEVICE",
        default_value_t,
        help_heading = "Everywhere"
    )]
    pub device: DeviceChoice,
    /// Folder of the model; the embedded one without
    #[arg(long, global = true, value_name = "DIR", help_heading = "Everywhere")]
    pub model: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub json: bool,
    /// Say only what was asked for
    #[arg(short, long, global = true, help_heading = "Everywhere")]
    pub quiet: bool,
    /// A file that cannot be read among many is an error
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub strict: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Open the window: search photos as you type, look into them, drag boxes
    App(cli::app::AppArgs),
    /// Measure what this machine does with a model
    Bench(cli::bench::BenchArgs),
    /// Write what is on photos, or in regions of them
    Caption(cli::caption::CaptionArgs),
    /// Take a tour: search, describe and locate, written as a page to look at
    Demo(crate::demo::DemoArgs),
    /// List the devices, their features and limits
    Devices,
    /// Turn photos, regions and texts into unit vectors
    Embed(cli::embed::EmbedArgs),
    /// Score a model on held-out photos
    Eval(cli::eval::EvalArgs),
    /// Write a verified copy of a model in another number format
    Export(cli::export::ExportArgs),
    /// Make a model from an OpenCLIP and a Llama checkpoint
    Import(cli::import::ImportArgs),
    /// Remember the photos of folders, so that searching them is quick
    Index(cli::index::IndexArgs),
    /// Show a model's sizes and history, and check that it works
    Info(cli::info::InfoArgs),
    /// Draw where in a photo a text is
    Localize(cli::localize::LocalizeArgs),
    /// Compare every device with the reference program's values
    Parity(cli::parity::ParityArgs),
    /// Draw captioned scenes with regions as training data
    Scenes(cli::scenes::ScenesArgs),
    /// Score captions: BLEU, ROUGE-L, CIDEr
    Score(cli::score::ScoreArgs),
    /// Find photos by a text, a photo, or a region of a photo
    Search(cli::search::SearchArgs),
    /// Write every stage of the graph, or compare it with the reference program's
    Trace(cli::trace::TraceArgs),
    /// Train a model by one of the recipes
    Train(cli::train::TrainArgs),
    /// Serve the page that does this in a browser, on this machine
    Web(cli::web::WebArgs),
}

/// Arguments that contradict each other in a way only the command sees; exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WrongArguments(pub String);

impl Args {
    /// Reads the command line, or ends the program with what is wrong with it.
    pub fn of_program() -> Self {
        Self::parse_from(with_signed_words(std::env::args_os().collect()))
    }
}

/// The command line with the words that a search takes away, as `-cat`, behind a `--`: else they would be switches. They
/// mean the same wherever they stand.
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
                // Another command.
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

/// Whether a word is one or more of the short switches of a search, as `-q`, `-qk5`.
fn is_switches(word: &str) -> bool {
    let rest = word[1..].trim_start_matches(['q', 'h', 'V']);
    rest.is_empty()
        || rest.strip_prefix('k').is_some_and(|n| n.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A text on the command line with something in it.
pub fn not_empty(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("the text is empty; wanted a few words, as in \"the dog\"".into()),
        _ => Ok(text.to_owned()),
    }
}

/// A cosine on the command line.
pub fn cosine(text: &str) -> Result<f32, String> {
    let wanted = || format!("{text:?} is no cosine; wanted a number from -1 to 1");
    text.parse().ok().filter(|cosine| (-1.0..=1.0).contains(cosine)).ok_or_else(wanted)
}

impl Globals {
    /// Opens the device and the model and says both aloud.
    pub fn open(&self) -> Result<Context> {
        let files = ModelFiles::read(self.model.as_deref())?;
        let opened = self.open_device()?;
        Ok(Context {
            session: files.open(&opened)?,
            fingerprint: files.fingerprint(),
            model_name: files.name,
            device_name: opened.name,
            is_cpu: opened.is_cpu,
            quiet: self.quiet,
            json: self.json,
            strict: self.strict,
        })
    }

    /// Opens the device and says which and why.
    pub fn open_device(&self) -> Result<OpenedDevice> {
        let opened = open_device(self.device)?;
        note(self.quiet, format!("device: {}: {}", opened.name, opened.reason));
        Ok(opened)
    }
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
    fn empty_texts_and_numbers_out_of_range_are_refused() {
        assert_eq!((not_empty("a dog").as_deref(), cosine("-0.25")), (Ok("a dog"), Ok(-0.25)));
        for text in ["", " \t"] {
            assert!(not_empty(text).is_err(), "{text:?}");
        }
        for text in ["5", "-1.01", "nan", "inf", "a"] {
            assert!(cosine(text).expect_err(text).contains("from -1 to 1"), "{text}");
        }
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
