//! Queries as users type them, and the metadata of the hits.

use std::fs;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::{Desk, text};

fn names(hits: &Value) -> Vec<String> {
    let name = |hit: &Value| {
        let path = hit["path"].as_str().expect("a path");
        path.rsplit(['/', '\\']).next().expect("a name").to_owned()
    };
    hits.as_array().expect("hits").iter().map(name).collect()
}

#[test]
fn words_need_no_quotes_and_switches_may_stand_among_them() {
    let desk = Desk::new();
    assert!(desk.run("index . --library l.sqlite -q").status.success());
    let scores = |hits: &Value| -> Vec<(String, String)> {
        hits.as_array()
            .expect("hits")
            .iter()
            .map(|hit| (hit["path"].to_string(), hit["score"].to_string()))
            .collect()
    };
    let quoted = |query: &str| {
        let mut command = desk.command("search --library l.sqlite --json -q");
        let output = command.arg(query).output().expect("the program starts");
        let hits: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        scores(&hits)
    };
    let apart = |line: &str| scores(&desk.json(&format!("search {line} --library l.sqlite")));
    assert_eq!(apart("a red boat"), quoted("a red boat"));
    assert_eq!(apart("a red --sort relevance boat -k 10"), quoted("a red boat"));
    assert_eq!(apart("boat -house"), quoted("boat - house"));
    assert_eq!(apart("-house boat"), quoted("boat - house"));
    assert_eq!(apart("boat - house"), quoted("boat - house"));
    assert_ne!(apart("boat house"), quoted("boat - house"));
    assert_eq!(apart("1.png - 0.png"), quoted("1.png - 0.png"));
}

#[test]
fn filters_alone_list_photos_the_latest_first() {
    let desk = Desk::new();
    let newest = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    for (age, name) in
        ["IMG-20130809-WA0001.png", "PXL_20180304_050607000.png", "plain.png"].iter().enumerate()
    {
        fs::rename(desk.path(&format!("{age}.png")), desk.path(name)).expect("writable");
        let file = fs::File::options().write(true).open(desk.path(name)).expect("it is there");
        file.set_modified(newest).expect("writable");
    }
    assert!(desk.run("index . --library l.sqlite -q").status.success());
    let search = |line: &str| desk.json(&format!("search {line} --library l.sqlite"));
    let all = search("type:png");
    assert_eq!(names(&all), ["plain.png", "PXL_20180304_050607000.png", "IMG-20130809-WA0001.png"]);
    let told = |hit: usize| {
        (all[hit]["date"].clone(), all[hit]["date_from"].clone(), all[hit]["score"].clone())
    };
    assert_eq!(told(0), (json!("2023-11-14T22:13:20"), json!("file"), Value::Null));
    assert_eq!(told(1), (json!("2018-03-04T05:06:07"), json!("name"), Value::Null));
    assert_eq!(names(&search("after:2013-08-09 before:2013-08-10")), ["IMG-20130809-WA0001.png"]);
    assert_eq!(
        names(&search("dog after:2018-03-04 before:2018-03-05")),
        ["PXL_20180304_050607000.png"]
    );
    assert_eq!(names(&search("type:png -path:plain -k 1 --page 2")), ["IMG-20130809-WA0001.png"]);
    assert_eq!(names(&search("before:2001")), [""; 0]);
    let line = text(&desk.run("search path:plain --library l.sqlite -q").stdout);
    assert!(line.starts_with("-\t") && line.ends_with("plain.png\twhole\n"), "{line:?}");
    let null = desk.run("search type:png --library l.sqlite --null -q").stdout;
    assert_eq!(null.iter().filter(|byte| **byte == 0).count(), 3);
    assert!(desk.run("search path:plain --library l.sqlite --html hits.html -q").status.success());
    assert!(fs::read_to_string(desk.path("hits.html")).expect("written").contains("plain.png"));
}

#[test]
fn an_unknown_filter_is_reported_with_the_known_ones() {
    let desk = Desk::new();
    assert!(desk.run("index . --library l.sqlite -q").status.success());
    for (query, says) in [
        (
            "dog date:2024",
            "no filter date:; the filters are after: before: near: path: camera: type:",
        ),
        ("foo:bar", "no filter foo:"),
        ("dog After:2024", "write it as after:"),
        ("dog after:2024-02-31", "wanted a date"),
        ("dog path:", "without a space"),
    ] {
        desk.fails(&format!("search {query} --library l.sqlite"), 2, &[says]);
    }
    assert!(desk.run("search at 10:30 note: dog --library l.sqlite -q").status.success());
}

#[test]
fn numbers_and_texts_that_mean_nothing_are_refused() {
    let desk = Desk::new();
    for (line, says) in [
        ("search dog --min-score 5 --photos .", "from -1 to 1"),
        ("search dog --min-score nan --photos .", "from -1 to 1"),
        ("export --dtype f16 --floor 2 --out o", "from -1 to 1"),
    ] {
        desk.fails(line, 2, &[says]);
    }
    for line in
        ["localize 0.png --out o.png", "embed", "verify trace --image 0.png --out t.safetensors"]
    {
        for empty in ["", "  "] {
            let output =
                desk.command(line).args(["--text", empty]).output().expect("the program starts");
            assert_eq!(output.status.code(), Some(2), "{line}: {}", text(&output.stderr));
            assert!(
                text(&output.stderr).contains("the text is empty"),
                "{line}: {}",
                text(&output.stderr)
            );
        }
    }
}

