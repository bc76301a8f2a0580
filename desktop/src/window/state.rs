//! The state of the window, without drawing: takes the user's actions and the threads' messages,
//! and sends requests to the threads.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use mmgem_core::image::{BoxPx, Rgb};
use mmgem_core::index::Query;

use super::clicks::{Clicks, PointPx};
use super::event_log::EventLog;
use super::indexing::{Control, Progress};
use super::messages::{Catalogue, Event, IndexEvent, PathKind, Ready, Request, Search, Target};
use super::settings::{Settings, Theme};
use super::sidecar::SidecarResult;
use super::thumbnails::{CellRequests, Source};
use crate::library::{Cutoff, Photo, Ranked};
use crate::names::{as_text, shown};
use crate::terminal::json_box;

/// Seconds without input before a search is sent.
const DEBOUNCE_SECS: f64 = 0.15;

/// The order of hits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// The best first.
    #[default]
    Relevance,
    /// The latest first.
    Date,
}

/// State of the model and the library.
#[derive(Debug)]
pub enum Model {
    Opening,
    Open(Ready),
    Broken(String),
}

/// The user's input above the grid.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Form {
    /// The query, in the query syntax.
    pub text: String,
    /// Dates in the syntax of `after:` and `before:`; empty for no limit.
    pub after: String,
    pub before: String,
    pub folder: Option<PathBuf>,
    pub by_region: bool,
    /// Searches for photos like this one, or like this region of it, instead of the text.
    pub like: Option<(PathBuf, Option<BoxPx>)>,
}

impl Form {
    /// Number of filters that are set.
    pub fn n_filters(&self) -> usize {
        let dates = [&self.after, &self.before];
        dates.iter().filter(|date| !date.trim().is_empty()).count()
            + usize::from(self.folder.is_some())
            + usize::from(self.by_region)
    }
}

/// The results of the last search.
#[derive(Debug, Default)]
pub struct Hits {
    /// All hits, the best first.
    all: Vec<Ranked>,
    /// Cells: files of the photos that pass the cut-off, in the chosen order.
    shown: Vec<Place>,
    /// Number of photos that pass the cut-off.
    n_kept: usize,
    /// Groups whose files are all shown.
    unfolded: HashSet<i64>,
    /// The query's embedding; without it the hits have no scores.
    query: Option<Arc<Query>>,
    /// Identifies the query.
    pub number: u64,
    /// Whether the hits have scores.
    pub scored: bool,
}

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

/// The photo that is open.
#[derive(Debug)]
pub struct OpenPhoto {
    /// Identifies this photo in messages, so that late answers about an earlier one are dropped.
    pub number: u64,
    /// Index among the shown hits.
    pub at: usize,
    pub content: i64,
    pub path: PathBuf,
    pub size_px: [u32; 2],
    pub pixels: Option<Arc<Rgb>>,
    /// Caption of the whole photo.
    pub caption: Option<CaptionText>,
    /// The box that was dragged or clicked, with its caption.
    pub dragged: Option<(BoxPx, CaptionText)>,
    /// The boxes that clicks give.
    pub clicks: Clicks,
    /// Text to find in the photo.
    pub phrase: String,
    /// Whether a request for the place of the text is pending.
    pub locating: bool,
    pub located: Option<Located>,
    /// Whether the heat map is shown.
    pub heat_on: bool,
    /// Another program's sidecar, with the caption to write; the user is asked whether to replace
    /// it.
    pub foreign: Option<(PathBuf, String)>,
    pub problem: Option<String>,
}

/// A caption that is being written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaptionText {
    pub text: String,
    pub done: bool,
}

/// The place of a text in the photo.
#[derive(Debug)]
pub struct Located {
    pub text: String,
    pub box_px: BoxPx,
    pub score: f32,
    pub heat: Rgb,
    /// Identifies the result, so that the heat map is uploaded once.
    pub number: u64,
}

/// The current or last indexing run.
#[derive(Debug, Default)]
pub struct Indexing {
    pub running: bool,
    pub progress: Progress,
    /// Files and folders that could not be read in this run.
    pub problems: Vec<(PathBuf, String)>,
    /// A message about what the default exclusions left out.
    pub left_out: Option<String>,
}

