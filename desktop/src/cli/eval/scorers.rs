//! METEOR and SPICE by the user's installation of pycocoevalcap, on our tokens. Both need Java.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use clap::Args as ClapArgs;
use mmgem_eval::metrics::dense::Matched;
use mmgem_eval::metrics::ptb::tokenize_lines;
use serde::Deserialize;
use serde_json::json;

/// Reads `{"scorer", "candidates", "references"}`, with tokens joined by spaces, and writes
/// `{"mean", "each"}`.
const SCRIPT: &str = include_str!("scorers.py");

/// Scores that an external program computes.
#[derive(Debug, ClapArgs)]
pub struct Scorers {
    /// Also compute METEOR, with pycocoevalcap and Java
    #[arg(long)]
    meteor: bool,
    /// Also compute SPICE, with pycocoevalcap and Java
    ///
    /// On first use pycocoevalcap downloads Stanford's CoreNLP.
    #[arg(long)]
    spice: bool,
    /// Python interpreter with pycocoevalcap
    #[arg(long, default_value = "python3", value_name = "EXE")]
    python: String,
}

/// The score of each caption, and their mean.
#[derive(Debug, Deserialize)]
pub struct Scored {
    pub mean: f64,
    pub each: Vec<f64>,
}

impl Scorers {
    /// Checks that the requested scorers work, before hours of captioning.
    pub fn check(&self) -> Result<()> {
        for scorer in self.wanted() {
            let checked = self.call(&json!({ "scorer": scorer, "check": true }).to_string());
            checked.with_context(|| {
                let hint = match scorer {
                    "spice" => "\n  hint: on first use SPICE downloads Stanford's CoreNLP 3.6.0 from nlp.stanford.edu",
                    _ => "",
                };
                format!("cannot compute --{scorer}\n  hint: pip install pycocoevalcap, and install Java; or give the Python interpreter that has it with --python{hint}")
            })?;
        }
        Ok(())
    }

    /// Computes the requested scores. Returns each with its key.
    pub fn score<C: AsRef<str>>(
        &self,
        candidates: &[C],
        references: &[Vec<String>],
    ) -> Result<Vec<(&'static str, Scored)>> {
        self.wanted()
            .map(|scorer| Ok((scorer, self.run(scorer, candidates, references)?)))
            .collect()
    }

    /// METEOR of the captions of boxes; 0 for a box that overlaps no true box. `None` without
    /// `--meteor`.
    pub fn meteor_of(&self, matched: &[Matched]) -> Result<Option<Vec<f64>>> {
        if !self.meteor {
            return Ok(None);
        }
        let scored: Vec<&Matched> = matched.iter().filter(|m| !m.references.is_empty()).collect();
        let candidates: Vec<&str> = scored.iter().map(|m| m.caption.as_str()).collect();
        let references: Vec<Vec<String>> = scored.iter().map(|m| m.references.clone()).collect();
        let mut each = match scored.is_empty() {
            true => Vec::new(),
            false => self.run("meteor", &candidates, &references)?.each,
        }
        .into_iter();
        let of =
            |m: &Matched| if m.references.is_empty() { 0.0 } else { each.next().unwrap_or(0.0) };
        Ok(Some(matched.iter().map(of).collect()))
    }

    fn wanted(&self) -> impl Iterator<Item = &'static str> + use<> {
        [(self.meteor, "meteor"), (self.spice, "spice")]
            .into_iter()
            .filter(|(on, _)| *on)
            .map(|(_, name)| name)
    }

    fn run<C: AsRef<str>>(
        &self,
        scorer: &str,
        candidates: &[C],
        references: &[Vec<String>],
    ) -> Result<Scored> {
        // In one call: the tokenizer treats a full stop by the start of the next line.
        let flat: Vec<&str> = references.iter().flatten().map(String::as_str).collect();
        let mut lines = tokenize_lines(&flat).into_iter();
        let references: Vec<Vec<String>> = references
            .iter()
            .map(|of_image| lines.by_ref().take(of_image.len()).collect())
            .collect();
        let input = json!({
            "scorer": scorer, "candidates": tokenize_lines(candidates), "references": references,
        });
        let scored: Scored = serde_json::from_slice(&self.call(&input.to_string())?)
            .with_context(|| format!("{scorer} gave no scores"))?;
        ensure!(
            scored.each.len() == candidates.len(),
            "{scorer} gave {} scores for {} captions",
            scored.each.len(),
            candidates.len()
        );
        Ok(scored)
    }

    fn call(&self, input: &str) -> Result<Vec<u8>> {
        let python = &self.python;
        let mut child = Command::new(python)
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{python} cannot be started"))?;
        let mut stdin = child.stdin.take().expect("it is piped");
        let input = input.to_owned();
        // In a thread, because the child may fill its output pipes before it has read all input.
        let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output()?;
        let _ = writer.join();
        let said = String::from_utf8_lossy(&output.stderr);
        let last =
            said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no error message");
        ensure!(output.status.success(), "{python}: {last}");
        Ok(output.stdout)
    }
}
