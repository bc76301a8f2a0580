//! Weights in 8 and 4 bits: written, read back strictly, and compared with the reference.

use std::collections::HashMap;

use burn::tensor::Device;
use mmgem_core::checkpoint::{
    CheckpointError, Dtype, Shards, load, load_to_run, named_tensors, to_safetensors, to_shards,
};
use mmgem_core::model::MmGem;
use mmgem_core::quant::LAYOUT;
use mmgem_data::files::{ModelFolder, as_slices, move_model};
use mmgem_train::trace::Values;
use safetensors::SafeTensors;

use crate::fixture::{Case, RawFile, RawTensor, relative};

type Files = Vec<(String, Vec<u8>)>;

fn written(case: &Case, dtype: Dtype, limit_bytes: usize) -> Files {
    to_shards(&named_tensors(&case.open(&Device::flex()).model), dtype, limit_bytes)
}

fn safetensors_of(files: &Files) -> Files {
    files.iter().filter(|(name, _)| name.ends_with(".safetensors")).cloned().collect()
}

fn read(case: &Case, files: &Files) -> Result<MmGem, CheckpointError> {
    let model = MmGem::new(&case.open(&Device::flex()).config, &Device::flex());
    load(model, &Shards::new(&as_slices(&safetensors_of(files)))?)
}

/// Smallest cosine of the model's embeddings with those of the reference, over all embeddings of
/// the case.
fn worst_cosine(case: &Case, model: MmGem) -> f32 {
    let folder = ModelFolder { model, ..case.open(&Device::flex()) };
    let golden = case.golden();
    let mut worst = 1f32;
    for found in case.forward(&folder).iter().filter(|stage| stage.name.ends_with("_embed")) {
        let wanted =
            golden.iter().find(|stage| stage.name == found.name).expect("a stage of the reference");
        let (Values::Floats(a), Values::Floats(b)) = (&found.values, &wanted.values) else {
            panic!("embeddings are floats")
        };
        for (a, b) in a.chunks(folder.config.embed_dim).zip(b.chunks(folder.config.embed_dim)) {
            worst = worst.min(a.iter().zip(b).map(|(a, b)| a * b).sum());
        }
    }
    worst
}

#[test]
fn packed_models_embed_in_the_same_directions() {
    // Rows have 20 to 64 weights, so most of the blocks of 32 are not full.
    for name in ["tiny", "crop_16_9", "uneven_texts", "embed_dim_56", "mlp_ratio", "tied"] {
        let case = Case::read(name);
        for (dtype, floor) in [(Dtype::Q8, 0.9995), (Dtype::Q4, 0.97)] {
            let model =
                read(&case, &written(&case, dtype, usize::MAX)).expect("it was just written");
            let worst = worst_cosine(&case, model);
            assert!(worst > floor, "{name} {dtype:?}: {worst}");
        }
    }
}

/// Checks which layers of a convolutional encoder are packed, in the file and in memory.
#[test]
fn point_wise_convolutions_are_packed() {
    // The rounding error of random weights grows from block to block. The same rounding in PyTorch
    // gives cosines of 0.9977 and 0.9700 in 8 bits.
    for (name, floors) in [("lite_45", [0.99, 0.9]), ("lite_33", [0.95, 0.9])] {
        let case = Case::read(name);
        for (dtype, floor) in [Dtype::Q8, Dtype::Q4].into_iter().zip(floors) {
            // Point-wise convolutions have 8 bits in both formats.
            let packed = safetensors::Dtype::I8;
            let files = written(&case, dtype, usize::MAX);
            let file = SafeTensors::deserialize(&files[0].1).expect("whole");
            for (layer, wanted) in [
                ("stem", safetensors::Dtype::F16),
                ("blocks.1.expand", packed),
                ("blocks.1.dw", safetensors::Dtype::F16),
                ("blocks.1.project", packed),
                ("head", packed),
            ] {
                let found =
                    file.tensor(&format!("visual.{layer}.weight")).expect("a layer").dtype();
                assert_eq!(found, wanted, "{name} {dtype:?} {layer}");
            }
            // `load` widens the weights to f32. `load_to_run` keeps linear layers packed, and their
            // products round the activations too.
            let shards = Shards::new(&[("model.safetensors", &files[0].1)]).expect("whole");
            let empty = || MmGem::new(&case.open(&Device::flex()).config, &Device::flex());
            let wide = worst_cosine(&case, load(empty(), &shards).expect("it was just written"));
            let to_run = load_to_run(empty(), &shards).expect("it was just written");
            let is_wide = |layer: &str| {
                let wanted = format!("visual.{layer}.weight");
                named_tensors(&to_run).iter().any(|(name, ..)| *name == wanted)
            };
            // On the CPU `load_to_run` widens packed convolutions to f32.
            assert!(is_wide("blocks.1.dw") && is_wide("blocks.1.expand"));
            let to_run = worst_cosine(&case, to_run);
            println!("{name} {dtype:?}: {wide} wide, {to_run} packed");
            assert!(wide > floor && to_run > floor, "{name} {dtype:?}: {wide} {to_run}");
        }
    }
}

