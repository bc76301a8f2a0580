//! Results on stdout: JSON documents with the specified keys, and lines of text.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use super::{Desk, norm, text};

#[track_caller]
fn check_keys(object: &Value, keys: &[&str]) {
    let found: Vec<&str> =
        object.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(found, keys);
}

#[test]
fn embeddings_of_photos_texts_and_regions() {
    let desk = Desk::new();
    let embeds =
        desk.json("embed 0.png 1.png --text dog --text house --box 10,10,90,90 --box 0,0,40,60");
    check_keys(&embeds, &["images", "texts", "regions"]);
    check_keys(&embeds["images"][1], &["path", "embed"]);
    check_keys(&embeds["texts"][1], &["text", "embed"]);
    check_keys(&embeds["regions"][3], &["path", "box", "embed"]);
    assert_eq!(
        (&embeds["images"][1]["path"], &embeds["texts"][1]["text"]),
        (&json!("1.png"), &json!("house"))
    );
    assert_eq!(embeds["regions"][3]["box"], json!([0.0, 0.0, 40.0, 60.0]));
    for (kind, n) in [("images", 2), ("texts", 2), ("regions", 4)] {
        let rows = embeds[kind].as_array().expect("a list");
        assert_eq!(rows.len(), n, "{kind}");
        for row in rows {
            assert!((norm(&row["embed"]) - 1.0).abs() < 1e-5, "{row}");
        }
    }
    assert_ne!(embeds["regions"][2]["embed"], embeds["regions"][3]["embed"]);

    let alone = desk.json("embed --text dog");
    assert_eq!(alone["texts"][0], embeds["texts"][0], "the others change nothing");
    assert_eq!((&alone["images"], &alone["regions"]), (&json!([]), &json!([])));
}

#[test]
fn embeddings_as_lines_and_as_a_file() {
    let desk = Desk::new();
    let output = desk.run("embed 0.png --text dog --box 1,2,90,80 -q");
    let stdout = text(&output.stdout);
    let lines: Vec<Vec<&str>> = stdout.lines().map(|line| line.split('\t').collect()).collect();
    let names: Vec<(&str, &str)> = lines.iter().map(|line| (line[0], line[1])).collect();
    assert_eq!(names, [("image", "0.png"), ("text", "dog"), ("region", "0.png 1,2,90,80")]);
    assert!(lines.iter().all(|line| line.len() == 3 && line[2].split(' ').count() == 24));
    assert!(output.status.success() && output.stderr.is_empty());

    let output = desk.run("embed 0.png --text dog --out vectors.safetensors -q");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0));
    let bytes = fs::read(desk.path("vectors.safetensors")).expect("it was written");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a whole file");
    assert_eq!(file.tensor("image_embed").expect("it is there").shape(), [1, 24]);
    assert_eq!(file.tensor("text_embed").expect("it is there").shape(), [1, 24]);
    assert!(file.tensor("region_embed").is_err());
}

#[test]
fn captions_of_a_photo_and_of_its_regions() {
    let desk = Desk::new();
    let whole = desk.json("caption 0.png 1.png --max-tokens 4");
    assert_eq!(whole.as_array().map(Vec::len), Some(2));
    check_keys(&whole[0], &["path", "box", "caption", "log_prob"]);
    assert_eq!((&whole[1]["path"], &whole[1]["box"]), (&json!("1.png"), &Value::Null));

    // The model captions the box of a whole photo as a region (stage 2), not as a photo (stage 1).
    let boxes = desk.json("caption 0.png --box 0,0,500,500 --box 4,4,30,30 --max-tokens 4");
    assert_eq!(boxes.as_array().map(Vec::len), Some(2));
    check_keys(&boxes[0], &["path", "box", "caption", "log_prob"]);
    assert_eq!(boxes[1]["box"], json!([4.0, 4.0, 30.0, 30.0]));
    let log_prob = |caption: &Value| caption["log_prob"].as_f64().expect("a number");
    assert!(log_prob(&whole[0]) < 0.0 && log_prob(&boxes[0]) < 0.0);
    assert_ne!(log_prob(&boxes[0]), log_prob(&whole[0]));
    assert_ne!(log_prob(&boxes[0]), log_prob(&boxes[1]));

    let wide = desk.json("caption 0.png --max-tokens 4 --beam 4");
    check_keys(&wide[0], &["path", "box", "caption", "log_prob"]);
    let lines = text(&desk.run("caption 0.png --box 4,4,30,30 --max-tokens 4 -q").stdout);
    assert!(lines.starts_with("0.png\t4,4,30,30\t") && lines.lines().count() == 1, "{lines}");
}