/// The window's whole state.
pub struct State {
    requests: Sender<Request>,
    pub control: Arc<Control>,
    pub cell_requests: Arc<CellRequests>,
    log: EventLog,
    library: PathBuf,
    /// Folder of the model that is open or being opened; `None` for the embedded model.
    pub model_folder: Option<PathBuf>,
    /// Whether the user chose the model in the window, not by `--model`, so that it is saved.
    model_chosen: bool,
    /// The theme, from `--theme` or the settings.
    pub theme: Theme,
    pub settings: Settings,

    pub model: Model,
    pub form: Form,
    pub sort: Sort,
    /// Minimum cosine of a hit.
    pub cutoff: f32,
    pub hits: Hits,
    /// Why the last search failed.
    pub search_error: Option<String>,
    /// Warnings for the user about the query.
    pub warnings: Vec<String>,
    /// Time at which the search is due.
    due_secs: Option<f64>,
    /// Whether an answer is pending.
    pub searching: bool,
    /// Number of the newest search; answers to older ones are dropped.
    search_number: u64,
    /// Text of that search; the user may have typed more since.
    searched: String,
    /// The last number given to a search or a photo.
    number: u64,

    /// Index among the shown hits.
    pub selected: Option<usize>,
    pub photo: Option<OpenPhoto>,
    /// Text in the field for a folder to add, and why the folder cannot be added.
    pub folder_text: String,
    pub folder_error: Option<String>,
    pub indexing: Indexing,
    /// A message for the user, at the bottom.
    pub notice: Option<String>,
}

/// Arguments of [`State::new`].
pub struct Start {
    pub requests: Sender<Request>,
    pub log: EventLog,
    pub library: PathBuf,
    /// `--model`.
    pub model: Option<PathBuf>,
    /// `--theme`.
    pub theme: Option<Theme>,
    pub settings: Settings,
    /// Folders to add and index at once.
    pub folders: Vec<PathBuf>,
}

impl State {
    /// Creates the state and requests the model.
    pub fn new(start: Start) -> Self {
        let mut settings = start.settings;
        start.folders.iter().for_each(|folder| settings.add_folder(absolute(folder)));
        let model_folder = start.model.or_else(|| settings.model.clone());
        let state = Self {
            requests: start.requests,
            control: Arc::default(),
            cell_requests: Arc::default(),
            log: start.log,
            library: start.library,
            model_folder: model_folder.clone(),
            model_chosen: false,
            theme: start.theme.unwrap_or(settings.theme),
            settings,
            model: Model::Opening,
            form: Form::default(),
            sort: Sort::default(),
            cutoff: -1.0,
            hits: Hits::default(),
            search_error: None,
            warnings: Vec::new(),
            due_secs: None,
            searching: false,
            search_number: 0,
            searched: String::new(),
            number: 0,
            selected: None,
            photo: None,
            folder_text: String::new(),
            folder_error: None,
            indexing: Indexing::default(),
            notice: None,
        };
        state.send(Request::OpenModel(model_folder));
        if !start.folders.is_empty() {
            state.remember();
        }
        state
    }

    fn send(&self, request: Request) {
        // The worker ends only with the window.
        let _ = self.requests.send(request);
    }

    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// Cut-offs that were measured with the open model.
    pub fn cutoffs(&self) -> &[Cutoff] {
        match &self.model {
            Model::Open(ready) => &ready.cutoffs,
            _ => &[],
        }
    }

    pub fn catalogue(&self) -> Option<&Catalogue> {
        match &self.model {
            Model::Open(ready) => Some(&ready.catalogue),
            _ => None,
        }
    }

    // The user's actions above the grid.

    /// Schedules a search, to be sent when the user stops typing.
    pub fn form_changed(&mut self, now_secs: f64) {
        self.due_secs = Some(now_secs + DEBOUNCE_SECS);
    }

    /// Sends the search if it is due; otherwise returns the seconds until then.
    pub fn tick(&mut self, now_secs: f64) -> Option<f64> {
        let due = self.due_secs?;
        if now_secs < due {
            return Some(due - now_secs);
        }
        self.search();
        None
    }

