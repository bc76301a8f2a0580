//! The model's tasks on the tour and their results.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use mmgem_core::generate::Decoding;
use mmgem_core::image::iou;
use mmgem_core::image::{BoxMap, BoxPx, preprocess};
use mmgem_core::model::Stage;
use mmgem_core::session::{Caption, EncodedImage, Part, candidate_boxes};
use mmgem_eval::metrics::ranking::Ties;
use mmgem_eval::metrics::retrieval::ranks_from_embeds;
use mmgem_scenes::Scene;
use pollster::block_on;

use super::album::{Album, Source};
use crate::context::Context;
use crate::report::picture::{heat_map, picture_uri, thumbnail};
use crate::report::tour::{Captioned, Heat, Hit, Picture, Query, Said, Truth};

/// Hits shown per query.
const HITS: usize = 4;
/// Regions described per picture.
const REGIONS: usize = 3;
/// Boxes with a greater intersection over union show the same thing.
const MOST_OVERLAP: f32 = 0.1;
/// Boxes with a larger share of the photo are hardly a part of it.
const MOST_OF_A_PHOTO: f32 = 0.45;

/// Runs the model; collects the pictures of the page and the measured times.
#[derive(Debug)]
pub(super) struct Tour<'a> {
    context: &'a Context,
    album: &'a Album,
    pub pictures: Vec<Picture>,
    /// Index in `pictures` of each picture of the album that is in the page.
    shown: HashMap<usize, usize>,
    opened: HashMap<usize, Opened>,
    pub search_times: Vec<Duration>,
    pub caption_times: Vec<Duration>,
}

/// A picture after the image encoder.
#[derive(Clone, Debug)]
struct Opened {
    image: EncodedImage,
    map: BoxMap,
}

impl<'a> Tour<'a> {
    pub fn new(context: &'a Context, album: &'a Album) -> Self {
        Self {
            context,
            album,
            pictures: Vec::new(),
            shown: HashMap::new(),
            opened: HashMap::new(),
            search_times: Vec::new(),
            caption_times: Vec::new(),
        }
    }

    /// Adds a picture of the album to the page, unless it is there; returns its index.
    pub fn show(&mut self, source: usize) -> Result<usize> {
        if let Some(&picture) = self.shown.get(&source) {
            return Ok(picture);
        }
        let photo = self.album.sources[source].pixels()?;
        self.pictures.push(Picture {
            name: self.album.sources[source].name(),
            path: self.album.sources[source].path(),
            width: photo.width(),
            height: photo.height(),
            uri: picture_uri(&thumbnail(&photo))?,
        });
        self.shown.insert(source, self.pictures.len() - 1);
        Ok(self.pictures.len() - 1)
    }

    /// Finds the pictures that fit a text best, and the best box in each.
    pub fn search(&mut self, text: &str) -> Result<Query> {
        let start = Instant::now();
        let text_embed = block_on(self.context.session.embed_text(text))?;
        let ranked = self.album.rank(&text_embed);
        self.search_times.push(start.elapsed());

        let is_right = |source: usize| is_true_of(text, &self.album.sources[source]);
        let right: Vec<bool> =
            ranked.iter().map(|(source, _)| is_right(*source) == Some(true)).collect();
        let first_right = right.iter().position(|is_right| *is_right);
        let n_right = right.iter().filter(|is_right| **is_right).count();

        let (mut hits, mut heat) = (Vec::new(), None);
        for &(source, score) in ranked.iter().take(HITS) {
            let picture = self.show(source)?;
            let Opened { image, map } = self.open(source)?;
            let found = block_on(self.context.session.localize(Stage::Two, &image, &text_embed))?;
            if heat.is_none() {
                let image_size = self.context.session.config().vision.image_size();
                let photo = self.album.sources[source].pixels()?;
                let (coldest, hottest) = span(&found.similarity);
                let uri = picture_uri(&heat_map(&photo, &found, &map, image_size))?;
                heat = Some(Heat { uri, point_px: found.point_px, coldest, hottest });
            }
            hits.push(Hit {
                picture,
                score,
                box_px: found.box_px,
                is_right: first_right.and(is_right(source)),
                true_box_px: self.album.sources[source]
                    .scene()
                    .and_then(|scene| place_in(text, scene)),
            });
        }
        Ok(Query {
            text: text.to_owned(),
            hits,
            heat: heat.expect("an album has at least one picture"),
            right: first_right.map(|rank| (rank + 1, n_right)),
        })
    }

