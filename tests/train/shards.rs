//! Order of samples: from files, commands and mixtures, from mid-epoch and on any number of ranks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;

use mmgem_data::webdataset::Sample;
use mmgem_train::{Batches, TrainConfig};
use serde_json::json;

use crate::lab::{Lab, failure, finish, metrics};
use crate::tiny;

/// Words that the tiny tokenizer distinguishes, one for each sample.
const WORDS: [&str; 12] = [
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve",
];

/// Twelve samples in the shards `part-0.tar` to `part-3.tar`, each with its own caption.
fn lab() -> Lab {
    let lab = Lab::new();
    for shard in 0..4 {
        let samples: Vec<Sample> = (3 * shard..3 * shard + 3).map(sample).collect();
        tiny::write_shard(&lab.path(&format!("part-{shard}.tar")), &samples);
    }
    lab
}

fn sample(idx: usize) -> Sample {
    let mut sample = tiny::sample(idx % tiny::N_SCENES as usize);
    sample.key = format!("{idx:02}");
    sample.parts[1].1 = json!({ "captions": [WORDS[idx]] }).to_string().into_bytes();
    sample
}

/// Names of the samples of some steps on one rank, in order; the number skipped; the messages.
fn seen(
    config: &TrainConfig,
    steps: Range<usize>,
    rank: usize,
    n_ranks: usize,
) -> (Vec<String>, usize, Vec<String>) {
    let model = tiny::model();
    let mut batches = Batches::open(config, &model.config, &model.tokenizer, rank, n_ranks)
        .expect("the data can be opened");
    let words: BTreeMap<Vec<u32>, &str> =
        WORDS.iter().map(|word| (model.tokenizer.encode(word).expect("short"), *word)).collect();
    let (mut names, mut skipped, mut said) = (Vec::new(), 0, Vec::new());
    for step in steps {
        let batch = batches.batch(step);
        names.extend(batch.samples.iter().map(|sample| words[&sample.text].to_owned()));
        skipped += batch.n_skipped;
        said.extend(batch.skipped);
    }
    (names, skipped, said)
}

/// Checks that an epoch has every sample once and that the next has another order. Also checks that
/// a run can start at any step, on any number of ranks.
fn check_sequence(set: &[&str], epoch: usize, mut wanted: Vec<&str>) {
    let lab = lab();
    let config = lab.config("run", set);
    let (first, ..) = seen(&config, 0..epoch, 0, 1);
    let (second, ..) = seen(&config, epoch..2 * epoch, 0, 1);
    assert_ne!(first, second);
    wanted.sort_unstable();
    for mut names in [first.clone(), second.clone()] {
        names.sort_unstable();
        assert_eq!(names, wanted);
    }
    for start in 1..2 * epoch {
        let whole: Vec<String> = first.iter().chain(&second).cloned().collect();
        let (rest, ..) = seen(&config, start..2 * epoch, 0, 1);
        assert_eq!(rest, whole[whole.len() - rest.len()..], "from step {start}");
    }
    for step in 0..2 * epoch {
        let (whole, ..) = seen(&config, step..step + 1, 0, 1);
        for n_ranks in [2, 3] {
            let shares =
                (0..n_ranks).flat_map(|rank| seen(&config, step..step + 1, rank, n_ranks).0);
            assert_eq!(shares.collect::<Vec<_>>(), whole, "step {step} on {n_ranks} ranks");
        }
    }
}

#[test]
fn files_are_listed_by_braces_and_globs() {
    check_sequence(
        &["data.shards=['LAB/part-{0..1}.tar', 'LAB/part-[23].tar']"],
        3,
        WORDS.to_vec(),
    );
}

#[test]
fn files_may_be_cut_into_lanes() {
    check_sequence(&["data.shards=['LAB/part-*.tar']", "data.lanes=2"], 3, WORDS.to_vec());
}

