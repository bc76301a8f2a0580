//! The worker: the thread that has the model and the library. It searches, captions and locates,
//! one request after the other, and starts the indexing thread.

mod open_photo;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result};
use mmgem_core::image::BoxPx;
use mmgem_core::index;
use mmgem_core::kernels::is_on_cpu;

use crate::context::Context;
use crate::device::DeviceChoice;
use crate::device::failure::is_the_devices;
use crate::globals::Globals;
use crate::library::{Cutoff, Library, MarkChange, MemoryTextCache, Photo, Ranked};
use crate::photos::warn_of_part;
use crate::query::{Query, Term, TermKind};
use crate::window::dialogs;
use crate::window::export;
use crate::window::indexing::{self, Control};
use crate::window::messages::{
    Catalogue, Event, EventSender, Marks, PathKind, Ready, Request, Search, Target,
};
use crate::window::sidecar::write_sidecar;
use crate::window::state::absolute;
use crate::window::warm_up::WarmUp;
use crate::window::weak::WeakBelow;
use open_photo::DecodedPhoto;

/// While the library grows, the catalogue is read again. The pause before is at least this many
/// times the duration of the last read.
const CATALOGUE_SHARE: u32 = 5;
/// Minimum pause between reads of the catalogue.
const CATALOGUE_EVERY: Duration = Duration::from_millis(700);

/// Starts the worker. `to_self` is a sender for `requests`, for the indexing thread.
pub fn start(
    globals: Globals,
    library: PathBuf,
    requests: Receiver<Request>,
    to_self: Sender<Request>,
    events: EventSender,
    control: Arc<Control>,
) {
    let worker = Worker {
        globals,
        file: library,
        opened: None,
        requests,
        to_self,
        waiting: VecDeque::new(),
        events,
        control,
        indexing: None,
        index_next: None,
        photo: None,
        embedded: None,
        texts: MemoryTextCache::default(),
        catalogue_due: None,
        catalogue_took: Duration::ZERO,
    };
    thread::Builder::new()
        .name("model".into())
        .spawn(move || worker.run())
        .expect("a thread can be started");
}

struct Worker {
    globals: Globals,
    file: PathBuf,
    opened: Option<Opened>,
    requests: Receiver<Request>,
    to_self: Sender<Request>,
    /// Requests received but not answered.
    waiting: VecDeque<Request>,
    events: EventSender,
    control: Arc<Control>,
    indexing: Option<thread::JoinHandle<()>>,
    /// Folders to index once the indexing thread has ended.
    index_next: Option<Vec<PathBuf>>,
    photo: Option<DecodedPhoto>,
    /// The last query and its embedding, because a repeated search has the same query.
    embedded: Option<(Vec<Term>, Option<BoxPx>, Arc<index::Query>)>,
    /// Text embeddings of the open model.
    texts: MemoryTextCache,
    /// When to read the catalogue again.
    catalogue_due: Option<Instant>,
    catalogue_took: Duration,
}

struct Opened {
    context: Arc<Context>,
    library: Library,
    catalogue: Arc<Catalogue>,
    marks: Marks,
    cutoffs: Vec<Cutoff>,
    /// `None` on the CPU and once the warm-up is done.
    warm_up: Option<WarmUp>,
}

impl Worker {
    fn run(mut self) {
        while let Some(request) = self.next() {
            let number = match &request {
                Request::OpenPhoto { number, .. }
                | Request::Caption { number, .. }
                | Request::Boxes { number, .. }
                | Request::Locate { number, .. } => Some(*number),
                Request::Search(search) => Some(search.number),
                _ => None,
            };
            let is_search = matches!(request, Request::Search(_));
            // A panic of a device or decoder must not leave the window waiting.
            let done = catch_unwind(AssertUnwindSafe(|| {
                self.answer(request.clone()).or_else(|error| self.answer_on_the_cpu(error, request))
            }));
            let done = done.unwrap_or_else(|_| {
                Err(anyhow::anyhow!("this program failed; stderr has the details"))
            });
            if let Err(error) = done {
                let why = in_words(&error);
                self.events.send(match number {
                    Some(number) if is_search => Event::NoHits { number, why },
                    Some(number) => Event::Failed { number, why },
                    None => Event::Problem(why),
                });
            }
        }
    }

