//! Captions a photo and the middle of it with the embedded model.
//!
//! `cargo build --release --workspace --example caption`, then
//! `target/release/examples/caption photo.jpg`

#![allow(clippy::print_stdout, reason = "an example prints its results")]

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use mmgem_core::generate::Decoding;
use mmgem_core::session::{Part, Session};
use pollster::block_on;

fn main() -> Result<(), Box<dyn Error>> {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets");
    let photo = std::env::args_os().nth(1).map_or(assets.join("demo/cat.jpg"), PathBuf::from);

    let model = assets.join("model");
    let session = Session::open(
        &fs::read_to_string(model.join("config.json"))?,
        &[("model.safetensors", &fs::read(model.join("model.safetensors"))?)],
        &fs::read(model.join("tokenizer.json"))?,
        &Device::flex(),
    )?;
    let image = session.encode_image(&fs::read(photo)?)?;
    let [width, height] = [image.width as f32, image.height as f32];
    let middle = Part::Box([0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height]);
    for part in [Part::Whole, middle] {
        let caption = block_on(session.caption(&image, &part, Decoding::default()))?;
        println!("{part:?}: {}", caption.text);
    }
    Ok(())
}