    /// Captions a picture and a few boxes of it: the drawn things, or the boxes that fit its
    /// caption.
    pub fn describe(&mut self, source: usize) -> Result<Captioned> {
        let picture = self.show(source)?;
        let Opened { image, .. } = self.open(source)?;
        let album = self.album;
        let scene = album.sources[source].scene();
        let own_text = album.sources[source].own_text().map(str::to_owned);
        let (kind, truths): (fn(String) -> Truth, &[String]) = match scene {
            Some(scene) => (Truth::Drawn, &scene.captions),
            None => (Truth::Written, own_text.as_slice()),
        };
        let whole = self.caption(&image, &Part::Whole, kind, truths)?;
        let places = match scene {
            Some(scene) => drawn_places(scene),
            None => self
                .told_places(&image, &whole.text)?
                .into_iter()
                .map(|box_px| (box_px, &[][..]))
                .collect(),
        };
        let mut regions = Vec::new();
        for (box_px, truths) in places {
            regions.push((box_px, self.caption(&image, &Part::Box(box_px), kind, truths)?));
        }
        Ok(Captioned { picture, whole, regions })
    }

    /// Number of pictures that their own text ranks first; `None` for the user's photos.
    pub fn captions_that_find_their_picture(&self) -> Result<Option<usize>> {
        let captions: Option<Vec<&str>> =
            self.album.sources.iter().map(|source| source.own_text()).collect();
        let Some(captions) = captions else { return Ok(None) };
        let text_embeds = block_on(self.context.session.embed_texts(&captions))?;
        let embed_dim = self.context.session.config().embed_dim;
        let own: Vec<usize> = (0..captions.len()).collect();
        let ranks =
            ranks_from_embeds(self.album.embeds(), &text_embeds, embed_dim, &own, Ties::Against)?;
        Ok(Some(ranks.text_to_image.iter().filter(|rank| **rank == Some(1)).count()))
    }

    fn open(&mut self, source: usize) -> Result<Opened> {
        if let Some(opened) = self.opened.get(&source) {
            return Ok(opened.clone());
        }
        let session = &self.context.session;
        let input =
            preprocess(&self.album.sources[source].pixels()?, &session.config().preprocess());
        let map = input.map;
        let image = session.encode_batch(&[input]).pop().expect("one picture in, one out");
        Ok(self.opened.entry(source).or_insert(Opened { image, map }).clone())
    }

    /// Captions a part of a picture. `truths` are its true descriptions, of this kind.
    fn caption(
        &mut self,
        image: &EncodedImage,
        part: &Part,
        kind: fn(String) -> Truth,
        truths: &[String],
    ) -> Result<Said> {
        let decoding = Decoding::default();
        let start = Instant::now();
        let Caption { text, log_prob } =
            block_on(self.context.session.caption(image, part, decoding))?;
        self.caption_times.push(start.elapsed());
        // The end token counts too, unless the limit cut it off.
        let n_tokens =
            (self.context.session.tokenizer().encode(&text)?.len() + 1).min(decoding.max_tokens);
        Ok(Said {
            certainty: (log_prob / n_tokens as f32).exp().min(1.0),
            log_prob,
            truth: truths.iter().max_by_key(|truth| truth.len()).cloned().map(kind),
            is_right: truths.contains(&text),
            text,
        })
    }

    /// The boxes of a photo that its caption fits best.
    fn told_places(&self, image: &EncodedImage, caption: &str) -> Result<Vec<BoxPx>> {
        let session = &self.context.session;
        let photo_area = image.width as f32 * image.height as f32;
        let mut boxes = candidate_boxes(image.width as f32, image.height as f32);
        boxes.retain(|box_px| area(*box_px) < MOST_OF_A_PHOTO * photo_area);
        let text_embed = match caption {
            "" => block_on(session.embed_image(image, &Part::Whole))?,
            _ => block_on(session.embed_text(caption))?,
        };
        let embeds = block_on(session.embed_boxes(Stage::Two, image, &boxes))?;
        let dot = |embed: &[f32]| embed.iter().zip(&text_embed).map(|(a, b)| a * b).sum::<f32>();
        let scores: Vec<f32> = embeds.chunks(text_embed.len()).map(dot).collect();
        Ok(best_apart(&boxes, &scores, REGIONS).into_iter().map(|idx| boxes[idx]).collect())
    }
}

