//! What the window remembers, beside the library.

use std::path::{Path, PathBuf};

use anyhow::Result;
use mmgem_data::files::{read, write_atomic};
use serde::{Deserialize, Serialize};

use crate::names::{as_text, given};

/// Dark or light.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Theme {
    /// As the system says; dark where it says nothing.
    #[default]
    System,
    Dark,
    Light,
}

/// Kept from one start to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Folders that were chosen, to look for changes in.
    pub folders: Vec<PathBuf>,
    /// Dark or light.
    pub theme: Theme,
    /// Folder of the model; the embedded one without.
    pub model: Option<PathBuf>,
}

impl Settings {
    /// Those beside a library; the usual ones where there are none, or none that can be read: nothing that
    /// was indexed depends on them.
    pub fn of(library: &Path) -> Self {
        let bytes = read(&file_of(library)).ok();
        let kept: Self =
            bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        kept.with_paths(given)
    }

    /// Writes them. A folder whose name is not UTF-8 is written as its URI: JSON cannot hold it.
    ///
    /// # Errors
    /// When the library's folder cannot be written.
    pub fn write(&self, library: &Path) -> Result<()> {
        let kept = self.clone().with_paths(|path| as_text(&path).into());
        Ok(write_atomic(&file_of(library), &serde_json::to_vec_pretty(&kept)?)?)
    }

    fn with_paths(self, change: impl Fn(PathBuf) -> PathBuf) -> Self {
        let folders = self.folders.into_iter().map(&change).collect();
        Self { folders, model: self.model.map(change), theme: self.theme }
    }

    /// Adds a folder unless it, or one above it, is there already; folders below it go.
    pub fn add_folder(&mut self, folder: PathBuf) {
        if self.folders.iter().any(|known| folder.starts_with(known)) {
            return;
        }
        self.folders.retain(|known| !known.starts_with(&folder));
        self.folders.push(folder);
    }
}

fn file_of(library: &Path) -> PathBuf {
    library.with_extension("window.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_chosen_is_there_at_the_next_start() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let library = folder.path().join("library.sqlite");
        assert_eq!(Settings::of(&library), Settings::default());
        let settings = Settings { folders: vec!["/a b".into()], theme: Theme::Light, model: None };
        settings.write(&library).expect("writable");
        assert_eq!(Settings::of(&library), settings);
        std::fs::write(folder.path().join("library.window.json"), "{").expect("writable");
        assert_eq!(Settings::of(&library), Settings::default());
    }

    #[test]
    #[cfg(unix)]
    fn folders_of_any_name_are_kept() {
        use std::os::unix::ffi::OsStrExt;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let library = folder.path().join("library.sqlite");
        let latin = Path::new(std::ffi::OsStr::from_bytes(b"/caf\xe9")).to_owned();
        let settings =
            Settings { folders: vec![latin.clone()], model: Some(latin), ..Settings::default() };
        settings.write(&library).expect("writable");
        assert_eq!(Settings::of(&library), settings);
    }

    #[test]
    fn a_folder_stands_for_those_below_it() {
        let mut settings = Settings::default();
        for folder in ["/p/2023", "/p/2024", "/q", "/p", "/p/2025"] {
            settings.add_folder(folder.into());
        }
        assert_eq!(settings.folders, [Path::new("/q"), Path::new("/p")]);
    }
}
