//! The cache of a frozen encoder's patch tokens makes a run cheaper, with the same result.

use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;

use mmgem_train::TrainConfig;

use crate::lab::{Lab, crash_in, finish, metrics, weights};

const FROZEN: [&str; 5] = [
    "model={ from = 'LAB/start' }",
    "freeze_vision=true",
    "data.mirror=true",
    "data.crops=3",
    "grounding={ weight = 1.0, caption_weight = 1.0, contrast = true }",
];

/// The run with or without a cache.
fn config(lab: &Lab, out: &str, has_cache: bool) -> TrainConfig {
    let cache = if has_cache { "data.cache=LAB/cache" } else { "seed=11" };
    lab.config(out, &[&FROZEN[..], &[cache]].concat())
}

/// The files of the only tower in the cache.
fn cache_files(lab: &Lab) -> Vec<PathBuf> {
    let list = |path: PathBuf| -> Vec<PathBuf> {
        fs::read_dir(path).expect("a folder").map(|entry| entry.expect("an entry").path()).collect()
    };
    list(list(lab.path("cache")).remove(0))
}

fn cache_bytes(lab: &Lab) -> u64 {
    cache_files(lab).iter().map(|path| fs::metadata(path).expect("a file").len()).sum()
}

/// Checks that every loss is within f16 rounding of the other run's.
fn check_same(a: &TrainConfig, b: &TrainConfig) {
    let (a, b) = (metrics(a), metrics(b));
    assert_eq!((a.len(), a.len()), (b.len(), 6));
    for (a, b) in a.iter().zip(&b) {
        for loss in ["loss_emb", "loss_gen", "loss_grounding", "loss_phrase"] {
            let [a, b] =
                [a, b].map(|line| line[loss].as_f64().unwrap_or_else(|| panic!("no {loss}")));
            assert!((a - b).abs() < 2e-3 * b.abs(), "{loss}: {a} and {b}");
        }
    }
}

#[test]
fn a_run_with_the_cache_is_the_run_without_it() {
    let lab = Lab::new();
    let [plain, cached, again] = [("plain", false), ("cached", true), ("again", true)]
        .map(|(out, on)| config(&lab, out, on));
    finish(&plain, false);
    finish(&cached, false);
    check_same(&cached, &plain);

    // A second run reads everything from the cache, and ends with exactly the same weights.
    let bytes = cache_bytes(&lab);
    let notes = finish(&again, false).notes;
    assert!(notes.iter().any(|note| note.starts_with("the cache has")), "{notes:?}");
    assert!(!notes.contains(&"the cache has 0 views of photos".to_owned()), "{notes:?}");
    assert_eq!(cache_bytes(&lab), bytes);
    assert_eq!(weights(&again.out.join("model")), weights(&cached.out.join("model")));
}

#[test]
fn a_kill_and_damage_cost_the_cache_no_more_than_what_they_hit() {
    let lab = Lab::new();
    let [whole, crashed] = ["whole", "crashed"].map(|out| config(&lab, out, true));
    crash_in(&crashed, false, 4);
    let path = cache_files(&lab).remove(0);
    let mut file = OpenOptions::new().write(true).open(&path).expect("a file of the cache");
    // Damages a byte of the first record, and truncates the last record.
    file.seek(SeekFrom::Start(200)).and_then(|_| file.write_all(&[0xff])).expect("writable");
    let length = fs::metadata(&path).expect("a file").len();
    file.set_len(length - 100).expect("writable");
    drop(file);

    finish(&crashed, true);
    fs::remove_dir_all(lab.path("cache")).expect("a cache may be deleted");
    finish(&whole, false);
    assert_eq!(weights(&crashed.out.join("model")), weights(&whole.out.join("model")));
}

#[test]
fn other_weights_of_the_encoder_have_a_cache_of_their_own() {
    let lab = Lab::new();
    finish(&config(&lab, "first", true), false);
    let trained = lab.config("trained", &["model={ from = 'LAB/start' }"]);
    finish(&trained, false);
    let other = lab.config("other", &["model={ from = 'LAB/trained/model' }"]);
    let mut other = TrainConfig { data: config(&lab, "x", true).data, ..other };
    other.freeze_vision = true;
    let notes = finish(&other, false).notes;
    assert!(notes.contains(&"the cache has 0 views of photos".to_owned()), "{notes:?}");
    assert_eq!(fs::read_dir(lab.path("cache")).expect("a folder").count(), 2);
}
