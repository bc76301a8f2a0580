//! Selected photos: the cell of the cursor, and others chosen with Ctrl, Shift or a drag.

use std::path::{Path, PathBuf};

use super::State;
use super::hits::FileOf;
use crate::library::Mark;

impl State {
    /// Selects one cell only.
    pub fn select(&mut self, at: usize) {
        self.chosen.clear();
        self.selected = Some(at);
        self.anchor = Some(at);
    }

    /// Adds a cell to the chosen ones, or removes it.
    pub fn toggle(&mut self, at: usize) {
        self.choose_selected();
        if let Some(file) = self.file_of(at)
            && !self.chosen.remove(&file)
        {
            self.chosen.insert(file);
        }
        self.selected = Some(at);
        self.anchor = Some(at);
    }

    /// Chooses the cells from the last one that was selected to this one.
    pub fn select_to(&mut self, at: usize) {
        let from = self.anchor.or(self.selected).unwrap_or(at);
        let cells: Vec<usize> = (from.min(at)..=from.max(at)).collect();
        self.choose(&cells, false);
        self.selected = Some(at);
        self.anchor = Some(from);
    }

    /// Chooses these cells, instead of the chosen ones or besides them.
    pub fn choose(&mut self, cells: &[usize], besides: bool) {
        if !besides {
            self.chosen.clear();
        }
        let files: Vec<FileOf> = cells.iter().filter_map(|at| self.file_of(*at)).collect();
        self.chosen.extend(files);
        if let Some(first) = cells.first() {
            self.selected.get_or_insert(*first);
        }
    }

    /// Chooses every cell.
    pub fn choose_all(&mut self) {
        let cells: Vec<usize> = (0..self.n_shown()).collect();
        self.choose(&cells, false);
    }

    /// Several cells are chosen, not only the one of the cursor.
    pub fn has_several(&self) -> bool {
        self.chosen.len() > 1
    }

    /// Number of chosen cells.
    pub fn n_chosen(&self) -> usize {
        self.chosen.len()
    }

    /// Whether the marks of all chosen photos are like this.
    pub fn are_all_chosen(&self, like_this: impl Fn(Mark) -> bool) -> bool {
        self.chosen.iter().all(|(content, _)| like_this(self.mark_of(*content)))
    }

    /// Whether a cell is selected.
    pub fn is_chosen(&self, at: usize) -> bool {
        match self.chosen.is_empty() {
            true => self.selected == Some(at),
            false => self.file_of(at).is_some_and(|file| self.chosen.contains(&file)),
        }
    }

    /// The chosen files, in the order of the hits, or the one that is open or selected.
    pub fn chosen_files(&self) -> Vec<(i64, PathBuf)> {
        if let Some(photo) = &self.photo {
            return vec![(photo.content, photo.path.clone())];
        }
        (0..self.n_shown())
            .filter(|at| self.is_chosen(*at))
            .filter_map(|at| self.shown(at))
            .map(|shown| (shown.hit.content, shown.path.to_owned()))
            .collect()
    }

    /// The paths of the chosen files.
    pub fn chosen_paths(&self) -> Vec<PathBuf> {
        self.chosen_files().into_iter().map(|(_, path)| path).collect()
    }

    /// The photo that is open, or else selected.
    pub fn current_path(&self) -> Option<&Path> {
        match &self.photo {
            Some(photo) => Some(&photo.path),
            None => self.shown(self.selected?).map(|shown| shown.path),
        }
    }

    /// Chooses the selected cell, before another one joins it.
    fn choose_selected(&mut self) {
        if self.chosen.is_empty()
            && let Some(file) = self.selected.and_then(|at| self.file_of(at))
        {
            self.chosen.insert(file);
        }
    }
}
