//! Which weights a run changes, and which it leaves alone.

use std::collections::BTreeSet;
use std::path::Path;

use burn::tensor::{Device, Tensor};
use mmgem_core::config::MmGemConfig;
use mmgem_core::loss::grounding_loss;
use mmgem_train::TrainConfig;
use safetensors::SafeTensors;

use crate::lab::{Lab, failure, finish, metrics, model_bytes, moment_bytes, weights};

/// Names of the tensors that a run of two steps changed, and of those it left bit-identical.
fn moved_and_kept(set: &[&str]) -> (BTreeSet<String>, BTreeSet<String>) {
    let lab = Lab::new();
    let mut all = vec!["model={ from = 'LAB/start' }", "optim.steps=2"];
    all.extend(set);
    let config = lab.config("run", &all);
    finish(&config, false);
    let before = weights(&lab.path("start"));
    let after = weights(&config.out.join("model"));
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    before.into_iter().map(|(name, values)| (after[&name] != values, name)).fold(
        Default::default(),
        |(mut moved, mut kept): (BTreeSet<_>, BTreeSet<_>), (has_moved, name)| {
            if has_moved { &mut moved } else { &mut kept }.insert(name);
            (moved, kept)
        },
    )
}

/// Checks that a run changes all tensors except those with these prefixes.
fn check_kept(set: &[&str], wanted: &[&str]) {
    let (moved, kept) = moved_and_kept(set);
    let is_wanted = |name: &String| wanted.iter().any(|start| name.starts_with(start));
    let strays: Vec<_> = moved.iter().filter(|name| is_wanted(name)).collect();
    assert!(strays.is_empty(), "moved: {strays:?}");
    let idle: Vec<_> = kept.iter().filter(|name| !is_wanted(name)).collect();
    assert!(idle.is_empty(), "not moved: {idle:?}");
}

/// Checks that a run changes exactly the tensors with these prefixes.
fn check_moved(set: &[&str], wanted: &[&str]) {
    let (moved, kept) = moved_and_kept(set);
    let is_wanted = |name: &String| wanted.iter().any(|start| name.starts_with(start));
    let strays: Vec<_> = moved.iter().filter(|name| !is_wanted(name)).collect();
    assert!(strays.is_empty(), "moved: {strays:?}");
    let idle: Vec<_> = kept.iter().filter(|name| is_wanted(name)).collect();
    assert!(idle.is_empty(), "not moved: {idle:?}");
}

#[test]
fn stage_1_trains_all_but_what_stage_2_adds() {
    check_kept(&[], &["h4.", "cap_prompts", "visual.proj"]);
}

#[test]
fn stage_1_forgets_the_h4_of_an_earlier_stage_2() {
    let lab = Lab::new();
    let from = |folder: &str| format!("model={{ from = 'LAB/{folder}' }}");
    let h4 = |config: &TrainConfig| weights(&config.out.join("model"))["h4.weight"].clone();
    let regions =
        lab.config("regions", &["recipe=stage2_retrieval", &from("start"), "optim.steps=2"]);
    finish(&regions, false);
    let fresh = weights(&lab.path("start"))["h4.weight"].clone();
    assert_ne!(h4(&regions), fresh);
    let again = lab.config("again", &[&from("regions/model"), "optim.steps=2"]);
    finish(&again, false);
    assert_eq!(h4(&again), fresh);
}

#[test]
fn a_run_may_show_regions_in_more_bins_than_its_start_model() {
    let lab = Lab::new();
    let config = lab
        .config("finer", &["model={ from = 'LAB/start', roi_output_size = 4 }", "optim.steps=1"]);
    finish(&config, false);
    let read = |folder: &Path| {
        let json = std::fs::read_to_string(folder.join("config.json")).expect("written");
        MmGemConfig::from_json(&json).expect("valid")
    };
    let start = read(&lab.path("start"));
    assert_ne!(start.roi_output_size, 4);
    let finer = MmGemConfig { roi_output_size: 4, ..start };
    assert_eq!(read(&config.out), finer);
    assert_eq!(read(&config.out.join("model")), finer);
}

