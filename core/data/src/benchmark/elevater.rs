//! ELEVATER's image classification in the wild (arXiv:2204.08790): 20 sets with class names, prompt
//! templates and metrics.
//!
//! `icinw.json` copies the toolkit's `prompts.py` and `vision_datasets.json`, in label order. The
//! class names are OpenAI's with the toolkit's changes. If OpenAI has several names for a class,
//! the toolkit uses the first.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::classes::{ClassMetric, ClassNames, ClassSet, Place, lines_of};
use super::{BenchmarkError, read_json, read_text};
use crate::zip::ZipArchive;

const WANTED: &str = "ELEVATER's folders as its vision-datasets tool writes them: classification/NAME_DATE/ (or \
    NAME_DATE/), as in classification/dtd_20211007/, with the index test.txt or test_meta.json, labels.txt and the \
    archive that the index names (test.zip@a.jpg), as it is or unpacked: unzip test.zip -d test";

/// One of the 20 sets.
#[derive(Clone, Debug, Deserialize)]
pub struct ElevaterSet {
    /// ELEVATER's name of the set.
    pub name: String,
    pub(super) folder: String,
    pub(super) index: String,
    pub(super) metric: ClassMetric,
    /// Number of photos in the test split.
    pub n_images: usize,
    pub(super) templates: Vec<String>,
    pub(super) classes: Vec<ClassNames>,
}

/// Returns the 20 sets.
pub fn sets() -> Vec<ElevaterSet> {
    serde_json::from_str(include_str!("icinw.json")).expect("our own file is well-formed")
}

/// Returns the set of this name, with its prompts.
pub fn prompts_of(name: &str) -> Option<ElevaterSet> {
    sets().into_iter().find(|set| set.name == name)
}

/// Opens the sets below `root`, and returns the names of the missing ones.
///
/// # Errors
/// If a set exists but has another layout than ELEVATER's, or if no set exists.
pub fn open_elevater(root: &Path) -> Result<(Vec<ClassSet>, Vec<String>), BenchmarkError> {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for set in sets() {
        let places = [root.join("classification").join(&set.folder), root.join(&set.folder)];
        match places.into_iter().find(|folder| folder.is_dir()) {
            Some(folder) => found.push(open_set(&set, &folder)?),
            None => missing.push(set.name),
        }
    }
    if found.is_empty() {
        return Err(BenchmarkError::Layout {
            found: "none of ELEVATER's 20 sets is there".into(),
            wanted: WANTED.into(),
            path: root.into(),
        });
    }
    Ok((found, missing))
}

/// The file of each photo, in the notation `archive.zip@name`, and its classes.
type Indexed = Vec<(String, Vec<usize>)>;

fn open_set(set: &ElevaterSet, folder: &Path) -> Result<ClassSet, BenchmarkError> {
    let index = folder.join(&set.index);
    let layout = |found: String| BenchmarkError::Layout {
        found,
        wanted: WANTED.into(),
        path: index.clone(),
    };
    let (indexed, labels) = match set.index.ends_with(".json") {
        true => read_coco_index(&index)?,
        false => (read_lines_index(&index)?, labels_of(folder)?),
    };
    if !labels.is_empty() && labels.len() != set.classes.len() {
        let (n_labels, n_classes) = (labels.len(), set.classes.len());
        return Err(layout(format!(
            "found {n_labels} labels, but {} has {n_classes} classes",
            set.name
        )));
    }
    let mut archives = Archives { folder, opened: HashMap::new() };
    let places: Vec<(Place, Vec<usize>)> = indexed
        .into_iter()
        .map(|(file, labels)| Ok((archives.place(&file)?, labels)))
        .collect::<Result<_, String>>()
        .map_err(layout)?;
    let n_found = places.len();
    let mut opened = ClassSet::from_places(set, places);
    if n_found != set.n_images {
        opened.notes.push(format!("{}: {n_found} photos, ELEVATER has {}", set.name, set.n_images));
    }
    let in_order = in_order_of(&labels, &set.classes);
    if let Some(classes) = in_order.filter(|classes| *classes != set.classes) {
        opened
            .notes
            .push(format!("{}: class names reordered to match the set's own labels", set.name));
        opened.classes = classes;
    }
    opened.with_prompts_of(folder)
}

