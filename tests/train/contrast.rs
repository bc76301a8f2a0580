//! A contrastive loss in blocks, over several ranks, has the gradient of the plain loss.

use burn::tensor::{Device, Tensor, TensorData, s};
use mmgem_collective::{Collective, Single};
use mmgem_core::loss::{PairBlock, contrastive_logits, contrastive_loss, sigmoid_loss};
use mmgem_core::model::mmgem::normalize;
use mmgem_train::{Contrast, ContrastNumbers, ContrastiveLoss, Embeddings, contrast};

use crate::lab::{PATIENCE, on_ranks};

const LOG_SCALE: f32 = 2.3;
const BIAS: f32 = -4.0;

/// `n` rows of unit length, drawn from a seed.
fn unit_rows(n: usize, width: usize, seed: u32) -> Tensor<2> {
    let mut state = seed;
    let mut draw = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let values: Vec<f32> = (0..n * width).map(|_| draw()).collect();
    normalize(Tensor::from_data(TensorData::new(values, [n, width]), &Device::flex()))
}

fn one(value: f32) -> Tensor<1> {
    Tensor::from_floats([value], &Device::flex())
}

fn floats<const D: usize>(values: Tensor<D>) -> Vec<f32> {
    values.into_data().try_to_vec().expect("f32")
}

/// Loss and gradients: of images, of texts, of the log of the scale, of the bias.
type Found = (f64, [Vec<f32>; 4]);

/// The loss as it is defined, over all logits at once.
fn plain(loss: ContrastiveLoss, visual: &Tensor<2>, text: &Tensor<2>) -> Found {
    let leaf = |rows: &Tensor<2>| Tensor::from_inner(rows.clone()).require_grad();
    let (visual, text) = (leaf(visual), leaf(text));
    let [scale, bias] =
        [LOG_SCALE, BIAS].map(|value| Tensor::from_inner(one(value)).require_grad());
    let logits = contrastive_logits(visual.clone(), text.clone(), scale.clone());
    let value = match loss {
        ContrastiveLoss::InfoNce => contrastive_loss(logits),
        ContrastiveLoss::Siglip => sigmoid_loss(logits, bias.clone()),
    };
    let gradients = value.backward();
    let of = |of: &Tensor<2>| floats(of.grad(&gradients).expect("a leaf"));
    let bias = bias.grad(&gradients).map_or(vec![0.0], floats);
    let scale = floats(scale.grad(&gradients).expect("a leaf"));
    (value.into_scalar::<f32>().into(), [of(&visual), of(&text), scale, bias])
}

fn contrasted(
    loss: ContrastiveLoss,
    own: &Embeddings,
    rows: &[usize],
    group: &dyn Collective,
) -> Contrast {
    let bias = (loss == ContrastiveLoss::Siglip).then(|| one(BIAS));
    contrast(|block| loss.of_rows(block), own, one(LOG_SCALE), bias, rows, group)
        .expect("the ranks stay together")
}

fn numbers(found: &Contrast) -> ContrastNumbers {
    ContrastNumbers::new(&floats(found.means.clone()))
}

/// The same in blocks, with the rows divided among ranks.
fn in_blocks(loss: ContrastiveLoss, visual: &Tensor<2>, text: &Tensor<2>, rows: &[usize]) -> Found {
    let ranks = on_ranks(rows.len(), PATIENCE, |group| {
        let (first, n): (usize, usize) = (rows[..group.rank()].iter().sum(), rows[group.rank()]);
        let own = Embeddings {
            visual: visual.clone().slice(s![first..first + n]),
            text: text.clone().slice(s![first..first + n]),
            text_hashes: None,
            text_learns: true,
            parts: &[n],
        };
        let found = contrasted(loss, &own, rows, group);
        let numbers = numbers(&found);
        let [of_log_scale, of_bias] =
            found.scalar_gradients().map(|of| f64::from(of.into_scalar::<f32>()));
        assert!((of_log_scale - numbers.log_scale_gradient).abs() < 1e-6);
        assert!((of_bias - numbers.bias_gradient).abs() < 1e-6);
        let text = floats(found.text_gradient.expect("texts learn"));
        let sums = [numbers.loss, numbers.log_scale_gradient, numbers.bias_gradient];
        (sums, floats(found.visual_gradient), text)
    });
    let sum = |at: usize| ranks.iter().map(|(sums, ..)| sums[at]).sum::<f64>();
    let visual = ranks.iter().flat_map(|(_, visual, _)| visual.clone()).collect();
    let text = ranks.iter().flat_map(|(.., text)| text.clone()).collect();
    (sum(0), [visual, text, vec![sum(1) as f32], vec![sum(2) as f32]])
}

