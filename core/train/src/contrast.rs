//! A contrastive loss and its gradient over the embeddings of all ranks, a block of rows at a time.
//!
//! The embeddings of all ranks are gathered and become leaves of a graph. Each rank takes its own
//! rows, in blocks: it calls the loss of the block ([`crate::ContrastiveLoss::of_rows`]) and runs
//! its backward pass. The gradient of the block's rows is complete for this rank. The gradient of
//! the columns, which are the embeddings of all ranks, is summed over the blocks, then over the
//! parts of the rank's workers, and then over the ranks. So a contrastive loss needs no gradient of
//! its own.
//!
//! Beside the embeddings and their gradients, nothing larger than a block is in memory.

use burn::tensor::{Bool, Device, Gradients, Tensor, TensorData, s};
use mmgem_collective::{Collective, CollectiveError, sum_in_pairs};
use mmgem_core::loss::{PairBlock, matches};

/// Similarities per block.
const BLOCK: usize = 1 << 24;

/// This rank's share of the loss and the gradients of its own rows. All of it is still on the
/// device.
pub struct Contrast {
    /// Loss, its derivatives with respect to the log of the scale and to the bias, and squared
    /// distances of the images and of the texts from their mean: sums over rows, divided by the
    /// number of all ranks' rows, `[5]`.
    pub means: Tensor<1>,
    /// Gradient of its image or region embeddings, `[rows, embed_dim]`.
    pub visual_gradient: Tensor<2>,
    /// Gradient of its text embeddings, `[rows, embed_dim]`, if they learn.
    pub text_gradient: Option<Tensor<2>>,
}

/// The numbers of a [`Contrast`], on the host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ContrastNumbers {
    /// This rank's share of the loss; the shares of all ranks add up to the loss.
    pub loss: f64,
    /// Its share of the derivative with respect to the log of the scale.
    pub log_scale_gradient: f64,
    /// Its share of the derivative with respect to the bias; 0 if the loss has none.
    pub bias_gradient: f64,
    /// Variance of the embeddings of all ranks' images and texts: the mean squared distance from
    /// their mean. 0 means that all are equal.
    pub spread: [f64; 2],
}

impl Contrast {
    /// This rank's share of the derivatives with respect to the log of the scale and to the bias,
    /// each `[1]`.
    pub fn scalar_gradients(&self) -> [Tensor<1>; 2] {
        [1, 2].map(|at| self.means.clone().narrow(0, at, 1))
    }
}

impl ContrastNumbers {
    /// Number of means.
    pub const N_MEANS: usize = 5;

    /// The numbers in [`Contrast::means`].
    pub fn new(means: &[f32]) -> Self {
        let [loss, log_scale_gradient, bias_gradient, of_visual, of_text] =
            std::array::from_fn(|at| f64::from(means[at]));
        Self { loss, log_scale_gradient, bias_gradient, spread: [of_visual, of_text] }
    }
}

/// Embeddings of one rank, without a graph.
pub struct Embeddings<'a> {
    /// Images or regions, `[rows, embed_dim]`, rows of unit length.
    pub visual: Tensor<2>,
    /// Their texts, `[rows, embed_dim]`, rows of unit length.
    pub text: Tensor<2>,
    /// A hash of each text, below 2^24, if the loss leaves out pairs of different rows that have
    /// the same text.
    pub text_hashes: Option<&'a [u32]>,
    /// Whether the run trains weights that the texts depend on; the same on all ranks.
    pub text_learns: bool,
    /// Rows of each worker's part, in order. A block of rows is of one part, so that the sums are
    /// the same for the same parts, on however many ranks they are.
    pub parts: &'a [usize],
}

