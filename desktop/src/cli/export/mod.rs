//! `mmgem export`: copies a model into another number format or library's layout, reads the copy
//! back and compares it.

mod compare;

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, ensure};
use burn::tensor::Device;
use clap::{Args, ValueEnum};
use mmgem_core::checkpoint::export::{ForeignLayout, export};
use mmgem_core::checkpoint::{Dtype, named_tensors};
use mmgem_core::config::{MmGemConfig, SearchCutoff};
use mmgem_core::session::Session;
use mmgem_data::files::{ModelFolder, create_dir, move_model, read, write_atomic, write_foreign};
use mmgem_train::read_checkpoint;
use serde_json::{Map, Value, json};

use self::compare::{Agreement, Cosines, Scores, cosines};
use crate::device::self_check;
use crate::globals::{Globals, WrongArguments};
use crate::model::ModelFiles;
use crate::names::{json_path, printable_path};
use crate::outputs::Target;
use crate::terminal::{json_f32, note, print, print_json};
use crate::values::cosine;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mmgem export runs/b16 --dtype q4 --out models/b16-q4\n  \
    mmgem export runs/b16 --dtype q8 --out models/b16-q8 --data 'data/val/*.tar'\n  \
    mmgem export --dtype f32 --out copy-of-the-embedded-model\n  \
    mmgem export runs/b16 --layout hf --out models/b16-towers\n  \
    mmgem export runs/b16/checkpoints/step-00000200 --dtype f32 --out models/step-200\n\n\
    The command reads the copy back, gives it and the model the same inputs, and prints the \
    differences. It deletes a copy whose vectors have a smaller cosine with the model's than \
    --floor.\n\n\
    With --layout, the command writes the towers for another library and reads them back as \
    `mmgem import` does. open_clip loads the folder as \"local-dir:DIR\". transformers loads \
    DIR/language and, unless the image encoder is convolutional, DIR/vision; timm loads \
    convolutional encoders.")]
