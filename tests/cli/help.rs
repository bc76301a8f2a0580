//! The help texts, and the errors for invalid arguments.

use std::path::Path;
use std::process::Command;

use super::{Desk, mmgem, text};

/// Commands that `mmgem --help` lists, in the order in which a user meets them.
const COMMANDS: [&str; 18] = [
    "app",
    "search",
    "index",
    "caption",
    "localize",
    "embed",
    "embed-shards",
    "calibrate",
    "train",
    "plan",
    "eval",
    "export",
    "import",
    "info",
    "web",
    "demo",
    "scenes",
    "bench",
];

/// Prints a help text, which is all of the output.
fn help(line: &str) -> String {
    let output =
        Command::new(mmgem()).args(line.split(' ')).arg("--help").output().expect("it starts");
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""), "{line}");
    text(&output.stdout)
}

/// Commands that a help text lists.
fn listed(help: &str) -> Vec<&str> {
    let list =
        help.split("Commands:\n").nth(1).expect("a list").split("\n\n").next().expect("its end");
    let name = |line| str::strip_prefix(line, "  ")?.split(' ').next();
    list.lines().filter_map(name).filter(|name| !name.is_empty() && *name != "help").collect()
}

#[test]
fn the_help_lists_the_commands_of_users() {
    let output = Command::new(mmgem()).arg("--help").output().expect("the program starts");
    assert!(output.status.success() && output.stderr.is_empty());
    assert_eq!(listed(&text(&output.stdout)), COMMANDS);
    assert_eq!(listed(&help("verify")), ["parity", "trace", "counts", "collectives"]);
    assert_eq!(listed(&help("bench")), ["search", "index"]);
    for (command, old) in [("train", "--plan"), ("embed", "--shards"), ("search", "--calibrate")] {
        assert!(!help(command).contains(old), "{command} {old}");
    }
}

#[test]
fn the_help_of_every_command_has_examples() {
    let verify = ["verify", "verify parity", "verify trace", "verify counts", "verify collectives"];
    for name in
        COMMANDS.into_iter().chain(verify).chain(["eval score", "bench search", "bench index"])
    {
        let help = help(name);
        assert!(help.contains(&format!("Usage: mmgem {name}")), "{name}: {help}");
        let examples = help.split("\nExamples:\n").nth(1).unwrap_or_default();
        assert!(examples.contains(&format!("  mmgem {name}")), "{name}: {help}");
    }
}

#[test]
fn an_old_name_answers_and_names_the_new_one() {
    // Two desks, because a run changes the answer of the next one.
    let desks = [Desk::new(), Desk::new()];
    for desk in &desks {
        assert!(desk.run("scenes --out drawn --n 3 --seed 5 -q").status.success());
        desk.write("refs.json", br#"{"7": ["a dog runs", "the dog"], "8": ["two red cars"]}"#);
        let captions =
            br#"[{"image_id": 7, "caption": "dogs"}, {"image_id": 8, "caption": "a car"}]"#;
        desk.write("captions.json", captions);
        let toml = "recipe = 'stage1'\nout = 'run'\nmodel = { from = 'model' }\n\
            data = { shards = ['drawn/*.tar'] }\n\
            optim = { batch_size = 4, steps = 5, lr_heads = 1e-3, lr_towers = 1e-3 }\n";
        desk.write("run.toml", toml.as_bytes());
    }
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("parity").display().to_string();
    for (old, new, arguments) in [
        ("devices", "info --devices", ""),
        ("score", "eval score", "--references refs.json --candidates captions.json"),
        ("trace", "verify trace", "--image 0.png --text dog --out t.safetensors"),
        ("parity", "verify parity", &format!("{cases} --case tiny --weights f32")),
        ("bench counts", "verify counts", "--kernels"),
        ("embed --shards", "embed-shards", "drawn/scenes-000000.tar --out vectors"),
        ("search --calibrate", "calibrate", "drawn/scenes-000000.tar --library none.sqlite"),
        ("train --plan", "plan", "run.toml --ranks 2"),
    ] {
        let lines = [format!("{old} {arguments}"), format!("{new} {arguments}")];
        let [found, wanted] =
            std::array::from_fn(|idx| desks[idx].run(&format!("{} --json", lines[idx])));
        assert_eq!(text(&found.stdout), text(&wanted.stdout), "{old}");
        assert_eq!(found.status.code(), wanted.status.code(), "{old}: {}", text(&found.stderr));
        // Only wgpu's operations can be counted.
        assert_eq!(found.status.success(), old != "bench counts", "{}", text(&found.stderr));
        let note = format!("`mmgem {old}` is now `mmgem {new}`\n");
        assert_eq!(text(&found.stderr), note + &text(&wanted.stderr), "{old}");
        let quiet = text(&desks[0].run(&format!("{} -q", lines[0])).stderr);
        assert!(!quiet.contains("is now"), "{old}: {quiet}");
    }
}

#[test]
fn arguments_that_make_no_sense_end_with_2_before_anything_is_opened() {
    let desk = Desk::new();
    for (line, says) in [
        ("", "Usage"),
        ("embed", "IMAGE"),
        ("embed --text dog --box 1,1,9,9", "IMAGE"),
        ("caption 0.png --beam 0", "1..=64"),
        ("caption 0.png --max-tokens 0", "1.."),
        ("caption 0.png --colour", "--colour"),
        ("search", "QUERY"),
        ("search dog -k 0", "1.."),
        ("scenes --out drawn", "--n"),
        ("scenes --out drawn --n many", "many"),
        ("eval score --references a.json", "--candidates"),
        ("verify trace --image 0.png --out t.safetensors", "--text"),
        ("train", "CONFIG"),
        (
            "caption 0.png --model model --device gpu",
            "wanted auto, cpu, wgpu, wgpu:N, cuda or cuda:N",
        ),
    ] {
        let output = Command::new(mmgem())
            .current_dir(desk.folder.path())
            .args(line.split_whitespace())
            .output()
            .expect("the program starts");
        let stderr = text(&output.stderr);
        assert_eq!(
            (output.status.code(), text(&output.stdout).as_str()),
            (Some(2), ""),
            "{line}: {stderr}"
        );
        assert!(stderr.contains(says), "{line}: {says:?} is not in {stderr}");
    }
}

#[test]
fn a_page_that_is_not_built_is_not_served() {
    Desk::new().fails("web --no-open --dir .", 1, &["the page is not built", "cargo web"]);
}

#[test]
fn arguments_that_only_the_command_can_judge_end_with_2_as_well() {
    let desk = Desk::new();
    desk.fails("caption 0.png 1.png --mask 2.png", 2, &["--mask works with one photo only"]);
    desk.fails(
        "caption 0.png --max-tokens 5000",
        2,
        &["--max-tokens is 5000; the model has room for 126"],
    );
    desk.fails("search dog --box 1,1,9,9 --photos .", 2, &["--box needs a query of one photo"]);
    desk.fails("export --dtype f16 --out model", 2, &["--out is the model itself"]);
}
