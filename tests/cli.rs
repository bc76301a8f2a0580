//! The program as a user runs it: exit codes, stdout and stderr, bad input, and a training run that
//! is killed.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test prints what it skips and measures"
)]

#[path = "cli/eval.rs"]
mod eval;
#[path = "cli/failing_gpu.rs"]
#[cfg(target_os = "linux")]
mod failing_gpu;
#[path = "cli/help.rs"]
mod help;
#[path = "cli/library.rs"]
mod library;
#[path = "cli/names.rs"]
mod names;
#[path = "cli/odd_files.rs"]
mod odd_files;
#[path = "cli/outputs.rs"]
mod outputs;
#[path = "cli/parity.rs"]
mod parity;
#[path = "cli/queries.rs"]
mod queries;
#[path = "cli/refused.rs"]
mod refused;
#[path = "cli/results.rs"]
mod results;
#[path = "cli/shards.rs"]
mod shards;
#[path = "cli/training.rs"]
mod training;
#[path = "cli/window.rs"]
mod window;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use mmgem_core::checkpoint::Dtype;
use mmgem_core::config::MmGemConfig;
use mmgem_core::init::fresh;
use mmgem_core::model::MmGem;
use mmgem_core::tokenizer::{Tokenizer, train_bpe};
use mmgem_data::files::ModelFolder;
use mmgem_scenes::scene;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The path of the program, built once in the profile of this test.
fn mmgem() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let test = std::env::current_exe().expect("a test has a path");
        let profile = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
        let mut build = Command::new(env!("CARGO"));
        build
            // The features of the workspace: they are compiled already.
            .args(["build", "--quiet", "--locked", "--workspace", "--bin", "mmgem"])
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        if profile.ends_with("release") {
            build.arg("--release");
        }
        build.env("CARGO_TARGET_DIR", profile.parent().expect("target"));
        assert!(build.status().expect("cargo can be started").success());
        profile.join(if cfg!(windows) { "mmgem.exe" } else { "mmgem" })
    })
}

/// A folder with a random model of toy size and a few drawn photos.
struct Desk {
    folder: TempDir,
}

impl Desk {
    fn new() -> Self {
        let desk = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        let lines: Vec<String> = (0..60).flat_map(|i| scene(5, i).captions).collect();
        let json = train_bpe(&lines, 320).expect("captions are text").into_bytes();
        let config = MmGemConfig::from_json(&toy_config().to_string()).expect("the sizes fit");
        let tokenizer = Tokenizer::from_json(&json, &config).expect("it was just trained");
        let model = fresh(MmGem::new(&config, &Device::flex()), &config, 1);
        ModelFolder { config, model, tokenizer, tokenizer_json: json }
            .write(&desk.path("model"), Dtype::F32)
            .expect("the folder is writable");
        for index in 0..3 {
            let scene = scene(5, index);
            let photo = image::RgbImage::from_raw(scene.width, scene.height, scene.rgb)
                .expect("rows of pixels");
            photo.save(desk.path(&format!("{index}.png"))).expect("the folder is writable");
        }
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).expect("the folder is writable");
    }

    /// Runs the program in this folder with the toy model on the CPU. `line` is split at spaces.
    fn run(&self, line: &str) -> Output {
        self.command(line).output().expect("the program starts")
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(mmgem());
        command.current_dir(self.folder.path()).args(line.split_whitespace());
        if !line.contains("--device") {
            command.args(["--device", "cpu"]);
        }
        if !line.contains("--model") {
            command.args(["--model", "model"]);
        }
        command
    }

    #[track_caller]
    fn json(&self, line: &str) -> Value {
        let output = self.run(&format!("{line} --json"));
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("stdout is one JSON document")
    }

    /// Checks that the line fails with `code` and prints all of `words` on stderr.
    #[track_caller]
    fn fails(&self, line: &str, code: i32, words: &[&str]) {
        let output = self.run(line);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{line}: {stderr}");
        for word in words {
            assert!(stderr.contains(word), "{line}: {word:?} is not in {stderr}");
        }
        assert!(!stderr.contains("panicked"), "{line}: {stderr}");
    }
}

