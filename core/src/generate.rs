//! Decoding of captions: from a prefix to token ids. This module knows ids, not text.

use burn::tensor::{Device, Int, Tensor, TensorData, activation::log_softmax, s};
use pollster::block_on;

use crate::kernels::dispatch::{is_new_shape_free, is_on_cpu, steps_per_read};
use crate::kernels::{most_probable, with_helpers};
use crate::model::{KvCache, Llama};
use crate::readback::{DeviceFailed, read_floats};

/// Settings of a caption's decoding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decoding {
    /// Maximum number of tokens of a caption.
    pub max_tokens: usize,
    /// Number of hypotheses per step; 1 is greedy.
    pub beam: usize,
    /// Beam search compares hypotheses by log probability divided by length to this power: 1 gives
    /// the mean, 0 the sum.
    pub length_penalty: f32,
}

impl Default for Decoding {
    fn default() -> Self {
        Self { max_tokens: 32, beam: 1, length_penalty: 1.0 }
    }
}

/// A decoded caption.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// Token ids, without the end token.
    pub ids: Vec<u32>,
    /// Sum of the natural log probabilities of the tokens and of the end token.
    pub log_prob: f32,
}

/// Decodes one caption for each row of `prefix`.
///
/// # Shapes
/// - prefix: `[batch, n_prefix, hidden]`
pub async fn generate(
    llm: &Llama,
    prefix: Tensor<3>,
    eos_token_id: u32,
    decoding: Decoding,
) -> Result<Vec<Generated>, DeviceFailed> {
    if decoding.beam <= 1 {
        return greedy(llm, prefix, Some(eos_token_id), decoding.max_tokens).await;
    }
    let [batch, _, _] = prefix.dims();
    let mut captions = Vec::with_capacity(batch);
    for row in 0..batch {
        captions.push(
            beam_search(llm, prefix.clone().slice(s![row..row + 1]), eos_token_id, decoding)
                .await?,
        );
    }
    Ok(captions)
}

/// Takes the most probable token at each step, for all rows at once.
///
/// Without `eos_token_id` every row gets `max_tokens` tokens.
pub async fn greedy(
    llm: &Llama,
    prefix: Tensor<3>,
    eos_token_id: Option<u32>,
    max_tokens: usize,
) -> Result<Vec<Generated>, DeviceFailed> {
    let ([batch, _, _], device) = (prefix.dims(), prefix.device());
    let decoder = Greedy::new(llm, prefix, eos_token_id, max_tokens);
    if batch == 1 && is_on_cpu(&device) {
        // One call for helpers for a caption, instead of one for each token. A read there is always
        // ready.
        return with_helpers(&device, || block_on(decoder.finish(llm)));
    }
    decoder.finish(llm).await
}

/// Greedy decoding, one token at a time. The caller can show each token and stop after any.
#[derive(Debug)]
pub struct Greedy {
    cache: KvCache,
    /// The next input of the language model.
    embeds: Tensor<3>,
    /// The caption index of each row in the cache. Finished captions lose their rows.
    caption_of_row: Vec<usize>,
    eos_token_id: Option<u32>,
    tokens_left: usize,
    captions: Vec<Generated>,
    done: Vec<bool>,
}

impl Greedy {
    /// Starts a caption for each row of `prefix`, without computing anything yet.
    ///
    /// # Shapes
    /// - prefix: `[batch, n_prefix, hidden]`
    pub fn new(
        llm: &Llama,
        prefix: Tensor<3>,
        eos_token_id: Option<u32>,
        max_tokens: usize,
    ) -> Self {
        let [batch, n_prefix, _] = prefix.dims();
        Self {
            cache: llm.new_cache(batch, n_prefix + max_tokens, &prefix.device()),
            embeds: prefix,
            caption_of_row: (0..batch).collect(),
            eos_token_id,
            tokens_left: max_tokens,
            captions: vec![Generated { ids: Vec::new(), log_prob: 0.0 }; batch],
            done: vec![false; batch],
        }
    }