    /// Sends the search at once.
    pub fn search(&mut self) {
        self.due_secs = None;
        if self.catalogue().is_none() {
            return;
        }
        let number = self.next_number();
        self.search_number = number;
        let Form { text, after, before, folder, by_region, like } = &self.form;
        let filter = |key: &str, value: &str| match value.trim() {
            "" => String::new(),
            value => format!("{key}:{value} "),
        };
        let target = match like {
            Some((path, box_px)) => Target::Photo { path: path.clone(), box_px: *box_px },
            None => Target::Text(text.clone()),
        };
        self.send(Request::Search(Search {
            number,
            target,
            filters: filter("after", after) + &filter("before", before),
            folder: folder.clone(),
            by_region: *by_region,
        }));
        self.searched.clone_from(&self.form.text);
        self.searching = true;
    }

    /// Searches for photos like one, or like a region of it.
    pub fn search_like(&mut self, path: PathBuf, box_px: Option<BoxPx>) {
        self.form.text.clear();
        self.form.like = Some((path, box_px));
        self.photo = None;
        self.selected = None;
        self.search();
    }

    pub fn set_cutoff(&mut self, cutoff: f32) {
        self.cutoff = cutoff;
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
        let mut kept: Vec<u32> = (0..n_kept as u32).collect();
        if let (Sort::Date, Some(catalogue)) = (self.sort, self.catalogue()) {
            let taken = |hit: &u32| {
                let photo = catalogue.photos.get(&all[*hit as usize].content);
                std::cmp::Reverse(photo.map_or(i64::MIN, |photo| photo.taken.secs))
            };
            kept.sort_by_cached_key(taken);
        }
        self.hits.shown = self.folded(&kept);
        self.hits.n_kept = n_kept;
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

    // The user's actions on a photo.

    /// Opens a hit.
    pub fn open(&mut self, at: usize) {
        let Some(Shown { hit, photo, path, .. }) = self.shown(at) else { return };
        let (content, path, size_px) = (hit.content, path.to_owned(), photo.size_px);
        let number = self.next_number();
        self.selected = Some(at);
        self.send(Request::OpenPhoto { number, path: path.clone() });
        self.photo = Some(OpenPhoto {
            number,
            at,
            content,
            path,
            size_px,
            pixels: None,
            caption: None,
            dragged: None,
            clicks: Clicks::default(),
            phrase: self.photo.take().map(|look| look.phrase).unwrap_or_default(),
            locating: false,
            located: None,
            heat_on: true,
            foreign: None,
            problem: None,
        });
    }

    /// Opens the next or previous photo.
    pub fn turn(&mut self, forward: bool) {
        let Some(look) = &self.photo else { return };
        let at = if forward { look.at.checked_add(1) } else { look.at.checked_sub(1) };
        if let Some(at) = at.filter(|at| *at < self.n_shown()) {
            self.open(at);
        }
    }

    /// Returns to the grid.
    pub fn close(&mut self) {
        self.photo = None;
    }

    /// The user dragged a box: captions it.
    pub fn drag(&mut self, box_px: BoxPx) {
        if let Some(look) = &mut self.photo {
            look.clicks.forget();
        }
        self.describe(box_px);
    }

    /// The pointer moved to this point, or off the photo.
    pub fn hover(&mut self, point: Option<PointPx>) {
        let Some(look) = &mut self.photo else { return };
        look.clicks.hover(point);
        self.ask_for_boxes();
    }

    /// The user clicked a point: shows the next box, or requests boxes, and captions the box.
    pub fn click(&mut self, point: PointPx, reach_px: f32) {
        let Some(look) = &mut self.photo else { return };
        if look.clicks.is_step(point, reach_px) {
            return self.step(1);
        }
        match look.clicks.click(point) {
            Some(box_px) => self.describe(box_px),
            None => self.ask_for_boxes(),
        }
    }

    /// Steps through the boxes at the place of the last click.
    pub fn step(&mut self, by: isize) {
        if let Some(box_px) = self.photo.as_mut().and_then(|look| look.clicks.step(by)) {
            self.describe(box_px);
        }
    }

    fn ask_for_boxes(&mut self) {
        let Some(look) = &mut self.photo else { return };
        let number = look.number;
        if let Some(point_px) = look.clicks.question() {
            self.send(Request::Boxes { number, point_px });
        }
    }

    fn describe(&mut self, box_px: BoxPx) {
        let Some(look) = &mut self.photo else { return };
        look.dragged = Some((box_px, CaptionText::default()));
        look.problem = None;
        let number = look.number;
        self.send(Request::Caption { number, box_px: Some(box_px) });
    }

    pub fn drop_box(&mut self) {
        if let Some(look) = &mut self.photo {
            look.dragged = None;
            look.clicks.forget();
        }
    }

    /// Requests a caption of the whole photo.
    pub fn caption_whole(&mut self) {
        let Some(look) = &mut self.photo else { return };
        if look.caption.is_none() {
            look.caption = Some(CaptionText::default());
            look.problem = None;
            let number = look.number;
            self.send(Request::Caption { number, box_px: None });
        }
    }

    /// Requests the place of the phrase in the photo.
    pub fn locate(&mut self) {
        let Some(look) = &mut self.photo else { return };
        let text = look.phrase.trim().to_owned();
        if !text.is_empty() {
            (look.locating, look.problem, look.heat_on) = (true, None, true);
            let number = look.number;
            self.send(Request::Locate { number, text });
        }
    }

    /// Requests a sidecar with the caption of the whole photo.
    pub fn write_sidecar(&mut self, replace: bool) {
        let Some(look) = &mut self.photo else { return };
        let caption = match (&look.foreign, &look.caption) {
            (Some((_, caption)), _) => caption.clone(),
            (None, Some(CaptionText { text, done: true })) => text.clone(),
            _ => return,
        };
        look.foreign = None;
        let photo = look.path.clone();
        self.send(Request::Sidecar { photo, caption, replace });
    }

    /// The photo that is open, or else selected.
    pub fn current_path(&self) -> Option<&Path> {
        match &self.photo {
            Some(look) => Some(&look.path),
            None => self.shown(self.selected?).map(|shown| shown.path),
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

    fn path_checked(&mut self, path: PathBuf, kind: PathKind, dropped: bool) {
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
            PathKind::File => format!("This is a file, not a folder: {}", shown(&path)),
            PathKind::Missing => format!(
                "There is no such folder: {}. Is the path right, and the drive connected?",
                shown(&path)
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

    fn remember(&self) {
        if let Err(error) = self.settings.write(&self.library) {
            tracing::warn!("the window's settings cannot be kept: {error:#}");
        }
    }

    // Messages from the threads.

    /// Handles a message. `Event::Cell` is handled by the window.
    pub fn take(&mut self, event: Event, now_secs: f64) {
        match event {
            Event::Ready(ready) => self.opened(ready),
            Event::Broken(why) => {
                self.log.print("broken", &[("why", why.as_str().into())]);
                self.model = Model::Broken(why);
            }
            Event::Catalogue(catalogue) => {
                if let Model::Open(ready) = &mut self.model {
                    ready.catalogue = catalogue;
                    // Repeats the search, so that the user sees new photos during indexing.
                    self.search();
                }
            }
            Event::Hits { number, hits, query, warnings } if number == self.search_number => {
                self.found(number, hits, query);
                self.warnings = warnings;
            }
            Event::NoHits { number, why } if number == self.search_number => {
                self.searching = false;
                self.log.print("no_hits", &[("why", why.as_str().into())]);
                self.warnings.clear();
                self.search_error = Some(why);
            }
            Event::Hits { .. } | Event::NoHits { .. } | Event::Cell(_) => {}
            Event::PathChecked { path, kind, dropped } => self.path_checked(path, kind, dropped),
            Event::Index(event) => self.indexed(event, now_secs),
            Event::Problem(why) => {
                self.log.print("failed", &[("why", why.as_str().into())]);
                self.notice = Some(why);
            }
            Event::Sidecar { photo, caption, result } => self.wrote(photo, caption, result),
            Event::Boxes { number, point_px, boxes } => self.proposed(number, point_px, boxes),
            Event::PhotoDecoded { .. }
            | Event::Caption { .. }
            | Event::Located { .. }
            | Event::Failed { .. } => {
                self.looked(event);
            }
        }
    }

    fn opened(&mut self, ready: Ready) {
        let source = Source {
            library: self.library.clone(),
            fingerprint: ready.fingerprint,
            dim: ready.dim,
        };
        self.cell_requests.open(source);
        self.log.print(
            "ready",
            &[
                ("model", ready.model_name.as_str().into()),
                ("photos", ready.catalogue.photos.len().into()),
            ],
        );
        self.model = Model::Open(ready);
        if self.model_chosen {
            self.settings.model.clone_from(&self.model_folder);
            self.remember();
        }
        self.search();
        self.index();
    }

    fn found(&mut self, number: u64, hits: Vec<Ranked>, query: Option<Arc<Query>>) {
        (self.searching, self.search_error) = (false, None);
        // A repeated query keeps its embedding, which the worker caches. So pointer equality
        // identifies it.
        let is_same = match (&query, &self.hits.query) {
            (Some(new), Some(old)) => Arc::ptr_eq(new, old),
            (new, old) => new.is_none() && old.is_none(),
        };
        let selected = if is_same { self.selected_file() } else { None };
        let unfolded =
            if is_same { std::mem::take(&mut self.hits.unfolded) } else { HashSet::new() };
        let number = if is_same { self.hits.number } else { number };
        self.cell_requests.compare(number, query.clone());
        let scored = query.is_some();
        self.hits = Hits { all: hits, unfolded, scored, query, number, ..Hits::default() };
        self.arrange(selected);
        let first: Vec<String> = (0..self.n_shown().min(5))
            .filter_map(|at| self.shown(at))
            .map(|shown| as_text(shown.path))
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

    fn indexed(&mut self, event: IndexEvent, now_secs: f64) {
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

    fn wrote(&mut self, photo: PathBuf, caption: String, result: Result<SidecarResult, String>) {
        match result {
            Ok(SidecarResult::Done(path)) => self.notice = Some(format!("Wrote {}", shown(&path))),
            Ok(SidecarResult::Foreign(path)) => {
                if let Some(look) = self.photo.as_mut().filter(|look| look.path == photo) {
                    look.foreign = Some((path, caption));
                }
            }
            Err(why) => self.notice = Some(why),
        }
    }

    fn proposed(&mut self, number: u64, point: PointPx, boxes: Vec<BoxPx>) {
        let Some(look) = self.photo.as_mut().filter(|look| look.number == number) else { return };
        if let Some(box_px) = look.clicks.answer(point, boxes) {
            self.describe(box_px);
        }
        self.ask_for_boxes();
    }

    fn looked(&mut self, event: Event) {
        let Some(look) = &mut self.photo else { return };
        match event {
            Event::PhotoDecoded { number, pixels, size_px } if number == look.number => {
                self.log.print("photo", &[("path", as_text(&look.path).into())]);
                (look.pixels, look.size_px) = (Some(pixels), size_px);
            }
            Event::Caption { number, box_px, text, done } if number == look.number => {
                let writing = match (box_px, &mut look.dragged, &mut look.caption) {
                    (Some(of), Some((box_px, writing)), _) if of == *box_px => writing,
                    (None, _, Some(writing)) => writing,
                    _ => return,
                };
                if done {
                    self.log.print(
                        "caption",
                        &[("box", json_box(box_px)), ("text", text.as_str().into())],
                    );
                }
                *writing = CaptionText { text, done };
            }
            Event::Located { number, text, heat, box_px, score } if number == look.number => {
                look.locating = false;
                self.log.print(
                    "located",
                    &[("text", text.as_str().into()), ("box", json_box(Some(box_px)))],
                );
                let number = look.located.as_ref().map_or(0, |located| located.number) + 1;
                look.located = Some(Located { text, box_px, score, heat, number });
            }
            Event::Failed { number, why } if number == look.number => {
                look.locating = false;
                look.clicks.fail();
                // No caption will arrive for these requests.
                look.caption.take_if(|writing| !writing.done);
                look.dragged.take_if(|(_, writing)| !writing.done);
                self.log.print("failed", &[("why", why.as_str().into())]);
                look.problem = Some(why);
            }
            _ => {}
        }
    }
}

/// The canonical path, which does not depend on the working folder; `folder` itself if missing.
pub fn absolute(folder: &Path) -> PathBuf {
    folder.canonicalize().unwrap_or_else(|_| folder.to_owned())
}

fn summary_in_words(summary: crate::library::Summary) -> String {
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
