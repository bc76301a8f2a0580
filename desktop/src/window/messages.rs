//! Messages between the window and its threads, as plain data.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use mmgem_core::image::{BoxPx, Rgb};
use mmgem_core::index::Query;

use super::months::{Month, Months};
use super::sidecar::SidecarResult;
use super::weak::WeakBelow;
use crate::library::{Cutoff, Mark, MarkChange, Photo, Ranked, Summary, VectorStore};

/// Requests to the worker, the thread that has the model.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Open this model, or the embedded one if `None`, and the library with it.
    OpenModel(Option<PathBuf>),
    Search(Search),
    /// Decode a photo. Later captions, boxes and places refer to it.
    OpenPhoto {
        number: u64,
        path: PathBuf,
    },
    /// Caption a box of the photo, or the whole photo if `None`.
    Caption {
        number: u64,
        box_px: Option<BoxPx>,
    },
    /// Propose boxes around a point of the photo, in its pixels.
    Boxes {
        number: u64,
        point_px: [f32; 2],
    },
    /// Find the place of a text in the photo.
    Locate {
        number: u64,
        text: String,
    },
    /// Write a caption to a sidecar beside a photo.
    Sidecar {
        photo: PathBuf,
        caption: String,
        replace: bool,
    },
    /// Check the path that the user typed or dropped on the window.
    CheckPath {
        path: PathBuf,
        dropped: bool,
    },
    /// Show the system's dialog to choose a folder.
    ChooseFolder(FolderUse),
    /// Copy photos into a folder.
    Export {
        photos: Vec<PathBuf>,
        folder: PathBuf,
    },
    /// Change the marks of photos, given by their rows in `content`.
    Mark {
        contents: Vec<i64>,
        change: MarkChange,
    },
    /// Update the library from these folders.
    Index(Vec<PathBuf>),
    /// From the indexing thread: it wrote a batch.
    Changed,
    /// From the indexing thread: it ended.
    Indexed,
    /// From the indexing thread: the device failed.
    DeviceFailed,
}

/// A search. Its number identifies it, so that the window drops answers to older ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Search {
    pub number: u64,
    pub target: Target,
    /// Filters in the query syntax, besides those in the text.
    pub filters: String,
    /// Only photos in and below this folder.
    pub folder: Option<PathBuf>,
    /// Scores a photo by its best region.
    pub by_region: bool,
    pub marked: Marked,
}

/// The photos that a search finds, by their marks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Marked {
    /// All but hidden ones.
    #[default]
    Shown,
    /// Favourites that are not hidden.
    Favourites,
    Hidden,
}

impl Marked {
    /// Whether a search finds photos with this mark.
    pub fn keeps(self, mark: Mark) -> bool {
        match self {
            Self::Shown => !mark.hidden,
            Self::Favourites => mark.favourite && !mark.hidden,
            Self::Hidden => mark.hidden,
        }
    }
}

/// The purpose of a folder that the user chooses in the system's dialog.
#[derive(Clone, Debug, PartialEq)]
pub enum FolderUse {
    /// Add it to the library.
    Add,
    /// Open the model in it.
    Model,
    /// Copy these photos to it.
    Export(Vec<PathBuf>),
}

/// The target of a search.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// A query; an empty one finds every photo.
    Text(String),
    /// Photos like this one, or with a region like this one of it.
    Photo { path: PathBuf, box_px: Option<BoxPx> },
}

/// Answers and events for the window.
#[derive(Debug)]
pub enum Event {
    /// The model and the library are open.
    Ready(Ready),
    /// The model or the library cannot be opened, with the reason.
    Broken(String),
    Catalogue(Arc<Catalogue>),
    Hits {
        number: u64,
        hits: Vec<Ranked>,
        /// The query's embedding; `None` if every photo is a hit.
        query: Option<Arc<Query>>,
        /// Warnings for the user about the query.
        warnings: Vec<String>,
        weak_below: Option<WeakBelow>,
    },
    /// A search that failed, with the reason.
    NoHits {
        number: u64,
        why: String,
    },
    PhotoDecoded {
        number: u64,
        pixels: Arc<Rgb>,
        size_px: [u32; 2],
    },
    /// A caption so far.
    Caption {
        number: u64,
        box_px: Option<BoxPx>,
        text: String,
        done: bool,
    },
    /// The boxes around a point: the best one, then larger ones, then smaller ones.
    Boxes {
        number: u64,
        point_px: [f32; 2],
        boxes: Vec<BoxPx>,
    },
    Located {
        number: u64,
        text: String,
        /// The photo with the heat map over it, at the size of `PhotoDecoded`.
        heat: Rgb,
        box_px: BoxPx,
        score: f32,
    },
    /// A request about a photo failed.
    Failed {
        number: u64,
        why: String,
    },
    /// The user's choice in the system's dialog; `None` if the user closed it.
    FolderChosen {
        to: FolderUse,
        folder: Option<PathBuf>,
    },
    /// Photos were copied, in words.
    Exported(String),
    /// The marks of the library changed.
    Marks(Marks),
    /// A request failed that belongs to no photo and no search.
    Problem(String),
    Sidecar {
        photo: PathBuf,
        caption: String,
        result: Result<SidecarResult, String>,
    },
    /// The type of a path that the user typed or dropped.
    PathChecked {
        /// The canonical path, so it does not depend on the working folder; as given if missing.
        path: PathBuf,
        kind: PathKind,
        dropped: bool,
    },
    Index(IndexEvent),
    Cell(Cell),
}

