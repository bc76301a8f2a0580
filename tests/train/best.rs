//! The best checkpoint by a score of the evaluations is kept, and a run can go on from it.

use std::fs;

use mmgem_train::{Resume, TrainConfig};
use serde_json::Value;

use crate::lab::{
    Lab, checkpoints, failure, finish, metrics, model_bytes, run_until, timeless_metrics,
};

const SCORE: &str = "cider";

/// A run of 12 steps with an evaluation every 2.
fn config(lab: &Lab, out: &str, set: &[&str]) -> TrainConfig {
    let all = [
        "eval={ shards = ['LAB/scenes.tar'], every = 2, limit = 8 }",
        "optim.steps=12",
        // Rates so high that the captions get worse again.
        "optim.lr_heads=1e-1",
        "optim.lr_towers=1e-1",
        "checkpoint={ every = 2, keep = 2, keep_best = 'cider' }",
    ];
    lab.config(out, &[&all[..], set].concat())
}

/// Steps and scores of the evaluations.
fn evaluations(config: &TrainConfig) -> Vec<(usize, f64)> {
    let score =
        |line: &Value| Some((line["step"].as_u64()? as usize, line.get("eval")?[SCORE].as_f64()?));
    metrics(config).iter().filter_map(score).collect()
}

/// The first step with the highest score.
fn best_of(config: &TrainConfig) -> usize {
    let found = evaluations(config);
    let highest = found.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    found.iter().find(|(_, value)| *value == highest).expect("there are evaluations").0
}

#[test]
fn the_best_checkpoint_outlives_the_newest_and_the_run_goes_on_from_it() {
    let lab = Lab::new();
    let whole = config(&lab, "whole", &[]);
    let notes = finish(&whole, false).notes;
    let best = best_of(&whole);
    assert!((4..9).contains(&best), "the best one is neither the first nor among the newest");
    assert_eq!(checkpoints(&whole), [best, 10, 12]);
    let says = format!("is that of step {best}\n  folder: ");
    assert!(notes.iter().any(|note| note.contains(&says)), "{notes:?}");

    // A resumed run still knows it.
    let stopped = config(&lab, "stopped", &[]);
    run_until(&stopped, false, 9).expect("a run that can be stopped");
    finish(&stopped, true);
    assert_eq!(checkpoints(&stopped), [best, 10, 12]);
    let state = |config: &TrainConfig| {
        let path = config.out.join("checkpoints/step-00000012/state.json");
        let state: Value = serde_json::from_slice(&fs::read(path).expect("a state")).expect("JSON");
        state["best"].clone()
    };
    assert_eq!((&state(&stopped)["step"], state(&stopped)), (&best.into(), state(&whole)));

    // The newer ones are renamed, and the run makes the same steps again.
    let folder = stopped.out.join(format!("checkpoints/step-{best:08}"));
    for resume in [Resume::Best, Resume::From(folder)] {
        fs::remove_dir_all(stopped.out.join("model")).expect("a model");
        let notes = finish(&stopped, resume).notes;
        assert!(notes.contains(&format!("going on after step {best}")), "{notes:?}");
        for newer in [10, 12] {
            let renamed = stopped.out.join(format!("checkpoints/step-{newer:08}.newer"));
            assert!(renamed.join("trainee.safetensors").is_file());
            fs::remove_dir_all(renamed).expect("writable");
        }
        assert_eq!(checkpoints(&stopped), [best, 10, 12]);
        assert!(model_bytes(&stopped) == model_bytes(&whole));
        assert_eq!(timeless_metrics(&stopped), timeless_metrics(&whole));
    }
}

#[test]
fn an_evaluation_between_two_checkpoints_saves_the_best_one() {
    let lab = Lab::new();
    let set = ["checkpoint.every=5", "checkpoint.keep=1"];
    let config = config(&lab, "run", &set);
    finish(&config, false);
    let best = best_of(&config);
    assert_eq!(checkpoints(&config), [best, 12]);
}

#[test]
fn without_a_best_checkpoint_there_is_none_to_go_on_from() {
    let lab = Lab::new();
    let config = lab.config("run", &["optim.steps=2"]);
    finish(&config, false);
    let error = failure(&config, Resume::Best);
    for part in ["no checkpoint is the best one yet", "checkpoint.keep_best", "folder: "] {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
    let error = failure(&config, Resume::From(lab.path("start")));
    for part in ["not a checkpoint of the run", "its checkpoints are in ", "start"] {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}
