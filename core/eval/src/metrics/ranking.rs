//! Counts the wrong answers ranked above right ones, a block of scores at a time.

use super::retrieval::{RetrievalError, RetrievalRanks, check_targets};

/// The rank of a wrong answer with the same score as a right one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ties {
    /// Above: a model that gives everything the same score gets no recall by luck.
    #[default]
    Against,
    /// Above if it comes earlier in the data, as in open_clip's `get_clip_metrics` with a stable
    /// sort. open_clip's own sort is not stable, so its order of equal scores depends on the CPU.
    ByIndex,
}

/// A score and its position in the data.
#[derive(Clone, Copy, Debug)]
struct Placed {
    score: f32,
    idx: usize,
}

/// Scores of the right pairs, with which all others are compared.
#[derive(Clone, Debug)]
pub struct RightScores<'a> {
    text_image_idx: &'a [usize],
    ties: Ties,
    /// Score of each text with its own image; `None` if it is NaN.
    of_text: Vec<Option<f32>>,
    /// Best score of each image's own texts; the first one in a tie.
    of_image: Vec<Option<Placed>>,
}

impl<'a> RightScores<'a> {
    /// Starts without scores, for texts that belong to the images `text_image_idx`.
    ///
    /// # Errors
    /// If there is nothing to rank, or an index is out of range.
    pub fn new(
        n_images: usize,
        text_image_idx: &'a [usize],
        ties: Ties,
    ) -> Result<Self, RetrievalError> {
        let n_texts = text_image_idx.len();
        if n_images == 0 || n_texts == 0 {
            return Err(RetrievalError::Empty { n_images, n_texts });
        }
        check_targets(text_image_idx, n_images)?;
        Ok(Self {
            text_image_idx,
            ties,
            of_text: vec![None; n_texts],
            of_image: vec![None; n_images],
        })
    }

    /// Adds the score of a text with its own image. Callers add texts in order.
    pub fn add(&mut self, text_idx: usize, score: f32) {
        if score.is_nan() {
            return;
        }
        self.of_text[text_idx] = Some(score);
        let best = &mut self.of_image[self.text_image_idx[text_idx]];
        if best.is_none_or(|best| score > best.score) {
            *best = Some(Placed { score, idx: text_idx });
        }
    }

    /// Adds the right pairs from a row of scores of one image with all texts.
    pub(super) fn add_row(&mut self, image_idx: usize, row: &[f32]) {
        for (text_idx, &score) in row.iter().enumerate() {
            if self.text_image_idx[text_idx] == image_idx {
                self.add(text_idx, score);
            }
        }
    }

    fn is_ahead(&self, wrong: Placed, right: Placed) -> bool {
        match self.ties {
            _ if wrong.score.is_nan() => true,
            Ties::Against => wrong.score >= right.score,
            Ties::ByIndex => {
                wrong.score > right.score || wrong.score == right.score && wrong.idx < right.idx
            }
        }
    }
}

/// Number of wrong answers counted so far above each right one. Parts of the scores can be counted
/// separately and added.
#[derive(Clone, Debug)]
pub struct Ahead {
    of_image: Vec<u32>,
    of_text: Vec<u32>,
}

impl Ahead {
    /// Starts with zero counts.
    pub fn new(right: &RightScores) -> Self {
        Self { of_image: vec![0; right.of_image.len()], of_text: vec![0; right.of_text.len()] }
    }

    /// Counts the scores of one image with the texts from `first_text` on.
    pub fn count(&mut self, right: &RightScores, image_idx: usize, first_text: usize, row: &[f32]) {
        let of_image = right.of_image[image_idx];
        for (text_idx, &score) in (first_text..).zip(row) {
            let own_image = right.text_image_idx[text_idx];
            if own_image == image_idx {
                continue;
            }
            let text = Placed { score, idx: text_idx };
            let image = Placed { score, idx: image_idx };
            let of_text = right.of_text[text_idx].map(|score| Placed { score, idx: own_image });
            self.of_image[image_idx] +=
                u32::from(of_image.is_some_and(|own| right.is_ahead(text, own)));
            self.of_text[text_idx] +=
                u32::from(of_text.is_some_and(|own| right.is_ahead(image, own)));
        }
    }

