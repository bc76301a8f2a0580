//! Classification benchmarks: one folder per class, WebDataset, CIFAR's binary files, ELEVATER's
//! sets.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mmgem_core::checkpoint::{HASH_START, hash_bytes};
use mmgem_core::image::{Decoded, Rgb, decode_whole};
use serde::Deserialize;

pub use super::elevater::{ElevaterSet, open_elevater, prompts_of};

use super::elevater::in_order_of;
use super::{BenchmarkError, open_shards, read_text};
use crate::source::Samples;
use crate::webdataset::Sample;
use crate::zip::ZipArchive;

const FOLDERS: &str = "a folder with one folder of photos per class (optional beside them: classes.txt, the names for \
    the prompts in the alphabetical order of the folders, and templates.txt), CIFAR's binary version (test_batch.bin or test.bin), or \
    shards named by their files ('DIR/*.tar')";
const CIFAR: &str = "CIFAR's binary version: test_batch.bin and batches.meta.txt (CIFAR-10), or test.bin and \
    fine_label_names.txt (CIFAR-100)";
const SHARDS: &str = "shards whose samples have a .json with \"class\", or a .cls with a number and a classnames.txt \
    beside the shards or one folder up";
const CLASSES: &str = "one name per line, in the order of the classes; synonyms separated by |";
const TEMPLATES: &str = "one template per line, with {} for the class, as in: a photo of a {}.";
/// Side of CIFAR's pictures, in pixels.
const CIFAR_SIDE: u32 = 32;

/// The metric that a set is reported by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassMetric {
    /// Share of photos whose best class is right.
    Accuracy,
    /// The accuracy within each class, averaged over classes.
    MeanPerClass,
    /// Area under the ROC curve. The second of the two classes is the positive one.
    RocAuc,
    /// Average precision at 11 recall levels, averaged over classes. A photo may have several
    /// classes.
    #[serde(rename = "map_11_points")]
    Map11Points,
}

/// The names of a class in prompts. All of them are used.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum ClassNames {
    /// A single name, as usual.
    One(String),
    /// Synonyms.
    Several(Vec<String>),
}

impl ClassNames {
    /// All names.
    pub fn all(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Several(names) => names,
        }
    }
}

/// Photos with classes and the prompts for them.
#[derive(Debug)]
pub struct ClassSet {
    /// Name of the set.
    pub name: String,
    /// The classes in label order.
    pub classes: Vec<ClassNames>,
    /// Prompt templates with `{}` for the class.
    pub templates: Vec<String>,
    /// The metric that it is reported by.
    pub metric: ClassMetric,
    /// Remarks for the report.
    pub notes: Vec<String>,
    photos: Photos,
}

#[derive(Debug)]
enum Photos {
    Files(Vec<(Place, Vec<usize>)>),
    Shards(Samples),
    /// CIFAR records: `n_label_bytes`, then 3 × 32 × 32 pixels, channel by channel.
    Cifar {
        bytes: Vec<u8>,
        n_label_bytes: usize,
        n: usize,
    },
}

/// Location of a photo.
#[derive(Clone, Debug)]
pub(super) enum Place {
    File(PathBuf),
    Zipped(Arc<ZipArchive>, String),
}

impl Place {
    fn read(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::File(path) => fs::read(path).map_err(|e| e.to_string()),
            Self::Zipped(archive, name) => archive.read(name),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Zipped(archive, name) => format!("{}@{name}", archive.path().display()),
        }
    }
}

/// A photo with its classes.
#[derive(Clone, Debug)]
pub struct ClassPhoto {
    /// The pixels.
    pub decoded: Decoded,
    /// Labels of its classes.
    pub labels: Vec<usize>,
    /// Hash of the photo and its classes.
    pub hash: u64,
}

