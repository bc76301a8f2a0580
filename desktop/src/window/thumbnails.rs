//! Reads thumbnails and best boxes for the visible cells of the grid, on a thread of its own.

use std::collections::HashMap;
use std::hash::Hash;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::Result;
use mmgem_core::image::{Rgb, decode};
use mmgem_core::index::Query;

use super::messages::{Cell, Event, EventSender};
use crate::library::Library;

/// Cells read ahead of the window. A larger number would delay visible cells behind cells that
/// scrolled away.
const MOST_AHEAD: usize = 32;

/// A cell with a missing thumbnail or box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingCell {
    pub content: i64,
    pub image: bool,
    pub best_box: bool,
}

/// The library of the cells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub library: PathBuf,
    pub fingerprint: u64,
    pub dim: usize,
}

/// The missing cells: the window writes them in every frame, the thread reads them.
#[derive(Debug, Default)]
pub struct CellRequests {
    now: Mutex<Now>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Now {
    source: Option<Source>,
    /// In reverse order: the last is read first.
    missing: Vec<MissingCell>,
    query: Option<Arc<Query>>,
    /// Number of the search that the boxes belong to.
    number: u64,
    /// Cells that were read and not yet taken by the window.
    n_ahead: usize,
    closed: bool,
}

impl CellRequests {
    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the library to read from.
    pub fn open(&self, source: Source) {
        let mut now = self.lock();
        (now.source, now.missing) = (Some(source), Vec::new());
    }

    /// Sets the query that the best boxes must fit.
    pub fn compare(&self, number: u64, query: Option<Arc<Query>>) {
        let mut now = self.lock();
        (now.number, now.query, now.missing) = (number, query, Vec::new());
    }

    /// Replaces the requested cells; cells that are no longer visible are not read.
    pub fn want(&self, mut missing: Vec<MissingCell>) {
        missing.reverse();
        self.lock().missing = missing;
        self.changed.notify_one();
    }

