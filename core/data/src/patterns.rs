//! Expands patterns for shards: globs, braces and commands.

use std::path::PathBuf;

use super::source::SourceError;

/// Prefix of a pattern that is a command. The command's output is a shard.
const PIPE: &str = "pipe:";

/// Lists the files that match the patterns, in the order of the patterns, sorted within each.
///
/// `*` and `?` match characters of a name. `{000..123}` and `{a,b}` expand to each listed item.
///
/// # Errors
/// If a pattern matches no file, or is a command.
pub fn expand(patterns: &[String]) -> Result<Vec<PathBuf>, SourceError> {
    if let Some(pipe) = patterns.iter().find(|pattern| pattern.starts_with(PIPE)) {
        return Err(SourceError::Pattern {
            pattern: pipe.clone(),
            cause: "a command cannot be read out of order here; give files".into(),
        });
    }
    let mut files = Vec::new();
    for pattern in patterns {
        if pattern.contains("://")
            && let Some(error) = elsewhere(pattern)
        {
            return Err(error);
        }
        for expanded in braces(pattern) {
            let found = glob::glob(&expanded).map_err(|e| SourceError::Pattern {
                pattern: expanded.clone(),
                cause: e.to_string(),
            })?;
            let before = files.len();
            files.extend(found.filter_map(Result::ok));
            if files.len() == before {
                return Err(elsewhere(pattern).unwrap_or(SourceError::NoFile(expanded)));
            }
        }
    }
    Ok(files)
}

/// Returns the commands without their prefix. `None` if the patterns are files.
///
/// # Errors
/// If some patterns are commands and some are files.
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
            cause: "one source cannot mix commands and files; use two entries of [[data.mix]]"
                .into(),
        }),
    }
}

/// The error for a pattern that other programs accept: a URL, or several sources in one text
/// (`a.tar::b.tar`). `None` for other patterns. The error says how to write them here.
fn elsewhere(pattern: &str) -> Option<SourceError> {
    let parts: Vec<&str> = pattern.split("::").collect();
    let error = |found: &str, wanted: String| {
        let cause = format!("{found}\n  hint: {wanted}");
        Some(SourceError::Pattern { pattern: pattern.to_owned(), cause })
    };
    let quoted = |parts: &[&str]| {
        let parts: Vec<String> = parts.iter().map(|part| format!("{:?}", here(part))).collect();
        format!("shards = [{}]", parts.join(", "))
    };
    match parts[..] {
        [_] if !pattern.contains("://") => None,
        [_] => error(
            "this program has no network client and takes the output of a command",
            format!(
                "for training write {} and samples_per_shard; for other commands download the shards first",
                quoted(&parts)
            ),
        ),
        _ => error(
            "`::` does not separate sources here",
            format!("write {}, or one [[data.mix]] for each with its weight", quoted(&parts)),
        ),
    }
}

/// A place as this program takes it: a URL becomes the command that fetches it.
fn here(place: &str) -> String {
    match place.split_once("://") {
        Some(("file", path)) => path.to_owned(),
        Some(("s3", _)) => format!("pipe:aws s3 cp {place} -"),
        Some(("gs", _)) => format!("pipe:gcloud storage cat {place}"),
        // hf://datasets/OWNER/NAME/PATH
        Some(("hf", path)) if path.split('/').count() > 3 => {
            let cut = path.match_indices('/').nth(2).map_or(path.len(), |(at, _)| at);
            let (repository, file) = path.split_at(cut);
            format!("pipe:curl -fsSL https://huggingface.co/{repository}/resolve/main{file}")
        }
        Some(("hdfs", _)) => format!("pipe:hdfs dfs -cat {place}"),
        Some(("http" | "https", _)) => format!("pipe:curl -fsSL {place}"),
        Some(_) => format!("pipe:COMMAND {place}"),
        None => place.to_owned(),
    }
}

/// Expands a pattern's braces as a shell does. Leaves unknown braces unchanged.
pub fn braces(pattern: &str) -> Vec<String> {
    let Some((head, inner, tail)) = first_braces(pattern) else { return vec![pattern.to_owned()] };
    let Some(choices) = choices(inner) else {
        // Not a list, but the tail may have one.
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

/// Expands `a,b` or `000..123`. Numbers keep their leading zeros.
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
    fn commands_and_files_are_distinguished() {
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

    #[test]
    fn places_of_other_programs_are_answered_with_the_way_to_write_them() {
        let check = |pattern: &str, parts: &[&str]| {
            let error = expand(&[pattern.to_owned()]).expect_err(pattern).to_string();
            for part in parts {
                assert!(error.contains(part), "{error:?} does not say {part:?}");
            }
        };
        check(
            "s3://bucket/00000.tar",
            &["\"pipe:aws s3 cp s3://bucket/00000.tar -\"", "hint", "samples_per_shard"],
        );
        check("https://a.org/{00..11}.tar", &["\"pipe:curl -fsSL https://a.org/{00..11}.tar\""]);
        check("gs://bucket/a.tar", &["pipe:gcloud storage cat gs://bucket/a.tar"]);
        check(
            "hf://datasets/me/photos/train/{00..11}.tar",
            &[
                "curl -fsSL https://huggingface.co/datasets/me/photos/resolve/main/train/{00..11}.tar",
            ],
        );
        check("file:///data/missing.tar", &["\"/data/missing.tar\""]);
        check("ftp://a.org/a.tar", &["pipe:COMMAND ftp://a.org/a.tar"]);
        check(
            "a/{0..9}.tar::s3://b/{0..3}.tar",
            &[
                "shards = [\"a/{0..9}.tar\", \"pipe:aws s3 cp s3://b/{0..3}.tar -\"]",
                "[[data.mix]]",
            ],
        );
        let error = expand(&["missing/{0..1}.tar".to_owned()]).expect_err("none").to_string();
        assert!(error.contains("no file fits \"missing/0.tar\""), "{error}");
    }
}
