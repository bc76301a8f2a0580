//! `mmgem verify counts`: the number of GPU operations of a piece of work, on any GPU.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use mmgem_backend_wgpu::Traffic;
use serde_json::{Map, Value, json};

use super::work::Bench;
use super::{Measured, RandomWeights, json_f32};
use crate::globals::Globals;
use crate::terminal::{print, print_json};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mmgem verify counts --device wgpu\n  \
    mmgem verify counts --device wgpu --config assets/presets/vit_l_14_tinyllama.json --kernels\n\n\
    The counts depend on the number of layers, and hardly on their width or on the adapter. So \
    software Vulkan gives the counts of any GPU. An image and a text end as unit vectors on the \
    host. A prompt is a region's prefix up to the logits of the first token. A token is one more \
    token of a caption.")]
pub struct CountsArgs {
    /// Measure random weights of the sizes in this config.json, instead of a model
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Also count the runs of each kernel
    #[arg(long)]
    kernels: bool,
}

/// Operations that one piece of work submits to wgpu, on average.
#[derive(Clone, Debug, PartialEq)]
pub struct Counts {
    dispatches: f64,
    submissions: f64,
    read_backs: f64,
    kernels: BTreeMap<String, f64>,
}

impl Counts {
    /// Counts the second of two runs, because the first also compiles kernels.
    pub fn of(mut work: impl FnMut()) -> Result<Self> {
        work();
        let ((), traffic) = mmgem_backend_wgpu::count(work)?;
        let Traffic { dispatches, submissions, read_backs, kernels } = traffic;
        Ok(Self {
            dispatches: dispatches as f64,
            submissions: submissions as f64,
            read_backs: read_backs as f64,
            kernels: kernels.into_iter().map(|(name, n)| (name, n as f64)).collect(),
        })
    }

    /// The difference to `less`, divided by `parts`.
    pub fn beyond(&self, less: &Self, parts: f64) -> Self {
        let before = |name: &String| less.kernels.get(name).copied().unwrap_or(0.0);
        let kernels =
            self.kernels.iter().map(|(name, n)| (name.clone(), (n - before(name)) / parts));
        Self {
            dispatches: (self.dispatches - less.dispatches) / parts,
            submissions: (self.submissions - less.submissions) / parts,
            read_backs: (self.read_backs - less.read_backs) / parts,
            kernels: kernels.filter(|(_, n)| *n != 0.0).collect(),
        }
    }

    fn to_json(&self) -> Value {
        let number = |n: f64| json_f32(n as f32);
        let kernels: Map<String, Value> =
            self.kernels.iter().map(|(k, n)| (k.clone(), number(*n))).collect();
        json!({
            "dispatches": number(self.dispatches),
            "submissions": number(self.submissions),
            "read_backs": number(self.read_backs),
            "kernels": kernels,
        })
    }
}

/// Counts and prints.
pub fn run(args: &CountsArgs, globals: &Globals) -> Result<()> {
    let Measured { name, config, files } =
        Measured::new(args.config.as_deref(), RandomWeights::F32, globals)?;
    let opened = globals.open_device()?;
    ensure!(
        opened.name.starts_with("wgpu"),
        "only operations of wgpu are counted, and {} does not use wgpu\n  hint: give --device wgpu; \
         software Vulkan (Mesa's lavapipe) is enough",
        opened.name
    );
    let bench = Bench::new(files.load_to_run(&config, &opened)?, &config, 1);
    let counts = bench.counts()?;
    if globals.json {
        let works: Map<String, Value> =
            counts.iter().map(|(work, n)| ((*work).into(), n.to_json())).collect();
        return print_json(&json!({ "device": opened.name, "model": name, "counts": works }));
    }
    print(format!("device: {}\nmodel: {name}", opened.name))?;
    print(format!("{:12} {:>10} {:>11} {:>10}", "", "dispatches", "submissions", "read-backs"))?;
    for (work, n) in counts {
        print(format!(
            "{work:12} {:10.2} {:11.2} {:10.2}",
            n.dispatches, n.submissions, n.read_backs
        ))?;
        if args.kernels {
            n.kernels.iter().try_for_each(|(kernel, n)| print(format!("  {n:10.2} {kernel}")))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_its_share_of_what_a_longer_caption_has_more() {
        let counts = |dispatches: f64, kernels: &[(&str, f64)]| Counts {
            dispatches,
            submissions: 1.0,
            read_backs: 2.0,
            kernels: kernels.iter().map(|(name, n)| ((*name).into(), *n)).collect(),
        };
        let (long, short) =
            (counts(50.0, &[("a", 30.0), ("b", 20.0)]), counts(10.0, &[("b", 20.0)]));
        let token = long.beyond(&short, 8.0);
        assert_eq!((token.dispatches, token.submissions, token.read_backs), (5.0, 0.0, 0.0));
        assert_eq!(token.kernels, BTreeMap::from([("a".into(), 3.75)]));
    }
}
