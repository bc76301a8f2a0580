//! Phrases with boxes: Flickr30k Entities.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use mmgem_core::image::BoxPx;

use super::{
    Benchmark, BenchmarkError, BenchmarkFiles, BenchmarkPhoto, BenchmarkRegion, UnlocatedPhotos,
    read_text, roots,
};

const ENTITIES: &str = "Flickr30k Entities' folder: Sentences/ID.txt with [/EN#1/people a man] marks, \
    Annotations/ID.xml with <object>s, test.txt (or another split) with one ID per line, photos as \
    flickr30k-images/ID.jpg or below --images DIR";

/// Opens the photos of a split (test: 1,000) with every phrase that has a box.
pub(super) fn open_entities(
    folder: &Path,
    files: &BenchmarkFiles,
) -> Result<Benchmark, BenchmarkError> {
    let split = files.split.as_deref().unwrap_or("test");
    let ids = read_text(&folder.join(format!("{split}.txt")), ENTITIES)?;
    let mut listed: UnlocatedPhotos = Vec::new();
    for id in ids.lines().map(str::trim).filter(|id| !id.is_empty()) {
        let sentences = read_text(&folder.join(format!("Sentences/{id}.txt")), ENTITIES)?;
        let annotation = read_text(&folder.join(format!("Annotations/{id}.xml")), ENTITIES)?;
        listed.push((entities_photo(id, &sentences, &annotation), vec![format!("{id}.jpg")]));
    }
    let roots = roots(files, folder, &["flickr30k-images", "flickr30k_images", "images"]);
    let name = format!("Flickr30k Entities, split {split}");
    Ok(Benchmark {
        every_phrase: true,
        ..Benchmark::from_files(name, listed, &roots, ENTITIES, folder)?
    })
}

/// Builds a photo. All phrases for one thing (a chain of mentions) share its region. Drops phrases
/// without a box.
fn entities_photo(id: &str, sentences: &str, annotation: &str) -> BenchmarkPhoto {
    let mut boxes = boxes_of_things(annotation);
    let mut captions = Vec::new();
    let mut phrases: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in sentences.lines().filter(|line| !line.trim().is_empty()) {
        let (caption, marks) = split_marks(line);
        captions.push(caption);
        for (thing, phrase) in marks {
            phrases.entry(thing).or_default().push(phrase);
        }
    }
    let regions = phrases
        .into_iter()
        .filter_map(|(thing, phrases)| BenchmarkRegion::new(boxes.remove(&thing)?, phrases))
        .collect();
    BenchmarkPhoto { id: id.into(), captions, regions, ..Default::default() }
}

/// Splits `[/EN#283585/people Two young guys] look` into the plain sentence and (thing, phrase)
/// pairs.
fn split_marks(line: &str) -> (String, Vec<(String, String)>) {
    let (mut caption, mut marks) = (String::new(), Vec::new());
    let mut rest = line.trim();
    while let Some((before, after)) = rest.split_once("[/EN#") {
        caption.push_str(before);
        let (inside, behind) = after.split_once(']').unwrap_or((after, ""));
        let (tag, phrase) = inside.split_once(' ').unwrap_or((inside, ""));
        caption.push_str(phrase);
        let thing = tag.split('/').next().unwrap_or(tag);
        if !phrase.is_empty() && thing != "0" {
            marks.push((thing.to_owned(), phrase.to_owned()));
        }
        rest = behind;
    }
    caption.push_str(rest);
    (caption, marks)
}

/// Boxes of each thing. The files count pixels from 1 and include the last pixel. Our boxes are
/// edges from 0.
fn boxes_of_things(xml: &str) -> HashMap<String, Vec<BoxPx>> {
    let inside = |text: &str, tag: &str| -> Vec<String> {
        let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
        let parts = text.split(&open).skip(1).filter_map(|part| part.split_once(&close));
        parts.map(|(inside, _)| inside.trim().to_owned()).collect()
    };
    let mut boxes: HashMap<String, Vec<BoxPx>> = HashMap::new();
    for object in inside(xml, "object") {
        let corner = |tag: &str| inside(&object, tag).first()?.parse::<f32>().ok();
        let corners = (corner("xmin"), corner("ymin"), corner("xmax"), corner("ymax"));
        if let (Some(x0), Some(y0), Some(x1), Some(y1)) = corners {
            for thing in inside(&object, "name") {
                boxes.entry(thing).or_default().push([x0 - 1.0, y0 - 1.0, x1, y1]);
            }
        }
    }
    boxes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_become_plain_sentences_and_phrases() {
        let (caption, marks) =
            split_marks("[/EN#12/people/other Two guys] near [/EN#0/notvisual it] .");
        assert_eq!(caption, "Two guys near it .");
        assert_eq!(marks, [("12".to_owned(), "Two guys".to_owned())]);
    }

    #[test]
    fn a_thing_has_all_its_boxes_and_mentions() {
        let xml = "<object><name>1</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>10</xmax><ymax>20</ymax></bndbox>\
            </object><object><name>1</name><name>2</name><bndbox><xmin>5</xmin><ymin>1</ymin><xmax>30</xmax>\
            <ymax>9</ymax></bndbox></object><object><name>3</name><scene>1</scene></object>";
        let sentences = "[/EN#1/people Men] in [/EN#3/scene a park]\n[/EN#1/people They] hold [/EN#2/other a bat]";
        let photo = entities_photo("7", sentences, xml);
        assert_eq!(photo.captions, ["Men in a park", "They hold a bat"]);
        let [men, bat] = photo.regions.as_slice() else { panic!("{:?}", photo.regions) };
        assert_eq!(men.phrases, ["Men", "They"]);
        assert_eq!(men.boxes, [[0.0, 1.0, 10.0, 20.0], [4.0, 0.0, 30.0, 9.0]]);
        assert_eq!(men.box_px, [0.0, 0.0, 30.0, 20.0]);
        assert_eq!(bat.boxes.len(), 1);
    }
}
