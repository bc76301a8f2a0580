//! Loads exported towers in open_clip, transformers and timm, and compares their outputs with ours.
//!
//! `foreign.py` loads the folders. The models are those of the other parity cases, all random.

use std::fs;
use std::path::Path;
use std::process::Command;

use burn::tensor::{Device, Int, Tensor, TensorData};
use mmgem_core::checkpoint::export::{ForeignFiles, ForeignLayout, export};
use mmgem_core::checkpoint::{Dtype, Shards, load, named_tensors, to_safetensors};
use mmgem_core::config::{EfficientNetLiteConfig, MmGemConfig, VisionConfig};
use mmgem_core::init::fresh;
use mmgem_core::model::MmGem;
use mmgem_data::files::{ModelFolder, write_foreign};

use crate::fixture::{Case, RawFile, RawTensor, change_config, relative};

/// Largest difference allowed, over the largest value.
const TOLERANCE: f64 = 1e-5;
/// The same for the narrow network `lite_45`, whose noisy norms amplify rounding: PyTorch's own
/// results for such networks in f32 and f64 differ by up to 1.6e-5.
const NARROW_TOLERANCE: f64 = 3e-5;

/// Text for the tokenizers.
const TEXT: &str = "a red ball on a blue table, seen by two dogs";

fn towers(
    model: &ModelFolder,
    layout: ForeignLayout,
    dtype: Dtype,
) -> Result<ForeignFiles, String> {
    let tensors = named_tensors(&model.model);
    export(&model.config, tensors, &model.tokenizer_json, layout, dtype).map_err(|e| e.to_string())
}

/// The model of a parity case with a changed config.
fn model(case: &str, change: impl Fn(&mut serde_json::Value)) -> ModelFolder {
    let copy = Case::read(case).copy();
    change_config(copy.path(), change);
    ModelFolder::read(copy.path(), &Device::flex()).unwrap_or_else(|e| panic!("{case}: {e}"))
}

/// A random encoder with the sizes that timm calls tf_efficientnet_lite0, for small photos.
fn lite0() -> ModelFolder {
    let case = Case::read("lite_45").open(&Device::flex());
    let vision = VisionConfig::EfficientNetLite(EfficientNetLiteConfig {
        image_size: 64,
        width_coefficient: 1.0,
        depth_coefficient: 1.0,
        hidden_size: 1280,
    });
    let config = MmGemConfig { vision, ..case.config };
    let model = fresh(MmGem::new(&config, &Device::flex()), &config, 4);
    // Biases start at zero.
    let mut tensors = named_tensors(&model);
    for (name, _, values) in tensors.iter_mut().filter(|(name, ..)| name.ends_with(".bias")) {
        let start = name.len();
        let noise = |idx: usize| ((idx * 37 + start * 11) % 101) as f32 / 200.0 - 0.2;
        values.iter_mut().enumerate().for_each(|(idx, value)| *value = noise(idx));
    }
    let bytes = to_safetensors(&tensors, Dtype::F32, None);
    let shards = Shards::new(&[("model.safetensors", &bytes)]).expect("whole");
    let model = load(model, &shards).expect("the same tensors");
    ModelFolder { config, model, ..case }
}

