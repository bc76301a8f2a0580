//! Lists of shards as people write them: globs, braces and commands.

use std::path::PathBuf;

use super::source::SourceError;

/// Patterns with this prefix are commands whose output is a shard.
const PIPE: &str = "pipe:";

/// Files that fit the patterns, in the order of the patterns, sorted within each.
///
/// `*` and `?` stand for characters of a name, `{000..123}` and `{a,b}` for each of what they list.
///
/// # Errors
/// When a pattern fits no file, or is a command.
pub fn expand(patterns: &[String]) -> Result<Vec<PathBuf>, SourceError> {
    if let Some(pipe) = patterns.iter().find(|pattern| pattern.starts_with(PIPE)) {
        return Err(SourceError::Pattern {
            pattern: pipe.clone(),
            cause: "a command cannot be read out of order here; give files".into(),
        });
    }
    let mut files = Vec::new();
    for pattern in patterns {
        for pattern in braces(pattern) {
            let found = glob::glob(&pattern).map_err(|e| SourceError::Pattern {
                pattern: pattern.clone(),
                cause: e.to_string(),
            })?;
            let before = files.len();
            files.extend(found.filter_map(Result::ok));
            if files.len() == before {
                return Err(SourceError::NoFile(pattern));
            }
        }
    }
    Ok(files)
}

/// The commands of the patterns, each without its prefix; none where these are files.
///
/// # Errors
/// When some are commands and some are files.
pub fn commands(patterns: &[String]) -> Result<Option<Vec<String>>, SourceError> {
    let commands: Vec<String> = patterns
        .iter()
        .filter_map(|pattern| pattern.strip_prefix(PIPE))
        .flat_map(|command| braces(command.trim()))
        .collect();
    match patterns.iter().find(|pattern| !pattern.starts_with(PIPE)) {
        None if commands.is_empty() => Ok(None),
        None => Ok(Some(commands)),
        Some(_) if commands.is_empty() => Ok(None),
        Some(file) => Err(SourceError::Pattern {
            pattern: file.clone(),
            cause:
                "commands and files cannot be one source; give them as two entries of [[data.mix]]"
                    .into(),
        }),
    }
}

/// What a pattern's braces stand for, as a shell expands them; other braces are left as they are.
pub fn braces(pattern: &str) -> Vec<String> {
    let Some((head, inner, tail)) = first_braces(pattern) else { return vec![pattern.to_owned()] };
    let Some(choices) = choices(inner) else {
        // No list: what follows may still have one.
        let head = format!("{head}{{{inner}}}");
        return braces(tail).into_iter().map(|tail| format!("{head}{tail}")).collect();
    };
    let tails = braces(tail);
    let each = choices
        .iter()
        .flat_map(|choice| tails.iter().map(move |tail| format!("{head}{choice}{tail}")));
    each.collect()
}

fn first_braces(pattern: &str) -> Option<(&str, &str, &str)> {
    let (head, rest) = pattern.split_once('{')?;
    let (inner, tail) = rest.split_once('}')?;
    Some((head, inner, tail))
}

/// `a,b` or `000..123`, the numbers as wide as they are written.
fn choices(inner: &str) -> Option<Vec<String>> {
    if let Some((first, last)) = inner.split_once("..") {
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !is_number(first) || !is_number(last) {
            return None;
        }
        let width = if first.starts_with('0') { first.len().max(last.len()) } else { 0 };
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        return Some((first..=last).map(|n| format!("{n:0width$}")).collect());
    }
    inner.contains(',').then(|| inner.split(',').map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, wanted: &[&str]) {
        assert_eq!(braces(pattern), wanted, "{pattern}");
    }

    #[test]
    fn braces_stand_for_what_they_list() {
        check("a.tar", &["a.tar"]);
        check("s-{8..11}.tar", &["s-8.tar", "s-9.tar", "s-10.tar", "s-11.tar"]);
        check("s-{008..011}.tar", &["s-008.tar", "s-009.tar", "s-010.tar", "s-011.tar"]);
        check("{cc,sbu}-{0..1}", &["cc-0", "cc-1", "sbu-0", "sbu-1"]);
        check("{a..c}", &["{a..c}"]);
        check("awk '{print}' {1,2}", &["awk '{print}' 1", "awk '{print}' 2"]);
        check("{1..", &["{1.."]);
    }

    #[test]
    fn commands_and_files_are_told_apart() {
        let found = |patterns: &[&str]| {
            commands(&patterns.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>())
        };
        let wanted = vec!["cat a0".to_owned(), "cat a1".to_owned()];
        assert_eq!(found(&["pipe: cat a{0..1}"]).unwrap(), Some(wanted));
        assert_eq!(found(&["a.tar"]).unwrap(), None);
        assert!(found(&["a.tar", "pipe:cat b"]).unwrap_err().to_string().contains("[[data.mix]]"));
        let error = expand(&["pipe:cat b".into()]).unwrap_err().to_string();
        assert!(error.contains("out of order"), "{error}");
    }
}
