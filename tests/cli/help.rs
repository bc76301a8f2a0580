//! The help texts, and the errors for invalid arguments.

use std::process::Command;

use super::{Desk, mmgem, text};

/// Commands that `mmgem --help` lists.
fn commands() -> Vec<String> {
    let output = Command::new(mmgem()).arg("--help").output().expect("the program starts");
    assert!(output.status.success() && output.stderr.is_empty());
    let help = text(&output.stdout);
    let list =
        help.split("Commands:\n").nth(1).expect("a list").split("\n\n").next().expect("its end");
    let name = |line: &str| line.strip_prefix("  ")?.split(' ').next().map(str::to_owned);
    list.lines().filter_map(name).filter(|name| !name.is_empty() && name != "help").collect()
}

#[test]
fn the_help_of_every_command_has_examples() {
    let commands = commands();
    for known in ["caption", "embed", "eval", "scenes", "score", "search", "trace", "train"] {
        assert!(commands.iter().any(|name| name == known), "{known} is not in {commands:?}");
    }
    for name in commands {
        let output =
            Command::new(mmgem()).args([name.as_str(), "--help"]).output().expect("it starts");
        let help = text(&output.stdout);
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""), "{name}");
        assert!(help.contains(&format!("Usage: mmgem {name}")), "{name}: {help}");
        // `mmgem devices` takes no arguments, so it has no examples.
        let examples = help.split("\nExamples:\n").nth(1).unwrap_or_default();
        assert!(
            name == "devices" || examples.contains(&format!("  mmgem {name}")),
            "{name}: {help}"
        );
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
        ("score --references a.json", "--candidates"),
        ("trace --image 0.png --out t.safetensors", "--text"),
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