#[test]
fn a_box_of_the_whole_photo_may_reach_over_its_edge() {
    let desk = Desk::new();
    let embeds = desk.json("embed 0.png --box -50,-50,5000,5000 --box 0,0,4000,4000");
    assert_eq!(embeds["regions"][0]["embed"], embeds["regions"][1]["embed"]);
}

#[test]
fn hits_of_a_search() {
    let desk = Desk::new();
    let hits = desk.json("search dog --photos . -k 2");
    assert_eq!(hits.as_array().map(Vec::len), Some(2));
    let facts = ["date", "date_from", "size", "size_bytes", "format", "camera", "place"];
    check_keys(&hits[0], &[["path", "score", "box"].as_slice(), &facts].concat());
    assert_eq!(hits[0]["date_from"], json!("file"));
    let size = image::open(desk.path("0.png")).expect("a PNG").into_rgb8().dimensions();
    assert_eq!(hits[0]["size"], json!([size.0, size.1]));
    let region = desk.json("search 0.png --box 10,10,90,90 --photos .");
    assert_eq!(region.as_array().map(Vec::len), Some(3));
    let lines = text(&desk.run("search dog --photos . -k 1 -q").stdout);
    assert_eq!(lines.trim_end().split('\t').count(), 3, "{lines}");
}

#[test]
fn a_library_is_filled_once_and_searched_often() {
    let desk = Desk::new();
    desk.fails("search dog --library photos.sqlite", 1, &["mmgem index DIR", "photos.sqlite"]);
    desk.write("bad.png", b"no photo");
    let output = desk.run("index . --library photos.sqlite");
    assert!(output.status.success() && text(&output.stderr).contains("1 of 4 files were skipped"));
    let again = desk.json("index . --library photos.sqlite");
    assert_eq!((&again["photos"], &again["encoded"]), (&json!(3), &json!(0)));
    let hits = desk.json("search 1.png --library photos.sqlite -k 1");
    assert!(hits[0]["path"].as_str().expect("a path").ends_with("1.png"), "{hits}");
}

#[test]
fn a_place_in_a_photo() {
    let desk = Desk::new();
    let found = desk.json("localize 0.png --text dog --out heat.png");
    assert_eq!(found["similarity"].as_array().map(Vec::len), Some(16));
    assert_eq!(found["box"].as_array().map(Vec::len), Some(4));
    let size = |name: &str| image::open(desk.path(name)).expect("a PNG").into_rgb8().dimensions();
    assert_eq!(size("heat.png"), size("0.png"));
}

#[test]
fn a_model_tells_what_it_is_and_is_copied() {
    let desk = Desk::new();
    let info = desk.json("info model");
    assert_eq!((&info["self_check"], &info["config"]["embed_dim"]), (&json!("passed"), &json!(24)));
    let copied = desk.json("export --dtype f16 --out half");
    assert!(copied["cosine_worst"].as_f64().expect("a cosine") > 0.999, "{copied}");
    let half = desk.json("embed --text dog --model half")["texts"][0]["embed"].clone();
    assert!((norm(&half) - 1.0).abs() < 1e-5);
}

#[test]
fn a_packed_copy_is_smaller_and_says_what_it_lost() {
    let desk = Desk::new();
    assert!(desk.run("scenes --out drawn --n 6 --seed 5").status.success());
    let copied = desk.json("export --dtype q8 --out eight --data drawn/*.tar --limit 4");
    check_keys(
        &copied,
        &[
            "out",
            "bytes_before",
            "bytes_after",
            "n_files",
            "cosine_worst",
            "cosine",
            "captions",
            "data",
        ],
    );
    check_keys(&copied["cosine"], &["image", "text", "region"]);
    assert!(copied["cosine_worst"].as_f64().expect("a cosine") > 0.99, "{copied}");
    assert_eq!(copied["data"]["n_photos"], json!(4));
    let cider = &copied["data"]["scores"]["cider"];
    assert!(cider["before"].is_number() && cider["after"].is_number(), "{copied}");
    let bytes = |name: &str| fs::metadata(desk.path(name)).expect("it was written").len();
    assert!(bytes("eight/model.safetensors") * 2 < bytes("model/model.safetensors"), "{copied}");

    // The copy gives nearly the vectors of the model, and commands accept it as a model.
    let embed = |model: &str| {
        desk.json(&format!("embed --text dog --model {model}"))["texts"][0]["embed"].clone()
    };
    let (a, b) = (embed("model"), embed("eight"));
    let number = |x: &Value| x.as_f64().expect("a number");
    let numbers =
        |v: &Value| -> Vec<f64> { v.as_array().expect("a vector").iter().map(number).collect() };
    let cosine: f64 = numbers(&a).iter().zip(numbers(&b)).map(|(a, b)| a * b).sum();
    assert!(cosine > 0.99 && a != b, "{cosine}");
    assert_eq!(desk.json("export eight --dtype f16 --out wide")["cosine"]["image"]["n"], json!(8));
}

