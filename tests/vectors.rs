//! The embedded model with the vectors of other processors.
//!
//! It has a program of its own, because the limit applies to a whole process.

#![allow(clippy::print_stdout, reason = "a test prints what it measures")]

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use mmgem_core::generate::Decoding;
use mmgem_core::limit_vectors;
#[cfg(target_arch = "x86_64")]
use mmgem_core::quant::Kernel;
use mmgem_core::session::{Part, Session};
use pollster::block_on;

#[test]
fn vectors_of_every_width_give_the_same_embeddings_and_captions() {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets");
    let file = |name: &str| fs::read(assets.join(name)).expect(name);
    let config = String::from_utf8(file("model/config.json")).expect("JSON");
    let weights = file("model/model.safetensors");
    let session = Session::open(
        &config,
        &[("model.safetensors", &weights)],
        &file("model/tokenizer.json"),
        &Device::flex(),
    )
    .expect("the embedded model opens");
    let photo = file("demo/cat.jpg");
    let run = |n_floats: usize| {
        limit_vectors(n_floats);
        let image = session.encode_image(&photo).expect("the photo is readable");
        let caption = block_on(session.caption(&image, &Part::Whole, Decoding::default()));
        let image_embed =
            block_on(session.embed_image(&image, &Part::Whole)).expect("no GPU fails");
        let text_embed = block_on(session.embed_text("a cat on a chair")).expect("no GPU fails");
        (caption.expect("no GPU fails").text, [image_embed, text_embed].concat())
    };
    let (wanted_caption, wanted) = run(usize::MAX);
    for n_floats in [8, 4, 1] {
        let (caption, found) = run(n_floats);
        let off = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{n_floats} floats: {caption:?}, at most {off:e} from the widest vectors");
        assert_eq!(caption, wanted_caption, "{n_floats} floats");
        // Vectors have unit length, and sums of 1,280 terms differ in their rounding only.
        assert!(found.len() == wanted.len() && off < 1e-5, "{n_floats} floats: {off}");
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("fma") && n_floats < 8 {
            // Plain loops round products, which FMA does not.
            assert!(off > 0.0, "{n_floats} floats: the limit changed nothing");
        }
        #[cfg(target_arch = "x86_64")]
        {
            let of_packed = if n_floats < 8 { Kernel::Scalar } else { Kernel::Avx2 };
            assert!(!Kernel::available().contains(&of_packed) || Kernel::best() == of_packed);
        }
    }
}
