//! The gradient of a batch is that of the plain loss, for any split of the batch.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData, s};
use mmgem_collective::Single;
use mmgem_core::config::MmGemConfig;
use mmgem_core::loss::{
    caption_loss, contrastive_logits, contrastive_loss, grounding_loss, sigmoid_loss,
};
use mmgem_core::model::mmgem::TokenBatch;
use mmgem_core::model::{MmGem, Stage};
use mmgem_data::files::ModelFolder;
use mmgem_train::{
    Batch, BatchPart, Batches, GradientMap, Recipe, StepContext, Totals, TrainConfig, Trainee,
    collect_gradients, freeze, gradient,
};

use crate::lab::Lab;

/// A batch of seven and a model to train on it.
struct Bench {
    config: TrainConfig,
    sizes: MmGemConfig,
    batch: Batch,
    trainee: Trainee,
    device: Device,
}

impl Bench {
    fn new(set: &[&str]) -> Self {
        let lab = Lab::new();
        let mut all = vec!["optim.batch_size=7", "model={ from = 'LAB/start' }"];
        all.extend(set);
        let config = lab.config("run", &all);
        let device = Device::flex().autodiff();
        let start = ModelFolder::read(&lab.path("start"), &device).expect("the lab has a model");
        let mut batches =
            Batches::open(&config, &start.config, &start.tokenizer, 0, 1).expect("a shard");
        let trainee = freeze(Trainee::new(start.model, &start.config, &config, &device), &config);
        Self { batch: batches.batch(0), trainee, sizes: start.config, config, device }
    }

    /// The loss as in the paper, over the whole batch at once.
    fn plain(&self) -> (f64, GradientMap) {
        let part = self.batch.split(1)[0];
        let (model, pool) = (&self.trainee.model, &self.trainee.model.pool);
        let texts = part.texts();
        let tokens = TokenBatch::new(&texts, &self.device);
        let patches = self.patches(part);
        let caption = |model: &MmGem, part_tokens, stage| {
            let hidden = model.caption_hidden(model.caption_prefix(part_tokens, stage), &tokens);
            caption_loss(&model.llm, hidden, &texts, self.sizes.eos_token_id)
        };
        let contrast = |visual, text, keys: &[Vec<u32>]| {
            let logits = contrastive_logits(visual, text, model.clamped_logit_scale());
            let logits = match self.config.ignore_same_texts {
                true => self.without_same(logits, keys),
                false => logits,
            };
            match &self.trainee.logit_bias {
                None => contrastive_loss(logits),
                Some(bias) => sigmoid_loss(logits, bias.val()),
            }
        };
        let text_embed = || model.text_embed(&tokens);
        let loss: Tensor<1> = match self.config.recipe {
            Recipe::Stage1 => {
                let gen_loss = caption(model, patches.clone(), Stage::One);
                let image_embed = model.image_embed(patches.clone());
                match &self.config.grounding {
                    None => contrast(image_embed, text_embed(), &texts) + gen_loss,
                    Some(grounding) => {
                        let phrases = part.phrases();
                        let phrase_tokens = TokenBatch::new(&phrases, &self.device);
                        let phrase_embed = model.text_embed(&phrase_tokens);
                        let regions = part.phrase_regions();
                        let roi = pool.roi_align(patches.clone(), &regions);
                        let grounded: Vec<i32> =
                            regions.iter().map(|(photo, _)| *photo as i32).collect();
                        let grounded = Tensor::<1, Int>::from_ints(&grounded[..], &self.device);
                        let heat = grounding_loss(
                            model.patch_embed(patches.select(0, grounded), Stage::Two),
                            phrase_embed.clone(),
                            part.phrase_shares(&self.device),
                            model.clamped_logit_scale().detach(),
                        );
                        let prefix = model.caption_prefix(roi.clone(), Stage::Two);
                        let hidden = model.caption_hidden(prefix, &phrase_tokens);
                        let phrase_loss =
                            caption_loss(&model.llm, hidden, &phrases, self.sizes.eos_token_id);
                        let pairs = match grounding.contrast {
                            false => contrast(image_embed, text_embed(), &texts),
                            true => contrast(
                                Tensor::cat(vec![image_embed, model.image_embed(roi)], 0),
                                Tensor::cat(vec![text_embed(), phrase_embed], 0),
                                &[texts.clone(), phrases].concat(),
                            ),
                        };
                        pairs
                            + gen_loss
                            + heat * grounding.weight
                            + phrase_loss * grounding.caption_weight
                    }
                }
            }
            Recipe::Stage2Retrieval => {
                let regions = pool.roi_align(patches, &part.regions());
                contrast(model.region_embed(regions), text_embed(), &texts)
            }
            Recipe::Stage2Caption => {
                let roi = pool.roi_align(patches, &part.regions());
                caption(model, roi, Stage::Two)
            }
            Recipe::Warmup => panic!("not compared here"),
        };
        let value = f64::from(loss.clone().inner().into_scalar::<f32>());
        (value, collect_gradients(&self.trainee, &mut loss.backward()))
    }

