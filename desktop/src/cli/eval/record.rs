//! The record of an evaluation: scores with intervals, and the facts needed to reproduce them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::Args as ClapArgs;
use mmgem_core::checkpoint::{HASH_START, hash_bytes};
use mmgem_data::benchmark::ReadSummary;
use mmgem_data::files::{read, write_atomic};
use mmgem_eval::metrics::bootstrap::{Interval, Measures, N_DRAWS};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::context::Context;
use crate::globals::{Globals, WrongArguments};
use crate::model::model_files;
use crate::names::printable_path;
use crate::outputs::{check_ending, spare_inputs};
use crate::report::evaluation::Page;
use crate::terminal::{print, print_json};

/// Seed of the bootstrap draws.
const SEED: u64 = 0;

/// Files to write besides the printed scores.
#[derive(Debug, Default, ClapArgs)]
pub(super) struct Outputs {
    /// JSON file to write, with the scores and their parts, for `mmgem eval compare`
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// CSV file to write, with one line per score
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// HTML file to write, with tables, recall curves, and the best and worst cases
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
}

impl Outputs {
    /// Checks before the work starts that the output files, and `more`, can be written.
    pub fn check(&self, more: Option<&PathBuf>) -> Result<()> {
        for path in [&self.save, &self.csv, &self.report].into_iter().flatten().chain(more) {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let is_there = folder.is_none_or(Path::is_dir);
            ensure!(
                is_there,
                "the folder of the file is missing\n  hint: create it first\n  file: {}",
                path.display()
            );
            ensure!(
                !path.is_dir(),
                "cannot write the file: the path is a folder\n  file: {}",
                path.display()
            );
        }
        Ok(())
    }

    /// Rejects output files that would overwrite the evaluation's `inputs` or the model, and
    /// extensions of other formats. `out` is the file of `--out`.
    pub fn spare(
        &self,
        out: Option<&PathBuf>,
        inputs: &[PathBuf],
        globals: &Globals,
    ) -> Result<()> {
        let files = [
            ("--save", &self.save, ["json", "json"], "--csv writes a table"),
            ("--csv", &self.csv, ["csv", "txt"], "--save writes JSON"),
            ("--report", &self.report, ["html", "htm"], "open that in a browser"),
            ("--out", &out.cloned(), ["json", "json"], "no other format is supported"),
        ];
        let model = model_files(globals.model.as_deref());
        for (option, file, endings, cure) in files {
            let Some(file) = file else { continue };
            check_ending(option, file, &endings, cure)?;
            spare_inputs(option, file, inputs.iter().chain(&model).map(PathBuf::as_path))?;
            // The evaluation may read any file of an input folder.
            let found = file.canonicalize().ok();
            let holds = |folder: &&PathBuf| {
                folder.is_dir()
                    && found.as_ref().is_some_and(|file| {
                        folder.canonicalize().is_ok_and(|folder| file.starts_with(folder))
                    })
            };
            if let Some(folder) = inputs.iter().find(holds) {
                let message = format!(
                    "{option} would overwrite a file in {}, which this command reads; choose another file",
                    printable_path(folder)
                );
                return Err(WrongArguments(message).into());
            }
        }
        Ok(())
    }

    /// Whether to collect cases with pictures.
    pub fn wants_page(&self) -> bool {
        self.report.is_some()
    }
}

/// One evaluation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// For example `retrieval` or `caption`.
    pub task: String,
    pub protocol: String,
    pub benchmark: String,
    pub model: String,
    /// Hash of the model's files.
    pub model_hash: String,
    /// Hash of the photos and annotations.
    pub data_hash: String,
    /// Version and commit of this program.
    pub program: String,
    pub n_photos: usize,
    pub n_skipped: usize,
    #[serde(flatten)]
    pub scores: Map<String, Value>,
    /// The parts of the scores, per photo. Only in saved files.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub measures: Measures,
    /// Intervals of the baseline's scores and of the differences.
    #[serde(skip)]
    beside: Vec<(String, Interval)>,
}

