//! The tensors of one checkpoint, in one file or many, before they are a model.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::Device;
use half::f16;
use safetensors::{Dtype as FileDtype, SafeTensors, tensor::TensorView};

use super::names::{is_linear, part_name, part_of, scale_name};
use super::read::CheckpointError;
use crate::quant::{BLOCK, Bits, LAYOUT, Packed, keeps_f16, stays_packed};

/// The tensors of one checkpoint, in one file or many.
#[derive(Debug)]
pub struct Shards<'a> {
    tensors: BTreeMap<String, Stored<'a>>,
}

/// A tensor in the bytes of its files.
#[derive(Debug)]
pub(super) struct Stored<'a> {
    dtype: FileDtype,
    shape: Vec<usize>,
    /// One after the other along the first axis.
    parts: Vec<&'a [u8]>,
}

impl<'a> Shards<'a> {
    /// Reads the headers of the files; `files` are names (for messages) and bytes.
    pub fn new(files: &[(&str, &'a [u8])]) -> Result<Self, CheckpointError> {
        let mut tensors = BTreeMap::new();
        for (file, bytes) in files {
            let malformed = |e: safetensors::SafeTensorError| CheckpointError::Malformed {
                cause: e.to_string(),
                file: (*file).to_owned(),
            };
            let shard = SafeTensors::deserialize(bytes).map_err(malformed)?;
            let (_, header) = SafeTensors::read_metadata(bytes).map_err(malformed)?;
            let layout = header.metadata().as_ref().and_then(|metadata| metadata.get("layout"));
            for (name, view) in shard.tensors() {
                if bits_of(view.dtype()).is_some() && layout.is_none_or(|layout| layout != LAYOUT) {
                    let found = layout.cloned().unwrap_or_else(|| "none".into());
                    return Err(CheckpointError::Layout { name, found, file: (*file).to_owned() });
                }
                if tensors.insert(name.clone(), Stored::new(view)).is_some() {
                    return Err(CheckpointError::Doubled { name, file: (*file).to_owned() });
                }
            }
        }
        Ok(Self { tensors: join_parts(tensors)? })
    }

    /// Names and sizes, sorted.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.tensors.iter().map(|(name, stored)| (name.as_str(), stored.shape.as_slice()))
    }

    /// Sizes of one tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|stored| stored.shape.as_slice())
    }

    /// The tensor that is largest in the memory of a device on which the model is to run, and its bytes there.
    pub fn largest(&self, device: &Device) -> Option<(&str, u64)> {
        let (stays_packed, keeps_f16) = (stays_packed(device), keeps_f16(device));
        let size_bytes = |name: &str, stored: &Stored| -> u64 {
            let in_file: usize = stored.parts.iter().map(|part| part.len()).sum();
            let n_floats = match bits_of(stored.dtype) {
                Some(_) if stays_packed => return in_file as u64,
                Some(bits) => in_file / bits.block_bytes() * BLOCK,
                None => stored.shape.iter().product(),
            };
            let is_narrow =
                keeps_f16 && stored.dtype == FileDtype::F16 && is_linear(name, stored.shape.len());
            n_floats as u64 * if is_narrow { 2 } else { 4 }
        };
        let sizes = self.tensors.iter().map(|(name, stored)| (name.as_str(), size_bytes(name, stored)));
        sizes.max_by_key(|(_, size_bytes)| *size_bytes)
    }

    /// Keeps the tensors for which `rename` gives a name.
    pub fn rename(self, rename: impl Fn(&str) -> Option<String>) -> Self {
        let tensors =
            self.tensors.into_iter().filter_map(|(name, stored)| Some((rename(&name)?, stored))).collect();
        Self { tensors }
    }

    /// Point-wise convolutions `[out, in, 1, 1]` as matrices `[out, in]`.
    pub(super) fn flatten_pointwise(mut self) -> Self {
        for stored in self.tensors.values_mut() {
            if let [_, _, 1, 1] = stored.shape[..] {
                stored.shape.truncate(2);
            }
        }
        self
    }

    /// The tensors of both; a name in both is kept from `self`.
    pub fn join(mut self, other: Self) -> Self {
        for (name, stored) in other.tensors {
            self.tensors.entry(name).or_insert(stored);
        }
        self
    }

    /// Values of one tensor as f32.
    pub fn values(&self, name: &str) -> Option<Result<Vec<f32>, CheckpointError>> {
        self.tensors.get(name).map(|stored| stored.to_f32(name))
    }

    /// Whether a tensor of this name is there, in f16.
    pub(super) fn is_f16(&self, name: &str) -> bool {
        self.tensors.get(name).is_some_and(|stored| stored.dtype == FileDtype::F16)
    }

    /// The bits of a packed matrix; absent where the tensor is wide or not there.
    pub(super) fn bits(&self, name: &str) -> Option<Bits> {
        self.tensors.get(name).and_then(|stored| bits_of(stored.dtype))
    }

