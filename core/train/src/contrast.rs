//! Equation 2 and its gradient over the embeddings of all ranks, a block of rows at a time.
//!
//! With `S = exp(logit_scale) <u_i, v_j>` over `n` pairs,
//! `L = 1/n [Σ_i (lse_j S_ij - S_ii) + Σ_j (lse_i S_ij - S_jj)]`
//! (twice open_clip's loss, see [`crate::loss::contrastive_loss`]). A rank has some of the rows `u`
//! and the same rows of `v`. It needs all other embeddings and, for the gradient, their
//! log-sum-exps:
//!
//! `dL/du_i = exp(logit_scale)/n [Σ_j p_ij v_j - 2 v_i]` with
//! `p_ij = exp(S_ij - lse_j S_ij) + exp(S_ij - lse_i S_ij)`
//!
//! and the same for `v`. SigLIP's loss ([`crate::loss::sigmoid_loss`]) needs only the other
//! embeddings. With `S = exp(logit_scale) <u_i, v_j> + logit_bias` it is
//! `L = 1/n [Σ_ij log(1 + exp(S_ij)) - Σ_i S_ii]`, and
//!
//! `dL/du_i = exp(logit_scale)/n [Σ_j sigmoid(S_ij) v_j - v_i]`
//!
//! Beside the embeddings, nothing larger than a block is in memory.

use burn::tensor::{
    Device, Tensor, TensorData,
    activation::{log_sigmoid, sigmoid},
    s,
};
use mmgem_collective::{Collective, CollectiveError};
use mmgem_core::readback::floats_now;

/// Similarities per block.
const BLOCK: usize = 1 << 24;

/// This rank's share of the loss and the gradients of its own rows.
pub struct Contrast {
    /// Its share of the loss; the shares of all ranks add up to the loss.
    pub loss: f64,
    /// Its share of the derivative with respect to the log of the scale.
    pub log_scale_gradient: f64,
    /// Its share of the derivative with respect to the bias, if the loss has one.
    pub bias_gradient: f64,
    /// Gradient of its image or region embeddings, `[rows, embed_dim]`.
    pub visual_gradient: Tensor<2>,
    /// Gradient of its text embeddings, `[rows, embed_dim]`.
    pub text_gradient: Tensor<2>,
}

/// Replaces the logit of a pair that is left out.
const LEFT_OUT: f32 = -1e4;

/// The contrastive loss over all ranks: InfoNCE, or SigLIP's if `bias` is given.
///
/// `text_hashes` has a hash of each own text; InfoNCE leaves out pairs of different rows with the
/// same hash. `rows` has the number of rows of each rank, at least one of which is above 0.
///
/// # Shapes
/// - visual, text: `[rows[rank], embed_dim]`, rows of unit length, without a graph
/// - log_scale: `[1]`
/// - bias: `[1]`
pub fn contrast(
    visual: Tensor<2>,
    text: Tensor<2>,
    log_scale: Tensor<1>,
    bias: Option<Tensor<1>>,
    text_hashes: Option<&[u32]>,
    rows: &[usize],
    group: &dyn Collective,
) -> Result<Contrast, CollectiveError> {
    let scale: Tensor<2> = log_scale.exp().unsqueeze();
    match bias {
        None => {
            let same = text_hashes
                .map(|text_hashes| SameTexts::new(text_hashes, rows, &visual.device(), group))
                .transpose()?;
            softmax_contrast(visual, text, scale, same.as_ref(), rows, group)
        }
        Some(bias) => sigmoid_contrast(visual, text, scale, bias.unsqueeze(), rows, group),
    }
}

/// Finds rows with the same text, over all ranks.
struct SameTexts {
    /// Hash and row number of each own row, `[rows, 1]`.
    own: [Tensor<2>; 2],
    /// Hash and row number of each row of all ranks.
    all: [Tensor<2>; 2],
}

impl SameTexts {
    fn new(
        text_hashes: &[u32],
        rows: &[usize],
        device: &Device,
        group: &dyn Collective,
    ) -> Result<Self, CollectiveError> {
        let first: usize = rows[..group.rank()].iter().sum();
        let column = |values: Vec<f32>| {
            let n = values.len();
            Tensor::<2>::from_data(TensorData::new(values, [n, 1]), device)
        };
        let own = [
            column(text_hashes.iter().map(|hash| *hash as f32).collect()),
            column((first..first + text_hashes.len()).map(|row| row as f32).collect()),
        ];
        let [hashes, numbers] = own.clone();
        let all = [gather_rows(hashes, rows, group)?, gather_rows(numbers, rows, group)?];
        Ok(Self { own, all })
    }

