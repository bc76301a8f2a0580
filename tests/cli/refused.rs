//! The exact error texts for unusable models and files.

use std::collections::BTreeMap;
use std::fs;

use mmgem_core::tokenizer::train_bpe;
use mmgem_scenes::scene;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::{Desk, text, toy_config};

/// Checks that the line fails with code 1 and prints exactly `wanted` on stderr.
#[track_caller]
fn check(desk: &Desk, line: &str, wanted: &str) {
    let output = desk.run(&format!("{line} -q"));
    let found = (output.status.code(), text(&output.stdout), text(&output.stderr));
    assert_eq!(found, (Some(1), String::new(), wanted.to_owned()), "{line}");
}

type Tensors = BTreeMap<String, (Vec<usize>, Vec<u8>)>;

fn change_weights(desk: &Desk, change: impl FnOnce(&mut Tensors)) {
    let path = desk.path("model/model.safetensors");
    let bytes = fs::read(&path).expect("the desk has a model");
    let file = SafeTensors::deserialize(&bytes).expect("a valid file");
    let mut tensors: Tensors = file
        .tensors()
        .into_iter()
        .map(|(name, view)| (name, (view.shape().to_vec(), view.data().to_vec())))
        .collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(name, (shape, bytes))| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytes).expect("the bytes fit the shape"))
    });
    desk.write(
        "model/model.safetensors",
        &safetensors::serialize(views, None).expect("views of tensors"),
    );
}

const DOUBT: &str = "  hint: does config.json belong to these weights?\n";

#[test]
fn a_missing_tensor() {
    let desk = Desk::new();
    change_weights(&desk, |tensors| drop(tensors.remove("h2.weight")));
    let wanted = "error: the model cannot be opened\n  folder: model\n  \
        caused by: 1 tensors are missing, the first is h2.weight\n";
    check(&desk, "caption 0.png", &format!("{wanted}{DOUBT}"));
}

#[test]
fn a_tensor_too_many() {
    let desk = Desk::new();
    change_weights(&desk, |tensors| {
        drop(tensors.insert("h5.weight".into(), (vec![1], vec![0; 4])))
    });
    let wanted = "error: the model cannot be opened\n  folder: model\n  \
        caused by: 1 tensors are not used, the first is h5.weight\n";
    check(&desk, "embed --text dog", &format!("{wanted}{DOUBT}"));
}

#[test]
fn a_tensor_of_another_shape() {
    let desk = Desk::new();
    change_weights(&desk, |tensors| {
        tensors.get_mut("h1.weight").expect("the model has it").0.reverse();
    });
    let wanted = "error: the model cannot be opened\n  folder: model\n  \
        caused by: h1.weight is [32, 24] in the checkpoint but the model wants [24, 32]\n";
    check(&desk, "search dog --photos .", &format!("{wanted}{DOUBT}"));
}

#[test]
fn a_tokenizer_of_another_vocabulary() {
    let desk = Desk::new();
    let lines: Vec<String> = (0..60).flat_map(|index| scene(5, index).captions).collect();
    let larger = train_bpe(&lines, 400).expect("captions are text");
    desk.write("model/tokenizer.json", larger.as_bytes());
    let output = desk.run("embed --text dog -q");
    let stderr = text(&output.stderr);
    assert_eq!(
        (output.status.code(), stderr.lines().next()),
        (Some(1), Some("error: the model cannot be opened"))
    );
    for part in [
        "  folder: model\n",
        "tokenizer.json has 400 tokens",
        "wants 320 (llm.vocab_size)",
        "another model?",
    ] {
        assert!(stderr.contains(part), "{part:?} is not in {stderr}");
    }
}

#[test]
fn a_config_with_an_unknown_key() {
    let desk = Desk::new();
    let mut config: Value = toy_config();
    config["vision_token"] = "grid".into();
    desk.write("model/config.json", config.to_string().as_bytes());
    let parts = [
        "error: the model cannot be opened\n  folder: model\n",
        "unknown field `vision_token`",
        "hint",
    ];
    desk.fails("info model", 1, &parts);
    desk.fails("caption 0.png", 1, &parts);
}

#[test]
fn a_folder_without_a_model() {
    let desk = Desk::new();
    let wanted = "wanted config.json, model.safetensors and tokenizer.json";
    for (folder, found) in [
        ("nowhere", "there is no such folder"),
        ("0.png", "this is a file"),
        (".", "config.json is missing"),
    ] {
        check(
            &desk,
            &format!("caption 0.png --model {folder}"),
            &format!(
                "error: the model cannot be opened\n  caused by: {found}, {wanted}\n  folder: {folder}\n"
            ),
        );
    }
}

#[test]
#[cfg(unix)]
fn a_photo_that_is_not_there() {
    let desk = Desk::new();
    let wanted = "error: cannot read the file: No such file or directory (os error 2)\n  \
        hint: is the path right?\n  file: missing.png\n";
    for command in
        ["caption missing.png", "embed missing.png", "localize missing.png --text dog --out o.png"]
    {
        check(&desk, command, wanted);
    }
}

#[test]
fn a_device_that_is_not_built_in() {
    let desk = Desk::new();
    let output = desk.run("caption 0.png -q --device cuda");
    let stderr = text(&output.stderr);
    if stderr.contains("this build has no CUDA") {
        let wanted = "error: this build has no CUDA; wanted an NVIDIA GPU through it\n  \
            hint: build with --features cuda, or use --device cpu\n";
        assert_eq!((output.status.code(), stderr.as_str()), (Some(1), wanted));
    } else {
        eprintln!("SKIPPED: this build has CUDA");
    }
}

#[test]
fn captions_that_cannot_be_scored() {
    let desk = Desk::new();
    desk.write("refs.json", br#"{"7": ["a dog on the grass", "the dog runs"]}"#);
    desk.write("other.json", br#"[{"image_id": 8, "caption": "a cat"}]"#);
    desk.write(
        "twice.json",
        br#"[{"image_id": 7, "caption": "a"}, {"image_id": "7", "caption": "b"}]"#,
    );
    desk.write("none.json", b"[]");
    desk.write("text.json", b"a dog");
    for (file, says) in [
        ("other.json", "a candidate for image 8 but no reference"),
        ("twice.json", "a second candidate for image 7"),
        ("none.json", "no candidate caption"),
        ("text.json", "  file: text.json"),
        ("missing.json", "is the path right?"),
    ] {
        desk.fails(
            &format!("eval score --references refs.json --candidates {file}"),
            1,
            &["error: ", says],
        );
    }
}
