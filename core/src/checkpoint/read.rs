//! From safetensors bytes to a model; a missing, unused or misshapen tensor is an error.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use safetensors::{Dtype as FileDtype, SafeTensors, tensor::TensorView};

use super::names::{OUTPUT_HEAD, TOKEN_EMBEDDING, checkpoint_name, is_transposed, module_path, param_id};

/// Why a checkpoint cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The bytes are not safetensors, or end too early.
    #[error(
        "not a whole safetensors file: {cause}\n  hint: was the download or copy cut short?\n  file: {file}"
    )]
    Malformed {
        /// The library's words.
        cause: String,
        /// Name of the file.
        file: String,
    },
    /// A tensor has other sizes than the config says.
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
    /// Tensors are not there.
    #[error("{} tensors are missing, the first is {}\n  hint: does config.json belong to these weights?", .0.len(), .0[0])]
    Missing(Vec<String>),
    /// Tensors are there that the model has no place for.
    #[error("{} tensors are not used, the first is {}\n  hint: does config.json belong to these weights?", .0.len(), .0[0])]
    Unused(Vec<String>),
    /// Two shards hold the same tensor.
    #[error("{name} is in two shards\n  hint: mixed files of two checkpoints?\n  file: {file}")]
    Doubled {
        /// Name of the tensor.
        name: String,
        /// The second file.
        file: String,
    },
    /// A number format that is not a float.
    #[error(
        "{name} holds {found}, wanted f32, bf16 or f16\n  hint: quantised checkpoints must be exported again"
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
    /// A config that is not the one the tensors imply.
    #[error("{0}")]
    Import(String),
}

/// The tensors of one checkpoint, in one file or many.
#[derive(Debug)]
pub struct Shards<'a> {
    tensors: BTreeMap<String, TensorView<'a>>,
}

impl<'a> Shards<'a> {
    /// Reads the headers of the files; `files` are names (for messages) and bytes.
    pub fn new(files: &[(&str, &'a [u8])]) -> Result<Self, CheckpointError> {
        let mut tensors = BTreeMap::new();
        for (file, bytes) in files {
            let shard = SafeTensors::deserialize(bytes)
                .map_err(|e| CheckpointError::Malformed { cause: e.to_string(), file: (*file).to_owned() })?;
            for (name, view) in shard.tensors() {
                if tensors.insert(name.clone(), view).is_some() {
                    return Err(CheckpointError::Doubled { name, file: (*file).to_owned() });
                }
            }
        }
        Ok(Self { tensors })
    }

    /// Names and sizes, sorted.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.tensors.iter().map(|(name, view)| (name.as_str(), view.shape()))
    }

    /// Sizes of one tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|view| view.shape())
    }

    /// Keeps the tensors for which `rename` gives a name.
    pub fn rename(self, rename: impl Fn(&str) -> Option<String>) -> Self {
        let tensors =
            self.tensors.into_iter().filter_map(|(name, view)| Some((rename(&name)?, view))).collect();
        Self { tensors }
    }

    /// The tensors of both; a name in both is kept from `self`.
    pub fn join(mut self, other: Self) -> Self {
        for (name, view) in other.tensors {
            self.tensors.entry(name).or_insert(view);
        }
        self
    }

    /// Values of one tensor as f32.
    pub fn values(&self, name: &str) -> Option<Result<Vec<f32>, CheckpointError>> {
        self.tensors.get(name).map(|view| to_f32(name, view))
    }
}

/// Sets every parameter of a model, or of something that holds one, from the shards.
pub fn load<M: Module>(model: M, shards: &Shards) -> Result<M, CheckpointError> {
    let (model, missing) = load_present(model, shards)?;
    if missing.is_empty() { Ok(model) } else { Err(CheckpointError::Missing(missing)) }
}

/// Sets the parameters of `model` that the shards hold and names the others.
pub(super) fn load_present<M: Module>(
    model: M,
    shards: &Shards,
) -> Result<(M, Vec<String>), CheckpointError> {
    let mut loader =
        Loader { path: Vec::new(), shards, used: BTreeSet::new(), missing: Vec::new(), error: None };
    let model = model.map(&mut loader);
    if let Some(error) = loader.error {
        return Err(error);
    }
    // A tied head may be written out all the same; it is the embedding, which was asked for.
    let tied_head = |name: &str| name == OUTPUT_HEAD && same_bytes(shards, name, TOKEN_EMBEDDING);
    let unused: Vec<String> = shards
        .tensors
        .keys()
        .filter(|name| !loader.used.contains(*name) && !tied_head(name))
        .cloned()
        .collect();
    // Names that are neither there nor expected come first: they usually explain the missing ones.
    if !unused.is_empty() {
        return Err(CheckpointError::Unused(unused));
    }
    Ok((model, loader.missing))
}

fn same_bytes(shards: &Shards, a: &str, b: &str) -> bool {
    match (shards.tensors.get(a), shards.tensors.get(b)) {
        (Some(a), Some(b)) => a.dtype() == b.dtype() && a.data() == b.data(),
        _ => false,
    }
}

struct Loader<'a> {
    path: Vec<String>,
    shards: &'a Shards<'a>,
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
        let Some(view) = self.shards.tensors.get(&name) else {
            self.missing.push(name);
            return param;
        };
        self.used.insert(name.clone());
        let mut wanted: Vec<usize> = param.lazy_shape().to_vec();
        let transposed = is_transposed(&path, D);
        if transposed {
            wanted.reverse();
        }
        if view.shape() != wanted {
            let found = view.shape().to_vec();
            self.error.get_or_insert(CheckpointError::Shape { name, found, wanted });
            return param;
        }
        match to_f32(&name, view) {
            Ok(values) => {
                let values = if transposed { transpose(&values, wanted[1]) } else { values };
                let data = TensorData::new(values, param.lazy_shape());
                let tensor = Tensor::from_data(data, &param.lazy_device());
                Param::initialized(param_id(&path), tensor).set_require_grad(true)
            }
            Err(error) => {
                self.error.get_or_insert(error);
                param
            }
        }
    }
}

/// The transposed matrix, made on the host: products then need not gather a transposed weight each
/// time, and a browser, which cannot wait for its GPU, need not read it back.
fn transpose(values: &[f32], n_columns: usize) -> Vec<f32> {
    (0..n_columns).flat_map(|column| values.iter().skip(column).step_by(n_columns).copied()).collect()
}

fn to_f32(name: &str, view: &TensorView) -> Result<Vec<f32>, CheckpointError> {
    let bytes = view.data();
    let pairs = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
    let values: Vec<f32> = match view.dtype() {
        FileDtype::F32 => {
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        }
        FileDtype::F16 => pairs().map(|b| half::f16::from_le_bytes(b).to_f32()).collect(),
        FileDtype::BF16 => pairs().map(|b| half::bf16::from_le_bytes(b).to_f32()).collect(),
        other => return Err(CheckpointError::Dtype { name: name.to_owned(), found: format!("{other:?}") }),
    };
    if values.iter().all(|value| value.is_finite()) {
        Ok(values)
    } else {
        Err(CheckpointError::NotFinite { name: name.to_owned() })
    }
}
