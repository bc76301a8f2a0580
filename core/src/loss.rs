//! The paper's losses: contrastive (equation 2), caption (equation 3) and their sum (equation 4).

use burn::tensor::{
    Bool, Device, Int, Tensor, TensorData,
    activation::{log_sigmoid, log_softmax},
};

use crate::kernels::cross_entropy;
use crate::model::Llama;

/// Similarity of every image with every text, sharpened by the learned temperature.
///
/// `logits[i, t] = exp(logit_scale) * <image_embed[i], text_embed[t]>`
/// (CLIP, arXiv:2103.00020, figure 3).
///
/// # Shapes
/// - image_embed: `[n_images, embed_dim]`, rows of unit length
/// - text_embed:  `[n_texts, embed_dim]`, rows of unit length
/// - logit_scale: `[1]`, natural log of the inverse temperature
/// - returns:     `[n_images, n_texts]`
pub fn contrastive_logits(
    image_embed: Tensor<2>,
    text_embed: Tensor<2>,
    logit_scale: Tensor<1>,
) -> Tensor<2> {
    image_embed.matmul(text_embed.transpose()) * logit_scale.exp().unsqueeze()
}

/// InfoNCE in both directions, summed: `L_Emb = L_v2t + L_t2v` (equation 2).
///
/// Image `i` matches text `i`. The loss is twice open_clip's `ClipLoss`, which halves the sum.
///
/// # Shapes
/// - logits: `[n, n]`
/// - returns: `[1]`
pub fn contrastive_loss(logits: Tensor<2>) -> Tensor<1> {
    let [n, _] = logits.dims();
    (choice_loss(logits.clone(), 0) + choice_loss(logits.transpose(), 0)) / n as f64
}

/// SigLIP's sigmoid loss (arXiv:2303.15343), open_clip's `SigLipLoss`. The MM-GEM paper does not
/// use it.
///
/// Each pair is scored by itself. Most pairs do not match, so the bias must start low.
///
/// `-1/n sum_ij log sigmoid(z_ij (logits[i, j] + logit_bias))`, where `z_ij` is 1 if `i = j` and -1
/// otherwise
///
/// # Shapes
/// - logits: `[n, n]`, from [`contrastive_logits`]
/// - logit_bias: `[1]`
/// - returns: `[1]`
pub fn sigmoid_loss(logits: Tensor<2>, logit_bias: Tensor<1>) -> Tensor<1> {
    let [n, _] = logits.dims();
    pair_loss(logits, logit_bias, 0) / n as f64
}

/// Some rows of a batch of matching images and texts, with the whole batch to compare them with.
///
/// Training evaluates a contrastive loss one block at a time, so that the logits of the whole batch
/// are never in memory. A contrastive loss is a function of a block. It returns a sum over the
/// block's rows; the loss is the sum over all rows, divided by their number.
#[derive(Clone, Debug)]
pub struct PairBlock {
    /// The block's images or regions, `[rows, embed_dim]`.
    pub image_rows: Tensor<2>,
    /// The block's texts, `[rows, embed_dim]`.
    pub text_rows: Tensor<2>,
    /// The batch's images or regions, `[n, embed_dim]`.
    pub images: Tensor<2>,
    /// The batch's texts, `[n, embed_dim]`.
    pub texts: Tensor<2>,
    /// Number of the block's first row in the batch.
    pub first: usize,
    /// Pairs of different rows that have the same text, `[rows, n]`, if the loss leaves them out.
    pub same_text: Option<Tensor<2, Bool>>,
    /// Natural log of the inverse temperature, `[1]`.
    pub logit_scale: Tensor<1>,
    /// SigLIP's bias, `[1]`. Other losses have none.
    pub logit_bias: Option<Tensor<1>>,
}

impl PairBlock {
    /// Logits of the block's `rows` against all of `columns`, without pairs that have the same
    /// text.
    fn logits(&self, rows: &Tensor<2>, columns: &Tensor<2>) -> Tensor<2> {
        let logits = contrastive_logits(rows.clone(), columns.clone(), self.logit_scale.clone());
        match &self.same_text {
            Some(same_text) => logits.mask_fill(same_text.clone(), LEFT_OUT),
            None => logits,
        }
    }
}

/// Replaces the logit of a pair that is left out.
const LEFT_OUT: f32 = -1e4;

/// The part of [`contrastive_loss`] in a block: each of its images among all texts, and each of its
/// texts among all images.
pub fn contrastive_loss_of_rows(block: &PairBlock) -> Tensor<1> {
    choice_loss(block.logits(&block.image_rows, &block.texts), block.first)
        + choice_loss(block.logits(&block.text_rows, &block.images), block.first)
}

