//! `mmgem caption`: captions of photos, or of regions of them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use mmgem_core::config::MmGemConfig;
use mmgem_core::generate::Decoding;
use mmgem_core::session::{Caption, EncodedImage, Part};
use serde_json::{Value, json};

use crate::context::Context;
use crate::globals::WrongArguments;
use crate::names::{json_path, listed, path_parser, printable_path, put_path};
use crate::photos::{for_each_encoded, named_photos, read_photo};
use crate::terminal::{box_text, json_box, json_f32, one_line, print, print_json};
use crate::values::BoxArg;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mmgem caption photo.jpg\n  \
    mmgem caption photo.jpg --box 40,60,200,220 --box 0,0,90,90\n  \
    mmgem caption photo.jpg --mask region.png --beam 4\n  \
    mmgem caption *.jpg --json > captions.json")]
pub struct CaptionArgs {
    /// Photos
    #[arg(required = true, value_name = "IMAGE", value_parser = path_parser())]
    images: Vec<PathBuf>,
    /// Region of every photo to describe, in pixels of the upright photo (repeatable)
    #[arg(long = "box", value_name = "X0,Y0,X1,Y1", allow_hyphen_values = true)]
    boxes: Vec<BoxArg>,
    /// Image of the photo's size that is white in the region to describe
    #[arg(long, value_name = "PNG", value_parser = path_parser())]
    mask: Option<PathBuf>,
    /// Beam width; 1 is greedy decoding
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    beam: u16,
    /// Maximum number of tokens of a caption
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..))]
    max_tokens: u16,
}

/// A part of a photo, and its name in the results.
struct NamedPart {
    part: Part,
    label: String,
    json: Value,
}

pub fn run(args: &CaptionArgs, context: &Context) -> Result<()> {
    let images = named_photos(&args.images);
    if args.mask.is_some() && images.len() > 1 {
        return Err(WrongArguments(
            "--mask works with one photo only; caption the others without it".into(),
        )
        .into());
    }
    let decoding = checked_decoding(args, context)?;
    let parts = parts(args)?;
    let mut captions: Vec<(PathBuf, Value)> = Vec::new();
    let failed = for_each_encoded(context, &images, |path, encoded| {
        for part in &parts {
            let caption = caption(context, path, encoded, part, decoding)?;
            if context.json {
                captions.push((path.to_owned(), entry(path, part, &caption)));
            } else {
                print(format!("{}\t{}\t{}", listed(path), part.label, one_line(&caption.text)))?;
            }
        }
        Ok(())
    })?;
    if !context.json {
        return Ok(());
    }
    captions.extend(failed.into_iter().map(|(path, why)| (path.clone(), passed_over(&path, &why))));
    // In the order of the photos. A skipped photo takes the place of its captions.
    captions.sort_by_key(|(path, _)| images.iter().position(|image| image == path));
    print_json(&captions.into_iter().map(|(_, entry)| entry).collect())
}

/// Checks that the prefix and the caption fit the language model's positions.
fn checked_decoding(args: &CaptionArgs, context: &Context) -> Result<Decoding> {
    let room = room(context.session.config(), args.boxes.is_empty() && args.mask.is_none());
    let (max_tokens, beam) = (usize::from(args.max_tokens), usize::from(args.beam));
    if max_tokens > room {
        let message = format!("--max-tokens is {max_tokens}; the model has room for {room}");
        return Err(WrongArguments(message).into());
    }
    Ok(Decoding { max_tokens, beam, ..Decoding::default() })
}

/// Tokens that fit after the prefix of a whole photo (stage 1) or of a region (stage 2).
fn room(config: &MmGemConfig, whole: bool) -> usize {
    let prefix = match whole {
        true => config.n_whole_tokens(config.grid().pow(2)) + 1,
        false => config.roi_output_size.pow(2) + config.num_caption_prompts,
    };
    config.llm.max_position_embeddings.saturating_sub(prefix)
}

/// The given regions, or the whole photo if there are none.
fn parts(args: &CaptionArgs) -> Result<Vec<NamedPart>> {
    let mut parts: Vec<NamedPart> = args
        .boxes
        .iter()
        .map(|BoxArg(box_px)| NamedPart {
            part: Part::Box(*box_px),
            label: box_text(Some(*box_px)),
            json: json_box(Some(*box_px)),
        })
        .collect();
    if let Some(path) = &args.mask {
        let part = read_mask(path).context("the mask cannot be used")?;
        parts.push(NamedPart {
            part,
            label: format!("mask {}", printable_path(path)),
            json: json_path(path),
        });
    }
    if parts.is_empty() {
        parts.push(NamedPart { part: Part::Whole, label: box_text(None), json: Value::Null });
    }
    Ok(parts)
}

fn caption(
    context: &Context,
    path: &Path,
    encoded: &EncodedImage,
    part: &NamedPart,
    decoding: Decoding,
) -> Result<Caption> {
    pollster::block_on(context.session.caption(encoded, &part.part, decoding))
        .with_context(|| format!("cannot caption\n  file: {}", printable_path(path)))
}

fn passed_over(path: &Path, why: &str) -> Value {
    let mut entry = json!({});
    put_path(&mut entry, path);
    entry["caption"] = Value::Null;
    entry["problem"] = why.into();
    entry
}

fn entry(path: &Path, part: &NamedPart, caption: &Caption) -> Value {
    let mut entry = json!({});
    put_path(&mut entry, path);
    entry["box"] = Value::Null;
    let key = if matches!(part.part, Part::Mask { .. }) { "mask" } else { "box" };
    entry[key] = part.json.clone();
    entry["caption"] = caption.text.as_str().into();
    entry["log_prob"] = json_f32(caption.log_prob);
    entry
}

fn read_mask(path: &Path) -> Result<Part> {
    let mask = read_photo(path)?;
    let values =
        mask.pixels().map(|pixel| pixel.0.into_iter().max().expect("three channels")).collect();
    Ok(Part::Mask { width: mask.width(), height: mask.height(), values })
}