impl ClassSet {
    /// Opens WebDataset shards, CIFAR's binary folder, or a folder with one folder per class.
    ///
    /// # Errors
    /// If the data has none of these layouts.
    pub fn open(data: &[String]) -> Result<Self, BenchmarkError> {
        let [path] = data else { return Self::from_shards(data) };
        let folder = Path::new(path);
        match folder.is_dir() {
            false => Self::from_shards(data),
            true if folder.join("test_batch.bin").is_file() => Self::from_cifar(folder, 1),
            true if folder.join("test.bin").is_file() => Self::from_cifar(folder, 2),
            true => Self::from_folders(folder),
        }?
        .with_prompts_of(folder)
    }

    /// Applies the user's `classes.txt` and `templates.txt` beside the photos, which override the
    /// built-in names and templates.
    pub(super) fn with_prompts_of(mut self, folder: &Path) -> Result<Self, BenchmarkError> {
        let [classes, templates] = ["classes.txt", "templates.txt"].map(|name| folder.join(name));
        if classes.is_file() {
            self.read_classes(&classes)?;
        }
        if templates.is_file() {
            self.read_templates(&templates)?;
        }
        Ok(self)
    }

    /// Reads the class names from a file.
    ///
    /// # Errors
    /// If the file does not have one line for each class.
    pub fn read_classes(&mut self, path: &Path) -> Result<(), BenchmarkError> {
        let lines = lines_of(path, CLASSES)?;
        let (n_lines, n_classes) = (lines.len(), self.classes.len());
        if n_lines != n_classes {
            let found = format!("{n_lines} names for {n_classes} classes");
            return Err(BenchmarkError::Layout {
                found,
                wanted: CLASSES.into(),
                path: path.into(),
            });
        }
        let names = |line: &String| {
            ClassNames::Several(line.split('|').map(|name| name.trim().into()).collect())
        };
        self.classes = lines.iter().map(names).collect();
        Ok(())
    }

    /// Reads the templates from a file.
    ///
    /// # Errors
    /// If the file has no template, or a template has no `{}`.
    pub fn read_templates(&mut self, path: &Path) -> Result<(), BenchmarkError> {
        let lines = lines_of(path, TEMPLATES)?;
        let layout = |found: String| BenchmarkError::Layout {
            found,
            wanted: TEMPLATES.into(),
            path: path.into(),
        };
        if let Some(line) = lines.iter().find(|line| !line.contains("{}")) {
            return Err(layout(format!("{line:?} has no {{}}")));
        }
        if lines.is_empty() {
            return Err(layout("the file is empty".into()));
        }
        self.templates = lines;
        Ok(())
    }

    pub(super) fn from_places(set: &ElevaterSet, places: Vec<(Place, Vec<usize>)>) -> Self {
        Self {
            name: set.name.clone(),
            classes: set.classes.clone(),
            templates: set.templates.clone(),
            metric: set.metric,
            notes: Vec::new(),
            photos: Photos::Files(places),
        }
    }

    fn from_folders(folder: &Path) -> Result<Self, BenchmarkError> {
        let layout = |found: String| BenchmarkError::Layout {
            found,
            wanted: FOLDERS.into(),
            path: folder.into(),
        };
        let list = |folder: &Path| -> Result<Vec<PathBuf>, BenchmarkError> {
            let entries =
                fs::read_dir(folder).map_err(|e| layout(format!("cannot list the folder: {e}")))?;
            let mut paths: Vec<PathBuf> =
                entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
            paths.sort();
            Ok(paths)
        };
        let folders: Vec<PathBuf> =
            list(folder)?.into_iter().filter(|path| path.is_dir()).collect();
        let names: Vec<String> = folders
            .iter()
            .map(|path| path.file_name().unwrap_or_default().to_string_lossy().replace('_', " "))
            .collect();
        let mut places = Vec::new();
        for (class, folder) in folders.iter().enumerate() {
            let files = list(folder)?.into_iter().filter(|path| path.is_file());
            places.extend(files.map(|path| (Place::File(path), vec![class])));
        }
        if names.len() < 2 || places.is_empty() {
            return Err(layout(format!(
                "found {} photos in {} folders",
                places.len(),
                names.len()
            )));
        }
        let name = format!("folders of {}", folder.display());
        Ok(Self::plain(name, names, Photos::Files(places)))
    }