    /// The next request; skips requests that a newer one replaces. `None` once the window is
    /// closed.
    fn next(&mut self) -> Option<Request> {
        loop {
            self.pump();
            if let Some(request) = self.waiting.pop_front() {
                let replaced = match &request {
                    Request::Search(_) => {
                        self.waiting.iter().any(|request| matches!(request, Request::Search(_)))
                    }
                    Request::OpenPhoto { .. }
                    | Request::Caption { .. }
                    | Request::Boxes { .. }
                    | Request::Locate { .. } => self
                        .waiting
                        .iter()
                        .any(|request| matches!(request, Request::OpenPhoto { .. })),
                    _ => false,
                };
                if !replaced {
                    return Some(request);
                }
                continue;
            }
            if self.warm_up() {
                continue;
            }
            let received = match self.catalogue_due {
                None => self.requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => {
                    self.requests.recv_timeout(due.saturating_duration_since(Instant::now()))
                }
            };
            match received {
                Ok(request) => self.waiting.push_back(request),
                Err(RecvTimeoutError::Timeout) => self.renew_catalogue(),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// Runs one warm-up operation; `false` if there are none left.
    fn warm_up(&mut self) -> bool {
        let Some(opened) = &mut self.opened else { return false };
        let Some(warm_up) = &mut opened.warm_up else { return false };
        let done = catch_unwind(AssertUnwindSafe(|| warm_up.ask_one(&opened.context.session)));
        // If this panics, it panics again on a real request, which reports it.
        let done = done.unwrap_or(Ok(false));
        if !matches!(done, Ok(true)) {
            opened.warm_up = None;
        }
        done.unwrap_or_else(|error| {
            if self.moves(&error.into()) {
                self.open_on_the_cpu();
            }
            false
        })
    }

    fn pump(&mut self) {
        self.waiting.extend(self.requests.try_iter());
    }

    fn answer(&mut self, request: Request) -> Result<()> {
        match request {
            Request::OpenModel(folder) => self.open(folder),
            Request::Search(search) => self.search(search)?,
            Request::OpenPhoto { number, path } => self.look(number, &path)?,
            Request::Caption { number, box_px } => self.caption(number, box_px)?,
            Request::Boxes { number, point_px } => self.boxes(number, point_px)?,
            Request::Locate { number, text } => self.locate(number, text)?,
            Request::Sidecar { photo, caption, replace } => {
                let result =
                    write_sidecar(&photo, &caption, replace).map_err(|error| in_words(&error));
                self.events.send(Event::Sidecar { photo, caption, result });
            }
            Request::CheckPath { path, dropped } => self.events.send(check_path(&path, dropped)),
            Request::ChooseFolder(to) => dialogs::choose_folder(to, self.events.clone()),
            Request::Export { photos, folder } => {
                export::start(photos, folder, self.events.clone());
            }
            Request::Mark { contents, change } => self.mark(&contents, change)?,
            Request::Index(folders) => self.index(folders),
            Request::Changed => {
                let pause = CATALOGUE_EVERY.max(CATALOGUE_SHARE * self.catalogue_took);
                self.catalogue_due.get_or_insert_with(|| Instant::now() + pause);
            }
            Request::DeviceFailed => {
                // All later requests would fail too. Opening the model again also restarts
                // indexing.
                if self.globals.device == DeviceChoice::Auto {
                    self.open_on_the_cpu();
                }
            }
            Request::Indexed => {
                self.indexing = None;
                self.renew_catalogue();
                if let Some(folders) = self.index_next.take() {
                    self.index(folders);
                }
            }
        }
        Ok(())
    }

    fn open(&mut self, folder: Option<PathBuf>) {
        // The indexing thread still uses the old model.
        self.control.stop();
        if let Some(thread) = self.indexing.take() {
            let _ = thread.join();
        }
        (self.opened, self.photo, self.embedded) = (None, None, None);
        self.texts = MemoryTextCache::default();
        self.globals.model = folder;
        let opened = self.try_open();
        let opened =
            opened.or_else(|error| if self.moves(&error) { self.try_open() } else { Err(error) });
        match opened {
            Ok(opened) => {
                let context = &opened.context;
                self.events.send(Event::Ready(Ready {
                    model_name: context.model_name.clone(),
                    device_name: context.device_name.clone(),
                    fingerprint: context.fingerprint,
                    dim: context.session.config().embed_dim,
                    catalogue: opened.catalogue.clone(),
                    marks: opened.marks.clone(),
                    cutoffs: opened.cutoffs.clone(),
                }));
                self.opened = Some(opened);
            }
            Err(error) => self.events.send(Event::Broken(in_words(&error))),
        }
    }

    /// Whether the CPU replaces a failed device; if so, selects the CPU.
    fn moves(&mut self, error: &Error) -> bool {
        let moves = self.globals.device == DeviceChoice::Auto && is_the_devices(error);
        if moves {
            self.globals.device = DeviceChoice::Cpu;
        }
        moves
    }

    fn answer_on_the_cpu(&mut self, error: Error, request: Request) -> Result<()> {
        if !self.moves(&error) {
            return Err(error);
        }
        self.open_on_the_cpu();
        self.answer(request)
    }

    fn open_on_the_cpu(&mut self) {
        self.globals.device = DeviceChoice::Cpu;
        let photo = self.photo.take();
        self.open(self.globals.model.clone());
        // The photo is still open in the window.
        self.photo = photo.map(DecodedPhoto::without_encoding);
    }

    fn try_open(&self) -> Result<Opened> {
        let context = self.globals.open()?;
        let dim = context.session.config().embed_dim;
        let library = match self.file.is_file() {
            true => Library::open_to_search(&self.file, context.fingerprint, dim)?,
            false => Library::open(&self.file, context.fingerprint, dim)?,
        };
        let catalogue = Arc::new(read_catalogue(&library)?);
        let marks = Arc::new(library.marks()?);
        let cutoffs = library.cutoffs_or(&context.session.config().search_cutoffs)?;
        let warm_up = (!is_on_cpu(context.session.device())).then(WarmUp::default);
        Ok(Opened { context: Arc::new(context), library, catalogue, marks, cutoffs, warm_up })
    }

    fn opened(&self) -> Result<&Opened> {
        self.opened.as_ref().context("no model is open")
    }

    fn renew_catalogue(&mut self) {
        self.catalogue_due = None;
        let Some(opened) = &mut self.opened else { return };
        let start = Instant::now();
        match read_catalogue(&opened.library) {
            Ok(catalogue) => {
                opened.catalogue = Arc::new(catalogue);
                self.events.send(Event::Catalogue(opened.catalogue.clone()));
            }
            Err(error) => self.events.send(Event::Problem(in_words(&error))),
        }
        self.catalogue_took = start.elapsed();
    }

    fn mark(&mut self, contents: &[i64], change: MarkChange) -> Result<()> {
        let opened = self.opened.as_mut().context("no model is open")?;
        opened.library.mark(contents, change)?;
        opened.marks = Arc::new(opened.library.marks()?);
        self.events.send(Event::Marks(opened.marks.clone()));
        Ok(())
    }

    fn index(&mut self, folders: Vec<PathBuf>) {
        if self.indexing.is_some() {
            self.control.stop();
            self.index_next = Some(folders);
            return;
        }
        let Some(opened) = &self.opened else { return };
        self.control.go_on();
        let job = indexing::Job {
            folders,
            library: self.file.clone(),
            context: opened.context.clone(),
            control: self.control.clone(),
        };
        self.indexing = Some(indexing::start(job, self.to_self.clone(), self.events.clone()));
    }

    fn search(&mut self, search: Search) -> Result<()> {
        let mut query = Query::read(&search.filters)?;
        let box_px = match search.target {
            Target::Text(text) => {
                let Query { terms, filters } = Query::read(&text)?;
                query.terms = terms;
                query.filters.extend(filters);
                None
            }
            Target::Photo { path, box_px } => {
                query.terms = vec![Term { weight: 1.0, what: TermKind::Photo(path) }];
                box_px
            }
        };
        let vector = if query.terms.is_empty() { None } else { Some(self.embed(&query, box_px)?) };
        let Opened { context, library, catalogue, marks, cutoffs, .. } = self.opened()?;
        let mut warnings = query.warnings(context.session.tokenizer())?;
        let in_folder =
            |path: &Path| search.folder.as_ref().is_none_or(|folder| path.starts_with(folder));
        let keep = |photo: &Photo| {
            let mark = marks.get(&photo.content).copied().unwrap_or_default();
            search.marked.keeps(mark)
                && photo.paths.iter().any(|path| in_folder(path) && query.keeps(photo, path))
        };
        let hits = match &vector {
            Some(vector) => {
                let by_region = search.by_region || box_px.is_some();
                library.rank(&catalogue.shelf, &catalogue.photos, vector, by_region, keep)?
            }
            None => everything(catalogue, keep),
        };
        let best =
            hits.first().map(|hit| hit.score).filter(|_| vector.is_some() && !search.by_region);
        warnings.extend(query.nothing_found(best, cutoffs));
        let weak_below = vector.as_ref().and_then(|_| {
            // Cut-offs are measured with whole photos and single texts.
            let is_text = matches!(
                query.terms.as_slice(),
                [Term { weight, what: TermKind::Text(_) }] if *weight > 0.0
            );
            let measured = Cutoff::weak_below(cutoffs).filter(|_| is_text && !search.by_region);
            WeakBelow::of(measured, &hits)
        });
        self.events.send(Event::Hits {
            number: search.number,
            hits,
            query: vector,
            warnings,
            weak_below,
        });
        Ok(())
    }

    fn embed(&mut self, query: &Query, box_px: Option<BoxPx>) -> Result<Arc<index::Query>> {
        if let Some((terms, last_box, vector)) = &self.embedded
            && (terms, *last_box) == (&query.terms, box_px)
        {
            return Ok(vector.clone());
        }
        let context = self.opened()?.context.clone();
        let vector = query.embed(box_px, &context.session, &mut self.texts, &mut warn_of_part)?;
        let vector = Arc::new(index::Query::new(&vector));
        self.embedded = Some((query.terms.clone(), box_px, vector.clone()));
        Ok(vector)
    }
}

/// Checks the type of a path. This is slow on a sleeping or network drive.
pub fn check_path(path: &Path, dropped: bool) -> Event {
    let kind = match path.metadata() {
        Ok(metadata) if metadata.is_dir() => PathKind::Folder,
        Ok(_) => PathKind::File,
        Err(_) => PathKind::Missing,
    };
    Event::PathChecked { path: absolute(path), kind, dropped }
}

fn read_catalogue(library: &Library) -> Result<Catalogue> {
    let mut catalogue = Catalogue::new(library.vector_store()?, library.photos()?);
    catalogue.photos.retain(|content, _| catalogue.shelf.has(*content));
    catalogue.problems = library.problems()?;
    if catalogue.photos.is_empty() {
        catalogue.n_of_others = library.photos_of_other_models()?;
    }
    Ok(catalogue)
}

/// All photos that pass the filter, the latest first.
fn everything(catalogue: &Catalogue, keep: impl Fn(&Photo) -> bool) -> Vec<Ranked> {
    let mut photos: Vec<&Photo> = catalogue.photos.values().filter(|photo| keep(photo)).collect();
    photos.sort_unstable_by_key(|photo| std::cmp::Reverse((photo.taken.secs, photo.content)));
    let ranked = |photo: &Photo| Ranked { content: photo.content, score: 0.0 };
    photos.into_iter().map(ranked).collect()
}

/// An error for the user: the message, then each cause once.
fn in_words(error: &Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push('\n');
            text.push_str(&cause);
        }
    }
    text
}
