//! Writes a model as safetensors bytes.

use std::collections::HashMap;

use burn::module::Module;
use half::f16;
use safetensors::{Dtype as FileDtype, tensor::TensorView};
use serde_json::{Map, Value, json};

use super::names::{
    checkpoint_name, is_head, is_linear, is_pointwise, is_transposed, part_name, scale_name,
};
use crate::params::visit;
use crate::quant::{Bits, LAYOUT, Packed};
use crate::readback::floats_now;

/// Number format of the tensors in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit floats.
    F32,
    /// 16-bit floats with 10 bits of fraction.
    F16,
    /// Linear layers in 8 bits ([`crate::quant`]), the others as [`Self::F16`].
    Q8,
    /// Linear layers in 4 bits, point-wise convolutions in 8, the others as [`Self::F16`].
    Q4,
}

/// Largest file that a web page should fetch, in bytes.
pub const SHARD_BYTES: usize = 32 << 20;

/// Every parameter of a module under its name in `model.safetensors`.
pub fn named_tensors<M: Module>(module: &M) -> Vec<NamedTensor> {
    let mut tensors = Vec::new();
    visit(module, |param| {
        let values = param.values();
        let (shape, values) = match param.shape[..] {
            [rows, columns] if is_transposed(&param.path, 2) => {
                let transposed = values.reshape([rows, columns]).swap_dims(0, 1);
                (vec![columns, rows], floats_now(transposed))
            }
            _ => (param.shape.clone(), floats_now(values)),
        };
        tensors.push((checkpoint_name(&param.path), shape, values));
    });
    tensors
}

/// A tensor for a file: name, sizes, values.
pub type NamedTensor = (String, Vec<usize>, Vec<f32>);

/// A parameter of a module, described as in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Path in the module tree.
    pub path: String,
    /// Name in the file.
    pub name: String,
    /// Sizes in the file.
    pub shape: Vec<usize>,
    /// Whether the module holds the transposed matrix.
    pub is_transposed: bool,
}

/// Lists the parameters of a module without computing their values.
pub(crate) fn parameters<M: Module>(module: &M) -> Vec<Parameter> {
    let mut found = Vec::new();
    visit(module, |param| {
        let (path, mut shape) = (param.path, param.shape);
        let is_transposed = is_transposed(&path, shape.len());
        if is_transposed {
            shape.reverse();
        }
        found.push(Parameter { name: checkpoint_name(&path), path, shape, is_transposed });
    });
    found
}

/// Writes a safetensors file. `metadata` goes into its header.
pub fn to_safetensors(
    tensors: &[NamedTensor],
    dtype: Dtype,
    metadata: Option<HashMap<String, String>>,
) -> Vec<u8> {
    let encoded: Vec<Encoded> = tensors.iter().flat_map(|tensor| encode(tensor, dtype)).collect();
    serialize(&encoded, dtype, metadata)
}

/// Names and contents of a model's files.
///
/// One `model.safetensors`, or several files and their index if it would exceed `limit_bytes`.
pub fn to_shards(
    tensors: &[NamedTensor],
    dtype: Dtype,
    limit_bytes: usize,
) -> Vec<(String, Vec<u8>)> {
    let mut shards: Vec<Vec<Encoded>> = Vec::new();
    let mut room = 0;
    for part in
        tensors.iter().flat_map(|tensor| encode(tensor, dtype)).flat_map(|one| one.cut(limit_bytes))
    {
        if part.file_bytes() > room {
            shards.push(Vec::new());
            room = limit_bytes.saturating_sub(HEADER_BYTES);
        }
        room = room.saturating_sub(part.file_bytes());
        shards.last_mut().expect("a shard was begun").push(part);
    }
    if let [only] = shards.as_slice() {
        return vec![("model.safetensors".into(), serialize(only, dtype, None))];
    }
    let file = |idx: usize| format!("model-{:05}-of-{:05}.safetensors", idx + 1, shards.len());
    let mut files: Vec<(String, Vec<u8>)> = shards
        .iter()
        .enumerate()
        .map(|(idx, shard)| (file(idx), serialize(shard, dtype, None)))
        .collect();
    let weight_map: Map<String, Value> = shards
        .iter()
        .enumerate()
        .flat_map(|(idx, shard)| shard.iter().map(move |one| (one.name.clone(), idx)))
        .map(|(name, idx)| (name, file(idx).into()))
        .collect();
    let total_size: usize = shards.iter().flatten().map(|one| one.bytes.len()).sum();
    let index = json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
    files.push((
        "model.safetensors.index.json".into(),
        serde_json::to_vec_pretty(&index).expect("strings and a number are JSON"),
    ));
    files
}