/// A contrastive loss over the embeddings of all ranks, and its gradient.
///
/// `loss` returns the sum over the rows of a block. `log_scale` and `bias` are `[1]`, without a
/// graph. `rows` has the number of rows of each rank, at least one of which is above 0.
///
/// # Errors
/// If the ranks lose contact.
pub fn contrast(
    loss: impl Fn(&PairBlock) -> Tensor<1>,
    own: &Embeddings,
    log_scale: Tensor<1>,
    bias: Option<Tensor<1>>,
    rows: &[usize],
    group: &dyn Collective,
) -> Result<Contrast, CollectiveError> {
    let n: usize = rows.iter().sum();
    let first: usize = rows[..group.rank()].iter().sum();
    let ([n_own, width], device) = (own.visual.dims(), own.visual.device());
    let all_visual = gather_rows(own.visual.clone(), rows, group)?;
    let all_text = gather_rows(own.text.clone(), rows, group)?;
    let same_texts =
        own.text_hashes.map(|hashes| SameTexts::new(hashes, rows, &device, group)).transpose()?;

    let text_leaf = |values: Tensor<2>| match own.text_learns {
        true => leaf(values),
        false => Tensor::from_inner(values),
    };
    let block_sums = |range: std::ops::Range<usize>| {
        let rows_of = |side: &Tensor<2>| side.clone().slice(s![range.clone()]);
        let block = PairBlock {
            image_rows: leaf(rows_of(&own.visual)),
            text_rows: text_leaf(rows_of(&own.text)),
            images: leaf(all_visual.clone()),
            texts: text_leaf(all_text.clone()),
            first: first + range.start,
            same_text: same_texts.as_ref().map(|same| same.mask(first, range.clone())),
            logit_scale: leaf(log_scale.clone()),
            logit_bias: bias.clone().map(leaf),
        };
        let value = loss(&block);
        let mut gradients = value.backward();
        let by_scale = taken(&block.logit_scale, &mut gradients);
        let by_bias = match &block.logit_bias {
            Some(bias) => taken(bias, &mut gradients),
            None => Tensor::zeros([1], &device),
        };
        BlockSums {
            visual: SideGradient::of(&block.image_rows, &block.images, &mut gradients),
            text: own
                .text_learns
                .then(|| SideGradient::of(&block.text_rows, &block.texts, &mut gradients)),
            scalars: [value.inner(), by_scale, by_bias].map(|sum| sum / n as f64),
        }
    };
    let mut start = 0;
    let of_parts = own.parts.iter().filter_map(|rows| {
        let part = start..start + rows;
        start += rows;
        blocks(part, n).map(block_sums).reduce(BlockSums::add)
    });
    let sums = sum_in_pairs(of_parts.collect(), BlockSums::add).unwrap_or_else(|| {
        let none =
            || SideGradient { of_columns: Tensor::zeros([n, width], &device), of_rows: Vec::new() };
        let scalars = [0; 3].map(|_| Tensor::zeros([1], &device));
        BlockSums { visual: none(), text: own.text_learns.then(none), scalars }
    });
    let BlockSums { visual, text, scalars } = sums;
    let visual_gradient = visual.of_own_rows(first, n_own, group)?;
    let text_gradient = text.map(|text| text.of_own_rows(first, n_own, group)).transpose()?;
    let distances = [all_visual, all_text].map(|all| {
        let mean = all.clone().mean_dim(0);
        (all - mean).square().sum()
    });
    let distances = distances.map(|sum| sum / n as f64);
    let means = Tensor::cat([scalars.as_slice(), &distances].concat(), 0);
    Ok(Contrast { means, visual_gradient, text_gradient })
}

/// A leaf of a new graph.
fn leaf<const D: usize>(values: Tensor<D>) -> Tensor<D> {
    Tensor::from_inner(values).require_grad()
}

/// The gradient of a leaf; zero if the loss does not depend on it.
fn taken<const D: usize>(leaf: &Tensor<D>, gradients: &mut Gradients) -> Tensor<D> {
    leaf.grad_remove(gradients).unwrap_or_else(|| leaf.clone().inner().zeros_like())
}

