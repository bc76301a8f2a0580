//! The photo library through the command line: kills at any moment, queries, exchange.
//!
//! The kills over 10,000 files instead of 250, with time and memory:
//! `MMGEM_KILL_TIMES=40 cargo test --release --workspace --test cli twenty_kills -- --nocapture`

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::Instant;

use mmgem_core::image::to_jpeg;
use mmgem_core::index::{Index, Vectors};
use mmgem_scenes::scene;
use serde_json::{Value, json};

use super::{Desk, text};

/// Number of kills that must hit a running program.
const KILLS: usize = 20;
/// Every format that the program reads by default; `nef` stands for raw formats of cameras.
const EXTENSIONS: [&str; 8] = ["jpg", "png", "webp", "gif", "bmp", "tiff", "heic", "nef"];
const HEIC: &[u8] = include_bytes!("../../core/src/image/gradient.heic");

/// A photo in the format of an extension. Each index gives another content.
fn photo(index: u64, extension: &str) -> Vec<u8> {
    if extension == "heic" {
        // A `free` box, which readers skip, makes the content unique.
        return [HEIC, b"\0\0\0\x10free", &index.to_be_bytes()].concat();
    }
    let scene = scene(5, index);
    let photo =
        image::RgbImage::from_raw(scene.width, scene.height, scene.rgb).expect("rows of pixels");
    match extension {
        "jpg" => to_jpeg(&photo, 85),
        "nef" => [b"II*\0\x08\0\0\0\0\0\0\0\0\0".as_slice(), &to_jpeg(&photo, 85)].concat(),
        _ => {
            let format = image::ImageFormat::from_extension(extension).expect("a known format");
            let mut bytes = std::io::Cursor::new(Vec::new());
            photo.write_to(&mut bytes, format).expect("encodes");
            bytes.into_inner()
        }
    }
}

/// An unusual name for a copy, as users and old programs make them.
fn odd_name(index: usize, extension: &str) -> PathBuf {
    match index % 5 {
        0 => format!("copies/{index} a b.{extension}").into(),
        1 => format!("ünï/{index} 写真.{}", extension.to_uppercase()).into(),
        2 => format!("long/{index}{}.{extension}", "x".repeat(180)).into(),
        3 => format!("copies/'{index}\" & $.{extension}").into(),
        _ => not_utf8(index, extension),
    }
}

/// "café" in Latin-1. macOS and Windows reject such names.
#[cfg(target_os = "linux")]
fn not_utf8(index: usize, extension: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    OsString::from_vec(
        [b"copies/caf\xe9 \n".as_slice(), format!("{index}.{extension}").as_bytes()].concat(),
    )
    .into()
}

#[cfg(not(target_os = "linux"))]
fn not_utf8(index: usize, extension: &str) -> PathBuf {
    OsString::from(format!("copies/café {index}.{extension}")).into()
}

/// Returns file names and bytes, and the number of undamaged photos. Among the files are copies
/// with unusual names, damaged photos, texts named as photos, and raw files without a preview.
/// There are 250 files, times `MMGEM_KILL_TIMES`.
fn files() -> (Vec<(PathBuf, Vec<u8>)>, usize) {
    let times =
        std::env::var("MMGEM_KILL_TIMES").map_or(1, |times| times.parse().expect("a number"));
    let mut files: Vec<(PathBuf, Vec<u8>)> = Vec::new();
    for index in 0..195 * times {
        let extension = EXTENSIONS[index % EXTENSIONS.len()];
        let path = format!("{}/{index}.{extension}", index % 7).into();
        files.push((path, photo(index as u64, extension)));
    }
    for index in 0..25 * times {
        let (path, bytes) = files[index * 7].clone();
        let extension =
            path.extension().expect("every file has one").to_string_lossy().into_owned();
        files.push((odd_name(index, &extension), bytes));
    }
    let good = files.len();
    for index in 0..20 * times {
        let (path, bytes) = &files[index * 5];
        let cut = bytes[..bytes.len() / 3].to_vec();
        files.push((
            format!("damaged/{}", path.file_name().expect("a name").to_string_lossy()).into(),
            cut,
        ));
    }
    for index in 0..5 * times {
        files.push((
            format!("damaged/{index} text.jpg").into(),
            format!("no photo {index}").into_bytes(),
        ));
        let raw = [b"II*\0".as_slice(), &index.to_le_bytes()].concat();
        files.push((format!("damaged/{index} without a preview.dng").into(), raw));
    }
    (files, good)
}

