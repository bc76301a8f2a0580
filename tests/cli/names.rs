//! Files with unusual names: the program reads all that it finds, and accepts every path that it
//! prints.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::{Desk, mmgem, text};

/// Runs the program with arguments that may be any bytes.
fn run(desk: &Desk, arguments: &[&OsStr]) -> Output {
    let mut command = desk.command("");
    command.args(arguments).output().expect("the program starts")
}

#[track_caller]
fn json_of(desk: &Desk, arguments: &[&OsStr]) -> Value {
    let output = run(desk, &[arguments, &["--json".as_ref(), "-q".as_ref()]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON document")
}

/// Copies a photo into `photos/` under a name. Returns false if the disk rejects the name.
fn put(desk: &Desk, photo: &str, name: &OsStr) -> bool {
    let path = desk.path("photos").join(name);
    fs::create_dir_all(path.parent().expect("below")).expect("writable");
    let done = fs::copy(desk.path(photo), path);
    if let Err(error) = &done {
        eprintln!("SKIPPED: this disk rejects a file called {name:?} ({error})");
    }
    done.is_ok()
}

#[cfg(unix)]
fn bytes(name: &[u8]) -> &OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(name)
}

#[cfg(not(unix))]
fn bytes(name: &[u8]) -> &OsStr {
    std::str::from_utf8(name).expect("names of this system are text").as_ref()
}

/// Parses the paths that `--null` prints.
fn null_paths(stdout: &[u8]) -> Vec<PathBuf> {
    let parts = stdout.split(|byte| *byte == 0).filter(|part| !part.is_empty());
    parts.map(|part| PathBuf::from(bytes(part))).collect()
}

#[test]
#[cfg(target_os = "linux")]
fn a_name_that_is_not_utf8_leads_back_to_its_file() {
    let desk = Desk::new();
    let name = bytes(b"caf\xe9 \x01.png");
    if !put(&desk, "0.png", name) {
        return;
    }
    let path = desk.path("photos").join(name);
    let file = path.as_os_str();
    let caption =
        json_of(&desk, &["caption".as_ref(), file, "--max-tokens".as_ref(), "2".as_ref()]);
    let embed = json_of(&desk, &["embed".as_ref(), file, "--box".as_ref(), "0,0,40,40".as_ref()]);
    let out = desk.path("o.png");
    let found = json_of(
        &desk,
        &[
            "localize".as_ref(),
            file,
            "--text".as_ref(),
            "dog".as_ref(),
            "--out".as_ref(),
            out.as_ref(),
        ],
    );
    assert!(desk.run("index photos --library l.sqlite -q").status.success());
    let hits = desk.json("search dog --library l.sqlite");
    for entry in [&caption[0], &embed["images"][0], &embed["regions"][0], &found, &hits[0]] {
        let uri = entry["uri"].as_str().expect("the path is not text");
        assert!(entry["path"].as_str().is_some_and(|path| path.contains('\u{fffd}')), "{entry}");
        let again = json_of(&desk, &["embed".as_ref(), uri.as_ref()]);
        assert_eq!(again["images"][0]["embed"], embed["images"][0]["embed"], "{uri}");
        let by_uri = json_of(
            &desk,
            &["search".as_ref(), uri.as_ref(), "--library".as_ref(), "l.sqlite".as_ref()],
        );
        assert!(by_uri[0]["score"].as_f64().is_some_and(|score| score > 0.999), "{by_uri}");
    }
    let by_path = run(
        &desk,
        &["search".as_ref(), file, "--library".as_ref(), "l.sqlite".as_ref(), "-q".as_ref()],
    );
    assert!(
        by_path.status.success() && text(&by_path.stdout).contains("caf\\xe9 \\u{1}.png"),
        "{by_path:?}"
    );
    let vectors = run(&desk, &["embed".as_ref(), file, "--out".as_ref(), "v.safetensors".as_ref()]);
    assert!(vectors.status.success(), "{}", text(&vectors.stderr));

    fs::write(&path, b"no photo").expect("writable");
    assert!(desk.run("index photos --library p.sqlite").status.code().is_some());
    let problems = desk.json("index --problems --library p.sqlite");
    assert!(
        problems[0]["uri"].as_str().is_some_and(|uri| uri.ends_with("caf%E9%20%01.png")),
        "{problems}"
    );
    let both = json_of(
        &desk,
        &["caption".as_ref(), file, "1.png".as_ref(), "--max-tokens".as_ref(), "2".as_ref()],
    );
    assert!(both[0]["problem"].is_string() && both[0]["uri"].is_string(), "{both}");
}

#[test]
fn whatever_is_found_can_be_named_back() {
    let desk = Desk::new();
    let long = format!("{}.png", "x".repeat(251));
    let mut names: Vec<&[u8]> = vec![
        "a  b - c.png".as_bytes(),
        "path:x after:soon.png".as_bytes(),
        "-x.png".as_bytes(),
        "עברית.png".as_bytes(),
        "e\u{301}/caf\u{e9}.png".as_bytes(),
        "日本語 😀.png".as_bytes(),
        "photo\u{202e}gnp.png".as_bytes(),
        "2:d'o\u{a0}g$ & %41.png".as_bytes(),
        long.as_bytes(),
    ];
    if cfg!(unix) {
        names.extend([b"line\nfeed\tb.png".as_slice(), b"a\x1b[31mred\r.png", b"q\"u\"ote\\n.png"]);
    }
    if cfg!(target_os = "linux") {
        names.extend([b"\xff\xfe.png".as_slice(), b"caf\xe9.png"]);
    }
    names.retain(|name| put(&desk, "0.png", bytes(name)));
    assert!(desk.run("index photos --library l.sqlite -q").status.success());

    let output = desk.run("search dog --library l.sqlite -k 99 --null -q");
    let mut found = null_paths(&output.stdout);
    found.sort();
    let folder = desk.path("photos").canonicalize().expect("it is there");
    let mut wanted: Vec<PathBuf> = names.iter().map(|name| folder.join(bytes(name))).collect();
    wanted.sort();
    assert_eq!(found, wanted, "each file once, byte for byte");

    let table = text(&desk.run("search dog --library l.sqlite -k 99 -q").stdout);
    assert_eq!(table.lines().count(), names.len());
    for line in table.lines() {
        assert_eq!(line.split('\t').count(), 3, "{line:?}");
        assert!(
            !line.contains(|c: char| c.is_control() && c != '\t') && !line.contains('\u{202e}'),
            "{line:?}"
        );
    }
    let hits = desk.json("search dog --library l.sqlite -k 99");
    for (path, hit) in found.iter().zip(hits.as_array().expect("hits")) {
        let exact = json_of(
            &desk,
            &["search".as_ref(), path.as_os_str(), "--library".as_ref(), "l.sqlite".as_ref()],
        );
        assert!(
            exact[0]["score"].as_f64().is_some_and(|score| score > 0.999),
            "{}: {exact}",
            path.display()
        );
        let told = hit["uri"].as_str().or(hit["path"].as_str()).expect("a path");
        let caption = json_of(
            &desk,
            &["caption".as_ref(), told.as_ref(), "--max-tokens".as_ref(), "1".as_ref()],
        );
        assert!(caption[0]["caption"].is_string(), "{told}: {caption}");
    }
    assert_eq!(desk.json("index photos --library l.sqlite")["encoded"], json!(0));
    // An output with the longest possible name can be written too.
    let out = OsString::from(format!("{}.safetensors", "y".repeat(243)));
    let written = run(&desk, &["embed".as_ref(), "0.png".as_ref(), "--out".as_ref(), &out]);
    assert!(written.status.success(), "{}", text(&written.stderr));
}

#[test]
fn accents_that_a_keyboard_composes_find_those_that_a_mac_took_apart() {
    let desk = Desk::new();
    put(&desk, "0.png", "cafe\u{301}/a.png".as_ref());
    put(&desk, "1.png", "cafe/b.png".as_ref());
    assert!(desk.run("index photos --library l.sqlite -q").status.success());
    for (query, n) in [
        ("dog path:caf\u{e9}", 1),
        ("path:CAFE\u{301}/", 1),
        ("path:cafe", 1),
        ("-path:caf\u{e9}", 1),
    ] {
        let output = run(
            &desk,
            &[
                "search".as_ref(),
                query.as_ref(),
                "--library".as_ref(),
                "l.sqlite".as_ref(),
                "-q".as_ref(),
            ],
        );
        assert_eq!(text(&output.stdout).lines().count(), n, "{query}: {}", text(&output.stderr));
    }
    assert!(desk.run("caption photos/caf\u{e9}/a.png --max-tokens 1 -q").status.success());
    assert!(desk.run("search dog --photos photos/caf\u{e9} -q").status.success());
    assert_eq!(
        desk.json("index photos --exclude caf\u{e9}/ --library m.sqlite")["photos"],
        json!(1)
    );
}

/// The command prefix that runs a program as a user who cannot read everything: empty unless root
/// runs the tests. `None` if root cannot switch the user.
#[cfg(unix)]
fn as_other(desk: &Desk) -> Option<Vec<OsString>> {
    use std::os::unix::fs::PermissionsExt;
    let id = Command::new("id").arg("-u").output().ok()?;
    if text(&id.stdout).trim() != "0" {
        return Some(Vec::new());
    }
    // Root can read everything, so run the program as another user.
    let open =
        |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("ours");
    open(desk.folder.path());
    let setpriv = ["setpriv", "--reuid=65534", "--clear-groups", "env", "HOME=/nonexistent"]
        .map(OsString::from);
    let can = Command::new("setpriv").args(&setpriv[1..3]).arg(mmgem()).arg("--version").output();
    if can.is_ok_and(|output| output.status.success()) {
        return Some(setpriv.into());
    }
    eprintln!("SKIPPED: run as root, and setpriv cannot run the program as another user");
    None
}

/// Runs the line with the prefix of `as_other`.
#[cfg(unix)]
fn run_as(desk: &Desk, other: &[OsString], line: &str) -> Output {
    let mut words: Vec<OsString> = other.to_vec();
    words.push(mmgem().into());
    let mut command = Command::new(&words[0]);
    command.current_dir(desk.folder.path()).args(&words[1..]).args(line.split_whitespace());
    command.args(["--device", "cpu", "--model", "model"]).output().expect("the program starts")
}

#[cfg(unix)]
fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
}

