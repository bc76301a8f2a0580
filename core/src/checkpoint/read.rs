//! Builds a model from safetensors bytes. A missing, unused or misshapen tensor is an error.

use std::collections::BTreeSet;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Tensor, TensorData};
use half::f16;

use super::names::{
    OUTPUT_HEAD, TOKEN_EMBEDDING, checkpoint_name, is_transposed, module_path, param_id, scale_name,
};
use super::shards::Shards;
use crate::model::MmGem;
use crate::quant::{LAYOUT, PackedError, keeps_f16};

/// Why a checkpoint cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The bytes are not safetensors, or the file is truncated.
    #[error(
        "not a whole safetensors file: {cause}\n  hint: was the download or copy cut short?\n  file: {file}"
    )]
    Malformed {
        /// Message of the safetensors library.
        cause: String,
        /// Name of the file.
        file: String,
    },
    /// The sizes of a tensor do not match the config.
    #[error(
        "{name} is {found:?} in the checkpoint but the model wants {wanted:?}\n  hint: does config.json belong to these weights?"
    )]
    Shape {
        /// Name in the file.
        name: String,
        /// Sizes in the file.
        found: Vec<usize>,
        /// Sizes that follow from the config.
        wanted: Vec<usize>,
    },
    /// Tensors that the model needs are missing.
    #[error("{} tensors are missing, the first is {}\n  hint: does config.json belong to these weights?", .0.len(), .0[0])]
    Missing(Vec<String>),
    /// The checkpoint has tensors that the model does not use.
    #[error("{} tensors are not used, the first is {}\n  hint: does config.json belong to these weights?", .0.len(), .0[0])]
    Unused(Vec<String>),
    /// Two shards have the same tensor.
    #[error("{name} is in two shards\n  hint: mixed files of two checkpoints?\n  file: {file}")]
    Doubled {
        /// Name of the tensor.
        name: String,
        /// The second file.
        file: String,
    },
    /// The number format is not supported for this tensor.
    #[error(
        "{name} holds {found}, wanted f32, bf16 or f16\n  hint: only linear layers may be packed; convert the file with `mmgem export`"
    )]
    Dtype {
        /// Name of the tensor.
        name: String,
        /// Its number format.
        found: String,
    },
    /// A value is NaN or infinite.
    #[error(
        "{name} holds a value that is not finite\n  hint: the run that wrote it had diverged; take an earlier checkpoint"
    )]
    NotFinite {
        /// Name of the tensor.
        name: String,
    },
    /// Packed matrices of another program, or of a later version of this one.
    #[error(
        "{name} holds whole numbers in layout {found}, wanted layout {LAYOUT}\n  hint: take the original weights and run `mmgem export --dtype q8` or q4\n  file: {file}"
    )]
    Layout {
        /// Name of the tensor.
        name: String,
        /// Value of `layout` in the file's header.
        found: String,
        /// Name of the file.
        file: String,
    },
    /// A packed matrix is invalid.
    #[error("{name} is damaged: {cause}\n  hint: export the model again")]
    Packed {
        /// Name of the tensor.
        name: String,
        /// Reason.
        cause: PackedError,
    },
    /// A checkpoint of another program that cannot be imported.
    #[error("{0}")]
    Import(String),
    /// A model that cannot be written in another program's layout.
    #[error("{0}")]
    Export(String),
}

/// Sets every parameter of a model, or of a module that contains one, from the shards.
pub fn load<M: Module>(model: M, shards: &Shards) -> Result<M, CheckpointError> {
    let (model, missing) = load_present(model, shards)?;
    if missing.is_empty() { Ok(model) } else { Err(CheckpointError::Missing(missing)) }
}

/// Sets every parameter, and keeps compact weights compact in memory.
///
/// Packed matrices of linear layers stay packed. Matrices in f16 stay f16 on GPUs that support f16.
/// Use this only on a device that supports it ([`crate::quant::stays_packed`]), and not for
/// training.
pub fn load_to_run(mut model: MmGem, shards: &Shards) -> Result<MmGem, CheckpointError> {
    let mut used = BTreeSet::new();
    let mut problem = None;
    model.for_each_linear(&mut |path, linear| {
        let name = checkpoint_name(&format!("{path}.weight"));
        let Some(bits) = shards.bits(&name) else { return };
        used.extend([scale_name(&name), name.clone()]);
        match shards.packed(&name, linear.shape(), bits) {
            Ok(packed) => linear.set_packed(packed),
            Err(error) => _ = problem.get_or_insert(error),
        }
    });
    if let Some(error) = problem {
        return Err(error);
    }
    let (model, missing) = load_rest(model, shards, used, true)?;
    if missing.is_empty() { Ok(model) } else { Err(CheckpointError::Missing(missing)) }
}