#[test]
fn a_copy_that_lost_too_much_is_not_kept() {
    let desk = Desk::new();
    desk.fails(
        "export --dtype q4 --out four --floor 0.9999999",
        1,
        &["vectors", "cosine", "--dtype q8", "hint"],
    );
    assert!(!desk.path("four").exists());
    fs::create_dir(desk.path("mine")).expect("the folder is writable");
    desk.write("mine/notes.txt", b"mine");
    desk.fails("export --dtype q4 --out mine --floor 0.9999999", 1, &["cosine"]);
    let names: Vec<_> = fs::read_dir(desk.path("mine"))
        .expect("a folder")
        .map(|e| e.expect("one").file_name())
        .collect();
    assert_eq!(names, ["notes.txt"]);
}

#[test]
fn scores_of_captions() {
    let desk = Desk::new();
    desk.write(
        "refs.json",
        br#"{"7": ["a dog on the grass", "the dog runs"], "8": ["two red cars"]}"#,
    );
    desk.write(
        "same.json",
        br#"[{"image_id": 7, "caption": "A dog on the grass."}, {"image_id": 8, "caption": "two red cars"}]"#,
    );
    let scores = desk.json("eval score --references refs.json --candidates same.json");
    check_keys(&scores, &["bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"]);
    for key in ["bleu_1", "bleu_2", "rouge_l"] {
        assert!((scores[key].as_f64().expect("a score") - 1.0).abs() < 1e-6, "{key} in {scores}");
    }
}

#[test]
fn coco_captions_are_scored_as_pycocoevalcap_does() {
    let shared = std::env::var_os("MMGEM_SHARED").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared"),
        PathBuf::from,
    );
    let folder = shared.join("data/caption-scores");
    let gold = fs::read(folder.join("coco_val2017_loo_gold.json"));
    let unpacked =
        Command::new("gzip").arg("-dc").arg(folder.join("coco-captions_val2017.json.gz")).output();
    let (Ok(gold), Some(unpacked)) = (gold, unpacked.ok().filter(|output| output.status.success()))
    else {
        eprintln!(
            "SKIPPED: no data/caption-scores (set MMGEM_SHARED to the shared folder) or no gzip"
        );
        return;
    };
    // Caption 0 of each image, by annotation id, against captions 1..=4.
    let file: Value =
        serde_json::from_slice(&unpacked.stdout).expect("COCO's annotations are JSON");
    let mut images: BTreeMap<u64, BTreeMap<u64, &str>> = BTreeMap::new();
    for annotation in file["annotations"].as_array().expect("a list") {
        let id = |key: &str| annotation[key].as_u64().expect("an id");
        let caption = annotation["caption"].as_str().expect("a text");
        images.entry(id("image_id")).or_default().insert(id("id"), caption);
    }
    let (mut references, mut candidates) = (serde_json::Map::new(), Vec::new());
    for (image, captions) in &images {
        let captions: Vec<&str> = captions.values().copied().collect();
        candidates.push(json!({ "image_id": image, "caption": captions[0] }));
        references.insert(image.to_string(), json!(captions[1..5]));
    }
    let desk = Desk::new();
    desk.write("refs.json", Value::Object(references).to_string().as_bytes());
    desk.write("found.json", Value::Array(candidates).to_string().as_bytes());
    let scores = desk.json("eval score --references refs.json --candidates found.json");
    let gold: Value = serde_json::from_slice(&gold).expect("JSON");
    for (ours, theirs) in
        [("bleu_1", "Bleu_1"), ("bleu_4", "Bleu_4"), ("rouge_l", "ROUGE_L"), ("cider", "CIDEr")]
    {
        let (found, wanted) =
            (scores[ours].as_f64().expect(ours), gold[theirs].as_f64().expect(theirs));
        assert!((found - wanted).abs() < 1e-6, "{ours} is {found}, want {wanted}");
    }
}