#[test]
fn words_that_the_model_never_met_get_hits_and_a_warning() {
    let desk = Desk::new();
    assert!(desk.run("index . --library l.sqlite -q").status.success());
    let says = "the model does not know \"狗\"";
    let output = desk.run("search 狗 --library l.sqlite");
    assert!(
        output.status.success() && text(&output.stderr).contains(&format!("warning: {says}")),
        "{output:?}"
    );
    assert_eq!(text(&output.stdout).lines().count(), 3);
    let hits = desk.json("search 狗 --library l.sqlite");
    assert!(
        hits[0]["warnings"][0].as_str().is_some_and(|warning| warning.starts_with(says)),
        "{hits}"
    );
    let timed = desk.json("search 狗 --library l.sqlite --timing");
    assert_eq!(timed["warnings"], hits[0]["warnings"]);
    assert!(!text(&desk.run("search 狗 --library l.sqlite -q").stderr).contains("warning"));

    // The toy model reads 23 tokens.
    let long = "dog ".repeat(100);
    let output = desk.run(&format!("search {long} --library l.sqlite"));
    assert!(
        text(&output.stderr).contains("the model reads 23: its end counts for nothing"),
        "{output:?}"
    );
    let output = desk
        .command("localize 0.png --out o.png --json")
        .args(["--text", "狗"])
        .output()
        .expect("it starts");
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(
        found["warnings"][0].as_str().is_some_and(|warning| warning.starts_with(says)),
        "{found}"
    );
    let embeds = desk.json("embed --text 狗 --text dog");
    assert!(
        embeds["texts"][0]["warnings"].is_array() && embeds["texts"][1].get("warnings").is_none(),
        "{embeds}"
    );
}

#[test]
fn every_copy_is_a_hit_and_a_group_is_one_only_if_that_is_asked() {
    let desk = Desk::new();
    fs::create_dir(desk.path("photos")).expect("writable");
    for (from, to) in [("0.png", "a.png"), ("0.png", "copy.png"), ("1.png", "b.png")] {
        fs::copy(desk.path(from), desk.path(&format!("photos/{to}"))).expect("writable");
    }
    image::open(desk.path("0.png"))
        .expect("a PNG")
        .save(desk.path("photos/a.bmp"))
        .expect("writable");
    let count = |line: &str| {
        let output = desk.run(&format!("search dog {line} --null -q"));
        assert!(output.status.success(), "{}", text(&output.stderr));
        output.stdout.iter().filter(|byte| **byte == 0).count()
    };
    assert!(desk.run("index photos --library l.sqlite -q").status.success());
    for place in ["--library l.sqlite", "--photos photos"] {
        assert_eq!((count(place), count(&format!("{place} --group"))), (4, 2), "{place}");
    }
    let groups = desk.json("search dog --library l.sqlite --group");
    let n_files: usize = groups
        .as_array()
        .expect("hits")
        .iter()
        .map(|hit| 1 + hit["same"].as_array().map_or(0, Vec::len))
        .sum();
    assert_eq!(n_files, 4, "{groups}");
    // Of several copies, the one that matches the filter is listed.
    assert_eq!(names(&desk.json("search dog path:copy --library l.sqlite")), ["copy.png"]);
    assert_eq!(names(&desk.json("search dog path:copy --library l.sqlite --group")), ["copy.png"]);
    assert_eq!(
        names(&desk.json("search dog -path:copy -path:a.bmp --library l.sqlite --group")).len(),
        2
    );
}

#[test]
fn index_goes_on_with_the_folders_of_before() {
    let desk = Desk::new();
    for (photo, place) in [("0.png", "a/0.png"), ("1.png", "a/drafts/1.png"), ("2.png", "b/2.png")]
    {
        fs::create_dir_all(desk.path(place).parent().expect("below")).expect("writable");
        fs::copy(desk.path(photo), desk.path(place)).expect("writable");
    }
    assert_eq!(desk.json("index a --exclude drafts/ --library l.sqlite")["photos"], json!(1));
    assert_eq!(desk.json("index b --library l.sqlite")["photos"], json!(2));
    fs::copy(desk.path("1.png"), desk.path("a/new.png")).expect("writable");
    let told = desk.json("index --library l.sqlite");
    assert_eq!(
        (&told["photos"], &told["encoded"]),
        (&json!(3), &json!(1)),
        "drafts stay out: {told}"
    );
    fs::rename(desk.path("b"), desk.path("away")).expect("writable");
    let output = desk.run("index --library l.sqlite --json");
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(told["photos"], json!(3), "the photos of a drive that is not there stay");
    assert!(text(&output.stderr).contains("its drive connected"), "{}", text(&output.stderr));
    let again = desk.json("index --rescan --library l.sqlite");
    assert_eq!((&again["encoded"], &again["unchanged"]), (&json!(0), &json!(2)), "{again}");
}

#[test]
fn skipped_photos_are_reported_once() {
    let desk = Desk::new();
    for place in [
        "p/a.png",
        "p/@eaDir/b.png",
        "p/x/#recycle/c.png",
        "p/.trashed-1-d.png",
        "p/m/.nomedia",
        "p/m/e.png",
    ] {
        fs::create_dir_all(desk.path(place).parent().expect("below")).expect("writable");
        fs::copy(desk.path("0.png"), desk.path(place)).expect("writable");
    }
    let output = desk.run("index p --library l.sqlite");
    let stderr = text(&output.stderr);
    let wanted =
        "left out: folders called #recycle, @eaDir; 1 folder with a file .nomedia; 1 hidden photo";
    assert_eq!(stderr.matches("left out").count(), 1, "{stderr}");
    assert!(stderr.contains(wanted) && stderr.contains("--hidden"), "{stderr}");
    assert_eq!(desk.json("index p --library l.sqlite")["photos"], json!(1));
    assert_eq!(desk.json("index p --hidden --library l.sqlite")["photos"], json!(5));
    assert_eq!(desk.json("index --library l.sqlite")["photos"], json!(5), "it is remembered");
}