#[test]
fn commands_give_every_sample_once_an_epoch() {
    let set = [
        "data.shards=['pipe:cat LAB/part-{0..3}.tar']",
        "data.samples_per_shard=3",
        "data.shuffle_buffer=2",
    ];
    check_sequence(&set, 3, WORDS.to_vec());
    let lanes = [set[0], set[1], "data.lanes=2", "data.shuffle_buffer=6"];
    check_sequence(&lanes, 3, WORDS.to_vec());
}

#[test]
fn a_shard_that_is_shorter_than_said_is_named_once_and_counted() {
    let lab = lab();
    let set = [
        "data.shards=['pipe:cat LAB/part-{0..3}.tar']",
        "data.samples_per_shard=5",
        "optim.batch_size=10",
    ];
    let (names, skipped, said) = seen(&lab.config("run", &set), 0..2, 0, 1);
    assert_eq!((names.len(), skipped, said.len()), (12, 8, 4), "{said:?}");
    assert!(
        said.iter().all(|why| why.contains("no more samples than that") && why.contains("part-")),
        "{said:?}"
    );
}

#[test]
fn a_shard_that_is_longer_than_said_is_named_once_and_its_rest_never_seen() {
    let lab = lab();
    let set = [
        "data.shards=['pipe:cat LAB/part-{0..3}.tar']",
        "data.samples_per_shard=2",
        "optim.batch_size=8",
    ];
    let (names, skipped, said) = seen(&lab.config("run", &set), 0..3, 0, 1);
    let heads: Vec<&str> =
        WORDS.iter().enumerate().filter(|(idx, _)| idx % 3 < 2).map(|(_, word)| *word).collect();
    // Three epochs of the first two samples of each shard.
    assert_eq!((names.len(), skipped), (24, 0));
    assert!(
        heads.iter().all(|word| names.iter().filter(|name| name == word).count() == 3),
        "{names:?}"
    );
    let [why] = &said[..] else { panic!("said once: {said:?}") };
    assert!(
        why.contains("part-") && why.contains("more samples than `samples_per_shard`, which is 2"),
        "{why}"
    );
    // A shard of the right size gives no message.
    let (_, _, said) = seen(&lab.config("run", &[set[0], "data.samples_per_shard=3"]), 0..6, 0, 1);
    assert!(said.is_empty(), "{said:?}");
}

#[test]
fn a_command_that_fails_or_is_cut_short_ends_its_shard_and_not_the_run() {
    let lab = lab();
    let cut = fs::metadata(lab.path("part-1.tar")).expect("written").len() / 2;
    let commands = [
        "pipe:cat LAB/part-0.tar".to_owned(),
        format!("pipe:head -c {cut} LAB/part-1.tar"),
        "pipe:cat LAB/missing.tar".into(),
        "pipe:cat LAB/part-3.tar; exit 3".into(),
    ];
    let shards = format!("data.shards={commands:?}");
    let set = [
        shards.as_str(),
        "data.samples_per_shard=3",
        "optim.steps=6",
        "data.shuffle_buffer=4",
        "data.retry_secs=[0, 0, 0]",
    ];
    let config = lab.config("run", &set);
    let notes = finish(&config, false).notes;
    for why in ["cut short", "the command failed (exit status: 1)", "4 attempts"] {
        assert!(notes.iter().any(|note| note.contains(why)), "{why:?} is not in {notes:?}");
    }
    // The command's own words.
    assert!(notes.iter().any(|note| note.contains("No such file")), "{notes:?}");
    let last = metrics(&config).pop().expect("six lines");
    // Two epochs; three samples are lost with the missing file and at least one with the truncated
    // one.
    let skipped = last["skipped_samples"].as_u64().expect("a count");
    assert!((8..=12).contains(&skipped) && skipped.is_multiple_of(2), "{skipped}");
}