#[test]
#[cfg(unix)]
fn a_library_that_cannot_be_written_is_searched() {
    let desk = Desk::new();
    let Some(other) = as_other(&desk) else { return };
    fs::create_dir(desk.path("d")).expect("writable");
    assert!(desk.run("index . --library d/l.sqlite -q").status.success());
    assert!(desk.run("search dog --library d/l.sqlite -q").status.success());
    let file = desk.path("d/l.sqlite");
    set_mode(&file, 0o444);
    set_mode(&desk.path("d"), 0o555);
    let before = fs::read(&file).expect("readable");
    for line in [
        "search dog --library d/l.sqlite -k 9",
        "search cat --library d/l.sqlite -k 9",
        "search cat --library d/l.sqlite -k 9 --group",
        "search cat --library d/l.sqlite -k 9 --photos .",
        "search type:png --library d/l.sqlite -k 9 --sort date",
    ] {
        let output = run_as(&desk, &other, line);
        assert_eq!(output.status.code(), Some(0), "{line}: {}", text(&output.stderr));
        assert_eq!(text(&output.stdout).lines().count(), 3, "{line}");
        assert!(
            !text(&output.stderr).contains("cannot be kept"),
            "{line}: {}",
            text(&output.stderr)
        );
    }
    let problems = run_as(&desk, &other, "index --problems --library d/l.sqlite --json -q");
    assert_eq!((problems.status.code(), text(&problems.stdout).trim()), (Some(0), "[]"));
    let exported =
        run_as(&desk, &other, "index --export /dev/null/v.safetensors --library d/l.sqlite");
    assert!(
        !text(&exported.stderr).contains("the photo library cannot be used"),
        "{}",
        text(&exported.stderr)
    );
    let filled = run_as(&desk, &other, "index . --library d/l.sqlite");
    let stderr = text(&filled.stderr);
    assert_eq!(filled.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("may this user write there?") && !stderr.contains("delete"),
        "{stderr}"
    );
    assert!(fs::read(&file).expect("readable") == before);
    assert_eq!(
        fs::read_dir(desk.path("d")).expect("readable").count(),
        1,
        "nothing is written beside it"
    );
    set_mode(&desk.path("d"), 0o755);
}