fn is_empty(measures: &Measures) -> bool {
    measures.ids.is_empty()
}

impl Record {
    pub fn new(
        task: &str,
        benchmark: &str,
        protocol: String,
        summary: &ReadSummary,
        context: &Context,
    ) -> Self {
        Self::of_runs(task, benchmark, protocol, &[summary], context)
    }

    /// A record of several data sets together.
    pub fn of_runs(
        task: &str,
        benchmark: &str,
        protocol: String,
        summaries: &[&ReadSummary],
        context: &Context,
    ) -> Self {
        let data_hash = match summaries {
            [one] => one.data_hash,
            many => many.iter().fold(HASH_START, |hash, summary| {
                hash_bytes(hash, &summary.data_hash.to_le_bytes())
            }),
        };
        Self {
            task: task.into(),
            protocol,
            benchmark: benchmark.into(),
            model: context.model_name.clone(),
            model_hash: format!("{:016x}", context.fingerprint),
            data_hash: format!("{data_hash:016x}"),
            program: format!("mmgem {} {}", env!("CARGO_PKG_VERSION"), env!("MMGEM_COMMIT")),
            n_photos: summaries.iter().map(|summary| summary.n_photos).sum(),
            n_skipped: summaries.iter().map(|summary| summary.skipped.len()).sum(),
            scores: Map::new(),
            measures: Measures::default(),
            beside: Vec::new(),
        }
    }

    /// Adds the scores of another model on the same photos, and the differences.
    pub fn add_baseline(&mut self, other: &Self) -> Result<()> {
        let mut scores: Map<String, Value> = other.rows().into_iter().collect();
        scores.insert("model".into(), json!(other.model));
        scores.insert("model_hash".into(), json!(other.model_hash));
        let differences = other.measures.compare(&self.measures, N_DRAWS, SEED)?;
        let minus: Map<String, Value> = differences
            .iter()
            .map(|(name, found)| (name.clone(), json!(found.difference)))
            .collect();
        let own = other.measures.intervals(N_DRAWS, SEED);
        self.beside
            .extend(own.into_iter().map(|(name, interval)| (format!("baseline.{name}"), interval)));
        let of_differences = differences.into_iter().map(|(name, found)| (name, found.interval));
        self.beside.extend(of_differences.map(|(name, i)| (format!("minus_baseline.{name}"), i)));
        self.scores.insert("baseline".into(), scores.into());
        if !minus.is_empty() {
            self.scores.insert("minus_baseline".into(), minus.into());
        }
        Ok(())
    }

    /// Adds the fields of a struct of scores.
    pub fn add_scores(&mut self, scores: &impl Serialize) -> Result<()> {
        let scores = serde_json::to_value(scores)?;
        self.scores.extend(scores.as_object().context("scores are an object")?.clone());
        Ok(())
    }

    /// Reads a file of `--save`.
    pub fn read(path: &Path) -> Result<Self> {
        let wanted = || {
            format!(
                "wanted a file that `mmgem eval .. --save FILE` wrote\n  file: {}",
                path.display()
            )
        };
        serde_json::from_slice(&read(path)?).with_context(wanted)
    }

    /// Prints and writes the record.
    pub fn publish(&self, outputs: &Outputs, page: &Page, context: &Context) -> Result<()> {
        let mut intervals = self.measures.intervals(N_DRAWS, SEED);
        intervals.extend(self.beside.iter().cloned());
        if let Some(path) = &outputs.report {
            write_atomic(path, page.html(&self.facts(), &self.table(&intervals)).as_bytes())?;
        }
        if let Some(path) = &outputs.save {
            write_atomic(path, &serde_json::to_vec(&self)?)?;
        }
        if let Some(path) = &outputs.csv {
            write_atomic(path, self.csv(&intervals).as_bytes())?;
        }
        if context.json {
            return print_json(&self.to_json(&intervals)?);
        }
        self.print_text(&intervals)
    }

