//! Boxes and the pointing game.

use serde::{Deserialize, Serialize};

/// The maximum of a phrase's heat map and the phrase's boxes: the pointing game (Zhang et al. 2016,
/// arXiv:1608.00507).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pointing {
    /// `[x, y]` of the maximum, in the frame of the boxes.
    pub point: [f32; 2],
    /// The boxes `[x0, y0, x1, y1]`; a point in any of them is a hit.
    pub boxes: Vec<[f32; 4]>,
}

impl Pointing {
    /// Whether the point is in one of the boxes, edges included.
    pub fn is_hit(&self) -> bool {
        let [x, y] = self.point;
        self.boxes.iter().any(|&[x0, y0, x1, y1]| x0 <= x && x <= x1 && y0 <= y && y <= y1)
    }
}

/// Whether a caption has all words of a phrase, ignoring articles, case and punctuation.
pub fn names(caption: &str, phrase: &str) -> bool {
    const ARTICLES: [&str; 3] = ["a", "an", "the"];
    let words = |text: &str| -> Vec<String> {
        let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        words.map(str::to_lowercase).filter(|word| !ARTICLES.contains(&word.as_str())).collect()
    };
    let (caption, phrase) = (words(caption), words(phrase));
    !phrase.is_empty() && phrase.iter().all(|word| caption.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caption_names_a_thing_by_all_of_its_words() {
        for (caption, phrase, wanted) in [
            ("A white cup on a table.", "a cup", true),
            ("A cupboard.", "a cup", false),
            ("A dining room with a table.", "a dining table", true),
            ("A table.", "a dining table", false),
            ("A thing.", "the", false),
            ("", "a cup", false),
        ] {
            assert_eq!(names(caption, phrase), wanted, "{caption:?} {phrase:?}");
        }
    }

    #[test]
    fn a_point_in_any_of_the_boxes_is_a_hit() {
        let boxes = vec![[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]];
        let phrase = |x, y| Pointing { point: [x, y], boxes: boxes.clone() };
        let phrases =
            [phrase(10.0, 3.0), phrase(55.0, 51.0), phrase(20.0, 20.0), phrase(f32::NAN, 1.0)];
        assert_eq!(phrases.map(|phrase| phrase.is_hit()), [true, true, false, false]);
    }
}
