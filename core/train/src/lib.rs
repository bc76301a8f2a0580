//! Training: the config (TOML), batches, the gradient of a step, the optimizer, checkpoints and the
//! loop.

mod agreement;
mod average;
mod best;
mod cache;
mod checkpoint;
mod config;
mod contrast;
mod data;
mod duplicates;
mod evaluation;
mod groups;
mod health;
mod lora;
mod metrics;
mod optimizer;
mod overlap;
mod ownership;
mod plan;
mod plot;
mod reduce;
mod run;
mod same_data;
mod sources;
mod start;
mod step;
mod store;
mod streams;
mod tensorboard;
pub mod trace;

pub use agreement::nudge_sums;
pub use cache::PatchCache;
pub use checkpoint::read_checkpoint;
pub use config::{
    ComputeDtype, ContrastiveLoss, ModelSource, Objective, Recipe, TrainConfig, TrainConfigError,
};
pub use contrast::{Contrast, ContrastNumbers, Embeddings, contrast};
pub use data::{Batch, BatchPart, Batches};
pub use health::Sign;
pub use mmgem_core::kernels::use_burn_ops_on_cpu;
pub use optimizer::{GradientMap, collect_gradients, freeze};
pub use overlap::Overlap;
pub use plan::{ClusterPlan, Plan, image_flops, plan, plan_run, prefill_flops, stage_1_flops};
pub use reduce::in_buckets;
pub use run::{Progress, Resume, Signals, TrainError, TrainSummary, train};
pub use step::{StepContext, StepGradient, Totals, Trainee, gradient, gradient_with, own_leaves};
