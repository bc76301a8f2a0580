//! An interrupted run ends with the same bits as an uninterrupted one.

use std::fs;

use safetensors::SafeTensors;

use crate::lab::{
    Lab, checkpoints, crash_in, failure, finish, metrics, model_bytes, moment_bytes, run_until,
    timeless_metrics,
};
use crate::tiny;

fn check(set: &[&str]) {
    let lab = Lab::new();
    let [whole, stopped, crashed] = ["whole", "stopped", "crashed"].map(|out| lab.config(out, set));
    finish(&whole, false);
    let steps: Vec<u64> =
        timeless_metrics(&whole).iter().filter_map(|line| line["step"].as_u64()).collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6]);

    // Asked to stop between two checkpoints.
    let halfway = run_until(&stopped, false, 3).expect("a run that can be stopped").summary;
    assert_eq!((halfway.step, halfway.finished, halfway.model), (3, false, None));
    assert_eq!(checkpoints(&stopped), [2, 3]);
    let note = &finish(&stopped, true).notes[0];
    assert_eq!(note, "going on after step 3");

    // Crashes one step after a checkpoint, with a partial line and a partial checkpoint.
    crash_in(&crashed, false, 5);
    let path = crashed.out.join("metrics.jsonl");
    let torn = fs::read_to_string(&path).expect("a run writes metrics") + "{\"step\": 6, \"lo";
    fs::write(&path, torn).expect("writable");
    let half_a_checkpoint = crashed.out.join("checkpoints/step-00000006.tmp");
    fs::create_dir(&half_a_checkpoint).expect("writable");
    fs::write(half_a_checkpoint.join("trainee.safetensors"), "half").expect("writable");
    assert_eq!(finish(&crashed, true).notes[0], "going on after step 4");

    for interrupted in [&stopped, &crashed] {
        assert_eq!(
            timeless_metrics(interrupted),
            timeless_metrics(&whole),
            "{}",
            interrupted.out.display()
        );
        assert!(model_bytes(interrupted) == model_bytes(&whole), "{}", interrupted.out.display());
        assert_eq!(checkpoints(interrupted), [4, 6]);
        assert!(moment_bytes(&whole, 6).len() > 1000);
        for step in [4, 6] {
            let same = moment_bytes(interrupted, step) == moment_bytes(&whole, step);
            assert!(same, "moments of step {step} in {}", interrupted.out.display());
        }
    }
}

#[test]
fn stage_1_goes_on_as_if_nothing_had_happened() {
    check(&[]);
}

#[test]
fn two_workers_go_on_as_if_nothing_had_happened() {
    check(&["optim.workers=2", "optim.batch_size=5"]);
}

#[test]
fn a_run_with_siglip_goes_on_as_if_nothing_had_happened() {
    check(&["contrastive_loss=siglip"]);
}

#[test]
fn a_run_with_averaged_weights_goes_on_as_if_nothing_had_happened() {
    check(&["optim.ema=0.7"]);
}

#[test]
fn a_run_with_adapters_goes_on_as_if_nothing_had_happened() {
    check(&["lora={ rank = 2, alpha = 4 }"]);
}

#[test]
fn a_run_that_drops_patches_goes_on_as_if_nothing_had_happened() {
    check(&["data.patch_dropout=0.5"]);
}

#[test]
fn stage_2_for_captions_goes_on_as_if_nothing_had_happened() {
    check(&["recipe=stage2_caption", "model={ from = 'LAB/start' }", "data.whole_image_share=0.3"]);
}

#[test]
fn stage_2_for_retrieval_goes_on_as_if_nothing_had_happened() {
    check(&["recipe=stage2_retrieval", "model={ from = 'LAB/start' }"]);
}

#[test]
fn a_warm_up_with_text_and_teacher_goes_on_as_if_nothing_had_happened() {
    check(&[
        "recipe=warmup",
        "data.text=['LAB/captions.txt']",
        "distill={ weight = 1.0, grid = 2, hidden_size = 6 }",
    ]);
}

#[test]
fn a_warm_up_with_text_alone_goes_on_as_if_nothing_had_happened() {
    check(&["recipe=warmup", "data={ text = ['LAB/captions.txt'] }"]);
}

#[test]
fn a_run_that_crashed_before_its_first_checkpoint_begins_anew() {
    let lab = Lab::new();
    let [whole, crashed] = ["whole", "crashed"].map(|out| lab.config(out, &["optim.steps=3"]));
    finish(&whole, false);
    crash_in(&crashed, false, 1);
    finish(&crashed, true);
    assert_eq!(timeless_metrics(&crashed), timeless_metrics(&whole));
    assert!(model_bytes(&crashed) == model_bytes(&whole));
}

#[test]
fn a_finished_run_that_goes_on_writes_the_same_model() {
    let lab = Lab::new();
    let config = lab.config("run", &["optim.steps=2"]);
    finish(&config, false);
    let (bytes, lines) = (model_bytes(&config), metrics(&config));
    fs::remove_dir_all(config.out.join("model")).expect("there is a model");
    finish(&config, true);
    assert!(model_bytes(&config) == bytes);
    assert_eq!(metrics(&config), lines);
}