#[test]
fn a_frozen_language_model_stays_bit_for_bit() {
    check_kept(&["freeze_llm=true"], &["llm.", "h4.", "cap_prompts", "visual.proj"]);
}

#[test]
fn a_frozen_image_encoder_stays_bit_for_bit() {
    check_kept(&["freeze_vision=true"], &["visual.", "h4.", "cap_prompts"]);
}

/// Names of what `freeze_vision_blocks` and `freeze_text_blocks` of 1 freeze.
const BELOW: [&str; 7] = [
    "visual.conv1.",
    "visual.class_embedding",
    "visual.positional_embedding",
    "visual.ln_pre.",
    "visual.transformer.resblocks.0.",
    "llm.model.embed_tokens.",
    "llm.model.layers.0.",
];

#[test]
fn frozen_blocks_stay_and_the_rest_learns_as_if_their_rate_were_0() {
    let lab = Lab::new();
    let two = crate::tiny::CONFIG.replace("\"num_hidden_layers\": 1", "\"num_hidden_layers\": 2");
    std::fs::write(lab.path("two.json"), two).expect("writable");
    let names = BELOW.map(|name| format!("'{name}*'")).join(", ");
    let still = format!("optim.groups=[{{ params = [{names}], lr_multiplier = 0 }}]");
    for recompute in ["optim.recompute=false", "optim.recompute=true"] {
        let run = |out: &str, set: &[&str]| {
            let model = "model={ config = 'LAB/two.json', tokenizer_text = ['LAB/captions.txt'] }";
            // The norm of the whole gradient must not matter.
            let all = [model, recompute, "optim.steps=3", "optim.clip_norm=1e9"];
            let out = format!("{out}-{}", recompute.len());
            let config = lab.config(&out, &[&all[..], set].concat());
            finish(&config, false);
            config
        };
        let free = run("free", &["optim.steps=1"]);
        let frozen = run("frozen", &["freeze_vision_blocks=1", "freeze_text_blocks=1"]);
        let still = run("still", &[&still]);
        assert!(model_bytes(&frozen) == model_bytes(&still), "{recompute}");
        let is_below = |name: &str| BELOW.iter().any(|below| name.starts_with(below));
        let [free, after] = [&free, &frozen].map(|config| weights(&config.out.join("model")));
        let same = |name: &String| free[name] == after[name];
        let (below, above): (Vec<&String>, Vec<&String>) =
            after.keys().partition(|name| is_below(name));
        // They learn if they are not frozen.
        assert!(below.len() > 20 && below.iter().all(|name| !same(name)), "{below:?}");
        assert!(above.iter().any(|name| name.starts_with("visual.transformer.resblocks.1.")));

        let bytes = moment_bytes(&frozen, 3);
        let moments = SafeTensors::deserialize(&bytes).expect("a whole file");
        let names = moments.names().into_iter().filter_map(|name| name.strip_prefix("moment_1."));
        let names: Vec<&str> = names.collect();
        assert!(names.iter().all(|name| !is_below(name)), "{names:?}");
        assert!(names.contains(&"llm.model.layers.1.mlp.down_proj.weight"), "{names:?}");
    }
}

#[test]
fn more_blocks_than_a_tower_has_are_not_frozen() {
    let lab = Lab::new();
    let error = failure(&lab.config("run", &["freeze_text_blocks=2"]), false);
    assert!(error.contains("freeze_text_blocks is 2, wanted at most 1"), "{error}");
}

#[test]
fn the_contrastive_loss_alone_leaves_the_way_to_captions() {
    let captioning = ["h3.", "cap_token", "llm.lm_head", "h4.", "cap_prompts", "visual.proj"];
    check_kept(&["objective=clip_only"], &captioning);
}