    /// Masks pairs of the own rows in `range` with other rows that have the same text.
    fn mask(&self, logits: Tensor<2>, range: std::ops::Range<usize>) -> Tensor<2> {
        let shape = logits.dims();
        let is_same = |of: usize| {
            let (own, all) = (self.own[of].clone().slice(s![range.clone()]), self.all[of].clone());
            own.expand(shape).equal(all.transpose().expand(shape))
        };
        let others = is_same(1).bool_not();
        logits.mask_fill(is_same(0).bool_and(others), LEFT_OUT)
    }
}

/// Scaled similarities of the own rows in `range` with all rows; pairs to leave out are masked.
fn logits_of(
    own: &Tensor<2>,
    all: &Tensor<2>,
    scale: &Tensor<2>,
    same: Option<&SameTexts>,
    range: std::ops::Range<usize>,
) -> Tensor<2> {
    let logits =
        own.clone().slice(s![range.clone()]).matmul(all.clone().transpose()) * scale.clone();
    match same {
        Some(same) => same.mask(logits, range),
        None => logits,
    }
}

fn softmax_contrast(
    visual: Tensor<2>,
    text: Tensor<2>,
    scale: Tensor<2>,
    same: Option<&SameTexts>,
    rows: &[usize],
    group: &dyn Collective,
) -> Result<Contrast, CollectiveError> {
    let n: usize = rows.iter().sum();
    let all_visual = gather_rows(visual.clone(), rows, group)?;
    let all_text = gather_rows(text.clone(), rows, group)?;

    let lse_visual = log_sum_exp(&visual, &all_text, &scale, same);
    let lse_text = log_sum_exp(&text, &all_visual, &scale, same);
    let all_lse_visual = gather_rows(lse_visual.clone(), rows, group)?;
    let all_lse_text = gather_rows(lse_text.clone(), rows, group)?;

    let side = |own, partner, all, own_lse, all_lse| {
        side_gradient(own, partner, all, [own_lse, all_lse], &scale, same, n)
    };
    let (visual_gradient, visual_mean) =
        side(&visual, &text, &all_text, &lse_visual, &all_lse_text);
    let (text_gradient, text_mean) = side(&text, &visual, &all_visual, &lse_text, &all_lse_visual);

    let pairs = (visual * text).sum() * scale.squeeze_dim::<1>(1) * 2.0;
    let loss = lse_visual.sum() + lse_text.sum() - pairs.clone();
    let log_scale_gradient = visual_mean + text_mean - pairs;
    let [loss, log_scale_gradient] = means([loss, log_scale_gradient], n);
    Ok(Contrast { loss, log_scale_gradient, bias_gradient: 0.0, visual_gradient, text_gradient })
}

fn sigmoid_contrast(
    visual: Tensor<2>,
    text: Tensor<2>,
    scale: Tensor<2>,
    bias: Tensor<2>,
    rows: &[usize],
    group: &dyn Collective,
) -> Result<Contrast, CollectiveError> {
    let n: usize = rows.iter().sum();
    let all_visual = gather_rows(visual.clone(), rows, group)?;
    let all_text = gather_rows(text.clone(), rows, group)?;
    let side = |own, partner, all| sigmoid_side(own, partner, all, &scale, &bias, n);
    let (visual_gradient, [loss, by_scale, by_bias]) = side(&visual, &text, &all_text);
    // The loss comes from the images' side alone: the texts' side covers the same pairs again.
    let (text_gradient, _) = side(&text, &visual, &all_visual);

    let [own, _] = visual.dims();
    let pairs = (visual * text).sum() * scale.squeeze_dim::<1>(1);
    let biases = bias.squeeze_dim::<1>(1) * own as f64;
    let found = [loss - pairs.clone() - biases, by_scale - pairs, by_bias - own as f64];
    let [loss, log_scale_gradient, bias_gradient] = means(found, n);
    Ok(Contrast { loss, log_scale_gradient, bias_gradient, visual_gradient, text_gradient })
}

/// Divides sums over the pairs by `n`, and reads them from the device in one transfer.
fn means<const N: usize>(sums: [Tensor<1>; N], n: usize) -> [f64; N] {
    let sums = floats_now(Tensor::cat(sums.to_vec(), 0));
    std::array::from_fn(|at| f64::from(sums[at]) / n as f64)
}

