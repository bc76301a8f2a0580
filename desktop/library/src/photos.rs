//! Finds and reads photos on disk.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::fs::{self, DirEntry, FileType};
use std::io;
use std::path::{Path, PathBuf};

use mmgem_core::image::{DecodeLimits, Decoded, decode_scaled, embedded_jpeg};
use mmgem_data::files;

use super::excludes::Excludes;
use super::metadata::PhotoMetadata;
use super::names::printable_path;
use super::sidecars::{FolderSidecars, is_sidecar};
use super::{LibraryError, Result};

/// Extensions of photos.
pub(super) const EXTENSIONS: [&str; 12] =
    ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "jfif", "avif", "heic", "heif"];

/// Extensions of cameras' raw photos; their preview is read.
pub(super) const RAW_EXTENSIONS: [&str; 15] = [
    "dng", "cr2", "cr3", "nef", "nrw", "arw", "sr2", "raf", "rw2", "orf", "pef", "srw", "3fr",
    "erf", "kdc",
];

/// Whether a path has the extension of a photo.
pub fn looks_like_a_photo(path: &Path) -> bool {
    ends_like(path, &EXTENSIONS) || ends_like(path, &RAW_EXTENSIONS)
}

fn ends_like(path: &Path, extensions: &[&str]) -> bool {
    let extension = path.extension().map(|ext| ext.to_string_lossy().to_lowercase());
    extension.is_some_and(|ext| extensions.contains(&ext.as_str()))
}

/// Folders of systems and programs, without the user's photos, and recycle bins; in lower case.
const SYSTEM_FOLDERS: [&str; 14] = [
    "$recycle.bin",
    "recycler",
    "#recycle",
    "@recycle",
    "#snapshot",
    "@recently-snapshot",
    "@eadir",
    "@synoresource",
    "@tmp",
    "system volume information",
    "lost+found",
    "found.000",
    "node_modules",
    "__macosx",
];
/// Extensions of folders that are the library of another photo program. Only their [`ORIGINALS`]
/// hold the user's photos; the rest are copies, faces and previews.
const PACKAGES: [&str; 6] =
    ["photoslibrary", "photolibrary", "aplibrary", "migratedphotolibrary", "lrdata", "lrcat-data"];
/// See [`PACKAGES`].
const ORIGINALS: [&str; 2] = ["originals", "masters"];
/// A file of this name lists files to exclude from its folder, like `.gitignore`.
const IGNORE_FILE: &str = ".mmgemignore";
/// Android's mark for folders that galleries skip.
const NO_MEDIA: &str = ".nomedia";

/// A folder to search, or a single file to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Path of the folder or file.
    pub path: PathBuf,
    /// Exclusion patterns, as lines of a `.gitignore`.
    pub exclude: Vec<String>,
    /// Includes the default exclusions: hidden files, bins, folders of systems and programs.
    pub hidden: bool,
}

impl From<PathBuf> for Root {
    fn from(path: PathBuf) -> Self {
        Self { path, exclude: Vec::new(), hidden: false }
    }
}

/// Photos below some folders.
#[derive(Clone, Debug, Default)]
pub struct FoundPhotos {
    /// The folders, with canonical paths.
    pub roots: Vec<Root>,
    /// Canonical paths, sorted.
    pub photos: Vec<PathBuf>,
    /// Sidecars, by photo.
    sidecars: HashMap<PathBuf, Vec<PathBuf>>,
    /// Whether every folder could be listed.
    pub complete: bool,
    /// Folders that could not be listed, and ignore files that could not be read, with the reason.
    pub skipped: Vec<(PathBuf, String)>,
    /// Files and folders that the default exclusions left out.
    pub left_out: LeftOut,
}

impl FoundPhotos {
    /// Sidecars of a photo.
    pub fn sidecars_of(&self, photo: &Path) -> &[PathBuf] {
        self.sidecars.get(photo).map_or(&[], Vec::as_slice)
    }