#[test]
fn sources_are_mixed_by_their_weights() {
    let lab = lab();
    let mix = "data={ repeat=true, crop_scale=[1, 1], \
        mix=[{ weight = 3, shards=['LAB/part-0.tar'] }, \
        { weight = 1, shards=['LAB/part-{1..3}.tar'] }] }";
    let (names, ..) = seen(&lab.config("run", &[mix]), 0..250, 0, 1);
    let of_first = names.iter().filter(|name| WORDS[..3].contains(&name.as_str())).count();
    assert_eq!((of_first, names.len()), (750, 1000));
    let each: BTreeMap<&str, usize> = names.iter().fold(BTreeMap::new(), |mut counts, name| {
        *counts.entry(name.as_str()).or_default() += 1;
        counts
    });
    // Within a source, every sample occurs once before any repeats.
    assert!(each.values().all(|n| [27, 28, 250].contains(n)), "{each:?}");
}

#[test]
fn visual_genome_teaches_regions() {
    let lab = lab();
    fs::create_dir(lab.path("VG_100K")).expect("writable");
    let scene = &tiny::scenes()[0];
    for id in 1..5 {
        fs::write(lab.path(&format!("VG_100K/{id}.png")), tiny::png(scene)).expect("writable");
    }
    let region = json!({ "region_id": 1, "phrase": "seven", "x": 2, "y": 2, "width": scene.width - 4, "height": scene.height - 4 });
    let entries: Vec<_> = (1..6).map(|id| json!({ "id": id, "regions": [region] })).collect();
    fs::write(lab.path("regions.json"), json!(entries).to_string()).expect("writable");
    let mix = "data={ whole_image_share=0.5, mix=[{ weight = 1, visual_genome='LAB/regions.json', images=['LAB/VG_100K'] }, \
        { weight = 1, shards=['LAB/part-*.tar'] }] }";
    let from = "model={ from = 'LAB/start' }";
    let config = lab.config("run", &["recipe=stage2_caption", from, mix, "optim.steps=3"]);
    let notes = finish(&config, false).notes;
    let note = "4 photos of Visual Genome (50.0 %) + 12 photos (50.0 %)";
    assert!(notes.iter().any(|said| said == note), "{notes:?}");
    let (names, skipped, _) = seen(&config, 0..3, 0, 1);
    assert!(names.iter().filter(|name| *name == "seven").count() >= 4 && skipped == 0, "{names:?}");

    let stage_1 = lab.config(
        "one",
        &["data={ mix=[{ weight = 1, visual_genome='LAB/regions.json', images=['LAB/VG_100K'] }] }"],
    );
    assert!(failure(&stage_1, false).contains("it has no caption"));
}

#[test]
fn a_command_that_fails_once_loses_no_sample() {
    let lab = lab();
    // Fails within the second sample the first time, for each shard.
    let flaky = "pipe:test -e LAB/tried-{0..3} && exec cat LAB/part-{0..3}.tar; touch LAB/tried-{0..3}; \
        head -c 5000 LAB/part-{0..3}.tar; exit 1";
    let commands: Vec<String> =
        (0..4).map(|shard| flaky.replace("{0..3}", &shard.to_string())).collect();
    let set = [
        &format!("data.shards={commands:?}"),
        "data.samples_per_shard=3",
        "data.shuffle_buffer=1",
        "data.retry_secs=[0]",
    ];
    let (mut names, skipped, said) = seen(&lab.config("run", &set), 0..3, 0, 1);
    let mut wanted = WORDS.to_vec();
    names.sort_unstable();
    wanted.sort_unstable();
    assert_eq!((names, skipped), (wanted.into_iter().map(str::to_owned).collect(), 0), "{said:?}");
}

