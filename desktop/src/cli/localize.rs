//! `mmgem localize`: locates a text in a photo (the paper's figure 3).

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use mmgem_core::image::{preprocess, to_jpeg};
use mmgem_data::files::write_atomic;
use serde_json::json;

use crate::args::{Globals, not_empty};
use crate::draw::{draw_box, overlay_heat, png_bytes};
use crate::model::model_files;
use crate::names::{json_path, path_parser, put_path, shown};
use crate::outputs::{check_ending, spare_inputs};
use crate::photos::read_photo;
use crate::query::doubts_of;
use crate::terminal::{box_text, json_box, json_f32, json_floats, note, print, print_json};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mmgem localize photo.jpg --text \"the dog\" --out dog.png\n  \
    mmgem localize photo.jpg --text \"a red hat\" --out hat.png --json")]
pub struct LocalizeArgs {
    /// Photo
    #[arg(value_name = "IMAGE", value_parser = path_parser())]
    image: PathBuf,
    /// Text to locate
    #[arg(long, value_name = "T", value_parser = not_empty)]
    text: String,
    /// PNG or JPEG file to write: the photo with the heat map and the best box
    #[arg(long, value_name = "PICTURE")]
    out: PathBuf,
}

/// Quality of a JPEG output.
const JPEG_QUALITY: u8 = 92;

pub fn run(args: &LocalizeArgs, globals: &Globals) -> Result<()> {
    check_ending("--out", &args.out, &["png", "jpg", "jpeg"], "convert the picture afterwards")?;
    let model = model_files(globals.model.as_deref());
    spare_inputs("--out", &args.out, model.iter().chain([&args.image]).map(PathBuf::as_path))?;
    let context = &globals.open()?;
    let session = &context.session;
    let doubts = doubts_of(&args.text, session.tokenizer())?;
    doubts.iter().for_each(|doubt| note(context.quiet, format!("warning: {doubt}")));
    let mut photo = read_photo(&args.image)?;
    let input = preprocess(&photo, &session.config().preprocess());
    let map = input.map;
    let encoded = session.encode_batch(&[input]).pop().expect("one photo in, one out");
    let found = pollster::block_on(async {
        let text_embed = session.embed_text(&args.text).await?;
        session.localize(&encoded, &text_embed).await
    })?;

    overlay_heat(
        &mut photo,
        &found.similarity,
        found.grid,
        session.config().vision.image_size(),
        &map,
    );
    draw_box(&mut photo, found.box_px);
    let ends_in =
        |ending| args.out.extension().is_some_and(|found| found.eq_ignore_ascii_case(ending));
    let is_jpeg = ends_in("jpg") || ends_in("jpeg");
    let too_long = photo.width().max(photo.height()) > u32::from(u16::MAX);
    ensure!(
        !is_jpeg || !too_long,
        "a JPEG has at most 65535 pixels per side; use a .png file for --out"
    );
    let picture = if is_jpeg { to_jpeg(&photo, JPEG_QUALITY) } else { png_bytes(&photo)? };
    write_atomic(&args.out, &picture)?;

    if context.json {
        let mut document = json!({
            "path": null,
            "text": args.text,
            "box": json_box(Some(found.box_px)),
            "score": json_f32(found.score),
            "point": json_floats(&found.point_px),
            "grid": found.grid,
            "similarity": json_floats(&found.similarity),
            "out": json_path(&args.out),
        });
        put_path(&mut document, &args.image);
        if !doubts.is_empty() {
            document["warnings"] = json!(doubts);
        }
        return print_json(&document);
    }
    let [x, y] = found.point_px;
    print(format!(
        "{}\tscore {:.4}\tpoint {x:.0},{y:.0}",
        box_text(Some(found.box_px)),
        found.score
    ))?;
    note(context.quiet, format!("wrote {}", shown(&args.out)));
    Ok(())
}
