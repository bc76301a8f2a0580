//! A run that no longer learns says so, ends, and names a checkpoint from before.

use std::fs;
use std::path::Path;

use burn::module::Param;
use burn::tensor::{Device, Tensor};
use mmgem_core::checkpoint::Dtype;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use crate::lab::{Lab, checkpoints, failure, finish, metrics, run_until, weights};
use crate::tiny;

/// A lab with a model in `changed` whose photos all have one embedding, if `is_blind`, and with
/// another temperature.
fn lab_with(is_blind: bool, log_scale: Option<f32>) -> Lab {
    let lab = Lab::new();
    let mut folder = tiny::model();
    let device = Device::flex();
    if is_blind {
        let h1 = &mut folder.model.h1;
        let shape: [usize; 2] = h1.weight.as_ref().expect("it is not packed").val().dims();
        h1.weight = Some(Param::from_tensor(Tensor::zeros(shape, &device)));
        h1.bias = Some(Param::from_tensor(Tensor::ones([shape[1]], &device)));
    }
    if let Some(value) = log_scale {
        folder.model.logit_scale = Param::from_tensor(Tensor::from_floats([value], &device));
    }
    folder.write(&lab.path("changed"), Dtype::F32).expect("writable");
    lab
}

const CHANGED: &str = "model={ from = 'LAB/changed' }";

#[test]
fn a_run_whose_photos_all_look_the_same_warns_and_ends() {
    let lab = lab_with(true, None);
    let set = [
        CHANGED,
        "objective=clip_only",
        "optim.lr_heads=1e-9",
        "optim.lr_towers=1e-9",
        "optim.steps=20",
        "optim.max_bad_steps=3",
        "checkpoint.every=5",
    ];
    let notes = run_until(&lab.config("two", &set), false, 2).expect("two steps may pass").notes;
    let warnings: Vec<&String> = notes.iter().filter(|note| note.contains("warning")).collect();
    assert_eq!(warnings.len(), 1, "{notes:?}");
    for part in ["the same embedding since step 1", "after 3 further such steps"] {
        assert!(warnings[0].contains(part), "{warnings:?}");
    }
    let config = lab.config("run", &set);
    let error = failure(&config, false);
    for part in ["has collapsed", "the same embedding since step 1", "no checkpoint is from before"]
    {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
    assert_eq!(metrics(&config).len(), 4);
}

/// Sets h1 of a checkpoint so that all photos have the same embedding.
fn blind(checkpoint: &Path) {
    let path = checkpoint.join("trainee.safetensors");
    let bytes = fs::read(&path).expect("a checkpoint");
    let tensors = SafeTensors::deserialize(&bytes).expect("a whole file").tensors();
    let filled = |value: f32, n: usize| value.to_le_bytes().repeat(n / 4);
    let changed: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, view)| {
            let n = view.data().len();
            let data = match name.as_str() {
                "h1.weight" => filled(0.0, n),
                "h1.bias" => filled(1.0, n),
                _ => view.data().to_vec(),
            };
            (name.clone(), view.shape().to_vec(), data)
        })
        .collect();
    let views = changed.iter().map(|(name, shape, data)| {
        let view = TensorView::new(safetensors::Dtype::F32, shape.clone(), data);
        (name.as_str(), view.expect("as many bytes as before"))
    });
    fs::write(&path, safetensors::serialize(views, None).expect("whole tensors"))
        .expect("writable");
    fs::remove_file(checkpoint.join("hashes.json")).expect("writable");
}

#[test]
fn the_hint_names_the_checkpoint_from_before_the_collapse() {
    let lab = Lab::new();
    let set =
        ["objective=clip_only", "optim.steps=30", "optim.max_bad_steps=5", "checkpoint.every=2"];
    let config = lab.config("run", &set);
    run_until(&config, false, 4).expect("four steps are fine");
    let last = config.out.join("checkpoints/step-00000004");
    blind(&last);
    // A rate of nearly 0 keeps it so.
    let slow = ["optim.lr_heads=1e-9", "optim.lr_towers=1e-9"];
    let config = lab.config("run", &[&set[..], &slow].concat());
    let error = failure(&config, true);
    for part in [
        "the same embedding since step 5",
        "the checkpoint of step 4 (loss ",
        "go on with --resume and this folder",
        "step-00000004",
    ] {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
    // Only two are kept otherwise.
    assert_eq!(checkpoints(&config), [4, 6, 8]);
    // The signs are part of a checkpoint: the trouble does not begin anew.
    let error = failure(&config, true);
    assert!(error.contains("since step 5"), "{error}");
}

#[test]
fn a_temperature_that_starts_beyond_its_bound_moves() {
    let lab = lab_with(false, Some(4.62));
    let config = lab.config("run", &[CHANGED, "objective=clip_only"]);
    finish(&config, false);
    let tau: Vec<f64> =
        metrics(&config).iter().map(|line| line["tau"].as_f64().expect("a number")).collect();
    assert!((tau[0] - 0.01).abs() < 1e-6, "{tau:?}");
    assert!(tau[5] > 0.0101, "{tau:?}");
    let log_scale = weights(&config.out.join("model"))["logit_scale"][0];
    assert!(log_scale < 4.6, "{log_scale}");
}

#[test]
fn a_temperature_stays_at_most_1() {
    let lab = lab_with(false, Some(-3.0));
    let config = lab.config("run", &[CHANGED, "objective=clip_only"]);
    finish(&config, false);
    for line in metrics(&config) {
        assert!(line["tau"].as_f64().expect("a number") <= 1.0, "{line}");
    }
    let log_scale = weights(&config.out.join("model"))["logit_scale"][0];
    assert!(log_scale >= 0.0, "{log_scale}");
}