    fn from_cifar(folder: &Path, n_label_bytes: usize) -> Result<Self, BenchmarkError> {
        let (name, file, labels) = match n_label_bytes {
            1 => ("cifar-10", "test_batch.bin", "batches.meta.txt"),
            _ => ("cifar-100", "test.bin", "fine_label_names.txt"),
        };
        let path = folder.join(file);
        let layout = |found: String| BenchmarkError::Layout {
            found,
            wanted: CIFAR.into(),
            path: path.clone(),
        };
        let bytes = fs::read(&path).map_err(|e| layout(format!("the file cannot be read: {e}")))?;
        let record = n_label_bytes + 3 * CIFAR_SIDE.pow(2) as usize;
        if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
            let found =
                format!("{} bytes are not a multiple of the record size {record}", bytes.len());
            return Err(layout(found));
        }
        let set = prompts_of(name).expect("both sets are ELEVATER's");
        let listed = lines_of(&folder.join(labels), CIFAR)?;
        let classes = in_order_of(&listed, &set.classes).ok_or_else(|| {
            let (n, n_classes) = (listed.len(), set.classes.len());
            layout(format!("{labels} has {n} names, wanted the {n_classes} classes of {name}"))
        })?;
        let n = bytes.len() / record;
        Ok(Self {
            name: name.into(),
            classes,
            templates: set.templates,
            metric: set.metric,
            notes: Vec::new(),
            photos: Photos::Cifar { bytes, n_label_bytes, n },
        })
    }

    fn from_shards(data: &[String]) -> Result<Self, BenchmarkError> {
        let samples = open_shards(data, FOLDERS)?;
        let layout = |found: String| BenchmarkError::Layout {
            found,
            wanted: SHARDS.into(),
            path: data.first().map(PathBuf::from).unwrap_or_default(),
        };
        let (mut notes, templates) =
            (samples.warnings().collect::<Vec<_>>(), benchmark_templates(&samples)?);
        let opened = |names: Vec<String>, samples| {
            let plain = Self::plain("WebDataset shards".into(), names, Photos::Shards(samples));
            notes.extend(
                templates.as_ref().map(|(path, _)| format!("templates of {}", path.display())),
            );
            let templates = templates.map_or(plain.templates, |(_, templates)| templates);
            Self { notes, templates, ..plain }
        };
        if let Some(path) = samples.beside("classnames.txt") {
            let names = lines_of(&path, SHARDS)?;
            return Ok(opened(names, samples));
        }
        let mut names = BTreeSet::new();
        for idx in 0..samples.len() {
            // Skip unreadable samples here. Reading the photos reports them later.
            names.extend(samples.read(idx).ok().as_ref().and_then(class_of));
        }
        if names.len() < 2 {
            let found = format!(
                "found {} classes in {} samples and no classnames.txt",
                names.len(),
                samples.len()
            );
            return Err(layout(found));
        }
        Ok(opened(names.into_iter().collect(), samples))
    }

    fn plain(name: String, names: Vec<String>, photos: Photos) -> Self {
        Self {
            name,
            classes: names.into_iter().map(ClassNames::One).collect(),
            templates: vec!["a photo of a {}.".into()],
            metric: ClassMetric::Accuracy,
            notes: Vec::new(),
            photos,
        }
    }

    /// Number of photos.
    pub fn len(&self) -> usize {
        match &self.photos {
            Photos::Files(places) => places.len(),
            Photos::Shards(samples) => samples.len(),
            Photos::Cifar { n, .. } => *n,
        }
    }

    /// Whether the set has no photos.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Name of a photo for messages.
    pub fn name_of(&self, idx: usize) -> String {
        match &self.photos {
            Photos::Files(places) => places[idx].0.name(),
            Photos::Shards(samples) => samples.name(idx),
            Photos::Cifar { .. } => format!("{} number {idx}", self.name),
        }
    }

    /// Reads and decodes a photo.
    ///
    /// # Errors
    /// If the photo or its classes cannot be used. The text states the reason.
    pub fn read(&self, idx: usize) -> Result<ClassPhoto, String> {
        let (bytes, labels) = match &self.photos {
            Photos::Files(places) => {
                let (place, labels) = &places[idx];
                (place.read()?, labels.clone())
            }
            Photos::Shards(samples) => {
                let sample = samples.read(idx).map_err(|e| e.to_string())?;
                let bytes = sample.image().map_err(|e| e.to_string())?.to_vec();
                (bytes, vec![self.label_of(&sample)?])
            }
            Photos::Cifar { bytes, n_label_bytes, .. } => {
                return Ok(cifar_photo(bytes, *n_label_bytes, idx));
            }
        };
        if let Some(label) = labels.iter().find(|label| **label >= self.classes.len()) {
            return Err(format!(
                "class {label} is out of range: the set has {} classes",
                self.classes.len()
            ));
        }
        let decoded = decode_whole(&bytes, Default::default()).map_err(|e| e.to_string())?;
        Ok(ClassPhoto { decoded, hash: hash_of(&labels, &bytes), labels })
    }

    fn label_of(&self, sample: &Sample) -> Result<usize, String> {
        if let Some(number) = sample.get("cls") {
            let text = String::from_utf8_lossy(number);
            return text
                .trim()
                .parse()
                .map_err(|_| format!("its .cls is {text:?}, wanted a number"));
        }
        let class =
            class_of(sample).ok_or("the sample has neither a .cls nor a class in its .json")?;
        let found = self.classes.iter().position(|names| names.all()[0] == class);
        found.ok_or_else(|| format!("its class {class:?} is not in classnames.txt"))
    }
}

