//! `mmgem verify parity`: compares every available device with the reference program's values.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use burn::tensor::DType;
use clap::{Args, ValueEnum};
use mmgem_backend_wgpu::AdapterType;
use mmgem_core::checkpoint::{Dtype, named_tensors, to_shards};
use mmgem_train::trace::{
    Case, Difference, TraceTensor, Values, compare, trace_backward, trace_forward,
};
use mmgem_train::{ComputeDtype, own_leaves};
use serde_json::{Value, json};

use crate::device::{DeviceChoice, OpenedDevice, open_device};
use crate::globals::Globals;
use crate::model::ModelFiles;
use crate::terminal::{note, print, print_json, progress_bar};

/// Largest relative difference that passes on the CPU with f32 weights.
const CPU_TOLERANCE: f64 = 1e-4;
/// The same on a GPU, which fuses and reorders more operations, and whose `exp` may be off by a few
/// units in the last place.
const GPU_TOLERANCE: f64 = 1e-3;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mmgem verify parity\n  \
    mmgem verify parity tests/parity --device wgpu:0 --case multi_query --json\n\n\
    A case is a small model folder with case.json (pictures, texts, boxes) and golden.safetensors, \
    which the reference program wrote. Without --device, the CPU and every hardware GPU are \
    compared; select a software GPU with --device. A figure is the largest difference of a stage \
    divided by its largest value, for the worst case. For captions it is the share of equal greedy \
    tokens. The heading of each column gives the format of the weights. Everything is computed in \
    f32, except that products with q8 and q4 weights on the CPU round the activations to 8 bits, \
    and that bf16 computes losses and gradients as optim.compute_dtype = \"bf16\" does. Only f32 \
    columns can fail.")]
pub struct ParityArgs {
    /// Folder of the cases
    #[arg(value_name = "DIR", default_value = "tests/parity")]
    folder: PathBuf,
    /// Run only this case (repeatable)
    #[arg(long = "case", value_name = "NAME")]
    cases: Vec<String>,
    /// Number formats of the weights, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "f32,f16,q8,q4")]
    weights: Vec<Weights>,
}

/// Number formats of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Weights {
    F32,
    /// Losses and gradients only, because only training computes in bf16.
    Bf16,
    F16,
    Q8,
    Q4,
}

impl Weights {
    /// The format in a file, if it is narrower than f32 there.
    fn narrow(self) -> Option<Dtype> {
        match self {
            Self::F32 | Self::Bf16 => None,
            Self::F16 => Some(Dtype::F16),
            Self::Q8 => Some(Dtype::Q8),
            Self::Q4 => Some(Dtype::Q4),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Q8 => "q8",
            Self::Q4 => "q4",
        }
    }
}

/// A column of the table: a device and a weight format.
struct Column {
    device: String,
    weights: Weights,
    tolerance: Option<f64>,
    stages: Vec<Stage>,
}

