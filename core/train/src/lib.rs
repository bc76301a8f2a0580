//! Training: the config (TOML), batches, the gradient of a step, the optimizer, checkpoints and the
//! loop.

mod cache;
mod config;
mod contrast;
mod data;
mod duplicates;
mod groups;
mod health;
mod metrics;
mod optimizer;
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
mod tensorboard;
pub mod trace;

pub use cache::PatchCache;
pub use config::{
    ComputeDtype, ContrastiveLoss, ModelSource, Objective, Recipe, TrainConfig, TrainConfigError,
};
pub use contrast::{Contrast, Embeddings, contrast};
pub use data::{Batch, BatchPart, Batches};
pub use health::Sign;
pub use mmgem_core::kernels::use_burn_ops_on_cpu;
pub use optimizer::{GradientMap, collect_gradients, freeze};
pub use plan::{ClusterPlan, Plan, image_flops, plan, plan_run, prefill_flops, stage_1_flops};
pub use reduce::reduce_gradients;
pub use run::{Progress, Signals, TrainError, TrainSummary, train};
pub use step::{StepContext, StepGradient, Totals, Trainee, gradient};
