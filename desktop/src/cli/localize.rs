//! `mmgem localize`: locates a text in a photo (the paper's figure 3).

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use mmgem_core::image::{Decoded, Rgb, preprocess, to_jpeg};
use mmgem_core::model::Stage;
use mmgem_core::session::{Localization, Session};
use mmgem_data::files::write_atomic;
use serde_json::json;

use crate::draw::{draw_box, overlay_heat, png_bytes};
use crate::globals::Globals;
use crate::model::model_files;
use crate::names::{json_path, path_parser, printable_path, put_path};
use crate::outputs::{check_ending, spare_inputs};
use crate::photos::read_decoded;
use crate::query::text_warnings;
use crate::terminal::{box_text, json_box, json_f32, json_floats, note, print, print_json};
use crate::values::not_empty;

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

/// Locates a text in a photo. Returns the position in pixels of the original, and the photo with
/// the heat map and the best box.
///
/// The photo is smaller than the original if that has more than 200 megapixels.
fn locate(session: &Session, decoded: Decoded, text: &str) -> Result<(Localization, Rgb)> {
    let Decoded { pixels: mut photo, width, height, .. } = decoded;
    let input = preprocess(&photo, &session.config().preprocess());
    let map = input.map;
    let input = input.of_original(width, height);
    let encoded = session.encode_batch(&[input]).pop().expect("one photo in, one out");
    let found = pollster::block_on(async {
        let text_embed = session.embed_text(text).await?;
        session.localize(Stage::Two, &encoded, &text_embed).await
    })?;
    let image_size = session.config().vision.image_size();
    overlay_heat(&mut photo, &found.similarity, found.grid, image_size, &map);
    let scale = [photo.width() as f32 / width as f32, photo.height() as f32 / height as f32];
    draw_box(&mut photo, std::array::from_fn(|i| found.box_px[i] * scale[i % 2]));
    Ok((found, photo))
}

/// Quality of a JPEG output.
const JPEG_QUALITY: u8 = 92;

pub fn run(args: &LocalizeArgs, globals: &Globals) -> Result<()> {
    check_ending("--out", &args.out, &["png", "jpg", "jpeg"], "convert the picture afterwards")?;
    let model = model_files(globals.model.as_deref());
    spare_inputs("--out", &args.out, model.iter().chain([&args.image]).map(PathBuf::as_path))?;
    let context = &globals.open()?;
    let session = &context.session;
    let warnings = text_warnings(&args.text, session.tokenizer())?;
    warnings.iter().for_each(|warning| note(context.quiet, format!("warning: {warning}")));
    let (found, photo) = locate(session, read_decoded(&args.image)?, &args.text)?;
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
        if !warnings.is_empty() {
            document["warnings"] = json!(warnings);
        }
        return print_json(&document);
    }
    let [x, y] = found.point_px;
    print(format!(
        "{}\tscore {:.4}\tpoint {x:.0},{y:.0}",
        box_text(Some(found.box_px)),
        found.score
    ))?;
    note(context.quiet, format!("wrote {}", printable_path(&args.out)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use mmgem_scenes::scene;

    use super::*;
    use crate::device::{DeviceChoice, open_device};
    use crate::model::ModelFiles;

    #[test]
    fn the_box_in_a_reduced_scan_is_in_pixels_of_the_original() {
        let files = ModelFiles::read(None).expect("embedded");
        let cpu = open_device(DeviceChoice::Cpu).expect("there is always a CPU");
        let session = files.open(&cpu).expect("the embedded files belong together");
        let scene = scene(11, 3);
        let (width, height) = (scene.width, scene.height);
        let photo = Rgb::from_raw(width, height, scene.rgb).expect("three bytes a pixel");
        let of = |by: u32| Decoded {
            pixels: photo.clone(),
            width: by * width,
            height: by * height,
            format: "PNG",
            problem: None,
        };
        let (as_is, drawn) = locate(&session, of(1), "a circle").expect("it is found");
        let (scan, of_scan) = locate(&session, of(4), "a circle").expect("it is found");
        assert_eq!(scan.box_px, as_is.box_px.map(|x| 4.0 * x));
        assert_eq!(scan.point_px, as_is.point_px.map(|x| 4.0 * x));
        assert_eq!((scan.score, of_scan), (as_is.score, drawn));
    }
}
