//! `mmgem eval`: the layout of every benchmark with a few drawn photos, the output files, and the
//! errors for invalid data.

use std::fs;
use std::path::Path;
use std::process::Command;

use mmgem_data::webdataset::{Sample, ShardWriter};
use mmgem_scenes::scene;
use serde_json::{Value, json};

use super::{Desk, text};

/// A desk with six scenes in shards.
fn desk() -> Desk {
    let desk = Desk::new();
    assert!(desk.run("scenes --out drawn --n 6 --seed 5").status.success());
    desk
}

fn dir(desk: &Desk, name: &str) {
    fs::create_dir_all(desk.path(name)).expect("the folder is writable");
}

fn photo(desk: &Desk, index: u64, name: &str) {
    let scene = scene(5, index);
    let photo =
        image::RgbImage::from_raw(scene.width, scene.height, scene.rgb).expect("rows of pixels");
    // Always a PNG: the program ignores the extension.
    photo
        .save_with_format(desk.path(name), image::ImageFormat::Png)
        .expect("the folder is writable");
}

#[track_caller]
fn number(document: &Value, key: &str) -> f64 {
    document[key].as_f64().unwrap_or_else(|| panic!("{key} is not a number in {document}"))
}

#[track_caller]
fn check_signed(document: &Value, task: &str, n_photos: usize) {
    assert_eq!(
        (&document["task"], &document["n_photos"]),
        (&json!(task), &json!(n_photos)),
        "{document}"
    );
    for key in ["model_hash", "data_hash"] {
        assert_eq!(document[key].as_str().map(str::len), Some(16), "{key} in {document}");
    }
    assert!(
        document["program"].as_str().is_some_and(|program| program.starts_with("mmgem 0.")),
        "{document}"
    );
    assert!(document["protocol"].as_str().is_some_and(|words| words.len() > 20), "{document}");
}

#[test]
fn retrieval_is_written_in_every_form_and_compared() {
    let desk = desk();
    let line = "eval retrieval --data drawn/*.tar --save a.json --csv a.csv --report a.html";
    let scores = desk.json(line);
    check_signed(&scores, "retrieval", 6);
    assert_eq!((&scores["n_images"], &scores["n_texts"]), (&json!(6), &json!(30)));
    let interval = scores["intervals"]["mean_recall"].as_array().expect("an interval");
    let mean = number(&scores, "mean_recall");
    assert!(interval[0].as_f64() <= Some(mean) && Some(mean) <= interval[1].as_f64(), "{scores}");

    let csv = fs::read_to_string(desk.path("a.csv")).expect("it was written");
    assert!(csv.starts_with(
        "task,benchmark,model,model_hash,data_hash,program,n_photos,score,value,low,high\n"
    ));
    assert!(csv.contains(",text_to_image_recall_at_5,") && csv.lines().count() > 8, "{csv}");
    let html = fs::read_to_string(desk.path("a.html")).expect("it was written");
    for wanted in [
        "<polyline class=\"curve\"",
        "data:image/",
        "Texts whose photo ranks last",
        "text_to_image_recall",
    ] {
        assert!(html.contains(wanted), "{wanted}");
    }

    let same = desk.json("eval compare a.json a.json");
    assert_eq!(number(&same["scores"]["mean_recall"], "difference"), 0.0);
    assert!(
        desk.run("eval retrieval --data drawn/*.tar --captions 1 --save b.json").status.success()
    );
    let other = desk.json("eval compare a.json b.json --draws 50");
    let found = &other["scores"]["text_to_image_recall_at_1"];
    assert!(
        (number(found, "b") - number(found, "a") - number(found, "difference")).abs() < 1e-12,
        "{other}"
    );
    assert!(number(found, "low") <= number(found, "high"));

    assert!(
        desk.run("eval retrieval --data drawn/*.tar --limit 4 --save few.json").status.success()
    );
    desk.fails("eval compare a.json few.json", 1, &["compare runs on the same data"]);
    desk.fails(
        "eval compare a.json a.csv",
        1,
        &["wanted a file that `mmgem eval .. --save FILE` wrote"],
    );
}

/// Writes a shard of scenes, each with one more part.
fn shard(desk: &Desk, name: &str, samples: &[(&str, &str)]) {
    let mut writer = ShardWriter::create(desk.path(name)).expect("the folder is writable");
    for (index, (ext, text)) in samples.iter().enumerate() {
        photo(desk, index as u64, "next.png");
        let pixels = fs::read(desk.path("next.png")).expect("just written");
        let parts =
            vec![("input.png".to_owned(), pixels), ((*ext).to_owned(), text.as_bytes().to_vec())];
        writer.write(&Sample { key: format!("{index:04}"), parts }).expect("a valid sample");
    }
    writer.finish().expect("the folder is writable");
}