    /// Logits without the pairs of different rows that have the same text.
    fn without_same(&self, logits: Tensor<2>, texts: &[Vec<u32>]) -> Tensor<2> {
        let n = texts.len();
        let is_left_out = |at: usize| at / n != at % n && texts[at / n] == texts[at % n];
        let left_out: Vec<bool> = (0..n * n).map(is_left_out).collect();
        let left_out =
            Tensor::<2, Bool>::from_data(TensorData::new(left_out, [n, n]), &self.device);
        logits.mask_fill(left_out, f32::NEG_INFINITY)
    }

    /// Patch tokens. With patch dropout, selects the kept patches after the position embedding,
    /// photo by photo.
    fn patches(&self, part: BatchPart) -> Tensor<3> {
        let visual = self.trainee.model.visual.as_vit().expect("the lab's tower");
        let pixels = part.pixels(&self.sizes, &self.device);
        let Some(kept) = part.kept_patches() else { return visual.forward(pixels) };
        let embedded = visual.embed_patches(pixels, None);
        let photo = |(photo, kept): (usize, &Vec<u32>)| {
            let token = |at: usize| embedded.clone().slice(s![photo..photo + 1, at..at + 1]);
            let rest = kept.iter().map(|patch| token(1 + *patch as usize));
            Tensor::cat([token(0)].into_iter().chain(rest).collect(), 1)
        };
        visual.patch_tokens(Tensor::cat(kept.iter().enumerate().map(photo).collect(), 0))
    }

    fn cut_up(
        &self,
        workers: usize,
        micro_batch: Option<usize>,
        recompute: bool,
    ) -> (f64, GradientMap) {
        let mut config = self.config.clone();
        (config.optim.workers, config.optim.micro_batch) = (workers, micro_batch);
        config.optim.recompute = recompute;
        let totals =
            Totals::new(&self.batch, &self.config, &Single).expect("one rank is always in sync");
        let (sizes, device) = (&self.sizes, &self.device);
        let context = StepContext { sizes, config: &config, device, totals: &totals };
        let step = gradient(&self.trainee, &self.batch, &context, &Single)
            .expect("one rank cannot get lost");
        (step.total, step.gradients)
    }
}

fn floats(values: &Tensor<1>) -> Vec<f32> {
    values.clone().into_data().try_to_vec().expect("gradients are f32")
}

fn largest(values: impl Iterator<Item = f32>) -> f32 {
    values.map(f32::abs).fold(0.0, f32::max)
}