fn check(loss: ContrastiveLoss, width: usize, rows: &[usize]) {
    let n = rows.iter().sum();
    let (visual, text) = (unit_rows(n, width, 1), unit_rows(n, width, 2));
    let (wanted_loss, wanted) = plain(loss, &visual, &text);
    let (found_loss, found) = in_blocks(loss, &visual, &text, rows);
    let what = format!("{loss:?} of {rows:?} rows");
    assert!((found_loss - wanted_loss).abs() < 1e-5 * wanted_loss, "{what}: {found_loss}");
    for (found, wanted) in found.iter().zip(&wanted) {
        assert_eq!(found.len(), wanted.len(), "{what}");
        let largest = wanted.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        let off = found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(off <= 1e-5 * largest, "{what}: a gradient is off by {off} of {largest}");
    }
}

#[test]
fn blocks_on_ranks_have_the_gradient_of_the_plain_loss() {
    for loss in [ContrastiveLoss::InfoNce, ContrastiveLoss::Siglip] {
        check(loss, 16, &[13]);
        check(loss, 16, &[5, 9]);
        // A rank may have no rows.
        check(loss, 16, &[6, 0, 7]);
    }
}

#[test]
fn several_blocks_have_the_gradient_of_the_plain_loss() {
    // 4,200 rows of 4,200 similarities are more than one block.
    for loss in [ContrastiveLoss::InfoNce, ContrastiveLoss::Siglip] {
        check(loss, 4, &[4200]);
    }
}

#[test]
fn texts_that_do_not_learn_have_no_gradient_and_change_none() {
    let (visual, text) = (unit_rows(9, 16, 1), unit_rows(9, 16, 2));
    for loss in [ContrastiveLoss::InfoNce, ContrastiveLoss::Siglip] {
        let [all, images] = [true, false].map(|text_learns| {
            let (visual, text) = (visual.clone(), text.clone());
            let own = Embeddings { visual, text, text_hashes: None, text_learns, parts: &[9] };
            contrasted(loss, &own, &[9], &Single)
        });
        assert!(all.text_gradient.is_some() && images.text_gradient.is_none());
        assert_eq!(numbers(&all).loss, numbers(&images).loss);
        assert_eq!(floats(all.visual_gradient), floats(images.visual_gradient));
    }
}

#[test]
fn a_text_is_not_held_against_its_copy_on_another_rank() {
    // Both ranks have text 7, so each leaves out the other's.
    let (visual, text) = (unit_rows(2, 8, 1), unit_rows(1, 8, 2));
    let loss = |hashes: [u32; 2]| {
        let ranks = on_ranks(2, PATIENCE, |group| {
            let own = Embeddings {
                visual: visual.clone().narrow(0, group.rank(), 1),
                text: text.clone(),
                text_hashes: Some(&hashes[group.rank()..=group.rank()]),
                text_learns: true,
                parts: &[1],
            };
            numbers(&contrasted(ContrastiveLoss::InfoNce, &own, &[1, 1], group)).loss
        });
        ranks.iter().sum::<f64>()
    };
    assert!(loss([7, 7]).abs() < 1e-6, "{}", loss([7, 7]));
    assert!(loss([7, 8]) > 1.0, "{}", loss([7, 8]));
}

#[test]
fn equal_embeddings_have_no_spread_and_the_loss_of_chance() {
    let n = 9;
    let same = |seed| unit_rows(1, 16, seed).repeat_dim(0, n);
    let (visual, text) = (same(1), same(2));
    let own = Embeddings {
        visual: visual.clone(),
        text: text.clone(),
        text_hashes: None,
        text_learns: true,
        parts: &[n],
    };
    let found = numbers(&contrasted(ContrastiveLoss::InfoNce, &own, &[n], &Single));
    assert!((found.loss - ContrastiveLoss::InfoNce.of_chance(n)).abs() < 1e-5, "{}", found.loss);
    assert!(found.spread.iter().all(|spread| *spread < 1e-12), "{:?}", found.spread);

    // The best bias gives each pair the probability 1/n.
    let cosine = (visual * text).slice(s![0..1]).sum().into_scalar::<f32>();
    let bias = one(-((n - 1) as f32).ln() - LOG_SCALE.exp() * cosine);
    let loss = ContrastiveLoss::Siglip;
    let rows = |block: &PairBlock| loss.of_rows(block);
    let found = contrast(rows, &own, one(LOG_SCALE), Some(bias), &[n], &Single).expect("one rank");
    let found = numbers(&found);
    assert!((found.loss - loss.of_chance(n)).abs() < 1e-5, "{}", found.loss);

    let own = Embeddings { visual: unit_rows(n, 16, 1), text: unit_rows(n, 16, 2), ..own };
    let found = numbers(&contrasted(loss, &own, &[n], &Single));
    assert!(found.spread.iter().all(|spread| (0.5..1.0).contains(spread)), "{:?}", found.spread);
}
