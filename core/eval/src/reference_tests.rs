//! Agreement with the numbers that reference implementations print on shared inputs;
//! `tests/eval/make.py` has the calls.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::metrics::classification::{
    best_class, class_probabilities, mean_average_precision_11, mean_per_class, roc_auc,
};
use crate::metrics::dense::{Detection, TrueBoxes, dense_scores};
use crate::metrics::ranking::Ties;
use crate::metrics::retrieval::{RetrievalRanks, ranks_from_embeds, recall_at};

/// The same sums in double precision, in another order.
const TOLERANCE: f64 = 1e-12;

fn golden(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/eval").join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn list<T: serde::de::DeserializeOwned>(value: &Value) -> Vec<T> {
    serde_json::from_value(value.clone()).expect("a list of one kind")
}

#[track_caller]
fn close(name: &str, found: f64, wanted: &Value) {
    let wanted = wanted.as_f64().unwrap_or_else(|| panic!("{name} has no golden number"));
    assert!((found - wanted).abs() < TOLERANCE, "{name} is {found}, want {wanted}");
}

/// Compares ranks with metrics under open_clip's names.
fn check_open_clip(case: &str, ranks: &RetrievalRanks, wanted: &Value) {
    for (direction, ranks) in
        [("image_to_text", &ranks.image_to_text), ("text_to_image", &ranks.text_to_image)]
    {
        let mut sorted: Vec<usize> =
            ranks.iter().map(|rank| rank.expect("every score is a number")).collect();
        sorted.sort_unstable();
        let mean = sorted.iter().sum::<usize>() as f64 / sorted.len() as f64;
        close(
            &format!("{case}: {direction}_mean_rank"),
            mean,
            &wanted[format!("{direction}_mean_rank")],
        );
        for k in [1, 5, 10] {
            let key = format!("{direction}_R@{k}");
            close(&format!("{case}: {key}"), recall_at(ranks, k), &wanted[&key]);
        }
        // open_clip's median is rounded down.
        let (middle, n) = (sorted.len() / 2, sorted.len());
        let median =
            if n % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2 };
        let key = format!("{direction}_median_rank");
        close(&format!("{case}: {key}"), median as f64, &wanted[&key]);
    }
}

/// In a tie, the first in the data wins: open_clip's metric with a stable sort, the same on every
/// CPU. Without ties this is open_clip's metric itself.
#[test]
fn retrieval_with_one_caption_is_open_clips_metric_ties_included() {
    let golden = golden("retrieval.json");
    let cases = golden["one_caption"].as_array().expect("cases");
    assert_eq!(cases.len(), 3);
    for case in cases {
        let name = case["name"].as_str().expect("a name");
        let dim = case["dim"].as_u64().expect("a width") as usize;
        let (images, texts): (Vec<f32>, Vec<f32>) = (list(&case["images"]), list(&case["texts"]));
        let own: Vec<usize> = (0..texts.len() / dim).collect();
        let ranks = ranks_from_embeds(&images, &texts, dim, &own, Ties::ByIndex).expect("they fit");
        check_open_clip(name, &ranks, &case["stable"]);
        if name == "random" {
            check_open_clip(name, &ranks, &case["metrics"]);
        }
    }
}

#[test]
fn ties_that_count_against_never_raise_a_recall() {
    let golden = golden("retrieval.json");
    let case = &golden["one_caption"][0];
    let dim = case["dim"].as_u64().expect("a width") as usize;
    let (images, texts): (Vec<f32>, Vec<f32>) = (list(&case["images"]), list(&case["texts"]));
    let own: Vec<usize> = (0..texts.len() / dim).collect();
    let [against, by_index] = [Ties::Against, Ties::ByIndex]
        .map(|ties| ranks_from_embeds(&images, &texts, dim, &own, ties).expect("they fit"));
    assert!(against.image_to_text.iter().zip(&by_index.image_to_text).all(|(a, b)| a >= b));
    assert_ne!(against, by_index, "most scores of this case are equal");
}

