//! A search with a vector file equals a search without one, whatever happened in between.

use std::sync::Barrier;
use std::thread;

use mmgem_core::index::Hit;
use tempfile::TempDir;

use super::*;

const DIM: usize = 5;

/// A library of example photos in a folder of its own.
struct Desk {
    folder: TempDir,
}

impl Desk {
    fn new(n_photos: usize) -> Self {
        let desk = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        desk.library().add_examples(n_photos).expect("writable");
        desk
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("l é.sqlite")
    }

    fn library(&self) -> Library {
        Library::open(&self.path(), 1, DIM).expect("usable")
    }

    fn vector_files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.path()).expect("readable");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths.filter(|path| path.to_string_lossy().contains(ENDING)).collect()
    }
}

/// Whether a library is searched through a vector file; checks that it is searched correctly.
fn is_mapped(library: &Library) -> bool {
    let store = library.vector_store_from(1).expect("readable");
    let read = library.read_store(None).expect("readable");
    let scores = |store: &VectorStore| {
        let query = Query::new(&[0.5, -0.1, 0.7, 0.2, -0.4]);
        let hits = store.scores(&query).into_iter();
        hits.map(|Hit { row, score }| (row, store.content(row), score)).collect::<Vec<_>>()
    };
    assert_eq!(scores(&store), scores(&read));
    let contents =
        |store: &VectorStore| (-1..60).filter(|content| store.has(*content)).collect::<Vec<_>>();
    assert_eq!(contents(&store), contents(&read));
    store.mapped.is_some()
}

/// Changes a library that has a vector file, through the program or as another program would, and
/// expects the changes to be seen beside the file.
fn check_change(change: impl Fn(&mut Library)) {
    let desk = Desk::new(40);
    let mut library = desk.library();
    assert!(is_mapped(&library));
    let files = desk.vector_files();
    change(&mut library);
    assert!(is_mapped(&library));
    drop(library);
    assert!(is_mapped(&desk.library()));
    assert_eq!(desk.vector_files(), files, "so few changes are worth no new file");
}

fn check_statement(sql: &str) {
    check_change(|library| library.db.execute_batch(sql).expect("valid"));
}

#[test]
fn photos_that_were_added_are_found() {
    check_change(|library| library.add_examples(3).expect("writable"));
}

#[test]
fn photos_that_are_gone_are_not_found() {
    check_statement("DELETE FROM file WHERE content IN (1, 7, 40)");
    check_statement("DELETE FROM file");
    check_statement("UPDATE file SET content = NULL WHERE content = 3");
    check_change(|library| {
        library.forget(|path| path.ends_with("00000004.jpg")).expect("writable");
    });
}

#[test]
fn a_photo_that_changed_has_its_new_embedding() {
    check_statement(
        "INSERT OR REPLACE INTO image_vector SELECT 1, 5, scale, codes FROM image_vector
        WHERE content = 6",
    );
    check_statement("UPDATE image_vector SET scale = 0.5 WHERE content IN (1, 40)");
    check_statement("DELETE FROM image_vector WHERE content = 2");
}

#[test]
fn a_file_with_other_content_brings_back_a_photo_and_drops_another() {
    check_statement(
        "DELETE FROM file WHERE content = 8;
        INSERT INTO file (path, size_bytes, modified_ns, content)
            SELECT path, 1, 1, 8 FROM file WHERE content = 9
            ON CONFLICT (path) DO UPDATE SET content = excluded.content;
        UPDATE file SET size_bytes = 9 WHERE content = 8;",
    );
}

#[test]
fn copies_count_until_the_last_is_gone() {
    check_statement(
        "INSERT INTO file (path, size_bytes, modified_ns, content) VALUES ('a', 1, 1, 8)",
    );
    check_statement(
        "INSERT INTO file (path, size_bytes, modified_ns, content) VALUES ('a', 1, 1, 8);
        DELETE FROM file WHERE path != 'a';",
    );
}

#[test]
fn changes_of_another_model_are_not_this_models() {
    let desk = Desk::new(20);
    let mut other = Library::open(&desk.path(), 2, DIM).expect("usable");
    assert!(is_mapped(&desk.library()) && !is_mapped(&other));
    other.add_examples(20).expect("writable");
    assert!(is_mapped(&desk.library()) && is_mapped(&other));
    assert_eq!(desk.vector_files().len(), 2);
    let n_changes = other.db.query_row("SELECT count(*) FROM vector_change", [], |row| row.get(0));
    assert_eq!(n_changes, Ok(20), "files count for every model that has a vector file");
}

#[test]
fn a_damaged_file_is_replaced() {
    type Damage = fn(&Path);
    let damages: [Damage; 5] = [
        |file| fs::remove_file(file).expect("writable"),
        |file| fs::write(file, []).expect("writable"),
        |file| {
            let bytes = fs::read(file).expect("readable");
            fs::write(file, &bytes[..bytes.len() - 1]).expect("writable");
        },
        |file| {
            let mut bytes = fs::read(file).expect("readable");
            bytes.push(0);
            fs::write(file, bytes).expect("writable");
        },
        |file| {
            // A file of the right length with another stamp.
            let mut bytes = fs::read(file).expect("readable");
            bytes[16] ^= 1;
            fs::write(file, bytes).expect("writable");
        },
    ];
    for damage in damages {
        let desk = Desk::new(20);
        assert!(is_mapped(&desk.library()));
        let files = desk.vector_files();
        damage(&files[0]);
        let read_only = Library::for_reading(&desk.path(), 1, DIM).expect("readable");
        assert!(!is_mapped(&read_only));
        drop(read_only);
        assert!(is_mapped(&desk.library()));
        assert_eq!(desk.vector_files().len(), 1);
        assert_ne!(desk.vector_files(), files);
    }
}