    /// Decodes until every caption is finished.
    async fn finish(mut self, llm: &Llama) -> Result<Vec<Generated>, DeviceFailed> {
        let n_tokens = steps_per_read(&self.embeds.device());
        while self.advance(llm, n_tokens).await? {}
        Ok(self.captions)
    }

    /// Decodes the next token of every row. Returns `false` if all captions were already finished.
    pub async fn step(&mut self, llm: &Llama) -> Result<bool, DeviceFailed> {
        self.advance(llm, 1).await
    }

    /// [`Self::step`] for up to `n_tokens` tokens, which are read back at once.
    async fn advance(&mut self, llm: &Llama, n_tokens: usize) -> Result<bool, DeviceFailed> {
        let n_tokens = n_tokens.min(self.tokens_left);
        if n_tokens == 0 || self.done.iter().all(|done| *done) {
            return Ok(false);
        }
        self.tokens_left -= n_tokens;
        let mut unread = Vec::with_capacity(n_tokens);
        for _ in 0..n_tokens {
            let choices = with_helpers(&self.embeds.device(), || {
                let (best, choices) =
                    most_probable(next_logits(llm, self.embeds.clone(), &mut self.cache));
                self.embeds = llm.embed(best); // [batch, 1, hidden]
                choices
            });
            unread.push(choices);
        }
        // One read for all tokens: [tokens * rows, 2].
        let choices = read_floats(Tensor::cat(unread, 0)).await?;
        for step in choices.chunks_exact(2 * self.caption_of_row.len()) {
            for (&idx, choice) in self.caption_of_row.iter().zip(step.chunks_exact(2)) {
                if self.done[idx] {
                    continue;
                }
                let (id, log_prob) = (choice[0] as u32, choice[1]);
                let caption = &mut self.captions[idx];
                caption.log_prob += log_prob;
                match self.eos_token_id {
                    Some(eos) if eos == id => self.done[idx] = true,
                    _ => caption.ids.push(id),
                }
            }
        }
        self.drop_finished();
        Ok(true)
    }

    /// Drops finished rows once they make up a quarter of the batch; fewer do not pay for copying
    /// the rest.
    ///
    /// Only on the CPU: on a GPU another shape may compile other kernels, which costs more.
    fn drop_finished(&mut self) {
        let device = self.embeds.device();
        let live: Vec<usize> = (0..self.caption_of_row.len())
            .filter(|row| !self.done[self.caption_of_row[*row]])
            .collect();
        if live.is_empty()
            || live.len() * 4 > self.caption_of_row.len() * 3
            || !is_new_shape_free(&device)
        {
            return;
        }
        let places: Vec<u32> = live.iter().map(|row| *row as u32).collect();
        let places = int_row(&places, live.len(), &device);
        self.cache = self.cache.clone().select(places.clone());
        self.embeds = self.embeds.clone().select(0, places);
        self.caption_of_row = live.into_iter().map(|row| self.caption_of_row[row]).collect();
    }

    /// The captions as far as they are decoded.
    pub fn captions(&self) -> &[Generated] {
        &self.captions
    }
}