/// Our outputs and the inputs for them, and the folders of the exports.
struct Exported {
    name: String,
    wanted: Vec<(&'static str, Vec<f32>)>,
}

fn pixels(side: usize) -> Vec<f32> {
    (0..2 * 3 * side * side).map(|at| ((at * 7919 % 1009) as f32 / 250.0) - 2.0).collect()
}

/// Writes the exports of a model and the inputs for `foreign.py`.
fn write(root: &Path, name: &str, model: &ModelFolder, layouts: &[ForeignLayout]) -> Exported {
    let folder = root.join(name);
    fs::create_dir(&folder).expect("writable");
    for layout in layouts {
        let files = towers(model, *layout, Dtype::F32).unwrap_or_else(|e| panic!("{name}: {e}"));
        let name = if *layout == ForeignLayout::OpenClip { "open-clip" } else { "hf" };
        write_foreign(&files.files, &folder.join(name)).expect("writable");
    }
    let side = model.config.vision.image_size();
    let n_ids = 24;
    let ids: Vec<i32> = (0..n_ids).map(|at| 3 + (at * 5) % 90).collect();
    let given = [
        ("pixels".to_owned(), RawTensor::f32(&[2, 3, side, side], &pixels(side))),
        (
            "ids".to_owned(),
            RawTensor::f32(&[1, ids.len()], &ids.iter().map(|id| *id as f32).collect::<Vec<_>>()),
        ),
    ];
    let given = RawFile(given.into_iter().collect());
    fs::write(folder.join("input.safetensors"), given.to_bytes()).expect("writable");
    fs::write(folder.join("text.txt"), TEXT).expect("writable");
    if let VisionConfig::EfficientNetLite(lite) = &model.config.vision {
        let sizes = format!("[{}, {}]", lite.width_coefficient, lite.depth_coefficient);
        fs::write(folder.join("sizes.json"), sizes).expect("writable");
    }

    let device = Device::flex();
    let floats = |tensor: Tensor<1>| tensor.into_data().try_to_vec::<f32>().expect("f32");
    let photo =
        || Tensor::<4>::from_data(TensorData::new(pixels(side), [2, 3, side, side]), &device);
    let v = model.model.visual.forward(photo());
    let v = floats(v.clone().reshape([v.dims().iter().product::<usize>()]));
    let features = model.model.visual.as_vit().and_then(|vit| vit.class_features(photo()));
    let features =
        features.map(|x| floats(x.clone().reshape([x.dims().iter().product::<usize>()])));
    let llm = &model.model.llm;
    let n = ids.len();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, n]), &device);
    let hidden = llm.forward_embeds(llm.embed(ids));
    let [_, _, width] = hidden.dims();
    let logits = llm.logits(hidden.reshape([n, width]));
    let logits = floats(logits.clone().reshape([logits.dims().iter().product::<usize>()]));
    let tokens = model.tokenizer.encode(TEXT).expect("any text can be encoded");
    let mut wanted = Vec::new();
    for layout in layouts {
        match layout {
            ForeignLayout::OpenClip => {
                wanted.push(("open_clip.v", v.clone()));
                wanted.extend(features.clone().map(|x| ("open_clip.features", x)));
            }
            ForeignLayout::HuggingFace => {
                wanted.push(("hf.v", v.clone()));
                wanted.extend(features.clone().map(|x| ("hf.features", x)));
                wanted.push(("hf.logits", logits.clone()));
                let tokens = tokens.iter().map(|id| *id as f32).collect();
                wanted.push(("hf.tokens", tokens));
            }
        }
    }
    Exported { name: name.to_owned(), wanted }
}

