//! Opens photos in other programs and shows them in their folder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use crate::library::simplified_path;

/// Opens a photo with the system's default program.
///
/// # Errors
/// When no program could be started.
pub fn open_photo(path: &Path) -> Result<(), String> {
    open::that_detached(simplified_path(path))
        .map_err(|error| format!("No program could be started for it: {error}"))
}

/// Folders that are opened at once; more would fill the screen.
const MOST_FOLDERS: usize = 5;

/// Shows photos in their folders, selected if the system supports that. Runs on its own thread,
/// because starting a program is slow.
pub fn reveal(paths: Vec<PathBuf>) {
    thread::spawn(move || {
        for path in one_a_folder(&paths) {
            let path = simplified_path(path);
            if !select_in_folder(&path)
                && let Some(folder) = path.parent()
            {
                let _ = open::that_detached(folder);
            }
        }
    });
}

/// The first path of each folder, for the first few folders.
fn one_a_folder(paths: &[PathBuf]) -> Vec<&Path> {
    let mut firsts: Vec<&Path> = Vec::new();
    for path in paths {
        if !firsts.iter().any(|first| first.parent() == path.parent()) {
            firsts.push(path);
        }
        if firsts.len() == MOST_FOLDERS {
            break;
        }
    }
    firsts
}

#[cfg(target_os = "macos")]
fn select_in_folder(path: &Path) -> bool {
    runs(Command::new("open").arg("-R").arg(path))
}

#[cfg(windows)]
fn select_in_folder(path: &Path) -> bool {
    use std::os::windows::process::CommandExt;
    // Explorer needs quotes around the path alone, but `arg` would quote the whole argument.
    let mut select = std::ffi::OsString::from("/select,\"");
    select.push(path);
    select.push("\"");
    // Its exit code does not report success.
    Command::new("explorer").raw_arg(select).spawn().is_ok()
}

#[cfg(not(any(windows, target_os = "macos")))]
fn select_in_folder(path: &Path) -> bool {
    runs(Command::new("dbus-send").args([
        "--session",
        "--print-reply",
        "--reply-timeout=2000",
        "--dest=org.freedesktop.FileManager1",
        "/org/freedesktop/FileManager1",
        "org.freedesktop.FileManager1.ShowItems",
        &format!("array:string:{}", crate::names::file_uri(path)),
        "string:",
    ]))
}

#[cfg(not(windows))]
fn runs(command: &mut Command) -> bool {
    use std::process::Stdio;
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_folder_is_opened_once_and_not_too_many() {
        let check = |paths: &[&str], wanted: &[&str]| {
            let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
            let wanted: Vec<&Path> = wanted.iter().map(Path::new).collect();
            assert_eq!(one_a_folder(&paths), wanted);
        };
        check(&["/a/1", "/a/2", "/b/3", "/a/4"], &["/a/1", "/b/3"]);
        check(
            &["/1/x", "/2/x", "/3/x", "/4/x", "/5/x", "/6/x"],
            &["/1/x", "/2/x", "/3/x", "/4/x", "/5/x"],
        );
        check(&[], &[]);
    }
}