/// Beam search: keeps the `beam` best prefixes at each step.
///
/// Returns the finished hypothesis with the best log probability for its length, so that short
/// captions have no advantage.
async fn beam_search(
    llm: &Llama,
    prefix: Tensor<3>,
    eos_token_id: u32,
    decoding: Decoding,
) -> Result<Generated, DeviceFailed> {
    let Decoding { max_tokens, beam, length_penalty } = decoding;
    let [_, n_prefix, hidden_size] = prefix.dims();
    let device = prefix.device();
    let mut cache = llm.new_cache(beam, n_prefix + max_tokens, &device);
    let mut live = vec![Generated { ids: Vec::new(), log_prob: 0.0 }];
    let mut finished: Vec<Generated> = Vec::new();
    let mut embeds = prefix.expand([beam, n_prefix, hidden_size]);
    for _ in 0..max_tokens {
        let log_probs = log_softmax(next_logits(llm, embeds, &mut cache), 1);
        let [_, vocab_size] = log_probs.dims();
        let log_probs = read_floats(log_probs).await?;

        let mut candidates: Vec<(usize, u32, f32)> = Vec::new();
        for (row, hypothesis) in live.iter().enumerate() {
            let scores = &log_probs[row * vocab_size..(row + 1) * vocab_size];
            candidates.extend(
                top_k(scores, beam + 1)
                    .into_iter()
                    .map(|id| (row, id as u32, hypothesis.log_prob + scores[id])),
            );
        }
        candidates.sort_by(|a, b| b.2.total_cmp(&a.2));

        let mut next = Vec::with_capacity(beam);
        let mut rows = Vec::with_capacity(beam);
        for (row, id, log_prob) in candidates {
            let mut ids = live[row].ids.clone();
            if id == eos_token_id {
                finished.push(Generated { ids, log_prob });
            } else if next.len() < beam {
                ids.push(id);
                next.push(Generated { ids, log_prob });
                rows.push(row);
            }
            if next.len() == beam {
                break;
            }
        }
        live = next;
        if live.is_empty()
            || best_of(&finished, length_penalty).is_some_and(|best| {
                finished.len() >= beam
                    && for_length(best, length_penalty) >= for_length(&live[0], length_penalty)
            })
        {
            break;
        }
        let last: Vec<u32> =
            live.iter().map(|h| *h.ids.last().expect("a live hypothesis has a token")).collect();
        cache = cache.select(int_row(
            &rows.iter().map(|row| *row as u32).collect::<Vec<_>>(),
            beam,
            &device,
        ));
        embeds = llm.embed(int_row(&last, beam, &device).unsqueeze_dim(1));
    }
    let best =
        best_of(&finished, length_penalty).or_else(|| best_of(&live, length_penalty)).cloned();
    Ok(best.unwrap_or(Generated { ids: Vec::new(), log_prob: 0.0 }))
}

/// Logits of the token after `embeds`: `[batch, vocab]`.
fn next_logits(llm: &Llama, embeds: Tensor<3>, cache: &mut KvCache) -> Tensor<2> {
    llm.logits(llm.last_cached(embeds, cache))
}

fn for_length(generated: &Generated, length_penalty: f32) -> f32 {
    generated.log_prob / ((generated.ids.len() + 1) as f32).powf(length_penalty)
}

fn best_of(captions: &[Generated], length_penalty: f32) -> Option<&Generated> {
    captions
        .iter()
        .max_by(|a, b| for_length(a, length_penalty).total_cmp(&for_length(b, length_penalty)))
}

/// Indices of the `k` largest scores, largest first; equal scores by index.
fn top_k(scores: &[f32], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    let by_score = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
    let k = k.min(scores.len());
    if k < order.len() {
        order.select_nth_unstable_by(k, by_score);
        order.truncate(k);
    }
    order.sort_unstable_by(by_score);
    order
}

/// A row of ints on the device, padded to `len` with its last value.
fn int_row(values: &[u32], len: usize, device: &Device) -> Tensor<1, Int> {
    let last = *values.last().expect("a beam has at least one hypothesis");
    let values: Vec<i32> =
        values.iter().copied().chain(std::iter::repeat(last)).take(len).map(|v| v as i32).collect();
    Tensor::from_data(TensorData::new(values, [len]), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_scores_come_first_and_equal_ones_by_index() {
        assert_eq!(top_k(&[0.1, 0.9, 0.5, 0.9], 3), [1, 3, 2]);
        assert_eq!(top_k(&[0.1, 0.9], 5), [1, 0]);
    }
}