fn write(folder: &Path, files: &[(PathBuf, Vec<u8>)]) {
    for (path, bytes) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().expect("below")).expect("writable");
        fs::write(path, bytes).expect("writable");
    }
}

/// Runs a line to its end. Returns the seconds and the peak memory in MB, which is 0 if the system
/// does not report it.
fn run_timed(desk: &Desk, line: &str) -> (f64, u64) {
    let start = Instant::now();
    let mut child =
        desk.command(line).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let told = format!("/proc/{}/status", child.id());
    let mut most_kb: u64 = 0;
    let status = loop {
        let told = fs::read_to_string(&told).unwrap_or_default();
        let line =
            told.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        most_kb = line.map_or(most_kb, |kb| kb.parse().expect("a number"));
        if let Some(status) = child.try_wait().expect("the child has a status") {
            break status;
        }
        sleep(std::time::Duration::from_millis(20));
    };
    assert!(status.success(), "{line}: {status}");
    (start.elapsed().as_secs_f64(), most_kb / 1000)
}

fn exported(desk: &Desk, library: &str) -> Index {
    let output = desk.run(&format!("index --library {library} --export {library}.index -q"));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let bytes = fs::read(desk.path(&format!("{library}.index"))).expect("it was written");
    Index::from_bytes(&bytes).expect("a whole index")
}

/// Whether vectors differ by no more than the rounding of f32. A photo that a kill leaves to be
/// encoded alone has its products shared out to the threads in another way than a batch.
fn differ_by_rounding(some: &Vectors, others: &Vectors) -> bool {
    let codes = some.codes().iter().zip(others.codes());
    let scales = some.scales().iter().zip(others.scales());
    some.codes().len() == others.codes().len()
        && some.scales().len() == others.scales().len()
        && codes.into_iter().all(|(x, y)| x.abs_diff(*y) <= 1)
        && scales.into_iter().all(|(x, y)| (x - y).abs() <= 1e-6 * x.abs())
}

#[test]
fn twenty_kills_lose_no_photo_and_double_none() {
    let desk = Desk::new();
    let (files, n_whole) = files();
    let folder = desk.path("photos");
    write(&folder, &files);

    let (all, memory) = run_timed(&desk, "index photos --library whole.sqlite -q");
    let (nothing, _) = run_timed(&desk, "index photos --library whole.sqlite -q");
    // Some damaged files can be decoded in part, so they count as photos.
    let n_good = desk.json("index photos --library whole.sqlite")["photos"]
        .as_u64()
        .expect("a number") as usize;
    assert!(
        (n_whole..=n_whole + 20 * files.len() / 250).contains(&n_good),
        "{n_good} of {}",
        files.len()
    );
    // Time until a kill, at most. The killed runs together then do about all of the work.
    let mut most_ms = 1e3 * (nothing + 2.0 * (all - nothing).max(0.0) / KILLS as f64);
    let (mut kills, mut within, mut known, mut delay) = (0, 0, 0, 7u64);
    for round in 0.. {
        assert!(round < 20 * KILLS, "the program ends before it can be killed");
        let start = Instant::now();
        let mut child = desk
            .command("index photos --library killed.sqlite -q")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        // A linear congruential generator.
        delay = (delay * 1_103_515_245 + 12_345) % (1 << 31);
        let wait = std::time::Duration::from_millis(delay % (most_ms as u64 + 1));
        while start.elapsed() < wait && child.try_wait().expect("the child has a status").is_none()
        {
            sleep(std::time::Duration::from_millis(1));
        }
        if child.try_wait().expect("the child has a status").is_none() {
            child.kill().expect("it runs");
            child.wait().expect("the killed child ends");
            kills += 1;
        } else {
            // The machine is faster now than when it was timed.
            most_ms *= 0.95;
        }
        let now = if desk.path("killed.sqlite").is_file() {
            exported(&desk, "killed.sqlite").photos.len()
        } else {
            0
        };
        assert!(now >= known, "{now} photos after {known}");
        known = now;
        within += usize::from((1..n_good).contains(&now));
        if kills == KILLS {
            break;
        }
    }
    eprintln!(
        "{} files, {n_good} photos in {all:.0} s and {memory} MB; killed {kills} times, {within} of them with a part done",
        files.len()
    );

    let end = desk.json("index photos --library killed.sqlite");
    assert_eq!(
        (&end["photos"], &end["problems"]),
        (&json!(n_good), &json!(files.len() - n_good)),
        "{end}"
    );
    let again = desk.json("index photos --library killed.sqlite");
    assert_eq!(
        (&again["encoded"], &again["recognised"], &again["forgotten"]),
        (&json!(0), &json!(0), &json!(0))
    );

    let (killed, whole) = (exported(&desk, "killed.sqlite"), exported(&desk, "whole.sqlite"));
    let mut paths: Vec<&str> = killed.photos.iter().map(|photo| photo.path.as_str()).collect();
    paths.dedup();
    assert_eq!(paths.len(), n_good, "each once");
    // The same library as without kills.
    assert_eq!((&killed.photos, &killed.boxes), (&whole.photos, &whole.boxes));
    assert!(differ_by_rounding(&killed.images, &whole.images), "vectors of photos");
    assert!(differ_by_rounding(&killed.regions, &whole.regions), "vectors of regions");

    // All HEIC files show the same picture.
    for (name, end) in [("1/1.png", "1/1.png"), ("6/6.heic", ".heic"), ("0/7.nef", "0/7.nef")] {
        let hits = desk.json(&format!("search photos/{name} --library killed.sqlite -k 1"));
        let mut paths = hits[0]["same"].as_array().into_iter().flatten().chain([&hits[0]["path"]]);
        let finds_itself = paths.any(|path| path.as_str().expect("a path").ends_with(end));
        assert!(finds_itself, "{name}: {hits}");
    }
    assert_eq!(
        desk.json("search dog --library killed.sqlite -k 5").as_array().map(Vec::len),
        Some(5)
    );
}