/// The largest drawn things that hardly overlap, with the phrases for them.
fn drawn_places(scene: &Scene) -> Vec<(BoxPx, &[String])> {
    let boxes: Vec<BoxPx> = scene.regions.iter().map(|region| region.box_px).collect();
    let areas: Vec<f32> = boxes.iter().copied().map(area).collect();
    let place = |idx: usize| (boxes[idx], scene.regions[idx].phrases.as_slice());
    best_apart(&boxes, &areas, REGIONS).into_iter().map(place).collect()
}

/// Up to `n` boxes, the best first, that hardly overlap.
fn best_apart(boxes: &[BoxPx], scores: &[f32], n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..boxes.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let mut chosen: Vec<usize> = Vec::new();
    for idx in order {
        if chosen.len() < n
            && chosen.iter().all(|other| iou(boxes[*other], boxes[idx]) <= MOST_OVERLAP)
        {
            chosen.push(idx);
        }
    }
    chosen
}

/// Whether a text is a known description of the picture or of a thing in it; `None` without known
/// descriptions.
fn is_true_of(text: &str, source: &Source) -> Option<bool> {
    let Some(scene) = source.scene() else { return source.own_text().map(|own| own == text) };
    let phrases = scene.regions.iter().flat_map(|region| &region.phrases);
    Some(scene.captions.iter().chain(phrases).any(|truth| truth == text))
}

/// The box of the thing that a text describes, if there is exactly one.
fn place_in(text: &str, scene: &Scene) -> Option<BoxPx> {
    let mut places =
        scene.regions.iter().filter(|region| region.phrases.iter().any(|phrase| phrase == text));
    let place = places.next()?;
    places.next().is_none().then_some(place.box_px)
}

fn area([x0, y0, x1, y1]: BoxPx) -> f32 {
    (x1 - x0) * (y1 - y0)
}

fn span(values: &[f32]) -> (f32, f32) {
    values
        .iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), v| (low.min(*v), high.max(*v)))
}

#[cfg(test)]
mod tests {
    use mmgem_scenes::SceneRegion;

    use super::*;

    #[test]
    fn boxes_apart_come_with_the_best_first() {
        let boxes = [
            [0.0, 0.0, 10.0, 10.0],
            [1.0, 0.0, 11.0, 10.0],
            [20.0, 0.0, 30.0, 10.0],
            [0.0, 20.0, 9.0, 29.0],
        ];
        assert_eq!(best_apart(&boxes, &[0.1, 0.5, 0.9, 0.2], 3), [2, 1, 3]);
        assert_eq!(best_apart(&boxes, &[0.6, 0.5, 0.9, 0.2], 2), [2, 0]);
    }

    #[test]
    fn a_photo_without_boxes_has_none_to_choose() {
        assert!(best_apart(&[], &[], 3).is_empty());
    }

    fn scene() -> Scene {
        let region = |x: f32, phrases: &[&str]| SceneRegion {
            box_px: [x, 0.0, x + 5.0, 5.0],
            phrases: phrases.iter().map(ToString::to_string).collect(),
            kind: "dog",
        };
        Scene {
            width: 20,
            height: 10,
            rgb: vec![0; 600],
            captions: std::array::from_fn(|i| format!("caption {i}")),
            regions: vec![region(0.0, &["a dog", "a dog on the left"]), region(10.0, &["a dog"])],
        }
    }

    #[test]
    fn captions_and_phrases_are_true_of_their_scene() {
        let source = Source::Scene(0, scene());
        for (text, wanted) in [("caption 4", true), ("a dog on the left", true), ("a cat", false)] {
            assert_eq!(is_true_of(text, &source), Some(wanted), "{text}");
        }
        assert_eq!(is_true_of("a cat", &Source::File("cat.jpg".into())), None);
    }

    #[test]
    fn only_what_is_there_once_has_a_place() {
        assert_eq!(place_in("a dog on the left", &scene()), Some([0.0, 0.0, 5.0, 5.0]));
        assert_eq!(place_in("a dog", &scene()), None);
        assert_eq!(place_in("a cat", &scene()), None);
    }
}
