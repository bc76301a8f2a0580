//! A library over real files, with the embedded model.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use mmgem_core::image::Rgb;
use mmgem_core::index::{Index, Query};
use mmgem_core::scenes::scene;
use tempfile::TempDir;

use super::*;
use crate::context::Context;
use crate::device::{DeviceChoice, open_device};
use crate::draw::png_bytes;
use crate::model::ModelFiles;
use crate::photos::walk;

/// A folder with drawn photos, and a library beside it.
struct Desk {
    folder: TempDir,
    context: Context,
}

fn drawn(index: u64) -> Rgb {
    let scene = scene(11, index);
    Rgb::from_raw(scene.width, scene.height, scene.rgb).expect("three bytes for each pixel")
}

impl Desk {
    fn new(n_photos: u64) -> Self {
        let files = ModelFiles::read(None).expect("embedded");
        let cpu = open_device(DeviceChoice::Cpu).expect("there is always a CPU");
        let context = Context {
            session: files.open(&cpu).expect("the embedded files belong together"),
            fingerprint: files.fingerprint(),
            model_name: files.name,
            device_name: "cpu".into(),
            is_cpu: true,
            quiet: true,
            json: false,
            strict: false,
        };
        let desk = Self { folder: tempfile::tempdir().expect("a temporary folder"), context };
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
        self.library_of(self.context.fingerprint)
    }

    fn library_of(&self, fingerprint: u64) -> Library {
        let file = self.folder.path().join("library.sqlite");
        Library::open(&file, fingerprint, self.context.session.config().embed_dim).expect("usable")
    }

    fn update(&self, library: &mut Library) -> Summary {
        let found = walk(&[self.path("")], &[], true).expect("the folder is there");
        library.update(&found, None, &self.context).expect("some photo can be read")
    }

    /// Names and copies of the hits.
    fn search(&self, library: &Library, query: &Rgb, wanted: Wanted) -> Vec<(String, usize)> {
        let encoded = self.context.session.encode_rgb(query);
        let vectors = fill::embed(&self.context, &encoded).expect("encodes");
        let query = Query::new(&vectors.image.vector(0));
        let found = library.search(&library.shelf().expect("readable"), &query, &wanted, None);
        let name = |path: &Path| path.file_name().expect("a file").to_string_lossy().into_owned();
        let hit = |hit: Found| (name(&hit.photo.paths[0]), hit.photo.paths.len() + hit.similar.len());
        found.expect("readable").into_iter().map(hit).collect()
    }
}

fn png(photo: &Rgb) -> Vec<u8> {
    png_bytes(photo).expect("encodes")
}

const FIRST: Wanted = Wanted { skip: 0, k: 1, min_score: -1.0, by_region: false };

fn done(encoded: usize, recognised: usize, forgotten: usize, unreadable: usize) -> Summary {
    Summary { encoded, recognised, forgotten, unreadable }
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
    assert_eq!(desk.update(&mut library), done(0, 3, 1, 0));
    assert_eq!(library.counts().expect("readable"), Counts { photos: 4, problems: 0 });

    desk.write("2.png", &png(&drawn(7)));
    fs::remove_file(desk.path("copy.png")).expect("writable");
    assert_eq!(desk.update(&mut library), done(1, 0, 1, 0));
    assert_eq!(library.counts().expect("readable"), Counts { photos: 3, problems: 0 });
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
    assert_eq!(library.counts().expect("readable"), Counts { photos: 1, problems: 0 });
    assert_eq!((library.photos().expect("readable").len(), desk.update(&mut library)), (1, done(0, 0, 0, 0)));
}

#[test]
fn another_model_stands_beside_and_wipes_nothing() {
    let desk = Desk::new(2);
    desk.update(&mut desk.library());
    let mut other = desk.library_of(77);
    assert_eq!(
        (other.shelf().expect("readable").len(), other.photos_of_other_models().expect("readable")),
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
    assert_eq!(library.counts().expect("readable"), Counts { photos: 2, problems: 1 });
}

#[test]
fn copies_and_near_duplicates_are_one_hit() {
    let desk = Desk::new(6);
    fs::copy(desk.path("3.png"), desk.path("3 copy.png")).expect("writable");
    let photo = drawn(3);
    let smaller = mmgem_core::image::resize(&photo, photo.width() / 2, photo.height() / 2);
    desk.write("3 small.png", &png(&smaller));
    let mut library = desk.library();
    assert_eq!(desk.update(&mut library), done(7, 1, 0, 0));
    let hits = desk.search(&library, &photo, FIRST);
    assert_eq!(hits[0].1, 3, "{hits:?}");
    let all = desk.search(&library, &photo, Wanted { k: 99, ..FIRST });
    assert_eq!((all.len(), all.iter().map(|hit| hit.1).sum::<usize>()), (6, 8), "{all:?}");
    let paged: Vec<_> = (0..3)
        .flat_map(|page| desk.search(&library, &photo, Wanted { skip: 2 * page, k: 2, ..FIRST }))
        .collect();
    assert_eq!(paged, all);
    let near = desk.search(&library, &photo, Wanted { k: 99, min_score: 0.999, ..FIRST });
    assert!(!near.is_empty() && near.len() < all.len(), "{near:?}");
}

#[test]
fn a_region_is_found_in_the_photo_that_has_it() {
    let desk = Desk::new(5);
    let mut library = desk.library();
    desk.update(&mut library);
    let encoded = desk.context.session.encode_rgb(&drawn(2));
    let vectors = fill::embed(&desk.context, &encoded).expect("encodes");
    let query = Query::new(&vectors.regions.vector(6));
    let wanted = Wanted { by_region: true, ..FIRST };
    let shelf = library.shelf().expect("readable");
    let found = library.search(&shelf, &query, &wanted, None).expect("readable");
    assert!(found[0].photo.paths[0].ends_with("2.png"));
    assert_eq!(found[0].box_px, Some(vectors.boxes[6]));
    assert!(found[0].score > 0.999);
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
    let donor = Donor::read(&file, desk.context.fingerprint).expect("of this model");
    assert!(Donor::read(&file, 5).is_err());
    desk.write("new.png", &png(&drawn(9)));
    let found = walk(&[desk.path("")], &[], true).expect("the folder is there");
    let mut elsewhere = Library::in_memory(desk.context.fingerprint, index.images.dim()).expect("usable");
    let summary = elsewhere.update(&found, Some(&donor), &desk.context).expect("readable");
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
fn a_library_of_an_earlier_program_gains_what_it_lacks() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("l.sqlite");
    drop(Library::open(&file, 1, 8).expect("usable"));
    let earlier = "DROP TABLE text_vector; DROP TABLE cutoff;";
    Connection::open(&file).and_then(|db| db.execute_batch(earlier)).expect("writable");
    let library = Library::open(&file, 1, 8).expect("usable");
    assert_eq!(
        (library.known("dog").expect("readable"), library.cutoffs().expect("readable")),
        (None, vec![])
    );
}

#[test]
fn another_programs_file_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let text = folder.path().join("text.sqlite");
    fs::write(&text, "no database, but long enough to be looked at twice".repeat(9)).expect("writable");
    let theirs = folder.path().join("theirs.sqlite");
    Connection::open(&theirs).and_then(|db| db.execute_batch("CREATE TABLE t (x)")).expect("writable");
    for file in [text, theirs] {
        let error = format!("{:#}", Library::open(&file, 1, 8).expect_err("foreign"));
        assert!(error.contains("the photo library cannot be used") && error.contains("--library"), "{error}");
    }
}
