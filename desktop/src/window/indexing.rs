//! Indexing in the background: the thread, its controls and its speed.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::Result;

use super::messages::{Event, EventSender, IndexEvent, Request};
use crate::context::Context;
use crate::device::failure::is_the_devices;
use crate::library::{IndexObserver, Indexing, Library, LibraryError, Summary, root_on_one_line};
use crate::photos::walk;

/// Pauses and stops the indexing thread.
#[derive(Debug, Default)]
pub struct Control {
    run: Mutex<Run>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Run {
    #[default]
    On,
    Paused,
    Stopped,
}

impl Control {
    pub fn go_on(&self) {
        self.set(Run::On);
    }

    /// Pauses until [`Self::go_on`]; the current batch is finished first.
    pub fn pause(&self) {
        self.set(Run::Paused);
    }

    /// Stops indexing; written batches stay.
    pub fn stop(&self) {
        self.set(Run::Stopped);
    }

    pub fn is_paused(&self) -> bool {
        *self.run.lock().unwrap_or_else(PoisonError::into_inner) == Run::Paused
    }

    fn set(&self, run: Run) {
        *self.run.lock().unwrap_or_else(PoisonError::into_inner) = run;
        self.changed.notify_all();
    }

    /// Blocks while paused; returns whether to continue.
    fn checkpoint(&self) -> ControlFlow<()> {
        let mut run = self.run.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match *run {
                Run::On => return ControlFlow::Continue(()),
                Run::Stopped => return ControlFlow::Break(()),
                Run::Paused => run = self.changed.wait(run).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// The task of the indexing thread.
pub struct Job {
    pub folders: Vec<PathBuf>,
    pub library: PathBuf,
    pub context: Arc<Context>,
    pub control: Arc<Control>,
}

/// Starts the thread; it sends `to_worker` a message after each batch and at its end.
pub fn start(job: Job, to_worker: Sender<Request>, events: EventSender) -> JoinHandle<()> {
    let run = move || {
        let mut reporter = Reporter { to_worker, events, control: job.control.clone() };
        let result = fill(&job, &mut reporter);
        let device_failed = result.as_ref().is_err_and(is_the_devices);
        let result = result.map_err(|error| format!("{error:#}"));
        reporter.events.send(Event::Index(IndexEvent::Ended(result)));
        let _ = reporter.to_worker.send(Request::Indexed);
        if device_failed {
            let _ = reporter.to_worker.send(Request::DeviceFailed);
        }
    };
    thread::Builder::new().name("index".into()).spawn(run).expect("a thread can be started")
}

fn fill(job: &Job, reporter: &mut Reporter) -> Result<Summary> {
    reporter.send(IndexEvent::Walking);
    let (there, missing): (Vec<PathBuf>, Vec<PathBuf>) =
        job.folders.iter().cloned().partition(|folder| folder.is_dir());
    for folder in missing {
        let why =
            "this folder is not there; is its drive connected? Its photos stay in the library";
        reporter.send(IndexEvent::Problem(folder, why.into()));
    }
    let dim = job.context.session.config().embed_dim;
    let mut library = Library::open(&job.library, job.context.fingerprint, dim)?;
    // Applies the exclusions that `mmgem index` saved.
    let roots =
        there.iter().map(|folder| library.as_remembered(folder)).collect::<Result<Vec<_>, _>>()?;
    let found = walk(&roots, true)?;
    if let Some(left_out) = found.left_out.in_words() {
        reporter.send(IndexEvent::LeftOut(left_out));
    }
    for (path, why) in &found.skipped {
        reporter.send(IndexEvent::Problem(path.clone(), why.clone()));
    }
    Ok(library.update(&found, Indexing::of(&job.context.session), reporter)?)
}

struct Reporter {
    to_worker: Sender<Request>,
    events: EventSender,
    control: Arc<Control>,
}

impl Reporter {
    fn send(&self, event: IndexEvent) {
        self.events.send(Event::Index(event));
    }
}

impl IndexObserver for Reporter {
    fn begin(&mut self, n_files: usize) {
        self.send(IndexEvent::Begun(n_files));
    }

    fn advance(&mut self, n_files: usize) -> ControlFlow<()> {
        self.send(IndexEvent::Done(n_files));
        let _ = self.to_worker.send(Request::Changed);
        self.control.checkpoint()
    }

    fn refuse(&mut self, path: &Path, error: LibraryError) -> ControlFlow<()> {
        self.send(IndexEvent::Problem(path.to_owned(), root_on_one_line(&error)));
        ControlFlow::Continue(())
    }

    fn warn(&mut self, path: &Path, problem: &str) {
        self.send(IndexEvent::Problem(path.to_owned(), problem.to_owned()));
    }
}

/// Progress, speed and remaining time of indexing, from the times of its messages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// Number of new or changed files; `None` while the folders are searched.
    pub n_files: Option<usize>,
    pub done: usize,
    /// Seconds of work, without pauses, and the files done in them.
    worked_secs: f64,
    timed: usize,
    /// Time of the last message; `None` while paused.
    last_secs: Option<f64>,
}

impl Progress {
    pub fn begin(&mut self, n_files: usize, now_secs: f64) {
        *self = Self { n_files: Some(n_files), last_secs: Some(now_secs), ..Self::default() };
    }

    pub fn advance(&mut self, n_files: usize, now_secs: f64) {
        if let Some(last) = self.last_secs {
            self.worked_secs += now_secs - last;
            self.timed += n_files;
        }
        (self.last_secs, self.done) = (Some(now_secs), self.done + n_files);
    }

    /// Time up to the next message does not count as work, and its files not for the speed.
    pub fn pause(&mut self) {
        self.last_secs = None;
    }

    /// Share of the files that are done, 0 to 1.
    pub fn share(&self) -> f32 {
        match self.n_files {
            Some(n_files) if n_files > 0 => self.done as f32 / n_files as f32,
            _ => 0.0,
        }
    }

    pub fn photos_per_sec(&self) -> Option<f64> {
        (self.worked_secs > 0.0).then(|| self.timed as f64 / self.worked_secs)
    }

    /// Progress as a line for the user.
    pub fn in_words(&self) -> String {
        let Some(n_files) = self.n_files else { return "Looking through the folders".into() };
        let done = format!("{} of {n_files} photos", self.done);
        match self.photos_per_sec().filter(|rate| *rate > 0.0) {
            None => done,
            Some(rate) => {
                let left = duration_in_words(n_files.saturating_sub(self.done) as f64 / rate);
                format!("{done}, {rate:.0} a second, {left} left")
            }
        }
    }
}

/// A duration in one or two figures.
pub fn duration_in_words(secs: f64) -> String {
    match secs.round() as u64 {
        secs @ 0..100 => format!("{secs} s"),
        secs @ 100..6000 => format!("{} min", (secs + 30) / 60),
        secs => format!("{} h {} min", secs / 3600, secs % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_time_left_leave_pauses_out() {
        let mut progress = Progress::default();
        assert_eq!(progress.in_words(), "Looking through the folders");
        progress.begin(100, 10.0);
        assert_eq!(progress.in_words(), "0 of 100 photos");
        progress.advance(16, 12.0);
        assert_eq!(progress.in_words(), "16 of 100 photos, 8 a second, 11 s left");
        progress.pause();
        progress.advance(16, 500.0);
        progress.advance(16, 502.0);
        assert_eq!(progress.in_words(), "48 of 100 photos, 8 a second, 7 s left");
        assert_eq!(progress.share(), 0.48);
    }

    #[test]
    fn durations_are_short() {
        let words = [0.4, 99.0, 100.0, 3600.0, 7260.0].map(duration_in_words);
        assert_eq!(words, ["0 s", "99 s", "2 min", "60 min", "2 h 1 min"]);
    }

    #[test]
    fn a_paused_thread_waits_until_it_may_go_on_or_must_end() {
        let control = Arc::new(Control::default());
        assert!(control.checkpoint().is_continue());
        for (end, goes_on) in [(Control::go_on as fn(&Control), true), (Control::stop, false)] {
            control.pause();
            assert!(control.is_paused());
            let waiting = control.clone();
            let thread = thread::spawn(move || waiting.checkpoint().is_continue());
            thread::sleep(std::time::Duration::from_millis(20));
            assert!(!thread.is_finished());
            end(&control);
            assert_eq!(thread.join().expect("no panic"), goes_on);
        }
    }
}