#[test]
fn queries_add_take_away_and_filter() {
    let desk = Desk::new();
    let names = |line: &str| -> Vec<String> {
        let hits = desk.json(&format!("search --library l.sqlite {line}"));
        let name = |hit: &Value| {
            PathBuf::from(hit["path"].as_str().expect("a path"))
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned()
        };
        hits.as_array().expect("hits").iter().map(name).collect()
    };
    assert!(desk.run("index . --library l.sqlite").status.success());
    assert_eq!(names("2.png -k 1"), ["2.png"]);
    assert_eq!(names("dog -k 9 --page 2"), [""; 0]);
    let ranked = names("dog");
    assert_eq!(ranked.len(), 3);
    assert_eq!(names("dog -k 1 --page 3"), ranked[2..]);
    assert_eq!(names("dog --min-score 0.9999"), [""; 0]);

    let search = |query: &str, more: &[&str]| {
        let mut command = desk.command("search --library l.sqlite -q");
        command.arg(query).args(more);
        let output = command.output().expect("the program starts");
        (output.status.code(), output.stdout, text(&output.stderr))
    };
    let (code, stdout, _) = search("2.png - 1.png path:2.PNG type:png after:2001", &["--null"]);
    assert!(code == Some(0) && stdout.ends_with(b"2.png\0"), "{}", text(&stdout));
    assert_eq!(stdout.iter().filter(|byte| **byte == 0).count(), 1);
    assert_eq!(search("dog before:2001", &[]).1, b"");
    let (code, stdout, _) = search("1.png", &["--why", "--json", "-k", "1"]);
    let hits: Value = serde_json::from_slice(&stdout).expect("JSON");
    assert!(code == Some(0) && hits[0]["caption"].is_string(), "{hits}");
    assert_eq!(search("dog", &["--html", "hits.html"]).0, Some(0));
    let page = fs::read_to_string(desk.path("hits.html")).expect("it was written");
    assert_eq!((page.matches("<figure>").count(), page.matches("<rect").count()), (3, 3));
    assert!(page.contains("data:image/jpeg;base64,") && !page.contains("src=\"http"));
    fs::rename(desk.path("1.png"), desk.path("moved.png")).expect("writable");
    let (code, stdout, stderr) = search("dog", &["--why", "-k", "3"]);
    assert!(
        code == Some(0) && stderr.contains("not described") && stderr.contains("1.png"),
        "{stderr}"
    );
    assert_eq!(text(&stdout).lines().count(), 3);
    let (code, _, stderr) = search("dog after:soon", &[]);
    assert!(code == Some(2) && stderr.contains("wanted a date"), "{stderr}");
    let (code, _, stderr) = search("dog - dog", &[]);
    assert!(code == Some(2) && stderr.contains("cancel"), "{stderr}");
}