#[test]
fn a_library_from_a_backup_does_not_use_a_later_file() {
    let desk = Desk::new(20);
    let backup = desk.folder.path().join("backup");
    fs::copy(desk.path(), &backup).expect("writable");
    assert!(is_mapped(&desk.library()));
    desk.library().add_examples(5).expect("writable");
    fs::copy(&backup, desk.path()).expect("writable");
    desk.library().db.execute_batch("DELETE FROM file WHERE content = 3").expect("valid");
    assert!(is_mapped(&desk.library()));
}

#[test]
fn a_library_that_cannot_be_written_says_why_it_is_slow() {
    let desk = Desk::new(20);
    let read_only = Library::for_reading(&desk.path(), 1, DIM).expect("readable");
    let store = read_only.vector_store_from(1).expect("readable");
    assert!(store.is_slow_because().is_some_and(|why| why.contains("read-only")));
    assert_eq!(read_only.vector_store().expect("readable").is_slow_because(), None, "it is small");
    drop(read_only);
    assert!(is_mapped(&desk.library()));
    let read_only = Library::for_reading(&desk.path(), 1, DIM).expect("readable");
    assert!(is_mapped(&read_only), "the file of another process");

    // A full disk, as far as a test can have one: the file cannot be written.
    let mut library = desk.library();
    library.drop_vector_files().expect("writable");
    library.file = Some(desk.folder.path().join("no such folder/l.sqlite"));
    let store = library.vector_store_from(1).expect("readable");
    assert!(store.is_slow_because().is_some_and(|why| why.contains("cannot be written")));
    assert_eq!((store.len(), desk.vector_files()), (20, vec![]));
}

#[test]
fn a_search_does_not_wait_for_a_process_that_writes() {
    let desk = Desk::new(20);
    let (writer, library) = (desk.library(), desk.library());
    writer.db.execute_batch("BEGIN IMMEDIATE; DELETE FROM file WHERE content = 3").expect("valid");
    let store = library.vector_store_from(1).expect("readable");
    assert!(store.mapped.is_none() && store.is_slow_because().is_some());
    writer.db.execute_batch("COMMIT").expect("valid");
    assert!(is_mapped(&library));
    // The wait for other work is as long as before.
    let wait: i64 =
        library.db.pragma_query_value(None, "busy_timeout", |row| row.get(0)).expect("known");
    assert_eq!(u128::try_from(wait), Ok(BUSY.as_millis()));
}

#[test]
fn a_mapped_file_outlives_its_replacement() {
    let desk = Desk::new(20);
    let library = desk.library();
    let store = library.vector_store_from(1).expect("readable");
    let before = store.scores(&Query::new(&[1.0; DIM]));
    desk.library().drop_vector_files().expect("writable");
    desk.library().add_examples(1).expect("writable");
    assert!(is_mapped(&desk.library()));
    assert_eq!(store.scores(&Query::new(&[1.0; DIM])), before);
    assert!(is_mapped(&library));
}

#[test]
fn many_changes_are_written_into_a_new_file() {
    let desk = Desk::new(20);
    let mut library = desk.library();
    assert!(is_mapped(&library));
    let files = desk.vector_files();
    library.add_examples(most_changes(20)).expect("writable");
    assert!(is_mapped(&library));
    assert_eq!(desk.vector_files(), files);
    library.add_examples(1).expect("writable");
    assert!(is_mapped(&library));
    assert_ne!(desk.vector_files(), files);
    assert_eq!(library.changes().expect("readable").contents, []);
}

#[test]
fn only_files_that_no_library_names_are_removed() {
    let desk = Desk::new(20);
    let left = vector_file(&desk.path(), 7);
    let own = with_ending(&desk.path(), "-vectors-of-mine");
    let neighbour = vector_file(&desk.folder.path().join("m.sqlite"), 7);
    for file in [&left, &own, &neighbour] {
        fs::write(file, "half").expect("writable");
    }
    assert!(is_mapped(&desk.library()));
    assert_eq!([&left, &own, &neighbour].map(|file| file.exists()), [false, true, true]);
    let mut library = desk.library();
    library.compact().expect("writable");
    // The example photos do not exist, so compacting drops them.
    assert!(!is_mapped(&library));
    assert_eq!(desk.vector_files().len(), 2, "the others");
}

#[test]
fn a_small_library_has_no_vector_file() {
    let desk = Desk::new(20);
    let library = desk.library();
    assert!(library.vector_store_from(21).expect("readable").mapped.is_none());
    library.refresh_vector_file().expect("readable");
    assert_eq!(desk.vector_files(), Vec::<PathBuf>::new());
    let memory = Library::in_memory(1, DIM).expect("usable");
    assert_eq!(memory.vector_store_from(0).expect("readable").len(), 0);
}

#[test]
fn processes_that_search_and_index_at_once_agree() {
    let desk = Desk::new(20);
    let start = Barrier::new(4);
    thread::scope(|scope| {
        for worker in 0..4 {
            let (desk, start) = (&desk, &start);
            scope.spawn(move || {
                let mut library = desk.library();
                start.wait();
                for _ in 0..10 {
                    if worker == 0 {
                        library.add_examples(3).expect("writable");
                        library.drop_vector_files().expect("writable");
                    }
                    // Three photos are written at once, so every search sees all of them.
                    let n = library.vector_store_from(1).expect("readable").len();
                    assert_eq!(n % 3, 20 % 3, "{n}");
                }
            });
        }
    });
    assert!(is_mapped(&desk.library()));
    assert_eq!(desk.vector_files().len(), 1);
}