#[test]
fn retrieval_with_several_captions_is_clip_benchmarks_recall() {
    let golden = golden("retrieval.json");
    let case = &golden["several_captions"];
    let dim = case["dim"].as_u64().expect("a width") as usize;
    let (images, texts): (Vec<f32>, Vec<f32>) = (list(&case["images"]), list(&case["texts"]));
    let own: Vec<usize> = list(&case["own"]);
    let ranks = ranks_from_embeds(&images, &texts, dim, &own, Ties::Against).expect("they fit");
    for k in [1, 5, 10] {
        for (direction, ranks) in
            [("image_to_text", &ranks.image_to_text), ("text_to_image", &ranks.text_to_image)]
        {
            let key = format!("{direction}_recall_at_{k}");
            close(&key, recall_at(ranks, k), &case["recalls"][&key]);
        }
    }
}

/// The references are vision-evaluation (which ELEVATER calls) and scikit-learn.
#[test]
fn classification_is_scored_as_elevater_does() {
    let golden = golden("classification.json");
    let n_classes = golden["n_classes"].as_u64().expect("a number") as usize;
    // The reference computes in double precision; a model's cosines are single.
    let cosines: Vec<f32> = list(&golden["cosines"]);
    let labels: Vec<usize> = list(&golden["labels"]);
    let predicted: Vec<usize> = cosines.chunks_exact(n_classes).map(best_class).collect();
    let hits = predicted.iter().zip(&labels).filter(|(found, label)| found == label).count();
    close("top1", hits as f64 / labels.len() as f64, &golden["top1"]);
    close("mean_per_class", mean_per_class(&labels, &predicted), &golden["mean_per_class"]);

    let probabilities: Vec<f64> =
        cosines.chunks_exact(n_classes).flat_map(class_probabilities).collect();
    let several: Vec<Vec<usize>> = list(&golden["several"]);
    let found = mean_average_precision_11(&probabilities, n_classes, &several);
    close("map_11_points", found, &golden["map_11_points"]);

    let scores: Vec<f64> = list(&golden["scores"]);
    let positive: Vec<u8> = list(&golden["positive"]);
    let scored: Vec<(f64, bool)> =
        scores.into_iter().zip(positive.iter().map(|p| *p == 1)).collect();
    close("roc_auc", roc_auc(&scored), &golden["roc_auc"]);
}

/// The reference is densecap-pytorch's port of DenseCap's evaluation, with given METEOR scores.
#[test]
fn dense_captions_are_scored_as_densecap_does() {
    let golden = golden("dense.json");
    let (mut matched, mut n_true) = (Vec::new(), 0);
    for photo in golden["photos"].as_array().expect("photos") {
        let (truth, found): (Vec<[f32; 4]>, Vec<[f32; 4]>) =
            (list(&photo["truth"]), list(&photo["found"]));
        let captions: Vec<String> = (0..truth.len()).map(|i| format!("thing {i}")).collect();
        let truth = TrueBoxes::new(&truth, &captions);
        n_true += truth.len();
        let scores: Vec<f64> = list(&photo["scores"]);
        let detections: Vec<Detection> = found
            .into_iter()
            .zip(scores)
            .map(|(box_px, score)| Detection { box_px, score, caption: String::new() })
            .collect();
        matched.extend(truth.assign(&detections));
    }
    let meteors: Vec<f64> = list(&golden["meteors"]);
    let found = dense_scores(&matched, Some(&meteors), n_true);
    // The reference sums in single precision.
    for (name, found, wanted) in [
        ("detection_map", found.detection_map, &golden["detection_map"]),
        ("map", found.dense_captioning_map.expect("METEOR was given"), &golden["map"]),
    ] {
        let wanted = wanted.as_f64().expect("a number");
        assert!((found - wanted).abs() < 1e-6, "{name} is {found}, want {wanted}");
    }
}