fn toy_config() -> Value {
    json!({
        "format": "mm-gem", "version": 1, "resize_mode": "squash",
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25],
        "vision_tokens": "mean", "caption_order": "image_first", "num_caption_prompts": 3,
        "roi_output_size": 2, "roi_sampling_ratio": 2, "max_text_len": 24,
        "logit_scale_init": 2.66, "logit_scale_max": 4.6,
        "vision": { "image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "mlp_ratio": 2.0, "hidden_act": "gelu", "proj_dim": 16 },
        "llm": { "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 1, "vocab_size": 320, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "tie_word_embeddings": true },
        "embed_dim": 24, "bos_token_id": 1, "eos_token_id": 2
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn norm(embed: &Value) -> f64 {
    let values = embed.as_array().expect("a vector");
    values.iter().map(|x| x.as_f64().expect("a number").powi(2)).sum::<f64>().sqrt()
}

#[test]
fn every_result_is_one_json_document_with_the_keys_of_the_design() {
    let desk = Desk::new();
    let embed = desk.json("embed 0.png --text dog --box 10,10,90,90");
    for embed in
        [&embed["images"][0]["embed"], &embed["texts"][0]["embed"], &embed["regions"][0]["embed"]]
    {
        assert!((norm(embed) - 1.0).abs() < 1e-5);
    }
    assert_eq!(embed["regions"][0]["box"], json!([10.0, 10.0, 90.0, 90.0]));

    let captions = desk.json("caption 0.png --box 10,10,90,90 --max-tokens 4");
    assert_eq!(
        (&captions[0]["path"], &captions[0]["box"]),
        (&json!("0.png"), &json!([10.0, 10.0, 90.0, 90.0]))
    );
    assert!(
        captions[0]["caption"].is_string()
            && captions[0]["log_prob"].as_f64().expect("a number") < 0.0
    );

    let hits = desk.json("search dog --photos . -k 2");
    assert_eq!(hits.as_array().expect("hits").len(), 2);
    let score = |hit: usize| hits[hit]["score"].as_f64().expect("a score");
    assert!(score(0) >= score(1) && hits[0]["box"].as_array().is_some_and(|b| b.len() == 4));
}

#[test]
fn a_photo_finds_itself() {
    let desk = Desk::new();
    let hits = desk.json("search 1.png --photos . -k 1");
    assert!(hits[0]["path"].as_str().expect("a path").ends_with("1.png"), "{hits}");
    assert!(hits[0]["score"].as_f64().expect("a score") > 0.999);
}

#[test]
fn photos_that_are_no_photos_are_refused_with_a_reason() {
    let desk = Desk::new();
    desk.write("empty.jpg", b"");
    desk.write("text.jpg", b"this is no photo");
    desk.write("bomb.png", &png_header(60_000, 60_000));
    desk.fails("caption missing.png", 1, &["error:", "missing.png"]);
    desk.fails("caption empty.jpg", 1, &["empty", "0 bytes"]);
    desk.fails("caption text.jpg", 1, &["wanted JPEG"]);
    desk.fails("caption bomb.png", 1, &["60000x60000", "at most"]);
}

#[test]
fn a_photo_that_is_cut_short_is_used_as_far_as_it_arrived_and_named() {
    let desk = Desk::new();
    let png = fs::read(desk.path("0.png")).expect("it was written");
    let image = image::open(desk.path("0.png")).expect("a photo").into_rgb8();
    let jpeg = mmgem_core::image::to_jpeg(&image, 90);
    desk.write("cut.png", &png[..png.len() / 2]);
    desk.write("cut.jpg", &jpeg[..jpeg.len() / 2]);
    for (name, format) in [("cut.png", "PNG"), ("cut.jpg", "JPEG")] {
        let output = desk.run(&format!("embed {name} --json -q"));
        let stderr = text(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        assert!(
            stderr.contains(&format!("{name}: the {format} is cut short")) && stderr.contains('%'),
            "{stderr}"
        );
    }
    // 60 bytes hold no pixels.
    desk.write("start.png", &png[..60]);
    desk.fails("embed start.png", 1, &["the PNG data cannot be decoded", "start.png"]);
}

/// The start of a PNG: its header, and a first chunk of pixels.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let size = [width.to_be_bytes(), height.to_be_bytes()].concat();
    let header = [size.as_slice(), &[8, 2, 0, 0, 0]].concat();
    [b"\x89PNG\r\n\x1a\n".to_vec(), png_chunk(b"IHDR", &header), png_chunk(b"IDAT", &[0x78, 1])]
        .concat()
}

fn png_chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let body = [kind, data].concat();
    let mut crc = u32::MAX;
    for byte in &body {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    [(data.len() as u32).to_be_bytes().as_slice(), &body, &(!crc).to_be_bytes()].concat()
}

#[test]
fn the_smallest_photo_is_a_photo() {
    let desk = Desk::new();
    image::RgbImage::new(1, 1).save(desk.path("dot.png")).expect("the folder is writable");
    assert!((norm(&desk.json("embed dot.png")["images"][0]["embed"]) - 1.0).abs() < 1e-5);
}

#[test]
fn boxes_that_hold_nothing_are_refused() {
    let desk = Desk::new();
    desk.fails("caption 0.png --box 90,10,10,90", 2, &["90"]);
    desk.fails("caption 0.png --box 10,10,10,90", 2, &["10"]);
    desk.fails("caption 0.png --box a,b,c,d", 2, &["wanted x0,y0,x1,y1"]);
    desk.fails("caption 0.png --box 5000,5000,6000,6000", 1, &["5000"]);
    assert!(
        desk.run("caption 0.png --box -20,-20,90,90 --max-tokens 2").status.success(),
        "clipped to the photo"
    );
}

#[test]
fn one_bad_photo_among_many_is_skipped_unless_strict() {
    let desk = Desk::new();
    desk.write("bad.png", b"no photo");
    let output = desk.run("caption 0.png bad.png 1.png --max-tokens 2 --json");
    assert!(output.status.success());
    let captions: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(captions.as_array().expect("captions").len(), 3);
    let told = |at: usize| (&captions[at]["path"], captions[at]["caption"].is_string());
    let (first, bad, last) = (json!("0.png"), json!("bad.png"), json!("1.png"));
    assert_eq!([told(0), told(1), told(2)], [(&first, true), (&bad, false), (&last, true)]);
    assert!(
        captions[1]["problem"].as_str().is_some_and(|why| why.contains("wanted JPEG")),
        "{captions}"
    );
    let stderr = text(&output.stderr);
    assert!(stderr.contains("skipped bad.png") && stderr.contains("1 of 3"), "{stderr}");
    desk.fails("caption 0.png bad.png 1.png --max-tokens 2 --strict", 1, &["bad.png"]);
}

#[test]
fn wrong_arguments_and_missing_devices_and_models_have_different_exit_codes() {
    let desk = Desk::new();
    desk.fails("caption", 2, &["IMAGE"]);
    desk.fails("describe 0.png", 2, &["describe"]);
    desk.fails("caption 0.png --model nowhere", 1, &["nowhere", "config.json"]);
    let output = Command::new(mmgem())
        .current_dir(desk.folder.path())
        .args(["caption", "0.png", "--model", "model", "--device", "cuda"])
        .output()
        .expect("the program starts");
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.to_lowercase().contains("cuda"), "{stderr}");
}

#[test]
fn scenes_are_drawn_scored_and_traced() {
    let desk = Desk::new();
    assert!(desk.run("scenes --out drawn --n 6 --seed 5").status.success());
    let scores = desk.json("eval retrieval --data drawn/*.tar");
    assert_eq!((&scores["n_images"], &scores["n_texts"]), (&json!(6), &json!(30)));
    assert!(
        scores["text_to_image_recall_at_10"].as_f64().expect("a recall") > 0.99,
        "6 photos, 10 places"
    );
    let regions = desk.json("eval region --data drawn/*.tar");
    assert!(regions["pointing_accuracy"].is_number() && regions["region_cider"].is_number());

    let inputs = "verify trace --image 0.png --image 1.png --text dog --text house --box 5,5,80,80 --steps 3";
    assert!(desk.run(&format!("{inputs} --out a.safetensors")).status.success());
    for out in ["", "--out b.safetensors"] {
        let same = desk.run(&format!("{inputs} {out} --compare a.safetensors --tolerance 1e-9"));
        assert!(same.status.success(), "{}", text(&same.stderr));
        assert_eq!(desk.path("b.safetensors").exists(), !out.is_empty());
    }
    let other = inputs.replace("0.png", "2.png");
    desk.fails(&format!("{other} --compare a.safetensors"), 1, &["stages differ by more than"]);
    desk.fails(inputs, 2, &["--out <F>"]);
}

#[test]
fn a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been() {
    let desk = Desk::new();
    assert!(desk.run("scenes --out drawn --n 12 --seed 5").status.success());
    desk.write("config.json", toy_config().to_string().as_bytes());
    let run = |out: &str| {
        let toml = format!(
            "recipe = \"stage1\"\nout = \"{out}\"\nmodel = {{ config = \"config.json\", tokenizer = \
             \"model/tokenizer.json\" }}\ndata = {{ shards = [\"drawn/*.tar\"] }}\noptim = {{ \
             batch_size = 4, steps = \
             120, lr_heads = 1e-3, lr_towers = 1e-3 }}\ncheckpoint = {{ every = 5, keep = 2 }}\n"
        );
        desk.write(&format!("{out}.toml"), toml.as_bytes());
        format!("train {out}.toml --resume -q")
    };
    let whole = desk.run(&run("whole"));
    assert!(whole.status.success(), "{}", text(&whole.stderr));

    let killed = run("killed");
    let mut kills = 0;
    for after in [1, 20, 55] {
        let mut child =
            desk.command(&killed).stderr(Stdio::null()).spawn().expect("the program starts");
        let metrics = desk.path("killed/metrics.jsonl");
        let deadline = Instant::now() + Duration::from_secs(60);
        // Kill the run in mid-step, after some more steps.
        while fs::read_to_string(&metrics).map_or(0, |text| text.lines().count()) < after {
            assert!(Instant::now() < deadline, "the run makes no steps");
            if child.try_wait().expect("the child has a status").is_some() {
                break;
            }
            sleep(Duration::from_millis(2));
        }
        kills += usize::from(child.kill().is_ok());
        child.wait().expect("the killed child ends");
    }
    assert_eq!(kills, 3);
    let resumed = desk.run(&killed);
    assert!(resumed.status.success(), "{}", text(&resumed.stderr));

    let read = |name: &str| fs::read(desk.path(name)).expect("the run wrote it");
    assert_eq!(read("whole/model/model.safetensors"), read("killed/model/model.safetensors"));
    assert_eq!(text(&read("killed/metrics.jsonl")).lines().count(), 120);
}

#[test]
fn the_embedded_model_takes_the_tour() {
    let desk = Desk::new();
    let output = Command::new(mmgem())
        .current_dir(desk.folder.path())
        .args(["demo", "--photos", "6", "--json", "-q", "--device", "cpu"])
        .output()
        .expect("the program starts");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let tour: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    assert!(tour["queries"].as_array().is_some_and(|queries| !queries.is_empty()));
    let page = fs::read_to_string(desk.path("report.html")).expect("the tour writes a page");
    assert!(
        page.starts_with("<!")
            && page.contains("<svg")
            && !page.contains("http://")
            && !page.contains("src=\"http")
    );
}
