//! A library over real files, with the embedded model.

use std::collections::HashSet;
use std::fs;
use std::io::Cursor;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, SystemTime};

use burn::tensor::Device;
use mmgem_core::image::{Rgb, to_jpeg};
use mmgem_core::index::{Index, Query};
use mmgem_core::session::Session;
use mmgem_scenes::scene;
use tempfile::TempDir;

use super::photos::{FoundPhotos, Root, walk};
use super::*;

/// A folder with drawn photos and a library beside it.
struct Desk {
    folder: TempDir,
    session: Session,
}

/// Stands for the hash of the model.
const FINGERPRINT: u64 = 3;

/// The model that is embedded in the program.
fn embedded_model() -> Session {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/model");
    let read = |name: &str| fs::read(folder.join(name)).expect("a file of the repository");
    let config = String::from_utf8(read("config.json")).expect("JSON");
    let weights = read("model.safetensors");
    let shards = [("model.safetensors", weights.as_slice())];
    Session::open(&config, &shards, &read("tokenizer.json"), &Device::flex())
        .expect("the embedded files belong together")
}

fn drawn(index: u64) -> Rgb {
    let scene = scene(11, index);
    Rgb::from_raw(scene.width, scene.height, scene.rgb).expect("three bytes for each pixel")
}

impl Desk {
    fn new(n_photos: u64) -> Self {
        let desk = Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
            session: embedded_model(),
        };
        fs::create_dir(desk.path("")).expect("writable");
        (0..n_photos).for_each(|index| desk.write(&format!("{index}.png"), &png(&drawn(index))));
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("photos").join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).expect("writable");
    }

    fn library(&self) -> Library {
        self.library_of(FINGERPRINT)
    }

    fn library_of(&self, fingerprint: u64) -> Library {
        let file = self.folder.path().join("library.sqlite");
        Library::open(&file, fingerprint, self.session.config().embed_dim).expect("usable")
    }

    fn update(&self, library: &mut Library) -> Summary {
        let found = walk(&[Root::from(self.path(""))]).expect("the folder is there");
        update(library, &found, Indexing::of(&self.session))
    }

    /// Names of the hits, each with the number of files that have its picture.
    fn search(
        &self,
        library: &Library,
        query: &Rgb,
        wanted: SearchOptions,
    ) -> Vec<(String, usize)> {
        let encoded = self.session.encode_rgb(query);
        let vectors = indexer::embed(&self.session, &encoded).expect("encodes");
        let query = Query::new(&vectors.image.vector(0));
        let found =
            library.search(&library.vector_store().expect("readable"), &query, &wanted, None);
        let name = |path: &Path| path.file_name().expect("a file").to_string_lossy().into_owned();
        let hit = |hit: SearchHit| (name(&hit.path), 1 + hit.duplicates.len());
        found.expect("readable").into_iter().map(hit).collect()
    }
}

/// Updates a library without an observer.
fn update(library: &mut Library, found: &FoundPhotos, indexing: Indexing) -> Summary {
    library.update(found, indexing, &mut ()).expect("the library can be written")
}

fn png(photo: &Rgb) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    photo.write_to(&mut bytes, image::ImageFormat::Png).expect("encodes");
    bytes.into_inner()
}

const FIRST: SearchOptions =
    SearchOptions { skip: 0, k: 1, min_score: -1.0, by_region: false, group: false };

fn done(encoded: usize, recognised: usize, forgotten: usize, unreadable: usize) -> Summary {
    Summary { encoded, recognised, forgotten, unreadable, ..Summary::default() }
}

#[test]
fn only_new_content_is_encoded() {
    let desk = Desk::new(3);
    let mut library = desk.library();
    assert_eq!(desk.update(&mut library), done(3, 0, 0, 0));
    assert_eq!(desk.update(&mut library), done(0, 0, 0, 0));

    fs::rename(desk.path("0.png"), desk.path("moved.png")).expect("writable");
    fs::copy(desk.path("1.png"), desk.path("copy.png")).expect("writable");
    let touched = fs::File::options().write(true).open(desk.path("2.png")).expect("it is there");
    touched.set_modified(SystemTime::now() + Duration::from_secs(9)).expect("writable");
    assert_eq!(desk.update(&mut library), Summary { unchanged: 1, ..done(0, 2, 1, 0) });
    assert_eq!(library.counts().expect("readable"), Counts { photos: 4, problems: 0, in_part: 0 });

    desk.write("2.png", &png(&drawn(7)));
    fs::remove_file(desk.path("copy.png")).expect("writable");
    assert_eq!(desk.update(&mut library), done(1, 0, 1, 0));
    assert_eq!(library.counts().expect("readable"), Counts { photos: 3, problems: 0, in_part: 0 });
}