#[test]
fn a_packed_matrix_takes_its_bits_and_a_scale_for_32() {
    let bytes_of_matrices = |dtype| -> usize {
        let name = "llm.model.layers.0.mlp.up_proj.weight";
        let tensors = [(name.to_owned(), vec![64, 96], vec![0.5; 64 * 96])];
        let bytes = to_safetensors(&tensors, dtype, None);
        let file = SafeTensors::deserialize(&bytes).expect("whole");
        file.tensors().iter().map(|(_, view)| view.data().len()).sum()
    };
    assert_eq!(bytes_of_matrices(Dtype::F16), 64 * 96 * 2);
    assert_eq!(bytes_of_matrices(Dtype::Q8), 64 * 96 + 64 * 3 * 2);
    assert_eq!(bytes_of_matrices(Dtype::Q4), 64 * 96 / 2 + 64 * 3 * 2);
}

#[test]
fn four_bits_leave_the_heads_in_eight() {
    let files = written(&Case::read("tiny"), Dtype::Q4, usize::MAX);
    let file = SafeTensors::deserialize(&files[0].1).expect("whole");
    let dtype = |name: &str| file.tensor(name).expect("a layer").dtype();
    for name in ["h1.weight", "h2.weight", "h3.weight", "h4.weight"] {
        assert_eq!(dtype(name), safetensors::Dtype::I8, "{name}");
    }
    assert_eq!(dtype("llm.model.layers.0.mlp.up_proj.weight"), safetensors::Dtype::U8);
}

#[test]
fn small_files_hold_the_same_model_as_one_large_file() {
    let case = Case::read("tiny");
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Q8, Dtype::Q4] {
        let whole = read(&case, &written(&case, dtype, usize::MAX)).expect("it was just written");
        // Some limits are smaller than the token embedding, which is then split.
        for limit_bytes in [5_000, 40_000] {
            let files = written(&case, dtype, limit_bytes);
            let shards = safetensors_of(&files);
            assert!(shards.len() > 1 && files.len() == shards.len() + 1, "{dtype:?} {limit_bytes}");
            for (name, bytes) in &shards {
                assert!(bytes.len() <= limit_bytes, "{name} has {} bytes", bytes.len());
            }
            let model = read(&case, &files).expect("the shards are whole");
            assert_eq!(named_tensors(&model), named_tensors(&whole), "{dtype:?} {limit_bytes}");
        }
    }
}

#[test]
fn a_copy_that_is_moved_leaves_no_weights_of_another_behind() {
    let case = Case::read("tiny");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (old, draft) = (case.open(&Device::flex()), folder.path().join("draft"));
    old.write(folder.path(), Dtype::F32).expect("writable");
    std::fs::write(folder.path().join("model-00001-of-00002.safetensors"), b"old")
        .expect("writable");
    std::fs::write(folder.path().join("README.md"), b"mine").expect("writable");
    old.write_shards(&draft, Dtype::Q8).expect("writable");
    move_model(&draft, folder.path()).expect("one disk");
    let mut names: Vec<_> = std::fs::read_dir(folder.path())
        .expect("a folder")
        .map(|entry| entry.expect("it can be listed").file_name().into_string().expect("a text"))
        .collect();
    names.sort();
    assert_eq!(names, ["README.md", "config.json", "model.safetensors", "tokenizer.json"]);
    let moved = ModelFolder::read(folder.path(), &Device::flex()).expect("it is whole");
    let wanted = read(&case, &written(&case, Dtype::Q8, usize::MAX)).expect("it was just written");
    assert_eq!(named_tensors(&moved.model), named_tensors(&wanted));
}