    /// Counts a block of images with a block of texts; each block is the index of its first row and
    /// its rows.
    pub fn count_block(
        &mut self,
        right: &RightScores,
        (first_image, image_embeds): (usize, &[f32]),
        (first_text, text_embeds): (usize, &[f32]),
        embed_dim: usize,
    ) {
        let mut row = Vec::with_capacity(text_embeds.len() / embed_dim);
        for (image_idx, image_embed) in (first_image..).zip(image_embeds.chunks_exact(embed_dim)) {
            row.clear();
            row.extend(
                text_embeds.chunks_exact(embed_dim).map(|text_embed| dot(image_embed, text_embed)),
            );
            self.count(right, image_idx, first_text, &row);
        }
    }

    /// Adds the counts of another part.
    pub fn add(&mut self, other: &Self) {
        let add =
            |sum: &mut [u32], more: &[u32]| sum.iter_mut().zip(more).for_each(|(a, b)| *a += b);
        add(&mut self.of_image, &other.of_image);
        add(&mut self.of_text, &other.of_text);
    }

    /// The ranks, once all scores are counted.
    pub fn ranks(&self, right: &RightScores) -> RetrievalRanks {
        let rank = |is_there: bool, n_ahead: &u32| is_there.then_some(*n_ahead as usize + 1);
        let images = right.of_image.iter().zip(&self.of_image);
        let texts = right.of_text.iter().zip(&self.of_text);
        RetrievalRanks {
            image_to_text: images.map(|(own, n)| rank(own.is_some(), n)).collect(),
            text_to_image: texts.map(|(own, n)| rank(own.is_some(), n)).collect(),
        }
    }
}

/// Inner product, summed in eight lanes so that the compiler can vectorize it. Equal rows give the
/// same bits in every caller.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x * y).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for (lane, (x, y)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += x * y;
        }
    }
    lanes.iter().sum::<f32>() + tail
}

#[cfg(test)]
mod tests {
    use super::super::retrieval::ranks_from_embeds;
    use super::*;

    /// Vectors with few distinct values, so that many scores are equal.
    fn coarse(n: usize, dim: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        (0..n * dim)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 30) as f32 - 1.0
            })
            .collect()
    }

    #[test]
    fn blocks_counted_apart_give_the_ranks_of_the_whole() {
        let (n_images, n_texts, dim) = (17, 40, 3);
        let (images, texts) = (coarse(n_images, dim, 1), coarse(n_texts, dim, 2));
        let own: Vec<usize> = (0..n_texts).map(|text| text * n_images / n_texts).collect();
        let whole = ranks_from_embeds(&images, &texts, dim, &own, Ties::Against).expect("they fit");

        let mut right = RightScores::new(n_images, &own, Ties::Against).expect("they fit");
        for (text, &image) in own.iter().enumerate() {
            right.add(text, dot(&images[image * dim..][..dim], &texts[text * dim..][..dim]));
        }
        let mut sum = Ahead::new(&right);
        for (i, image_block) in images.chunks(5 * dim).enumerate() {
            for (t, text_block) in texts.chunks(7 * dim).enumerate() {
                let mut part = Ahead::new(&right);
                part.count_block(&right, (5 * i, image_block), (7 * t, text_block), dim);
                sum.add(&part);
            }
        }
        assert_eq!(sum.ranks(&right), whole);
    }

    #[test]
    fn equal_scores_rank_by_their_place_where_that_is_asked_for() {
        let ranks = ranks_from_embeds(&[1.0; 3], &[1.0; 3], 1, &[0, 1, 2], Ties::ByIndex)
            .expect("they fit");
        assert_eq!(ranks.image_to_text, [Some(1), Some(2), Some(3)]);
        assert_eq!(ranks.text_to_image, [Some(1), Some(2), Some(3)]);
    }
}
