//! `mmgem import`: makes a model folder from a published image encoder and a Hugging Face Llama.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use mmgem_core::checkpoint::Dtype;
use mmgem_core::checkpoint::import::{ImportOptions, import};
use mmgem_core::checkpoint::towers::{
    IMAGENET_MEAN_STD, INCEPTION_MEAN_STD, MeanStd, OPENAI_MEAN_STD, TowerOptions,
};
use mmgem_core::config::{CaptionOrder, HiddenAct, VisionTokens};
use mmgem_core::image::ResizeMode;
use mmgem_core::tokenizer::Tokenizer;
use mmgem_data::files::{self, LANGUAGE_WEIGHTS, Published, VISION_WEIGHTS};
use serde_json::json;

use crate::globals::Globals;
use crate::outputs::spare_inputs;
use crate::terminal::{note, print, print_json};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mmgem import --vision ViT-B-16/open_clip_model.safetensors --language TinyLlama-1.1B --out start\n  \
    mmgem import --vision clip-vit-large-patch14-336 --language TinyLlama-1.1B --out start\n  \
    mmgem import --vision dinov2-small --image-size 224 --language SmolLM-135M --out start\n  \
    mmgem import --vision tf_efficientnet_lite2.in1k --vision-tokens roi --language SmolLM-135M --out start\n\n\
    Supported image encoders: OpenCLIP's ViTs; transformers' CLIPModel, CLIPVisionModel, \
    SiglipVisionModel and Dinov2Model; timm's ViTs and tf_efficientnet_lite0 to 4. Weights are \
    safetensors, in one file or several, or PyTorch's .bin, .pt and .pth. Heads, activation and \
    pixel statistics come from open_clip_config.json, config.json and preprocessor_config.json in \
    the same folder.\n\n\
    The layers h1-h4 and the tokens of MM-GEM are new. Train them with `mmgem train`.")]
