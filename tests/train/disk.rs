//! A full disk leaves existing files intact, and the run can be resumed once there is space.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::{Lab, checkpoints, failure, finish, model_bytes};

/// A small file system in memory, unmounted on drop.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Returns `None` if this user or system cannot mount one.
    fn mount(folder: PathBuf, size_bytes: u64) -> Option<Self> {
        fs::create_dir(&folder).expect("writable");
        let is_done = Self::ask("mount", size_bytes, "size", &folder);
        is_done.then_some(Self(folder))
    }

    fn resize(&self, size_bytes: u64) {
        assert!(
            Self::ask("mount", size_bytes, "remount,size", &self.0),
            "a mounted disk can be resized"
        );
    }

    fn ask(program: &str, size_bytes: u64, option: &str, folder: &Path) -> bool {
        let option = format!("{option}={size_bytes}");
        let args = ["-t", "tmpfs", "-o", &option, "tmpfs"];
        let output = Command::new(program).args(args).arg(folder).output();
        cfg!(target_os = "linux") && output.is_ok_and(|output| output.status.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

/// Bytes of all files in a folder.
fn size_of(folder: &Path) -> u64 {
    let entries =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("listed").path());
    entries.map(|path| if path.is_dir() { size_of(&path) } else { size_of_file(&path) }).sum()
}

fn size_of_file(path: &Path) -> u64 {
    // A file occupies whole pages.
    fs::metadata(path).expect("a file").len().next_multiple_of(4096)
}

/// Temporary files of unfinished writes.
fn temporary(folder: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("listed").path());
    let found = entries.flat_map(|path| {
        let is_temporary = path.extension().is_some_and(|ext| ext == "tmp");
        if is_temporary || !path.is_dir() {
            Vec::from_iter(is_temporary.then_some(path))
        } else {
            temporary(&path)
        }
    });
    found.collect()
}

#[test]
fn a_full_disk_costs_nothing_but_the_newest_steps() {
    let lab = Lab::new();
    let whole = lab.config("whole", &[]);
    finish(&whole, false);
    let checkpoint = size_of(&whole.out.join("checkpoints/step-00000006"));

    // There is space for one checkpoint but not for two.
    let Some(disk) = SmallDisk::mount(lab.path("small"), checkpoint + checkpoint / 2) else {
        eprintln!("SKIPPED: a small disk cannot be mounted here; run the test as root on Linux");
        return;
    };
    let config = lab.config_at(&disk.0.join("run"), &[]);
    let error = failure(&config, false);
    for part in
        ["cannot write the file", "space", "hint: free some space", "checkpoints/step-00000004.tmp"]
    {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
    assert_eq!(checkpoints(&config), [2]);
    assert!(temporary(&config.out).is_empty());
    // While the disk is full, the run fails in the same way and still damages nothing.
    assert!(failure(&config, true).contains("hint: free some space"));
    assert_eq!(checkpoints(&config), [2]);

    disk.resize(8 * checkpoint);
    assert_eq!(finish(&config, true).notes[0], "going on after step 2");
    assert!(model_bytes(&config) == model_bytes(&whole));
}

#[test]
fn a_disk_that_is_full_from_the_start_is_an_error() {
    let lab = Lab::new();
    let Some(disk) = SmallDisk::mount(lab.path("small"), 4096) else {
        eprintln!("SKIPPED: a small disk cannot be mounted here; run the test as root on Linux");
        return;
    };
    let config = lab.config_at(&disk.0.join("run"), &[]);
    let error = failure(&config, false);
    assert!(error.contains("hint: free some space") && error.contains("file: "), "{error}");
    assert!(!config.out.exists() || temporary(&config.out).is_empty());
}
