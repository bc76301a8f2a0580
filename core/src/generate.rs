//! Decoding: from a caption's prefix to token ids. It knows ids, not text.

use burn::tensor::{Device, Int, Tensor, TensorData, activation::log_softmax, s};

use crate::model::{KvCache, Llama};

/// How a caption is decoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decoding {
    /// Most tokens of a caption.
    pub max_tokens: usize,
    /// Hypotheses kept at each step; 1 is greedy.
    pub beam: usize,
}

impl Default for Decoding {
    fn default() -> Self {
        Self { max_tokens: 32, beam: 1 }
    }
}

/// A decoded caption.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// Token ids, without the one that ends the caption.
    pub ids: Vec<u32>,
    /// Sum of the natural log probabilities of the tokens and the end.
    pub log_prob: f32,
}

/// The device failed while a result was read.
#[derive(Debug, thiserror::Error)]
#[error("the device stopped working: {0}\n  hint: try again with --device cpu")]
pub struct DeviceFailed(pub String);

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
        captions
            .push(beam_search(llm, prefix.clone().slice(s![row..row + 1]), eos_token_id, decoding).await?);
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
    let mut decoder = Greedy::new(llm, prefix, eos_token_id, max_tokens);
    while decoder.step(llm).await? {}
    Ok(decoder.captions)
}

/// Greedy decoding one token at a time: whoever asks can show each token, and stop after any.
#[derive(Debug)]
pub struct Greedy {
    cache: KvCache,
    /// What the language model reads next.
    embeds: Tensor<3>,
    eos_token_id: Option<u32>,
    tokens_left: usize,
    captions: Vec<Generated>,
    done: Vec<bool>,
}

impl Greedy {
    /// Begins a caption for each row of `prefix`; nothing is computed yet.
    ///
    /// # Shapes
    /// - prefix: `[batch, n_prefix, hidden]`
    pub fn new(llm: &Llama, prefix: Tensor<3>, eos_token_id: Option<u32>, max_tokens: usize) -> Self {
        let [batch, n_prefix, _] = prefix.dims();
        Self {
            cache: llm.new_cache(batch, n_prefix + max_tokens, &prefix.device()),
            embeds: prefix,
            eos_token_id,
            tokens_left: max_tokens,
            captions: vec![Generated { ids: Vec::new(), log_prob: 0.0 }; batch],
            done: vec![false; batch],
        }
    }

    /// Decodes the next token of every row; false when there was none left to decode.
    pub async fn step(&mut self, llm: &Llama) -> Result<bool, DeviceFailed> {
        if self.tokens_left == 0 || self.done.iter().all(|done| *done) {
            return Ok(false);
        }
        self.tokens_left -= 1;
        let log_probs = next_log_probs(llm, self.embeds.clone(), &mut self.cache);
        let best = log_probs.clone().argmax(1); // [batch, 1]
        let best_log_prob = log_probs.gather(1, best.clone());
        let (ids, log_probs) = (read_ints(best.clone()).await?, read_floats(best_log_prob).await?);
        for (row, caption) in self.captions.iter_mut().enumerate() {
            if self.done[row] {
                continue;
            }
            caption.log_prob += log_probs[row];
            match self.eos_token_id {
                Some(eos) if eos == ids[row] => self.done[row] = true,
                _ => caption.ids.push(ids[row]),
            }
        }
        self.embeds = llm.embed(best);
        Ok(true)
    }

    /// The captions as far as they go.
    pub fn captions(&self) -> &[Generated] {
        &self.captions
    }
}

/// Keeps the `beam` best beginnings and returns the finished one with the best mean log
/// probability per token, so that short captions have no advantage.
async fn beam_search(
    llm: &Llama,
    prefix: Tensor<3>,
    eos_token_id: u32,
    decoding: Decoding,
) -> Result<Generated, DeviceFailed> {
    let Decoding { max_tokens, beam } = decoding;
    let [_, n_prefix, hidden_size] = prefix.dims();
    let device = prefix.device();
    let mut cache = llm.new_cache(beam, n_prefix + max_tokens, &device);
    let mut live = vec![Generated { ids: Vec::new(), log_prob: 0.0 }];
    let mut finished: Vec<Generated> = Vec::new();
    let mut embeds = prefix.expand([beam, n_prefix, hidden_size]);
    for _ in 0..max_tokens {
        let log_probs = next_log_probs(llm, embeds, &mut cache);
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
            || best_by_mean(&finished)
                .is_some_and(|best| finished.len() >= beam && mean(best) >= mean(&live[0]))
        {
            break;
        }
        let last: Vec<u32> =
            live.iter().map(|h| *h.ids.last().expect("a live hypothesis has a token")).collect();
        cache = cache.select(int_row(&rows.iter().map(|row| *row as u32).collect::<Vec<_>>(), beam, &device));
        embeds = llm.embed(int_row(&last, beam, &device).unsqueeze_dim(1));
    }
    let best = best_by_mean(&finished).or_else(|| best_by_mean(&live)).cloned();
    Ok(best.unwrap_or(Generated { ids: Vec::new(), log_prob: 0.0 }))
}

/// Log probabilities of the token after `embeds`: `[batch, vocab]`.
fn next_log_probs(llm: &Llama, embeds: Tensor<3>, cache: &mut KvCache) -> Tensor<2> {
    let [_, seq, _] = embeds.dims();
    let hidden = llm.forward_cached(embeds, cache).slice(s![.., seq - 1..seq]);
    log_softmax(llm.logits(hidden.squeeze_dim(1)), 1)
}

fn mean(generated: &Generated) -> f32 {
    generated.log_prob / (generated.ids.len() + 1) as f32
}

fn best_by_mean(captions: &[Generated]) -> Option<&Generated> {
    captions.iter().max_by(|a, b| mean(a).total_cmp(&mean(b)))
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

/// A row of ints on the device, its last one repeated up to `len`.
fn int_row(values: &[u32], len: usize, device: &Device) -> Tensor<1, Int> {
    let last = *values.last().expect("a beam has at least one hypothesis");
    let values: Vec<i32> =
        values.iter().copied().chain(std::iter::repeat(last)).take(len).map(|v| v as i32).collect();
    Tensor::from_data(TensorData::new(values, [len]), device)
}

/// Values of a float tensor, row by row.
pub async fn read_floats<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, DeviceFailed> {
    let data = tensor.into_data_async().await.map_err(|e| DeviceFailed(format!("{e:?}")))?;
    Ok(data.iter::<f32>().collect())
}

/// Values of an int tensor, row by row.
pub async fn read_ints<const D: usize>(tensor: Tensor<D, Int>) -> Result<Vec<u32>, DeviceFailed> {
    let data = tensor.into_data_async().await.map_err(|e| DeviceFailed(format!("{e:?}")))?;
    Ok(data.iter::<i64>().map(|id| id as u32).collect())
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