pub struct ImportArgs {
    /// Image encoder: a file of weights, an index of several files, or their folder
    #[arg(long, value_name = "F")]
    vision: PathBuf,
    /// Hugging Face folder of a Llama: config.json, model.safetensors, tokenizer.json
    #[arg(long, value_name = "DIR")]
    language: PathBuf,
    /// Folder to write
    #[arg(long, value_name = "MODEL")]
    out: PathBuf,
    /// Side of the input image in pixels [default: the encoder's]
    ///
    /// The position embeddings are interpolated to this size.
    #[arg(long, value_name = "PX")]
    image_size: Option<usize>,
    /// Attention heads of the image encoder, if its config files do not give them
    ///
    /// Needed only if the number is not the usual one for the width.
    #[arg(long, value_name = "N")]
    vision_heads: Option<usize>,
    /// The image encoder uses QuickGELU, if its config files do not say so
    ///
    /// Needed for OpenAI's and DFN's checkpoints.
    #[arg(long)]
    quick_gelu: bool,
    /// Pixel statistics of the image encoder's training, if its config files do not give them
    #[arg(long, value_enum)]
    mean_std: Option<PixelStatistics>,
    /// How to make a photo square
    #[arg(long, value_enum, default_value_t = Square::Squash)]
    resize_mode: Square,
    /// Width of the joint space [default: the width of CLIP's own, or 512]
    #[arg(long, value_name = "D")]
    embed_dim: Option<usize>,
    /// Tokens of a whole photo for the language model
    #[arg(long, value_enum, default_value_t = Tokens::Mean)]
    vision_tokens: Tokens,
    /// Order of a caption's prefix
    #[arg(long, value_enum, default_value_t = Order::ImageFirst)]
    caption_order: Order,
    /// Number format of the written weights
    #[arg(long, value_enum, default_value_t = WeightDtype::F32)]
    dtype: WeightDtype,
    /// Random seed
    ///
    /// It determines the new layers h1-h4 and the new tokens.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PixelStatistics {
    /// OpenAI's, and most of OpenCLIP's
    Openai,
    /// Mean and deviation 0.5: LAION-2B's ViT-L/14, SigLIP
    Inception,
    /// ImageNet's: DINOv2, DeiT
    Imagenet,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Square {
    /// Resize the whole photo, without its aspect ratio
    Squash,
    /// Resize the shortest side to the input's size, then crop the centre
    Crop,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Tokens {
    /// One token, the mean (the paper's stage 1)
    Mean,
    /// One token for each patch
    Grid,
    /// 7x7 tokens, RoIAlign over the whole photo
    Roi,
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
    // The output files have the names of the input files: config.json, model.safetensors and
    // tokenizer.json.
    let folder_of = |path: &Path| {
        if path.is_dir() { path.to_owned() } else { path.parent().unwrap_or(path).to_owned() }
    };
    let (vision_folder, language_folder) = (folder_of(&args.vision), folder_of(&args.language));
    spare_inputs("--out", &args.out, [vision_folder.as_path(), language_folder.as_path()])?;
    let of_vision = "the image encoder cannot be imported";
    let vision = Published::open(&args.vision, VISION_WEIGHTS).context(of_vision)?;
    let configs = vision.tower_configs().context(of_vision)?;
    let language = Published::open(&args.language, LANGUAGE_WEIGHTS)
        .context("the language model cannot be imported\n  hint: wanted a Hugging Face folder")?;
    let in_language = |name: &str| {
        files::read(&args.language.join(name))
            .with_context(|| format!("the language model's {name} cannot be read"))
    };
    let language_config = String::from_utf8_lossy(&in_language("config.json")?).into_owned();
    let tokenizer_json = in_language("tokenizer.json")?;

    let imported =
        import(vision.shards()?, &configs, language.shards()?, &language_config, &options(args))?;
    let config = &imported.config;
    Tokenizer::from_json(&tokenizer_json, config)?;

    let summary = json!({
        "out": args.out,
        "image_encoder": config.vision.to_string(),
        "language_model": format!("Llama {}x{}", config.llm.num_hidden_layers, config.llm.hidden_size),
        "embed_dim": config.embed_dim,
        "image_mean": config.image_mean,
        "image_std": config.image_std,
        "notes": imported.notes,
    });
    let dtype = match args.dtype {
        WeightDtype::F32 => Dtype::F32,
        WeightDtype::F16 => Dtype::F16,
    };
    files::write_import(&imported, &[&vision, &language], &tokenizer_json, &args.out, dtype)?;
    if globals.json {
        return print_json(&summary);
    }
    for (key, value) in
        summary.as_object().expect("made above").iter().filter(|(key, _)| *key != "notes")
    {
        print(format!(
            "{key:<16}{}",
            value.as_str().map_or_else(|| value.to_string(), str::to_owned)
        ))?;
    }
    for words in &imported.notes {
        note(globals.quiet, words);
    }
    note(globals.quiet, "h1-h4 and the tokens are new: train the model before use");
    Ok(())
}

fn options(args: &ImportArgs) -> ImportOptions {
    let mean_std = args.mean_std.map(|statistics| -> MeanStd {
        match statistics {
            PixelStatistics::Openai => OPENAI_MEAN_STD,
            PixelStatistics::Inception => INCEPTION_MEAN_STD,
            PixelStatistics::Imagenet => IMAGENET_MEAN_STD,
        }
    });
    ImportOptions {
        tower: TowerOptions {
            image_size: args.image_size,
            num_attention_heads: args.vision_heads,
            hidden_act: args.quick_gelu.then_some(HiddenAct::QuickGelu),
            mean_std,
        },
        resize_mode: match args.resize_mode {
            Square::Squash => ResizeMode::Squash,
            Square::Crop => ResizeMode::Crop,
        },
        embed_dim: args.embed_dim,
        vision_tokens: match args.vision_tokens {
            Tokens::Mean => VisionTokens::Mean,
            Tokens::Grid => VisionTokens::Grid,
            Tokens::Roi => VisionTokens::Roi,
        },
        caption_order: match args.caption_order {
            Order::ImageFirst => CaptionOrder::ImageFirst,
            Order::CapFirst => CaptionOrder::CapFirst,
        },
        seed: args.seed,
    }
}
