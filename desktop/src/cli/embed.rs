//! `mmgem embed`: embeds photos, regions and texts as unit vectors of one space.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use mmgem_core::checkpoint::{Dtype, to_safetensors};
use mmgem_core::image::BoxPx;
use mmgem_core::model::Stage;
use mmgem_data::files::write_atomic;
use serde_json::{Value, json};

use crate::context::Context;
use crate::globals::Globals;
use crate::model::model_files;
use crate::names::{json_path, listed, path_parser, printable_path, put_path};
use crate::outputs::{check_ending, spare_inputs};
use crate::photos::{for_each_encoded, named_photos, whole_embed};
use crate::query::text_warnings;
use crate::terminal::{box_text, json_box, json_floats, json_problem, note, print, print_json};
use crate::values::{BoxArg, not_empty};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
        mmgem embed photo.jpg --text \"a dog\" --json\n  \
        mmgem embed *.jpg --box 40,60,200,220 --out vectors.safetensors\n\n\
        Without --json and --out, each output line has kind, name and numbers, separated by tabs.")]
pub struct EmbedArgs {
    /// Photos
    #[arg(value_name = "IMAGE", required_unless_present_any = ["texts", "shards"], value_parser = path_parser())]
    images: Vec<PathBuf>,
    /// Text to embed (repeatable)
    #[arg(long = "text", value_name = "T", value_parser = not_empty)]
    texts: Vec<String>,
    /// Region of every photo to embed, in pixels of the upright photo (repeatable)
    #[arg(
        long = "box",
        value_name = "X0,Y0,X1,Y1",
        requires = "images",
        allow_hyphen_values = true
    )]
    boxes: Vec<BoxArg>,
    /// Old name of `mmgem embed-shards`
    #[arg(long, value_name = "SHARDS", num_args = 1.., requires = "out", conflicts_with_all = ["images", "texts"], hide = true)]
    pub shards: Vec<String>,
    /// Safetensors file to write
    ///
    /// The file has the tensors image_embed, text_embed and region_embed. Its header names the
    /// photos, texts and regions of their rows.
    #[arg(long, value_name = "F.safetensors")]
    pub out: Option<PathBuf>,
}

/// Unit vectors with their photos, texts and regions.
#[derive(Default)]
struct Embeds {
    images: Vec<(PathBuf, Vec<f32>)>,
    texts: Vec<(String, Vec<f32>)>,
    regions: Vec<(PathBuf, BoxPx, Vec<f32>)>,
    /// Warnings about each text, in the order of `texts`.
    warnings: Vec<Vec<String>>,
    /// Skipped photos, with the reason.
    passed_over: Vec<(PathBuf, String)>,
}

pub fn run(args: &EmbedArgs, globals: &Globals) -> Result<()> {
    let images = named_photos(&args.images);
    if let Some(out) = &args.out {
        check_ending(
            "--out",
            out,
            &["safetensors"],
            "--json prints JSON, and `mmgem embed-shards` writes Parquet",
        )?;
        let model = model_files(globals.model.as_deref());
        spare_inputs("--out", out, images.iter().chain(&model).map(PathBuf::as_path))?;
    }
    let context = &globals.open()?;
    let embeds = embed(args, &images, context)?;
    if let Some(out) = &args.out {
        write_atomic(out, &embeds.to_safetensors()?)?;
        note(context.quiet, format!("wrote {}", printable_path(out)));
    }
    if context.json {
        return print_json(&embeds.to_json());
    }
    if args.out.is_none() { embeds.print() } else { Ok(()) }
}