/// The part of [`sigmoid_loss`] in a block: each of its images with each text.
pub fn sigmoid_loss_of_rows(block: &PairBlock) -> Tensor<1> {
    let logit_bias = block.logit_bias.clone().expect("the sigmoid loss has a bias");
    pair_loss(block.logits(&block.image_rows, &block.texts), logit_bias, block.first)
}

/// `-sum_i log softmax(logits[i])[first + i]`: each row chooses its match among the columns.
fn choice_loss(logits: Tensor<2>, first: usize) -> Tensor<1> {
    let [rows, _] = logits.dims();
    cross_entropy(logits, (first..first + rows).collect()) * rows as f64
}

/// `-sum_ij log sigmoid(z_ij (logits[i, j] + logit_bias))`, where `z_ij` is 1 if `j = first + i`
/// and -1 otherwise.
fn pair_loss(logits: Tensor<2>, logit_bias: Tensor<1>, first: usize) -> Tensor<1> {
    let [rows, n] = logits.dims();
    let signs = matches(first, [rows, n], &logits.device()).float() * 2.0 - 1.0;
    -log_sigmoid((logits + logit_bias.unsqueeze()) * signs).sum()
}

/// True where column `j` is the match of row `i`, `j = first + i`.
pub fn matches(first: usize, [rows, n]: [usize; 2], device: &Device) -> Tensor<2, Bool> {
    let numbers =
        |from: usize, n: usize| Tensor::<1, Int>::arange(from as i64..(from + n) as i64, device);
    let row = numbers(first, rows).reshape([rows, 1]).expand([rows, n]);
    row.equal(numbers(0, n).reshape([1, n]).expand([rows, n]))
}

/// `L_Gen` (equation 3): next-token cross-entropy.
///
/// It is the mean over the text tokens and `</s>` of all texts.
///
/// # Shapes
/// - hidden: `[batch, seq + 1, hidden]` from [`crate::model::MmGem::caption_hidden`]
/// - texts: the ids of the texts and their lengths
/// - returns: `[1]`
pub fn caption_loss(
    llm: &Llama,
    hidden: Tensor<3>,
    texts: &[Vec<u32>],
    eos_token_id: u32,
) -> Tensor<1> {
    let [batch, positions, width] = hidden.dims();
    let device = hidden.device();
    let rows: Vec<i32> = texts
        .iter()
        .enumerate()
        .flat_map(|(text_idx, text)| {
            (0..=text.len()).map(move |at| (text_idx * positions + at) as i32)
        })
        .collect();
    let targets: Vec<usize> = texts
        .iter()
        .flat_map(|text| text.iter().chain([&eos_token_id]))
        .map(|id| *id as usize)
        .collect();
    let rows = Tensor::<1, Int>::from_data(TensorData::new(rows.clone(), [rows.len()]), &device);
    // Select the scored positions first: the head is the widest product of the model.
    let scored = hidden.reshape([batch * positions, width]).select(0, rows);
    cross_entropy(llm.logits(scored), targets)
}

/// Grounding of a phrase in a photo: cross-entropy between the patches under its box and the
/// softmax of the phrase's heat map.
///
/// The paper does not use it; its towers are pretrained. An encoder that trains from scratch does
/// not learn from whole photos alone which patch shows what.
///
/// `-sum_p shares[n, p] * log softmax_p(exp(logit_scale) * <patch_embed[n, p], text_embed[n]>)`,
/// mean over n
///
/// # Shapes
/// - patch_embed: `[n, n_patches, embed_dim]`, rows of unit length
/// - text_embed:  `[n, embed_dim]`, rows of unit length
/// - shares:      `[n, n_patches]`, share of the box in each patch; rows sum to 1
/// - logit_scale: `[1]`, natural log of the inverse temperature
/// - returns:     `[1]`
pub fn grounding_loss(
    patch_embed: Tensor<3>,
    text_embed: Tensor<2>,
    shares: Tensor<2>,
    logit_scale: Tensor<1>,
) -> Tensor<1> {
    // [n, n_patches]
    let heat = patch_embed.matmul(text_embed.unsqueeze_dim(2)).squeeze_dim::<2>(2);
    let heat = heat * logit_scale.exp().unsqueeze();
    -(log_softmax(heat, 1) * shares).sum_dim(1).mean()
}

/// The losses of a batch in which image `i` matches text `i`.
#[derive(Clone, Debug)]
pub struct Losses {
    /// `L_Emb`, `[1]`.
    pub emb: Tensor<1>,
    /// `L_Gen`, `[1]`.
    pub gen_: Tensor<1>,
}

impl Losses {
    /// `L = L_Emb + L_Gen` (equation 4).
    pub fn total(&self) -> Tensor<1> {
        self.emb.clone() + self.gen_.clone()
    }
}