/// Checks that no batch has a photo twice, that each `epoch` samples are different ones, and that a
/// run can start at any step.
fn check_apart(lab: &Lab, set: &[&str], steps: usize, epoch: usize) {
    let config = lab.config("run", set);
    let batch_size = config.optim.batch_size;
    let (all, skipped, _) = seen(&config, 0..steps, 0, 1);
    assert_eq!((all.len(), skipped), (steps * batch_size, 0));
    for (step, batch) in all.chunks(batch_size).enumerate() {
        let distinct: BTreeSet<&String> = batch.iter().collect();
        assert_eq!(distinct.len(), batch.len(), "step {step}: {batch:?}");
    }
    for epoch in all.chunks_exact(epoch) {
        let distinct: BTreeSet<&String> = epoch.iter().collect();
        assert_eq!(distinct.len(), epoch.len(), "{epoch:?}");
    }
    for start in [1, 2, steps / 2, steps - 1] {
        let (rest, ..) = seen(&config, start..steps, 0, 1);
        assert_eq!(rest, all[start * batch_size..], "from step {start}");
    }
}

#[test]
fn a_batch_across_two_epochs_has_no_photo_twice() {
    let lab = lab();
    let files = "data.shards=['LAB/part-*.tar']";
    check_apart(&lab, &[files, "optim.batch_size=5"], 60, 12);
    // Less than two batches of photos.
    for batch_size in ["optim.batch_size=7", "optim.batch_size=11"] {
        check_apart(&lab, &[files, batch_size], 40, 12);
    }
    check_apart(&lab, &[files, "optim.batch_size=10", "data.lanes=2"], 40, 1);
}

#[test]
fn a_batch_of_a_mixture_has_no_photo_twice() {
    let lab = lab();
    let mix = "data={ crop_scale=[1, 1], mix=[{ weight = 3, shards=['LAB/part-{0,1}.tar'] }, \
        { weight = 2, shards=['LAB/part-{2,3}.tar'] }] }";
    check_apart(&lab, &[mix, "optim.batch_size=5"], 100, 1);
}

#[test]
fn a_batch_from_commands_has_no_photo_twice() {
    let lab = Lab::new();
    for idx in 0..11 {
        tiny::write_shard(&lab.path(&format!("one-{idx:02}.tar")), &[sample(idx)]);
    }
    let set = [
        "data.shards=['pipe:cat LAB/one-{00..10}.tar']",
        "data.samples_per_shard=1",
        "data.shuffle_buffer=1",
        "optim.batch_size=2",
    ];
    check_apart(&lab, &set, 44, 11);
}

#[test]
fn a_batch_larger_than_the_data_is_refused() {
    let lab = lab();
    let few = ["data.shards=['LAB/part-{0..1}.tar']", "optim.batch_size=8", "optim.steps=1"];
    let refused = |set: &[&str], parts: &[&str]| {
        let error = failure(&lab.config("run", &[&few[..], set].concat()), false);
        for part in parts {
            assert!(error.contains(part), "{error:?} does not say {part:?}");
        }
    };
    refused(&[], &["source 0 has 6 photos", "up to 8", "negative of itself", "data.repeat = true"]);
    let mix = "data={ mix=[{ weight = 1, shards=['LAB/part-{1..3}.tar'] }, \
        { weight = 1, shards=['LAB/part-0.tar'] }] }";
    refused(&[mix], &["source 1 has 3 photos"]);
    refused(
        &[
            "data.shards=['pipe:cat LAB/part-{0..1}.tar']",
            "data.samples_per_shard=3",
            "data.lanes=2",
        ],
        &["source 0 has 3 photos of a lane", "up to 4"],
    );
    // Without a contrastive loss there are no negatives.
    finish(&lab.config("captions", &[&few[..], &["objective=cap_only"]].concat()), false);
    let notes =
        finish(&lab.config("again", &[&few[..], &["data.repeat=true"]].concat()), false).notes;
    assert!(notes.iter().any(|note| note.contains("source 0 has 6 photos")), "{notes:?}");
}