    /// The JSON document: the record with intervals, without the parts.
    fn to_json(&self, intervals: &[(String, Interval)]) -> Result<Value> {
        let mut document =
            serde_json::to_value(Self { measures: Measures::default(), ..self.clone() })?;
        let intervals: Map<String, Value> =
            intervals.iter().map(|(name, i)| (name.clone(), json!([i.low, i.high]))).collect();
        document["intervals"] = intervals.into();
        Ok(document)
    }

    fn facts(&self) -> [(&'static str, &str); 7] {
        [
            ("task", &self.task),
            ("protocol", &self.protocol),
            ("benchmark", &self.benchmark),
            ("model", &self.model),
            ("model_hash", &self.model_hash),
            ("data_hash", &self.data_hash),
            ("program", &self.program),
        ]
    }

    fn print_text(&self, intervals: &[(String, Interval)]) -> Result<()> {
        for (name, fact) in self.facts() {
            print(format!("{name:42} {fact}"))?;
        }
        for [name, value, interval] in self.table(intervals) {
            print(format!("{name:42} {value}  {interval}").trim_end())?;
        }
        Ok(())
    }

    /// Name, value and interval of each score, formatted.
    fn table(&self, intervals: &[(String, Interval)]) -> Vec<[String; 3]> {
        let n_photos = format!("{} ({} skipped)", self.n_photos, self.n_skipped);
        let mut table = vec![["n_photos".to_owned(), n_photos, String::new()]];
        for (name, value) in self.rows() {
            let interval =
                intervals.iter().find(|(found, _)| *found == name).map(|(_, interval)| interval);
            let interval =
                interval.map_or(String::new(), |i| format!("[{:.4}, {:.4}]", i.low, i.high));
            let value = match value.as_f64().filter(|_| !value.is_u64()) {
                Some(number) => format!("{number:.4}"),
                None => plain(&value),
            };
            table.push([name, value, interval]);
        }
        table
    }

    /// The scores, flattened: `in_domain.cider`, `dtd.top1`.
    fn rows(&self) -> Vec<(String, Value)> {
        let mut rows = Vec::new();
        for (name, value) in &self.scores {
            match value {
                // Not measured.
                Value::Null => (),
                Value::Object(inner) => {
                    rows.extend(
                        inner.iter().map(|(key, value)| (format!("{name}.{key}"), value.clone())),
                    );
                }
                Value::Array(sets) if sets.iter().all(Value::is_object) && !sets.is_empty() => {
                    for set in sets {
                        let (name, metric) = (plain(&set["set"]), plain(&set["metric"]));
                        rows.push((format!("{name}.{metric}"), set["score"].clone()));
                    }
                }
                _ => rows.push((name.clone(), value.clone())),
            }
        }
        rows
    }

    fn csv(&self, intervals: &[(String, Interval)]) -> String {
        let mut table = String::from(
            "task,benchmark,model,model_hash,data_hash,program,n_photos,score,value,low,high\n",
        );
        let facts = [
            &self.task,
            &self.benchmark,
            &self.model,
            &self.model_hash,
            &self.data_hash,
            &self.program,
        ];
        let facts = facts.map(|fact| quoted(fact)).join(",");
        for (name, value) in self.rows() {
            let (low, high) = match intervals.iter().find(|(found, _)| *found == name) {
                Some((_, interval)) => (interval.low.to_string(), interval.high.to_string()),
                None => Default::default(),
            };
            let (n_photos, name, value) = (self.n_photos, quoted(&name), quoted(&plain(&value)));
            table.push_str(&format!("{facts},{n_photos},{name},{value},{low},{high}\n"));
        }
        table
    }
}

/// A value without the quotes of JSON.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Quotes a field of a CSV line if needed.
fn quoted(field: &str) -> String {
    match field.contains([',', '"', '\n']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_with_commas_are_quoted() {
        assert_eq!([quoted("a"), quoted("a, \"b\"")], ["a", "\"a, \"\"b\"\"\""]);
    }
}
