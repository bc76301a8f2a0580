//! `mmgem import`: an OpenCLIP image encoder and a Hugging Face Llama become a model folder.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use burn::tensor::Device;
use clap::{Args, ValueEnum};
use mmgem_core::checkpoint::import::{INCEPTION_MEAN_STD, ImportOptions, OPENAI_MEAN_STD, import};
use mmgem_core::checkpoint::{Dtype, Shards};
use mmgem_core::config::{CaptionOrder, HiddenAct, VisionTokens};
use mmgem_core::files::{self, ModelFolder, as_slices};
use mmgem_core::tokenizer::Tokenizer;
use serde_json::json;

use crate::args::Globals;
use crate::outputs::spare_inputs;
use crate::terminal::{note, print, print_json};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mmgem import --vision ViT-B-16/open_clip_model.safetensors --language TinyLlama-1.1B --out start\n  \
    mmgem import --vision ViT-L-14-336 --language TinyLlama-1.1B --image-size 336 --out start\n  \
    mmgem import --vision DFN2B-B-16 --quick-gelu --language TinyLlama-1.1B --out start\n\n\
    h1-h4 and the tokens of MM-GEM are new and have to be trained: `mmgem train`.")]
pub struct ImportArgs {
    /// OpenCLIP checkpoint: a .safetensors file, or the folder that holds it
    #[arg(long, value_name = "F")]
    vision: PathBuf,
    /// Hugging Face folder of a Llama: config.json, model.safetensors, tokenizer.json
    #[arg(long, value_name = "DIR")]
    language: PathBuf,
    /// Folder to write
    #[arg(long, value_name = "MODEL")]
    out: PathBuf,
    /// Side of the input in pixels; the positions are interpolated to it
    #[arg(long, value_name = "PX")]
    image_size: Option<usize>,
    /// Attention heads of the image encoder, where OpenCLIP's rule does not hold
    #[arg(long, value_name = "N")]
    vision_heads: Option<usize>,
    /// The image encoder has QuickGELU: OpenAI's and DFN's checkpoints
    #[arg(long)]
    quick_gelu: bool,
    /// Pixel statistics that the image encoder was trained with
    #[arg(long, value_enum, default_value_t = PixelStatistics::Openai)]
    mean_std: PixelStatistics,
    /// Width of the joint space; the width of OpenCLIP's own without
    #[arg(long, value_name = "D")]
    embed_dim: Option<usize>,
    /// What the language model sees of a whole photo
    #[arg(long, value_enum, default_value_t = Tokens::Mean)]
    vision_tokens: Tokens,
    /// Order of a caption's prefix
    #[arg(long, value_enum, default_value_t = Order::ImageFirst)]
    caption_order: Order,
    /// Number format of the written weights
    #[arg(long, value_enum, default_value_t = WeightDtype::F32)]
    dtype: WeightDtype,
    /// Draws h1-h4 and the tokens
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PixelStatistics {
    /// OpenAI's, and most of OpenCLIP's
    Openai,
    /// Mean and deviation 0.5: LAION-2B's ViT-L/14, SigLIP
    Inception,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Tokens {
    /// One token, the mean (the paper's stage 1)
    Mean,
    /// One token for each patch
    Grid,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Order {
    /// The image, then [CAP]
    ImageFirst,
    /// [CAP], then the image
    CapFirst,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum WeightDtype {
    /// 32-bit floats
    F32,
    /// 16-bit floats
    F16,
}

pub fn run(args: &ImportArgs, globals: &Globals) -> Result<()> {
    // The folder gets config.json, model.safetensors and tokenizer.json, as those that are read have.
    let folder_of =
        |path: &Path| if path.is_dir() { path.to_owned() } else { path.parent().unwrap_or(path).to_owned() };
    let (vision_folder, language_folder) = (folder_of(&args.vision), folder_of(&args.language));
    spare_inputs("--out", &args.out, [vision_folder.as_path(), language_folder.as_path()])?;
    let vision = read_vision(&args.vision).context("the image encoder cannot be imported")?;
    let language = files::read_shards(&args.language, "model.safetensors").context(
        "the language model cannot be imported\n  hint: wanted a Hugging Face folder with safetensors",
    )?;
    let in_language = |name: &str| {
        files::read(&args.language.join(name))
            .with_context(|| format!("the language model's {name} cannot be read"))
    };
    let language_config = String::from_utf8_lossy(&in_language("config.json")?).into_owned();
    let tokenizer_json = in_language("tokenizer.json")?;

    let (vision, language) = (as_slices(&vision), as_slices(&language));
    let vision = Shards::new(&vision)?;
    let options = options(args, &vision);
    let (config, model) =
        import(vision, Shards::new(&language)?, &language_config, &options, &Device::flex())?;
    let tokenizer = Tokenizer::from_json(&tokenizer_json, &config)?;

    let summary = json!({
        "out": args.out,
        "image_encoder": config.vision.to_string(),
        "language_model": format!("Llama {}x{}", config.llm.num_hidden_layers, config.llm.hidden_size),
        "embed_dim": config.embed_dim,
    });
    let dtype = match args.dtype {
        WeightDtype::F32 => Dtype::F32,
        WeightDtype::F16 => Dtype::F16,
    };
    ModelFolder { config, model, tokenizer, tokenizer_json }.write(&args.out, dtype)?;
    if globals.json {
        return print_json(&summary);
    }
    for (key, value) in summary.as_object().expect("made above") {
        print(format!("{key:<16}{}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)))?;
    }
    note(globals.quiet, "h1-h4 and the tokens are new: train before use");
    Ok(())
}

fn options(args: &ImportArgs, vision: &Shards) -> ImportOptions {
    let (image_mean, image_std) = match args.mean_std {
        PixelStatistics::Openai => OPENAI_MEAN_STD,
        PixelStatistics::Inception => INCEPTION_MEAN_STD,
    };
    let own_width = vision.shape("visual.proj").and_then(|shape| shape.get(1)).copied();
    ImportOptions {
        image_size: args.image_size,
        vision_heads: args.vision_heads,
        hidden_act: if args.quick_gelu { HiddenAct::QuickGelu } else { HiddenAct::Gelu },
        image_mean,
        image_std,
        embed_dim: args.embed_dim.or(own_width).unwrap_or(512),
        vision_tokens: match args.vision_tokens {
            Tokens::Mean => VisionTokens::Mean,
            Tokens::Grid => VisionTokens::Grid,
        },
        caption_order: match args.caption_order {
            Order::ImageFirst => CaptionOrder::ImageFirst,
            Order::CapFirst => CaptionOrder::CapFirst,
        },
        seed: args.seed,
    }
}

/// The files of an OpenCLIP checkpoint: the one that is named, or those of a folder.
fn read_vision(path: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    if !path.is_dir() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        return Ok(vec![(name, files::read(path)?)]);
    }
    const NAMES: [&str; 2] = ["open_clip_model.safetensors", "model.safetensors"];
    let there = |name: &&&str| path.join(name).is_file() || path.join(format!("{name}.index.json")).is_file();
    match NAMES.iter().find(there) {
        Some(name) => Ok(files::read_shards(path, name)?),
        None => bail!(
            "found neither {} nor an index of theirs\n  hint: a PyTorch .bin has to be converted to safetensors first\n  folder: {}",
            NAMES.join(" nor "),
            path.display()
        ),
    }
}