/// The type of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathKind {
    Folder,
    File,
    Missing,
}

/// An opened model and its view of the library.
#[derive(Clone, Debug)]
pub struct Ready {
    pub model_name: String,
    pub device_name: String,
    pub fingerprint: u64,
    /// Size of an embedding.
    pub dim: usize,
    pub catalogue: Arc<Catalogue>,
    pub marks: Marks,
    /// Cut-offs that `mmgem calibrate` measured.
    pub cutoffs: Vec<Cutoff>,
}

/// Progress of indexing.
#[derive(Clone, Debug, PartialEq)]
pub enum IndexEvent {
    /// The folders are being searched.
    Walking,
    /// Number of new or changed files.
    Begun(usize),
    /// This many more files are done.
    Done(usize),
    /// A message about what the default exclusions left out.
    LeftOut(String),
    /// A file or folder cannot be read.
    Problem(PathBuf, String),
    /// Indexing ended.
    Ended(Result<Summary, String>),
}

/// Contents of a cell of the grid.
#[derive(Debug)]
pub struct Cell {
    pub content: i64,
    /// The thumbnail, if requested.
    pub image: Option<Rgb>,
    /// The best box, if requested, with the number of the search.
    pub best_box: Option<(u64, Option<BoxPx>)>,
}

/// The marked photos, by their row in `content`.
pub type Marks = Arc<HashMap<i64, Mark>>;

/// All photos of the library that the model has embeddings of, in memory.
#[derive(Debug)]
pub struct Catalogue {
    pub shelf: VectorStore,
    pub photos: HashMap<i64, Photo>,
    /// Folders that have photos, sorted.
    pub folders: Vec<PathBuf>,
    /// Cameras and formats with the number of their photos, sorted by name.
    pub cameras: Vec<(String, usize)>,
    pub formats: Vec<(String, usize)>,
    /// Number of photos of each month.
    pub months: BTreeMap<Month, usize>,
    /// Latitude and longitude of the photos that have them.
    pub places: Vec<[f64; 2]>,
    /// Files that could not be read, or only in part, with the reason.
    pub problems: Vec<(PathBuf, String)>,
    /// Photos that only other models have embeddings of.
    pub n_of_others: usize,
}

impl Catalogue {
    /// Collects the folders of the photos.
    pub fn new(shelf: VectorStore, photos: HashMap<i64, Photo>) -> Self {
        let paths = photos.values().flat_map(|photo| &photo.paths);
        let folders: BTreeSet<&Path> = paths.filter_map(|path| path.parent()).collect();
        let folders = folders.into_iter().map(Path::to_owned).collect();
        let cameras = counted(photos.values().filter_map(|photo| photo.camera.as_deref()));
        let formats = counted(photos.values().map(|photo| photo.format.as_str()));
        let mut months: BTreeMap<Month, usize> = BTreeMap::new();
        for photo in photos.values() {
            if let Some(month) = Months::default().of(photo.taken.secs) {
                *months.entry(month).or_default() += 1;
            }
        }
        let places = photos.values().filter_map(|photo| photo.place).collect();
        Self {
            shelf,
            photos,
            folders,
            cameras,
            formats,
            months,
            places,
            problems: Vec::new(),
            n_of_others: 0,
        }
    }
}

/// Each name once, with its number, sorted.
fn counted<'a>(names: impl Iterator<Item = &'a str>) -> Vec<(String, usize)> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    names.for_each(|name| *counts.entry(name).or_default() += 1);
    counts.into_iter().map(|(name, n)| (name.to_owned(), n)).collect()
}

/// Sends messages from the threads to the window and wakes it.
#[derive(Clone)]
pub struct EventSender {
    events: Sender<Event>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl EventSender {
    pub fn new(events: Sender<Event>, wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self { events, wake: Arc::new(wake) }
    }

    /// Ignores the error of a closed window.
    pub fn send(&self, event: Event) {
        let _ = self.events.send(event);
        (self.wake)();
    }
}
