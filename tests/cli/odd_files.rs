//! A library of odd files, as on users' disks: no file is lost, listed twice or hidden.
//!
//! The test has 300 files. For 3,000 files, and the time of indexing:
//! `MMGEM_ODD_FILES=3000 cargo test --release -p mmgem-tests --test cli odd_files -- --nocapture`

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::Instant;

use image::ImageFormat;
use mmgem_core::image::to_jpeg;
use mmgem_scenes::scene;
use serde_json::{Value, json};

use super::{Desk, text};

const HEIC: &[u8] = include_bytes!("../../core/src/image/gradient.heic");
/// Little-endian EXIF that rotates a photo clockwise.
const TURNED: &[u8] =
    b"\xff\xe1\0\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";

/// A linear congruential generator, with the same numbers on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// A generated file: its path, its bytes, and whether it is a photo.
struct Odd {
    path: PathBuf,
    bytes: Vec<u8>,
    is_photo: bool,
}

fn picture(index: u64) -> image::RgbImage {
    let scene = scene(5, index);
    image::RgbImage::from_raw(scene.width, scene.height, scene.rgb).expect("rows of pixels")
}

fn encoded(picture: &image::DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).expect("encodes");
    bytes.into_inner()
}

/// A photo in any format that the program reads by default, with its usual extension.
fn photo(index: u64, dice: &mut Dice) -> (Vec<u8>, &'static str) {
    let rgb = picture(index);
    let all = image::DynamicImage::ImageRgb8(rgb.clone());
    match dice.roll(16) {
        0..=4 => (to_jpeg(&rgb, 60 + (index % 40) as u8), "jpg"),
        5 => {
            let jpeg = to_jpeg(&rgb, 90);
            ([&jpeg[..2], TURNED, &jpeg[2..]].concat(), "jpeg")
        }
        // Bytes after the end, as of a phone's appended video.
        6 => ([to_jpeg(&rgb, 80), vec![0; 999]].concat(), "JPG"),
        7 => (encoded(&all, ImageFormat::Png), "png"),
        8 => (encoded(&image::DynamicImage::ImageLuma8(all.to_luma8()), ImageFormat::Png), "png"),
        9 => (encoded(&image::DynamicImage::ImageRgb16(all.to_rgb16()), ImageFormat::Png), "png"),
        10 => {
            (encoded(&image::DynamicImage::ImageRgba8(all.to_rgba8()), ImageFormat::WebP), "webp")
        }
        11 => (encoded(&all, ImageFormat::Gif), "gif"),
        12 => (encoded(&all, ImageFormat::Bmp), "bmp"),
        13 => (encoded(&all, ImageFormat::Tiff), "tif"),
        // A `free` box, which readers skip, makes the content unique.
        14 => ([HEIC, b"\0\0\0\x10free", &index.to_be_bytes()].concat(), "heic"),
        _ => ([b"II*\0\x08\0\0\0\0\0\0\0\0\0".as_slice(), &to_jpeg(&rgb, 85)].concat(), "nef"),
    }
}

/// Bytes that are not a photo.
fn damaged(index: u64, dice: &mut Dice) -> Vec<u8> {
    let (whole, _) = photo(index, &mut Dice(index * 2 + 1));
    match dice.roll(5) {
        0 => Vec::new(),
        1 => format!("no photo {index}").into_bytes(),
        2 => vec![0; 4096 + index as usize],
        3 => whole[..whole.len().min(40)].to_vec(),
        _ => [b"<!doctype html><title>404</title>".as_slice(), &index.to_be_bytes()].concat(),
    }
}

