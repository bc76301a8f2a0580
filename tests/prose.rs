//! Counts marks of stilted English per 1,000 words of comment, and fails above `LIMIT`.
//!
//! The marks are headless subjects at the start of a sentence and a few odd phrases; `MARKS` lists
//! them. Comments, doc comments, Python docstrings and Markdown text count. Code, code fences and
//! code spans do not, so a text may quote a mark in backticks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Most marks per 1,000 words, over all files together.
const LIMIT: f64 = 1.0;

/// Number of files that the report lists sentence by sentence.
const N_WORST_FILES: usize = 25;

/// Folders with builds and downloads, at any depth.
const SKIPPED_FOLDERS: [&str; 3] = ["target", "node_modules", "dist"];
/// Folders of the workspace with data and training runs.
const SKIPPED_PATHS: [&str; 2] = ["data", "runs"];
/// Hidden folders to search; all others are skipped.
const HIDDEN_FOLDERS: [&str; 2] = [".cargo", ".ci"];

/// A mark. It counts only with word boundaries on both sides.
struct Mark {
    /// In lower case.
    words: &'static str,
    /// Counts only at the start of a sentence, and not in a question.
    starts_sentence: bool,
}

/// A mark stands before the marks that it contains.
const MARKS: [Mark; 11] = [
    Mark { words: "what", starts_sentence: true },
    Mark { words: "who", starts_sentence: true },
    Mark { words: "whoever", starts_sentence: true },
    Mark { words: "somebody", starts_sentence: true },
    Mark { words: "nobody", starts_sentence: true },
    Mark { words: "those of", starts_sentence: true },
    Mark { words: "where there is no", starts_sentence: false },
    Mark { words: "is no", starts_sentence: false },
    Mark { words: "is none", starts_sentence: false },
    Mark { words: "told", starts_sentence: false },
    Mark { words: "of one mind", starts_sentence: false },
];

#[test]
fn comments_are_plain_english() {
    let root = workspace();
    let files: Vec<FileReport> = sources(&root).iter().map(|path| report(&root, path)).collect();
    assert!(files.iter().map(|file| file.n_words).sum::<usize>() > 1000, "comments were found");
    let text = table(&files);
    let (n_marks, n_words) = total(files.iter());
    let rate = per_thousand(n_marks, n_words);
    assert!(rate <= LIMIT, "{rate:.2} marks per 1,000 words of comment, limit {LIMIT:.1}\n{text}");
}

fn workspace() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("tests is a member of the workspace").to_owned()
}

/// Language of a file, as far as its comments are concerned.
#[derive(Clone, Copy, PartialEq)]
enum Language {
    Rust,
    JavaScript,
    Python,
    Toml,
    Shell,
    Markdown,
}

/// `None` for files that are not searched. Scripts named `run` have no extension.
fn language(path: &Path) -> Option<Language> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("rs") => Some(Language::Rust),
        Some("js" | "mjs" | "ts") => Some(Language::JavaScript),
        Some("py") => Some(Language::Python),
        Some("toml") => Some(Language::Toml),
        Some("sh") => Some(Language::Shell),
        Some("md") => Some(Language::Markdown),
        None if path.file_name().is_some_and(|name| name == "run") => Some(Language::Shell),
        _ => None,
    }
}

