//! `mmgem plan`: predicts the memory and the hours of a training run.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use mmgem_collective::Launch;
use mmgem_train::{Plan, plan_run};

use super::train::{RunFile, with_prefix};
use crate::globals::Globals;
use crate::terminal::{print, print_json};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mmgem plan run.toml --ranks 64\n  \
    mmgem plan assets/recipes/paper/stage1.toml --ranks 64 --sizes assets/presets/vit_l_14_tinyllama.json\n\n\
    The command prints parameters, memory, operations and hours. It trains nothing.")]
pub struct PlanArgs {
    #[command(flatten)]
    pub run: RunFile,
    /// Number of ranks to plan for [default: the launcher's, else 1]
    #[arg(long, value_name = "N")]
    pub ranks: Option<usize>,
    /// config.json with the sizes to plan with, such as assets/presets/*.json
    ///
    /// Needed if the run's model does not exist yet.
    #[arg(long, value_name = "FILE")]
    pub sizes: Option<PathBuf>,
}

pub fn run(args: &PlanArgs, globals: &Globals) -> Result<()> {
    let config = args.run.read()?;
    let launch = Launch::from_env()?;
    let ranks = args.ranks.or(launch.map(|launch| launch.size)).unwrap_or(1).max(1);
    let plan = plan_run(&config, ranks, args.sizes.as_deref()).context(
        "cannot read the sizes to plan with\n  hint: if the run's model does not exist yet, give --sizes, as in --sizes assets/presets/vit_l_14_tinyllama.json",
    )?;
    if globals.json { print_json(&serde_json::to_value(&plan)?) } else { print(plan_text(&plan)) }
}

/// Formats a plan as text.
fn plan_text(plan: &Plan) -> String {
    let gb = |bytes: f64| format!("{:.2} GB", bytes / 1e9);
    let mut lines = vec![
        format!(
            "model       {:.1} M parameters, {:.1} M of them trained",
            plan.parameters as f64 / 1e6,
            plan.trained_parameters as f64 / 1e6
        ),
        format!(
            "run         {} steps of {} samples: {:.3} M samples",
            plan.steps,
            plan.batch_size,
            (plan.steps * plan.batch_size) as f64 / 1e6
        ),
        format!(
            "ranks       {}, each {} samples a step, {} at a time",
            plan.ranks, plan.samples_per_rank, plan.micro_batch
        ),
        format!(
            "memory      {} a rank = {} weights, gradients and moments + {} embeddings + {} activations ({} a sample)",
            gb(plan.total_bytes),
            gb(plan.static_bytes),
            gb(plan.embedding_bytes),
            gb(plan.total_bytes - plan.static_bytes - plan.embedding_bytes),
            gb(plan.activation_bytes_per_sample)
        ),
    ];
    if let Some(memory) = plan.memory_bytes {
        let fits = if plan.total_bytes <= memory { "fits" } else { "DOES NOT FIT" };
        lines.push(match plan.largest_micro_batch {
            Some(n) => format!(
                "            {fits} into {}; optim.micro_batch may be up to {n}",
                gb(memory)
            ),
            None => {
                format!("            {fits} into {}, not even one sample at a time", gb(memory))
            }
        });
    }
    let (useful, computed) = (plan.flops_per_sample, plan.computed_flops_per_sample);
    let repeated = if computed > useful {
        format!("; {}FLOP with recomputation", with_prefix(computed))
    } else {
        String::new()
    };
    lines.push(format!("work        {}FLOP a sample{repeated}", with_prefix(useful)));
    match (&plan.flops_per_sec, plan.step_secs, plan.hours, plan.device_hours) {
        (Some((rate, source)), Some(secs), Some(hours), Some(device_hours)) => lines.push(format!(
            "time        {secs:.3} s a step, {hours:.1} h, {device_hours:.1} device hours at {}FLOP/s a rank ({source})",
            with_prefix(*rate)
        )),
        _ => lines.push("time        unknown: set hardware.peak_tflops, or plan after some steps of the run".into()),
    }
    lines.extend(cluster_lines(plan));
    lines.join("\n")
}

/// Network, host, checkpoint, and the limit when the ranks double.
fn cluster_lines(plan: &Plan) -> Vec<String> {
    let gb = |bytes: f64| format!("{:.2} GB", bytes / 1e9);
    let cluster = &plan.cluster;
    let mut lines = Vec::new();
    if plan.ranks > 1 {
        let sent = gb(plan.sent_bytes);
        let time = match (cluster.ring_secs, cluster.tree_secs) {
            (Some(ring), Some(tree)) => format!(": {ring:.3} s in a ring, {tree:.3} s in a tree"),
            _ => "; set hardware.network_gb_per_sec for the time".into(),
        };
        lines.push(format!("network     {sent} sent by each rank in a step{time}"));
    }
    let rate = cluster
        .photos_per_sec
        .map_or_else(String::new, |rate| format!("; each rank must decode {rate:.0} photos/s"));
    lines.push(format!("host        {} of memory{rate}", gb(cluster.host_bytes)));
    let secs = cluster.checkpoint_secs.map_or_else(String::new, |secs| format!(" in {secs:.0} s"));
    lines.push(format!("checkpoint  {}{secs}", gb(cluster.checkpoint_bytes)));
    if let Some((ranks, limit)) = &plan.first_limit {
        lines.push(format!("limit       at {ranks} ranks: {limit}"));
    }
    lines
}
