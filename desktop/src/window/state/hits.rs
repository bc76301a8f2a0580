//! The hits of a search: their cut-off, order and groups.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mmgem_core::index::Query;
use serde_json::Value;

use super::{Sort, State};
use crate::library::{Photo, Ranked};
use crate::names::json_path;
use crate::window::months::{Months, name_of};
use crate::window::weak::WeakBelow;

/// The results of the last search.
#[derive(Debug, Default)]
pub struct Hits {
    /// All hits, the best first.
    all: Vec<Ranked>,
    /// Cells: files of the photos that pass the cut-off, in the chosen order.
    shown: Vec<Place>,
    /// Number of photos that pass the cut-off.
    n_kept: usize,
    /// Number of hits that are not weak.
    n_strong: usize,
    weak_below: Option<WeakBelow>,
    /// Headings between the cells, ascending.
    pub headings: Vec<Heading>,
    /// Groups whose files are all shown.
    unfolded: HashSet<i64>,
    /// The query's embedding; without it the hits have no scores.
    query: Option<Arc<Query>>,
    /// Identifies the query.
    pub number: u64,
    /// Whether the hits have scores.
    pub scored: bool,
}

/// A heading and its first cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heading {
    pub first: usize,
    pub text: String,
}

/// The part of the hits that a heading is above.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Plain,
    /// Year and month.
    Month(i64, u8),
    Weak,
}

/// A file of a photo: the row in `content`, and the index among the photo's paths.
pub type FileOf = (i64, u32);

/// A cell of the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Index in [`Hits::all`].
    hit: u32,
    /// Index of the file among the photo's paths.
    path: u32,
    more: More,
}

/// Further files with the same picture as a cell's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    /// None, or another cell shows them.
    Nothing,
    /// This many are folded into this cell.
    Folded(u32),
    /// They have cells of their own, which follow this one if hits are sorted by relevance.
    Unfolded,
}

/// The contents of a cell.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    pub hit: &'a Ranked,
    pub photo: &'a Photo,
    pub path: &'a Path,
    pub more: More,
}

impl State {
    pub fn set_cutoff(&mut self, cutoff: f32) {
        self.cutoff = cutoff;
        self.arrange(self.selected_file());
    }

    pub fn set_good_only(&mut self, good_only: bool) {
        self.good_only = good_only;
        self.arrange(self.selected_file());
    }

    pub fn set_sort(&mut self, sort: Sort) {
        self.sort = sort;
        self.arrange(self.selected_file());
    }

    /// Shows every file with the picture of a cell, or only one of them again.
    pub fn unfold(&mut self, at: usize) {
        let Some(group) = self.shown(at).map(|shown| shown.photo.group()) else { return };
        if !self.hits.unfolded.remove(&group) {
            self.hits.unfolded.insert(group);
        }
        self.arrange(self.selected_file());
    }

    /// Lowest and highest score, for the cut-off.
    pub fn score_range(&self) -> Option<(f32, f32)> {
        let (best, worst) = (self.hits.all.first()?, self.hits.all.last()?);
        self.hits.scored.then_some((worst.score, best.score))
    }

    /// Number of cells.
    pub fn n_shown(&self) -> usize {
        self.hits.shown.len()
    }

    /// Number of photos that are hits, including those folded into a cell.
    pub fn n_hits(&self) -> usize {
        self.hits.n_kept
    }

