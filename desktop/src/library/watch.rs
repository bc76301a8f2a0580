//! Following changes below folders.

use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Context as _, Result};
use notify::{RecursiveMode, Watcher};

/// A change is followed up when this long nothing more has happened, so that files are whole.
const QUIET: Duration = Duration::from_millis(800);

/// Calls `update` after changes below `roots`, until it fails or the program is ended.
///
/// # Errors
/// When the system cannot watch a folder, or `update` fails.
pub fn watch(roots: &[PathBuf], mut update: impl FnMut() -> Result<()>) -> Result<()> {
    let (sender, receiver) = channel();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading a file is no change to it.
        if !event.as_ref().is_ok_and(|event| event.kind.is_access()) {
            let _ = sender.send(());
        }
    })?;
    for root in roots {
        watcher.watch(root, RecursiveMode::Recursive).with_context(|| {
            format!("the folder cannot be watched\n  hint: on Linux, is fs.inotify.max_user_watches large enough?\n  folder: {}", root.display())
        })?;
    }
    while receiver.recv().is_ok() {
        while receiver.recv_timeout(QUIET).is_ok() {}
        update()?;
    }
    Ok(())
}
