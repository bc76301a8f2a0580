//! `mmgem verify trace`: writes every stage of the graph, with the names and shapes of the
//! reference program, or compares the stages with a file of that program.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use mmgem_core::image::preprocess;
use mmgem_data::files::{self, write_atomic};
use mmgem_train::trace::{
    Difference, TraceInput, TraceTensor, compare, from_safetensors, to_safetensors, trace_backward,
    trace_forward,
};
use serde_json::{Value, json};

use crate::globals::Globals;
use crate::model::{ModelFiles, model_files};
use crate::names::path_parser;
use crate::outputs::{check_ending, spare_inputs};
use crate::photos::read_photo;
use crate::terminal::{note, print, print_json};
use crate::values::{BoxArg, not_empty};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mmgem verify trace --model tiny --image a.jpg --image b.jpg --text \"a dog\" --text \"a car\" --out ours.safetensors\n  \
    mmgem verify trace --model tiny --image a.jpg --text \"a dog\" --box 4,4,90,80 --compare golden.safetensors\n\n\
    The arguments are those of `mmgem_reference.py run`. With as many texts as images, image i \
    belongs to text i, and losses and gradients are traced too.")]
pub struct TraceArgs {
    /// Photo to trace (repeatable)
    #[arg(long = "image", value_name = "IMAGE", required = true, value_parser = path_parser())]
    images: Vec<PathBuf>,
    /// Text to trace (repeatable)
    #[arg(long = "text", value_name = "T", required = true, value_parser = not_empty)]
    texts: Vec<String>,
    /// Region of the first photo to trace, in pixels of the upright photo (repeatable)
    ///
    /// It is not clipped to the photo.
    #[arg(long = "box", value_name = "X0,Y0,X1,Y1", allow_hyphen_values = true)]
    boxes: Vec<BoxArg>,
    /// Tokens of each greedy caption
    #[arg(long, value_name = "N", default_value_t = 12)]
    steps: usize,
    /// Safetensors file to write
    #[arg(long, value_name = "F", required_unless_present = "compare")]
    out: Option<PathBuf>,
    /// Safetensors file to compare with, from the reference program for the same inputs
    #[arg(long, value_name = "GOLDEN")]
    compare: Option<PathBuf>,
    /// Largest allowed difference, relative to a stage's largest value
    #[arg(long, value_name = "T", default_value_t = 1e-4)]
    tolerance: f64,
}

pub fn run(args: &TraceArgs, globals: &Globals) -> Result<()> {
    if let Some(out) = &args.out {
        check_ending("--out", out, &["safetensors"], "no other format is supported")?;
        let model = model_files(globals.model.as_deref());
        let inputs = args.images.iter().chain(&args.compare).chain(&model);
        spare_inputs("--out", out, inputs.map(PathBuf::as_path))?;
    }
    let model_files = ModelFiles::read(globals.model.as_deref())?;
    let input = trace_input(args, &model_files)?;
    let config = model_files.config()?;
    let golden = args.compare.as_deref().map(read_trace).transpose()?;
    let opened = globals.open_device()?;

    let model = model_files.load_to_run(&opened)?;
    let mut trace = pollster::block_on(trace_forward(&model, &config, &input))?;
    if input.pixels.len() == input.texts.len() {
        let model = model_files.load(&opened.device.autodiff())?;
        trace.extend(pollster::block_on(trace_backward(&model, &config, &input))?);
    }
    if let Some(out) = &args.out {
        write_atomic(out, &to_safetensors(&trace))?;
        note(globals.quiet, format!("wrote {} tensors to {}", trace.len(), out.display()));
    }

    match golden {
        Some(mut wanted) => {
            // In graph order, so that the first differing stage is printed first.
            wanted.sort_by_key(|wanted| trace.iter().position(|tensor| tensor.name == wanted.name));
            report(&compare(&trace, &wanted), args.tolerance, globals)
        }
        None if globals.json => print_json(
            &trace
                .iter()
                .map(|tensor| json!({ "name": tensor.name, "shape": tensor.shape }))
                .collect(),
        ),
        None => trace
            .iter()
            .try_for_each(|tensor| print(format!("{:<50} {:?}", tensor.name, tensor.shape))),
    }
}

fn trace_input(args: &TraceArgs, model_files: &ModelFiles) -> Result<TraceInput> {
    let (config, tokenizer) = (model_files.config()?, model_files.tokenizer()?);
    let (mut pixels, mut maps) = (Vec::new(), Vec::new());
    for path in &args.images {
        let input = preprocess(&read_photo(path)?, &config.preprocess());
        pixels.push(input.pixels);
        maps.push(input.map);
    }
    let texts = args.texts.iter().map(|text| tokenizer.encode(text)).collect::<Result<_, _>>()?;
    let boxes_input =
        args.boxes.iter().map(|BoxArg(box_px)| maps[0].input_from_image(*box_px)).collect();
    Ok(TraceInput { pixels, texts, boxes_input, steps: args.steps })
}

/// Prints the differences.
///
/// # Errors
/// If a difference is above the tolerance.
fn report(differences: &[Difference], tolerance: f64, globals: &Globals) -> Result<()> {
    // NaN must not pass.
    let passes = |difference: &&Difference| difference.relative <= tolerance;
    if globals.json {
        let stages: Value = differences
            .iter()
            .map(|d| json!({ "name": d.name, "relative": finite(d.relative), "problem": d.problem, "passes": passes(&d) }))
            .collect();
        print_json(&json!({ "tolerance": tolerance, "stages": stages }))?;
    } else {
        for difference in differences {
            let verdict = if passes(&difference) { "" } else { "  <-- above the tolerance" };
            let problem = difference.problem.as_deref().unwrap_or_default();
            print(format!(
                "{:<50} {:>10.3e} {problem}{verdict}",
                difference.name, difference.relative
            ))?;
        }
    }
    let n_failed = differences.iter().filter(|difference| !passes(difference)).count();
    ensure!(!differences.is_empty(), "the file of --compare has no tensors");
    ensure!(
        n_failed == 0,
        "{n_failed} of {} stages differ by more than {tolerance:e}",
        differences.len()
    );
    Ok(())
}

/// `None` for infinity and NaN, which JSON does not have.
fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

fn read_trace(path: &Path) -> Result<Vec<TraceTensor>> {
    from_safetensors(&files::read(path)?)
        .with_context(|| format!("cannot use the file of --compare\n  file: {}", path.display()))
}
