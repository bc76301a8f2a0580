//! Output paths: a command does not overwrite its inputs, and rejects the extension of another
//! format.

use std::fs;
use std::path::Path;

use super::{Desk, text};

/// Every file below a folder with its bytes.
fn snapshot(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(snapshot(&path));
        } else {
            files.push((path.display().to_string(), fs::read(&path).expect("readable")));
        }
    }
    files.sort();
    files
}

/// Checks that the line fails as a wrong argument, prints `says`, and changes no file.
#[track_caller]
fn check(desk: &Desk, line: &str, says: &str) {
    let before = snapshot(desk.folder.path());
    desk.fails(line, 2, &[says]);
    assert!(snapshot(desk.folder.path()) == before, "{line} changed a file");
}

#[test]
fn no_command_writes_over_what_it_reads() {
    let desk = Desk::new();
    assert!(desk.run("scenes --out drawn --n 4 --seed 5").status.success());
    assert!(desk.run("index . --library l.sqlite --export v.safetensors").status.success());
    desk.write("golden.safetensors", b"golden");
    desk.write("boxes.json", b"{}");
    desk.write("run.json", b"{}");
    fs::create_dir(desk.path("sub")).expect("writable");
    let over = "would overwrite";
    // Photos with the extensions of other formats: the program goes by the content.
    for (photo, name) in
        [("0.png", "p.html"), ("1.png", "p.json"), ("0.png", "p.safetensors"), ("1.png", "p.csv")]
    {
        fs::copy(desk.path(photo), desk.path(name)).expect("writable");
    }
    for line in [
        "localize 0.png --text dog --out 0.png",
        "localize 0.png --text dog --out ./sub/../0.png",
        "embed p.safetensors --out p.safetensors",
        "embed 0.png p.safetensors --out p.safetensors",
        "embed --text dog --out model/model.safetensors",
        "search p.html --photos . --html p.html",
        "search dog --photos p.html --html p.html",
        "index . --library l.sqlite --import v.safetensors --export v.safetensors",
        "trace --image p.safetensors --text dog --out p.safetensors",
        "trace --image 0.png --text dog --out golden.safetensors --compare golden.safetensors",
        "eval region --data drawn/*.tar --proposals boxes.json --out boxes.json",
        "eval retrieval --data run.json --save run.json",
        "eval retrieval --data p.html --report p.html",
        "eval retrieval --data drawn/*.tar --images . --save run.json",
        "eval caption --data p.csv --csv p.csv",
        "import --vision model/model.safetensors --language model --out model",
        "import --vision drawn --language model --out ./sub/../model",
    ] {
        check(&desk, line, over);
    }
    check(&desk, "export --dtype f16 --out ./sub/../model", "--out is the model itself");
    // The library itself, with the extension of an export.
    fs::copy(desk.path("l.sqlite"), desk.path("l.safetensors")).expect("writable");
    check(&desk, "index --library l.safetensors --export l.safetensors", over);
    check(&desk, "search dog --library l.sqlite --html 0.png", "writes .html or .htm");
}

#[test]
fn links_and_photos_of_the_library_are_spared_too() {
    let desk = Desk::new();
    fs::create_dir(desk.path("photos")).expect("writable");
    fs::rename(desk.path("2.png"), desk.path("photos/2.png")).expect("writable");
    assert!(desk.run("index photos --library l.sqlite").status.success());
    fs::hard_link(desk.path("photos/2.png"), desk.path("hard.html"))
        .expect("the disk has hard links");
    fs::hard_link(desk.path("0.png"), desk.path("hard.png")).expect("the disk has hard links");
    fs::hard_link(desk.path("photos/2.png"), desk.path("hard.safetensors"))
        .expect("the disk has hard links");
    check(&desk, "search dog --library l.sqlite --html hard.html", "would overwrite");
    check(&desk, "index --library l.sqlite --export hard.safetensors", "would overwrite");
    check(&desk, "localize 0.png --text dog --out hard.png", "would overwrite");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("0.png", desk.path("soft.png")).expect("links work");
        check(&desk, "localize 0.png --text dog --out soft.png", "would overwrite");
        check(&desk, "localize soft.png --text dog --out 0.png", "would overwrite");
    }
    // A file with the same name in another folder is another file.
    fs::create_dir(desk.path("out")).expect("writable");
    assert!(desk.run("localize 0.png --text dog --out out/0.png -q").status.success());
}