/// A cell of the table: a stage, with its worst value of all cases so far.
struct Stage {
    name: String,
    figure: Figure,
    /// The case of the worst value.
    case: String,
    problem: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Figure {
    /// Largest difference divided by the largest value.
    Relative(f64),
    /// Number of equal ids, of `all`.
    Tokens { same: usize, all: usize },
}

pub fn run(args: &ParityArgs, globals: &Globals) -> Result<()> {
    let cases = cases(args)?;
    let devices = devices(globals.device)?;
    let bar =
        progress_bar(devices.len() * args.weights.len() * cases.len(), "cases", globals.quiet);
    let mut columns = Vec::new();
    for opened in &devices {
        note(globals.quiet, format!("device: {}: {}", opened.name, opened.reason));
        for &weights in &args.weights {
            ensure!(
                weights != Weights::Bf16 || opened.device.supports_dtype(DType::BF16),
                "{} does not compute in bf16\n  hint: leave bf16 out of --weights",
                opened.name
            );
            let tolerance = if opened.is_cpu { CPU_TOLERANCE } else { GPU_TOLERANCE };
            let tolerance = (weights == Weights::F32).then_some(tolerance);
            let mut column =
                Column { device: opened.name.clone(), weights, tolerance, stages: Vec::new() };
            for case in &cases {
                column.add(case, opened)?;
                bar.inc(1);
            }
            columns.push(column);
        }
    }
    bar.finish_and_clear();
    match globals.json {
        true => print_json(&to_json(&columns, &cases))?,
        false => print_table(&columns, &cases)?,
    }
    let failed: Vec<String> = columns.iter().flat_map(Column::failures).collect();
    ensure!(failed.is_empty(), "stages differ from the reference:\n  {}", failed.join("\n  "));
    Ok(())
}

fn cases(args: &ParityArgs) -> Result<Vec<Case>> {
    let mut cases = Case::read_all(&args.folder)?;
    for name in &args.cases {
        ensure!(
            cases.iter().any(|case| case.name == *name),
            "found no case {name:?}, wanted one of: {}",
            cases.iter().map(|case| case.name.as_str()).collect::<Vec<_>>().join(", ")
        );
    }
    cases.retain(|case| args.cases.is_empty() || args.cases.contains(&case.name));
    Ok(cases)
}

/// The device of `--device`, or the CPU and every hardware GPU.
fn devices(choice: DeviceChoice) -> Result<Vec<OpenedDevice>> {
    if choice != DeviceChoice::Auto {
        return Ok(vec![open_device(choice)?]);
    }
    let mut choices = vec![DeviceChoice::Cpu];
    let adapters = mmgem_backend_wgpu::adapters().unwrap_or_default();
    let real = adapters.iter().enumerate().filter(|(_, a)| a.adapter_type != AdapterType::Software);
    choices.extend(real.map(|(ordinal, _)| DeviceChoice::Wgpu { ordinal: Some(ordinal) }));
    if mmgem_backend_cuda::gpu_count().is_ok_and(|n_gpus| n_gpus > 0) {
        choices.push(DeviceChoice::Cuda { ordinal: None });
    }
    let open = |choice| {
        let opened = open_device(choice)?;
        Ok(OpenedDevice { reason: "it is available".into(), ..opened })
    };
    choices.into_iter().map(open).collect()
}

impl Column {
    /// Runs a case and merges its stages into the column.
    ///
    /// # Errors
    /// If the case has no golden value for a stage.
    fn add(&mut self, case: &Case, opened: &OpenedDevice) -> Result<()> {
        let mut files = ModelFiles::read(Some(&case.folder))?;
        if let Some(dtype) = self.weights.narrow() {
            let wide = files.load(&burn::tensor::Device::flex())?;
            let shards = to_shards(&named_tensors(&wide), dtype, usize::MAX);
            files.weights = shards.into_iter().map(|(name, bytes)| (name, bytes.into())).collect();
        }
        let config = files.config()?;
        let input = case.input(&config, &files.tokenizer()?)?;
        let mut trace = Vec::new();
        if self.weights != Weights::Bf16 {
            let model = files.load_to_run(opened)?;
            trace = pollster::block_on(trace_forward(&model, &config, &input))?;
        }
        // Golden gradients are of f32 weights.
        if self.weights.narrow().is_none() && case.has_losses() {
            let mut model = files.load(&opened.device.clone().autodiff())?;
            if self.weights == Weights::Bf16 {
                model = own_leaves(model, ComputeDtype::Bf16);
            }
            trace.extend(pollster::block_on(trace_backward(&model, &config, &input))?);
        }
        let golden = case.golden()?;
        for found in &trace {
            let wanted = golden.iter().find(|wanted| wanted.name == found.name);
            let wanted = wanted.ok_or_else(|| {
                anyhow::anyhow!("{}: golden.safetensors has no stage {:?}", case.name, found.name)
            })?;
            let difference =
                compare(std::slice::from_ref(found), std::slice::from_ref(wanted)).remove(0);
            if !INPUTS.contains(&found.name.as_str()) {
                self.keep(&case.name, difference, wanted);
            }
        }
        Ok(())
    }

    fn keep(&mut self, case: &str, difference: Difference, wanted: &TraceTensor) {
        let figure = match &wanted.values {
            Values::Floats(_) => Figure::Relative(difference.relative),
            Values::Ints(ids) => {
                let differing = (difference.relative.min(1.0) * ids.len() as f64).round() as usize;
                Figure::Tokens { same: ids.len() - differing, all: ids.len() }
            }
        };
        let new = Stage {
            name: wanted.name.clone(),
            figure,
            case: case.into(),
            problem: difference.problem,
        };
        match self.stages.iter_mut().find(|stage| stage.name == new.name) {
            None => self.stages.push(new),
            Some(stage) => stage.merge(new),
        }
    }

