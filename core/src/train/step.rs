//! What one step computes: the losses of each recipe.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor, TensorData};

use super::config::{Objective, Recipe, TrainConfig};
use super::data::{Batch, TeacherBatch};
use crate::config::MmGemConfig;
use crate::loss::{caption_loss, contrastive_logits, contrastive_loss};
use crate::model::mmgem::{TokenBatch, normalize};
use crate::model::pool_aggregator::Region;
use crate::model::{MmGem, PoolAggregator, Stage};

/// What a run trains: the model, and the layer through which it imitates a teacher.
#[derive(Module, Debug)]
pub struct Trainee {
    /// The model.
    pub model: MmGem,
    /// Patch tokens → the teacher's map; left behind at the end.
    pub teacher_head: Option<Linear>,
}

/// The parts of a step's loss, each with its weight in the sum.
#[derive(Debug)]
pub struct StepLoss {
    /// Name in `metrics.jsonl`, value, weight.
    pub parts: Vec<(&'static str, Tensor<1>, f32)>,
}

impl Trainee {
    /// The modules of a run around a model.
    pub fn new(model: MmGem, sizes: &MmGemConfig, config: &TrainConfig, device: &Device) -> Self {
        let head = config.distill.as_ref().map(|distill| {
            let head = LinearConfig::new(sizes.vision.hidden_size, distill.hidden_size).init(device);
            crate::init::fresh(head, sizes, config.seed)
        });
        Self { model, teacher_head: head }
    }

    /// The losses of a batch.
    pub fn losses(&self, batch: &Batch, sizes: &MmGemConfig, config: &TrainConfig, device: &Device) -> StepLoss {
        let mut parts = Vec::new();
        if batch.len() > 0 {
            let patches = self.model.visual.forward(batch.pixels(sizes, device));
            match config.recipe {
                Recipe::Warmup => {}
                Recipe::Stage1 => self.stage_1(patches.clone(), batch, sizes, config, &mut parts),
                Recipe::Stage2Caption => self.stage_2_caption(patches.clone(), batch, sizes, &mut parts),
                Recipe::Stage2Retrieval => self.stage_2_retrieval(patches.clone(), batch, sizes, &mut parts),
            }
            if let (Some(distill), Some(teacher), Some(head)) = (&config.distill, &batch.teacher, &self.teacher_head) {
                let loss = distill_loss(head, patches, teacher, sizes, distill.grid);
                parts.push(("loss_distill", loss, distill.weight));
            }
        }
        if !batch.lines.is_empty() {
            parts.push(("loss_text", self.text_loss(&batch.lines, sizes, device), 1.0));
        }
        StepLoss { parts }
    }

    fn stage_1(
        &self,
        patches: Tensor<3>,
        batch: &Batch,
        sizes: &MmGemConfig,
        config: &TrainConfig,
        parts: &mut Vec<(&'static str, Tensor<1>, f32)>,
    ) {
        let pool = PoolAggregator::new(sizes);
        let texts = TokenBatch::new(&batch.texts, &patches.device());
        if config.objective != Objective::CapOnly {
            let image_embed = self.model.image_embed(&pool, patches.clone());
            let logits =
                contrastive_logits(image_embed, self.model.text_embed(&texts), self.model.clamped_logit_scale());
            parts.push(("loss_emb", contrastive_loss(logits), 1.0));
        }
        if config.objective != Objective::ClipOnly {
            let v_in = self.model.visual_context(&pool, patches, Stage::One);
            parts.push(("loss_gen", self.caption_loss(v_in, Stage::One, &texts, batch, sizes), 1.0));
        }
    }

    fn stage_2_caption(
        &self,
        patches: Tensor<3>,
        batch: &Batch,
        sizes: &MmGemConfig,
        parts: &mut Vec<(&'static str, Tensor<1>, f32)>,
    ) {
        let pool = PoolAggregator::new(sizes);
        let texts = TokenBatch::new(&batch.texts, &patches.device());
        let v_in = self.model.visual_context(&pool, pool.roi_align(patches, &batch.regions), Stage::Two);
        parts.push(("loss_gen", self.caption_loss(v_in, Stage::Two, &texts, batch, sizes), 1.0));
    }

    fn stage_2_retrieval(
        &self,
        patches: Tensor<3>,
        batch: &Batch,
        sizes: &MmGemConfig,
        parts: &mut Vec<(&'static str, Tensor<1>, f32)>,
    ) {
        let pool = PoolAggregator::new(sizes);
        let texts = TokenBatch::new(&batch.texts, &patches.device());
        let region_embed = self.model.region_embed(pool.roi_align(patches, &batch.regions));
        let logits = contrastive_logits(region_embed, self.model.text_embed(&texts), self.model.clamped_logit_scale());
        parts.push(("loss_emb", contrastive_loss(logits), 1.0));
    }

    fn caption_loss(
        &self,
        v_in: Tensor<3>,
        stage: Stage,
        texts: &TokenBatch,
        batch: &Batch,
        sizes: &MmGemConfig,
    ) -> Tensor<1> {
        let hidden = self.model.caption_hidden(self.model.caption_prefix(v_in, stage), texts);
        caption_loss(&self.model.llm, hidden, &batch.texts, sizes.eos_token_id)
    }

    /// Next-token loss on lines of text behind `[CAP]` alone.
    fn text_loss(&self, lines: &[Vec<u32>], sizes: &MmGemConfig, device: &Device) -> Tensor<1> {
        let width = sizes.llm.hidden_size;
        let prefix = self.model.cap_token.val().reshape([1, 1, width]).expand([lines.len(), 1, width]);
        let hidden = self.model.caption_hidden(prefix, &TokenBatch::new(lines, device));
        caption_loss(&self.model.llm, hidden, lines, sizes.eos_token_id)
    }
}

/// Mean cosine distance between the student's patch tokens, mapped to the teacher's width and pooled
/// to its grid, and the teacher's map pooled at the same crop.
fn distill_loss(
    head: &Linear,
    patches: Tensor<3>,
    teacher: &TeacherBatch,
    sizes: &MmGemConfig,
    grid: usize,
) -> Tensor<1> {
    let device = patches.device();
    let [batch, _, _] = patches.dims();
    let n_bins = grid * grid;
    let hidden_size = teacher.maps.len() / (batch * n_bins);

    let pooling = TensorData::new(teacher.pooling.clone(), [batch, n_bins, n_bins]);
    let maps = TensorData::new(teacher.maps.clone(), [batch, n_bins, hidden_size]);
    let wanted = Tensor::<3>::from_data(pooling, &device).matmul(Tensor::from_data(maps, &device));

    let side = sizes.vision.image_size;
    let pool = PoolAggregator { grid: sizes.grid(), image_size: side, roi_output_size: grid, roi_sampling_ratio: 2 };
    let whole = Region { box_input: [0.0, 0.0, side as f32, side as f32], mask: None };
    let regions: Vec<(usize, Region)> = (0..batch).map(|image| (image, whole.clone())).collect();
    let found = head.forward(pool.roi_align(patches, &regions));

    -(normalize(found) * normalize(wanted)).sum_dim(2).mean() + 1.0
}

impl StepLoss {
    /// The weighted sum.
    pub fn total(&self) -> Option<Tensor<1>> {
        self.parts.iter().map(|(_, loss, weight)| loss.clone() * *weight).reduce(|a, b| a + b)
    }
}
