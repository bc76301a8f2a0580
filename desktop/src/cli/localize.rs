//! `mmgem localize`: where in a photo a text is (the paper's figure 3).

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use mmgem_core::files::write_atomic;
use mmgem_core::image::preprocess;
use serde_json::json;

use crate::context::Context;
use crate::draw::{draw_box, overlay_heat, png_bytes};
use crate::photos::read_photo;
use crate::terminal::{box_text, json_box, json_f32, json_floats, note, print, print_json};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mmgem localize photo.jpg --text \"the dog\" --out dog.png\n  \
    mmgem localize photo.jpg --text \"a red hat\" --out hat.png --json")]
pub struct LocalizeArgs {
    /// Photo
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// What to look for
    #[arg(long, value_name = "T")]
    text: String,
    /// Picture to write: the photo under its heat map, with the best box
    #[arg(long, value_name = "PNG")]
    out: PathBuf,
}

pub fn run(args: &LocalizeArgs, context: &Context) -> Result<()> {
    let session = &context.session;
    let mut photo = read_photo(&args.image)?;
    let input = preprocess(&photo, &session.config().preprocess());
    let map = input.map;
    let encoded = session.encode_batch(&[input]).pop().expect("one photo in, one out");
    let found = pollster::block_on(async {
        let text_embed = session.embed_text(&args.text).await?;
        session.localize(&encoded, &text_embed).await
    })?;

    overlay_heat(&mut photo, &found.similarity, found.grid, session.config().vision.image_size(), &map);
    draw_box(&mut photo, found.box_px);
    write_atomic(&args.out, &png_bytes(&photo)?)?;

    if context.json {
        return print_json(&json!({
            "path": args.image,
            "text": args.text,
            "box": json_box(Some(found.box_px)),
            "score": json_f32(found.score),
            "point": json_floats(&found.point_px),
            "grid": found.grid,
            "similarity": json_floats(&found.similarity),
            "out": args.out,
        }));
    }
    let [x, y] = found.point_px;
    print(format!("{}\tscore {:.4}\tpoint {x:.0},{y:.0}", box_text(Some(found.box_px)), found.score))?;
    note(context.quiet, format!("wrote {}", args.out.display()));
    Ok(())
}
