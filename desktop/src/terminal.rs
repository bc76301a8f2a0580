//! Output of the program: results go to stdout, everything else to stderr.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mmgem_core::image::BoxPx;
use serde_json::{Number, Value, json};

use crate::names::{printable, printable_path, put_path};

static HAS_PRINTED: AtomicBool = AtomicBool::new(false);

/// Prints one line of a result.
pub fn print(line: impl Display) -> Result<()> {
    HAS_PRINTED.store(true, Ordering::Relaxed);
    Ok(writeln!(io::stdout(), "{line}")?)
}

/// Whether part of a result has been printed.
pub fn has_printed() -> bool {
    HAS_PRINTED.load(Ordering::Relaxed)
}

/// Prints the JSON document of a command.
pub fn print_json(document: &Value) -> Result<()> {
    print(serde_json::to_string_pretty(document)?)
}

/// A number with the shortest digits of the f32, not those of the nearest f64.
pub fn json_f32(value: f32) -> Value {
    let shortest: f64 = value.to_string().parse().unwrap_or(f64::NAN);
    Number::from_f64(shortest).map_or(Value::Null, Value::Number)
}

/// A vector as JSON.
pub fn json_floats(values: &[f32]) -> Value {
    values.iter().copied().map(json_f32).collect()
}

/// A skipped file and the reason, as JSON.
pub fn json_problem((path, why): &(PathBuf, String)) -> Value {
    let mut entry = json!({});
    put_path(&mut entry, path);
    entry["problem"] = why.as_str().into();
    entry
}

/// A box as JSON; `null` is the whole photo.
pub fn json_box(box_px: Option<BoxPx>) -> Value {
    box_px.map_or(Value::Null, |box_px| json_floats(&box_px))
}

/// A box in command-line syntax; the whole photo is `whole`.
pub fn box_text(box_px: Option<BoxPx>) -> String {
    let number = |x: &f32| format!("{}", (x * 10.0).round() / 10.0);
    box_px.map_or_else(
        || "whole".into(),
        |box_px| box_px.iter().map(number).collect::<Vec<_>>().join(","),
    )
}

/// Replaces control characters by spaces, so that the text is one line and cannot move the cursor.
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Prints a line on stderr, unless `quiet`.
pub fn note(quiet: bool, line: impl Display) {
    if !quiet {
        print_error(&format!("{line}\n"));
    }
}

/// Prints text on stderr as it is, except for characters that could control the terminal.
#[expect(clippy::print_stderr, reason = "the one place that writes to stderr")]
pub fn print_error(text: &str) {
    eprint!("{}", printable(text));
}

/// A progress bar on stderr with rate and remaining time. Hidden if `quiet`, or if stderr is not a
/// terminal.
pub fn progress_bar(len: usize, unit: &str, quiet: bool) -> ProgressBar {
    let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(len as u64), target);
    let template = format!("{{bar:30}} {{pos}}/{{len}} {unit}  {{per_sec}}  {{eta}} left");
    bar.set_style(ProgressStyle::with_template(&template).expect("the template is right"));
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

/// The skipped files of a batch: each is reported at once, and all are counted at the end.
#[derive(Debug)]
pub struct SkippedFiles {
    strict: bool,
    n_given: usize,
    /// Paths and reasons.
    failed: Vec<(PathBuf, String)>,
}

impl SkippedFiles {
    /// For `n_given` files. The first problem is an error if there is one file or with `--strict`.
    pub fn new(n_given: usize, strict: bool) -> Self {
        Self { strict: strict || n_given == 1, n_given, failed: Vec::new() }
    }

    /// Returns the value. On an error, reports the file on stderr and returns `None`.
    pub fn take<T>(
        &mut self,
        path: &Path,
        result: Result<T>,
        bar: Option<&ProgressBar>,
    ) -> Result<Option<T>> {
        let error = match result {
            Ok(value) => return Ok(Some(value)),
            Err(error) if self.strict => return Err(error),
            Err(error) => error,
        };
        let why = root_on_one_line(&error);
        let line = printable(&format!("skipped {}: {why}", printable_path(path)));
        match bar {
            Some(bar) if !bar.is_hidden() => bar.println(line),
            _ => print_error(&format!("{line}\n")),
        }
        self.failed.push((path.to_owned(), why));
        Ok(None)
    }

    /// The files skipped so far, with the reasons.
    pub fn failed(&self) -> &[(PathBuf, String)] {
        &self.failed
    }

    /// Reports the number of skipped files.
    ///
    /// # Errors
    /// If every file was skipped.
    pub fn finish(self, quiet: bool) -> Result<()> {
        let n_failed = self.failed.len();
        if n_failed > 0 && n_failed == self.n_given {
            anyhow::bail!(
                "none of the {} files could be used; their problems are listed above",
                self.n_given
            );
        }
        if n_failed > 0 {
            note(quiet, format!("{n_failed} of {} files were skipped", self.n_given));
        }
        Ok(())
    }
}

/// The root cause on one line, without its `file:` line: the caller names the file.
pub fn root_on_one_line(error: &anyhow::Error) -> String {
    crate::library::root_on_one_line(error.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_of_an_f32() {
        assert_eq!(json_floats(&[0.1, -2.0]).to_string(), "[0.1,-2.0]");
        assert_eq!(json_f32(f32::NAN), Value::Null);
    }

    #[test]
    fn boxes_are_written_as_they_are_given() {
        assert_eq!(box_text(Some([1.0, 2.5, 30.04, 40.0])), "1,2.5,30,40");
        assert_eq!(box_text(None), "whole");
    }

    #[test]
    fn a_text_cannot_break_a_line() {
        assert_eq!(one_line("a\tb\n\u{1b}[2J é"), "a b  [2J é");
    }

    #[test]
    fn a_bad_file_among_many_is_skipped_and_a_single_one_is_an_error() {
        let bad = || Err::<(), _>(anyhow::anyhow!("damaged"));
        let mut many = SkippedFiles::new(2, false);
        assert!(many.take(Path::new("a"), bad(), None).expect("skipped").is_none());
        assert!(many.take(Path::new("b"), Ok(()), None).expect("fine").is_some());
        many.finish(true).expect("one is left");

        assert!(SkippedFiles::new(1, false).take(Path::new("a"), bad(), None).is_err());
        assert!(SkippedFiles::new(2, true).take(Path::new("a"), bad(), None).is_err());

        let mut none_left = SkippedFiles::new(2, false);
        for name in ["a", "b"] {
            none_left.take(Path::new(name), bad(), None).expect("skipped");
        }
        assert!(none_left.finish(true).is_err());
    }
}