#[test]
fn an_ending_is_kept_to_or_refused() {
    let desk = Desk::new();
    assert!(desk.run("index . --library l.sqlite").status.success());
    for (line, says) in [
        ("embed 0.png --out v.npy", "writes .safetensors"),
        ("embed 0.png --out v.parquet", "--shards writes Parquet"),
        ("localize 0.png --text dog --out o.gif", "writes .png or .jpg or .jpeg"),
        ("search dog --library l.sqlite --html hits.pdf", "writes .html or .htm"),
        ("index --library l.sqlite --export v.csv", "writes .safetensors"),
        ("trace --image 0.png --text dog --out t.pt", "writes .safetensors"),
        ("eval retrieval --data drawn/*.tar --save s.csv", "--csv writes a table"),
        ("eval retrieval --data drawn/*.tar --report r.jpg", "writes .html or .htm"),
        ("demo --out tour.png", "writes .html or .htm"),
    ] {
        check(&desk, line, says);
    }
    assert!(desk.run("localize 0.png --text dog --out o.JPG -q").status.success());
    assert!(fs::read(desk.path("o.JPG")).expect("it was written").starts_with(&[0xff, 0xd8]));
    assert!(desk.run("localize 0.png --text dog --out o.png -q").status.success());
    assert!(fs::read(desk.path("o.png")).expect("it was written").starts_with(b"\x89PNG"));
    assert!(
        desk.run("embed 0.png --out vectors -q").status.success(),
        "a name without an extension is accepted"
    );
}

#[test]
fn a_library_that_is_mistyped_is_not_made() {
    let desk = Desk::new();
    let before = snapshot(desk.folder.path());
    for line in [
        "index --problems --library typo.sqlite",
        "index --export v.safetensors --library typo.sqlite",
        "index --compact --library typo.sqlite",
        "search dog --library typo.sqlite",
        "search dog --group --library typo.sqlite",
    ] {
        desk.fails(line, 1, &["the photo library is not there", "typo.sqlite"]);
    }
    desk.fails("index --library typo.sqlite", 2, &["no folder is known yet"]);
    desk.fails("index missing --library typo.sqlite", 1, &["cannot list the folder", "missing"]);
    desk.fails("index . --library 0.png", 1, &["cannot be a photo"]);
    let names = |files: Vec<(String, Vec<u8>)>| -> Vec<String> {
        files.into_iter().map(|(name, _)| name).collect()
    };
    assert_eq!(names(snapshot(desk.folder.path())), names(before));
}

#[test]
fn an_error_of_a_library_never_advises_to_delete_it() {
    let desk = Desk::new();
    desk.write(
        "text.sqlite",
        "no database, but long enough to be looked at twice".repeat(9).as_bytes(),
    );
    for line in ["index . --library text.sqlite", "search dog --library text.sqlite"] {
        let output = desk.run(line);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(
            stderr.contains("the photo library cannot be used") && !stderr.contains("delete"),
            "{stderr}"
        );
    }
}

#[test]
fn towers_are_exported_for_other_libraries() {
    let desk = Desk::new();
    let output = desk.run("export --layout open-clip --out clip");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(stdout.contains("local-dir:clip\""), "{stdout}");
    assert!(stderr.contains("text tower") && stderr.contains("wrote clip"), "{stderr}");
    let told = desk.json("export --layout hf --dtype f16 --out towers");
    for file in ["vision/config.json", "vision/model.safetensors", "language/tokenizer.json"] {
        assert!(desk.path("towers").join(file).is_file(), "{file}: {told}");
        assert!(told["files"].as_array().expect("a list").contains(&file.into()), "{told}");
    }
    // The program's own import takes both towers back, with the same weights.
    let back = "import --vision towers/vision --language towers/language --out back --dtype f16";
    let output = desk.run(back);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let vectors = |model: &str| {
        let bytes = fs::read(desk.path(model).join("model.safetensors")).expect("weights");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("whole");
        let name = "visual.transformer.resblocks.0.mlp.c_fc.weight";
        file.tensor(name).expect("the tensor").data().to_vec()
    };
    assert!(desk.run("export --dtype f16 --out f16").status.success());
    assert_eq!(vectors("back"), vectors("f16"));

    desk.fails("export --out no", 2, &["--dtype"]);
    desk.fails("export --layout hf --data a.tar --out no", 2, &["--data"]);
    desk.fails("export --layout hf --dtype q8 --out no", 1, &["8 or 4 bits", "--dtype f32 or f16"]);
    assert!(!desk.path("no").exists());
}