/// Opened archives of a set; `None` for an archive that does not exist as a file.
struct Archives<'a> {
    folder: &'a Path,
    opened: HashMap<String, Option<Arc<ZipArchive>>>,
}

impl Archives<'_> {
    /// Locates a file of the index, such as `test.zip@a.jpg`.
    ///
    /// Looks in the archive, else for the unpacked file: beside the archive, or in a folder named
    /// like it.
    fn place(&mut self, file: &str) -> Result<Place, String> {
        let Some((archive, name)) = file.split_once('@') else {
            return Ok(Place::File(self.folder.join(file)));
        };
        if let Some(opened) = self.open(archive)? {
            return Ok(Place::Zipped(opened, name.into()));
        }
        let unpacked = self.folder.join(archive.trim_end_matches(".zip"));
        let beside = self.folder.join(name);
        match (unpacked.is_dir(), beside.is_file()) {
            (_, true) => Ok(Place::File(beside)),
            (true, _) => Ok(Place::File(unpacked.join(name))),
            (false, false) => Err(format!(
                "its photos are in {archive}, which is neither there nor unpacked as {}",
                unpacked.display()
            )),
        }
    }

    fn open(&mut self, archive: &str) -> Result<Option<Arc<ZipArchive>>, String> {
        if let Some(known) = self.opened.get(archive) {
            return Ok(known.clone());
        }
        let path = self.folder.join(archive);
        let opened = match path.is_file() {
            true => {
                Some(Arc::new(ZipArchive::open(&path).map_err(|why| format!("{archive}: {why}"))?))
            }
            false => None,
        };
        self.opened.insert(archive.into(), opened.clone());
        Ok(opened)
    }
}

/// Parses lines such as `test.zip@a.jpg 3`, or `test.zip@a.jpg 3,5` for several classes.
fn read_lines_index(path: &Path) -> Result<Indexed, BenchmarkError> {
    let entry = |line: &str| {
        let (file, labels) = line.trim().rsplit_once(char::is_whitespace)?;
        let labels = labels
            .split(',')
            .map(|label| label.trim().parse().ok())
            .collect::<Option<Vec<usize>>>()?;
        Some((file.trim().to_owned(), labels))
    };
    let text = read_text(path, WANTED)?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let parsed: Result<Indexed, &str> = lines.map(|line| entry(line).ok_or(line)).collect();
    parsed.map_err(|line| BenchmarkError::Layout {
        found: format!("the line {line:?}"),
        wanted: "FILE LABEL[,LABEL..], as in test.zip@a.jpg 3".into(),
        path: path.into(),
    })
}

/// Reads the set's own class names. Empty if it has no such file.
fn labels_of(folder: &Path) -> Result<Vec<String>, BenchmarkError> {
    let files = ["labels.txt", "labelmap.txt"].map(|name| folder.join(name));
    match files.into_iter().find(|path| path.is_file()) {
        Some(path) => lines_of(&path, WANTED),
        None => Ok(Vec::new()),
    }
}

#[derive(Deserialize)]
struct CocoIndex {
    images: Vec<CocoImage>,
    annotations: Vec<CocoAnnotation>,
    categories: Vec<CocoCategory>,
}

#[derive(Deserialize)]
struct CocoImage {
    id: i64,
    file_name: String,
    zip_file: Option<String>,
}

#[derive(Deserialize)]
struct CocoAnnotation {
    image_id: i64,
    category_id: i64,
}

#[derive(Deserialize)]
struct CocoCategory {
    id: i64,
    name: String,
}

