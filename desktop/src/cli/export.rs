//! `mmgem export`: a copy of a model in another number format, read back and compared.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use mmgem_core::checkpoint::Dtype;
use mmgem_core::files::{ModelFolder, create_dir, read, write_atomic};
use mmgem_core::session::Session;
use serde_json::json;

use crate::args::{Globals, WrongArguments};
use crate::model::ModelFiles;
use crate::probe;
use crate::terminal::{json_f32, note, print, print_json};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mmgem export runs/b16 --dtype f16 --out models/b16-f16\n  \
    mmgem export --dtype f32 --out copy-of-the-embedded-model")]
pub struct ExportArgs {
    /// Folder of the model (without: --model, or the embedded one)
    #[arg(value_name = "MODEL")]
    folder: Option<PathBuf>,
    /// Number format of the weights
    #[arg(long, value_enum)]
    dtype: ExportDtype,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ExportDtype {
    /// 32-bit floats: nothing is lost
    F32,
    /// 16-bit floats: half the size
    F16,
}

/// Cosine below which a copy is called damaged.
const WORST_COSINE: f32 = 0.99;

pub fn run(args: &ExportArgs, globals: &Globals) -> Result<()> {
    let source = ModelFiles::read(args.folder.as_deref().or(globals.model.as_deref()))?;
    if source.folder.as_ref().is_some_and(|folder| same_folder(folder, &args.out)) {
        return Err(WrongArguments("--out is the model itself; choose another folder".into()).into());
    }
    let opened = globals.open_device()?;
    let (config, tokenizer) = (source.config()?, source.tokenizer()?);
    let model = source.load(&opened.device)?;
    let original = Session::new(config.clone(), model.clone(), tokenizer.clone(), &opened.device);
    let before = probe::answers(&original)?;

    let copy = ModelFolder { config, model, tokenizer, tokenizer_json: source.tokenizer_json.to_vec() };
    let dtype = match args.dtype {
        ExportDtype::F32 => Dtype::F32,
        ExportDtype::F16 => Dtype::F16,
    };
    copy.write(&args.out, dtype)?;
    copy_history(&source, &args.out)?;

    let written = ModelFiles::read(Some(&args.out))?;
    let after = probe::answers(&written.open(&opened.device)?)?;
    let cosines: Vec<f32> = before.iter().zip(&after).map(|(a, b)| probe::cosine(a, b)).collect();
    let worst = cosines.iter().copied().fold(f32::INFINITY, f32::min);
    let mean = cosines.iter().sum::<f32>() / cosines.len() as f32;
    // NaN must not pass.
    ensure!(
        worst >= WORST_COSINE,
        "the copy answers otherwise than the model: cosine {worst}, wanted at least {WORST_COSINE}\n  hint: are some weights too large for this format?\n  folder: {}",
        args.out.display()
    );
    let size_bytes = |files: &ModelFiles| files.weights.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
    let (from, to) = (size_bytes(&source), size_bytes(&written));
    if globals.json {
        return print_json(&json!({
            "out": args.out,
            "bytes_before": from,
            "bytes_after": to,
            "cosine_mean": json_f32(mean),
            "cosine_worst": json_f32(worst),
            "n_probes": cosines.len(),
        }));
    }
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    print(format!("weights   {:.1} MiB -> {:.1} MiB", mib(from), mib(to)))?;
    print(format!(
        "cosine    mean {mean:.7}, worst {worst:.7} over {} drawn scenes and captions",
        cosines.len()
    ))?;
    note(globals.quiet, format!("wrote {}", args.out.display()));
    Ok(())
}

/// The training history goes with the weights.
fn copy_history(source: &ModelFiles, out: &std::path::Path) -> Result<()> {
    let Some(history) = source.folder.as_ref().map(|folder| folder.join("training.json")) else {
        return Ok(());
    };
    if history.is_file() {
        create_dir(out)?;
        write_atomic(&out.join("training.json"), &read(&history)?)?;
    }
    Ok(())
}

fn same_folder(a: &std::path::Path, b: &std::path::Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}