    /// Whether a path is in one of the folders.
    pub fn covers(&self, path: &Path) -> bool {
        self.roots.iter().any(|root| path.starts_with(&root.path))
    }
}

/// Files and folders that the default exclusions left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Names of skipped folders: of systems and programs, bins, and inside photo libraries.
    pub folders: BTreeSet<String>,
    /// Folders with a `.nomedia` file.
    pub n_no_media: usize,
    /// Hidden files that look like photos.
    pub n_hidden: usize,
}

impl LeftOut {
    /// A message for the user; `None` if nothing was left out.
    pub fn in_words(&self) -> Option<String> {
        let mut parts = Vec::new();
        if !self.folders.is_empty() {
            let names: Vec<&str> = self.folders.iter().map(String::as_str).collect();
            parts.push(format!("folders called {}", names.join(", ")));
        }
        match self.n_no_media {
            0 => {}
            1 => parts.push("1 folder with a file .nomedia".into()),
            n => parts.push(format!("{n} folders with a file .nomedia")),
        }
        match self.n_hidden {
            0 => {}
            1 => parts.push("1 hidden photo".into()),
            n => parts.push(format!("{n} hidden photos")),
        }
        (!parts.is_empty()).then(|| {
            format!("left out: {}; `mmgem index DIR --hidden` takes them", parts.join("; "))
        })
    }
}

/// The photos in and below some folders, sorted by path; a root that is a file is always used.
///
/// Skips linked folders (they may lead back up) and everything that the roots or a `.mmgemignore`
/// file exclude. Without `Root::hidden`, also skips hidden files and folders, bins, and folders of
/// systems and programs. The same holds for folders with a `.nomedia` file and for photo libraries
/// except their originals.
///
/// # Errors
/// When a path is missing or a pattern is invalid.
pub fn walk(roots: &[Root]) -> Result<FoundPhotos> {
    let found = FoundPhotos { complete: true, ..FoundPhotos::default() };
    let mut walk = Walk { found, hidden: false };
    for root in roots {
        let exclude = Excludes::new(root.exclude.iter().map(String::as_str))?;
        let path = root
            .path
            .canonicalize()
            .map_err(|source| LibraryError::Folder { folder: root.path.clone(), source })?;
        walk.hidden = root.hidden;
        if path.is_file() {
            walk.found.photos.push(path.clone());
        } else {
            walk.folder(&path, &[(path.clone(), exclude)], true);
        }
        walk.found.roots.push(Root { path, ..root.clone() });
    }
    walk.found.photos.sort();
    walk.found.photos.dedup();
    Ok(walk.found)
}

struct Walk {
    found: FoundPhotos,
    /// `Root::hidden` of the current root.
    hidden: bool,
}

impl Walk {
    /// Searches one folder. `excludes` has the rules of the folders above, the innermost last, each
    /// with its folder.
    fn folder(&mut self, folder: &Path, excludes: &[(PathBuf, Excludes)], is_root: bool) {
        let entries = match self.entries(folder) {
            Ok(entries) => entries,
            Err(error) => return self.skipped(folder, &error),
        };
        // A root is searched even if it has the file: the user named it.
        if !is_root && !self.hidden && entries.iter().any(|entry| entry.name == NO_MEDIA) {
            self.found.left_out.n_no_media += 1;
            return;
        }
        let mut excludes = excludes.to_vec();
        match read_excludes(folder) {
            Ok(Some(own)) => excludes.push((folder.to_owned(), own)),
            Ok(None) => {}
            Err(error) => self.skipped(&folder.join(IGNORE_FILE), &error),
        }
        let is_package = !self.hidden && ends_like(folder, &PACKAGES);
        let (mut photos, mut sidecars) = (Vec::new(), FolderSidecars::default());
        for Entry { name, kind, is_hidden } in entries {
            let path = folder.join(&name);
            let left_out = |(root, excludes): &(PathBuf, Excludes)| {
                excludes.leaves_out(path.strip_prefix(root).ok()?, kind.is_dir())
            };
            if excludes.iter().rev().find_map(left_out) == Some(true)
                || self.leaves_out(&name, kind, is_hidden, is_package)
            {
                continue;
            }
            if kind.is_dir() {
                self.folder(&path, &excludes, false);
            } else if is_sidecar(&name) {
                sidecars.add(name);
            } else if looks_like_a_photo(&path) && self.is_file(&path, kind) {
                photos.push(path);
            }
        }
        for photo in photos {
            let beside = sidecars.of(&photo);
            if !beside.is_empty() {
                self.found.sidecars.insert(photo.clone(), beside);
            }
            self.found.photos.push(photo);
        }
    }