/// Parses an index in COCO's form. Class labels follow the order of the category ids.
fn read_coco_index(path: &Path) -> Result<(Indexed, Vec<String>), BenchmarkError> {
    let CocoIndex { images, annotations, mut categories } = read_json(path, WANTED)?;
    categories.sort_by_key(|category| category.id);
    let class_of: HashMap<i64, usize> =
        categories.iter().enumerate().map(|(i, c)| (c.id, i)).collect();
    let mut labels: HashMap<i64, Vec<usize>> = HashMap::new();
    for annotation in annotations {
        let class =
            class_of.get(&annotation.category_id).ok_or_else(|| BenchmarkError::Layout {
                found: format!(
                    "an annotation of category {}, which is not listed",
                    annotation.category_id
                ),
                wanted: WANTED.into(),
                path: PathBuf::from(path),
            })?;
        labels.entry(annotation.image_id).or_default().push(*class);
    }
    let indexed = images.into_iter().filter_map(|image| {
        let file = match image.zip_file {
            Some(zip) => format!("{zip}@{}", image.file_name),
            None => image.file_name,
        };
        Some((file, labels.remove(&image.id)?))
    });
    Ok((indexed.collect(), categories.into_iter().map(|category| category.name).collect()))
}

/// Reorders the classes like the set's labels. `None` unless both contain the same words.
pub(super) fn in_order_of(labels: &[String], classes: &[ClassNames]) -> Option<Vec<ClassNames>> {
    let plain = |text: &str| -> String {
        text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
    };
    let of_label = |label: &String| {
        classes
            .iter()
            .find(|class| class.all().iter().any(|name| plain(name) == plain(label)))
            .cloned()
    };
    let ordered: Vec<ClassNames> = labels.iter().map(of_label).collect::<Option<_>>()?;
    let is_permutation = classes.iter().all(|class| ordered.contains(class));
    (is_permutation && ordered.len() == classes.len()).then_some(ordered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_twenty_sets_have_the_classes_and_templates_of_the_benchmark() {
        let found: Vec<(usize, usize)> =
            sets().iter().map(|set| (set.classes.len(), set.templates.len())).collect();
        // Counts (classes, templates) from ELEVATER's toolkit.
        let wanted = [
            (102, 34),
            (10, 18),
            (100, 18),
            (211, 5),
            (47, 8),
            (10, 3),
            (7, 6),
            (100, 2),
            (101, 1),
            (43, 3),
            (2, 1),
            (4, 1),
            (10, 1),
            (102, 1),
            (37, 1),
            (2, 1),
            (2, 1),
            (45, 18),
            (196, 8),
            (20, 1),
        ];
        assert_eq!(found, wanted);
        // Sets whose label order in the toolkit is surprising.
        for (name, class, wanted) in [
            ("caltech-101", 4, "background"),
            ("cifar-100", 0, "chimpanzee"),
            ("fer-2013", 4, "neutral"),
            ("fgvc-aircraft-2013b-variants102", 72, "F-16A-B"),
            ("food-101", 16, "cheesecake"),
            ("oxford-iiit-pets", 1, "american bulldog"),
            ("stanford-cars", 0, "Acura Integra Type R 2001"),
            ("voc-2007-classification", 10, "diningtable"),
        ] {
            let set = prompts_of(name).expect("one of the 20");
            assert_eq!(set.classes[class], ClassNames::One(wanted.into()), "{name}");
        }
        for set in sets() {
            assert!(set.templates.iter().all(|template| template.contains("{}")), "{}", set.name);
        }
    }

    #[test]
    fn names_follow_the_labels_of_the_set_where_they_are_the_same_words() {
        let names =
            |names: &[&str]| names.iter().map(|n| ClassNames::One((*n).into())).collect::<Vec<_>>();
        let labels = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let found =
            in_order_of(&labels(&["Polka_dotted", "banded"]), &names(&["banded", "polka-dotted"]));
        assert_eq!(found, Some(names(&["polka-dotted", "banded"])));
        assert_eq!(in_order_of(&labels(&["zero", "banded"]), &names(&["banded", "striped"])), None);
    }

    #[test]
    fn an_index_of_lines_names_files_in_archives_and_their_classes() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("test.txt");
        std::fs::write(&path, "test.zip@a b.jpg 3,5\ntest.zip@c.jpg 0\n").expect("writable");
        let found = read_lines_index(&path).expect("well-formed");
        assert_eq!(
            found,
            [("test.zip@a b.jpg".into(), vec![3, 5]), ("test.zip@c.jpg".into(), vec![0])]
        );
        std::fs::write(&path, "test.zip@a.jpg three\n").expect("writable");
        assert!(
            read_lines_index(&path)
                .expect_err("no number")
                .to_string()
                .contains("wanted: FILE LABEL")
        );
    }
}
