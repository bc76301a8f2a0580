//! Random weights at memory speed: only their sizes matter, not their values.

use burn::tensor::{Device, Tensor, TensorData};
use mmgem_core::checkpoint::{Dtype, named_tensors, to_shards};
use mmgem_core::config::MmGemConfig;
use mmgem_core::model::MmGem;
use mmgem_core::params::{Mapped, map};

use crate::model::ModelFiles;

/// A model of these sizes with random weights.
pub fn model(config: &MmGemConfig, device: &Device) -> MmGem {
    map(MmGem::new(config, device), |param| {
        let n = param.n_values();
        // This range keeps activations near 1 after a matrix product.
        let scale = (3.0 / param.shape[0] as f32).sqrt();
        let value = |i: usize| {
            let hash = (i as u32).wrapping_mul(0x9E37_79B1);
            ((hash ^ (hash >> 15)) as f32 / u32::MAX as f32 * 2.0 - 1.0) * scale
        };
        let values: Vec<f32> =
            if param.shape.len() == 1 { vec![1.0; n] } else { (0..n).map(value).collect() };
        Mapped::Initial(Tensor::from_data(TensorData::new(values, [n]), &param.device()))
    })
}

/// The files of such a model, without a tokenizer.
pub fn files(name: String, config: &MmGemConfig, dtype: Dtype) -> ModelFiles {
    let tensors = named_tensors(&model(config, &Device::flex()));
    let shards = to_shards(&tensors, dtype, usize::MAX);
    ModelFiles {
        name,
        folder: None,
        config_json: config.to_json(),
        tokenizer_json: Default::default(),
        weights: shards.into_iter().map(|(name, bytes)| (name, bytes.into())).collect(),
    }
}