#[test]
fn a_photo_that_comes_back_is_recognised_until_the_library_is_compacted() {
    let desk = Desk::new(2);
    let mut library = desk.library();
    desk.update(&mut library);
    let bytes = fs::read(desk.path("0.png")).expect("it is there");
    for (compact, wanted) in [(false, done(0, 1, 0, 0)), (true, done(1, 0, 0, 0))] {
        fs::remove_file(desk.path("0.png")).expect("writable");
        assert_eq!(desk.update(&mut library), done(0, 0, 1, 0));
        if compact {
            library.compact().expect("writable");
        }
        desk.write("0.png", &bytes);
        assert_eq!(desk.update(&mut library), wanted, "{compact}");
    }
}

#[test]
fn photos_of_a_folder_that_is_gone_are_dropped_by_compacting() {
    let desk = Desk::new(1);
    let folder = desk.path("more");
    fs::create_dir(&folder).expect("writable");
    desk.write("more/9.png", &png(&drawn(9)));
    let mut library = desk.library();
    assert_eq!(desk.update(&mut library), done(2, 0, 0, 0));
    fs::remove_dir_all(&folder).expect("writable");
    library.compact().expect("writable");
    assert_eq!(library.counts().expect("readable"), Counts { photos: 1, problems: 0, in_part: 0 });
    assert_eq!(
        (library.photos().expect("readable").len(), desk.update(&mut library)),
        (1, done(0, 0, 0, 0))
    );
}

#[test]
fn another_model_stands_beside_and_wipes_nothing() {
    let desk = Desk::new(2);
    desk.update(&mut desk.library());
    let mut other = desk.library_of(77);
    assert_eq!(
        (
            other.vector_store().expect("readable").len(),
            other.photos_of_other_models().expect("readable")
        ),
        (0, 2)
    );
    assert_eq!(desk.update(&mut other), done(2, 0, 0, 0));
    assert_eq!(desk.update(&mut desk.library()), done(0, 0, 0, 0));
    assert_eq!(desk.library().counts().expect("readable").photos, 2);
}

#[test]
fn files_that_cannot_be_read_are_told_once_and_listed() {
    let desk = Desk::new(1);
    desk.write("text.jpg", b"no photo");
    desk.write("new.avif", b"\0\0\0\x18ftypavif\0\0\0\0");
    let mut library = desk.library();
    assert_eq!(desk.update(&mut library), done(1, 0, 0, 2));
    assert_eq!(desk.update(&mut library), done(0, 0, 0, 0));
    let problems = library.problems().expect("readable");
    let told: Vec<_> = problems
        .iter()
        .map(|(path, why)| (path.ends_with("text.jpg"), why.contains("wanted JPEG")))
        .collect();
    assert_eq!(told, [(false, true), (true, true)], "{problems:?}");
    desk.write("text.jpg", &png(&drawn(5)));
    assert_eq!(desk.update(&mut library), done(1, 0, 0, 0));
    assert_eq!(library.counts().expect("readable"), Counts { photos: 2, problems: 1, in_part: 0 });
}

/// A JPEG with the pixels turned, and an EXIF that turns them back.
fn turned(photo: &Rgb) -> Vec<u8> {
    let jpeg = to_jpeg(&image::imageops::rotate270(photo), 92);
    let exif =
        b"\xff\xe1\0\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    [&jpeg[..2], exif, &jpeg[2..]].concat()
}