pub struct ExportArgs {
    /// Model folder, or a checkpoint of a training run [default: --model, else the embedded model]
    #[arg(value_name = "MODEL")]
    folder: Option<PathBuf>,
    /// Take the weights themselves of a checkpoint with averaged weights (`optim.ema`)
    #[arg(long, requires = "folder")]
    raw: bool,
    /// Number format of the written weights
    #[arg(long, value_enum, required_unless_present = "layout")]
    dtype: Option<ExportDtype>,
    /// Write the towers in the layout of another library [default dtype: f32]
    #[arg(long, value_enum, conflicts_with_all = ["data", "cutoffs", "floor"])]
    layout: Option<ExportLayout>,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// WebDataset shards for a comparison of recall and CIDEr; `*` matches any characters
    #[arg(long, value_name = "SHARDS")]
    data: Vec<String>,
    /// Use only the first N photos
    #[arg(long, value_name = "N", requires = "data")]
    limit: Option<usize>,
    /// Cut-offs of a search to write into the copy: what `mmgem calibrate --json` printed
    #[arg(long, value_name = "FILE")]
    cutoffs: Option<PathBuf>,
    /// Smallest allowed cosine between a vector of the model and of the copy
    #[arg(long, value_name = "COSINE", default_value_t = 0.99, value_parser = cosine)]
    floor: f32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ExportDtype {
    /// 32-bit floats: lossless
    F32,
    /// 16-bit floats: half the size
    F16,
    /// Linear layers in 8 bits, the rest in 16: about a quarter
    Q8,
    /// Linear layers in 4 bits, the rest in 16: about an eighth
    Q4,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ExportLayout {
    /// The image encoder as open_clip's model
    OpenClip,
    /// Both towers as Hugging Face's models: a ViT or timm's convolutions, and a Llama
    Hf,
}

impl From<ExportDtype> for Dtype {
    fn from(dtype: ExportDtype) -> Self {
        match dtype {
            ExportDtype::F32 => Self::F32,
            ExportDtype::F16 => Self::F16,
            ExportDtype::Q8 => Self::Q8,
            ExportDtype::Q4 => Self::Q4,
        }
    }
}

pub fn run(args: &ExportArgs, globals: &Globals) -> Result<()> {
    let source = read_source(args, globals)?;
    if source
        .folder
        .as_ref()
        .is_some_and(|folder| Target::of(&args.out).is_some_and(|out| out.is(folder)))
    {
        return Err(
            WrongArguments("--out is the model itself; choose another folder".into()).into()
        );
    }
    let opened = globals.open_device()?;
    if let Some(layout) = args.layout {
        return export_towers(&source, layout, args, globals, &opened.device);
    }
    let (config, tokenizer) = (source.config()?, source.tokenizer()?);
    let model = source.load(&opened.device)?;
    let original = Session::new(config.clone(), model.clone(), tokenizer.clone(), &opened.device);
    let config = match &args.cutoffs {
        Some(file) => MmGemConfig { search_cutoffs: read_cutoffs(file)?, ..config },
        None => config,
    };
    config.check()?;
    let copy =
        ModelFolder { config, model, tokenizer, tokenizer_json: source.tokenizer_json.to_vec() };

    // Written and verified in a draft folder, then moved to `--out`.
    let draft = Draft::begin(&args.out)?;
    let dtype = args.dtype.expect("required without --layout");
    copy.write_shards(&draft.folder, dtype.into())?;
    copy_history(&source, &draft.folder)?;
    let written = ModelFiles::read(Some(&draft.folder))?;
    let lost = Lost::measure(&original, &written.open(&opened)?, args, globals.quiet)?;
    lost.check(args.floor)?;
    draft.publish()?;

    let size_bytes =
        |files: &ModelFiles| files.weights.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
    let (from, to, n_files) = (size_bytes(&source), size_bytes(&written), written.weights.len());
    if globals.json {
        let mut document = json!({
            "out": json_path(&args.out),
            "bytes_before": from,
            "bytes_after": to,
            "n_files": n_files,
        });
        document.as_object_mut().expect("it is one").extend(lost.to_json());
        return print_json(&document);
    }
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    print(format!("weights   {:.1} MiB -> {:.1} MiB in {n_files} files", mib(from), mib(to)))?;
    lost.lines().into_iter().try_for_each(print)?;
    note(globals.quiet, format!("wrote {}", printable_path(&args.out)));
    Ok(())
}

/// Reads the model, or makes it from a checkpoint.
fn read_source(args: &ExportArgs, globals: &Globals) -> Result<ModelFiles> {
    let folder = args.folder.as_deref().or(globals.model.as_deref());
    let checkpoint = folder.map(|folder| read_checkpoint(folder, args.raw, &Device::flex()));
    if let (Some(model), Some(folder)) = (checkpoint.transpose()?.flatten(), folder) {
        return Ok(ModelFiles::of_model(&model, folder));
    }
    if args.raw {
        return Err(WrongArguments(
            "--raw wants a checkpoint of a run with optim.ema, such as runs/a/checkpoints/step-00000200; a finished model has its averaged weights only".into(),
        )
        .into());
    }
    ModelFiles::read(folder)
}

/// Writes the towers in the layout of another library.
fn export_towers(
    source: &ModelFiles,
    layout: ExportLayout,
    args: &ExportArgs,
    globals: &Globals,
    device: &Device,
) -> Result<()> {
    let layout = match layout {
        ExportLayout::OpenClip => ForeignLayout::OpenClip,
        ExportLayout::Hf => ForeignLayout::HuggingFace,
    };
    let tensors = named_tensors(&source.load(device)?);
    let dtype = args.dtype.map_or(Dtype::F32, Dtype::from);
    let towers = export(&source.config()?, tensors, &source.tokenizer_json, layout, dtype)?;
    write_foreign(&towers.files, &args.out)?;
    let out = |folder: &str| args.out.join(folder);
    let loads = |(folder, call): &(String, String)| {
        let folder = out(folder).display().to_string();
        call.replace("FOLDER", folder.trim_end_matches('/'))
    };
    let loads: Vec<String> = towers.loads.iter().map(loads).collect();
    if globals.json {
        let files: Vec<&String> = towers.files.iter().map(|(name, _)| name).collect();
        return print_json(&json!({
            "out": json_path(&args.out),
            "files": files,
            "loads": loads,
            "notes": towers.notes,
        }));
    }
    loads.into_iter().try_for_each(print)?;
    for words in &towers.notes {
        note(globals.quiet, words);
    }
    note(globals.quiet, format!("wrote {}", printable_path(&args.out)));
    Ok(())
}

/// The cut-offs that `mmgem calibrate --json` printed into a file.
fn read_cutoffs(file: &Path) -> Result<Vec<SearchCutoff>> {
    let mut printed: Value = serde_json::from_slice(&read(file)?).unwrap_or_default();
    let cutoffs = printed.get_mut("cutoffs").map(Value::take).unwrap_or_default();
    serde_json::from_value(cutoffs).map_err(|cause| {
        let found = format!(
            "the file has no cut-offs ({cause}), wanted the output of `mmgem calibrate SHARDS --json`"
        );
        anyhow!("{found}\n  file: {}", printable_path(file))
    })
}

/// A temporary folder inside the output folder, removed on drop unless it is published.
struct Draft {
    out: PathBuf,
    folder: PathBuf,
    /// Whether `begin` created the output folder.
    made_out: bool,
}

impl Draft {
    fn begin(out: &Path) -> Result<Self> {
        let made_out = !out.exists();
        let folder = out.join(format!(".export-{}.tmp", std::process::id()));
        create_dir(&folder)?;
        Ok(Self { out: out.into(), folder, made_out })
    }

    fn publish(mut self) -> Result<()> {
        move_model(&self.folder, &self.out)?;
        self.made_out = false;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // If this fails, the name of the folder tells the user that it is temporary.
        let _ = std::fs::remove_dir_all(&self.folder);
        if self.made_out {
            let _ = std::fs::remove_dir(&self.out);
        }
    }
}

/// The differences between the copy and the model.
struct Lost {
    cosines: [(&'static str, Cosines); 3],
    captions: Agreement,
    on_data: Option<(Scores, Scores, Agreement)>,
}

impl Lost {
    fn measure(original: &Session, copy: &Session, args: &ExportArgs, quiet: bool) -> Result<Self> {
        let (before, after) = (self_check::answers(original)?, self_check::answers(copy)?);
        let tokenizer = original.tokenizer();
        let on_data = match args.data.as_slice() {
            [] => None,
            shards => {
                let measure = |session| Scores::measure(session, shards, args.limit, quiet);
                let (before, after) = (measure(original)?, measure(copy)?);
                let captions = before.agreement(&after, tokenizer)?;
                Some((before, after, captions))
            }
        };
        Ok(Self {
            cosines: cosines(&before, &after),
            captions: Agreement::of(&before.captions, &after.captions, tokenizer)?,
            on_data,
        })
    }

    fn check(&self, floor: f32) -> Result<()> {
        for (kind, cosines) in &self.cosines {
            // NaN must not pass.
            ensure!(
                cosines.worst >= floor,
                "the copy's {kind} vectors differ from the model's: cosine {}, wanted at least \
                 {floor}; nothing was written\n  hint: some weights may be too large for this \
                 format; --dtype q8 or f16 loses less",
                cosines.worst
            );
        }
        Ok(())
    }

    fn to_json(&self) -> Map<String, Value> {
        let worst =
            self.cosines.iter().map(|(_, cosines)| cosines.worst).fold(f32::INFINITY, f32::min);
        let kinds: Map<String, Value> = self
            .cosines
            .iter()
            .map(|(kind, cosines)| ((*kind).to_owned(), cosines.to_json()))
            .collect();
        let mut keys = Map::new();
        keys.insert("cosine_worst".into(), json_f32(worst));
        keys.insert("cosine".into(), kinds.into());
        keys.insert("captions".into(), self.captions.to_json());
        if let Some((before, after, captions)) = &self.on_data {
            let scores: Map<String, Value> = before
                .named()
                .into_iter()
                .zip(after.named())
                .map(|((key, before), (_, after))| {
                    (key.to_owned(), json!({ "before": before, "after": after }))
                })
                .collect();
            let n_photos = before.n_photos;
            keys.insert(
                "data".into(),
                json!({ "n_photos": n_photos, "scores": scores, "captions": captions.to_json() }),
            );
        }
        keys
    }

    fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self
            .cosines
            .iter()
            .map(|(kind, c)| {
                format!(
                    "cosine    {kind:8} mean {:.6}, worst {:.6} over {} of drawn scenes",
                    c.mean, c.worst, c.n
                )
            })
            .collect();
        let captions = |c: &Agreement, of: &str| {
            let (same, n, tokens) = (c.n_same, c.n, 100.0 * c.tokens);
            format!(
                "captions  {same} of {n} the same, {tokens:.1} % of the tokens before a difference, of {of}"
            )
        };
        lines.push(captions(&self.captions, "drawn scenes and their regions"));
        if let Some((before, after, agreement)) = &self.on_data {
            let n_photos = before.n_photos;
            for ((key, before), (_, after)) in before.named().into_iter().zip(after.named()) {
                lines.push(format!("{key:27} {before:.4} -> {after:.4} on {n_photos} photos"));
            }
            lines.push(captions(agreement, "these photos"));
        }
        lines
    }
}

/// Copies the training history, if the model has one.
fn copy_history(source: &ModelFiles, out: &Path) -> Result<()> {
    let Some(history) = source.folder.as_ref().map(|folder| folder.join("training.json")) else {
        return Ok(());
    };
    if history.is_file() {
        create_dir(out)?;
        write_atomic(&out.join("training.json"), &read(&history)?)?;
    }
    Ok(())
}