#[test]
fn a_text_that_was_looked_for_before_is_not_read_again() {
    let desk = Desk::new();
    assert!(desk.run("index . --library l.sqlite").status.success());
    let search = |query: &str| desk.json(&format!("search {query} --library l.sqlite --timing"));
    let (first, again) = (search("dog"), search("dog"));
    let known = |told: &Value| told["timing"]["encode_known"].as_bool().expect("yes or no");
    assert_eq!((known(&first), known(&again), known(&search("cat"))), (false, true, false));
    assert_eq!(first["hits"], again["hits"]);
    for part in ["open_ms", "encode_ms", "scan_ms"] {
        assert!(again["timing"][part].as_f64().is_some_and(|ms| ms > 0.0), "{again}");
    }
    let line = desk.run("search dog --library l.sqlite --timing -q");
    assert!(text(&line.stderr).contains("(cached), scan"), "{}", text(&line.stderr));
}

#[test]
fn a_cutoff_is_measured_on_captioned_photos() {
    let desk = Desk::new();
    assert!(desk.run("scenes --out drawn --n 8 --seed 5").status.success());
    assert_eq!(desk.json("calibrate drawn/*.tar --library typo.sqlite")["photos"], json!(8));
    assert!(!desk.path("typo.sqlite").exists(), "a mistyped name creates no file");
    assert!(desk.run("index . --library l.sqlite").status.success());
    let told = desk.json("calibrate drawn/*.tar --library l.sqlite");
    assert_eq!((&told["photos"], &told["texts"]), (&json!(8), &json!(40)));
    let scores: Vec<f64> = told["cutoffs"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|cutoff| cutoff["min_score"].as_f64().expect("a cosine"))
        .collect();
    assert!(scores.len() == 5 && scores.is_sorted(), "{told}");
    desk.fails("search", 2, &["QUERY"]);

    // The cut-offs travel with a copy of the model.
    let mut strict = told.clone();
    strict["cutoffs"][1]["min_score"] = json!(0.99);
    for (name, cutoffs) in [("measured", &told), ("strict", &strict)] {
        fs::write(desk.path("cutoffs.json"), cutoffs.to_string()).expect("writable");
        let copied = desk.run(&format!("export --dtype f16 --out {name} --cutoffs cutoffs.json"));
        assert!(copied.status.success(), "{}", text(&copied.stderr));
        let config = fs::read(desk.path(name).join("config.json")).expect("written");
        let config: Value = serde_json::from_slice(&config).expect("JSON");
        assert_eq!(config["search_cutoffs"], cutoffs["cutoffs"]);
    }
    let warns = |model: &str| {
        let hits = desk.json(&format!("search sheep --photos . --model {model}"));
        hits[0]["warnings"].to_string().contains("nothing found")
    };
    assert!(warns("strict"));
    desk.write("list.json", b"[1]");
    for file in ["0.png", "list.json"] {
        let line = format!("export --dtype f16 --out no --cutoffs {file}");
        desk.fails(&line, 1, &["no cut-offs", "mmgem calibrate", file]);
    }
}

#[test]
fn an_exported_library_is_imported_without_encoding() {
    let desk = Desk::new();
    assert_eq!(desk.json("index . --library a.sqlite --export a.index")["encoded"], json!(3));
    let imported = desk.json("index . --library b.sqlite --import a.index");
    assert_eq!((&imported["encoded"], &imported["recognised"]), (&json!(0), &json!(3)));
    assert_eq!(exported(&desk, "a.sqlite"), exported(&desk, "b.sqlite"));
    desk.fails(
        "index . --library c.sqlite --import 0.png",
        1,
        &["the index cannot be used", "0.png"],
    );
    desk.fails("index --library d.sqlite", 2, &["no folder is known yet"]);
    assert!(!desk.path("d.sqlite").exists());
}