fn sources(root: &Path) -> Vec<PathBuf> {
    let mut folders = vec![root.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the workspace") {
            let path = entry.expect("a folder can be listed").path();
            let name = path.file_name().expect("an entry has a name").to_string_lossy();
            let hidden = name.starts_with('.') && !HIDDEN_FOLDERS.contains(&&*name);
            let skipped = SKIPPED_FOLDERS.contains(&&*name)
                || (folder == root && SKIPPED_PATHS.contains(&&*name));
            if path.is_dir() && !path.is_symlink() && !hidden && !skipped {
                folders.push(path);
            } else if path.is_file() && language(&path).is_some() {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// A mark in a file.
#[derive(Debug, PartialEq)]
struct Found {
    line: usize,
    mark: &'static str,
    sentence: String,
}

struct FileReport {
    /// Path below the workspace, with forward slashes.
    name: String,
    /// Folder of the nearest `Cargo.toml`, or the top folder.
    crate_name: String,
    n_words: usize,
    found: Vec<Found>,
}

fn report(root: &Path, path: &Path) -> FileReport {
    let text = fs::read_to_string(path).expect("a source is text");
    let below = path.strip_prefix(root).expect("it is below");
    let folders: Vec<&Path> = below.ancestors().skip(1).collect();
    let crate_folder = folders
        .iter()
        .find(|folder| root.join(folder).join("Cargo.toml").is_file())
        .filter(|folder| !folder.as_os_str().is_empty())
        .or_else(|| folders.iter().rev().nth(1))
        .map_or(".".to_owned(), |folder| folder.to_string_lossy().replace('\\', "/"));
    let paragraphs = paragraphs(&text, language(path).expect("only known files are listed"));
    FileReport {
        name: below.to_string_lossy().replace('\\', "/"),
        crate_name: crate_folder,
        n_words: paragraphs.iter().map(Paragraph::n_words).sum(),
        found: paragraphs.iter().flat_map(Paragraph::marks).collect(),
    }
}

/// Marks and words of several files.
fn total<'a>(files: impl Iterator<Item = &'a FileReport>) -> (usize, usize) {
    files.fold((0, 0), |(marks, words), file| (marks + file.found.len(), words + file.n_words))
}

fn per_thousand(n_marks: usize, n_words: usize) -> f64 {
    1000.0 * n_marks as f64 / n_words.max(1) as f64
}

/// Rates of each crate, then the worst files with a line for every mark.
fn table(files: &[FileReport]) -> String {
    let mut crates: BTreeMap<&str, Vec<&FileReport>> = BTreeMap::new();
    for file in files {
        crates.entry(&file.crate_name).or_default().push(file);
    }
    let mut text = format!("\n{:<24}{:>7}{:>9}{:>11}\n", "crate", "marks", "words", "per 1,000");
    let mut row = |name: &str, (n_marks, n_words): (usize, usize)| {
        let rate = per_thousand(n_marks, n_words);
        writeln!(text, "{name:<24}{n_marks:>7}{n_words:>9}{rate:>11.2}").expect("into a string");
    };
    for (name, files) in &crates {
        row(name, total(files.iter().copied()));
    }
    row("all", total(files.iter()));

    let mut worst: Vec<&FileReport> = files.iter().filter(|file| !file.found.is_empty()).collect();
    worst.sort_by_key(|file| std::cmp::Reverse(file.found.len()));
    for file in worst.iter().take(N_WORST_FILES) {
        let FileReport { name, n_words, found, .. } = file;
        let n_marks = found.len();
        writeln!(text, "\n{name}: {n_marks} in {n_words} words").expect("into a string");
        for Found { line, mark, sentence } in found {
            writeln!(text, "  {name}:{line}: [{mark}] {sentence}").expect("into a string");
        }
    }
    if worst.len() > N_WORST_FILES {
        let left = worst.len() - N_WORST_FILES;
        writeln!(text, "\nand {left} files with fewer").expect("into a string");
    }
    text
}

/// A run of comment text without a break: the lines of one paragraph, joined by spaces.
struct Paragraph {
    text: String,
    /// The text with its code spans blanked, byte for byte as long.
    masked: String,
    /// Start of each line in `text`, and its number in the file.
    lines: Vec<(usize, usize)>,
}

impl Paragraph {
    fn new(lines: &[(usize, &str)]) -> Self {
        let mut text = String::new();
        let mut starts = Vec::new();
        for (number, line) in lines {
            if !text.is_empty() {
                text.push(' ');
            }
            starts.push((text.len(), *number));
            text.push_str(line.trim());
        }
        Self { masked: without_code_spans(&text), text, lines: starts }
    }

    /// Words outside code spans: what white space separates, if it has a letter.
    fn n_words(&self) -> usize {
        self.masked.split_whitespace().filter(|word| word.contains(char::is_alphabetic)).count()
    }

    fn line_at(&self, offset: usize) -> usize {
        let after = self.lines.partition_point(|(start, _)| *start <= offset);
        self.lines[after - 1].1
    }

    fn marks(&self) -> Vec<Found> {
        let mut found = Vec::new();
        for sentence in sentences(&self.masked) {
            for (at, mark) in marks(&self.masked[sentence.clone()]) {
                found.push(Found {
                    line: self.line_at(sentence.start + at),
                    mark,
                    sentence: shortened(self.text[sentence.clone()].trim()),
                });
            }
        }
        found
    }
}

/// Replaces code spans by underscores of the same length in bytes.
fn without_code_spans(text: &str) -> String {
    let mut masked = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('`') {
        let n_ticks = rest[start..].bytes().take_while(|byte| *byte == b'`').count();
        let inner = &rest[start + n_ticks..];
        let Some(length) = inner.find(&rest[start..start + n_ticks]) else { break };
        let end = start + length + 2 * n_ticks;
        masked.push_str(&rest[..start]);
        masked.push_str(&"_".repeat(end - start));
        rest = &rest[end..];
    }
    masked + rest
}

/// Splits at a full stop, question or exclamation mark before white space and a capital letter.
/// Quotes and emphasis may stand around the space.
fn sentences(text: &str) -> Vec<Range<usize>> {
    let is_wrapper = |byte: &u8| b"\"'()*_[]`".contains(byte);
    let bytes = text.as_bytes();
    let mut sentences = Vec::new();
    let mut start = 0;
    for at in 0..bytes.len() {
        if !b".!?".contains(&bytes[at]) {
            continue;
        }
        let end = at + 1 + bytes[at + 1..].iter().take_while(|byte| is_wrapper(byte)).count();
        let space = bytes[end..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let next = bytes[end + space..].iter().find(|byte| !is_wrapper(byte));
        if space > 0 && next.is_some_and(u8::is_ascii_uppercase) {
            sentences.push(start..end);
            start = end + space;
        }
    }
    sentences.push(start..bytes.len());
    sentences
}

/// Offsets and names of the marks in a sentence.
fn marks(sentence: &str) -> Vec<(usize, &'static str)> {
    let lower = sentence.to_ascii_lowercase();
    let first = lower.find(|c: char| c.is_alphanumeric() || c == '_').unwrap_or(lower.len());
    let is_question = lower.trim_end_matches(['"', '\'', ')', '*', '_', ' ']).ends_with('?');
    let mut found: Vec<(usize, &'static str)> = Vec::new();
    for Mark { words, starts_sentence } in &MARKS {
        if *starts_sentence {
            if !is_question && lower[first..].starts_with(words) && ends_word(&lower, first, words)
            {
                found.push((first, words));
            }
            continue;
        }
        for (at, _) in lower.match_indices(words) {
            let is_inside = found.iter().any(|(start, mark)| {
                (*start..start + mark.len()).contains(&(at + words.len() - 1))
            });
            // "is no longer" is plain English.
            let is_plain = lower[at..].starts_with("is no longer");
            let begins = !lower[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            if begins && ends_word(&lower, at, words) && !is_inside && !is_plain {
                found.push((at, words));
            }
        }
    }
    found.sort_unstable();
    found
}

fn ends_word(text: &str, at: usize, words: &str) -> bool {
    !text[at + words.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

fn shortened(sentence: &str) -> String {
    match sentence.char_indices().nth(160) {
        Some((end, _)) => format!("{}...", &sentence[..end]),
        None => sentence.to_owned(),
    }
}

/// A line of comment, without the signs that make it one.
struct CommentLine<'a> {
    /// Number in the file, from 1.
    number: usize,
    text: &'a str,
    /// Code stands before it on its line.
    is_trailing: bool,
}

fn paragraphs(source: &str, language: Language) -> Vec<Paragraph> {
    let lines = match language {
        Language::Markdown => source
            .lines()
            .enumerate()
            .map(|(i, text)| CommentLine { number: i + 1, text, is_trailing: false })
            .collect(),
        _ => comments(source, language),
    };
    let mut paragraphs = Vec::new();
    let mut open: Vec<(usize, &str)> = Vec::new();
    let mut in_fence = false;
    for CommentLine { number, text, is_trailing } in lines {
        let text = text.trim();
        let follows = open.last().is_some_and(|(last, _)| last + 1 == number) && !is_trailing;
        let is_fence = text.starts_with("```");
        if !follows || text.is_empty() || is_fence || starts_block(text) {
            close(&mut open, &mut paragraphs);
        }
        in_fence ^= is_fence;
        if is_fence || in_fence {
            continue;
        }
        if text.starts_with('|') {
            for cell in text.split('|').filter(|cell| !cell.trim().is_empty()) {
                paragraphs.push(Paragraph::new(&[(number, cell)]));
            }
            continue;
        }
        if !text.is_empty() {
            open.push((number, text));
        }
        if text.starts_with('#') {
            close(&mut open, &mut paragraphs);
        }
    }
    close(&mut open, &mut paragraphs);
    paragraphs
}

fn close(open: &mut Vec<(usize, &str)>, paragraphs: &mut Vec<Paragraph>) {
    if !open.is_empty() {
        paragraphs.push(Paragraph::new(open));
        open.clear();
    }
}

/// Headings, list items, quotes and table rows begin a paragraph.
fn starts_block(text: &str) -> bool {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    ["- ", "* ", "+ ", "#", "> ", "|"].iter().any(|start| text.starts_with(start))
        || (digits > 0 && text[digits..].starts_with(". "))
}

/// Comments of a source file, line by line.
fn comments(source: &str, language: Language) -> Vec<CommentLine<'_>> {
    let mut comments = Vec::new();
    let mut at = 0;
    let mut add = |range: Range<usize>| {
        let line_start = source[..range.start].rfind('\n').map_or(0, |end| end + 1);
        let is_trailing = !source[line_start..range.start].trim().is_empty();
        let first = source[..range.start].matches('\n').count() + 1;
        for (i, line) in source[range].split('\n').enumerate() {
            let text = without_signs(line.trim(), language);
            comments.push(CommentLine {
                number: first + i,
                text,
                is_trailing: is_trailing && i == 0,
            });
        }
    };
    while at < source.len() {
        let (kind, length) = token(source, at, language);
        if kind == Token::Comment {
            add(at..at + length);
        }
        at += length;
    }
    comments
}

/// A line of comment without the signs around its text. A shebang has no text.
fn without_signs(line: &str, language: Language) -> &str {
    match language {
        Language::Rust | Language::JavaScript => {
            line.trim_start_matches(['/', '*', '!']).trim_end_matches("*/")
        }
        _ if line.starts_with("#!") => "",
        _ => line.trim_start_matches(['#', '"', '\'']).trim_end_matches(['"', '\'']),
    }
}

#[derive(PartialEq)]
enum Token {
    Comment,
    Other,
}

/// The comment, string or character that begins at `at`, and its length in bytes.
fn token(source: &str, at: usize, language: Language) -> (Token, usize) {
    let rest = &source[at..];
    let line = rest.find('\n').unwrap_or(rest.len());
    let c = rest.chars().next().expect("not at the end");
    let one = (Token::Other, c.len_utf8());
    match language {
        Language::Rust | Language::JavaScript => match c {
            '/' if rest.starts_with("//") => (Token::Comment, line),
            '/' if rest.starts_with("/*") => (Token::Comment, block_comment(rest, language)),
            '/' if language == Language::JavaScript && begins_regex(&source[..at]) => {
                (Token::Other, regex(&rest[..line]))
            }
            '"' => (Token::Other, quoted(rest, "\"")),
            '`' if language == Language::JavaScript => (Token::Other, quoted(rest, "`")),
            '\'' if language == Language::JavaScript => (Token::Other, quoted(rest, "'")),
            '\'' => (Token::Other, character(rest)),
            'r' if language == Language::Rust => (Token::Other, raw_string(source, at)),
            _ => one,
        },
        Language::Python | Language::Toml => match c {
            '#' => (Token::Comment, line),
            '"' | '\'' => {
                let triple: String = [c; 3].iter().collect();
                if !rest.starts_with(&triple) {
                    return (Token::Other, quoted(&rest[..line], &c.to_string()));
                }
                let line_start = source[..at].rfind('\n').map_or(0, |end| end + 1);
                let is_docstring =
                    language == Language::Python && source[line_start..at].trim().is_empty();
                let kind = if is_docstring { Token::Comment } else { Token::Other };
                (kind, quoted(rest, &triple))
            }
            _ => one,
        },
        Language::Shell => match c {
            '#' if !source[..at].ends_with(|c: char| !c.is_whitespace()) => (Token::Comment, line),
            '\\' => (Token::Other, 1 + rest[1..].chars().next().map_or(0, char::len_utf8)),
            '"' => (Token::Other, quoted(&rest[..line], "\"")),
            '\'' => (Token::Other, rest[1..line].find('\'').map_or(line, |end| end + 2)),
            _ => one,
        },
        Language::Markdown => one,
    }
}

/// Length of a string from its opening `quote` to its closing one, or to the end.
fn quoted(rest: &str, quote: &str) -> usize {
    let mut at = quote.len();
    while at < rest.len() {
        if rest[at..].starts_with(quote) {
            return at + quote.len();
        }
        let mut chars = rest[at..].chars();
        let escape = chars.next() == Some('\\');
        at += rest[at..].chars().take(1 + usize::from(escape)).map(char::len_utf8).sum::<usize>();
    }
    rest.len()
}

/// Length of a block comment. In Rust they nest.
fn block_comment(rest: &str, language: Language) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") && (depth == 0 || language == Language::Rust) {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// Length of a character, or 1 for the quote of a lifetime.
fn character(rest: &str) -> usize {
    let mut chars = rest.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some('\\'), _) => quoted(rest, "'"),
        (Some(c), Some('\'')) => 2 + c.len_utf8(),
        _ => 1,
    }
}

/// Length of a raw string at its `r`, or 1 for any other `r`.
fn raw_string(source: &str, at: usize) -> usize {
    let before = source[..at].strip_suffix(['b', 'c']).unwrap_or(&source[..at]);
    let hashes = source[at + 1..].bytes().take_while(|byte| *byte == b'#').count();
    let body = at + 1 + hashes + 1;
    let in_name = before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
    if in_name || !source[at + 1 + hashes..].starts_with('"') {
        return 1;
    }
    let close = format!("\"{}", "#".repeat(hashes));
    source[body..].find(&close).map_or(source.len() - at, |end| body + end + close.len() - at)
}

/// A slash is a division after a value and begins a regular expression elsewhere.
fn begins_regex(before: &str) -> bool {
    let before = before.trim_end();
    before.ends_with(|c| "(,=:[!&|?{};+>".contains(c)) || before.ends_with("return")
}

fn regex(line: &str) -> usize {
    let mut in_class = false;
    let mut escaped = false;
    for (at, c) in line.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' => in_class = true,
            ']' => in_class = false,
            '/' if !in_class => return at + 1,
            _ => {}
        }
    }
    line.len()
}

/// Marks of a source as `line mark`.
fn marks_of(source: &str, language: Language) -> Vec<String> {
    let paragraphs = paragraphs(source, language);
    let found = paragraphs.iter().flat_map(Paragraph::marks);
    found.map(|found| format!("{} {}", found.line, found.mark)).collect()
}

#[track_caller]
fn check(source: &str, language: Language, wanted: &[&str]) {
    assert_eq!(marks_of(source, language), wanted, "{source}");
}

#[test]
fn every_headless_subject_at_the_start_of_a_sentence_is_found() {
    for mark in MARKS.iter().filter(|mark| mark.starts_sentence) {
        let words = mark.words;
        let capital = words[..1].to_uppercase() + &words[1..];
        let wanted = format!("1 {words}");
        check(&format!("// {capital} it needs stays.\n"), Language::Rust, &[&wanted]);
        check(&format!("// {words} it needs stays.\n"), Language::Rust, &[&wanted]);
        check(&format!("// Drops rows. {capital} it needs stays.\n"), Language::Rust, &[&wanted]);
        check(&format!("- **{capital} it needs** stays\n"), Language::Markdown, &[&wanted]);
        check(&format!("// Drops {words} it needs.\n"), Language::Rust, &[]);
    }
}

#[test]
fn every_stilted_phrase_is_found_anywhere() {
    for mark in MARKS.iter().filter(|mark| !mark.starts_sentence) {
        let (words, wanted) = (mark.words, format!("1 {}", mark.words));
        check(&format!("/// A rank {words} loss.\n"), Language::Rust, &[&wanted]);
        check(&format!("/// A rank X{words}X loss.\n"), Language::Rust, &[]);
    }
}

#[test]
fn a_phrase_across_a_line_break_is_found_on_its_first_line() {
    check("//! A file\n//! that is\n//! no model.\n", Language::Rust, &["2 is no"]);
}

#[test]
fn a_phrase_within_a_longer_one_counts_once() {
    check("// Stops where there is no GPU.\n", Language::Rust, &["1 where there is no"]);
}

#[test]
fn is_no_longer_counts_as_plain_english() {
    check("// The file is no longer open.\n", Language::Rust, &[]);
}

#[test]
fn questions_may_begin_with_what() {
    check("What does a step cost? Who pays?\n", Language::Markdown, &[]);
}

#[test]
fn code_spans_and_fences_are_not_read() {
    check("/// Not `What it needs`, nor `is no\n/// whole one`.\n", Language::Rust, &[]);
    check("```\nWhat is told\n```\nA `told` word\n", Language::Markdown, &[]);
    check("/// ```\n/// What is told\n/// ```\n/// Told.\n", Language::Rust, &["4 told"]);
}

#[test]
fn code_and_strings_are_not_read() {
    let rust = "let a = \"// told\"; let b = r#\"\" // told \"#; let c = '\"'; // Told.\nlet told: &'a str;";
    check(rust, Language::Rust, &["1 told"]);
    check("/* Told. /* Told. */ x */ let told = b'\\'';\n", Language::Rust, &["1 told", "1 told"]);
    let script =
        "const told = `// told ${told}`;\nx = /[/\"]told/;\n/* Told. */\ny = 'it\\'s // told';";
    check(script, Language::JavaScript, &["3 told"]);
    let python = "\"\"\"Told.\"\"\"\ntold = \"# told\"  # Told.\nquery = \"\"\"told\"\"\"\n";
    check(python, Language::Python, &["1 told", "2 told"]);
    check("told = \"# told\" # Told.\n", Language::Toml, &["1 told"]);
    check("#!/bin/sh\ntold=$# # Told.\necho '# told' \"# told\"\n", Language::Shell, &["2 told"]);
}

#[test]
fn list_items_cells_headings_and_trailing_comments_begin_a_sentence() {
    check("- Rows\n- What is left\n1. Who asks\n", Language::Markdown, &["2 what", "3 who"]);
    check("| Rows | What is left |\n", Language::Markdown, &["1 what"]);
    check("## What is left\nRows.\n", Language::Markdown, &["1 what"]);
    check("/// # Errors\n/// What is left\n", Language::Rust, &["2 what"]);
    check("a(); // Rows\nb(); // What is left\n", Language::Rust, &["2 what"]);
}

#[test]
fn words_are_those_outside_code() {
    let text = "/// Opens `the file` at 12 o'clock, if any.\nfn open() {}\n";
    let n_words: usize = paragraphs(text, Language::Rust).iter().map(Paragraph::n_words).sum();
    assert_eq!(n_words, 5);
}
