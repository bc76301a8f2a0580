//! The user's actions on the library: marks and copies of photos, folders, indexing, model, theme.

use std::path::PathBuf;

use super::hits::Hits;
use super::{Indexing, Model, State};
use crate::library::{Mark, MarkChange, Summary};
use crate::names::printable_path;
use crate::window::messages::{FolderUse, IndexEvent, PathKind, Request};
use crate::window::settings::Theme;

impl State {
    // Marks and copies of the chosen photos.

    /// The mark of a photo.
    pub fn mark_of(&self, content: i64) -> Mark {
        match &self.model {
            Model::Open(ready) => ready.marks.get(&content).copied().unwrap_or_default(),
            _ => Default::default(),
        }
    }

    /// Makes the chosen photos favourites, or no favourites if all of them are.
    pub fn toggle_favourite(&mut self) {
        let contents = self.chosen_contents();
        let are_all = contents.iter().all(|content| self.mark_of(*content).favourite);
        let change = MarkChange { favourite: Some(!are_all), hidden: None };
        self.mark(contents, change);
    }

    /// Hides the chosen photos, or shows them again if all of them are hidden.
    pub fn toggle_hidden(&mut self) {
        let contents = self.chosen_contents();
        let are_all = contents.iter().all(|content| self.mark_of(*content).hidden);
        let n = contents.len();
        self.mark(contents, MarkChange { favourite: None, hidden: Some(!are_all) });
        let photos = if n == 1 { "photo is" } else { "photos are" };
        self.notice = Some(match are_all {
            true => format!("{n} {photos} shown again"),
            false => format!("{n} {photos} hidden; the filter \"hidden\" shows them"),
        });
    }

    fn mark(&self, contents: Vec<i64>, change: MarkChange) {
        if !contents.is_empty() {
            self.send(Request::Mark { contents, change });
        }
    }

    fn chosen_contents(&self) -> Vec<i64> {
        let mut contents: Vec<i64> =
            self.chosen_files().into_iter().map(|(content, _)| content).collect();
        contents.sort_unstable();
        contents.dedup();
        contents
    }

    /// Lets the user choose a folder and copies the chosen photos there.
    pub fn export(&self) {
        let photos = self.chosen_paths();
        if !photos.is_empty() {
            self.choose_folder(FolderUse::Export(photos));
        }
    }

    /// Shows the system's dialog to choose a folder.
    pub fn choose_folder(&self, to: FolderUse) {
        self.send(Request::ChooseFolder(to));
    }

    pub(super) fn folder_chosen(&mut self, to: FolderUse, folder: Option<PathBuf>) {
        let Some(folder) = folder else {
            // The dialog does not say whether the user closed it or the system has none.
            if cfg!(target_os = "linux") {
                self.notice = Some(
                    "No folder was chosen. If no dialog appeared, install xdg-desktop-portal or \
                     zenity"
                        .into(),
                );
            }
            return;
        };
        match to {
            FolderUse::Add => self.add_folder(folder),
            FolderUse::Model => self.open_model(Some(folder)),
            FolderUse::Export(photos) => self.send(Request::Export { photos, folder }),
        }
    }

    // Folders and the model.

    /// Adds a folder, if it exists, and indexes all folders. The worker checks the path, because
    /// that may be slow.
    pub fn add_folder(&mut self, folder: PathBuf) {
        self.send(Request::CheckPath { path: folder, dropped: false });
    }

    /// Handles a path dropped on the window: adds a folder, or searches for photos like a photo.
    pub fn drop_path(&mut self, path: PathBuf) {
        self.send(Request::CheckPath { path, dropped: true });
    }

    pub(super) fn path_checked(&mut self, path: PathBuf, kind: PathKind, dropped: bool) {
        let why = match kind {
            PathKind::Folder => {
                if !dropped {
                    self.folder_text.clear();
                    self.folder_error = None;
                }
                self.settings.add_folder(path);
                self.remember();
                return self.index();
            }
            PathKind::File if dropped => return self.search_like(path, None),
            PathKind::File => format!("This is a file, not a folder: {}", printable_path(&path)),
            PathKind::Missing => format!(
                "There is no such folder: {}. Is the path right, and the drive connected?",
                printable_path(&path)
            ),
        };
        // A typed path stays in its field, so that the user can correct it.
        if dropped {
            self.notice = Some(why);
        } else {
            self.folder_error = Some(why);
        }
    }

    /// Removes a folder from the watched ones; its photos stay in the library.
    pub fn forget_folder(&mut self, at: usize) {
        self.settings.folders.remove(at);
        self.remember();
    }

    /// Indexes new and changed photos of all folders.
    pub fn index(&mut self) {
        if self.catalogue().is_some() && !self.settings.folders.is_empty() {
            self.indexing = Indexing { running: true, ..Indexing::default() };
            self.send(Request::Index(self.settings.folders.clone()));
        }
    }

    pub fn pause(&mut self, pause: bool) {
        if pause {
            self.control.pause();
            self.indexing.progress.pause();
        } else {
            self.control.go_on();
        }
    }

    /// Opens another model, or the embedded one if `None`.
    pub fn open_model(&mut self, folder: Option<PathBuf>) {
        self.control.stop();
        (self.model, self.photo, self.hits) = (Model::Opening, None, Hits::default());
        (self.selected, self.searching, self.search_error) = (None, false, None);
        self.model_folder.clone_from(&folder);
        self.model_chosen = true;
        self.send(Request::OpenModel(folder));
    }

    pub fn set_theme(&mut self, theme: Theme) {
        self.theme = theme;
        self.settings.theme = theme;
        self.remember();
    }

    pub(super) fn remember(&self) {
        if let Err(error) = self.settings.write(&self.library) {
            tracing::warn!("the window's settings cannot be kept: {error:#}");
        }
    }

    pub(super) fn indexed(&mut self, event: IndexEvent, now_secs: f64) {
        let indexing = &mut self.indexing;
        match event {
            IndexEvent::Walking => indexing.running = true,
            IndexEvent::Begun(n_files) => indexing.progress.begin(n_files, now_secs),
            IndexEvent::Done(n_files) => {
                indexing.progress.advance(n_files, now_secs);
                if self.control.is_paused() {
                    indexing.progress.pause();
                }
            }
            IndexEvent::LeftOut(what) => indexing.left_out = Some(what),
            IndexEvent::Problem(path, why) => indexing.problems.push((path, why)),
            IndexEvent::Ended(result) => {
                indexing.running = false;
                let n_problems = indexing.problems.len();
                self.notice = Some(match &result {
                    Ok(summary) => summary_in_words(*summary),
                    Err(why) => format!("Indexing ended: {why}"),
                });
                let encoded = result.as_ref().map_or(0, |summary| summary.encoded);
                self.log.print(
                    "indexed",
                    &[("encoded", encoded.into()), ("problems", n_problems.into())],
                );
            }
        }
    }
}

fn summary_in_words(summary: Summary) -> String {
    let counts = [
        (summary.encoded, "new"),
        (summary.recognised, "copied or moved"),
        (summary.unchanged, "read again"),
        (summary.forgotten, "gone"),
        (summary.unreadable, "unreadable"),
        (summary.in_part, "cut short or damaged"),
    ];
    let told: Vec<String> =
        counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    if told.is_empty() {
        "The library is up to date".into()
    } else {
        format!("Photos: {}", told.join(", "))
    }
}