#[test]
fn a_checkpoint_whose_moments_do_not_fit_is_refused() {
    let lab = Lab::new();
    let config = lab.config("run", &["optim.steps=2"]);
    finish(&config, false);
    let whole = moment_bytes(&config, 2);
    let file = SafeTensors::deserialize(&whole).expect("a whole file");
    let (_, header) = SafeTensors::read_metadata(&whole).expect("a header");
    fs::remove_file(config.out.join("checkpoints/step-00000002/hashes.json")).expect("writable");
    let check = |rename: &dyn Fn(&str) -> Option<String>, says: &str| {
        let tensors =
            file.tensors().into_iter().filter_map(|(name, view)| Some((rename(&name)?, view)));
        let bytes = safetensors::serialize(tensors, header.metadata().clone()).expect("tensors");
        let path = config.out.join("checkpoints/step-00000002/optimizer.safetensors");
        fs::write(&path, bytes).expect("writable");
        let error = failure(&lab.config("run", &["optim.steps=3"]), true);
        for part in [says, "remove this checkpoint", "optimizer.safetensors"] {
            assert!(error.contains(part), "{error:?} does not say {part:?}");
        }
    };
    let without =
        |end: &'static str| move |name: &str| (!name.ends_with(end)).then(|| name.to_owned());
    check(&without("moment_2.h1.weight"), "missing, the first is moment_2.h1.weight");
    check(&without(".h1.weight"), "found moments of ");
    let renamed = |name: &str| Some(name.replace(".h1.weight", ".h9.weight"));
    check(&renamed, "not used, the first is moment_1.h9.weight");
}

#[test]
fn a_damaged_checkpoint_is_left_for_the_one_before() {
    let lab = Lab::new();
    let whole = lab.config("whole", &[]);
    finish(&whole, false);
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 4] = [
        ("trainee.safetensors", |bytes| *bytes.last_mut().expect("not empty") ^= 1),
        ("optimizer.safetensors", |bytes| bytes.truncate(1000)),
        ("state.json", Vec::clear),
        ("hashes.json", |bytes| bytes.truncate(20)),
    ];
    for (idx, (file, damage)) in damages.into_iter().enumerate() {
        let config = lab.config(&format!("run-{idx}"), &[]);
        run_until(&config, false, 4).expect("four steps");
        let path = config.out.join("checkpoints/step-00000004").join(file);
        let mut bytes = fs::read(&path).expect("a checkpoint");
        damage(&mut bytes);
        fs::write(&path, bytes).expect("writable");
        let notes = finish(&config, true).notes;
        assert!(
            notes[0].starts_with("the checkpoint of step 4 is damaged") && notes[0].contains(file),
            "{notes:?}"
        );
        assert_eq!(notes[1], "going on after step 2");
        let kept = config.out.join("checkpoints/step-00000004.damaged");
        assert!(kept.join(file).exists());
        fs::remove_dir_all(kept).expect("writable");
        assert!(model_bytes(&config) == model_bytes(&whole), "{file}");
        assert_eq!(checkpoints(&config), [4, 6]);
    }
    // Without an intact checkpoint the run does not start anew by itself.
    for step in [4, 6] {
        let path = whole.out.join(format!("checkpoints/step-{step:08}/state.json"));
        fs::remove_file(path).expect("writable");
    }
    let error = failure(&whole, true);
    assert!(error.contains("step-00000006") && error.contains("state.json"), "{error}");
}