    /// The entries of a folder; reports and skips entries that cannot be read.
    fn entries(&mut self, folder: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(folder)? {
            match entry.and_then(|entry| Entry::of(&entry)) {
                Ok(entry) => entries.push(entry),
                Err(error) => self.skipped(folder, &error),
            }
        }
        Ok(entries)
    }

    /// Whether the default exclusions skip an entry, by its name, its place, and whether it is
    /// hidden.
    fn leaves_out(
        &mut self,
        name: &OsStr,
        kind: FileType,
        is_hidden: bool,
        is_package: bool,
    ) -> bool {
        let bytes = name.as_encoded_bytes();
        // A Mac leaves such a file beside each file on other disks.
        if bytes.starts_with(b"._") {
            return true;
        }
        if self.hidden {
            return false;
        }
        if is_hidden {
            let is_photo = !kind.is_dir() && looks_like_a_photo(Path::new(name));
            self.found.left_out.n_hidden += usize::from(is_photo);
            return true;
        }
        let lower = name.to_string_lossy().to_lowercase();
        let is_theirs = SYSTEM_FOLDERS.contains(&lower.as_str())
            || (is_package && !ORIGINALS.contains(&lower.as_str()));
        if kind.is_dir() && is_theirs {
            self.found.left_out.folders.insert(printable_path(Path::new(name)));
        }
        // Files directly in a photo library are its databases.
        is_package && !kind.is_dir() || kind.is_dir() && is_theirs
    }

    /// Whether an entry is a file. A link needs a look at its target. If that fails for now, the
    /// search counts as incomplete, so that the library keeps photos it found before.
    fn is_file(&mut self, path: &Path, kind: FileType) -> bool {
        if !kind.is_symlink() {
            return kind.is_file();
        }
        match fs::metadata(path) {
            Ok(metadata) => metadata.is_file(),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    self.skipped(path, &error);
                }
                false
            }
        }
    }

    fn skipped(&mut self, path: &Path, error: &dyn Display) {
        self.found.complete = false;
        self.found.skipped.push((path.to_owned(), error.to_string()));
    }
}

/// An entry of a folder.
struct Entry {
    name: OsString,
    kind: FileType,
    /// Whether file managers hide it: its name begins with a dot, or Windows says so.
    is_hidden: bool,
}

impl Entry {
    fn of(entry: &DirEntry) -> io::Result<Self> {
        let name = entry.file_name();
        let is_hidden = name.as_encoded_bytes().starts_with(b".") || is_marked_hidden(entry);
        Ok(Self { name, kind: entry.file_type()?, is_hidden })
    }
}

/// Whether an entry has Windows' mark for hidden files, such as the folder `AppData`.
#[cfg(windows)]
fn is_marked_hidden(entry: &DirEntry) -> bool {
    use std::os::windows::fs::MetadataExt;
    const FILE_ATTRIBUTE_HIDDEN: u32 = 2;
    let metadata = entry.metadata();
    metadata.is_ok_and(|metadata| metadata.file_attributes() & FILE_ATTRIBUTE_HIDDEN != 0)
}

#[cfg(not(windows))]
fn is_marked_hidden(_entry: &DirEntry) -> bool {
    false
}

