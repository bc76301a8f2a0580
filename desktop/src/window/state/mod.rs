//! The state of the window, without drawing: takes the user's actions and the threads' messages,
//! and sends requests to the threads.

mod hits;
mod library;
mod open_photo;
mod selection;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use mmgem_core::image::BoxPx;

use crate::library::Cutoff;
use crate::window::event_log::EventLog;
use crate::window::indexing::{Control, Progress};
use crate::window::messages::{Catalogue, Event, Marked, Ready, Request, Search, Target};
use crate::window::settings::{Settings, Theme};
use crate::window::thumbnails::{CellRequests, Source};
use hits::FileOf;
pub use hits::{Hits, More, Shown};
pub use open_photo::{CaptionText, OpenPhoto};

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
    pub camera: Option<String>,
    pub format: Option<String>,
    /// A place in the syntax of `near:`; empty for anywhere.
    pub near: String,
    pub marked: Marked,
    pub by_region: bool,
    /// Searches for photos like this one, or like this region of it, instead of the text.
    pub like: Option<(PathBuf, Option<BoxPx>)>,
}

impl Form {
    /// The filters, in the query syntax.
    fn filters(&self) -> String {
        let filter = |key: &str, value: &str| match value.trim() {
            "" => String::new(),
            value if value.contains(char::is_whitespace) => {
                format!("{key}:\"{}\" ", value.replace('"', ""))
            }
            value => format!("{key}:{value} "),
        };
        let chosen = |value: &Option<String>| value.clone().unwrap_or_default();
        // Users write spaces after commas.
        let near: String = self.near.split_whitespace().collect();
        [
            filter("after", &self.after),
            filter("before", &self.before),
            filter("near", &near),
            filter("camera", &chosen(&self.camera)),
            filter("type", &chosen(&self.format)),
        ]
        .concat()
    }

    /// Number of filters that are set.
    pub fn n_filters(&self) -> usize {
        let texts = [&self.after, &self.before, &self.near];
        texts.iter().filter(|text| !text.trim().is_empty()).count()
            + [self.folder.is_some(), self.camera.is_some(), self.format.is_some()]
                .into_iter()
                .filter(|is_set| *is_set)
                .count()
            + usize::from(self.marked != Marked::Shown)
            + usize::from(self.by_region)
    }
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
    /// Leaves weak matches out.
    pub good_only: bool,
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
    /// Files chosen besides the selected one.
    chosen: HashSet<FileOf>,
    /// The cell where a range of chosen ones begins.
    anchor: Option<usize>,
    /// Row in `content` of the photo in [`Form::like`], if the library has it.
    pub like_content: Option<i64>,
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
            good_only: false,
            hits: Hits::default(),
            search_error: None,
            warnings: Vec::new(),
            due_secs: None,
            searching: false,
            search_number: 0,
            searched: String::new(),
            number: 0,
            selected: None,
            chosen: HashSet::new(),
            anchor: None,
            like_content: None,
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
        let Form { text, folder, by_region, like, marked, .. } = &self.form;
        let target = match like {
            Some((path, box_px)) => Target::Photo { path: path.clone(), box_px: *box_px },
            None => Target::Text(text.clone()),
        };
        self.send(Request::Search(Search {
            number,
            target,
            filters: self.form.filters(),
            folder: folder.clone(),
            by_region: *by_region,
            marked: *marked,
        }));
        self.searched.clone_from(&self.form.text);
        self.searching = true;
    }

    /// Searches for photos like one, or like a region of it.
    pub fn search_like(&mut self, path: PathBuf, box_px: Option<BoxPx>) {
        self.like_content = self.catalogue().and_then(|catalogue| {
            { catalogue.photos.values().find(|photo| photo.paths.contains(&path)) }
                .map(|photo| photo.content)
        });
        self.form.text.clear();
        self.form.like = Some((path, box_px));
        self.photo = None;
        self.selected = None;
        self.search();
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
            Event::Hits { number, hits, query, warnings, weak_below }
                if number == self.search_number =>
            {
                self.found(number, hits, query, weak_below);
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
            Event::FolderChosen { to, folder } => self.folder_chosen(to, folder),
            Event::Exported(says) => {
                self.log.print("exported", &[("says", says.as_str().into())]);
                self.notice = Some(says);
            }
            Event::Marks(marks) => {
                if let Model::Open(ready) = &mut self.model {
                    ready.marks = marks;
                    // A photo may be hidden now, or no favourite any more.
                    self.search();
                }
            }
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
}

/// The canonical path, which does not depend on the working folder; `folder` itself if missing.
pub fn absolute(folder: &Path) -> PathBuf {
    folder.canonicalize().unwrap_or_else(|_| folder.to_owned())
}