#[test]
fn the_caption_loss_alone_leaves_the_text_embedding() {
    let embedding = ["h2.", "emb_token", "logit_scale", "h4.", "cap_prompts", "visual.proj"];
    check_kept(&["objective=cap_only"], &embedding);
}

#[test]
fn stage_2_for_captions_trains_h3_and_the_prompts() {
    check_moved(&["recipe=stage2_caption"], &["h3.", "cap_prompts"]);
}

#[test]
fn stage_2_for_retrieval_trains_h4() {
    check_moved(&["recipe=stage2_retrieval"], &["h4."]);
}

#[test]
fn a_warm_up_with_text_trains_the_language_model() {
    check_moved(&["recipe=warmup", "data={ text = ['LAB/captions.txt'] }"], &["llm.", "cap_token"]);
}

#[test]
fn a_warm_up_with_a_teacher_trains_the_image_encoder() {
    let (moved, kept) =
        moved_and_kept(&["recipe=warmup", "distill={ weight = 1.0, grid = 2, hidden_size = 6 }"]);
    assert!(moved.iter().all(|name| name.starts_with("visual.")), "{moved:?}");
    assert!(kept.contains("visual.proj") && kept.contains("h1.weight"), "{kept:?}");
}

/// Checks that 30 steps on the same eight scenes lower the loss below `share` of its first value.
fn check_learns(set: &[&str], share: f64) {
    let lab = Lab::new();
    let mut all = vec![
        "optim.batch_size=8",
        "optim.steps=30",
        "checkpoint.every=30",
        "data.crop_scale=[1, 1]",
    ];
    all.extend(set);
    let config = lab.config("run", &all);
    finish(&config, false);
    let losses: Vec<f64> =
        metrics(&config).iter().filter_map(|line| line["loss"].as_f64()).collect();
    assert_eq!(losses.len(), 30);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (first, last) = (mean(&losses[..3]), mean(&losses[27..]));
    assert!(last < share * first, "the loss went from {first} to {last}");
}

#[test]
fn thirty_steps_of_stage_1_lower_the_loss() {
    check_learns(&["optim.lr_heads=0.03", "optim.lr_towers=0.03"], 0.8);
    check_learns(&["optim.optimizer=adamw", "optim.lr_heads=0.005", "optim.lr_towers=0.005"], 0.8);
}

#[test]
fn thirty_steps_with_places_make_the_heat_maps_better() {
    let lab = Lab::new();
    let rates =
        ["optim.lr_heads=0.03", "optim.lr_towers=0.03", "optim.steps=30", "optim.batch_size=8"];
    let mut set = rates.to_vec();
    set.extend(["grounding={ weight = 1.0 }", "data.crop_scale=[1, 1]"]);
    let config = lab.config("run", &set);
    finish(&config, false);
    let losses: Vec<f64> =
        metrics(&config).iter().filter_map(|line| line["loss_grounding"].as_f64()).collect();
    assert_eq!(losses.len(), 30);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (first, last) = (mean(&losses[..3]), mean(&losses[27..]));
    assert!(last < 0.95 * first, "the loss went from {first} to {last}");
}

#[test]
fn thirty_steps_of_stage_2_lower_the_loss() {
    let from = "model={ from = 'LAB/start' }";
    check_learns(&["recipe=stage2_caption", from, "optim.lr_heads=0.1"], 0.99);
    check_learns(&["recipe=stage2_retrieval", from, "optim.lr_heads=0.1"], 0.99);
}

#[test]
fn thirty_steps_of_warm_up_lower_the_loss() {
    let set = [
        "recipe=warmup",
        "data.text=['LAB/captions.txt']",
        "distill={ weight = 1.0, mean_weight = 0.5, grid = 2, hidden_size = 6 }",
        "optim.lr_heads=0.03",
        "optim.lr_towers=0.03",
    ];
    check_learns(&set, 0.9);
}

