//! Watches folders for changes.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::{LibraryError, Result};

/// An update starts once no change has come for this long, so that files are complete.
const QUIET: Duration = Duration::from_millis(800);
/// Interval of checks for the return of a removed folder; the system does not report it.
const ASK: Duration = Duration::from_secs(3);

/// Changes below folders, since [`Changes::below`] was called.
pub struct Changes {
    roots: Vec<PathBuf>,
    watcher: RecommendedWatcher,
    told: Receiver<()>,
}

impl Changes {
    /// Starts watching.
    ///
    /// # Errors
    /// When the system cannot watch a folder.
    pub fn below(roots: &[PathBuf]) -> Result<Self> {
        let (sender, told) = channel();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading a file does not change it.
            if !event.as_ref().is_ok_and(|event| event.kind.is_access()) {
                let _ = sender.send(());
            }
        })?;
        let mut changes = Self { roots: roots.to_vec(), watcher, told };
        changes.watch()?;
        Ok(changes)
    }

    /// Watches the folders that exist under these paths now.
    fn watch(&mut self) -> Result<()> {
        for root in self.roots.iter().filter(|root| root.exists()) {
            let _ = self.watcher.unwatch(root);
            self.watcher
                .watch(root, RecursiveMode::Recursive)
                .map_err(|source| LibraryError::WatchFolder { folder: root.clone(), source })?;
        }
        Ok(())
    }

    /// Calls `update` after changes, until it fails or the program ends.
    ///
    /// # Errors
    /// When the system cannot watch a folder, or `update` fails.
    pub fn follow<E: From<LibraryError>>(
        mut self,
        mut update: impl FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
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
