//! The state of the window, without drawing: takes the user's actions and the threads' messages,
//! and sends requests to the threads.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use mmgem_core::image::{BoxPx, Rgb};
use mmgem_core::index::Query;

use super::clicks::{Clicks, PointPx};
use super::events::Events;
use super::indexing::{Control, Pace};
use super::messages::{Ask, Catalogue, IndexNews, News, PathKind, Ready, Search, SearchTarget};
use super::settings::{Settings, Theme};
use super::sidecar::Written;
use super::thumbnails::{Source, Wants};
use crate::library::{Cutoff, Photo, Ranked};
use crate::names::{as_text, printable_path};
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
pub struct Look {
    /// Identifies this photo in messages, so that late answers about an earlier one are dropped.
    pub number: u64,
    /// Index among the shown hits.
    pub at: usize,
    pub content: i64,
    pub path: PathBuf,
    pub size_px: [u32; 2],
    pub pixels: Option<Arc<Rgb>>,
    /// Caption of the whole photo.
    pub caption: Option<Writing>,
    /// The box that was dragged or clicked, with its caption.
    pub dragged: Option<(BoxPx, Writing)>,
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
pub struct Writing {
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
    pub pace: Pace,
    /// Files and folders that could not be read in this run.
    pub problems: Vec<(PathBuf, String)>,
    /// A message about what the default exclusions left out.
    pub left_out: Option<String>,
}

/// The window's whole state.
pub struct State {
    asks: Sender<Ask>,
    pub control: Arc<Control>,
    pub wants: Arc<Wants>,
    events: Events,
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
    pub complaint: Option<String>,
    /// Warnings for the user about the query.
    pub doubts: Vec<String>,
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
    pub look: Option<Look>,
    pub indexing: Indexing,
    /// A message for the user, at the bottom.
    pub notice: Option<String>,
}

/// Arguments of [`State::new`].
pub struct Start {
    pub asks: Sender<Ask>,
    pub events: Events,
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
            asks: start.asks,
            control: Arc::default(),
            wants: Arc::default(),
            events: start.events,
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
            complaint: None,
            doubts: Vec::new(),
            due_secs: None,
            searching: false,
            search_number: 0,
            searched: String::new(),
            number: 0,
            selected: None,
            look: None,
            indexing: Indexing::default(),
            notice: None,
        };
        state.ask(Ask::Model(model_folder));
        if !start.folders.is_empty() {
            state.remember();
        }
        state
    }

    fn ask(&self, ask: Ask) {
        // The worker ends only with the window.
        let _ = self.asks.send(ask);
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
        let sought = match like {
            Some((path, box_px)) => SearchTarget::Photo { path: path.clone(), box_px: *box_px },
            None => SearchTarget::Text(text.clone()),
        };
        self.ask(Ask::Search(Search {
            number,
            sought,
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
        self.look = None;
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
        let looked_at = self.look.as_ref().map(|look| (look.content, look.path.clone()));
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
        let (selected, at) = (selected.and_then(place_of), looked_at.and_then(place_of));
        self.selected = selected;
        if let (Some(look), Some(at)) = (&mut self.look, at) {
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
        self.ask(Ask::Look { number, path: path.clone() });
        self.look = Some(Look {
            number,
            at,
            content,
            path,
            size_px,
            pixels: None,
            caption: None,
            dragged: None,
            clicks: Clicks::default(),
            phrase: self.look.take().map(|look| look.phrase).unwrap_or_default(),
            locating: false,
            located: None,
            heat_on: true,
            foreign: None,
            problem: None,
        });
    }

    /// Opens the next or previous photo.
    pub fn turn(&mut self, forward: bool) {
        let Some(look) = &self.look else { return };
        let at = if forward { look.at.checked_add(1) } else { look.at.checked_sub(1) };
        if let Some(at) = at.filter(|at| *at < self.n_shown()) {
            self.open(at);
        }
    }

    /// Returns to the grid.
    pub fn close(&mut self) {
        self.look = None;
    }

    /// The user dragged a box: captions it.
    pub fn drag(&mut self, box_px: BoxPx) {
        if let Some(look) = &mut self.look {
            look.clicks.forget();
        }
        self.describe(box_px);
    }

    /// The pointer moved to this point, or off the photo.
    pub fn hover(&mut self, point: Option<PointPx>) {
        let Some(look) = &mut self.look else { return };
        look.clicks.hover(point);
        self.ask_for_boxes();
    }

    /// The user clicked a point: shows the next box, or requests boxes, and captions the box.
    pub fn click(&mut self, point: PointPx, reach_px: f32) {
        let Some(look) = &mut self.look else { return };
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
        if let Some(box_px) = self.look.as_mut().and_then(|look| look.clicks.step(by)) {
            self.describe(box_px);
        }
    }

    fn ask_for_boxes(&mut self) {
        let Some(look) = &mut self.look else { return };
        let number = look.number;
        if let Some(point_px) = look.clicks.question() {
            self.ask(Ask::Boxes { number, point_px });
        }
    }

    fn describe(&mut self, box_px: BoxPx) {
        let Some(look) = &mut self.look else { return };
        look.dragged = Some((box_px, Writing::default()));
        look.problem = None;
        let number = look.number;
        self.ask(Ask::Caption { number, box_px: Some(box_px) });
    }

    pub fn drop_box(&mut self) {
        if let Some(look) = &mut self.look {
            look.dragged = None;
            look.clicks.forget();
        }
    }

    /// Requests a caption of the whole photo.
    pub fn caption_whole(&mut self) {
        let Some(look) = &mut self.look else { return };
        if look.caption.is_none() {
            look.caption = Some(Writing::default());
            look.problem = None;
            let number = look.number;
            self.ask(Ask::Caption { number, box_px: None });
        }
    }

    /// Requests the place of the phrase in the photo.
    pub fn locate(&mut self) {
        let Some(look) = &mut self.look else { return };
        let text = look.phrase.trim().to_owned();
        if !text.is_empty() {
            (look.locating, look.problem, look.heat_on) = (true, None, true);
            let number = look.number;
            self.ask(Ask::Locate { number, text });
        }
    }

    /// Requests a sidecar with the caption of the whole photo.
    pub fn write_sidecar(&mut self, replace: bool) {
        let Some(look) = &mut self.look else { return };
        let caption = match (&look.foreign, &look.caption) {
            (Some((_, caption)), _) => caption.clone(),
            (None, Some(Writing { text, done: true })) => text.clone(),
            _ => return,
        };
        look.foreign = None;
        let photo = look.path.clone();
        self.ask(Ask::Sidecar { photo, caption, replace });
    }

    /// The photo that is open, or else selected.
    pub fn current_path(&self) -> Option<&Path> {
        match &self.look {
            Some(look) => Some(&look.path),
            None => self.shown(self.selected?).map(|shown| shown.path),
        }
    }

    // Folders and the model.

    /// Adds a folder, if it exists, and indexes all folders. The worker checks the path, because
    /// that may be slow.
    pub fn add_folder(&mut self, folder: PathBuf) {
        self.ask(Ask::Given { path: folder, dropped: false });
    }

    /// Handles a path dropped on the window: adds a folder, or searches for photos like a photo.
    pub fn drop_path(&mut self, path: PathBuf) {
        self.ask(Ask::Given { path, dropped: true });
    }

    fn given(&mut self, path: PathBuf, what: PathKind, dropped: bool) {
        match what {
            PathKind::Folder => {
                self.settings.add_folder(path);
                self.remember();
                self.index();
            }
            PathKind::File if dropped => self.search_like(path, None),
            PathKind::File => {
                self.notice = Some(format!("This is not a folder: {}", printable_path(&path)))
            }
            PathKind::Nothing => {
                self.notice = Some(format!("There is no such folder: {}", printable_path(&path)))
            }
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
            self.ask(Ask::Index(self.settings.folders.clone()));
        }
    }

    pub fn pause(&mut self, pause: bool) {
        if pause {
            self.control.pause();
            self.indexing.pace.pause();
        } else {
            self.control.go_on();
        }
    }

    /// Opens another model, or the embedded one if `None`.
    pub fn open_model(&mut self, folder: Option<PathBuf>) {
        self.control.stop();
        (self.model, self.look, self.hits) = (Model::Opening, None, Hits::default());
        (self.selected, self.searching, self.complaint) = (None, false, None);
        self.model_folder.clone_from(&folder);
        self.model_chosen = true;
        self.ask(Ask::Model(folder));
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

    /// Handles a message. `News::Cell` is handled by the window.
    pub fn take(&mut self, news: News, now_secs: f64) {
        match news {
            News::Ready(ready) => self.opened(ready),
            News::Broken(why) => {
                self.events.tell("broken", &[("why", why.as_str().into())]);
                self.model = Model::Broken(why);
            }
            News::Catalogue(catalogue) => {
                if let Model::Open(ready) = &mut self.model {
                    ready.catalogue = catalogue;
                    // Repeats the search, so that the user sees new photos during indexing.
                    self.search();
                }
            }
            News::Hits { number, hits, query, doubts } if number == self.search_number => {
                self.found(number, hits, query);
                self.doubts = doubts;
            }
            News::NoHits { number, why } if number == self.search_number => {
                self.searching = false;
                self.events.tell("no_hits", &[("why", why.as_str().into())]);
                self.doubts.clear();
                self.complaint = Some(why);
            }
            News::Hits { .. } | News::NoHits { .. } | News::Cell(_) => {}
            News::Given { path, what, dropped } => self.given(path, what, dropped),
            News::Index(news) => self.indexed(news, now_secs),
            News::Sidecar { photo, caption, result } => self.wrote(photo, caption, result),
            News::Boxes { number, point_px, boxes } => self.proposed(number, point_px, boxes),
            News::Looked { .. }
            | News::Caption { .. }
            | News::Located { .. }
            | News::Failed { .. } => {
                self.looked(news);
            }
        }
    }

    fn opened(&mut self, ready: Ready) {
        let source = Source {
            library: self.library.clone(),
            fingerprint: ready.fingerprint,
            dim: ready.dim,
        };
        self.wants.open(source);
        self.events.tell(
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
        (self.searching, self.complaint) = (false, None);
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
        self.wants.compare(number, query.clone());
        let scored = query.is_some();
        self.hits = Hits { all: hits, unfolded, scored, query, number, ..Hits::default() };
        self.arrange(selected);
        let first: Vec<String> = (0..self.n_shown().min(5))
            .filter_map(|at| self.shown(at))
            .map(|shown| as_text(shown.path))
            .collect();
        self.events.tell(
            "hits",
            &[
                ("query", self.searched.as_str().into()),
                ("n", self.n_shown().into()),
                ("first", first.into()),
            ],
        );
    }

    fn indexed(&mut self, news: IndexNews, now_secs: f64) {
        let indexing = &mut self.indexing;
        match news {
            IndexNews::Walking => indexing.running = true,
            IndexNews::Begun(n_files) => indexing.pace.begin(n_files, now_secs),
            IndexNews::Done(n_files) => {
                indexing.pace.advance(n_files, now_secs);
                if self.control.is_paused() {
                    indexing.pace.pause();
                }
            }
            IndexNews::LeftOut(what) => indexing.left_out = Some(what),
            IndexNews::Problem(path, why) => indexing.problems.push((path, why)),
            IndexNews::Ended(result) => {
                indexing.running = false;
                let n_problems = indexing.problems.len();
                self.notice = Some(match &result {
                    Ok(summary) => summary_in_words(*summary),
                    Err(why) => format!("Indexing ended: {why}"),
                });
                let encoded = result.as_ref().map_or(0, |summary| summary.encoded);
                self.events.tell(
                    "indexed",
                    &[("encoded", encoded.into()), ("problems", n_problems.into())],
                );
            }
        }
    }

    fn wrote(&mut self, photo: PathBuf, caption: String, result: Result<Written, String>) {
        match result {
            Ok(Written::Done(path)) => {
                self.notice = Some(format!("Wrote {}", printable_path(&path)))
            }
            Ok(Written::Foreign(path)) => {
                if let Some(look) = self.look.as_mut().filter(|look| look.path == photo) {
                    look.foreign = Some((path, caption));
                }
            }
            Err(why) => self.notice = Some(why),
        }
    }

    fn proposed(&mut self, number: u64, point: PointPx, boxes: Vec<BoxPx>) {
        let Some(look) = self.look.as_mut().filter(|look| look.number == number) else { return };
        if let Some(box_px) = look.clicks.tell(point, boxes) {
            self.describe(box_px);
        }
        self.ask_for_boxes();
    }

    fn looked(&mut self, news: News) {
        let Some(look) = &mut self.look else { return };
        match news {
            News::Looked { number, pixels, size_px } if number == look.number => {
                self.events.tell("photo", &[("path", as_text(&look.path).into())]);
                (look.pixels, look.size_px) = (Some(pixels), size_px);
            }
            News::Caption { number, box_px, text, done } if number == look.number => {
                let writing = match (box_px, &mut look.dragged, &mut look.caption) {
                    (Some(of), Some((box_px, writing)), _) if of == *box_px => writing,
                    (None, _, Some(writing)) => writing,
                    _ => return,
                };
                if done {
                    self.events.tell(
                        "caption",
                        &[("box", json_box(box_px)), ("text", text.as_str().into())],
                    );
                }
                *writing = Writing { text, done };
            }
            News::Located { number, text, heat, box_px, score } if number == look.number => {
                look.locating = false;
                self.events.tell(
                    "located",
                    &[("text", text.as_str().into()), ("box", json_box(Some(box_px)))],
                );
                let number = look.located.as_ref().map_or(0, |located| located.number) + 1;
                look.located = Some(Located { text, box_px, score, heat, number });
            }
            News::Failed { number, why } if number == look.number => {
                look.locating = false;
                look.clicks.fail();
                // No caption will arrive for these requests.
                look.caption.take_if(|writing| !writing.done);
                look.dragged.take_if(|(_, writing)| !writing.done);
                self.events.tell("failed", &[("why", why.as_str().into())]);
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