#[test]
fn every_file_is_a_hit_and_a_picture_that_is_stored_again_is_one_only_if_that_is_asked() {
    let desk = Desk::new(6);
    let photo = drawn(3);
    fs::copy(desk.path("3.png"), desk.path("3 copy.png")).expect("writable");
    let smaller = mmgem_core::image::resize(&photo, photo.width() * 2 / 3, photo.height() * 2 / 3);
    desk.write("3 small.png", &png(&smaller));
    desk.write("3 poor.jpg", &to_jpeg(&photo, 30));
    desk.write("3 turned.jpg", &turned(&photo));
    // A picture that differs in one place only.
    let mut dotted = photo.clone();
    for (x, y) in (0..36).map(|i| (100 + i % 6, 80 + i / 6)) {
        dotted.get_pixel_mut(x, y).0 = dotted.get_pixel(x, y).0.map(|level| level ^ 0x80);
    }
    desk.write("3 dotted.png", &png(&dotted));
    let mut library = desk.library();
    assert_eq!(desk.update(&mut library), done(10, 1, 0, 0));
    assert_eq!(library.n_not_compared().expect("readable"), 0);

    let all = SearchOptions { k: 99, ..FIRST };
    let hits = desk.search(&library, &photo, all);
    assert_eq!(hits.len(), 11, "{hits:?}");
    let paged: Vec<_> = (0..6)
        .flat_map(|page| {
            desk.search(&library, &photo, SearchOptions { skip: 2 * page, k: 2, ..FIRST })
        })
        .collect();
    assert_eq!(paged, hits);

    let groups = desk.search(&library, &photo, SearchOptions { group: true, ..all });
    let sizes: Vec<usize> = groups.iter().map(|hit| hit.1).filter(|n| *n > 1).collect();
    assert_eq!((groups.len(), sizes), (7, vec![5]), "{groups:?}");
    assert!(groups.iter().any(|hit| *hit == ("3 dotted.png".into(), 1)));
    let paged: Vec<_> = (0..7)
        .flat_map(|skip| {
            desk.search(&library, &photo, SearchOptions { skip, k: 1, group: true, ..FIRST })
        })
        .collect();
    assert_eq!(paged, groups);
    let near = desk.search(&library, &photo, SearchOptions { min_score: 0.999, ..all });
    assert!(!near.is_empty() && near.len() < hits.len(), "{near:?}");
}

#[test]
fn families_stay_as_they_are_and_are_found_in_an_earlier_programs_library() {
    let desk = Desk::new(3);
    desk.write("1 poor.jpg", &to_jpeg(&drawn(1), 40));
    let mut library = desk.library();
    desk.update(&mut library);
    let families = |library: &Library| {
        let photos = library.photos().expect("readable");
        let mut families: Vec<_> =
            photos.values().map(|photo| (photo.paths[0].clone(), photo.family)).collect();
        families.sort();
        families
    };
    let before = families(&library);
    assert_eq!(
        before.iter().map(|(_, family)| *family).collect::<HashSet<_>>().len(),
        3,
        "{before:?}"
    );
    desk.write("1 poorer.jpg", &to_jpeg(&drawn(1), 30));
    assert_eq!(desk.update(&mut library), done(1, 0, 0, 0));
    let after = families(&library);
    assert!(before.iter().all(|known| after.contains(known)), "{before:?} {after:?}");
    let of_one = |families: &[(PathBuf, Option<i64>)]| {
        families.iter().find(|(path, _)| path.ends_with("1.png")).expect("it is there").1
    };
    assert_eq!(
        after.iter().filter(|(_, family)| *family == of_one(&before)).count(),
        3,
        "{after:?}"
    );

    library.db.execute_batch("UPDATE content SET family = NULL").expect("writable");
    assert_eq!(library.n_not_compared().expect("readable"), 5);
    // A photo that cannot be read now is compared the next time.
    fs::rename(desk.path("1.png"), desk.path("away")).expect("writable");
    fs::rename(desk.path("1 poor.jpg"), desk.path("away too")).expect("writable");
    let relate = |library: &mut Library| {
        library.find_duplicates(&mut |_| ControlFlow::Continue(())).expect("readable")
    };
    assert!(relate(&mut library) < 5);
    fs::rename(desk.path("away"), desk.path("1.png")).expect("writable");
    fs::rename(desk.path("away too"), desk.path("1 poor.jpg")).expect("writable");
    relate(&mut library);
    assert_eq!(library.n_not_compared().expect("readable"), 0);
    let sizes = |families: Vec<(PathBuf, Option<i64>)>| {
        let mut sizes = std::collections::HashMap::new();
        families.into_iter().for_each(|(_, family)| *sizes.entry(family).or_insert(0) += 1);
        let mut sizes: Vec<i32> = sizes.into_values().collect();
        sizes.sort_unstable();
        sizes
    };
    assert_eq!(sizes(families(&library)), [1, 1, 3]);
}

