//! Replaces files safely on every system. Uses the standard library only, so that
//! `tests/windows/run` can also run its tests as a Windows program.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Flushes a complete file to the disk and gives it its name.
///
/// # Errors
/// If the system refuses.
pub(super) fn keep(temporary: &Path, path: &Path) -> io::Result<()> {
    // Windows flushes a file only through a handle that may write.
    OpenOptions::new().write(true).open(temporary)?.sync_all()?;
    rename(temporary, path)?;
    sync_dir(path.parent())
}

/// Renames a file or folder, over an existing file too.
///
/// Windows refuses while another program has the file, or one in the folder, open. Virus scanners
/// and search services open new files for a moment, so this tries again for 3 seconds.
///
/// # Errors
/// If the system refuses.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    const PAUSES_MS: [u64; 7] = [10, 50, 100, 300, 500, 1_000, 1_000];
    let pauses = if cfg!(windows) { PAUSES_MS.as_slice() } else { &[] };
    retried(pauses, || fs::rename(from, to))
}

/// Runs `work`, and again after each pause while another program has its file open.
fn retried(pauses_ms: &[u64], mut work: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    for pause in pauses_ms {
        match work() {
            Err(error) if is_in_use(&error) => thread::sleep(Duration::from_millis(*pause)),
            done => return done,
        }
    }
    work()
}

/// Whether Windows may have refused because another program has the file open.
fn is_in_use(error: &io::Error) -> bool {
    // ERROR_SHARING_VIOLATION, ERROR_LOCK_VIOLATION
    let is_violation = cfg!(windows) && matches!(error.raw_os_error(), Some(32 | 33));
    is_violation || error.kind() == io::ErrorKind::PermissionDenied
}

/// Makes a rename in `folder` survive a power cut, if the system supports it.
///
/// # Errors
/// If the folder cannot be opened or flushed.
pub fn sync_dir(folder: Option<&Path>) -> io::Result<()> {
    match folder {
        Some(folder) if cfg!(unix) && !folder.as_os_str().is_empty() => {
            File::open(folder)?.sync_all()
        }
        _ => Ok(()),
    }
}

/// A temporary name beside a file: it contains the process id and fits the limit of the disk.
pub(super) fn temporary_name(path: &Path) -> OsString {
    /// Longest name in bytes on nearly every disk.
    const LONGEST: usize = 255;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    let ending = format!(".{}.tmp", std::process::id());
    if name.len() + ending.len() > LONGEST {
        let short: String = name.to_string_lossy().chars().take(40).collect();
        name = short.into();
    }
    name.push(ending);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_in_use_is_tried_again_and_other_failures_are_not() {
        let check = |fails: &[io::ErrorKind], wanted: Result<usize, io::ErrorKind>| {
            let mut n_tries = 0;
            let done = retried(&[0, 0], || {
                n_tries += 1;
                fails.get(n_tries - 1).map_or(Ok(()), |kind| Err((*kind).into()))
            });
            assert_eq!(done.map(|()| n_tries).map_err(|error| error.kind()), wanted);
        };
        let (denied, missing) = (io::ErrorKind::PermissionDenied, io::ErrorKind::NotFound);
        check(&[], Ok(1));
        check(&[denied], Ok(2));
        check(&[denied, denied], Ok(3));
        check(&[denied, denied, denied], Err(denied));
        check(&[missing], Err(missing));
        check(&[denied, missing], Err(missing));
    }

    /// Writes a file and a new version of it under a temporary name, runs `before` with the file's
    /// path, and replaces the file.
    fn check(name: &str, before: impl FnOnce(&Path)) {
        let folder = std::env::temp_dir().join(format!("mmgem replace ü {}", std::process::id()));
        fs::create_dir_all(&folder).expect("writable");
        let path = folder.join(name);
        let temporary = folder.join(temporary_name(&path));
        fs::write(&path, "old").and_then(|()| fs::write(&temporary, "new")).expect("writable");
        before(&path);
        keep(&temporary, &path).expect("the file is replaced");
        assert_eq!(fs::read_to_string(&path).expect("readable"), "new");
        assert!(!temporary.exists());
        fs::remove_file(&path).expect("writable");
        // Fails while another test uses the folder.
        let _ = fs::remove_dir(&folder);
    }

    #[test]
    fn a_new_version_replaces_a_file() {
        check("a b.json", |_| {});
    }

    #[test]
    #[cfg(windows)]
    fn a_file_that_a_virus_scanner_reads_is_replaced_afterwards() {
        use std::os::windows::fs::OpenOptionsExt;
        check("scanned.json", |path| {
            let scanner = OpenOptions::new().read(true).share_mode(0).open(path).expect("there");
            assert!(File::open(path).is_err(), "nobody else may open it");
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(200));
                drop(scanner);
            });
        });
    }
}
