//! Exclusion patterns for a library, in the syntax of `.gitignore`.
//!
//! The crates `ignore` and `globset` match bytes: their `?` and `[é]` do not match the letter `é`.
//! They also read `{a,b}` as two names, which git does not.

use std::path::Path;

use glob::{MatchOptions, Pattern, PatternError};

use super::names::composed;

/// The patterns of one source; the last pattern that matches a path decides.
#[derive(Clone, Debug, Default)]
pub struct Excludes {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    /// Matches the path below the patterns' folder, or with `by_name` the file's name.
    pattern: Pattern,
    by_name: bool,
    only_folders: bool,
    /// `!`: includes matching paths again.
    includes: bool,
}

const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

impl Excludes {
    /// Parses lines. Skips empty lines and comments (`#`). `!` includes paths again. A trailing
    /// slash matches folders only. Any other slash makes the pattern match from its folder on.
    ///
    /// # Errors
    /// When a line is not a valid pattern.
    pub fn new<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Self, PatternError> {
        let lines = lines
            .into_iter()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let rule = |line: &str| {
            let (includes, line) =
                line.strip_prefix('!').map_or((false, line), |rest| (true, rest));
            let (only_folders, line) =
                line.strip_suffix('/').map_or((false, line), |rest| (true, rest));
            let pattern = Pattern::new(&composed(line.strip_prefix('/').unwrap_or(line)))?;
            Ok(Rule { pattern, by_name: !line.contains('/'), only_folders, includes })
        };
        Ok(Self { rules: lines.map(rule).collect::<Result<_, _>>()? })
    }

    /// Whether a path below the patterns' folder is left out; `None` if no pattern matches.
    pub fn leaves_out(&self, below: &Path, is_folder: bool) -> Option<bool> {
        let fits = |rule: &&Rule| {
            let path =
                if rule.by_name { Path::new(below.file_name().unwrap_or_default()) } else { below };
            (is_folder || !rule.only_folders)
                && rule.pattern.matches_with(&composed(&slashed(path)), OPTIONS)
        };
        self.rules.iter().rev().find(fits).map(|rule| !rule.includes)
    }
}

/// A path with `/` as separator. A backslash is a separator only on Windows.
fn slashed(path: &Path) -> String {
    let text = path.to_string_lossy();
    if cfg!(windows) { text.replace('\\', "/") } else { text.into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(lines: &[&str], path: &str, wanted: Option<bool>) {
        let excludes = Excludes::new(lines.iter().copied()).expect("patterns");
        let (path, is_folder) = path.strip_suffix('/').map_or((path, false), |path| (path, true));
        assert_eq!(excludes.leaves_out(Path::new(path), is_folder), wanted, "{lines:?} {path}");
    }

    #[test]
    fn a_pattern_without_a_slash_fits_names_at_any_depth() {
        check(&["*.png"], "a/b.png", Some(true));
        check(&["*.png"], "a/b.jpg", None);
        check(&["drafts/"], "a/drafts/", Some(true));
        check(&["drafts/"], "a/drafts", None);
    }

    #[test]
    fn a_pattern_with_a_slash_fits_from_its_folder_on() {
        check(&["raw/*"], "raw/a.jpg", Some(true));
        check(&["raw/*"], "b/raw/a.jpg", None);
        check(&["raw/*"], "raw/b/a.jpg", None);
        check(&["raw/**"], "raw/b/a.jpg", Some(true));
        check(&["/top.jpg"], "top.jpg", Some(true));
        check(&["/top.jpg"], "a/top.jpg", None);
    }

    #[test]
    fn a_wildcard_matches_a_letter_of_any_script_and_braces_are_plain() {
        check(&["?.jpg"], "\u{e9}.jpg", Some(true));
        check(&["[\u{e0}-\u{fc}].jpg"], "\u{e9}.jpg", Some(true));
        check(&["[!a].jpg"], "\u{5199}.jpg", Some(true));
        check(&["{a,b}.jpg"], "{a,b}.jpg", Some(true));
        check(&["{a,b}.jpg"], "a.jpg", None);
    }

    #[test]
    fn accents_may_be_composed_another_way_than_on_the_disk() {
        check(&["caf\u{e9}/"], "cafe\u{301}/", Some(true));
        check(&["cafe\u{301}/*.jpg"], "caf\u{e9}/a.jpg", Some(true));
    }

    #[test]
    fn the_last_line_that_fits_decides() {
        check(&["# photos", "", "*.png", "!keep.png"], "keep.png", Some(false));
        check(&["!keep.png", "*.png"], "keep.png", Some(true));
        assert!(Excludes::new(["a[.png"]).is_err());
    }
}