/// Sets the parameters of `model` that the shards contain, and returns the names of the others.
pub(super) fn load_present<M: Module>(
    model: M,
    shards: &Shards,
) -> Result<(M, Vec<String>), CheckpointError> {
    load_rest(model, shards, BTreeSet::new(), false)
}

/// Like [`load_present`], for a model whose tensors in `used` are already set.
fn load_rest<M: Module>(
    model: M,
    shards: &Shards,
    used: BTreeSet<String>,
    to_run: bool,
) -> Result<(M, Vec<String>), CheckpointError> {
    let mut loader =
        Loader { path: Vec::new(), shards, to_run, used, missing: Vec::new(), error: None };
    let model = model.map(&mut loader);
    if let Some(error) = loader.error {
        return Err(error);
    }
    // A checkpoint may store a tied head too. It equals the embedding, which is loaded.
    if shards.same_bytes(OUTPUT_HEAD, TOKEN_EMBEDDING) {
        loader.used.insert(OUTPUT_HEAD.to_owned());
    }
    let unused = shards.names_without(&loader.used);
    // Report unexpected names first: they usually explain the missing ones.
    if !unused.is_empty() {
        return Err(CheckpointError::Unused(unused));
    }
    Ok((model, loader.missing))
}

struct Loader<'a> {
    path: Vec<String>,
    shards: &'a Shards<'a>,
    to_run: bool,
    used: BTreeSet<String>,
    missing: Vec<String>,
    error: Option<CheckpointError>,
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let path = module_path(&self.path);
        let name = checkpoint_name(&path);
        if self.shards.shape(&name).is_none() {
            self.missing.push(name);
            return param;
        }
        let mut wanted: Vec<usize> = param.lazy_shape().to_vec();
        let transposed = is_transposed(&path, D);
        if transposed {
            wanted.reverse();
        }
        match self.values(&name, &wanted, transposed) {
            Ok(values) => {
                let values = if transposed { transpose(&values, wanted[1]) } else { values };
                let (shape, device) = (param.lazy_shape(), param.lazy_device());
                let tensor =
                    if self.to_run && transposed && self.shards.is_f16(&name) && keeps_f16(&device)
                    {
                        let values: Vec<f16> = values.into_iter().map(f16::from_f32).collect();
                        Tensor::from_data(TensorData::new(values, shape), (&device, DType::F16))
                    } else {
                        Tensor::from_data(TensorData::new(values, shape), &device)
                    };
                Param::initialized(param_id(&path), tensor).set_require_grad(true)
            }
            Err(error) => {
                self.error.get_or_insert(error);
                param
            }
        }
    }
}

impl Loader<'_> {
    /// Values of an existing tensor in the file's layout, unpacked if it is packed.
    fn values(
        &mut self,
        name: &str,
        wanted: &[usize],
        is_linear: bool,
    ) -> Result<Vec<f32>, CheckpointError> {
        self.used.insert(name.to_owned());
        if let (Some(bits), &[n_rows, n_columns], true) =
            (self.shards.bits(name), wanted, is_linear)
        {
            self.used.insert(scale_name(name));
            return Ok(self.shards.packed(name, [n_rows, n_columns], bits)?.widen());
        }
        match self.shards.shape(name) {
            Some(shape) if shape != wanted => Err(CheckpointError::Shape {
                name: name.to_owned(),
                found: shape.to_vec(),
                wanted: wanted.to_vec(),
            }),
            _ => self
                .shards
                .values(name)
                .unwrap_or_else(|| Err(CheckpointError::Missing(vec![name.to_owned()]))),
        }
    }
}

/// Transposes a matrix on the host.
///
/// Matrix products then need not gather a transposed weight each time. A browser cannot block on
/// its GPU, so it could not read the matrix back.
pub(crate) fn transpose(values: &[f32], n_columns: usize) -> Vec<f32> {
    (0..n_columns)
        .flat_map(|column| values.iter().skip(column).step_by(n_columns).copied())
        .collect()
}
