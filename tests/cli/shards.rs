//! `mmgem embed --shards`: vectors of a WebDataset's photos in Parquet.

use std::fs;
use std::process::Command;

use mmgem_data::webdataset::{Sample, ShardWriter};
use serde_json::{Value, json};

use super::{Desk, text};

/// A desk with two shards: three photos and an unusable sample, and the last photo alone.
fn desk() -> Desk {
    let desk = Desk::new();
    let photo =
        |index: usize| fs::read(desk.path(&format!("{index}.png"))).expect("it was written");
    let write = |name: &str, samples: Vec<(String, Vec<u8>)>| {
        let mut shard = ShardWriter::create(desk.path(name)).expect("writable");
        for (key, bytes) in samples {
            shard.write(&Sample { key, parts: vec![("png".into(), bytes)] }).expect("writable");
        }
        shard.finish().expect("writable");
    };
    let mut samples: Vec<(String, Vec<u8>)> =
        (0..3).map(|index| (format!("p/{index}"), photo(index))).collect();
    samples.insert(1, ("p/text".into(), b"no photo".to_vec()));
    write("a-0.tar", samples);
    write("a-1.tar", vec![("x".into(), photo(2))]);
    desk
}

/// The numbers of the last column of a file with one row group. They end where the footer begins.
fn floats(file: &[u8], n_floats: usize) -> Vec<f32> {
    let end = file.len() - 8;
    let footer = u32::from_le_bytes(file[end..end + 4].try_into().expect("four bytes")) as usize;
    let numbers = &file[end - footer - 4 * n_floats..end - footer];
    numbers
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes")))
        .collect()
}

#[test]
fn the_vectors_are_those_of_the_photos() {
    let desk = desk();
    let told = desk.json("embed --shards a-{0..1}.tar --out vectors");
    assert_eq!(
        [&told["shards"], &told["vectors"], &told["passed_over"], &told["shards_there"]],
        [&json!(2), &json!(4), &json!(1), &json!(0)],
        "{told}"
    );
    let alone = desk.json("embed 0.png 1.png 2.png");
    let wanted: Vec<f64> = alone["images"]
        .as_array()
        .expect("three")
        .iter()
        .flat_map(|image| image["embed"].as_array().expect("a vector"))
        .map(|x| x.as_f64().expect("a number"))
        .collect();
    let found =
        floats(&fs::read(desk.path("vectors/a-0.parquet")).expect("it was written"), wanted.len());
    // The tolerance covers the order of sums, which depends on the batch.
    assert!(found.iter().zip(&wanted).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-5));
}

#[test]
fn ranks_share_out_the_shards_and_what_is_there_is_not_made_again() {
    let desk = desk();
    assert!(desk.run("embed --shards a-*.tar --out alone -q").status.success());
    let rank = |rank: &str| -> Value {
        let output = desk
            .command("embed --shards a-*.tar --out ranks -q --json")
            .envs([("RANK", rank), ("WORLD_SIZE", "2"), ("LOCAL_RANK", rank)])
            .output()
            .expect("the program starts");
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("one JSON document")
    };
    assert_eq!(
        (&rank("1")["vectors"], desk.path("ranks/a-0.parquet").exists()),
        (&json!(1), false)
    );
    assert_eq!(rank("0")["vectors"], json!(3));
    let read = |name: &str| fs::read(desk.path(name)).expect("it was written");
    for name in ["a-0.parquet", "a-1.parquet"] {
        assert_eq!(read(&format!("alone/{name}")), read(&format!("ranks/{name}")), "{name}");
    }

    fs::remove_file(desk.path("ranks/a-1.parquet")).expect("it is there");
    let again = desk.json("embed --shards a-*.tar --out ranks");
    assert_eq!((&again["shards"], &again["shards_there"]), (&json!(1), &json!(1)));
    assert_eq!(read("alone/a-1.parquet"), read("ranks/a-1.parquet"));

    fs::copy(desk.path("alone/a-0.parquet"), desk.path("ranks/a-1.parquet")).expect("writable");
    desk.fails(
        "embed --shards a-*.tar --out ranks",
        1,
        &["its vectors are not of this shard", "a-1.parquet"],
    );
    desk.fails("embed --shards a-*.tar", 2, &["--out"]);
    desk.fails("embed --shards b-*.tar --out ranks", 1, &["no file fits"]);
    desk.fails(
        "embed --shards s3://bucket/{0..1}.tar --out ranks",
        1,
        &["pipe:aws s3 cp s3://bucket/{0..1}.tar -", "download the shards first"],
    );
}

