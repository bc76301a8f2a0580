//! What the window asks of its threads, and what they tell it. Plain data.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use mmgem_core::image::{BoxPx, Rgb};
use mmgem_core::index::Query;

use super::sidecar::Written;
use crate::library::{Cutoff, Photo, Ranked, Shelf, Summary};

/// To the thread that has the model.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// Open this model, or the embedded one, and see the library with it.
    Model(Option<PathBuf>),
    Search(Search),
    /// Decode a photo; captions and places are asked of the last one.
    Look {
        number: u64,
        path: PathBuf,
    },
    /// Write what is in a box of it, or on the whole of it.
    Caption {
        number: u64,
        box_px: Option<BoxPx>,
    },
    /// Propose boxes around a point of it, in its pixels.
    Boxes {
        number: u64,
        point_px: [f32; 2],
    },
    /// Find the place of a text in it.
    Locate {
        number: u64,
        text: String,
    },
    /// Write a caption beside a photo.
    Sidecar {
        photo: PathBuf,
        caption: String,
        replace: bool,
    },
    /// What is at a path that a person typed or dropped on the window?
    Given {
        path: PathBuf,
        dropped: bool,
    },
    /// Make the library agree with these folders.
    Index(Vec<PathBuf>),
    /// From the thread that does so: there is more now.
    Changed,
    /// From the thread that does so: it ended.
    Indexed,
    /// From the thread that does so: the device failed.
    DeviceFailed,
}

/// A search, and which one it is: answers to older ones are dropped.
#[derive(Clone, Debug, PartialEq)]
pub struct Search {
    pub number: u64,
    pub sought: Sought,
    /// Filters in the language of queries, besides those in the text.
    pub filters: String,
    /// Only photos in this folder and below it.
    pub folder: Option<PathBuf>,
    /// Score a photo by its best region.
    pub by_region: bool,
}

/// What is looked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Sought {
    /// A query; an empty one finds every photo.
    Text(String),
    /// Photos like this one, or with something like this region of it.
    Photo { path: PathBuf, box_px: Option<BoxPx> },
}

/// To the window.
#[derive(Debug)]
pub enum News {
    /// The model and the library are open.
    Ready(Ready),
    /// They are not, and why.
    Broken(String),
    Catalogue(Arc<Catalogue>),
    Hits {
        number: u64,
        hits: Vec<Ranked>,
        /// What they were compared with; nothing where every photo is a hit.
        query: Option<Arc<Query>>,
        /// What a person should know before trusting them.
        doubts: Vec<String>,
    },
    /// A search that cannot be made, and why.
    NoHits {
        number: u64,
        why: String,
    },
    Looked {
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
    /// The boxes around a point: the best one, then the next larger things, then smaller ones.
    Boxes {
        number: u64,
        point_px: [f32; 2],
        boxes: Vec<BoxPx>,
    },
    Located {
        number: u64,
        text: String,
        /// The photo under its heat map, as large as `Looked` gave it.
        heat: Rgb,
        box_px: BoxPx,
        score: f32,
    },
    /// Something asked of a photo cannot be done.
    Failed {
        number: u64,
        why: String,
    },
    Sidecar {
        photo: PathBuf,
        caption: String,
        result: Result<Written, String>,
    },
    /// What is at a path that was typed or dropped.
    Given {
        /// It still means the same in another working folder.
        path: PathBuf,
        what: Given,
        dropped: bool,
    },
    Index(IndexNews),
    Cell(Cell),
}

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    Folder,
    File,
    Nothing,
}

/// An opened model and what it sees.
#[derive(Clone, Debug)]
pub struct Ready {
    pub model_name: String,
    pub device_name: String,
    pub fingerprint: u64,
    /// Numbers in a vector.
    pub dim: usize,
    pub catalogue: Arc<Catalogue>,
    /// What `mmgem search --calibrate` measured.
    pub cutoffs: Vec<Cutoff>,
}

/// How indexing goes on.
#[derive(Clone, Debug, PartialEq)]
pub enum IndexNews {
    /// Folders are looked through.
    Walking,
    /// So many files are new or changed.
    Begun(usize),
    /// So many more are done.
    Done(usize),
    /// What is left out although nobody asked for that.
    LeftOut(String),
    /// A file or folder cannot be read.
    Problem(PathBuf, String),
    /// It is over.
    Ended(Result<Summary, String>),
}

/// What a cell of the grid shows.
#[derive(Debug)]
pub struct Cell {
    pub content: i64,
    /// Its thumbnail, if that was asked for.
    pub image: Option<Rgb>,
    /// Its best box, if that was asked for, with the number of the search.
    pub best_box: Option<(u64, Option<BoxPx>)>,
}

/// All photos of the library that the model knows, in memory.
#[derive(Debug)]
pub struct Catalogue {
    pub shelf: Shelf,
    pub photos: HashMap<i64, Photo>,
    /// Folders that have photos, sorted.
    pub folders: Vec<PathBuf>,
    /// Files that could not be read, or only in part, and why.
    pub problems: Vec<(PathBuf, String)>,
    /// Photos that only other models know.
    pub n_of_others: usize,
}

impl Catalogue {
    /// Gathers the folders of the photos.
    pub fn new(shelf: Shelf, photos: HashMap<i64, Photo>) -> Self {
        let paths = photos.values().flat_map(|photo| &photo.paths);
        let folders: BTreeSet<&Path> = paths.filter_map(|path| path.parent()).collect();
        let folders = folders.into_iter().map(Path::to_owned).collect();
        Self { shelf, photos, folders, problems: Vec::new(), n_of_others: 0 }
    }
}

/// Where threads leave their news; the window is woken.
#[derive(Clone)]
pub struct Post {
    news: Sender<News>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl Post {
    pub fn new(news: Sender<News>, wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self { news, wake: Arc::new(wake) }
    }

    /// A window that was closed reads no news, which is fine.
    pub fn send(&self, news: News) {
        let _ = self.news.send(news);
        (self.wake)();
    }
}