#[test]
fn photos_in_two_sources_are_counted() {
    let lab = lab();
    // Sources 0 and 1 share three samples of other keys; sources 1 and 2 share a file.
    let mut copies: Vec<Sample> = (2..5).map(sample).collect();
    copies.iter_mut().for_each(|copy| copy.key.insert(0, 'c'));
    copies.push(tiny::sample(6));
    tiny::write_shard(&lab.path("copies.tar"), &copies);
    let scenes: Vec<Sample> = (0..6).map(sample).collect();
    tiny::write_shard(&lab.path("six.tar"), &scenes);
    let other = Sample { key: "other".into(), ..tiny::sample(7) };
    tiny::write_shard(&lab.path("other.tar"), &[other]);
    let mix = "data={ mix=[{ weight = 2, shards=['LAB/six.tar'] }, \
        { weight = 1, shards=['LAB/copies.tar'] }, { weight = 1, shards=['LAB/other.tar'] }], \
        repeat = true }";
    let notes = finish(&lab.config("run", &[mix, "optim.steps=1"]), false).notes;
    let found: Vec<&String> = notes.iter().filter(|note| note.contains("are also in")).collect();
    let [note] = found[..] else { panic!("{notes:?}") };
    assert!(note.starts_with("3 photos of source 0 are also in source 1: "), "{note}");
}

#[test]
fn the_order_of_the_samples_does_not_depend_on_the_folders() {
    let lab = lab();
    let orders = ["a/x", "b/y"].map(|places| {
        let (first, second) = places.split_once('/').expect("two");
        // The first two shards lie in a folder whose name comes first, or last.
        let folders = if first == "a" { [first, "z"] } else { ["z", second] };
        let root = lab.path(&format!("{first}{second}"));
        for shard in 0..4 {
            let folder = root.join(folders[shard / 2]);
            fs::create_dir_all(&folder).expect("writable");
            let name = format!("part-{shard}.tar");
            fs::copy(lab.path(&name), folder.join(&name)).expect("writable");
        }
        let shards = format!("data.shards=['{}/*/part-*.tar']", root.display());
        seen(&lab.config("run", &[&shards]), 0..6, 0, 1).0
    });
    assert_eq!(orders[0], orders[1]);
}

#[test]
fn the_headers_of_a_shard_are_read_once() {
    let lab = lab();
    let config = lab.config("run", &["data.shards=['LAB/part-*.tar']", "optim.steps=3"]);
    let n_indexed = |rank| {
        let model = tiny::model();
        let batches = Batches::open(&config, &model.config, &model.tokenizer, rank, 2);
        batches.expect("the data can be opened").n_indexed()
    };
    assert_eq!(n_indexed(1), 4);
    finish(&config, false);
    assert_eq!((n_indexed(0), n_indexed(1)), (0, 0));
    let (before, ..) = seen(&config, 0..3, 0, 1);
    let times = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
    let shard = fs::File::options().write(true).open(lab.path("part-2.tar")).expect("it is there");
    shard.set_times(times).expect("writable");
    assert_eq!((n_indexed(1), n_indexed(0), n_indexed(1)), (1, 1, 0));
    assert_eq!(seen(&config, 0..3, 0, 1).0, before);
}

#[test]
fn records_of_img2dataset_are_read_without_a_text() {
    let records = ["one", "two", "three", "four"].map(|caption| {
        json!({
            "url": "https://a.org/1.jpg", "caption": caption, "key": "000000001",
            "status": "success", "error_message": null, "width": 64, "height": 48.0,
            "original_width": 640, "original_height": 480, "exif": "{}", "sha256": "0f",
            "similarity": 0.31, "class": 7, "regions": null,
        })
    });
    let samples: Vec<Sample> = (0..4)
        .map(|idx| {
            let mut sample = sample(idx);
            sample.parts[1].1 = records[idx].to_string().into_bytes();
            sample
        })
        .collect();
    let lab = Lab::with(&samples);
    let (mut names, skipped, said) = seen(&lab.config("run", &[]), 0..1, 0, 1);
    names.sort_unstable();
    assert_eq!((names.join(" "), skipped), ("four one three two".to_owned(), 0), "{said:?}");
}