/// The rows of all ranks, in order of rank.
fn gather_rows(
    own: Tensor<2>,
    rows: &[usize],
    group: &dyn Collective,
) -> Result<Tensor<2>, CollectiveError> {
    if group.size() == 1 {
        return Ok(own);
    }
    let [n, width] = own.dims();
    let most = rows.iter().copied().max().unwrap_or(0);
    // Collectives need the same length from each rank.
    let padded = if n == most {
        own
    } else {
        let padding = Tensor::zeros([most - n, width], &own.device());
        if n == 0 { padding } else { Tensor::cat(vec![own, padding], 0) }
    };
    let all = group.all_gather(padded.reshape([most * width]))?.reshape([rows.len() * most, width]);
    if rows.iter().all(|n| *n == most) {
        return Ok(all);
    }
    let filled = rows.iter().enumerate().filter(|(_, n)| **n > 0);
    Ok(Tensor::cat(filled.map(|(rank, n)| all.clone().narrow(0, rank * most, *n)).collect(), 0))
}

/// Splits `n` rows into blocks that have at most [`BLOCK`] similarities with `columns` columns.
fn blocks(n: usize, columns: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let step = (BLOCK / columns.max(1)).max(1);
    (0..n).step_by(step).map(move |start| start..(start + step).min(n))
}

/// `lse_j S_ij` of each own row, `[rows, 1]`.
fn log_sum_exp(
    own: &Tensor<2>,
    all: &Tensor<2>,
    scale: &Tensor<2>,
    same: Option<&SameTexts>,
) -> Tensor<2> {
    let ([n, _], [columns, _]) = (own.dims(), all.dims());
    if n == 0 {
        return Tensor::zeros([0, 1], &own.device());
    }
    let of_block = |range: std::ops::Range<usize>| {
        let logits = logits_of(own, all, scale, same, range);
        let largest = logits.clone().max_dim(1);
        (logits - largest.clone()).exp().sum_dim(1).log() + largest
    };
    Tensor::cat(blocks(n, columns).map(of_block).collect(), 0)
}

/// Gradient of the own rows, and `Σ_ij exp(S_ij - lse_j S_ij) S_ij` over them.
fn side_gradient(
    own: &Tensor<2>,
    partner: &Tensor<2>,
    all: &Tensor<2>,
    [own_lse, all_lse]: [&Tensor<2>; 2],
    scale: &Tensor<2>,
    same: Option<&SameTexts>,
    n_pairs: usize,
) -> (Tensor<2>, Tensor<1>) {
    let ([n, _], [columns, _]) = (own.dims(), all.dims());
    let mut mean = Tensor::zeros([1], &own.device());
    if n == 0 {
        return (own.clone(), mean);
    }
    let mut gradients = Vec::new();
    for range in blocks(n, columns) {
        let logits = logits_of(own, all, scale, same, range.clone());
        let of_row = (logits.clone() - own_lse.clone().slice(s![range.clone()])).exp();
        let of_column = (logits.clone() - all_lse.clone().transpose()).exp();
        mean = mean + (of_row.clone() * logits).sum();
        let pulled =
            (of_row + of_column).matmul(all.clone()) - partner.clone().slice(s![range]) * 2.0;
        gradients.push(pulled * scale.clone() / n_pairs as f64);
    }
    (Tensor::cat(gradients, 0), mean)
}

/// Gradient of the own rows. Also sums over them: `log(1 + exp(S_ij))`, its derivative with respect
/// to the log of the scale, and its derivative with respect to the bias.
fn sigmoid_side(
    own: &Tensor<2>,
    partner: &Tensor<2>,
    all: &Tensor<2>,
    scale: &Tensor<2>,
    bias: &Tensor<2>,
    n_pairs: usize,
) -> (Tensor<2>, [Tensor<1>; 3]) {
    let ([n, _], [columns, _]) = (own.dims(), all.dims());
    let mut sums = [0; 3].map(|_| Tensor::zeros([1], &own.device()));
    if n == 0 {
        return (own.clone(), sums);
    }
    let mut gradients = Vec::new();
    for range in blocks(n, columns) {
        let similarities =
            own.clone().slice(s![range.clone()]).matmul(all.clone().transpose()) * scale.clone();
        let logits = similarities.clone() + bias.clone();
        let probs = sigmoid(logits.clone());
        let found = [
            -log_sigmoid(-logits).sum(),
            (probs.clone() * similarities).sum(),
            probs.clone().sum(),
        ];
        let [loss, by_scale, by_bias] = sums;
        let [found_loss, found_scale, found_bias] = found;
        sums = [loss + found_loss, by_scale + found_scale, by_bias + found_bias];
        let pulled = probs.matmul(all.clone()) - partner.clone().slice(s![range]);
        gradients.push(pulled * scale.clone() / n_pairs as f64);
    }
    (Tensor::cat(gradients, 0), sums)
}
