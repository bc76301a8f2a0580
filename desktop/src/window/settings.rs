//! The window's settings, saved beside the library.

use std::path::{Path, PathBuf};

use anyhow::Result;
use mmgem_data::files::{read, write_atomic};
use serde::{Deserialize, Serialize};

use crate::names::{as_text, resolve_path};

/// Colour theme.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Theme {
    /// As the system says; dark if it says nothing.
    #[default]
    System,
    Dark,
    Light,
}

/// Settings that persist between starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Folders to watch for changes.
    pub folders: Vec<PathBuf>,
    /// Colour theme.
    pub theme: Theme,
    /// Folder of the model; `None` for the embedded model.
    pub model: Option<PathBuf>,
}

impl Settings {
    /// Reads the settings of a library. Falls back to the defaults if the file is missing or
    /// invalid; the index does not depend on them.
    pub fn of(library: &Path) -> Self {
        let bytes = read(&file_of(library)).ok();
        let kept: Self =
            bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        kept.with_paths(resolve_path)
    }

    /// Saves the settings. A folder whose name is not UTF-8 is saved as its URI, because JSON
    /// cannot hold it.
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

    /// Adds a folder unless it or a parent is present; removes folders below it.
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
