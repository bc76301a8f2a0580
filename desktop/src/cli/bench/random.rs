//! Random weights at memory speed: only their sizes matter, not their values.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor, TensorData};
use mmgem_core::config::MmGemConfig;
use mmgem_core::model::MmGem;

/// A model of these sizes with random weights.
pub fn model(config: &MmGemConfig, device: &Device) -> MmGem {
    MmGem::new(config, device).map(&mut Fill)
}

struct Fill;

impl ModuleMapper for Fill {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let shape: [usize; D] = param.lazy_shape().dims();
        let n: usize = shape.iter().product();
        // This range keeps activations near 1 after a matrix product.
        let scale = (3.0 / shape[0] as f32).sqrt();
        let value = |i: usize| {
            let hash = (i as u32).wrapping_mul(0x9E37_79B1);
            ((hash ^ (hash >> 15)) as f32 / u32::MAX as f32 * 2.0 - 1.0) * scale
        };
        let values: Vec<f32> = if D == 1 { vec![1.0; n] } else { (0..n).map(value).collect() };
        let tensor = Tensor::from_data(TensorData::new(values, shape), &param.lazy_device());
        Param::initialized(param.id, tensor).set_require_grad(true)
    }
}