    /// One line for each stage above the tolerance.
    fn failures(&self) -> Vec<String> {
        let Some(tolerance) = self.tolerance else { return Vec::new() };
        let failed = self.stages.iter().filter(|stage| !stage.figure.passes(tolerance));
        failed
            .map(|stage| {
                let (device, weights) = (&self.device, self.weights.name());
                let problem = stage.problem.as_deref().unwrap_or_default();
                format!(
                    "{device} {weights}: {} of {}: {} {problem}",
                    stage.name,
                    stage.case,
                    stage.figure.text()
                )
            })
            .collect()
    }
}

/// Inputs in the golden file, which are not compared.
const INPUTS: [&str; 4] = ["pixels", "boxes", "text_ids", "text_lens"];

impl Stage {
    fn merge(&mut self, new: Self) {
        match (&mut self.figure, new.figure) {
            (Figure::Tokens { same, all }, Figure::Tokens { same: new_same, all: new_all }) => {
                (*same, *all) = (*same + new_same, *all + new_all);
                if new_same < new_all {
                    self.case = new.case;
                    self.problem = new.problem;
                }
            }
            (Figure::Relative(worst), Figure::Relative(relative)) if relative > *worst => {
                *self = new
            }
            _ => {}
        }
    }
}

impl Figure {
    fn passes(self, tolerance: f64) -> bool {
        match self {
            // NaN does not pass.
            Self::Relative(relative) => relative <= tolerance,
            Self::Tokens { same, all } => same == all,
        }
    }

    fn text(self) -> String {
        match self {
            Self::Relative(relative) => format!("{relative:.1e}"),
            Self::Tokens { same, all } => format!("{same} of {all}"),
        }
    }

    fn to_json(self) -> Value {
        match self {
            // JSON has no infinity.
            Self::Relative(relative) => {
                json!({ "relative": relative.is_finite().then_some(relative) })
            }
            Self::Tokens { same, all } => json!({ "tokens_same": same, "tokens": all }),
        }
    }
}

fn print_table(columns: &[Column], cases: &[Case]) -> Result<()> {
    let names: Vec<&String> = match columns.iter().max_by_key(|column| column.stages.len()) {
        Some(longest) => longest.stages.iter().map(|stage| &stage.name).collect(),
        None => Vec::new(),
    };
    let heads: Vec<String> =
        columns.iter().map(|c| format!("{} {}", c.device, c.weights.name())).collect();
    print(format!("| {} case(s) against the reference | {} |", cases.len(), heads.join(" | ")))?;
    print(format!("|---|{}", "---:|".repeat(columns.len())))?;
    for name in names {
        let cell = |column: &Column| {
            let stage = column.stages.iter().find(|stage| stage.name == *name);
            stage.map_or(String::new(), |stage| stage.figure.text())
        };
        print(format!(
            "| {name} | {} |",
            columns.iter().map(cell).collect::<Vec<_>>().join(" | ")
        ))?;
    }
    Ok(())
}

fn to_json(columns: &[Column], cases: &[Case]) -> Value {
    let stage = |stage: &Stage| {
        let mut value = stage.figure.to_json();
        value["name"] = json!(stage.name);
        value["worst_case"] = json!(stage.case);
        value
    };
    let column = |column: &Column| {
        json!({
            "device": column.device,
            "weights": column.weights.name(),
            "tolerance": column.tolerance,
            "stages": column.stages.iter().map(stage).collect::<Vec<_>>(),
        })
    };
    json!({
        "cases": cases.iter().map(|case| &case.name).collect::<Vec<_>>(),
        "columns": columns.iter().map(column).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(figure: Figure, case: &str) -> Stage {
        Stage { name: "x".into(), figure, case: case.into(), problem: None }
    }

    #[test]
    fn the_worst_case_is_kept_and_tokens_are_added_up() {
        let mut kept = stage(Figure::Relative(1e-6), "a");
        kept.merge(stage(Figure::Relative(1e-7), "b"));
        assert_eq!((kept.figure, kept.case.as_str()), (Figure::Relative(1e-6), "a"));
        kept.merge(stage(Figure::Relative(f64::INFINITY), "c"));
        assert_eq!((kept.figure, kept.case.as_str()), (Figure::Relative(f64::INFINITY), "c"));

        let mut kept = stage(Figure::Tokens { same: 12, all: 12 }, "a");
        kept.merge(stage(Figure::Tokens { same: 3, all: 12 }, "b"));
        assert_eq!((kept.figure, kept.case.as_str()), (Figure::Tokens { same: 15, all: 24 }, "b"));
    }

    #[test]
    fn neither_nan_nor_one_other_token_passes() {
        assert!(Figure::Relative(1e-5).passes(1e-4) && !Figure::Relative(1e-3).passes(1e-4));
        assert!(!Figure::Relative(f64::NAN).passes(1e-4));
        assert!(!Figure::Tokens { same: 11, all: 12 }.passes(1.0));
    }
}
