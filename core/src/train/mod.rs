//! The recipes: what is read from a TOML file, what one step does, and what survives a kill.

mod config;
mod data;
mod optimizer;
mod plot;
mod run;
mod step;
mod store;

pub use config::{ModelSource, Objective, Recipe, TrainConfig, TrainConfigError};
pub use run::{Progress, TrainError, TrainSummary, train};
