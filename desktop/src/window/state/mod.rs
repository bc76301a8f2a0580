//! The state of the window, without drawing: takes the user's actions and the threads' messages,
//! and sends requests to the threads.

mod hits;
mod open_photo;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use mmgem_core::image::BoxPx;

use crate::library::Cutoff;
use crate::names::shown;
use crate::window::event_log::EventLog;
use crate::window::indexing::{Control, Progress};
use crate::window::messages::{
    Catalogue, Event, IndexEvent, PathKind, Ready, Request, Search, Target,
};
use crate::window::settings::{Settings, Theme};
use crate::window::thumbnails::{CellRequests, Source};
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