/// Metrics that depend on the gradient.
const KEYS: [&str; 10] = [
    "loss",
    "loss_emb",
    "loss_gen",
    "loss_rehearsal",
    "loss_text",
    "loss_distill",
    "loss_distill_mean",
    "loss_grounding",
    "grad_norm",
    "tau",
];

/// Checks that three steps in one part and in several parts differ only by rounding.
///
/// The tolerance is the largest difference of a tensor over its norm. Sums over parts have another
/// order, and LAMB divides by the root of a square, which magnifies tiny values.
fn check_workers(workers: usize, set: &[&str]) {
    let lab = Lab::new();
    let config = |workers: usize| -> TrainConfig {
        let workers = format!("optim.workers={workers}");
        let mut all = vec!["optim.batch_size=7", "optim.steps=3", workers.as_str()];
        all.extend(set);
        lab.config(&workers, &all)
    };
    let (one, many) = (config(1), config(workers));
    finish(&one, false);
    finish(&many, false);

    for (one, many) in metrics(&one).iter().zip(&metrics(&many)) {
        for key in KEYS {
            let value = |line: &serde_json::Value| line[key].as_f64().unwrap_or(0.0);
            let difference = (value(one) - value(many)).abs();
            assert!(
                difference <= 1e-4 * value(one).abs(),
                "{key}: {} and {}",
                value(one),
                value(many)
            );
        }
    }
    let after = weights(&many.out.join("model"));
    for (name, one) in weights(&one.out.join("model")) {
        let norm = |values: &mut dyn Iterator<Item = f32>| {
            values.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt()
        };
        let difference = norm(&mut one.iter().zip(&after[&name]).map(|(a, b)| a - b));
        let whole = norm(&mut one.iter().copied());
        assert!(difference <= 1e-4 * whole, "{name} differs by {difference} of {whole}");
    }
}

#[test]
fn two_workers_compute_what_one_does() {
    check_workers(2, &["data.text=['LAB/captions.txt']"]);
}

#[test]
fn more_workers_than_samples_compute_what_one_does() {
    check_workers(9, &[]);
}

#[test]
fn two_workers_compute_what_one_does_on_regions() {
    let from = "model={ from = 'LAB/start' }";
    check_workers(2, &["recipe=stage2_retrieval", from]);
    check_workers(2, &["recipe=stage2_caption", from, "data.whole_image_share=0.5"]);
}

#[test]
fn two_workers_compute_what_one_does_with_places() {
    check_workers(2, &["grounding={ weight = 0.5 }"]);
}

#[test]
fn two_workers_compute_what_one_does_with_a_teacher() {
    let distill = "distill={ weight = 0.5, mean_weight = 0.7, grid = 2, hidden_size = 6 }";
    check_workers(2, &["recipe=warmup", distill, "data.mirror=true"]);
}

#[test]
fn a_flat_heat_map_costs_the_log_of_its_patches_and_a_sharp_one_nothing() {
    let device = Device::flex();
    let loss = |first_patch: f32, logit_scale: f32| -> f32 {
        let patches = Tensor::from_data([[[first_patch, 0.0], [0.0, 1.0], [0.0, 1.0]]], &device);
        let text = Tensor::from_data([[1.0, 0.0]], &device);
        let shares = Tensor::from_data([[1.0, 0.0, 0.0]], &device);
        grounding_loss(patches, text, shares, Tensor::from_data([logit_scale], &device))
            .into_scalar()
    };
    assert!((loss(0.0, 0.0) - 3f32.ln()).abs() < 1e-6);
    // A heat of 2 against two of 0.
    assert!((loss(1.0, 2f32.ln()) - -(2f32.exp() / (2f32.exp() + 2.0)).ln()).abs() < 1e-6);
    assert!(loss(1.0, 100f32.ln()) < 1e-6);
}
