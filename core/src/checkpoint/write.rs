//! From a model to safetensors bytes.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use safetensors::{Dtype as FileDtype, tensor::TensorView};

use super::names::{checkpoint_name, is_transposed, module_path};

/// Number format of the tensors in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit floats.
    F32,
    /// 16-bit floats with 10 bits of fraction.
    F16,
}

/// Every parameter of a module under its name in `model.safetensors`: name, sizes, values.
pub fn named_tensors<M: Module>(module: &M) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let mut collector = Collector { path: Vec::new(), tensors: Vec::new() };
    module.visit(&mut collector);
    collector.tensors
}

/// The bytes of a safetensors file; `metadata` goes into its header.
pub fn to_safetensors(
    tensors: &[(String, Vec<usize>, Vec<f32>)],
    dtype: Dtype,
    metadata: Option<std::collections::HashMap<String, String>>,
) -> Vec<u8> {
    let encoded: Vec<Vec<u8>> = tensors.iter().map(|(_, _, values)| encode(values, dtype)).collect();
    let file_dtype = match dtype {
        Dtype::F32 => FileDtype::F32,
        Dtype::F16 => FileDtype::F16,
    };
    let views = tensors.iter().zip(&encoded).map(|((name, shape, _), bytes)| {
        let view =
            TensorView::new(file_dtype, shape.clone(), bytes).expect("the bytes were made from the shape");
        (name.as_str(), view)
    });
    safetensors::serialize(views, metadata).expect("views of whole tensors serialise")
}

fn encode(values: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Dtype::F16 => values.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect(),
    }
}

struct Collector {
    path: Vec<String>,
    tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = module_path(&self.path);
        let tensor = param.val();
        let tensor = if is_transposed(&path, D) { tensor.swap_dims(0, 1) } else { tensor };
        let shape = tensor.dims().to_vec();
        let values = tensor.into_data().try_to_vec().expect("parameters are f32");
        self.tensors.push((checkpoint_name(&path), shape, values));
    }
}