/// Checks every gradient against the plain one.
///
/// The tolerance is 1e-5 of the largest value of the whole gradient. It is also 1e-4 of the largest
/// value of its own tensor, unless that is rounding error.
fn check(set: &[&str]) {
    let bench = Bench::new(set);
    let (loss, plain) = bench.plain();
    let whole = largest(plain.values().flat_map(floats));
    for (workers, micro_batch, recompute) in [
        (1, None, false),
        (1, Some(7), false),
        (1, Some(3), false),
        (1, Some(2), false),
        (1, Some(1), false),
        (2, Some(2), false),
        (3, None, false),
        (1, None, true),
        (2, Some(2), true),
    ] {
        let again = if recompute { ", blocks computed again" } else { "" };
        let what = format!("{workers} workers, micro-batches of {micro_batch:?}{again}");
        let (found_loss, found) = bench.cut_up(workers, micro_batch, recompute);
        assert!((found_loss - loss).abs() <= 1e-5 * loss.abs(), "{what}: {found_loss} and {loss}");
        assert_eq!(found.keys().collect::<Vec<_>>(), plain.keys().collect::<Vec<_>>(), "{what}");
        for (path, plain) in &plain {
            let (plain, found) = (floats(plain), floats(&found[path]));
            let difference = largest(plain.iter().zip(&found).map(|(a, b)| a - b));
            let own = largest(plain.into_iter());
            assert!(
                difference <= 1e-5 * whole,
                "{what}: {path} differs by {difference} of {whole}"
            );
            assert!(
                own < 1e-4 * whole || difference <= 1e-4 * own,
                "{what}: {path}: {difference} of {own}"
            );
        }
    }
}

#[test]
fn stage_1_in_micro_batches_has_the_gradient_of_the_whole_batch() {
    check(&[]);
}

#[test]
fn adapters_in_micro_batches_have_the_gradient_of_the_whole_batch() {
    check(&["lora={ rank = 2, alpha = 4, projections = ['q_proj', 'down_proj'] }"]);
}

#[test]
fn stage_1_with_regions_in_micro_batches_has_the_gradient_of_the_whole_batch() {
    check(&["grounding={ weight = 0.7 }"]);
    check(&["grounding={ weight = 0.7, caption_weight = 1.3, contrast = true }"]);
}

#[test]
fn pairs_with_the_same_text_are_not_held_against_each_other() {
    // Phrases such as "a tree" occur several times in a batch.
    let set = [
        "ignore_same_texts=true",
        "grounding={ weight = 0.7, contrast = true }",
        "optim.batch_size=24",
        "data.repeat=true",
    ];
    let bench = Bench::new(&set);
    let phrases = bench.batch.split(1)[0].phrases();
    assert!(
        phrases.iter().any(|one| phrases.iter().filter(|other| *other == one).count() > 1),
        "{phrases:?}"
    );
    let (with, _) = bench.plain();
    let (without, _) = Bench::new(&set[1..]).plain();
    assert!(with < without, "{with} and {without}");
    check(&set);
}

#[test]
fn stage_1_on_half_of_the_patches_has_the_gradient_of_the_whole_batch() {
    check(&["data.patch_dropout=0.5"]);
}

#[test]
fn every_photo_loses_as_many_patches_but_others() {
    let kept = |set: &[&str]| {
        let batch = Bench::new(&[&["data.patch_dropout=0.75"], set].concat()).batch;
        batch.split(1)[0].kept_patches().expect("some are dropped")
    };
    let first = kept(&[]);
    for patches in &first {
        assert_eq!(patches.len(), 4);
        assert!(patches.is_sorted_by(|a, b| a < b) && patches[3] < 16, "{patches:?}");
    }
    let mut different = first.clone();
    different.sort();
    different.dedup();
    assert!(different.len() > 5, "{first:?}");
    assert_eq!(kept(&[]), first);
    assert_ne!(kept(&["seed=12"]), first);
    // Patch dropout does not change the other random choices for a photo.
    let pixels = |set: &[&str]| {
        let bench = Bench::new(set);
        bench.batch.split(1)[0].pixels(&bench.sizes, &Device::flex()).into_data()
    };
    assert_eq!(pixels(&["data.patch_dropout=0.75"]), pixels(&[]));
}