#[test]
#[cfg(unix)]
fn a_file_is_read_again_when_anything_about_it_changed() {
    let desk = Desk::new(2);
    let mut library = desk.library();
    desk.update(&mut library);
    let file = desk.path("0.png");
    let modified = fs::metadata(&file).expect("it is there").modified().expect("told");
    let put_back = || {
        let opened = fs::File::options().write(true).open(&file).expect("it is there");
        opened.set_modified(modified).expect("writable");
    };
    // Other bytes of the same length, under the old date.
    let bytes = fs::read(&file).expect("readable");
    let other = png(&drawn(9));
    let end = vec![0; bytes.len().saturating_sub(other.len())];
    let cut = bytes.len().min(other.len());
    fs::write(&file, [&other[..cut], &end].concat()).expect("writable");
    put_back();
    let changed = desk.update(&mut library);
    assert_eq!(changed.encoded + changed.unreadable, 1, "{changed:?}");
    fs::write(&file, &bytes).expect("writable");
    put_back();
    desk.update(&mut library);
    assert_eq!(desk.update(&mut library), done(0, 0, 0, 0));
    let mut permissions = fs::metadata(&file).expect("it is there").permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&file, permissions).expect("writable");
    assert_eq!(desk.update(&mut library), Summary { unchanged: 1, ..done(0, 0, 0, 0) });
    let rescan = Indexing { rescan: true, ..Indexing::of(&desk.session) };
    let found = walk(&[Root::from(desk.path(""))]).expect("the folder is there");
    assert_eq!(update(&mut library, &found, rescan), Summary { unchanged: 2, ..done(0, 0, 0, 0) });
    assert_eq!(desk.update(&mut library), done(0, 0, 0, 0));
}

#[test]
fn what_could_not_be_opened_is_tried_each_time_and_stays_a_hit_if_it_was_one() {
    let desk = Desk::new(2);
    let mut library = desk.library();
    desk.update(&mut library);
    // No user can open a folder as a file, so a folder takes the file's place.
    let found = walk(&[Root::from(desk.path(""))]).expect("the folder is there");
    let (file, away) = (desk.path("0.png"), desk.folder.path().join("away"));
    fs::rename(&file, &away).expect("writable");
    fs::create_dir(&file).expect("writable");
    let update = |library: &mut Library| update(library, &found, Indexing::of(&desk.session));
    for _ in 0..2 {
        assert_eq!(update(&mut library), done(0, 0, 0, 1));
        assert_eq!(
            library.counts().expect("readable"),
            Counts { photos: 2, problems: 1, in_part: 0 }
        );
        assert_eq!(desk.search(&library, &drawn(0), SearchOptions { k: 9, ..FIRST }).len(), 2);
    }
    fs::remove_dir(&file).expect("writable");
    fs::rename(&away, &file).expect("writable");
    assert_eq!(update(&mut library), Summary { unchanged: 1, ..done(0, 0, 0, 0) });
    assert_eq!(library.counts().expect("readable"), Counts { photos: 2, problems: 0, in_part: 0 });
}

#[test]
fn a_program_that_reads_more_tries_again_what_an_earlier_one_could_not_read() {
    let desk = Desk::new(1);
    desk.write("text.jpg", b"no photo");
    let mut library = desk.library();
    assert_eq!(desk.update(&mut library), done(1, 0, 0, 1));
    assert_eq!(desk.update(&mut library), done(0, 0, 0, 0));
    library.db.execute_batch("UPDATE file SET readers = readers - 1").expect("writable");
    assert_eq!(desk.update(&mut library), done(0, 0, 0, 1));
}

