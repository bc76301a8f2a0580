//! METEOR and SPICE by the pycocoevalcap that the person has installed; both need Java.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use clap::Args as ClapArgs;
use mmgem_eval::dense::Matched;
use mmgem_eval::ptb::tokenize_lines;
use serde::Deserialize;
use serde_json::json;

/// Reads `{"scorer", "candidates", "references"}` (tokens joined by spaces) and writes `{"mean", "each"}`.
const SCRIPT: &str = include_str!("scorers.py");

/// Scores that another program computes.
#[derive(Debug, ClapArgs)]
pub struct Scorers {
    /// Also METEOR, by pycocoevalcap (pip) and Java
    #[arg(long)]
    meteor: bool,
    /// Also SPICE, by pycocoevalcap and Java; on first use pycocoevalcap itself downloads what SPICE needs
    #[arg(long)]
    spice: bool,
    /// The Python that has pycocoevalcap
    #[arg(long, default_value = "python3", value_name = "EXE")]
    python: String,
}

/// A score of each caption and of all.
#[derive(Debug, Deserialize)]
pub struct Scored {
    pub mean: f64,
    pub each: Vec<f64>,
}

impl Scorers {
    /// Finds out at once whether what was asked for can be had, before hours of captioning.
    pub fn check(&self) -> Result<()> {
        for scorer in self.wanted() {
            let checked = self.call(&json!({ "scorer": scorer, "check": true }).to_string());
            checked.with_context(|| {
                let hint = match scorer {
                    "spice" => "\n  hint: SPICE fetches Stanford's CoreNLP 3.6.0 from nlp.stanford.edu when it is first used",
                    _ => "",
                };
                format!("--{scorer} cannot be computed\n  hint: pip install pycocoevalcap, and install Java; or name the Python that has it with --python{hint}")
            })?;
        }
        Ok(())
    }

    /// Each score that was asked for, under its key.
    pub fn score<C: AsRef<str>>(
        &self,
        candidates: &[C],
        references: &[Vec<String>],
    ) -> Result<Vec<(&'static str, Scored)>> {
        self.wanted()
            .map(|scorer| Ok((scorer, self.run(scorer, candidates, references)?)))
            .collect()
    }

    /// METEOR of what was said of boxes, if asked for; 0 where no true box overlaps.
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
        // All in one go: the start of the next caption decides over a full stop at the end of this one.
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
        // A thread, because the child may fill its other pipes before it has read all.
        let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output()?;
        let _ = writer.join();
        let said = String::from_utf8_lossy(&output.stderr);
        let last =
            said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        ensure!(output.status.success(), "{python}: {last}");
        Ok(output.stdout)
    }
}
