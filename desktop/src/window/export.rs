//! Copies selected photos into a folder.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use super::messages::{Event, EventSender};
use crate::names::printable_path;

/// Copies on a thread of its own, because a folder may be on a slow disk.
pub fn start(photos: Vec<PathBuf>, folder: PathBuf, events: EventSender) {
    let run = move || events.send(Event::Exported(copy_into(&photos, &folder)));
    thread::Builder::new().name("export".into()).spawn(run).expect("a thread can be started");
}

/// Copies files into a folder and never replaces one: a copy whose name is taken gets a number.
/// Returns what the user is told.
pub fn copy_into(photos: &[PathBuf], folder: &Path) -> String {
    let mut failed = photos.iter().filter_map(|photo| {
        copy(photo, folder).err().map(|error| format!("{}: {error}", printable_path(photo)))
    });
    let first = failed.next();
    let n_failed = usize::from(first.is_some()) + failed.count();
    let n_done = photos.len() - n_failed;
    let photos = if n_done == 1 { "photo" } else { "photos" };
    let done = format!("Copied {n_done} {photos} to {}", printable_path(folder));
    match first {
        None => done,
        Some(why) => format!("{done}. {n_failed} failed; the first: {why}"),
    }
}

fn copy(photo: &Path, folder: &Path) -> io::Result<()> {
    let mut from = fs::File::open(photo)?;
    for number in 1.. {
        let path = folder.join(numbered(photo, number));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(mut to) => {
                let copied = io::copy(&mut from, &mut to).and_then(|_| {
                    // The date of the file may be all that dates the photo.
                    to.set_modified(from.metadata()?.modified()?)
                });
                // A part of a photo is no copy.
                return copied.inspect_err(|_| _ = fs::remove_file(&path));
            }
        }
    }
    unreachable!("a folder has fewer files than numbers")
}

/// `a.jpg`, then `a (2).jpg`.
fn numbered(photo: &Path, number: usize) -> OsString {
    let name = photo.file_name().unwrap_or_default();
    if number == 1 {
        return name.to_owned();
    }
    let mut numbered = photo.file_stem().unwrap_or_default().to_owned();
    numbered.push(format!(" ({number})"));
    if let Some(extension) = photo.extension() {
        numbered.push(".");
        numbered.push(extension);
    }
    numbered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn photos_are_copied_with_their_dates_and_none_is_replaced() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (a, b, to) =
            (folder.path().join("a"), folder.path().join("b"), folder.path().join("to"));
        for (place, bytes) in [(&a, b"one"), (&b, b"two"), (&to, b"old")] {
            fs::create_dir(place).expect("writable");
            fs::write(place.join("x.jpg"), bytes).expect("writable");
        }
        let date = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        let file = OpenOptions::new().write(true).open(a.join("x.jpg")).expect("there");
        file.set_modified(date).expect("writable");
        let says = copy_into(&[a.join("x.jpg"), b.join("x.jpg")], &to);
        assert_eq!(says, format!("Copied 2 photos to {}", printable_path(&to)));
        let bytes = |name: &str| fs::read(to.join(name)).expect("there");
        assert_eq!(
            [bytes("x.jpg"), bytes("x (2).jpg"), bytes("x (3).jpg")],
            [b"old", b"one", b"two"]
        );
        let copied = fs::metadata(to.join("x (2).jpg")).expect("there");
        assert_eq!(copied.modified().expect("dated"), date);
    }

    #[test]
    fn a_photo_that_cannot_be_copied_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let photo = folder.path().join("a.jpg");
        fs::write(&photo, b"a").expect("writable");
        let to = folder.path().join("to");
        fs::create_dir(&to).expect("writable");
        let says = copy_into(&[folder.path().join("gone.jpg"), photo.clone()], &to);
        assert!(says.starts_with("Copied 1 photo to"), "{says}");
        assert!(says.contains("1 failed; the first:") && says.contains("gone.jpg"), "{says}");
        let says = copy_into(&[photo], &folder.path().join("no folder"));
        assert!(says.starts_with("Copied 0 photos to"), "{says}");
    }
}