#[test]
fn dates_come_from_the_best_source_and_say_which() {
    let desk = Desk::new(0);
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let write = |name: &str, bytes: &[u8]| {
        desk.write(name, bytes);
        let file = fs::File::options().write(true).open(desk.path(name)).expect("it is there");
        file.set_modified(old).expect("writable");
    };
    write("plain.png", &png(&drawn(0)));
    write("IMG-20130809-WA0001.png", &png(&drawn(1)));
    write("IMG-20130810-WA0001.png", &png(&drawn(2)));
    write("IMG-20130810-WA0001.png.json", br#"{"photoTakenTime": {"timestamp": "1620302405"}}"#);
    let mut library = desk.library();
    assert_eq!(desk.update(&mut library), done(3, 0, 0, 0));
    let dates = |library: &Library| {
        let photos = library.photos().expect("readable");
        let told = |photo: &Photo| {
            format!("{} {}", second_in_words(photo.taken.secs), photo.taken.from.as_str())
        };
        let mut told: Vec<String> = photos.values().map(told).collect();
        told.sort();
        told
    };
    let (of_name, of_file) = ("2013-08-09T00:00:00 name", "2023-11-14T22:13:20 file");
    assert_eq!(dates(&library), [of_name, "2021-05-06T12:00:05 takeout", of_file]);

    // A sidecar that appears later is read; one that disappears is noticed.
    write("plain.png.xmp", b"<x:xmpmeta><a xmp:CreateDate='2019-01-02T03:04:05'/></x:xmpmeta>");
    assert_eq!(desk.update(&mut library), Summary { unchanged: 1, ..done(0, 0, 0, 0) });
    assert_eq!(
        dates(&library),
        [of_name, "2019-01-02T03:04:05 sidecar", "2021-05-06T12:00:05 takeout"]
    );
    fs::remove_file(desk.path("plain.png.xmp")).expect("writable");
    desk.update(&mut library);
    assert_eq!(dates(&library), [of_name, "2021-05-06T12:00:05 takeout", of_file]);

    // The metadata of a photo without a date are read again if an earlier version wrote them.
    library
        .db
        .execute_batch("UPDATE content SET facts = NULL; UPDATE file SET taken_secs = NULL")
        .expect("writable");
    assert_eq!(desk.update(&mut library), Summary { unchanged: 3, ..done(0, 0, 0, 0) });
    assert_eq!(dates(&library), [of_name, "2021-05-06T12:00:05 takeout", of_file]);
}

#[test]
fn a_region_is_found_in_the_photo_that_has_it() {
    let desk = Desk::new(5);
    let mut library = desk.library();
    desk.update(&mut library);
    let encoded = desk.session.encode_rgb(&drawn(2));
    let vectors = indexer::embed(&desk.session, &encoded).expect("encodes");
    let query = Query::new(&vectors.regions.vector(6));
    let wanted = SearchOptions { by_region: true, ..FIRST };
    let store = library.vector_store().expect("readable");
    let found = library.search(&store, &query, &wanted, None).expect("readable");
    assert!(found[0].path.ends_with("2.png"));
    assert_eq!(found[0].box_px, Some(vectors.boxes[6]));
    assert!(found[0].score.is_some_and(|score| score > 0.999));
}

#[test]
fn what_is_exported_saves_the_encoding_elsewhere() {
    let desk = Desk::new(3);
    let mut library = desk.library();
    desk.update(&mut library);
    let bytes = library.to_index().expect("readable").to_bytes();
    let index = Index::from_bytes(&bytes).expect("just written");
    assert_eq!((index.photos.len(), index.regions.len()), (3, 3 * 29));
    assert!(index.photos[0].path.ends_with("0.png"));

    let file = desk.folder.path().join("index.safetensors");
    fs::write(&file, &bytes).expect("writable");
    let imported = ImportedIndex::read(&file, FINGERPRINT).expect("of this model");
    assert!(ImportedIndex::read(&file, 5).is_err());
    desk.write("new.png", &png(&drawn(9)));
    let found = walk(&[Root::from(desk.path(""))]).expect("the folder is there");
    let mut elsewhere = Library::in_memory(FINGERPRINT, index.images.dim()).expect("usable");
    let indexing = Indexing { imported: Some(&imported), ..Indexing::of(&desk.session) };
    let summary = update(&mut elsewhere, &found, indexing);
    assert_eq!(summary, done(1, 3, 0, 0));
    let mut again = elsewhere.to_index().expect("readable");
    assert_eq!(again.photos.len(), 4);
    again.photos.truncate(3);
    assert_eq!(again.photos, index.photos);
    assert_eq!(again.images.rows(0..3), index.images);
    assert!(!elsewhere.thumbnail(1).expect("made all the same").is_empty());
}

#[test]
#[cfg(unix)]
fn a_path_in_any_encoding_is_kept() {
    use std::os::unix::ffi::OsStrExt;
    let desk = Desk::new(1);
    let odd = desk.path("").join(std::ffi::OsStr::from_bytes(b"caf\xe9 \n.png"));
    if let Err(error) = fs::rename(desk.path("0.png"), &odd) {
        eprintln!("SKIPPED: this file system refuses paths that are no UTF-8 ({error})");
        return;
    }
    let mut library = desk.library();
    assert_eq!(desk.update(&mut library), done(1, 0, 0, 0));
    let photos = library.photos().expect("readable");
    let kept = &photos.values().next().expect("one photo").paths[0];
    assert!(kept.is_file() && kept.file_name() == odd.file_name());
    assert_eq!(desk.update(&mut library), done(0, 0, 0, 0));
}

#[test]
fn another_programs_file_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let text = folder.path().join("text.sqlite");
    fs::write(&text, "no database, but long enough to be looked at twice".repeat(9))
        .expect("writable");
    let theirs = folder.path().join("theirs.sqlite");
    Connection::open(&theirs)
        .and_then(|db| db.execute_batch("CREATE TABLE t (x)"))
        .expect("writable");
    for file in [text, theirs] {
        let error = Library::open(&file, 1, 8).expect_err("foreign").to_string();
        assert!(
            error.contains("the photo library cannot be used") && error.contains("--library"),
            "{error}"
        );
        assert!(!error.contains("delete"), "{error}");
    }
}