#[test]
fn captions_are_read_as_other_programs_write_them() {
    let desk = Desk::new();
    let lines = "a cat\na black cat\n a cat on a mat\n";
    // The forms of CLIP_benchmark, img2dataset and LAION, and a list.
    let samples = [
        ("txt", lines),
        ("json", r#"{"caption": "a dog", "url": "x"}"#),
        ("json", r#"{"TEXT": "a boat", "URL": "x"}"#),
        ("json", r#"{"captions": "two boats"}"#),
        ("outputs.txt", "a house"),
        ("json", r#"{"captions": ["a tree", "a green tree"]}"#),
    ];
    shard(&desk, "s-0.tar", &samples);
    desk.write("s-1.tar", b"");
    let output = desk.run("eval retrieval --data s-*.tar --json");
    let scores: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&scores["n_images"], &scores["n_texts"]), (&json!(6), &json!(9)), "{scores}");
    let stderr = text(&output.stderr);
    assert!(stderr.contains("the file is empty") && stderr.contains("s-1.tar"), "{stderr}");
    desk.fails("eval retrieval --data s-*.tar --strict", 1, &["(--strict)", "s-1.tar"]);
    desk.fails("eval retrieval --data s-1.tar", 1, &["found no whole sample (the file is empty)"]);
    // A text of several lines is one long text.
    shard(&desk, "long.tar", &[("txt", lines), ("txt", "a dog\nin a house")]);
    let long = desk.json("eval long-text --data long.tar --text-len 30");
    assert_eq!((&long["n_images"], &long["n_texts"]), (&json!(2), &json!(2)), "{long}");
    // The error has the key of the invalid sample.
    shard(&desk, "bad.tar", &[("json", r#"{"captions": 7}"#)]);
    desk.fails(
        "eval retrieval --data bad.tar",
        1,
        &["none of the photos can be used", "sample 0000", "\"captions\" is 7"],
    );
}

#[test]
fn the_templates_of_clip_benchmark_are_taken_where_they_lie() {
    let desk = Desk::new();
    dir(&desk, "wds/test");
    shard(&desk, "wds/test/0.tar", &[("cls", "0"), ("cls", "1"), ("cls", "1\n")]);
    desk.write("wds/classnames.txt", b"cat\nboat\n");
    let plain = desk.json("eval zero-shot --data wds/test/*.tar --save plain.json");
    assert_eq!((&plain["n_classes"], &plain["n_photos"]), (&json!(2), &json!(3)), "{plain}");
    desk.write("wds/zeroshot_classification_templates.txt", b"an image of a {c}\n");
    let output = desk.run("eval zero-shot --data wds/test/*.tar --json");
    assert!(
        text(&output.stderr).contains("zeroshot_classification_templates.txt"),
        "{}",
        text(&output.stderr)
    );
    let with = serde_json::from_slice::<Value>(&output.stdout).expect("JSON");
    assert_eq!(with["n_photos"], json!(3));
}

#[test]
fn a_folder_per_class_takes_the_persons_own_names_and_templates() {
    let desk = desk();
    for (class, index) in [("house_cat", 0), ("house_cat", 1), ("red_boat", 2), ("red_boat", 3)] {
        dir(&desk, &format!("classes/{class}"));
        photo(&desk, index, &format!("classes/{class}/{index}.png"));
    }
    let plain = desk.json("eval zero-shot --data classes --report z.html");
    check_signed(&plain, "zero-shot", 4);
    assert_eq!((&plain["n_classes"], number(&plain, "chance")), (&json!(2), 0.5));
    assert!((0.0..=1.0).contains(&number(&plain, "top1")) && plain["mean_per_class"].is_number());
    assert!(fs::read_to_string(desk.path("z.html")).expect("written").contains("house cat"));

    desk.write("classes/classes.txt", b"a cat | a kitten\na boat\n");
    desk.write("classes/templates.txt", b"art of {}\n");
    desk.json("eval zero-shot --data classes");
    desk.write("classes/templates.txt", b"no place\n");
    desk.fails("eval zero-shot --data classes", 1, &["\"no place\" has no {}", "templates.txt"]);
    desk.write("classes/templates.txt", b"art of {}\n");
    desk.write("classes/classes.txt", b"a cat\n");
    desk.fails("eval zero-shot --data classes", 1, &["1 names for 2 classes", "classes.txt"]);
    dir(&desk, "nothing");
    desk.fails(
        "eval zero-shot --data nothing",
        1,
        &["found 0 photos in 0 folders", "a folder with one folder"],
    );
    desk.fails(
        "eval zero-shot --elevater nothing",
        1,
        &["none of ELEVATER's 20 sets is there", "labels.txt"],
    );
}

#[test]
fn elevaters_sets_that_are_there_are_averaged_and_the_others_named() {
    let desk = desk();
    let folder = "icinw/classification/patch_camelyon_20211007";
    dir(&desk, &format!("{folder}/test"));
    for index in 0..4 {
        photo(&desk, index, &format!("{folder}/test/{index}.png"));
    }
    let lines: String = (0..4).map(|i| format!("test.zip@{i}.png {}\n", i % 2)).collect();
    desk.write(&format!("{folder}/test.txt"), lines.as_bytes());
    let scores = desk.json("eval zero-shot --elevater icinw");
    assert_eq!(scores["n_sets"], json!(1), "{scores}");
    assert_eq!(scores["missing_sets"].as_array().map(Vec::len), Some(19));
    assert_eq!(scores["mean_over_sets"], scores["sets"][0]["score"]);

    // A second set, with its photos in a zip archive.
    let folder = "icinw/classification/voc2007_20211007";
    dir(&desk, folder);
    let names = ["a.txt", "in/b \u{e9}.txt"];
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("eval/files.zip");
    fs::copy(golden, desk.path(&format!("{folder}/test.zip"))).expect("goldens");
    desk.write(&format!("{folder}/test_ic.txt"), format!("test.zip@{} 0,3\n", names[0]).as_bytes());
    desk.fails(
        "eval zero-shot --elevater icinw",
        1,
        &["in voc-2007-classification", "none of the photos can be used", "test.zip@a.txt"],
    );
    fs::write(desk.path(&format!("{folder}/test.zip")), zip_of_photos(&desk)).expect("writable");
    let lines: String = (0..3).map(|i| format!("test.zip@{i}.png {},{}\n", i, i + 3)).collect();
    desk.write(&format!("{folder}/test_ic.txt"), lines.as_bytes());
    let both = desk.json("eval zero-shot --elevater icinw --save both.json");
    assert_eq!((&both["n_sets"], &both["n_photos"]), (&json!(2), &json!(7)), "{both}");
    let mean = (number(&both["sets"][0], "score") + number(&both["sets"][1], "score")) / 2.0;
    assert!((number(&both, "mean_over_sets") - mean).abs() < 1e-12, "{both}");
    for score in ["mean_over_sets", "patch-camelyon.top1", "voc-2007-classification.map_11_points"]
    {
        let interval =
            both["intervals"][score].as_array().unwrap_or_else(|| panic!("{score}: {both}"));
        assert!(interval[0].as_f64() <= interval[1].as_f64(), "{both}");
    }
    let same = desk.json("eval compare both.json both.json --draws 20");
    assert_eq!(number(&same["scores"]["mean_over_sets"], "difference"), 0.0);
    fs::remove_file(desk.path(&format!("{folder}/test.zip"))).expect("it was there");
    let wanted = [
        "its photos are in test.zip, which is neither there nor unpacked",
        "unzip test.zip -d test",
    ];
    desk.fails("eval zero-shot --elevater icinw", 1, &wanted);
}

/// A zip archive of the desk's three photos, without compression.
fn zip_of_photos(desk: &Desk) -> Vec<u8> {
    let (mut archive, mut list) = (Vec::new(), Vec::new());
    for index in 0..3 {
        let (name, bytes) =
            (format!("{index}.png"), fs::read(desk.path(&format!("{index}.png"))).expect("drawn"));
        let mut crc = flate2::Crc::new();
        crc.update(&bytes);
        let length = (bytes.len() as u32).to_le_bytes();
        let common = [
            [20, 0, 0, 0, 0, 0, 0, 0, 0, 0].as_slice(),
            &crc.sum().to_le_bytes(),
            &length,
            &length,
            &(name.len() as u16).to_le_bytes(),
            &[0, 0],
        ]
        .concat();
        let offset = archive.len() as u32;
        archive.extend([b"PK\x03\x04".as_slice(), &common, name.as_bytes(), &bytes].concat());
        list.extend(
            [
                b"PK\x01\x02\x14\0".as_slice(),
                &common,
                &[0; 10],
                &offset.to_le_bytes(),
                name.as_bytes(),
            ]
            .concat(),
        );
    }
    let (start, length) = (archive.len() as u32, list.len() as u32);
    let end = [
        b"PK\x05\x06\0\0\0\0\x03\0\x03\0".as_slice(),
        &length.to_le_bytes(),
        &start.to_le_bytes(),
        &[0, 0],
    ]
    .concat();
    [archive, list, end].concat()
}

#[test]
fn karpathys_and_nocaps_captions_are_scored_and_written_for_the_servers() {
    let desk = desk();
    dir(&desk, "images");
    let sentences = |i: u64| -> Vec<Value> {
        scene(5, i).captions.iter().map(|caption| json!({ "raw": caption })).collect()
    };
    let images: Vec<Value> = (0..4)
        .map(|i| {
            photo(&desk, i, &format!("images/{i}.png"));
            let split = if i == 3 { "train" } else { "test" };
            json!({ "filename": format!("{i}.png"), "filepath": "", "split": split, "cocoid": 100 + i,
                "sentences": sentences(i) })
        })
        .collect();
    desk.write(
        "dataset_coco.json",
        json!({ "dataset": "coco", "images": images }).to_string().as_bytes(),
    );
    let greedy = desk.json(
        "eval caption --data dataset_coco.json --max-tokens 6 --out out.json --report c.html",
    );
    check_signed(&greedy, "caption", 3);
    assert_eq!(greedy["benchmark"], json!("COCO, Karpathy's split test"));
    assert!(
        number(&greedy, "cider") >= 0.0
            && number(&greedy, "bleu_4") >= 0.0
            && number(&greedy, "rouge_l") >= 0.0
    );
    let out: Value =
        serde_json::from_slice(&fs::read(desk.path("out.json")).expect("written")).expect("JSON");
    assert_eq!(out[0]["image_id"], json!(100), "{out}");
    assert!(fs::read_to_string(desk.path("c.html")).expect("written").contains("people wrote"));
    let beam = desk
        .json("eval caption --data dataset_coco.json --max-tokens 6 --beam 2 --length-penalty 0");
    assert!(
        beam["protocol"].as_str().is_some_and(|words| words.ends_with("beam 2, length penalty 0"))
    );
    assert_eq!(desk.json("eval retrieval --data dataset_coco.json")["n_images"], json!(3));

    let unknown =
        json!({ "images": [{ "id": 7, "file_name": "0.png" }, { "id": 8, "file_name": "1.png" }] });
    desk.write("image_info_test2014.json", unknown.to_string().as_bytes());
    desk.fails(
        "eval caption --data image_info_test2014.json",
        1,
        &["nothing to score", "--out FILE"],
    );
    let unscored =
        desk.json("eval caption --data image_info_test2014.json --max-tokens 4 --out test.json");
    assert_eq!(
        (&unscored["n_images"], &unscored["cider"]),
        (&json!(2), &Value::Null),
        "{unscored}"
    );
    let out: Value =
        serde_json::from_slice(&fs::read(desk.path("test.json")).expect("written")).expect("JSON");
    assert_eq!(out[1]["image_id"], json!(8), "{out}");

    let images: Vec<Value> = (0..3)
        .map(|i| {
            let domain = if i == 1 { "near-domain" } else { "in-domain" };
            json!({ "id": i, "file_name": format!("{i}.png"), "domain": domain })
        })
        .collect();
    let annotations: Vec<Value> = (0..3u64)
        .map(|i| json!({ "image_id": i, "caption": scene(5, i).captions[0].clone() }))
        .collect();
    desk.write(
        "nocaps.json",
        json!({ "images": images, "annotations": annotations }).to_string().as_bytes(),
    );
    let nocaps = desk.json("eval caption --data nocaps.json --max-tokens 4");
    assert_eq!(nocaps["benchmark"], json!("NoCaps"));
    assert!(
        nocaps["in_domain"]["cider"].is_number() && nocaps["near_domain"]["cider"].is_number(),
        "{nocaps}"
    );
}

#[test]
fn things_are_clicked_and_scored_beside_a_fixed_box() {
    let desk = desk();
    let scores = desk.json("eval region --data drawn/*.tar --click --out boxes.json");
    check_signed(&scores, "region", 6);
    for key in [
        "click_accuracy",
        "click_mean_iou",
        "click_accuracy_off_center",
        "click_accuracy_of_fixed_box",
    ] {
        let interval = scores["intervals"][key].as_array().expect("an interval");
        let value = number(&scores, key);
        assert!(
            interval[0].as_f64() <= Some(value) && Some(value) <= interval[1].as_f64(),
            "{key} in {scores}"
        );
    }
    assert!(
        number(&scores, "click_accuracy_in_first_3") >= number(&scores, "click_accuracy"),
        "{scores}"
    );

    let boxes: Value =
        serde_json::from_slice(&fs::read(desk.path("boxes.json")).expect("written")).expect("JSON");
    let boxes = boxes.as_array().expect("a list");
    assert_eq!(boxes.len() as f64, number(&scores, "n_clicks"));
    let fit = |thing: &&Value| number(thing, "iou") >= 0.5;
    let share = boxes.iter().filter(fit).count() as f64 / boxes.len() as f64;
    assert!((share - number(&scores, "click_accuracy")).abs() < 1e-9, "{share} in {scores}");
    assert!(
        boxes.iter().all(|thing| thing["proposed"].as_array().is_some_and(|boxes| boxes.len() > 1))
    );
}

#[test]
fn regions_of_all_layouts_are_asked_for_in_both_stages() {
    let desk = desk();
    desk.write("proposals.json", br#"{"00000000": [[1, 1, 60, 60, 0.9]]}"#);
    let shards = desk.json(
        "eval region --data drawn/*.tar --limit 3 --stage both --max-tokens 4 --proposals proposals.json --out said.json \
         --report r.html",
    );
    check_signed(&shards, "region", 3);
    for key in
        ["region_text_to_region_recall_at_1", "pointing_accuracy", "region_cider", "detection_map"]
    {
        assert!((0.0..=10.0).contains(&number(&shards, key)), "{key}");
        number(&shards, &format!("stage_1_{key}"));
    }
    let html = fs::read_to_string(desk.path("r.html")).expect("written");
    assert!(html.contains("<rect class=\"true\"") && html.contains("<circle"), "boxes and points");
    for wanted in [
        "<b>stage 1</b>",
        "<b>stage 2</b>",
        "where stage 1 sees the first phrase",
        "<th>stage 1</th>",
    ] {
        assert!(html.contains(wanted), "{wanted}");
    }
    let said: Value =
        serde_json::from_slice(&fs::read(desk.path("said.json")).expect("written")).expect("JSON");
    assert!(said[0]["caption"].is_string() && said[0]["stage_1_caption"].is_string(), "{said}");

    dir(&desk, "vg/VG_100K");
    photo(&desk, 0, "vg/VG_100K/7.jpg");
    let regions = json!([{ "id": 7, "regions": [
        { "phrase": "a red thing", "x": 2, "y": 3, "width": 40, "height": 30 },
        { "phrase": "another", "x": 30, "y": 30, "width": 50, "height": 40 } ] }]);
    desk.write("vg/region_descriptions.json", regions.to_string().as_bytes());
    let genome = desk.json("eval region --data vg --max-tokens 4");
    assert_eq!((&genome["n_regions"], &genome["n_phrases"]), (&json!(2), &json!(2)));

    for name in ["flickr/Sentences", "flickr/Annotations", "flickr/images"] {
        dir(&desk, name);
    }
    photo(&desk, 1, "flickr/images/9.jpg");
    desk.write("flickr/test.txt", b"9\n");
    desk.write(
        "flickr/Sentences/9.txt",
        b"[/EN#1/people A man] and [/EN#2/other a dog]\n[/EN#1/people He] runs\n",
    );
    let object = |name: u32, x: u32| {
        format!(
            "<object><name>{name}</name><bndbox><xmin>{x}</xmin><ymin>1</ymin><xmax>{}</xmax><ymax>50</ymax></bndbox>\
             </object>",
            x + 40
        )
    };
    let xml = format!("<annotation>{}{}</annotation>", object(1, 5), object(2, 50));
    desk.write("flickr/Annotations/9.xml", xml.as_bytes());
    let entities = desk.json("eval region --data flickr --max-tokens 4");
    assert_eq!(
        (&entities["n_regions"], &entities["n_phrases"]),
        (&json!(2), &json!(3)),
        "every mention is asked"
    );
}

/// Writes a RefCOCOg with two boxes in one photo and one box in another.
fn refcocog(desk: &Desk) {
    dir(desk, "refcocog");
    dir(desk, "train2014");
    for index in [0, 1] {
        photo(desk, index, &format!("train2014/COCO_train2014_00000000000{index}.jpg"));
    }
    let image =
        |id: u32| json!({ "id": id, "file_name": format!("COCO_train2014_00000000000{id}.jpg") });
    let instance = |id: u32, x: u32| json!({ "id": id, "bbox": [x, 2, 30, 40] });
    let instances = json!({ "images": [image(0), image(1)],
        "annotations": [instance(10, 1), instance(11, 40), instance(12, 5)] });
    desk.write("refcocog/instances.json", instances.to_string().as_bytes());
}

/// The content of `refs(umd).p`: 3, 1 and 1 expressions of the three boxes, and one of another
/// split.
const REFS: &str = r#"[
    {"ref_id": 1, "ann_id": 10, "image_id": 0, "split": "val", "sentences": [{"sent": "a red thing", "raw": "A red thing."}, {"sent": "the left one"}]},
    {"ref_id": 2, "ann_id": 11, "image_id": 0, "split": "val", "sentences": [{"raw": "another"}]},
    {"ref_id": 3, "ann_id": 10, "image_id": 0, "split": "val", "sentences": [{"sent": "it"}]},
    {"ref_id": 4, "ann_id": 12, "image_id": 1, "split": "val", "sentences": [{"sent": "a thing"}]},
    {"ref_id": 5, "ann_id": 12, "image_id": 1, "split": "train", "sentences": [{"sent": "seen in training"}]}]"#;

#[track_caller]
fn check_refcocog(desk: &Desk, data: &str) {
    let line =
        format!("eval region --data {data} --images train2014 --max-tokens 4 --out said.json");
    let scores = desk.json(&line);
    assert_eq!((&scores["n_regions"], &scores["n_phrases"]), (&json!(3), &json!(5)), "{scores}");
    assert!(
        scores["benchmark"].as_str().is_some_and(|name| name.starts_with("RefCOCOg")),
        "{scores}"
    );
    let said: Value =
        serde_json::from_slice(&fs::read(desk.path("said.json")).expect("written")).expect("JSON");
    assert_eq!(said[0]["phrases"], json!(["a red thing", "the left one", "it"]), "{said}");
    assert_eq!(said[0]["box"], json!([1.0, 2.0, 31.0, 42.0]), "{said}");
}

#[test]
fn refcocog_is_read_in_the_forms_that_people_have() {
    let desk = desk();
    refcocog(&desk);
    desk.fails("eval region --data refcocog", 1, &["no refs(umd).json", "wanted: RefCOCOg"]);
    desk.write("refcocog/refs(umd).json", REFS.as_bytes());
    check_refcocog(&desk, "refcocog");
    check_refcocog(&desk, "refcocog/refs(umd).json");
    desk.fails(
        "eval region --data refcocog --split nowhere",
        1,
        &["it has no split \"nowhere\", but train, val"],
    );
    desk.fails(
        "eval region --data refcocog/instances.json",
        1,
        &["nothing that people said", "refs(umd).json"],
    );

    // MDETR's form: every expression is an image of its own.
    let refs: Vec<Value> = serde_json::from_str(REFS).expect("JSON");
    let (mut images, mut annotations, mut lines) = (Vec::new(), Vec::new(), String::new());
    for entry in refs.iter().filter(|entry| entry["split"] == "val") {
        let bbox = match entry["ann_id"].as_u64() {
            Some(10) => json!([1, 2, 30, 40]),
            Some(11) => json!([40, 2, 30, 40]),
            _ => json!([5, 2, 30, 40]),
        };
        let file = format!("COCO_train2014_00000000000{}.jpg", entry["image_id"]);
        for sentence in entry["sentences"].as_array().expect("a list") {
            let id = images.len();
            let text =
                if sentence["sent"].is_null() { &sentence["raw"] } else { &sentence["sent"] };
            images.push(
                json!({ "id": id, "file_name": file, "caption": text, "original_id": entry["image_id"] }),
            );
            annotations.push(json!({ "id": id, "image_id": id, "bbox": bbox }));
        }
        let line = json!({ "file_name": file, "bbox": bbox, "sentences": entry["sentences"] });
        lines.push_str(&format!("{line}\n"));
    }
    let mdetr = json!({ "images": images, "annotations": annotations });
    desk.write("finetune_refcocog_val.json", mdetr.to_string().as_bytes());
    check_refcocog(&desk, "finetune_refcocog_val.json");
    let split = ["is one split by itself", "finetune_refcocog_test.json"];
    desk.fails("eval region --data finetune_refcocog_val.json --split test", 1, &split);
    desk.write("refcocog.jsonl", lines.as_bytes());
    check_refcocog(&desk, "refcocog.jsonl");
    desk.write("refcocog.jsonl", b"{\"bbox\": [1, 2, 3, 4], \"file_name\": \"a.jpg\"}\n");
    desk.fails(
        "eval region --data refcocog.jsonl",
        1,
        &["line 1 has no captions, answer or sentences"],
    );
}

/// Runs the command of the error message unchanged.
#[test]
fn a_pickle_is_converted_by_the_line_that_its_error_gives() {
    let desk = desk();
    refcocog(&desk);
    desk.write("refs.json", REFS.as_bytes());
    let dump = "import json, pickle; pickle.dump(json.load(open('refs.json')), open('refcocog/refs(umd).p', 'wb'), 2)";
    let python =
        |code: &[&str]| Command::new("python3").args(code).current_dir(desk.path("")).status();
    if !python(&["-c", dump]).is_ok_and(|status| status.success()) {
        println!("SKIPPED: no python3 to write a pickle");
        return;
    }
    let output = desk.run("eval region --data refcocog");
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("refs(umd).p is a Python pickle"), "{stderr}");
    let line = stderr
        .lines()
        .find_map(|line| line.trim().strip_prefix("python3 -c "))
        .expect("the line to be run");
    let run = Command::new("python3")
        .args(["-c", line.trim_matches('"')])
        .current_dir(desk.path("refcocog"))
        .status();
    assert!(run.is_ok_and(|status| status.success()), "{line}");
    check_refcocog(&desk, "refcocog");
    desk.fails("eval region --data refcocog/refs(umd).p", 1, &["is a Python pickle"]);
}

/// Compares METEOR with pycocoevalcap's own output for the same captions (`tests/eval/make.py`).
#[test]
fn meteor_is_pycocoevalcaps_own() {
    let desk = desk();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("eval/meteor.json");
    let golden: Value = serde_json::from_slice(&fs::read(golden).expect("goldens")).expect("JSON");
    desk.write("refs.json", golden["references"].to_string().as_bytes());
    desk.write("cands.json", golden["candidates"].to_string().as_bytes());
    let python = std::env::var("MMGEM_PYCOCOEVALCAP").unwrap_or_else(|_| "python3".into());
    let line = format!(
        "eval score --references refs.json --candidates cands.json --meteor --python {python} --json"
    );
    let output = desk.run(&line);
    if !output.status.success() {
        let stderr = text(&output.stderr);
        assert!(stderr.contains("pip install pycocoevalcap"), "{stderr}");
        println!(
            "SKIPPED: {python} has no pycocoevalcap or no Java (MMGEM_PYCOCOEVALCAP names one that has): {stderr}"
        );
        return;
    }
    let scores: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    let (found, wanted) = (number(&scores, "meteor"), number(&golden, "meteor"));
    assert!((found - wanted).abs() < 1e-12, "{found}, want {wanted}");
    let regions = desk.json(&format!(
        "eval region --data drawn/*.tar --limit 1 --max-tokens 4 --meteor --python {python}"
    ));
    assert!((0.0..=1.0).contains(&number(&regions, "region_meteor")), "{regions}");
    number(&regions, "dense_captioning_map");
}

#[test]
fn long_texts_are_read_in_full() {
    let desk = desk();
    dir(&desk, "docci/images");
    let lines: Vec<String> = (0..4)
        .map(|i| {
            photo(&desk, i, &format!("docci/images/{i}.jpg"));
            let text = scene(5, i).captions.join(" ");
            json!({ "image_file": format!("{i}.jpg"), "split": "test", "description": text })
                .to_string()
        })
        .collect();
    desk.write("docci/docci_descriptions.jsonlines", lines.join("\n").as_bytes());
    let long = desk.json("eval long-text --data docci --text-len 100");
    check_signed(&long, "long-text", 4);
    assert!(long["protocol"].as_str().is_some_and(|words| words.contains("at most 100 tokens")));
    desk.fails("eval long-text --data docci", 1, &["200 tokens are asked for", "128 positions"]);

    for name in ["dci/annotations", "dci/photos"] {
        dir(&desk, name);
    }
    photo(&desk, 0, "dci/photos/0.jpg");
    let annotation =
        json!({ "image": "0.jpg", "short_caption": "A scene.", "extra_caption": "It is\nlong." });
    desk.write("dci/annotations/0.json", annotation.to_string().as_bytes());
    let dci = desk.json("eval long-text --data dci --text-len 60 --text extra");
    assert_eq!(dci["benchmark"], json!("DCI, all photos, text: extra caption"));
}

#[test]
fn data_that_are_not_as_they_should_be_say_what_is_expected_and_where() {
    let desk = desk();
    desk.write("other.json", br#"{"a": 1}"#);
    let known = ["the JSON matches no known benchmark", "wanted: Karpathy's", "path: other.json"];
    desk.fails("eval retrieval --data other.json", 1, &known);
    desk.write("broken.json", b"{\"images\": [");
    desk.fails(
        "eval retrieval --data broken.json",
        1,
        &["the JSON is not as it should be", "broken.json"],
    );
    let images = json!({ "images": [{ "filename": "x.jpg", "split": "test", "sentences": [{ "raw": "a" }] }] });
    desk.write("dataset.json", images.to_string().as_bytes());
    desk.fails(
        "eval caption --data dataset.json",
        1,
        &["none of the 1 photos", "x.jpg", "--images DIR"],
    );
    let splits = ["there is no photo in split \"val\", but in test", "path: dataset.json"];
    desk.fails("eval caption --data dataset.json --split val", 1, &splits);
    for line in
        ["retrieval --save no/a.json", "caption --out no/a.json", "region --report no/a.html"]
    {
        let early = ["the folder of the file is missing", "file: no/a."];
        desk.fails(&format!("eval {line} --data drawn/*.tar"), 1, &early);
    }
    desk.fails("eval zero-shot --data drawn", 1, &["found 0 photos in 0 folders", "'DIR/*.tar'"]);
    desk.fails("eval region --data drawn", 1, &["like no benchmark that is known", "'DIR/*.tar'"]);
    dir(&desk, "broken");
    desk.write("broken/a.jpg", b"no photo");
    let one = json!({ "images": [{ "id": 1, "file_name": "a.jpg" }], "annotations": [{ "image_id": 1, "caption": "x" }] });
    desk.write("broken/captions.json", one.to_string().as_bytes());
    let unusable = ["none of the photos can be used: 1 were passed over", "a.jpg"];
    desk.fails("eval caption --data broken/captions.json", 1, &unusable);
    dir(&desk, "empty");
    desk.fails(
        "eval region --data empty",
        1,
        &["like no benchmark that is known", "Flickr30k Entities", "path: empty"],
    );
    desk.fails(
        "eval retrieval --data nowhere/*.tar",
        1,
        &["no file fits", "wanted: Flickr30k Entities", "'DIR/*.tar'"],
    );
    desk.fails(
        "eval zero-shot --data nowhere",
        1,
        &["no file fits", "wanted: a folder with one folder of photos"],
    );
    desk.write("proposals.json", b"[1]");
    let proposals = ["wanted {\"PHOTO ID\": [[x0, y0, x1, y1, score], ..]}", "proposals.json"];
    desk.fails("eval region --data drawn/*.tar --proposals proposals.json", 1, &proposals);
    desk.fails("eval caption --data drawn/*.tar --beam 0", 2, &["at least 1"]);
    desk.fails("eval region --data drawn/*.tar --click --stage 1", 2, &["--click", "--stage"]);
    desk.fails(
        "eval caption --data drawn/*.tar --meteor --python nowhere",
        1,
        &["--meteor", "pip install pycocoevalcap"],
    );
}

#[test]
fn a_checkpoint_of_open_clip_stands_beside_the_model_under_the_same_protocol() {
    let desk = desk();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("eval");
    dir(&desk, "clip");
    for name in ["open_clip_model.safetensors", "open_clip_config.json"] {
        fs::copy(golden.join("clip").join(name), desk.path(&format!("clip/{name}")))
            .expect("goldens");
    }
    desk.fails(
        "eval retrieval --data drawn/*.tar --baseline-open-clip clip",
        1,
        &["the folder has no tokenizer", "wanted: open_clip_model.safetensors", "folder: clip"],
    );
    let vocabulary = desk.path("clip/bpe_simple_vocab_16e6.txt.gz");
    fs::copy(golden.join("bpe_small.txt.gz"), vocabulary).expect("goldens");
    let scores =
        desk.json("eval retrieval --data drawn/*.tar --baseline-open-clip clip --csv both.csv");
    let baseline = &scores["baseline"];
    assert_eq!((&baseline["model"], &baseline["n_texts"]), (&json!("clip"), &scores["n_texts"]));
    assert_ne!(baseline["model_hash"], scores["model_hash"]);
    let key = "text_to_image_recall_at_1";
    let difference = number(&scores, key) - number(baseline, key);
    assert!((difference - number(&scores["minus_baseline"], key)).abs() < 1e-12, "{scores}");
    assert!(scores["intervals"][format!("minus_baseline.{key}")].is_array(), "{scores}");
    let csv = fs::read_to_string(desk.path("both.csv")).expect("written");
    assert!(csv.contains(",baseline.text_to_image_recall_at_1,"), "{csv}");

    for (class, index) in [("cat", 0), ("boat", 1)] {
        dir(&desk, &format!("classes/{class}"));
        photo(&desk, index, &format!("classes/{class}/{index}.png"));
    }
    let classes = desk.json("eval zero-shot --data classes --baseline-open-clip clip");
    assert!(
        classes["baseline"]["top1"].is_number() && classes["minus_baseline"]["top1"].is_number(),
        "{classes}"
    );

    fs::write(
        desk.path("clip/open_clip_config.json"),
        r#"{"model_cfg": {"vision_cfg": {"timm_model_name": "x"}}}"#,
    )
    .expect("writable");
    desk.fails(
        "eval retrieval --data drawn/*.tar --baseline-open-clip clip",
        1,
        &["timm_model_name", "not built here"],
    );
}

#[test]
fn scores_are_lines_for_people() {
    let desk = desk();
    let output = desk.run("eval retrieval --data drawn/*.tar --limit 3 -q");
    let stdout = text(&output.stdout);
    assert!(
        output.status.success() && stdout.contains("n_photos") && stdout.contains("mean_recall"),
        "{stdout}"
    );
    assert!(
        stdout
            .lines()
            .any(|line| line.starts_with("text_to_image_recall_at_1") && line.ends_with(']')),
        "{stdout}"
    );
}