#[test]
fn stage_2_for_retrieval_in_micro_batches_has_the_gradient_of_the_whole_batch() {
    check(&["recipe=stage2_retrieval"]);
}

#[test]
fn stage_2_for_captions_in_micro_batches_has_the_gradient_of_the_whole_batch() {
    check(&["recipe=stage2_caption", "data.rehearse_stage_1=false"]);
}

#[test]
fn siglip_in_micro_batches_has_the_gradient_of_the_whole_batch() {
    check(&["contrastive_loss=siglip"]);
    check(&["recipe=stage2_retrieval", "contrastive_loss=siglip"]);
}

/// `open_clip.loss.SigLipLoss()(VISUAL, TEXT, exp(1.2), -2.0)` of open_clip_torch 3.3.0 in float64,
/// and its gradients.
mod open_clip_siglip {
    pub const VISUAL: [[f32; 4]; 3] = [
        [-0.6882472, 0.0, 0.6882472, -0.22941573],
        [0.55522525, -0.41038388, 0.31382295, -0.65178615],
        [0.13336627, 0.8001976, -0.08891084, 0.5779205],
    ];
    pub const TEXT: [[f32; 4]; 3] = [
        [-0.31622776, 0.6324555, -0.6324555, 0.31622776],
        [-0.6233721, 0.06926356, 0.7618992, -0.16161498],
        [0.62985206, -0.3391511, 0.38760126, -0.5814019],
    ];
    pub const LOSS: [f32; 1] = [4.410042];
    pub const BY_LOG_SCALE: [f32; 1] = [3.084191];
    pub const BY_BIAS: [f32; 1] = [-0.16245516];
    pub const BY_VISUAL: [f32; 12] = [
        -0.13269252,
        -0.6460423,
        1.3729073,
        -0.5425246,
        1.1577585,
        -0.3565252,
        -0.4209653,
        -0.34179074,
        -0.9329945,
        0.78053474,
        -0.7710237,
        0.8219184,
    ];
    pub const BY_TEXT: [f32; 12] = [
        0.8153606, 0.5122452, -0.7787493, 0.6081342, -1.1345637, 0.46432763, 0.28103444,
        0.48672718, 0.25449833, -1.2229385, 0.45071876, -1.2187699,
    ];
}

#[test]
fn the_sigmoid_loss_and_its_gradients_are_open_clips() {
    use open_clip_siglip::{BY_BIAS, BY_LOG_SCALE, BY_TEXT, BY_VISUAL, LOSS, TEXT, VISUAL};
    let device = Device::flex().autodiff();
    let leaf = |value: f32| Tensor::<1>::from_floats([value], &device).require_grad();
    let rows = |rows: [[f32; 4]; 3]| Tensor::<2>::from_floats(rows, &device).require_grad();
    let (visual, text, log_scale, bias) = (rows(VISUAL), rows(TEXT), leaf(1.2), leaf(-2.0));
    let logits = contrastive_logits(visual.clone(), text.clone(), log_scale.clone());
    let loss = sigmoid_loss(logits, bias.clone());
    let near = |found: Tensor<1>, wanted: &[f32]| {
        let found = floats(&found);
        let off = largest(found.iter().zip(wanted).map(|(a, b)| a - b));
        assert!(found.len() == wanted.len() && off <= 3e-6, "found {found:?}, wanted {wanted:?}");
    };
    near(loss.clone().inner(), &LOSS);
    let gradients = loss.backward();
    near(log_scale.grad(&gradients).expect("a leaf"), &BY_LOG_SCALE);
    near(bias.grad(&gradients).expect("a leaf"), &BY_BIAS);
    near(visual.grad(&gradients).expect("a leaf").reshape([12]), &BY_VISUAL);
    near(text.grad(&gradients).expect("a leaf").reshape([12]), &BY_TEXT);
}