    /// The window has taken a cell.
    pub fn taken(&self) {
        let mut now = self.lock();
        now.n_ahead = now.n_ahead.saturating_sub(1);
        self.changed.notify_one();
    }

    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// The next cell to read, with its library, search number and query; `None` once closed.
    fn next(&self) -> Option<(Source, MissingCell, u64, Option<Arc<Query>>)> {
        let mut now = self.lock();
        loop {
            if now.closed {
                return None;
            }
            if now.n_ahead < MOST_AHEAD
                && let (Some(source), Some(missing_cell)) =
                    (now.source.clone(), now.missing.last().copied())
            {
                now.missing.pop();
                now.n_ahead += 1;
                return Some((source, missing_cell, now.number, now.query.clone()));
            }
            now = self.changed.wait(now).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Starts the thread.
pub fn start(cell_requests: Arc<CellRequests>, events: EventSender) {
    let run = move || {
        let mut open: Option<(Source, Library)> = None;
        while let Some((source, missing_cell, number, query)) = cell_requests.next() {
            if open.as_ref().is_none_or(|(of, _)| *of != source) {
                open = Library::open_to_search(&source.library, source.fingerprint, source.dim)
                    .ok()
                    .map(|library| (source, library));
            }
            let Some((_, library)) = &open else {
                cell_requests.taken();
                continue;
            };
            events.send(Event::Cell(read_cell(library, missing_cell, number, query.as_deref())));
        }
    };
    thread::Builder::new().name("thumbnails".into()).spawn(run).expect("a thread can be started");
}

/// Reads a cell. A photo that was removed meanwhile gives a grey pixel; the next search drops its
/// cell.
fn read_cell(
    library: &Library,
    missing_cell: MissingCell,
    number: u64,
    query: Option<&Query>,
) -> Cell {
    let thumbnail = || -> Result<Rgb> {
        Ok(decode(&library.thumbnail(missing_cell.content)?, Default::default())?)
    };
    let grey = || Rgb::from_pixel(1, 1, image::Rgb([128; 3]));
    let best_box = missing_cell.best_box.then(|| {
        let best =
            query.and_then(|query| library.best_box(missing_cell.content, query).ok().flatten());
        (number, best)
    });
    Cell {
        content: missing_cell.content,
        image: missing_cell.image.then(|| thumbnail().unwrap_or_else(|_| grey())),
        best_box,
    }
}

/// A cache that drops the least recently used values.
#[derive(Debug)]
pub struct Lru<K, V> {
    values: HashMap<K, (V, u64)>,
    room: usize,
    clock: u64,
}

impl<K: Copy + Eq + Hash, V> Lru<K, V> {
    /// An empty cache for `room` values.
    pub fn new(room: usize) -> Self {
        Self { values: HashMap::new(), room, clock: 0 }
    }

    /// A value; counts as a use.
    pub fn get(&mut self, key: K) -> Option<&V> {
        self.clock += 1;
        let (value, used) = self.values.get_mut(&key)?;
        *used = self.clock;
        Some(value)
    }

    pub fn has(&self, key: K) -> bool {
        self.values.contains_key(&key)
    }

    /// Adds a value. If the cache is full, drops the least recently used quarter, so that the
    /// search for old values is rare.
    pub fn insert(&mut self, key: K, value: V) {
        self.clock += 1;
        self.values.insert(key, (value, self.clock));
        if self.values.len() > self.room {
            let mut used: Vec<u64> = self.values.values().map(|(_, used)| *used).collect();
            let n_gone = used.len().div_ceil(4).min(used.len() - 1);
            let (_, oldest_kept, _) = used.select_nth_unstable(n_gone);
            let oldest_kept = *oldest_kept;
            self.values.retain(|_, (_, used)| *used >= oldest_kept);
        }
    }

    pub fn clear(&mut self) {
        self.values.clear();
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.values.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let mut cache = Lru::new(8);
        (0..8).for_each(|key| cache.insert(key, key * 10));
        for key in [0, 1] {
            assert_eq!(cache.get(key), Some(&(key * 10)));
        }
        cache.insert(8, 80);
        assert_eq!(cache.len(), 6);
        let kept: Vec<i32> = (0..9).filter(|key| cache.has(*key)).collect();
        assert_eq!(kept, [0, 1, 5, 6, 7, 8]);
        (10..1000).for_each(|key| cache.insert(key, 0));
        assert!(cache.len() <= 8 && cache.has(999));
    }

    #[test]
    fn only_the_newest_wants_are_read_in_their_order() {
        let cell_requests = CellRequests::default();
        cell_requests.open(Source { library: "a".into(), fingerprint: 1, dim: 2 });
        let missing_cell = |content| MissingCell { content, image: true, best_box: false };
        cell_requests.want(vec![missing_cell(1), missing_cell(2)]);
        cell_requests.want(vec![missing_cell(3), missing_cell(4)]);
        let next = || cell_requests.next().map(|(_, missing_cell, ..)| missing_cell.content);
        assert_eq!((next(), next()), (Some(3), Some(4)));
        cell_requests.close();
        assert_eq!(next(), None);
    }

    #[test]
    fn no_more_is_read_than_the_window_takes() {
        let cell_requests = Arc::new(CellRequests::default());
        cell_requests.open(Source { library: "a".into(), fingerprint: 1, dim: 2 });
        cell_requests.want(
            (0..99).map(|content| MissingCell { content, image: true, best_box: false }).collect(),
        );
        let reading = cell_requests.clone();
        let thread = thread::spawn(move || std::iter::from_fn(|| reading.next()).count());
        let still_wanted = || cell_requests.lock().missing.len();
        let start = std::time::Instant::now();
        while still_wanted() > 99 - MOST_AHEAD && start.elapsed().as_secs() < 60 {
            thread::yield_now();
        }
        thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(still_wanted(), 99 - MOST_AHEAD);
        cell_requests.taken();
        while still_wanted() > 98 - MOST_AHEAD && start.elapsed().as_secs() < 60 {
            thread::yield_now();
        }
        cell_requests.close();
        assert_eq!(thread.join().expect("no panic"), MOST_AHEAD + 1);
    }

    #[test]
    fn nothing_is_read_after_the_end() {
        let cell_requests = CellRequests::default();
        cell_requests.close();
        let next = || cell_requests.next().map(|(_, missing_cell, ..)| missing_cell.content);
        assert_eq!(next(), None);
    }
}