#[test]
fn another_reader_of_parquet_agrees() {
    let python = "import pyarrow.parquet as p, json, sys
t = p.read_table(sys.argv[1])
m = p.ParquetFile(sys.argv[1]).schema_arrow
v = t['vector'].to_pylist()
print(json.dumps({'types': [str(f.type) for f in m], 'id': t['id'].to_pylist(), 'path': t['path'].to_pylist(),
    'lengths': [len(x) for x in v], 'norms': [sum(y * y for y in x) for x in v],
    'notes': sorted(k.decode() for k in m.metadata)}))";
    if !Command::new("python3")
        .args(["-c", "import pyarrow"])
        .output()
        .is_ok_and(|out| out.status.success())
    {
        eprintln!("SKIPPED: python3 has no pyarrow (pip install pyarrow)");
        return;
    }
    let desk = desk();
    assert!(desk.run("embed --shards a-0.tar --out vectors -q").status.success());
    let output = Command::new("python3")
        .args(["-c", python])
        .arg(desk.path("vectors/a-0.parquet"))
        .output()
        .expect("python starts");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let read: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(read["types"], json!(["string", "string", "list<element: float not null>"]));
    assert_eq!(read["id"], json!(["a-0/p/0", "a-0/p/1", "a-0/p/2"]));
    assert_eq!(read["path"][1], json!("a-0.tar/p/1.png"));
    assert_eq!(read["lengths"], json!([24, 24, 24]));
    assert!(
        read["norms"]
            .as_array()
            .expect("three")
            .iter()
            .all(|x| (x.as_f64().expect("one") - 1.0).abs() < 1e-5)
    );
    assert_eq!(read["notes"], json!(["mmgem.model", "mmgem.shard_bytes"]));
}

#[test]
fn a_bad_shard_costs_itself_and_the_exit_status_tells_of_it() {
    let desk = desk();
    desk.write("a-2.tar", b"");
    let output = desk.run("embed --shards a-*.tar --out vectors --json");
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains(
            "1 of 3 shards could not be used; the first: found no whole sample (the file is empty)"
        ),
        "{stderr}"
    );
    let told: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    assert_eq!((&told["shards"], &told["vectors"]), (&json!(2), &json!(4)), "{told}");
    assert!(
        told["shards_failed"][0]["shard"].as_str().is_some_and(|shard| shard.ends_with("a-2.tar")),
        "{told}"
    );
    assert!(desk.path("vectors/a-0.parquet").exists() && desk.path("vectors/a-1.parquet").exists());
    assert!(!desk.path("vectors/a-2.parquet").exists());
    desk.fails("embed --shards a-2.tar --out other --strict", 1, &["the file is empty", "a-2.tar"]);
    // A shard without a photo is unusable too.
    let mut shard = ShardWriter::create(desk.path("a-2.tar")).expect("writable");
    shard
        .write(&Sample { key: "x".into(), parts: vec![("txt".into(), b"a dog".to_vec())] })
        .expect("writable");
    shard.finish().expect("writable");
    desk.fails(
        "embed --shards a-*.tar --out vectors",
        1,
        &["none of its 1 samples has a usable photo", "a-2.tar"],
    );
}

#[test]
fn compressed_shards_and_photos_of_phones_are_embedded_as_they_are() {
    use std::io::Write;
    let desk = desk();
    let bytes = fs::read(desk.path("a-0.tar")).expect("it was written");
    let mut gzip = flate2::write::GzEncoder::new(
        fs::File::create(desk.path("b-0.tar.gz")).expect("writable"),
        flate2::Compression::fast(),
    );
    gzip.write_all(&bytes).expect("writable");
    gzip.finish().expect("writable");
    let heic = include_bytes!("../../core/src/image/gradient.heic");
    let mut shard = ShardWriter::create(desk.path("c-0.tar")).expect("writable");
    shard
        .write(&Sample { key: "phone".into(), parts: vec![("heic".into(), heic.to_vec())] })
        .expect("writable");
    shard.finish().expect("writable");
    assert!(
        desk.run("embed --shards a-0.tar --shards b-0.tar.gz --shards c-0.tar --out vectors -q")
            .status
            .success()
    );
    let numbers = |name: &str, n| floats(&fs::read(desk.path(name)).expect("it was written"), n);
    assert_eq!(numbers("vectors/b-0.parquet", 72), numbers("vectors/a-0.parquet", 72));
    assert_eq!(numbers("vectors/c-0.parquet", 24).len(), 24);
}