/// Reads CLIP_benchmark's templates beside the shards, with `{c}` for the class. Returns `None` if
/// none is usable.
fn benchmark_templates(
    samples: &Samples,
) -> Result<Option<(PathBuf, Vec<String>)>, BenchmarkError> {
    let Some(path) = samples.beside("zeroshot_classification_templates.txt") else {
        return Ok(None);
    };
    let lines: Vec<String> =
        lines_of(&path, TEMPLATES)?.iter().map(|line| line.replace("{c}", "{}")).collect();
    let is_usable = !lines.is_empty() && lines.iter().all(|line| line.contains("{}"));
    Ok(is_usable.then_some((path, lines)))
}

fn class_of(sample: &Sample) -> Option<String> {
    #[derive(Deserialize)]
    struct Record {
        class: Option<String>,
    }
    serde_json::from_slice::<Record>(sample.get("json")?).ok()?.class
}

fn hash_of(labels: &[usize], bytes: &[u8]) -> u64 {
    let labels: Vec<u8> = labels.iter().flat_map(|label| (*label as u32).to_le_bytes()).collect();
    hash_bytes(hash_bytes(HASH_START, &labels), bytes)
}

fn cifar_photo(bytes: &[u8], n_label_bytes: usize, idx: usize) -> ClassPhoto {
    let area = CIFAR_SIDE.pow(2) as usize;
    let record = &bytes[idx * (n_label_bytes + 3 * area)..][..n_label_bytes + 3 * area];
    // CIFAR-100 stores the coarse label first.
    let labels = vec![usize::from(record[n_label_bytes - 1])];
    let planes = &record[n_label_bytes..];
    let pixels = Rgb::from_fn(CIFAR_SIDE, CIFAR_SIDE, |x, y| {
        let place = (y * CIFAR_SIDE + x) as usize;
        image::Rgb([planes[place], planes[area + place], planes[2 * area + place]])
    });
    let (width, height) = pixels.dimensions();
    let decoded = Decoded { pixels, width, height, format: "CIFAR", problem: None };
    ClassPhoto { decoded, hash: hash_of(&labels, record), labels }
}

pub(super) fn lines_of(path: &Path, wanted: &str) -> Result<Vec<String>, BenchmarkError> {
    let text = read_text(path, wanted)?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}