#[test]
#[cfg(unix)]
fn an_unreadable_file_is_reported_and_read_once_it_is_readable() {
    let desk = Desk::new();
    let Some(other) = as_other(&desk) else { return };
    for folder in ["lib", "lib/shut", "out"] {
        fs::create_dir(desk.path(folder)).expect("writable");
        set_mode(&desk.path(folder), 0o777);
    }
    for (from, to) in [("0.png", "lib/a.png"), ("1.png", "lib/b.png"), ("2.png", "lib/shut/c.png")]
    {
        fs::copy(desk.path(from), desk.path(to)).expect("writable");
    }
    let index = || {
        let output = run_as(&desk, &other, "index lib --library out/l.sqlite --json");
        assert!(output.status.success(), "{}", text(&output.stderr));
        let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (told["photos"].clone(), told["problems"].clone())
    };
    set_mode(&desk.path("lib/b.png"), 0);
    assert_eq!(index(), (json!(2), json!(1)));
    set_mode(&desk.path("lib/b.png"), 0o644);
    assert_eq!(index(), (json!(3), json!(0)));
    // A known photo stays a hit while it, or its folder, cannot be read.
    set_mode(&desk.path("lib/b.png"), 0);
    for mode in [0o755, 0o444, 0o000] {
        set_mode(&desk.path("lib/shut"), mode);
        let (photos, _) = index();
        assert_eq!(photos, json!(3), "{mode:o}");
    }
    set_mode(&desk.path("lib/shut"), 0o755);
    set_mode(&desk.path("lib/b.png"), 0o644);
    assert_eq!(index(), (json!(3), json!(0)));
}
