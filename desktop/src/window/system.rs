//! Opens photos in other programs and shows them in their folder.

use std::path::Path;
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

/// Shows a photo in its folder, selected if the system supports that. Runs on its own thread,
/// because starting a program is slow.
pub fn reveal(path: &Path) {
    let path = simplified_path(path);
    thread::spawn(move || {
        if !select_in_folder(&path)
            && let Some(folder) = path.parent()
        {
            let _ = open::that_detached(folder);
        }
    });
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