#[test]
fn a_truncated_photo_is_a_hit_and_listed_until_the_rest_is_there() {
    let desk = Desk::new(1);
    let whole = to_jpeg(&drawn(3), 90);
    let half = &whole[..whole.len() / 2];
    desk.write("half.jpg", half);
    desk.write("copy of half.jpg", half);
    let mut library = desk.library();
    let told = desk.update(&mut library);
    assert_eq!(Summary { in_part: 0, ..told }, done(2, 1, 0, 0));
    assert_eq!(told.in_part, 1, "of copies one is read");
    let counts = library.counts().expect("readable");
    assert_eq!(counts, Counts { photos: 3, problems: 0, in_part: 2 });
    let problems = library.problems().expect("readable");
    let names: Vec<_> =
        problems.iter().map(|(path, _)| path.file_name().expect("a name")).collect();
    assert_eq!(names, ["copy of half.jpg", "half.jpg"]);
    assert!(problems.iter().all(|(_, why)| why.contains("JPEG is cut short")), "{problems:?}");
    let photos = library.photos().expect("readable");
    assert_eq!(photos.values().filter(|photo| photo.problem.is_some()).count(), 1);
    // An unchanged photo is not encoded again.
    assert_eq!(desk.update(&mut library), done(0, 0, 0, 0));

    desk.write("half.jpg", &whole);
    assert_eq!(desk.update(&mut library), done(1, 0, 0, 0));
    let problems = library.problems().expect("readable");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].0.ends_with("copy of half.jpg"));
    fs::remove_file(desk.path("copy of half.jpg")).expect("writable");
    desk.update(&mut library);
    let counts = library.counts().expect("readable");
    assert_eq!(counts, Counts { photos: 2, problems: 0, in_part: 0 });
}

#[test]
fn photos_of_an_earlier_version_are_encoded_again_and_nothing_is_lost_meanwhile() {
    let desk = Desk::new(3);
    let mut library = desk.library();
    desk.update(&mut library);
    let earlier = |library: &Library| library.photos_of_earlier_programs().expect("readable");
    assert_eq!(earlier(&library), 0);
    let aged = format!("UPDATE model SET preprocessing = {}", PREPROCESSING - 1);
    library.db.execute_batch(&aged).expect("writable");
    drop(library);

    let mut library = desk.library();
    assert_eq!(earlier(&library), 3);
    let n = |library: &Library, what: &str| -> i64 {
        library
            .db
            .query_row(&format!("SELECT count(*) FROM {what}"), [], |row| row.get(0))
            .expect("a count")
    };
    assert_eq!(desk.update(&mut library), done(3, 0, 0, 0));
    assert_eq!(earlier(&library), 0, "said once");
    // The earlier version still finds its own embeddings.
    assert_eq!(
        (n(&library, "file"), n(&library, "content"), n(&library, "image_vector")),
        (3, 3, 6)
    );
    assert_eq!(library.vector_store().expect("readable").len(), 3);
    // Compacting removes outdated embeddings.
    library.compact().expect("writable");
    assert_eq!((n(&library, "image_vector"), n(&library, "model")), (3, 1));
    assert_eq!(library.vector_store().expect("readable").len(), 3);
}
