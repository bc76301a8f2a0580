//! Order of samples: from files, commands and mixtures, from mid-epoch and on any number of ranks.

use std::collections::BTreeMap;
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
        "pipe:cat LAB/missing.tar 2> /dev/null".into(),
        "pipe:cat LAB/part-3.tar; exit 3".into(),
    ];
    let shards = format!("data.shards={commands:?}");
    let set =
        [shards.as_str(), "data.samples_per_shard=3", "optim.steps=6", "data.shuffle_buffer=4"];
    let config = lab.config("run", &set);
    let notes = finish(&config, false).notes;
    for why in ["cut short", "the command failed (exit status: 1)"] {
        assert!(notes.iter().any(|note| note.contains(why)), "{why:?} is not in {notes:?}");
    }
    let last = metrics(&config).pop().expect("six lines");
    // Two epochs; three samples are lost with the missing file and at least one with the truncated
    // one.
    let skipped = last["skipped_samples"].as_u64().expect("a count");
    assert!((8..=12).contains(&skipped) && skipped.is_multiple_of(2), "{skipped}");
}

#[test]
fn sources_are_mixed_by_their_weights() {
    let lab = lab();
    let mix = "data={ crop_scale=[1, 1], mix=[{ weight = 3, shards=['LAB/part-0.tar'] }, \
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