/// The rules of a folder's [`IGNORE_FILE`]; an error is for the user.
fn read_excludes(folder: &Path) -> Result<Option<Excludes>, String> {
    let file = folder.join(IGNORE_FILE);
    if !file.is_file() {
        return Ok(None);
    }
    let text = fs::read(&file).map_err(|error| error.to_string())?;
    let excludes = Excludes::new(String::from_utf8_lossy(&text).lines());
    excludes.map(Some).map_err(|error| error.to_string())
}

/// Reads and decodes a photo. A photo of more than 200 megapixels is scaled down.
/// [`Decoded::problem`] says if a part of it is missing.
///
/// # Errors
/// When the file cannot be read or decoded.
pub fn read_decoded(path: &Path) -> Result<Decoded> {
    let bytes = files::read(path)?;
    decode_photo(path, &bytes, u32::MAX)
        .map_err(|error| LibraryError::Photo { file: path.into(), source: Box::new(error) })
}

/// Decodes a photo, scaled down as far as `least_side` allows ([`decode_scaled`]). Decodes the
/// preview of a raw photo.
///
/// A truncated or damaged photo is decoded as far as possible, with a warning in
/// [`Decoded::problem`].
pub fn decode_photo(path: &Path, bytes: &[u8], least_side: u32) -> Result<Decoded> {
    let limits = DecodeLimits::default();
    if !ends_like(path, &RAW_EXTENSIONS) {
        return Ok(decode_scaled(bytes, limits, least_side)?);
    }
    let preview = embedded_jpeg(bytes).ok_or(LibraryError::NoPreview)?;
    let decoded = Decoded { format: "RAW", ..decode_scaled(preview, limits, least_side)? };
    match (PhotoMetadata::of(preview).orientation, PhotoMetadata::of(bytes).orientation) {
        // The preview has its own orientation, which the decoder applied.
        (Some(_), _) | (None, None) => Ok(decoded),
        (None, Some(turn)) => Ok(decoded.turned(turn)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(found: &FoundPhotos, root: &Path) -> Vec<String> {
        let name = |path: &PathBuf| {
            let root = root.canonicalize().expect("it is there");
            path.strip_prefix(root).expect("below").to_string_lossy().replace('\\', "/")
        };
        found.photos.iter().map(name).collect()
    }

    #[test]
    fn hidden_excluded_and_system_folders_are_left_out() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path();
        for path in [
            "a.jpg",
            "b.txt",
            ".hidden.jpg",
            ".thumbs/c.jpg",
            "@eaDir/d.jpg",
            "sub dir/é/e.PNG",
            "raw/f.jpg",
            "raw/keep/g.jpg",
            "h.gif",
        ] {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("below")).expect("writable");
            fs::write(path, b"").expect("writable");
        }
        let found = |exclude: &[&str]| {
            let exclude: Vec<String> = exclude.iter().map(ToString::to_string).collect();
            walk(&[Root { exclude, ..Root::from(root.to_owned()) }]).expect("it is there")
        };
        let all = ["a.jpg", "h.gif", "raw/f.jpg", "raw/keep/g.jpg", "sub dir/é/e.PNG"];
        assert_eq!(names(&found(&[]), root), all);
        assert_eq!(names(&found(&["raw/", "*.gif"]), root), ["a.jpg", "sub dir/é/e.PNG"]);
        fs::write(root.join(IGNORE_FILE), "raw/*\n!raw/keep\n").expect("writable");
        assert_eq!(
            names(&found(&[]), root),
            ["a.jpg", "h.gif", "raw/keep/g.jpg", "sub dir/é/e.PNG"]
        );
        assert!(walk(&[Root::from(root.join("missing"))]).is_err());
    }

    #[test]
    fn what_nobody_took_is_left_out_and_counted() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path();
        let write = |path: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("below")).expect("writable");
            fs::write(path, b"").expect("writable");
        };
        let taken = [
            "a.jpg",
            "Photos.photoslibrary/originals/0/b.heic",
            "old.aplibrary/Masters/c.jpg",
            "recycle/d.jpg",
        ];
        let left_out = [
            ".nomedia",
            "@eaDir/SYNOPHOTO_THUMB_M.jpg",
            "#RECYCLE/e.jpg",
            "sub/@Recycle/f.jpg",
            "messenger/.nomedia",
            "messenger/deep/g.jpg",
            ".trashed-1700000000-h.jpg",
            ".hidden/i.jpg",
            "Photos.photoslibrary/resources/derivatives/j.jpg",
            "Photos.photoslibrary/k.jpg",
            "Previews.lrdata/l.jpg",
            "._a.jpg",
        ];
        taken.iter().chain(&left_out).for_each(|path| write(path));
        let mut found = walk(&[Root::from(root.to_owned())]).expect("it is there");
        assert_eq!(
            names(&found, root),
            [
                "Photos.photoslibrary/originals/0/b.heic",
                "a.jpg",
                "old.aplibrary/Masters/c.jpg",
                "recycle/d.jpg"
            ]
        );
        let folders: Vec<&str> = found.left_out.folders.iter().map(String::as_str).collect();
        assert_eq!(folders, ["#RECYCLE", "@Recycle", "@eaDir", "resources"]);
        assert_eq!((found.left_out.n_no_media, found.left_out.n_hidden), (1, 1));
        let words = found.left_out.in_words().expect("something is left out");
        assert!(
            words.contains("1 folder with a file .nomedia; 1 hidden photo")
                && words.contains("--hidden"),
            "{words}"
        );
        found = walk(&[Root { hidden: true, ..Root::from(root.to_owned()) }]).expect("it is there");
        assert_eq!(found.photos.len(), taken.len() + left_out.len() - 3, "{:?}", found.photos);
        assert_eq!(found.left_out.in_words(), None);
    }

    #[test]
    fn files_beside_photos_are_found_with_them() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for name in ["a.jpg", "a.jpg.xmp", "a.jpg.supplemental-metadata.json", "b.jpg", "c.xmp"] {
            fs::write(folder.path().join(name), b"").expect("writable");
        }
        let found = walk(&[Root::from(folder.path().to_owned())]).expect("it is there");
        let n_beside: Vec<usize> =
            found.photos.iter().map(|photo| found.sidecars_of(photo).len()).collect();
        assert_eq!(
            (names(&found, folder.path()), n_beside),
            (vec!["a.jpg".to_owned(), "b.jpg".to_owned()], vec![2, 0])
        );
    }

    #[test]
    #[cfg(unix)]
    fn links_do_not_lead_in_circles() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("a.jpg"), b"").expect("writable");
        std::os::unix::fs::symlink(folder.path(), folder.path().join("up")).expect("links work");
        std::os::unix::fs::symlink(folder.path().join("a.jpg"), folder.path().join("b.jpg"))
            .expect("links");
        std::os::unix::fs::symlink("nowhere", folder.path().join("c.jpg")).expect("links work");
        let found = walk(&[Root::from(folder.path().to_owned())]).expect("it is there");
        assert_eq!(names(&found, folder.path()), ["a.jpg", "b.jpg"]);
    }

    #[test]
    fn the_preview_of_a_raw_photo_is_turned_as_its_container_says() {
        // Little-endian TIFF with one entry: tag 0x0112, type SHORT, one value, 6.
        let container = *b"II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let preview = mmgem_core::image::to_jpeg(&mmgem_core::image::Rgb::new(40, 30), 80);
        let raw = [container.as_slice(), &preview].concat();
        let decoded = decode_photo(Path::new("a.NEF"), &raw, u32::MAX).expect("it has a preview");
        assert_eq!((decoded.width, decoded.height, decoded.format), (30, 40, "RAW"));
        let error =
            decode_photo(Path::new("a.dng"), &container, 1).expect_err("it has none").to_string();
        assert!(error.contains("no preview"), "{error}");
    }

    #[test]
    fn photos_are_known_by_their_extension() {
        for (name, wanted) in
            [("a.JPG", true), ("b/c.png", true), ("a.Cr2", true), ("a.txt", false), ("jpg", false)]
        {
            assert_eq!(looks_like_a_photo(Path::new(name)), wanted, "{name}");
        }
    }
}