/// Sums over the rows of one or more blocks.
struct BlockSums {
    visual: SideGradient,
    text: Option<SideGradient>,
    /// The loss, and its derivatives by the log of the scale and by the bias, each `[1]`. They are
    /// already divided by the number of all rows.
    scalars: [Tensor<1>; 3],
}

impl BlockSums {
    fn add(self, later: Self) -> Self {
        let [loss, by_scale, by_bias] = self.scalars;
        let [later_loss, by_later_scale, by_later_bias] = later.scalars;
        Self {
            visual: self.visual.add(later.visual),
            text: self.text.zip(later.text).map(|(text, later)| text.add(later)),
            scalars: [loss + later_loss, by_scale + by_later_scale, by_bias + by_later_bias],
        }
    }
}

/// The gradient of the images or of the texts, of one or more blocks.
struct SideGradient {
    /// Of the columns, `[n, embed_dim]`.
    of_columns: Tensor<2>,
    /// Of the rows, block after block.
    of_rows: Vec<Tensor<2>>,
}

impl SideGradient {
    fn of(rows: &Tensor<2>, columns: &Tensor<2>, gradients: &mut Gradients) -> Self {
        Self { of_columns: taken(columns, gradients), of_rows: vec![taken(rows, gradients)] }
    }

    fn add(mut self, later: Self) -> Self {
        self.of_rows.extend(later.of_rows);
        Self { of_columns: self.of_columns + later.of_columns, of_rows: self.of_rows }
    }

    /// The gradient of the mean over all rows with respect to this rank's rows, which start at
    /// `first`: as rows of this rank's blocks, and as columns of all ranks' blocks.
    fn of_own_rows(
        self,
        first: usize,
        n_own: usize,
        group: &dyn Collective,
    ) -> Result<Tensor<2>, CollectiveError> {
        let [n, width] = self.of_columns.dims();
        let of_columns = group.all_reduce_sum(self.of_columns.reshape([n * width]))?;
        let mut sum = of_columns.reshape([n, width]).slice(s![first..first + n_own]);
        if n_own > 0 {
            sum = sum + Tensor::cat(self.of_rows, 0);
        }
        Ok(sum / n as f64)
    }
}

/// Finds rows with the same text, over all ranks.
struct SameTexts {
    /// Hash of each own row, `[rows, 1]`. f32 holds it exactly.
    own: Tensor<2>,
    /// Hash of each row of all ranks.
    all: Tensor<2>,
}

impl SameTexts {
    fn new(
        text_hashes: &[u32],
        rows: &[usize],
        device: &Device,
        group: &dyn Collective,
    ) -> Result<Self, CollectiveError> {
        let hashes: Vec<f32> = text_hashes.iter().map(|hash| *hash as f32).collect();
        let n = hashes.len();
        let own = Tensor::<2>::from_data(TensorData::new(hashes, [n, 1]), device);
        let all = gather_rows(own.clone(), rows, group)?;
        Ok(Self { own, all })
    }

    /// True for pairs of the own rows in `range` with other rows that have the same text. `first`
    /// is the number of the first own row.
    fn mask(&self, first: usize, range: std::ops::Range<usize>) -> Tensor<2, Bool> {
        let own = self.own.clone().slice(s![range.clone()]);
        let shape = [range.len(), self.all.dims()[0]];
        let is_same = own.expand(shape).equal(self.all.clone().transpose().expand(shape));
        let mask =
            is_same.bool_and(matches(first + range.start, shape, &self.own.device()).bool_not());
        Tensor::from_inner(mask)
    }
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

/// Splits rows into blocks that have at most [`BLOCK`] similarities with `columns` columns.
fn blocks(
    rows: std::ops::Range<usize>,
    columns: usize,
) -> impl Iterator<Item = std::ops::Range<usize>> {
    let (step, end) = ((BLOCK / columns.max(1)).max(1), rows.end);
    rows.step_by(step).map(move |start| start..(start + step).min(end))
}
