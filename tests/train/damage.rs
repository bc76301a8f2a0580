//! Damaged data and losses that are not finite: what a run skips, and what ends it.

use std::fs;

use mmgem_core::checkpoint::Dtype;
use mmgem_data::webdataset::Sample;
use mmgem_train::TrainConfig;

use crate::lab::{Lab, checkpoints, failure, finish, metrics, run_until};
use crate::tiny;

/// A scene's sample with changed bytes in one part.
fn damaged(index: usize, ext: &str, damage: impl Fn(&mut Vec<u8>)) -> Sample {
    let mut sample = tiny::sample(index);
    let part =
        sample.parts.iter_mut().find(|part| part.0 == ext).expect("the sample has this part");
    damage(&mut part.1);
    sample
}

/// Four unusable samples, each for a different reason.
fn unusable() -> [(Sample, &'static str); 4] {
    let mut without_photo = tiny::sample(3);
    without_photo.parts.remove(0);
    [
        (
            damaged(0, "png", |bytes| bytes.truncate(bytes.len() / 2)),
            "the PNG data cannot be decoded",
        ),
        (damaged(1, "png", Vec::clear), "the image is empty (0 bytes)"),
        (damaged(2, "json", |bytes| bytes.truncate(20)), "the .json cannot be read"),
        (without_photo, "there is no image among its parts"),
    ]
}

#[test]
fn unusable_samples_are_named_counted_and_skipped() {
    let one_pixel = damaged(4, "png", |bytes| *bytes = tiny::png_of(&[200, 30, 30], 1, 1));
    let mut samples: Vec<Sample> = unusable().into_iter().map(|(sample, _)| sample).collect();
    samples.extend([one_pixel, tiny::sample(5), tiny::sample(6)]);
    let lab = Lab::with(&samples);
    // A step is an epoch.
    let config = lab.config("run", &["optim.batch_size=7", "optim.steps=3"]);
    let notes = finish(&config, false).notes;

    for (sample, why) in unusable() {
        let named = |note: &&String| {
            note.starts_with(&format!("skipped: {} in ", sample.key)) && note.contains(why)
        };
        assert_eq!(
            notes.iter().filter(named).count(),
            3,
            "{} for {why:?} in {notes:?}",
            sample.key
        );
    }
    assert_eq!(notes.iter().filter(|note| note.starts_with("skipped: ")).count(), 12, "{notes:?}");
    assert_eq!(counts(&config, "skipped_samples"), [4, 8, 12]);
}

fn counts(config: &TrainConfig, key: &str) -> Vec<u64> {
    metrics(config).iter().map(|line| line[key].as_u64().expect("a count")).collect()
}

#[test]
fn a_photo_of_one_pixel_has_no_regions_but_can_be_used() {
    let one_pixel = damaged(4, "png", |bytes| *bytes = tiny::png_of(&[200, 30, 30], 1, 1));
    let lab = Lab::with(&[one_pixel, tiny::sample(5)]);
    let from = "model={ from = 'LAB/start' }";
    let config =
        lab.config("run", &["recipe=stage2_caption", from, "optim.batch_size=2", "optim.steps=2"]);
    finish(&config, false);
    assert_eq!(counts(&config, "skipped_samples"), [0, 0]);
}

#[test]
fn a_single_sample_in_a_batch_has_zero_contrastive_loss() {
    let lab = Lab::with(&[unusable()[0].0.clone(), tiny::sample(5)]);
    // The lines of text keep both workers busy; one of them has no photo.
    let set = [
        "optim.batch_size=2",
        "optim.steps=2",
        "optim.workers=2",
        "data.text=['LAB/captions.txt']",
    ];
    let config = lab.config("run", &set);
    finish(&config, false);
    assert_eq!(counts(&config, "skipped_samples"), [1, 2]);
    for line in metrics(&config) {
        assert!(line["loss_emb"].as_f64().is_some_and(|loss| loss.abs() < 1e-5), "{line}");
        assert!(line["loss_gen"].as_f64().is_some_and(|loss| loss > 1.0), "{line}");
    }
}

#[test]
fn a_shard_that_was_cut_short_ends_there_with_a_warning() {
    let lab = Lab::new();
    let (whole, cut) = (lab.path("scenes.tar"), lab.path("scenes-cut.tar"));
    let bytes = fs::read(&whole).expect("the lab has a shard");
    fs::write(&cut, &bytes[..bytes.len() / 2]).expect("writable");
    let config = lab.config("run", &["optim.steps=4"]);
    let notes = finish(&config, false).notes;
    let warning = notes.iter().find(|note| note.contains("scenes-cut.tar")).expect("a warning");
    assert!(warning.contains(" is left out\n  file: "), "{warning}");
    let photos: Vec<usize> = notes
        .iter()
        .filter_map(|note| note.strip_suffix(" photos an epoch")?.parse().ok())
        .collect();
    assert!(photos.len() == 1 && (9..16).contains(&photos[0]), "{notes:?}");
    assert_eq!(counts(&config, "skipped_samples"), [0; 4]);
}

fn check_refused(lab: &Lab, set: &[&str], parts: &[&str]) {
    let error = failure(&lab.config("run", set), false);
    for part in parts {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}

#[test]
fn data_of_which_nothing_can_be_used_is_an_error() {
    let samples: Vec<Sample> = unusable().into_iter().map(|(sample, _)| sample).collect();
    let lab = Lab::with(&samples);
    check_refused(
        &lab,
        &[],
        &["no sample could be used in 1 step in a row", "the first: scene", "scenes.tar"],
    );
    fs::write(lab.path("scenes.tar"), "hello, world ".repeat(100)).expect("writable");
    check_refused(&lab, &[], &["found no whole sample", "get the shard again", "scenes.tar"]);
    tiny::write_shard(&lab.path("scenes.tar"), &[]);
    check_refused(&lab, &[], &["no sample could be used in 1 step in a row", "there is no data"]);
    check_refused(
        &lab,
        &["data.shards=['LAB/none-*.tar']"],
        &["no file fits", "none-*.tar", "hint"],
    );
}

#[test]
fn a_batch_without_a_usable_sample_is_skipped_and_counted() {
    let broken = |index| damaged(index, "png", Vec::clear);
    let lab = Lab::with(&[
        broken(0),
        broken(1),
        broken(2),
        tiny::sample(3),
        tiny::sample(4),
        tiny::sample(5),
    ]);
    // An epoch has three steps. With this seed, some steps have no whole sample. No step has only
    // broken samples twice.
    let config = lab.config("run", &["optim.batch_size=2", "optim.steps=12", "checkpoint.every=1"]);
    finish(&config, false);
    let lines = metrics(&config);
    let empty = lines.iter().filter(|line| line.get("loss").is_none()).count();
    assert!(empty > 0 && empty < 12, "{empty} of 12 steps");
    assert_eq!(
        lines.iter().filter_map(|line| line["empty_steps"].as_u64()).max(),
        Some(empty as u64)
    );
    assert_eq!(lines.last().map(|line| &line["skipped_samples"]), Some(&12.into()));
    assert_eq!(checkpoints(&config).last(), Some(&12));
}

#[test]
fn held_out_photos_that_are_missing_are_missed_at_the_start() {
    let lab = Lab::new();
    let eval = "eval={ shards = ['LAB/none-*.tar'], every = 5 }";
    check_refused(&lab, &[eval], &["no file fits", "none-*.tar"]);
    assert!(!lab.path("run").exists());
}

#[test]
fn a_run_that_learns_nothing_fails() {
    let lab = Lab::new();
    // A checkpoint must be finite. Products of these weights overflow.
    let mut model = tiny::model();
    model.model.h1.weight =
        model.model.h1.weight.map(|weight| weight.map(|weight| weight.ones_like() * 1e38));
    model.write(&lab.path("start"), Dtype::F32).expect("writable");
    // Fewer steps than the limit of consecutive bad steps.
    let config = lab.config("run", &["model={ from = 'LAB/start' }", "optim.steps=3"]);
    let error = failure(&config, false);
    assert!(error.starts_with("nothing was learned: none of the 3 steps"), "{error}");
    assert!(error.contains("lower the learning rates"), "{error}");
    assert_eq!(counts(&config, "bad_steps"), [1, 2, 3]);
    check_nothing_is_kept(&config);
}

#[test]
fn a_run_without_a_usable_sample_fails_before_the_end_of_an_epoch() {
    let samples: Vec<Sample> = (0..6).map(|index| damaged(index, "png", Vec::clear)).collect();
    let lab = Lab::with(&samples);
    // An epoch has three steps, more than the run.
    let config = lab.config("run", &["optim.batch_size=2", "optim.steps=2"]);
    let error = failure(&config, false);
    assert!(
        error.starts_with("no sample could be used in 2 steps in a row; the first: scene"),
        "{error}"
    );
    assert_eq!(counts(&config, "skipped_samples"), [2, 4]);
    check_nothing_is_kept(&config);
}

/// Asserts that the run wrote neither a model nor a checkpoint, which look like a result.
fn check_nothing_is_kept(config: &TrainConfig) {
    assert!(!config.out.join("model").exists());
    let kept = fs::read_dir(config.out.join("checkpoints")).map_or(0, Iterator::count);
    assert_eq!(kept, 0);
}

/// A shard with all photos before all records, as `find | tar` may write it.
fn apart(samples: &[Sample]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for ext in ["png", "json"] {
        for sample in samples {
            let bytes = sample.get(ext).expect("the sample has this part");
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            builder
                .append_data(&mut header, format!("{}.{ext}", sample.key), bytes)
                .expect("to memory");
        }
    }
    builder.into_inner().expect("to memory")
}

#[test]
fn separated_parts_are_reported_as_the_cause() {
    let lab = Lab::new();
    fs::write(lab.path("scenes.tar"), apart(&[tiny::sample(1), tiny::sample(2), tiny::sample(3)]))
        .expect("writable");
    check_refused(
        &lab,
        &["optim.steps=2"],
        &["no sample could be used", "the first: scene", "side by side"],
    );
    // The run learns from whole samples and reports the rest.
    tiny::write_shard(&lab.path("scenes-1.tar"), &[tiny::sample(4), tiny::sample(5)]);
    let config = lab.config("other", &["optim.steps=2", "optim.batch_size=8"]);
    let notes = finish(&config, false).notes;
    let warning = notes.iter().find(|note| note.contains("scenes.tar")).expect("a warning");
    assert!(
        warning.contains("the parts of 3 samples") && warning.contains("--sort=name"),
        "{warning}"
    );
    assert_eq!(counts(&config, "skipped_samples"), [6, 12]);
}

#[test]
fn a_bad_shard_costs_itself_and_all_bad_shards_are_an_error() {
    let lab = Lab::new();
    fs::write(lab.path("scenes-1.tar"), "").expect("writable");
    let config = lab.config("run", &["optim.steps=2"]);
    let notes = finish(&config, false).notes;
    assert!(
        notes
            .iter()
            .any(|note| note.contains("the file is empty") && note.contains("scenes-1.tar")),
        "{notes:?}"
    );
    fs::write(lab.path("scenes.tar"), "hello").expect("writable");
    let error = failure(&lab.config("other", &["optim.steps=2"]), false);
    assert!(error.starts_with("none of the 2 shards can be used"), "{error}");
}

#[test]
fn too_many_losses_in_a_row_that_are_not_finite_stop_the_run() {
    let lab = Lab::new();
    // The first step works, and moves the weights so far that all later losses are not finite.
    let set = [
        "optim.lr_heads=1e30",
        "optim.lr_towers=1e30",
        "optim.warmup_steps=0",
        "checkpoint.every=1",
    ];
    let mut all = vec!["optim.steps=50", "optim.max_bad_steps=4"];
    all.extend(set);
    let config = lab.config("run", &all);
    let error = failure(&config, false);
    for part in ["5 steps in a row", "not finite", "lower the learning rates", "warmup_steps"] {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
    let bad = counts(&config, "bad_steps");
    assert_eq!(bad.last(), Some(&5), "{bad:?}");
    // As the error says, no checkpoint is from a bad step.
    let good = bad.iter().filter(|n| **n == 0).count();
    assert!(good >= 1 && checkpoints(&config).iter().all(|step| *step <= good), "{bad:?}");
}

#[test]
fn checkpoints_from_before_the_loss_went_wrong_are_kept() {
    let lab = Lab::new();
    let set = ["checkpoint.every=1", "optim.steps=9", "optim.max_bad_steps=2"];
    let config = lab.config("run", &set);
    run_until(&config, false, 3).expect("three steps are fine");
    assert_eq!(checkpoints(&config), [2, 3]);
    // Overwrites the newest checkpoint with huge weights, as after a step that went too far.
    let spoilt = config.out.join("checkpoints/step-00000003/trainee.safetensors");
    let mut bytes = fs::read(&spoilt).expect("a checkpoint");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    bytes[8 + header..]
        .chunks_exact_mut(4)
        .for_each(|value| value.copy_from_slice(&1e37f32.to_le_bytes()));
    fs::write(&spoilt, bytes).expect("writable");
    fs::remove_file(spoilt.with_file_name("hashes.json")).expect("writable");
    assert!(failure(&config, true).contains("3 steps in a row"));
    assert_eq!(checkpoints(&config), [2, 3]);

    // Without that checkpoint, the run resumes from the one before.
    fs::remove_dir_all(spoilt.parent().expect("its folder")).expect("writable");
    assert_eq!(finish(&config, true).notes[0], "going on after step 2");
    assert_eq!(counts(&config, "bad_steps"), [0; 9]);
}