/// A folder and a name as users, phones and old programs make them, unique for each `index`.
fn place(index: u64, ending: &str, dice: &mut Dice) -> PathBuf {
    let folder = match dice.roll(9) {
        0 => String::new(),
        1 => format!("{}/{:02}", 2010 + dice.roll(15), 1 + dice.roll(12)),
        2 => "ünï/写真/עברית".into(),
        3 => "cafe\u{301}".into(),
        4 => "a b/'c' & $d/#e;f".into(),
        5 => "deep/".repeat(1 + dice.roll(30) as usize),
        6 => "-n/--all".into(),
        7 => "DCIM/100APPLE".into(),
        _ => "100%/[x]/{y,z}".into(),
    };
    let stem: Vec<u8> = match dice.roll(14) {
        0 => format!("IMG-201308{:02}-WA{index:04}", 1 + index % 28).into(),
        1 => format!("PXL_20180304_{index:09}").into(),
        2 => format!("{index} 日本語 😀").into(),
        3 => format!("{index} עברית").into(),
        4 => format!("-x{index}").into(),
        5 => format!("{index}{}", "x".repeat(230)).into(),
        6 => format!("{index}.jpg.backup").into(),
        7 => format!("{index} e\u{301} (1)").into(),
        8 => format!("{index} after:2024 path:x - \"q\"").into(),
        9 if cfg!(unix) => format!("{index} line\nfeed\ttab\x1b[31m").into(),
        10 if cfg!(target_os = "linux") => {
            [b"caf\xe9 ".as_slice(), index.to_string().as_bytes()].concat()
        }
        11 => format!("{index}\u{202e}gpj").into(),
        _ => format!("DSC{index:05}").into(),
    };
    let name = [stem, format!(".{ending}").into_bytes()].concat();
    Path::new(&folder).join(as_name(&name))
}

#[cfg(unix)]
fn as_name(bytes: &[u8]) -> &OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}

#[cfg(not(unix))]
fn as_name(bytes: &[u8]) -> &OsStr {
    std::str::from_utf8(bytes).expect("names of this system are text").as_ref()
}

/// Generates `n` files: photos, copies, pictures stored in another quality, and damaged files.
fn draw(n: u64) -> Vec<Odd> {
    let mut dice = Dice(7);
    let mut files: Vec<Odd> = Vec::new();
    for index in 0..n {
        let (bytes, ending, is_photo) = match dice.roll(20) {
            0..=12 => {
                let (bytes, ending) = photo(index, &mut dice);
                (bytes, ending, true)
            }
            // A copy of an earlier file, with another name or in another folder.
            13..=15 if !files.is_empty() => {
                let of = &files[dice.roll(files.len() as u64) as usize];
                let ending = of.path.extension().and_then(OsStr::to_str).unwrap_or("jpg");
                let ending =
                    ["jpg", "jpeg", "JPG", "png", "webp", "gif", "bmp", "tif", "heic", "nef"]
                        .into_iter()
                        .find(|known| *known == ending)
                        .unwrap_or("jpg");
                (of.bytes.clone(), ending, of.is_photo)
            }
            // A picture that may also exist in another quality.
            16 => (to_jpeg(&picture(dice.roll(index + 1)), 45), "jpg", true),
            // The extension of another format.
            17 => (photo(index, &mut dice).0, "jfif", true),
            _ => (damaged(index, &mut dice), "jpg", false),
        };
        let path = place(index, ending, &mut dice);
        // The program recognizes a raw photo only by its extension.
        let is_raw = bytes.starts_with(b"II*\0\x08\0\0\0\0\0");
        let is_photo = is_photo && (!is_raw || ending == "nef");
        files.push(Odd { path, bytes, is_photo });
    }
    files
}

fn write(folder: &Path, files: &[Odd]) {
    for Odd { path, bytes, .. } in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().expect("below")).expect("writable");
        assert!(!path.exists(), "{} twice", path.display());
        fs::write(path, bytes).expect("writable");
    }
}

/// Parses paths that end in zero bytes.
fn null_paths(stdout: &[u8]) -> Vec<PathBuf> {
    let parts = stdout.split(|byte| *byte == 0).filter(|part| !part.is_empty());
    parts.map(|part| PathBuf::from(as_name(part))).collect()
}

/// The path of a JSON entry, from its `uri` if it has one.
fn exact(entry: &Value) -> PathBuf {
    let Some(uri) = entry["uri"].as_str() else {
        return entry["path"].as_str().expect("a path").into();
    };
    let mut bytes = Vec::new();
    let mut rest = uri.strip_prefix("file://").expect("a file's").bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next().expect("two digits"), rest.next().expect("two digits")];
                u8::from_str_radix(std::str::from_utf8(&digits).expect("ASCII"), 16)
                    .expect("hexadecimal")
            }
            byte => byte,
        });
    }
    PathBuf::from(as_name(&bytes))
}