/// Changes the tensors of a packed model. The error of reading it must contain all of `parts`.
#[track_caller]
fn check_refused(change: impl Fn(&mut RawFile), parts: &[&str]) {
    let case = Case::read("tiny");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, &written(&case, Dtype::Q4, usize::MAX)[0].1).expect("writable");
    let mut file = RawFile::read(&path);
    change(&mut file);
    let message = refusal(&case, &file, LAYOUT);
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

fn refusal(case: &Case, file: &RawFile, layout: &str) -> String {
    let metadata = HashMap::from([("layout".to_owned(), layout.to_owned())]);
    let files = vec![("model.safetensors".to_owned(), file.to_bytes_with(Some(metadata)))];
    read(case, &files).expect_err("it is spoilt").to_string()
}

fn tensor<'a>(file: &'a mut RawFile, name: &str) -> &'a mut RawTensor {
    file.0.get_mut(name).expect("it is there")
}

#[test]
fn another_layout_is_refused() {
    let case = Case::read("tiny");
    let bytes = &written(&case, Dtype::Q4, usize::MAX)[0].1;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, bytes).expect("writable");
    let message = refusal(&case, &RawFile::read(&path), "mmgem-packed-2");
    for part in
        ["layout mmgem-packed-2", "wanted layout mmgem-packed-1", "hint", "model.safetensors"]
    {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

#[test]
fn a_packed_matrix_without_its_scales_is_refused() {
    check_refused(
        |file| drop(file.0.remove("h1.weight.scale")),
        &["missing", "h1.weight.scale", "hint"],
    );
}

#[test]
fn scales_without_a_packed_matrix_are_refused() {
    let widen = |file: &mut RawFile| {
        drop(file.0.insert("h1.weight".into(), RawTensor::f32(&[40, 48], &[0.5; 1920])))
    };
    check_refused(widen, &["not used", "h1.weight.scale", "hint"]);
}

#[test]
fn packed_sizes_that_do_not_fit_the_config_are_refused() {
    let narrow = |file: &mut RawFile| {
        let h1 = tensor(file, "h1.weight");
        h1.shape[0] -= 1;
        h1.bytes.truncate(h1.shape.iter().product());
    };
    check_refused(narrow, &["h1.weight is [", "in the checkpoint but the model wants [", "hint"]);
    let scales = |file: &mut RawFile| tensor(file, "h1.weight.scale").shape.reverse();
    check_refused(scales, &["h1.weight.scale is [2, 40]", "hint"]);
}

#[test]
fn damaged_blocks_are_refused() {
    let nan = |file: &mut RawFile| {
        tensor(file, "h1.weight.scale").bytes[..2].copy_from_slice(&half::f16::NAN.to_le_bytes());
    };
    check_refused(nan, &["h1.weight is damaged", "not finite", "hint"]);
    let beyond =
        |file: &mut RawFile| *tensor(file, "h1.weight").bytes.last_mut().expect("bytes") = 1;
    check_refused(beyond, &["h1.weight is damaged", "is not zero beyond them", "hint"]);
}

#[test]
fn only_matrices_may_be_packed() {
    let pack = |file: &mut RawFile| {
        let token = tensor(file, "emb_token");
        token.dtype = safetensors::Dtype::I8;
        token.bytes.truncate(token.shape[0]);
    };
    check_refused(pack, &["emb_token holds I8, wanted f32, bf16 or f16", "hint"]);
}

#[test]
fn a_lost_part_of_a_cut_tensor_is_named() {
    let case = Case::read("tiny");
    let mut files = safetensors_of(&written(&case, Dtype::Q4, 5_000));
    let holds_part = |(_, bytes): &(String, Vec<u8>)| {
        let file = SafeTensors::deserialize(bytes).expect("whole");
        file.names().iter().any(|name| name.contains(".part-00001-of-"))
    };
    let place = files.iter().position(holds_part).expect("the embedding is cut");
    files.remove(place);
    let message = read(&case, &files).expect_err("a part is lost").to_string();
    assert!(message.contains("missing") && message.contains(".part-0000"), "{message}");
}

#[test]
fn packing_twice_changes_nothing() {
    let case = Case::read("tiny");
    let once = read(&case, &written(&case, Dtype::Q8, usize::MAX)).expect("it was just written");
    let again = to_shards(&named_tensors(&once), Dtype::Q8, usize::MAX);
    let again = named_tensors(&read(&case, &again).expect("it was just written"));
    for ((name, _, once), (_, _, again)) in named_tensors(&once).into_iter().zip(again) {
        assert!(relative(&again, &once) < 1e-3, "{name}");
    }
}
