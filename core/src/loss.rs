//! The paper's losses: contrastive (equation 2), caption (equation 3) and their sum (equation 4).

use burn::tensor::{
    Int, Tensor, TensorData,
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
    let diagonal: Vec<usize> = (0..n).collect();
    cross_entropy(logits.clone(), diagonal.clone()) + cross_entropy(logits.transpose(), diagonal)
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
    let signs = Tensor::<2>::eye(n, &logits.device()) * 2.0 - 1.0;
    -log_sigmoid((logits + logit_bias.unsqueeze()) * signs).sum() / n as f64
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
