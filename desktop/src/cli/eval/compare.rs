//! `mmgem eval compare`: the differences of two runs with bootstrap intervals.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args as ClapArgs;
use mmgem_eval::metrics::bootstrap::N_DRAWS;
use serde_json::{Map, Value, json};

use super::record::Record;
use crate::globals::Globals;
use crate::terminal::{note, print, print_json};

#[derive(Debug, ClapArgs)]
pub(super) struct CompareArgs {
    /// First run, a file of --save
    a: PathBuf,
    /// Second run on the same photos, a file of --save
    b: PathBuf,
    /// Number of bootstrap draws of the photos
    #[arg(long, default_value_t = N_DRAWS, value_name = "N")]
    draws: usize,
    /// Random seed
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
}

pub(super) fn run(args: &CompareArgs, globals: &Globals) -> Result<()> {
    let (a, b) = (Record::read(&args.a)?, Record::read(&args.b)?);
    ensure!(
        a.task == b.task,
        "the first run is of {} and the second of {}\n  hint: compare runs of one task",
        a.task,
        b.task
    );
    if a.data_hash != b.data_hash {
        note(globals.quiet, "the data differ (data_hash); photos are matched by their names");
    }
    if a.protocol != b.protocol {
        note(globals.quiet, format!("the protocols differ:\n  {}\n  {}", a.protocol, b.protocol));
    }
    let differences = a.measures.compare(&b.measures, args.draws, args.seed)?;
    ensure!(!differences.is_empty(), "the runs have no score in common");
    if globals.json {
        let scores: Map<String, Value> = differences
            .iter()
            .map(|(name, difference)| Ok((name.clone(), serde_json::to_value(difference)?)))
            .collect::<Result<_>>()?;
        return print_json(&json!({
            "task": a.task, "benchmark": a.benchmark, "draws": args.draws, "seed": args.seed,
            "a": {"model": a.model, "model_hash": a.model_hash, "program": a.program},
            "b": {"model": b.model, "model_hash": b.model_hash, "program": b.program},
            "scores": scores,
        }));
    }
    print(format!("a: {} ({})\nb: {} ({})", a.model, a.model_hash, b.model, b.model_hash))?;
    print(format!(
        "{:38} {:>9} {:>9} {:>9}   95 % of {} draws",
        "", "a", "b", "b - a", args.draws
    ))?;
    for (name, found) in &differences {
        let (low, high) = (found.interval.low, found.interval.high);
        let mark = if low > 0.0 || high < 0.0 { " *" } else { "" };
        print(format!(
            "{name:38} {:9.4} {:9.4} {:+9.4}   [{low:+.4}, {high:+.4}]{mark}",
            found.a, found.b, found.difference
        ))?;
    }
    print("* the interval of the difference does not contain 0")
}
