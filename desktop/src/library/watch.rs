//! Following changes below folders.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context as _, Result};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

/// A change is followed up when this long nothing more has happened, so that files are whole.
const QUIET: Duration = Duration::from_millis(800);
/// How often it is asked whether a folder is back that was taken away: of that the system tells nothing.
const ASK: Duration = Duration::from_secs(3);

/// Changes below folders, from the moment when this is made.
pub struct Changes {
    roots: Vec<PathBuf>,
    watcher: RecommendedWatcher,
    told: Receiver<()>,
}

impl Changes {
    /// Begins to watch.
    ///
    /// # Errors
    /// When the system cannot watch a folder.
    pub fn below(roots: &[PathBuf]) -> Result<Self> {
        let (sender, told) = channel();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading a file is no change to it.
            if !event.as_ref().is_ok_and(|event| event.kind.is_access()) {
                let _ = sender.send(());
            }
        })?;
        let mut changes = Self { roots: roots.to_vec(), watcher, told };
        changes.watch()?;
        Ok(changes)
    }

    /// Watches the folders that have these names now.
    fn watch(&mut self) -> Result<()> {
        for root in self.roots.iter().filter(|root| root.exists()) {
            let _ = self.watcher.unwatch(root);
            self.watcher.watch(root, RecursiveMode::Recursive).with_context(|| {
                format!("the folder cannot be watched\n  hint: on Linux, is fs.inotify.max_user_watches large enough?\n  folder: {}", crate::names::shown(root))
            })?;
        }
        Ok(())
    }

    /// Calls `update` after changes, until it fails or the program is ended.
    ///
    /// # Errors
    /// When the system cannot watch a folder, or `update` fails.
    pub fn follow(mut self, mut update: impl FnMut() -> Result<()>) -> Result<()> {
        let mut lost = false;
        loop {
            let told =
                if lost { self.told.recv_timeout(ASK).is_ok() } else { self.told.recv().is_ok() };
            while self.told.recv_timeout(QUIET).is_ok() {}
            let there = self.roots.iter().all(|root| root.exists());
            if lost && there {
                self.watch()?;
            }
            if told || there {
                lost = !there;
                update()?;
            }
        }
    }
}