    /// The matrix `[out, in]` of this name, which [`Self::bits`] says is packed.
    pub(super) fn packed(
        &self,
        name: &str,
        shape: [usize; 2],
        bits: Bits,
    ) -> Result<Packed, CheckpointError> {
        let [n_rows, n_columns] = shape;
        let n_blocks = n_columns.div_ceil(BLOCK);
        let sized = |name: &str, wanted: &[usize]| {
            let stored =
                self.tensors.get(name).ok_or_else(|| CheckpointError::Missing(vec![name.to_owned()]))?;
            match stored.shape == wanted {
                true => Ok(stored),
                false => Err(CheckpointError::Shape {
                    name: name.to_owned(),
                    found: stored.shape.clone(),
                    wanted: wanted.to_vec(),
                }),
            }
        };
        let codes = sized(name, &[n_rows, n_blocks, bits.block_bytes()])?.bytes().into_owned();
        let scale_name = scale_name(name);
        let scales = sized(&scale_name, &[n_rows, n_blocks])?;
        if scales.dtype != FileDtype::F16 {
            return Err(CheckpointError::Dtype { name: scale_name, found: format!("{:?}", scales.dtype) });
        }
        let scales = scales.bytes().chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]])).collect();
        Packed::new(bits, shape, codes, scales)
            .map_err(|cause| CheckpointError::Packed { name: name.to_owned(), cause })
    }

    /// Names of the tensors that are not among `used`.
    pub(super) fn names_without(&self, used: &BTreeSet<String>) -> Vec<String> {
        self.tensors.keys().filter(|name| !used.contains(*name)).cloned().collect()
    }

    /// Whether both are there and the same to the bit.
    pub(super) fn same_bytes(&self, a: &str, b: &str) -> bool {
        match (self.tensors.get(a), self.tensors.get(b)) {
            (Some(a), Some(b)) => a.dtype == b.dtype && a.bytes() == b.bytes(),
            _ => false,
        }
    }
}

impl<'a> Stored<'a> {
    fn new(view: TensorView<'a>) -> Self {
        Self { dtype: view.dtype(), shape: view.shape().to_vec(), parts: vec![view.data()] }
    }

    fn bytes(&self) -> Cow<'a, [u8]> {
        match self.parts.as_slice() {
            [only] => Cow::Borrowed(only),
            parts => Cow::Owned(parts.concat()),
        }
    }

    fn to_f32(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let bytes = self.bytes();
        let pairs = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        let values: Vec<f32> = match self.dtype {
            FileDtype::F32 => {
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            FileDtype::F16 => pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            FileDtype::BF16 => pairs().map(|b| half::bf16::from_le_bytes(b).to_f32()).collect(),
            other => {
                return Err(CheckpointError::Dtype { name: name.to_owned(), found: format!("{other:?}") });
            }
        };
        if values.iter().all(|value| value.is_finite()) {
            Ok(values)
        } else {
            Err(CheckpointError::NotFinite { name: name.to_owned() })
        }
    }
}

fn bits_of(dtype: FileDtype) -> Option<Bits> {
    match dtype {
        FileDtype::I8 => Some(Bits::Eight),
        FileDtype::U8 => Some(Bits::Four),
        _ => None,
    }
}

/// Puts the parts of cut tensors together again.
fn join_parts(tensors: BTreeMap<String, Stored>) -> Result<BTreeMap<String, Stored>, CheckpointError> {
    let (mut cut, mut whole): (BTreeMap<_, _>, BTreeMap<_, _>) =
        tensors.into_iter().partition(|(name, _)| part_of(name).is_some());
    let bases: BTreeSet<(String, usize)> = cut
        .keys()
        .filter_map(|name| part_of(name))
        .map(|(base, _, n_parts)| (base.to_owned(), n_parts))
        .collect();
    for (base, n_parts) in bases {
        let mut joined: Option<Stored> = None;
        for part in 1..=n_parts {
            let name = part_name(&base, part, n_parts);
            let stored = cut.remove(&name).ok_or_else(|| CheckpointError::Missing(vec![name.clone()]))?;
            match &mut joined {
                None => joined = Some(stored),
                Some(joined) => {
                    let fits = joined.dtype == stored.dtype
                        && !joined.shape.is_empty()
                        && joined.shape.get(1..) == stored.shape.get(1..);
                    if !fits {
                        let (found, wanted) = (stored.shape, joined.shape.clone());
                        return Err(CheckpointError::Shape { name, found, wanted });
                    }
                    joined.shape[0] += stored.shape[0];
                    joined.parts.extend(stored.parts);
                }
            }
        }
        if let Some(joined) = joined {
            whole.insert(base, joined);
        }
    }
    match cut.into_keys().next() {
        None => Ok(whole),
        Some(name) => Err(CheckpointError::Unused(vec![name])),
    }
}