#[test]
fn no_odd_file_is_lost_doubled_or_hidden() {
    let n: u64 = std::env::var("MMGEM_ODD_FILES").map_or(300, |n| n.parse().expect("a number"));
    let desk = Desk::new();
    let folder = desk.path("photos");
    let files = draw(n);
    write(&folder, &files);
    let folder = folder.canonicalize().expect("it was made");
    // Files that the program ignores.
    for name in ["@eaDir/thumb.jpg", ".trashed-1-a.jpg", "sub/.nomedia", "sub/a.jpg"] {
        fs::create_dir_all(folder.join(name).parent().expect("below")).expect("writable");
        fs::write(folder.join(name), &files[0].bytes).expect("writable");
    }
    let of = |is_photo: bool| -> BTreeSet<PathBuf> {
        files
            .iter()
            .filter(|file| file.is_photo == is_photo)
            .map(|file| folder.join(&file.path))
            .collect()
    };
    let (photos, others) = (of(true), of(false));

    let start = Instant::now();
    let told = desk.json("index photos --library l.sqlite");
    let secs = start.elapsed().as_secs_f64();
    assert_eq!(
        (&told["photos"], &told["problems"]),
        (&json!(photos.len()), &json!(others.len())),
        "{told}"
    );
    let start = Instant::now();
    let again = desk.json("index --library l.sqlite");
    eprintln!(
        "{n} files, {} photos, {} problems: {secs:.1} s, again {:.1} s",
        photos.len(),
        others.len(),
        start.elapsed().as_secs_f64()
    );
    for count in ["encoded", "recognised", "unchanged", "forgotten", "unreadable"] {
        assert_eq!(again[count], json!(0), "{count}: {again}");
    }

    // Each photo is a hit once, by its exact name. The other files are listed as problems.
    let listed = |line: &str| {
        null_paths(
            &desk.run(&format!("search {line} --library l.sqlite -k 99999 --null -q")).stdout,
        )
    };
    for line in ["dog", "-path:nowhere", "dog --regions"] {
        let found = listed(line);
        let distinct: BTreeSet<PathBuf> = found.iter().cloned().collect();
        assert_eq!((found.len(), distinct == photos), (photos.len(), true), "{line}");
    }
    let problems = desk.json("index --problems --library l.sqlite");
    let told: BTreeSet<PathBuf> = problems.as_array().expect("a list").iter().map(exact).collect();
    assert!(told == others, "{:?}", told.symmetric_difference(&others).collect::<Vec<_>>());
    let table = text(&desk.run("search dog --library l.sqlite -k 99999 -q").stdout);
    assert_eq!(table.lines().filter(|line| line.split('\t').count() == 3).count(), photos.len());

    // Every file is in exactly one group.
    let groups = desk.json("search dog --group --library l.sqlite -k 99999");
    let mut in_groups = Vec::new();
    for group in groups.as_array().expect("hits") {
        in_groups.push(exact(group));
        for same in group["same"].as_array().into_iter().flatten() {
            let same = same.as_str().expect("a path");
            let entry = match same.starts_with("file://") {
                true => json!({ "uri": same }),
                false => json!({ "path": same }),
            };
            in_groups.push(exact(&entry));
        }
    }
    assert_eq!(in_groups.len(), photos.len());
    assert!(in_groups.iter().cloned().collect::<BTreeSet<_>>() == photos);
    // Copies are in one group, so there are at most as many groups as distinct contents.
    let mut by_bytes: BTreeMap<&[u8], usize> = BTreeMap::new();
    files
        .iter()
        .filter(|file| file.is_photo)
        .for_each(|file| *by_bytes.entry(&file.bytes).or_default() += 1);
    let n_groups = groups.as_array().map_or(0, Vec::len);
    assert!(
        n_groups <= by_bytes.len() && n_groups > by_bytes.len() / 2,
        "{n_groups} of {}",
        by_bytes.len()
    );

    // Moved photos are recognised, and removed photos are not hits any more.
    let moved = folder.parent().expect("the desk").join("moved");
    fs::create_dir(&moved).expect("writable");
    let gone: Vec<&PathBuf> = photos.iter().step_by(3).collect();
    for (at, path) in gone.iter().enumerate() {
        let ending = path.extension().expect("photos have one");
        fs::rename(path, moved.join(format!("{at}")).with_extension(ending)).expect("one disk");
    }
    let told = desk.json("index --library l.sqlite");
    assert_eq!(
        (&told["forgotten"], &told["photos"]),
        (&json!(gone.len()), &json!(photos.len() - gone.len()))
    );
    let told = desk.json("index moved --library l.sqlite");
    assert_eq!((&told["encoded"], &told["recognised"]), (&json!(0), &json!(gone.len())), "{told}");
    assert_eq!(listed("dog").len(), photos.len());
}