fn embed(args: &EmbedArgs, images: &[PathBuf], context: &Context) -> Result<Embeds> {
    let mut embeds = Embeds::default();
    for text in &args.texts {
        embeds.texts.push((text.clone(), pollster::block_on(context.session.embed_text(text))?));
        let warnings = text_warnings(text, context.session.tokenizer())?;
        warnings.iter().for_each(|warning| note(context.quiet, format!("warning: {warning}")));
        embeds.warnings.push(warnings);
    }
    let boxes: Vec<BoxPx> = args.boxes.iter().map(|BoxArg(box_px)| *box_px).collect();
    if images.is_empty() {
        return Ok(embeds);
    }
    embeds.passed_over = for_each_encoded(context, images, |path, encoded| {
        embeds.images.push((path.into(), whole_embed(context, encoded)?));
        if boxes.is_empty() {
            return Ok(());
        }
        let regions = pollster::block_on(context.session.embed_boxes(Stage::Two, encoded, &boxes))
            .with_context(|| format!("cannot embed a region\n  file: {}", printable_path(path)))?;
        let regions = boxes.iter().zip(regions.chunks(context.session.config().embed_dim));
        embeds
            .regions
            .extend(regions.map(|(box_px, embed)| (path.into(), *box_px, embed.to_vec())));
        Ok(())
    })?;
    Ok(embeds)
}

impl Embeds {
    fn to_json(&self) -> Value {
        let of = |path: &Path| {
            let mut entry = json!({});
            put_path(&mut entry, path);
            entry
        };
        let images = self.images.iter().map(|(path, embed)| {
            let mut entry = of(path);
            entry["embed"] = json_floats(embed);
            entry
        });
        let texts = self.texts.iter().zip(&self.warnings).map(|((text, embed), warnings)| {
            let mut entry = json!({ "text": text, "embed": json_floats(embed) });
            if !warnings.is_empty() {
                entry["warnings"] = json!(warnings);
            }
            entry
        });
        let regions = self.regions.iter().map(|(path, box_px, embed)| {
            let mut entry = of(path);
            entry["box"] = json_box(Some(*box_px));
            entry["embed"] = json_floats(embed);
            entry
        });
        let mut document = json!({
            "images": images.collect::<Value>(),
            "texts": texts.collect::<Value>(),
            "regions": regions.collect::<Value>(),
        });
        if !self.passed_over.is_empty() {
            document["passed_over"] = self.passed_over.iter().map(json_problem).collect();
        }
        document
    }

    fn print(&self) -> Result<()> {
        let numbers =
            |embed: &[f32]| embed.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        for (path, embed) in &self.images {
            print(format!("image\t{}\t{}", listed(path), numbers(embed)))?;
        }
        for (text, embed) in &self.texts {
            print(format!("text\t{}\t{}", text.escape_debug(), numbers(embed)))?;
        }
        for (path, box_px, embed) in &self.regions {
            print(format!(
                "region\t{} {}\t{}",
                listed(path),
                box_text(Some(*box_px)),
                numbers(embed)
            ))?;
        }
        Ok(())
    }

    fn to_safetensors(&self) -> Result<Vec<u8>> {
        let stack = |name: &str, rows: Vec<&Vec<f32>>| {
            let shape = vec![rows.len(), rows.first().map_or(0, |row| row.len())];
            (name.to_owned(), shape, rows.into_iter().flatten().copied().collect())
        };
        let tensors = [
            stack("image_embed", self.images.iter().map(|(_, embed)| embed).collect()),
            stack("text_embed", self.texts.iter().map(|(_, embed)| embed).collect()),
            stack("region_embed", self.regions.iter().map(|(_, _, embed)| embed).collect()),
        ];
        let tensors: Vec<_> =
            tensors.into_iter().filter(|(_, shape, _): &(_, Vec<usize>, _)| shape[0] > 0).collect();
        let images: Vec<_> = self.images.iter().map(|(path, _)| json_path(path)).collect();
        let texts: Vec<_> = self.texts.iter().map(|(text, _)| text).collect();
        let regions: Vec<_> = self
            .regions
            .iter()
            .map(|(path, box_px, _)| json!({ "path": json_path(path), "box": box_px }))
            .collect();
        let metadata = HashMap::from([
            ("images".to_owned(), serde_json::to_string(&images)?),
            ("texts".to_owned(), serde_json::to_string(&texts)?),
            ("regions".to_owned(), serde_json::to_string(&regions)?),
        ]);
        Ok(to_safetensors(&tensors, Dtype::F32, Some(metadata)))
    }
}