    /// The contents of a cell.
    pub fn shown(&self, at: usize) -> Option<Shown<'_>> {
        let Place { hit, path, more } = *self.hits.shown.get(at)?;
        let hit = &self.hits.all[hit as usize];
        let photo = self.catalogue()?.photos.get(&hit.content)?;
        let path = photo.paths.get(path as usize).unwrap_or(&photo.paths[0]);
        Some(Shown { hit, photo, path, more })
    }

    /// The file of a cell.
    pub(super) fn file_of(&self, at: usize) -> Option<FileOf> {
        let Place { hit, path, .. } = self.hits.shown.get(at)?;
        Some((self.hits.all[*hit as usize].content, *path))
    }

    /// Number of photos that match well; `None` if no line separates weak ones.
    pub fn n_good(&self) -> Option<usize> {
        self.hits.weak_below.map(|_| self.hits.n_strong)
    }

    /// The selected file and its photo.
    fn selected_file(&self) -> Option<(i64, PathBuf)> {
        self.shown(self.selected?).map(|shown| (shown.hit.content, shown.path.to_owned()))
    }

    /// Applies cut-off and order, folds groups, and moves the selection with its file.
    fn arrange(&mut self, selected: Option<(i64, PathBuf)>) {
        let decoded = self.photo.as_ref().map(|look| (look.content, look.path.clone()));
        let (scored, cutoff) = (self.hits.scored, self.cutoff);
        let all = &self.hits.all;
        let n_kept =
            if scored { all.partition_point(|hit| hit.score >= cutoff) } else { all.len() };
        let weak_below = self.hits.weak_below;
        let n_strong = weak_below
            .map_or(n_kept, |weak| all.partition_point(|hit| hit.score >= weak.score).min(n_kept));
        let n_kept = if self.good_only { n_strong } else { n_kept };
        let mut kept: Vec<u32> = (0..n_kept as u32).collect();
        if let (Sort::Date, Some(catalogue)) = (self.sort, self.catalogue()) {
            let taken = |hit: &u32| {
                let photo = catalogue.photos.get(&all[*hit as usize].content);
                std::cmp::Reverse(photo.map_or(i64::MIN, |photo| photo.taken.secs))
            };
            // Weak matches stay at the end.
            let (strong, weak) = kept.split_at_mut(n_strong);
            strong.sort_by_cached_key(taken);
            weak.sort_by_cached_key(taken);
        }
        self.hits.shown = self.folded(&kept);
        (self.hits.n_kept, self.hits.n_strong) = (n_kept, n_strong);
        self.hits.headings = self.headings();
        if !self.chosen.is_empty() {
            let shown: HashSet<FileOf> =
                (0..self.n_shown()).filter_map(|at| self.file_of(at)).collect();
            self.chosen.retain(|file| shown.contains(file));
        }
        let place_of = |(content, path): (i64, PathBuf)| {
            let is_photo =
                |at: &usize| self.hits.all[self.hits.shown[*at].hit as usize].content == content;
            let is_file = |at: &usize| self.shown(*at).is_some_and(|shown| shown.path == path);
            let mut places = (0..self.n_shown()).filter(is_photo);
            let first = places.clone().next();
            places.find(is_file).or(first)
        };
        let (selected, at) = (selected.and_then(place_of), decoded.and_then(place_of));
        self.selected = selected;
        if let (Some(look), Some(at)) = (&mut self.photo, at) {
            look.at = at;
        }
    }

    /// Headings above the months, if the hits are in the order of dates, and above weak matches.
    fn headings(&self) -> Vec<Heading> {
        let by_date = self.sort == Sort::Date || !self.hits.scored;
        let Some(catalogue) = self.catalogue() else { return Vec::new() };
        let mut months = Months::default();
        let mut headings: Vec<(usize, Part)> = Vec::new();
        let mut last = Part::Plain;
        for (at, place) in self.hits.shown.iter().enumerate() {
            let hit = place.hit as usize;
            let content = self.hits.all[hit].content;
            let part = match catalogue.photos.get(&content) {
                _ if hit >= self.hits.n_strong => Part::Weak,
                Some(photo) if by_date => months
                    .of(photo.taken.secs)
                    .map_or(Part::Plain, |(year, month)| Part::Month(year, month)),
                _ => Part::Plain,
            };
            if part != last {
                headings.push((at, part));
                last = part;
            }
        }
        let ends: Vec<usize> =
            headings.iter().skip(1).map(|(at, _)| *at).chain([self.n_shown()]).collect();
        let text = |part, n: usize| match part {
            Part::Plain => String::new(),
            Part::Month(year, month) => {
                format!("{} {year} ({n})", name_of(month))
            }
            Part::Weak => self.hits.weak_below.map_or_else(String::new, WeakBelow::in_words),
        };
        let heading = |((first, part), end): ((usize, Part), usize)| Heading {
            first,
            text: text(part, end - first),
        };
        headings.into_iter().zip(ends).map(heading).collect()
    }

    /// The cells of hits: one per group of files with the same picture, or one per file if the
    /// group is unfolded.
    fn folded(&self, kept: &[u32]) -> Vec<Place> {
        let mut shown: Vec<Place> = Vec::with_capacity(kept.len());
        let mut groups: HashMap<i64, usize> = HashMap::new();
        for hit in kept.iter().copied() {
            let content = self.hits.all[hit as usize].content;
            let photo = self.catalogue().and_then(|catalogue| catalogue.photos.get(&content));
            let (group, n_files) =
                photo.map_or((-1 - content, 1), |photo| (photo.group(), photo.paths.len() as u32));
            let first = *groups.entry(group).or_insert(shown.len());
            let is_first = first == shown.len();
            if self.hits.unfolded.contains(&group) {
                shown.extend((0..n_files).map(|path| Place { hit, path, more: More::Nothing }));
                shown[first].more = More::Unfolded;
                continue;
            }
            let n_more = match shown.get(first) {
                Some(Place { more: More::Folded(n), .. }) => n + n_files,
                _ => n_files - u32::from(is_first),
            };
            if is_first {
                shown.push(Place { hit, path: 0, more: More::Nothing });
            }
            if n_more > 0 {
                shown[first].more = More::Folded(n_more);
            }
        }
        shown
    }

    pub(super) fn found(
        &mut self,
        number: u64,
        hits: Vec<Ranked>,
        query: Option<Arc<Query>>,
        weak_below: Option<WeakBelow>,
    ) {
        (self.searching, self.search_error) = (false, None);
        // A repeated query keeps its embedding, which the worker caches. So pointer equality
        // identifies it.
        let is_same = match (&query, &self.hits.query) {
            (Some(new), Some(old)) => Arc::ptr_eq(new, old),
            (new, old) => new.is_none() && old.is_none(),
        };
        let selected = if is_same { self.selected_file() } else { None };
        if !is_same {
            self.chosen.clear();
            self.anchor = None;
        }
        let unfolded =
            if is_same { std::mem::take(&mut self.hits.unfolded) } else { HashSet::new() };
        let number = if is_same { self.hits.number } else { number };
        self.cell_requests.compare(number, query.clone());
        let scored = query.is_some();
        self.hits =
            Hits { all: hits, unfolded, weak_below, scored, query, number, ..Hits::default() };
        self.arrange(selected);
        let first: Vec<Value> = (0..self.n_shown().min(5))
            .filter_map(|at| self.shown(at))
            .map(|shown| json_path(shown.path))
            .collect();
        self.log.print(
            "hits",
            &[
                ("query", self.searched.as_str().into()),
                ("n", self.n_shown().into()),
                ("first", first.into()),
            ],
        );
    }
}