#[test]
fn a_folder_with_a_run_is_not_overwritten() {
    let lab = Lab::new();
    let config = lab.config("run", &["optim.steps=2"]);
    finish(&config, false);
    let before = model_bytes(&config);
    let error = failure(&config, false);
    for part in ["holds a run of 2 steps", "--resume", "another `out`", "folder: "] {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
    assert!(model_bytes(&config) == before);
}

#[test]
fn a_run_does_not_go_on_with_another_config() {
    let lab = Lab::new();
    finish(&lab.config("run", &["optim.steps=2"]), false);
    for (change, says) in [
        ("seed=12", "seed was 11, is 12"),
        ("recipe=stage2_caption", "recipe was \"stage1\", is \"stage2_caption\""),
        ("optim.lr_heads=0.5", "optim.lr_heads was 0.01, is 0.5"),
        ("optim.warmup_steps=1", "optim.warmup_steps was 2, is 1"),
        ("data.limit_per_shard=4", "data.limit_per_shard was absent, is 4"),
        ("freeze_llm=true", "freeze_llm was false, is true"),
    ] {
        let error = failure(&lab.config("run", &["optim.steps=2", change]), true);
        assert!(
            error.contains("started with another config") && error.contains(says),
            "{change}: {error}"
        );
        assert!(error.contains("choose another `out`"), "{error}");
    }
}

#[test]
fn a_run_may_be_made_longer_and_cared_for_otherwise() {
    let lab = Lab::new();
    finish(&lab.config("run", &["optim.steps=2"]), false);
    let longer = lab.config("run", &["optim.steps=5", "optim.workers=2", "checkpoint.every=1"]);
    let outcome = finish(&longer, true);
    assert_eq!(
        (outcome.summary.step, outcome.notes.contains(&"going on after step 2".into())),
        (5, true)
    );
    assert_eq!(checkpoints(&longer), [4, 5]);
    // The cosine of two steps was in its warm-up; that of five steps goes on at its peak.
    let of_rate =
        "the learning rate of the heads goes from 1.00e-2 in step 2 on at 1.00e-2 in step 3";
    let note = outcome.notes.iter().find(|note| note.starts_with(of_rate)).expect("it is said");
    let lines = metrics(&longer);
    let line = lines.iter().find(|line| line["note"].is_string()).expect("it is in the log file");
    assert_eq!((&line["step"], line["note"].as_str()), (&2.into(), Some(note.as_str())));
    // A run that goes on as it was says nothing.
    let again = finish(&longer, true);
    assert!(!again.notes.iter().any(|note| note.contains("learning rate")), "{:?}", again.notes);
}

#[test]
fn a_run_that_diverged_may_go_on_more_slowly() {
    let lab = Lab::new();
    finish(&lab.config("run", &["optim.steps=2"]), false);
    let set =
        ["optim.steps=4", "optim.lr_heads=5e-3", "optim.lr_towers=1e-3", "optim.warmup_steps=3"];
    let slower = lab.config("run", &set);
    let notes = finish(&slower, true).notes;
    for change in ["optim.lr_heads was 0.01, is 0.005", "optim.warmup_steps was 2, is 3"] {
        assert!(notes.iter().any(|note| note == change), "{change} is not in {notes:?}");
    }
    let lines = metrics(&slower);
    let third = lines.iter().find(|line| line["step"] == 3).expect("a third step");
    let rate = third["lr_heads"].as_f64().expect("a rate");
    assert!((rate - 5e-3).abs() < 1e-9, "{rate}");
}

#[test]
fn a_run_and_its_data_may_be_moved() {
    let lab = Lab::new();
    let samples: Vec<_> = (0..8).map(tiny::sample).collect();
    for (folder, shard) in [("a", 0), ("b", 1)] {
        let folder = lab.path(&format!("old/{folder}"));
        fs::create_dir_all(&folder).expect("writable");
        tiny::write_shard(&folder.join(format!("part-{shard}.tar")), &samples[4 * shard..][..4]);
    }
    fs::rename(lab.path("start"), lab.path("old/start")).expect("writable");
    let set = |root: &str| {
        vec![
            format!("data.shards=['LAB/{root}/*/part-*.tar']"),
            format!("model={{ from = 'LAB/{root}/start' }}"),
        ]
    };
    let config = |out: &str, root: &str, set: Vec<String>| {
        let set: Vec<&str> = set.iter().map(String::as_str).collect();
        lab.config(&format!("{root}/{out}"), &set)
    };
    let whole = config("whole", "old", set("old"));
    finish(&whole, false);
    run_until(&config("run", "old", set("old")), false, 3).expect("a run that can be stopped");
    // The second folder's new name sorts before the first's.
    fs::rename(lab.path("old"), lab.path("new")).expect("writable");
    fs::rename(lab.path("new/a"), lab.path("new/z")).expect("writable");

    // Other data at the new place is refused, and the run is not changed by the attempt.
    fs::create_dir(lab.path("other")).expect("writable");
    tiny::write_shard(&lab.path("other/part-0.tar"), &samples[..4]);
    tiny::write_shard(&lab.path("other/part-1.tar"), &samples[3..]);
    let mut other = set("new");
    other[0] = "data.shards=['LAB/other/*.tar']".into();
    for _ in 0..2 {
        let error = failure(&config("run", "new", other.clone()), true);
        for part in ["[data] names other files", "source 0 was 8 photos", "is 9 photos"] {
            assert!(error.contains(part), "{error:?} does not say {part:?}");
        }
    }

    let moved = config("run", "new", set("new"));
    let notes = finish(&moved, true).notes;
    assert!(notes.iter().any(|note| note.starts_with("data.shards was")), "{notes:?}");
    let whole = config("whole", "new", set("new"));
    assert_eq!(timeless_metrics(&moved), timeless_metrics(&whole));
    assert!(model_bytes(&moved) == model_bytes(&whole));
}

#[test]
fn a_run_is_told_that_its_data_changed_in_place() {
    let lab = Lab::new();
    let config = lab.config("run", &["optim.steps=2"]);
    finish(&config, false);
    tiny::write_shard(&lab.path("scenes.tar"), &(1..8).map(tiny::sample).collect::<Vec<_>>());
    let notes = finish(&lab.config("run", &["optim.steps=4"]), true).notes;
    let warned = |part: &str| notes.iter().any(|note| note.contains(part));
    assert!(warned("the data changed since the run started") && warned("is 7 photos"), "{notes:?}");
    assert!(warned("1 shards changed since they were indexed"), "{notes:?}");
}