/// Upper bound for the size of a file's header without its tensors' entries.
const HEADER_BYTES: usize = 512;
/// Upper bound for the size of a tensor's header entry without its name.
const ENTRY_BYTES: usize = 160;

/// A tensor encoded for a file.
struct Encoded {
    name: String,
    dtype: FileDtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Encoded {
    fn file_bytes(&self) -> usize {
        self.bytes.len() + self.name.len() + ENTRY_BYTES
    }

    /// Splits a tensor along its first axis into parts that fit into a file. Returns it whole if it
    /// fits.
    fn cut(self, limit_bytes: usize) -> Vec<Self> {
        let n_rows = self.shape.first().copied().unwrap_or(1).max(1);
        let row_bytes = self.bytes.len() / n_rows;
        let room = limit_bytes.saturating_sub(HEADER_BYTES + ENTRY_BYTES + self.name.len() + 32);
        let rows_per_part = (room / row_bytes.max(1)).max(1);
        if n_rows <= rows_per_part {
            return vec![self];
        }
        let n_parts = n_rows.div_ceil(rows_per_part);
        let part = |(idx, bytes): (usize, &[u8])| Self {
            name: part_name(&self.name, idx + 1, n_parts),
            dtype: self.dtype,
            shape: [&[bytes.len() / row_bytes], &self.shape[1..]].concat(),
            bytes: bytes.to_vec(),
        };
        self.bytes.chunks(rows_per_part * row_bytes).enumerate().map(part).collect()
    }
}

/// Encodes a tensor. A packed matrix becomes two tensors: codes and scales.
fn encode((name, shape, values): &NamedTensor, dtype: Dtype) -> Vec<Encoded> {
    let bits = match dtype {
        Dtype::Q4 if !is_pointwise(name) && !is_head(name) => Some(Bits::Four),
        Dtype::Q8 | Dtype::Q4 => Some(Bits::Eight),
        Dtype::F32 | Dtype::F16 => None,
    };
    match (bits, shape.as_slice()) {
        (Some(bits), &[_, n_columns]) if is_linear(name, 2) => {
            let packed = Packed::pack(values, n_columns, bits);
            let ([n_rows, _], n_blocks) = (packed.shape(), packed.blocks_per_row());
            let file_dtype = match bits {
                Bits::Eight => FileDtype::I8,
                Bits::Four => FileDtype::U8,
            };
            let codes = Encoded {
                name: name.clone(),
                dtype: file_dtype,
                shape: vec![n_rows, n_blocks, bits.block_bytes()],
                bytes: packed.codes().to_vec(),
            };
            let scales = Encoded {
                name: scale_name(name),
                dtype: FileDtype::F16,
                shape: vec![n_rows, n_blocks],
                bytes: packed.scales().iter().flat_map(|scale| scale.to_le_bytes()).collect(),
            };
            vec![codes, scales]
        }
        _ => {
            let (file_dtype, bytes) = match dtype {
                Dtype::F32 => {
                    (FileDtype::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect())
                }
                Dtype::F16 | Dtype::Q8 | Dtype::Q4 => (
                    FileDtype::F16,
                    values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
                ),
            };
            vec![Encoded { name: name.clone(), dtype: file_dtype, shape: shape.clone(), bytes }]
        }
    }
}

fn serialize(
    tensors: &[Encoded],
    dtype: Dtype,
    metadata: Option<HashMap<String, String>>,
) -> Vec<u8> {
    let metadata = match dtype {
        Dtype::F32 | Dtype::F16 => metadata,
        Dtype::Q8 | Dtype::Q4 => {
            let mut with_layout = metadata.unwrap_or_default();
            with_layout.insert("layout".into(), LAYOUT.into());
            Some(with_layout)
        }
    };
    let views = tensors.iter().map(|one| {
        let view = TensorView::new(one.dtype, one.shape.clone(), &one.bytes)
            .expect("the bytes were made from the shape");
        (one.name.as_str(), view)
    });
    safetensors::serialize(views, metadata).expect("views of whole tensors serialise")
}