#[test]
fn a_watched_folder_is_followed() {
    let desk = Desk::new();
    let folder = desk.path("photos");
    fs::create_dir(&folder).expect("writable");
    fs::copy(desk.path("0.png"), folder.join("0.png")).expect("writable");
    let mut child = desk
        .command("index photos --library w.sqlite --watch")
        .stdout(Stdio::null())
        .stderr(fs::File::create(desk.path("notes")).expect("writable"))
        .spawn()
        .expect("the program starts");
    let soon = |right: &dyn Fn() -> bool| {
        let start = Instant::now();
        while start.elapsed().as_secs() < 60 {
            if right() {
                return true;
            }
            sleep(std::time::Duration::from_millis(100));
        }
        false
    };
    let library = desk.path("w.sqlite");
    let holds = |n| soon(&|| library.is_file() && exported(&desk, "w.sqlite").photos.len() == n);
    let first = holds(1);
    fs::copy(desk.path("1.png"), folder.join("1.png")).expect("writable");
    let added = holds(2);
    fs::remove_file(folder.join("0.png")).expect("writable");
    let removed = holds(1);
    fs::rename(&folder, desk.path("away")).expect("writable");
    let notes = || fs::read_to_string(desk.path("notes")).expect("readable");
    let missed = soon(&|| notes().contains("cannot list the folder"));
    fs::create_dir(&folder).expect("writable");
    for name in ["0.png", "2.png"] {
        fs::copy(desk.path(name), folder.join(name)).expect("writable");
    }
    let replaced = holds(2);
    child.kill().expect("it watches");
    child.wait().expect("the killed child ends");
    assert_eq!((first, added, removed, missed, replaced), (true, true, true, true, true));
}

#[test]
fn a_truncated_photo_of_every_format_is_found_and_reported() {
    let desk = Desk::new();
    fs::create_dir(desk.path("photos")).expect("writable");
    let shown = ["jpg", "png", "gif", "bmp", "nef"];
    for (index, extension) in shown.iter().enumerate() {
        let whole = photo(index as u64, extension);
        let name = format!("photos/{index}.{extension}");
        fs::write(desk.path(&name), &whole[..whole.len() * 7 / 10]).expect("writable");
    }
    // Refused: the directory of such a TIFF follows its pixels.
    for extension in ["tiff", "heic"] {
        let whole = photo(9, extension);
        let name = format!("photos/half.{extension}");
        fs::write(desk.path(&name), &whole[..whole.len() / 2]).expect("writable");
    }
    let told = desk.json("index photos --library l.sqlite");
    let counts = ["photos", "encoded", "in_part", "problems"].map(|count| &told[count]);
    assert_eq!(counts, [&json!(5), &json!(5), &json!(5), &json!(2)], "{told}");

    let problems = desk.json("index --problems --library l.sqlite");
    let problems = problems.as_array().expect("a list");
    let why = |name: &str| {
        let entry = problems.iter().find(|entry| {
            entry["path"].as_str().is_some_and(|path| Path::new(path).ends_with(name))
        });
        entry.and_then(|entry| entry["problem"].as_str()).unwrap_or_default()
    };
    assert_eq!(problems.len(), 7);
    for name in ["0.jpg", "1.png", "2.gif", "3.bmp", "4.nef"] {
        assert!(why(name).contains("cut short"), "{name}: {}", why(name));
    }
    for name in ["half.tiff", "half.heic"] {
        assert!(why(name).contains("get it again"), "{name}: {}", why(name));
    }
    let hits = desk.json("search dog --library l.sqlite");
    let hits = hits.as_array().expect("hits");
    let named = hits.iter().filter(|hit| hit["problem"].as_str().is_some());
    assert_eq!((hits.len(), named.count()), (5, 5));

    // Commands without a library report the problem too.
    for line in ["embed photos/0.jpg photos/1.png", "caption photos/0.jpg", "search photos/0.jpg"] {
        let library = if line.starts_with("search") { " --library l.sqlite" } else { "" };
        let output = desk.run(&format!("{line}{library}"));
        assert!(output.status.success(), "{line}");
        let said = text(&output.stderr);
        assert!(said.contains("0.jpg: the JPEG is cut short"), "{line}: {said}");
    }
}