#[test]
fn exported_towers_compute_the_same_in_their_libraries() {
    use ForeignLayout::{HuggingFace, OpenClip};
    let has = |module: &str| {
        let code = format!("import {module}");
        Command::new("python3").args(["-c", &code]).output().is_ok_and(|out| out.status.success())
    };
    if !has("torch, safetensors, open_clip, transformers, timm") {
        println!(
            "SKIPPED: python3 lacks one of torch, safetensors, open_clip, transformers and timm"
        );
        return;
    }
    let root = tempfile::tempdir().expect("a temporary folder");
    let both = [OpenClip, HuggingFace];
    let same = |_: &mut serde_json::Value| {};
    let mut exported = Vec::new();
    for name in ["tiny", "quick_gelu", "mlp_ratio", "odd_grid", "llama3", "linear_rope", "tied"] {
        exported.push(write(root.path(), name, &model(name, same), &both));
    }
    exported.push(write(root.path(), "dinov2", &model("dinov2", same), &both));
    exported.push(write(root.path(), "siglip", &model("siglip", same), &[HuggingFace]));
    exported.push(write(root.path(), "lite_45", &model("lite_45", same), &[HuggingFace]));
    exported.push(write(root.path(), "lite0", &lite0(), &both));
    // Without the norm after the blocks, only open_clip has a place for the encoder.
    let mut pooled = model("dinov2", same);
    pooled.config.vision = match pooled.config.vision {
        VisionConfig::Vit(vit) => {
            VisionConfig::Vit(mmgem_core::config::VitConfig { ln_post: false, ..vit })
        }
        other => other,
    };
    let mut tensors = named_tensors(&pooled.model);
    tensors.retain(|(name, ..)| !name.starts_with("visual.ln_post."));
    let bytes = to_safetensors(&tensors, Dtype::F32, None);
    let shards = Shards::new(&[("model.safetensors", &bytes)]).expect("whole");
    pooled.model = load(MmGem::new(&pooled.config, &Device::flex()), &shards).expect("the same");
    exported.push(write(root.path(), "pooled", &pooled, &[OpenClip]));

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("parity/foreign.py");
    let run = Command::new("python3")
        .arg(script)
        .arg(root.path())
        .envs([("HF_HUB_OFFLINE", "1"), ("TRANSFORMERS_VERBOSITY", "error")])
        .output()
        .expect("python starts");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    for Exported { name, wanted } in exported {
        let output = RawFile::read(&root.path().join(&name).join("output.safetensors"));
        for (key, wanted) in wanted {
            let difference = relative(&output.0[key].floats(), &wanted);
            println!("flex {name:<12} {key:<20} {difference:.1e}");
            let allowed = if name == "lite_45" { NARROW_TOLERANCE } else { TOLERANCE };
            assert!(difference < allowed, "{name} {key}: {difference:e}");
        }
    }
    // A failed refusal of `pooled` by transformers would hide that its V differs there.
    let error = towers(&pooled, HuggingFace, Dtype::F32).expect_err("no place");
    for part in ["no norm behind its blocks", "wanted one", "--layout open-clip"] {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}

#[test]
fn a_tower_without_a_place_in_a_layout_is_refused() {
    let refused = |model: &ModelFolder, layout, dtype, parts: &[&str]| {
        let error = towers(model, layout, dtype).expect_err("it has no place");
        for part in parts {
            assert!(error.contains(part), "{error:?} does not say {part:?}");
        }
    };
    let open = |name: &str| Case::read(name).open(&Device::flex());
    let layout = ForeignLayout::OpenClip;
    refused(
        &open("siglip"),
        layout,
        Dtype::F32,
        &["no class token", "wanted one", "--layout hf", "SiglipVisionModel"],
    );
    refused(
        &open("lite_45"),
        layout,
        Dtype::F32,
        &["width_coefficient: 0.1", "wanted those of tf_efficientnet_lite0", "--layout hf"],
    );
    refused(&open("tiny"), layout, Dtype::Q8, &["8 or 4 bits", "wanted 32 or 16", "--dtype f32"]);
}

#[test]
fn parts_that_cannot_go_back_are_noted() {
    let notes = |name: &str, layout| {
        let model = Case::read(name).open(&Device::flex());
        towers(&model, layout, Dtype::F16).expect("it has a place").notes.join("\n")
    };
    let check = |notes: String, parts: &[&str]| {
        for part in parts {
            assert!(notes.contains(part), "{notes:?} does not say {part:?}");
        }
    };
    check(
        notes("tiny", ForeignLayout::OpenClip),
        &["merged LayerScale", "text tower", "language model is left out", "h1 to h4"],
    );
    check(
        notes("dinov2", ForeignLayout::OpenClip),
        &["proj is written as the identity", "encode_image gives the class token"],
    );
    check(
        notes("lite_45", ForeignLayout::HuggingFace),
        &["folded the batch norms", "neutral norms", "channel_multiplier = 0.1"],
    );
    check(notes("tiny", ForeignLayout::HuggingFace), &["post_layernorm of last_hidden_state"]);
}
